"""The features of `VoiceSpeech` while the sound arrives.

A vector of a file depends on sound that comes later: prosody on 3 s, speech states on a window of 8 s that is placed by
the recording's start. Here a vector is given as soon as its samples are there, from what is known, and computed again
until it no longer changes. Vectors older than about 9 s equal those of a file.
"""

from __future__ import annotations

import numpy as np

from mien.encoders import prosody_features, smart_turn, spectrum
from mien.encoders.prosody_features import FRAMES
from mien.encoders.smart_turn import SpeechStates
from mien.encoders.spectrum import HOP, SpectrumFrames
from mien.encoders.voice_prosody import subtract_median
from mien.encoders.voice_speech import DIM, PROSODY, STATES, average_pairs
from mien.media.audio import SAMPLE_RATE
from mien.media.voice_activity import STEP, VoiceActivity, is_speech

#: Frames (10 ms) of a vector (80 ms), and of the whole seconds in which pitch is tracked.
_PER_VECTOR, _SECOND = 2 * FRAMES, 100
#: Frames measured before those of which prosody is computed, and frames after it until it no longer changes (statistics
#: over a second on either side, of levels over a second, of pitch that depends on 1.5 s).
_BEFORE, _UNTIL_FINAL = 300, 300
#: Vectors before the end of the sound whose speech states lack context; `smart_turn` leaves out as many.
_LACKING = 12


class _Rows:
    """Rows of which the first ones are dropped. first: index of the first row that is kept."""

    def __init__(self, width: int, dtype: type = np.float32) -> None:
        self.first = 0
        self.values: np.ndarray = np.zeros((0, width) if width else 0, dtype)

    @property
    def stop(self) -> int:
        """Index behind the last row."""
        return self.first + len(self.values)

    def extend(self, rows: np.ndarray) -> None:
        self.values = np.concatenate([self.values, rows.astype(self.values.dtype, copy=False)])

    def drop(self, before: int) -> None:
        """Drop the rows before an index."""
        count = min(max(0, before - self.first), len(self.values))
        self.first, self.values = self.first + count, self.values[count:].copy()

    def since(self, index: int) -> np.ndarray:
        """The rows from an index on, which must be kept."""
        return self.values[index - self.first :]


class LiveVoice:
    """Voice features of consecutive sound, `(vectors, DIM)` with 12.5 vectors a second, as of `VoiceSpeech`.

    Args:
        start_s: time of the first sample in seconds.

    Attributes:
        samples: number of samples so far.

    Raises:
        ArtefactError: a network is missing or damaged.
    """

    def __init__(self, start_s: float) -> None:
        self.start_s, self.samples = start_s, 0
        self._frames = SpectrumFrames(batch=_PER_VECTOR)
        self._activity, self._states = VoiceActivity(), SpeechStates()
        self._probability = _Rows(0)
        self._measured = _Rows(spectrum.COLUMNS)
        self._prosody, self._valid = _Rows(PROSODY.stop), _Rows(0, np.bool_)  # final ones
        self._final_states = _Rows(smart_turn.DIM)
        #: States of the vectors behind the final ones, and the vector up to which they have enough context.
        self._peeked, self._peeked_until = np.zeros((0, smart_turn.DIM), np.float32), 0
        self._is_finished = False

    @property
    def stop_s(self) -> float:
        """End of the sound so far, seconds."""
        return self.start_s + self.samples / SAMPLE_RATE

    def add(self, samples: np.ndarray) -> None:
        """Add the next `(n,)` float32 samples at 16 kHz."""
        self.samples += len(samples)
        self._probability.extend(self._activity(samples))
        for batch in self._frames(samples):
            self._measured.extend(batch)
        states = self._states(samples)
        if len(states):
            self._final_states.extend(states)
            self._peeked = self._peeked[len(states) :]

    def finish(self) -> None:
        """No sound follows: the last vectors are completed with silence, as at the end of a file."""
        total = max(1, self.samples // (HOP * FRAMES)) * FRAMES
        for batch in self._frames.finish(total):
            self._measured.extend(batch)
        self._probability.extend(self._activity.finish())
        self._final_states.extend(self._states.finish())
        self._peeked, self._is_finished = self._peeked[:0], True

    def vectors(self, start_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values `(n, DIM)`, times `(n,)` seconds and validity `(n,)` of all vectors at `start_s` and later; earlier
        ones are dropped."""
        count = self._measured.stop // _PER_VECTOR
        if self._is_finished:
            count = -(-self._measured.stop // _PER_VECTOR)
        first = int(np.ceil(max(start_s - self.start_s, 0.0) * smart_turn.RATE_HZ - 0.5))
        first = min(max(first, self._prosody.first), self._prosody.stop)
        self._drop(first)
        prosody, valid = self._with_latest_prosody(count)
        values = np.zeros((len(prosody), DIM), np.float32)
        values[:, PROSODY] = prosody
        if valid.any():
            subtract_median(values[:, PROSODY], valid)
            states = self._with_latest_states(count, valid)[: len(values)]
            values[: len(states), STATES] = states
        values[~valid] = 0.0
        times = self.start_s + (np.arange(first, count) + 0.5) / smart_turn.RATE_HZ
        return values, times, valid

    def _drop(self, before: int) -> None:
        for rows in (self._prosody, self._valid, self._final_states):
            rows.drop(before)
        frame = max(0, (self._prosody.stop * _PER_VECTOR - _BEFORE) // _SECOND * _SECOND)
        self._measured.drop(frame)
        # The decision on speech follows from all probabilities that are kept.
        self._probability.drop(min(before * smart_turn.CELL, frame * HOP) // STEP)

    def _with_latest_prosody(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Prosody and validity of the vectors that are kept, up to `count`; what no longer changes is stored."""
        start, done = self._measured.first, self._prosody.stop
        stop = min(count * _PER_VECTOR, self._measured.stop)
        if stop <= start or count <= done:
            return self._prosody.values, self._valid.values
        frames, speaking = self._measured.values[: stop - start], self._speaking(start, stop)
        cells = prosody_features.compute_cells(frames, speaking)[2 * done - start // FRAMES :]
        middle = speaking.reshape(-1, FRAMES)[2 * done - start // FRAMES :, FRAMES // 2]
        values, valid = average_pairs(cells, middle)
        final = max(0, (stop - _UNTIL_FINAL) // _PER_VECTOR - done)
        latest = np.concatenate([self._prosody.values, values]), np.concatenate([self._valid.values, valid])
        self._prosody.extend(values[:final])
        self._valid.extend(valid[:final])
        return latest

    def _speaking(self, start: int, stop: int) -> np.ndarray:
        """`(frames,)` bool: whether somebody speaks at each frame of an interval."""
        if not len(self._probability.values):
            return np.zeros(stop - start, bool)
        step = (np.arange(start, stop) * HOP + HOP // 2) // STEP - self._probability.first
        speaking: np.ndarray = is_speech(self._probability.values)[np.clip(step, 0, len(self._probability.values) - 1)]
        return speaking

    def _with_latest_states(self, count: int, valid: np.ndarray) -> np.ndarray:
        """Speech states of the vectors that are kept. The network runs only if somebody speaks in those that have no
        states with enough context yet. valid: `(n,)`, of the vectors up to `count`."""
        pending = count - max(self._peeked_until, self._final_states.stop)
        if not self._is_finished and pending > 0 and valid[-pending:].any():
            self._peeked = self._states.peek()
            self._peeked_until = max(0, count - _LACKING)
        return np.concatenate([self._final_states.values, self._peeked])
