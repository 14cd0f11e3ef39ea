"""Transfer learning and a late ensemble of face and voice models.

Source: Dresvyanskiy, Ryumina, Kaya, Markitantov, Karpov, Minker 2020, arXiv 2010.03692 (1st ABAW: seven expressions),
and the authors' public code.

[?]: in neither; our choice.

Architecture:

* Face: a softmax on CNN features, frame by frame (`frames`), and a support vector machine on their mean and standard
  deviation over 4 s (`functionals`): polynomial of degree 1, gamma .001, C 2, probabilities by Platt's method.
* A second face network, trained on FER (`fer`).
* Voice: Cnn14 on a spectrogram (`cnn14`), and a 1-D CNN with two LSTM layers on the waveform (`cnn_lstm`), whose last
  state gives the prediction.
* Fusion: a weighted mean of the class probabilities. The weights are drawn from a Dirichlet distribution, per model or
  per class; those with the best .67 macro F1 + .33 accuracy on validation data are used.
* Objective: cross-entropy with class weights `max(1, ln(mu N / n_c))`.

Differs:

* The published CNNs are fine-tuned on the corpus. Here the recipe's encoders give features, and the network trained on
  them is a layer of `hidden` units and the softmax.
* The authors' FER network is not public. Here a linear softmax is trained on the outputs of the public network that the
  recipe names [?].
* Vocals are not separated from music.
* Cnn14 reads the rows of its encoder (`log-mel`) as an image; its three seconds are the recipe's windows.
* The published fusion has four predictors: the face CNN, the FER network, Cnn14 and the 1-D CNN. `functionals` is a
  fifth here; the public code fits it, and does not say whether it took the place of the face CNN.
* The classes are the recipe's: seven in 2020, eight today.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section
from mien.layers.classical_machines import PairwiseSVM
from mien.layers.ensemble import Ensemble, Member, MemberOutput, evenly_spaced
from mien.layers.late_fusion import WeightedFusion
from mien.layers.pooling import any_valid, masked_mean
from mien.losses import cross_entropy
from mien.records import FACE, VOICE, Batch

MemberName = Literal["frames", "functionals", "fer", "cnn14", "cnn_lstm"]
#: Inputs beside face and voice: outputs of a public network trained on FER, and rows of audio samples.
FER, WAVEFORM = "fer", "waveform"
#: Member -> the input that it reads; `cnn_lstm` reads the voice where there is no waveform.
MEMBERS: dict[MemberName, str] = {
    "frames": FACE, "functionals": FACE, "fer": FER, "cnn14": VOICE, "cnn_lstm": WAVEFORM,
}  # fmt: skip
#: The support vector machine is fitted to at most so many windows, evenly spaced (ours: its time grows with their
#: square).
MAX_WINDOWS = 8_000


class Config(Section):
    """Options of the model.

    inputs: any of `face`, `fer`, `voice` and `waveform`.

    members: any of `frames`, `functionals` (both of `face`), `fer`, `cnn14` (of `voice`) and `cnn_lstm` (of `waveform`,
    or of the rows of `voice` where that is missing); those whose input is missing are left out. hidden: units of
    `frames`. cnn14: channels of its six blocks. channels, kernels, pools: of the 1-D convolutions; the last pool is a
    mean, the others a maximum. lstm: width of the LSTM. frames_per_row: spectrogram frames in a row of the voice stream
    (4 with `log-mel`). weights_per: whether fusion weights are drawn per model or per class. svm_c, svm_gamma: of the
    support vector machine. svm_class_weights: `none`, or `log` for those of the objective. log_mu: mu of the class
    weights.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1)]
    classes: Count = 7
    rate_hz: Positive = 25.0
    members: Annotated[list[MemberName], Field(min_length=1)] = Field(default=list(MEMBERS))
    hidden: Count = 1024
    dropout: DropoutRate = 0.5
    cnn14: Annotated[list[Count], Field(min_length=1)] = Field(default=[64, 128, 256, 512, 1024, 2048])
    channels: Annotated[list[Count], Field(min_length=1)] = Field(default=[128, 256, 512, 512])
    kernels: Annotated[list[Count], Field(min_length=1)] = Field(default=[20, 10, 8, 5])
    pools: Annotated[list[Count], Field(min_length=1)] = Field(default=[10, 10, 8, 4])
    lstm: Count = 256
    voice_dropout: DropoutRate = 0.3
    frames_per_row: Count = 1
    weights_per: Literal["model", "class"] = "model"
    weight_draws: Count = 1000
    svm_c: Positive = 2.0
    svm_gamma: Positive = 0.001
    svm_class_weights: Literal["none", "log"] = "none"
    log_mu: Positive = 0.34
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        if unknown := sorted(set(self.inputs) - set(MEMBERS.values())):
            raise ValueError(f"inputs are face, fer, voice and waveform; got {unknown}")
        if VOICE in self.inputs and self.inputs[VOICE] > 1 and self.inputs[VOICE] % self.frames_per_row:
            raise ValueError(f"{self.inputs[VOICE]} values are not {self.frames_per_row} frames in a row")
        if not len(self.channels) == len(self.kernels) == len(self.pools):
            raise ValueError(
                f"channels {self.channels}, kernels {self.kernels} and pools {self.pools} differ in length"
            )
        if not set(self.input_of) - {"functionals"}:
            raise ValueError(
                f"the members {self.members} with the inputs {sorted(self.inputs)} leave nothing to train; "
                "add frames, fer, cnn14 or cnn_lstm and its input"
            )
        return self

    @property
    def input_of(self) -> dict[MemberName, str]:
        """The members that are built, and the input that each reads."""
        reads = dict(MEMBERS)
        if WAVEFORM not in self.inputs:
            reads["cnn_lstm"] = VOICE
        return {m: reads[m] for m in self.members if reads[m] in self.inputs}


