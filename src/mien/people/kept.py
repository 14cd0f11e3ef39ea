"""Descriptors kept beside a timeline on request: biometric data, which the user alone may read."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mien.atomic import atomic_path
from mien.downloads import digest_of
from mien.scratch import PRIVATE

#: File of a recording's descriptors in its folder of results.
NAME = "descriptors.npz"
_KEYS = "descriptor", "timeline"


def write(folder: Path, timeline: Path, key: str, faces: Mapping[int, np.ndarray]) -> Path:
    """Write the mean vector of each subject, with mode 0600 whatever the folder's permissions.

    Args:
        timeline: the file whose subjects they are; the vectors count only while it is unchanged.
        key: of the descriptor. faces: subject -> `(faces, dim)`.

    Raises:
        OutputError: the file cannot be written.
    """
    path = folder / NAME
    arrays = {f"subject {subject}": vectors for subject, vectors in faces.items()}
    facts = dict(zip(_KEYS, (np.array(key), np.array(digest_of(timeline, "sha256"))), strict=True))
    with atomic_path(path, private=True) as temporary:
        temporary.chmod(PRIVATE)
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays, **facts)
    return path


def read(folder: Path, timeline: Path, key: str) -> dict[int, np.ndarray] | None:
    """Subject -> vectors `(faces, dim)`; None if none are kept, or they are damaged, of another descriptor or of an
    earlier timeline."""
    try:
        with np.load(folder / NAME, allow_pickle=False) as stored:
            if [str(stored[name]) for name in _KEYS] != [key, digest_of(timeline, "sha256")]:
                return None
            subjects = [name for name in stored.files if name not in _KEYS]
            return {int(name.removeprefix("subject ")): np.asarray(stored[name], np.float32) for name in subjects}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
