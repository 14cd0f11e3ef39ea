"""`mien predict` on the workloads that users have: folders of pictures and of videos, large frames, many faces.

    python bench/workloads.py [--runs 3] [--only pictures folder large memory start]

Each figure is of whole processes, imports included; medians over the runs. `decode` is the same file decoded to RGB by
PyAV with as many threads, and nothing else. CPU is processor time, which other work on the machine changes less than
the wall clock. The material is rendered (`mien.synthetic`), so that anyone can run this; the time does not depend on
who is in the picture. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np
from predict import measure, render_clip, repeat_clip

from mien.media.mp4_writer import write_video
from mien.media.video import frames

PICTURES, VIDEOS = 100, 20
DECODE = "import sys\nfrom mien.media.video import frames\nfor frame in frames(sys.argv[1]): _ = frame.image\n"


def predict(*arguments: str | Path) -> list[str]:
    """The command for `mien predict` with results in a folder that is replaced."""
    return [sys.executable, "-m", "mien", "predict", *map(str, arguments), "--json"]


def median_of(runs: int, command: list[str], out: Path) -> tuple[float, float, float]:
    """Medians of wall and CPU seconds, and the largest peak in MB."""
    results = []
    for _ in range(runs):
        shutil.rmtree(out, ignore_errors=True)
        _, wall, peak, cpu = measure(*command)
        results.append((wall, cpu, peak))
    walls, cpus, peaks = zip(*results, strict=True)
    return statistics.median(walls), statistics.median(cpus), max(peaks)


def images_of(clip: Path) -> list[np.ndarray]:
    """The frames of a clip in which the face is in view, `(360, 640, 3)`."""
    return [frame.image for frame in islice(frames(clip), 200)]


def measure_pictures(clip: Path, folder: Path, runs: int) -> None:
    """CPU seconds a picture: the difference between a folder of many and one of few."""
    images, cpus, peak = images_of(clip), {}, 0.0
    for count in (10, 10 + PICTURES):
        pictures = folder / f"pictures{count}"
        pictures.mkdir()
        for i, image in enumerate(islice(cycle(images), count)):
            cv2.imwrite(str(pictures / f"{i:04d}.jpg"), image[..., ::-1])
        _, cpus[count], peak = median_of(runs, predict(pictures, "--out", folder / "out"), folder / "out")
    each = (cpus[10 + PICTURES] - cpus[10]) / PICTURES
    print(f"\nfolder of pictures, one face each: {1000 * each:.1f} ms of CPU a picture, peak {peak:.0f} MB")


def measure_folder(clip: Path, folder: Path, runs: int) -> None:
    """A folder of videos with one process and with two, in turns."""
    videos = folder / "videos"
    videos.mkdir()
    for i in range(VIDEOS):
        shutil.copy(clip, videos / f"{i:02d}.mp4")
    walls: dict[str, list[float]] = {"1": [], "2": []}
    for _ in range(runs):
        for workers, found in walls.items():
            command = predict(videos, "--out", folder / "out", "--workers", workers)
            found.append(median_of(1, command, folder / "out")[0])
    one, two = (statistics.median(found) for found in walls.values())
    print(
        f"\nfolder of {VIDEOS} videos of 20 s: {one:.1f} s one after the other, {two:.1f} s with --workers 2: "
        f"{one / two:.2f} x ({os.cpu_count()} cores)"
    )


def tiled(images: Iterable[np.ndarray], across: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Each image `across` times in each direction, scaled to `size` (width, height)."""
    for image in images:
        yield cv2.resize(np.tile(image, (across, across, 1)), size, interpolation=cv2.INTER_AREA)


def measure_large(clip: Path, folder: Path, runs: int) -> None:
    """Large frames, high rates and many faces, beside decoding alone."""
    images = images_of(clip)
    cases = {
        "640 × 360, 30 fps, 1 face": (1, (640, 360), 30, 6.0, 4),
        "1920 × 1080, 60 fps, 1 face": (1, (1920, 1080), 60, 3.0, 4),
        "3840 × 2160, 30 fps, 1 face": (1, (3840, 2160), 30, 3.0, 4),
        "7680 × 4320, 30 fps, 1 face": (1, (7680, 4320), 30, 1.0, 4),
        "1280 × 720, 30 fps, 4 faces": (2, (1280, 720), 30, 6.0, 4),
        "1920 × 1080, 30 fps, 25 faces": (5, (1920, 1080), 30, 3.0, 64),
    }
    print("\n| video | seconds | predict, wall s | × real time | CPU s | decode alone, wall s | CPU s | peak MB |")
    print("|---" * 8 + "|")
    for name, (across, size, rate, seconds, limit) in cases.items():
        path = folder / "large.mp4"
        count = round(rate * seconds)
        write_video(path, tiled(islice(cycle(images), count), across, size), rate=rate, preset="ultrafast", crf=24)
        command = predict(path, "--out", folder / "out", "--max-faces", str(limit))
        wall, cpu, peak = median_of(runs, command, folder / "out")
        plain_wall, plain_cpu, _ = median_of(runs, [sys.executable, "-c", DECODE, str(path)], folder / "out")
        print(
            f"| {name} | {seconds:g} | {wall:.2f} | {seconds / wall:.1f} | {cpu:.2f} | {plain_wall:.2f} "
            f"| {plain_cpu:.2f} | {peak:.0f} |",
            flush=True,
        )


def measure_memory(clip: Path, folder: Path) -> None:
    """Peak memory by length: one run each, because it hardly varies."""
    peaks = {}
    for minutes in (1, 10, 60):
        path = repeat_clip(clip, folder / f"{minutes}min.mp4", 60.0 * minutes)
        wall, _, peaks[minutes] = median_of(1, predict(path, "--out", folder / "out"), folder / "out")
        print(f"{minutes} min: peak {peaks[minutes]:.0f} MB, {60 * minutes / wall:.1f} x real time", flush=True)


def measure_start(clip: Path, folder: Path, runs: int) -> None:
    """Start-up: of the import, and of the prediction of one picture."""
    picture = folder / "one.jpg"
    cv2.imwrite(str(picture), images_of(clip)[30][..., ::-1])
    for name, command in {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import mien": [sys.executable, "-c", "import mien"],
        "mien predict, one picture": predict(picture, "--out", folder / "out"),
    }.items():
        wall, cpu, _ = median_of(max(5, runs), command, folder / "out")
        print(f"{name}: {wall:.2f} s, CPU {cpu:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    names = ("start", "pictures", "folder", "large", "memory")
    parser.add_argument("--only", nargs="*", choices=names, default=names)
    options = parser.parse_args()
    print(f"load before: {' '.join(subprocess.check_output(['uptime'], text=True).split()[-3:])}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clip = render_clip(folder)
        for part in options.only:
            if part == "memory":
                measure_memory(clip, folder)
            else:
                {
                    "start": measure_start, "pictures": measure_pictures, "folder": measure_folder,
                    "large": measure_large,
                }[part](clip, folder, options.runs)  # fmt: skip


if __name__ == "__main__":
    main()
