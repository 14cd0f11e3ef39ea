"""Sinks of extraction: write the stream of each clip and encoder into the feature store, row by row and in order.

`extract/job_runner.py` makes one sink for each clip and encoder, and a `Batcher` for each encoder of crops or segments.
The passes (`corpus_pass.py`, `audio_pass.py`) feed them. Sinks return nothing: once `done` is set, the stream is
stored, or `failed` holds the exception and nothing is stored.

* `RowSink`: crops and segments, whose values a `Batcher` computes later, in batches across clips
* `MeshSink`: meshes, from which the stream is made at the end
* `PieceSink`: sound, in finished pieces
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from mien.encoders.protocol import MeshEncoder
from mien.errors import ConfigError, OutputError
from mien.store import Writer

#: Rows written, or meshes measured, at once.
_CHUNK = 256
Item = TypeVar("Item")


class StreamSink:
    """Base class of sinks: the stream of one clip and encoder while it is written.

    Attributes:
        done: nothing more is written: the file is complete, or was removed.
        failed: the exception that ended the stream, or None.
    """

    def __init__(self, clip: str, encoder: str, writer: Writer) -> None:
        self.clip, self.encoder, self.writer = clip, encoder, writer
        self.failed: Exception | None = None
        self.done = False

    def fail(self, error: Exception) -> None:
        """End the stream and remove what was written. Raises an OutputError again, since it concerns the whole run."""
        if not self.done:
            self.writer.abort()
            self.failed, self.done = error, True
        if isinstance(error, OutputError):
            raise error

    def run_guarded(self, action: Callable[[], None]) -> None:
        """Run an action; its exception ends this stream only. Does nothing once the stream is done."""
        if self.done:
            return
        try:
            action()
        except Exception as error:  # encoders may raise anything
            self.fail(error)

    def _close(self, notes: Sequence[str]) -> None:
        self.writer.notes += notes
        self.writer.close()
        self.done = True


@dataclass(slots=True)
class _Row:
    time_s: float
    value: np.ndarray | None
    valid: bool


class RowSink(StreamSink):
    """Sink of rows whose values arrive later and out of order (crops and segments in batches)."""

    def __init__(self, clip: str, encoder: str, writer: Writer) -> None:
        super().__init__(clip, encoder, writer)
        self._rows: deque[_Row] = deque()
        self._end_notes: list[str] | None = None
        self._pending = 0
        self._zero = np.zeros(writer.dim, np.float32)

    def add_missing(self, time_s: float) -> None:
        """Add an invalid row, for a frame without a face."""
        self._rows.append(_Row(time_s, self._zero, False))
        if len(self._rows) >= 2 * _CHUNK:
            self.run_guarded(self._flush)

    def add_pending(self, time_s: float) -> Callable[[np.ndarray], None]:
        """Add a valid row. Its value `(dim,)` is passed later to the returned function."""
        row = _Row(time_s, None, True)
        self._rows.append(row)
        self._pending += 1

        def arrive(value: np.ndarray) -> None:
            row.value = value
            self._pending -= 1
            if len(self._rows) >= 2 * _CHUNK or (self._end_notes is not None and not self._pending):
                self.run_guarded(self._flush)

        return arrive

    def end(self, notes: Sequence[str]) -> None:
        """Finish the file once the last pending value has arrived. notes: stored with the stream."""
        self._end_notes = list(notes)
        self.run_guarded(self._flush)

    def _flush(self) -> None:
        while self._rows and self._rows[0].value is not None:
            values: list[np.ndarray] = []
            rows: list[_Row] = []
            while self._rows and len(rows) < _CHUNK and (value := self._rows[0].value) is not None:
                values.append(value)
                rows.append(self._rows.popleft())
            self.writer.append(np.stack(values), np.array([r.time_s for r in rows]), np.array([r.valid for r in rows]))
        if self._end_notes is not None and not self._rows:
            self._close(self._end_notes)


class MeshSink(StreamSink):
    """Sink of one subject's meshes: measured in chunks and dropped; the stream is encoded at the end."""

    def __init__(self, clip: str, encoder: MeshEncoder, writer: Writer) -> None:
        super().__init__(clip, encoder.name, writer)
        self._encoder = encoder
        self._meshes: list[np.ndarray] = []
        self._measures: list[np.ndarray] = []
        self._times: list[float] = []
        self._valid: list[bool] = []

    def add(self, time_s: float, mesh: np.ndarray | None) -> None:
        """Add the mesh `(468, 3)` of a frame, or None where it has no face."""
        self._times.append(time_s)
        self._valid.append(mesh is not None)
        if mesh is not None:
            self._meshes.append(mesh)
            if len(self._meshes) == _CHUNK:
                self.run_guarded(self._measure)

    def _measure(self) -> None:
        if self._meshes:
            self._measures.append(self._encoder.measure(np.stack(self._meshes)))
            self._meshes = []

    def end(self, notes: Sequence[str]) -> None:
        """Encode the stream and finish the file. notes: stored with the stream."""
        self.run_guarded(lambda: self._finish(notes))

    def _finish(self, notes: Sequence[str]) -> None:
        self._measure()
        valid, times = np.array(self._valid, bool), np.array(self._times, float)
        if valid.any():
            valid_measures = np.concatenate(self._measures)
            measures = np.zeros((len(valid), valid_measures.shape[1]), np.float32)
            measures[valid] = valid_measures
            stream = self._encoder.encode_measures(measures, times, valid)
            self.writer.append(stream.values, stream.times, stream.valid)
        else:
            self.writer.append(np.zeros((len(valid), self.writer.dim)), times, valid)
        self._close(notes)


