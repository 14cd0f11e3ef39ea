"""The selective scan against a plain loop, and the Mamba layer's causality and masks."""

from __future__ import annotations

import pytest
import torch

from mien.layers.state_space import MambaLayer, recurrence, selective_scan


def plain(
    x: torch.Tensor, dt: torch.Tensor, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, d: torch.Tensor
) -> torch.Tensor:
    """Arithmetic as the paper writes it, one token at a time."""
    batch, time, inner = x.shape
    h, rows = torch.zeros(batch, inner, a.shape[1], dtype=x.dtype, device=x.device), []
    for t in range(time):
        h = torch.exp(dt[:, t, :, None] * a) * h + dt[:, t, :, None] * b[:, t, None, :] * x[:, t, :, None]
        rows.append((h * c[:, t, None, :]).sum(-1) + d * x[:, t])
    return torch.stack(rows, dim=1)


def random_inputs(dtype: torch.dtype = torch.float32, device: str = "cpu") -> list[torch.Tensor]:
    torch.manual_seed(0)
    x, dt = torch.randn(2, 30, 6), torch.rand(2, 30, 6)
    tensors = [x, dt, -torch.rand(6, 4), torch.randn(2, 30, 4), torch.randn(2, 30, 4), torch.randn(6)]
    return [t.to(device, dtype).requires_grad_() for t in tensors]


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_scan_and_gradients_equal_the_plain_loop(device: str) -> None:
    ours, reference = random_inputs(device=device), random_inputs(device=device)
    a, b = selective_scan(*ours), plain(*reference)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    weight = torch.randn(a.shape, device=device)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    for tensor, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(tensor.grad, expected.grad, rtol=1e-4, atol=1e-4)


def test_the_recurrence_passes_gradcheck() -> None:
    a, b = (torch.rand(5, 2, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(recurrence, (a, b))


def test_layer_is_causal_and_ignores_missing_tokens() -> None:
    torch.manual_seed(0)
    layer = MambaLayer(dim=16, state=4, kernel=5).eval()
    tokens, valid = torch.randn(2, 20, 16), torch.rand(2, 20) > 0.3
    out = layer(tokens, valid)
    later = tokens.clone()
    later[:, 12:] += 1
    assert torch.equal(layer(later, valid)[:, :12], out[:, :12])
    other = torch.where(valid[..., None], tokens, torch.randn_like(tokens))
    assert torch.equal(layer(other, valid)[valid], out[valid])
    padded = layer(torch.cat((tokens, torch.zeros(2, 5, 16)), 1), torch.cat((valid, torch.zeros(2, 5).bool()), 1))
    torch.testing.assert_close(padded[:, :20], out)
    assert torch.isfinite(layer(tokens, torch.zeros_like(valid))).all()


def test_number_of_parameters() -> None:
    dim, state, kernel = 256, 8, 5
    inner, rank = dim, dim // 16
    layer = MambaLayer(dim=dim, state=state, kernel=kernel)
    want = 2 * dim + dim * 2 * inner + inner * (kernel + 1) + inner * (rank + 2 * state) + rank * inner + inner
    want += inner * state + inner + inner * dim
    assert sum(p.numel() for p in layer.parameters()) == want
