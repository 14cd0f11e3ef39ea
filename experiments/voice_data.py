"""Encoded utterances for voice networks: EMO-DB in several channels, synthetic speech, and RAVDESS for evaluation.

An utterance is encoded alone, by `voice-speech`, after its audio was augmented (`audio_augment`). The utterances of a
speaker in one channel form a session: one person, one room, one microphone. Sessions are kept as .npz files in a cache
folder, so that a stopped run goes on.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from experiments.audio_augment import Channel, apply_channel, draw_channel
from mien import clock
from mien.atomic import write_bytes
from mien.datasets import emodb, ravdess
from mien.encoders.voice_speech import NAME, VERSION, VoiceSpeech
from mien.labels import EXPRESSIONS
from mien.media import audio
from mien.records import Clip, Stream
from mien.synthetic.expression_prototypes import CIRCUMPLEX
from mien.synthetic.recordings import map_in_processes
from mien.synthetic.scenario import seeded_rng
from mien.synthetic.speech_synthesis import Speaker, synthesise

#: Tokens per second of the voice network.
RATE_HZ = 6.25
#: Changes with everything that changes the cached values.
_CACHE_VERSION = f"3 {NAME} {VERSION}"


@dataclass(frozen=True, slots=True)
class Utterance:
    """One encoded utterance.

    values: `(token, DIM)` float16. valid: `(token,)` bool. valence_arousal: `(2,)`, NaN where unknown.
    """

    id: str
    expression: int
    values: np.ndarray
    valid: np.ndarray
    valence_arousal: np.ndarray


@dataclass(frozen=True, slots=True)
class Session:
    """Utterances of one speaker in one channel. possible: `(classes,)` bool, the classes of the corpus. is_real: no
    synthetic speech."""

    speaker: str
    possible: np.ndarray
    utterances: list[Utterance]
    is_real: bool = True


def emodb_sessions(root: Path, cache: Path, *, variants: int, workers: int = 1) -> list[Session]:
    """Sessions of EMO-DB: each speaker as recorded, and in `variants` drawn channels."""
    return _corpus_sessions("emodb", emodb.read_utterances(root), cache, variants, workers, seed=1)


def ravdess_sessions(root: Path, cache: Path, *, variants: int = 0, workers: int = 1) -> list[Session]:
    """Sessions of RAVDESS's speech: each actor as recorded, and in `variants` drawn channels."""
    return _corpus_sessions("ravdess", ravdess_utterances(root), cache, variants, workers, seed=2)


def ravdess_utterances(root: Path) -> list[Clip]:
    """The speech of RAVDESS as labelled clips; calm counts as Neutral."""
    return [
        Clip(e.id, root / e.media, e.subject, labels=emodb.utterance_labels(e.duration_s or 0.0, int(e.labels["expr"])))
        for e in ravdess.read(root).entries
        if e.media
    ]


def _corpus_sessions(
    corpus: str, clips: Sequence[Clip], cache: Path, variants: int, workers: int, *, seed: int
) -> list[Session]:
    """Sessions of a corpus, by channel and then by speaker; channel 0 is as recorded."""
    jobs = [
        (
            cache / f"{corpus}_{speaker}_{variant}.npz",
            speaker,
            variant,
            [c for c in clips if c.subject == speaker],
            _possible(clips),
        )
        for variant in range(variants + 1)
        for speaker in sorted({clip.subject for clip in clips})
    ]
    return map_in_processes(partial(_clip_session, seed=seed), jobs, workers)


def synthetic_sessions(count: int, cache: Path, *, seed: int = 7, workers: int = 1) -> list[Session]:
    """Synthetic speech of `count` speakers: two utterances of each class, three of four speakers in a channel."""
    jobs = [(cache / f"synthetic_{seed}_{number}.npz", number, seed) for number in range(count)]
    return map_in_processes(_synthetic_session, jobs, workers)


