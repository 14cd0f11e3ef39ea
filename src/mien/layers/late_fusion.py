"""Late fusion: combine the class probabilities of several models, any of which may be missing.

Shapes: probabilities `(..., model, classes)`, present `(..., model)` bool -> fused probabilities `(..., classes)`. The
probabilities of a model that is not present are never read. With one model present the weighted mean returns its
probabilities, with none a uniform distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

#: `(probabilities (token, classes), labels (token,))` -> score, higher is better.
Score = Callable[[np.ndarray, np.ndarray], float]


class WeightedFusion(nn.Module):
    """Weighted mean with weights `(model, classes)`, renormalised over the models present; uniform until `search`.

    Source: Dresvyanskiy et al., arXiv 2010.03692 and 2403.12609: weights are drawn from a Dirichlet distribution, per
    model or per model and class, and those with the best score on validation data are used.

    Args:
        entropy: largest entropy, in nats, at which a model of `filtered` is used; None for no limit. (arXiv 2403.12609:
            1.8 for the voice.)
        filtered: for each model, whether the limit applies to it.
    """

    weights: Tensor
    filtered: Tensor

    def __init__(
        self, *, models: int, classes: int, entropy: float | None = None, filtered: Sequence[bool] | None = None
    ) -> None:
        super().__init__()
        self.entropy = entropy
        self.register_buffer("weights", torch.full((models, classes), 1 / models))
        self.register_buffer("filtered", torch.tensor(filtered or [False] * models), persistent=False)

    def select_models(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """The models to use, `(..., model)` bool: present, and within the entropy limit.

        Where no present model is within the limit, all present models are used.
        """
        if self.entropy is None:
            return present
        entropy = -(probabilities.clamp_min(1e-12).log() * probabilities).sum(dim=-1)
        within_limit = present & ~(self.filtered & (entropy > self.entropy))
        return within_limit | (present & ~within_limit.any(dim=-1, keepdim=True))

    def forward(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Fused probabilities `(..., classes)`; see the module for the shapes."""
        return self._weighted_mean(probabilities, self.select_models(probabilities, present), self.weights)

    def _weighted_mean(self, probabilities: Tensor, is_used: Tensor, weights: Tensor) -> Tensor:
        weights = torch.where(is_used[..., None], weights.clamp_min(1e-6), 0.0)
        total = (weights * torch.where(is_used[..., None], probabilities, 0.0)).sum(dim=-2)
        mean = total / weights.sum(dim=-2).clamp_min(1e-6)
        mean = torch.where(is_used.any(dim=-1, keepdim=True), mean, 1.0)
        # Weights per class leave a sum other than 1.
        return mean / mean.sum(dim=-1, keepdim=True).clamp_min(1e-12)

    @torch.no_grad()
    def search(
        self,
        probabilities: Tensor,
        present: Tensor,
        labels: np.ndarray,
        score: Score,
        *,
        draws: int = 1000,
        weights_per: Literal["model", "class"] = "class",
        seed: int = 0,
    ) -> float:
        """Set the weights to the best of uniform ones and `draws` random ones; returns their score.

        Args:
            probabilities: `(token, model, classes)`. present: `(token, model)` bool. labels: `(token,)` int.
            weights_per: whether a draw has one weight per model, or one per model and class.
        """
        models, classes = self.weights.shape
        is_used = self.select_models(probabilities, present)

        def fused_score(weights: np.ndarray) -> float:
            expanded = torch.from_numpy(np.broadcast_to(weights, (models, classes)).copy()).to(self.weights)
            return score(self._weighted_mean(probabilities, is_used, expanded).numpy(), labels)

        shape = (models, classes if weights_per == "class" else 1)
        weights, best_score = search_weights(fused_score, shape, draws=draws, seed=seed)
        self.weights.copy_(torch.from_numpy(np.broadcast_to(weights, (models, classes)).copy()))
        return best_score


