"""Late fusion of calibrated predictions: the system of the shipped checkpoint (ours).

Each modality is read by a stage of its own (a face network, a voice network), whose features begin with the logits of
the classes. Per token:

* calibration: a temperature for each modality turns its logits into log-probabilities, which stand alone where no
  other modality is present (Guo et al. 2017, arXiv 1706.04599).
* smoothing: the log-probabilities of a modality are averaged over `seconds`, over valid tokens only.
* fusion: where several modalities are present, the logits are `sum_m weight_m log p_m`, a log-linear pool (Genest and
  Zidek 1986, Combining probability distributions) with one weight per modality. With weights of 1, where training
  begins, it is Bayes' rule for modalities that are independent given the class, if all but one were trained with equal
  class frequencies. Weights and biases per class were left out: no corpus at hand has both modalities in all classes.
* valence and arousal: the expected value over the class probabilities, with one trained point for each class.

A missing modality is left out of the sum, so that its values can never change a prediction. There is no attention:
`python -m experiments real-fusion` compares it with `safe_cross_attention` on the same features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section
from mien.labels import UNLABELLED
from mien.layers.system import StreamSystem
from mien.losses import focal
from mien.records import Batch, Output

#: Inputs are logits and not normalised; this clamp, in their unit, only keeps damaged values finite.
_CLAMP = 1e3


class Config(Section):
    """Options of the model.

    inputs: modality -> width of its features, of which the first `classes` are logits. seconds: width of the moving
    average of each modality's log-probabilities, 0 for none; modalities without an entry are not averaged.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1)]
    classes: Count = 8
    rate_hz: Positive = 10.0
    seconds: dict[str, NotNegative] = Field(default={})


class Objective(Section):
    """`fused loss + unimodal * sum of each modality's own loss + valence_arousal * mean squared error`.

    gamma: of the focal loss; 0 is cross-entropy, which calibrates.
    """

    gamma: NotNegative = 0.0
    unimodal: NotNegative = 1.0
    valence_arousal: NotNegative = 1.0


class LateFusion(StreamSystem):
    """Network and objective; see the module's docstring and `Config`."""

    is_padding_neutral = True

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=_CLAMP)
        self.config, self.loss = config, objective or Objective()
        self.predicts_valence_arousal = self.loss.valence_arousal > 0
        modalities = len(config.inputs)
        self.log_temperature = nn.Parameter(torch.zeros(modalities))
        self.weight = nn.Parameter(torch.ones(modalities))
        self.affect = nn.Parameter(torch.zeros(config.classes, 2))

    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Nothing: logits are not normalised, and classes count as they occur. See `System.prepare`."""

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """One group without decay: a handful of parameters. See `System.parameter_groups`."""
        return [{"params": list(self.parameters()), "weight_decay": 0.0, "scale": 1.0}]

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token, see `StreamSystem.forward`."""
        logs, masks = self._log_probabilities(values, valid)
        logits = self._fuse(logs, masks)
        any_valid = masks.any(dim=0)
        share = masks.float() / masks.sum(dim=0).clamp_min(1)
        return Output(
            logits=logits,
            valence_arousal=logits.softmax(dim=-1) @ self.affect.clamp(-1, 1),
            weights=share.permute(1, 2, 0),
            evidence=any_valid.any(dim=1),
            modalities=list(self.config.inputs),
        )

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `Objective` and its terms; tokens without a label or a modality add nothing."""
        logs, masks = self._log_probabilities(batch.values, batch.valid)
        fused = self._fuse(logs, masks)
        terms: dict[str, Tensor] = {}
        loss = fused.sum() * 0.0
        if batch.expression is not None:
            labels = batch.expression
            terms["expression"] = self._expression_loss(fused, labels, masks.any(dim=0))
            single = [self._expression_loss(log, labels, mask) for log, mask in zip(logs, masks, strict=True)]
            terms["unimodal"] = torch.stack(single).sum()
            loss = loss + terms["expression"] + self.loss.unimodal * terms["unimodal"]
        if batch.valence_arousal is not None and self.loss.valence_arousal:
            known = torch.isfinite(batch.valence_arousal) & masks.any(dim=0)[..., None]
            target = torch.where(known, batch.valence_arousal, 0.0)
            error = torch.where(known, fused.detach().softmax(dim=-1) @ self.affect - target, 0.0)
            terms["valence_arousal"] = error.square().sum() / known.sum().clamp_min(1)
            loss = loss + self.loss.valence_arousal * terms["valence_arousal"]
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in terms.items()}

    def _log_probabilities(
        self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]
    ) -> tuple[Tensor, Tensor]:
        """Calibrated, smoothed log-probabilities `(modality, batch, time, classes)` and validity `(modality, batch,
        time)`."""
        inputs = self.select_inputs(values, valid)
        logs, masks = [], []
        for i, (name, (value, mask)) in enumerate(inputs.items()):
            logits = value[..., : self.config.classes] / self.log_temperature[i].exp()
            log = logits.log_softmax(dim=-1)
            tokens = round(self.config.seconds.get(name, 0.0) * self.config.rate_hz) // 2
            logs.append(_moving_mean(log, mask, tokens).log_softmax(dim=-1) if tokens else log)
            masks.append(mask)
        return torch.stack(logs), torch.stack(masks)

    def _fuse(self, logs: Tensor, masks: Tensor) -> Tensor:
        """Fused logits `(batch, time, classes)`; those of a single modality are its log-probabilities."""
        present, count = masks[..., None], masks.sum(dim=0)[..., None]
        pooled = torch.where(present, self.weight.clamp_min(0)[:, None, None, None] * logs, 0.0).sum(dim=0)
        alone = torch.where(present, logs, 0.0).sum(dim=0)
        return torch.where(count > 1, pooled, torch.where(count > 0, alone, 0.0))

    def _expression_loss(self, logits: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        return focal(logits, labels.masked_fill(~mask, UNLABELLED), gamma=self.loss.gamma)


def _moving_mean(values: Tensor, valid: Tensor, reach: int) -> Tensor:
    """Mean of the valid tokens within `reach` tokens: values `(batch, time, k)`, valid `(batch, time)`."""
    mask = valid[:, None].to(values)
    known = torch.where(valid[..., None], values, 0.0).transpose(1, 2)
    kernel = torch.ones(1, 1, 2 * reach + 1, device=values.device, dtype=values.dtype)
    batch, width, time = known.shape
    total = F.conv1d(known.reshape(batch * width, 1, time), kernel, padding=reach).view(batch, width, time)
    count = F.conv1d(mask, kernel, padding=reach)
    mean: Tensor = (total / count.clamp_min(1)).transpose(1, 2)
    return mean


#: The name under which `mien.models` finds the system of this file.
System = LateFusion
