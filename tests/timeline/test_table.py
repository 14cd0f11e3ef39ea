"""Timeline: columns, missing values, file formats, atomic writes, summary and plot."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mien.errors import ConfigError, MediaError, OutputError
from mien.labels import EXPRESSIONS, probability_column
from mien.timeline.table import Timeline, schema, subject_rows

COLUMNS = [
    *("time_s", "frame", "subject", "x1", "y1", "x2", "y2", "evidence", "speech", "expression"),
    *("p_neutral", "p_anger", "p_disgust", "p_fear", "p_happiness", "p_sadness", "p_surprise", "p_other"),
    *("valence", "arousal", "confidence"),
]
PROBABILITIES = COLUMNS[10:18]
SCHEMA = schema(EXPRESSIONS)


def rows(
    n: int = 40, subject: int = 0, *, gap: slice | None = None, seed: int = 0, **overrides: object
) -> pl.DataFrame:
    """Table of one subject with n rows at 25 Hz; rows in `gap` have no evidence in reach."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(8), n)
    if gap is not None:
        probabilities[gap] = np.nan
    defaults = {
        "probabilities": probabilities,
        "valence_arousal": rng.uniform(-1, 1, (n, 2)),
        "voice": rng.random(n) < 0.5,
        "face": rng.random(n) < 0.5,
        "boxes": np.tile([10.0, 20.0, 110.0, 140.0], (n, 1)),
        "frames": np.arange(n),
    }
    return subject_rows(subject, np.arange(n) / 25, **{**defaults, **overrides})


def test_columns_and_their_order() -> None:
    assert rows().columns == COLUMNS == list(SCHEMA)


def test_expression_is_the_most_probable_class_and_confidence_its_probability() -> None:
    table = rows()
    p = table.select(PROBABILITIES).to_numpy()
    assert table["expression"].to_list() == [EXPRESSIONS[i] for i in p.argmax(axis=1)]
    assert np.allclose(table["confidence"], p.max(axis=1))


def test_evidence_is_that_of_the_row() -> None:
    face, voice = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert rows(4, face=face, voice=voice)["evidence"].to_list() == ["both", "face", "voice", "none"]


def test_a_row_out_of_reach_of_evidence_has_no_prediction() -> None:
    table = rows(gap=slice(10, 20))
    gap = table[10:20]
    for name in ("expression", *PROBABILITIES, "valence", "arousal"):
        assert gap[name].null_count() == 10, name
    assert (gap["confidence"] == 0).all()
    assert table[:10]["expression"].null_count() == 0


def test_a_row_without_evidence_in_a_short_gap_keeps_its_prediction() -> None:
    table = rows(4, face=np.zeros(4, bool), voice=np.zeros(4, bool))
    assert (table["evidence"] == "none").all()
    assert table["expression"].null_count() == 0
    assert (table["confidence"] > 0).all()


def test_boxes_are_null_without_a_face() -> None:
    face = np.arange(40) % 3 == 0
    table = rows(face=face)
    assert (table["x1"].is_null().to_numpy() == ~face).all()


def test_audio_has_no_frames_and_no_boxes() -> None:
    table = rows(frames=None, face=None, boxes=None)
    assert table["frame"].null_count() == table["x1"].null_count() == 40
    assert set(table["evidence"]) <= {"voice", "none"}


def test_missing_values_are_null_and_never_nan() -> None:
    table = Timeline(rows(gap=slice(0, 5))).table
    for name, kind in SCHEMA.items():
        if kind.is_float():
            assert not table[name].is_nan().any(), name


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
@settings(max_examples=12, deadline=None)
@given(
    n=st.integers(1, 60),
    subjects=st.integers(1, 3),
    gap=st.integers(0, 59),
    has_video=st.booleans(),
    seed=st.integers(0, 99),
)
def test_write_and_read_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    ending: str,
    n: int,
    subjects: int,
    gap: int,
    has_video: bool,
    seed: int,
) -> None:
    overrides = {} if has_video else {"frames": None, "face": None, "boxes": None}
    table = pl.concat(rows(n, k, gap=slice(gap, gap + 5), seed=seed + k, **overrides) for k in range(subjects))
    timeline = Timeline(table)
    path = timeline.write(tmp_path_factory.mktemp("files") / f"a timeline.{ending}")
    back = Timeline.read(path).table
    assert back.schema == timeline.table.schema
    for name in SCHEMA:
        read, written = back[name], timeline.table[name]
        assert (read.is_null() == written.is_null()).all(), name
        if SCHEMA[name].is_float():
            within = {"time_s": 5e-7, "x1": 5e-3, "y1": 5e-3, "x2": 5e-3, "y2": 5e-3}.get(name, 5e-6 + 1e-9)
            assert ((read - written).abs().fill_null(0) <= (0 if ending == "parquet" else within + 1e-6 * 140)).all(), (
                name
            )
        else:
            assert read.to_list() == written.to_list(), name


