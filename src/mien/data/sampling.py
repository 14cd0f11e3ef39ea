"""Which windows training sees, what it is told of them, and voices borrowed by label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from mien.data.token_table import InMemory, table
from mien.data.windows import Draw, WindowDataset
from mien.labels import UNLABELLED
from mien.records import Recording


def window_weights(counts: Tensor, balance: float) -> Tensor:
    """How likely each window is drawn, `(window,)` float64 summing to 1, from its label counts `(window,
    classes)`.

    A window weighs the mean over its labelled tokens of `n_c ** -balance`, n_c its class's count: with 0
    all are equal, with 1 a token of a rare class counts as much as all of a common one. Windows without
    an expression label weigh as the average window.
    """
    per_class = counts.sum(0).double()
    value = torch.where(per_class > 0, per_class.clamp_min(1) ** -balance, 0.0)
    labelled = counts.sum(1)
    weight = (counts.double() @ value) / labelled.clamp_min(1)
    some = labelled > 0
    weight = torch.where(some, weight, weight[some].mean() if some.any() else torch.ones((), dtype=weight.dtype))
    return weight / weight.sum()


class WindowSampler(Sampler[Draw]):
    """Draws an epoch's batches. Everything follows from (seed, epoch), so that an interrupted run can go
    on exactly.

    balance 0: every window once, in random order. Above: with replacement, by `window_weights`. part: of `Draw`.
    """

    def __init__(
        self,
        weights: Tensor,
        *,
        batch: int,
        seed: int,
        epoch: int,
        balance: float = 0.0,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.weights, self.batch, self.balance, self.part = weights, batch, balance, part
        self.seed, self.epoch = seed, epoch

    def __len__(self) -> int:
        return -(-len(self.weights) // self.batch)

    def __iter__(self) -> Iterator[Draw]:
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        if self.balance:
            order = torch.multinomial(self.weights, len(self.weights), replacement=True, generator=generator)
        else:
            order = torch.randperm(len(self.weights), generator=generator)
        for step, chunk in enumerate(order.split(self.batch)):
            yield Draw(mixed_seed(self.seed, self.epoch, step), chunk.tolist(), self.part)


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed from several integers; near inputs give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of training data. mean, deviation: modality -> `(dim,)` over valid tokens; counts `(classes,)`
    labels."""

    mean: dict[str, Tensor]
    deviation: dict[str, Tensor]
    counts: Tensor


def statistics(dataset: WindowDataset, classes: int, *, balance: float = 0.0, limit: int = 4096) -> Statistics:
    """What the network is told of its inputs, as training will draw them (augmentation included).

    Means and deviations are estimated on at most `limit` windows, evenly spaced; a value that never
    varies gets deviation 1. Counts are those expected under `window_weights`, so that class weights
    correct only what balanced drawing leaves.
    """
    counts = dataset.class_counts(classes)
    weights = window_weights(counts, balance)
    expected = (weights[:, None] * counts).sum(0) * len(dataset)
    sums: dict[str, Tensor] = {}
    picks = torch.linspace(0, len(dataset) - 1, min(limit, len(dataset))).long().unique()
    for step, chunk in enumerate(picks.split(256)):
        batch = dataset.__getitems__(Draw(mixed_seed(step), chunk.tolist()))
        for name, values in batch.values.items():
            known = values[batch.valid[name]].double()
            part = torch.stack((torch.full_like(known[:1].sum(0), len(known)), known.sum(0), known.square().sum(0)))
            sums[name] = sums.get(name, 0) + part
    mean, deviation = {}, {}
    for name, (n, total, squares) in sums.items():
        n = n.clamp_min(1)
        mean[name] = (total / n).float()
        spread = (squares / n - (total / n).square()).clamp_min(0).sqrt()
        deviation[name] = torch.where(spread > 1e-6 * (1 + mean[name].abs()), spread, 1.0).float()
    return Statistics(mean, deviation, expected)


class LabelPool:
    """Augment that speaks with another voice: tokens of one modality taken from a pool by their label.

    For each sample and class one pool recording of that class is drawn; the sample's tokens of that class
    take that recording's tokens, in order, from a random point, again from its start when it ends. Used
    to pair simulated faces with real utterances, of which no corpus has both (our choice). Classes that
    the pool lacks, unlabelled tokens, and samples spared by `probability` keep what they had.

    Args:
        recordings: each with one label throughout (its most frequent one counts).
        modality: the stream to take.
        probability: share of samples that are changed.
    """

    def __init__(
        self,
        recordings: Sequence[Recording],
        modality: str,
        rate_hz: float,
        *,
        classes: int,
        probability: float,
    ) -> None:
        pool = table(recordings, rate_hz, [modality])
        source = pool.sources[modality]
        assert isinstance(source, InMemory)
        self.source, self.probability = source, probability
        sizes = pool.bounds.diff()
        counts = torch.stack(
            [
                torch.bincount(pool.expression[a:b][pool.expression[a:b] >= 0], minlength=classes)
                for a, b in zip(pool.bounds[:-1], pool.bounds[1:], strict=True)
            ]
        )
        label = torch.where(counts.sum(1) > 0, counts.argmax(1), UNLABELLED)
        order = torch.argsort(label, stable=True)
        self.starts, self.sizes = pool.bounds[:-1][order], sizes[order]
        self.members = torch.stack([(label == c).sum() for c in range(classes)])
        self.offset = (label == UNLABELLED).sum() + torch.cat(
            (torch.zeros(1, dtype=torch.long), self.members.cumsum(0)[:-1])
        )

    def __call__(
        self, values: Tensor, valid: Tensor, expression: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        batch, time = expression.shape
        chosen, where = torch.rand(2, batch, len(self.members), generator=generator, dtype=torch.float64)
        spared = torch.rand(batch, 1, generator=generator) >= self.probability
        member = (self.offset + (chosen * self.members).long()).clamp_max(len(self.starts) - 1)
        start, size = self.starts[member], self.sizes[member]
        phase = (where * size).long()
        kind = expression.clamp_min(0)
        taken = (expression >= 0) & (self.members[kind] > 0) & ~spared
        position = (torch.arange(time) + phase.gather(1, kind)) % size.gather(1, kind)
        index = start.gather(1, kind) + position
        return (
            torch.where(taken[..., None], self.source.values[index], values),
            torch.where(taken, self.source.valid[index], valid),
        )
