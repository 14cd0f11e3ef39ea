"""Encoded recordings without a picture in between: face tracks and voices of plans, with their truth.

What the starter is trained on. Nothing is rendered: the simulated mesh goes straight to the face encoder, the
synthesised sound straight to the voice encoder.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from mien.corpora.theatre.faces import track
from mien.corpora.theatre.plan import Fault, Plan, draw
from mien.corpora.theatre.speech import speak
from mien.encoders import face
from mien.encoders.voice import VoiceEncoder
from mien.records import FACE, VOICE, Clip, Recording, Stream


def record(plan: Plan, *, voice: bool = True) -> Recording:
    """One plan, encoded: a face stream at the plan's frame rate, a voice stream if asked for, labels at every frame."""
    times = plan.times()
    sound = speak(plan) if voice else None
    seen = track(plan, sound.opening(times) if sound else None)
    streams: dict[str, Stream] = {FACE: face.encode(seen.meshes, times, seen.valid)}
    if sound:
        streams[VOICE] = VoiceEncoder()([(0.0, sound.samples)])
    clip = Clip(plan.id, None, subject=plan.subject, split=plan.split, labels=plan.labels(times))
    return Recording(clip, streams)


def noisy(plan: Plan, snr_db: float) -> Plan:
    """The same plan with noise throughout, `snr_db` below neutral speech."""
    others = tuple(f for f in plan.faults if f.kind != "noise")
    return replace(plan, faults=(*others, Fault("noise", 0.0, plan.seconds, snr_db)))


def record_all(plans: Sequence[Plan], *, voice: bool = True, workers: int = 1) -> list[Recording]:
    """Plans encoded in order, in `workers` processes; the result does not depend on their number."""
    make = partial(record, voice=voice)
    if workers <= 1 or len(plans) < 2:
        return [make(plan) for plan in plans]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(make, plans, chunksize=max(1, len(plans) // (8 * workers))))


def plans(
    split: str, count: int, *, seconds: float = 20.0, seed: int = 0, balance: float = 0.0, faults: bool = True
) -> list[Plan]:
    """The first `count` plans of a split; see `plan.draw`."""
    return [draw(split, n, seconds=seconds, seed=seed, balance=balance, faults=faults) for n in range(count)]


def recordings(
    split: str,
    count: int,
    *,
    seconds: float = 20.0,
    seed: int = 0,
    balance: float = 0.0,
    faults: bool = True,
    voice: bool = True,
    workers: int = 1,
) -> list[Recording]:
    """Draw and encode `count` recordings of a split; people differ between splits. Same arguments, same values."""
    drawn = plans(split, count, seconds=seconds, seed=seed, balance=balance, faults=faults)
    return record_all(drawn, voice=voice, workers=workers)


def label_shares(made: Iterable[Recording], classes: int = 8) -> np.ndarray:
    """`(classes,)` share of frames of each class."""
    counts = np.zeros(classes)
    for recording in made:
        if recording.clip.labels is not None:
            counts += np.bincount(recording.clip.labels.expression, minlength=classes)
    return counts / max(1.0, counts.sum())
