"""Aligned faces of real images, through the loader and through a recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mien import config, models
from mien.datasets.aligned_faces import load_aligned_faces
from mien.datasets.face_images import ListedImage
from mien.datasets.image_datasets import load_image_sets
from mien.encoders.protocol import Crop


@pytest.fixture
def corpus(shared: Path, tmp_path: Path) -> Path:
    """The layout of FER+ with links to 24 real faces in train and val."""
    source = shared / "ferplus" / "FER2013Valid"
    if not source.is_dir():
        pytest.skip("the shared FER+ faces are absent")
    lines = (source / "label.csv").read_text().splitlines()[:24]
    for name in ("FER2013Train", "FER2013Valid"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "label.csv").write_text("\n".join(lines) + "\n")
        for line in lines:
            (tmp_path / name / line.split(",")[0]).symlink_to(source / line.split(",")[0])
    return tmp_path


def test_a_recipe_reads_aligned_real_faces(corpus: Path) -> None:
    recipe = config.load("face_expression", check=models.problems)
    done: list[tuple[int, int]] = []
    labelled, _, val = load_image_sets(recipe, corpus, progress=lambda *seen: done.append(seen))
    assert labelled.images.shape[1:] == (67, 67, 3), "48 pixels and 40 % of surroundings"
    assert labelled.soft is not None
    assert val is not None
    assert done[-1][0] == done[-1][1] > 20


def test_faces_are_found_and_cut_in_processes_as_in_one(corpus: Path) -> None:
    files = sorted((corpus / "FER2013Valid").glob("*.png"))
    listing = [ListedImage(path, 0) for path in files] * 3
    alone, found = load_aligned_faces(listing, Crop(48))
    assert found.mean() > 0.9
    assert alone.images.shape == (72, 48, 48, 3)
    shared_work, again = load_aligned_faces(listing, Crop(48), workers=2)
    np.testing.assert_array_equal(shared_work.images, alone.images)
    np.testing.assert_array_equal(found, again)
