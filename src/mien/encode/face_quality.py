"""How well a face can be read: measures of each face and frame, from the mesh and an aligned grey crop.

No network is run: the tracker has the mesh, and the crop costs about a tenth of a millisecond. The ranges of the ramps
come from 128 validation faces of FER+ and 42 frames of six recordings, plain and with painted masks (figures beside the
constants); a value outside the range of the faces that expression networks are trained on says that the reading is an
extrapolation.
"""

from __future__ import annotations

import cv2
import numpy as np

from mien.faces.align import align
from mien.records import Face

#: What `measure` returns, in this order. face_score: presence probability of the mesh network. visible: estimated share
#: of the face that is in the picture and not covered. sharpness: see `measure`. height: of the mesh in pixels of the
#: frame.
NAMES = ("face_score", "visible", "sharpness", "height")
#: Seconds between two measures of a subject's face, which hold in between. Our choice: masks and blur change slowly,
#: and measuring every frame takes a sixth of the time of the face tracker.
EVERY_S = 0.1
#: Side in pixels of the aligned crop.
SIZE = 112
#: Rows and columns of eyes and mouth in it.
_EYES = (slice(42, 60), (slice(26, 50), slice(62, 86)))
_MOUTH = (slice(80, 102), slice(38, 75))
#: Mean gradient of the mouth over that of the eyes. 98 % of plain faces give 0.42 to 1.5, 95 % of painted masks (blue,
#: white, black, skin colour) 0.03 to 0.23: the mouth counts as covered below the first, as seen above the second value.
_COVERED, _SEEN = 0.2, 0.5
#: Share of the face that a mask over the mouth hides: the landmarks from the nose's tip down.
_LOWER_SHARE = 0.5
#: Quality ramps: measure -> value of quality 0, value of quality 1. Angles in degrees without sign. presence: logit of
#: `face_score`; false detections give up to 2, a face read upside down 4, 95 % of the FER+ faces more than 7.
RAMPS: dict[str, tuple[float, float]] = {
    "presence": (2.0, 8.0),
    "visible": (0.6, 0.9),
    "sharpness": (0.05, 0.2),  # 98 % of the FER+ faces, which are 48 pixels high, give 0.23 to 0.67
    "height": (16.0, 32.0),  # the smallest faces that expression networks are trained on have 48
    "yaw": (60.0, 40.0),  # 98 % of the FER+ faces are within 46 degrees
    "pitch": (45.0, 25.0),  # and within 24
    "roll": (120.0, 60.0),  # crops are turned upright; a face found upside down is mostly a mistake
}
#: A reading of lower quality is uncertain: the middle of each ramp.
UNCERTAIN_BELOW = 0.5


def measure(image: np.ndarray, face: Face) -> np.ndarray:
    """Measures of a face, `(len(NAMES),)` float32.

    `sharpness` is the standard deviation of the Laplacian of the aligned face at 64 pixels over that of its grey levels
    (0: flat or blurred), so that contrast and size of the picture do not count.

    Args:
        image: `(height, width, 3)` uint8 RGB, the frame. face: found in it.
    """
    height, width = image.shape[:2]
    x, y = face.mesh[:, 0], face.mesh[:, 1]
    inside = float(((x >= 0) & (x < width) & (y >= 0) & (y < height)).mean())
    grey = cv2.cvtColor(align(image, face.mesh, SIZE), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    edges, contrast = (float(cv2.meanStdDev(x)[1].item()) for x in (cv2.Laplacian(small, cv2.CV_16S), small))
    sharpness = edges / max(contrast, 1.0)
    visible = inside * (1 - _LOWER_SHARE * _covered(grey))
    return np.array([face.score, visible, sharpness, np.ptp(y)], np.float32)


def _covered(grey: np.ndarray) -> float:
    """How certainly something hides the mouth, in [0, 1]: lips and teeth have edges, cloth has few."""
    eyes = sum(_mean_gradient(grey[_EYES[0], columns]) for columns in _EYES[1]) / 2
    ratio = _mean_gradient(grey[_MOUTH]) / max(eyes, 1.0)
    return min(max((_SEEN - ratio) / (_SEEN - _COVERED), 0.0), 1.0)


def _mean_gradient(grey: np.ndarray) -> float:
    """Mean of the absolute horizontal and vertical gradients (Sobel)."""
    across, down = (cv2.Sobel(grey, cv2.CV_16S, *axis) for axis in ((1, 0), (0, 1)))
    return (cv2.norm(across, cv2.NORM_L1) + cv2.norm(down, cv2.NORM_L1)) / grey.size


def quality(measures: dict[str, np.ndarray]) -> np.ndarray:
    """Quality of each reading in [0, 1]: the least of the ramps of its measures; NaN where a measure is NaN.

    Args:
        measures: `NAMES`, and `yaw`, `pitch`, `roll` in degrees, each `(n,)`.
    """
    score = np.asarray(measures["face_score"], np.float64)
    with np.errstate(divide="ignore"):
        measures = measures | {"presence": np.maximum(np.log(score) - np.log1p(-score), 0)}
    least: np.ndarray = np.ones(score.shape)
    for name, (low, high) in RAMPS.items():
        values = np.abs(np.asarray(measures[name], np.float64))
        np.minimum(least, np.clip((values - low) / (high - low), 0, 1), out=least)
    return least
