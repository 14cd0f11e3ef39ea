"""Systems that train models side by side and join what they say at the end: one network to the loop, several inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from mien.labels import UNLABELLED
from mien.layers.late_fusion import ForestFusion, KernelELMFusion, WeightedFusion, statistics
from mien.layers.system import StreamSystem
from mien.losses import ccc_loss
from mien.records import Batch, Output

#: `(labels, predicted, classes)` -> a score of expressions.
Measure = Callable[[np.ndarray, np.ndarray, int], float]


@dataclass(slots=True)
class Answer:
    """One member's. logits `(batch, time, classes)`; affect `(batch, time, 2)` in (-1, 1); present `(batch, time)`
    bool; tokens `(batch, time, dim)`: what it thought, for fusions that look inside; None if it has none."""

    logits: Tensor
    affect: Tensor
    present: Tensor
    tokens: Tensor | None = None


class Ensemble(StreamSystem):
    """Members, each of one modality, trained by their own losses (nothing is shared, so training them in one loop is
    training them apart), and a fusion that `settle` fits on data they were not fitted to.

    Subclasses fill `members` (name -> module: `(values, valid) -> Answer`), `reads` (name -> modality) and `fusion`,
    and have `member_loss(name, logits, labels)`.
    """

    members: nn.ModuleDict
    fusion: nn.Module
    reads: dict[str, str]
    #: Weight of 1 - CCC of each member's valence and arousal.
    affect_share = 0.0
    #: What `settle` raises: a sum of measures by name.
    criterion: Mapping[str, float] = MappingProxyType({"macro_f1": 1.0})
    settled: Tensor
    #: Of the search for weights.
    draws: int = 1000
    by: Literal["model", "class"] = "class"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))

    def member_loss(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def answers(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> dict[str, Answer]:
        """Every member's answer, in the order of `members`."""
        given = self.given(values, valid)
        return {name: member(*given[self.reads[name]]) for name, member in self.members.items()}

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """See `StreamSystem.given` for what may be left out."""
        return self.joined(self.answers(values, valid))

    def joined(self, answers: Mapping[str, Answer]) -> Output:
        """The fusion's answer."""
        probabilities, present = stacked(answers)
        mixed = self.fusion(probabilities, present) if self.settled else even(probabilities, present)
        share = present.to(mixed.dtype)
        share = share / share.sum(dim=-1, keepdim=True).clamp_min(1)
        affect = torch.stack([a.affect for a in answers.values()], dim=-2)
        return Output(
            logits=mixed.clamp_min(1e-8).log(),
            valence_arousal=(share[..., None] * torch.where(present[..., None], affect, 0.0)).sum(dim=-2),
            weights=share,
            evidence=present.any(dim=(1, 2)),
            modalities=list(answers),
        )

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the members' losses, each over the tokens where it is present."""
        return self.losses(self.answers(batch.values, batch.valid), batch)

    def losses(self, answers: Mapping[str, Answer], batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of answers that were given."""
        logs: dict[str, Tensor] = {}
        loss = torch.stack([a.logits.sum() * 0.0 for a in answers.values()]).sum()
        for name, answer in answers.items():
            if batch.expression is not None:
                labels = batch.expression.masked_fill(~answer.present, UNLABELLED)
                logs[name] = self.member_loss(name, answer.logits, labels)
                loss = loss + logs[name]
            if batch.valence_arousal is not None and self.affect_share:
                gone = ccc_loss(answer.affect, batch.valence_arousal, answer.present)
                logs[f"{name} affect"] = gone
                loss = loss + self.affect_share * gone
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def settle(self, batches: Iterable[Batch], measures: Mapping[str, Measure]) -> dict[str, float]:
        """Fits the fusion on labelled windows; returns what it came to. measures: by the names in `criterion`.

        The published systems use the validation set, and so does `mien.training.fit`: scores on that set are then
        flattered, and test scores are not."""
        self.eval()
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for batch in batches:
            if batch.expression is None:
                continue
            probabilities, present = stacked(self.answers(batch.values, batch.valid))
            kept = (batch.expression != UNLABELLED) & present.any(dim=-1)
            rows = statistics(probabilities, present)
            parts.append((probabilities[kept], present[kept], rows[kept], batch.expression[kept]))
        if not parts or not sum(len(p[3]) for p in parts):
            return {}
        probabilities, present, rows, labels = (torch.cat(p) for p in zip(*parts, strict=True))
        truth = labels.numpy()
        self.settled.fill_(True)
        if isinstance(self.fusion, ForestFusion | KernelELMFusion):
            self.fusion.grow(rows.numpy(), truth)
        elif isinstance(self.fusion, WeightedFusion) and self.draws:
            pick = np.linspace(0, len(truth) - 1, min(len(truth), 20_000)).astype(int)

            def score(probabilities: np.ndarray, labels: np.ndarray) -> float:
                said, classes = probabilities.argmax(axis=1), probabilities.shape[1]
                return sum(share * measures[name](labels, said, classes) for name, share in self.criterion.items())

            best = self.fusion.search(
                probabilities[pick], present[pick], truth[pick], score, draws=self.draws, by=self.by
            )
            return {"fusion_score": best}
        return {}


def even(probabilities: Tensor, present: Tensor) -> Tensor:
    """The plain mean of the members present, until the fusion is settled."""
    share = present[..., None].to(probabilities.dtype)
    some = share.sum(dim=-2)
    mean = (torch.where(present[..., None], probabilities, 0.0)).sum(dim=-2) / some.clamp_min(1)
    return torch.where(some > 0, mean, 1 / probabilities.shape[-1])


def stacked(answers: Mapping[str, Answer]) -> tuple[Tensor, Tensor]:
    """Probabilities `(batch, time, member, classes)` and `(batch, time, member)` bool."""
    return (
        torch.stack([a.logits.float().softmax(dim=-1) for a in answers.values()], dim=-2),
        torch.stack([a.present for a in answers.values()], dim=-1),
    )


def over_window(valid: Tensor) -> Tensor:
    """`(batch, time)` bool: whether the window has anything valid, said at each token."""
    return valid.any(dim=1, keepdim=True).expand_as(valid)
