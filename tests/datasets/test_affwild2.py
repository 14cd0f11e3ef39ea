"""Aff-Wild2's layout with its oddities planted: what is found, what is said about it, what labels come
back."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.datasets.affwild2_labels import EXPR_HEADER, VA_HEADER, read_labels, task_of
from mien.datasets.frame_times import FrameTimes, frame_times
from mien.datasets.index import Index, index
from mien.datasets.index_entries import Problem, Stamp
from mien.errors import ConfigError, CorpusError
from mien.media.probe import probe
from mien.media.video import frames, write_video

NTSC = Fraction(30000, 1001)


def film(path: Path, count: int, rate: Fraction = NTSC, sound: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = (np.full((32, 48, 3), 10 * i % 255, np.uint8) for i in range(count))
    tone = np.zeros(int(16000 * count / rate), np.float32) if sound else None
    write_video(path, pictures, rate=rate, audio=tone)


def expr(path: Path, rows: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([EXPR_HEADER, *map(str, rows)]) + "\n")


def va(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([VA_HEADER, *rows]) + "\n")


def crops(folder: Path, numbers: list[int]) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number:05d}.jpg").write_bytes(b"jpg")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames a video. One clip of each oddity that PAPERS §0 names."""
    root = tmp_path_factory.mktemp("Aff Wild2")
    names = root / "6th ABAW Annotations"
    train, val = (
        names / "EXPR_Recognition_Challenge/Train_Set",
        names / "EXPR_Recognition_Challenge/Validation_Set",
    )
    film(root / "batch1/plain.mp4", 10)
    film(root / "batch1/more.mp4", 10, Fraction(2191, 100))
    film(root / "batch2/two.mp4", 10, Fraction(25))
    film(root / "batch2/pair.mp4", 10)
    film(root / "new_vids/silent.mp4", 10, sound=False)
    film(root / "new_vids/late.mp4", 10)
    film(root / "new_vids/unused.mp4", 3)
    expr(train / "plain.txt", [0, 1, 2, 3, 4, 5, 6, 7, -1, 0])
    expr(train / "more.txt", [4] * 11)
    expr(train / "two_left.txt", [1] * 12)
    expr(train / "two_right.txt", [2] * 9)
    expr(val / "pair.txt", [3] * 10)
    expr(val / "pair_right.txt", [5] * 10)
    expr(val / "silent.txt", [6] * 10)
    expr(train / "gone.txt", [0] * 5)
    va(names / "VA_Estimation_Challenge/Train_Set/plain.txt", ["0.5,-0.25"] * 8 + ["-5,-5", "-5,0.1"])
    va(names / "VA_Estimation_Challenge/Train_Set/silent.txt", ["0,0"] * 10)
    (names / "AU_Detection_Challenge/Train_Set").mkdir(parents=True)
    (names / "AU_Detection_Challenge/Train_Set/plain.txt").write_text("AU1,AU2,AU4\n0,0,1\n")
    tests = root / "names_of_videos_in_each_test_set"
    tests.mkdir()
    (tests / "Expression_Recognition_Challenge_test_set_release.txt").write_text("late\nmissing_left\n")
    (tests / "VA_sample.txt").write_text(
        "image_location,valence,arousal\n" + "".join(f"late/{i:05d}.jpg,0,0\n" for i in range(1, 12))
    )
    (tests / "Action_Unit_Detection_Challenge_test_set_release.txt").write_text("late\n")
    crops(root / "cropped_aligned/plain", [1, 2, 3, 5, 6, 7, 8, 9, 10])
    crops(root / "cropped_aligned/two_left", list(range(1, 13)))
    crops(root / "batch2 (1)/cropped_aligned_new_50_vids/pair", list(range(1, 11)))
    (root / "cropped_aligned/plain/.DS_Store").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def found(root: Path) -> Index:
    return index("aff-wild2", root)


def said(found: Index, kind: str) -> list[Problem]:
    return [p for p in found.problems if p.kind == kind]


def test_every_clip_finds_its_recording_and_side(found: Index) -> None:
    assert {e.id: (e.media, e.side) for e in found.entries} == {
        "late": ("new_vids/late.mp4", ""),
        "more": ("batch1/more.mp4", ""),
        "pair": ("batch2/pair.mp4", "left"),
        "pair_right": ("batch2/pair.mp4", "right"),
        "plain": ("batch1/plain.mp4", ""),
        "silent": ("new_vids/silent.mp4", ""),
        "two_left": ("batch2/two.mp4", "left"),
        "two_right": ("batch2/two.mp4", "right"),
    }


