"""Calls that only some platforms have: their absence is simulated, and the source searched for unguarded ones."""

from __future__ import annotations

import ast
import ctypes
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mien
from mien import atomic, memory, processes

ROOT = Path(mien.__file__).parent
#: What Windows or macOS lacks, in `os`, `signal`, `mmap` and as modules.
ABSENT = {
    "os": {
        "O_DIRECTORY", "O_NOFOLLOW", "chown", "fchmod", "fork", "geteuid", "getpgid", "getuid", "killpg", "mkfifo",
        "posix_fadvise", "sched_getaffinity", "setsid", "statvfs", "sysconf", "uname",
    },
    "signal": {"SIGALRM", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "alarm", "pthread_sigmask", "setitimer"},
    "mmap": {"MADV_DONTNEED", "MADV_WILLNEED", "MAP_SHARED"},
}  # fmt: skip
MODULES = {"fcntl", "grp", "pwd", "resource", "termios"}


def unguarded(path: Path) -> list[str]:
    """Uses of `ABSENT` and `MODULES` in a file that no `hasattr`, platform check or `except` of their absence guards.

    A guard is an `if`, conditional expression or `try` around the use, or an `if` that leaves its function before it.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.attr not in ABSENT.get(node.value.id, ()):
                continue
            name = f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Import) and (modules := {a.name for a in node.names} & MODULES):
            name = modules.pop()
        else:
            continue
        if not is_guarded(node, parents):
            found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    return found


def is_guarded(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> bool:
    inner = node
    while inner in parents:
        outer = parents[inner]
        if isinstance(outer, ast.If | ast.IfExp) and checks(outer.test):
            return True
        if isinstance(outer, ast.Try) and any(map(catches_absence, outer.handlers)):
            return True
        if isinstance(outer, ast.FunctionDef):
            before = outer.body[: outer.body.index(inner)] if inner in outer.body else []
            return any(isinstance(s, ast.If) and checks(s.test) and isinstance(s.body[-1], ast.Return) for s in before)
        inner = outer
    return False


def catches_absence(handler: ast.ExceptHandler) -> bool:
    caught = ast.unparse(handler.type) if handler.type else "AttributeError"
    return "ImportError" in caught or "AttributeError" in caught


def checks(test: ast.expr) -> bool:
    return any(word in ast.unparse(test) for word in ("hasattr(", "sys.platform", "os.name"))


def test_no_call_that_windows_or_macos_lacks_is_unguarded() -> None:
    assert [use for path in sorted(ROOT.rglob("*.py")) for use in unguarded(path)] == []


def test_the_search_finds_what_is_unguarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "file.py"
    file.write_text(
        "import os, resource\n"
        "def one(): return os.getuid()\n"
        "def two(): return os.getuid() if hasattr(os, 'getuid') else 0\n"
        "def three():\n    if not hasattr(os, 'fork'):\n        return 0\n    return os.fork()\n"
        "try:\n    import fcntl\nexcept ImportError:\n    fcntl = None\n"
    )
    assert unguarded(file) == ["file.py:1: resource", "file.py:2: os.getuid"]


# --- Windows ---


def as_on_windows(name: object) -> None:
    raise TypeError("argument of type 'NoneType' is not iterable")  # ctypes.CDLL(None) on Windows


def test_freed_memory_is_left_alone_without_a_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", as_on_windows)
    memory.release_freed_memory()
    memory.keep_freed_memory()


def test_freed_memory_is_left_alone_by_a_c_library_other_than_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())  # macOS
    memory.release_freed_memory()
    memory.keep_freed_memory()


def test_memory_maps_without_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(memory.mmap, "MADV_DONTNEED")
    np.arange(5000, dtype=np.float32).tofile(tmp_path / "a")
    mapped = np.memmap(tmp_path / "a", np.float32, "r")
    memory.release_pages(mapped)
    assert mapped[4999] == 4999


def test_a_file_is_committed_where_folders_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "O_DIRECTORY")
    (tmp_path / "new").write_text("new")
    atomic.commit(tmp_path / "new", tmp_path / "old", sync=True)
    assert (tmp_path / "old").read_text() == "new"


def test_processors_are_counted_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.usable_processors() == len(os.sched_getaffinity(0))
    monkeypatch.delattr(os, "sched_getaffinity")
    assert processes.usable_processors() == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert processes.usable_processors() == 1


def test_whether_a_process_runs() -> None:
    assert processes.is_running(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert processes.is_running(child.pid)
    child.communicate(b"\n")
    assert not processes.is_running(child.pid)


@pytest.mark.parametrize(
    ("handle", "error", "waited", "expected"),
    [(7, 0, 0x102, True), (7, 0, 0, False), (0, 5, 0, True), (0, 87, 0, False)],
    ids=["runs", "has ended", "of another user", "unknown"],
)
def test_whether_a_process_runs_is_asked_of_windows_without_a_signal(
    handle: int, error: int, waited: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    class Call:
        def __init__(self, result: int) -> None:
            self.result = result

        def __call__(self, *arguments: object) -> int:
            return self.result

    kernel = SimpleNamespace(OpenProcess=Call(handle), WaitForSingleObject=Call(waited))
    kernel.CloseHandle = Call(1)
    kernel.CloseHandle.__class__ = type("Close", (Call,), {"__call__": lambda self, h: closed.append(h)})
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", lambda *a, **k: kernel, raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: error, raising=False)
    monkeypatch.setattr(os, "kill", lambda *a: pytest.fail("os.kill(process, 0) sends Ctrl-C on Windows"))
    assert processes.is_running(123) is expected
    assert closed == ([handle] if handle else [])


def test_no_process_is_started_by_forking() -> None:
    """Windows and macOS spawn; a fork also copies the locks of threads."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sorted(ROOT.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith(("get_context", "set_start_method"))
        and [ast.unparse(a) for a in node.args] != ["'spawn'"]
    ]
    assert found == []
    assert "spawn" in multiprocessing.get_all_start_methods()


# --- LiteRT ---


def test_opencv_runs_the_face_networks_where_litert_has_no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.faces import tflite

    for name in ("ai_edge_litert", "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    assert tflite.default_backend() == "cv2"
