"""Image sets: soft labels are checked, selected and concatenated with the images."""

from __future__ import annotations

import numpy as np
import pytest

from mien.records import ImageSet


def image_set(labels: list[int], soft: np.ndarray | None = None, seed: int = 0) -> ImageSet:
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    return ImageSet(images, np.array(labels), soft=soft)


SOFT = np.array([[0.2, 0.8, 0], [0.5, 0.5, 0], [0, 0, 0]], np.float32)


def test_take_keeps_soft_labels_with_their_images() -> None:
    whole = image_set([1, -1, -1], SOFT)
    assert whole.is_labelled.tolist() == [True, True, False]
    part = whole.take(np.array([1, 0]))
    assert np.array_equal(part.images, whole.images[[1, 0]])
    assert part.soft is not None
    assert np.array_equal(part.soft, SOFT[[1, 0]])


def test_concatenate_fills_in_what_a_set_lacks() -> None:
    votes, hard = image_set([1, -1, -1], SOFT), image_set([2, -1], seed=1)
    both = ImageSet.concatenate([votes, hard])
    assert np.array_equal(both.images, np.concatenate([votes.images, hard.images]))
    assert both.labels.tolist() == [1, -1, -1, 2, -1]
    assert both.soft is not None
    assert np.array_equal(both.soft, np.concatenate([SOFT, [[0, 0, 1], [0, 0, 0]]]))
    assert both.subjects == ()
    assert both.valence_arousal is None
    named = ImageSet(hard.images, hard.labels, ("a", "b"), np.array([[0.5, 0], [1, -1]]))
    mixed = ImageSet.concatenate([named, votes])
    assert mixed.subjects == ("a", "b", "", "", "")
    assert mixed.valence_arousal is not None
    assert np.isnan(mixed.valence_arousal).all(axis=1).tolist() == [False, False, True, True, True]
    assert ImageSet.concatenate([hard, hard]).soft is None
    with pytest.raises(ValueError, match="no image set"):
        ImageSet.concatenate([])


@pytest.mark.parametrize(
    ("soft", "problem"),
    [
        (SOFT[:2], r"3 images need soft labels \(3, classes\); got \(2, 3\)"),
        (SOFT * 2, r"row 0 is \[0.4"),
        (np.array([[1, 0, 0], [1.5, -0.5, 0], [0, 0, 1]]), r"row 1 is \[1.5, -0.5"),
    ],
)
def test_wrong_soft_labels_are_refused(soft: np.ndarray, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        image_set([0, 1, 2], soft)
