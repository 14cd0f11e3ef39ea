"""Expression, valence and arousal from a voice: speaker normalisation, then attentive statistics around each token.

Source: our design from known parts. Attentive statistics pooling: Okabe et al. 2018, arXiv 1803.10963. Normalisation of
features by the speaker's own statistics: Busso et al. 2011, Iterative feature normalization scheme for automatic
emotion detection from speech, IEEE Transactions on Affective Computing.

Architecture:

1. Mean and standard deviation of every feature over the speech within `reach_seconds` of each token, with weights from
   a linear layer. The weights are sigmoids [ours: a softmax over a sliding range would need one pass for each token].
   Where no one speaks in reach, statistics of the whole window are taken.
2. Speaker normalisation. From each statistic, its mean over the speech in the window is subtracted, shrunk towards the
   mean of the training set: with n seconds of speech, by the factor n / (n + prior_seconds). The deviation is shrunk
   likewise. A lone short utterance so keeps most of its absolute values; in a window with many utterances a statistic
   tells how a moment differs from the speaker's habit.
3. Heads: two linear layers to `embedding` values, and linear layers to classes, valence and arousal. The network is
   small and has much dropout, because it is trained on few speakers and read on others, in other languages. The output
   is the mean over `heads` of them; each is trained by its own loss, with its own dropout. Trainings of one head that
   differ in the seed differ by .03 macro F1 or more on another corpus.

`embed` returns the logits and the embeddings of all heads, for a fusion that reads this network as a stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section, Share
from mien.labels import UNLABELLED
from mien.layers.pooling import masked_mean
from mien.layers.system import StreamSystem
from mien.losses import ccc_loss
from mien.records import Batch, Output


class Config(Section):
    """Options of the model.

    inputs: one modality. dim: width of a head's hidden layer. embedding: values of a head that a next stage reads.
    heads: number of heads.
    reach_seconds: reach of the pooling on either side. prior_seconds: seconds of speech at which the window's own
    statistics and those of the training set weigh the same; 0 takes the window's alone. normalise: turn speaker
    normalisation on. ignored: columns of the input that the network does not read. input_dropout: share of the input
    columns hidden from a training window. jitter: standard deviation of an offset added to each normalised column of a
    training window. clamp: see `StreamSystem`.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=1)]
    classes: Count = 8
    rate_hz: Positive = 12.5
    dim: Count = 96
    embedding: Count = 24
    heads: Count = 4
    reach_seconds: Positive = 1.2
    prior_seconds: NotNegative = 4.0
    normalise: bool = True
    ignored: list[Annotated[int, Field(ge=0)]] = Field(default=[])
    dropout: DropoutRate = 0.3
    input_dropout: Share = 0.1
    jitter: NotNegative = 0.2
    clamp: Positive = 4.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        width = next(iter(self.inputs.values()))
        if width > 1 and (beyond := [column for column in self.ignored if column >= width]):
            raise ValueError(f"ignored names column {beyond[0]}, but the input has {width} columns")
        return self


class Objective(Section):
    """`cross entropy + valence_arousal * (1 - CCC)`. smoothing: of labels. class_weights: see `class_weights`."""

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    class_weights: Annotated[str, Field(pattern="^(none|sqrt|balanced|effective)$")] = "balanced"
    valence_arousal: NotNegative = 0.3


