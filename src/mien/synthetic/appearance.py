"""What makes one photograph many people and many moods: tints of skin, hair and suit; the shadows of wrinkles."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from mien.encoders.face_geometry import LANDMARKS, mirror
from mien.synthetic import mesh_deformation
from mien.synthetic.action_units import index
from mien.synthetic.puppet_mesh import Puppet, puppet, without

#: The level of an unshaded pixel in a light map.
LIT = 200


@lru_cache(maxsize=1)
def _masks(key: tuple[int, int]) -> dict[str, np.ndarray]:
    """`(height, width, 1)` shares of skin, hair and suit in the photograph, in [0, 1]."""
    doll = puppet()
    rgb, person = doll.texture, doll.opacity[..., None].astype(np.float32) / 255
    luma, red, blue = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    colour = (red > 138) & (red < 185) & (blue > 85) & (blue < 130) & (luma > 60)
    face = np.zeros(key, np.uint8)
    cv2.fillPoly(face, [np.round(doll.source[list(mesh_deformation.OVAL)]).astype(np.int32)], 1)
    neck = np.zeros(key, np.uint8)
    cv2.fillPoly(
        neck, [np.array([(330, 200), (570, 200), (556, 290), (512, 372), (372, 372), (345, 290)], np.int32)], 1
    )
    hue, saturation, _ = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))
    suit = ((hue < 14) & (saturation > 130)).astype(np.uint8)
    suit[:390] = 0
    hair = np.zeros(key, np.uint8)
    cv2.fillPoly(hair, [np.round(doll.source[LANDMARKS : LANDMARKS + 15]).astype(np.int32)], 1)
    skin = colour & ((face | neck) > 0)
    hair[(face > 0) & (np.arange(key[0])[:, None] > 180)] = 0
    hair[skin] = 0
    return {
        name: cv2.GaussianBlur(m.astype(np.float32), (0, 0), 2.0)[..., None] * person
        for name, m in (("skin", skin), ("hair", hair), ("suit", suit))
    }


def dress(doll: Puppet, look: np.ndarray) -> np.ndarray:
    """The texture `(height, width, 3)` uint8 of a person.

    look: `(6,)` in [-1, 1]: skin, warmth, hair, hair's red, suit's hue, contrast.
    """
    masks = _masks(doll.texture.shape[:2])
    rgb = doll.texture.astype(np.float32)
    skin, warmth, hair, red, hue, contrast = (float(v) for v in look)
    darker = 1 - 0.33 * max(-skin, 0) + 0.05 * max(skin, 0)
    rgb = rgb * (
        1
        + masks["skin"] * (np.array([darker * (1 + 0.04 * warmth), darker**1.2, darker**1.4 * (1 - 0.07 * warmth)]) - 1)
    )
    shade = 1 - 0.6 * max(-hair, 0) + 0.1 * max(hair, 0)
    grey = rgb.mean(axis=2, keepdims=True)
    tinted = rgb * (1 + 0.12 * max(red, 0), 1, 1 - 0.1 * max(red, 0)) + (grey - rgb) * 0.6 * max(-red, 0)
    rgb = rgb + masks["hair"] * (shade * tinted - rgb)
    # orange turns through yellow and green to blue, and pales on the way
    turned = cv2.cvtColor(np.clip(rgb, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    turned[..., 0] = (turned[..., 0].astype(int) + round(108 * abs(hue))) % 180
    turned[..., 1] = (turned[..., 1] * (1 - 0.75 * abs(hue) ** 0.4)).astype(np.uint8)
    rgb += masks["suit"] * (cv2.cvtColor(turned, cv2.COLOR_HSV2RGB).astype(np.float32) - rgb)
    return np.clip(128 + (rgb - 128) * (1 + 0.12 * contrast), 0, 255).astype(np.uint8)


def _stroke(points: np.ndarray, size: tuple[int, int], width: float) -> np.ndarray:
    """`(height, width)` soft line of unit depth through points."""
    line = np.zeros(size, np.float32)
    cv2.polylines(line, [np.round(points * 8).astype(np.int32)], False, 1.0, max(1, round(width)), cv2.LINE_AA, 3)
    blurred = cv2.GaussianBlur(line, (0, 0), width)
    return blurred / max(float(blurred.max()), 1e-6)


class Ink:
    """Shadows that come with action units: each a soft map on the photograph, darkened by the unit's strength.

    The nasolabial folds of the photograph's own smile are smoothed away while nobody smiles.
    """

    def __init__(self, doll: Puppet, dressed: np.ndarray, actions: np.ndarray) -> None:
        size = doll.texture.shape[:2]
        low = np.floor(doll.source[:LANDMARKS].min(0)).astype(int) - 12
        high = np.ceil(doll.source[:LANDMARKS].max(0)).astype(int) + 12
        self._corner = low
        self._maps: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self._size = size
        self._box = (slice(low[1], high[1]), slice(low[0], high[0]))
        self._folds: list[np.ndarray] = []
        self._wrinkles(doll, actions)
        self._calm = [self._fold(doll, dressed, side) for side in (0, 1)]
        self._working = dressed.copy()
        self._stack = np.stack(self._maps).astype(np.float32)
        self._amount = np.clip(np.stack(self._weights, axis=1), 0, 1.3).astype(np.float32)

    def _add(self, doll: Puppet, weight: np.ndarray, landmarks: tuple[int, ...], depth: float, width: float) -> None:
        drawn = _stroke(doll.source[list(landmarks)], self._size, width)
        self._maps.append(depth * drawn[self._box])
        self._weights.append(weight)

    def _wrinkles(self, doll: Puppet, actions: np.ndarray) -> None:
        other = mirror()
        for side in (0, 1):

            def strength(unit: str, side: int = side) -> np.ndarray:
                where = index(unit)
                return actions[:, where[min(side, len(where) - 1)]]

            def here(*right: int, side: int = side) -> tuple[int, ...]:
                return tuple(int(other[i]) for i in right) if side else right

            fold = np.maximum.reduce([strength("12"), 0.8 * strength("10"), 0.7 * strength("9"), 0.6 * strength("11")])
            self._folds.append(1 - np.clip(fold, 0, 1))
            self._add(doll, np.clip(fold - 0.6, 0, 1), here(129, 203, 206, 216), 0.12, 3.0)
            self._add(doll, strength("4"), here(107, 55, 193), 0.26, 2.2)
            self._add(doll, strength("4"), here(46, 53, 52, 65), 0.16, 3.5)
            self._add(doll, strength("6"), here(111, 117, 118, 101), 0.14, 3.0)
            self._add(doll, strength("7"), here(110, 24, 23, 22), 0.14, 2.0)
            self._add(doll, strength("43"), here(33, 246, 161, 160, 159, 158, 157, 173, 133), 0.35, 1.4)
            self._add(doll, strength("9"), here(122, 196, 3), 0.22, 2.0)
            self._add(doll, strength("15"), here(57, 43, 202), 0.16, 3.5)
            self._add(doll, strength("14"), here(57, 186), 0.2, 3.0)
            self._add(doll, 0.5 * (strength("1") + strength("2")), here(104, 69, 108), 0.10, 2.0)
            self._add(doll, strength("34"), here(205, 187, 207), -0.14, 9.0)
        self._add(doll, actions[:, index("17")[0]], (204, 201, 200, 421, 424), 0.1, 3.0)
        self._add(
            doll, np.minimum(actions[:, index("1")].max(1), actions[:, index("4")].max(1)) * 1.5, (8, 9), 0.25, 2.2
        )

    def _fold(self, doll: Puppet, dressed: np.ndarray, side: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """One nasolabial fold's part of the texture, that part without it `(h, w, 3)`, and its share `(h, w, 1)`."""
        line = np.array([203, 206, 216])
        points = doll.source[mirror()[line] if side else line]
        low, high = (points.min(0) - 24).astype(int), (points.max(0) + 24).astype(int)
        part = (slice(low[1], high[1]), slice(low[0], high[0]))
        mask = np.zeros(self._size, np.uint8)
        cv2.polylines(mask, [np.round(points).astype(np.int32)], False, 1, 11, cv2.LINE_AA)
        smooth = without(dressed[part].astype(np.float32), mask[part])
        smooth += np.random.default_rng(0).normal(0, 3, smooth.shape[:2])[..., None]
        share = cv2.GaussianBlur(cv2.dilate(mask, np.ones((3, 3)))[part].astype(np.float32), (0, 0), 3.0)
        return part, smooth, share[..., None]

    def smoothed(self, dressed: np.ndarray, frame: int) -> np.ndarray:
        """`(height, width, 3)` the texture with as much of the folds as this frame's smile has. Reused by the next."""
        for (part, smooth, share), calm in zip(self._calm, self._folds, strict=True):
            weight = share * float(calm[frame])
            self._working[part] = dressed[part] * (1 - weight) + np.clip(smooth, 0, 255) * weight
        return self._working

    def apply(self, drawn: np.ndarray, frame: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """`(height, width, 3)` uint8 pixels shaded; `u, v` say where in the photograph they come from."""
        dark = np.tensordot(self._amount[frame], self._stack, axes=1)
        ink = np.clip(LIT * (1 - dark), 0, 255).astype(np.uint8)
        x, y = (np.float32(c) for c in self._corner)
        light = cv2.remap(ink, u - x, v - y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=LIT)
        # shadows on skin are brown, not grey: red keeps more of the light
        red = cv2.addWeighted(light, 0.6, light, 0.0, 0.4 * LIT)
        return cv2.multiply(drawn, cv2.merge([red, light, light]), scale=1 / LIT)
