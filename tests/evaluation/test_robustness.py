"""Corruptions have the stated strength, and robustness curves compare systems under the same corruptions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.evaluation import corruptions
from mien.evaluation.corruptions import Footage
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.robustness import (
    Condition,
    Transform,
    add_feature_noise,
    aggregate_seeds,
    drop_samples,
    no_corruption,
    score_conditions,
    shift_stream,
    stream_conditions,
    stream_predictor,
)
from mien.records import Clip, Frame, Labels, Recording, Stream

RNG = np.random.default_rng


def recording(seed: int = 0, seconds: float = 40, rate: float = 10.0, name: str = "a") -> Recording:
    """Each stream is a one-hot of three classes: the face the true one, the voice wrong one time in four."""
    rng = RNG(seed)
    times = (np.arange(round(seconds * rate)) + 0.5) / rate
    truth = np.repeat(rng.integers(0, 3, len(times) // 20 + 1), 20)[: len(times)]
    voice = np.where(rng.random(len(times)) < 0.25, rng.integers(0, 3, len(times)), truth)
    labels = Labels(times, truth, np.full((len(times), 2), np.nan))
    streams = {
        name: Stream(np.eye(3, dtype=np.float32)[classes], times, np.ones(len(times), bool))
        for name, classes in (("face", truth), ("voice", voice))
    }
    return Recording(Clip(name, None, subject=name, labels=labels), streams)


def face_first(
    streams: Mapping[str, Stream], start_s: float, stop_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """System that predicts from the face if valid, else from the voice, else nothing."""
    times = np.arange(np.floor(start_s * 10) / 10 + 0.05, stop_s, 0.1)
    p = np.full((len(times), 3), np.nan)
    for name in ("voice", "face"):
        if name in streams:
            s = streams[name]
            near = np.clip(np.searchsorted(s.times, times - 0.05), 0, len(s.times) - 1)
            valid = s.valid[near] & (np.abs(s.times[near] - times) < 0.051)
            p[valid] = np.clip(s.values[near][valid], 0, None) + 0.01
    return times, p / p.sum(1, keepdims=True), np.full((len(times), 2), np.nan)


# --- streams -----------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1), st.floats(2, 60))
def test_drop_samples_drops_the_share_and_levels_nest(seed: int, share: float, more: float, seconds: float) -> None:
    one = recording(seed, seconds)
    valid = RNG(seed).random(len(one.streams["face"].times)) < 0.8
    one = replace(one, streams={**one.streams, "face": replace(one.streams["face"], valid=valid)})
    share, more = sorted((share, more))
    less, worse = (drop_samples("face", s)(one, RNG(7)).streams["face"] for s in (share, more))
    assert (valid & ~less.valid).sum() == round(share * valid.sum())
    assert not (less.valid & ~valid).any()
    assert not (worse.valid & ~less.valid).any()
    assert (less.values[valid & ~less.valid] == 0).all()
    assert np.array_equal(less.values[less.valid], one.streams["face"].values[less.valid])
    assert less.values.dtype == np.float32


def test_drop_samples_drops_bursts_of_the_stated_lengths() -> None:
    """At 5 % of a long stream bursts seldom touch: their lengths lie between 0.2 s and 5 s, log-uniform."""
    one = recording(0, seconds=20_000)
    dropped = ~drop_samples("face", 0.05)(one, RNG(0)).streams["face"].valid
    edges = np.flatnonzero(np.diff(np.concatenate([[0], dropped.astype(int), [0]])))
    lengths = (edges[1::2] - edges[::2]) / 10
    assert lengths.min() >= 0.1
    assert np.quantile(lengths, 0.95) <= 5.1
    # median of a log-uniform on [.2, 5] is the geometric mean, 1 s
    assert np.median(lengths) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    "transform", [drop_samples("face", 0), add_feature_noise("face", 0), shift_stream("voice", 0), no_corruption]
)
def test_a_transform_of_level_zero_returns_the_recording_itself(transform: Transform[Recording]) -> None:
    one = recording()
    assert transform(one, RNG(0)) is one


def test_corrupting_an_absent_stream_changes_nothing() -> None:
    one = recording()
    face_only = replace(one, streams={"face": one.streams["face"]})
    assert add_feature_noise("voice", 1.0)(face_only, RNG(0)) is face_only


def test_feature_noise_is_in_standard_deviations_of_each_feature() -> None:
    rng = RNG(0)
    stream = Stream(rng.normal([0, 50], [1, 20], (5000, 2)), np.arange(5000) / 10, np.ones(5000, bool))
    one = Recording(Clip("a", None), {"face": stream})
    added = add_feature_noise("face", 0.5)(one, RNG(1)).streams["face"].values - stream.values
    assert added.std(axis=0) == pytest.approx(0.5 * stream.values.std(axis=0), rel=0.05)


def test_shift_moves_only_the_stream() -> None:
    one = recording()
    late = shift_stream("voice", 0.5)(one, RNG(0))
    assert late.streams["voice"].times == pytest.approx(one.streams["voice"].times + 0.5)
    assert late.streams["face"] is one.streams["face"]
    assert late.clip is one.clip


# --- curves ------------------------------------------------------------------------------------------------


CONDITIONS = stream_conditions(shares=(0.0, 0.25, 0.5, 1.0), noise=(0.0, 2.0), shifts_s=(-0.5, 0.0, 0.5))


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    models = {
        "fused": stream_predictor(face_first),
        "face only": stream_predictor(face_first, "face"),
        "voice only": stream_predictor(face_first, "voice"),
    }
    items = [recording(i, name=f"c{i}") for i in range(6)]
    return score_conditions(CONDITIONS, items, models, classes=["a", "b", "c"], reference="fused", draws=100)


def of(table: pl.DataFrame, corruption: str, model: str) -> np.ndarray:
    rows = table.filter((pl.col("corruption") == corruption) & (pl.col("model") == model)).sort("level")
    return rows["macro_f1"].to_numpy()


def test_curves_match_the_known_behaviour_of_the_systems(table: pl.DataFrame) -> None:
    face, voice, fused = (of(table, "face frames missing", m) for m in ("face only", "voice only", "fused"))
    assert fused[0] == face[0] == 1.0
    assert (voice == voice[0]).all()  # corruption of the face does not affect the voice
    assert (np.diff(fused) <= 1e-12).all()  # levels nest, so a higher one never helps this system
    assert fused[-1] == voice[0]
    assert (fused >= voice - 1e-12).all()
    assert face[-1] < 0.3  # Neutral throughout
    assert (of(table, "voice silent", "face only") == 1).all()


def test_columns_and_counts_of_the_table(table: pl.DataFrame) -> None:
    assert table.columns[:5] == ["corruption", "level", "label", "unit", "model"]
    assert len(table) == 3 * len(CONDITIONS)
    assert table["clips"].unique().to_list() == [6]
    assert table["frames"].unique().to_list() == [2400]
    assert (table["low"] <= table["macro_f1"]).all()
    assert (table["macro_f1"] <= table["high"]).all()


def test_the_reference_is_compared_paired_by_clip(table: pl.DataFrame) -> None:
    rows = table.filter(pl.col("model") == "fused")
    assert (rows["difference"] == 0).all()
    face = table.filter(
        pl.col("corruption") == "face frames missing", pl.col("level") == 25, pl.col("model") == "face only"
    )
    row = face.row(0, named=True)
    fused = of(table, "face frames missing", "fused")[1]
    assert row["difference"] == pytest.approx(fused - row["macro_f1"])
    assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_a_model_has_no_scores_of_what_it_does_not_predict(table: pl.DataFrame) -> None:
    models = {"fused": stream_predictor(face_first), "curves": stream_predictor(face_first, "face")}
    items = [recording(i, name=f"c{i}") for i in range(6)]
    options = {"classes": ["a", "b", "c"], "reference": "fused", "draws": 100}
    found = score_conditions(CONDITIONS, items, models, without_expression=["curves"], **options)
    for name in ("macro_f1", "low", "high", "accuracy", "difference", "difference_low", "difference_high"):
        assert found.filter(pl.col("model") == "curves")[name].is_nan().all(), name
    columns = ["corruption", "level", "macro_f1", "low", "high", "accuracy"]
    alone = [t.filter(pl.col("model") == "fused").select(columns) for t in (table, found)]
    assert alone[0].equals(alone[1])


def test_same_seed_gives_the_same_curve_and_models_share_the_corruptions() -> None:
    inputs: dict[str, list[bytes]] = {"one": [], "two": []}

    def recorder(name: str) -> Callable[[Recording], ClipPrediction]:
        def model(item: Recording) -> ClipPrediction:
            inputs[name].append(item.streams["face"].valid.tobytes())
            return stream_predictor(face_first)(item)

        return model

    conditions = [Condition("missing", s, "%", drop_samples("face", s)) for s in (0.0, 0.3, 0.6)]
    items = [recording(i, name=f"c{i}") for i in range(3)]
    tables = [
        score_conditions(conditions, items, {n: recorder(n) for n in inputs}, classes=["a", "b", "c"], draws=20, seed=s)
        for s in (1, 1, 2)
    ]
    assert inputs["one"] == inputs["two"]
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_uncorrupted_recordings_are_predicted_once_for_all_curves() -> None:
    predicted = []

    def model(item: int) -> ClipPrediction:
        predicted.append(item)
        return stream_predictor(face_first)(recording(item, name=f"c{item}"))

    conditions = [Condition(name, 0.0, "", no_corruption) for name in ("dark", "loud", "late")]
    found = score_conditions(conditions, [1, 2], {"m": model}, prepare=lambda i: i, classes=["a", "b", "c"], draws=10)
    assert predicted == [1, 2]
    assert found["macro_f1"].n_unique() == 1


def test_intervals_over_training_seeds() -> None:
    one = {"corruption": "x", "level": 0.5, "label": "0.5", "unit": "%", "model": "m", "accuracy": 0.5, "va_score": 0.0}
    base = pl.DataFrame([one | {"clips": 3, "frames": 9, "low": 0.0, "high": 1.0}])
    tables = [base.with_columns(macro_f1=pl.lit(v), va_score=pl.lit(v - 0.2)) for v in (0.4, 0.5, 0.6, 0.5, 0.5)]
    found = aggregate_seeds(tables).row(0, named=True)
    # mean .5, deviation sqrt(.02 / 4), t(.975, 4) = 2.776
    half = 2.776 * (0.02 / 4) ** 0.5 / 5**0.5
    assert (found["macro_f1"], found["low"], found["high"]) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-4)
    assert (found["va_score"], found["va_low"], found["va_high"]) == pytest.approx(
        (0.3, 0.3 - half, 0.3 + half), abs=1e-4
    )
    assert found["seeds"] == 5
    assert aggregate_seeds(tables[:1]).equals(tables[0])


def test_a_recording_without_labels_cannot_be_scored() -> None:
    one = recording()
    with pytest.raises(ValueError, match="clip 'a' has no labels"):
        stream_predictor(face_first)(replace(one, clip=replace(one.clip, labels=None)))


def test_the_predicted_span_does_not_depend_on_the_corruption() -> None:
    spans = []

    def predict_streams(
        streams: Mapping[str, Stream], start_s: float, stop_s: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        spans.append((start_s, stop_s))
        return face_first(streams, start_s, stop_s)

    one = recording()
    for model in (stream_predictor(predict_streams), stream_predictor(predict_streams, "face")):
        for item in (one, shift_stream("voice", 3.0)(one, RNG(0)), shift_stream("voice", -3.0)(one, RNG(0))):
            model(item)
    assert set(spans) == {(0.0, spans[0][1])}
    assert spans[0][1] == pytest.approx(40.05)


# --- video and audio -----------------------------------------------------------------------------------------


def picture(seed: int = 0) -> np.ndarray:
    return RNG(seed).integers(60, 200, (48, 64, 3)).astype(np.uint8)


def linear(image: np.ndarray) -> np.ndarray:
    return (image / 255.0) ** 2.2


@pytest.mark.parametrize("stops", [1.0, 2.0, 3.0])
def test_a_stop_halves_the_light(stops: float) -> None:
    dark = corruptions.darken(picture(), stops, RNG(0))
    assert linear(dark).mean() / linear(picture()).mean() == pytest.approx(2**-stops, rel=0.05)
    assert dark.dtype == np.uint8


def test_blur_keeps_the_mean_and_removes_detail() -> None:
    sharp = picture()
    soft = corruptions.blur(sharp, 3.0)
    assert soft.mean() == pytest.approx(sharp.mean(), rel=0.02)
    assert soft.std() < 0.3 * sharp.std()
    assert corruptions.blur(sharp, 0) is sharp


def test_cover_fills_only_the_lower_share_of_the_box() -> None:
    box = np.array([10.0, 8.0, 30.0, 28.0])
    out = corruptions.cover(picture(), [box], 0.5, (1, 2, 3))
    assert (out[18:28, 10:30] == (1, 2, 3)).all()
    assert (out == picture()).all(axis=2).sum() == 48 * 64 - 200
    assert corruptions.cover(picture(), [], 0.5, (0, 0, 0)) is not None
    whole = corruptions.cover(picture(), [np.array([-5.0, -5.0, 5.0, 5.0])], 1.0, (1, 2, 3))
    assert (whole[:5, :5] == (1, 2, 3)).all()


@pytest.mark.parametrize("snr", [10.0, 0.0, -5.0])
def test_noise_has_the_stated_ratio_to_speech_without_pauses(snr: float) -> None:
    rate = 16_000
    tone = 0.1 * np.sin(2 * np.pi * 200 * np.arange(4 * rate) / rate).astype(np.float32)
    tone[rate : 2 * rate] = 0  # a pause
    level = corruptions.speech_level(iter([(0.0, tone)]))
    assert level == pytest.approx(0.1 / 2**0.5, rel=0.02)
    noise = corruptions.add_noise(tone, snr, level, RNG(0)) - tone
    assert 20 * np.log10(level / np.sqrt(np.mean(noise**2))) == pytest.approx(snr, abs=0.2)
    assert corruptions.add_noise(tone, np.inf, level, RNG(0)) is tone
    silence = np.zeros(800, np.float32)
    assert corruptions.speech_level(iter([(0.0, silence)])) == 0
    assert corruptions.add_noise(silence, 0.0, 0.0, RNG(0)) is silence


def test_pink_noise_falls_three_decibels_per_octave() -> None:
    power = np.abs(np.fft.rfft(corruptions.pink_noise(RNG(0), 1 << 18))) ** 2
    octaves = [10 * np.log10(power[1 << k : 2 << k].mean()) for k in range(9, 16)]
    assert np.diff(octaves) == pytest.approx(np.full(6, -3.0), abs=0.8)


def footage_of(frames: int = 5) -> Footage:
    def pictures() -> Iterator[Frame]:
        return (Frame(i, i / 25, picture(i)) for i in range(frames))

    def blocks() -> Iterator[tuple[float, np.ndarray]]:
        return ((start, np.full(1600, 0.2, np.float32)) for start in (0.0, 0.1))

    return Footage(Clip("a", Path("a.mp4")), pictures, blocks)


def test_footage_corruption_is_the_same_for_each_decoding() -> None:
    boxes = lambda frame: [np.array([10.0, 8.0, 30.0, 28.0])]  # noqa: E731
    whole = footage_of()
    for condition in corruptions.footage_conditions(boxes):
        damaged = condition.transform(whole, RNG(3))
        assert (damaged is whole) == (condition.level == (np.inf if condition.unit == "dB" else 0)), condition
        first, again = list(damaged.frames()), list(damaged.frames())
        assert [f.time_s for f in first] == [i / 25 for i in range(5)]
        assert all((a.image == b.image).all() for a, b in zip(first, again, strict=True))
        audio, audio_again = list(damaged.blocks()), list(damaged.blocks())
        assert all(s == t and (a == b).all() for (s, a), (t, b) in zip(audio, audio_again, strict=True))
        assert all(a.dtype == np.float32 and len(a) == 1600 for _, a in audio)


def test_mute_and_delay_audio() -> None:
    assert all(not block.any() for _, block in corruptions.mute_audio()(footage_of(), RNG(0)).blocks())
    assert [s for s, _ in corruptions.delay_audio(-0.5)(footage_of(), RNG(0)).blocks()] == pytest.approx([-0.5, -0.4])
