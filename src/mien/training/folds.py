"""Cross-validation: one training per fold, an evaluation of the held-out clips, and the folds as an ensemble.

OUT/folds.json               the recipe, and for each clip its fold and the folds whose epoch it selects
OUT/fold-1 ... OUT/fold-K    a checkpoint each; its fold was held out from training and from choosing the epoch
OUT/report/                  evaluation.html, evaluation.json and predictions.parquet of all held-out clips
OUT/ensemble.json            the folds as one model (`mien.ensemble_folder`)
OUT/calibration.json         smoothing, class bias and temperature, fitted on the predictions of the held-out clips
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mien import checkpoint, config, ensemble_folder
from mien.atomic import check_folder, write_bytes
from mien.config import Recipe
from mien.errors import ConfigError
from mien.evaluation import calibration_fit, predictions, saved_calibration
from mien.evaluation.evaluate import FRAMES, PAGE, calibrated_parts, with_own_smoothing
from mien.evaluation.predict_clips import without_smoothing
from mien.evaluation.predictions import ClipPrediction, predict
from mien.evaluation.record import summarise
from mien.inference import trained_outputs
from mien.records import Recording
from mien.training.fit import fit
from mien.views import evaluation as view

FOLDS = "folds.json"
#: Name of the split of held-out clips in the report.
SPLIT = "out-of-fold"
#: One part in so many of a fold's training clips selects its epoch, by subject. Our choice: as large as a fold of 5.
SELECTION_PARTS = 5
#: Called as `progress(fold, folds, text)` when a fold begins, with folds counted from 1.
FoldCallback = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Fold:
    """Indices of recordings: train; select, which chooses the epoch; held_out, which the training never sees."""

    train: list[int]
    select: list[int]
    held_out: list[int]


def split_folds(groups: Sequence[str], classes: Sequence[int], folds: int, *, seed: int = 0) -> list[Fold]:
    """Divide clips into folds by group, with similar numbers of clips and of each class.

    Source: scikit-learn's StratifiedGroupKFold; where it leaves a fold empty or a class is too rare, GroupKFold,
    which balances the numbers of clips only. Of each fold's training clips, one fifth (by group, divided in the same
    way) selects the epoch; where a single group is left to train on, none does, and the last epoch is kept.

    Args:
        groups: of each clip, its subject. classes: of each clip, the most frequent class, -1 without.

    Raises ConfigError for fewer than two folds, or fewer groups than folds.
    """
    count = len(set(groups))
    if folds < 2 or count < folds:
        reason = "at least 2 are needed" if folds < 2 else f"the clips are of {count} subjects"
        raise ConfigError(
            f"--folds {folds}: {reason}",
            follows="Nothing was trained: the clips of one subject stay in one fold.",
            remedy=f"Use --folds 2 to {count}." if count > 1 else "Index recordings of several subjects.",
        )
    fold_of = _assign(groups, classes, folds, seed)
    result = []
    for number in range(folds):
        rest = np.flatnonzero(fold_of != number).tolist()
        inner_groups = [groups[i] for i in rest]
        parts = min(SELECTION_PARTS, len(set(inner_groups)))
        selects = np.zeros(len(rest), bool)
        if parts > 1:
            selects = _assign(inner_groups, [classes[i] for i in rest], parts, seed + 1 + number) == 0
        held_out = np.flatnonzero(fold_of == number).tolist()
        train, select = ([i for i, s in zip(rest, selects, strict=True) if s == side] for side in (False, True))
        result.append(Fold(train, select, held_out))
    return result


def _assign(groups: Sequence[str], classes: Sequence[int], folds: int, seed: int) -> np.ndarray:
    """Fold of each clip, `(clip,)` from 0; no fold is empty."""
    import warnings

    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    empty = np.zeros((len(groups), 1))
    out = np.full(len(groups), -1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of classes with fewer clips than folds
            splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
            for number, (_, held_out) in enumerate(splitter.split(empty, classes, groups)):
                out[held_out] = number
    except ValueError:  # every class has fewer clips than there are folds
        out[:] = -1
    if len(set(out.tolist()) - {-1}) == folds:
        return out
    for number, (_, held_out) in enumerate(GroupKFold(folds).split(empty, classes, groups)):
        out[held_out] = number
    return out


def fit_folds(
    recipe: Recipe,
    recordings: Sequence[Recording],
    out: Path,
    folds: int,
    *,
    name: str = "",
    resume: bool = False,
    device: str = "auto",
    stages: Mapping[str, Path] | None = None,
    progress: FoldCallback = lambda fold, folds, text: None,
) -> dict[str, Any]:
    """Train one checkpoint per fold, score the held-out clips, and make `out` an ensemble of the folds.

    Args:
        recordings: the clips to divide; those without labels are left out.
        folds: their number. The division is drawn from `train.seed` of the recipe.
        stages: as in `mien.training.fit.fit`.
        name: of the system on the report. resume: go on with the folds in `out`; finished ones are kept.

    Returns the evaluation record of the held-out clips (`mien.evaluation.record.summarise`).

    Raises:
        ConfigError: too few subjects, folds in `out` that were not to be resumed or are of another recipe or division,
            or as `mien.training.fit.fit` does.
        OutputError: a file cannot be written.
    """
    clips = [r for r in recordings if r.clip.labels is not None]
    groups = [r.clip.subject or r.clip.id for r in clips]
    parts = split_folds(groups, [_main_class(r) for r in clips], folds, seed=recipe.train.seed)
    ids = [r.clip.id for r in clips]
    _check_unfinished(out, _describe(recipe, parts, ids), resume)
    predicted: list[ClipPrediction] = []
    unsmoothed: list[ClipPrediction] = []
    runs = [out / f"fold-{number}" for number in range(1, folds + 1)]
    for number, (run, part) in enumerate(zip(runs, parts, strict=True), 1):
        sizes = (
            f"{len(part.train)} clips to train on, {len(part.select)} select the epoch, {len(part.held_out)} held out"
        )
        progress(number, folds, sizes)
        train, select = ([clips[i] for i in indices] for indices in (part.train, part.select))
        fit(recipe, train, select, run, resume, device=device, stages=stages)
        trained = checkpoint.load(run, checkpoint.torch_device(device))
        held_out = [clips[i] for i in part.held_out]
        smoothed = [predict(partial(trained_outputs, trained), clip) for clip in held_out]
        plain = without_smoothing(trained)
        predicted += smoothed
        if plain is trained:
            unsmoothed += smoothed
        else:
            unsmoothed += [predict(partial(trained_outputs, plain), clip) for clip in held_out]
    position = {clip: i for i, clip in enumerate(ids)}
    predicted.sort(key=lambda p: position[p.id])
    unsmoothed.sort(key=lambda p: position[p.id])
    expression, valence_arousal = calibrated_parts(trained.settings, clips)
    comparison = None
    if expression or valence_arousal:
        comparison = calibration_fit.compare(
            unsmoothed, as_predicted=predicted, classes=recipe.corpus.labels, expression=expression,
            valence_arousal=valence_arousal, smoothings=with_own_smoothing(trained), seed=recipe.train.seed,
        )  # fmt: skip
    record = summarise(
        predicted,
        name=name or recipe.model.name,
        classes=recipe.corpus.labels,
        split=SPLIT,
        comparison=comparison,
        expression=trained.settings.expression,
        valence_arousal=trained.settings.valence_arousal,
        notes=[
            f"{folds} folds by subject: each clip is predicted by the one network that was not trained on its subject",
            "the epoch of each fold was chosen on one fifth of its training clips, by subject",
        ],
    )
    report = out / "report"
    check_folder(report)
    view.write_page(report / PAGE, record)
    predictions.save(report / FRAMES, predicted, recipe.corpus.labels)
    scores = {f"{SPLIT} {score['key']}": score["value"] for score in record["scores"]}
    ensemble_folder.write(out, runs, scores=scores)
    if comparison is not None:
        what = f"{len(clips)} clips, each predicted by the fold that was not trained on its subject"
        saved_calibration.save(comparison.fitted.calibration, out, what)
    return record


def _main_class(recording: Recording) -> int:
    """The most frequent class among the labels of a clip; -1 without expression labels."""
    assert recording.clip.labels is not None
    labelled = recording.clip.labels.expression[recording.clip.labels.expression >= 0]
    return int(np.bincount(labelled).argmax()) if len(labelled) else -1


def _describe(recipe: Recipe, parts: Sequence[Fold], ids: Sequence[str]) -> dict[str, Any]:
    """The content of folds.json."""
    fold_of = {ids[i]: number for number, part in enumerate(parts, 1) for i in part.held_out}
    selects: dict[str, list[int]] = {clip: [] for clip in ids}
    for number, part in enumerate(parts, 1):
        for i in part.select:
            selects[ids[i]].append(number)
    division = {clip: {"fold": fold_of[clip], "selects": selects[clip]} for clip in ids}
    return {"recipe": config.dump(recipe), "folds": len(parts), "clips": division}


def _check_unfinished(out: Path, now: dict[str, Any], resume: bool) -> None:
    """Write folds.json, or compare it with that of the folds to resume. Raises ConfigError where they differ."""
    path = out / FOLDS
    if not path.exists():
        check_folder(out)
        if (out / checkpoint.ABOUT).exists():
            raise ConfigError(
                f"{out} is a checkpoint",
                follows="Nothing was trained.",
                remedy="Give another folder with --out.",
            )
        write_bytes(path, (json.dumps(now, indent=1) + "\n").encode())
        return
    if not resume:
        raise ConfigError(
            f"{out} holds the folds of a training",
            follows="Nothing was trained, so that they are not lost.",
            remedy=f"Resume it with --resume {out}, choose another folder, or delete this one.",
        )
    was = checkpoint.read_json(path)
    if was.get("recipe") != now["recipe"]:
        raise config.refusal(f"resuming {out}", config.differences(str(was.get("recipe", "")), now["recipe"]))
    if was != now:
        raise ConfigError(
            f"resuming {out}: the clips are now divided in another way ({len(now['clips'])} clips in {now['folds']} "
            f"folds; they were {len(was.get('clips', {}))} in {was.get('folds')})",
            follows="Nothing was trained: a fold would be scored on clips that it was trained on.",
            remedy="Resume with the same index, store, task and --folds, or start again in another folder.",
        )
