"""Scratch files: unique names, removal of those of ended processes, and permissions of files with faces."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mien import processes, scratch
from mien.atomic import atomic_path, check_folder, write_bytes
from mien.errors import OutputError
from mien.media.mp4_writer import write_video

POSIX = pytest.mark.skipif(os.name == "nt", reason="permissions of Unix")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def usual_umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def ended_process() -> int:
    """The number of a process that has ended."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    return int(done.stdout)


def test_every_call_gives_another_name_also_in_threads(tmp_path: Path) -> None:
    names: list[Path] = []
    threads = [
        threading.Thread(target=lambda: names.extend(scratch.temporary_path(tmp_path / "a.csv") for _ in range(200)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 1600
    assert all(name.parent == tmp_path and name.suffix == ".csv" and name.name[0] == "." for name in names)


def test_threads_write_one_file_and_it_is_always_whole(tmp_path: Path) -> None:
    target, contents = tmp_path / "a.bin", [bytes([i]) * 50_000 for i in range(6)]
    errors: list[Exception] = []

    def write(data: bytes) -> None:
        try:
            for _ in range(20):
                write_bytes(target, data)
                assert target.read_bytes() in contents
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert list(tmp_path.iterdir()) == [target]


def test_long_and_strange_names_stay_within_the_limit_of_file_systems(tmp_path: Path) -> None:
    for stem in ("a" * 250, "ü" * 120, "a.b.c", "日" * 80):
        temporary = scratch.temporary_path(tmp_path / f"{stem}.html")
        assert len(os.fsencode(temporary.name)) <= 255
        assert scratch._NAME.fullmatch(temporary.name)


def test_only_files_of_ended_processes_of_this_host_are_removed(tmp_path: Path) -> None:
    own = scratch.temporary_path(tmp_path / "clip.mp4")
    process, name = ended_process(), own.name
    dead = own.with_name(name.replace(f".{os.getpid()}-", f".{process}-"))
    living = own.with_name(name.replace(f".{os.getpid()}-", f".{os.getppid()}-"))
    elsewhere = own.with_name(f".clip.other-host.{process}-abcdef.0.part.mp4")
    numbered_again = own.with_name(name.replace(scratch._RUN, "0" * 6))  # this number, an earlier process
    others = [tmp_path / n for n in ("clip.mp4", ".part", ".x.part", ".a.b.c.part", ".notes.part.txt", ".a.b.1.x.part")]
    for path in (own, dead, living, elsewhere, numbered_again, *others):
        path.write_bytes(b"face")
    dead_folder = own.with_name(dead.name.replace(".mp4", ""))
    (dead_folder / "inner").mkdir(parents=True)
    check_folder(tmp_path)
    assert {p for p in (own, dead, living, elsewhere, numbered_again, dead_folder, *others) if not p.exists()} == {
        dead,
        dead_folder,
        numbered_again,
    }
    os.utime(elsewhere, (0, 0))
    with atomic_path(tmp_path / "other.csv") as temporary:
        temporary.write_text("x")
    assert not elsewhere.exists(), "older than a day"


@POSIX
def test_what_a_killed_report_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom mien.atomic import atomic_path\n"
        "with atomic_path(Path(sys.argv[1]), private=True) as scratch:\n"
        "    scratch.write_text('a face'); print('written', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "report.html")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    (left,) = tmp_path.iterdir()
    assert mode(left) == 0o600, "while it is written"
    check_folder(tmp_path)
    assert left.exists(), "its process runs"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    check_folder(tmp_path)
    assert not list(tmp_path.iterdir())


@POSIX
@pytest.mark.parametrize(
    ("folder_mode", "expected"),
    [(0o755, 0o600), (0o700, 0o600), (0o1777, 0o600), (0o2755, 0o644), (0o2770, 0o640), (0o777, 0o644)],
    ids=["usual", "private", "like /tmp", "setgid", "setgid for a group", "open to all"],
)
def test_a_private_file_is_for_the_user_unless_the_folder_is_shared(
    tmp_path: Path, folder_mode: int, expected: int
) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    folder.chmod(folder_mode)
    if mode(folder) != folder_mode:
        pytest.skip("this file system does not keep the setgid bit")
    with atomic_path(folder / "report.html", private=True) as temporary:
        assert mode(temporary) == expected
        temporary.write_text("a face")
    assert mode(folder / "report.html") == expected
    with atomic_path(folder / "timeline.csv") as temporary:
        temporary.write_text("numbers")
    assert mode(folder / "timeline.csv") == 0o644


@POSIX
def test_a_group_that_is_not_the_users_own_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o770)
    assert scratch.private_mode(tmp_path / "a.html") == 0o600, "a group of the user alone, as with a umask of 002"
    monkeypatch.setattr(os, "getgid", lambda: tmp_path.stat().st_gid + 1)
    assert scratch.private_mode(tmp_path / "a.html") == 0o660


@POSIX
def test_a_file_that_the_user_opened_to_others_stays_open(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    for given in (0o664, 0o640):
        report.write_text("earlier")
        report.chmod(given)
        with atomic_path(report, private=True) as temporary:
            temporary.write_text("later")
        assert (report.read_text(), mode(report)) == ("later", given)


@POSIX
def test_a_link_to_a_file_does_not_give_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "open").write_text("x")
    (tmp_path / "report.html").symlink_to(tmp_path / "open")
    assert scratch.private_mode(tmp_path / "report.html") == 0o600


@POSIX
def test_a_private_video_is_private_from_its_first_byte(tmp_path: Path) -> None:
    import numpy as np

    seen: list[int] = []

    def pictures() -> object:
        for _ in range(3):
            seen.extend(mode(path) for path in tmp_path.iterdir())
            yield np.zeros((16, 16, 3), np.uint8)

    write_video(tmp_path / "overlay.mp4", pictures(), times=[0, 0.1, 0.2], private=True)  # type: ignore[arg-type]
    assert seen
    assert set(seen) == {0o600}
    assert mode(tmp_path / "overlay.mp4") == 0o600
    write_video(tmp_path / "plain.mp4", pictures(), times=[0, 0.1, 0.2])  # type: ignore[arg-type]
    assert mode(tmp_path / "plain.mp4") == 0o644


def test_a_process_that_cannot_be_asked_counts_as_running(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.is_running(os.getpid())
    assert not processes.is_running(2**40)

    def refuse(process: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert processes.is_running(1)


def test_a_folder_that_cannot_be_made_is_named_itself(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(OutputError, match=r"^the folder \S+taken could not be written: \S+taken is a file"):
        check_folder(tmp_path / "taken")
