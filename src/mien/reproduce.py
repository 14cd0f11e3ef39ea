"""A published system from a corpus on disk to a report, by its recipe: `mien reproduce`.

    OUT/index.jsonl   the clips, and every problem found with them
    OUT/features/     what the recipe's encoders say of them
    OUT/run/          the checkpoint
    OUT/report/       the evaluation, with the published numbers beside the obtained
    OUT/steps.json    what is done, and with which settings

Every step goes on where it stopped: the index is kept, extraction does what is missing, training resumes after the last
finished epoch, the report is made once. A folder of another recipe or corpus is refused, never mixed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien import checkpoint, config
from mien.atomic import write_bytes
from mien.config import Recipe
from mien.datasets.index import Index, index
from mien.datasets.stored_recordings import recordings
from mien.encoders.registry import spec_of
from mien.errors import ConfigError
from mien.evaluation.evaluate import PAGE, RECORD, Bars, evaluate, no_bar
from mien.extract import ExtractionProgress, extract
from mien.training.fit import fit

STEPS = "steps.json"


@dataclass(frozen=True, slots=True)
class Reproduced:
    """record: of the evaluation (`mien.evaluation.record`). page: the report. run: the checkpoint's folder. failed:
    clips that could not be read, put aside with their reasons in features/failures.jsonl."""

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
    workers: int = 1,
    device: str = "auto",
    robustness: bool = False,
    tell: Callable[[str], None] = print,
    bars: Bars = no_bar,
    extracting: Callable[[], AbstractContextManager[Callable[[ExtractionProgress], None] | None]] = nullcontext,
) -> Reproduced:
    """Index, extract, train, evaluate, report.

    Args:
        root: the corpus. out: everything that is made.
        corpus, faces: as `mien index` and `mien extract` take them; by default what the recipe's corpus section says.
        task: `expr` or `va`: whose labels and splits; the corpus's first by default.
        tell: is told what begins. bars: of the other steps. extracting: shows how extraction goes on.

    Raises ConfigError where `out` holds another recipe or corpus, no clip of the split "train" has labels, or no clip
    could be read.
    """
    corpus = corpus or recipe.corpus.name
    faces = faces or str(recipe.corpus.options.get("pictures", "video"))
    _same(out, {"recipe": config.dump(recipe), "corpus": f"{corpus} in {Path(root).resolve()}", "faces": faces})
    tell(f"1/4 index: {corpus} in {root}")
    path = out / "index.jsonl"
    if not path.exists():
        with bars("looking at recordings", unit="recordings") as bar:
            index(corpus, root, table=table, progress=bar).save(path)
    found = Index.load(path)
    if recipe.corpus.name == "folder":
        recipe = config.changed(recipe, corpus={"labels": list(found.classes)})  # the table says what there is
    if found.classes != tuple(recipe.corpus.labels):
        raise ConfigError(
            f"the corpus has the classes {', '.join(found.classes)}; "
            f"the recipe's are {', '.join(recipe.corpus.labels)}",
            follows="nothing was trained",
            remedy="set corpus.labels to the corpus's, in its order",
        )
    encoders = {modality: feature.encoder for modality, feature in recipe.features.items()}
    tell(f"2/4 extract: {', '.join(encoders.values())} of {len(found.entries)} clips")
    specs = [spec_of(feature.encoder, feature.options) for feature in recipe.features.values()]
    with extracting() as follow:
        report = extract(found, specs, out / "features", workers=workers, faces=faces, device=device, progress=follow)
    if report.failures:
        tell(f"    {len(report.failures)} failed and are left out, such as {report.failures[0]}")
    train, val = (
        [r for r in recordings(found, out / "features", encoders, task=task, split=s, partial=True) if r.clip.labels]
        for s in ("train", "val")
    )
    if not train:
        raise ConfigError(
            f"no clip of {corpus} in {root} with labels in the split 'train' could be read",
            follows="nothing was trained",
            remedy=f"{path} lists the problems found, {out}/features/failures.jsonl what could not be read",
        )
    tell(f"3/4 train: {recipe.model.name} on {len(train)} clips, {len(val)} to choose the epoch by")
    run = fit(recipe, train, val, out / "run", resume=(out / "run").exists(), device=device)
    tell("4/4 evaluate")
    record = _scored(run, found, out, recipe, task, device, robustness, bars)
    return Reproduced(record, out / "report" / PAGE, run, len(report.failures))


def _same(out: Path, settings: Mapping[str, str]) -> None:
    """Keeps the settings of a new folder; refuses one that was begun with others."""
    path = out / STEPS
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name, value in settings.items() if begun.get(name) != value]
        if other:
            lines = config.differences(begun["recipe"], settings["recipe"]) if "recipe" in other else []
            raise ConfigError(
                f"{out} was begun with another {' and another '.join(other)}"
                + "".join(f"; {line}" for line in lines[:3]),
                follows="nothing was changed in it",
                remedy="choose another --out, or give the settings it was begun with",
            )
        return
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(dict(settings), indent=1).encode())


def _scored(
    run: Path, found: Index, out: Path, recipe: Recipe, task: str | None, device: str, robustness: bool, bars: Bars
) -> dict[str, Any]:
    weights = hashlib.sha256((run / checkpoint.WEIGHTS).read_bytes()).hexdigest()
    stamp, kept = out / "report" / "stamp.json", out / "report" / RECORD
    wanted = json.dumps({"weights": weights, "robustness": robustness, "task": task})
    if stamp.exists() and kept.exists() and stamp.read_text() == wanted:
        return dict(json.loads(kept.read_text(encoding="utf-8")))
    here = checkpoint.torch_device(device)
    record = evaluate(
        checkpoint.load(run, here),
        found,
        out / "features",
        out / "report",
        name=recipe.model.name,
        folder=run,
        task=task,
        robustness=robustness,
        differs=differs(recipe, found),
        bars=bars,
    )
    stamp.write_text(wanted)
    return record


def differs(recipe: Recipe, found: Index) -> list[str]:
    """What is not as in the publication: what the recipe says of itself, the corpus, and keys that were changed."""
    said = list(recipe.paper.differs)
    if found.corpus != recipe.corpus.name:
        said.insert(
            0, f"trained and scored on {found.corpus} ({len(found.entries)} clips), not on {recipe.corpus.name}"
        )
    for name in config.names():
        shipped = config.load(name)
        if shipped.paper == recipe.paper and shipped.model.name == recipe.model.name:
            ours, theirs = config.flat(recipe), config.flat(shipped)
            said += [f"{k}: {ours.get(k)} in place of {theirs[k]}" for k in theirs if ours.get(k) != theirs[k]]
            break
    return said
