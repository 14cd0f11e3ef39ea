"""Repair of presentation timestamps: missing, jumping or decreasing ones become strictly increasing."""

from __future__ import annotations

from fractions import Fraction

#: A step back of up to `BACK_S` seconds is a fault of a few frames: they are placed 1 ms apart. A longer step back, or
#: a step forward beyond `LEAP_S`, is a clock that was set: all later timestamps are shifted. Our choice: recordings do
#: not pause for an hour, and broken timestamps do jump that far.
BACK_S, LEAP_S = 0.5, 3600.0
#: Seconds by which a frame out of order follows the previous one.
_NUDGE = Fraction(1, 1000)


class TimestampRepair:
    """Strictly increasing frame times for one stream.

    Call it with each frame's timestamp in decoding order (exact seconds, None where missing); it returns the repaired
    time as a float, larger than all earlier ones. `faults` counts repaired frames.

    Args:
        step: usual distance of two frames in seconds, used where a timestamp is missing or the clock was set.
    """

    def __init__(self, step: Fraction) -> None:
        self.step = step
        self.faults = 0
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
            if self._last is not None and (float(time) <= float(self._last) or time - self._last > LEAP_S):
                self._count_fault()
                if self._last - time > BACK_S or time > self._last:
                    self._offset += self._last + self.step - time
                    time = self._last + self.step
                else:
                    time = self._last + _NUDGE
        self._last = time
        return float(time)

    def _count_fault(self) -> None:
        if not self.faults:
            self._first_fault_s = float(self._last or 0)
        self.faults += 1

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