class Objective(Section):
    """Cross-entropy with logarithmic class weights. valence_arousal: weight of 1 - CCC of each member (ours)."""

    valence_arousal: NotNegative = 0.0


class WindowMember(Member):
    """Base of members that make one prediction per window, from a vector of the window."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.expression, self.valence_arousal = nn.Linear(width, classes), nn.Linear(width, 2)

    def predict(self, vector: Tensor, valid: Tensor) -> MemberOutput:
        """Predict from vectors `(batch, width)`; valid `(batch, time)` bool."""
        return self.repeat(self.expression(vector), self.valence_arousal(vector).tanh(), valid)

    def repeat(self, logits: Tensor, valence_arousal: Tensor, valid: Tensor) -> MemberOutput:
        """Repeat predictions `(batch, classes)` and `(batch, 2)` for every token of the window."""
        time = valid.shape[1]
        return MemberOutput(
            logits[:, None].expand(-1, time, -1), valence_arousal[:, None].expand(-1, time, -1), any_valid(valid)
        )


class FrameClassifier(Member):
    """Classifier of single frames: a layer of `hidden` units, or none if that is 0, and the softmax."""

    def __init__(self, width: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout)] if hidden else []
        self.hidden = nn.Sequential(*layers)
        self.expression, self.valence_arousal = nn.Linear(hidden or width, classes), nn.Linear(hidden or width, 2)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """values: `(batch, time, width)`; valid: `(batch, time)` bool. A missing frame gives no prediction."""
        hidden = self.hidden(values)
        return MemberOutput(self.expression(hidden), self.valence_arousal(hidden).tanh(), valid, hidden)


class Functionals(Member):
    """Support vector machine on the mean and standard deviation of the unscaled features over the window."""

    reads_unscaled = True
    is_classical = True

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.machine = PairwiseSVM(width=2 * width, classes=classes)

    def vector(self, values: Tensor, valid: Tensor) -> Tensor:
        """Mean and standard deviation of the valid tokens, `(batch, 2 * width)`."""
        mean = masked_mean(values, valid)
        return torch.cat((mean, masked_mean((values - mean[:, None]).square(), valid).sqrt()), dim=1)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """See `Member.forward`."""
        probabilities = self.machine(self.vector(values, valid))[:, None].expand(-1, valid.shape[1], -1)
        return MemberOutput(probabilities.clamp_min(1e-8).log(), None, any_valid(valid), probabilities=probabilities)


class HalvingAverage(nn.Module):
    """`nn.AvgPool2d(2, ceil_mode=True)`, bit for bit: an odd row or column at the end is averaged alone.

    Written as a pooling without rounding up, which exports to ONNX for any number of rows.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """`(batch, channels, height, width)` -> `(batch, channels, ceil(height / 2), ceil(width / 2))`."""

        def mean(values: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(nn.functional.pad(values, (0, 1, 0, 1)), 2)

        return mean(maps) / mean(torch.ones_like(maps[:1, :1]))  # the divisor is 1, or 1/2 or 1/4 beside the padding


def in_steps(values: Tensor, size: int) -> Tensor:
    """Cut time into steps of `size` values, the last one padded with zeros; exports to ONNX for any time.

    `(batch, channels, time)` -> `(batch, channels, ceil(time / size), size)`.
    """
    steps = (values.shape[2] + size - 1) // size
    padded = nn.functional.pad(values, (0, steps * size - values.shape[2]))
    return padded.view(*values.shape[:2], steps, size)


class StepMean(nn.Module):
    """Mean of each `size` values in time; a shorter rest at the end is averaged alone. Exports to ONNX for any time.

    Args:
        size: tokens that become one.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, values: Tensor) -> Tensor:
        """`(batch, channels, time)` -> `(batch, channels, ceil(time / size))`."""
        known = in_steps(torch.ones_like(values[:1, :1]), self.size).mean(dim=3)  # below 1 in a shorter rest
        return in_steps(values, self.size).mean(dim=3) / known


class PositiveMaximum(nn.Module):
    """`nn.MaxPool1d(size, ceil_mode=True)` of values that are not negative, bit for bit; exports to ONNX for any time.

    Args:
        size: tokens that become one.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, values: Tensor) -> Tensor:
        """`(batch, channels, time)`, each at least 0 -> `(batch, channels, ceil(time / size))`."""
        return in_steps(values, self.size).amax(dim=3)


