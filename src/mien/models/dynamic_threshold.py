"""Semi-supervised facial expression recognition with dynamic thresholds and negative learning.

Source: Cai, Yu, Xu, Liu, Sun, Liang 2026, arXiv 2601.05556. The parts of the method are known, its formulas are not.

Architecture, as far as the paper states it:

* A student network and a teacher, its exponential moving average (EMA).
* Weak views and class-balanced sampling of labelled faces.
* Dynamic Threshold Adjustment selects pseudo-labels.
* Selective Negative Learning learns from complementary labels of the images without a pseudo-label.
* Local attention and random dropout of feature maps in the extractor, so that no face region dominates.

Our choices, because the paper's are not public:

* backbone: ResNet-18 of the package transformers, as in the nearest public baseline (Ada-CM).
* thresholds: per class, the confidence that the surest share of the recent predictions of this class exceeds. The
  share grows linearly from the first to the second value of `accepted`. A class whose predictions are less sure so has
  a lower threshold, and every class gives pseudo-labels from the start. Absolute confidences cannot do that: networks
  trained on few labels are sure of their errors as well.
* image normalisation: each image has zero mean and unit deviation per colour, because light and skin colour are not
  expression (labels only, 40 per class: .517 against .378).
* warm-up: unlabelled images update thresholds and normalisation from the start, but add no loss for `warmup_steps`
  steps: an untrained teacher would be used at once. With FreeMatch's thresholds and 10 labels per class, all images
  were in one class after some hundred steps (accuracy .083, eight classes).
* pseudo-label: the teacher's mean over two weak views; the student learns it on a strong view. The paper has a teacher,
  and Ada-CM takes the mean of two views.
* batch normalisation: the teacher has its own statistics, of the weak views that it labels (Mean Teacher, Tarvainen and
  Valpola 2017, arXiv 1703.01780). The student's also include strong views, which prediction never sees.
* negative learning: for an image below its threshold, classes with a probability below `complementary_threshold` in the
  pseudo-label are complementary labels. The loss is the mean of `-log(1 - p_k)`, the classic form, with
  the weight of a label's loss: .600. With a tenth of that weight, on classes under .02: .580 (the same two draws;
  FixMatch .565, labels only .530).
* local attention: the sigmoid of a 1 x 1 convolution weights each place of the last feature map before averaging;
  feature maps are dropped whole (Dropout2d) with probability `map_dropout`.

The other kinds of `threshold` are published methods, for comparison. Their pseudo-labels come from the student, as in
their public code; the teacher is then the average of the student, batch statistics included, and only predicts.
`pseudo_labels: teacher` changes the threshold alone.

* `fixed`: FixMatch (arXiv 2001.07685), one weak view.
* `freematch`: the running mean of the confidence, times the running mean of the class's probability over its maximum
  (Wang et al. 2022, arXiv 2205.07246, eq. 5-8), one weak view. The running means look back ten steps with a `momentum`
  of .9 (theirs: .999).
* `adaptive`: Ada-CM, the mean of two weak views. The threshold is `max(.8, .97 c / (1 + e^-epoch))`, c being the mean
  confidence of the teacher on the labelled images of the class that it predicts correctly. Ada-CM computes c after each
  epoch; here it is a running mean. Its contrastive loss and its weights of the losses are left out.
"""

from __future__ import annotations

import copy
import json
import math
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mien.config import Count, DropoutRate, NotNegative, Positive, Section, Share
from mien.layers.system import ImageSystem
from mien.losses import soft_focal
from mien.records import ImageBatch


