"""Throughput of `mien serve` against `mien predict` on the same files, and health checks during the load.

    python bench/serve.py [--uploads 100] [--clients 8] [--checks 1000] [--seconds 2] [--workers N] [--rounds 1]

Renders a clip of `--seconds` (a synthetic person with a voice), as many copies as uploads. In each round `mien predict`
takes all of them in one process, and then as many clients as given send them to a server and wait for their timelines,
while another one asks /healthz all the time. Both start cold: loading the model counts. `mien predict` runs with the
priority of the server's workers, so that other programs take as much of both. Prints a table.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mien.client import Client
from mien.serve.worker import NICE
from mien.synthetic.demo_clip import render_demo_clip

MIEN = [sys.executable, "-m", "mien"]


def predict_all(files: list[Path], out: Path) -> float:
    """Seconds that `mien predict` needs for all files."""
    began = time.perf_counter()
    command = ["nice", "-n", str(NICE), *MIEN, "predict", *map(str, files), "--format", "parquet", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began


def serve_all(
    files: list[Path], folder: Path, clients: int, workers: int | None, checks: int
) -> tuple[float, list[float]]:
    """Seconds until all clients have their timelines, and the seconds of each health check."""
    command = [*MIEN, "serve", "--port", "0", "--folder", str(folder), "--queue", str(len(files))]
    server = subprocess.Popen(
        [*command, *(["--workers", str(workers)] if workers else [])], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    url = server.stderr.readline().split()[-1]
    ended, times = threading.Event(), []

    def check() -> None:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
        while not ended.is_set():
            began = time.perf_counter()
            connection.request("GET", "/healthz")
            assert connection.getresponse().read()
            times.append(time.perf_counter() - began)
            time.sleep(0.005)
            if len(times) == checks:
                return

    try:
        checker = threading.Thread(target=check)
        checker.start()
        began = time.perf_counter()
        with ThreadPoolExecutor(clients) as pool:
            rows = list(pool.map(lambda path: len(Client(url).predict(path)), files))
        seconds = time.perf_counter() - began
        assert min(rows) > 0
        ended.set()
        checker.join()
    finally:
        server.terminate()
        server.wait()
    return seconds, times


def cpu_seconds() -> float:
    """Processor seconds of all processes that have ended, those of the server and its workers included."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--workers", type=int, help="as mien serve --workers")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render_demo_clip(folder / "0.mp4", seconds=options.seconds)
        files = [folder / f"{n}.mp4" for n in range(options.uploads)]
        for path in files[1:]:
            os.link(files[0], path)
        print(
            f"{options.uploads} uploads of {options.seconds:g} s, {options.clients} clients, {os.cpu_count()} cores\n"
        )
        print(
            "| round | mien predict | served | served / predict | CPU of each file | health checks | median | 99 % | longest |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for number in range(options.rounds):
            used = [cpu_seconds()]
            alone = predict_all(files, folder / f"out{number}")
            used.append(cpu_seconds())
            served, times = serve_all(files, folder / f"data{number}", options.clients, options.workers, options.checks)
            used.append(cpu_seconds())
            cpu = [(b - a) / len(files) for a, b in itertools.pairwise(used)]
            times.sort()
            rate = f"{len(files) / alone:.2f}/s | {len(files) / served:.2f}/s | {alone / served:.2f}"
            rate += f" | {cpu[0]:.2f} and {cpu[1]:.2f} s"
            middle, high = statistics.median(times), times[int(0.99 * (len(times) - 1))]
            print(
                f"| {number + 1} | {rate} | {len(times)} | {1000 * middle:.1f} ms | {1000 * high:.0f} ms | "
                f"{1000 * times[-1]:.0f} ms |",
                flush=True,
            )


if __name__ == "__main__":
    main()
