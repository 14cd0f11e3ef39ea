"""All systems on one stage: `python -m experiments systems`.

Each system is trained on the same recordings of the synthetic corpus with the starter's encoders (equal inputs: what
is compared
is the architecture, not the networks before it), three seeds, small enough for two CPU cores, and scored on people no
training recording shows, clean and damaged. Beside each stand the same system trained on one modality alone, and the
class prior. What is in `docs/experiments/systems.json` was written by this; docs/BENCHMARKS.md show its table.

Two systems are not like the others. `dynamic_threshold` looks at pictures: it is trained on faces of the same
recordings, 40 of a class labelled and the rest not, and answers moment by moment from the face alone. Valence and
arousal are a chain of stages (`experiments.valence_arousal`) and scored by the mean of two CCCs, in a table and a
plot of their own.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from experiments import few_labels, valence_arousal
from experiments.train_starter import TEST_SECONDS, TEST_SEED, held_out
from mien import checkpoint, config, models, results
from mien.datasets.image_datasets import drawn
from mien.errors import ConfigError
from mien.evaluation import robustness
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.robustness import Condition, missing, noisy, streams_model, unchanged
from mien.labels import EXPRESSIONS
from mien.records import FACE, VOICE, ImageSet, Recording
from mien.synthetic.face_images import crops, joined
from mien.synthetic.recordings import spread_out, troupe
from mien.synthetic.scenario import draw
from mien.training.fit import fit
from mien.training.semi_supervised import as_tensor

#: What is trained alike: the stage's material, epochs, one thread a training.
EPOCHS = 12
TRAIN_SECONDS = 15.0
_ALIKE = (f"train.epochs={EPOCHS}", "train.patience=0", "train.threads=1", "train.batch=32", "vote.smooth_seconds=0.5")
_STARTER = ("features.face={encoder: face-geometry}", "features.voice={encoder: voice-prosody}")


@dataclass(frozen=True, slots=True)
class System:
    """recipe and overrides of one row. alone: also train it on each modality. drawn: on the plot, which holds six
    lines."""

    recipe: str
    overrides: tuple[str, ...] = ()
    alone: bool = True
    note: str = ""
    drawn: bool = True


_TCN = (
    *_STARTER, "windows={seconds: 3.0, hop_seconds: 0.5, rate_hz: 10.0, jitter: true}",
    "model.dim=64", "model.heads=4", "model.levels=4", "model.hidden=[64, 32]", "model.text_dim=16",
    "model.tcn_dropout=0.2", "model.dropout=0.3", "objective.text=null", "objective.scale=10.0",
    "train.lr=1e-3", "train.weight_decay=0.05", "vote.hop_seconds=0.5",
)  # fmt: skip
_PDEM = (
    *_STARTER, "model.dim=64", "model.face_heads=4", "model.voice_dim=64", "model.voice_heads=[4, 4]",
    "model.dropout=0.2", "train.lr=1e-3", "train.weight_decay=0.05", "model.support=800",
)  # fmt: skip
_TRANSFER = (
    *_STARTER, "windows={seconds: 4.0, hop_seconds: 2.0, rate_hz: 10.0, jitter: true}", "model.frames_per_row=1",
    "model.hidden=128", "model.cnn14=[16, 32, 64]", "model.channels=[64, 64]", "model.kernels=[5, 3]",
    "model.lstm=64", "train.lr=1e-3", "train.weight_decay=0.05", "vote.hop_seconds=1.0",
)  # fmt: skip
SYSTEMS: dict[str, System] = {
    "safe_cross_attention": System("custom_data", note="the flagship at the size of recipes/custom_data.yaml"),
    "safe_cross_attention, not safe, no dropout": System(
        "custom_data", ("model.attention=naive", "model.hide={whole: {}, bursts: {}, noise: {}}"), False
    ),
    "prompted_tcn": System("prompted_tcn", _TCN, note="orthogonal vectors in place of CLIP's prompts"),
    "cnn_pdem": System("cnn_pdem", _PDEM, note="class-wise Dirichlet weights"),
    "cnn_pdem, random forest": System("cnn_pdem", (*_PDEM, "model.fusion=forest"), False, drawn=False),
    "cnn_pdem, kernel ELM": System("cnn_pdem", (*_PDEM, "model.fusion=elm"), False, drawn=False),
    "cnn_pdem, cross-attention": System("cnn_pdem", (*_PDEM, "model.fusion=attention"), False),
    "transfer_ensemble": System("transfer_ensemble", _TRANSFER),
}
#: Of pictures: recipe, labels a class, pictures a second of training and test recordings; how far a moment looks for
#: them, in seconds.
PICTURES, LABELS, TRAIN_HZ, TEST_HZ, REACH_S = "dynamic_threshold", 40, 1.0, 5.0, 0.5
#: Of valence and arousal: what the chain's parts are called as recipes.
CHAIN = {**{f"va_{name}": name for name in valence_arousal.STREAMS}, **{name: name for name in valence_arousal.FUSIONS}}
#: The chain as one thing to be chosen, since its parts need each other.
AFFECT = "valence and arousal"
#: What is on the plot of macro F1.
DRAWN = (*(name for name, system in SYSTEMS.items() if system.drawn), PICTURES)
#: Missing shares of the plot's first panel.
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
SNR_DB = (10.0, 0.0, -5.0)


@dataclass(slots=True)
class Stage:
    """Recordings with planted truth. noisy: decibels -> the test recordings with that much noise, in order. faces: of
    the training recordings; shown: test recording -> its faces and their times. Both only where they are asked for."""

    train: list[Recording]
    val: list[Recording]
    test: list[Recording]
    noisy: dict[float, list[Recording]] = field(default_factory=dict)
    faces: ImageSet | None = None
    shown: dict[str, tuple[ImageSet, np.ndarray]] = field(default_factory=dict)


def stage(*, train: int = 160, val: int = 40, pictures: bool = True, workers: int = 1) -> Stage:
    """What everything here is trained and scored on. pictures: also what `dynamic_threshold` looks at."""
    made = {
        split: troupe(split, count, seconds=TRAIN_SECONDS, seed=TEST_SEED, balance=0.5, workers=workers)
        for split, count in (("train", train), ("val", val))
    }
    test = held_out(workers=workers)
    found = Stage(
        made["train"], made["val"], test, noisy={snr: held_out(snr_db=snr, workers=workers) for snr in SNR_DB}
    )
    if pictures:
        jobs = [("train", n, TRAIN_SECONDS, True, TRAIN_HZ) for n in range(train)]
        found.faces = joined([faces for _, faces, _ in spread_out(_seen, jobs, workers)])
        jobs = [("test", n, TEST_SECONDS, False, TEST_HZ) for n in range(len(test))]
        found.shown = {name: (faces, times) for name, faces, times in spread_out(_seen, jobs, workers)}
    return found


def _seen(split: str, number: int, seconds: float, faults: bool, hz: float) -> tuple[str, ImageSet, np.ndarray]:
    plan = draw(split, number, seconds=seconds, seed=TEST_SEED, balance=0.5, faults=faults)
    return plan.id, *crops(plan, hz, few_labels.SIZE)


def conditions(made: Stage) -> list[Condition[Recording]]:
    """Faces missing in bursts, sound under noise and silent, noise on the face's features."""

    def swapped(recordings: Sequence[Recording]) -> Callable[[Recording, np.random.Generator], Recording]:
        by_id = {r.clip.id: r for r in recordings}
        return lambda recording, rng: by_id[recording.clip.id]

    return [
        *(Condition("face frames missing", round(100 * s), "%", missing(FACE, s)) for s in SHARES),
        Condition("noise in the sound", float("inf"), "dB", unchanged, "clean"),
        *(Condition("noise in the sound", snr, "dB", swapped(r)) for snr, r in made.noisy.items()),
        *(Condition("voice silent", round(100 * s), "%", missing(VOICE, s)) for s in (0.0, 0.5, 1.0)),
        *(Condition("noise on face features", n, "deviations", noisy(FACE, n)) for n in (0.0, 0.5, 1.0, 2.0)),
    ]


