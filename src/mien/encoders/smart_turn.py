"""Speech states of Smart Turn: 384 values every 80 ms from 16 kHz audio, valid where someone speaks.

Source: Smart Turn v3.2 (Daily, BSD-2-Clause), a network that hears whether a speaker has finished: the encoder of
Whisper tiny (Radford et al. 2022, arXiv 2212.04356, MIT), trained further on speech of 23 languages and quantised to
8 bits. Its answer follows intonation and tempo more than words. We read the states behind the second of its four
layers [our choice: on EMO-DB and RAVDESS the first carries less across speakers, and the later ones hear turns alone;
`python -m experiments voice-transfer`], so only half of the network is computed.

The network reads 8 s. Longer audio is cut into windows that overlap by 1.92 s, of which the inner part is taken. Zeros
stand before shorter audio, as in the network's training. Each window has mean 0 and deviation 1, zeros not counted.
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

NAME = "smart-turn"
VERSION = "1"
DIM = 384
LICENCE = "BSD-2-Clause"
NETWORK = "smart-turn"
#: Name of the tensor behind the second layer, with 50 states per second.
_STATES = "add_268"
_SAMPLE_RATE, _HOP, _FFT, _BANDS = 16_000, 160, 400, 80
#: Samples of a cell of 80 ms, over which states are averaged, and states in it.
CELL = 1280
_STATES_PER_CELL = 4
RATE_HZ = _SAMPLE_RATE / CELL
#: Frames in one product with the mel filters.
_FEW = 16
#: Cells of a window (8 s), and of its margin on either side that another window gives better.
_WINDOW, _MARGIN = 100, 12
_STEP = _WINDOW - 2 * _MARGIN


class SpeechStates:
    """Streaming speech states of one recording.

    Call it with consecutive `(n,)` float32 samples in [-1, 1] at 16 kHz, n any number. It returns `(cells, 384)`
    float32, the cells that are now computed; cell i is of the samples [1280 i, 1280 i + 1280). `finish` returns the
    rest. It keeps at most 16 s of samples.

    Raises:
        ArtefactError: the network is missing or damaged (at construction).
    """

    def __init__(self) -> None:
        self._network = _session()
        self._kept = np.zeros(0, np.float32)
        #: Cell of the first kept sample, and the next cell to return.
        self._first, self._next = 0, 0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """States of the cells that `samples` complete: `(cells, 384)`, 88 at first, then 76 at a time."""
        self._kept = np.concatenate([self._kept, samples.astype(np.float32, copy=False)])
        parts = []
        while True:
            start = max(0, self._next - _MARGIN)
            place = (start - self._first) * CELL
            if len(self._kept) < place + _WINDOW * CELL:
                break
            states = self._run(self._kept[place : place + _WINDOW * CELL])
            parts.append(states[self._next - start : _WINDOW - _MARGIN])
            self._next = start + _WINDOW - _MARGIN
        # The last window may begin up to its own length before the end.
        unused = max(0, len(self._kept) // CELL - _WINDOW)
        unused = min(unused, max(0, self._next - _MARGIN - self._first))
        self._kept, self._first = self._kept[unused * CELL :], self._first + unused
        return np.concatenate(parts) if parts else np.zeros((0, DIM), np.float32)

    def peek(self) -> np.ndarray:
        """States of the cells that were not returned yet, `(cells, 384)`, from the last 8 s so far: what `finish` would
        return now. A last cell of less than 80 ms is padded with zeros."""
        cells = -(-len(self._kept) // CELL)
        if not cells:
            return np.zeros((0, DIM), np.float32)
        end, start = self._first + cells, max(0, cells - _WINDOW)
        states = self._run(self._kept[start * CELL :])
        return states[len(states) - (end - self._next) :]

    def finish(self) -> np.ndarray:
        """States of the remaining cells, `(cells, 384)`; a last cell of less than 80 ms is padded with zeros."""
        out = self.peek()
        self._next, self._kept = self._next + len(out), np.zeros(0, np.float32)
        return out

    def _run(self, samples: np.ndarray) -> np.ndarray:
        """States of up to 8 s of samples, `(cells, 384)`."""
        cells = -(-len(samples) // CELL)
        level = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        window = np.zeros(_WINDOW * CELL, np.float32)
        begin = (_WINDOW - cells) * CELL
        window[begin : begin + len(samples)] = level
        (states,) = self._network.run([_STATES], {"input_features": log_mel(window)[None]})
        averaged: np.ndarray = states[0].reshape(_WINDOW, _STATES_PER_CELL, DIM).mean(axis=1)
        return averaged[_WINDOW - cells :]


def log_mel(samples: np.ndarray) -> np.ndarray:
    """Whisper's input: `(n,)` float32 samples -> `(80, n // 160)` float32 log powers of mel bands, 8 below the loudest
    at least, and mapped to about [-1, 1]."""
    padded = np.pad(samples, _FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][: len(samples) // _HOP]
    window, filters = _mel_filters()
    power = np.square(np.abs(np.fft.rfft(frames * window, axis=1))).astype(np.float32)
    # A few frames at a time: after a larger product, threads of the linear algebra library wait in a loop.
    parts = [power[i : i + _FEW] @ filters.T for i in range(0, len(power), _FEW)]
    bands = np.log10(np.maximum(np.concatenate(parts).T, 1e-10))
    out: np.ndarray = (np.maximum(bands, bands.max() - 8) + 4) / 4
    return out


@lru_cache(maxsize=1)
def _mel_filters() -> tuple[np.ndarray, np.ndarray]:
    """The window `(400,)`, and triangular filters of Slaney's mel scale with equal areas, `(80, 201)` float32."""
    # Slaney's scale: linear up to 1 kHz, 15 mel there; then 27 mel for a factor of 6.4.
    top = 15 + 27 * np.log(8) / np.log(6.4)
    mel = np.linspace(0, top, _BANDS + 2)
    hertz = np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))
    bins = np.linspace(0, _SAMPLE_RATE / 2, _FFT // 2 + 1)
    left, centre, right = (edges[:, None] for edges in (hertz[:-2], hertz[1:-1], hertz[2:]))
    triangles = np.minimum((bins - left) / (centre - left), (right - bins) / (right - centre))
    filters = np.maximum(triangles, 0) * 2 / (right - left)
    return np.hanning(_FFT + 1)[:-1].astype(np.float32), filters.astype(np.float32)


def cell_centres(count: int) -> np.ndarray:
    """Centres of the first `count` cells, `(count,)` seconds from the start of the audio."""
    return (np.arange(count) + 0.5) / RATE_HZ


def provenance() -> dict[str, str]:
    """The network's digest, and the version of the voice activity network."""
    return {
        "encoder": NAME,
        "version": VERSION,
        "network": hub.ARTEFACTS[NETWORK].digest,
        "speech": voice_activity.RELEASE,
    }


class SmartTurn:
    """`AudioEncoder` of the speech states: one stream, 12.5 vectors per second.

    A vector is valid where someone speaks in the middle of its cell (silero-vad); invalid vectors are zero.

    Raises:
        ArtefactError: the network is missing or damaged.
    """

    name, modality, dim = NAME, VOICE, DIM
    rate_hz: float | None = RATE_HZ
    receptive_field_s = _WINDOW / RATE_HZ
    licence = LICENCE

    def __init__(self) -> None:
        _session()
        self.provenance = provenance()

    def release(self) -> None:
        """Free the network until it is needed again."""
        release()

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Encode the audio of one recording; see `mien.encoders.protocol.AudioEncoder`."""
        return encode_speech(blocks, SpeechStates(), DIM, cell_centres, self.provenance)


def release() -> None:
    """Free the network, which takes 10 MB; it is read again when it is needed."""
    _session.cache_clear()


@lru_cache(maxsize=1)
def _session() -> Any:
    """Session of the layers up to the states, on one thread. It runs once in 6 s of sound, so it keeps no memory."""
    return open_session(_up_to(hub.fetch(NETWORK).read_bytes(), _STATES), threads=1, keep_memory=False)


def _up_to(model: bytes, tensor: str) -> bytes:
    """An ONNX model that ends with a float tensor inside it, and the nodes and weights that it needs: ONNX Runtime
    would keep the others in memory.

    Without the package onnx. In the protobuf message, `graph` is field 7 of the model. Its fields are `node` (1), in
    topological order, each with `input` (1) and `output` (2); `initializer` (5), with `name` (8); and `output` (12),
    with `name` (1) and `type.tensor_type.elem_type` (2, 1, 1).
    """
    name = tensor.encode()
    output = b"\x0a" + _varint(len(name)) + name + b"\x12\x04\x0a\x02\x08\x01"
    parts: list[bytes | memoryview] = [b"\x62" + _varint(len(output)) + output]
    others = []
    for field, content, whole in _fields(memoryview(model)):
        if field != 7:
            others.append(whole)
            continue
        needed, kept = {memoryview(name)}, list[memoryview]()
        graph_fields = list(_fields(content))
        for inner, part, whole_part in reversed(graph_fields):
            names = [(field, value) for field, value, _ in _fields(part)] if inner == 1 else []
            if any(field == 2 and value in needed for field, value in names):
                needed |= {value for field, value in names if field == 1}
                kept.append(whole_part)
        parts += reversed(kept)
        for inner, part, whole_part in graph_fields:
            is_needed = inner == 5 and any(field == 8 and value in needed for field, value, _ in _fields(part))
            if is_needed or inner not in (1, 5, 12):
                parts.append(whole_part)
    return b"".join([*others, b"\x3a", _varint(sum(map(len, parts))), *parts])


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Fields of a protobuf message: number, content (of those with a length), and all bytes of the field."""
    place = 0
    while place < len(message):
        start = place
        key, place = _read_varint(message, place)
        content = message[:0]
        if key & 7 == 2:
            length, place = _read_varint(message, place)
            content = message[place : place + length]
            place += length
        elif key & 7 == 0:
            _, place = _read_varint(message, place)
        else:  # 8 or 4 bytes
            place += 8 if key & 7 == 1 else 4
        yield key >> 3, content, message[start:place]


def _read_varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
