"""Kill a process at its n-th file operation, so that tests can look at what it left."""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Functions of `os` that change a file system.
OPERATIONS = ("replace", "rename", "unlink", "remove", "fsync", "mkdir", "rmdir", "truncate", "link", "symlink")


class _File:
    """A file whose writes can be cut in half. Without a buffer, as a killed process does not flush one."""

    def __init__(self, file: Any, before: Callable[[], bool]) -> None:
        self._file, self._before = file, before

    def write(self, data: Any) -> int:
        raw = memoryview(data.encode() if isinstance(data, str) else data).cast("B")
        if self._before():
            self._file.write(raw[: len(raw) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        self._file.write(raw)
        return len(raw)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def killed_at(operation: int, action: Callable[[], object]) -> bool:
    """Run `action` in a forked process that is killed at its n-th file operation, counted from 0; a write is cut in
    half. Returns whether it was killed; otherwise the action ended before.

    Raises AssertionError if the action failed.
    """
    process = os.fork()
    if process == 0:
        code = 3
        try:
            _patch(operation)
            action()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0, "the action failed by itself"
    return False


def _patch(operation: int) -> None:
    done = 0

    def is_last() -> bool:
        nonlocal done
        done += 1
        return done > operation

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if is_last():
                os.kill(os.getpid(), signal.SIGKILL)
            return None if function.__name__ == "fsync" else function(*args, **options)  # slow, and not observed here

        return call

    real_open = io.open

    def open_counted(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wxa+") or isinstance(file, int) or options.get("opener"):
            return real_open(file, mode, *args, **options)
        binary = mode.replace("t", "").replace("b", "") + "b"
        return _File(real_open(file, binary, buffering=0), is_last)

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))
    shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
    io.open = builtins.open = open_counted  # type: ignore[assignment]


def every_cut(folder: Path, start: Callable[[Path], object], action: Callable[[Path], object]) -> list[Path]:
    """What is left in a new folder for each file operation of `action` at which it is killed.

    start: fills a folder before.
    """
    left: list[Path] = []
    for operation in range(1000):
        place = folder / f"{operation:03d}"
        start(place)
        if not killed_at(operation, lambda place=place: action(place)):  # type: ignore[misc]
            return left
        left.append(place)
    raise AssertionError("the action does not end")
