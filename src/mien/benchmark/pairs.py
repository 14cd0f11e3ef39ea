"""Faces of one corpus and voices of another, paired at random by class: each alone, and both joined.

Corpora with labelled faces and voices of the same people need an agreement. In pairs of different people, the errors of
face and voice are independent, which favours every combination. The results compare ways to join them; they do not say
how good a model is on videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mien.benchmark.corpora import LabelledFiles, class_names
from mien.benchmark.predict_files import FilePredictions
from mien.benchmark.scores import pooled_macro_f1, predicted_classes
from mien.predict.face_with_voice import pool

DRAWS = 5
#: Weights of the voice that are compared.
WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, slots=True)
class PairScores:
    """Macro F1 of one model on random pairs, means over the draws.

    classes: names of the classes that both corpora have. pairs: number of faces, each with a voice. face, voice: each
    alone. by_weight: weight of the voice in `mien.predict.face_with_voice.pool` -> macro F1. Where only one of them has
    a prediction, it stands alone.
    """

    model: str
    classes: tuple[str, ...]
    pairs: int
    face: float
    voice: float
    by_weight: dict[float, float]


def score_pairs(
    faces: tuple[LabelledFiles, FilePredictions],
    voices: tuple[LabelledFiles, FilePredictions],
    *,
    model: str,
    weights: Sequence[float] = WEIGHTS,
    draws: int = DRAWS,
    seed: int = 0,
) -> PairScores | None:
    """Pair each face with a random voice of its class, `draws` times; None if the corpora share no class."""
    truth, face = faces[0].labels, faces[1].probabilities
    over = sorted(set(faces[0].classes) & set(voices[0].classes))
    kept = np.isin(truth, over)
    truth, face = truth[kept], face[kept]
    if not len(truth):
        return None
    alone: list[float] = []
    joined: dict[float, list[float]] = {weight: [] for weight in weights}
    for draw in range(draws):
        voice = voices[1].probabilities[_partners(truth, voices[0].labels, np.random.default_rng([seed, draw]))]
        alone.append(pooled_macro_f1(truth, predicted_classes(voice), over))
        for weight in weights:
            predicted = predicted_classes(pool(face, voice, weight))
            joined[weight].append(pooled_macro_f1(truth, predicted, over))
    return PairScores(
        model,
        tuple(class_names(over)),
        len(truth),
        pooled_macro_f1(truth, predicted_classes(face), over),
        float(np.mean(alone)),
        {weight: float(np.mean(values)) for weight, values in joined.items()},
    )


def _partners(truth: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Row of a random voice of the same class for each face."""
    partners = np.zeros(len(truth), np.int64)
    for label in np.unique(truth):
        places = np.flatnonzero(truth == label)
        partners[places] = rng.choice(np.flatnonzero(labels == label), len(places))
    return partners
