"""How well descriptors tell people apart over recordings: the figures of docs/PEOPLE.md.

    python bench/people.py --clips CLIPS [--strangers IMAGES] [--descriptor CARD] [--voices FOLDER...] [--rendered]

Sets:

* CLIPS: videos of one person each (GRID's talkers). Each is cut into three parts, and each part is filmed four times:
  as it is, and by three simulated cameras with another exposure, gamma, side light, colour of light, size and JPEG
  quality. A part by a camera is a "recording". Pairs of one person are of different parts and different cameras. The
  clothes, hair and day are the same: these figures are of one session.
* IMAGES: faces of strangers (FER+'s validation images, 48 pixels). Their names are unknown; every pair counts as of
  different people, so the share that is below the threshold is an upper bound.
* rendered: simulated people with five expressions each, every recording with another suit, background and camera. They
  share one photograph and differ in proportions and colours alone, so they are harder than people.
* voices: sound files of RAVDESS (`Actor_NN` in the path) and EMO-DB (two digits that begin the name): mean and standard
  deviation of the log-mel bands of speech relative to its level, with the median pitch; the mean of voice-embedding.

EER: share of errors at the threshold where both kinds are equally frequent. Missed: pairs of one person at or above the
threshold; wrong: pairs of two people below it. Grouped right: share of recordings in the right group by `group`, under
the best assignment of groups to people. Prints Markdown tables.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from mien.encoders import pitch, spectrum
from mien.encoders.voice_embedding import SpeechEmbedding
from mien.faces.align import align
from mien.faces.reidentification import SAME_SUBJECT_DISTANCE, describe_appearance
from mien.faces.still_image import StillImageFaces
from mien.media import image
from mien.media.audio import blocks
from mien.media.video import frames
from mien.people.descriptors import FaceDescriptor, FaceGradients, RecognitionNetwork, threshold_of
from mien.people.grouping import group
from mien.records import Frame
from mien.synthetic.demo_clip import demo_scenario
from mien.synthetic.expression_prototypes import prototypes
from mien.synthetic.render import Scene
from mien.synthetic.scenario import Segment

PARTS, CAMERAS, FACES = 3, 4, 5
EXPRESSIONS = ("rest", "open smile", "open mouth", "pout", "bared teeth")
Found = tuple[np.ndarray, np.ndarray]
Describe = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class Filmed:
    """Faces `(picture, mesh)` of one person in one recording. part, camera: numbers."""

    person: str
    part: int
    camera: int
    faces: list[Found]


def film(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture as another camera sees it in another light."""
    height, width = picture.shape[:2]
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    angle, side = rng.uniform(0, 2 * np.pi), 0.45 * rng.uniform()
    lit = (picture / 255.0) ** np.exp(rng.normal(0, 0.3)) * np.exp(rng.normal(0, 0.2))
    lit = lit * (1 + side * (x * np.cos(angle) + y * np.sin(angle)))[..., None] * np.exp(rng.normal(0, 0.08, 3))
    pixels = np.clip(lit * 255, 0, 255).astype(np.uint8)
    share = rng.uniform(0.5, 1.2)
    small = cv2.resize(pixels, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def _faces(pictures: Sequence[np.ndarray], find: StillImageFaces, seed: Sequence[int] | None) -> list[Found]:
    """The face of each picture, filmed by the camera of a seed; None films it as it is."""
    found = []
    for picture in pictures:
        seen = picture if seed is None else film(picture, np.random.default_rng(seed))
        found += [(seen, face.mesh) for face in find(Frame(0, 0.0, seen))[:1]]
    return found


def talkers(folder: Path) -> Iterator[Filmed]:
    """Parts of the videos of a folder, filmed by several cameras."""
    find = StillImageFaces(max_faces=1)
    for number, path in enumerate(p for p in sorted(folder.iterdir()) if p.suffix in (".mpg", ".mp4")):
        pictures = [frame.image for frame in islice(frames(path), 75)]
        for part in range(PARTS):
            own = pictures[part * len(pictures) // PARTS : (part + 1) * len(pictures) // PARTS]
            for camera in range(CAMERAS):
                seed = (number, part, camera) if camera else None
                if faces := _faces(own[:: max(1, len(own) // FACES)][:FACES], find, seed):
                    yield Filmed(path.stem, part, camera, faces)


def rendered(people: int = 8) -> Iterator[Filmed]:
    """Rendered people, one recording per expression, each with its own clothes, background and camera."""
    find = StillImageFaces(max_faces=1)
    for person in range(people):
        for number, name in enumerate(EXPRESSIONS):
            expression = prototypes()[name].expression
            scenario = replace(
                demo_scenario(1.0),
                id=name,
                seed=100 * person + number,
                identity_seed=person,
                sex="female" if person % 2 else "male",
                segments=(Segment(0, 1.0, expression, name, 1.0, 0.2, 0.2),),
                speech=(),
                impairments=(),
            )
            pictures = [picture for i, picture in enumerate(Scene(scenario).frames()) if i in (12, 18)]
            yield Filmed(str(person), number, number, _faces(pictures, find, (person, number, 7)))


def strangers(folder: Path, count: int) -> list[Found]:
    """Faces of `count` images of a folder."""
    paths = sorted(folder.rglob("*.png"))
    chosen = np.random.default_rng(1).permutation(len(paths))[:count]
    find = StillImageFaces(max_faces=1)
    return [found for i in chosen for found in _faces([image.read(paths[i])], find, None)]


def appearance(picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """The descriptor of re-identification within a recording."""
    return describe_appearance(picture, mesh)


def geometry(picture: np.ndarray, mesh: np.ndarray) -> np.ndarray:
    """The mesh, centred and of unit size."""
    points = mesh - mesh.mean(axis=0)
    return np.asarray((points / np.linalg.norm(points)).ravel())


def of(descriptor: FaceDescriptor) -> Describe:
    """A descriptor of people as a function of picture and mesh."""
    crop = descriptor.crop
    return lambda picture, mesh: descriptor.describe(align(picture, mesh, crop.size, crop.margin, crop.down)[None])[0]


def equal_error(same: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Equal error rate and its threshold, of distances of pairs of one person and of two."""
    levels = np.unique(np.concatenate([same, other]))
    missed = np.array([(same >= level).mean() for level in levels])
    wrong = np.array([(other < level).mean() for level in levels])
    best = int(np.abs(missed - wrong).argmin())
    return float((missed[best] + wrong[best]) / 2), float(levels[best])


def accuracy(people: Sequence[str], labels: np.ndarray) -> float:
    """Share of items in the group assigned to their person, under the best assignment."""
    names, found = sorted(set(people)), sorted(set(labels.tolist()))
    table = np.zeros((len(names), len(found)), int)
    for person, label in zip(people, labels.tolist(), strict=True):
        table[names.index(person), found.index(label)] += 1
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(people))


def compare(vectors: np.ndarray, recordings: Sequence[Filmed], threshold: float | None) -> str:
    """Table cells of one descriptor: equal error rate, then error rates and grouping accuracy at the threshold."""
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    same, other = [], []
    for i, j in combinations(range(len(recordings)), 2):
        a, b = recordings[i], recordings[j]
        if a.person != b.person:
            other.append(distances[i, j])
        elif a.part != b.part and a.camera != b.camera:
            same.append(distances[i, j])
    own, foreign = np.array(same), np.array(other)
    error, at = equal_error(own, foreign)
    limit = at if threshold is None else threshold
    people = [r.person for r in recordings]
    right = accuracy(people, group(distances, limit))
    stated = "(EER's)" if threshold is None else ""
    missed, wrong = (own >= limit).mean(), (foreign < limit).mean()
    return f"{error:.3f} | {limit:.2f} {stated} | {missed:.3f} | {wrong:.4f} | {right:.2f} | {len(own)}, {len(foreign)}"


def measure_faces(given: argparse.Namespace) -> None:
    """Print the table of faces."""
    gradients = FaceGradients()
    descriptors: dict[str, tuple[Describe, float | None]] = {
        "appearance, as within a recording": (appearance, SAME_SUBJECT_DISTANCE),
        "geometry of the mesh": (geometry, None),
        gradients.name: (of(gradients), threshold_of(gradients, None)),
    }
    for source in given.descriptor:
        network = RecognitionNetwork(source)
        descriptors[network.name] = of(network), threshold_of(network, None)
    sets: dict[str, list[Filmed]] = {}
    if given.clips:
        sets["talkers"] = list(talkers(given.clips))
        plain = [r for r in sets["talkers"] if r.camera == 0]
        sets["talkers, one camera"] = [replace(r, camera=i) for i, r in enumerate(plain)]
    if given.rendered:
        sets["rendered"] = list(rendered())
    print("| set | descriptor | EER | threshold | missed | wrong | grouped right | pairs of one, of two |")
    print("|---" * 8 + "|")
    for title, recordings in sets.items():
        for name, (describe, threshold) in descriptors.items():
            vectors = np.stack([np.mean([describe(*face) for face in r.faces], axis=0) for r in recordings])
            print(f"| {title} | {name} | {compare(vectors, recordings, threshold)} |", flush=True)
    if given.strangers:
        faces = strangers(given.strangers, given.count)
        print(f"\n| {len(faces)} strangers, {len(faces) * (len(faces) - 1) // 2} pairs | threshold | wrong |")
        print("|---" * 3 + "|")
        for name, (describe, threshold) in descriptors.items():
            vectors = np.stack([describe(*face) for face in faces])
            distances = np.concatenate([np.linalg.norm(vectors[:i] - vectors[i], axis=1) for i in range(len(vectors))])
            if threshold is not None:
                print(f"| {name} | {threshold:.2f} | {(distances < threshold).mean():.5f} |", flush=True)


def _voice(samples: np.ndarray) -> np.ndarray:
    """Long-term spectrum and pitch `(81,)`: mean and deviation of the bands relative to the level, pitch in octaves."""
    measured = spectrum.SpectrumFrames()
    rows = np.concatenate([*measured(samples), *measured.finish(len(samples) // spectrum.HOP)])
    loud = rows[:, spectrum.POWER] > rows[:, spectrum.POWER].max() - 3.0
    bands = rows[loud, spectrum.BAND] - rows[loud, spectrum.BAND].mean(axis=1, keepdims=True)
    tracked = pitch.track(rows[:, spectrum.PITCH], rows[:, spectrum.STRENGTH])
    hz = tracked.hz[tracked.voiced]
    return np.array([*bands.mean(axis=0), *bands.std(axis=0), np.log2(np.median(hz)) if len(hz) else 7.0])


def _embedding(samples: np.ndarray) -> np.ndarray:
    """Mean of voice-embedding `(96,)`."""
    network = SpeechEmbedding()
    return np.concatenate([network(samples), network.finish()]).mean(axis=0)


def measure_voices(folders: Sequence[Path], most: int) -> None:
    """Print the table of voices. Every dimension is standardised over the corpus."""
    print("\n| corpus | descriptor | EER | threshold | missed | wrong | grouped right | pairs of one, of two |")
    print("|---" * 8 + "|")
    for folder in folders:
        paths = sorted(p for p in folder.rglob("*") if p.suffix in (".wav", ".flac"))
        paths = [paths[i] for i in np.random.default_rng(0).permutation(len(paths))[:most]]
        sounds = [np.concatenate([samples for _, samples in blocks(path)]) for path in paths]
        people = [(re.search(r"Actor_\d+", str(p)) or re.match(r"\d\d", p.name) or [p.name])[0] for p in paths]
        recordings = [Filmed(person, i, i, []) for i, person in enumerate(people)]
        for name, describe in (("spectrum and pitch", _voice), ("voice-embedding", _embedding)):
            vectors = np.stack([describe(samples) for samples in sounds])
            vectors = (vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-9)
            title = f"{folder.name}, {len(set(people))} speakers, {len(paths)} files"
            print(f"| {title} | {name} | {compare(vectors, recordings, None)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path)
    parser.add_argument("--strangers", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="strangers")
    parser.add_argument("--rendered", action="store_true")
    parser.add_argument("--descriptor", action="append", default=[], help="card of a face recognition network")
    parser.add_argument("--voices", type=Path, nargs="+", default=[])
    parser.add_argument("--most", type=int, default=400, help="sound files of a corpus")
    given = parser.parse_args()
    if given.clips or given.strangers or given.rendered:
        measure_faces(given)
    if given.voices:
        measure_voices(given.voices, given.most)


if __name__ == "__main__":
    main()
