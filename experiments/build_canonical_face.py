"""Build `encoders/canonical_face.npz`: the neutral face, its mirror map, and statistics of resting faces.

    python -m experiments.build_canonical_face            all of it
    python -m experiments.build_canonical_face --resting  only the resting statistics (needs no network)

The neutral face is the output of the face-mesh network for a uniform grey picture (192 x 192, every channel 0.5): an
average face of no person. It is rotated by a degree or two, so it is averaged with its aligned mirror image. The same
step pairs the left and the right landmarks.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from mien.encoders import face_geometry

GREY = 0.5
PEOPLE, SECONDS = 400, 6.0


def predict_grey_mesh() -> np.ndarray:
    """`(468, 3)` mesh in crop pixels that the network predicts for a grey picture."""
    from ai_edge_litert.interpreter import Interpreter

    from mien.hub import fetch

    network = Interpreter(str(fetch("facemesh")), num_threads=1)
    network.allocate_tensors()
    network.set_tensor(network.get_input_details()[0]["index"], np.full((1, 192, 192, 3), GREY, np.float32))
    network.invoke()
    outputs = [network.get_tensor(o["index"]).ravel() for o in network.get_output_details()]
    mesh = next(o for o in outputs if o.size == face_geometry.LANDMARKS * 3)
    return np.asarray(mesh.reshape(-1, 3), float)


def align_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Align paired points `source` to `target` by rotation, scale and translation (Umeyama 1991). Shapes `(n, 3)`."""
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    handed = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = (s * np.diag(handed)).sum() / (a**2).sum()
    return np.asarray(scale * a @ (u @ handed @ vt).T + target.mean(0))


def symmetrise(mesh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average a face mesh `(468, 3)` with its mirror image, and put it upright.

    Returns:
        `(468, 3)` upright face with eye centres one unit apart and the origin between them, and `(468,)` mirror map.

    Raises:
        ValueError: the landmarks cannot be paired.
    """
    mesh = mesh - mesh.mean(0)
    flipped = aligned = mesh * (-1, 1, 1)
    for _ in range(20):
        pairs = linear_sum_assignment(cdist(aligned, mesh) ** 2)[1]
        aligned = align_similarity(flipped, mesh[pairs])
    if not np.array_equal(pairs[pairs], np.arange(len(mesh))):
        raise ValueError("the mesh has no mirror symmetry: its landmarks cannot be paired")
    mean = mesh.copy()
    mean[pairs] += aligned
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


def resting_statistics() -> tuple[np.ndarray, np.ndarray]:
    """`(features,)` mean and standard deviation of face geometry over silent synthetic people at rest."""
    from mien.labels import NEUTRAL
    from mien.synthetic.mesh_tracks import simulate_track
    from mien.synthetic.scenario import Segment, draw_scenario

    rest = (Segment(0.0, SECONDS, NEUTRAL, "rest", 0.0, 0.1, 0.1),)
    values = []
    for number in range(PEOPLE):
        scenario = draw_scenario("train", number, seed=0, seconds=SECONDS, impairments=False)
        track = simulate_track(replace(scenario, segments=rest, speech=()))
        values.append(face_geometry.compute_features(track.meshes))
    features = np.concatenate(values).astype(float)
    return features.mean(0), features.std(0)


def main() -> None:
    """Write the file; see the module's docstring."""
    if "--resting" in sys.argv:
        canonical = face_geometry.load_canonical_face()
        vertices, mirror = canonical["vertices"], canonical["mirror"]
    else:
        vertices, mirror = symmetrise(predict_grey_mesh())
        known = {
            **face_geometry.load_canonical_face(),
            "vertices": vertices.astype(np.float32),
            "mirror": mirror.astype(np.int16),
        }
        np.savez(face_geometry.DATA, allow_pickle=False, **known)
        face_geometry.load_canonical_face.cache_clear()
    mean, spread = resting_statistics()
    arrays = {"vertices": vertices, "resting_mean": mean, "resting_spread": spread}
    single = {k: v.astype(np.float32) for k, v in arrays.items()}
    np.savez(face_geometry.DATA, allow_pickle=False, mirror=mirror.astype(np.int16), **single)


if __name__ == "__main__":
    main()
