"""The synthetic corpus's one actor: a photograph cut into a puppet.

The picture is scikit-image's `astronaut` (NASA, public domain, in its wheel). At first use the face-mesh network
reads it; the person is cut out of the background; the smile it was taken with is subtracted; and skin, hair, neck
and suit become one net of triangles whose corners `render` moves. Nothing of this is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from scipy.spatial import Delaunay
from skimage.data import astronaut

from mien.encoders.face_geometry import LANDMARKS, align, canonical, mirror, pose
from mien.records import Frame
from mien.synthetic import mesh_deformation
from mien.synthetic.action_units import index, names, units
from mien.synthetic.identities import average
from mien.synthetic.mesh_tracks import shape

#: The part of the photograph that is used, and how much it is enlarged.
WIDTH, HEIGHT, ENLARGE = 460, 300, 2
#: The action units of the photograph itself, by eye and so that the network reads its absence.
SMILE = {"12": 1.3, "25": 1.0, "6": 0.5, "10": 0.3}
#: An open face: its landmarks are in order everywhere.
GAPING = {"25": 1.0, "26": 0.8, "5": 1.0}
#: How far the smiling lips are replaced by the population's resting ones.
RESTING_LIPS = 0.5

#: The network draws this smiling upper lip too thin: its inner edge lies lower, in the photograph's pixels, from
#: beside the corner to the middle. By eye.
UPPER_LIP_EDGE = (0.5, 1.0, 1.5, 1.5, 1.0)
#: The lower lip's edge likewise: off the teeth, which the photograph blurs into it.
LOWER_LIP_EDGE = (0.3, 0.6, 0.8, 0.9, 0.9)
#: What a lipstick does to each channel, and how much of it is put on.
LIPSTICK, LIPSTICK_SHARE = np.array([0.9, 0.68, 0.7]), 0.5
#: And the lids' rims: off the white of the eye, up and down.
LID_EDGES = (-0.7, 0.5)

# Outlines in the photograph's pixels, drawn by hand; only rough: GrabCut finds the edges.
_SUIT = (
    (150, 215),
    (168, 158),
    (240, 150),
    (290, 180),
    (306, 235),
    (340, 262),
    (352, 300),
    (60, 300),
    (90, 250),
    (140, 205),
)
_BEHIND = (
    (272, 142),
    (310, 150),
    (460, 160),
    (460, 300),
    (356, 300),
    (349, 276),
    (334, 250),
    (309, 238),
    (306, 234),
    (301, 220),
    (290, 203),
    (275, 187),
    (260, 173),
    (263, 161),
    (269, 150),
)
#: The hair's outline a little outside the hair, clockwise from the subject's right jaw; then the middle of the hair.
_OUTLINE = (
    (168, 128),
    (152, 112),
    (147, 85),
    (151, 55),
    (166, 38),
    (186, 20),
    (208, 11),
    (232, 8),
    (256, 12),
    (278, 24),
    (296, 44),
    (306, 72),
    (306, 100),
    (296, 122),
    (280, 136),
)
_HAIR = (
    (174, 112),
    (166, 92),
    (167, 68),
    (180, 48),
    (200, 34),
    (226, 28),
    (252, 34),
    (272, 48),
    (286, 70),
    (287, 94),
    (278, 116),
)
#: Sides of the neck: half way between head and body.
_NECK = ((185, 166), (264, 160), (187, 180), (262, 177), (226, 186))
#: Points that stay with the body: collar and suit; and the corners of the picture.
_BODY = (
    (186, 196),
    (200, 192),
    (228, 196),
    (250, 193),
    (268, 190),
    (160, 156),
    (130, 180),
    (300, 170),
    (318, 200),
    (140, 225),
    (228, 235),
    (306, 235),
    (90, 240),
    (345, 262),
    (60, 299),
    (150, 299),
    (228, 299),
    (300, 299),
    (360, 299),
)
_FRAME = (
    (0, 0),
    (115, 0),
    (230, 0),
    (345, 0),
    (459, 0),
    (0, 150),
    (459, 150),
    (0, 299),
    (459, 299),
    (100, 60),
    (360, 60),
    (110, 130),
    (350, 130),
)


@dataclass(frozen=True, slots=True)
class Puppet:
    """A photograph ready to be moved. Positions are in the enlarged picture's pixels unless said otherwise.

    texture: `(height, width, 3)` uint8 RGB. opacity: `(height, width)` uint8 of the person. plate: `(height, width, 3)`
    the background with nobody in it. mouth: `(height, width, 3)` what is seen between the lips. source:
    `(points, 2)`; the
    first 468 are the mesh, then hair, neck, body. head: `(points, 3)` the same points on the resting head, in
    interocular units. follow: `(points,)` 1 moves with the head, 0 stays,
    between: in part. triangles: `(n, 3)`; hollow: `(n,)`
    those between the lips; layer: `(n,)` what is drawn over what: 0 below all, 1
    between lips or lids, 2 skin. scale: pixels of an interocular unit. origin: `(2,)` where the point between the
    eyes is. pose: `(3,)` pitch, yaw, roll of the photograph.
    """

    texture: np.ndarray
    opacity: np.ndarray
    plate: np.ndarray
    mouth: np.ndarray
    source: np.ndarray
    head: np.ndarray
    follow: np.ndarray
    triangles: np.ndarray
    hollow: np.ndarray
    layer: np.ndarray
    scale: float
    origin: np.ndarray
    pose: np.ndarray
    teeth: float


def _read(image: np.ndarray) -> np.ndarray:
    from mien.faces.tracker import FaceTracker

    return FaceTracker(small_faces=False)(Frame(0, 0.0, image))[0].mesh.astype(float)


def _cut_out(photo: np.ndarray, oval: np.ndarray) -> np.ndarray:
    """`(height, width)` opacity of the person in [0, 1]; oval: `(points, 2)` around the face."""
    guess = np.full(photo.shape[:2], cv2.GC_PR_BGD, np.uint8)
    cv2.ellipse(guess, (228, 85), (72, 72), 0, 0, 360, cv2.GC_PR_FGD, -1)
    cv2.ellipse(guess, (228, 95), (50, 60), 0, 0, 360, cv2.GC_FGD, -1)
    cv2.fillPoly(guess, [np.array(_SUIT, np.int32)], cv2.GC_FGD)
    cv2.fillPoly(guess, [np.array(_BEHIND, np.int32)], cv2.GC_BGD)
    inner = oval.mean(0) + 0.95 * (oval - oval.mean(0))
    cv2.fillPoly(guess, [np.round(inner).astype(np.int32)], cv2.GC_FGD)
    guess[:8] = guess[:140, :135] = guess[:140, 322:] = cv2.GC_BGD
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    nowhere = (0, 0, 1, 1)  # a rectangle is asked for and, with a mask, not looked at
    cv2.grabCut(np.ascontiguousarray(photo[..., ::-1]), guess, nowhere, *models, 5, cv2.GC_INIT_WITH_MASK)
    person = np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    # half a pixel inside the edge, where the background no longer shines through
    return np.clip(1.6 * cv2.GaussianBlur(person, (0, 0), 0.8) - 0.6, 0, 1)


def without(photo: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """`(height, width, 3)` float32 picture continued smoothly where `covered` `(height, width)` is above 0: coarse to
    fine, the unknown relaxes to the mean of its surroundings, as a soap film would."""
    levels = [(photo, (covered <= 0).astype(np.float32))]
    while min(levels[-1][1].shape) > 6:
        picture, weight = levels[-1]
        half = cv2.resize(weight, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        colour = cv2.resize(picture * weight[..., None], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        levels.append((colour / np.maximum(half, 1e-6)[..., None], (half > 0.999).astype(np.float32)))
    picture, weight = levels[-1]
    filled = picture * weight[..., None] + (1 - weight[..., None]) * picture[weight > 0].mean(0)
    for picture, weight in reversed(levels):
        filled = cv2.resize(filled, weight.shape[::-1], interpolation=cv2.INTER_LINEAR)
        for _ in range(60):
            filled = np.where(weight[..., None] > 0, picture, cv2.blur(filled, (3, 3)))
    return np.clip(filled, 0, 255)


def _without_fringe(picture: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """The person's own colours carried outwards over the half-transparent edge, where the old background shines."""
    solid = (opacity > 0.98).astype(np.float32)
    spread = cv2.GaussianBlur(picture * solid[..., None], (0, 0), 3.0)
    amount = cv2.GaussianBlur(solid, (0, 0), 3.0)
    carried = spread / np.maximum(amount, 1e-3)[..., None]
    edge = (solid == 0) & (amount > 0.02)
    return np.where(edge[..., None], carried, picture)


