"""Two processes at once: predictions into one folder, extractions into one store, downloads into one cache."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import save_tiny
from typer.testing import CliRunner

from mien.cli.main import app
from mien.datasets.index import build_index
from mien.errors import OutputError
from mien.extract import extract
from mien.folder_lock import BusyError, lock_folder
from mien.media.mp4_writer import write_video
from mien.media.video import frames
from mien.store import FeatureStore
from mien.timeline.table import Timeline
from tests.extract.media_files import write_tones

ROOT = Path(__file__).parents[1]
SLOW = pytest.mark.timeout(300)
pytestmark = pytest.mark.skipif(os.name == "nt", reason="folders have no locks on Windows")


def start(*words: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]), **environment},
    )


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit codes and what was printed on stderr, in one line."""
    outputs = [process.communicate(timeout=240) for process in processes]
    return [(p.returncode, " ".join(err.split())) for p, (_, err) in zip(processes, outputs, strict=True)]


def test_a_folder_is_held_by_one_and_released_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with lock_folder(folder, writer="another run", remedy="Wait."):
        with (
            pytest.raises(BusyError, match=r"out: another run is writing there\nNothing was written\.\nWait\."),
            lock_folder(folder, writer="another run", remedy="Wait."),
        ):
            pass
        (folder / "result").touch()
    with lock_folder(folder, writer="another run", remedy="Wait."):
        (folder / "result").unlink()
    assert not folder.exists(), "an empty folder is not left"


@SLOW
def test_two_predictions_into_one_folder(tmp_path: Path) -> None:
    """One writes everything; the other says so, unless it began after the first had ended."""
    model = save_tiny(tmp_path / "tiny")
    n = 40
    pictures = (np.full((48, 64, 3), 90, np.uint8) for _ in range(n))
    write_video(tmp_path / "clip.mp4", pictures, times=[i / 25 for i in range(n)], audio=np.zeros(25_600, np.float32))
    words = ["-m", "mien", "predict", tmp_path / "clip.mp4", "--model", model, "--out", tmp_path / "out"]
    words += ["--no-face", "--device", "cpu", "--report", "--overlay"]
    with lock_folder(tmp_path / "out" / "clip", writer="the test", remedy="Wait."):
        refused = CliRunner().invoke(app, [str(word) for word in words[2:]])
        text = " ".join(refused.stderr.split())
        assert refused.exit_code == 1
        assert "another run of mien is writing there Nothing was written. try Wait until that run has ended" in text
        assert not list((tmp_path / "out" / "clip").iterdir())
    results = ends([start(*words), start(*words)])
    assert 0 in [code for code, _ in results]
    assert all(code == 0 or "another run of mien is writing there" in text for code, text in results), results
    out = tmp_path / "out" / "clip"
    assert sorted(p.name for p in out.iterdir()) == ["overlay.mp4", "report.html", "timeline.csv", "timeline.json"]
    assert len(Timeline.read(out / "timeline.csv")) == n
    assert sum(1 for _ in frames(out / "overlay.mp4")) == n, "whole"
    assert (out / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [oct(p.stat().st_mode & 0o777) for p in (out / "overlay.mp4", out / "report.html")] == ["0o600"] * 2


@SLOW
def test_two_extractions_into_one_store(tmp_path: Path) -> None:
    media, store = write_tones(tmp_path / "m", {f"c{i}": i / 10 for i in range(6)}), tmp_path / "s"
    index = build_index("folder", media)
    index.save(tmp_path / "i.jsonl")
    script = (
        "import sys\nfrom mien.datasets.index import Index\nfrom mien.extract import extract\n"
        "from mien.errors import MienError\nfrom pathlib import Path\n"
        "try:\n    extract(Index.load(Path(sys.argv[1])), ['tests.extract.toy_encoders:' + sys.argv[3]], sys.argv[2],"
        " workers=0)\nexcept MienError as error:\n    sys.exit(str(error))\n"
    )
    words = ["-c", script, tmp_path / "i.jsonl", store]
    with lock_folder(store / "loud", writer="the test", remedy="Wait."):
        with pytest.raises(BusyError, match=r"loud: another extraction of loud is writing there\nNothing was written."):
            extract(index, ["tests.extract.toy_encoders:Loud"], store, workers=0)
        extract(index, ["tests.extract.toy_encoders:Louder"], store, workers=0)
    results = ends([start(*words, "Loud=slow"), start(*words, "Loud=slow")])
    assert 0 in [code for code, _ in results]
    assert all(code == 0 or "another extraction of loud" in text for code, text in results), results
    features = FeatureStore(store)
    assert not list(features.verify())
    assert [len(features.open(name)) for name in ("loud", "louder")] == [6, 6]
    assert not list(store.rglob("*.part*"))


CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def slow_server() -> Iterator[tuple[str, threading.Event]]:
    """A server that holds the second half of the file back until the event is set."""
    go = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:1000])
            self.wfile.flush()
            go.wait(240)
            with contextlib.suppress(OSError):  # the client was killed
                self.wfile.write(CONTENT[1000:])

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/toy.bin", go
        go.set()
        server.shutdown()


FETCH = """
import logging, sys
from mien import hub
logging.basicConfig(format="%(message)s")
toy = hub.Artefact("toy", "toy.bin", sys.argv[2], 512_000, "MIT", "is a toy", urls=(sys.argv[1],))
hub.ARTEFACTS["toy"] = toy
print(hub.fetch("toy"))
"""


def wait_for(condition: object, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@SLOW
def test_two_downloads_into_one_cache_and_one_that_is_killed(
    tmp_path: Path, slow_server: tuple[str, threading.Event]
) -> None:
    (url, go), cache = slow_server, tmp_path / "cache"
    digest = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    downloads = [start("-c", FETCH, url, digest, MIEN_CACHE=str(cache), MIEN_HUB="") for _ in range(3)]
    wait_for(lambda: cache.is_dir() and sum(1 for _ in cache.glob(".download*/*")) == 3)
    downloads[2].kill()
    downloads[2].communicate()
    assert len(list(cache.glob(".download*"))) == 3, "a killed download leaves its folder"
    go.set()
    results = ends(downloads[:2])
    assert [code for code, _ in results] == [0, 0]
    assert sum("another process downloaded toy meanwhile; its file is used" in text for _, text in results) == 1
    assert (cache / "toy.bin").read_bytes() == CONTENT
    (cache / "toy.bin").unlink()
    assert ends([start("-c", FETCH, url, digest, MIEN_CACHE=str(cache), MIEN_HUB="")])[0][0] == 0
    assert [p.name for p in cache.iterdir()] == ["toy.bin"], "the next download removes it"


def test_a_pull_that_finds_files_in_its_folder_at_the_end_leaves_them(tmp_path: Path) -> None:
    from mien.hub_repository import _place

    (tmp_path / "new").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.safetensors").write_bytes(b"of another process")
    with pytest.raises(OutputError, match="another process put files there while this one downloaded"):
        _place(tmp_path / "new", tmp_path / "out")
    assert (tmp_path / "out" / "weights.safetensors").read_bytes() == b"of another process"
