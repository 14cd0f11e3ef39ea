"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["cosine", "constant", "plateau"]


def learning_rate_factor(step: int, total: int, warmup: float, schedule: Schedule, end: float = 0.0) -> float:
    """Factor on the learning rate in step `step` of `total`, counted from 0, in (0, 1].

    It rises linearly over the first `warmup * total` steps, then falls as half a cosine to `end` after the last
    (`cosine`), or stays at 1 (`constant`, and `plateau`, which `plateau_factor` reduces).
    """
    rise = round(warmup * total)
    if step < rise:
        return (step + 1) / rise
    if schedule != "cosine":
        return 1.0
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def plateau_factor(scores: Sequence[float], *, patience: int, factor: float) -> float:
    """Factor on the learning rate after epochs with these validation scores, in (0, 1].

    It is multiplied by `factor` each time that more than `patience` epochs in a row bring no score above the best so
    far; the count then begins again. This is `torch.optim.lr_scheduler.ReduceLROnPlateau` with a threshold of 0. It
    follows from the scores alone, so that a resumed run needs no further state. A score that is not finite is not
    better.
    """
    best, waited, result = -math.inf, 0, 1.0
    for score in scores:
        if score > best:
            best, waited = score, 0
            continue
        waited += 1
        if waited > patience:
            result, waited = result * factor, 0
    return result
