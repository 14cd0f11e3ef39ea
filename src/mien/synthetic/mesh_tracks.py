"""Simulated face tracks: the meshes a face-mesh network would report for a scenario, and where it reports none.

The action-unit strengths over time are those of the scenario's expressions, plus speech, blinks, glances and the small
movements of a resting face. The meshes are then rotated, projected and disturbed as the network disturbs them. Sizes
of the disturbances are our choice, after the jitter and the pose dependence of the network on real faces
(docs/BENCHMARKS.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mien.synthetic import expression_prototypes, mesh_deformation
from mien.synthetic.action_units import unit_fields, unit_indices
from mien.synthetic.identities import Identity, draw_identity
from mien.synthetic.scenario import FACE_IMPAIRMENTS, Scenario, seeded_rng

#: Disturbances of the reported mesh, in interocular units: error that depends on the head pose, and slow drift.
LEAK_FIELDS, LEAK_PER_RADIAN = 4, 0.07
DRIFT_FIELDS, DRIFT_SIZE, DRIFT_SECONDS = 4, 0.006, 0.7
#: Small movements of a resting face: unit -> standard deviation; slow (about a second) and of both signs.
RESTLESS = {
    "1": 0.07, "2": 0.07, "4": 0.07, "7": 0.06, "12": 0.05, "14": 0.05, "15": 0.04, "17": 0.07, "23": 0.12,
    "24": 0.08, "43": 0.1, "down": 0.1,
}  # fmt: skip
#: Share of each unit's strength that the face-mesh network reports: range over recordings. The lower ends are near what
#: it reports on rendered pictures of the synthetic corpus; the upper ends are up to twice that, because the wrinkles of
#: real faces help the network.
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
#: Share of the difference between the sides that the network reports: for the mouth, and for brows and lids.
REPORTED_MOUTH_ASYMMETRY, REPORTED_EYE_ASYMMETRY = (0.3, 0.9), (0.1, 0.5)
EYE_UNITS = ("1", "2", "4", "5", "6", "7", "43")
#: Unit 25 that the network reports for each of units 9 and 10, because a raised upper lip resembles an open mouth.
FALSE_OPENING = (0.0, 1.2)
CLOSED_GAP = 0.004  # interocular units between lips or lids that touch


@dataclass(frozen=True, slots=True)
class MeshTrack:
    """Simulated face track.

    times: `(frame,)` seconds. meshes: `(frame, 468, 3)` pixels of the picture, NaN where no face is reported. valid:
    `(frame,)` bool. actions: `(frame, units)` true action-unit strengths. pose: `(frame, 3)` pitch, yaw, roll in
    radians.
    """

    times: np.ndarray
    meshes: np.ndarray
    valid: np.ndarray
    actions: np.ndarray
    pose: np.ndarray


def smooth_noise(rng: np.random.Generator, times: np.ndarray, count: int, seconds: float) -> np.ndarray:
    """`(time, count)` smooth random curves of unit variance with a correlation time of about `seconds`."""
    knots = np.arange(times[0] - 2 * seconds, times[-1] + 2 * seconds, seconds / 2)
    values = rng.standard_normal((len(knots), count))
    position = (times - knots[0]) / (seconds / 2)
    first = position.astype(int)[:, None] + np.arange(-1, 3)[None]
    weight = np.exp(-0.5 * ((position[:, None] - first) / 0.75) ** 2)
    weight /= np.sqrt((weight**2).sum(axis=1, keepdims=True))
    return np.asarray(np.einsum("tk,tkc->tc", weight, values[np.clip(first, 0, len(knots) - 1)]))


def simulate_mouth_opening(scenario: Scenario, times: np.ndarray) -> np.ndarray:
    """Simulate the mouth opening of a scenario's speech without synthesising the voice.

    Returns:
        `(time,)` in [0, 1]: 3 to 6 syllables per second, each a raised cosine of random height.
    """
    rng = seeded_rng(scenario.seed, "syllables")
    opening = np.zeros(len(times))
    for start, stop in scenario.speech:
        now = start
        while now < stop:
            length = float(rng.uniform(0.14, 0.32))
            phase = np.clip((times - now) / length, 0, 1)
            opening = np.maximum(opening, rng.uniform(0.1, 1.0) * (0.5 - 0.5 * np.cos(2 * np.pi * phase)))
            now += length * rng.uniform(0.75, 1.05) + (rng.random() < 0.08) * 0.2
    return opening


def _blinks(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """`(time,)` lid closure of blinks: about a quarter of a second each, 5 to 30 per minute."""
    out = np.zeros(len(times))
    now, pause = float(rng.exponential(2.0)), float(rng.uniform(2.0, 9.0))
    while now < times[-1]:
        phase = np.clip((times - now) / rng.uniform(0.18, 0.4), 0, 1)
        out = np.maximum(out, rng.uniform(0.5, 1.1) * np.sin(np.pi * phase) ** 0.8)
        now += 0.3 + rng.exponential(pause)
    return out


def _add_articulation(rng: np.random.Generator, times: np.ndarray, opening: np.ndarray, out: np.ndarray) -> None:
    """Add the movements of speech to an action array `(time, units)` in place.

    Jaw and lips follow the mouth opening; lips also spread, round, press and roll, and move up and down with the jaw.
    """
    speaking = np.convolve(opening > 0.02, np.ones(5) / 5, mode="same") > 0
    articulation = smooth_noise(rng, times, 5, 0.22) * speaking[:, None]
    liveliness, lips = rng.uniform(0.35, 1.6), rng.uniform(0.3, 1.2)
    full = rng.uniform(-0.2, 1.0)
    for unit, amount in (
        ("26", 0.75 * liveliness * opening),
        ("25", 0.7 * lips * np.clip(opening * (1 + 0.4 * articulation[:, 0]), 0, 1.5)),
        ("down", lips * (0.5 * opening + 0.35 * articulation[:, 3])),
        # opening lips unroll and look fuller
        ("23", -0.5 * full * opening + 0.3 * lips * articulation[:, 4]),
        ("18", 0.35 * lips * np.clip(articulation[:, 1], 0, 2)),
        ("22", 0.25 * lips * np.clip(articulation[:, 1] - 0.5, 0, 2)),
        ("20", 0.22 * lips * np.clip(-articulation[:, 1], 0, 2)),
        ("16", 0.3 * lips * np.clip(articulation[:, 2], 0, 2) * opening),
        ("24", 0.6 * lips * np.clip(-articulation[:, 2] - 0.6, 0, 2) * (opening < 0.15)),
        ("10", 0.15 * lips * np.clip(articulation[:, 0], 0, 2) * opening),
    ):
        out[:, unit_indices(unit)] += amount[:, None]


def simulate_actions(
    scenario: Scenario, identity: Identity, times: np.ndarray, opening: np.ndarray | None = None
) -> np.ndarray:
    """Simulate the strengths of all action units.

    Args:
        times: `(time,)` seconds.
        opening: `(time,)` mouth opening of the voice in [0, 1]; None simulates one.

    Returns:
        `(time, units)`, in the order of `action_units.unit_names`.
    """
    rng = seeded_rng(scenario.seed, "perform")
    out = np.tile(identity.habit, (len(times), 1))
    prototypes = expression_prototypes.prototypes()
    for segment, envelope in zip(scenario.segments, scenario.envelopes(times), strict=True):
        strength = expression_prototypes.draw_strengths(rng, prototypes[segment.prototype])
        flutter = 1 + 0.08 * smooth_noise(rng, times, 1, 0.8)
        out += envelope[:, None] * flutter * strength
    restless = rng.uniform(0.3, 1.2)
    for unit, size in RESTLESS.items():
        out[:, unit_indices(unit)] += restless * size * smooth_noise(rng, times, 1, 1.2)
    # looking down lowers the lids in any expression
    glance = np.clip(smooth_noise(rng, times, 1, 1.5) - 1.2, 0, 1) * rng.uniform(0, 1.0)
    out[:, unit_indices("43")] += glance + _blinks(rng, times)[:, None]
    _add_articulation(rng, times, simulate_mouth_opening(scenario, times) if opening is None else opening, out)
    # brow flashes accompany stressed words
    out[:, unit_indices("1") + unit_indices("2")] += rng.uniform(0, 0.3) * np.clip(
        smooth_noise(rng, times, 1, 0.5) - 1, 0, 2
    )
    return np.asarray(out * identity.gain)


def simulate_reported_actions(scenario: Scenario, actions: np.ndarray) -> np.ndarray:
    """`(time, units)` strengths that the face-mesh network reports for the true strengths `actions`."""
    rng = seeded_rng(scenario.seed, "reported")
    out = actions.copy()
    false_opening = rng.uniform(*FALSE_OPENING) * np.clip(
        actions[:, [*unit_indices("9"), *unit_indices("10")]].max(axis=1), 0, None
    )
    for unit, (low, high) in REPORTED.items():
        indices = unit_indices(unit)
        share, sides = (
            rng.uniform(low, high),
            rng.uniform(*(REPORTED_EYE_ASYMMETRY if unit in EYE_UNITS else REPORTED_MOUTH_ASYMMETRY)),
        )
        mean = out[:, indices].mean(axis=1, keepdims=True)
        out[:, indices] = share * (mean + sides * (out[:, indices] - mean))
    out[:, unit_indices("25")] += false_opening[:, None]
    return out


def deform_face(rest: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Deform a resting face by action units; lips and lids stop where they meet.

    Args:
        rest: `(468, 3)` resting face in interocular units.
        actions: `(time, units)` strengths.

    Returns:
        `(time, 468, 3)` float32 in interocular units.
    """
    fields = unit_fields().reshape(actions.shape[1], -1).astype(np.float32)
    moved = rest.astype(np.float32) + (actions.astype(np.float32) @ fields).reshape(len(actions), -1, 3)
    for upper, lower in (mesh_deformation.inner_lip_pairs(), mesh_deformation.lid_pairs()):
        overlap = np.maximum(CLOSED_GAP - (moved[:, lower, 1] - moved[:, upper, 1]), 0)
        moved[:, lower, 1] += overlap / 2
        moved[:, upper, 1] -= overlap / 2
    return np.asarray(moved)


