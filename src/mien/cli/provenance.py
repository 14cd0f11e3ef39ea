"""timeline.json: how the files beside it were made, and whether a later run may skip or replace them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien import downloads, json_object, saved_state
from mien.atomic import write_bytes
from mien.cli.inputs import PROVENANCE, MediaJob
from mien.timeline.whole_file import SUFFIXES, is_whole

if TYPE_CHECKING:
    from mien.timeline.table import Timeline

FORMAT = "mien-timeline-1"
_version = cache(metadata.version)
#: What decides the values of the rows: results that agree in all of it are equal.
DECIDES = ("mien", "weights", "options")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What all inputs of one run have in common.

    model: name in the results. weights: hashes of the model's weights by file, see `weights_of`. options: those that
    change rows, as JSON values.
    """

    model: str
    weights: Mapping[str, str]
    options: Mapping[str, Any]

    def record(self) -> dict[str, Any]:
        """The facts as timeline.json holds them."""
        return {
            "format": FORMAT,
            "mien": _version("mien"),
            "model": self.model,
            "weights": dict(self.weights),
            "options": dict(self.options),
        }


def weights_of(models: Sequence[str]) -> dict[str, str]:
    """Hashes of the weights of models that `--model` accepts: file or checkpoint -> `sha256:HEX`.

    That of a checkpoint, and of each of its stages, is one hash of weights, labels and recipe. It is computed from
    checkpoint.json, which is compared with the files when they are loaded. A network over single faces is joined with
    the voice of the starter, so both are named.
    """
    from mien.encode.create_encoders import FACE_NETWORKS
    from mien.onnx_model import SHIPPED, shipped_folder

    digests: dict[str, str] = {}
    for model in models:
        if "/" not in model and not Path(model).exists() and model not in (*SHIPPED, *FACE_NETWORKS):
            continue  # loading it raises the error that names the models
        folder = shipped_folder(model) if model in SHIPPED else Path(model)
        if folder.is_dir():
            for about in sorted(folder.rglob("checkpoint.json")):
                stated = _digest(saved_state.read(about.parent, about.name))
                digests[(Path(folder.name) / about.parent.relative_to(folder)).as_posix()] = f"sha256:{stated}"
        else:
            from mien.encoders import cards

            _, network = cards.find(model)
            digests |= {network.name: downloads.digest_of(network, "sha256"), **weights_of(["starter"])}
    return digests


def _digest(state: saved_state.State) -> str:
    """What decides the rows of a checkpoint: weights, labels and recipe; of earlier versions the weights alone."""
    facts = state.facts
    if not state.digest:
        return str(facts.get("sha256", ""))
    decides = {key: facts.get(key) for key in ("sha256", "labels", "architecture")}
    return saved_state.digest_of(decides | {"recipe": state.files.get("recipe.yaml")})


def digest_of(media: Path) -> str:
    """`sha256:HEX` of a recording; "" if there is no such file, which decoding reports."""
    return downloads.digest_of(media, "sha256") if media.is_file() else ""


def read(folder: Path) -> dict[str, Any] | None:
    """The timeline.json of a folder; None if there is none, or it cannot be read or used."""
    try:
        content = json_object.parse((folder / PROVENANCE).read_bytes())
    except (OSError, ValueError):
        return None
    return content if content.get("format") == FORMAT and _is_complete(content) else None


def _is_complete(content: Mapping[str, Any]) -> bool:
    """Whether a timeline.json has the values that its readers use, of the types that `write` gives."""
    kinds = {"media": dict, "files": dict, "subjects": list, "notes": list, "classes": list, "model": str, "rows": int}
    if not all(isinstance(content.get(name), kind) for name, kind in kinds.items()):
        return False
    media, numbers = content["media"], int | float
    return (
        isinstance(media.get("path"), str)
        and isinstance(media.get("digest"), str)
        and isinstance(media.get("duration_s") or 0, numbers)
        and all(isinstance(name, str) for name in (*content["files"].values(), *content["classes"], *content["notes"]))
        and all(_is_summary(subject, content["classes"]) for subject in content["subjects"])
    )


def _is_summary(subject: Any, classes: Sequence[str]) -> bool:
    """Whether a value is the summary of a subject, with shares of these classes."""
    if not isinstance(subject, dict):
        return False
    shares, evidence = subject.get("shares"), subject.get("evidence")
    if isinstance(shares, dict) and not {*shares} <= {*classes}:
        return False
    values = [*(shares.values() if isinstance(shares, dict) else [None])]
    values += [evidence.get(k) for k in ("face", "voice", "both")] if isinstance(evidence, dict) else [None]
    means = [subject.get(key) for key in ("valence", "arousal", "confidence")]
    return (
        isinstance(subject.get("subject"), int)
        and {"valence", "arousal"} <= subject.keys()
        and all(isinstance(v, int | float) for v in values)
        and all(v is None or isinstance(v, int | float) for v in means)
    )