class Config(Section):
    """Options of the model.

    inputs: one modality; its width is the side of the image in pixels. source: folder or hub id of a pretrained ResNet;
    None for random weights of the sizes `stem`, `widths` and `depths` (ResNet-18's), or of the ResNet configuration
    `options`, if it is given. stem_pool: whether the stem pools;
    better without for images of about 48 pixels: with half the maps in each stage, at the same cost, .678 instead of
    .632 (all labels, one seed). attention, map_dropout: of the extractor.

    threshold: kind of threshold. pseudo_labels: the network that gives them; `published`: the one of the kind's
    publication. accepted: share of a class's predictions above its `dynamic` threshold, at first and
    after `ramp_steps`. memory: recent predictions that set these thresholds. fixed_threshold: value of `fixed`.
    momentum: of the running means of the other kinds. ema: decay of the teacher. epoch_steps: steps per epoch in
    `adaptive`. warmup_steps: steps without a loss on unlabelled images.
    """

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=1)]
    classes: Count = 7
    rate_hz: Positive = 10.0
    source: str | None = None
    options: dict[str, Any] = Field(default={})
    stem: Count = 64
    widths: Annotated[list[Count], Field(min_length=1)] = Field(default=[64, 128, 256, 512])
    depths: Annotated[list[Count], Field(min_length=1)] = Field(default=[2, 2, 2, 2])
    stem_pool: bool = True
    attention: bool = True
    map_dropout: DropoutRate = 0.1
    threshold: Literal["dynamic", "fixed", "freematch", "adaptive"] = "dynamic"
    pseudo_labels: Literal["published", "student", "teacher"] = "published"
    accepted: Annotated[list[Share], Field(min_length=2, max_length=2)] = Field(default=[0.05, 0.3])
    ramp_steps: Count = 1000
    memory: Count = 2048
    fixed_threshold: Share = 0.95
    momentum: Share = 0.9
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epoch_steps: Count = 100
    warmup_steps: Annotated[int, Field(ge=0)] = 200


class Objective(Section):
    """`labelled loss + unlabelled * pseudo-label loss + negative * negative learning loss`.

    complementary_threshold: probability in the pseudo-label below which a class is a complementary label.
    """

    unlabelled: NotNegative = 1.0
    negative: NotNegative = 1.0
    complementary_threshold: Share = 0.05


class Extractor(nn.Module):
    """Image embedding: ResNet, dropout of feature maps, spatial attention, average."""

    def __init__(self, config: Config) -> None:
        from transformers import ResNetConfig, ResNetModel

        super().__init__()
        if config.source:
            self.network = ResNetModel.from_pretrained(config.source, use_safetensors=True)
        else:
            sizes: dict[str, Any] = {"embedding_size": config.stem, "hidden_sizes": config.widths}
            sizes |= {"depths": config.depths, "layer_type": "basic"}
            self.network = ResNetModel(ResNetConfig.from_dict(config.options or sizes))
        if not config.stem_pool:
            setattr(self.network.embedder, "pooler", nn.Identity())  # noqa: B010, torch types it as a pool
        self.dim = int(list(self.network.config.hidden_sizes or ())[-1])
        self.attention = nn.Conv2d(self.dim, 1, 1) if config.attention else None
        self.drop = nn.Dropout2d(config.map_dropout)

    def forward(self, images: Tensor) -> Tensor:
        """`(n, 3, size, size)` uint8 -> `(n, dim)`."""
        pixels = images.float()
        mean, deviation = pixels.mean(dim=(2, 3), keepdim=True), pixels.std(dim=(2, 3), keepdim=True)
        # The 1, one grey level, keeps images of a single colour finite.
        maps = self.network((pixels - mean) / (deviation + 1)).last_hidden_state
        maps = self.drop(maps)
        if self.attention is not None:
            maps = maps * (2 * self.attention(maps).sigmoid())
        output: Tensor = maps.mean(dim=(2, 3))
        return output


