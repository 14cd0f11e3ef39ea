"""Writer of submission files: the sample's rows in the sample's order, each with a prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from mien.atomic import atomic_path
from mien.errors import OutputError
from mien.evaluation.predictions import nearest_valid
from mien.evaluation.score_tasks import decisions
from mien.labels import NEUTRAL, UNLABELLED
from mien.submission.template import AU, CE, EMI, EXPR, FILENAME, HEADERS, LOCATION, NAMES, VA, Template, read_sample

#: Rows by which a clip's predictions may fall short of the sample. Clips of Aff-Wild2 (arXiv:1811.07770) have up to two
#: more label rows than frames; more means an incomplete prediction.
USUAL_SHORT = 2
#: Overshoot of [-1, 1] that counts as rounding.
_ROUNDING = 1e-4
_DECIMALS = 6
_MAX_NAMED = 3
_NOTHING_WRITTEN = "Nothing was written."
#: What a clip without any prediction gets.
DEFAULTS = {
    EXPR: "Neutral", VA: "0, 0", AU: "no active unit", CE: "Fearfully Surprised, the first class", EMI: "0 throughout"
}  # fmt: skip
#: Function (path, clip, predictions) -> values `(frame, ...)` and `(frame,)` whether they are valid.
_Parser = Callable[[Path, str, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class SubmissionReport:
    """Result of writing a submission.

    Attributes:
        kind: challenge, key of `template.HEADERS`.
        rows, clips: numbers in the file.
        without_evidence: rows whose frame was predicted without evidence.
        beyond: rows after the last predicted frame.
        unpredicted: clips of the sample without any prediction.
        unused: predicted clips that are not in the sample.
        longer: clip -> predicted frames beyond the sample, where more than USUAL_SHORT.
    """

    path: Path
    kind: str
    rows: int
    clips: int
    without_evidence: int
    beyond: int
    unpredicted: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    longer: dict[str, int] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Notes for the reader: rows that were filled, clips that are missing, unused or longer than the sample."""
        nearest = "they take the nearest predicted frame of the clip"
        notes = []
        if self.without_evidence:
            notes.append(f"{self.without_evidence:,} rows had no evidence: {nearest}")
        if self.beyond:
            notes.append(f"{self.beyond:,} rows lie beyond the last predicted frame: {nearest}")
        if self.unpredicted:
            default = DEFAULTS[self.kind]
            notes.append(
                f"{len(self.unpredicted)} clips were not predicted at all ({default}): {_shorten(self.unpredicted)}"
            )
        if self.longer:
            name, surplus = max(self.longer.items(), key=lambda item: item[1])
            notes.append(
                f"{len(self.longer)} clips have more predicted frames than the sample (most: {name!r}, {surplus:,}): "
                "those were left out; check that the recordings are the same"
            )
        if self.unused:
            notes.append(f"{len(self.unused)} predicted clips are not in the sample: {_shorten(self.unused)}")
        return notes


def write_expr(
    path: Path, predictions: Mapping[str, np.ndarray], sample: Path, *, fill: bool = False
) -> SubmissionReport:
    """Writes an EXPR submission: the sample's rows, in its order, each with a class from 0 to 7.

    A frame without evidence (NaN, or class -1) and a row beyond the last predicted frame take the nearest predicted
    frame of the clip, the earlier one on ties. A clip without any prediction is Neutral, the most frequent class.
    Predicted frames beyond the last row are left out. A clip that falls more than two rows short, or is not predicted,
    is refused unless `fill`, since a padded failure looks like a result.

    Args:
        predictions: clip id -> `(frame,)` int classes in the order of EXPRESSIONS, or `(frame, 8)` probabilities.
            Index i is image i + 1.
        sample: the official sample file.
        fill: fill any number of rows and clips.

    Raises:
        ConfigError: an invalid sample, or one of VA.
        OutputError: predictions that are neither classes nor probabilities, or fall short; or the file cannot be
            written. The file is written under a temporary name and renamed.
    """
    return _write_classes(path, predictions, read_sample(sample, EXPR), NEUTRAL, fill)


def write_ce(
    path: Path, predictions: Mapping[str, np.ndarray], sample: Path, *, fill: bool = False
) -> SubmissionReport:
    """Writes a CE submission (compound expressions): the sample's rows, each with a class from 0 to 6.

    Rows are filled as in `write_expr`; a clip without any prediction gets class 0, because no class is known to be the
    most frequent.

    Args:
        predictions: clip id -> `(frame,)` int classes in the order of COMPOUND_EXPRESSIONS, or `(frame, 7)`
            probabilities (`mien.evaluation.score_tasks.compound_probabilities`).

    Raises: as `write_expr`.
    """
    return _write_classes(path, predictions, read_sample(sample, CE), 0, fill)


