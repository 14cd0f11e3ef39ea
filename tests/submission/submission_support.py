"""Shared by the tests of submissions: headers, clips, and predictions of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from mien.submission import Issue

EXPR_HEADER = "image_location,Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other"
VA_HEADER = "image_location,valence,arousal"
CLIPS = {"video7": 40, "10-60-1280x720_right": 25, "10-60-1280x720": 30}


def rows_of(clips: dict[str, int]) -> list[str]:
    return [f"{clip}/{i:05d}.jpg" for clip, n in clips.items() for i in range(1, n + 1)]


def write(path: Path, *lines: str) -> Path:
    path.write_bytes(("\n".join(lines) + "\n").encode())
    return path


def classes_of(clips: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {clip: rng.integers(0, 8, n) for clip, n in clips.items()}


def affect_of(clips: dict[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {clip: rng.uniform(-1, 1, (n, 2)) for clip, n in clips.items()}


def kinds(issues: list[Issue]) -> set[str]:
    return {issue.kind for issue in issues}


VALID_EXPR = [EXPR_HEADER, *(f"{name},{i % 7 * (i % 3) % 8}" for i, name in enumerate(rows_of(CLIPS)))]
VALID_VA = [VA_HEADER, *(f"{name},{i / 100:.3f},{-i / 200:.4f}" for i, name in enumerate(rows_of(CLIPS)))]

Change = Callable[[list[str]], list[str]]


def change_rows(change: Callable[[str], str]) -> Change:
    return lambda lines: [lines[0], *map(change, lines[1:])]


def replace_line(line: int, text: str) -> Change:
    return lambda lines: [*lines[: line - 1], text, *lines[line:]]
