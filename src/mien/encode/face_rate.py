"""Which frames' faces are read, and what is known of a face in the frames between.

A network that reads faces twelve times a second needs no mesh of each of sixty frames. Faces are then read at a rate,
and in the next frame too while one moves; boxes, head pose and mouth between two readings are interpolated in time, and
held after the last one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mien.clock import TIME_DECIMALS
from mien.encoders.protocol import CropEncoder, Encoder, MeshEncoder
from mien.records import Face

#: Readings a second, at least, where all networks read faces at a rate of their own. Our choice: that of the starter's
#: network. Boxes are then 0.1 to 0.4 % of a face's height from those of reading every frame, on average.
LEAST_HZ = 12.0
#: Readings a second, at least, while several people are in view, whose mouths show who speaks. In three rendered
#: conversations (`experiments/who_speaks.py`, 646 rows of speech), 86 % went to the speaker with every frame read, 82 %
#: with 15 readings a second and 74 % with 12.
SEVERAL_HZ = 15.0
#: A face that moved by more than this share of its height since the last reading is read in the next frame too. Our
#: choice: at 12 readings a second a share of 0.12 lost a nodding head once in 90 frames of a rendered clip, and 0.06
#: takes 1 % more readings of a minute of the same person.
MOVED_SHARE = 0.06


def automatic_rate(encoders: Iterable[Encoder]) -> float | None:
    """Readings of faces a second that the encoders need: None (every frame) if one of them reads each frame.

    It is the highest of their rates, or a multiple of it from `LEAST_HZ` on. The frames that are read are then those
    that this encoder would choose among all; at another rate it gets later ones (with 15 for 12, estimates differ twice
    as much from those of reading every frame).
    """
    rates = []
    for encoder in encoders:
        if isinstance(encoder, MeshEncoder) or (isinstance(encoder, CropEncoder) and not encoder.rate_hz):
            return None
        if isinstance(encoder, CropEncoder):
            rates.append(encoder.rate_hz or 0.0)
    highest = max(rates, default=None)
    return None if highest is None else highest * max(1, math.ceil(round(LEAST_HZ / highest, TIME_DECIMALS)))


class FaceSchedule:
    """Decides for each frame of a recording, in order, whether its faces are read.

    Args:
        rate_hz: readings a second; None reads every frame.
        several_hz: readings a second after several faces were read in a frame; None: as `rate_hz`.
    """

    def __init__(self, rate_hz: float | None, several_hz: float | None = None) -> None:
        self._rate_hz, self._several_hz = rate_hz, several_hz or rate_hz
        self._several = False
        self._before_s = -1e9  # time of the frame before
        self._centres: dict[int, np.ndarray] = {}
        self._moved = False

    def is_due(self, time_s: float) -> bool:
        """Whether to read the frame: the first in its period of 1 / rate seconds, or one after a movement."""
        rate_hz = self._several_hz if self._several else self._rate_hz
        if rate_hz is None:
            return True
        now, before = (math.floor(round(s * rate_hz, TIME_DECIMALS)) for s in (time_s, self._before_s))
        due = self._moved or now != before
        self._before_s = time_s
        return due

    def note(self, faces: Sequence[Face]) -> None:
        """Take the faces read in a frame, to see whether one moved."""
        if self._rate_hz is None:
            return
        centres, self._moved, self._several = {}, False, len(faces) > 1
        for face in faces:
            centre = centres[face.subject] = (face.box[:2] + face.box[2:]) / 2
            if (before := self._centres.get(face.subject)) is not None:
                height = float(face.box[3] - face.box[1])
                self._moved |= float(np.abs(centre - before).max()) > MOVED_SHARE * height
        self._centres = centres


@dataclass(frozen=True, slots=True)
class Filled:
    """The frames in which a face is known, and the two readings between which each lies.

    frames: `(n,)` frame indices, increasing. left, right: `(n,)` indices of readings. weight: `(n,)` of `right`, in
    [0, 1).
    """

    frames: np.ndarray
    left: np.ndarray
    right: np.ndarray
    weight: np.ndarray

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """`(n, width)` values in these frames, from those of the readings, `(readings, width)`."""
        if len(self.frames) == len(values):
            return values
        below = np.asarray(values)[self.left]
        above = np.asarray(values)[self.right]
        between: np.ndarray = below + self.weight[:, None].astype(below.dtype) * (above - below)
        return between


def fill(rows: np.ndarray, read: np.ndarray | None, times: np.ndarray) -> Filled:
    """The frames in which a face is known.

    Args:
        rows: `(readings,)` frames in which it was read, increasing.
        read: frames whose faces were read, increasing, which contain `rows`; None: all.
        times: `(frame,)` seconds.
    """
    count = len(rows)
    if read is None or not count:
        everything = np.arange(count)
        return Filled(rows, everything, everything, np.zeros(count))
    places = np.searchsorted(read, rows)
    goes_on = np.diff(places) == 1  # the next reading shows it too
    last = len(times) - rows[-1] if rows[-1] == read[-1] else 1
    lengths = np.append(np.where(goes_on, np.diff(rows), 1), last)
    left = np.repeat(np.arange(count), lengths)
    frames = rows[left] + np.arange(len(left)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    right = np.minimum(left + np.append(goes_on, False)[left], count - 1)
    span = times[rows[right]] - times[rows[left]]
    weight = np.divide(times[frames] - times[rows[left]], span, out=np.zeros(len(left)), where=span > 0)
    return Filled(frames, left, right, weight)
