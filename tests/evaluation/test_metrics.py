"""Metrics: closed forms, agreement with scikit-learn, and unlabelled positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn import metrics as sk

from mien.evaluation.metrics import accuracy, ccc, confusion, f1_from_confusion, f1_per_class, macro_f1, va_score

CLASSES = arrays.arrays(np.int64, 40, elements=st.integers(0, 7))
VALUES = arrays.arrays(np.float64, 25, elements=st.floats(-1, 1, width=32))


def test_f1_closed_form() -> None:
    truth = np.array([0, 0, 0, 1, 1, 2])
    prediction = np.array([0, 0, 1, 1, 2, 2])
    # class 0: TP 2, FP 0, FN 1 -> 4/5; class 1: TP 1, FP 1, FN 1 -> 2/4; class 2: TP 1, FP 1, FN 0 -> 2/3
    assert f1_per_class(truth, prediction, classes=3) == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    assert macro_f1(truth, prediction, classes=3) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert accuracy(truth, prediction) == pytest.approx(4 / 6)
    assert confusion(truth, prediction, classes=3).tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_ccc_closed_form() -> None:
    # x = 0,1,2,3 and y = x + 1: var = 5/4 each, cov = 5/4, mean difference 1 -> 2.5 / (2.5 + 1)
    x = np.arange(4.0)
    assert ccc(x, x + 1) == pytest.approx(2.5 / 3.5)
    assert ccc(x, x) == pytest.approx(1)
    assert ccc(x, 3 - x) == pytest.approx(-1)


def test_ccc_uses_the_population_variance() -> None:
    x, y = np.array([0.0, 1.0]), np.array([0.0, 2.0])
    # population: cov .5, var .25 and 1, mean difference .5 -> 1 / 1.5; with sample variances it would be 2
    # / 2.75
    assert ccc(x, y) == pytest.approx(1 / 1.5)


@given(CLASSES, CLASSES)
def test_agrees_with_scikit_learn(truth: np.ndarray, prediction: np.ndarray) -> None:
    names = list(range(8))
    expected = sk.f1_score(truth, prediction, labels=names, average=None, zero_division=0)
    assert np.allclose(f1_per_class(truth, prediction), expected)
    assert macro_f1(truth, prediction) == pytest.approx(expected.mean())
    assert accuracy(truth, prediction) == pytest.approx(sk.accuracy_score(truth, prediction))
    assert (confusion(truth, prediction) == sk.confusion_matrix(truth, prediction, labels=names)).all()


@given(VALUES, VALUES)
def test_ccc_is_symmetric_bounded_and_below_pearson(x: np.ndarray, y: np.ndarray) -> None:
    score = ccc(x, y)
    assert score == pytest.approx(ccc(y, x), abs=1e-9)
    assert -1 - 1e-9 <= score <= 1 + 1e-9
    if x.std() > 1e-3 and y.std() > 1e-3:
        assert abs(score) <= abs(np.corrcoef(x, y)[0, 1]) + 1e-9


@given(CLASSES, CLASSES, arrays.arrays(bool, 40))
def test_unlabelled_positions_are_left_out(truth: np.ndarray, prediction: np.ndarray, hidden: np.ndarray) -> None:
    hidden[0] = False
    marked = np.where(hidden, -1, truth)
    assert macro_f1(marked, prediction) == macro_f1(truth[~hidden], prediction[~hidden])
    assert accuracy(marked, prediction) == accuracy(truth[~hidden], prediction[~hidden])


@given(VALUES, VALUES, st.integers(1, 24))
def test_lists_are_pooled_before_scoring(x: np.ndarray, y: np.ndarray, cut: int) -> None:
    assert ccc([x[:cut], x[cut:]], [y[:cut], y[cut:]]) == ccc(x, y)


def test_confusions_add_up() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(-1, 8, 500), rng.integers(0, 8, 500)
    parts = confusion(truth[:100], prediction[:100]) + confusion(truth[100:], prediction[100:])
    assert (parts == confusion(truth, prediction)).all()
    assert (
        f1_from_confusion(parts) == f1_per_class([truth[:100], truth[100:]], [prediction[:100], prediction[100:]])
    ).all()


def test_macro_f1_over_a_subset_of_classes() -> None:
    truth, prediction = np.array([0, 0, 1, 1]), np.array([0, 6, 1, 1])
    assert macro_f1(truth, prediction, over=[0, 1]) == pytest.approx((2 / 3 + 1) / 2)
    assert macro_f1(truth, prediction) == pytest.approx((2 / 3 + 1) / 8)


def test_va_score_leaves_out_rows_with_one_label() -> None:
    truth = np.array([[0.1, 0.2], [0.5, np.nan], [0.3, -0.4], [-0.9, 0.6]])
    prediction = np.array([[0.0, 0.1], [0.9, 0.9], [0.2, -0.2], [-0.5, 0.5]])
    kept = [0, 2, 3]
    expected = (ccc(truth[kept, 0], prediction[kept, 0]) + ccc(truth[kept, 1], prediction[kept, 1])) / 2
    assert va_score(truth, prediction) == pytest.approx(expected)


def test_scores_without_labels_are_nan() -> None:
    assert np.isnan(ccc(np.full(3, np.nan), np.zeros(3)))
    assert np.isnan(accuracy(np.full(3, -1), np.zeros(3)))


def test_ccc_of_a_constant_is_zero() -> None:
    assert ccc(np.full(5, 0.3), np.full(5, 0.3)) == 0
    assert ccc(np.full(5, 0.3), np.linspace(-1, 1, 5)) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: macro_f1(np.zeros(3, int), np.zeros(4, int)), "3 positions and prediction 4"),
        (lambda: macro_f1(np.zeros(3, int), np.full(3, -1)), "prediction holds class -1 at 3"),
        (lambda: accuracy(np.zeros(3, int), np.zeros(2, int)), "3 positions and prediction 2"),
        (lambda: ccc(np.zeros(3), np.array([0, np.nan, 0])), "NaN or infinite at 1 labelled"),
    ],
)
def test_errors_name_the_problem(call: Callable[[], float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
