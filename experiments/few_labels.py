"""Few labels: what semi-supervised training buys, on the synthetic corpus's faces and on scikit-learn's digits:
`python -m experiments few-labels`.

The same small ResNet, steps and pictures for all; 10 or 40 labels a class, the rest unlabelled; accuracy on people (on
digits: pictures) that were not trained on, five seeds, each with other labels. Digits are a neutral check: nothing in
mien was made for them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from experiments.scoring import interval
from mien import checkpoint, config, models, results
from mien.datasets.image_datasets import drawn
from mien.labels import EXPRESSIONS
from mien.records import ImageSet
from mien.synthetic.face_images import stills
from mien.training.semi_supervised import fit_pictures
from mien.views.charts import Panel, Series, figure

#: Variant -> changes to the recipe. "all labels" hides none; "labels only" uses nothing else.
VARIANTS: dict[str, tuple[str, ...]] = {
    "labels only": ("objective.unlabelled=0", "objective.negative=0"),
    "FixMatch (fixed threshold)": (
        "model.threshold=fixed", "objective.negative=0", "model.attention=false", "model.map_dropout=0",
    ),
    "adaptive threshold (after Ada-CM)": (
        "model.threshold=adaptive", "objective.negative=0", "model.attention=false", "model.map_dropout=0",
    ),
    "ours": (),
    "ours, fixed threshold": ("model.threshold=fixed",),
    "ours, no negative learning": ("objective.negative=0",),
    "ours, no attention nor dropped maps": ("model.attention=false", "model.map_dropout=0"),
    "all labels": ("objective.unlabelled=0", "objective.negative=0"),
}  # fmt: skip
#: Side of a face in pixels, and steps of a training.
SIZE, STEPS = 48, 1500
#: Those with all seeds and both numbers of labels; the parts of ours and the ceiling get three, at the smaller.
MAIN = ("labels only", "FixMatch (fixed threshold)", "adaptive threshold (after Ada-CM)", "ours")


@dataclass(frozen=True, slots=True)
class Task:
    """train: every picture with its label; test: others. flip: whether a mirrored picture keeps its class. steps: of a
    training, enough for all labels to have settled."""

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    flip: bool
    steps: int


def digits(*, steps: int = 500) -> Task:
    """scikit-learn's 1,797 digits of 8 × 8, every fourth for testing, enlarged to 32."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = np.stack([cv2.resize((row * 15.9).astype(np.uint8), (32, 32)) for row in data.images])
    whole = ImageSet(np.repeat(grey[..., None], 3, axis=3), data.target.astype(np.int64))
    test = np.arange(len(whole)) % 4 == 0
    return Task("digits", whole.take(~test), whole.take(test), tuple(map(str, range(10))), flip=False, steps=steps)


def faces(*, people: int = 480, held_out: int = 320, workers: int = 1) -> Task:
    """The synthetic corpus's faces, six moments of each person; nobody is on both sides, and by no tested person was
    anything
    chosen (settings were, by the people of other seeds). Many people with few moments each, because it is people that
    few labels lack: with 24 moments of 120, all labels were worth .03 more than 40 a class."""
    train, test = (
        stills(split, count, hz=0.5, size=SIZE, seed=seed, workers=workers)
        for split, count, seed in (("train", people, 11), ("test", held_out, 12))
    )
    return Task("synthetic faces", train, test, EXPRESSIONS, flip=True, steps=STEPS)


def recipe_of(classes: Sequence[str], size: int, seed: int, steps: int, changes: Sequence[str] = ()) -> config.Recipe:
    """`dynamic_threshold` small enough for one core."""
    small = [
        "model.stem=16", "model.widths=[16, 32, 64, 128]", "model.depths=[1, 1, 1, 1]", "model.pool=false",
        "train.batch=32", "train.lr=0.0025", "train.threads=1",
        f"model.labels_first={min(steps // 3, 250)}",
        f"train.seed={seed}", f"corpus.labels=[{', '.join(repr(c) for c in classes)}]",
        f"features.face.dim={size}",
    ]  # fmt: skip
    return config.load("dynamic_threshold", [*small, *changes], check=models.problems)


def trained(
    recipe: config.Recipe, labelled: ImageSet, others: ImageSet, test: ImageSet | None, *, steps: int, flip: bool
) -> checkpoint.Checkpoint:
    """What `recipe` learns from `labelled` and, with no label, from `others`; one of these a labelled picture."""
    with tempfile.TemporaryDirectory() as folder:
        ratio = 1 if recipe.objective["unlabelled"] else 0
        run = fit_pictures(recipe, labelled, others, test, Path(folder) / "run", steps=steps, flip=flip, ratio=ratio)
        return checkpoint.load(run)


