"""Threads that read live sources, and the queue between them and the prediction."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

from mien.live.reader import Picture, Sound

#: Most bytes of pictures that wait, and most blocks of sound (10 s of a sound card's).
WAITING_BYTES, WAITING_BLOCKS = 48 << 20, 500
#: Longest time without a word to the caller, seconds.
TICK_S = 0.1
#: Longest wait for a thread at the end, seconds.
CLOSE_S = 2.0


class Pieces:
    """Pictures and sound of several sources, each read in a thread of its own.

    Args:
        sources: iterables of pieces. The session ends with the first one; what another raises is a note, and the
            others go on.
        may_drop: drop pictures while too many wait, as a live source needs; otherwise the reading waits.
        on_note: gets the error of a source other than the first, as text.

    Attributes:
        dropped: number of pictures dropped here so far.
    """

    def __init__(
        self,
        sources: list[Iterable[Picture | Sound]],
        *,
        may_drop: bool = True,
        on_note: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.dropped = 0
        self._sources, self._may_drop, self._on_note = sources, may_drop, on_note
        self._queue: queue.Queue[Picture | Sound | BaseException | None] = queue.Queue()
        self._room = threading.Condition()
        self._bytes = self._blocks = 0
        self._is_closed = False
        self._threads: list[threading.Thread] = []

    def __iter__(self) -> Iterator[Picture | Sound | None]:
        """Pieces as they come, and None every `TICK_S` without one. Raises what the first source raises."""
        for number, source in enumerate(self._sources):
            thread = threading.Thread(target=self._read, args=(number, source), name="mien-live", daemon=True)
            self._threads.append(thread)
            thread.start()
        while True:
            try:
                piece = self._queue.get(timeout=TICK_S)
            except queue.Empty:
                yield None
                continue
            if isinstance(piece, BaseException):
                raise piece
            if piece is None:
                return
            with self._room:
                self._count(piece, -1)
                self._room.notify_all()
            yield piece

    def close(self) -> None:
        """End the threads; one that waits for a device is given up after `CLOSE_S`."""
        with self._room:
            self._is_closed = True
            self._room.notify_all()
        for thread in self._threads:
            thread.join(CLOSE_S)

    def _read(self, number: int, source: Iterable[Picture | Sound]) -> None:
        try:
            for piece in source:
                if not self._put(piece):
                    return
            if number == 0:
                self._queue.put(None)
        except BaseException as error:
            if number == 0:
                self._queue.put(error)
            else:
                self._on_note(str(error).splitlines()[0] if str(error) else type(error).__name__)

    def _put(self, piece: Picture | Sound) -> bool:
        """Whether the reading goes on."""
        with self._room:
            while self._is_full(piece) and not self._is_closed:
                if self._may_drop:
                    self.dropped += isinstance(piece, Picture)
                    return True
                self._room.wait(TICK_S)
            if self._is_closed:
                return False
            self._count(piece, 1)
        self._queue.put(piece)
        return True

    def _is_full(self, piece: Picture | Sound) -> bool:
        if isinstance(piece, Picture):
            return self._bytes > 0 and self._bytes + piece.image.nbytes > WAITING_BYTES
        return self._blocks >= WAITING_BLOCKS

    def _count(self, piece: Picture | Sound, sign: int) -> None:
        if isinstance(piece, Picture):
            self._bytes += sign * piece.image.nbytes
        else:
            self._blocks += sign
