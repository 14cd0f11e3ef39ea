"""The work of one process: recordings in, store files out. Local processes and Ray run the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mien.checkpoint_encoder import create_encoder
from mien.encode.audio_pass import encode_sound
from mien.encode.corpus_pass import CropFolder, ImagePass
from mien.encode.sinks import Batcher, MeshSink, RowSink, StreamSink, WholeSink
from mien.encoders.protocol import AudioEncoder, CropEncoder, Encoder, MeshEncoder, SegmentEncoder
from mien.errors import ConfigError, OutputError
from mien.extract.failures import Failure
from mien.extract.plan import ClipJob, Declared, ExtractionSettings, RecordingJob
from mien.store import FeatureStore

#: Between signs of life, in seconds of the recording.
_SIGN_S = 2.0


@dataclass(frozen=True)
class ClipDone:
    """One clip is through. encoders: that gave a file. seconds: of media, shared among the recording's
    clips."""

    clip: str
    encoders: tuple[str, ...]
    failures: tuple[Failure, ...]
    seconds: float


class JobRunner:
    """Encoders on a device, and the loop over recordings.

    Args:
        specs: `NAME[=SOURCE]` of each encoder.
        tick: told now and then how far the recording at hand is, in seconds.

    Raises:
        ConfigError, ArtefactError: an encoder cannot be made.
    """

    def __init__(
        self, specs: Sequence[str], settings: ExtractionSettings, tick: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self.settings, self._tick = settings, tick
        self._store = FeatureStore(settings.store)
        self.encoders: dict[str, Encoder] = {}
        self.declared: list[Declared] = []
        self._batchers: dict[str, Batcher] = {}
        self._images = ImagePass(self.encoders, self._batchers, settings.max_faces, settings.threads, self._passed)
        self._at_s = 0.0
        for spec in specs:
            encoder = create_encoder(spec, device=settings.device)
            self._add(spec, encoder)

    def _add(self, spec: str, encoder: Encoder) -> None:
        self.encoders[encoder.name] = encoder
        self.declared.append(Declared.of(spec, encoder, self.settings))
        if isinstance(encoder, CropEncoder):
            self._batchers[encoder.name] = Batcher(
                encoder.name,
                lambda crops: encoder.encode_crops(np.stack(crops)),
                encoder.batch_size,
                encoder.dim,
            )
        elif isinstance(encoder, SegmentEncoder):
            self._batchers[encoder.name] = Batcher(
                encoder.name, encoder.encode_segments, encoder.batch_size, encoder.dim
            )
        elif not isinstance(encoder, MeshEncoder | AudioEncoder):
            raise ConfigError(
                f"encoder {encoder.name!r} encodes neither crops, segments, meshes nor sound",
                remedy="see mien.encoders.protocol",
            )

    def run(self, tasks: Iterable[RecordingJob]) -> Iterator[ClipDone]:
        """Yields each clip when the last of its files is finished, which may be after the next recording
        began."""
        open_tasks: list[tuple[RecordingJob, list[StreamSink], list[Failure]]] = []
        for task in tasks:
            open_tasks.append(self._one(task))
            yield from _finished(open_tasks)
        for batcher in self._batchers.values():
            batcher.flush()
        yield from _finished(open_tasks)
        for _, sinks, _ in open_tasks:
            for sink in sinks:
                sink.fail(RuntimeError("the encoder gave fewer rows than it was asked for"))
        yield from _finished(open_tasks)

    def _one(self, task: RecordingJob) -> tuple[RecordingJob, list[StreamSink], list[Failure]]:
        sinks: dict[tuple[str, str], StreamSink] = {}
        try:
            task.check()
            for job in task.jobs:
                for name in job.encoders:
                    sinks[job.clip, name] = self._sink(task, job, name)
        except OutputError:
            raise
        except Exception as error:
            for sink in sinks.values():
                sink.fail(error)
            return task, [], [Failure.of(j.clip, n, task.media, error) for j in task.jobs for n in j.encoders]
        found = list(sinks.values())
        self._at_s = 0.0
        seen = [s for s in found if self._is(s, MeshEncoder, SegmentEncoder)]
        crops = [s for s in found if self._is(s, CropEncoder)]
        if self.settings.faces == "crops":
            self._images.crops(_crop_folders(task), crops)
        sides = {job.clip: job.side for job in task.jobs}
        self._images.video(task.media, sides, seen if self.settings.faces == "crops" else seen + crops)
        encode_sound(task.media, self.encoders, [s for s in found if self._is(s, AudioEncoder)], self._passed)
        return task, found, []

    def _passed(self, seconds: float) -> None:
        if seconds - self._at_s > _SIGN_S:
            self._at_s = seconds
            self._tick(seconds)

    def _is(self, sink: StreamSink, *kinds: type) -> bool:
        return isinstance(self.encoders[sink.encoder], kinds)

    def _sink(self, task: RecordingJob, job: ClipJob, name: str) -> StreamSink:
        encoder = self.encoders[name]
        declared = next(d for d in self.declared if d.name == name)
        faces = self.settings.faces if encoder.modality == "face" else "video"
        writer = self._store.writer(
            name,
            job.clip,
            dim=encoder.dim,
            provenance=declared.provenance,
            dtype=self.settings.dtype,
            origin=task.origin(job, name, faces),
            replace=self.settings.replace,
        )
        if isinstance(encoder, MeshEncoder):
            return MeshSink(job.clip, encoder, writer)
        return (WholeSink if isinstance(encoder, AudioEncoder) else RowSink)(job.clip, name, writer)


def _crop_folders(task: RecordingJob) -> dict[str, CropFolder]:
    return {
        job.clip: CropFolder(job.crops, job.crop_times, job.present)
        for job in task.jobs
        if job.crops is not None and job.crop_times is not None and job.present is not None
    }


def _finished(open_tasks: list[tuple[RecordingJob, list[StreamSink], list[Failure]]]) -> Iterator[ClipDone]:
    for item in list(open_tasks):
        task, sinks, failures = item
        if not all(sink.done for sink in sinks):
            continue
        open_tasks.remove(item)
        for job in task.jobs:
            mine = [s for s in sinks if s.clip == job.clip]
            failed = [Failure.of(s.clip, s.encoder, task.media, s.failed) for s in mine if s.failed]
            failed += [f for f in failures if f.clip == job.clip]
            good = tuple(s.encoder for s in mine if not s.failed)
            yield ClipDone(job.clip, good, tuple(failed), task.duration_s / len(task.jobs))
