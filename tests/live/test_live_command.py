"""`mien live` as a process: Ctrl-C, a pipe that closes, sources that break off, and wrong usage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import mien
from mien.cli.live_command import _notice
from mien.cli.main import app
from mien.live.sources import find_source


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mien", "live", *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    )


def test_a_signal_ends_the_session_with_a_complete_file(clip: Path, tmp_path: Path) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    folders = [tmp_path / number.name for number in numbers]
    for folder in folders:
        folder.mkdir()

    def end(number: signal.Signals, folder: Path) -> tuple[str, str]:
        """Send the signal after the first line; returns the other lines and what stderr says."""
        process = start(str(clip), "--record", "rows.parquet", "--json", "--speed", "0.3", cwd=folder)
        assert process.stdout is not None
        assert process.stderr is not None
        first = json.loads(process.stdout.readline())
        process.send_signal(number)
        # Not by communicate(), which passes over the lines that readline() has already taken from the pipe.
        rest, notes = process.stdout.read(), process.stderr.read()
        assert process.wait(timeout=240) == 0, notes
        assert (first["time_s"], first["frame"], first["subject"]) == (0.0, 0, 0)
        return rest, notes

    with ThreadPoolExecutor(2) as pool:  # both at once, because a start takes longer than the rest
        results = list(pool.map(end, numbers, folders))
    for (rest, notes), folder in zip(results, folders, strict=True):
        assert "Traceback" not in notes
        assert "Pictures and sound are dropped at once; none is stored or sent." in notes
        assert "Rows go to rows.parquet." in notes
        timeline = mien.Timeline.read(folder / "rows.parquet")
        assert len(timeline) == 1 + len(rest.splitlines())
        assert timeline.table["time_s"].to_list()[-1] < 2.9, "it ended before the clip"
        assert timeline.info["live"]["frames"] == timeline.table["frame"].n_unique() + timeline.info["live"]["dropped"]
        assert [p.name for p in folder.iterdir()] == ["rows.parquet"], "and nothing else was written"


def test_as_fast_as_possible_gives_the_whole_file(clip: Path, tmp_path: Path) -> None:
    process = start(str(clip), "--speed", "0", "--record", "rows.parquet", cwd=tmp_path)
    out, notes = process.communicate(timeout=240)
    assert process.returncode == 0, notes
    assert "90 rows, in rows.parquet; 90 frames, 0 dropped" in out
    whole, live = mien.predict(clip).table, mien.Timeline.read(tmp_path / "rows.parquet")
    assert live.table["frame"].to_list() == whole["frame"].to_list()
    assert (live.info["live"]["dropped"], live.info["live"]["source"]) == (0, "file")
    assert live.media == str(clip)


def test_a_pipe_that_closes_ends_the_session(clip: Path, tmp_path: Path) -> None:
    process = start(str(clip), "--record", "rows.parquet", "--json", "--speed", "0.3", cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=240) == 128 + signal.SIGPIPE
    assert mien.Timeline.read(tmp_path / "rows.parquet").table["time_s"].to_list()[-1] < 2.9, "it ended before the clip"
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, ""),
        (("missing.mp4",), 1, "missing.mp4 does not exist"),
        (("/dev/video97", "--no-voice"), 1, "/dev/video97 cannot be opened"),
        (("http://127.0.0.1:9/x", "--no-voice"), 1, "http://127.0.0.1:9/x cannot be opened"),
        (("0", "--no-face", "--no-voice"), 2, "together they leave nothing"),
        (("http://127.0.0.1:9/x", "--speed", "2"), 2, "comes at its own speed"),
        (("CLIP", "--record", "rows.csv"), 2, "--record rows.csv"),
        (("CLIP", "--osc", "nowhere"), 2, "--osc nowhere"),
        (("CLIP", "--lsl", "--lsl-scope", "world"), 2, "world"),
        (("CLIP", "--lsl-scope", "link"), 2, "it needs --lsl"),
        (("CLIP", "--microphone", "none"), 2, "brings its own sound; --no-voice leaves it out"),
        (("CLIP", "--size", "640x480"), 2, "--size and --rate are for cameras"),
        (("http://127.0.0.1:9/x", "--rate", "10"), 2, "--size and --rate are for cameras"),
        (("CLIP", "--delay", "0.01"), 2, "--delay"),
    ],
)
def test_wrong_usage_is_said_before_anything_starts(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["live", *[str(clip) if a == "CLIP" else a for a in arguments]])
    assert done.exit_code == code, done.output
    assert message in " ".join(done.output.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "arguments", "first"),
    [
        ("0", {}, "The camera and the microphone are on until you press Ctrl-C."),
        ("0", {"microphone": "none"}, "The camera is on until you press Ctrl-C."),
        ("0", {"pictures": False}, "The microphone is on until you press Ctrl-C."),
        ("screen", {}, "The screen is read, and the microphone is on until you press Ctrl-C."),
        ("screen", {"pictures": False}, "The microphone is on until you press Ctrl-C."),
        ("http://host/live", {}, "The source is read until you press Ctrl-C."),
        ("CLIP", {}, "The file is played to its end, or until you press Ctrl-C."),
    ],
)
@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_first_line_says_what_is_on(
    clip: Path, monkeypatch: pytest.MonkeyPatch, source: str, arguments: dict[str, Any], first: str, platform: str
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    found = find_source(str(clip) if source == "CLIP" else source, platform=platform, **arguments)
    wants = (arguments.get("pictures", True), arguments.get("microphone") != "none")
    assert _notice(found, wants, None, [])[0].startswith(first)


def test_help_says_what_is_on_and_what_leaves_the_computer() -> None:
    text = " ".join(CliRunner().invoke(app, ["live", "--help"]).output.split())
    for part in (
        "The camera and the microphone are on until you press Ctrl-C.",
        "nothing is stored, and nothing leaves the computer, unless you ask for --record, --osc or --lsl",
        "never a picture or a sound",
        "mien live 0 --record today.parquet",
    ):
        assert part in text, part


def test_devices_are_listed_or_said_to_be_none() -> None:
    done = CliRunner().invoke(app, ["live", "--devices"])
    assert done.exit_code == 0
    assert "device" in done.output or "no camera and no microphone was found" in done.output
