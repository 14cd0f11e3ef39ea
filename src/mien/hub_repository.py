"""Upload a checkpoint to the Hugging Face Hub, and download one: `mien hub push` and `mien hub pull ORG/NAME`.

A checkpoint's repository holds the files of its folder, and no others: safetensors, JSON, YAML, ONNX and Markdown at
the top and below `stages/`. Pickles are neither uploaded nor downloaded. HF_ENDPOINT names another Hub, HF_TOKEN the
account. Downloads are verified by the SHA-256 in checkpoint.json before the folder gets its final name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, HfApi, get_token, snapshot_download
from huggingface_hub import errors as hub_errors

from mien import downloads, json_object, saved_state
from mien.errors import ArtefactError, ConfigError, MienError, OutputError
from mien.scratch import scratch_folder

SUFFIXES = (".safetensors", ".json", ".yaml", ".onnx", ".md")
_REQUIRED = ("weights.safetensors", "recipe.yaml", "checkpoint.json", "metrics.json")
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_NETWORK_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests")
#: An absolute path of two parts or more, a path below a home folder, or a Windows path; not the path of an address.
_LOCAL_PATH = re.compile(r"(?<![\w./:~\\])(?:(?:~|/[\w.-]+)/[^\s'\",]+|[A-Za-z]:[\\/][^\s'\",]+)|file://[^\s'\",]+")


def endpoint() -> str:
    """Address of the Hub: HF_ENDPOINT, by default https://huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_network_error(error: Exception) -> bool:
    """Whether an error of huggingface_hub means that the Hub was not reached or did not answer as expected.

    The HTTP library below huggingface_hub differs by its version, and so do the classes of its errors.
    """
    library = type(error).__module__.split(".")[0]
    return library in _NETWORK_LIBRARIES or isinstance(error, OSError | hub_errors.HfHubHTTPError)


def first_line(error: Exception) -> str:
    """First line of an error's text that is not empty, else the name of its class."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def check_repository(name: str) -> str:
    """Return `name` if it is ORGANISATION/NAME. Raises ConfigError otherwise."""
    if not _REPOSITORY.fullmatch(name):
        raise ConfigError(
            f"{name!r} is not the name of a repository on the Hub",
            follows="Nothing was transferred.",
            remedy="Write it as ORGANISATION/NAME or USER/NAME, such as my-lab/fused.",
        )
    return name


def is_checkpoint_file(name: str) -> bool:
    """Whether a path inside a repository or a checkpoint folder (with `/`) belongs to a checkpoint."""
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or any(part.startswith(".") for part in path.parts):
        return False
    return path.suffix in SUFFIXES and (len(path.parts) == 1 or path.parts[0] in ("stages", "encoders"))


def checkpoint_files(folder: Path) -> list[str]:
    """The files of a checkpoint folder that `push` uploads, as sorted paths with `/`."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return sorted(name for name in found if is_checkpoint_file(name))


def verify(folder: Path) -> None:
    """Verify a checkpoint folder and the checkpoints below `stages/`.

    Raises ArtefactError if a required file is missing or unreadable, or weights or ONNX network differ from the
    SHA-256 that checkpoint.json or network.json states.
    """
    for about in folder.glob("**/checkpoint.json"):
        with contextlib.suppress(OSError):  # a folder that may only be read
            saved_state.settle(about.parent, about.name)
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if missing:
        raise ArtefactError(
            f"{folder} is not a complete checkpoint: {', '.join(missing)} missing",
            follows="Nothing was kept or uploaded.",
            remedy="Name a folder that `mien train` wrote, or a repository that `mien hub push` wrote.",
        )
    for about in sorted([folder / "checkpoint.json", *folder.glob("stages/**/checkpoint.json")]):
        _check_digest(about.parent / "weights.safetensors", about, "sha256")
    for about in sorted([*folder.glob("network.json"), *folder.glob("stages/**/network.json")]):
        _check_digest(about.parent / "network.onnx", about, "network")


