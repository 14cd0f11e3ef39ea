"""Voice encoder of the starter: log-mel and prosody features of 16 kHz audio, valid where someone speaks. No weights.

Audio is measured in batches of frames and frames are encoded in stretches of 32 s. Both are counted from the start of
the recording, so the result does not depend on the caller's blocks, and memory grows only with the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from mien.encoders import prosody_features, spectrum
from mien.encoders.prosody_features import COLUMN, DIM, FEATURES, FRAMES, RATE_HZ, RELATIVE
from mien.encoders.spectrum import HOP
from mien.media import voice_activity
from mien.media.voice_activity import STEP, VoiceActivity, is_speech
from mien.memory import GrowingArray, release_pages
from mien.records import VOICE, Stream

__all__ = ["COLUMN", "DIM", "FEATURES", "NAME", "RATE_HZ", "VERSION", "ProsodyExtractor"]

NAME = "voice-prosody"
VERSION = "1"
#: Frames of a stretch, and of the context on either side on which its cells depend. Both are whole numbers of seconds
#: (`pitch.track`), of cells, and of steps of the voice activity network.
_STRETCH, _CONTEXT = 3200, 400


class ProsodyExtractor:
    """Extract prosody features of a recording, 25 per second. Keeps no state between calls."""

    NAME, VERSION, RATE_HZ, DIM = NAME, VERSION, RATE_HZ, DIM
    FEATURES = tuple(f.name for f in FEATURES)

    def __call__(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Stream:
        """Extract the features of one recording.

        Args:
            blocks: `(start in seconds, (n,) float32 samples)` at 16 kHz, consecutive, as from
                `mien.media.audio.blocks`.

        Returns:
            A stream: values `(time, DIM)` float32 with the columns `FEATURES`; times the centres of the cells in
            seconds; valid where someone speaks (silero-vad in the middle of the cell). Invalid rows are zero; no audio
            gives no rows. A value depends on the audio within 1.5 s, mostly within 1 s; the last three columns also on
            the median of the recording.
        """
        extraction = _Extraction()
        values, valid = extraction.run(blocks)
        subtract_median(values, valid)
        for part in _parts(len(values)):
            values[part][~valid[part]] = 0.0
            release_pages(values)
        times = extraction.start_s + (np.arange(len(values)) + 0.5) / RATE_HZ
        provenance = {"encoder": NAME, "version": VERSION, "speech": voice_activity.RELEASE}
        return Stream(values, times, valid, provenance)


class _Extraction:
    """State of the extraction of one recording.

    _rows: measured frames, a buffer whose first row is frame `_first`, with `_count` rows in use.
    _next: first frame whose cell has not been computed.
    """

    def __init__(self) -> None:
        self.start_s = 0.0
        self._frames, self._activity = spectrum.SpectrumFrames(), VoiceActivity()
        self._rows = np.zeros((_STRETCH + 2 * _CONTEXT, spectrum.COLUMNS), np.float32)
        self._speech: list[np.ndarray] = []
        self._first = self._count = self._next = self._samples = 0

    def run(self, blocks: Iterable[tuple[float, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        values, speaking = GrowingArray(DIM), GrowingArray(0, bool)
        for stretch_values, stretch_speaking in self._stretches(blocks):
            values.extend(stretch_values)
            speaking.extend(stretch_speaking)
        return values.array(), speaking.array()

    def _stretches(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, (start_s, samples) in enumerate(blocks):
            if number == 0:
                self.start_s = start_s
            self._samples += len(samples)
            self._speech.append(self._activity(samples))
            for batch in self._frames(samples):
                yield from self._add(batch)
        if not self._samples:
            return
        self._speech.append(self._activity.finish())
        total = max(1, self._samples // (HOP * FRAMES)) * FRAMES
        for batch in self._frames.finish(total):
            yield from self._add(batch[: max(0, total - self._first - self._count)])
        yield from self._encode(total, total)

    def _add(self, batch: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while len(batch):
            space = len(self._rows) - self._count
            part, batch = batch[:space], batch[space:]
            self._rows[self._count : self._count + len(part)] = part
            self._count += len(part)
            if self._first + self._count >= self._next + _STRETCH + _CONTEXT:
                yield from self._encode(self._next + _STRETCH, self._next + _STRETCH + _CONTEXT)

    def _encode(self, stop: int, context_stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Encode the frames [next, stop) with the context up to `context_stop`; drop frames no longer needed."""
        if stop <= self._next:
            return
        frames = self._rows[: context_stop - self._first]
        speaking = self._speaking(self._first, context_stop)
        cells = slice((self._next - self._first) // FRAMES, (stop - self._first) // FRAMES)
        values = prosody_features.compute_cells(frames, speaking)[cells]
        yield values, speaking.reshape(-1, FRAMES)[cells, FRAMES // 2]
        keep = max(0, stop - _CONTEXT)
        self._rows[: self._first + self._count - keep] = self._rows[keep - self._first : self._count]
        self._count -= keep - self._first
        self._first, self._next = keep, stop

    def _speaking(self, first: int, stop: int) -> np.ndarray:
        self._speech = [np.concatenate(self._speech)]
        centres = np.arange(first, stop) * HOP + HOP // 2
        # Audio shorter than a cell is padded with silence, for which the network has no step.
        step = np.minimum(centres // STEP, len(self._speech[0]) - 1)
        probability = self._speech[0][step[0] : step[-1] + 1]
        speaking: np.ndarray = is_speech(probability)[step - step[0]]
        return speaking


def subtract_median(values: np.ndarray, valid: np.ndarray) -> None:
    """Subtract from the columns `RELATIVE`, in place, their median over speech; for pitch, over voiced speech."""
    voiced, width = np.zeros(len(values), bool), RELATIVE.stop - RELATIVE.start
    relative = np.zeros((len(values), width), values.dtype)
    for part in _parts(len(values)):
        voiced[part], relative[part] = values[part, COLUMN["voiced_share"]] > 0, values[part, RELATIVE]
        release_pages(values)
    for column in range(width):
        known = valid & voiced if RELATIVE.start + column == COLUMN["pitch_against_recording"] else valid
        median = np.median(relative[known, column]) if known.any() else 0.0
        relative[:, column] = np.where(known, relative[:, column] - median, 0.0)
    for part in _parts(len(values)):
        values[part, RELATIVE] = relative[part]
        release_pages(values)


def _parts(count: int) -> Iterator[slice]:
    """Consecutive rows that are read at once: those of an hour take 49 MB."""
    return (slice(start, start + _STRETCH) for start in range(0, count, _STRETCH))


class VoiceProsody:
    """`AudioEncoder` of prosody features.

    It yields one stream at the end of a recording, because the last columns are relative to the whole recording.
    """

    name, modality, dim = NAME, VOICE, DIM
    rate_hz: float | None = RATE_HZ
    receptive_field_s = 3.0
    licence = "MIT"

    def __init__(self) -> None:
        self._encoder = ProsodyExtractor()
        self.provenance = self._encoder(()).provenance

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Encode the audio of one recording; see `ProsodyExtractor`."""
        yield self._encoder(blocks)
