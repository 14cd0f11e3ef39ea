"""Aff-Wild2 reader on generated copies of the corpus with its known deviations: index, problems and labels."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.datasets.affwild2_labels import EXPR_HEADER, VA_HEADER, read_labels, task_of_header
from mien.datasets.frame_times import FrameTimes, frame_times
from mien.datasets.index import Index, build_index
from mien.datasets.index_entries import Problem, Stamp
from mien.errors import ConfigError, CorpusError
from mien.media.probe import probe
from mien.media.video import frames, write_video

NTSC = Fraction(30000, 1001)


def write_clip(path: Path, count: int, rate: Fraction = NTSC, sound: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = (np.full((32, 48, 3), 10 * i % 255, np.uint8) for i in range(count))
    tone = np.zeros(int(16000 * count / rate), np.float32) if sound else None
    write_video(path, pictures, rate=rate, audio=tone)


def write_expr(path: Path, rows: list[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([EXPR_HEADER, *map(str, rows)]) + "\n")


def write_va(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([VA_HEADER, *rows]) + "\n")


def write_crops(folder: Path, numbers: list[int]) -> None:
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number:05d}.jpg").write_bytes(b"jpg")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the corpus with ten frames a video and one clip for each known deviation (see `affwild2`)."""
    root = tmp_path_factory.mktemp("Aff Wild2")
    names = root / "6th ABAW Annotations"
    train, val = (
        names / "EXPR_Recognition_Challenge/Train_Set",
        names / "EXPR_Recognition_Challenge/Validation_Set",
    )
    write_clip(root / "batch1/plain.mp4", 10)
    write_clip(root / "batch1/more.mp4", 10, Fraction(2191, 100))
    write_clip(root / "batch2/two.mp4", 10, Fraction(25))
    write_clip(root / "batch2/pair.mp4", 10)
    write_clip(root / "new_vids/silent.mp4", 10, sound=False)
    write_clip(root / "new_vids/late.mp4", 10)
    write_clip(root / "new_vids/unused.mp4", 3)
    write_expr(train / "plain.txt", [0, 1, 2, 3, 4, 5, 6, 7, -1, 0])
    write_expr(train / "more.txt", [4] * 11)
    write_expr(train / "two_left.txt", [1] * 12)
    write_expr(train / "two_right.txt", [2] * 9)
    write_expr(val / "pair.txt", [3] * 10)
    write_expr(val / "pair_right.txt", [5] * 10)
    write_expr(val / "silent.txt", [6] * 10)
    write_expr(train / "gone.txt", [0] * 5)
    write_va(names / "VA_Estimation_Challenge/Train_Set/plain.txt", ["0.5,-0.25"] * 8 + ["-5,-5", "-5,0.1"])
    write_va(names / "VA_Estimation_Challenge/Train_Set/silent.txt", ["0,0"] * 10)
    (names / "AU_Detection_Challenge/Train_Set").mkdir(parents=True)
    (names / "AU_Detection_Challenge/Train_Set/plain.txt").write_text(
        "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26\n"
        + "0,0,1,0,0,0,1,0,0,0,1,-1\n" * 7
        + ("-1," * 12).strip(",")
        + "\n0,0,2,0,0,0,0,0,0,0,0,0\n1,0,0\n"
    )
    tests = root / "names_of_videos_in_each_test_set"
    tests.mkdir()
    (tests / "Expression_Recognition_Challenge_test_set_release.txt").write_text("late\nmissing_left\n")
    (tests / "VA_sample.txt").write_text(
        "image_location,valence,arousal\n" + "".join(f"late/{i:05d}.jpg,0,0\n" for i in range(1, 12))
    )
    (tests / "Action_Unit_Detection_Challenge_test_set_release.txt").write_text("late\n")
    (tests / "Gaze_test_set_release.txt").write_text("late\n")
    write_crops(root / "cropped_aligned/plain", [1, 2, 3, 5, 6, 7, 8, 9, 10])
    write_crops(root / "cropped_aligned/two_left", list(range(1, 13)))
    write_crops(root / "batch2 (1)/cropped_aligned_new_50_vids/pair", list(range(1, 11)))
    (root / "cropped_aligned/plain/.DS_Store").write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def corpus_index(root: Path) -> Index:
    return build_index("aff-wild2", root)


