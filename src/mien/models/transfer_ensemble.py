"""Transfer learning and a late ensemble of face and voice models.

Source: Dresvyanskiy, Ryumina, Kaya, Markitantov, Karpov, Minker 2020, arXiv 2010.03692 (1st ABAW: seven expressions).
Sizes follow the authors' public code.

[?]: not stated in the paper; our choice.

Architecture:

* Face: a softmax on CNN features, frame by frame (`frames`), and a support vector machine on their mean and standard
  deviation over 4 s (`functionals`).
* Voice: Cnn14 on a spectrogram (`cnn14`), and a 1-D CNN with two LSTM layers on the waveform (`cnn_lstm`).
* Fusion: a weighted mean of the class probabilities. The weights are drawn from a Dirichlet distribution, per model or
  per class; those with the best .67 macro F1 + .33 accuracy on validation data are used.
* Objective: cross-entropy with class weights `max(1, ln(mu N / n_c))`.

Differs:

* The published CNNs are fine-tuned on the corpus. Here the recipe's encoders give features, and the network trained on
  them is a layer of `hidden` units and the softmax.
* Vocals are not separated from music.
* The voice stream's rows come from the recipe's encoder: rows of a spectrogram (`log-mel`) or of raw samples
  (`waveform`). Cnn14 reads any rows as an image.
* The support vector machine of degree 1 is a linear one (scikit-learn's LinearSVC, C 2). A softmax, whose scale is
  fitted with it, makes probabilities of its margins [?]. It is fitted when training ends.
* Cnn14's three seconds are the recipe's windows.
* The classes are the recipe's: seven in 2020, eight today.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section
from mien.labels import UNLABELLED
from mien.layers.ensemble import MAX_SAMPLES, Ensemble, MemberOutput, evenly_spaced
from mien.layers.late_fusion import WeightedFusion
from mien.layers.options import check_face_and_voice
from mien.layers.pooling import any_valid, masked_mean
from mien.losses import cross_entropy
from mien.records import FACE, VOICE, Batch

MemberName = Literal["frames", "functionals", "cnn14", "cnn_lstm"]
#: Member -> the modality that it reads.
MEMBERS: dict[MemberName, str] = {"frames": FACE, "functionals": FACE, "cnn14": VOICE, "cnn_lstm": VOICE}


class Config(Section):
    """Options of the model.

    members: any of `frames`, `functionals` (face), `cnn14`, `cnn_lstm` (voice); those whose modality is no input are
    left out. hidden: units of `frames`. cnn14: channels of its six blocks. channels, kernels: of the 1-D convolutions,
    which halve the time axis; lstm: width of the LSTM. raw_samples: whether rows of the voice stream are samples, to be
    concatenated for `cnn_lstm`. frames_per_row: spectrogram frames in a row of the voice stream (4 with `log-mel`).
    weights_per: whether fusion weights are drawn per model or per class. svm_c: C of the support vector machine.
    log_mu: mu of the class weights.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=2)]
    classes: Count = 7
    rate_hz: Positive = 25.0
    members: Annotated[list[MemberName], Field(min_length=1)] = Field(default=list(MEMBERS))
    hidden: Count = 1024
    dropout: DropoutRate = 0.5
    cnn14: Annotated[list[Count], Field(min_length=1)] = Field(default=[64, 128, 256, 512, 1024, 2048])
    channels: Annotated[list[Count], Field(min_length=1)] = Field(default=[128, 256, 512, 512])
    kernels: Annotated[list[Count], Field(min_length=1)] = Field(default=[20, 10, 8, 5])
    lstm: Count = 256
    voice_dropout: DropoutRate = 0.3
    raw_samples: bool = False
    frames_per_row: Count = 1
    weights_per: Literal["model", "class"] = "class"
    weight_draws: Count = 1000
    svm_c: Positive = 2.0
    log_mu: Positive = 0.34
    clamp: Positive = 8.0

    @model_validator(mode="after")
    def _check(self) -> Config:
        check_face_and_voice(self.inputs)
        if VOICE in self.inputs and self.inputs[VOICE] > 1 and self.inputs[VOICE] % self.frames_per_row:
            raise ValueError(f"{self.inputs[VOICE]} values are not {self.frames_per_row} frames in a row")
        if len(self.channels) != len(self.kernels):
            raise ValueError(f"channels {self.channels} and kernels {self.kernels} differ in length")
        if not any(MEMBERS[m] in self.inputs for m in self.members):
            raise ValueError(f"none of the members {self.members} reads any of {sorted(self.inputs)}")
        return self


