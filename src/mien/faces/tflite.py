"""Run small TFLite networks on the CPU with LiteRT, or with OpenCV where LiteRT is not installed."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

Backend = Literal["litert", "cv2"]
Run = Callable[[np.ndarray], list[np.ndarray]]
_BANNER = b"Created TensorFlow Lite XNNPACK delegate"
_banner_lock = threading.Lock()
#: Networks that nothing uses at the moment, by file and settings. LiteRT takes 6 to 11 ms to build one and frees its
#: memory late, so a folder of pictures builds each network once.
_Key = tuple[str, int, int, int, Backend]
_idle: defaultdict[_Key, list[Run]] = defaultdict(list)


def release_idle() -> None:
    """Free the networks that nothing uses: 20 MB of a tracker's."""
    for networks in _idle.values():
        networks.clear()


def default_backend() -> Backend:
    """The installed backend. LiteRT is preferred: about twice as fast as OpenCV on these networks."""
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError:  # it has wheels for fewer platforms than OpenCV
        return "cv2"
    return "litert"


class TfliteNetwork:
    """TFLite network with one image input.

    Not thread-safe: the object owns the input and output buffers, until it is deleted; they then serve the next network
    of the same file and settings.

    Args:
        path: the `.tflite` file.
        threads: CPU threads (LiteRT only; OpenCV's are set for the whole process by `cv2.setNumThreads`).
        backend: `litert` or `cv2`; by default `default_backend()`. Both give the same numbers to about 1e-4.
    """

    def __init__(self, path: Path, *, threads: int = 1, backend: Backend | None = None) -> None:
        backend, status = backend or default_backend(), path.stat()
        key = (str(path), status.st_size, status.st_mtime_ns, threads, backend)
        try:
            self._run = _idle[key].pop()
        except IndexError:
            self._run = _opencv(path) if backend == "cv2" else _litert(path, threads)
        weakref.finalize(self, _idle[key].append, self._run).atexit = False

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """Run the network on an image `(height, width, 3)` float32 in its input range.

        Returns its outputs, flattened, smallest first, because the two backends order and shape them differently.
        """
        return sorted(self._run(image), key=len)


def _opencv(path: Path) -> Run:
    network = cv2.dnn.readNetFromTFLite(str(path))
    names = network.getUnconnectedOutLayersNames()

    def run(image: np.ndarray) -> list[np.ndarray]:
        network.setInput(image.transpose(2, 0, 1)[None])
        return [np.asarray(output).ravel() for output in network.forward(names)]

    return run


def _litert(path: Path, threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    with _without_banner():
        network = Interpreter(str(path), num_threads=threads)
        network.allocate_tensors()
    image_index = network.get_input_details()[0]["index"]
    output_indices = [detail["index"] for detail in network.get_output_details()]

    def run(image: np.ndarray) -> list[np.ndarray]:
        network.set_tensor(image_index, image[None])
        network.invoke()
        return [network.get_tensor(index).ravel() for index in output_indices]

    return run


@contextmanager
def _without_banner() -> Iterator[None]:
    """Remove LiteRT's banner from standard error; it has no option for that. All other output passes."""
    with _banner_lock, tempfile.TemporaryFile() as captured:
        try:
            sys.stderr.flush()
            stderr = os.dup(2)
        except (OSError, AttributeError, ValueError):  # the process has no standard error
            yield
            return
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            captured.seek(0)
            if rest := b"".join(line for line in captured if _BANNER not in line):
                os.write(2, rest)
