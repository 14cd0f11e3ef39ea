"""Semi-supervised training with few labels, on synthetic faces and digits (`python -m experiments few-labels`).

All variants share the small ResNet, the number of steps and the images: 10 or 40 labelled images per class, the rest
unlabelled. The score is accuracy on people (digits: images) that were not trained on, over five seeds with different
labels. scikit-learn's digits are a neutral check, because nothing in mien was designed for them.
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

from experiments.scoring import format_interval
from mien import checkpoint, config, models, results
from mien.datasets.image_datasets import sample_per_class
from mien.labels import EXPRESSIONS
from mien.records import ImageSet
from mien.synthetic.face_images import render_faces
from mien.training.semi_supervised import fit_images
from mien.views.charts import Panel, Series, figure

#: Variant -> overrides of the recipe. "all labels" uses every label; "labels only" ignores the unlabelled images.
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
#: Side of a face image in pixels, and steps of a training on faces.
SIZE, STEPS = 48, 1500
#: Variants trained with all seeds and both numbers of labels. The others have three seeds, at the smaller number.
MAIN = ("labels only", "FixMatch (fixed threshold)", "adaptive threshold (after Ada-CM)", "ours")


@dataclass(frozen=True, slots=True)
class LabelTask:
    """Classification task.

    train: all training images with their labels. flip: whether a mirrored image keeps its class. steps: of a training,
    enough for convergence with all labels.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    flip: bool
    steps: int