def _made_up(picture: np.ndarray, source: np.ndarray) -> np.ndarray:
    """The picture with matt, redder lips and none of what was between them. On the smiling lips, stretched thin, a
    highlight and the dark corners would cross the closed mouth, and the network takes them for teeth."""
    ring = np.array([*mesh_deformation.LIP_OUTER_UPPER, *mesh_deformation.LIP_OUTER_LOWER])
    ring = np.concatenate([ring, mirror()[ring]])
    inner = np.concatenate([*mesh_deformation.inner_lip_pairs(), [78, 308]])
    lips, hole = (
        cv2.fillConvexPoly(np.zeros(picture.shape[:2], np.uint8), hull.astype(np.int32), 1)
        for hull in (cv2.convexHull(np.round(source[k]).astype(np.float32)) for k in (ring, inner))
    )
    lips[hole > 0] = 0
    grey = picture.mean(axis=2)
    shiny = (lips > 0) & (grey > np.median(grey[lips > 0]) + 8)
    teeth = cv2.dilate(hole, np.ones((5, 5)))
    bare = np.maximum(cv2.dilate(shiny.astype(np.uint8), np.ones((3, 3))) * lips, teeth)
    matt = without(picture.astype(np.float32), bare)
    soft = cv2.GaussianBlur(np.maximum(lips, hole).astype(np.float32), (0, 0), 1.5)[..., None] * LIPSTICK_SHARE
    return np.clip(matt * (1 - soft) + matt * LIPSTICK * soft, 0, 255)


