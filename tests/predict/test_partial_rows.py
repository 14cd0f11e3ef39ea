"""Provisional rows of a prediction that goes on: those of the result, in time, and the result does not change."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tiny_checkpoint import save_tiny

from mien.encode import encode_media
from mien.encode.encode_media import EncodedMedia, MediaPart
from mien.encode.subject_features import VideoFaces
from mien.encoders import face_geometry
from mien.media.video import write_video
from mien.predict import Predictor, load, progress
from mien.predict.predictor import ModelPredictor
from mien.predict.request import Request
from mien.records import Face, Frame


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A predictor of a small checkpoint, which is loaded: rows need it."""
    found = load(save_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny"), device="cpu")
    assert isinstance(found, ModelPredictor)
    assert found.model
    return found


class ScriptedTracker:
    """Replaces FaceTracker: the tracker's number -> frames in which it finds the face."""

    def __init__(self, script: dict[int, Sequence[int]]) -> None:
        self.script, self.seconds = script, {"detect": 0.0, "mesh": 0.0}

    def __call__(self, frame: Frame) -> list[Face]:
        rng = np.random.default_rng(frame.index)
        mesh = face_geometry.load_canonical_face()["vertices"] * 60 + [160, 90, 0] + rng.normal(0, 0.3, (468, 3))
        box = np.array([100.0, 30, 220, 150])
        return [Face(s, box + s, mesh, 0.99) for s, frames in self.script.items() if frame.index in frames]


def clip(path: Path, seconds: float, rate: float = 25) -> Path:
    times = np.arange(int(seconds * rate)) / rate
    write_video(path, (np.full((90, 160, 3), 90, np.uint8) for _ in times), times=times.tolist(), audio=None)
    return path


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are computed after each frame."""
    monkeypatch.setattr(progress, "ROWS_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "ROWS_SHARE", math.inf)


def predicted(
    predictor: Predictor,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: dict[int, Sequence[int]],
    **options: float,
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """The table of a recording, and the provisional tables."""
    monkeypatch.setattr(encode_media, "FaceTracker", lambda **_: ScriptedTracker(script))
    parts: list[pl.DataFrame] = []
    table = predictor.predict(path, **options).table  # type: ignore[arg-type]
    assert predictor.predict(path, on_rows=parts.append, **options).table.equals(table)  # type: ignore[arg-type]
    return table, parts


def test_rows_come_once_in_order_and_resemble_the_result(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    # Numbers of the tracker differ from those of the result: 3 is seen too briefly to count.
    script = {3: range(10, 14), 5: range(150), 8: range(60, 120)}
    table, parts = predicted(predictor, clip(tmp_path / "v.mp4", 6), monkeypatch, script)
    assert len(parts) > 50
    rows = pl.concat(parts)
    assert rows.schema == table.schema
    assert rows["time_s"].is_sorted()
    assert not rows.select("time_s", "subject").is_duplicated().any()
    assert set(rows["subject"]) == {0, 1}
    first = rows.filter(subject=0)
    assert first["time_s"].to_list() == table.filter(subject=0)["time_s"].to_list()[: len(first)]
    assert len(first) > 130
    both = table.join(rows, on=["time_s", "subject"], suffix="_so_far", maintain_order="left")
    assert both["frame"].equals(both["frame_so_far"], check_dtypes=True)
    for name in ("x1", "y2", "evidence"):
        assert both[name].equals(both[f"{name}_so_far"]), name
    assert both["valence"].is_not_null().mean() > 0.8
    assert (both["valence"] - both["valence_so_far"]).abs().mean() < 0.2


def test_a_section_keeps_the_numbers_of_the_whole(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    path = clip(tmp_path / "v.mp4", 5)
    table, parts = predicted(predictor, path, monkeypatch, {0: range(125)}, start_s=2.0, stop_s=4.0)
    rows = pl.concat(parts)
    assert rows["time_s"].min() == table["time_s"].min() == 2.0
    assert rows["frame"].to_list() == list(range(50, 50 + len(rows)))


def test_what_is_read_faster_than_a_window_has_all_its_rows(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    path = clip(tmp_path / "v.mp4", 60, rate=5)
    count, seen = 0, progress.PartialRows.__call__

    def rarely(self: progress.PartialRows, time_s: float, part_from: Callable[[float], MediaPart]) -> None:
        nonlocal count
        count += 1
        if count % 145 == 0:
            seen(self, time_s, part_from)

    monkeypatch.setattr(progress.PartialRows, "__call__", rarely)
    table, parts = predicted(predictor, path, monkeypatch, {0: range(300)})
    assert len(parts) == 2
    assert max(part["time_s"].max() - part["time_s"].min() for part in parts) > 25  # type: ignore[operator]
    rows = pl.concat(parts)
    assert rows["frame"].to_list() == table["frame"].to_list()[: len(rows)]
    assert rows["valence"].is_not_null().mean() > 0.9


def compute(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize(("work", "least", "most"), [("waiting", 10, 10), ("computing", 1, 2)])
def test_rows_take_a_small_share_of_the_processor(
    predictor: Predictor, monkeypatch: pytest.MonkeyPatch, work: str, least: int, most: int
) -> None:
    """A computation that only takes long, as on a busy computer, comes again at once; one that costs much does not."""
    monkeypatch.setattr(progress, "ROWS_EVERY_S", 0.0)
    calls = 0

    def part_from(start_s: float) -> MediaPart:
        nonlocal calls
        calls += 1
        if work == "waiting":
            time.sleep(0.05)
        else:
            compute(0.05)
        return MediaPart(EncodedMedia(VideoFaces(np.zeros(0))), start_s, 0, math.inf, [])

    assert isinstance(predictor, ModelPredictor)
    model = predictor.model
    rows = progress.PartialRows(lambda: model, Request(on_rows=lambda _: None))
    for frame in range(10):
        compute(0.04)  # the reading of a frame
        rows(frame / 25, part_from)
    assert least <= calls <= most


def test_a_fault_of_the_receiver_ends_the_prediction(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, always: None
) -> None:
    def fail(rows: pl.DataFrame) -> None:
        raise RuntimeError("no more")

    monkeypatch.setattr(encode_media, "FaceTracker", lambda **_: ScriptedTracker({0: range(50)}))
    with pytest.raises(RuntimeError, match="no more"):
        predictor.predict(clip(tmp_path / "v.mp4", 2.0), on_rows=fail)
