"""Token table: all recordings of a dataset on one token clock, end to end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mien import clock
from mien.labels import UNLABELLED
from mien.records import Labels, Recording, Stream


@dataclass(frozen=True, slots=True)
class Tokens:
    """One recording on a token clock.

    times: `(time,)` seconds, the centres of the tokens.
    values, valid: modality -> `(time, dim)` float32 and `(time,)` bool.
    expression: `(time,)` int64 class index, -1 unlabelled.
    valence_arousal: `(time, 2)` float32 in [-1, 1], NaN unlabelled.
    scores: score task -> `(time, columns)` float32 in [0, 1], NaN unlabelled; tasks of the recording's labels.
    """

    times: np.ndarray
    values: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    expression: np.ndarray
    valence_arousal: np.ndarray
    scores: dict[str, np.ndarray]


def make_tokens(
    recording: Recording,
    rate_hz: float,
    start_s: float | None = None,
    stop_s: float | None = None,
    modalities: Collection[str] | None = None,
) -> Tokens:
    """Resample the streams and labels of a recording to a token clock.

    The expression and the scores of a token are those of the nearest label within one token or one label period,
    whichever is longer. Its valence and arousal are the mean of the labels in its interval.

    Args:
        recording: the recording.
        rate_hz: tokens per second.
        start_s, stop_s: span of the clock; None spans all streams and labels.
        modalities: streams to resample; None resamples all.
    """
    spans = [(s.times, clock.median_step(s.times)) for s in recording.streams.values() if len(s.times)]
    labels = recording.clip.labels
    if labels is not None and len(labels.times):
        spans.append((labels.times, clock.median_step(labels.times)))
    if start_s is None:
        start_s = min((t[0] - p / 2 for t, p in spans), default=0.0)
        start_s = max(0.0, float(start_s)) if all(t[0] >= 0 for t, _ in spans) else float(start_s)
    if stop_s is None:
        stop_s = max((float(t[-1] + p / 2) for t, p in spans), default=start_s)
    times = clock.token_times(start_s, stop_s, rate_hz)
    values, valid = {}, {}
    for name, stream in recording.streams.items():
        if modalities is None or name in modalities:
            values[name], valid[name] = clock.resample(stream, times, rate_hz)
    return Tokens(times, values, valid, *_labels_at(labels, times, rate_hz))


def _labels_at(
    labels: Labels | None, times: np.ndarray, rate_hz: float
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    expression = np.full(len(times), UNLABELLED, np.int64)
    affect = np.full((len(times), 2), np.nan, np.float32)
    if labels is None or not len(labels.times):
        return expression, affect, {}
    pick = clock.nearest(labels.times, times)
    near = np.abs(labels.times[pick] - times) <= max(1 / rate_hz, clock.median_step(labels.times))
    expression[near] = np.asarray(labels.expression)[pick[near]]
    known = np.isfinite(labels.valence_arousal).all(axis=1)
    values, valid = clock.resample(Stream(labels.valence_arousal, labels.times, known), times, rate_hz)
    affect[valid] = values[valid]
    scores = {
        task: np.where(near[:, None], known_scores[pick], np.nan).astype(np.float32)
        for task, known_scores in labels.scores.items()
    }
    return expression, affect, scores


class TokenSource(ABC):
    """One modality of all recordings on the global token axis. dim: length of one token."""

    dim: int

    @abstractmethod
    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Read the tokens [start, stop): values `(stop - start, dim)` float32, valid `(stop - start,)` bool."""

    def read_many(self, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Read windows, stacked and padded to the longest one. Padding is zero and invalid.

        Args:
            starts, lengths: `(batch,)` int64 positions and lengths of the windows.

        Returns:
            values `(batch, time, dim)` float32 and valid `(batch, time)` bool.
        """
        longest = int(lengths.max())
        values = torch.zeros(len(starts), longest, self.dim)
        valid = torch.zeros(len(starts), longest, dtype=torch.bool)
        for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
            values[row, :length], valid[row, :length] = self.read(start, start + length)
        return values, valid


class InMemoryTokens(TokenSource):
    """Tokens in memory: values `(token, dim)` float32 and valid `(token,)` bool. A batch is one gather."""

    def __init__(self, values: Tensor, valid: Tensor) -> None:
        self.values, self.valid, self.dim = values, valid, values.shape[1]

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See `TokenSource.read`."""
        return self.values[start:stop], self.valid[start:stop]

    def read_many(self, starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """See `TokenSource.read_many`."""
        index, padding = window_index(starts, lengths, len(self.values))
        values = self.values.index_select(0, index.flatten()).view(*index.shape, self.dim)
        valid = self.valid[index]
        if padding is not None:
            values, valid = values.masked_fill_(padding[..., None], 0.0), valid & ~padding
        return values, valid


class StreamTokens(TokenSource):
    """Tokens resampled from the streams when a window is read. Streams mapped from a store take no memory.

    The values equal those of `clock.resample` over the whole stream, bit for bit.

    Args:
        streams: stream of each recording, None where it has none.
        clocks: `(time,)` token times of each recording.
        rate_hz: rate of the clocks.
    """

    def __init__(self, streams: Sequence[Stream | None], clocks: Sequence[np.ndarray], rate_hz: float) -> None:
        self.streams, self.clocks, self.rate_hz = streams, clocks, rate_hz
        self.dim = next(s.dim for s in streams if s is not None)
        self.bounds = np.concatenate(([0], np.cumsum([len(c) for c in clocks])))
        self.tolerance = [max(1 / rate_hz, clock.median_step(s.times)) if s is not None else 0.0 for s in streams]

    def read(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """See `TokenSource.read`. The tokens must be of one recording."""
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
    """Positions of windows on the global token axis, `(batch, longest)`, and where they are padding (None if nowhere).

    Positions of padding are within the axis of `total` tokens, so they can be read and then masked.
    """
    offset = torch.arange(int(lengths.max()))
    index = starts[:, None] + offset
    padding = offset >= lengths[:, None]
    if not padding.any():
        return index, None
    return index.clamp_max(total - 1), padding


@dataclass(frozen=True, slots=True)
class TokenTable:
    """All recordings end to end.

    sources: modality -> tokens.
    expression: `(token,)` int64 class index, -1 unlabelled.
    valence_arousal: `(token, 2)` float32 in [-1, 1], NaN unlabelled.
    bounds: `(recording + 1,)` int64; recording i is the tokens [bounds[i], bounds[i + 1]).
    scores: score task -> `(token, columns)` float32 in [0, 1], NaN unlabelled; tasks of which any recording has labels.
    """

    sources: Mapping[str, TokenSource]
    expression: Tensor
    valence_arousal: Tensor
    bounds: Tensor
    scores: Mapping[str, Tensor] = field(default_factory=dict)


#: A modality whose tokens would take more memory than this is resampled window by window (`StreamTokens`).
MEMORY_LIMIT_BYTES = 1 << 30


def build_table(
    recordings: Sequence[Recording],
    rate_hz: float,
    modalities: Sequence[str] | None = None,
    *,
    memory_limit_bytes: int | None = None,
) -> TokenTable:
    """Build the token table of recordings. A modality that a recording lacks is invalid throughout it.

    Args:
        recordings: the recordings, in order.
        rate_hz: tokens per second.
        modalities: streams to include; None includes all.
        memory_limit_bytes: largest memory of one modality's tokens, beyond which they are resampled from the streams
            for each window; None takes `MEMORY_LIMIT_BYTES`.

    Raises:
        ValueError: there are no recordings, or the streams of one modality differ in dim.
    """
    if not recordings:
        raise ValueError("no recordings: there is nothing to cut windows from")
    names = list(modalities or dict.fromkeys(n for r in recordings for n in r.streams))
    dims = _dims(recordings, names)
    labels = [make_tokens(recording, rate_hz, modalities=()) for recording in recordings]
    sizes = [len(t.times) for t in labels]
    limit = MEMORY_LIMIT_BYTES if memory_limit_bytes is None else memory_limit_bytes
    clocks = [t.times for t in labels]
    sources: dict[str, TokenSource] = {}
    for name in (n for n in names if n in dims):
        source = StreamTokens([r.streams.get(name) for r in recordings], clocks, rate_hz)
        sources[name] = source if sum(sizes) * dims[name] * 4 > limit else _load(source)
    return TokenTable(
        sources,
        torch.from_numpy(np.concatenate([t.expression for t in labels])),
        torch.from_numpy(np.concatenate([t.valence_arousal for t in labels])),
        torch.tensor([0, *np.cumsum(sizes).tolist()]),
        _join_scores(labels),
    )


def _join_scores(parts: Sequence[Tokens]) -> dict[str, Tensor]:
    """Scores of all recordings end to end; NaN in those without labels of a task."""
    widths = {task: values.shape[1] for part in parts for task, values in part.scores.items()}
    joined = {}
    for task, width in widths.items():
        rows = [p.scores.get(task, np.full((len(p.times), width), np.nan, np.float32)) for p in parts]
        joined[task] = torch.from_numpy(np.concatenate(rows))
    return joined


def _dims(recordings: Sequence[Recording], names: Sequence[str]) -> dict[str, int]:
    """Modality -> dim of its streams."""
    dims: dict[str, tuple[int, str]] = {}
    for recording in recordings:
        for name in names:
            if (stream := recording.streams.get(name)) is None:
                continue
            dim, first = dims.setdefault(name, (stream.dim, recording.clip.id))
            if stream.dim != dim:
                raise ValueError(
                    f"clip {recording.clip.id!r} has {stream.dim} {name} values per token, but {first!r} has "
                    f"{dim}: they come from different encoders. Extract one of them again."
                )
    return {name: dim for name, (dim, _) in dims.items()}


def _load(source: StreamTokens) -> InMemoryTokens:
    parts = [source.read(int(start), int(stop)) for start, stop in pairwise(source.bounds) if stop > start]
    return InMemoryTokens(torch.cat([values for values, _ in parts]), torch.cat([valid for _, valid in parts]))
