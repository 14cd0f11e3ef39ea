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
from mien.evaluation import calibration, calibration_fit, predictions, saved_calibration
from mien.evaluation.corrupted_media import footage_curves
from mien.evaluation.predict_clips import without_smoothing
from mien.evaluation.predictions import ClipPrediction, predict
from mien.evaluation.record import summarise
from mien.evaluation.robustness import score_conditions, stream_conditions, stream_predictor
from mien.evaluation.score_tasks import COMPOUND, check_task, with_compound_expressions
from mien.inference import InferenceSettings, StreamModel, trained_outputs
from mien.labels import UNLABELLED
from mien.records import FACE, VOICE, Labels, Recording
from mien.trained_model import attach
from mien.views import evaluation as view

#: Function `(title, unit=...)` -> context manager of a function `(done, total)` that updates the bar.
ProgressBars = Callable[..., AbstractContextManager[Callable[[int, int], None]]]
#: Split whose clips a calibration is fitted on.
CALIBRATION_SPLIT = "val"
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
    verify: bool = True,
    bars: ProgressBars = no_progress_bar,
) -> dict[str, Any]:
    """Writes `evaluation.html`, `evaluation.json` and `predictions.parquet` into `out`; returns the record.

    Args:
        checkpoint: a checkpoint or an ensemble. An ensemble is not scored under corruption.
        folder: its folder, to save the calibration in and to find its stages; None does neither.
        calibrate: choose smoothing, class bias and temperature by cross-validation over the subjects of the clips of
            `CALIBRATION_SPLIT`, which the network was not trained on; never on training clips.
        robustness: also score under corruption of stored features, next to each modality alone and to `beside`.
        footage: also corrupt video and audio before encoding. Decodes and encodes every clip for every condition.
        name, beside: name of the system, and other systems by name for the robustness curves.
        differs: differences to the publication, in words.
        verify: compare the stored features with their hashes first (`mien.datasets.stored_recordings`).

    Raises StoreError for damaged features. Raises ConfigError if no clip is labelled, the store lacks clips,
    robustness of an ensemble is asked for, or the model does not predict `task`.
    """
    single = _single(checkpoint, name, robustness or footage)
    check_task(checkpoint, task, name)
    scored = _labelled_clips(checkpoint, corpus, store, split, task, verify)
    if not scored:
        raise ConfigError(
            f"{corpus.root} has no labelled clip in the split {split!r}",
            follows="Nothing was scored.",
            remedy="Name another split with --split; `mien index` prints the splits of a corpus.",
        )
    clips = _predict_all(checkpoint, scored, split, bars)
    if task == COMPOUND:
        clips = [with_compound_expressions(clip, checkpoint.labels) for clip in clips]
    comparison, notes = None, []
    if calibrate:
        fit_on = None
        if split not in (CALIBRATION_SPLIT, "train"):
            fit_on = _labelled_clips(checkpoint, corpus, store, CALIBRATION_SPLIT, task, verify)
        comparison, reason = _compare_calibrations(checkpoint, fit_on, scored, clips, split, bars)
        notes = [f"not calibrated: {reason}"] if reason else []
    if comparison is not None and folder is not None:
        what = _describe(fit_on or scored, CALIBRATION_SPLIT)
        saved_calibration.save(comparison.fitted.calibration, folder, what)
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
        notes=notes,
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
    checkpoint: StreamModel, corpus: Index, store: Path, split: str, task: str | None, verify: bool
) -> list[Recording]:
    encoders = {modality: feature.encoder for modality, feature in checkpoint.features.items()}
    settings = checkpoint.settings
    task = task or corpus.task_of(expression=settings.expression, scores=settings.scores)
    recordings = load_recordings(corpus, store, encoders, task=task, split=split, scores=settings.scores, verify=verify)
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


def calibrated_parts(settings: InferenceSettings, *clips: Sequence[Recording]) -> tuple[bool, bool]:
    """Whether expressions, and whether valence and arousal, can be calibrated: the system predicts them, at least two
    subjects of the first clips have labels of them, and so has one of each of the others."""

    def can_be_calibrated(is_labelled: Callable[[Labels], bool]) -> bool:
        labelled = [[r.clip for r in part if r.clip.labels and is_labelled(r.clip.labels)] for part in clips]
        return len({clip.subject or clip.id for clip in labelled[0]}) > 1 and all(map(bool, labelled[1:]))

    return (
        settings.expression and can_be_calibrated(lambda labels: bool((labels.expression != UNLABELLED).any())),
        settings.valence_arousal
        and can_be_calibrated(lambda labels: bool(np.isfinite(labels.valence_arousal).all(axis=1).any())),
    )


def _compare_calibrations(
    model: Checkpoint | EnsembleModel,
    fit_on: Sequence[Recording] | None,
    scored: Sequence[Recording],
    as_predicted: Sequence[ClipPrediction],
    split: str,
    bars: ProgressBars,
) -> tuple[calibration_fit.Comparison | None, str]:
    """The comparison of calibrations, or None and the reason.

    Args:
        fit_on: the clips to fit on; None for the scored ones. as_predicted: the scored clips with the recipe's own
            smoothing.
    """
    if split == "train":
        return None, "the scored clips are training clips"
    expression, valence_arousal = calibrated_parts(model.settings, scored if fit_on is None else fit_on, scored)
    if not (expression or valence_arousal):
        return None, f"fewer than two subjects of the split {CALIBRATION_SPLIT!r} have labels that the model predicts"
    plain = without_smoothing(model)
    comparison = calibration_fit.compare(
        as_predicted if plain is model else _predict_all(plain, scored, split, bars),
        None if fit_on is None else _predict_all(plain, fit_on, CALIBRATION_SPLIT, bars),
        as_predicted=as_predicted,
        classes=model.labels,
        smoothings=with_own_smoothing(model),
        expression=expression,
        valence_arousal=valence_arousal,
    )
    return comparison, ""


def with_own_smoothing(model: Checkpoint | EnsembleModel) -> list[calibration.Smoothing]:
    """The candidates of `calibration_fit`, and the smoothing of the recipe or of the members' recipes, by width."""
    members = model.members if isinstance(model, EnsembleModel) else (model,)
    added = set()
    for settings in (member.settings for member in members):
        widths = settings.smooth_s.values() if isinstance(settings.smooth_s, Mapping) else (settings.smooth_s,)
        added |= {calibration.Smoothing(settings.kernel, width) for width in widths if width > 0}
    return sorted(dict.fromkeys([*calibration_fit.SMOOTHINGS, *sorted(added, key=str)]), key=lambda s: s.seconds)


def _describe(clips: Sequence[Recording], split: str) -> str:
    """What a calibration was fitted on."""
    return f"{len(clips)} clips of {len({r.clip.subject or r.clip.id for r in clips})} subjects, split {split}"


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
