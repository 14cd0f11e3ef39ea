"""Face crops of image files, made as in prediction: detect the face, then align it by five points of its mesh."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import repeat
from pathlib import Path

import cv2
import numpy as np

from mien.datasets.face_images import Listing, labelled_set, read_image
from mien.encoders.protocol import Crop
from mien.faces.align import align
from mien.faces.still_image import StillImageFaces
from mien.records import Frame, ImageSet

#: Images that one call of a worker process handles.
_BATCH = 64


def load_aligned_faces(
    listing: Listing,
    crop: Crop,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[ImageSet, np.ndarray]:
    """Read listed images and align the largest face in each.

    Args:
        crop: size and framing of the result.
        workers: processes. progress: called with the number of finished images and of all.

    Returns:
        The images with their labels, and `(n,)` bool, whether a face was found. An image without one is scaled to
        the size as a whole, as corpora of face images are cut about like the template.

    Raises:
        CorpusError: an image cannot be read. ArtefactError: a face network is missing.
    """
    sources = [item.source for item in listing]
    parts = [sources[i : i + _BATCH] for i in range(0, len(sources), _BATCH)]
    images = np.zeros((len(sources), crop.size, crop.size, 3), np.uint8)
    found = np.zeros(len(sources), bool)
    done = 0
    for cut, seen in _map(parts, crop, workers):
        images[done : done + len(cut)], found[done : done + len(cut)] = cut, seen
        done += len(cut)
        progress(done, len(sources))
    return labelled_set(images, listing), found


def _map(
    parts: Sequence[Sequence[Path | np.ndarray]], crop: Crop, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`_align_images` of each part, in order."""
    if workers <= 1 or len(parts) < 2:
        yield from (_align_images(part, crop) for part in parts)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_align_images, parts, repeat(crop))


@lru_cache(maxsize=1)
def _finder() -> StillImageFaces:
    return StillImageFaces(max_faces=1)


def _align_images(sources: Sequence[Path | np.ndarray], crop: Crop) -> tuple[np.ndarray, np.ndarray]:
    images, found = [], []
    for source in sources:
        pixels = np.ascontiguousarray(read_image(source))
        faces = _finder()(Frame(0, 0.0, pixels))
        found.append(bool(faces))
        if faces:
            images.append(align(pixels, faces[0].mesh, crop.size, crop.margin, crop.down))
        else:
            images.append(cv2.resize(pixels, (crop.size, crop.size), interpolation=cv2.INTER_AREA))
    return np.stack(images), np.array(found)
