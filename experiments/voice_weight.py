"""Weight of the voice beside a network over single faces, on real faces and real voices paired by class.

Each face is paired with an utterance of the same class, drawn at random, because corpora with labelled faces and voices
of the same people need an agreement. The errors of the two are then independent, which favours every combination; the
result to use is the order of the weights.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

import mien
from mien.encoders import cards
from mien.encoders.onnx_face import OnnxFace
from mien.evaluation.metrics import macro_f1
from mien.labels import EXPRESSIONS

#: Classes that both have, in the order of FER+'s votes and as RAVDESS's numbers.
FER_VOTES = ("Neutral", "Happiness", "Surprise", "Sadness", "Anger", "Disgust", "Fear")
RAVDESS = {
    "01": "Neutral",
    "03": "Happiness",
    "04": "Sadness",
    "05": "Anger",
    "06": "Fear",
    "07": "Disgust",
    "08": "Surprise",
}
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)


def load_faces(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """FER+ validation faces with a majority of votes for one class: `(n, 48, 48, 3)` uint8, labels `(n,)`."""
    images, labels = [], []
    with (folder / "FER2013Valid" / "label.csv").open() as file:
        for row in csv.reader(file):
            votes = np.array([int(v) for v in row[2:12]])
            if votes[: len(FER_VOTES)].max() * 2 > votes.sum():
                images.append(cv2.imread(str(folder / "FER2013Valid" / row[0])))
                labels.append(EXPRESSIONS.index(FER_VOTES[int(votes.argmax())]))
    return np.stack(images), np.array(labels)


def voice_predictions(folder: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Class and mean probabilities `(8,)` of each RAVDESS utterance, by the starter's voice."""
    predictor = mien.load("starter")
    for path in sorted(folder.rglob("*.flac")):
        code = path.stem.split("-")[2]
        if code in RAVDESS:
            p = predictor.predict(path, face=False).table.select("^p_.*$").drop_nulls().to_numpy()
            yield EXPRESSIONS.index(RAVDESS[code]), p.mean(axis=0) if len(p) else np.full(8, 1 / 8)


def measure(faces: Path, voices: Path, network: str, draws: int = 5) -> dict[float, float]:
    """Macro F1 over seven classes by weight of the voice, mean over random pairings."""
    images, labels = load_faces(faces)
    encoder = OnnxFace(network)
    face = cards.interpret(encoder.card, encoder.encode_crops(images))[0]
    pairs = list(voice_predictions(voices))
    truth, voice = np.array([label for label, _ in pairs]), np.stack([p for _, p in pairs])
    over = [EXPRESSIONS.index(name) for name in FER_VOTES]
    scores: dict[float, list[float]] = {w: [] for w in WEIGHTS}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        partner = np.array([rng.choice(np.flatnonzero(truth == label)) for label in labels])
        for weight in WEIGHTS:
            mean = (1 - weight) * face + weight * voice[partner]
            scores[weight].append(macro_f1(labels, mean.argmax(axis=1), classes=8, over=over))
    return {weight: float(np.mean(values)) for weight, values in scores.items()}
