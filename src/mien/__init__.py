"""mien: emotion recognition over time, from the face and the voice of each person in a video.

    import mien
    timeline = mien.load("starter").predict("clip.mp4")
    timeline.to_csv("timeline.csv")

Public names are imported when they are first used, so that `import mien` is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien.telemetry import switch_off

if TYPE_CHECKING:
    from mien import custom_data
    from mien.client import Client
    from mien.config import names as recipes
    from mien.live.predictor import stream
    from mien.predict import Predictor, load, predict
    from mien.timeline.table import Timeline

    __version__: str

switch_off()

__all__ = ["Client", "Predictor", "Timeline", "__version__", "custom_data", "load", "predict", "recipes", "stream"]

#: Public name -> (module, attribute) imported at first use; an empty attribute means the module itself.
_LAZY = {
    "Client": ("mien.client", "Client"),
    "Predictor": ("mien.predict", "Predictor"),
    "Timeline": ("mien.timeline.table", "Timeline"),
    "custom_data": ("mien.custom_data", ""),
    "load": ("mien.predict", "load"),
    "predict": ("mien.predict", "predict"),
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
    return getattr(import_module(module), attribute) if attribute else import_module(module)


def __dir__() -> list[str]:
    return sorted(__all__)
