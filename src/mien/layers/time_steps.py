"""Steps of a window that span several tokens: down to steps by convolution, and back to tokens."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Token rate for which the sizes of `Downsampling` were made, and tokens of the authors' shortest window, 2 s.
DESIGN_HZ, MIN_TOKENS = 50.0, 100


class Steps:
    """The steps of a window: step s of token t is `floor((t + .5) steps / tokens)`.

    Args:
        tokens: of the window. steps, per: `steps` steps in `per` tokens.
    """

    def __init__(self, tokens: int, steps: int, per: int, device: torch.device) -> None:
        twice = (2 * torch.arange(tokens, device=device) + 1) * steps
        self.index = twice // (2 * per)
        self.position = twice / (2 * per) - 0.5

    def repeat(self, values: Tensor) -> Tensor:
        """Each token gets the value of its step: `(batch, step, k)` -> `(batch, token, k)`."""
        return values.index_select(1, self.index)

    def interpolate(self, values: Tensor) -> Tensor:
        """Linear interpolation between the middles of the steps, constant at the ends; shapes as in `repeat`."""
        low = self.position.floor().clamp_min(0).long()
        high = torch.minimum(low + 1, self.index[-1])
        low = torch.minimum(low, high)
        share = (self.position - low).clamp(0, 1)[None, :, None]
        return (1 - share) * values.index_select(1, low) + share * values.index_select(1, high)


class Downsampling(nn.Module):
    """Two convolutions that shorten the time axis, each with batch norm, and a mean over equal parts of the window.

    Source: the authors' public code of arXiv 2403.12609, for tokens at 50 Hz: kernel 5, stride 3, dilation 2, maximum
    of 5, kernel 3.

    Args:
        rate_hz: of the tokens. Slower ones are repeated, so that they come at that rate (ours).
    """

    def __init__(self, dim: int, rate_hz: float) -> None:
        super().__init__()
        self.repeats = max(1, round(DESIGN_HZ / rate_hz))
        self.first, self.first_norm = nn.Conv1d(dim, dim, 5, stride=3, dilation=2), nn.BatchNorm1d(dim)
        self.second, self.second_norm = nn.Conv1d(dim, dim, 3), nn.BatchNorm1d(dim)

    def forward(self, tokens: Tensor, steps: int) -> Tensor:
        """`(batch, time, dim)` -> `(batch, steps, dim)`. A window of less than 2 s is padded with zeros."""
        maps = tokens.repeat_interleave(self.repeats, dim=1).transpose(1, 2)
        maps = F.pad(maps, (0, torch.sym_max(0, MIN_TOKENS - maps.shape[2])))
        maps = F.max_pool1d(self.first_norm(self.first(maps)), 5).relu()
        return adaptive_mean(self.second_norm(self.second(maps)), steps).relu().transpose(1, 2)


def adaptive_mean(values: Tensor, steps: int) -> Tensor:
    """`torch.nn.functional.adaptive_avg_pool1d`, for numbers of steps that an exported network computes.

    `(batch, dim, time)` -> `(batch, dim, steps)`.
    """
    time = values.shape[2]
    step = torch.arange(steps, device=values.device)[:, None]
    place = torch.arange(time, device=values.device)
    start, stop = step * time // steps, ((step + 1) * time + steps - 1) // steps
    weight = ((place >= start) & (place < stop)).to(values.dtype) / (stop - start)
    return values @ weight.T
