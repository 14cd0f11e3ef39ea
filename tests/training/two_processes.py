"""Train into the folder of the first argument, with as many processes as the second says and `train.batch` and
`train.accumulate` of the third and fourth; a script that test_ddp.py starts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from mien import config
from mien.records import Clip, Labels, Recording, Stream
from mien.training.fit import fit


def recordings(seed: int, count: int) -> list[Recording]:
    """Every token is labelled, so that all parts of a batch have equal weight; eight windows in two recordings."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        times = np.arange(80) / 10 + 0.05
        expression = np.repeat(rng.integers(0, 3, 4), 20)
        values = np.eye(3)[expression] + 0.5 * rng.normal(size=(80, 3))
        labels = Labels(times, expression, np.full((80, 2), np.nan))
        stream = Stream(values.astype(np.float32), times, np.ones(80, bool))
        made.append(Recording(Clip(f"{seed}-{number}", None, labels=labels), {"face": stream, "voice": stream}))
    return made


RECIPE = config.read(
    {
        "paper": {"title": "t", "arxiv": "1"},
        "corpus": {"name": "test", "labels": ["a", "b", "c"]},
        "features": {"face": {"encoder": "f"}, "voice": {"encoder": "v"}},
        "windows": {"seconds": 2.0, "hop_seconds": 2.0, "rate_hz": 10.0, "jitter": False},
        "model": {
            "name": "safe_cross_attention",
            "dim": 16,
            "heads": 2,
            "layers": 1,
            "dropout": 0.0,
            "modality_dropout": {"whole": {}},
        },
        "objective": {"class_weights": "none", "valence_arousal": 0.0},
        "train": {"epochs": 3, "batch": 8, "lr": 1e-2, "ema": 0.5, "threads": 1},
        "vote": {},
    },
    origin="two processes",
)

if __name__ == "__main__":
    fit(
        config.changed(RECIPE, train={"batch": int(sys.argv[3]), "accumulate": int(sys.argv[4])}),
        recordings(1, 4),
        recordings(2, 2),
        Path(sys.argv[1]),
        device="cpu",
        devices=int(sys.argv[2]),
        progress=False,
    )
