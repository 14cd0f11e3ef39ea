"""Small pictures of faces, and the loudness of the sound, for the report page."""

from __future__ import annotations

import base64
from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl

from mien.media.audio import blocks
from mien.views.embed import EmbeddedMedia

#: Side of a face picture in pixels, the margin around the box as a share of its larger side, and the JPEG quality.
SIDE, MARGIN, _JPEG = 96, 0.25, 80
#: Most columns of a waveform, and columns per second of a short recording. Our choice: more than a screen shows.
WAVE_COLUMNS, WAVE_HZ = 6000, 50
#: Seconds after a subject's first row with a face in which the face is chosen; a later one costs more decoding.
CHOOSE_S = 60.0


def face_thumbnails(media: EmbeddedMedia, table: pl.DataFrame, size: tuple[float, float]) -> dict[int, str]:
    """One picture of each subject that has a face: subject -> JPEG as a data URL.

    Of the subject's first minute, the row of highest confidence is taken whose box is larger than most and not among
    the largest tenth, which are often boxes that slip off a face as it leaves (our choice).

    Args:
        media: the embedded copy, whose times are those of the table.
        size: width and height of the pictures in which the boxes are given, in pixels.
    """
    faces = table.drop_nulls("x1").with_columns(
        area=(pl.col("x2") - pl.col("x1")) * (pl.col("y2") - pl.col("y1")),
        first=pl.col("time_s").min().over("subject"),
    )
    near = faces.filter(pl.col("time_s") <= pl.col("first") + CHOOSE_S)
    area = pl.col("area")
    usual = near.filter(area.is_between(area.median().over("subject"), area.quantile(0.9, "higher").over("subject")))
    chosen = usual.sort("confidence", "area", descending=True).unique("subject", keep="first").sort("time_s")
    pictures: dict[int, str] = {}
    with _Frames(media) as frames:
        for row in chosen.iter_rows(named=True):
            image = frames.at(row["time_s"])
            if image is not None:
                pictures[row["subject"]] = _crop(image, [row[name] for name in ("x1", "y1", "x2", "y2")], size)
    return dict(sorted(pictures.items()))


class _Frames:
    """Pictures of an embedded copy at increasing times."""

    def __init__(self, media: EmbeddedMedia) -> None:
        self._path, self._is_image = media.path, media.mime.startswith("image/")
        self._container: av.container.InputContainer | None = None

    def __enter__(self) -> _Frames:
        if not self._is_image:
            self._container = av.open(str(self._path))
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:
            self._container.close()

    def at(self, time_s: float) -> np.ndarray | None:
        """The frame `(height, width, 3)` RGB shown at a time; None if there is none."""
        if self._container is None:
            image = cv2.imread(str(self._path))
            return None if image is None else np.asarray(image[..., ::-1])
        streams = self._container.streams.video
        if not streams:
            return None
        self._container.seek(max(0, int((time_s - 0.01) * av.time_base)))
        last = None
        for frame in self._container.decode(streams[0]):
            if last is not None and frame.time is not None and frame.time > time_s + 1e-3:
                break
            last = frame
        return None if last is None else last.to_ndarray(format="rgb24")


def _crop(image: np.ndarray, box: list[float], size: tuple[float, float]) -> str:
    """A square around a box as a JPEG data URL; what is outside the picture repeats its edge."""
    scale = np.array([image.shape[1] / size[0], image.shape[0] / size[1]])
    low, high = np.array(box[:2]) * scale, np.array(box[2:]) * scale
    half = max(2.0, float((high - low).max()) * (0.5 + MARGIN))
    centre = (low + high) / 2
    pad = int(np.ceil(half)) + 1
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    x, y = np.clip(np.rint(centre).astype(int), 0, [image.shape[1], image.shape[0]]) + pad
    reach = round(half)
    square = padded[y - reach : y + reach, x - reach : x + reach]
    small = cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA if 2 * reach > SIDE else cv2.INTER_CUBIC)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def waveform(media: Path, duration: float, *, audio_track: int | None = None) -> np.ndarray:
    """Loudness of a recording's sound for drawing: `(columns,)` uint8 over `duration` seconds, 255 for its loudest.

    Each column is the peak of its samples. Empty without sound, where it is silent throughout, and for no duration, as
    of a sound with a single row.

    Args:
        audio_track: number of the sound track, from 1; None: the one that `probe` chooses.
    """
    if duration <= 0:
        return np.zeros(0, np.uint8)
    columns = min(WAVE_COLUMNS, max(1, round(duration * WAVE_HZ)))
    peaks = np.zeros(columns, np.float32)
    for start_s, samples in blocks(media, track=audio_track):
        times = start_s + np.arange(len(samples)) / 16_000
        index = (times / duration * columns).astype(int)
        inside = (index >= 0) & (index < columns)
        np.maximum.at(peaks, index[inside], np.abs(samples[inside]))
    loudest = float(peaks.max())
    if loudest < 1e-4:
        return np.zeros(0, np.uint8)
    # The square root shows quiet speech beside loud peaks (our choice).
    heights: np.ndarray = np.rint(np.sqrt(peaks / loudest) * 255).astype(np.uint8)
    return heights
