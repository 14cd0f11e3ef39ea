"""IDF1 of the face tracker on clips of several people with known truth, composed from clips of one person each.

    python bench/identity.py CLIPS [--people 2 3 4 5 6] [--seconds 12] [--seed 0] [--no-reid]
        [--kinds leave cross cut] [--source rendered]

People are cut out of the videos in the folder CLIPS (GRID's talkers) and out of rendered clips of `mien.synthetic`, and
pasted side by side into frames of 1280 × 720, 25 a second. Three kinds of clips:

* leave: one after the other slides out of the picture, and returns after two seconds at another place;
* cross: pairs change places; one passes in front of the other;
* cut: every two seconds the picture cuts to a close-up of one or two people, or to all of them at other places.

IDF1 (Ristani et al., "Performance Measures and a Data Set for Multi-target, Multi-camera Tracking", arXiv
1609.01775): the assignment of predicted to true people that maximises the frames in which their boxes overlap by more
than half; then twice these frames, divided by the sum of true and predicted boxes. A face that another covers by more
than 30 %, or that is not wholly in the picture, is neither counted as missing nor, if it is found, as false. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment
from skimage import data

from mien.faces.detector import iou
from mien.faces.tracker import FaceTracker
from mien.media.video import frames
from mien.records import Frame
from mien.synthetic.render import Scene
from mien.synthetic.scenario import draw_scenario

WIDTH, HEIGHT, RATE = 1280, 720, 25
FRAMES_OF_A_PERSON = 75


@dataclass(frozen=True, slots=True)
class Person:
    """A person's cut-outs and the box `(4,)` of the face in each, in pixels of the cut-out."""

    pictures: list[np.ndarray]
    boxes: list[np.ndarray]

    def at(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Cut-out and box at a frame: forwards, then backwards, and so on."""
        last = len(self.pictures) - 1
        place = frame % (2 * last)
        place = min(place, 2 * last - place)
        return self.pictures[place], self.boxes[place]


@dataclass(frozen=True, slots=True)
class Shown:
    """A person in a frame. x, height: centre and height of the cut-out, pixels. Later ones are in front."""

    person: int
    x: float
    height: float = 300.0


def cut_out(images: Iterator[np.ndarray]) -> Person | None:
    """The person in a video, head and shoulders; None if no face is found in the first frame."""
    tracker = FaceTracker(max_faces=1, small_faces=False)
    pictures: list[np.ndarray] = []
    boxes: list[np.ndarray] = []
    left = top = right = bottom = 0
    for i, image in enumerate(islice(images, FRAMES_OF_A_PERSON)):
        faces = tracker(Frame(i, i / RATE, image))
        if not faces:
            if not pictures:
                return None
            continue
        box = faces[0].box
        if not pictures:
            x, y, side = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[3] - box[1]
            left, right = max(0, int(x - 0.9 * side)), int(x + 0.9 * side)
            top, bottom = max(0, int(y - side)), int(y + side)
        pictures.append(np.ascontiguousarray(image[top:bottom, left:right]))
        boxes.append(box - np.tile([left, top], 2))
    return Person(pictures, boxes)


def real_people(folder: Path, seed: int) -> list[Person]:
    """The people of the videos in a folder."""
    paths = [p for p in sorted(folder.iterdir()) if p.suffix in (".mpg", ".mp4")]
    found = [cut_out(frame.image for frame in frames(path)) for path in paths]
    people = [person for person in found if person]
    return [people[i] for i in np.random.default_rng(seed).permutation(len(people))]


def rendered_people(count: int, seed: int) -> list[Person]:
    """Simulated people, who share one photograph and differ in proportions and colours."""
    people: list[Person] = []
    number = 0
    while len(people) < count:
        scenario = draw_scenario("test", number, seconds=3.0, seed=50 + seed, impairments=False)
        person = cut_out(Scene(scenario).frames())
        people += [person] if person else []
        number += 1
    return people


def place(slot: int, people: int) -> float:
    """Centre of one of `people` places side by side."""
    return WIDTH * (slot + 0.5) / people


def leave(people: int, seconds: float, rng: np.random.Generator) -> Iterator[list[Shown]]:
    """Positions of the people in each frame: one after the other leaves and returns elsewhere."""
    slots, period, slide = list(range(people)), 4 * RATE, RATE
    turn, away = 0, 0.0
    for frame in range(int(seconds * RATE)):
        at = frame % period
        if at == 0:
            turn, away = (frame // period) % people, place(slots[(frame // period) % people], people)
        if at == 2 * slide:  # another person jumps to the free place
            other = int(rng.integers(people))
            slots[turn], slots[other] = slots[other], slots[turn]
        shown = [Shown(p, place(slots[p], people)) for p in range(people) if p != turn]
        here = place(slots[turn], people)
        leaves, enters = (-250.0 if x < WIDTH / 2 else WIDTH + 250.0 for x in (away, here))
        if at < slide:
            shown.append(Shown(turn, away + (leaves - away) * at / slide))
        elif at >= 3 * slide:
            shown.append(Shown(turn, enters + (here - enters) * min(1.0, (at - 3 * slide + 1) / slide)))
        yield shown


def cross(people: int, seconds: float, rng: np.random.Generator) -> Iterator[list[Shown]]:
    """Positions of the people in each frame: two people change places in 1.2 s, then all rest for 0.8 s."""
    slots, period, moving = list(range(people)), 2 * RATE, int(1.2 * RATE)
    pair = (0, 1)
    for frame in range(int(seconds * RATE)):
        at = frame % period
        if at == 0:
            first, second = rng.choice(people, 2, replace=False)
            pair = (int(first), int(second))
            slots[pair[0]], slots[pair[1]] = slots[pair[1]], slots[pair[0]]
        share = min(1.0, at / moving)
        x = {person: place(slots[person], people) for person in range(people)}
        a, b = x[pair[0]], x[pair[1]]
        x[pair[0]], x[pair[1]] = b + (a - b) * share, a + (b - a) * share
        order = [p for p in range(people) if p not in pair] + list(pair)
        yield [Shown(p, x[p]) for p in order]


def cut(people: int, seconds: float, rng: np.random.Generator) -> Iterator[list[Shown]]:
    """Positions of the people in each frame: shots of all people, then of one or two larger, each at other places."""
    order, size = list(range(people)), 300.0
    for frame in range(int(seconds * RATE)):
        if frame % (2 * RATE) == 0:
            wide = frame % (4 * RATE) == 0
            count = people if wide else int(rng.integers(1, min(3, people + 1)))
            order = [int(p) for p in rng.permutation(people)[:count]]
            size = 300.0 if wide else 600.0
        yield [Shown(p, place(i, len(order)), size) for i, p in enumerate(order)]


KINDS: dict[str, Callable[[int, float, np.random.Generator], Iterator[list[Shown]]]] = {
    "leave": leave, "cross": cross, "cut": cut,
}  # fmt: skip


def compose(
    people: Sequence[Person], shown: Sequence[Shown], frame: int
) -> tuple[np.ndarray, list[tuple[int, np.ndarray, bool]]]:
    """A frame, and (person, box `(4,)`, whether the face is visible) of each."""
    canvas = _background().copy()
    faces: list[tuple[int, np.ndarray]] = []
    covers: list[np.ndarray] = []
    limit = WIDTH / max(1, len(shown))
    for one in shown:
        picture, box = people[one.person].at(frame)
        scale = min(one.height / picture.shape[0], 1.1 * limit / picture.shape[1])
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        height, width = small.shape[:2]
        x, y = round(one.x - width / 2), (HEIGHT - height) // 2
        left, right = max(0, -x), min(width, WIDTH - x)
        if right > left:
            canvas[y : y + height, x + left : x + right] = small[:, left:right]
        faces.append((one.person, box * scale + [x, y, x, y]))
        covers.append(np.array([x, y, x + width, y + height], float))
    truth = []
    for i, (person, box) in enumerate(faces):
        whole = box[0] >= 0 and box[2] < WIDTH
        hidden = max((_covered(box, cover) for cover in covers[i + 1 :]), default=0.0)
        truth.append((person, box, bool(whole and hidden <= 0.3)))
    return canvas, truth


_BACKGROUND: list[np.ndarray] = []


def _background() -> np.ndarray:
    if not _BACKGROUND:
        _BACKGROUND.append(cv2.resize(data.coffee(), (WIDTH, HEIGHT)))
    return _BACKGROUND[0]


def _covered(box: np.ndarray, cover: np.ndarray) -> float:
    """Share of a box's area that a rectangle covers."""
    sides = np.clip(np.minimum(box[2:], cover[2:]) - np.maximum(box[:2], cover[:2]), 0, None)
    return float(sides.prod() / (box[2:] - box[:2]).prod())


def idf1(
    truth: Sequence[Sequence[tuple[int, np.ndarray, bool]]], found: Sequence[Sequence[tuple[int, np.ndarray]]]
) -> float:
    """IDF1 of predicted people and boxes, frame by frame. A true box whose flag is False is not counted, nor is a
    predicted box that overlaps it."""
    true_count = predicted_count = 0
    shared: dict[tuple[int, int], int] = {}
    for true, predicted in zip(truth, found, strict=True):
        true_count += sum(visible for *_, visible in true)
        for number, box in predicted:
            overlaps = iou(box, np.stack([b for _, b, _ in true])) if true else np.zeros(0)
            best = int(overlaps.argmax()) if len(overlaps) else -1
            if best >= 0 and overlaps[best] > 0.5:
                person, _, visible = true[best]
                if not visible:
                    continue
                shared[person, number] = shared.get((person, number), 0) + 1
            elif any(not v and o > 0 for (_, _, v), o in zip(true, overlaps, strict=True)):
                continue
            predicted_count += 1
    if not shared:
        return 0.0
    people, numbers = (sorted({key[i] for key in shared}) for i in (0, 1))
    table = np.array([[shared.get((p, n), 0) for n in numbers] for p in people])
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(2 * table[rows, columns].sum() / (true_count + predicted_count))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path)
    parser.add_argument("--people", type=int, nargs="+", default=[2, 3, 4, 5, 6])
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--source", choices=["real talkers", "rendered"], help="default: both")
    parser.add_argument("--no-reid", action="store_true", help="without re-identification")
    options = parser.parse_args()
    print("| IDF1 | " + " | ".join(f"{n} people" for n in options.people) + " | mean | numbers given to 6 people |")
    print("|---" * (len(options.people) + 3) + "|")
    for source in [options.source] if options.source else ["real talkers", "rendered"]:
        people = (
            real_people(options.clips, options.seed) if source == "real talkers" else rendered_people(6, options.seed)
        )
        for kind in options.kinds:
            script = KINDS[kind]
            scores, numbers = [], 0
            for count in options.people:
                rng = np.random.default_rng([options.seed, count])
                tracker = FaceTracker(max_faces=8, **({"reidentify": False} if options.no_reid else {}))
                truth, found = [], []
                for i, shown in enumerate(script(count, options.seconds, rng)):
                    image, true = compose(people, shown, i)
                    truth.append(true)
                    found.append([(f.subject, f.box) for f in tracker(Frame(i, i / RATE, image))])
                scores.append(idf1(truth, found))
                numbers = len({n for row in found for n, _ in row})
            print(f"| {source}, {kind} | " + " | ".join(f"{s:.3f}" for s in scores), end="")
            print(f" | {np.mean(scores):.3f} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
