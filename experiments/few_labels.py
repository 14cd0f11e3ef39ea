"""Semi-supervised training with few labels, on real faces and on digits (`python -m experiments few-labels`).

All variants share the small ResNet, the number of steps and the images. Of the training images 400 to 4,000 have a
label, as many of each class as there are, and the rest has none. The score is accuracy on the validation images of FER+
with a majority (digits: on every fourth image), over five seeds with different labels. scikit-learn's digits are a
neutral check, because nothing in mien was designed for them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from experiments.scoring import format_interval
from experiments.train_face import RECIPE as FACE_RECIPE
from experiments.train_face import load_faces
from mien import checkpoint, config, models, results
from mien.data.capture_augment import centre
from mien.labels import EXPRESSIONS, UNLABELLED
from mien.records import ImageSet
from mien.training.semi_supervised import fit_images
from mien.views.charts import Panel, Series, figure

#: Overrides that turn off the parts that only ours has.
_PLAIN = ("objective.negative=0", "model.attention=false", "model.map_dropout=0")
#: Variant -> overrides of the recipe. "all labels" uses every label; "labels only" ignores the unlabelled images.
VARIANTS: dict[str, tuple[str, ...]] = {
    "labels only": ("objective.unlabelled=0", *_PLAIN),
    "FixMatch (fixed threshold)": ("model.threshold=fixed", *_PLAIN),
    "thresholds of Ada-CM": ("model.threshold=adaptive", *_PLAIN),
    "thresholds of FreeMatch": ("model.threshold=freematch", *_PLAIN),
    "ours": (),
    "ours, fixed threshold": ("model.threshold=fixed", "model.pseudo_labels=teacher"),
    "ours, no negative learning": ("objective.negative=0",),
    "ours, no attention nor dropped maps": ("model.attention=false", "model.map_dropout=0"),
    "all labels": ("objective.unlabelled=0", *_PLAIN),
}
#: Side of a face image in pixels, and steps of a training on faces.
SIZE, STEPS = 32, 2000
#: Variants trained with all seeds and all numbers of labels. The others have three seeds, at the smallest number.
MAIN = (
    "labels only", "FixMatch (fixed threshold)", "thresholds of Ada-CM", "thresholds of FreeMatch", "ours",
    "all labels",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LabelTask:
    """Classification task.

    train: all training images with their labels. flip: whether a mirrored image keeps its class. steps: of a training.
    labels: numbers of labelled images.
    """

    name: str
    train: ImageSet
    test: ImageSet
    classes: tuple[str, ...]
    flip: bool
    steps: int
    labels: tuple[int, ...] = (100, 400)


def make_digits_task(*, steps: int = 500) -> LabelTask:
    """Load scikit-learn's 1,797 images of digits, enlarged from 8 × 8 to 32 × 32; every fourth is for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    grey = np.stack([cv2.resize((row * 15.9).astype(np.uint8), (32, 32)) for row in data.images])
    whole = ImageSet(np.repeat(grey[..., None], 3, axis=3), data.target.astype(np.int64))
    test = np.arange(len(whole)) % 4 == 0
    return LabelTask("digits", whole.take(~test), whole.take(test), tuple(map(str, range(10))), flip=False, steps=steps)


def make_faces_task(root: Path, cache: Path, *, workers: int = 1) -> LabelTask:
    """Classify the seven classes of FER+ on aligned faces of `SIZE` pixels; images without a majority are unlabelled.

    Args:
        root: folder of FER+. cache: folder of aligned faces, as `experiments.train_face` keeps it.
    """
    recipe = config.load(FACE_RECIPE, check=models.problems)
    classes = tuple(name for name in EXPRESSIONS if name != "Other")
    side = next(iter(recipe.features.values())).dim or 0
    sets = []
    for split in ("train", "val"):
        faces = load_faces(root, split, cache, recipe, workers=workers)
        small = [cv2.resize(face, (SIZE, SIZE), interpolation=cv2.INTER_AREA) for face in centre(faces.images, side)]
        labels = np.where(faces.labels < len(classes), faces.labels, UNLABELLED)
        sets.append(ImageSet(np.stack(small), labels))
    train, test = sets
    return LabelTask(
        "FER+", train, test.take(test.labels >= 0), classes, flip=True, steps=STEPS, labels=(400, 1000, 2000, 4000)
    )


