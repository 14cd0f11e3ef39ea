"""Speech synthesis: seeded speech-like sound whose pitch, range, level, rate and tilt follow the emotion.

Nonsense syllables from a seeded source-filter synthesiser (`vocal_tract`) with the prosody of `prosody`. It contains no
real voice. The mouth opening is returned with the sound, so that a simulated face can move its lips accordingly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mien.synthetic import prosody
from mien.synthetic.prosody import Delivery
from mien.synthetic.scenario import VOICE_IMPAIRMENTS, Scenario, seeded_rng
from mien.synthetic.vocal_tract import FRAME, RATE_HZ, Curves, synthesise_voice

CONTROL_HZ = RATE_HZ / FRAME
#: RMS level of neutral speech in dB below full scale; signal-to-noise ratios refer to it.
LEVEL_DB = -25.0

#: First three formants in Hz, for a tract of length 1 (adult male).
Formants = tuple[float, float, float]


class Vowel(NamedTuple):
    """Formants and mouth opening in [0, 1] of a vowel."""

    formants: Formants
    opening: float


class Consonant(NamedTuple):
    """Articulation of a consonant.

    formants: targets. voiced: amplitude of the voice. hiss, hiss_hz: amplitude and centre of the frication. plosive:
    closed before the frication. opening: of the mouth, in [0, 1]. length_s: seconds.
    """

    formants: Formants
    voiced: float
    hiss: float
    hiss_hz: float
    plosive: bool
    opening: float
    length_s: float


#: After Peterson and Barney (1952), rounded.
VOWELS = (
    Vowel((730, 1100, 2450), 1.0),
    Vowel((660, 1700, 2400), 0.85),
    Vowel((530, 1850, 2480), 0.6),
    Vowel((390, 2000, 2550), 0.4),
    Vowel((280, 2250, 2950), 0.25),
    Vowel((570, 840, 2400), 0.6),
    Vowel((440, 1020, 2250), 0.4),
    Vowel((310, 880, 2250), 0.25),
    Vowel((500, 1450, 2450), 0.5),
)
#: Neutral vowel, towards which unstressed vowels are reduced.
SCHWA = VOWELS[8]
CONSONANTS = (
    Consonant((260, 1050, 2200), 0.40, 0.0, 4000, False, 0.0, 0.065),  # m
    Consonant((260, 1500, 2500), 0.40, 0.0, 4000, False, 0.12, 0.06),  # n
    Consonant((340, 1200, 2600), 0.55, 0.0, 4000, False, 0.2, 0.06),  # l
    Consonant((320, 1250, 1750), 0.50, 0.0, 4000, False, 0.2, 0.06),  # r
    Consonant((280, 2200, 2900), 0.60, 0.0, 4000, False, 0.15, 0.05),  # j
    Consonant((300, 800, 2200), 0.55, 0.0, 4000, False, 0.1, 0.055),  # w
    Consonant((320, 1700, 2550), 0.0, 0.30, 6000, False, 0.1, 0.095),  # s
    Consonant((320, 1800, 2500), 0.0, 0.30, 3400, False, 0.12, 0.09),  # sh
    Consonant((320, 1100, 2300), 0.0, 0.10, 4500, False, 0.08, 0.085),  # f
    Consonant((300, 1100, 2300), 0.25, 0.08, 4500, False, 0.08, 0.06),  # v
    Consonant((300, 900, 2200), 0.0, 0.25, 1200, True, 0.0, 0.08),  # p
    Consonant((300, 1750, 2600), 0.0, 0.30, 4500, True, 0.08, 0.08),  # t
    Consonant((300, 1900, 2300), 0.0, 0.28, 2300, True, 0.15, 0.08),  # k
    Consonant((260, 900, 2200), 0.20, 0.12, 1000, True, 0.0, 0.06),  # b
    Consonant((260, 1750, 2600), 0.20, 0.15, 3800, True, 0.08, 0.06),  # d
    Consonant((260, 1900, 2300), 0.20, 0.15, 2000, True, 0.15, 0.06),  # g
)


@dataclass(frozen=True, slots=True)
class Speaker:
    """Voice of one person.

    pitch_hz: mean f0. range_st: size of an accent in semitones. tract: length of the vocal tract relative to the
    reference; a longer tract lowers the formants. syllables_hz: syllables per second. level_db, tilt, breath,
    open_quotient, jitter: added to those of a delivery.
    """

    sex: str
    pitch_hz: float
    range_st: float
    tract: float
    syllables_hz: float
    level_db: float
    tilt: float
    breath: float
    open_quotient: float
    jitter: float

    @classmethod
    def random(cls, rng: np.random.Generator, sex: str) -> Speaker:
        """Draw a voice: f0 about 115 Hz for `male`, 205 Hz for `female` (spread 2 semitones); female tracts are
        about a seventh shorter.

        Raises:
            ValueError: `sex` is neither `female` nor `male`.
        """
        if sex not in ("female", "male"):
            raise ValueError(f"sex is female or male, got {sex!r}")
        pitch, tract = (205.0, 0.86) if sex == "female" else (115.0, 1.0)
        g = rng.standard_normal(9)
        return cls(
            sex=sex,
            pitch_hz=float(pitch * 2 ** (2.0 * g[0] / 12)),
            range_st=float(np.clip(3.4 + 0.7 * g[1], 1.8, 5.5)),
            tract=float(tract * np.exp(0.035 * g[2])),
            syllables_hz=float(np.clip(4.8 + 0.45 * g[3], 3.6, 6.2)),
            level_db=float(2.0 * g[4]),
            tilt=float(1.1 * g[5]),
            breath=float(abs(0.02 * g[6])),
            open_quotient=float(0.03 * g[7]),
            jitter=float(abs(0.002 * g[8])),
        )


@dataclass(frozen=True, slots=True)
class Speech:
    """Synthesised sound.

    samples: `(n,)` float32 at 16 kHz in [-1, 1], from time 0. times: `(k,)` seconds, every 5 ms. mouth_opening: `(k,)`
    in [0, 1], unaffected by impairments of the sound. f0: `(k,)` planned Hz, NaN where unvoiced.
    """

    samples: np.ndarray
    times: np.ndarray
    mouth_opening: np.ndarray
    f0: np.ndarray

    def mouth_opening_at(self, times: np.ndarray) -> np.ndarray:
        """`(time,)` mouth opening at given times in seconds, 0 outside the recording."""
        if len(self.times) == 0:
            return np.zeros(len(times))
        return np.asarray(np.interp(times, self.times, self.mouth_opening, left=0.0, right=0.0))


def synthesise_scenario(scenario: Scenario) -> Speech:
    """Synthesise the voice of a scenario with its noise and silences. The same scenario gives the same bytes."""
    speaker = Speaker.random(seeded_rng(scenario.identity_seed, "voice"), scenario.sex)
    speech = synthesise(scenario.spoken_segments(), speaker, scenario.seed, seconds=scenario.seconds)
    samples = speech.samples.astype(np.float32)
    times = np.arange(len(samples)) / RATE_HZ
    for impairment in scenario.impairments:
        if impairment.kind == "noise":
            level = 10 ** ((LEVEL_DB - impairment.amount) / 20)
            active = (times >= impairment.start_s) & (times < impairment.stop_s)
            noise = pink_noise(seeded_rng(scenario.seed, "noise"), int(active.sum()))
            samples[active] += (level * noise).astype(np.float32)
    samples[scenario.is_impaired(VOICE_IMPAIRMENTS, times)] = 0.0
    return replace(speech, samples=np.clip(samples, -1, 1))


def synthesise(
    segments: Sequence[tuple[float, float, str, float]],
    speaker: Speaker,
    seed: int,
    *,
    seconds: float | None = None,
) -> Speech:
    """Synthesise speech of one speaker.

    Args:
        segments: `(start_s, stop_s, expression, intensity)`, not overlapping; exact silence outside them.
        speaker: the voice.
        seed: the same seed gives the same bytes.
        seconds: length of the result; by default the end of the last segment.
    """
    total = max((s[1] for s in segments), default=0.0) if seconds is None else seconds
    frames = int(np.ceil(total * CONTROL_HZ))
    samples = np.zeros(frames * FRAME, np.float32)
    opening, f0 = np.zeros(frames), np.full(frames, np.nan)
    for number, (start, stop, expression, intensity) in enumerate(sorted(segments)):
        first, last = round(start * CONTROL_HZ), min(round(stop * CONTROL_HZ), frames)
        if last - first < 4:
            continue
        rng = np.random.default_rng([seed, number])
        delivery = prosody.draw_delivery(rng, expression, intensity)
        curves, opening[first:last] = _draw_phrases(rng, last - first, speaker, delivery)
        sound = synthesise_voice(
            curves,
            length=speaker.tract / delivery.formants,
            jitter=delivery.jitter + speaker.jitter,
            shimmer=delivery.shimmer,
            rng=rng,
        )
        samples[first * FRAME : last * FRAME] = _set_level(sound, curves, speaker.level_db + delivery.level)
        f0[first:last] = np.where(curves.voiced > 0.3, curves.f0, np.nan)
    return Speech(samples[: round(total * RATE_HZ)], (np.arange(frames) + 0.5) / CONTROL_HZ, opening, f0)


def pink_noise(rng: np.random.Generator, count: int) -> np.ndarray:
    """`(count,)` noise of unit RMS whose power is proportional to 1/f, like that of rooms and streets."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    shaped = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)
    return np.asarray(shaped / np.sqrt(np.mean(shaped**2)))


