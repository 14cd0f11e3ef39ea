"""Read some faces of each subject of a recording again, where its timeline says that they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl

from mien.clock import row_durations
from mien.faces.align import align
from mien.faces.detector import iou
from mien.faces.tracker import FaceTracker
from mien.media.video import pictures_at
from mien.people.descriptors import FaceDescriptor
from mien.records import Face, Frame

#: Faces read of one subject, spread over the recording. Our choice: enough for several head poses and expressions.
FACES = 12
#: A face counts if its box overlaps the timeline's by at least this (intersection over union): otherwise the picture is
#: another one than that of the row. Our choice.
SAME_BOX = 0.5
BOX = ("x1", "y1", "x2", "y2")


def choose_rows(table: pl.DataFrame, count: int = FACES) -> pl.DataFrame:
    """Up to `count` rows of each subject with a readable face, by time.

    A subject's rows with a face are cut into `count` parts; of each, the row with the highest quality is taken, of
    equal ones that with the most frontal head, then the first. Rows marked uncertain are left out.
    """
    faces = table.drop_nulls("x1").filter(~pl.col("uncertain").fill_null(False)).sort("subject", "time_s")
    if faces.is_empty():
        return faces
    turn = pl.col("yaw").abs().fill_null(0) + pl.col("pitch").abs().fill_null(0)
    index, length = pl.int_range(pl.len()).over("subject"), pl.len().over("subject")
    loss = 1 - pl.col("quality").fill_null(0).round(2)
    ranked = faces.with_columns(part=index * count // length, loss=loss, turn=turn)
    ranked = ranked.sort("subject", "part", "loss", "turn", "time_s")
    return ranked.unique(["subject", "part"], keep="first", maintain_order=True).sort("time_s", "subject")


def seen_together(table: pl.DataFrame) -> list[tuple[int, int]]:
    """Pairs of subjects whose faces are in one picture, each with the smaller number first."""
    faces = table.drop_nulls("x1").select("time_s", "subject")
    pairs = faces.join(faces, on="time_s", suffix="_2").filter(pl.col("subject") < pl.col("subject_2"))
    return sorted(set(pairs.select("subject", "subject_2").iter_rows()))


def seconds_seen(table: pl.DataFrame) -> dict[int, float]:
    """Seconds in which each subject with a face is seen; 0 in a still image."""
    seconds = {}
    for (subject,), rows in table.sort("time_s").group_by("subject", maintain_order=True):
        seen = rows["x1"].is_not_null().to_numpy()
        if seen.any():
            seconds[int(subject)] = float(row_durations(rows["time_s"].to_numpy())[seen].sum())
    return seconds


class FaceReader:
    """Reads faces at known places. One reader for many recordings.

    Raises:
        ArtefactError: a network of the face tracker is missing.
    """

    def __init__(self, descriptor: FaceDescriptor) -> None:
        self._descriptor = descriptor
        self._tracker = FaceTracker(max_faces=1, small_faces=False, count_others=False, reidentify=False)

    def read(
        self, media: Path, table: pl.DataFrame, on_picture: Callable[[int, int], None] | None = None
    ) -> dict[int, np.ndarray]:
        """Vectors `(faces, dim)` of each subject; a subject none of whose faces is found again is left out.

        Args:
            media: the recording. table: its timeline.
            on_picture: called with the number of pictures read and of all.

        Raises:
            MediaError: the recording cannot be read.
        """
        rows = choose_rows(table)
        by_time: dict[float, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for row in rows.iter_rows(named=True):
            by_time[row["time_s"]].append((row["subject"], np.array([row[name] for name in BOX], float)))
        crops: dict[int, list[np.ndarray]] = defaultdict(list)
        for number, (time_s, image) in enumerate(zip(by_time, pictures_at(media, list(by_time)), strict=True), 1):
            if on_picture is not None:
                on_picture(number, len(by_time))
            if image is None:
                continue
            for subject, box in by_time[time_s]:
                if (crop := self._crop(image, box, time_s)) is not None:
                    crops[subject].append(crop)
        return {subject: self._descriptor.describe(np.stack(found)) for subject, found in sorted(crops.items())}

    def _crop(self, image: np.ndarray, box: np.ndarray, time_s: float) -> np.ndarray | None:
        """Aligned crop of the face in a box; None if it is not there. A picture stored upside down is turned."""
        crop = self._descriptor.crop
        for view, place in _views(image, box):
            self._tracker.restart()
            faces: list[Face] = self._tracker.find_in_box(Frame(0, time_s, view), place)
            if faces and float(iou(place, faces[0].box[None])[0]) >= SAME_BOX:
                return align(view, faces[0].mesh, crop.size, crop.margin, crop.down)
        return None


def _views(image: np.ndarray, box: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The picture with the box, then both turned by half."""
    yield image, box
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    yield np.ascontiguousarray(image[::-1, ::-1]), np.array([width - x2, height - y2, width - x1, height - y1])