def _edges_as_seen(mesh: np.ndarray) -> np.ndarray:
    """The mesh `(468, 2)` with lips and lids ending where the photograph's do, and the upper lip's rows in order
    between its outer edge and its visible inner edge."""
    seen = mesh.copy()
    outer = np.array(mesh_deformation.LIP_OUTER_UPPER[1:])
    inner = np.array(mesh_deformation.LIP_INNER_UPPER[1:])
    lower = np.array(mesh_deformation.LIP_INNER_LOWER[1:])
    for side in (lambda i: i, lambda i: mirror()[i]):
        seen[side(inner), 1] = mesh[side(inner), 1] + UPPER_LIP_EDGE
        seen[side(lower), 1] = mesh[side(lower), 1] + LOWER_LIP_EDGE
        for row, share in zip(mesh_deformation.LIP_MIDDLE_UPPER, (1 / 3, 2 / 3), strict=True):
            middle = side(np.array(row[1:]))
            seen[middle] = (1 - share) * seen[side(outer)] + share * seen[side(inner)]
    for rim, edge in zip(mesh_deformation.lid_pairs(), LID_EDGES, strict=True):
        seen[rim, 1] += edge
    return seen


def _moved(face: np.ndarray, strengths: dict[str, float]) -> np.ndarray:
    """`(468, 3)` face after some action units, negative ones too."""
    action = np.zeros(len(names()))
    for unit, strength in strengths.items():
        action[index(unit)] = strength
    return np.asarray(face + np.tensordot(action, units()[1], axes=1))


def _resting(face: np.ndarray) -> np.ndarray:
    """The photograph's face `(468, 3)` with its smile taken off and its lips closed: the smile's action units are
    subtracted, then the lips drawn towards the population's resting ones, the skin around following."""
    calm = _moved(face, {unit: -strength for unit, strength in SMILE.items()})
    rows = (
        mesh_deformation.LIP_OUTER_UPPER,
        mesh_deformation.LIP_OUTER_LOWER,
        mesh_deformation.LIP_INNER_UPPER,
        mesh_deformation.LIP_INNER_LOWER,
    )
    lips = np.unique(np.concatenate([*rows, *mesh_deformation.LIP_MIDDLE_UPPER, *mesh_deformation.LIP_MIDDLE_LOWER]))
    away = RESTING_LIPS * (average() - calm)
    away = (away + away[mirror()] * (-1, 1, 1)) / 2
    moves = {int(i): (-float(x), float(y), float(z)) for i, (x, y, z) in zip(lips, away[lips], strict=True)}
    calm += mesh_deformation.field(moves, still=mesh_deformation.NOSE + mesh_deformation.CHIN)
    return shape(calm, np.zeros((1, len(names()))))[0]


def _inside(photo: np.ndarray, source: np.ndarray) -> np.ndarray:
    """What is between the lips: the photograph's own teeth, a dark mouth below them, the tongue's red."""
    upper, lower = mesh_deformation.inner_lip_pairs()
    corners = np.array([78, 308])
    ring = source[np.concatenate([upper, lower, corners])]
    teeth = np.zeros(photo.shape[:2], np.uint8)
    cv2.fillConvexPoly(teeth, cv2.convexHull(ring.astype(np.float32)).astype(np.int32), 255)
    soft = cv2.GaussianBlur(cv2.erode(teeth, np.ones((3, 3))), (0, 0), 1.5)[..., None] / 255.0
    top, bottom = ring[:, 1].min(), ring[:, 1].max()
    deep = np.clip((np.arange(photo.shape[0]) - top) / (3.0 * (bottom - top)), 0, 1)[:, None, None]
    dark = np.array([38.0, 14, 14]) * (1 - deep) + np.array([120.0, 52, 50]) * deep**2
    return np.clip(photo * soft * 0.92 + np.broadcast_to(dark, photo.shape) * (1 - soft), 0, 255).astype(np.uint8)


