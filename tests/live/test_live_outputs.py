"""Outputs of a live prediction: the growing file, OSC and LSL received on loopback, the terminal view."""

from __future__ import annotations

import errno
import io
import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_server import BlockingOSCUDPServer
from rich.console import Console

import mien
from mien.cli.live_display import LinesDisplay
from mien.errors import ConfigError, OutputError
from mien.labels import EXPRESSIONS, probability_column
from mien.live import recorder as recorder_module
from mien.live.recorder import Recorder
from mien.live.run import LiveFacts
from mien.live.senders import LslSender, OscSender, parse_osc
from mien.timeline.columns import schema
from mien.timeline.subject_rows import subject_rows
from mien.views.live import LiveState


def make_rows(count: int, *, subject: int = 0, start_s: float = 0.0, seen: bool = True) -> list[dict[str, Any]]:
    """Rows at 10 Hz with Happiness at 70 %; without an estimate if not seen."""
    share = np.full((count, 8), 0.3 / 7)
    share[:, EXPRESSIONS.index("Happiness")] = 0.7
    return subject_rows(
        subject,
        start_s + np.arange(count) / 10,
        probabilities=share if seen else np.full((count, 8), np.nan),
        valence_arousal=np.full((count, 2), [0.5, -0.25]) if seen else np.full((count, 2), np.nan),
        voice=np.zeros(count, bool),
        face=np.full(count, seen),
        boxes=np.tile([10.0, 20.0, 30.0, 40.0], (count, 1)),
        frames=np.arange(count),
    ).to_dicts()


# --- the file ---


def test_a_recording_is_a_timeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "GROUP_ROWS", 50)
    path, rows = tmp_path / "today.parquet", make_rows(120) + make_rows(120, subject=1, seen=False)
    with Recorder(path, EXPRESSIONS, media="") as recorder:
        for start in range(0, len(rows), 7):
            recorder.add(rows[start : start + 7])
            assert sum(len(part) for part in recorder._waiting) < 50, "memory holds one row group"
        assert not path.exists(), "a name is given to complete files only"
        recorder.notes.append("the camera was away")
        recorder.info = {"model": "starter", "live": {"dropped": 3}}
    timeline = mien.Timeline.read(path)
    assert timeline.table.equals(pl.DataFrame(rows, schema=schema()).sort("subject", "time_s"))
    assert timeline.classes == tuple(EXPRESSIONS)
    assert (timeline.notes, timeline.info["live"]) == (("the camera was away",), {"dropped": 3})
    assert [p.name for p in tmp_path.iterdir()] == ["today.parquet"]
    import pyarrow.parquet as pq

    assert pq.ParquetFile(path).num_row_groups == 5


def test_what_was_recorded_is_kept_when_the_session_fails(tmp_path: Path) -> None:
    path = tmp_path / "today.parquet"

    def fail() -> None:
        with Recorder(path, EXPRESSIONS) as recorder:
            recorder.add(make_rows(5))
            raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError):
        fail()
    assert len(mien.Timeline.read(path)) == 5


def test_a_session_without_rows_is_a_file_without_rows(tmp_path: Path) -> None:
    with Recorder(tmp_path / "none.parquet", EXPRESSIONS):
        pass
    assert len(mien.Timeline.read(tmp_path / "none.parquet")) == 0


def test_a_recording_that_cannot_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--record today\.csv: a recording of rows is a Parquet file"):
        Recorder(Path("today.csv"), EXPRESSIONS)
    (tmp_path / "taken.parquet").mkdir()
    with pytest.raises(OutputError, match=r"is a directory.*\n.*\n.*Name another file with --record"):
        Recorder(tmp_path / "taken.parquet", EXPRESSIONS)
    recorder = Recorder(tmp_path / "full.parquet", EXPRESSIONS)
    recorder.add(make_rows(3))

    def no_space(table: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recorder._writer, "write_table", no_space)
    with pytest.raises(OutputError, match="No space left on device"):
        recorder.__exit__(None, None, None)


# --- other programs ---


def test_osc_rows_arrive_with_their_values() -> None:
    received: list[tuple[str, tuple[Any, ...]]] = []
    dispatcher = Dispatcher()
    dispatcher.set_default_handler(lambda address, *values: received.append((address, values)))
    with BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher) as server:
        server.timeout = 60
        sender = OscSender("127.0.0.1", server.server_address[1], EXPRESSIONS)
        row, missing = make_rows(1, subject=2, start_s=1e5)[0], make_rows(1, seen=False)[0]
        sender.send([row, missing], [0.5, 0.5])
        server.handle_request()
        first, received = dict(received), []
        server.handle_request()
        sender.close()
    assert first["/mien/2/time"] == (1e5, 0)
    assert first["/mien/2/expression"] == ("Happiness", pytest.approx(0.7))
    assert first["/mien/2/probabilities"] == pytest.approx([row[probability_column(n)] for n in EXPRESSIONS])
    assert first["/mien/2/affect"] == pytest.approx((0.5, -0.25))
    assert first["/mien/2/box"] == (10.0, 20.0, 30.0, 40.0)
    assert first["/mien/classes"] == tuple(EXPRESSIONS)
    second = dict(received)
    assert second["/mien/0/evidence"] == ("none",)
    assert "/mien/0/expression" not in second, "what is missing is not sent as a number"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("9000", ("127.0.0.1", 9000)), ("studio:57120", ("studio", 57120)), ("[::1]:9000", ("::1", 9000))],
)
def test_osc_goes_to_this_computer_unless_another_one_is_named(text: str, expected: tuple[str, int]) -> None:
    assert parse_osc(text) == expected


