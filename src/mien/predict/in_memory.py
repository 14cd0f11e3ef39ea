"""Recordings in memory: pictures and sound as arrays, tensors, PIL images or generators, without a file."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from itertools import chain, islice
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import MediaError
from mien.media.audio import SAMPLE_RATE, blocks_of_chunks
from mien.media.limits import MAX_SAMPLE_RATE, MAX_SIDE, MIN_SAMPLE_RATE
from mien.media.probe import MediaInfo
from mien.media.samples import AudioChunk, MonoMix
from mien.media.video import scale_down
from mien.records import Frame

#: Most channels of a sound. Our choice: more of them are samples in the other order, `(channels, n)`.
MAX_CHANNELS = 32
#: Largest absolute sample of a sound in floats. Our choice: decoders exceed 1 a little, unscaled integers by far.
MAX_SAMPLE = 8.0
_NOTHING = "Nothing was predicted."
#: Seconds of sound mixed and resampled at once.
_CHUNK_S = 2
#: Type of integer samples -> value of silence, value of full scale above it.
_INTEGERS = {"uint8": (128.0, 128.0), "int16": (0.0, 2.0**15), "int32": (0.0, 2.0**31)}


class MemoryRecording:
    """Pictures, sound, or both, in memory; a `Source` of `mien.predict.sources`.

    Args:
        frames: pictures, `(n, h, w, 3)` or an iterable of `(h, w, 3)`, uint8 RGB: arrays, torch tensors (channels first
            too) or PIL images. A generator is read once, while the pictures are predicted.
        times: `(n,)` seconds, increasing, 0 or later. fps: frames a second, instead of `times`; the first is at 0 s.
        audio: `(samples, rate)`: samples `(n,)` or `(n, channels)`, floats in [-1, 1], int16, int32 or uint8; rate in
            Hz. The first sample is at 0 s.

    Raises:
        MediaError: the arrays have another shape or type, or times do not increase. Of a generator, the first two
            pictures are checked here and the others while they are read.
    """

    #: Path of the recording in a Timeline, which has none.
    media = ""

    def __init__(
        self,
        frames: Any = None,
        *,
        times: Any = None,
        fps: float | None = None,
        audio: tuple[Any, float] | None = None,
    ) -> None:
        self._pictures: Iterable[Any] | None = None
        self._is_once = self._is_consumed = False
        self._fps = None if fps is None else _number(fps)
        first: list[np.ndarray] = []
        count: int | None = 0
        if frames is not None:
            pictures = _sequence(frames)
            count = len(pictures) if isinstance(pictures, Sequence | np.ndarray) else None
            self._times = _check_times(times, fps, count)
            if count is None:
                iterator = iter(pictures)
                head = list(islice(iterator, 2))
                count = len(head) if len(head) < 2 else None
                self._pictures, self._is_once = chain(head, iterator), True
            else:
                head, self._pictures = list(islice(pictures, 2)), pictures
            if not head:
                raise MediaError("frames holds no picture", follows=_NOTHING, remedy="Give one picture or more.")
            first = [_picture(picture, f"frames[{i}]") for i, picture in enumerate(head)]
            self._shape = first[0].shape
        self._sound = None if audio is None else _sound(audio)
        self.info = self._describe(count, has_frames=bool(first))

    def _describe(self, count: int | None, *, has_frames: bool) -> MediaInfo:
        sound_s = 0.0 if self._sound is None else len(self._sound[0]) / self._sound[1]
        picture_s: float | None = 0.0
        if has_frames:
            picture_s = float(self._times[-1]) if self._fps is None else None if count is None else count / self._fps
        is_still = has_frames and count == 1 and self._sound is None
        return MediaInfo(
            Path("<frames>" if has_frames else "<audio>"),
            "image" if is_still else "video" if has_frames else "audio",
            width=self._shape[1] if has_frames else 0,
            height=self._shape[0] if has_frames else 0,
            has_video=has_frames,
            has_audio=self._sound is not None,
            duration_s=None if picture_s is None else max(picture_s, sound_s),
            audio_channels=0 if self._sound is None else self._sound[0].shape[1],
            video_start_s=0.0 if is_still else self._time(0) if has_frames else None,
            audio_start_s=None if self._sound is None else 0.0,
            container="memory",
        )

    def _time(self, number: int) -> float:
        """Seconds of a picture."""
        return float(self._times[number]) if self._fps is None else number / self._fps

    def frames(self, *, max_side: int | None, notes: list[str]) -> Iterator[Frame]:
        """The pictures, scaled down to `max_side` pixels.

        Raises MediaError for a picture that cannot be used, another number than `times` has, and for a generator that
        is read again.
        """
        if self._pictures is None:
            return
        if self._is_once and self._is_consumed:
            raise MediaError(
                "frames is a generator, which can be read once, and these options read it again",
                follows=_NOTHING,
                remedy="Give a list or an array, or the same options without split_channels.",
            )
        self._is_consumed = True
        number = -1
        for number, given in enumerate(self._pictures):
            picture = _picture(given, f"frames[{number}]")
            if picture.shape != self._shape:
                raise MediaError(
                    f"frames[{number}] has the shape {picture.shape}, and the first picture {self._shape}",
                    follows=_NOTHING,
                    remedy="Scale all pictures of a recording to one size, or predict them one by one.",
                )
            if self._fps is None and number >= len(self._times):
                raise _other_number(f"more than {number}", len(self._times))
            yield Frame(number, self._seconds_of(number), scale_down(picture, max_side))
        if self._fps is None and number + 1 != len(self._times):
            raise _other_number(str(number + 1), len(self._times))

    def _seconds_of(self, number: int) -> float:
        return 0.0 if self.info.kind == "image" else self._time(number)

    def sample(self, count: int, *, max_side: int | None) -> Iterator[np.ndarray]:
        """Up to `count` pictures spread over the recording; none of a generator, which is read once."""
        if isinstance(self._pictures, Sequence | np.ndarray):
            length = len(self._pictures)
            for number in sorted({length * k // count for k in range(count)}):
                yield scale_down(_picture(self._pictures[number], f"frames[{number}]"), max_side)

    def blocks(
        self, *, seconds: float, track: int | None, channel: int | None, notes: list[str]
    ) -> Iterator[tuple[float, np.ndarray]]:
        """The sound at 16 kHz in blocks, as `mien.media.audio.blocks`. track: not used, there is one."""
        if self._sound is None:
            return iter(())
        return blocks_of_chunks(self._chunks(channel), 0.0, max(1, round(seconds * SAMPLE_RATE)))

    def _chunks(self, channel: int | None) -> Iterator[AudioChunk]:
        assert self._sound is not None
        samples, rate = self._sound
        mix = MonoMix()
        for start in range(0, len(samples), rate * _CHUNK_S):
            part = _scaled(samples[start : start + rate * _CHUNK_S])
            yield AudioChunk(rate, mix.mix(part.T) if channel is None else part[:, channel : channel + 1])


def is_picture(value: Any) -> bool:
    """Whether a value is a PIL image, an array or a torch tensor."""
    return isinstance(value, np.ndarray) or _is_tensor(value) or _is_pil(value)


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # whoever has a tensor has imported torch
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def _is_pil(value: Any) -> bool:
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(value, module.Image)


def _as_array(value: Any) -> np.ndarray:
    if _is_tensor(value):
        return np.asarray(value.detach().cpu().numpy())
    if _is_pil(value):
        upright = import_module("PIL.ImageOps").exif_transpose(value)  # as files are turned by their orientation
        return np.asarray(upright.convert("RGB"))
    return np.asarray(value)


def _sequence(frames: Any) -> Any:
    """Pictures as an array `(n, h, w, 3)`, a sequence, or an iterable that is read once. Raises MediaError."""
    if _is_pil(frames):
        return [frames]
    if isinstance(frames, np.ndarray) or _is_tensor(frames):
        array = _as_array(frames)
        if array.ndim == 3:
            raise MediaError(
                f"frames has the shape {array.shape}, which is one picture",
                follows=_NOTHING,
                remedy="Give it as predict(picture), or as frames=picture[None] with its time.",
            )
        if array.ndim != 4:
            raise MediaError(
                f"frames has the shape {array.shape}; pictures have (n, height, width, 3)",
                follows=_NOTHING,
                remedy="Stack pictures of one size with np.stack(pictures), or give them as a list.",
            )
        return array
    if isinstance(frames, Sequence) and not isinstance(frames, str | bytes):
        return frames
    if isinstance(frames, Iterable) and not isinstance(frames, str | bytes | bytearray | memoryview):
        return frames
    raise MediaError(
        f"frames is of the type {type(frames).__name__}, which is not a series of pictures",
        follows=_NOTHING,
        remedy="Give an array (n, height, width, 3), or a list or generator of pictures. A file is predict(path).",
    )


def _picture(value: Any, name: str) -> np.ndarray:
    """A picture as a contiguous `(h, w, 3)` uint8 array. Raises MediaError."""
    array = _as_array(value)
    if array.ndim == 3 and array.shape[-1] != 3 and array.shape[0] == 3:
        array = np.moveaxis(array, 0, -1)  # (3, h, w), the order of torch
    if array.ndim != 3 or array.shape[-1] != 3:
        fixes = {
            2: "A grey picture becomes RGB with np.stack([picture] * 3, axis=-1).",
            3: "Drop the alpha channel with picture[..., :3]." if array.shape[-1:] == (4,) else "",
        }
        raise MediaError(
            f"{name} has the shape {array.shape}; a picture has (height, width, 3)",
            follows=_NOTHING,
            remedy=fixes.get(array.ndim, "") or "Give RGB pictures, one array each.",
        )
    if array.dtype != np.uint8:
        scale = " * 255).round()" if array.dtype.kind == "f" else ")"
        raise MediaError(
            f"{name} is of the type {array.dtype}; a picture holds uint8, 0 to 255",
            follows=_NOTHING,
            remedy=f"Convert it with (picture{scale}.astype('uint8')"
            + (" if it holds 0 to 1." if array.dtype.kind == "f" else " if it holds 0 to 255."),
        )
    height, width = array.shape[:2]
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise MediaError(
            f"{name} has {width} × {height} pixels; each side must be 1 to {MAX_SIDE}",
            follows=_NOTHING,
            remedy="Give a picture of a usual size.",
        )
    return np.ascontiguousarray(array)


def _check_times(times: Any, fps: float | None, count: int | None) -> np.ndarray:
    """The times as an array, empty with `fps`. Raises MediaError."""
    if (times is None) == (fps is None):
        if count == 1 and times is None:
            return np.zeros(1)  # one picture needs no time
        raise MediaError(
            "frames needs times or fps" + ("" if times is None else ", not both"),
            follows=_NOTHING,
            remedy="Give times=, the seconds of each picture, or fps=, pictures a second, such as fps=25.",
        )
    if fps is not None:
        if not 0 < _number(fps) < math.inf:
            raise MediaError(
                f"fps is {fps!r}", follows=_NOTHING, remedy="Give pictures a second above 0, such as fps=25."
            )
        return np.zeros(0)
    try:
        seconds = np.asarray(_as_array(times), np.float64)
    except (TypeError, ValueError):
        seconds = np.zeros((0, 0))
    if seconds.ndim != 1:
        raise MediaError(
            f"times is {type(times).__name__} of the wrong form; it holds one number of seconds for each picture",
            follows=_NOTHING,
            remedy="Give a list or an array of one axis, such as np.arange(len(frames)) / 25.",
        )
    if count is not None and len(seconds) != count:
        raise _other_number(str(count), len(seconds))
    wrong = ~np.isfinite(seconds) | (seconds < 0)
    wrong[1:] |= ~(seconds[1:] > seconds[:-1])
    if wrong.any():
        k = int(wrong.argmax())
        before = f", after {seconds[k - 1]:g}" if k else ""
        raise MediaError(
            f"times[{k}] is {seconds[k]:g}{before}; times are seconds from 0 on, each later than the one before",
            follows=_NOTHING,
            remedy="Sort pictures and times together, drop repeated ones, and subtract the first time.",
        )
    return seconds


def _other_number(pictures: str, times: int) -> MediaError:
    return MediaError(
        f"frames has {pictures} pictures, and times {times} seconds",
        follows=_NOTHING,
        remedy="Give one time for each picture, or fps= where their distance is always the same.",
    )


def _sound(audio: Any) -> tuple[np.ndarray, int]:
    """Samples `(n, channels)` as given, and their rate in Hz. Raises MediaError."""
    if not (isinstance(audio, tuple | list) and len(audio) == 2):
        raise MediaError(
            f"audio is of the type {type(audio).__name__}; it is a pair of samples and their rate",
            follows=_NOTHING,
            remedy="Give audio=(samples, 16000), with the samples a second that yours have.",
        )
    samples, rate = _as_array(audio[0]), _number(audio[1])
    if not (rate.is_integer() and MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE):
        raise MediaError(
            f"the rate of audio is {audio[1]!r}; it is a whole number of Hz, {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}",
            follows=_NOTHING,
            remedy="Give audio=(samples, rate), in this order, with the rate at which they were recorded.",
        )
    samples = samples[:, None] if samples.ndim == 1 else samples
    if samples.ndim != 2 or not 1 <= samples.shape[1] <= MAX_CHANNELS or not len(samples):
        turned = samples.ndim == 2 and 1 <= samples.shape[0] <= MAX_CHANNELS
        raise MediaError(
            f"the samples of audio have the shape {np.shape(audio[0])}; they have (n,) or (n, channels)",
            follows=_NOTHING,
            remedy="Turn (channels, n) with samples.T." if turned else "Give one axis of samples, or two.",
        )
    if samples.dtype.kind != "f" and samples.dtype.name not in _INTEGERS:
        raise MediaError(
            f"the samples of audio are of the type {samples.dtype}",
            follows=_NOTHING,
            remedy="Give floats in [-1, 1], int16, int32 or uint8.",
        )
    if samples.dtype.kind == "f":
        peak = float(np.abs(samples).max())
        if not math.isfinite(peak) or peak > MAX_SAMPLE:
            raise MediaError(
                f"the samples of audio reach {peak:g}; floats are in [-1, 1]",
                follows=_NOTHING,
                remedy="Divide samples that were int16 by 32768, and replace NaN by 0.",
            )
    return samples, int(rate)


def _number(value: Any) -> float:
    """A number as a float, NaN for what is none."""
    return float(value) if isinstance(value, Real) else math.nan


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Samples as float32 in [-1, 1]."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    silence, scale = _INTEGERS[samples.dtype.name]
    return ((samples.astype(np.float32) - silence) / scale).astype(np.float32)
