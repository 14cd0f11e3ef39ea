"""Compare valence-arousal models on the synthetic corpus: each stream alone, and the two fusions of the streams.

    python -m experiments affect

The published chain at small size: three streams are trained alone (`va_face`, `va_behaviour`, `va_voice`), and the two
fusions read the features that they derive. Face and voice come from the starter's encoders. Instead of the features of
a vision-language model, the behaviour stream has mean and standard deviation of the face over 4 s, every 2 s. The mouth
filter reads the opening of the mouth from the same face.

The fusions are trained on the recordings and on a copy of each with a random corruption (missing face, noise on a
stream, silence); the streams are trained on the recordings only. Both fusions add a residual to the predictions of the
streams, and the reliability fusion has a prior on its weights (both our choice, see their files). While the mouth is
hidden, they keep the voice (`mouth_filter.unseen=keep`, ours); rows of `FUSIONS` say what else they change. All are
trained on equal weights of valence and arousal, like the score. Scores are mean CCC on people that no training
recording shows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.scoring import format_interval
from experiments.test_recordings import TEST_SEED, simulate_test_recordings
from mien import checkpoint, clock, config, models, results
from mien.checkpoint import Checkpoint
from mien.encoders import face_geometry
from mien.evaluation import metrics
from mien.evaluation.predictions import ClipPrediction, predict
from mien.evaluation.robustness import Transform, add_feature_noise, drop_samples, no_corruption
from mien.mouth_filter import mask_streams
from mien.records import FACE, VOICE, Recording, Stream
from mien.synthetic.recordings import simulate_recordings
from mien.training.fit import fit

BEHAVIOUR = "behaviour"
STREAMS = (FACE, BEHAVIOUR, VOICE)
MOUTH = "mouth"
#: Row of the table -> recipe of the fusion, and overrides beside those of `_SIZES`.
FUSIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "va_directed_experts": ("va_directed_experts", ()),
    "va_directed_experts, reading: stack": ("va_directed_experts", ("model.reading=stack",)),
    "va_reliability": ("va_reliability", ()),
    "va_reliability, voice masked without a face": ("va_reliability", ("mouth_filter.unseen=mask",)),
    "va_reliability, no mouth filter": ("va_reliability", ("mouth_filter.use=none",)),
}
_OPENING = face_geometry.NAMES.index("mouth_opening")
_TRAIN = ("train.epochs=10", "train.patience=0", "train.threads=1", "train.lr=1e-3", "vote.smooth_seconds=0.5")
#: Equal weights, because the score is the mean of both dimensions; the papers tuned .7 and .3 on their corpus.
_EVEN = (
    "objective={valence: 0.5, arousal: 0.5, mse: 0.01, per_sequence: false}", "train.epochs=20", "model.residual=true",
    "mouth_filter.unseen=keep",
)  # fmt: skip
_SIZES: dict[str, tuple[str, ...]] = {
    FACE: (
        "windows={seconds: 6.0, hop_seconds: 3.0, rate_hz: 10.0, jitter: true}", "model.dim=64", "model.layers=2",
        "model.heads=4", "vote.hop_seconds=3.0",
    ),
    BEHAVIOUR: ("windows={seconds: 16.0, hop_seconds: 8.0, rate_hz: 0.5, jitter: false}", "model.dim=64",
                "model.mamba_layers=2", "vote.hop_seconds=8.0", "train.epochs=30"),
    VOICE: ("windows={seconds: 4.0, hop_seconds: 2.0, rate_hz: 10.0, jitter: true}", "model.dim=64",
            "model.heads=4"),
    "va_directed_experts": (
        "windows={seconds: 8.0, hop_seconds: 4.0, rate_hz: 5.0, jitter: true}", "model.dim=64", "model.layers=2",
        "model.heads=4", "vote.hop_seconds=4.0", "model.modality_dropout={face: 0.15, voice: 0.15, behaviour: 0.05}",
        *_EVEN,
    ),
    "va_reliability": (
        "windows={seconds: 4.0, hop_seconds: 2.0, rate_hz: 5.0, jitter: true}", "model.dim=64", "model.heads=4",
        "vote.hop_seconds=2.0", "model.modality_dropout={face: 0.15, voice: 0.15, behaviour: 0.05}", *_EVEN,
        "model.prior={face: 0.75, behaviour: 0.1, voice: 0.15}",
    ),
}  # fmt: skip
#: Condition -> corruption of the test recordings.
CONDITIONS: dict[str, Transform[Recording]] = {
    "clean": no_corruption,
    "90 % of the face missing": drop_samples(FACE, 0.9),
    "no face": drop_samples(FACE, 1.0),
    "noise on the face": add_feature_noise(FACE, 5.0),
    "voice silent": drop_samples(VOICE, 1.0),
    "noise on the voice": add_feature_noise(VOICE, 4.0),
}


def add_behaviour(recording: Recording, length_s: float = 4.0, hop_s: float = 2.0) -> Recording:
    """Add the stream "behaviour", mean and deviation of the valid face over `length_s` seconds, every `hop_s`, and the
    stream "mouth", its opening."""
    face = recording.streams[FACE]
    last = float(face.times[-1]) if len(face.times) else 0.0
    starts = np.arange(0.0, max(last - length_s, 0.0) + hop_s, hop_s)
    rows = np.zeros((len(starts), 2 * face.dim), np.float32)
    valid = np.zeros(len(starts), bool)
    for i, start in enumerate(starts):
        inside = face.valid & (face.times >= start) & (face.times < start + length_s)
        if inside.any():
            values = face.values[inside]
            rows[i], valid[i] = np.concatenate((values.mean(axis=0), values.std(axis=0))), True
    stream = Stream(rows, starts + length_s / 2, valid)
    mouth = Stream(face.values[:, [_OPENING]], face.times, face.valid)
    return replace(recording, streams={**recording.streams, BEHAVIOUR: stream, MOUTH: mouth})


def corrupt(recording: Recording, number: int) -> Recording:
    """Apply one random corruption of random strength. number: the seed."""
    rng = np.random.default_rng([number, 77])
    kind = rng.integers(4)
    share, level = float(rng.uniform(0.2, 1.0)), float(rng.uniform(0.5, 6.0))
    corruptions = (
        drop_samples(FACE, share),
        add_feature_noise(FACE, level),
        drop_samples(VOICE, share),
        add_feature_noise(VOICE, level),
    )
    return corruptions[kind](recording, rng)


def _recipe(name: str, seed: int) -> config.Recipe:
    recipe, changes = (f"va_{name}", ()) if name in STREAMS else FUSIONS[name]
    dims = [f"features.{n}.dim=null" for n in config.load(recipe).features]
    sizes = _SIZES[name if name in STREAMS else recipe]
    return config.load(recipe, [*_TRAIN, *sizes, f"train.seed={seed}", *dims, *changes], check=models.problems)


def _derive(stages: Mapping[str, Checkpoint], recording: Recording) -> Recording:
    streams = {n: stages[n].embed_streams(_select(recording, (n,)).streams) for n in STREAMS}
    kept = {n: s for n, s in streams.items() if s.dim > 1}
    return replace(recording, streams=kept | {MOUTH: recording.streams[MOUTH]})


def _select(recording: Recording, names: Iterable[str]) -> Recording:
    return replace(recording, streams={n: s for n, s in recording.streams.items() if n in names})


@dataclass(slots=True)
class Chain:
    """Trained stages (one for each stream) and the fusions that read their features."""

    stages: dict[str, Checkpoint]
    fusions: dict[str, Checkpoint]

    def prepare(self, recording: Recording) -> tuple[Recording, Recording]:
        """Return the recording with the behaviour stream, and the recording of derived features."""
        extended = add_behaviour(recording)
        return extended, _derive(self.stages, extended)

    def predict(self, name: str, prepared: tuple[Recording, Recording]) -> ClipPrediction:
        """Predict a recording with one stream's model or a fusion. prepared: what `prepare` returned for it."""
        extended, features = prepared
        if name in self.stages:
            return predict(self.stages[name].predict_streams, _select(extended, (name,)))
        return predict(self.fusions[name].predict_streams, features)


