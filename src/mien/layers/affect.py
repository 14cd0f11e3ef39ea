"""What systems of valence and arousal share: their loss, and an answer that has no classes."""

from __future__ import annotations

import torch
from torch import Tensor

from mien.config import Section
from mien.layers.gating import ModalityDropout
from mien.layers.streams import StreamSystem
from mien.losses import ccc_loss
from mien.records import Batch, Output


def affect_loss(said: Tensor, truth: Tensor, counts: Tensor, *, valence: float, arousal: float, mse: float) -> Tensor:
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE` over `(batch, time, 2)` where `counts` `(batch, time)` and
    truth is finite. Zero, with a zero gradient, where nothing is."""
    columns = [ccc_loss(said[..., i : i + 1], truth[..., i : i + 1], counts) for i in range(2)]
    known = torch.isfinite(truth) & counts[..., None]
    gap = torch.where(known, said - torch.where(known, truth, 0.0), 0.0)
    return valence * columns[0] + arousal * columns[1] + mse * gap.square().sum() / known.sum().clamp_min(1)


def affect_output(affect: Tensor, weights: Tensor, evidence: Tensor, modalities: list[str], classes: int) -> Output:
    """An Output whose logits are even: these systems name no class."""
    return Output(affect.new_zeros(*affect.shape[:2], classes), affect, weights, evidence, modalities)


class AffectFusion(StreamSystem):
    """A fusion that is trained on valence and arousal with modalities hidden whole. Subclasses set `hide`, `loss`
    (whose fields are the shares of `affect_loss`) and `forward`."""

    hide: ModalityDropout
    loss: Section

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts; windows without evidence and unlabelled tokens add nothing."""
        out = self(batch.values, self.hide(batch.valid))
        truth = batch.valence_arousal
        if truth is None:
            truth = torch.full_like(out.valence_arousal, torch.nan)
        counts = out.evidence[:, None].expand(truth.shape[:2])
        loss = affect_loss(out.valence_arousal, truth, counts, **self.loss.model_dump())
        return loss, {"loss": loss.detach()}
