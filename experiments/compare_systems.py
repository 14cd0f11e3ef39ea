"""Comparison of all systems on the same synthetic recordings (`python -m experiments systems`).

Each system is trained on the same recordings with the starter's encoders (equal inputs, so that only the architectures
differ), with three seeds, at a size for two CPU cores. It is scored on people that no training recording shows, with
and without corruption. The same system trained on each modality alone and the class prior are the references. This
script writes `docs/experiments/systems.json`; docs/BENCHMARKS.md shows its table.

Two systems differ. `dynamic_threshold` classifies images: it is trained on faces of the same recordings, 40 of each
class labelled and the rest unlabelled, and predicts each moment from the face alone. Valence and arousal are predicted
by a chain of stages (`experiments.valence_arousal`), scored by the mean of two CCCs, in a table and a plot of their
own.
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
from experiments.test_recordings import TEST_SECONDS, TEST_SEED, simulate_test_recordings
from mien import checkpoint, config, models, results
from mien.datasets.image_datasets import sample_per_class
from mien.errors import ConfigError
from mien.evaluation import robustness
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.robustness import Condition, add_feature_noise, drop_samples, no_corruption, stream_predictor
from mien.labels import EXPRESSIONS
from mien.records import FACE, VOICE, Clip, ImageSet, Recording
from mien.synthetic.face_images import concatenate, crop_faces
from mien.synthetic.recordings import map_in_processes, simulate_recordings
from mien.synthetic.scenario import draw_scenario
from mien.training.fit import fit
from mien.training.semi_supervised import as_tensor

#: Settings shared by all systems: epochs, seconds of a training recording, and overrides; one thread per training.
EPOCHS = 12
TRAIN_SECONDS = 15.0
_SHARED = (
    f"train.epochs={EPOCHS}",
    "train.patience=0",
    "train.threads=1",
    "train.batch=32",
    "train.accumulate=1",
    "train.lr_end=0",
    "vote.smooth_seconds=0.5",
)
_STARTER = ("features.face={encoder: face-geometry}", "features.voice={encoder: voice-prosody}")
#: Side of a face image in pixels, and steps of a training on images.
SIZE, STEPS = 48, 1500


@dataclass(frozen=True, slots=True)
class System:
    """One row of the comparison. unimodal: also train it on each modality alone. plotted: show it on the plot."""

    recipe: str
    overrides: tuple[str, ...] = ()
    unimodal: bool = True
    plotted: bool = True


_TCN = (
    *_STARTER, "windows={seconds: 3.0, hop_seconds: 0.5, rate_hz: 10.0, jitter: true}",
    "model.dim=64", "model.heads=4", "model.levels=4", "model.hidden=[64, 32]", "model.text_dim=16",
    "model.tcn_dropout=0.2", "model.dropout=0.3", "objective.text=null", "objective.logit_scale=10.0",
    "train.lr=1e-3", "train.weight_decay=0.05", "vote.hop_seconds=0.5",
)  # fmt: skip
_PDEM = (
    *_STARTER, "windows.rate_hz=5.0", "model.dim=64", "model.face_heads=4", "model.voice_dim=64",
    "model.voice_heads=[4, 4]", "train.schedule=cosine",
    "model.dropout=0.2", "train.lr=1e-3", "train.weight_decay=0.05", "model.elm_support=800",
)  # fmt: skip
_TRANSFER = (
    "features={face: {encoder: face-geometry}, voice: {encoder: voice-prosody}}",
    "windows={seconds: 4.0, hop_seconds: 2.0, rate_hz: 10.0, jitter: true}", "model.frames_per_row=1",
    "model.hidden=128", "model.cnn14=[16, 32, 64]", "model.channels=[64, 64]", "model.kernels=[5, 3]",
    "model.pools=[2, 2]", "model.lstm=64", "train.schedule=cosine", "train.lr=1e-3", "train.weight_decay=0.05",
    "vote.hop_seconds=1.0",
)  # fmt: skip
SYSTEMS: dict[str, System] = {
    # at the size of recipes/custom_data.yaml
    "safe_cross_attention": System("custom_data"),
    "safe_cross_attention, not safe, no dropout": System(
        "custom_data", ("model.attention=naive", "model.modality_dropout={whole: {}, bursts: {}, noise: {}}"), False
    ),
    # orthogonal vectors in place of CLIP's prompts
    "prompted_tcn": System("prompted_tcn", _TCN),
    # class-wise Dirichlet weights
    "cnn_pdem": System("cnn_pdem", _PDEM),
    "cnn_pdem, random forest": System("cnn_pdem", (*_PDEM, "model.fusion=forest"), False, plotted=False),
    "cnn_pdem, without the kernel ELM": System(
        "cnn_pdem", (*_PDEM, "model.members=[face, voice]"), False, plotted=False
    ),
    "cnn_pdem, cross-attention": System("cnn_pdem", (*_PDEM, "model.fusion=attention"), False),
    "transfer_ensemble": System("transfer_ensemble", _TRANSFER),
}
#: Image system: recipe, labelled images per class, images per second of training and of test recordings, and the
#: distance in seconds up to which a moment uses an image.
IMAGE_SYSTEM, LABELS, TRAIN_HZ, TEST_HZ, REACH_S = "dynamic_threshold", 40, 1.0, 5.0, 0.5
#: Recipe of the valence-arousal system -> the stream or fusion that it trains.
VA_FUSIONS = ("va_directed_experts", "va_reliability")
CHAIN = {**{f"va_{name}": name for name in valence_arousal.STREAMS}, **{name: name for name in VA_FUSIONS}}
#: Name of the whole chain in `names`; its parts depend on each other.
VA_CHAIN = "valence and arousal"
#: Systems on the plot of macro F1.
PLOTTED = (*(name for name, system in SYSTEMS.items() if system.plotted), IMAGE_SYSTEM)
#: Missing shares of face frames, and signal-to-noise ratios in dB.
SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
SNR_DB = (10.0, 0.0, -5.0)


@dataclass(slots=True)
class ComparisonData:
    """Synthetic recordings of the comparison.

    noisy: signal-to-noise ratio in dB -> test recordings with that noise, in order. train_faces: faces of the training
    recordings. test_faces: test recording -> its faces and their times in seconds. Faces only for the image system.
    """

    train: list[Recording]
    val: list[Recording]
    test: list[Recording]
    noisy: dict[float, list[Recording]] = field(default_factory=dict)
    train_faces: ImageSet | None = None
    test_faces: dict[str, tuple[ImageSet, np.ndarray]] = field(default_factory=dict)


def prepare_data(*, train: int = 160, val: int = 40, images: bool = True, workers: int = 1) -> ComparisonData:
    """Simulate `train` training, `val` validation and all test recordings. images: also crop faces."""
    simulate = partial(simulate_recordings, seconds=TRAIN_SECONDS, seed=TEST_SEED, balance=0.5, workers=workers)
    noisy = {snr: simulate_test_recordings(snr_db=snr, workers=workers) for snr in SNR_DB}
    test = simulate_test_recordings(workers=workers)
    data = ComparisonData(simulate("train", train), simulate("val", val), test, noisy)
    if images:
        jobs = [("train", n, TRAIN_SECONDS, True, TRAIN_HZ) for n in range(train)]
        data.train_faces = concatenate([faces for _, faces, _ in map_in_processes(_crop_faces, jobs, workers)])
        jobs = [("test", n, TEST_SECONDS, False, TEST_HZ) for n in range(len(test))]
        data.test_faces = {name: (faces, times) for name, faces, times in map_in_processes(_crop_faces, jobs, workers)}
    return data


def _crop_faces(
    split: str, number: int, seconds: float, impairments: bool, hz: float
) -> tuple[str, ImageSet, np.ndarray]:
    scenario = draw_scenario(split, number, seconds=seconds, seed=TEST_SEED, balance=0.5, impairments=impairments)
    return scenario.id, *crop_faces(scenario, hz, SIZE)


def make_conditions(data: ComparisonData) -> list[Condition[Recording]]:
    """Test conditions: missing face frames, noise in the sound, silence, and noise on the face features."""

    def replace_by(recordings: Sequence[Recording]) -> Callable[[Recording, np.random.Generator], Recording]:
        by_id = {r.clip.id: r for r in recordings}
        return lambda recording, rng: by_id[recording.clip.id]

    return [
        *(Condition("face frames missing", round(100 * s), "%", drop_samples(FACE, s)) for s in SHARES),
        Condition("noise in the sound", float("inf"), "dB", no_corruption, "clean"),
        *(Condition("noise in the sound", snr, "dB", replace_by(r)) for snr, r in data.noisy.items()),
        *(Condition("voice silent", round(100 * s), "%", drop_samples(VOICE, s)) for s in (0.0, 0.5, 1.0)),
        *(
            Condition("noise on face features", n, "deviations", add_feature_noise(FACE, n))
            for n in (0.0, 0.5, 1.0, 2.0)
        ),
    ]


def make_recipe(system: System, seed: int, only: str | None = None) -> config.Recipe:
    """Return a system's recipe with the settings of this comparison. only: the one modality to keep; None keeps all."""
    recipe = config.load(system.recipe, [*_SHARED, *system.overrides, f"train.seed={seed}"], check=models.problems)
    raw = recipe.model_dump()
    raw["features"] = {n: {**f, "dim": None} for n, f in raw["features"].items() if only in (None, n)}
    if only and "modality_dropout" in raw["model"]:
        noise = raw["model"]["modality_dropout"].get("noise", {})
        raw["model"]["modality_dropout"] = {
            "whole": {},
            "bursts": {only: 0.2},
            "noise": {k: v for k, v in noise.items() if k == only},
        }
    return config.read(raw, origin=system.recipe, check=models.problems)


