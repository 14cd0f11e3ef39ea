"""Frame orientation: apply the rotation and mirroring of the container's display matrix."""

from __future__ import annotations

from dataclasses import dataclass

import av
import cv2
import numpy as np
from av.sidedata.sidedata import Type


@dataclass(frozen=True, slots=True)
class Orientation:
    """Steps that turn a stored frame upright: transpose, then mirror left-right, then flip top-bottom."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    @property
    def rotation(self) -> int:
        """Rotation in counter-clockwise degrees, as FFmpeg counts: 0, 90, 180 or 270."""
        if self.transposed:
            return 90 if self.flipped else 270
        return 180 if self.flipped else 0

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The upright image, `(height, width, 3)`, contiguous."""
        if self.transposed:
            image = cv2.transpose(image)
        if self.mirrored or self.flipped:
            image = cv2.flip(image, 1 - self.flipped if not (self.mirrored and self.flipped) else -1)
        return np.ascontiguousarray(image)


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """Orientation from a decoded frame's display matrix. Other angles are rounded to the nearest quarter turn."""
    try:
        # PyAV's stub declares the container of side data as a TypedDict with one key.
        data = bytes(frame.side_data[Type.DISPLAYMATRIX])  # type: ignore[typeddict-item]
    except (KeyError, ValueError):
        # ValueError: PyAV 18.1 cannot list side data of a type (EXIF, view id) that is newer than its table.
        quarter = round(frame.rotation / 90) % 4
        return (
            Orientation(),
            Orientation(transposed=True, flipped=True),
            Orientation(mirrored=True, flipped=True),
            Orientation(transposed=True, mirrored=True),
        )[quarter]
    # FFmpeg's libavutil/display.h: x' = a·x + c·y and y' = b·x + d·y, with y downwards.
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(mirrored=a < 0, flipped=d < 0)
    return Orientation(transposed=True, mirrored=c < 0, flipped=b < 0)
