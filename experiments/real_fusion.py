"""Compare fusions of real faces and real voices, one mechanism at a time.

Trains late fusion and the flagship (`safe_cross_attention`) on the same paired recordings as the starter's fusion
(`experiments.train_starter`): held-out FER+ faces with EMO-DB utterances of the same class. Tests them on FER+
validation faces paired at random, by class, with RAVDESS utterances; neither was trained on. Errors of such pairs are
independent, which favours every fusion; compare the rows, not with other corpora.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.scoring import Corruption, drop_in_bursts, format_interval, remove_stream, with_vote
from experiments.train_face import RECIPE as FACE_RECIPE
from experiments.train_face import held_out, load_faces
from experiments.train_starter import (
    PAIRS,
    RATE_HZ,
    SECONDS,
    VOICE_RECIPE,
    encode_views,
    held_out_voices,
    pair_recordings,
)
from experiments.voice_data import ravdess_utterances
from mien import checkpoint, config, models, trained_model
from mien.checkpoint_encoder import CheckpointEncoder
from mien.data.capture_augment import centre
from mien.encoders.voice_speech import VoiceSpeech
from mien.evaluation.metrics import macro_f1
from mien.labels import EXPRESSIONS, OTHER
from mien.media.audio import blocks
from mien.records import FACE, VOICE, Clip, Labels, Recording, Stream
from mien.training.fit import fit

CLASSES = [i for i in range(len(EXPRESSIONS)) if i != OTHER]
FLAGSHIP = {
    "name": "safe_cross_attention", "dim": 48, "heads": 4, "layers": 1, "feedforward": 2.0, "cross_layers": 1,
    "dropout": 0.2, "modality_dropout": {"whole": {"face": 0.15, "voice": 0.3}, "bursts": {"face": 0.3, "voice": 0.3}},
}  # fmt: skip
#: Variant -> sections `model` and `objective` of its recipe; empty for late fusion, which has those of the starter.
VARIANTS: dict[str, tuple[Mapping[str, object], Mapping[str, object]]] = {
    "late fusion": ({}, {}),
    "flagship": (FLAGSHIP, {"unimodal": 0.3}),
    "flagship, no cross-attention": (FLAGSHIP | {"cross_layers": 0}, {"unimodal": 0.3}),
    "flagship, attention not safe": (FLAGSHIP | {"attention": "naive"}, {"unimodal": 0.3}),
    "flagship, no modality dropout": (FLAGSHIP | {"modality_dropout": {"whole": {}, "bursts": {}}}, {"unimodal": 0.3}),
    "flagship, cross-entropy": (FLAGSHIP, {"unimodal": 0.3, "loss": "cross_entropy"}),
}
CONDITIONS: dict[str, Corruption | None] = {
    "both": None,
    "face": remove_stream(VOICE),
    "voice": remove_stream(FACE),
    "half the face missing": drop_in_bursts(FACE, 0.5),
}


def run(
    *,
    face: Path,
    voice: Path,
    ferplus: Path,
    emodb: Path,
    voices: Path,
    work: Path,
    seeds: int,
    workers: int,
    log: Callable[[str], None] = print,
) -> dict[str, dict[str, list[float]]]:
    """Variant -> condition -> macro F1 of seven classes for each seed of training and pairing.

    Args:
        face, voice: folders of the trained networks. ferplus, emodb: folders of the training corpora. voices: folder of
            RAVDESS. work: folder of the starter's training, which keeps aligned faces and encoded voices.
    """
    recipe = config.load(FACE_RECIPE, check=models.problems)
    _, held = held_out(load_faces(ferplus, "train", work / "faces", recipe, workers=workers, log=log))
    val = load_faces(ferplus, "val", work / "faces", recipe, workers=workers, log=log)
    val = val.take(np.isin(val.labels, CLASSES))
    encoder = CheckpointEncoder(face)
    test_faces = encoder.encode_crops(centre(val.images, encoder.crop.size))
    trained_voices = held_out_voices(work / "voice-sessions", emodb=emodb, final=voice, workers=workers, log=log)
    trained_voices = [(label, _logits(stream)) for label, stream in trained_voices]
    test_voices = [(label, _logits(stream)) for label, stream in encode_voices(voice, ravdess_utterances(voices))]
    views = encode_views(face, held, 0)
    assert held.soft is not None
    scores: dict[str, dict[str, list[float]]] = {name: {c: [] for c in CONDITIONS} for name in VARIANTS}
    scores["late fusion, no voting"] = {c: [] for c in CONDITIONS}
    for seed in range(seeds):
        pairs = pair_recordings(views, held.soft, trained_voices, dict(encoder.provenance), PAIRS, seed)
        tests = _test_pairs(test_faces, val.labels, test_voices, seed)
        for name, (model, objective) in VARIANTS.items():
            settings = _recipe(model, objective, seed)
            with tempfile.TemporaryDirectory() as folder:
                trained = checkpoint.load(
                    fit(settings, pairs, [], Path(folder) / "run", device="cpu", progress=False,
                        stages={FACE_RECIPE: face, VOICE_RECIPE: voice})
                )  # fmt: skip
            _add(scores[name], trained, tests)
            if name == "late fusion":
                alone = with_vote(trained, hop_seconds=settings.windows.seconds, triangular=False, smooth_seconds=0.0)
                _add(scores["late fusion, no voting"], alone, tests)
            log(f"seed {seed}, {name}: " + ", ".join(f"{c} {v[-1]:.3f}" for c, v in scores[name].items()))
    return scores


def encode_voices(run: Path, clips: Sequence[Clip]) -> list[tuple[int, Stream]]:
    """Class of each utterance, and its features by the voice network."""
    model, encoder = trained_model.load(run), VoiceSpeech()
    voices = []
    for clip in clips:
        assert clip.media is not None
        assert clip.labels is not None
        (stream,) = encoder.encode_audio(blocks(clip.media))
        voices.append((int(clip.labels.expression[0]), model.embed_streams({VOICE: stream})))
    return voices


def _logits(stream: Stream) -> Stream:
    """A stream of a voice network without its embedding, which means something else in another network."""
    values = stream.values.copy()
    values[:, len(EXPRESSIONS) :] = 0.0
    return replace(stream, values=values)


def _recipe(model: Mapping[str, object], objective: Mapping[str, object], seed: int) -> config.Recipe:
    raw = config.load("starter", [f"train.seed={seed}"], check=models.problems).model_dump()
    if model:
        raw["model"], raw["objective"] = dict(model), dict(objective)
        raw["train"] |= {"lr": 1e-3, "epochs": 8, "weight_decay": 0.05}
    return config.read(raw, origin="real fusion", check=models.problems)


def _test_pairs(
    faces: np.ndarray, labels: np.ndarray, voices: Sequence[tuple[int, Stream]], seed: int
) -> list[Recording]:
    """Each validation face with a random utterance of its class."""
    rng = np.random.default_rng([seed, 1])
    times = (np.arange(round(SECONDS * RATE_HZ)) + 0.5) / RATE_HZ
    made = []
    for number, (row, label) in enumerate(zip(faces, labels.tolist(), strict=True)):
        same = [stream for expression, stream in voices if expression == label]
        voice = same[int(rng.integers(len(same)))]
        held = Stream(np.tile(row, (len(times), 1)), times, np.ones(len(times), bool))
        truth = Labels(times, np.full(len(times), label), np.full((len(times), 2), np.nan))
        made.append(Recording(Clip(f"test-{number}", None, labels=truth), {FACE: held, VOICE: replace(voice)}))
    return made


def _add(scores: dict[str, list[float]], trained: checkpoint.Checkpoint, tests: Sequence[Recording]) -> None:
    for condition, corrupt in CONDITIONS.items():
        predicted, truth = [], []
        for number, recording in enumerate(tests):
            streams = (corrupt(recording, number) if corrupt else recording).streams
            _, probabilities, _ = trained.predict_streams(streams, 0.0, SECONDS)
            known = ~np.isnan(probabilities).any(axis=1)
            predicted.append(int(probabilities[known].mean(axis=0)[CLASSES].argmax()) if known.any() else -1)
            assert recording.clip.labels is not None
            truth.append(int(recording.clip.labels.expression[0]))
        classes = np.array([CLASSES[p] if p >= 0 else OTHER for p in predicted])
        scores[condition].append(macro_f1(np.array(truth), classes, classes=8, over=CLASSES))


def table(scores: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Markdown table: mean and 95 % t-interval over seeds for each variant and condition."""
    lines = ["| macro F1 | " + " | ".join(CONDITIONS) + " |", "|---" * (1 + len(CONDITIONS)) + "|"]
    for name, row in scores.items():
        lines.append(f"| {name} | " + " | ".join(format_interval(row[c]) for c in CONDITIONS) + " |")
    return "\n".join(lines)
