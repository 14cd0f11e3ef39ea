"""Puppet rendering: the photograph warped by action units and head pose into a frame.

Each vertex of the triangle mesh has a position in the photograph and one in the frame. Each pixel of the frame maps
through its triangle to the photograph, so one gather and one `cv2.remap` draw the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.encoders.face_geometry import LANDMARKS, mirrored_landmarks
from mien.synthetic import appearance, mesh_deformation
from mien.synthetic.action_units import mirrored_units, unit_indices
from mien.synthetic.eyes import EyePainter, Eyes
from mien.synthetic.identities import Identity, mean_face
from mien.synthetic.mesh_tracks import deform_face, rotation_matrices
from mien.synthetic.puppet_mesh import load_puppet_mesh

#: Largest head rotation that a warped photograph can show: pitch, yaw, roll in radians.
TURN_LIMIT = np.array([0.22, 0.32, 0.22])
#: Factor on the strengths of some units. A warped photograph lacks most wrinkles of these units, which the face-mesh
#: network and people rely on. The product stops at `MAX_STRENGTH`.
EXAGGERATION = {"1": 1.4, "2": 1.4, "4": 1.6, "5": 1.5, "7": 1.3, "9": 1.3, "15": 1.3, "17": 1.1, "18": 1.3, "20": 1.4}
MAX_STRENGTH = 1.7
#: Share of an identity's shape that is applied to the photograph; more looks artificial.
SHAPE_SHARE = 0.7
#: Centre of head rotation (the neck) in the coordinates of the head, interocular units.
JOINT = np.array([0.0, 1.25, 0.9])
#: Mouth opening from which the teeth are fully lit, interocular units.
LIT_FROM = 0.06
#: Distance below which lids overlap in the picture (lashes), interocular units.
LASHES = 0.015
#: Three points of the plane of the teeth, behind the lips; they define the warp of the inside of the mouth.
_TEETH = np.array([[-0.3, 0.7, 0.1], [0.3, 0.7, 0.1], [0.0, 1.0, 0.1]])

#: Left, top, right, bottom in pixels of the frame.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Placement:
    """Position of a person in the frame.

    zoom: frame pixels per pixel of the enlarged photograph. corner: frame position of its top left corner. mirrored:
    the photograph is flipped horizontally.
    """

    zoom: float
    corner: tuple[float, float]
    mirrored: bool = False


def exaggerate(actions: np.ndarray) -> np.ndarray:
    """`(time, units)` strengths multiplied by `EXAGGERATION`, up to `MAX_STRENGTH`."""
    out = actions.copy()
    for unit, factor in EXAGGERATION.items():
        out[:, unit_indices(unit)] = np.minimum(
            factor * out[:, unit_indices(unit)], np.maximum(MAX_STRENGTH, out[:, unit_indices(unit)])
        )
    return out


def _turns(pose: np.ndarray) -> np.ndarray:
    """`(time, 3, 3)` rotations of the drawn head, within `TURN_LIMIT`."""
    return rotation_matrices(TURN_LIMIT * np.tanh(pose / TURN_LIMIT))


class PuppetRenderer:
    """Renderer of one person of a recording, frame by frame.

    Args:
        identity: the person.
        actions: `(time, units)` action-unit strengths.
        pose: `(time, 3)` pitch, yaw, roll in radians.
        sway: `(time, 2)` displacement of the head in interocular units.
        placement: position in the frame.
        size: width and height of the frame.
        eyes: eyes to paint; None leaves those of the photograph, which look at the camera.
    """

    def __init__(
        self,
        identity: Identity,
        actions: np.ndarray,
        pose: np.ndarray,
        sway: np.ndarray,
        placement: Placement,
        size: tuple[int, int],
        eyes: Eyes | None = None,
    ) -> None:
        self._puppet = puppet = load_puppet_mesh()
        self._size = size
        self._eyes: EyePainter | None = None
        if eyes is not None:
            self._eyes = EyePainter(eyes, puppet.triangles, _turns(pose), puppet.scale * placement.zoom)
        shape_change = identity.rest - mean_face()
        if placement.mirrored:
            # the photograph is flipped, the scenario is not: mirror the movements, so that the flip restores them
            pose, actions = pose * (1, -1, -1), actions[:, mirrored_units()]
            shape_change = shape_change[mirrored_landmarks()] * (-1, 1, 1)
        actions = exaggerate(actions)
        self._texture = appearance.tint_texture(puppet, identity.tints)
        self._shading = appearance.WrinkleShading(puppet, self._texture, actions)
        self._vertices = self._place_vertices(shape_change, actions, pose, sway, placement)
        a, b = (puppet.source[puppet.triangles[:, k]] - puppet.source[puppet.triangles[:, 0]] for k in (1, 2))
        self._orientation = np.sign(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) * (-1 if placement.mirrored else 1)
        moving = puppet.follow[puppet.triangles].any(axis=1)
        self._moving = np.flatnonzero(moving)
        self._moving_vertices = np.unique(puppet.triangles[moving])
        self._body = self._draw_static(~moving)

    def _place_vertices(
        self, shape_change: np.ndarray, actions: np.ndarray, pose: np.ndarray, sway: np.ndarray, placement: Placement
    ) -> np.ndarray:
        """`(time, points + 3, 3)` positions in the frame and depth; the last three are `_TEETH`."""
        puppet = self._puppet
        time, points = len(actions), len(puppet.head)
        outline = puppet.head[LANDMARKS:]
        near = np.exp(-((outline[:, None, :2] - puppet.head[None, :LANDMARKS, :2]) ** 2).sum(-1) / 0.1)
        near /= near.sum(axis=1, keepdims=True) + 1e-9
        head = np.empty((time, points + 3, 3))
        head[:, :LANDMARKS] = deform_face(puppet.head[:LANDMARKS] + SHAPE_SHARE * shape_change, actions)
        upper_lid, lower_lid = mesh_deformation.lid_pairs()
        shut = np.clip(1 - (head[:, lower_lid, 1] - head[:, upper_lid, 1]) / LASHES, 0, 1)
        head[:, upper_lid, 1] += 2 * LASHES * shut
        head[:, LANDMARKS:points] = outline + SHAPE_SHARE * near @ shape_change
        head[:, points:] = _TEETH + np.array((0, puppet.teeth, 0))
        upper, lower = mesh_deformation.inner_lip_pairs()
        gap = (head[:, lower, 1] - head[:, upper, 1]).max(axis=1)
        self._teeth_light = np.clip(gap / LIT_FROM, 0.1, 1.0)
        turned = np.matmul(head - JOINT, _turns(pose).transpose(0, 2, 1))
        joint = puppet.origin + puppet.scale * (rotation_matrices(puppet.pose[None])[0] @ JOINT)[:2]
        turned *= puppet.scale
        turned[..., :2] += joint + puppet.scale * sway[:, None]
        follow = puppet.follow[:, None]
        turned[:, :points, :2] = follow * turned[:, :points, :2] + (1 - follow) * puppet.source
        turned[:, np.flatnonzero(puppet.follow < 1), 2] = 2 * puppet.scale
        if placement.mirrored:
            turned[..., 0] = puppet.texture.shape[1] - 1 - turned[..., 0]
        turned[..., :2] = turned[..., :2] * placement.zoom + placement.corner
        return np.asarray(turned)

    def _draw_static(self, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixels `(height, width, 3)` and opacity `(height, width)` of the triangles that never move."""
        box = (0, 0, *self._size)
        triangle_map = self._rasterise(self._vertices[0], np.flatnonzero(triangles), box)
        return self._draw(self._vertices[0], triangle_map, box, None)

    def _rasterise(self, vertices: np.ndarray, triangles: np.ndarray, box: Box) -> np.ndarray:
        """`(height, width)` int32: index of the nearest triangle at each pixel of the box, -1 where there is none."""
        x0, y0, x1, y1 = box
        corners = vertices[self._puppet.triangles[triangles]]
        # triangles between lips and lids are drawn before the skin, so that closed ones show no gap; so is skin seen
        # from behind
        a, b = corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2]
        folded = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) * self._orientation[triangles] < 0
        layer = np.where(folded, np.minimum(self._puppet.layer[triangles], 1), self._puppet.layer[triangles])
        order = np.lexsort((-corners[..., 2].mean(axis=1), layer))
        points = np.round((corners[order, :, :2] - (x0, y0)) * 16).astype(np.int32)
        triangle_map = np.full((y1 - y0, x1 - x0), -1, np.int32)
        for triangle, polygon in zip(triangles[order].tolist(), points, strict=True):
            cv2.fillConvexPoly(triangle_map, polygon, triangle, shift=4)
        return triangle_map

    def _draw(
        self, vertices: np.ndarray, triangle_map: np.ndarray, box: Box, frame: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pixels `(height, width, 3)` and opacity `(height, width)`, uint8. No shading if `frame` is None."""
        puppet = self._puppet
        back = inverse_affines(vertices[puppet.triangles][..., :2], puppet.source[puppet.triangles])
        back[..., 2] += back[..., 0] * box[0] + back[..., 1] * box[1]
        weights = np.ascontiguousarray(back.reshape(-1, 6).T, dtype=np.float32)
        under = np.maximum(triangle_map, 0)
        x = np.arange(triangle_map.shape[1], dtype=np.float32)
        y = np.arange(triangle_map.shape[0], dtype=np.float32)[:, None]
        u = weights[0][under] * x + weights[1][under] * y + weights[2][under]
        v = weights[3][under] * x + weights[4][under] * y + weights[5][under]
        texture = self._texture if frame is None else self._shading.smooth_folds(frame)
        out = cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        opacity = cv2.remap(puppet.opacity, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        opacity[triangle_map < 0] = 0
        if frame is not None:
            out = self._shading.shade(out, frame, u, v)
        hollow = puppet.hollow[under] & (triangle_map >= 0)
        if frame is not None and hollow.any():
            self._fill_mouth(out, hollow, vertices, box, float(self._teeth_light[frame]))
        return out, opacity

    def _fill_mouth(self, out: np.ndarray, hollow: np.ndarray, vertices: np.ndarray, box: Box, light: float) -> None:
        """Draw the inside of the mouth into `out`. The teeth follow the skull, not the lips."""
        puppet = self._puppet
        rest = puppet.origin + puppet.scale * (_TEETH @ rotation_matrices(puppet.pose[None])[0].T)[:, :2]
        back = inverse_affines(vertices[None, -3:, :2], rest[None])[0]
        x, y, width, height = cv2.boundingRect(hollow.astype(np.uint8))
        part = (slice(max(y - 2, 0), y + height + 2), slice(max(x - 2, 0), x + width + 2))
        soft = cv2.GaussianBlur(hollow[part].astype(np.float32), (0, 0), 0.7)[..., None]
        back[:, 2] += back[:, :2] @ (box[0] + part[1].start, box[1] + part[0].start)
        inside = cv2.warpAffine(puppet.mouth, back, soft.shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        out[part] = out[part] * (1 - soft) + inside * (light * soft)

    def draw_body(self, canvas: np.ndarray, shift: int = 0) -> None:
        """Draw the static part into `canvas` `(height, width, 3)` uint8, shifted right by `shift` pixels."""
        blend(canvas, *self._body, (shift, 0))

    def draw_head(self, canvas: np.ndarray, frame: int, shift: int = 0) -> None:
        """Draw the moving part of a frame over the body, shifted right by `shift` pixels."""
        vertices = self._vertices[frame]
        moved = vertices[self._moving_vertices, :2]
        low, high = np.floor(moved.min(0)).astype(int), np.ceil(moved.max(0)).astype(int) + 1
        x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
        box = (x0, y0, min(int(high[0]), self._size[0]), min(int(high[1]), self._size[1]))
        if box[2] > box[0] and box[3] > box[1]:
            triangle_map = self._rasterise(vertices, self._moving, box)
            drawn = self._draw(vertices, triangle_map, box, frame)
            if self._eyes is not None:
                self._eyes.paint(drawn[0], triangle_map, vertices, box[:2], frame)
            blend(canvas, *drawn, (box[0] + shift, box[1]))


def blend(canvas: np.ndarray, layer: np.ndarray, opacity: np.ndarray, corner: tuple[int, int]) -> None:
    """Blend a layer over the canvas in place, clipped to the canvas.

    Args:
        canvas: `(height, width, 3)` uint8.
        layer: `(h, w, 3)` uint8. opacity: `(h, w)` uint8.
        corner: x, y of the layer's top left corner on the canvas.
    """
    x, y = corner
    left, right = max(x, 0), min(x + layer.shape[1], canvas.shape[1])
    top, bottom = max(y, 0), min(y + layer.shape[0], canvas.shape[0])
    if right <= left or bottom <= top:
        return
    part = (slice(top - y, bottom - y), slice(left - x, right - x))
    under, share = canvas[top:bottom, left:right], cv2.merge([opacity[part]] * 3)
    background = cv2.multiply(np.ascontiguousarray(under), cv2.bitwise_not(share), scale=1 / 255)
    under[:] = cv2.add(background, cv2.multiply(np.ascontiguousarray(layer[part]), share, scale=1 / 255))


def inverse_affines(vertices: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Affine maps from the frame to the photograph, one for each triangle.

    Args:
        vertices: `(n, 3, 2)` corners in the frame.
        source: `(n, 3, 2)` corners in the photograph.

    Returns:
        `(n, 2, 3)`. A triangle without area maps to its first corner.
    """
    a, b = vertices[:, 1] - vertices[:, 0], vertices[:, 2] - vertices[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    safe = np.where(np.abs(area) < 1e-6, np.inf, area)
    inverse = np.stack([np.stack([b[:, 1], -b[:, 0]], 1), np.stack([-a[:, 1], a[:, 0]], 1)], 1) / safe[:, None, None]
    edges = np.stack([source[:, 1] - source[:, 0], source[:, 2] - source[:, 0]], axis=2)
    linear = edges @ inverse
    return np.concatenate([linear, (source[:, 0] - np.einsum("nij,nj->ni", linear, vertices[:, 0]))[..., None]], axis=2)
