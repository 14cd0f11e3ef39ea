"""Decode audio to 16 kHz mono float samples, streamed; re-exports voice activity detection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mien.media.probe import probe
from mien.media.samples import AudioChunk, read_chunks, resample, split_at_holes
from mien.media.sound_runs import runs
from mien.media.voice_activity import VoiceActivity, is_speech, speech_probability, speech_stream

__all__ = [
    "SAMPLE_RATE",
    "VoiceActivity",
    "blocks",
    "blocks_of_chunks",
    "is_speech",
    "load",
    "runs",
    "speech_probability",
    "speech_stream",
]

#: Hz of all audio in mien: the training rate of WavLM, wav2vec 2.0 and silero-vad.
SAMPLE_RATE = 16_000


def blocks(
    path: Path,
    *,
    seconds: float = 10.0,
    track: int | None = None,
    channel: int | None = None,
    notes: list[str] | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """Decode the recording's audio in consecutive blocks, in constant memory.

    Args:
        path: audio file, or video with audio. A file without audio (or a still image) yields no blocks.
        seconds: length of a block; the last one, and one before a hole, may be shorter.
        track: number of the sound track, from 1; None: the one that `probe` chooses.
        channel: number of the only channel to read, from 0; None: the mean of all, or the loudest where they cancel.
        notes: collects warnings for the user: audio that ends early, filled gaps, damaged packets.

    Yields:
        (start_s, samples): samples `(n,)` float32 in [-1, 1], 16 kHz, one channel. Sample k of a block is
        at start_s + k / 16000 seconds from the recording's origin. Gaps of 50 ms and more in the timestamps become
        zeros, overlaps are cut. Blocks are contiguous but for holes: after a gap of more than `limits.HOLE_S`, the next
        block starts so much later (`runs` splits there).

    Raises:
        MediaError: at the call, as `probe`; during iteration, if a file without pictures has no samples.
        ValueError: `seconds` is not positive.
    """
    if seconds <= 0:
        raise ValueError(f"a block needs a length above 0 s, got {seconds}")
    info = probe(path, video=False, audio_track=track)
    if not info.has_audio:
        return iter(())
    return blocks_of_chunks(
        read_chunks(info, channel=channel, notes=notes), info.audio_start_s or 0.0, max(1, round(seconds * SAMPLE_RATE))
    )


def load(path: Path, *, notes: list[str] | None = None) -> tuple[float, np.ndarray]:
    """Decode the whole audio at once, for short files.

    Returns (start_s, samples): `(n,)` float32 at 16 kHz as from `blocks`, up to the first hole; (0.0, empty) without
    audio. Raises MediaError, as `blocks`.
    """
    parts = list(next(runs(blocks(path, seconds=60.0, notes=notes)), ()))
    if not parts:
        return 0.0, np.zeros(0, np.float32)
    return parts[0][0], np.concatenate([samples for _, samples in parts])


def blocks_of_chunks(chunks: Iterable[AudioChunk], start_s: float, length: int) -> Iterator[tuple[float, np.ndarray]]:
    """Blocks `(start in seconds, samples)` of `length` samples at 16 kHz, from chunks of any length and rate."""
    for hole_s, run in split_at_holes(chunks):
        start_s += hole_s
        emitted, buffered = 0, 0
        buffer: list[np.ndarray] = []
        for samples in resample(run, SAMPLE_RATE):
            buffer.append(samples[:, 0])
            buffered += len(samples)
            while buffered >= length:
                joined = np.concatenate(buffer)
                yield start_s + emitted / SAMPLE_RATE, joined[:length].copy()
                buffer, emitted, buffered = [joined[length:]], emitted + length, buffered - length
        if buffered:
            yield start_s + emitted / SAMPLE_RATE, np.concatenate(buffer)
        start_s += (emitted + buffered) / SAMPLE_RATE