def search_weights(
    score: Callable[[np.ndarray], float], shape: tuple[int, int], *, draws: int, seed: int
) -> tuple[np.ndarray, float]:
    """The best of equal weights and `draws` random ones, which are uniform on the simplex (a Dirichlet distribution).

    Args:
        score: of weights `(model, column)`, whose columns sum to 1; higher is better. Of equal scores the first wins,
            so equal weights stay unless others are better.
        shape: models and columns: one column of weights for all classes, or one per class.

    Returns the weights and their score.
    """
    models, columns = shape
    generator = np.random.default_rng(seed)
    best_score, best_weights = -np.inf, np.full(shape, 1 / models)
    for number in range(draws + 1):
        drawn = generator.dirichlet(np.ones(models), columns).T
        weights = drawn if number else np.full(shape, 1 / models)
        new_score = score(weights)
        if new_score > best_score:
            best_score, best_weights = new_score, weights
    return best_weights, best_score


def statistics(probabilities: Tensor, present: Tensor) -> Tensor:
    """Input features of the learned fusions (arXiv 2403.12609).

    For each model: its probabilities, their mean, maximum and minimum over the window, and whether it is present. Where
    a model is not present its probabilities are uniform.

    `(batch, time, model, classes)`, `(batch, time, model)` -> `(batch, time, 4 * model * classes + model)`.
    """
    is_present = present[..., None]
    p = torch.where(is_present, probabilities, 1 / probabilities.shape[-1])
    present_in_window = present.any(dim=1, keepdim=True)[..., None]
    mean = p.mean(dim=1, keepdim=True)
    maximum = torch.where(is_present, p, -1.0).amax(dim=1, keepdim=True)
    minimum = torch.where(is_present, p, 2.0).amin(dim=1, keepdim=True)
    over_window = [torch.where(present_in_window, m, mean).expand_as(p) for m in (mean, maximum, minimum)]
    return torch.cat((torch.cat((p, *over_window), dim=-1).flatten(-2), present.to(p.dtype)), dim=-1)