def write(
    job: MediaJob,
    run: RunFacts,
    timeline: Timeline,
    *,
    digest: str,
    files: Mapping[str, Path],
    notes: Sequence[str],
    subjects: Sequence[Mapping[str, Any]],
) -> Path:
    """Write timeline.json after all other files of a job, so that where it exists the results are complete. Raises
    OutputError.

    Args:
        digest: of the media, `sha256:HEX`.
        files: kind -> path, each inside the job's folder.
        subjects: the summaries, one for each subject.
    """
    record = {
        **run.record(),
        "media": {
            "path": str(job.media),
            "digest": digest,
            "size": job.media.stat().st_size,
            **timeline.info.get("media", {}),
        },
        "encoders": timeline.info.get("inputs", {}),
        "classes": list(timeline.classes),
        "rows": len(timeline),
        "subjects": [dict(subject) for subject in subjects],
        "notes": list(notes),
        "seconds": timeline.info.get("seconds", {}),
        "files": {kind: path.name for kind, path in files.items()},
    }
    path = job.folder / PROVENANCE
    try:
        text = json.dumps(record, indent=1, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:  # a name whose bytes are not UTF-8: as escapes, which reading turns into that name again
        text = json.dumps(record, indent=1, default=str).encode()
    write_bytes(path, text + b"\n")
    return path


def is_done(job: MediaJob, found: Mapping[str, Any], run: RunFacts, digest: str, files: Sequence[str]) -> bool:
    """Whether a folder's results are those that the run would write, and whole.

    Args:
        found: the folder's timeline.json.
        digest: of the media.
        files: names of the files that the run writes.
    """
    wanted = run.record()
    return (
        found["media"]["digest"] == digest
        and all(found.get(key) == wanted[key] for key in DECIDES)
        and all(_is_there(job.folder / name) for name in files)
    )


def _is_there(path: Path) -> bool:
    """Whether a file of results exists; a table also has to be whole."""
    return path.is_file() and (path.suffix not in SUFFIXES or is_whole(path))


def choose_folders(jobs: Sequence[MediaJob]) -> list[MediaJob]:
    """The jobs, each in the folder of its earlier results if there are any, although its name would now be another one;
    else in another folder (`clip-2`) where its own holds results of another recording.

    A recording is the same if its path or its content is; it has earlier results if its path is.
    """
    earlier = _earlier_folders({job.folder.parent for job in jobs})
    kept: dict[Path, Path] = {}
    for job in jobs:
        if folders := earlier.get(job.media.absolute()):
            kept[job.media] = job.folder if job.folder in folders else folders[0]
    taken = {*kept.values(), *(job.folder for job in jobs)}
    chosen = []
    for job in jobs:
        folder, number = kept.get(job.media, job.folder), 2
        while job.media not in kept and (
            (folder != job.folder and folder in taken) or folder in kept.values() or _holds_other(folder, job.media)
        ):
            folder, number = job.folder.with_name(f"{job.folder.name}-{number}"), number + 1
        taken.add(folder)
        chosen.append(replace(job, folder=folder))
    return chosen


def _earlier_folders(outs: Iterable[Path]) -> dict[Path, list[Path]]:
    """Absolute path of a recording -> the folders in `outs` that hold results of it."""
    found: dict[Path, list[Path]] = {}
    for folder in sorted(path.parent for out in outs for path in out.glob(f"*/{PROVENANCE}")):
        if record := read(folder):
            found.setdefault(Path(record["media"]["path"]).absolute(), []).append(folder)
    return found


def _holds_other(folder: Path, media: Path) -> bool:
    found = read(folder)
    if found is None or Path(found["media"]["path"]).absolute() == media.absolute() or not media.is_file():
        return False
    same_size = found["media"].get("size") == media.stat().st_size
    return not (same_size and downloads.digest_of(media, "sha256") == found["media"]["digest"])


def describe_replaced(job: MediaJob, run: RunFacts, digest: str) -> str:
    """What a run replaces in a job's folder, in words; "" if there is nothing, or the same results again."""
    if not job.folder.is_dir() or not any(job.folder.iterdir()):
        return ""
    found, wanted = read(job.folder), run.record()
    if found is None:
        return "results of an unfinished run or an earlier version of mien"
    reasons = []
    if found["media"]["digest"] != digest:
        reasons.append("of an earlier state of the recording")
    if found.get("weights") != wanted["weights"]:
        reasons.append(f"of the model {found['model']}")
    elif found.get("mien") != wanted["mien"]:
        reasons.append(f"of mien {found['mien']}")
    old, new = found.get("options", {}), wanted["options"]
    changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    if changed:
        reasons.append("with " + ", ".join(f"{name}={old.get(name)}" for name in changed))
    return f"results {' and '.join(reasons)}" if reasons else ""


def files_of(folder: Path) -> dict[str, Path]:
    """Kind -> path of the files that a folder's timeline.json names and that are there."""
    named = (read(folder) or {}).get("files", {})
    return {k: folder / name for k, name in named.items() if Path(name).name == name and (folder / name).is_file()}


def remove_replaced(job: MediaJob, keep: Sequence[str]) -> list[str]:
    """Removes files of an earlier result from a job's folder: those that this run does not overwrite, face descriptors
    kept by `mien people`, and timeline.json. Returns their names, without timeline.json.

    keep: names of the files that the run writes. Raises OSError.
    """
    from mien.people import kept

    removed = [path.name for path in files_of(job.folder).values() if path.name not in keep]
    if (job.folder / kept.NAME).is_file():
        removed.append(kept.NAME)
    for name in (*removed, PROVENANCE):
        (job.folder / name).unlink(missing_ok=True)
    return removed
