"""Learning-rate schedule."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate_factor(
    step: int, total: int, warmup: float, schedule: Literal["cosine", "constant"], end: float = 0.0
) -> float:
    """Factor on the learning rate in step `step` of `total`, counted from 0, in (0, 1].

    It rises linearly over the first `warmup * total` steps, then falls as half a cosine to `end` after the last
    (`cosine`), or stays at 1 (`constant`).
    """
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / rise
    if schedule == "constant":
        return 1.0
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
