"""A small TFLite network on the CPU: through LiteRT, or through OpenCV where LiteRT cannot be imported."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

Backend = Literal["litert", "cv2"]
_BANNER = b"Created TensorFlow Lite XNNPACK delegate"
_banner_lock = threading.Lock()


def backend() -> Backend:
    """What `TfliteNetwork` runs on here. LiteRT is preferred: about twice as fast as OpenCV on these networks."""
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError:  # it has wheels for fewer platforms than OpenCV
        return "cv2"
    return "litert"


class TfliteNetwork:
    """One TFLite network with one image input.

    Args:
        path: the `.tflite` file.
        threads: CPU threads (LiteRT only; OpenCV's threads are the process's business, `cv2.setNumThreads`).
        on: `litert` or `cv2`; by default what `backend()` finds. Both give the same numbers to about 1e-4.

    Not for several threads at once: the buffers belong to the object.
    """

    def __init__(self, path: Path, *, threads: int = 1, on: Backend | None = None) -> None:
        self.on: Backend = on or backend()
        if self.on == "cv2":
            self._net: Any = cv2.dnn.readNetFromTFLite(str(path))
            self._names = self._net.getUnconnectedOutLayersNames()
            return
        from ai_edge_litert.interpreter import Interpreter

        with _without_banner():
            self._net = Interpreter(str(path), num_threads=threads)
            self._net.allocate_tensors()
        self._input = self._net.get_input_details()[0]["index"]
        self._outputs = [detail["index"] for detail in self._net.get_output_details()]

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """image: `(height, width, 3)` float32 as the network wants it. Returns its outputs, flat, smallest
        first (the two backends order and shape them differently)."""
        if self.on == "cv2":
            self._net.setInput(image.transpose(2, 0, 1)[None])
            outputs = [np.asarray(out).ravel() for out in self._net.forward(self._names)]
        else:
            self._net.set_tensor(self._input, image[None])
            self._net.invoke()
            outputs = [self._net.get_tensor(index).ravel() for index in self._outputs]
        return sorted(outputs, key=len)


@contextmanager
def _without_banner() -> Iterator[None]:
    """LiteRT announces its CPU delegate on file descriptor 2 and has no switch for it. All else is passed
    on."""
    with _banner_lock, tempfile.TemporaryFile() as caught:
        try:
            sys.stderr.flush()
            kept = os.dup(2)
        except (OSError, AttributeError, ValueError):  # no standard error at all: nothing to keep clean
            yield
            return
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            if rest := b"".join(line for line in caught if _BANNER not in line):
                os.write(2, rest)
