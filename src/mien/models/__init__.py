"""The published systems, one file each. `model.name` in a recipe is the file's name without `.py`.

Each file holds

* `Config`: the keys of the recipe's `model` section, typed;
* `Objective`: the keys of its `objective` section;
* a subclass of `mien.layers.system.StreamSystem` or `ImageSystem`, assigned to the name `System` and made as
  `System(config, objective)`. `mien.layers.system.System` documents every hook.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import ValidationError

from mien import config
from mien.errors import ConfigError
from mien.labels import SCORE_TASKS, TASKS
from mien.layers.system import System

#: Keys of a `Config` that follow from other sections of the recipe.
DERIVED_KEYS = {"inputs": "features", "classes": "corpus.labels", "rate_hz": "windows.rate_hz"}


def names() -> list[str]:
    """Names of all systems."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__))


def problems(raw: Mapping[str, Any]) -> list[str]:
    """Check the `model` and `objective` sections of a raw recipe; a line for each problem. See `config.load`."""
    model = raw.get("model")
    if not isinstance(model, Mapping) or not isinstance(name := model.get("name"), str):
        return []  # `config.Recipe` reports this
    if name not in names():
        return [f"model.name: no such system: {name!r}{config.nearest(name, names())}"]
    options = {key: value for key, value in model.items() if key != "name"}
    lines = [
        f"model.{key}: not set here; it follows from {DERIVED_KEYS[key]}" for key in DERIVED_KEYS if key in options
    ]
    module = _module(name)
    features = raw.get("features")
    mouth = config.mouth_feature(raw)
    inputs = (
        {str(k): 1 for k in features if k != mouth}
        if isinstance(features, Mapping) and features
        else {"face": 1, "voice": 1}
    )
    model_values = {"inputs": inputs} | {k: v for k, v in options.items() if k not in DERIVED_KEYS}
    for record, values, prefix in (
        (module.Config, model_values, "model"),
        (module.Objective, raw.get("objective") or {}, "objective"),
    ):
        try:
            record.model_validate(values)
        except ValidationError as error:
            lines += config.explain(error, record, prefix)
    return lines


def build(recipe: config.Recipe) -> System[Any]:
    """Create the system that a recipe describes, with random weights from torch's generator.

    Raises ConfigError with every problem; a feature whose `dim` is null is one.
    """
    lines = problems(recipe.model_dump())
    lines += [
        f"features.{name}.dim: not known yet; training fills it in from the recordings"
        for name, feature in recipe.inputs.items()
        if feature.dim is None
    ]
    if lines:
        raise config.refusal(f"model {recipe.model.name}", lines)
    module = _module(recipe.model.name)
    settings = module.Config(
        **recipe.model.options,
        inputs={name: feature.dim for name, feature in recipe.inputs.items()},
        classes=len(recipe.corpus.labels),
        rate_hz=recipe.windows.rate_hz,
    )
    system: System[Any] = module.System(settings, module.Objective(**recipe.objective))
    return system


def system_class(recipe: config.Recipe) -> type[System[Any]]:
    """The class of the system that `model.name` names."""
    system: type[System[Any]] = _module(recipe.model.name).System
    return system


def score_tasks(recipe: config.Recipe) -> tuple[str, ...]:
    """Score tasks (`mien.labels.SCORE_TASKS`) that a recipe trains: those whose loss has a weight above 0."""
    objective = complete(recipe).objective
    possible = system_class(recipe).possible_score_tasks
    return tuple(task for task in possible if objective[SCORE_TASKS[task].objective] > 0)


def predicts_expression(recipe: config.Recipe) -> bool:
    """Whether a recipe trains expressions."""
    return system_class(recipe).predicts_expression and complete(recipe).objective.get("expression", 1) != 0


def check_task(recipe: config.Recipe, task: str | None) -> None:
    """Check that a recipe trains the task that selects labels and splits. None and `va` pass.

    Raises ConfigError for an unknown task, one without training data, or a score task that the recipe does not train.
    """
    follows = "Nothing was trained."
    if task is not None and task not in TASKS:
        raise ConfigError(f"no task is called {task!r}", follows=follows, remedy=f"Use one of {', '.join(TASKS)}.")
    if task not in SCORE_TASKS or task in score_tasks(recipe):
        return
    title, key, name = SCORE_TASKS[task].title, SCORE_TASKS[task].objective, recipe.model.name
    if not key:
        remedy = (
            "Train with --task expr, and give --task ce to mien evaluate, or the sample of the CE track to mien submit."
        )
        raise ConfigError(
            f"{title} have no training set: they are derived from expressions", follows=follows, remedy=remedy
        )
    if task in system_class(recipe).possible_score_tasks:
        remedy = f"Add objective.{key}=1 (and objective.expression=0 to train nothing but scores)."
    else:
        able = [n for n in names() if task in _module(n).System.possible_score_tasks]
        remedy = f"Use a recipe of {' or '.join(able)} with objective.{key}=1."
    raise ConfigError(
        f"--task {task}: {name} is not trained for {title} by this recipe", follows=follows, remedy=remedy
    )


def complete(recipe: config.Recipe) -> config.Recipe:
    """The recipe with every key of `model` and `objective` written out, as a checkpoint keeps it."""
    module = _module(recipe.model.name)
    inputs = {name: feature.dim or 1 for name, feature in recipe.inputs.items()}
    settings = module.Config(**recipe.model.options, inputs=inputs)
    model = {key: value for key, value in settings.model_dump().items() if key not in DERIVED_KEYS}
    objective = module.Objective(**recipe.objective).model_dump()
    return config.changed(recipe, model=model, objective=objective)


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name}")
