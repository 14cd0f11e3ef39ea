"""Reproduce a published system by its recipe: index, extract, train, evaluate (`mien reproduce`).

    OUT/index.jsonl   the clips of the corpus, and the problems found in it
    OUT/features/     the features of the recipe's encoders
    OUT/run/          the checkpoint, with its stages in run/stages
    OUT/report/       the evaluation, with the published results beside the measured ones
    OUT/steps.json    the settings of the folder

An interrupted run resumes: the index is kept, extraction computes what is missing, training continues after the last
finished epoch, and the report is written once. A folder of another recipe or corpus is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien import checkpoint, config, models
from mien.atomic import write_bytes
from mien.config import Recipe
from mien.datasets.index import Index, build_index, recipe_options
from mien.errors import ConfigError
from mien.evaluation.evaluate import PAGE, RECORD, ProgressBars, evaluate, no_progress_bar
from mien.training.fit import fit
from mien.training.stages import ChainSettings, ExtractionProgressBar, extract_features, labelled, stage_recipes

INDEX, STEPS = "index.jsonl", "steps.json"


@dataclass(frozen=True, slots=True)
class Reproduction:
    """The result of `reproduce`.

    Attributes:
        record: the evaluation's scores and figures (`mien.evaluation.record`).
        page: path of the HTML report.
        run: folder of the checkpoint.
        failed: number of clips that could not be read; features/failures.jsonl gives the reasons.
    """

    record: Mapping[str, Any]
    page: Path
    run: Path
    failed: int


def reproduce(
    recipe: Recipe,
    root: Path,
    out: Path,
    *,
    corpus: str | None = None,
    table: Path | None = None,
    task: str | None = None,
    faces: str | None = None,
    stages: Mapping[str, Path] | None = None,
    workers: int = 1,
    device: str = "auto",
    robustness: bool = False,
    on_step: Callable[[str], None] = print,
    bars: ProgressBars = no_progress_bar,
    extraction_progress: ExtractionProgressBar = nullcontext,
) -> Reproduction:
    """Index a corpus, extract features, train and evaluate by a recipe.

    Args:
        root: folder of the corpus.
        out: folder of all results.
        corpus: name of the corpus (`mien index`); by default the recipe's.
        table: CSV of labels, for the corpus `folder`.
        task: one of `mien.labels.TASKS`, which selects labels and splits; by default what the system predicts.
        faces: `video` or `crops` (`mien extract`); by default the recipe's.
        stages: encoder name -> trained stage; other stages of the recipe are trained on the corpus first.
        workers: processes that extract features.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        robustness: also score with missing, noisy and delayed streams.
        on_step: called with one line when a step starts.
        bars, extraction_progress: open progress bars; by default there are none.

    Raises:
        ConfigError: `out` holds another recipe or corpus, the classes differ from the recipe's, or no labelled clip of
            the split "train" could be read.
    """
    models.check_task(recipe, task)
    corpus = corpus or recipe.corpus.name
    faces = faces or str(recipe.corpus.options.get("face_source", "video"))
    parts = {"recipe": config.dump(recipe), "corpus": f"{corpus} in {Path(root).resolve()}", "faces": faces}
    parts |= {f"stage {name}": config.dump(stage) for name, stage in stage_recipes(recipe).items()}
    _check_settings(out, parts)
    on_step(f"1/4 index: {corpus} in {root}")
    index = _load_or_build_index(corpus, root, out, table, recipe_options(corpus, recipe.corpus.options), bars)
    recipe = _with_classes(recipe, index)
    store = out / "features"
    settings = ChainSettings(
        index, store, stages or {}, task, faces, workers, device, lambda line: on_step(f"2/4 {line}"),
        extraction_progress,
    )  # fmt: skip
    failures, folders = extract_features(recipe, out / "run", settings)
    if failures:
        on_step(f"    {len(failures)} failed and are left out, such as {failures[0]}")
    train, val = (labelled(recipe, settings, split) for split in ("train", "val"))
    if not train:
        raise ConfigError(
            f"no labelled clip of the split 'train' of {corpus} in {root} could be read",
            follows="Nothing was trained.",
            remedy=f"See {out / INDEX} for the problems of the corpus and {store}/failures.jsonl for unreadable clips.",
        )
    on_step(f"3/4 train: {recipe.model.name} on {len(train)} clips; {len(val)} clips select the epoch")
    run = fit(recipe, train, val, out / "run", resume=True, device=device, stages=folders)
    on_step("4/4 evaluate")
    record = _evaluate(run, index, out, recipe, task, device, robustness, bars)
    return Reproduction(record, out / "report" / PAGE, run, len(failures))


def _check_settings(out: Path, settings: Mapping[str, str]) -> None:
    """Store the settings in a new folder; raise ConfigError if the folder has other settings."""
    path = out / STEPS
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps(dict(settings), indent=1).encode())
        return
    stored = checkpoint.read_json(path)
    changed = [name for name, value in settings.items() if stored.get(name) != value]
    if changed:
        lines = config.differences(stored["recipe"], settings["recipe"]) if "recipe" in changed else []
        raise ConfigError(
            f"{out} was started with another {' and another '.join(changed)}" + "".join(f"; {ln}" for ln in lines[:3]),
            follows="Nothing in it was changed.",
            remedy="Use another --out, or the settings it was started with.",
        )


def _load_or_build_index(
    corpus: str, root: Path, out: Path, table: Path | None, options: Mapping[str, str], bars: ProgressBars
) -> Index:
    path = out / INDEX
    if not path.exists():
        with bars("indexing recordings", unit="recordings") as bar:
            build_index(corpus, root, table=table, options=options, progress=bar).save(path)
    return Index.load(path)


def _with_classes(recipe: Recipe, index: Index) -> Recipe:
    """The recipe with the classes of a label table; raise ConfigError if another corpus has other classes."""
    if recipe.corpus.name == "folder":
        return config.changed(recipe, corpus={"labels": list(index.classes)})
    if index.classes != tuple(recipe.corpus.labels):
        raise ConfigError(
            f"the corpus has the classes {', '.join(index.classes)}; the recipe has {', '.join(recipe.corpus.labels)}",
            follows="Nothing was trained.",
            remedy="Set corpus.labels to the corpus's classes, in its order.",
        )
    return recipe


def _evaluate(
    run: Path,
    index: Index,
    out: Path,
    recipe: Recipe,
    task: str | None,
    device: str,
    robustness: bool,
    bars: ProgressBars,
) -> dict[str, Any]:
    """The evaluation's record; the stored one if neither weights nor options changed."""
    weights = checkpoint.weights_digest(run)
    stamp_path, record_path = out / "report" / "stamp.json", out / "report" / RECORD
    stamp = json.dumps({"weights": weights, "robustness": robustness, "task": task})
    if stamp_path.exists() and record_path.exists() and stamp_path.read_bytes() == stamp.encode():
        return checkpoint.read_json(record_path)
    stamp_path.unlink(missing_ok=True)  # the report is replaced in several steps
    record = evaluate(
        checkpoint.load(run, checkpoint.torch_device(device)),
        index,
        out / "features",
        out / "report",
        name=recipe.model.name,
        folder=run,
        task=task,
        robustness=robustness,
        differs=differences_from_paper(recipe, index),
        bars=bars,
    )
    write_bytes(stamp_path, stamp.encode())
    return record


def differences_from_paper(recipe: Recipe, index: Index) -> list[str]:
    """Differences from the publication, one per line: those the recipe states, the corpus, and overridden keys."""
    differences = list(recipe.paper.differs)
    if index.corpus != recipe.corpus.name:
        differences.insert(
            0, f"trained and scored on {index.corpus} ({len(index.entries)} clips), not on {recipe.corpus.name}"
        )
    for name in config.names():
        shipped = config.load(name)
        if shipped.paper == recipe.paper and shipped.model.name == recipe.model.name:
            used = config.flat(recipe)
            differences += [
                f"{key}: {used.get(key)} in place of {value}"
                for key, value in config.flat(shipped).items()
                if used.get(key) != value
            ]
            break
    return differences
