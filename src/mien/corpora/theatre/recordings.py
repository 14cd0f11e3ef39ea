"""The theatre without pictures: recordings with encoded face and voice, ready to train on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from mien.corpora.theatre import plan as plans
from mien.corpora.theatre.faces import track
from mien.corpora.theatre.plan import Plan
from mien.corpora.theatre.speech import Sound, speak
from mien.encoders import face
from mien.encoders.voice import VoiceEncoder
from mien.records import FACE, VOICE, Clip, Recording, Stream

#: Sound is handed to the encoder in pieces of so many samples, as media/audio.py would.
BLOCK = 160_000


def _length(seconds: float | tuple[float, float], split: str, number: int, seed: int) -> float:
    """A length, or one drawn between two evenly in the logarithm, so that short clips are as common as long ones."""
    if isinstance(seconds, tuple):
        low, high = seconds
        return float(np.exp(plans.entropy(seed, split, number, "length").uniform(np.log(low), np.log(high))))
    return float(seconds)


def face_stream(plan: Plan, sound: Sound | None = None) -> Stream:
    """The subject's face as the starter's encoder would hand it over."""
    seen = track(plan, None if sound is None else sound.opening(plan.times()))
    return face.encode(seen.meshes, seen.times, seen.valid, {"theatre": plan.id})


def voice_stream(sound: Sound, encoder: VoiceEncoder) -> Stream:
    """The sound as the starter's encoder hands it over."""
    starts = range(0, max(len(sound.samples), 1), BLOCK)
    return encoder((i / 16_000, sound.samples[i : i + BLOCK]) for i in starts)


def stream(
    split: str,
    count: int,
    seconds: float | tuple[float, float] = 30.0,
    seed: int = 0,
    *,
    voices: bool = True,
    faces: bool = True,
    balance: float = 0.5,
    faults: bool = True,
    per_person: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Recording]:
    """As `recordings`, one at a time."""
    encoder = VoiceEncoder() if voices else None
    for number in range(count):
        length = _length(seconds, split, number, seed)
        plan = plans.draw(
            split, number, seconds=length, seed=seed, balance=balance, faults=faults, per_person=per_person
        )
        sound = speak(plan) if voices else None
        streams = {FACE: face_stream(plan, sound)} if faces else {}
        if sound is not None and encoder is not None:
            streams[VOICE] = voice_stream(sound, encoder)
        clip = Clip(plan.id, None, plan.subject, split, plan.labels(plan.times()))
        if progress is not None:
            progress(number + 1, count)
        yield Recording(clip, streams)


def recordings(
    split: str,
    count: int,
    seconds: float | tuple[float, float] = 30.0,
    seed: int = 0,
    *,
    voices: bool = True,
    faces: bool = True,
    balance: float = 0.5,
    faults: bool = True,
    per_person: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Recording]:
    """Simulated recordings with planted truth, without rendering a picture.

    Args:
        split: `train`, `val` or `test`; no person is in two of them, whatever the seed.
        count: how many. The first n of a larger count are the same recordings.
        seconds: length of each, or the shortest and longest to draw from.
        seed: same seed, same bytes.
        voices, faces: which streams to make.
        balance: 0 for Aff-Wild2's long-tailed class shares, 1 for equal ones; see `plan.draw`.
        faults: plant occlusions, missing faces, darkness, silence and noise.
        per_person: recordings of each person.
        progress: called with recordings done and in all.

    Returns:
        Recordings whose labels are given at the video frames' times.
    """
    return list(
        stream(
            split,
            count,
            seconds,
            seed,
            voices=voices,
            faces=faces,
            balance=balance,
            faults=faults,
            per_person=per_person,
            progress=progress,
        )
    )
