"""One recording and a set of encoders -> the streams of each subject, in one decoding pass.

Called by prediction (`mien.predict`), by extraction (`mien.extract`) and by the evaluation of corrupted media. Frames
and audio are read side by side and dropped; memory grows with the feature vectors only.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import numpy as np

from mien import clock
from mien.encode.audio_spool import AudioSpool
from mien.encode.face_measures import FaceMeasure
from mien.encode.so_far import FacesSoFar
from mien.encode.subject_features import OnError, VideoFaces
from mien.encode.video_pass import MIN_VISIBLE_S, read_faces
from mien.encoders.protocol import AudioEncoder, CropEncoder, Encoder, MeshEncoder, SegmentEncoder
from mien.encoders.voice_prosody import VoiceProsody
from mien.encoders.voice_speech import VoiceSpeech
from mien.errors import ConfigError, OutputError
from mien.faces.still_image import StillImageFaces
from mien.faces.tracker import FaceTracker
from mien.media.sound_level import SoundLevel
from mien.media.sound_runs import runs
from mien.media.voice_activity import speech_stream
from mien.memory import GrowingArray
from mien.records import Frame, Stream

#: Opens the frames of a recording, or its audio as consecutive (start in seconds, `(n,)` float32 at 16 kHz).
OpenFrames = Callable[[], Iterable[Frame]]
OpenAudio = Callable[[], Iterator[tuple[float, np.ndarray]]]


@dataclass(slots=True)
class EncodedMedia:
    """Encoded recording.

    faces: frame times, subjects and their face streams. audio: modality -> stream of the sound; empty without sound.
    speech: voice activity of the sound, valid where somebody speaks; None without sound, or if it was not asked for.
    has_sound: whether there is sound that an encoder read. sound_stop_s: its end in seconds. level: its level in dB,
    `(n, 1)`, see `SoundLevel`; None as `speech`.
    """

    faces: VideoFaces
    audio: dict[str, Stream] = field(default_factory=dict)
    speech: Stream | None = None
    has_sound: bool = False
    sound_stop_s: float = 0.0
    level: Stream | None = None

    def streams(self, number: int | None) -> dict[str, Stream]:
        """Modality -> stream of a subject. Streams of the sound and of whole frames are shared by all subjects.

        number: index into `faces.subjects`; None leaves the face streams out.
        """
        faces = {} if number is None else {m: self.faces.stream(number, m) for m in self.faces.names}
        return faces | self.faces.shared | self.audio


@dataclass(frozen=True, slots=True)
class MediaPart:
    """The last seconds of a recording whose encoding goes on.

    media: with times from `start_s` on. first_frame: index of its first frame. stop_s: seconds before which all crops
    are encoded. numbers: number of each subject of `media.faces`. Sound is in it as soon as all of it is encoded.
    """

    media: EncodedMedia
    start_s: float
    first_frame: int
    stop_s: float
    numbers: list[int]


#: Called after each frame with its time in seconds and a function `start_s -> MediaPart`, which returns what has been
#: encoded from `start_s` (seconds) up to this frame.
OnPart = Callable[[float, Callable[[float], MediaPart]], None]


def encode_media(
    encoders: Mapping[str, Encoder],
    *,
    frames: OpenFrames | None,
    audio: OpenAudio | None,
    width: int | None = None,
    max_faces: int = 4,
    reidentify: bool = True,
    min_visible_s: float = MIN_VISIBLE_S,
    still: bool = False,
    sides: Sequence[str] | None = None,
    speakers: bool = True,
    measures: Sequence[FaceMeasure] = (),
    threads: int = 1,
    side_by_side: bool = True,
    face_rate_hz: float | None = None,
    several_rate_hz: float | None = None,
    seconds: dict[str, float] | None = None,
    on_time: Callable[[float], None] = lambda time_s: None,
    on_error: OnError | None = None,
    on_part: OnPart | None = None,
) -> EncodedMedia:
    """Encode a recording.

    Args:
        encoders: modality -> encoder of crops, meshes, segments or audio. One encoder under several names is run once.
        frames: opens the pictures, None without. They are read also if no encoder uses them, for their times.
        audio: opens the sound, None without. It is read only if an encoder uses it, in a thread of its own.
        width: of the original frames in pixels, to which boxes are scaled; None: that of the frames given.
        max_faces: largest number of people tracked at once in a video; a single image has no limit.
        reidentify: someone who returns, or is seen again after a cut, keeps the number, by appearance.
        min_visible_s: people never visible for this long without a gap are left out.
        still: the pictures are a single image: faces that fill it are found too, and nobody is left out.
        sides: whose faces: those that `SubjectSelector` chooses for these sides, one subject for each ("": the largest
            face), as in labelled corpora; None: everyone.
        speakers: also find what the attribution of speech needs: voice activity and mouth openings.
        measures: of faces, which no encoder reads; see `VideoFaces.measures`. Used if an encoder reads faces.
        threads: of the face networks. A second one saves a tenth of the time of the thread that tracks, for a fifth
            more processor time.
        side_by_side: decode ahead and encode the sound in threads of their own: done sooner, with 15 % more processor
            time. Otherwise one after the other, for processes that share the cores.
        face_rate_hz: faces are read so many times a second, and in the next frame too while one moves; between, their
            boxes and measures are interpolated. None: in every frame.
        several_rate_hz: so many times while several people are in view; None: as `face_rate_hz`.
        seconds: gets the seconds of `decode`, `detect`, `mesh`, `track` and `voice`.
        on_time: called with the position in the recording, seconds. What it raises ends the pass.
        on_error: gets the name of an encoder and what it raised, or what decoding for it raised; the other encoders go
            on. None raises the first exception.
        on_part: called after each frame in which faces are looked for, with its time in seconds and a function that
            gives the recording so far (`MediaPart`) from a time on. It changes nothing of the result.

    Raises:
        ConfigError: an encoder has none of the four methods of `mien.encoders.protocol`.
        MediaError: the recording cannot be decoded. ArtefactError: a face network is missing.
    """
    check_kinds(encoders)
    spent = seconds if seconds is not None else {}
    names = _names_by_encoder(encoders)
    own = {name: encoders[name] for name in names}
    voices = {m: e for m, e in own.items() if isinstance(e, AudioEncoder)}
    visual = {m: e for m, e in own.items() if isinstance(e, CropEncoder | MeshEncoder | SegmentEncoder)}
    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="mien-voice") as pool:
        hearing: Future[_Audio] | None = None
        listen: Callable[[], _Audio] = _Audio
        if audio is not None and voices:
            position = on_time if frames is None else None
            listen = partial(_encode_audio, voices, audio, spent, stop, position, speakers, on_error)
            hearing = pool.submit(listen) if side_by_side else None

        def on_frame(time_s: float) -> None:
            if hearing is not None and hearing.done() and (error := hearing.exception()):
                raise error  # now, not after an hour of video
            on_time(time_s)

        def on_faces(time_s: float, faces: FacesSoFar) -> None:
            if on_part is not None:
                sound = hearing.result() if hearing is not None and hearing.done() else _Audio()
                on_part(time_s, lambda start_s: _part(faces, sound, names, start_s))

        def make_tracker() -> FaceTracker | StillImageFaces:
            if still:
                return StillImageFaces()  # of one image there is too little to share between threads
            return FaceTracker(max_faces=max_faces, reidentify=reidentify, threads=threads)

        def read() -> VideoFaces:
            if frames is None:
                return VideoFaces(np.zeros(0))
            detects = any(isinstance(e, CropEncoder | MeshEncoder) for e in visual.values())
            return read_faces(
                frames(),
                tracker=make_tracker() if detects else None,
                encoders=visual,
                width=width,
                seconds=spent,
                on_time=on_frame,
                min_visible_s=0.0 if still else min_visible_s,
                sides=sides,
                geometry=speakers,
                measures=measures,
                decode_ahead=side_by_side,
                rate_hz=face_rate_hz,
                several_hz=several_rate_hz,
                on_error=on_error,
                on_faces=None if on_part is None else on_faces,
            )

        try:
            faces = _guarded(read, list(visual), on_error)
            return _recording(faces, hearing.result() if hearing else listen(), names)
        finally:
            stop.set()


def check_kinds(encoders: Mapping[str, Encoder]) -> None:
    """Raise ConfigError for an encoder that encodes neither crops, meshes, segments nor audio."""
    for encoder in encoders.values():
        if not isinstance(encoder, AudioEncoder | CropEncoder | MeshEncoder | SegmentEncoder):
            raise ConfigError(
                f"encoder {encoder.name!r} encodes neither crops, segments, meshes nor sound",
                follows="Nothing was decoded.",
                remedy="Give it one of the methods in mien.encoders.protocol.",
            )


def _names_by_encoder(encoders: Mapping[str, Encoder]) -> dict[str, list[str]]:
    """The first name of each encoder -> all its names."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, encoder in encoders.items():
        names.setdefault(first.setdefault(id(encoder), name), []).append(name)
    return names


