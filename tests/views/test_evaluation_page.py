"""Evaluation record and page: correct numbers, one self-contained file; and the charts."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from views_support import Browser

from mien.errors import OutputError
from mien.evaluation import bootstrap, calibration_fit, metrics
from mien.evaluation.calibration import Smoothing
from mien.evaluation.predictions import ClipPrediction
from mien.evaluation.record import summarise
from mien.evaluation.robustness import Condition, no_corruption, score_conditions
from mien.labels import EXPRESSIONS
from mien.views import charts, evaluation

SVG = "{http://www.w3.org/2000/svg}"


def clip(number: int, frames: int = 120, classes: int = 8, va: bool = True) -> ClipPrediction:
    rng = np.random.default_rng(number)
    truth = np.repeat(rng.integers(0, classes, frames // 10), 10)
    p = np.eye(classes)[truth] + rng.uniform(0, 1.4, (frames, classes))
    truth[:3] = -1
    p[5:9] = np.nan
    affect = rng.uniform(-1, 1, (frames, 2)) if va else np.full((frames, 2), np.nan)
    predicted = np.nan_to_num(affect) * 0.5 + rng.normal(0, 0.1, (frames, 2))
    return ClipPrediction(
        f"c{number}", np.arange(frames) / 30, p / p.sum(1, keepdims=True), predicted, truth, affect, f"s{number // 2}"
    )


def curves(clips: list[ClipPrediction], names: tuple[str, ...] = ("fused", "voice only")) -> pl.DataFrame:
    conditions = [
        *(Condition("face frames missing", level, "%", no_corruption) for level in (0, 25, 50, 90)),
        Condition("sound in noise", np.inf, "dB", no_corruption, "clean"),
        *(Condition("sound in noise", level, "dB", no_corruption) for level in (10, 0, -5)),
    ]
    return score_conditions(conditions, clips, {name: lambda c: c for name in names}, draws=50, reference="fused")


@pytest.fixture(scope="module")
def summary() -> dict[str, Any]:
    scored = [clip(i) for i in range(6)]
    smoothings = (Smoothing(), Smoothing("hamming", 1.0))
    comparison = calibration_fit.compare(scored, draws=50, smoothings=smoothings, strengths=(0, 0.5))
    return summarise(
        scored,
        name="fused <b>&</b> more",
        split="val",
        comparison=comparison,
        curves=curves(scored),
        reported={"val_macro_f1": 0.5029, "accuracy": 0.6079, "test_macro_f1": 0.36},
        differs=["synthetic people, not Aff-Wild2"],
        notes=["a note"],
        draws=50,
    )


@pytest.fixture(scope="module")
def page(summary: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluation.write_page(tmp_path_factory.mktemp("evaluation") / "evaluation.html", summary)


# --- the record --------------------------------------------------------------------------------------------


def test_the_record_holds_the_metrics(summary: dict[str, Any]) -> None:
    scored = [clip(i) for i in range(6)]
    truth, predicted = [c.true_class for c in scored], [c.predicted_class for c in scored]
    found = {row["key"]: row for row in summary["scores"]}
    assert found["macro_f1"]["value"] == pytest.approx(metrics.macro_f1(truth, predicted))
    assert found["accuracy"]["value"] == pytest.approx(metrics.accuracy(truth, predicted))
    assert found["va_score"]["value"] == pytest.approx(
        metrics.va_score([c.true_valence_arousal for c in scored], [c.filled_valence_arousal for c in scored])
    )
    assert summary["confusion"] == metrics.confusion(truth, predicted).tolist()
    assert summary["frames"] == 6 * 117
    assert (summary["clips"], summary["groups"]) == (6, 3)
    counts = np.array(summary["confusion"])
    for i, row in enumerate(summary["by_class"]):
        assert row["precision"] == pytest.approx(counts[i, i] / counts[:, i].sum())
        assert row["recall"] == pytest.approx(counts[i, i] / counts[i].sum())
        assert row["frames"] == counts[i].sum()
    assert summary["by_clip"][0]["without_evidence"] == pytest.approx(4 / 120)


def test_the_record_is_json(summary: dict[str, Any], page: Path) -> None:
    assert json.loads(json.dumps(summary, allow_nan=False)) == json.loads(page.with_suffix(".json").read_text())
    clean = [row for row in summary["robustness"] if row["label"] == "clean"]
    assert {row["level"] for row in clean} == {None}  # JSON has no infinity


def test_published_scores_are_compared_with_scores_of_their_split(summary: dict[str, Any]) -> None:
    found = {row["name"]: row for row in summary["reported"]}
    assert found["macro F1, val"]["obtained"]["value"] == summary["scores"][0]["value"]
    assert found["accuracy"]["obtained"] is not None
    assert (found["macro F1, test"]["obtained"], found["macro F1, test"]["reported"]) == (None, 0.36)


# --- the page ----------------------------------------------------------------------------------------------


def test_page_is_one_file_without_external_urls(page: Path) -> None:
    text = page.read_text()
    assert sorted(p.name for p in page.parent.iterdir()) == ["evaluation.html", "evaluation.json"]
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert not re.search(r"<(link|iframe|object|img)\b", text)
    assert "fused &lt;b&gt;&amp;&lt;/b&gt; more" in text
    assert "<b>&" not in text


def test_every_score_is_printed_with_its_interval(page: Path, summary: dict[str, Any]) -> None:
    text = page.read_text()
    for row in summary["scores"]:
        assert f'<div class="big">{evaluation.format_score(row["value"])}</div>' in text
        assert evaluation.format_interval(row) in text
    for row in summary["calibration"]["rows"]:
        assert f"{evaluation.format_score(row['macro_f1']['value'])} <span" in text
    for words in (
        "optimistic",
        "held out",
        "each subject is scored with values chosen on the others",
        ".503",
        "Differences to the publication",
        "synthetic people, not Aff-Wild2",
    ):
        assert words in text
    for name in EXPRESSIONS:
        assert f"{name} predicted as {name}:" in text


def test_missing_results_are_left_out(tmp_path: Path) -> None:
    bare = summarise([clip(0, va=False), clip(2, va=False)], name="only expressions", draws=20)
    text = evaluation.write_page(tmp_path / "a.html", bare).read_text()
    for words in ("CCC valence", "Robustness", "Smoothing, class bias", "Published scores", "NaN", "nan"):
        assert words not in text
    no_classes, no_labels = np.full((9, 8), np.nan), np.full(9, -1)
    predicted, truth = np.tile([0.5, 0.1], (9, 1)), np.linspace([-1, 0], [1, 0.5], 9)
    only_affect = ClipPrediction("v", np.arange(9) / 9, no_classes, predicted, no_labels, truth)
    record = summarise([only_affect], name="only affect", draws=20)
    text = evaluation.write_page(tmp_path / "b.html", record).read_text()
    assert [row["key"] for row in record["scores"]] == ["ccc valence", "ccc arousal", "va_score"]
    assert (record["scores"][0]["low"], record["frames"]) == (None, None)
    assert "By class" not in text
    assert "macro F1</div>" not in text


def page_text(path: Path) -> str:
    """The page without its style sheet."""
    return path.read_text().split("</style>")[1]


def test_labels_of_what_a_system_does_not_predict_give_no_scores(tmp_path: Path) -> None:
    """The clips have labels of both kinds; the system decides."""
    scored, train = [clip(i) for i in range(4)], [clip(i) for i in range(20, 24)]
    for name, absent in (("expression", "macro F1"), ("valence_arousal", "CCC")):
        parts = {"expression": True, "valence_arousal": True, name: False}
        smoothings = (Smoothing(), Smoothing("mean", 1.0))
        compared = calibration_fit.compare(scored, train, draws=20, smoothings=smoothings, strengths=(0.0,), **parts)
        missing = {f"without_{name}": ["fused", "voice only"]}
        table = score_conditions(
            [Condition("voice silent", level, "%", no_corruption) for level in (0, 50)],
            scored,
            {n: lambda c: c for n in ("fused", "voice only")},
            draws=20,
            **missing,
        )
        record = summarise(scored, name="one kind", comparison=compared, curves=table, draws=20, **parts)
        keys = [row["key"] for row in record["scores"]]
        both = ["macro_f1", "accuracy", "ccc valence", "ccc arousal", "va_score"]
        assert keys == (both[2:] if name == "expression" else both[:2])
        text = page_text(evaluation.write_page(tmp_path / f"{name}.html", record))
        assert absent.lower() not in text.lower()
        assert ("Mean CCC of valence and arousal against" in text) == (name == "expression")
        assert ("Confusion matrix" in text) == (name != "expression")
        assert "Robustness" in text
        assert "Smoothing" in text
        assert "nan" not in text.lower()


def test_custom_classes_have_colours(tmp_path: Path) -> None:
    names = ["calm", "Neutral", "bored & tired"]
    record = summarise([clip(i, classes=3) for i in range(4)], name="custom", classes=names, draws=20)
    text = evaluation.write_page(tmp_path / "a.html", record).read_text()
    assert "bored &amp; tired" in text
    assert text.count("calm predicted as") == 3


def test_columns_of_the_confusion_matrix_are_distinct(tmp_path: Path) -> None:
    """Names whose first letters are equal are written in full."""
    for names, heads in (
        (["Neutral", "Anger", "calm"], ["Neut.", "Anger", "calm"]),
        (["very tired", "very calm", "calm"], ["very tired", "very calm", "calm"]),
    ):
        record = summarise([clip(i, classes=3) for i in range(4)], name="custom", classes=names, draws=20)
        text = evaluation.write_page(tmp_path / "a.html", record).read_text()
        shown = re.findall(r'<th class="column"[^>]*>(?:<span class="vertical">)?([^<]*)<', text)
        assert shown == heads


def test_an_unwritable_path_is_an_error(tmp_path: Path, summary: dict[str, Any]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        evaluation.write_page(tmp_path / "file" / "a.html", summary)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5029, ".503"),
        (1.0, "1.000"),
        (0.0, ".000"),
        (-0.25, "−.250"),
        (None, "–"),
        (0.9999, "1.000"),
        (-1e-5, ".000"),
    ],
)
def test_format_score(value: float | None, text: str) -> None:
    assert evaluation.format_score(value) == text


def test_format_percent_does_not_round_to_none_or_all() -> None:
    shown = [evaluation.format_percent(v) for v in (0.0, 0.001, 0.42, 0.999, 1.0, None)]
    assert [s.replace("\u00a0", " ") for s in shown] == ["0 %", "<1 %", "42 %", ">99 %", "100 %", "–"]


def test_page_in_a_browser(page: Path, browser: Browser) -> None:
    browser.call("Page.navigate", url="about:blank")
    browser.events = []
    browser.call("Page.navigate", url=page.as_uri())
    browser.js(
        "new Promise(done => { const poll = () => location.protocol === 'file:' && document.readyState === 'complete'"
        " ? done(1) : setTimeout(poll, 20); poll(); })"
    )
    assert browser.errors() == []
    assert browser.requested_urls() == [page.as_uri()]
    assert browser.js("document.documentElement.scrollWidth <= innerWidth")
    before = browser.js("getComputedStyle(document.body).backgroundColor")
    browser.js("document.getElementById('theme').click()")
    assert browser.js("getComputedStyle(document.body).backgroundColor") != before
    # no text of a chart exceeds its SVG
    assert browser.js(
        "[...document.querySelectorAll('svg')].every(s => { const b = s.getBoundingClientRect();"
        "return [...s.querySelectorAll('text')].every(t => { const r = t.getBoundingClientRect();"
        "return r.left > b.left - 2 && r.right < b.right + 2 && r.top > b.top - 2 && r.bottom < b.bottom + 2; }); })"
    )


# --- charts ------------------------------------------------------------------------------------------------


def points(svg: str) -> list[list[tuple[float, float]]]:
    """Corners of each line of a figure."""
    lines = [p.get("d", "") for p in ElementTree.fromstring(svg).iter(f"{SVG}path") if p.get("fill") == "none"]
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.-]+) ([\d.-]+)", line)] for line in lines]


def test_lines_are_drawn_to_scale() -> None:
    one = charts.Series("a", [0, 1, 2], [0.0, 0.5, 1.0])
    svg = charts.figure([charts.Panel("t", "x", [one], [(0, "0"), (2, "2")])])
    (line,) = points(svg)
    bottom, height = charts.TOP + charts.PLOT_HEIGHT, charts.PLOT_HEIGHT
    assert [y for _, y in line] == pytest.approx([bottom, bottom - height / 2, bottom - height])
    xs = [x for x, _ in line]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)


def test_missing_values_leave_a_gap_and_missing_intervals_no_band() -> None:
    one = charts.Series("a", [0, 1, 2], [0.1, None, 0.3], [None, None, None], [None, None, None])
    svg = charts.figure([charts.Panel("t", "x", [one], [(0, "0")])])
    assert len(points(svg)[0]) == 2
    assert "fill-opacity" not in svg
    banded = charts.figure(
        [charts.Panel("t", "x", [charts.Series("a", [0, 1], [0.1, 0.2], [0, 0.1], [0.2, 0.3])], [(0, "0")])]
    )
    assert "fill-opacity" in banded


def test_corruption_grows_to_the_right() -> None:
    """Percent to scale; decibels falling, the clean end first; very unequal steps evenly spaced."""
    assert evaluation._positions([(0.0, "0"), (10.0, "10"), (50.0, "50")]) == {"0": 0.0, "10": 10.0, "50": 50.0}
    decibels = [(10.0, "10"), (float("inf"), "clean"), (-5.0, "-5"), (0.0, "0")]
    assert evaluation._positions(decibels) == {"clean": 0.0, "10": 1.0, "0": 2.0, "-5": 3.0}
    assert evaluation._positions([(None if v == float("inf") else v, t) for v, t in decibels])["clean"] == 0.0
    assert evaluation._positions([(4.0, "4"), (0.25, "0.25"), (0.0, "0")]) == {"0": 0.0, "0.25": 1.0, "4": 2.0}


def test_robustness_figure_is_a_standalone_svg(summary: dict[str, Any]) -> None:
    svg = evaluation.robustness_svg(summary["robustness"])
    root = ElementTree.fromstring(svg)
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert [texts.count(name) for name in ("fused", "voice only")] == [1, 1]  # one legend
    for text in ("Face frames missing", "Sound in noise", "clean", "−5", "90", "dB", "%"):
        assert text in texts
    assert len(points(svg)) == 4
    assert root.find(f"{SVG}style") is not None
    titles = [t.text for t in root.iter(f"{SVG}title")]
    row = summary["robustness"][0]
    assert f"fused, 0: {row['macro_f1']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in titles


def test_record_and_table_give_the_same_robustness_figure(summary: dict[str, Any]) -> None:
    rows = curves([clip(i) for i in range(6)]).to_dicts()
    assert evaluation.robustness_svg(rows) == evaluation.robustness_svg(summary["robustness"])


def test_axis_limit_holds_the_highest_score() -> None:
    assert [charts.axis_limit(v) for v in ([0.31, None], [0.3], [0.0], [0.97], [None])] == [0.4, 0.3, 0.1, 1.0, 1.0]
    assert bootstrap.LEVEL == 0.95
