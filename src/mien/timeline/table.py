"""Timeline: the table of predictions, one row per decoded frame and subject (for sound alone, 10 rows a second).

docs/TIMELINE.md explains each column.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mien.atomic import atomic_path
from mien.errors import MediaError
from mien.labels import class_names, score_tasks
from mien.records import SubjectSummary
from mien.timeline import parquet_digest
from mien.timeline.class_names import check_classes
from mien.timeline.columns import DECIMALS, QUALITY, SPEECH, schema
from mien.timeline.possible import check_possible
from mien.timeline.read_file import KEY, UNREADABLE, read_file
from mien.timeline.summary import EVIDENCE, summarise
from mien.timeline.whole_file import SUFFIXES

if TYPE_CHECKING:
    import pandas
    from rich.console import RenderableType

#: Rows rounded and written at once, which bounds memory for long recordings.
_SLICE = 4_096


class Timeline:
    """Predictions over time for each subject of a recording.

    Attributes:
        table: polars DataFrame with the columns of `columns.schema(classes, scores)`, sorted by subject, then time.
        classes: class names, in the order of the probability columns.
        scores: score tasks (`mien.labels.SCORE_TASKS`) that the table has columns for, such as `au`.
        media: path of the recording, as given.
        notes: warnings of the run ("the file ends early at 4.2 s; ...").
        info: facts of the run, JSON-able: model, version, media facts, seconds per stage.
        features: measures of face and voice for each row of `table` (docs/FEATURES.md), where they were asked for; else
            None. They are no part of the files of the timeline; `write_features` writes them.

    Args:
        classes: the class names; None recovers them from the table, see `mien.labels.class_names`.

    Raises:
        ValueError: the table has missing or unknown columns, or an unknown value of evidence, speech or expression; the
            features have other rows.
        ConfigError: a class name is empty or has a line break, or two classes have the same column.
    """

    def __init__(
        self,
        table: pl.DataFrame,
        *,
        classes: Sequence[str] | None = None,
        media: str | Path = "",
        notes: Sequence[str] = (),
        info: Mapping[str, Any] | None = None,
        features: pl.DataFrame | None = None,
    ) -> None:
        self.classes = _classes(table, classes)
        self.scores = score_tasks(table.columns)
        self.table = _validate(table, self.classes, self.scores)
        self.media = str(media)
        self.notes = tuple(notes)
        self.info = dict(info or {})
        keys = ("subject", "time_s")
        if features is not None and not features.select(keys).equals(self.table.select(keys)):
            raise ValueError("the features have other rows than the timeline: subject and time_s must be the same")
        self.features = features

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        name = Path(self.media).name or "no media"
        return f"Timeline({name}: {len(self)} rows, {len(self.subjects)} subject(s), {len(self.notes)} note(s))"

    @property
    def subjects(self) -> list[int]:
        """Subject numbers in ascending order."""
        return self.table["subject"].unique().sort().to_list()

    def rows_of(self, subject: int) -> pl.DataFrame:
        """Rows of one subject."""
        return self.table.filter(pl.col("subject") == subject)

    def summaries(self) -> list[SubjectSummary]:
        """Summary of each subject: shares, stretches, means and evidence."""
        return summarise(self.table, self.classes)

    # --- files -------------------------------------------------------------------------------------------

    def to_csv(self, path: str | Path) -> Path:
        """Writes CSV with a header; nulls are empty fields. Raises OutputError."""
        with _open_output(Path(path)) as file:
            for start in range(0, max(1, len(self)), _SLICE):
                _round(self.table[start : start + _SLICE]).write_csv(file, include_header=start == 0)
        return Path(path)

    def to_jsonl(self, path: str | Path) -> Path:
        """Writes one JSON object per line. Raises OutputError."""
        with _open_output(Path(path)) as file:
            for part in self.table.iter_slices(_SLICE):
                _round(part).write_ndjson(file)
        return Path(path)

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a pandas DataFrame, with null as pandas' missing value. pyarrow is not needed.

        Numbers are as in `table` (a missing value is NaN), but the column `frame` is Int64 and `uncertain` is boolean,
        which can be missing.

        Raises:
            ConfigError: pandas is not installed.
        """
        from mien.timeline.pandas_table import to_pandas

        return to_pandas(self.table)

    def to_parquet(self, path: str | Path) -> Path:
        """Writes Parquet, the only format that also stores classes, media, notes and info. Raises OutputError."""
        facts = {"classes": self.classes, "media": self.media, "notes": self.notes, "info": self.info}
        metadata = {KEY: json.dumps(facts, default=str), **parquet_digest.METADATA}
        with _open_output(Path(path)) as file:
            self.table.write_parquet(file, metadata=metadata)
            file.flush()
            parquet_digest.add(Path(file.name))
        return Path(path)

    def write(self, path: str | Path) -> Path:
        """Writes in the format of the suffix: .csv, .parquet, .jsonl, or one of `mien.timeline.formats` (.eaf,
        .TextGrid, .vtt, .srt, .boris, .boris.csv, .labelstudio.json, .rttm). Raises OutputError."""
        from mien.timeline import formats

        path = Path(path)
        writers = {".csv": self.to_csv, ".parquet": self.to_parquet, ".jsonl": self.to_jsonl}
        if path.name.lower().endswith(".boris.csv") or path.suffix.lower() not in writers:
            return formats.write(self, path)
        return writers[path.suffix.lower()](path)

    def write_features(self, path: str | Path) -> Path:
        """Writes `features` in the format of the suffix: .csv, .parquet or .jsonl.

        Raises:
            OutputError: it cannot be written. ValueError: there are no features, or the suffix is another.
        """
        path = Path(path)
        if self.features is None:
            raise ValueError("there are no features: predict with features=True")
        with _open_output(path) as file:
            if path.suffix == ".parquet":
                self.features.write_parquet(file)
            elif path.suffix == ".jsonl":
                _round(self.features).write_ndjson(file)
            elif path.suffix == ".csv":
                _round(self.features).write_csv(file)
            else:
                raise ValueError(f"features are written as .csv, .parquet or .jsonl, not as {path.name!r}")
        return path

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        classes: Sequence[str] | None = None,
        rate_hz: float = 25.0,
        tiers: Sequence[str] | None = None,
    ) -> Timeline:
        """Reads a file of `write`, or annotations of people in one of `mien.timeline.formats`.

        Only Parquet holds media, notes and info. docs/ANNOTATIONS.md states how intervals become rows.

        Args:
            classes: the class names. By default those that Parquet stores; from CSV and JSON lines, which store none,
                they are recovered from the columns (see `mien.labels.class_names`): the capitals of a class that is
                never predicted are then lost. Of annotations, those of the labels.
            rate_hz: rows per second, of annotations.
            tiers: names of the tiers or people to read, of annotations; None reads all.

        Raises:
            MediaError: the file is missing, has another suffix, is not a timeline, is truncated, holds values that no
                prediction has (`mien.timeline.possible`), or has other classes.
            ConfigError: `classes` cannot name columns, see `Timeline`.
        """
        from mien.timeline import formats

        path = Path(path)
        annotations = formats.format_of(path)
        if path.is_dir():
            raise _unreadable(path, f"it is a folder; name a file in it, such as {path / 'timeline.csv'}")
        if not path.is_file():
            raise _unreadable(path, "there is no such file")
        if annotations is None and path.suffix.lower() not in SUFFIXES:
            raise _unreadable(path, f"its suffix is none of {', '.join((*SUFFIXES, *formats.suffixes()))}")
        try:
            if annotations is not None:
                table, about = formats.read(path, annotations, classes=classes, rate_hz=rate_hz, tiers=tiers)
                return cls(table, **about)
            table, about = read_file(path)
            timeline = cls(table, **(about if classes is None else {**about, "classes": classes}))
            check_possible(timeline.table, timeline.classes)
            return timeline
        except UNREADABLE as error:
            raise _unreadable(path, (str(error).splitlines() or [type(error).__name__])[0]) from error

    # --- views -------------------------------------------------------------------------------------------

    def plot(self, path: str | Path | None = None) -> str:
        """Plot of all subjects as SVG text, also written to `path` (.svg) if given. Raises OutputError."""
        from mien.views.plots import timeline_svg

        svg = timeline_svg(self.table, self.classes, title=Path(self.media).name)
        if path is not None:
            with atomic_path(Path(path)) as temporary:
                temporary.write_text(svg, encoding="utf-8")
        return svg

    def show(self, *, embed: bool = False, height: int = 900) -> None:
        """Displays the report in a notebook, with its charts that follow the pointer.

        The notebook stores what it displays.

        Args:
            embed: put a downscaled copy of the recording into it. By default nothing of the person is stored.
            height: pixels.

        Raises:
            ConfigError: no notebook runs here. OutputError, MediaError: as `report`.
        """
        from mien.views.notebook import show_page

        show_page(lambda path: self.report(path, embed=embed), height=height)

    def _repr_html_(self) -> str:
        return self.plot()

    def report(self, path: str | Path, *, embed: bool = True) -> Path:
        """Writes one self-contained HTML page: the recording with charts that share its time cursor.

        Args:
            embed: put a downscaled copy of the recording into the page; otherwise the page has only the charts.

        Raises:
            OutputError: the timeline has no rows, or the page cannot be written. MediaError: media cannot be read.
        """
        from mien.views.report import write_report

        media = Path(self.media) if embed and self.media else None
        return write_report(
            Path(path),
            self.table,
            self.summaries(),
            classes=self.classes,
            name=Path(self.media).name,
            media=media,
            notes=self.notes,
            info=self.info,
        )

    def overlay(self, path: str | Path) -> Path:
        """Writes a copy of the media with boxes, labels and evidence drawn on it: MP4, or PNG for an image.

        Raises:
            OutputError: media without video, or the file cannot be written. MediaError: media cannot be read.
        """
        from mien.views.overlay import write_overlay

        track = self.info.get("media", {}).get("audio_track")
        return write_overlay(Path(path), self.table, classes=self.classes, media=Path(self.media), audio_track=track)

    def summary(self) -> RenderableType:
        """Summary for the terminal, a rich renderable."""
        from mien.views.terminal import summary_table

        return summary_table(
            self.summaries(), classes=self.classes, name=Path(self.media).name, notes=self.notes, info=self.info
        )


