"""The five invariants of safe attention, on output and gradients, over masks, precisions and shapes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mien.layers.attention import SafeAttention, SafeCrossBlock, SharedDropout
from mien.layers.temporal import TransformerLayer, sinusoidal_positions

BAD = (math.nan, math.inf, -math.inf, 1e30, 0.0)


@st.composite
def cases(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)) -> dict[str, Tensor]:
    batch, queries, keys = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from(dtypes))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    rows = [draw(st.lists(st.booleans(), min_size=keys, max_size=keys)) for _ in range(batch)]
    return {
        "query": torch.randn(batch, queries, 8, generator=g).to(dtype),
        "keys": torch.randn(batch, keys, 8, generator=g).to(dtype),
        "valid": torch.tensor(rows),
    }


def layers(kind: str, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = {
        "attention": SafeAttention(dim=8, heads=2),
        "cross": SafeCrossBlock(dim=8, heads=2),
    }[kind]
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.4)  # biases too: a bias must not leak into an empty row
    return layer.to(dtype)


def run(layer: torch.nn.Module, query: Tensor, keys: Tensor, valid: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Output, and gradients of everything that has one: queries, keys, weights."""
    query, keys = query.clone().requires_grad_(), keys.clone().requires_grad_()
    out = layer(query, keys, valid)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
    grads = torch.autograd.grad((out * weights).sum(), [query, keys, *layer.parameters()], allow_unused=True)
    return out.detach(), [g if g is not None else torch.zeros(1) for g in grads]


@pytest.mark.parametrize("kind", ["attention", "cross"])
@given(case=cases())
def test_1_every_mask_is_finite(kind: str, case: dict[str, Tensor]) -> None:
    out, grads = run(layers(kind, case["query"].dtype), case["query"], case["keys"], case["valid"])
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(g).all() for g in grads)


@given(case=cases())
def test_2_a_query_without_a_valid_key_gets_exactly_zero(case: dict[str, Tensor]) -> None:
    out, grads = run(layers("attention", case["query"].dtype), case["query"], case["keys"], case["valid"])
    empty = ~case["valid"].any(1)
    assert not out[empty].any()
    assert out[~empty].any() or not (~empty).any()
    assert not grads[0][empty].any()
    crossed, _ = run(layers("cross", case["query"].dtype), case["query"], case["keys"], case["valid"])
    assert torch.equal(crossed[empty], case["query"][empty])


@pytest.mark.parametrize("kind", ["attention", "cross"])
@given(case=cases(), bad=st.sampled_from(BAD))
def test_3_values_at_invalid_keys_change_no_bit(kind: str, case: dict[str, Tensor], bad: float) -> None:
    layer = layers(kind, case["query"].dtype)
    spoiled = case["keys"].masked_fill(~case["valid"][..., None], bad)
    out, grads = run(layer, case["query"], case["keys"], case["valid"])
    out2, grads2 = run(layer, case["query"], spoiled, case["valid"])
    assert torch.equal(out, out2)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads2, strict=True))
    assert not grads[1][~case["valid"]].any()


@pytest.mark.parametrize("kind", ["attention", "cross"])
@given(case=cases((torch.float64,)), padding=st.integers(1, 5))
def test_4_padding_changes_nothing(kind: str, case: dict[str, Tensor], padding: int) -> None:
    layer = layers(kind, torch.float64)
    batch, _keys, dim = case["keys"].shape
    padded = torch.cat((case["keys"], torch.full((batch, padding, dim), math.nan, dtype=torch.float64)), 1)
    valid = torch.cat((case["valid"], torch.zeros(batch, padding, dtype=torch.bool)), 1)
    together, _ = run(layer, case["query"], padded, valid)
    for row in range(batch):
        alone, _ = run(layer, case["query"][row : row + 1], case["keys"][row : row + 1], case["valid"][row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


@given(case=cases((torch.float64,)))
def test_equals_plain_attention_over_the_valid_keys(case: dict[str, Tensor]) -> None:
    """Against a plain computation with only the valid keys there."""
    layer = layers("attention", torch.float64)
    out, _ = run(layer, case["query"], case["keys"], case["valid"])
    for row in range(len(out)):
        keys = case["keys"][row][case["valid"][row]]
        if not len(keys):
            continue
        q = layer.query(case["query"][row]).view(-1, 2, 4)
        k, v = layer.key_value(keys).view(-1, 2, 2, 4).unbind(1)
        weights = (torch.einsum("qhd,khd->hqk", q, k) / 2.0).softmax(-1)
        expected = layer.output(torch.einsum("hqk,khd->qhd", weights, v).reshape(-1, 8))
        torch.testing.assert_close(out[row], expected, rtol=1e-10, atol=1e-10)


def test_no_keys_at_all_is_zero() -> None:
    out = SafeAttention(dim=8, heads=2)(torch.randn(2, 3, 8), torch.zeros(2, 0, 8), torch.zeros(2, 0, dtype=torch.bool))
    assert not out.any()


def test_key_width_and_indivisible_heads() -> None:
    layer = SafeAttention(dim=8, heads=2, key_dim=5)
    assert layer(torch.randn(1, 3, 8), torch.randn(1, 4, 5), torch.ones(1, 4, dtype=torch.bool)).shape == (1, 3, 8)
    with pytest.raises(ValueError, match="dim 10 is not divisible by heads 4"):
        SafeAttention(dim=10, heads=4)


def test_naive_is_not_safe() -> None:
    """What the ablation compares with: right where keys are valid, and none of the invariants where they are not."""
    torch.manual_seed(0)
    safe, naive = SafeAttention(dim=8, heads=2), SafeAttention(dim=8, heads=2, kind="naive")
    naive.load_state_dict(safe.state_dict())
    query, keys = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    valid = torch.tensor([[True, True, False, False], [False] * 4])
    torch.testing.assert_close(safe(query, keys, valid)[0], naive(query, keys, valid)[0])
    assert naive(query, keys, valid)[1].abs().min() > 0
    keys[0, 3, 0] = math.nan
    assert torch.isfinite(safe(query, keys, valid)).all()
    assert torch.isnan(naive(query, keys, valid)[0]).any()


@given(seed=st.integers(0, 1000), bad=st.sampled_from(BAD))
def test_transformer_layer_reads_valid_tokens_only(seed: int, bad: float) -> None:
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(1)
    layer = TransformerLayer(dim=8, heads=2, feedforward=16).double()
    tokens = torch.randn(2, 6, 8, generator=g, dtype=torch.float64)
    valid = torch.rand(2, 6, generator=g) < 0.5
    out = layer(tokens, valid)
    changed = tokens.masked_fill(~valid[..., None], bad if math.isfinite(bad) else 3.0)
    assert torch.equal(layer(changed, valid)[valid], out[valid])


def test_positions_equal_the_papers() -> None:
    codes = sinusoidal_positions(50, 6)
    assert codes.shape == (50, 6)
    for position in (0, 1, 49):
        for i in range(3):
            angle = position / 10000 ** (i / 3)
            assert codes[position, i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert codes[position, 3 + i].item() == pytest.approx(math.cos(angle), abs=1e-5)
    assert sinusoidal_positions(4, 5).shape == (4, 5)


def test_shared_dropout_drops_a_unit_for_the_whole_window() -> None:
    torch.manual_seed(0)
    drop = SharedDropout(0.25)
    out = drop(torch.ones(400, 5, 40))
    assert torch.equal(out, out[:, :1].expand_as(out))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(drop.eval()(torch.ones(2, 3, 4)), torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match=r"dropout must lie in \[0, 1\), got 1"):
        SharedDropout(1.0)
