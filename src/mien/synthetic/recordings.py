"""Many plans at once, encoded in several processes, and the same plans spoilt: what training and benchmarks ask for."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from mien.encoders import face_geometry
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.records import FACE, VOICE, Clip, Recording, Stream
from mien.synthetic.mesh_tracks import track
from mien.synthetic.scenario import Impairment, Scenario, draw
from mien.synthetic.speech_synthesis import Sound, speak

T = TypeVar("T")
#: Sound is handed to the encoder in pieces of so many samples, as media/audio.py would.
BLOCK = 160_000


def face_stream(plan: Scenario, sound: Sound | None = None) -> Stream:
    """The subject's face as the starter's encoder would hand it over."""
    seen = track(plan, None if sound is None else sound.opening(plan.times()))
    return face_geometry.encode(seen.meshes, seen.times, seen.valid, {"synthetic": plan.id})


def voice_stream(sound: Sound) -> Stream:
    """The sound as the starter's encoder hands it over."""
    starts = range(0, max(len(sound.samples), 1), BLOCK)
    return ProsodyExtractor()((i / 16_000, sound.samples[i : i + BLOCK]) for i in starts)


def record(plan: Scenario, *, voice: bool = True) -> Recording:
    """One plan, encoded: a face stream, a voice stream if asked for, labels at every frame."""
    sound = speak(plan) if voice else None
    streams: dict[str, Stream] = {FACE: face_stream(plan, sound)}
    if sound:
        streams[VOICE] = voice_stream(sound)
    return Recording(Clip(plan.id, None, plan.subject, plan.split, plan.labels(plan.times())), streams)


def noisy(plan: Scenario, snr_db: float) -> Scenario:
    """The same plan with noise throughout, `snr_db` below neutral speech."""
    others = tuple(f for f in plan.faults if f.kind != "noise")
    return replace(plan, faults=(*others, Impairment("noise", 0.0, plan.seconds, snr_db)))


def spread_out(make: Callable[..., T], jobs: Sequence[tuple[object, ...]], workers: int) -> list[T]:
    """`make(*job)` of each job, in order, in `workers` processes; the result does not depend on their number."""
    if workers <= 1 or len(jobs) < 2:
        return [make(*job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(make, *zip(*jobs, strict=True), chunksize=max(1, len(jobs) // (8 * workers))))


def troupe(
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
