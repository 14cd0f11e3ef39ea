"""Folders whose files change in one step: a manifest states the digest of each file and is replaced last.

A manifest is a JSON object such as checkpoint.json. `files` maps names to SHA-256, and `digest` covers the whole
object, so that no part of it can change unnoticed. A save writes each new file under a name with its digest and its
process (`.weights-0123456789abcdef.HOST.PID-RUN.staged.safetensors`), then replaces the manifest, then moves the new
files to their own names. `State` finds a file under either name. At every moment the folder therefore holds the state
before the save or the one after it, complete.

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
from mien.atomic import commit, sync_file, sync_folder, write_bytes
from mien.errors import ConfigError
from mien.scratch import is_abandoned, process_name, remove_abandoned

_STAGED = re.compile(r"\.(.*)-([0-9a-f]{16})\.([^.]*)\.(\d+)-([0-9a-f]{6})\.staged((?:\.[^.]*)?)", re.DOTALL)
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
        staged = _find_staged(self.folder / name, self.files[name]) if name in self.files else None
        return staged or self.folder / name

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


def save(folder: Path, manifest: str, facts: Mapping[str, Any], files: Mapping[str, bytes | Path]) -> None:
    """Replace the state of a folder in one step.

    Args:
        facts: content of the manifest, without `files` and `digest`.
        files: name -> content, or a file on the same file system, which is moved. Files of the earlier state that are
            not named stay in the folder without being part of the new state.

    Raises OSError; the earlier state then remains, complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settle(folder, manifest)
    digests = {name: _digest(data) for name, data in files.items()}
    _write(folder, manifest, facts, files, digests, digests)


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
    if digests.items() <= state.files.items() and all(_has(folder / name, data) for name, data in files.items()):
        return
    content = {key: value for key, value in state.facts.items() if key not in ("files", "digest")}
    _write(folder, manifest, content, files, digests, state.files | digests)


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
    """Finish an interrupted save: move the files of the state to their names, and remove others that ended processes
    left.

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
        match = _STAGED.fullmatch(entry.name)
        if match and is_abandoned(Path(entry.path), match[3], int(match[4]), match[5]):
            Path(entry.path).unlink(missing_ok=True)


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


def _write(
    folder: Path,
    manifest: str,
    facts: Mapping[str, Any],
    files: Mapping[str, bytes | Path],
    digests: Mapping[str, str],
    state: Mapping[str, str],
) -> None:
    """Write the staged files; replace the manifest, which makes them the state; move them to their names.

    digests: of `files`. state: name -> digest of all files of the new state.
    """
    content = {**facts, "files": dict(state)}
    content["digest"] = digest_of(content)
    staged = {name: _staged(folder / name, digests[name]) for name in files}
    try:
        for name, path in staged.items():
            data = files[name]
            if isinstance(data, Path):
                sync_file(data)
                commit(data, path, sync=True)
            else:
                write_bytes(path, data, sync=True)
        write_bytes(folder / manifest, (json.dumps(content, indent=2) + "\n").encode(), sync=True)
    except BaseException:
        for path in staged.values():
            path.unlink(missing_ok=True)
        raise
    _move(folder, state)


def _move(folder: Path, digests: Mapping[str, str]) -> None:
    moved = False
    for name, digest in digests.items():
        with suppress(FileNotFoundError):  # another process moved it
            if (staged := _find_staged(folder / name, digest)) is not None:
                os.replace(staged, folder / name)
                moved = True
    if moved:
        sync_folder(folder)


def _digest(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _staged(path: Path, digest: str) -> Path:
    """The name under which this process writes a file before it is part of the state."""
    return path.with_name(f".{path.stem}-{digest[:16]}.{process_name()}.staged{path.suffix}")


def _find_staged(path: Path, digest: str) -> Path | None:
    """A file that an interrupted save, or one that goes on, wrote for `path`."""
    wanted = (path.stem, digest[:16], path.suffix)
    for name in os.listdir(path.parent):
        match = _STAGED.fullmatch(name) if ".staged" in name else None
        if match and (match[1], match[2], match[6]) == wanted:
            return path.with_name(name)
    return None
