"""Dataset of windows over a token table, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from mien import clock, soft_vote
from mien.config import Windows
from mien.data.token_table import TokenTable, build_table, window_index
from mien.labels import UNLABELLED
from mien.records import Batch, Recording

#: Augmentation of one modality of a training batch: `(values (batch, time, dim), valid (batch, time), expression
#: (batch, time), generator) -> (values, valid)`. It takes random numbers only from the generator, so that a run is
#: reproducible.
Augment = Callable[[Tensor, Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class WindowBatch(NamedTuple):
    """Request for one training batch.

    seed: of the jitter and the augmentation of the batch.
    windows: indices of the windows.
    part: (rank, processes) of distributed training; rank r gets the windows r, r + processes, ...
    """

    seed: int
    windows: list[int]
    part: tuple[int, int] = (0, 1)


class WindowDataset(Dataset[Batch]):
    """Windows over recordings.

    `dataset[i]` is window i as a batch of one, unchanged. A DataLoader whose batch sampler is `WindowSampler` fetches
    whole batches (`__getitems__`), in which windows are shifted (`windows.jitter`) and augmented.

    Args:
        data: recordings, or a table of them.
        windows: length, hop, rate and jitter.
        modalities: streams to read; None reads all.
        augment: modality -> augmentation, for training batches only.
        labelled: keep only windows with at least one label.
        scores: score tasks whose labels are read; None reads all.
        last_label: a window counts once in `class_counts`, with the last label in it; otherwise all its labels count.

    Raises:
        ValueError: see `build_table`.
    """

    def __init__(
        self,
        data: TokenTable | Sequence[Recording],
        windows: Windows,
        *,
        modalities: Sequence[str] | None = None,
        augment: Mapping[str, Augment] | None = None,
        labelled: bool = False,
        scores: Sequence[str] | None = None,
        last_label: bool = False,
    ) -> None:
        table = data if isinstance(data, TokenTable) else build_table(data, windows.rate_hz, modalities)
        kept = {task: values for task, values in table.scores.items() if scores is None or task in scores}
        self.table = replace(table, scores=kept)
        self.augment = dict(augment or {})
        self.last_label = last_label
        length = clock.token_count(windows.seconds, windows.rate_hz)
        hop = min(length, clock.token_count(windows.hop_seconds, windows.rate_hz))
        self.shift = hop // 2 if windows.jitter else 0
        bounds = self.table.bounds.tolist()
        cut = [
            (first + w.start, w.stop - w.start, first, last)
            for first, last in pairwise(bounds)
            for w in soft_vote.windows(last - first, length, hop)
        ]
        self.starts, self.lengths, self.first, self.last = torch.tensor(cut, dtype=torch.int64).view(-1, 4).T
        if labelled:
            has_label = (self.table.expression != UNLABELLED) | torch.isfinite(self.table.valence_arousal).any(1)
            for values in self.table.scores.values():
                has_label = has_label | torch.isfinite(values).any(1)
            self.keep(_window_sums(has_label[:, None].long(), self.starts, self.lengths)[:, 0] > 0)

    def keep(self, mask: Tensor) -> None:
        """Keep only the windows where `mask` `(window,)` bool is true."""
        self.starts, self.lengths = self.starts[mask], self.lengths[mask]
        self.first, self.last = self.first[mask], self.last[mask]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, window: int) -> Batch:
        if not -len(self) <= window < len(self):
            raise IndexError(f"there is no window {window}; the dataset has {len(self)}")
        return self._gather(self.starts[[window]], self.lengths[[window]])

    def __getitems__(self, request: WindowBatch | list[int]) -> Batch:
        """Fetch a batch: windows by index as they are, or a `WindowBatch` with jitter and augmentation.

        Every process of distributed training gets equally many windows; the first ones are repeated if need be.
        """
        if not isinstance(request, WindowBatch):
            return self._gather(self.starts[request], self.lengths[request])
        windows = request.windows
        generator = torch.Generator().manual_seed(request.seed)
        starts, lengths = self.starts[windows], self.lengths[windows]
        if self.shift:
            shifted = starts + torch.randint(-self.shift, self.shift + 1, starts.shape, generator=generator)
            starts = shifted.clamp(self.first[windows], self.last[windows] - lengths)
        rank, processes = request.part
        if processes > 1:
            own = torch.arange(rank, -(-len(starts) // processes) * processes, processes) % len(starts)
            starts, lengths = starts[own], lengths[own]
            generator.manual_seed(request.seed + rank)
        batch = self._gather(starts, lengths)
        assert batch.expression is not None
        for name, augment in self.augment.items():
            if name in batch.values:
                batch.values[name], batch.valid[name] = augment(
                    batch.values[name], batch.valid[name], batch.expression, generator
                )
        return batch

    def _gather(self, starts: Tensor, lengths: Tensor) -> Batch:
        index, padding = window_index(starts, lengths, len(self.table.expression))
        expression, affect = self.table.expression[index], self.table.valence_arousal[index]
        scores = {task: values[index] for task, values in self.table.scores.items()}
        if padding is not None:
            expression = expression.masked_fill(padding, UNLABELLED)
            affect = affect.masked_fill(padding[..., None], torch.nan)
            scores = {task: values.masked_fill(padding[..., None], torch.nan) for task, values in scores.items()}
        read = {name: source.read_many(starts, lengths) for name, source in self.table.sources.items()}
        return Batch(
            values={name: values for name, (values, _) in read.items()},
            valid={name: valid for name, (_, valid) in read.items()},
            expression=expression,
            valence_arousal=affect,
            scores=scores,
        )

    def class_counts(self, classes: int) -> Tensor:
        """Labels of each class in each window, `(window, classes)` int64; with `last_label` at most one a window."""
        expression = self.table.expression
        if self.last_label:
            place = torch.where(expression != UNLABELLED, torch.arange(len(expression)), -1).cummax(0).values
            last = place[self.starts + self.lengths - 1]
            labels = torch.where(last >= self.starts, expression[last.clamp_min(0)], UNLABELLED)
            return torch.nn.functional.one_hot(labels + 1, classes + 1)[:, 1:]
        one_hot = torch.nn.functional.one_hot(expression + 1, classes + 1)[:, 1:]
        return _window_sums(one_hot, self.starts, self.lengths)

    def score_means(self) -> dict[str, Tensor]:
        """Mean of each column of each score task over labelled tokens, `(columns,)`; NaN where none is labelled."""
        return {task: values.nanmean(dim=0) for task, values in self.table.scores.items()}


def _window_sums(counts: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """Sums of `(token, k)` counts over windows, `(window, k)`, by cumulative sums."""
    sums = torch.cat((counts.new_zeros(1, counts.shape[1]), counts.cumsum(0)))
    return sums[starts + lengths] - sums[starts]


def collate(batches: Batch | Sequence[Batch]) -> Batch:
    """Stack batches, padded at the end to the longest one. A single `Batch` is returned as it is.

    Padding is zero, invalid in every modality, and unlabelled. All batches have the same modalities.
    """
    if isinstance(batches, Batch):
        return batches
    longest = max(next(iter(b.valid.values())).shape[1] for b in batches)

    def stack(parts: list[Tensor], fill: float) -> Tensor:
        shape = (sum(len(p) for p in parts), longest, *parts[0].shape[2:])
        stacked = parts[0].new_full(shape, fill)
        row = 0
        for part in parts:
            stacked[row : row + len(part), : part.shape[1]] = part
            row += len(part)
        return stacked

    labels = [b.expression for b in batches if b.expression is not None]
    affect = [b.valence_arousal for b in batches if b.valence_arousal is not None]
    return Batch(
        values={name: stack([b.values[name] for b in batches], 0.0) for name in batches[0].values},
        valid={name: stack([b.valid[name] for b in batches], 0) for name in batches[0].valid},
        expression=stack(labels, UNLABELLED) if labels else None,
        valence_arousal=stack(affect, torch.nan) if affect else None,
        scores={task: stack([b.scores[task] for b in batches], torch.nan) for task in batches[0].scores},
    )