def measure(job: tuple[int, str, int, int], tasks: Sequence[Task]) -> dict[str, Any]:
    """One training: (task, variant, labels a class, seed)."""
    which, variant, each, seed = job
    task = tasks[which]
    steps = task.steps
    recipe = recipe_of(task.classes, task.train.images.shape[1], seed, steps, VARIANTS[variant])
    labelled = task.train if variant == "all labels" else drawn(task.train, each, seed)
    told = trained(recipe, labelled, task.train, task.test, steps=steps, flip=task.flip).metrics
    return {
        "task": task.name, "variant": variant, "labels": each, "seed": seed, "steps": steps,
        "accuracy": told["val_accuracy"],
        "macro_f1": told["val_macro_f1"], "history": told["history"],
    }  # fmt: skip


def run(
    tasks: Sequence[Task],
    *,
    seeds: int = 5,
    labels: Sequence[int] = (10, 40),
    done: Sequence[dict[str, Any]] = (),
    workers: int = 2,
    tell: Callable[[str], None] = print,
    each: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """A row a training, in an order that leaves something balanced when it is stopped early: the fewest labels first,
    their main variants seed by seed, then the parts, then more labels.

    done: rows of an earlier run, which are not measured again; those of another number of steps are not returned. each:
    is given all rows so far after every training, those too, so that nothing measured is lost when the rest is stopped.
    """
    steps = {task.name: task.steps for task in tasks}
    rows = [r for r in done if steps.get(r["task"]) == r["steps"]]
    others = [r for r in done if steps.get(r["task"]) != r["steps"]]
    had = {(r["task"], r["variant"], r["labels"], r["seed"]) for r in rows}
    least, *more = sorted(labels)
    jobs = [
        (which, variant, n, seed)
        for n, main in ((least, True), (least, False), *((n, True) for n in more))
        for seed in range(seeds if main else min(seeds, 3))
        for which, task in enumerate(tasks)
        for variant in VARIANTS
        if (variant in MAIN) == main and (task.name, variant, n, seed) not in had
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for row in pool.map(partial(measure, tasks=tasks), jobs):
            rows.append(row)
            each([*others, *rows])
            tell(f"{row['task']}, {row['variant']}, {row['labels']} labels, seed {row['seed']}: {row['accuracy']:.3f}")
    return sorted(rows, key=lambda row: list(steps).index(row["task"]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: mean accuracy and its 95 % t-interval over seeds; and what ours is ahead of each, paired by seed, since
    not all have the same seeds."""
    columns = _columns(rows)
    lines = ["| accuracy | " + " | ".join(f"{t}, {n} labels a class" for t, n in columns) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for variant in VARIANTS:
        cells = []
        for task, n in columns:
            mine = [r["accuracy"] for r in rows if (r["task"], r["variant"]) == (task, variant) and r["labels"] == n]
            cells.append(interval(mine) if mine else "–")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    for other in (name for name in VARIANTS if name not in ("ours", "all labels")):
        cells = []
        for task, n in columns:
            pick = {
                v: {r["seed"]: r["accuracy"] for r in rows if (r["task"], r["variant"], r["labels"]) == (task, v, n)}
                for v in ("ours", other)
            }
            both = sorted(set(pick["ours"]) & set(pick[other]))
            gains = [pick["ours"][seed] - pick[other][seed] for seed in both]
            cells.append(interval(gains, signed=True) if gains else "–")
        lines.append(f"| *ours minus {other}* | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """SVG: how sure the teacher must be, how many it believes, and how many of those rightly, over the steps; means
    over seeds at the fewest labels, a panel a task."""
    least, panels = min(r["labels"] for r in rows), []
    for task in dict.fromkeys(r["task"] for r in rows):
        mine = [r for r in rows if (r["task"], r["variant"], r["labels"]) == (task, "ours", least)]
        if not mine:
            continue
        steps = [h["step"] for h in mine[0]["history"]]
        series = [
            Series(title, steps, [_mean([r["history"][i].get(key, np.nan) for r in mine]) for i in
                                  range(len(steps))], style=style)
            for style, (key, title) in enumerate(
                (("threshold", "mean threshold"), ("kept", "share believed"), ("quality", "of those, rightly"))
            )
        ]  # fmt: skip
        panels.append(Panel(f"{task}, {least} labels a class", "step", series, [(s, str(s)) for s in steps[::2]]))
    return figure(panels)


def _mean(values: Sequence[float]) -> float | None:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else None


def _columns(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """Tasks in the order they came in, each with its numbers of labels from few to many."""
    tasks = dict.fromkeys(r["task"] for r in rows)
    return [(t, n) for t in tasks for n in sorted({r["labels"] for r in rows if r["task"] == t})]


def remember(rows: Sequence[dict[str, Any]]) -> None:
    """Keeps the table and the recipe's score at the fewest labels (`mien.results`)."""
    task, n = _columns(rows)[0]
    ours = [r["accuracy"] for r in rows if (r["task"], r["variant"], r["labels"]) == (task, "ours", n)]
    results.keep(
        "few-labels",
        command="python -m experiments few-labels",
        what=f"{task}, {n} labels a class, people never seen, a small ResNet",
        table=table(rows),
        recipes={"dynamic_threshold": f"{interval(ours)} accuracy"},
    )