def local_paths(folder: Path) -> list[str]:
    """Paths of this machine in the YAML and JSON files of a checkpoint, a line each: `FILE: KEY = VALUE`."""
    lines = []
    for name in checkpoint_files(folder):
        if not name.endswith((".yaml", ".json")):
            continue
        try:
            content = yaml.safe_load((folder / name).read_text(encoding="utf-8"))  # JSON is YAML
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise ArtefactError(
                f"{folder / name} cannot be read: {first_line(error)}",
                follows="Nothing was uploaded.",
                remedy="Copy the checkpoint again, or train it again.",
            ) from error
        lines += [f"{name}: {key} = {text}" for key, text in _texts(content, "") if _LOCAL_PATH.search(text)]
    return lines


def push(folder: Path, repository: str, *, card: str, private: bool = False) -> str:
    """Upload a checkpoint in one commit, and create the repository if there is none; returns its address.

    Args:
        folder: the checkpoint, verified by the caller (`verify`). Only `checkpoint_files` of it are uploaded.
        repository: ORGANISATION/NAME.
        card: content of README.md.
        private: create a private repository.

    Raises:
        ConfigError: no token; or `private` for a repository that exists and is public.
        ArtefactError: no permission, or the Hub cannot be reached.
    """
    check_repository(repository)
    check_token()
    api = HfApi(endpoint=endpoint())
    files = {name: folder / name for name in checkpoint_files(folder) if name != "README.md"}
    operations = [CommitOperationAdd(name, path) for name, path in files.items()]
    operations.append(CommitOperationAdd("README.md", card.encode()))
    with _errors(repository, "Nothing was uploaded."):
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and api.model_info(repository).private is False:
            raise ConfigError(
                f"{repository} exists on {endpoint()} and is public",
                follows="Nothing was uploaded.",
                remedy="Make it private in its settings there, choose another name, or omit --private.",
            )
        api.create_commit(repository, operations, commit_message="Upload checkpoint with mien")
    return f"{endpoint()}/{repository}"


def check_token() -> None:
    """Raise ConfigError if huggingface_hub knows no token: neither HF_TOKEN nor `hf auth login`."""
    if not get_token():
        raise ConfigError(
            f"no token for {endpoint()}: HF_TOKEN is not set, and nobody is logged in",
            follows="Nothing was uploaded.",
            remedy="Run `hf auth login`, or set HF_TOKEN to a token with write access.",
        )


def pull(repository: str, out: Path, *, revision: str | None = None) -> Path:
    """Download a checkpoint into the folder `out`, which must be new or empty, and verify it; returns `out`.

    The files arrive in a temporary folder beside `out`, so that `out` is complete or absent.

    Args:
        revision: commit, tag or branch; None takes the newest.

    Raises:
        ConfigError: `repository` is not ORGANISATION/NAME.
        OutputError: `out` exists with content, or cannot be written.
        ArtefactError: no such repository or revision, no permission, the Hub cannot be reached, or the files are no
            complete checkpoint with the digests that it states.
    """
    check_repository(repository)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(
            f"{out} exists already", follows="Nothing was downloaded.", remedy="Use --out with a new folder."
        )
    with _temporary_folder(out) as temporary:
        folder = temporary / out.name
        _download(repository, revision, folder)
        verify(folder)
        _place(folder, out)
    return out