def recipe_of(system: System, seed: int, only: str | None = None) -> config.Recipe:
    """The recipe as it is trained here. only: the one modality it gets."""
    settings = config.load(system.recipe, [*_ALIKE, *system.overrides, f"train.seed={seed}"], check=models.problems)
    raw = settings.model_dump()
    raw["features"] = {n: {**f, "dim": None} for n, f in raw["features"].items() if only in (None, n)}
    if only and "hide" in raw["model"]:
        kept = raw["model"]["hide"].get("noise", {})
        raw["model"]["hide"] = {
            "whole": {},
            "bursts": {only: 0.2},
            "noise": {k: v for k, v in kept.items() if k == only},
        }
    return config.read(raw, origin=system.recipe, check=models.problems)


def measure(job: tuple[str, int, str | None], made: Stage) -> pl.DataFrame:
    """Train one system with one seed and score it; one on a single modality only where that can be told."""
    name, seed, only = job
    if name == AFFECT:
        return _affect(seed, made)
    if name == PICTURES:
        return _pictures(seed, made)
    recipe = recipe_of(SYSTEMS[name], seed, only)
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe, made.train, made.val, Path(folder) / "run", device="cpu", progress=False)
        trained = checkpoint.load(run)
    title = f"{name}, {only} only" if only else name
    says = streams_model(trained.predict_streams, *([only] if only else []))
    every = conditions(made)
    if only == FACE:
        every = [c for c in every if c.corruption in ("face frames missing", "noise on face features")]
    if only == VOICE:
        every = [c for c in every if c.corruption in ("noise in the sound", "voice silent")]
    return robustness.curve(every, made.test, {title: says}, classes=trained.labels)


