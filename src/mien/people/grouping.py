"""Group subjects by the distances of their descriptors, with pairs that must and must not come together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Pair = tuple[int, int]


def group(
    distances: np.ndarray, threshold: float, *, together: Iterable[Pair] = (), apart: Iterable[Pair] = ()
) -> np.ndarray:
    """Average-linkage clustering (UPGMA; Sokal and Michener 1958) with constraints.

    The two nearest clusters are joined while their mean distance is below the threshold. Of equally near ones, those of
    the first items are: only with such ties does the result depend on the order of the items.

    Clusters with items of a pair in `together` are one group without becoming one cluster: someone with and without a
    beard has two looks, and who resembles one of them is of that group.

    Args:
        distances: `(n, n)` symmetric; NaN where an item has no descriptor: it is then joined by `together` alone.
        threshold: in the unit of the distances.
        together: pairs of one group, whatever their distance. They win over `apart`.
        apart: pairs of different groups.

    Returns:
        `(n,)` number of each item's group, from 0 in the order of first items.
    """
    count = len(distances)
    groups = np.arange(count)
    forbidden = np.zeros((count, count), bool)
    means = np.where(np.isnan(distances), np.inf, np.asarray(distances, float))
    sizes = np.ones(count)

    def join(one: int, other: int) -> None:
        """Make the groups of two items one, and rule out the joins that this forbids."""
        first, second = sorted((int(groups[one]), int(groups[other])))
        groups[groups == second] = first
        forbidden[first] |= forbidden[second]
        forbidden[:, first] |= forbidden[:, second]
        inside, outside = groups == first, forbidden[first][groups]
        means[np.ix_(inside, inside | outside)] = means[np.ix_(inside | outside, inside)] = np.inf

    for item in range(count):
        means[item, item] = np.inf
    for one, other in together:
        join(one, other)
    for one, other in apart:
        if groups[one] != groups[other]:
            forbidden[groups[one], groups[other]] = forbidden[groups[other], groups[one]] = True
    means[forbidden[np.ix_(groups, groups)]] = np.inf
    while count:
        one, other = sorted(divmod(int(np.argmin(means)), count))
        if not means[one, other] < threshold:
            break
        row = (sizes[one] * means[one] + sizes[other] * means[other]) / (sizes[one] + sizes[other])
        means[one], means[:, one] = row, row
        means[other] = means[:, other] = np.inf
        sizes[one] += sizes[other]
        join(one, other)
    numbers = {first: number for number, first in enumerate(dict.fromkeys(groups.tolist()))}
    return np.array([numbers[first] for first in groups.tolist()], int)