class SpeakerNorm(nn.Module):
    """Subtract a window's own mean and divide by its own deviation, both shrunk towards 0 and 1.

    prior_tokens: weight of 0 and 1, in tokens.
    """

    def __init__(self, prior_tokens: float) -> None:
        super().__init__()
        self.prior_tokens = prior_tokens

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, dim)`, valid `(batch, time)` bool -> `(batch, time, dim)`. Invalid tokens do not count
        for the statistics, and are normalised as the others."""
        count = valid.sum(dim=1).to(values.dtype)[:, None, None]
        share = count / (count + self.prior_tokens).clamp_min(1e-3)
        mean = masked_mean(values, valid)[:, None]
        centred = torch.where(valid[..., None], values - mean, 0.0)
        variance = centred.square().sum(dim=1, keepdim=True) / count.clamp_min(1)
        deviation = (share * variance + (1 - share) + torch.full_like(variance, 1e-2)).sqrt()
        normalised: Tensor = (values - share * mean) / deviation
        return normalised


class LocalStatistics(nn.Module):
    """Attentive mean and standard deviation of the valid tokens within `reach` tokens of each token.

    Where there is none, those of the whole window are taken; they are zero in a window without valid tokens.
    """

    def __init__(self, *, dim: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.score = nn.Linear(dim, 1)

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """`(batch, time, dim)`, `(batch, time)` bool -> `(batch, time, 2 * dim)`."""
        weight = torch.where(valid[..., None], self.score(tokens).sigmoid(), 0.0)
        moments = torch.cat((weight, weight * tokens, weight * tokens.square()), dim=-1)
        size = 2 * self.reach + 1
        near = nn.functional.avg_pool1d(moments.transpose(1, 2), size, stride=1, padding=self.reach).transpose(1, 2)
        # Sums of a box filter keep rounding errors; less than a hundredth of a token's weight is none.
        is_near = near[..., :1] * size > 1e-2
        moments = torch.where(is_near, near, moments.mean(dim=1, keepdim=True))
        total, first, second = moments.split((1, tokens.shape[-1], tokens.shape[-1]), dim=-1)
        total = total.clamp_min(1e-6)
        mean = first / total
        variance = (second / total - mean.square()).clamp_min(0.0)
        floor = torch.full_like(variance, 1e-4)
        return torch.cat((mean, (variance + floor).sqrt()), dim=-1)

    def in_reach(self, valid: Tensor) -> Tensor:
        """Tokens with a valid token in reach: `(batch, time)` bool -> the same shape."""
        size = 2 * self.reach + 1
        share = nn.functional.avg_pool1d(valid.float()[:, None], size, stride=1, padding=self.reach)[:, 0]
        return share * size > 0.5


class Head(nn.Module):
    """Two linear layers to an embedding, and one each to classes and to valence and arousal."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.embedding = nn.Sequential(
            nn.Linear(width, config.dim), nn.GELU(), nn.Dropout(config.dropout),
            nn.Linear(config.dim, config.embedding), nn.Tanh(),
        )  # fmt: skip
        self.expression = nn.Linear(config.embedding, config.classes)
        self.affect = nn.Linear(config.embedding, 2)

    def forward(self, statistics: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(batch, time, width)` -> embedding, logits, valence and arousal in [-1, 1]: `(batch, time, ...)`."""
        embedding = self.embedding(statistics)
        return embedding, self.expression(embedding), self.affect(embedding).tanh()


class VoiceExpression(StreamSystem):
    """Network and objective; see the module's docstring and `Config`."""

    is_padding_neutral = True
    kept: Tensor
    typical_mean: Tensor
    typical_deviation: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        loss = objective or Objective()
        super().__init__(inputs=config.inputs, classes=config.classes, weighting=loss.class_weights, clamp=config.clamp)
        self.config, self.loss = config, loss
        self.predicts_valence_arousal = loss.valence_arousal > 0
        self.modality, width = next(iter(config.inputs.items()))
        kept = torch.ones(width)
        kept[[column for column in config.ignored if column < width]] = 0.0
        self.register_buffer("kept", kept, persistent=False)
        # Of the statistics of inputs with mean 0 and deviation 1, near those of speech; the layers after adapt to it.
        self.register_buffer("typical_mean", torch.cat((torch.zeros(width), torch.full((width,), 0.65))), False)
        self.register_buffer(
            "typical_deviation", torch.cat((torch.full((width,), 0.7), torch.full((width,), 0.25))), False
        )
        self.speaker_norm = SpeakerNorm(config.prior_seconds * config.rate_hz)
        self.pool = LocalStatistics(dim=width, reach=max(1, round(config.reach_seconds * config.rate_hz)))
        self.heads = nn.ModuleList(Head(2 * width, config) for _ in range(config.heads))
        self.embedding_dim = config.classes + config.heads * config.embedding

    def embed(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """Features for a next stage, `(batch, time, classes + heads * embedding)`: the logits, then the embeddings. And
        `(batch, time)` bool: someone speaks within the reach of the pooling."""
        inputs, mask = self.select_inputs(values, valid)[self.modality]
        parts = self._run_heads(inputs, mask)
        logits = torch.stack([logits for _, logits, _ in parts]).mean(dim=0)
        return torch.cat([logits, *(embedding for embedding, _, _ in parts)], dim=-1), self.pool.in_reach(mask)

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token, see `StreamSystem.forward`."""
        inputs, mask = self.select_inputs(values, valid)[self.modality]
        _, logits, affect = zip(*self._run_heads(inputs, mask), strict=True)
        evidence = mask.any(dim=1)
        return Output(
            logits=torch.stack(logits).mean(dim=0),
            valence_arousal=torch.stack(affect).mean(dim=0),
            weights=mask.any(dim=1, keepdim=True).expand_as(mask)[..., None].to(logits[0].dtype),
            evidence=evidence,
            modalities=[self.modality],
        )

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `Objective` over tokens with speech; unlabelled ones add nothing."""
        return self.labelled_loss(batch, None)

    def labelled_loss(self, batch: Batch, possible: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """As `objective`, for corpora of which some lack classes.

        Args:
            possible: `(batch, classes)` bool, the classes that the corpus of each window has; None for all. The softmax
                of a window leaves the others out: a corpus without Surprise says nothing on what is not Surprise.
        """
        inputs, spoken = self.select_inputs(batch.values, batch.valid)[self.modality]
        _, logits, affect = zip(*self._run_heads(inputs, spoken), strict=True)
        loss = logits[0].sum() * 0.0
        logs: dict[str, Tensor] = {}
        if batch.expression is not None:
            labels = batch.expression.masked_fill(~spoken, UNLABELLED)
            losses = [self._expression_loss(one, labels, possible) for one in logits]
            logs["expression"] = torch.stack(losses).mean()
            loss = loss + logs["expression"]
        if batch.valence_arousal is not None and self.loss.valence_arousal:
            losses = [ccc_loss(one, batch.valence_arousal, spoken) for one in affect]
            logs["valence_arousal"] = torch.stack(losses).mean()
            loss = loss + self.loss.valence_arousal * logs["valence_arousal"]
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logs.items()}

    def _expression_loss(self, logits: Tensor, labels: Tensor, possible: Tensor | None) -> Tensor:
        """Weighted cross entropy with the labels smoothed over the possible classes; 0 without labels."""
        if possible is None:
            possible = torch.ones(len(logits), logits.shape[-1], dtype=torch.bool, device=logits.device)
        possible = possible[:, None].expand_as(logits)
        log_p = logits.masked_fill(~possible, -1e4).log_softmax(dim=-1)
        known, index = labels != UNLABELLED, labels.clamp_min(0)
        weight = torch.where(known, self.class_weight[index], 0.0)
        of_label = -log_p.gather(-1, index[..., None])[..., 0]
        of_all = -torch.where(possible, log_p, 0.0).sum(dim=-1) / possible.sum(dim=-1)
        losses = (1 - self.loss.smoothing) * of_label + self.loss.smoothing * of_all
        return (weight * losses).sum() / weight.sum().clamp_min(1e-6)

    def _run_heads(self, inputs: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Normalised inputs `(batch, time, width)` and validity -> of each head its embedding, logits, and valence and
        arousal, each `(batch, time, ...)`."""
        statistics = self.pool(inputs * self.kept, mask)
        statistics = (statistics - self.typical_mean) / self.typical_deviation
        if self.config.normalise:
            statistics = self.speaker_norm(statistics, mask)
        kept = torch.cat((self.kept, self.kept))
        return [
            head(self._disturbed(statistics).clamp(-self.config.clamp, self.config.clamp) * kept) for head in self.heads
        ]

    def _disturbed(self, statistics: Tensor) -> Tensor:
        """In training: each column of a window moved by an offset, or hidden."""
        if not self.training:
            return statistics
        shape = (len(statistics), 1, statistics.shape[-1])
        offset = torch.randn(shape, device=statistics.device) * self.config.jitter
        shown = torch.rand(shape, device=statistics.device) >= self.config.input_dropout
        return torch.where(shown, statistics + offset, 0.0) / (1 - self.config.input_dropout)


#: The name under which `mien.models` finds the system of this file.
System = VoiceExpression
