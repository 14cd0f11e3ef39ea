"""The calibration in the folder of a checkpoint or an ensemble, which `mien submit` applies."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

from mien import ensemble_folder, saved_state
from mien.checkpoint import ABOUT
from mien.errors import ConfigError
from mien.evaluation.calibration import FILE_NAME, Calibration


def save(fitted: Calibration, folder: Path, fitted_on: str) -> None:
    """Write calibration.json into a folder, with what it was fitted on and for which weights, under the digest of the
    folder's state (`mien.saved_state`). Raises OSError."""
    content = replace(fitted, fitted_on=fitted_on, model=_weights(folder)).to_bytes()
    saved_state.update(folder, _manifest(folder), {FILE_NAME: content})


def load(folder: Path, path: Path | None = None) -> Calibration | None:
    """The calibration of a folder, or that of `path`; None if the folder has none and no path is given.

    Raises ConfigError for a file that is no calibration, or was fitted for other weights.
    """
    path = path or folder / FILE_NAME
    if path == folder / FILE_NAME:
        state = saved_state.read(folder, _manifest(folder))
        if not state.path(FILE_NAME).is_file():
            if FILE_NAME not in state.files:
                return None
            raise ConfigError(
                f"{path} is missing, and {state.manifest} names it",
                follows="Nothing was predicted: the answers would be others.",
                remedy=f"Copy the whole folder again, or fit it again with `mien evaluate {folder}`.",
            )
        calibration = Calibration.parse(state.read(FILE_NAME), path)
    else:
        calibration = Calibration.load(path)
    if calibration.model and calibration.model != _weights(folder):
        raise ConfigError(
            f"{path} was fitted for other weights than those of {folder}",
            follows="It was not applied: smoothing and class bias are of one training.",
            remedy=f"Fit it again with `mien evaluate {folder}`, or delete it to use the recipe's smoothing.",
        )
    return calibration


def _manifest(folder: Path) -> str:
    return ensemble_folder.ABOUT if ensemble_folder.is_ensemble(folder) else ABOUT


def _weights(folder: Path) -> str:
    """sha256 of the weights of a checkpoint; of an ensemble, of its members' weights and their shares."""
    facts = saved_state.read(folder, _manifest(folder)).facts
    if not ensemble_folder.is_ensemble(folder):
        return str(facts["sha256"])
    if "digest" not in facts:  # of an earlier version
        return hashlib.sha256((folder / ensemble_folder.ABOUT).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(facts["members"], sort_keys=True).encode()).hexdigest()
