"""Train the shipped starter checkpoint and measure it: `make starter`.

    python -m experiments.train_starter --emodb DIR [--out FOLDER] [key=value...]

Simulates and encodes the training data of `recipes/starter.yaml`, trains, scores people of the synthetic corpus that
no training recording shows, and writes the checkpoint with its metrics. The same seed and number of threads give the
same weights.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path

from experiments.scoring import Corruption, drop_in_bursts, remove_stream, score_recordings
from mien import checkpoint, config, models, onnx_export
from mien.datasets.synthetic_recordings import prepare_training_data
from mien.records import FACE, VOICE, Recording
from mien.synthetic.recordings import simulate_recordings
from mien.training.fit import fit

#: Number of test recordings, their length in seconds, and their seed, which differs from that of training.
TEST, TEST_SECONDS, TEST_SEED = 40, 20.0, 3407
CONDITIONS: dict[str, Corruption | None] = {
    "clean": None,
    "no face": remove_stream(FACE),
    "no voice": remove_stream(VOICE),
    "half the face missing": drop_in_bursts(FACE, 0.5),
}


def simulate_test_recordings(*, snr_db: float | None = None, workers: int = 1) -> list[Recording]:
    """Simulate recordings of people that no training recording shows. snr_db: noise throughout; None adds none."""
    return simulate_recordings(
        "test",
        TEST,
        seconds=TEST_SECONDS,
        seed=TEST_SEED,
        balance=0.5,
        impairments=False,
        snr_db=snr_db,
        workers=workers,
    )


def main() -> None:
    """Parse the command line, train, score and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override of the recipe")
    parser.add_argument("--emodb", type=Path, required=True, help="folder of EMO-DB's .wav files")
    parser.add_argument("--out", type=Path, default=Path(checkpoint.__file__).with_name("starter"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    workers = os.cpu_count() or 1
    recipe = config.load("starter", options.overrides, check=models.problems)
    began = time.perf_counter()
    data = prepare_training_data(recipe, voices=options.emodb, workers=workers)
    print(f"{len(data.train)} recordings simulated and encoded in {time.perf_counter() - began:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = fit(recipe, data.train, data.val, Path(folder) / "run", augment=data.augment, device="cpu")
        print(f"trained in {time.perf_counter() - began:.0f} s", flush=True)
        trained = checkpoint.load(run)
        metrics = {k: v for k, v in trained.metrics.items() if k != "history"}
        test = simulate_test_recordings(workers=workers)
        metrics["synthetic people, held-out people, macro F1"] = {
            name: round(score_recordings(trained, test, corrupt).macro_f1, 4) for name, corrupt in CONDITIONS.items()
        }
        checkpoint.save(options.out, trained.model, trained.recipe, metrics=metrics, half=True)
        onnx_export.export(options.out)
    for name, value in metrics["synthetic people, held-out people, macro F1"].items():
        print(f"{name:24}{value:.3f}")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
