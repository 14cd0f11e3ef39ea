"""Indexed clips with their stored features, as training and evaluation take them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mien.datasets.index import Index
from mien.errors import ConfigError
from mien.records import Recording, Stream
from mien.store import EncoderFeatures, FeatureStore

#: File descriptors left for everything else.
_SPARE = 256


def recordings(
    index: Index,
    store: Path | str,
    encoders: Mapping[str, str],
    *,
    task: str | None = None,
    split: str | None = None,
    labels: bool = True,
    mapped: bool = True,
    partial: bool = False,
) -> list[Recording]:
    """The clips of a task and split, each with the streams of these encoders. A stream without rows (no sound track,
    no pictures) is left out of its recording.

    Args:
        encoders: modality -> name of the encoder in the store, such as `{"face": "beit-large"}`.
        mapped: leave the values on the disk, in the precision they are stored in, until they are touched; otherwise
            float32 in memory.
        partial: take the clips that the store has, instead of an error about those it lacks.

    Raises:
        ConfigError: the store lacks clips; says how many of which encoder and names one. ProvenanceError,
            StoreError: it holds features of several kinds, or none of an encoder.
    """
    held = FeatureStore(store)
    shelves = {modality: held.open(name) for modality, name in encoders.items()}
    clips = [clip.id for clip in index.clips(task, split, labels=False)]
    lacking = {m: [c for c in clips if c not in shelf] for m, shelf in shelves.items()}
    if any(lacking.values()) and not partial:
        told = "; ".join(
            f"{len(missing)} of {len(clips)} clips have no {encoders[m]} features, such as {missing[0]!r}"
            for m, missing in lacking.items()
            if missing
        )
        named = " ".join(f"--encoder {encoders[m]}" for m, missing in lacking.items() if missing)
        raise ConfigError(
            f"{store}: {told}",
            follows="nothing was started",
            remedy=f"mien extract INDEX {named} --store {store}; what failed stands in {store}/failures.jsonl",
        )
    if mapped:
        _allow_files(len(clips) * len(shelves))
    return [
        Recording(clip, _streams(clip.id, shelves, mapped))
        for clip in index.clips(task, split, labels=labels)
        if any(clip.id in shelf for shelf in shelves.values())
    ]


def _streams(clip: str, shelves: Mapping[str, EncoderFeatures], mapped: bool) -> dict[str, Stream]:
    found = {m: shelf[clip] for m, shelf in shelves.items() if clip in shelf}
    return {m: reader.stream(mapped=mapped) for m, reader in found.items() if reader.rows}


def _allow_files(count: int) -> None:
    """A mapping holds a file descriptor, of which a process may have 1,024 until it asks for more."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
