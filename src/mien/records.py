"""The records that travel between rooms: frozen, with shapes and units.

Times are seconds from the earliest presentation timestamp of the recording, everywhere and always. A missing
face or a silent voice is a `valid` mask, never a magic value: what stands at an invalid position is unspecified
and must not be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

FACE, VOICE = "face", "voice"


@dataclass(frozen=True, slots=True)
class Labels:
    """What people (or the synthetic corpus's plan) said is shown, at given times.

    times: `(time,)` seconds, increasing. expression: `(time,)` int, class index or -1 (unlabelled).
    valence_arousal: `(time, 2)` float in [-1, 1], NaN where unlabelled.
    """

    times: np.ndarray
    expression: np.ndarray
    valence_arousal: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.times)
        if len(self.expression) != n or self.valence_arousal.shape != (n, 2):
            raise ValueError(
                f"labels of {n} times need expression ({n},) and valence_arousal ({n}, 2); "
                f"got {self.expression.shape} and {self.valence_arousal.shape}"
            )


@dataclass(frozen=True, slots=True)
class Clip:
    """One subject in one recording. A clip is not a file: several clips may share one recording.

    `subject` groups clips of one person: splits by group use it. `split` is `train`, `val`, `test` or "".
    """

    id: str
    media: Path | None
    subject: str = ""
    split: str = ""
    labels: Labels | None = None


@dataclass(frozen=True, slots=True)
class Stream:
    """What an encoder says over time. values: `(time, dim)` float; times: `(time,)` seconds, increasing (each
    the centre of what the value saw); valid: `(time,)` bool. provenance: what made it, as strings."""

    values: np.ndarray
    times: np.ndarray
    valid: np.ndarray
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.times)
        if self.values.ndim != 2 or len(self.values) != n or self.valid.shape != (n,):
            raise ValueError(
                f"a stream of {n} times needs values ({n}, dim) and valid ({n},); "
                f"got {self.values.shape} and {self.valid.shape}"
            )

    @property
    def dim(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True, slots=True)
class Recording:
    """A clip with its encoded streams by modality (`face`, `voice`, ...), any of which may be absent."""

    clip: Clip
    streams: Mapping[str, Stream]


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture. index counts decoded frames from 0; time_s is its presentation time in seconds;
    image is `(height, width, 3)` uint8 RGB, upright (container rotation applied)."""

    index: int
    time_s: float
    image: np.ndarray


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one frame. subject: stable id over the recording, from 0. box: `(4,)` x1, y1, x2, y2 pixels.
    mesh: `(468, 3)` x, y, z in pixels of the frame (z: towards the camera is negative, same scale as x).
    score: the mesh network's presence probability in [0, 1]."""

    subject: int
    box: np.ndarray
    mesh: np.ndarray
    score: float


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """One subject over a whole recording, one row per decoded frame. times: `(frame,)` seconds;
    boxes: `(frame, 4)` pixels, NaN where not seen; valid: `(frame,)` bool, a face was read in that frame."""

    subject: int
    times: np.ndarray
    boxes: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of a token clock: tokens [start, stop)."""

    start: int
    stop: int


@dataclass(slots=True)
class Batch:
    """Windows stacked for a network. values: modality -> `(batch, time, dim)` float; valid: modality ->
    `(batch, time)` bool. expression: `(batch, time)` int64, -1 ignored; valence_arousal: `(batch, time, 2)`
    float, NaN ignored. Padding is invalid in every modality and unlabelled."""

    values: dict[str, Tensor]
    valid: dict[str, Tensor]
    expression: Tensor | None = None
    valence_arousal: Tensor | None = None


@dataclass(slots=True)
class Output:
    """What a system answers. logits `(batch, time, classes)`; valence_arousal `(batch, time, 2)` in (-1, 1); weights
    `(batch, time, modality)`, each modality's share in the order of `modalities`; evidence `(batch,)`
    bool, false where a window had no valid token at all: its numbers are then the network's bias and mean
    nothing."""

    logits: Tensor
    valence_arousal: Tensor
    weights: Tensor
    evidence: Tensor
    modalities: list[str]


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Faces (or anything else) one by one. images `(n, size, size, 3)` uint8 RGB; labels `(n,)` int, -1 unlabelled;
    subjects: who each is of, or "" where nobody says; valence_arousal `(n, 2)` in [-1, 1], NaN unlabelled, or None."""

    images: np.ndarray
    labels: np.ndarray
    subjects: tuple[str, ...] = ()
    valence_arousal: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim != 4 or self.images.shape[3] != 3 or self.labels.shape != (n,):
            raise ValueError(
                f"pictures need images (n, size, size, 3) and labels (n,); got {self.images.shape}, {self.labels.shape}"
            )
        if self.subjects and len(self.subjects) != n:
            raise ValueError(f"{n} pictures need {n} subjects or none; got {len(self.subjects)}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, places: np.ndarray) -> ImageSet:
        """Those at `places` (indices or a mask)."""
        kept = np.arange(len(self))[places]
        names = tuple(self.subjects[i] for i in kept) if self.subjects else ()
        affect = None if self.valence_arousal is None else self.valence_arousal[kept]
        return ImageSet(self.images[kept], self.labels[kept], names, affect)


@dataclass(frozen=True, slots=True)
class Stretch:
    """One expression named without interruption from start_s to stop_s (seconds; stop_s: the end of the last
    row's span). confidence: the mean over the stretch, in [0, 1]."""

    expression: str
    start_s: float
    stop_s: float
    confidence: float

    @property
    def seconds(self) -> float:
        return self.stop_s - self.start_s


@dataclass(frozen=True, slots=True)
class SubjectSummary:
    """One subject's timeline in numbers. shares: expression -> share of the time that has a named expression,
    largest first, in [0, 1]; unnamed: share of all time without one. evidence: kind -> share of all time.
    valence, arousal: means over the time that has them, in [-1, 1], or None. stretches: in order of time."""

    subject: int
    rows: int
    start_s: float
    stop_s: float
    shares: dict[str, float]
    unnamed: float
    evidence: dict[str, float]
    valence: float | None
    arousal: float | None
    stretches: tuple[Stretch, ...]

    def dominant(self, most: int = 6) -> list[Stretch]:
        """The longest stretches, in order of time."""
        longest = sorted(self.stretches, key=lambda s: -s.seconds)[:most]
        return sorted(longest, key=lambda s: s.start_s)
