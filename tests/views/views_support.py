"""Shared by the tests of the views: dimensions of a synthetic recording, and a browser driven by its debugging pipe."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

SECONDS, RATE, WIDTH, HEIGHT = 4.0, 25, 320, 180
FRAMES = int(SECONDS * RATE)


def box_at(subject: int, time_s: float) -> np.ndarray:
    centre = np.array([WIDTH * (0.3 + 0.4 * subject), HEIGHT / 2 + 20 * np.sin(time_s)])
    return np.concatenate([centre - 30, centre + 30])


def shade(index: int) -> int:
    """Grey level of a frame, unique, so that a test can tell which frame the browser shows."""
    return 20 + 2 * index


class Browser:
    """Chromium driven through file descriptors 3 and 4 (`--remote-debugging-pipe`)."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()

        def pipes() -> None:
            # Through high numbers first: 3 and 4 may be the descriptors that are about to be copied.
            os.dup2(os.dup2(to_browser, 60), 3)
            os.dup2(os.dup2(from_browser, 61), 4)

        options = "headless no-sandbox disable-gpu disable-quic no-first-run disable-sync disable-component-update"
        command = [program, *(f"--{o}" for o in options.split()), f"--user-data-dir={profile}"]
        command += ["--disable-background-networking", "--autoplay-policy=no-user-gesture-required"]
        command += ["--window-size=1400,1000", "--remote-debugging-pipe", "about:blank"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, preexec_fn=pipes, close_fds=False, stdout=quiet, stderr=quiet)
        os.close(to_browser)
        os.close(from_browser)
        self._buffer, self._number, self.session, self.events = b"", 0, "", []
        (page,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self.session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the Chrome DevTools Protocol and returns its result; collects events meanwhile."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has exited"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, fragment: str = "") -> None:
        """Opens a page and waits until it is loaded and its video, if any, can be played."""
        self.call("Page.navigate", url="about:blank")
        self.events = []
        self.call("Page.navigate", url=path.as_uri() + fragment)
        self.js(
            "new Promise(done => { const poll = () => { const p = document.getElementById('player');"
            "const ready = !p || p.hidden || !('readyState' in p) || p.readyState >= 2;"
            "if (document.readyState === 'complete' && window.mien && ready) done(1);"
            "else setTimeout(poll, 20); }; poll(); })"
        )

    def js(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def mouse(self, kind: str, x: float, y: float) -> None:
        pressed = {"mousePressed": 1, "mouseMoved": 1}.get(kind, 0)
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=pressed, clickCount=1)

    def key(self, key: str, shift: bool = False) -> None:
        text = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 if shift else 0, **text)

    def requested_urls(self) -> list[str]:
        """URLs that the page requested."""
        sent = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [e["params"]["request"]["url"] for e in sent]

    def errors(self) -> list[str]:
        """Exceptions and log entries of the page."""
        errors = [e["params"]["exceptionDetails"] for e in self.events if e.get("method") == "Runtime.exceptionThrown"]
        errors += [e["params"]["entry"]["text"] for e in self.events if e.get("method") == "Log.entryAdded"]
        return [str(error) for error in errors]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=60)
