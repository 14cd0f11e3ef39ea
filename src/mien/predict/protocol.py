"""The predictor protocol: what `mien.load` returns, whatever the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from mien.timeline.table import Timeline

#: Called as `progress(done_s, total_s)`: seconds of media processed, and its length in seconds, or None if unknown.
ProgressCallback = Callable[[float, float | None], None]
#: Gets provisional rows, a table with the columns of a Timeline.
RowsCallback = Callable[["pl.DataFrame"], None]
#: A path, an address, bytes, a binary file object, or a picture: an array, a torch tensor, a PIL image.
MediaInput: TypeAlias = "str | PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | np.ndarray | Any | None"


@runtime_checkable
class Predictor(Protocol):
    """Predicts the Timeline of a recording. Reusable for any number of recordings, from one thread at a time.

    Attributes:
        name: the model's name, which results record as `info["model"]`.
        max_faces: the largest number of people tracked at once in a video; a still has no limit.
        reidentify: someone who returns, or is seen again after a cut, keeps the number, by appearance.
        one_thread: decode, listen and look one after the other, for several processes that share the cores.
    """

    name: str
    max_faces: int
    reidentify: bool
    one_thread: bool

    def predict(
        self,
        recording: MediaInput = None,
        *,
        frames: Any = None,
        times: Any = None,
        fps: float | None = None,
        audio: tuple[Any, float] | None = None,
        download: bool = False,
        face: bool = True,
        voice: bool = True,
        audio_track: int | None = None,
        split_channels: bool = False,
        min_quality: float = 0.0,
        face_rate_hz: float | None = None,
        features: bool | str | Iterable[str] = False,
        start_s: float = 0.0,
        stop_s: float | None = None,
        progress: ProgressCallback | None = None,
        on_rows: RowsCallback | None = None,
    ) -> Timeline:
        """Estimate the expression, valence and arousal of each person over time.

        The Timeline has one row per decoded frame and subject; a sound file has 10 rows per second, and so has speech
        more than half a second before or after the pictures of a video; a picture has one row per subject. If no face
        is detected, there is one subject, 0, without boxes.

        Args:
            recording: a video, sound file or picture: its path, its bytes, or a binary file object, whose rest is read;
                an address of http or https, with `download`; or one picture in memory, `(h, w, 3)` or, as torch orders
                them, `(3, h, w)` uint8 RGB: an array, a torch tensor, or a PIL image. OpenCV reads BGR: turn its
                pictures with `picture[..., ::-1]`.
            frames: instead of a recording, pictures in memory: `(n, h, w, 3)` or a list or generator of pictures. A
                generator is read once, picture by picture, and is not checked for being upside down.
            times: of `frames`, `(n,)` seconds, increasing, 0 or later. fps: instead of times, pictures a second, the
                first at 0 s.
            audio: instead of a recording, or beside `frames`: `(samples, rate)`. Samples are `(n,)` or `(n, channels)`,
                floats in [-1, 1], int16, int32 or uint8, and start at 0 s; rate in Hz.
            download: download the recording from its address, into a temporary file that is removed at the end.
            face: use the faces.
            voice: use the voice.
            audio_track: number of the sound track, from 1; None: the default one, or another one that has clearly more
                speech.
            split_channels: each channel of the sound is a subject of its own, as in calls recorded with one speaker on
                each; without it the channels are averaged. For recordings without pictures, or with `face` False.
            min_quality: faces whose column `quality` is lower, in [0, 1], are not read. 0 reads every face; below 0.5
                the column `uncertain` marks the reading.
            face_rate_hz: read faces so many times a second, and in the next frame too while one moves; every frame has
                its rows all the same, with what lies between two readings interpolated. A rate above that of the frames
                reads each of them. None: the rate of models that read faces at a rate of their own, as the starter
                does (12; 15 with several people in view), and with `features` or otherwise every frame.
            features: also give `Timeline.features`, a table with the same rows and what was measured of face and voice
                (docs/FEATURES.md). Faces are then read in every frame, because blinks are short. Instead of True: names
                of further columns of the table, `gaze`, `blendshapes` (both download `face-landmarker`, 4 MB, once) and
                `landmarks`.
            start_s, stop_s: seconds of the recording to predict, by default all of it. Times and frame numbers stay
                those of the whole recording. The network sees nothing outside, so rows near the ends can differ from
                those of the whole.
            progress: called a few times a second.
            on_rows: called every few seconds while a video is read, with the rows of the stretch that was read since.
                They are provisional, for a view of what was found so far: the network has not seen what follows, the
                voice counts only once all sound has been read, and who counts as a subject may change. The Timeline is
                the same with and without it. Sound alone, pictures and upside-down videos give none.

        Raises:
            MediaError: the recording cannot be read or downloaded, arrays have another shape or type, times do not
                increase, or it lacks the modalities or the sound track in use.
            ArtefactError: a network has not been downloaded (the error names the command).
            ConfigError: the checkpoint is damaged, reads features that prediction does not compute, or cannot run on
                the device; or the arguments exclude each other, or name an address without `download`.
            OutputError: the temporary file of bytes, a file object or a download cannot be written.
            ValueError: `face` and `voice` are both False, `min_quality` is outside [0, 1], `face_rate_hz` is not
                positive, `features` names columns that do not exist, or start_s is not before stop_s.
        """
        ...
