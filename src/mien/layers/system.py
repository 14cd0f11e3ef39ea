"""What every system over streams does alike: normalise what is valid, weigh classes, say what it was told."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mien.labels import UNLABELLED
from mien.losses import class_weights


class InputNorm(nn.Module):
    """`(x - mean) / deviation` of the valid training tokens, cut to +-clamp; zero where invalid, whatever
    stands there. Statistics are buffers: they travel with the weights."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, clamp: float) -> None:
        super().__init__()
        self.clamp = clamp
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        known = torch.where(valid[..., None], values.to(self.mean.dtype), self.mean)
        return ((known - self.mean) / self.deviation).clamp(-self.clamp, self.clamp)


class StreamSystem(nn.Module):
    """The part of a published system that the loop talks to (see `mien.models`).

    Args:
        inputs: modality -> width. classes: logits. weighting: of `mien.losses.class_weights`. clamp: of `InputNorm`.
    """

    class_weight: Tensor

    def __init__(
        self, *, inputs: Mapping[str, int], classes: int, weighting: str = "none", beta: float = 0.9999,
        clamp: float = 8.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self._weighting = (weighting, beta)
        self.input_norm = nn.ModuleDict({name: InputNorm(width, clamp) for name, width in inputs.items()})
        self.register_buffer("class_weight", torch.ones(classes), persistent=False)

    @torch.no_grad()
    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Set what training data says: per modality mean and deviation `(dim,)`, labels per class
        `(classes,)`."""
        for name, norm in self.input_norm.items():
            norm.mean.copy_(mean[name])  # type: ignore[operator]
            norm.deviation.copy_(deviation[name])  # type: ignore[operator]
        self.class_weight.copy_(class_weights(counts, *self._weighting))

    def normalisation(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What `prepare` was told of the inputs: modality -> mean and deviation, each `(dim,)`."""
        return {name: (norm.mean, norm.deviation) for name, norm in self.input_norm.items()}  # type: ignore[misc]

    def given(
        self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """modality -> normalised values `(batch, time, dim)` and validity `(batch, time)`, every modality of the
        system in its own order; one that was left out is zero and invalid throughout. Raises ValueError for unknown
        modalities or none at all."""
        unknown = sorted((set(values) | set(valid)) - set(self.input_norm))
        if unknown:
            raise ValueError(f"modalities {unknown} are not inputs of this model; it has {sorted(self.input_norm)}")
        like = next((v for n, v in valid.items() if v is not None and values.get(n) is not None), None)
        if like is None:
            raise ValueError(f"no modality given: a window needs at least one of {sorted(self.input_norm)}")
        found = {}
        for name, norm in self.input_norm.items():
            value, mask = values.get(name), valid.get(name)
            if value is None or mask is None:
                mask = torch.zeros_like(like)
                value = torch.zeros(*like.shape, len(norm.mean), device=like.device)  # type: ignore[arg-type]
            found[name] = (norm(value, mask), mask)
        return found


def last_labelled(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of `(batch, time)` labels the last one of each window `(batch,)`, -1 if it has none, and its place."""
    known = labels != UNLABELLED
    place = labels.shape[1] - 1 - known.flip(1).float().argmax(dim=1)
    return torch.where(known.any(dim=1), labels.gather(1, place[:, None])[:, 0], UNLABELLED), place
