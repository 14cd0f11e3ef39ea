"""How benchmarks spoil recordings and score them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from sklearn.metrics import f1_score

from experiments.scoring import bursts, said_of_utterances, score, without
from mien import config, models
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


class Oracle:
    """Says a fixed class for each recording, sure of it; NaN where the face is gone."""

    labels = ("Neutral", "Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Other")

    def __init__(self, classes: Mapping[float, int]) -> None:
        self.classes = classes
        self.recipe = config.load("starter", check=models.problems)

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        times = np.arange(start_s, stop_s, 0.04)
        p = np.full((len(times), 8), 0.01)
        p[:, self.classes[float(next(iter(streams.values())).values[0, 0])]] = 0.93
        if FACE not in streams:
            p[:] = np.nan
        return times, p, np.zeros((len(times), 2))


def test_the_score_is_sklearns_over_all_frames() -> None:
    made = [recording(n) for n in range(5)]
    said = {float(r.streams[FACE].values[0, 0]): n for n, r in enumerate(made)}
    result = score(Oracle(said), made)  # type: ignore[arg-type]
    truth = np.concatenate([r.clip.labels.expression for r in made if r.clip.labels])
    named = np.concatenate([np.full(500, n) for n in range(5)])
    assert result["macro_f1"] == pytest.approx(f1_score(truth, named, average="macro", labels=range(8)))
    np.testing.assert_allclose(result["f1"], f1_score(truth, named, average=None, labels=range(8)))
    assert result["nan"] == 0


def test_no_answer_counts_as_neutral() -> None:
    made = [recording(n) for n in range(2)]
    said = {float(r.streams[name].values[0, 0]): 3 for r in made for name in (FACE, VOICE)}
    result = score(Oracle(said), made, without(FACE))  # type: ignore[arg-type]
    truth = np.concatenate([r.clip.labels.expression for r in made if r.clip.labels])
    assert result["nan"] == 1
    assert result["macro_f1"] == pytest.approx(
        f1_score(truth, np.full(len(truth), NEUTRAL), average="macro", labels=range(8))
    )


def test_without_takes_one_stream_and_leaves_the_other() -> None:
    made = recording(0)
    spoilt = without(FACE)(made, 0)
    assert set(spoilt.streams) == {VOICE}
    assert spoilt.streams[VOICE] is made.streams[VOICE]
    assert set(made.streams) == {FACE, VOICE}, "the recording itself is not changed"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_bursts_take_the_share_in_stretches_and_nothing_else(share: float) -> None:
    made = recording(1)
    spoilt = bursts(FACE, share)(made, 1)
    before, after = made.streams[FACE], spoilt.streams[FACE]
    gone = before.valid & ~after.valid
    assert gone.sum() / before.valid.sum() == pytest.approx(share, abs=0.01)
    assert not (after.valid & ~before.valid).any()
    assert np.array_equal(after.values[after.valid], before.values[after.valid])
    assert spoilt.streams[VOICE] is made.streams[VOICE]
    starts = np.count_nonzero(np.diff(np.r_[0, gone[before.valid].astype(int)]) == 1)
    assert gone.sum() / starts > 10, "stretches of about a second; single frames would make 1 to 10"
    assert np.array_equal(bursts(FACE, share)(made, 1).streams[FACE].valid, after.valid)
    assert not np.array_equal(bursts(FACE, share)(made, 2).streams[FACE].valid, after.valid)


def test_an_utterance_is_named_by_its_mean_and_silence_is_not_named() -> None:
    made = [recording(n, 2.0) for n in range(3)]
    said = {float(r.streams[VOICE].values[0, 0]): n + 2 for n, r in enumerate(made)}

    class Voice(Oracle):
        def predict_streams(self, streams: Mapping[str, Stream], start_s: float, stop_s: float) -> tuple:
            times, p, va = super().predict_streams({FACE: streams[VOICE]}, start_s, stop_s)
            return times, p, va

    silent = made[2].streams[VOICE]
    made[2] = Recording(made[2].clip, {VOICE: Stream(silent.values, silent.times, np.zeros(len(silent.times), bool))})
    assert said_of_utterances(Voice(said), made).tolist() == [2, 3, -1]  # type: ignore[arg-type]
