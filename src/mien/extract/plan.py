"""Extraction plan: compare an index with the feature store, and list the missing streams, one job for each recording.

A recording is decoded once for all its clips and encoders.
"""

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
from mien.store.feature_store import provenance_error

FACES = ("video", "crops")


class ChangedError(MienError):
    """A media file or crop folder changed since it was indexed."""


@dataclass(frozen=True)
class ExtractionSettings:
    """Settings of an extraction run.

    store: folder of the feature store. faces: `video` detects faces in the frames, `crops` reads the corpus's aligned
    crops. dtype: of stored values, `float16` or `float32`. replace: overwrite features of another provenance. device:
    `cpu`, `cuda`, `cuda:N` or `auto`. threads: of each process. max_faces: most subjects tracked at once.
    """

    store: Path
    faces: str = "video"
    dtype: str = "float16"
    replace: bool = False
    device: str = "auto"
    threads: int = 1
    max_faces: int = 4


@dataclass(frozen=True)
class EncoderInfo:
    """Properties of an encoder without its network, to send between processes.

    provenance: everything that changes its values; stored with every stream. kind: `crop`, `mesh` or `other`.
    """

    name: str
    modality: str
    provenance: Mapping[str, str]
    kind: str

    @classmethod
    def of(cls, encoder: Encoder, settings: ExtractionSettings) -> EncoderInfo:
        """Properties of an encoder under these settings."""
        return cls(
            encoder.name,
            encoder.modality,
            provenance(encoder, settings),
            "crop" if isinstance(encoder, CropEncoder) else "mesh" if isinstance(encoder, MeshEncoder) else "other",
        )


def provenance(encoder: Encoder, settings: ExtractionSettings) -> dict[str, str]:
    """Provenance of stored features: the encoder's, and for faces their source and the networks that detect them."""
    key = dict(encoder.provenance)
    if encoder.modality != "face":
        return key
    key["faces"] = settings.faces
    if settings.faces == "video":
        from mien.hub import ARTEFACTS  # imported here: a process for sound alone starts faster without it

        key["face_networks"] = ", ".join(f"{n} {ARTEFACTS[n].digest[:15]}" for n in ("blazeface", "facemesh"))
    return key


@dataclass(frozen=True)
class ClipJob:
    """One clip of a recording to encode.

    side: `left`, `right` or "". encoders: names of those whose stream is missing. crops: folder of the corpus's crops,
    or None; with it crop_times `(frame,)` seconds, and present `(frame,)` bool, frames that have a crop.
    """

    clip: str
    side: str
    encoders: tuple[str, ...]
    crops: Path | None = None
    crop_times: np.ndarray | None = None
    present: np.ndarray | None = None
    crops_stamp: Stamp | None = None


@dataclass(frozen=True)
class RecordingJob:
    """One recording to encode, with its clips. stamp: its state at indexing time. attempts: number of worker processes
    that died on it."""

    media: Path
    stamp: Stamp | None
    duration_s: float
    clip_jobs: tuple[ClipJob, ...]
    attempts: int = 0

    def origin(self, clip_job: ClipJob, *, from_crops: bool) -> dict[str, Any]:
        """State of the source of a clip's features, stored with them, so that a changed clip is extracted again."""
        stamp = clip_job.crops_stamp if from_crops else self.stamp
        return asdict(stamp) if stamp else {}

    def failures(self, error: BaseException) -> list[Failure]:
        """Failures of all streams of this recording, for one error."""
        pairs = [(c.clip, name) for c in self.clip_jobs for name in c.encoders]
        return [Failure.from_error(clip, name, self.media, error) for clip, name in pairs]

    def check(self) -> None:
        """Raise ChangedError if the media file or a crop folder is missing, or changed since it was indexed."""
        for path, stamp in [(self.media, self.stamp), *((c.crops, c.crops_stamp) for c in self.clip_jobs if c.crops)]:
            if stamp is None or path is None:
                continue
            try:
                if stamp.matches(path):
                    continue
                what = f"{path} changed since it was indexed ({stamp.size:,} then, {Stamp.of(path).size:,} now)"
            except OSError as error:
                what = f"{path} was indexed and cannot be read now ({error.strerror or error})"
            raise ChangedError(
                what,
                follows="Its features were not extracted.",
                remedy="Run `mien index` again, then `mien extract`.",
            )


