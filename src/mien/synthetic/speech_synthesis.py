"""The synthetic corpus's voices: seeded speech-like sound whose pitch, range, energy, rate and tilt follow the emotion.

Nonsense syllables from a seeded source-filter synthesiser (`vocal_tract`), delivered as `prosody` says. No real voice
is in it. Besides the sound it returns how far the mouth is open, so that a simulated face can move its lips to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mien.synthetic import prosody
from mien.synthetic.prosody import Delivery
from mien.synthetic.scenario import MUTING, Scenario, entropy
from mien.synthetic.vocal_tract import FRAME, RATE_HZ, Curves, render

CONTROL_HZ = RATE_HZ / FRAME
#: Level of neutral speech while it sounds, RMS in dB below full scale.
LEVEL_DB = -25.0

#: Vowels: first three formants in Hz of a reference (adult male) tract, and mouth opening. After Peterson and
#: Barney (1952), rounded.
VOWELS: tuple[tuple[tuple[float, float, float], float], ...] = (
    ((730, 1100, 2450), 1.0),
    ((660, 1700, 2400), 0.85),
    ((530, 1850, 2480), 0.6),
    ((390, 2000, 2550), 0.4),
    ((280, 2250, 2950), 0.25),
    ((570, 840, 2400), 0.6),
    ((440, 1020, 2250), 0.4),
    ((310, 880, 2250), 0.25),
    ((500, 1450, 2450), 0.5),
)
#: Consonants: formants it moves to, share of voicing, hiss amplitude and centre in Hz, closed before it (a plosive),
#: mouth opening, length in seconds.
CONSONANTS: tuple[tuple[tuple[float, float, float], float, float, float, bool, float, float], ...] = (
    ((260, 1050, 2200), 0.40, 0.0, 4000, False, 0.0, 0.065),  # m
    ((260, 1500, 2500), 0.40, 0.0, 4000, False, 0.12, 0.06),  # n
    ((340, 1200, 2600), 0.55, 0.0, 4000, False, 0.2, 0.06),  # l
    ((320, 1250, 1750), 0.50, 0.0, 4000, False, 0.2, 0.06),  # r
    ((280, 2200, 2900), 0.60, 0.0, 4000, False, 0.15, 0.05),  # j
    ((300, 800, 2200), 0.55, 0.0, 4000, False, 0.1, 0.055),  # w
    ((320, 1700, 2550), 0.0, 0.30, 6000, False, 0.1, 0.095),  # s
    ((320, 1800, 2500), 0.0, 0.30, 3400, False, 0.12, 0.09),  # sh
    ((320, 1100, 2300), 0.0, 0.10, 4500, False, 0.08, 0.085),  # f
    ((300, 1100, 2300), 0.25, 0.08, 4500, False, 0.08, 0.06),  # v
    ((300, 900, 2200), 0.0, 0.25, 1200, True, 0.0, 0.08),  # p
    ((300, 1750, 2600), 0.0, 0.30, 4500, True, 0.08, 0.08),  # t
    ((300, 1900, 2300), 0.0, 0.28, 2300, True, 0.15, 0.08),  # k
    ((260, 900, 2200), 0.20, 0.12, 1000, True, 0.0, 0.06),  # b
    ((260, 1750, 2600), 0.20, 0.15, 3800, True, 0.08, 0.06),  # d
    ((260, 1900, 2300), 0.20, 0.15, 2000, True, 0.15, 0.06),  # g
)


@dataclass(frozen=True, slots=True)
class Speaker:
    """One voice. pitch_hz: usual f0. range_st: size of an accent in semitones. tract: length of the vocal tract
    against the reference, longer is lower. syllables_hz: syllables a second. level_db, tilt, breath, open_quotient,
    jitter: what is added to a delivery's."""

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
        about a seventh shorter."""
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
    """samples: `(n,)` float32 at 16 kHz in [-1, 1]. times: `(k,)` seconds, every 5 ms. opening: `(k,)` of the mouth in
    [0, 1]. f0: `(k,)` Hz as planned, NaN where the voice does not sound."""

    samples: np.ndarray
    times: np.ndarray
    opening: np.ndarray
    f0: np.ndarray


def synthesise(
    segments: Sequence[tuple[float, float, str, float]],
    speaker: Speaker,
    seed: int,
    *,
    seconds: float | None = None,
) -> Speech:
    """Speak.

    Args:
        segments: `(start_s, stop_s, expression, intensity)`, not overlapping; exact silence outside them.
        speaker: whose voice.
        seed: same seed, same bytes.
        seconds: length of the result; by default the last segment's end.
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
        delivery = prosody.draw(rng, expression, intensity)
        curves, mouth = _speak(rng, last - first, speaker, delivery)
        sound = render(
            curves,
            length=speaker.tract / delivery.formants,
            jitter=delivery.jitter + speaker.jitter,
            shimmer=delivery.shimmer,
            rng=rng,
        )
        samples[first * FRAME : last * FRAME] = _levelled(sound, curves, speaker.level_db + delivery.level)
        opening[first:last] = mouth
        f0[first:last] = np.where(curves.voiced > 0.3, curves.f0, np.nan)
    return Speech(samples[: round(total * RATE_HZ)], (np.arange(frames) + 0.5) / CONTROL_HZ, opening, f0)


