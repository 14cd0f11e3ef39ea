"""What extraction asks of an encoder. A class is an encoder by having these attributes; nothing is inherited.

Every encoder says what it is (`Encoder`) and takes one kind of input, which is the method it has:

* `CropEncoder.encode_crops`: aligned faces `(batch, size, size, 3)` uint8 RGB -> `(batch, dim)`
* `MeshEncoder.measure`, `.encode_measures`: one face's meshes over a recording -> a `Stream`
* `AudioEncoder.encode_audio`: 16 kHz mono blocks of one recording, in order -> pieces of a `Stream`
* `SegmentEncoder.encode_segments`: a few upright RGB pictures for each of some segments -> `(segments, dim)`

Batches of crops and of segments are filled across clips, so a row's result must not depend on the rows beside
it. An encoder is made once in each worker process and used for many recordings; it holds no state between
calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mien.records import Stream


@runtime_checkable
class Encoder(Protocol):
    """What every encoder declares.

    name: its folder in the store, e.g. `beit-large`.
    modality: `face`, `voice` or `behaviour`.
    dim: length of one value. rate_hz: values a second, or None where there is one a frame.
    receptive_field_s: seconds of input that one value depends on (0 for a single picture).
    licence: of the weights, as an SPDX name or a sentence.
    provenance: everything that changes the values: network, revision, layer, preprocessing, crop, version
        ...; strings to strings. Two streams are comparable only where it is equal in every key.
    """

    @property
    def name(self) -> str: ...
    @property
    def modality(self) -> str: ...
    @property
    def dim(self) -> int: ...
    @property
    def rate_hz(self) -> float | None: ...
    @property
    def receptive_field_s(self) -> float: ...
    @property
    def licence(self) -> str: ...
    @property
    def provenance(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Crop:
    """The picture of a face that an encoder wants: aligned by five points, `size` pixels square.

    margin, down: how much more than the five-point template to show and how much lower, as shares of its side
    (`mien.faces.align.align`).
    Crops that a corpus ships (Aff-Wild2's 112×112) have the margin they have, and are only resized.
    """

    size: int
    margin: float = 0.0
    down: float = 0.0


@runtime_checkable
class CropEncoder(Encoder, Protocol):
    """A face encoder over aligned crops."""

    @property
    def crop(self) -> Crop: ...
    @property
    def batch_size(self) -> int: ...

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """crops: `(batch, size, size, 3)` uint8 RGB, 1 <= batch <= batch_size. Returns `(batch, dim)`
        float32."""
        ...


@runtime_checkable
class MeshEncoder(Encoder, Protocol):
    """A face encoder over the 468-point mesh: a few measures of each mesh first, so that a long recording's
    meshes need not be kept, then the stream from all of them, so that it may use the subject's own
    baseline."""

    def measure(self, meshes: np.ndarray) -> np.ndarray:
        """meshes: `(n, 468, 3)` pixels, all of them seen. Returns `(n, measures)` float32."""
        ...

    def encode_measures(self, measures: np.ndarray, times: np.ndarray, valid: np.ndarray) -> Stream:
        """measures: `(time, measures)` of one subject over a recording, zero where not valid; times:
        `(time,)` seconds; valid: `(time,)` bool. Returns a Stream at these times; it may call fewer of them
        valid, never more."""
        ...


@runtime_checkable
class AudioEncoder(Encoder, Protocol):
    """A voice encoder over sound."""

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """blocks: `(start_s, (n,) float32)` at 16 kHz, consecutive and without gaps. Yields consecutive
        pieces of one stream, times increasing across them and each the centre of its receptive field; one
        piece is fine where memory allows, none where there is no sound."""
        ...


@dataclass(frozen=True, slots=True)
class Segments:
    """How a recording is cut for a segment encoder: `length_s` every `hop_s`; pictures at `rate_hz`, at most
    `pictures` of them, the longer side at most `max_side` pixels."""

    length_s: float = 4.0
    hop_s: float = 2.0
    rate_hz: float = 4.0
    pictures: int = 16
    max_side: int = 448


@runtime_checkable
class SegmentEncoder(Encoder, Protocol):
    """A behaviour encoder over short segments of whole pictures."""

    @property
    def segments(self) -> Segments: ...
    @property
    def batch_size(self) -> int: ...

    def encode_segments(self, segments: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Each segment: 1 to `segments.pictures` pictures `(height, width, 3)` uint8 RGB, in order.
        Returns `(len(segments), dim)` float32."""
        ...
