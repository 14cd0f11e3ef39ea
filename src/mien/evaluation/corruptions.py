"""Corruptions of video and audio before encoding: darkness, blur, occlusion; noise, silence, delay.

Functions work on one image or one audio block, so recordings of any length are corrupted as a stream (`Footage`).
Levels are physical: stops of light, blur relative to the face height, share of the face covered, decibels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from mien.evaluation.robustness import Condition, Transform, no_corruption
from mien.records import Clip, Frame

#: Exponent of the display transfer function, about that of sRGB.
_GAMMA = 2.2
#: Standard deviation of sensor noise in linear light, full scale 1. Our choice.
_SENSOR_NOISE = 0.004
#: RMS (full scale 1) below which audio is silence and does not count towards the speech level. Our choice.
_SILENCE_RMS = 1e-4
#: Levels of `footage_conditions`: stops of light, blur sigma over face height, share of the face covered,
#: signal-to-noise ratio in dB, audio delay in seconds.
STOPS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
BLURS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)
COVERED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SNR_DB = (20.0, 15.0, 10.0, 5.0, 0.0, -5.0)
SHIFTS_S = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)

#: Function from a frame to face boxes x1, y1, x2, y2 in pixels.
Boxes = Callable[[Frame], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Footage:
    """Video frames and audio blocks of a clip, decoded again by each call.

    Attributes:
        frames: iterator of frames, as `media.video.frames`.
        blocks: iterator of (start in seconds, `(n,)` float32 at 16 kHz), as `media.audio.blocks`.
    """

    clip: Clip
    frames: Callable[[], Iterator[Frame]]
    blocks: Callable[[], Iterator[tuple[float, np.ndarray]]]


# --- video ---------------------------------------------------------------------------------------------------


def darken(image: np.ndarray, stops: float, rng: np.random.Generator) -> np.ndarray:
    """Image `(height, width, 3)` uint8 with 1/2^stops of the light, plus sensor noise in linear light."""
    if stops <= 0:
        return image
    light = (image / 255.0) ** _GAMMA * 2.0**-stops
    light += rng.normal(0, _SENSOR_NOISE, image.shape)
    dark: np.ndarray = np.round(255 * np.clip(light, 0, 1) ** (1 / _GAMMA)).astype(np.uint8)
    return dark


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur with standard deviation `sigma` in pixels, as a lens out of focus."""
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma)) if sigma > 0 else image


def cover(image: np.ndarray, boxes: Sequence[np.ndarray], share: float, colour: tuple[int, int, int]) -> np.ndarray:
    """Covers the lower `share` (0 to 1) of each box x1, y1, x2, y2 with one colour, as a hand or a mask does."""
    if share <= 0 or not len(boxes):
        return image
    out = image.copy()
    for x1, y1, x2, y2 in boxes:
        top = y2 - share * (y2 - y1)
        left, right = max(0, round(float(x1))), max(0, round(float(x2)))
        out[max(0, round(float(top))) : max(0, round(float(y2))), left:right] = colour
    return out


def map_frames(footage: Footage, change: Callable[[Frame], np.ndarray]) -> Footage:
    """Footage with `change` applied to every image; times and frame numbers stay."""
    return replace(
        footage, frames=lambda: (Frame(f.index, f.time_s, partial(change, f), f.held_bytes) for f in footage.frames())
    )


# --- audio ---------------------------------------------------------------------------------------------------


