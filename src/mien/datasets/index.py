"""What a corpus holds, written down once: clips, splits, where labels lie, and every problem with its file
and line.

`index(corpus, root)` reads a corpus and returns an `Index`; `Index.save` and `Index.load` keep it as JSON
lines (the first line says what it is, then one line a clip, then one line a problem). Labels are not in it:
they are read from the corpus when they are asked for.
"""

from __future__ import annotations

import difflib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mien.atomic import atomic_path
from mien.datasets import affwild2, csv_folder, emodb
from mien.datasets.index_entries import ERROR, NOTE, WARNING, Entry, Problem, packed, unpacked
from mien.errors import ConfigError, CorpusError
from mien.labels import EXPRESSIONS
from mien.records import Clip

FORMAT = "mien-index-1"


@dataclass
class Index:
    """A corpus as it was found. See `clips` for what training takes, `entries` for what extraction takes."""

    corpus: str
    root: Path
    entries: list[Entry]
    problems: list[Problem] = field(default_factory=list)
    classes: tuple[str, ...] = EXPRESSIONS
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def __getitem__(self, clip: str) -> Entry:
        for entry in self.entries:
            if entry.id == clip:
                return entry
        near = difflib.get_close_matches(clip, [e.id for e in self.entries], 1)
        raise CorpusError(
            f"no clip {clip!r} in the index of {self.root}",
            remedy=f"did you mean {near[0]!r}?" if near else "`mien index` again if it was added since",
        )

    def clip(self, entry: Entry, task: str | None = None, *, labels: bool = True) -> Clip:
        """An entry as a Clip. task: whose split and labels (`expr`, `va`); None takes the first the corpus
        has.

        With a task, the labels of the other one come along where both files put the clip in the same split,
        so that nothing from one task's validation set is trained on through the other.
        """
        tasks = self.tasks
        task = task or (tasks[0] if tasks else "")
        split = entry.splits.get(task, "")
        wanted = [t for t in tasks if t in entry.labels and entry.splits.get(t, "") == split]
        found = CORPORA[self.corpus].labels(self.root, entry, wanted, self.classes) if labels and wanted else None
        media = self.root / entry.media if entry.media else None
        return Clip(entry.id, media, entry.subject, split, found)

    def clips(self, task: str | None = None, split: str | None = None, *, labels: bool = True) -> Iterator[Clip]:
        """Clips that take part in a task, one at a time (so that only one's labels are in memory)."""
        task = task or (self.tasks[0] if self.tasks else None)
        for entry in self.entries:
            if (task is None or task in entry.splits or task in entry.labels) and (
                split is None or entry.splits.get(task or "", "") == split
            ):
                yield self.clip(entry, task, labels=labels)

    @property
    def tasks(self) -> tuple[str, ...]:
        """`expr`, `va`: those for which any clip has a split or labels."""
        found = {t for e in self.entries for t in (*e.splits, *e.labels)}
        return tuple(t for t in ("expr", "va") if t in found)

    def save(self, path: Path) -> None:
        """Write the index to a file. Raises OutputError."""
        head = {"format": FORMAT, "corpus": self.corpus, "root": str(self.root.resolve())}
        head |= {"classes": list(self.classes), "counts": self.counts}  # type: ignore[dict-item]
        with (
            atomic_path(path) as temporary,
            open(temporary, "w", encoding="utf-8", errors="surrogateescape") as file,
        ):
            for record in (head, *map(packed, self.entries), *({"problem": asdict(p)} for p in self.problems)):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def load(cls, path: Path, root: Path | None = None) -> Index:
        """root: where the corpus lies now, if it was moved. Raises CorpusError for a file that is no
        index."""
        try:
            lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
            head, *rest = [json.loads(line) for line in lines if line]
            if head["format"] != FORMAT:
                raise KeyError(head["format"])
            entries = [unpacked(record) for record in rest if "problem" not in record]
            problems = [Problem(**record["problem"]) for record in rest if "problem" in record]
            where = Path(root) if root else Path(head["root"])
            return cls(head["corpus"], where, entries, problems, tuple(head["classes"]), head["counts"])
        except OSError as error:
            raise ConfigError(
                f"{path}: {error.strerror or error}",
                remedy="mien index CORPUS ROOT --out FILE makes an index",
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} is not an index of this version ({type(error).__name__}: {error})",
                remedy="mien index CORPUS ROOT --out FILE makes one",
            ) from None

    def table(self) -> list[tuple[str, str]]:
        """What was found, as label and value, for `mien index` to print."""
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
            there = sum(int(present.sum()) for present in crops)
            rows.append(("face crops", f"{there:,} of {sum(map(len, crops)):,} frames"))
        rows.append(("without sound", f"{sum(1 for e in self.entries if not e.has_audio):,}"))
        rows += [(name, ", ".join(f"{k} {n:,}" for k, n in c.items())) for name, c in self.counts.items()]
        for severity in (ERROR, WARNING, NOTE):
            kinds = Counter(p.kind for p in self.problems if p.severity == severity)
            if kinds:
                rows.append((f"{severity}s", ", ".join(f"{k} {n:,}" for k, n in sorted(kinds.items()))))
        return rows

    def split_by(self, shares: Mapping[str, float], *, by: str = "subject", seed: int = 0) -> Index:
        """A copy with new splits. shares: split -> share of clips, the rest is `train`. by: `subject` keeps
        all clips of a subject together (those without one, of a recording); `clip` splits at random, which
        puts the same person on both sides and has to be asked for."""
        together = [e.id if by == "clip" else e.subject or e.media or e.id for e in self.entries]
        splits = dealt(together, shares, by=by, seed=seed)
        tasks = self.tasks or ("expr",)
        entries = [replace(e, splits=dict.fromkeys(tasks, s)) for e, s in zip(self.entries, splits, strict=True)]
        return replace(self, entries=entries)


