"""`mien predict` as a whole process: speed against length, peak memory, where the time goes; beside a plain loop.

    python bench/predict.py [--seconds 60] [--long 600] [--runs 3] [--clip FILE]

The plain loop is what a user would write today: OpenCV's VideoCapture, a face detector on every frame, an expression
network on every face; no sound, no tracking, no timestamps. It runs where its two networks are (MIEN_HUB).
Prints a Markdown section for docs/BENCHMARKS.md.
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
import time
from pathlib import Path

import av
import numpy as np

CHILD = """
import resource, subprocess, sys, time
began = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE)
sys.stdout.buffer.write(done.stdout)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"\\n@ {time.perf_counter() - began} {usage.ru_maxrss} {usage.ru_utime + usage.ru_stime}")
sys.exit(done.returncode)
"""

PLAIN = """
import sys, cv2, numpy as np, onnxruntime
cv2.setNumThreads(2)
detector = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
face_net = onnxruntime.InferenceSession(sys.argv[3], providers=["CPUExecutionProvider"])
d, f = detector.get_inputs()[0].name, face_net.get_inputs()[0]
video, rows = cv2.VideoCapture(sys.argv[1]), 0
while True:
    ok, frame = video.read()
    if not ok:
        break
    small = cv2.resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), (320, 240))
    scores, boxes = detector.run(None, {d: ((small.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]})
    best = scores[0, :, 1].argmax()
    if scores[0, best, 1] > .7:
        x1, y1, x2, y2 = (boxes[0, best] * np.tile(frame.shape[1::-1], 2)).clip(0).astype(int)
        if x2 > x1 + 4 and y2 > y1 + 4:
            grey = cv2.resize(cv2.cvtColor(frame[y1:y2, x1:x2], cv2.COLOR_BGR2GRAY), (64, 64))
            shape = [n if isinstance(n, int) else 1 for n in f.shape]
            face_net.run(None, {f.name: ((grey.astype(np.float32) / 255 - .5) * 2).reshape(shape)})
    rows += 1
print(rows)
"""


def measured(*command: str) -> tuple[str, float, float, float]:
    """Output, wall seconds, peak MB and CPU seconds of one whole process."""
    done = subprocess.run([sys.executable, "-c", CHILD, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    output, _, figures = done.stdout.rpartition("\n@ ")
    wall, peak, cpu = map(float, figures.split())
    return output, wall, peak / 1024, cpu


def looped(source: Path, path: Path, seconds: float) -> Path:
    """`source` again and again until `seconds`, packets copied: the pictures cost nothing to make."""
    with av.open(str(source)) as first, av.open(str(path), "w") as out:
        streams = {s.index: out.add_stream_from_template(s) for s in first.streams if s.type in ("video", "audio")}
        length = max(float(s.duration * s.time_base) for s in first.streams if s.duration)
        video = first.streams.video[0]
        length = round(length * video.average_rate) / video.average_rate
        last: dict[int, int] = {}
        for turn in range(max(1, round(seconds / float(length)))):
            first.seek(0)
            for packet in first.demux():
                if packet.dts is None:
                    continue
                stream = streams[packet.stream.index]
                shift = round(turn * length / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                if packet.dts <= last.get(stream.index, packet.dts - 1):
                    continue  # the sound is a packet longer than the pictures
                last[stream.index] = packet.dts
                packet.stream = stream
                out.mux(packet)
    return path


def synthetic_clip(folder: Path) -> Path:
    from mien.synthetic.demo_clip import demo_clip

    path = folder / "source.mp4"
    demo_clip(path, seconds=20.0)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--long", type=float, default=600)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--clip", type=Path, help="loop this file instead of a rendered clip")
    options = parser.parse_args()
    mien = str(Path(sys.executable).with_name("mien"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = options.clip or synthetic_clip(folder)
        clips = {s: looped(source, folder / f"{s:g}s.mp4", s) for s in (options.seconds, options.long)}
        rows = []
        for seconds, clip in clips.items():
            with av.open(str(clip)) as container:
                video = container.streams.video[0]
                frames, size = video.frames, f"{video.width}x{video.height}"
            runs = []
            for _ in range(options.runs if seconds == options.seconds else 1):
                output, wall, peak, cpu = measured(mien, "predict", str(clip), "--out", str(folder / "out"), "--json")
                runs.append((wall, peak, cpu, json.loads(output)["results"][0]))
            wall = statistics.median(r[0] for r in runs)
            peak, cpu = max(r[1] for r in runs), statistics.median(r[2] for r in runs)
            result = runs[-1][3]
            rows.append((seconds, frames, wall, peak, cpu, result))
            print(
                f"{seconds:g} s of {size}, {frames} frames: {wall:.2f} s, {seconds / wall:.1f}x, {peak:.0f} MB",
                flush=True,
            )
        print("\n| clip | frames | rows | wall s | x real time | CPU s | ms a frame | peak MB |\n" + "|---" * 8 + "|")
        for seconds, frames, wall, peak, cpu, result in rows:
            print(
                f"| {seconds:g} s | {frames} | {result['rows']} | {wall:.2f} | {seconds / wall:.1f} | {cpu:.2f} "
                f"| {1000 * wall / frames:.2f} | {peak:.0f} |"
            )
        stages = rows[0][5]["seconds"]
        print(
            f"\nWhere the time goes ({rows[0][0]:g} s clip, seconds of each stage's thread): "
            + ", ".join(f"{k} {v:.2f}" for k, v in stages.items())
        )
        plain(clips[options.seconds], options.seconds)
    print(f"\nthis process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB, numpy {np.__version__}")


def plain(clip: Path, seconds: float) -> None:
    for mirror in os.environ.get("MIEN_HUB", "").split(os.pathsep):
        nets = [Path(mirror) / "ultraface-rfb-320.onnx", Path(mirror) / "fer-mini-xception.onnx"]
        if mirror and all(n.is_file() for n in nets):
            began = time.perf_counter()
            _, wall, peak, _ = measured(sys.executable, "-c", PLAIN, str(clip), *map(str, nets))
            print(f"\nplain loop (no sound, no tracks): {wall:.2f} s, {seconds / wall:.1f}x real time, {peak:.0f} MB")
            assert time.perf_counter() >= began
            return
    print("\nplain loop: not run, its networks are not in MIEN_HUB")


if __name__ == "__main__":
    main()
