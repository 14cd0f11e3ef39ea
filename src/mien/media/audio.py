"""Sound as 16 kHz mono, streamed, and where in it somebody speaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mien.media.probe import probe
from mien.media.samples import Piece, pieces, resampled
from mien.media.voice_activity import VoiceActivity, is_speech, speech, speech_stream

__all__ = ["SAMPLE_RATE", "VoiceActivity", "blocks", "is_speech", "load", "speech", "speech_stream"]

#: Hz of all sound in mien: what WavLM, wav2vec 2.0 and silero-vad were trained on.
SAMPLE_RATE = 16_000


def blocks(path: Path, *, seconds: float = 10.0, notes: list[str] | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """The recording's sound in consecutive blocks, flat in memory.

    Args:
        path: sound, or video with sound. Without sound (and for a still image) there are no blocks.
        seconds: length of a block; the last may be shorter.
        notes: collects what a user should know: sound that ends early, holes that were filled, damaged
            packets.

    Yields:
        (start_s, samples): samples `(n,)` float32, full scale ±1, 16 kHz, the mean of all channels. Sample k
        of a block is at start_s + k / 16000 seconds from the recording's origin, and blocks follow each
        other without a hole: holes of 50 ms and more in the timestamps are zeros, overlaps are cut.

    Raises:
        MediaError: at the call, as `probe`.
    """
    if seconds <= 0:
        raise ValueError(f"a block needs a length above 0 s, got {seconds}")
    info = probe(path, video=False)
    if not info.has_audio:
        return iter(())
    return _cut(pieces(info, notes=notes), info.audio_start_s or 0.0, max(1, round(seconds * SAMPLE_RATE)))


def load(path: Path, *, notes: list[str] | None = None) -> tuple[float, np.ndarray]:
    """The whole sound at once, for short files: (start_s, `(n,)` float32 at 16 kHz); (0.0, empty) without
    sound."""
    parts = list(blocks(path, seconds=60.0, notes=notes))
    if not parts:
        return 0.0, np.zeros(0, np.float32)
    return parts[0][0], np.concatenate([samples for _, samples in parts])


def _cut(line: Iterable[Piece], start_s: float, length: int) -> Iterator[tuple[float, np.ndarray]]:
    done, held, waiting = 0, 0, []
    for samples in resampled(line, SAMPLE_RATE):
        waiting.append(samples[:, 0])
        held += len(samples)
        while held >= length:
            whole = np.concatenate(waiting)
            yield start_s + done / SAMPLE_RATE, whole[:length].copy()
            waiting, done, held = [whole[length:]], done + length, held - length
    if held:
        yield start_s + done / SAMPLE_RATE, np.concatenate(waiting)
