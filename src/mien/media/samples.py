"""Decode audio to one contiguous sequence of samples, and resample it.

Decoded chunks are placed by their presentation timestamps: gaps become silence, overlaps are cut. Sample k of the
sequence is therefore at start + k / rate, which every reader relies on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import soxr
from av.audio.stream import AudioStream

from mien.errors import MediaError
from mien.media.container import (
    SHORT_S,
    add_cut_note,
    add_damage_note,
    add_note,
    decode_frames,
    open_container,
    presentation_time,
)
from mien.media.limits import HOLE_S, is_sample_rate, longest_sound_s, longest_span_s
from mien.media.probe import MediaInfo
from mien.media.timestamps import BACK_S, LEAP_S
from mien.printable import printable

#: Seconds from which gaps and overlaps are repaired. Shorter ones are rounding (Matroska: 1 ms) or jitter, and samples
#: follow each other without a gap.
GAP_S = 0.05
_SCALE = {"u8": 1 / 128, "s16": 1 / 32768, "s32": 1 / 2147483648, "s64": 1 / 9223372036854775808}
#: Silence for a gap is yielded in chunks of at most this many samples, so that a long gap needs no memory.
_SILENCE_SAMPLES = 48_000


#: Channels cancel where the mean of all has less than this share of the power that unrelated channels would have in it.
#: Two unrelated ones keep half; below a fifteenth of that, they are nearly opposite.
_CANCELLED = 1 / 15
#: Share of the newest frame in the powers that are compared (frames last 10 to 60 ms), and the power of silence.
_MEMORY, _SILENCE = 0.1, 1e-7


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """Consecutive audio samples: `(n, channels)` float32 in [-1, 1], at `rate` Hz.

    hole_s: seconds without sound before them, which are not stored.
    """

    rate: int
    samples: np.ndarray
    hole_s: float = 0.0


@dataclass(slots=True)
class SampleClock:
    """Time of the next sample. base_s: time at which the present rate began; count: samples since then; offset: seconds
    added to timestamps since the stream's clock was set; gaps: number of gaps and overlaps, holes: of long gaps,
    first_gap_s, first_hole_s: the time of the first; cutting: an overlap is longer than the chunks so far.
    longest_s: time from which holes are closed; longest_sound_s: seconds of sound and silence that may be given;
    given_s: so far."""

    base_s: Fraction
    rate: int
    longest_s: float = math.inf
    longest_sound_s: float = math.inf
    offset: Fraction = Fraction(0)
    count: int = 0
    given_s: float = 0.0
    gaps: int = 0
    first_gap_s: float = 0.0
    holes: int = 0
    first_hole_s: float = 0.0
    clock_jumps: int = 0
    cutting: bool = False

    @property
    def now(self) -> Fraction:
        """Time of the next sample, seconds."""
        return self.base_s + Fraction(self.count, self.rate)

    def place(self, time: Fraction | None, length: int) -> tuple[int, int]:
        """(samples of silence before a chunk of `length` samples at `time`, samples to cut off its start)."""
        if time is None:
            return 0, 0
        ahead = time + self.offset - self.now
        if abs(ahead) < GAP_S and not (self.cutting and ahead < 0):
            self.cutting = False
            return 0, 0
        if ahead > LEAP_S or ahead < -BACK_S or (ahead > HOLE_S and self.now > self.longest_s):
            # The stream's clock was set: the chunk follows without a gap.
            self.clock_jumps += 1
            self.offset -= ahead
            return 0, 0
        samples = round(ahead * self.rate)
        if not self.cutting:
            self._count(float(self.now), is_hole=self.is_hole(samples))
        cut = min(max(-samples, 0), length)
        # An overlap may be longer than a chunk. Cut until it is used up, its last 50 ms included.
        self.cutting = cut == length
        return max(samples, 0), cut

    def _count(self, time_s: float, *, is_hole: bool) -> None:
        if is_hole:
            self.first_hole_s = self.first_hole_s if self.holes else time_s
            self.holes += 1
        else:
            self.first_gap_s = self.first_gap_s if self.gaps else time_s
            self.gaps += 1

    def is_hole(self, silence: int) -> bool:
        """Whether a gap of so many samples is not stored: it is long, or the file has too little data for it."""
        seconds = silence / self.rate
        return seconds > HOLE_S or (seconds > 0 and self.given_s + seconds > self.longest_sound_s)

    def set_rate(self, rate: int) -> None:
        """Continue at another sample rate."""
        if rate != self.rate:
            self.base_s, self.count, self.rate = self.now, 0, rate


def read_chunks(
    info: MediaInfo, *, channels: int = 1, channel: int | None = None, notes: list[str] | None = None
) -> Iterator[AudioChunk]:
    """Decode the recording's audio from `info.audio_start_s` on, at its own sample rate (which may change).

    Args:
        channels: 1 averages all channels except the subwoofer's, or takes the loudest where they cancel; 2 keeps mono
            and mixes more channels to left and right. All chunks have as many channels as the first.
        channel: number of the only channel to read, from 0.
        notes: collects warnings for the user.

    A gap of more than `HOLE_S` is a hole: its silence is not given, and the chunk after it states its length. Sound
    ends, with a note, where there is more of it than the file's size allows (`mien.media.limits`).

    Raises:
        MediaError: during iteration, if nothing decodes and there are no pictures either.
    """
    faults: list[str] = []
    clock: SampleClock | None = None
    not_finite, skip, is_full = 0, info.audio_skip, False
    # An MP4 states where its sound ends; what an encoder adds to fill its last packet is not part of it.
    stop = Fraction(info.audio_stop_s) if info.container == "mov" and info.audio_stop_s is not None else None
    mix = MonoMix() if channels == 1 and channel is None else None
    with open_container(info.path) as container:
        assert info.audio_index is not None, "probe has found it"
        stream = container.streams[info.audio_index]
        assert isinstance(stream, AudioStream)
        for frame in decode_frames(container, stream, faults.append):
            if clock is None:
                channels = min(channels, frame.layout.nb_channels)
            rate = frame.sample_rate
            if not is_sample_rate(rate):
                faults.append(f"a sample rate of {rate} Hz")
                continue
            if channel is not None:
                samples = planes_of(frame)[channel : channel + 1].T
            else:
                samples = mix(frame) if mix is not None else _mix(frame, channels)
            if not np.isfinite(samples).all():
                not_finite += int((~np.isfinite(samples)).sum())
                samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
            raw = presentation_time(frame)
            time = None if raw is None else raw - info.audio_origin
            if skip:
                dropped, samples = min(skip, len(samples)), samples[skip:]
                skip -= dropped
                time = None if time is None else time + Fraction(dropped, rate)
                if not len(samples):
                    continue
            if clock is None:
                start = Fraction(info.audio_start_s or 0) if time is None else time
                clock = SampleClock(start, rate, longest_span_s(info.path), longest_sound_s(info.path))
            clock.set_rate(rate)
            silence, cut = clock.place(time, len(samples))
            if stop is not None and (excess := round((clock.now - stop) * rate) + silence + len(samples) - cut) > 0:
                samples = samples[: len(samples) - excess] if excess < len(samples) - cut else samples
            clock.count += silence + len(samples) - cut
            hole_s = 0.0
            if clock.is_hole(silence):
                hole_s, silence = silence / rate, 0
            clock.given_s += (silence + len(samples) - cut) / rate
            if clock.given_s > clock.longest_sound_s:
                is_full = True
                break
            while silence > 0:
                yield AudioChunk(rate, np.zeros((min(silence, _SILENCE_SAMPLES), samples.shape[1]), np.float32))
                silence -= _SILENCE_SAMPLES
            if cut < len(samples):
                yield AudioChunk(rate, samples[cut:], hole_s)
    if clock is None and not info.has_video:
        raise MediaError(
            f"{printable(info.path)}: its sound has no samples that decode" + (f" ({faults[0]})." if faults else "."),
            follows="Nothing was read from it.",
            remedy="Copy or download it again, or export the sound anew.",
        )
    _add_notes(info, clock, faults, not_finite, notes)
    if is_full and clock is not None:
        add_note(
            notes,
            f"{printable(info.path)}: its sound was read up to {clock.given_s:.0f} s, because so small a file cannot "
            f"hold more ({info.path.stat().st_size:,} bytes): the file is damaged.",
        )
    if mix is not None and mix.cancelled:
        add_note(
            notes,
            f"{printable(info.path)}: the channels of its sound cancel when they are averaged; the loudest was used.",
        )


def split_at_holes(chunks: Iterable[AudioChunk]) -> Iterator[tuple[float, Iterator[AudioChunk]]]:
    """Runs of chunks without a hole: (seconds of the hole before the run, its chunks). Exhaust each before the next."""
    source = iter(chunks)
    first = next(source, None)

    def run(chunk: AudioChunk) -> Iterator[AudioChunk]:
        nonlocal first
        yield chunk
        first = None
        for chunk in source:
            if chunk.hole_s:
                first = chunk
                return
            yield chunk

    while first is not None:
        yield first.hole_s, run(first)


def resample(chunks: Iterable[AudioChunk], rate: int) -> Iterator[np.ndarray]:
    """Resample chunks of any rates, without holes, to one rate; yields `(n, channels)` float32.

    soxr HQ: 20 bits, linear phase, delay compensated, so an impulse at time t stays at t (measured: 1e-6 of full scale
    from the ideal), and ten times as fast as FFmpeg's resampler.
    """
    source, buffered, channels = 0, 0, 1
    buffer: list[np.ndarray] = []
    resampler: soxr.ResampleStream | None = None

    def convert(*, last: bool) -> np.ndarray:
        samples = np.concatenate(buffer) if buffer else np.zeros((0, channels), np.float32)
        if source == rate or resampler is None:
            return samples
        # soxr takes one channel as `(n,)`, several as `(n, channels)`.
        flat = np.ascontiguousarray(samples[:, 0] if channels == 1 else samples)
        resampled: np.ndarray = resampler.resample_chunk(flat, last=last)
        return resampled.reshape(-1, channels)

    for chunk in chunks:
        if chunk.rate != source:
            if source:
                yield convert(last=True)
            source, buffered, buffer, channels = chunk.rate, 0, [], chunk.samples.shape[1]
            resampler = soxr.ResampleStream(source, rate, channels, dtype="float32", quality="HQ")
        buffer.append(chunk.samples)
        buffered += len(chunk.samples)
        if buffered >= source:  # a second at a time: soxr is then twice as fast as with one packet at a time
            yield convert(last=False)
            buffered, buffer = 0, []
    if source:
        yield convert(last=True)


def _add_notes(
    info: MediaInfo, clock: SampleClock | None, faults: list[str], not_finite: int, notes: list[str] | None
) -> None:
    name = printable(info.path)
    if clock is None:
        add_note(notes, f"{name}: its audio does not decode" + (f" ({faults[0]})." if faults else "."))
        return
    stop_s = float(clock.now)
    cut = add_cut_note(notes, info.path, "audio", stop_s, info.audio_stop_s)
    if not cut and info.video_stop_s is not None and stop_s < info.video_stop_s - SHORT_S:
        add_note(
            notes,
            f"{name}: the audio ends at {stop_s:.2f} s and the video continues to {info.video_stop_s:.2f} s; "
            "after the end of the audio only the face can be used.",
        )
    add_damage_note(notes, info.path, "audio", faults)
    if clock.gaps:
        add_note(
            notes,
            f"{name}: the audio's timestamps have {clock.gaps} gaps or overlaps (first at "
            f"{clock.first_gap_s:.2f} s); gaps were filled with silence, overlaps were cut.",
        )
    if clock.holes:
        count = "a hole" if clock.holes == 1 else f"{clock.holes} holes"
        add_note(
            notes,
            f"{name}: the audio has {count} of more than {HOLE_S:.0f} s (first at {clock.first_hole_s:.2f} s); nothing "
            "was read in them.",
        )
    if clock.clock_jumps:
        add_note(notes, f"{name}: the audio's clock jumps {clock.clock_jumps} times; the parts were joined.")
    if not_finite:
        add_note(notes, f"{name}: {not_finite} audio samples are NaN or infinite; they were set to zero.")


class MonoMix:
    """Mixes frames to one channel; takes the loudest channel while the channels cancel. cancelled: whether they did."""

    def __init__(self) -> None:
        self.cancelled = False
        self._powers = np.zeros(0)
        self._mixed_power = 0.0

    def __call__(self, frame: av.AudioFrame) -> np.ndarray:
        """A decoded frame as `(n, 1)` float32."""
        return self.mix(planes_of(frame), frame.layout.name)

    def mix(self, planes: np.ndarray, layout: str = "") -> np.ndarray:
        """`(channels, n)` float32 as `(n, 1)`. layout: FFmpeg's name of the channels; "": all count alike."""
        mixed: np.ndarray = _mixing_matrix(layout, len(planes), 1) @ planes
        if len(planes) == 1 or not planes.shape[1]:
            return mixed.T
        counted = _mixing_matrix(layout, len(planes), 1)[0] > 0  # without the subwoofer's
        powers = np.where(counted, np.einsum("cn,cn->c", planes, planes) / planes.shape[1], 0)
        if len(self._powers) != len(powers):
            self._powers, self._mixed_power = powers, float((mixed**2).mean())
        # A mean over the last frames: one frame alone may cancel by chance.
        self._powers = np.maximum(0, self._powers + _MEMORY * (powers - self._powers))
        self._mixed_power += _MEMORY * (float((mixed**2).mean()) - self._mixed_power)
        if self._mixed_power >= _CANCELLED * self._powers.max() / len(planes):
            return mixed.T
        if self._powers.max() > _SILENCE:
            self.cancelled = True
        loudest = int(self._powers.argmax())
        return np.asarray(planes[loudest : loudest + 1].T)


def _mix(frame: av.AudioFrame, channels: int) -> np.ndarray:
    """A decoded frame as `(n, channels)` float32 in [-1, 1]."""
    planes = planes_of(frame)
    mixed: np.ndarray = _mixing_matrix(frame.layout.name, len(planes), channels) @ planes
    return mixed.T


def planes_of(frame: av.AudioFrame) -> np.ndarray:
    """A decoded frame as `(channels, n)` float32 in [-1, 1]."""
    samples: np.ndarray = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    sample_format = frame.format.name.rstrip("p")
    if sample_format == "u8":
        samples = samples.astype(np.float32) - 128
    return np.asarray(samples, np.float32) * np.float32(_SCALE.get(sample_format, 1.0))


@lru_cache(maxsize=32)
def _mixing_matrix(layout: str, count: int, channels: int) -> np.ndarray:
    """`(channels, count)` mixing weights; each row sums to 1, so that nothing clips."""
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
