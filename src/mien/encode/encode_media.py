"""One recording and a set of encoders -> the streams of each subject, in one decoding pass.

Called by prediction (`mien.predict`) and by the evaluation of corrupted media. Frames and audio are read side by side
and dropped; memory grows with the feature vectors only. Extraction writes its streams to the store as they come, with
the same trackers and encoders (`corpus_pass.py`, `audio_pass.py`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from mien.encode.audio_pass import AudioSpool
from mien.encode.subject_features import VideoFaces
from mien.encode.video_pass import MIN_VISIBLE_S, THREADS, read_faces
from mien.encoders.protocol import AudioEncoder, CropEncoder, Encoder, MeshEncoder, SegmentEncoder
from mien.encoders.voice_prosody import VoiceProsody
from mien.faces.tracker import FaceTracker
from mien.media.voice_activity import speech_stream
from mien.records import Frame, Stream

#: Opens the frames of a recording, or its audio as consecutive (start in seconds, `(n,)` float32 at 16 kHz).
OpenFrames = Callable[[], Iterable[Frame]]
OpenAudio = Callable[[], Iterator[tuple[float, np.ndarray]]]


@dataclass(slots=True)
class EncodedMedia:
    """Encoded recording.

    faces: frame times, subjects and their face streams. audio: modality -> stream of the sound; empty without sound.
    speech: voice activity of the sound, valid where somebody speaks; None without sound.
    """

    faces: VideoFaces
    audio: dict[str, Stream] = field(default_factory=dict)
    speech: Stream | None = None

    def streams(self, number: int | None) -> dict[str, Stream]:
        """Modality -> stream of a subject. Streams of the sound and of whole frames are shared by all subjects.

        number: index into `faces.subjects`; None leaves the face streams out.
        """
        faces = {} if number is None else {m: self.faces.stream(number, m) for m in self.faces.encoders}
        return faces | self.faces.shared | self.audio


def encode_media(
    encoders: Mapping[str, Encoder],
    *,
    frames: OpenFrames | None,
    audio: OpenAudio | None,
    width: int | None = None,
    max_faces: int = 4,
    min_visible_s: float = MIN_VISIBLE_S,
    seconds: dict[str, float] | None = None,
    on_time: Callable[[float], None] = lambda time_s: None,
) -> EncodedMedia:
    """Encode a recording.

    Args:
        encoders: modality -> encoder of crops, meshes, segments or audio.
        frames: opens the pictures, None without. They are read also if no encoder uses them, for their times.
        audio: opens the sound, None without. It is read only if an encoder uses it, in a thread of its own.
        width: of the original frames in pixels, to which boxes are scaled; None: that of the frames given.
        max_faces: largest number of people tracked at once.
        min_visible_s: people never visible for this long without a gap are left out; 0 for a still image.
        seconds: gets the processor seconds of `decode`, `detect`, `mesh`, `track` and `voice`.
        on_time: called with the position in the recording, seconds. What it raises ends the pass.

    Raises:
        MediaError: the recording cannot be decoded. ArtefactError: a face network is missing.
    """
    spent = seconds if seconds is not None else {}
    voices = {m: e for m, e in encoders.items() if isinstance(e, AudioEncoder)}
    visual = {m: e for m, e in encoders.items() if isinstance(e, CropEncoder | MeshEncoder | SegmentEncoder)}
    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="mien-voice") as pool:
        hearing: Future[tuple[dict[str, Stream], Stream | None]] | None = None
        if audio is not None and voices:
            position = on_time if frames is None else None
            hearing = pool.submit(_encode_audio, voices, audio, spent, stop, position)

        def on_frame(time_s: float) -> None:
            if hearing is not None and hearing.done() and (error := hearing.exception()):
                raise error  # now, not after an hour of video
            on_time(time_s)

        try:
            faces = VideoFaces(np.zeros(0))
            if frames is not None:
                detects = any(isinstance(e, CropEncoder | MeshEncoder) for e in visual.values())
                faces = read_faces(
                    frames(),
                    tracker=FaceTracker(max_faces=max_faces, threads=THREADS) if detects else None,
                    encoders=visual,
                    width=width,
                    seconds=spent,
                    on_time=on_frame,
                    min_visible_s=min_visible_s,
                )
            streams, speech = hearing.result() if hearing else ({}, None)
            return EncodedMedia(faces, streams, speech)
        finally:
            stop.set()


def _encode_audio(
    encoders: Mapping[str, AudioEncoder],
    audio: OpenAudio,
    seconds: dict[str, float],
    stop: threading.Event,
    on_time: Callable[[float], None] | None,
) -> tuple[dict[str, Stream], Stream | None]:
    """The streams of all audio encoders and the voice activity, of sound that is decoded once."""

    def blocks() -> Iterator[tuple[float, np.ndarray]]:
        for start_s, samples in audio():
            if stop.is_set():
                return
            if on_time is not None:
                on_time(start_s)
            yield start_s, samples

    start = time.thread_time()
    # Prosody is valid exactly where there is speech, so its stream serves as voice activity too.
    prosody = next((m for m, e in encoders.items() if isinstance(e, VoiceProsody)), None)
    streams: dict[str, Stream] = {}
    with AudioSpool(blocks(), keep=len(encoders) > 1 or prosody is None) as sound:
        for modality, encoder in encoders.items():
            pieces = list(encoder.encode_audio(iter(sound)))
            if pieces:
                streams[modality] = _join(pieces)
        speech = streams.get(prosody) if prosody is not None else speech_stream(iter(sound))
        has_sound = sound.has_blocks
    seconds["voice"] = time.thread_time() - start
    return (streams, speech) if has_sound else ({}, None)


def _join(pieces: list[Stream]) -> Stream:
    if len(pieces) == 1:
        return pieces[0]
    return Stream(
        np.concatenate([piece.values for piece in pieces]),
        np.concatenate([piece.times for piece in pieces]),
        np.concatenate([piece.valid for piece in pieces]),
        pieces[0].provenance,
    )
