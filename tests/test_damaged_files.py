"""Mien's own files, damaged: every reader names the file in its error, and no damage changes an answer in silence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien import checkpoint, config, onnx_model
from mien.cli import provenance
from mien.datasets import csv_folder
from mien.datasets.affwild2_labels import EXPR_HEADER
from mien.datasets.frame_times import FrameTimes
from mien.datasets.index import Index
from mien.datasets.index_entries import Entry, Problem
from mien.datasets.stored_recordings import load_recordings
from mien.errors import ConfigError, CorpusError, MediaError, MienError
from mien.records import Stream
from mien.store import FeatureStore, StoreError
from mien.store.reader import verify_file
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline
from tests.earlier_version import without_digests
from tests.tiny_checkpoint import save_tiny

ROOT = Path(__file__).parents[1]
#: Damaged files that were found by mutation, outside the repository.
SAMPLES = ROOT.parent / "shared" / "broken" / "formats"
FILES = sorted(SAMPLES.glob("*")) if SAMPLES.is_dir() else []
FEW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def table(rows: int = 6) -> pl.DataFrame:
    """A timeline of two people."""
    rng = np.random.default_rng(0)
    boxes = np.tile([1.0, 2.0, 30.0, 40.0], (rows, 1))
    parts = []
    for subject in (0, 1):
        p = rng.dirichlet(np.ones(8), rows)
        parts.append(
            subject_rows(
                subject, np.arange(rows) / 10, probabilities=p, valence_arousal=rng.uniform(-1, 1, (rows, 2)),
                voice=np.ones(rows, bool), face=np.arange(rows) % 2 == 0, boxes=boxes,
                frames=np.arange(rows),
            )
        )  # fmt: skip
    return pl.concat(parts)


# The samples


@pytest.mark.skipif(not FILES, reason=f"{SAMPLES} is not here")
@pytest.mark.parametrize("sample", FILES, ids=lambda path: path.name)
def test_a_sample_is_an_error_that_names_the_file(sample: Path, tmp_path: Path) -> None:
    kind = sample.name.split("_")[0]
    start = time.process_time()
    if sample.name == "recipe_0_del_recipe.yaml":  # of an earlier version, without another fault than a shorter number
        assert config.load(sample).paper.arxiv == "268034"
    elif sample.name == "timeline.parquet_63_bits_t.parquet":  # the bit is in a statistic that is not read
        rows = Timeline.read(sample).table
        assert rows.height == 12
        assert rows["p_anger"].max() < 1  # type: ignore[operator]
    else:
        with pytest.raises(MienError) as caught:
            read_sample(kind, sample, tmp_path)
        assert sample.name.rsplit("_", 1)[-1] in str(caught.value) or sample.name in str(caught.value)
    assert time.process_time() - start < 5


def read_sample(kind: str, sample: Path, folder: Path) -> object:
    """Read a sample in place; files of a checkpoint in a folder, where they replace the whole ones."""
    if kind == "index.jsonl":
        renamed = folder / sample.name  # its corpus has another name today, and is refused for that alone
        renamed.write_bytes(sample.read_bytes().replace(b'"theatre"', b'"synthetic"'))
        if "_128_" in sample.name:  # the name of a label file, whose bytes may be any
            changed = Index.load(renamed, folder)
            labels = folder / "EXPR_Recognition_Challenge" / "Train_Set" / "train_0001.txt"
            labels.parent.mkdir(parents=True)
            labels.write_text(EXPR_HEADER + "\n1\n")
            with pytest.raises(CorpusError, match=r"VA_Estimation_Chall"):
                changed.clip(next(entry for entry in changed.entries if entry.id == "train_0001"), "va")
        elif "swapline" not in sample.name:  # the order of two clips: no other answer
            return Index.load(renamed)
        assert {entry.id for entry in Index.load(renamed).entries} > {"test_0004", "train_0005_left"}
        return Index.load(sample)
    if kind == "folder":
        return csv_folder.read_table(sample, folder)
    if kind == "store":
        return verify_file(sample)
    if kind.startswith("timeline"):
        return Timeline.read(sample)
    if kind == "recipe":
        return config.load(sample)
    name = kind.split("+")[1]
    save_tiny(folder / "run")
    shutil.copyfile(sample, folder / "run" / name)
    if name == "metrics.json":
        return checkpoint.load(folder / "run")
    if name == "recipe.yaml":
        with pytest.raises(ConfigError, match=r"recipe.yaml is not the file"):
            checkpoint.load(folder / "run")
        return config.load(sample)
    if name == "checkpoint.json":
        return checkpoint.load(folder / "run")
    return load_network(sample, folder / "run")


def load_network(sample: Path, run: Path) -> object:
    """Load a damaged network.json in a checkpoint of an earlier version that has the labels of the whole file."""
    weights, network = "29d4c978c94d4f1ef8fd307f4de68ba22e57d857ebbec3eca51230e6e03a592f", b"network"
    (run / onnx_model.NETWORK).write_bytes(network)
    stated = "069af11f6a34f09686bd95c549e1e7c9a4c75407501d3e0609a3198ff8152b94"
    text = sample.read_text().replace(stated, hashlib.sha256(network).hexdigest())
    (run / onnx_model.ABOUT).write_text(text)
    without_digests(run, sha256=weights)
    return onnx_model.load(run, weights)


# Tables


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_timeline_that_was_cut_anywhere_is_refused(tmp_path: Path, ending: str) -> None:
    """Except after a whole row, where a text file cannot be told from a shorter one."""
    whole = Timeline(table()).write(tmp_path / f"whole.{ending}").read_bytes()
    assert Timeline.read(tmp_path / f"whole.{ending}").table.height == 12
    cut = tmp_path / f"cut.{ending}"
    for size in range(1, len(whole), 97 if ending == "parquet" else 41):
        cut.write_bytes(whole[:size])
        if ending != "parquet" and whole[size - 1 : size] == b"\n":
            continue
        with pytest.raises(MediaError, match=rf"cut.{ending} cannot be read as a timeline"):
            Timeline.read(cut)


@FEW
@given(place=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), ending=st.sampled_from(["csv", "jsonl"]))
def test_a_changed_byte_is_refused_or_still_a_possible_timeline(
    tmp_path: Path, place: float, byte: int, ending: str
) -> None:
    path = Timeline(table()).write(tmp_path / f"t.{ending}")
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] = byte
    path.write_bytes(data)
    try:
        read = Timeline.read(path).table
    except (MediaError, ConfigError):
        return
    assert read["time_s"].is_finite().all()
    assert read["confidence"].is_between(-1e-3, 1.001).all()


@FEW
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_changed_bit_of_a_parquet_file_is_refused(tmp_path: Path, place: float, bit: int) -> None:
    """Before it is parsed: bit 0 of byte 13, the length of a page, ends a process in polars' reader."""
    path = Timeline(table()).write(tmp_path / "t.parquet")
    whole = path.read_bytes()
    for at in (int(place * len(whole)), 13):
        data = bytearray(whole)
        data[at] ^= 1 << bit
        path.write_bytes(data)
        with pytest.raises(MediaError, match=r"t\.parquet"):
            Timeline.read(path)


