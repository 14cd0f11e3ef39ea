"""Coverage of a submission: matches its rows with those of the sample."""

from __future__ import annotations

import difflib

import numpy as np
import polars as pl

from mien.submission.issues import MAX_LISTED, Issue, IssueKind, quote, split_by_kind
from mien.submission.template import PER_CLIP, Template

_EXACT = "Write the names exactly as in the sample."
_UNMATCHED = "The row matches no frame, and that frame counts as missing."
_INCOMPLETE = ("The submission is incomplete.", "Write a row for every row of the sample.")
_END_IN_JPG = "End names in .jpg."
#: Kinds of misspelt names with the regular expression of the name as written; the first match counts.
_MISSPELT = tuple(
    (IssueKind(name, _UNMATCHED, remedy), pattern)
    for name, pattern, remedy in (
        ("backslashes", r"\\", "Write / in names (Path.as_posix())."),
        ("spaces in names", r"^\s|\s$", _EXACT),
        ("folder before the name", r".*[/\\].*[/\\]", "Omit the folders before the video: video/00001.jpg."),
        ("leading slash or dot", r"^(\./|/)", "Omit ./ and /: video/00001.jpg."),
        ("no .jpg", r"[/\\]\d+$", _END_IN_JPG),
        ("other ending", r"\.(png|jpeg|JPG|JPEG|PNG|bmp)$", _END_IN_JPG),
        ("different zero padding", r"[/\\]\d+\.jpg$", "Write frame numbers with as many digits as the sample (00001)."),
        ("spelled differently", r"", _EXACT),
    )
)
_UNKNOWN_CLIP = IssueKind("unknown clip", "Its rows are not scored.", "Write the clips of the sample and no others.")
_UNKNOWN_ROW = IssueKind("unknown row", "It is not scored.", "Write the rows of the sample and no others.")
_NO_NAME = IssueKind("no name", _UNMATCHED, _EXACT)
_DUPLICATE = IssueKind("duplicate row", "It is undefined which of them counts.", "Write each frame once.")
_MISSING_ROWS = IssueKind("missing rows", *_INCOMPLETE)
_MISSING_CLIP = IssueKind("missing clip", *_INCOMPLETE)
_ORDER = IssueKind(
    "wrong order",
    "A scorer that goes by position compares each row with another frame.",
    "Write the rows in the sample's order.",
)
_WRONG_SAMPLE = IssueKind(
    "wrong sample", "Nothing can be matched.", "Give the sample of the same challenge and the same year."
)


def match_rows(names: pl.Series, lines: np.ndarray, sample: Template) -> tuple[np.ndarray, list[Issue]]:
    """Matches rows with the sample.

    Args:
        names: `(row,)` image locations of the submission. lines: `(row,)` their line numbers.

    Returns:
        `(row,)` index of each row in the sample, -1 for unknown rows, and the issues: misspelt and unknown names,
        duplicate and missing rows, wrong order.
    """
    if names.equals(sample.names):
        return np.arange(len(sample)), []
    positions = _look_up(names, sample.names)
    issues: list[Issue] = []
    unmatched = np.flatnonzero(positions < 0)
    if len(unmatched):
        positions[unmatched], issues = _match_misspelt(names.gather(unmatched), lines[unmatched], sample)
    if (positions < 0).all():
        both = f"{quote(names[0])}, in the sample {quote(sample.names[0])}"
        what = f"not one of {len(names):,} names occurs in the sample (the first is {both})"
        return positions, [_WRONG_SAMPLE.issue(int(lines[0]), what, len(names))]
    unknown = np.flatnonzero(positions < 0)
    issues += _unknown(names.gather(unknown), lines[unknown], sample)
    issues += _duplicates(positions, lines, sample)
    issues += _missing(positions, sample)
    return positions, issues + _order(positions, lines, sample)


def _look_up(keys: pl.Series, known: pl.Series) -> np.ndarray:
    """`(key,)` index of the first equal value of `known`, -1 if there is none."""
    table = pl.DataFrame({"key": known, "position": np.arange(len(known))}).unique("key", keep="first")
    found = keys.rename("key").to_frame().join(table, on="key", how="left", maintain_order="left")["position"]
    return found.fill_null(-1).to_numpy().copy()


def _normalise(names: pl.Series, kind: str) -> pl.Series:
    """Clip and frame number of names, however they are spelled; null if a name has no frame number.

    In a challenge with one row a clip it is the clip's name without folder, ending and leading zeros, which are lost
    where a program reads names as numbers.
    """
    name = names.str.replace_all("\\", "/", literal=True).str.strip_chars(" \t'\"")
    if kind in PER_CLIP:
        return name.str.extract(r"^(?:.*/)?0*([^/.]+)(?:\.[A-Za-z0-9]+)?$")
    parts = name.str.extract_groups(r"^(?:.*/)?([^/]+)/0*(\d+)(?:\.[A-Za-z]+)?$").struct.unnest()
    return parts.to_series(0) + "/" + parts.to_series(1)


