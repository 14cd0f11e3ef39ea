"""FER+ and FER2013: both layouts, votes as soft labels and majorities, and what is left out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien import config, models
from mien.data.token_table import make_tokens
from mien.datasets import face_images, ferplus
from mien.datasets.image_datasets import load_image_sets
from mien.datasets.index import Index, build_index
from mien.datasets.stored_recordings import load_recordings
from mien.errors import ConfigError, CorpusError
from mien.extract import extract
from mien.labels import ANGER, EXPRESSIONS, HAPPINESS, NEUTRAL, OTHER, SADNESS, UNLABELLED

#: Votes (neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, no face).
CLEAR = (6, 0, 1, 1, 0, 0, 0, 0, 2, 0)
SPLIT = (4, 0, 0, 1, 3, 2, 0, 0, 0, 0)
OTHERS = (0, 1, 0, 0, 0, 0, 0, 4, 4, 1)
NO_FACE = (1, 0, 0, 0, 0, 0, 0, 0, 2, 7)


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 48), np.uint8)


def write_folder(root: Path, split: str, votes: list[tuple[int, ...]], first: int = 0) -> Path:
    folder = root / ferplus.FOLDERS[split]
    folder.mkdir(parents=True)
    rows = []
    for number, of_image in enumerate(votes, first):
        name = f"fer{number:07d}.png"
        cv2.imwrite(str(folder / name), pixels(number))
        rows.append(f'{name},"(0, 0, 48, 48)",{",".join(map(str, of_image))}\n')
    (folder / "label.csv").write_text("".join(rows))
    return root


def write_kaggle(root: Path, labels: list[int], usages: list[str]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{label},{' '.join(map(str, pixels(n).ravel()))},{usage}\n"
        for n, (label, usage) in enumerate(zip(labels, usages, strict=True))
    ]
    (root / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "".join(rows))
    return root


def write_new_labels(root: Path, votes: list[tuple[int, ...]], removed: tuple[int, ...] = ()) -> None:
    head = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF\n"
    rows = [
        f"Training,{'' if n in removed else f'fer{n:07d}.png'},{','.join(map(str, of_image))}\n"
        for n, of_image in enumerate(votes)
    ]
    (root / "fer2013new.csv").write_text(head + "".join(rows))


def test_the_folder_layout_gives_majorities_and_shares_of_votes(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "train", [CLEAR, SPLIT, OTHERS, NO_FACE, (0,) * 10])
    images = ferplus.read_images(root, "train")
    assert [i.name for i in images] == ["fer0000000.png", "fer0000001.png", "fer0000002.png"]
    assert [i.label for i in images] == [NEUTRAL, UNLABELLED, OTHER], (
        "no class has more than half; contempt and unknown"
    )
    assert [i.label for i in ferplus.read_images(root, "train", plurality=True)] == [NEUTRAL, NEUTRAL, OTHER]
    expected = np.zeros((3, 8))
    expected[0, [0, 6, 5, 7]] = 0.6, 0.1, 0.1, 0.2
    expected[1, [0, 5, 1, 2]] = 0.4, 0.1, 0.3, 0.2
    expected[2, [4, 7]] = 1 / 9, 8 / 9  # without the vote for no face
    np.testing.assert_allclose([i.soft for i in images], expected, atol=1e-7)


@given(st.lists(st.integers(0, 10), min_size=10, max_size=10))
def test_soft_labels_sum_to_one_and_follow_the_votes(votes: list[int]) -> None:
    soft, hard = ferplus.soft_label(votes), ferplus.hard_label(votes)
    by_class = np.array([votes[0], votes[4], votes[5], votes[6], votes[1], votes[3], votes[2], votes[7] + votes[8]])
    if soft is None:
        assert by_class.max() <= votes[9]
        return
    np.testing.assert_allclose(soft, by_class / by_class.sum(), rtol=1e-6)
    if hard != UNLABELLED:
        assert by_class[hard] * 2 > sum(votes)
        assert hard == ferplus.hard_label(votes, plurality=True) == int(soft.argmax())
    else:
        assert by_class.max() * 2 <= sum(votes)


def test_kaggles_table_alone_has_its_own_labels(tmp_path: Path) -> None:
    root = write_kaggle(tmp_path, [3, 0, 6, 4], ["Training", "PublicTest", "PrivateTest", "Training"])
    train = ferplus.read_images(root, "train")
    assert [(i.label, i.soft, i.name) for i in train] == [
        (HAPPINESS, None, "fer0000000"),
        (SADNESS, None, "fer0000003"),
    ]
    assert [i.label for i in ferplus.read_images(root, "val")] == [ANGER]
    assert [i.label for i in ferplus.read_images(root, "test")] == [NEUTRAL]
    assert np.array_equal(train[1].image, pixels(3))


def test_kaggles_table_takes_the_votes_beside_it(tmp_path: Path) -> None:
    root = write_kaggle(tmp_path, [3, 3, 3, 3], ["Training"] * 4)
    write_new_labels(root, [SPLIT, CLEAR, CLEAR, NO_FACE], removed=(2,))
    images = ferplus.read_images(root, "train")
    assert [i.label for i in images] == [UNLABELLED, NEUTRAL], (
        "the removed image and the one without a face are left out"
    )
    assert np.array_equal(images[1].image, pixels(1)), "rows keep their order beside removed ones"
    folder = write_folder(tmp_path / "folders", "train", [SPLIT, CLEAR])
    for ours, theirs in zip(images, ferplus.read_images(folder, "train"), strict=True):
        assert np.array_equal(ours.soft, theirs.soft)
        assert np.array_equal(face_images.read_image(ours.image), face_images.read_image(theirs.image))


def test_an_index_lists_images_with_a_majority(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "ferplus", "train", [CLEAR, SPLIT, OTHERS])
    write_folder(root, "val", [CLEAR], first=3)
    (root / "FER2013Train" / "fer0000002.png").unlink()
    index = build_index("ferplus", root)
    assert [(e.id, e.splits, e.media) for e in index.entries] == [
        ("fer0000000", {"expr": "train"}, "FER2013Train/fer0000000.png"),
        ("fer0000003", {"expr": "val"}, "FER2013Valid/fer0000003.png"),
    ]
    assert [(p.kind, p.severity) for p in index.problems] == [("no majority", "note"), ("unreadable media", "error")]
    index.save(tmp_path / "index.jsonl")
    (clip,) = Index.load(tmp_path / "index.jsonl").clips("expr", "train")
    assert clip.labels is not None
    assert (clip.labels.times.tolist(), clip.labels.expression.tolist()) == ([0.0], [NEUTRAL])
    more = build_index("ferplus", root, options={"labels": "plurality"})
    assert [e.id for e in more.entries] == ["fer0000000", "fer0000001", "fer0000003"]
    kaggle = write_kaggle(tmp_path / "kaggle", [3], ["Training"])
    with pytest.raises(CorpusError, match=r"images as numbers[\s\S]*mien train dynamic_threshold --root .*=ferplus"):
        build_index("ferplus", kaggle)
    with pytest.raises(CorpusError, match="is not FER"):
        build_index("ferplus", tmp_path)


def test_an_index_of_real_images_can_be_encoded_and_trained_on(tmp_path: Path, shared: Path) -> None:
    """Small faces on a larger canvas, because the detector expects a border; the labels meet the encoded frames."""
    source, votes = shared / "ferplus" / "FER2013Valid", {}
    for line in (source / "label.csv").read_text().splitlines():
        votes[line.split(",")[0]] = line
    names = [i.name for i in ferplus.read_images(shared / "ferplus", "val") if i.label in (NEUTRAL, HAPPINESS)][:6]
    for split, part in (("train", names[:4]), ("val", names[4:])):
        folder = tmp_path / "corpus" / ferplus.FOLDERS[split]
        folder.mkdir(parents=True)
        (folder / "label.csv").write_text("\n".join(votes[name] for name in part))
        for name in part:
            image = cv2.resize(cv2.imread(str(source / name)), (192, 192), interpolation=cv2.INTER_CUBIC)
            cv2.imwrite(str(folder / name), cv2.copyMakeBorder(image, 96, 96, 96, 96, cv2.BORDER_REPLICATE))
    index = build_index("ferplus", tmp_path / "corpus")
    report = extract(index, ["face-geometry"], tmp_path / "store", workers=0)
    assert (report.made, report.failures) == (6, [])
    recordings = load_recordings(index, tmp_path / "store", {"face": "face-geometry"})
    assert sum(bool(r.streams["face"].valid.all()) for r in recordings) >= 4
    assert all(r.streams["face"].times.tolist() == [0.0] for r in recordings)
    tokens = [make_tokens(recording, 10.0) for recording in recordings]
    assert all(int((t.expression >= 0).sum()) == 1 for t in tokens), "each image is one labelled token"
    assert sum(bool(t.valid["face"].all()) for t in tokens) >= 4


def test_wrong_files_are_refused_with_their_line(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"holds neither FER2013Train nor fer2013\.csv"):
        ferplus.read_images(tmp_path, "train")
    root = write_folder(tmp_path, "train", [CLEAR])
    with pytest.raises(CorpusError, match=r"has no FER2013Test \(split test\); it has FER2013Train"):
        ferplus.read_images(root, "test")
    path = root / "FER2013Train" / "label.csv"
    path.write_text(path.read_text() + "a.png,box,1,2\n")
    with pytest.raises(CorpusError, match=r"label\.csv:2: .*it has 4 columns, not 12"):
        ferplus.read_images(root, "train")
    path.write_text("a.png,box,1,2,x,0,0,0,0,0,0,0\n")
    with pytest.raises(CorpusError, match=r"label\.csv:1: .*not a whole number"):
        ferplus.read_images(root, "train")
    kaggle = write_kaggle(tmp_path / "kaggle", [3, 1], ["Training"] * 2)
    write_new_labels(kaggle, [CLEAR])
    with pytest.raises(CorpusError, match=r"fer2013new.csv has 1 rows and fer2013.csv more; the rows belong together"):
        ferplus.read_images(kaggle, "train")
    (kaggle / "fer2013new.csv").unlink()
    (kaggle / "fer2013.csv").write_text("emotion,pixels,Usage\n3,1 2 3,Training\n")
    with pytest.raises(CorpusError, match=r"fer2013\.csv:2: .*2304 numbers from 0 to 255"):
        ferplus.read_images(kaggle, "train")


def test_images_load_unchanged_at_their_own_size_and_fill_a_larger_one(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "train", [CLEAR, SPLIT])
    listing = face_images.list_ferplus(root, "train", EXPRESSIONS)
    loaded = face_images.load_images(listing, 48)
    assert np.array_equal(loaded.images, np.repeat(np.stack([pixels(0), pixels(1)])[..., None], 3, axis=3))
    larger = face_images.load_images(listing, 96).images.astype(int)
    assert abs(larger.mean() - loaded.images.mean()) < 1, "no black border"
    assert np.abs(larger[:, ::2, ::2] - larger[:, 1::2, 1::2]).mean() > 5, "pixels are interpolated, not repeated"


def test_classes_of_a_recipe_select_images_and_votes(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "train", [CLEAR, SPLIT, OTHERS, (0, 5, 0, 0, 0, 0, 5, 0, 0, 0)])
    listing = face_images.list_ferplus(root, "train", ["Anger", "Neutral"])
    assert [item.label for item in listing] == [1, -1], "Other, and Happiness beside Fear, are none of the two classes"
    np.testing.assert_allclose([item.soft for item in listing], [[0, 1], [3 / 7, 4 / 7]], rtol=1e-6)


def test_a_recipe_loads_the_corpus(tmp_path: Path) -> None:
    root = write_folder(tmp_path, "train", [CLEAR, SPLIT, OTHERS])
    write_folder(tmp_path, "val", [CLEAR, SPLIT], first=3)
    recipe = config.load(
        "dynamic_threshold",
        [
            "corpus.name=ferplus", "corpus.options.size=48", "corpus.options.labelled=null",
            f"corpus.labels=[{', '.join(EXPRESSIONS)}]",
        ],
        check=models.problems,
    )  # fmt: skip
    labelled, unlabelled, val = load_image_sets(recipe, root)
    assert sorted(labelled.labels.tolist()) == [UNLABELLED, NEUTRAL, OTHER], (
        "soft labels train, with or without majority"
    )
    assert len(unlabelled) == 3
    assert val is not None
    assert val.labels.tolist() == [NEUTRAL, UNLABELLED]
    few = config.changed(recipe, corpus={"options": {"size": 48, "labelled": 1, "plurality": True}})
    assert sorted(load_image_sets(few, root)[0].labels.tolist()) == [NEUTRAL, OTHER]
    other = config.changed(recipe, corpus={"name": "rafdb", "options": {"plurality": True}})
    with pytest.raises(ConfigError, match="plurality: rafdb has no votes"):
        load_image_sets(other, root)


def test_real_labels_of_ferplus(shared: Path) -> None:
    """Counts from an independent reading: columns 3 to 11 of label.csv, contempt and unknown added."""
    root = shared / "ferplus"
    path = root / "FER2013Valid" / "label.csv"
    rows = [[int(v) for v in line.strip().rsplit(",", 10)[1:]] for line in path.read_text().splitlines()]
    images = ferplus.read_images(root, "val")
    majority = sum(1 for v in rows if max([*v[:7], v[7] + v[8]]) * 2 > sum(v))
    assert len(images) == sum(1 for v in rows if max([*v[:7], v[7] + v[8]]) > v[9])
    assert sum(1 for i in images if i.label >= 0) == majority
    assert sum(1 for i in images if i.label == HAPPINESS) == sum(1 for v in rows if v[1] * 2 > sum(v))
    loaded = face_images.load_images(face_images.list_ferplus(root, "val", EXPRESSIONS)[:20], 48)
    assert loaded.images.shape == (20, 48, 48, 3)
    assert loaded.images.std() > 20