@FEW
@given(cut=st.floats(0, 1, exclude_max=True), more=st.binary(max_size=9))
def test_a_parquet_file_that_is_cut_or_goes_on_is_refused(tmp_path: Path, cut: float, more: bytes) -> None:
    path = Timeline(table()).write(tmp_path / "t.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))] + more)
    with pytest.raises(MediaError):
        Timeline.read(path)
    path.write_bytes(whole)
    assert len(Timeline.read(path)) == 12


def test_other_readers_do_not_see_the_digest_of_a_parquet_file(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    timeline = Timeline(table())
    path = timeline.write(tmp_path / "t.parquet")
    assert b"MIENSHA2" in path.read_bytes()
    pq.read_table(path).validate(full=True)
    for read in (pl.from_arrow(pq.read_table(path)), pl.read_parquet(path)):
        assert isinstance(read, pl.DataFrame)
        assert read.equals(timeline.table)
    other = tmp_path / "other.parquet"
    timeline.table.write_parquet(other)
    assert Timeline.read(other).table.equals(timeline.table), "a file of another program has no digest"


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("time_s", -5.0, r"row 1: time_s is not a number from 0 up"),
        ("time_s", 0.0, r"row 2: time_s does not increase"),
        ("confidence", None, r"row 2: confidence is missing"),
        ("p_anger", 2147483648.0, r"row 2: p_anger is not in \[0, 1\]"),
        ("p_anger", None, r"row 2: some probabilities are missing"),
        ("p_anger", 1.0, r"row 2: the probabilities do not have the sum 1"),
        ("valence", 1.5, r"row 2: valence is not in \[-1, 1\]"),
        ("frame", -1, r"row 2: the frame is negative"),
        ("x1", 99.0, r"row 2: the box is not one"),
        ("evidence", None, r"the column evidence is empty in row 2"),
    ],
)
def test_an_impossible_row_is_named(tmp_path: Path, column: str, value: float | None, reason: str) -> None:
    box = {name: pl.lit(value, pl.Float32) for name, value in (("x1", 1), ("y1", 2), ("x2", 3), ("y2", 4))}
    rows = table().with_columns(**box)
    changed = pl.when(pl.int_range(pl.len()) == 1).then(pl.lit(value)).otherwise(pl.col(column))
    rows.with_columns(changed.alias(column)).write_csv(tmp_path / "t.csv")
    with pytest.raises(MediaError, match=rf"t.csv cannot be read as a timeline: {reason}"):
        Timeline.read(tmp_path / "t.csv")


