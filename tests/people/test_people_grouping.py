"""Average linkage with constraints, against SciPy's and as properties."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform

from mien.people.grouping import group

seeds = st.integers(0, 10_000)


def random_distances(seed: int, n: int) -> np.ndarray:
    return squareform(pdist(np.random.default_rng(seed).normal(size=(n, 3))))


def same(labels: np.ndarray) -> np.ndarray:
    """Whether each two items are in one group, which does not depend on the numbers."""
    return labels[:, None] == labels[None]


@given(seeds, st.integers(2, 12), st.floats(0.2, 3.0))
def test_without_constraints_it_is_average_linkage(seed: int, n: int, threshold: float) -> None:
    distances = random_distances(seed, n)
    expected = fcluster(linkage(squareform(distances), "average"), threshold, "distance")
    assert (same(group(distances, threshold)) == same(expected)).all()


@given(seeds, st.integers(2, 12), st.floats(0.2, 3.0))
def test_the_order_of_the_items_does_not_matter(seed: int, n: int, threshold: float) -> None:
    distances, rng = random_distances(seed, n), np.random.default_rng(seed + 1)
    order = rng.permutation(n)
    apart, together = [(0, n - 1)], [(0, n // 2)] if n > 3 else []
    moved = {int(item): place for place, item in enumerate(order)}
    labels = group(distances, threshold, together=together, apart=apart)
    other = group(
        distances[np.ix_(order, order)],
        threshold,
        together=[(moved[a], moved[b]) for a, b in together],
        apart=[(moved[b], moved[a]) for a, b in apart],
    )
    assert (same(labels)[np.ix_(order, order)] == same(other)).all()


@given(seeds, st.integers(3, 10))
def test_constraints_hold_at_any_threshold(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    people = rng.integers(0, 3, n)
    pairs = [(i, j) for i in range(n) for j in range(i) if rng.random() < 0.4]
    together = [(i, j) for i, j in pairs if people[i] == people[j]]
    apart = [(i, j) for i, j in pairs if people[i] != people[j]]
    for threshold in (0.0, np.inf):
        labels = group(random_distances(seed, n), threshold, together=together, apart=apart)
        assert all(labels[i] == labels[j] for i, j in together)
        assert all(labels[i] != labels[j] for i, j in apart)


def test_together_wins_over_apart() -> None:
    assert group(np.ones((2, 2)), 0.0, together=[(0, 1)], apart=[(0, 1)]).tolist() == [0, 0]


def test_an_item_without_a_descriptor_is_joined_by_name_alone() -> None:
    distances = np.array([[0, 0.1, np.nan], [0.1, 0, np.nan], [np.nan, np.nan, np.nan]])
    assert group(distances, 1.0).tolist() == [0, 0, 1]
    assert group(distances, 0.05, together=[(1, 2)]).tolist() == [0, 1, 1]


def test_groups_are_numbered_by_first_member_and_nothing_is_nothing() -> None:
    line = np.abs(np.subtract.outer([5.0, 0.0, 5.1, 0.1], [5.0, 0.0, 5.1, 0.1]))
    assert group(line, 1.0).tolist() == [0, 1, 0, 1]
    assert group(np.zeros((0, 0)), 1.0).tolist() == []
