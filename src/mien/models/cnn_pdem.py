"""CNN face embeddings and dimensional voice features, each with its own temporal model, and their fusions.

Source: Dresvyanskiy, Markitantov, Yu, Kaya, Karpov 2024, arXiv 2403.12609 (6th ABAW: expressions, valence-arousal), and
the authors' public code.

[?]: in neither; our choice.

Architecture:

* Face: 256-d embeddings of a tuned static CNN (`cnn_static`) at 5 Hz, in windows of 4 s, pass 1, 3 or 6 Transformer
  layers or a GRU.
* Voice: features of the public dimensional emotion model (PDEM) at 50 Hz pass a GRU (V1) or two Transformer layers (V2,
  V3), then two convolutions that shorten the window of 4 s to four steps of 1 s.
* Statistics: the mean, maximum and minimum of the face embeddings over the window pass a kernel extreme learning
  machine.
* Transformer layers are post-norm, with positions in every layer and a feedforward network as wide as the tokens.
* Fusion of these three predictors, one of: weights per class drawn from a Dirichlet distribution, where the voice adds
  nothing while the entropy of its prediction is above a limit; or a random forest on their probabilities. Or
  cross-attention between face and voice, trained with them.
* Before the fusion, the probabilities of the steps are interpolated linearly over time.
* Objective: focal loss for the face, cross-entropy with class weights and label smoothing for the voice.

Differs:

* PDEM stays as published (the paper trains its last blocks).
* Probabilities are interpolated to the token clock (50 Hz) in every window, fused, and averaged over windows; the
  authors average each predictor over its windows, interpolate it to 100 Hz and fuse on frames.
* A step lies in the middle of its part of the window; the authors spread the steps of a window from its first to its
  last moment.
* Inputs are standardised by their training statistics; the authors scale face embeddings to their minimum and maximum,
  and put a batch norm before the variant with 3 layers. `statistics` reads them unscaled, as the names of the authors'
  files say.
* The variant with 3 layers of falling width (256, 128, 64) and the three variants of the face at 1 Hz are left out.
* One cross-attention each way joins face and voice; the authors tried several arrangements of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section, Share
from mien.labels import UNLABELLED
from mien.layers.attention import SafeCrossBlock
from mien.layers.classical_machines import KernelELM
from mien.layers.ensemble import Ensemble, Member, MemberOutput, stack_members
from mien.layers.late_fusion import ForestFusion, WeightedFusion
from mien.layers.options import check_face_and_voice, check_heads
from mien.layers.pooling import any_valid, masked_mean
from mien.layers.temporal import PostNormLayer, TokenEmbedding
from mien.layers.time_steps import Downsampling, Steps
from mien.losses import cross_entropy, focal
from mien.records import FACE, VOICE, Batch, Output

#: Width and dropout of the GRU of the voice model V1.
V1_DIM, V1_DROPOUT = 256, 0.5

MemberName = Literal["face", "voice", "statistics"]
#: Member -> the modality that it reads.
MEMBERS: dict[MemberName, str] = {"face": FACE, "voice": VOICE, "statistics": FACE}


class Config(Section):
    """Options of the model.

    inputs: `face`, `voice` or both.

    members: any of `face`, `voice` and `statistics`; those whose modality is no input are left out. `statistics` has no
    part in `fusion: attention`.

    face: `transformer` or `gru` (2 layers). face_layers: Transformer layers of the variants V5 (1), V3 (3) and V1 (6,
    the last two with half the heads). face_rate_hz: steps of the face network. voice: `v1` (GRU, 2 layers of 256), `v2`
    or `v3` (Transformer layers of 32 and 16 heads; V3 differs from V2 only in which blocks of PDEM the paper trains, so
    here they are equal). step_seconds: time of one prediction of the voice. dim: width of the face network; voice_dim:
    of V2 and V3.

    fusion: `dirichlet`, `forest`, `attention` (256-d, 16 heads) or `mean`. weight_draws, entropy_threshold: of
    `dirichlet`; the voice adds nothing while the entropy of its prediction exceeds the threshold, in nats.
    forest_trees: numbers of trees to choose from. elm_support, elm_c: of the kernel machine of `statistics`.
    fusion_dim, fusion_heads: of `attention`.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=2)]
    classes: Count = 8
    rate_hz: Positive = 50.0
    members: Annotated[list[MemberName], Field(min_length=1)] = Field(default=list(MEMBERS))
    dim: Count = 256
    face: Literal["transformer", "gru"] = "transformer"
    face_layers: Literal[1, 3, 6] = 3
    face_heads: Count = 8
    face_rate_hz: Positive = 5.0
    voice: Literal["v1", "v2", "v3"] = "v2"
    voice_dim: Count = 1024
    voice_heads: Annotated[list[Count], Field(min_length=1)] = Field(default=[32, 16])
    step_seconds: Positive = 1.0
    dropout: DropoutRate = 0.1
    fusion: Literal["dirichlet", "forest", "attention", "mean"] = "dirichlet"
    weight_draws: Count = 1000
    entropy_threshold: NotNegative = 1.8
    forest_trees: Annotated[list[Count], Field(min_length=1)] = Field(default=[10, 50, 100])
    elm_support: Count = 1000
    elm_c: Positive = 1.0
    fusion_dim: Count = 256
    fusion_heads: Count = 16
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_face_and_voice(self.inputs)
        for heads in self.face_layer_heads:
            check_heads(self.dim, heads, keys=("dim", "face_heads"))
        for heads in self.voice_heads:
            check_heads(self.voice_dim, heads, keys=("voice_dim", "voice_heads"))
        check_heads(self.fusion_dim, self.fusion_heads, keys=("fusion_dim", "fusion_heads"))
        if not set(self.present_members) - {"statistics"}:
            raise ValueError(
                f"the members {self.members} with the inputs {sorted(self.inputs)} leave nothing to train; "
                "add face or voice"
            )
        return self

    @property
    def face_layer_heads(self) -> list[int]:
        """Attention heads of each Transformer layer of the face."""
        heads = [self.face_heads] * self.face_layers
        return [*heads[:4], *[max(1, self.face_heads // 2)] * 2] if self.face_layers == 6 else heads

    @property
    def present_members(self) -> list[MemberName]:
        """The members that are built."""
        return [
            m
            for m in self.members
            if MEMBERS[m] in self.inputs and not (m == "statistics" and self.fusion == "attention")
        ]


class Objective(Section):
    """Focal loss (`gamma`) for the face; cross-entropy with class weights and `smoothing` for the voice.

    valence_arousal: weight of 1 - CCC of each member.
    """

    gamma: NotNegative = 2.0
    smoothing: Share = 0.2
    valence_arousal: NotNegative = 0.0


class Head(nn.Module):
    """Steps to class logits, and to valence and arousal, for every token."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.expression, self.valence_arousal = nn.Linear(dim, classes), nn.Linear(dim, 2)

    def forward(self, hidden: Tensor, steps: Steps, valid: Tensor) -> MemberOutput:
        """hidden: `(batch, step, dim)`; valid: `(batch, time)` bool."""
        logits = self.expression(hidden)
        return MemberOutput(
            steps.repeat(logits),
            steps.repeat(self.valence_arousal(hidden).tanh()),
            any_valid(valid),
            tokens=steps.repeat(hidden),
            probabilities=steps.interpolate(logits.float().softmax(dim=-1)),
        )


class TransformerEncoder(nn.Module):
    """Transformer layers over time, one for each entry of `heads`; a learned token stands for a missing one."""

    def __init__(self, width: int, dim: int, heads: list[int], dropout: float) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(width, dim, skip_equal=True)
        self.layers = nn.ModuleList(PostNormLayer(dim=dim, heads=h, dropout=dropout) for h in heads)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values: `(batch, time, width)`; valid: `(batch, time)` bool -> `(batch, time, dim)`."""
        tokens: Tensor = self.embedding(values, valid)
        for layer in self.layers:
            tokens = layer(tokens, valid)
        return tokens


class GRUEncoder(nn.Module):
    """Two GRU layers over time; missing tokens are zeros."""

    def __init__(self, width: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(width, dim, num_layers=2, batch_first=True, dropout=dropout)

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values: `(batch, time, width)`, zero where invalid; valid: `(batch, time)` bool -> `(batch, time, dim)`."""
        states: Tensor = self.gru(values)[0]
        return states


class FaceMember(Member):
    """A temporal model of the face in steps of `group` tokens: the mean of the valid tokens of each."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.group = max(1, round(config.rate_hz / config.face_rate_hz))
        width, dim, dropout = config.inputs[FACE], config.dim, config.dropout
        self.encoder = (
            GRUEncoder(width, dim, dropout)
            if config.face == "gru"
            else TransformerEncoder(width, dim, config.face_layer_heads, dropout)
        )
        self.head = Head(dim, config.classes)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """See `Member.forward`."""
        batch, time, width = values.shape
        count = (time + self.group - 1) // self.group
        padding = count * self.group - time
        grouped = F.pad(torch.where(valid[..., None], values, 0.0), (0, 0, 0, padding)).view(
            batch, count, self.group, width
        )
        known = F.pad(valid, (0, padding)).view(batch, count, self.group).sum(dim=2)
        hidden = self.encoder(grouped.sum(dim=2) / known.clamp_min(1)[..., None], known > 0)
        output: MemberOutput = self.head(hidden, Steps(time, 1, self.group, values.device), valid)
        return output


class VoiceMember(Member):
    """V1, V2 or V3: a temporal model of the voice at the token rate, shortened to one prediction per step."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width = config.inputs[VOICE]
        self.step_tokens = max(1, round(config.step_seconds * config.rate_hz))
        dim = V1_DIM if config.voice == "v1" else config.voice_dim
        self.encoder = (
            GRUEncoder(width, dim, V1_DROPOUT)
            if config.voice == "v1"
            else TransformerEncoder(width, dim, config.voice_heads, config.dropout)
        )
        self.downsampling = Downsampling(dim, config.rate_hz)
        self.head = Head(dim, config.classes)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """See `Member.forward`."""
        time = values.shape[1]
        count = (time + self.step_tokens - 1) // self.step_tokens
        hidden = self.downsampling(self.encoder(values, valid), count)
        output: MemberOutput = self.head(hidden, Steps(time, count, time, values.device), valid)
        return output


class StatisticsMember(Member):
    """Kernel extreme learning machine on the mean, maximum and minimum of the unscaled features over the window."""

    reads_unscaled = True
    is_classical = True

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.machine = KernelELM(
            width=3 * config.inputs[FACE], classes=config.classes, support=config.elm_support, c=config.elm_c
        )

    def vector(self, values: Tensor, valid: Tensor) -> Tensor:
        """Mean, maximum and minimum of the valid tokens, `(batch, 3 * width)`; zeros where none is."""
        known = valid[..., None]
        most = torch.where(known, values, -torch.inf).amax(dim=1)
        least = torch.where(known, values, torch.inf).amin(dim=1)
        vector = torch.cat((masked_mean(values, valid), most, least), dim=1)
        return torch.where(valid.any(dim=1, keepdim=True), vector, 0.0)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """See `Member.forward`."""
        probabilities = self.machine(self.vector(values, valid))[:, None].expand(-1, valid.shape[1], -1)
        return MemberOutput(probabilities.clamp_min(1e-8).log(), None, any_valid(valid), probabilities=probabilities)


class AttentionFusion(nn.Module):
    """Cross-attention between the members' tokens, their mean, and a classifier. Trained together with the members."""

    def __init__(self, config: Config, widths: Mapping[str, int]) -> None:
        super().__init__()
        dim = config.fusion_dim
        self.project = nn.ModuleDict({n: nn.Linear(w, dim) for n, w in widths.items()})
        self.cross = nn.ModuleDict(
            {n: SafeCrossBlock(dim=dim, heads=config.fusion_heads, dropout=config.dropout) for n in widths}
        )
        self.norm, self.expression = nn.LayerNorm(dim), nn.Linear(dim, config.classes)

    def forward(self, outputs: Mapping[str, MemberOutput]) -> Tensor:
        """The outputs of one or two members, with tokens -> logits `(batch, time, classes)`."""
        projected = {n: self.project[n](o.tokens) for n, o in outputs.items()}
        crossed = projected
        if len(projected) == 2:
            a, b = projected
            crossed = {
                a: self.cross[a](projected[a], projected[b], outputs[b].present),
                b: self.cross[b](projected[b], projected[a], outputs[a].present),
            }
        tokens = torch.stack(list(crossed.values()), dim=-2)
        weight = torch.stack([o.present for o in outputs.values()], dim=-1)[..., None].to(tokens.dtype)
        mean = (tokens * weight).sum(dim=-2) / weight.sum(dim=-2).clamp_min(1)
        logits: Tensor = self.expression(self.norm(mean))
        return logits


class CnnPdem(Ensemble):
    """Members, fusion and objective; see the module's docstring and `Config`."""

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, weighting="balanced", clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.predicts_valence_arousal = self.loss.valence_arousal > 0
        self.valence_arousal_weight = self.loss.valence_arousal
        self.weight_draws = config.weight_draws if config.fusion == "dirichlet" else 0
        build = {"face": FaceMember, "voice": VoiceMember, "statistics": StatisticsMember}
        names = config.present_members
        self.members = nn.ModuleDict({name: build[name](config) for name in names})
        self.modality_of = {name: MEMBERS[name] for name in names}
        widths = {FACE: config.dim, VOICE: V1_DIM if config.voice == "v1" else config.voice_dim}
        self.attention = (
            AttentionFusion(config, {n: widths[n] for n in names}) if config.fusion == "attention" else None
        )
        self.fusion: nn.Module
        if config.fusion == "forest":
            self.fusion = ForestFusion(classes=config.classes, trees=config.forest_trees)
        else:
            entropy = config.entropy_threshold if config.fusion == "dirichlet" else None
            is_voice = [n == "voice" for n in names]
            self.fusion = WeightedFusion(models=len(names), classes=config.classes, entropy=entropy, filtered=is_voice)

    def member_loss(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        """Focal loss for the face, smoothed cross-entropy for the voice; see `Ensemble.member_loss`."""
        if name == FACE:
            return focal(logits, labels, gamma=self.loss.gamma, weights=self.class_weight)
        return cross_entropy(logits, labels, weights=self.class_weight, smoothing=self.loss.smoothing)

    def fuse(self, outputs: Mapping[str, MemberOutput]) -> Output:
        """See `Ensemble.fuse`; with `fusion: attention` the logits come from `AttentionFusion`."""
        output = super().fuse(outputs)
        if self.attention is not None:
            output.logits = self.attention(outputs)
        return output

    def objective(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The members' losses and, with `fusion: attention`, the cross-entropy of the fusion."""
        outputs = self.member_outputs(batch.values, batch.valid)
        loss, logs = self.losses(outputs, batch)
        if self.attention is None or batch.expression is None:
            return loss, logs
        has_member = stack_members(outputs)[1].any(dim=-1)
        labels = batch.expression.masked_fill(~has_member, UNLABELLED)
        fusion_loss = cross_entropy(self.attention(outputs), labels, weights=self.class_weight)
        loss = loss + fusion_loss
        return loss, logs | {"loss": loss.detach(), "fusion": fusion_loss.detach()}

    @torch.no_grad()
    def fit_classical(self, batches: Iterable[Batch]) -> None:
        """Fit the kernel machine to training windows, each with its most frequent label."""
        if "statistics" not in self.members:
            return
        member = self.members["statistics"]
        assert isinstance(member, StatisticsMember)
        rows, labels = self.labelled_windows(batches, FACE, member.vector)
        if len(labels):
            member.machine.fit(rows, labels)


#: The name under which `mien.models` finds the system of this file.
System = CnnPdem
