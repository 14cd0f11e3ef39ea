"""Windows over a token table, one at a time or a batch at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien import clock
from mien.config import Windows
from mien.data.token_table import TokenTable, table, window_index
from mien.labels import UNLABELLED
from mien.records import Batch, Recording

#: Changes one modality of a drawn batch: `(values (batch, time, dim), valid (batch, time), expression
#: (batch, time), generator) -> (values, valid)`. Rows are samples; draws come from the generator only, so
#: that a run repeats.
Augment = Callable[[Tensor, Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class Draw(NamedTuple):
    """A batch to fetch for training: which windows, and the seed of everything random about them. part: which of how
    many processes asks; it gets every so many-th window."""

    seed: int
    windows: list[int]
    part: tuple[int, int] = (0, 1)


class WindowDataset(Dataset[Batch]):
    """Windows over recordings.

    `dataset[i]` is window i as a batch of one, as it lies in the data. A DataLoader whose batch sampler is
    `WindowSampler` fetches whole batches at once: those windows are shifted (`windows.jitter`) and augmented.

    Args:
        data: recordings, or a table of them.
        windows: seconds, hop and rate.
        modalities: which streams to serve; all by default.
        augment: modality -> `Augment`, for drawn batches only.
        labelled: keep only windows with any label.
    """

    def __init__(
        self,
        data: TokenTable | Sequence[Recording],
        windows: Windows,
        *,
        modalities: Sequence[str] | None = None,
        augment: Mapping[str, Augment] | None = None,
        labelled: bool = False,
    ) -> None:
        self.table = data if isinstance(data, TokenTable) else table(data, windows.rate_hz, modalities)
        self.augment = dict(augment or {})
        length = clock.tokens_in(windows.seconds, windows.rate_hz)
        hop = min(length, clock.tokens_in(windows.hop_seconds, windows.rate_hz))
        self.shift = hop // 2 if windows.jitter else 0
        bounds = self.table.bounds.tolist()
        cut = [
            (first + w.start, w.stop - w.start, first, last)
            for first, last in pairwise(bounds)
            for w in clock.windows(last - first, length, hop)
        ]
        self.starts, self.lengths, self.first, self.last = torch.tensor(cut, dtype=torch.int64).view(-1, 4).T
        if labelled:
            has = (self.table.expression != UNLABELLED) | torch.isfinite(self.table.valence_arousal).any(1)
            self._keep(_inside(has[:, None].long(), self.starts, self.lengths)[:, 0] > 0)

    def _keep(self, mask: Tensor) -> None:
        self.starts, self.lengths = self.starts[mask], self.lengths[mask]
        self.first, self.last = self.first[mask], self.last[mask]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, window: int) -> Batch:
        if not -len(self) <= window < len(self):
            raise IndexError(f"window {window} of {len(self)}")
        return self._gather(self.starts[[window]], self.lengths[[window]])

    def __getitems__(self, draw: Draw | list[int]) -> Batch:
        if not isinstance(draw, Draw):
            return self._gather(self.starts[draw], self.lengths[draw])
        generator = torch.Generator().manual_seed(draw.seed)
        starts, lengths = self.starts[draw.windows], self.lengths[draw.windows]
        if self.shift:
            moved = starts + torch.randint(-self.shift, self.shift + 1, starts.shape, generator=generator)
            starts = moved.clamp(self.first[draw.windows], self.last[draw.windows] - lengths)
        rank, processes = draw.part
        if processes > 1:
            mine = torch.arange(rank, -(-len(starts) // processes) * processes, processes) % len(starts)
            starts, lengths = starts[mine], lengths[mine]
            generator.manual_seed(draw.seed + rank)
        batch = self._gather(starts, lengths)
        assert batch.expression is not None
        for name, change in self.augment.items():
            if name in batch.values:
                batch.values[name], batch.valid[name] = change(
                    batch.values[name], batch.valid[name], batch.expression, generator
                )
        return batch

    def _gather(self, starts: Tensor, lengths: Tensor) -> Batch:
        index, padding = window_index(starts, lengths, len(self.table.expression))
        expression, affect = self.table.expression[index], self.table.valence_arousal[index]
        if padding is not None:
            expression = expression.masked_fill(padding, UNLABELLED)
            affect = affect.masked_fill(padding[..., None], torch.nan)
        read = {name: source.read_many(starts, lengths) for name, source in self.table.sources.items()}
        return Batch(
            values={name: values for name, (values, _) in read.items()},
            valid={name: valid for name, (_, valid) in read.items()},
            expression=expression,
            valence_arousal=affect,
        )

    def class_counts(self, classes: int) -> Tensor:
        """`(window, classes)` labelled tokens of each class in each window."""
        one_hot = torch.nn.functional.one_hot(self.table.expression + 1, classes + 1)[:, 1:]
        return _inside(one_hot, self.starts, self.lengths)


def _inside(counts: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Sums of `(token, k)` counts over windows, `(window, k)`, by cumulative sums."""
    sums = torch.cat((counts.new_zeros(1, counts.shape[1]), counts.cumsum(0)))
    return sums[starts + lengths] - sums[starts]


def collate(batches: Batch | Sequence[Batch]) -> Batch:
    """Batches stacked, padded at the end to the longest: padding is zero, invalid everywhere and
    unlabelled. What is one batch already passes."""
    if isinstance(batches, Batch):
        return batches
    longest = max(next(iter(b.valid.values())).shape[1] for b in batches)

    def stack(parts: list[Tensor], fill: float) -> Tensor:
        shape = (sum(len(p) for p in parts), longest, *parts[0].shape[2:])
        out = parts[0].new_full(shape, fill)
        row = 0
        for part in parts:
            out[row : row + len(part), : part.shape[1]] = part
            row += len(part)
        return out

    labels = [b.expression for b in batches if b.expression is not None]
    affect = [b.valence_arousal for b in batches if b.valence_arousal is not None]
    return Batch(
        values={name: stack([b.values[name] for b in batches], 0.0) for name in batches[0].values},
        valid={name: stack([b.valid[name] for b in batches], 0) for name in batches[0].valid},
        expression=stack(labels, UNLABELLED) if labels else None,
        valence_arousal=stack(affect, torch.nan) if affect else None,
    )
