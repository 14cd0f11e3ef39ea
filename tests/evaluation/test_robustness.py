"""Damage does what it says, in the amount it says, and curves compare systems on the same damage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.evaluation import corruptions as wild
from mien.evaluation.corruptions import Footage
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.robustness import (
    Condition,
    across_seeds,
    curve,
    missing,
    noisy,
    shifted,
    stream_conditions,
    streams_model,
    unchanged,
)
from mien.records import Clip, Frame, Labels, Recording, Stream

RNG = np.random.default_rng


def recording(seed: int = 0, seconds: float = 40, rate: float = 10.0, name: str = "a") -> Recording:
    """Each stream says the class outright in a one-hot of three; the voice is wrong one time in four."""
    rng = RNG(seed)
    times = (np.arange(round(seconds * rate)) + 0.5) / rate
    truth = np.repeat(rng.integers(0, 3, len(times) // 20 + 1), 20)[: len(times)]
    heard = np.where(rng.random(len(times)) < 0.25, rng.integers(0, 3, len(times)), truth)
    labels = Labels(times, truth, np.full((len(times), 2), np.nan))
    streams = {
        name: Stream(np.eye(3, dtype=np.float32)[said], times, np.ones(len(times), bool))
        for name, said in (("face", truth), ("voice", heard))
    }
    return Recording(Clip(name, None, subject=name, labels=labels), streams)


def trusting(streams: Mapping[str, Stream], start_s: float, stop_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The face where there is one, else the voice, else nothing: a system that degrades as it should."""
    times = np.arange(np.floor(start_s * 10) / 10 + 0.05, stop_s, 0.1)
    p = np.full((len(times), 3), np.nan)
    for name in ("voice", "face"):
        if name in streams:
            s = streams[name]
            near = np.clip(np.searchsorted(s.times, times - 0.05), 0, len(s.times) - 1)
            seen = s.valid[near] & (np.abs(s.times[near] - times) < 0.051)
            p[seen] = np.clip(s.values[near][seen], 0, None) + 0.01
    return times, p / p.sum(1, keepdims=True), np.full((len(times), 2), np.nan)


# --- streams -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1), st.floats(2, 60))
def test_missing_takes_the_share_and_levels_nest(seed: int, share: float, more: float, seconds: float) -> None:
    one = recording(seed, seconds)
    valid = RNG(seed).random(len(one.streams["face"].times)) < 0.8
    one = replace(one, streams={**one.streams, "face": replace(one.streams["face"], valid=valid)})
    share, more = sorted((share, more))
    less, worse = (missing("face", s)(one, RNG(7)).streams["face"] for s in (share, more))
    assert (valid & ~less.valid).sum() == round(share * valid.sum())
    assert not (less.valid & ~valid).any()
    assert not (worse.valid & ~less.valid).any()
    assert (less.values[valid & ~less.valid] == 0).all()
    assert np.array_equal(less.values[less.valid], one.streams["face"].values[less.valid])
    assert less.values.dtype == np.float32


def test_missing_comes_in_bursts_of_the_stated_lengths() -> None:
    """At 5 % of a long stream bursts seldom touch: their lengths lie between 0.2 s and 5 s, log-uniform."""
    one = recording(0, seconds=20_000)
    gone = ~missing("face", 0.05)(one, RNG(0)).streams["face"].valid
    edges = np.flatnonzero(np.diff(np.concatenate([[0], gone.astype(int), [0]])))
    lengths = (edges[1::2] - edges[::2]) / 10
    assert lengths.min() >= 0.1
    assert np.quantile(lengths, 0.95) <= 5.1
    # median of a log-uniform on [.2, 5] is the geometric mean, 1 s
    assert np.median(lengths) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("transform", [missing("face", 0), noisy("face", 0), shifted("voice", 0), unchanged])
def test_no_damage_is_the_recording_itself(transform: object) -> None:
    one = recording()
    assert transform(one, RNG(0)) is one  # type: ignore[operator]


def test_damage_to_a_stream_that_is_not_there_is_none() -> None:
    one = recording()
    deaf = replace(one, streams={"face": one.streams["face"]})
    assert noisy("voice", 1.0)(deaf, RNG(0)) is deaf


def test_noise_is_in_deviations_of_each_feature() -> None:
    rng = RNG(0)
    stream = Stream(rng.normal([0, 50], [1, 20], (5000, 2)), np.arange(5000) / 10, np.ones(5000, bool))
    one = Recording(Clip("a", None), {"face": stream})
    added = noisy("face", 0.5)(one, RNG(1)).streams["face"].values - stream.values
    assert added.std(axis=0) == pytest.approx(0.5 * stream.values.std(axis=0), rel=0.05)


def test_shift_moves_the_voice_and_nothing_else() -> None:
    one = recording()
    late = shifted("voice", 0.5)(one, RNG(0))
    assert late.streams["voice"].times == pytest.approx(one.streams["voice"].times + 0.5)
    assert late.streams["face"] is one.streams["face"]
    assert late.clip is one.clip


# --- curves ------------------------------------------------------------------------------------------------


