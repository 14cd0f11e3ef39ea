"""Modality dropout: hide modalities in training, so that a network learns to predict without them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class ModalityDropout(nn.Module):
    """Mark modalities as missing in training, so that the network learns to predict without them.

    Only validity masks change, never values, and only in training. Random numbers come from torch's global generator
    or from the one passed to `forward`. There are two kinds of dropout:

    * whole: a sample loses at most one modality, over its whole window, each modality with its own
      probability.
    * bursts: a sample loses stretches of a modality, as when a head turns away or noise covers a word. The time axis is
      cut into blocks with a random length from `burst_tokens` and a random phase, and each block is dropped with a
      probability that is drawn per sample, uniformly from [0, 1].

    A sample that would have no valid token left keeps its original masks.

    Args:
        whole: modality -> probability that a sample loses the whole modality; the sum is at most 1.
        bursts: modality -> probability that a sample has bursts in it.
        burst_tokens: shortest and longest block, in tokens.

    Raises ValueError if the probabilities of `whole` sum to more than 1.
    """

    def __init__(
        self,
        *,
        whole: Mapping[str, float],
        bursts: Mapping[str, float],
        burst_tokens: tuple[int, int] = (3, 15),
    ) -> None:
        super().__init__()
        if sum(whole.values()) > 1:
            raise ValueError(f"whole-stream probabilities exclude each other, so they sum to <= 1; got {dict(whole)}")
        self.whole, self.bursts, self.burst_tokens = dict(whole), dict(bursts), burst_tokens

    def forward(self, valid: Mapping[str, Tensor], generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Modality -> `(batch, time)` bool; returns the masks with some tokens set to false."""
        masks = dict(valid)
        if not self.training or not masks:
            return masks
        batch, _ = next(iter(masks.values())).shape
        device = next(iter(masks.values())).device
        # One draw per sample: each modality owns an interval of [0, 1), so that at most one is dropped.
        draw, interval_start = torch.rand(batch, device=device, generator=generator), 0.0
        for name, mask in masks.items():
            probability = self.whole.get(name, 0.0)
            dropped = ((draw >= interval_start) & (draw < interval_start + probability))[:, None]
            interval_start += probability
            if self.bursts.get(name, 0.0):
                dropped = dropped | self._bursts(mask, self.bursts[name], generator)
            masks[name] = mask & ~dropped
        has_token = torch.stack([mask.any(dim=1) for mask in masks.values()]).any(dim=0)[:, None]
        return {name: torch.where(has_token, mask, valid[name]) for name, mask in masks.items()}

    def _bursts(self, mask: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
        """`(batch, time)` bool, true where a burst drops the token."""
        batch, time = mask.shape
        draw, block_probability, phase, size = torch.rand(4, batch, 1, device=mask.device, generator=generator)
        shortest, longest = self.burst_tokens
        length = shortest + (size * (longest - shortest + 1)).long().clamp_max(longest - shortest)
        block = (torch.arange(time, device=mask.device) + (phase * length).long()) // length
        is_dropped = torch.rand(batch, time + 1, device=mask.device, generator=generator) < block_probability
        output: Tensor = (draw < probability) & is_dropped.gather(1, block)
        return output
