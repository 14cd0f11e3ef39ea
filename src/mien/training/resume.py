"""The state of an unfinished run in one safetensors file, written between two epochs.

Fabric's and PyTorch's own checkpoints are pickles, which mien does not write. The state is small and plain: weights,
their average, the optimiser's tensors, and a few numbers in the file's metadata. Everything random follows from seed
and epoch.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from mien import config
from mien.atomic import atomic_path
from mien.errors import ConfigError
from mien.training.ema import WeightAverage

FILE = "unfinished.safetensors"


@dataclass(slots=True)
class RunState:
    """Progress of a training run.

    recipe: the resolved YAML. size, counted: number of training windows or images, and which, to notice other data.
    epochs, steps: finished so far. best, best_epoch: highest validation score and its epoch. waited: epochs since.
    history: a report for each epoch.
    """

    recipe: str
    size: int
    counted: str
    epochs: int = 0
    steps: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SavedRun:
    """Saved state of an unfinished run. tensors: by name. averaged_steps: updates of the weight average."""

    state: RunState
    tensors: dict[str, Tensor]
    averaged_steps: int


def write(folder: Path, model: nn.Module, optimiser: Optimizer, state: RunState, average: WeightAverage) -> None:
    """Write the current state of a run atomically. Raises OutputError."""
    fixed = _fixed(model)
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items() if k not in fixed}
    tensors |= {f"average.{k}": v for k, v in average.averages.items()}
    moments = optimiser.state_dict()["state"]
    tensors |= {f"optimiser.{i}.{k}": v for i, values in moments.items() for k, v in values.items()}
    metadata = {"state": json.dumps(asdict(state)), "averaged_steps": str(average.steps)}
    with atomic_path(folder / FILE) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
        _sync(temporary)


def begin(folder: Path, state: RunState) -> None:
    """Mark a run as begun: what a killed process saves after this is of an unfinished run. Raises OutputError."""
    with atomic_path(folder / FILE) as temporary:
        save_file({}, temporary, metadata={"state": json.dumps(asdict(state)), "averaged_steps": "0"})
        _sync(temporary)


def _sync(path: Path) -> None:
    """Flush a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read(folder: Path) -> SavedRun:
    """The run that `write` saved. Raises ConfigError for a damaged file."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return SavedRun(RunState(**json.loads(metadata["state"])), tensors, int(metadata["averaged_steps"]))
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"{folder / FILE}: cannot be read as an unfinished run: {error}",
            follows="Nothing was started.",
            remedy="Delete it and train again from the start.",
        ) from error


@torch.no_grad()
def restore(model: nn.Module, optimiser: Optimizer, saved: SavedRun, average: WeightAverage) -> None:
    """Load a saved run into the model, optimiser and average of a run that was set up in the same way."""
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
    for name, tensor in saved.tensors.items():
        kind, _, key = name.partition(".")
        parts[kind][key] = tensor
    kept = {name: tensor for name, tensor in model.state_dict().items() if name in _fixed(model)}
    model.load_state_dict(kept | parts["model"])
    average.steps = saved.averaged_steps
    for key, tensor in parts["average"].items():
        average.averages[key].copy_(tensor)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in parts["optimiser"].items():
        index, _, field_name = key.partition(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:  # fused optimisers need moments in the memory layout of the parameter
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(int(index), {})[field_name] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _fixed(model: nn.Module) -> set[str]:
    """Names of the weights of a pretrained network that is not trained (`System.has_fixed_base`); they can be large."""
    if not getattr(model, "has_fixed_base", False):
        return set()
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def find(out: Path, now: RunState, resume: bool) -> SavedRun | None:
    """The unfinished run in `out`, or None.

    Args:
        now: the state of a run that would begin now, to compare recipe and data with.
        resume: whether the caller asked to resume.

    A run that was stopped in its first epoch has nothing to go on with; it begins again.

    Raises ConfigError if there is an unfinished run that was not asked for, or of another recipe or other data.
    """
    if not (out / FILE).exists():
        return None
    saved = read(out)
    state = saved.state
    if not state.epochs:
        return None
    if not resume:
        raise ConfigError(
            f"{out}: there is an unfinished run, {state.epochs} epochs ({state.steps} steps) done",
            follows="Nothing was started, so that it is not lost.",
            remedy="Resume it, choose another folder, or delete it.",
        )
    if state.recipe != now.recipe:
        raise config.refusal(f"resuming {out}", config.differences(state.recipe, now.recipe))
    if state.size != now.size:
        raise ConfigError(
            f"resuming {out}: there are {now.size} {now.counted} now, the run began with {state.size}",
            follows="Nothing was started.",
            remedy="Resume with the same data, or start again in another folder.",
        )
    return saved