def _affect(seed: int, made: Stage) -> pl.DataFrame:
    trained = valence_arousal.chain(seed, made.train, made.val)
    says = {recipe: partial(trained.says, name) for recipe, name in CHAIN.items()}
    found = robustness.curve(conditions(made), made.test, says, prepare=trained.prepare)
    return found.with_columns(pl.lit(None, pl.Float64).alias(c) for c in ("macro_f1", "low", "high", "accuracy"))


def _pictures(seed: int, made: Stage) -> pl.DataFrame:
    if made.faces is None:
        raise ValueError("this stage has no pictures")
    recipe = few_labels.recipe_of(EXPRESSIONS, few_labels.SIZE, seed, few_labels.STEPS)
    labelled = drawn(made.faces, LABELS, seed)
    trained = few_labels.trained(recipe, labelled, made.faces, None, steps=few_labels.STEPS, flip=True)
    says = moments(trained.model.eval(), made.shown)
    every = [c for c in conditions(made) if c.corruption == "face frames missing"]
    return robustness.curve(every, made.test, {PICTURES: says})


def moments(
    network: Callable[[torch.Tensor], torch.Tensor], shown: Mapping[str, tuple[ImageSet, np.ndarray]]
) -> Callable[[Recording], ClipPrediction]:
    """A model for `curve` from one of single pictures: at every labelled moment the mean of what it says of the faces
    within `REACH_S` of it, nothing where there is none. A face counts where the recording's own face stream is valid,
    so that what is taken away there is away here."""
    known: dict[str, np.ndarray] = {}

    def says(recording: Recording) -> ClipPrediction:
        truth, clip = recording.clip.labels, recording.clip
        assert truth is not None
        faces, times = shown[clip.id]
        if clip.id not in known:
            with torch.inference_mode():
                said = network(as_tensor(faces.images)).softmax(dim=1).numpy() if len(faces) else np.zeros((0, 8))
            known[clip.id] = said
        stream = recording.streams[FACE]
        nearest = np.abs(stream.times[None] - times[:, None]).argmin(axis=1)
        near = (np.abs(truth.times[:, None] - times[None]) <= REACH_S) & np.asarray(stream.valid)[nearest][None]
        count = near.sum(axis=1, keepdims=True)
        mean = np.divide(near @ known[clip.id], count, out=np.full((len(count), 8), np.nan), where=count > 0)
        return ClipPrediction(
            clip.id, truth.times, mean, np.full((len(count), 2), np.nan), truth.expression, truth.valence_arousal,
            clip.subject or clip.id,
        )  # fmt: skip

    return says


def prior(made: Stage) -> pl.DataFrame:
    """Whoever always names the commonest class of the training recordings."""
    labels = np.concatenate([r.clip.labels.expression for r in made.train if r.clip.labels is not None])
    commonest = int(np.bincount(labels[labels >= 0]).argmax())

    def says(recording: Recording) -> ClipPrediction:
        truth = recording.clip.labels
        assert truth is not None
        row = np.eye(8)[commonest]
        n = len(truth.times)
        return ClipPrediction(
            recording.clip.id, truth.times, np.tile(row, (n, 1)), np.zeros((n, 2)), truth.expression,
            truth.valence_arousal, recording.clip.subject or recording.clip.id,
        )  # fmt: skip

    clean = [c for c in conditions(made) if c.corruption == "face frames missing" and c.level == 0]
    return robustness.curve(clean, made.test, {"class prior": says})


