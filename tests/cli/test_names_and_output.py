"""Names that terminals obey, outputs that are closed or full, and signals, with real processes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoint import save_tiny

from mien.cli.inputs import plan_jobs
from mien.printable import printable, printable_lines

#: Names with markup of rich, an emoji's code, escape sequences (CSI as one sign too), a line feed, a mark of writing
#: direction, HTML, and bytes that are not UTF-8.
NAMES = (
    b"a[b].wav", b"[red]c.wav", b":smile:.wav", b"\x1b[31md.wav", "\x9b31me.wav".encode(), b"f\ng.wav",
    "\u202eh.wav".encode(), "Привет.wav".encode(), b"<img src=x>'\".wav", b"\xff\xfei.wav",
)  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model") / "tiny"))


def write_sound(path: Path | bytes, seconds: float = 0.3) -> None:
    with open(path, "wb") as file:
        soundfile.write(file, np.zeros(int(seconds * 16_000), np.float32), 16_000, format="WAV")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    for name in NAMES:
        write_sound(os.fsencode(folder) + b"/" + name)
    return folder


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "mien", *map(str, words)]


def predict_command(model: str, recordings: Path, out: Path, *words: object) -> list[str]:
    return command("predict", recordings, "--model", model, "--out", out, "--no-face", "--device", "cpu", *words)


# ---------------------------------------------------------------- names


@pytest.fixture(scope="module")
def printed(model: str, recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """Folder of results, and what a terminal of 8 bits a letter was sent, for recordings with names of every kind."""
    out = tmp_path_factory.mktemp("out")
    leader, follower = pty.openpty()
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    words = predict_command(model, recordings, out / "all", "--report")
    process = subprocess.Popen(words, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    sent = bytearray()
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:  # the terminal's other end is closed
            break
        sent += part
    os.close(leader)
    assert process.wait() == 0, sent.decode(errors="replace")
    return out / "all", bytes(sent)


def test_no_sequence_of_a_name_reaches_the_terminal(printed: tuple[Path, bytes]) -> None:
    sent = printed[1].replace(b"\r\n", b"")
    for escape in (b"\x1b[31md", "\x9b".encode(), "\u202e".encode(), b"\xff"):
        assert escape not in sent, escape
    for shown in (rb"\x1b[31md.wav", rb"\x9b31me.wav", rb"f\ng.wav", rb"\u202eh.wav", rb"\udcff\udcfei.wav"):
        assert shown in sent, shown


def test_markup_in_names_is_printed_as_it_is(printed: tuple[Path, bytes]) -> None:
    sent = printed[1].replace(b"\r\n", b"")
    for name in (b"a[b].wav", b"[red]c.wav", b":smile:.wav"):
        assert name in sent, name


def test_every_name_has_its_results(printed: tuple[Path, bytes]) -> None:
    out = printed[0]
    folders = {os.fsencode(path.name) for path in out.iterdir() if path.is_dir()}
    assert folders == {name.removesuffix(b".wav") for name in NAMES}
    for folder in out.iterdir():
        if folder.is_dir():
            record = json.loads((folder / "timeline.json").read_text(encoding="utf-8"))
            assert Path(record["media"]["path"]).stem == folder.name
            assert (folder / "report.html").stat().st_size > 10_000
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "<img src=x>" not in page
    assert "%FF%FEi/report.html" in page


def test_json_in_an_encoding_of_8_bits_is_read_back(model: str, recordings: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    words = predict_command(model, recordings, tmp_path, "--json")
    done = subprocess.run(words, capture_output=True, env=environment, check=True)
    results = json.loads(done.stdout.decode("cp1252"))["results"]
    assert {os.fsencode(Path(result["media"]).name) for result in results} == set(NAMES)


@pytest.mark.parametrize("word", ["predict", "recipes", "hub"])
def test_help_in_an_encoding_of_8_bits(word: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command(word, "--help"), capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode("cp1252")
    assert "Usage" in done.stdout.decode("cp1252")


@pytest.mark.parametrize("name", ["...wav", "..wav", "....wav"])
def test_a_name_of_dots_stays_inside_the_output_folder(tmp_path: Path, name: str) -> None:
    (job,) = plan_jobs([tmp_path / name], tmp_path / "out").jobs
    assert job.folder.resolve().parent == (tmp_path / "out").resolve()


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from("./\\ab-"), min_size=1, max_size=6), min_size=1, max_size=5))
def test_every_name_gives_a_folder_of_its_own_inside(names: list[str]) -> None:
    # An absolute name such as /.. would search the whole disk.
    relative = [name.lstrip("/") for name in names]
    paths = [Path("in") / name for name in relative if Path(name).name]
    jobs = plan_jobs(paths, Path("out")).jobs
    assert len({job.folder for job in jobs}) == len(jobs)
    for job in jobs:
        assert Path(os.path.normpath(job.folder)).parent == Path("out"), job.folder


@settings(deadline=None)
@given(st.text())
def test_printable_text_has_no_controls_and_keeps_the_rest(text: str) -> None:
    shown = printable(text)
    assert not any(ord(sign) < 32 or 127 <= ord(sign) < 160 for sign in shown)
    shown.encode("utf-8")
    if text.isprintable():
        assert shown == text
    assert printable_lines(text).count("\n") == text.count("\n")


# ---------------------------------------------------------------- outputs


def test_a_reader_that_ends_first_ends_the_command_quietly() -> None:
    process = subprocess.Popen(command("recipes"), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 128 + signal.SIGPIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("words", [("recipes",), ("recipes", "--json"), ("--version",)])
def test_a_full_output_is_an_error_with_its_cause(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(command(*words), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "standard output could not be written: no space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


# ---------------------------------------------------------------- signals


def test_ctrl_c_during_the_imports_prints_no_traceback() -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "mien", "recipes"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any("mien.cli" in line for line in lines)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait() in (-signal.SIGINT, 128 + signal.SIGINT)
    assert "Traceback" not in rest
    assert "KeyboardInterrupt" not in rest


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGINT, "interrupted by Ctrl-C"),
        (signal.SIGTERM, "ended by SIGTERM"),
        (signal.SIGHUP, "its terminal was closed"),
    ],
)
def test_a_signal_ends_a_run_with_a_message_and_without_remains(
    tmp_path: Path, number: signal.Signals, said: str
) -> None:
    process = subprocess.Popen(
        command("demo", tmp_path, "--seconds", 8), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # it may be ignored here, as under nohup
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob(".*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(tmp_path.glob(".*")), "no file is being written"
    process.send_signal(number)
    error = process.communicate(timeout=240)[1]
    assert process.returncode == 128 + number
    assert said in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []
