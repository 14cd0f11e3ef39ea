"""Share of the faces of a crowd that each detector and the whole tracker find, by height of the faces, and its cost.

    python bench/crowds.py CLIPS [--heights 16 24 32 48 96] [--pictures 3]

CLIPS is a folder of videos with one person each (the GRID corpus's talkers). Heads with shoulders are cut from them and
from rendered clips of `mien.synthetic`, scaled, and pasted at jittered positions of a 1920 × 1080 picture: 24 of
them. Heights are those of the box around the 468 landmarks, in pixels. A face counts as found if a detection's centre
lies within half of its height of its centre. Prints Markdown tables; nothing is stored. CPU time is that of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from skimage import data

from mien import hub
from mien.faces.detector import FULL_RANGE, BlazeFace, Detection, merge_detections, tiles
from mien.faces.small_face_detectors import FullRange, InQuarters, UltraFace
from mien.faces.tracker import FaceTracker
from mien.media.video import frames
from mien.records import Frame
from mien.synthetic.render import Scene
from mien.synthetic.scenario import draw_scenario

SIZE = (1920, 1080)
COLUMNS, ROWS = 6, 4
Detect = Callable[[np.ndarray], Sequence[Detection]]


def cut_head(image: np.ndarray, tracker: FaceTracker) -> tuple[np.ndarray, np.ndarray] | None:
    """Head and shoulders of the only face in `image`, and the box `(4,)` of the face in them; None without a face."""
    tracker.restart()
    faces = tracker(Frame(0, 0.0, image))
    if not faces:
        return None
    box = faces[0].box
    x, y, height = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[3] - box[1]
    left, top = max(0, int(x - height)), max(0, int(y - height))
    part = image[top : int(y + 1.1 * height), left : int(x + height)]
    return part, box - np.tile([left, top], 2)


def real_heads(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """A head from each video of a folder."""
    tracker = FaceTracker(max_faces=1, small_faces=False)
    found = []
    for path in sorted(folder.iterdir()):
        if path.suffix in (".mpg", ".mp4"):
            head = cut_head(next(iter(frames(path))).image, tracker)
            found += [head] if head else []
    return found


def rendered_heads(count: int = 12) -> list[tuple[np.ndarray, np.ndarray]]:
    """Heads of simulated people."""
    tracker = FaceTracker(max_faces=1, small_faces=False)
    found = []
    for number in range(count):
        scenario = draw_scenario("test", number, seconds=1, seed=5, impairments=False)
        head = cut_head(next(Scene(scenario).frames()), tracker)
        found += [head] if head else []
    return found


def compose(
    heads: Sequence[tuple[np.ndarray, np.ndarray]], height: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A crowd, `(1080, 1920, 3)` RGB, and the boxes `(24, 4)` of its faces."""
    canvas = cv2.resize(data.coffee(), SIZE)
    boxes = []
    for place in range(COLUMNS * ROWS):
        head, box = heads[rng.integers(len(heads))]
        if rng.random() < 0.5:
            head, box = head[:, ::-1], np.array([head.shape[1] - box[2], box[1], head.shape[1] - box[0], box[3]])
        scale = height / (box[3] - box[1])
        small = cv2.resize(head, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cell = np.array([SIZE[0] // COLUMNS, SIZE[1] // ROWS])
        free = np.maximum(1, cell - small.shape[1::-1])
        x, y = (np.array([place % COLUMNS, place // COLUMNS]) * cell + rng.integers(free)).tolist()
        small = small[: SIZE[1] - y, : SIZE[0] - x]
        canvas[y : y + len(small), x : x + small.shape[1]] = small
        boxes.append(box * scale + [x, y, x, y])
    return canvas, np.array(boxes)


def count_found(boxes: np.ndarray, found: Sequence[np.ndarray]) -> int:
    """How many of the true boxes `(n, 4)` have one of the boxes found on them."""
    if not found:
        return 0
    centres = np.stack(found).reshape(-1, 2, 2).mean(axis=1)
    apart = np.linalg.norm(boxes.reshape(-1, 2, 2).mean(axis=1)[:, None] - centres, axis=2)
    return int((apart.min(axis=1) < 0.5 * (boxes[:, 3] - boxes[:, 1])).sum())


def detectors() -> dict[str, Detect]:
    """Name -> detector on all its views of a picture."""
    short = BlazeFace(hub.fetch("blazeface"))
    full = BlazeFace(hub.fetch("blazeface-full-range"), variant=FULL_RANGE)
    made: dict[str, Detect] = {
        "BlazeFace short range, frame and tiles": lambda image: [
            d for square in (None, *tiles(image)) for d in short(image, square)
        ],
        "BlazeFace full range, frame": full,
        "BlazeFace full range, frame and tiles": lambda image: [
            d for square in (None, *tiles(image)) for d in full(image, square)
        ],
    }
    for name, detector in (
        ("BlazeFace full range, squares of 288", FullRange(hub.fetch("blazeface-full-range"))),
        ("UltraFace, frame and quarters", InQuarters(UltraFace(hub.fetch("ultraface")))),
    ):
        made[name] = partial(_search, detector)
    return made


def _search(detector: FullRange | InQuarters, image: np.ndarray) -> list[Detection]:
    return merge_detections(d for view in detector.views(image) for d in detector.detect(image, view))  # type: ignore[arg-type]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--heights", type=int, nargs="+", default=[16, 20, 24, 32, 48, 96])
    parser.add_argument("--pictures", type=int, default=3)
    options = parser.parse_args()
    made = detectors()
    for source, heads in (("real talkers", real_heads(options.clips)), ("rendered", rendered_heads())):
        print(
            f"\n| {source} ({len(heads)} heads), share found | " + " | ".join(f"{h} px" for h in options.heights),
            end="",
        )
        print(" | false, a picture | CPU ms a picture |\n|---" + "|---" * (len(options.heights) + 2) + "|")
        for name in (*made, "the tracker, first frame"):
            shares, false, spent, pictures = [], 0, 0.0, 0
            for height in options.heights:
                rng, hits = np.random.default_rng(height), 0
                for _ in range(options.pictures):
                    picture, truth = compose(heads, height, rng)
                    began = time.thread_time()
                    if name in made:
                        found = [d.box for d in made[name](picture)]
                    else:
                        tracker = FaceTracker(max_faces=64)
                        began = time.thread_time()
                        found = [face.box for face in tracker(Frame(0, 0.0, picture))]
                    spent += time.thread_time() - began
                    pictures += 1
                    hits += count_found(truth, found)
                    false += len(found) - (count_found(np.stack(found), list(truth)) if found else 0)
                shares.append(hits / (options.pictures * len(truth)))
            print(f"| {name} | " + " | ".join(f"{s:.2f}" for s in shares), end="")
            print(f" | {false / pictures:.1f} | {1000 * spent / pictures:.0f} |", flush=True)


if __name__ == "__main__":
    main()
