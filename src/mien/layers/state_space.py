"""Selective state-space layer (Mamba) with a mask for missing tokens.

Source: Gu and Dao 2023, arXiv 2312.00752, algorithm 2 and section 3.4. A diagonal linear recurrence, whose step size,
input and output matrices depend on the token, stands between a short causal convolution and a gate:

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t
    y_t = C_t h_t + D x_t

At a missing token the step size is zero, so that the state passes it unchanged (our choice: the paper has no masks).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, FunctionCtx


class _Recurrence(torch.autograd.Function):
    """`recurrence` with its own gradient: one multiply-add per step in each direction.

    Autograd through the loop would store and launch five times as much.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, b: Tensor) -> Tensor:
        h = torch.empty_like(b)
        h[0] = b[0]
        for t in range(1, len(b)):
            torch.addcmul(b[t], a[t], h[t - 1], out=h[t])
        ctx.save_for_backward(a, h)
        return h

    @staticmethod
    def backward(ctx: BackwardCFunction, *grads: Tensor) -> tuple[Tensor, Tensor]:
        saved: tuple[Tensor, ...] = ctx.saved_tensors  # torch's stubs give it length 1
        a, h = saved
        g = grads[0].clone(memory_format=torch.contiguous_format)
        for t in range(len(a) - 2, -1, -1):
            g[t].addcmul_(a[t + 1], g[t + 1])
        da = torch.zeros_like(a)
        torch.mul(g[1:], h[:-1], out=da[1:])
        return da, g


def recurrence(a: Tensor, b: Tensor) -> Tensor:
    """Linear recurrence over the first axis: `h_t = a_t h_{t-1} + b_t` with `h_0 = b_0`; all `(time, ...)`."""
    output: Tensor = _Recurrence.apply(a.contiguous(), b.contiguous())  # type: ignore[no-untyped-call]  # untyped in torch
    return output


def selective_scan(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Selective scan: the two equations at the top of this module.

    Uses the kernel of the package mamba-ssm on CUDA if it is installed. Both implementations equal a plain loop to 1e-4
    (tested on devices where they run).

    Args:
        x: `(batch, time, inner)`. dt: `(batch, time, inner)`, step sizes >= 0; 0 skips the token. a: `(inner, state)`,
            negative. b, c: `(batch, time, state)`. d: `(inner,)`.

    Returns `(batch, time, inner)`.
    """
    if x.is_cuda and (kernel := _kernel()) is not None:
        channels_first = [t.transpose(1, 2).contiguous() for t in (x, dt, b, c)]
        return kernel(*channels_first[:2], a, *channels_first[2:]).transpose(1, 2) + x * d
    step = dt.transpose(0, 1)[..., None]
    decay = torch.exp(step * a)
    update = (dt * x).transpose(0, 1)[..., None] * b.transpose(0, 1)[:, :, None]
    h = recurrence(decay, update)
    return torch.einsum("tbin,tbn->bti", h, c.transpose(0, 1)) + x * d


def _kernel() -> Callable[..., Tensor] | None:
    """The CUDA kernel of mamba-ssm, or None if the package is not installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    kernel: Callable[..., Tensor] = selective_scan_fn
    return kernel


class MambaLayer(nn.Module):
    """Post-norm residual Mamba block: `norm(tokens + dropout(mamba(tokens)))`. Causal.

    Initialised as in the paper: A = -(1..state), step sizes log-uniform in [.001, .1]. Norm and `expand` are those of
    the authors' public code of arXiv 2603.13056.

    Args:
        state: state size of each channel. kernel: length of the depthwise convolution. expand: inner width over `dim`.
    """

    def __init__(self, *, dim: int, state: int = 16, kernel: int = 4, expand: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        inner, self.rank, self.state = expand * dim, math.ceil(dim / 16), state
        self.norm = nn.LayerNorm(dim)
        self.project_in = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.select = nn.Linear(inner, self.rank + 2 * state, bias=False)
        self.step = nn.Linear(self.rank, inner)
        self.log_a = nn.Parameter(torch.arange(1, state + 1).float().log().repeat(inner, 1))
        self.skip = nn.Parameter(torch.ones(inner))
        self.project_out = nn.Linear(inner, dim, bias=False)
        self.drop = nn.Dropout(dropout)
        with torch.no_grad():
            nn.init.uniform_(self.step.weight, -(self.rank**-0.5), self.rank**-0.5)
            steps = torch.exp(torch.rand(inner) * math.log(100) + math.log(1e-3))
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # its softplus is `steps`

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """tokens `(batch, time, dim)`, finite everywhere; valid `(batch, time)` bool -> `(batch, time, dim)`.

        A missing token changes no other token's output.
        """
        missing = ~valid[..., None]
        x, gate = self.project_in(tokens).chunk(2, dim=-1)
        x = x.masked_fill(missing, 0.0)
        x = F.silu(self.conv(F.pad(x.transpose(1, 2), (self.conv.kernel_size[0] - 1, 0))).transpose(1, 2))
        rank, b, c = self.select(x).split([self.rank, self.state, self.state], dim=-1)
        dt = F.softplus(self.step(rank)).masked_fill(missing, 0.0)
        y = selective_scan(x, dt, -self.log_a.exp(), b, c, self.skip)
        output: Tensor = self.norm(tokens + self.drop(self.project_out(y * F.silu(gate))))
        return output
