"""the scenario: who shows what, when, and what goes wrong. Everything else follows from it.

A plan is drawn from numbers alone: the same `(seed, split, number)` gives the same plan on every machine, and
two splits never share a person, because the person's seed is drawn under the split's name.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from mien.labels import EXPRESSIONS, NEUTRAL
from mien.records import Labels
from mien.synthetic.expression_prototypes import SHARES, choose, recipes

SPLITS = ("train", "val", "test")
#: Frame rates and their weights after PAPERS.md §0: mostly 30 and 29.97, others 20 to 25 and odd ones.
RATES: tuple[tuple[Fraction, float], ...] = (
    (Fraction(30), 0.42),
    (Fraction(30000, 1001), 0.34),
    (Fraction(25), 0.12),
    (Fraction(24000, 1001), 0.04),
    (Fraction(2326, 100), 0.03),
    (Fraction(2191, 100), 0.03),
    (Fraction(2008, 100), 0.02),
)
#: Annotation rows minus frames (PAPERS.md §0: +1 in 215 videos, 0 in 182, +2 in 9, -1 in 6).
EXTRA_ROWS: tuple[tuple[int, float], ...] = ((1, 215 / 412), (0, 182 / 412), (2, 9 / 412), (-1, 6 / 412))
#: Below this intensity (FACS level B) a frame is labelled Neutral: an onlooker would not call it shown.
VISIBLE = 0.3
FAULTS = ("occluded", "absent", "dark", "silent", "noise")
#: Faults that take the face away, and those that take the voice.
BLINDING, MUTING = ("absent", "dark"), ("silent",)


@dataclass(frozen=True, slots=True)
class Segment:
    """One expression: `[start_s, stop_s)`, class index, the recipe's name, peak intensity in [0, 1], and how
    long it takes to come and to go in seconds. It goes after `stop_s`, while the next one comes."""

    start_s: float
    stop_s: float
    expression: int
    recipe: str
    intensity: float
    onset_s: float
    offset_s: float


@dataclass(frozen=True, slots=True)
class Impairment:
    """One thing that goes wrong in `[start_s, stop_s)`. amount: share of the face covered (occluded), brightness
    left (dark), signal-to-noise ratio in dB (noise), else 1."""

    kind: str
    start_s: float
    stop_s: float
    amount: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One subject in one recording. person: the identity's seed; sex: of face and voice; speech: stretches in
    seconds; extra_rows: annotation rows minus frames; second: another person in the same picture, who is silent."""

    id: str
    seed: int
    split: str
    subject: str
    person: int
    sex: str
    seconds: float
    rate: Fraction
    segments: tuple[Segment, ...]
    speech: tuple[tuple[float, float], ...]
    faults: tuple[Impairment, ...] = ()
    extra_rows: int = 0
    second: Scenario | None = None

    def times(self) -> np.ndarray:
        """`(frame,)` presentation times in seconds, the first at 0."""
        count = max(1, round(self.seconds * self.rate))
        return np.arange(count) * float(1 / self.rate)

    def envelopes(self, times: np.ndarray) -> np.ndarray:
        """`(segment, time)` intensity of each segment: raised-cosine onset, apex, raised-cosine offset."""
        out = np.zeros((len(self.segments), len(times)))
        for row, s in zip(out, self.segments, strict=True):
            if s.expression == NEUTRAL:
                continue
            rise = np.clip((times - s.start_s) / s.onset_s, 0, 1)
            fall = np.clip((times - s.stop_s) / s.offset_s, 0, 1)
            row[:] = s.intensity * (0.5 - 0.5 * np.cos(np.pi * rise)) * (0.5 + 0.5 * np.cos(np.pi * fall))
        return out

    def labels(self, times: np.ndarray) -> Labels:
        """Truth at given times: the strongest expression where it is visible, else Neutral; valence and arousal
        are the recipes' places on the circumplex times intensity, summed and kept in [-1, 1]."""
        strength = self.envelopes(times)
        classes = np.array([s.expression for s in self.segments])
        places = np.array([recipes()[s.recipe].valence_arousal for s in self.segments])
        expression = np.where(strength.max(axis=0) >= VISIBLE, classes[strength.argmax(axis=0)], NEUTRAL)
        return Labels(times, expression.astype(np.int64), np.clip(strength.T @ places, -1, 1))

    def within(self, kinds: tuple[str, ...], times: np.ndarray) -> np.ndarray:
        """`(time,)` bool: any fault of these kinds is on."""
        on = np.zeros(len(times), dtype=bool)
        for fault in self.faults:
            if fault.kind in kinds:
                on |= (times >= fault.start_s) & (times < fault.stop_s)
        return on

    def spoken(self) -> list[tuple[float, float, str, float]]:
        """Speech cut at the segments' borders: start, stop, expression's name, intensity."""
        out = []
        for start, stop in self.speech:
            for s in self.segments:
                a, b = max(start, s.start_s), min(stop, s.stop_s)
                if b - a > 0.05:
                    out.append((a, b, EXPRESSIONS[s.expression], s.intensity))
        return out


