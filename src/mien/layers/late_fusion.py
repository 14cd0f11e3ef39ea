"""Late fusion: several models' probabilities into one answer. Each works with any of them missing.

Shapes: probabilities `(..., model, classes)`, present `(..., model)` bool -> `(..., classes)`. What a model that is not
present says is never read. With one model present its answer stands, with none the answer is even.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

#: `(probabilities (token, classes) as numpy, labels (token,))` -> score, more is better.
Score = Callable[[np.ndarray, np.ndarray], float]


class WeightedFusion(nn.Module):
    """A weighted mean, weights `(model, classes)` shared out anew among the models present; even until `search`.

    Dresvyanskiy et al. (arXiv 2010.03692, 2403.12609): weights drawn at random from a Dirichlet distribution, per model
    or per model and class, the best on validation data kept.

    entropy: a model in `filtered` whose answer has more than this entropy (nats) does not count (2403.12609: sound,
    1.8); None for never.
    """

    weights: Tensor
    filtered: Tensor

    def __init__(
        self, *, models: int, classes: int, entropy: float | None = None, filtered: list[bool] | None = None
    ) -> None:
        super().__init__()
        self.entropy = entropy
        self.register_buffer("weights", torch.full((models, classes), 1 / models))
        self.register_buffer("filtered", torch.tensor(filtered or [False] * models), persistent=False)

    def counting(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """`(..., model)` bool: present, and sure enough where that is asked. Where nobody is, those present count."""
        if self.entropy is None:
            return present
        doubt = -(probabilities.clamp_min(1e-12).log() * probabilities).sum(dim=-1)
        sure = present & ~(self.filtered & (doubt > self.entropy))
        return torch.where(sure.any(dim=-1, keepdim=True), sure, present)

    def forward(self, probabilities: Tensor, present: Tensor) -> Tensor:
        return self._mixed(probabilities, self.counting(probabilities, present), self.weights)

    def _mixed(self, probabilities: Tensor, counting: Tensor, weights: Tensor) -> Tensor:
        share = torch.where(counting[..., None], weights.clamp_min(1e-6), 0.0)
        total = (share * torch.where(counting[..., None], probabilities, 0.0)).sum(dim=-2)
        mixed = total / share.sum(dim=-2).clamp_min(1e-6)
        mixed = torch.where(counting.any(dim=-1, keepdim=True), mixed, 1.0)
        return mixed / mixed.sum(dim=-1, keepdim=True).clamp_min(1e-12)

    @torch.no_grad()
    def search(
        self,
        probabilities: Tensor,
        present: Tensor,
        labels: np.ndarray,
        score: Score,
        *,
        draws: int = 1000,
        by: Literal["model", "class"] = "class",
        seed: int = 0,
    ) -> float:
        """Keeps the best of `draws` random weightings (and the even one) on tokens; returns its score."""
        models, classes = self.weights.shape
        counting = self.counting(probabilities, present)
        generator = np.random.default_rng(seed)
        best, kept = -np.inf, self.weights.clone()
        for number in range(draws + 1):
            drawn = generator.dirichlet(np.ones(models), classes if by == "class" else 1).T
            weights = torch.from_numpy(np.broadcast_to(drawn, (models, classes)).copy()).to(self.weights)
            weights = torch.full_like(weights, 1 / models) if number == 0 else weights
            found = score(self._mixed(probabilities, counting, weights).numpy(), labels)
            if found > best:
                best, kept = found, weights
        self.weights.copy_(kept)
        return best


def statistics(probabilities: Tensor, present: Tensor) -> Tensor:
    """What the learned fusions read (arXiv 2403.12609): each model's probabilities with their mean, maximum and minimum
    over the window, even where the model is not present, and whether it is. `(batch, time, model, classes)`, `(batch,
    time, model)` -> `(batch, time, 4 * model * classes + model)`."""
    there = present[..., None]
    p = torch.where(there, probabilities, 1 / probabilities.shape[-1])
    some = present.any(dim=1, keepdim=True)[..., None]
    mean = p.mean(dim=1, keepdim=True)
    largest = torch.where(there, p, -1.0).amax(dim=1, keepdim=True)
    least = torch.where(there, p, 2.0).amin(dim=1, keepdim=True)
    over = torch.cat([torch.where(some, m, mean).expand_as(p) for m in (mean, largest, least)], dim=-1)
    return torch.cat((torch.cat((p, over), dim=-1).flatten(-2), present.to(p.dtype)), dim=-1)


class ForestFusion(nn.Module):
    """A random forest on `statistics`, grown by scikit-learn and kept as arrays: complete trees of `depth` (our choice:
    the paper names 10, 50 and 100 trees and no depth), so that it is saved and run without pickle or scikit-learn."""

    feature: Tensor
    threshold: Tensor
    leaf: Tensor

    def __init__(self, *, models: int, classes: int, trees: int = 100, depth: int = 8) -> None:
        super().__init__()
        self.depth = depth
        self.register_buffer("feature", torch.zeros(trees, 2**depth - 1, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(trees, 2**depth - 1))
        self.register_buffer("leaf", torch.full((trees, 2**depth, classes), 1 / classes))

    def forward(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """`(batch, time, model, classes)`."""
        rows = statistics(probabilities, present)
        flat = rows.reshape(-1, rows.shape[-1])
        said = torch.zeros(len(flat), self.leaf.shape[-1], device=flat.device)
        for feature, threshold, leaf in zip(self.feature, self.threshold, self.leaf, strict=True):
            node = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
            for _ in range(self.depth):
                right = flat.gather(1, feature[node][:, None])[:, 0] > threshold[node]
                node = 2 * node + 1 + right.long()
            said += leaf[node - (2**self.depth - 1)]
        return (said / len(self.feature)).view(*rows.shape[:-1], -1)

    @torch.no_grad()
    def grow(self, rows: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> None:
        """Fits to rows of `statistics`, `(token, k)`, and labels `(token,)`."""
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            len(self.feature), max_depth=self.depth, class_weight="balanced", random_state=seed, n_jobs=1
        ).fit(rows, labels)
        self.leaf.zero_()
        for number, tree in enumerate(forest.estimators_):
            self._lay(number, tree.tree_, [int(c) for c in forest.classes_])

    def _lay(self, number: int, tree: object, classes: list[int]) -> None:
        left, right = tree.children_left, tree.children_right  # type: ignore[attr-defined]
        inner = 2**self.depth - 1
        waiting = [(0, 0)]  # where in the complete tree, which node
        while waiting:
            place, node = waiting.pop()
            if place >= inner:
                value = tree.value[node][0]  # type: ignore[attr-defined]
                self.leaf[number, place - inner, classes] = torch.from_numpy(value / value.sum()).float()
                continue
            ends = left[node] < 0  # a leaf above the last floor: both ways lead to it
            self.feature[number, place] = 0 if ends else int(tree.feature[node])  # type: ignore[attr-defined]
            self.threshold[number, place] = 0.0 if ends else float(tree.threshold[node])  # type: ignore[attr-defined]
            waiting += [(2 * place + 1, node if ends else left[node]), (2 * place + 2, node if ends else right[node])]


class KernelELMFusion(nn.Module):
    """A kernel extreme learning machine on `statistics` (Huang et al. 2012): `softmax(k(x, X) (K + I / c)^-1 Y)`,
    Gaussian kernel, targets ±1, on at most `support` tokens (our choice: the kernel grows with their square)."""

    points: Tensor
    beta: Tensor
    width: Tensor

    def __init__(self, *, models: int, classes: int, support: int = 1000, c: float = 1.0) -> None:
        super().__init__()
        self.c = c
        self.register_buffer("points", torch.zeros(support, 4 * models * classes + models))
        self.register_buffer("beta", torch.zeros(support, classes))
        self.register_buffer("width", torch.ones(()))

    def forward(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """`(batch, time, model, classes)`."""
        rows = statistics(probabilities, present)
        near = self._kernel(rows.reshape(-1, rows.shape[-1]), self.points)
        # Targets are ±1, so a sure answer is 2 apart; four times that makes the softmax as sure.
        return (4 * near @ self.beta).softmax(dim=-1).view(*rows.shape[:-1], -1)

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(a, b).square() / self.width)

    @torch.no_grad()
    def grow(self, rows: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> None:
        """Fits to rows of `statistics`, `(token, k)`, and labels `(token,)`; classes are drawn equally often."""
        classes = self.beta.shape[1]
        counts = np.bincount(labels, minlength=classes)
        share = 1 / counts[labels]
        pick = np.random.default_rng(seed).choice(len(rows), len(self.points), p=share / share.sum())
        x = torch.from_numpy(rows[pick]).float()
        self.points.copy_(x)
        self.width.copy_(torch.pdist(x[:500]).square().median().clamp_min(1e-3))
        y = 2.0 * torch.nn.functional.one_hot(torch.from_numpy(labels[pick]), classes).float() - 1
        kernel = self._kernel(x, x)
        self.beta.copy_(torch.linalg.solve(kernel + torch.eye(len(x)) / self.c, y))
