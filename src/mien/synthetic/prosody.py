"""Emotional prosody: pitch, range, rate, level, tilt, voice quality and contour of each class against neutral speech.

Directions of change after reviews of vocal expression (Scherer 2003, Speech Communication 40; Juslin and Laukka 2003,
Psychological Bulletin 129, table 7). Sizes of pitch, tilt, breathiness and contour were set near the class means and
spreads of EMO-DB's speakers relative to their own neutral speech (statistics only). Levels, which EMO-DB's recordings
do not preserve, and Surprise, which it lacks, are our choice.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from mien.labels import EXPRESSIONS


@dataclass(frozen=True, slots=True)
class Delivery:
    """Prosody of one utterance, relative to the speaker's neutral speech.

    pitch: semitones. range: factor on accents and declination. rate: factor on syllables per second. level: dB. tilt:
    dB per octave. breath: aspiration relative to voice. open_quotient: open share of a glottal cycle. jitter, shimmer:
    relative deviations. declination: semitones per second over a phrase. final: semitones at the end of a phrase.
    pause: factor on pauses. stress: dB on stressed syllables. formants: factor on formant frequencies (spread lips
    raise them). tremor: semitones at 5 Hz.
    """

    pitch: float = 0.0
    range: float = 1.0
    rate: float = 1.0
    level: float = 0.0
    tilt: float = 0.0
    breath: float = 0.05
    open_quotient: float = 0.62
    jitter: float = 0.006
    shimmer: float = 0.04
    declination: float = -1.6
    final: float = -2.0
    pause: float = 1.0
    stress: float = 2.5
    formants: float = 1.0
    tremor: float = 0.05


NEUTRAL = Delivery()
#: Standard deviation between utterances, for every class.
_SPREAD = Delivery(
    pitch=1.4, range=0.16, rate=0.08, level=1.8, tilt=0.9, breath=0.02, open_quotient=0.03, jitter=0.002,
    shimmer=0.012, declination=0.9, final=1.0, pause=0.25, stress=0.6, formants=0.012, tremor=0.03,
)  # fmt: skip

#: class -> variants, each with its weight.
DELIVERIES: dict[str, tuple[tuple[float, Delivery], ...]] = {
    "Neutral": ((1, NEUTRAL),),
    "Anger": (
        (3, Delivery(8.0, 1.5, 1.06, 8.0, 3.6, 0.04, 0.48, 0.011, 0.06, -0.6, -3.0, 0.8, 4.5, 1.03, 0.05)),
        (1, Delivery(4.0, 1.1, 0.95, 4.5, 3.0, 0.03, 0.47, 0.008, 0.05, -1.0, -3.0, 1.0, 4.0, 1.0, 0.04)),
    ),
    "Disgust": (
        (2, Delivery(2.5, 0.95, 0.72, 0.5, 1.4, 0.07, 0.55, 0.018, 0.09, 0.4, -3.5, 1.5, 4.0, 0.97, 0.05)),
        (1, Delivery(4.5, 1.2, 0.8, 1.5, 1.8, 0.05, 0.55, 0.014, 0.07, -0.2, -2.0, 1.3, 4.0, 0.98, 0.05)),
    ),
    "Fear": (
        (2, Delivery(6.5, 0.85, 1.2, 1.0, 1.2, 0.16, 0.72, 0.022, 0.09, 0.6, 0.5, 0.9, 1.8, 1.02, 0.45)),
        (1, Delivery(3.5, 0.7, 1.12, -4.0, 0.0, 0.25, 0.75, 0.02, 0.09, 0.2, 0.5, 1.5, 1.5, 1.0, 0.5)),
    ),
    "Happiness": (
        (2, Delivery(7.5, 1.8, 1.05, 4.5, 2.2, 0.08, 0.6, 0.008, 0.05, -0.9, 0.5, 0.8, 3.5, 1.06, 0.06)),
        (1, Delivery(4.5, 1.5, 1.03, 2.5, 1.2, 0.08, 0.62, 0.007, 0.05, -1.0, 1.5, 0.9, 3.0, 1.06, 0.06)),
    ),
    "Sadness": (
        (2, Delivery(-2.4, 0.6, 0.7, -6.5, -2.2, 0.2, 0.74, 0.012, 0.07, -1.2, -1.0, 2.0, 1.5, 0.98, 0.1)),
        (1, Delivery(0.5, 0.75, 0.76, -4.0, -1.5, 0.24, 0.74, 0.02, 0.1, -0.8, -0.5, 1.8, 1.5, 0.99, 0.35)),
    ),
    "Surprise": (
        (2, Delivery(6.0, 2.1, 1.0, 3.5, 1.4, 0.09, 0.63, 0.008, 0.05, 2.0, 7.0, 1.1, 3.5, 1.01, 0.05)),
        (1, Delivery(4.0, 1.7, 1.1, 2.0, 0.8, 0.14, 0.66, 0.008, 0.05, 2.5, 5.0, 1.1, 3.0, 1.01, 0.06)),
    ),
    "Other": (
        (4, Delivery(-1.0, 0.5, 0.76, -2.0, -0.4, 0.05, 0.62, 0.005, 0.04, -2.2, -2.0, 1.3, 1.5, 1.0, 0.03)),
        (1, Delivery(0.5, 1.9, 0.68, 0.0, 0.4, 0.05, 0.6, 0.007, 0.05, -2.5, -5.0, 1.2, 4.5, 1.0, 0.04)),
        (1, Delivery(-1.0, 0.7, 0.85, -7.0, -1.0, 0.45, 0.78, 0.008, 0.06, -1.5, -3.0, 1.6, 1.5, 1.0, 0.04)),
    ),
}  # fmt: skip


def draw_delivery(rng: np.random.Generator, expression: str, intensity: float) -> Delivery:
    """Draw a delivery of a class: one of its variants, scaled by intensity, with random deviations.

    Args:
        expression: a name of `labels.EXPRESSIONS`.
        intensity: in [0, 1].

    Raises:
        KeyError: `expression` is not in `labels.EXPRESSIONS`.
    """
    variants = DELIVERIES[expression]
    weights = np.array([w for w, _ in variants], float)
    target = variants[int(rng.choice(len(variants), p=weights / weights.sum()))][1]
    values = {}
    for field in fields(Delivery):
        neutral, full, spread = (float(getattr(d, field.name)) for d in (NEUTRAL, target, _SPREAD))
        # 35 % of the change remains at intensity 0: emotion is audible before it is visible
        values[field.name] = (
            neutral + (0.35 + 0.65 * intensity) * (full - neutral) + spread * float(rng.standard_normal())
        )
    drawn = Delivery(**values)
    return replace(
        drawn,
        range=max(drawn.range, 0.2),
        rate=float(np.clip(drawn.rate, 0.5, 1.5)),
        breath=max(drawn.breath, 0.01),
        open_quotient=float(np.clip(drawn.open_quotient, 0.4, 0.85)),
        jitter=max(drawn.jitter, 0.001),
        shimmer=max(drawn.shimmer, 0.005),
        pause=max(drawn.pause, 0.3),
        tremor=max(drawn.tremor, 0.0),
    )


assert set(DELIVERIES) == set(EXPRESSIONS)
