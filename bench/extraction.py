"""Extraction of a rendered synthetic corpus with the starter's encoders: local processes, Ray, and pipeline overhead.

    python bench/extraction.py [--videos 12] [--seconds 20] [--root CORPUS] [--no-ray] [--json FILE]

The plain loop decodes the same recordings, detects faces and encodes both streams in one process, and stores nothing:
the time beyond it is overhead of the pipeline. Start-up (imports, making encoders) is reported separately. `--root` is
an existing folder of media or an Aff-Wild2 layout. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from phases import run_phase

ENCODERS = ["face-geometry", "voice-prosody"]


def run_plain_loop(root: Path) -> dict[str, float]:
    """Do the same work without mien's extraction; seconds of each part."""
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
        tracker, measures, times = FaceTracker(), [], []
        last = time.perf_counter()
        for frame in frames(path):
            now = time.perf_counter()
            parts["decode"] += now - last
            faces = tracker(frame)
            last = time.perf_counter()
            parts["faces"] += last - now
            measures.append(
                face_geometry.compute_features(faces[0].mesh[None])[0]
                if faces
                else np.full(face_geometry.DIM // 2, np.nan)
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


def run_extraction(root: Path, workers: int, ray: str | None) -> dict[str, float]:
    """Extract the corpus with mien; seconds with and without start-up."""
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


def prepare(options: argparse.Namespace, folder: Path) -> None:
    """Write the index of the corpus, which is rendered unless `--root` names one."""
    from mien.datasets.index import build_index

    if options.root:
        root = Path(options.root)
        layout = any(root.rglob("Train_Set"))
        build_index("aff-wild2" if layout else "folder", root).save(folder / "index.jsonl")
        return
    from mien.synthetic import affwild2_export

    affwild2_export.write_corpus(folder / "synthetic", options.videos, options.seconds, 0)
    build_index("synthetic", folder / "synthetic").save(folder / "index.jsonl")


def main() -> None:
    """Run all phases and print a table."""
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
        result = (
            run_plain_loop(root)
            if what == "plain"
            else run_extraction(root, int(count), "auto" if what == "ray" else None)
        )
        return print(json.dumps(result))
    folder = Path(tempfile.mkdtemp(prefix="bench-extraction-"))
    try:
        prepare(options, folder)
        phases = ["plain", "processes:1", "processes:2", *([] if options.no_ray else ["ray:2"])]
        one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # as a worker has
        results: dict[str, Any] = {
            phase: run_phase(__file__, ["--phase", phase, "--root", str(folder)], one_thread) for phase in phases
        }
    finally:
        shutil.rmtree(folder)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=2))
    return report(results)


def report(results: dict[str, Any]) -> None:
    """Print the table."""
    one = results["processes:1"]
    base = results["plain"]
    print(f"### Extraction: {one['clips']:.0f} clips, {one['media']:.0f} s, {' and '.join(ENCODERS)}\n")
    print("| | clips/min | × real time | seconds | start-up s | scaling efficiency |")
    print("|---|---|---|---|---|---|")
    for name, row in results.items():
        if name == "plain":
            rate, speed = 60 * one["clips"] / row["seconds"], one["media"] / row["seconds"]
            print(f"| plain loop, nothing stored | {rate:.1f} | {speed:.1f} | {row['seconds']:.1f} | | |")
            continue
        kind, _, count = name.partition(":")
        rate, speed = 60 * row["clips"] / row["seconds"], row["media"] / row["seconds"]
        efficiency = "" if count == "1" else f"{one['seconds'] / row['seconds'] / int(count):.2f}"
        start = row["wall"] - row["seconds"]
        label = f"{count} {'Ray actors' if kind == 'ray' else 'process' + 'es' * (count != '1')}"
        print(f"| {label} | {rate:.1f} | {speed:.1f} | {row['seconds']:.1f} | {start:.1f} | {efficiency} |")
    overhead = 1 - base["seconds"] / one["seconds"]
    print(f"\nOverhead of the pipeline (one process against the plain loop): {100 * overhead:.1f} %.")
    shares = ", ".join(f"{k} {100 * v / base['seconds']:.0f} %" for k, v in base.items() if k != "seconds")
    print(f"The plain loop's time: {shares}.")


if __name__ == "__main__":
    main()
