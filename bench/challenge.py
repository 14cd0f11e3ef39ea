"""Time and memory of the flagship at the size of Aff-Wild2, on random features: epoch, evaluation, submission.

    python bench/challenge.py [--scale 1.0] [--dir FOLDER] [--threads 2] [--json FILE] [key=value...]

Writes a feature store of 548 clips with 2.7 million face frames and 25 hours of voice at 50 Hz, 1024 values each in 16
bits (14.7 GB), and removes it at the end. Trains `recipes/safe_cross_attention.yaml` for one epoch on 248 clips with
every frame labelled, predicts and scores 70 clips with soft voting, and writes and validates a submission of 1,022,655
rows. Each part is a process of its own. Memory is the peak without file pages: the page cache holds the mapped store
and releases it when memory is short. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from phases import memory_mb, run_phase
from store import MODALITIES, lengths, write_mien

if TYPE_CHECKING:  # each phase imports only what it measures
    from mien.config import Recipe
    from mien.records import Recording

TRAIN, VAL, ROWS, IDS = 248, 70, 1_022_655, 228
CLASSES = 8


def load_recordings(folder: Path, scale: float, first: int, count: int) -> list[Recording]:
    """Recordings of stored streams with random labels that change every two seconds."""
    from mien.records import Clip, Labels, Recording
    from mien.store import FeatureStore

    stores = {name: FeatureStore(folder).open(name, {"network": "simulated"}) for name in MODALITIES}
    recordings = []
    for number, rows in lengths(scale)[first : first + count]:
        rng, n = np.random.default_rng(number), rows["face"]
        times = np.arange(n) / MODALITIES["face"][1]
        expression = rng.integers(0, CLASSES, n // 60 + 1).repeat(60)[:n]
        streams = {name: store[f"clip{number}"].stream(mapped=True) for name, store in stores.items()}
        labels = Labels(times, expression, np.full((n, 2), np.nan))
        recordings.append(Recording(Clip(f"clip{number}", None, labels=labels), streams))
    return recordings


def load_recipe(overrides: list[str]) -> Recipe:
    """The flagship's recipe with one epoch."""
    from mien import config, models

    return config.load("safe_cross_attention", ["train.epochs=1", *overrides], check=models.problems)


