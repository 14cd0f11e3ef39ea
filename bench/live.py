"""Live prediction: delay, dropped frames, memory, and agreement with the prediction of the file.

    python bench/live.py [--seconds 600] [--delays 0.3,1.0] [--only play|agreement] [CLIP...]

* play: a clip of 640 x 360 with sound, looped, arrives in real time as from a camera (decoded in a thread, as `mien
  live` does): one source of 30 frames a second, then two processes with one source of 15 each. Delay of a row: from its
  time to its return, the decoding and the queue included; the first 5 s are left out. Memory: resident set of the
  process; its growth is the slope of a line from the 70th second on, when the window of 48 s is full, in MB per ten
  minutes (nan for sessions shorter than 100 s).
* agreement: each clip is given to `mien.stream` without dropping frames, and its rows are compared with those of `mien
  predict`, for several delays.

Without CLIP, a demonstration clip of 20 s is rendered. Prints Markdown tables, with the load of the machine beside
them: both depend on what else it does.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import mien
from mien.live.predictor import Row
from mien.live.reader import Picture, Sound, paced, read_file
from mien.live.run import LiveFacts, run
from mien.live.session import Pieces
from mien.synthetic.demo_clip import render_demo_clip
from mien.timeline.columns import schema

#: Seconds at the start whose delays are left out, and second from which memory is compared.
WARM_UP_S, FULL_S = 5.0, 70.0


def looped(clip: Path, stride: int) -> Iterator[Picture | Sound]:
    """A clip again and again, with every `stride`-th picture."""
    start_s = 0.0
    while True:
        stop_s, number = start_s, 0
        for piece in read_file(clip):
            if isinstance(piece, Picture):
                number += 1
                stop_s = max(stop_s, start_s + piece.time_s + 1 / 30)
                if number % stride:
                    continue
                yield Picture(start_s + piece.time_s, piece.image)
            else:
                stop_s = max(stop_s, start_s + piece.time_s + len(piece.samples) / piece.rate)
                yield Sound(start_s + piece.time_s, piece.samples, piece.rate)
        start_s = stop_s


def resident_mb() -> float:
    """Resident memory of this process in MB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def play(clip: Path, stride: int, seconds: float, delay_s: float, queue: Any) -> None:
    """Play a clip in real time, and put figures into the queue."""
    delays: list[float] = []
    memory: list[tuple[float, float]] = []
    begin = time.monotonic()

    def clock() -> float:
        return time.monotonic() - begin

    def on_rows(rows: Sequence[Row], ages: Sequence[float]) -> None:
        delays.extend(age for row, age in zip(rows, ages, strict=True) if row["time_s"] > WARM_UP_S)

    def on_update(facts: LiveFacts) -> None:
        if not memory or clock() - memory[-1][0] >= 1.0:
            memory.append((clock(), resident_mb()))

    stream = mien.stream("starter", delay_s=delay_s, clock=clock)
    begin = time.monotonic()
    cpu = time.process_time()
    pieces = Pieces([paced(looped(clip, stride), clock, should_stop=lambda: clock() >= seconds)])
    facts = run(
        stream, pieces, clock=clock, on_rows=on_rows, on_update=on_update,
        should_stop=lambda: clock() >= seconds, dropped_before=lambda: pieces.dropped,
    )  # fmt: skip
    pieces.close()
    used = (time.process_time() - cpu) / clock()
    late = [m for m in memory if m[0] >= FULL_S]
    slope = float("nan")
    if late and late[-1][0] - late[0][0] >= 30:
        times, sizes = np.array(late).T
        slope = float(np.polyfit(times, sizes, 1)[0]) * 600
    queue.put((np.median(delays), np.quantile(delays, 0.99), facts.dropped, facts.frames, used, memory[-1][1], slope))


