"""Corpora of the benchmark: recognised by layout, with splits, people and samples."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.benchmark.corpora import load_files, recognise
from mien.errors import ConfigError, CorpusError
from mien.labels import ANGER, EXPRESSIONS, HAPPINESS, NEUTRAL, OTHER
from tests.datasets.test_ferplus import CLEAR, SPLIT, write_folder, write_kaggle
from tests.datasets.test_public_corpora import sound


def write_images(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), np.zeros((8, 8, 3), np.uint8))
    return root


@pytest.mark.parametrize(
    ("corpus", "names"),
    [
        ("ravdess", ["Actor_01/03-01-03-01-01-01-01.wav", "Actor_02/03-01-05-01-01-01-02.wav"]),
        ("crema-d", ["AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1002_DFA_HAP_XX.wav"]),
        ("emodb", ["wav/03a01Fa.wav", "wav/08a01Wb.wav"]),
        ("emovo", ["f1/gio-f1-b1.wav", "m1/rab-m1-b1.wav"]),
        ("tess", ["OAF_angry/OAF_back_angry.wav", "YAF_sad/YAF_back_sad.wav"]),
        ("savee", ["AudioData/DC/a01.wav", "AudioData/JE/sa01.wav"]),
    ],
)
def test_a_corpus_is_recognised_by_its_file_names(tmp_path: Path, corpus: str, names: list[str]) -> None:
    sound(tmp_path, *names)
    if corpus != "emodb":  # whose reader refuses a folder with other files
        sound(tmp_path, "notes/spoken_remark.wav")
    assert recognise(tmp_path) == corpus
    found = load_files(str(tmp_path), "all")
    assert (found.corpus, len(found.files)) == (corpus, 2)
    assert all(file.subject for file in found.files)


def test_ravdess_states_the_sex_and_emodb_the_age(tmp_path: Path) -> None:
    sound(tmp_path / "r", *(f"Actor_{n:02d}/03-01-03-01-01-01-{n:02d}.wav" for n in range(1, 25)))
    found = load_files(str(tmp_path / "r"))
    assert found.split == "test"
    assert len(found.files) == 5
    assert {file.sex == ("male" if int(file.subject) % 2 else "female") for file in found.files} == {True}
    assert {file.label for file in found.files} == {HAPPINESS}
    sound(tmp_path / "e", "03a01Fa.wav", "08a01Wb.wav", "09a01La.wav")
    people = {
        file.subject: (file.sex, file.age, file.age_band) for file in load_files(str(tmp_path / "e"), "all").files
    }
    assert people == {
        "03": ("male", 31, "30 to 44"),
        "08": ("female", 34, "30 to 44"),
        "09": ("female", 21, "under 30"),
    }


def test_crema_d_states_sex_and_age_in_its_table(tmp_path: Path) -> None:
    sound(tmp_path, "AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1002_DFA_HAP_XX.wav", "AudioWAV/1003_DFA_HAP_XX.wav")
    (tmp_path / "VideoDemographics.csv").write_text("ActorID,Age,Sex,Race\n1001,51,Male,x\n1002,21,Female,y\n")
    files = load_files(f"cremad={tmp_path}", "all").files
    assert [(f.sex, f.age, f.age_band) for f in files] == [
        ("male", 51, "45 to 59"),
        ("female", 21, "under 30"),
        ("", None, ""),
    ]


def test_ferplus_is_read_from_files_and_from_kaggles_table(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", "train", [CLEAR])
    write_folder(folder, "val", [CLEAR, SPLIT], first=1)
    found = load_files(str(folder))
    assert (found.corpus, found.split) == ("ferplus", "val"), "there is no test split"
    assert [(f.label, f.is_image, f.media) for f in found.files] == [
        (NEUTRAL, True, folder / "FER2013Valid" / "fer0000001.png")
    ]
    assert len(load_files(str(folder), "all").files) == 2
    table = write_kaggle(tmp_path / "kaggle", [3, 0, 6], ["Training", "PublicTest", "PrivateTest"])
    found = load_files(str(table))
    assert [f.label for f in found.files] == [NEUTRAL]
    assert isinstance(found.files[0].media, np.ndarray)
    assert found.groups == ["fer0000002"], "the people are unknown, so each file is a group"


def test_class_folders_may_have_everyday_names_and_splits(tmp_path: Path) -> None:
    root = write_images(tmp_path / "a", "train/angry/1.png", "test/angry/2.jpg", "test/Neutral/3.png")
    found = load_files(str(root))
    assert (found.corpus, found.split) == ("class-folders", "test")
    assert [(f.id, f.label) for f in found.files] == [("test/Neutral/3.png", NEUTRAL), ("test/angry/2.jpg", ANGER)]
    plain = write_images(tmp_path / "b", "happy/1.png", "contempt/2.png")
    found = load_files(str(plain))
    assert (found.split, [EXPRESSIONS[f.label] for f in found.files]) == ("all", ["Other", "Happiness"])
    assert found.classes == [HAPPINESS, OTHER]
    write_images(plain, "blurred/3.png")
    with pytest.raises(CorpusError, match="blurred is not named after a class"):
        load_files(str(plain))


def test_a_sample_is_random_reproducible_and_in_order(tmp_path: Path) -> None:
    root = write_images(tmp_path, *(f"happy/{n:02d}.png" for n in range(30)))
    whole = load_files(str(root))
    first, second, other = whole.sample(10, 0), whole.sample(10, 0), whole.sample(10, 1)
    assert first == second
    assert first != other
    ids = [f.id for f in first.files]
    assert ids == sorted(ids)
    assert len(set(ids)) == 10
    assert whole.sample(30, 0) is whole


def test_unknown_corpora_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="does not exist; a corpus is a folder"):
        load_files(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="is none of the known corpora"):
        load_files(str(sound(tmp_path / "a", "holiday.wav")))
    with pytest.raises(ConfigError, match="'ravdes'; did you mean \"ravdess\""):
        load_files(f"ravdes={tmp_path}")
    root = sound(tmp_path / "e", "03a01Fa.wav")
    with pytest.raises(ConfigError, match=r"no labelled file in the split test; its splits are train"):
        load_files(str(root), "test")
