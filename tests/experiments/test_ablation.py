"""The ablation's variants are recipes, and its table says what was measured."""

from __future__ import annotations

import pytest

from experiments.ablation import CONDITIONS, SMALLER, TRAINED, table
from mien import config, models


@pytest.mark.parametrize("name", TRAINED)
def test_every_variant_of_the_ablation_is_a_recipe(name: str) -> None:
    recipe = config.load("starter", [*SMALLER, *TRAINED[name]], check=models.problems)
    whole = models.complete(config.load("starter", [*SMALLER], check=models.problems))
    assert name == "full" or models.complete(recipe) != whole


def test_the_table_is_mean_and_deviation_over_seeds() -> None:
    results = {"full": {c: [0.5, 0.7] for c in CONDITIONS}, "voice only": {"no face": [0.4, 0.4]}}
    lines = table(results).splitlines()
    assert lines[2].startswith("| full | 0.600 ± 0.141 |")
    assert "0.400 ± 0.000" in lines[3]
    assert lines[3].count("–") == len(CONDITIONS) - 1
