"""`mien serve --ray`: the same jobs through actors of a local Ray cluster, with the same interface."""

from __future__ import annotations

from pathlib import Path

import pytest
from running_server import RunningServer, until

import mien

pytest.importorskip("ray")


def test_jobs_run_on_a_cluster(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = shared / "clips" / "single_face.mp4"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # names of sockets are short
    server = RunningServer(tmp_path / "data", workers=1, ray="local")
    try:
        local = mien.predict(clip)
        remote = mien.Client(server.url).predict(clip)
        assert remote.table.equals(local.table)
        address = server.upload(b"no media")
        reason = server.wait(address, "failed")["reason"]
        assert reason["type"] == "MediaError"
        assert "the recording" in reason["what"]
        server.request("DELETE", address)

        address = server.upload(clip.read_bytes(), "?report=true")
        server.wait(address, "running", "done")
        assert server.request("DELETE", address)[0] == 204
        later = server.upload(clip.read_bytes())
        assert server.wait(later, "done")["rows"] == len(local)
        server.request("DELETE", later)
        until(lambda: server.files() == set())
        assert not list(scratch.glob("mien-*/*"))
        server.upload(clip.read_bytes())
        until(lambda: any(scratch.glob("mien-*/*/recording.mp4")))
        server.kill()
        until(lambda: not any(scratch.glob("mien-*")))  # nothing is left on the machines of the cluster
    finally:
        server.kill()
    assert "".join(server.output) == ""
