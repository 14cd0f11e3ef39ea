"""Image augmentation that imitates capture: how cameras, light and codecs make pictures of one face differ.

It makes small, soft, grey faces of a corpus and sharp, large ones of a video look alike to a network: turns, zooms,
shifts and stretches; blur and sharpening; loss of resolution; JPEG; exposure, contrast and light from one side; noise;
covered parts of a face (a rectangle, the lower half as by a mask, one side). Strengths are our choice, so that a person
still reads the expression in nearly every view. All random numbers come from the generator that the caller passes.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

#: Standard deviations of turns (degrees), zoom and stretch (natural logarithm of the factor), shifts (share of a side).
TURN_DEGREES, ZOOM, STRETCH, SHIFT = 8.0, 0.08, 0.05, 0.04
#: Shares of the views that are blurred or sharpened, reduced in resolution, compressed, and covered.
SOFT_SHARE, COARSE_SHARE, JPEG_SHARE, COVERED_SHARE = 0.4, 0.25, 0.2, 0.35
#: Lowest and highest quality of JPEG.
JPEG_QUALITY = (15, 70)


def capture(images: np.ndarray, size: int, rng: np.random.Generator, *, flip: bool = True) -> Tensor:
    """Augmented views of face images.

    Args:
        images: `(n, side, side, 3)` uint8, side >= size. What exceeds `size` around the centre is surroundings, into
            which turns and shifts reach; beyond the image its outermost pixels are repeated.
        size: side of the views.
        flip: also flip half of them horizontally.

    Returns `(n, 3, size, size)` uint8.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    is_grey = bool((images[..., 0] == images[..., 1]).all() and (images[..., 0] == images[..., 2]).all())
    views = (pixels[..., :1] if is_grey else pixels).permute(0, 3, 1, 2).float()
    views = _move(views, size, rng, flip)
    views = _soften(views, rng)
    views = _reduce(views, rng)
    views = _light(views, rng)
    views = views.clamp(0, 255).round().to(torch.uint8)
    for i in np.flatnonzero(rng.random(len(images)) < JPEG_SHARE):
        views[i] = _compress(views[i], int(rng.integers(*JPEG_QUALITY)))
    for i in np.flatnonzero(rng.random(len(images)) < COVERED_SHARE):
        _cover(views[i], rng)
    return views.expand(-1, 3, -1, -1)


def centre(images: np.ndarray, size: int) -> np.ndarray:
    """Centre crops `(n, size, size, 3)` of images `(n, side, side, 3)`, size <= side."""
    first = (images.shape[1] - size) // 2
    return images[:, first : first + size, first : first + size]


def _normal(rng: np.random.Generator, n: int, deviation: float) -> Tensor:
    return torch.from_numpy(rng.normal(0, deviation, n).astype(np.float32))


def _column(values: np.ndarray) -> Tensor:
    """`(n,)` as `(n, 1, 1, 1)` float32."""
    return torch.from_numpy(values.astype(np.float32))[:, None, None, None]


def _move(images: Tensor, size: int, rng: np.random.Generator, flip: bool) -> Tensor:
    """Turn, zoom, stretch, shift and mirror: `(n, c, side, side)` -> `(n, c, size, size)`."""
    n = len(images)
    angle = _normal(rng, n, np.deg2rad(TURN_DEGREES))
    zoom, stretch = _normal(rng, n, ZOOM).exp(), _normal(rng, n, STRETCH).exp()
    sign = torch.from_numpy(np.where(flip & (rng.random(n) < 0.5), -1, 1).astype(np.float32))
    share = size / images.shape[-1]
    transform = torch.zeros(n, 2, 3)
    transform[:, 0, 0] = angle.cos() * zoom * stretch * share * sign
    transform[:, 0, 1] = -angle.sin() * zoom * share
    transform[:, 1, 0] = angle.sin() * zoom * share * sign
    transform[:, 1, 1] = angle.cos() * zoom / stretch * share
    transform[:, :, 2] = _normal(rng, 2 * n, 2 * SHIFT * share).view(n, 2)
    grid = F.affine_grid(transform, [n, 1, size, size], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _soften(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Blur (towards the mean of 3 x 3 pixels) or sharpen (away from it) a share of the images."""
    amount = np.where(rng.random(len(images)) < SOFT_SHARE, rng.uniform(-1.0, 1.0, len(images)), 0.0)
    mean = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images + _column(amount) * (mean - images)


def _reduce(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Reduce the resolution of a share of the images to 30 to 80 %, and enlarge them again."""
    chosen = torch.from_numpy(np.flatnonzero(rng.random(len(images)) < COARSE_SHARE))
    factor = float(rng.uniform(0.3, 0.8))
    if not len(chosen):
        return images
    size = images.shape[-1]
    small = F.interpolate(images[chosen], size=(max(4, round(size * factor)),) * 2, mode="area")
    images = images.clone()
    images[chosen] = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    return images


def _light(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Exposure (gamma), a gradient of light across the face, and noise."""
    n, size = len(images), images.shape[-1]
    gamma = _column(np.exp(rng.normal(0, 0.25, n)))
    images = 255 * (images / 255).clamp(1e-3, 1) ** gamma
    ramp = torch.linspace(-1, 1, size)
    across, down = _column(rng.normal(0, 15, n)), _column(rng.normal(0, 15, n))
    images = images + across * ramp + down * ramp[:, None]
    noise = torch.from_numpy(rng.standard_normal((n, 1, size, size), dtype=np.float32))
    return images + noise * _column(rng.uniform(0, 6, n))


def _compress(image: Tensor, quality: int) -> Tensor:
    """An image `(1 or 3, size, size)` uint8 through JPEG."""
    is_grey = len(image) == 1
    array = image[0].numpy() if is_grey else image.flip(0).permute(1, 2, 0).numpy()  # OpenCV has blue first
    data = cv2.imencode(".jpg", np.ascontiguousarray(array), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE if is_grey else cv2.IMREAD_COLOR)
    assert decoded is not None
    pixels = torch.from_numpy(decoded)
    return pixels[None] if is_grey else pixels.permute(2, 0, 1).flip(0)


def _cover(image: Tensor, rng: np.random.Generator) -> None:
    """Cover a part of an image `(c, size, size)` with one grey level, in place: mostly a rectangle of up to half a
    side, sometimes the lower half or one side."""
    size, kind = image.shape[-1], rng.random()
    level = int(rng.integers(0, 256))
    if kind < 0.15:
        image[:, round(size * rng.uniform(0.5, 0.65)) :] = level
    elif kind < 0.25:
        width = round(size * rng.uniform(0.3, 0.5))
        image[:, :, slice(0, width) if rng.random() < 0.5 else slice(size - width, size)] = level
    else:
        height, width = rng.integers(size // 8, size // 2, 2)
        top, left = rng.integers(0, size - height + 1), rng.integers(0, size - width + 1)
        image[:, top : top + height, left : left + width] = level
