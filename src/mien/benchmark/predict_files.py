"""One prediction for each file: the mean probabilities of the person most seen, through `Predictor.predict`.

Conditions change images before prediction: enlarged four times, compressed as JPEG of quality 40, the lower half grey,
mirrored. Sound of known people has one condition, `JOINED`: all files of a person in one recording, as a voice network
hears a speaker in use, who is more than one utterance.
"""

from __future__ import annotations

import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import polars as pl

from mien.benchmark.corpora import LabelledFile, LabelledFiles
from mien.errors import ConfigError, MediaError, OutputError
from mien.labels import EXPRESSIONS, probability_column
from mien.media import audio, image
from mien.predict import Predictor
from mien.timeline.table import Timeline

#: Grey level of covered pixels.
_GREY = 128
_JPEG_QUALITY = 40
_ENLARGED = 4
#: Condition of sound: the files of each person one after another.
JOINED = "in a recording"
#: Seconds of silence between the files of a recording.
_PAUSE_S = 0.6


def _enlarge(pixels: np.ndarray) -> np.ndarray:
    size = pixels.shape[1] * _ENLARGED, pixels.shape[0] * _ENLARGED
    enlarged: np.ndarray = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
    return enlarged


def _compress(pixels: np.ndarray) -> np.ndarray:
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def _cover(pixels: np.ndarray) -> np.ndarray:
    covered = pixels.copy()
    covered[len(pixels) // 2 :] = _GREY
    return covered


def _mirror(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(pixels[:, ::-1])


#: Condition -> change of an image `(height, width, 3)` uint8 RGB.
CONDITIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "enlarged": _enlarge,
    "JPEG": _compress,
    "half covered": _cover,
    "mirrored": _mirror,
}


@dataclass(frozen=True, slots=True)
class FilePredictions:
    """Predictions of a model for the files of a corpus.

    probabilities: `(n, 8)` in the order of EXPRESSIONS; NaN in the row of a file without a prediction. errors: texts of
    the files that could not be predicted, by file id.
    """

    probabilities: np.ndarray
    errors: dict[str, str]

    @property
    def has_prediction(self) -> np.ndarray:
        """`(n,)` bool."""
        return np.asarray(np.isfinite(self.probabilities).all(axis=1))


def predict_files(
    predictor: Predictor,
    corpus: LabelledFiles,
    *,
    face: bool = True,
    voice: bool = True,
    condition: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FilePredictions:
    """Predict one distribution over EXPRESSIONS for each file (`file_probabilities`).

    A file that cannot be read, or shows neither a face nor speech, has no prediction.

    Args:
        face, voice: as `Predictor.predict`.
        condition: key of `CONDITIONS`, for images only, or `JOINED`, for sound only; "" predicts the files as they are.
        progress: called with (files done, files in total).

    Raises:
        ConfigError: the model predicts other classes, or cannot be used.
        ArtefactError: a network has not been downloaded.
    """
    probabilities = np.full((len(corpus.files), len(EXPRESSIONS)), np.nan)
    errors: dict[str, str] = {}
    if condition == JOINED:
        return _predict_joined(predictor, corpus, progress)
    with TemporaryDirectory(prefix="mien-bench-") as folder:
        for row, file in enumerate(corpus.files):
            try:
                path = _media_path(file, condition, Path(folder) / "image.png")
                timeline = predictor.predict(path, face=face, voice=voice)
            except MediaError as error:
                errors[file.id] = error.what
            else:
                _check_classes(predictor, timeline)
                values = file_probabilities(timeline)
                if values is not None:
                    probabilities[row] = values
            progress(row + 1, len(corpus.files))
    return FilePredictions(probabilities, errors)


def _predict_joined(
    predictor: Predictor, corpus: LabelledFiles, progress: Callable[[int, int], None]
) -> FilePredictions:
    """As `predict_files`, for the voices of each person in one recording, in random order with pauses."""
    probabilities = np.full((len(corpus.files), len(EXPRESSIONS)), np.nan)
    errors: dict[str, str] = {}
    rng, done = np.random.default_rng(0), 0
    with TemporaryDirectory(prefix="mien-bench-") as folder:
        for person in sorted({file.subject for file in corpus.files}):
            rows = rng.permutation([i for i, file in enumerate(corpus.files) if file.subject == person])
            spans, parts, samples = [], [], 0
            for row in rows:
                file = corpus.files[row]
                assert isinstance(file.media, Path)
                try:
                    _, sound = audio.load(file.media)
                except MediaError as error:
                    errors[file.id] = error.what
                    continue
                spans.append((row, samples / audio.SAMPLE_RATE, (samples + len(sound)) / audio.SAMPLE_RATE))
                parts += [sound, np.zeros(round(_PAUSE_S * audio.SAMPLE_RATE), np.float32)]
                samples += len(sound) + len(parts[-1])
            if parts:
                path = Path(folder) / "recording.wav"
                _write_wav(path, np.concatenate(parts))
                timeline = predictor.predict(path, face=False)
                _check_classes(predictor, timeline)
                for row, start_s, stop_s in spans:
                    values = file_probabilities(timeline, start_s, stop_s)
                    if values is not None:
                        probabilities[row] = values
            done += len(rows)
            progress(done, len(corpus.files))
    return FilePredictions(probabilities, errors)


def _write_wav(path: Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(audio.SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def file_probabilities(timeline: Timeline, start_s: float = 0.0, stop_s: float = np.inf) -> np.ndarray | None:
    """Mean probabilities `(8,)` over a recording, or over its rows from `start_s` to `stop_s`; None if no row
    has a prediction.

    The rows are those of the person whose face is seen in most rows (the first of equals). Without any face, they are
    the rows with speech.
    """
    columns = [probability_column(name) for name in EXPRESSIONS]
    table = timeline.table.with_columns(pl.lit(0.0).alias(c) for c in columns if c not in timeline.table.columns)
    table = table.filter(pl.col("time_s").is_between(start_s, stop_s, closed="left"))
    table = table.filter(pl.all_horizontal(pl.col(columns).is_not_null()))
    seen = table.filter(pl.col("evidence").is_in(["face", "both"]))
    if len(seen):
        counts = seen.group_by("subject").len().sort(["len", "subject"], descending=[True, False])
        rows = table.filter(pl.col("subject") == counts["subject"][0])
    else:
        rows = table.filter(pl.col("evidence") == "voice")
    if not len(rows):
        return None
    mean: np.ndarray = rows.select(columns).to_numpy().astype(np.float64).mean(axis=0)
    return mean


def _media_path(file: LabelledFile, condition: str, temporary: Path) -> Path:
    """Path of a file, or of an image written for pixels and conditions."""
    if isinstance(file.media, Path) and not condition:
        return file.media
    pixels = image.read(file.media) if isinstance(file.media, Path) else cv2.cvtColor(file.media, cv2.COLOR_GRAY2RGB)
    if condition:
        pixels = CONDITIONS[condition](pixels)
    if not cv2.imwrite(str(temporary), np.ascontiguousarray(pixels[..., ::-1])):
        raise OutputError(
            f"{temporary} cannot be written", follows="Nothing was scored.", remedy="Free some space, or set TMPDIR."
        )
    return temporary


def _check_classes(predictor: Predictor, timeline: Timeline) -> None:
    unknown = [name for name in timeline.classes if name not in EXPRESSIONS]
    if unknown:
        raise ConfigError(
            f"{predictor.name} predicts {', '.join(unknown)}; the corpora are labelled with {', '.join(EXPRESSIONS)}",
            follows="Nothing was scored.",
            remedy="Use a model with some of these eight classes.",
        )
