"""Sound at its own rate, as one unbroken line of samples.

Decoded pieces are laid out by their presentation timestamps: silence where the stream has a hole, pieces that
overlap cut to fit. Sample k of the line therefore stands at start + k / rate, which is what every reader
relies on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import soxr

from mien.media.container import audio_of, decoded, note, opened, shown
from mien.media.probe import MediaInfo
from mien.media.timestamps import BACK_S, LEAP_S

#: Holes and overlaps from this length on are repaired; below it timestamps are rounding (Matroska: 1 ms) or
#: jitter, and samples simply follow each other.
GAP_S = 0.05
_SCALE = {"u8": 1 / 128, "s16": 1 / 32768, "s32": 1 / 2147483648, "s64": 1 / 9223372036854775808}
#: Silence for a hole is handed on in pieces of at most this many samples, so that a long one needs no memory.
_PIECE = 48_000
#: Sound that ends this much before the picture, or before its header says, is worth a word. Our choice.
_SHORT_S = 0.5


@dataclass(frozen=True, slots=True)
class Piece:
    """The next samples of the line: `(n, channels)` float32, full scale ±1, at `rate` Hz."""

    rate: int
    samples: np.ndarray


@dataclass(slots=True)
class _Line:
    """Where the next sample belongs: base_s is where the present rate began, count the samples since then."""

    offset: Fraction
    base_s: Fraction
    rate: int
    count: int = 0
    holes_s: list[float] = field(default_factory=list)
    set_back: int = 0
    cutting: bool = False

    @property
    def now(self) -> Fraction:
        return self.base_s + Fraction(self.count, self.rate)

    def place(self, time: Fraction | None, length: int) -> tuple[int, int]:
        """For a piece of `length` samples at `time`: samples of silence before it, samples to cut off its
        start."""
        if time is None:
            return 0, 0
        ahead = time + self.offset - self.now
        if abs(ahead) < GAP_S and not (self.cutting and ahead < 0):
            self.cutting = False
            return 0, 0
        if ahead > LEAP_S or ahead < -BACK_S:
            # A clock that was set: what follows belongs right here.
            self.set_back += 1
            self.offset -= ahead
            return 0, 0
        if not self.cutting:
            self.holes_s.append(float(self.now))
        samples = round(ahead * self.rate)
        cut = min(max(-samples, 0), length)
        # An overlap may be longer than a piece. Until it is used up all of it goes, the last 50 ms too.
        self.cutting = cut == length
        return max(samples, 0), cut


def pieces(info: MediaInfo, *, channels: int = 1, notes: list[str] | None = None) -> Iterator[Piece]:
    """The recording's sound from `info.audio_start_s` on, at the rate it was recorded with (which may
    change).

    channels: 1 mixes to the mean of all channels but the subwoofer's; 2 keeps mono and folds more to left
    and right. Every piece has the channels of the first.
    """
    faults: list[str] = []
    line: _Line | None = None
    broken = 0
    with opened(info.path) as container:
        stream = audio_of(container)
        assert stream is not None, "probe has seen it"
        for frame in decoded(container, stream, faults.append):
            if line is None:
                channels = min(channels, frame.layout.nb_channels)
            rate, samples = frame.sample_rate, _mixed(frame, channels)
            if not np.isfinite(samples).all():
                broken += int((~np.isfinite(samples)).sum())
                samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
            time = None if frame.pts is None else frame.pts * frame.time_base - info.origin
            if line is None:
                start = Fraction(info.audio_start_s or 0) if time is None else time
                line = _Line(Fraction(0), start, rate)
            elif rate != line.rate:
                line.base_s, line.count, line.rate = line.now, 0, rate
            silence, cut = line.place(time, len(samples))
            line.count += silence + len(samples) - cut
            while silence > 0:
                yield Piece(rate, np.zeros((min(silence, _PIECE), samples.shape[1]), np.float32))
                silence -= _PIECE
            if cut < len(samples):
                yield Piece(rate, samples[cut:])
    _tell(info, line, faults, broken, notes)


def resampled(line: Iterable[Piece], rate: int) -> Iterator[np.ndarray]:
    """The line's samples `(n, channels)` at one rate, whatever rates its pieces have.

    soxr HQ: 20 bits, linear phase, its own delay already taken out, so an impulse at t comes out at t
    (measured: 1e-6 of full scale from the ideal), and ten times as fast as FFmpeg's resampler.
    """
    source, held = 0, 0
    waiting: list[np.ndarray] = []
    resampler: soxr.ResampleStream | None = None

    def convert(*, last: bool) -> np.ndarray:
        samples = np.concatenate(waiting) if waiting else np.zeros((0, channels), np.float32)
        if source == rate or resampler is None:
            return samples
        # soxr takes one channel as a plain row of samples, several as (n, channels).
        flat = np.ascontiguousarray(samples[:, 0] if channels == 1 else samples)
        return resampler.resample_chunk(flat, last=last).reshape(-1, channels)

    channels = 1
    for piece in line:
        if piece.rate != source:
            if source:
                yield convert(last=True)
            source, held, waiting, channels = piece.rate, 0, [], piece.samples.shape[1]
            resampler = soxr.ResampleStream(source, rate, channels, dtype="float32", quality="HQ")
        waiting.append(piece.samples)
        held += len(piece.samples)
        if held >= source:  # a second at a time: soxr is twice as fast as with one packet at a time
            yield convert(last=False)
            held, waiting = 0, []
    if source:
        yield convert(last=True)


def _tell(info: MediaInfo, line: _Line | None, faults: list[str], broken: int, notes: list[str] | None) -> None:
    name = shown(info.path)
    if line is None:
        note(notes, f"{name}: its sound does not decode" + (f" ({faults[0]})." if faults else "."))
        return
    stop_s, promised = float(line.now), info.audio_stop_s
    if promised is not None and stop_s < promised - _SHORT_S:
        note(
            notes,
            f"{name}: the sound ends at {stop_s:.2f} s although the header promises {promised:.2f} s: "
            "the file is cut or damaged. What decodes is used.",
        )
    elif info.video_stop_s is not None and stop_s < info.video_stop_s - _SHORT_S:
        note(
            notes,
            f"{name}: the sound ends at {stop_s:.2f} s and the picture goes on to {info.video_stop_s:.2f} s; "
            "from there on only the face can be read.",
        )
    if faults:
        note(notes, f"{name}: {len(faults)} damaged places in the sound were passed over ({faults[0]}).")
    if line.holes_s:
        note(
            notes,
            f"{name}: the sound's timestamps leave holes or overlap {len(line.holes_s)} times (first at "
            f"{line.holes_s[0]:.2f} s); holes are silence now, overlaps are cut.",
        )
    if line.set_back:
        note(notes, f"{name}: the sound's clock jumps {line.set_back} times; its pieces were joined.")
    if broken:
        note(notes, f"{name}: {broken} samples are not numbers; they are silence now.")


def _mixed(frame: av.AudioFrame, channels: int) -> np.ndarray:
    """`(n, channels)` float32."""
    samples = frame.to_ndarray()
    count = frame.layout.nb_channels
    if not frame.format.is_planar:
        samples = samples.reshape(-1, count).T
    mixing = _mixing(frame.layout.name, count, channels)
    kind = frame.format.name.rstrip("p")
    if kind == "u8":
        samples = samples.astype(np.float32) - 128
    return (mixing * np.float32(_SCALE.get(kind, 1.0)) @ samples.astype(np.float32, copy=False)).T


@lru_cache(maxsize=32)
def _mixing(layout: str, count: int, channels: int) -> np.ndarray:
    """`(out, count)` weights, each row summing to 1, so that nothing can clip."""
    names = [c.name for c in av.AudioLayout(layout).channels] if layout else []
    names = names if len(names) == count else ["?"] * count
    if count == 1 or count == channels:
        return np.ones((channels, 1), np.float32) if count == 1 else np.eye(count, dtype=np.float32)
    weights = np.array([[name[:3] != "LFE" for name in names]] * channels, np.float32)
    if channels == 2:
        weights[0] *= [not name.endswith("R") for name in names]
        weights[1] *= [not name.endswith("L") for name in names]
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total > 0, weights / np.maximum(total, 1), 1 / count).astype(np.float32)