def train_chain(
    seed: int, train: Sequence[Recording], val: Sequence[Recording], fusions: Iterable[str] = tuple(FUSIONS)
) -> Chain:
    """Train all stages, and some rows of `FUSIONS`, with one seed."""
    chain = Chain({}, {})
    with tempfile.TemporaryDirectory() as folder:
        plain = {"train": [add_behaviour(r) for r in train], "val": [add_behaviour(r) for r in val]}
        for name in STREAMS:
            recipe = _recipe(name, seed)
            own = {split: [_select(r, recipe.features) for r in rows] for split, rows in plain.items()}
            run = fit(recipe, own["train"], own["val"], Path(folder) / name, device="cpu", progress=False)
            chain.stages[name] = checkpoint.load(run)
        corrupted = [add_behaviour(corrupt(r, i)) for i, r in enumerate(train)]
        features = {
            "train": [_derive(chain.stages, r) for r in (*plain["train"], *corrupted)],
            "val": [_derive(chain.stages, r) for r in plain["val"]],
        }
        for name in fusions:
            run = fit(
                _recipe(name, seed),
                features["train"],
                features["val"],
                Path(folder) / name,
                device="cpu",
                progress=False,
            )
            chain.fusions[name] = checkpoint.load(run)
    return chain


def train_and_score(
    seed: int, train: Sequence[Recording], val: Sequence[Recording], test: Sequence[Recording]
) -> dict[str, Any]:
    """Train everything with one seed and score it.

    Returns:
        System -> condition -> mean CCC, and under "reliability": condition -> stream -> mean fusion weight.
    """
    chain = train_chain(seed, train, val)
    scores: dict[str, Any] = {"reliability": {}}
    for condition, corruption in CONDITIONS.items():
        prepared = [chain.prepare(corruption(r, np.random.default_rng([i, 5]))) for i, r in enumerate(test)]
        predictions = {n: [chain.predict(n, pair) for pair in prepared] for n in (*STREAMS, *FUSIONS)}
        truth = np.concatenate([p.true_valence_arousal for p in predictions[FACE]])
        values = {n: np.concatenate([p.filled_valence_arousal for p in clips]) for n, clips in predictions.items()}
        raw = np.stack([np.concatenate([p.valence_arousal for p in predictions[n]]) for n in STREAMS])
        finite = np.isfinite(raw)
        values["plain mean"] = np.where(finite, raw, 0).sum(axis=0) / np.maximum(finite.sum(axis=0), 1)
        for name, predicted in values.items():
            scores.setdefault(name, {})[condition] = float(metrics.va_score(truth, predicted))
        features = [recording for _, recording in prepared]
        scores["reliability"][condition] = _mean_weights(chain.fusions["va_reliability"], features)
    return scores


