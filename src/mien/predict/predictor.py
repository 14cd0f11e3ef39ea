"""Media in, Timeline out: faces and voice are read side by side while the network is still being loaded, then fused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mien import onnx_model
from mien.encode.video_pass import LEAST_SEEN_S, FacesSeen, media_facts, read_faces
from mien.encoders import voice_prosody as voice_encoder
from mien.errors import ConfigError, MediaError
from mien.media.audio import blocks
from mien.media.video import MediaInfo, probe
from mien.memory import release_freed_memory
from mien.onnx_model import OnnxModel
from mien.predict import pretrained_face
from mien.predict.rows import fused
from mien.records import Stream
from mien.timeline.table import Timeline

if TYPE_CHECKING:
    from mien.checkpoint import Checkpoint

    Model = Checkpoint | OnnxModel

SHIPPED = ("starter",)
#: Seconds of sound read at once: short, for what the voice holds meanwhile comes on top of the pictures.
BLOCK_S = 2.0

#: Called with the seconds of media done and, where the header says so, the seconds there are.
ProgressCallback = Callable[[float, float | None], None]


def load(
    model: str | Path = "starter", *, device: str = "auto", max_faces: int = 4
) -> Predictor | pretrained_face.PretrainedFacePredictor:
    """A predictor of a shipped model (`starter`), of the folder of a trained checkpoint, or of a face network that
    needs no training (`hsemotion`, `fer`, an ONNX file with a card beside it).

    Returns at once: the weights load in the background while the first recording is being read.

    Args:
        device: `auto` (the network without torch where the checkpoint holds it, else CUDA where there is one), `cpu`,
            `cuda`, `cuda:1`.
        max_faces: people followed at once.

    Raises:
        ConfigError: no such model. A damaged one, or an unknown device, is told of by the first prediction.
    """
    if str(model) in pretrained_face.NAMES or Path(model).suffix in pretrained_face.SUFFIXES:
        return pretrained_face.load(str(model), device=device, max_faces=max_faces)
    if str(model) not in SHIPPED and not Path(model).is_dir():
        return Predictor(_load(model, device), name=str(model), max_faces=max_faces)
    name = str(model) if str(model) in SHIPPED else Path(model).resolve().name
    return Predictor(lambda: _load(model, device), name=name, max_faces=max_faces)


def _load(model: str | Path, device: str) -> Model:
    """The network without torch where the checkpoint holds it and the CPU will do, else the weights in torch."""
    if device in ("auto", "cpu") and (found := _portable(model)) is not None:
        return found
    import torch

    from mien import checkpoint

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {device!r} cannot be used: {str(error).splitlines()[0]}",
            remedy="use --device cpu, or leave it out",
        ) from None
    return checkpoint.load(model, device)


def _portable(model: str | Path) -> OnnxModel | None:
    folder = Path(str(resources.files("mien") / str(model))) if str(model) in SHIPPED else Path(model)
    try:
        about = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return onnx_model.load(folder, about.get("sha256", ""))


class Predictor:
    """Predicts timelines with one checkpoint. May be used again and again, from one thread at a time.

    Args:
        checkpoint: a loaded one, or what loads it when it is first needed.
        name: what the results call it.
        max_faces: people followed at once.
    """

    def __init__(self, checkpoint: Model | Callable[[], Model], *, name: str = "", max_faces: int = 4) -> None:
        self._checkpoint: Model | None = None
        self._coming: Future[Model] | None = None
        self._loader: Callable[[], Model] | None = None
        if callable(checkpoint):
            self._loader = checkpoint
        else:
            self._checkpoint = checkpoint
        self.name, self.max_faces = name, max_faces

    @property
    def checkpoint(self) -> Model:
        """The checkpoint, waited for if it is still loading. Raises ConfigError if it cannot be loaded."""
        if self._checkpoint is None:
            self._start()
            assert self._coming is not None
            self._checkpoint = self._coming.result()
        return self._checkpoint

    def _start(self) -> None:
        """Begins to load in the background. Not before it is certain that there is something to predict: a
        process does not end while torch is being imported, and a mistyped name should not wait for that."""
        if self._checkpoint is None and self._coming is None:
            assert self._loader is not None
            pool = ThreadPoolExecutor(1, thread_name_prefix="mien-load")
            self._coming = pool.submit(self._loader)
            pool.shutdown(wait=False)

    def predict(
        self, path: str | Path, *, face: bool = True, voice: bool = True, progress: ProgressCallback | None = None
    ) -> Timeline:
        """What each person in a video, sound file or picture shows, at every moment.

        One row per decoded frame and subject; sound without pictures: 10 rows a second; a picture: one row.
        If no face is seen there is one subject, 0, without boxes.

        Args:
            face, voice: whether to use it. Both False is a ValueError.
            progress: called now and then with (seconds done, seconds there are or None).

        Raises:
            MediaError: the file cannot be read, or holds nothing of what is to be used.
            ArtefactError: the face networks are not here (`face=False` does without).
            ConfigError: the checkpoint is damaged, or needs encoders that this path does not have.
        """
        if not (face or voice):
            raise ValueError("face=False and voice=False leave nothing to predict from")
        began = time.perf_counter()
        path = Path(path)
        notes: list[str] = []
        seconds: dict[str, float] = {}
        info = probe(path, video=face, audio=voice)
        self._soundness(info, face, voice)
        self._start()
        tell = _throttled(progress, info.duration_s)
        faces, heard = self._read(info, face, voice, notes, seconds, tell)
        waited = time.perf_counter()
        checkpoint = self.checkpoint
        release_freed_memory()  # the decoders and networks are gone, and fusing takes as much again
        seconds["load"] = time.perf_counter() - waited
        table = fused(checkpoint, faces, heard)
        seconds["encode"] = faces.encode_s
        seconds["fuse"] = time.perf_counter() - waited - seconds["load"]
        notes += _remarks(info, faces, heard, face, voice)
        seconds["total"] = time.perf_counter() - began
        facts = self._facts(info, faces, seconds)
        return Timeline(table, media=path, notes=notes, info=facts)

    def _read(
        self,
        info: MediaInfo,
        face: bool,
        voice: bool,
        notes: list[str],
        seconds: dict[str, float],
        tell: Callable[[float], None],
    ) -> tuple[FacesSeen, Stream | None]:
        """Pictures here, sound in a thread beside. What fails first ends the other."""
        stopped = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="mien-voice") as side:
            hearing = None
            if voice and info.has_audio:
                hearing = side.submit(_hear, info, notes, seconds, stopped, None if info.has_video else tell)

            def telling(done_s: float) -> None:
                # What failed in the background need not wait for an hour of video to be told.
                for coming in (hearing, self._coming):
                    if coming is not None and coming.done() and (error := coming.exception()):
                        raise error
                tell(done_s)

            try:
                faces = read_faces(
                    info,
                    look=face,
                    max_faces=self.max_faces,
                    notes=notes,
                    seconds=seconds,
                    tell=telling,
                    least_s=0.0 if info.kind == "image" else LEAST_SEEN_S,
                )
                return faces, hearing.result() if hearing else None
            finally:
                stopped.set()

    def _soundness(self, info: MediaInfo, face: bool, voice: bool) -> None:
        if not ((face and info.has_video) or (voice and info.has_audio)):
            has, left = ("sound", "--no-voice") if info.has_audio else ("pictures", "--no-face")
            raise MediaError(
                f"{info.path} has {has} only, and {left} leaves that out",
                follows="nothing is left to predict from",
                remedy=f"leave {left} away",
            )

    def _facts(self, info: MediaInfo, faces: FacesSeen, seconds: dict[str, float]) -> dict[str, Any]:
        order = ("decode", "detect", "mesh", "track", "voice", "encode", "load", "fuse", "total")
        return {
            "model": self.name,
            "version": version("mien"),
            "media": media_facts(info, len(faces.times)),
            "seconds": {stage: round(seconds[stage], 3) for stage in order if stage in seconds},
        }


def _hear(
    info: MediaInfo,
    notes: list[str],
    seconds: dict[str, float],
    stopped: threading.Event,
    tell: Callable[[float], None] | None,
) -> Stream:
    def listened() -> Iterator[tuple[float, np.ndarray]]:
        for start_s, samples in blocks(info.path, seconds=BLOCK_S, notes=notes):
            if stopped.is_set():
                return
            if tell is not None:
                tell(start_s)
            yield start_s, samples

    began = time.thread_time()
    stream = voice_encoder.ProsodyExtractor()(listened())
    seconds["voice"] = time.thread_time() - began
    return stream


def _throttled(progress: ProgressCallback | None, total_s: float | None) -> Callable[[float], None]:
    last = -1.0

    def tell(done_s: float) -> None:
        nonlocal last
        if progress is not None and time.monotonic() - last > 0.1:
            last = time.monotonic()
            progress(done_s, total_s)

    return tell


def _remarks(info: MediaInfo, faces: FacesSeen, heard: Stream | None, face: bool, voice: bool) -> list[str]:
    """What a reader of the table should know and would not see in it."""
    said = []
    speech = heard is not None and bool(heard.valid.any())
    looked = face and info.has_video
    if looked and not faces.subjects:
        said.append("no face was seen" + (": every row rests on the voice alone" if speech else ""))
    if faces.brief:
        many = "1 face was" if faces.brief == 1 else f"{faces.brief} faces were"
        said.append(f"{many} never seen for {LEAST_SEEN_S} s at a stretch and left out")
    if voice and info.kind == "video" and not info.has_audio:
        said.append("there is no sound" + (": every row rests on the face alone" if faces.subjects else ""))
    if heard is not None and not speech:
        said.append("no speech was heard" + (": every row rests on the face alone" if faces.subjects else ""))
    if len(faces.subjects) > 1 and speech:
        said.append(
            f"{len(faces.subjects)} people are seen and one sound is heard: speech counts for the one whose mouth "
            "moves with it, and for all of them where that cannot be told (column speech)"
        )
    return said
