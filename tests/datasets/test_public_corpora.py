"""Readers of acted corpora: labels from file names and tables, splits by subject, and problems of other files."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from mien import config
from mien.cli.main import app
from mien.cli.options import CORPUS_NAMES
from mien.datasets.index import CORPORA, Index, build_index, recipe_options
from mien.datasets.named_clips import subject_splits
from mien.errors import ConfigError, CorpusError
from mien.labels import EXPRESSIONS


def sound(root: Path, *names: str) -> Path:
    """Write silent sound files of 0.2 s."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, np.zeros(1600), 8000)
    return root


def video(root: Path, *names: str) -> Path:
    """Write black videos of five frames at 25 frames a second."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(root / name), "w") as container:
            stream = container.add_stream("mpeg4" if name.endswith(".mp4") else "flv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for _ in range(5):
                container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
            container.mux(stream.encode(None))
    return root


def expressions(index: Index) -> dict[str, str]:
    """Clip id -> expression, which has to be that of every label of the clip."""
    found = {}
    for clip in index.clips():
        assert clip.labels is not None
        assert np.isnan(clip.labels.valence_arousal).all()
        assert len(clip.labels.times) == 5  # 0.2 s at 25 a second
        (expression,) = set(clip.labels.expression.tolist())
        found[clip.id] = EXPRESSIONS[expression]
    return found


def splits(index: Index) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in index.entries:
        found.setdefault(entry.subject, set()).add(entry.splits["expr"])
    return found


def kinds(index: Index) -> Counter[tuple[str, str]]:
    return Counter((problem.severity, problem.kind) for problem in index.problems)


def test_the_help_names_every_corpus() -> None:
    assert set(re.split(", | or ", CORPUS_NAMES)) == set(CORPORA)


# --- splits by subject ---


def test_held_out_subjects_are_a_fifth_each_with_both_sexes() -> None:
    sexes = {f"{n:02d}": "male" if n % 2 else "female" for n in range(1, 25)}
    split_of = subject_splits(sexes)
    assert Counter(split_of.values()) == {"train": 14, "val": 5, "test": 5}
    for split in ("val", "test"):
        counts = Counter(sexes[s] for s, other in split_of.items() if other == split)
        assert sorted(counts.values()) == [2, 3]
    assert subject_splits(dict(reversed(sexes.items()))) == split_of
    assert subject_splits(sexes, seed=1) != split_of


@pytest.mark.parametrize(
    ("subjects", "expected"),
    [(1, ["train"]), (2, ["train", "val"]), (3, ["test", "train", "val"]), (4, ["test", "train", "train", "val"])],
)
def test_few_subjects_are_split_as_far_as_they_go(subjects: int, expected: list[str]) -> None:
    assert sorted(subject_splits({str(n): "" for n in range(subjects)}).values()) == expected


# --- RAVDESS ---


@pytest.mark.parametrize(
    ("emotion", "expression"),
    [
        ("01", "Neutral"),
        ("02", "Neutral"),
        ("03", "Happiness"),
        ("04", "Sadness"),
        ("05", "Anger"),
        ("06", "Fear"),
        ("07", "Disgust"),
        ("08", "Surprise"),
    ],
)
def test_ravdess_emotion_and_actor_are_in_the_file_name(tmp_path: Path, emotion: str, expression: str) -> None:
    index = build_index("ravdess", sound(tmp_path, f"Actor_12/03-01-{emotion}-01-02-01-12.wav"))
    assert expressions(index) == {f"03-01-{emotion}-01-02-01-12": expression}
    assert index.entries[0].subject == "12"
    assert index.counts["subjects by sex"] == {"female": 1}
    assert index.problems == []


def test_ravdess_uses_the_audio_video_file_of_a_take(tmp_path: Path) -> None:
    take = "01-05-02-01-02-07"
    video(tmp_path, f"Video_Speech_Actor_07/Actor_07/01-{take}.mp4", f"Video_Speech_Actor_07/Actor_07/02-{take}.mp4")
    sound(tmp_path, f"Audio_Speech_Actors_01-24/Actor_07/03-{take}.wav")
    (entry,) = build_index("ravdess", tmp_path).entries
    assert (entry.id, entry.has_video) == (f"01-{take}", True)
    assert entry.media == f"Video_Speech_Actor_07/Actor_07/01-{take}.mp4"
    assert entry.times is not None
    np.testing.assert_allclose(entry.times.seconds, np.arange(5) / 25)


def test_ravdess_audio_and_video_alone_are_two_clips(tmp_path: Path) -> None:
    take = "01-05-02-01-02-08"
    video(sound(tmp_path, f"Actor_08/03-{take}.flac"), f"Actor_08/02-{take}.mp4")
    entries = build_index("ravdess", tmp_path).entries
    assert [(e.id, e.has_audio, e.has_video) for e in entries] == [
        (f"03-{take}", True, False),
        (f"02-{take}", False, True),
    ]


def test_ravdess_falls_back_to_sound_if_the_video_cannot_be_read(tmp_path: Path) -> None:
    take = "01-05-02-01-02-08"
    sound(tmp_path, f"Actor_08/03-{take}.wav")
    (tmp_path / "Actor_08" / f"01-{take}.mp4").write_bytes(b"no video")
    index = build_index("ravdess", tmp_path)
    assert [e.media for e in index.entries] == [f"Actor_08/03-{take}.wav"]
    (problem,) = index.problems
    assert (problem.kind, problem.file) == ("unreadable media", f"Actor_08/01-{take}.mp4")
    assert problem.rule == f"Actor_08/03-{take}.wav is used"


def test_ravdess_leaves_songs_out_unless_asked(tmp_path: Path) -> None:
    sound(tmp_path, "Actor_01/03-01-03-01-01-01-01.wav", "Actor_01/03-02-04-01-01-01-01.wav")
    index = build_index("ravdess", tmp_path)
    assert expressions(index) == {"03-01-03-01-01-01-01": "Happiness"}
    assert [p.what for p in index.problems] == ["1 files are songs"]
    both = build_index("ravdess", tmp_path, options={"songs": "yes"})
    assert expressions(both) == {"03-01-03-01-01-01-01": "Happiness", "03-02-04-01-01-01-01": "Sadness"}
    assert both.problems == []


def test_ravdess_problems_name_each_file_that_does_not_fit(tmp_path: Path) -> None:
    good = "03-01-03-01-01-01-01.wav"
    sound(tmp_path, f"Actor_01/{good}", f"copy/Actor_01/{good}", "Actor_02/03-01-03-01-01-02-01.wav", "noise.wav")
    sound(tmp_path, "Actor_01/03-01-09-01-01-01-01.wav", "Actor_01/03-01-03-01-01-01-25.wav")
    sound(tmp_path, "Actor_01/03-01-01-02-01-01-01.wav")
    index = build_index("ravdess", tmp_path)
    assert set(expressions(index)) == {"03-01-03-01-01-01-01", "03-01-03-01-01-02-01"}
    assert {(p.severity, p.file): p.what for p in index.problems} == {
        ("error", "noise.wav"): "the name is not MODALITY-VOCAL_CHANNEL-EMOTION-INTENSITY-STATEMENT-REPETITION-ACTOR",
        ("error", "Actor_01/03-01-09-01-01-01-01.wav"): "emotion '09' is not one of 01 to 08",
        ("error", "Actor_01/03-01-03-01-01-01-25.wav"): "actor '25' is not one of 01 to 24",
        ("error", "Actor_01/03-01-01-02-01-01-01.wav"): "a neutral clip has no strong intensity",
        ("warning", "Actor_02/03-01-03-01-01-02-01.wav"): "the file name says actor 01, the folder Actor_02",
        ("note", f"copy/Actor_01/{good}"): "'03-01-03-01-01-01-01' occurs twice",
    }
    assert {p.rule for p in index.problems if p.severity == "error"} == {"the file is left out"}


def test_the_real_ravdess(shared: Path) -> None:
    index = build_index("ravdess", shared / "ravdess")
    assert index.problems == []
    assert len(index.entries) == 660
    # 60 clips of each actor: 4 neutral, 8 of each other emotion; calm is Neutral
    assert index.counts["labelled clips"] == {
        "Neutral": 132, "Anger": 88, "Disgust": 88, "Fear": 88, "Happiness": 88, "Sadness": 88, "Surprise": 88,
    }  # fmt: skip
    assert sorted(splits(index)) == [f"{n:02d}" for n in range(1, 13) if n != 5]
    assert index.counts["subjects by sex"] == {"female": 6, "male": 5}
    assert Counter(next(iter(s)) for s in splits(index).values()) == {"train": 7, "val": 2, "test": 2}
    assert all(len(s) == 1 for s in splits(index).values())
    for clip in list(index.clips())[::60]:
        assert clip.media is not None
        assert clip.labels is not None
        assert clip.labels.times[-1] == pytest.approx(soundfile.info(clip.media).duration, abs=0.06)


# --- CREMA-D ---


def crema_d(root: Path) -> Path:
    sound(root, "AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1001_IEO_HAP_HI.wav", "AudioWAV/1040_ITH_SAD_X.wav")
    sound(root, "AudioWAV/1002_IEO_DIS_LO.wav", "AudioWAV/1003_IEO_FEA_MD.wav", "AudioWAV/1003_TIE_NEU_XX.wav")
    video(root, "VideoFlash/1001_DFA_ANG_XX.flv")
    (root / "VideoDemographics.csv").write_text(
        "ActorID,Age,Sex,Race,Ethnicity\n1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,Not Hispanic\n"
        "1003,21,Female,Caucasian,Not Hispanic\n1040,30,Male,Asian,Not Hispanic\n"
    )
    (root / "processedResults").mkdir(exist_ok=True)
    (root / "processedResults" / "summaryTable.csv").write_text(
        '"","FileName","VoiceVote","VoiceLevel","FaceVote","FaceLevel","MultiModalVote","MultiModalLevel"\n'
        '"1","1001_DFA_ANG_XX","N","60","A","70","A","66"\n'
        '"2","1001_IEO_HAP_HI","H","60","N","70","N","66"\n'
        '"3","1002_IEO_DIS_LO","D","60","D","70","D:N","66:50"\n'
        '"4","1003_IEO_FEA_MD","F","60","F","70","Q","66"\n'
        '"5","1003_TIE_NEU_XX","S","60","S","70","S","66"\n'
    )
    return root


def test_crema_d_labels_are_the_intended_emotions(tmp_path: Path) -> None:
    index = build_index("crema-d", crema_d(tmp_path))
    assert expressions(index) == {
        "1001_DFA_ANG_XX": "Anger",
        "1001_IEO_HAP_HI": "Happiness",
        "1002_IEO_DIS_LO": "Disgust",
        "1003_IEO_FEA_MD": "Fear",
        "1003_TIE_NEU_XX": "Neutral",
        "1040_ITH_SAD_X": "Sadness",
    }
    assert index.problems == []
    assert index["1001_DFA_ANG_XX"].media == "VideoFlash/1001_DFA_ANG_XX.flv"
    assert index["1001_DFA_ANG_XX"].has_video
    assert index.counts["subjects by sex"] == {"female": 2, "male": 2}
    assert sorted(next(iter(s)) for s in splits(index).values()) == ["test", "train", "train", "val"]


def test_crema_d_labels_can_be_the_votes_for_face_and_voice(tmp_path: Path) -> None:
    index = build_index("crema-d", crema_d(tmp_path), options={"labels": "multimodal-votes"})
    assert expressions(index) == {
        "1001_DFA_ANG_XX": "Anger",
        "1001_IEO_HAP_HI": "Neutral",
        "1003_TIE_NEU_XX": "Sadness",
    }
    assert {(p.severity, p.line): p.what for p in index.problems} == {
        ("note", 4): "the votes for 1002_IEO_DIS_LO tie: D:N",
        ("error", 5): "vote 'Q' for 1003_IEO_FEA_MD is none of N, A, D, F, H, S",
        ("error", None): "no row 1040_ITH_SAD_X",
    }


def test_crema_d_without_its_tables(tmp_path: Path) -> None:
    (tmp_path / "AudioWAV").mkdir()
    (tmp_path / "AudioWAV" / "1076_MTI_SAD_XX.wav").write_bytes(b"")
    sound(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1001_DFA_JOY_XX.wav", "AudioWAV/1001.wav")
    index = build_index("crema-d", tmp_path)
    assert list(expressions(index)) == ["1001_DFA_ANG_XX"]
    assert {(p.kind, p.file) for p in index.problems} == {
        ("file name", "AudioWAV/1001.wav"),
        ("file name", "AudioWAV/1001_DFA_JOY_XX.wav"),
        ("no demographics", "VideoDemographics.csv"),
        ("unreadable media", "AudioWAV/1076_MTI_SAD_XX.wav"),
    }
    with pytest.raises(CorpusError, match=r"summaryTable\.csv: No such file"):
        build_index("crema-d", tmp_path, options={"labels": "multimodal-votes"})
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Age\n1001,51\n")
    problems = build_index("crema-d", tmp_path).problems
    assert any("no column Sex; the header is ActorID, Age" in p.what for p in problems)
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Sex\n1002,unknown\n1076,Male\n")
    found = {p.kind: (p.line, p.what) for p in build_index("crema-d", tmp_path).problems}
    assert found["bad row"] == (2, "sex 'unknown' of actor '1002' is not Male or Female")
    assert found["unknown actors"] == (None, "1 actors of the clips have no row, such as 1001")


# --- EMOVO, TESS, SAVEE ---


def test_emovo_speaker_and_emotion_are_in_the_file_name(tmp_path: Path) -> None:
    words = {"dis": "Disgust", "gio": "Happiness", "neu": "Neutral", "pau": "Fear", "rab": "Anger", "sor": "Surprise"}
    words["tri"] = "Sadness"
    sound(tmp_path, *(f"f1/{word}-f1-b1.wav" for word in words), *(f"{s}/neu-{s}-l4.wav" for s in ("f2", "m1", "m3")))
    sound(tmp_path, "m3/neu-m4-l4.wav", "m3/joy-m3-l4.wav")
    index = build_index("emovo", tmp_path)
    found = expressions(index)
    assert {k: v for k, v in found.items() if "f1" in k} == {f"{word}-f1-b1": e for word, e in words.items()}
    assert {e.id: e.subject for e in index.entries}["neu-m1-l4"] == "m1"
    assert index.counts["subjects by sex"] == {"female": 2, "male": 2}
    assert all(len(s) == 1 for s in splits(index).values())
    assert {p.file: p.what for p in index.problems} == {
        "m3/neu-m4-l4.wav": "the name is not EMOTION-SPEAKER-SENTENCE, such as dis-f1-b1",
        "m3/joy-m3-l4.wav": "emotion 'joy' is none of neu, rab, dis, pau, gio, tri, sor",
    }


def test_tess_speaker_and_emotion_are_in_the_file_name(tmp_path: Path) -> None:
    words = {"angry": "Anger", "disgust": "Disgust", "fear": "Fear", "happy": "Happiness", "ps": "Surprise"}
    words |= {"sad": "Sadness", "neutral": "Neutral"}
    sound(tmp_path, *(f"OAF_{word}/OAF_back_{word}.wav" for word in words), "YAF_sad/YAF_bite_sad.wav")
    sound(tmp_path, "OAF_neutral/OA_bite_neutral.wav", "YAF_sad/YAF_bite_bored.wav", "YAF_sad/XAF_bite_sad.wav")
    index = build_index("tess", tmp_path)
    assert expressions(index) == {f"OAF_back_{word}": e for word, e in words.items()} | {
        "YAF_bite_sad": "Sadness",
        "OAF_bite_neutral": "Neutral",
    }
    assert sorted(next(iter(s)) for s in splits(index).values()) == ["train", "val"]
    assert {p.file: p.what for p in index.problems} == {
        "YAF_sad/YAF_bite_bored.wav": "emotion 'bored' is none of neutral, angry, disgust, fear, happy, sad, ps",
        "YAF_sad/XAF_bite_sad.wav": "the name is not SPEAKER_WORD_EMOTION, such as OAF_back_angry",
    }


SAVEE_LETTERS = {"a": "Anger", "d": "Disgust", "f": "Fear", "h": "Happiness", "n": "Neutral", "sa": "Sadness"}


@pytest.mark.parametrize("layout", ["AudioData/{speaker}/{name}.wav", "ALL/{speaker}_{name}.wav"])
def test_savee_has_its_speakers_in_folders_or_names(tmp_path: Path, layout: str) -> None:
    letters = SAVEE_LETTERS | {"su": "Surprise"}
    sound(tmp_path, *(layout.format(speaker="DC", name=f"{letter}01") for letter in letters))
    sound(tmp_path, *(layout.format(speaker=s, name="n30") for s in ("JE", "JK", "KL")))
    sound(tmp_path, layout.format(speaker="XY", name="n30"), layout.format(speaker="DC", name="x01"))
    sound(tmp_path, layout.format(speaker="DC", name="cry"))
    index = build_index("savee", tmp_path)
    assert expressions(index) == {f"DC_{letter}01": e for letter, e in letters.items()} | {
        f"{s}_n30": "Neutral" for s in ("JE", "JK", "KL")
    }
    assert sorted(next(iter(s)) for s in splits(index).values()) == ["test", "train", "train", "val"]
    assert kinds(index) == {("error", "file name"): 3}
    source = "folder" if layout.startswith("AudioData") else "name"
    assert {p.what for p in index.problems} == {
        f"speaker 'XY', of the {source}, is none of DC, JE, JK, KL",
        "emotion 'x' is none of n, a, d, f, h, sa, su",
        "the name is not [SPEAKER_]EMOTION NUMBER, such as a01 or DC_a01",
    }


def test_savee_uses_the_video_of_an_utterance_and_one_of_two_copies(tmp_path: Path) -> None:
    video(sound(tmp_path, "AudioData/DC/a01.wav", "ALL/DC_a01.wav"), "AudioVisualClip/DC/a1.mp4")
    index = build_index("savee", tmp_path)
    assert [(e.id, e.media) for e in index.entries] == [("DC_a01", "AudioVisualClip/DC/a1.mp4")]
    assert [(p.severity, p.file) for p in index.problems] == [("note", "AudioData/DC/a01.wav")]


# --- MELD ---


MELD_HEADER = "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime\n"


def meld(root: Path) -> Path:
    tables = {
        "train_sent_emo.csv": '1,"Oh, no!",Ada,surprise,negative,0,0,8,21,"00:16:16,059","00:16:21,731"\n'
        '2,Well.,Bob,joy,positive,0,1,8,21,"00:16:16,059","00:16:21,731"\n',
        "dev_sent_emo.csv": '1,Hm,Ada,anger,negative,0,0,8,21,"00:16:16,059","00:16:21,731"\n',
        "test_sent_emo.csv": '1,It\x92s,Cy,fear,negative,0,0,8,21,"00:16:16,059","00:16:21,731"\n',
    }
    for name, rows in tables.items():
        (root / name).write_bytes((MELD_HEADER + rows).encode("latin1"))
    video(root, "train_splits/dia0_utt0.mp4", "train_splits/dia0_utt1.mp4", "dev_splits_complete/dia0_utt0.mp4")
    return video(root, "output_repeated_splits_test/dia0_utt0.mp4")


def test_meld_has_its_own_splits_and_speakers(tmp_path: Path) -> None:
    index = build_index("meld", meld(tmp_path))
    assert index.problems == []
    assert expressions(index) == {
        "train_dia0_utt0": "Surprise",
        "train_dia0_utt1": "Happiness",
        "val_dia0_utt0": "Anger",
        "test_dia0_utt0": "Fear",
    }
    assert splits(index) == {"Ada": {"train", "val"}, "Bob": {"train"}, "Cy": {"test"}}
    assert index["test_dia0_utt0"].media == "output_repeated_splits_test/dia0_utt0.mp4"
    assert index["val_dia0_utt0"].has_video


def test_meld_problems_name_each_row_and_video_that_cannot_be_used(tmp_path: Path) -> None:
    meld(tmp_path)
    with open(tmp_path / "train_sent_emo.csv", "a", encoding="utf-8") as file:
        for emotion, dialogue, utterance in (("joy", 125, 3), ("bored", 0, 1), ("joy", "x", 1), ("joy", 0, 0)):
            file.write(f"9,Hm,Ada,{emotion},positive,{dialogue},{utterance},8,21,0,0\n")
        file.write("9,cut off\n")
    (tmp_path / "dev_sent_emo.csv").write_text("Speaker,Emotion\n")
    (tmp_path / "test_sent_emo.csv").unlink()
    video(tmp_path, "train_splits/dia9_utt9.mp4", "train_splits/final_dia9_utt9.mp4", "other/dia1_utt1.mp4")
    index = build_index("meld", tmp_path)
    assert set(expressions(index)) == {"train_dia0_utt0", "train_dia0_utt1"}
    assert {(p.file, p.line): p.what for p in index.problems} == {
        ("train_sent_emo.csv", 4): "there is no video train_splits/dia125_utt3.mp4",
        ("train_sent_emo.csv", 5): "emotion 'bored' is none of neutral, anger, disgust, fear, joy, sadness, surprise",
        ("train_sent_emo.csv", 6): "Dialogue_ID 'x' or Utterance_ID '1' is not a number",
        ("train_sent_emo.csv", 7): "dia0_utt0 has an earlier row",
        ("train_sent_emo.csv", 8): "Dialogue_ID '' or Utterance_ID '' is not a number",
        ("dev_sent_emo.csv", None): f"{tmp_path / 'dev_sent_emo.csv'}: no column Dialogue_ID, Utterance_ID; "
        "the header is Speaker, Emotion",
        ("test_sent_emo.csv", None): "the table is missing",
        ("train_splits/dia9_utt9.mp4", None): "train_sent_emo.csv has no row for it",
        ("train_splits/final_dia9_utt9.mp4", None): "the name is not diaNUMBER_uttNUMBER, such as dia0_utt0",
        ("other/dia1_utt1.mp4", None): "its folder is none of train_splits, dev_splits_complete, "
        "output_repeated_splits_test",
    }


def test_meld_without_any_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds none of the tables train_sent_emo\.csv, dev_sent_emo"):
        build_index("meld", video(tmp_path, "train_splits/dia0_utt0.mp4"))


# --- options and wrong roots ---


def test_options_are_checked_before_the_corpus_is_read(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(ConfigError, match=r"option songs of ravdess cannot be 'maybe'(.|\n)*no, yes; no is the def"):
        build_index("ravdess", missing, options={"songs": "maybe"})
    with pytest.raises(ConfigError, match=r"ravdess has no option 'song'(.|\n)*Its options are songs\."):
        build_index("ravdess", missing, options={"song": "yes"})
    with pytest.raises(ConfigError, match=r"emodb has no option 'songs'(.|\n)*it has none"):
        build_index("emodb", missing, options={"songs": "yes"})


ACTED = ["ravdess", "crema-d", "emovo", "tess", "savee"]


@pytest.mark.parametrize("corpus", ACTED)
def test_a_root_that_is_not_the_corpus_is_an_error(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"does not exist; the root of .* is a folder\nNothing was indexed"):
        build_index(corpus, tmp_path / "nowhere")
    with pytest.raises(CorpusError, match=r"holds no .*\nNothing was indexed"):
        build_index(corpus, tmp_path)


@pytest.mark.parametrize("corpus", ACTED)
def test_a_root_without_any_file_of_the_corpus_names_one(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"has no usable clip: error: holiday\.wav: .*; the file is left out"):
        build_index(corpus, sound(tmp_path, "holiday.wav"))


def test_mien_index_takes_options_of_the_corpus(tmp_path: Path) -> None:
    sound(tmp_path, "Actor_01/03-02-04-01-01-01-01.wav", "Actor_02/03-01-04-01-01-01-02.wav")
    out = tmp_path / "index.jsonl"
    arguments = ["index", "ravdess", str(tmp_path), "--out", str(out), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--option", "songs=yes"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["clips"] == "2"
    assert expressions(Index.load(out)) == {"03-02-04-01-01-01-01": "Sadness", "03-01-04-01-01-01-02": "Sadness"}
    wrong = CliRunner().invoke(app, [*arguments, "--option", "songs"])
    assert wrong.exit_code == 2


def test_a_recipe_sets_options_of_its_corpus() -> None:
    starter = config.load("synthetic", ["corpus.options.songs=yes", "corpus.options.labels=multimodal-votes"])
    assert recipe_options("ravdess", starter.corpus.options) == {"songs": "yes"}
    assert recipe_options("crema-d", starter.corpus.options) == {"labels": "multimodal-votes"}
    assert recipe_options("emodb", starter.corpus.options) == {}


def test_reproduce_indexes_with_the_options_of_the_recipe(tmp_path: Path, extraction_in_this_process: None) -> None:
    root, out = sound(tmp_path / "root", "Actor_01/03-02-04-01-01-01-01.wav"), tmp_path / "out"
    sound(root, "Actor_02/03-01-04-01-01-01-02.wav")
    for value, folder, clips in (("maybe", "a", 0), ("no", "b", 1), ("yes", "c", 2)):
        override = f"corpus.options.songs={value}"
        command = ["reproduce", "starter", override, "--corpus", "ravdess", "--root", str(root), "--out"]
        result = CliRunner().invoke(app, [*command, str(out / folder)])
        # Silent clips without faces cannot train the starter: the command stops after indexing.
        assert result.exit_code == 2
        index = out / folder / "index.jsonl"
        assert (len(Index.load(index).entries) if index.exists() else 0) == clips
