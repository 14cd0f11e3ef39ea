"""Labels that nobody trained on: a prompted system compares faces with whatever words it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mien import config
from mien.checkpoint import Checkpoint
from mien.encoders.registry import create, spec_of
from mien.errors import ConfigError
from mien.records import Output


def read_prompts(path: Path, template: str) -> dict[str, str]:
    """label -> prompt. A line of the file is `label` (which goes into `template`) or `label: prompt`; empty lines and
    lines that begin with # are passed over. Raises ConfigError for a file that cannot be read, a label given twice, or
    fewer than two."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", remedy="--prompts names a text file, a label a line") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        label, colon, prompt = (part.strip() for part in line.partition(":"))
        if not label or label.startswith("#"):
            continue
        if label in found:
            raise ConfigError(f"{path}:{number}: the label {label!r} is given twice", remedy="one line a label")
        found[label] = prompt if colon and prompt else template.format(label=label.lower())
    if len(found) < 2:
        raise ConfigError(f"{path} names {len(found)} labels", remedy="two or more, a line each")
    return found


class _Prompted(nn.Module):
    """Answers with similarities to other prompts than those it was trained with."""

    def __init__(self, system: Any, embeddings: Tensor) -> None:
        super().__init__()
        self.system = system
        self.system.set_prompts(embeddings)

    def forward(self, values: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Output:
        out: Output = self.system(values, valid)
        near = self.system.similarity(values, valid) * self.system.loss.scale
        seen = valid["face"].any(dim=1) if "face" in valid else torch.zeros(len(near), dtype=torch.bool)
        near = near.masked_fill(~seen[:, None], 0.0)
        return replace(out, logits=near[:, None].expand(-1, out.logits.shape[1], -1))


def with_prompts(trained: Checkpoint, prompts: Mapping[str, str], *, device: str = "cpu") -> Checkpoint:
    """The checkpoint naming the labels of `prompts`, which need not be those it was trained on: softmax of the scaled
    cosines between a window's faces and each prompt. A window without faces is even.

    Raises ConfigError for a system that knows no words, or that was trained without a text encoder.
    """
    objective = trained.recipe.objective
    if not hasattr(trained.model, "similarity"):
        raise ConfigError(
            f"{trained.recipe.model.name} knows no words",
            follows="prompts mean nothing to it",
            remedy="train prompted_tcn, which compares faces with them",
        )
    if not objective.get("text"):
        raise ConfigError(
            "this run was trained without a text encoder (objective.text is null)",
            follows="its classes are no words, and other words are no classes",
            remedy="train with objective.text=clip-text-b32",
        )
    encoder: Any = create(spec_of(objective["text"], objective.get("text_options") or {}), device=device)
    rows: np.ndarray = encoder.encode_prompts(list(prompts.values()))
    labels: Sequence[str] = list(prompts)
    recipe = config.changed(trained.recipe, corpus={"labels": labels})
    return replace(trained, model=_Prompted(trained.model, torch.from_numpy(rows)), recipe=recipe, labels=list(labels))
