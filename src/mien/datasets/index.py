"""Dataset index: the clips, splits and problems of a corpus, and the registry of dataset readers.

`build_index(corpus, root)` reads a corpus into an `Index`; `Index.save` and `Index.load` store it as JSON lines (a
header, then one line for each clip, then one line for each problem). Labels are not stored: `Index.clip` reads them
from the corpus. To add a dataset, write a module that follows `DatasetReader` and add it to `CORPORA`.
"""

from __future__ import annotations

import difflib
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mien.datasets import (
    affwild2,
    cremad,
    csv_folder,
    emodb,
    emovo,
    ferplus,
    index_file,
    meld,
    ravdess,
    savee,
    tess,
    vidmimic2,
)
from mien.datasets.index_entries import (
    ERROR,
    NOTE,
    WARNING,
    CorpusContents,
    Entry,
    Problem,
    entry_from_record,
    entry_to_record,
)
from mien.errors import ConfigError, CorpusError
from mien.labels import EXPRESSIONS, SCORE_TASKS, TASKS
from mien.records import Clip, Labels

FORMAT = "mien-index-1"


class DatasetReader(Protocol):
    """Contract of a dataset reader. A module with these two functions is one, such as `mien.datasets.emodb`.

    Paths in the result are relative to `root`, so that a corpus can be moved. A fault of one file or row is a `Problem`
    in the result, and that clip or row is left out; only a root that is not the corpus is an error.
    """

    def read(self, root: Path, *, progress: Callable[[int, int], None] | None = None) -> CorpusContents:
        """List the clips of the corpus in `root`, its problems, class names and label counts.

        Every entry has a unique `id` and the tasks of its `splits` and `labels` are of `mien.labels.TASKS`. Media files
        are probed, not decoded.

        Args:
            progress: called with (recordings done, recordings in total).

        Raises:
            CorpusError: `root` is missing or does not have the layout of the corpus.
        """
        ...

    def labels(self, root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str]) -> Labels | None:
        """Read the labels of one clip.

        Args:
            entry: of this reader's `read`; `entry.labels[task]` is what `read` stored there.
            tasks: those of `entry.labels` to read, at least one. Labels of other tasks may be in another split and
                must stay unlabelled.
            classes: names in the order of the class index.

        Returns:
            times `(time,)` seconds from the recording's origin, increasing; expression `(time,)` int, class index or
            -1; valence_arousal `(time, 2)` in [-1, 1] or NaN; scores of the score tasks among `tasks`. None where the
            clip has no labels of these tasks.

        Raises:
            CorpusError: the label file can no longer be read.
        """
        ...


