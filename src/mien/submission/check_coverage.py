"""Rows of a submission against the rows that the sample asks for."""

from __future__ import annotations

import difflib

import numpy as np
import polars as pl

from mien.submission.issues import LISTED, Issue, Kind, quoted
from mien.submission.template import Template

_EXACT = "write the names exactly as they stand in the sample"
_UNMATCHED = "the row is matched with no frame, and that frame counts as missing"
_SPELLED = (
    ("backslashes", r"\\", "write / in names (Path.as_posix())"),
    ("spaces in names", r"^\s|\s$", _EXACT),
    ("folder before the name", r".*[/\\].*[/\\]", "leave the folders before the video out: video/00001.jpg"),
    ("leading slash or dot", r"^(\./|/)", "leave ./ and / out: video/00001.jpg"),
    ("no .jpg", r"[/\\]\d+$", "end names in .jpg"),
    ("other ending", r"\.(png|jpeg|JPG|JPEG|PNG|bmp)$", "end names in .jpg"),
    ("different zero padding", r"[/\\]\d+\.jpg$", "frame numbers have as many digits as in the sample (00001)"),
    ("spelled differently", r"", _EXACT),
)
_UNKNOWN_CLIP = Kind("unknown clip", "its rows are scored nowhere", "keep to the sample's clips; this one is not in it")
_UNKNOWN = Kind("unknown row", "it is scored nowhere", "write the sample's rows and no others")
_NO_NAME = Kind("no name", _UNMATCHED, _EXACT)
_AGAIN = Kind("duplicate row", "which of them counts is anybody's guess", "write each frame once")
_MISSING = Kind("missing rows", "the submission is incomplete", "write a row for every row of the sample")
_MISSING_CLIP = Kind("missing clip", "the submission is incomplete", "write a row for every row of the sample")
_ORDER = Kind(
    "wrong order",
    "a scorer that goes by position compares each row with another frame",
    "write the rows in the sample's order",
)
_FOREIGN = Kind(
    "wrong sample",
    "nothing can be matched",
    "is this the sample of the other challenge, or of another year? Give the right one",
)


def match(names: pl.Series, lines: np.ndarray, sample: Template) -> tuple[np.ndarray, list[Issue]]:
    """`(row,)` position of each row in the sample, -1 where it is none of its; and faults."""
    if names.equals(sample.names):
        return np.arange(len(sample)), []
    known = pl.DataFrame({"name": sample.names, "place": np.arange(len(sample))})
    place = names.rename("name").to_frame().join(known, on="name", how="left", maintain_order="left")["place"]
    places = place.fill_null(-1).to_numpy().copy()
    faults: list[Issue] = []
    strange = np.flatnonzero(places < 0)
    if len(strange):
        found, more = _respelled(names.gather(strange), lines[strange], sample)
        places[strange] = found
        faults += more
    if (places < 0).all():
        both = f"{quoted(names[0])}, in the sample {quoted(sample.names[0])}"
        what = f"not one of {len(names):,} names occurs in the sample (the first is {both})"
        return places, [_FOREIGN.at(int(lines[0]), what, len(names))]
    unknown = np.flatnonzero(places < 0)
    faults += _unknown(names.gather(unknown), lines[unknown], sample)
    faults += _duplicates(places, lines, sample)
    faults += _missing(places, sample)
    return places, faults + _order(places, lines, sample)


def _keys(names: pl.Series) -> pl.Series:
    """Clip and frame number, however they are spelled; null where no frame is named."""
    place = names.str.replace_all("\\", "/", literal=True).str.strip_chars(" \t'\"")
    parts = place.str.extract_groups(r"^(?:.*/)?([^/]+)/0*(\d+)(?:\.[A-Za-z]+)?$").struct.unnest()
    return (parts.to_series(0) + "/" + parts.to_series(1)).alias("key")


def _respelled(names: pl.Series, lines: np.ndarray, sample: Template) -> tuple[np.ndarray, list[Issue]]:
    known = pl.DataFrame({"key": _keys(sample.names), "place": np.arange(len(sample))}).unique("key", keep="first")
    found = _keys(names).to_frame().join(known, on="key", how="left", maintain_order="left")["place"]
    places = found.fill_null(-1).to_numpy().copy()
    known_rows = np.flatnonzero(places >= 0)
    table = pl.DataFrame(
        {"name": names.gather(known_rows), "line": lines[known_rows], "right": sample.names.gather(places[known_rows])}
    )
    faults: list[Issue] = []
    for kind, pattern, remedy in _SPELLED:
        mine = table["name"].str.contains(pattern)
        if mine.any():
            rows = table.filter(mine)
            pairs = rows.select("name", "right").head(LISTED).rows()
            shown = [f"{quoted(name)} is {quoted(right)} in the sample" for name, right in pairs]
            faults += Kind(kind, _UNMATCHED, remedy).listed(rows["line"].to_numpy(), shown)
            table = table.filter(~mine)
    return places, faults


