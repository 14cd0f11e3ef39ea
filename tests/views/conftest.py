"""Fixtures: a synthetic recording with its timeline, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from views_support import FRAMES, HEIGHT, RATE, SECONDS, WIDTH, Browser, box_at, shade

from mien.media.video import write_video
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 frames of rising grey with two pale squares for faces, and a tone from 0 s to 4 s."""
    path = tmp_path_factory.mktemp("recording") / "grün & grau.mp4"
    tone = 0.2 * np.sin(2 * np.pi * 440 * np.arange(int(SECONDS * 16_000)) / 16_000)

    def picture(index: int) -> np.ndarray:
        image = np.full((HEIGHT, WIDTH, 3), shade(index), np.uint8)
        for subject in range(2):
            x1, y1, x2, y2 = box_at(subject, index / RATE).astype(int)
            image[y1:y2, x1:x2] = (230, 190, 170)
        return image

    frames = (picture(i) for i in range(FRAMES))
    write_video(path, frames, times=[i / RATE for i in range(FRAMES)], audio=tone.astype(np.float32))
    return path


@pytest.fixture(scope="session")
def timeline(recording: Path) -> Timeline:
    """Two subjects. 0: Neutral, then Happiness from 1 s on; no face from 2 s to 3 s, and no expression from 2.4 s to
    2.8 s. 1: Sadness throughout. Speech in the first half of every second."""
    times = np.arange(FRAMES) / RATE
    tables = []
    for subject in range(2):
        p = np.full((FRAMES, 8), 0.05)
        p[np.arange(FRAMES), np.where(times < 1, 0, 4) if subject == 0 else 5] = 0.65
        face = np.ones(FRAMES, bool)
        if subject == 0:
            face[(times >= 2) & (times < 3)] = False
            p[(times >= 2.4) & (times < 2.8)] = np.nan
        tables.append(
            subject_rows(
                subject,
                times,
                probabilities=p,
                valence_arousal=np.stack([times / 4, -times / 8], axis=1),
                voice=times % 1 < 0.5,
                face=face,
                boxes=np.stack([box_at(subject, t) for t in times]),
                frames=np.arange(FRAMES),
            )
        )
    info = {
        "model": "starter",
        "media": {"kind": "video", "width": WIDTH, "height": HEIGHT, "duration_s": SECONDS},
        "seconds": {"decode": 0.1, "total": 0.5},
    }
    return Timeline(pl.concat(tables), media=recording, notes=["a note with <b>markup</b> in it"], info=info)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    driver = Browser(program, tmp_path_factory.mktemp("profile"))
    yield driver
    driver.close()
