"""Labelled faces and windows of sound of several corpora, for tuning encoders; classes mapped to common ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mien.config import nearest
from mien.datasets import face_images
from mien.datasets.aligned_faces import load_aligned_faces
from mien.datasets.face_images import pad_to_square, read_image
from mien.datasets.index import CORPORA, Index, build_index
from mien.encode.corpus_faces import load_corpus_faces
from mien.encoders.protocol import Crop
from mien.errors import ConfigError, MediaError
from mien.labels import EXPRESSIONS
from mien.media.audio import SAMPLE_RATE, load
from mien.records import Clip, ImageSet

#: Class names of the image readers, in the order in which they are read.
_IMAGE_CLASSES: dict[str, tuple[str, ...]] = {
    "rafdb": face_images.RAFDB[1:],
    "affectnet": face_images.AFFECTNET,
    "ferplus": EXPRESSIONS,
}
#: Share of a corpus without validation images that is held out. Our choice.
_HELD_OUT = 0.1
#: Faces that are aligned before they are compressed.
_CHUNK = 4096
#: JPEG quality of faces that are kept in memory. Our choice: a face of 224 pixels then takes about 20 KB, not 150.
_QUALITY = 95

Progress = Callable[[int, int], None]
#: Corpus -> its class -> class of the training; null leaves the class out.
ClassMaps = Mapping[str, Mapping[str, str | None]]


@dataclass(frozen=True)
class Examples:
    """Labelled faces or windows of sound.

    sources: of each, a file, JPEG bytes, pixels `(height, width[, 3])` uint8, or samples `(n,)` int16 at 16 kHz.
    targets: `(n, classes)` float32, rows sum to 1. corpora: the corpus of each.
    """

    sources: Sequence[Path | bytes | np.ndarray]
    targets: np.ndarray
    corpora: Sequence[str]

    def __len__(self) -> int:
        return len(self.sources)

    def take(self, places: np.ndarray) -> Examples:
        """The examples at `places` (indices)."""
        kept = places.tolist()
        return Examples([self.sources[i] for i in kept], self.targets[places], [self.corpora[i] for i in kept])

    @classmethod
    def concatenate(cls, parts: Sequence[Examples]) -> Examples:
        """The examples of several sets, in order."""
        return cls(
            [source for part in parts for source in part.sources],
            np.concatenate([part.targets for part in parts]),
            [name for part in parts for name in part.corpora],
        )


@dataclass(frozen=True)
class ClassMap:
    """Classes of one corpus in terms of those of the training.

    names: of the corpus, in its order. matrix: `(names, classes)` of 0 and 1; a row of zeros leaves a class out.
    """

    names: tuple[str, ...]
    matrix: np.ndarray

    @classmethod
    def of(
        cls, corpus: str, names: Sequence[str], labels: Sequence[str], changes: Mapping[str, str | None]
    ) -> ClassMap:
        """Each class keeps its name unless `changes` maps it; one that is none of `labels` is left out.

        Raises ConfigError for a class that the corpus does not have, or that maps to none of `labels`.
        """
        for name, target in changes.items():
            if name not in names:
                raise ConfigError(
                    f"--map {corpus}:{name}: {corpus} has no such class{nearest(name, names)}",
                    follows="Nothing was trained.",
                    remedy=f"Its classes are {', '.join(names)}.",
                )
            if target is not None and target not in labels:
                raise ConfigError(
                    f"--map {corpus}:{name}={target}: the training has no such class{nearest(target, labels)}",
                    follows="Nothing was trained.",
                    remedy=f"Its classes are {', '.join(labels)}; --map {corpus}:{name}= leaves the class out.",
                )
        matrix = np.zeros((len(names), len(labels)), np.float32)
        for row, name in enumerate(names):
            target = changes.get(name, name)
            if target in labels:
                matrix[row, labels.index(target)] = 1
        return cls(tuple(names), matrix)

    def targets(self, hard: np.ndarray, soft: np.ndarray | None = None) -> np.ndarray:
        """Soft labels `(n, classes)` over the training's classes; rows of 0 for images without any.

        hard: `(n,)` class of the corpus, -1 for none. soft: `(n, names)` shares of votes, used where they are given;
        the shares of classes that are left out are divided among the others.
        """
        shares = np.zeros((len(hard), len(self.names)), np.float32)
        known = np.flatnonzero(hard >= 0)
        shares[known, hard[known]] = 1
        if soft is not None:
            shares = np.where(soft.sum(axis=1, keepdims=True) > 0, soft, shares)
        mapped = shares @ self.matrix
        total = mapped.sum(axis=1, keepdims=True)
        result: np.ndarray = np.where(total > 0, mapped / np.maximum(total, 1e-12), 0).astype(np.float32)
        return result


def load_faces(
    corpora: Mapping[str, Path],
    labels: Sequence[str],
    maps: ClassMaps,
    crop: Crop,
    *,
    align: bool = True,
    seed: int = 0,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
) -> tuple[Examples, Examples | None]:
    """Load the training and validation faces of several corpora; None without validation faces.

    Args:
        corpora: name -> folder: an image dataset (`mien.datasets.face_images.READERS`), or a corpus of recordings
            (`mien.datasets.index.CORPORA`), of whose subjects two faces a second are taken.
        crop: of the encoder. align: detect the face in each image and align it as prediction does; otherwise images
            are taken in full.
        seed: of the images held out of a corpus without validation images (class folders without `val`).
        workers: processes that align. progress: called with the number of finished images or clips and of all.

    Raises:
        ConfigError: an unknown corpus or class. CorpusError: a corpus cannot be read.
    """
    train: list[Examples] = []
    val: list[Examples] = []
    for name, root in corpora.items():
        if name in face_images.READERS:
            parts = _image_parts(name, root, labels, maps.get(name, {}), seed)
            loaded = [
                None if part is None else _align(part, crop, workers, progress) if align else part for part in parts
            ]
        else:
            index = _read_index(name, root)
            classes = ClassMap.of(name, index.classes, labels, maps.get(name, {}))
            loaded = [_faces_of_index(index, split, classes, crop, progress) for split in ("train", "val")]
        train += [loaded[0]] if loaded[0] is not None else []
        val += [loaded[1]] if loaded[1] is not None else []
    return _joined(train, val)


def load_sounds(
    corpora: Mapping[str, Path],
    labels: Sequence[str],
    maps: ClassMaps,
    window_s: float,
    *,
    progress: Progress = lambda done, total: None,
) -> tuple[Examples, Examples | None]:
    """Load labelled windows of sound of the corpora's clips, split by subject as their readers do.

    Windows of `window_s` seconds follow each other without overlap; the last one of a clip is aligned to its end, and a
    shorter clip is one window. A window's label is the most frequent one of its label times.

    Raises as `load_faces`.
    """
    train: list[Examples] = []
    val: list[Examples] = []
    for name, root in corpora.items():
        index = _read_index(name, root)
        classes = ClassMap.of(name, index.classes, labels, maps.get(name, {}))
        for split, parts in (("train", train), ("val", val)):
            clips = list(index.clips(split=split))
            for done, clip in enumerate(clips, 1):
                part = _windows(name, clip, classes, window_s)
                parts += [part] if part is not None else []
                progress(done, len(clips))
    return _joined(train, val)


def face_pixels(source: Path | bytes | np.ndarray, size: int) -> np.ndarray:
    """The face of an example: `(size, size, 3)` uint8 RGB."""
    if isinstance(source, bytes):
        decoded = cv2.imdecode(np.frombuffer(source, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None, "encoded in this process"
        image = np.ascontiguousarray(decoded[..., ::-1])
    else:
        image = read_image(source)
    return image if image.shape[:2] == (size, size) else pad_to_square(image, size)


def _read_index(name: str, root: Path) -> Index:
    if name not in CORPORA:
        known = sorted({*CORPORA, *face_images.READERS})
        raise ConfigError(
            f"--data {name}={root}: no corpus is called {name!r}{nearest(name, known)}",
            follows="Nothing was trained.",
            remedy=f"Known are {', '.join(known)}; images alone train encoders of faces only.",
        )
    return build_index(name, root)


def _joined(train: list[Examples], val: list[Examples]) -> tuple[Examples, Examples | None]:
    if not train:
        raise ConfigError(
            "no example of the training splits has a label",
            follows="Nothing was trained.",
            remedy="Check --data, and that --map and --labels keep some of the classes of the corpora.",
        )
    return Examples.concatenate(train), Examples.concatenate(val) if val else None


def _labelled(sources: Sequence[Path | bytes | np.ndarray], targets: np.ndarray, corpus: str) -> Examples | None:
    """The examples that have a label; None if none has."""
    kept = np.flatnonzero(targets.sum(axis=1) > 0)
    return Examples([sources[i] for i in kept.tolist()], targets[kept], [corpus] * len(kept)) if len(kept) else None


def _image_parts(
    corpus: str, root: Path, labels: Sequence[str], changes: Mapping[str, str | None], seed: int
) -> list[Examples | None]:
    """Training and validation images of an image dataset, not read yet."""
    names = _IMAGE_CLASSES.get(corpus) or tuple(dict.fromkeys([*labels, *changes]))
    classes = ClassMap.of(corpus, names, labels, changes)
    is_split = corpus != "class-folders" or (root / "val").is_dir()
    parts = []
    for split in ("train", "val")[: 1 + is_split]:
        listing = face_images.READERS[corpus](root, split, names)
        hard = np.array([item.label for item in listing], np.int64)
        none = np.zeros(len(names), np.float32)
        soft = np.stack([none if item.soft is None else item.soft for item in listing]) if listing else None
        parts.append(_labelled([item.source for item in listing], classes.targets(hard, soft), corpus))
    if is_split or parts[0] is None:
        return [*parts, None][:2]
    order = np.random.default_rng(seed).permutation(len(parts[0]))
    held_out = max(1, round(_HELD_OUT * len(order)))
    return [parts[0].take(np.sort(order[held_out:])), parts[0].take(np.sort(order[:held_out]))]


def _align(part: Examples, crop: Crop, workers: int, progress: Progress) -> Examples:
    """The examples with aligned faces, compressed."""
    compressed: list[bytes] = []
    for start in range(0, len(part), _CHUNK):
        sources = part.sources[start : start + _CHUNK]
        listing = [face_images.ListedImage(source, -1) for source in sources if not isinstance(source, bytes)]
        aligned, _ = load_aligned_faces(listing, crop, workers=workers)
        compressed += [_compress(image) for image in aligned.images]
        progress(len(compressed), len(part))
    return Examples(compressed, part.targets, part.corpora)


def _compress(image: np.ndarray) -> bytes:
    bgr = np.ascontiguousarray(image[..., ::-1])
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()


def _faces_of_index(index: Index, split: str, classes: ClassMap, crop: Crop, progress: Progress) -> Examples | None:
    """Aligned faces of the clips of a split, compressed clip by clip."""
    parts: list[Examples] = []
    task = index.task_of(expression=True)
    entries = [entry for entry in index.entries if entry.splits.get(task or "") == split]
    for done, entry in enumerate(entries, 1):
        one: ImageSet | None = load_corpus_faces(
            replace(index, entries=[entry]), split, crop.size, task=task, margin=crop.margin, down=crop.down
        )
        if one is not None:
            part = _labelled([_compress(i) for i in one.images], classes.targets(one.labels), index.corpus)
            parts += [part] if part is not None else []
        progress(done, len(entries))
    return Examples.concatenate(parts) if parts else None


def _windows(corpus: str, clip: Clip, classes: ClassMap, window_s: float) -> Examples | None:
    """Labelled windows of a clip's sound; None without sound or label, or where the sound cannot be decoded."""
    labels = clip.labels
    if clip.media is None or labels is None or not (labels.expression >= 0).any():
        return None
    try:
        start_s, samples = load(clip.media)
    except MediaError:
        return None
    if not len(samples):
        return None
    length = round(window_s * SAMPLE_RATE)
    starts = sorted({*range(0, max(1, len(samples) - length), length), max(0, len(samples) - length)})
    sources: list[np.ndarray] = []
    hard: list[int] = []
    for start in starts:
        begin, end = (start_s + at / SAMPLE_RATE for at in (start, start + length))
        inside = (labels.times >= begin) & (labels.times < end) & (labels.expression >= 0)
        if inside.any():
            sources.append(np.round(samples[start : start + length] * 32767).astype(np.int16))
            hard.append(int(np.bincount(labels.expression[inside]).argmax()))
    return _labelled(sources, classes.targets(np.array(hard, np.int64)), corpus) if sources else None
