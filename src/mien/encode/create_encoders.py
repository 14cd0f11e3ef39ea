"""The encoders of a model's inputs, made and checked before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from mien import extras
from mien.encoders.face_geometry import NAME as FACE_GEOMETRY
from mien.encoders.face_geometry import FaceGeometry
from mien.encoders.mouth_opening import NAME as MOUTH_OPENING
from mien.encoders.mouth_opening import MouthOpening
from mien.encoders.protocol import AudioEncoder, Encoder
from mien.encoders.smart_turn import NAME as SMART_TURN
from mien.encoders.smart_turn import SmartTurn
from mien.encoders.voice_embedding import NAME as VOICE_EMBEDDING
from mien.encoders.voice_embedding import VoiceEmbedding
from mien.encoders.voice_prosody import NAME as VOICE_PROSODY
from mien.encoders.voice_prosody import VoiceProsody
from mien.encoders.voice_speech import NAME as VOICE_SPEECH
from mien.encoders.voice_speech import VoiceSpeech
from mien.errors import ConfigError
from mien.faces import tflite
from mien.inference import EncoderInput, InputFeature
from mien.records import VOICE

Source = Literal["pictures", "sound"]
#: Keys of provenance that say how features were stored, not how the encoder computes them.
_STORED_KEYS = ("faces", "face_networks")
#: Built-in networks over single faces, which run in ONNX Runtime.
FACE_NETWORKS = ("face-api", "fer", "hsemotion")
#: Seconds of a recording after which networks are freed. Our choice: to make them again takes 0.1 s.
LONG_S = 30.0
#: The file that makes a folder a checkpoint.
CHECKPOINT = "checkpoint.json"
#: Voice encoders that run without torch.
VOICES: dict[str, Callable[[], Encoder]] = {
    VOICE_PROSODY: VoiceProsody,
    VOICE_EMBEDDING: VoiceEmbedding,
    SMART_TURN: SmartTurn,
    VOICE_SPEECH: VoiceSpeech,
}
#: Encoder name of runs on a user's own arrays (`mien.custom_data`).
OWN = "own"


def create_encoders(features: Mapping[str, InputFeature], *, device: str = "cpu") -> dict[str, Encoder]:
    """Input -> encoder, as the model's training used it. Inputs that one encoder serves share it.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.

    Raises:
        ConfigError: an unknown encoder, or one that computes features of another width than the model reads.
        ArtefactError: weights are not here; names them, their size and licence, and the command that gets them.
    """
    encoders: dict[str, Encoder] = {}
    shared: dict[str, Encoder] = {}
    for name, feature in features.items():
        key = repr((feature.encoder, sorted(feature.options.items()), _folder(feature)))
        encoder = shared[key] = shared[key] if key in shared else _create(name, feature, device)
        if feature.dim and encoder.dim != feature.dim:
            raise ConfigError(
                f"the checkpoint was trained on {feature.dim} {name} features; the encoder {feature.encoder!r} "
                f"computes {encoder.dim}",
                follows="Nothing was decoded: the features would mean something else.",
                remedy="Use the encoder that the checkpoint was trained with, or train it again.",
            )
        encoders[name] = encoder
    return encoders


def encoder_device(features: Mapping[str, InputFeature], device: str) -> str:
    """Device of the encoders of some inputs. `auto` is CUDA where torch has it; torch is imported for the answer only
    if one of the encoders needs it."""
    if device != "auto":
        return device
    if all(_is_light(feature) for feature in features.values()):
        return "cpu"
    named = next(name for name, feature in features.items() if not _is_light(feature))
    extras.require("torch", f"the encoder of the input {named!r}", follows="Nothing was decoded.")
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _is_light(feature: InputFeature) -> bool:
    """Whether the encoder runs without torch."""
    if isinstance(feature, EncoderInput) and feature.folder is not None:
        return bool(feature.folder.suffix) or _is_exported(feature.folder)
    return feature.encoder in (FACE_GEOMETRY, MOUTH_OPENING, *VOICES, *FACE_NETWORKS)


def source_of(feature: InputFeature) -> Source | None:
    """What an input is encoded from, without creating its encoder; None if only the encoder itself can say."""
    folder = feature.folder if isinstance(feature, EncoderInput) else None
    is_face_network = folder is not None and (not _is_exported(folder) or (folder / CHECKPOINT).is_file())
    if feature.encoder in (FACE_GEOMETRY, MOUTH_OPENING) or is_face_network:
        return "pictures"
    if feature.encoder in VOICES:
        return "sound"
    if (Path(feature.encoder) / CHECKPOINT).is_file():
        return "pictures"
    from mien.encoders.registry import reads_sound
    from mien.encoders.tuned import find_tuned, read_tuned

    tuned = find_tuned(feature.encoder, feature.options.get("source"))
    if tuned is not None:
        return "sound" if read_tuned(tuned).modality == VOICE else "pictures"
    is_sound = reads_sound(feature.encoder)
    return None if is_sound is None else "sound" if is_sound else "pictures"


def source_of_encoder(encoder: Encoder) -> Source:
    """What an encoder encodes."""
    return "sound" if isinstance(encoder, AudioEncoder) else "pictures"


def differences_from_training(encoders: Mapping[str, Encoder], features: Mapping[str, InputFeature]) -> list[str]:
    """Notes on encoders that differ from those of training, in the words of their provenance."""
    notes = []
    for name, encoder in encoders.items():
        feature = features.get(name)
        trained = dict(feature.provenance) if isinstance(feature, EncoderInput) else {}
        if not trained:
            continue
        if trained.get("faces") == "crops":
            notes.append(
                f"the {name} features of training came from the corpus's own face crops; here the crop is "
                f"{encoder.provenance.get('crop', 'that of the encoder')}, so predictions may be less certain"
            )
        keys = [k for k in trained if k not in _STORED_KEYS and k in encoder.provenance]
        # A folder and a Hub id may hold the same weights: their digest decides.
        same_weights = trained.get("revision") == encoder.provenance.get("revision") is not None
        for key in (k for k in keys if not (k == "network" and same_weights)):
            if trained[key] != encoder.provenance[key]:
                notes.append(
                    f"the encoder {encoder.name} differs from training in {key} ({encoder.provenance[key]} instead of "
                    f"{trained[key]}), so predictions may be wrong"
                )
    return notes


def _is_exported(folder: Path) -> bool:
    """Whether a folder holds an encoder exported to ONNX."""
    return (folder / "encoder.json").is_file()


def _folder(feature: InputFeature) -> str:
    """Text that names the folder of a trained network and what is taken from it; empty without one."""
    if not isinstance(feature, EncoderInput) or feature.folder is None:
        return ""
    return f"{feature.folder}, {'predictions' if feature.predictions else 'embedding'}"


def _at_rate(encoder: Any, feature: InputFeature) -> Encoder:
    """A trained face network at the rate of the option `rate_hz`, or once per frame without it."""
    rate_hz = feature.options.get("rate_hz")
    if rate_hz is not None:
        encoder.rate_hz = float(rate_hz)
    made: Encoder = encoder
    return made


def _create(name: str, feature: InputFeature, device: str) -> Encoder:
    # The encoders without torch are made here: the registry imports pydantic, and the starter should start fast.
    if not feature.options and feature.encoder == FACE_GEOMETRY:
        return FaceGeometry()
    if not feature.options and feature.encoder == MOUTH_OPENING:
        return MouthOpening()
    if not feature.options and feature.encoder in VOICES:
        return VOICES[feature.encoder]()
    folder = feature.folder if isinstance(feature, EncoderInput) else None
    if folder is not None and folder.suffix and not folder.is_dir():
        from mien.encoders.onnx_face import OnnxFace

        return OnnxFace(str(folder), device=device)
    if folder is not None and _is_exported(folder) and device == "cpu":
        from mien.encoders.exported import open_exported

        return _at_rate(open_exported(folder), feature)
    if isinstance(feature, EncoderInput) and folder is not None and (folder / CHECKPOINT).is_file():
        from mien.checkpoint_encoder import CheckpointEncoder

        return _at_rate(CheckpointEncoder(folder, device=device, predictions=feature.predictions), feature)
    if feature.encoder == OWN:
        raise ConfigError(
            f"the checkpoint was trained on {name} features of your own, which mien cannot compute from a recording",
            follows="Nothing was decoded.",
            remedy="Predict arrays with mien.custom_data.predict, or train with a registered encoder "
            "(package.module:factory names one of your own).",
        )
    from mien.checkpoint_encoder import create_encoder
    from mien.encoders.registry import format_spec

    return create_encoder(format_spec(feature.encoder, feature.options), device=device)


def release_networks(encoders: Iterable[Encoder], seconds: float) -> None:
    """Free the networks of the face tracker, and of encoders with a method `release`, after a recording of at least
    `LONG_S`: there is then room for its table. They are made again when they are needed."""
    if seconds < LONG_S:
        return
    tflite.release_idle()
    for encoder in encoders:
        if (release := getattr(encoder, "release", None)) is not None:
            release()
