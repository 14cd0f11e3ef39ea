"""Checks of recipe options that several systems share. Each raises ValueError, which pydantic reports for the key."""

from __future__ import annotations

from collections.abc import Iterable

from mien.records import FACE, VOICE


def check_heads(dim: int, heads: int, *, keys: tuple[str, str] = ("dim", "heads")) -> None:
    """Raise unless the width is divisible by the number of attention heads. keys: what the recipe calls the two."""
    if dim % heads:
        raise ValueError(f"{keys[0]} {dim} is not divisible by {keys[1]} {heads}")


def check_face_and_voice(inputs: Iterable[str]) -> None:
    """Raise unless all inputs are `face` or `voice`."""
    if unknown := sorted(set(inputs) - {FACE, VOICE}):
        raise ValueError(f"inputs are face and voice; got {unknown}")


def check_dropout_names(names: Iterable[str], inputs: Iterable[str]) -> None:
    """Raise unless the names of `modality_dropout` are inputs."""
    if unknown := sorted(set(names) - set(inputs)):
        raise ValueError(f"modality_dropout names {unknown}, which are no modalities; features are {sorted(inputs)}")
