"""Overlay: boxes on the faces, labels inside the image, audio and times kept."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from views_support import FRAMES, HEIGHT, RATE, WIDTH, box_at

from mien.errors import MediaError, OutputError
from mien.labels import EXPRESSIONS
from mien.media.audio import load
from mien.media.video import frames, write_video
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline
from mien.views import overlay
from mien.views.overlay import Annotation, draw, frame_annotations
from mien.views.palette import EXPRESSION, NO_EXPRESSION, VALENCE_AROUSAL, rgb


@pytest.fixture(scope="module")
def drawn(timeline: Timeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return timeline.overlay(tmp_path_factory.mktemp("overlay") / "new" / "overlay.mp4")


def test_every_frame_keeps_its_time(drawn: Path) -> None:
    assert [f.time_s for f in frames(drawn)] == pytest.approx([i / RATE for i in range(FRAMES)], abs=1e-4)


def test_audio_is_kept(drawn: Path, recording: Path) -> None:
    start, written = load(drawn)
    _, original = load(recording)
    n = min(len(written), len(original)) - 4000
    assert abs(start) < 0.05
    assert len(written) == pytest.approx(len(original), abs=2100)
    assert np.corrcoef(np.abs(np.fft.rfft(written[2000:n])), np.abs(np.fft.rfft(original[2000:n])))[0, 1] > 0.95


def test_boxes_follow_the_faces_and_their_expression(drawn: Path) -> None:
    """The left edge of the box, sampled in the decoded video; chroma is subsampled, so colours are near, not equal."""
    images = {f.index: f.image for f in frames(drawn)}
    for index, subject, name in (
        (10, 0, "Neutral"),
        (40, 0, "Happiness"),
        (40, 1, "Sadness"),
        (90, 0, "Happiness"),
    ):
        x1, y1, _, y2 = np.rint(box_at(subject, index / RATE)).astype(int)
        edge = images[index][(y1 + y2) // 2, x1 - 1 : x1 + 2].astype(int)
        assert np.abs(edge - rgb(EXPRESSION[name])).sum(axis=1).min() < 120, (index, subject, edge)


def test_no_box_without_a_face(drawn: Path, recording: Path) -> None:
    before, after = (next(f.image for f in frames(p) if f.index == 55) for p in (recording, drawn))
    x1, y1, x2, y2 = np.rint(box_at(0, 55 / RATE)).astype(int)
    inside = (slice(y1 - 4, y2 + 4), slice(x1 - 4, x2 + 4))
    assert np.abs(before[inside].astype(int) - after[inside]).mean() < 6
    corner = (slice(HEIGHT - 20, HEIGHT), slice(0, 90))
    assert np.abs(before[corner].astype(int) - after[corner]).mean() < 6, "nothing is written for an absent person"


def test_variable_times_are_kept(tmp_path: Path) -> None:
    times = np.cumsum([0, 0.04, 0.1, 0.033, 0.25, 0.04])
    write_video(tmp_path / "v.mp4", (np.full((64, 96, 3), 40 * i, np.uint8) for i in range(6)), times=list(times))
    table = subject_rows(
        0,
        times,
        probabilities=np.full((6, 8), 0.125),
        valence_arousal=np.zeros((6, 2)),
        voice=np.zeros(6, bool),
        frames=np.arange(6),
    )
    out = Timeline(table, media=tmp_path / "v.mp4").overlay(tmp_path / "o.mp4")
    assert [f.time_s for f in frames(out)] == pytest.approx(times, abs=1e-4)


def test_an_image_becomes_a_png(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "s.png"), np.full((200, 300, 3), 200, np.uint8))
    table = subject_rows(
        0,
        np.zeros(1),
        probabilities=np.eye(8)[[1]],
        valence_arousal=np.zeros((1, 2)),
        voice=np.zeros(1, bool),
        face=np.ones(1, bool),
        boxes=np.array([[100.0, 60, 180, 160]]),
        frames=np.zeros(1, int),
    )
    out = Timeline(table, media=tmp_path / "s.png").overlay(tmp_path / "overlay.mp4")
    assert out == tmp_path / "overlay.png"
    assert tuple(cv2.imread(str(out))[110, 100][::-1]) == rgb(EXPRESSION["Anger"])


def test_audio_only_media_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [], times=[], audio=np.zeros(8000, np.float32))
    table = subject_rows(
        0, np.zeros(1), probabilities=np.eye(8)[:1], valence_arousal=np.zeros((1, 2)), voice=np.ones(1, bool)
    )
    with pytest.raises(OutputError, match="no video frames to draw on") as caught:
        Timeline(table, media=tmp_path / "a.mp4").overlay(tmp_path / "o.mp4")
    assert (caught.value.follows, "--overlay" in caught.value.remedy) == ("No overlay was written.", True)
    assert not (tmp_path / "o.mp4").exists()


def test_a_missing_recording_is_named(timeline: Timeline, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"missing\.mp4"):
        Timeline(timeline.table, media=tmp_path / "missing.mp4").overlay(tmp_path / "o.mp4")


def test_annotations_are_the_rows_of_each_frame(timeline: Timeline) -> None:
    by_frame = dict(frame_annotations(timeline.table))
    assert list(by_frame) == list(range(FRAMES))
    assert [m.name for m in by_frame[0]] == ["0", "1"]
    assert by_frame[0][0].text == "0  Neutral 65%"
    assert [m.text for m in by_frame[55]] == ["1  Sadness 65%"], "speech that may be anybody's shows no absent person"
    assert np.allclose(by_frame[30][1].box, box_at(1, 30 / RATE), atol=1e-4)


def test_an_unseen_person_is_shown_only_while_speaking(timeline: Timeline) -> None:
    is_own = (pl.col("subject") == 0) & (pl.col("frame") == 55)
    table = timeline.table.with_columns(speech=pl.when(is_own).then(pl.lit("own")).otherwise("speech"))
    by_frame = dict(frame_annotations(table))
    assert [(m.name, m.box is None) for m in by_frame[55]] == [("0", True), ("1", False)]
    assert [m.name for m in by_frame[54]] == ["1"]


def test_a_voice_without_any_face_is_shown_while_it_is_heard() -> None:
    heard = one_row(list(EXPRESSIONS), voice=np.ones(1, bool), face=np.zeros(1, bool))
    ((_, shown),) = frame_annotations(heard)
    assert [m.box for m in shown] == [None]
    ((_, shown),) = frame_annotations(one_row(list(EXPRESSIONS), face=np.zeros(1, bool)))
    assert shown == []


def one_row(classes: list[str], **overrides: np.ndarray) -> pl.DataFrame:
    values = {
        "probabilities": np.eye(len(classes))[[1]],
        "valence_arousal": np.array([[0.5, -0.25]]),
        "voice": np.zeros(1, bool),
        "frames": np.zeros(1, int),
        "face": np.ones(1, bool),
        "boxes": np.array([[10.0, 10, 90, 90]]),
    }
    return subject_rows(0, np.zeros(1), classes=classes, **{**values, **overrides})


def test_labels_have_own_classes_with_distinct_colours() -> None:
    classes = [f"Müde {k}" for k in range(12)]
    texts, colours = set(), set()
    for k in range(12):
        table = one_row(classes, probabilities=np.eye(12)[[k]])
        ((_, (annotation,)),) = frame_annotations(table, classes)
        texts.add(annotation.text)
        colours.add(annotation.colour)
    assert texts == {f"{name} 100%" for name in classes}
    assert len(colours) == 12


def test_labels_of_valence_and_arousal_alone_name_no_expression() -> None:
    nothing = np.full((1, 8), np.nan)
    table = pl.concat(
        [
            one_row(list(EXPRESSIONS), probabilities=nothing),
            one_row(list(EXPRESSIONS), probabilities=nothing, valence_arousal=np.full((1, 2), np.nan)).with_columns(
                frame=pl.lit(1, pl.Int64)
            ),
        ]
    )
    (_, (first,)), (_, (second,)) = frame_annotations(table)
    assert (first.text, first.colour) == ("valence +0.50, arousal -0.25", VALENCE_AROUSAL)
    assert (second.text, second.colour) == ("no valence, no arousal", NO_EXPRESSION)


def test_letters_that_the_font_lacks_are_replaced() -> None:
    assert overlay._ascii("Überraschung, heiß, café") == "Uberraschung, heiss, cafe"
    assert overlay._ascii("嬉") == "?"
    classes = ["calm", "嬉しい", "悲 (sad)"]
    texts = []
    for row in np.eye(3):
        ((_, (annotation,)),) = frame_annotations(one_row(classes, probabilities=row[None]), classes)
        texts.append(annotation.text)
    assert texts == ["calm 100%", "class 2 100%", "悲 (sad) 100%"]


@settings(max_examples=40)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    corners=st.lists(st.floats(-2000, 3000), min_size=4, max_size=4),
    text=st.text(max_size=30),
    colour=st.sampled_from([*EXPRESSION.values(), NO_EXPRESSION, VALENCE_AROUSAL]),
    evidence=st.sampled_from(["both", "face", "voice", "none"]),
)
def test_any_box_in_any_image_can_be_drawn(
    height: int, width: int, corners: list[float], text: str, colour: str, evidence: str
) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    annotated = [
        Annotation("", np.array(corners), text, colour, evidence),
        Annotation("1", None, text, colour, evidence),
    ]
    out = draw(image, annotated)
    assert out.shape == image.shape
    assert not image.any(), "draw must not change its input"


def test_the_video_has_codecs_that_browsers_play(drawn: Path) -> None:
    with av.open(str(drawn)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.audio[0].codec_context.name == "aac"
        assert (container.streams.video[0].width, container.streams.video[0].height) == (WIDTH, HEIGHT)


def crowd(people: int, side: float = 40.0, step: float = 60.0) -> pl.DataFrame:
    """One frame with a row of faces, each `step` pixels from the next."""
    tables = []
    for k in range(people):
        box = np.array([[10 + step * k, 60, 10 + step * k + side, 60 + side]])
        p = np.eye(8)[[k % 3]]
        tables.append(
            subject_rows(
                k, np.zeros(1), probabilities=p, valence_arousal=np.zeros((1, 2)), voice=np.zeros(1, bool),
                face=np.ones(1, bool), boxes=box, frames=np.zeros(1, int),
            )
        )  # fmt: skip
    return pl.concat(tables)


def placed(monkeypatch: pytest.MonkeyPatch, table: pl.DataFrame, width: int) -> list[tuple[int, int, int, int]]:
    """Areas of the labels that are drawn."""
    areas = []
    monkeypatch.setattr(
        overlay, "_blend", lambda image, label, x, y: areas.append((x, y, x + label.shape[1], y + label.shape[0]))
    )
    ((_, annotated),) = frame_annotations(table)
    draw(np.zeros((300, width, 3), np.uint8), annotated, overlay._legend(table, EXPRESSIONS))
    return areas


@pytest.mark.parametrize(("people", "step"), [(2, 10.0), (5, 20.0), (6, 45.0), (12, 30.0), (25, 12.0)])
def test_labels_do_not_overlap(monkeypatch: pytest.MonkeyPatch, people: int, step: float) -> None:
    areas = placed(monkeypatch, crowd(people, step=step), 640)
    assert areas
    for i, a in enumerate(areas):
        assert not any(overlay._overlap(a, b) for b in areas[:i])


def test_a_crowd_has_numbers_and_a_legend_of_the_classes_that_occur(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, str]] = []
    label = overlay._label

    def record(text: str, evidence: str, colour: str, height: int) -> np.ndarray:
        written.append((text, colour))
        return label(text, evidence, colour, height)

    monkeypatch.setattr(overlay, "_label", record)
    placed(monkeypatch, crowd(8), 640)
    names = ["Neutral", "Anger", "Disgust"]
    assert written[:3] == [(name, EXPRESSION[name]) for name in names]
    assert written[3:] == [(str(k), EXPRESSION[names[k % 3]]) for k in range(8)]
    written.clear()
    placed(monkeypatch, crowd(3), 640)
    assert "0  Neutral 100%" in [text for text, _ in written], "a few people have full labels and no legend"
    assert "Neutral" not in [text for text, _ in written]


def test_labels_grow_with_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    heights = []
    for side in (20.0, 60.0, 200.0):
        (area,) = placed(monkeypatch, crowd(1, side=side), 640)
        heights.append(area[3] - area[1])
    assert heights == [13, 13, 20]


def test_chips_are_shown_only_for_recordings_with_speech() -> None:
    silent = one_row(list(EXPRESSIONS))
    ((_, (annotation,)),) = frame_annotations(silent)
    assert annotation.evidence == ""
    ((_, (annotation,)),) = frame_annotations(one_row(list(EXPRESSIONS), voice=np.ones(1, bool)))
    assert annotation.evidence == "both"
    assert overlay._label("a", "", "#000000", 20).shape[1] < overlay._label("a", "face", "#000000", 20).shape[1]


def test_the_overlay_of_a_section_has_its_frames_and_sound(timeline: Timeline, tmp_path: Path) -> None:
    part = Timeline(timeline.table.filter(pl.col("frame").is_between(50, 74)), media=timeline.media)
    out = part.overlay(tmp_path / "o.mp4")
    images = [f.image for f in frames(out)]
    assert len(images) == 25
    assert images[0][4, 4].mean() == pytest.approx(20 + 2 * 50, abs=3)
    start, sound = load(out)
    assert len(sound) / 16_000 + start == pytest.approx(1.0, abs=0.15)
