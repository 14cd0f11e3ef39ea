"""All systems on one stage: `mien bench systems`.

Each system is trained on the same recordings of the theatre with the starter's encoders (equal inputs: what is compared
is the architecture, not the networks before it), three seeds, small enough for two CPU cores, and scored on people no
training recording shows, clean and damaged. Beside each stand the same system trained on one modality alone, and the
class prior. What is in `docs/systems.json` was written by this; README and docs/BENCHMARKS.md show its table.
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

from mien import checkpoint, config, models
from mien.benchmarks import measured
from mien.benchmarks.starter import TEST_SEED, held_out
from mien.corpora.theatre.troupe import troupe
from mien.evaluation import robustness
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.robustness import Condition, missing, noisy, streams_model, unchanged
from mien.records import FACE, VOICE, Recording
from mien.training.fit import fit

#: What is trained alike: the stage's material, epochs, one thread a training.
EPOCHS = 12
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
    "safe_cross_attention": System("own_data", note="the flagship at the size of recipes/own_data.yaml"),
    "safe_cross_attention, not safe, no dropout": System(
        "own_data", ("model.attention=naive", "model.hide={whole: {}, bursts: {}, noise: {}}"), False
    ),
    "prompted_tcn": System("prompted_tcn", _TCN, note="orthogonal vectors in place of CLIP's prompts"),
    "cnn_pdem": System("cnn_pdem", _PDEM, note="class-wise Dirichlet weights"),
    "cnn_pdem, random forest": System("cnn_pdem", (*_PDEM, "model.fusion=forest"), False, drawn=False),
    "cnn_pdem, kernel ELM": System("cnn_pdem", (*_PDEM, "model.fusion=elm"), False, drawn=False),
    "cnn_pdem, cross-attention": System("cnn_pdem", (*_PDEM, "model.fusion=attention"), False),
    "transfer_ensemble": System("transfer_ensemble", _TRANSFER),
}
#: Missing shares of the plot's first panel.
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
SNR_DB = (10.0, 0.0, -5.0)


@dataclass(slots=True)
class Stage:
    """Recordings with planted truth. noisy: decibels -> the test recordings with that much noise, in order."""

    train: list[Recording]
    val: list[Recording]
    test: list[Recording]
    noisy: dict[float, list[Recording]] = field(default_factory=dict)


def stage(*, train: int = 160, val: int = 40, workers: int = 1) -> Stage:
    """What everything here is trained and scored on."""
    made = {
        split: troupe(split, count, seconds=15.0, seed=TEST_SEED, balance=0.5, workers=workers)
        for split, count in (("train", train), ("val", val))
    }
    test = held_out(workers=workers)
    return Stage(**made, test=test, noisy={snr: held_out(snr_db=snr, workers=workers) for snr in SNR_DB})


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
    made = made or stage(workers=workers)
    tell(f"{len(made.train)} training, {len(made.val)} validation and {len(made.test)} test recordings")
    chosen = [n for n in SYSTEMS if not names or n in names]
    jobs = [
        (name, seed, only)
        for name in chosen
        for only in (None, *((FACE, VOICE) if SYSTEMS[name].alone else ()))
        for seed in range(seeds)
    ]
    found: dict[str, list[pl.DataFrame]] = {"class prior": [prior(made)]}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job, table_ in zip(jobs, pool.map(partial(measure, made=made), jobs), strict=True):
            title = table_["model"][0]
            found.setdefault(title, []).append(table_)
            tell(f"{title}, seed {job[1]}: {table_['macro_f1'][0]:.3f}")
    return pl.concat([robustness.across_seeds(tables) for tables in found.values()], how="diagonal")


COLUMNS: dict[str, tuple[str, str]] = {
    "clean": ("face frames missing", "0"),
    "90 % of the face missing": ("face frames missing", "90"),
    "no face": ("face frames missing", "100"),
    "no voice": ("voice silent", "100"),
    "noise at −5 dB": ("noise in the sound", "-5"),
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: macro F1 and its interval over seeds, by system and condition."""
    lines = ["| macro F1 | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
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
    half = (row["high"] - row["low"]) / 2
    return f"{row['macro_f1']:.3f} ± {half:.3f}".replace("0.", ".")


def save(rows: pl.DataFrame, path: Path, *, keep_others: bool = False) -> list[dict[str, Any]]:
    """As JSON; returns the plain rows. keep_others: those of other systems stay, in the file's order."""
    plain = [
        {k: (None if isinstance(v, float) and not np.isfinite(v) else round(v, 5) if isinstance(v, float) else v)
         for k, v in row.items()}
        for row in rows.to_dicts()
    ]  # fmt: skip
    if keep_others and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        ours = {r["model"] for r in plain}
        order = dict.fromkeys([*(r["model"] for r in before), *ours])
        every = [*(r for r in before if r["model"] not in ours), *plain]
        plain = [r for name in order for r in every if r["model"] == name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    return plain


def remember(rows: Sequence[Mapping[str, Any]]) -> None:
    """Keeps the table and each recipe's clean score (`mien.benchmarks.measured`)."""
    clean = {r["model"]: r for r in rows if (r["corruption"], r["label"]) == COLUMNS["clean"]}
    recipes = {s.recipe: f"{_cell(clean[n])} macro F1" for n, s in SYSTEMS.items() if n in clean and s.alone}
    measured.keep(
        "systems",
        command="mien bench systems",
        what="theatre, people never seen, the starter's encoders, small sizes",
        table=table(rows),
        recipes=recipes,
    )
