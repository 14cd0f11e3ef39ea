"""Encoders for the tracks of an MP4: video as H.264, audio as AAC."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.stream import Stream
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from mien.media.container import add_note
from mien.media.probe import probe
from mien.media.samples import AudioChunk, read_chunks, resample

#: Ticks a second of arbitrary timestamps and of edit lists: MPEG's 90 kHz, so times are off by at most 5.6 µs.
TICKS = 90_000
#: Sample rates that AAC supports. Others are resampled to 48 kHz.
_AAC_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000})
#: Frames between key frames: viewers of a report seek in the video, and each seek decodes from the last key frame.
_KEY_FRAME_INTERVAL = 50
#: Samples of an array that are encoded at once.
_CHUNK_SAMPLES = 16_000


class VideoTrack:
    """Encoder for the H.264 track.

    Args:
        output: the open MP4. image: the first frame, `(height, width, 3)` uint8 RGB; all frames have its shape.
        base: seconds of one tick of the frame times. options: of x264.
    """

    def __init__(self, output: OutputContainer, image: np.ndarray, base: Fraction, options: dict[str, str]) -> None:
        height, width = image.shape[:2]
        self._base, self._shape, self._last_tick = base, image.shape, -1
        self.width, self.height = width + width % 2, height + height % 2
        self.padded = (width, height) != (self.width, self.height)
        rate = 30 if base == Fraction(1, TICKS) else 1 / base
        self.stream = output.add_stream("libx264", rate=rate, options={**options, "g": str(_KEY_FRAME_INTERVAL)})
        self.stream.width, self.stream.height, self.stream.pix_fmt = self.width, self.height, "yuv420p"
        context = self.stream.codec_context
        context.time_base = base
        context.thread_count = min(4, os.cpu_count() or 1)
        # Untagged, browsers assume BT.601 for small frames and BT.709 for large ones; tagged, all agree.
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._reformatter = VideoReformatter()

    def encode(self, time: float | Fraction, image: np.ndarray) -> list[av.Packet[Stream]]:
        """Packets after one more frame at `time` seconds.

        Raises:
            ValueError: the shape differs from the first frame's, or the time is not later than the last one.
        """
        if image.shape != self._shape:
            raise ValueError(f"frames of one video need one shape: first {self._shape}, now {image.shape}")
        base = self._base if isinstance(time, Fraction) else float(self._base)
        tick = round(time / base)
        if tick <= self._last_tick:
            raise ValueError(f"times must increase by at least {float(self._base):.2g} s; {float(time):.6f} s does not")
        self._last_tick = tick
        if self.padded:
            height, width = image.shape[:2]
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = self._reformatter.reformat(
            av.VideoFrame.from_numpy_buffer(np.ascontiguousarray(image), format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        frame.pts, frame.time_base = tick, self._base
        return self.stream.encode(frame)


class AudioTrack:
    """Encoder for the AAC track from a media file or an array, step by step in time. False without audio.

    Args:
        audio: media file; or `(n,)` float samples at 16 kHz that begin at `start_s` seconds; or None.
        notes: collects warnings for the user.
        track: number of the media file's sound track, from 1; None: the one that `probe` chooses.
    """

    def __init__(
        self, audio: Path | np.ndarray | None, start_s: float, notes: list[str] | None, track: int | None = None
    ) -> None:
        chunks: Iterator[AudioChunk] = iter(())
        if isinstance(audio, np.ndarray):
            chunks = _chunks_from_array(audio)
        elif audio is not None:
            info = probe(audio, video=False, audio_track=track)
            if info.has_audio:
                start_s, chunks = info.audio_start_s or 0.0, read_chunks(info, channels=2, notes=notes)
        first = next(chunks, None)
        self._chunks = self._until_hole(chain([first] if first is not None else [], chunks), notes)
        self._first, self._start_s, self._count = first, start_s, 0
        self._resampled: Iterator[np.ndarray] = iter(())

    def __bool__(self) -> bool:
        return self._first is not None

    def _until_hole(self, chunks: Iterable[AudioChunk], notes: list[str] | None) -> Iterator[AudioChunk]:
        """The chunks before the first hole: hours of silence are not encoded."""
        for chunk in chunks:
            if chunk.hole_s:
                at_s = self._start_s + self._count / self.rate
                add_note(
                    notes, f"the copy of the sound ends at {at_s:.0f} s, where it has a hole of {chunk.hole_s:.0f} s."
                )
                return
            yield chunk

    def open(self, output: OutputContainer) -> None:
        """Add the track to the open MP4; nothing without audio."""
        if self._first is None:
            return
        channels = self._first.samples.shape[1]
        self.rate = self._first.rate if self._first.rate in _AAC_RATES else 48_000
        self._layout = "mono" if channels == 1 else "stereo"
        self.stream = output.add_stream("aac", rate=self.rate, layout=self._layout)
        self.stream.bit_rate = channels * (96_000 if self.rate >= 32_000 else 3 * self.rate)
        self._resampled = resample(self._chunks, self.rate)

    def packets_until(self, time_s: float) -> Iterator[list[av.Packet[Stream]]]:
        """Packets of the audio up to a time; with infinity, up to the end, and the encoder is flushed."""
        if self._first is None:
            return
        while self._start_s + self._count / self.rate < time_s:
            samples = next(self._resampled, None)
            if samples is None:
                if time_s == float("inf"):
                    yield self.stream.encode(None)
                    self._first = None
                return
            if len(samples):
                yield self.stream.encode(self._frame(samples))

    def _frame(self, samples: np.ndarray) -> av.AudioFrame:
        planes = np.ascontiguousarray(samples.T, dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=self._layout)
        frame.sample_rate, frame.time_base = self.rate, Fraction(1, self.rate)
        frame.pts = round(self._start_s * self.rate) + self._count
        self._count += len(samples)
        return frame


def _chunks_from_array(samples: np.ndarray) -> Iterator[AudioChunk]:
    for start in range(0, len(samples), _CHUNK_SAMPLES):
        yield AudioChunk(16_000, samples[start : start + _CHUNK_SAMPLES, None].astype(np.float32))
