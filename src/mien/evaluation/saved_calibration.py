"""The calibration in the folder of a checkpoint or an ensemble, which `mien submit` applies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from mien import ensemble_folder
from mien.checkpoint import ABOUT
from mien.errors import ConfigError
from mien.evaluation.calibration import FILE_NAME, Calibration


def save(fitted: Calibration, folder: Path, fitted_on: str) -> None:
    """Write calibration.json into a folder, with what it was fitted on and for which weights. Raises OSError."""
    replace(fitted, fitted_on=fitted_on, model=_digest(folder)).save(folder / FILE_NAME)


def load(folder: Path, path: Path | None = None) -> Calibration | None:
    """The calibration of a folder, or that of `path`; None if the folder has none and no path is given.

    Raises ConfigError for a file that is no calibration, or was fitted for other weights.
    """
    path = path or folder / FILE_NAME
    if not path.is_file() and path == folder / FILE_NAME:
        return None
    calibration = Calibration.load(path)
    if calibration.model and calibration.model != _digest(folder):
        raise ConfigError(
            f"{path} was fitted for other weights than those of {folder}",
            follows="It was not applied: smoothing and class bias are of one training.",
            remedy=f"Fit it again with `mien evaluate {folder}`, or delete it to use the recipe's smoothing.",
        )
    return calibration


def _digest(folder: Path) -> str:
    """sha256 of the weights of a checkpoint, or of the file that describes an ensemble and its members' weights."""
    if ensemble_folder.is_ensemble(folder):
        return hashlib.sha256((folder / ensemble_folder.ABOUT).read_bytes()).hexdigest()
    return str(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["sha256"])
