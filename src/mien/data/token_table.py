"""Recordings on a token clock, end to end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mien import clock
from mien.labels import UNLABELLED
from mien.records import Labels, Recording, Stream


@dataclass(frozen=True, slots=True)
class Tokens:
    """One recording on a token clock. times `(time,)` seconds; values: modality -> `(time, dim)` float32;
    valid: modality -> `(time,)` bool; expression `(time,)` int64, -1 unlabelled; valence_arousal `(time,
    2)` float32, NaN unlabelled."""

    times: np.ndarray
    values: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    expression: np.ndarray
    valence_arousal: np.ndarray


def tokens(
    recording: Recording,
    rate_hz: float,
    start_s: float | None = None,
    stop_s: float | None = None,
    modalities: Collection[str] | None = None,
) -> Tokens:
    """A recording's streams (those of `modalities`, or all) and labels on a clock of `rate_hz`.

    The clock spans all streams and labels unless told otherwise. A token's expression is that of the
    nearest label within one token or one label period, whichever is longer; its valence and arousal are
    the mean over its cell.
    """
    sides = [(s.times, clock.median_step(s.times)) for s in recording.streams.values() if len(s.times)]
    labels = recording.clip.labels
    if labels is not None and len(labels.times):
        sides.append((labels.times, clock.median_step(labels.times)))
    if start_s is None:
        start_s = min((t[0] - p / 2 for t, p in sides), default=0.0)
        start_s = max(0.0, float(start_s)) if all(t[0] >= 0 for t, _ in sides) else float(start_s)
    if stop_s is None:
        stop_s = max((float(t[-1] + p / 2) for t, p in sides), default=start_s)
    times = clock.token_times(start_s, stop_s, rate_hz)
    values, valid = {}, {}
    for name, stream in recording.streams.items():
        if modalities is None or name in modalities:
            values[name], valid[name] = clock.resample(stream, times, rate_hz)
    expression, affect = _labels_at(labels, times, rate_hz)
    return Tokens(times, values, valid, expression, affect)


def _labels_at(labels: Labels | None, times: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    expression = np.full(len(times), UNLABELLED, np.int64)
    affect = np.full((len(times), 2), np.nan, np.float32)
    if labels is None or not len(labels.times):
        return expression, affect
    pick = clock.nearest(labels.times, times)
    near = np.abs(labels.times[pick] - times) <= max(1 / rate_hz, clock.median_step(labels.times))
    expression[near] = np.asarray(labels.expression)[pick[near]]
    known = np.isfinite(labels.valence_arousal).all(axis=1)
    values, valid = clock.resample(Stream(labels.valence_arousal, labels.times, known), times, rate_hz)
    affect[valid] = values[valid]
    return expression, affect


class TokenSource(ABC):
    """One modality of all recordings on the global token axis. `dim`: width of a token."""

    dim: int

    @abstractmethod
    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Tokens [start, stop): values `(stop - start, dim)` float32, valid `(stop - start,)` bool."""

    def read_many(self, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Windows `(batch,)` stacked and padded to the longest: values `(batch, time, dim)`, valid
        `(batch, time)`. Padding is zero and invalid."""
        longest = int(lengths.max())
        values = torch.zeros(len(starts), longest, self.dim)
        valid = torch.zeros(len(starts), longest, dtype=torch.bool)
        for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            values[row, :length], valid[row, :length] = self.read(start, start + length)
        return values, valid


class InMemory(TokenSource):
    """Tokens held as two tensors, `(token, dim)` float32 and `(token,)` bool: a batch is one gather."""

    def __init__(self, values: Tensor, valid: Tensor) -> None:
        self.values, self.valid, self.dim = values, valid, values.shape[1]

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        return self.values[start:stop], self.valid[start:stop]

    def read_many(self, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        index, padding = window_index(starts, lengths, len(self.values))
        values = self.values.index_select(0, index.flatten()).view(*index.shape, self.dim)
        valid = self.valid[index]
        if padding is not None:
            values, valid = values.masked_fill_(padding[..., None], 0.0), valid & ~padding
        return values, valid


class Stored(TokenSource):
    """Tokens made when a window is drawn, from streams that stay where they are: mapped from a store, they take no
    memory. The values are those of `clock.resample` over the whole stream, bit for bit.

    Args:
        streams: of each recording, None where it has none. clocks: `(time,)` token times of each recording.
        rate_hz: of the clocks.
    """

    def __init__(self, streams: Sequence[Stream | None], clocks: Sequence[np.ndarray], rate_hz: float) -> None:
        self.streams, self.clocks, self.rate_hz = streams, clocks, rate_hz
        self.dim = next(s.dim for s in streams if s is not None)
        self.bounds = np.concatenate(([0], np.cumsum([len(c) for c in clocks])))
        self.tolerance = [max(1 / rate_hz, clock.median_step(s.times)) if s is not None else 0.0 for s in streams]

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        which = int(np.searchsorted(self.bounds, start, side="right")) - 1
        stream, first = self.streams[which], int(self.bounds[which])
        if stream is None or stop <= start:
            return torch.zeros(stop - start, self.dim), torch.zeros(stop - start, dtype=torch.bool)
        times, tolerance = self.clocks[which][start - first : stop - first], self.tolerance[which]
        reach = max(tolerance, 1 / self.rate_hz) + 1e-6
        low, high = np.searchsorted(stream.times, (times[0] - reach, times[-1] + reach))
        part = Stream(np.asarray(stream.values[low:high]), stream.times[low:high], stream.valid[low:high])
        values, valid = clock.resample(part, times, self.rate_hz, tolerance)
        return torch.from_numpy(values), torch.from_numpy(valid)


def window_index(starts: Tensor, lengths: Tensor, total: int) -> tuple[Tensor, Tensor | None]:
    """Global positions `(batch, longest)` of windows, and where they are padding (None if nowhere)."""
    offset = torch.arange(int(lengths.max()))
    index = starts[:, None] + offset
    padding = offset >= lengths[:, None]
    if not padding.any():
        return index, None
    return index.clamp_max(total - 1), padding


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Recordings end to end. sources: modality -> TokenSource; expression `(token,)` int64; valence_arousal
    `(token, 2)` float32; bounds `(recording + 1,)` int64: recording i is tokens [bounds[i], bounds[i +
    1])."""

    sources: Mapping[str, TokenSource]
    expression: Tensor
    valence_arousal: Tensor
    bounds: Tensor


#: A modality whose tokens would take more than this is not held but read window by window (`Stored`).
HELD_BYTES = 1 << 30


def table(
    recordings: Sequence[Recording],
    rate_hz: float,
    modalities: Sequence[str] | None = None,
    *,
    held_bytes: int | None = None,
) -> TokenTable:
    """Recordings on one clock. A modality that a recording lacks is invalid throughout it.

    held_bytes: the most that a modality's tokens may take in memory; beyond it they are made from the streams
    whenever a window is drawn; None takes `HELD_BYTES`.

    Raises ValueError naming the clip whose stream is not as wide as the others', or if there is no recording.
    """
    if not recordings:
        raise ValueError("no recordings: there is nothing to cut windows from")
    names = list(modalities or dict.fromkeys(n for r in recordings for n in r.streams))
    dims = _widths(recordings, names)
    cut = [tokens(recording, rate_hz, modalities=()) for recording in recordings]
    sizes = [len(t.times) for t in cut]
    most = HELD_BYTES if held_bytes is None else held_bytes
    clocks = [t.times for t in cut]
    sources: dict[str, TokenSource] = {}
    for name in (n for n in names if n in dims):
        source = Stored([r.streams.get(name) for r in recordings], clocks, rate_hz)
        sources[name] = source if sum(sizes) * dims[name] * 4 > most else _held(source)
    return TokenTable(
        sources,
        torch.from_numpy(np.concatenate([t.expression for t in cut])),
        torch.from_numpy(np.concatenate([t.valence_arousal for t in cut])),
        torch.tensor([0, *np.cumsum(sizes).tolist()]),
    )


def _widths(recordings: Sequence[Recording], names: Sequence[str]) -> dict[str, int]:
    dims: dict[str, tuple[int, str]] = {}
    for recording in recordings:
        for name in names:
            if (stream := recording.streams.get(name)) is None:
                continue
            dim, first = dims.setdefault(name, (stream.dim, recording.clip.id))
            if stream.dim != dim:
                raise ValueError(
                    f"clip {recording.clip.id!r} has {stream.dim} {name} values a token, but {first!r} has "
                    f"{dim}: they come from different encoders; extract one of them again"
                )
    return {name: dim for name, (dim, _) in dims.items()}


def _held(source: Stored) -> InMemory:
    parts = [source.read(int(start), int(stop)) for start, stop in pairwise(source.bounds) if stop > start]
    return InMemory(torch.cat([values for values, _ in parts]), torch.cat([valid for _, valid in parts]))
