"""EMO-DB in an index: short recordings, one speaker and one expression each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mien.corpora import emodb
from mien.corpora.catalogue import ERROR, Entry, Found, Problem, Stamp
from mien.corpora.folders import LABEL_RATE_HZ
from mien.errors import CorpusError, MediaError
from mien.labels import EXPRESSIONS
from mien.media.probe import probe
from mien.records import Labels


def read(root: Path, *, progress: Callable[[int, int], None] | None = None) -> Found:
    """All utterances under `root`. Raises CorpusError where there are none."""
    root = Path(root)
    clips = emodb.read(root)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for done, clip in enumerate(clips, 1):
        if clip.media is None or clip.labels is None:
            raise CorpusError(f"{clip.id} of {root} has no file or no label", remedy="report this, please")
        name = clip.media.relative_to(root).as_posix()
        try:
            info = probe(clip.media)
        except MediaError as error:
            problems.append(Problem(ERROR, "unreadable media", name, None, error.what, "the clip is left out"))
            continue
        entries.append(
            Entry(
                clip.id,
                name,
                subject=clip.subject,
                labels={"expr": int(clip.labels.expression[0])},
                stamp=Stamp.of(clip.media),
                duration_s=info.audio_stop_s or info.duration_s,
                has_audio=info.has_audio,
                has_video=info.has_video,
            )
        )
        if progress:
            progress(done, len(clips))
    counts = Counter(EXPRESSIONS[entry.labels["expr"]] for entry in entries)
    return Found(entries, problems, counts={"utterances": {k: counts[k] for k in EXPRESSIONS if counts[k]}})


def labels(root: Path, entry: Entry, tasks: Sequence[str], classes: Sequence[str] = EXPRESSIONS) -> Labels | None:
    """The utterance's expression, every 1/25 s over its length."""
    times = (np.arange(max(1, round((entry.duration_s or 0.0) * LABEL_RATE_HZ))) + 0.5) / LABEL_RATE_HZ
    return Labels(times, np.full(len(times), int(entry.labels["expr"])), np.full((len(times), 2), np.nan))
