"""Kernel machine, support vector machine and their probabilities against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

from mien.layers.classical_machines import KernelELM, PairwiseSVM, couple, linear_svm, platt


def groups(rows: int = 90, width: int = 5, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping groups of vectors, of unequal size, on unequal scales."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, rows, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    centres = rng.normal(size=(classes, width)) * 2
    return ((centres[labels] + rng.normal(size=(rows, width))) * np.arange(1, width + 1)).astype(np.float32), labels


def test_kernel_machine_is_kernel_ridge_on_one_hot_labels() -> None:
    x, labels = groups()
    x /= 3
    machine = KernelELM(width=5, classes=3, support=len(x), c=2.0)
    machine.fit(x, labels)
    weight = len(labels) / (3 * np.bincount(labels)[labels])
    ridge = KernelRidge(alpha=0.5, kernel="rbf", gamma=1 / 5).fit(x, np.eye(3)[labels], sample_weight=weight)
    new = x + 0.5
    expected = ridge.predict(new)
    np.testing.assert_allclose(machine.scores(torch.from_numpy(new)).numpy(), expected, atol=1e-4)
    positive = np.maximum(expected, 0)
    probabilities = machine(torch.from_numpy(new)).numpy()
    np.testing.assert_allclose(probabilities, positive / positive.sum(axis=1, keepdims=True), atol=1e-3)


def test_kernel_machine_stores_as_many_of_each_class() -> None:
    x, labels = groups(rows=400)
    machine = KernelELM(width=5, classes=3, support=60)
    machine.fit(x, labels)
    stored = [int(labels[np.flatnonzero((x == v).all(axis=1))[0]]) for v in machine.vectors.numpy()]
    assert np.bincount(stored).tolist() == [20, 20, 20]


def test_kernel_machine_before_a_fit_and_far_from_all_vectors_is_uniform() -> None:
    machine = KernelELM(width=5, classes=4, support=10)
    far = torch.full((2, 5), 1e3)
    torch.testing.assert_close(machine(torch.randn(2, 5)), torch.full((2, 4), 0.25))
    x, labels = groups(rows=6)
    machine.fit(x, labels)
    torch.testing.assert_close(machine(far), torch.full((2, 4), 0.25))
    assert machine(torch.from_numpy(x)).argmax(dim=1).tolist() == labels.tolist(), "fewer vectors than it can store"


def test_polynomial_kernel_of_degree_1_is_a_linear_one_with_c_times_gamma() -> None:
    """The published machine, SVC(poly, degree 1, gamma .001, C 2), against the linear machine that is stored."""
    x, labels = groups(rows=120, width=8)
    published = SVC(kernel="poly", degree=1, gamma=0.001, C=2.0, decision_function_shape="ovo").fit(x, labels)
    margins = published.decision_function(x)
    for column, (first, second) in enumerate(((0, 1), (0, 2), (1, 2))):
        chosen = np.isin(labels, (first, second))
        weight, intercept = linear_svm(x[chosen], labels[chosen] == first, 2.0 * 0.001)
        np.testing.assert_allclose(x @ weight + intercept, margins[:, column], atol=5e-3)


def test_sigmoid_is_the_most_likely_one() -> None:
    """Platt's targets are a logistic regression in which every label is wrong with a small probability."""
    rng = np.random.default_rng(0)
    is_first = rng.random(80) < 0.3
    margins = np.where(is_first, 0.7, -0.9) + rng.normal(size=80)
    slope, offset = platt(margins, is_first)
    first, second = is_first.sum(), (~is_first).sum()
    target = np.where(is_first, (first + 1) / (first + 2), 1 / (second + 2))
    logistic = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.repeat(margins, 2)[:, None], np.tile([True, False], 80), np.stack((target, 1 - target), 1).ravel()
    )
    assert slope == pytest.approx(logistic.coef_[0, 0], rel=1e-3)
    assert offset == pytest.approx(logistic.intercept_[0], abs=1e-3)


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(0, 1000))
def test_coupled_pairs_minimise_the_published_criterion(classes: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = np.zeros((classes, classes))
    for i in range(classes):
        for j in range(i):
            pairs[i, j] = rng.uniform(0.02, 0.98)
            pairs[j, i] = 1 - pairs[i, j]

    def criterion(p: np.ndarray) -> float:
        return float(sum((pairs[j, i] * p[i] - pairs[i, j] * p[j]) ** 2 for i in range(classes) for j in range(i)))

    found = couple(torch.from_numpy(pairs)[None], torch.ones(classes))[0].numpy()
    assert found.sum() == pytest.approx(1)
    best = minimize(
        criterion, np.full(classes, 1 / classes), bounds=[(0, 1)] * classes, tol=1e-12,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
    )  # fmt: skip
    np.testing.assert_allclose(found, best.x, atol=5e-3)


@given(st.lists(st.floats(0.01, 1.0), min_size=2, max_size=8))
def test_pairs_that_agree_give_their_probabilities(weights: list[float]) -> None:
    """The system to solve is then singular but for the small number on its diagonal; in float32."""
    p = torch.tensor(weights) / sum(weights)
    pairs = p[:, None] / (p[:, None] + p[None, :])
    torch.testing.assert_close(couple(pairs[None], torch.ones(len(p)))[0], p, atol=5e-3, rtol=0)


def test_machine_of_pairs_predicts_as_scikit_learn() -> None:
    vectors, classes = groups(rows=500, width=6, classes=4)
    (x, new), (labels, truth) = np.split(vectors, [300]), np.split(classes, [300])
    machine = PairwiseSVM(width=6, classes=5)
    torch.testing.assert_close(machine(torch.from_numpy(new)), torch.full((200, 5), 0.2))
    machine.fit(x, labels, c=0.002)
    p = machine(torch.from_numpy(new)).numpy()
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
    assert p[:, 4].max() < 1e-5, "a class without a training vector"
    voted = SVC(kernel="poly", degree=1, gamma=0.001, C=2.0).fit(x, labels).predict(new)
    assert (p.argmax(axis=1) == voted).mean() > 0.9
    likelihood = np.log(p[np.arange(200), truth]).mean()
    shares = np.bincount(labels) / 300
    assert likelihood > np.log(shares[truth]).mean() + 0.3, "its probabilities say more than the class shares"


def test_one_class_is_not_fitted_and_class_weights_move_the_margin() -> None:
    x, labels = groups()
    machine = PairwiseSVM(width=5, classes=3)
    machine.fit(x, np.zeros(len(x), int), c=0.1)
    assert not machine.weight.any()
    plain, intercept = linear_svm(x, labels == 0, 0.01)
    weighted, weighted_intercept = linear_svm(x, labels == 0, 0.01, {True: 20.0, False: 1.0})
    assert (x @ weighted + weighted_intercept > 0).sum() > (x @ plain + intercept > 0).sum()
