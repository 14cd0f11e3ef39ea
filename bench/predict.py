"""Time and memory of `mien predict` as a whole process, by length of the video, beside a plain loop.

    python bench/predict.py [--seconds 60] [--long 600] [--runs 3] [--clip FILE]
    python bench/predict.py --memory
    python bench/predict.py --model beit-wavlm [--seconds 2]

The plain loop (`predict_baseline.py`) is what a user would write: OpenCV's VideoCapture, a face detector on every
frame, an expression network on every face; no sound, no tracking, no timestamps. It runs only if its two networks are
in a folder of MIEN_HUB. Prints Markdown tables.

--memory measures the peak memory of the decoding pass with wide encoders of every kind (`predict_memory.py`), on clips
of both lengths. --model beit-wavlm measures the flagship on BEiT-Large and WavLM-Large with random weights beside a
plain transformers loop (`predict_encoders.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import av
import numpy as np

BASELINE = Path(__file__).with_name("predict_baseline.py")
#: Runs a command and appends its wall seconds, peak memory in kB and CPU seconds to its output.
CHILD = """
import resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
sys.stdout.buffer.write(done.stdout)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"\\n@ {time.perf_counter() - began} {usage.ru_maxrss} {usage.ru_utime + usage.ru_stime}")
sys.exit(done.returncode)
"""


def measure(*command: str) -> tuple[str, float, float, float]:
    """Run a command; return its output, wall seconds, peak memory in MB and CPU seconds."""
    done = subprocess.run([sys.executable, "-c", CHILD, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    output, _, figures = done.stdout.rpartition("\n@ ")
    wall, peak, cpu = map(float, figures.split())
    return output, wall, peak / 1024, cpu


def repeat_clip(source: Path, path: Path, seconds: float) -> Path:
    """Write `source` to `path` repeatedly until `seconds`, copying packets without encoding."""
    with av.open(str(source)) as first, av.open(str(path), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in first.streams if s.type in ("video", "audio")}
        length = max(float(s.duration * s.time_base) for s in first.streams if s.duration and s.time_base)
        rate = first.streams.video[0].average_rate
        assert rate is not None
        period = round(length * rate) / rate
        last: dict[int, int] = {}
        for turn in range(max(1, round(seconds / float(period)))):
            first.seek(0)
            for packet in first.demux():
                if packet.dts is None or packet.pts is None or packet.time_base is None:
                    continue
                stream = streams[packet.stream.index]
                shift = round(turn * period / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                if packet.dts <= last.get(stream.index, packet.dts - 1):
                    continue  # the audio is one packet longer than the video
                last[stream.index] = packet.dts
                packet.stream = stream
                out.mux(packet)
    return path


def render_clip(folder: Path) -> Path:
    """Render 20 s of a synthetic person."""
    from mien.synthetic.demo_clip import render_demo_clip

    path = folder / "source.mp4"
    render_demo_clip(path, seconds=20.0)
    return path


def measure_clip(clip: Path, seconds: float, runs: int, out: Path) -> dict[str, Any]:
    """Run `mien predict` on a clip of `seconds`; medians over the runs, and the report of the last one."""
    with av.open(str(clip)) as container:
        video = container.streams.video[0]
        frames, size = video.frames, f"{video.width}x{video.height}"
    command = [str(Path(sys.executable).with_name("mien")), "predict", str(clip), "--out", str(out), "--json"]
    outputs, walls, peaks, cpus = zip(*(measure(*command) for _ in range(runs)), strict=True)
    wall, peak, cpu = statistics.median(walls), max(peaks), statistics.median(cpus)
    print(f"{seconds:g} s of {size}, {frames} frames: {wall:.2f} s, {seconds / wall:.1f}x, {peak:.0f} MB", flush=True)
    report = json.loads(outputs[-1])["results"][0]
    return {"frames": frames, "wall": wall, "peak": peak, "cpu": cpu, "report": report}


def main() -> None:
    """Measure clips of both lengths and the plain loop, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--long", type=float, default=600)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--clip", type=Path, help="repeat this file instead of a rendered clip")
    parser.add_argument("--memory", action="store_true", help="peak memory of the decoding pass with wide encoders")
    parser.add_argument("--model", choices=["beit-wavlm"], help="the flagship on large encoders, random weights")
    options = parser.parse_args()
    if options.model:
        from predict_encoders import compare_encoders

        compare_encoders(options.seconds if "--seconds" in sys.argv else 2.0)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = options.clip or render_clip(folder)
        clips = {s: repeat_clip(source, folder / f"{s:g}s.mp4", s) for s in (options.seconds, options.long)}
        if options.memory:
            measure_memory(clips)
            return
        rows = {
            s: measure_clip(clip, s, options.runs if s == options.seconds else 1, folder / "out")
            for s, clip in clips.items()
        }
        print("\n| clip | frames | rows | wall s | x real time | CPU s | ms a frame | peak MB |\n" + "|---" * 8 + "|")
        for seconds, row in rows.items():
            print(
                f"| {seconds:g} s | {row['frames']} | {row['report']['rows']} | {row['wall']:.2f} "
                f"| {seconds / row['wall']:.1f} | {row['cpu']:.2f} | {1000 * row['wall'] / row['frames']:.2f} "
                f"| {row['peak']:.0f} |"
            )
        stages = rows[options.seconds]["report"]["seconds"]
        shares = ", ".join(f"{k} {v:.2f}" for k, v in stages.items())
        print(f"\nWhere the time goes ({options.seconds:g} s clip, seconds of each stage's thread): {shares}")
        measure_baseline(clips[options.seconds], options.seconds)
    print(f"\nthis process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, numpy {np.__version__}")


def measure_memory(clips: dict[float, Path]) -> None:
    """Print the peak memory of the decoding pass on each clip."""
    peaks = {
        seconds: float(measure(sys.executable, str(Path(__file__).with_name("predict_memory.py")), str(clip))[0])
        for seconds, clip in clips.items()
    }
    print("\n| clip | peak MB |\n|---|---|")
    for seconds, peak in peaks.items():
        print(f"| {seconds:g} s | {peak:.0f} |")
    print(f"\nratio {max(peaks.values()) / min(peaks.values()):.2f}")


def measure_baseline(clip: Path, seconds: float) -> None:
    """Measure the plain loop if its networks are here."""
    for mirror in os.environ.get("MIEN_HUB", "").split(os.pathsep):
        nets = [Path(mirror) / "ultraface-rfb-320.onnx", Path(mirror) / "fer-mini-xception.onnx"]
        if mirror and all(n.is_file() for n in nets):
            _, wall, peak, _ = measure(sys.executable, str(BASELINE), str(clip), *map(str, nets))
            print(f"\nplain loop (no sound, no tracks): {wall:.2f} s, {seconds / wall:.1f}x real time, {peak:.0f} MB")
            return
    print("\nplain loop: not run, its networks are not in MIEN_HUB")


if __name__ == "__main__":
    main()
