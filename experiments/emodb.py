"""Macro F1 on EMO-DB from the voice alone, leaving out two speakers at a time (`python -m experiments emodb`).

For each of the four pairs of speakers, the starter network with voice as its only input is trained on the utterances of
the other six speakers. It predicts one class for each utterance of the pair: that of the mean probability. The score is
macro F1 over the seven classes of EMO-DB (boredom counts as Other), averaged over the pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.scoring import classify_utterances
from mien import checkpoint, config, models
from mien.datasets import emodb
from mien.datasets.synthetic_recordings import encode_utterances
from mien.evaluation import metrics
from mien.records import VOICE, Recording
from mien.training.fit import fit

#: Overrides of the starter's recipe for voice as the only input.
VOICE_ALONE = ("model.modality_dropout.whole={}", "model.modality_dropout.bursts={voice: 0.3}", "objective.unimodal=0")


def run(
    root: Path | Sequence[Recording],
    *,
    seeds: int = 1,
    overrides: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> dict[str, list[float]]:
    """Cross-validate on EMO-DB: hold out each pair of speakers, train on the others, and score the pair.

    Args:
        root: folder of EMO-DB's .wav files, or its encoded utterances.
        seeds: trainings of each pair.
        overrides: of the recipe.
        log: receives one line for each training.

    Returns:
        `macro_f1`: mean over the pairs for each seed. `pairs`: score of each pair with the first seed.
    """
    utterances = encode_utterances(emodb.read_utterances(root)) if isinstance(root, Path) else list(root)
    by_id = {r.clip.id: r for r in utterances}
    classes = sorted({int(r.clip.labels.expression[0]) for r in utterances if r.clip.labels is not None})
    out: dict[str, list[float]] = {"macro_f1": [], "pairs": []}
    for seed in range(seeds):
        recipe = _recipe([*overrides, f"train.seed={seed}"])
        scores = []
        for fold in emodb.speaker_folds([r.clip for r in utterances]):
            with tempfile.TemporaryDirectory() as folder:
                train = [by_id[c.id] for c in fold.train]
                trained = checkpoint.load(fit(recipe, train, [], Path(folder) / "run", device="cpu", progress=False))
            test = [by_id[c.id] for c in fold.test]
            truth = np.array([c.labels.expression[0] for c in fold.test if c.labels is not None])
            scores.append(metrics.macro_f1(truth, classify_utterances(trained, test), over=classes))
            log(f"seed {seed}, speakers {' and '.join(fold.speakers)} left out: {scores[-1]:.3f}")
        out["macro_f1"].append(float(np.mean(scores)))
        if seed == 0:
            out["pairs"] = scores
    return out


def _recipe(overrides: Sequence[str]) -> config.Recipe:
    raw = config.load("synthetic", [*VOICE_ALONE, *overrides], check=models.problems).model_dump()
    raw["features"] = {VOICE: raw["features"][VOICE]}
    return config.read(raw, origin="starter, voice alone", check=models.problems)