letters = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
own_names = st.lists(
    st.one_of(
        st.sampled_from([*EXPRESSIONS, "Müde", "leicht-müde", "sehr müde", "Über mütig", "happy", "fear", "a_b", "1"]),
        st.text(letters, min_size=1, max_size=12).filter(str.strip),
    ),
    min_size=1,
    max_size=20,
    unique_by=probability_column,
)


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
@settings(max_examples=60, deadline=None)
@given(classes=own_names, gap=st.integers(0, 9), seed=st.integers(0, 99))
def test_own_classes_round_trip(
    tmp_path_factory: pytest.TempPathFactory, ending: str, classes: list[str], gap: int, seed: int
) -> None:
    p = np.random.default_rng(seed).dirichlet(np.ones(len(classes)), 9).round(5)
    p[gap : gap + 4] = np.nan
    table = rows(9, probabilities=p, classes=classes, face=np.zeros(9, bool), valence_arousal=np.full((9, 2), 0.5))
    timeline = Timeline(table, classes=classes)
    path = timeline.write(tmp_path_factory.mktemp("files") / f"t.{ending}")
    stated = Timeline.read(path, classes=classes)
    assert stated.classes == timeline.classes == tuple(classes)
    found = Timeline.read(path)
    assert stated.table.equals(found.table)
    assert found.table.columns == timeline.table.columns
    assert found.table["expression"].to_list() == timeline.table["expression"].to_list()
    within = 0 if ending == "parquet" else 1e-5
    columns = [probability_column(name) for name in classes]
    assert np.allclose(found.table.select(columns), timeline.table.select(columns), rtol=0, atol=within, equal_nan=True)
    predicted = set(timeline.table["expression"].drop_nulls())
    for column, written, read in zip(columns, classes, found.classes, strict=True):
        assert probability_column(read) == column or "_" in written
        assert read == written or (ending != "parquet" and written not in predicted)


def test_names_are_recovered_from_columns_and_expressions(tmp_path: Path) -> None:
    classes = ("Sehr Müde", "Leicht-Müde", "Fear", "ganz wach")
    p = np.tile([0.7, 0.1, 0.1, 0.1], (5, 1))
    timeline = Timeline(rows(5, probabilities=p, classes=classes), classes=classes)
    path = timeline.to_csv(tmp_path / "t.csv")
    assert Timeline.read(path).classes == ("Sehr Müde", "leicht-müde", "Fear", "ganz wach")
    assert Timeline.read(path, classes=classes).classes == classes
    with pytest.raises(MediaError, match=r"lacks the column\(s\) p_joy"):
        Timeline.read(path, classes=["Joy", *classes[1:]])


def test_files_of_the_eight_expressions_without_stored_classes_are_read(tmp_path: Path) -> None:
    """Files written before Parquet stored the classes."""
    timeline = Timeline(rows(gap=slice(3, 5)))
    timeline.table.write_parquet(
        tmp_path / "t.parquet", metadata={"mien": '{"media": "a.mp4", "notes": [], "info": {}}'}
    )
    for path in (tmp_path / "t.parquet", timeline.to_csv(tmp_path / "t.csv"), timeline.to_jsonl(tmp_path / "t.jsonl")):
        assert Timeline.read(path).classes == EXPRESSIONS


def test_a_column_that_starts_with_many_nulls_is_read_as_numbers(tmp_path: Path) -> None:
    """Readers guess types from the first rows only."""
    classes = ("a", "b")
    p = np.tile([0.75, 0.25], (400, 1))
    p[:300] = np.nan
    timeline = Timeline(rows(400, probabilities=p, classes=classes), classes=classes)
    for ending in ("csv", "jsonl"):
        back = Timeline.read(timeline.write(tmp_path / f"t.{ending}"))
        assert back.table["p_a"].to_list() == [None] * 300 + [0.75] * 100


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["Happy", "happy"], "'Happy' and 'happy' share the column p_happy"),
        (["a b", "c", "a_b"], "'a b' and 'a_b' share the column p_a_b"),
        (["a", " "], "the name of class 2 is empty"),
        (["a", "b\nc"], "'b\\\\nc' holds a line break"),
        (["a", "b\u2028c"], "holds a line break"),
    ],
)
def test_classes_that_cannot_name_columns_are_refused(classes: list[str], message: str) -> None:
    p = np.full((4, len(classes)), 1 / len(classes))
    with pytest.raises(ConfigError, match=message) as caught:
        rows(4, probabilities=p, classes=classes)
    assert (caught.value.follows, "corpus.labels" in caught.value.remedy) == ("No timeline was made.", True)
    with pytest.raises(ConfigError, match=message):
        Timeline(rows(4), classes=classes)


