"""Job runner: the extraction work of one process, from recordings to files of the feature store.

Local processes (`local.py`) and Ray actors (`cluster.py`) run the same class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mien.checkpoint_encoder import create_encoder
from mien.encode.encode_media import EncodedMedia, check_kinds, encode_media
from mien.encode.subject_features import VideoFaces
from mien.encode.video_pass import CropFolder, read_crops
from mien.encoders.protocol import AudioEncoder, CropEncoder, Encoder
from mien.errors import OutputError
from mien.extract.failures import Failure
from mien.extract.plan import ClipJob, EncoderInfo, ExtractionSettings, RecordingJob
from mien.media.audio import blocks
from mien.media.video import frames
from mien.records import Stream
from mien.store import FeatureStore

#: Seconds of the recording between two calls of `on_time`.
_REPORT_EVERY_S = 2.0


@dataclass(frozen=True)
class ClipResult:
    """Outcome of one clip. encoders: names of those whose stream was stored. media_s: seconds of the recording, divided
    among its clips."""

    clip: str
    encoders: tuple[str, ...]
    failures: tuple[Failure, ...]
    media_s: float


@dataclass(slots=True)
class _Encoded:
    """One recording, encoded for its clips.

    media: streams from pictures and sound. sides: of the clips, in the order of the subjects. errors: encoder -> what
    it raised. notes, sound_notes: of decoding pictures and sound.
    """

    media: EncodedMedia
    sides: list[str]
    errors: dict[str, Exception] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sound_notes: list[str] = field(default_factory=list)


class JobRunner:
    """Encoders on one device, and the loop over recordings.

    Args:
        specs: `NAME[=SOURCE]` of each encoder.
        on_time: called about every 2 s of media with the position in the current recording, seconds.

    Raises:
        ConfigError, ArtefactError: an encoder cannot be created.
    """

    def __init__(
        self,
        specs: Sequence[str],
        settings: ExtractionSettings,
        on_time: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.settings, self._on_time = settings, on_time
        self._store = FeatureStore(settings.store)
        self._reported_s = 0.0
        created = [create_encoder(spec, device=settings.device) for spec in specs]
        self.encoders = {encoder.name: encoder for encoder in created}
        check_kinds(self.encoders)
        self.encoder_infos = [EncoderInfo.of(encoder, settings) for encoder in created]

    def run(self, jobs: Iterable[RecordingJob]) -> Iterator[ClipResult]:
        """Encode recordings into the store. Yields the clips of each recording when it is complete.

        Raises:
            OutputError: a stream cannot be written. Every other exception becomes a `Failure` of its clip.
        """
        for job in jobs:
            try:
                job.check()
                encoded = self._encode(job)
            except OutputError:
                raise
            except Exception as error:
                failures = job.failures(error)
                for clip_job in job.clip_jobs:
                    own = tuple(f for f in failures if f.clip == clip_job.clip)
                    yield ClipResult(clip_job.clip, (), own, job.duration_s / len(job.clip_jobs))
                continue
            for clip_job in job.clip_jobs:
                yield self._store_clip(job, clip_job, encoded)

    def _encode(self, job: RecordingJob) -> _Encoded:
        """Decode a recording once for all its clips and encoders; crops of the corpus are read clip by clip later."""
        wanted = {name: self.encoders[name] for clip_job in job.clip_jobs for name in clip_job.encoders}
        if self.settings.faces == "crops":
            wanted = {name: e for name, e in wanted.items() if not isinstance(e, CropEncoder)}
        result = _Encoded(EncodedMedia(VideoFaces(np.zeros(0))), list(dict.fromkeys(c.side for c in job.clip_jobs)))
        if not wanted:
            return result
        self._reported_s = 0.0
        reads_pictures = any(not isinstance(encoder, AudioEncoder) for encoder in wanted.values())
        reads_sound = any(isinstance(encoder, AudioEncoder) for encoder in wanted.values())
        result.media = encode_media(
            wanted,
            frames=(lambda: frames(job.media, notes=result.notes)) if reads_pictures else None,
            audio=(lambda: blocks(job.media, notes=result.sound_notes)) if reads_sound else None,
            max_faces=self.settings.max_faces,
            sides=result.sides,
            speakers=False,
            threads=self.settings.threads,
            side_by_side=False,
            on_time=self._report_time,
            on_error=result.errors.__setitem__,
        )
        if reads_pictures and not len(result.media.faces.times):
            result.notes.append("no pictures")
        if reads_sound and not result.media.has_sound:
            result.sound_notes.append("no sound")
        return result

    def _report_time(self, seconds: float) -> None:
        if seconds - self._reported_s > _REPORT_EVERY_S:
            self._reported_s = seconds
            self._on_time(seconds)

    def _store_clip(self, job: RecordingJob, clip_job: ClipJob, encoded: _Encoded) -> ClipResult:
        """Write the streams of one clip. An exception fails the stream that it concerns."""
        stored: list[str] = []
        encoded = self._encode_apart(job, clip_job, encoded)
        errors = {name: error for name, error in encoded.errors.items() if name in clip_job.encoders}
        crops, crop_notes = self._read_crops(clip_job, errors)
        for name in clip_job.encoders:
            if name in errors:
                continue
            try:
                stream, notes = (crops[name], crop_notes) if name in crops else self._stream(name, clip_job, encoded)
                self._write(job, clip_job, name, stream, notes)
                stored.append(name)
            except OutputError:
                raise
            except Exception as error:
                errors[name] = error
        failures = [Failure.from_error(clip_job.clip, name, job.media, error) for name, error in errors.items()]
        return ClipResult(clip_job.clip, tuple(stored), tuple(failures), job.duration_s / len(job.clip_jobs))

    def _encode_apart(self, job: RecordingJob, clip_job: ClipJob, encoded: _Encoded) -> _Encoded:
        """The recording encoded for one clip alone, if an encoder failed on the faces of several: one person's face
        must not cost another their features."""
        failed = [
            n for n in clip_job.encoders if n in encoded.errors and not isinstance(self.encoders[n], AudioEncoder)
        ]
        if len(encoded.sides) < 2 or not failed:
            return encoded
        return self._encode(replace(job, clip_jobs=(clip_job,)))

    def _read_crops(self, clip_job: ClipJob, errors: dict[str, Exception]) -> tuple[dict[str, Stream], list[str]]:
        """Encoder -> stream of the corpus's own crops, and notes; empty unless crops are read. Adds to `errors`."""
        encoders = {n: e for n in clip_job.encoders if isinstance(e := self.encoders[n], CropEncoder)}
        folder = _crop_folder(clip_job)
        if self.settings.faces != "crops" or folder is None or not encoders:
            return {}, []
        notes: list[str] = []
        try:
            faces = read_crops(folder, encoders, notes, errors.__setitem__)
        except OutputError:
            raise
        except Exception as error:
            errors |= dict.fromkeys(encoders, error)
            return {}, []
        return {name: faces.stream(0, name) for name in encoders if name not in errors}, notes

    def _stream(self, name: str, clip_job: ClipJob, encoded: _Encoded) -> tuple[Stream, list[str]]:
        """The stream of a clip and encoder, and its notes."""
        encoder, media = self.encoders[name], encoded.media
        if isinstance(encoder, AudioEncoder):
            return media.audio.get(name, _no_rows(encoder)), encoded.sound_notes
        if name in media.faces.shared:
            return media.faces.shared[name], encoded.notes
        if not media.faces.subjects:
            return _no_rows(encoder), encoded.notes
        return media.faces.stream(encoded.sides.index(clip_job.side), name), encoded.notes

    def _write(self, job: RecordingJob, clip_job: ClipJob, name: str, stream: Stream, notes: Sequence[str]) -> None:
        encoder = self.encoders[name]
        info = next(i for i in self.encoder_infos if i.name == name)
        writer = self._store.writer(
            name,
            clip_job.clip,
            dim=encoder.dim,
            provenance=info.provenance,
            dtype=self.settings.dtype,
            origin=job.origin(clip_job, from_crops=encoder.modality == "face" and self.settings.faces == "crops"),
            replace=self.settings.replace,
        )
        with writer:
            writer.append(stream.values, stream.times, stream.valid)
            writer.notes += notes


def _no_rows(encoder: Encoder) -> Stream:
    return Stream(np.zeros((0, encoder.dim), np.float32), np.zeros(0), np.zeros(0, bool))


def _crop_folder(clip_job: ClipJob) -> CropFolder | None:
    if clip_job.crops is None or clip_job.crop_times is None or clip_job.present is None:
        return None
    return CropFolder(clip_job.crops, clip_job.crop_times, clip_job.present)