def dealt(together: Sequence[str], shares: Mapping[str, float], *, by: str, seed: int) -> list[str]:
    """The split of every clip: those with one name in `together` stay together. shares: split -> share of the clips,
    the rest is `train`. by: what the names are, `subject` or `clip`. Raises ConfigError for another."""
    if by not in ("subject", "clip"):
        raise ConfigError(f"split by {by!r}", remedy="by='subject' (the default) or by='clip'")
    sizes = Counter(together)
    order = sorted(sizes)
    np.random.default_rng(seed).shuffle(order)
    split_of, left = dict.fromkeys(order, "train"), iter(order)
    for split, share in shares.items():
        size = 0
        while size < round(share * len(together)) and (group := next(left, None)) is not None:
            split_of[group] = split
            size += sizes[group]
    return [split_of[group] for group in together]


def index(
    corpus: str, root: Path, *, table: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> Index:
    """Reads a corpus: `aff-wild2` and `synthetic` (one layout), `folder` (see `mien.datasets.csv_folder`), `emodb`.

    table: for `folder`, the CSV. progress: told how many recordings of how many were looked at.

    Raises:
        ConfigError: an unknown corpus. CorpusError: `root` is not what the corpus's layout promises.
    """
    if corpus not in CORPORA:
        near = difflib.get_close_matches(corpus.lower(), CORPORA, 1)
        raise ConfigError(
            f"no corpus is called {corpus!r}; known are {', '.join(CORPORA)}",
            remedy=f"did you mean {near[0]!r}?" if near else "your own videos are a `folder`",
        )
    root = Path(root)
    if corpus == "folder":
        found = csv_folder.read(root, table=table, progress=progress)
    elif table is not None:
        raise ConfigError(f"{corpus} takes no --table", remedy="leave it out, or index a `folder`")
    else:
        found = CORPORA[corpus].read(root, progress=progress)
    if not found.entries:
        first = next((str(p) for p in found.problems if p.severity == ERROR), "nothing was found")
        raise CorpusError(f"{root} gives not one clip: {first}", remedy="mend that and index again")
    return Index(corpus, root, found.entries, found.problems, found.classes, found.counts)


#: Name on the command line -> the file that reads it: `read(root)`, `labels(root, entry, tasks, classes)`.
CORPORA: dict[str, Any] = {
    "aff-wild2": affwild2,
    "synthetic": affwild2,
    "folder": csv_folder,
    "emodb": emodb,
}
