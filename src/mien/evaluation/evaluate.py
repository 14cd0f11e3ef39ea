"""Evaluation run: score a checkpoint on an indexed corpus with stored features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mien.checkpoint import Checkpoint
from mien.datasets.index import Index
from mien.datasets.stored_recordings import load_recordings
from mien.ensemble import EnsembleModel
from mien.errors import ConfigError
from mien.evaluation import calibration, predictions
from mien.evaluation.corrupted_media import footage_curves
from mien.evaluation.predict_clips import without_smoothing
from mien.evaluation.predictions import ClipPrediction, predict
from mien.evaluation.record import summarise
from mien.evaluation.robustness import score_conditions, stream_conditions, stream_predictor
from mien.evaluation.score_tasks import COMPOUND, check_task, with_compound_expressions
from mien.inference import StreamModel, trained_outputs
from mien.labels import UNLABELLED
from mien.records import FACE, VOICE, Labels, Recording
from mien.trained_model import attach
from mien.views import evaluation as view

#: Function `(title, unit=...)` -> context manager of a function `(done, total)` that updates the bar.
ProgressBars = Callable[..., AbstractContextManager[Callable[[int, int], None]]]
PAGE, RECORD, FRAMES = "evaluation.html", "evaluation.json", "predictions.parquet"


@contextmanager
def no_progress_bar(title: str, *, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Progress bar that shows nothing."""
    yield lambda done, total: None


def evaluate(
    checkpoint: Checkpoint | EnsembleModel,
    corpus: Index,
    store: Path,
    out: Path,
    *,
    name: str,
    folder: Path | None = None,
    split: str = "val",
    task: str | None = None,
    calibrate: bool = True,
    robustness: bool = False,
    footage: bool = False,
    beside: Mapping[str, Checkpoint] | None = None,
    differs: Sequence[str] = (),
    bars: ProgressBars = no_progress_bar,
) -> dict[str, Any]:
    """Writes `evaluation.html`, `evaluation.json` and `predictions.parquet` into `out`; returns the record.

    Args:
        checkpoint: a checkpoint or an ensemble. An ensemble is neither calibrated nor scored under corruption.
        folder: folder of the checkpoint, to save the calibration in and to find its stages; None does neither.
        calibrate: choose smoothing, class bias and temperature by cross-validation on the training clips.
        robustness: also score under corruption of stored features, next to each modality alone and to `beside`.
        footage: also corrupt video and audio before encoding. Decodes and encodes every clip for every condition.
        name, beside: name of the system, and other systems by name for the robustness curves.
        differs: differences to the publication, in words.

    Raises ConfigError if no clip is labelled, the store lacks clips, robustness of an ensemble is asked for, or the
    model does not predict `task`.
    """
    single = _single(checkpoint, name, robustness or footage)
    check_task(checkpoint, task, name)
    scored = _labelled_clips(checkpoint, corpus, store, split, task)
    if not scored:
        raise ConfigError(
            f"{corpus.root} has no labelled clip in the split {split!r}",
            follows="Nothing was scored.",
            remedy="Name another split with --split; `mien index` prints the splits of a corpus.",
        )
    clips = _predict_all(checkpoint, scored, split, bars)
    if task == COMPOUND:
        clips = [with_compound_expressions(clip, checkpoint.labels) for clip in clips]
    train = _labelled_clips(single, corpus, store, "train", task) if single and calibrate and split != "train" else []
    comparison = _compare_calibrations(single, train, scored, split, bars) if single else None
    if comparison is not None and folder is not None:
        comparison.fitted.calibration.save(folder / calibration.FILE_NAME)
    measured = single if robustness or footage else None
    curves = None
    if measured:
        curves = _robustness_curves(measured, scored, beside or {}, robustness, footage, bars, folder)
    record = summarise(
        clips,
        name=name,
        classes=checkpoint.labels,
        split=split,
        comparison=comparison,
        curves=curves,
        reported=single.recipe.paper.reported if single else {},
        differs=differs,
        expression=checkpoint.settings.expression,
        valence_arousal=checkpoint.settings.valence_arousal,
    )
    view.write_page(out / PAGE, record)
    predictions.save(out / FRAMES, clips, checkpoint.labels)
    return record


def _single(checkpoint: Checkpoint | EnsembleModel, name: str, corrupted: bool) -> Checkpoint | None:
    """The checkpoint, None for an ensemble. Raises ConfigError for an ensemble to be scored under corruption."""
    if isinstance(checkpoint, Checkpoint):
        if checkpoint.model.input_kind == "images":
            raise ConfigError(
                f"{name} classifies single face images, and recordings are scored from streams of features",
                follows="Nothing was scored.",
                remedy="Predict recordings with `mien predict --model`, or use it as a face encoder: `mien extract`.",
            )
        return checkpoint
    if corrupted:
        raise ConfigError(
            f"{name} is an ensemble, whose members may read the same stream under several names",
            follows="Nothing was scored: robustness is measured for a single checkpoint.",
            remedy="Omit --robustness and --footage, or evaluate a member.",
        )
    return None


