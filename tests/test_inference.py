"""Prediction with trailing windows: causal, padded before the start, and silent where there is no evidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mien import soft_vote
from mien.inference import InferenceSettings, InputFeature, embed_streams, predict_streams
from mien.records import Stream

RATE = 10.0
SETTINGS = InferenceSettings(
    labels=["a", "b"],
    features={"face": InputFeature("f", 1), "voice": InputFeature("v", 1)},
    window_s=0.8,
    rate_hz=RATE,
    hop_s=0.1,
    triangular=False,
    smooth_s=0.0,
    temperature=1.0,
    trailing=True,
)


def network(values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One answer for each window: the mean face as valence, the mean voice as arousal, 0 where there is none."""
    windows, tokens = valid["face"].shape
    means = [
        np.where(valid[n], values[n][..., 0], 0).sum(1) / np.maximum(valid[n].sum(1), 1) for n in ("face", "voice")
    ]
    affect = np.repeat(np.stack(means, axis=1)[:, None], tokens, axis=1).astype(np.float32)
    return np.zeros((windows, tokens, 2), np.float32), affect


def streams(face: np.ndarray, voice: np.ndarray, valid: np.ndarray | None = None) -> dict[str, Stream]:
    times = np.arange(len(face)) / RATE + 0.05
    known = np.ones(len(face), bool) if valid is None else valid
    return {
        "face": Stream(face[:, None].astype(np.float32), times, known),
        "voice": Stream(voice[:, None].astype(np.float32), times, known.copy()),
    }


def predicted(given: dict[str, Stream], **changes: object) -> np.ndarray:
    count = len(given["face"].times)
    return predict_streams(network, replace(SETTINGS, **changes), given, 0.0, count / RATE).valence_arousal


def noise(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_before_the_start_the_first_face_is_repeated_and_the_voice_is_missing(count: int) -> None:
    face, voice = noise(count, 0), noise(count, 1)
    found = predicted(streams(face, voice))
    for t in range(count):
        seen = [face[max(0, i)] for i in range(t - 7, t + 1)]
        assert found[t, 0] == pytest.approx(np.mean(seen), abs=1e-6)
        assert found[t, 1] == pytest.approx(np.mean(voice[max(0, t - 7) : t + 1]), abs=1e-6)


@pytest.mark.parametrize("hop", [1, 3, 8])
@pytest.mark.parametrize("count", [2, 5, 20])
def test_no_prediction_depends_on_tokens_more_than_a_hop_later(hop: int, count: int) -> None:
    face, voice = noise(count, 2), noise(count, 3)
    before = predicted(streams(face, voice), hop_s=hop / RATE)
    for t in range(count):
        changed = face.copy()
        changed[t + hop :] += 1
        np.testing.assert_array_equal(predicted(streams(changed, voice), hop_s=hop / RATE)[: t + 1], before[: t + 1])


def test_a_later_window_does_not_answer_for_one_without_evidence() -> None:
    """Faces and voices begin at the twelfth token: nothing before is predicted, everything after is."""
    valid = np.arange(30) >= 12
    found = predicted(streams(noise(30, 4), noise(30, 5), valid))
    assert np.isnan(found[:12]).all()
    assert np.isfinite(found[12:]).all()


def test_without_trailing_windows_the_start_is_not_padded() -> None:
    face, voice = noise(8, 6), noise(8, 7)
    found = predicted(streams(face, voice), trailing=False)
    np.testing.assert_allclose(found, np.tile([face.mean(), voice.mean()], (8, 1)), atol=1e-6)


def embed(values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Two values for each token: those of both modalities, plus the mean of its window; known where one is valid."""
    face, voice = (np.where(valid[name][..., None], values[name], 0) for name in ("face", "voice"))
    both = np.concatenate([face, voice], axis=2)
    return both + both.mean(axis=1, keepdims=True), valid["face"] | valid["voice"]


@pytest.mark.parametrize("trailing", [False, True])
@pytest.mark.parametrize("part", [1, 5, 13, 64])
def test_tokens_read_in_parts_give_the_same_predictions_and_embeddings(
    part: int, trailing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = np.random.default_rng(2).random(60) > 0.4
    known[20:45] = False
    given = streams(noise(60, 0), noise(60, 1), known)
    settings = replace(SETTINGS, trailing=trailing, hop_s=0.3, triangular=True)
    whole = predict_streams(network, settings, given, 0.0, 6.0, batch=2)
    embedded = embed_streams(embed, settings, given)
    monkeypatch.setattr(soft_vote, "PART", part)
    parts = predict_streams(network, settings, given, 0.0, 6.0, batch=2)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a, b)
    again = embed_streams(embed, settings, given)
    assert embedded.valid.any()
    assert not embedded.valid.all()
    np.testing.assert_array_equal(again.values, embedded.values)
    np.testing.assert_array_equal(again.valid, embedded.valid)


def test_without_streams_there_is_no_embedding() -> None:
    empty = embed_streams(embed, SETTINGS, {})
    assert empty.dim == 0
    assert not empty.valid.any()
