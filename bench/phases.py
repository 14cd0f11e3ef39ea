"""Benchmark phases: each runs as a process of its own and prints its measurements as one line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run_phase(script: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run `script` with arguments and return the JSON of its last line. Exits with its error output if it fails."""
    command = [sys.executable, script, *arguments]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr[-3000:]}")
    measurements: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return measurements


def memory_mb() -> tuple[float, float]:
    """Memory of this process in MB: peak resident size, and current resident size without file pages."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(status["VmHWM"].split()[0]) / 1024, int(status["RssAnon"].split()[0]) / 1024
