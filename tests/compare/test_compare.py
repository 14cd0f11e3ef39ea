"""Comparison of timelines: scores against independent computations, events, baselines, groups, attributes, page."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, f1_score
from typer.testing import CliRunner, Result

from mien.cli.main import app
from mien.compare import agreement, comparison, events, groups, recordings
from mien.errors import ConfigError, MediaError
from mien.evaluation.metrics import alpha_from_confusion, ccc, confusion, kappa_from_confusion
from mien.labels import EXPRESSIONS
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline
from mien.views.render import read_source


def made(
    labels: np.ndarray, values: np.ndarray | None = None, *, rate: float = 10.0, classes: tuple[str, ...] = EXPRESSIONS
) -> Timeline:
    """One person with the given classes, -1 for none, and valence and arousal."""
    n = len(labels)
    p = np.where(labels[:, None] >= 0, np.eye(len(classes))[labels] * 0.8 + 0.2 / len(classes), np.nan)
    values = np.zeros((n, 2)) if values is None else values
    none = np.zeros(n, bool)
    table = subject_rows(0, np.arange(n) / rate, probabilities=p, valence_arousal=values, voice=none, classes=classes)
    return Timeline(table, classes=classes)


def random_pair(seed: int, n: int = 200, agree: float = 0.7) -> tuple[Timeline, Timeline]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, n)
    y = np.where(rng.random(n) < agree, x, rng.integers(0, 5, n))
    v = rng.uniform(-1, 1, (n, 2))
    return made(x, v), made(y, np.clip(v + rng.normal(0, 0.3, (n, 2)) + 0.1, -1, 1))


# --- agreement -------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=60))
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs).T
    kappa = float(kappa_from_confusion(confusion(x, y, classes=4)))
    if len({*x, *y}) == 1:
        assert math.isnan(kappa)
    else:
        assert kappa == pytest.approx(cohen_kappa_score(x, y), abs=1e-9)


def test_alpha_is_that_of_krippendorffs_examples() -> None:
    meg, owen = np.array([0, 1, 0, 0, 0, 0, 0, 0, 1, 0]), np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0])
    assert float(alpha_from_confusion(confusion(meg, owen, classes=2))) == pytest.approx(0.095, abs=5e-4)
    ben, gerry = (np.array(["abcde".index(c) for c in row]) for row in ("aabbdcccedda", "babbbcccEddd".lower()))
    assert float(alpha_from_confusion(confusion(ben, gerry, classes=5))) == pytest.approx(0.692, abs=5e-4)


def test_scores_are_those_of_the_pooled_moments() -> None:
    pairs = {f"c{k}": random_pair(k) for k in range(6)}
    record = comparison.compare(
        {k: a for k, (a, _) in pairs.items()}, {k: b for k, (_, b) in pairs.items()}, comparison.Options()
    )
    scores = {s["key"]: s for s in record["agreement"]["scores"]}
    x, y = (
        np.concatenate([[EXPRESSIONS.index(e) for e in pair[i].table["expression"]] for pair in pairs.values()])
        for i in (0, 1)
    )
    assert scores["agreement"]["value"] == pytest.approx((x == y).mean())
    assert scores["kappa"]["value"] == pytest.approx(cohen_kappa_score(x, y))
    assert scores["macro_f1"]["value"] == pytest.approx(f1_score(x, y, average="macro"))
    v, w = (np.concatenate([pair[i].table["valence"].to_numpy() for pair in pairs.values()]) for i in (0, 1))
    assert scores["ccc valence"]["value"] == pytest.approx(ccc(v, w), abs=1e-6)
    assert scores["kappa"]["low"] < scores["kappa"]["value"] < scores["kappa"]["high"]
    assert len(record["agreement"]["recordings"]) == 6
    assert np.sum(record["agreement"]["confusion"]) == 1200
    assert any("with 6 recordings, intervals are too narrow" in note for note in record["notes"])


def test_moments_without_an_estimate_in_one_do_not_count() -> None:
    a, b = made(np.array([0, 0, -1, 1, 1, 1])), made(np.array([0, 1, 1, -1, 1, 1]))
    record = comparison.compare({"c": a}, {"c": b}, comparison.Options())
    assert record["agreement"]["recordings"][0]["agreement"] == 0.75
    assert [s["low"] for s in record["agreement"]["scores"]] == [None] * len(record["agreement"]["scores"])


def test_classes_are_joined_by_map_and_compared_without_capitals() -> None:
    a = made(np.array([0, 1, 2, 2]), classes=("JOY", "neutral", "boredom"))
    b = made(np.array([4, 0, 4, 0]))
    joined = recordings._relabelled(a, {"joy": "Happiness", "boredom": ""})
    assert joined.table["expression"].to_list() == ["Happiness", "neutral", None, None]
    record = comparison.compare({"c": joined}, {"c": b}, comparison.Options())
    assert record["classes"] == list(EXPRESSIONS)
    assert (record["agreement"]["recordings"][0]["agreement"], record["agreement"]["recordings"][0]["counted"]) == (
        1,
        4,
    )
    merged = recordings._relabelled(b, {"Happiness": "Positive", "Surprise": "Positive"})
    assert merged.table["p_positive"].to_list() == pytest.approx([0.85, 0.05, 0.85, 0.05])


def test_rows_of_other_rates_meet_at_the_same_moments() -> None:
    labels = np.array([0] * 10 + [4] * 10)
    a, b = made(labels), made(np.repeat(labels, 3), rate=30.0)
    record = comparison.compare({"c": a}, {"c": b}, comparison.Options(rate_hz=7.0))
    assert record["agreement"]["recordings"][0]["agreement"] == 1
    assert record["agreement"]["recordings"][0]["counted"] == 14


def test_people_are_paired_by_number_or_as_told() -> None:
    a, b = (recordings.people("c", t, EXPRESSIONS, 10) for t in random_pair(0))
    far = [recordings.Person("c", 3, b[0].times, b[0].expression, b[0].values), *b]
    assert agreement.pair_people(a, far)[0][1] is b[0]
    assert agreement.pair_people(a, far, {0: 3})[0][1] is far[0]
    assert agreement.pair_people(a, far[:1])[0][1] is far[0], "the only person of both"


def test_no_shared_recording_is_an_error_that_names_both() -> None:
    a, b = random_pair(0)
    with pytest.raises(ConfigError, match=r"A has x, y; B has z, w.*") as error:
        comparison.compare({"x": a, "y": a}, {"z": b, "w": b}, comparison.Options())
    assert "--groups" in str(error.value)


# --- attributes ------------------------------------------------------------------------------------------------


def test_a_real_gap_is_found_and_chance_is_not() -> None:
    parts, real, chance = [], {}, {}
    for k in range(16):
        a, b = (recordings.people(f"c{k}", t, EXPRESSIONS, 10) for t in random_pair(k, agree=0.9 if k % 2 else 0.4))
        parts.append(agreement.statistics_of(f"c{k}", agreement.pair_people(a, b), 8))
        real[f"c{k}"], chance[f"c{k}"] = {"g": str(k % 2)}, {"g": str(k % 4 // 2)}
    (found,), (none,) = agreement.by_attribute(parts, real), agreement.by_attribute(parts, chance)
    assert found["gaps"]["kappa"]["gap"] > 0.4
    assert found["gaps"]["kappa"]["p"] < 0.01
    assert none["gaps"]["kappa"]["p"] > 0.05
    assert [v["recordings"] for v in found["values"]] == [8, 8]
    (one,) = agreement.by_attribute(parts, {k: {"g": "same"} for k in real})
    assert one["gaps"]["kappa"] == {"gap": None, "p": None}


# --- events and baselines --------------------------------------------------------------------------------------


def test_a_reaction_shows_at_its_offset() -> None:
    values = np.zeros((100, 2))
    labels = np.zeros(100, int)
    for start in (20, 60):
        values[start + 5 : start + 15, 0] = 0.8
        labels[start + 5 : start + 15] = 4
    own = recordings.people("c", made(labels, values), EXPRESSIONS, 10)
    found = {
        c.measure: c
        for c in events.curves(own, [events.Event("", t, "bang") for t in (2.0, 6.0)], EXPRESSIONS, (-1, 2))
    }
    curve = found["valence"]
    assert (curve.count, curve.units) == (2, "events")
    by_offset = dict(zip(curve.offsets_s.tolist(), [v.value for v in curve.values], strict=True))
    assert by_offset[0.4] == 0
    assert by_offset[0.6] == pytest.approx(0.8)
    assert by_offset[1.4] == pytest.approx(0.8)
    assert by_offset[1.6] == 0
    assert "share of Fear" not in found
    assert found["share of Happiness"].values[8].value == 1


def test_recordings_weigh_alike_however_many_events_they_have() -> None:
    high, low = (
        recordings.people(name, made(np.zeros(50, int), np.full((50, 2), v)), EXPRESSIONS, 10)
        for name, v in (("a", 0.8), ("b", 0.0))
    )
    marks = [*(events.Event("a", t, "e") for t in (1.0, 2.0, 3.0)), events.Event("b", 1.0, "e")]
    curve = next(c for c in events.curves([*high, *low], marks, EXPRESSIONS, (0, 1)) if c.measure == "valence")
    assert curve.values[0].value == pytest.approx(0.4)
    assert (curve.count, curve.units) == (4, "recordings")


def test_a_baseline_is_the_persons_own_mean_and_its_span_is_left_out() -> None:
    values = np.concatenate([np.full((50, 2), 0.3), np.full((50, 2), 0.7)])
    (own,) = recordings.people("c", made(np.zeros(100, int), values), EXPRESSIONS, 10)
    baseline = recordings.parse_baseline("0-5s")
    shifted = recordings.subtract_baseline(own, baseline, 10)
    assert shifted is not None
    assert np.allclose(shifted.values[:, 0], [0] * 50 + [0.4] * 50, atol=1e-6)
    rest = recordings.without_span(shifted, baseline)
    assert np.isnan(rest.values[:50]).all()
    assert (rest.expression[:50] == -1).all()
    assert groups.measures([rest], EXPRESSIONS, 10)["valence"] == pytest.approx(0.4)


def test_a_baseline_of_a_file_is_that_of_the_person(tmp_path: Path) -> None:
    made(np.zeros(10, int), np.full((10, 2), -0.2)).write(tmp_path / "rest.csv")
    (own,) = recordings.people("c", made(np.zeros(10, int), np.full((10, 2), 0.5)), EXPRESSIONS, 10)
    shifted = recordings.subtract_baseline(own, recordings.parse_baseline(str(tmp_path / "rest.csv")), 10)
    assert shifted is not None
    assert np.allclose(shifted.values, 0.7)
    for text in ("10-5s", "gone.csv", "0-5"):
        with pytest.raises(ConfigError, match="neither a span of seconds nor a file"):
            recordings.parse_baseline(text)


# --- groups ----------------------------------------------------------------------------------------------------


def test_effect_sizes_are_their_closed_forms() -> None:
    x, y = np.array([3.0, 5.0, 7.0]), np.array([1.0, 2.0, 3.0, 4.0])
    pooled = math.sqrt((2 * 4.0 + 3 * (5 / 3)) / 5)
    assert groups.effect_size(x, y) == pytest.approx((5 - 2.5) / pooled * (1 - 3 / 19))
    assert groups.cliffs_delta(x, y) == pytest.approx((10 - 1) / 12)
    pairs = np.array([1.0, 2.0, 4.0]), np.array([0.0, 0.0, 1.0])
    assert groups.effect_size(*pairs, paired=True) == pytest.approx(2 / 1.0 * (1 - 3 / 7))
    assert math.isnan(groups.effect_size(np.ones(3), np.ones(3)))


def test_p_values_are_exact_for_few_recordings() -> None:
    a = {f"a{k}": {"valence": 1.0 + k} for k in range(3)}
    b = {f"b{k}": {"valence": -1.0 - k} for k in range(3)}
    (contrast,) = groups.contrast_groups(a, b)
    assert contrast.p == pytest.approx(2 / 20), "2 of the 20 ways to split six recordings are as extreme"
    assert contrast.difference == pytest.approx(4.0)
    assert contrast.low < contrast.difference < contrast.high
    (paired,) = groups.contrast_groups({f"a{k}": v for k, v in enumerate(a.values())},
                                       {f"a{k}": v for k, v in enumerate(b.values())}, paired=True)  # fmt: skip
    assert paired.p == pytest.approx(2 / 8), "2 of the 8 ways to exchange three pairs"


def test_holm_corrects_for_the_number_of_measures() -> None:
    def contrast(name: str, p: float) -> groups.Contrast:
        return groups.Contrast(name, {}, {}, 0, 0, 0, 0, 0, 0, 0, p)

    found = groups._with_holm(
        [contrast("x", 0.04), contrast("y", 0.01), contrast("z", float("nan")), contrast("w", 0.03)]
    )
    assert [c.p_holm for c in found][:2] == pytest.approx([0.06, 0.03])
    assert math.isnan(found[2].p_holm)
    assert found[3].p_holm == pytest.approx(0.06)


def test_measures_of_a_recording() -> None:
    labels = np.array([0] * 300 + [4] * 150 + [-1] * 150)
    own = recordings.people("c", made(labels, np.full((600, 2), 0.25)), EXPRESSIONS, 10)
    measures = groups.measures(own, EXPRESSIONS, 10)
    assert measures["share of Happiness"] == pytest.approx(1 / 3)
    assert measures["valence"] == 0.25
    assert measures["changes per minute"] == pytest.approx(60 / 44.9)


# --- files, page and command -----------------------------------------------------------------------------------


def mien(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """anna/*.eaf and out/*/timeline.csv of four recordings."""
    root = tmp_path_factory.mktemp("study")
    for k in range(4):
        a, b = random_pair(k, n=60)
        a.write(root / "anna" / f"c{k}.eaf")
        b.write(root / "out" / f"c{k}" / "timeline.csv")
        b.write(root / "out" / f"c{k}" / "timeline.eaf")
    (root / "out" / "timelines.csv").write_text("file,time_s\n")
    return root


def test_recordings_are_found_by_name_and_a_table_is_preferred(study: Path) -> None:
    assert list(recordings.load(study / "anna")) == ["c0", "c1", "c2", "c3"]
    found = recordings.load(study / "out")
    assert list(found) == ["c0", "c1", "c2", "c3"]
    assert found["c0"].table["confidence"].drop_nulls().max() < 1, "the CSV, whose probabilities are not 1"
    (study / "bare").mkdir()
    with pytest.raises(MediaError, match="holds no timelines"):
        recordings.load(study / "bare")


def test_the_command_writes_a_page_that_loads_nothing(study: Path) -> None:
    (study / "people.csv").write_text("recording,sex\nc0.mp4,f\nc1.mp4,m\nc2.mp4,f\nc3.mp4,m\n")
    (study / "events.csv").write_text("time_s,event\n2,<bang>\n4,<bang>\n")
    out = study / "page.html"
    done = mien(
        "compare", study / "anna", study / "out", "--out", out, "--names", "Anna,m & n", "--attributes",
        study / "people.csv", "--events", study / "events.csv",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "Cohen’s κ" in done.stdout
    assert "gaps by sex" in done.stdout
    page = out.read_text(encoding="utf-8")
    assert "Anna and m &amp; n" in page
    assert "&lt;bang&gt;" in page
    assert not re.search(r"(?:src|href)=\"?https?:", page)
    assert read_source("base.css") in page, "the colours and the layout of all pages"
    record = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    kappa = next(s for s in record["agreement"]["scores"] if s["key"] == "kappa")["value"]
    assert f">{kappa:.3f}".replace("0.", ".") in page
    assert {e["of"] for e in record["events"]} == {"Anna", "m & n"}


def test_groups_on_the_command_line(study: Path) -> None:
    out = study / "groups.html"
    done = mien("compare", study / "anna", study / "out", "--groups", "--paired", "--out", out, "--json")
    record = json.loads(done.stdout)
    assert record["agreement"] is None
    valence = next(c for c in record["groups"]["contrasts"] if c["measure"] == "valence")
    assert valence["difference"] == pytest.approx(valence["mean_a"] - valence["mean_b"])
    assert len(valence["a"]) == 4
    assert "<svg" in out.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("anna",), 2, "give B, or --events"),
        (("anna", "out", "--groups", "--attributes", "x.csv"), 2, "--groups has none"),
        (("anna", "out", "--paired"), 2, "belongs to --groups"),
        (("anna", "out", "--window", "3,1"), 2, "ends before it starts"),
        (("anna", "out", "--map", "joy"), 2, "write it as LEFT=RIGHT"),
        (("anna", "out", "--person", "0=Ben"), 2, "is no subject number"),
        (("anna", "out", "--names", "a,a"), 2, "two different names"),
        (("anna", "out", "--events", "none.csv"), 2, "cannot be read"),
        (("anna", "out", "--events", "bad.csv"), 2, "none is time_s"),
        (("anna", "out", "--events", "late.csv"), 2, "none of the 1 events"),
        (("anna", "out", "--attributes", "bad.csv"), 2, "it needs recording"),
        (("anna", "gone"), 1, "gone"),
        (("anna", "out", "--person", "0=7"), 2, "share no person"),
    ],
)
def test_errors_say_what_failed(study: Path, words: tuple[str, ...], code: int, message: str) -> None:
    (study / "bad.csv").write_text("a,b\n1,2\n")
    (study / "late.csv").write_text("time_s,recording\n1,nobody\n")
    known = {"anna", "out", "gone", "none.csv", "bad.csv", "late.csv", "x.csv"}
    done = mien("compare", *(study / w if w in known else w for w in words), "--out", study / "e.html")
    assert done.exit_code == code, done.output
    assert message in " ".join(done.output.replace("│", " ").split())
    assert not (study / "e.html").exists()


@settings(max_examples=15)
@given(st.integers(0, 999), st.integers(1, 40))
def test_swapping_both_keeps_kappa_and_transposes_the_confusion(seed: int, n: int) -> None:
    a, b = random_pair(seed, n)
    one = comparison.compare({"c": a}, {"c": b}, comparison.Options())["agreement"]
    other = comparison.compare({"c": b}, {"c": a}, comparison.Options())["agreement"]
    assert np.array_equal(one["confusion"], np.transpose(other["confusion"]))
    for key in ("kappa", "alpha", "ccc valence"):
        x, y = one["recordings"][0][key], other["recordings"][0][key]
        assert x == y or x == pytest.approx(y)


# --- people ----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_conditions(tmp_path: Path) -> Path:
    """Results before and after, two recordings each of the same names: subject 0 of `x` and `y` before is Anna, of `x`
    after Anna and of `y` after Ben. Beside them the tables that `--features` and `mien people` write."""
    rows = ["recording,subject,person,timeline"]
    for folder, persons in (("before", "Anna Anna"), ("after", "Anna Ben")):
        for name, person, valence in zip("xy", persons.split(), (0.2, 0.6), strict=True):
            place = tmp_path / folder / name
            place.mkdir(parents=True)
            shown = valence + 0.1 * (folder == "after")
            made(np.zeros(50, int), np.full((50, 2), shown)).write(place / "timeline.csv")
            (place / "features.csv").write_text("time_s,subject,yaw\n0.0,0,1.0\n")
            rows.append(f"{folder}/{name},0,{person},{folder}/{name}/timeline.csv")
    (tmp_path / "people.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "before" / "people.csv").write_text("recording,subject,person,timeline\nx,0,Anna,x/timeline.csv\n")
    return tmp_path


def test_other_tables_of_mien_in_a_folder_are_no_recordings(two_conditions: Path) -> None:
    assert list(recordings.load(two_conditions / "before")) == ["x", "y"]


def test_groups_of_people_have_one_value_for_each_person(two_conditions: Path) -> None:
    sides = [two_conditions / name for name in ("before", "after")]
    people = recordings.read_people(two_conditions / "people.csv", *sides)
    assert people == ({("x", 0): "Anna", ("y", 0): "Anna"}, {("x", 0): "Anna", ("y", 0): "Ben"})
    a, b = (recordings.load(side) for side in sides)
    record = comparison.compare(a, b, comparison.Options(as_groups=True, people=people))
    valence = next(c for c in record["groups"]["contrasts"] if c["measure"] == "valence")
    assert valence["a"] == pytest.approx({"Anna": 0.4})
    assert valence["b"] == pytest.approx({"Anna": 0.3, "Ben": 0.7})
    assert any("in both groups" in note and "Anna" in note for note in record["notes"])
    paired = comparison.compare(a, b, comparison.Options(as_groups=True, paired=True, people=people))
    valence = next(c for c in paired["groups"]["contrasts"] if c["measure"] == "valence")
    assert (valence["a"], valence["b"]) == (pytest.approx({"Anna": 0.4}), pytest.approx({"Anna": 0.3}))
    nobody = ({}, people[1])
    with pytest.raises(ConfigError, match="--people names nobody in A: it has x, y"):
        comparison.compare(a, b, comparison.Options(as_groups=True, people=nobody))


def test_people_on_the_command_line(two_conditions: Path) -> None:
    words = [str(two_conditions / name) for name in ("before", "after")]
    out = str(two_conditions / "page.html")
    done = CliRunner().invoke(
        app, ["compare", *words, "--groups", "--people", str(two_conditions / "people.csv"), "--out", out]
    )
    assert done.exit_code == 0, done.output
    page = (two_conditions / "page.html").read_text(encoding="utf-8")
    assert "Every person" in page
    assert "A person is one value" in page
    alone = CliRunner().invoke(app, ["compare", *words, "--people", str(two_conditions / "people.csv")])
    assert alone.exit_code == 2
    (two_conditions / "wrong.csv").write_text("a,b\n1,2\n")
    wrong = CliRunner().invoke(app, ["compare", *words, "--groups", "--people", str(two_conditions / "wrong.csv")])
    assert wrong.exit_code == 2
    assert "has the columns a, b; it needs subject, person, timeline" in wrong.stderr
