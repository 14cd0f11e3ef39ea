"""Folders whose files change in one step: a manifest states the digest of each file and is replaced last.

A manifest is a JSON object such as checkpoint.json. `files` maps names to SHA-256, and `digest` covers the whole
object, so that no part of it can change unnoticed. A save writes each new file under a name with its digest
(`.weights-0123456789abcdef.staged.safetensors`), then replaces the manifest, then moves the new files to their own
names. `State` finds a file under either name. At every moment the folder therefore holds the state before the save or
the one after it, complete.

Folders of earlier versions have no `files`; their files are read as they are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from mien import json_object
from mien.atomic import sync_folder, write_bytes
from mien.errors import ConfigError
from mien.scratch import remove_abandoned

_STAGED = re.compile(r"\..*-[0-9a-f]{16}\.staged(?:\.[^.]*)?", re.DOTALL)
#: Loads that are tried while another process saves.
_ATTEMPTS = 20
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class State:
    """The last complete state of a folder. manifest: its name. facts: its content."""

    folder: Path
    manifest: str
    facts: Mapping[str, Any]

    @property
    def files(self) -> dict[str, str]:
        """Name -> SHA-256 of each file under the digest; empty for folders of earlier versions."""
        return dict(self.facts.get("files", {}))

    @property
    def digest(self) -> str:
        """SHA-256 of the state; "" for folders of earlier versions."""
        return str(self.facts.get("digest", ""))

    def path(self, name: str) -> Path:
        """Where a file is: under its own name, or under that of an interrupted save. It need not exist."""
        staged = _staged(self.folder / name, self.files[name]) if name in self.files else None
        return staged if staged is not None and staged.is_file() else self.folder / name

    def read(self, name: str) -> bytes:
        """A file, compared with its digest. Raises OSError; ConfigError if it is another one."""
        try:
            data = self.path(name).read_bytes()
        except FileNotFoundError:  # moved between two calls, by the process that saves
            data = (self.folder / name).read_bytes()
        if name in self.files and hashlib.sha256(data).hexdigest() != self.files[name]:
            raise ConfigError(
                f"{self.folder / name} is not the file that {self.manifest} describes (sha256 differs)",
                follows="It is damaged, changed by hand, half-copied, or from another training run. It was not loaded.",
                remedy="Copy the whole folder again, or put back the file that was saved.",
            )
        return data


def read(folder: Path, manifest: str) -> State:
    """The last complete state of a folder. Raises ConfigError for a manifest that is missing or damaged."""
    path = folder / manifest
    try:
        facts = json_object.parse(path.read_bytes())
        if "files" in facts or "digest" in facts:
            _check(facts)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}",
            follows="It is damaged, or was changed by hand. It was not loaded.",
            remedy="Copy the whole folder again.",
        ) from error
    return State(folder, manifest, facts)


def load(folder: Path, manifest: str, loader: Callable[[State], T]) -> T:
    """What `loader` makes of the last complete state; tried again where another process saves meanwhile.

    Raises ConfigError as `read`, and whatever `loader` raises.
    """
    for _ in range(_ATTEMPTS):
        state = read(folder, manifest)
        try:
            return loader(state)
        except (ConfigError, OSError):
            with suppress(ConfigError):
                if read(folder, manifest).facts != state.facts:
                    continue
            raise
    return loader(read(folder, manifest))


def save(folder: Path, manifest: str, facts: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Replace the state of a folder in one step.

    Args:
        facts: content of the manifest, without `files` and `digest`.
        files: name -> content. Files of the earlier state that are not named stay in the folder without being part of
            the new state.

    Raises OSError; the earlier state then remains, complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder, manifest)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    _stage(folder, files, digests)
    _replace(folder, manifest, facts, digests)


def update(folder: Path, manifest: str, files: Mapping[str, bytes]) -> None:
    """Add or replace files of a folder's state, in one step; the others stay.

    In a folder of an earlier version, whose manifest has no digests, each file is replaced by itself.

    Raises OSError; ConfigError for a damaged manifest.
    """
    state = read(folder, manifest)
    if not state.digest:
        for name, data in files.items():
            write_bytes(folder / name, data, sync=True)
        return
    settle(folder, manifest)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    _stage(folder, files, digests)
    content = {key: value for key, value in state.facts.items() if key not in ("files", "digest")}
    _replace(folder, manifest, content, state.files | digests)


def copy(source: Path, target: Path, manifest: str, names: Collection[str]) -> None:
    """Copy a folder's state over that of another, in one step; other files there stay.

    Args:
        names: files to copy beside the manifest. Those that it does not list are replaced one by one, before it.

    Raises OSError; ConfigError for a damaged manifest of the source.
    """
    state = read(source, manifest)
    text = (source / manifest).read_bytes()
    target.mkdir(parents=True, exist_ok=True)
    settle(target, manifest)
    for name in names:
        path = target / name
        write_bytes(_staged(path, state.files[name]) if name in state.files else path, state.read(name), sync=True)
    write_bytes(target / manifest, text, sync=True)
    _move(target, state.files)


def settle(folder: Path, manifest: str) -> None:
    """Finish an interrupted save: move the files of the state to their names, and remove others that it left.

    Raises OSError.
    """
    remove_abandoned(folder)
    if not any(_STAGED.fullmatch(entry.name) for entry in os.scandir(folder)):
        return
    current: dict[str, str] = {}
    with suppress(ConfigError):  # no complete state yet
        current = read(folder, manifest).files
    _move(folder, current)
    for entry in list(os.scandir(folder)):
        if _STAGED.fullmatch(entry.name):
            os.unlink(entry.path)


def digest_of(facts: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest, as hexadecimal: of all its keys but `digest`, as JSON with sorted keys."""
    content = {key: value for key, value in facts.items() if key != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(facts: Mapping[str, Any]) -> None:
    """Raise ValueError unless the manifest has the content of its digest, and files inside the folder."""
    files = facts.get("files")
    if not isinstance(files, dict) or facts.get("digest") != digest_of(facts):
        raise ValueError("its content does not have the digest that it states")
    if any(PurePosixPath(name).name != name or not isinstance(digest, str) for name, digest in files.items()):
        raise ValueError("it names a file outside its folder")


def _stage(folder: Path, files: Mapping[str, bytes], digests: Mapping[str, str]) -> None:
    for name, data in files.items():
        write_bytes(_staged(folder / name, digests[name]), data, sync=True)


def _replace(folder: Path, manifest: str, facts: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    """Replace the manifest, which makes the staged files the state, and move them to their names."""
    content = {**facts, "files": dict(digests)}
    content["digest"] = digest_of(content)
    write_bytes(folder / manifest, (json.dumps(content, indent=2) + "\n").encode(), sync=True)
    _move(folder, digests)


def _move(folder: Path, digests: Mapping[str, str]) -> None:
    moved = False
    for name, digest in digests.items():
        with suppress(FileNotFoundError):
            os.replace(_staged(folder / name, digest), folder / name)
            moved = True
    if moved:
        sync_folder(folder)


def _staged(path: Path, digest: str) -> Path:
    return path.with_name(f".{path.stem}-{digest[:16]}.staged{path.suffix}")
