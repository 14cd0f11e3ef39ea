"""Faces in a single image, also in one that shows nothing but a face.

Face detectors expect surroundings. An image that is cut tightly around a face, as in corpora of face images, is
therefore searched again with a grey border on every side, enlarged, and without a detector.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from mien.faces.tracker import FaceTracker
from mien.records import Face, Frame

#: Width of the border, as a share of the longer side, and its grey level. Of the FER+ validation faces, 91 % are found
#: without a border and 97 % with this one as a second try; a border that repeats the outermost pixels finds 95 %.
BORDER_SHARE, BORDER_LEVEL = 0.5, 128
#: Enlargements of images of at most `SMALL_SIDE` pixels that are tried with the border.
ENLARGEMENTS, SMALL_SIDE = (1, 3), 160
#: Sides of the boxes around the centre in which the mesh network then looks for a face without a detector, as shares of
#: the image.
BOX_SHARES = (0.9, 0.7, 0.5)
#: Larger images are not searched again: a face that fills them is found as it is.
LARGEST_SIDE = 512


class StillImageFaces:
    """Finds the faces of single images. Called like a `FaceTracker`; each call is an image of its own.

    Args:
        max_faces: largest number of faces, larger ones first; None: no limit. threads: as in `FaceTracker`.

    Attributes:
        seconds: seconds by stage, as in `FaceTracker`.

    Raises:
        ArtefactError: a network is missing and cannot be downloaded.
    """

    def __init__(self, *, max_faces: int | None = None, threads: int = 1) -> None:
        self._tracker = FaceTracker(max_faces=max_faces, count_others=False, threads=threads)
        self.seconds = self._tracker.seconds

    def __call__(self, frame: Frame) -> list[Face]:
        """The faces of an image, numbered from 0 by size.

        Meshes are in pixels of the image and may extend beyond it; boxes are clipped to it.
        """
        self._tracker.restart()
        found = _by_size(self._tracker(frame))
        height, width = frame.image.shape[:2]
        if found or max(height, width) > LARGEST_SIDE:
            return found
        border = round(BORDER_SHARE * max(height, width))
        grey = (BORDER_LEVEL,) * 3
        wide = cv2.copyMakeBorder(frame.image, border, border, border, border, cv2.BORDER_CONSTANT, value=grey)
        for enlarge in ENLARGEMENTS if max(height, width) <= SMALL_SIDE else (1,):
            view = wide
            if enlarge > 1:
                view = cv2.resize(wide, None, fx=enlarge, fy=enlarge, interpolation=cv2.INTER_CUBIC)
            self._tracker.restart()
            if found := self._tracker(Frame(frame.index, frame.time_s, view)):
                return [_in_original(face, enlarge, border, width, height) for face in found]
        for share in BOX_SHARES:
            reach, centre = share * np.array([width, height]) / 2, np.array([wide.shape[1], wide.shape[0]]) / 2
            self._tracker.restart()
            box = np.concatenate((centre - reach, centre + reach))
            if found := self._tracker.find_in_box(Frame(frame.index, frame.time_s, wide), box):
                return [_in_original(face, 1, border, width, height) for face in found]
        return []


def _by_size(faces: list[Face]) -> list[Face]:
    """The faces, numbered from 0, the one with the highest box first: views of a picture are searched one by one."""
    ranked = sorted(faces, key=lambda face: -float(face.box[3] - face.box[1]))
    return [replace(face, subject=i) for i, face in enumerate(ranked)]


def _in_original(face: Face, enlarge: int, border: int, width: int, height: int) -> Face:
    """A face in pixels of the image without border and enlargement; the box is clipped to it."""
    mesh = face.mesh / enlarge - np.array([border, border, 0], face.mesh.dtype)
    box = np.clip(face.box / enlarge - border, 0, [width, height, width, height])
    return replace(face, mesh=mesh.astype(face.mesh.dtype), box=box)