def test_splits_are_by_task(found: Index) -> None:
    assert found.tasks == ("expr", "va")
    assert found["silent"].splits == {"expr": "val", "va": "train"}
    assert found["late"].splits == {"expr": "test", "va": "test"}
    assert found["late"].rows == 11
    assert [c.id for c in found.clips("va", "train", labels=False)] == ["plain", "silent"]
    assert [c.id for c in found.clips("expr", "val", labels=False)] == ["pair", "pair_right", "silent"]


def test_labels_lie_at_the_times_of_their_frames(found: Index, root: Path) -> None:
    clip = next(c for c in found.clips("expr") if c.id == "plain")
    assert clip.labels is not None
    assert clip.split == "train"
    np.testing.assert_array_equal(clip.labels.expression, [0, 1, 2, 3, 4, 5, 6, 7, -1, 0])
    decoded = [frame.time_s for frame in frames(root / "batch1/plain.mp4")]
    np.testing.assert_allclose(clip.labels.times, decoded, atol=1e-8)
    np.testing.assert_array_equal(clip.labels.valence_arousal[:8], [[0.5, -0.25]] * 8)
    assert np.isnan(clip.labels.valence_arousal[8:]).all()


def test_labels_of_another_split_do_not_come_along(found: Index) -> None:
    """`silent` is validated on for EXPR: its VA labels, which are training labels, stay away, and the
    reverse."""
    clip = found.clip(found["silent"], "expr")
    assert clip.labels is not None
    assert np.isnan(clip.labels.valence_arousal).all()
    other = found.clip(found["silent"], "va")
    assert other.labels is not None
    assert (other.labels.expression == -1).all()
    assert other.split == "train"


@pytest.mark.parametrize(("clip", "rows"), [("more", 11), ("two_left", 12), ("two_right", 9)])
def test_rows_beyond_the_frames_go_on_at_the_usual_step(found: Index, clip: str, rows: int) -> None:
    labels = found.clip(found[clip]).labels
    assert labels is not None
    assert len(labels.times) == rows
    steps = np.diff(labels.times)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_each_oddity_is_said_with_its_file_and_line(found: Index, root: Path) -> None:
    one = "6th ABAW Annotations/EXPR_Recognition_Challenge/Train_Set"
    by_file = {p.file: (p.line, p.what) for p in said(found, "rows and frames")}
    assert by_file[f"{one}/more.txt"] == (12, "11 label rows, 10 frames in the container (+1)")
    assert by_file[f"{one}/two_left.txt"][1].endswith("(+2)")
    assert by_file[f"{one}/two_right.txt"][1].endswith("(-1)")
    (half,) = said(found, "half label")
    assert (Path(half.file).name, half.line, half.what) == ("plain.txt", 11, "'-5,0.1': one of the two is -5")
    assert {p.what for p in said(found, "no recording")} == {
        "no video 'gone' for clip 'gone'",
        "no video 'missing' for clip 'missing_left'",
    }
    assert [p.file for p in said(found, "no sound")] == ["new_vids/silent.mp4"]
    assert [p.what for p in said(found, "missing crops")] == ["1 of 10 frames have no crop"]
    assert [p.what for p in said(found, "splits by task")] == ["EXPR val, VA train"]
    assert "'unused'" in said(found, "unused videos")[0].what
    assert said(found, "other task")[0].what == "a test list of action units"
    assert all(p.rule for p in found.problems)
    assert str(half).startswith("note: 6th ABAW Annotations/VA_Estimation_Challenge/Train_Set/plain.txt:11: ")


def test_crops_are_counted_frame_by_frame(found: Index) -> None:
    plain = found["plain"]
    assert plain.crops == "cropped_aligned/plain"
    assert plain.present is not None
    np.testing.assert_array_equal(plain.present, [True] * 3 + [False] + [True] * 6)
    assert found["pair"].crops == "batch2 (1)/cropped_aligned_new_50_vids/pair"
    assert {p.what for p in said(found, "no crops")} >= {"no crop folder for clip 'pair_right'"}


