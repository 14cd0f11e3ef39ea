"""Bytes and processor time of the page's camera view: pictures as JPEG, and as chunks of video (WebCodecs).

    python bench/page_codecs.py [--seconds 20] [--rounds 2] [CLIP]

Chromium plays CLIP as its camera, without a microphone; each round opens the camera view with both kinds in turn.
Processor time is that of the server with its processes, and that of the browser with its own, after the first rows, in
seconds per second. Prints a Markdown table, with the load of the machine beside it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from page_pictures import make_sources, opened, running_server
from playwright.sync_api import Browser, WebSocket, sync_playwright

#: Clock ticks a second of /proc.
TICKS = os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> Iterator[int]:
    """A process and all that it started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    waiting = [pid]
    while waiting:
        yield (now := waiting.pop())
        waiting += children.get(now, [])


def processor_s(pid: int) -> float:
    """Processor seconds of a process and all that it started."""
    total = 0
    for each in descendants(pid):
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def parts_of_this() -> tuple[int, int]:
    """Process numbers of the server and of the browser among the children of this process."""
    found = {}
    for pid in descendants(os.getpid()):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"serve" in command:
            found.setdefault("server", pid)
        if b"chrom" in command[0] and not any(word.startswith(b"--type=") for word in command):
            found.setdefault("browser", pid)
    return found["server"], found["browser"]


def measure(browser: Browser, url: str, kind: str, seconds: float) -> dict[str, float]:
    """Figures of one session: bytes and pictures a second, processor seconds a second."""
    page = opened(browser, f"{url}/?pictures={kind}", viewport={"width": 1300, "height": 900})
    sent: list[tuple[int, int]] = []  # kind of the message, bytes

    def watch(socket: WebSocket) -> None:
        socket.on("framesent", lambda data: sent.append((data[0], len(data))) if isinstance(data, bytes) else None)

    page.on("websocket", watch)
    page.click("#tab-camera")
    page.uncheck("#use-microphone")
    page.check("#agreed")
    page.click("#start")
    page.locator("#bars .best").first.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    server, browser_pid = parts_of_this()
    sent.clear()
    began, server_s, browser_s = time.monotonic(), processor_s(server), processor_s(browser_pid)
    page.wait_for_timeout(1000 * seconds)
    passed = time.monotonic() - began
    found = {
        "server": (processor_s(server) - server_s) / passed,
        "browser": (processor_s(browser_pid) - browser_s) / passed,
        "pictures": len(sent) / passed,
        "bytes": sum(size for _, size in sent) / passed,
        "is_video": float(all(number == 4 for number, _ in sent)),
    }
    page.keyboard.press("Escape")
    page.locator("#again").wait_for()
    page.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("clip", type=Path, nargs="?", help="By default a drawn clip, which takes minutes to draw.")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        make_sources(folder, given.clip)
        fakes = [
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}",
        ]
        browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox", *fakes])
        with running_server(folder) as url:
            print(f"load {os.getloadavg()[0]:.1f}, Chromium {browser.version}")
            print("| pictures | a second | kB/s | kB each | server s/s | browser s/s |\n|---|---|---|---|---|---|")
            for _ in range(given.rounds):
                for kind in ("jpeg", "video"):
                    f = measure(browser, url, kind, given.seconds)
                    shown = "video" if f["is_video"] else "jpeg"
                    print(
                        f"| {kind} ({shown}) | {f['pictures']:.1f} | {f['bytes'] / 1e3:.0f} | "
                        f"{f['bytes'] / 1e3 / f['pictures']:.1f} | {f['server']:.2f} | {f['browser']:.2f} |",
                        flush=True,
                    )
        browser.close()


if __name__ == "__main__":
    main()
