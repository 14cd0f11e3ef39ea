"""Window sampling, input statistics, and same-class voice augmentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from mien.data.token_table import InMemoryTokens, build_table
from mien.data.windows import WindowBatch, WindowDataset
from mien.labels import UNLABELLED
from mien.records import Recording


def window_weights(counts: Tensor, balance: float) -> Tensor:
    """Sampling probability of each window, to balance the classes. Our choice, because classes are very unequal.

    The weight of a window is the mean over its labelled tokens of `n_c ** -balance`, where n_c is the number of tokens
    of that class in all windows: 0 makes all windows equal, 1 makes all classes equal. Windows without an expression
    label weigh as much as the average window.

    Args:
        counts: `(window, classes)` labelled tokens of each class.
        balance: exponent, 0 to 1.

    Returns:
        `(window,)` float64, sum 1.
    """
    per_class = counts.sum(0).double()
    value = torch.where(per_class > 0, per_class.clamp_min(1) ** -balance, 0.0)
    labelled = counts.sum(1)
    weight = (counts.double() @ value) / labelled.clamp_min(1)
    has_label = labelled > 0
    average = weight[has_label].mean() if has_label.any() else torch.ones((), dtype=weight.dtype)
    weight = torch.where(has_label, weight, average)
    return weight / weight.sum()


class WindowSampler(Sampler[WindowBatch]):
    """Sample the batches of one epoch. They depend only on (seed, epoch), so an interrupted run resumes exactly.

    Args:
        weights: `(window,)` from `window_weights`.
        batch: windows per batch.
        balance: 0 takes every window once, in random order; otherwise windows are drawn with replacement by `weights`.
        part: see `WindowBatch`.
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

    def __iter__(self) -> Iterator[WindowBatch]:
        generator = torch.Generator().manual_seed(mix_seeds(self.seed, self.epoch))
        if self.balance:
            order = torch.multinomial(self.weights, len(self.weights), replacement=True, generator=generator)
        else:
            order = torch.randperm(len(self.weights), generator=generator)
        for step, chunk in enumerate(torch.split(order, self.batch)):
            yield WindowBatch(mix_seeds(self.seed, self.epoch, step), chunk.tolist(), self.part)


def mix_seeds(*parts: int) -> int:
    """Combine integers into one 63-bit seed. Similar inputs give unrelated seeds (numpy's SeedSequence)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """Statistics of training data.

    mean, deviation: modality -> `(dim,)` float32 over valid tokens, for standardisation.
    counts: `(classes,)` expected number of labelled tokens, for class weights.
    """

    mean: dict[str, Tensor]
    deviation: dict[str, Tensor]
    counts: Tensor


def input_statistics(
    dataset: WindowDataset, classes: int, *, balance: float = 0.0, limit: int = 4096
) -> InputStatistics:
    """Estimate the statistics of the network's inputs as training samples them, augmentation included.

    Args:
        dataset: windows of the training data.
        classes: number of expression classes.
        balance: of `window_weights`. Counts are those expected under it, so that class weights correct only the
            imbalance that remains.
        limit: most windows used for means and deviations, evenly spaced. A constant feature gets deviation 1.
    """
    counts = dataset.class_counts(classes)
    weights = window_weights(counts, balance)
    expected = (weights[:, None] * counts).sum(0) * len(dataset)
    sums: dict[str, Tensor] = {}
    picks = torch.unique(torch.linspace(0, len(dataset) - 1, min(limit, len(dataset))).long())
    for step, chunk in enumerate(torch.split(picks, 256)):
        batch = dataset.__getitems__(WindowBatch(mix_seeds(step), chunk.tolist()))
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
    return InputStatistics(mean, deviation, expected)


class SameClassAugment:
    """Same-class augmentation: replace one modality by tokens of other recordings with the same label.

    For each sample and class, one recording of that class is drawn from the pool. The sample's tokens of that class are
    replaced by that recording's tokens in order, from a random position, cyclically. Tokens without a label, of classes
    that the pool lacks, and of samples not chosen by `probability` stay as they are.

    Our choice, to pair simulated faces with real utterances: no corpus has both.

    Args:
        recordings: the pool, each of one class (the most frequent label counts).
        modality: the stream to replace.
        rate_hz: rate of the token clock.
        classes: number of expression classes.
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
        pool = build_table(recordings, rate_hz, [modality])
        source = pool.sources[modality]
        assert isinstance(source, InMemoryTokens)
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
        """Augment a batch; arguments and result as `mien.data.Augment`."""
        batch, time = expression.shape
        pick, position = torch.rand(2, batch, len(self.members), generator=generator, dtype=torch.float64)
        unchanged = torch.rand(batch, 1, generator=generator) >= self.probability
        member = (self.offset + (pick * self.members).long()).clamp_max(len(self.starts) - 1)
        start, size = self.starts[member], self.sizes[member]
        first = (position * size).long()
        label = expression.clamp_min(0)
        replaced = (expression >= 0) & (self.members[label] > 0) & ~unchanged
        index = start.gather(1, label) + (torch.arange(time) + first.gather(1, label)) % size.gather(1, label)
        return (
            torch.where(replaced[..., None], self.source.values[index], values),
            torch.where(replaced, self.source.valid[index], valid),
        )