def _write_classes(
    path: Path, predictions: Mapping[str, np.ndarray], template: Template, default: int, fill: bool
) -> SubmissionReport:
    classes = np.full(len(template), default, np.int64)
    parse = partial(_parse_classes, NAMES[template.kind])
    report = _fill_rows(path, template, predictions, parse, classes, fill)
    _write(path, pl.DataFrame({LOCATION: template.names, "class": classes}), template.kind)
    return report


def write_va(
    path: Path, predictions: Mapping[str, np.ndarray], sample: Path, *, fill: bool = False
) -> SubmissionReport:
    """Writes a VA submission: the sample's rows, in its order, each with valence and arousal to 6 decimals.

    Rows are filled as in `write_expr`; a clip without any prediction is 0, 0. Our choice, because it favours neither
    side. The file never holds -5. Values beyond [-1, 1] by rounding only are clipped.

    Args:
        predictions: clip id -> `(frame, 2)` valence and arousal in [-1, 1], NaN without evidence.

    Raises: as `write_expr`.
    """
    template = read_sample(sample, VA)
    values = np.zeros((len(template), 2))
    report = _fill_rows(path, template, predictions, _parse_affect, values, fill)
    values = np.round(values, _DECIMALS) + 0.0  # adding 0.0 turns the -0.0 that rounding leaves into 0.0
    columns = {LOCATION: template.names, "valence": values[:, 0], "arousal": values[:, 1]}
    _write(path, pl.DataFrame(columns), VA)
    return report


def write_au(
    path: Path, predictions: Mapping[str, np.ndarray], sample: Path, *, fill: bool = False
) -> SubmissionReport:
    """Writes an AU submission (action units): the sample's rows, in its order, each with twelve 0 or 1.

    A unit is active where its score is at least .5. Rows are filled as in `write_expr`; a clip without any prediction
    has no active unit.

    Args:
        predictions: clip id -> `(frame, 12)` scores or decisions in [0, 1], NaN without evidence.

    Raises: as `write_expr`.
    """
    template = read_sample(sample, AU)
    values = np.zeros((len(template), len(NAMES[AU])))
    report = _fill_rows(path, template, predictions, partial(_parse_scores, NAMES[AU]), values, fill)
    units = decisions(values)
    columns = {LOCATION: template.names, **{name: units[:, i] for i, name in enumerate(NAMES[AU])}}
    _write(path, pl.DataFrame(columns), AU)
    return report


def write_emi(
    path: Path, predictions: Mapping[str, np.ndarray], sample: Path, *, fill: bool = False
) -> SubmissionReport:
    """Writes an EMI submission (Emotional Mimicry Intensity): one row for each clip, with six numbers to 6 decimals.

    A clip without a prediction is refused unless `fill`, and is then 0 throughout.

    Args:
        predictions: clip id -> `(6,)` intensities in [0, 1], in the order of MIMICRY, NaN without evidence.
        sample: the list of test clips, with the header of EMI or of `Filename` alone.

    Raises: as `write_expr`.
    """
    template = read_sample(sample, EMI)
    values = np.zeros((len(template), len(NAMES[EMI])))
    rows = {clip: np.asarray(scores)[None] for clip, scores in predictions.items()}
    report = _fill_rows(path, template, rows, partial(_parse_scores, NAMES[EMI]), values, fill)
    values = np.round(values, _DECIMALS)
    columns = {FILENAME: template.names, **{name: values[:, i] for i, name in enumerate(NAMES[EMI])}}
    _write(path, pl.DataFrame(columns), EMI)
    return report


def _fill_rows(
    path: Path, sample: Template, predictions: Mapping[str, np.ndarray], parse: _Parser, out: np.ndarray, fill: bool
) -> SubmissionReport:
    """Fills `out` `(row, ...)` in place from the predictions; rows of clips without any stay as they are."""
    without_evidence = beyond = 0
    unpredicted, longer, short = [], {}, {}
    for clip, rows in sample.rows_of.items():
        frames = sample.frames[rows] - 1
        values, valid = parse(path, clip, predictions[clip]) if clip in predictions else (out[:0], np.zeros(0, bool))
        is_beyond = frames >= len(values)
        if not len(values):
            unpredicted.append(clip)
        elif is_beyond.sum() > USUAL_SHORT:
            short[clip] = int(is_beyond.sum())
        if (surplus := len(values) - int(frames.max()) - 1) > USUAL_SHORT:
            longer[clip] = surplus
        beyond += int(is_beyond.sum()) if len(values) else 0
        if valid.any():
            frame = np.minimum(frames, len(values) - 1)
            without_evidence += int((~valid[frame] & ~is_beyond).sum())
            out[rows] = values[nearest_valid(valid)[frame]]
        else:
            without_evidence += int((~is_beyond).sum())
    if (unpredicted or short) and not fill:
        raise _incomplete(path, sample, unpredicted, short)
    unused = sorted(set(predictions) - set(sample.clip_ids))
    clips = len(sample.clip_ids)
    return SubmissionReport(
        path, sample.kind, len(sample), clips, without_evidence, beyond, unpredicted, unused, longer
    )


