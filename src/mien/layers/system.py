"""The base classes of the published systems: every hook that training, evaluation, prediction and export call.

`System` names the hooks and their defaults. `StreamSystem` adds what systems over feature streams share (input
normalisation, class weights, missing modalities), `ImageSystem` what systems over single face images share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from mien.labels import UNLABELLED
from mien.losses import class_weights, logit_adjustment
from mien.records import Batch, ImageBatch, Output

BatchT = TypeVar("BatchT", Batch, ImageBatch)

#: `(labels (n,), predicted (n,), classes)` -> a score of predicted classes, more is better.
Measure = Callable[[np.ndarray, np.ndarray, int], float]


class System(nn.Module, Generic[BatchT]):
    """A published system: a network, its training objective, and the hooks around both.

    The order in which training calls the hooks: `prepare`, `set_prompts` if `uses_prompts`, then in every step
    `objective`, `before_step`, `after_step`, and after every epoch `training_report`. If `has_late_stage`, the best
    weights are loaded when training ends and `fit_classical`, then `fit_fusion` are called.
    """

    #: What the system is trained on: windows of feature streams, or single images.
    input_kind: ClassVar[Literal["streams", "images"]]
    #: Whether classes are described by text prompts, which training embeds and gives to `set_prompts`.
    uses_prompts: ClassVar[bool] = False
    #: Whether something is fitted after gradient training: a fusion, a random forest, a support vector machine.
    has_late_stage: ClassVar[bool] = False
    #: Whether a window of streams has one prediction, whose label is the last one in it. Class weights and validation
    #: then count windows, not tokens.
    predicts_window: ClassVar[bool] = False
    #: Whether the logits, and valence and arousal, are trained. Where not, prediction leaves them out.
    predicts_expression: bool = True
    predicts_valence_arousal: bool = True
    #: Score tasks (`mien.labels.SCORE_TASKS`) that the system can be trained for, by an objective that extends
    #: `mien.layers.score_heads.ScoreObjective`; and those that this one is trained for.
    possible_score_tasks: ClassVar[tuple[str, ...]] = ()
    score_tasks: tuple[str, ...] = ()
    #: Whether weights that are not trained are those of a pretrained network, which the set-up of a run loads: the file
    #: of an unfinished run leaves them out.
    has_fixed_base: ClassVar[bool] = False
    #: Width of what `embed` returns for a next stage; None if the system has no embedding.
    embedding_dim: int | None = None

    def architecture(self) -> dict[str, Any]:
        """Keys of the recipe's `model` section that build the network without the pretrained weights it was trained
        from: a checkpoint is loaded without them. Default: none."""
        return {}

    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Set statistics of the training data, before the first step. Default: nothing.

        Args:
            mean, deviation: modality -> `(dim,)` over valid tokens. counts: `(classes,)` expected labels per class.
        """

    def prepare_scores(self, means: Mapping[str, Tensor]) -> None:
        """Set statistics of the training labels of score tasks, after `prepare`. Default: nothing.

        Args:
            means: score task -> `(columns,)` mean of the labels, NaN where there are none.
        """

    def normalisation(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality -> mean and deviation of its inputs, each `(dim,)`, as set by `prepare`. Default: none."""
        return {}

    def set_prompts(self, embeddings: Tensor) -> None:
        """Set the text embeddings of the classes, `(classes, text_dim)`. Only if `uses_prompts`."""
        raise NotImplementedError(f"{type(self).__name__} uses no prompts")

    def objective(self, batch: BatchT) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar with gradient, and scalars to log, `loss` among them. A value that is not
        finite is left out of the logged mean."""
        raise NotImplementedError

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for the optimiser: `params`, `weight_decay` and `scale`, a factor on the learning rate.

        Default: matrices decay; biases, norms and single tokens do not (common practice).
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        return [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay, "scale": 1.0},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "scale": 1.0},
        ]

    def before_step(self) -> None:
        """Called between backward and the optimiser's step, before gradients are clipped. Default: nothing."""

    def after_step(self) -> None:
        """Called after the optimiser's step. Default: nothing."""

    def training_report(self) -> dict[str, float]:
        """Numbers for the report of an epoch beside the logged means. Default: none."""
        return {}

    def fit_classical(self, batches: Iterable[BatchT]) -> None:
        """Fit classical machines to training batches, with the best weights loaded. Default: nothing."""

    def fit_fusion(self, batches: Iterable[BatchT], measures: Mapping[str, Measure]) -> dict[str, float]:
        """Fit the fusion to validation batches, with the best weights loaded; returns metrics. Default: nothing.

        Args:
            measures: the scores it may optimise, by name (`macro_f1`, `accuracy`).
        """
        return {}


