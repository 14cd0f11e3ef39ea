"""EMO-DB reader: labels from file names, folds by speaker, and errors for other files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mien.datasets import emodb
from mien.errors import CorpusError
from mien.labels import EXPRESSIONS


def write(root: Path, *names: str, seconds: float = 0.4) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        soundfile.write(root / name, np.zeros(round(8000 * seconds)), 8000)
    return root


@pytest.mark.parametrize(
    ("letter", "expression"),
    [
        ("W", "Anger"),
        ("L", "Other"),
        ("E", "Disgust"),
        ("A", "Fear"),
        ("F", "Happiness"),
        ("T", "Sadness"),
        ("N", "Neutral"),
    ],
)
def test_speaker_and_emotion_are_read_from_the_file_name(tmp_path: Path, letter: str, expression: str) -> None:
    write(tmp_path / "wav", f"16b10{letter}b.wav", seconds=1.0)
    (clip,) = emodb.read_utterances(tmp_path)
    assert clip.id == f"16b10{letter}b"
    assert clip.subject == "16"
    assert clip.media == tmp_path / "wav" / f"16b10{letter}b.wav"
    assert clip.labels is not None
    assert [EXPRESSIONS[k] for k in set(clip.labels.expression.tolist())] == [expression]
    np.testing.assert_allclose(clip.labels.times, np.arange(0.02, 1.0, 0.04))
    assert np.isnan(clip.labels.valence_arousal).all()


def test_clips_are_sorted_and_files_without_sound_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, "10a01Wa.wav", "03b02Nc.wav", "08a05La.WAV")
    (tmp_path / "README.txt").write_text("Emo-DB")
    assert [c.id for c in emodb.read_utterances(tmp_path)] == ["03b02Nc", "08a05La", "10a01Wa"]


def test_the_error_names_every_file_that_is_no_utterance(tmp_path: Path) -> None:
    write(tmp_path, "03a01Fa.wav", "music.wav", "03a01Xa.wav")
    write(tmp_path / "copy", "03a01Fa.wav")
    (tmp_path / "03a02Wa.wav").write_text("no sound")
    with pytest.raises(CorpusError) as error:
        emodb.read_utterances(tmp_path)
    text = str(error.value)
    assert "4 of 5 files" in text
    assert "music.wav: the name is not speaker" in text
    assert "03a01Xa.wav: emotion 'X' is none of N, W, E, A, F, T, L" in text
    assert "03a02Wa.wav: it cannot be opened" in text
    assert "copy/03a01Fa.wav: its name occurs twice, first as" in text
    assert "\nNothing was read, because" in text


def test_the_error_counts_many_files_that_are_no_utterances(tmp_path: Path) -> None:
    write(tmp_path, *(f"song{i}.wav" for i in range(9)))
    with pytest.raises(CorpusError, match=r"9 of 9 files.*and 4 more"):
        emodb.read_utterances(tmp_path)


def test_the_error_for_a_wrong_root_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(
        CorpusError, match=r"does not exist; the root of EMO-DB is a folder\nNothing was read\.\nName the folder"
    ):
        emodb.read_utterances(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CorpusError, match="is a file; the root of EMO-DB is a folder"):
        emodb.read_utterances(tmp_path / "file")
    with pytest.raises(CorpusError, match=r"holds no \.wav file"):
        emodb.read_utterances(tmp_path)


def test_folds_leave_each_speaker_out_once_with_a_man_and_a_woman_each(tmp_path: Path) -> None:
    # disgust from 03 and 09 only: together they would leave the other fold without any
    names = [f"{s}a01{e}a.wav" for s in ("03", "08", "09", "10") for e in "NW"]
    write(tmp_path, *names, "03a01Ea.wav", "09a01Ea.wav")
    clips = emodb.read_utterances(tmp_path)
    folds = emodb.speaker_folds(clips)
    assert [f.speakers for f in folds] == [("03", "08"), ("09", "10")]
    for fold in folds:
        assert {c.subject for c in fold.test} == set(fold.speakers)
        assert not {c.subject for c in fold.train} & set(fold.speakers)
        assert len(fold.train) + len(fold.test) == len(clips)


def test_folds_of_other_sizes_hold_out_neighbouring_speakers(tmp_path: Path) -> None:
    clips = emodb.read_utterances(write(tmp_path, *(f"{s}a01Na.wav" for s in ("03", "10", "11", "12"))))
    assert [f.speakers for f in emodb.speaker_folds(clips)] == [("03", "10"), ("11", "12")]
    assert [f.speakers for f in emodb.speaker_folds(clips, 1)] == [("03",), ("10",), ("11",), ("12",)]
    for wrong in (0, 3, 4):
        with pytest.raises(CorpusError, match=rf"4 speakers \(03, 10, 11, 12\) cannot be held out {wrong} at"):
            emodb.speaker_folds(clips, wrong)


def test_the_index_holds_out_a_man_and_a_woman_each_for_val_and_test(tmp_path: Path) -> None:
    write(tmp_path, *(f"{s}a0{text}Na.wav" for s in (*emodb.MEN, *emodb.WOMEN) for text in (1, 2)))
    found: dict[str, set[str]] = {"train": set(), "val": set(), "test": set()}
    for entry in emodb.read(tmp_path).entries:
        found[entry.splits["expr"]].add(entry.subject)
    assert {split: len(speakers) for split, speakers in found.items()} == {"train": 6, "val": 2, "test": 2}
    assert set.union(*found.values()) == {*emodb.MEN, *emodb.WOMEN}  # ten in total, so in one split each
    assert all(len(speakers & set(emodb.MEN)) == len(speakers) / 2 for speakers in found.values())


def test_the_real_corpus(shared: Path) -> None:
    clips = emodb.read_utterances(shared / "emodb")
    assert len(clips) == 408
    counts = Counter(EXPRESSIONS[int(c.labels.expression[0])] for c in clips if c.labels is not None)
    assert counts == {
        "Anger": 100,
        "Neutral": 63,
        "Other": 58,
        "Fear": 54,
        "Happiness": 54,
        "Sadness": 49,
        "Disgust": 30,
    }
    folds = emodb.speaker_folds(clips)
    assert sorted(s for f in folds for s in f.speakers) == ["03", "08", "09", "10", "11", "12", "13", "14"]
    assert all(len({s in emodb.MEN for s in f.speakers}) == 2 and len({c.id[5] for c in f.test}) == 7 for f in folds)
