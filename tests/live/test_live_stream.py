"""mien.stream: the rows of a file while it plays, delay, late frames, who leaves, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import mien
from mien.errors import ConfigError
from mien.inference import InputFeature
from mien.live.lateness import Lateness
from mien.live.pictures import LivePictures
from mien.live.predictor import LiveStream, Row, _windows
from mien.live.reader import Picture, Sound, read_file
from mien.media.audio import load
from mien.media.video import frames
from mien.timeline.columns import schema

RATE = 16_000


@pytest.fixture(scope="module")
def pieces(clip: Path) -> list[Picture | Sound]:
    return list(read_file(clip))


@pytest.fixture(scope="module")
def starter() -> Callable[..., LiveStream]:
    """Makes streams of the starter that share its networks."""
    model = mien.load("starter").model  # type: ignore[attr-defined]

    def make(**settings: object) -> LiveStream:
        return LiveStream(model, name="starter", **{"late_s": None, **settings})  # type: ignore[arg-type]

    return make


def play(stream: LiveStream, pieces: list[Picture | Sound]) -> list[tuple[Row, float]]:
    """Rows, and the latest time of a piece when each came."""
    came, now = [], 0.0
    for piece in pieces:
        if isinstance(piece, Picture):
            now = max(now, piece.time_s)
            rows = stream.frame(piece.image, piece.time_s)
        else:
            now = max(now, piece.time_s + len(piece.samples) / piece.rate)
            rows = stream.sound(piece.samples, piece.rate, piece.time_s)
        came += [(row, now) for row in rows]
    return came + [(row, now) for row in stream.finish()]


def table(came: list[tuple[Row, float]]) -> pl.DataFrame:
    return pl.DataFrame([row for row, _ in came], schema=schema())


def test_without_sound_the_rows_are_those_of_the_file(
    clip: Path, pieces: list[Picture | Sound], starter: Callable[..., LiveStream]
) -> None:
    whole = mien.load("starter").predict(clip, voice=False, face_rate_hz=1000).table  # live, every frame is read
    live = table(play(starter(), [p for p in pieces if isinstance(p, Picture)]))
    assert live.select("frame", "subject", "evidence", "expression", "uncertain").equals(
        whole.select("frame", "subject", "evidence", "expression", "uncertain")
    )
    numbers = [name for name, kind in whole.schema.items() if kind.is_float()]
    np.testing.assert_allclose(
        live[numbers].to_numpy().astype(float), whole[numbers].to_numpy().astype(float), atol=1e-5, equal_nan=True
    )


@pytest.mark.parametrize("delay_s", [0.3, 1.0])
def test_each_row_comes_once_in_order_and_in_time(
    clip: Path, pieces: list[Picture | Sound], starter: Callable[..., LiveStream], delay_s: float
) -> None:
    came = play(starter(delay_s=delay_s), pieces)
    live, whole = table(came), mien.predict(clip).table
    assert live["frame"].to_list() == whole["frame"].to_list()
    assert live["time_s"].is_sorted()
    ages = [now - row["time_s"] for row, now in came if now < 2.9]
    assert max(ages) <= delay_s + 0.05, "and 50 ms of sound that come at once"
    seen = live["evidence"].is_in(["face", "both"])
    assert (seen == whole["evidence"].is_in(["face", "both"])).sum() > 0.88 * len(live)
    both = live["expression"].is_not_null() & whole["expression"].is_not_null()
    assert (live["expression"] == whole["expression"]).filter(both).sum() > 0.7 * both.sum()
    assert sorted(came[0][0]) == sorted(schema())


def test_sound_alone_gives_ten_rows_a_second(clip: Path, starter: Callable[..., LiveStream]) -> None:
    start_s, samples = load(clip)
    stream = starter()
    sounds: list[Picture | Sound] = [
        Sound(start_s + k / RATE, samples[k : k + 800], RATE) for k in range(0, len(samples), 800)
    ]
    live, whole = table(play(stream, sounds)), mien.predict(clip, face=False).table
    np.testing.assert_allclose(live["time_s"], np.arange(len(live)) / 10, atol=1e-9)
    assert len(live) >= 29
    assert stream.faces == {}
    assert live["evidence"].is_in(["voice", "none"]).all()
    assert (live["evidence"] == "voice").any()
    assert whole.columns == live.columns


def test_any_zero_of_the_clock_gives_the_same_rows(
    pieces: list[Picture | Sound], starter: Callable[..., LiveStream]
) -> None:
    shift = 1_700_000_000.0  # a whole number of seconds of the token grid: seconds since 1970
    moved = [replace(piece, time_s=piece.time_s + shift) for piece in pieces]
    here, there = table(play(starter(), pieces)), table(play(starter(), moved))
    np.testing.assert_allclose(there["time_s"] - shift, here["time_s"], atol=1e-6)
    assert here["frame"].equals(there["frame"])
    assert here["evidence"].equals(there["evidence"])
    np.testing.assert_allclose(here["p_happiness"], there["p_happiness"], atol=1e-3)


def test_boxes_of_the_latest_frame_are_there_for_drawing(
    pieces: list[Picture | Sound], starter: Callable[..., LiveStream]
) -> None:
    stream = starter()
    came = []
    for piece in pieces[:200]:
        if isinstance(piece, Picture) and piece.time_s < 1.2:
            came += stream.frame(piece.image, piece.time_s)
    assert list(stream.faces) == [0]
    x1, y1, x2, y2 = stream.faces[0]
    rows = [*came, *stream.finish()]
    np.testing.assert_allclose([rows[-1][name] for name in ("x1", "y1", "x2", "y2")], [x1, y1, x2, y2], atol=1e-3)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_slow_computer_drops_frames_and_their_numbers_are_missing(
    pieces: list[Picture | Sound], starter: Callable[..., LiveStream]
) -> None:
    clock = Clock()
    stream = starter(late_s=0.3, clock=clock)
    rows = []
    for piece in [p for p in pieces if isinstance(p, Picture)][:60]:
        rows += stream.frame(piece.image, piece.time_s)
        # Each frame takes 33 ms of the clock; the 20th takes half a second more, which later ones make up for.
        clock.now += 0.5 if stream.frames == 20 else 0.0 if stream.dropped and stream.frames < 35 else 1 / 30
    rows += stream.finish()
    assert 0 < stream.dropped < 15
    assert stream.frames == 60
    kept = [row["frame"] for row in rows]
    assert len(kept) == 60 - stream.dropped
    assert set(range(60)) - set(kept) == set(range(20, 20 + stream.dropped)), "a gap, and no new numbers"


def test_a_computer_that_is_always_too_slow_still_reads_two_frames_a_second(
    starter: Callable[..., LiveStream],
) -> None:
    clock = Clock()
    stream, image = starter(late_s=0.3, clock=clock), np.zeros((36, 64, 3), np.uint8)
    for k in range(90):
        stream.frame(image, k / 30)
        clock.now += 1.0
    assert 4 <= stream.frames - stream.dropped <= 8, "each frame comes 30 times too late"


def test_lateness_forgives_a_slow_clock_and_one_that_is_set() -> None:
    clock = Clock()
    lateness = Lateness(0.3, clock)
    for k in range(100_000):  # a camera's clock that loses 50 ms in 1000 s
        clock.now = k / 10
        assert not lateness.is_late(clock.now * (1 - 5e-5))
    assert not lateness.is_late(5.0), "the camera was switched off and on: its clock begins anew"
    clock.now += 1
    assert not lateness.is_late(6.0)
    clock.now += 1
    assert lateness.is_late(6.2)
    assert not Lateness(None, clock).is_late(-1e6)


def test_who_leaves_keeps_rows_without_an_estimate_and_speech_is_not_theirs(
    pieces: list[Picture | Sound], starter: Callable[..., LiveStream], shared: Path
) -> None:
    speech = load(sorted((shared / "emodb").glob("*.wav"))[0])[1]
    stream, came = starter(), []
    shown = [p for p in pieces if isinstance(p, Picture) and p.time_s < 1.0]
    for piece in shown:
        came += stream.frame(piece.image, piece.time_s)
    empty = np.full_like(shown[0].image, 90)
    for k in range(40):  # 64 s at a frame each 1.6 s: longer than what is kept
        came += stream.frame(empty, 1.0 + 1.6 * k)
    last_s = 1.0 + 1.6 * 39
    came += stream.sound(speech[: 2 * RATE], RATE, last_s)
    for k in range(20):
        came += stream.frame(empty, last_s + 0.1 * (k + 1))
    came += stream.finish()
    rows = [row for row in came if row["time_s"] > 2.0]
    assert {row["subject"] for row in rows} == {0}
    assert len([row for row in rows if row["frame"] is not None]) == 40 + 20 - 1, "one row for each frame"
    assert {row["evidence"] for row in rows} == {"none"}
    assert {row["expression"] for row in rows} == {None}
    assert {row["speech"] for row in rows} == {None, "other"}


def test_memory_holds_the_last_window_only(pieces: list[Picture | Sound], starter: Callable[..., LiveStream]) -> None:
    stream = starter()
    encoders = stream._pictures._encoders
    pictures, shown = LivePictures(encoders), [p.image for p in pieces if isinstance(p, Picture)][:10]
    sizes = []
    for k in range(400):
        pictures.add(k, shown[k % 10], k / 30)
        if k % 30 == 29:
            faces = pictures.faces(max(0.0, k // 30 - 4.0))
            (subject,) = faces.subjects
            arrays = [subject.rows, subject.boxes, subject.geometry, subject.quality, *subject.features.values()]
            sizes.append((len(faces.times), *map(len, arrays)))
            assert subject.rows.array()[-1] == len(faces.times) - 1
            number, time_s = pictures.frame(len(faces.times) - 1)
            assert number == k
            assert time_s == pytest.approx(k / 30)
    assert (np.array(sizes[6:]) <= np.array(sizes[5]) + 31).all()
    assert max(sizes[-1]) <= 5 * 30 + 31


def test_dropping_frames_leaves_the_features_of_the_rest(clip: Path, starter: Callable[..., LiveStream]) -> None:
    encoders = starter()._pictures._encoders
    whole, part = LivePictures(encoders), LivePictures(encoders)
    for frame in frames(clip):
        for pictures in (whole, part):
            pictures.add(frame.index, frame.image, frame.time_s)
        if frame.index % 15 == 14:
            part.faces(max(0.0, frame.time_s - 1.0))
    all_faces, rest = whole.faces(0.0, is_end=True), part.faces(2.0, is_end=True)
    first = len(all_faces.times) - len(rest.times)
    np.testing.assert_allclose(all_faces.times[first:] - 2.0, rest.times, atol=1e-9)
    np.testing.assert_allclose(all_faces.track(0).boxes[first:], rest.track(0).boxes)
    np.testing.assert_allclose(all_faces.mouth_opening(0)[first:], rest.mouth_opening(0), atol=1e-6)
    ours, theirs = rest.stream(0), all_faces.stream(0)
    late = theirs.times >= 2.0
    np.testing.assert_allclose(ours.values, theirs.values[late], atol=1e-4)
    assert (ours.valid == theirs.valid[late]).all()
    assert ours.valid.any()


def hub_folders() -> list[str]:
    return os.environ.get("MIEN_HUB", "").split(os.pathsep)


def model_of(rate_hz: float, window_s: float, **parts: object) -> SimpleNamespace:
    return SimpleNamespace(settings=SimpleNamespace(rate_hz=rate_hz, window_s=window_s), **parts)


def test_the_window_is_that_of_the_longest_part_and_begins_at_whole_tokens_of_all() -> None:
    voice = model_of(6.25, 48.0)
    assert _windows(model_of(12.0, 4.0, stages={"voice": voice})) == (48.0, 4.0)
    assert _windows(model_of(10.0, 30.0, members=(model_of(12.5, 4.0), voice))) == (48.0, 4.0)
    assert _windows(model_of(10.0, 4.0)) == (16.0, 1.0)
    assert _windows(model_of(30000 / 1001, 20.0)) == (20.0, 1.0)


def test_another_face_network_runs_with_the_voice_of_the_starter(pieces: list[Picture | Sound]) -> None:
    if not any((Path(folder) / "fer-mini-xception.onnx").is_file() for folder in hub_folders()):
        pytest.skip("the network fer is not here")
    with mien.stream("fer", late_s=None) as stream:
        rows = [row for row, _ in play(stream, pieces[:60])]
    assert stream._context_s == 48.0
    assert {row["evidence"] for row in rows} >= {"face"}
    assert all(row["valence"] is None or abs(row["valence"]) <= 1 for row in rows)
    assert any(row["expression"] for row in rows)


def test_an_error_of_the_caller_computes_no_more_rows(
    pieces: list[Picture | Sound], starter: Callable[..., LiveStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = starter()
    monkeypatch.setattr(stream, "_rows", lambda *_, **__: pytest.fail("rows were computed"))
    with pytest.raises(KeyError), stream:
        raise KeyError
    with pytest.raises(ValueError, match="finished"):
        stream.sound(np.zeros(160, np.float32), RATE, 0.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"delay_s": 0.0}, "delay_s must be in [0.1, 30], got 0.0"),
        ({"delay_s": 31.0}, "delay_s must be in [0.1, 30]"),
        ({"late_s": 0.0}, "late_s must be above 0"),
        ({"max_faces": 0}, "max_faces must be at least 1"),
        ({"min_quality": 1.5}, "min_quality must be in [0, 1]"),
    ],
)
def test_settings_out_of_range_are_refused(
    starter: Callable[..., LiveStream], settings: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        starter(**settings)


def test_input_of_another_form_is_refused(starter: Callable[..., LiveStream]) -> None:
    stream = starter()
    image, sound = np.zeros((48, 64, 3), np.uint8), np.zeros(160, np.float32)
    for bad in (image[..., 0], image.astype(np.float32), image[:0]):
        with pytest.raises(ValueError, match="a frame must be"):
            stream.frame(bad, 0.0)
    for wrong in (sound.astype(np.int16), sound[None, None]):
        with pytest.raises(ValueError, match="sound must be"):
            stream.sound(wrong, RATE, 0.0)
    with pytest.raises(ValueError, match="rate must be"):
        stream.sound(sound, 0, 0.0)
    with pytest.raises(ValueError, match="time_s must be a number"):
        stream.frame(image, float("nan"))
    assert stream.frame(image, 1.0) == []
    assert stream.frame(image, 1.0) == []
    assert (stream.frames, stream.dropped) == (2, 1), "a frame at the same time again"
    stream.finish()
    assert stream.finish() == []
    with pytest.raises(ValueError, match="finished"):
        stream.frame(image, 2.0)


def test_an_input_that_needs_the_whole_recording_is_refused(starter: Callable[..., LiveStream]) -> None:
    other = SimpleNamespace(features={"voice": InputFeature("voice-prosody", 136)}, labels=["A", "B"])
    with pytest.raises(ConfigError, match=r"'voice-prosody', which needs a whole recording"):
        LiveStream(other, name="other")


def test_torch_is_not_imported(clip: Path) -> None:
    code = (
        "import pathlib, sys, mien\nfrom mien.live.reader import read_file, Picture\n"
        "with mien.stream('starter', late_s=None) as stream:\n"
        f"    for piece in read_file(pathlib.Path({str(clip)!r})):\n"
        "        is_picture = isinstance(piece, Picture)\n"
        "        if piece.time_s > 0.6: break\n"
        "        stream.frame(piece.image, piece.time_s) if is_picture else "
        "stream.sound(piece.samples, piece.rate, piece.time_s)\n"
        "    assert len(stream.finish()) == 18\n"
        "print(sorted({'torch', 'scipy', 'pydantic', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
