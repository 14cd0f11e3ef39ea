"""Timestamps that run backwards, jump or are missing, made strictly increasing."""

from __future__ import annotations

from fractions import Fraction

#: A step back of up to `BACK_S` is a fault of a few frames, which are squeezed in; a longer one is a clock
#: that was set back, and everything after it is moved. A step forward beyond `LEAP_S` is taken as a fault of
#: the clock too: no recording pauses for an hour, and a broken timestamp does reach far. Our choices.
BACK_S, LEAP_S = 0.5, 3600.0
#: The distance at which a frame out of order is put behind the one before it.
_NUDGE = Fraction(1, 1000)


class Repair:
    """One stream's clock. Call it with each frame's timestamp (seconds, None where missing) in decoding
    order.

    step: the usual distance of two frames in seconds, used where a timestamp is missing or the clock was set.
    """

    def __init__(self, step: Fraction) -> None:
        self.step = step
        self.faults = 0
        self._missing = 0
        self._first_s = 0.0
        self._offset = Fraction(0)
        self._last: Fraction | None = None

    def __call__(self, raw: Fraction | None) -> float:
        """Seconds, larger than every one before."""
        if raw is None:
            self._missing += 1
            self._fault(self._last)
            time = Fraction(0) if self._last is None else self._last + self.step
        else:
            time = raw + self._offset
            # As floats, which is what they become: two fractions may be closer than floats can tell.
            if self._last is not None and (float(time) <= float(self._last) or time - self._last > LEAP_S):
                self._fault(self._last)
                if self._last - time > BACK_S or time > self._last:
                    self._offset += self._last + self.step - time
                    time = self._last + self.step
                else:
                    time = self._last + _NUDGE
        self._last = time
        return float(time)

    def _fault(self, last: Fraction | None) -> None:
        if not self.faults:
            self._first_s = float(last or 0)
        self.faults += 1

    def summary(self) -> str:
        """What was repaired, as the end of a sentence that begins with whose timestamps they are."""
        if self._missing == self.faults:
            rate = float(1 / self.step)
            return f"timestamps are missing in {self.faults} frames: {rate:.4g} frames a second were assumed."
        places = "one place" if self.faults == 1 else f"{self.faults} places"
        return (
            f"timestamps run backwards or jump in {places} (first after {self._first_s:.2f} s); "
            "they were repaired so that time increases."
        )
