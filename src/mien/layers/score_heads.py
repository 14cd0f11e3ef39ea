"""Output heads and losses of score tasks: action units and Emotional Mimicry Intensity.

Each task has one linear layer on the hidden state that the expression head reads, with a logit for each column. A
system has heads only for tasks whose weight in its objective is above 0, so the others add no parameters.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mien.config import NotNegative, Section
from mien.labels import SCORE_TASKS
from mien.losses import binary_focal, window_mean_square

#: Objective key -> score task.
TASK_OF_KEY = {task.objective: name for name, task in SCORE_TASKS.items() if task.objective}


#: Largest weight of a positive label, and the inverse of the smallest (our choice).
POSITIVE_LIMIT = 10.0


class ScoreObjective(Section):
    """Weights of the losses of expressions and of score tasks; none of the six papers trains score tasks.

    expression: 0 trains a system without expressions, for a corpus or a submission that has only scores; the best epoch
    is then chosen by the score that is left. action_units: weight of `mien.losses.binary_focal`; a column's positives
    are weighted by negatives / positives in the training set, within `POSITIVE_LIMIT` (our choice, because some units
    are rare). mimicry: weight of `mien.losses.window_mean_square`.
    """

    expression: NotNegative = 1.0
    action_units: NotNegative = 0.0
    mimicry: NotNegative = 0.0

    @property
    def score_weights(self) -> dict[str, float]:
        """Score task -> weight, where above 0."""
        values = {task: float(getattr(self, key)) for key, task in TASK_OF_KEY.items()}
        return {task: weight for task, weight in values.items() if weight > 0}


class ScoreHeads(nn.Module):
    """Heads of the score tasks of an objective.

    Args:
        dim: width of the hidden state.
        objective: weights of the tasks; a task of weight 0 has no head.
        gamma: focusing exponent of the loss of binary tasks.
    """

    def __init__(self, dim: int, objective: ScoreObjective, *, gamma: float = 0.0) -> None:
        super().__init__()
        self.weights, self.gamma = objective.score_weights, gamma
        self.heads = nn.ModuleDict({task: nn.Linear(dim, len(SCORE_TASKS[task].columns)) for task in self.weights})
        self.positive_weight = {task: torch.ones(len(SCORE_TASKS[task].columns)) for task in self.weights}

    def prepare(self, means: Mapping[str, Tensor]) -> None:
        """Set the weights of positive labels. means: score task -> `(columns,)` share of positives, NaN if unknown."""
        for task in self.weights:
            if SCORE_TASKS[task].is_binary and task in means:
                share = means[task].double()
                weight = ((1 - share) / share.clamp_min(1e-9)).clamp(1 / POSITIVE_LIMIT, POSITIVE_LIMIT)
                self.positive_weight[task] = torch.where(torch.isfinite(share), weight, 1.0).float()

    def forward(self, hidden: Tensor) -> dict[str, Tensor]:
        """Score task -> logits `(..., columns)` of the hidden state `(..., dim)`."""
        return {task: head(hidden) for task, head in self.heads.items()}

    def losses(self, logits: Mapping[str, Tensor], targets: Mapping[str, Tensor], known: Tensor) -> dict[str, Tensor]:
        """Weighted loss of each task that the batch has labels of.

        Args:
            logits, targets: score task -> `(batch, time, columns)`. known: `(batch, time)` bool, tokens that count.
        """
        losses = {}
        for task, weight in self.weights.items():
            if task not in targets:
                continue
            target = targets[task].masked_fill(~known[..., None], torch.nan)
            if SCORE_TASKS[task].is_binary:
                positive = self.positive_weight[task].to(logits[task].device)
                loss = binary_focal(logits[task], target, gamma=self.gamma, positive_weight=positive)
            else:
                loss = window_mean_square(logits[task].sigmoid(), target)
            losses[SCORE_TASKS[task].objective] = weight * loss
        return losses
