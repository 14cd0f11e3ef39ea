"""The types that modules pass to each other: frozen records with shapes and units, and frames.

Times are seconds from the earliest presentation timestamp of the recording, everywhere. A missing face or a silent
voice is `False` in a `valid` mask; the value at an invalid position is unspecified and must not be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor

FACE, VOICE = "face", "voice"


@dataclass(frozen=True, slots=True)
class Labels:
    """Annotations over time.

    times: `(time,)` seconds, increasing. expression: `(time,)` int, class index or -1 (unlabelled).
    valence_arousal: `(time, 2)` float in [-1, 1], NaN where unlabelled. scores: score task (`mien.labels.SCORE_TASKS`)
    -> `(time, columns)` float in [0, 1], NaN where unlabelled; tasks without any label are left out.
    """

    times: np.ndarray
    expression: np.ndarray
    valence_arousal: np.ndarray
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.times)
        for task, values in self.scores.items():
            if values.ndim != 2 or len(values) != n:
                raise ValueError(f"labels of {n} times need scores ({n}, columns) of {task!r}; got {values.shape}")
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
    """Features of one modality over time.

    values: `(time, dim)` float. times: `(time,)` seconds, increasing, each the centre of the interval that its value
    describes. valid: `(time,)` bool. provenance: how the features were made, as strings.
    """

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
        """Width of the values."""
        return int(self.values.shape[1])


@dataclass(frozen=True, slots=True)
class Recording:
    """A clip with its encoded streams by modality (`face`, `voice`, ...), any of which may be absent."""

    clip: Clip
    streams: Mapping[str, Stream]


class Frame:
    """One decoded video frame.

    The image may be made when it is first asked for: a recording has more frames than faces are read in, and to
    convert one to RGB takes a third of the time of decoding it.

    Args:
        index: counts decoded frames from 0.
        time_s: presentation time in seconds.
        image: `(height, width, 3)` uint8 RGB, upright (container rotation applied); or a function that returns it,
            called once at most.
        held_bytes: memory that such a function keeps until it is called.

    Attributes:
        index, time_s: as the arguments.
        held_bytes: memory of the image, or of what it is made from.
    """

    __slots__ = ("_image", "_make", "held_bytes", "index", "time_s")

    def __init__(
        self, index: int, time_s: float, image: np.ndarray | Callable[[], np.ndarray], held_bytes: int = 0
    ) -> None:
        self.index, self.time_s = index, time_s
        self._image: np.ndarray | None = None
        self._make: Callable[[], np.ndarray] | None = None
        if isinstance(image, np.ndarray):
            self._image, self.held_bytes = image, image.nbytes
        else:
            self._make, self.held_bytes = image, held_bytes

    @property
    def image(self) -> np.ndarray:
        """`(height, width, 3)` uint8 RGB, upright."""
        if self._image is None:
            assert self._make is not None
            self._image, self._make = self._make(), None
            self.held_bytes = self._image.nbytes
        return self._image

    def with_image(self, change: Callable[[np.ndarray], np.ndarray]) -> Frame:
        """The frame with `change` of its image, which is made when it is asked for."""
        return Frame(self.index, self.time_s, lambda: change(self.image), self.held_bytes)


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
    boxes: `(frame, 4)` pixels, NaN without a face; valid: `(frame,)` bool, whether the frame has a face."""

    subject: int
    times: np.ndarray
    boxes: np.ndarray
    valid: np.ndarray


@dataclass(frozen=True, slots=True)
class Window:
    """A range of tokens, [start, stop)."""

    start: int
    stop: int