class PieceSink(StreamSink):
    """Sink of finished pieces of a stream (sound)."""

    def add(self, values: np.ndarray, times: np.ndarray, valid: np.ndarray) -> None:
        """Write rows: values `(n, dim)`, times `(n,)` seconds, valid `(n,)` bool."""
        self.run_guarded(lambda: self.writer.append(values, times, valid))

    def end(self, notes: Sequence[str]) -> None:
        """Finish the file. notes: stored with the stream."""
        self.run_guarded(lambda: self._close(notes))


class Batcher(Generic[Item]):
    """Encodes items of any clips in batches, and passes each result to the pending row of its sink.

    If a batch raises, it is encoded again clip by clip, so that only the clip at fault fails.

    Args:
        name: of the encoder, for errors.
        encode: a batch of crops or segments -> `(batch, dim)`.
        size: items of a batch. dim: length of one value.
    """

    def __init__(self, name: str, encode: Callable[[list[Item]], np.ndarray], size: int, dim: int) -> None:
        self.name, self._encode, self._size, self._dim = name, encode, max(1, size), dim
        self._pending: list[tuple[Item, RowSink, Callable[[np.ndarray], None]]] = []

    def add(self, item: Item, sink: RowSink, arrive: Callable[[np.ndarray], None]) -> None:
        """Add an item; a full batch is encoded at once. arrive: from `RowSink.add_pending`."""
        self._pending.append((item, sink, arrive))
        if len(self._pending) >= self._size:
            self.flush()

    def flush(self) -> None:
        """Encode the items that are pending. Raises OutputError."""
        batch, self._pending = [p for p in self._pending if not p[1].done], []
        if not batch:
            return
        try:
            self._run(batch)
        except OutputError:
            raise
        except Exception:
            for sink in dict.fromkeys(p[1] for p in batch):
                sink.run_guarded(partial(self._run, [p for p in batch if p[1] is sink]))

    def _run(self, batch: list[tuple[Item, RowSink, Callable[[np.ndarray], None]]]) -> None:
        values = np.asarray(self._encode([item for item, _, _ in batch]))
        if values.shape != (len(batch), self._dim):
            raise ConfigError(
                f"encoder {self.name!r} returned an array {values.shape} for {len(batch)} items of dim {self._dim}",
                follows="The clips of this batch were not stored.",
                remedy=f"Correct the encoder: it must return ({len(batch)}, {self._dim}).",
            )
        for (_, _, arrive), value in zip(batch, values, strict=True):
            arrive(value.astype(np.float32, copy=True))
