"""Zero-shot classification: a prompted system compares faces with text prompts of classes it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from mien import config
from mien.checkpoint import Checkpoint
from mien.encoders.registry import create, format_spec
from mien.errors import ConfigError
from mien.layers.system import StreamSystem, System
from mien.records import Batch, Output

_NOTHING = "Nothing was computed."


def read_prompts(path: Path, template: str) -> dict[str, str]:
    """Reads prompts by label from a text file.

    A line is `label`, which is inserted into `template`, or `label: prompt`. Empty lines and lines starting with # are
    skipped.

    Raises ConfigError for a file that cannot be read, a repeated label, or fewer than two labels.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}",
            follows=_NOTHING,
            remedy="Give --prompts a text file, one label per line.",
        ) from None
    prompts: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        label, colon, prompt = (part.strip() for part in line.partition(":"))
        if not label or label.startswith("#"):
            continue
        if label in prompts:
            raise ConfigError(
                f"{path}:{number}: the label {label!r} is given twice",
                follows=_NOTHING,
                remedy="Give each label one line.",
            )
        prompts[label] = prompt if colon and prompt else template.format(label=label.lower())
    if len(prompts) < 2:
        raise ConfigError(
            f"{path} names {len(prompts)} labels", follows=_NOTHING, remedy="Give two or more labels, one per line."
        )
    return prompts


class _PromptedSystem(System[Batch]):
    """Prompted system whose logits are similarities to other prompts than those of training."""

    input_kind = "streams"

    def __init__(self, system: StreamSystem, embeddings: Tensor) -> None:
        super().__init__()
        self.system = system
        self.predicts_valence_arousal = system.predicts_valence_arousal
        self.system.set_prompts(embeddings)

    def forward(self, values: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Output:
        out: Output = self.system(values, valid)
        logits = self.system.prompt_logits(values, valid)
        has_face = valid["face"].any(dim=1) if "face" in valid else torch.zeros(len(logits), dtype=torch.bool)
        logits = logits.masked_fill(~has_face[:, None], 0.0)
        return replace(out, logits=logits[:, None].expand(-1, out.logits.shape[1], -1))


def with_prompts(checkpoint: Checkpoint, prompts: Mapping[str, str], *, device: str = "cpu") -> Checkpoint:
    """Checkpoint that predicts the labels of `prompts` instead of its own.

    Probabilities are the softmax of the scaled cosine similarities of a window's faces and each prompt; uniform for a
    window without faces.

    Raises ConfigError for a system without a text encoder.
    """
    objective = checkpoint.recipe.objective
    if not checkpoint.model.uses_prompts:
        raise ConfigError(
            f"{checkpoint.recipe.model.name} does not support prompts",
            follows=_NOTHING,
            remedy="Use a checkpoint of prompted_tcn, which compares faces with text.",
        )
    if not objective.get("text"):
        raise ConfigError(
            "this run was trained without a text encoder (objective.text is null)",
            follows=_NOTHING,
            remedy="Train with objective.text=clip-text-b32.",
        )
    encoder: Any = create(format_spec(objective["text"], objective.get("text_options") or {}), device=device)
    embeddings: np.ndarray = encoder.encode_prompts(list(prompts.values()))
    labels = list(prompts)
    recipe = config.changed(checkpoint.recipe, corpus={"labels": labels})
    return replace(
        checkpoint,
        model=_PromptedSystem(cast(StreamSystem, checkpoint.model), torch.from_numpy(embeddings)),
        recipe=recipe,
        labels=labels,
    )
