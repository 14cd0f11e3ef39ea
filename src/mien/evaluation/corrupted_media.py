"""Robustness from the pictures and the sound themselves: recordings are opened anew for every condition, damaged on the
way, and encoded by the checkpoint's own encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from mien.checkpoint import Checkpoint
from mien.encode.encode_media import encode_media, encoders_of
from mien.errors import ConfigError, MediaError
from mien.evaluation.corruptions import Footage, footage_conditions
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.robustness import curve
from mien.faces.tracker import FaceTracker
from mien.media.audio import blocks
from mien.media.video import frames
from mien.records import Clip, Frame, Recording


def opened(clip: Clip) -> Footage:
    """The clip's own file. Raises ConfigError for a clip without one."""
    media = clip.media
    if media is None:
        raise ConfigError(f"clip {clip.id!r} has no recording", remedy="index a corpus of media files")

    def sound() -> Iterator[tuple[float, np.ndarray]]:
        try:
            yield from blocks(media)
        except MediaError:
            return  # no sound in it

    return Footage(clip, lambda: frames(media), sound)


def footage_curves(
    trained: Checkpoint,
    clips: Sequence[Clip],
    systems: Mapping[str, Callable[[Recording], ClipPrediction]],
    *,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Scores under dark, blurred and covered pictures, noise, silence and late sound (`footage_conditions`), as
    `robustness.curve` gives them. Every condition decodes and encodes every clip again."""
    made = encoders_of(trained.recipe.features, device)
    boxes: dict[Path, dict[int, list[np.ndarray]]] = {}

    def faces_in(media: Path) -> dict[int, list[np.ndarray]]:
        if media not in boxes:
            reader = FaceTracker()
            boxes[media] = {f.index: [face.box for face in reader(f)] for f in frames(media)}
        return boxes[media]

    current: list[Path] = []

    def boxes_of(frame: Frame) -> Sequence[np.ndarray]:
        return faces_in(current[0]).get(frame.index, [])

    def prepare(footage: Footage) -> Recording:
        assert footage.clip.media is not None
        current[:] = [footage.clip.media]
        return Recording(footage.clip, encode_media(footage.frames, footage.blocks, made))

    return curve(
        footage_conditions(boxes_of),
        [opened(clip) for clip in clips],
        dict(systems),
        prepare=prepare,
        classes=trained.labels,
        progress=progress,
    )
