"""Timeline: what mien says, as a table. One row per decoded frame and subject; docs/TIMELINE.md explains
each column."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import polars as pl

from mien.atomic import atomic_path
from mien.errors import MediaError, OutputError
from mien.labels import EXPRESSIONS, column
from mien.records import SubjectSummary
from mien.timeline.summary import summarise

if TYPE_CHECKING:
    from rich.console import RenderableType

BOX = ("x1", "y1", "x2", "y2")
PROBABILITIES: tuple[str, ...] = tuple(column(name) for name in EXPRESSIONS)
#: Columns and types, in order. A value that is not there is null, never NaN and never a magic number.
SCHEMA = pl.Schema(
    {
        "time_s": pl.Float64,
        "frame": pl.Int64,
        "subject": pl.Int64,
        **dict.fromkeys(BOX, pl.Float32),
        "evidence": pl.String,
        "speech": pl.String,
        "expression": pl.String,
        **dict.fromkeys(PROBABILITIES, pl.Float32),
        "valence": pl.Float32,
        "arousal": pl.Float32,
        "confidence": pl.Float32,
    }
)
#: Decimals kept in CSV and JSON lines (Parquet keeps all): microseconds, hundredths of a pixel, 1e-5 elsewhere.
DECIMALS = {"time_s": 6, **dict.fromkeys(BOX, 2)}
EVIDENCE, SPEECH = ("both", "face", "voice", "none"), ("own", "shared", "other")
FORMATS = ("csv", "parquet", "jsonl")
_KEY = "mien"
#: Rows rounded and written at once: a day of rows is then written in the memory of a minute.
_SLICE = 16_384


class Timeline:
    """A table of what each subject shows, with what is needed to read it.

    Attributes:
        table: polars DataFrame with exactly the columns of `SCHEMA`, sorted by subject, then time.
        media: the file it speaks of, as it was given.
        notes: warnings collected on the way, in words ("the file ends early at 4.2 s; ...").
        info: facts about the run, JSON-able: model, version, media facts, seconds spent by stage.

    Raises:
        ValueError: the table lacks a column, has one too many, or holds an unknown evidence or expression.
    """

    def __init__(
        self,
        table: pl.DataFrame,
        *,
        media: str | Path = "",
        notes: Sequence[str] = (),
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self.table = _conformed(table)
        self.media = str(media)
        self.notes = tuple(notes)
        self.info = dict(info or {})

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        name = Path(self.media).name or "no media"
        return f"Timeline({name}: {len(self)} rows, {len(self.subjects)} subject(s), {len(self.notes)} note(s))"

    @property
    def subjects(self) -> list[int]:
        return self.table["subject"].unique().sort().to_list()

    def of(self, subject: int) -> pl.DataFrame:
        """The rows of one subject."""
        return self.table.filter(pl.col("subject") == subject)

    def summaries(self) -> list[SubjectSummary]:
        """Each subject in numbers: shares, stretches, means, evidence."""
        return summarise(self.table)

    # --- files -------------------------------------------------------------------------------------------

    def to_csv(self, path: str | Path) -> Path:
        """Writes CSV with a header; nulls are empty fields. Raises OutputError."""
        with _written(Path(path)) as file:
            for start in range(0, max(1, len(self)), _SLICE):
                _rounded(self.table[start : start + _SLICE]).write_csv(file, include_header=start == 0)
        return Path(path)

    def to_jsonl(self, path: str | Path) -> Path:
        """Writes one JSON object a line; nulls are null. Raises OutputError."""
        with _written(Path(path)) as file:
            for part in self.table.iter_slices(_SLICE):
                _rounded(part).write_ndjson(file)
        return Path(path)

    def to_parquet(self, path: str | Path) -> Path:
        """Writes Parquet, which alone also carries media, notes and info. Raises OutputError."""
        about = json.dumps({"media": self.media, "notes": self.notes, "info": self.info}, default=str)
        with _written(Path(path)) as file:
            self.table.write_parquet(file, metadata={_KEY: about})
        return Path(path)

    def write(self, path: str | Path) -> Path:
        """Writes in the format the suffix names: .csv, .parquet or .jsonl."""
        writers = {".csv": self.to_csv, ".parquet": self.to_parquet, ".jsonl": self.to_jsonl}
        try:
            return writers[Path(path).suffix.lower()](path)
        except KeyError:
            raise OutputError(
                f"{path}: a timeline cannot be written as {Path(path).suffix or 'a file without a suffix'}",
                follows="nothing was written",
                remedy=f"end the name in {', '.join(writers)}",
            ) from None

    @classmethod
    def read(cls, path: str | Path) -> Timeline:
        """Reads back what `write` wrote. CSV and JSON lines do not hold media, notes and info: those come
        back empty.

        Raises:
            MediaError: the file is missing, of another suffix, or not a timeline.
        """
        path = Path(path)
        readers = {".csv": _read_csv, ".parquet": _read_parquet, ".jsonl": _read_jsonl}
        if path.suffix.lower() not in readers:
            raise _unreadable(path, f"its suffix is none of {', '.join(readers)}")
        if not path.is_file():
            raise _unreadable(path, "there is no such file")
        try:
            table, about = readers[path.suffix.lower()](path)
            return cls(table, **about)
        except (pl.exceptions.PolarsError, ValueError, OSError) as fault:
            raise _unreadable(path, str(fault).splitlines()[0]) from fault

    # --- views -------------------------------------------------------------------------------------------

    def plot(self, path: str | Path | None = None) -> str:
        """A static picture of all subjects as SVG text, also written to `path` (.svg) where one is given."""
        from mien.views.plots import svg

        picture = svg(self.table, title=Path(self.media).name)
        if path is not None:
            with atomic_path(Path(path)) as scratch:
                scratch.write_text(picture, encoding="utf-8")
        return picture

    def _repr_html_(self) -> str:
        return self.plot()

    def report(self, path: str | Path, *, embed: bool = True) -> Path:
        """Writes ONE self-contained HTML page: the media beside bands, curves and evidence, cursors tied.

        Args:
            embed: put the media (made small enough) into the page. Without, the page shows the charts alone.
        """
        from mien.views.report import page

        media = Path(self.media) if embed and self.media else None
        return page(
            Path(path),
            self.table,
            self.summaries(),
            name=Path(self.media).name,
            media=media,
            notes=self.notes,
            info=self.info,
        )

    def overlay(self, path: str | Path) -> Path:
        """Writes the media again with boxes, labels and evidence drawn on it (MP4; a still image: PNG)."""
        from mien.views.overlay import overlay

        return overlay(Path(path), self.table, media=Path(self.media))

    def summary(self) -> RenderableType:
        """What a terminal shows (a rich renderable)."""
        from mien.views.terminal import summary

        return summary(self.summaries(), name=Path(self.media).name, notes=self.notes, info=self.info)


def subject_rows(
    subject: int,
    times: np.ndarray,
    *,
    probabilities: np.ndarray,
    valence_arousal: np.ndarray,
    voice: np.ndarray,
    speech: np.ndarray | None = None,
    face: np.ndarray | None = None,
    boxes: np.ndarray | None = None,
    frames: np.ndarray | None = None,
) -> pl.DataFrame:
    """The table of one subject, from arrays over its rows.

    Args:
        times: `(row,)` seconds, increasing.
        probabilities: `(row, 8)` in the order of EXPRESSIONS; a row of NaN is one whose windows held no
            evidence: it becomes null, with confidence 0.
        valence_arousal: `(row, 2)` in [-1, 1], or NaN.
        voice, face: `(row,)` bool, speech that may be theirs was heard at that time, a face was read in that frame.
        speech: `(row,)` str, what the speech at that time is to the subject: `own`, `shared`, `other`, or empty for
            no speech; by default `shared` wherever there is voice.
        boxes: `(row, 4)` pixels of the upright frame, NaN where not seen. frames: `(row,)` int, or None for
            sound without pictures, where the column is null.
    """
    n = len(times)
    face = np.zeros(n, bool) if face is None else face
    boxes = np.full((n, 4), np.nan) if boxes is None else np.where(face[:, None], boxes, np.nan)
    known = np.isfinite(probabilities).all(axis=1)
    best = np.where(known[:, None], probabilities, -1).argmax(axis=1)
    evidence = np.array(["none", "voice", "face", "both"])[2 * face.astype(int) + voice.astype(int)]
    data: dict[str, Any] = {
        "time_s": times,
        "frame": frames if frames is not None else pl.repeat(None, n, dtype=pl.Int64, eager=True),
        "subject": np.full(n, subject),
        **{name: boxes[:, i] for i, name in enumerate(BOX)},
        "evidence": evidence.tolist(),
        "speech": [word or None for word in (np.where(voice, "shared", "") if speech is None else speech).tolist()],
        "expression": [EXPRESSIONS[b] if k else None for b, k in zip(best, known, strict=True)],
        **{name: np.where(known, probabilities[:, i], np.nan) for i, name in enumerate(PROBABILITIES)},
        "valence": np.where(known, valence_arousal[:, 0], np.nan),
        "arousal": np.where(known, valence_arousal[:, 1], np.nan),
        "confidence": np.where(known, probabilities[np.arange(n), best], 0.0),
    }
    return pl.DataFrame(data).cast(SCHEMA).with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))


@contextmanager
def _written(path: Path) -> Iterator[IO[bytes]]:
    with atomic_path(path) as scratch, scratch.open("wb") as file:
        try:
            yield file
        except pl.exceptions.PolarsError as fault:
            # A full disk, among others: polars wraps the system's error, and says it in words only.
            raise OSError(str(fault)) from fault


def _conformed(table: pl.DataFrame) -> pl.DataFrame:
    if missing := [c for c in SCHEMA if c not in table.columns]:
        raise ValueError(f"the table is no timeline: it lacks the column(s) {', '.join(missing)}")
    if extra := [c for c in table.columns if c not in SCHEMA]:
        raise ValueError(f"the table is no timeline: it has the unknown column(s) {', '.join(extra)}")
    table = table.select(*SCHEMA).cast(SCHEMA).with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
    for name, allowed in (("evidence", EVIDENCE), ("speech", SPEECH), ("expression", EXPRESSIONS)):
        unknown = set(table[name].drop_nulls().unique()) - set(allowed)
        if unknown:
            raise ValueError(f"the column {name} holds {sorted(unknown)[0]!r}; it may hold {', '.join(allowed)}")
    order = table.select("subject", "time_s")
    return (
        table if order.equals(order.sort("subject", "time_s")) else table.sort("subject", "time_s", maintain_order=True)
    )


def _rounded(table: pl.DataFrame) -> pl.DataFrame:
    floats = [c for c, kind in SCHEMA.items() if kind in (pl.Float32, pl.Float64)]
    # Float64 on purpose: rounding in single precision would print 0.1 as 0.10000000149.
    return table.with_columns(pl.col(c).cast(pl.Float64).round(DECIMALS.get(c, 5)) for c in floats)


def _read_csv(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    return pl.read_csv(path, schema_overrides=SCHEMA), {}


def _read_jsonl(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    return pl.read_ndjson(path, schema_overrides=SCHEMA), {}


def _read_parquet(path: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    about = json.loads(pl.read_parquet_metadata(path).get(_KEY, "{}"))
    return pl.read_parquet(path), about


def _unreadable(path: Path, why: str) -> MediaError:
    return MediaError(
        f"{path} cannot be read as a timeline: {why}",
        remedy="give a timeline.csv, timeline.parquet or timeline.jsonl that `mien predict` wrote",
    )
