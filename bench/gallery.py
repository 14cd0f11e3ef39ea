"""Take the pictures of docs/GALLERY.md with clips of drawn people (`bench/drawn_face.py`), each by running its command.

python bench/gallery.py docs/images

The pictures of the server's page are those of `bench/page_pictures.py`. Drawing the clips takes minutes; `--work
FOLDER` keeps them for the next run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from drawn_face import Look, scenario, write_clip
from page_pictures import reduce_colours, take
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright
from rich.console import Console
from rich.table import Table
from rich.terminal_theme import TerminalTheme

from mien.labels import class_names
from mien.media.video import frames
from mien.views.charts import Panel, Series, figure
from mien.views.live import LiveState
from mien.views.palette import rgb

TALK_S, DAY_S = 8.0, 1.6
#: Second of the clip that report and overlay show.
MOMENT_S = 7.0
LOOKS = {
    "anna": Look(),
    "ben": Look(3, (150, 104, 78), (128, 62, 58), (28, 24, 24), (168, 120, 60)),
    "clara": Look(8, (236, 190, 164), (186, 96, 96), (176, 132, 82), (120, 72, 92)),
}
#: What people do on each day, and the colour of their clothes on the second one.
DAYS = {"monday": (("rest", 0.7), ("gape", 0.3)), "tuesday": (("rest", 0.5), ("Duchenne smile", 0.5))}
SHIRT = (88, 92, 98)
WORDS = ("Good morning, everybody.", "Look what I have found!", "I did not expect that.", "See you tomorrow.")
#: Drawn people differ less than real ones.
THRESHOLD = "0.22"
#: The eight ANSI terminal colours: black, red, green, yellow, blue, magenta, cyan, white.
ANSI = ("121417", "d65c5c", "60aa6e", "f2cf86", "6ea0e6", "a49bff", "4cc4bc", "a6adb7")
THEME = TerminalTheme(rgb("#121417"), rgb("#eceef1"), [rgb(f"#{colour}") for colour in ANSI])
#: Columns of the table of turns.
SHOWN = ("start_s", "stop_s", "speaker", "text", "expression", "valence", "arousal")


def mien(folder: Path, *words: str) -> str:
    """Run a command in a folder; its output."""
    done = subprocess.run([sys.executable, "-m", "mien", *words], cwd=folder, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    return done.stdout


def make_clips(folder: Path) -> None:
    """Draw the clips that are not there yet, and write the transcript of the first one."""
    if not (folder / "talk.mp4").exists():
        write_clip(folder / "talk.mp4", TALK_S)
    cues = [
        f"{i}\n{_cue_time(start)} --> {_cue_time(stop)}\nAnna: {text}\n"
        for i, ((start, stop), text) in enumerate(zip(scenario(TALK_S).speech, WORDS, strict=True), 1)
    ]
    (folder / "talk.srt").write_text("\n".join(cues), encoding="utf-8")
    for day, acts in DAYS.items():
        (folder / day).mkdir(exist_ok=True)
        for name, look in LOOKS.items():
            shirt = look.shirt if day == "monday" else SHIRT
            path = folder / day / f"{name}.mp4"
            if not path.exists():
                write_clip(path, DAY_S, Look(look.seed, look.skin, look.lips, look.hair, shirt), acts)


def _cue_time(seconds: float) -> str:
    whole, rest = divmod(round(1000 * seconds), 1000)
    return f"00:00:{whole:02d},{rest:03d}"


def open_page(browser: Browser, path: Path, width: int, height: int, fragment: str = "") -> Page:
    """A file in a new window."""
    page = browser.new_page(viewport={"width": width, "height": height}, locale="en-GB")
    page.goto(path.resolve().as_uri() + fragment)
    return page


def take_terminal(page: Page, path: Path, title: str, *shown: object, width: int = 100) -> None:
    """Picture of what rich prints in a dark terminal."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=width, file=nowhere, force_terminal=True, color_system="truecolor")
        for item in shown:
            console.print(item, highlight=False)
        page.set_content(f"<body style='margin:0'>{console.export_svg(title=title, theme=THEME)}</body>")
    page.locator("svg").first.screenshot(path=path)
    reduce_colours(path)


