"""Batches of labelled faces or windows of sound for the training of an encoder: drawn, augmented and preprocessed."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from mien.config import Recipe
from mien.data import image_augment, mix_seeds
from mien.encoders.audio_chunks import SAMPLE_RATE, normalise
from mien.encoders.images import ImageEncoder
from mien.encoders.speech import SpeechEncoder
from mien.evaluation import metrics
from mien.evaluation.corruptions import add_noise
from mien.layers.system import System
from mien.records import FACE
from mien.training.tuning_examples import Examples, face_pixels
from mien.training.tuning_network import TunedNetwork, TuningBatch, TuningOptions

#: Gain and noise of augmented sound, as published for the voice of arXiv 2603.13056: probability, and range in dB.
_GAIN, _NOISE = (0.3, 6.0), (0.6, (8.0, 25.0))


class TuningData:
    """Training and validation examples as `mien.training.loop.TrainingData`."""

    def __init__(
        self, recipe: Recipe, encoder: ImageEncoder | SpeechEncoder, train: Examples, val: Examples | None
    ) -> None:
        self.settings, self.encoder, self.train, self.val = recipe.train, encoder, train, val
        options = TuningOptions(**recipe.corpus.options)
        self.augment, self.is_face = options.augment, encoder.modality == FACE
        self.window = round(options.window_s * SAMPLE_RATE)
        self.counted = "training images" if self.is_face else "training windows"
        self.size, self.epochs = len(train), recipe.train.epochs
        self.total_steps = self.epochs * -(-len(train) // recipe.train.batch)
        likeliest = train.targets.argmax(axis=1)
        share = (1 / np.bincount(likeliest)[likeliest]) ** recipe.train.balance
        self._chances = share / share.sum()

    def batches(self, epoch: int, part: tuple[int, int]) -> Iterator[TuningBatch]:
        """Batches drawn from seed and epoch; the next one is prepared in a thread. part: (rank, processes)."""
        rank, processes = part
        rng, n = np.random.default_rng([self.settings.seed, epoch]), len(self.train)
        order = rng.choice(n, n, p=self._chances) if self.settings.balance else rng.permutation(n)
        chunks = [order[i : i + self.settings.batch] for i in range(0, n, self.settings.batch)]
        seeds = [mix_seeds(self.settings.seed, epoch, number, rank) for number in range(len(chunks))]
        # A last batch that is smaller than the number of processes is filled up, so that all of them have a part.
        parts = [np.resize(chunk, max(len(chunk), processes))[rank::processes] for chunk in chunks]
        with ThreadPoolExecutor(1) as pool:
            ahead: Future[TuningBatch] | None = None
            for places, seed in zip(parts, seeds, strict=True):
                ready, ahead = ahead, pool.submit(self._batch, self.train, places, seed)
                if ready is not None:
                    yield ready.result()
            if ahead is not None:
                yield ahead.result()

    def validate(self, system: System[Any], epoch: int) -> dict[str, float]:
        """`val_macro_f1` over the classes that occur, `val_accuracy` and `val_loss`, and the macro F1 of each corpus if
        there are several. The label of an example is the class with the largest share."""
        if self.val is None:
            return {}
        assert isinstance(system, TunedNetwork)
        logits, device = [], next(system.parameters()).device
        for places in np.array_split(np.arange(len(self.val)), -(-len(self.val) // self.settings.batch)):
            logits.append(system(self._batch(self.val, places, None).to(device)).float().cpu())
        scores, targets = torch.cat(logits), torch.from_numpy(self.val.targets)
        loss = system.classification_loss(scores.to(device), targets.to(device))
        predicted, labels = scores.argmax(dim=1).numpy(), self.val.targets.argmax(axis=1)
        report = {"val_macro_f1": _macro_f1(labels, predicted, self.val.targets.shape[1])}
        report |= {"val_accuracy": float(metrics.accuracy(labels, predicted)), "val_loss": float(loss)}
        names = np.array(self.val.corpora)
        for name in sorted(set(self.val.corpora)) if len(set(self.val.corpora)) > 1 else ():
            chosen = names == name
            report[f"val_macro_f1_{name}"] = _macro_f1(labels[chosen], predicted[chosen], self.val.targets.shape[1])
        return report

    def _batch(self, examples: Examples, places: np.ndarray, seed: int | None) -> TuningBatch:
        """Preprocessed examples; augmented if there is a seed."""
        rng = None if seed is None or self.augment == "none" else np.random.default_rng(seed)
        sources, targets = [examples.sources[i] for i in places.tolist()], torch.from_numpy(examples.targets[places])
        if self.is_face:
            assert isinstance(self.encoder, ImageEncoder)
            size = self.encoder.crop.size
            faces = np.stack([face_pixels(source, size) for source in sources])
            if rng is not None:
                faces = (image_augment.strong if self.augment == "strong" else image_augment.weak)(faces, rng)
            pixels = self.encoder.preprocessing(self._at_scale(faces, rng), torch.device("cpu"))
            return TuningBatch(pixels, torch.zeros(len(faces), dtype=torch.int64), targets)
        assert isinstance(self.encoder, SpeechEncoder)
        samples = np.zeros((len(sources), self.window), np.float32)
        lengths = np.zeros(len(sources), np.int64)
        for row, source in enumerate(sources):
            assert isinstance(source, np.ndarray)
            heard = source.astype(np.float32) / 32767
            heard = heard if rng is None else _augment_sound(heard, rng, noisy=self.augment == "strong")
            heard = normalise(heard[None])[0] if self.encoder.chunking.normalise else heard
            samples[row, : len(heard)], lengths[row] = heard, len(heard)
        return TuningBatch(torch.from_numpy(samples), torch.from_numpy(lengths), targets)

    def _at_scale(self, faces: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
        """Crops of one of the encoder's scales, drawn for the batch; the middle one without a generator."""
        assert isinstance(self.encoder, ImageEncoder)
        scales = sorted(self.encoder.scales)
        return self.encoder.at_scale(faces, scales[len(scales) // 2] if rng is None else float(rng.choice(scales)))


def _macro_f1(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    return float(metrics.macro_f1(labels, predicted, classes=classes, over=np.unique(labels).tolist()))


def _augment_sound(samples: np.ndarray, rng: np.random.Generator, *, noisy: bool) -> np.ndarray:
    """Samples at another level and, if `noisy`, with noise."""
    if noisy and rng.random() < _NOISE[0]:
        level = float(np.sqrt(np.mean(samples**2)))
        samples = add_noise(samples, float(rng.uniform(*_NOISE[1])), level, rng)
    if rng.random() < _GAIN[0]:
        samples = samples * np.float32(10 ** (rng.uniform(-_GAIN[1], _GAIN[1]) / 20))
    return samples
