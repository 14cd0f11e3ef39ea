"""Comments of the recipes: every setting of a published system says where its value comes from."""

from __future__ import annotations

import pytest

from mien import config, recipe_facts
from mien.recipe_facts import Setting, problems, published, settings

RECIPE = """
paper: {title: t, arxiv: "1", differs: ["fewer layers (model.layers)"]}
features:
  face: {encoder: a, dim: 3} # as published: both
model:
  name: m
  layers: 2 # ours, because two are faster
  prompt: |- # as published
    Describe the face,
    # in words.
  sizes:
    - 4 # as published
    - 8 # not known; ours, because 8 is larger
train:
  threads: 2 # ours, because the same number gives the same weights
  seed: "#1" # not used by this system
vote:
  smooth_seconds: 0.0 # as published
"""


def text_of(name: str) -> str:
    return config.locate(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", published())
def test_every_setting_of_a_published_system_says_where_it_comes_from(name: str) -> None:
    assert problems(name, text_of(name)) == []


@pytest.mark.parametrize("name", published())
def test_no_setting_of_a_recipe_is_left_out(name: str) -> None:
    """Every value that the recipe's record has lies in, or at, a setting of the table."""
    explained = [s.key for s in settings(text_of(name))]
    assert len(explained) == len(set(explained))
    for key in config.flat(config.load(name)):
        if key.split(".")[0] in recipe_facts.SECTIONS and key != "model.name":
            assert any(key == known or key.startswith(f"{known}.") for known in explained), key


def test_every_recipe_is_published_or_our_own() -> None:
    assert set(recipe_facts.OWN) <= set(config.names()), "the list names recipes that are there"
    assert sorted([*published(), *recipe_facts.OWN]) == sorted(config.names())


def test_settings_are_read_with_their_comments() -> None:
    assert settings(RECIPE) == [
        Setting("features.face", "{encoder: a, dim: 3}", "as published: both"),
        Setting("model.layers", "2", "ours, because two are faster"),
        Setting("model.prompt", "Describe the face, # in words.", "as published"),
        Setting("model.sizes.0", "4", "as published"),
        Setting("model.sizes.1", "8", "not known; ours, because 8 is larger"),
        Setting("train.threads", "2", "ours, because the same number gives the same weights"),
        Setting("train.seed", '"#1"', "not used by this system"),
        Setting("vote.smooth_seconds", "0.0", "as published"),
    ]
    assert [s.source for s in settings(RECIPE)[:2]] == [("as published", "both"), ("**ours**", "two are faster")]
    assert problems("r", RECIPE) == []
    assert problems("r", RECIPE.replace("(model.layers)", "(features, model)"))[-1].startswith(
        "r: paper.differs names features"
    )
    assert problems("r", RECIPE.replace("(model.layers)", "(model)")) == [], "a key names all settings below it"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (" # ours, because two are faster", "", "r: model.layers: the comment '' has none of the known forms"),
        ("ours, because two", "ours: two", "r: model.layers: the comment 'ours: two are faster' has none"),
        ("0.0 # as published", "0.0 # as published?", "r: vote.smooth_seconds: the comment 'as published?' has none"),
        ("(model.layers)", "", "r: paper.differs does not name model.layers, which is ours"),
        ("(model.layers)", "(model.layers, model.depth)", "r: paper.differs names model.depth, which is no setting"),
        ("0.0 # as published", "0.0 # ours, because it is sharp", "r: paper.differs does not name vote.smooth_seconds"),
        ("(model.layers)", "(model.layers, vote.smooth_seconds)", "r: paper.differs names vote.smooth_seconds, which"),
    ],
)
def test_what_is_missing_or_wrong_is_named(old: str, new: str, problem: str) -> None:
    found = problems("r", RECIPE.replace(old, new))
    assert any(line.startswith(problem) for line in found), found
