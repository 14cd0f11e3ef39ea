"""Scenarios: the expressions, speech and impairments of one recording, from which all synthetic data follows.

A scenario is drawn from numbers alone: the same `(seed, split, number)` gives the same scenario on every machine. Two
splits never share a person, because the split's name is part of the seed of the identity.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from mien.labels import EXPRESSIONS, NEUTRAL
from mien.records import Labels
from mien.synthetic.expression_prototypes import CLASS_SHARES, choose_prototype, prototypes

SPLITS = ("train", "val", "test")
#: Frame rates and their probabilities, after the videos of Aff-Wild2: mostly 30 and 29.97 Hz, some 20 to 25 Hz.
FRAME_RATES: tuple[tuple[Fraction, float], ...] = (
    (Fraction(30), 0.42),
    (Fraction(30000, 1001), 0.34),
    (Fraction(25), 0.12),
    (Fraction(24000, 1001), 0.04),
    (Fraction(2326, 100), 0.03),
    (Fraction(2191, 100), 0.03),
    (Fraction(2008, 100), 0.02),
)
#: Annotation rows minus frames, and the share of videos of Aff-Wild2: +1 in 215, 0 in 182, +2 in 9, -1 in 6.
EXTRA_ROWS: tuple[tuple[int, float], ...] = ((1, 215 / 412), (0, 182 / 412), (2, 9 / 412), (-1, 6 / 412))
#: Lowest intensity (FACS level B) that is labelled with its class; a weaker expression is labelled Neutral.
VISIBLE = 0.3
#: Kinds of impairment that remove the face, and kinds that remove the voice.
FACE_IMPAIRMENTS, VOICE_IMPAIRMENTS = ("absent", "dark"), ("silent",)


@dataclass(frozen=True, slots=True)
class Segment:
    """One expression in `[start_s, stop_s)`; its offset begins at `stop_s`, while the next segment sets in.

    expression: class index. prototype: name of its expression prototype. intensity: at the apex, in [0, 1]. onset_s,
    offset_s: durations in seconds.
    """

    start_s: float
    stop_s: float
    expression: int
    prototype: str
    intensity: float
    onset_s: float
    offset_s: float


@dataclass(frozen=True, slots=True)
class Impairment:
    """One impairment of the recording in `[start_s, stop_s)`.

    kind: `occluded`, `absent` or `dark` (face), `silent` or `noise` (voice). amount: covered share of the face
    (occluded), remaining brightness (dark), signal-to-noise ratio in dB (noise), else 1.
    """

    kind: str
    start_s: float
    stop_s: float
    amount: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that happens in one recording.

    seed: of all random numbers of the recording. identity_seed: of the subject's face and voice. sex: `female` or
    `male`. seconds: length. rate: frames per second. speech: `(start, stop)` of each phrase in seconds. extra_rows:
    annotation rows minus frames. second: scenario of another person in the same picture, silent unless it has speech.
    """

    id: str
    seed: int
    split: str
    subject: str
    identity_seed: int
    sex: str
    seconds: float
    rate: Fraction
    segments: tuple[Segment, ...]
    speech: tuple[tuple[float, float], ...]
    impairments: tuple[Impairment, ...] = ()
    extra_rows: int = 0
    second: Scenario | None = None

    def times(self) -> np.ndarray:
        """`(frame,)` presentation times in seconds, the first at 0."""
        count = max(1, round(self.seconds * self.rate))
        return np.arange(count) * float(1 / self.rate)

    def envelopes(self, times: np.ndarray) -> np.ndarray:
        """`(segment, time)` intensity of each segment in [0, 1]: raised-cosine onset, apex, raised-cosine offset."""
        out = np.zeros((len(self.segments), len(times)))
        for row, s in zip(out, self.segments, strict=True):
            if s.expression == NEUTRAL:
                continue
            rise = np.clip((times - s.start_s) / s.onset_s, 0, 1)
            fall = np.clip((times - s.stop_s) / s.offset_s, 0, 1)
            row[:] = s.intensity * (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 + 0.5 * np.cos(np.pi * fall))
        return out

    def labels(self, times: np.ndarray) -> Labels:
        """True labels at given times `(time,)`.

        The expression is that of the strongest segment if it is visible, else Neutral. Valence and arousal are those
        of the prototypes, weighted by intensity, summed and clipped to [-1, 1].
        """
        strength = self.envelopes(times)
        classes = np.array([s.expression for s in self.segments])
        valence_arousal = np.array([prototypes()[s.prototype].valence_arousal for s in self.segments])
        expression = np.where(strength.max(axis=0) >= VISIBLE, classes[strength.argmax(axis=0)], NEUTRAL)
        return Labels(times, expression.astype(np.int64), np.clip(strength.T @ valence_arousal, -1, 1))

    def is_impaired(self, kinds: tuple[str, ...], times: np.ndarray) -> np.ndarray:
        """`(time,)` bool: an impairment of one of these kinds is active."""
        active = np.zeros(len(times), dtype=bool)
        for impairment in self.impairments:
            if impairment.kind in kinds:
                active |= (times >= impairment.start_s) & (times < impairment.stop_s)
        return active

    def spoken_segments(self) -> list[tuple[float, float, str, float]]:
        """Speech cut at the borders of segments: (start, stop, name of the expression, intensity)."""
        out = []
        for start, stop in self.speech:
            for s in self.segments:
                a, b = max(start, s.start_s), min(stop, s.stop_s)
                if b - a > 0.05:
                    out.append((a, b, EXPRESSIONS[s.expression], s.intensity))
        return out