def test_a_path_with_brackets_is_not_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "[ab]").mkdir()
    for ending in ("csv", "jsonl", "parquet"):
        path = Timeline(table()).write(tmp_path / "[ab]" / f"t*.{ending}")
        assert Timeline.read(path).table.height == 12


# Indices


def index(root: Path) -> Index:
    times = FrameTimes(np.arange(30) / 30)
    entries = [
        Entry(f"clip{i}", f"clip{i}.mp4", subject=f"s{i}", splits={"expr": "train"}, labels={"expr": f"clip{i}.txt"},
              rows=30, duration_s=1.0, has_video=True, times=times, present=np.ones(30, bool))
        for i in range(3)
    ]  # fmt: skip
    return Index("synthetic", root, entries, [Problem("note", "k", "f", 1, "w", "r")], counts={"rows": {"Neutral": 3}})


def test_every_changed_byte_of_an_index_is_refused(tmp_path: Path) -> None:
    index(tmp_path).save(tmp_path / "i.jsonl")
    whole = (tmp_path / "i.jsonl").read_bytes()
    assert len(Index.load(tmp_path / "i.jsonl").entries) == 3
    for place in range(0, len(whole), 11):
        data = bytearray(whole)
        data[place] = ord("7") if data[place] != ord("7") else ord("8")
        (tmp_path / "i.jsonl").write_bytes(data)
        with pytest.raises(ConfigError, match=r"i.jsonl"):
            Index.load(tmp_path / "i.jsonl")
    lines = whole.split(b"\n")
    (tmp_path / "i.jsonl").write_bytes(b"\n".join([lines[0], *lines[2:]]))
    with pytest.raises(ConfigError, match=r'remove "digest" from the first line'):
        Index.load(tmp_path / "i.jsonl")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("splits", {"expr": 1e308}, "a split that is no text"),
        ("splits", {"expr": "holiday"}, "has the split 'holiday'"),
        ("splits", {"weather": "train"}, "labels of an unknown task"),
        ("labels", {"expr": None}, "neither a file nor a number"),
        ("duration_s", -1.0, "a duration of -1.0 s"),
        ("rows", "many", "'many' rows"),
        ("times", "", "AttributeError"),
        ("present", [9, "ff"], "8 marks of frames in place of 9"),
        ("id", "clip1", "is there twice"),
        ("id", 7, "a name or a split that is no text"),
    ],
)
def test_an_index_of_an_earlier_version_has_possible_values(
    tmp_path: Path, key: str, value: object, reason: str
) -> None:
    path = tmp_path / "i.jsonl"
    index(tmp_path).save(path)
    header, first, *rest = path.read_text().splitlines()
    old = json.loads(header)
    del old["digest"]
    path.write_text("\n".join([json.dumps(old), first, *rest]))
    assert len(Index.load(path).entries) == 3
    path.write_text("\n".join([json.dumps(old), json.dumps(json.loads(first) | {key: value}), *rest]))
    with pytest.raises(ConfigError, match=rf"i.jsonl is not an index of this version .*{reason}"):
        Index.load(path)


@pytest.mark.parametrize(
    "content", [None, b"\xff\x00", b"valence,arousal\n0,0\n"], ids=["gone", "garbage", "another task"]
)
def test_labels_that_can_no_longer_be_read_are_an_error(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "clip0.txt").write_bytes(content)
    corpus = index(tmp_path)
    with pytest.raises(CorpusError, match=r"clip0(.|\n)*Its labels were not read."):
        corpus.clip(corpus.entries[0], "expr")


def test_frame_times_that_unpack_to_more_than_their_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = FrameTimes(np.arange(100) / 30).to_text()
    monkeypatch.setattr("mien.datasets.frame_times._MAX_TIMES", 100)
    with pytest.raises(ValueError, match="frame times of more than 100 bytes"):
        FrameTimes.from_text(text)


# Recipes, label tables, calibrations, results


@pytest.mark.parametrize(
    "text", [b"a: \x00", b"a: \xff\xfe", b"[" * 3000, b"{a: " * 3000, b"? {b: 1}\n: 1", b"a: 2026-02-30", b"a: &x [*x"]
)
def test_every_fault_of_yaml_is_an_error_of_the_recipe(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "r.yaml").write_bytes(text)
    start = time.process_time()
    with pytest.raises(ConfigError, match=r"r.yaml"):
        config.load(tmp_path / "r.yaml")
    assert time.process_time() - start < 1


