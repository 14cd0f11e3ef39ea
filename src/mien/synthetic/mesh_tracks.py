"""From a plan to a face track: the meshes a face-mesh network would report, and when it reports none.

The action vector over time is the plan's expressions, plus what every face does besides: speech, blinks, glances,
the small restless movements of a resting face. The mesh is then turned, seen in perspective, and disturbed as the
network disturbs it. Sizes of the disturbances are our choice, after the jitter and the pose dependence of the
real network on real faces (see docs/BENCHMARKS.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mien.synthetic import expression_prototypes, mesh_deformation
from mien.synthetic.action_units import index, names, units
from mien.synthetic.identities import Identity, person
from mien.synthetic.scenario import BLINDING, Scenario, entropy

LEAK_FIELDS, LEAK_PER_RADIAN = 4, 0.07
DRIFT_FIELDS, DRIFT_SIZE, DRIFT_SECONDS = 4, 0.006, 0.7
#: Restless movement of a resting face: unit -> size; slow (about a second), both signs for lids and brows.
RESTLESS = {
    "1": 0.07,
    "2": 0.07,
    "4": 0.07,
    "7": 0.06,
    "12": 0.05,
    "14": 0.05,
    "15": 0.04,
    "17": 0.07,
    "23": 0.12,
    "24": 0.08,
    "43": 0.1,
    "down": 0.1,
}
#: How much of each unit's movement the face-mesh network reports, lowest and highest per recording: about what it
#: reports on the synthetic corpus's own rendered pictures, and up to twice that, because real wrinkles help it.
REPORTED = {
    **dict.fromkeys(("1", "2"), (0.6, 1.0)),
    **dict.fromkeys(("4", "9", "11", "15", "17", "20", "22"), (0.5, 1.0)),
    **dict.fromkeys(("5", "7"), (0.35, 0.85)),
    **dict.fromkeys(("6", "10"), (0.6, 1.0)),
    **dict.fromkeys(("12", "16", "25", "26", "27", "down"), (0.8, 1.15)),
    **dict.fromkeys(("14", "18", "30"), (0.35, 0.85)),
    **dict.fromkeys(("23", "24", "28", "34"), (0.25, 0.7)),
    "43": (0.3, 0.65),
}
#: How much of the difference between the sides it reports, for the mouth and for brows and lids.
REPORTED_SIDES, SIDES_OF_EYES = (0.3, 0.9), (0.1, 0.5)
EYE_UNITS = ("1", "2", "4", "5", "6", "7", "43")
#: A raised upper lip it takes for an open mouth as well: unit 25 for each of 9 and 10, lowest and highest.
TEETH_GUESS = (0.0, 1.2)
SHUT_GAP = 0.004  # interocular units left between lips or lids that touch


@dataclass(frozen=True, slots=True)
class Track:
    """times: `(frame,)` seconds. meshes: `(frame, 468, 3)` pixels of the picture, NaN where no face is read.
    valid: `(frame,)` bool. actions: `(frame, units)` planted strengths. pose: `(frame, 3)` pitch, yaw, roll."""

    times: np.ndarray
    meshes: np.ndarray
    valid: np.ndarray
    actions: np.ndarray
    pose: np.ndarray


def wander(rng: np.random.Generator, times: np.ndarray, count: int, seconds: float) -> np.ndarray:
    """`(time, count)` smooth random curves of unit variance that forget themselves in about `seconds`."""
    knots = np.arange(times[0] - 2 * seconds, times[-1] + 2 * seconds, seconds / 2)
    values = rng.standard_normal((len(knots), count))
    position = (times - knots[0]) / (seconds / 2)
    first = position.astype(int)[:, None] + np.arange(-1, 3)[None]
    weight = np.exp(-0.5 * ((position[:, None] - first) / 0.75) ** 2)
    weight /= np.sqrt((weight**2).sum(axis=1, keepdims=True))
    return np.einsum("tk,tkc->tc", weight, values[np.clip(first, 0, len(knots) - 1)])


def surrogate_opening(plan: Scenario, times: np.ndarray) -> np.ndarray:
    """`(time,)` mouth opening in [0, 1] for the plan's speech when no voice is at hand: 3 to 6 syllables a second,
    each a raised-cosine bump of its own height."""
    rng = entropy(plan.seed, "syllables")
    opening = np.zeros(len(times))
    for start, stop in plan.speech:
        now = start
        while now < stop:
            length = float(rng.uniform(0.14, 0.32))
            phase = np.clip((times - now) / length, 0, 1)
            opening = np.maximum(opening, rng.uniform(0.1, 1.0) * (0.5 - 0.5 * np.cos(2 * np.pi * phase)))
            now += length * rng.uniform(0.75, 1.05) + (rng.random() < 0.08) * 0.2
    return opening


def _blinks(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """`(time,)` lid closure: a quarter of a second, 5 to 30 a minute."""
    out = np.zeros(len(times))
    now, pause = float(rng.exponential(2.0)), float(rng.uniform(2.0, 9.0))
    while now < times[-1]:
        shape = np.clip((times - now) / rng.uniform(0.18, 0.4), 0, 1)
        out = np.maximum(out, rng.uniform(0.5, 1.1) * np.sin(np.pi * shape) ** 0.8)
        now += 0.3 + rng.exponential(pause)
    return out


def _speak(rng: np.random.Generator, times: np.ndarray, opening: np.ndarray, out: np.ndarray) -> None:
    """Add articulation to an action array: the jaw and lips follow the opening; lips spread, round, press and roll,
    and the mouth rides up and down with the jaw behind it."""
    speaking = np.convolve(opening > 0.02, np.ones(5) / 5, mode="same") > 0
    shape = wander(rng, times, 5, 0.22) * speaking[:, None]
    liveliness, lips = rng.uniform(0.35, 1.6), rng.uniform(0.3, 1.2)
    full = rng.uniform(-0.2, 1.0)
    for unit, amount in (
        ("26", 0.75 * liveliness * opening),
        ("25", 0.7 * lips * np.clip(opening * (1 + 0.4 * shape[:, 0]), 0, 1.5)),
        ("down", lips * (0.5 * opening + 0.35 * shape[:, 3])),
        # lips that open unroll: more of the red is seen
        ("23", -0.5 * full * opening + 0.3 * lips * shape[:, 4]),
        ("18", 0.35 * lips * np.clip(shape[:, 1], 0, 2)),
        ("22", 0.25 * lips * np.clip(shape[:, 1] - 0.5, 0, 2)),
        ("20", 0.22 * lips * np.clip(-shape[:, 1], 0, 2)),
        ("16", 0.3 * lips * np.clip(shape[:, 2], 0, 2) * opening),
        ("24", 0.6 * lips * np.clip(-shape[:, 2] - 0.6, 0, 2) * (opening < 0.15)),
        ("10", 0.15 * lips * np.clip(shape[:, 0], 0, 2) * opening),
    ):
        out[:, index(unit)] += amount[:, None]


def perform(plan: Scenario, who: Identity, times: np.ndarray, opening: np.ndarray | None = None) -> np.ndarray:
    """`(time, units)` strengths of all action units.

    Args:
        opening: `(time,)` mouth opening in [0, 1] of the plan's speech; made up when absent.
    """
    rng = entropy(plan.seed, "perform")
    out = np.tile(who.habit, (len(times), 1))
    known = expression_prototypes.recipes()
    for segment, envelope in zip(plan.segments, plan.envelopes(times), strict=True):
        strength = expression_prototypes.draw(rng, known[segment.recipe])
        flutter = 1 + 0.08 * wander(rng, times, 1, 0.8)
        out += envelope[:, None] * flutter * strength
    restless = rng.uniform(0.3, 1.2)
    for unit, size in RESTLESS.items():
        out[:, index(unit)] += restless * size * wander(rng, times, 1, 1.2)
    # eyes that look down hide half of themselves: reading, thinking; says nothing about the expression
    glance = np.clip(wander(rng, times, 1, 1.5) - 1.2, 0, 1) * rng.uniform(0, 1.0)
    out[:, index("43")] += glance + _blinks(rng, times)[:, None]
    _speak(rng, times, surrogate_opening(plan, times) if opening is None else opening, out)
    # flashes of the brows and nods go with stressed words
    out[:, index("1") + index("2")] += rng.uniform(0, 0.3) * np.clip(wander(rng, times, 1, 0.5) - 1, 0, 2)
    return out * who.gain


def reported(plan: Scenario, actions: np.ndarray) -> np.ndarray:
    """`(time, units)` what of the planted strengths a face-mesh network will report in this recording."""
    rng = entropy(plan.seed, "reported")
    out = actions.copy()
    guess = rng.uniform(*TEETH_GUESS) * np.clip(actions[:, [*index("9"), *index("10")]].max(axis=1), 0, None)
    for unit, (low, high) in REPORTED.items():
        where = index(unit)
        share, sides = rng.uniform(low, high), rng.uniform(*(SIDES_OF_EYES if unit in EYE_UNITS else REPORTED_SIDES))
        mean = out[:, where].mean(axis=1, keepdims=True)
        out[:, where] = share * (mean + sides * (out[:, where] - mean))
    out[:, index("25")] += guess[:, None]
    return out


def shape(rest: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """`(time, 468, 3)` faces at rest moved by actions; lips and lids meet and do not pass through each other."""
    fields = units()[1].reshape(actions.shape[1], -1).astype(np.float32)
    moved = rest.astype(np.float32) + (actions.astype(np.float32) @ fields).reshape(len(actions), -1, 3)
    for upper, lower in (mesh_deformation.inner_lip_pairs(), mesh_deformation.lid_pairs()):
        short = np.maximum(SHUT_GAP - (moved[:, lower, 1] - moved[:, upper, 1]), 0)
        moved[:, lower, 1] += short / 2
        moved[:, upper, 1] -= short / 2
    return moved


def rotation(pose: np.ndarray) -> np.ndarray:
    """`(time, 3, 3)` Rz(roll) Ry(-yaw) Rx(pitch) of `(time, 3)` pitch, yaw, roll in radians."""
    (cp, cy, cr), (sp, sy, sr) = np.cos(pose).T, np.sin(pose * (1, -1, 1)).T
    zero, one = np.zeros(len(pose)), np.ones(len(pose))
    rx = np.array([[one, zero, zero], [zero, cp, -sp], [zero, sp, cp]])
    ry = np.array([[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]])
    rz = np.array([[cr, -sr, zero], [sr, cr, zero], [zero, zero, one]])
    return np.einsum("ijt,jkt,klt->til", rz, ry, rx)


def head_pose(plan: Scenario, times: np.ndarray) -> np.ndarray:
    """`(time, 3)` pitch, yaw, roll in radians: where the camera stands, slow turns, nods; yaw within 35 degrees."""
    rng = entropy(plan.seed, "pose")
    stand = rng.standard_normal(3) * (0.12, 0.16, 0.05)
    lively = rng.uniform(0.2, 1.2)
    slow = wander(rng, times, 3, 2.5) * (0.06, 0.1, 0.04) * lively
    quick = wander(rng, times, 3, 0.4) * (0.02, 0.02, 0.01) * lively
    limit = np.array([0.45, 0.6, 0.4])
    return np.asarray(limit * np.tanh((stand + slow + quick) / limit))


def _see(plan: Scenario, faces: np.ndarray, pose: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Turn, project and disturb: what the network makes of the head, in interocular units."""
    rng = entropy(plan.seed, "see")
    leak = mesh_deformation.smooth_fields(rng, LEAK_FIELDS) * LEAK_PER_RADIAN / np.sqrt(LEAK_FIELDS / 3)
    mix = np.concatenate([pose, np.abs(pose[:, 1:2])], axis=1)
    drift = mesh_deformation.smooth_fields(rng, DRIFT_FIELDS, reach=0.3) * (DRIFT_SIZE / np.sqrt(DRIFT_FIELDS))
    curve = wander(rng, times, DRIFT_FIELDS, DRIFT_SECONDS) * rng.uniform(0.3, 1.5)
    # the network guesses depth from one picture: too flat or too deep, and slanted
    depth, distance = rng.uniform(0.9, 1.1), rng.uniform(7.0, 20.0)
    jitter = np.exp(rng.uniform(np.log(0.0005), np.log(0.004)))
    quick = mesh_deformation.smooth_fields(rng, 3, reach=0.3) * (jitter / np.sqrt(3))
    weights = np.concatenate([mix, curve, rng.standard_normal((len(times), 3))], axis=1).astype(np.float32)
    fields = np.concatenate([leak, drift, quick]).astype(np.float32).reshape(weights.shape[1], -1)
    faces = faces.astype(np.float32) + (weights @ fields).reshape(faces.shape)
    faces[..., 2] *= depth
    turned = np.matmul(faces, rotation(pose).transpose(0, 2, 1).astype(np.float32))
    turned[..., :2] *= distance / (distance + turned[..., 2:])
    turned += np.float32(0.3 * jitter) * rng.standard_normal(turned.shape, dtype=np.float32)
    return np.asarray(turned)


