"""What each mechanism buys: `python -m experiments ablation`.

Trains the starter's recipe once per variant and seed, smaller (`SMALLER`: the same network, less material and
fewer passes, so that 30 trainings fit into half an hour), and scores held-out identities under five conditions.
Voting and smoothing are not trained, so their variants reuse the full model's weights.
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

from experiments.scoring import Condition, bursts, score, with_vote, without
from experiments.train_starter import held_out
from mien import checkpoint, config, models
from mien.datasets.synthetic_recordings import Material, gather
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
#: Trained variants: overrides of the recipe.
TRAINED: dict[str, tuple[str, ...]] = {
    "full": (),
    "no modality dropout": ("model.hide.whole={}", "model.hide.bursts={}"),
    "attention not safe": ("model.attention=naive",),
    "cross-entropy": ("objective.loss=cross_entropy",),
    "face only": ("model.hide.whole={}", "model.hide.bursts={face: 0.3}"),
    "voice only": ("model.hide.whole={}", "model.hide.bursts={voice: 0.3}"),
}
ALONE = {"face only": FACE, "voice only": VOICE}
#: condition -> which recordings, and how they are spoilt.
CONDITIONS: dict[str, tuple[str, Condition | None]] = {
    "clean": ("clean", None),
    "half the face missing": ("clean", bursts(FACE, 0.5)),
    "no face": ("clean", without(FACE)),
    "no voice": ("clean", without(VOICE)),
    "0 dB noise": ("noisy", None),
}
Scores = dict[str, dict[str, float]]


def measure(
    job: tuple[str, int], material: Material, tests: dict[str, list[Recording]], overrides: Sequence[str]
) -> Scores:
    """Train one variant with one seed; macro F1 by variant and condition, the untrained variants beside "full"."""
    name, seed = job
    recipe = config.load("starter", [*SMALLER, *overrides, *TRAINED[name], f"train.seed={seed}"], check=models.problems)
    if name in ALONE:
        raw = recipe.model_dump()
        raw["features"] = {ALONE[name]: raw["features"][ALONE[name]]}
        recipe = config.read(raw, origin=name, check=models.problems)
    train = [_with_voice(r) for r in material.train] if name == "voice only" else material.train
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe, train, [], Path(folder) / "run", augment=material.augment, device="cpu", progress=False)
        trained = checkpoint.load(run)
    views = {name: trained}
    if name == "full":
        views["no voting"] = with_vote(trained, hop_seconds=recipe.windows.seconds)
        views["smoothing off"] = with_vote(trained, smooth_seconds=0.0)
    return {
        view: {
            condition: float(score(seen, tests[which], spoil)["macro_f1"])
            for condition, (which, spoil) in CONDITIONS.items()
            if not (set(seen.recipe.features) == {FACE} and condition in ("no face", "0 dB noise"))
            and not (set(seen.recipe.features) == {VOICE} and condition in ("no voice", "half the face missing"))
        }
        for view, seen in views.items()
    }


def _with_voice(recording: Recording) -> Recording:
    """A face-only recording with a voice that is silent throughout: its windows, too, are lent voices."""
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
    tell: Callable[[str], None] = print,
) -> dict[str, dict[str, list[float]]]:
    """variant -> condition -> macro F1 by seed."""
    recipe = config.load("starter", [*SMALLER, *overrides], check=models.problems)
    material = gather(recipe, voices=emodb, workers=workers)
    tests = {"clean": held_out(workers=workers), "noisy": held_out(snr_db=0.0, workers=workers)}
    jobs = [(name, seed) for seed in range(seeds) for name in TRAINED]
    tell(f"{len(jobs)} trainings on {len(material.train)} recordings")
    out: dict[str, dict[str, list[float]]] = {}
    make = partial(measure, material=material, tests=tests, overrides=tuple(overrides))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job, scores in zip(jobs, pool.map(make, jobs), strict=True):
            for view, by_condition in scores.items():
                for condition, value in by_condition.items():
                    out.setdefault(view, {}).setdefault(condition, []).append(value)
            tell(f"{job[0]}, seed {job[1]}: " + json.dumps({k: round(v, 3) for k, v in scores[job[0]].items()}))
    return out


def table(results: dict[str, dict[str, list[float]]]) -> str:
    """Markdown: mean ± standard deviation over seeds."""
    lines = ["| | " + " | ".join(CONDITIONS) + " |", "|---" * (1 + len(CONDITIONS)) + "|"]
    order = ["full", "no modality dropout", "attention not safe", "cross-entropy", "no voting", "smoothing off", *ALONE]
    for name in (n for n in order if n in results):
        cells = [
            f"{np.mean(v):.3f} ± {np.std(v, ddof=1) if len(v) > 1 else 0:.3f}" if (v := results[name].get(c)) else "–"
            for c in CONDITIONS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