class ClassifierFusion(nn.Module):
    """Base of the fusions that are classifiers on `statistics`."""

    def classify(self, rows: Tensor) -> Tensor:
        """Probabilities `(n, classes)` of rows `(n, k)` of `statistics`."""
        raise NotImplementedError

    def fit(self, rows: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> None:
        """Fit to rows `(token, k)` of `statistics` and labels `(token,)` int."""
        raise NotImplementedError

    def forward(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """`(batch, time, model, classes)`, `(batch, time, model)` bool -> `(batch, time, classes)`."""
        rows = statistics(probabilities, present)
        return self.classify(rows.reshape(-1, rows.shape[-1])).view(*rows.shape[:-1], -1)


class _SklearnTree(Protocol):
    """The arrays of a fitted scikit-learn tree, one entry per node; a child is -1 at a leaf."""

    children_left: np.ndarray
    children_right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray


class ForestFusion(ClassifierFusion):
    """Random forest on `statistics`, fitted by scikit-learn and stored as arrays of complete binary trees.

    Arrays need neither pickle nor scikit-learn to be saved and run. The children of node i are 2 i + 1 and 2 i + 2.
    Trees have a fixed `depth` (our choice: arXiv 2403.12609 has 10, 50 and 100 trees and gives no depth).
    """

    feature: Tensor
    threshold: Tensor
    leaf: Tensor

    def __init__(self, *, models: int, classes: int, trees: int = 100, depth: int = 8) -> None:
        super().__init__()
        self.depth = depth
        self.register_buffer("feature", torch.zeros(trees, 2**depth - 1, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(trees, 2**depth - 1))
        self.register_buffer("leaf", torch.full((trees, 2**depth, classes), 1 / classes))

    def classify(self, rows: Tensor) -> Tensor:
        """Mean of the trees' leaf probabilities, see `ClassifierFusion.classify`."""
        # All trees descend at once; node indices count through the nodes of all of them.
        trees, inner_nodes = self.feature.shape
        first_node = torch.arange(trees, device=rows.device)[:, None] * inner_nodes
        feature, threshold = self.feature.flatten(), self.threshold.flatten()
        node = torch.zeros(trees, rows.shape[0], dtype=torch.int64, device=rows.device)
        for _ in range(self.depth):
            index = node + first_node
            goes_right = threshold[index] < rows.gather(1, feature[index].T).T
            node = 2 * node + 1 + goes_right.long()
        total = torch.zeros(rows.shape[0], self.leaf.shape[-1], device=rows.device)
        for leaf, leaf_of_row in zip(self.leaf, node - inner_nodes, strict=True):
            total = total + leaf[leaf_of_row]
        return total / len(self.feature)

    @torch.no_grad()
    def fit(self, rows: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> None:
        """Fit a class-balanced forest, see `ClassifierFusion.fit`."""
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(
            len(self.feature), max_depth=self.depth, class_weight="balanced", random_state=seed, n_jobs=1
        ).fit(rows, labels)
        self.leaf.zero_()
        for number, tree in enumerate(forest.estimators_):
            self._copy_tree(number, tree.tree_, [int(c) for c in forest.classes_])

    def _copy_tree(self, number: int, tree: _SklearnTree, classes: list[int]) -> None:
        inner_nodes = 2**self.depth - 1
        pending = [(0, 0)]  # (node of the complete tree, node of scikit-learn's tree)
        while pending:
            target, source = pending.pop()
            if target >= inner_nodes:
                value = tree.value[source][0]
                self.leaf[number, target - inner_nodes, classes] = torch.from_numpy(value / value.sum()).float()
                continue
            left, right = int(tree.children_left[source]), int(tree.children_right[source])
            is_leaf = left < 0  # a leaf above the last level: both children of the complete tree copy it
            self.feature[number, target] = 0 if is_leaf else int(tree.feature[source])
            self.threshold[number, target] = 0.0 if is_leaf else float(tree.threshold[source])
            pending += [(2 * target + 1, source if is_leaf else left), (2 * target + 2, source if is_leaf else right)]


class KernelELMFusion(ClassifierFusion):
    """Kernel extreme learning machine on `statistics` (Huang et al. 2012).

    `softmax(4 k(x, X) (K + I / c)^-1 Y)` with a Gaussian kernel and targets Y of +-1, on at most `support` tokens X
    (our choice, because the kernel grows with their square).
    """

    support_rows: Tensor
    beta: Tensor
    kernel_width: Tensor

    def __init__(self, *, models: int, classes: int, support: int = 1000, c: float = 1.0) -> None:
        super().__init__()
        self.c = c
        self.register_buffer("support_rows", torch.zeros(support, 4 * models * classes + models))
        self.register_buffer("beta", torch.zeros(support, classes))
        self.register_buffer("kernel_width", torch.ones(()))

    def classify(self, rows: Tensor) -> Tensor:
        """Softmax of the machine's outputs, see `ClassifierFusion.classify`."""
        # Targets are +-1, so a certain answer is 2 apart from the others; the factor 4 makes the softmax as certain.
        return (4 * self._kernel(rows, self.support_rows) @ self.beta).softmax(dim=-1)

    def _kernel(self, a: Tensor, b: Tensor) -> Tensor:
        # The default mode chooses by the number of rows, which an exported network does not know.
        distance = torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist")
        return torch.exp(-distance.square() / self.kernel_width)

    @torch.no_grad()
    def fit(self, rows: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> None:
        """Fit to rows sampled so that all classes are equally likely, see `ClassifierFusion.fit`."""
        classes = self.beta.shape[1]
        counts = np.bincount(labels, minlength=classes)
        probability = 1 / counts[labels]
        generator = np.random.default_rng(seed)
        sample = generator.choice(len(rows), len(self.support_rows), p=probability / probability.sum())
        x = torch.from_numpy(rows[sample]).float()
        self.support_rows.copy_(x)
        self.kernel_width.copy_(torch.pdist(x[:500]).square().median().clamp_min(1e-3))
        y = 2.0 * torch.nn.functional.one_hot(torch.from_numpy(labels[sample]), classes).float() - 1
        self.beta.copy_(torch.linalg.solve(self._kernel(x, x) + torch.eye(len(x)) / self.c, y))
