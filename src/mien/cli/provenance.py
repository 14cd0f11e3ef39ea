"""timeline.json: how the files beside it were made, and whether a later run may skip or replace them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien import downloads
from mien.atomic import write_bytes
from mien.cli.inputs import PROVENANCE, MediaJob

if TYPE_CHECKING:
    from mien.timeline.table import Timeline

FORMAT = "mien-timeline-1"
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
            "mien": version("mien"),
            "model": self.model,
            "weights": dict(self.weights),
            "options": dict(self.options),
        }


def weights_of(models: Sequence[str]) -> dict[str, str]:
    """Hashes of the weights of models that `--model` accepts: file or checkpoint -> `sha256:HEX`.

    Those of a checkpoint and of its stages are read from checkpoint.json, which is compared with the weights when they
    are loaded. A network over single faces is joined with the voice of the starter, so both are named.
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
                stated = json.loads(about.read_text(encoding="utf-8")).get("sha256", "")
                digests[(Path(folder.name) / about.parent.relative_to(folder)).as_posix()] = f"sha256:{stated}"
        else:
            from mien.encoders import cards

            _, network = cards.find(model)
            digests |= {network.name: downloads.digest_of(network, "sha256"), **weights_of(["starter"])}
    return digests


def digest_of(media: Path) -> str:
    """`sha256:HEX` of a recording; "" if there is no such file, which decoding reports."""
    return downloads.digest_of(media, "sha256") if media.is_file() else ""


def read(folder: Path) -> dict[str, Any] | None:
    """The timeline.json of a folder; None if there is none, or it cannot be read."""
    try:
        content = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if _is_record(content) else None


def _is_record(content: object) -> bool:
    """Whether a JSON value is a timeline.json of this format, with all that other runs read of it."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return False
    media, files, subjects = content.get("media"), content.get("files"), content.get("subjects")
    return (
        isinstance(media, dict)
        and isinstance(media.get("path"), str)
        and "\0" not in media["path"]
        and isinstance(media.get("digest"), str)
        and _is_number(media.get("duration_s", 0), optional=True)
        and isinstance(media.get("kind", ""), str)
        and isinstance(files, dict)
        and all(isinstance(name, str) and Path(name).name == name and "\0" not in name for name in files.values())
        and isinstance(subjects, list)
        and all(map(_is_subject, subjects))
        and all(isinstance(content.get(key), str) for key in ("mien", "model"))
        and all(isinstance(content.get(key, {}), dict) for key in ("weights", "options"))
        and all(isinstance(content.get(key), list) for key in ("classes", "notes"))
        and all(isinstance(text, str) for text in (*content["classes"], *content["notes"]))
        and all(name in content["classes"] for subject in subjects for name in subject["shares"])
        and isinstance(content.get("rows"), int)
    )


def _is_subject(subject: object) -> bool:
    if not isinstance(subject, dict):
        return False
    evidence, shares = subject.get("evidence"), subject.get("shares")
    return (
        isinstance(subject.get("subject"), int)
        and isinstance(evidence, dict)
        and all(_is_number(evidence.get(kind)) for kind in ("face", "voice", "both"))
        and isinstance(shares, dict)
        and all(map(_is_number, shares.values()))
        and all(_is_number(subject.get(name), optional=True) for name in ("confidence", "valence", "arousal"))
    )


def _is_number(value: object, *, optional: bool = False) -> bool:
    if value is None:
        return optional
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


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
    text = json.dumps(record, indent=1, ensure_ascii=False, default=str) + "\n"
    # Bytes of a name that are not UTF-8 are lone surrogates here; escaped as in JSON, they are read back as they were.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))
    return path


def is_done(job: MediaJob, found: Mapping[str, Any], run: RunFacts, digest: str, files: Sequence[str]) -> bool:
    """Whether a folder's results are those that the run would write.

    Args:
        found: the folder's timeline.json.
        digest: of the media.
        files: names of the files that the run writes.
    """
    wanted = run.record()
    return (
        found["media"]["digest"] == digest
        and all(found.get(key) == wanted[key] for key in DECIDES)
        and all((job.folder / name).is_file() for name in files)
    )


def choose_folders(jobs: Sequence[MediaJob]) -> list[MediaJob]:
    """The jobs, with another folder (`clip-2`) where the folder holds results of another recording.

    A recording is the same if its path or its content is.
    """
    taken = {job.folder for job in jobs}
    chosen = []
    for job in jobs:
        folder, number = job.folder, 2
        while (folder != job.folder and folder in taken) or _holds_other(folder, job.media):
            folder, number = job.folder.with_name(f"{job.folder.name}-{number}"), number + 1
        taken.add(folder)
        chosen.append(replace(job, folder=folder))
    return chosen


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
    """Removes the files of replaced results that the run does not write anew, and timeline.json; returns the names of
    the former. keep: names of the files that the run writes. Raises OSError."""
    removed = [path.name for path in files_of(job.folder).values() if path.name not in keep]
    for name in (*removed, PROVENANCE):
        (job.folder / name).unlink(missing_ok=True)
    return removed
