"""Macro F1 of the voice across speakers, languages and corpora (`python -m experiments voice-transfer`).

Three measures, one class for each utterance (that of the mean probability over its speech):

* EMO-DB, leaving out two speakers at a time; the score is pooled over all utterances.
* EMO-DB and synthetic speech -> RAVDESS.
* RAVDESS and synthetic speech -> EMO-DB, a research training that is never shipped. Other counts nowhere.

Each measure is taken for utterances alone, and for utterances in a recording of their speaker (windows of 48 s), where
the network normalises by the speaker. RAVDESS is scored over the seven classes that it has; the prediction is one of
all eight, or, in brackets, of the seven. Prosody alone without the other mechanisms stands for the voice before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experiments.train_voice import SPEAKERS, VARIANTS, recorded
from experiments.voice_data import Session, emodb_sessions, ravdess_sessions, synthetic_sessions
from experiments.voice_training import STEPS, train_network, utterance_probabilities, with_width
from mien import config, models
from mien.datasets import emodb
from mien.encoders.voice_speech import DIM, STATES
from mien.evaluation import metrics
from mien.labels import EXPRESSIONS

#: Seconds of the windows in which utterances follow each other.
WINDOW_S = 48.0
_OTHER = EXPRESSIONS.index("Other")


@dataclass(frozen=True, slots=True)
class Row:
    """One variant. model: keys of the recipe's model section. augmented: train on augmented audio too. synthetic: and
    on synthetic speech. states: read the speech states beside prosody."""

    name: str
    model: dict[str, object] = field(default_factory=dict)
    augmented: bool = True
    synthetic: bool = True
    states: bool = True


ROWS = (
    Row("all mechanisms"),
    Row("without the speech states", states=False),
    Row("without augmentation", augmented=False),
    Row("without synthetic speech", synthetic=False),
    Row("without speaker normalisation", {"normalise": False}),
    Row("prosody alone, none of them", {"normalise": False}, augmented=False, synthetic=False, states=False),
)


@dataclass(frozen=True, slots=True)
class Score:
    """macro_f1: over the classes of the corpus. masked: the same, with predictions among these classes only. f1:
    `(classes,)` of the latter."""

    macro_f1: float
    masked: float
    f1: np.ndarray


def score(truth: np.ndarray, probabilities: np.ndarray, classes: Sequence[int]) -> Score:
    """Score utterances over some classes; utterances of other classes are left out."""
    chosen = np.isin(truth, classes)
    truth, probabilities = truth[chosen], probabilities[chosen]
    masked = np.where(np.isin(np.arange(probabilities.shape[1]), classes), probabilities, -1.0).argmax(axis=1)
    over = list(classes)
    return Score(
        float(metrics.macro_f1(truth, probabilities.argmax(axis=1), over=over)),
        float(metrics.macro_f1(truth, masked, over=over)),
        metrics.f1_per_class(truth, masked),
    )


def run(
    emodb_root: Path,
    ravdess_root: Path,
    cache: Path,
    *,
    seeds: int = 1,
    rows: Sequence[Row] = ROWS,
    steps: int = STEPS,
    workers: int = 1,
    log: Callable[[str], None] = print,
) -> dict[str, dict[str, list[Score]]]:
    """Train and score every row; returns row -> measure -> score of each seed, and logs a line for each."""
    german = emodb_sessions(emodb_root, cache, variants=VARIANTS, workers=workers)
    english = ravdess_sessions(ravdess_root, cache, workers=workers)
    synthetic = synthetic_sessions(SPEAKERS, cache, workers=workers)
    results: dict[str, dict[str, list[Score]]] = {}
    for row in rows:
        measured: dict[str, list[Score]] = {}
        for seed in range(seeds):
            for name, result in _measure(row, german, english, synthetic, seed, steps).items():
                measured.setdefault(name, []).append(result)
                f1 = " ".join(f"{EXPRESSIONS[i]} {v:.2f}" for i, v in enumerate(result.f1) if v == v)
                log(f"{row.name}; {name}; seed {seed}: {result.macro_f1:.3f} [{result.masked:.3f}] {f1}")
        results[row.name] = measured
    return results


def _measure(
    row: Row, german: Sequence[Session], english: Sequence[Session], synthetic: Sequence[Session], seed: int, steps: int
) -> dict[str, Score]:
    recipe = with_width(config.load("voice_expression", check=models.problems), DIM)
    hidden = [] if row.states else [*range(STATES.start, STATES.stop)]
    ignored = [*recipe.model.options["ignored"], *hidden]
    recipe = config.changed(recipe, model={**row.model, "ignored": ignored})
    speakers = sorted({session.speaker for session in german})
    used = german if row.augmented else recorded(german, speakers)
    added = synthetic if row.synthetic else ()
    out: dict[str, Score] = {}

    def add(name: str, found: Sequence[tuple[np.ndarray, np.ndarray]], classes: Sequence[int]) -> None:
        truth, p = (np.concatenate(parts) for parts in zip(*found, strict=True))
        out[name] = score(truth, p, classes)

    trained = train_network(recipe, used, added, seed=seed, steps=steps)
    seven = [i for i in range(len(EXPRESSIONS)) if i != _OTHER]
    six = [i for i in seven if EXPRESSIONS[i] != "Surprise"]
    for tag, window in (("alone", 0.0), ("in a recording", WINDOW_S)):
        add(f"EMO-DB -> RAVDESS, {tag}", [utterance_probabilities(trained, english, window_s=window)], seven)
    folds = []
    for pair in speaker_pairs(german):
        network = train_network(recipe, [s for s in used if s.speaker not in pair], added, seed=seed, steps=steps)
        folds.append((network, recorded(german, pair)))
    trained = train_network(recipe, english, added, seed=seed, steps=steps)
    as_recorded = recorded(german, speakers)
    for tag, window in (("alone", 0.0), ("in a recording", WINDOW_S)):
        held_out = [utterance_probabilities(network, test, window_s=window) for network, test in folds]
        add(f"EMO-DB, speakers left out, {tag}", held_out, [*six, _OTHER])
        add(f"RAVDESS -> EMO-DB, {tag}", [utterance_probabilities(trained, as_recorded, window_s=window)], six)
    return out


def speaker_pairs(sessions: Sequence[Session]) -> list[tuple[str, ...]]:
    """Pairs of speakers to hold out, a man and a woman each, in the order of their numbers."""
    speakers = sorted({session.speaker for session in sessions})
    men, women = ([s for s in speakers if s in known] for known in (emodb.MEN, emodb.WOMEN))
    if len(men) == len(women):
        return list(zip(men, women, strict=True))
    return list(zip(speakers[::2], speakers[1::2], strict=False))
