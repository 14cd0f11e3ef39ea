"""Media in, Timeline out.

    predictor = mien.load("starter")
    timeline = predictor.predict("clip.mp4")

`mien.predict` is this room and, called, the shortest way through it: `mien.predict("clip.mp4")`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from mien.predict.predictor import Predictor, load
from mien.timeline.table import Timeline

__all__ = ["Predictor", "load", "predict"]


def predict(path: str | Path, *, model: str | Path = "starter", device: str = "auto", **options: Any) -> Timeline:
    """What each person in `path` shows, at every moment: `load(model, device).predict(path, **options)`."""
    return load(model, device=device).predict(path, **options)


class _Callable(ModuleType):
    # Importing the room makes `mien.predict` a module; users mean the function of that name. It is both.
    def __call__(self, path: str | Path, **options: Any) -> Timeline:
        return predict(path, **options)


sys.modules[__name__].__class__ = _Callable
