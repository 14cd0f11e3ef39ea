"""Writes submission files: the sample's rows in the sample's order, every one answered by a stated rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from mien.atomic import atomic_path
from mien.errors import OutputError
from mien.evaluation.predictions import nearest_known
from mien.labels import EXPRESSIONS, NEUTRAL, UNLABELLED
from mien.submission.template import EXPR, HEADERS, LOCATION, VA, Template, read_sample

#: Rows that a clip's predictions may fall short of the sample by. Aff-Wild2's label rows exceed the frames of their
#: containers by up to two (PAPERS §0); more means that something was not read to its end.
USUAL_SHORT = 2
#: Overshoot of [-1, 1] that counts as rounding.
_ROUNDING = 1e-4
_DECIMALS = 6
_NAMED = 3
_NOTHING = "nothing was written"
#: (path, clip, predictions) -> values `(frame, ...)` and `(frame,)` where they are known.
_Meaning = Callable[[Path, str, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Written:
    """What was written, and what it rests on.

    rows, clips: in the file. without_evidence: rows whose frame was predicted without evidence. beyond: rows after
    the last predicted frame. unpredicted: clips of which nothing was predicted. unused: predicted clips that the
    sample does not ask for. longer: clip -> predicted frames that the sample does not ask for, where more than two.
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
        """In words, what somebody who sends the file should know."""
        nearest = "the nearest predicted frame of the clip"
        notes = []
        if self.without_evidence:
            notes.append(f"{self.without_evidence:,} rows had no evidence: {nearest} speaks for them")
        if self.beyond:
            notes.append(f"{self.beyond:,} rows lie beyond the last predicted frame: {nearest} speaks for them")
        if self.unpredicted:
            default = "Neutral" if self.kind == EXPR else "0, 0"
            notes.append(
                f"{len(self.unpredicted)} clips were not predicted at all ({default}): {_few(self.unpredicted)}"
            )
        if self.longer:
            name, more = max(self.longer.items(), key=lambda item: item[1])
            notes.append(
                f"{len(self.longer)} clips have more predicted frames than the sample asks for (most: {name!r}, "
                f"{more:,}): those were left out; are they the same recordings?"
            )
        if self.unused:
            notes.append(f"{len(self.unused)} predicted clips are not in the sample: {_few(self.unused)}")
        return notes


def write_expr(path: Path, predictions: Mapping[str, np.ndarray], sample: Path, *, fill: bool = False) -> Written:
    """Writes an EXPR submission: the sample's rows, in its order, each with a class from 0 to 7.

    The rule for a frame without evidence (NaN, or class -1), and for a row beyond the last predicted frame: the
    nearest predicted frame of that clip speaks for it, of two the earlier; a clip that has none is Neutral, the
    commonest class. Predicted frames beyond the last row are left out. A clip that falls more than two rows short,
    or that was not predicted, is refused unless `fill`, since padding a failed prediction looks like a result.

    Args:
        predictions: clip id -> `(frame,)` int classes in the order of EXPRESSIONS, or `(frame, 8)` probabilities.
            Position i is picture i + 1.
        sample: the official sample file.
        fill: apply the rule to any number of rows and clips.

    Raises:
        ConfigError: the sample is none, or is VA's. OutputError: predictions that are neither classes nor
            probabilities, or fall short; or the file cannot be written. It is written beside and renamed.
    """
    read = read_sample(sample, EXPR)
    classes = np.full(len(read), NEUTRAL, np.int64)
    report = _laid_out(path, read, predictions, _classes, classes, fill)
    _write(path, pl.DataFrame({LOCATION: read.names, "class": classes}), EXPR)
    return report


def write_va(path: Path, predictions: Mapping[str, np.ndarray], sample: Path, *, fill: bool = False) -> Written:
    """Writes a VA submission: the sample's rows, in its order, each with valence and arousal to 6 decimals.

    Rules as of `write_expr`; a clip without any evidence is 0, 0 (no lean to either side: our choice). -5 never
    stands in the file. Values that leave [-1, 1] by rounding only are cut.

    Args:
        predictions: clip id -> `(frame, 2)` valence and arousal in [-1, 1], NaN without evidence.

    Raises: as `write_expr`.
    """
    read = read_sample(sample, VA)
    values = np.zeros((len(read), 2))
    report = _laid_out(path, read, predictions, _affect, values, fill)
    values = np.round(values, _DECIMALS) + 0.0  # adding 0.0 turns the -0.0 that rounding leaves into 0.0
    columns = {LOCATION: read.names, "valence": values[:, 0], "arousal": values[:, 1]}
    _write(path, pl.DataFrame(columns), VA)
    return report