def _part(faces_so_far: FacesSoFar, sound: _Audio, names: Mapping[str, list[str]], start_s: float) -> MediaPart:
    """The recording so far from `start_s` on."""
    faces, first_frame, stop_s = faces_so_far.since(start_s)
    end_s = start_s + float(faces.times[-1] + clock.median_step(faces.times)) if len(faces.times) else start_s

    def cut(stream: Stream) -> Stream:
        kept = slice(*np.searchsorted(stream.times, (start_s, end_s)))
        return Stream(stream.values[kept], stream.times[kept] - start_s, stream.valid[kept], stream.provenance)

    part = _Audio(
        {modality: cut(stream) for modality, stream in sound.streams.items()},
        cut(sound.speech) if sound.speech is not None else None,
        sound.is_present,
        min(sound.stop_s, end_s) - start_s,
        cut(sound.level) if sound.level is not None else None,
    )
    numbers = [faces_so_far.numbers[subject.id] for subject in faces.subjects]
    return MediaPart(_recording(faces, part, names), start_s, first_frame, stop_s, numbers)


def _recording(faces: VideoFaces, sound: _Audio, names: Mapping[str, list[str]]) -> EncodedMedia:
    """Pictures and sound as one recording, with the streams under every name of their encoder."""
    media = EncodedMedia(faces, sound.streams, sound.speech, sound.is_present, sound.stop_s, sound.level)
    media.audio = {alias: s for name, s in media.audio.items() for alias in names[name]}
    faces.shared = {alias: s for name, s in faces.shared.items() for alias in names[name]}
    faces.names = {alias: name for name in faces.encoders for alias in names[name]}
    return media


