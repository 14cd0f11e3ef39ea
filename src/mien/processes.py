"""Processes of this machine, on Linux, macOS and Windows."""

from __future__ import annotations

import os
import sys


def is_running(process: int) -> bool:
    """Whether a process of this number is running here."""
    if sys.platform == "win32":
        return _is_running_on_windows(process)
    try:
        os.kill(process, 0)
    except OverflowError:  # no process has such a number
        return False
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def _is_running_on_windows(process: int) -> bool:
    """`is_running` by Windows' own calls: `os.kill(process, 0)` would send Ctrl-C there."""
    import ctypes

    synchronise, access_denied, timed_out = 0x00100000, 5, 0x102
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    kernel.OpenProcess.restype = ctypes.c_void_p
    kernel.WaitForSingleObject.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    kernel.CloseHandle.argtypes = (ctypes.c_void_p,)
    handle = kernel.OpenProcess(synchronise, False, process)
    if not handle:
        return bool(ctypes.get_last_error() == access_denied)  # type: ignore[attr-defined,unused-ignore]
    try:
        return bool(kernel.WaitForSingleObject(handle, 0) == timed_out)
    finally:
        kernel.CloseHandle(handle)


def forbid_core_dumps() -> None:
    """Write no memory dump of this process where it crashes: it would hold the recording. Windows writes none."""
    try:
        import resource
    except ImportError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def usable_processors() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
