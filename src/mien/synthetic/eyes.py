"""Eyes that look around: eyeballs with a known gaze, painted between the lids of a rendered face.

By default a rendered person has the eyes of the photograph, which look at the camera. A scene with `moving_eyes` paints
a ball with iris and pupil for each eye instead, so that the gaze of every frame is known. Sizes follow anatomy; the
place of the ball behind the lids differs from person to person, as our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from mien.synthetic import mesh_deformation
from mien.synthetic.action_units import unit_indices
from mien.synthetic.scenario import Scenario, seeded_rng

#: Radius in millimetres of eyeball, iris and pupil, and the millimetres of an interocular unit.
BALL_MM, IRIS_MM, PUPIL_MM, UNIT_MM = 12.0, 5.85, 1.9, 63.0
#: Mean and standard deviation over people of the ball's centre relative to the middle between the corners of the lids:
#: outward, down, away from the camera, in the axes of the head; and the deviation between the two eyes of a person.
CENTRE_MM = np.array([1.3, -1.7, 6.0])
PEOPLE_MM, SIDES_MM = np.array([0.6, 0.5, 1.0]), 0.3
#: Seconds of a fixation, and of the movement between two. Share of fixations on the camera, and the widest others.
FIXATION_S, SACCADE_S = (0.4, 2.0), 0.05
ON_CAMERA, WIDEST = 0.35, np.radians([24.0, 14.0])
#: Strengths of action units 43 and 5 for each radian of looking down or up: the upper lid follows the iris.
LID_FALLS, LID_RISES = 1.0, 4.0
#: Colours of irises, from brown to blue, and of the white.
_IRISES = np.array([[62, 40, 28], [92, 66, 38], [86, 96, 74], [88, 112, 134]], float)
_WHITE, _PUPIL = np.array([214.0, 202.0, 196.0]), np.array([16.0, 13.0, 13.0])
#: Corners of the lids and inner rims of each eye, in the order of `mesh_deformation.lid_pairs`.
_CORNERS = ((33, 133), (263, 362))


@dataclass(frozen=True, slots=True)
class Eyes:
    """The eyes of one person.

    gaze: `(time, 2)` radians, to the right of the picture and down, 0 towards the camera; both eyes are parallel.
    centre_mm: `(2, 3)` place of each ball, see `CENTRE_MM`. colour: `(3,)` of the irises.
    """

    gaze: np.ndarray
    centre_mm: np.ndarray
    colour: np.ndarray

    def vectors(self) -> np.ndarray:
        """`(time, 3)` unit vectors of the gaze: right, down, away from the camera."""
        tangents = np.column_stack([np.tan(self.gaze), np.full(len(self.gaze), -1.0)])
        return np.asarray(tangents / np.linalg.norm(tangents, axis=1, keepdims=True))


def simulate_eyes(scenario: Scenario, times: np.ndarray) -> Eyes:
    """Eyes of the person of a scenario: fixations on the camera and beside it, `times` `(time,)` seconds."""
    person = seeded_rng(scenario.identity_seed, "eyes")
    centre = CENTRE_MM + PEOPLE_MM * person.standard_normal(3) + SIDES_MM * person.standard_normal((2, 3))
    share = person.random() * (len(_IRISES) - 1)
    first = min(int(share), len(_IRISES) - 2)
    colour = _IRISES[first] + (share - first) * (_IRISES[first + 1] - _IRISES[first])
    rng = seeded_rng(scenario.seed, "gaze")
    knots, targets = [], []
    now = float(times[0])
    while now < times[-1] + FIXATION_S[1]:
        target = np.zeros(2) if rng.random() < ON_CAMERA else rng.uniform(-1, 1, 2) * WIDEST
        length = rng.uniform(*FIXATION_S)
        knots += [now, now + length - SACCADE_S]
        targets += [target, target]
        now += length
    curve = [np.interp(times, knots, np.array(targets)[:, k]) for k in range(2)]
    return Eyes(np.stack(curve, axis=1), centre, colour)


def follow_with_lids(actions: np.ndarray, gaze: np.ndarray) -> None:
    """Lower and raise the upper lids with the gaze, in action-unit strengths `(time, units)`, in place."""
    actions[:, unit_indices("43")] += LID_FALLS * np.clip(gaze[:, 1:], 0, None)
    actions[:, unit_indices("5")] += LID_RISES * np.clip(-gaze[:, 1:], 0, None)


class EyePainter:
    """Paints the eyes of one person into the drawn head.

    Args:
        eyes: the eyes. triangles: `(n, 3)` of the puppet mesh.
        turns: `(time, 3, 3)` rotations of the head in the frame.
        unit: pixels of the frame in an interocular unit.
    """

    def __init__(self, eyes: Eyes, triangles: np.ndarray, turns: np.ndarray, unit: float) -> None:
        self._vectors, self._centres, self._colour = eyes.vectors(), eyes.centre_mm, eyes.colour
        self._turns, self._pixels = turns, unit / UNIT_MM  # pixels of a millimetre
        upper, lower = mesh_deformation.lid_pairs()
        half = len(upper) // 2
        #: For each triangle 0, or 1 or 2 if it lies between the lids of the right or the left eye.
        self._eye_of = np.zeros(len(triangles), np.uint8)
        for eye, corners in enumerate(_CORNERS):
            part = slice(eye * half, (eye + 1) * half)
            lids = np.concatenate([upper[part], lower[part], corners])
            self._eye_of[np.isin(triangles, lids).all(axis=1)] = eye + 1

    def paint(
        self, out: np.ndarray, triangle_map: np.ndarray, vertices: np.ndarray, corner: tuple[int, int], frame: int
    ) -> None:
        """Paint both eyes of a frame into `out`.

        Args:
            out: `(height, width, 3)` uint8, a part of the frame.
            triangle_map: `(height, width)` triangle at each pixel, -1 for none.
            vertices: `(points, 3)` of the frame. corner: x, y of the part in the frame.
        """
        which = np.where(triangle_map >= 0, self._eye_of[np.maximum(triangle_map, 0)], 0)
        middles = np.array([vertices[list(corners), :2].mean(axis=0) for corners in _CORNERS]) - corner
        for eye in range(2):
            visible = (which == eye + 1).astype(np.uint8)
            x, y, width, height = cv2.boundingRect(visible)
            if not width:
                continue
            outward = np.sign(middles[eye, 0] - middles[1 - eye, 0])
            offset = self._turns[frame] @ (self._centres[eye] * (outward, 1, 1))
            centre = middles[eye] + self._pixels * offset[:2]
            part = (slice(max(y - 2, 0), y + height + 2), slice(max(x - 2, 0), x + width + 2))
            soft = cv2.GaussianBlur(visible[part].astype(np.float32), (0, 0), 0.7)[..., None]
            place = (part[1].start - centre[0], part[0].start - centre[1])
            drawn = self._ball(visible[part], place, self._vectors[frame])
            out[part] = out[part] * (1 - soft) + drawn * soft

    def _ball(self, visible: np.ndarray, place: tuple[float, float], gaze: np.ndarray) -> np.ndarray:
        """Pixels `(height, width, 3)` of an eyeball. place: x, y of the first pixel from its centre, pixels."""
        rows, columns = visible.shape
        x = (np.arange(columns) + place[0]) / self._pixels
        y = (np.arange(rows)[:, None] + place[1]) / self._pixels
        depth = np.sqrt(np.maximum(BALL_MM**2 - x**2 - y**2, 1.0))
        toward = (x * gaze[0] + y * gaze[1] - depth * gaze[2]) / BALL_MM
        arc = BALL_MM * np.arccos(np.clip(toward, -1, 1))  # from the middle of the iris, on the ball
        # the rim of an iris lies on the ball, at the same arc in all directions
        iris, pupil = (self._inside(arc, BALL_MM * math.asin(radius / BALL_MM)) for radius in (IRIS_MM, PUPIL_MM))
        tone = self._colour * (1.15 - 0.6 * (arc / IRIS_MM)[..., None] ** 2)
        white = _WHITE * (0.72 + 0.28 * depth / BALL_MM)[..., None]
        colours = white * (1 - iris) + np.clip(tone, 0, 255) * iris
        colours = colours * (1 - pupil) + _PUPIL * pupil
        first = np.argmax(visible, axis=0)  # the upper lid's shadow
        below = (np.arange(rows)[:, None] - first) / self._pixels
        colours *= (1 - 0.5 * np.exp(-np.maximum(below, 0) / 1.5))[..., None]
        glint = np.hypot(x - 9.5 * gaze[0] + 0.9, y - 9.5 * gaze[1] + 1.1)
        shine = 0.9 * self._inside(glint, 0.7)
        return np.asarray(colours * (1 - shine) + 245.0 * shine)

    def _inside(self, distance: np.ndarray, radius: float) -> np.ndarray:
        """Opacity `(height, width, 1)` of what is nearer than `radius`, with an edge one pixel wide; millimetres."""
        return np.asarray(np.clip((radius - distance) * self._pixels + 0.5, 0, 1)[..., None])
