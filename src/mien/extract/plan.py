"""What is missing in a store, as tasks: one recording each, so that it is decoded once for all its clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.datasets.index import Index
from mien.datasets.index_entries import Entry, Stamp
from mien.encoders.protocol import CropEncoder, Encoder, MeshEncoder
from mien.errors import ConfigError, MienError
from mien.extract.failures import Failure
from mien.store import FeatureStore, Reader, StoreError
from mien.store.feature_store import differences

FACES = ("video", "crops")


class ChangedError(MienError):
    """A clip whose media are not what they were when it was indexed."""


@dataclass(frozen=True)
class ExtractionSettings:
    """How extraction runs. store: the folder. faces: `video` finds faces in the pictures, `crops` takes the
    corpus's own aligned crops. dtype: of stored values. replace: make features anew that were made in another
    way.
    device: `cpu`, `cuda`, `cuda:N` or `auto`. threads: of each process. max_faces: people followed at
    once."""

    store: Path
    faces: str = "video"
    dtype: str = "float16"
    replace: bool = False
    device: str = "auto"
    threads: int = 1
    max_faces: int = 4


@dataclass(frozen=True)
class Declared:
    """What an encoder says of itself, without its network. provenance: the store's key."""

    spec: str
    name: str
    modality: str
    dim: int
    licence: str
    provenance: Mapping[str, str]
    kind: str

    @classmethod
    def of(cls, spec: str, encoder: Encoder, settings: ExtractionSettings) -> Declared:
        return cls(
            spec,
            encoder.name,
            encoder.modality,
            encoder.dim,
            encoder.licence,
            provenance(encoder, settings),
            "crop" if isinstance(encoder, CropEncoder) else "mesh" if isinstance(encoder, MeshEncoder) else "whole",
        )


def provenance(encoder: Encoder, settings: ExtractionSettings) -> dict[str, str]:
    """The encoder's own key, and for faces where they came from and, in video, which networks found them."""
    key = dict(encoder.provenance)
    if encoder.modality != "face":
        return key
    key["faces"] = settings.faces
    if settings.faces == "video":
        from mien.hub import ARTEFACTS  # here: it takes longer to import than a process for sound needs at all

        key["face_networks"] = ", ".join(f"{n} {ARTEFACTS[n].digest[:15]}" for n in ("blazeface", "facemesh"))
    return key


@dataclass(frozen=True)
class ClipJob:
    """One clip of a task. encoders: names still missing. crops: its folder of ready crops, or None; with it
    crop_times `(frame,)` seconds and present `(frame,)` bool."""

    clip: str
    side: str
    encoders: tuple[str, ...]
    crops: Path | None = None
    crop_times: np.ndarray | None = None
    present: np.ndarray | None = None
    crops_stamp: Stamp | None = None


@dataclass(frozen=True)
class RecordingJob:
    """One recording. stamp: what it was when it was indexed. attempts: how often a process died over it."""

    media: Path
    stamp: Stamp | None
    duration_s: float
    jobs: tuple[ClipJob, ...]
    attempts: int = 0

    def origin(self, job: ClipJob, encoder: str, faces: str) -> dict[str, Any]:
        """What a stored file remembers of its source, so that a clip that changed is made anew."""
        stamp = job.crops_stamp if faces == "crops" else self.stamp
        return asdict(stamp) if stamp else {}

    def check(self) -> None:
        """Raises ChangedError if the media are gone or changed since they were indexed."""
        for path, stamp in [
            (self.media, self.stamp),
            *((j.crops, j.crops_stamp) for j in self.jobs if j.crops),
        ]:
            if stamp is None or path is None:
                continue
            try:
                if stamp.still(path):
                    continue
                what = f"{path} changed since it was indexed ({stamp.size:,} then, {Stamp.of(path).size:,} now)"
            except OSError as error:
                what = f"{path} was indexed and is gone now ({error.strerror or error})"
            raise ChangedError(
                what,
                follows="its features were not made",
                remedy="index the corpus again, then extract again",
            )


