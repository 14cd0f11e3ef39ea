"""Steps of a window against loops and torch's own pooling."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.layers.time_steps import Downsampling, Steps, adaptive_mean


@pytest.mark.parametrize(("time", "steps"), [(10, 4), (12, 5), (3, 4), (1, 1), (7, 7)])
def test_adaptive_mean_equals_that_of_torch(time: int, steps: int) -> None:
    values = torch.randn(2, 3, time)
    torch.testing.assert_close(adaptive_mean(values, steps), torch.nn.functional.adaptive_avg_pool1d(values, steps))


@pytest.mark.parametrize(("tokens", "steps", "per"), [(20, 4, 20), (23, 3, 23), (23, 1, 10), (5, 1, 1), (4, 1, 9)])
def test_steps_repeat_and_interpolate(tokens: int, steps: int, per: int) -> None:
    clock = Steps(tokens, steps, per, torch.device("cpu"))
    count = -(-tokens * steps // per)
    values = torch.randn(1, count, 2)
    middles = (np.arange(tokens) + 0.5) * steps / per
    np.testing.assert_array_equal(clock.repeat(values)[0], values[0][np.floor(middles).astype(int)])
    expected = np.stack([np.interp(middles, np.arange(count) + 0.5, values[0, :, k]) for k in range(2)], axis=1)
    np.testing.assert_allclose(clock.interpolate(values)[0], expected, atol=1e-5)


def test_four_seconds_at_50_hz_become_four_steps_with_the_published_sizes() -> None:
    """The authors' layers for 199 frames: 199 -> 64 -> 12 -> 10 -> 4."""
    torch.manual_seed(0)
    block = Downsampling(8, 50.0).eval()
    tokens = torch.randn(2, 199, 8)
    maps = block.first_norm(block.first(tokens.transpose(1, 2)))
    assert maps.shape[2] == 64
    maps = torch.nn.functional.max_pool1d(maps, 5).relu()
    maps = block.second_norm(block.second(maps))
    assert maps.shape[2] == 10
    expected = torch.nn.functional.adaptive_avg_pool1d(maps, 4).relu().transpose(1, 2)
    torch.testing.assert_close(block(tokens, 4), expected)


def test_slower_tokens_are_repeated_and_short_windows_padded() -> None:
    torch.manual_seed(0)
    block, slow = Downsampling(8, 50.0).eval(), Downsampling(8, 5.0).eval()
    slow.load_state_dict(block.state_dict())
    tokens = torch.randn(1, 20, 8)
    torch.testing.assert_close(slow(tokens, 4), block(tokens.repeat_interleave(10, dim=1), 4))
    assert torch.isfinite(block.train()(tokens[:, :1], 1)).all(), "batch norm needs two values of a single short window"
