"""Load pretrained networks from the Hugging Face Hub or a local folder.

A source is a folder in the layout of `save_pretrained`, or a Hub id such as `microsoft/wavlm-large`. A Hub id is
looked up in the mirrors of `MIEN_HUB` (`MIRROR/microsoft/wavlm-large`), then in the cache of huggingface_hub, then
downloaded. Weights are read from safetensors. A pickle can run any code when it is read, so it is refused unless the
caller passes `allow_pickle=True`; torch then reads tensors only, no objects.
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
from huggingface_hub import snapshot_download, try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from mien import downloads, hub
from mien.errors import ArtefactError, ConfigError
from mien.hub_repository import first_line, is_network_error
from mien.network_lock import NETWORK_LOCK

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SAFE_FILES = ["*.json", "*.txt", "*.jinja", "*.model", "model*.safetensors"]
_PICKLE_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]

#: What transformers and torch raise for files that are truncated or of another format.
_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError, pickle.UnpicklingError)


@dataclass(frozen=True, slots=True)
class WeightSource:
    """Where weights come from: Hub id or folder, size of the weights in bytes (None if unknown), licence."""

    source: str
    size: int | None = None
    licence: str = "unknown"

    def __str__(self) -> str:
        size = f"about {downloads.human_size(self.size)}" if self.size else "size unknown"
        return f"{self.source} ({size}, licence {self.licence})"


@dataclass(frozen=True, slots=True)
class PretrainedWeights:
    """Local folder with config.json and weights.

    is_pickle: the weights are a pickle, which the caller has allowed.
    files: the weight files, in order.
    """

    folder: Path
    is_pickle: bool
    files: tuple[Path, ...]

    @property
    def config(self) -> dict[str, Any]:
        """Content of config.json."""
        content: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return content

    def digest(self) -> str:
        """Hash of the weights: `sha256:` and 16 hexadecimal digits.

        Provenance holds it in the place of a commit, because the same weights may come from the Hub today and from a
        folder tomorrow. Reads every byte once per process (a second per gigabyte).
        """
        total = hashlib.sha256()
        for path in self.files:
            stat = path.stat()
            total.update(bytes.fromhex(_sha256(path, stat.st_size, stat.st_mtime_ns)))
        return f"sha256:{total.hexdigest()[:16]}"


def fetch(about: WeightSource, *, revision: str | None = None, allow_pickle: bool = False) -> PretrainedWeights:
    """Find the weights that `about.source` names: folder, mirror, cache or download.

    Args:
        about: the source; its size and licence appear in error texts.
        revision: commit, tag or branch on the Hub; None takes the newest.
        allow_pickle: accept a pickle where there are no safetensors.

    Raises:
        ConfigError: the source is neither a folder nor a Hub id.
        ArtefactError: the weights are missing, unreachable, gated, incomplete, or only a pickle.
    """
    source = about.source
    for path in (Path(source).expanduser(), *(mirror / source for mirror in hub.mirrors())):
        if path.is_dir():
            return _find_weights(path, allow_pickle)
    if not _HUB_ID.fullmatch(source):
        raise ConfigError(
            f"There is no folder {source}, and it is not a Hub id (ORGANISATION/NAME) either.",
            follows="No encoder was created.",
            remedy="Name a folder that holds config.json and model.safetensors, or an id of the Hub.",
        )
    folder = _download(about, revision, _SAFE_FILES)
    if allow_pickle and not list(folder.glob("model*.safetensors")):
        folder = _download(about, revision, _SAFE_FILES + _PICKLE_FILES)
    return _find_weights(folder, allow_pickle)


def load_network(
    weights: PretrainedWeights,
    class_name: str,
    types: tuple[str, ...],
    *,
    dtype: torch.dtype = torch.float32,
    optional: str = "(?!)",
    **options: Any,
) -> Any:
    """Load a network of transformers in evaluation mode, without gradients.

    Args:
        weights: the folder.
        class_name: class of transformers, e.g. `BeitModel`.
        types: values of `model_type` in config.json that the class can read.
        dtype: number format of the parameters.
        optional: regular expression of parameters that the weights may lack, because encoding never uses them.
        options: further arguments of `from_pretrained`.

    Raises:
        ArtefactError: the weights are of another architecture, damaged or incomplete. A network that is partly random
            would give wrong features without a warning.
    """
    import transformers

    check_architecture(weights, types)
    try:
        with NETWORK_LOCK, quiet_transformers():
            model, report = getattr(transformers, class_name).from_pretrained(
                weights.folder,
                dtype=dtype,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=not weights.is_pickle,
                **options,
            )
    except _UNREADABLE as error:
        raise ArtefactError(
            f"{weights.folder} cannot be read as {class_name}: {first_line(error)}",
            follows="No encoder was created.",
            remedy="The files may be truncated or of another network. Download them again.",
        ) from error
    unset = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    missing = sorted(key for key in unset if not re.search(optional, key))
    if missing:
        raise ArtefactError(
            f"{weights.folder} lacks {len(missing)} weights of {class_name}, {missing[0]} first.",
            follows="They would be random and every feature wrong. No encoder was created.",
            remedy="The checkpoint is of another architecture or incomplete. Name another, or download it again.",
        )
    return model.eval().requires_grad_(False)


def check_architecture(weights: PretrainedWeights, types: tuple[str, ...]) -> None:
    """Raise ArtefactError if `model_type` in config.json is none of `types`."""
    model_type = weights.config.get("model_type")
    if model_type not in types:
        raise ArtefactError(
            f"{weights.folder} holds weights of another architecture: model_type is {model_type!r}, "
            f"expected {' or '.join(repr(t) for t in types)}.",
            follows="No encoder was created.",
            remedy="Name a checkpoint of that architecture, or the encoder that fits this one.",
        )


def load_tensors(weights: PretrainedWeights, prefix: str) -> dict[str, torch.Tensor]:
    """Load the tensors whose names begin with `prefix`, keyed by the rest of their names.

    For parts of a checkpoint that no class of transformers reads.
    """
    tensors: dict[str, torch.Tensor] = {}
    for path in weights.files:
        if weights.is_pickle:
            content = torch.load(path, map_location="cpu", weights_only=True)
            tensors |= {key: value for key, value in content.items() if key.startswith(prefix)}
            continue
        with safe_open(path, framework="pt") as file:
            tensors |= {key: file.get_tensor(key) for key in file.keys() if key.startswith(prefix)}  # noqa: SIM118
    return {key.removeprefix(prefix): value for key, value in tensors.items()}


def load_tokenizer(weights: PretrainedWeights) -> Any:
    """Load the tokenizer beside the weights.

    Raises ArtefactError if there is none: transformers would create an empty one.
    """
    from transformers import AutoTokenizer

    try:
        if not any((weights.folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise OSError("neither tokenizer.json nor vocab.json exists")
        return AutoTokenizer.from_pretrained(weights.folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"{weights.folder} has no readable tokenizer: {first_line(error)}",
            follows="No encoder was created.",
            remedy="Save the tokenizer beside the weights (`save_pretrained`), or download all files.",
        ) from error


def load_processor(folder: Path, class_name: str, **options: str) -> Any:
    """Load the image processor or feature extractor that preprocessor_config.json describes.

    Args:
        folder: folder of the weights.
        class_name: `AutoImageProcessor` or `AutoFeatureExtractor`. Not `AutoProcessor`: that of Qwen3-VL includes a
            video processor, which requires torchvision.
        options: further arguments of `from_pretrained`.

    Raises:
        ArtefactError: preprocessor_config.json is missing or unreadable.
    """
    import transformers

    try:
        return getattr(transformers, class_name).from_pretrained(folder, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{folder} has no readable preprocessor_config.json, so the input that the network expects is unknown.",
            follows="No encoder was created.",
            remedy="Save the processor beside the weights (`save_pretrained`), or download all files.",
        ) from error


def load_clip_config(weights: PretrainedWeights, class_name: str) -> Any:
    """Load the configuration of one tower of CLIP, `CLIPVisionConfig` or `CLIPTextConfig`.

    A complete CLIP checkpoint states the width of its projection once, for both towers. The configuration of one tower
    would not find it there and take its default of 512.
    """
    import transformers

    config = getattr(transformers, class_name).from_pretrained(weights.folder)
    config.projection_dim = weights.config.get("projection_dim", config.projection_dim)
    return config


def provenance(about: WeightSource, weights: PretrainedWeights, **keys: str) -> Mapping[str, str]:
    """Provenance of an encoder with pretrained weights: source, hash, version of mien's code for it, and `keys`."""
    return {"network": about.source, "revision": weights.digest(), "version": "1", **keys}


