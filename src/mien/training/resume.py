"""What an unfinished run needs to go on exactly where it was: one safetensors file, no pickle.

Lightning's own checkpoints are pickles, which the house does not write. The state of a run between two
epochs is small and plain: weights, their average, the optimiser's tensors, and a few numbers; all
randomness follows from seed and epoch (of pictures: seed and step). The numbers travel in the file's
metadata, so that the file is written, and renamed, as one.
"""

from __future__ import annotations

import json
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
from mien.training.optim import WeightAverage

FILE = "unfinished.safetensors"


@dataclass(slots=True)
class RunState:
    """epochs: finished so far. best, best_epoch: highest score and when. waited: epochs since. history: a
    report per epoch. recipe: the resolved YAML. windows: training windows, to notice other data. unit, of: what is
    counted, where it is not epochs of windows."""

    recipe: str
    windows: int
    epochs: int = 0
    best: float | None = None
    best_epoch: int = 0
    waited: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    unit: str = "epochs"
    of: str = "training windows"


#: Progress, tensors by name, and steps the average has seen.
Earlier = tuple[RunState, dict[str, Tensor], int]


def write(
    folder: Path, model: nn.Module, optimiser: Optimizer, progress: RunState, average: WeightAverage | None = None
) -> None:
    """Write the state as it is now, beside and renamed."""
    tensors: dict[str, Tensor] = {f"model.{k}": v for k, v in model.state_dict().items()}
    if average:
        tensors |= {f"average.{k}": v for k, v in average.kept.items()}
    state = optimiser.state_dict()["state"]
    tensors |= {f"optimiser.{i}.{k}": v for i, values in state.items() for k, v in values.items()}
    metadata = {"progress": json.dumps(asdict(progress)), "averaged": str(average.steps if average else 0)}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / FILE) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)


def read(folder: Path) -> Earlier:
    """The state that `write` left. Raises ConfigError for a damaged file."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return RunState(**json.loads(metadata["progress"])), tensors, int(metadata["averaged"])
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{folder / FILE}: cannot be read as an unfinished run: {error}",
            remedy="Delete it and train again from the start.",
        ) from error


def restore(model: nn.Module, optimiser: Optimizer, found: Earlier, average: WeightAverage | None = None) -> None:
    """Put the state back, `found` by `earlier`, into what a run has made anew."""
    _, tensors, averaged = found
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
    for name, tensor in tensors.items():
        kind, _, key = name.partition(".")
        parts[kind][key] = tensor
    model.load_state_dict(parts["model"])
    if average:
        average.steps = averaged
        with torch.no_grad():
            for key, tensor in parts["average"].items():
                average.kept[key].copy_(tensor)
    state: dict[int, dict[str, Any]] = {}
    for key, tensor in parts["optimiser"].items():
        index, _, what = key.partition(".")
        state.setdefault(int(index), {})[what] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def earlier(out: Path, now: RunState, resume: bool) -> Earlier | None:
    """The unfinished run in `out`, or None. Raises ConfigError if it may not or cannot go on."""
    if not (out / FILE).exists():
        return None
    found = read(out)
    if not resume:
        raise ConfigError(
            f"{out}: an unfinished run stands there, {found[0].epochs} {found[0].unit} done",
            follows="Nothing was started, so that it is not lost.",
            remedy="Resume it, choose another folder, or delete it.",
        )
    if found[0].recipe != now.recipe:
        raise config.refusal(f"resuming {out}", config.differences(found[0].recipe, now.recipe))
    if found[0].windows != now.windows:
        raise ConfigError(
            f"resuming {out}: there are {now.windows} {now.of} now, it began with {found[0].windows}",
            remedy="Resume with the same data, or start again in another folder.",
        )
    return found
