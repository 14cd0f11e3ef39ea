"""Head pose, blinks and pitch of `mien predict --features` on rendered clips, whose truth is known.

    python bench/features.py [--clips 12] [--seconds 20] [--split test]

Renders clips of as many people, predicts each with the starter, and compares every frame's head pose with the rendered
one, its fundamental frequency with that of the synthesised voice, and the blinks found with those rendered. The person
differs from clip to clip. A blink is found if the middle of a found one is within 0.25 s of its middle. `--split val`
gives the set on which the thresholds of `mien.predict.blinks` were chosen, together with simulated meshes.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np

import mien
from mien.synthetic import mesh_tracks
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--split", default="test", choices=("val", "test"))
    given = parser.parse_args()
    predictor = mien.load("starter", max_faces=1)
    signed: list[np.ndarray] = []
    errors, ratios, found, true, hits = [], [], 0, 0, 0
    for number in range(given.clips):
        scenario = draw_scenario(given.split, number, seconds=given.seconds, seed=SEED, balance=1.0, impairments=False)
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


if __name__ == "__main__":
    main()