def rotation_matrices(pose: np.ndarray) -> np.ndarray:
    """`(time, 3, 3)` rotations Rz(roll) Ry(-yaw) Rx(pitch) from `(time, 3)` pitch, yaw, roll in radians."""
    (cp, cy, cr), (sp, sy, sr) = np.cos(pose).T, np.sin(pose * (1, -1, 1)).T
    zero, one = np.zeros(len(pose)), np.ones(len(pose))
    rx = np.array([[one, zero, zero], [zero, cp, -sp], [zero, sp, cp]])
    ry = np.array([[cy, zero, sy], [zero, one, zero], [-sy, zero, cy]])
    rz = np.array([[cr, -sr, zero], [sr, cr, zero], [zero, zero, one]])
    return np.asarray(np.einsum("ijt,jkt,klt->til", rz, ry, rx))


def simulate_head_pose(scenario: Scenario, times: np.ndarray) -> np.ndarray:
    """`(time, 3)` pitch, yaw, roll in radians: camera angle, slow turns and nods; yaw within 35 degrees."""
    rng = seeded_rng(scenario.seed, "pose")
    camera = rng.standard_normal(3) * (0.12, 0.16, 0.05)
    liveliness = rng.uniform(0.2, 1.2)
    slow = smooth_noise(rng, times, 3, 2.5) * (0.06, 0.1, 0.04) * liveliness
    quick = smooth_noise(rng, times, 3, 0.4) * (0.02, 0.02, 0.01) * liveliness
    limit = np.array([0.45, 0.6, 0.4])
    return np.asarray(limit * np.tanh((camera + slow + quick) / limit))