def test_probabilities_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"4 rows of 8 classes need as many probabilities; got \(4, 3\)"):
        rows(4, probabilities=np.full((4, 3), 1 / 3))


def test_csv_has_empty_fields_and_rounded_numbers(tmp_path: Path) -> None:
    text = Timeline(rows(3, gap=slice(1, 2), face=np.zeros(3, bool))).to_csv(tmp_path / "t.csv").read_text()
    lines = text.splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert lines[2].startswith("0.04,1,0,,,,,")
    assert "nan" not in text.lower()
    assert max(len(field) for line in lines[1:] for field in line.split(",")) <= 9


@pytest.mark.parametrize("n", [0, 1, 16_384, 16_385])
def test_csv_and_jsonl_have_all_rows_at_any_length(tmp_path: Path, n: int) -> None:
    timeline = Timeline(rows(n) if n else rows(1).clear())
    assert len(timeline.to_csv(tmp_path / "t.csv").read_text().splitlines()) == n + 1
    assert len(timeline.to_jsonl(tmp_path / "t.jsonl").read_text().splitlines()) == n


def test_jsonl_is_one_object_per_line(tmp_path: Path) -> None:
    path = Timeline(rows(3, gap=slice(1, 2))).to_jsonl(tmp_path / "t.jsonl")
    objects = [json.loads(line) for line in path.read_text().splitlines()]
    assert [list(o) for o in objects] == [COLUMNS] * 3
    assert objects[1]["expression"] is None


def test_parquet_carries_media_notes_and_info(tmp_path: Path) -> None:
    timeline = Timeline(rows(), media="über.mp4", notes=["it ends early"], info={"model": "starter"})
    back = Timeline.read(timeline.to_parquet(tmp_path / "t.parquet"))
    assert (back.media, back.notes, back.info) == ("über.mp4", ("it ends early",), {"model": "starter"})


def test_rows_are_sorted_by_subject_then_time() -> None:
    shuffled = pl.concat([rows(subject=1), rows(subject=0)]).sample(fraction=1, shuffle=True, seed=3)
    table = Timeline(shuffled).table
    assert table.equals(table.sort("subject", "time_s"))
    assert Timeline(shuffled).subjects == [0, 1]
    assert Timeline(shuffled).rows_of(1)["subject"].unique().to_list() == [1]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (lambda: rows().drop("valence", "evidence"), r"lacks the column\(s\) evidence, valence"),
        (lambda: rows().drop(PROBABILITIES), r"lacks the column\(s\) p_<class>"),
        (lambda: rows().with_columns(mood=1), r"unknown column\(s\) mood"),
        (lambda: rows().with_columns(evidence=pl.lit("eyes")), "evidence holds 'eyes'; it may hold both"),
        (
            lambda: rows().with_columns(expression=pl.lit("Joy")),
            "expression holds 'Joy'; it may hold Neutral",
        ),
    ],
)
def test_a_wrong_table_is_an_error(table, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Timeline(table())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.csv", None, "there is no such file"),
        ("notes.txt", b"hello", "its suffix is none of .csv, .parquet, .jsonl"),
        ("other.csv", b"a,b\n1,2\n", "lacks the column"),
        ("broken.parquet", b"PAR1 but not really", "cannot be read as a timeline"),
        ("broken.jsonl", b"{]", "cannot be read as a timeline"),
    ],
)
def test_a_file_that_is_not_a_timeline_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MediaError, match=message) as caught:
        Timeline.read(tmp_path / name)
    assert name in caught.value.what
    assert "mien predict" in caught.value.remedy


def test_an_unknown_format_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"cannot be written as \.xlsx") as caught:
        Timeline(rows()).write(tmp_path / "t.xlsx")
    assert (caught.value.follows, caught.value.remedy) == (
        "Nothing was written.",
        "End the name in .csv, .parquet, .jsonl.",
    )
    assert not list(tmp_path.iterdir())


