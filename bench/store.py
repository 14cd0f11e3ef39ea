"""Time and memory of the feature store at the simulated size of Aff-Wild2, beside h5py and one .npy for each clip.

    python bench/store.py [--scale 1.0] [--dir FOLDER] [--windows 2000] [--json FILE]

548 clips with 2.7 million face frames × 1024 and 25 hours of voice at 50 Hz × 1024, 16-bit: 14.7 GB. One backend at a
time is written, read and removed. `--scale 0.05` takes a twentieth of the clips. Each phase is a process of its own, so
that its memory can be measured. Before a cold read, the files are dropped from the page cache. Prints a Markdown table.

h5py: one file, one contiguous dataset for each clip and modality (its fastest layout for windows). npy: one file for
each clip and modality, read with `mmap_mode="r"`. mien also writes times, validity, provenance and a SHA-256, and
flushes each file to disk; the others are flushed once at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from phases import memory_mb, run_phase

CLIPS, DIM, WINDOW_S = 548, 1024, 4.0
FACE_FRAMES, FACE_HZ = 2_700_000, 30.0
VOICE_ROWS, VOICE_HZ = 25 * 3600 * 50, 50.0
MODALITIES = {"face": (FACE_FRAMES, FACE_HZ), "voice": (VOICE_ROWS, VOICE_HZ)}
BACKENDS = ("mien", "h5py", "npy")
PIECE = 2048


def lengths(scale: float) -> list[tuple[int, dict[str, int]]]:
    """(clip, modality -> rows). Log-normal lengths: clips of Aff-Wild2 last from seconds to a quarter of an hour."""
    share = np.random.default_rng(0).lognormal(0, 0.9, CLIPS)
    share /= share.sum()
    take = max(2, round(CLIPS * scale))
    return [(i, {name: max(300, int(rows * share[i])) for name, (rows, _) in MODALITIES.items()}) for i in range(take)]


def pieces(rows: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `rows` rows of values in pieces, from a pool, so that random number generation is not measured."""
    for start in range(0, rows, PIECE):
        place = (seed * 7919 + start) % (len(pool()) - PIECE)
        yield pool()[place : place + min(PIECE, rows - start)]


@cache
def pool() -> np.ndarray:
    """`(rows, DIM)` float16 random values."""
    return np.random.default_rng(1).standard_normal((8 * PIECE, DIM), np.float32).astype(np.float16)


def write_mien(folder: Path, scale: float) -> None:
    """Write all clips with mien."""
    from mien.store import FeatureStore

    store = FeatureStore(folder)
    for clip, rows in lengths(scale):
        for name, count in rows.items():
            rate = MODALITIES[name][1]
            with store.writer(name, f"clip{clip}", dim=DIM, provenance={"network": "simulated"}) as writer:
                done = 0
                for piece in pieces(count, clip):
                    writer.append(piece, (done + np.arange(len(piece))) / rate, np.ones(len(piece), bool))
                    done += len(piece)


def write_h5py(folder: Path, scale: float) -> None:
    """Write all clips with h5py."""
    import h5py

    with h5py.File(folder / "features.h5", "w") as file:
        for clip, rows in lengths(scale):
            for name, count in rows.items():
                data = file.create_dataset(f"{name}/clip{clip}", (count, DIM), np.float16)
                done = 0
                for piece in pieces(count, clip):
                    data[done : done + len(piece)] = piece
                    done += len(piece)


def write_npy(folder: Path, scale: float) -> None:
    """Write all clips with npy."""
    for clip, rows in lengths(scale):
        for name, count in rows.items():
            (folder / name).mkdir(exist_ok=True)
            path = folder / name / f"clip{clip}.npy"
            data = np.lib.format.open_memmap(path, "w+", np.float16, (count, DIM))
            done = 0
            for piece in pieces(count, clip):
                data[done : done + len(piece)] = piece
                done += len(piece)
            data.flush()


def reader_mien(folder: Path) -> Callable[[str, int, int, int], np.ndarray]:
    """Reader (modality, clip, start, stop) -> values of a store written by `write_mien`."""
    from mien.store import FeatureStore

    stores = {name: FeatureStore(folder).open(name, {"network": "simulated"}) for name in MODALITIES}
    return lambda name, clip, start, stop: stores[name][f"clip{clip}"].read(start, stop).values


def reader_h5py(folder: Path) -> Callable[[str, int, int, int], np.ndarray]:
    """Reader (modality, clip, start, stop) -> values of a store written by `write_h5py`."""
    import h5py

    file = h5py.File(folder / "features.h5")
    return lambda name, clip, start, stop: np.asarray(file[f"{name}/clip{clip}"][start:stop], np.float32)


def reader_npy(folder: Path) -> Callable[[str, int, int, int], np.ndarray]:
    """Reader (modality, clip, start, stop) -> values of a store written by `write_npy`."""

    def read(name: str, clip: int, start: int, stop: int) -> np.ndarray:
        data = np.load(folder / name / f"clip{clip}.npy", mmap_mode="r")
        return np.asarray(data[start:stop], np.float32)

    return read