class DynamicThreshold(ImageSystem):
    """Student, teacher, thresholds and objective; see the module's docstring and `Config`."""

    uses_unlabelled = True
    #: Running mean of the confidence of pseudo-labels, accepted or not, a scalar.
    mean_confidence: Tensor
    #: Running mean of the probability of each class in pseudo-labels, `(classes,)`.
    mean_probability: Tensor
    #: Confidence and class of recent predictions, `(memory,)`; class -1 where there is none yet.
    recent_confidence: Tensor
    recent_class: Tensor
    #: Running mean of the teacher's confidence on correctly predicted labelled images of each class, `(classes,)`.
    correct_confidence: Tensor
    #: Optimiser steps taken, a scalar.
    steps: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__()
        self.config, self.loss = config, objective or Objective()
        extractor = Extractor(config)
        self.student = nn.Sequential(extractor, nn.Linear(extractor.dim, config.classes))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.embedding_dim = extractor.dim
        #: Whether the teacher gives the pseudo-labels; otherwise the student does.
        published = config.threshold == "dynamic"
        self.teacher_labels = published if config.pseudo_labels == "published" else config.pseudo_labels == "teacher"
        #: Weak views that a pseudo-label is the mean of.
        self.label_views = 2 if self.teacher_labels or config.threshold == "adaptive" else 1
        uniform = 1 / config.classes
        self.register_buffer("mean_confidence", torch.tensor(uniform))
        self.register_buffer("mean_probability", torch.full((config.classes,), uniform))
        self.register_buffer("correct_confidence", torch.full((config.classes,), uniform))
        self.register_buffer("recent_confidence", torch.zeros(config.memory))
        self.register_buffer("recent_class", torch.full((config.memory,), -1))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def architecture(self) -> dict[str, Any]:
        """Configuration of the extractor's network, see `System.architecture`."""
        extractor: Any = self.student[0]
        return {"source": None, "options": json.loads(extractor.network.config.to_json_string(use_diff=False))}

    def forward(self, images: Tensor) -> Tensor:
        """The teacher's logits `(n, classes)` of images `(n, 3, size, size)` uint8."""
        logits: Tensor = self.teacher(images)
        return logits

    def embed(self, images: Tensor) -> Tensor:
        """The teacher's embeddings `(n, dim)` of images `(n, 3, size, size)` uint8."""
        embeddings: Tensor = self.teacher[0](images)
        return embeddings

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """One group, the student's parameters; see `System.parameter_groups`."""
        return [{"params": list(self.student.parameters()), "weight_decay": weight_decay, "scale": 1.0}]

    def training_report(self) -> dict[str, float]:
        """`threshold_0`, `threshold_1`, ...: the current threshold of each class."""
        return {f"threshold_{i}": float(value) for i, value in enumerate(self.thresholds())}

    def thresholds(self) -> Tensor:
        """Confidence from which a prediction is a pseudo-label, `(classes,)`; see the module's docstring."""
        if self.config.threshold == "fixed":
            return torch.full_like(self.mean_probability, self.config.fixed_threshold)
        if self.config.threshold == "adaptive":
            ramp = 1 + math.exp(-float(self.steps) / self.config.epoch_steps)
            return (0.97 * self.correct_confidence / ramp).clamp_min(0.8)
        if self.config.threshold == "freematch":
            return self.mean_confidence * self.mean_probability / self.mean_probability.max()
        first, last = self.config.accepted
        share = first + (last - first) * min(1.0, float(self.steps) / self.config.ramp_steps)
        recent = [self.recent_confidence[self.recent_class == c] for c in range(self.config.classes)]
        return torch.stack([r.quantile(1 - share) if len(r) else self.mean_confidence for r in recent])

    def objective(self, batch: ImageBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of `Objective` and its terms. Also logged: `kept`, share of unlabelled images with a pseudo-label;
        `quality`, share of correct pseudo-labels (NaN without true labels); `threshold`, mean over classes.

        The labelled loss is the cross-entropy, with the soft labels of the images where they have them."""
        labelled = self.student(batch.labelled)
        if batch.soft is None:
            loss = F.cross_entropy(labelled, batch.labels)
        else:
            loss = soft_focal(labelled, batch.soft, gamma=0.0)
        logs = {"labelled": loss.detach()}
        if not (self.loss.unlabelled or self.loss.negative):
            if self.teacher_labels:
                self._probabilities(self.teacher, batch.labelled)  # for its batch statistics
            return loss, {"loss": loss.detach()} | logs
        confidence, predicted, mean = self._update_statistics(batch)
        is_pseudo = confidence >= self.thresholds()[predicted]
        if int(self.steps) >= self.config.warmup_steps:
            student = self.student(batch.strong)
            pseudo = (F.cross_entropy(student, predicted, reduction="none") * is_pseudo).mean()
            loss = loss + self.loss.unlabelled * pseudo
            logs["unlabelled"] = pseudo.detach()
            if self.loss.negative:
                negative = self._negative(student, mean, ~is_pseudo)
                loss = loss + self.loss.negative * negative
                logs["negative"] = negative.detach()
        has_truth = is_pseudo & (batch.unlabelled_labels >= 0)
        logs |= {
            "kept": is_pseudo.float().mean(),
            "quality": (predicted == batch.unlabelled_labels)[has_truth].float().mean(),
            "threshold": self.thresholds().mean(),
        }
        return loss, {"loss": loss.detach()} | logs

    @torch.no_grad()
    def _probabilities(self, network: nn.Module, images: Tensor) -> Tensor:
        """Probabilities `(n, classes)` of the student or the teacher; updates its batch statistics, drops no map."""
        was_training = network.training
        network.train()
        for layer in network.modules():
            if isinstance(layer, nn.Dropout2d):
                layer.eval()
        probabilities: Tensor = network(images).softmax(dim=1)
        network.train(was_training)
        return probabilities

    @torch.no_grad()
    def _update_statistics(self, batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Update the running means; returns the confidence, class and probabilities of each image's pseudo-label."""
        network, views = self.teacher if self.teacher_labels else self.student, batch.weak[: self.label_views]
        mean = torch.stack([self._probabilities(network, view) for view in views]).mean(dim=0)
        confidence, predicted = mean.max(dim=1)
        m = self.config.momentum
        self.mean_confidence.mul_(m).add_((1 - m) * confidence.mean())
        self.mean_probability.mul_(m).add_((1 - m) * mean.mean(dim=0))
        for recent, new in ((self.recent_confidence, confidence), (self.recent_class, predicted)):
            recent.copy_(torch.cat((recent, new))[-len(recent) :])
        if self.config.threshold == "adaptive":
            was_training = self.teacher.training
            p, labelled_as = self.teacher.eval()(batch.labelled).softmax(dim=1).max(dim=1)
            self.teacher.train(was_training)
            for c in labelled_as[labelled_as == batch.labels].unique():
                self.correct_confidence[c] = (
                    m * self.correct_confidence[c] + (1 - m) * p[(labelled_as == c) & (batch.labels == c)].mean()
                )
        return confidence, predicted, mean

    def _negative(self, student: Tensor, labels: Tensor, unsure: Tensor) -> Tensor:
        """Negative learning loss of student logits and pseudo-label probabilities, over the images `unsure` `(n,)`
        bool."""
        is_complementary = (labels < self.loss.complementary_threshold) & unsure[:, None]
        loss = -torch.log1p(-student.softmax(dim=1).clamp_max(1 - 1e-6))
        return (loss * is_complementary).sum() / is_complementary.sum().clamp_min(1)

    @torch.no_grad()
    def after_step(self) -> None:
        """Update the teacher's moving average of the student, and of its batch statistics unless it has its own."""
        decay = min(self.config.ema, (1 + int(self.steps)) / (10 + int(self.steps)))
        self.steps += 1
        for average, current in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            average.lerp_(current, 1 - decay)
        if not self.teacher_labels:
            for statistic, now in zip(self.teacher.buffers(), self.student.buffers(), strict=True):
                if statistic.is_floating_point():
                    statistic.lerp_(now, 1 - decay)
                else:
                    statistic.copy_(now)


#: The name under which `mien.models` finds the system of this file.
System = DynamicThreshold