def test_class_counts_are_of_labelled_frames_with_a_face(found: Index) -> None:
    train = found.counts["expr train frames"]
    # plain: classes 0..7 once, -1, 0; the crop of frame 4 (Fear) is missing. more: 11 × 4, two: 12 × 1 and 9
    # × 2.
    assert list(train.values()) == [2, 1 + 12, 1 + 9, 0, 1 + 11, 1, 1, 1]
    assert found.counts["va train frames"] == {"labelled": 7 + 10}
    assert found.counts["label rows minus frames"] == {"+0": 4, "+1": 2, "+2": 1, "-1": 1}
    assert set(found.counts["frames a second"]) == {"29.97", "21.91", "25.00"}


def test_the_table_says_what_was_found(found: Index) -> None:
    table = dict(found.table())
    assert table["clips"] == "8"
    assert table["recordings"] == "6"
    assert table["without sound"] == "1"
    assert table["expr splits"] == "test 1, train 4, val 3"
    assert "no recording 2" in table["errors"]
    assert "rows and frames" in table["notes"]


def test_an_index_is_saved_and_loaded_whole(found: Index, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.jsonl"
    found.save(path)
    again = Index.load(path)
    assert again.problems == found.problems
    assert again.counts == found.counts
    assert again.root == root.resolve()
    for a, b in zip(found.entries, again.entries, strict=True):
        assert (a.id, a.media, a.side, a.splits, a.labels, a.rows, a.stamp) == (
            b.id, b.media, b.side, b.splits, b.labels, b.rows, b.stamp
        )  # fmt: skip
        assert a.times is not None
        assert b.times is not None
        np.testing.assert_allclose(a.times.seconds, b.times.seconds, atol=1e-9)
        assert (a.present is None) == (b.present is None)
    moved = Index.load(path, root=Path("/elsewhere"))
    assert next(moved.clips(labels=False)).media == Path("/elsewhere/new_vids/late.mp4")
    assert os.listdir(tmp_path) == ["index.jsonl"]


# -- faults ----------------------------------------------------------------------------------------


def small(tmp_path: Path, folder: str = "EXPR_Recognition_Challenge/Train_Set") -> Path:
    film(tmp_path / "batch1/a.mp4", 3)
    return tmp_path / folder / "a.txt"


def test_swapped_folders_are_an_error_and_the_header_decides(tmp_path: Path) -> None:
    va(small(tmp_path), ["0,0"] * 3)
    found = index("aff-wild2", tmp_path)
    (swapped,) = said(found, "swapped folders")
    assert (swapped.severity, swapped.line) == ("error", 1)
    assert swapped.what == "it lies among EXPR labels, but its header is that of VA"
    assert found.tasks == ("va",)


def test_a_clip_in_two_splits_counts_once(tmp_path: Path) -> None:
    expr(small(tmp_path), [0] * 3)
    expr(tmp_path / "EXPR_Recognition_Challenge/Validation_Set/a.txt", [0] * 3)
    found = index("aff-wild2", tmp_path)
    (both,) = said(found, "in two splits")
    assert both.severity == "error"
    assert both.file.endswith("Validation_Set/a.txt")
    assert "train set and in the val set" in both.what
    assert found["a"].splits == {"expr": "val"}


def test_one_recording_in_two_splits_is_said(tmp_path: Path) -> None:
    film(tmp_path / "batch1/a.mp4", 3)
    expr(tmp_path / "EXPR/Train_Set/a_left.txt", [0] * 3)
    expr(tmp_path / "EXPR/Validation_Set/a_right.txt", [0] * 3)
    (leak,) = said(index("aff-wild2", tmp_path), "recording in two splits")
    assert "a_left, a_right share this recording but are train, val" in leak.what


def test_text_and_class_nine_are_unlabelled_rows_with_their_line(tmp_path: Path) -> None:
    expr(small(tmp_path), [9, "happy", 3])
    found = index("aff-wild2", tmp_path)
    assert [(p.line, p.what) for p in said(found, "bad label")] == [
        (2, "class 9 where an integer from -1 to 7 belongs"),
        (3, "'happy' where an integer from -1 to 7 belongs"),
    ]
    labels = found.clip(found["a"]).labels
    assert labels is not None
    np.testing.assert_array_equal(labels.expression, [-1, -1, 3])


def test_many_bad_rows_are_listed_and_then_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    va(path, ["2,0"] * 50)
    problems = read_labels(path).problems
    assert len(problems) == 21
    assert problems[-1].what == "and 30 more rows like these, the last at line 51"


def test_an_empty_clip_and_a_wrong_header_are_left_out_and_said(tmp_path: Path) -> None:
    expr(small(tmp_path), [])
    film(tmp_path / "batch1/b.mp4", 3)
    expr(tmp_path / "EXPR_Recognition_Challenge/Train_Set/b.txt", [1, 2, 3])
    (tmp_path / "EXPR_Recognition_Challenge/Train_Set/c.txt").write_text("Neutral,Anger\n1\n")
    found = index("aff-wild2", tmp_path)
    assert [e.id for e in found.entries] == ["b"]
    assert said(found, "empty labels")[0].what == "a header and no rows"
    assert "'Neutral,Anger', neither" in said(found, "wrong header")[0].what


def test_far_too_many_rows_are_a_warning(tmp_path: Path) -> None:
    expr(small(tmp_path), [0] * 30)
    (far,) = said(index("aff-wild2", tmp_path), "rows far from frames")
    assert far.severity == "warning"
    assert "are these the labels of this recording?" in far.rule


def test_a_broken_video_is_an_error_and_the_rest_goes_on(tmp_path: Path) -> None:
    expr(small(tmp_path), [0] * 3)
    (tmp_path / "batch1/b.mp4").write_bytes(b"no video" * 100)
    expr(tmp_path / "EXPR_Recognition_Challenge/Train_Set/b.txt", [0] * 3)
    found = index("aff-wild2", tmp_path)
    assert [e.id for e in found.entries] == ["a"]
    assert said(found, "unreadable video")[0].file == "batch1/b.mp4"


def test_two_recordings_of_one_name_are_said(tmp_path: Path) -> None:
    expr(small(tmp_path), [0] * 3)
    film(tmp_path / "batch2/a.mp4", 3)
    found = index("aff-wild2", tmp_path)
    assert "also batch2/a.mp4" in said(found, "two recordings")[0].what
    assert found["a"].media == "batch1/a.mp4"


def test_a_wrong_root_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="is not there; the root of a corpus is a folder"):
        index("aff-wild2", tmp_path / "nowhere")
    film(tmp_path / "batch1/a.mp4", 3)
    with pytest.raises(CorpusError, match=r"no folder Train_Set or Validation_Set .* \(but 1 videos and 0 crop"):
        index("aff-wild2", tmp_path)