def _levelled(sound: np.ndarray, curves: Curves, gain_db: float) -> np.ndarray:
    sounding = np.repeat(curves.voiced > 0.3, FRAME)
    power = np.mean(sound[sounding] ** 2) if sounding.any() else np.mean(sound**2) + 1e-12
    sound = sound * 10 ** ((LEVEL_DB + gain_db) / 20) / np.sqrt(power)
    ramp = np.minimum(1, np.minimum(np.arange(len(sound)), np.arange(len(sound))[::-1]) / FRAME)
    # a microphone's limiter: straight up to half of full scale, then bending, never reaching 1
    bent = np.sign(sound) * (0.5 + 0.48 * np.tanh((np.abs(sound) - 0.5) / 0.48))
    return np.asarray(np.where(np.abs(sound) > 0.5, bent, sound) * ramp, np.float32)


class _Score:
    """Control points in time, collected sound by sound, then read off every frame."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []

    def add(
        self,
        time: float,
        formants: tuple[float, float, float],
        voiced: float,
        hissed: float,
        hiss_hz: float,
        opening: float,
    ) -> None:
        self.rows.append((time, *formants, voiced, hissed, hiss_hz, opening))

    def read(self, times: np.ndarray) -> np.ndarray:
        """`(frame, 7)`: three formants, voiced, hissed, hiss centre, opening; smoothed as articulators move."""
        rows = np.array(sorted(self.rows))
        out = np.stack([np.interp(times, rows[:, 0], rows[:, k], left=0, right=0) for k in range(1, 8)], axis=1)
        out[:, [0, 1, 2, 5]] = np.stack([np.interp(times, rows[:, 0], rows[:, k]) for k in (1, 2, 3, 6)], axis=1)
        for column, width in ((0, 9), (1, 9), (2, 9), (3, 3), (4, 3), (6, 13)):
            kernel = np.hanning(width + 2)[1:-1]
            padded = np.pad(out[:, column], width // 2, mode="edge")
            out[:, column] = np.convolve(padded, kernel / kernel.sum(), mode="valid")
        return out


def _speak(rng: np.random.Generator, frames: int, speaker: Speaker, how: Delivery) -> tuple[Curves, np.ndarray]:
    """Phrases of syllables over `frames`, as control curves, and the mouth's opening `(frame,)`."""
    seconds = frames / CONTROL_HZ
    times = (np.arange(frames) + 0.5) / CONTROL_HZ
    score, pitch = _Score(), np.zeros(frames)
    now = 0.0
    while now < seconds - 0.12:
        beats = int(rng.integers(4, 10))
        start = now
        stressed = int(rng.integers(0, 3))
        for beat in range(beats):
            length = float(rng.lognormal(0, 0.18)) / (speaker.syllables_hz * how.rate)
            stress = beat == stressed
            if stress:
                length *= 1.25
                stressed += int(rng.integers(2, 5))
            if now + length > seconds:
                break
            _syllable(rng, score, now, length, how.stress if stress else 0.0)
            size = speaker.range_st * how.range * (rng.uniform(0.7, 1.2) if stress else rng.uniform(0.0, 0.35))
            pitch += size * np.exp(-0.5 * ((times - now - 0.55 * length) / (0.42 * length)) ** 2)
            now += length
        if now == start:
            break
        inside = (times >= start) & (times < now)
        pitch[inside] += how.declination * how.range * (times[inside] - (start + now) / 2)
        pitch[inside] += how.final * np.exp(-(now - times[inside]) / 0.16)
        now += float(rng.uniform(0.12, 0.4)) * how.pause
    if not score.rows:
        score.add(seconds / 2, VOWELS[8][0], 0.0, 0.0, 4000, 0.0)
    return _curves(rng, score.read(times), pitch, times, speaker, how)


def _curves(
    rng: np.random.Generator,
    read: np.ndarray,
    pitch: np.ndarray,
    times: np.ndarray,
    speaker: Speaker,
    how: Delivery,
) -> tuple[Curves, np.ndarray]:
    phase = rng.uniform(0, 2 * np.pi, 4)
    drift = 0.35 * np.sin(2 * np.pi * 0.7 * times + phase[0]) + 0.2 * np.sin(2 * np.pi * 1.9 * times + phase[1])
    tremor = how.tremor * np.sin(2 * np.pi * 5.2 * times + phase[2])
    semitones = np.clip(pitch + how.pitch + drift + tremor, -14, 22)
    voiced = np.maximum(read[:, 3], 0)
    breath = how.breath + speaker.breath
    curves = Curves(
        f0=np.clip(speaker.pitch_hz * 2 ** (semitones / 12), 55, 620),
        voiced=voiced * (1 - min(0.7, 0.8 * breath)),
        aspirated=voiced * breath,
        hissed=np.maximum(read[:, 4], 0) * 10 ** ((how.tilt + speaker.tilt) / 40),
        hiss_hz=np.maximum(read[:, 5], 800),
        formants=read[:, :3],
        tilt=np.full(len(times), how.tilt + speaker.tilt),
        open_quotient=np.full(len(times), np.clip(how.open_quotient + speaker.open_quotient, 0.38, 0.9)),
    )
    return curves, np.clip(read[:, 6], 0, 1)


