"""Puppet mesh: one photograph of a person as a triangle mesh that can be deformed.

The photograph is scikit-image's `astronaut` (NASA, public domain, part of its wheel). On first use the face-mesh
network locates the landmarks, the person is separated from the background, the smile of the photograph is subtracted,
and skin, hair, neck and suit become one triangle mesh, whose vertices `puppet.PuppetRenderer` moves. Nothing is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from mien import extras
from mien.encoders.face_geometry import LANDMARKS, align, load_canonical_face, mirrored_landmarks, pose
from mien.records import Frame
from mien.synthetic import mesh_deformation
from mien.synthetic.action_units import unit_fields, unit_indices, unit_names
from mien.synthetic.identities import mean_face
from mien.synthetic.mesh_tracks import deform_face

#: Part of the photograph that is used, in pixels, and the factor by which it is enlarged.
WIDTH, HEIGHT, ENLARGE = 460, 300, 2
#: Action units of the photograph, set by eye and so that the network reports no smile after their subtraction.
SMILE = {"12": 1.3, "25": 1.0, "6": 0.5, "10": 0.3}
#: Action units of an open face, on which no skin overlaps and the triangulation is well defined.
GAPING = {"25": 1.0, "26": 0.8, "5": 1.0}
#: Weight of the mean resting lips of the population in the resting lips of the puppet.
RESTING_LIPS = 0.5

#: Corrections of the network's landmarks in the photograph's pixels, from beside the corner to the middle, by eye: the
#: inner edge of this smiling upper lip is lower than the network reports,
UPPER_LIP_EDGE = (0.5, 1.0, 1.5, 1.5, 1.0)
#: the inner edge of the lower lip too (the photograph blurs it into the teeth),
LOWER_LIP_EDGE = (0.3, 0.6, 0.8, 0.9, 0.9)
#: and the rims of the upper and the lower lid end outside the white of the eye.
LID_EDGES = (-0.7, 0.5)
#: Factor of lipstick on each colour channel, and its opacity.
LIPSTICK, LIPSTICK_SHARE = np.array([0.9, 0.68, 0.7]), 0.5

#: Landmarks of the inner lip corners, and of the eye corners.
LIP_CORNERS, EYE_CORNERS = (78, 308), (33, 133, 263, 362)

# Outlines in the photograph's pixels, set by hand. They are rough, because GrabCut finds the edges.
_SUIT = (
    (150, 215), (168, 158), (240, 150), (290, 180), (306, 235), (340, 262), (352, 300), (60, 300), (90, 250),
    (140, 205),
)  # fmt: skip
_BEHIND = (
    (272, 142), (310, 150), (460, 160), (460, 300), (356, 300), (349, 276), (334, 250), (309, 238), (306, 234),
    (301, 220), (290, 203), (275, 187), (260, 173), (263, 161), (269, 150),
)  # fmt: skip
#: Points just outside the hair, clockwise from the subject's right jaw; then points in the middle of the hair.
_OUTLINE = (
    (168, 128), (152, 112), (147, 85), (151, 55), (166, 38), (186, 20), (208, 11), (232, 8), (256, 12), (278, 24),
    (296, 44), (306, 72), (306, 100), (296, 122), (280, 136),
)  # fmt: skip
_HAIR = (
    (174, 112), (166, 92), (167, 68), (180, 48), (200, 34), (226, 28), (252, 34), (272, 48), (286, 70), (287, 94),
    (278, 116),
)  # fmt: skip
#: Points on the sides of the neck, which follow half of the movement of the head.
_NECK = ((185, 166), (264, 160), (187, 180), (262, 177), (226, 186))
#: Points that do not move: collar and suit, and the border of the picture.
_BODY = (
    (186, 196), (200, 192), (228, 196), (250, 193), (268, 190), (160, 156), (130, 180), (300, 170), (318, 200),
    (140, 225), (228, 235), (306, 235), (90, 240), (345, 262), (60, 299), (150, 299), (228, 299), (300, 299),
    (360, 299),
)  # fmt: skip
_BORDER = (
    (0, 0), (115, 0), (230, 0), (345, 0), (459, 0), (0, 150), (459, 150), (0, 299), (459, 299), (100, 60),
    (360, 60), (110, 130), (350, 130),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PuppetMesh:
    """Photograph with a triangle mesh. Positions are in pixels of the enlarged photograph unless stated otherwise.

    texture: `(height, width, 3)` uint8 RGB. opacity: `(height, width)` uint8 of the person. plate: `(height, width, 3)`
    uint8, the background without the person. mouth: `(height, width, 3)` uint8, the inside of the mouth. source:
    `(points, 2)` vertices; the first 468 are the face mesh, then hair, neck, body, border. head: `(points, 3)` vertices
    of the resting head in interocular units. follow: `(points,)` share of the head's movement that a vertex follows, 0
    to 1. triangles: `(n, 3)` vertex indices. hollow: `(n,)` bool, triangles between the lips. layer: `(n,)` drawing
    order: 0 lowest, 1 between lips or lids, 2 skin. scale: pixels per interocular unit. origin: `(2,)` point between
    the eyes. pose: `(3,)` pitch, yaw, roll of the photograph in radians. teeth: vertical shift of the teeth against
    the photograph, interocular units.
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


