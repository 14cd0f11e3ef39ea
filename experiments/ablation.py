"""Ablation of the starter: macro F1 without each of its mechanisms (`python -m experiments ablation`).

Trains the starter's recipe once for each variant and seed, in a smaller setting (`SMALLER`: the same network with less
data and fewer epochs; 30 trainings take an hour on two cores), and scores people of no training recording under five
conditions. Voting and smoothing are not trained, so their variants use the weights of the full model.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from experiments.scoring import Corruption, drop_in_bursts, remove_stream, score_recordings, with_vote
from experiments.test_recordings import simulate_test_recordings
from mien import checkpoint, config, models
from mien.datasets.synthetic_recordings import TrainingData, prepare_training_data
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.records import FACE, VOICE, Recording, Stream
from mien.training.fit import fit

SMALLER = (
    "corpus.options.train=100",
    "corpus.options.faces=300",
    "corpus.options.val=1",
    "train.epochs=6",
    "train.threads=1",
)
#: Trained variant -> overrides of the recipe.
TRAINED: dict[str, tuple[str, ...]] = {
    "full": (),
    "no modality dropout": ("model.modality_dropout.whole={}", "model.modality_dropout.bursts={}"),
    "attention not safe": ("model.attention=naive",),
    "cross-entropy": ("objective.loss=cross_entropy",),
    "face only": ("model.modality_dropout.whole={}", "model.modality_dropout.bursts={face: 0.3}"),
    "voice only": ("model.modality_dropout.whole={}", "model.modality_dropout.bursts={voice: 0.3}"),
}
UNIMODAL = {"face only": FACE, "voice only": VOICE}
#: Condition -> set of test recordings, and their corruption.
CONDITIONS: dict[str, tuple[str, Corruption | None]] = {
    "clean": ("clean", None),
    "half the face missing": ("clean", drop_in_bursts(FACE, 0.5)),
    "no face": ("clean", remove_stream(FACE)),
    "no voice": ("clean", remove_stream(VOICE)),
    "0 dB noise": ("noisy", None),
}
#: Modality -> conditions that are not tested with a model of that modality alone: its input is missing or unchanged.
NOT_APPLICABLE = {FACE: ("no face", "0 dB noise"), VOICE: ("no voice", "half the face missing")}


def train_and_score(
    job: tuple[str, int], data: TrainingData, tests: dict[str, list[Recording]], overrides: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Train and score one variant with one seed.

    Args:
        job: variant and seed.
        data: training recordings and augmentation.
        tests: sets of test recordings, see `CONDITIONS`.
        overrides: of the recipe.

    Returns:
        Variant -> condition -> macro F1. The full model gives the untrained variants too.
    """
    name, seed = job
    changes = [*SMALLER, *overrides, *TRAINED[name], f"train.seed={seed}"]
    recipe = config.load("synthetic", changes, check=models.problems)
    if name in UNIMODAL:
        raw = recipe.model_dump()
        raw["features"] = {UNIMODAL[name]: raw["features"][UNIMODAL[name]]}
        recipe = config.read(raw, origin=name, check=models.problems)
    train = [_add_silent_voice(r) for r in data.train] if name == "voice only" else data.train
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe, train, [], Path(folder) / "run", augment=data.augment, device="cpu", progress=False)
        trained = checkpoint.load(run)
    variants = {name: trained}
    if name == "full":
        variants["no voting"] = with_vote(trained, hop_seconds=recipe.windows.seconds)
        variants["smoothing off"] = with_vote(trained, smooth_seconds=0.0)
    skipped = NOT_APPLICABLE.get(UNIMODAL.get(name, ""), ())
    return {
        variant: {
            condition: score_recordings(model, tests[test_set], corrupt).macro_f1
            for condition, (test_set, corrupt) in CONDITIONS.items()
            if condition not in skipped
        }
        for variant, model in variants.items()
    }


def _add_silent_voice(recording: Recording) -> Recording:
    """Add a silent voice to a face-only recording, so that voice augmentation applies to its windows too."""
    if VOICE in recording.streams:
        return recording
    times = recording.streams[FACE].times
    silence = Stream(np.zeros((len(times), ProsodyExtractor.DIM), np.float32), times, np.zeros(len(times), bool))
    return replace(recording, streams={**recording.streams, VOICE: silence})


def run(
    *,
    emodb: Path | Sequence[Recording],
    seeds: int = 5,
    workers: int = 2,
    overrides: Sequence[str] = (),
    log: Callable[[str], None] = print,
) -> dict[str, dict[str, list[float]]]:
    """Train and score all variants.

    Args:
        emodb: folder of EMO-DB, or its encoded utterances.
        seeds: trainings of each variant.
        workers: processes.
        overrides: of the recipe.
        log: receives one line for each training.

    Returns:
        Variant -> condition -> macro F1 of each seed.
    """
    recipe = config.load("synthetic", [*SMALLER, *overrides], check=models.problems)
    data = prepare_training_data(recipe, voices=emodb, workers=workers)
    tests = {
        "clean": simulate_test_recordings(workers=workers),
        "noisy": simulate_test_recordings(snr_db=0.0, workers=workers),
    }
    jobs = [(name, seed) for seed in range(seeds) for name in TRAINED]
    log(f"{len(jobs)} trainings on {len(data.train)} recordings")
    out: dict[str, dict[str, list[float]]] = {}
    function = partial(train_and_score, data=data, tests=tests, overrides=tuple(overrides))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job, scores in zip(jobs, pool.map(function, jobs), strict=True):
            for variant, by_condition in scores.items():
                for condition, value in by_condition.items():
                    out.setdefault(variant, {}).setdefault(condition, []).append(value)
            log(f"{job[0]}, seed {job[1]}: " + json.dumps({k: round(v, 3) for k, v in scores[job[0]].items()}))
    return out


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown table: mean ± standard deviation over seeds, by variant and condition."""
    lines = ["| | " + " | ".join(CONDITIONS) + " |", "|---" * (1 + len(CONDITIONS)) + "|"]
    order = [
        "full",
        "no modality dropout",
        "attention not safe",
        "cross-entropy",
        "no voting",
        "smoothing off",
        *UNIMODAL,
    ]
    for name in (n for n in order if n in results):
        cells = [
            f"{np.mean(v):.3f} ± {np.std(v, ddof=1) if len(v) > 1 else 0:.3f}" if (v := results[name].get(c)) else "–"
            for c in CONDITIONS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