def _syllable(rng: np.random.Generator, score: _Score, start: float, length: float, stress_db: float) -> None:
    """Consonant, vowel, and a third of the time a consonant at the end."""
    vowel, wide = VOWELS[int(rng.integers(len(VOWELS)))]
    gain = 10 ** (stress_db / 20) * float(rng.uniform(0.8, 1.0))
    first = CONSONANTS[int(rng.integers(len(CONSONANTS)))]
    onset = min(first[6] * (1.2 if stress_db else 1.0), 0.45 * length)
    _consonant(score, start, onset, first, gain)
    end = start + length
    coda = CONSONANTS[int(rng.integers(len(CONSONANTS)))] if rng.random() < 0.33 else None
    stop = end - (min(coda[6], 0.3 * length) if coda else 0.0)
    reduced = 1.0 if stress_db else float(rng.uniform(0.5, 0.9))
    middle = np.array(VOWELS[8][0])
    target = tuple(float(x) for x in middle + reduced * (np.array(vowel) - middle))
    opening = wide * (1.0 if stress_db else 0.75)
    score.add(start + onset + 0.012, target, gain, 0.0, 4000, opening)  # type: ignore[arg-type]
    score.add(start + onset + 0.5 * (stop - start - onset), target, gain, 0.0, 4000, opening)  # type: ignore[arg-type]
    score.add(stop - 0.012, target, 0.7 * gain, 0.0, 4000, 0.8 * opening)  # type: ignore[arg-type]
    if coda:
        _consonant(score, stop, end - stop, coda, 0.8 * gain)
    score.add(end + 0.02, target, 0.0, 0.0, 4000, 0.15)  # type: ignore[arg-type]


def _consonant(
    score: _Score,
    start: float,
    length: float,
    which: tuple[tuple[float, float, float], float, float, float, bool, float, float],
    gain: float,
) -> None:
    formants, voiced, hiss, hz, closed, opening, _ = which
    if closed:
        score.add(start + 0.005, formants, voiced * gain, 0.0, hz, opening)
        score.add(start + 0.6 * length, formants, voiced * gain, 0.0, hz, opening)
        score.add(start + 0.75 * length, formants, voiced * gain, hiss, hz, opening)
        score.add(start + length, formants, voiced * gain, 0.4 * hiss, hz, opening + 0.1)
    else:
        score.add(start + 0.15 * length, formants, voiced * gain, hiss, hz, opening)
        score.add(start + 0.85 * length, formants, voiced * gain, hiss, hz, opening)


#: Noise is measured against speech of this RMS, in dB below full scale: the synthesiser's neutral level.
SPEECH_DB = -25.0


@dataclass(frozen=True, slots=True)
class Sound:
    """samples: `(n,)` float32 at 16 kHz in [-1, 1], from time 0. times, mouth: `(k,)` seconds and the mouth's opening
    in [0, 1]; the mouth moves where the microphone is dead, too."""

    samples: np.ndarray
    times: np.ndarray
    mouth: np.ndarray

    def opening(self, times: np.ndarray) -> np.ndarray:
        """`(time,)` mouth opening at given times, 0 outside the recording."""
        if len(self.times) == 0:
            return np.zeros(len(times))
        return np.interp(times, self.times, self.mouth, left=0.0, right=0.0)


def pink(rng: np.random.Generator, count: int) -> np.ndarray:
    """`(count,)` noise of unit RMS whose power falls with frequency, as rooms and streets sound."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    shaped = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.arange(len(spectrum)), 1)), count)
    return np.asarray(shaped / np.sqrt(np.mean(shaped**2)))


def speak(plan: Scenario) -> Sound:
    """Synthesise a plan's voice; same plan, same bytes."""
    speaker = Speaker.random(entropy(plan.person, "voice"), plan.sex)
    said = synthesise(plan.spoken(), speaker, plan.seed, seconds=plan.seconds)
    samples = said.samples.astype(np.float32)
    when = np.arange(len(samples)) / RATE_HZ
    for fault in plan.faults:
        if fault.kind == "noise":
            level = 10 ** ((SPEECH_DB - fault.amount) / 20)
            on = (when >= fault.start_s) & (when < fault.stop_s)
            samples[on] += (level * pink(entropy(plan.seed, "noise"), int(on.sum()))).astype(np.float32)
    samples[plan.within(MUTING, when)] = 0.0
    return Sound(np.clip(samples, -1, 1), said.times, said.opening)