CONDITIONS = stream_conditions(shares=(0.0, 0.25, 0.5, 1.0), noise=(0.0, 2.0), shifts_s=(-0.5, 0.0, 0.5))


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    models = {
        "fused": streams_model(trusting),
        "face only": streams_model(trusting, "face"),
        "voice only": streams_model(trusting, "voice"),
    }
    items = [recording(i, name=f"c{i}") for i in range(6)]
    return curve(CONDITIONS, items, models, classes=["a", "b", "c"], reference="fused", draws=100)


def of(table: pl.DataFrame, corruption: str, model: str) -> np.ndarray:
    rows = table.filter((pl.col("corruption") == corruption) & (pl.col("model") == model)).sort("level")
    return rows["macro_f1"].to_numpy()


def test_curves_say_what_is_known_of_the_systems(table: pl.DataFrame) -> None:
    face, voice, fused = (of(table, "face frames missing", m) for m in ("face only", "voice only", "fused"))
    assert fused[0] == face[0] == 1.0
    assert (voice == voice[0]).all()  # what happens to the face is nothing to the voice
    assert (np.diff(fused) <= 1e-12).all()  # damage nests, so it never helps this system
    assert fused[-1] == voice[0]
    assert (fused >= voice - 1e-12).all()
    assert face[-1] < 0.3  # Neutral throughout
    assert (of(table, "voice silent", "face only") == 1).all()


def test_every_row_says_what_it_is(table: pl.DataFrame) -> None:
    assert table.columns[:5] == ["corruption", "level", "label", "unit", "model"]
    assert len(table) == 3 * len(CONDITIONS)
    assert table["clips"].unique().to_list() == [6]
    assert table["frames"].unique().to_list() == [2400]
    assert (table["low"] <= table["macro_f1"]).all()
    assert (table["macro_f1"] <= table["high"]).all()


def test_the_reference_is_compared_in_pairs(table: pl.DataFrame) -> None:
    rows = table.filter(pl.col("model") == "fused")
    assert (rows["difference"] == 0).all()
    face = table.filter(
        pl.col("corruption") == "face frames missing", pl.col("level") == 25, pl.col("model") == "face only"
    )
    row = face.row(0, named=True)
    fused = of(table, "face frames missing", "fused")[1]
    assert row["difference"] == pytest.approx(fused - row["macro_f1"])
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_same_seed_same_curve_and_every_model_sees_the_same_damage() -> None:
    seen: dict[str, list[bytes]] = {"one": [], "two": []}

    def model(name: str):  # type: ignore[no-untyped-def]
        def says(item: Recording) -> ClipPrediction:
            seen[name].append(item.streams["face"].valid.tobytes())
            return streams_model(trusting)(item)

        return says

    conditions = [Condition("gone", s, "%", missing("face", s)) for s in (0.0, 0.3, 0.6)]
    items = [recording(i, name=f"c{i}") for i in range(3)]
    tables = [
        curve(conditions, items, {n: model(n) for n in seen}, classes=["a", "b", "c"], draws=20, seed=s)
        for s in (1, 1, 2)
    ]
    assert seen["one"] == seen["two"]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_clean_recordings_are_predicted_once_for_all_curves() -> None:
    asked = []

    def says(item: int) -> ClipPrediction:
        asked.append(item)
        return streams_model(trusting)(recording(item, name=f"c{item}"))

    conditions = [Condition(name, 0.0, "", unchanged) for name in ("dark", "loud", "late")]
    found = curve(conditions, [1, 2], {"m": says}, prepare=lambda i: i, classes=["a", "b", "c"], draws=10)
    assert asked == [1, 2]
    assert found["macro_f1"].n_unique() == 1


def test_intervals_over_training_seeds() -> None:
    one = {"corruption": "x", "level": 0.5, "label": "0.5", "unit": "%", "model": "m", "accuracy": 0.5, "va_score": 0.0}
    base = pl.DataFrame([one | {"clips": 3, "frames": 9, "low": 0.0, "high": 1.0}])
    tables = [base.with_columns(macro_f1=pl.lit(v), va_score=pl.lit(v - 0.2)) for v in (0.4, 0.5, 0.6, 0.5, 0.5)]
    found = across_seeds(tables).row(0, named=True)
    # mean .5, deviation sqrt(.02 / 4), t(.975, 4) = 2.776
    half = 2.776 * (0.02 / 4) ** 0.5 / 5**0.5
    assert (found["macro_f1"], found["low"], found["high"]) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-4)
    assert (found["va_score"], found["va_low"], found["va_high"]) == pytest.approx(
        (0.3, 0.3 - half, 0.3 + half), abs=1e-4
    )
    assert found["seeds"] == 5
    assert across_seeds(tables[:1]).equals(tables[0])


def test_a_recording_without_labels_cannot_be_scored() -> None:
    one = recording()
    with pytest.raises(ValueError, match="clip 'a' has no labels"):
        streams_model(trusting)(replace(one, clip=replace(one.clip, labels=None)))


