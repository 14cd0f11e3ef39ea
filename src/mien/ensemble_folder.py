"""Ensemble folders: several checkpoints and their weights in one folder, which can be copied and used as one model.

    ensemble.json    format, members' folders, weights, hashes of the members' weights, what the weights were fitted on
    members/NAME/    the members, each a complete checkpoint folder

Nothing here imports torch: the caller loads the members.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mien.atomic import check_folder, write_bytes
from mien.ensemble import EnsembleModel, check_weights, combine
from mien.errors import ConfigError, OutputError
from mien.inference import StreamModel
from mien.trained_model import copy_checkpoint

ABOUT, MEMBERS = "ensemble.json", "members"
FORMAT = "mien-ensemble-1"
#: Files that every checkpoint folder has (`mien.checkpoint`).
_REQUIRED = ("weights.safetensors", "recipe.yaml", "checkpoint.json", "metrics.json")


@dataclass(frozen=True, slots=True)
class EnsembleFolder:
    """The content of ensemble.json.

    folder: of the ensemble. members: folders of the members. weights: one per member, with the sum 1. fitted_on: what
    the weights were chosen on; empty for given or equal weights. scores: measured with the ensemble.
    """

    folder: Path
    members: list[Path]
    weights: list[float]
    fitted_on: str = ""
    scores: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the members: those of their folders."""
        return [path.name for path in self.members]


def is_ensemble(folder: str | Path) -> bool:
    """Whether a folder holds an ensemble."""
    return (Path(folder) / ABOUT).is_file()


def write(
    out: Path,
    runs: Sequence[Path],
    weights: Sequence[float] | None = None,
    *,
    fitted_on: str = "",
    scores: Mapping[str, Any] | None = None,
) -> Path:
    """Write an ensemble folder with copies of checkpoint folders; returns `out`.

    A run that is already below `out` is referred to in place of a copy. ensemble.json is written last.

    Raises:
        ConfigError: a run is no checkpoint, `out` is one, or the weights are unusable.
        OutputError: the folder cannot be written.
    """
    shares = check_weights(weights, len(runs))
    abouts = [_check_member(Path(run)) for run in runs]
    if any((out / name).exists() for name in _REQUIRED):
        raise ConfigError(
            f"{out} is a checkpoint",
            follows="Nothing was written.",
            remedy="Give another folder with --out.",
        )
    check_folder(out)
    names: list[str] = []
    for run in runs:
        inside = Path(run).resolve().is_relative_to(out.resolve())
        names.append(_relative(run, out) if inside else f"{MEMBERS}/{_free_name(Path(run).resolve().name, names)}")
    try:
        for run, name in zip(runs, names, strict=True):
            if (out / name).resolve() != Path(run).resolve():
                _copy(Path(run), out / name)
        about = {
            "format": FORMAT,
            "members": [
                {"folder": name, "weight": share, "weights_sha256": facts.get("sha256", "")}
                for name, share, facts in zip(names, shares, abouts, strict=True)
            ],
            "fitted_on": fitted_on,
            "scores": dict(scores or {}),
        }
        write_bytes(out / ABOUT, (json.dumps(about, indent=2) + "\n").encode())
    except OSError as error:
        raise OutputError(
            f"ensemble {out}: cannot be written: {error.strerror or error}",
            follows="The ensemble is incomplete.",
            remedy="Give another folder with --out, or free some space and try again.",
        ) from error
    return out


def read(folder: str | Path) -> EnsembleFolder:
    """Read ensemble.json and check that every member is there.

    Raises ConfigError for a damaged file, another format, a missing member, or one that is not the checkpoint that the
    ensemble was made of.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ConfigError(
                f"ensemble {folder}: format {about['format']!r}, this mien reads {FORMAT!r}",
                follows="It was not loaded.",
                remedy="Write it again with `mien ensemble`.",
            )
        names = [str(member["folder"]) for member in about["members"]]
        digests = [str(member["weights_sha256"]) for member in about["members"]]
        weights = [float(member["weight"]) for member in about["members"]]
        fitted_on, scores = str(about["fitted_on"]), dict(about["scores"])
        if not names:
            raise ValueError("no members")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / ABOUT}: cannot be read as an ensemble ({type(error).__name__}: {error})",
            follows="It was not loaded.",
            remedy="Copy the whole folder again, or write it again with `mien ensemble`.",
        ) from None
    for name, digest in zip(names, digests, strict=True):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise ConfigError(
                f"{folder / ABOUT}: the member {name!r} is outside the folder",
                follows="It was not loaded.",
                remedy="Write it again with `mien ensemble`.",
            )
        if _check_member(folder / name).get("sha256", "") != digest:
            raise ConfigError(
                f"ensemble {folder}: the member {name} is another checkpoint than {ABOUT} describes (sha256 differs)",
                follows="It was not loaded: the weights and scores of the ensemble would not hold.",
                remedy="Copy the whole folder again, or write it again with `mien ensemble`.",
            )
    shares = check_weights(weights, len(names))
    return EnsembleFolder(folder, [folder / name for name in names], shares, fitted_on, scores)


def load(
    folder: str | Path, load_member: Callable[[Path], StreamModel], weights: Sequence[float] | None = None
) -> EnsembleModel:
    """The model of an ensemble folder.

    Args:
        load_member: loads one checkpoint folder, in torch or ONNX Runtime.
        weights: in place of those of the folder.

    Raises ConfigError as `read` and `combine` do.
    """
    stored = read(folder)
    models = [load_member(path) for path in stored.members]
    return combine(models, stored.names, stored.weights if weights is None else weights)


def _check_member(run: Path) -> dict[str, Any]:
    """checkpoint.json of a checkpoint folder. Raises ConfigError if the folder is not one."""
    missing = [name for name in _REQUIRED if not (run / name).is_file()]
    if missing:
        what = f"{', '.join(missing)} missing" if run.is_dir() else "no such folder"
        if is_ensemble(run):
            what = "is itself an ensemble"
        raise ConfigError(
            f"member {run}: {what}",
            follows="The ensemble cannot be used: each member must be a checkpoint.",
            remedy="Give folders that `mien train` wrote; copy an incomplete one again.",
        )
    try:
        about = json.loads((run / "checkpoint.json").read_text(encoding="utf-8"))
        if not isinstance(about, dict):
            raise ValueError("not an object")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"member {run}: checkpoint.json cannot be read: {error}",
            follows="The ensemble cannot be used.",
            remedy="Copy the checkpoint again.",
        ) from None
    return about


def _copy(run: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)  # left from an earlier ensemble in this folder
    copy_checkpoint(run, target)


def _relative(run: Path, out: Path) -> str:
    return Path(run).resolve().relative_to(out.resolve()).as_posix()


def _free_name(name: str, taken: Sequence[str]) -> str:
    free, number = name, 2
    while f"{MEMBERS}/{free}" in taken:
        free, number = f"{name}-{number}", number + 1
    return free