def _mean_weights(fusion: Checkpoint, recordings: Sequence[Recording]) -> dict[str, float]:
    """Mean fusion weight of each stream over all tokens."""
    rows: list[torch.Tensor] = []
    names: list[str] = []
    rate = fusion.settings.rate_hz
    for recording in recordings:
        streams = mask_streams(recording.streams, fusion.settings.voice_mask)
        ends = [float(s.times[-1]) for s in streams.values() if len(s.times)]
        times = clock.token_times(0.0, max(ends, default=1.0), rate)
        tokens = {n: clock.resample(s, times, rate) for n, s in streams.items()}
        if not tokens:
            continue
        with torch.inference_mode():
            out = fusion.model.eval()(
                {n: torch.from_numpy(v[None]) for n, (v, _) in tokens.items()},
                {n: torch.from_numpy(m[None]) for n, (_, m) in tokens.items()},
            )
        names = out.modalities
        rows.append(out.weights[0])
    mean = torch.cat(rows).mean(dim=0).tolist()
    return {n: v for n, v in zip(names, mean, strict=True) if n in STREAMS}


def run(*, seeds: int = 3, workers: int = 2, log: Callable[[str], None] = print) -> list[dict[str, Any]]:
    """Simulate the recordings, then return `train_and_score` of each seed. log: receives one line for each seed."""
    train, val = (
        simulate_recordings(s, n, seconds=15.0, seed=TEST_SEED, balance=0.5, workers=workers)
        for s, n in (("train", 160), ("val", 40))
    )
    test, rows = simulate_test_recordings(workers=workers), []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for scores in pool.map(partial(train_and_score, train=train, val=val, test=test), range(seeds)):
            rows.append(scores)
            log(
                f"seed {len(rows) - 1}: "
                + ", ".join(f"{n} {v['clean']:.3f}" for n, v in scores.items() if n != "reliability")
            )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown table: mean CCC with its 95 % t-interval over seeds, and the mean fusion weights."""
    lines = ["| mean CCC | " + " | ".join(CONDITIONS) + " |", "|---" * (1 + len(CONDITIONS)) + "|"]
    for name in (*STREAMS, "plain mean", *FUSIONS):
        cells = [format_interval([row[name][c] for row in rows]) for c in CONDITIONS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name in STREAMS:
        cells = [format_interval([row["reliability"][c][name] for row in rows]) for c in CONDITIONS]
        lines.append(f"| *weight of the {name}* | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def save_results(rows: Sequence[Mapping[str, Any]]) -> None:
    """Save the table and the clean score of each recipe with the recipes (`mien.results`)."""
    names = {**{f"va_{n}": n for n in STREAMS}, **{recipe: recipe for recipe, _ in FUSIONS.values()}}
    results.save(
        "affect",
        command=f"python -m experiments affect --seeds {len(rows)}",
        what="synthetic people, people never seen, the starter's encoders, small sizes",
        table=table(rows),
        recipes={r: f"{format_interval([row[n]['clean'] for row in rows])} mean CCC" for r, n in names.items()},
    )
