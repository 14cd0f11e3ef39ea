"""The static stage of `cnn_pdem`: a CNN or ViT over single faces, for expressions and valence-arousal at once.

Dresvyanskiy, Markitantov, Yu, Kaya, Karpov 2024: arXiv 2403.12609; sizes and training follow the authors' public code.
EfficientNet-B1 or B4, or ViT-B/16, a layer of 256, two heads; soft focal loss (gamma 2) plus the root of the mean
squared error; layers thaw from the top while training goes on, and the deeper a layer the lower its rate.
`transfer_ensemble` tunes its CNN in the same way.

What the code leaves to its settings is ours [?]: steps between thaws, the rate's ratio from one depth to the next. The
run is then a face encoder: `mien extract --encoder RUN` gives its 256 values to the dynamic stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mien.config import Count, NotNegative, Positive, Section
from mien.losses import class_weights, focal
from mien.models.dynamic_threshold import Views


class Config(Section):
    """inputs: one, its width the side of a picture in pixels. network: architecture of transformers. source: folder or
    hub id to begin with; None: random weights with `options` of its config. dim: of the embedding. thaw_steps: steps
    until the next depth learns, 0: all learn at once. rate_ratio: of a depth's rate to that of the one above."""

    inputs: Annotated[dict[str, Count], Field(min_length=1, max_length=1)]
    classes: Count = 8
    rate_hz: Positive = 10.0
    network: Literal["efficientnet", "vit", "resnet"] = "efficientnet"
    source: str | None = "google/efficientnet-b1"
    options: dict[str, Any] = Field(default={})
    dim: Count = 256
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    thaw_steps: Annotated[int, Field(ge=0)] = 500
    rate_ratio: Annotated[float, Field(gt=0, le=1)] = 0.85


class Objective(Section):
    """`focal (gamma) + affect * RMSE`. weighting: of `mien.losses.class_weights`."""

    gamma: NotNegative = 2.0
    affect: NotNegative = 1.0
    weighting: Literal["none", "sqrt", "balanced", "effective"] = "none"


class CnnStatic(nn.Module):
    """The whole system: network and objective. See the module's page and `Config`."""

    class_weight: Tensor
    steps: Tensor

    def __init__(self, config: Config, objective: Objective | None = None) -> None:
        super().__init__()
        self.config, self.loss = config, objective or Objective()
        self.network, width = _network(config)
        self.dim = config.dim
        self.inner = nn.Sequential(nn.Linear(width, config.dim), nn.Tanh(), nn.Dropout(config.dropout))
        self.expression, self.affect = nn.Linear(config.dim, config.classes), nn.Linear(config.dim, 2)
        self.register_buffer("class_weight", torch.ones(config.classes))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def prepare(self, mean: Mapping[str, Tensor], deviation: Mapping[str, Tensor], counts: Tensor) -> None:
        """Class weights from labels per class; pictures need no statistics."""
        self.class_weight.copy_(class_weights(counts, self.loss.weighting))

    def normalisation(self) -> dict[str, tuple[Tensor, Tensor]]:
        """None: pictures are scaled to about [-2, 2]."""
        return {}

    def depths(self) -> list[list[nn.Parameter]]:
        """Parameters from the heads down: first those of this file, then the network's, block by block."""
        own = [p for part in (self.inner, self.expression, self.affect) for p in part.parameters()]
        blocks = _blocks(self.network)
        inside = {id(p) for block in blocks for p in block.parameters()}
        rest = [p for p in self.network.parameters() if id(p) not in inside]
        return [own, *([*block.parameters()] for block in reversed(blocks)), *([rest] if rest else [])]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """For the optimiser: `scale` multiplies the rate of each depth."""
        ratio = self.config.rate_ratio
        return [
            {"params": depth, "weight_decay": weight_decay, "scale": ratio**i, "depth": i}
            for i, depth in enumerate(self.depths())
        ]

    def thawed(self) -> int:
        """How many depths learn in this step."""
        every = self.config.thaw_steps
        return 1 + int(self.steps) // every if every else len(self.depths())

    def embed(self, pictures: Tensor) -> Tensor:
        """`(n, 3, size, size)` uint8 -> `(n, dim)`."""
        pooled = self.network(pictures.float() / 64 - 2)
        vector = getattr(pooled, "pooler_output", None)
        said: Tensor = self.inner((pooled.last_hidden_state[:, 0] if vector is None else vector).flatten(1))
        return said

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits `(n, classes)`."""
        said: Tensor = self.expression(self.embed(pictures))
        return said

    def objective(self, views: Views) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss and its parts, over what is labelled."""
        vector = self.embed(views.labelled)
        expression = focal(
            self.expression(vector), views.labels, gamma=self.loss.gamma, weights=self.class_weight.to(vector)
        )
        known = torch.isfinite(views.affect)
        gap = torch.where(known, self.affect(vector).tanh() - torch.where(known, views.affect, 0.0), 0.0)
        rmse = (gap.square().sum() / known.sum().clamp_min(1) + 1e-12).sqrt() * known.any()
        loss = expression + self.loss.affect * rmse
        return loss, {"loss": loss.detach(), "expression": expression.detach(), "affect": rmse.detach()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Counts; what is not thawed yet has its gradient dropped before the step (`mien.training.semi_supervised`)."""
        self.steps += 1


def _network(config: Config) -> tuple[nn.Module, int]:
    import transformers

    name = {"efficientnet": "EfficientNet", "vit": "ViT", "resnet": "ResNet"}[config.network]
    kind = getattr(transformers, f"{name}Model")
    given = {"add_pooling_layer": False} if config.network == "vit" else {}
    if config.source:
        network = kind.from_pretrained(config.source, use_safetensors=True, **given)
    else:
        network = kind(getattr(transformers, f"{name}Config")(**config.options), **given)
    sizes = network.config
    width = {"efficientnet": "hidden_dim", "vit": "hidden_size", "resnet": "hidden_sizes"}[config.network]
    found = getattr(sizes, width)
    return network, int(found[-1] if isinstance(found, list) else found)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The network's longest list of layers."""
    lists = [list(module.children()) for module in network.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])


#: The name under which `mien.models` finds this file's system.
System = CnnStatic