def _guarded(read: Callable[[], VideoFaces], names: Sequence[str], on_error: OnError | None) -> VideoFaces:
    """`read()`; with `on_error`, what it raises is the error of all encoders of pictures."""
    try:
        return read()
    except Exception as error:
        if on_error is None or isinstance(error, OutputError):
            raise
        for name in names:
            on_error(name, error)
        return VideoFaces(np.zeros(0))


@dataclass(slots=True)
class _Audio:
    """Streams of the sound by modality, voice activity, whether there is sound, its end in seconds and its level."""

    streams: dict[str, Stream] = field(default_factory=dict)
    speech: Stream | None = None
    is_present: bool = False
    stop_s: float = 0.0
    level: Stream | None = None


def _encode_audio(
    encoders: Mapping[str, AudioEncoder],
    audio: OpenAudio,
    seconds: dict[str, float],
    stop: threading.Event,
    on_time: Callable[[float], None] | None,
    speakers: bool,
    on_error: OnError | None,
) -> _Audio:
    """The streams of all audio encoders and the voice activity, of sound that is decoded once."""

    def blocks() -> Iterator[tuple[float, np.ndarray]]:
        for start_s, samples in audio():
            if stop.is_set():
                return
            if on_time is not None:
                on_time(start_s)
            if speakers:
                level.add(start_s, samples)
            yield start_s, samples

    level = SoundLevel()
    start = time.perf_counter()
    # These are valid exactly where there is speech, so their stream serves as voice activity too.
    prosody = next((m for m, e in encoders.items() if isinstance(e, VoiceProsody | VoiceSpeech)), None)
    result = _Audio()
    listens = speakers and prosody is None
    with AudioSpool(blocks(), keep=len(encoders) > 1 or listens) as sound:
        for modality, encoder in encoders.items():
            try:
                # Encoders read sound without holes, and keep nothing between calls.
                pieces = chain.from_iterable(encoder.encode_audio(run) for run in runs(sound))
                stream = _join(pieces, encoder.dim)
            except Exception as error:
                if on_error is None:
                    raise
                on_error(modality, error)
                continue
            if stream is not None:
                result.streams[modality] = stream
        if speakers:
            result.speech = speech_stream(sound) if listens else result.streams.get(prosody or "")
            result.level = level.stream()
        result.is_present, result.stop_s = sound.has_blocks, sound.stop_s
    seconds["voice"] = time.perf_counter() - start
    return result if result.is_present else _Audio()


def _join(pieces: Iterable[Stream], dim: int) -> Stream | None:
    """One stream of consecutive pieces; None for none. A single piece is not copied."""
    values, times, valid = GrowingArray(dim), GrowingArray(0, np.float64), GrowingArray(0, np.bool_)
    source = iter(pieces)
    first, second = next(source, None), next(source, None)
    if first is None or second is None:
        return first
    for piece in chain((first, second), source):
        values.extend(piece.values)
        times.extend(piece.times)
        valid.extend(np.asarray(piece.valid, bool))
    return Stream(values.array(), times.array(), valid.array(), first.provenance)
