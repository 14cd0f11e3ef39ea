"""Run small TFLite networks on the CPU with LiteRT, or with OpenCV where LiteRT is not installed."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import weakref
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
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
_Key = tuple[str, str, tuple[str, ...], int, int, int, Backend]
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
    """TFLite network with one input: an image, or another array of numbers.

    Not thread-safe: the object owns the input and output buffers, until it is deleted; they then serve the next network
    of the same file and settings.

    Args:
        path: the `.tflite` file, or a zip file that holds it, such as MediaPipe's `.task` bundles.
        member: name of the network inside the zip file.
        outputs: names of the outputs to return, in this order; by default all, smallest first, because the two backends
            order them differently.
        threads: CPU threads (LiteRT only; OpenCV's are set for the whole process by `cv2.setNumThreads`).
        backend: `litert` or `cv2`; by default `default_backend()`. Both give the same numbers to about 1e-4.
    """

    def __init__(
        self,
        path: Path,
        *,
        member: str = "",
        outputs: Sequence[str] = (),
        threads: int = 1,
        backend: Backend | None = None,
    ) -> None:
        backend, status, names = backend or default_backend(), path.stat(), tuple(outputs)
        key = (str(path), member, names, status.st_size, status.st_mtime_ns, threads, backend)
        self._sorts = not names
        try:
            self._run = _idle[key].pop()
        except IndexError:
            network = _read_member(path, member) if member else path
            self._run = _opencv(network, names) if backend == "cv2" else _litert(network, names, threads)
        weakref.finalize(self, _idle[key].append, self._run).atexit = False

    def __call__(self, values: np.ndarray) -> list[np.ndarray]:
        """Run the network on an image `(height, width, 3)`, or numbers of another shape, float32 in its input range.

        Returns its outputs, flattened, because the two backends shape them differently.
        """
        outputs = self._run(values)
        return sorted(outputs, key=len) if self._sorts else outputs


def _read_member(path: Path, member: str) -> bytes:
    with zipfile.ZipFile(path) as bundle:
        return bundle.read(member)


def _opencv(network: Path | bytes, outputs: tuple[str, ...]) -> Run:
    source = str(network) if isinstance(network, Path) else np.frombuffer(network, np.uint8)
    net = cv2.dnn.readNetFromTFLite(source)
    names = outputs or net.getUnconnectedOutLayersNames()

    def run(values: np.ndarray) -> list[np.ndarray]:
        # OpenCV takes images with the channels first, and other arrays as they are
        net.setInput(values.transpose(2, 0, 1)[None] if values.ndim == 3 else values[None])
        return [np.asarray(output).ravel() for output in net.forward(names)]

    return run


def _litert(network: Path | bytes, outputs: tuple[str, ...], threads: int) -> Run:
    from ai_edge_litert.interpreter import Interpreter

    source = {"model_path": str(network)} if isinstance(network, Path) else {"model_content": network}
    with _without_banner():
        net = Interpreter(**source, num_threads=threads)
        net.allocate_tensors()
    input_index = net.get_input_details()[0]["index"]
    index_of = {detail["name"]: detail["index"] for detail in net.get_output_details()}
    output_indices = [index_of[name] for name in outputs or index_of]

    def run(values: np.ndarray) -> list[np.ndarray]:
        net.set_tensor(input_index, values[None])
        net.invoke()
        return [net.get_tensor(index).ravel() for index in output_indices]

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
