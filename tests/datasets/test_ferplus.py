"""The FER+ and FER2013 reader: layouts, votes as soft labels, and aligned faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mien import config, models
from mien.datasets.aligned_faces import load_aligned_faces
from mien.datasets.ferplus import SIDE, list_votes
from mien.datasets.image_datasets import load_image_sets
from mien.encoders.protocol import Crop
from mien.errors import CorpusError
from mien.labels import EXPRESSIONS, UNLABELLED
from mien.records import ImageSet

#: Ten votes: neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, no face.
CLEAR, SPLIT, CONTEMPT, NO_FACE = "8 0 0 2 0 0 0 0 0 0", "5 5 0 0 0 0 0 0 0 0", "2 0 0 0 0 0 0 6 2 0", "1 0 0 0 0 0 0 0 0 9"


def folders(root: Path, votes: list[str], name: str = "FER2013Train") -> Path:
    (root / name).mkdir(parents=True)
    rows = []
    for number, line in enumerate(votes):
        cv2.imwrite(str(root / name / f"fer{number}.png"), np.full((SIDE, SIDE), 40 * number, np.uint8))
        rows.append(f'fer{number}.png,"(0, 0, 48, 48)",{line.replace(" ", ",")}')
    (root / name / "label.csv").write_text("\n".join(rows) + "\n")
    return root


def csv_files(root: Path, votes: list[str] | None) -> Path:
    pixels = [" ".join([str(40 * number)] * SIDE**2) for number in range(4)]
    usages = ["Training", "Training", "Training", "PublicTest"]
    emotions = [6, 3, 1, 0]  # neutral, happy, disgust, angry
    lines = [f"{e},{p},{u}" for e, p, u in zip(emotions, pixels, usages, strict=True)]
    (root / "fer2013.csv").write_text("emotion,pixels,Usage\n" + "\n".join(lines) + "\n")
    if votes is not None:
        rows = [f"{u},fer{i}.png,{v.replace(' ', ',')}" for i, (u, v) in enumerate(zip(usages, votes, strict=True))]
        (root / "fer2013new.csv").write_text("Usage,Image name,neutral,...\n" + "\n".join(rows) + "\n")
    return root


def test_votes_become_soft_labels(tmp_path: Path) -> None:
    listing, soft = list_votes(folders(tmp_path, [CLEAR, SPLIT, CONTEMPT, NO_FACE]), "train", EXPRESSIONS)
    assert [label for _, label in listing] == [EXPRESSIONS.index("Neutral"), UNLABELLED, EXPRESSIONS.index("Other")]
    expected = np.zeros((3, 8))
    expected[0, [0, 5]] = 0.8, 0.2
    expected[1, [0, 4]] = 0.5, 0.5
    expected[2, [0, 7]] = 0.2, 0.8
    np.testing.assert_allclose(soft, expected, atol=1e-6)


def test_votes_for_classes_that_a_recipe_lacks_are_left_out(tmp_path: Path) -> None:
    listing, soft = list_votes(folders(tmp_path, [CONTEMPT]), "train", EXPRESSIONS[:7])
    assert listing[0][1] == UNLABELLED, "two votes of ten are no majority"
    np.testing.assert_allclose(soft, [[1, 0, 0, 0, 0, 0, 0]])


def test_both_csv_files_give_what_the_folders_give(tmp_path: Path) -> None:
    votes = [CLEAR, SPLIT, NO_FACE, CONTEMPT]
    listing, soft = list_votes(csv_files(tmp_path, votes), "train", EXPRESSIONS)
    other = folders(tmp_path / "png", votes[:3])
    expected, expected_soft = list_votes(other, "train", EXPRESSIONS)
    assert [label for _, label in listing] == [label for _, label in expected]
    np.testing.assert_array_equal(soft, expected_soft)
    for (pixels, _), number in zip(listing, range(2), strict=True):
        assert isinstance(pixels, np.ndarray)
        assert (pixels == 40 * number).all()
    assert len(list_votes(tmp_path, "val", EXPRESSIONS)[0]) == 1


def test_fer2013_alone_gives_its_own_labels(tmp_path: Path) -> None:
    listing, soft = list_votes(csv_files(tmp_path, None), "train", EXPRESSIONS)
    assert [EXPRESSIONS[label] for _, label in listing] == ["Neutral", "Happiness", "Disgust"]
    assert (soft.max(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("line", "text"),
    [("1 2 3", "3 votes instead of 10"), ("a 0 0 0 0 0 0 0 0 0", "no number"), ("-1 0 0 0 0 0 0 0 0 0", "negative")],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, text: str) -> None:
    with pytest.raises(CorpusError, match=rf"label.csv:2: .*{text}"):
        list_votes(folders(tmp_path, [CLEAR, line]), "train", EXPRESSIONS)


def test_rows_of_another_file_are_refused(tmp_path: Path) -> None:
    csv_files(tmp_path, [CLEAR, SPLIT, NO_FACE, CONTEMPT])
    lines = (tmp_path / "fer2013new.csv").read_text().splitlines()
    (tmp_path / "fer2013new.csv").write_text("\n".join([lines[0], lines[4], *lines[1:4]]) + "\n")
    with pytest.raises(CorpusError, match="does not belong to line"):
        list_votes(tmp_path, "train", EXPRESSIONS)


def test_a_folder_without_the_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="neither FER2013Train/label.csv nor fer2013.csv"):
        list_votes(tmp_path, "train", EXPRESSIONS)


def test_soft_labels_follow_their_images() -> None:
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    soft = np.eye(3, 8, dtype=np.float32)
    taken = ImageSet(images, np.array([0, 1, -1]), soft=soft).take(np.array([2, 0]))
    assert taken.images[:, 0, 0, 0].tolist() == [2, 0]
    np.testing.assert_array_equal(taken.soft, soft[[2, 0]])
    with pytest.raises(ValueError, match="2 rows of soft labels|3 images need 3 rows"):
        ImageSet(images, np.array([0, 1, -1]), soft=soft[:2])


def test_a_recipe_reads_aligned_real_faces(shared: Path, tmp_path: Path) -> None:
    source = shared / "ferplus" / "FER2013Valid"
    if not source.is_dir():
        pytest.skip("the shared FER+ faces are absent")
    lines = (source / "label.csv").read_text().splitlines()[:24]
    for name in ("FER2013Train", "FER2013Valid"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "label.csv").write_text("\n".join(lines) + "\n")
        for line in lines:
            (tmp_path / name / line.split(",")[0]).symlink_to(source / line.split(",")[0])
    recipe = config.load("face_expression", check=models.problems)
    done: list[tuple[int, int]] = []
    labelled, _, val = load_image_sets(recipe, tmp_path, progress=lambda *seen: done.append(seen))
    assert labelled.images.shape[1:] == (67, 67, 3), "48 pixels and 40 % of surroundings"
    assert labelled.soft is not None
    assert val is not None
    assert done[-1][0] == done[-1][1] > 20
    crops, found = load_aligned_faces([source / line.split(",")[0] for line in lines], Crop(48))
    assert found.mean() > 0.9
    assert crops.shape == (24, 48, 48, 3)