def entropy(*parts: int | str) -> np.random.Generator:
    """A random generator named by numbers and words; independent for different names."""
    return np.random.default_rng([p if isinstance(p, int) else zlib.crc32(p.encode()) for p in parts])


def _segments(rng: np.random.Generator, seconds: float, shares: np.ndarray) -> tuple[Segment, ...]:
    """Expressions one after the other; a Neutral pause between two of them as often as not."""
    out: list[Segment] = []
    now = 0.0
    while now < seconds:
        expression = int(rng.choice(len(shares), p=shares))
        recipe = choose(rng, expression)
        stop = now + rng.uniform(1.5, 6.0)
        intensity = 0.0 if expression == NEUTRAL else float(np.clip(rng.beta(2.8, 1.5), 0.4, 1.0))
        # log-uniform: a real smile may be gone within four frames, and may take a second
        onset, offset = (float(np.exp(rng.uniform(np.log(low), np.log(1.0)))) for low in (0.12, 0.1))
        out.append(Segment(now, min(stop, seconds), expression, recipe.name, intensity, onset, offset))
        now = stop
    return tuple(out)


def _speech(rng: np.random.Generator, seconds: float) -> tuple[tuple[float, float], ...]:
    """Phrases of one to four seconds with pauses; one recording in eight is nearly mute."""
    pause = 6.0 if rng.random() < 0.125 else float(rng.uniform(0.4, 2.0))
    out, now = [], float(rng.uniform(0, 1.0))
    while now < seconds - 0.5:
        stop = min(now + rng.uniform(1.0, 4.0), seconds)
        out.append((now, stop))
        now = stop + rng.exponential(pause) + 0.25
    return tuple(out)


def _faults(rng: np.random.Generator, seconds: float) -> tuple[Impairment, ...]:
    """Each kind in some recordings, for 5 to 20 % of their length; noise for the whole of one in five."""
    chance = {"occluded": 0.25, "absent": 0.2, "dark": 0.12, "silent": 0.2}
    out = []
    for kind, p in chance.items():
        if rng.random() < p:
            length = seconds * rng.uniform(0.05, 0.2)
            start = rng.uniform(0, seconds - length)
            amount = {"occluded": rng.uniform(0.25, 0.6), "dark": rng.uniform(0.02, 0.06)}.get(kind, 1.0)
            out.append(Impairment(kind, float(start), float(start + length), float(amount)))
    if rng.random() < 0.2:
        out.append(Impairment("noise", 0.0, seconds, float(rng.uniform(0, 20))))
    return tuple(out)


def draw(
    split: str,
    number: int,
    *,
    seconds: float,
    seed: int,
    balance: float = 0.0,
    faults: bool = True,
    second: bool = False,
    per_person: int = 1,
) -> Scenario:
    """Draw one plan.

    Args:
        split: `train`, `val` or `test`; people differ between splits.
        number: which recording of the split, from 0.
        seconds: its length.
        balance: 0 keeps the long-tailed class shares of Aff-Wild2, 1 makes the classes equally frequent; between,
            shares are raised to the power 1 - balance.
        faults: plant faults.
        second: put a second, silent person into the picture.
        per_person: recordings of one person.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    rng = entropy(seed, split, number, "plan")
    cast = entropy(seed, split, number // per_person, "cast")
    shares = SHARES ** (1 - balance)
    plan = Scenario(
        id=f"{split}_{number:04d}",
        seed=int(rng.integers(2**31)),
        split=split,
        subject=f"{split}-person-{number // per_person:04d}",
        person=int(cast.integers(2**31)),
        sex="female" if cast.random() < 0.5 else "male",
        seconds=seconds,
        rate=RATES[int(rng.choice(len(RATES), p=[w for _, w in RATES]))][0],
        segments=_segments(rng, seconds, shares / shares.sum()),
        speech=_speech(rng, seconds),
        faults=_faults(rng, seconds) if faults else (),
        extra_rows=EXTRA_ROWS[int(rng.choice(len(EXTRA_ROWS), p=[w for _, w in EXTRA_ROWS]))][0],
    )
    if not second:
        return plan
    other = draw(split, number + 500_000, seconds=seconds, seed=seed, balance=balance, faults=False)
    return replace(plan, second=replace(other, rate=plan.rate, speech=()))