@dataclass(frozen=True)
class Plan:
    """Work that is left. jobs: longest recording first, so that the last job to finish is a short one. existing: number
    of stored streams. failures: clips that cannot be encoded at all."""

    jobs: list[RecordingJob]
    existing: int
    failures: list[Failure]

    @property
    def clip_encoder_pairs(self) -> set[tuple[str, str]]:
        """(clip, encoder) of every stream in `jobs`."""
        return {(c.clip, encoder) for job in self.jobs for c in job.clip_jobs for encoder in c.encoders}


def plan_extraction(index: Index, encoders: Sequence[EncoderInfo], settings: ExtractionSettings) -> Plan:
    """Compare the index with the store.

    Raises:
        ConfigError: two encoders of one name, or `faces` of `crops` that the index or an encoder does not support.
        ProvenanceError: the store holds features of one of the encoders with another provenance, and
            `settings.replace` is not set.
    """
    _check(index, encoders, settings)
    root = index.root.absolute()  # a worker process may have another working directory
    store = FeatureStore(settings.store)
    by_media: dict[str, list[Entry]] = {}
    failures: list[Failure] = []
    existing = 0
    for entry in index.entries:
        if entry.media is None:
            no_media = ConfigError(
                f"clip {entry.id!r} has no media", follows="It was not extracted.", remedy="Run `mien index` again."
            )
            failures += [Failure.from_error(entry.id, e.name, "", no_media) for e in encoders]
        else:
            by_media.setdefault(entry.media, []).append(entry)
    jobs = []
    for media, entries in by_media.items():
        clip_jobs = []
        for entry in entries:
            missing = []
            for encoder in encoders:
                if encoder.modality == "face" and settings.faces == "crops" and not entry.crops:
                    no_crops = ConfigError(
                        f"clip {entry.id!r} has no crop folder",
                        follows="It was not extracted.",
                        remedy="Extract it with --faces video, into another --store.",
                    )
                    failures.append(Failure.from_error(entry.id, encoder.name, root / media, no_crops))
                elif _is_stored(store, entry, encoder, settings):
                    existing += 1
                else:
                    missing.append(encoder.name)
            if missing:
                clip_jobs.append(_clip_job(root, entry, tuple(missing), settings))
        if clip_jobs:
            first = entries[0]
            jobs.append(RecordingJob(root / media, first.stamp, first.duration_s or 0.0, tuple(clip_jobs)))
    jobs.sort(key=lambda job: -job.duration_s)
    return Plan(jobs, existing, failures)


def _check(index: Index, encoders: Sequence[EncoderInfo], settings: ExtractionSettings) -> None:
    nothing = "Nothing was extracted."
    if settings.faces not in FACES:
        raise ConfigError(
            f"--faces {settings.faces!r} is not one of {', '.join(FACES)}",
            follows=nothing,
            remedy=f"Use --faces {' or --faces '.join(FACES)}.",
        )
    names = [e.name for e in encoders]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ConfigError(
            f"encoder {repeated.pop()!r} is named twice", follows=nothing, remedy="Name each encoder once."
        )
    if settings.faces == "crops":
        if meshes := [e.name for e in encoders if e.kind == "mesh"]:
            raise ConfigError(
                f"encoder {meshes[0]!r} needs whole frames for its mesh, and --faces crops gives crops",
                follows=nothing,
                remedy="Use --faces video for it.",
            )
        if any(e.modality == "face" for e in encoders) and not any(e.crops for e in index.entries):
            raise ConfigError(f"the index of {index.root} names no crops", follows=nothing, remedy="Use --faces video.")


def _is_stored(store: FeatureStore, entry: Entry, encoder: EncoderInfo, settings: ExtractionSettings) -> bool:
    path = store.path(encoder.name, entry.id)
    if not path.exists():
        return False
    try:
        reader = Reader(path)
    except StoreError:
        return False  # a broken file is written again
    if error := provenance_error(path, reader.provenance, encoder.provenance):
        if settings.replace:
            return False
        raise error
    stamp = entry.crops_stamp if encoder.modality == "face" and settings.faces == "crops" else entry.stamp
    return stamp is None or stamp.same_content(Stamp(**reader.origin) if reader.origin else stamp)


def _clip_job(root: Path, entry: Entry, missing: tuple[str, ...], settings: ExtractionSettings) -> ClipJob:
    if settings.faces != "crops" or not entry.crops or entry.present is None or entry.times is None:
        return ClipJob(entry.id, entry.side, missing)
    times = entry.times.row_times(len(entry.present))
    return ClipJob(entry.id, entry.side, missing, root / entry.crops, times, entry.present, entry.crops_stamp)
