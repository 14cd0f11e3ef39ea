"""One recording and a set of encoders -> one stream for each modality."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from mien.checkpoint_encoder import create_encoder
from mien.config import Feature
from mien.encoders.protocol import AudioEncoder, CropEncoder, Encoder, MeshEncoder
from mien.encoders.registry import spec_of
from mien.errors import ConfigError
from mien.faces.align import align
from mien.faces.tracker import FaceTracker
from mien.records import Frame, Stream

#: Opens a recording's pictures, and its sound as blocks of (start in seconds, `(n,)` float32 at 16 kHz).
OpenFrames = Callable[[], Iterable[Frame]]
Blocks = Callable[[], Iterable[tuple[float, np.ndarray]]]
#: Crops encoded at once.
_BATCH = 32


def encoders_of(features: Mapping[str, Feature], device: str) -> dict[str, Encoder]:
    """modality -> the encoder that the checkpoint reads. Raises ConfigError for one that watches segments, which this
    does not do."""
    found: dict[str, Encoder] = {}
    for modality, feature in features.items():
        encoder = create_encoder(spec_of(feature.encoder, feature.options), device=device)
        if not isinstance(encoder, AudioEncoder | CropEncoder | MeshEncoder):
            raise ConfigError(
                f"{feature.encoder} looks at segments of a recording",
                follows="damage to pictures was not scored",
                remedy="leave out --footage: damage to stored features is scored without",
            )
        found[modality] = encoder
    return found


def encode_media(frames: OpenFrames, blocks: Blocks, encoders: Mapping[str, Encoder]) -> dict[str, Stream]:
    """modality -> stream, for every encoder that found something to encode. Of several people the one seen in most
    frames is encoded."""
    streams: dict[str, Stream] = {}
    for modality, encoder in encoders.items():
        stream = _heard(blocks, encoder) if isinstance(encoder, AudioEncoder) else _seen(frames, encoder)
        if stream is not None:
            streams[modality] = stream
    return streams


def _heard(blocks: Blocks, encoder: AudioEncoder) -> Stream | None:
    parts = list(encoder.encode_audio(blocks()))
    if not parts:
        return None
    return Stream(
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.times for p in parts]),
        np.concatenate([p.valid for p in parts]),
    )


def _seen(frames: OpenFrames, encoder: Any) -> Stream | None:
    reader, times = FaceTracker(), []
    rows: list[dict[int, np.ndarray]] = []
    for frame in frames():
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
