"""What systems of valence and arousal share: their loss, and an answer that has no classes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mien.config import Section
from mien.errors import ConfigError
from mien.layers.gating import ModalityDropout
from mien.layers.system import StreamSystem
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


def affect_head(dim: int, *, standing: bool) -> nn.Linear:
    """State to valence and arousal; one that changes what already stands begins with changing nothing."""
    head = nn.Linear(dim, 2)
    if standing:
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return head


class AffectFusion(StreamSystem):
    """A fusion that is trained on valence and arousal with modalities hidden whole. Subclasses set `hide`, `loss`
    (whose fields are the shares of `affect_loss`) and `forward`."""

    hide: ModalityDropout
    loss: Section

    def __init__(self, *, inputs: Mapping[str, int], classes: int, clamp: float, standing: bool) -> None:
        super().__init__(inputs=inputs, classes=classes, clamp=clamp)
        if standing and (thin := sorted(n for n, width in inputs.items() if width < 3)):
            raise ConfigError(
                f"model.standing reads a vector and two values of every stream; too thin: {', '.join(thin)}",
                follows="nothing was started",
                remedy="give it what `mien derive` wrote, or set model.standing=false",
            )

    def standing(self, given: Mapping[str, tuple[Tensor, Tensor]], trust: Mapping[str, Tensor]) -> Tensor:
        """What the streams said themselves: the mean `(batch, time, 2)` of the last two values of every input in trust,
        weighed by trust `(batch, time)` where the input is valid, before a tanh; zero where none is. `mien derive`
        writes a stage's own valence and arousal there."""
        total: Tensor | float = 0.0
        weight: Tensor | float = 0.0
        statistics = self.normalisation()
        for name, share in trust.items():
            value, valid = given[name]
            mean, deviation = statistics[name]
            share = (share * valid)[..., None]
            total = total + share * (value[..., -2:] * deviation[-2:] + mean[-2:])
            weight = weight + share
        return (total / torch.as_tensor(weight).clamp_min(1e-6)).clamp(-0.99, 0.99).atanh()

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts; windows without evidence and unlabelled tokens add nothing."""
        out = self(batch.values, self.hide(batch.valid))
        truth = batch.valence_arousal
        if truth is None:
            truth = torch.full_like(out.valence_arousal, torch.nan)
        counts = out.evidence[:, None].expand(truth.shape[:2])
        loss = affect_loss(out.valence_arousal, truth, counts, **self.loss.model_dump())
        return loss, {"loss": loss.detach()}
