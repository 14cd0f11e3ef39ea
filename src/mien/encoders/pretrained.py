"""Pretrained networks from the Hugging Face hub or from a folder, through one road.

A source is a folder written by `save_pretrained` (or downloaded), or a hub id like `microsoft/wavlm-large`. A
hub id is looked for in the mirrors of `MIEN_HUB` (`MIRROR/microsoft/wavlm-large`), then in the hub's own
cache, then downloaded. Weights are safetensors; a pickle can run any code when read, so it is refused unless
the caller says `allow_pickle=True` (and then torch reads tensors only, no objects).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub_errors
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from mien import hub
from mien.errors import ArtefactError, ConfigError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PLAIN = ["*.json", "*.txt", "*.jinja", "*.model", "model*.safetensors"]
_PICKLES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


#: What transformers and torch raise for files that are truncated, or not what their names say.
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError)


@dataclass(frozen=True, slots=True)
class WeightSource:
    """What is known of a network before it is here: its hub id, size of the weights in bytes, licence."""

    source: str
    size: int | None = None
    licence: str = "unknown"

    def __str__(self) -> str:
        size = f"about {hub.human_size(self.size)}" if self.size else "size unknown"
        return f"{self.source} ({size}, licence {self.licence})"


@dataclass(frozen=True, slots=True)
class PretrainedWeights:
    """A folder with config.json and weights. revision: the hub's commit, or `folder`. pickle: its weights are
    a pickle, which the caller has allowed. weights: the weight files, in order."""

    folder: Path
    source: str
    revision: str
    pickle: bool
    weights: tuple[Path, ...]

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    def digest(self) -> str:
        """`sha256:` and 16 digits of the weights. It stands in provenance in the place of a commit, because
        the same weights may come from the hub today and from a folder tomorrow. Reads every byte once
        (a second per gigabyte)."""
        made = hashlib.sha256()
        for path in self.weights:
            stat = path.stat()
            made.update(bytes.fromhex(_sha256(path, stat.st_size, stat.st_mtime_ns)))
        return f"sha256:{made.hexdigest()[:16]}"


def fetch(about: WeightSource, *, revision: str | None = None, allow_pickle: bool = False) -> PretrainedWeights:
    """The checkpoint that `about.source` names.

    Raises:
        ConfigError: the source is neither a folder nor a hub id.
        ArtefactError: it is not there, not reachable, not allowed, no checkpoint, or only a pickle.
    """
    source = about.source
    for path in (Path(source).expanduser(), *(mirror / source for mirror in hub.mirrors())):
        if path.is_dir():
            return _checked(path, source, "folder", allow_pickle)
    if not _HUB_ID.fullmatch(source):
        raise ConfigError(
            f"There is no folder {source}, and it is no hub id (ORGANISATION/NAME) either.",
            follows="No encoder was made.",
            remedy="Name a folder that holds config.json and model.safetensors, or an id of the hub.",
        )
    folder = _download(about, revision, _PLAIN)
    if allow_pickle and not list(folder.glob("model*.safetensors")):
        folder = _download(about, revision, _PLAIN + _PICKLES)
    return _checked(folder, source, folder.name, allow_pickle)


def load(
    checkpoint: PretrainedWeights,
    network: type,
    types: tuple[str, ...],
    *,
    dtype: torch.dtype = torch.float32,
    may_miss: str = "(?!)",
    **options: Any,
) -> Any:
    """The network in evaluation mode, its weights from `checkpoint`.

    network: a class of transformers. types: the `model_type`s of config.json that it can read. may_miss: a
    pattern of weights that the checkpoint need not have, because encoding never uses them.

    Raises ArtefactError where the checkpoint is of another architecture, damaged, or lacks weights: a network
    that is partly random would give wrong features in silence.
    """
    check_type(checkpoint, types)
    try:
        with _quiet():
            model, report = network.from_pretrained(  # type: ignore[attr-defined]
                checkpoint.folder,
                dtype=dtype,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=not checkpoint.pickle,
                **options,
            )
    except _UNREADABLE as error:
        raise ArtefactError(
            f"{checkpoint.folder} cannot be read as {network.__name__}: {_first_line(error)}",
            follows="No encoder was made.",
            remedy="The files may be truncated or of another network: download them again.",
        ) from error
    wrong = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    missing = sorted(key for key in wrong if not re.search(may_miss, key))
    if missing:
        raise ArtefactError(
            f"{checkpoint.folder} lacks {len(missing)} weights of {network.__name__}, {missing[0]} first.",
            follows="They would be random, and every feature wrong; no encoder was made.",
            remedy="It is of another architecture or incomplete: name another, or download it again.",
        )
    return model.eval().requires_grad_(False)


def check_type(checkpoint: PretrainedWeights, types: tuple[str, ...]) -> None:
    """Raises ArtefactError where config.json names another architecture."""
    found = checkpoint.config.get("model_type")
    if found not in types:
        raise ArtefactError(
            f"{checkpoint.folder} holds weights of another architecture: model_type is {found!r}, "
            f"wanted {' or '.join(repr(t) for t in types)}.",
            follows="No encoder was made.",
            remedy="Name a checkpoint of that architecture, or the encoder that fits this one.",
        )


def tensors(checkpoint: PretrainedWeights, prefix: str) -> dict[str, torch.Tensor]:
    """The weights whose names begin with `prefix`, by the rest of their names: for a part of a checkpoint that
    no class of transformers reads."""
    found: dict[str, torch.Tensor] = {}
    for path in checkpoint.weights:
        if checkpoint.pickle:
            every = torch.load(path, map_location="cpu", weights_only=True)
            found |= {key: value for key, value in every.items() if key.startswith(prefix)}
            continue
        with safe_open(path, framework="pt") as file:
            found |= {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    return {key.removeprefix(prefix): value for key, value in found.items()}


def tokenizer(checkpoint: PretrainedWeights) -> Any:
    """Its tokenizer. Raises ArtefactError where it has none: transformers would make an empty one."""
    from transformers import AutoTokenizer

    try:
        if not any((checkpoint.folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise OSError("neither tokenizer.json nor vocab.json is there")
        return AutoTokenizer.from_pretrained(checkpoint.folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{checkpoint.folder} has no readable tokenizer: {_first_line(error)}",
            follows="No encoder was made.",
            remedy="Save the tokenizer beside the weights (`save_pretrained`), or download all files.",
        ) from error


def provenance(about: WeightSource, checkpoint: PretrainedWeights, **keys: str) -> Mapping[str, str]:
    """What every pretrained encoder says: the network, its weights, the version of this reading of it."""
    return {"network": about.source, "revision": checkpoint.digest(), "version": "1", **keys}


def _download(about: WeightSource, revision: str | None, patterns: list[str]) -> Path:
    try:
        return Path(
            snapshot_download(
                about.source,
                revision=revision,
                allow_patterns=patterns,
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        )
    except hub_errors.GatedRepoError as error:
        raise ArtefactError(
            f"{about} is gated: the hub gives it only to accounts that accepted its terms.",
            follows="Nothing was downloaded.",
            remedy=f"Accept them at https://huggingface.co/{about.source}, then `hf auth login`.",
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ArtefactError(
            f"{about.source} is not on the hub, or is private.",
            follows="Nothing was downloaded.",
            remedy="Check the spelling; for a private one, `hf auth login` first. A local folder works too.",
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ArtefactError(
            f"{about.source} has no revision {revision!r}.",
            follows="Nothing was downloaded.",
            remedy="Leave `revision` out for the newest, or name a commit, tag or branch of it.",
        ) from error
    except (OSError, hub_errors.HfHubHTTPError, ConnectionError) as error:
        raise _unreachable(about, error) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "requests"):
            raise _unreachable(about, error) from error
        raise


def _unreachable(about: WeightSource, error: Exception) -> ArtefactError:
    return ArtefactError(
        f"{about} is not on this machine, and the hub cannot be reached: {_first_line(error)}",
        follows="No encoder was made.",
        remedy=f"Where there is a network: `hf download {about.source} --local-dir FOLDER` "
        "(`huggingface-cli download` in older versions). Then give that folder as `source`, or put it at "
        f"MIRROR/{about.source} and set MIEN_HUB=MIRROR.",
    )


def _checked(folder: Path, source: str, revision: str, allow_pickle: bool) -> PretrainedWeights:
    if not (folder / "config.json").is_file():
        raise ArtefactError(
            f"{folder} is no checkpoint: it has no config.json.",
            follows="No encoder was made.",
            remedy="Name the folder that `save_pretrained` or `hf download` wrote.",
        )
    safe = _files(folder, "model.safetensors", "model*.safetensors")
    if safe:
        return PretrainedWeights(folder, source, revision, False, safe)
    pickles = _files(folder, "pytorch_model.bin", "pytorch_model*.bin")
    if pickles and allow_pickle:
        return PretrainedWeights(folder, source, revision, True, pickles)
    if pickles:
        raise ArtefactError(
            f"{folder} holds its weights as a pickle ({pickles[0].name}); reading one can run any code.",
            follows="Nothing was read.",
            remedy="Convert it to model.safetensors, or say allow_pickle=True if you trust who made it.",
        )
    raise ArtefactError(
        f"{folder} holds no weights: neither model.safetensors nor its parts are there.",
        follows="No encoder was made.",
        remedy="Download it again. Where its maker offers only a pickle, allow_pickle=True takes that.",
    )


def _files(folder: Path, single: str, pattern: str) -> tuple[Path, ...]:
    return (folder / single,) if (folder / single).is_file() else tuple(sorted(folder.glob(pattern)))


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and its table of weights that were not needed (a head, a text
    tower): `load` looks at the missing ones itself."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
