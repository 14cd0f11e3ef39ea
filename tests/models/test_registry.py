"""Building a system from a recipe: names, typed options, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mien import config, models
from mien.errors import ConfigError


def raw(**sections: Any) -> dict[str, Any]:
    return {
        "paper": {"title": "t", "arxiv": "1"},
        "corpus": {"name": "synthetic"},
        "features": {"face": {"encoder": "f", "dim": 5}, "voice": {"encoder": "v", "dim": 3}},
        "windows": {},
        "model": {"name": "safe_cross_attention", "dim": 8, "heads": 2, "layers": 1},
        "train": {},
        "vote": {},
    } | sections


def test_build_finds_the_system_by_name() -> None:
    assert "safe_cross_attention" in models.names()
    recipe = config.read(raw(corpus={"name": "x", "labels": ["a", "b", "c"]}), origin="here", check=models.problems)
    model = models.build(recipe)
    out = model({"face": torch.randn(1, 2, 5)}, {"face": torch.ones(1, 2) > 0})
    assert out.logits.shape == (1, 2, 3)
    assert model.config.rate_hz == recipe.windows.rate_hz


def test_all_problems_of_all_sections_are_reported_at_once() -> None:
    bad = raw(
        model={"name": "safe_cross_attention", "dims": 8, "heads": 0, "classes": 9, "modality_dropout": {"hole": {}}},
        objective={"gama": 1.0, "loss": "focall"},
        train={"epoch": 3},
    )
    with pytest.raises(ConfigError) as error:
        config.read(bad, origin="my.yaml", check=models.problems)
    text = str(error.value)
    assert text.startswith("my.yaml: 7 problems")
    for line in (
        'train.epoch: unknown key; did you mean "epochs"?',
        "model.classes: not set here; it follows from corpus.labels",
        'model.dims: unknown key; did you mean "dim"?',
        "model.heads: input should be greater than or equal to 1, got 0",
        'model.modality_dropout.hole: unknown key; did you mean "whole"?',
        'objective.gama: unknown key; did you mean "gamma"?',
        "objective.loss: input should be 'focal' or 'cross_entropy', got 'focall'",
    ):
        assert line in text


def test_an_unknown_system_suggests_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match="no such system: 'safe_crossattention'; did you mean \"safe_cross_attention\""
    ):
        config.read(raw(model={"name": "safe_crossattention"}), origin="x", check=models.problems)


def test_building_without_widths_is_refused() -> None:
    recipe = config.read(raw(features={"face": {"encoder": "f"}}), origin="x", check=models.problems)
    with pytest.raises(ConfigError, match=r"features.face.dim: not known yet"):
        models.build(recipe)


def test_complete_writes_every_key_and_changes_nothing() -> None:
    recipe = config.read(raw(), origin="x", check=models.problems)
    full = models.complete(recipe)
    assert full.model.options["feedforward"] == 4.0
    assert full.objective["gamma"] == 2.0
    assert "inputs" not in full.model.options
    assert models.complete(full) == full
    torch.manual_seed(0)
    a = models.build(recipe).state_dict()
    torch.manual_seed(0)
    b = models.build(full).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", config.names())
def test_shipped_recipes_are_complete(name: str) -> None:
    """Every key written out: reading adds nothing."""
    import yaml

    recipe = config.load(name, check=models.problems)
    with open(config.locate(name), encoding="utf-8") as file:
        written = yaml.safe_load(file)

    def keys(value: Any, path: str = "") -> set[str]:
        if not isinstance(value, dict):
            return {path}
        return {path} | {k for name, inner in value.items() for k in keys(inner, f"{path}.{name}")}

    if recipe.model.name in models.names():
        recipe = models.complete(recipe)
    assert keys(recipe.model_dump()) - keys(written) == set()