@pytest.mark.parametrize("text", ["", "host", "host:", "70000", "0", "host:port"])
def test_an_osc_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a port"):
        parse_osc(text)


def test_the_notice_says_where_rows_go() -> None:
    assert OscSender("127.0.0.1", 9, EXPRESSIONS).notice == "rows are sent to 127.0.0.1:9 on this computer"
    assert OscSender("::1", 9, EXPRESSIONS).notice.startswith("rows are sent to [::1]:9 on this computer")
    assert OscSender("192.0.2.1", 9, EXPRESSIONS).notice.endswith(", another computer")


def test_lsl_samples_arrive_with_their_names_and_times() -> None:
    pylsl = pytest.importorskip("pylsl")
    sender = LslSender(EXPRESSIONS, name="mien-test")
    found = pylsl.resolve_byprop("name", "mien-test", timeout=60)
    assert found, "the stream is announced on this computer"
    inlet = pylsl.StreamInlet(found[0])
    inlet.open_stream(timeout=60)
    row, before = make_rows(1, subject=3, start_s=42.0)[0], pylsl.local_clock()
    sender.send([row, *make_rows(1, seen=False)], [0.75, 0.75])
    after = pylsl.local_clock()
    values, at = inlet.pull_sample(timeout=60)
    assert before - 0.75 <= at <= after - 0.75, "the time of the row, not that of the sending"
    got = dict(zip(sender.channels, values, strict=True))
    assert (got["subject"], got["time_s"]) == (3, 42.0)
    assert got["p_happiness"] == pytest.approx(0.7)
    assert (got["valence"], got["arousal"]) == (0.5, -0.25)
    values, _ = inlet.pull_sample(timeout=60)
    assert math.isnan(dict(zip(sender.channels, values, strict=True))["valence"])
    label = inlet.info(timeout=60).desc().child("channels").first_child().child_value("label")
    assert label == "subject"
    inlet.close_stream()
    sender.close()


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pythonosc.udp_client", None)
    monkeypatch.setitem(__import__("sys").modules, "pylsl", None)
    with pytest.raises(ConfigError, match="--osc needs the package python-osc"):
        OscSender("127.0.0.1", 9, EXPRESSIONS)
    with pytest.raises(ConfigError, match="--lsl needs the package pylsl"):
        LslSender(EXPRESSIONS)


# --- the screen ---


def drawn(state: LiveState, *, height: int = 40, encoding: str = "utf-8") -> str:
    file = io.TextIOWrapper(io.BytesIO(), encoding)
    console = Console(file=file, width=100, height=height, force_terminal=True, color_system=None)
    console.print(state)
    file.flush()
    return file.buffer.getvalue().decode(encoding)


def test_the_view_shows_people_shares_and_the_delay() -> None:
    state = LiveState("camera 0", EXPRESSIONS, ["The camera is on."])
    assert "nobody yet" in drawn(state)
    state.add(make_rows(60) + make_rows(1, subject=1, start_s=5.9, seen=False))
    state.delay_s, state.frames, state.dropped, state.elapsed_s = 0.42, 1234, 5, 61.0
    text = drawn(state)
    for part in (
        "camera 0", "1:01.0", "delay 0.42 s", "1,234 frames", "5 dropped", "61 rows", "The camera is on.",
        "Person 0  Happiness 70% · face", "Person 1  no estimate · nobody seen or heard", "valence", "+0.50", "-0.25",
    ):  # fmt: skip
        assert part in text, part
    line = next(line for line in text.splitlines() if "Happiness ━" in line)
    assert line.count("━") == 14, "70 % of 20 characters"
    assert state.bands[0] == ["Happiness"] * 12, "one character for each half second"
    state.state = "the source broke off; trying again"
    assert "waiting  the source broke off; trying again" in drawn(state)


def test_the_view_fits_old_terminals_and_small_ones() -> None:
    state = LiveState("camera 0", EXPRESSIONS)
    for subject in range(5):
        state.add(make_rows(10, subject=subject))
    text = drawn(state, encoding="ascii")
    assert text.isascii()
    assert "#" * 14 in text
    small = drawn(state, height=30)
    assert "Person 1" in small
    assert "Person 2" not in small
    assert "3 people more" in small


def test_the_view_forgets_who_is_away() -> None:
    state = LiveState("camera 0", EXPRESSIONS)
    state.add(make_rows(10))
    state.add(make_rows(10, subject=1, start_s=100.0))
    assert list(state.latest) == [1]
    state.add(make_rows(600, subject=1, start_s=101.0))
    assert len(state.bands[1]) == 60


def test_lines_for_a_pipe_are_rows_and_a_log_gets_a_state(capsys: pytest.CaptureFixture[str]) -> None:
    show = LinesDisplay("camera 0", ["The camera is on."], as_json=True)
    show.add(make_rows(2))
    show.update(LiveFacts())
    show.set_state("gone")
    show.set_state("gone")
    show.set_state("camera 0: the source broke off")  # as the errors of a reader begin
    show.set_state("")
    out, err = capsys.readouterr()
    assert [json.loads(line)["expression"] for line in out.splitlines()] == ["Happiness", "Happiness"]
    assert err.splitlines() == [
        "camera 0: The camera is on.", "camera 0: gone", "camera 0: the source broke off",
        "camera 0: the source is back",
    ]  # fmt: skip


def test_threads_may_set_the_state_while_the_view_is_drawn() -> None:
    state = LiveState("camera 0", EXPRESSIONS)
    thread = threading.Thread(target=lambda: setattr(state, "state", "away"))
    thread.start()
    drawn(state)
    thread.join()
    assert "away" in drawn(state)