def problems_of_kind(corpus_index: Index, kind: str) -> list[Problem]:
    return [p for p in corpus_index.problems if p.kind == kind]


def test_clips_are_matched_with_their_recording_and_side(corpus_index: Index) -> None:
    assert {e.id: (e.media, e.side) for e in corpus_index.entries} == {
        "late": ("new_vids/late.mp4", ""),
        "more": ("batch1/more.mp4", ""),
        "pair": ("batch2/pair.mp4", "left"),
        "pair_right": ("batch2/pair.mp4", "right"),
        "plain": ("batch1/plain.mp4", ""),
        "silent": ("new_vids/silent.mp4", ""),
        "two_left": ("batch2/two.mp4", "left"),
        "two_right": ("batch2/two.mp4", "right"),
    }


def test_each_task_has_its_own_splits(corpus_index: Index) -> None:
    assert corpus_index.tasks == ("expr", "va", "au")
    assert [corpus_index.task_of(expression=predicted) for predicted in (True, False)] == ["expr", "va"]
    assert corpus_index.task_of(expression=False, scores=["emi", "au"]) == "au"
    assert corpus_index.task_of(expression=True, scores=["au"]) == "expr"
    assert corpus_index["silent"].splits == {"expr": "val", "va": "train"}
    assert corpus_index["plain"].splits == {"expr": "train", "va": "train", "au": "train"}
    assert corpus_index["late"].splits == {"expr": "test", "va": "test", "au": "test"}
    assert corpus_index["late"].rows == 11
    assert [c.id for c in corpus_index.clips("va", "train", labels=False)] == ["plain", "silent"]
    assert [c.id for c in corpus_index.clips("expr", "val", labels=False)] == ["pair", "pair_right", "silent"]


def test_labels_have_the_times_of_their_frames(corpus_index: Index, root: Path) -> None:
    clip = next(c for c in corpus_index.clips("expr") if c.id == "plain")
    assert clip.labels is not None
    assert clip.split == "train"
    np.testing.assert_array_equal(clip.labels.expression, [0, 1, 2, 3, 4, 5, 6, 7, -1, 0])
    decoded = [frame.time_s for frame in frames(root / "batch1/plain.mp4")]
    np.testing.assert_allclose(clip.labels.times, decoded, atol=1e-8)
    np.testing.assert_array_equal(clip.labels.valence_arousal[:8], [[0.5, -0.25]] * 8)
    assert np.isnan(clip.labels.valence_arousal[8:]).all()


def test_action_units_are_read_where_they_are_asked_for(corpus_index: Index) -> None:
    plain = corpus_index["plain"]
    for labels in (corpus_index.clip(plain, "au").labels, corpus_index.clip(plain, "expr", scores=["au"]).labels):
        assert labels is not None
        units = labels.scores["au"]
        assert units.shape == (10, 12)
        np.testing.assert_array_equal(units[0], [0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, np.nan])
        assert np.isnan(units[7:]).all(), "not annotated, a value of 2, and too few values"
        np.testing.assert_array_equal(labels.expression[:3], [0, 1, 2], "EXPR puts the clip in the same split")
    unasked = corpus_index.clip(plain, "expr").labels
    assert unasked is not None
    assert unasked.scores == {}
    bad = [(p.line, p.what) for p in problems_of_kind(corpus_index, "bad label") if "AU_Detection" in p.file]
    assert bad == [
        (10, "'0,0,2,0,0,0,0,0,0,0,0,0' holds a value that is not 1, 0 or -1"),
        (11, "'1,0,0' where 12 numbers and commas belong"),
    ]
    assert corpus_index.counts["au train frames"]["AU4"] == 6, "frame 4 has no crop"
    assert corpus_index.counts["au train frames"]["AU1"] == 0


def test_labels_of_a_task_in_another_split_are_left_out(corpus_index: Index) -> None:
    """`silent` is in the validation set of EXPR and in the training set of VA."""
    clip = corpus_index.clip(corpus_index["silent"], "expr")
    assert clip.labels is not None
    assert np.isnan(clip.labels.valence_arousal).all()
    other = corpus_index.clip(corpus_index["silent"], "va")
    assert other.labels is not None
    assert (other.labels.expression == -1).all()
    assert other.split == "train"


