"""Which modality speaks: hiding them in training, weighing them in fusion."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mien.layers.attention import Kind


class ModalityDropout(nn.Module):
    """Hides modalities in training by clearing their validity, so that a network learns to do without either.

    Values are never touched and outside training nothing happens. Draws come from torch's generator (or
    the one given). Two faults are played:

    * whole: at most one modality of a sample is hidden throughout (never both), each with its own
      probability.
    * bursts: a stretch here and there is hidden, as when a head turns away or a word is drowned. The time
      axis is cut into blocks whose length is drawn from `burst_tokens` and whose phase is random, and
      each block is hidden with a probability that is itself drawn evenly from 0 to 1 for the sample.

    A sample that would be left without any valid token keeps all it had.

    Args:
        whole: modality -> probability that a sample loses it whole; they sum to at most 1.
        bursts: modality -> probability that a sample suffers bursts in it.
        burst_tokens: shortest and longest block, in tokens.
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
        """modality -> `(batch, time)` bool, the same with some cleared."""
        kept = dict(valid)
        if not self.training or not kept:
            return kept
        batch, _ = next(iter(kept.values())).shape
        device = next(iter(kept.values())).device
        draw, edge = torch.rand(batch, device=device, generator=generator), 0.0
        for name, mask in kept.items():
            share = self.whole.get(name, 0.0)
            gone = ((draw >= edge) & (draw < edge + share))[:, None]
            edge += share
            if self.bursts.get(name, 0.0):
                gone = gone | self._bursts(mask, self.bursts[name], generator)
            kept[name] = mask & ~gone
        left = torch.stack([mask.any(dim=1) for mask in kept.values()]).any(dim=0)[:, None]
        return {name: torch.where(left, mask, valid[name]) for name, mask in kept.items()}

    def _bursts(self, mask: Tensor, probability: float, generator: torch.Generator | None) -> Tensor:
        batch, time = mask.shape
        struck, share, phase, size = torch.rand(4, batch, 1, device=mask.device, generator=generator)
        low, high = self.burst_tokens
        length = low + (size * (high - low + 1)).long().clamp_max(high - low)
        block = (torch.arange(time, device=mask.device) + (phase * length).long()) // length
        hidden = torch.rand(batch, time + 1, device=mask.device, generator=generator) < share
        return (struck < probability) & hidden.gather(1, block)


class GatedFusion(nn.Module):
    """A weighted sum of modalities, the weights a softmax of one learned score per modality and token.

    Only modalities present in the sample share the weight: with one present its weight is exactly 1 and
    the sum is that modality bit by bit; with none the sum is zero. `kind="naive"` shares the weight among
    all, as if none could be missing.
    """

    def __init__(self, *, dim: int, modalities: list[str], kind: Kind = "safe") -> None:
        super().__init__()
        self.kind = kind
        self.score = nn.ModuleDict({name: nn.Linear(dim, 1) for name in modalities})

    def forward(self, tokens: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """tokens: modality -> `(batch, time, dim)`; present: modality -> `(batch,)` bool.

        Returns the sum `(batch, time, dim)` and the weights `(batch, time, modality)` in the order of
        `tokens`.
        """
        names = list(tokens)
        score = torch.cat([self.score[name](tokens[name]) for name in names], dim=-1)
        if self.kind == "naive":
            weights = score.softmax(dim=-1)
            return sum(weights[..., i, None] * tokens[n] for i, n in enumerate(names)), weights  # type: ignore[return-value]
        there = torch.stack([present[name] for name in names], dim=-1)[:, None, :]
        some = there.any(dim=-1, keepdim=True)
        weights = score.masked_fill(~there & some, -torch.inf).softmax(dim=-1).masked_fill(~there, 0.0)
        total = torch.zeros_like(tokens[names[0]])
        for i, name in enumerate(names):
            total = total + (weights[..., i, None] * tokens[name]).masked_fill(~there[..., i, None], 0.0)
        return total, weights
