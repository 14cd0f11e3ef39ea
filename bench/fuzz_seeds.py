"""Intact inputs of `fuzz.py`: small media of a rendered face and a synthetic voice, and files of mien's own.

Folder of a seed: its files. The name of the folder begins with the reader that reads it (`fuzz_readers.py`).
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

#: Sizes are small, so that thousands of inputs are read in minutes.
SIZE, FRAMES, SOUND_S = (96, 72), 4, 0.6
#: name -> (container's suffix, video codec, pixel format, audio codec); None for a stream that it lacks.
CLIPS = {
    "mp4": ("mp4", "libx264", "yuv420p", "aac"),
    "mov": ("mov", "mpeg4", "yuv420p", "pcm_s16le"),
    "mkv": ("mkv", "libx264", "yuv420p", "libopus"),
    "webm": ("webm", "libvpx-vp9", "yuv420p", "libopus"),
    "avi": ("avi", "mjpeg", "yuvj420p", "mp3"),
    "ts": ("ts", "mpeg2video", "yuv420p", "mp2"),
    "flv": ("flv", "flv", "yuv420p", "mp3"),
    "gif": ("gif", "gif", "rgb8", None),
    "apng": ("apng", "apng", "rgb24", None),
    "wav": ("wav", None, "", "pcm_s16le"),
    "flac": ("flac", None, "", "flac"),
    "ogg": ("ogg", None, "", "libopus"),
    "mp3": ("mp3", None, "", "mp3"),
    "m4a": ("m4a", None, "", "aac"),
    "aiff": ("aiff", None, "", "pcm_s16be"),
}
#: Suffix -> parameters of OpenCV.
PICTURES = {".jpg": [], ".png": [], ".bmp": [], ".tif": [], ".webp": [cv2.IMWRITE_WEBP_QUALITY, 90]}


def make_media(folder: Path) -> None:
    """Write the media, one folder each."""
    pictures, sound = _pictures(), _sound()
    for name, (suffix, video, pixels, audio) in CLIPS.items():
        _write_clip(_place(folder, f"media-{name}") / f"clip.{suffix}", pictures, sound, video, pixels, audio)
    for suffix, options in PICTURES.items():
        cv2.imwrite(str(_place(folder, f"media-{suffix[1:]}") / f"picture{suffix}"), pictures[0][..., ::-1], options)
    animation = cv2.Animation()
    animation.frames = [np.ascontiguousarray(picture[..., ::-1]) for picture in pictures]
    animation.durations = np.full(len(pictures), 40)
    cv2.imwriteanimation(str(_place(folder, "media-animation") / "animation.webp"), animation)


def make_own(folder: Path) -> None:
    """Write files of mien's own formats, one folder for each kind."""
    import polars as pl

    from mien import config, models
    from mien.evaluation.calibration import Calibration
    from mien.records import Stream
    from mien.store.feature_store import FeatureStore
    from mien.timeline.subject_rows import subject_rows
    from mien.timeline.table import Timeline

    times, rng = np.arange(12) / 10, np.random.default_rng(0)
    table = pl.concat(
        subject_rows(
            subject, times, classes=("calm", "glad"), probabilities=rng.dirichlet((1, 1), 12),
            valence_arousal=rng.uniform(-1, 1, (12, 2)), voice=rng.random(12) > 0.5, face=rng.random(12) > 0.5,
            boxes=np.tile([10.0, 10.0, 40.0, 40.0], (12, 1)), frames=np.arange(12),
        )
        for subject in range(2)
    )  # fmt: skip
    timeline = Timeline(table, classes=("calm", "glad"))
    for suffix in ("csv", "jsonl", "parquet"):
        timeline.write(_place(folder, f"timeline-{suffix}") / f"t.{suffix}")
    store = FeatureStore(_place(folder, "store-features"))
    stream = Stream(
        rng.normal(size=(20, 4)).astype(np.float32), np.arange(20) / 10, np.ones(20, bool), {"encoder": "e"}
    )
    store.write("e", "clip", stream)
    raw = {
        "paper": {"title": "random weights", "arxiv": ""}, "corpus": {"name": "none"},
        "features": {"face": {"encoder": "e", "dim": 4}, "voice": {"encoder": "v", "dim": 4}},
        "windows": {"seconds": 2.0, "hop_seconds": 1.0},
        "model": {"name": "safe_cross_attention", "dim": 16, "heads": 2, "layers": 1}, "train": {}, "vote": {},
    }  # fmt: skip
    from mien import checkpoint

    recipe = config.read(raw, origin="fuzz", check=models.problems)
    checkpoint.save(_place(folder, "checkpoint-folder"), models.build(recipe), recipe)
    recipe_text = (folder / "checkpoint-folder" / "recipe.yaml").read_bytes()
    (_place(folder, "recipe-yaml") / "recipe.yaml").write_bytes(recipe_text)
    Calibration().save(_place(folder, "calibration-json") / "calibration.json")
    (_place(folder, "prompts-text") / "moods.txt").write_text("calm\nglad: a person who is glad\n", encoding="utf-8")
    _write_index(folder)
    about = {
        "format": "mien-timeline-1", "mien": "0", "model": "starter", "weights": {"a": "b"}, "options": {"face": True},
        "media": {"path": "a.mp4", "digest": "sha256:0", "size": 3, "kind": "video", "duration_s": 1.0},
        "classes": ["calm"], "rows": 3, "notes": ["a note"],
        "subjects": [
            {
                "subject": 0, "shares": {"calm": 1.0}, "confidence": 0.9, "valence": 0.1, "arousal": None,
                "evidence": {"face": 1.0, "voice": 0.0, "both": 0.0, "none": 0.0},
            },
        ],
        "seconds": {"total": 1.0}, "files": {"timeline": "timeline.csv"},
    }  # fmt: skip
    (_place(folder, "provenance-json") / "timeline.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def _write_index(folder: Path) -> None:
    """An index of a folder with labels."""
    import soundfile

    from mien.datasets.index import build_index

    corpus = _place(folder, "labels-csv")
    for name in ("a", "b"):
        soundfile.write(corpus / f"{name}.wav", _sound().astype(np.float32), 16_000)
    (corpus / "labels.csv").write_text("media,expression,subject\na.wav,calm,1\nb.wav,glad,2\n", encoding="utf-8")
    build_index("folder", corpus).save(_place(folder, "index-jsonl") / "index.jsonl")


def _place(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    return place


def _pictures() -> list[np.ndarray]:
    """Rendered frames of a simulated person, `(height, width, 3)` RGB."""
    from mien.synthetic.demo_clip import demo_scenario
    from mien.synthetic.render import Scene

    frames = Scene(demo_scenario(2.0)).frames()
    return [cv2.resize(next(frames), SIZE, interpolation=cv2.INTER_AREA) for _ in range(FRAMES)]


def _sound() -> np.ndarray:
    """`(n,)` float32 at 16 kHz: harmonics with a syllable's rhythm."""
    t = np.arange(int(SOUND_S * 16_000)) / 16_000
    voice = sum(np.sin(2 * np.pi * 140 * k * t) / k for k in range(1, 12))
    return (0.2 * voice * (0.5 - 0.5 * np.cos(2 * np.pi * 5 * t))).astype(np.float32)


def _write_clip(
    path: Path, pictures: list[np.ndarray], sound: np.ndarray, video: str | None, pixels: str, audio: str | None
) -> None:
    with av.open(str(path), "w") as output:
        track = output.add_stream(video, rate=25) if video else None
        rate = 48_000 if audio == "libopus" else 16_000
        if audio == "mp3" and path.suffix == ".flv":
            rate = 44_100
        voice = output.add_stream(audio, rate=rate, layout="mono") if audio else None
        if track is not None:
            track.width, track.height, track.pix_fmt = *SIZE, pixels
            for number, picture in enumerate(pictures):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                output.mux(track.encode(frame))
            output.mux(track.encode(None))
        if voice is not None:
            samples = np.interp(np.arange(int(SOUND_S * rate)) / rate, np.arange(len(sound)) / 16_000, sound)
            frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            output.mux(voice.encode(frame))
            output.mux(voice.encode(None))