@pytest.mark.parametrize(("clip", "rows"), [("more", 11), ("two_left", 12), ("two_right", 9)])
def test_rows_beyond_the_last_frame_continue_at_the_median_step(corpus_index: Index, clip: str, rows: int) -> None:
    labels = corpus_index.clip(corpus_index[clip]).labels
    assert labels is not None
    assert len(labels.times) == rows
    steps = np.diff(labels.times)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3)


def test_each_deviation_is_a_problem_with_its_file_and_line(corpus_index: Index, root: Path) -> None:
    one = "6th ABAW Annotations/EXPR_Recognition_Challenge/Train_Set"
    by_file = {p.file: (p.line, p.what) for p in problems_of_kind(corpus_index, "rows and frames")}
    assert by_file[f"{one}/more.txt"] == (12, "11 label rows, 10 frames in the container (+1)")
    assert by_file[f"{one}/two_left.txt"][1].endswith("(+2)")
    assert by_file[f"{one}/two_right.txt"][1].endswith("(-1)")
    (half,) = problems_of_kind(corpus_index, "half label")
    assert (Path(half.file).name, half.line, half.what) == ("plain.txt", 11, "'-5,0.1': one of the two is -5")
    assert {p.what for p in problems_of_kind(corpus_index, "no recording")} == {
        "no video 'gone' for clip 'gone'",
        "no video 'missing' for clip 'missing_left'",
    }
    assert [p.file for p in problems_of_kind(corpus_index, "no sound")] == ["new_vids/silent.mp4"]
    assert [p.what for p in problems_of_kind(corpus_index, "missing crops")] == ["1 of 10 frames have no crop"]
    assert [p.what for p in problems_of_kind(corpus_index, "splits by task")] == ["EXPR val, VA train"]
    assert "'unused'" in problems_of_kind(corpus_index, "unused videos")[0].what
    assert problems_of_kind(corpus_index, "other task")[0].what == "a test list of an unknown task"
    assert all(p.rule for p in corpus_index.problems)
    assert str(half).startswith("note: 6th ABAW Annotations/VA_Estimation_Challenge/Train_Set/plain.txt:11: ")


def test_crops_are_counted_frame_by_frame(corpus_index: Index) -> None:
    plain = corpus_index["plain"]
    assert plain.crops == "cropped_aligned/plain"
    assert plain.present is not None
    np.testing.assert_array_equal(plain.present, [True] * 3 + [False] + [True] * 6)
    assert corpus_index["pair"].crops == "batch2 (1)/cropped_aligned_new_50_vids/pair"
    assert {p.what for p in problems_of_kind(corpus_index, "no crops")} >= {"no crop folder for clip 'pair_right'"}


def test_class_counts_are_of_labelled_frames_with_a_face(corpus_index: Index) -> None:
    train = corpus_index.counts["expr train frames"]
    # plain: classes 0..7 once, -1, 0; the crop of frame 4 (Fear) is missing. more: 11 × 4, two: 12 × 1 and 9
    # × 2.
    assert list(train.values()) == [2, 1 + 12, 1 + 9, 0, 1 + 11, 1, 1, 1]
    assert corpus_index.counts["va train frames"] == {"labelled": 7 + 10}
    assert corpus_index.counts["label rows minus frames"] == {"+0": 4, "+1": 2, "+2": 1, "-1": 1}
    assert set(corpus_index.counts["frames a second"]) == {"29.97", "21.91", "25.00"}


def test_the_summary_counts_clips_recordings_splits_and_problems(corpus_index: Index) -> None:
    table = dict(corpus_index.summary())
    assert table["clips"] == "8"
    assert table["recordings"] == "6"
    assert table["without sound"] == "1"
    assert table["expr splits"] == "test 1, train 4, val 3"
    assert "no recording 2" in table["errors"]
    assert "rows and frames" in table["notes"]


