"""Ablation: each variant is a valid recipe, and the table has mean and deviation."""

from __future__ import annotations

import pytest

from experiments.ablation import CONDITIONS, SMALLER, TRAINED, table
from mien import config, models


@pytest.mark.parametrize("name", TRAINED)
def test_every_variant_is_a_valid_recipe_that_differs_from_the_full_model(name: str) -> None:
    recipe = config.load("synthetic", [*SMALLER, *TRAINED[name]], check=models.problems)
    full = models.complete(config.load("synthetic", [*SMALLER], check=models.problems))
    assert name == "full" or models.complete(recipe) != full


def test_the_table_shows_mean_and_deviation_over_seeds() -> None:
    results = {"full": {c: [0.5, 0.7] for c in CONDITIONS}, "voice only": {"no face": [0.4, 0.4]}}
    lines = table(results).splitlines()
    assert lines[2].startswith("| full | 0.600 ± 0.141 |")
    assert "0.400 ± 0.000" in lines[3]
    assert lines[3].count("–") == len(CONDITIONS) - 1
