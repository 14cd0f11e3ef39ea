"""Batches on the CPU and beside a GPU: order, full batches, errors, and what may wait."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mien.encode.batches import MAX_WAITING, BatchEncoder, runs_on_gpu
from mien.errors import ConfigError


def encoder(device: str, size: int = 3) -> SimpleNamespace:
    return SimpleNamespace(name="toy", dim=1, batch_size=size, device=SimpleNamespace(type=device))


def column(items: list[int]) -> np.ndarray:
    return np.array(items, float)[:, None]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_item_gets_its_value_in_order_and_batches_are_full(device: str) -> None:
    sizes: list[int] = []
    threads: set[str] = set()

    def encode(items: list[int]) -> np.ndarray:
        sizes.append(len(items))
        threads.add(threading.current_thread().name)
        time.sleep(0.001 * (items[0] % 3))
        return column(items) * 10

    got: list[tuple[str, float]] = []
    batches: BatchEncoder[int, str] = BatchEncoder(
        encoder(device), encode, lambda keys, values: got.extend(zip(keys, values[:, 0].tolist(), strict=True))
    )
    for i in range(20):
        batches.add("ab"[i % 2], i)
    batches.flush()
    assert got == [("ab"[i % 2], 10.0 * i) for i in range(20)]
    assert sizes == [3] * 6 + [2], "items of both subjects share batches"
    assert runs_on_gpu(encoder(device)) == (device == "cuda")
    assert all(name.startswith("mien-encoder") for name in threads) == (device == "cuda")


def test_at_most_two_batches_wait_for_the_gpu() -> None:
    release = threading.Event()
    started: list[int] = []

    def encode(items: list[int]) -> np.ndarray:
        started.append(items[0])
        release.wait(60)
        return column(items)

    batches: BatchEncoder[int, int] = BatchEncoder(encoder("cuda", 1), encode, lambda keys, values: None)
    for i in range(MAX_WAITING):
        batches.add(i, i)  # returns, although nothing is computed yet
    third = threading.Thread(target=batches.add, args=(9, 9))
    third.start()
    third.join(0.1)
    assert third.is_alive(), "the decoder waits while two batches are outstanding"
    release.set()
    third.join(60)
    batches.flush()
    assert started == [0, 1, 9]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_error_surfaces_or_is_handed_over_once(device: str) -> None:
    def encode(items: list[int]) -> np.ndarray:
        if 4 in items:
            raise ValueError("four")
        return column(items)

    plain: BatchEncoder[int, int] = BatchEncoder(encoder(device), encode, lambda keys, values: None)

    def add_all() -> None:
        for i in range(9):
            plain.add(i, i)
        plain.flush()

    with pytest.raises(ValueError, match="four"):
        add_all()
    errors: list[Exception] = []
    seen: list[int] = []
    guarded: BatchEncoder[int, int] = BatchEncoder(
        encoder(device), encode, lambda keys, values: seen.extend(keys), errors.append
    )
    for i in range(12):
        guarded.add(i, i)
    guarded.flush()
    assert [str(error) for error in errors] == ["four"]
    assert seen == [0, 1, 2], "nothing follows the batch that failed"


def test_a_wrong_shape_is_named() -> None:
    batches: BatchEncoder[int, int] = BatchEncoder(
        encoder("cpu"), lambda items: np.zeros((len(items), 2)), lambda keys, values: None
    )
    batches.add(0, 0)
    with pytest.raises(ConfigError, match=r"'toy' returned an array \(1, 2\) for 1 items of dim 1"):
        batches.flush()