def test_saving_and_loading_keeps_the_whole_index(corpus_index: Index, root: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.jsonl"
    corpus_index.save(path)
    again = Index.load(path)
    assert again.problems == corpus_index.problems
    assert again.counts == corpus_index.counts
    assert again.root == root.resolve()
    for a, b in zip(corpus_index.entries, again.entries, strict=True):
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


def one_clip(tmp_path: Path, folder: str = "EXPR_Recognition_Challenge/Train_Set") -> Path:
    """Write a video of three frames; returns the path of its label file, which is not written."""
    write_clip(tmp_path / "batch1/a.mp4", 3)
    return tmp_path / folder / "a.txt"


def test_swapped_folders_are_an_error_and_the_header_decides(tmp_path: Path) -> None:
    write_va(one_clip(tmp_path), ["0,0"] * 3)
    corpus_index = build_index("aff-wild2", tmp_path)
    (swapped,) = problems_of_kind(corpus_index, "swapped folders")
    assert (swapped.severity, swapped.line) == ("error", 1)
    assert swapped.what == "it lies among EXPR labels, but its header is that of VA"
    assert corpus_index.tasks == ("va",)


def test_a_clip_in_two_splits_counts_once(tmp_path: Path) -> None:
    write_expr(one_clip(tmp_path), [0] * 3)
    write_expr(tmp_path / "EXPR_Recognition_Challenge/Validation_Set/a.txt", [0] * 3)
    corpus_index = build_index("aff-wild2", tmp_path)
    (both,) = problems_of_kind(corpus_index, "in two splits")
    assert both.severity == "error"
    assert both.file.endswith("Validation_Set/a.txt")
    assert "train set and in the val set" in both.what
    assert corpus_index["a"].splits == {"expr": "val"}


def test_one_recording_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    write_clip(tmp_path / "batch1/a.mp4", 3)
    write_expr(tmp_path / "EXPR/Train_Set/a_left.txt", [0] * 3)
    write_expr(tmp_path / "EXPR/Validation_Set/a_right.txt", [0] * 3)
    (leak,) = problems_of_kind(build_index("aff-wild2", tmp_path), "recording in two splits")
    assert "a_left, a_right share this recording but are train, val" in leak.what


def test_invalid_expression_rows_are_unlabelled_and_listed_with_their_line(tmp_path: Path) -> None:
    write_expr(one_clip(tmp_path), [9, "happy", 3])
    corpus_index = build_index("aff-wild2", tmp_path)
    assert [(p.line, p.what) for p in problems_of_kind(corpus_index, "bad label")] == [
        (2, "class 9 where an integer from -1 to 7 belongs"),
        (3, "'happy' where an integer from -1 to 7 belongs"),
    ]
    labels = corpus_index.clip(corpus_index["a"]).labels
    assert labels is not None
    np.testing.assert_array_equal(labels.expression, [-1, -1, 3])


def test_many_bad_rows_are_listed_and_then_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_va(path, ["2,0"] * 50)
    problems = read_labels(path).problems
    assert len(problems) == 21
    assert problems[-1].what == "and 30 more rows like these, the last at line 51"


def test_label_files_without_rows_or_with_a_wrong_header_are_left_out_and_listed(tmp_path: Path) -> None:
    write_expr(one_clip(tmp_path), [])
    write_clip(tmp_path / "batch1/b.mp4", 3)
    write_expr(tmp_path / "EXPR_Recognition_Challenge/Train_Set/b.txt", [1, 2, 3])
    (tmp_path / "EXPR_Recognition_Challenge/Train_Set/c.txt").write_text("Neutral,Anger\n1\n")
    corpus_index = build_index("aff-wild2", tmp_path)
    assert [e.id for e in corpus_index.entries] == ["b"]
    assert problems_of_kind(corpus_index, "empty labels")[0].what == "a header and no rows"
    assert "the header is 'Neutral,Anger', none of" in problems_of_kind(corpus_index, "wrong header")[0].what


def test_far_too_many_rows_are_a_warning(tmp_path: Path) -> None:
    write_expr(one_clip(tmp_path), [0] * 30)
    (far,) = problems_of_kind(build_index("aff-wild2", tmp_path), "rows far from frames")
    assert far.severity == "warning"
    assert "are these the labels of this recording?" in far.rule


def test_an_unreadable_video_is_an_error_and_the_other_clips_are_indexed(tmp_path: Path) -> None:
    write_expr(one_clip(tmp_path), [0] * 3)
    (tmp_path / "batch1/b.mp4").write_bytes(b"no video" * 100)
    write_expr(tmp_path / "EXPR_Recognition_Challenge/Train_Set/b.txt", [0] * 3)
    corpus_index = build_index("aff-wild2", tmp_path)
    assert [e.id for e in corpus_index.entries] == ["a"]
    assert problems_of_kind(corpus_index, "unreadable video")[0].file == "batch1/b.mp4"


def test_two_recordings_of_one_name_are_a_warning(tmp_path: Path) -> None:
    write_expr(one_clip(tmp_path), [0] * 3)
    write_clip(tmp_path / "batch2/a.mp4", 3)
    corpus_index = build_index("aff-wild2", tmp_path)
    assert "also batch2/a.mp4" in problems_of_kind(corpus_index, "two recordings")[0].what
    assert corpus_index["a"].media == "batch1/a.mp4"


def test_the_error_for_a_wrong_root_names_the_expected_parts(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"does not exist; the root of a corpus is a folder\n.*\nRun `mien index aff-wild2 ROOT`"
    ):
        build_index("aff-wild2", tmp_path / "nowhere")
    write_clip(tmp_path / "batch1/a.mp4", 3)
    with pytest.raises(CorpusError, match=r"no folder Train_Set or Validation_Set .* \(but 1 videos and 0 crop"):
        build_index("aff-wild2", tmp_path)


def test_the_error_for_an_unknown_corpus_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"known are aff-wild2, .*\nNothing was indexed\.\nDid you mean 'aff-wild2'"):
        build_index("affwild", tmp_path)


