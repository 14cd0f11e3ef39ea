"""Transfer learning and a late ensemble.

Dresvyanskiy, Ryumina, Kaya, Markitantov, Karpov, Minker 2020: arXiv 2010.03692 (1st ABAW: seven expressions). Sizes
follow the authors' public code.

Face: a softmax on the features of a CNN, frame by frame, and a support vector machine on their mean and deviation over
4 s. Voice: Cnn14 over a spectrogram, and a 1-D CNN with two LSTM layers over the sound. Their probabilities are joined
with weights drawn at random from a Dirichlet distribution, per model or per class, the best on validation data kept:
.67 macro F1 + .33 accuracy.

Differs: the published CNNs are tuned on the corpus; here the encoders of the recipe give features, and the network
trained on them is a layer of `hidden` units and the softmax. Vocals are not separated from music. The voice stream's
rows are what the recipe's encoder makes: rows of a spectrogram (`log-mel`) or of raw samples (`waveform`); Cnn14 reads
any rows as a picture. The machine of degree 1 is a linear one (scikit-learn's LinearSVC, C 2), its margins made
probabilities by a softmax whose scale is fitted with it [?]; it is fitted when training ends. Cnn14's three seconds are
the recipe's windows. The classes are the recipe's: seven in 2020, eight today.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section
from mien.labels import UNLABELLED
from mien.layers.ensemble import Answer, Ensemble, over_window
from mien.layers.late_fusion import WeightedFusion
from mien.layers.pooling import masked_mean
from mien.losses import cross_entropy
from mien.records import FACE, VOICE, Batch

MEMBERS = {"frames": FACE, "functionals": FACE, "cnn14": VOICE, "cnn_lstm": VOICE}


class Config(Section):
    """members: any of `frames`, `functionals` (face), `cnn14`, `cnn_lstm` (voice); those whose modality is no input are
    left out. hidden: of `frames`. cnn14: channels of its six blocks. channels, kernels: of the 1-D convolutions, which
    halve time; lstm: its width. raw: rows of the voice stream are samples, laid end to end before `cnn_lstm`.
    frames_per_row: of the spectrogram (`log-mel` has four).
    weights: one a model or one a class. log_mu: of the class weights, max(1, ln(mu N / n_c))."""

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=2)]
    classes: Count = 7
    rate_hz: Positive = 25.0
    members: Annotated[list[Literal["frames", "functionals", "cnn14", "cnn_lstm"]], Field(min_length=1)] = Field(
        default=[
            "frames",
            "functionals",
            "cnn14",
            "cnn_lstm",
        ]
    )
    hidden: Count = 1024
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    cnn14: Annotated[list[Count], Field(min_length=1)] = Field(default=[64, 128, 256, 512, 1024, 2048])
    channels: Annotated[list[Count], Field(min_length=1)] = Field(default=[128, 256, 512, 512])
    kernels: Annotated[list[Count], Field(min_length=1)] = Field(default=[20, 10, 8, 5])
    lstm: Count = 256
    voice_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    raw: bool = False
    frames_per_row: Count = 1
    weights: Literal["model", "class"] = "class"
    draws: Count = 1000
    svm_c: Positive = 2.0
    log_mu: Positive = 0.34
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if unknown := sorted(set(self.inputs) - {FACE, VOICE}):
            raise ValueError(f"inputs are face and voice; got {unknown}")
        if VOICE in self.inputs and self.inputs[VOICE] > 1 and self.inputs[VOICE] % self.frames_per_row:
            raise ValueError(f"{self.inputs[VOICE]} values are not {self.frames_per_row} frames in a row")
        if len(self.channels) != len(self.kernels):
            raise ValueError(f"channels {self.channels} and kernels {self.kernels} go together")
        if not any(MEMBERS[m] in self.inputs for m in self.members):
            raise ValueError(f"none of the members {self.members} reads any of {sorted(self.inputs)}")
        return self


class Objective(Section):
    """Cross-entropy with logarithmic class weights. valence_arousal: ours, off: weight of 1 - CCC of each."""

    valence_arousal: NotNegative = 0.0


class _Window(nn.Module):
    """One answer for a window, said at each of its tokens."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.expression, self.affect = nn.Linear(width, classes), nn.Linear(width, 2)

    def said(self, vector: Tensor, valid: Tensor) -> Answer:
        time = valid.shape[1]
        logits, affect = self.expression(vector), self.affect(vector).tanh()
        return Answer(
            logits[:, None].expand(-1, time, -1), affect[:, None].expand(-1, time, -1), over_window(valid), None
        )


