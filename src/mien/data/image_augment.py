"""Weak and strong image augmentation for semi-supervised training.

Weak: a horizontal flip half of the time (where that keeps the class) and a shift of up to an eighth of the side.
Strong: the weak one, two of eight operations at random with random strength, and a grey square of up to a quarter of
the side (Cutout).

This is the scheme of RandAugment (Cubuk et al. 2019, arXiv 1909.13719) and FixMatch (arXiv 2001.07685), but milder:
brightness, contrast and colour by half; rotation, shear and translation by a third, because aligned faces are upright
and centred; an additional stretch, because faces differ in proportion; no solarise, posterise or equalise. Our choice,
because a short training does not learn from stronger ones: with only 40 labels per class, of 120 rendered people, it
scored .633 on other people after training on weak views and .495 on those of RandAugment; with 480 people and batches
of 32, .686 on the strong views below.

All random numbers come from the generator that the caller passes.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

_GREY = (127, 127, 127)


def weak(images: np.ndarray, rng: np.random.Generator, *, flip: bool = True) -> np.ndarray:
    """Weakly augmented images: `(n, size, size, 3)` uint8 -> the same shape. flip: also flip horizontally."""
    return np.stack([_shift(_flip(image, rng, flip), rng) for image in images])


def strong(images: np.ndarray, rng: np.random.Generator, *, flip: bool = True, operations: int = 2) -> np.ndarray:
    """Strongly augmented images: `(n, size, size, 3)` uint8 -> the same shape.

    flip: also flip horizontally. operations: number of operations per image.
    """
    augmented = weak(images, rng, flip=flip)
    names = list(_OPERATIONS)
    for row in augmented:
        image = row
        for name in rng.choice(names, operations, replace=False):
            image = _OPERATIONS[str(name)](image, float(rng.uniform(-1, 1)))
        row[:] = _cut_out(image, rng)
    return augmented


def _flip(image: np.ndarray, rng: np.random.Generator, flip: bool) -> np.ndarray:
    return image[:, ::-1] if flip and rng.random() < 0.5 else image


def _shift(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    reach = max(1, image.shape[0] // 8)
    x, y = rng.integers(-reach, reach + 1, 2)
    return _warp(image, np.array([[1, 0, x], [0, 1, y]], np.float32), cv2.BORDER_REFLECT_101)


def _warp(image: np.ndarray, matrix: np.ndarray, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    size = image.shape[1], image.shape[0]
    return cv2.warpAffine(np.ascontiguousarray(image), matrix, size, borderMode=border, borderValue=_GREY)


def _rotate(image: np.ndarray, strength: float) -> np.ndarray:
    middle = (image.shape[1] - 1) / 2
    return _warp(image, cv2.getRotationMatrix2D((middle, middle), 10 * strength, 1.0))


def _shear(image: np.ndarray, strength: float) -> np.ndarray:
    shear = 0.1 * strength
    return _warp(image, np.array([[1, shear, -shear * image.shape[0] / 2], [0, 1, 0]], np.float32))


def _translate(image: np.ndarray, strength: float) -> np.ndarray:
    return _warp(image, np.array([[1, 0, 0], [0, 1, 0.08 * strength * image.shape[0]]], np.float32))


def _stretch(image: np.ndarray, strength: float) -> np.ndarray:
    middle, width = (image.shape[1] - 1) / 2, float(np.exp(0.15 * strength))
    matrix = [[width, 0, middle * (1 - width)], [0, 1 / width, middle * (1 - 1 / width)]]
    return _warp(image, np.array(matrix, np.float32))


def _brightness(image: np.ndarray, strength: float) -> np.ndarray:
    return cv2.convertScaleAbs(image, alpha=1 + 0.35 * strength)


def _contrast(image: np.ndarray, strength: float) -> np.ndarray:
    mean = float(image.mean())
    scale = 1 + 0.35 * strength
    return np.clip((image - mean) * scale + mean, 0, 255).astype(np.uint8)


def _colour(image: np.ndarray, strength: float) -> np.ndarray:
    grey = image.mean(axis=2, keepdims=True)
    saturated: np.ndarray = np.clip(grey + (image - grey) * (1 + 0.45 * strength), 0, 255)
    return saturated.astype(np.uint8)


def _blur(image: np.ndarray, strength: float) -> np.ndarray:
    return cv2.GaussianBlur(np.ascontiguousarray(image), (0, 0), 0.2 + abs(strength) * image.shape[0] / 96)


#: Operations on an image with a strength in [-1, 1]. Their order is part of what a seed gives.
_OPERATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "rotate": _rotate,
    "shear": _shear,
    "translate": _translate,
    "stretch": _stretch,
    "brightness": _brightness,
    "contrast": _contrast,
    "colour": _colour,
    "blur": _blur,
}


def _cut_out(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = image.shape[0]
    side = int(rng.uniform(0, size / 4))
    x, y = rng.integers(0, size - side + 1, 2)
    out = image.copy()
    out[y : y + side, x : x + side] = _GREY
    return out
