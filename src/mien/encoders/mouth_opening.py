"""Face encoder of the cross-modal filter: the opening of the mouth, from the crop of a face. It needs no torch.

The face-mesh network finds 468 landmarks in the crop; the value is the feature `mouth_opening` of
`mien.encoders.face_geometry`: the distance between the inner lips in interocular distances, with the pose removed. It
also reads the crops that a corpus ships, which show no surroundings for a face detector. On six clips of talking people
it correlates with the mesh tracked in whole frames at .90 to .996.

Our choice: the authors of arXiv 2603.13056 publish what they do with the opening, not how they measure it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mien import hub
from mien.encoders import face_geometry
from mien.encoders.protocol import Crop
from mien.faces.crops import Square
from mien.faces.mesh import ENLARGE, FaceMesh
from mien.records import FACE

NAME = "mouth-opening"
VERSION = "1"
#: Side of the crops, pixels: that of Aff-Wild2's, and enough for the mesh network, which reads 192.
SIZE = 112
#: Presence probability below which a crop shows no face.
MIN_SCORE = 0.5
_OPENING = face_geometry.NAMES.index("mouth_opening")


class MouthOpening:
    """`CropEncoder` of the opening of the mouth; 0, a closed mouth, where the network sees no face in the crop.

    Args:
        threads: CPU threads of the network.

    Raises:
        ArtefactError: the network is missing and cannot be downloaded.
    """

    name, modality, dim = NAME, FACE, 1
    rate_hz: float | None = None
    receptive_field_s = 0.0
    licence = "Apache-2.0"
    crop = Crop(SIZE, margin=0.25, down=0.1)
    batch_size = 1
    provenance: Mapping[str, str] = {"encoder": NAME, "version": VERSION}

    def __init__(self, *, threads: int = 1) -> None:
        self._mesh = FaceMesh(hub.fetch("facemesh"), threads=threads)

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """Encode crops `(batch, size, size, 3)` uint8 RGB -> `(batch, 1)` float32 in interocular distances."""
        meshes = np.stack([self._find(crop) for crop in crops])
        opening = face_geometry.compute_features(meshes)[:, _OPENING, None]
        values: np.ndarray = np.nan_to_num(opening, nan=0.0).astype(np.float32)
        return values

    def _find(self, crop: np.ndarray) -> np.ndarray:
        """The mesh `(468, 3)` of a crop, NaN without a face. The network runs again on the box that it has found."""
        side = float(max(crop.shape[:2]))
        first = self._mesh(crop, Square(crop.shape[1] / 2, crop.shape[0] / 2, ENLARGE * side))
        found = self._mesh(crop, first.square)
        return found.mesh if found.score >= MIN_SCORE else np.full_like(found.mesh, np.nan)
