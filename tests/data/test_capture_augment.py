"""Augmentation that imitates capture: repeatable, of the right size, and about the face."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.data import capture_augment
from mien.data.capture_augment import capture, centre


def blob(n: int, side: int = 68, colour: bool = False) -> np.ndarray:
    """Images with a bright disc in the middle of a dark square."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    disc = np.where(np.hypot(x, y) < side / 5, 220, 40).astype(np.uint8)
    images = np.repeat(disc[None, ..., None], n, axis=0).repeat(3, axis=3)
    if colour:
        images[..., 2] //= 2
    return images


@pytest.mark.parametrize("colour", [False, True])
def test_views_have_the_size_of_the_input_and_repeat_with_the_generator(colour: bool) -> None:
    images = blob(24, colour=colour)
    a, b = (capture(images, 48, np.random.default_rng(3)) for _ in range(2))
    assert a.shape == (24, 3, 48, 48)
    assert a.dtype == torch.uint8
    assert torch.equal(a, b)
    assert not torch.equal(a, capture(images, 48, np.random.default_rng(4)))
    assert len({view.numpy().tobytes() for view in a}) > 20, "every view differs"


def test_grey_images_stay_grey_and_colours_stay() -> None:
    grey = capture(blob(16), 48, np.random.default_rng(0))
    assert torch.equal(grey[:, 0], grey[:, 2])
    coloured = capture(blob(64, colour=True), 48, np.random.default_rng(0)).float().mean(dim=(2, 3))
    assert (coloured[:, 0] > coloured[:, 2]).float().mean() > 0.8


def test_the_face_stays_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_augment, "COVERED_SHARE", 0.0)
    views = capture(blob(200), 48, np.random.default_rng(1))[:, 0].float()
    weights = (views > views.flatten(1).median(dim=1).values[:, None, None] + 40).float()
    grid = torch.arange(48).float() - 23.5
    x = (weights * grid).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)).clamp_min(1)
    assert abs(float(x.mean())) < 1
    assert float(x.std()) < 6, "shifts of a few per cent of the side"


def test_a_mirrored_corpus_gives_mirrored_views_on_average() -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 68).astype(np.uint8)[None, None, :, None], (400, 68, 68, 3)).copy()
    plain = capture(ramp, 48, np.random.default_rng(0), flip=False)[:, 0].float()
    assert (plain[..., 30:].mean(dim=(1, 2)) > plain[..., :18].mean(dim=(1, 2))).float().mean() > 0.9
    flipped = capture(ramp, 48, np.random.default_rng(0), flip=True)[:, 0].float()
    share = (flipped[..., 30:].mean(dim=(1, 2)) > flipped[..., :18].mean(dim=(1, 2))).float().mean()
    assert 0.4 < share < 0.6


def test_centre_is_the_middle() -> None:
    images = blob(1)
    assert centre(images, 48).shape == (1, 48, 48, 3)
    np.testing.assert_array_equal(centre(images, 68), images)
    np.testing.assert_array_equal(centre(images, 48)[0], images[0, 10:58, 10:58])
