"""`mien doctor`: is everything here that a prediction needs?"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

#: Distributions whose versions matter when something goes wrong.
PARTS = (
    "mien",
    "torch",
    "numpy",
    "polars",
    "av",
    "opencv-python-headless",
    "ai-edge-litert",
    "onnxruntime",
    "silero-vad",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. state: `ok`, `note` (works without), or `bad` (a prediction would fail)."""

    name: str
    state: str
    says: str


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Look at versions, processors, artefacts, decoders and the starter model. Exit code 1 if something is missing."""
    from rich.text import Text

    from mien.cli import console

    checks = [check for look in (_machine, _versions, _artefacts, _decoder, _starter) for check in _safe(look)]
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        screen = console.out()
        for check in checks:
            mark, style = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "bad": ("BAD ", "bold red")}[
                check.state
            ]
            screen.print(Text.assemble((mark, style), f"  {check.name:12}", check.says))
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


def _safe(look: Callable[[], list[Check]]) -> list[Check]:
    """A doctor who falls ill at the sight of an illness helps nobody."""
    try:
        return look()
    except Exception as error:
        return [Check(look.__name__.strip("_"), "bad", f"{type(error).__name__}: {error}")]


def _machine() -> list[Check]:
    import torch

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device"
    return [
        Check("system", "ok", f"{platform.platform()}, Python {platform.python_version()} at {sys.executable}"),
        Check("processors", "ok", f"{processors} usable, torch uses {torch.get_num_threads()} threads; {cuda}"),
    ]


def _versions() -> list[Check]:
    from importlib.metadata import PackageNotFoundError, version

    found, missing = [], []
    for name in PARTS:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    checks = [Check("versions", "ok", ", ".join(found))]
    return [*checks, Check("versions", "bad", f"not installed: {', '.join(missing)}")] if missing else checks


def _artefacts() -> list[Check]:
    from mien import hub

    checks = []
    for row in hub.verify():
        needed = row.artefact.name in ("blazeface", "facemesh")
        if row.problem:
            checks.append(Check(row.artefact.name, "bad", row.problem))
        elif row.path:
            checks.append(Check(row.artefact.name, "ok", f"verified, {row.path}"))
        else:
            without = "faces cannot be read without it" if needed else f"optional: {row.artefact.use}"
            says = f"not here ({without}); mien hub pull {row.artefact.name}"
            checks.append(Check(row.artefact.name, "bad" if needed else "note", says))
    return checks


def _decoder() -> list[Check]:
    """Encodes and decodes a few frames in memory: what a prediction and its report rely on."""
    import io

    import av
    import numpy as np

    memory = io.BytesIO()
    with av.open(memory, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in (0, 80, 160):
            picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    memory.seek(0)
    with av.open(memory, "r") as written:
        frames = len(list(written.decode(video=0)))
    state = "ok" if frames == 3 else "bad"
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    return [Check("decoder", state, f"H.264 written and read back, {frames} of 3 frames (libavcodec {ffmpeg})")]


def _starter() -> list[Check]:
    from mien import checkpoint

    loaded = checkpoint.load("starter")
    weights = sum(p.numel() for p in loaded.model.parameters())
    return [Check("starter", "ok", f"{weights:,} weights, classes {', '.join(loaded.labels)}")]
