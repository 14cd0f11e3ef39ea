"""Recipes: strict, all errors at once, overrides, and a resolved copy that reads back."""

from __future__ import annotations

from pathlib import Path

import pytest

from mien import config
from mien.errors import ConfigError

GOOD = """
paper: {title: t, arxiv: "2603.08034", reported: {val_macro_f1: .5}}
corpus: {name: synthetic}
features:
  face: {encoder: face-geometry}
windows: {seconds: 2}
model: {name: safe_cross_attention, dim: 8}
train: {lr: 1e-4}
vote: {}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


def test_a_recipe_is_typed_and_defaults_are_filled(recipe: Path) -> None:
    r = config.load(recipe)
    assert r.train.lr == 1e-4
    assert isinstance(r.train.lr, float)
    assert r.windows.seconds == 2.0
    assert r.model.options == {"dim": 8}
    assert r.corpus.labels[0] == "Neutral"


def test_overrides_are_yaml_and_reach_any_depth(recipe: Path) -> None:
    r = config.load(
        recipe,
        ["train.lr=3e-5", "model.modality_dropout.whole={face: 0.2}", "features.voice.encoder=v", "train.clip=2"],
    )
    assert r.train.lr == 3e-5
    assert r.train.clip == 2
    assert r.model.options["modality_dropout"] == {"whole": {"face": 0.2}}
    assert r.features["voice"].encoder == "v"


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "paper: {title: x}\ncorpus: {name: 3, labels: [a]}\nfeatures: {face: {encodr: g}}\nwindws: {}\n"
        "windows: {seconds: 1.0, hop_seconds: 3.0}\nmodel: {name: m}\ntrain: {lr: -1, seed: 1.5}\nvote: {}\n"
    )
    with pytest.raises(ConfigError) as error:
        config.load(path, ["train.epoch=3", "nonsense", "train.lr.x=1"])
    text = str(error.value)
    assert text.startswith(f"{path}: 12 problems\n")
    for line in (
        "override 'nonsense': write it as key.path=value, for example train.lr=1e-4",
        "override 'train.lr.x=1': train.lr is a value, not a section",
        "paper.arxiv: missing",
        "corpus.name: input should be a valid string, got 3",
        "corpus.labels: list should have at least 2 items after validation, not 1, got ['a']",
        "features.face.encoder: missing",
        'features.face.encodr: unknown key; did you mean "encoder"?',
        "windows: hop_seconds 3.0 is longer than the window (1.0 s)",
        "train.lr: input should be greater than 0, got -1",
        "train.seed: input should be a valid integer, got 1.5",
        'train.epoch: unknown key; did you mean "epochs"?',
        'windws: unknown key; did you mean "windows"?',
    ):
        assert line in text
    assert "Nothing was started." in text
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paper: [\n", r"not valid YAML: line 2, column 1"),
        ("train: {lr: 1, lr: 2}\n", r'not valid YAML: line 1, column 16: key "lr" given twice'),
        ("- a\n", "a recipe is a mapping of sections, got list"),
        ("a: !!python/object/apply:os.system [echo]\n", "not valid YAML: .*could not determine a constructor"),
    ],
)
def test_what_is_no_recipe_is_said_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        config.load(path)


def test_a_name_that_is_none_says_which_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="recipe 'startr': no such file, and no recipe of that name; did you mean \"starter\""
    ):
        config.load("startr")
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as a recipe"):
        config.load(tmp_path / "x.yaml")


def test_numbers_as_people_write_them(recipe: Path) -> None:
    for text, value in (("1e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("1.5e+3", 1500.0), ("-2e-1", None)):
        if value is None:
            with pytest.raises(ConfigError, match=r"train.lr: input should be greater than 0, got -0.2"):
                config.load(recipe, [f"train.lr={text}"])
        else:
            assert config.load(recipe, [f"train.lr={text}"]).train.lr == value
    for text in (".inf", ".nan", "fast", "null"):
        with pytest.raises(ConfigError, match=r"train.lr"):
            config.load(recipe, [f"train.lr={text}"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            "[Happy, happy]",
            "corpus.labels: the classes 'Happy' and 'happy' share the column p_happy; rename one of them",
        ),
        ("[a b, c, a_b]", "corpus.labels: the classes 'a b' and 'a_b' share the column p_a_b; rename one of them"),
        ("[a, a]", "corpus.labels: the classes 'a' and 'a' share the column p_a; rename one of them"),
        ("[a, '']", "corpus.labels: the name of class 2 is empty (''); give every class a name"),
        ('[a, "b\\nc"]', "corpus.labels: the class name 'b\\nc' holds a line break or control character; remove it"),
    ],
)
def test_classes_that_cannot_have_columns_are_a_problem_of_the_recipe(recipe: Path, labels: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        config.load(recipe, [f"corpus.labels={labels}", "train.lr=-1"])
    lines = str(error.value).splitlines()
    assert lines[0].endswith(": 2 problems")
    assert f"  {message}" in lines


def test_classes_may_have_any_letters_and_spaces(recipe: Path) -> None:
    names = ["Müde", "leicht-müde", "sehr müde", "C'est ça!", "嬉しい", "Überrascht, laut"]
    assert config.load(recipe, [f"corpus.labels={names}"]).corpus.labels == names


def test_the_resolved_copy_reads_back_equal(recipe: Path, tmp_path: Path) -> None:
    r = config.load(recipe, ["train.lr=1e-7", 'paper.title="Äußerung: 1e-4"', 'train.precision="bf16"'])
    copy = tmp_path / "copy.yaml"
    copy.write_text(config.dump(r), encoding="utf-8")
    assert config.load(copy) == r
    assert config.dump(config.load(copy)) == config.dump(r)


def test_changed_is_validated(recipe: Path) -> None:
    r = config.load(recipe)
    assert config.changed(r, train={"seed": 5}).train.seed == 5
    assert config.changed(r, train={"seed": 5}).train.lr == r.train.lr
    with pytest.raises(ConfigError, match=r"train.sed: unknown key; did you mean .seed"):
        config.changed(r, train={"sed": 5})


def test_a_vote_that_skips_tokens_is_refused(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"vote.hop_seconds 5.0 is longer than windows.seconds 2"):
        config.load(recipe, ["vote.hop_seconds=5.0"])


def test_what_check_finds_joins_the_list(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 problems\n(.|\n)*x: wrong"):
        config.load(recipe, ["train.a=1"], check=lambda raw: [f"x: wrong {raw['model']['dim']}"])
