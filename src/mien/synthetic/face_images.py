"""The synthetic corpus's faces one by one: rendered, found, aligned, with their expression.

In `stills` nobody speaks: corpora of single faces (RAF-DB, AffectNet) are posed or caught, not cut from talk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from mien.faces.align import align
from mien.faces.tracker import FaceTracker
from mien.labels import UNLABELLED
from mien.records import Frame, ImageSet
from mien.synthetic.recordings import spread_out
from mien.synthetic.render import Scene
from mien.synthetic.scenario import Scenario, draw
from mien.synthetic.speech_synthesis import speak

#: Of the crop: brow to chin, .75 of the five-point template's side and centred .16 lower. The template's own square
#: shows more hair than expression and cuts the chin, and hair says nothing.
MARGIN, DOWN = -0.25, 0.16


def stills(
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
    """Aligned faces of `people` people, `(n, size, size, 3)`, labelled; people differ between splits. hz: pictures a
    second of each one's `seconds`.

    Raises ArtefactError: the face networks are not here.
    """
    return joined(spread_out(_of, [(split, n, seconds, hz, size, seed, balance) for n in range(people)], workers))


def joined(parts: Sequence[ImageSet]) -> ImageSet:
    """The pictures of several performances as one."""
    return ImageSet(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.labels for p in parts]),
        tuple(name for p in parts for name in p.subjects),
        np.concatenate([p.valence_arousal for p in parts if p.valence_arousal is not None]),
    )


def _of(split: str, number: int, seconds: float, hz: float, size: int, seed: int, balance: float) -> ImageSet:
    plan = draw(split, number, seconds=seconds, seed=seed, balance=balance, faults=False)
    return crops(replace(plan, second=None, speech=()), hz, size)[0]


def crops(plan: Scenario, hz: float, size: int) -> tuple[ImageSet, np.ndarray]:
    """The labelled faces of one performance, `hz` pictures a second, and their times `(n,)`; moments without a face are
    left out. A plan that speaks moves its mouth with its own sound."""
    plan = replace(plan, rate=Fraction(hz))
    opening = speak(plan).opening(plan.times()) if plan.speech else None
    stage, reader = Scene(plan, opening), FaceTracker()
    truth = plan.labels(plan.times())
    images, kept = [], []
    for i, image in enumerate(stage.frames()):
        found = reader(Frame(i, float(stage.times[i]), image))
        if found and truth.expression[i] != UNLABELLED:
            images.append(align(image, found[0].mesh, size, MARGIN, DOWN))
            kept.append(i)
    return ImageSet(
        np.stack(images) if images else np.zeros((0, size, size, 3), np.uint8),
        truth.expression[kept].astype(np.int64),
        (plan.subject,) * len(kept),
        truth.valence_arousal[kept].reshape(-1, 2),
    ), stage.times[kept]