class InputNorm(nn.Module):
    """`(x - mean) / deviation` over valid training tokens, cut to +-clamp; zero where invalid, whatever value is there.

    The statistics are buffers: they are saved with the weights.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, clamp: float) -> None:
        super().__init__()
        self.clamp = clamp
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))

    def forward(self, values: Tensor, valid: Tensor) -> Tensor:
        """values `(batch, time, dim)`, valid `(batch, time)` bool -> `(batch, time, dim)` float32."""
        known = torch.where(valid[..., None], values.to(self.mean.dtype), self.mean)
        return ((known - self.mean) / self.deviation).clamp(-self.clamp, self.clamp)


class StreamSystem(System[Batch]):
    """A system over windows of feature streams.

    Subclasses implement `forward` and `objective`, and read their inputs through `select_inputs`.

    Args:
        inputs: modality -> width of its features.
        classes: number of classes.
        weighting, beta: class weights, see `mien.losses.class_weights`.
        adjustment: strength of `mien.losses.logit_adjustment`; losses add `logit_offset` to the logits.
        clamp: normalised inputs are cut to +- this many deviations.
    """

    input_kind = "streams"
    #: Whether missing tokens appended to a window leave the other tokens' predictions as they are. The exported network
    #: then takes windows of one length, which shorter ones are padded to; otherwise it takes any length.
    is_padding_neutral: bool = False
    class_weight: Tensor
    logit_offset: Tensor

    def __init__(
        self, *, inputs: Mapping[str, int], classes: int, weighting: str = "none", beta: float = 0.9999,
        adjustment: float = 0.0, clamp: float = 8.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self._weighting, self._adjustment = (weighting, beta), adjustment
        self.input_norm = nn.ModuleDict({name: InputNorm(width, clamp) for name, width in inputs.items()})
        self.register_buffer("class_weight", torch.ones(classes), persistent=False)
        self.register_buffer("logit_offset", torch.zeros(classes), persistent=False)

    def norm_of(self, modality: str) -> InputNorm:
        """The input normalisation of one modality."""
        norm = self.input_norm[modality]
        assert isinstance(norm, InputNorm)
        return norm

    @torch.no_grad()
    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Set input normalisation and class weights, see `System.prepare`."""
        for name in self.input_norm:
            self.norm_of(name).mean.copy_(mean[name])
            self.norm_of(name).deviation.copy_(deviation[name])
        self.class_weight.copy_(class_weights(counts, *self._weighting))
        self.logit_offset.copy_(logit_adjustment(counts, self._adjustment))

    def normalisation(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality -> mean and deviation of its inputs, each `(dim,)`."""
        return {name: (self.norm_of(name).mean, self.norm_of(name).deviation) for name in self.input_norm}

    def forward(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Output:
        """Predict every token of every window.

        Args:
            values: modality -> `(batch, time, dim)`. valid: modality -> `(batch, time)` bool. A modality that is left
                out, or None, is missing throughout.

        Raises ValueError for unknown modalities, or if none is given.
        """
        raise NotImplementedError

    def prompt_logits(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> Tensor:
        """Zero-shot logits `(batch, classes)` of windows against the prompts that are set. Only if `uses_prompts`."""
        raise NotImplementedError(f"{type(self).__name__} uses no prompts")

    def embed(self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None]) -> tuple[Tensor, Tensor]:
        """What the next stage reads: `(batch, time, embedding_dim)`, and `(batch, time)` bool, where it is known.

        Only if `embedding_dim` is set.
        """
        raise NotImplementedError(f"{type(self).__name__} has no embedding")

    def select_inputs(
        self, values: Mapping[str, Tensor | None], valid: Mapping[str, Tensor | None], *, fill: bool = True
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Modality -> normalised values `(batch, time, dim)` and validity `(batch, time)`, in the system's own order.

        Args:
            fill: a modality that is left out comes as zeros, invalid throughout; otherwise it stays out.

        Raises ValueError for unknown modalities, or if none is given.
        """
        unknown = sorted((set(values) | set(valid)) - set(self.input_norm))
        if unknown:
            raise ValueError(f"modalities {unknown} are not inputs of this model; it has {sorted(self.input_norm)}")
        like = next((mask for name, mask in valid.items() if mask is not None and values.get(name) is not None), None)
        if like is None:
            raise ValueError(
                f"no modality given: a window needs at least one of {sorted(self.input_norm)}, valid or not"
            )
        inputs = {}
        for name in self.input_norm:
            norm, value, mask = self.norm_of(name), values.get(name), valid.get(name)
            if value is None or mask is None:
                if not fill:
                    continue
                mask = torch.zeros_like(like)
                value = torch.zeros(*like.shape, len(norm.mean), device=like.device)
            inputs[name] = (norm(value, mask), mask)
        return inputs


class ImageSystem(System[ImageBatch]):
    """A system over single face images, `(n, 3, size, size)` uint8 RGB. A checkpoint of one is also a face encoder."""

    input_kind = "images"
    predicts_valence_arousal = False
    #: Whether the objective reads the unlabelled images of a batch.
    uses_unlabelled: ClassVar[bool] = False

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(n, classes)` of `(n, 3, size, size)` uint8."""
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings `(n, embedding_dim)` of `(n, 3, size, size)` uint8."""
        raise NotImplementedError

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits `(n, classes)`, and valence and arousal `(n, 2)` in (-1, 1) or None, of `(n, 3, size, size)` uint8.

        Default: `forward`, without valence and arousal.
        """
        return self(images), None


def last_token(output: Output, batch: Batch) -> tuple[Output, Batch]:
    """Each window's last prediction and its last known labels, as an output and a batch of one token a window."""
    output = replace(
        output,
        logits=output.logits[:, -1:],
        valence_arousal=output.valence_arousal[:, -1:],
        weights=output.weights[:, -1:],
        score_logits={task: logits[:, -1:] for task, logits in output.score_logits.items()},
    )
    expression, affect = batch.expression, batch.valence_arousal
    return output, Batch(
        values=batch.values,
        valid=batch.valid,
        expression=None if expression is None else _last_known(expression, expression != UNLABELLED),
        valence_arousal=None if affect is None else _last_known(affect, torch.isfinite(affect).all(dim=-1)),
        scores={task: _last_known(values, torch.isfinite(values).any(dim=-1)) for task, values in batch.scores.items()},
    )


def _last_known(labels: Tensor, known: Tensor) -> Tensor:
    """Labels `(batch, 1, ...)` of the last token of each window that is `known` `(batch, time)`; where none is, of its
    last token."""
    place = labels.shape[1] - 1 - known.flip(1).float().argmax(dim=1)
    return labels[torch.arange(len(labels), device=labels.device)[:, None], place[:, None]]