def train_and_score(job: tuple[str, int, str | None], data: ComparisonData) -> pl.DataFrame:
    """Train and score one system with one seed.

    Args:
        job: name in `SYSTEMS`, `IMAGE_SYSTEM` or `VA_CHAIN`; seed; single modality or None.
        data: see `prepare_data`.

    Returns:
        The table of `robustness.score_conditions`. A system of one modality has only the conditions of that modality.
    """
    name, seed, only = job
    if name == VA_CHAIN:
        return _score_va_chain(seed, data)
    if name == IMAGE_SYSTEM:
        return _score_image_system(seed, data)
    recipe = make_recipe(SYSTEMS[name], seed, only)
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe, data.train, data.val, Path(folder) / "run", device="cpu", progress=False)
        trained = checkpoint.load(run)
    title = f"{name}, {only} only" if only else name
    predict = stream_predictor(trained.predict_streams, *([only] if only else []))
    conditions = make_conditions(data)
    if only == FACE:
        conditions = [c for c in conditions if c.corruption in ("face frames missing", "noise on face features")]
    if only == VOICE:
        conditions = [c for c in conditions if c.corruption in ("noise in the sound", "voice silent")]
    return robustness.score_conditions(conditions, data.test, {title: predict}, classes=trained.labels)


def _score_va_chain(seed: int, data: ComparisonData) -> pl.DataFrame:
    chain = valence_arousal.train_chain(seed, data.train, data.val, VA_FUSIONS)
    predictors = {recipe: partial(chain.predict, name) for recipe, name in CHAIN.items()}
    scores = robustness.score_conditions(make_conditions(data), data.test, predictors, prepare=chain.prepare)
    return scores.with_columns(pl.lit(None, pl.Float64).alias(c) for c in ("macro_f1", "low", "high", "accuracy"))