def test_an_unknown_corpus_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'aff-wild2'"):
        index("affwild", tmp_path)


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for text in ("", "{}", "[1]", "no json", '{"format": "mien-index-0"}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not an index of this version"):
            Index.load(path)


# -- parts -----------------------------------------------------------------------------------------


def test_headers_are_known_by_what_they_say() -> None:
    assert task_of("Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\r\n") == "expr"
    assert task_of("\ufeffvalence,arousal") == "va"
    assert task_of("image_location,valence,arousal") == "va"
    assert task_of("AU1,AU2") == "au"
    assert task_of("Neutral,Anger") == ""
    assert task_of("") == ""


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=60), st.floats(0, 5))
def test_frame_times_are_packed_to_the_nanosecond(steps: list[float], start: float) -> None:
    times = FrameTimes(start + np.cumsum(steps))
    np.testing.assert_allclose(FrameTimes.unpacked(times.packed()).seconds, times.seconds, atol=6e-10, rtol=0)


def test_an_hour_at_a_constant_rate_packs_small() -> None:
    assert len(FrameTimes(np.arange(108_000) * 1001 / 30000).packed()) < 3000


@pytest.mark.parametrize("name", ["bbaf2n.mpg", "single_face.mp4", "no_face.mp4"])
def test_packets_give_the_times_that_decoding_gives(shared: Path, name: str) -> None:
    """no_face.mp4: 98 packets, of which 95 are shown."""
    path = shared / "clips" / name
    decoded = [frame.time_s for frame in frames(path, max_side=64)]
    np.testing.assert_allclose(frame_times(path, probe(path).origin).seconds, decoded, atol=1e-9)


def test_a_stamp_sees_change_and_forgives_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(300_000))
    stamp = Stamp.of(path)
    os.utime(path, (1, 1))
    assert stamp.still(path)
    for at in (0, 150_000, 299_999):
        raw = bytearray(300_000)
        raw[at] = 1
        path.write_bytes(raw)
        assert not stamp.still(path)
    folder = tmp_path / "crops"
    crops(folder, [1, 2])
    stamp = Stamp.of(folder)
    assert stamp.still(folder)
    (folder / "00003.jpg").write_bytes(b"")
    assert not stamp.still(folder)
