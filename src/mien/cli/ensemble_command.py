"""`mien ensemble`: make one model of several checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mien.cli import console
from mien.cli.options import (
    DeviceOption,
    JsonOption,
    OptionalIndexOption,
    OptionalStoreOption,
    RootOption,
    TaskOption,
    WeightsOption,
)
from mien.errors import ConfigError

if TYPE_CHECKING:
    from mien.ensemble import EnsembleModel
    from mien.evaluation.ensemble_weights import FittedWeights


def ensemble(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of trained checkpoints, two or more.")],
    out: Annotated[Path, typer.Option(metavar="OUT", help="Folder for the ensemble.")],
    weights: WeightsOption = None,
    index: OptionalIndexOption = None,
    store: OptionalStoreOption = None,
    split: Annotated[str, typer.Option(help="The split on whose clips weights are fitted.")] = "val",
    task: TaskOption = None,
    root: RootOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Make one model of several checkpoints.

    Copies the checkpoints into OUT/members and writes OUT/ensemble.json. mien predict and submit take the folder like a
    checkpoint; they average the probabilities, and valence and arousal, of the members.

    The weights are equal, those of --weights, or fitted: with --index and --store, 2,000 random weights and equal ones
    are scored on the labelled clips of --split, and the best are kept. The score on those clips is optimistic.

    \b
    Examples:
      mien ensemble runs/face runs/voice --out runs/both
      mien ensemble runs/a runs/b --weights 0.7,0.3 --out runs/ab
      mien ensemble runs/a runs/b --index index.jsonl --store features --out runs/ab
    """
    from mien.ensemble import check_weights, parse_weights

    given = parse_weights(weights)
    _check_options(runs, given is not None, index, store)
    if given is not None:
        given = check_weights(given, len(runs))
    from mien import checkpoint, ensemble_folder
    from mien.ensemble import EnsembleModel
    from mien.evaluation.load_model import load_model

    model = load_model(runs, checkpoint.torch_device(device), given)
    assert isinstance(model, EnsembleModel)
    fitted, fitted_on = None, ""
    if index is not None and store is not None:
        fitted = _fit(model, index, store, split, task, root, as_json)
        fitted_on = f"{fitted.clips} clips of the split {split}"
    chosen = fitted.weights if fitted else list(model.weights)
    scores = {}
    if fitted:
        rows = {"": fitted.score, "_equal_weights": fitted.equal_score, "_cross_validated": fitted.held_out}
        scores = {f"{fitted.measure}{name}": value for name, value in rows.items() if not math.isnan(value)}
    ensemble_folder.write(out, runs, chosen, fitted_on=fitted_on, scores=scores)
    if as_json:
        members = [{"run": str(run), "weight": weight} for run, weight in zip(runs, chosen, strict=True)]
        print(
            json.dumps({"ensemble": str(out), "members": members, "fitted_on": fitted_on, "scores": scores}, indent=2)
        )
        return
    screen = console.stdout()
    for run, weight in zip(runs, chosen, strict=True):
        screen.print(f"  {weight:.3f}  {run}", markup=False)
    if fitted:
        name = {"macro_f1": "macro F1", "va_score": "mean CCC"}[fitted.measure]
        screen.print(f"  {name} on {fitted_on}: {fitted.score:.3f}; with equal weights {fitted.equal_score:.3f}")
        if not math.isnan(fitted.held_out):
            screen.print(f"  each subject with weights chosen on the others: {fitted.held_out:.3f}")
    screen.print(f"\npredict  mien predict clip.mp4 --model {out}", markup=False)


def _check_options(runs: list[Path], has_weights: bool, index: Path | None, store: Path | None) -> None:
    if len(runs) < 2:
        raise ConfigError(
            f"an ensemble needs two checkpoints or more, got {len(runs)}",
            follows="Nothing was written.",
            remedy="Name all of them: mien ensemble RUN RUN --out DIR.",
        )
    if (index is None) != (store is None):
        raise ConfigError(
            f"{'--store' if store is None else '--index'} is missing: --index names the clips, --store their features",
            follows="Nothing was written.",
            remedy="Give both to fit the weights, or neither.",
        )
    if has_weights and index is not None:
        raise ConfigError(
            "--weights gives the weights, and --index with --store would fit them",
            follows="Nothing was written.",
            remedy="Omit one of the two.",
        )


def _fit(
    model: EnsembleModel, index: Path, store: Path, split: str, task: str | None, root: Path | None, quiet: bool
) -> FittedWeights:
    """The weights with the best score on the labelled clips of a split."""
    from mien.datasets.index import Index
    from mien.datasets.stored_recordings import load_recordings
    from mien.evaluation.ensemble_weights import fit_weights, predict_members
    from mien.labels import SCORE_TASKS

    encoders = {name: feature.encoder for name, feature in model.features.items()}
    corpus = Index.load(index, root)
    if task in SCORE_TASKS:
        raise ConfigError(
            f"--task {task}: weights are fitted to expressions, or to valence and arousal",
            follows="No weights were fitted, and nothing was written.",
            remedy="Fit them with --task expr or va, or give them with --weights.",
        )
    task = task or corpus.task_of(expression=model.settings.expression)
    recordings = load_recordings(corpus, store, encoders, task=task, split=split)
    labelled = [r for r in recordings if r.clip.labels is not None]
    if not labelled:
        raise ConfigError(
            f"{index} has no labelled clip in the split {split!r}",
            follows="No weights were fitted, and nothing was written.",
            remedy="Name another split with --split, or give the weights with --weights.",
        )
    with console.progress("predicting clips", quiet=quiet, unit="clips") as bar:
        members = predict_members(model, labelled, progress=lambda done: bar(done, len(labelled)))
    return fit_weights(members)
