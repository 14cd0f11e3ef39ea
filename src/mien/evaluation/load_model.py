"""Load one or several trained runs in torch, for the evaluation of stored features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mien import checkpoint, ensemble, ensemble_folder
from mien.ensemble import EnsembleModel
from mien.errors import ConfigError
from mien.inference import StreamModel


def load_model(
    runs: Sequence[Path], device: str = "cpu", weights: Sequence[float] | None = None
) -> checkpoint.Checkpoint | EnsembleModel:
    """The checkpoint of one run, or the ensemble of several runs or of an ensemble folder.

    Args:
        runs: folders of checkpoints, names of shipped ones, or one ensemble folder.
        weights: of the members; None gives those of the folder, or equal ones.

    Raises ConfigError for a folder that cannot be loaded, an ensemble within an ensemble, weights of a single
    checkpoint, or members that cannot be averaged.
    """

    def load_member(run: Path) -> StreamModel:
        return checkpoint.load(run, device)

    if len(runs) == 1 and ensemble_folder.is_ensemble(runs[0]):
        return ensemble_folder.load(runs[0], load_member, weights)
    if len(runs) == 1:
        if weights is not None:
            raise ConfigError(
                f"weights were given for a single checkpoint, {runs[0]}",
                follows="Nothing was predicted.",
                remedy="Omit --weights, or give several checkpoints.",
            )
        return checkpoint.load(runs[0], device)
    nested = [run for run in runs if ensemble_folder.is_ensemble(run)]
    if nested:
        raise ConfigError(
            f"{nested[0]} is an ensemble itself, and cannot be a member of another",
            follows="Nothing was predicted.",
            remedy="Give its members one by one, with their weights.",
        )
    shares = ensemble.check_weights(weights, len(runs))
    return ensemble.combine([load_member(run) for run in runs], [str(run) for run in runs], shares)
