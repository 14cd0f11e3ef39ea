"""Validation measures of score tasks: F1 of action units and correlation of Emotional Mimicry Intensity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mien.evaluation import metrics
from mien.evaluation.score_tasks import decisions
from mien.labels import SCORE_TASKS
from mien.records import Batch, Output

#: Score task -> name of its measure in the report of an epoch.
MEASURES = {"au": "val_au_f1", "emi": "val_emi_pearson"}


class ScoreValidation:
    """Collects the scores and labels of validation windows.

    Args:
        tasks: score tasks of the system.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {task: [] for task in tasks}

    def add(self, out: Output, batch: Batch) -> None:
        """Add a batch: tokens of windows with evidence; of tasks with one label a clip, the mean of each window."""
        for task, parts in self.parts.items():
            if task not in batch.scores:
                continue
            truth, scores = batch.scores[task][out.evidence], out.score_logits[task][out.evidence].sigmoid()
            if SCORE_TASKS[task].per_clip:
                scores = scores.masked_fill(~torch.isfinite(truth), torch.nan).nanmean(dim=1)
                truth = truth.nanmean(dim=1)
            width = truth.shape[-1]
            parts.append((_rows(truth, width), _rows(scores, width)))

    def report(self) -> dict[str, float]:
        """Measure by name, of the tasks that have a labelled window."""
        found = {}
        for task, parts in self.parts.items():
            if not parts:
                continue
            truth, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
            if not np.isfinite(truth).any():
                continue
            width = len(SCORE_TASKS[task].columns)
            if SCORE_TASKS[task].is_binary:
                found[MEASURES[task]] = metrics.mean_binary_f1(truth, decisions(scores), width)
            else:
                found[MEASURES[task]] = metrics.mean_pearson(truth, scores, width)
        return found


def _rows(values: torch.Tensor, width: int) -> np.ndarray:
    rows: np.ndarray = values.reshape(-1, width).float().cpu().numpy()
    return rows