class _ControlPoints:
    """Control points in time, added sound by sound and sampled at every frame."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []

    def add(
        self, time: float, formants: Formants, voiced: float, hissed: float, hiss_hz: float, opening: float
    ) -> None:
        """Add a point at `time` in seconds; formants and `hiss_hz` are in Hz."""
        self.rows.append((time, *formants, voiced, hissed, hiss_hz, opening))

    def sample(self, times: np.ndarray) -> np.ndarray:
        """`(frame, 7)`: three formants, voiced, hissed, hiss centre, opening; smoothed like articulator movements."""
        rows = np.array(sorted(self.rows))
        out = np.stack([np.interp(times, rows[:, 0], rows[:, k], left=0, right=0) for k in range(1, 8)], axis=1)
        out[:, [0, 1, 2, 5]] = np.stack([np.interp(times, rows[:, 0], rows[:, k]) for k in (1, 2, 3, 6)], axis=1)
        for column, width in ((0, 9), (1, 9), (2, 9), (3, 3), (4, 3), (6, 13)):
            kernel = np.hanning(width + 2)[1:-1]
            padded = np.pad(out[:, column], width // 2, mode="edge")
            out[:, column] = np.convolve(padded, kernel / kernel.sum(), mode="valid")
        return out


def _draw_phrases(
    rng: np.random.Generator, frames: int, speaker: Speaker, delivery: Delivery
) -> tuple[Curves, np.ndarray]:
    """Draw phrases of syllables that fill `frames`: control curves, and the mouth opening `(frame,)`."""
    seconds = frames / CONTROL_HZ
    times = (np.arange(frames) + 0.5) / CONTROL_HZ
    points, pitch = _ControlPoints(), np.zeros(frames)
    now = 0.0
    while now < seconds - 0.12:
        beats = int(rng.integers(4, 10))
        start = now
        stressed = int(rng.integers(0, 3))
        for beat in range(beats):
            length = float(rng.lognormal(0, 0.18)) / (speaker.syllables_hz * delivery.rate)
            stress = beat == stressed
            if stress:
                length *= 1.25
                stressed += int(rng.integers(2, 5))
            if now + length > seconds:
                break
            _add_syllable(rng, points, now, length, delivery.stress if stress else 0.0)
            size = speaker.range_st * delivery.range * (rng.uniform(0.7, 1.2) if stress else rng.uniform(0.0, 0.35))
            pitch += size * np.exp(-0.5 * ((times - now - 0.55 * length) / (0.42 * length)) ** 2)
            now += length
        if now == start:
            break
        inside = (times >= start) & (times < now)
        pitch[inside] += delivery.declination * delivery.range * (times[inside] - (start + now) / 2)
        pitch[inside] += delivery.final * np.exp(-(now - times[inside]) / 0.16)
        now += float(rng.uniform(0.12, 0.4)) * delivery.pause
    if not points.rows:
        points.add(seconds / 2, SCHWA.formants, 0.0, 0.0, 4000, 0.0)
    controls = points.sample(times)
    return _control_curves(rng, controls, pitch, times, speaker, delivery), np.clip(controls[:, 6], 0, 1)


def _add_syllable(
    rng: np.random.Generator, points: _ControlPoints, start: float, length: float, stress_db: float
) -> None:
    """Add a consonant, a vowel and, in a third of the syllables, a final consonant."""
    vowel = VOWELS[int(rng.integers(len(VOWELS)))]
    gain = 10 ** (stress_db / 20) * float(rng.uniform(0.8, 1.0))
    first = CONSONANTS[int(rng.integers(len(CONSONANTS)))]
    onset = min(first.length_s * (1.2 if stress_db else 1.0), 0.45 * length)
    _add_consonant(points, start, onset, first, gain)
    end = start + length
    coda = CONSONANTS[int(rng.integers(len(CONSONANTS)))] if rng.random() < 0.33 else None
    stop = end - (min(coda.length_s, 0.3 * length) if coda else 0.0)
    reduced = 1.0 if stress_db else float(rng.uniform(0.5, 0.9))
    schwa = np.array(SCHWA.formants)
    f1, f2, f3 = (float(hz) for hz in schwa + reduced * (np.array(vowel.formants) - schwa))
    target = (f1, f2, f3)
    opening = vowel.opening * (1.0 if stress_db else 0.75)
    points.add(start + onset + 0.012, target, gain, 0.0, 4000, opening)
    points.add(start + onset + 0.5 * (stop - start - onset), target, gain, 0.0, 4000, opening)
    points.add(stop - 0.012, target, 0.7 * gain, 0.0, 4000, 0.8 * opening)
    if coda:
        _add_consonant(points, stop, end - stop, coda, 0.8 * gain)
    points.add(end + 0.02, target, 0.0, 0.0, 4000, 0.15)


def _add_consonant(points: _ControlPoints, start: float, length: float, consonant: Consonant, gain: float) -> None:
    formants, voiced, hiss, hz, plosive, opening, _ = consonant
    if plosive:
        points.add(start + 0.005, formants, voiced * gain, 0.0, hz, opening)
        points.add(start + 0.6 * length, formants, voiced * gain, 0.0, hz, opening)
        points.add(start + 0.75 * length, formants, voiced * gain, hiss, hz, opening)
        points.add(start + length, formants, voiced * gain, 0.4 * hiss, hz, opening + 0.1)
    else:
        points.add(start + 0.15 * length, formants, voiced * gain, hiss, hz, opening)
        points.add(start + 0.85 * length, formants, voiced * gain, hiss, hz, opening)


def _control_curves(
    rng: np.random.Generator,
    controls: np.ndarray,
    pitch: np.ndarray,
    times: np.ndarray,
    speaker: Speaker,
    delivery: Delivery,
) -> Curves:
    """Control curves from sampled control points and the pitch contour `(frame,)` in semitones."""
    phase = rng.uniform(0, 2 * np.pi, 4)
    drift = 0.35 * np.sin(2 * np.pi * 0.7 * times + phase[0]) + 0.2 * np.sin(2 * np.pi * 1.9 * times + phase[1])
    tremor = delivery.tremor * np.sin(2 * np.pi * 5.2 * times + phase[2])
    semitones = np.clip(pitch + delivery.pitch + drift + tremor, -14, 22)
    voiced = np.maximum(controls[:, 3], 0)
    breath = delivery.breath + speaker.breath
    tilt = delivery.tilt + speaker.tilt
    return Curves(
        f0=np.clip(speaker.pitch_hz * 2 ** (semitones / 12), 55, 620),
        voiced=voiced * (1 - min(0.7, 0.8 * breath)),
        aspirated=voiced * breath,
        hissed=np.maximum(controls[:, 4], 0) * 10 ** (tilt / 40),
        hiss_hz=np.maximum(controls[:, 5], 800),
        formants=controls[:, :3],
        tilt=np.full(len(times), tilt),
        open_quotient=np.full(len(times), np.clip(delivery.open_quotient + speaker.open_quotient, 0.38, 0.9)),
    )


def _set_level(sound: np.ndarray, curves: Curves, gain_db: float) -> np.ndarray:
    """Scale sound `(samples,)` to `LEVEL_DB + gain_db` while voiced, fade both ends, and limit it to below 1."""
    voiced = np.repeat(curves.voiced > 0.3, FRAME)
    power = np.mean(sound[voiced] ** 2) if voiced.any() else np.mean(sound**2) + 1e-12
    sound = sound * 10 ** ((LEVEL_DB + gain_db) / 20) / np.sqrt(power)
    ramp = np.minimum(1, np.minimum(np.arange(len(sound)), np.arange(len(sound))[::-1]) / FRAME)
    # limiter: linear up to half of full scale, then compressed
    limited = np.sign(sound) * (0.5 + 0.48 * np.tanh((np.abs(sound) - 0.5) / 0.48))
    return np.asarray(np.where(np.abs(sound) > 0.5, limited, sound) * ramp, np.float32)
