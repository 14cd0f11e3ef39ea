"""Sound without holes: blocks grouped into runs that follow each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

#: Hz of the blocks, and seconds from which two blocks do not follow each other: half the shortest gap that is repaired.
RATE, SEPARATE_S = 16_000, 0.025


def runs(blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Iterator[tuple[float, np.ndarray]]]:
    """Runs of blocks that follow each other without a hole. Exhaust each before the next."""
    source = iter(blocks)
    first = next(source, None)

    def run(block: tuple[float, np.ndarray]) -> Iterator[tuple[float, np.ndarray]]:
        nonlocal first
        yield block
        first = None
        for following in source:
            if following[0] - (block[0] + len(block[1]) / RATE) > SEPARATE_S:
                first = following
                return
            block = following
            yield block

    while first is not None:
        yield run(first)
