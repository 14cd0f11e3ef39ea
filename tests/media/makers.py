"""Generators of small test media files. They use no code of mien, so that tests are independent of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICKS = Fraction(1, 90_000)
BITS = 10
Pieces = Sequence[tuple[float, np.ndarray]]


def stamp(index: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A `(height, width, 3)` image that encodes `index` as ten upright bars, white for 1. size: (width, height)."""
    width, height = size
    bars = [255 * (index >> bit & 1) for bit in range(BITS)]
    row = np.array(bars, np.uint8)[np.arange(width) * BITS // width]
    return np.repeat(np.tile(row, (height, 1))[:, :, None], 3, axis=2)


def read_stamp(image: np.ndarray) -> int:
    """The index encoded in an image by `stamp`, at any size."""
    height, width = image.shape[:2]
    centres = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    return sum(int(image[height // 4 : 3 * height // 4, x].mean() > 127) << bit for bit, x in enumerate(centres))


def tone(seconds: float, hz: float = 440.0, rate: int = 44_100, level: float = 0.3) -> np.ndarray:
    """`(n,)` float32 sine."""
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def clicks(at_s: Iterable[float], seconds: float, rate: int = 44_100, width_s: float = 0.002) -> np.ndarray:
    """`(n,)` float32 silence with a Gaussian pulse of height .8 centred at each time."""
    t = np.arange(round(seconds * rate)) / rate
    return sum(0.8 * np.exp(-(((t - at) / width_s) ** 2)) for at in at_s).astype(np.float32)


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """Restore the scheduling of this thread. SVT-AV1 makes the calling thread real-time (SCHED_FIFO 99) where it runs
    as root: the rest of the test run would leave almost no processor time to other processes."""
    if not hasattr(os, "sched_getscheduler"):  # only Linux has it
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def make_video(
    path: Path,
    *,
    times: Sequence[float] | None = None,
    count: int = 30,
    rate: Fraction | int = 30,
    start_s: float = 0.0,
    size: tuple[int, int] = (64, 48),
    picture: Callable[[int], np.ndarray] | None = None,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rotation: int = 0,
    hflip: bool = False,
    vflip: bool = False,
    tags: dict[str, int] | None = None,
    planes: Callable[[int], av.VideoFrame] | None = None,
    audio: np.ndarray | Pieces | None = None,
    audio_rate: int = 44_100,
    audio_start_s: float = 0.0,
    audio_codec: str = "aac",
    options: dict[str, str] | None = None,
    container: str | None = None,
) -> Path:
    """Write a video file and return its path.

    times: seconds of each frame; else `count` frames at `rate` from `start_s` on. picture: index -> `(h, w,
    3)` RGB, `stamp` unless given. rotation: counter-clockwise degrees in the display matrix, then the flips.
    tags: attributes of the codec context (colorspace, color_range, ...). planes: index -> ready
    `av.VideoFrame`, instead of picture. audio: `(n,)` or `(n, channels)` float32, or pieces (start_s,
    samples) that may leave gaps or overlap.
    """
    base = TICKS if times is not None or start_s else 1 / Fraction(rate)
    if times is None:
        ticks = [round((Fraction(start_s) + i / Fraction(rate)) / base) for i in range(count)]
    else:
        ticks = [round(Fraction(t) / base) for t in times]
    draw = picture or (lambda i: stamp(i, size))
    with kept_scheduling(), av.open(str(path), "w", format=container, options=options or {}) as output:
        speed = {"preset": "veryfast"} if codec == "libx264" else {}
        video = output.add_stream(codec, rate=rate, options=speed)
        video.width, video.height, video.pix_fmt = *size, pixel_format
        video.codec_context.time_base = base
        if rotation or hflip or vflip:
            video.set_display_rotation(rotation, hflip=hflip, vflip=vflip)
        for name, value in (tags or {}).items():
            setattr(video.codec_context, name, value)
        sound = _sound_stream(output, audio, audio_rate, audio_codec)
        for packet in _audio_packets(sound, audio, audio_rate, audio_start_s):
            output.mux(packet)
        for i, tick in enumerate(ticks):
            frame = planes(i) if planes else av.VideoFrame.from_ndarray(draw(i), format="rgb24")
            frame.pts, frame.time_base = tick, base
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    return path


def make_audio(
    path: Path,
    samples: np.ndarray | Pieces,
    *,
    rate: int = 44_100,
    codec: str = "pcm_s16le",
    sample_format: str | None = None,
    layout: str | None = None,
    start_s: float = 0.0,
    container: str | None = None,
) -> Path:
    """Write an audio file and return its path: `(n,)` or `(n, channels)` float32, or pieces (start_s, samples)."""
    with av.open(str(path), "w", format=container) as output:
        sound = _sound_stream(output, samples, rate, codec, sample_format, layout)
        for packet in _audio_packets(sound, samples, rate, start_s):
            output.mux(packet)
    return path


def _pieces(audio: np.ndarray | Pieces, start_s: float) -> list[tuple[float, np.ndarray]]:
    pieces = [(start_s, audio)] if isinstance(audio, np.ndarray) else list(audio)
    return [(t, x[:, None] if x.ndim == 1 else x) for t, x in pieces]


def _sound_stream(
    output: av.container.OutputContainer,
    audio: np.ndarray | Pieces | None,
    rate: int,
    codec: str,
    sample_format: str | None = None,
    layout: str | None = None,
) -> av.AudioStream | None:
    if audio is None:
        return None
    channels = _pieces(audio, 0.0)[0][1].shape[1]
    stream = output.add_stream(codec, rate=rate, layout=layout or {1: "mono", 2: "stereo", 6: "5.1"}[channels])
    if sample_format:
        stream.codec_context.format = sample_format
    return stream


def _audio_packets(
    stream: av.AudioStream | None,
    audio: np.ndarray | Pieces | None,
    rate: int,
    start_s: float,
) -> Iterable[av.Packet]:
    if stream is None or audio is None:
        return
    count = 0
    for at_s, samples in _pieces(audio, start_s):
        for first in range(0, len(samples), 1024):
            part = np.ascontiguousarray(samples[first : first + 1024].T, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=stream.layout.name)
            frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
            frame.pts = round(at_s * rate) + first
            for packet in stream.encode(frame):
                if not isinstance(audio, np.ndarray):
                    # Muxers need increasing decoding times, even where presentation times decrease.
                    packet.dts = count - rate
                yield packet
            count += part.shape[1]
    yield from stream.encode(None)


def blank_frames(path: Path, which: slice) -> Path:
    """Overwrite some frames of an AVI with zeros."""
    data = bytearray(path.read_bytes())
    at = data.index(b"movi")
    count = data[at : data.index(b"idx1")].count(b"00dc")
    for number in range(count):
        at = data.index(b"00dc", at + 1)
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if number in range(count)[which]:
            data[at + 8 : at + 8 + size] = bytes(size)
    path.write_bytes(data)
    return path
