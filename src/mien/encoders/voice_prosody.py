"""The starter's voice encoder: log-mel and prosody of 16 kHz sound, valid where somebody speaks. No download.

Streamed: sound goes through in batches of frames and the frames in stretches of a minute, both laid out from the
recording's start, so that the caller's blocks leave no trace and only the features themselves grow with its length.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import metadata

import numpy as np

from mien.encoders import prosody_features, spectrum
from mien.encoders.prosody_features import COLUMN, DIM, FEATURES, FRAMES, RATE_HZ, RELATIVE
from mien.encoders.spectrum import HOP
from mien.errors import ConfigError
from mien.media.voice_activity import STEP, VoiceActivity, is_speech
from mien.memory import GrowingArray
from mien.records import VOICE, Stream

__all__ = ["COLUMN", "DIM", "FEATURES", "NAME", "RATE_HZ", "VERSION", "ProsodyExtractor"]

NAME = "voice-prosody"
VERSION = "1"
#: Frames of a stretch, and of the run-up on either side within which a cell's features lie. Both are whole
#: numbers of seconds (`pitch.track`), of cells, and of steps of the voice activity network.
_STRETCH, _RUN_UP = 3200, 400


class ProsodyExtractor:
    """Sound to features, 25 a second.

    Call it with the blocks of one recording, `(start_s, (n,) float32)` at 16 kHz, consecutive, as from
    `mien.media.audio.blocks`. It holds no state between calls.

    Returns a Stream: values `(time, DIM)` float32, the columns named in `FEATURES`; times the cells' centres in
    seconds; valid where somebody speaks (`is_speech` of silero-vad, in the middle of the cell). Invalid rows are
    zero. No sound: no rows. A value depends on the sound within 1.5 s of its time (and on the recording's median,
    the last three), far less on what is further than a second away.
    """

    NAME, VERSION, RATE_HZ, DIM = NAME, VERSION, RATE_HZ, DIM
    FEATURES = tuple(f.name for f in FEATURES)

    def __call__(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Stream:
        run = _Run()
        values, valid = run.all(blocks)
        _against_recording(values, valid)
        values[~valid] = 0.0
        times = run.start_s + (np.arange(len(values)) + 0.5) / RATE_HZ
        made_by = {"encoder": NAME, "version": VERSION, "speech": f"silero-vad {metadata.version('silero-vad')}"}
        return Stream(values, times, valid, made_by)


class _Run:
    """One recording on its way through."""

    def __init__(self) -> None:
        self.start_s = 0.0
        self._frames, self._activity = spectrum.SpectrumFrames(), VoiceActivity()
        self._rows = np.zeros((_STRETCH + 2 * _RUN_UP, spectrum.COLUMNS), np.float32)
        self._speech: list[np.ndarray] = []
        self._first = self._held = self._next = self._samples = 0

    def all(self, blocks: Iterable[tuple[float, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        values, speaking = GrowingArray(DIM), GrowingArray(0, bool)
        for piece, spoken in self._pieces(blocks):
            values.extend(piece)
            speaking.extend(spoken)
        return values.array(), speaking.array()

    def _pieces(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
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
            yield from self._add(batch[: max(0, total - self._first - self._held)])
        yield from self._stretch(total, total)

    def _add(self, batch: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        while len(batch):
            room = len(self._rows) - self._held
            self._rows[self._held : self._held + len(batch[:room])] = batch[:room]
            self._held += len(batch[:room])
            batch = batch[room:]
            if self._first + self._held >= self._next + _STRETCH + _RUN_UP:
                yield from self._stretch(self._next + _STRETCH, self._next + _STRETCH + _RUN_UP)

    def _stretch(self, stop: int, seen: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cells of the frames [next, stop), looking at frames until `seen`; forgets what is then too old."""
        if stop <= self._next:
            return
        frames = self._rows[: seen - self._first]
        speaking = self._speaking(self._first, seen)
        cells = slice((self._next - self._first) // FRAMES, (stop - self._first) // FRAMES)
        values = prosody_features.cells(frames, speaking)[cells]
        yield values, speaking.reshape(-1, FRAMES)[cells, FRAMES // 2]
        keep = max(0, stop - _RUN_UP)
        self._rows[: self._first + self._held - keep] = self._rows[keep - self._first : self._held]
        self._held -= keep - self._first
        self._first, self._next = keep, stop

    def _speaking(self, first: int, stop: int) -> np.ndarray:
        self._speech = [np.concatenate(self._speech)]
        centres = np.arange(first, stop) * HOP + HOP // 2
        # sound shorter than a cell is filled up with silence that the network has not seen
        step = np.minimum(centres // STEP, len(self._speech[0]) - 1)
        probability = self._speech[0][step[0] : step[-1] + 1]
        return is_speech(probability)[step - step[0]]


def _against_recording(values: np.ndarray, valid: np.ndarray) -> None:
    """The last columns minus their median over the speech; pitch only where there is any."""
    voiced = values[:, COLUMN["voiced_share"]] > 0
    for column in range(RELATIVE.start, RELATIVE.stop):
        known = valid & voiced if column == COLUMN["pitch_against_recording"] else valid
        middle = np.median(values[known, column]) if known.any() else 0.0
        values[:, column] = np.where(known, values[:, column] - middle, 0.0)


class VoiceProsody:
    """`ProsodyExtractor` as a `mien.encoders.protocol.AudioEncoder`. It gives one stream at the end of a recording,
    because its last columns are relative to the whole recording. It has no weights to download."""

    name, modality, dim = NAME, VOICE, DIM
    rate_hz: float | None = RATE_HZ
    receptive_field_s = 3.0
    licence = "MIT"

    def __init__(self) -> None:
        self._encoder = ProsodyExtractor()
        self.provenance = self._encoder(()).provenance

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Blocks `(start_s, (n,) float32)` at 16 kHz -> one stream."""
        yield self._encoder(blocks)


def create(source: str | None = None, *, device: str = "cpu") -> VoiceProsody:
    """The encoder as `mien.encoders.registry` makes it. Raises ConfigError if a source is given: it has none."""
    if source:
        raise ConfigError(f"{NAME} takes no source, got {source!r}", remedy=f"--encoder {NAME}")
    return VoiceProsody()