def _match_misspelt(names: pl.Series, lines: np.ndarray, sample: Template) -> tuple[np.ndarray, list[Issue]]:
    positions = _look_up(_normalise(names, sample.kind), _normalise(sample.names, sample.kind))
    rows = np.flatnonzero(positions >= 0)
    table = pl.DataFrame(
        {"name": names.gather(rows), "line": lines[rows], "right": sample.names.gather(positions[rows])}
    )
    issues: list[Issue] = []
    for kind, part in split_by_kind(table, "name", _MISSPELT[-1:] if sample.kind in PER_CLIP else _MISSPELT):
        pairs = part.select("name", "right").head(MAX_LISTED).rows()
        problems = [f"{quote(name)} is {quote(right)} in the sample" for name, right in pairs]
        issues += kind.issues(part["line"].to_numpy(), problems)
    return positions, issues


def _unknown(names: pl.Series, lines: np.ndarray, sample: Template) -> list[Issue]:
    clips = names if sample.kind in PER_CLIP else _normalise(names, sample.kind).str.replace(r"/\d+$", "")
    table = pl.DataFrame({"name": names, "line": lines, "clip": clips})
    nameless = table.filter(pl.col("clip").is_null())
    problems = [f"{quote(name)} names no frame (video/00001.jpg)" for name in nameless["name"].head(MAX_LISTED)]
    issues = _NO_NAME.issues(nameless["line"].to_numpy(), problems)
    is_known_clip = pl.col("clip").is_in(sample.clip_ids)
    beyond = table.filter(is_known_clip)
    problems = [
        f"{quote(name)}: the sample has that clip, but not that frame" for name in beyond["name"].head(MAX_LISTED)
    ]
    issues += _UNKNOWN_ROW.issues(beyond["line"].to_numpy(), problems)
    by_clip = table.filter(~is_known_clip).group_by("clip", maintain_order=True)
    unknown = [
        (line, _unknown_clip(clip, rows, sample), rows)
        for clip, line, rows in by_clip.agg(pl.col("line").min(), rows=pl.len()).rows()
    ]
    return issues + _UNKNOWN_CLIP.group_issues(unknown, "clips")


def _unknown_clip(clip: str, rows: int, sample: Template) -> str:
    close = difflib.get_close_matches(clip, sample.clip_ids, 1)
    hint = f"; the sample has {close[0]!r}" if close else ""
    return f"clip {clip!r} is not in the sample{hint} ({rows:,} row{'s' * (rows > 1)})"


def _duplicates(positions: np.ndarray, lines: np.ndarray, sample: Template) -> list[Issue]:
    known = np.flatnonzero(positions >= 0)
    _, first, group = np.unique(positions[known], return_index=True, return_inverse=True)
    repeated = np.flatnonzero(first[group] != np.arange(len(known)))
    rows, earlier = known[repeated], known[first[group[repeated]]]
    problems = [
        f"{sample.names[int(positions[row])]!r} again (first at line {int(lines[before]):,})"
        for row, before in zip(rows[:MAX_LISTED], earlier[:MAX_LISTED], strict=True)
    ]
    return _DUPLICATE.issues(lines[rows], problems)


def _missing(positions: np.ndarray, sample: Template) -> list[Issue]:
    is_absent = np.ones(len(sample), bool)
    is_absent[positions[positions >= 0]] = False
    if not is_absent.any():
        return []
    clips: list[tuple[int | None, str, int]] = []
    gaps: list[tuple[int | None, str, int]] = []
    for clip, rows in sample.rows_of.items():
        absent = np.flatnonzero(is_absent[rows])
        if len(absent) == len(rows):
            clips.append((None, f"clip {clip!r} is missing ({len(rows):,} rows)", len(rows)))
        elif len(absent):
            for run in np.split(absent, np.flatnonzero(np.diff(absent) > 1) + 1):
                gaps.append((None, _gap(sample, clip, rows, run), len(run)))
    return _MISSING_CLIP.group_issues(clips, "clips") + _MISSING_ROWS.group_issues(gaps, "gaps")


def _gap(sample: Template, clip: str, rows: np.ndarray, run: np.ndarray) -> str:
    first, last = (sample.names[int(rows[i])] for i in (run[0], run[-1]))
    span = f"{len(run):,} rows are missing: {first!r} to {last!r}" if len(run) > 1 else f"{first!r} is missing"
    return span + (f", the end of clip {clip!r}: was it predicted to its end?" if run[-1] == len(rows) - 1 else "")


def _order(positions: np.ndarray, lines: np.ndarray, sample: Template) -> list[Issue]:
    known = np.flatnonzero(positions >= 0)
    _, first = np.unique(positions[known], return_index=True)
    rows = known[np.sort(first)]
    order = positions[rows]
    falls = np.flatnonzero(np.diff(order) < 0) + 1
    problems = []
    for fall in falls[:MAX_LISTED]:
        after, before = order[fall], order[fall - 1]
        clips = "" if sample.clips[after] == sample.clips[before] else "the clip of "
        names = sample.names[int(after)], sample.names[int(before)]
        problems.append(f"{clips}{names[0]!r} comes after {clips}{names[1]!r}; in the sample it comes before")
    return _ORDER.issues(lines[rows[falls]], problems)