# --- atomic writes ---


def test_a_folder_at_the_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.csv").mkdir()
    with pytest.raises(OutputError, match="is a directory"):
        Timeline(rows()).to_csv(tmp_path / "t.csv")


def test_a_file_at_a_parent_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("I am a file")
    with pytest.raises(OutputError, match="is a file or lies in one"):
        Timeline(rows()).to_csv(tmp_path / "out" / "t.csv")


def test_a_failed_write_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_text("an earlier file")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_csv", full)
    with pytest.raises(OutputError, match="the disk is full") as caught:
        Timeline(rows()).to_csv(path)
    assert "--out" in caught.value.remedy
    assert path.read_text() == "an earlier file"
    assert list(tmp_path.iterdir()) == [path]


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_table import rows\n"
        "from mien.timeline.table import Timeline; from mien.errors import OutputError\n"
        "for ending in ('csv', 'parquet', 'jsonl'):\n"
        "    try: Timeline(rows(2000)).write(f'{sys.argv[2]}/t.{ending}')\n"
        "    except OutputError as error: print(error.what)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)],
        preexec_fn=_limited,
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("the disk is full") == 3, done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_missing_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="no permission to write"):
        Timeline(rows()).to_csv(tmp_path / "t.csv")


def test_missing_permission_has_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(OutputError, match="no permission to write") as caught:
        Timeline(rows()).to_csv(tmp_path / "t.csv")
    assert "folder of your own" in caught.value.remedy


# --- summary and plot ---


def print_summary(timeline: Timeline, width: int = 100) -> str:
    file = io.StringIO()
    console = Console(width=width, file=file)
    console.print(timeline.summary())
    return file.getvalue()


def certain_probabilities(names: list[str], seconds: list[float], rate: float = 25.0) -> np.ndarray:
    """Probabilities `(row, 8)` of .9 for each of `names` in turn, for `seconds` each."""
    index = np.repeat([EXPRESSIONS.index(n) for n in names], [round(s * rate) for s in seconds])
    p = np.full((len(index), 8), 0.1 / 7)
    p[np.arange(len(index)), index] = 0.9
    return p


def test_summary_names_shares_stretches_and_notes() -> None:
    p = certain_probabilities(["Neutral", "Happiness"], [3.0, 1.0])
    n = len(p)
    timeline = Timeline(
        rows(
            n,
            probabilities=p,
            face=np.ones(n, bool),
            voice=np.arange(n) < n // 2,
            valence_arousal=np.full((n, 2), 0.25),
        ),
        media="holiday/clip.mp4",
        notes=["the file ends early at 4.0 s"],
    )
    text = print_summary(timeline)
    for part in (
        "clip.mp4",
        "100 rows",
        "1 subject",
        "75%",
        "0.0 s – 3.0 s",
        "Happiness",
        "valence +0.25",
        "evidence: both 50%, face 50%",
        "note  the file ends early at 4.0 s",
    ):
        assert part in text, f"{part!r} is not in:\n{text}"


def test_summary_without_evidence() -> None:
    text = print_summary(Timeline(rows(gap=slice(None), valence_arousal=np.full((40, 2), np.nan))))
    assert "no face or voice evidence, so no expression" in text


def test_summary_of_valence_and_arousal_alone_names_no_expression() -> None:
    table = pl.concat(
        [
            rows(gap=slice(None), valence_arousal=np.full((40, 2), 0.25)),
            rows(gap=slice(None), valence_arousal=np.full((40, 2), np.nan), subject=1),
        ]
    )
    text = print_summary(Timeline(table))
    assert "valence +0.25 · arousal +0.25" in text
    assert "no face or voice evidence, so no valence or arousal" in text
    assert "expression" not in text


def test_summary_of_expressions_alone_names_no_valence() -> None:
    text = print_summary(Timeline(rows(valence_arousal=np.full((40, 2), np.nan))))
    assert "valence" not in text
    assert "arousal" not in text


def test_summary_shows_own_classes_literally() -> None:
    """A name in brackets is not markup of the terminal library."""
    classes = ("[red]", "Müde")
    p = np.tile([0.9, 0.1], (50, 1))
    text = print_summary(Timeline(rows(50, probabilities=p, classes=classes), classes=classes))
    assert "[red]" in text
    assert "100%" in text


