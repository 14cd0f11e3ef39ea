"""Load indexed clips with their stored features as `Recording`s, for training and evaluation."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mien.datasets.index import Index
from mien.errors import ConfigError
from mien.records import Recording, Stream
from mien.store import EncoderFeatures, FeatureStore

#: File descriptors kept free for the rest of the process.
_SPARE_DESCRIPTORS = 256


def load_recordings(
    index: Index,
    store: Path | str,
    encoders: Mapping[str, str],
    *,
    task: str | None = None,
    split: str | None = None,
    labels: bool = True,
    mapped: bool = True,
    partial: bool = False,
    scores: Collection[str] = (),
    verify: bool = True,
) -> list[Recording]:
    """Load the clips of a task and split, each with the stored streams of some encoders.

    A stream without rows (the recording has no audio, or no video) is left out of its recording.

    Args:
        encoders: modality -> name of the encoder in the store, such as `{"face": "beit-large"}`.
        task, split, scores: as in `Index.clips`. labels: read the clips' labels too.
        mapped: memory-map the values, in the precision they are stored in; otherwise load them as float32.
        verify: compare every byte of the streams with the hash in the file first; SHA-256 takes about a second a GB.
        partial: return the clips that the store has, instead of raising ConfigError about those it lacks.

    Raises:
        ConfigError: the store lacks features of clips.
        ProvenanceError: the features of one encoder were made in different ways.
        StoreError: the store has no features of an encoder, or a file of it cannot be read, or (with `verify`) is
            damaged.
    """
    feature_store = FeatureStore(store)
    features = {modality: feature_store.open(name) for modality, name in encoders.items()}
    clips = [clip.id for clip in index.clips(task, split, labels=False)]
    lacking = {m: [c for c in clips if c not in stored] for m, stored in features.items()}
    if any(lacking.values()) and not partial:
        what = "; ".join(
            f"{len(missing)} of {len(clips)} clips have no {encoders[m]} features, such as {missing[0]!r}"
            for m, missing in lacking.items()
            if missing
        )
        options = " ".join(f"--encoder {encoders[m]}" for m, missing in lacking.items() if missing)
        raise ConfigError(
            f"{store}: {what}",
            follows="Nothing was started.",
            remedy=f"Run `mien extract INDEX {options} --store {store}`. {store}/failures.jsonl lists failures.",
        )
    if mapped:
        _raise_descriptor_limit(len(clips) * len(features))
    return [
        Recording(clip, _streams(clip.id, features, mapped, verify))
        for clip in index.clips(task, split, labels=labels, scores=scores)
        if any(clip.id in stored for stored in features.values())
    ]


def _streams(clip: str, features: Mapping[str, EncoderFeatures], mapped: bool, verify: bool) -> dict[str, Stream]:
    readers = {m: stored[clip] for m, stored in features.items() if clip in stored}
    for reader in readers.values() if verify else ():
        reader.verify()
    return {m: reader.stream(mapped=mapped) for m, reader in readers.items() if reader.rows}


def _raise_descriptor_limit(count: int) -> None:
    """Allow `count` open files: each memory-mapped stream holds one descriptor, and the usual limit is 1,024."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, limit), hard))
