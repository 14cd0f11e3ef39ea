"""Training of the voice network: augmentation of audio, windows of utterances, scores, and a whole small run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import train_voice as script
from experiments import voice_data, voice_training, voice_transfer
from experiments.audio_augment import (
    RATE,
    Channel,
    apply_channel,
    change_speed,
    change_tempo,
    coloured_noise,
    draw_channel,
)
from experiments.voice_data import Utterance
from mien import config, hub, models
from mien.labels import EXPRESSIONS, NEUTRAL, OTHER, UNLABELLED
from mien.records import VOICE

needs_networks = pytest.mark.skipif(
    not hub.available("smart-turn"), reason="the network is not here: mien hub pull smart-turn"
)


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def pitch_of(sound: np.ndarray) -> float:
    middle = sound[len(sound) // 4 : -len(sound) // 4] * np.hanning(len(sound[len(sound) // 4 : -len(sound) // 4]))
    return float(np.abs(np.fft.rfft(middle, 1 << 17)).argmax() * RATE / (1 << 17))


@pytest.mark.parametrize("factor", [0.87, 1.15])
def test_speed_changes_pitch_and_length(factor: float) -> None:
    sound = change_speed(tone(200.0), factor)
    assert len(sound) == pytest.approx(RATE / factor, rel=0.01)
    assert pitch_of(sound) == pytest.approx(200 * factor, rel=0.01)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_tempo_changes_length_and_keeps_pitch(factor: float) -> None:
    sound = change_tempo(tone(200.0, 2.0), factor)
    assert len(sound) == pytest.approx(2 * RATE / factor, rel=0.03)
    assert pitch_of(sound) == pytest.approx(200, rel=0.01)
    middle = sound[RATE // 4 : RATE]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.3 / 2**0.5, rel=0.1)  # frames add up in phase


def test_noise_has_the_asked_level_and_tilt() -> None:
    rng = np.random.default_rng(0)
    clean, noisy = (apply_channel(tone(500.0), Channel(snr_db=snr), np.random.default_rng(1)) for snr in (None, 10.0))
    scale = float(clean @ noisy / (clean @ clean))
    snr_db = 10 * np.log10(np.mean((scale * clean) ** 2) / np.mean((noisy - scale * clean) ** 2))
    assert snr_db == pytest.approx(10.0, abs=0.5)
    pink = np.abs(np.fft.rfft(coloured_noise(rng, 1 << 16, 1.0))) ** 2
    low, high = (pink[round(hz * (1 << 16) / RATE) :][:2000].mean() for hz in (1000, 4000))
    assert 10 * np.log10(low / high) == pytest.approx(5.3, abs=1.0)  # 1/f over [1000, 1488] and [4000, 4488] Hz


def test_channels_differ_and_are_finite() -> None:
    sounds = [
        apply_channel(tone(300.0), draw_channel(np.random.default_rng(i)), np.random.default_rng(i)) for i in (1, 2)
    ]
    assert all(np.isfinite(s).all() and np.abs(s).max() <= 1 for s in sounds)
    assert len(sounds[0]) != len(sounds[1])


def utterance(name: str, expression: int, tokens: int, width: int = 3) -> Utterance:
    values = np.full((tokens, width), expression + 1, np.float16)
    return Utterance(name, expression, values, np.ones(tokens, bool), np.full(2, np.nan, np.float32))


def test_windows_hold_utterances_and_unlabelled_pauses() -> None:
    batch = voice_training.collate([[utterance("a", 2, 4), 3, utterance("b", 5, 2), 1], [utterance("c", 1, 300), 2]])
    assert batch.values[VOICE].shape == (2, voice_training.LONGEST, 3)
    assert batch.expression is not None
    assert batch.expression[0, :9].tolist() == [2] * 4 + [UNLABELLED] * 3 + [5] * 2
    assert batch.valid[VOICE][0, :10].tolist() == [True] * 4 + [False] * 3 + [True] * 2 + [False]
    assert batch.expression[1].eq(1).all()
    assert batch.values[VOICE][0, 8, 0] == 6


def test_some_bored_voices_count_as_neutral_but_no_synthetic_ones() -> None:
    def drawn(is_real: bool) -> list[int]:
        session = voice_data.Session("a", np.ones(8, bool), [utterance("a", OTHER, 4), utterance("b", 1, 4)], is_real)
        rng = np.random.default_rng(0)
        windows = [voice_training._draw_window(rng, session) for _ in range(300)]
        return [part.expression for window in windows for part in window if isinstance(part, Utterance)]

    real = drawn(is_real=True)
    share = real.count(NEUTRAL) / (real.count(NEUTRAL) + real.count(OTHER))
    assert share == pytest.approx(voice_training.CALM_SHARE, abs=0.06)
    assert set(drawn(is_real=False)) == {1, OTHER}


def test_scores_are_over_the_classes_of_the_corpus() -> None:
    truth = np.array([0, 0, 1, 7])
    p = np.array([[0.4, 0.1, 0.5], [0.6, 0.3, 0.1], [0.1, 0.5, 0.4], [0.9, 0.1, 0.0]])
    p = np.concatenate([p[:, :2], np.zeros((4, 5)), p[:, 2:]], axis=1)
    found = voice_transfer.score(truth, p, [0, 1])
    assert found.macro_f1 == pytest.approx((2 / 3 + 1) / 2)
    assert found.masked == 1.0


def test_groups_are_alone_or_fill_a_window() -> None:
    utterances = [utterance(str(i), 0, 10) for i in range(5)]
    assert [len(g) for g in voice_training._groups(utterances, 0.0)] == [1] * 5
    assert [len(g) for g in voice_training._groups(utterances, 20 / voice_data.RATE_HZ)] == [2, 2, 1]


def test_training_is_reproducible_and_learns() -> None:
    recipe = voice_training.with_width(config.load("voice_expression", ["model.ignored=[]"], check=models.problems), 3)
    utterances = [utterance(f"{k}{i}", k, 8) for k in (1, 4) for i in range(3)]
    possible = np.isin(np.arange(len(EXPRESSIONS)), [1, 4])
    sessions = [voice_data.Session("a", possible, utterances)]
    networks = [voice_training.train_network(recipe, sessions, (), seed=1, steps=150) for _ in range(2)]
    first, second = (torch.cat([x.flatten() for x in n.state_dict().values()]) for n in networks)
    assert torch.equal(first, second)
    truth, p = voice_training.utterance_probabilities(networks[0], sessions)
    assert (p[:, [1, 4]].argmax(axis=1) == (truth == 4)).all()


@needs_networks
def test_a_small_run_is_written_kept_and_predicts_without_torch(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "emodb").mkdir()
    for speaker in ("08", "11", "13"):
        for path in sorted((shared / "emodb").glob(f"{speaker}a*.wav"))[:4]:
            shutil.copy(path, tmp_path / "emodb")
    monkeypatch.setattr(script, "VARIANTS", 1)
    monkeypatch.setattr(script, "SPEAKERS", 1)
    monkeypatch.setattr(script, "STEPS", 2)
    lines: list[str] = []
    out = script.train_voice(tmp_path / "voice", emodb=tmp_path / "emodb", log=lines.append)
    assert lines[0].startswith("6 sessions of EMO-DB and 1 synthetic ones")
    assert sum(p.stat().st_size for p in out.rglob("*")) < 1_300_000
    assert script.train_voice(out, emodb=tmp_path / "nowhere", log=lines.append) == out
    assert lines[-1].endswith("is finished and kept")
    clip = next((tmp_path / "emodb").glob("*.wav"))
    code = (
        f"import sys, mien\ntimeline = mien.load({str(out)!r}).predict({str(clip)!r})\n"
        "assert timeline.table['p_anger'].drop_nulls().len() > 0\n"
        "print([m for m in ('torch', 'scipy', 'pydantic', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
