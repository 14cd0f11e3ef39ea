"""Extraction of a rendered synthetic corpus with the starter's encoders: processes, Ray, and what the pipeline costs.

    python bench/extraction.py [--videos 12] [--seconds 20] [--root CORPUS] [--no-ray] [--json FILE]

The plain loop decodes the same recordings, reads their faces and encodes both streams by hand, in one process, and
stores nothing: what extraction takes beyond it is lost to the pipeline. Start-up (importing, making encoders) is
counted apart. `--root` takes a folder of media or an Aff-Wild2 layout that is there already. Prints a Markdown
section for docs/BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ENCODERS = ["face-geometry", "voice-prosody"]


def plain(root: Path) -> dict[str, float]:
    """The same work without mien's extraction. A subprocess, one thread a library, as a worker has."""
    import numpy as np

    from mien.datasets.index import Index
    from mien.encoders import face_geometry
    from mien.encoders.voice_prosody import ProsodyExtractor
    from mien.faces.tracker import FaceTracker
    from mien.media.audio import blocks
    from mien.media.video import frames

    index = Index.load(root / "index.jsonl")
    media = sorted({index.root / entry.media for entry in index.entries if entry.media})
    voice = ProsodyExtractor()
    parts = dict.fromkeys(("decode", "faces", "face encoder", "sound and voice encoder"), 0.0)
    began = time.perf_counter()
    for path in media:
        reader, measures, times = FaceTracker(), [], []
        last = time.perf_counter()
        for frame in frames(path):
            now = time.perf_counter()
            parts["decode"] += now - last
            found = reader(frame)
            last = time.perf_counter()
            parts["faces"] += last - now
            measures.append(
                face_geometry.geometry(found[0].mesh[None])[0] if found else np.full(face_geometry.DIM // 2, np.nan)
            )
            times.append(frame.time_s)
            now = last
            last = time.perf_counter()
            parts["face encoder"] += last - now
        now = time.perf_counter()
        if times:
            face_geometry.encode(np.stack(measures), np.array(times))
        last = time.perf_counter()
        parts["face encoder"] += last - now
        voice(blocks(path))
        parts["sound and voice encoder"] += time.perf_counter() - last
    return {"seconds": time.perf_counter() - began, **parts}


def mien(root: Path, workers: int, ray: str | None) -> dict[str, float]:
    from mien.datasets.index import Index
    from mien.extract import extract

    index = Index.load(root / "index.jsonl")
    with tempfile.TemporaryDirectory(dir=root) as store:
        began = time.perf_counter()
        report = extract(index, ENCODERS, store, workers=workers, ray=ray, threads=1)
        wall = time.perf_counter() - began
        if report.failures:
            raise SystemExit(str(report.failures[0]))
        return {"wall": wall, "seconds": report.elapsed_s, "clips": report.clips, "media": report.media_s}


def in_process(root: Path, what: str) -> dict[str, float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--phase", what, "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{what}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def prepare(options: argparse.Namespace, folder: Path) -> None:
    from mien.datasets.index import index

    if options.root:
        root = Path(options.root)
        layout = any(root.rglob("Train_Set"))
        index("aff-wild2" if layout else "folder", root).save(folder / "index.jsonl")
        return
    from mien.synthetic import affwild2_export

    affwild2_export.write(folder / "synthetic", options.videos, options.seconds, 0)
    index("synthetic", folder / "synthetic").save(folder / "index.jsonl")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--root")
    parser.add_argument("--no-ray", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase:
        root, (what, _, count) = Path(options.root), options.phase.partition(":")
        found = plain(root) if what == "plain" else mien(root, int(count), "auto" if what == "ray" else None)
        return print(json.dumps(found))
    folder = Path(tempfile.mkdtemp(prefix="bench-extraction-"))
    try:
        prepare(options, folder)
        phases = ["plain", "processes:1", "processes:2", *([] if options.no_ray else ["ray:2"])]
        results: dict[str, Any] = {phase: in_process(folder, phase) for phase in phases}
    finally:
        shutil.rmtree(folder)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2))
    return report(results)


def report(results: dict[str, Any]) -> None:
    one = results["processes:1"]
    base = results["plain"]
    print(f"### Extraction: {one['clips']:.0f} clips, {one['media']:.0f} s, {' and '.join(ENCODERS)}\n")
    print("| | clips/min | × real time | seconds | start-up s | scaling efficiency |")
    print("|---|---|---|---|---|---|")
    for name, found in results.items():
        if name == "plain":
            rate, speed = 60 * one["clips"] / found["seconds"], one["media"] / found["seconds"]
            print(f"| plain loop, nothing stored | {rate:.1f} | {speed:.1f} | {found['seconds']:.1f} | | |")
            continue
        kind, _, count = name.partition(":")
        rate, speed = 60 * found["clips"] / found["seconds"], found["media"] / found["seconds"]
        efficiency = "" if count == "1" else f"{one['seconds'] / found['seconds'] / int(count):.2f}"
        start = found["wall"] - found["seconds"]
        label = f"{count} {'Ray actors' if kind == 'ray' else 'process' + 'es' * (count != '1')}"
        print(f"| {label} | {rate:.1f} | {speed:.1f} | {found['seconds']:.1f} | {start:.1f} | {efficiency} |")
    lost = 1 - base["seconds"] / one["seconds"]
    print(f"\nLost to the pipeline (one process against the plain loop): {100 * lost:.1f} %.")
    shares = ", ".join(f"{k} {100 * v / base['seconds']:.0f} %" for k, v in base.items() if k != "seconds")
    print(f"The plain loop's time: {shares}.")


if __name__ == "__main__":
    main()
