"""Ensemble folders: several checkpoints and their weights in one folder, which can be copied and used as one model.

    ensemble.json    format, members' folders, weights, hashes of the members' weights, what the weights were fitted on
    members/NAME/    the members, each a complete checkpoint folder

Nothing here imports torch: the caller loads the members.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mien import saved_state
from mien.atomic import check_folder
from mien.ensemble import EnsembleModel, check_weights, combine
from mien.errors import ConfigError, OutputError
from mien.inference import StreamModel
from mien.trained_model import copy_checkpoint

ABOUT, MEMBERS = "ensemble.json", "members"
FORMAT = "mien-ensemble-1"
#: Files that every checkpoint folder has (`mien.checkpoint`).
_REQUIRED = ("weights.safetensors", "recipe.yaml", "checkpoint.json", "metrics.json")
_CHECKPOINT = "checkpoint.json"


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

    A run that is already below `out` is referred to in place of a copy. ensemble.json is written last: a killed process
    leaves the earlier ensemble or the new one, whole. Members of an earlier ensemble are removed then.

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
        names.append(_relative(run, out) if inside else f"{MEMBERS}/{_free_name(Path(run), out, names)}")
    try:
        for run, name in zip(runs, names, strict=True):
            copy_checkpoint(Path(run), out / name)
        about = {
            "format": FORMAT,
            "members": [
                {"folder": name, "weight": share, "weights_sha256": facts.get("sha256", ""), **_digest(facts)}
                for name, share, facts in zip(names, shares, abouts, strict=True)
            ],
            "fitted_on": fitted_on,
            "scores": dict(scores or {}),
        }
        saved_state.save(out, ABOUT, about, {})
        _remove_others(out, names)
    except OSError as error:
        raise OutputError(
            f"ensemble {out}: cannot be written: {error.strerror or error}",
            follows="An earlier ensemble in it is unchanged.",
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
        about = saved_state.read(folder, ABOUT).facts
        if about["format"] != FORMAT:
            raise ConfigError(
                f"ensemble {folder}: format {about['format']!r}, this mien reads {FORMAT!r}",
                follows="It was not loaded.",
                remedy="Write it again with `mien ensemble`.",
            )
        names = [str(member["folder"]) for member in about["members"]]
        digests = [(str(member["weights_sha256"]), member.get("digest")) for member in about["members"]]
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
        facts = _check_member(folder / name)
        if facts.get("sha256", "") != digest[0] or digest[1] not in (None, facts.get("digest")):
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
    state = saved_state.read(run, _CHECKPOINT) if (run / _CHECKPOINT).is_file() else None
    find = state.path if state else run.joinpath
    missing = [name for name in _REQUIRED if not find(name).is_file()]
    if missing or state is None:
        what = f"{', '.join(missing)} missing" if run.is_dir() else "no such folder"
        if is_ensemble(run):
            what = "is itself an ensemble"
        raise ConfigError(
            f"member {run}: {what}",
            follows="The ensemble cannot be used: each member must be a checkpoint.",
            remedy="Give folders that `mien train` wrote; copy an incomplete one again.",
        )
    return dict(state.facts)


def _digest(facts: Mapping[str, Any]) -> dict[str, str]:
    """The digest of a member's state as ensemble.json holds it; nothing for checkpoints of earlier versions."""
    return {"digest": str(facts["digest"])} if "digest" in facts else {}


def _remove_others(out: Path, names: Sequence[str]) -> None:
    """Remove members of an earlier ensemble in this folder."""
    used = {Path(name).parts[1] for name in names if Path(name).parts[0] == MEMBERS}
    for folder in (out / MEMBERS).iterdir() if (out / MEMBERS).is_dir() else ():
        if folder.name not in used and (folder / _CHECKPOINT).is_file():
            shutil.rmtree(folder, ignore_errors=True)


def _relative(run: Path, out: Path) -> str:
    return Path(run).resolve().relative_to(out.resolve()).as_posix()


def _free_name(run: Path, out: Path, taken: Sequence[str]) -> str:
    """A folder name that no other member has, now or in an earlier ensemble there that has to stay whole meanwhile."""
    name = run.resolve().name
    free, number = name, 2
    while f"{MEMBERS}/{free}" in taken or _is_other(out / MEMBERS / free, run):
        free, number = f"{name}-{number}", number + 1
    return free


def _is_other(folder: Path, run: Path) -> bool:
    """Whether a folder exists and is no copy of a checkpoint."""
    try:
        return folder.exists() and (folder / _CHECKPOINT).read_bytes() != (run / _CHECKPOINT).read_bytes()
    except OSError:
        return True
