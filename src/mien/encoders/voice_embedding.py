"""Speech embedding of openWakeWord: 96 values every 80 ms from 16 kHz audio, valid where someone speaks.

Source: the openWakeWord project (D. Scripka, Apache-2.0), whose embedding network is Google's `speech_embedding`
(Lin, Kilgour, Roblek, Sharifi 2020, Training keyword spotters with limited and synthesized speech data,
arXiv 2002.01322). Two ONNX networks: audio to 32 mel bands every 10 ms, and 76 of those frames to 96 values.

The mel network limits its output to 80 dB below the loudest value of a call. It is called on 8 frames at a time here,
and the same limit is applied to each window of 76 frames. A vector therefore equals that of both networks on the
samples of its window alone, and does not depend on the caller's blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from mien import hub
from mien.encoders.speech_stream import encode_speech
from mien.media import voice_activity
from mien.onnx_session import open_session
from mien.records import VOICE, Stream

NAME = "voice-embedding"
VERSION = "1"
DIM = 96
LICENCE = "Apache-2.0"
MEL_NETWORK, NETWORK = "openwakeword-melspectrogram", "openwakeword-embedding"
_SAMPLE_RATE, _HOP, _SPECTRUM = 16_000, 160, 512
#: Mel frames of one window, mel frames from one window to the next, mel bands.
_WINDOW, _STEP, _BANDS = 76, 8, 32
#: Samples of one window (782 ms) and from one window to the next (80 ms).
WINDOW_SAMPLES = (_WINDOW - 1) * _HOP + _SPECTRUM
STEP_SAMPLES = _STEP * _HOP
RATE_HZ = _SAMPLE_RATE / STEP_SAMPLES
#: Samples of one call of the mel network.
_CALL = (_STEP - 1) * _HOP + _SPECTRUM
#: Range of the mel network's output: 80 dB, in the units of its output divided by 10.
_RANGE = 8.0
#: Windows in one call of the embedding network: 2 s of audio.
_BATCH = 25


class SpeechEmbedding:
    """Streaming speech embedding of one recording.

    Call it with consecutive `(n,)` float32 samples in [-1, 1] at 16 kHz, n any number. It returns `(windows, 96)`
    float32, the vectors that are now computed. Vector i is that of the samples [1280 i, 1280 i + 12512). `finish`
    returns the rest. It keeps at most 2.8 s of mel frames and one step of samples.

    Raises:
        ArtefactError: a network is missing or damaged (at construction).
    """

    def __init__(self) -> None:
        self._mel_network, self._network = _sessions()
        self._rest = np.zeros(0, np.float32)
        self._mel = np.zeros((0, _BANDS), np.float32)
        self._count = 0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Vectors of the windows that `samples` complete, in batches of 25: `(windows, 96)`."""
        self._rest = np.concatenate([self._rest, samples.astype(np.float32, copy=False)])
        calls = max(0, (len(self._rest) - _CALL) // STEP_SAMPLES + 1)
        parts = []
        for start in range(0, calls * STEP_SAMPLES, STEP_SAMPLES):
            self._add_frames(self._rest[start : start + _CALL])
            if len(self._mel) >= _WINDOW + (_BATCH - 1) * _STEP:
                parts.append(self._embed())
        self._rest = self._rest[calls * STEP_SAMPLES :]
        return np.concatenate(parts) if parts else np.zeros((0, DIM), np.float32)

    def finish(self) -> np.ndarray:
        """Vectors of the remaining complete windows, `(windows, 96)`.

        The window of audio shorter than 12512 samples (782 ms) is padded with zeros; without audio there is none.
        """
        frames = max(0, (len(self._rest) - _SPECTRUM) // _HOP + 1)
        if not self._count and len(self._mel) + frames < _WINDOW:
            if not len(self._rest) and not len(self._mel):
                return np.zeros((0, DIM), np.float32)
            missing = WINDOW_SAMPLES - len(self._mel) * _HOP - len(self._rest)
            parts = [self(np.zeros(missing, np.float32))]
            frames = (len(self._rest) - _SPECTRUM) // _HOP + 1
        else:
            parts = []
        if frames > 0:
            self._add_frames(self._rest[: (frames - 1) * _HOP + _SPECTRUM])
        self._rest = np.zeros(0, np.float32)
        while len(self._mel) >= _WINDOW:
            parts.append(self._embed())
        return np.concatenate(parts) if parts else np.zeros((0, DIM), np.float32)

    def _add_frames(self, samples: np.ndarray) -> None:
        """Add the mel frames of the samples: one for each 160 samples after the first 352."""
        # The networks were trained on samples in the range of int16.
        (mel,) = self._mel_network.run(None, {self._mel_network.get_inputs()[0].name: 32767 * samples[None]})
        self._mel = np.concatenate([self._mel, mel.reshape(-1, _BANDS) / 10])

    def _embed(self) -> np.ndarray:
        """Embed up to `_BATCH` windows at the start of the mel frames, and drop the frames no longer needed."""
        count = min(_BATCH, (len(self._mel) - _WINDOW) // _STEP + 1)
        windows = np.stack([self._mel[i * _STEP : i * _STEP + _WINDOW] for i in range(count)])
        windows = np.maximum(windows, windows.max(axis=(1, 2), keepdims=True) - _RANGE) + 2
        (vectors,) = self._network.run(None, {self._network.get_inputs()[0].name: windows[..., None]})
        self._mel = self._mel[count * _STEP :]
        self._count += count
        out: np.ndarray = vectors.reshape(count, DIM)
        return out


def window_centres(count: int) -> np.ndarray:
    """Centres of the first `count` windows, `(count,)` seconds from the start of the audio."""
    return (np.arange(count) * STEP_SAMPLES + WINDOW_SAMPLES / 2) / _SAMPLE_RATE


def provenance() -> dict[str, str]:
    """Networks of the embedding, with their digests, and the version of the voice activity network."""
    return {
        "encoder": NAME,
        "version": VERSION,
        "network": hub.ARTEFACTS[NETWORK].digest,
        "speech": voice_activity.RELEASE,
    }


class VoiceEmbedding:
    """`AudioEncoder` of the speech embedding: one stream, 12.5 vectors per second.

    Times are the centres of the windows. A vector is valid where someone speaks in the middle of its window
    (silero-vad); invalid vectors are zero. The centre of a window of padded audio may lie behind the audio's end; the
    last step decides there.

    Raises:
        ArtefactError: a network is missing or damaged.
    """

    name, modality, dim = NAME, VOICE, DIM
    rate_hz: float | None = RATE_HZ
    receptive_field_s = WINDOW_SAMPLES / _SAMPLE_RATE
    licence = LICENCE

    def __init__(self) -> None:
        _sessions()
        self.provenance = provenance()

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Encode the audio of one recording; see `mien.encoders.protocol.AudioEncoder`."""
        return encode_speech(blocks, SpeechEmbedding(), DIM, window_centres, self.provenance)


@lru_cache(maxsize=1)
def _sessions() -> tuple[Any, Any]:
    """Sessions of the mel network and the embedding network, on one thread."""
    return open_session(hub.fetch(MEL_NETWORK), threads=1), open_session(hub.fetch(NETWORK), threads=1)
