"""One stream of vectors from a recording's sound, valid where someone speaks: shared by the speech encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np

from mien.media.audio import SAMPLE_RATE
from mien.media.voice_activity import STEP, VoiceActivity, is_speech
from mien.memory import GrowingArray
from mien.records import Stream


class Extractor(Protocol):
    """Vectors of a recording, computed while its samples come."""

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Vectors that `samples` complete: `(n,)` float32 at 16 kHz -> `(vectors, dim)`."""

    def finish(self) -> np.ndarray:
        """The remaining vectors, `(vectors, dim)`."""


def encode_speech(
    blocks: Iterable[tuple[float, np.ndarray]],
    extractor: Extractor,
    dim: int,
    centres: Callable[[int], np.ndarray],
    provenance: Mapping[str, str],
) -> Iterator[Stream]:
    """Encode one recording; no audio gives no stream.

    A vector is valid where someone speaks at its centre (silero-vad); invalid vectors are zero. For a centre behind the
    audio's end the last step decides.

    Args:
        blocks: `(start in seconds, samples)`, consecutive. centres: number of vectors -> centres in seconds from the
            start of the audio.
    """
    activity, start_s = VoiceActivity(), 0.0
    values, speech = GrowingArray(dim), GrowingArray(0, np.float32)
    for number, (block_s, samples) in enumerate(blocks):
        start_s = start_s if number else block_s
        values.extend(extractor(samples))
        speech.extend(activity(samples))
    values.extend(extractor.finish())
    speech.extend(activity.finish())
    vectors = values.array()
    if not len(vectors):
        return
    times, speaking = centres(len(vectors)), is_speech(speech.array())
    valid = speaking[np.minimum((times * SAMPLE_RATE).astype(int) // STEP, len(speaking) - 1)]
    vectors[~valid] = 0.0
    yield Stream(vectors, start_s + times, valid, provenance)
