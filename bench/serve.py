"""Throughput of `mien serve` against `mien predict` on the same files, and health checks during the load.

    python bench/serve.py [--uploads 100] [--clients 8] [--checks 1000] [--seconds 2] [--workers N] [--rounds 1]

Renders a clip of `--seconds` (a synthetic person with a voice), as many copies as uploads. In each round `mien predict`
takes all of them in one process, and then as many clients as given send them to a server and wait for their timelines,
while another one asks /healthz all the time. Neither figure contains the start: the time of `mien predict` for one file
is subtracted, and each worker of the server has predicted one file before. `mien predict` runs with the priority of the
server's workers, so that other programs take as much of both. CPU: of one file, of `mien predict`, and of the server
and its workers without the clients. Prints a table.
"""

from __future__ import annotations

import argparse
import http.client
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
from mien.serve.settings import default_workers
from mien.serve.worker import NICE
from mien.synthetic.demo_clip import render_demo_clip

MIEN = [sys.executable, "-m", "mien"]
COLUMNS = ("round", "mien predict", "served", "ratio", "CPU", "health checks", "median", "99 %", "longest")


def predict_all(files: list[Path], out: Path) -> tuple[float, float]:
    """Seconds, and processor seconds, that `mien predict` needs for all files."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = ["nice", "-n", str(NICE), *MIEN, "predict", *map(str, files), "--format", "parquet", "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def cpu_of(pid: int) -> float:
    """Processor seconds of a process and its children, from /proc."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if path.parent.name == str(pid) or fields[1] == str(pid):
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


class HealthChecks(threading.Thread):
    """Asks /healthz until it is told to end; `times` are the seconds of each."""

    def __init__(self, url: str, most: int) -> None:
        super().__init__()
        self.times: list[float] = []
        self.ended = threading.Event()
        self._connection, self._most = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60), most

    def run(self) -> None:
        while not self.ended.wait(0.005) and len(self.times) < self._most:
            began = time.perf_counter()
            self._connection.request("GET", "/healthz")
            assert self._connection.getresponse().read()
            self.times.append(time.perf_counter() - began)


def serve_all(
    files: list[Path], folder: Path, clients: int, workers: int, checks: int
) -> tuple[float, float, list[float]]:
    """Seconds until all clients have their timelines, processor seconds of the server, seconds of each check."""
    command = [*MIEN, "serve", "--port", "0", "--folder", str(folder), "--workers", str(workers)]
    server = subprocess.Popen([*command, "--queue", str(len(files))], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        url = server.stderr.readline().split()[-1]

        def predict(path: Path) -> int:
            return len(Client(url).predict(path))

        with ThreadPoolExecutor(max(clients, workers)) as pool:
            list(pool.map(predict, files[:workers]))  # starts the workers and loads the model
            checker = HealthChecks(url, checks)
            checker.start()
            before, began = cpu_of(server.pid), time.perf_counter()
            rows = list(pool.map(predict, files))
        seconds, cpu = time.perf_counter() - began, cpu_of(server.pid) - before
        assert min(rows) > 0
        checker.ended.set()
        checker.join()
    finally:
        server.terminate()
        server.wait()
    return seconds, cpu, sorted(checker.times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uploads", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--checks", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--workers", type=int, default=default_workers(), help="as mien serve --workers")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        render_demo_clip(folder / "0.mp4", seconds=options.seconds)
        files = [folder / f"{n}.mp4" for n in range(options.uploads)]
        for path in files[1:]:
            os.link(files[0], path)
        number = len(files)
        print(f"{number} uploads of {options.seconds:g} s, {options.clients} clients, {options.workers} workers\n")
        print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for turn in range(options.rounds):
            start, start_cpu = predict_all(files[:1], folder / f"one{turn}")
            alone, alone_cpu = predict_all(files, folder / f"out{turn}")
            served, cpu, times = serve_all(
                files, folder / f"data{turn}", options.clients, options.workers, options.checks
            )
            rates = (number - 1) / (alone - start), number / served
            shown = statistics.median(times), times[int(0.99 * (len(times) - 1))], times[-1]
            cells = (
                str(turn + 1), f"{rates[0]:.2f}/s", f"{rates[1]:.2f}/s", f"{rates[1] / rates[0]:.2f}",
                f"{(alone_cpu - start_cpu) / (number - 1):.2f} and {cpu / number:.2f} s", str(len(times)),
                *(f"{1000 * seconds:.0f} ms" for seconds in shown),
            )  # fmt: skip
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
