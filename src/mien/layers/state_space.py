"""A selective state-space layer (Mamba) that knows what is missing.

Gu and Dao 2023, arXiv 2312.00752, algorithm 2 and section 3.4: a diagonal linear recurrence whose step, input and
output depend on the token, `h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t`, `y_t = C_t h_t + D x_t`, between a short causal
convolution and a gate. Where a token is missing the step is zero: the state passes it unchanged.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Recurrence(torch.autograd.Function):
    """`h_t = a_t h_{t-1} + b_t` over the first axis, from zero; `(time, ...)`. One multiply-add a step either way:
    autograd through the loop would keep and launch five times as much."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        h = torch.empty_like(b)
        h[0] = b[0]
        for t in range(1, len(b)):
            torch.addcmul(b[t], a[t], h[t - 1], out=h[t])
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        a, h = ctx.saved_tensors
        g = grads[0].clone(memory_format=torch.contiguous_format)
        for t in range(len(a) - 2, -1, -1):
            g[t].addcmul_(a[t + 1], g[t + 1])
        da = torch.zeros_like(a)
        torch.mul(g[1:], h[:-1], out=da[1:])
        return da, g


def recurrence(a: Tensor, b: Tensor) -> Tensor:
    """`h_t = a_t h_{t-1} + b_t`, `(time, ...)` each; `h_0 = b_0`."""
    out: Tensor = _Recurrence.apply(a.contiguous(), b.contiguous())
    return out


def selective_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """The recurrence of the module's page.

    x, dt: `(batch, time, inner)`, dt >= 0 (0: the token is passed over). a: `(inner, state)`, negative. b, c: `(batch,
    time, state)`. d: `(inner,)`. Returns `(batch, time, inner)`. On CUDA with the package mamba-ssm its kernel is used;
    both equal the plain loop to 1e-4 (tested where each can run).
    """
    if x.is_cuda and (kernel := _kernel()) is not None:
        made = kernel(
            *(t.transpose(1, 2).contiguous() for t in (x, dt)), a, *(t.transpose(1, 2).contiguous() for t in (b, c))
        )
        return made.transpose(1, 2) + x * d
    step = dt.transpose(0, 1)[..., None]
    decay = torch.exp(step * a)
    drive = (dt * x).transpose(0, 1)[..., None] * b.transpose(0, 1)[:, :, None]
    h = recurrence(decay, drive)
    return torch.einsum("tbin,tbn->bti", h, c.transpose(0, 1)) + x * d


def _kernel() -> Any:
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


class MambaLayer(nn.Module):
    """Pre-norm residual Mamba block: `tokens + dropout(mamba(norm(tokens)))`. Causal.

    state: of each channel. kernel: of the depthwise convolution. expand: inner width over `dim`. Initialisation is the
    paper's: A = -(1..state), steps log-uniform in [.001, .1].
    """

    def __init__(self, *, dim: int, state: int = 16, kernel: int = 4, expand: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        inner, self.rank, self.state = expand * dim, math.ceil(dim / 16), state
        self.norm = nn.LayerNorm(dim)
        self.enter = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.select = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.step = nn.Linear(self.rank, inner)
        self.log_a = nn.Parameter(torch.arange(1, state + 1).float().log().repeat(inner, 1))
        self.direct = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, dim, bias=False)
        self.drop = nn.Dropout(dropout)
        with torch.no_grad():
            nn.init.uniform_(self.step.weight, -(self.rank**-0.5), self.rank**-0.5)
            steps = torch.exp(torch.rand(inner) * math.log(100) + math.log(1e-3))
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus of it is `steps`

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens `(batch, time, dim)`, finite; valid `(batch, time)` bool -> `(batch, time, dim)`. A missing token
        changes no other token's output."""
        there = valid[..., None]
        x, gate = self.enter(self.norm(tokens)).chunk(2, dim=-1)
        x = x.masked_fill(~there, 0.0)
        x = F.silu(self.conv(F.pad(x.transpose(1, 2), (self.conv.kernel_size[0] - 1, 0))).transpose(1, 2))
        rank, b, c = self.select(x).split([self.rank, self.state, self.state], dim=-1)
        dt = F.softplus(self.step(rank)).masked_fill(~there, 0.0)
        y = selective_scan(x, dt, -self.log_a.exp(), b, c, self.direct)
        return tokens + self.drop(self.leave(y * F.silu(gate)))