def _net(source: np.ndarray) -> tuple[np.ndarray, int]:
    """`(n, 3)` triangles over `(points, 2)`, and how many of the last ones only lie below the others: within
    the face by the neighbours of a face with mouth and eyes wide open, where no skin lies on skin; around it
    by the photograph."""
    oval = np.array(mesh_deformation.OVAL)

    def inside(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
        ring = points[oval].astype(np.float32)[:, None]
        centres = points[triangles].mean(axis=1)
        return np.array([cv2.pointPolygonTest(ring, tuple(map(float, c)), False) > 0 for c in centres])

    open_face = _moved(canonical()["vertices"], GAPING)[:, :2]
    within = Delaunay(open_face).simplices
    rim = np.concatenate([oval, np.arange(LANDMARKS, len(source))])
    around = rim[Delaunay(source[rim]).simplices]
    beside = ~inside(source, around)
    # the face's outline may not be an edge of both: what gapes shows the coarse net below
    return np.concatenate([within[inside(open_face, within)], around[beside], around[~beside]]), int((~beside).sum())


@lru_cache(maxsize=1)
def puppet() -> Puppet:
    """The photograph, read and cut. Takes about two seconds the first time.

    Raises:
        ArtefactError: the face networks are not here and cannot be fetched.
    """
    photo = astronaut()[:HEIGHT, :WIDTH]
    mesh = _read(photo)
    person = _cut_out(photo, mesh[list(mesh_deformation.OVAL), :2])
    aligned, turn = align(mesh[None])
    angles = pose(turn)[0]
    scale = float(
        np.linalg.norm(mesh[[263, 362]].mean(0) - mesh[[33, 133]].mean(0))
        / np.linalg.norm(aligned[0][[263, 362]].mean(0) - aligned[0][[33, 133]].mean(0))
    )
    origin = (mesh - scale * aligned[0] @ turn[0].T).mean(0)

    def onto_head(points: tuple[tuple[int, int], ...], depth: float) -> np.ndarray:
        flat = np.column_stack([np.array(points, float), np.full(len(points), origin[2] + depth * scale)])
        return (flat - origin) / scale @ turn[0]

    parts = [
        (_edges_as_seen(mesh[:, :2]), _resting(aligned[0]), 1.0),
        (np.array(_OUTLINE, float), onto_head(_OUTLINE, 1.0), 1.0),
        (np.array(_HAIR, float), onto_head(_HAIR, 0.6), 1.0),
        (np.array(_NECK, float), onto_head(_NECK, 0.6), 0.5),
        (np.array(_BODY, float), onto_head(_BODY, 0.8), 0.0),
        (np.array(_FRAME, float), onto_head(_FRAME, 1.0), 0.0),
    ]
    source = np.concatenate([p for p, _, _ in parts])
    smiling = _moved(parts[0][1], {"12": 1.0, "25": 1.0})
    triangles, below = _net(source)
    upper, lower = mesh_deformation.inner_lip_pairs()
    hollow = np.asarray(np.isin(triangles, np.concatenate([upper, lower, [78, 308]])).all(axis=1))
    hollow[len(triangles) - below :] = False
    lids = np.isin(triangles, np.concatenate([*mesh_deformation.lid_pairs(), [33, 133, 263, 362]])).all(axis=1)
    layer = np.where(hollow | lids, 1, 2)
    layer[len(triangles) - below :] = 0
    big = cv2.resize(photo, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_LANCZOS4)
    opacity = np.clip(cv2.resize(person, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC), 0, 1)
    opacity = cv2.GaussianBlur(opacity, (0, 0), 1.2)
    sharp = np.clip(big.astype(np.float32) * 1.5 - 0.5 * cv2.GaussianBlur(big, (0, 0), 1.6), 0, 255)
    source = (source + 0.5) * ENLARGE - 0.5
    nobody = without(photo.astype(np.float32), cv2.dilate(person, np.ones((11, 11))) - 0.02)
    plate = cv2.resize(nobody, None, fx=ENLARGE, fy=ENLARGE, interpolation=cv2.INTER_CUBIC)
    return Puppet(
        texture=_made_up(_without_fringe(sharp, opacity), source).astype(np.uint8),
        opacity=(opacity * 255).astype(np.uint8),
        plate=np.clip(plate, 0, 255).astype(np.uint8),
        mouth=_inside(sharp, source),
        source=source,
        head=np.concatenate([h for _, h, _ in parts]),
        follow=np.concatenate([np.full(len(p), f) for p, _, f in parts]),
        triangles=triangles,
        hollow=hollow,
        layer=layer,
        scale=scale * ENLARGE,
        origin=(origin[:2] + 0.5) * ENLARGE - 0.5,
        pose=angles,
        teeth=float((smiling - aligned[0])[mesh_deformation.inner_lip_pairs()[0], 1].mean()),
    )