def speech_level(blocks: Iterator[tuple[float, np.ndarray]], quantile: float = 0.9) -> float:
    """Speech level of a recording: a quantile of the RMS of 50-ms pieces that are not silent; 0 if all are silent.

    The default quantile .9 keeps pauses from lowering the level. Our choice.
    """
    levels = [
        np.sqrt(np.mean(part**2)) for _, block in blocks for part in np.array_split(block, max(1, len(block) // 800))
    ]
    audible = [level for level in levels if level > _SILENCE_RMS]
    return float(np.quantile(audible, quantile)) if audible else 0.0


def pink_noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """Pink noise `(count,)` of RMS 1: power falls with frequency by 3 dB per octave, as in rooms and streets."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, count)
    return noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12)


def add_noise(samples: np.ndarray, snr_db: float, level: float, rng: np.random.Generator) -> np.ndarray:
    """Samples `(n,)` float32 plus pink noise `snr_db` decibels below the speech level `level` (RMS), clipped to ±1."""
    if not len(samples) or level <= 0 or np.isposinf(snr_db):
        return samples
    noise = pink_noise(rng, len(samples)) * level * 10 ** (-snr_db / 20)
    return np.clip(samples + noise, -1, 1).astype(np.float32)


def map_audio(footage: Footage, change: Callable[[np.ndarray], np.ndarray], shift_s: float = 0.0) -> Footage:
    """Footage with `change` applied to every audio block and the audio delayed by `shift_s` seconds."""
    return replace(footage, blocks=lambda: ((start + shift_s, change(block)) for start, block in footage.blocks()))


# --- conditions ----------------------------------------------------------------------------------------------


def darken_video(stops: float) -> Transform[Footage]:
    """Transform that darkens every frame by `stops`, see `darken`."""

    def transform(footage: Footage, rng: np.random.Generator) -> Footage:
        key = _key(rng)
        return map_frames(footage, lambda frame: darken(frame.image, stops, _generator(key, frame.index)))

    return transform if stops > 0 else no_corruption


def blur_video(share: float, boxes: Boxes) -> Transform[Footage]:
    """Transform that blurs frames; sigma is `share` of the tallest face's height, or of the image's without a face."""

    def change(frame: Frame) -> np.ndarray:
        heights = [float(box[3] - box[1]) for box in boxes(frame)]
        return blur(frame.image, share * max(heights, default=float(frame.image.shape[0])))

    return (lambda f, rng: map_frames(f, change)) if share > 0 else no_corruption


def cover_faces(share: float, boxes: Boxes) -> Transform[Footage]:
    """Transform that covers the lower `share` of each face, see `cover`; the colour is drawn once per recording."""

    def transform(footage: Footage, rng: np.random.Generator) -> Footage:
        red, green, blue = (int(c) for c in rng.integers(20, 200, 3))
        return map_frames(footage, lambda frame: cover(frame.image, boxes(frame), share, (red, green, blue)))

    return transform if share > 0 else no_corruption


def add_audio_noise(snr_db: float) -> Transform[Footage]:
    """Transform that adds pink noise at `snr_db` below the recording's `speech_level`, see `add_noise`."""

    def transform(footage: Footage, rng: np.random.Generator) -> Footage:
        level, key = speech_level(footage.blocks()), _key(rng)

        def blocks() -> Iterator[tuple[float, np.ndarray]]:
            for number, (start, block) in enumerate(footage.blocks()):
                yield start, add_noise(block, snr_db, level, _generator(key, number))

        return replace(footage, blocks=blocks)

    return transform


def mute_audio() -> Transform[Footage]:
    """Transform that replaces the audio by zeros, as a microphone that is off."""
    return lambda f, rng: map_audio(f, np.zeros_like)


def delay_audio(seconds: float) -> Transform[Footage]:
    """Transform that delays the audio by `seconds` against the video; negative: the audio comes early."""
    return (lambda f, rng: map_audio(f, lambda block: block, seconds)) if seconds else no_corruption


def footage_conditions(boxes: Boxes) -> list[Condition[Footage]]:
    """Conditions of `mien evaluate --footage`.

    Args:
        boxes: face boxes of the uncorrupted frame.
    """
    return [
        *(Condition("dark", s, "stops", darken_video(s)) for s in STOPS),
        *(Condition("blurred", 100 * s, "% of the face", blur_video(s, boxes)) for s in BLURS),
        *(Condition("covered from below", 100 * s, "% of the face", cover_faces(s, boxes)) for s in COVERED),
        Condition("sound in noise", np.inf, "dB", no_corruption, "clean"),
        *(Condition("sound in noise", db, "dB", add_audio_noise(db)) for db in SNR_DB),
        Condition("sound silent", 0.0, "", no_corruption, "sound"),
        Condition("sound silent", 1.0, "", mute_audio(), "silence"),
        *(Condition("sound late", s, "s", delay_audio(s)) for s in SHIFTS_S),
    ]


def _key(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 32))


def _generator(key: int, number: int) -> np.random.Generator:
    """Generator of one frame or block, the same each time the footage is decoded."""
    return np.random.default_rng([key, number])
