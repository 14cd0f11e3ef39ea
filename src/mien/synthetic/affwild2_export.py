"""Write the synthetic corpus to disk in the layout of Aff-Wild2 (10th ABAW challenge, 2026).

    batch1/ batch2/ new_vids/                       recordings, MP4 with sound
    cropped_aligned/<clip>/00001.jpg                112 x 112 crops, aligned by five points; no jpg: no face
    cropped_aligned_new_50_vids/<clip>/...          crops of the recordings in new_vids/
    EXPR_Recognition_Challenge/Train_Set/<clip>.txt and Validation_Set: a header, then one class per row, -1 unlabelled
    VA_Estimation_Challenge/...                     the same for valence and arousal, -5 unlabelled
    AU_Detection_Challenge/...                      the same for twelve action units, -1 not annotated
    EXPR_test_set.txt, VA_..., AU_...               clips to be predicted
    EXPR_sample.txt, VA_..., AU_...                 the rows of a submission
    synthetic.json                                  ground truth: scenarios with impairments and seeds; not in Aff-Wild2

The crops come from mien's face detector. A frame in which it finds no face has no jpg. Action units are labelled from
the strengths that deform the rendered face (`action_units.unit_labels`), speech and small movements included.
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
from mien.faces.align import align
from mien.faces.tracker import FaceTracker
from mien.labels import ACTION_UNITS, EXPRESSIONS, UNLABELLED, VA_UNLABELLED
from mien.records import Face, Frame
from mien.synthetic.action_units import unit_labels
from mien.synthetic.render import SIZE, Scene, render_video, subject_is_left
from mien.synthetic.scenario import FACE_IMPAIRMENTS, Scenario, draw_scenario, seeded_rng

CROP = 112
FOLDERS = ("batch1", "batch2", "new_vids")
SPLIT_FOLDERS = {"train": "Train_Set", "val": "Validation_Set"}
#: One recording in six shows a second person.
SECOND_EVERY = 6
#: Names in `synthetic.json` that differ from the attributes of `Scenario` and `Segment`.
JSON_NAMES = {"identity_seed": "person", "impairments": "faults", "prototype": "recipe"}
ProgressCallback = Callable[[int, int], None]


def write_corpus(
    root: Path, videos: int = 12, seconds: float = 20.0, seed: int = 0, progress: ProgressCallback | None = None
) -> list[Scenario]:
    """Write a synthetic corpus: of five recordings, three are for training, one for validation, one for test.

    Args:
        root: new or empty folder.
        videos: number of recordings.
        seconds: length of each recording.
        seed: the same arguments give the same scenarios and labels.
        progress: called with the number of finished frames and of all frames.

    Returns:
        The scenario of each recording.

    Raises:
        OutputError: `root` is not empty or cannot be written.
        ArtefactError: the face networks are not here.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise OutputError(
            f"{root} is not empty", follows="Nothing was written.", remedy="Name a new folder, or empty this one."
        )
    scenarios = [_draw(number, seconds, seed) for number in range(videos)]
    total, done = sum(len(scenario.times()) for scenario in scenarios), 0
    for number, scenario in enumerate(scenarios):
        scene = _render(root, scenario, FOLDERS[number % len(FOLDERS)], _offset(progress, done, total))
        done += len(scenario.times())
        if scenario.split != "test":
            for clip, person in _clips(scenario):
                _write_labels(root, clip, person, scenario, scene.actions[person.id], seed)
    _write_test_lists(root, [scenario for scenario in scenarios if scenario.split == "test"])
    (root / "synthetic.json").write_text(json.dumps([_to_json(scenario) for scenario in scenarios], indent=1))
    return scenarios


def _offset(progress: ProgressCallback | None, done: int, total: int) -> ProgressCallback | None:
    """Progress of the corpus from the progress of one recording."""
    return None if progress is None else lambda frames, _: progress(done + frames, total)


def _draw(number: int, seconds: float, seed: int) -> Scenario:
    split = ("train", "train", "val", "train", "test")[number % 5]
    second = number % SECOND_EVERY == SECOND_EVERY - 1
    return draw_scenario(split, number, seconds=seconds, seed=seed, balance=0.5, second=second)


def _clips(scenario: Scenario) -> list[tuple[str, Scenario]]:
    """Clip names of a recording with the person each one labels; of two people, the left one first."""
    if scenario.second is None:
        return [(scenario.id, scenario)]
    left, right = (scenario, scenario.second) if subject_is_left(scenario) else (scenario.second, scenario)
    return [(f"{scenario.id}_left", left), (f"{scenario.id}_right", right)]


