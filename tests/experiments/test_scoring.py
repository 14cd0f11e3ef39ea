"""Corruptions of recordings, and scores of checkpoints on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import pytest
from sklearn.metrics import f1_score

from experiments.scoring import classify_utterances, drop_in_bursts, remove_stream, score_recordings
from mien import config, models
from mien.checkpoint import Checkpoint
from mien.labels import NEUTRAL
from mien.records import FACE, VOICE, Clip, Labels, Recording, Stream


def recording(number: int, seconds: float = 20.0) -> Recording:
    rng = np.random.default_rng(number)
    times = np.arange(0, seconds, 1 / 25)
    labels = Labels(times, rng.integers(0, 8, len(times)), rng.uniform(-1, 1, (len(times), 2)))
    streams = {
        name: Stream(rng.normal(size=(len(times), 4)).astype(np.float32) + 5, times, rng.random(len(times)) < 0.9)
        for name in (FACE, VOICE)
    }
    return Recording(Clip(f"clip{number}", None, labels=labels), streams)


Prediction = tuple[np.ndarray, np.ndarray, np.ndarray]


class Oracle:
    """Checkpoint that predicts a fixed class for each recording with high probability, NaN without a face."""

    labels = ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other")

    def __init__(self, classes: Mapping[float, int]) -> None:
        self.classes = classes
        self.recipe = config.load("synthetic", check=models.problems)

    def predict_streams(self, streams: Mapping[str, Stream], start_s: float, stop_s: float) -> Prediction:
        times = np.arange(start_s, stop_s, 0.04)
        p = np.full((len(times), 8), 0.01)
        p[:, self.classes[float(next(iter(streams.values())).values[0, 0])]] = 0.93
        if FACE not in streams:
            p[:] = np.nan
        return times, p, np.zeros((len(times), 2))


def test_scores_equal_those_of_sklearn_over_all_frames() -> None:
    recordings = [recording(n) for n in range(5)]
    classes = {float(r.streams[FACE].values[0, 0]): n for n, r in enumerate(recordings)}
    result = score_recordings(cast(Checkpoint, Oracle(classes)), recordings)
    truth = np.concatenate([r.clip.labels.expression for r in recordings if r.clip.labels])
    predicted = np.concatenate([np.full(500, n) for n in range(5)])
    assert result.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro", labels=range(8)))
    np.testing.assert_allclose(result.f1, f1_score(truth, predicted, average=None, labels=range(8)))
    assert result.missing == 0


def test_a_missing_prediction_counts_as_neutral() -> None:
    recordings = [recording(n) for n in range(2)]
    classes = {float(r.streams[name].values[0, 0]): 3 for r in recordings for name in (FACE, VOICE)}
    result = score_recordings(cast(Checkpoint, Oracle(classes)), recordings, remove_stream(FACE))
    truth = np.concatenate([r.clip.labels.expression for r in recordings if r.clip.labels])
    assert result.missing == 1
    assert result.macro_f1 == pytest.approx(
        f1_score(truth, np.full(len(truth), NEUTRAL), average="macro", labels=range(8))
    )


def test_remove_stream_removes_one_stream_only() -> None:
    clean = recording(0)
    corrupted = remove_stream(FACE)(clean, 0)
    assert set(corrupted.streams) == {VOICE}
    assert corrupted.streams[VOICE] is clean.streams[VOICE]
    assert set(clean.streams) == {FACE, VOICE}, "the recording itself is not changed"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_drop_in_bursts_drops_the_share_in_intervals_and_nothing_else(share: float) -> None:
    clean = recording(1)
    corrupted = drop_in_bursts(FACE, share)(clean, 1)
    before, after = clean.streams[FACE], corrupted.streams[FACE]
    dropped = before.valid & ~after.valid
    assert dropped.sum() / before.valid.sum() == pytest.approx(share, abs=0.01)
    assert not (after.valid & ~before.valid).any()
    assert np.array_equal(after.values[after.valid], before.values[after.valid])
    assert corrupted.streams[VOICE] is clean.streams[VOICE]
    starts = np.count_nonzero(np.diff(np.r_[0, dropped[before.valid].astype(int)]) == 1)
    assert dropped.sum() / starts > 10, "intervals of about a second; single frames would give 1 to 10"
    assert np.array_equal(drop_in_bursts(FACE, share)(clean, 1).streams[FACE].valid, after.valid)
    assert not np.array_equal(drop_in_bursts(FACE, share)(clean, 2).streams[FACE].valid, after.valid)


def test_an_utterance_has_the_class_of_its_mean_probability_and_silence_has_none() -> None:
    recordings = [recording(n, 2.0) for n in range(3)]
    classes = {float(r.streams[VOICE].values[0, 0]): n + 2 for n, r in enumerate(recordings)}

    class Voice(Oracle):
        def predict_streams(self, streams: Mapping[str, Stream], start_s: float, stop_s: float) -> Prediction:
            return super().predict_streams({FACE: streams[VOICE]}, start_s, stop_s)

    silent = recordings[2].streams[VOICE]
    recordings[2] = Recording(
        recordings[2].clip, {VOICE: Stream(silent.values, silent.times, np.zeros(len(silent.times), bool))}
    )
    assert classify_utterances(cast(Checkpoint, Voice(classes)), recordings).tolist() == [2, 3, -1]
