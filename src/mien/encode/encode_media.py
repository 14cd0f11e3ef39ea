"""Media pass of evaluation: encode one recording, possibly corrupted, with the encoders of a checkpoint.

Called by `evaluation/corrupted_media.py`, which opens the recording through functions that damage its frames or sound.
`encode_media` returns modality -> `Stream`, of the subject that is visible in most frames. The corresponding passes are
`corpus_pass.py` and `audio_pass.py` for extraction, and `video_pass.py` for prediction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from mien.checkpoint_encoder import create_encoder
from mien.config import Feature
from mien.encoders.protocol import AudioEncoder, CropEncoder, Encoder, MeshEncoder
from mien.encoders.registry import format_spec
from mien.errors import ConfigError
from mien.faces.align import align
from mien.faces.tracker import FaceTracker
from mien.records import Frame, Stream

#: Opens the frames of a recording, or its sound as blocks of (start in seconds, `(n,)` float32 at 16 kHz).
OpenFrames = Callable[[], Iterable[Frame]]
OpenAudio = Callable[[], Iterable[tuple[float, np.ndarray]]]
#: Crops encoded at once.
_BATCH = 32


def create_encoders(features: Mapping[str, Feature], device: str) -> dict[str, Encoder]:
    """Create the encoders of a checkpoint's features, by modality.

    Raises:
        ConfigError: an unknown encoder, or one of segments, which this pass does not support.
        ArtefactError: weights are missing.
    """
    encoders: dict[str, Encoder] = {}
    for modality, feature in features.items():
        encoder = create_encoder(format_spec(feature.encoder, feature.options), device=device)
        if not isinstance(encoder, AudioEncoder | CropEncoder | MeshEncoder):
            raise ConfigError(
                f"encoder {feature.encoder!r} encodes segments, which --footage does not support",
                follows="Corrupted recordings were not scored.",
                remedy="Omit --footage. --robustness scores corrupted stored features.",
            )
        encoders[modality] = encoder
    return encoders


def encode_media(frames: OpenFrames, blocks: OpenAudio, encoders: Mapping[str, Encoder]) -> dict[str, Stream]:
    """Encode a recording: modality -> stream. Modalities without any frame or sound are left out.

    Args:
        encoders: modality -> encoder of crops, meshes or sound (`create_encoders`). Each opens the recording again.

    Raises:
        MediaError: the recording cannot be decoded.
    """
    streams: dict[str, Stream] = {}
    for modality, encoder in encoders.items():
        stream = None
        if isinstance(encoder, AudioEncoder):
            stream = _encode_audio(blocks, encoder)
        elif isinstance(encoder, CropEncoder | MeshEncoder):
            stream = _encode_faces(frames, encoder)
        if stream is not None:
            streams[modality] = stream
    return streams


def _encode_audio(blocks: OpenAudio, encoder: AudioEncoder) -> Stream | None:
    parts = list(encoder.encode_audio(blocks()))
    if not parts:
        return None
    return Stream(
        np.concatenate([p.values for p in parts]),
        np.concatenate([p.times for p in parts]),
        np.concatenate([p.valid for p in parts]),
    )


def _encode_faces(frames: OpenFrames, encoder: CropEncoder | MeshEncoder) -> Stream | None:
    tracker = FaceTracker()
    frame_times: list[float] = []
    rows: list[dict[int, np.ndarray]] = []
    for frame in frames():
        frame_times.append(frame.time_s)
        if isinstance(encoder, MeshEncoder):
            rows.append({f.subject: encoder.measure(f.mesh[None])[0] for f in tracker(frame)})
        else:
            crop = encoder.crop
            rows.append(
                {f.subject: align(frame.image, f.mesh, crop.size, crop.margin, crop.down) for f in tracker(frame)}
            )
    if not rows:
        return None
    frame_counts = Counter(subject for row in rows for subject in row)
    subject = frame_counts.most_common(1)[0][0] if frame_counts else -1
    valid = np.array([subject in row for row in rows])
    times = np.array(frame_times)
    if isinstance(encoder, MeshEncoder):
        if not valid.any():
            return None
        width = len(next(row[subject] for row in rows if subject in row))
        values = np.stack([row.get(subject, np.full(width, np.nan)) for row in rows])
        return encoder.encode_measures(values, times, valid)
    values = np.zeros((len(rows), encoder.dim), np.float32)
    valid_rows = np.flatnonzero(valid)
    for part in (valid_rows[i : i + _BATCH] for i in range(0, len(valid_rows), _BATCH)):
        values[part] = encoder.encode_crops(np.stack([rows[i][subject] for i in part]))
    return Stream(values, times, valid)
