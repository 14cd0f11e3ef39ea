"""The plan's voice: what the synthesiser says, with the plan's silences and noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mien.corpora.theatre.plan import MUTING, Plan, entropy
from mien.corpora.theatre.vocal_tract import RATE_HZ
from mien.corpora.theatre.voice import Speaker, synthesise

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


def speak(plan: Plan) -> Sound:
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
