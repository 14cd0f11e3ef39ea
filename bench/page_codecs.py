"""Bytes and processor time of the page's camera view: pictures as JPEG, and as chunks of video (WebCodecs).

    python bench/page_codecs.py [--seconds 20] [--rounds 2] [--fidelity] [CLIP...]

Chromium plays the first CLIP as its camera, without a microphone; each round opens the camera view with both kinds in
turn. Processor time is that of the server with its processes, and that of the browser with its own, after the first
rows, in seconds per second. Prints a Markdown table, with the load of the machine beside it.

--fidelity: instead, how much less is known of each clip from pictures in either form: mean absolute differences of
valence and arousal, and the share of rows with the same expression, compared with the prediction of the clip's own
pictures. Chunks are encoded by PyAV's libvpx with the bit rate of the page, because a camera does not repeat a clip.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from page_pictures import make_sources, opened, running_server
from playwright.sync_api import Browser, WebSocket, sync_playwright

import mien
from mien.media.video import frames

#: Clock ticks a second of /proc.
TICKS = os.sysconf("SC_CLK_TCK")
#: Bits a second of `video_encoder.js`.
BITRATE = 1_000_000


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
    """CPU seconds used by a process and all processes that it started."""
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


def as_jpeg(images: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Pictures as they come back from JPEG, and their bytes."""
    found, size = [], 0
    for image in images:
        data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
        size += len(data)
        found.append(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))
    return found, size


def as_video(images: list[np.ndarray]) -> tuple[list[np.ndarray], int]:
    """Pictures as they come back from VP8, and their bytes."""
    encoder, decoder = av.CodecContext.create("libvpx", "w"), av.CodecContext.create("vp8", "r")
    encoder.height, encoder.width = images[0].shape[:2]
    encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 30), Fraction(30)
    encoder.bit_rate = BITRATE
    encoder.options = {"deadline": "realtime", "lag-in-frames": "0", "cpu-used": "6"}
    found, size = [], 0
    for number, image in enumerate(images):
        frame = av.VideoFrame.from_ndarray(image, "rgb24")
        frame.pts = number
        for packet in encoder.encode(frame):
            size += packet.size
            found += [each.to_ndarray(format="rgb24") for each in decoder.decode(av.Packet(bytes(packet)))]
    return found, size


def print_fidelity(clips: list[Path]) -> None:
    """Print what is lost by either form."""
    predictor = mien.load("starter")
    print("| clip | pictures | kB each | valence | arousal | same expression |\n|---|---|---|---|---|---|")
    for clip in clips:
        read = list(frames(clip))
        height, width = (side - side % 2 for side in read[0].image.shape[:2])
        images = [np.ascontiguousarray(frame.image[:height, :width]) for frame in read]
        times = [frame.time_s for frame in read]
        whole = predictor.predict(frames=images, times=times).table
        for name, form in (("jpeg", as_jpeg), ("video", as_video)):
            found, size = form(images)
            table = predictor.predict(frames=found, times=times).table
            valence, arousal = ((whole[c] - table[c]).abs().mean() for c in ("valence", "arousal"))
            same = (whole["expression"] == table["expression"]).mean()
            each = size / len(images) / 1e3
            print(f"| {clip.stem} | {name} | {each:.1f} | {valence:.3f} | {arousal:.3f} | {same:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("clips", type=Path, nargs="*", help="By default a drawn clip, which takes minutes to draw.")
    parser.add_argument("--fidelity", action="store_true", help="Compare predictions instead.")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    if given.fidelity:
        print_fidelity(given.clips)
        return
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        make_sources(folder, given.clips[0] if given.clips else None)
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
