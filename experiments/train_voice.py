"""Train the voice network `voice_expression` on EMO-DB and synthetic speech, with augmented audio."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.voice_data import Session, emodb_sessions, synthetic_sessions
from experiments.voice_training import STEPS, train_network, utterance_probabilities, with_width
from mien import checkpoint, config, models, onnx_export, trained_model
from mien.encoders.voice_speech import DIM, NAME, VoiceSpeech
from mien.evaluation import metrics
from mien.records import VOICE
from mien.training.fit import is_finished

#: Channels of each speaker of EMO-DB beside the recorded one, and synthetic speakers.
VARIANTS, SPEAKERS = 3, 40
#: Speakers whose utterances choose the temperature: a man and a woman, left out of a training for that alone.
CALIBRATION = ("11", "13")
_TEMPERATURES = np.geomspace(0.4, 3.0, 41)


def train_voice(
    out: Path, *, emodb: Path, workers: int = 1, log: Callable[[str], None] = print, seed: int = 3407
) -> Path:
    """Train the voice network and write its checkpoint with `network.onnx`; returns `out`.

    A finished checkpoint in `out` is kept. Encoded sessions lie in the folder `OUT-sessions` beside it, so that a
    stopped run does not encode them again; it can be deleted.

    Args:
        emodb: folder of EMO-DB's .wav files.
        workers: processes that encode.
        log: receives one line for each step.

    Raises:
        CorpusError: `emodb` is not EMO-DB.
        ArtefactError: a network of the encoder is missing.
    """
    if is_finished(out) and trained_model.has_onnx(out):
        log(f"{out} is finished and kept")
        return out
    encoder = VoiceSpeech()  # a missing network is found first
    began = time.perf_counter()
    cache = out.with_name(f"{out.name}-sessions")
    real = emodb_sessions(emodb, cache, variants=VARIANTS, workers=workers)
    synthetic = synthetic_sessions(SPEAKERS, cache, workers=workers)
    log(f"{len(real)} sessions of EMO-DB and {len(synthetic)} synthetic ones in {time.perf_counter() - began:.0f} s")
    recipe = with_width(config.load("voice_expression", check=models.problems), DIM)
    temperature, score = _fit_temperature(recipe, real, synthetic, seed)
    log(f"speakers {' and '.join(CALIBRATION)} left out: macro F1 {score:.3f}, temperature {temperature:.2f}")
    network = train_network(recipe, real, synthetic, seed=seed, steps=STEPS)
    recipe = config.changed(recipe, vote={"temperature": round(temperature, 3)})
    measured = {"emodb, two speakers left out, macro F1": round(score, 4)}
    checkpoint.save(out, network, recipe, metrics=measured, half=True)
    trained_model.write_inputs(out, {VOICE: NAME}, {VOICE: encoder.provenance})
    onnx_export.export(out)
    log(f"written to {out} after {time.perf_counter() - began:.0f} s")
    return out


def recorded(sessions: Sequence[Session], speakers: Sequence[str]) -> list[Session]:
    """The sessions of speakers as recorded: the first of each speaker."""
    first: dict[str, Session] = {}
    for session in sessions:
        first.setdefault(session.speaker, session)
    return [first[speaker] for speaker in speakers]


def _fit_temperature(
    recipe: config.Recipe, real: Sequence[Session], synthetic: Sequence[Session], seed: int
) -> tuple[float, float]:
    """Fit the temperature on held-out speakers: train a network without `CALIBRATION`, and return the temperature with
    the lowest negative log-likelihood on these speakers, and their macro F1."""
    kept = [session for session in real if session.speaker not in CALIBRATION]
    network = train_network(recipe, kept, synthetic, seed=seed, steps=STEPS)
    truth, p = utterance_probabilities(network, recorded(real, CALIBRATION))
    log_p = np.log(np.maximum(p, 1e-9))

    def loss(temperature: float) -> float:
        scaled = log_p / temperature
        scaled -= np.logaddexp.reduce(scaled, axis=1, keepdims=True)
        return -float(scaled[np.arange(len(truth)), truth].mean())

    best = min(_TEMPERATURES, key=loss)
    return float(best), float(metrics.macro_f1(truth, p.argmax(axis=1), over=np.unique(truth).tolist()))


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emodb", type=Path, required=True, help="folder of EMO-DB's .wav files")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that encode")
    options = parser.parse_args()
    train_voice(options.out, emodb=options.emodb, workers=options.workers)


if __name__ == "__main__":
    main()
