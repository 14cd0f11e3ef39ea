"""Macro F1 and time of training on own data with small inputs, compared with logistic regression.

    python bench/small_inputs.py [--seeds 3] [--only digits] [--threads 2] [key=value...]

Two sets of clips, one vector a modality:

* digits: scikit-learn's 1,797 images of digits, cut into left and right halves of 32 pixels; 1,000 for training, 200
  to select the epoch, 597 for the test.
* clips: 6,000 clips of one second with six numbers a modality, eight normal distributions of equal spread. Logistic
  regression is the best possible classifier for them, up to the sampling of its training data. 4,000 for training, 800
  to select the epoch, 1,200 for the test.

`mien.custom_data.train` trains one checkpoint, scored with both modalities and without either. The peer is one
logistic regression for each of the three sets of numbers, standardised, trained on the same training clips. Prints a
Markdown table of the mean over seeds (of the data and of the training), and of the seconds of training, the start of
the process left out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mien import custom_data
from mien.records import Recording

#: What is left in a test clip: name -> the modalities.
CONDITIONS = {"both": ("face", "voice"), "face alone": ("face",), "voice alone": ("voice",)}
#: face `(clip, dim)`, voice `(clip, dim)`, class `(clip,)`, and the numbers of training and validation clips.
Data = tuple[np.ndarray, np.ndarray, np.ndarray, int, int]


def digits(seed: int) -> Data:
    """Halves of scikit-learn's digits, shuffled."""
    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(classes))
    halves = images[order].reshape(-1, 8, 2, 4)
    return halves[:, :, 0].reshape(-1, 32), halves[:, :, 1].reshape(-1, 32), classes[order], 1000, 200


def clips(seed: int) -> Data:
    """Normal distributions of equal spread, with unequal numbers of clips."""
    rng = np.random.default_rng(100 + seed)
    means = rng.normal(size=(8, 12)) * 0.75
    classes = rng.choice(8, 6000, p=rng.dirichlet(np.full(8, 3.0)))
    values = means[classes] + rng.normal(size=(6000, 12))
    return values[:, :6], values[:, 6:], classes, 4000, 800


SETS = {"digits": digits, "clips": clips}


def recordings(data: Data) -> list[Recording]:
    """A recording for each clip, with its split."""
    face, voice, classes, train, val = data
    names = [f"class {i}" for i in range(classes.max() + 1)]
    splits = ["train"] * train + ["val"] * val + ["test"] * (len(classes) - train - val)
    return [
        custom_data.recording(f"clip{i}", face=f, voice=v, label=names[c], classes=names, split=s)
        for i, (f, v, c, s) in enumerate(zip(face, voice, classes, splits, strict=True))
    ]


def peer_scores(data: Data) -> dict[str, float]:
    """Condition -> macro F1 of a logistic regression that knows which modalities are missing."""
    *values, classes, train, val = data
    by_name = dict(zip(CONDITIONS["both"], values, strict=True))
    test = slice(train + val, None)
    scores = {}
    for condition, names in CONDITIONS.items():
        x = np.hstack([by_name[name] for name in names])
        peer = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x[:train], classes[:train])
        scores[condition] = float(f1_score(classes[test], peer.predict(x[test]), average="macro"))
    return scores


def our_scores(data: Data, seed: int, overrides: Sequence[str] = ()) -> tuple[dict[str, float], float]:
    """Condition -> macro F1 of a checkpoint trained on the same clips, and the seconds of its training."""
    made = recordings(data)
    names = sorted({f"class {c}" for c in data[2]}, key=lambda name: int(name.split()[1]))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run = custom_data.train(
            [r for r in made if r.clip.split != "test"], f"{folder}/run", [f"train.seed={seed}", *overrides],
            classes=names, progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - began
        test = [r for r in made if r.clip.split == "test"]
        scores = {
            condition: custom_data.evaluate(run, [replace(r, streams={m: r.streams[m] for m in kept}) for r in test])[
                "macro F1"
            ]
            for condition, kept in CONDITIONS.items()
        }
    return scores, seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="override of the recipe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", choices=list(SETS))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    overrides = [f"train.threads={options.threads}", *options.overrides]
    print("| clips | modalities | mien | logistic regression | difference, each seed | seconds of training |")
    print("|---|---|---|---|---|---|")
    for name in [options.only] if options.only else SETS:
        ours, peers, seconds = [], [], []
        for seed in range(options.seeds):
            data = SETS[name](seed)
            scores, elapsed = our_scores(data, seed, overrides)
            ours.append(scores)
            peers.append(peer_scores(data))
            seconds.append(elapsed)
        for condition in CONDITIONS:
            a, b = (np.array([row[condition] for row in rows]) for rows in (ours, peers))
            differences = ", ".join(f"{d:+.3f}" for d in a - b)
            cells = [name, condition, f"{a.mean():.3f}", f"{b.mean():.3f}", differences, f"{np.median(seconds):.0f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
