"""Seconds of computation per second of video of the flagship on BEiT-Large and WavLM-Large, random weights.

    python bench/predict.py --model beit-wavlm [--seconds 2]

mien predicts a rendered clip with a checkpoint of `safe_cross_attention` that reads both encoders, in float32 and in
int8: decoding, face tracking, both encoders and the fusion, after a first prediction of a short clip that loads and
quantises them. The plain loop is what a user would write with transformers: OpenCV's VideoCapture, each frame resized
to 224 x 224 (no face detection), processor and model one frame at a time, and the sound in one piece, in float32.
Each variant runs in a process of its own; processor seconds count, because other load on the machine does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PRECISIONS = ("float32", "int8")
PLAIN = "plain loop"


def compare_encoders(seconds: float) -> None:
    """Measure the plain loop and mien, and print a table."""
    from encoders import save_beit, save_wavlm
    from predict import render_clip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = render_clip(folder)
        clip, short = cut_clip(source, folder / "clip.mp4", seconds), cut_clip(source, folder / "short.mp4", 0.3)
        weights = save_beit(folder / "beit"), save_wavlm(folder / "wavlm")
        runs = {precision: save_run(folder / precision, *weights, precision) for precision in PRECISIONS}
        rows = {PLAIN: run(PLAIN, clip, *weights)}
        for precision, checkpoint in runs.items():
            rows[f"mien {precision}"] = run(precision, clip, short, checkpoint)
    print("\n| | CPU s per s of video | wall s per s of video | times the plain loop |\n|---|---|---|---|")
    for title, (cpu, wall) in rows.items():
        print(f"| {title} | {cpu / seconds:.1f} | {wall / seconds:.1f} | {rows[PLAIN][0] / cpu:.2f} |")


def cut_clip(source: Path, path: Path, seconds: float) -> Path:
    """Write the first seconds of a clip."""
    from mien.media.video import frames
    from mien.media.video import write_video as write

    pictures = [frame for frame in frames(source) if frame.time_s < seconds]
    write(path, (f.image for f in pictures), times=[f.time_s for f in pictures], audio=source)
    return path


def save_run(folder: Path, beit: Path, wavlm: Path, precision: str) -> Path:
    """Save a checkpoint with random weights that reads both encoders."""
    import torch

    from mien import checkpoint, config, models

    features = [
        f"features.face.options={{source: {beit}, precision: {precision}}}",
        f"features.voice.options={{source: {wavlm}, precision: {precision}}}",
    ]
    recipe = config.load("safe_cross_attention", features, check=models.problems)
    torch.manual_seed(0)
    return checkpoint.save(folder, models.build(recipe), recipe)


def run(what: str, *arguments: Path) -> tuple[float, float]:
    """Processor and wall seconds of a variant, measured in a process of its own."""
    command = [sys.executable, __file__, what, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu, wall = json.loads(done.stdout.splitlines()[-1])
    print(f"{what}: {cpu:.1f} CPU s, {wall:.1f} s", flush=True)
    return cpu, wall


def predict(clip: Path, short: Path, checkpoint: Path) -> tuple[float, float]:
    """Time mien's second prediction."""
    import mien

    predictor = mien.load(checkpoint, device="cpu")
    predictor.predict(short)
    start, cpu = time.perf_counter(), time.process_time()
    predictor.predict(clip)
    return time.process_time() - cpu, time.perf_counter() - start


def plain(clip: Path, beit: Path, wavlm: Path) -> tuple[float, float]:
    """Time the plain loop, without loading the models."""
    import cv2
    import torch
    from transformers import AutoFeatureExtractor, AutoImageProcessor, BeitModel, WavLMModel

    from mien.media.audio import load

    image_processor, image_model = AutoImageProcessor.from_pretrained(beit), BeitModel.from_pretrained(beit).eval()
    extractor, sound_model = AutoFeatureExtractor.from_pretrained(wavlm), WavLMModel.from_pretrained(wavlm).eval()
    start, cpu = time.perf_counter(), time.process_time()
    video = cv2.VideoCapture(str(clip))
    with torch.inference_mode():
        while True:
            ok, frame = video.read()
            if not ok:
                break
            image = cv2.cvtColor(cv2.resize(frame, (224, 224)), cv2.COLOR_BGR2RGB)
            image_model(**image_processor(image, return_tensors="pt"))
        _, samples = load(clip)
        sound_model(**extractor(samples, sampling_rate=16_000, return_tensors="pt"))
    return time.process_time() - cpu, time.perf_counter() - start


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    paths = [Path(argument) for argument in sys.argv[2:]]
    print(json.dumps(plain(*paths) if sys.argv[1] == PLAIN else predict(*paths)))