def run(
    *, seeds: int = 3, workers: int = 2, names: Sequence[str] = (), tell: Callable[[str], None] = print,
    made: Stage | None = None,
) -> pl.DataFrame:  # fmt: skip
    """A row a condition and system: means and intervals (t over seeds) of `robustness.curve`."""
    every = (*SYSTEMS, PICTURES, AFFECT)
    if unknown := sorted(set(names) - set(every)):
        raise ConfigError(
            f"no system here is called {', '.join(unknown)}", follows="nothing was started",
            remedy=f"one of: {'; '.join(every)}",
        )  # fmt: skip
    chosen = [n for n in every if not names or n in names]
    made = made or stage(pictures=PICTURES in chosen, workers=workers)
    tell(f"{len(made.train)} training, {len(made.val)} validation and {len(made.test)} test recordings")
    jobs = [
        (name, seed, only)
        for name in chosen
        for only in (None, *((FACE, VOICE) if name in SYSTEMS and SYSTEMS[name].alone else ()))
        for seed in range(seeds)
    ]
    found: dict[str, list[pl.DataFrame]] = {"class prior": [prior(made)]}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job, table_ in zip(jobs, pool.map(partial(measure, made=made), jobs), strict=True):
            for own in table_.partition_by("model", maintain_order=True):
                title = own["model"][0]
                found.setdefault(title, []).append(own)
                score = own["va_score" if title in CHAIN else "macro_f1"][0]
                tell(f"{title}, seed {job[1]}: {score:.3f}")
    return pl.concat([robustness.across_seeds(tables) for tables in found.values()], how="diagonal")


COLUMNS: dict[str, tuple[str, str]] = {
    "clean": ("face frames missing", "0"),
    "90 % of the face missing": ("face frames missing", "90"),
    "no face": ("face frames missing", "100"),
    "no voice": ("voice silent", "100"),
    "noise at −5 dB": ("noise in the sound", "-5"),
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: macro F1 and its interval over seeds, by system and condition; then the mean CCC of valence and arousal
    of the systems that say them."""
    parts = (
        ("macro F1", [r for r in rows if r["model"] not in CHAIN]),
        ("mean CCC", [r for r in rows if r["model"] in CHAIN]),
    )
    return "\n\n".join(_table(title, chosen) for title, chosen in parts if chosen)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| {title} | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    by = {(r["model"], r["corruption"], r["label"]): r for r in rows}
    for name in dict.fromkeys(r["model"] for r in rows):
        cells = []
        for corruption, label in COLUMNS.values():
            row = by.get((name, corruption, label))
            if row is None and label == "0":
                row = by.get((name, "voice silent", "0"))
            cells.append("–" if row is None else _cell(row))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    score, low, high = ("va_score", "va_low", "va_high") if row["model"] in CHAIN else ("macro_f1", "low", "high")
    if row.get(low) is None:
        return f"{row[score]:.3f}".replace("0.", ".", 1)
    return f"{row[score]:.3f} ± {(row[high] - row[low]) / 2:.3f}".replace("0.", ".")


def save(rows: pl.DataFrame, path: Path, *, keep_others: bool = False) -> list[dict[str, Any]]:
    """As JSON; returns the plain rows. keep_others: those of other systems stay, in the file's order."""
    plain = [
        {k: (None if isinstance(v, float) and not np.isfinite(v) else round(v, 5) if isinstance(v, float) else v)
         for k, v in row.items()}
        for row in rows.to_dicts()
    ]  # fmt: skip
    if keep_others and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        ours = list(dict.fromkeys(r["model"] for r in plain))
        order = dict.fromkeys([*(r["model"] for r in before), *ours])
        every = [*(r for r in before if r["model"] not in ours), *plain]
        plain = [r for name in order for r in every if r["model"] == name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    return plain


def remember(rows: Sequence[Mapping[str, Any]]) -> None:
    """Keeps the table and each recipe's clean score (`mien.results`)."""
    clean = {r["model"]: r for r in rows if (r["corruption"], r["label"]) == COLUMNS["clean"]}
    named = {n: s.recipe for n, s in SYSTEMS.items() if s.alone} | {PICTURES: PICTURES}
    recipes = {recipe: f"{_cell(clean[n])} macro F1" for n, recipe in named.items() if n in clean}
    results.keep(
        "systems",
        command="python -m experiments systems",
        what="synthetic people, people never seen, the starter's encoders, small sizes",
        table=table(rows),
        recipes=recipes,
    )
