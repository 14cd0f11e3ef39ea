"""Protocols of encoders: the attributes and methods that extraction and prediction use.

An encoder turns face crops, face meshes, audio or segments of video into feature vectors. It is a plain class that has
the attributes of `Encoder` and the method of one input kind; it inherits from nothing here:

| protocol | method | input | output |
|---|---|---|---|
| `CropEncoder` | `encode_crops` | aligned face crops, a batch | `(batch, dim)` float32 |
| `MeshEncoder` | `measure`, `encode_measures` | 468-point face meshes of one recording | one `Stream` |
| `AudioEncoder` | `encode_audio` | 16 kHz mono audio of one recording, in blocks | pieces of one `Stream` |
| `SegmentEncoder` | `encode_segments` | pictures of short segments of video, a batch | `(segments, dim)` float32 |

Rules for all encoders:

* Each worker process creates an encoder once and uses it for many recordings. An encoder keeps no state between calls.
* A batch holds crops or segments of one recording, of all its subjects; a row of the output depends only on its own
  input.
* An encoder may have a method `release()`, which frees its network until it is needed again.
* Missing input gives `valid = False`, never a placeholder value that counts as valid.

To give an encoder a name, add it to `mien.encoders.registry`: to `ENCODERS` if it has no weights, to `NETWORKS` if it
has. An encoder of your own needs no name: pass it as `package.module:factory`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from mien.records import Stream


@runtime_checkable
class Encoder(Protocol):
    """Attributes that every encoder declares. `mien.encoders.registry.create` refuses an encoder without them."""

    @property
    def name(self) -> str:
        """Name of the encoder's folder in the feature store, e.g. `beit-large`."""

    @property
    def modality(self) -> str:
        """`face`, `voice` or `behaviour`: the modality under which a system receives the stream."""

    @property
    def dim(self) -> int:
        """Length of one feature vector."""

    @property
    def rate_hz(self) -> float | None:
        """Feature vectors per second, or None for one per decoded video frame."""

    @property
    def receptive_field_s(self) -> float:
        """Seconds of input that one feature vector depends on; 0 for a single picture. For readers only."""

    @property
    def licence(self) -> str:
        """Licence of the weights: an SPDX identifier or a sentence. Stored with the features."""

    @property
    def provenance(self) -> Mapping[str, str]:
        """Everything that changes the values, as strings: network, revision, layer, preprocessing, crop, version, ...

        The feature store keeps it with each stream. Two streams are comparable only if it is equal in every key.
        """


@dataclass(frozen=True, slots=True)
class Crop:
    """Face crop that a `CropEncoder` takes: a square, aligned by five facial points (`mien.faces.align.align`).

    size: side in pixels.
    margin: extra border, as a share of the side of the five-point template; 0 shows the template alone.
    down: downward shift of the crop's centre, as a share of the template's side.

    Crops that a corpus ships (Aff-Wild2: 112 x 112 pixels) keep their own margin and are only resized to `size`.
    """

    size: int
    margin: float = 0.0
    down: float = 0.0


@runtime_checkable
class CropEncoder(Encoder, Protocol):
    """Encoder of aligned face crops."""

    @property
    def crop(self) -> Crop:
        """Size and framing of the crops. The decoding pass cuts crops accordingly."""

    @property
    def batch_size(self) -> int:
        """Crops per call that run fastest. The decoding pass collects that many; the last call has fewer."""

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """Encode a batch of crops.

        Called with full batches of one recording; the last one may hold fewer.

        Args:
            crops: `(batch, size, size, 3)` uint8 RGB, batch >= 1.

        Returns:
            `(batch, dim)` float32.
        """
        ...


@runtime_checkable
class MeshEncoder(Encoder, Protocol):
    """Encoder of 468-point face meshes, in two steps.

    `measure` reduces each mesh to a few numbers while the video is decoded, so that the meshes of a long recording need
    not be kept. `encode_measures` then gets the whole recording and can subtract the subject's own baseline.
    """

    def measure(self, meshes: np.ndarray) -> np.ndarray:
        """Measure meshes: `(n, 468, 3)` pixels (x right, y down, z away), all finite -> `(n, measures)` float32."""
        ...

    def encode_measures(self, measures: np.ndarray, times: np.ndarray, valid: np.ndarray) -> Stream:
        """Encode the measurements of one subject over a whole recording. Called once per subject, at the end.

        Args:
            measures: `(time, measures)` from `measure`; unspecified where not valid.
            times: `(time,)` seconds, increasing.
            valid: `(time,)` bool, a face was measured.

        Returns:
            A stream at `times`. Its mask may clear entries of `valid`; it never sets one.
        """
        ...


@runtime_checkable
class AudioEncoder(Encoder, Protocol):
    """Encoder of audio."""

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Encode the audio of one recording. Called once per recording.

        Args:
            blocks: `(start in seconds, (n,) float32 samples in [-1, 1])` at 16 kHz mono, consecutive, without gaps.

        Yields:
            Consecutive pieces of one stream. Times increase across pieces; each is the centre of its receptive field.
            One piece is enough where memory allows; no piece where there is no audio.
        """
        ...


@dataclass(frozen=True, slots=True)
class Segments:
    """How a recording is cut into segments for a `SegmentEncoder`.

    length_s, hop_s: length of a segment and distance between the starts of two segments, in seconds.
    rate_hz: pictures per second taken from the video.
    pictures: most pictures in one segment; more are thinned out evenly.
    max_side: longer side of a picture in pixels; larger pictures are scaled down.
    """

    length_s: float = 4.0
    hop_s: float = 2.0
    rate_hz: float = 4.0
    pictures: int = 16
    max_side: int = 448


@runtime_checkable
class SegmentEncoder(Encoder, Protocol):
    """Encoder of short segments of whole video frames, for body and behaviour."""

    @property
    def segments(self) -> Segments:
        """How recordings are cut. The decoding pass cuts segments accordingly."""

    @property
    def batch_size(self) -> int:
        """Segments per call. The decoding pass collects that many; the last call has fewer."""

    def encode_segments(self, segments: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Encode a batch of segments of one recording.

        Args:
            segments: for each segment 1 to `Segments.pictures` pictures `(height, width, 3)` uint8 RGB, upright, in
                temporal order.

        Returns:
            `(len(segments), dim)` float32.
        """
        ...