@dataclass(slots=True)
class Batch:
    """Windows of feature streams, stacked for a network.

    values: modality -> `(batch, time, dim)` float. valid: modality -> `(batch, time)` bool. expression: `(batch,
    time)` int64, -1 ignored. valence_arousal: `(batch, time, 2)` float, NaN ignored. scores: score task -> `(batch,
    time, columns)` float, NaN ignored. Padding is invalid in every modality and unlabelled.
    """

    values: dict[str, Tensor]
    valid: dict[str, Tensor]
    expression: Tensor | None = None
    valence_arousal: Tensor | None = None
    scores: dict[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        if device.type == "cpu":
            return self
        labels = (self.expression, self.valence_arousal)
        expression, affect = (None if t is None else t.to(device, non_blocking=True) for t in labels)
        return Batch(
            {name: value.to(device, non_blocking=True) for name, value in self.values.items()},
            {name: mask.to(device, non_blocking=True) for name, mask in self.valid.items()},
            expression,
            affect,
            {task: values.to(device, non_blocking=True) for task, values in self.scores.items()},
        )


@dataclass(slots=True)
class ImageBatch:
    """Images of one training step, `(n, 3, size, size)` uint8.

    labelled: weak views of the labelled images. labels: `(n,)`. valence_arousal: `(n, 2)`, NaN where unknown. weak: two
    weak views of the unlabelled images. strong: a strong view of the same images, in the same order. unlabelled_labels:
    `(m,)` their true labels, -1 where unknown; for measuring only, no loss reads them. soft: `(n, classes)` float32,
    soft labels of the labelled images (`ImageSet.soft`), which losses then use instead of `labels`; None without.
    """

    labelled: Tensor
    labels: Tensor
    weak: tuple[Tensor, Tensor]
    strong: Tensor
    unlabelled_labels: Tensor
    valence_arousal: Tensor
    soft: Tensor | None = None

    def to(self, device: torch.device) -> ImageBatch:
        """The batch on another device."""
        if device.type == "cpu":
            return self
        return ImageBatch(
            self.labelled.to(device),
            self.labels.to(device),
            (self.weak[0].to(device), self.weak[1].to(device)),
            self.strong.to(device),
            self.unlabelled_labels.to(device),
            self.valence_arousal.to(device),
            None if self.soft is None else self.soft.to(device),
        )


@dataclass(slots=True)
class Output:
    """The prediction of a system for windows.

    logits `(batch, time, classes)`. valence_arousal `(batch, time, 2)` in (-1, 1). weights `(batch, time, modality)`,
    each modality's share, in the order of `modalities`. evidence `(batch,)` bool, false where a window had no valid
    token at all: its prediction is then the network's bias and means nothing. score_logits: score task -> `(batch,
    time, columns)`, whose sigmoid are the scores; only tasks that the system is trained for.
    """

    logits: Tensor
    valence_arousal: Tensor
    weights: Tensor
    evidence: Tensor
    modalities: list[str]
    score_logits: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Single images, aligned faces as a rule. images `(n, size, size, 3)` uint8 RGB. labels `(n,)` int, -1 unlabelled.
    subjects: the person in each, "" where unknown. valence_arousal `(n, 2)` in [-1, 1], NaN unlabelled, or None.
    soft: soft labels `(n, classes)`, such as shares of votes, or None; each row sums to 1, or is 0 in an image without
    any. An image may have a soft label and no hard one, where its votes agree on no class."""

    images: np.ndarray
    labels: np.ndarray
    subjects: tuple[str, ...] = ()
    valence_arousal: np.ndarray | None = None
    soft: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim != 4 or self.images.shape[3] != 3 or self.labels.shape != (n,):
            raise ValueError(
                f"an image set needs images (n, size, size, 3) and labels (n,); "
                f"got {self.images.shape}, {self.labels.shape}"
            )
        if self.subjects and len(self.subjects) != n:
            raise ValueError(f"{n} images need {n} subjects or none; got {len(self.subjects)}")
        if self.soft is not None:
            _check_soft_labels(self.soft, n)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_labelled(self) -> np.ndarray:
        """`(n,)` bool: whether an image has a hard or a soft label."""
        is_hard: np.ndarray = self.labels >= 0
        return is_hard if self.soft is None else is_hard | (self.soft.sum(axis=1) > 0)

    def take(self, places: np.ndarray) -> ImageSet:
        """The images at `places` (indices or a mask)."""
        kept = np.arange(len(self))[places]
        names = tuple(self.subjects[i] for i in kept) if self.subjects else ()
        affect = None if self.valence_arousal is None else self.valence_arousal[kept]
        soft = None if self.soft is None else self.soft[kept]
        return ImageSet(self.images[kept], self.labels[kept], names, affect, soft)

    def soft_labels(self, classes: int) -> np.ndarray:
        """Soft labels `(n, classes)` float32: those of the set, or 1 at the hard label; rows of 0 where unlabelled."""
        if self.soft is not None:
            return self.soft.astype(np.float32)
        one_hot = np.zeros((len(self), classes), np.float32)
        known = np.flatnonzero(self.labels >= 0)
        one_hot[known, self.labels[known]] = 1
        return one_hot

    @classmethod
    def concatenate(cls, sets: Sequence[ImageSet]) -> ImageSet:
        """The images of several sets, in order. What only some sets have is unknown in the others: subjects "",
        valence and arousal NaN; soft labels follow from the hard ones (`soft_labels`).

        Raises ValueError for no set, images of different sizes, or soft labels of different numbers of classes.
        """
        if not sets:
            raise ValueError("no image set was given to concatenate")
        subjects: tuple[str, ...] = ()
        if any(s.subjects for s in sets):
            subjects = tuple(name for s in sets for name in (s.subjects or ("",) * len(s)))
        affect = soft = None
        if any(s.valence_arousal is not None for s in sets):
            unknown = [np.full((len(s), 2), np.nan, np.float32) for s in sets]
            affect = np.concatenate(
                [u if s.valence_arousal is None else s.valence_arousal for s, u in zip(sets, unknown, strict=True)]
            )
        classes = [s.soft.shape[1] for s in sets if s.soft is not None]
        if classes:
            soft = np.concatenate([s.soft_labels(classes[0]) for s in sets])
        images, labels = np.concatenate([s.images for s in sets]), np.concatenate([s.labels for s in sets])
        return cls(images, labels, subjects, affect, soft)


def _check_soft_labels(soft: np.ndarray, images: int) -> None:
    """Raise ValueError unless there is a row for each image, which sums to 1 or is 0."""
    if soft.ndim != 2 or len(soft) != images:
        raise ValueError(f"{images} images need soft labels ({images}, classes); got {soft.shape}")
    sums = soft.sum(axis=1, dtype=np.float64)
    is_valid = (soft >= 0).all(axis=1) & ((np.abs(sums - 1) < 1e-4) | (sums == 0))
    if not is_valid.all():
        row = int(np.flatnonzero(~is_valid)[0])
        raise ValueError(f"soft labels must be at least 0 and sum to 1, or all be 0; row {row} is {soft[row].tolist()}")


@dataclass(frozen=True, slots=True)
class Stretch:
    """One expression predicted without interruption from start_s to stop_s, in seconds (stop_s is the end of the last
    row's duration). confidence: mean over the stretch, in [0, 1]."""

    expression: str
    start_s: float
    stop_s: float
    confidence: float

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.stop_s - self.start_s


@dataclass(frozen=True, slots=True)
class SubjectSummary:
    """One subject's timeline in numbers, weighted by time.

    shares: expression -> share of the time that has an expression, largest first, in [0, 1]. unnamed: share of all
    time without an expression. evidence: kind -> share of all time. valence, arousal: means over the time that has
    them, in [-1, 1], or None. stretches: in order of time. scores: column of a score task -> mean over the time that
    has it, in [0, 1], or None.
    """

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
    scores: dict[str, float | None] = field(default_factory=dict)

    def dominant(self, most: int = 6) -> list[Stretch]:
        """The longest stretches, in order of time."""
        longest = sorted(self.stretches, key=lambda s: -s.seconds)[:most]
        return sorted(longest, key=lambda s: s.start_s)
