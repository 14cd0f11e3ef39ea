"""Face images of the synthetic corpus: rendered, detected, aligned and labelled with their expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from mien.faces.align import align
from mien.faces.tracker import FaceTracker
from mien.labels import UNLABELLED
from mien.records import Frame, ImageSet
from mien.synthetic.recordings import map_in_processes
from mien.synthetic.render import Scene
from mien.synthetic.scenario import Scenario, draw_scenario
from mien.synthetic.speech_synthesis import synthesise_scenario

#: Margin and downward shift of the crop: from brow to chin, .75 of the side of the five-point template and .16 lower.
#: The template's own square shows more hair and cuts the chin, and hair carries no expression.
CROP_MARGIN, CROP_DOWN = -0.25, 0.16


def render_faces(
    split: str,
    people: int,
    *,
    seconds: float = 12.0,
    hz: float = 2.0,
    size: int = 64,
    seed: int = 0,
    balance: float = 1.0,
    workers: int = 1,
) -> ImageSet:
    """Render labelled, aligned faces of silent people, as in corpora of single faces (RAF-DB, AffectNet).

    Args:
        split: `train`, `val` or `test`; people differ between splits.
        people: number of people.
        seconds: length of each person's scenario.
        hz: images per second.
        size: side of an image in pixels.
        seed, balance: see `scenario.draw_scenario`.
        workers: processes.

    Returns:
        Images `(n, size, size, 3)` with labels and subjects.

    Raises:
        ArtefactError: the face networks are not here.
    """
    jobs = [(split, number, seconds, hz, size, seed, balance) for number in range(people)]
    return concatenate(map_in_processes(_render_person, jobs, workers))


def concatenate(parts: Sequence[ImageSet]) -> ImageSet:
    """Concatenate image sets of several scenarios."""
    return ImageSet(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.labels for p in parts]),
        tuple(name for p in parts for name in p.subjects),
        np.concatenate([p.valence_arousal for p in parts if p.valence_arousal is not None]),
    )


def _render_person(
    split: str, number: int, seconds: float, hz: float, size: int, seed: int, balance: float
) -> ImageSet:
    scenario = draw_scenario(split, number, seconds=seconds, seed=seed, balance=balance, impairments=False)
    return crop_faces(replace(scenario, second=None, speech=()), hz, size)[0]


def crop_faces(scenario: Scenario, hz: float, size: int) -> tuple[ImageSet, np.ndarray]:
    """Render a scenario and crop its labelled faces.

    Args:
        scenario: if it has speech, the mouth follows its synthesised voice.
        hz: images per second.
        size: side of an image in pixels.

    Returns:
        Images `(n, size, size, 3)` with labels, and their times `(n,)` in seconds. Frames without a face are omitted.
    """
    scenario = replace(scenario, rate=Fraction(hz))
    opening = synthesise_scenario(scenario).mouth_opening_at(scenario.times()) if scenario.speech else None
    scene, tracker = Scene(scenario, opening), FaceTracker()
    truth = scenario.labels(scenario.times())
    images, indices = [], []
    for i, image in enumerate(scene.frames()):
        faces = tracker(Frame(i, float(scene.times[i]), image))
        if faces and truth.expression[i] != UNLABELLED:
            images.append(align(image, faces[0].mesh, size, CROP_MARGIN, CROP_DOWN))
            indices.append(i)
    image_set = ImageSet(
        np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8),
        truth.expression[indices].astype(np.int64),
        (scenario.subject,) * len(indices),
        truth.valence_arousal[indices].reshape(-1, 2),
    )
    return image_set, scene.times[indices]
