"""Repair of presentation timestamps: missing, jumping or decreasing ones become strictly increasing."""

from __future__ import annotations

import math
from fractions import Fraction

from mien.media.limits import PAUSE_S

#: A step back of up to `BACK_S` seconds is a fault of a few frames: they are placed 1 ms apart. A longer step back, or
#: a step forward beyond `LEAP_S`, is a clock that was set: all later timestamps are shifted. Our choice: recordings do
#: not pause for an hour, and broken timestamps do jump that far.
BACK_S, LEAP_S = 0.5, 3600.0
#: Steps of up to this many seconds are kept also beyond the longest span of a file.
_SLOW_STEP_S = 1.0
#: Seconds by which a frame out of order follows the previous one.
_NUDGE = Fraction(1, 1000)


class TimestampRepair:
    """Strictly increasing frame times for one stream.

    Call it with each frame's timestamp in decoding order (exact seconds, None where missing); it returns the repaired
    time as a float, larger than all earlier ones. `faults` counts repaired frames.

    Args:
        step: usual distance of two frames in seconds, used where a timestamp is missing or the clock was set.
        longest_s: after so many seconds, steps longer than a second are closed: a small file could else last for years.

    Attributes:
        pauses_s: start and length in seconds of each step of `limits.PAUSE_S` or more.
    """

    def __init__(self, step: Fraction, longest_s: float = math.inf) -> None:
        self.step = step
        self.faults = 0
        self.pauses_s: list[tuple[float, float]] = []
        self._longest_s = longest_s
        self._missing = 0
        self._first_fault_s = 0.0
        self._offset = Fraction(0)
        self._last: Fraction | None = None

    def __call__(self, raw: Fraction | None) -> float:
        """The repaired time of the next frame in seconds. raw: its presentation timestamp, None if it has none."""
        if raw is None:
            self._missing += 1
            self._count_fault()
            time = Fraction(0) if self._last is None else self._last + self.step
        else:
            time = raw + self._offset
            # Compared as floats, the type of the result: two fractions may differ by less than a float resolves.
            if self._last is not None and (float(time) <= float(self._last) or self._is_leap(time - self._last, time)):
                self._count_fault()
                if self._last - time > BACK_S or time > self._last:
                    self._offset += self._last + self.step - time
                    time = self._last + self.step
                else:
                    time = self._last + _NUDGE
            if self._last is not None and time - self._last >= PAUSE_S:
                self.pauses_s.append((float(self._last), float(time - self._last)))
        self._last = time
        return float(time)

    def _is_leap(self, step: Fraction, time: Fraction) -> bool:
        return step > LEAP_S or (time > self._longest_s and step > _SLOW_STEP_S)

    def _count_fault(self) -> None:
        if not self.faults:
            self._first_fault_s = float(self._last or 0)
        self.faults += 1

    def pause_summary(self) -> str:
        """Describe the pauses, as the end of a sentence; "" where there is none."""
        if not self.pauses_s:
            return ""
        count = "a pause" if len(self.pauses_s) == 1 else f"{len(self.pauses_s)} pauses"
        longest = max(length for _, length in self.pauses_s)
        return (
            f"pictures have {count} of {PAUSE_S:.0f} s or more (first after {self.pauses_s[0][0]:.2f} s, longest "
            f"{longest:.0f} s): there are no rows in them."
        )

    def summary(self) -> str:
        """Describe the repairs, as the end of a sentence that begins with the stream, such as "the video's"."""
        if self._missing == self.faults:
            rate = float(1 / self.step)
            return f"timestamps are missing in {self.faults} frames: {rate:.4g} frames a second were assumed."
        places = "one place" if self.faults == 1 else f"{self.faults} places"
        return (
            f"timestamps decrease or jump in {places} (first after {self._first_fault_s:.2f} s); "
            "they were repaired so that time increases."
        )
