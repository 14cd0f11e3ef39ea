"""Comparison of all systems on the same synthetic recordings (`python -m experiments systems`).

What is equal for all systems over streams: the recordings, the encoders of the starter, the augmentation (each
training recording also with the face hidden in bursts or noisy, and with the voice hidden in bursts, absent or noisy),
the number of optimiser steps, and the choice of the epoch by validation macro F1. So only the architectures differ.
Modality dropout inside the network comes in addition where a paper has it; what is ours stands in a row of its own.
Systems are scored on people that no training recording shows, with and without corruption. The same system trained on
each modality alone and the class prior are the references. Intervals hold for other seeds and other people
(`system_tables.with_people`).

Two systems differ. `dynamic_threshold` classifies images: it is trained on faces of the same recordings, 40 of each
class labelled and the rest unlabelled, and predicts each moment from the face alone. Valence and arousal are predicted
by a chain of stages (`experiments.valence_arousal`), scored by the mean of two CCCs, in a table and a plot of their
own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from experiments import few_labels, valence_arousal
from experiments.system_tables import CHAIN, COLUMNS, VA_FUSIONS, cell, table, with_people
from experiments.test_recordings import TEST_SECONDS, TEST_SEED, simulate_test_recordings
from mien import checkpoint, config, models, results
from mien.data import WindowDataset
from mien.datasets.image_datasets import sample_per_class
from mien.errors import ConfigError
from mien.evaluation import robustness
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.robustness import Condition, add_feature_noise, drop_samples, no_corruption, stream_predictor
from mien.labels import EXPRESSIONS
from mien.records import FACE, VOICE, Clip, ImageSet, Recording
from mien.synthetic.face_images import concatenate, crop_faces
from mien.synthetic.recordings import map_in_processes, simulate_recordings
from mien.synthetic.scenario import draw_scenario, seeded_rng
from mien.training.fit import fit
from mien.training.semi_supervised import as_tensor

#: Settings shared by all systems over streams: optimiser steps, windows a step, seconds of a training recording, and
#: overrides; one thread per training.
TRAIN_STEPS, BATCH = 900, 32
TRAIN_SECONDS = 15.0
_SHARED = (
    "train.patience=0",
    "train.threads=1",
    f"train.batch={BATCH}",
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


_PUBLISHED_DROPOUT = ("model.modality_dropout={whole: {face: 0.1, voice: 0.0}, bursts: {}, noise: {}}",)
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
    # at the size of recipes/custom_data.yaml; modality dropout as published: the face of one window in ten
    "safe_cross_attention": System("custom_data", _PUBLISHED_DROPOUT),
    "safe_cross_attention, attention not safe": System(
        "custom_data", (*_PUBLISHED_DROPOUT, "model.attention=naive"), False
    ),
    "safe_cross_attention, no modality dropout": System(
        "custom_data", ("model.modality_dropout={whole: {}, bursts: {}, noise: {}}",), False, plotted=False
    ),
    # our modality dropout: both modalities, in bursts, with noise
    "safe_cross_attention, dropout of ours": System("custom_data", (), False),
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


def prepare_data(*, train: int = 80, val: int = 40, images: bool = True, workers: int = 1) -> ComparisonData:
    """Simulate `train` training, `val` validation and all test recordings. images: also crop faces."""
    simulate = partial(simulate_recordings, seconds=TRAIN_SECONDS, seed=TEST_SEED, balance=0.5, workers=workers)
    noisy = {snr: simulate_test_recordings(snr_db=snr, workers=workers) for snr in SNR_DB}
    test = simulate_test_recordings(workers=workers)
    data = ComparisonData(augment(simulate("train", train)), simulate("val", val), test, noisy)
    if images:
        jobs = [("train", n, TRAIN_SECONDS, True, TRAIN_HZ) for n in range(train)]
        data.train_faces = concatenate([faces for _, faces, _ in map_in_processes(_crop_faces, jobs, workers)])
        jobs = [("test", n, TEST_SECONDS, False, TEST_HZ) for n in range(len(test))]
        data.test_faces = {name: (faces, times) for name, faces, times in map_in_processes(_crop_faces, jobs, workers)}
    return data


def augment(recordings: Sequence[Recording]) -> list[Recording]:
    """The recordings, and each of them twice more: once with its face hidden in bursts or noisy, once with its voice
    hidden in bursts, absent or noisy. Bursts hide half of the samples; noise has one standard deviation."""
    impairments: dict[str, list[Callable[[Recording, np.random.Generator], Recording]]] = {
        FACE: [drop_samples(FACE, 0.5), add_feature_noise(FACE, 1.0)],
        VOICE: [drop_samples(VOICE, 0.5), drop_samples(VOICE, 1.0), add_feature_noise(VOICE, 1.0)],
    }
    made = list(recordings)
    for number, recording in enumerate(recordings):
        rng = seeded_rng(number, "augment")
        for modality, choices in impairments.items():
            changed = choices[int(rng.integers(len(choices)))](recording, rng)
            made.append(replace(changed, clip=replace(changed.clip, id=f"{recording.clip.id} {modality}")))
    return made


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


def with_steps(recipe: config.Recipe, train: Sequence[Recording], steps: int = TRAIN_STEPS) -> config.Recipe:
    """The recipe with as many epochs as take `steps` optimiser steps, rounded up."""
    windows = len(WindowDataset(train, recipe.windows, modalities=list(recipe.inputs), labelled=True))
    return config.changed(recipe, train={"epochs": max(1, -(-steps // -(-windows // recipe.train.batch)))})


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
    recipe = with_steps(make_recipe(SYSTEMS[name], seed, only), data.train)
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
        One row for each system and condition, see `system_tables.with_people`.

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
    return pl.concat([with_people(runs) for runs in tables.values()], how="diagonal")


def save_results(rows: Sequence[Mapping[str, Any]]) -> None:
    """Save the table and the clean score of each recipe with the recipes (`mien.results`)."""
    clean = {r["model"]: r for r in rows if (r["corruption"], r["label"]) == COLUMNS["clean"]}
    named = {n: s.recipe for n, s in SYSTEMS.items() if s.unimodal} | {IMAGE_SYSTEM: IMAGE_SYSTEM}
    recipes = {recipe: f"{cell(clean[n])} macro F1" for n, recipe in named.items() if n in clean}
    results.save(
        "systems",
        command="python -m experiments systems",
        what="synthetic people, people never seen, the starter's encoders, small sizes",
        table=table(rows),
        recipes=recipes,
    )
