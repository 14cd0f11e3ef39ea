"""A clip of a drawn person for pictures in docs: mien.synthetic's face geometry, shaded as a surface, and its speech.

`mien.synthetic.render` warps a photograph, and docs show no face of a real person. Nothing here
comes from a photograph.

python bench/drawn_face.py clip.mp4 --seconds 20
"""

# ruff: noqa: RUF005 (arrays are added, not joined)

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import Delaunay

from mien.encoders.face_geometry import mirrored_landmarks
from mien.media.video import write_video
from mien.synthetic import mesh_deformation as mesh
from mien.synthetic.demo_clip import demo_scenario
from mien.synthetic.expression_prototypes import prototypes
from mien.synthetic.mesh_tracks import (
    deform_face,
    identity_of,
    rotation_matrices,
    simulate_actions,
    simulate_head_pose,
)
from mien.synthetic.scenario import Scenario, Segment
from mien.synthetic.speech_synthesis import synthesise_scenario

SIZE, OVERSAMPLING, RATE = (640, 360), 2, 15
#: Middle of the face in the picture, and pixels of an interocular unit.
CENTRE, SCALE = np.array([322.0, 172.0]), 84.0
Colour = tuple[int, int, int]
WALL = (np.array((196, 205, 208.0)), np.array((150, 164, 172.0)))
LIGHT = np.array([-0.35, -0.45, -0.82])
#: Landmarks below the hair, from cheek to cheek.
HAIRLINE = (93, 234, 127, 162, 21, 54, 103, 67, 109, 10, 338, 297, 332, 284, 251, 389, 356, 454, 323)
#: Expressions of the clip, as shares of its length.
SEGMENTS = (("laugh", 0.3), ("rest", 0.1), ("gape", 0.2), ("rest", 0.1), ("Duchenne smile", 0.3))


@dataclass(frozen=True, slots=True)
class Look:
    """How a drawn person looks: colours, and the random seed from which the shape of the face is drawn."""

    seed: int = 11
    skin: Colour = (222, 172, 142)
    lips: Colour = (178, 84, 84)
    hair: Colour = (62, 42, 36)
    shirt: Colour = (72, 98, 128)


def scenario(seconds: float, seed: int = 11, acts: Sequence[tuple[str, float]] = SEGMENTS) -> Scenario:
    """What the person does: `acts`, expressions as shares of the time, and speech in half of the time."""
    segments, now = [], 0.0
    for name, share in acts:
        expression = prototypes()[name].expression
        segments.append(Segment(now, now + share * seconds, expression, name, 1.0 if expression else 0.0, 0.3, 0.35))
        now += share * seconds
    speech = tuple((a * seconds, (a + 0.13) * seconds) for a in (0.05, 0.3, 0.55, 0.8))
    return replace(
        demo_scenario(seconds),
        identity_seed=seed,
        segments=tuple(segments),
        speech=speech,
        impairments=(),
        rate=Fraction(RATE),
    )


def _ring(upper: tuple[int, ...], lower: tuple[int, ...], *, mirrored: bool = False) -> np.ndarray:
    """Landmarks of an outline: along the upper edge, back along the lower one."""
    ring = np.array([*upper, *reversed(lower)])
    return mirrored_landmarks()[ring] if mirrored else ring


def _mouth(upper: tuple[int, ...], lower: tuple[int, ...]) -> np.ndarray:
    """Landmarks of an outline of the mouth, both sides, from half outlines that begin at the corner."""
    other = mirrored_landmarks()
    top = [*upper, *other[list(reversed(upper[:-1]))]]
    bottom = [*other[list(lower[1:-1])], *reversed(lower[1:])]
    return np.array([*top, *bottom])


