"""Who is who in finished recordings: faces are read again, described, grouped and named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mien import downloads
from mien.errors import MediaError, MienError
from mien.people import kept
from mien.people.descriptors import FaceDescriptor
from mien.people.faces import FaceReader, seconds_seen, seen_together
from mien.people.grouping import Pair, group
from mien.people.names import Key
from mien.printable import printable
from mien.timeline.table import Timeline

#: Called with the number of recordings done, of all, and the name of the one in progress.
OnRecording = Callable[[float, int, str], None]


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished recording.

    name: of its folder of results, with the folder above where several are compared. media: as it was predicted.
    timeline: file of its rows. record: its timeline.json.
    seconds: subject -> seconds seen. together: subjects seen in one picture. faces: subject -> vectors `(faces, dim)`;
    empty where none can be read.
    """

    name: str
    folder: Path
    media: Path
    timeline: Path
    record: Mapping[str, Any]
    seconds: Mapping[int, float]
    together: Sequence[tuple[int, int]]
    faces: Mapping[int, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Member:
    """A subject of a recording and who it is.

    person: name; None without a readable face and without a name of the user. how: `names` (the user's), `faces`
    (grouped with others), `alone` (near nobody), or `no face`. distance: mean distance to the person's other subjects.
    nearest, nearest_distance: the nearest other person, by mean distance. None where there is none.
    """

    recording: Recording
    subject: int
    person: str | None
    how: str
    faces: int
    distance: float | None
    nearest: str | None
    nearest_distance: float | None

    @property
    def seconds(self) -> float:
        """Seconds in which the face is seen."""
        return self.recording.seconds.get(self.subject, 0.0)


@dataclass(slots=True)
class Read:
    """Recordings read, and what could not be. failed: one error for each recording left out."""

    recordings: list[Recording] = field(default_factory=list)
    failed: list[MienError] = field(default_factory=list)
    from_kept: int = 0


def read_recordings(
    results: Sequence[tuple[str, Path, Mapping[str, Any]]],
    descriptor: FaceDescriptor,
    *,
    media_folders: Sequence[Path] = (),
    keep: bool = False,
    on_recording: OnRecording | None = None,
) -> Read:
    """Read faces of the subjects of finished recordings, from the recordings or from kept descriptors.

    Nothing is written, unless `keep` asks for it.

    Args:
        results: name of each recording, its folder of results, and its timeline.json.
        media_folders: where recordings are searched that are not where they were predicted.
        keep: write the descriptors beside each timeline.

    Raises:
        ArtefactError: a network of the face tracker is missing.
        OutputError: descriptors cannot be written.
    """
    reader: FaceReader | None = None
    done = Read()
    for number, (name, folder, record) in enumerate(sorted(results, key=lambda item: _natural(item[0]))):
        media = Path(record["media"]["path"])

        def report(read: int, of: int, number: int = number, file: str = media.name) -> None:
            if on_recording is not None:
                on_recording(number + read / max(of, 1), len(results), file)

        report(0, 1)
        try:
            timeline = folder / record["files"].get("timeline", "timeline.csv")
            table = Timeline.read(timeline).table
            seconds = seconds_seen(table)
            recording = Recording(name, folder, media, timeline, record, seconds, seen_together(table))
            faces = kept.read(folder, timeline, descriptor.key)
            done.from_kept += faces is not None and bool(seconds)
            if faces is None and seconds:
                found = _find_media(recording, media_folders)
                reader = reader or FaceReader(descriptor)
                faces = reader.read(found, table, report)
                if keep:
                    kept.write(folder, timeline, descriptor.key, faces)
        except MediaError as error:
            done.failed.append(error)
            continue
        done.recordings.append(replace(recording, faces=faces or {}))
    return done


def _find_media(recording: Recording, folders: Sequence[Path]) -> Path:
    """The recording's file, unchanged since it was predicted. Raises MediaError."""
    stated = recording.record["media"]
    candidates = [recording.media, *(path for folder in folders for path in sorted(folder.rglob(recording.media.name)))]
    present = [path for path in candidates if path.is_file()]
    for path in present:
        size = stated.get("size")
        if (size is None or path.stat().st_size == size) and downloads.digest_of(path, "sha256") == stated["digest"]:
            return path
    name = printable(recording.media)
    follows = f"The people of {printable(recording.name)} are left out, because no descriptors of them are kept."
    if present:
        raise MediaError(
            f"{name} is no longer the recording that was predicted: its content has changed",
            follows=follows,
            remedy="Predict it again: mien predict --skip-done.",
        )
    raise MediaError(
        f"{name} is not there, and its faces have to be read again",
        follows=follows,
        remedy="Run mien people where mien predict ran, or say where the recordings are now with --media FOLDER. "
        "--keep-descriptors makes later runs independent of the recordings.",
    )


def identify(recordings: Sequence[Recording], threshold: float, names: Mapping[Key, str] | None = None) -> list[Member]:
    """Group the subjects of recordings, and name the groups.

    Subjects are compared by the mean of their vectors. Two who are seen in one picture are different people. Subjects
    to whom the user gave one name are one person, with different names different people. A group with a name of the
    user has that name; others are `person 1`, `person 2`, ... in the order of recordings and subjects. The order of
    `recordings` does not matter.

    Args:
        threshold: mean distance below which groups are joined.
        names: (recording, subject) -> name.

    Returns:
        Every subject with a face or a name of the user, by recording and number.
    """
    names = names or {}
    items = [
        (r, subject)
        for r in sorted(recordings, key=lambda r: _natural(r.name))
        for subject in sorted({*r.seconds, *(subject for name, subject in names if name == r.name)})
    ]
    index = {(r.name, subject): i for i, (r, subject) in enumerate(items)}
    distances = _distances([r.faces.get(subject) for r, subject in items])
    apart = [(index[r.name, a], index[r.name, b]) for r in recordings for a, b in r.together]
    together: list[Pair] = []
    for one, other in combinations(sorted(key for key in names if key in index), 2):
        (together if names[one] == names[other] else apart).append((index[one], index[other]))
    labels = group(distances, threshold, together=together, apart=apart)
    known = ~np.isnan(distances).all(axis=1) if len(items) else np.zeros(0, bool)
    given = {int(labels[index[key]]): name for key, name in names.items() if key in index}
    people: dict[int, str] = {}
    number = 1
    for label in labels.tolist():
        if label not in people and (label in given or (known & (labels == label)).any()):
            while f"person {number}" in names.values():
                number += 1
            people[label] = given.get(label) or f"person {number}"
            number += label not in given
    members = []
    for i, (r, subject) in enumerate(items):
        label = int(labels[i])
        same = (labels == label) & known
        same[i] = False
        own = float(distances[i, same].mean()) if known[i] and same.any() else None
        other_labels = sorted({*labels[known].tolist()} - {label})
        others = {j: float(distances[i, (labels == j) & known].mean()) for j in other_labels}
        nearest = min(others, key=lambda j: (others[j], j)) if others and known[i] else None
        named = (r.name, subject) in names
        how = "names" if named else "no face" if not known[i] else "faces" if own is not None else "alone"
        person = None if how == "no face" else people[label]
        members.append(
            Member(
                r, subject, person, how, len(r.faces.get(subject, ())), own,
                None if nearest is None else people[nearest], None if nearest is None else others[nearest],
            )
        )  # fmt: skip
    return members


def _distances(faces: Sequence[np.ndarray | None]) -> np.ndarray:
    """Euclidean distances of the mean vectors `(n, n)`; NaN in the rows and columns of subjects without one."""
    out = np.full((len(faces), len(faces)), np.nan)
    present = {i: vectors for i, vectors in enumerate(faces) if vectors is not None and len(vectors)}
    known = list(present)
    if known:
        means = np.stack([vectors.mean(axis=0, dtype=np.float64) for vectors in present.values()])
        for i, mean in zip(known, means, strict=True):  # one by one: all differences at once would need n² vectors
            out[i, known] = np.linalg.norm(means - mean, axis=1)
    return out


def _natural(name: str) -> tuple[list[tuple[int, int | str]], str]:
    """Key that sorts `clip-2` before `clip-10`."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts], name
