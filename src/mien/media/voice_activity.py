"""Where somebody speaks: silero-vad (Silero Team, MIT), one probability each 32 ms.

The network is the ONNX file in silero-vad's wheel. Its Python side is not imported, because that imports
torch. The "sequence" export takes many steps in one call: the same numbers as stepping (tested) in a third of
the time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnxruntime

from mien.errors import ArtefactError
from mien.records import Stream

#: Samples of one step at 16 kHz (32 ms), and of the step before it that the network also sees.
STEP, CONTEXT = 512, 64
STEP_S = STEP / 16_000
#: Steps a call hands to the network at once: 8 s, which keeps what it holds meanwhile under 10 MB.
_STEPS = 256
_FILE = "silero_vad_16k_sequence.onnx"


class VoiceActivity:
    """Streaming speech probability. Feed it consecutive samples of one recording; it keeps what it needs
    between.

    Call it with `(n,)` float32 samples at 16 kHz, n any number: it returns the probability in [0, 1] of
    every step that is now complete, `(steps,)` float32. Step i covers samples [512·i, 512·(i+1)). `finish`
    fills the last, begun step with zeros, as silero-vad itself does.

    Raises:
        ArtefactError: the network's file is not in the installed silero-vad.
    """

    def __init__(self) -> None:
        self._session = _session()
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        samples = np.concatenate([self._rest, samples.astype(np.float32, copy=False)])
        whole = len(samples) // STEP * STEP
        self._rest = samples[whole:]
        many = _STEPS * STEP
        parts = [self._run(samples[i : min(i + many, whole)]) for i in range(0, whole, many)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def finish(self) -> np.ndarray:
        """The probability of the last, begun step: `(0,)` or `(1,)`."""
        if not len(self._rest):
            return np.zeros(0, np.float32)
        return self(np.zeros(STEP - len(self._rest), np.float32))

    def _run(self, samples: np.ndarray) -> np.ndarray:
        line = np.concatenate([self._context, samples])
        steps = np.lib.stride_tricks.sliding_window_view(line, CONTEXT + STEP)[::STEP]
        self._context = line[-CONTEXT:]
        probability, self._h, self._c = self._session.run(
            ["speech_probs", "hn", "cn"], {"input": np.ascontiguousarray(steps), "h": self._h, "c": self._c}
        )
        return probability.reshape(-1)


@lru_cache(maxsize=1)
def _session() -> onnxruntime.InferenceSession:
    spec = find_spec("silero_vad")  # finds the package without running it
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    if folder is None or not (folder / "data" / _FILE).is_file():
        version = metadata.version("silero-vad") if spec else "none"
        raise ArtefactError(
            f"silero-vad's network {_FILE} is not there (installed: {version}, needed: 6.2.2 or later).",
            follows="Without it nobody knows where in the sound somebody speaks.",
            remedy="pip install 'silero-vad>=6.2.2,<7'",
        )
    options = onnxruntime.SessionOptions()
    options.inter_op_num_threads = options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # it grows by doubling, and would be kept
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(folder / "data" / _FILE), options, providers=["CPUExecutionProvider"])


def speech(blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Speech probability, streamed: for each block the steps it completes.

    Args:
        blocks: consecutive (start_s, `(n,)` float32 16 kHz), as from `mien.media.audio.blocks`.

    Yields:
        (times, probability): `(steps,)` float64 seconds of the steps' centres, and `(steps,)` float32 in [0,
        1].
    """
    network, start_s, done = VoiceActivity(), 0.0, 0

    def timed(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal done
        times = start_s + (np.arange(done, done + len(probability)) + 0.5) * STEP_S
        done += len(probability)
        return times, probability

    for number, (block_s, samples) in enumerate(blocks):
        if number == 0:
            start_s = block_s
        yield timed(network(samples))
    last = network.finish()
    if len(last):
        yield timed(last)


def speech_stream(blocks: Iterable[tuple[float, np.ndarray]]) -> Stream:
    """The same as one `Stream`: values `(steps, 1)` the probability, times the centres, valid where
    `is_speech`."""
    parts = list(speech(blocks))
    times = np.concatenate([t for t, _ in parts]) if parts else np.zeros(0)
    probability = np.concatenate([p for _, p in parts]) if parts else np.zeros(0, np.float32)
    made_by = {"encoder": "silero-vad", "version": metadata.version("silero-vad"), "file": _FILE}
    return Stream(probability[:, None], times, is_speech(probability), made_by)


def is_speech(
    probability: np.ndarray,
    *,
    on: float = 0.5,
    off: float = 0.35,
    min_speech_s: float = 0.25,
    min_silence_s: float = 0.1,
    step_s: float = STEP_S,
) -> np.ndarray:
    """Per step: does somebody speak there. `(steps,)` float in [0, 1] -> `(steps,)` bool.

    Hysteresis as silero-vad's own `get_speech_timestamps` has it by default: speech begins at a step of at
    least `on` and lasts until a step below `off`; pauses shorter than `min_silence_s` belong to the speech
    around them, and what is then shorter than `min_speech_s` is dropped. No padding: the time grid of 32 ms
    is coarse enough. Our choice.
    """
    speaking = _hysteresis(np.asarray(probability), on, off)
    speaking = _without_short(speaking, False, min_silence_s / step_s, keep_ends=True)
    return _without_short(speaking, True, min_speech_s / step_s, keep_ends=False)


def _hysteresis(probability: np.ndarray, on: float, off: float) -> np.ndarray:
    decided = np.where(probability >= on, 1, np.where(probability < off, 0, -1))
    # Between the thresholds a step is what the last decided one was; before any, silence.
    index = np.maximum.accumulate(np.where(decided >= 0, np.arange(len(decided)), -1))
    return (index >= 0) & (decided[index] == 1) if len(decided) else np.zeros(0, bool)


def _without_short(speaking: np.ndarray, kind: bool, length: float, *, keep_ends: bool) -> np.ndarray:
    """Runs of `kind` shorter than `length` steps become the other; with keep_ends not those at either end."""
    out = speaking.copy()
    edges = np.flatnonzero(np.diff(speaking)) + 1
    bounds = np.concatenate([[0], edges, [len(speaking)]])
    for start, stop in pairwise(bounds.tolist()):
        at_end = start == 0 or stop == len(speaking)
        if stop > start and speaking[start] == kind and stop - start < length and not (keep_ends and at_end):
            out[start:stop] = not kind
    return out
