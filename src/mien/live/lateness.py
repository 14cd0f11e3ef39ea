"""How late frames are handed over, compared with the fastest so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

#: Seconds per second by which the fastest delivery is forgotten, so that the clock of a camera may run slower than that
#: of the computer (0.01 % at worst). Our choice.
_FORGET = 1e-3
#: A difference of so many seconds is a clock that was set, or a source that was away.
_LEAP_S = 30.0


class Lateness:
    """Decide which frames are dropped because the computer is too slow for them.

    Args:
        late_s: seconds from which a frame is late; None: never.
        clock: seconds that pass, as `time.monotonic`.
    """

    def __init__(self, late_s: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._late_s, self._clock = late_s, clock
        self._fastest = math.inf  # clock minus the time of a frame
        self._last = 0.0

    def is_late(self, time_s: float) -> bool:
        """Whether the frame of `time_s`, handed over now, is late."""
        if self._late_s is None:
            return False
        now = self._clock()
        if math.isfinite(self._fastest):
            self._fastest += (now - self._last) * _FORGET
        self._last = now
        behind = now - time_s
        # A source whose clock was set starts anew.
        if not -_LEAP_S < behind - self._fastest < _LEAP_S:
            self._fastest = behind
        self._fastest = min(self._fastest, behind)
        return behind - self._fastest > self._late_s
