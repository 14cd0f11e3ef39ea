"""`mien doctor`: check the installation."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import typer

from mien import extras
from mien.cli.options import JsonOption
from mien.processes import usable_processors

#: Packages of the base installation whose versions are reported. The first group is needed on every platform.
PACKAGES = ("mien", "numpy", "polars", "av", "opencv-python-headless", "onnxruntime")
#: It has no wheels for some platforms, where OpenCV runs the face networks.
LITERT = "ai-edge-litert"


@dataclass(frozen=True, slots=True)
class Check:
    """One result of `mien doctor`. state: `ok`, `note` (optional, and missing), or `bad` (prediction fails)."""

    name: str
    state: str
    detail: str


def doctor(as_json: JsonOption = False) -> None:
    """Check versions, hardware, extras, networks, decoder.

    Prints one line per check: ok, note (something optional is missing) or BAD (prediction fails), with what to do about
    it. Writes nothing. Exit code: 0 if nothing is BAD, else 1.

    \b
    Examples:
      mien doctor
      mien doctor --json
    """
    from rich.text import Text

    from mien.cli import console

    functions = (
        _check_machine, _check_versions, _check_extras, _check_artefacts, _check_decoder, _check_starter,
    )  # fmt: skip
    checks = [check for function in functions for check in _run(function)]
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        screen = console.stdout()
        width = max(len(check.name) for check in checks)
        marks = {"ok": ("ok  ", "green"), "note": ("note", "yellow"), "bad": ("BAD ", "bold red")}
        for check in checks:
            screen.print(Text.assemble(marks[check.state], f"  {check.name:{width}}  ", check.detail))
    if any(check.state == "bad" for check in checks):
        raise typer.Exit(1)


def _run(function: Callable[[], list[Check]]) -> list[Check]:
    """Run the function's checks; an exception of any kind becomes a failed check."""
    try:
        return function()
    except Exception as error:
        return [Check(function.__name__.removeprefix("_check_"), "bad", f"{type(error).__name__}: {error}")]


def _check_machine() -> list[Check]:
    processors = f"{usable_processors()} usable"
    if extras.is_installed("torch"):
        import torch

        cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no CUDA device"
        processors += f", torch uses {torch.get_num_threads()} threads; {cuda}"
    return [
        Check("system", "ok", f"{platform.platform()}, Python {platform.python_version()} at {sys.executable}"),
        Check("processors", "ok", processors),
    ]


def _check_versions() -> list[Check]:
    from importlib.metadata import PackageNotFoundError, version

    installed, missing = [], []
    for name in (*PACKAGES, LITERT, "torch"):
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    checks = [Check("versions", "ok", ", ".join(installed))]
    if lacking := [name for name in missing if name in PACKAGES]:
        checks.append(Check("versions", "bad", f"not installed: {', '.join(lacking)}; run: pip install mien"))
    if LITERT in missing:
        detail = f"{LITERT} is not installed (it has no wheels for some platforms): OpenCV runs the face networks, at "
        checks.append(Check("versions", "note", detail + "half the speed"))
    return checks


def _check_extras() -> list[Check]:
    """A line for each extra: whether its packages are here, else the command that installs them."""
    checks = []
    for extra, modules in extras.MODULES.items():
        missing = [module for module in modules if not extras.is_installed(module)]
        detail = f"all packages are installed; to {extras.USES[extra]}"
        if missing:
            detail = f"not installed: {', '.join(missing)}; to {extras.USES[extra]}, run: {extras.install(extra)}"
        checks.append(Check(extra, "note" if missing else "ok", detail))
    return checks


def _check_artefacts() -> list[Check]:
    from mien import hub

    checks = []
    for row in hub.verify():
        needed = row.artefact.name in hub.NEEDED
        if row.problem:
            checks.append(Check(row.artefact.name, "bad", row.problem))
        elif row.path:
            checks.append(Check(row.artefact.name, "ok", f"verified, {row.path}"))
        else:
            effect = f"needed: {row.artefact.use}" if needed else f"optional: {row.artefact.use}"
            detail = f"not downloaded ({effect}); run: mien hub pull {row.artefact.name}"
            checks.append(Check(row.artefact.name, "bad" if needed else "note", detail))
    return checks


def _check_decoder() -> list[Check]:
    """Encode and decode three frames in memory, as predictions and reports do."""
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
    return [Check("decoder", state, f"H.264 encoded and decoded, {frames} of 3 frames (libavcodec {ffmpeg})")]


def _check_starter() -> list[Check]:
    from mien import trained_model

    loaded = trained_model.load("starter")
    stages = ", ".join(loaded.stages) or "none"
    return [Check("starter", "ok", f"loaded, classes {', '.join(loaded.labels)}; stages: {stages}")]
