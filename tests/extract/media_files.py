"""Media files, a stand-in face tracker and store readers that the extraction tests share."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import soundfile

from mien.datasets.index import Index, build_index
from mien.media.video import write_video
from mien.records import Face, Frame
from mien.store import FeatureStore

TOYS = "tests.extract.toy_encoders"
COLOUR, SHAPE, LOUD, LOUDER, SCENE = (f"{TOYS}:{name}" for name in ("Colour", "Shape", "Loud", "Louder", "Scene"))


class SquareTracker:
    """Stands for FaceTracker: a face is a square with red above 50, and its subject number is 1 with much blue.

    count: number of trackers made.
    """

    count = 0

    def __init__(self, max_faces: int, threads: int, reidentify: bool = True) -> None:
        type(self).count += 1
        self.seconds = {"detect": 0.0, "mesh": 0.0}

    def __call__(self, frame: Frame) -> list[Face]:
        faces = []
        count, labels, stats, _ = cv2.connectedComponentsWithStats((frame.image[..., 0] > 50).astype(np.uint8))
        for i in range(1, count):
            x, y, w, h, area = stats[i]
            if area < 60:
                continue
            blue = int(frame.image[labels == i][:, 2].mean() > 128)
            mesh = np.full((468, 3), [x + w / 2, y + h / 2, 0.0])
            faces.append(Face(blue, np.array([x, y, x + w, y + h], float), mesh, 1.0))
        return faces


def draw_squares(*squares: tuple[int, tuple[int, int, int]]) -> np.ndarray:
    """Image `(64, 128, 3)` with a square of 32 pixels for each (x, colour)."""
    image = np.zeros((64, 128, 3), np.uint8)
    for x, colour in squares:
        image[16:48, x : x + 32] = colour
    return image


def write_clip(
    path: Path, pictures: list[np.ndarray], rate: Fraction = Fraction(10), sound: float | None = None
) -> None:
    """Write a video. sound: constant sample value of its sound track, or None without one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = None if sound is None else np.full(int(16000 * len(pictures) / rate), sound, np.float32)
    write_video(path, pictures, rate=rate, audio=tone, crf=4)


def write_tones(folder: Path, levels: dict[str, float], seconds: float = 1.0) -> Path:
    """Write a sound file of a constant level for each name; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, level in levels.items():
        soundfile.write(folder / f"{name}.wav", np.full(int(16000 * seconds), level), 16000, subtype="FLOAT")
    return folder


def read_stream(store: Path, encoder: str, clip: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, times and valid of a stored stream."""
    stream = FeatureStore(store).open(encoder)[clip].stream()
    return stream.values, stream.times, stream.valid


def write_affwild2_labels(root: Path, clips: list[str], rows: int) -> Index:
    """Write EXPR label files of `rows` neutral frames beside the videos in `root`, and index them."""
    folder = root / "EXPR/Train_Set"
    folder.mkdir(parents=True)
    header = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\n"
    for clip in clips:
        (folder / f"{clip}.txt").write_text(header + "0\n" * rows)
    return build_index("aff-wild2", root)


def stored_bytes(store: Path) -> dict[str, bytes]:
    """Contents of every complete file of features, by relative path; scratch files have hidden names."""
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("[!.]*.safetensors"))}