class ConfigurableReader(DatasetReader, Protocol):
    """Contract of a dataset reader with options, such as `mien.datasets.ravdess`.

    OPTIONS: option -> its values, the default first.
    """

    OPTIONS: dict[str, tuple[str, ...]]

    def read(
        self,
        root: Path,
        *,
        options: Mapping[str, str] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> CorpusContents:
        """As `DatasetReader.read`, with options: option -> value; others have their defaults."""
        ...


#: Readers with options, by corpus name.
_CONFIGURABLE: dict[str, ConfigurableReader] = {"crema-d": cremad, "ferplus": ferplus, "ravdess": ravdess}
#: Corpus name on the command line -> its reader.
CORPORA: dict[str, DatasetReader] = {
    "aff-wild2": affwild2,
    "synthetic": affwild2,
    "folder": csv_folder,
    "emodb": emodb,
    "emovo": emovo,
    "meld": meld,
    "savee": savee,
    "tess": tess,
    "vidmimic2": vidmimic2,
    **_CONFIGURABLE,
}


@dataclass
class Index:
    """Index of a corpus. Training reads `clips`, extraction reads `entries`.

    corpus: key of `CORPORA`. root: the corpus's folder. classes: names in the order of the class index. counts: title
    -> label -> number, for `summary`.
    """

    corpus: str
    root: Path
    entries: list[Entry]
    problems: list[Problem] = field(default_factory=list)
    classes: tuple[str, ...] = EXPRESSIONS
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def __getitem__(self, clip: str) -> Entry:
        """Entry of a clip id. Raises CorpusError for an unknown one."""
        for entry in self.entries:
            if entry.id == clip:
                return entry
        near = difflib.get_close_matches(clip, [e.id for e in self.entries], 1)
        raise CorpusError(
            f"no clip {clip!r} in the index of {self.root}",
            follows="The clip was not read.",
            remedy=f"Did you mean {near[0]!r}?" if near else "Run `mien index` again if the clip was added since.",
        )

    def clip(self, entry: Entry, task: str | None = None, *, labels: bool = True, scores: Collection[str] = ()) -> Clip:
        """Convert an entry to a Clip with the split and, unless `labels` is false, the labels of a task.

        Labels of the other tasks are read too, unless a task puts the clip in another split: otherwise training on one
        task would see validation frames of the other.

        Args:
            task: one of `mien.labels.TASKS`; None is the first that the corpus has.
            scores: score tasks whose labels are read too; of the others only `task` is, which saves time.
        """
        tasks = self.tasks
        task = task or (tasks[0] if tasks else "")
        split = entry.splits.get(task, "")
        wanted = [t for t in tasks if t not in SCORE_TASKS or t == task or t in scores]
        same_split = [t for t in wanted if t in entry.labels and entry.splits.get(t, "") == split]
        clip_labels = None
        if labels and same_split:
            clip_labels = CORPORA[self.corpus].labels(self.root, entry, same_split, self.classes)
        media = self.root / entry.media if entry.media else None
        return Clip(entry.id, media, entry.subject, split, clip_labels)

    def clips(
        self, task: str | None = None, split: str | None = None, *, labels: bool = True, scores: Collection[str] = ()
    ) -> Iterator[Clip]:
        """Iterate over the clips of a task and split; None takes the first task and every split. The labels of one clip
        at a time are in memory. labels, scores: as in `clip`."""
        task = task or (self.tasks[0] if self.tasks else None)
        for entry in self.entries:
            if (task is None or task in entry.splits or task in entry.labels) and (
                split is None or entry.splits.get(task or "", "") == split
            ):
                yield self.clip(entry, task, labels=labels, scores=scores)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks (`mien.labels.TASKS`) for which any clip has a split or labels."""
        used = {t for e in self.entries for t in (*e.splits, *e.labels)}
        return tuple(t for t in TASKS if t in used)

    def task_of(self, *, expression: bool, scores: Sequence[str] = ()) -> str | None:
        """Task whose labels and splits a system uses unless another is asked for. A system without expressions uses the
        first of its score tasks that the corpus has, then `va`; otherwise it is the first task of the corpus.

        Args:
            expression: whether the system predicts expressions. scores: its score tasks.
        """
        wanted = [] if expression else [*scores, "va"]
        return next((task for task in (*wanted, *self.tasks) if task in self.tasks), None)

    def save(self, path: Path) -> None:
        """Write the index to a file. Raises OutputError."""
        header = {
            "format": FORMAT,
            "corpus": self.corpus,
            "root": str(self.root.resolve()),
            "classes": list(self.classes),
            "counts": self.counts,
        }
        problems = ({"problem": asdict(p)} for p in self.problems)
        index_file.write(path, header, [*map(entry_to_record, self.entries), *problems])

    @classmethod
    def load(cls, path: Path, root: Path | None = None) -> Index:
        """Read an index from a file.

        Args:
            root: the corpus's folder, if it was moved since.

        Raises:
            ConfigError: the file cannot be read, or is not an index of this version.
        """
        try:
            header, records = index_file.read(path)
            if header["format"] != FORMAT:
                raise KeyError(header["format"])
            if header["corpus"] not in CORPORA:
                raise ValueError(f"no corpus is called {header['corpus']!r}")
            entries = [entry_from_record(record) for record in records if "problem" not in record]
            problems = [Problem(**record["problem"]) for record in records if "problem" in record]
            index_file.check(header, entries)
            root = Path(root or header["root"])
            return cls(header["corpus"], root, entries, problems, tuple(header["classes"]), header["counts"])
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror or error}",
                follows="No index was read.",
                remedy="Make an index: mien index CORPUS ROOT --out FILE.",
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise ConfigError(
                f"{path} is not an index of this version ({type(error).__name__}: {error})",
                follows="No index was read.",
                remedy="Make the index again: mien index CORPUS ROOT --out FILE.",
            ) from None

    def summary(self) -> list[tuple[str, str]]:
        """Numbers of clips, recordings, hours, splits, labels and problems, as (title, value) for `mien index`."""
        rows = [("corpus", self.corpus), ("root", str(self.root)), ("clips", f"{len(self.entries):,}")]
        recordings = {e.media for e in self.entries if e.media}
        rows.append(("recordings", f"{len(recordings):,}"))
        hours = sum({e.media: e.duration_s or 0.0 for e in self.entries}.values()) / 3600
        rows.append(("hours", f"{hours:.2f}"))
        rows.append(("subjects", f"{len({e.subject for e in self.entries if e.subject}):,}"))
        for task in self.tasks:
            splits = Counter(e.splits.get(task) or "no split" for e in self.entries if task in {*e.splits, *e.labels})
            rows.append((f"{task} splits", ", ".join(f"{k} {n:,}" for k, n in sorted(splits.items()))))
        crops = [e.present for e in self.entries if e.present is not None]
        if crops:
            with_crop = sum(int(present.sum()) for present in crops)
            rows.append(("face crops", f"{with_crop:,} of {sum(map(len, crops)):,} frames"))
        rows.append(("without sound", f"{sum(1 for e in self.entries if not e.has_audio):,}"))
        rows += [(name, ", ".join(f"{k} {n:,}" for k, n in c.items())) for name, c in self.counts.items()]
        for severity in (ERROR, WARNING, NOTE):
            kinds = Counter(p.kind for p in self.problems if p.severity == severity)
            if kinds:
                rows.append((f"{severity}s", ", ".join(f"{k} {n:,}" for k, n in sorted(kinds.items()))))
        return rows

    def split_by(self, shares: Mapping[str, float], *, by: str = "subject", seed: int = 0) -> Index:
        """Copy with new random splits.

        Args:
            shares: split -> share of clips in [0, 1]; the rest is `train`.
            by: `subject` keeps all clips of a subject together (where it is unknown, of a recording); `clip` splits
                clip by clip, which puts one person in several splits.

        Raises:
            ConfigError: another `by`.
        """
        groups = [e.id if by == "clip" else e.subject or e.media or e.id for e in self.entries]
        splits = assign_splits(groups, shares, by=by, seed=seed)
        tasks = self.tasks or ("expr",)
        entries = [replace(e, splits=dict.fromkeys(tasks, s)) for e, s in zip(self.entries, splits, strict=True)]
        return replace(self, entries=entries)


def assign_splits(groups: Sequence[str], shares: Mapping[str, float], *, by: str, seed: int) -> list[str]:
    """Assign a random split to every clip; clips of one group get the same split.

    Args:
        groups: group name of every clip. by: what a group is, `subject` or `clip`.
        shares: split -> share of the clips in [0, 1]; the rest is `train`.

    Raises:
        ConfigError: another `by`.
    """
    if by not in ("subject", "clip"):
        raise ConfigError(
            f"clips cannot be split by {by!r}",
            follows="No split was made.",
            remedy="Use by='subject' (the default) or by='clip'.",
        )
    sizes = Counter(groups)
    order = sorted(sizes)
    np.random.default_rng(seed).shuffle(order)
    split_of, unassigned = dict.fromkeys(order, "train"), iter(order)
    for split, share in shares.items():
        size = 0
        while size < round(share * len(groups)) and (group := next(unassigned, None)) is not None:
            split_of[group] = split
            size += sizes[group]
    return [split_of[group] for group in groups]


def build_index(
    corpus: str,
    root: Path,
    *,
    table: Path | None = None,
    options: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Read a corpus into an index.

    Args:
        corpus: key of `CORPORA`: `aff-wild2` and `synthetic` have one layout; `folder` is `mien.datasets.csv_folder`.
        table: the CSV of labels, for `folder` only.
        options: of the corpus, `OPTIONS` of its reader: option -> value.
        progress: called with (recordings done, recordings in total).

    Raises:
        ConfigError: an unknown corpus or option, or a table for another than `folder`.
        CorpusError: `root` does not have the layout of the corpus, or no clip in it can be used.
    """
    _check_arguments(corpus, table, options or {})
    root = Path(root)
    if corpus == "folder":
        contents = csv_folder.read(root, table=table, progress=progress)
    elif corpus in _CONFIGURABLE:
        contents = _CONFIGURABLE[corpus].read(root, options=options, progress=progress)
    else:
        contents = CORPORA[corpus].read(root, progress=progress)
    if not contents.entries:
        reason = next((str(p) for p in contents.problems if p.severity == ERROR), "nothing was found")
        raise CorpusError(
            f"{root} has no usable clip: {reason}",
            follows="No index was written.",
            remedy="Fix the problem and run `mien index` again.",
        )
    return Index(corpus, root, contents.entries, contents.problems, contents.classes, contents.counts)


def recipe_options(corpus: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Options of a corpus among `corpus.options` of a recipe, as `build_index` takes them.

    Keys that the corpus does not have are for other steps and are left out. YAML reads yes and no as booleans; they
    become `yes` and `no` again.
    """
    known = _CONFIGURABLE[corpus].OPTIONS if corpus in _CONFIGURABLE else {}
    words = {True: "yes", False: "no"}
    return {
        name: words[value] if isinstance(value, bool) else str(value) for name, value in values.items() if name in known
    }


def _check_arguments(corpus: str, table: Path | None, options: Mapping[str, str]) -> None:
    """Raise ConfigError for an unknown corpus, and for a table, option or value that the corpus does not take."""
    if corpus not in CORPORA:
        near = difflib.get_close_matches(corpus.lower(), CORPORA, 1)
        raise ConfigError(
            f"no corpus is called {corpus!r}; known are {', '.join(CORPORA)}",
            follows="Nothing was indexed.",
            remedy=f"Did you mean {near[0]!r}?" if near else "For your own videos, use `folder`.",
        )
    if table is not None and corpus != "folder":
        raise ConfigError(
            f"{corpus} takes no --table",
            follows="Nothing was indexed.",
            remedy="Omit --table, or index the root as `folder`.",
        )
    known = _CONFIGURABLE[corpus].OPTIONS if corpus in _CONFIGURABLE else {}
    for name, value in options.items():
        if name not in known:
            raise ConfigError(
                f"{corpus} has no option {name!r}",
                follows="Nothing was indexed.",
                remedy=f"Its options are {', '.join(known)}." if known else "Omit --option; it has none.",
            )
        if value not in known[name]:
            raise ConfigError(
                f"the option {name} of {corpus} cannot be {value!r}",
                follows="Nothing was indexed.",
                remedy=f"Use one of {', '.join(known[name])}; {known[name][0]} is the default.",
            )
