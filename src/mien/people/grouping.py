"""Group subjects by the distances of their descriptors, with pairs that must and must not come together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Pair = tuple[int, int]


def group(
    distances: np.ndarray, threshold: float, *, together: Iterable[Pair] = (), apart: Iterable[Pair] = ()
) -> np.ndarray:
    """Average-linkage clustering (UPGMA; Sokal and Michener 1958) with constraints.

    The two nearest groups are joined while their mean distance is below the threshold. Ties go to the groups with the
    first members, so the result depends on the order of the items only if distances are exactly equal.

    Args:
        distances: `(n, n)` symmetric; NaN where an item has no descriptor: it is then joined by `together` alone.
        threshold: in the unit of the distances.
        together: pairs of one group, whatever their distance. They win over `apart`.
        apart: pairs of different groups.

    Returns:
        `(n,)` number of each item's group, from 0 in the order of first members.
    """
    count = len(distances)
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            item = parent[item]
        return item

    def join(one: int, other: int) -> int:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
        return first

    for one, other in together:
        join(one, other)
    roots = np.array([root(item) for item in range(count)], int)
    means, sizes = _means(np.asarray(distances, float), roots)
    for one, other in apart:
        if roots[one] != roots[other]:
            means[roots[one], roots[other]] = means[roots[other], roots[one]] = np.inf
    while count > 1:
        nearest = int(np.argmin(means))
        one, other = divmod(nearest, count)
        if not means[one, other] < threshold:
            break
        first, second = sorted((one, other))
        join(first, second)
        total = sizes[first] + sizes[second]
        row = (sizes[first] * means[first] + sizes[second] * means[second]) / total
        means[first], means[:, first], sizes[first] = row, row, total
        means[second] = means[:, second] = np.inf
        means[first, first] = np.inf
    final = [root(item) for item in range(count)]
    numbers = {first: number for number, first in enumerate(dict.fromkeys(final))}
    return np.array([numbers[first] for first in final], int)


def _means(distances: np.ndarray, roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance of each two groups `(n, n)` at the rows of their first members, and their sizes `(n,)`; infinite on
    the diagonal, for other rows, and where a group has no descriptor. Items without one do not count."""
    count = len(roots)
    known = ~np.isnan(distances).all(axis=1)
    member = np.zeros((count, count))
    member[roots[known], np.flatnonzero(known)] = 1
    sizes = member.sum(axis=1)
    sums = member @ np.nan_to_num(distances) @ member.T
    pairs = np.outer(sizes, sizes)
    means = np.divide(sums, pairs, out=np.full_like(sums, np.inf), where=pairs > 0)
    np.fill_diagonal(means, np.inf)
    return means, sizes
