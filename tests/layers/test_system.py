"""Temporal convolutions, pooling, and labels of windows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mien.layers.pooling import AttentionStatistics, masked_mean
from mien.layers.system import last_labelled
from mien.layers.temporal import TemporalConvolutions, hold_last


def test_no_output_depends_on_the_future_and_the_field_is_what_it_says() -> None:
    torch.manual_seed(0)
    net = TemporalConvolutions(dim=4, levels=4, kernel=3).eval().double()
    assert net.receptive_field == 61
    tokens = torch.randn(1, 100, 4, dtype=torch.float64, requires_grad=True)
    net(tokens)[0, 80].sum().backward()
    reached = torch.nonzero(tokens.grad[0].abs().sum(-1)).flatten()
    assert reached.max() == 80
    assert reached.min() >= 80 - 60
    with torch.no_grad():
        for module in net.modules():  # positive everywhere, so that no ReLU hides a connection
            if isinstance(module, torch.nn.Conv1d):
                module.weight.abs_()
                module.bias.abs_()
    tokens = torch.rand(1, 100, 4, dtype=torch.float64, requires_grad=True)
    net(tokens)[0, 80].sum().backward()
    assert torch.nonzero(tokens.grad[0].sum(-1)).flatten().tolist() == list(range(20, 81))


def test_the_published_size_sees_253_frames() -> None:
    with torch.device("meta"):
        net = TemporalConvolutions(dim=512, levels=6, kernel=3)
    assert net.receptive_field == 253
    assert sum(p.numel() for p in net.parameters()) == 12 * (512 * 512 * 3 + 512)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 5))
def test_the_last_good_frame_is_held_so_long_and_no_longer(valid: list[bool], reach: int) -> None:
    place, there = hold_last(torch.tensor([valid]), reach)
    for t in range(len(valid)):
        before = [i for i in range(t + 1) if valid[i]]
        assert bool(there[0, t]) == (bool(before) and t - before[-1] <= reach)
        if before:
            assert int(place[0, t]) == before[-1]


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_pooling_passes_over_what_is_missing(kind: str) -> None:
    torch.manual_seed(0)
    pool = AttentionStatistics(dim=3, hidden=4) if kind == "attention" else masked_mean
    tokens, valid = torch.randn(3, 5, 3), torch.tensor([[1, 1, 0, 1, 0], [0] * 5, [1] * 5]).bool()
    out = pool(tokens, valid)
    dirty = torch.where(valid[..., None], tokens, torch.nan)
    assert torch.equal(pool(dirty, valid), out)
    torch.testing.assert_close(pool(tokens[:1, [0, 1, 3]], valid[:1, [0, 1, 3]]), out[:1])
    assert (out[1] == 0).all()


def test_a_window_is_labelled_by_its_last_label() -> None:
    label, place = last_labelled(torch.tensor([[1, 2, -1], [-1, -1, -1], [0, 1, 3]]))
    assert label.tolist() == [2, -1, 3]
    assert place.tolist()[0] == 1
