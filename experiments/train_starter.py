"""Train the shipped starter and measure it: `make starter`.

    python -m experiments.train_starter --ferplus DIR --emodb DIR [--work DIR] [--out FOLDER]

1. face: a network on single faces, from the votes of FER+ (`experiments.train_face`).
2. voice: a network on speech, from EMO-DB and synthesised speech (`experiments.train_voice`).
3. fusion: late fusion of both (`recipes/starter.yaml`), trained on pairs of a face and an utterance that neither
   network was trained on: held-out FER+ images, and EMO-DB predicted by a network that knows no real speech.

Every step is kept in the folder `--work`, so that an interrupted run goes on where it stopped. The same seeds and
numbers of threads give the same weights.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from experiments.train_face import RECIPE as FACE_RECIPE
from experiments.train_face import halve_and_export, held_out, load_faces, train_face
from experiments.train_voice import SPEAKERS, VARIANTS, train_voice
from experiments.voice_data import RATE_HZ as VOICE_RATE_HZ
from experiments.voice_data import emodb_sessions, synthetic_sessions
from experiments.voice_training import train_network, with_width
from mien import checkpoint, config, models, trained_model
from mien.checkpoint_encoder import CheckpointEncoder
from mien.data.capture_augment import capture
from mien.datasets.frame_times import label_times
from mien.labels import EXPRESSIONS
from mien.records import FACE, VOICE, Clip, ImageSet, Labels, Recording, Stream
from mien.synthetic.expression_prototypes import CIRCUMPLEX
from mien.training.fit import fit

VOICE_RECIPE = "voice_expression"
#: Paired recordings of the fusion, their length, views of each face, and the share that has a voice.
PAIRS, SECONDS, RATE_HZ, VIEWS, VOICED_SHARE = 6000, 3.0, 12.0, 4, 0.7


def pair_recordings(
    faces: np.ndarray,
    soft: np.ndarray,
    voices: Sequence[tuple[int, Stream]],
    face_provenance: dict[str, str],
    count: int,
    seed: int,
) -> list[Recording]:
    """Recordings of one expression: a face that is held, and an utterance of the same class.

    Args:
        faces: features of the views of each face, `(face, view, dim)`. soft: `(face, classes)` votes, from which the
            class of a recording is drawn.
        voices: class and stream of each utterance. Classes without one have no voice, nor have some of the others.
    """
    rng = np.random.default_rng(seed)
    times = (np.arange(round(SECONDS * RATE_HZ)) + 0.5) / RATE_HZ
    by_class: dict[int, list[Stream]] = {}
    for expression, stream in voices:
        by_class.setdefault(expression, []).append(stream)
    recordings = []
    for number in range(count):
        row = int(rng.integers(len(faces)))
        expression = int(rng.choice(len(EXPRESSIONS), p=soft[row] / soft[row].sum()))
        view = rng.integers(faces.shape[1], size=len(times))
        streams = {FACE: Stream(faces[row, view], times, np.ones(len(times), bool), face_provenance)}
        if expression in by_class and rng.random() < VOICED_SHARE:
            streams[VOICE] = by_class[expression][int(rng.integers(len(by_class[expression])))]
        at = label_times(SECONDS)
        affect = np.tile(np.array(CIRCUMPLEX[expression], float), (len(at), 1))
        labels = Labels(at, np.full(len(at), expression), affect)
        recordings.append(Recording(Clip(f"pair-{number:05d}", None, labels=labels), streams))
    return recordings


def encode_views(run: Path, images: ImageSet, seed: int) -> np.ndarray:
    """Features of `VIEWS` augmented views of each image by the face network, `(n, VIEWS, dim)` float32."""
    encoder = CheckpointEncoder(run)
    rng = np.random.default_rng(seed)
    views = []
    for _ in range(VIEWS):
        crops = capture(images.images, encoder.crop.size, rng).permute(0, 2, 3, 1).numpy()
        parts = [encoder.encode_crops(crops[i : i + 256]) for i in range(0, len(crops), 256)]
        views.append(np.concatenate(parts))
    return np.stack(views, axis=1)


def held_out_voices(
    cache: Path, *, emodb: Path, final: Path, workers: int = 1, log: Callable[[str], None] = print
) -> list[tuple[int, Stream]]:
    """Class and features of EMO-DB's utterances, as recorded and in drawn channels, by a voice network that was trained
    on synthesised speech alone. So the fusion learns to trust the voice as far as it is right on speech unlike that of
    training, which the speech of every user is.

    Args:
        cache: folder of encoded sessions, as `train_voice` keeps it; the features are kept beside it.
        final: the voice network that the fusion reads; its provenance is that of the streams.
    """
    provenance = trained_model.stage_provenance(VOICE_RECIPE, checkpoint.weights_digest(final), "embedding")
    file = cache.with_name(f"{cache.name}-held-out.npz")
    if not file.is_file():
        real = emodb_sessions(emodb, cache, variants=VARIANTS, workers=workers)
        synthetic = synthetic_sessions(SPEAKERS, cache, workers=workers)
        recipe = with_width(config.load(VOICE_RECIPE, check=models.problems), real[0].utterances[0].values.shape[1])
        log("voice network for the fusion, trained without real speech")
        network = train_network(recipe, [], synthetic, seed=0)
        labels, lengths, values, valid = [], [], [], []
        for utterance in (u for session in real for u in session.utterances):
            tokens = torch.from_numpy(utterance.values.astype(np.float32))[None]
            with torch.inference_mode():
                found, known = network.embed({VOICE: tokens}, {VOICE: torch.from_numpy(utterance.valid)[None]})
            labels.append(utterance.expression)
            lengths.append(len(utterance.values))
            values.append(found[0].numpy())
            valid.append(known[0].numpy())
        np.savez(
            file, labels=labels, lengths=lengths, values=np.concatenate(values), valid=np.concatenate(valid)
        )  # fmt: skip
    with np.load(file, allow_pickle=False) as kept:
        stops = np.cumsum(kept["lengths"])[:-1]
        parts = zip(kept["labels"], np.split(kept["values"], stops), np.split(kept["valid"], stops), strict=True)
        return [
            (int(label), Stream(v, (np.arange(len(v)) + 0.5) / VOICE_RATE_HZ, known, provenance))
            for label, v, known in parts
        ]


def train_fusion(
    out: Path,
    face: Path,
    voice: Path,
    *,
    ferplus: Path,
    emodb: Path,
    work: Path,
    workers: int,
    log: Callable[[str], None],
) -> Path:
    """Train late fusion on the outputs of the trained face and voice networks, into `out`; returns `out`."""
    if (out / "network.onnx").is_file():
        return out
    recipe = config.load("starter", check=models.problems)
    face_recipe = config.load(FACE_RECIPE, check=models.problems)
    _, held = held_out(load_faces(ferplus, "train", work / "faces", face_recipe, workers=workers, log=log))
    assert held.soft is not None
    voices = held_out_voices(work / "voice-sessions", emodb=emodb, final=voice, workers=workers, log=log)
    provenance = dict(CheckpointEncoder(face).provenance)
    recordings = pair_recordings(
        encode_views(face, held, recipe.train.seed), held.soft, voices, provenance, PAIRS, recipe.train.seed
    )
    log(f"training the fusion on {len(recordings)} pairs of {len(held)} faces and {len(voices)} utterances")
    shutil.rmtree(out, ignore_errors=True)
    fit(recipe, recordings, [], out, device="cpu", progress=False, stages={FACE_RECIPE: face, VOICE_RECIPE: voice})
    halve_and_export(out)
    return out


def main() -> None:
    """Parse the command line, train, and put the checkpoint in place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ferplus", type=Path, required=True, help="folder of FER+ (FER2013Train, FER2013Valid)")
    parser.add_argument("--emodb", type=Path, required=True, help="folder of EMO-DB's .wav files")
    parser.add_argument("--work", type=Path, default=Path("runs/starter"), help="folder of the steps")
    parser.add_argument("--out", type=Path, default=Path(checkpoint.__file__).with_name("starter"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    workers, began = os.cpu_count() or 1, time.perf_counter()

    def log(text: str) -> None:
        print(f"{(time.perf_counter() - began) / 60:5.1f} min  {text}", flush=True)

    work: Path = options.work
    face = train_face(work / "face", root=options.ferplus, cache=work / "faces", workers=workers, log=log)
    voice = train_voice(work / "voice", emodb=options.emodb, workers=workers, log=log)
    fusion = train_fusion(
        work / "fusion", face, voice, ferplus=options.ferplus, emodb=options.emodb, work=work, workers=workers, log=log
    )
    shutil.rmtree(options.out, ignore_errors=True)
    trained_model.copy_checkpoint(fusion, options.out)
    size = sum(p.stat().st_size for p in options.out.rglob("*") if p.is_file())
    log(f"written to {options.out}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
