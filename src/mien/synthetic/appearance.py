"""Appearance: tints of skin, hair and suit, and shading by wrinkles, to make many people from one photograph."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from mien.encoders.face_geometry import LANDMARKS, mirrored_landmarks
from mien.synthetic import mesh_deformation
from mien.synthetic.action_units import unit_indices
from mien.synthetic.puppet_mesh import PuppetMesh, inpaint, load_puppet_mesh

#: Value of an unshaded pixel in a shading map.
UNSHADED = 200


@lru_cache(maxsize=1)
def _masks() -> dict[str, np.ndarray]:
    """`(height, width, 1)` masks of skin, hair and suit in the photograph, in [0, 1]."""
    puppet = load_puppet_mesh()
    size = puppet.texture.shape[:2]
    rgb, person = puppet.texture, puppet.opacity[..., None].astype(np.float32) / 255
    luma, red, blue = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb))
    colour = (red > 138) & (red < 185) & (blue > 85) & (blue < 130) & (luma > 60)
    face = np.zeros(size, np.uint8)
    cv2.fillPoly(face, [np.round(puppet.source[list(mesh_deformation.OVAL)]).astype(np.int32)], 1)
    neck = np.zeros(size, np.uint8)
    cv2.fillPoly(
        neck, [np.array([(330, 200), (570, 200), (556, 290), (512, 372), (372, 372), (345, 290)], np.int32)], 1
    )
    hue, saturation, _ = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))
    suit = ((hue < 14) & (saturation > 130)).astype(np.uint8)
    suit[:390] = 0
    hair = np.zeros(size, np.uint8)
    cv2.fillPoly(hair, [np.round(puppet.source[LANDMARKS : LANDMARKS + 15]).astype(np.int32)], 1)
    skin = colour & ((face | neck) > 0)
    hair[(face > 0) & (np.arange(size[0])[:, None] > 180)] = 0
    hair[skin] = 0
    return {
        name: cv2.GaussianBlur(m.astype(np.float32), (0, 0), 2.0)[..., None] * person
        for name, m in (("skin", skin), ("hair", hair), ("suit", suit))
    }


def tint_texture(puppet: PuppetMesh, tints: np.ndarray) -> np.ndarray:
    """Colour the photograph for one identity.

    Args:
        tints: `(6,)` in [-1, 1]: skin, warmth, hair, red of the hair, hue of the suit, contrast.

    Returns:
        Texture `(height, width, 3)` uint8 RGB.
    """
    masks = _masks()
    rgb = puppet.texture.astype(np.float32)
    skin, warmth, hair, red, hue, contrast = (float(v) for v in tints)
    darker = 1 - 0.33 * max(-skin, 0) + 0.05 * max(skin, 0)
    rgb = rgb * (
        1
        + masks["skin"] * (np.array([darker * (1 + 0.04 * warmth), darker**1.2, darker**1.4 * (1 - 0.07 * warmth)]) - 1)
    )
    shade = 1 - 0.6 * max(-hair, 0) + 0.1 * max(hair, 0)
    grey = rgb.mean(axis=2, keepdims=True)
    tinted = rgb * (1 + 0.12 * max(red, 0), 1, 1 - 0.1 * max(red, 0)) + (grey - rgb) * 0.6 * max(-red, 0)
    rgb = rgb + masks["hair"] * (shade * tinted - rgb)
    # the hue turns from orange through yellow and green to blue, and loses saturation
    turned = cv2.cvtColor(np.clip(rgb, 0, 255).astype(np.uint8), cv2.COLOR_RGB2HSV)
    turned[..., 0] = (turned[..., 0].astype(int) + round(108 * abs(hue))) % 180
    turned[..., 1] = (turned[..., 1] * (1 - 0.75 * abs(hue) ** 0.4)).astype(np.uint8)
    rgb += masks["suit"] * (cv2.cvtColor(turned, cv2.COLOR_HSV2RGB).astype(np.float32) - rgb)
    return np.asarray(np.clip(128 + (rgb - 128) * (1 + 0.12 * contrast), 0, 255), np.uint8)


def _stroke(points: np.ndarray, size: tuple[int, int], width: float) -> np.ndarray:
    """`(height, width)` soft line through points, of maximum 1."""
    line = np.zeros(size, np.float32)
    cv2.polylines(line, [np.round(points * 8).astype(np.int32)], False, 1.0, max(1, round(width)), cv2.LINE_AA, 3)
    blurred = cv2.GaussianBlur(line, (0, 0), width)
    return np.asarray(blurred / max(float(blurred.max()), 1e-6))


class WrinkleShading:
    """Shading of wrinkles: one soft map of the photograph for each wrinkle, weighted by action units.

    The nasolabial folds of the photograph's own smile are smoothed while the rendered face does not smile.

    Args:
        puppet: the puppet mesh.
        texture: `(height, width, 3)` uint8 tinted photograph.
        actions: `(frame, units)` action-unit strengths.
    """

    def __init__(self, puppet: PuppetMesh, texture: np.ndarray, actions: np.ndarray) -> None:
        self._puppet = puppet
        self._texture = texture
        self._size = texture.shape[:2]
        low = np.floor(puppet.source[:LANDMARKS].min(0)).astype(int) - 12
        high = np.ceil(puppet.source[:LANDMARKS].max(0)).astype(int) + 12
        self._corner = low
        self._box = (slice(low[1], high[1]), slice(low[0], high[0]))
        self._maps: list[np.ndarray] = []
        self._weights: list[np.ndarray] = []
        self._fold_smoothing: list[np.ndarray] = []
        self._add_wrinkles(actions)
        self._folds = [self._smooth_fold(side) for side in (0, 1)]
        self._working = texture.copy()
        self._stack = np.stack(self._maps).astype(np.float32)
        self._amount = np.clip(np.stack(self._weights, axis=1), 0, 1.3).astype(np.float32)

    def _add(self, weight: np.ndarray, landmarks: tuple[int, ...], depth: float, width: float) -> None:
        """Add the map of one wrinkle through landmarks. weight: `(frame,)`; depth: darkening at weight 1."""
        line = _stroke(self._puppet.source[list(landmarks)], self._size, width)
        self._maps.append(depth * line[self._box])
        self._weights.append(weight)

    def _add_wrinkles(self, actions: np.ndarray) -> None:
        mirrored = mirrored_landmarks()
        for side in (0, 1):

            def strength(unit: str, side: int = side) -> np.ndarray:
                indices = unit_indices(unit)
                return actions[:, indices[min(side, len(indices) - 1)]]

            def landmarks(*right: int, side: int = side) -> tuple[int, ...]:
                return tuple(int(mirrored[i]) for i in right) if side else right

            fold = np.maximum.reduce([strength("12"), 0.8 * strength("10"), 0.7 * strength("9"), 0.6 * strength("11")])
            self._fold_smoothing.append(1 - np.clip(fold, 0, 1))
            self._add(np.clip(fold - 0.6, 0, 1), landmarks(129, 203, 206, 216), 0.12, 3.0)
            self._add(strength("4"), landmarks(107, 55, 193), 0.26, 2.2)
            self._add(strength("4"), landmarks(46, 53, 52, 65), 0.16, 3.5)
            self._add(strength("6"), landmarks(111, 117, 118, 101), 0.14, 3.0)
            self._add(strength("7"), landmarks(110, 24, 23, 22), 0.14, 2.0)
            self._add(strength("43"), landmarks(33, 246, 161, 160, 159, 158, 157, 173, 133), 0.35, 1.4)
            self._add(strength("9"), landmarks(122, 196, 3), 0.22, 2.0)
            self._add(strength("15"), landmarks(57, 43, 202), 0.16, 3.5)
            self._add(strength("14"), landmarks(57, 186), 0.2, 3.0)
            self._add(0.5 * (strength("1") + strength("2")), landmarks(104, 69, 108), 0.10, 2.0)
            self._add(strength("34"), landmarks(205, 187, 207), -0.14, 9.0)
        self._add(actions[:, unit_indices("17")[0]], (204, 201, 200, 421, 424), 0.1, 3.0)
        self._add(
            np.minimum(actions[:, unit_indices("1")].max(1), actions[:, unit_indices("4")].max(1)) * 1.5,
            (8, 9),
            0.25,
            2.2,
        )

    def _smooth_fold(self, side: int) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """Region of one nasolabial fold, its texture without the fold `(h, w, 3)`, and its mask `(h, w, 1)`."""
        line = np.array([203, 206, 216])
        points = self._puppet.source[mirrored_landmarks()[line] if side else line]
        low, high = (points.min(0) - 24).astype(int), (points.max(0) + 24).astype(int)
        region = (slice(low[1], high[1]), slice(low[0], high[0]))
        mask = np.zeros(self._size, np.uint8)
        cv2.polylines(mask, [np.round(points).astype(np.int32)], False, 1, 11, cv2.LINE_AA)
        smooth = inpaint(self._texture[region].astype(np.float32), mask[region])
        smooth += np.random.default_rng(0).normal(0, 3, smooth.shape[:2])[..., None]
        weight = cv2.GaussianBlur(cv2.dilate(mask, np.ones((3, 3)))[region].astype(np.float32), (0, 0), 3.0)
        return region, smooth, weight[..., None]

    def smooth_folds(self, frame: int) -> np.ndarray:
        """Texture `(height, width, 3)` uint8 of a frame, folds smoothed. The next call overwrites the array."""
        for (region, smooth, mask), smoothing in zip(self._folds, self._fold_smoothing, strict=True):
            weight = mask * float(smoothing[frame])
            self._working[region] = self._texture[region] * (1 - weight) + np.clip(smooth, 0, 255) * weight
        return self._working

    def shade(self, image: np.ndarray, frame: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Darken the wrinkles of a frame.

        Args:
            image: `(height, width, 3)` uint8 pixels.
            u, v: `(height, width)` float32 position of each pixel in the photograph.

        Returns:
            `(height, width, 3)` uint8.
        """
        dark = np.tensordot(self._amount[frame], self._stack, axes=1)
        shading = np.clip(UNSHADED * (1 - dark), 0, 255).astype(np.uint8)
        x, y = (np.float32(c) for c in self._corner)
        light = cv2.remap(shading, u - x, v - y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=UNSHADED)
        # shadows on skin are brown: red keeps more of the light
        red = cv2.addWeighted(light, 0.6, light, 0.0, 0.4 * UNSHADED)
        return cv2.multiply(image, cv2.merge([red, light, light]), scale=1 / UNSHADED)