@contextmanager
def _open_output(path: Path) -> Iterator[IO[bytes]]:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            yield file
        except pl.exceptions.PolarsError as error:
            # polars wraps OSErrors such as a full disk and keeps only their text.
            raise OSError(str(error)) from error


def _classes(table: pl.DataFrame, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The given class names, or those of the table's columns, checked."""
    if classes is None:
        has_expression = "expression" in table.columns and table["expression"].dtype == pl.String
        values = table["expression"].drop_nulls().unique().sort().to_list() if has_expression else []
        classes = class_names(table.columns, values)
    return check_classes(classes)


def _validate(table: pl.DataFrame, classes: Sequence[str], scores: Sequence[str]) -> pl.DataFrame:
    columns = schema(classes, scores)
    if absent := [pl.lit(None, kind).alias(name) for name, kind in QUALITY.items() if name not in table.columns]:
        table = table.with_columns(absent)
    missing = [c for c in columns if c not in table.columns] + ([] if classes else ["p_<class>"])
    if missing:
        raise ValueError(f"the table is not a timeline: it lacks the column(s) {', '.join(missing)}")
    if extra := [c for c in table.columns if c not in columns]:
        raise ValueError(f"the table is not a timeline: it has the unknown column(s) {', '.join(extra)}")
    if table.schema != columns:
        table = table.select(*columns).cast(columns)
    floats = pl.col(pl.Float32, pl.Float64)
    if table.select(pl.any_horizontal(floats.is_nan().any())).item():  # otherwise an hour's table would be copied
        table = table.with_columns(floats.fill_nan(None))
    for name in ("time_s", "subject", "evidence"):
        if table[name].null_count():
            row = int(table[name].is_null().arg_max() or 0) + 1
            raise ValueError(f"the column {name} is empty in row {row}")
    for name, allowed in (("evidence", EVIDENCE), ("speech", SPEECH), ("expression", classes)):
        unknown = set(table[name].drop_nulls().unique()) - set(allowed)
        if unknown:
            raise ValueError(f"the column {name} holds {min(unknown)!r}; it may hold {', '.join(allowed)}")
    subjects, times = (np.diff(table[name].to_numpy()) for name in ("subject", "time_s"))
    if ((subjects > 0) | ((subjects == 0) & (times >= 0))).all():
        return table
    return table.sort("subject", "time_s", maintain_order=True)


def _round(table: pl.DataFrame) -> pl.DataFrame:
    floats = [c for c, kind in table.schema.items() if kind.is_float()]
    # Float64, because rounding in single precision would print 0.1 as 0.10000000149.
    return table.with_columns(pl.col(c).cast(pl.Float64).round(DECIMALS.get(c, 5)) for c in floats)


def _unreadable(path: Path, reason: str) -> MediaError:
    return MediaError(
        f"{path} cannot be read as a timeline: {reason}",
        follows="Nothing was read.",
        remedy="Give a timeline, such as `mien predict RECORDING` writes to mien-out/RECORDING/timeline.csv, or "
        "annotations as docs/ANNOTATIONS.md describes them.",
    )
