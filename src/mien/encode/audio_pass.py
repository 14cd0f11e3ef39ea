"""One pass over a recording's sound for every voice encoder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mien.encode.sinks import StreamSink, WholeSink
from mien.errors import OutputError
from mien.media.audio import blocks

#: Bytes of sound kept in memory for a second encoder (17 minutes); more goes to a temporary file.
_IN_MEMORY = 1 << 26


def encode_sound(
    media: Path, encoders: Mapping[str, Any], sinks: Sequence[StreamSink], passed: Callable[[float], None]
) -> None:
    """Clips of one recording share one stream, which is encoded once and written for each of them.

    passed: told where in the recording the pass is, in seconds.
    """
    names = list(dict.fromkeys(s.encoder for s in sinks))
    if not names:
        return
    notes: list[str] = []
    try:
        sound = Spool(blocks(media, notes=notes), keep=len(names) > 1)
    except Exception as error:
        for sink in sinks:
            sink.fail(error)
        return
    with sound:
        for name in names:
            mine = [s for s in sinks if s.encoder == name and isinstance(s, WholeSink) and not s.done]
            try:
                for piece in encoders[name].encode_audio(iter(sound)) if mine else ():
                    for sink in mine:
                        sink.add(piece.values, piece.times, piece.valid)
                    passed(float(piece.times[-1]) if len(piece.times) else 0.0)
            except OutputError:
                raise
            except Exception as error:
                for sink in mine:
                    sink.fail(error)
            for sink in mine:
                sink.end(notes if sound.heard else [*notes, "no sound"])


class Spool:
    """Blocks of sound, decoded once and read from the start by each reader; kept where there are several. A
    fault of the source is met by every reader at the same place."""

    def __init__(self, source: Iterator[tuple[float, np.ndarray]], *, keep: bool) -> None:
        self._source = source
        self._index: list[tuple[float, int, int]] = []  # start in seconds, place in the file, samples
        self._file: IO[bytes] | None = tempfile.SpooledTemporaryFile(_IN_MEMORY) if keep else None  # noqa: SIM115
        self._size = 0
        self._fault: Exception | None = None
        self.heard = False

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        read = 0
        while True:
            if self._file is not None and read < len(self._index):
                start_s, place, count = self._index[read]
                self._file.seek(place)
                yield start_s, np.frombuffer(self._file.read(4 * count), np.float32).copy()
            else:
                block = self._next()
                if block is None:
                    return
                yield block
            read += 1

    def _next(self) -> tuple[float, np.ndarray] | None:
        if self._fault is not None:
            raise self._fault
        try:
            block = next(self._source, None)
        except Exception as error:
            self._fault = error
            raise
        if block is not None:
            self.heard = True
            if self._file is not None:
                raw = block[1].astype(np.float32).tobytes()
                self._file.seek(self._size)
                self._file.write(raw)
                self._index.append((block[0], self._size, len(block[1])))
                self._size += len(raw)
        return block

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
