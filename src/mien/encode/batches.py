"""Batches of crops or segments for an encoder, in a thread of their own where that helps."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

import numpy as np

from mien.encoders.protocol import Encoder
from mien.errors import ConfigError

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

#: Batches that may wait: one is computed while the next is filled.
MAX_WAITING = 2


def runs_on_gpu(encoder: Encoder) -> bool:
    """Whether the encoder's network is on a GPU, so that the processor is free while it runs."""
    return getattr(getattr(encoder, "device", None), "type", "cpu") == "cuda"


def runs_in_thread(encoder: Encoder) -> bool:
    """Whether batches are computed in a thread: on a GPU, and in ONNX Runtime, which other threads need not wait for
    (`in_background`)."""
    return runs_on_gpu(encoder) or bool(getattr(encoder, "in_background", False))


class BatchEncoder(Generic[Item, Key]):
    """Encodes items in full batches, and passes on the values of each batch in order.

    Args:
        encoder: see `runs_in_thread`; at most `MAX_WAITING` batches are then computed or waiting.
        encode: a batch of items -> `(batch, dim)`.
        on_values: gets the keys of a batch and its values `(batch, dim)` float32. Called in the thread of `add`.
        on_error: gets the exception of a batch, after which further items are dropped; None raises it.

    Attributes:
        seconds: time of encoding. failed: whether a batch raised.
    """

    def __init__(
        self,
        encoder: Any,
        encode: Callable[[list[Item]], np.ndarray],
        on_values: Callable[[list[Key], np.ndarray], None],
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self.seconds, self.failed = 0.0, False
        self._name, self._dim, self._size = encoder.name, encoder.dim, max(1, encoder.batch_size)
        self._encode, self._on_values, self._on_error = encode, on_values, on_error
        self._items: list[Item] = []
        self._keys: list[Key] = []
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="mien-encoder") if runs_in_thread(encoder) else None
        self._running: deque[tuple[list[Key], Future[np.ndarray]]] = deque()

    def add(self, key: Key, item: Item) -> None:
        """Add an item; a full batch is encoded. key: passed to `on_values` with the item's value."""
        if self.failed:
            return
        self._items.append(item)
        self._keys.append(key)
        if len(self._items) >= self._size:
            self._start()
            self._collect(MAX_WAITING)

    def drain(self) -> None:
        """Encode what waits, and wait for every batch; more may be added."""
        if self._items and not self.failed:
            self._start()
        self._collect(0)

    def flush(self) -> None:
        """`drain`, and end the thread."""
        self.drain()
        if self._pool is not None:
            self._pool.shutdown()

    def _start(self) -> None:
        items, keys = self._items, self._keys
        self._items, self._keys = [], []
        if self._pool is not None:
            self._running.append((keys, self._pool.submit(self._values, items)))
            return
        future: Future[np.ndarray] = Future()
        try:
            future.set_result(self._values(items))
        except Exception as error:
            future.set_exception(error)
        self._running.append((keys, future))

    def _values(self, items: list[Item]) -> np.ndarray:
        start = time.perf_counter()
        values = np.asarray(self._encode(items))
        self.seconds += time.perf_counter() - start
        if values.shape != (len(items), self._dim):
            raise ConfigError(
                f"encoder {self._name!r} returned an array {values.shape} for {len(items)} items of dim {self._dim}",
                follows="The features of this recording were not computed.",
                remedy=f"Correct the encoder: it must return ({len(items)}, {self._dim}).",
            )
        return values.astype(np.float32, copy=False)

    def _collect(self, waiting: int) -> None:
        """Pass on the oldest batches until at most `waiting` are left; without a thread every batch is complete."""
        while len(self._running) > (waiting if self._pool is not None else 0):
            keys, future = self._running.popleft()
            try:
                values = future.result()
            except Exception as error:
                if self.failed:
                    continue
                self.failed = True
                if self._on_error is None:
                    raise
                self._on_error(error)
                continue
            if not self.failed:
                self._on_values(keys, values)
