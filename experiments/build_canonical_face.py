"""Makes `encoders/canonical_face.npz`: the neutral face, its mirror map, and how faces rest.

    python -m experiments.build_canonical_face            both
    python -m experiments.build_canonical_face --resting  the resting statistics only (no network needed)

The neutral face is what the face-mesh network answers to a uniform grey picture (192 x 192, every channel 0.5):
a mean-like face that belongs to nobody. It stands a degree or two askew, so its mirror image is laid over it
and the two are averaged; the pairing of left and right landmarks falls out of the same step.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from mien.encoders import face_geometry

GREY = 0.5
PEOPLE, SECONDS = 400, 6.0


def grey_mesh() -> np.ndarray:
    """`(468, 3)` crop pixels: the network's answer to nothing."""
    from ai_edge_litert.interpreter import Interpreter

    from mien.hub import fetch

    network = Interpreter(str(fetch("facemesh")), num_threads=1)
    network.allocate_tensors()
    network.set_tensor(network.get_input_details()[0]["index"], np.full((1, 192, 192, 3), GREY, np.float32))
    network.invoke()
    outputs = [network.get_tensor(o["index"]).ravel() for o in network.get_output_details()]
    return next(o for o in outputs if o.size == face_geometry.LANDMARKS * 3).reshape(-1, 3).astype(float)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`source` laid on `target`, point by point, by the best rotation, scale and shift (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    handed = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * np.diag(handed)).sum() / (a**2).sum()
    return np.asarray(scale * a @ (u @ handed @ vt).T + target.mean(0))


def symmetric(mesh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(468, 3)` upright symmetric face, eye centres one unit apart, origin between the eyes; `(468,)` mirror map."""
    mesh = mesh - mesh.mean(0)
    flipped = laid = mesh * (-1, 1, 1)
    for _ in range(20):
        pairs = linear_sum_assignment(cdist(laid, mesh) ** 2)[1]
        laid = similarity(flipped, mesh[pairs])
    if not np.array_equal(pairs[pairs], np.arange(len(mesh))):
        raise ValueError("the mesh has no mirror symmetry: its landmarks do not pair up")
    mean = mesh.copy()
    mean[pairs] += laid
    mean /= 2
    across = (mean[pairs] - mean)[[33, 133, 61, 234, 127]].mean(0)
    across /= np.linalg.norm(across)
    down = mean[152] - mean[10]
    down -= across * (across @ down)
    down /= np.linalg.norm(down)
    out = mean @ np.stack([across, down, np.cross(across, down)]).T
    eyes = np.stack([out[[33, 133]].mean(0), out[[263, 362]].mean(0)])
    out = (out - (*eyes.mean(0)[:2], out[[168, 6], 2].mean())) / np.linalg.norm(eyes[1] - eyes[0])
    return (out + out[pairs] * (-1, 1, 1)) / 2, pairs


def resting() -> tuple[np.ndarray, np.ndarray]:
    """`(features,)` mean and standard deviation of geometry over the synthetic corpus's people, silent and at rest."""
    from mien.labels import NEUTRAL
    from mien.synthetic import mesh_tracks, scenario

    values = []
    for number in range(PEOPLE):
        script = scenario.draw("train", number, seed=0, seconds=SECONDS, faults=False)
        quiet = (scenario.Segment(0.0, SECONDS, NEUTRAL, "rest", 0.0, 0.1, 0.1),)
        track = mesh_tracks.track(scenario.replace(script, segments=quiet, speech=()))
        values.append(face_geometry.geometry(track.meshes))
    every = np.concatenate(values).astype(float)
    return every.mean(0), every.std(0)


def main() -> None:
    if "--resting" in sys.argv:
        vertices, mirror = face_geometry.canonical()["vertices"], face_geometry.canonical()["mirror"]
    else:
        vertices, mirror = symmetric(grey_mesh())
        known = {
            **face_geometry.canonical(),
            "vertices": vertices.astype(np.float32),
            "mirror": mirror.astype(np.int16),
        }
        np.savez(face_geometry.DATA, allow_pickle=False, **known)
        face_geometry.canonical.cache_clear()
    mean, spread = resting()
    arrays = {"vertices": vertices, "resting_mean": mean, "resting_spread": spread}
    single = {k: v.astype(np.float32) for k, v in arrays.items()}
    np.savez(face_geometry.DATA, allow_pickle=False, mirror=mirror.astype(np.int16), **single)


if __name__ == "__main__":
    main()