@dataclass(frozen=True)
class Plan:
    """tasks: longest first, so that no process ends up alone with the longest. made: pairs of clip and
    encoder that are there already. failures: clips that cannot be tried."""

    tasks: list[RecordingJob]
    made: int
    failures: list[Failure]

    @property
    def pairs(self) -> set[tuple[str, str]]:
        return {(job.clip, encoder) for task in self.tasks for job in task.jobs for encoder in job.encoders}


def plan(index: Index, declared: Sequence[Declared], settings: ExtractionSettings) -> Plan:
    """Compares the index with the store.

    Raises:
        ConfigError: encoders of one name; crops asked for where they cannot serve.
        ProvenanceError: the store holds features of one of these encoders made in another way (unless
        replaced).
    """
    _check(index, declared, settings)
    store, root = FeatureStore(settings.store), index.root.absolute()  # a process elsewhere has another working folder
    groups: dict[str, list[Entry]] = {}
    failures: list[Failure] = []
    made = 0
    for entry in index.entries:
        if entry.media is None:
            gone = ConfigError(f"clip {entry.id!r} has no media", remedy="index the corpus again")
            failures += [Failure.of(entry.id, d.name, "", gone) for d in declared]
        else:
            groups.setdefault(entry.media, []).append(entry)
    tasks = []
    for media, entries in groups.items():
        jobs = []
        for entry in entries:
            missing = []
            for one in declared:
                if one.modality == "face" and settings.faces == "crops" and not entry.crops:
                    absent = ConfigError(
                        f"clip {entry.id!r} has no folder of crops",
                        remedy="extract it with --faces video, elsewhere",
                    )
                    failures.append(Failure.of(entry.id, one.name, root / media, absent))
                elif _there(store, entry, one, settings):
                    made += 1
                else:
                    missing.append(one.name)
            if missing:
                jobs.append(_job(root, entry, tuple(missing), settings))
        if jobs:
            first = entries[0]
            tasks.append(RecordingJob(root / media, first.stamp, first.duration_s or 0.0, tuple(jobs)))
    tasks.sort(key=lambda task: -task.duration_s)
    return Plan(tasks, made, failures)


def _check(index: Index, declared: Sequence[Declared], settings: ExtractionSettings) -> None:
    if settings.faces not in FACES:
        raise ConfigError(f"faces {settings.faces!r}", remedy=f"--faces {' or --faces '.join(FACES)}")
    names = [d.name for d in declared]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"encoder {twice.pop()!r} is named twice", remedy="name each encoder once")
    if settings.faces == "crops":
        if meshes := [d.name for d in declared if d.kind == "mesh"]:
            raise ConfigError(
                f"{meshes[0]} reads a mesh from whole pictures, which crops are not",
                remedy="use --faces video for it",
            )
        if any(d.modality == "face" for d in declared) and not any(e.crops for e in index.entries):
            raise ConfigError(f"the index of {index.root} names no crops", remedy="use --faces video")


def _there(store: FeatureStore, entry: Entry, declared: Declared, settings: ExtractionSettings) -> bool:
    path = store.path(declared.name, entry.id)
    if not path.exists():
        return False
    try:
        reader = Reader(path)
    except StoreError:
        return False  # a broken file is as good as none
    if error := differences(path, reader.provenance, declared.provenance):
        if settings.replace:
            return False
        raise error
    stamp = entry.crops_stamp if declared.modality == "face" and settings.faces == "crops" else entry.stamp
    return stamp is None or stamp.same(Stamp(**reader.origin) if reader.origin else stamp)


def _job(root: Path, entry: Entry, missing: tuple[str, ...], settings: ExtractionSettings) -> ClipJob:
    if settings.faces != "crops" or not entry.crops or entry.present is None or entry.times is None:
        return ClipJob(entry.id, entry.side, missing)
    times = entry.times.first(len(entry.present))
    return ClipJob(entry.id, entry.side, missing, root / entry.crops, times, entry.present, entry.crops_stamp)
