"""Descriptors of faces that tell people apart: vectors whose Euclidean distance is small for faces of one person.

`FaceGradients` needs no download. A face recognition network of your own takes its place: an ONNX file with a card
(`mien.encoders.cards`) that has the key `same_person`.
"""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np

from mien.encoders.protocol import Crop
from mien.errors import ConfigError


class FaceDescriptor(Protocol):
    """What grouping needs of a descriptor.

    Attributes:
        name: shown to the user.
        key: changes whenever the vectors do; kept descriptors with another key are not used.
        crop: size and framing of the face crops.
        same_person: Euclidean distance of two subjects' mean vectors below which they are one person, or None if it is
            not known and has to be given.
    """

    name: str
    key: str
    crop: Crop
    same_person: float | None

    def describe(self, crops: np.ndarray) -> np.ndarray:
        """Vectors `(batch, dim)` float32 of aligned crops `(batch, size, size, 3)` uint8 RGB, batch >= 1."""
        ...


class FaceGradients:
    """Histograms of oriented gradients of the aligned face at 64 × 64 pixels, `(1764,)` of length 1.

    Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR 2005: cells of 8 × 8 pixels,
    9 unsigned directions, blocks of 2 × 2 cells. Light and colour change them little, a turned head, a beard, glasses
    or a strong expression much. `bench/people.py` measures them, docs/PEOPLE.md shows the results.
    """

    name = "face gradients"
    key = "face-gradients 1"
    crop = Crop(64)
    #: Our choice, see docs/PEOPLE.md: no pair of different people in the measured sets is as near.
    same_person: float | None = 0.40

    def __init__(self) -> None:
        self._gradients = cv2.HOGDescriptor((64, 64), (16, 16), (8, 8), (8, 8), 9)

    def describe(self, crops: np.ndarray) -> np.ndarray:
        """See `FaceDescriptor.describe`."""
        grey = [cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in crops]
        return unit_length(np.stack([np.asarray(self._gradients.compute(image)).ravel() for image in grey]))


class RecognitionNetwork:
    """A face recognition network in ONNX, with a card beside it.

    Args:
        source: path of the card, or of the ONNX file.

    Raises:
        ConfigError: the card is missing, not valid, or does not fit the network.
        ArtefactError: the network is missing or unreadable.
    """

    def __init__(self, source: str) -> None:
        from mien.encoders.onnx_face import OnnxFace

        self._network = OnnxFace(source)
        card = self._network.card
        self.name, self.crop = card.name, self._network.crop
        self.same_person, self._unit_length = card.same_person, card.unit_length
        facts = {**self._network.provenance, "unit_length": str(card.unit_length)}
        self.key = "; ".join(f"{name} {value}" for name, value in sorted(facts.items()))

    def describe(self, crops: np.ndarray) -> np.ndarray:
        """See `FaceDescriptor.describe`."""
        vectors = self._network.encode_crops(crops)
        return unit_length(vectors) if self._unit_length else vectors


def load_descriptor(source: str | None) -> FaceDescriptor:
    """`FaceGradients`, or the network that `source` names. Raises as `RecognitionNetwork`."""
    return FaceGradients() if source is None else RecognitionNetwork(source)


def threshold_of(descriptor: FaceDescriptor, chosen: float | None) -> float:
    """The chosen threshold, or that of the descriptor. Raises ConfigError if neither is known."""
    if chosen is not None:
        return chosen
    if descriptor.same_person is None:
        raise ConfigError(
            f"the card of {descriptor.name} does not say at which distance two faces are one person",
            follows="Nobody was compared.",
            remedy="Add the key same_person to the card, or give the distance with --threshold.",
        )
    return descriptor.same_person


def unit_length(vectors: np.ndarray) -> np.ndarray:
    """Vectors `(n, dim)` scaled to a Euclidean length of 1; zero vectors stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
