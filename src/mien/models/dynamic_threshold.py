"""Semi-supervised facial expressions: dynamic thresholds, negative learning, an extractor that no region rules.

Cai, Yu, Xu, Liu, Sun, Liang 2026: arXiv 2601.05556. Of the paper its parts are known, not its formulas: a student and
an EMA teacher; weak views and balanced drawing of labelled faces; Dynamic Threshold Adjustment chooses pseudo-labels;
Selective Negative Learning learns from complementary labels of the unsure; local attention and random dropout of
feature maps in the extractor. The backbone is ours to choose: ResNet-18 of transformers, as in the nearest public
baseline (Ada-CM).

Ours, each said here because the paper's are not public:
* thresholds: per class, from unlabelled pictures alone (FreeMatch, Wang et al. 2022, arXiv 2205.07246, eq. 5-8): the
  running mean of the teacher's confidence, scaled by how often it names the class against the class it names most.
  Buffers, so that a run resumes exactly. Never below `floor`: on faces with 10 labels a class a teacher that is .4 sure
  is right in half of what it says (1,500 steps, means of two draws: .562 with a floor of .7, .580 with .9). The running
  means look back ten steps, not the hundred thousands that FreeMatch trains for (.395 against .372 with a hundred).
* pictures: each is brought to zero mean and unit deviation a colour, since light and skin are not expression (labels
  only, 40 a class: .517 against .378).
* labels come first: unlabelled pictures are looked at from the start (thresholds and normalisation follow them), but
  teach nothing for `labels_first` steps. FreeMatch's thresholds begin at one over the number of classes, so that an
  untrained teacher is believed at once: with 10 labels a class and some hundred steps every picture ended in one class
  (accuracy .083, eight classes).
* normalisation: the teacher's statistics are its own, of the weak views it judges (Mean Teacher, Tarvainen and Valpola
  2017, arXiv 1703.01780). The student's are mixed with those of strong views, which nobody sees later.
* pseudo-label: the teacher's mean over two weak views, as in Ada-CM; the student learns it on a strong view.
* negative learning: for a picture below its threshold, the classes the teacher gives less than `below` are
  complementary labels: mean of -log(1 - p_k) (the classic form). It counts as much as a label: .600, where a tenth of
  that, of classes under .02, has .580 (the same two draws; FixMatch .565, labels only .530).
* local attention: a 1 × 1 convolution's sigmoid weighs each place of the last map before averaging; feature maps are
  dropped whole (Dropout2d) with probability `map_dropout`.

`threshold: fixed` is FixMatch's (arXiv 2001.07685), `adaptive` follows Ada-CM: max(.8, .97 × mean confidence of
labelled pictures of the class that are named rightly / (1 + e^-epoch)).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section, Share


class Config(Section):
    """inputs: one, its width the side of a picture in pixels. source: folder or hub id of a ResNet to begin with; None:
    random weights of the sizes below (ResNet-18's). pool: the stem's, best left out for pictures of some 48 pixels:
    with half the maps in each stage, at the same cost, .678 in place of .632 (all labels, one seed). attention,
    map_dropout: of the extractor. threshold: kind; fixed: of `fixed`; momentum: of the running means; ema: of the
    teacher. epoch_steps: what the adaptive kind calls an epoch. floor: no dynamic threshold is lower. labels_first:
    steps in which labels alone teach."""

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=1)]
    classes: Count = 7
    rate_hz: Positive = 10.0
    source: str | None = None
    stem: Count = 64
    widths: Annotated[list[Count], Field(min_length=1)] = Field(default=[64, 128, 256, 512])
    depths: Annotated[list[Count], Field(min_length=1)] = Field(default=[2, 2, 2, 2])
    pool: bool = True
    attention: bool = True
    map_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    threshold: Literal["dynamic", "fixed", "adaptive"] = "dynamic"
    fixed: Share = 0.95
    floor: Share = 0.9
    momentum: Share = 0.9
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epoch_steps: Count = 100
    labels_first: Annotated[int, Field(ge=0)] = 200


class Objective(Section):
    """`labelled loss + unlabelled * pseudo-label loss + negative * negative learning`. below: probability under which a
    class is complementary."""

    unlabelled: NotNegative = 1.0
    negative: NotNegative = 1.0
    below: Share = 0.05


@dataclass(slots=True)
class Views:
    """A step's pictures, `(n, 3, size, size)` uint8. labelled with labels `(n,)`; of the unlabelled, in one order, two
    weak views and a strong one, and for measuring only their true labels `(m,)`, -1 where nobody knows. affect `(n,
    2)`: valence and arousal of the labelled, NaN where nobody knows."""

    labelled: Tensor
    labels: Tensor
    weak: tuple[Tensor, Tensor]
    strong: Tensor
    truth: Tensor
    affect: Tensor


class Extractor(nn.Module):
    """Pictures -> a vector: ResNet, attention over places, dropped maps, average."""

    def __init__(self, config: Config) -> None:
        from transformers import ResNetConfig, ResNetModel

        super().__init__()
        if config.source:
            self.network = ResNetModel.from_pretrained(config.source, use_safetensors=True)
        else:
            sizes: dict[str, Any] = {"embedding_size": config.stem, "hidden_sizes": config.widths}
            made = ResNetConfig(**sizes, depths=config.depths, layer_type="basic")
            self.network = ResNetModel(made)
        if not config.pool:
            setattr(self.network.embedder, "pooler", nn.Identity())  # noqa: B010, typed as a pool
        self.dim = int(list(self.network.config.hidden_sizes or ())[-1])
        self.look = nn.Conv2d(self.dim, 1, 1) if config.attention else None
        self.drop = nn.Dropout2d(config.map_dropout)

    def forward(self, pictures: Tensor) -> Tensor:
        """`(n, 3, size, size)` uint8 -> `(n, dim)`."""
        pixels = pictures.float()  # zero mean and unit deviation of each picture's colours; one more keeps flat ones
        spread, middle = torch.std_mean(pixels, dim=(2, 3), keepdim=True)
        maps = self.network((pixels - middle) / (spread + 1)).last_hidden_state
        maps = self.drop(maps)
        if self.look is not None:
            maps = maps * (2 * self.look(maps).sigmoid())
        return maps.mean(dim=(2, 3))


class DynamicThreshold(nn.Module):
    """The whole system: student, teacher, thresholds and objective. See the module's page and `Config`."""

    overall: Tensor
    named: Tensor
    right: Tensor
    steps: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__()
        self.config, self.loss = config, objective or Objective()
        extractor = Extractor(config)
        self.student = nn.Sequential(extractor, nn.Linear(extractor.dim, config.classes))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.dim = extractor.dim
        even = 1 / config.classes
        self.register_buffer("overall", torch.tensor(even))
        self.register_buffer("named", torch.full((config.classes,), even))
        self.register_buffer("right", torch.full((config.classes,), even))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Pictures need no statistics: each is normalised by its own."""

    def normalisation(self) -> dict[str, tuple[Tensor, Tensor]]:
        """None: see `prepare`."""
        return {}

    def forward(self, pictures: Tensor) -> Tensor:
        """The teacher's logits `(n, classes)` of `(n, 3, size, size)` uint8."""
        said: Tensor = self.teacher(pictures)
        return said

    def embed(self, pictures: Tensor) -> Tensor:
        """The teacher's vectors `(n, dim)`."""
        vectors: Tensor = self.teacher[0](pictures)
        return vectors

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """For the optimiser: the student."""
        return [{"params": list(self.student.parameters()), "weight_decay": weight_decay, "scale": 1.0, "depth": 0}]

    def thawed(self) -> int:
        """How many depths learn in this step: all."""
        return 1

    def thresholds(self) -> Tensor:
        """`(classes,)`: how sure the teacher must be to be believed."""
        if self.config.threshold == "fixed":
            return torch.full_like(self.named, self.config.fixed)
        if self.config.threshold == "adaptive":
            ramp = 1 + math.exp(-float(self.steps) / self.config.epoch_steps)
            return (0.97 * self.right / ramp).clamp_min(0.8)
        return (self.overall * self.named / self.named.max()).clamp_min(self.config.floor)

    def objective(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts; `kept`: share of the unlabelled that are believed, `quality`: share of those believed
        rightly (NaN where nobody knows)."""
        loss = F.cross_entropy(self.student(views.labelled), views.labels)
        logs = {"labelled": loss.detach()}
        if not (self.loss.unlabelled or self.loss.negative):
            self._ask(views.labelled)
            return loss, {"loss": loss.detach()} | logs
        sure, said, mean = self._teach(views)
        believed = sure >= self.thresholds()[said]
        if int(self.steps) >= self.config.labels_first:
            student = self.student(views.strong)
            pseudo = (F.cross_entropy(student, said, reduction="none") * believed).mean()
            loss = loss + self.loss.unlabelled * pseudo
            logs["unlabelled"] = pseudo.detach()
            if self.loss.negative:
                negative = self._negative(student, mean, ~believed)
                loss = loss + self.loss.negative * negative
                logs["negative"] = negative.detach()
        known = believed & (views.truth >= 0)
        logs |= {
            "kept": believed.float().mean(),
            "quality": (said == views.truth)[known].float().mean(),
            "threshold": self.thresholds().mean(),
        }
        return loss, {"loss": loss.detach()} | logs

    @torch.no_grad()
    def _ask(self, pictures: Tensor) -> Tensor:
        """The teacher's probabilities; its normalisation follows these pictures, no map is dropped."""
        was = self.teacher.training
        self.teacher.train()
        for layer in self.teacher.modules():
            if isinstance(layer, nn.Dropout2d):
                layer.eval()
        said: Tensor = self.teacher(pictures).softmax(dim=1)
        self.teacher.train(was)
        return said

    @torch.no_grad()
    def _teach(self, views: Views) -> tuple[Tensor, Tensor, Tensor]:
        mean = torch.stack([self._ask(view) for view in views.weak]).mean(dim=0)
        sure, said = mean.max(dim=1)
        m = self.config.momentum
        self.overall.mul_(m).add_((1 - m) * sure.mean())
        self.named.mul_(m).add_((1 - m) * mean.mean(dim=0))
        if self.config.threshold == "adaptive":
            p, found = self._ask(views.labelled).max(dim=1)
            for c in found[found == views.labels].unique():
                self.right[c] = m * self.right[c] + (1 - m) * p[(found == c) & (views.labels == c)].mean()
        return sure, said, mean

    def _negative(self, student: Tensor, mean: Tensor, unsure: Tensor) -> Tensor:
        never = (mean < self.loss.below) & unsure[:, None]
        away = -torch.log1p(-student.softmax(dim=1).clamp_max(1 - 1e-6))
        return (away * never).sum() / never.sum().clamp_min(1)

    @torch.no_grad()
    def after_step(self) -> None:
        """The teacher follows the student."""
        decay = min(self.config.ema, (1 + int(self.steps)) / (10 + int(self.steps)))
        self.steps += 1
        for mine, theirs in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)


#: The name under which `mien.models` finds this file's system.
System = DynamicThreshold
