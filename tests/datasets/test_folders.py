"""CSV folder reader: labels of clips, spans and moments, and problems of wrong rows."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mien.datasets.index import Index, build_index
from mien.errors import ConfigError, CorpusError
from mien.labels import EXPRESSIONS
from mien.media.video import write_video


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 (2 s, 25 fps, silent), sub/b.wav (1 s), sub/c.wav (1 s)."""
    root = tmp_path_factory.mktemp("media")
    (root / "sub").mkdir()
    pictures = (np.full((32, 32, 3), i, np.uint8) for i in range(50))
    write_video(root / "a.mp4", pictures, rate=Fraction(25))
    for name in "bc":
        soundfile.write(root / f"sub/{name}.wav", np.zeros(16000), 16000)
    return root


def index_table(media: Path, tmp_path: Path, text: str) -> Index:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return build_index("folder", media, table=path)


def lines_and_problems(corpus_index: Index) -> list[tuple[int | None, str]]:
    return [(p.line, p.what) for p in corpus_index.problems]


def test_a_row_without_times_labels_the_whole_recording(media: Path, tmp_path: Path) -> None:
    corpus_index = index_table(
        media,
        tmp_path,
        "media,subject,split,expression,valence,arousal\n"
        "a.mp4,anna,train,Happiness,0.5,0.25\nsub/b.wav,ben,val,Sadness,,\nsub/c.wav,ben,val,,,\n",
    )
    assert corpus_index.problems == []
    assert corpus_index.classes == EXPRESSIONS
    clips = {clip.id: clip for clip in corpus_index.clips()}
    a = clips["a"]
    assert a.media == media / "a.mp4"
    assert (a.subject, a.split) == ("anna", "train")
    assert a.labels is not None
    np.testing.assert_allclose(a.labels.times, (np.arange(50) + 0.5) / 25)
    assert (a.labels.expression == EXPRESSIONS.index("Happiness")).all()
    assert (a.labels.valence_arousal == [0.5, 0.25]).all()
    b = clips["b"].labels
    assert b is not None
    assert (b.expression == EXPRESSIONS.index("Sadness")).all()
    assert np.isnan(b.valence_arousal).all()
    assert corpus_index["a"].has_video
    assert not corpus_index["a"].has_audio
    assert corpus_index["b"].has_audio
    assert clips.keys() == {"a", "b", "c"}


def test_a_span_labels_only_what_it_covers(media: Path, tmp_path: Path) -> None:
    corpus_index = index_table(
        media, tmp_path, "media;expression;start_s;stop_s\na.mp4;Anger;0.5;1\na.mp4;Fear;1;1.2\n"
    )
    labels = corpus_index.clip(corpus_index["a"]).labels
    assert labels is not None
    t = labels.times
    expected = np.where((t >= 0.5) & (t < 1), 1, np.where((t >= 1) & (t < 1.2), 3, -1))
    np.testing.assert_array_equal(labels.expression, expected)


def test_labels_of_moments_keep_their_times_and_are_sorted(media: Path, tmp_path: Path) -> None:
    corpus_index = index_table(
        media, tmp_path, "media\ttime_s\tvalence\tarousal\na.mp4\t1.5\t0.1\t0\na.mp4\t0.25\t-1\t1\n"
    )
    labels = corpus_index.clip(corpus_index["a"]).labels
    assert labels is not None
    assert labels.times.tolist() == [0.25, 1.5]
    assert labels.valence_arousal.tolist() == [[-1, 1], [0.1, 0]]
    assert corpus_index.tasks == ("va",)


def test_other_class_names_are_stored_in_the_index(media: Path, tmp_path: Path) -> None:
    corpus_index = index_table(media, tmp_path, "media,expression\na.mp4,bored\nsub/b.wav,Anger\n")
    assert corpus_index.classes == ("Anger", "bored")
    corpus_index.save(tmp_path / "i.jsonl")
    again = Index.load(tmp_path / "i.jsonl")
    labels = again.clip(again["a"]).labels
    assert labels is not None
    assert set(labels.expression) == {1}


def test_the_only_table_of_the_folder_is_read_and_several_are_an_error(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(800), 16000)
    (tmp_path / "labels.csv").write_text("media,expression\nx.wav,Other\n")
    assert [e.id for e in build_index("folder", tmp_path).entries] == ["x"]
    (tmp_path / "more.csv").write_text("media\nx.wav\n")
    with pytest.raises(
        CorpusError, match=r"2 tables: labels\.csv, more\.csv\nNothing was indexed\.\nName one with --table"
    ):
        build_index("folder", tmp_path)


def test_without_a_table_every_media_file_is_an_unlabelled_clip(media: Path) -> None:
    corpus_index = build_index("folder", media)
    assert [e.id for e in corpus_index.entries] == ["a", "b", "c"]
    assert all(clip.labels is None for clip in corpus_index.clips())


@pytest.mark.parametrize("name", ["Zoë 1", "発話", "line\u2028break", 'quo"te', os.fsdecode(b"caf\xe9")])
def test_unusual_file_names_are_unchanged_in_the_index(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(800), 16000)
    (tmp_path / "m").mkdir()
    (tmp_path / "x.wav").rename(tmp_path / "m" / f"{name}.wav")
    build_index("folder", tmp_path / "m").save(tmp_path / "i.jsonl")
    (clip,) = Index.load(tmp_path / "i.jsonl").clips()
    assert clip.id == name
    assert clip.media is not None
    assert clip.media.is_file()


