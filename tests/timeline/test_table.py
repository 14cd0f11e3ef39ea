"""Timeline: columns, missing values, file formats, atomic writes."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import MediaError, OutputError
from mien.labels import EXPRESSIONS
from mien.timeline.columns import QUALITY, schema
from mien.timeline.table import Timeline
from tests.timeline_rows import rows

COLUMNS = [
    *("time_s", "frame", "subject", "x1", "y1", "x2", "y2", "evidence", "speech", "expression"),
    *("p_neutral", "p_anger", "p_disgust", "p_fear", "p_happiness", "p_sadness", "p_surprise", "p_other"),
    *("valence", "arousal", "confidence"),
    *("face_score", "yaw", "pitch", "roll", "visible", "sharpness", "quality", "speech_db", "uncertain"),
]
PROBABILITIES = COLUMNS[10:18]
SCHEMA = schema(EXPRESSIONS)


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
def test_quality_is_kept_in_files_and_null_in_older_ones(ending: str, tmp_path: Path) -> None:
    quality = {"quality": np.linspace(0, 1, 8), "yaw": np.arange(8.0), "uncertain": np.arange(8) < 4}
    timeline = Timeline(rows(8, gap=slice(2, 4), quality=quality, valence_arousal=np.full((8, 2), np.nan)))
    back = Timeline.read(timeline.write(tmp_path / f"t.{ending}")).table
    assert back["uncertain"].to_list() == [True, True, None, None, False, False, False, False]
    assert back["yaw"].to_list() == list(range(8))
    assert back["roll"].null_count() == 8
    older = timeline.table.drop(*QUALITY)
    assert Timeline(older).table.columns == COLUMNS
    assert Timeline(older).table["uncertain"].null_count() == 8


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
@settings(max_examples=12)
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
        ("list.jsonl", b"[1, 2]\n", "its first line is not a JSON object"),
        ("empty.csv", b"", "it is empty"),
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
        "End the name in .csv, .parquet, .jsonl, .eaf, .TextGrid, .vtt, .srt, .boris, .boris.csv, .labelstudio.json, "
        ".rttm.",
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
        "import sys; sys.path.insert(0, sys.argv[1]); from timeline_rows import rows\n"
        "from mien.timeline.table import Timeline; from mien.errors import OutputError\n"
        "for ending in ('csv', 'parquet', 'jsonl'):\n"
        "    try: Timeline(rows(2000)).write(f'{sys.argv[2]}/t.{ending}')\n"
        "    except OutputError as error: print(error.what)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(tmp_path)],
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