@contextlib.contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out`. Raises OutputError."""
    with contextlib.ExitStack() as stack:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(scratch_folder(out))
        except OSError as error:
            raise OutputError(
                f"{out.parent} cannot be written: {error.strerror or error}",
                follows="Nothing was downloaded.",
                remedy="Use --out with a folder that you can write.",
            ) from error
        yield temporary


def _place(folder: Path, out: Path) -> None:
    """Rename a complete folder to `out`. Raises OutputError if another process put something there meanwhile."""
    try:
        if out.is_dir():
            out.rmdir()
        folder.rename(out)
    except OSError as error:
        raise OutputError(
            f"{out}: another process put files there while this one downloaded ({error.strerror or error})",
            follows="The download was removed; those files are unchanged.",
            remedy="Use what is there, or --out with a new folder.",
        ) from error


def _download(repository: str, revision: str | None, folder: Path) -> None:
    if downloads.is_offline():
        raise ArtefactError(
            f"{repository} was not downloaded: MIEN_OFFLINE forbids downloads",
            follows="Nothing was downloaded.",
            remedy="Unset MIEN_OFFLINE.",
        )
    with _errors(repository, "Nothing was downloaded.", revision):
        info = HfApi(endpoint=endpoint()).model_info(repository, revision=revision)
        names = [file.rfilename for file in info.siblings or [] if is_checkpoint_file(file.rfilename)]
        missing = [name for name in _REQUIRED if name not in names]
        if missing:
            raise ArtefactError(
                f"{repository} on {endpoint()} holds no checkpoint of mien: {', '.join(missing)} missing",
                follows="Nothing was downloaded. Pickles are never downloaded.",
                remedy="Name a repository that `mien hub push` wrote.",
            )
        # Names are patterns here; [] quotes the characters that have a meaning in patterns.
        patterns = [re.sub(r"([*?[])", r"[\1]", name) for name in names]
        snapshot_download(repository, revision=info.sha, allow_patterns=patterns, local_dir=folder, endpoint=endpoint())
    shutil.rmtree(folder / ".cache", ignore_errors=True)  # huggingface_hub keeps its records of the download there


@contextlib.contextmanager
def _errors(repository: str, follows: str, revision: str | None = None) -> Iterator[None]:
    """Turn the errors of huggingface_hub into those of mien, with the cause and the fix."""
    try:
        yield
    except MienError:
        raise
    except hub_errors.GatedRepoError as error:
        raise ArtefactError(
            f"{repository} is gated: the Hub gives it only to accounts that accepted its terms",
            follows=follows,
            remedy=f"Accept them at {endpoint()}/{repository}, then run `hf auth login`.",
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ArtefactError(
            f"{repository} has no revision {revision!r}",
            follows=follows,
            remedy="Omit --revision for the newest, or name a commit, tag or branch of it.",
        ) from error
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401 and get_token():
            what, remedy = "the token was refused (401)", "Run `hf auth login`, or set HF_TOKEN to a valid token."
        elif status == 403:
            what = "this account has no permission (403)"
            remedy = "Use a token with write access to that organisation, or the name of your own account."
        elif status in (401, 404):
            what = f"no such repository, or a private one ({status})"
            remedy = "Check the spelling. For a private one run `hf auth login`, or set HF_TOKEN."
        elif is_network_error(error):
            what = f"the Hub cannot be reached: {first_line(error)}"
            remedy = "Check the connection and HF_ENDPOINT, then run the command again."
        else:
            raise
        raise ArtefactError(f"{repository} on {endpoint()}: {what}", follows=follows, remedy=remedy) from error


def _check_digest(file: Path, about: Path, key: str) -> None:
    try:
        stated = json_object.parse(about.read_bytes())[key]
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{file} cannot be verified by {about.name}: {first_line(error)}",
            follows="Nothing was kept or uploaded.",
            remedy="Get the checkpoint again, or export it again.",
        ) from error
    if found != stated:
        raise ArtefactError(
            f"{file} is not the file that {about.name} describes: sha256 {found[:12]}..., stated {str(stated)[:12]}...",
            follows="It is damaged or from another training run. Nothing was kept or uploaded.",
            remedy="Get the checkpoint again; for network.onnx, run `mien export` again.",
        )


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every text of a parsed file with its dotted key; keys are texts too."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            inner = f"{key}.{name}" if key else str(name)
            yield inner, str(name)
            yield from _texts(value, inner)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value, key)
    elif isinstance(node, str):
        yield key, node
