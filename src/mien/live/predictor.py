"""`mien.stream`: rows of a Timeline while pictures and sound arrive.

    with mien.stream("starter", delay_s=1.0) as stream:
        for rgb, time_s in camera:
            for row in stream.frame(rgb, time_s):
                print(row["time_s"], row["subject"], row["expression"])
        rows = stream.finish()

The parts of the file path do the work (`mien.encode`, `mien.predict.rows`), on the last seconds instead of a whole
recording. Every `delay_s / 2` seconds, at most every `LONGEST_STEP_S`, the rows that became final are returned.

Voting is causal: the networks see one window that ends now, and a row takes its prediction from that window when it
becomes final, `delay_s` seconds after its time at the latest. Nothing is corrected later. docs/LIVE.md says what equals
the prediction of a file, and what cannot.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import polars as pl

from mien.encode.create_encoders import create_encoders
from mien.encode.encode_media import EncodedMedia, check_kinds
from mien.encode.subject_features import VideoFaces
from mien.encoders.protocol import AudioEncoder, CropEncoder, Encoder, MeshEncoder
from mien.encoders.voice_speech import VoiceSpeech
from mien.errors import ConfigError
from mien.inference import StreamModel, all_settings
from mien.live.lateness import Lateness
from mien.live.pictures import Box, LivePictures
from mien.live.sound import LiveSound
from mien.memory import PeriodicRelease
from mien.predict.create_predictor import load
from mien.predict.predictor import ModelPredictor
from mien.predict.rows import timeline_rows

#: One row, with the columns of `mien.timeline.table.schema`; None where a value is missing.
Row = dict[str, Any]
#: Longest time between two computations of rows, seconds. Our choice: a computation takes 0.1 s of processor time.
LONGEST_STEP_S = 0.25
#: Shortest and longest delay in seconds. Below, a face has no token yet; above, memory grows for nothing.
SHORTEST_DELAY_S, LONGEST_DELAY_S = 0.1, 30.0
#: Shortest memory in seconds, for models without a long window: `LiveVoice` needs 10 s.
SHORTEST_CONTEXT_S = 16.0
#: A frame is read although it is late if the last one that was read is this many seconds earlier: a computer that is
#: always too slow still sees who is there. Our choice.
KEPT_EVERY_S = 0.5
#: Rows of someone who left end after so many seconds, unless nobody else was seen since. Our choice.
ABSENT_ROWS_S = 10.0


def stream(
    model: str | Path = "starter",
    *,
    delay_s: float = 1.0,
    late_s: float | None = 0.3,
    max_faces: int = 4,
    reidentify: bool = True,
    min_quality: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
) -> LiveStream:
    """Predict pictures and sound while they arrive.

    Args:
        model: as in `mien.load`: the starter, a checkpoint or a network over single faces. Its inputs must be encoders
            of faces, or the starter's voice. The starter needs no torch.
        delay_s: seconds after its time at which a row is returned at the latest, on the clock of the pictures and the
            sound, in [0.1, 30]. A longer delay shows the networks more of what follows: see docs/LIVE.md for what each
            delay changes.
        late_s: frames that are handed over later than this, compared with the fastest so far, are dropped, so that a
            slow computer falls no further behind; one every half second is read in any case. Rows are then returned
            less often, and later than `delay_s`. None drops none and waits for all, for pictures that are read faster
            than they are shown: rows then depend on the input alone.
        max_faces: the largest number of people tracked at once.
        reidentify: someone who returns within two minutes keeps the number, by appearance.
        min_quality: faces whose column `quality` is lower, in [0, 1], are not read.
        clock: seconds that pass, by which frames are late. Give another one where media time is faster or slower.

    Raises:
        ConfigError: no such model, or one with an input that cannot be encoded while it arrives.
        ArtefactError: a network has not been downloaded.
        ValueError: a setting is out of range.
    """
    predictor = load(model, device="cpu", max_faces=max_faces)
    assert isinstance(predictor, ModelPredictor)
    return LiveStream(
        predictor.model, name=predictor.name, delay_s=delay_s, late_s=late_s, max_faces=max_faces,
        reidentify=reidentify, min_quality=min_quality, clock=clock,
    )  # fmt: skip


class LiveStream:
    """Prediction of one live source; see `stream`. A context manager. Use it in one thread at a time.

    Memory is bounded: it holds the feature vectors of the last window of the model, 48 s for the starter, and no
    picture or sound.

    Attributes:
        name: of the model. classes: its class names. delay_s: as given.
        dropped: number of frames dropped so far. A dropped frame keeps its number: the column `frame` of the rows has
            gaps where frames were dropped.
        frames: number of frames so far, dropped ones included.
        seconds: processor seconds spent on `pictures`, `sound` and `rows`.
    """

    def __init__(
        self,
        model: StreamModel,
        *,
        name: str = "",
        delay_s: float = 1.0,
        late_s: float | None = 0.3,
        max_faces: int = 4,
        reidentify: bool = True,
        min_quality: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not SHORTEST_DELAY_S <= delay_s <= LONGEST_DELAY_S:
            raise ValueError(f"delay_s must be in [{SHORTEST_DELAY_S}, {LONGEST_DELAY_S:g}], got {delay_s}")
        if late_s is not None and not late_s > 0:
            raise ValueError(f"late_s must be above 0, or None to drop nothing, got {late_s}")
        if max_faces < 1:
            raise ValueError(f"max_faces must be at least 1, got {max_faces}")
        if not 0 <= min_quality <= 1:
            raise ValueError(f"min_quality must be in [0, 1], got {min_quality}")
        self._model, self._min_quality = model, min_quality
        self.name, self.classes, self.delay_s = name, tuple(model.labels), delay_s
        encoders = create_encoders(model.features, device="cpu")
        _check_encoders(encoders, name)
        visual = {n: e for n, e in encoders.items() if isinstance(e, CropEncoder | MeshEncoder)}
        voices = {n: e for n, e in encoders.items() if isinstance(e, AudioEncoder)}
        self._voices = list(voices)
        self._pictures = LivePictures(visual, max_faces=max_faces, reidentify=reidentify)
        self._sound = LiveSound(next(iter(voices.values())).provenance) if voices else None
        self._lateness, self._clock, self._sheds_load = Lateness(late_s, clock), clock, late_s is not None
        self._step_s = self._pause_s = min(LONGEST_STEP_S, delay_s / 2)
        self._context_s, self._grid_s = _windows(model)
        self._start_s: float | None = None  # of what is kept
        self._next_s = self._returned_s = -math.inf
        self._release = PeriodicRelease()
        self._is_finished = False
        self._pictures.warm_up()
        timeline_rows(model, EncodedMedia(VideoFaces(np.arange(2.0))))  # imports and sessions: now, not at a frame
        self.frames = self.dropped = 0
        self.seconds = {"pictures": 0.0, "sound": 0.0, "rows": 0.0}

    @property
    def faces(self) -> dict[int, Box]:
        """Subject -> x1, y1, x2, y2 of the face in the latest frame, in its pixels. Someone appears here half a second
        after the first frame, with the first rows."""
        return dict(self._pictures.boxes)

    def frame(self, rgb: np.ndarray, time_s: float) -> list[Row]:
        """Add a frame; returns the rows that became final.

        Args:
            rgb: `(height, width, 3)` uint8 RGB, upright. It is not kept.
            time_s: seconds, on the clock of the sound; any zero. A frame that is not later than the last is dropped.

        Raises:
            ValueError: another shape or type, a time that is not finite, or the stream is finished.
        """
        self._check_time(time_s)
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or 0 in rgb.shape:
            raise ValueError(f"a frame must be (height, width, 3) uint8 RGB, got {rgb.shape} {rgb.dtype}")
        number, self.frames = self.frames, self.frames + 1
        since_s = time_s - self._pictures.latest_s
        if since_s <= 0 or (self._lateness.is_late(time_s) and since_s < KEPT_EVERY_S):
            self.dropped += 1
            return self._advance()
        start = time.thread_time()
        self._pictures.add(number, np.ascontiguousarray(rgb), time_s)
        self.seconds["pictures"] += time.thread_time() - start
        self._begin(time_s)
        return self._advance()

    def sound(self, samples: np.ndarray, rate: int, time_s: float) -> list[Row]:
        """Add a block of sound of any length; returns the rows that became final.

        Blocks follow each other. Differences of less than 50 ms are taken for jitter; longer gaps become silence, and
        overlaps are cut. A model that does not read the voice ignores sound.

        Args:
            samples: `(n,)` or `(n, channels)` float32 in [-1, 1]. Channels are averaged.
            rate: samples per second. time_s: of the first sample, in seconds, on the clock of the frames.

        Raises:
            ValueError: another shape or type, a rate or time out of range, or the stream is finished.
        """
        self._check_time(time_s)
        if samples.ndim not in (1, 2) or samples.dtype != np.float32 or (samples.ndim == 2 and not samples.shape[1]):
            raise ValueError(f"sound must be (n,) or (n, channels) float32, got {samples.shape} {samples.dtype}")
        if not 1000 <= rate <= 768_000:
            raise ValueError(f"rate must be in [1000, 768000] Hz, got {rate}")
        if self._sound is None or not len(samples):
            return []
        start = time.thread_time()
        self._sound.add(samples, int(rate), time_s)
        self.seconds["sound"] += time.thread_time() - start
        self._begin(time_s)
        return self._advance()

    def finish(self) -> list[Row]:
        """Return the remaining rows: nothing follows. Afterwards only the attributes can be used."""
        if self._is_finished:
            return []
        rows = self._rows(math.inf, is_end=True) if self._start_s is not None else []
        self._is_finished = True
        return rows

    def __enter__(self) -> LiveStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        self._is_finished = True

    def _check_time(self, time_s: float) -> None:
        if self._is_finished:
            raise ValueError("the stream is finished; make another one with mien.stream")
        if not math.isfinite(time_s):
            raise ValueError(f"time_s must be a number of seconds, got {time_s}")

    @property
    def _now_s(self) -> float:
        return max(self._pictures.latest_s, self._sound.latest_s if self._sound is not None else -math.inf)

    def _begin(self, time_s: float) -> None:
        """Start the clock of the rows with the first picture or sound."""
        if self._start_s is None:
            self._start_s = math.floor(time_s / self._grid_s) * self._grid_s
            self._next_s = time_s + self._step_s

    def _advance(self) -> list[Row]:
        """The rows that became final, if it is time to compute some.

        Where that takes long, it is done less often, so that it takes half of the time at most: a slow computer gives
        rows later, and does not fall behind for good. With `late_s` None rows depend on the input alone.
        """
        now = self._now_s
        if self._start_s is None or now < self._next_s:
            return []
        start = self._clock()
        rows = self._rows(now - max(0.0, self.delay_s - self._pause_s))
        if self._sheds_load:
            self._pause_s = max(self._step_s, 2 * (self._clock() - start))
        self._next_s = now + self._pause_s
        self._release(now)
        return rows

    def _rows(self, until_s: float, *, is_end: bool = False) -> list[Row]:
        """The rows up to `until_s` that were not returned yet."""
        started = time.thread_time()
        table = self._table(is_end=is_end)
        rows = self._new_rows(table, until_s) if table is not None else []
        if rows:
            self._returned_s = rows[-1]["time_s"]
        self.seconds["rows"] += time.thread_time() - started
        return rows

    def _table(self, *, is_end: bool) -> pl.DataFrame | None:
        """The rows of all that is kept, with times from `_start_s` on."""
        assert self._start_s is not None
        # The tokens of a window lie where those of a file lie: windows begin at whole steps of the grid.
        first_s = math.ceil((self._now_s - self._context_s) / self._grid_s) * self._grid_s
        self._start_s = max(self._start_s, first_s)
        media = EncodedMedia(self._pictures.faces(self._start_s, is_end=is_end))
        media.faces.names = {name: name for name in media.faces.encoders}
        if self._sound is not None and self._sound.latest_s > self._start_s:
            stop_s = self._sound.latest_s
            voice, media.level = self._sound.streams(self._start_s, is_end=is_end)
            media.audio, media.speech = dict.fromkeys(self._voices, voice), voice
            media.has_sound, media.sound_stop_s = True, stop_s - self._start_s
        if media.speech is None and not len(media.faces.times):
            return None
        return timeline_rows(self._model, media, min_quality=self._min_quality)

    def _new_rows(self, table: pl.DataFrame, until_s: float) -> list[Row]:
        start_s = self._start_s or 0.0
        new = table.filter(
            (pl.col("time_s") > self._returned_s - start_s + 1e-6) & (pl.col("time_s") <= until_s - start_s)
        )
        numbers = self._pictures.numbers() or [0]
        seen = self._pictures.last_seen()
        latest_s = max(seen.values(), default=math.inf)
        rows = []
        for row in new.sort("time_s", "subject").to_dicts():
            row["subject"] = numbers[row["subject"]]
            if row["frame"] is not None:
                row["frame"], row["time_s"] = self._pictures.frame(row["frame"])
            else:
                row["time_s"] += start_s
            left_s = seen.get(row["subject"], math.inf)
            if row["time_s"] <= left_s + ABSENT_ROWS_S or left_s == latest_s:
                rows.append(row)
        return rows


def _windows(model: StreamModel) -> tuple[float, float]:
    """Seconds that a model needs to see, those of its longest window; and the shortest whole number of seconds that is
    a whole number of tokens of every network of it."""
    grid, settings = 1, list(all_settings(model))
    for one in settings:
        grid = math.lcm(grid, Fraction(one.rate_hz).limit_denominator(1000).denominator)
    context = max(SHORTEST_CONTEXT_S, *(one.window_s for one in settings))
    # Of odd rates, tokens lie elsewhere than in a file: a window may not lose a quarter of itself for them.
    return context, float(grid if grid <= context / 4 else 1)


def _check_encoders(encoders: Mapping[str, Encoder], name: str) -> None:
    """Raise ConfigError for an input that cannot be encoded while it arrives."""
    check_kinds(encoders)
    for modality, encoder in encoders.items():
        if not isinstance(encoder, CropEncoder | MeshEncoder | VoiceSpeech):
            raise ConfigError(
                f"the model {name!r} reads {modality} through the encoder {encoder.name!r}, which needs a whole "
                "recording",
                follows="Nothing was predicted.",
                remedy="Use --model starter, or record first and run `mien predict`.",
            )