class DrawnFace:
    """Frames of a scenario. times: `(frame,)` seconds."""

    def __init__(self, found: Scenario, opening: np.ndarray, look: Look) -> None:
        self._skin, self._lips, self._hair, self._shirt = (
            np.array(colour, float) for colour in (look.skin, look.lips, look.hair, look.shirt)
        )
        self.times = found.times()
        identity = identity_of(found.identity_seed, found.sex)
        head = deform_face(identity.rest, simulate_actions(found, identity, self.times, opening)).astype(float)
        turn = rotation_matrices(0.6 * simulate_head_pose(found, self.times))
        joint = np.array([0.0, 1.25, 0.9])
        self._head = np.matmul(head - joint, turn.transpose(0, 2, 1)) + joint
        self._turn, self._joint = turn, joint
        flat = mesh.unfolded_face()[:, :2]
        triangles = Delaunay(flat).simplices
        holes = [_ring((33, *mesh.LID_UPPER, 133), mesh.LID_LOWER, mirrored=m) for m in (False, True)]
        holes.append(_mouth(mesh.LIP_INNER_UPPER, mesh.LIP_INNER_LOWER))
        outline = flat[list(mesh.OVAL)].astype(np.float32)
        middles = flat[triangles].mean(axis=1)
        within = [cv2.pointPolygonTest(outline, (float(x), float(y)), False) >= 0 for x, y in middles]
        is_hole = np.any([np.isin(triangles, hole).all(axis=1) for hole in holes], axis=0)
        self._triangles = triangles[np.array(within) & ~is_hole]
        a, b = (flat[self._triangles[:, k]] - flat[self._triangles[:, 0]] for k in (1, 2))
        turned = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] > 0
        self._triangles[turned] = self._triangles[turned][:, ::-1]
        self._eyes, self._inner = holes[:2], holes[2]
        self._outer = _mouth(mesh.LIP_OUTER_UPPER, mesh.LIP_OUTER_LOWER)
        self._brows = [_ring(mesh.BROW_UPPER, mesh.BROW_LOWER, mirrored=m) for m in (False, True)]

    def frames(self) -> Iterator[np.ndarray]:
        """Yield `(360, 640, 3)` uint8 RGB, one for each of `times`."""
        for frame in range(len(self.times)):
            yield self._draw(frame)

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        """Head coordinates `(n, 3)` -> pixels `(n, 2)` of the oversampled picture."""
        return (points[:, :2] * SCALE + CENTRE) * OVERSAMPLING

    def _draw(self, frame: int) -> np.ndarray:
        head = self._head[frame]
        width, height = (s * OVERSAMPLING for s in SIZE)
        share = np.linspace(0, 1, height)[:, None, None]
        image = np.broadcast_to(WALL[0] * (1 - share) + WALL[1] * share, (height, width, 3)).copy()
        at = self._pixels(head)
        turned = (np.array([[0, -0.5, 0.9], [0, 0.9, 1.0]]) - self._joint) @ self._turn[frame].T + self._joint
        crown, nape = self._pixels(turned)
        unit = SCALE * OVERSAMPLING
        _fill_ellipse(image, crown + (0, 0.62 * unit), (1.24 * unit, 1.62 * unit), self._hair * 0.78)
        _fill_ellipse(image, (CENTRE + (0, 3.05 * SCALE)) * OVERSAMPLING, (2.35 * unit, 1.5 * unit), self._shirt)
        neck = np.array([nape + (-0.46 * unit, 0), nape + (0.46 * unit, 0), nape + (0.6 * unit, 1.0 * unit)])
        _fill(image, np.concatenate([neck, [nape + (-0.6 * unit, 1.0 * unit)]]), self._skin * 0.7)
        _fill_ellipse(image, nape + (0, 0.85 * unit), (0.62 * unit, 0.36 * unit), self._skin * 0.7)
        _fill_ellipse(image, crown + (0, 0.12 * unit), (1.1 * unit, 1.06 * unit), self._hair)
        low, high = at.min(axis=0).astype(int) - 30, at.max(axis=0).astype(int) + 30
        face, at = image[max(0, low[1]) : high[1], low[0] : high[0]], at - (low[0], max(0, low[1]))
        self._draw_skin(face, head, at)
        for eye in self._eyes:
            self._draw_eye(face, at[eye])
        for brow in self._brows:
            _fill(face, at[brow], self._hair * 1.15)
        self._draw_lips(face, at)
        for nostril in (99, 328):
            _fill_ellipse(face, at[nostril], (0.05 * unit, 0.026 * unit), self._skin * 0.42)
        self._draw_hair(image, crown, at + (low[0], max(0, low[1])))
        return np.clip(cv2.resize(image, SIZE, interpolation=cv2.INTER_AREA), 0, 255).astype(np.uint8)

    def _draw_skin(self, image: np.ndarray, head: np.ndarray, at: np.ndarray) -> None:
        """The surface of the face, shaded by the directions of its vertices."""
        corners = head[self._triangles]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        vertex = np.zeros_like(head)
        for k in range(3):
            np.add.at(vertex, self._triangles[:, k], normals)
        vertex *= np.sign(-vertex[:, 2:].mean())  # towards the camera
        vertex /= np.linalg.norm(vertex, axis=1, keepdims=True) + 1e-9
        light = 0.62 + 0.42 * np.clip(vertex @ (LIGHT / np.linalg.norm(LIGHT)), 0, 1)
        blush = sum(np.exp(-((head[:, :2] - head[i, :2]) ** 2).sum(1) / 0.12) for i in (50, 280))
        colours = self._skin * light[:, None] + np.array((6, -8, -6.0)) * blush[:, None]
        layer, cover = image.copy(), np.zeros(image.shape[:2], np.float32)
        for triangle in self._triangles[np.argsort(-corners[..., 2].mean(axis=1))]:
            _fill(layer, at[triangle], colours[triangle].mean(axis=0))
            _fill(cover, at[triangle], np.array([1.0]))
        smooth = cv2.GaussianBlur(layer * cover[..., None], (0, 0), 6)
        weight = cv2.GaussianBlur(cover, (0, 0), 6)
        edge = cv2.GaussianBlur(cover, (0, 0), 1.5)[..., None]
        image[:] = image * (1 - edge) + edge * smooth / np.maximum(weight, 1e-3)[..., None]

    def _draw_hair(self, image: np.ndarray, crown: np.ndarray, at: np.ndarray) -> None:
        """The hair in front of the forehead and beside the cheeks."""
        unit = SCALE * OVERSAMPLING
        edge = at[list(HAIRLINE)].copy()
        edge[:, 1] += unit * 0.13 * np.sin(np.pi * np.arange(len(edge)) / (len(edge) - 1)) ** 2
        angles = np.linspace(-0.5, np.pi + 0.5, 30)
        dome = crown + (0, 0.2 * unit) + unit * np.stack([1.2 * np.cos(angles), -1.13 * np.sin(angles)], axis=1)
        _fill(image, np.concatenate([edge, dome]), self._hair)

    def _draw_eye(self, image: np.ndarray, ring: np.ndarray) -> None:
        unit = SCALE * OVERSAMPLING
        mask = np.zeros(image.shape[:2], np.float32)
        _fill(mask, ring, np.array([1.0]))
        layer = image.copy()
        _fill(layer, ring, np.array((240, 238, 234.0)))
        centre = ring.mean(axis=0) + (0, -0.01 * unit)
        for radius, colour in ((0.135, (52, 66, 78)), (0.115, (86, 112, 128)), (0.06, (16, 16, 20))):
            _fill_ellipse(layer, centre, (radius * unit, radius * unit), np.array(colour, float))
        _fill_ellipse(layer, centre + (-0.04 * unit, -0.045 * unit), (0.024 * unit,) * 2, np.array((250, 250, 250.0)))
        image[:] = np.where(mask[..., None] > 0, layer, image)
        upper = ring[: len(ring) - 7]
        cv2.polylines(image, [np.int32(upper)], False, tuple(self._hair * 0.7), int(0.05 * unit), cv2.LINE_AA)
        cv2.polylines(image, [np.int32(ring[-7:])], False, tuple(self._skin * 0.62), int(0.02 * unit), cv2.LINE_AA)

    def _draw_lips(self, image: np.ndarray, at: np.ndarray) -> None:
        unit = SCALE * OVERSAMPLING
        _fill(image, at[self._outer], self._lips)
        inner = at[self._inner]
        _fill(image, inner, np.array((62, 24, 28.0)))
        top, bottom = inner[5], inner[15]
        if bottom[1] - top[1] > 0.05 * unit:
            mask = np.zeros(image.shape[:2], np.float32)
            _fill(mask, inner, np.array([1.0]))
            teeth = np.concatenate([inner[:11], (inner[:11] + (0, 0.16 * unit))[::-1]])
            layer = image.copy()
            _fill(layer, teeth, np.array((236, 232, 224.0)))
            image[:] = np.where(mask[..., None] > 0, layer, image)
        cv2.polylines(image, [np.int32(inner)], True, tuple(self._lips * 0.55), int(0.02 * unit), cv2.LINE_AA)


def _fill(image: np.ndarray, polygon: np.ndarray, colour: np.ndarray) -> None:
    cv2.fillPoly(image, [np.round(polygon * 16).astype(np.int32)], tuple(colour), cv2.LINE_8, shift=4)


def _fill_ellipse(image: np.ndarray, centre: np.ndarray, axes: tuple[float, float], colour: np.ndarray) -> None:
    points = [centre + np.array(axes) * (np.cos(a), np.sin(a)) for a in np.linspace(0, 2 * np.pi, 60, endpoint=False)]
    _fill(image, np.array(points), colour)


def write_clip(path: Path, seconds: float, look: Look = Look(), acts: Sequence[tuple[str, float]] = SEGMENTS) -> None:
    """Write the clip as MP4: H.264, 640 × 360, with its voice. acts: expressions as shares of the time."""
    found = scenario(seconds, look.seed, acts)
    speech = synthesise_scenario(found)
    face = DrawnFace(found, speech.mouth_opening_at(found.times()), look)
    write_video(path, face.frames(), times=face.times.tolist(), audio=speech.samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    write_clip(given.path, given.seconds)


if __name__ == "__main__":
    main()
