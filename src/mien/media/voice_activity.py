"""Voice activity detection with silero-vad (Silero Team, MIT): one speech probability every 32 ms.

The network is the ONNX file in silero-vad's wheel, which `mien.hub` takes from there: the package itself requires
torch. The "sequence" export takes many steps in one call: the same numbers as step by step (tested) in a third of the
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from mien import hub
from mien.media.sound_runs import runs
from mien.onnx_session import open_session
from mien.records import Stream

#: Samples of one step at 16 kHz (32 ms), and samples before it that are also input to the network.
STEP, CONTEXT = 512, 64
STEP_S = STEP / 16_000
#: Steps in one call of the network: 8 s of audio, which keeps its working memory under 10 MB.
_STEPS = 256
#: Name of the network in `mien.hub`, and the release that it comes from, as provenance states it.
NETWORK = "silero-vad"
RELEASE = hub.ARTEFACTS[NETWORK].wheel.replace("==", " ")


class VoiceActivity:
    """Streaming speech probability of one recording.

    Call it with consecutive `(n,)` float32 samples at 16 kHz, n any number. It returns the probability in [0, 1] of
    every step that is now complete, `(steps,)` float32. Step i covers samples [512·i, 512·(i+1)). `finish` pads the
    last, incomplete step with zeros, as silero-vad does.

    Raises:
        ArtefactError: the network is missing and cannot be downloaded.
    """

    def __init__(self) -> None:
        self._session = _session()
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(CONTEXT, np.float32)
        self._rest = np.zeros(0, np.float32)

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Speech probability of each complete step in the next `(n,)` float32 samples at 16 kHz."""
        samples = np.concatenate([self._rest, samples.astype(np.float32, copy=False)])
        complete = len(samples) // STEP * STEP
        self._rest = samples[complete:]
        size = _STEPS * STEP
        parts = [self._run(samples[i : min(i + size, complete)]) for i in range(0, complete, size)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def finish(self) -> np.ndarray:
        """The probability of the last, incomplete step: `(0,)` or `(1,)`."""
        if not len(self._rest):
            return np.zeros(0, np.float32)
        return self(np.zeros(STEP - len(self._rest), np.float32))

    def _run(self, samples: np.ndarray) -> np.ndarray:
        extended = np.concatenate([self._context, samples])
        steps = np.lib.stride_tricks.sliding_window_view(extended, CONTEXT + STEP)[::STEP]
        self._context = extended[-CONTEXT:]
        probability: np.ndarray
        probability, self._h, self._c = self._session.run(
            ["speech_probs", "hn", "cn"], {"input": np.ascontiguousarray(steps), "h": self._h, "c": self._c}
        )
        return probability.reshape(-1)


@lru_cache(maxsize=1)
def _session() -> Any:
    return open_session(hub.fetch(NETWORK), threads=1, keep_memory=False)


def speech_probability(blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Speech probability, streamed: the steps that each block completes.

    Args:
        blocks: consecutive (start_s, `(n,)` float32 at 16 kHz), as from `mien.media.audio.blocks`; the network starts
            anew after a hole.

    Yields:
        (times, probability): `(steps,)` float64, centres of the steps in seconds, and `(steps,)` float32 in [0, 1].
    """
    for run in runs(blocks):
        yield from _speech_in_run(run)


def _speech_in_run(blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    network, start_s, count = VoiceActivity(), 0.0, 0

    def with_times(probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal count
        times = start_s + (np.arange(count, count + len(probability)) + 0.5) * STEP_S
        count += len(probability)
        return times, probability

    for number, (block_s, samples) in enumerate(blocks):
        if number == 0:
            start_s = block_s
        yield with_times(network(samples))
    last = network.finish()
    if len(last):
        yield with_times(last)


def speech_stream(blocks: Iterable[tuple[float, np.ndarray]]) -> Stream:
    """`speech_probability` as one `Stream`: values `(steps, 1)` in [0, 1], times of the steps' centres, valid where
    `is_speech`."""
    parts = list(speech_probability(blocks))
    times = np.concatenate([t for t, _ in parts]) if parts else np.zeros(0)
    probability = np.concatenate([p for _, p in parts]) if parts else np.zeros(0, np.float32)
    made_by = {"encoder": NETWORK, "version": RELEASE.split()[1], "file": hub.ARTEFACTS[NETWORK].file}
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
    """Speech decision per step: `(steps,)` float in [0, 1] -> `(steps,)` bool.

    Hysteresis with the defaults of silero-vad's `get_speech_timestamps`: speech begins at a step of at least `on` and
    lasts until a step below `off`. Pauses shorter than `min_silence_s` seconds join the speech around them; then speech
    shorter than `min_speech_s` seconds is dropped. No padding. Our choice, because the grid of 32 ms is coarse enough.
    """
    speaking = _hysteresis(np.asarray(probability), on, off)
    speaking = _flip_short_runs(speaking, False, min_silence_s / step_s, keep_ends=True)
    return _flip_short_runs(speaking, True, min_speech_s / step_s, keep_ends=False)


def _hysteresis(probability: np.ndarray, on: float, off: float) -> np.ndarray:
    decided = np.where(probability >= on, 1, np.where(probability < off, 0, -1))
    # Between the thresholds a step repeats the last decided one; before any, it is silence.
    index = np.maximum.accumulate(np.where(decided >= 0, np.arange(len(decided)), -1))
    return (index >= 0) & (decided[index] == 1) if len(decided) else np.zeros(0, bool)


def _flip_short_runs(speaking: np.ndarray, value: bool, length: float, *, keep_ends: bool) -> np.ndarray:
    """Invert runs of `value` shorter than `length` steps; keep_ends: except the first and last run."""
    out = speaking.copy()
    edges = np.flatnonzero(np.diff(speaking)) + 1
    bounds = np.concatenate([[0], edges, [len(speaking)]])
    for start, stop in pairwise(bounds.tolist()):
        at_end = start == 0 or stop == len(speaking)
        if stop > start and speaking[start] == value and stop - start < length and not (keep_ends and at_end):
            out[start:stop] = not value
    return out