def _parse_classes(
    names: Sequence[str], path: Path, clip: str, predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Classes `(frame,)` and whether they are valid. names: of the classes."""
    values, count = np.asarray(predictions), len(names)
    if values.ndim == 2 and values.shape[1] == count and np.issubdtype(values.dtype, np.floating):
        valid = np.isfinite(values).all(axis=1)
        return np.where(valid[:, None], values, 0.0).argmax(axis=1), valid
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        what = f"are {values.dtype} of shape {values.shape}, neither (frames,) int nor (frames, {count})"
        raise _bad_predictions(path, clip, what, "Give whole class numbers or probabilities.")
    if len(wrong := values[(values < UNLABELLED) | (values >= count)]):
        what = f"hold class {wrong[0]} ({len(wrong)} frames); classes are 0 to {count - 1}"
        raise _bad_predictions(path, clip, what, f"Count classes from 0, {names[0]}; use -1 for no prediction.")
    return values.astype(np.int64), values != UNLABELLED


def _parse_affect(path: Path, clip: str, predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valence and arousal `(frame, 2)` and whether both are valid."""
    values = np.asarray(predictions)
    if values.ndim != 2 or values.shape[1] != 2:
        what = f"have shape {values.shape}, not (frames, 2): valence, arousal"
        raise _bad_predictions(path, clip, what, "Give one row per frame.")
    valid = np.asarray(np.isfinite(values).all(axis=1))
    if len(wrong := values[valid][(np.abs(values[valid]) > 1 + _ROUNDING).any(axis=1)]):
        what = f"hold {wrong[0, 0]:g}, {wrong[0, 1]:g} ({len(wrong)} frames), outside [-1, 1]"
        raise _bad_predictions(path, clip, what, "Scale them to [-1, 1]; use NaN, never -5, for no prediction.")
    return np.where(valid[:, None], np.clip(values.astype(np.float64), -1, 1), 0.0), valid


def _parse_scores(
    names: Sequence[str], path: Path, clip: str, predictions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores `(frame, columns)` and whether all of a frame are valid. names: of the columns."""
    values = np.asarray(predictions, np.float64)
    if values.ndim != 2 or values.shape[1] != len(names):
        what = f"have shape {values.shape}, not (frames, {len(names)}): {names[0]} ... {names[-1]}"
        raise _bad_predictions(path, clip, what, "Give one column for each, in that order.")
    valid = np.asarray(np.isfinite(values).all(axis=1))
    if len(wrong := values[valid][(np.abs(values[valid] - 0.5) > 0.5 + _ROUNDING).any(axis=1)]):
        what = f"hold {wrong[0].min():g} to {wrong[0].max():g} ({len(wrong)} frames), outside [0, 1]"
        raise _bad_predictions(path, clip, what, "Scale them to [0, 1]; use NaN, never -1, for no prediction.")
    return np.where(valid[:, None], np.clip(values, 0, 1), 0.0), valid


def _bad_predictions(path: Path, clip: str, what: str, remedy: str) -> OutputError:
    return OutputError(f"{path}: predictions of {clip!r} {what}", follows=_NOTHING_WRITTEN, remedy=remedy)


def _write(path: Path, table: pl.DataFrame, kind: str) -> None:
    with atomic_path(Path(path)) as temporary, temporary.open("wb") as file:
        file.write(f"{HEADERS[kind]}\n".encode())
        try:
            table.write_csv(file, include_header=False, quote_style="never", float_precision=_DECIMALS)
        except pl.exceptions.PolarsError as error:  # polars wraps OSErrors such as a full disk
            raise OSError(str(error)) from error


def _incomplete(path: Path, sample: Template, unpredicted: list[str], short: Mapping[str, int]) -> OutputError:
    problems = []
    if unpredicted:
        count = f"{len(unpredicted)} of the sample's {len(sample.clip_ids)} clips"
        problems.append(f"{count} were not predicted: {_shorten(unpredicted)}")
    if short:
        worst = sorted(short, key=lambda clip: -short[clip])
        named = ", ".join(f"{clip!r} by {short[clip]:,}" for clip in worst[:_MAX_NAMED])
        more = " ..." if len(short) > _MAX_NAMED else ""
        problems.append(f"{len(short)} clips are predicted more than {USUAL_SHORT} rows short: {named}{more}")
    return OutputError(
        f"{path}: " + "; ".join(problems),
        follows=_NOTHING_WRITTEN,
        remedy="Predict those clips to their end, or use --fill to repeat the nearest prediction (in a clip without "
        f"any: {DEFAULTS[sample.kind]}).",
    )


def _shorten(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_MAX_NAMED])) + (" ..." if len(names) > _MAX_NAMED else "")