def _locate_landmarks(image: np.ndarray) -> np.ndarray:
    """`(468, 3)` face mesh in pixels, located by the face-mesh network."""
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
    unused = (0, 0, 1, 1)  # GrabCut requires a rectangle and ignores it with GC_INIT_WITH_MASK
    cv2.grabCut(np.ascontiguousarray(photo[..., ::-1]), guess, unused, *models, 5, cv2.GC_INIT_WITH_MASK)
    person = np.isin(guess, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    # shrink by half a pixel, so that no background remains at the edge
    return np.asarray(np.clip(1.6 * cv2.GaussianBlur(person, (0, 0), 0.8) - 0.6, 0, 1))


def inpaint(photo: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Fill the covered part of a picture smoothly, by relaxation from coarse to fine (Laplace's equation).

    Args:
        photo: `(height, width, 3)` float32.
        covered: `(height, width)`; values above 0 are filled.

    Returns:
        `(height, width, 3)` float32 in [0, 255].
    """
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
    return np.asarray(np.clip(filled, 0, 255))


def _extend_colours(picture: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    """Extend the person's colours over the half-transparent edge, which has colours of the old background."""
    solid = (opacity > 0.98).astype(np.float32)
    spread = cv2.GaussianBlur(picture * solid[..., None], (0, 0), 3.0)
    amount = cv2.GaussianBlur(solid, (0, 0), 3.0)
    extended = spread / np.maximum(amount, 1e-3)[..., None]
    edge = (solid == 0) & (amount > 0.02)
    return np.where(edge[..., None], extended, picture)


def _apply_lipstick(picture: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Make the lips matt and redder, and remove the teeth between them.

    The highlight and the dark corners of the stretched smiling lips would cross the closed mouth, and the face-mesh
    network takes them for teeth.
    """
    ring = np.array([*mesh_deformation.LIP_OUTER_UPPER, *mesh_deformation.LIP_OUTER_LOWER])
    ring = np.concatenate([ring, mirrored_landmarks()[ring]])
    inner = np.concatenate([*mesh_deformation.inner_lip_pairs(), LIP_CORNERS])
    lips, hole = (
        cv2.fillConvexPoly(np.zeros(picture.shape[:2], np.uint8), hull.astype(np.int32), 1)
        for hull in (cv2.convexHull(np.round(source[k]).astype(np.float32)) for k in (ring, inner))
    )
    lips[hole > 0] = 0
    grey = picture.mean(axis=2)
    shiny = (lips > 0) & (grey > np.median(grey[lips > 0]) + 8)
    teeth = cv2.dilate(hole, np.ones((5, 5)))
    bare = np.maximum(cv2.dilate(shiny.astype(np.uint8), np.ones((3, 3))) * lips, teeth)
    matt = inpaint(picture.astype(np.float32), bare)
    soft = cv2.GaussianBlur(np.maximum(lips, hole).astype(np.float32), (0, 0), 1.5)[..., None] * LIPSTICK_SHARE
    return np.asarray(np.clip(matt * (1 - soft) + matt * LIPSTICK * soft, 0, 255))


def _correct_edges(mesh: np.ndarray) -> np.ndarray:
    """Move lips and lids of the mesh `(468, 2)` to their visible edges and interpolate the middle of the upper lip."""
    corrected = mesh.copy()
    outer = np.array(mesh_deformation.LIP_OUTER_UPPER[1:])
    inner = np.array(mesh_deformation.LIP_INNER_UPPER[1:])
    lower = np.array(mesh_deformation.LIP_INNER_LOWER[1:])
    for side in (np.arange(LANDMARKS), mirrored_landmarks()):
        corrected[side[inner], 1] = mesh[side[inner], 1] + UPPER_LIP_EDGE
        corrected[side[lower], 1] = mesh[side[lower], 1] + LOWER_LIP_EDGE
        for row, share in zip(mesh_deformation.LIP_MIDDLE_UPPER, (1 / 3, 2 / 3), strict=True):
            middle = side[np.array(row[1:])]
            corrected[middle] = (1 - share) * corrected[side[outer]] + share * corrected[side[inner]]
    for rim, edge in zip(mesh_deformation.lid_pairs(), LID_EDGES, strict=True):
        corrected[rim, 1] += edge
    return corrected


def _add_units(face: np.ndarray, strengths: dict[str, float]) -> np.ndarray:
    """`(468, 3)` face displaced by action units; negative strengths are allowed."""
    action = np.zeros(len(unit_names()))
    for unit, strength in strengths.items():
        action[unit_indices(unit)] = strength
    return np.asarray(face + np.tensordot(action, unit_fields(), axes=1))


def _relax(face: np.ndarray) -> np.ndarray:
    """`(468, 3)` resting face of the photograph: smile subtracted, lips closed and moved towards the mean lips."""
    calm = _add_units(face, {unit: -strength for unit, strength in SMILE.items()})
    rows = (
        mesh_deformation.LIP_OUTER_UPPER,
        mesh_deformation.LIP_OUTER_LOWER,
        mesh_deformation.LIP_INNER_UPPER,
        mesh_deformation.LIP_INNER_LOWER,
    )
    lips = np.unique(np.concatenate([*rows, *mesh_deformation.LIP_MIDDLE_UPPER, *mesh_deformation.LIP_MIDDLE_LOWER]))
    change = RESTING_LIPS * (mean_face() - calm)
    change = (change + change[mirrored_landmarks()] * (-1, 1, 1)) / 2
    moves = {int(i): (-float(x), float(y), float(z)) for i, (x, y, z) in zip(lips, change[lips], strict=True)}
    calm += mesh_deformation.displacement_field(moves, fixed=mesh_deformation.NOSE + mesh_deformation.CHIN)
    return np.asarray(deform_face(calm, np.zeros((1, len(unit_names()))))[0])


def _paint_mouth(photo: np.ndarray, source: np.ndarray) -> np.ndarray:
    """`(height, width, 3)` uint8 inside of the mouth: the photograph's teeth, darkness below them, a red tongue."""
    ring = source[np.concatenate([*mesh_deformation.inner_lip_pairs(), LIP_CORNERS])]
    teeth = np.zeros(photo.shape[:2], np.uint8)
    cv2.fillConvexPoly(teeth, cv2.convexHull(ring.astype(np.float32)).astype(np.int32), 255)
    soft = cv2.GaussianBlur(cv2.erode(teeth, np.ones((3, 3))), (0, 0), 1.5)[..., None] / 255.0
    top, bottom = ring[:, 1].min(), ring[:, 1].max()
    deep = np.clip((np.arange(photo.shape[0]) - top) / (3.0 * (bottom - top)), 0, 1)[:, None, None]
    dark = np.array([38.0, 14, 14]) * (1 - deep) + np.array([120.0, 52, 50]) * deep**2
    painted = photo * soft * 0.92 + np.broadcast_to(dark, photo.shape) * (1 - soft)
    return np.asarray(np.clip(painted, 0, 255), np.uint8)


def _triangulate(source: np.ndarray) -> tuple[np.ndarray, int]:
    """Triangulate the vertices `(points, 2)`.

    Within the face, neighbours are those of a face with mouth and eyes wide open, where no skin overlaps. Around the
    face, they are those of the photograph.

    Returns:
        `(n, 3)` triangles, and how many of the last ones are a coarse mesh below the face.
    """
    oval = np.array(mesh_deformation.OVAL)

    def inside(points: np.ndarray, triangles: np.ndarray) -> np.ndarray:
        ring = points[oval].astype(np.float32)[:, None]
        centres = points[triangles].mean(axis=1)
        return np.array([cv2.pointPolygonTest(ring, (float(x), float(y)), False) > 0 for x, y in centres])

    open_face = _add_units(load_canonical_face()["vertices"], GAPING)[:, :2]
    from scipy.spatial import Delaunay

    within = Delaunay(open_face).simplices
    rim = np.concatenate([oval, np.arange(LANDMARKS, len(source))])
    around = rim[Delaunay(source[rim]).simplices]
    beside = ~inside(source, around)
    # the oval need not be an edge of both triangulations: the coarse mesh below fills the gaps
    return np.concatenate([within[inside(open_face, within)], around[beside], around[~beside]]), int((~beside).sum())


@dataclass(frozen=True, slots=True)
class _Head:
    """Head of the photograph: `pixels = scale * interocular @ turn.T + origin`.

    mesh: `(468, 3)` pixels. aligned: `(468, 3)` frontal, in interocular units. turn: `(3, 3)` rotation.
    """

    mesh: np.ndarray
    aligned: np.ndarray
    turn: np.ndarray
    scale: float
    origin: np.ndarray

    def project_back(self, points: tuple[tuple[int, int], ...], depth: float) -> np.ndarray:
        """`(points, 3)` frontal interocular position of pixels at `depth` interocular units behind the eyes."""
        flat = np.column_stack([np.array(points, float), np.full(len(points), self.origin[2] + depth * self.scale)])
        return np.asarray((flat - self.origin) / self.scale @ self.turn)


def _fit_head(mesh: np.ndarray) -> _Head:
    aligned, turn = (batch[0] for batch in align(mesh[None]))

    def eye_distance(points: np.ndarray) -> np.floating:
        return np.linalg.norm(points[[263, 362]].mean(0) - points[[33, 133]].mean(0))

    scale = float(eye_distance(mesh) / eye_distance(aligned))
    return _Head(mesh, aligned, turn, scale, (mesh - scale * aligned @ turn.T).mean(0))


def _build_vertices(head: _Head) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`source` (in the photograph's own pixels), `head` and `follow` of `PuppetMesh`."""
    parts = [(_correct_edges(head.mesh[:, :2]), _relax(head.aligned), 1.0)]
    for points, depth, follow in (
        (_OUTLINE, 1.0, 1.0), (_HAIR, 0.6, 1.0), (_NECK, 0.6, 0.5), (_BODY, 0.8, 0.0), (_BORDER, 1.0, 0.0),
    ):  # fmt: skip
        parts.append((np.array(points, float), head.project_back(points, depth), follow))
    source, vertices = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    return source, vertices, np.concatenate([np.full(len(part), follow) for part, _, follow in parts])


def _order_triangles(triangles: np.ndarray, below: int) -> tuple[np.ndarray, np.ndarray]:
    """`hollow` and `layer` of `PuppetMesh`; below: how many of the last triangles lie below the face."""
    lips = np.concatenate([*mesh_deformation.inner_lip_pairs(), LIP_CORNERS])
    lids = np.concatenate([*mesh_deformation.lid_pairs(), EYE_CORNERS])
    hollow = np.asarray(np.isin(triangles, lips).all(axis=1))
    hollow[len(triangles) - below :] = False
    layer = np.where(hollow | np.isin(triangles, lids).all(axis=1), 1, 2)
    layer[len(triangles) - below :] = 0
    return hollow, layer


def _enlarge(picture: np.ndarray, interpolation: int) -> np.ndarray:
    return cv2.resize(picture, None, fx=ENLARGE, fy=ENLARGE, interpolation=interpolation)


@lru_cache(maxsize=1)
def load_puppet_mesh() -> PuppetMesh:
    """Build the puppet mesh from the photograph. Takes about two seconds; the result is cached.

    Raises:
        ArtefactError: the face networks are neither here nor can be downloaded.
    """
    for module in ("skimage", "scipy"):  # both before the landmarks are located, which takes a second
        extras.require(module, "rendering a face", preferred="synthetic", follows="Nothing was rendered.")
    from skimage.data import astronaut

    photo: np.ndarray = astronaut()[:HEIGHT, :WIDTH]  # type: ignore[no-untyped-call]
    mesh = _locate_landmarks(photo)
    person = _cut_out(photo, mesh[list(mesh_deformation.OVAL), :2])
    head = _fit_head(mesh)
    source, vertices, follow = _build_vertices(head)
    triangles, below = _triangulate(source)
    hollow, layer = _order_triangles(triangles, below)
    big = _enlarge(photo, cv2.INTER_LANCZOS4)
    opacity = cv2.GaussianBlur(np.clip(_enlarge(person, cv2.INTER_CUBIC), 0, 1), (0, 0), 1.2)
    sharp = np.clip(big.astype(np.float32) * 1.5 - 0.5 * cv2.GaussianBlur(big, (0, 0), 1.6), 0, 255)
    source = (source + 0.5) * ENLARGE - 0.5
    background = inpaint(photo.astype(np.float32), cv2.dilate(person, np.ones((11, 11))) - 0.02)
    smiling = _add_units(vertices[:LANDMARKS], {"12": 1.0, "25": 1.0})
    return PuppetMesh(
        texture=_apply_lipstick(_extend_colours(sharp, opacity), source).astype(np.uint8),
        opacity=(opacity * 255).astype(np.uint8),
        plate=np.clip(_enlarge(background, cv2.INTER_CUBIC), 0, 255).astype(np.uint8),
        mouth=_paint_mouth(sharp, source),
        source=source,
        head=vertices,
        follow=follow,
        triangles=triangles,
        hollow=hollow,
        layer=layer,
        scale=head.scale * ENLARGE,
        origin=(head.origin[:2] + 0.5) * ENLARGE - 0.5,
        pose=pose(head.turn[None])[0],
        teeth=float((smiling - head.aligned)[mesh_deformation.inner_lip_pairs()[0], 1].mean()),
    )