def _project(scenario: Scenario, faces: np.ndarray, pose: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Rotate, project and disturb faces `(time, 468, 3)` as the network reports them, in interocular units."""
    rng = seeded_rng(scenario.seed, "see")
    leak = mesh_deformation.smooth_fields(rng, LEAK_FIELDS) * LEAK_PER_RADIAN / np.sqrt(LEAK_FIELDS / 3)
    mix = np.concatenate([pose, np.abs(pose[:, 1:2])], axis=1)
    drift = mesh_deformation.smooth_fields(rng, DRIFT_FIELDS, reach=0.3) * (DRIFT_SIZE / np.sqrt(DRIFT_FIELDS))
    curve = smooth_noise(rng, times, DRIFT_FIELDS, DRIFT_SECONDS) * rng.uniform(0.3, 1.5)
    # the network estimates depth from one picture, with an error of scale
    depth, distance = rng.uniform(0.9, 1.1), rng.uniform(7.0, 20.0)
    jitter = np.exp(rng.uniform(np.log(0.0005), np.log(0.004)))
    quick = mesh_deformation.smooth_fields(rng, 3, reach=0.3) * (jitter / np.sqrt(3))
    weights = np.concatenate([mix, curve, rng.standard_normal((len(times), 3))], axis=1).astype(np.float32)
    fields = np.concatenate([leak, drift, quick]).astype(np.float32).reshape(weights.shape[1], -1)
    faces = faces.astype(np.float32) + (weights @ fields).reshape(faces.shape)
    faces[..., 2] *= depth
    turned = np.matmul(faces, rotation_matrices(pose).transpose(0, 2, 1).astype(np.float32))
    turned[..., :2] *= distance / (distance + turned[..., 2:])
    turned += np.float32(0.3 * jitter) * rng.standard_normal(turned.shape, dtype=np.float32)
    return np.asarray(turned)


@lru_cache(maxsize=64)
def identity_of(seed: int, sex: str) -> Identity:
    """Identity of a person by seed and sex; cached, since drawing one is slow."""
    return draw_identity(seeded_rng(seed, "person"), sex)


def _lost(scenario: Scenario, times: np.ndarray) -> np.ndarray:
    """`(time,)` bool: no face is reported. Under a hand the network fails most of the time."""
    rng = seeded_rng(scenario.seed, "lost")
    lost = scenario.is_impaired(FACE_IMPAIRMENTS, times)
    covered = scenario.is_impaired(("occluded",), times)
    return np.asarray(lost | (covered & (smooth_noise(rng, times, 1, 0.6)[:, 0] > -0.3)))


def simulate_track(
    scenario: Scenario, opening: np.ndarray | None = None, size: tuple[int, int] = (640, 360)
) -> MeshTrack:
    """Simulate the face track of a scenario's subject at the scenario's frame rate.

    Args:
        opening: `(frame,)` mouth opening of the voice; see `simulate_actions`.
        size: width and height of the picture in pixels.
    """
    times = scenario.times()
    identity = identity_of(scenario.identity_seed, scenario.sex)
    actions = simulate_actions(scenario, identity, times, opening)
    pose = simulate_head_pose(scenario, times)
    meshes = _project(scenario, deform_face(identity.rest, simulate_reported_actions(scenario, actions)), pose, times)
    rng = seeded_rng(scenario.seed, "place")
    scale = rng.uniform(0.1, 0.3) * size[1]
    place = np.array([size[0] * rng.uniform(0.35, 0.65), size[1] * rng.uniform(0.35, 0.5), 0.0])
    sway = smooth_noise(rng, times, 3, 1.5) * (0.15, 0.08, 0.0)
    meshes += sway[:, None].astype(np.float32)
    meshes *= np.float32(scale)
    meshes += place.astype(np.float32)
    # a mesh reported under a hand is displaced at random
    covered = scenario.is_impaired(("occluded",), times)
    meshes[covered] += rng.standard_normal((int(covered.sum()), 1, 3)) * 0.01 * scale
    valid = ~_lost(scenario, times)
    meshes[~valid] = np.nan
    return MeshTrack(times, meshes, valid, actions, pose)