class Objective(Section):
    """Cross-entropy with logarithmic class weights. valence_arousal: weight of 1 - CCC of each member (ours)."""

    valence_arousal: NotNegative = 0.0


class WindowMember(nn.Module):
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


class FrameClassifier(nn.Module):
    """Two-layer classifier of single frames."""

    def __init__(self, width: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.expression, self.valence_arousal = nn.Linear(hidden, classes), nn.Linear(hidden, 2)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """values: `(batch, time, width)`; valid: `(batch, time)` bool. A missing frame gives no prediction."""
        hidden = self.hidden(values)
        return MemberOutput(self.expression(hidden), self.valence_arousal(hidden).tanh(), valid, hidden)


class Functionals(WindowMember):
    """Linear support vector machine on the mean and standard deviation over the window.

    Its `weight` and `bias` come from `fit`, not from gradients; the valence-arousal head is trained.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__(2 * width, classes)
        del self.expression  # the support vector machine takes its place
        self.register_buffer("weight", torch.zeros(classes, 2 * width))
        self.register_buffer("bias", torch.zeros(classes))

    def vector(self, values: Tensor, valid: Tensor) -> Tensor:
        """Mean and standard deviation of the valid tokens, `(batch, 2 * width)`."""
        mean = masked_mean(values, valid)
        return torch.cat((mean, masked_mean((values - mean[:, None]).square(), valid).sqrt()), dim=1)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """values: `(batch, time, width)`; valid: `(batch, time)` bool."""
        vector = self.vector(values, valid)
        logits = vector @ self.weight.T + self.bias
        return self.repeat(logits, self.valence_arousal(vector.detach()).tanh(), valid)

    @torch.no_grad()
    def fit(self, vectors: np.ndarray, labels: np.ndarray, c: float) -> None:
        """Fit the machine to vectors `(window, 2 * width)` and labels `(window,)`, then the scale of its softmax.

        The scale maximises the likelihood of the labels. With fewer than two classes nothing is fitted; classes without
        a label get a bias of -30.
        """
        from sklearn.svm import LinearSVC

        classes = np.unique(labels)
        if len(classes) < 2:
            return
        deviation = vectors.std(axis=0) + 1e-6
        scaled = vectors / deviation
        machine = LinearSVC(C=c, class_weight="balanced", max_iter=5000, random_state=0).fit(scaled, labels)
        coefficients, bias = machine.coef_, machine.intercept_
        if len(classes) == 2:  # scikit-learn then returns the second class only
            coefficients, bias = np.stack((-coefficients[0], coefficients[0])), np.array((-bias[0], bias[0]))
        scale = _softmax_scale(scaled @ coefficients.T + bias, np.searchsorted(classes, labels))
        self.weight.zero_()
        self.bias.fill_(-30.0)
        self.weight[classes] = torch.from_numpy(coefficients / deviation * scale).float()
        self.bias[classes] = torch.from_numpy(bias * scale).float()


def _softmax_scale(margins: np.ndarray, labels: np.ndarray) -> float:
    """The factor on margins `(n, classes)` whose softmax gives labels `(n,)` the highest likelihood."""
    from scipy.optimize import minimize_scalar

    def negative_log_likelihood(log_scale: float) -> float:
        logits = margins * np.exp(log_scale)
        maximum = logits.max(axis=1, keepdims=True)
        log_total = np.log(np.exp(logits - maximum).sum(axis=1)) + maximum[:, 0]
        return float((log_total - logits[np.arange(len(labels)), labels]).mean())

    return float(np.exp(minimize_scalar(negative_log_likelihood, bounds=(-4, 4), method="bounded").x))


class HalvingAverage(nn.Module):
    """`nn.AvgPool2d(2, ceil_mode=True)`, bit for bit: an odd row or column at the end is averaged alone.

    Written as a pooling without rounding up, which exports to ONNX for any number of rows.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """`(batch, channels, height, width)` -> `(batch, channels, ceil(height / 2), ceil(width / 2))`."""

        def mean(values: Tensor) -> Tensor:
            return nn.functional.avg_pool2d(nn.functional.pad(values, (0, 1, 0, 1)), 2)

        return mean(maps) / mean(torch.ones_like(maps[:1, :1]))  # the divisor is 1, or 1/2 or 1/4 beside the padding


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
        steps = (values.shape[2] + self.size - 1) // self.size
        padded = nn.functional.pad(values, (0, steps * self.size - values.shape[2]))
        return padded.view(*values.shape[:2], steps, self.size).amax(dim=3)


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
    """1-D convolutions that shorten the time axis, two LSTM layers, and their mean over time."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__(config.lstm, config.classes)
        self.raw_samples, dropout = config.raw_samples, config.voice_dropout
        sizes = [1 if config.raw_samples else width, *config.channels]
        blocks: list[nn.Module] = []
        for before, after, kernel in zip(sizes, config.channels, config.kernels, strict=False):
            padding = nn.ConstantPad1d((kernel // 2, kernel - 1 - kernel // 2), 0.0)
            pool = PositiveMaximum(10 if config.raw_samples else 2)
            convolution = nn.Conv1d(before, after, kernel)
            blocks += [padding, convolution, nn.BatchNorm1d(after), nn.ReLU(), pool, nn.Dropout(dropout)]
        self.blocks = nn.Sequential(*blocks)
        self.lstm = nn.LSTM(config.channels[-1], config.lstm, num_layers=2, batch_first=True, dropout=dropout)

    def forward(self, values: Tensor, valid: Tensor) -> MemberOutput:
        """values: `(batch, time, width)`, zero where invalid; valid: `(batch, time)` bool."""
        channels_first = values.flatten(1)[:, None] if self.raw_samples else values.transpose(1, 2)
        return self.predict(self.lstm(self.blocks(channels_first).transpose(1, 2))[0].mean(dim=1), valid)


class TransferEnsemble(Ensemble):
    """Members, fusion and objective; see the module's docstring and `Config`."""

    fusion_measures = MappingProxyType({"macro_f1": 0.67, "accuracy": 0.33})

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__(inputs=config.inputs, classes=config.classes, clamp=config.clamp)
        self.config, self.loss = config, objective or Objective()
        self.predicts_valence_arousal = self.loss.valence_arousal > 0
        self.valence_arousal_weight = self.loss.valence_arousal
        self.weight_draws, self.weights_per = config.weight_draws, config.weights_per
        face_width, voice_width, classes = config.inputs.get(FACE, 1), config.inputs.get(VOICE, 1), config.classes
        build: dict[MemberName, Callable[[], nn.Module]] = {
            "frames": lambda: FrameClassifier(face_width, config.hidden, classes, config.dropout),
            "functionals": lambda: Functionals(face_width, classes),
            "cnn14": lambda: Cnn14(config.cnn14, classes, config.voice_dropout, config.frames_per_row),
            "cnn_lstm": lambda: CnnLstm(voice_width, config),
        }
        names = [m for m in config.members if MEMBERS[m] in config.inputs]
        self.members = nn.ModuleDict({name: build[name]() for name in names})
        self.modality_of = {name: MEMBERS[name] for name in names}
        self.fusion = WeightedFusion(models=len(names), classes=classes)

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
        machine = self.members["functionals"]
        assert isinstance(machine, Functionals)
        self.eval()
        vectors, labels = [], []
        for batch in batches:
            values, valid = self.select_inputs(batch.values, batch.valid)[FACE]
            assert batch.expression is not None
            counts = nn.functional.one_hot(batch.expression + 1, self.config.classes + 1)[..., 1:].sum(dim=1)
            is_used = valid.any(dim=1) & (batch.expression != UNLABELLED).any(dim=1)
            vectors.append(machine.vector(values, valid)[is_used].numpy())
            labels.append(counts[is_used].argmax(dim=1).numpy())
        rows, targets = np.concatenate(vectors), np.concatenate(labels)
        sample = evenly_spaced(len(rows), MAX_SAMPLES)
        if len(sample):
            machine.fit(rows[sample], targets[sample], self.config.svm_c)


#: The name under which `mien.models` finds the system of this file.
System = TransferEnsemble
