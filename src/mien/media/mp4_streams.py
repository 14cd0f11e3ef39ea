"""The two tracks of an MP4 that mien writes: pictures into H.264, sound into AAC."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from mien.media.probe import probe
from mien.media.samples import Piece, pieces, resampled

#: Ticks a second of free timestamps and of edit lists: MPEG's 90 kHz, so a time is at most 5.6 µs off.
TICKS = 90_000
#: Sample rates AAC knows. Others are resampled to 48 kHz.
_AAC_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000})
#: Frames between key frames: a report jumps about in the video, and each jump decodes from the last key
#: frame.
_KEY_FRAMES = 50
_PIECE = 16_000


class PictureTrack:
    """The H.264 track."""

    def __init__(self, output: OutputContainer, image: np.ndarray, base: Fraction, options: dict[str, str]) -> None:
        height, width = image.shape[:2]
        self.base, self.shape, self.last = base, image.shape, -1
        self.width, self.height = width + width % 2, height + height % 2
        self.padded = (width, height) != (self.width, self.height)
        rate = 30 if base == Fraction(1, TICKS) else 1 / base
        self.stream = output.add_stream("libx264", rate=rate, options={**options, "g": str(_KEY_FRAMES)})
        self.stream.width, self.stream.height, self.stream.pix_fmt = self.width, self.height, "yuv420p"
        context = self.stream.codec_context
        context.time_base = base
        context.thread_count = min(4, os.cpu_count() or 1)
        # Untagged, browsers take small pictures for BT.601 and large ones for BT.709; tagged, all agree.
        context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
        context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        self._reformatter = VideoReformatter()

    def encode(self, time: float | Fraction, image: np.ndarray) -> list[av.Packet]:
        if image.shape != self.shape:
            raise ValueError(f"frames of one video need one shape: first {self.shape}, now {image.shape}")
        tick = round(time / self.base) if isinstance(time, Fraction) else round(time / float(self.base))
        if tick <= self.last:
            least = f"{float(self.base):.2g} s"
            raise ValueError(f"times must increase by at least {least}; {float(time):.6f} s does not")
        self.last = tick
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
        frame.pts, frame.time_base = tick, self.base
        return self.stream.encode(frame)


class SoundTrack:
    """The AAC track, fed from a file or an array as time goes on. False when there is nothing to hear."""

    def __init__(self, audio: Path | np.ndarray | None, start_s: float, notes: list[str] | None) -> None:
        line: Iterator[Piece] = iter(())
        if isinstance(audio, np.ndarray):
            line = _from_array(audio)
        elif audio is not None:
            info = probe(audio, video=False)
            if info.has_audio:
                start_s, line = info.audio_start_s or 0.0, pieces(info, channels=2, notes=notes)
        first = next(line, None)
        self._line = chain([first] if first is not None else [], line)
        self._first, self._start_s, self._count = first, start_s, 0
        self._parts: Iterator[np.ndarray] = iter(())

    def __bool__(self) -> bool:
        return self._first is not None

    def open(self, output: OutputContainer) -> None:
        if self._first is None:
            return
        channels = self._first.samples.shape[1]
        self.rate = self._first.rate if self._first.rate in _AAC_RATES else 48_000
        self._layout = "mono" if channels == 1 else "stereo"
        self.stream = output.add_stream("aac", rate=self.rate, layout=self._layout)
        self.stream.bit_rate = channels * (96_000 if self.rate >= 32_000 else 3 * self.rate)
        self._parts = resampled(self._line, self.rate)

    def until(self, time_s: float) -> Iterator[list[av.Packet]]:
        """Packets of the sound up to a time; with infinity, to the end and out of the encoder."""
        if self._first is None:
            return
        while self._start_s + self._count / self.rate < time_s:
            samples = next(self._parts, None)
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


def _from_array(samples: np.ndarray) -> Iterator[Piece]:
    for start in range(0, len(samples), _PIECE):
        yield Piece(16_000, samples[start : start + _PIECE, None].astype(np.float32))