def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for text in ("", "{}", "[1]", "no json", '{"format": "mien-index-0"}'):
        path.write_text(text)
        with pytest.raises(ConfigError, match="is not an index of this version"):
            Index.load(path)


# -- parts -----------------------------------------------------------------------------------------


def test_the_task_is_read_from_the_header() -> None:
    assert task_of_header("Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\r\n") == "expr"
    assert task_of_header("\ufeffvalence,arousal") == "va"
    assert task_of_header("image_location,valence,arousal") == "va"
    assert task_of_header("image_location,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26") == "au"
    assert task_of_header("AU1,AU2") == "", "another set of units"
    compounds = "Fearfully_Surprised,Happily_Surprised,Sadly_Surprised,Disgustedly_Surprised,Angrily_Surprised"
    assert task_of_header(f"image_location,{compounds},Sadly_Fearful,Sadly_Angry") == "ce"
    assert task_of_header("Neutral,Anger") == ""
    assert task_of_header("") == ""


@given(st.lists(st.floats(1e-3, 10), min_size=1, max_size=60), st.floats(0, 5))
def test_frame_times_as_text_are_exact_to_the_nanosecond(steps: list[float], start: float) -> None:
    times = FrameTimes(start + np.cumsum(steps))
    np.testing.assert_allclose(FrameTimes.from_text(times.to_text()).seconds, times.seconds, atol=6e-10, rtol=0)


def test_an_hour_at_a_constant_rate_is_a_short_text() -> None:
    assert len(FrameTimes(np.arange(108_000) * 1001 / 30000).to_text()) < 3000


@pytest.mark.parametrize("name", ["bbaf2n.mpg", "single_face.mp4", "no_face.mp4"])
def test_packets_give_the_times_that_decoding_gives(shared: Path, name: str) -> None:
    """no_face.mp4: 98 packets, of which 95 are shown."""
    path = shared / "clips" / name
    decoded = [frame.time_s for frame in frames(path, max_side=64)]
    np.testing.assert_allclose(frame_times(path, probe(path).origin).seconds, decoded, atol=1e-9)


def test_a_stamp_detects_changes_and_accepts_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(300_000))
    stamp = Stamp.of(path)
    os.utime(path, (1, 1))
    assert stamp.matches(path)
    for at in (0, 150_000, 299_999):
        raw = bytearray(300_000)
        raw[at] = 1
        path.write_bytes(raw)
        assert not stamp.matches(path)
    folder = tmp_path / "crops"
    write_crops(folder, [1, 2])
    stamp = Stamp.of(folder)
    assert stamp.matches(folder)
    (folder / "00003.jpg").write_bytes(b"")
    assert not stamp.matches(folder)
