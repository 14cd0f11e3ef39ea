"""One stream of the valence-arousal system: face, behaviour or voice.

Ryumina et al. (team RAS) 2026: arXiv 2603.13056 (10th ABAW, valence-arousal). Sizes and losses follow the authors'
public code. Three recipes train one file: `va_face`, `va_behaviour`, `va_voice`; what each says of a recording (a
vector of 256 and its two predictions a token) is written into the store by `mien derive` and read by
`va_directed_experts` and `va_reliability`.

* face: a Transformer of 5 layers over 400 frames, sinusoidal positions added inside every layer, an outer residual.
* behaviour: 12 Mamba layers over 16 segments of a vision-language model's embeddings.
* voice: attention-statistics pooling in one-second bins of a 4-s window, then 256.

Differs: the face features are the recipe's encoder's (the authors' multi-corpus extractor GRADA is not public); the
voice encoder stays as published (they train its last four layers). A missing face is a mask here, and the nearest one
there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section
from mien.layers.pooling import AttentionStatistics
from mien.layers.state_space import MambaLayer
from mien.layers.system import StreamSystem
from mien.layers.temporal import TransformerLayer, sinusoidal_positions
from mien.layers.valence_arousal import affect_loss, affect_output
from mien.records import Batch, Output

Dropout = Annotated[float, Field(ge=0, lt=1)]


class Config(Section):
    """inputs: one modality, whatever its name. kind: which of the three networks. layers, heads: of the Transformer
    (heads: 8 in the code, 16 in notes on the paper); mamba: layers; state, kernel: of Mamba. attention: width of the
    pooling's; bin_seconds: what it pools. hold: as many tokens on either side take a missing face's place."""

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=1)]
    classes: Count = 8
    rate_hz: Positive = 30.0
    kind: Literal["face", "behaviour", "voice"] = "face"
    dim: Count = 256
    layers: Count = 5
    heads: Count = 8
    mamba: Count = 12
    state: Count = 8
    kernel: Count = 5
    attention: Count = 128
    bin_seconds: Positive = 1.0
    dropout: Dropout = 0.1
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not divisible by heads {self.heads}")
        return self


class Objective(Section):
    """`valence (1 - CCC_v) + arousal (1 - CCC_a) + mse MSE`, moments pooled over the batch. per_sequence: over each
    window instead, as the face stream's code does."""

    valence: NotNegative = 0.5
    arousal: NotNegative = 0.5
    mse: NotNegative = 0.0
    per_sequence: bool = False


class FaceNetwork(nn.Module):
    """Transformer layers, each after the positions are added anew, and the input added again at the end."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.enter = nn.Linear(width, config.dim)
        self.missing = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.layers = nn.ModuleList(
            TransformerLayer(dim=config.dim, heads=config.heads, feedforward=4 * config.dim, dropout=config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        first = torch.where(valid[..., None], self.enter(values), self.missing)
        positions = sinusoidal_positions(first.shape[1], first.shape[2], first.device)
        tokens = first
        for layer in self.layers:
            tokens = layer(tokens + positions, valid)
        return self.norm(tokens + first)


class BehaviourNetwork(nn.Module):
    """Mamba layers; a missing segment leaves their state alone."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.enter = nn.Linear(width, config.dim)
        self.missing = nn.Parameter(torch.randn(config.dim) * 0.02)
        self.layers = nn.ModuleList(
            MambaLayer(dim=config.dim, state=config.state, kernel=config.kernel, dropout=config.dropout)
            for _ in range(config.mamba)
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        tokens = torch.where(valid[..., None], self.enter(values), self.missing)
        for layer in self.layers:
            tokens = layer(tokens, valid)
        return self.norm(tokens)


class VoiceNetwork(nn.Module):
    """Attention statistics of each bin, said at each of its tokens; a bin without voice takes the window's."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.bin = max(1, round(config.bin_seconds * config.rate_hz))
        self.pool = AttentionStatistics(dim=width, hidden=config.attention)
        self.project = nn.Sequential(
            nn.Linear(2 * width, config.dim), nn.LayerNorm(config.dim), nn.GELU(), nn.Dropout(config.dropout)
        )

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        batch, time, width = values.shape
        bins = -(-time // self.bin)
        pad = bins * self.bin - time
        cut = nn.functional.pad(values, (0, 0, 0, pad)).view(batch * bins, self.bin, width)
        there = nn.functional.pad(valid, (0, pad)).view(batch * bins, self.bin)
        own = self.pool(cut, there).view(batch, bins, -1)
        whole = self.pool(values, valid)[:, None]
        said = self.project(torch.where(there.any(dim=1).view(batch, bins, 1), own, whole))
        return said.repeat_interleave(self.bin, dim=1)[:, :time]


class VAStream(StreamSystem):
    """The whole system: network and objective. See the module's page and `Config`."""

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.modality, width = next(iter(config.inputs.items()))
        made = {"face": FaceNetwork, "behaviour": BehaviourNetwork, "voice": VoiceNetwork}[config.kind]
        self.network = made(width, config)
        self.affect = nn.Linear(config.dim, 2)

    def embed(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """What the next stage reads: `(batch, time, dim + 2)`, the vector and the two predictions; and where the window
        has anything, `(batch, time)` bool."""
        given, mask = self.given(values, valid)[self.modality]
        tokens = self.network(given, mask)
        return torch.cat((tokens, self.affect(tokens).tanh()), dim=-1), mask.any(1, keepdim=True).expand_as(mask)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """See `StreamSystem.given` for what may be left out."""
        tokens, there = self.embed(values, valid)
        weights = there[..., None].to(tokens.dtype)
        return affect_output(tokens[..., -2:], weights, there[:, 0], [self.modality], self.config.classes)

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts; windows without evidence and unlabelled tokens add nothing."""
        tokens, there = self.embed(batch.values, batch.valid)
        truth = batch.valence_arousal
        if truth is None:
            truth = torch.full_like(tokens[..., -2:], torch.nan)
        shares = {"valence": self.loss.valence, "arousal": self.loss.arousal, "mse": self.loss.mse}
        rows = zip(tokens[..., -2:].split(1), truth.split(1), there.split(1), strict=True)
        if self.loss.per_sequence:
            loss = torch.stack([affect_loss(s, t, c, **shares) for s, t, c in rows]).mean()
        else:
            loss = affect_loss(tokens[..., -2:], truth, there, **shares)
        return loss, {"loss": loss.detach()}


#: The name under which `mien.models` finds this file's system.
System = VAStream