class FrameClassifier(nn.Module):
    """Each frame by itself; a missing one says nothing."""

    def __init__(self, width: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.expression, self.affect = nn.Linear(hidden, classes), nn.Linear(hidden, 2)

    def forward(self, values: Tensor, valid: Tensor) -> Answer:
        inner = self.inner(values)
        return Answer(self.expression(inner), self.affect(inner).tanh(), valid, inner)


class Functionals(_Window):
    """Mean and deviation over the window, then a linear machine. Its weights come from `fit`, not from gradients; the
    affect head is trained."""

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(2 * width, classes)
        del self.expression
        self.register_buffer("weight", torch.zeros(classes, 2 * width))
        self.register_buffer("bias", torch.zeros(classes))

    def vector(self, values: Tensor, valid: Tensor) -> Tensor:
        mean = masked_mean(values, valid)
        return torch.cat((mean, masked_mean((values - mean[:, None]).square(), valid).sqrt()), dim=1)

    def forward(self, values: Tensor, valid: Tensor) -> Answer:
        vector, time = self.vector(values, valid), valid.shape[1]
        logits = vector @ self.weight.T + self.bias
        affect = self.affect(vector.detach()).tanh()
        return Answer(logits[:, None].expand(-1, time, -1), affect[:, None].expand(-1, time, -1), over_window(valid))

    @torch.no_grad()
    def fit(self, vectors: np.ndarray, labels: np.ndarray, c: float) -> None:
        """The machine on vectors `(window, 2 * dim)` and their labels; then the softmax's scale, by likelihood."""
        from scipy.optimize import minimize_scalar
        from sklearn.svm import LinearSVC

        found = np.unique(labels)
        if len(found) < 2:
            return
        spread = vectors.std(axis=0) + 1e-6
        machine = LinearSVC(C=c, class_weight="balanced", max_iter=5000, random_state=0).fit(vectors / spread, labels)
        coefficients, bias = machine.coef_, machine.intercept_
        if len(found) == 2:
            coefficients, bias = np.stack((-coefficients[0], coefficients[0])), np.array((-bias[0], bias[0]))
        margins = vectors / spread @ coefficients.T + bias
        place = np.searchsorted(found, labels)

        def cost(log_scale: float) -> float:
            scaled = margins * np.exp(log_scale)
            top = scaled.max(axis=1, keepdims=True)
            total = np.log(np.exp(scaled - top).sum(axis=1)) + top[:, 0]
            return float((total - scaled[np.arange(len(labels)), place]).mean())

        scale = float(np.exp(minimize_scalar(cost, bounds=(-4, 4), method="bounded").x))
        self.weight.zero_()
        self.bias.fill_(-30.0)
        self.weight[found] = torch.from_numpy(coefficients / spread * scale).float()
        self.bias[found] = torch.from_numpy(bias * scale).float()


class Cnn14(_Window):
    """PANN's Cnn14 (Kong et al. 2020, arXiv 1912.10211) over rows as a picture: blocks of two 3 × 3 convolutions with
    batch norm, halved after each, then mean + maximum over time and a layer as wide as the last block."""

    def __init__(self, channels: list[int], classes: int, dropout: float, frames_per_row: int) -> None:
        super().__init__(channels[-1], classes)
        self.frames_per_row = frames_per_row
        blocks: list[nn.Module] = []
        for before, after in zip([1, *channels], channels, strict=False):
            for first in (before, after):
                blocks += [nn.Conv2d(first, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            blocks += [nn.AvgPool2d(2, ceil_mode=True), nn.Dropout(dropout / 2)]
        self.blocks = nn.Sequential(*blocks)
        self.inner = nn.Sequential(nn.Linear(channels[-1], channels[-1]), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, values: Tensor, valid: Tensor) -> Answer:
        batch, time, width = values.shape
        picture = values.reshape(batch, 1, time * self.frames_per_row, width // self.frames_per_row)
        picture = self.blocks(picture).mean(dim=3)
        return self.said(self.inner(picture.mean(dim=2) + picture.amax(dim=2)), valid)


class CnnLstm(_Window):
    """1-D convolutions, each halving time, then two LSTM layers, of which the mean over time is named."""

    def __init__(
        self, width: int, channels: list[int], kernels: list[int], lstm: int, classes: int, dropout: float, raw: bool
    ) -> None:
        super().__init__(lstm, classes)
        self.raw = raw
        sizes = [1 if raw else width, *channels]
        blocks: list[nn.Module] = []
        for before, after, kernel in zip(sizes, channels, kernels, strict=False):
            pad = nn.ConstantPad1d((kernel // 2, kernel - 1 - kernel // 2), 0.0)
            blocks += [pad, nn.Conv1d(before, after, kernel), nn.BatchNorm1d(after), nn.ReLU(),
                       nn.MaxPool1d(10 if raw else 2, ceil_mode=True), nn.Dropout(dropout)]  # fmt: skip
        self.blocks = nn.Sequential(*blocks)
        self.lstm = nn.LSTM(channels[-1], lstm, num_layers=2, batch_first=True, dropout=dropout)

    def forward(self, values: Tensor, valid: Tensor) -> Answer:
        sound = values.flatten(1)[:, None] if self.raw else values.transpose(1, 2)
        return self.said(self.lstm(self.blocks(sound).transpose(1, 2))[0].mean(dim=1), valid)


class TransferEnsemble(Ensemble):
    """The whole system: members, fusion and objective. See the module's page and `Config`."""

    criterion = MappingProxyType({"macro_f1": 0.67, "accuracy": 0.33})

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.affect_share, self.draws, self.by = self.loss.valence_arousal, config.draws, config.weights
        face, voice, classes = config.inputs.get(FACE, 1), config.inputs.get(VOICE, 1), config.classes
        made = {
            "frames": lambda: FrameClassifier(face, config.hidden, classes, config.dropout),
            "functionals": lambda: Functionals(face, classes),
            "cnn14": lambda: Cnn14(config.cnn14, classes, config.voice_dropout, config.frames_per_row),
            "cnn_lstm": lambda: CnnLstm(
                voice, config.channels, config.kernels, config.lstm, classes, config.voice_dropout, config.raw
            ),
        }
        names = [m for m in config.members if MEMBERS[m] in config.inputs]
        self.members = nn.ModuleDict({name: made[name]() for name in names})
        self.reads = {name: MEMBERS[name] for name in names}
        self.fusion = WeightedFusion(models=len(names), classes=classes)

    @torch.no_grad()
    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        super().prepare(mean, deviation, counts)
        n = counts.double().clamp_min(1)
        self.class_weight.copy_((self.config.log_mu * n.sum() / n).log().clamp_min(1.0))

    def member_loss(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(logits, labels, weights=self.class_weight)

    @torch.no_grad()
    def fit_machines(self, batches: Iterable[Batch]) -> None:
        """Fits the support vector machine on training windows, each with its commonest label."""
        if "functionals" not in self.members:
            return
        machine = self.members["functionals"]
        assert isinstance(machine, Functionals)
        self.eval()
        vectors, labels = [], []
        for batch in batches:
            values, valid = self.given(batch.values, batch.valid)[FACE]
            assert batch.expression is not None
            said = nn.functional.one_hot(batch.expression + 1, self.config.classes + 1)[..., 1:].sum(dim=1)
            kept = valid.any(dim=1) & (batch.expression != UNLABELLED).any(dim=1)
            vectors.append(machine.vector(values, valid)[kept].numpy())
            labels.append(said[kept].argmax(dim=1).numpy())
        rows, named = np.concatenate(vectors), np.concatenate(labels)
        pick = np.linspace(0, len(rows) - 1, min(len(rows), 20_000)).astype(int)
        if len(pick):
            machine.fit(rows[pick], named[pick], self.config.svm_c)


#: The name under which `mien.models` finds this file's system.
System = TransferEnsemble
