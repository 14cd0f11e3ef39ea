"""Damage to pictures and sound, for whole pipelines: dark, blurred, covered faces; noise, silence, late sound.

Every function takes one picture or one block and gives it back damaged, so that a recording of any length passes
through in a stream (`Footage`). Levels are physical: stops of light, pixels of blur against the face's size, share of
the face covered, decibels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from mien.evaluation.robustness import Condition, Transform, unchanged
from mien.records import Clip, Frame

#: Displays and cameras write light to about this power.
_GAMMA = 2.2
#: Noise of the sensor, as a share of full scale in linear light: what is left where light is gone.
_SENSOR = 0.004
#: Below this loudness (RMS, full scale 1) a block of sound says nothing about how loud the speech is.
_SILENT = 1e-4
#: A blur of one face height would leave a single colour.
STOPS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
BLURS = (0.0, 0.01, 0.02, 0.04, 0.08, 0.16)
COVERED = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
SNR_DB = (20.0, 15.0, 10.0, 5.0, 0.0, -5.0)
SHIFTS_S = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)

Boxes = Callable[[Frame], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Footage:
    """A clip's pictures and sound, opened anew by each call. frames: as `media.video.frames`; blocks: as
    `media.audio.blocks`, (start in seconds, `(n,)` float32 16 kHz)."""

    clip: Clip
    frames: Callable[[], Iterator[Frame]]
    blocks: Callable[[], Iterator[tuple[float, np.ndarray]]]


# --- pictures ------------------------------------------------------------------------------------------------


def darken(image: np.ndarray, stops: float, rng: np.random.Generator) -> np.ndarray:
    """`(height, width, 3)` uint8 with 1/2^stops of the light, and the sensor noise that shows where light is gone."""
    if stops <= 0:
        return image
    light = (image / 255.0) ** _GAMMA * 2.0**-stops
    light += rng.normal(0, _SENSOR, image.shape)
    return np.round(255 * np.clip(light, 0, 1) ** (1 / _GAMMA)).astype(np.uint8)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur of `sigma` pixels, as of a lens out of focus."""
    return cv2.GaussianBlur(image, (0, 0), sigma) if sigma > 0 else image


def cover(image: np.ndarray, boxes: Sequence[np.ndarray], share: float, colour: tuple[int, int, int]) -> np.ndarray:
    """Covers the lower `share` of each box x1, y1, x2, y2, as a hand, a mask or a microphone does."""
    if share <= 0 or not len(boxes):
        return image
    out = image.copy()
    for x1, y1, x2, y2 in boxes:
        top = y2 - share * (y2 - y1)
        left, right = max(0, round(float(x1))), max(0, round(float(x2)))
        out[max(0, round(float(top))) : max(0, round(float(y2))), left:right] = colour
    return out


def pictures(footage: Footage, change: Callable[[Frame], np.ndarray]) -> Footage:
    """The same with every picture changed; times and numbers stay."""
    return replace(footage, frames=lambda: (replace(f, image=change(f)) for f in footage.frames()))


# --- sound ---------------------------------------------------------------------------------------------------


