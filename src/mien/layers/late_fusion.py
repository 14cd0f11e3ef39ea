"""Late fusion: combine the class probabilities of several models, any of which may be missing.

Shapes: probabilities `(..., model, classes)`, present `(..., model)` bool -> fused probabilities `(..., classes)`,
which sum to 1. The probabilities of a model that is not present are never read. With one model present the weighted
mean returns its probabilities, with none a uniform distribution.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

#: `(probabilities (token, classes), labels (token,))` -> score, higher is better.
Score = Callable[[np.ndarray, np.ndarray], float]


class WeightedFusion(nn.Module):
    """Weighted mean with weights `(model, classes)`, over the models present; uniform until `search`.

    Source: Dresvyanskiy et al., arXiv 2010.03692 and 2403.12609: weights are drawn from a Dirichlet distribution, per
    model or per model and class, and those with the best score on validation data are used.

    A model that the entropy limit removes adds zero, and the weights of the others stay as they are: with weights per
    class this decides the label, because the others are not scaled up class by class. Ours: the sum is then divided by
    its total over the classes, so that a row holds probabilities; the label does not change. Ours, too: a model that is
    not present leaves its share to the others, and a model over the limit is used where no other is present. The
    published corpus has neither case.

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
        is_used = self.select_models(probabilities, present)
        return self._weighted_sum(probabilities, present, is_used, self.weights)

    def _weighted_sum(self, probabilities: Tensor, present: Tensor, is_used: Tensor, weights: Tensor) -> Tensor:
        weights = weights.clamp_min(1e-6)
        total = (weights * torch.where(is_used[..., None], probabilities, 0.0)).sum(dim=-2)
        # The share of the models present is 1 where all are, so a model over the limit is not made up for.
        total = total / torch.where(present[..., None], weights, 0.0).sum(dim=-2).clamp_min(1e-6)
        total = torch.where(is_used.any(dim=-1, keepdim=True), total, 1.0)
        return total / total.sum(dim=-1, keepdim=True).clamp_min(1e-12)

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
            return score(self._weighted_sum(probabilities, present, is_used, expanded).numpy(), labels)

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


class _SklearnTree(Protocol):
    """The arrays of a fitted scikit-learn tree, one entry per node; a child is -1 at a leaf."""

    children_left: np.ndarray
    children_right: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    value: np.ndarray


class ForestFusion(nn.Module):
    """Random forest on the models' probabilities, fitted by scikit-learn and stored as arrays of complete binary trees.

    Source: the authors' public code of arXiv 2403.12609: the probabilities of all models side by side, classes weighted
    by their inverse frequency, 10, 50 or 100 trees, split by Gini impurity or entropy, chosen by macro F1 out of bag.

    Ours: trees have a fixed `depth` (the published ones have no limit), because a tree without a limit stores a leaf
    for nearly every token. The probabilities of a model that is not present are uniform.

    Arrays need neither pickle nor scikit-learn to be saved and run. The children of node i are 2 i + 1 and 2 i + 2.

    Args:
        trees: numbers of trees to choose from.
    """

    feature: Tensor
    threshold: Tensor
    leaf: Tensor
    trees_used: Tensor

    def __init__(self, *, classes: int, trees: Sequence[int] = (10, 50, 100), depth: int = 8) -> None:
        super().__init__()
        self.tree_counts, self.depth = tuple(trees), depth
        most = max(trees)
        self.register_buffer("feature", torch.zeros(most, 2**depth - 1, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(most, 2**depth - 1))
        self.register_buffer("leaf", torch.full((most, 2**depth, classes), 1 / classes))
        self.register_buffer("trees_used", torch.tensor(float(most)))

    def forward(self, probabilities: Tensor, present: Tensor) -> Tensor:
        """Mean of the trees' leaf probabilities `(..., classes)`; see the module for the shapes."""
        rows = _filled(probabilities, present)
        return self._classify(rows.reshape(-1, rows.shape[-1])).view(*rows.shape[:-1], -1)

    def _classify(self, rows: Tensor) -> Tensor:
        """`(n, model * classes)` -> `(n, classes)`."""
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
        return total / self.trees_used

    @torch.no_grad()
    def fit(self, probabilities: Tensor, present: Tensor, labels: np.ndarray, score: Score, *, seed: int = 0) -> float:
        """Fit a forest of each size and criterion, keep the best by `score` out of bag, and return that score.

        Args:
            probabilities: `(token, model, classes)`. present: `(token, model)` bool. labels: `(token,)` int.

        Tokens that are in the sample of every tree have no estimate out of bag; the score leaves them out.
        """
        from sklearn.ensemble import RandomForestClassifier

        rows = _filled(probabilities, present).numpy()
        best_score, best = -np.inf, None
        for count in self.tree_counts:
            for criterion in ("gini", "entropy"):
                forest = RandomForestClassifier(
                    count, criterion=criterion, max_depth=self.depth, class_weight="balanced", oob_score=True,
                    random_state=seed, n_jobs=1,
                )  # fmt: skip
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of tokens without an estimate, which are left out below
                    forest.fit(rows, labels)
                votes = np.zeros((len(rows), self.leaf.shape[-1]))
                votes[:, forest.classes_] = np.nan_to_num(forest.oob_decision_function_)
                known = votes.sum(axis=1) > 0
                new_score = score(votes[known], labels[known]) if known.any() else 0.0
                if new_score > best_score:
                    best_score, best = new_score, forest
        assert best is not None
        self.leaf.zero_()
        self.trees_used.fill_(len(best.estimators_))
        for number, tree in enumerate(best.estimators_):
            self._copy_tree(number, tree.tree_, [int(c) for c in best.classes_])
        return best_score

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


def _filled(probabilities: Tensor, present: Tensor) -> Tensor:
    """The models' probabilities side by side, `(..., model * classes)`; uniform for a model that is not present."""
    return torch.where(present[..., None], probabilities, 1 / probabilities.shape[-1]).flatten(-2)
