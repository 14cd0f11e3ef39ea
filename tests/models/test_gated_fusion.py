"""The gated fusion of winner_2026: independent tokens, the mean of the voice around each, and the recipe's median."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mien import config, models, soft_vote
from mien.errors import ConfigError
from tests.models.systems import batch, recipe


def build(**options: Any) -> Any:
    torch.manual_seed(0)
    return models.build(recipe("gated_fusion", **options)).eval()


def test_voice_is_the_mean_of_the_valid_tokens_around_each() -> None:
    system = build(voice_seconds=0.8)  # two tokens to each side at 5 a second
    values, valid = torch.randn(3, 9, 4), torch.rand(3, 9) > 0.5
    values[~valid] = torch.nan
    found, known = system._around(values, valid)
    for row in range(3):
        for token in range(9):
            near = [i for i in range(max(0, token - 2), min(9, token + 3)) if valid[row, i]]
            assert bool(known[row, token]) == bool(near)
            if near:
                torch.testing.assert_close(found[row, token], values[row, near].mean(dim=0))


def test_tokens_are_independent_beyond_the_voice_around_them() -> None:
    system, given = build(voice_seconds=0.4), batch()
    first = system(given.values, given.valid).logits
    given.values["face"][:, 7] += 5
    given.values["voice"][:, 7] -= 5
    changed = (system(given.values, given.valid).logits - first).abs().amax(dim=(0, 2)) > 1e-5
    assert changed.nonzero().flatten().tolist() == [6, 7, 8]


def test_a_token_with_one_modality_gives_it_the_whole_weight() -> None:
    system, given = build(voice_seconds=0), batch(missing=0.4)
    output = system(given.values, given.valid)
    face, voice = given.valid["face"], given.valid["voice"]
    assert (output.weights[face & ~voice] == torch.tensor([1.0, 0.0])).all()
    assert (output.weights[voice & ~face] == torch.tensor([0.0, 1.0])).all()
    both = output.weights[voice & face]
    assert (both > 0).all()
    torch.testing.assert_close(both.sum(dim=1), torch.ones(len(both)))


def test_probabilities_of_modality_dropout_above_1_are_refused() -> None:
    with pytest.raises(ConfigError, match="must sum to <= 1"):
        build(modality_dropout={"face": 0.7, "voice": 0.4})


def test_the_recipe_smooths_by_the_median_of_101_frames() -> None:
    vote = config.load("winner_2026").vote
    assert vote.kernel == "median"
    rng, times = np.random.default_rng(0), np.arange(400) / 30
    values = rng.random((400, 3))
    smoothed = soft_vote.smooth(values, times, vote.smooth_seconds, kernel=vote.kernel)
    np.testing.assert_allclose(smoothed[200], np.median(values[150:251], axis=0))