def loudness(blocks: Iterator[tuple[float, np.ndarray]], quantile: float = 0.9) -> float:
    """Speech level of a recording: the RMS that 10 % of its 50-ms pieces exceed, so that pauses do not lower it. 0
    where it is silent."""
    pieces = [
        np.sqrt(np.mean(part**2)) for _, block in blocks for part in np.array_split(block, max(1, len(block) // 800))
    ]
    heard = [p for p in pieces if p > _SILENT]
    return float(np.quantile(heard, quantile)) if heard else 0.0


def pink(rng: np.random.Generator, count: int) -> np.ndarray:
    """`(count,)` noise of unit RMS whose power falls with frequency, as that of rooms and streets."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, count)
    return noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12)


def add_noise(samples: np.ndarray, snr_db: float, level: float, rng: np.random.Generator) -> np.ndarray:
    """`(n,)` float32 with pink noise `snr_db` below the speech level `level` (RMS). Cut at full scale."""
    if not len(samples) or level <= 0 or np.isposinf(snr_db):
        return samples
    noise = pink(rng, len(samples)) * level * 10 ** (-snr_db / 20)
    return np.clip(samples + noise, -1, 1).astype(np.float32)


def sound(footage: Footage, change: Callable[[np.ndarray], np.ndarray], shift_s: float = 0.0) -> Footage:
    """The same with every block changed, and late by `shift_s` seconds."""
    return replace(footage, blocks=lambda: ((start + shift_s, change(block)) for start, block in footage.blocks()))


# --- conditions ----------------------------------------------------------------------------------------------


def dark(stops: float) -> Transform[Footage]:
    """See `darken`."""

    def transform(footage: Footage, rng: np.random.Generator) -> Footage:
        key = _key(rng)
        return pictures(footage, lambda frame: darken(frame.image, stops, _of(key, frame.index)))

    return transform if stops > 0 else unchanged


def blurred(share: float, boxes: Boxes) -> Transform[Footage]:
    """Blurs by a share of the tallest face's height, or of the picture's where there is none."""

    def change(frame: Frame) -> np.ndarray:
        heights = [float(box[3] - box[1]) for box in boxes(frame)]
        return blur(frame.image, share * max(heights, default=float(frame.image.shape[0])))

    return (lambda f, rng: pictures(f, change)) if share > 0 else unchanged


def covered(share: float, boxes: Boxes) -> Transform[Footage]:
    """See `cover`; each recording has its own colour."""

    def transform(footage: Footage, rng: np.random.Generator) -> Footage:
        red, green, blue = (int(c) for c in rng.integers(20, 200, 3))
        return pictures(footage, lambda frame: cover(frame.image, boxes(frame), share, (red, green, blue)))

    return transform if share > 0 else unchanged


def with_noise(snr_db: float) -> Transform[Footage]:
    """See `add_noise`; the speech level is measured over the recording first."""

    def transform(footage: Footage, rng: np.random.Generator) -> Footage:
        level, key = loudness(footage.blocks()), _key(rng)

        def opened() -> Iterator[tuple[float, np.ndarray]]:
            for number, (start, block) in enumerate(footage.blocks()):
                yield start, add_noise(block, snr_db, level, _of(key, number))

        return replace(footage, blocks=opened)

    return transform


def silent() -> Transform[Footage]:
    """Nothing but zeros, as of a microphone that is off."""
    return lambda f, rng: sound(f, np.zeros_like)


def late(seconds: float) -> Transform[Footage]:
    """Sound that comes `seconds` after its pictures; negative: before."""
    return (lambda f, rng: sound(f, lambda block: block, seconds)) if seconds else unchanged


def footage_conditions(boxes: Boxes) -> list[Condition[Footage]]:
    """The end-to-end part of `mien evaluate --robustness`.

    Args:
        boxes: where the faces of the undamaged frame are, x1, y1, x2, y2 each.
    """
    return [
        *(Condition("dark", s, "stops", dark(s)) for s in STOPS),
        *(Condition("blurred", 100 * s, "% of the face", blurred(s, boxes)) for s in BLURS),
        *(Condition("covered from below", 100 * s, "% of the face", covered(s, boxes)) for s in COVERED),
        Condition("sound in noise", np.inf, "dB", unchanged, "clean"),
        *(Condition("sound in noise", db, "dB", with_noise(db)) for db in SNR_DB),
        Condition("sound silent", 0.0, "", unchanged, "sound"),
        Condition("sound silent", 1.0, "", silent(), "silence"),
        *(Condition("sound late", s, "s", late(s)) for s in SHIFTS_S),
    ]


def _key(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 32))


def _of(key: int, number: int) -> np.random.Generator:
    """Randomness of one frame or block, the same each time the footage is opened."""
    return np.random.default_rng([key, number])
