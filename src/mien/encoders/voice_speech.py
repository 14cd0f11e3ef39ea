"""Voice encoder with prosody and speech embedding side by side: 25 vectors per second, in one pass over the sound.

The first columns are those of `voice-prosody`; the next 96 those of `voice-embedding`, interpolated linearly to the
same times. Before the centre of the first window and after that of the last, the nearest vector is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from mien.encoders import voice_embedding, voice_prosody
from mien.encoders.voice_embedding import SpeechEmbedding
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.memory import GrowingArray
from mien.records import VOICE, Stream

NAME = "voice-speech"
VERSION = "1"
#: Columns of the stream: prosody first, then the embedding.
PROSODY = slice(0, voice_prosody.DIM)
EMBEDDING = slice(voice_prosody.DIM, voice_prosody.DIM + voice_embedding.DIM)
DIM = voice_prosody.DIM + voice_embedding.DIM


class VoiceSpeech:
    """`AudioEncoder` of prosody and speech embedding.

    It yields one stream at the end of a recording, with the times and the validity of `voice-prosody`. Invalid rows are
    zero.

    Raises:
        ArtefactError: a network of the embedding is missing or damaged.
    """

    name, modality, dim = NAME, VOICE, DIM
    rate_hz: float | None = voice_prosody.RATE_HZ
    receptive_field_s = 3.0
    licence = f"MIT; embedding {voice_embedding.LICENCE}"

    def __init__(self) -> None:
        SpeechEmbedding()  # a missing network is found before a recording is decoded
        self._prosody = ProsodyExtractor()
        made_by = {f"embedding {key}": value for key, value in voice_embedding.provenance().items() if key != "speech"}
        prosody = {f"prosody {key}": value for key, value in self._prosody(()).provenance.items() if key != "speech"}
        speech = voice_embedding.provenance()["speech"]
        self.provenance = {"encoder": NAME, "version": VERSION, "speech": speech} | prosody | made_by

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Encode the audio of one recording; see `mien.encoders.protocol.AudioEncoder`."""
        embedding, vectors = SpeechEmbedding(), GrowingArray(voice_embedding.DIM)

        def embed_and_pass_on() -> Iterator[tuple[float, np.ndarray]]:
            for start_s, samples in blocks:
                vectors.extend(embedding(samples))
                yield start_s, samples

        prosody = self._prosody(embed_and_pass_on())
        vectors.extend(embedding.finish())
        if not len(prosody.values):
            return
        values = np.zeros((len(prosody.values), DIM), np.float32)
        values[:, PROSODY] = prosody.values
        # Cells are counted from the start of the audio, as windows are.
        cells = (np.arange(len(values)) + 0.5) / voice_prosody.RATE_HZ
        values[:, EMBEDDING] = _interpolate(vectors.array(), cells)
        values[~prosody.valid] = 0.0
        yield Stream(values, prosody.times, prosody.valid, self.provenance)


def _interpolate(vectors: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Vectors of windows, `(windows, 96)`, interpolated to times in seconds from the start: `(time, 96)`."""
    place = (times - voice_embedding.window_centres(1)[0]) * voice_embedding.RATE_HZ
    place = np.clip(place, 0, len(vectors) - 1)
    left = np.minimum(place.astype(int), max(0, len(vectors) - 2))
    right = np.minimum(left + 1, len(vectors) - 1)
    share = (place - left)[:, None].astype(np.float32)
    mixed: np.ndarray = (1 - share) * vectors[left] + share * vectors[right]
    return mixed
