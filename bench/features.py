"""Head pose, blinks, pitch and gaze of `mien predict --features` on rendered clips, whose truth is known.

    python bench/features.py [--clips 12] [--seconds 20] [--split test]
    python bench/features.py --gaze [--clips 12] [--seconds 20]
    python bench/features.py --shifted CLIPS
    python bench/features.py --cost [--seconds 20]

Renders clips of as many people, predicts each with the starter, and compares every frame's head pose with the rendered
one, its fundamental frequency with that of the synthesised voice, and the blinks found with those rendered. The person
differs from clip to clip. A blink is found if the middle of a found one is within 0.25 s of its middle. `--split val`
gives the set on which the thresholds of `mien.predict.blinks` were chosen, together with simulated meshes.

`--gaze` renders people whose eyes look around (`mien.synthetic.eyes`) and compares the gaze with the rendered one. The
renderer draws the place of each eyeball behind the lids at random, so that the constant error of a person is that of
this choice. `--shifted` takes real videos of one face each, shifts the irises of every tenth picture by a third of
their radius while the lids stay, and compares the shift of the network's irises with that. `--cost` gives the processor
time of each group of columns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np

import mien
from mien.encode import gaze
from mien.faces.face_landmarker import LEFT_IRIS, RIGHT_IRIS, FaceLandmarker
from mien.faces.tracker import FaceTracker
from mien.media.video import frames
from mien.synthetic import mesh_tracks
from mien.synthetic.mesh_deformation import lid_pairs
from mien.synthetic.puppet import TURN_LIMIT
from mien.synthetic.render import render_video
from mien.synthetic.scenario import Scenario, draw_scenario
from mien.synthetic.speech_synthesis import synthesise_scenario

#: Greatest distance in seconds of a found blink from a true one.
NEAR_S = 0.25
SEED = 21


@dataclass
class Truth:
    """True `(frame, 3)` pitch, yaw, roll in degrees, `(frame,)` fundamental frequency in Hz (NaN where unvoiced), and
    the middle of each blink in seconds."""

    pose: np.ndarray
    f0: np.ndarray
    blinks: list[float]


def render(scenario: Scenario, path: Path) -> Truth:
    """Write the clip of a scenario, and return what it shows."""
    closures: list[np.ndarray] = []
    simulate = mesh_tracks._blinks

    def recorded(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
        closures.append(simulate(rng, times))
        return closures[-1]

    with patch.object(mesh_tracks, "_blinks", recorded):
        render_video(scenario, path)
    times = scenario.times()
    pose = TURN_LIMIT * np.tanh(mesh_tracks.simulate_head_pose(scenario, times) / TURN_LIMIT)  # as it is drawn
    speech = synthesise_scenario(scenario)
    f0 = speech.f0[np.minimum(np.searchsorted(speech.times, times), len(speech.f0) - 1)]
    return Truth(np.degrees(pose), f0, middles(closures[0] > 0.1, times))


def middles(closed: np.ndarray, times: np.ndarray) -> list[float]:
    """Middle in seconds of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], closed, [False]]).astype(int)))
    return [float((times[a] + times[b - 1]) / 2) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def matched(found: list[float], true: list[float]) -> int:
    """Number of true blinks that are found; each found one counts once."""
    left, hits = list(true), 0
    for middle in found:
        near = [t for t in left if abs(t - middle) <= NEAR_S]
        if near:
            left.remove(min(near, key=lambda t: abs(t - middle)))
            hits += 1
    return hits


def measure_gaze(clips: int, seconds: float, split: str) -> None:
    """Print the error of the gaze in degrees."""
    predictor = mien.load("starter", max_faces=1)
    found, true, clip = [], [], []
    for number in range(clips):
        scenario = draw_scenario(split, number, seconds=seconds, seed=SEED, balance=1.0, impairments=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            scene = render_video(scenario, path, moving_eyes=True)
            features = predictor.predict(path, voice=False, features="gaze").features
        assert features is not None
        angles = np.degrees(features.select("gaze_angle_x", "gaze_angle_y").cast(float).to_numpy())
        truth = np.degrees(scene.eyes[scenario.id].gaze)
        count = min(len(angles), len(truth))
        found.append(angles[:count])
        true.append(truth[:count])
        clip.append(np.full(count, number))
        error = np.nanmean(np.abs(angles[:count] - truth[:count]), axis=0)
        print(f"{scenario.id}: error {error.round(1)} degrees")
    angles, truth, number = np.concatenate(found), np.concatenate(true), np.concatenate(clip)
    known = np.isfinite(angles).all(axis=1)
    print(f"gaze: known in {known.sum()} of {len(known)} frames")
    angles, truth, number = angles[known], truth[known], number[known]
    error = angles - truth
    means = np.array([error[number == n].mean(axis=0) for n in range(clips)])
    for axis, name in enumerate(("x", "y")):
        off, centred = np.abs(error[:, axis]), np.abs(error[:, axis] - means[number, axis])
        slopes = [np.polyfit(truth[number == n, axis], angles[number == n, axis], 1)[0] for n in range(clips)]
        print(f"  {name}: mean absolute error {off.mean():.1f} degrees, 95th percentile {np.percentile(off, 95):.1f}")
        print(f"     mean errors of the clips {means[:, axis].min():.1f} to {means[:, axis].max():.1f}, ", end="")
        print(f"without them {centred.mean():.1f}; of a constant guess ", end="")
        print(f"{np.abs(truth[:, axis] - truth[:, axis].mean()).mean():.1f}; change for each true degree", end=" ")
        print(f"{np.mean(slopes):.2f} (clips: {min(slopes):.2f} to {max(slopes):.2f})")


def shift_irises(image: np.ndarray, landmarks: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The picture with both irises moved by `shift` `(2,)`, in radii of the iris. The lids and what is outside stay."""
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]].astype(np.float32)
    upper, lower = lid_pairs()
    half, out = len(upper) // 2, [columns.copy(), rows.copy()]
    for eye, (iris, corners) in enumerate(zip((RIGHT_IRIS, LEFT_IRIS), gaze.CORNERS, strict=True)):
        centre = landmarks[list(iris), :2].mean(axis=0)
        radius = np.linalg.norm(landmarks[list(iris[1:]), :2] - centre, axis=1).mean()
        part = slice(eye * half, (eye + 1) * half)
        rim = landmarks[np.concatenate([corners, upper[part], lower[part]]), :2]
        inside = cv2.fillConvexPoly(
            np.zeros(image.shape[:2], np.uint8), np.round(16 * cv2.convexHull(rim)).astype(np.int32), 1, shift=4
        )
        near = np.exp(-((np.hypot(columns - centre[0], rows - centre[1]) / (1.6 * radius)) ** 6))
        amount = radius * near * cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.6)
        for axis in range(2):
            out[axis] -= np.float32(shift[axis]) * amount.astype(np.float32)
    return cv2.remap(image, *out, cv2.INTER_CUBIC)


def measure_shifted(folder: Path) -> None:
    """Print the share of a shift of the irises that the network shows."""
    network, shares = FaceLandmarker(), []
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".mpg", ".mp4")):
        tracker, found = FaceTracker(max_faces=1), []
        for frame in frames(path):
            seen = tracker(frame)
            if frame.index % 10 or not seen:
                continue
            mesh = seen[0].mesh
            landmarks = network.landmarks(frame.image, mesh)
            if not np.isfinite(gaze.measure(landmarks[None])[0]).all():
                continue  # closed eyes
            radius = np.linalg.norm(landmarks[470, :2] - landmarks[472, :2]) / 2
            moved = []
            for axis in range(2):
                ends = []
                for step in (-1 / 3, 1 / 3):
                    image = shift_irises(frame.image, landmarks, step * np.eye(2)[axis])
                    ends.append(gaze.iris_centres(network.landmarks(image, mesh)[None])[0, :, axis].mean())
                moved.append((ends[1] - ends[0]) / (2 / 3 * radius))
            found.append(moved)
        if found:
            shares.append(np.mean(found, axis=0))
            print(f"{path.name}: {len(found)} pictures, sideways {shares[-1][0]:.2f}, vertical {shares[-1][1]:.2f}")
    print("mean: sideways {:.2f}, vertical {:.2f}".format(*np.mean(shares, axis=0)))


def measure_cost(seconds: float) -> None:
    """Print the CPU time per frame of `mien predict` with each optional group of feature columns."""
    scenario = draw_scenario("test", 0, seconds=seconds, seed=SEED, balance=1.0, impairments=False)
    predictor = mien.load("starter", max_faces=1)
    predictor.one_thread = True
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        render_video(scenario, path)
        for features in (True, "landmarks", "gaze", "blendshapes", ("gaze", "blendshapes", "landmarks")):
            spent = []
            for _ in range(3):
                start = time.process_time()
                timeline = predictor.predict(path, voice=False, features=features)
                spent.append(time.process_time() - start)
            each = 1000 * min(spent) / len(timeline)
            print(f"features={features!r}: {each:.1f} ms of processor time a frame (best of 3)")


def measure_pose_blinks_pitch(clips: int, seconds: float, split: str) -> None:
    """Print the errors of head pose, blinks and fundamental frequency."""
    predictor = mien.load("starter", max_faces=1)
    signed: list[np.ndarray] = []
    errors, ratios, found, true, hits = [], [], 0, 0, 0
    for number in range(clips):
        scenario = draw_scenario(split, number, seconds=seconds, seed=SEED, balance=1.0, impairments=False)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            truth = render(scenario, path)
            timeline = predictor.predict(path, features=True)
        rows, features = timeline.table, timeline.features
        assert features is not None
        pose = rows.select("pitch", "yaw", "roll").to_numpy()
        count = min(len(pose), len(truth.pose))
        signed.append(pose[:count] - truth.pose[:count])
        errors.append(np.abs(signed[-1]))
        f0 = features["f0_hz"].cast(float).fill_null(np.nan).to_numpy()[:count] / truth.f0[:count]
        ratios.append(f0[np.isfinite(f0)])
        blink = features["AU45_c"].fill_null(0).to_numpy() > 0
        middle = middles(blink, features["time_s"].to_numpy())
        hit = matched(middle, truth.blinks)
        found, true, hits = found + len(middle), true + len(truth.blinks), hits + hit
        mean = np.nanmean(errors[-1], axis=0)
        print(f"{scenario.id}: error {mean.round(2)} degrees, blinks {hit} of {len(truth.blinks)}, {len(middle)} found")
    error = np.concatenate(errors)
    print(f"head pose: {np.isfinite(error).all(axis=1).sum()} of {len(error)} frames")
    for name, column in zip(("pitch", "yaw", "roll"), error.T, strict=True):
        mean, high = np.nanmean(column), np.nanpercentile(column, 95)
        print(f"  {name:5} mean absolute error {mean:.1f} degrees, 95th percentile {high:.1f}")
    centred = np.concatenate([np.abs(error - error.mean(axis=0)).mean(axis=0, keepdims=True) for error in signed])
    print(f"  without the mean error of each clip: {centred.mean(axis=0).round(1)} degrees")
    ratio = np.concatenate(ratios)
    near, octaves = np.mean(np.abs(ratio - 1) < 0.1), np.mean(np.abs(np.log2(ratio)) > 0.5)
    print(f"f0: {len(ratio)} frames that are voiced in both: ", end="")
    print(
        f"median error {100 * np.median(np.abs(ratio - 1)):.1f} %, {near:.0%} within 10 %, {octaves:.1%} by an octave"
    )
    recall, precision = hits / max(true, 1), hits / max(found, 1)
    score = 2 * hits / max(found + true, 1)
    print(f"blinks: {true} true, {found} found, {hits} of them true: ", end="")
    print(f"recall {recall:.2f}, precision {precision:.2f}, F1 {score:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--gaze", action="store_true", help="measure the gaze instead")
    parser.add_argument("--shifted", type=Path, metavar="CLIPS", help="measure shifted irises in these videos instead")
    parser.add_argument("--cost", action="store_true", help="measure the processor time instead")
    given = parser.parse_args()
    if given.cost:
        measure_cost(given.seconds)
    elif given.shifted:
        measure_shifted(given.shifted)
    else:
        (measure_gaze if given.gaze else measure_pose_blinks_pitch)(given.clips, given.seconds, given.split)


if __name__ == "__main__":
    main()