def _possible(clips: Sequence[Clip]) -> np.ndarray:
    """Classes that occur in a corpus, `(classes,)` bool; a speaker may lack one of them."""
    found = {int(clip.labels.expression[0]) for clip in clips if clip.labels is not None}
    return np.isin(np.arange(len(EXPRESSIONS)), list(found))


def _clip_session(
    path: Path, speaker: str, variant: int, clips: Sequence[Clip], possible: np.ndarray, *, seed: int
) -> Session:
    def make() -> list[Utterance]:
        channel = draw_channel(seeded_rng(seed, "channel", speaker, variant)) if variant else Channel()
        utterances = []
        for clip in clips:
            assert clip.media is not None
            assert clip.labels is not None
            _, samples = audio.load(clip.media)
            if variant:
                samples = apply_channel(samples, channel, seeded_rng(seed, clip.id, variant))
            utterances.append(_encode(clip.id, samples, int(clip.labels.expression[0]), np.full(2, np.nan)))
        return utterances

    return Session(speaker, possible, _cached(path, make))


def _synthetic_session(path: Path, number: int, seed: int) -> Session:
    def make() -> list[Utterance]:
        rng = seeded_rng(seed, "voice session", number)
        speaker = Speaker.random(rng, ("female", "male")[number % 2])
        channel = draw_channel(rng) if number % 4 else Channel()
        utterances = []
        for expression in [*range(len(EXPRESSIONS))] * 2:
            seconds, intensity = float(rng.uniform(1.6, 3.2)), float(rng.uniform(0.5, 1.0))
            segments = [(0.0, seconds, EXPRESSIONS[expression], intensity)]
            speech = synthesise(segments, speaker, int(rng.integers(2**31)))
            samples = apply_channel(speech.samples, channel, rng)
            affect = np.array(CIRCUMPLEX[expression]) * intensity
            utterances.append(_encode(f"{number}_{len(utterances)}", samples, expression, affect))
        return utterances

    return Session(f"synthetic {number}", np.ones(len(EXPRESSIONS), bool), _cached(path, make), is_real=False)


@lru_cache(maxsize=1)
def _encoder() -> VoiceSpeech:
    return VoiceSpeech()


def _encode(name: str, samples: np.ndarray, expression: int, affect: np.ndarray) -> Utterance:
    values, valid = tokens(next(iter(_encoder().encode_audio([(0.0, samples)]))), len(samples) / audio.SAMPLE_RATE)
    return Utterance(name, expression, values.astype(np.float16), valid, affect.astype(np.float32))


def tokens(stream: Stream, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """A stream on the token clock: values `(token, DIM)` float32 and validity `(token,)`."""
    times = clock.token_times(0.0, seconds, RATE_HZ)
    return clock.resample(stream, times, RATE_HZ)


def _cached(path: Path, make: Callable[[], list[Utterance]]) -> list[Utterance]:
    """Utterances of a cache file; if it is missing or of another version, those of `make`, which are written to it."""
    if path.is_file():
        with np.load(path) as file:
            if str(file["version"]) == _CACHE_VERSION:
                return _unpack({name: file[name] for name in file.files})
    made = make()
    lengths = np.array([len(u.values) for u in made])

    buffer = io.BytesIO()
    np.savez(
        buffer,
        version=np.array(_CACHE_VERSION),
        id=np.array([u.id for u in made]),
        expression=np.array([u.expression for u in made]),
        length=lengths,
        affect=np.stack([u.valence_arousal for u in made]),
        values=np.concatenate([u.values for u in made]),
        valid=np.concatenate([u.valid for u in made]),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())
    return made


def _unpack(file: dict[str, np.ndarray]) -> list[Utterance]:
    stops = np.cumsum(file["length"])
    values, valid = np.split(file["values"], stops[:-1]), np.split(file["valid"], stops[:-1])
    columns = zip(file["id"], file["expression"], values, valid, file["affect"], strict=True)
    return [Utterance(str(name), int(label), v, m, affect) for name, label, v, m, affect in columns]
