"""Labelled face images of an indexed corpus of recordings, for systems over single images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from mien.clock import nearest
from mien.datasets.face_images import pad_to_square
from mien.datasets.index import Index
from mien.datasets.index_entries import Entry
from mien.encode.subject_selection import SubjectSelector
from mien.encode.video_pass import list_crops
from mien.errors import ConfigError, MediaError
from mien.faces.align import align
from mien.faces.tracker import FaceTracker
from mien.labels import UNLABELLED
from mien.media.video import frames
from mien.records import ImageSet, Labels

#: Images per second of a clip. Our choice: neighbouring frames are nearly equal.
RATE_HZ = 2.0


def load_corpus_faces(
    index: Index,
    split: str,
    size: int,
    *,
    task: str | None = None,
    faces: str = "video",
    margin: float = 0.0,
    down: float = 0.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageSet | None:
    """Load labelled faces of the clips of a split, `RATE_HZ` a second; None if there are none.

    Args:
        size: side of the images, pixels.
        task: as in `Index.clips`.
        faces: `video` detects the clip's subject (`SubjectSelector`) and aligns the face; `crops` reads the corpus's.
        margin, down: of `mien.faces.align.align`.
        progress: called with the number of finished clips and of all clips.

    A recording that cannot be decoded is skipped.
    """
    clips = [clip for clip in index.clips(task, split) if clip.labels is not None]
    images: list[np.ndarray] = []
    labels: list[int] = []
    affect: list[np.ndarray] = []
    subjects: list[str] = []
    for done, clip in enumerate(clips, 1):
        entry, clip_labels = index[clip.id], clip.labels
        assert clip_labels is not None
        read = _crops(index.root, entry, size) if faces == "crops" else _faces(clip.media, entry, size, margin, down)
        try:
            for time_s, image in read:
                row = int(nearest(clip_labels.times, np.array([time_s]))[0])
                if _is_labelled(clip_labels, row):
                    images.append(image)
                    labels.append(int(clip_labels.expression[row]))
                    affect.append(clip_labels.valence_arousal[row])
                    subjects.append(clip.subject or clip.id)
        except MediaError:
            continue  # extraction reports it
        finally:
            progress(done, len(clips))
    if not images:
        return None
    return ImageSet(np.stack(images), np.array(labels), tuple(subjects), np.stack(affect).astype(np.float32))


def _is_labelled(labels: Labels, row: int) -> bool:
    return bool(labels.expression[row] != UNLABELLED or np.isfinite(labels.valence_arousal[row]).all())


def _crops(root: Path, entry: Entry, size: int) -> Iterator[tuple[float, np.ndarray]]:
    """Times and images of the corpus's own crops. Raises ConfigError for a clip without."""
    if not entry.crops or entry.present is None or entry.times is None:
        raise ConfigError(
            f"clip {entry.id!r} has no crop folder",
            follows="Nothing was trained.",
            remedy="Use --faces video.",
        )
    times, next_s = entry.times.row_times(len(entry.present)), -np.inf
    files = list_crops(root / entry.crops)
    for i in np.flatnonzero(entry.present).tolist():
        if times[i] >= next_s and (path := files.get(i + 1)) is not None:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if image is not None:
                next_s = times[i] + 1 / RATE_HZ
                yield float(times[i]), pad_to_square(image[..., ::-1], size)


def _faces(
    media: Path | None, entry: Entry, size: int, margin: float, down: float
) -> Iterator[tuple[float, np.ndarray]]:
    """Times and aligned faces of a clip's subject."""
    if media is None:
        return
    tracker, selector, next_s = FaceTracker(), SubjectSelector(), -np.inf
    for frame in frames(media):
        face = selector(tracker(frame), frame.image.shape[1]).get(entry.side)
        if face is not None and frame.time_s >= next_s:
            next_s = frame.time_s + 1 / RATE_HZ
            yield frame.time_s, align(frame.image, face.mesh, size, margin, down)
