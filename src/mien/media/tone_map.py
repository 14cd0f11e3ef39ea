"""Tone mapping: HDR pictures (PQ and HLG, BT.2020) to standard 8-bit RGB, as screens and networks expect.

Sources: PQ is SMPTE ST 2084, HLG with its gamma of 1.2 at 1000 cd/m² is ITU-R BT.2100, the reference white of 203 cd/m²
is ITU-R BT.2408, the matrix of primaries is ITU-R BT.2087.
"""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc

#: Luminance in cd/m² that becomes white's reference (BT.2408), and the peak of HLG's nominal display.
WHITE, HLG_PEAK = 203.0, 1000.0
#: Share of the reference white up to which luminance stays as it is; brighter parts approach white exponentially. Our
#: choice: skin lies below it, so faces look as in a recording without HDR.
KNEE = 0.7
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
#: Linear BT.2020 to linear BT.709.
_PRIMARIES = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
_STEPS = 4096


class Transfer(IntEnum):
    """HDR transfer functions, with FFmpeg's numbers."""

    PQ = int(ColorTrc.SMPTE2084)
    HLG = int(ColorTrc.ARIB_STD_B67)


def transfer_of(frame: VideoFrame) -> Transfer | None:
    """The HDR transfer function that a frame is tagged with; None for a standard one."""
    tag = int(frame.color_trc)
    return Transfer(tag) if tag in (Transfer.PQ, Transfer.HLG) else None


def tone_map(image: np.ndarray, transfer: Transfer) -> np.ndarray:
    """`(height, width, 3)` uint16 RGB code values of BT.2020, full range -> uint8 sRGB with BT.709 primaries."""
    light = np.take(_linear(transfer), image >> 4)
    if transfer is Transfer.HLG:
        # The display's gamma acts on the luminance of the scene.
        luminance = cv2.transform(light, _LUMINANCE[None])
        light *= (cv2.pow(np.maximum(luminance, 1e-6), 0.2) * np.float32(HLG_PEAK / WHITE))[..., None]
    light = np.asarray(cv2.transform(light, _PRIMARIES))
    np.clip(light, 0, 1e4 / WHITE, out=light)
    # Square roots spend the table's steps where the eye, and sRGB, resolve them.
    index = np.sqrt(light * np.float32(WHITE / 1e4)) * np.float32(_STEPS * 4 - 1)
    mapped: np.ndarray = np.take(_encoded(), index.astype(np.uint16))
    return mapped


def compress(light: np.ndarray) -> np.ndarray:
    """Linear light in reference whites, 0 and more -> below 1: identity up to `KNEE`, then an exponential approach."""
    over = np.maximum(light - KNEE, 0) / (1 - KNEE)
    result: np.ndarray = np.where(light <= KNEE, light, KNEE + (1 - KNEE) * -np.expm1(-over))
    return result


@lru_cache(maxsize=2)
def _linear(transfer: Transfer) -> np.ndarray:
    """Table of linear light for 12-bit code values: PQ in reference whites, HLG in [0, 1] of the scene."""
    code = np.arange(_STEPS) / (_STEPS - 1)
    if transfer is Transfer.PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = code ** (1 / m2)
        light = 1e4 / WHITE * (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1)
    else:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(code <= 0.5, code**2 / 3, (np.exp((code - c) / a) + b) / 12)
    return np.asarray(light, np.float32)


@lru_cache(maxsize=1)
def _encoded() -> np.ndarray:
    """Table of 8-bit sRGB for linear light, by the square root of its share of 10,000 cd/m²."""
    light = (np.arange(_STEPS * 4) / (_STEPS * 4 - 1)) ** 2 * 1e4 / WHITE
    mapped = compress(light)
    srgb = np.where(mapped <= 0.0031308, 12.92 * mapped, 1.055 * mapped ** (1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * srgb), np.uint8)
