"""Train the shipped starter checkpoint and measure it: `make starter`.

    python -m experiments.train_starter --emodb DIR [--out FOLDER] [key=value...]

Simulates and encodes the material of `recipes/starter.yaml`, trains, scores held-out identities of the synthetic
corpus, and writes the checkpoint with its metrics. Same seed, same threads: same weights.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path

from experiments.scoring import Condition, bursts, score, without
from mien import checkpoint, config, models
from mien.datasets.synthetic_recordings import gather
from mien.records import FACE, VOICE, Recording
from mien.synthetic.recordings import troupe
from mien.training.fit import fit

#: Held-out recordings and their length in seconds. Another seed than training's, so also other plans.
TEST, TEST_SECONDS, TEST_SEED = 40, 20.0, 3407
CONDITIONS: dict[str, Condition | None] = {
    "clean": None,
    "no face": without(FACE),
    "no voice": without(VOICE),
    "half the face missing": bursts(FACE, 0.5),
}


def held_out(*, faults: bool = False, snr_db: float | None = None, workers: int = 1) -> list[Recording]:
    """Recordings of people no training recording shows."""
    return troupe(
        "test",
        TEST,
        seconds=TEST_SECONDS,
        seed=TEST_SEED,
        balance=0.5,
        faults=faults,
        snr_db=snr_db,
        workers=workers,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the recipe")
    parser.add_argument("--emodb", type=Path, required=True, help="folder of EMO-DB's .wav files")
    parser.add_argument("--out", type=Path, default=Path(checkpoint.__file__).with_name("starter"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    workers = os.cpu_count() or 1
    recipe = config.load("starter", options.overrides, check=models.problems)
    began = time.perf_counter()
    material = gather(recipe, voices=options.emodb, workers=workers)
    print(f"{len(material.train)} recordings simulated and encoded in {time.perf_counter() - began:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = fit(recipe, material.train, material.val, Path(folder) / "run", augment=material.augment, device="cpu")
        print(f"trained in {time.perf_counter() - began:.0f} s", flush=True)
        trained = checkpoint.load(run)
        metrics = {k: v for k, v in trained.metrics.items() if k != "history"}
        test = held_out(workers=workers)
        metrics["synthetic people, held-out people, macro F1"] = {
            name: round(float(score(trained, test, condition)["macro_f1"]), 4) for name, condition in CONDITIONS.items()
        }
        checkpoint.save(options.out, trained.model, trained.recipe, metrics=metrics, half=True)
        checkpoint.export(options.out)
    for name, value in metrics["synthetic people, held-out people, macro F1"].items():
        print(f"{name:24}{value:.3f}")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
