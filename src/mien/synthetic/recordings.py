"""Simulated recordings: scenarios encoded by the starter's encoders, in several processes."""

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
from mien.synthetic.action_units import unit_labels
from mien.synthetic.mesh_tracks import MeshTrack, simulate_track
from mien.synthetic.scenario import Impairment, Scenario, draw_scenario
from mien.synthetic.speech_synthesis import Speech, synthesise_scenario

T = TypeVar("T")
#: Samples per block handed to the voice encoder, as `media/audio.py` does.
BLOCK = 160_000


def encode_face(scenario: Scenario, speech: Speech | None = None) -> Stream:
    """Simulate the subject's face track and encode it as face geometry. speech: articulates the mouth."""
    return _encode_track(scenario, _track(scenario, speech))


def _track(scenario: Scenario, speech: Speech | None) -> MeshTrack:
    return simulate_track(scenario, None if speech is None else speech.mouth_opening_at(scenario.times()))


def _encode_track(scenario: Scenario, track: MeshTrack) -> Stream:
    return face_geometry.encode(track.meshes, track.times, track.valid, {"synthetic": scenario.id})


def encode_voice(speech: Speech) -> Stream:
    """Encode speech as voice prosody."""
    starts = range(0, max(len(speech.samples), 1), BLOCK)
    return ProsodyExtractor()((i / 16_000, speech.samples[i : i + BLOCK]) for i in starts)


def simulate_recording(scenario: Scenario, *, voice: bool = True) -> Recording:
    """Simulate and encode one scenario: a face stream, a voice stream if `voice`, and labels at every frame.

    The labels hold action units too, from the strengths that deform the face (`action_units.unit_labels`).
    """
    speech = synthesise_scenario(scenario) if voice else None
    track = _track(scenario, speech)
    streams: dict[str, Stream] = {FACE: _encode_track(scenario, track)}
    if speech:
        streams[VOICE] = encode_voice(speech)
    labels = replace(scenario.labels(scenario.times()), scores={"au": unit_labels(track.actions)})
    return Recording(Clip(scenario.id, None, scenario.subject, scenario.split, labels), streams)


def add_noise(scenario: Scenario, snr_db: float) -> Scenario:
    """Replace the noise of a scenario by noise throughout, `snr_db` below neutral speech."""
    others = tuple(f for f in scenario.impairments if f.kind != "noise")
    return replace(scenario, impairments=(*others, Impairment("noise", 0.0, scenario.seconds, snr_db)))


def map_in_processes(function: Callable[..., T], jobs: Sequence[tuple[object, ...]], workers: int) -> list[T]:
    """Return `function(*job)` for each job, in order, computed in `workers` processes (1: in this process)."""
    if workers <= 1 or len(jobs) < 2:
        return [function(*job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(function, *zip(*jobs, strict=True), chunksize=max(1, len(jobs) // (8 * workers))))


def simulate_recordings(
    split: str,
    count: int,
    *,
    first: int = 0,
    seconds: float = 20.0,
    seed: int = 0,
    balance: float = 0.0,
    impairments: bool = True,
    voice: bool = True,
    snr_db: float | None = None,
    workers: int = 1,
) -> list[Recording]:
    """Draw, simulate and encode recordings of a split. The same arguments give the same values.

    Args:
        split: `train`, `val` or `test`; people differ between splits.
        count: number of recordings.
        first: number of the first recording, see `scenario.draw_scenario`.
        seconds, seed, balance, impairments: see `scenario.draw_scenario`.
        voice: synthesise and encode the voice, which takes most of the time.
        snr_db: noise throughout at this signal-to-noise ratio; None adds none.
        workers: processes.
    """
    scenarios = [
        draw_scenario(split, n, seconds=seconds, seed=seed, balance=balance, impairments=impairments)
        for n in range(first, first + count)
    ]
    if snr_db is not None:
        scenarios = [add_noise(scenario, snr_db) for scenario in scenarios]
    return map_in_processes(partial(simulate_recording, voice=voice), [(scenario,) for scenario in scenarios], workers)