def test_clips_with_equal_file_names_are_named_with_their_folders(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        soundfile.write(tmp_path / folder / "one.wav", np.zeros(800), 16000)
    assert [e.id for e in build_index("folder", tmp_path).entries] == ["x/one", "y/one"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("a.mp4,train,Anger,,,5,2,", "start_s 5 is not before stop_s 2"),
        ("a.mp4,trian,Anger,,,,,", "split 'trian' is not one of train, val, test; write 'train'"),
        ("a.mp4,validation,Anger,,,,,", "split 'validation' is not one of train, val, test; write 'val'"),
        ("a.mpg,train,Anger,,,,,", "'a.mpg' does not exist; did you mean 'a.mp4'?"),
        ("a.mp4,train,,2,0,,,", "valence 2 is outside [-1, 1]"),
        ("a.mp4,train,,0.1,,,,", "only one of valence and arousal is given"),
        ('a.mp4,train,,"0,5",0,,,', "valence '0,5' is not a number (write a point for the decimal comma)"),
        (
            "a.mp4,train,,0,5,0,,,",
            "its number of cells is not that of the header (a comma inside a value needs quotes)",
        ),
        ("a.mp4,train,Anger,,,0,1,0.5", "time_s and a span (start_s, stop_s) exclude each other"),
        (",train,Anger,,,,,", "no media file is named"),
        ("sub/b.wav,val,Anger,,,,,", "clip 'b' has split 'train', subject '' at line 2"),
        ("sub/b.wav,train,Anger,,,0.2,0.4,", "its span overlaps that of line 2"),
        ("sub/b.wav,train,Anger,,,,,0.3", "clip 'b' has spans and moments (see line 2)"),
    ],
)
def test_a_wrong_row_is_left_out_and_listed_with_its_line(media: Path, tmp_path: Path, row: str, what: str) -> None:
    header = "media,split,expression,valence,arousal,start_s,stop_s,time_s\n"
    corpus_index = index_table(media, tmp_path, f"{header}sub/b.wav,train,Other,,,,,\n{row}\n")
    assert (3, what) in lines_and_problems(corpus_index)
    assert [e.id for e in corpus_index.entries] == ["b"]
    labels = corpus_index.clip(corpus_index["b"]).labels
    assert labels is not None
    assert set(labels.expression) == {EXPRESSIONS.index("Other")}


def test_columns_of_other_names_are_suggested_and_not_read(media: Path, tmp_path: Path) -> None:
    corpus_index = index_table(media, tmp_path, "media,emotion,speaker,xyz\na.mp4,Anger,eva,1\n")
    assert [(p.line, p.what, p.rule) for p in corpus_index.problems if p.kind == "unknown column"] == [
        (1, "unknown column 'emotion'", "did you mean 'expression'? it is not read"),
        (1, "unknown column 'speaker'", "did you mean 'subject'? it is not read"),
        (1, "unknown column 'xyz'", "it is not read"),
    ]
    with pytest.raises(
        CorpusError, match=r"no column 'media'; the header is file, label\n.*\nRename 'file' to 'media'"
    ):
        index_table(media, tmp_path, "file,label\na.mp4,Anger\n")


def test_unreadable_media_are_left_out_and_unused_media_are_listed(media: Path, tmp_path: Path) -> None:
    (tmp_path / "fake.wav").write_text("this is text")
    corpus_index = index_table(media, tmp_path, "media\nfake.wav\na.mp4\n")
    kinds = {p.kind: p for p in corpus_index.problems}
    assert "holds text" in kinds["unreadable media"].what
    assert kinds["unused media"].what == "2 media files are in no row, such as 'sub/b.wav'"


def test_errors_for_latin1_tables_and_for_folders_without_media(media: Path, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes("media,subject\na.mp4,Zoë\n".encode("latin1"))
    with pytest.raises(CorpusError, match=r"is not UTF-8 \(byte 22\)\nNothing was read\.\nConvert it: iconv"):
        build_index("folder", media, table=path)
    with pytest.raises(CorpusError, match="is not a folder"):
        build_index("folder", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="holds no media"):
        build_index("folder", tmp_path / "empty")
    with pytest.raises(ConfigError, match=r"synthetic takes no --table\nNothing was indexed\.\nOmit --table"):
        build_index("synthetic", media, table=path)


def test_a_span_after_the_end_of_the_recording_is_listed(media: Path, tmp_path: Path) -> None:
    corpus_index = index_table(media, tmp_path, "media,expression,start_s,stop_s\nsub/b.wav,Anger,3,4\n")
    assert (2, "3 s is after the end (1.00 s)") in lines_and_problems(corpus_index)


def test_random_splits_keep_subjects_together_and_follow_the_seed(tmp_path: Path) -> None:
    rows = ["media,subject,expression"]
    for i in range(30):
        soundfile.write(tmp_path / f"{i}.wav", np.zeros(160), 16000)
        rows.append(f"{i}.wav,s{i % 10},Anger")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    corpus_index = build_index("folder", tmp_path)
    split = corpus_index.split_by({"val": 0.2, "test": 0.1}, seed=3)
    sides: dict[str, set[str]] = {}
    for clip in split.clips(labels=False):
        sides.setdefault(clip.subject, set()).add(clip.split)
    assert all(len(s) == 1 for s in sides.values())
    count = [clip.split for clip in split.clips(labels=False)]
    assert (count.count("val"), count.count("test"), count.count("train")) == (6, 3, 21)
    assert [e.splits for e in corpus_index.split_by({"val": 0.2, "test": 0.1}, seed=3).entries] == [
        e.splits for e in split.entries
    ]
    mixed = {(c.subject, c.split) for c in corpus_index.split_by({"val": 0.5}, by="clip").clips(labels=False)}
    assert len(mixed) > 10
    with pytest.raises(ConfigError, match="split by 'age'"):
        corpus_index.split_by({}, by="age")
