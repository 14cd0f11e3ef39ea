"""Job runner: the extraction work of one process, from recordings to files of the feature store.

Local processes (`local.py`) and Ray actors (`cluster.py`) run the same class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mien.checkpoint_encoder import create_encoder
from mien.encode.audio_pass import encode_sound
from mien.encode.corpus_pass import CropFolder, ImagePass
from mien.encode.sinks import Batcher, MeshSink, PieceSink, RowSink, StreamSink
from mien.encoders.protocol import AudioEncoder, CropEncoder, Encoder, MeshEncoder, SegmentEncoder
from mien.errors import ConfigError, OutputError
from mien.extract.failures import Failure
from mien.extract.plan import ClipJob, EncoderInfo, ExtractionSettings, RecordingJob
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


@dataclass
class _OpenJob:
    """A recording whose streams are not all complete. failures: of a recording that could not be started."""

    job: RecordingJob
    sinks: list[StreamSink]
    failures: list[Failure]


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
        self.encoders: dict[str, Encoder] = {}
        self.encoder_infos: list[EncoderInfo] = []
        self._crop_batchers: dict[str, Batcher[np.ndarray]] = {}
        self._segment_batchers: dict[str, Batcher[list[np.ndarray]]] = {}
        self._images = ImagePass(
            self.encoders,
            self._crop_batchers,
            self._segment_batchers,
            settings.max_faces,
            settings.threads,
            self._report_time,
        )
        self._reported_s = 0.0
        for spec in specs:
            self._add(create_encoder(spec, device=settings.device))

    def _add(self, encoder: Encoder) -> None:
        name = encoder.name
        self.encoders[name] = encoder
        self.encoder_infos.append(EncoderInfo.of(encoder, self.settings))
        if isinstance(encoder, CropEncoder):
            self._crop_batchers[name] = Batcher(
                name, lambda crops: encoder.encode_crops(np.stack(crops)), encoder.batch_size, encoder.dim
            )
        elif isinstance(encoder, SegmentEncoder):
            self._segment_batchers[name] = Batcher(name, encoder.encode_segments, encoder.batch_size, encoder.dim)
        elif not isinstance(encoder, MeshEncoder | AudioEncoder):
            raise ConfigError(
                f"encoder {name!r} encodes neither crops, segments, meshes nor sound",
                follows="Nothing was extracted.",
                remedy="Give it one of the methods in mien.encoders.protocol.",
            )

    def run(self, jobs: Iterable[RecordingJob]) -> Iterator[ClipResult]:
        """Encode recordings into the store. Yields each clip when its last stream is complete, which may be after the
        next recording was started, because batches are filled across clips.

        Raises:
            OutputError: a stream cannot be written. Every other exception becomes a `Failure` of its clip.
        """
        open_jobs: list[_OpenJob] = []
        for job in jobs:
            open_jobs.append(self._encode(job))
            yield from _pop_finished(open_jobs)
        for crop_batcher in self._crop_batchers.values():
            crop_batcher.flush()
        for segment_batcher in self._segment_batchers.values():
            segment_batcher.flush()
        yield from _pop_finished(open_jobs)
        for open_job in open_jobs:
            for sink in open_job.sinks:
                sink.fail(RuntimeError("the encoder returned fewer rows than it was given"))
        yield from _pop_finished(open_jobs)

    def _encode(self, job: RecordingJob) -> _OpenJob:
        sinks: list[StreamSink] = []
        try:
            job.check()
            for clip_job in job.clip_jobs:
                for name in clip_job.encoders:
                    sinks.append(self._make_sink(job, clip_job, name))
        except OutputError:
            raise
        except Exception as error:
            for sink in sinks:
                sink.fail(error)
            return _OpenJob(job, [], job.failures(error))
        self._reported_s = 0.0
        voices = {name: e for name, e in self.encoders.items() if isinstance(e, AudioEncoder)}
        crop_sinks = [s for s in sinks if s.encoder in self._crop_batchers]
        image_sinks = [s for s in sinks if s.encoder not in voices and s.encoder not in self._crop_batchers]
        if self.settings.faces == "crops":
            self._images.encode_crops(_crop_folders(job), crop_sinks)
        else:
            image_sinks += crop_sinks
        self._images.encode_video(job.media, {c.clip: c.side for c in job.clip_jobs}, image_sinks)
        encode_sound(job.media, voices, [s for s in sinks if s.encoder in voices], self._report_time)
        return _OpenJob(job, sinks, [])

    def _report_time(self, seconds: float) -> None:
        if seconds - self._reported_s > _REPORT_EVERY_S:
            self._reported_s = seconds
            self._on_time(seconds)

    def _make_sink(self, job: RecordingJob, clip_job: ClipJob, name: str) -> StreamSink:
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
        if isinstance(encoder, MeshEncoder):
            return MeshSink(clip_job.clip, encoder, writer)
        return (PieceSink if isinstance(encoder, AudioEncoder) else RowSink)(clip_job.clip, name, writer)


def _crop_folders(job: RecordingJob) -> dict[str, CropFolder]:
    return {
        c.clip: CropFolder(c.crops, c.crop_times, c.present)
        for c in job.clip_jobs
        if c.crops is not None and c.crop_times is not None and c.present is not None
    }


def _pop_finished(open_jobs: list[_OpenJob]) -> Iterator[ClipResult]:
    for open_job in list(open_jobs):
        job = open_job.job
        if not all(sink.done for sink in open_job.sinks):
            continue
        open_jobs.remove(open_job)
        for clip_job in job.clip_jobs:
            sinks = [s for s in open_job.sinks if s.clip == clip_job.clip]
            failures = [Failure.from_error(s.clip, s.encoder, job.media, s.failed) for s in sinks if s.failed]
            failures += [f for f in open_job.failures if f.clip == clip_job.clip]
            stored = tuple(s.encoder for s in sinks if not s.failed)
            yield ClipResult(clip_job.clip, stored, tuple(failures), job.duration_s / len(job.clip_jobs))
