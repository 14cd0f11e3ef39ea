"""Audio pass of extraction: decode the sound of one recording once and encode it with every voice encoder.

Called by `extract/job_runner.py` with the recording's sinks (`mien.encode.sinks`). `encode_sound` returns nothing: it
writes each stream into the sinks of its encoder, and marks sinks as failed instead of raising. Prediction and the
evaluation on corrupted media go through `encode_media.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from mien.encode.sinks import PieceSink, StreamSink
from mien.encoders.protocol import AudioEncoder
from mien.errors import OutputError
from mien.media.audio import blocks

#: Bytes of decoded sound kept in memory for further encoders (17 minutes); more goes to a temporary file.
_IN_MEMORY = 1 << 26


def encode_sound(
    media: Path, encoders: Mapping[str, AudioEncoder], sinks: Sequence[StreamSink], on_time: Callable[[float], None]
) -> None:
    """Encode the sound of a recording into sinks. Each encoder runs once, for all clips of the recording.

    Args:
        encoders: by name.
        sinks: of voice encoders; one for each clip and encoder.
        on_time: called with the position in the recording, seconds.

    Raises:
        OutputError: a stream cannot be written. Every other exception is stored in the sinks that it affects.
    """
    names = list(dict.fromkeys(s.encoder for s in sinks))
    if not names:
        return
    notes: list[str] = []
    try:
        sound = AudioSpool(blocks(media, notes=notes), keep=len(names) > 1)
    except Exception as error:
        for sink in sinks:
            sink.fail(error)
        return
    with sound:
        for name in names:
            targets = [s for s in sinks if s.encoder == name and isinstance(s, PieceSink) and not s.done]
            try:
                for piece in encoders[name].encode_audio(iter(sound)) if targets else ():
                    for sink in targets:
                        sink.add(piece.values, piece.times, piece.valid)
                    on_time(float(piece.times[-1]) if len(piece.times) else 0.0)
            except OutputError:
                raise
            except Exception as error:
                for sink in targets:
                    sink.fail(error)
            for sink in targets:
                sink.end(notes if sound.has_blocks else [*notes, "no sound"])


class AudioSpool:
    """Decoded audio blocks that can be iterated several times, as (start in seconds, `(n,)` float32 at 16 kHz).

    The source is decoded once. Its exception is raised at the same place in every iteration.

    Args:
        source: blocks of one recording, in order.
        keep: store the blocks for further iterations; without it, iterate once.

    Attributes:
        has_blocks: the source gave at least one block so far.
    """

    def __init__(self, source: Iterator[tuple[float, np.ndarray]], *, keep: bool) -> None:
        self._source = source
        self._index: list[tuple[float, int, int]] = []  # start in seconds, offset in the file, samples
        self._file: IO[bytes] | None = tempfile.SpooledTemporaryFile(_IN_MEMORY) if keep else None  # noqa: SIM115
        self._size = 0
        self._error: Exception | None = None
        self.has_blocks = False

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        number = 0
        while True:
            if self._file is not None and number < len(self._index):
                start_s, offset, count = self._index[number]
                self._file.seek(offset)
                yield start_s, np.frombuffer(self._file.read(4 * count), np.float32).copy()
            else:
                block = self._next()
                if block is None:
                    return
                yield block
            number += 1

    def _next(self) -> tuple[float, np.ndarray] | None:
        if self._error is not None:
            raise self._error
        try:
            block = next(self._source, None)
        except Exception as error:
            self._error = error
            raise
        if block is not None:
            self.has_blocks = True
            if self._file is not None:
                raw = block[1].astype(np.float32).tobytes()
                self._file.seek(self._size)
                self._file.write(raw)
                self._index.append((block[0], self._size, len(block[1])))
                self._size += len(raw)
        return block

    def __enter__(self) -> AudioSpool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
