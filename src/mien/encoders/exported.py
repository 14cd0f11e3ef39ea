"""Exported image and speech encoders in ONNX Runtime, without torch.

`mien.encoders.export_encoder` writes a folder for each:

    network.onnx        preprocessed pixels or samples -> feature vectors; above 1.9 GB with network.onnx.data
    encoder.json        name, sizes, preprocessing, licence, provenance, and the hashes of the other files

`mien.onnx_export` writes encoder.json beside the network of a checkpoint over face images, for a next stage.
Features equal those of the torch encoder to a relative error of 1e-3 (1e-2 with 8-bit weights).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mien import downloads, json_object
from mien.encoders.audio_chunks import Chunking, FrameGrid, encode_in_chunks
from mien.encoders.protocol import Crop, Encoder
from mien.errors import ArtefactError
from mien.onnx_session import open_session
from mien.records import Stream

NETWORK, ABOUT = "network.onnx", "encoder.json"
FORMAT = 1
#: Bytes under which a network runs on one thread: to share so little work costs more than it saves.
_SMALL = 10_000_000
#: Crops in one run of such a network on a processor: 32 take twice as much memory and no less time for each.
_AT_ONCE = 16


def open_exported(folder: Path, *, device: str = "cpu", threads: int | None = None) -> Encoder:
    """Open an exported encoder.

    Args:
        folder: holds encoder.json and the network.
        device: `cpu`, or `cuda` if onnxruntime was built for it.
        threads: number of CPU threads; None takes one for a small network, otherwise OMP_NUM_THREADS, or all cores.

    Raises:
        ArtefactError: a file is missing, damaged, or of another format.
    """
    about = _read(folder)
    network = folder / NETWORK
    is_small = network.is_file() and network.stat().st_size < _SMALL
    if threads is None and is_small:
        threads = 1
    session = open_session(network, device=device, threads=threads, keep_memory=not is_small)
    if about["kind"] == "image":
        return ExportedImageEncoder(about, session, at_once=_AT_ONCE if is_small and device == "cpu" else None)
    return ExportedSpeechEncoder(about, session)


class _Exported:
    """What exported encoders share: the attributes of `mien.encoders.protocol.Encoder`.

    Args:
        about: content of encoder.json. session: the network.
    """

    def __init__(self, about: Mapping[str, Any], session: Any) -> None:
        self.name: str = about["name"]
        self.modality: str = about["modality"]
        self.dim: int = about["dim"]
        self.rate_hz: float | None = about["rate_hz"]
        self.receptive_field_s: float = about["receptive_field_s"]
        self.licence: str = about["licence"]
        self.provenance: Mapping[str, str] = about["provenance"]
        self.batch_size: int = about["batch_size"]
        self._session = session
        self._input: str = session.get_inputs()[0].name
        self._output: str = about.get("output", session.get_outputs()[0].name)

    def _run(self, inputs: np.ndarray) -> np.ndarray:
        output: np.ndarray = self._session.run([self._output], {self._input: inputs})[0]
        return output


class ExportedImageEncoder(_Exported):
    """Exported image encoder, a `CropEncoder`.

    Args:
        about, session: see `_Exported`. at_once: most crops in one run of the network; None: a batch.
    """

    #: Its network runs beside the threads that decode and track, see `mien.encode.batches`.
    in_background = True

    def __init__(self, about: Mapping[str, Any], session: Any, *, at_once: int | None = None) -> None:
        super().__init__(about, session)
        image, self._at_once = about["image"], min(self.batch_size, at_once or self.batch_size)
        self.crop = Crop(image["input_size"], image["margin"], image["down"])
        self._side: int = image["output_size"]
        self._scale, self._shift = (np.array(image[key], np.float32) for key in ("scale", "shift"))

    def encode_crops(self, crops: np.ndarray) -> np.ndarray:
        """Encode crops: `(batch, size, size, 3)` uint8 RGB, size as in `crop` -> `(batch, dim)` float32.

        Raises ValueError for another size: the torch encoder resizes with its processor, which is not exported.
        """
        if crops.shape[1:] != (self.crop.size, self.crop.size, 3):
            raise ValueError(f"{self.name} takes crops of {self.crop.size} px, got {crops.shape[1:]}")
        rows = [self._encode(crops[i : i + self._at_once]) for i in range(0, len(crops), self._at_once)]
        return np.concatenate(rows) if rows else np.zeros((0, self.dim), np.float32)

    def _encode(self, crops: np.ndarray) -> np.ndarray:
        first = (self.crop.size - self._side) // 2
        pixels = crops[:, first : first + self._side, first : first + self._side] * self._scale + self._shift
        return self._run(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))


class ExportedSpeechEncoder(_Exported):
    """Exported speech encoder, an `AudioEncoder`. Arguments: see `_Exported`."""

    def __init__(self, about: Mapping[str, Any], session: Any) -> None:
        super().__init__(about, session)
        audio = about["audio"]
        grid = FrameGrid(audio["hop"], audio["field"])
        self.chunking = Chunking(grid, audio["length"], audio["context"], audio["normalise"], self.batch_size)

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Encode the audio of one recording in chunks, see `mien.encoders.audio_chunks.encode_in_chunks`."""
        yield from encode_in_chunks(blocks, self.chunking, self._run, self.provenance)


def _read(folder: Path) -> dict[str, Any]:
    """The content of encoder.json, after checking it and the files that it names. Raises ArtefactError."""
    try:
        about = json_object.parse((folder / ABOUT).read_bytes())
        version, files = about["format"], dict(about["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{ABOUT} cannot be read: {error}") from error
    if version != FORMAT:
        raise ArtefactError(
            f"exported encoder {folder}: format {version!r}, this mien reads format {FORMAT}",
            follows="No encoder was created.",
            remedy="Export it again with `mien export RUN --encoders`.",
        )
    for name, sha256 in files.items():
        path = folder / name
        if not path.is_file():
            raise _damaged(folder, f"{name} is missing")
        if downloads.digest_of(path, "sha256") != f"sha256:{sha256}":
            raise _damaged(folder, f"{name} is not the file that {ABOUT} describes (sha256 differs)")
    return about


def _damaged(folder: Path, what: str) -> ArtefactError:
    return ArtefactError(
        f"exported encoder {folder}: {what}",
        follows="No encoder was created.",
        remedy="Copy the whole folder again, or export it again with `mien export RUN --encoders`.",
    )
