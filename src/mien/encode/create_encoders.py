"""The encoders of a checkpoint's inputs, made and checked before anything is decoded."""

from __future__ import annotations

from collections.abc import Mapping

from mien.encoders.face_geometry import NAME as FACE_GEOMETRY
from mien.encoders.face_geometry import FaceGeometry
from mien.encoders.protocol import Encoder
from mien.encoders.voice_prosody import NAME as VOICE_PROSODY
from mien.encoders.voice_prosody import VoiceProsody
from mien.errors import ConfigError
from mien.inference import InputFeature


def create_encoders(features: Mapping[str, InputFeature], *, device: str = "cpu") -> dict[str, Encoder]:
    """Modality -> encoder, each as the checkpoint's training used it.

    Raises:
        ConfigError: an unknown encoder, or one that computes features of another width than the checkpoint reads.
        ArtefactError: weights are not here; names them, their size and licence, and the command that gets them.
    """
    encoders: dict[str, Encoder] = {}
    for modality, feature in features.items():
        encoder = _create(feature, device)
        if feature.dim and encoder.dim != feature.dim:
            raise ConfigError(
                f"the checkpoint was trained on {feature.dim} {modality} features; the encoder {feature.encoder!r} "
                f"computes {encoder.dim}",
                follows="Nothing was decoded: the features would mean something else.",
                remedy="Use the encoder that the checkpoint was trained with, or train it again.",
            )
        encoders[modality] = encoder
    return encoders


def _create(feature: InputFeature, device: str) -> Encoder:
    # The two encoders without weights are made here: the registry imports pydantic, and the starter should start fast.
    if not feature.options and feature.encoder == FACE_GEOMETRY:
        return FaceGeometry()
    if not feature.options and feature.encoder == VOICE_PROSODY:
        return VoiceProsody()
    from mien.checkpoint_encoder import create_encoder
    from mien.encoders.registry import format_spec

    return create_encoder(format_spec(feature.encoder, feature.options), device=device)
