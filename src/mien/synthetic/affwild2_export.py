"""The synthetic corpus on disk, in the layout of Aff-Wild2 (PAPERS: ABAW 2026): what reads one reads the other.

    batch1/ batch2/ new_vids/                       recordings, MP4 with sound
    cropped_aligned/<clip>/00001.jpg                112 x 112 crops, aligned by five points; no jpg: no face
    cropped_aligned_new_50_vids/<clip>/...          those of new_vids/
    EXPR_Recognition_Challenge/Train_Set/<clip>.txt and Validation_Set: a header, then a class a row, -1 unlabelled
    VA_Estimation_Challenge/...                     the same for valence and arousal, -5 unlabelled
    EXPR_test_set.txt, VA_test_set.txt              clips to be predicted
    EXPR_sample.txt, VA_sample.txt                  the rows of a submission
    synthetic.json                                    the truth: plans, faults, seeds; no other corpus has one

Crops come from mien's own detector, as the corpus's came from its makers': a face that it misses has no jpg.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mien.errors import OutputError
from mien.faces.tracker import FaceTracker, align
from mien.labels import EXPRESSIONS, UNLABELLED, VA_UNLABELLED
from mien.records import Face, Frame, Labels
from mien.synthetic.render import SIZE, Scene, render
from mien.synthetic.scenario import BLINDING, Scenario, draw, entropy

CROP = 112
FOLDERS = ("batch1", "batch2", "new_vids")
SPLIT_FOLDERS = {"train": "Train_Set", "val": "Validation_Set"}
#: Of six recordings, one shows a second person.
SECOND_EVERY = 6
ProgressCallback = Callable[[int, int], None]


def write(
    root: Path, videos: int = 12, seconds: float = 20.0, seed: int = 0, progress: ProgressCallback | None = None
) -> list[Scenario]:
    """Write `videos` recordings; of five, three are for training, one for validation, one for test.

    Same arguments, same plans and labels. progress: called with frames done and frames in all.

    Raises:
        OutputError: `root` holds something already, or cannot be written.
        ArtefactError: the face networks are not here.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(
            f"{root} is not empty", follows="nothing was written", remedy="name a new folder, or empty this one"
        )
    plans = [_drawn(number, seconds, seed) for number in range(videos)]
    total = sum(len(plan.times()) for plan in plans)
    done, samples, lists = 0, [], []
    for number, plan in enumerate(plans):
        folder = FOLDERS[number % len(FOLDERS)]
        crops = "cropped_aligned_new_50_vids" if folder == "new_vids" else "cropped_aligned"
        _play(root, plan, folder, crops, _from(progress, done, total))
        done += len(plan.times())
        for clip, side in _clips(plan):
            if plan.split == "test":
                lists.append(clip)
                samples += [f"{clip}/{i + 1:05d}.jpg" for i in range(len(plan.times()))]
            else:
                _annotate(root, clip, side, plan, seed)
    for task, header, blank in (
        ("EXPR", ",".join(("image_location", *EXPRESSIONS)), "0"),
        ("VA", "image_location,valence,arousal", "0,0"),
    ):
        (root / f"{task}_test_set.txt").write_text("".join(f"{name}\n" for name in lists))
        rows = "".join(f"{name},{blank}\n" for name in samples)
        (root / f"{task}_sample.txt").write_text(f"{header}\n{rows}")
    (root / "synthetic.json").write_text(json.dumps([_told(plan) for plan in plans], indent=1))
    return plans


def _from(progress: ProgressCallback | None, done: int, total: int) -> ProgressCallback | None:
    """The same, of the whole corpus instead of one recording."""
    return None if progress is None else lambda frames, _: progress(done + frames, total)


def _drawn(number: int, seconds: float, seed: int) -> Scenario:
    split = ("train", "train", "val", "train", "test")[number % 5]
    second = number % SECOND_EVERY == SECOND_EVERY - 1
    return draw(split, number, seconds=seconds, seed=seed, balance=0.5, second=second)


def _clips(plan: Scenario) -> list[tuple[str, Scenario]]:
    """Clip names of a recording and the person each is about. Two persons: by the side they stand on."""
    if plan.second is None:
        return [(plan.id, plan)]
    left, right = (plan, plan.second) if Scene(plan).subject_is_left else (plan.second, plan)
    return [(f"{plan.id}_left", left), (f"{plan.id}_right", right)]


def _play(root: Path, plan: Scenario, folder: str, crops: str, progress: ProgressCallback | None) -> None:
    reader, names = FaceTracker(max_faces=2 if plan.second else 1), [name for name, _ in _clips(plan)]
    times = plan.times()
    for name in names:
        (root / crops / name).mkdir(parents=True, exist_ok=True)
    (root / folder).mkdir(parents=True, exist_ok=True)

    def crop(index: int, image: np.ndarray) -> None:
        for face in reader(Frame(index, float(times[index]), image)):
            name = names[0] if len(names) == 1 else names[int(_centre(face) > SIZE[0] / 2)]
            picture = cv2.cvtColor(align(image, face.mesh, CROP), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(root / crops / name / f"{index + 1:05d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])

    render(plan, root / folder / f"{plan.id}.mp4", progress=progress, each=crop)


def _centre(face: Face) -> float:
    return float(face.box[0] + face.box[2]) / 2


def _annotate(root: Path, clip: str, person: Scenario, plan: Scenario, seed: int) -> None:
    """Label rows: a frame more or less than there are, unlabelled where the face is away or in the dark."""
    times = plan.times()
    rows = max(1, len(times) + plan.extra_rows)
    at = np.minimum(np.arange(rows), len(times) - 1)
    truth: Labels = person.labels(times)
    # only the subject leaves the picture; the dark is everybody's
    hidden = plan.within(BLINDING if person is plan else ("dark",), times)[at]
    named = np.where(hidden, UNLABELLED, truth.expression[at])
    va = np.where(hidden[:, None], VA_UNLABELLED, truth.valence_arousal[at])
    if rows > 20 and entropy(seed, clip, "one-sided").random() < 0.25:
        va[int(rows * 0.6), 1] = VA_UNLABELLED  # three rows of the real corpus have one of the two only
    split = SPLIT_FOLDERS[plan.split]
    for task, header, lines in (
        ("EXPR_Recognition_Challenge", ",".join(EXPRESSIONS), [str(int(c)) for c in named]),
        ("VA_Estimation_Challenge", "valence,arousal", [f"{_number(v)},{_number(a)}" for v, a in va]),
    ):
        path = root / task / split / f"{clip}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join((header, *lines)) + "\n")


def _number(value: float) -> str:
    return "-5" if value == VA_UNLABELLED else f"{value:.3f}"


def _told(plan: Scenario) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return f"{value.numerator}/{value.denominator}" if isinstance(value, Fraction) else value

    return {"clips": [name for name, _ in _clips(plan)], **plain(asdict(plan))}
