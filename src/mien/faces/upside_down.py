"""Whether pictures are upside down although their file does not say so."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mien import hub
from mien.faces.detector import BlazeFace, tiles
from mien.faces.mesh import ENLARGE, FaceMesh

#: Presence logit from which a face is certainly seen the right way up, and by how much the other way up must be below
#: it. Our choice, from four recordings: upright faces give 23 to 30, and -2 to 10 upside down.
CERTAIN_LOGIT, MARGIN = 15.0, 10.0


def is_upside_down(pictures: Iterable[np.ndarray], *, threads: int = 1) -> bool:
    """Whether faces are certain in the turned pictures only.

    Stops at the first picture with a face that is certainly upright, in most recordings the first one.

    Args:
        pictures: some of a recording, `(height, width, 3)` uint8 RGB each.
        threads: CPU threads of the networks.

    Raises:
        ArtefactError: a network is missing and cannot be downloaded.
    """
    detector = BlazeFace(hub.fetch("blazeface"), threads=threads)
    mesh = FaceMesh(hub.fetch("facemesh"), threads=threads)
    found = False
    for picture in pictures:
        upright = _best_logit(picture, detector, mesh)
        if upright >= CERTAIN_LOGIT:
            return False
        turned = _best_logit(turn(picture), detector, mesh)
        found |= turned >= CERTAIN_LOGIT and turned - upright >= MARGIN
    return found


def turn(image: np.ndarray) -> np.ndarray:
    """An image `(height, width, 3)` turned by half, contiguous."""
    return np.ascontiguousarray(image[::-1, ::-1])


def _best_logit(image: np.ndarray, detector: BlazeFace, mesh: FaceMesh) -> float:
    """Largest presence logit of a face in the image, -inf without any."""
    best = -np.inf
    for square in (None, *tiles(image)):
        for detection in detector(image, square):
            best = max(best, mesh(image, mesh(image, detection.square(ENLARGE)).square).logit)
        if best >= CERTAIN_LOGIT:
            break
    return float(best)
