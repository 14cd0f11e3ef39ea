"""mien: what each person in a video shows, at every moment, from face and voice together.

    import mien
    timeline = mien.load("starter").predict("clip.mp4")
    timeline.to_csv("timeline.csv")

Names are fetched when they are first asked for, so that `import mien` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mien import custom_data
    from mien.config import names as recipes
    from mien.predict import Predictor, load, predict
    from mien.timeline.table import Timeline

    __version__: str

__all__ = ["Predictor", "Timeline", "__version__", "custom_data", "load", "predict", "recipes"]

_HOMES = {
    "load": "mien.predict",
    "predict": "mien.predict",
    "Predictor": "mien.predict",
    "Timeline": "mien.timeline.table",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("mien")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    if name == "custom_data":
        from importlib import import_module

        return import_module("mien.custom_data")
    if name == "recipes":
        from mien.config import names

        return names
    raise AttributeError(f"module 'mien' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