def _laid_out(
    path: Path, sample: Template, predictions: Mapping[str, np.ndarray], meaning: _Meaning, out: np.ndarray, fill: bool
) -> Written:
    """Fills `out` `(row, ...)` in place with what the predictions say."""
    silent = beyond = 0
    unpredicted, longer, short = [], {}, {}
    for clip, rows in sample.rows_of.items():
        frames = sample.frames[rows] - 1
        values, known = meaning(path, clip, predictions[clip]) if clip in predictions else (out[:0], np.zeros(0, bool))
        missing = frames >= len(values)
        if not len(values):
            unpredicted.append(clip)
        elif missing.sum() > USUAL_SHORT:
            short[clip] = int(missing.sum())
        if (surplus := len(values) - int(frames.max()) - 1) > USUAL_SHORT:
            longer[clip] = surplus
        beyond += int(missing.sum()) if len(values) else 0
        if known.any():
            at = np.minimum(frames, len(values) - 1)
            silent += int((~known[at] & ~missing).sum())
            out[rows] = values[nearest_known(known)[at]]
        else:
            silent += int((~missing).sum())
    if (unpredicted or short) and not fill:
        raise _refused(path, sample, unpredicted, short)
    unused = sorted(set(predictions) - set(sample.clip_ids))
    clips = len(sample.clip_ids)
    return Written(path, sample.kind, len(sample), clips, silent, beyond, unpredicted, unused, longer)


def _classes(path: Path, clip: str, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes `(frame,)` and where there is one."""
    said = np.asarray(said)
    if said.ndim == 2 and said.shape[1] == len(EXPRESSIONS) and np.issubdtype(said.dtype, np.floating):
        known = np.isfinite(said).all(axis=1)
        return np.where(known[:, None], said, 0.0).argmax(axis=1), known
    if said.ndim != 1 or not np.issubdtype(said.dtype, np.integer):
        what = f"predictions of {clip!r} are {said.dtype} of shape {said.shape}, neither (frames,) int nor (frames, 8)"
        raise OutputError(f"{path}: {what}", follows=_NOTHING, remedy="give whole class numbers or probabilities")
    if len(wrong := said[(said < UNLABELLED) | (said >= len(EXPRESSIONS))]):
        what = f"predictions of {clip!r} hold class {wrong[0]} ({len(wrong)} frames); classes are 0 to 7"
        raise OutputError(f"{path}: {what}", follows=_NOTHING, remedy="count classes from 0, Neutral; -1 is no answer")
    return said.astype(np.int64), said != UNLABELLED


def _affect(path: Path, clip: str, said: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valence and arousal `(frame, 2)` and where there are both."""
    said = np.asarray(said)
    if said.ndim != 2 or said.shape[1] != 2:
        what = f"predictions of {clip!r} have shape {said.shape}, not (frames, 2): valence, arousal"
        raise OutputError(f"{path}: {what}", follows=_NOTHING, remedy="give one row a frame")
    known = np.isfinite(said).all(axis=1)
    if len(wrong := said[known][(np.abs(said[known]) > 1 + _ROUNDING).any(axis=1)]):
        what = f"predictions of {clip!r} hold {wrong[0, 0]:g}, {wrong[0, 1]:g} ({len(wrong)} frames), outside [-1, 1]"
        raise OutputError(
            f"{path}: {what}", follows=_NOTHING, remedy="scale them to [-1, 1]; NaN, never -5, is no answer"
        )
    return np.where(known[:, None], np.clip(said.astype(np.float64), -1, 1), 0.0), known


def _write(path: Path, table: pl.DataFrame, kind: str) -> None:
    with atomic_path(Path(path)) as scratch, scratch.open("wb") as file:
        file.write(f"{HEADERS[kind]}\n".encode())
        try:
            table.write_csv(file, include_header=False, quote_style="never", float_precision=_DECIMALS)
        except pl.exceptions.PolarsError as fault:
            raise OSError(str(fault)) from fault


def _refused(path: Path, sample: Template, unpredicted: list[str], short: Mapping[str, int]) -> OutputError:
    words = []
    if unpredicted:
        words.append(
            f"{len(unpredicted)} of the sample's {len(sample.clip_ids)} clips were not predicted: {_few(unpredicted)}"
        )
    if short:
        worst = sorted(short, key=lambda clip: -short[clip])
        each = ", ".join(f"{clip!r} by {short[clip]:,}" for clip in worst[:_NAMED])
        more = " ..." if len(short) > _NAMED else ""
        words.append(f"{len(short)} clips are predicted more than {USUAL_SHORT} rows short: {each}{more}")
    return OutputError(
        f"{path}: " + "; ".join(words),
        follows=_NOTHING,
        remedy="predict those clips to their end, or repeat the nearest prediction (Neutral, or 0, 0, where a clip has "
        "none) with --fill",
    )


def _few(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_NAMED])) + (" ..." if len(names) > _NAMED else "")