def _is_cached(source: str, revision: str | None) -> bool:
    return isinstance(try_to_load_from_cache(source, "config.json", revision=revision), str)


def _download(about: WeightSource, revision: str | None, patterns: list[str]) -> Path:
    """The folder of a snapshot in the cache of the Hub, brought up to date unless MIEN_OFFLINE forbids downloads."""
    endpoint = os.environ.get("HF_ENDPOINT")
    if not _is_cached(about.source, revision):
        if downloads.is_offline():
            raise ArtefactError(
                f"{about} is not in the cache of the Hub, and MIEN_OFFLINE forbids downloads.",
                follows="No encoder was created.",
                remedy=f"Unset MIEN_OFFLINE, or put the files into FOLDER/{about.source} and set MIEN_HUB=FOLDER.",
            )
        downloads.announce(str(about), endpoint or "huggingface.co", "the cache of the Hub (HF_HOME)")
    try:
        return Path(
            snapshot_download(
                about.source,
                revision=revision,
                allow_patterns=patterns,
                endpoint=endpoint,
                local_files_only=downloads.is_offline(),
            )
        )
    except hub_errors.GatedRepoError as error:
        raise ArtefactError(
            f"{about} is gated: the Hub gives it only to accounts that accepted its terms.",
            follows="Nothing was downloaded.",
            remedy=f"Accept them at https://huggingface.co/{about.source}, then run `hf auth login`.",
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ArtefactError(
            f"{about.source} is not on the Hub, or is private.",
            follows="Nothing was downloaded.",
            remedy="Check the spelling. Run `hf auth login` for a private one. A local folder works too.",
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise ArtefactError(
            f"{about.source} has no revision {revision!r}.",
            follows="Nothing was downloaded.",
            remedy="Omit `revision` for the newest, or name a commit, tag or branch of it.",
        ) from error
    except Exception as error:
        if is_network_error(error):
            raise _unreachable(about, error) from error
        raise


def _unreachable(about: WeightSource, error: Exception) -> ArtefactError:
    return ArtefactError(
        f"{about} is not on this machine, and the Hub cannot be reached: {first_line(error)}",
        follows="No encoder was created.",
        remedy=f"Run `hf download {about.source} --local-dir FOLDER` where there is a network "
        "(`huggingface-cli download` in older versions). Then give that folder as `source`, or put it at "
        f"MIRROR/{about.source} and set MIEN_HUB=MIRROR.",
    )


def _find_weights(folder: Path, allow_pickle: bool) -> PretrainedWeights:
    if not (folder / "config.json").is_file():
        raise ArtefactError(
            f"{folder} is not a checkpoint: it has no config.json.",
            follows="No encoder was created.",
            remedy="Name the folder that `save_pretrained` or `hf download` wrote.",
        )
    if files := _find_files(folder, "model.safetensors", "model*.safetensors"):
        return PretrainedWeights(folder, False, files)
    pickles = _find_files(folder, "pytorch_model.bin", "pytorch_model*.bin")
    if pickles and allow_pickle:
        return PretrainedWeights(folder, True, pickles)
    if pickles:
        raise ArtefactError(
            f"{folder} holds its weights as a pickle ({pickles[0].name}); reading one can run any code.",
            follows="Nothing was read.",
            remedy="Convert it to model.safetensors, or set allow_pickle=True if you trust its author.",
        )
    raise ArtefactError(
        f"{folder} holds no weights: neither model.safetensors nor parts of it exist.",
        follows="No encoder was created.",
        remedy="Download it again. Set allow_pickle=True if its author offers only a pickle.",
    )


def _find_files(folder: Path, single: str, pattern: str) -> tuple[Path, ...]:
    return (folder / single,) if (folder / single).is_file() else tuple(sorted(folder.glob(pattern)))


@functools.lru_cache(maxsize=64)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of a file. Size and time of change are part of the key, so that a changed file is read again."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress progress bars of transformers and its table of unused weights; `load_network` checks missing ones."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
