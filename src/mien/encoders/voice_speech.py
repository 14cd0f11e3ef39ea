"""Voice encoder with prosody and speech states side by side: 12.5 vectors per second, in one pass over the sound.

The first columns are those of `voice-prosody`, of which each vector averages two; the next 384 those of `smart-turn`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from mien.encoders import smart_turn, voice_prosody
from mien.encoders.smart_turn import SpeechStates
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.memory import GrowingArray, release_pages
from mien.records import VOICE, Stream

NAME = "voice-speech"
VERSION = "2"
#: Columns of the stream: prosody first, then the speech states.
PROSODY = slice(0, voice_prosody.DIM)
STATES = slice(voice_prosody.DIM, voice_prosody.DIM + smart_turn.DIM)
DIM = voice_prosody.DIM + smart_turn.DIM
#: Vectors joined at once, because those of an hour take 80 MB.
_CELLS = 1024


class VoiceSpeech:
    """`AudioEncoder` of prosody and speech states.

    It yields one stream at the end of a recording. A vector is valid where one of its two cells of prosody is, that is,
    where someone speaks; invalid rows are zero.

    Raises:
        ArtefactError: the network of the speech states is missing or damaged.
    """

    name, modality, dim = NAME, VOICE, DIM
    rate_hz: float | None = smart_turn.RATE_HZ
    receptive_field_s = smart_turn.SmartTurn.receptive_field_s
    licence = f"MIT; speech states {smart_turn.LICENCE}"

    def __init__(self) -> None:
        SpeechStates()  # a missing network is found before a recording is decoded
        self._prosody = ProsodyExtractor()
        made_by = {f"states {key}": value for key, value in smart_turn.provenance().items() if key != "speech"}
        prosody = {f"prosody {key}": value for key, value in self._prosody(()).provenance.items() if key != "speech"}
        speech = smart_turn.provenance()["speech"]
        self.provenance = {"encoder": NAME, "version": VERSION, "speech": speech} | prosody | made_by

    def release(self) -> None:
        """Free the network of the speech states until it is needed again."""
        smart_turn.release()

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Encode the audio of one recording; see `mien.encoders.protocol.AudioEncoder`."""
        extraction, vectors, first_s = SpeechStates(), GrowingArray(smart_turn.DIM), list[float]()

        def read_states_and_pass_on() -> Iterator[tuple[float, np.ndarray]]:
            for start_s, samples in blocks:
                if not first_s:
                    first_s.append(start_s)
                vectors.extend(extraction(samples))
                yield start_s, samples

        prosody = self._prosody(read_states_and_pass_on())
        vectors.extend(extraction.finish())
        if not len(prosody.values):
            return
        states, joined, speaks = vectors.array(), GrowingArray(DIM), GrowingArray(0, np.bool_)
        for start in range(0, len(prosody.values), 2 * _CELLS):
            part = slice(start, start + 2 * _CELLS)
            cells, valid = average_pairs(prosody.values[part], prosody.valid[part])
            values = np.zeros((len(cells), DIM), np.float32)
            values[:, PROSODY] = cells
            heard = states[start // 2 : start // 2 + len(cells)]
            values[: len(heard), STATES] = heard
            values[~valid] = 0.0
            joined.extend(values)
            speaks.extend(valid)
            for read in (states, prosody.values):
                release_pages(read)
        times = first_s[0] + smart_turn.cell_centres(len(joined))
        yield Stream(joined.array(), times, speaks.array(), self.provenance)


def average_pairs(values: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of the valid ones of two consecutive rows: `(2 n, dim)`, or one row less, -> `(n, dim)` and validity."""
    missing = len(values) % 2
    values = np.concatenate([values, np.zeros((missing, values.shape[1]), values.dtype)]).reshape(
        -1, 2, values.shape[1]
    )
    valid = np.concatenate([valid, np.zeros(missing, bool)]).reshape(-1, 2)
    weight = valid.astype(values.dtype)
    total = np.einsum("npd,np->nd", values, weight)
    mean: np.ndarray = total / np.maximum(weight.sum(axis=1), 1)[:, None]
    return mean, valid[:, 0] | valid[:, 1]