def phase_write(backend: str, folder: Path, scale: float) -> dict[str, float]:
    """Write all clips."""
    pool()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    base = memory_mb()[0]
    began, used = time.perf_counter(), time.process_time()
    globals()[f"write_{backend}"](folder, scale)
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    cpu = time.process_time() - used
    grown = memory_mb()[0] - base
    return {"seconds": seconds, "cpu_s": cpu, "bytes": size, "mb_s": size / seconds / 1e6, "grown_mb": grown}


def phase_read(backend: str, folder: Path, scale: float, windows: int, cold: bool) -> dict[str, float]:
    """Read random windows of 4 s, face and voice of the same moment, as training does."""
    if cold:
        for path in folder.rglob("*"):
            if path.is_file():
                with open(path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    rng, clips = np.random.default_rng(2), lengths(scale)
    weights = np.array([rows["face"] for _, rows in clips], float)
    drawn = [(int(i), float(rng.random())) for i in rng.choice(len(clips), windows, p=weights / weights.sum())]
    began = time.perf_counter()
    read = globals()[f"reader_{backend}"](folder)
    opened = time.perf_counter() - began
    moved, check = 0, 0.0
    began, used = time.perf_counter(), time.process_time()
    for index, position in drawn:
        clip, rows = clips[index]
        for name, (_, rate) in MODALITIES.items():
            take = int(WINDOW_S * rate)
            start = int(position * max(0, rows[name] - take))
            values = read(name, clip, start, start + take)
            moved += values.size * 2
            check += float(values[0, 0])
    seconds = time.perf_counter() - began
    cpu_ms = 1000 * (time.process_time() - used) / windows
    rates = {"windows_s": windows / seconds, "mb_s": moved / seconds / 1e6, "cpu_ms": cpu_ms}
    return {"open_s": opened, "check": check, **rates}


def phase_verify(folder: Path) -> dict[str, float]:
    """Verify the checksums of mien's store."""
    from mien.store import FeatureStore

    began = time.perf_counter()
    faults = len(list(FeatureStore(folder).verify()))
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return {"faults": faults, "mb_s": size / (time.perf_counter() - began) / 1e6}


def run_child(options: argparse.Namespace) -> None:
    """Run one phase in this process and print its measurements."""
    folder = Path(options.dir)
    if options.phase == "write":
        result = phase_write(options.backend, folder, options.scale)
    elif options.phase == "verify":
        result = phase_verify(folder)
    else:
        result = phase_read(options.backend, folder, options.scale, options.windows, options.phase == "cold")
    peak, private = memory_mb()
    print(json.dumps(result | {"peak_mb": peak, "private_mb": private}))


def main() -> None:
    """Run all phases of all backends and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--dir", default=tempfile.gettempdir())
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--json")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    parser.add_argument("--backend", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        return run_child(options)
    size = sum(sum(rows.values()) for _, rows in lengths(options.scale)) * DIM * 2
    if shutil.disk_usage(options.dir).free < 1.3 * size:
        raise SystemExit(f"{options.dir} has no room for {size / 1e9:.1f} GB. Use another --dir or a smaller --scale.")
    results: dict[str, dict[str, Any]] = {}
    for backend in BACKENDS:
        with tempfile.TemporaryDirectory(dir=options.dir, prefix=f"bench-{backend}-") as folder:
            phases = ("write", "cold", "warm", *(("verify",) if backend == "mien" else ()))
            arguments = ["--backend", backend, "--dir", folder, "--scale", str(options.scale)]
            arguments += ["--windows", str(options.windows)]
            results[backend] = {phase: run_phase(__file__, ["--phase", phase, *arguments]) for phase in phases}
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2))
    return report(results, options, size)


def report(results: dict[str, dict[str, Any]], options: argparse.Namespace, size: int) -> None:
    """Print the table. size: bytes of all values."""
    clips = len(lengths(options.scale))
    print(f"### Feature store: {clips} clips, face and voice × {DIM}, 16-bit, {size / 1e9:.2f} GB\n")
    print(f"`python bench/store.py --scale {options.scale:g}`; {options.windows} windows of {WINDOW_S:g} s, both "
          f"modalities, as float32.\n")  # fmt: skip
    print("| | write MB/s | CPU s/GB | MB more while writing | open s | cold windows/s | warm windows/s "
          "| CPU ms/window | private MB reading |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for backend, phases in results.items():
        w, c, r = phases["write"], phases["cold"], phases["warm"]
        print(
            f"| {backend} | {w['mb_s']:.0f} | {w['cpu_s'] / w['bytes'] * 1e9:.1f} | {w['grown_mb']:.0f} "
            f"| {c['open_s']:.2f} | {c['windows_s']:.0f} | {r['windows_s']:.0f} | {r['cpu_ms']:.2f} "
            f"| {r['private_mb']:.0f} |"
        )
    verify = results["mien"]["verify"]
    print(f"\n`mien store verify`: {verify['mb_s']:.0f} MB/s, {verify['faults']} faults.")


if __name__ == "__main__":
    main()