@lru_cache(maxsize=64)
def cast(seed: int, sex: str) -> Identity:
    """The person of a plan."""
    return person(entropy(seed, "person"), sex)


def _lost(plan: Scenario, times: np.ndarray) -> np.ndarray:
    """`(time,)` bool: no face is read. Behind a hand the network fails for most of the time."""
    rng = entropy(plan.seed, "lost")
    lost = plan.within(BLINDING, times)
    hidden = plan.within(("occluded",), times)
    return np.asarray(lost | (hidden & (wander(rng, times, 1, 0.6)[:, 0] > -0.3)))


def track(plan: Scenario, opening: np.ndarray | None = None, size: tuple[int, int] = (640, 360)) -> Track:
    """The face track of a plan's subject, at the plan's frame rate.

    Args:
        opening: `(frame,)` mouth opening of the voice at the frames' times; see `perform`.
        size: width and height of the imagined picture in pixels.
    """
    times = plan.times()
    who = cast(plan.person, plan.sex)
    actions = perform(plan, who, times, opening)
    pose = head_pose(plan, times)
    meshes = _see(plan, shape(who.rest, reported(plan, actions)), pose, times)
    rng = entropy(plan.seed, "place")
    scale = rng.uniform(0.1, 0.3) * size[1]
    place = np.array([size[0] * rng.uniform(0.35, 0.65), size[1] * rng.uniform(0.35, 0.5), 0.0])
    sway = wander(rng, times, 3, 1.5) * (0.15, 0.08, 0.0)
    meshes += sway[:, None].astype(np.float32)
    meshes *= np.float32(scale)
    meshes += place.astype(np.float32)
    # under a hand that is not noticed the network makes a face up: mostly its average one
    hidden = plan.within(("occluded",), times)
    meshes[hidden] += rng.standard_normal((int(hidden.sum()), 1, 3)) * 0.01 * scale
    valid = ~_lost(plan, times)
    meshes[~valid] = np.nan
    return Track(times, meshes, valid, actions, pose)


__all__ = [
    "Track",
    "cast",
    "head_pose",
    "names",
    "perform",
    "rotation",
    "shape",
    "surrogate_opening",
    "track",
    "wander",
]