def test_what_is_asked_does_not_hang_on_the_damage() -> None:
    spans = []

    def says(streams: Mapping[str, Stream], start_s: float, stop_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        spans.append((start_s, stop_s))
        return trusting(streams, start_s, stop_s)

    one = recording()
    for model in (streams_model(says), streams_model(says, "face")):
        for item in (one, shifted("voice", 3.0)(one, RNG(0)), shifted("voice", -3.0)(one, RNG(0))):
            model(item)
    assert set(spans) == {(0.0, spans[0][1])}
    assert spans[0][1] == pytest.approx(40.05)


# --- pictures and sound --------------------------------------------------------------------------------------


def picture(seed: int = 0) -> np.ndarray:
    return RNG(seed).integers(60, 200, (48, 64, 3)).astype(np.uint8)


def linear(image: np.ndarray) -> np.ndarray:
    return (image / 255.0) ** 2.2


@pytest.mark.parametrize("stops", [1.0, 2.0, 3.0])
def test_a_stop_halves_the_light(stops: float) -> None:
    dark = wild.darken(picture(), stops, RNG(0))
    assert linear(dark).mean() / linear(picture()).mean() == pytest.approx(2**-stops, rel=0.05)
    assert dark.dtype == np.uint8


def test_blur_keeps_the_mean_and_removes_detail() -> None:
    sharp = picture()
    soft = wild.blur(sharp, 3.0)
    assert soft.mean() == pytest.approx(sharp.mean(), rel=0.02)
    assert soft.std() < 0.3 * sharp.std()
    assert wild.blur(sharp, 0) is sharp


def test_cover_takes_the_lower_share_of_the_box_only() -> None:
    box = np.array([10.0, 8.0, 30.0, 28.0])
    out = wild.cover(picture(), [box], 0.5, (1, 2, 3))
    assert (out[18:28, 10:30] == (1, 2, 3)).all()
    assert (out == picture()).all(axis=2).sum() == 48 * 64 - 200
    assert wild.cover(picture(), [], 0.5, (0, 0, 0)) is not None
    whole = wild.cover(picture(), [np.array([-5.0, -5.0, 5.0, 5.0])], 1.0, (1, 2, 3))
    assert (whole[:5, :5] == (1, 2, 3)).all()


@pytest.mark.parametrize("snr", [10.0, 0.0, -5.0])
def test_noise_is_as_loud_as_it_says_against_speech_and_not_against_pauses(snr: float) -> None:
    rate = 16_000
    tone = 0.1 * np.sin(2 * np.pi * 200 * np.arange(4 * rate) / rate).astype(np.float32)
    tone[rate : 2 * rate] = 0  # a pause
    level = wild.loudness(iter([(0.0, tone)]))
    assert level == pytest.approx(0.1 / 2**0.5, rel=0.02)
    noise = wild.add_noise(tone, snr, level, RNG(0)) - tone
    assert 20 * np.log10(level / np.sqrt(np.mean(noise**2))) == pytest.approx(snr, abs=0.2)
    assert wild.add_noise(tone, np.inf, level, RNG(0)) is tone
    silence = np.zeros(800, np.float32)
    assert wild.loudness(iter([(0.0, silence)])) == 0
    assert wild.add_noise(silence, 0.0, 0.0, RNG(0)) is silence


def test_pink_noise_falls_three_decibels_an_octave() -> None:
    power = np.abs(np.fft.rfft(wild.pink(RNG(0), 1 << 18))) ** 2
    octaves = [10 * np.log10(power[1 << k : 2 << k].mean()) for k in range(9, 16)]
    assert np.diff(octaves) == pytest.approx(np.full(6, -3.0), abs=0.8)


def footage_of(frames: int = 5) -> Footage:
    def pictures() -> Iterator[Frame]:
        return (Frame(i, i / 25, picture(i)) for i in range(frames))

    def blocks() -> Iterator[tuple[float, np.ndarray]]:
        return ((start, np.full(1600, 0.2, np.float32)) for start in (0.0, 0.1))

    return Footage(Clip("a", Path("a.mp4")), pictures, blocks)


def test_footage_damage_is_the_same_each_time_it_is_opened() -> None:
    boxes = lambda frame: [np.array([10.0, 8.0, 30.0, 28.0])]  # noqa: E731
    whole = footage_of()
    for condition in wild.footage_conditions(boxes):
        damaged = condition.transform(whole, RNG(3))
        assert (damaged is whole) == (condition.level == (np.inf if condition.unit == "dB" else 0)), condition
        first, again = list(damaged.frames()), list(damaged.frames())
        assert [f.time_s for f in first] == [i / 25 for i in range(5)]
        assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))
        heard, reheard = list(damaged.blocks()), list(damaged.blocks())
        assert all(s == t and (a == b).all() for (s, a), (t, b) in zip(heard, reheard, strict=True))
        assert all(a.dtype == np.float32 and len(a) == 1600 for _, a in heard)


def test_silence_and_late_sound() -> None:
    assert all(not block.any() for _, block in wild.silent()(footage_of(), RNG(0)).blocks())
    assert [s for s, _ in wild.late(-0.5)(footage_of(), RNG(0)).blocks()] == pytest.approx([-0.5, -0.4])
