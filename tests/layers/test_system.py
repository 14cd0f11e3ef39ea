"""Temporal convolutions, pooling, and labels of windows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mien.layers.pooling import AttentionStatistics, masked_mean
from mien.layers.system import last_token
from mien.layers.temporal import TemporalConvolutions, forward_fill
from mien.records import Batch, Output


def test_convolutions_are_causal_and_have_the_stated_receptive_field() -> None:
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


def test_the_published_size_has_a_receptive_field_of_253_frames() -> None:
    with torch.device("meta"):
        net = TemporalConvolutions(dim=512, levels=6, kernel=3)
    assert net.receptive_field == 253
    assert sum(p.numel() for p in net.parameters()) == 12 * (512 * 512 * 3 + 512)


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 5))
def test_forward_fill_repeats_the_last_valid_token_up_to_the_limit(valid: list[bool], limit: int) -> None:
    index, is_filled = forward_fill(torch.tensor([valid]), limit)
    for t in range(len(valid)):
        before = [i for i in range(t + 1) if valid[i]]
        assert bool(is_filled[0, t]) == (bool(before) and t - before[-1] <= limit)
        if before:
            assert int(index[0, t]) == before[-1]


@pytest.mark.parametrize("kind", ["mean", "attention"])
def test_pooling_ignores_missing_tokens(kind: str) -> None:
    torch.manual_seed(0)
    pool = AttentionStatistics(dim=3, hidden=4) if kind == "attention" else masked_mean
    tokens, valid = torch.randn(3, 5, 3), torch.tensor([[1, 1, 0, 1, 0], [0] * 5, [1] * 5]).bool()
    out = pool(tokens, valid)
    corrupted = torch.where(valid[..., None], tokens, torch.nan)
    assert torch.equal(pool(corrupted, valid), out)
    torch.testing.assert_close(pool(tokens[:1, [0, 1, 3]], valid[:1, [0, 1, 3]]), out[:1])
    assert (out[1] == 0).all()


def test_the_last_token_of_each_window_has_the_last_known_labels() -> None:
    nan = torch.nan
    output = Output(
        logits=torch.arange(18.0).view(3, 3, 2), valence_arousal=torch.arange(18.0).view(3, 3, 2),
        weights=torch.ones(3, 3, 1), evidence=torch.tensor([True, True, False]), modalities=["face"],
        score_logits={"au": torch.arange(9.0).view(3, 3, 1)},
    )  # fmt: skip
    batch = Batch(
        values={}, valid={}, expression=torch.tensor([[1, 2, -1], [-1, -1, -1], [0, 1, 3]]),
        valence_arousal=torch.tensor([[[0.1, 0.2], [0.3, nan], [nan, nan]], [[nan, nan]] * 3, [[0.4, 0.5]] * 3]),
        scores={"au": torch.tensor([[[1.0], [0.0], [nan]], [[nan]] * 3, [[nan], [nan], [1.0]]])},
    )  # fmt: skip
    last, labels = last_token(output, batch)
    assert last.logits.tolist() == [[[4.0, 5.0]], [[10.0, 11.0]], [[16.0, 17.0]]]
    assert last.valence_arousal.shape == (3, 1, 2)
    assert last.weights.shape == (3, 1, 1)
    assert last.score_logits["au"].flatten().tolist() == [2.0, 5.0, 8.0]
    assert labels.expression is not None
    assert labels.expression.tolist() == [[2], [-1], [3]]
    assert labels.valence_arousal is not None
    torch.testing.assert_close(
        labels.valence_arousal, torch.tensor([[[0.1, 0.2]], [[nan, nan]], [[0.4, 0.5]]]), equal_nan=True
    )
    torch.testing.assert_close(labels.scores["au"].flatten(), torch.tensor([0.0, nan, 1.0]), equal_nan=True)