class PeakMemory(threading.Thread):
    """Samples the peak memory without file pages, in MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.start()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, memory_mb()[1])
            time.sleep(0.2)


def phase_epoch(folder: Path, scale: float, overrides: list[str]) -> dict[str, float]:
    """Train one epoch, and measure the loader alone on a sample of its batches."""
    import torch

    from mien.data import WindowDataset, WindowSampler, collate
    from mien.training import fit

    memory, settings = PeakMemory(), load_recipe(overrides)
    train = load_recordings(folder, scale, 0, round(TRAIN * scale))
    torch.set_num_threads(settings.train.threads)
    began = time.perf_counter()
    fit.fit(settings, train, [], folder / "run", device="cpu", progress=False)
    whole = time.perf_counter() - began
    epoch = json.loads((folder / "run" / "metrics.json").read_text())["history"][0]["seconds"]
    data = WindowDataset(train, settings.windows, modalities=list(settings.features), labelled=True)
    weights = torch.ones(len(data)) / len(data)
    batches = list(WindowSampler(weights, batch=settings.train.batch, seed=1, epoch=0))
    sample = batches[:: max(1, len(batches) // 100)]
    began = time.perf_counter()
    for batch in sample:
        collate(data.__getitems__(batch))
    loader = (time.perf_counter() - began) / len(sample) * len(batches)
    frames = sum(len(r.clip.labels.times) for r in train if r.clip.labels)
    return {
        "epoch_s": epoch, "with_start_s": whole, "loader_s": loader, "frames": frames, "windows": len(data),
        "mb": memory.peak,
    }  # fmt: skip


def phase_evaluate(folder: Path, scale: float, overrides: list[str]) -> dict[str, float]:
    """Predict and score the validation clips, and save the predictions."""
    import torch

    from mien import checkpoint
    from mien.evaluation import bootstrap
    from mien.evaluation.predictions import predict, save

    memory = PeakMemory()
    trained = checkpoint.load(folder / "run")
    torch.set_num_threads(trained.recipe.train.threads)
    val = load_recordings(folder, scale, round(TRAIN * scale), round(VAL * scale))
    began = time.perf_counter()
    predictions = [predict(trained.predict_streams, r) for r in val]
    predicted = time.perf_counter() - began
    bootstrap.expression_intervals(predictions)
    save(folder / "val.parquet", predictions)
    seconds = time.perf_counter() - began
    frames = sum(len(p.times) for p in predictions)
    return {"seconds": seconds, "predict_s": predicted, "frames": frames, "clips": len(val), "mb": memory.peak}


def phase_submit(folder: Path, scale: float, overrides: list[str]) -> dict[str, float]:
    """Write and validate a submission of random predictions."""
    from mien.submission import validate, write_expr

    memory, rng = PeakMemory(), np.random.default_rng(0)
    cuts = np.sort(rng.choice(np.arange(1, ROWS), IDS - 1, replace=False))
    sizes = np.diff([0, *cuts, ROWS])
    sample = folder / "sample.txt"
    header = "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
    with open(sample, "w") as file:
        file.write(header + "\n")
        for number, size in enumerate(sizes):
            file.writelines(f"clip{number}/{i:05d}.jpg,0\n" for i in range(1, size + 1))
    predictions = {f"clip{number}": rng.dirichlet(np.ones(CLASSES), size) for number, size in enumerate(sizes)}
    began = time.perf_counter()
    write_expr(folder / "submission.txt", predictions, sample)
    written = time.perf_counter() - began
    issues = validate(folder / "submission.txt", sample)
    seconds = time.perf_counter() - began
    errors = sum(issue.severity == "error" for issue in issues)
    return {"seconds": seconds, "write_s": written, "rows": ROWS, "errors": errors, "mb": memory.peak}


def main() -> None:
    """Run all phases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override of the recipe")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--dir", default=tempfile.gettempdir())
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    options = parser.parse_args()
    overrides = [f"train.threads={options.threads}", *options.overrides]
    if options.phase:
        return print(json.dumps(globals()[f"phase_{options.phase}"](Path(options.dir), options.scale, overrides)))
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="bench-challenge-") as folder:
        write_mien(Path(folder), options.scale)
        for phase in ("epoch", "evaluate", "submit"):
            arguments = [*overrides, "--phase", phase, "--dir", folder, "--scale", str(options.scale)]
            results[phase] = run_phase(__file__, arguments)
            print(phase, results[phase], file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return report(results, options.threads)


def report(results: dict[str, Any], threads: int) -> None:
    """Print the table."""
    e, v, s = results["epoch"], results["evaluate"], results["submit"]
    print(f"### The flagship at the size of Aff-Wild2, {threads} threads\n\n| | amount | seconds | private MB |")
    print("|---|---|---|---|")
    rate = e["frames"] / e["epoch_s"]
    print(f"| one epoch | {e['frames']:,} labelled frames, {e['windows']:,} windows | {e['epoch_s']:.0f} "
          f"({rate:,.0f} frames/s; loader {e['loader_s'] / e['epoch_s']:.1%}) | {e['mb']:.0f} |")  # fmt: skip
    print(
        f"| evaluation with voting | {v['clips']} clips, {v['frames']:,} frames | {v['seconds']:.0f} | {v['mb']:.0f} |"
    )
    print(f"| submission, written and validated | {s['rows']:,} rows | {s['seconds']:.1f} | {s['mb']:.0f} |")
    start = e["with_start_s"] - e["epoch_s"]
    print(f"\nBefore the epoch: {start:.0f} s (resampling of labels, statistics of the inputs).")


if __name__ == "__main__":
    main()
