"""Robustness from the pictures and the sound themselves: recordings are opened anew for every condition, damaged on the
way, and encoded by the checkpoint's own encoders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mien.checkpoint import Checkpoint
from mien.encoders.protocol import AudioEncoder, CropEncoder, Encoder, MeshEncoder
from mien.encoders.registry import create, spec_of
from mien.errors import ConfigError, MediaError
from mien.evaluation.footage import Footage, footage_conditions
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.robustness import curve
from mien.media.align import align
from mien.media.audio import blocks
from mien.media.faces import FaceReader
from mien.media.video import frames
from mien.records import Clip, Frame, Recording, Stream

#: Crops encoded at once.
_BATCH = 32


def encoders_of(trained: Checkpoint, device: str) -> dict[str, Encoder]:
    """modality -> the encoder that the checkpoint reads. Raises ConfigError for one that watches segments, which this
    does not do."""
    found: dict[str, Encoder] = {}
    for modality, feature in trained.recipe.features.items():
        encoder = create(spec_of(feature.encoder, feature.options), device=device)
        if not isinstance(encoder, AudioEncoder | CropEncoder | MeshEncoder):
            raise ConfigError(
                f"{feature.encoder} looks at segments of a recording",
                follows="damage to pictures was not scored",
                remedy="leave out --footage: damage to stored features is scored without",
            )
        found[modality] = encoder
    return found


def encoded(footage: Footage, encoders: Mapping[str, Encoder]) -> Recording:
    """A clip as the encoders see it. Of several people the one seen most often."""
    streams: dict[str, Stream] = {}
    for modality, encoder in encoders.items():
        made = _heard(footage, encoder) if isinstance(encoder, AudioEncoder) else _seen(footage, encoder)
        if made is not None:
            streams[modality] = made
    return Recording(footage.clip, streams)


def _heard(footage: Footage, encoder: AudioEncoder) -> Stream | None:
    parts = list(encoder.encode_audio(footage.blocks()))
    if not parts:
        return None
    return Stream(
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.times for p in parts]),
        np.concatenate([p.valid for p in parts]),
    )


def _seen(footage: Footage, encoder: Any) -> Stream | None:
    reader, times = FaceReader(), []
    rows: list[dict[int, np.ndarray]] = []
    for frame in footage.frames():
        times.append(frame.time_s)
        if isinstance(encoder, MeshEncoder):
            rows.append({f.subject: encoder.measure(f.mesh[None])[0] for f in reader(frame)})
        else:
            crop = encoder.crop
            rows.append(
                {f.subject: align(frame.image, f.mesh, crop.size, crop.margin, crop.down) for f in reader(frame)}
            )
    seen = Counter(subject for row in rows for subject in row)
    if not rows:
        return None
    subject = seen.most_common(1)[0][0] if seen else -1
    there = np.array([subject in row for row in rows])
    when = np.array(times)
    if isinstance(encoder, MeshEncoder):
        width = len(next((row[subject] for row in rows if subject in row), np.zeros(1)))
        values = np.stack([row.get(subject, np.full(width, np.nan)) for row in rows])
        return encoder.encode_measures(values, when, there) if there.any() else None
    out = np.zeros((len(rows), encoder.dim), np.float32)
    places = np.flatnonzero(there)
    for part in (places[i : i + _BATCH] for i in range(0, len(places), _BATCH)):
        out[part] = encoder.encode_crops(np.stack([rows[i][subject] for i in part]))
    return Stream(out, when, there)


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
    made = encoders_of(trained, device)
    boxes: dict[Path, dict[int, list[np.ndarray]]] = {}

    def faces_in(media: Path) -> dict[int, list[np.ndarray]]:
        if media not in boxes:
            reader = FaceReader()
            boxes[media] = {f.index: [face.box for face in reader(f)] for f in frames(media)}
        return boxes[media]

    current: list[Path] = []

    def boxes_of(frame: Frame) -> Sequence[np.ndarray]:
        return faces_in(current[0]).get(frame.index, [])

    def prepare(footage: Footage) -> Recording:
        assert footage.clip.media is not None
        current[:] = [footage.clip.media]
        return encoded(footage, made)

    return curve(
        footage_conditions(boxes_of),
        [opened(clip) for clip in clips],
        dict(systems),
        prepare=prepare,
        classes=trained.labels,
        progress=progress,
    )
