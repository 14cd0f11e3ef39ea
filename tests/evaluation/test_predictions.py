"""Predictions as a table: the rule for frames without evidence, and the way to disk and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import ConfigError, OutputError
from mien.evaluation.predictions import ClipPrediction, load, nearest_known, predict, save
from mien.records import Clip, Labels, Recording, Stream


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_the_nearest_known_frame_of_two_the_earlier(known: list[bool]) -> None:
    places = [i for i, k in enumerate(known) if k]
    golden = [min(places, key=lambda p, i=i: (abs(p - i), p)) for i in range(len(known))]  # type: ignore[misc]
    assert nearest_known(np.array(known)).tolist() == golden


def test_nothing_known() -> None:
    with pytest.raises(ValueError, match="no frame is known"):
        nearest_known(np.zeros(3, bool))
    one = clip()
    silent = replace(one, probabilities=np.full((5, 3), np.nan), valence_arousal=np.full((5, 2), np.nan))
    assert silent.chosen.tolist() == [0] * 5
    assert silent.affect.tolist() == [[0, 0]] * 5


def clip(name: str = "a") -> ClipPrediction:
    p = np.array([[0.7, 0.2, 0.1], [np.nan] * 3, [np.nan] * 3, [0.25, 0.25, 0.5], [0.0, 1.0, 0.0]])
    va = np.array([[0.5, -0.5], [np.nan, np.nan], [np.nan, 0.5], [0, 0], [1, -1]])
    true_va = np.array([[0.25, 0.5], [np.nan, np.nan], [0, 0], [1, 1], [np.nan, np.nan]])
    return ClipPrediction(name, np.arange(5) / 25, p, va, np.array([0, 1, -1, 2, 2]), true_va, "anna")


def test_every_frame_is_answered() -> None:
    assert clip().chosen.tolist() == [0, 0, 2, 2, 1]
    assert clip().affect.tolist() == [[0.5, -0.5], [0.5, -0.5], [0, 0], [0, 0], [1, -1]]


def test_there_and_back(tmp_path: Path) -> None:
    clips, classes = [clip("b"), clip("a")], ["Neutral", "Very happy", "Sad"]
    save(tmp_path / "run" / "val.parquet", clips, classes)
    found, names = load(tmp_path / "run" / "val.parquet")
    assert names == classes
    assert [c.id for c in found] == ["b", "a"]
    for one, golden in zip(found, clips, strict=True):
        assert one.group == "anna"
        assert np.array_equal(one.expression, golden.expression)
        for name in ("times", "probabilities", "valence_arousal", "true_valence_arousal"):
            assert getattr(one, name) == pytest.approx(getattr(golden, name), nan_ok=True, abs=1e-7)
    table = pl.read_parquet(tmp_path / "run" / "val.parquet")
    assert table.columns[3:6] == ["p_neutral", "p_very_happy", "p_sad"]
    assert table["truth"].null_count() == 2  # what is not there is null, never -1 or NaN
    assert table["valence"].is_nan().sum() == 0
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["val.parquet"]


def test_other_files(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("not parquet")
    for name in ("other.parquet", "text.parquet", "nowhere.parquet"):
        with pytest.raises(ConfigError, match="is not a table of predictions"):
            load(tmp_path / name)
    with pytest.raises(OutputError, match="could not be written"):
        save(tmp_path / "text.parquet" / "val.parquet", [clip()], ["a", "b", "c"])


def test_prediction_at_the_frames_of_the_labels() -> None:
    """Tokens at .05, .15, ... s that say their own time; frames at 30 a second read them off by interpolation."""
    spans = []

    def says(streams: Mapping[str, Stream], start_s: float, stop_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        spans.append((start_s, stop_s))
        times = np.arange(start_s + 0.05, stop_s, 0.1)
        share = times[:, None] / 10
        return times, np.concatenate([1 - share, share], axis=1), np.concatenate([share, -share], axis=1)

    frames = np.arange(60) / 30
    labels = Labels(frames, np.zeros(60, int), np.zeros((60, 2)))
    stream = Stream(np.zeros((40, 1), np.float32), np.arange(40) / 10, np.ones(40, bool))
    found = predict(says, Recording(Clip("a", None, subject="anna", labels=labels), {"voice": stream}))
    assert spans == [(0.0, pytest.approx(2.0))]
    inside = (frames > 0.05) & (frames < 1.95)  # the ends are held
    assert found.probabilities[inside, 1] == pytest.approx(frames[inside] / 10)
    assert found.valence_arousal[inside, 1] == pytest.approx(-frames[inside] / 10)
    assert found.group == "anna"
    test = Recording(Clip("a", None), {"voice": stream})
    with pytest.raises(ValueError, match="times must say where"):
        predict(says, test)
    unlabelled = predict(says, test, times=frames[:7])
    assert unlabelled.expression.tolist() == [-1] * 7
    assert unlabelled.group == "a"