def test_shares_are_weighted_by_time() -> None:
    times = np.concatenate([np.arange(50) / 50, 1 + np.arange(10) / 10])  # one second at 50 Hz, one at 10 Hz
    p = np.concatenate([certain_probabilities(["Anger"], [1], 50), certain_probabilities(["Sadness"], [1], 10)])
    n = len(times)
    table = subject_rows(0, times, probabilities=p, valence_arousal=np.zeros((n, 2)), voice=np.ones(n, bool))
    assert Timeline(table).summaries()[0].shares == pytest.approx({"Anger": 0.5, "Sadness": 0.5}, abs=0.05)


def test_stretches_cover_the_rows_with_an_expression() -> None:
    p = certain_probabilities(["Neutral", "Fear", "Neutral"], [1, 2, 1])
    p[25:35] = np.nan
    (summary,) = Timeline(rows(len(p), probabilities=p)).summaries()
    found = [(s.expression, round(s.start_s, 2), round(s.stop_s, 2)) for s in summary.stretches]
    assert found == [("Neutral", 0, 1), ("Fear", 1.4, 3), ("Neutral", 3, 4)]
    assert summary.unnamed == pytest.approx(0.1)


def test_plot_has_every_subject(tmp_path: Path) -> None:
    timeline = Timeline(pl.concat([rows(gap=slice(5, 9)), rows(subject=1)]), media="a<b>&c.mp4")
    picture = timeline.plot(tmp_path / "t.svg")
    root = ElementTree.fromstring((tmp_path / "t.svg").read_text())
    text = "".join(root.itertext())
    assert root.tag.endswith("svg")
    assert "a<b>&c.mp4" in text
    assert "Subject 0" in text
    assert "Subject 1" in text
    assert timeline._repr_html_() == picture


def plot_texts(timeline: Timeline) -> list[str]:
    root = ElementTree.fromstring(timeline.plot())
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


def hatched(timeline: Timeline) -> list[tuple[float, float]]:
    """Top and bottom of each hatched area of a plot."""
    areas = [e for e in ElementTree.fromstring(timeline.plot()).iter() if e.get("fill") == "url(#hatch)"]
    return [(float(e.get("y", 0)), float(e.get("y", 0)) + float(e.get("height", 0))) for e in areas]


def test_plot_of_valence_and_arousal_alone_has_no_expressions_and_no_hatching() -> None:
    timeline = Timeline(rows(probabilities=np.full((40, 8), np.nan)))
    texts = plot_texts(timeline)
    assert "valence" in texts
    assert not {"Expression", *EXPRESSIONS} & set(texts)
    assert hatched(timeline) == []


def test_plot_of_expressions_alone_has_no_curves() -> None:
    texts = plot_texts(Timeline(rows(valence_arousal=np.full((40, 2), np.nan))))
    assert {"Expression", *EXPRESSIONS, "Evidence"} <= set(texts)
    assert not {"valence", "arousal, dashed", "+1"} & set(texts)


def test_rows_without_an_estimate_are_hatched_in_both_parts() -> None:
    first, second = hatched(Timeline(rows(gap=slice(5, 9))))
    assert first[0] == 0
    assert first[1] <= second[0], "the curves have a hatching of their own"


@pytest.mark.parametrize("count", [2, 3, 8, 16, 20])
def test_plot_names_every_class_once_and_lanes_do_not_overlap(count: int) -> None:
    classes = [f"<{chr(97 + k)}> & {'sehr ' * 12}lang" for k in range(count)]
    p = np.full((40, count), 1 / count)
    root = ElementTree.fromstring(Timeline(rows(probabilities=p, classes=classes), classes=classes).plot())
    svg = "{http://www.w3.org/2000/svg}"
    names = [e for e in root.iter(f"{svg}text") if e.find(f"{svg}title") is not None]
    assert [e.find(f"{svg}title").text for e in names] == classes
    tops = [float(e.get("y", 0)) for e in names]
    assert np.diff(tops).min() >= 18
    left = min(float(e.get("x1", 0)) for e in root.iter(f"{svg}line"))
    for element in names:
        text = "".join(element.itertext()).removeprefix(element.find(f"{svg}title").text or "")
        assert text.endswith("…")
        assert float(element.get("x", 0)) + 7.2 * len(text) < left + 7.2


def test_plot_size_is_bounded(tmp_path: Path) -> None:
    assert Timeline(rows(1)).plot().startswith("<svg")
    long = Timeline(rows(20_000)).plot()
    assert len(long) < 6e5, "the size of a plot must not grow with the recording"
