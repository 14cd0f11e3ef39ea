"""Damaged inputs for every reader: media, and the files of mien's own.

    python bench/fuzz.py [--seed 0] [--count 1000] [--seconds S] [--only media] [--out FOLDER]
    python bench/fuzz.py --replay FOLDER/000017_media-mp4

Makes small intact files itself, damages them (bits, numbers, spans, cuts, splices, values and lines of text), and reads
them in a process that is started anew only when it ends. Input n of a seed number is always the same.

A finding is an exception that is not one of `mien.errors`, the end of the process, more than 10 s of processor time, or
more than 600 MB of memory. Prints how often each outcome occurred, the slowest input and the one with the largest peak
of memory. Findings are kept in FOLDER with their tracebacks, and make the exit status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import mutate
from fuzz_readers import READERS

LIMIT_S, LIMIT_MB = 10.0, 600.0
#: Seconds of waiting, no thread of it being ready to run, after which a process counts as hung.
STALLED_S = 60.0
#: Share of the inputs that are media.
MEDIA_SHARE = 0.7
#: Suffixes of files of text.
TEXT = frozenset((".json", ".jsonl", ".csv", ".yaml", ".txt"))


@dataclass(frozen=True, slots=True)
class Input:
    """A damaged input. number: of the run. seed: name of the intact one. folder: its files."""

    number: int
    seed: str
    folder: Path

    @property
    def reader(self) -> str:
        """Name of its reader."""
        return self.seed.split("-")[0]


class Worker:
    """The process that reads inputs; started at first use and after it ended."""

    def __init__(self, readers: Sequence[str]) -> None:
        self._readers = readers
        self._process: subprocess.Popen[str] | None = None

    def read(self, item: Input) -> dict[str, Any]:
        """Outcome, seconds, mb and trace of an input, as `fuzz_readers` answers; "! ..." where the process ended."""
        process = self._process or self._start()
        assert process.stdin is not None
        before = _processor_s(process.pid)
        try:
            process.stdin.write(f"{item.reader}\t{item.number}\t{item.folder}\n")
            process.stdin.flush()
            line = self._wait(process, before)
        except BrokenPipeError:
            line = ""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        spent = _processor_s(process.pid) - before
        try:
            ended = process.wait(timeout=1)  # its output ends a little before it does
        except subprocess.TimeoutExpired:
            ended = None
        self.close()
        outcome = "! no answer" if ended is None else f"! process ended with {ended}"
        return {"outcome": outcome, "seconds": spent, "mb": 0.0, "trace": ""}

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(Path(__file__).with_name("fuzz_readers.py")), *self._readers]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError("the process of the readers does not start: run it by hand to see why")
        return self._process

    def _wait(self, process: subprocess.Popen[str], before: float) -> str:
        """The answer; "" if the process ends, computes for too long or stalls."""
        assert process.stdout is not None
        waited_s = 0.0
        while waited_s < STALLED_S and _processor_s(process.pid) - before <= LIMIT_S + 2:
            if select.select([process.stdout], [], [], 0.5)[0]:
                return process.stdout.readline()
            waited_s += 0.0 if _is_ready(process.pid) else 0.5  # on a busy machine it may not get its turn
        return ""

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _is_ready(pid: int) -> bool:
    """Whether a thread of a process runs or waits for a processor."""
    states = []
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(thread.read_text(encoding="ascii", errors="replace").rsplit(")", 1)[1].split()[0])
    return "R" in states


def _processor_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_seeds(folder: Path, readers: Sequence[str]) -> list[Path]:
    """Folders of the intact inputs of some readers, made in a process of their own, because that imports torch."""
    script = "import sys, pathlib, fuzz_seeds as s; f = pathlib.Path(sys.argv[1])"
    makers = ["s.make_media(f)"] * ("media" in readers) + ["s.make_own(f)"] * (set(readers) != {"media"})
    command = [sys.executable, "-c", "; ".join([script, *makers]), str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return sorted(place for place in folder.iterdir() if place.name.split("-")[0] in readers)


def damaged_inputs(seeds: Sequence[Path], seed: int, work: Path) -> Iterator[Input]:
    """Inputs without end. The files of each are removed when the next one is made."""
    media = [place for place in seeds if place.name.startswith("media-")]
    own = [place for place in seeds if place not in media]
    number = 0
    while True:
        rng = np.random.default_rng([seed, number])
        places = media if (rng.random() < MEDIA_SHARE and media) or not own else own
        place = places[int(rng.integers(len(places)))]
        folder = work / f"{number:06d}_{place.name}"
        shutil.copytree(place, folder)
        files = sorted(path for path in folder.rglob("*") if (path.is_file() and path.suffix != ".wav") or
                       (path.is_file() and place.name == "media-wav"))  # fmt: skip
        path = files[int(rng.integers(len(files)))]
        peers = sorted(p for p in places[int(rng.integers(len(places)))].rglob("*") if p.is_file())
        other = peers[int(rng.integers(len(peers)))].read_bytes()
        path.write_bytes(mutate(path.read_bytes(), other, rng, is_text=path.suffix in TEXT))
        yield Input(number, place.name, folder)
        shutil.rmtree(folder)
        number += 1


class Record:
    """Outcomes, extremes and findings of a run. out: folder in which findings are kept."""

    def __init__(self, out: Path) -> None:
        self.out, self.findings = out, 0
        self.outcomes: Counter[str] = Counter()
        self.slowest = self.largest = (0.0, "none")

    def add(self, item: Input, answer: dict[str, Any]) -> None:
        """Count an answer, and keep the input if it is a finding."""
        name, seconds, mb = item.folder.name, answer["seconds"], answer["mb"]
        outcome = answer["outcome"]
        if seconds > LIMIT_S:
            outcome = f"! over {LIMIT_S:.0f} s"
        elif mb > LIMIT_MB:
            outcome = f"! over {LIMIT_MB:.0f} MB"
        kind = "media" if item.reader == "media" else "own files"
        self.outcomes[f"{kind}: {outcome}"] += 1
        self.slowest, self.largest = max(self.slowest, (seconds, name)), max(self.largest, (mb, name))
        if outcome.startswith("!") or answer["trace"]:
            self.findings += 1
            self.out.mkdir(parents=True, exist_ok=True)
            shutil.copytree(item.folder, self.out / name, dirs_exist_ok=True)
            about = f"{outcome}\n{seconds:.2f} s, {mb:.0f} MB\n\n{answer['trace']}"
            (self.out / f"{name}.txt").write_text(about, encoding="utf-8")
            print(f"finding {name}: {outcome[2:]}  {answer['trace'].strip().splitlines()[-1:]}", flush=True)

    def report(self, elapsed_s: float) -> None:
        """Print the figures."""
        total = sum(self.outcomes.values())
        print(f"{total} inputs in {elapsed_s:.0f} s, {self.findings} findings")
        for outcome, times in sorted(self.outcomes.items(), key=lambda pair: (-pair[1], pair[0])):
            print(f"  {times:6d}  {outcome}")
        print(f"slowest         {self.slowest[0]:.2f} s of processor time  {self.slowest[1]}")
        print(f"largest memory  {self.largest[0]:.0f} MB  {self.largest[1]}", flush=True)


def run(options: argparse.Namespace) -> int:
    """Read the inputs; return the number of findings."""
    readers = [options.only] if options.only in READERS else [
        name for name in READERS if options.only is None or (options.only == "own") == (name != "media")
    ]  # fmt: skip
    record, worker, start = Record(options.out), Worker(readers), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mien-fuzz-") as scratch:
        seeds_folder, work = Path(scratch) / "seeds", Path(scratch) / "work"
        try:
            for item in damaged_inputs(make_seeds(seeds_folder, readers), options.seed, work):
                enough_s = options.seconds is not None and time.monotonic() - start > options.seconds
                if item.number >= options.count or enough_s:
                    break
                record.add(item, worker.read(item))
                if item.number % 1000 == 999:
                    record.report(time.monotonic() - start)
        finally:
            worker.close()
    record.report(time.monotonic() - start)
    return record.findings


def replay(folder: Path) -> int:
    """Read one kept input again and print its answer; return 1 if it is a finding still."""
    number, seed = folder.name.split("_", 1)
    worker = Worker([seed.split("-")[0]])
    with tempfile.TemporaryDirectory(prefix="mien-fuzz-") as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / folder.name))
        answer = worker.read(Input(int(number), seed, copy))
    worker.close()
    print(f"{answer['outcome']}  {answer['seconds']:.2f} s  {answer['mb']:.0f} MB\n{answer['trace']}")
    is_over = answer["seconds"] > LIMIT_S or answer["mb"] > LIMIT_MB
    return int(is_over or bool(answer["trace"]) or answer["outcome"].startswith("!"))


def main() -> None:
    """Run, or replay findings."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="number that decides the inputs")
    parser.add_argument("--count", type=int, default=1000, help="inputs to read")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--only", choices=["media", "own", *(name for name in READERS if name != "media")])
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder for inputs that fail")
    parser.add_argument("--replay", type=Path, nargs="+", help="kept inputs to read again")
    options = parser.parse_args()
    found = sum(map(replay, options.replay)) if options.replay else run(options)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