def draw_labels(whole: ImageSet, count: int, seed: int) -> ImageSet:
    """Draw `count` labelled images: as many of each class as there are, the rest from all others."""
    rng = np.random.default_rng(seed)
    known = rng.permutation(np.flatnonzero(whole.labels >= 0))
    classes = np.unique(whole.labels[known])
    chosen = np.concatenate([known[whole.labels[known] == c][: count // len(classes)] for c in classes])
    others = known[~np.isin(known, chosen)]
    return whole.take(np.concatenate([chosen, others[: count - len(chosen)]]))


def make_recipe(classes: Sequence[str], size: int, seed: int, steps: int, changes: Sequence[str] = ()) -> config.Recipe:
    """Recipe `dynamic_threshold` at a size for one core. size: side of an image in pixels; changes: overrides."""
    small = [
        "model.stem=16", "model.widths=[16, 32, 64, 128]", "model.depths=[1, 1, 1, 1]", "model.stem_pool=false",
        "train.batch=32", "train.lr=0.0025", "train.threads=1",
        f"model.warmup_steps={min(steps // 3, 500)}", f"model.ramp_steps={steps}",
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


#: The tasks of a worker process.
_tasks: list[LabelTask] = []


def set_tasks(tasks: Sequence[LabelTask]) -> None:
    """Give a process the tasks that its jobs name by index."""
    _tasks[:] = tasks


def train_and_score(job: tuple[int, str, int, int]) -> dict[str, Any]:
    """Train and score one variant.

    Args:
        job: index of the task in `set_tasks`, variant, labelled images (0: all), seed.

    Returns:
        One row of `few_labels.json`.
    """
    task_index, variant, count, seed = job
    task = _tasks[task_index]
    recipe = make_recipe(task.classes, task.train.images.shape[1], seed, task.steps, VARIANTS[variant])
    labelled = draw_labels(task.train, count, seed) if count else task.train.take(task.train.labels >= 0)
    metrics = train(recipe, labelled, task.train, task.test, steps=task.steps, flip=task.flip).metrics
    # without wall times, so that the same seed gives the same row
    history = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in metrics["history"]]
    return {
        "task": task.name, "variant": variant, "labels": count, "seed": seed, "steps": task.steps,
        "accuracy": metrics["val_accuracy"], "macro_f1": metrics["val_macro_f1"], "history": history,
    }  # fmt: skip


def run(
    tasks: Sequence[LabelTask],
    *,
    seeds: int = 5,
    finished: Sequence[dict[str, Any]] = (),
    workers: int = 2,
    log: Callable[[str], None] = print,
    on_rows: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
) -> list[dict[str, Any]]:
    """Train and score all variants, in an order that is balanced whenever the run is stopped.

    The order is: the smallest number of labels and all labels first, seed by seed; then the other variants; then the
    largest number of labels, and those between.

    Args:
        tasks: all tasks.
        seeds: trainings of each main variant.
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
    orders = [list(dict.fromkeys((task.labels[0], task.labels[-1], *task.labels))) for task in tasks]
    jobs = [
        (index, variant, count, seed)
        for is_main, place in ((True, 0), (False, 0), *((True, i) for i in range(1, max(map(len, orders)))))
        for seed in range(seeds if is_main else min(seeds, 3))
        for index, (task, order) in enumerate(zip(tasks, orders, strict=True))
        if place < len(order)
        for variant in VARIANTS
        if (variant in MAIN) == is_main and (variant != "all labels" or place == 0)
        for count in (0 if variant == "all labels" else order[place],)
        if (task.name, variant, count, seed) not in known
    ]
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=set_tasks, initargs=(list(tasks),)) as pool:
        for row in pool.map(train_and_score, jobs):
            rows.append(row)
            on_rows([*others, *rows])
            log(f"{row['task']}, {row['variant']}, {row['labels']} labels, seed {row['seed']}: {row['accuracy']:.3f}")
    return sorted(rows, key=lambda row: list(steps).index(row["task"]))


def table(rows: Sequence[dict[str, Any]], score: str = "accuracy") -> str:
    """Markdown table: mean score and its 95 % t-interval over seeds, then the gains of "ours".

    Gains are paired by seed, because the variants have different numbers of seeds.

    Args:
        score: `accuracy` or `macro_f1`.
    """
    columns = _columns(rows)
    lines = [f"| {score.replace('_', ' ')} | " + " | ".join(f"{t}, {n:,} labels" for t, n in columns) + " |"]
    lines.append("|---" * (1 + len(columns)) + "|")

    def of(task: str, variant: str, count: int) -> dict[int, float]:
        count = 0 if variant == "all labels" else count
        key = (task, variant, count)
        return {r["seed"]: r[score] for r in rows if (r["task"], r["variant"], r["labels"]) == key}

    for variant in VARIANTS:
        cells = [list(of(task, variant, n).values()) for task, n in columns]
        lines.append(f"| {variant} | " + " | ".join(format_interval(c) if c else "–" for c in cells) + " |")
    for other in (name for name in VARIANTS if name != "ours"):
        cells = []
        for task, n in columns:
            ours, theirs = of(task, "ours", n), of(task, other, n)
            cells.append([ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))])
        texts = [format_interval(c, signed=True) if c else "–" for c in cells]
        lines.append(f"| *ours minus {other}* | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]]) -> str:
    """SVG, for each task: the scores over the number of labels; and over the steps of "ours" with the fewest labels the
    thresholds of the classes, and share and accuracy of the pseudo-labels. Means over seeds."""
    panels = []
    for task in dict.fromkeys(r["task"] for r in rows):
        of_task = [r for r in rows if r["task"] == task]
        counts = sorted({r["labels"] for r in of_task} - {0})
        lines = []
        for style, variant in enumerate(MAIN):
            scores = [
                _mean([r["accuracy"] for r in of_task
                       if r["variant"] == variant and r["labels"] == (0 if variant == "all labels" else n)])
                for n in counts
            ]  # fmt: skip
            lines.append(Series(variant, list(range(len(counts))), scores, style=style))
        ticks = [(i, f"{n:,}") for i, n in enumerate(counts)]
        panels.append(Panel(f"{task}: accuracy", "labelled images", lines, ticks))
        ours = [r["history"] for r in of_task if (r["variant"], r["labels"]) == ("ours", counts[0])]
        if ours:
            panels += _step_panels(task, counts[0], ours)
    return figure(panels)


def _step_panels(task: str, count: int, histories: Sequence[list[dict[str, float]]]) -> list[Panel]:
    """Panels over the steps of trainings: thresholds of the classes, and the pseudo-labels."""
    steps = [report["step"] for report in histories[0]]
    ticks = [(step, f"{step:.0f}") for step in steps[::2]]

    def series(keys: Sequence[tuple[str, str]]) -> list[Series]:
        return [
            Series(title, steps, [_mean([h[i].get(key, np.nan) for h in histories]) for i in range(len(steps))],
                   style=style)
            for style, (key, title) in enumerate(keys)
        ]  # fmt: skip

    classes = sum(key.startswith("threshold_") for key in histories[0][0])
    names = EXPRESSIONS if task == "FER+" else [str(i) for i in range(classes)]
    thresholds = series([(f"threshold_{i}", names[i]) for i in range(classes)])
    labels = series([("threshold", "mean threshold"), ("kept", "share accepted"), ("quality", "accuracy of accepted")])
    title = f"{task}, {count:,} labels"
    return [Panel(f"{title}: thresholds", "step", thresholds, ticks), Panel(title, "step", labels, ticks)]


def _mean(values: Sequence[float]) -> float | None:
    known = [v for v in values if np.isfinite(v)]
    return float(np.mean(known)) if known else None


def _columns(rows: Sequence[dict[str, Any]]) -> list[tuple[str, int]]:
    """(task, labelled images) of each column: tasks in their order, numbers of labels ascending."""
    tasks = dict.fromkeys(r["task"] for r in rows)
    return [(t, n) for t in tasks for n in sorted({r["labels"] for r in rows if r["task"] == t} - {0})]


def save_results(rows: Sequence[dict[str, Any]]) -> None:
    """Save the tables and the score at the smallest number of labels with the recipes (`mien.results`)."""
    task, n = _columns(rows)[0]
    ours = [r["accuracy"] for r in rows if (r["task"], r["variant"], r["labels"]) == (task, "ours", n)]
    results.save(
        "few-labels",
        command="python -m experiments few-labels --ferplus ferplus",
        what=f"{task}, {n} labels, a small ResNet",
        table=table(rows) + "\n\n" + table(rows, "macro_f1"),
        recipes={"dynamic_threshold": f"{format_interval(ours)} accuracy"},
    )
