"""The starter's two encoders in the shape that extraction asks for. Neither has weights to download."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from mien.encoders import face as geometry
from mien.encoders.voice import VoiceEncoder
from mien.errors import ConfigError
from mien.records import Stream


class FaceGeometry:
    """`mien.encoders.face` as a `MeshEncoder`."""

    name, modality, dim = geometry.NAME, "face", geometry.DIM
    rate_hz: float | None = None
    receptive_field_s = 0.0
    licence = "MIT"
    provenance: Mapping[str, str] = {"encoder": geometry.NAME, "version": geometry.VERSION}

    def measure(self, meshes: np.ndarray) -> np.ndarray:
        return geometry.geometry(meshes)

    def encode_measures(self, measures: np.ndarray, times: np.ndarray, valid: np.ndarray) -> Stream:
        return geometry.encode(measures, times, valid)


class VoiceProsody:
    """`mien.encoders.voice` as an `AudioEncoder`. One piece: its last columns need the whole recording."""

    name, modality, dim = VoiceEncoder.NAME, "voice", VoiceEncoder.DIM
    rate_hz: float | None = VoiceEncoder.RATE_HZ
    receptive_field_s = 3.0
    licence = "MIT"

    def __init__(self) -> None:
        self._encoder = VoiceEncoder()
        self.provenance = self._encoder(()).provenance

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        yield self._encoder(blocks)


def _bare(name: str, source: str | None) -> None:
    if source:
        raise ConfigError(f"{name} takes no source, got {source!r}", remedy=f"--encoder {name}")


def face(source: str | None = None, *, device: str = "cpu") -> FaceGeometry:
    _bare(geometry.NAME, source)
    return FaceGeometry()


def voice(source: str | None = None, *, device: str = "cpu") -> VoiceProsody:
    _bare(VoiceEncoder.NAME, source)
    return VoiceProsody()
