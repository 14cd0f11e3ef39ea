"""The puppet on stage: one person's photograph moved by action units and pose, drawn into a frame.

Every corner of the net of triangles has a place in the photograph and a place in the frame; a pixel of the frame
asks its triangle where in the photograph it comes from, so that one gather and one `cv2.remap` draw the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mien.encoders.face_geometry import LANDMARKS, mirror
from mien.synthetic import appearance, mesh_deformation
from mien.synthetic.action_units import index, other_side
from mien.synthetic.identities import average
from mien.synthetic.mesh_tracks import cast, rotation, shape
from mien.synthetic.puppet_mesh import Puppet, puppet

#: A photograph bears only so much turning: pitch, yaw, roll in radians.
TURN_LIMIT = np.array([0.22, 0.32, 0.22])
#: Stage acting: a warped photograph lacks most of the wrinkles by which the network (and the public) reads these
#: units, so they are played larger than the plan has them; strengths stop at `LARGEST`.
ACTING = {"1": 1.4, "2": 1.4, "4": 1.6, "5": 1.5, "7": 1.3, "9": 1.3, "15": 1.3, "17": 1.1, "18": 1.3, "20": 1.4}
LARGEST = 1.7
#: How much of another person's shape the photograph takes on before it looks drawn.
SHAPE_SHARE = 0.7
#: The neck's joint in the head's frame, interocular units: what stays in place when the head turns.
JOINT = np.array([0.0, 1.25, 0.9])
#: Teeth are in the lips' shadow until the mouth is open so far, interocular units.
LIT_FROM = 0.06
#: Lids that come so close overlap in the picture, interocular units.
LASHES = 0.015
#: A point of the teeth plane, behind the lips; three of them carry the inside of the mouth.
_TEETH = np.array([[-0.3, 0.7, 0.1], [0.3, 0.7, 0.1], [0.0, 1.0, 0.1]])


#: Left, top, right, bottom in pixels of the frame.
Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Placing:
    """Where a person stands in the frame. zoom: frame pixels of one of the enlarged photograph's; corner: `(2,)`
    the frame position of its top left corner; mirrored: looks at us from the other side of the mirror."""

    zoom: float
    corner: tuple[float, float]
    mirrored: bool = False


def played(actions: np.ndarray) -> np.ndarray:
    """`(time, units)` strengths as they are acted; see `ACTING`."""
    out = actions.copy()
    for unit, factor in ACTING.items():
        out[:, index(unit)] = np.minimum(factor * out[:, index(unit)], np.maximum(LARGEST, out[:, index(unit)]))
    return out


class RenderedPuppet:
    """One person of a recording, ready to be drawn frame by frame.

    Args:
        seed, sex: the plan's person.
        actions: `(time, units)` strengths of the action units. pose: `(time, 3)` pitch, yaw, roll in radians.
        sway: `(time, 2)` movement of the head in interocular units.
        size: width and height of the frame.
    """

    def __init__(
        self,
        seed: int,
        sex: str,
        actions: np.ndarray,
        pose: np.ndarray,
        sway: np.ndarray,
        placing: Placing,
        size: tuple[int, int],
    ) -> None:
        self._doll = doll = puppet()
        self._size = size
        who = cast(seed, sex)
        delta = who.rest - average()
        if placing.mirrored:
            # the photograph is mirrored, the plan is not: it plays the other side, which the mirror turns back
            pose, actions, delta = pose * (1, -1, -1), actions[:, other_side()], delta[mirror()] * (-1, 1, 1)
        actions = played(actions)
        self._texture = appearance.dress(doll, who.look)
        self._ink = appearance.Ink(doll, self._texture, actions)
        self._places = self._choreography(doll, delta, actions, pose, sway, placing)
        a, b = (doll.source[doll.triangles[:, k]] - doll.source[doll.triangles[:, 0]] for k in (1, 2))
        self._turns = np.sign(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) * (-1 if placing.mirrored else 1)
        moving = doll.follow[doll.triangles].any(axis=1)
        self._moving = np.flatnonzero(moving)
        self._corners = np.unique(doll.triangles[moving])
        self._body = self._still(~moving)

    def _choreography(
        self, doll: Puppet, delta: np.ndarray, actions: np.ndarray, pose: np.ndarray, sway: np.ndarray, placing: Placing
    ) -> np.ndarray:
        """`(time, points + 3, 3)` positions in the frame and depth; the last three carry the teeth."""
        time, points = len(actions), len(doll.head)
        outline = doll.head[LANDMARKS:]
        near = np.exp(-((outline[:, None, :2] - doll.head[None, :LANDMARKS, :2]) ** 2).sum(-1) / 0.1)
        near /= near.sum(axis=1, keepdims=True) + 1e-9
        head = np.empty((time, points + 3, 3))
        head[:, :LANDMARKS] = shape(doll.head[:LANDMARKS] + SHAPE_SHARE * delta, actions)
        lid, under = mesh_deformation.lid_pairs()
        shut = np.clip(1 - (head[:, under, 1] - head[:, lid, 1]) / LASHES, 0, 1)
        head[:, lid, 1] += 2 * LASHES * shut
        head[:, LANDMARKS:points] = outline + SHAPE_SHARE * near @ delta
        head[:, points:] = _TEETH + np.array((0, doll.teeth, 0))
        upper, lower = mesh_deformation.inner_lip_pairs()
        gap = (head[:, lower, 1] - head[:, upper, 1]).max(axis=1)
        self._light = np.clip(gap / LIT_FROM, 0.1, 1.0)
        turned = np.matmul(head - JOINT, rotation(TURN_LIMIT * np.tanh(pose / TURN_LIMIT)).transpose(0, 2, 1))
        joint = doll.origin + doll.scale * (rotation(doll.pose[None])[0] @ JOINT)[:2]
        turned *= doll.scale
        turned[..., :2] += joint + doll.scale * sway[:, None]
        follow = doll.follow[:, None]
        turned[:, :points, :2] = follow * turned[:, :points, :2] + (1 - follow) * doll.source
        turned[:, np.flatnonzero(doll.follow < 1), 2] = 2 * doll.scale
        if placing.mirrored:
            turned[..., 0] = doll.texture.shape[1] - 1 - turned[..., 0]
        turned[..., :2] = turned[..., :2] * placing.zoom + placing.corner
        return turned

    def _still(self, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What never moves, drawn once: `(height, width, 3)` and its opacity `(height, width)`."""
        box = (0, 0, *self._size)
        found = self._find(self._places[0], np.flatnonzero(triangles), box)
        return self._draw(self._places[0], found, box, None)

    def _find(self, places: np.ndarray, triangles: np.ndarray, box: Box) -> np.ndarray:
        """`(height, width)` int32: the triangle under each pixel of the box, -1 where none; near ones win."""
        x0, y0, x1, y1 = box
        corners = places[self._doll.triangles[triangles]]
        # what lies behind lips and lids comes first, so that shut ones leave no slit; so does skin seen from within
        a, b = corners[:, 1, :2] - corners[:, 0, :2], corners[:, 2, :2] - corners[:, 0, :2]
        folded = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) * self._turns[triangles] < 0
        layer = np.where(folded, np.minimum(self._doll.layer[triangles], 1), self._doll.layer[triangles])
        order = np.lexsort((-corners[..., 2].mean(axis=1), layer))
        points = np.round((corners[order, :, :2] - (x0, y0)) * 16).astype(np.int32)
        found = np.full((y1 - y0, x1 - x0), -1, np.int32)
        for triangle, polygon in zip(triangles[order].tolist(), points, strict=True):
            cv2.fillConvexPoly(found, polygon, triangle, shift=4)
        return found

    def _draw(
        self, places: np.ndarray, found: np.ndarray, box: Box, frame: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The box's pixels from the photograph `(height, width, 3)` and their opacity `(height, width)`, uint8."""
        doll = self._doll
        back = inverse_affines(places[doll.triangles][..., :2], doll.source[doll.triangles])
        back[..., 2] += back[..., 0] * box[0] + back[..., 1] * box[1]
        weights = np.ascontiguousarray(back.reshape(-1, 6).T, dtype=np.float32)
        under = np.maximum(found, 0)
        x = np.arange(found.shape[1], dtype=np.float32)
        y = np.arange(found.shape[0], dtype=np.float32)[:, None]
        u = weights[0][under] * x + weights[1][under] * y + weights[2][under]
        v = weights[3][under] * x + weights[4][under] * y + weights[5][under]
        texture = self._texture if frame is None else self._ink.smoothed(self._texture, frame)
        out = cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        opacity = cv2.remap(doll.opacity, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        opacity[found < 0] = 0
        if frame is not None:
            out = self._ink.apply(out, frame, u, v)
        hollow = doll.hollow[under] & (found >= 0)
        if frame is not None and hollow.any():
            self._fill_mouth(out, hollow, places, box, float(self._light[frame]))
        return out, opacity

    def _fill_mouth(self, out: np.ndarray, hollow: np.ndarray, places: np.ndarray, box: Box, light: float) -> None:
        """Teeth hang from the skull, not from the lips. The edge is softened over a pixel."""
        doll = self._doll
        rest = doll.origin + doll.scale * (_TEETH @ rotation(doll.pose[None])[0].T)[:, :2]
        back = inverse_affines(places[None, -3:, :2], rest[None])[0]
        x, y, width, height = cv2.boundingRect(hollow.astype(np.uint8))
        part = (slice(max(y - 2, 0), y + height + 2), slice(max(x - 2, 0), x + width + 2))
        soft = cv2.GaussianBlur(hollow[part].astype(np.float32), (0, 0), 0.7)[..., None]
        back[:, 2] += back[:, :2] @ (box[0] + part[1].start, box[1] + part[0].start)
        inside = cv2.warpAffine(doll.mouth, back, soft.shape[1::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        out[part] = out[part] * (1 - soft) + inside * (light * soft)

    def draw_body(self, canvas: np.ndarray, shift: int = 0) -> None:
        """Draw what never moves into `(height, width, 3)` uint8, moved right by `shift`."""
        lay(canvas, *self._body, (shift, 0))

    def draw_head(self, canvas: np.ndarray, frame: int, shift: int = 0) -> None:
        """Draw what moves, over the body, moved right by `shift`."""
        places = self._places[frame]
        moved = places[self._corners, :2]
        low, high = np.floor(moved.min(0)).astype(int), np.ceil(moved.max(0)).astype(int) + 1
        x0, y0 = max(int(low[0]), 0), max(int(low[1]), 0)
        box = (x0, y0, min(int(high[0]), self._size[0]), min(int(high[1]), self._size[1]))
        if box[2] > box[0] and box[3] > box[1]:
            found = self._find(places, self._moving, box)
            drawn = self._draw(places, found, box, frame)
            lay(canvas, *drawn, (box[0] + shift, box[1]))


def lay(canvas: np.ndarray, layer: np.ndarray, opacity: np.ndarray, corner: tuple[int, int]) -> None:
    """Blend a layer `(h, w, 3)` with its opacity `(h, w)` over the canvas at x, y; what leaves it is cut off."""
    x, y = corner
    left, right = max(x, 0), min(x + layer.shape[1], canvas.shape[1])
    top, bottom = max(y, 0), min(y + layer.shape[0], canvas.shape[0])
    if right <= left or bottom <= top:
        return
    part = (slice(top - y, bottom - y), slice(left - x, right - x))
    under, share = canvas[top:bottom, left:right], cv2.merge([opacity[part]] * 3)
    kept = cv2.multiply(np.ascontiguousarray(under), cv2.bitwise_not(share), scale=1 / 255)
    under[:] = cv2.add(kept, cv2.multiply(np.ascontiguousarray(layer[part]), share, scale=1 / 255))


def inverse_affines(places: np.ndarray, source: np.ndarray) -> np.ndarray:
    """`(n, 2, 3)` maps from the frame to the photograph, of triangles `(n, 3, 2)` in both. A triangle without
    area maps to its first corner."""
    a, b = places[:, 1] - places[:, 0], places[:, 2] - places[:, 0]
    area = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
    safe = np.where(np.abs(area) < 1e-6, np.inf, area)
    inverse = np.stack([np.stack([b[:, 1], -b[:, 0]], 1), np.stack([-a[:, 1], a[:, 0]], 1)], 1) / safe[:, None, None]
    edges = np.stack([source[:, 1] - source[:, 0], source[:, 2] - source[:, 0]], axis=2)
    linear = edges @ inverse
    return np.concatenate([linear, (source[:, 0] - np.einsum("nij,nj->ni", linear, places[:, 0]))[..., None]], axis=2)