def _unknown(names: pl.Series, lines: np.ndarray, sample: Template) -> list[Issue]:
    table = pl.DataFrame({"name": names, "line": lines, "clip": _keys(names).str.replace(r"/\d+$", "")})
    nameless = table.filter(pl.col("clip").is_null())
    shown = [f"{quoted(name)} names no frame (video/00001.jpg)" for name in nameless["name"].head(LISTED)]
    faults = _NO_NAME.listed(nameless["line"].to_numpy(), shown)
    here = pl.col("clip").is_in(sample.clip_ids)
    beyond = table.filter(here)
    shown = [f"{quoted(name)}: the sample has that clip, but not that frame" for name in beyond["name"].head(LISTED)]
    faults += _UNKNOWN.listed(beyond["line"].to_numpy(), shown)
    clips = table.filter(~here).group_by("clip", maintain_order=True).agg(pl.col("line").min(), rows=pl.len()).rows()
    for clip, line, rows in clips[:LISTED]:
        close = difflib.get_close_matches(clip, sample.clip_ids, 1)
        hint = f"; the sample has {close[0]!r}" if close else ""
        faults.append(
            _UNKNOWN_CLIP.at(line, f"clip {clip!r} is not in the sample{hint} ({rows:,} row{'s' * (rows > 1)})", rows)
        )
    if len(clips) > LISTED:
        what = f"{len(clips) - LISTED} more clips that are not in the sample"
        faults.append(_UNKNOWN_CLIP.at(clips[LISTED][1], what, sum(rows for _, _, rows in clips[LISTED:])))
    return faults


def _duplicates(places: np.ndarray, lines: np.ndarray, sample: Template) -> list[Issue]:
    known = np.flatnonzero(places >= 0)
    _, first, back = np.unique(places[known], return_index=True, return_inverse=True)
    again = np.flatnonzero(first[back] != np.arange(len(known)))
    rows, earlier = known[again], known[first[back[again]]]
    shown = [
        f"{sample.names[int(places[row])]!r} again (first at line {int(lines[before]):,})"
        for row, before in zip(rows[:LISTED], earlier[:LISTED], strict=True)
    ]
    return _AGAIN.listed(lines[rows], shown)


def _missing(places: np.ndarray, sample: Template) -> list[Issue]:
    absent = np.ones(len(sample), bool)
    absent[places[places >= 0]] = False
    if not absent.any():
        return []
    whole: list[tuple[str, int]] = []
    gaps: list[tuple[str, int]] = []
    for clip, rows in sample.rows_of.items():
        gone = np.flatnonzero(absent[rows])
        if len(gone) == len(rows):
            whole.append((f"clip {clip!r} is missing ({len(rows):,} rows)", len(rows)))
        elif len(gone):
            for run in np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1):
                gaps.append((_gap(sample, clip, rows, run), len(run)))
    return _few(_MISSING_CLIP, whole, "clips") + _few(_MISSING, gaps, "gaps")


def _gap(sample: Template, clip: str, rows: np.ndarray, run: np.ndarray) -> str:
    first, last = (sample.names[int(rows[i])] for i in (run[0], run[-1]))
    span = f"{len(run):,} rows are missing: {first!r} to {last!r}" if len(run) > 1 else f"{first!r} is missing"
    return span + (f", the end of clip {clip!r}: was it predicted to its end?" if run[-1] == len(rows) - 1 else "")


def _few(kind: Kind, found: list[tuple[str, int]], unit: str) -> list[Issue]:
    faults = [kind.at(None, what, rows) for what, rows in found[:LISTED]]
    if rest := found[LISTED:]:
        rows = sum(count for _, count in rest)
        faults.append(kind.at(None, f"{kind.name}: {len(rest):,} more {unit} ({rows:,} rows)", rows))
    return faults


def _order(places: np.ndarray, lines: np.ndarray, sample: Template) -> list[Issue]:
    known = np.flatnonzero(places >= 0)
    _, first = np.unique(places[known], return_index=True)
    rows = known[np.sort(first)]
    there = places[rows]
    falls = np.flatnonzero(np.diff(there) < 0) + 1
    shown = []
    for fall in falls[:LISTED]:
        after, before = there[fall], there[fall - 1]
        clips = "" if sample.clips[after] == sample.clips[before] else "the clip of "
        names = sample.names[int(after)], sample.names[int(before)]
        shown.append(f"{clips}{names[0]!r} comes after {clips}{names[1]!r}; in the sample it comes before")
    return _ORDER.listed(lines[rows[falls]], shown)