def seeded_rng(*parts: int | str) -> np.random.Generator:
    """Random generator seeded by numbers and words; different seeds give independent generators.

    The words decide the random numbers: changing one changes every scenario.
    """
    return np.random.default_rng([p if isinstance(p, int) else zlib.crc32(p.encode()) for p in parts])


def _draw_segments(rng: np.random.Generator, seconds: float, shares: np.ndarray) -> tuple[Segment, ...]:
    """Draw consecutive expressions of 1.5 to 6 s that fill the recording; shares: probability of each class."""
    out: list[Segment] = []
    now = 0.0
    while now < seconds:
        expression = int(rng.choice(len(shares), p=shares))
        prototype = choose_prototype(rng, expression)
        stop = now + rng.uniform(1.5, 6.0)
        intensity = 0.0 if expression == NEUTRAL else float(np.clip(rng.beta(2.8, 1.5), 0.4, 1.0))
        # log-uniform: a real smile can end within four frames or take a second
        onset, offset = (float(np.exp(rng.uniform(np.log(low), np.log(1.0)))) for low in (0.12, 0.1))
        out.append(Segment(now, min(stop, seconds), expression, prototype.name, intensity, onset, offset))
        now = stop
    return tuple(out)


def _draw_speech(rng: np.random.Generator, seconds: float) -> tuple[tuple[float, float], ...]:
    """Draw phrases of 1 to 4 s with pauses; one recording in eight has little speech."""
    pause = 6.0 if rng.random() < 0.125 else float(rng.uniform(0.4, 2.0))
    out, now = [], float(rng.uniform(0, 1.0))
    while now < seconds - 0.5:
        stop = min(now + rng.uniform(1.0, 4.0), seconds)
        out.append((now, stop))
        now = stop + rng.exponential(pause) + 0.25
    return tuple(out)


def _draw_impairments(rng: np.random.Generator, seconds: float) -> tuple[Impairment, ...]:
    """Draw impairments of 5 to 20 % of the recording's length; noise covers the whole of one recording in five."""
    probability = {"occluded": 0.25, "absent": 0.2, "dark": 0.12, "silent": 0.2}
    out = []
    for kind, p in probability.items():
        if rng.random() < p:
            length = seconds * rng.uniform(0.05, 0.2)
            start = rng.uniform(0, seconds - length)
            amount = {"occluded": rng.uniform(0.25, 0.6), "dark": rng.uniform(0.02, 0.06)}.get(kind, 1.0)
            out.append(Impairment(kind, float(start), float(start + length), float(amount)))
    if rng.random() < 0.2:
        out.append(Impairment("noise", 0.0, seconds, float(rng.uniform(0, 20))))
    return tuple(out)


def draw_scenario(
    split: str,
    number: int,
    *,
    seconds: float,
    seed: int,
    balance: float = 0.0,
    impairments: bool = True,
    second: bool = False,
    per_person: int = 1,
) -> Scenario:
    """Draw one scenario.

    Args:
        split: `train`, `val` or `test`; people differ between splits.
        number: index of the recording in the split, from 0.
        seconds: length of the recording.
        balance: 0 keeps the long-tailed class shares of Aff-Wild2, 1 makes the classes equally frequent; between,
            shares are raised to the power 1 - balance.
        impairments: draw impairments.
        second: add a second, silent person to the picture.
        per_person: recordings of each person.

    Raises:
        ValueError: `split` is unknown.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    rng = seeded_rng(seed, split, number, "plan")
    identity_rng = seeded_rng(seed, split, number // per_person, "cast")
    shares = CLASS_SHARES ** (1 - balance)
    scenario = Scenario(
        id=f"{split}_{number:04d}",
        seed=int(rng.integers(2**31)),
        split=split,
        subject=f"{split}-person-{number // per_person:04d}",
        identity_seed=int(identity_rng.integers(2**31)),
        sex="female" if identity_rng.random() < 0.5 else "male",
        seconds=seconds,
        rate=FRAME_RATES[int(rng.choice(len(FRAME_RATES), p=[w for _, w in FRAME_RATES]))][0],
        segments=_draw_segments(rng, seconds, shares / shares.sum()),
        speech=_draw_speech(rng, seconds),
        impairments=_draw_impairments(rng, seconds) if impairments else (),
        extra_rows=EXTRA_ROWS[int(rng.choice(len(EXTRA_ROWS), p=[w for _, w in EXTRA_ROWS]))][0],
    )
    if not second:
        return scenario
    other = draw_scenario(split, number + 500_000, seconds=seconds, seed=seed, balance=balance, impairments=False)
    return replace(scenario, second=replace(other, rate=scenario.rate, speech=()))
