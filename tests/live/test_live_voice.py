"""Voice features while the sound arrives: those of a file in the end, and after nine seconds before that."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from mien import hub
from mien.encoders.prosody_features import RELATIVE
from mien.encoders.voice_speech import PROSODY, STATES, VoiceSpeech
from mien.live.sound import LONGEST_GAP_S, LiveSound
from mien.live.voice import LiveVoice
from mien.media.audio import load
from mien.records import Stream

RATE = 16_000
pytestmark = pytest.mark.skipif(
    not hub.available("smart-turn"), reason="the network is not here: mien hub pull smart-turn"
)
#: Columns that do not depend on the rest of the recording.
LOCAL = [*range(PROSODY.start, RELATIVE.start), *range(STATES.start, STATES.stop)]


@pytest.fixture(scope="module")
def speech(shared: Path) -> np.ndarray:
    """Utterances of EMO-DB, 16 s, with two seconds of silence among them."""
    parts = [load(path)[1] for path in sorted((shared / "emodb").glob("*.wav"))[:8]]
    return np.concatenate([*parts[:3], np.zeros(2 * RATE, np.float32), *parts[3:]])[: 16 * RATE]


@pytest.fixture(scope="module")
def whole(speech: np.ndarray) -> Stream:
    (stream,) = VoiceSpeech().encode_audio([(0.0, speech)])
    return stream


def test_the_vectors_are_those_of_a_file_once_nothing_changes_them(speech: np.ndarray, whole: Stream) -> None:
    voice, start, settled = LiveVoice(0.0), 0, 0
    rng = np.random.default_rng(1)
    while start < len(speech):  # blocks of any length
        stop = start + int(rng.integers(1, 24_000))
        voice.add(speech[start:stop])
        start = stop
        values, times, valid = voice.vectors(0.0)
        np.testing.assert_allclose(times, whole.times[: len(times)], atol=1e-9)
        assert len(times) >= voice.samples / RATE * 12.5 - 2.5, "the latest vector is at most 0.2 s old"
        old = int((times < voice.stop_s - 9.0).sum())
        assert (valid[:old] == whole.valid[:old]).all()
        np.testing.assert_allclose(values[:old, LOCAL], whole.values[:old][:, LOCAL], atol=1e-4)
        settled = max(settled, old)
    assert settled > 80, "so that the comparison compares something"
    voice.finish()
    values, times, valid = voice.vectors(0.0)
    assert len(values) == len(whole.values)
    assert (valid == whole.valid).all()
    np.testing.assert_allclose(values[:, LOCAL], whole.values[:, LOCAL], atol=1e-4)


def test_what_is_dropped_does_not_change_the_rest(speech: np.ndarray) -> None:
    kept, dropping = LiveVoice(0.0), LiveVoice(0.0)
    for start in range(0, len(speech), 2 * RATE):
        kept.add(speech[start : start + 2 * RATE])
        dropping.add(speech[start : start + 2 * RATE])
        since = max(0.0, dropping.stop_s - 10.0)
        (values, times, valid), (rest, later, rest_valid) = kept.vectors(0.0), dropping.vectors(since)
        recent = np.isin(times.round(6), later.round(6)) & (times >= since)
        rest = rest[later >= since]
        np.testing.assert_allclose(values[recent][:, LOCAL], rest[:, LOCAL], atol=1e-4)
        assert (valid[recent] == rest_valid[later >= since]).all()


def test_silence_runs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    voice, calls = LiveVoice(0.0), []
    monkeypatch.setattr(voice._states, "peek", lambda: calls.append(1))
    for _ in range(12):
        voice.add(np.zeros(RATE // 4, np.float32))
        values, _, valid = voice.vectors(0.0)
    assert not valid.any()
    assert not values.any()
    assert not calls


def placed(blocks: list[tuple[float, np.ndarray, int]]) -> tuple[Stream, Stream]:
    """Voice and level of blocks (time, samples, rate), as one comes after the other."""
    sound = LiveSound({})
    for time_s, samples, rate in blocks:
        sound.add(samples, rate, time_s)
    return sound.streams(0.0, is_end=True)


def test_sound_is_resampled_and_mixed_like_that_of_a_file(speech: np.ndarray) -> None:
    mono = speech[: 6 * RATE]
    fine = np.repeat(mono, 3)  # 48 kHz, with images above 8 kHz that resampling removes
    stereo = np.stack([fine * 1.5, fine * 0.5], axis=1)
    voice, level = placed([(k / 10, stereo[k * 4800 : (k + 1) * 4800], 48_000) for k in range(60)])
    own, own_level = placed([(k / 10, mono[k * 1600 : (k + 1) * 1600], RATE) for k in range(60)])
    assert (voice.valid == own.valid).mean() > 0.95
    loud = own_level.values[:, 0] > -50
    n = min(len(level.values), len(loud))
    assert np.abs(level.values[:n][loud[:n]] - own_level.values[:n][loud[:n]]).max() < 2.0


def test_channels_that_cancel_do_not_silence_a_voice(speech: np.ndarray) -> None:
    opposite = np.stack([speech[: 3 * RATE], -speech[: 3 * RATE]], axis=1)
    voice, _ = placed([(0.0, opposite, RATE)])
    own, _ = placed([(0.0, speech[: 3 * RATE], RATE)])
    assert (voice.valid == own.valid).all()
    assert voice.valid.any()


@pytest.mark.parametrize("gap_s", [0.02, 0.4, LONGEST_GAP_S - 0.5, LONGEST_GAP_S + 2.0])
def test_sound_after_a_gap_is_at_its_own_time(speech: np.ndarray, gap_s: float) -> None:
    first, second = speech[: 2 * RATE], speech[2 * RATE : 4 * RATE]
    _, level = placed([(0.0, first, RATE), (2.0 + gap_s, second, RATE)])
    assert (np.diff(level.times) > 0).all()
    end_s = 4.0 + (0.0 if gap_s < 0.05 else gap_s)  # jitter moves nothing
    assert level.times[-1] == pytest.approx(end_s - 0.05, abs=0.11)
    inside = level.values[(level.times > 2.06) & (level.times < 2.0 + gap_s - 0.06)]
    assert (inside < -60).all()
    if gap_s > LONGEST_GAP_S:
        assert not len(inside), "a long gap is not filled: an hour of silence would take a minute of work"


def test_overlaps_are_cut_and_a_clock_that_was_set_begins_anew(speech: np.ndarray) -> None:
    block = speech[:RATE]
    _, level = placed([(0.0, block, RATE), (0.7, block, RATE)])
    assert level.times[-1] == pytest.approx(1.65, abs=0.11)
    _, level = placed([(50.0, block, RATE), (3.0, block, RATE)])
    assert {math.floor(t) for t in level.times} == {3, 50}


def test_memory_does_not_grow() -> None:
    sound, rng = LiveSound({}), np.random.default_rng(0)
    kept = []
    for k in range(80):
        sound.add(rng.normal(0, 0.05, RATE // 2).astype(np.float32), RATE, k / 2)
        voice, level = sound.streams(max(0.0, k / 2 - 16.0))
        kept.append((len(voice.times), len(level.times), len(sound._stretch.voice._measured.values)))  # type: ignore[union-attr]
    assert all(n <= limit for n, limit in zip(np.max(kept, axis=0), (17 * 12.5, 170, 900), strict=True))
