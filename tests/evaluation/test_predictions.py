"""Predictions: frames without evidence, prediction at label times, and the Parquet table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import ConfigError, OutputError
from mien.evaluation.predictions import ClipPrediction, load, nearest_valid, predict, save
from mien.records import Clip, Labels, Recording, Stream


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_nearest_valid_frame_is_the_earlier_on_ties(known: list[bool]) -> None:
    places = [i for i, k in enumerate(known) if k]
    expected = [min((abs(p - i), p) for p in places)[1] for i in range(len(known))]
    assert nearest_valid(np.array(known)).tolist() == expected


def test_no_valid_frame() -> None:
    with pytest.raises(ValueError, match="no frame is valid"):
        nearest_valid(np.zeros(3, bool))
    one = clip()
    without_evidence = replace(one, probabilities=np.full((5, 3), np.nan), valence_arousal=np.full((5, 2), np.nan))
    assert without_evidence.predicted_class.tolist() == [0] * 5
    assert without_evidence.filled_valence_arousal.tolist() == [[0, 0]] * 5


def clip(name: str = "a") -> ClipPrediction:
    p = np.array([[0.7, 0.2, 0.1], [np.nan] * 3, [np.nan] * 3, [0.25, 0.25, 0.5], [0.0, 1.0, 0.0]])
    va = np.array([[0.5, -0.5], [np.nan, np.nan], [np.nan, 0.5], [0, 0], [1, -1]])
    true_va = np.array([[0.25, 0.5], [np.nan, np.nan], [0, 0], [1, 1], [np.nan, np.nan]])
    return ClipPrediction(name, np.arange(5) / 25, p, va, np.array([0, 1, -1, 2, 2]), true_va, "anna")


def test_frames_without_evidence_are_filled() -> None:
    assert clip().predicted_class.tolist() == [0, 0, 2, 2, 1]
    assert clip().filled_valence_arousal.tolist() == [[0.5, -0.5], [0.5, -0.5], [0, 0], [0, 0], [1, -1]]


def test_save_and_load(tmp_path: Path) -> None:
    clips, classes = [clip("b"), clip("a")], ["Neutral", "Very happy", "Sad"]
    save(tmp_path / "run" / "val.parquet", clips, classes)
    found, names = load(tmp_path / "run" / "val.parquet")
    assert names == classes
    assert [c.id for c in found] == ["b", "a"]
    for one, expected in zip(found, clips, strict=True):
        assert one.group == "anna"
        assert np.array_equal(one.true_class, expected.true_class)
        for name in ("times", "probabilities", "valence_arousal", "true_valence_arousal"):
            assert getattr(one, name) == pytest.approx(getattr(expected, name), nan_ok=True, abs=1e-7)
    table = pl.read_parquet(tmp_path / "run" / "val.parquet")
    assert table.columns[3:6] == ["p_neutral", "p_very_happy", "p_sad"]
    assert table["truth"].null_count() == 2  # missing values are null, never -1 or NaN
    assert table["valence"].is_nan().sum() == 0
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["val.parquet"]


def test_loading_another_file_is_an_error(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    for name in ("other.parquet", "text.parquet", "missing.parquet"):
        with pytest.raises(ConfigError, match="is not a table of predictions") as caught:
            load(tmp_path / name)
        assert (caught.value.follows, "mien evaluate" in caught.value.remedy) == ("Nothing was computed.", True)
    with pytest.raises(OutputError, match="could not be written"):
        save(tmp_path / "text.parquet" / "val.parquet", [clip()], ["a", "b", "c"])


def test_predictions_are_interpolated_at_the_label_times() -> None:
    """Tokens at .05, .15, ... s predict their own time; frames at 30 per second interpolate them."""
    spans = []

    def predict_streams(
        streams: Mapping[str, Stream], start_s: float, stop_s: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        spans.append((start_s, stop_s))
        times = np.arange(start_s + 0.05, stop_s, 0.1)
        share = times[:, None] / 10
        return times, np.concatenate([1 - share, share], axis=1), np.concatenate([share, -share], axis=1)

    frames = np.arange(60) / 30
    labels = Labels(frames, np.zeros(60, int), np.zeros((60, 2)))
    stream = Stream(np.zeros((40, 1), np.float32), np.arange(40) / 10, np.ones(40, bool))
    found = predict(predict_streams, Recording(Clip("a", None, subject="anna", labels=labels), {"voice": stream}))
    assert spans == [(0.0, pytest.approx(2.0))]
    inside = (frames > 0.05) & (frames < 1.95)  # beyond the first and last token the prediction is constant
    assert found.probabilities[inside, 1] == pytest.approx(frames[inside] / 10)
    assert found.valence_arousal[inside, 1] == pytest.approx(-frames[inside] / 10)
    assert found.group == "anna"
    test = Recording(Clip("a", None), {"voice": stream})
    with pytest.raises(ValueError, match="times must say where"):
        predict(predict_streams, test)
    unlabelled = predict(predict_streams, test, times=frames[:7])
    assert unlabelled.true_class.tolist() == [-1] * 7
    assert unlabelled.group == "a"
