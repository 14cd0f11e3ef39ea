"""Prediction: from a recording to a Timeline.

    predictor = mien.load("starter")
    timeline = predictor.predict("clip.mp4")

`mien.predict` is this package and can also be called: `mien.predict("clip.mp4")`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mien.predict.create_predictor import load
from mien.predict.in_processes import predict_many
from mien.predict.protocol import MediaInput, Predictor, ProgressCallback, RowsCallback

if TYPE_CHECKING:
    from mien.timeline.table import Timeline

__all__ = ["MediaInput", "Predictor", "ProgressCallback", "RowsCallback", "load", "predict", "predict_many"]


def predict(
    recording: MediaInput = None,
    *,
    frames: Any = None,
    times: Any = None,
    fps: float | None = None,
    audio: tuple[Any, float] | None = None,
    download: bool = False,
    model: str | Path | Sequence[str | Path] = "starter",
    device: str = "auto",
    max_faces: int = 4,
    face: bool = True,
    voice: bool = True,
    audio_track: int | None = None,
    split_channels: bool = False,
    min_quality: float = 0.0,
    features: bool | str | Iterable[str] = False,
    progress: ProgressCallback | None = None,
) -> Timeline:
    """Predict one recording: `load(model, ...).predict(recording, ...)`.

    `load` explains `model`, `device` and `max_faces`; `Predictor.predict` the rest and the errors.
    """
    predictor = load(model, device=device, max_faces=max_faces)
    return predictor.predict(
        recording, frames=frames, times=times, fps=fps, audio=audio, download=download,
        face=face, voice=voice, min_quality=min_quality, audio_track=audio_track, split_channels=split_channels,
        features=features, progress=progress,
    )  # fmt: skip


class _CallableModule(ModuleType):
    # Importing this package sets the attribute `mien.predict` to the module, which hides the function of that name.
    __call__ = staticmethod(predict)


sys.modules[__name__].__class__ = _CallableModule
