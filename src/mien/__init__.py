"""mien: emotion recognition over time, from the face and the voice of each person in a video.

    import mien
    timeline = mien.load("starter").predict("clip.mp4")
    timeline.to_csv("timeline.csv")

Public names are imported when they are first used, so that `import mien` is fast.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mien.telemetry import switch_off

if TYPE_CHECKING:
    from mien import custom_data
    from mien.client import Client
    from mien.config import names as recipes
    from mien.live.predictor import stream
    from mien.predict import Predictor, load, predict, predict_many
    from mien.timeline.table import Timeline

    __version__: str

switch_off()
if "numpy" not in sys.modules:
    # OpenBLAS lets its threads wait in loops after each small product, which takes the processor from the threads that
    # decode and listen. What the user has set stays.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__all__ = [
    "Client", "Predictor", "Timeline", "__version__", "custom_data", "load", "predict", "predict_many", "recipes",
    "stream",
]  # fmt: skip

#: Public name -> (module, attribute) imported at first use; an empty attribute means the module itself.
_LAZY = {
    "Client": ("mien.client", "Client"),
    "Predictor": ("mien.predict", "Predictor"),
    "Timeline": ("mien.timeline.table", "Timeline"),
    "custom_data": ("mien.custom_data", ""),
    "load": ("mien.predict", "load"),
    "predict": ("mien.predict", "predict"),
    "predict_many": ("mien.predict", "predict_many"),
    "recipes": ("mien.config", "names"),
    "stream": ("mien.live.predictor", "stream"),
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("mien")
    if name not in _LAZY:
        raise AttributeError(f"module 'mien' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    try:
        loaded = import_module(module)
    except ModuleNotFoundError as error:
        from mien import extras

        if extras.is_missing(error):
            raise extras.missing(str(error.name), f"mien.{name}", preferred="train") from error
        raise
    return getattr(loaded, attribute) if attribute else loaded


def __dir__() -> list[str]:
    return sorted(__all__)
