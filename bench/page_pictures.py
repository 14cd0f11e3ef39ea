"""Take the pictures of docs/SERVER.md: the page of `mien serve` with a clip of a drawn person, and its live view.

python bench/page_pictures.py docs/images
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from drawn_face import write_clip
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from mien.media.audio import SAMPLE_RATE, blocks
from mien.media.video import frames, write_video
from mien.views.palette import EXPRESSION, rgb

SECONDS = 20.0
#: How often the clip is repeated where its prediction has to take long.
REPEATED = 6
#: Moment of the clip that the report shows.
MOMENT_S = 4.5
#: Surfaces of the page in light and dark (`base.css`).
SURFACES = ("#f6f5f2", "#ffffff", "#121417", "#1a1d21")
#: Expression that the live view shows.
SHOWN = "Happiness"


def make_sources(folder: Path, clip: Path | None) -> Path:
    """The clip in a folder, with its frames and its sound for the browser's fake camera and microphone."""
    path = folder / "interview.mp4"
    if clip is None:
        write_clip(path, SECONDS)
    else:
        shutil.copy(clip, path)
    with (folder / "camera.mjpeg").open("wb") as file:
        for frame in frames(path):
            file.write(cv2.imencode(".jpg", frame.image[..., ::-1])[1].tobytes())
    sound = np.concatenate([samples for _, samples in blocks(path)])
    with wave.open(str(folder / "microphone.wav"), "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        out.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())
    return path


@contextmanager
def running_server(folder: Path) -> Iterator[str]:
    """Run `mien serve`; gives its address."""
    command = [sys.executable, "-m", "mien", "serve", "--port", "0", "--folder", str(folder / "server")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stderr.read()
        yield found[0]
    finally:
        process.terminate()
        process.wait(20)


def opened(browser: Browser, url: str, **options: Any) -> Page:
    """The page in a new window."""
    page = browser.new_context(permissions=["camera", "microphone"], locale="en-GB", **options).new_page()
    page.goto(url)
    page.locator("#classes li").first.wait_for()
    return page


def take(page: Page, path: Path, **options: Any) -> None:
    """Write a picture of the page with 256 colours, those of the classes among them, which makes it small."""
    page.evaluate("scrollTo(0, 0)")
    page.screenshot(path=path, animations="disabled", **options)
    reduce_colours(path)


def reduce_colours(path: Path) -> None:
    """Reduce a PNG to a palette of 256 colours that contains the colours of the classes."""
    picture = Image.open(path).convert("RGB")
    exact = [value for colour in (*EXPRESSION.values(), *SURFACES) for value in rgb(colour)]
    most = 256 - len(exact) // 3
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(picture.quantize(most, kmeans=3).getpalette() or [])[: 3 * most], *exact])
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(path, optimize=True)


def show_report(page: Page, clip: Path) -> None:
    """Predict the clip and show its report at four seconds."""
    sound = clip.with_name("microphone.wav").read_bytes()
    page.locator(".options summary").click()
    page.check("#with-recording")
    page.locator(".options summary").click()
    page.set_input_files("#chooser", [{"name": "voice message.wav", "mimeType": "audio/wav", "buffer": sound}])
    page.set_input_files("#chooser", str(clip))
    page.locator("#list li[data-state=done]").nth(1).wait_for(timeout=300_000)
    page.locator("#list .open").first.click()
    plot = page.frame_locator("#report-frame").locator("#plot")
    plot.wait_for()
    box = plot.bounding_box()
    assert box is not None
    left = 104  # pixels of the names beside the chart
    plot.click(position={"x": left + (box["width"] - left) * MOMENT_S / SECONDS, "y": 250})
    page.mouse.move(700, 170)
    page.mouse.move(700, 100)
    page.wait_for_timeout(1500)


def show_rows_so_far(page: Page, clip: Path) -> None:
    """Predict the clip several times over, and stop while it is predicted."""
    path = clip.with_name("conversation.mp4")
    pictures = [frame.image for frame in frames(clip)]
    sound = np.concatenate([samples for _, samples in blocks(clip)])
    rate = round(len(pictures) / SECONDS)
    sound = np.resize(sound, len(pictures) * SAMPLE_RATE // rate)
    count = REPEATED * len(pictures)
    times = [n / rate for n in range(count)]
    shown = (pictures[n % len(pictures)] for n in range(count))
    write_video(path, shown, times=times, audio=np.tile(sound, REPEATED))
    page.set_input_files("#chooser", str(path))
    page.locator("#so-far-people canvas").wait_for(timeout=60_000)
    page.locator("#so-far-facts").get_by_text(re.compile(r"up to (0:[45]|[1-9]:)")).wait_for(timeout=60_000)


def run_camera(page: Page, seconds: float) -> None:
    """Start the camera and let it run, until the expression is `SHOWN`."""
    page.click("#tab-camera")
    page.check("#agreed")
    page.click("#start")
    page.locator("#bars .best").first.wait_for(timeout=60_000)
    page.wait_for_timeout(1000 * seconds)
    for text in (re.compile(f"^(?!{SHOWN})"), SHOWN):  # its beginning: what is shown is later than the picture
        page.locator("#expression").get_by_text(text).wait_for(timeout=60_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--clip", type=Path, help="Use this clip instead of drawing one, which takes minutes.")
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        clip = make_sources(folder, given.clip)
        fakes = [
            "--use-fake-device-for-media-stream",
            "--use-fake-ui-for-media-stream",
            f"--use-file-for-fake-video-capture={folder / 'camera.mjpeg'}",
            f"--use-file-for-fake-audio-capture={folder / 'microphone.wav'}",
        ]
        browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox", *fakes])
        with running_server(folder) as url:
            wide = opened(browser, url, viewport={"width": 1400, "height": 900})
            show_report(wide, clip)
            take(wide, given.out / "page.png")
            wide.locator("#report-close").click()
            show_rows_so_far(wide, clip)
            take(wide, given.out / "page_so_far.png")
            wide.get_by_role("button", name="Cancel conversation.mp4").click()
            wide.locator("#so-far").wait_for(state="hidden")
            wide.emulate_media(color_scheme="dark")
            run_camera(wide, 32)
            take(wide, given.out / "page_live.png")
            wide.keyboard.press("Escape")
            wide.locator("#again").wait_for()
            wide.close()
            phone = opened(browser, url, viewport={"width": 360, "height": 780}, device_scale_factor=1.5)
            run_camera(phone, 12)
            take(phone, given.out / "page_phone.png")
        browser.close()


if __name__ == "__main__":
    main()