def _render(root: Path, scenario: Scenario, folder: str, progress: ProgressCallback | None) -> Scene:
    """Write the video of a scenario and its face crops."""
    crops = root / ("cropped_aligned_new_50_vids" if folder == "new_vids" else "cropped_aligned")
    tracker, names = FaceTracker(max_faces=2 if scenario.second else 1), [name for name, _ in _clips(scenario)]
    times = scenario.times()
    for path in (*(crops / name for name in names), root / folder):
        path.mkdir(parents=True, exist_ok=True)

    def write_crops(index: int, image: np.ndarray) -> None:
        for face in tracker(Frame(index, float(times[index]), image)):
            name = names[0] if len(names) == 1 else names[int(_centre(face) > SIZE[0] / 2)]
            picture = cv2.cvtColor(align(image, face.mesh, CROP), cv2.COLOR_RGB2BGR)
            cv2.imwrite(str(crops / name / f"{index + 1:05d}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])

    return render_video(scenario, root / folder / f"{scenario.id}.mp4", progress=progress, on_frame=write_crops)


def _centre(face: Face) -> float:
    return float(face.box[0] + face.box[2]) / 2


def _write_labels(root: Path, clip: str, person: Scenario, scenario: Scenario, actions: np.ndarray, seed: int) -> None:
    """Write label rows of one person: `extra_rows` more than frames, unlabelled where the face is absent or dark.

    actions: `(frame, units)` true action-unit strengths.
    """
    times = scenario.times()
    rows = max(1, len(times) + scenario.extra_rows)
    frames = np.minimum(np.arange(rows), len(times) - 1)
    truth = person.labels(times)
    # only the subject leaves the picture; darkness affects both people
    hidden = scenario.is_impaired(FACE_IMPAIRMENTS if person is scenario else ("dark",), times)[frames]
    expression = np.where(hidden, UNLABELLED, truth.expression[frames])
    va = np.where(hidden[:, None], VA_UNLABELLED, truth.valence_arousal[frames])
    units = np.where(hidden[:, None], UNLABELLED, unit_labels(actions)[frames]).astype(int)
    if rows > 20 and seeded_rng(seed, clip, "one-sided").random() < 0.25:
        va[int(rows * 0.6), 1] = VA_UNLABELLED  # three rows of Aff-Wild2 have only one of the two values
    split = SPLIT_FOLDERS[scenario.split]
    for task, header, lines in (
        ("EXPR_Recognition_Challenge", ",".join(EXPRESSIONS), [str(int(c)) for c in expression]),
        ("VA_Estimation_Challenge", "valence,arousal", [f"{_number(v)},{_number(a)}" for v, a in va]),
        ("AU_Detection_Challenge", ",".join(ACTION_UNITS), [",".join(map(str, row)) for row in units.tolist()]),
    ):
        path = root / task / split / f"{clip}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join((header, *lines)) + "\n")


def _number(value: float) -> str:
    return "-5" if value == VA_UNLABELLED else f"{value:.3f}"


def _write_test_lists(root: Path, scenarios: list[Scenario]) -> None:
    """Write the list of test clips and the sample submission of each challenge."""
    frames = {clip: len(scenario.times()) for scenario in scenarios for clip, _ in _clips(scenario)}
    samples = [f"{clip}/{i + 1:05d}.jpg" for clip, count in frames.items() for i in range(count)]
    for task, header, blank in (
        ("EXPR", ",".join(("image_location", *EXPRESSIONS)), "0"),
        ("VA", "image_location,valence,arousal", "0,0"),
        ("AU", ",".join(("image_location", *ACTION_UNITS)), ",".join("0" for _ in ACTION_UNITS)),
    ):
        (root / f"{task}_test_set.txt").write_text("".join(f"{clip}\n" for clip in frames))
        rows = "".join(f"{name},{blank}\n" for name in samples)
        (root / f"{task}_sample.txt").write_text(f"{header}\n{rows}")


def _to_json(scenario: Scenario) -> dict[str, Any]:
    def plain(value: object) -> object:
        if isinstance(value, dict):
            return {JSON_NAMES.get(k, k): plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return f"{value.numerator}/{value.denominator}" if isinstance(value, Fraction) else value

    values = {JSON_NAMES.get(k, k): plain(v) for k, v in asdict(scenario).items()}
    return {"clips": [name for name, _ in _clips(scenario)], **values}
