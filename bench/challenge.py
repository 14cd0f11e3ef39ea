"""The flagship at the size of Aff-Wild2, on random features of the true shape: an epoch, an evaluation, a submission.

    python bench/challenge.py [--scale 1.0] [--dir FOLDER] [--threads 2] [--json FILE] [key=value...]

548 clips with 2.7 million face frames and 25 hours of voice at 50 Hz, 1024 values each in 16 bits, lie in a store
(14.7 GB, written first and removed at the end). 248 clips are trained on, every frame labelled, for one epoch of
`recipes/safe_cross_attention.yaml`; 70 are predicted with soft voting and scored; a submission of 1,022,655 rows is
written and validated. Each part is a process of its own. Memory is the peak of what is not file pages (a mapped store
is the page cache's, and goes when memory is short). Prints a Markdown section for docs/BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from store import MODALITIES, lengths, write_mien

TRAIN, VAL, ROWS, IDS = 248, 70, 1_022_655, 228
CLASSES = 8


def recordings(folder: Path, scale: float, first: int, count: int) -> list[Any]:
    """Stored streams with labels that change every few seconds."""
    from mien.records import Clip, Labels, Recording
    from mien.store import FeatureStore

    shelves = {name: FeatureStore(folder).open(name, {"network": "simulated"}) for name in MODALITIES}
    made = []
    for number, rows in lengths(scale)[first : first + count]:
        rng, n = np.random.default_rng(number), rows["face"]
        times = np.arange(n) / MODALITIES["face"][1]
        expression = rng.integers(0, CLASSES, n // 60 + 1).repeat(60)[:n]
        streams = {name: shelf[f"clip{number}"].stream(mapped=True) for name, shelf in shelves.items()}
        labels = Labels(times, expression, np.full((n, 2), np.nan))
        made.append(Recording(Clip(f"clip{number}", None, labels=labels), streams))
    return made


def recipe(overrides: list[str]) -> Any:
    from mien import config, models

    return config.load("safe_cross_attention", ["train.epochs=1", *overrides], check=models.problems)


class Memory(threading.Thread):
    """Watches the peak of private memory, MB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0
        self.start()

    def run(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    self.peak = max(self.peak, int(line.split()[1]) / 1024)
            time.sleep(0.2)


def phase_epoch(folder: Path, scale: float, overrides: list[str]) -> dict[str, float]:
    import torch

    from mien.data import WindowDataset, WindowSampler, collate
    from mien.training import fit

    memory, settings = Memory(), recipe(overrides)
    train = recordings(folder, scale, 0, round(TRAIN * scale))
    torch.set_num_threads(settings.train.threads)
    began = time.perf_counter()
    fit.fit(settings, train, [], folder / "run", device="cpu", progress=False)
    whole = time.perf_counter() - began
    epoch = json.loads((folder / "run" / "metrics.json").read_text())["history"][0]["seconds"]
    data = WindowDataset(train, settings.windows, modalities=list(settings.features), labelled=True)
    weights = torch.ones(len(data)) / len(data)
    batches = list(WindowSampler(weights, batch=settings.train.batch, seed=1, epoch=0))
    some = batches[:: max(1, len(batches) // 100)]
    began = time.perf_counter()
    for draw in some:
        collate(data.__getitems__(draw))
    loader = (time.perf_counter() - began) / len(some) * len(batches)
    frames = sum(len(r.clip.labels.times) for r in train)
    return {
        "epoch_s": epoch, "with_start_s": whole, "loader_s": loader, "frames": frames, "windows": len(data),
        "mb": memory.peak,
    }  # fmt: skip


def phase_evaluate(folder: Path, scale: float, overrides: list[str]) -> dict[str, float]:
    import torch

    from mien import checkpoint
    from mien.evaluation import bootstrap
    from mien.evaluation.predictions import predict, save

    memory = Memory()
    trained = checkpoint.load(folder / "run")
    torch.set_num_threads(trained.recipe.train.threads)
    val = recordings(folder, scale, round(TRAIN * scale), round(VAL * scale))
    began = time.perf_counter()
    said = [predict(trained.predict_streams, r) for r in val]
    predicted = time.perf_counter() - began
    bootstrap.expression(said)
    save(folder / "val.parquet", said)
    seconds = time.perf_counter() - began
    frames = sum(len(p.times) for p in said)
    return {"seconds": seconds, "predict_s": predicted, "frames": frames, "clips": len(val), "mb": memory.peak}


def phase_submit(folder: Path, scale: float, overrides: list[str]) -> dict[str, float]:
    from mien.submission import validate, write_expr

    memory, rng = Memory(), np.random.default_rng(0)
    cuts = np.sort(rng.choice(np.arange(1, ROWS), IDS - 1, replace=False))
    sizes = np.diff([0, *cuts, ROWS])
    sample = folder / "sample.txt"
    header = "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
    with open(sample, "w") as file:
        file.write(header + "\n")
        for number, size in enumerate(sizes):
            file.writelines(f"clip{number}/{i:05d}.jpg,0\n" for i in range(1, size + 1))
    said = {f"clip{number}": rng.dirichlet(np.ones(CLASSES), size) for number, size in enumerate(sizes)}
    began = time.perf_counter()
    write_expr(folder / "submission.txt", said, sample)
    wrote = time.perf_counter() - began
    faults = validate(folder / "submission.txt", sample)
    seconds = time.perf_counter() - began
    errors = sum(fault.severity == "error" for fault in faults)
    return {"seconds": seconds, "write_s": wrote, "rows": ROWS, "errors": errors, "mb": memory.peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
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
            command = [sys.executable, __file__, *overrides, "--phase", phase, "--dir", folder]
            done = subprocess.run(
                [*command, "--scale", str(options.scale)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(f"{phase}: {done.stderr[-3000:]}")
            results[phase] = json.loads(done.stdout.splitlines()[-1])
            print(phase, results[phase], file=sys.stderr, flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    return report(results, options.threads)


def report(results: dict[str, Any], threads: int) -> None:
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
    print(
        f"\nBefore the epoch: {e['with_start_s'] - e['epoch_s']:.0f} s (labels on the clock, statistics of the inputs)."
    )


if __name__ == "__main__":
    main()