class Cnn14(WindowMember):
    """Cnn14 of PANNs (Kong et al. 2020, arXiv 1912.10211) on the window's rows as an image.

    Blocks of two 3 x 3 convolutions with batch norm, each followed by 2 x 2 pooling; then mean + maximum over time and
    a layer as wide as the last block.
    """

    def __init__(self, channels: list[int], classes: int, dropout: float, frames_per_row: int) -> None:
        super().__init__(channels[-1], classes)
        self.frames_per_row = frames_per_row
        blocks: list[nn.Module] = []
        for before, after in zip([1, *channels], channels, strict=False):
            for width in (before, after):
                blocks += [nn.Conv2d(width, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            blocks += [HalvingAverage(), nn.Dropout(dropout / 2)]
        self.blocks = nn.Sequential(*blocks)
        self.hidden = nn.Sequential(nn.Linear(channels[-1], channels[-1]), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """values: `(batch, time, width)`, zero where invalid; valid: `(batch, time)` bool."""
        batch, time, width = values.shape
        image = values.reshape(batch, 1, time * self.frames_per_row, width // self.frames_per_row)
        maps = self.blocks(image).mean(dim=3)
        return self.predict(self.hidden(maps.mean(dim=2) + maps.amax(dim=2)), valid)


class CnnLstm(WindowMember):
    """1-D convolutions, two LSTM layers, and their last state.

    It reads the samples of the window, unscaled, or rows of features. Layers, sizes and the order of dropout and
    pooling follow the authors' public code.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config.lstm, config.classes)
        self.reads_unscaled = self.reads_samples = WAVEFORM in config.inputs
        width = 1 if self.reads_samples else config.inputs[VOICE]
        dropout, last = config.voice_dropout, len(config.pools) - 1
        sizes = zip([width, *config.channels], config.channels, config.kernels, config.pools, strict=False)
        blocks: list[nn.Module] = []
        for number, (before, after, kernel, pool) in enumerate(sizes):
            padding = nn.ConstantPad1d(((kernel - 1) // 2, kernel // 2), 0.0)
            pooling = StepMean(pool) if number == last else PositiveMaximum(pool)
            blocks += [padding, nn.Conv1d(before, after, kernel), nn.ReLU(), nn.Dropout(dropout), pooling]
        self.blocks = nn.Sequential(*blocks)
        self.lstm = nn.LSTM(config.channels[-1], config.lstm, num_layers=2, batch_first=True, dropout=dropout)
        self.drop = nn.Dropout(dropout)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """values: `(batch, time, samples or features of a row)`, zero where invalid; valid: `(batch, time)` bool."""
        channels_first = values.flatten(1)[:, None] if self.reads_samples else values.transpose(1, 2)
        states = self.lstm(self.blocks(channels_first).transpose(1, 2))[0]
        return self.predict(self.drop(states[:, -1]), valid)


class TransferEnsemble(Ensemble):
    """Members, fusion and objective; see the module's docstring and `Config`."""

    fusion_measures = MappingProxyType({"macro_f1": 0.67, "accuracy": 0.33})

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.predicts_valence_arousal = self.loss.valence_arousal > 0
        self.valence_arousal_weight = self.loss.valence_arousal
        self.weight_draws, self.weights_per = config.weight_draws, config.weights_per
        face_width, classes = config.inputs.get(FACE, 1), config.classes
        build: dict[MemberName, Callable[[], Member]] = {
            "frames": lambda: FrameClassifier(face_width, config.hidden, classes, config.dropout),
            "functionals": lambda: Functionals(face_width, classes),
            "fer": lambda: FrameClassifier(config.inputs[FER], 0, classes, 0.0),
            "cnn14": lambda: Cnn14(config.cnn14, classes, config.voice_dropout, config.frames_per_row),
            "cnn_lstm": lambda: CnnLstm(config),
        }
        self.members = nn.ModuleDict({name: build[name]() for name in config.input_of})
        self.modality_of = {str(name): modality for name, modality in config.input_of.items()}
        self.fusion = WeightedFusion(models=len(self.members), classes=classes)

    @torch.no_grad()
    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Set input normalisation and the class weights `max(1, ln(mu N / n_c))`, see `System.prepare`."""
        super().prepare(mean, deviation, counts)
        n = counts.double().clamp_min(1)
        self.class_weight.copy_((self.config.log_mu * n.sum() / n).log().clamp_min(1.0))

    def member_loss(self, name: str, logits: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy with class weights, see `Ensemble.member_loss`."""
        return cross_entropy(logits, labels, weights=self.class_weight)

    @torch.no_grad()
    def fit_classical(self, batches: Iterable[Batch]) -> None:
        """Fit the support vector machine to training windows, each with its most frequent label."""
        if "functionals" not in self.members:
            return
        member = self.members["functionals"]
        assert isinstance(member, Functionals)
        rows, labels = self.labelled_windows(batches, FACE, member.vector)
        sample = evenly_spaced(len(rows), MAX_WINDOWS)
        c = self.config.svm_c * self.config.svm_gamma
        weights = self.class_weight.numpy() if self.config.svm_class_weights == "log" else None
        member.machine.fit(rows[sample], labels[sample], c=c, weights=weights)


#: The name under which `mien.models` finds the system of this file.
System = TransferEnsemble
