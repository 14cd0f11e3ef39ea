"""The opening of the mouth, measured in crops of a face and of none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien import hub
from mien.encode.encode_media import encode_media
from mien.encoders import registry
from mien.encoders.face_geometry import NAMES, FaceGeometry
from mien.encoders.mouth_opening import MouthOpening
from mien.encoders.protocol import CropEncoder
from mien.media.video import frames

pytestmark = pytest.mark.skipif(not hub.available("facemesh"), reason="the network is not here: mien hub pull facemesh")


def test_it_is_a_registered_encoder_of_crops_and_gives_zero_without_a_face() -> None:
    encoder = registry.create("mouth-opening")
    assert isinstance(encoder, CropEncoder)
    crops = np.full((2, encoder.crop.size, encoder.crop.size, 3), 127, np.uint8)
    assert encoder.encode_crops(crops).tolist() == [[0.0], [0.0]]


@pytest.mark.skipif(not hub.available("blazeface"), reason="the network is not here: mien hub pull blazeface")
def test_it_follows_the_mesh_that_is_tracked_in_whole_frames(shared: Path) -> None:
    encoders = {"mouth": MouthOpening(), "geometry": FaceGeometry()}
    faces = encode_media(encoders, frames=lambda: frames(shared / "clips" / "single_face.mp4"), audio=None).faces
    crops, whole = faces.stream(0, "mouth"), faces.stream(0, "geometry")
    opening = whole.values[:, NAMES.index("mouth_opening")]
    both = crops.valid & whole.valid
    assert both.sum() > 60
    assert np.corrcoef(crops.values[both, 0], opening[both])[0, 1] > 0.98
    assert np.abs(crops.values[both, 0] - opening[both]).mean() < 0.02
