"""Base class of systems that train several member networks side by side and fuse their predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mien.labels import UNLABELLED
from mien.layers.late_fusion import ForestFusion, WeightedFusion
from mien.layers.system import Measure, StreamSystem
from mien.losses import ccc_loss
from mien.records import Batch, Output

#: Classical methods are fitted to at most so many tokens or windows, evenly spaced (our choice, to bound the time).
MAX_SAMPLES = 20_000


@dataclass(slots=True)
class MemberOutput:
    """The prediction of one member.

    logits: `(batch, time, classes)`. valence_arousal: `(batch, time, 2)` in (-1, 1), or None if the member predicts
    none. present: `(batch, time)` bool, where the member has input. tokens: `(batch, time, dim)`, its hidden state, for
    fusions that read it; or None. probabilities: `(batch, time, classes)` to fuse, or None if they are the softmax of
    the logits.
    """

    logits: Tensor
    valence_arousal: Tensor | None
    present: Tensor
    tokens: Tensor | None = None
    probabilities: Tensor | None = None


class Member(nn.Module):
    """Base of the members of an `Ensemble`."""

    #: Whether it reads features as encoded, zero where missing, in place of normalised ones.
    reads_unscaled: bool = False
    #: Whether `System.fit_classical` fits its class scores; its logits are then in no loss.
    is_classical: ClassVar[bool] = False

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """values: `(batch, time, width)`, zero where invalid; valid: `(batch, time)` bool."""
        raise NotImplementedError


class Ensemble(StreamSystem):
    """Member networks, each of one modality, and a late fusion of their predictions.

    Each member has its own loss and they share no parameters, so one loop trains them independently. `fit_fusion` then
    fits the fusion, on data that the members were not trained on.

    Subclasses set `members` (name -> `Member`), `modality_of` (name -> modality) and `fusion`, and implement
    `member_loss`. Arguments: see `StreamSystem`.
    """

    has_late_stage = True
    members: nn.ModuleDict
    fusion: nn.Module
    modality_of: dict[str, str]
    #: Weight of 1 - CCC of each member's valence and arousal in the loss.
    valence_arousal_weight = 0.0
    #: What `fit_fusion` maximises: a sum of measures, name -> weight.
    fusion_measures: Mapping[str, float] = MappingProxyType({"macro_f1": 1.0})
    #: Random draws of the search for fusion weights, and whether a draw has weights per model or per class.
    weight_draws: int = 1000
    weights_per: Literal["model", "class"] = "class"
    #: Whether `fit_fusion` was called; before that the fusion is a plain mean.
    fusion_is_fitted: Tensor

    def __init__(self, *, inputs: Mapping[str, int], classes: int, weighting: str = "none", clamp: float = 8.0) -> None:
        super().__init__(inputs=inputs, classes=classes, weighting=weighting, clamp=clamp)
        self.register_buffer("fusion_is_fitted", torch.zeros((), dtype=torch.bool))

    def member_of(self, name: str) -> Member:
        """The member of one name."""
        member = self.members[name]
        assert isinstance(member, Member)
        return member

    def member_loss(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of one member: logits `(batch, time, classes)`, labels `(batch, time)` int, -1 ignored -> a scalar."""
        raise NotImplementedError

    def member_outputs(
        self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]
    ) -> dict[str, MemberOutput]:
        """The prediction of every member by name, in the order of `members`. Arguments: see `StreamSystem.forward`."""
        inputs = self.select_inputs(values, valid)
        outputs = {}
        for name in self.members:
            member = self.member_of(name)
            modality = self.modality_of[name]
            normalised, mask = inputs[modality]
            read = _unscaled(values.get(modality), mask, normalised) if member.reads_unscaled else normalised
            outputs[name] = member(read, mask)
        return outputs

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token, see `StreamSystem.forward`. `Output.modalities` holds the members' names."""
        return self.fuse(self.member_outputs(values, valid))

    def fuse(self, outputs: Mapping[str, MemberOutput]) -> Output:
        """Fuse the members' class probabilities; valence and arousal are the mean of the members present."""
        probabilities, present = stack_members(outputs)
        # Both are computed, because an exported network cannot branch on a tensor.
        fused = torch.where(
            self.fusion_is_fitted, self.fusion(probabilities, present), uniform_mean(probabilities, present)
        )
        weights = present.to(fused.dtype)
        weights = weights / weights.sum(dim=-1, keepdim=True).clamp_min(1)
        return Output(
            logits=fused.clamp_min(1e-8).log(),
            valence_arousal=_mean_valence_arousal(outputs),
            weights=weights,
            evidence=present.any(dim=(1, 2)),
            modalities=list(outputs),
        )

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the members' losses, each over the tokens where the member is present; see `System.objective`."""
        return self.losses(self.member_outputs(batch.values, batch.valid), batch)

    def losses(self, outputs: Mapping[str, MemberOutput], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """`objective` of member outputs that are already computed."""
        logs: dict[str, Tensor] = {}
        loss = torch.stack([o.logits.sum() * 0.0 for o in outputs.values()]).sum()
        for name, output in outputs.items():
            if batch.expression is not None and not self.member_of(name).is_classical:
                labels = batch.expression.masked_fill(~output.present, UNLABELLED)
                logs[name] = self.member_loss(name, output.logits, labels)
                loss = loss + logs[name]
            if batch.valence_arousal is None or output.valence_arousal is None:
                continue
            if self.valence_arousal_weight:
                va_loss = ccc_loss(output.valence_arousal, batch.valence_arousal, output.present)
                logs[f"{name} valence_arousal"] = va_loss
                loss = loss + self.valence_arousal_weight * va_loss
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def fit_fusion(self, batches: Iterable[Batch], measures: Mapping[str, Measure]) -> dict[str, float]:
        """Fit the fusion to labelled windows; returns `fusion_score`, by which its weights or its forest were chosen.

        The published systems fit it to the validation set, and so does `mien.training.fit`: validation scores are then
        optimistic, test scores are not. The score of a forest is out of bag, that of weights is not.

        Args:
            measures: those that `fusion_measures` names.
        """
        self.eval()
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for batch in batches:
            if batch.expression is None:
                continue
            probabilities, present = stack_members(self.member_outputs(batch.values, batch.valid))
            is_used = (batch.expression != UNLABELLED) & present.any(dim=-1)
            parts.append((probabilities[is_used], present[is_used], batch.expression[is_used]))
        if not any(len(labels) for *_, labels in parts):
            return {}
        probabilities, present, labels = (torch.cat(p) for p in zip(*parts, strict=True))
        self.fusion_is_fitted.fill_(True)

        def score(probabilities: np.ndarray, labels: np.ndarray) -> float:
            predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
            return sum(w * measures[name](labels, predicted, classes) for name, w in self.fusion_measures.items())

        if isinstance(self.fusion, ForestFusion):
            return {"fusion_score": self.fusion.fit(probabilities, present, labels.numpy(), score)}
        if isinstance(self.fusion, WeightedFusion) and self.weight_draws:
            sample = evenly_spaced(len(labels), MAX_SAMPLES)
            found = self.fusion.search(
                probabilities[sample], present[sample], labels.numpy()[sample], score,
                draws=self.weight_draws, weights_per=self.weights_per,
            )  # fmt: skip
            return {"fusion_score": found}
        return {}

    @torch.no_grad()
    def labelled_windows(
        self, batches: Iterable[Batch], modality: str, vector: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Vectors `(window, width)` of windows with a label and a valid token, and the most frequent label of each.

        Args:
            vector: unscaled values `(batch, time, width)` and valid `(batch, time)` -> `(batch, width)`.
        """
        self.eval()
        vectors, labels = [], []
        for batch in batches:
            normalised, valid = self.select_inputs(batch.values, batch.valid)[modality]
            assert batch.expression is not None
            counts = nn.functional.one_hot(batch.expression + 1, len(self.class_weight) + 1)[..., 1:].sum(dim=1)
            is_used = valid.any(dim=1) & (counts.sum(dim=1) > 0)
            rows = vector(_unscaled(batch.values.get(modality), valid, normalised), valid)
            vectors.append(rows[is_used].numpy())
            labels.append(counts[is_used].argmax(dim=1).numpy())
        return np.concatenate(vectors), np.concatenate(labels)


def _unscaled(values: Tensor | None, valid: Tensor, like: Tensor) -> Tensor:
    """Features as encoded, zero where invalid; `like` has their shape."""
    return torch.zeros_like(like) if values is None else torch.where(valid[..., None], values.to(like.dtype), 0.0)


def _mean_valence_arousal(outputs: Mapping[str, MemberOutput]) -> Tensor:
    """Mean valence and arousal of the members that predict them and are present, `(batch, time, 2)`; else zero."""
    first = next(iter(outputs.values()))
    total, count = first.logits.new_zeros(*first.present.shape, 2), torch.zeros_like(first.present, dtype=torch.int64)
    for output in outputs.values():
        if output.valence_arousal is not None:
            total = total + torch.where(output.present[..., None], output.valence_arousal, 0.0)
            count = count + output.present
    return total / count.clamp_min(1)[..., None]


def evenly_spaced(count: int, most: int) -> np.ndarray:
    """At most `most` evenly spaced indices of 0..count-1, `(n,)` int."""
    return np.linspace(0, count - 1, min(count, most)).astype(int)


def uniform_mean(probabilities: Tensor, present: Tensor) -> Tensor:
    """Mean over the members present, uniform where none is; shapes as in `mien.layers.late_fusion`."""
    weight = present[..., None].to(probabilities.dtype)
    count = weight.sum(dim=-2)
    mean = (torch.where(present[..., None], probabilities, 0.0)).sum(dim=-2) / count.clamp_min(1)
    return torch.where(count > 0, mean, 1 / probabilities.shape[-1])


def stack_members(outputs: Mapping[str, MemberOutput]) -> tuple[Tensor, Tensor]:
    """The members' probabilities `(batch, time, member, classes)` and presence `(batch, time, member)` bool."""
    return (
        torch.stack(
            [
                o.logits.float().softmax(dim=-1) if o.probabilities is None else o.probabilities.float()
                for o in outputs.values()
            ],
            dim=-2,
        ),
        torch.stack([o.present for o in outputs.values()], dim=-1),
    )
