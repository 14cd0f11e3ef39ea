"""Encoded recordings without a picture in between: face tracks and voices of plans, with their truth.

What the starter is trained on. Nothing is rendered: the simulated mesh goes straight to the face encoder, the
synthesised sound straight to the voice encoder.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np

from mien.corpora.theatre.faces import track
from mien.corpora.theatre.plan import Fault, Plan, draw
from mien.corpora.theatre.speech import speak
from mien.encoders import face
from mien.encoders.voice import VoiceEncoder
from mien.records import FACE, VOICE, Clip, Recording, Stream

T = TypeVar("T")


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


def spread_out(make: Callable[..., T], jobs: Sequence[tuple[object, ...]], workers: int) -> list[T]:
    """`make(*job)` of each job, in order, in `workers` processes; the result does not depend on their number."""
    if workers <= 1 or len(jobs) < 2:
        return [make(*job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(make, *zip(*jobs, strict=True), chunksize=max(1, len(jobs) // (8 * workers))))


def recordings(
    split: str,
    count: int,
    *,
    first: int = 0,
    seconds: float = 20.0,
    seed: int = 0,
    balance: float = 0.0,
    faults: bool = True,
    voice: bool = True,
    snr_db: float | None = None,
    workers: int = 1,
) -> list[Recording]:
    """Draw and encode `count` recordings of a split, from number `first` on; see `plan.draw`.

    People differ between splits. Same arguments, same values. voice: synthesise and encode it (most of the time goes
    there). snr_db: noise throughout, this far below neutral speech.
    """
    plans = [
        draw(split, n, seconds=seconds, seed=seed, balance=balance, faults=faults) for n in range(first, first + count)
    ]
    if snr_db is not None:
        plans = [noisy(plan, snr_db) for plan in plans]
    return spread_out(partial(record, voice=voice), [(plan,) for plan in plans], workers)


def label_shares(made: Iterable[Recording], classes: int = 8) -> np.ndarray:
    """`(classes,)` share of frames of each class."""
    counts = np.zeros(classes)
    for recording in made:
        if recording.clip.labels is not None:
            counts += np.bincount(recording.clip.labels.expression, minlength=classes)
    return counts / max(1.0, counts.sum())
