"""Edges of `mien compare`: tables without rows, other classes, events outside, spreadsheets' CSV, narrow windows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from mien.cli.main import app
from mien.compare import comparison, events, recordings
from mien.csv_rows import read_rows
from mien.errors import ConfigError, MediaError
from mien.labels import EXPRESSIONS
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline
from mien.views.comparison import write_page


def constant(label: int = 0, n: int = 100, classes: tuple[str, ...] = EXPRESSIONS) -> Timeline:
    """One person with one class, ten rows a second."""
    p = np.tile(np.eye(len(classes))[label] * 0.8 + 0.2 / len(classes), (n, 1))
    none = np.zeros(n, bool)
    table = subject_rows(
        0, np.arange(n) / 10, probabilities=p, valence_arousal=np.zeros((n, 2)), voice=none, classes=classes
    )
    return Timeline(table, classes=classes)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def notes_of(a: dict[str, Timeline], b: dict[str, Timeline], **options: object) -> list[str]:
    return comparison.compare(a, b, comparison.Options(**options))["notes"]


def test_a_table_without_rows_is_called_so() -> None:
    empty = Timeline(constant().table.clear())
    with pytest.raises(ConfigError, match="Anna has no rows: clip") as error:
        comparison.compare({"clip": empty}, {"clip": constant()}, comparison.Options(names=("Anna", "mien")))
    assert "--person" not in str(error.value)


def test_a_baseline_that_nobody_has_is_named() -> None:
    late = recordings.parse_baseline("30-40s")
    with pytest.raises(ConfigError, match="--baseline holds no valence or arousal of anybody in A"):
        comparison.compare(
            {"c": constant()}, {}, comparison.Options(baseline=late, events=[events.Event("", 5.0, "bang")])
        )
    whole = recordings.parse_baseline("0-100s")
    with pytest.raises(ConfigError, match="A has no estimate in any recording: c"):
        comparison.compare({"c": constant()}, {"d": constant()}, comparison.Options(baseline=whole, as_groups=True))


def test_classes_that_can_never_agree_are_noted() -> None:
    words = constant(0, classes=("joy", "contempt"))
    (note,) = (n for n in notes_of({"c": words}, {"c": constant(4)}, names=("Anna", "mien")) if "--map" in n)
    assert note.startswith("classes that the other side lacks, and that never agree: joy of Anna, Happiness of mien;")
    few = constant(0, classes=("Happiness", "Neutral"))
    assert not [n for n in notes_of({"c": few}, {"c": constant(6)}) if "--map" in n], "nobody has to see Surprise"
    capitals = constant(0, classes=("happiness", "Neutral"))
    assert not [n for n in notes_of({"c": capitals}, {"c": constant(4)}) if "--map" in n]


def test_a_map_of_a_label_that_does_not_occur_is_noted() -> None:
    words = {"c": constant(0, classes=("joy", "contempt"))}
    (mapped,), notes = recordings.relabel([words], {"JOY": "Happiness", "contempt": ""})
    assert mapped["c"].classes == ("Happiness",)
    assert notes == []
    _, notes = recordings.relabel([words], {"fun": "Happiness"})
    assert notes == ["--map: neither side has fun; the labels are contempt, joy"]


def test_an_event_beyond_the_end_is_noted_and_not_counted() -> None:
    marks = [events.Event("", t, "joke") for t in (5.0, 500.0)]
    record = comparison.compare({"c": constant()}, {}, comparison.Options(events=marks))
    assert {curve["count"] for curve in record["events"]} == {1}
    assert "events around which nobody has an estimate, and left out: joke at 500 s" in record["notes"]
    with pytest.raises(ConfigError, match="none of the 1 events lies"):
        comparison.compare({"c": constant()}, {}, comparison.Options(events=marks[1:]))


def test_an_event_may_name_the_file_of_its_recording() -> None:
    both = {"c": constant(), "2024.05": constant()}
    marks = [events.Event(name, 5.0, "joke") for name in ("c.mp4", "2024.05")]
    record = comparison.compare(both, {}, comparison.Options(events=marks))
    assert {(curve["count"], curve["units"]) for curve in record["events"]} == {(2, "recordings")}
    assert not record["notes"]


def test_attributes_may_name_the_file_or_a_recording_with_dots() -> None:
    sides = {"c": constant(), "2024.05": constant()}
    given = {"c.mp4": {"sex": "f"}, "2024.05": {"sex": "m"}}
    record = comparison.compare(sides, dict(sides), comparison.Options(attributes=given))
    (entry,) = record["agreement"]["attributes"]
    assert sorted(v["value"] for v in entry["values"]) == ["f", "m"]


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "has no event below its header"), ("time_s,event\n", "has no event"), ("time_s\nnan\n", "time_s is nan")],
)
def test_events_that_say_nothing_are_errors(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "events.csv").write_text(content)
    with pytest.raises(ConfigError, match=message):
        events.read_events(tmp_path / "events.csv")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_spreadsheet_may_separate_by_semicolons_or_tabs(tmp_path: Path, separator: str) -> None:
    rows = [["time_s", "event"], ["5", "größer"], ["6.5", ""]]
    (tmp_path / "events.csv").write_text("\ufeff" + "\r\n".join(map(separator.join, rows)), encoding="utf-8")
    found = read_rows(tmp_path / "events.csv", "--events", follows="")
    assert found == [{"time_s": "5", "event": "größer"}, {"time_s": "6.5", "event": ""}]


def test_a_table_in_another_encoding_says_how_to_save_it(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_bytes("time_s,event\n5,größer\n".encode("cp1252"))
    with pytest.raises(ConfigError, match="Save it again as CSV UTF-8"):
        read_rows(tmp_path / "events.csv", "--events", follows="")


def test_a_missing_file_is_missing_whatever_its_suffix(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="no such file"):
        Timeline.read(tmp_path / "mien-uot")


def test_one_recording_is_not_called_recordings(tmp_path: Path) -> None:
    constant().write(tmp_path / "out" / "clip" / "timeline.csv")
    (tmp_path / "events.csv").write_text("time_s\n5\n")
    page = tmp_path / "page.html"
    done = run("compare", tmp_path / "out", "--events", tmp_path / "events.csv", "--out", page)
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert "out: 1 recording<" in text.replace("\n", "")
    assert "mean over 1 occurrence." in text


def test_recordings_are_listed_from_the_lowest_agreement(tmp_path: Path) -> None:
    changing = np.repeat([0, 4], 50)
    p = np.eye(8)[changing] * 0.8 + 0.025
    table = subject_rows(
        0, np.arange(100) / 10, probabilities=p, valence_arousal=np.zeros((100, 2)), voice=np.zeros(100, bool)
    )
    a = {"same": constant(0), "half": Timeline(table), "wrong": constant(0)}
    b = {"same": constant(0), "half": constant(0), "wrong": constant(4)}
    record = comparison.compare(a, b, comparison.Options(names=("Anna", "mien")))
    assert [r["kappa"] for r in record["agreement"]["recordings"]] == [None, 0, 0], "kappa of one class is undefined"
    text = write_page(tmp_path / "page.html", record).read_text(encoding="utf-8")
    rows = [text.index(f"<td>{name}</td>") for name in ("half", "wrong", "same")]
    assert rows == sorted(rows)
    assert "macro F1, Anna as truth" in text


def test_few_recordings_in_groups_are_noted_with_the_smallest_p() -> None:
    a, b = ({f"{side}{k}": constant(k % 2, n=40 + k) for k in range(3)} for side in "ab")
    (note,) = notes_of(a, b, as_groups=True)
    assert note.startswith("with 3 and 3 recordings, intervals are too narrow")
    assert "p cannot be below 0.100" in note, "2 of 20 ways to choose 3 of 6"
    (paired,) = notes_of(a, {key: constant(4) for key in a}, as_groups=True, paired=True)
    assert paired.startswith("with 3 pairs of recordings")
    assert "p cannot be below 0.250" in paired, "2 of 8 signs"


@pytest.mark.parametrize("shape", ["groups", "agreement", "events"])
def test_the_page_fits_a_telephone(tmp_path: Path, shape: str) -> None:
    api = pytest.importorskip("playwright.sync_api")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    a = {"a": constant(0), "b": constant(4)}
    b = {} if shape == "events" else {"a": constant(0), "b": constant(0)}
    marks = [events.Event("", 5.0, "joke")] if shape == "events" else []
    record = comparison.compare(a, b, comparison.Options(as_groups=shape == "groups", events=marks))
    page = write_page(tmp_path / "page.html", record)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 360, "height": 800})
        tab.goto(page.as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") == 360
        browser.close()
