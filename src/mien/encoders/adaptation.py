"""Choose which weights of a transformer encoder are trained: LoRA updates, or its last blocks.

Source of LoRA: Hu et al. 2021, arXiv 2106.09685, in the library peft. All linear layers of the blocks get an update
(our choice, because Dettmers et al. 2023, arXiv 2305.14314, section 4, found that adapters of attention alone fall
behind). Updates start at zero, so training begins with the base network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mien import extras
from mien.errors import ConfigError

#: Linear layers that get no update: the gate of WavLM's position bias has 8 outputs, fewer than a usual rank.
_EXCLUDED = ("gru_rel_pos_linear",)
#: Name of the update in peft.
_ADAPTER = "default"


def find_blocks(network: nn.Module, name: str) -> tuple[str, nn.ModuleList]:
    """Path and list of a network's transformer blocks: its longest list of modules with linear layers.

    Raises ConfigError for a network without, such as a CNN. name: of the encoder, for the error.
    """
    lists = [
        (path, module)
        for path, module in network.named_modules()
        if isinstance(module, nn.ModuleList)
        and all(any(isinstance(part, nn.Linear) for part in block.modules()) for block in module)
    ]
    if not lists:
        raise ConfigError(
            f"{name} has no transformer blocks, so neither LoRA nor its last blocks can be trained",
            follows="Nothing was trained.",
            remedy="Tune a transformer, such as beit-large, clip-vit-b32, dinov2-large, wavlm-large or wav2vec2-base.",
        )
    return max(lists, key=lambda item: len(item[1]))


def add_lora(network: nn.Module, name: str, *, rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Add an update of `rank` to each linear layer of the blocks, in place; only the updates are trainable.

    The update of a layer is `alpha / rank * B A`, with A `(rank, in)` and B `(out, rank)`; B starts at zero. dropout:
    of its input.

    Raises ConfigError if peft is not installed or the network has no blocks.
    """
    path, blocks = find_blocks(network, name)
    extras.require(
        "peft", "LoRA", follows="Nothing was trained.", instead="Or train the last blocks instead (--last-blocks)."
    )
    from peft import LoraConfig, inject_adapter_in_model

    targets = [
        f"{path}.{part}"
        for part, module in blocks.named_modules()
        if isinstance(module, nn.Linear) and not part.endswith(_EXCLUDED)
    ]
    network.requires_grad_(False)
    settings = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets)  # type: ignore[arg-type]
    inject_adapter_in_model(settings, network, adapter_name=_ADAPTER)


def train_last_blocks(network: nn.Module, name: str, count: int) -> None:
    """Make the last `count` blocks trainable, and nothing else. Raises ConfigError if there are fewer."""
    _, blocks = find_blocks(network, name)
    if not 1 <= count <= len(blocks):
        raise ConfigError(
            f"{name} has {len(blocks)} blocks; {count} cannot be trained",
            follows="Nothing was trained.",
            remedy=f"Use a number from 1 to {len(blocks)}.",
        )
    network.requires_grad_(False)
    blocks[-count:].requires_grad_(True)


@torch.no_grad()
def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """State of a network with its LoRA updates added to the weights, under the names of the base network.

    The network is not changed. Weights without an update are not copied.
    """
    state: dict[str, Tensor] = {}
    updated = {path: module for path, module in network.named_modules() if _has_update(module)}
    for key, value in network.state_dict().items():
        if "lora_" in key:
            continue
        plain = key.replace(".base_layer.", ".")
        module: Any = updated.get(key.removesuffix(".base_layer.weight")) if key.endswith("weight") else None
        state[plain] = value if module is None else value + module.get_delta_weight(_ADAPTER).to(value.dtype)
    return state


def _has_update(module: nn.Module) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "get_delta_weight")