def _labelled_clips(
    checkpoint: StreamModel, corpus: Index, store: Path, split: str, task: str | None
) -> list[Recording]:
    encoders = {modality: feature.encoder for modality, feature in checkpoint.features.items()}
    settings = checkpoint.settings
    task = task or corpus.task_of(expression=settings.expression, scores=settings.scores)
    recordings = load_recordings(corpus, store, encoders, task=task, split=split, scores=settings.scores)
    return [r for r in recordings if r.clip.labels is not None]


def _predict_all(
    checkpoint: StreamModel, clips: Sequence[Recording], split: str, bars: ProgressBars
) -> list[ClipPrediction]:
    with bars(f"predicting {split}", unit="clips") as bar:
        predicted = []
        for number, recording in enumerate(clips, 1):
            predicted.append(predict(partial(trained_outputs, checkpoint), recording))
            bar(number, len(clips))
    return predicted


def _calibrated_parts(
    checkpoint: Checkpoint, train: Sequence[Recording], scored: Sequence[Recording]
) -> tuple[bool, bool]:
    """Whether expressions, and whether valence and arousal, can be calibrated: the system predicts them, at least two
    training subjects have labels of them, and so has a scored clip."""

    def can_be_calibrated(is_labelled: Callable[[Labels], bool]) -> bool:
        labelled = [[r.clip for r in part if r.clip.labels and is_labelled(r.clip.labels)] for part in (train, scored)]
        return len({clip.subject or clip.id for clip in labelled[0]}) > 1 and bool(labelled[1])

    settings = checkpoint.settings
    return (
        settings.expression and can_be_calibrated(lambda labels: bool((labels.expression != UNLABELLED).any())),
        settings.valence_arousal
        and can_be_calibrated(lambda labels: bool(np.isfinite(labels.valence_arousal).all(axis=1).any())),
    )


def _compare_calibrations(
    checkpoint: Checkpoint,
    train: Sequence[Recording],
    scored: Sequence[Recording],
    split: str,
    bars: ProgressBars,
) -> calibration.Comparison | None:
    """The comparison of calibrations, or None if nothing can be calibrated, see `_calibrated_parts`."""
    expression, valence_arousal = _calibrated_parts(checkpoint, train, scored)
    if not (expression or valence_arousal):
        return None
    plain = without_smoothing(checkpoint)
    train_clips = _predict_all(plain, train, "train", bars)
    scored_clips = _predict_all(plain, scored, split, bars)
    return calibration.compare(
        train_clips,
        scored_clips,
        classes=checkpoint.labels,
        expression=expression,
        valence_arousal=valence_arousal,
    )


def _robustness_curves(
    checkpoint: Checkpoint,
    scored: Sequence[Recording],
    beside: Mapping[str, Checkpoint],
    robustness: bool,
    footage: bool,
    bars: ProgressBars,
    folder: Path | None,
) -> pl.DataFrame:
    modalities = [m for m in (FACE, VOICE) if m in checkpoint.recipe.features]
    alone = {f"{m} alone": m for m in modalities} if len(modalities) > 1 else {}
    checkpoints = {"fused": checkpoint, **dict.fromkeys(alone, checkpoint), **beside}
    systems = {
        name: stream_predictor(partial(trained_outputs, system), *([alone[name]] if name in alone else []))
        for name, system in checkpoints.items()
    }
    classes = checkpoint.labels
    no_expression = [name for name, c in checkpoints.items() if not c.settings.expression]
    no_affect = [name for name, c in checkpoints.items() if not c.settings.valence_arousal]
    curves = []
    if robustness:
        with bars("robustness", unit="conditions") as bar:
            curves.append(
                score_conditions(
                    stream_conditions(),
                    scored,
                    systems,
                    classes=classes,
                    without_expression=no_expression,
                    without_valence_arousal=no_affect,
                    progress=bar,
                )
            )
    if footage:
        with bars("robustness of footage", unit="conditions") as bar:
            curves.append(
                footage_curves(
                    attach(checkpoint, folder) if folder is not None else checkpoint,
                    [r.clip for r in scored],
                    systems,
                    without_expression=no_expression,
                    without_valence_arousal=no_affect,
                    progress=bar,
                )
            )
    return pl.concat(curves)
