"""The published systems, one file each. `model.name` in a recipe is the file's stem.

Each file holds `Config` (what the recipe's `model` section may say), `Objective` (its `objective`
section) and `System(config, objective)`, a module with

* `forward(values, valid) -> Output` with `logits`, `valence_arousal`, `evidence`;
* `objective(batch) -> (loss, logs)`;
* `prepare(mean, deviation, counts)`, told once what the training data looks like, and `normalisation()`,
  which says so again;
* if it has something to fit when its weights are found (a fusion, a forest): `settle(batches, measures)`, and
  `fit_machines(batches)` before it, see `mien.layers.ensemble` and `mien.training.fit`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import ValidationError
from torch import nn

from mien import config

#: Keys of a `Config` that other sections of the recipe decide.
GIVEN = {"inputs": "features", "classes": "corpus.labels", "rate_hz": "windows.rate_hz"}


def names() -> list[str]:
    """The systems there are: the file stems in this folder."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def problems(raw: Mapping[str, Any]) -> list[str]:
    """What is wrong with the `model` and `objective` sections of a raw recipe: one line each. The `check` of
    `mien.config.load`."""
    model = raw.get("model")
    if not isinstance(model, Mapping) or not isinstance(name := model.get("name"), str):
        return []  # the recipe's own record says so already
    if name not in names():
        return [f"model.name: no such system: {name!r}{config.nearest(name, names())}"]
    options = {key: value for key, value in model.items() if key != "name"}
    found = [f"model.{key}: not set here; it follows from {GIVEN[key]}" for key in GIVEN if key in options]
    module = _module(name)
    features = raw.get("features")
    inputs = {str(k): 1 for k in features} if isinstance(features, Mapping) and features else {"face": 1, "voice": 1}
    given = {"inputs": inputs} | {k: v for k, v in options.items() if k not in GIVEN}
    for record, values, prefix in (
        (module.Config, given, "model"),
        (module.Objective, raw.get("objective") or {}, "objective"),
    ):
        try:
            record.model_validate(values)
        except ValidationError as error:
            found += config.explain(error, record, prefix)
    return found


def build(recipe: config.Recipe) -> nn.Module:
    """The system a recipe describes, with fresh weights from torch's generator.

    Raises ConfigError listing every problem, among them features whose `dim` is still null.
    """
    found = problems(recipe.model_dump())
    found += [
        f"features.{name}.dim: not known yet; training fills it in from the recordings"
        for name, feature in recipe.features.items()
        if feature.dim is None
    ]
    if found:
        raise config.refusal(f"model {recipe.model.name}", found)
    module = _module(recipe.model.name)
    settings = module.Config(
        **recipe.model.options,
        inputs={name: feature.dim for name, feature in recipe.features.items()},
        classes=len(recipe.corpus.labels),
        rate_hz=recipe.windows.rate_hz,
    )
    system: nn.Module = module.System(settings, module.Objective(**recipe.objective))
    return system


def system(recipe: config.Recipe) -> type[nn.Module]:
    """The class that `model.name` means."""
    found: type[nn.Module] = _module(recipe.model.name).System
    return found


def complete(recipe: config.Recipe) -> config.Recipe:
    """The recipe with every key of `model` and `objective` written out, defaults included: what a
    checkpoint keeps."""
    module = _module(recipe.model.name)
    inputs = {name: feature.dim or 1 for name, feature in recipe.features.items()}
    settings = module.Config(**recipe.model.options, inputs=inputs)
    model = {key: value for key, value in settings.model_dump().items() if key not in GIVEN}
    objective = module.Objective(**recipe.objective).model_dump()
    return config.changed(recipe, model=model, objective=objective)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
