"""Modality dropout and gated fusion."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mien.layers.gated_fusion import GatedFusion
from mien.layers.modality_dropout import ModalityDropout


def masks(batch: int = 4000, time: int = 40) -> dict[str, torch.Tensor]:
    return {name: torch.ones(batch, time, dtype=torch.bool) for name in ("face", "voice")}


def test_whole_modalities_drop_at_their_rates_and_never_both() -> None:
    dropout = ModalityDropout(whole={"face": 0.1, "voice": 0.3}, bursts={})
    out = dropout(masks(), torch.Generator().manual_seed(0))
    dropped = {name: ~mask.any(1) for name, mask in out.items()}
    assert dropped["face"].float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert dropped["voice"].float().mean().item() == pytest.approx(0.3, abs=0.02)
    assert not (dropped["face"] & dropped["voice"]).any()
    for mask in out.values():
        assert (mask.all(1) | ~mask.any(1)).all()


def test_bursts_are_blocks_of_the_given_length() -> None:
    dropout = ModalityDropout(whole={}, bursts={"face": 0.5}, burst_tokens=(5, 5))
    out = dropout(masks(), torch.Generator().manual_seed(0))
    assert out["voice"].all()
    is_affected = ~out["face"].all(1)
    # half the samples are is_affected; each then loses a share that is even on 0..1
    assert (~out["face"]).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert 0.4 < is_affected.float().mean().item() < 0.5  # a is_affected sample may lose nothing
    for row in out["face"][is_affected][:300].tolist():
        runs = "".join("x" if not kept else "." for kept in row).split(".")
        inner = [len(run) for run in runs if run]
        edges = (len(runs[0]), len(runs[-1]))  # cut by the window's ends
        assert all(n % 5 == 0 or n in edges for n in inner)


@given(seed=st.integers(0, 10**6), face=st.floats(0, 1), p=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_sample_keeps_a_token_and_gains_none(seed: int, face: float, p: float) -> None:
    g = torch.Generator().manual_seed(seed)
    valid = {"face": torch.rand(16, 12, generator=g) < face, "voice": torch.rand(16, 12, generator=g) < 0.2}
    dropout = ModalityDropout(
        whole={"face": p, "voice": (1 - p)}, bursts={"face": 1.0, "voice": 1.0}, burst_tokens=(1, 4)
    )
    out = dropout(valid, g)
    had = valid["face"].any(1) | valid["voice"].any(1)
    has = out["face"].any(1) | out["voice"].any(1)
    assert torch.equal(had, has)
    for name in valid:
        assert not (out[name] & ~valid[name]).any()


def test_random_numbers_come_from_torchs_generator_and_only_in_training() -> None:
    dropout = ModalityDropout(whole={"face": 0.5}, bursts={"voice": 0.5})
    drawn = []
    for _ in range(2):
        torch.manual_seed(7)
        drawn.append(dropout(masks(64)))
    assert all(torch.equal(drawn[0][n], drawn[1][n]) for n in drawn[0])
    assert not drawn[0]["face"].all()
    before = torch.get_rng_state()
    out = dropout.eval()(masks(64))
    assert all(m.all() for m in out.values())
    assert torch.equal(before, torch.get_rng_state())


def test_probabilities_above_one_in_sum_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to <= 1; got"):
        ModalityDropout(whole={"face": 0.6, "voice": 0.6}, bursts={})


@given(seed=st.integers(0, 10**6), dtype=st.sampled_from([torch.float32, torch.bfloat16]))
def test_fusion_of_one_present_modality_equals_it(seed: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(seed)
    torch.manual_seed(0)
    fusion = GatedFusion(dim=6, modalities=["face", "voice"]).to(dtype)
    tokens = {n: torch.randn(4, 5, 6, generator=g).to(dtype).requires_grad_() for n in ("face", "voice")}
    present = {"face": torch.tensor([True, True, False, False]), "voice": torch.tensor([True, False, True, False])}
    out, weights = fusion(tokens, present)
    assert torch.equal(out[1], tokens["face"][1])
    assert torch.equal(out[2], tokens["voice"][2])
    assert not out[3].any()
    assert torch.equal(weights[1], torch.tensor([1.0, 0.0], dtype=dtype).expand(5, 2))
    assert not weights[3].any()
    if dtype == torch.float32:
        torch.testing.assert_close(weights[0].sum(-1), torch.ones(5))
    out.sum().backward()
    assert torch.isfinite(tokens["face"].grad).all()
    assert not tokens["face"].grad[2:].any()
    assert all(torch.isfinite(p.grad).all() for p in fusion.parameters())


def test_naive_fusion_shares_weight_with_absent_modalities() -> None:
    torch.manual_seed(0)
    fusion = GatedFusion(dim=6, modalities=["face", "voice"], kind="naive")
    tokens = {n: torch.randn(1, 5, 6) for n in ("face", "voice")}
    _, weights = fusion(tokens, {"face": torch.tensor([False]), "voice": torch.tensor([True])})
    assert (weights[..., 0] > 0).all()