def make_digits_task(*, steps: int = 500) -> LabelTask:
    """Load scikit-learn's 1,797 images of digits, enlarged from 8 × 8 to 32 × 32; every fourth is for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = np.stack([cv2.resize((row * 15.9).astype(np.uint8), (32, 32)) for row in data.images])
    whole = ImageSet(np.repeat(grey[..., None], 3, axis=3), data.target.astype(np.int64))
    test = np.arange(len(whole)) % 4 == 0
    return LabelTask("digits", whole.take(~test), whole.take(test), tuple(map(str, range(10))), flip=False, steps=steps)


def make_faces_task(*, people: int = 480, held_out: int = 320, workers: int = 1) -> LabelTask:
    """Task of synthetic faces: six images of each of `people` training and `held_out` test people.

    No person is in both sets, and no setting was chosen on these test people (the seeds differ). The task has many
    people with few images each, because few labels means few people: with 24 images of each of 120 people, all labels
    gained only .03 over 40 labels per class.
    """
    train, test = (
        render_faces(split, count, hz=0.5, size=SIZE, seed=seed, workers=workers)
        for split, count, seed in (("train", people, 11), ("test", held_out, 12))
    )
    return LabelTask("synthetic faces", train, test, EXPRESSIONS, flip=True, steps=STEPS)


def make_recipe(classes: Sequence[str], size: int, seed: int, steps: int, changes: Sequence[str] = ()) -> config.Recipe:
    """Recipe `dynamic_threshold` at a size for one core. size: side of an image in pixels; changes: overrides."""
    small = [
        "model.stem=16", "model.widths=[16, 32, 64, 128]", "model.depths=[1, 1, 1, 1]", "model.stem_pool=false",
        "train.batch=32", "train.lr=0.0025", "train.threads=1",
        f"model.warmup_steps={min(steps // 3, 250)}",
        f"train.seed={seed}", f"corpus.labels=[{', '.join(repr(c) for c in classes)}]",
        f"features.face.dim={size}",
    ]  # fmt: skip
    return config.load("dynamic_threshold", [*small, *changes], check=models.problems)


def train(
    recipe: config.Recipe, labelled: ImageSet, others: ImageSet, test: ImageSet | None, *, steps: int, flip: bool
) -> checkpoint.Checkpoint:
    """Train a recipe on labelled images and on `others`, whose labels are not used, one for each labelled image."""
    with tempfile.TemporaryDirectory() as folder:
        ratio = 1 if recipe.objective["unlabelled"] else 0
        run = fit_images(recipe, labelled, others, test, Path(folder) / "run", steps=steps, flip=flip, ratio=ratio)
        return checkpoint.load(run)


def train_and_score(job: tuple[int, str, int, int], tasks: Sequence[LabelTask]) -> dict[str, Any]:
    """Train and score one variant.

    Args:
        job: index of the task, variant, labels per class, seed.
        tasks: all tasks.

    Returns:
        One row of `few_labels.json`.
    """
    task_index, variant, labels_per_class, seed = job
    task = tasks[task_index]
    recipe = make_recipe(task.classes, task.train.images.shape[1], seed, task.steps, VARIANTS[variant])
    labelled = task.train if variant == "all labels" else sample_per_class(task.train, labels_per_class, seed)
    metrics = train(recipe, labelled, task.train, task.test, steps=task.steps, flip=task.flip).metrics
    # without wall times, so that the same seed gives the same row
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in metrics["history"]]
    return {
        "task": task.name, "variant": variant, "labels": labels_per_class, "seed": seed, "steps": task.steps,
        "accuracy": metrics["val_accuracy"], "macro_f1": metrics["val_macro_f1"], "history": history,
    }  # fmt: skip


def run(
    tasks: Sequence[LabelTask],
    *,
    seeds: int = 5,
    labels: Sequence[int] = (10, 40),
    finished: Sequence[dict[str, Any]] = (),
    workers: int = 2,
    log: Callable[[str], None] = print,
    on_rows: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Train and score all variants, in an order that is balanced whenever the run is stopped.

    The order is: the smallest number of labels first, with the main variants seed by seed and then the others; then
    more labels.

    Args:
        tasks: all tasks.
        seeds: trainings of each main variant.
        labels: numbers of labels per class.
        finished: rows of an earlier run, which are not trained again.
        workers: processes.
        log: receives one line for each training.
        on_rows: receives all rows after each training, so that a stopped run loses nothing.

    Returns:
        One row for each training. Rows of `finished` with another number of steps are left out.
    """
    steps = {task.name: task.steps for task in tasks}
    rows = [r for r in finished if steps.get(r["task"]) == r["steps"]]
    others = [r for r in finished if steps.get(r["task"]) != r["steps"]]
    known = {(r["task"], r["variant"], r["labels"], r["seed"]) for r in rows}
    least, *more = sorted(labels)
    jobs = [
        (task_index, variant, n, seed)
        for n, main in ((least, True), (least, False), *((n, True) for n in more))
        for seed in range(seeds if main else min(seeds, 3))
        for task_index, task in enumerate(tasks)
        for variant in VARIANTS
        if (variant in MAIN) == main and (task.name, variant, n, seed) not in known
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for row in pool.map(partial(train_and_score, tasks=tasks), jobs):
            rows.append(row)
            on_rows([*others, *rows])
            log(f"{row['task']}, {row['variant']}, {row['labels']} labels, seed {row['seed']}: {row['accuracy']:.3f}")
    return sorted(rows, key=lambda row: list(steps).index(row["task"]))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown table: mean accuracy and its 95 % t-interval over seeds, then the gains of "ours".

    Gains are paired by seed, because the variants have different numbers of seeds.
    """
    columns = _columns(rows)
    lines = ["| accuracy | " + " | ".join(f"{t}, {n} labels a class" for t, n in columns) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")
    for variant in VARIANTS:
        cells = []
        for task, n in columns:
            accuracies = [
                r["accuracy"] for r in rows if (r["task"], r["variant"]) == (task, variant) and r["labels"] == n
            ]
            cells.append(format_interval(accuracies) if accuracies else "–")
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    for other in (name for name in VARIANTS if name not in ("ours", "all labels")):
        cells = []
        for task, n in columns:
            by_seed = {
                v: {r["seed"]: r["accuracy"] for r in rows if (r["task"], r["variant"], r["labels"]) == (task, v, n)}
                for v in ("ours", other)
            }
            both = sorted(set(by_seed["ours"]) & set(by_seed[other]))
            gains = [by_seed["ours"][seed] - by_seed[other][seed] for seed in both]
            cells.append(format_interval(gains, signed=True) if gains else "–")
        lines.append(f"| *ours minus {other}* | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """SVG of threshold, share of accepted pseudo-labels and their accuracy over the steps, one panel for each task.

    Means over seeds of "ours" at the smallest number of labels.
    """
    least, panels = min(r["labels"] for r in rows), []
    for task in dict.fromkeys(r["task"] for r in rows):
        task_rows = [r for r in rows if (r["task"], r["variant"], r["labels"]) == (task, "ours", least)]
        if not task_rows:
            continue
        steps = [h["step"] for h in task_rows[0]["history"]]
        series = [
            Series(title, steps, [_mean([r["history"][i].get(key, np.nan) for r in task_rows]) for i in
                                  range(len(steps))], style=style)
            for style, (key, title) in enumerate(
                (("threshold", "mean threshold"), ("kept", "share accepted"), ("quality", "accuracy of accepted"))
            )
        ]  # fmt: skip
        panels.append(Panel(f"{task}, {least} labels a class", "step", series, [(s, f"{s:.0f}") for s in steps[::2]]))
    return figure(panels)


def _mean(values: Sequence[float]) -> float | None:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else None


def _columns(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """(task, labels per class) of each column: tasks in their order, numbers of labels ascending."""
    tasks = dict.fromkeys(r["task"] for r in rows)
    return [(t, n) for t in tasks for n in sorted({r["labels"] for r in rows if r["task"] == t})]


def save_results(rows: Sequence[dict[str, Any]]) -> None:
    """Save the table and the score at the smallest number of labels with the recipes (`mien.results`)."""
    task, n = _columns(rows)[0]
    ours = [r["accuracy"] for r in rows if (r["task"], r["variant"], r["labels"]) == (task, "ours", n)]
    results.save(
        "few-labels",
        command="python -m experiments few-labels",
        what=f"{task}, {n} labels a class, people never seen, a small ResNet",
        table=table(rows),
        recipes={"dynamic_threshold": f"{format_interval(ours)} accuracy"},
    )
