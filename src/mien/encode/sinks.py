"""Where encoded rows go: into store files, in order, while batches are filled across clips."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mien.encoders.protocol import MeshEncoder
from mien.errors import ConfigError, OutputError
from mien.store import Writer

#: Rows collected before they are written or measured at once.
_CHUNK = 256


class StreamSink:
    """One clip's stream of one encoder on its way into the store. `end` may be called before all rows came
    back from the batcher; the file is finished when the last has. `failed` holds the reason where it was
    given up."""

    def __init__(self, clip: str, encoder: str, writer: Writer) -> None:
        self.clip, self.encoder, self.writer = clip, encoder, writer
        self.failed: Exception | None = None
        self.done = False

    def fail(self, error: Exception) -> None:
        """Gives the clip up; nothing of it stays. A full disk is no clip's fault and ends the whole run."""
        if not self.done:
            self.writer.abort()
            self.failed, self.done = error, True
        if isinstance(error, OutputError):
            raise error

    def guarded(self, action: Callable[[], None]) -> None:
        """Runs an action of this sink; its exception is this clip's failure."""
        if self.done:
            return
        try:
            action()
        except Exception as error:  # whatever an encoder raises is a reason to put the clip aside
            self.fail(error)

    def _close(self, notes: Sequence[str]) -> None:
        self.writer.notes += notes
        self.writer.close()
        self.done = True


class RowSink(StreamSink):
    """Rows whose values come later (crops and segments in batches), written in order as they come."""

    def __init__(self, clip: str, encoder: str, writer: Writer) -> None:
        super().__init__(clip, encoder, writer)
        self._rows: deque[list[Any]] = deque()  # [time, value or None while it is awaited, valid]
        self._ended: list[str] | None = None
        self._awaited = 0
        self._zero = np.zeros(writer.dim, np.float32)

    def absent(self, time_s: float) -> None:
        """A row without a face."""
        self._rows.append([time_s, self._zero, False])
        if len(self._rows) >= 2 * _CHUNK:
            self.guarded(lambda: self._flush(_CHUNK))

    def awaited(self, time_s: float) -> Callable[[np.ndarray], None]:
        """A row whose value will be handed to what this returns."""
        row: list[Any] = [time_s, None, True]
        self._rows.append(row)
        self._awaited += 1

        def arrive(value: np.ndarray) -> None:
            row[1] = value
            self._awaited -= 1
            if len(self._rows) >= 2 * _CHUNK or (self._ended is not None and not self._awaited):
                self.guarded(lambda: self._flush(_CHUNK))

        return arrive

    def end(self, notes: Sequence[str]) -> None:
        self._ended = list(notes)
        self.guarded(lambda: self._flush(_CHUNK))

    def _flush(self, most: int) -> None:
        ready = []
        while self._rows and self._rows[0][1] is not None:
            ready.append(self._rows.popleft())
            if len(ready) == most or not self._rows or self._rows[0][1] is None:
                times, values, valid = zip(*ready, strict=True)
                self.writer.append(np.stack(values), np.array(times), np.array(valid))
                ready = []
        if self._ended is not None and not self._rows:
            self._close(self._ended)


class MeshSink(StreamSink):
    """One subject's meshes, measured in chunks; the stream is made at the end."""

    def __init__(self, clip: str, encoder: MeshEncoder, writer: Writer) -> None:
        super().__init__(clip, encoder.name, writer)
        self._encode = encoder
        self._meshes: list[np.ndarray] = []
        self._measures: list[np.ndarray] = []
        self._times: list[float] = []
        self._valid: list[bool] = []

    def add(self, time_s: float, mesh: np.ndarray | None) -> None:
        self._times.append(time_s)
        self._valid.append(mesh is not None)
        if mesh is not None:
            self._meshes.append(mesh)
            if len(self._meshes) == _CHUNK:
                self.guarded(self._measure)

    def _measure(self) -> None:
        if self._meshes:
            self._measures.append(self._encode.measure(np.stack(self._meshes)))
            self._meshes = []

    def end(self, notes: Sequence[str]) -> None:
        self.guarded(lambda: self._finish(notes))

    def _finish(self, notes: Sequence[str]) -> None:
        self._measure()
        valid, times = np.array(self._valid, bool), np.array(self._times, float)
        if valid.any():
            seen = np.concatenate(self._measures)
            measures = np.zeros((len(valid), seen.shape[1]), np.float32)
            measures[valid] = seen
            stream = self._encode.encode_measures(measures, times, valid)
            self.writer.append(stream.values, stream.times, stream.valid)
        else:
            self.writer.append(np.zeros((len(valid), self.writer.dim)), times, valid)
        self._close(notes)


class WholeSink(StreamSink):
    """Pieces of a stream that come finished (sound)."""

    def add(self, values: np.ndarray, times: np.ndarray, valid: np.ndarray) -> None:
        self.guarded(lambda: self.writer.append(values, times, valid))

    def end(self, notes: Sequence[str]) -> None:
        self.guarded(lambda: self._close(notes))


class Batcher:
    """Collects items of any clips until a batch is full, and hands each result to the row that waits for it.

    encode: a batch of items -> `(batch, dim)`. An exception is tried again clip by clip, so that one clip's
    fault does not take its neighbours along.
    """

    def __init__(self, name: str, encode: Callable[[list[Any]], np.ndarray], size: int, dim: int) -> None:
        self.name, self._encode, self._size, self._dim = name, encode, max(1, size), dim
        self._waiting: list[tuple[Any, RowSink, Callable[[np.ndarray], None]]] = []

    def add(self, item: Any, sink: RowSink, arrive: Callable[[np.ndarray], None]) -> None:
        self._waiting.append((item, sink, arrive))
        if len(self._waiting) >= self._size:
            self.flush()

    def flush(self) -> None:
        batch, self._waiting = [w for w in self._waiting if not w[1].done], []
        if not batch:
            return
        try:
            self._run(batch)
        except OutputError:
            raise
        except Exception:
            for sink in dict.fromkeys(w[1] for w in batch):
                mine = [w for w in batch if w[1] is sink]
                sink.guarded(lambda mine=mine: self._run(mine))  # type: ignore[misc]

    def _run(self, batch: list[tuple[Any, RowSink, Callable[[np.ndarray], None]]]) -> None:
        values = np.asarray(self._encode([item for item, _, _ in batch]))
        if values.shape != (len(batch), self._dim):
            raise ConfigError(
                f"{self.name} gave {values.shape} for {len(batch)} items; it declares dim {self._dim}",
                remedy="a fault of the encoder",
            )
        for (_, _, arrive), value in zip(batch, values, strict=True):
            arrive(value.astype(np.float32, copy=True))
