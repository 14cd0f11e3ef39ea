"""Valence and arousal on the synthetic corpus: each stream, their mean, directed experts and reliability fusion:
`python -m experiments affect`.

The published chain, small: three streams are trained alone (`va_streams`), what they derive is read by the two fusions.
Face and voice come from the starter's encoders. A vision-language model is not here, so the behaviour stream is made of
the same face, seen coarsely: mean and deviation over 4 s, every 2 s. The fusions are trained on recordings as they are
and once more spoilt at random (a stretch without face, noise on a stream, silence), which is what they are for; the
streams never see that. Both fusions begin at what the streams said (`standing`), the reliability fusion's voice has a
small prior beside its latents (both ours, see its file), and they are trained on equal shares of valence and arousal,
which is the score. Scores are mean CCC on people no training recording shows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.scoring import interval
from experiments.train_starter import TEST_SEED, held_out
from mien import checkpoint, clock, config, models, results
from mien.checkpoint import Checkpoint
from mien.evaluation import metrics
from mien.evaluation.predictions import ClipPrediction, predict
from mien.evaluation.robustness import Transform, missing, noisy, unchanged
from mien.records import FACE, VOICE, Recording, Stream
from mien.synthetic.recordings import troupe
from mien.training.fit import fit
from mien.training.stage_features import derived

BEHAVIOUR = "behaviour"
STREAMS = (FACE, BEHAVIOUR, VOICE)
FUSIONS = ("va_directed_experts", "va_reliability")
_TRAIN = ("train.epochs=10", "train.patience=0", "train.threads=1", "train.lr=1e-3", "vote.smooth_seconds=0.5")
#: The score is the mean of both dimensions; the papers' .7 and .3 were found on their corpus.
_EVEN = ("objective.valence=0.5", "objective.arousal=0.5", "train.epochs=20", "model.standing=true")
_SIZES: dict[str, tuple[str, ...]] = {
    FACE: (
        "windows={seconds: 6.0, hop_seconds: 3.0, rate_hz: 10.0, jitter: true}", "model.dim=64", "model.layers=2",
        "model.heads=4", "vote.hop_seconds=3.0",
    ),
    BEHAVIOUR: ("windows={seconds: 16.0, hop_seconds: 8.0, rate_hz: 0.5, jitter: false}", "model.dim=64",
                "model.mamba=2", "vote.hop_seconds=8.0", "train.epochs=30"),
    VOICE: ("windows={seconds: 4.0, hop_seconds: 2.0, rate_hz: 10.0, jitter: true}", "model.dim=64",
            "model.heads=4"),
    "va_directed_experts": (
        "windows={seconds: 8.0, hop_seconds: 4.0, rate_hz: 5.0, jitter: true}", "model.dim=64", "model.layers=2",
        "model.heads=4", "vote.hop_seconds=4.0", "model.hide={face: 0.15, voice: 0.15, behaviour: 0.05}", *_EVEN,
    ),
    "va_reliability": (
        "windows={seconds: 8.0, hop_seconds: 4.0, rate_hz: 5.0, jitter: true}", "model.dim=64", "model.heads=4",
        "vote.hop_seconds=4.0", "model.hide={face: 0.15, voice: 0.15, behaviour: 0.05}", *_EVEN,
        "model.prior={face: 0.75, behaviour: 0.1, voice: 0.15}",
    ),
}  # fmt: skip
#: How test recordings are spoilt.
CONDITIONS: dict[str, Transform[Recording]] = {
    "clean": unchanged,
    "90 % of the face missing": missing(FACE, 0.9),
    "no face": missing(FACE, 1.0),
    "noise on the face": noisy(FACE, 5.0),
    "voice silent": missing(VOICE, 1.0),
    "noise on the voice": noisy(VOICE, 4.0),
}


def with_behaviour(recording: Recording, length_s: float = 4.0, hop_s: float = 2.0) -> Recording:
    """The recording with a stream more: mean and deviation of the valid face over `length_s`, every `hop_s`."""
    face = recording.streams[FACE]
    last = float(face.times[-1]) if len(face.times) else 0.0
    starts = np.arange(0.0, max(last - length_s, 0.0) + hop_s, hop_s)
    rows = np.zeros((len(starts), 2 * face.dim), np.float32)
    there = np.zeros(len(starts), bool)
    for i, start in enumerate(starts):
        inside = face.valid & (face.times >= start) & (face.times < start + length_s)
        if inside.any():
            seen = face.values[inside]
            rows[i], there[i] = np.concatenate((seen.mean(axis=0), seen.std(axis=0))), True
    stream = Stream(rows, starts + length_s / 2, there)
    return replace(recording, streams={**recording.streams, BEHAVIOUR: stream})


def spoilt(recording: Recording, number: int) -> Recording:
    """One of the faults, at random, of random strength."""
    rng = np.random.default_rng([number, 77])
    kind = rng.integers(4)
    share, level = float(rng.uniform(0.2, 1.0)), float(rng.uniform(0.5, 6.0))
    faults = (missing(FACE, share), noisy(FACE, level), missing(VOICE, share), noisy(VOICE, level))
    return faults[kind](recording, rng)


def _recipe(name: str, seed: int) -> config.Recipe:
    shipped = f"va_{name}" if name in STREAMS else name
    return config.load(shipped, _overrides(name, seed), check=models.problems)


def _overrides(name: str, seed: int) -> list[str]:
    reads = [name] if name in STREAMS else list(STREAMS)
    widths = [f"features.{n}.dim=null" for n in reads]
    return [*_TRAIN, *_SIZES[name], f"train.seed={seed}", *widths]


def _derive(stages: Mapping[str, Checkpoint], recording: Recording) -> Recording:
    streams = {n: derived(stages[n], _only(recording, n), {"network": n}) for n in STREAMS}
    return replace(recording, streams={n: s for n, s in streams.items() if s.dim > 1})


def _only(recording: Recording, name: str) -> Recording:
    return replace(recording, streams={n: s for n, s in recording.streams.items() if n == name})


@dataclass(slots=True)
class Chain:
    """The stages and the fusions that read them, trained."""

    stages: dict[str, Checkpoint]
    fusions: dict[str, Checkpoint]

    def prepare(self, recording: Recording) -> tuple[Recording, Recording]:
        """What the stages read, and what they derive of it."""
        seen = with_behaviour(recording)
        return seen, _derive(self.stages, seen)

    def says(self, name: str, prepared: tuple[Recording, Recording]) -> ClipPrediction:
        """A stage or a fusion on what `prepare` gave."""
        seen, joined = prepared
        if name in self.stages:
            return predict(self.stages[name].predict_streams, _only(seen, name))
        return predict(self.fusions[name].predict_streams, joined)


def chain(seed: int, train: Sequence[Recording], val: Sequence[Recording]) -> Chain:
    """Train all of it with one seed."""
    made = Chain({}, {})
    with tempfile.TemporaryDirectory() as folder:
        plain = {"train": [with_behaviour(r) for r in train], "val": [with_behaviour(r) for r in val]}
        for name in STREAMS:
            own = {split: [_only(r, name) for r in rows] for split, rows in plain.items()}
            run = fit(_recipe(name, seed), own["train"], own["val"], Path(folder) / name, device="cpu", progress=False)
            made.stages[name] = checkpoint.load(run)
        hurt = [with_behaviour(spoilt(r, i)) for i, r in enumerate(train)]
        read = {
            "train": [_derive(made.stages, r) for r in (*plain["train"], *hurt)],
            "val": [_derive(made.stages, r) for r in plain["val"]],
        }
        for name in FUSIONS:
            run = fit(
                _recipe(name, seed), read["train"], read["val"], Path(folder) / name, device="cpu", progress=False
            )
            made.fusions[name] = checkpoint.load(run)
    return made


def measure(
    seed: int, train: Sequence[Recording], val: Sequence[Recording], test: Sequence[Recording]
) -> dict[str, Any]:
    """All of it with one seed: system -> condition -> mean CCC, and the reliabilities by condition."""
    made = chain(seed, train, val)
    found: dict[str, Any] = {"reliability": {}}
    for condition, transform in CONDITIONS.items():
        given = [made.prepare(transform(r, np.random.default_rng([i, 5]))) for i, r in enumerate(test)]
        said = {n: [made.says(n, pair) for pair in given] for n in (*STREAMS, *FUSIONS)}
        truth = np.concatenate([p.true_valence_arousal for p in said[FACE]])
        by = {n: np.concatenate([p.affect for p in rows]) for n, rows in said.items()}
        raw = np.stack([np.concatenate([p.valence_arousal for p in said[n]]) for n in STREAMS])
        known = np.isfinite(raw)
        mean = np.where(known, raw, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        for name, values in {**by, "plain mean": mean}.items():
            found.setdefault(name, {})[condition] = float(metrics.va_score(truth, values))
        found["reliability"][condition] = _reliability(made.fusions["va_reliability"], [joined for _, joined in given])
    return found


def _reliability(trained: Checkpoint, given: Sequence[Recording]) -> dict[str, float]:
    """Mean weight of each frame stream."""
    rows: list[torch.Tensor] = []
    names: list[str] = []
    rate = trained.settings.rate_hz
    for recording in given:
        ends = [float(s.times[-1]) for s in recording.streams.values() if len(s.times)]
        times = clock.token_times(0.0, max(ends, default=1.0), rate)
        cut = {n: clock.resample(s, times, rate) for n, s in recording.streams.items()}
        if not cut:
            continue
        with torch.inference_mode():
            out = trained.model.eval()(
                {n: torch.from_numpy(v[None]) for n, (v, _) in cut.items()},
                {n: torch.from_numpy(m[None]) for n, (_, m) in cut.items()},
            )
        names = out.modalities
        rows.append(out.weights[0])
    mean = torch.cat(rows).mean(dim=0).tolist()
    return {n: v for n, v in zip(names, mean, strict=True) if not n.endswith(" heard")}


def run(*, seeds: int = 3, workers: int = 2, tell: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """`measure` of each seed."""
    train, val = (
        troupe(s, n, seconds=15.0, seed=TEST_SEED, balance=0.5, workers=workers)
        for s, n in (("train", 160), ("val", 40))
    )
    test, rows = held_out(workers=workers), []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for found in pool.map(partial(measure, train=train, val=val, test=test), range(seeds)):
            rows.append(found)
            tell(
                f"seed {len(rows) - 1}: "
                + ", ".join(f"{n} {v['clean']:.3f}" for n, v in found.items() if n != "reliability")
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean CCC with its 95 % t-interval over seeds, and the reliabilities."""
    lines = ["| mean CCC | " + " | ".join(CONDITIONS) + " |", "|---" * (1 + len(CONDITIONS)) + "|"]
    for name in (*STREAMS, "plain mean", *FUSIONS):
        cells = [interval([row[name][c] for row in rows]) for c in CONDITIONS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in STREAMS:
        cells = [interval([row["reliability"][c][name] for row in rows]) for c in CONDITIONS]
        lines.append(f"| *weight of the {name}* | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def remember(rows: Sequence[Mapping[str, Any]]) -> None:
    """Keeps the table and each recipe's clean score (`mien.results`)."""
    names = {**{f"va_{n}": n for n in STREAMS}, **{n: n for n in FUSIONS}}
    results.keep(
        "affect",
        command=f"python -m experiments affect --seeds {len(rows)}",
        what="synthetic people, people never seen, the starter's encoders, small sizes",
        table=table(rows),
        recipes={r: f"{interval([row[n]['clean'] for row in rows])} mean CCC" for r, n in names.items()},
    )