def test_a_label_table_with_an_endless_cell_is_an_error_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("media,expression\na.wav,Anger\na.wav," + "x" * 200_000 + "\n")
    with pytest.raises(CorpusError, match=r"labels.csv:3: cannot be read as a table: field larger than field limit"):
        csv_folder.read_table(tmp_path / "labels.csv", tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"subjects": None}, {"subjects": [{"evidence": None}]}, {"media": {}}, {"files": []}, {"classes": ["calm"]}],
)
def test_a_damaged_timeline_json_counts_as_no_result(tmp_path: Path, change: dict[str, object]) -> None:
    whole = {
        "format": provenance.FORMAT, "media": {"path": "a.wav", "digest": ""}, "files": {}, "notes": [],
        "classes": ["Anger"], "model": "m", "rows": 1,
        "subjects": [{"subject": 0, "shares": {"Anger": 1.0}, "evidence": {"face": 0, "voice": 1, "both": 0},
                      "valence": None, "arousal": 0.1}],
    }  # fmt: skip
    for content, is_read in ((whole, True), (whole | change, False)):
        (tmp_path / "timeline.json").write_text(json.dumps(content))
        assert (provenance.read(tmp_path) is not None) == is_read
    (tmp_path / "timeline.json").write_text("[" * 100_000)
    assert provenance.read(tmp_path) is None


# The feature store


def test_a_changed_byte_of_stored_features_is_found_before_they_are_used(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "s")
    stream = Stream(np.ones((10, 4), np.float32), np.arange(10) / 10, np.ones(10, bool), {"network": "n"})
    paths = [store.write("enc", f"clip{i}", stream) for i in range(3)]
    data = bytearray(paths[1].read_bytes())
    data[-100] ^= 64
    paths[1].write_bytes(data)
    corpus = index(tmp_path)
    assert len(load_recordings(corpus, tmp_path / "s", {"voice": "enc"}, labels=False, verify=False)) == 3
    with pytest.raises(StoreError, match=r"clip1.safetensors is damaged: its checksum differs"):
        load_recordings(corpus, tmp_path / "s", {"voice": "enc"}, labels=False)


def test_stray_part_files_do_not_stop_the_store(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    stream = Stream(np.ones((10, 4), np.float32), np.arange(10) / 10, np.ones(10, bool), {"network": "n"})
    folder = store.write("enc", "clip", stream).parent
    strays = [".part", ".a.part", ".a.b.part", ".a.b.c.d.part", ".x.host.pid.0.part", ".🙂.part", "b.part"]
    for name in strays:
        (folder / name).write_bytes(b"")
    assert store.gc() == []
    assert list(store.open("enc")) == ["clip"]
    assert all((folder / name).exists() for name in strays), "files that are not mien's are left"


# Names and encodings


@pytest.fixture(scope="module")
def strange_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound files whose names are markup, patterns, bytes that are not UTF-8, and letters that cp1252 lacks."""
    root = tmp_path_factory.mktemp("strange")
    (root / "in" / "[").mkdir(parents=True)
    hum = (0.1 * np.sin(np.arange(8000) / 20)).astype(np.float32)
    for name in (b"[/b] a.wav", b"caf\xe9.wav", b"[red]x*.wav", "日本.wav".encode()):
        with open(os.fsencode(root / "in") + b"/" + name, "wb") as file:
            soundfile.write(file, hum, 16_000, format="WAV")
    save_tiny(root / "model")
    return root


@pytest.mark.timeout(200)
@pytest.mark.skipif(sys.platform != "linux", reason="names that are not UTF-8")
@pytest.mark.parametrize("options", [["--report"], ["--json", "--format", "parquet"]], ids=["text", "json"])
def test_strange_names_on_a_terminal_of_few_letters_do_not_end_a_folder(
    strange_folder: Path, options: list[str]
) -> None:
    out = strange_folder / f"out{len(options)}"
    words = [sys.executable, "-m", "mien", "predict", strange_folder / "in", "--model", strange_folder / "model"]
    done = subprocess.run(
        [*map(str, words), "--out", str(out), "--no-face", "--device", "cpu", *options],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == 0, done.stderr.decode("cp1252", "replace")
    assert len(list(out.glob("*/timeline.json"))) == 4
    assert (out / "index.html").read_text(encoding="utf-8").count("timeline.") >= 4
    if "--json" in options:
        results = json.loads(done.stdout.decode("cp1252"))["results"]
        assert os.fsencode(strange_folder / "in") + b"/caf\xe9.wav" in [os.fsencode(r["media"]) for r in results]
        assert pl.read_parquet(out / "timelines.parquet")["file"].n_unique() == 4