def _score_image_system(seed: int, data: ComparisonData) -> pl.DataFrame:
    if data.train_faces is None:
        raise ValueError("the data has no face images; use prepare_data(images=True)")
    recipe = few_labels.make_recipe(EXPRESSIONS, SIZE, seed, STEPS)
    labelled = sample_per_class(data.train_faces, LABELS, seed)
    trained = few_labels.train(recipe, labelled, data.train_faces, None, steps=STEPS, flip=True)
    predict = image_predictor(trained.model.eval(), data.test_faces)
    conditions = [c for c in make_conditions(data) if c.corruption == "face frames missing"]
    return robustness.score_conditions(conditions, data.test, {IMAGE_SYSTEM: predict})


def image_predictor(
    network: Callable[[torch.Tensor], torch.Tensor], test_faces: Mapping[str, tuple[ImageSet, np.ndarray]]
) -> Callable[[Recording], ClipPrediction]:
    """Make a predictor of recordings from a network of single images.

    The prediction of a labelled moment is the mean over the faces within `REACH_S` seconds, NaN without one. A face
    counts only where the face stream of the recording is valid, so that corruptions of the stream apply to the images.

    Args:
        network: images to logits `(n, 8)`.
        test_faces: see `ComparisonData`.
    """
    cache: dict[str, np.ndarray] = {}

    def predict(recording: Recording) -> ClipPrediction:
        clip, labels = recording.clip, recording.clip.labels
        assert labels is not None
        faces, times = test_faces[clip.id]
        if clip.id not in cache:
            with torch.inference_mode():
                cache[clip.id] = network(as_tensor(faces.images)).softmax(1).numpy() if len(faces) else np.zeros((0, 8))
        stream = recording.streams[FACE]
        nearest = np.abs(stream.times[None] - times[:, None]).argmin(axis=1)
        near = (np.abs(labels.times[:, None] - times[None]) <= REACH_S) & np.asarray(stream.valid)[nearest][None]
        count = near.sum(axis=1, keepdims=True)
        mean = np.divide(near @ cache[clip.id], count, out=np.full((len(count), 8), np.nan), where=count > 0)
        return _clip_prediction(clip, mean, np.nan)

    return predict