def print_play(clip: Path, seconds: float, delay_s: float) -> None:
    """Play one source of 30 frames a second, then two of 15."""
    for title, strides in (("one source, 30 a second", (1,)), ("two sources, 15 a second each", (2, 2))):
        queue: Any = multiprocessing.Queue()
        workers = [multiprocessing.Process(target=play, args=(clip, s, seconds, delay_s, queue)) for s in strides]
        for worker in workers:
            worker.start()
        for figures in [queue.get() for _ in workers]:
            median, last, dropped, frames, used, size, slope = figures
            print(
                f"| {title} | {delay_s:g} s | {seconds:g} s | {1000 * median:.0f} ms | {1000 * last:.0f} ms | "
                f"{dropped} of {frames} | {used:.0%} | {size:.0f} MB | {slope:+.1f} MB | {os.getloadavg()[0]:.1f} |",
                flush=True,
            )
        for worker in workers:
            worker.join()


def stream_rows(clip: Path, delay_s: float) -> pl.DataFrame:
    """Rows of a clip through `mien.stream`, in the order of a timeline."""
    rows: list[Row] = []
    with mien.stream("starter", delay_s=delay_s, late_s=None) as stream:
        for piece in read_file(clip):
            if isinstance(piece, Picture):
                rows += stream.frame(piece.image, piece.time_s)
            else:
                rows += stream.sound(piece.samples, piece.rate, piece.time_s)
        rows += stream.finish()
    return pl.DataFrame(rows, schema=schema()).sort("subject", "time_s")


def print_agreement(clips: Sequence[Path], delays: Sequence[float]) -> None:
    """Compare live rows of all clips with those of the files, for each delay."""
    print(
        "\n| delay | rows of both | same evidence | same expression | mean difference of p | valence | arousal |\n"
        "|---|---|---|---|---|---|---|"
    )
    wholes = [mien.predict(clip).table for clip in clips]
    for delay_s in delays:
        joined = pl.concat(
            whole.join(stream_rows(clip, delay_s), on=["frame", "subject"], suffix="_live", nulls_equal=True)
            for clip, whole in zip(clips, wholes, strict=True)
        )
        known = joined.filter(pl.col("expression").is_not_null() & pl.col("expression_live").is_not_null())
        names = [name for name in schema() if name.startswith("p_")]
        apart = known[names].to_numpy() - known[[f"{name}_live" for name in names]].to_numpy()
        axes = [
            float((known[name] - known[f"{name}_live"]).abs().mean() or 0.0)  # type: ignore[arg-type]
            for name in ("valence", "arousal")
        ]
        print(
            f"| {delay_s:g} s | {len(joined) / sum(map(len, wholes)):.1%} | "
            f"{(joined['evidence'] == joined['evidence_live']).sum() / len(joined):.1%} | "
            f"{(known['expression'] == known['expression_live']).sum() / len(known):.1%} | "
            f"{np.abs(apart).mean():.4f} | {axes[0]:.3f} | {axes[1]:.3f} |",
            flush=True,
        )


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path, help="clips; default: a rendered one")
    parser.add_argument("--seconds", type=float, default=600.0, help="length of each session")
    parser.add_argument("--delays", default="0.3,1.0", help="delays in seconds")
    parser.add_argument("--only", choices=("play", "agreement"), help="one of the two parts")
    arguments = parser.parse_args()
    delays = [float(delay) for delay in arguments.delays.split(",")]
    multiprocessing.set_start_method("spawn")
    with tempfile.TemporaryDirectory() as folder:
        clips = arguments.clips
        if not clips:
            clips = [Path(folder) / "demo.mp4"]
            render_demo_clip(clips[0])
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} before the start\n")
        if arguments.only != "agreement":
            print(
                "| sources | delay_s | length | median delay | 99 % below | dropped | processor | memory | "
                "growth in 10 min | load |\n|---|---|---|---|---|---|---|---|---|---|"
            )
            for delay_s in delays:
                print_play(clips[0], arguments.seconds, delay_s)
        if arguments.only != "play":
            print_agreement(clips, delays)


if __name__ == "__main__":
    main()