def take_overlay(overlay: Path, path: Path) -> None:
    """One frame of the overlay."""
    picture = next(frame.image for frame in frames(overlay) if frame.time_s >= MOMENT_S)
    Image.fromarray(picture).save(path)
    reduce_colours(path)


def take_features(page: Page, table: Path, path: Path) -> None:
    """Plot some columns of a features.csv and save the picture."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[::3]
    times = [float(row["time_s"]) for row in rows]

    def series(name: str, column: str, style: int, scale: float = 1.0) -> Series:
        return Series(name, times, [scale * float(row[column]) if row[column] else None for row in rows], style=style)

    degrees = 180 / np.pi
    head = [series("nod", "pose_Rx", 0, degrees), series("turn", "pose_Ry", 1, degrees)]
    charts: list[tuple[str, Sequence[Series], tuple[float, float]]] = [
        ("Head, degrees", head, (-20, 20)),
        ("Lids: eye_openness", [series("eyes", "eye_openness", 2)], (0, 1.5)),
        ("Mouth: mouth_opening", [series("mouth", "mouth_opening", 3)], (0, 0.5)),
        ("Pitch of the voice: f0_hz / 100", [series("voice", "f0_hz", 4, 0.01)], (0, 5)),
    ]
    ticks = [(float(s), f"{s} s") for s in range(0, round(TALK_S) + 1, 2)]
    panels = [Panel(title, "", own, ticks, limits) for title, own, limits in charts]
    page.set_content(f"<body style='margin:0;background:white'>{figure(panels, columns=2)}</body>")
    page.locator("svg").first.screenshot(path=path)
    reduce_colours(path)


def turns_table(path: Path) -> Table:
    """Turns of a table of utterances."""
    table = Table(*SHOWN, box=None, header_style="bold")
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["level"] == "turn":
                is_text = ("speaker", "text", "expression")
                table.add_row(*(row[c] if c in is_text or not row[c] else f"{float(row[c]):.2f}" for c in SHOWN))
    return table


def take_all(work: Path, out: Path, browser: Browser) -> None:
    """Run the commands and take the pictures."""
    make_clips(work)
    mien(work, "predict", "talk.mp4", "--report", "--overlay", "--features")
    report = open_page(browser, work / "mien-out/talk/report.html", 1240, 800, f"#t={MOMENT_S:g}")
    report.wait_for_timeout(2000)
    take(report, out / "gallery_report.png")
    take_overlay(work / "mien-out/talk/overlay.mp4", out / "gallery_overlay.png")
    wide = browser.new_page(viewport={"width": 1000, "height": 900})
    take_features(wide, work / "mien-out/talk/features.csv", out / "gallery_features.png")
    printed = mien(work, "turns", "mien-out/talk/timeline.csv", "talk.srt")
    take_terminal(wide, out / "gallery_turns.png", "mien turns", printed, turns_table(work / "utterances.csv"))
    rows = [json.loads(line) for line in mien(work, "live", "talk.mp4", "--json", "--seconds", "6").splitlines()]
    state = LiveState("talk.mp4", class_names(rows[0], ()), elapsed_s=6.0, delay_s=1.0, frames=len(rows))
    state.add(rows)
    take_terminal(wide, out / "gallery_live.png", "mien live talk.mp4", state, width=90)
    for day in DAYS:
        mien(work, "predict", day, "--out", f"out/{day}", "--report", "--no-voice")
    mien(work, "people", "out/monday", "out/tuesday", "--out", "joined", "--threshold", THRESHOLD)
    take(open_page(browser, work / "joined/people.html", 1100, 760), out / "gallery_people.png")
    words = ("compare", "out/monday", "out/tuesday", "--groups", "--paired", "--people", "joined/people.csv")
    mien(work, *words)
    take(open_page(browser, work / "compare.html", 1100, 860), out / "gallery_compare.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--work", type=Path, help="Keep clips and results in this folder.")
    parser.add_argument("--browser", default="/usr/bin/chromium")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        work = given.work or Path(name)
        work.mkdir(parents=True, exist_ok=True)
        browser = playwright.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        take_all(work, given.out, browser)
        browser.close()


if __name__ == "__main__":
    main()