def _clip_prediction(clip: Clip, probabilities: np.ndarray, va: float) -> ClipPrediction:
    """Prediction at the labelled moments of a clip, with constant valence and arousal."""
    labels = clip.labels
    assert labels is not None
    valence_arousal = np.full((len(probabilities), 2), va)
    return ClipPrediction(
        clip.id, labels.times, probabilities, valence_arousal, labels.expression, labels.valence_arousal,
        clip.subject or clip.id,
    )  # fmt: skip


def score_class_prior(data: ComparisonData) -> pl.DataFrame:
    """Score the constant prediction of the most frequent class of the training recordings."""
    labels = np.concatenate([r.clip.labels.expression for r in data.train if r.clip.labels is not None])
    most_frequent = np.eye(8)[int(np.bincount(labels[labels >= 0]).argmax())]

    def predict(recording: Recording) -> ClipPrediction:
        labels = recording.clip.labels
        assert labels is not None
        return _clip_prediction(recording.clip, np.tile(most_frequent, (len(labels.times), 1)), 0.0)

    clean = [c for c in make_conditions(data) if c.corruption == "face frames missing" and c.level == 0]
    return robustness.score_conditions(clean, data.test, {"class prior": predict})


def run(
    *, seeds: int = 3, workers: int = 2, names: Sequence[str] = (), log: Callable[[str], None] = print,
    data: ComparisonData | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Train and score systems.

    Args:
        seeds: trainings of each system.
        workers: processes.
        names: systems to train; none means all.
        log: receives one line for each training.
        data: recordings; None simulates them.

    Returns:
        One row for each system and condition: mean and t-interval over seeds (`robustness.aggregate_seeds`).

    Raises:
        ConfigError: a name is unknown.
    """
    known = (*SYSTEMS, IMAGE_SYSTEM, VA_CHAIN)
    if unknown := sorted(set(names) - set(known)):
        raise ConfigError(
            f"no system here is called {', '.join(unknown)}",
            follows="Nothing was started.",
            remedy=f"Use one of: {'; '.join(known)}.",
        )
    chosen = [n for n in known if not names or n in names]
    data = data or prepare_data(images=IMAGE_SYSTEM in chosen, workers=workers)
    log(f"{len(data.train)} training, {len(data.val)} validation and {len(data.test)} test recordings")
    jobs = [
        (name, seed, only)
        for name in chosen
        for only in (None, *((FACE, VOICE) if name in SYSTEMS and SYSTEMS[name].unimodal else ()))
        for seed in range(seeds)
    ]
    tables: dict[str, list[pl.DataFrame]] = {"class prior": [score_class_prior(data)]}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job, scores in zip(jobs, pool.map(partial(train_and_score, data=data), jobs), strict=True):
            for rows in scores.partition_by("model", maintain_order=True):
                title = rows["model"][0]
                tables.setdefault(title, []).append(rows)
                score = rows["va_score" if title in CHAIN else "macro_f1"][0]
                log(f"{title}, seed {job[1]}: {score:.3f}")
    return pl.concat([robustness.aggregate_seeds(runs) for runs in tables.values()], how="diagonal")


#: Column of the table -> corruption and label of its condition.
COLUMNS: dict[str, tuple[str, str]] = {
    "clean": ("face frames missing", "0"),
    "90 % of the face missing": ("face frames missing", "90"),
    "no face": ("face frames missing", "100"),
    "no voice": ("voice silent", "100"),
    "noise at −5 dB": ("noise in the sound", "-5"),
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown tables by system and condition: macro F1 with its interval over seeds, then mean CCC likewise."""
    parts = (
        ("macro F1", [r for r in rows if r["model"] not in CHAIN]),
        ("mean CCC", [r for r in rows if r["model"] in CHAIN]),
    )
    return "\n\n".join(_table(title, chosen) for title, chosen in parts if chosen)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"| {title} | " + " | ".join(COLUMNS) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    by_condition = {(r["model"], r["corruption"], r["label"]): r for r in rows}
    for name in dict.fromkeys(r["model"] for r in rows):
        cells = []
        for corruption, label in COLUMNS.values():
            row = by_condition.get((name, corruption, label))
            if row is None and label == "0":
                row = by_condition.get((name, "voice silent", "0"))
            cells.append("–" if row is None else _cell(row))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    score, low, high = ("va_score", "va_low", "va_high") if row["model"] in CHAIN else ("macro_f1", "low", "high")
    if row.get(low) is None:
        return f"{row[score]:.3f}".replace("0.", ".", 1)
    return f"{row[score]:.3f} ± {(row[high] - row[low]) / 2:.3f}".replace("0.", ".")


def save_rows(rows: pl.DataFrame, path: Path, *, keep_others: bool = False) -> list[dict[str, Any]]:
    """Write rows as JSON and return them as plain values, NaN as None.

    keep_others: keep the rows of other systems in an existing file, in its order.
    """
    plain = [
        {k: (None if isinstance(v, float) and not np.isfinite(v) else round(v, 5) if isinstance(v, float) else v)
         for k, v in row.items()}
        for row in rows.to_dicts()
    ]  # fmt: skip
    if keep_others and path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        updated = list(dict.fromkeys(r["model"] for r in plain))
        order = dict.fromkeys([*(r["model"] for r in before), *updated])
        merged = [*(r for r in before if r["model"] not in updated), *plain]
        plain = [r for name in order for r in merged if r["model"] == name]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
    return plain


def save_results(rows: Sequence[Mapping[str, Any]]) -> None:
    """Save the table and the clean score of each recipe with the recipes (`mien.results`)."""
    clean = {r["model"]: r for r in rows if (r["corruption"], r["label"]) == COLUMNS["clean"]}
    named = {n: s.recipe for n, s in SYSTEMS.items() if s.unimodal} | {IMAGE_SYSTEM: IMAGE_SYSTEM}
    recipes = {recipe: f"{_cell(clean[n])} macro F1" for n, recipe in named.items() if n in clean}
    results.save(
        "systems",
        command="python -m experiments systems",
        what="synthetic people, people never seen, the starter's encoders, small sizes",
        table=table(rows),
        recipes=recipes,
    )
