"""A server in a process of its own, for tests: started with given settings, killed for real.

Run as a script it is that process: `python running_server.py '{"folder": ..., ...}'`.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKEN = "a-token-for-tests-0123456789"


@contextmanager
def quiet_server(folder: Path, **settings: Any) -> Iterator[RunningServer]:
    """A server for the block, which must end well and print nothing but its address."""
    running = RunningServer(folder, **settings)
    yield running
    running.stop()
    assert running.process.returncode == 0
    assert "".join(running.output) == ""


class RunningServer:
    """Starts the server when it is made; `stop` ends it gently, `kill` as a crash would."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self._settings = folder, settings
        self.output: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps({"folder": str(folder), "port": 0, **settings})],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first.startswith("http"), first + self.process.stdout.read()
        self.url = first.strip()
        self.host, self.port = "127.0.0.1", int(self.url.rsplit(":", 1)[1])
        self.token = settings.get("token", "")
        threading.Thread(target=lambda: self.output.extend(self.process.stdout or ()), daemon=True).start()

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of the answer, the token included in the request."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        sent = {**({"Authorization": f"Bearer {self.token}"} if self.token else {}), **(headers or {})}
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON of a GET request."""
        status, body, _ = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    def upload(self, data: bytes, query: str = "", name: str = "clip.mp4") -> str:
        """Send a recording; returns the address of the job."""
        headers = {"Content-Type": "application/octet-stream", "X-File-Name": name}
        status, body, found = self.request("POST", f"/v1/timelines{query}", data, headers)
        assert status == 202, body
        return found["location"]

    def wait(self, address: str, *states: str, seconds: float = 240) -> Any:
        """The record of a job when it has one of the states."""
        found: Any = None

        def reached() -> bool:
            nonlocal found
            found = self.get(address)
            return found["state"] in states

        until(reached, seconds, lambda: f"{found}")
        return found

    def kill_children(self, module: str) -> list[int]:
        """Kill the processes of a module as the system does where memory is short; returns their numbers."""
        found = self.children(module)
        for pid in found:
            os.kill(pid, signal.SIGKILL)
        return found

    def children(self, module: str = "mien.serve.worker") -> list[int]:
        """Numbers of the processes of a module that the server started."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = path.read_text().rpartition(")")[2].split()
                command = path.with_name("cmdline").read_bytes()
            except OSError:
                continue
            if int(fields[1]) == self.process.pid and fields[0] != "Z" and module.encode() in command.split(b"\0"):
                found.append(int(path.parent.name))
        return found

    def files(self) -> set[str]:
        """Files of uploads and results, without the database."""
        paths = (p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file())
        return {str(p) for p in paths if not p.name.startswith("jobs.sqlite") and p.name != "lock"}

    def kill(self) -> None:
        """End the server as a crash does."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the server as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)


def until(condition: Callable[[], bool], seconds: float = 60, what: Callable[[], str] = str) -> None:
    """Wait for a condition; an AssertionError says what is there after the time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


def silence_wav(seconds: float) -> bytes:
    """A mono WAV file without a sound."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16000)
        out.writeframes(bytes(int(32000 * seconds)))
    return file.getvalue()


def main() -> None:
    from mien.serve.run import serve
    from mien.serve.settings import Settings

    given = json.loads(sys.argv[1])
    given["folder"] = Path(given["folder"])
    given["models"] = tuple(given.get("models", ("starter",)))
    os.environ["OMP_NUM_THREADS"] = "1"
    serve(Settings(**given), lambda address: print(address, flush=True))


if __name__ == "__main__":
    main()
