"""End-to-end robustness: decode each recording for every condition, corrupt it, and encode it with the checkpoint's
encoders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from mien.checkpoint import Checkpoint
from mien.encode.create_encoders import create_encoders
from mien.encode.encode_media import encode_media
from mien.errors import ConfigError, MediaError
from mien.evaluation.corruptions import Footage, footage_conditions
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.robustness import score_conditions
from mien.faces.tracker import FaceTracker
from mien.media.audio import blocks
from mien.media.video import frames
from mien.records import Clip, Frame, Recording
from mien.trained_model import TrainedModel


def open_footage(clip: Clip) -> Footage:
    """Video frames and audio blocks of the clip's recording. Raises ConfigError for a clip without one."""
    media = clip.media
    if media is None:
        raise ConfigError(
            f"clip {clip.id!r} has no recording",
            follows="Footage cannot be corrupted.",
            remedy="Omit --footage, or index a corpus of media files.",
        )

    def audio_blocks() -> Iterator[tuple[float, np.ndarray]]:
        try:
            yield from blocks(media)
        except MediaError:
            return  # a recording without audio

    return Footage(clip, lambda: frames(media), audio_blocks)


def footage_curves(
    model: Checkpoint | TrainedModel,
    clips: Sequence[Clip],
    systems: Mapping[str, Callable[[Recording], ClipPrediction]],
    *,
    without_expression: Collection[str] = (),
    without_valence_arousal: Collection[str] = (),
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> pl.DataFrame:
    """Scores systems under `corruptions.footage_conditions`; returns a table as `robustness.score_conditions`.

    Every condition decodes and encodes every clip again.

    Args:
        model: says what is encoded; a `TrainedModel` runs its stages on it.
        systems: name -> function from an encoded recording to its prediction.
        without_expression, without_valence_arousal: systems that do not predict it, as in `score_conditions`.
        progress: called with the number of finished conditions and of all conditions.
    """
    encoders = create_encoders(model.features, device=device)
    boxes: dict[Path, dict[int, list[np.ndarray]]] = {}

    def boxes_by_frame(media: Path) -> dict[int, list[np.ndarray]]:
        if media not in boxes:
            tracker = FaceTracker()
            boxes[media] = {f.index: [face.box for face in tracker(f)] for f in frames(media)}
        return boxes[media]

    current: list[Path] = []  # the recording being encoded: conditions see frames only

    def boxes_of(frame: Frame) -> Sequence[np.ndarray]:
        return boxes_by_frame(current[0]).get(frame.index, [])

    def prepare(footage: Footage) -> Recording:
        assert footage.clip.media is not None
        current[:] = [footage.clip.media]
        media = encode_media(encoders, frames=footage.frames, audio=footage.blocks, min_visible_s=0.0)
        streams = media.streams(media.faces.most_visible())
        direct = model.direct_streams(streams) if isinstance(model, TrainedModel) else streams
        return Recording(footage.clip, direct)

    return score_conditions(
        footage_conditions(boxes_of),
        [open_footage(clip) for clip in clips],
        dict(systems),
        prepare=prepare,
        classes=model.labels,
        without_expression=without_expression,
        without_valence_arousal=without_valence_arousal,
        progress=progress,
    )
