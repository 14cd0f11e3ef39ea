"""The theatre's faces one by one: rendered, found, aligned, with their expression.

Nobody speaks in them: corpora of single faces (RAF-DB, AffectNet) are posed or caught, not cut from talk.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np

from mien.corpora.theatre.plan import draw
from mien.corpora.theatre.render import Stage
from mien.corpora.theatre.troupe import spread_out
from mien.labels import UNLABELLED
from mien.media.align import align
from mien.media.faces import FaceReader
from mien.records import Frame, Pictures

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
) -> Pictures:
    """Aligned faces of `people` people, `(n, size, size, 3)`, labelled; people differ between splits. hz: pictures a
    second of each one's `seconds`.

    Raises ArtefactError: the face networks are not here.
    """
    parts = spread_out(_of, [(split, n, seconds, hz, size, seed, balance) for n in range(people)], workers)
    return Pictures(
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.labels for p in parts]),
        tuple(name for p in parts for name in p.subjects),
        np.concatenate([p.valence_arousal for p in parts if p.valence_arousal is not None]),
    )


def _of(split: str, number: int, seconds: float, hz: float, size: int, seed: int, balance: float) -> Pictures:
    plan = draw(split, number, seconds=seconds, seed=seed, balance=balance, faults=False)
    plan = replace(plan, rate=Fraction(hz), second=None, speech=())
    stage, reader = Stage(plan), FaceReader()
    truth = plan.labels(plan.times())
    labels = truth.expression
    crops, kept, affect = [], [], []
    for i, image in enumerate(stage.frames()):
        found = reader(Frame(i, float(stage.times[i]), image))
        if found and labels[i] != UNLABELLED:
            crops.append(align(image, found[0].mesh, size, MARGIN, DOWN))
            kept.append(int(labels[i]))
            affect.append(truth.valence_arousal[i])
    images = np.stack(crops) if crops else np.zeros((0, size, size, 3), np.uint8)
    points = np.array(affect).reshape(-1, 2)
    return Pictures(images, np.array(kept, np.int64), (plan.subject,) * len(kept), points)
