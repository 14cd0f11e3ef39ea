"""Prediction with a checkpoint: encode pictures and sound side by side while the network loads, then fuse them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mien import ensemble, ensemble_folder, onnx_model
from mien.encode.create_encoders import create_encoders
from mien.encode.encode_media import EncodedMedia, encode_media
from mien.encode.video_pass import MAX_SIDE, MIN_VISIBLE_S, TIMES_ONLY_SIDE, media_facts
from mien.encoders.protocol import AudioEncoder, Encoder
from mien.errors import ConfigError, MediaError
from mien.inference import InputFeature, StreamModel
from mien.media.audio import blocks
from mien.media.video import MediaInfo, frames, probe
from mien.memory import release_freed_memory
from mien.onnx_model import SHIPPED, OnnxModel, shipped_folder
from mien.predict import pretrained_face
from mien.predict.protocol import Predictor, ProgressCallback
from mien.predict.rows import check_classes, timeline_rows
from mien.timeline.table import Timeline

#: Seconds of sound decoded at once. Our choice: short, because the voice encoder needs memory beside the video decoder.
BLOCK_S = 2.0
#: Shortest time in seconds between two calls of a progress callback.
PROGRESS_EVERY_S = 0.1


def load(
    model: str | Path | Sequence[str | Path] = "starter",
    *,
    device: str = "auto",
    max_faces: int = 4,
    weights: Sequence[float] | None = None,
) -> Predictor:
    """Create a predictor. Returns at once: a checkpoint's weights load in the background during the first prediction.

    Args:
        model: a shipped checkpoint (`starter`), the folder of a trained checkpoint, or a pretrained face network
            (`hsemotion`, `fer`, or an ONNX file with a card beside it). The folder of an ensemble, or several
            checkpoints as a sequence, predict as one by the weighted mean of their predictions (`mien.ensemble`).
        weights: of the members of an ensemble, by default those of its folder, or equal ones.
        device: `auto` (ONNX Runtime on the CPU if the checkpoint holds an ONNX network, else CUDA if available, else
            CPU), `cpu`, `cuda`, or a certain GPU such as `cuda:1`.
        max_faces: the largest number of people tracked at once.

    Raises:
        ConfigError: no such model, or weights for a single one. A damaged checkpoint or an unusable device raises it
            in the first prediction.
        ArtefactError: the pretrained face network has not been downloaded.
    """
    if not isinstance(model, str | Path):
        if len(model) != 1:
            return _load_ensemble(model, weights, device, max_faces)
        model = model[0]
    if ensemble_folder.is_ensemble(model):
        return _load_ensemble(model, weights, device, max_faces)
    if weights is not None:
        raise ConfigError(
            f"weights were given for a single model, {model}",
            follows="Nothing was predicted.",
            remedy="Omit the weights, or give several checkpoints.",
        )
    if str(model) in pretrained_face.NAMES or Path(model).suffix in pretrained_face.SUFFIXES:
        return pretrained_face.load(str(model), device=device, max_faces=max_faces)
    if str(model) not in SHIPPED and not Path(model).is_dir():
        return CheckpointPredictor(_load(model, device), name=str(model), max_faces=max_faces, device=device)
    name = str(model) if str(model) in SHIPPED else Path(model).resolve().name
    features = _read_features(model)
    return CheckpointPredictor(
        lambda: _load(model, device), name=name, max_faces=max_faces, device=device, features=features
    )


def _load_ensemble(
    source: str | Path | Sequence[str | Path], weights: Sequence[float] | None, device: str, max_faces: int
) -> Predictor:
    """The predictor of an ensemble folder or of several checkpoints. Names, folders and weights are checked here; the
    members load in the background."""
    if isinstance(source, str | Path):
        stored = ensemble_folder.read(source)
        runs: list[str | Path] = list(stored.members)
        names, weights = stored.names, stored.weights if weights is None else weights
        name = Path(source).resolve().name
    else:
        runs = list(source)
        names = [str(run) for run in runs]
        name = " + ".join(run if run in SHIPPED else Path(run).resolve().name for run in names)
    shares = ensemble.check_weights(weights, len(runs))
    for run in runs:
        _check_member(run)
    features = [_read_features(run) for run in runs]
    known = [f for f in features if f is not None]
    return CheckpointPredictor(
        lambda: ensemble.combine([_load(run, device) for run in runs], names, shares),
        name=name,
        max_faces=max_faces,
        device=device,
        features=ensemble.prefixed_features(known) if len(known) == len(runs) else None,
    )


def _check_member(run: str | Path) -> None:
    """Raise ConfigError for a model that cannot be a member of an ensemble."""
    if str(run) in SHIPPED or (Path(run).is_dir() and not ensemble_folder.is_ensemble(run)):
        return
    if str(run) in pretrained_face.NAMES or Path(run).suffix in pretrained_face.SUFFIXES:
        what = "a pretrained face network predicts frame by frame"
    else:
        what = "it is an ensemble itself" if ensemble_folder.is_ensemble(run) else "there is no such folder"
    raise ConfigError(
        f"model {str(run)!r} cannot be a member of an ensemble: {what}",
        follows="Nothing was predicted.",
        remedy=f"Give folders of trained checkpoints, or {', '.join(SHIPPED)}; or use it alone.",
    )


def _load(model: str | Path, device: str) -> StreamModel:
    """The ONNX network if the checkpoint holds it and the CPU is acceptable, else the weights in torch."""
    if device in ("auto", "cpu") and (network := _load_onnx(model)) is not None:
        return network
    import torch

    from mien import checkpoint

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"the device {device!r} cannot be used: {str(error).splitlines()[0]}",
            follows="Nothing was predicted.",
            remedy="Use --device cpu, or omit --device.",
        ) from None
    return checkpoint.load(model, device)


def _read_features(model: str | Path) -> Mapping[str, InputFeature] | None:
    """The inputs of a checkpoint with an ONNX network, read before that is loaded; None: known once it is loaded."""
    try:
        facts = json.loads((_folder(model) / onnx_model.ABOUT).read_text(encoding="utf-8"))
        return {name: InputFeature(**feature) for name, feature in facts["features"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _folder(model: str | Path) -> Path:
    return shipped_folder(str(model)) if str(model) in SHIPPED else Path(model)


def _load_onnx(model: str | Path) -> OnnxModel | None:
    folder = _folder(model)
    try:
        about = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return onnx_model.load(folder, about.get("sha256", ""))


class CheckpointPredictor:
    """The `Predictor` of a trained checkpoint.

    Args:
        checkpoint: a loaded checkpoint, or a function that loads it, which runs in the background when it is needed.
        name: the model's name in the results.
        max_faces: the largest number of people tracked at once.
        device: of the encoders, as in `load`.
        features: modality -> input, where it is known before the checkpoint is loaded.
    """

    def __init__(
        self,
        checkpoint: StreamModel | Callable[[], StreamModel],
        *,
        name: str = "",
        max_faces: int = 4,
        device: str = "auto",
        features: Mapping[str, InputFeature] | None = None,
    ) -> None:
        self._checkpoint: StreamModel | None = None
        self._future: Future[StreamModel] | None = None
        self._loader: Callable[[], StreamModel] | None = None
        if callable(checkpoint):
            self._loader = checkpoint
        else:
            self._checkpoint = checkpoint
        self._features, self._device = features, device
        self._encoders: dict[str, Encoder] = {}
        self.name, self.max_faces = name, max_faces

    @property
    def checkpoint(self) -> StreamModel:
        """The checkpoint; waits until it is loaded.

        Raises:
            ConfigError: it is damaged, or cannot run on the device.
        """
        if self._checkpoint is None:
            self._checkpoint = self._start_loading().result()
        return self._checkpoint

    def _start_loading(self) -> Future[StreamModel]:
        """Load in the background, once it is certain that there is something to predict: a process cannot end while
        it imports torch, and a mistyped file name must not wait for that."""
        if self._future is None:
            assert self._loader is not None
            pool = ThreadPoolExecutor(1, thread_name_prefix="mien-load")
            self._future = pool.submit(self._loader)
            pool.shutdown(wait=False)
        return self._future

    def predict(
        self, path: str | Path, *, face: bool = True, voice: bool = True, progress: ProgressCallback | None = None
    ) -> Timeline:
        """Predict the Timeline of a recording; see `Predictor.predict`."""
        if not (face or voice):
            raise ValueError("face=False and voice=False leave nothing to predict from")
        start = time.perf_counter()
        path = Path(path)
        notes: list[str] = []
        seconds: dict[str, float] = {}
        info = probe(path, video=face, audio=voice)
        _check_modalities(info, face, voice)
        if self._checkpoint is None:
            self._start_loading()
        encoders = self._create_encoders(face and info.has_video, voice and info.has_audio)
        media = self._encode(info, encoders, notes, seconds, _throttle(progress, info.duration_s))
        encoded = time.perf_counter()
        checkpoint = self.checkpoint
        release_freed_memory()  # decoders and encoders are freed, and fusing needs as much again
        seconds["load"] = time.perf_counter() - encoded
        table = timeline_rows(checkpoint, media)
        seconds["encode"] = media.faces.encode_s
        seconds["fuse"] = time.perf_counter() - encoded - seconds["load"]
        notes += _evidence_notes(info, media, face, voice)
        seconds["total"] = time.perf_counter() - start
        return Timeline(table, media=path, notes=notes, info=self._info(info, media, seconds))

    def _create_encoders(self, pictures: bool, sound: bool) -> dict[str, Encoder]:
        """The encoders of the modalities in use, made once and before anything is decoded."""
        early = self._features if self._device in ("auto", "cpu") else None
        features = early if early is not None else self.checkpoint.features
        if self._checkpoint is not None:
            check_classes(self._checkpoint.labels)
        if not self._encoders:
            self._encoders = create_encoders(features, device=_encoder_device(self._device))
        return {m: e for m, e in self._encoders.items() if (sound if isinstance(e, AudioEncoder) else pictures)}

    def _encode(
        self,
        info: MediaInfo,
        encoders: Mapping[str, Encoder],
        notes: list[str],
        seconds: dict[str, float],
        on_time: Callable[[float], None],
    ) -> EncodedMedia:
        def on_position(time_s: float) -> None:
            if self._future is not None and self._future.done() and (error := self._future.exception()):
                raise error  # the checkpoint cannot be loaded: say so now, not after an hour of video
            on_time(time_s)

        looks = any(not isinstance(encoder, AudioEncoder) for encoder in encoders.values())
        max_side = MAX_SIDE if looks else TIMES_ONLY_SIDE
        return encode_media(
            encoders,
            frames=(lambda: frames(info.path, max_side=max_side, notes=notes)) if info.has_video else None,
            audio=(lambda: blocks(info.path, seconds=BLOCK_S, notes=notes)) if info.has_audio else None,
            width=info.width,
            max_faces=self.max_faces,
            min_visible_s=0.0 if info.kind == "image" else MIN_VISIBLE_S,
            seconds=seconds,
            on_time=on_position,
        )

    def _info(self, info: MediaInfo, media: EncodedMedia, seconds: dict[str, float]) -> dict[str, Any]:
        order = ("decode", "detect", "mesh", "track", "voice", "encode", "load", "fuse", "total")
        return {
            "model": self.name,
            "version": version("mien"),
            "media": media_facts(info, len(media.faces.times)),
            "seconds": {stage: round(seconds[stage], 3) for stage in order if stage in seconds},
        }


def _check_modalities(info: MediaInfo, face: bool, voice: bool) -> None:
    """Raise MediaError if the recording has none of the modalities in use."""
    if not ((face and info.has_video) or (voice and info.has_audio)):
        content, option = ("sound", "--no-voice") if info.has_audio else ("pictures", "--no-face")
        raise MediaError(
            f"{info.path} has {content} only, which {option} excludes",
            follows="Nothing was predicted.",
            remedy=f"Omit {option}.",
        )


def _encoder_device(device: str) -> str:
    """The device of the encoders: `auto` takes CUDA where it is there, without importing torch for the answer."""
    if device != "auto":
        return device
    torch = sys.modules.get("torch")
    return "cuda" if torch is not None and torch.cuda.is_available() else "cpu"


def _throttle(progress: ProgressCallback | None, total_s: float | None) -> Callable[[float], None]:
    last = -1.0

    def on_time(time_s: float) -> None:
        nonlocal last
        if progress is not None and time.monotonic() - last > PROGRESS_EVERY_S:
            last = time.monotonic()
            progress(time_s, total_s)

    return on_time


def _evidence_notes(info: MediaInfo, media: EncodedMedia, face: bool, voice: bool) -> list[str]:
    """Notes on missing or shared evidence, which the table itself does not explain."""
    notes = []
    faces, speech = media.faces, media.speech
    has_speech = speech is not None and bool(speech.valid.any())
    face_only = "; every row rests on the face alone" if faces.subjects else ""
    if face and info.has_video and faces.encoders and not faces.subjects:
        notes.append("no face was detected" + ("; every row rests on the voice alone" if has_speech else ""))
    if faces.brief:
        count = "1 face was" if faces.brief == 1 else f"{faces.brief} faces were"
        notes.append(f"{count} left out, visible for less than {MIN_VISIBLE_S} s at a time")
    if voice and info.kind == "video" and not info.has_audio:
        notes.append(f"the video has no sound{face_only}")
    if speech is not None and not has_speech:
        notes.append(f"no speech was detected{face_only}")
    if len(faces.subjects) > 1 and has_speech:
        notes.append(
            f"{len(faces.subjects)} people share one sound; speech counts for the person whose mouth moves with it, "
            "and for all of them where that cannot be decided (column speech)"
        )
    return notes
