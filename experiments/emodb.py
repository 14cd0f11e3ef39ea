"""Macro F1 on EMO-DB, two speakers left out at a time, from the voice alone: `python -m experiments emodb`.

For each of the four pairs of speakers, the starter network with its voice input alone is trained on the other six
speakers' utterances, and names one class for each utterance of the pair: the class of its mean probability. Macro F1
over the seven classes of EMO-DB (boredom counts as Other), averaged over the pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.scoring import said_of_utterances
from mien import checkpoint, config, models
from mien.datasets import emodb
from mien.datasets.synthetic_recordings import utterances
from mien.evaluation import metrics
from mien.records import VOICE, Recording
from mien.training.fit import fit

#: Against the starter's recipe: few utterances, so more passes over them and windows nearer together.
VOICE_ALONE = ("model.hide.whole={}", "model.hide.bursts={voice: 0.3}", "objective.unimodal=0")


def run(
    root: Path | Sequence[Recording],
    *,
    seeds: int = 1,
    overrides: Sequence[str] = (),
    tell: Callable[[str], None] = print,
) -> dict[str, list[float]]:
    """`macro_f1` of each seed (mean over the pairs) and `pairs`, all pairs of the first seed."""
    spoken = utterances(emodb.utterances(root)) if isinstance(root, Path) else list(root)
    by_id = {r.clip.id: r for r in spoken}
    classes = sorted({int(r.clip.labels.expression[0]) for r in spoken if r.clip.labels is not None})
    out: dict[str, list[float]] = {"macro_f1": [], "pairs": []}
    for seed in range(seeds):
        recipe = _recipe([*overrides, f"train.seed={seed}"])
        scores = []
        for fold in emodb.folds([r.clip for r in spoken]):
            with tempfile.TemporaryDirectory() as folder:
                made = [by_id[c.id] for c in fold.train]
                trained = checkpoint.load(fit(recipe, made, [], Path(folder) / "run", device="cpu", progress=False))
            test = [by_id[c.id] for c in fold.test]
            truth = np.array([c.labels.expression[0] for c in fold.test if c.labels is not None])
            scores.append(metrics.macro_f1(truth, said_of_utterances(trained, test), over=classes))
            tell(f"seed {seed}, speakers {' and '.join(fold.speakers)} left out: {scores[-1]:.3f}")
        out["macro_f1"].append(float(np.mean(scores)))
        if seed == 0:
            out["pairs"] = scores
    return out


def _recipe(overrides: Sequence[str]) -> config.Recipe:
    raw = config.load("starter", [*VOICE_ALONE, *overrides], check=models.problems).model_dump()
    raw["features"] = {VOICE: raw["features"][VOICE]}
    return config.read(raw, origin="starter, voice alone", check=models.problems)
