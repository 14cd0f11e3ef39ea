"""Tuned encoders: the folder that `mien tune` writes, and how it becomes an encoder again.

    config.json, model.safetensors   the whole network with its changed weights, as transformers saves it
    preprocessor_config.json         of the base network
    tuned.json                       base encoder, its options and the hash of its weights, method, corpora, and the
                                     SHA-256 of each file: it is replaced last (`mien.saved_state`)
    head.safetensors                 the classifier of the training, for further training; encoding does not read it

LoRA updates are merged into the weights, so that reading a folder needs neither peft nor the base network. The hash of
the changed weights is in the provenance of the features, so that a feature store does not mix base and tuned features.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien import saved_state
from mien.encoders import registry
from mien.encoders.protocol import Encoder
from mien.errors import ConfigError

#: The file that makes a folder a tuned encoder.
ABOUT = "tuned.json"


@dataclass(frozen=True, slots=True)
class Tuned:
    """Content of tuned.json.

    base: name of the base encoder in the registry. options: of the base spec, which encode as training did. modality:
    `face` or `voice`. base_revision: hash of the base weights. method: such as `lora, rank 8`. corpora: their names.
    """

    base: str
    modality: str
    base_revision: str
    method: str
    corpora: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def find_tuned(name: str, source: str | None) -> Path | None:
    """The folder of a tuned encoder, given as the name of a spec (`runs/beit`) or as its source (`mine=runs/beit`)."""
    folder = Path(source or name).expanduser()
    return folder if (folder / ABOUT).is_file() else None


def read_tuned(folder: Path) -> Tuned:
    """Read tuned.json. Raises ConfigError if it is damaged."""
    facts = saved_state.read(folder, ABOUT).facts
    try:
        return Tuned(
            str(facts["base"]), str(facts["modality"]), str(facts["base_revision"]), str(facts["method"]),
            tuple(facts["corpora"]), dict(facts["options"]),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{folder / ABOUT}: cannot be read: {error}",
            follows="No encoder was created.",
            remedy="Copy the folder again, or tune the encoder again.",
        ) from error


def create_tuned(spec: str, folder: Path, *, device: str = "cpu") -> Encoder:
    """The encoder of a tuned folder.

    Its name in the feature store is the NAME of `NAME=FOLDER`, else that of the folder. Options of the spec take
    precedence over those of the training.

    Raises ConfigError and ArtefactError as `mien.encoders.registry.create` does.
    """
    tuned = read_tuned(folder)
    with suppress(OSError):  # a folder that cannot be written
        saved_state.settle(folder, ABOUT)  # transformers needs the files under their own names
    name, source, options = registry.parse_spec(spec)
    location = str(folder.resolve())
    store_name = name if source else folder.resolve().name
    encoder: Any = registry.create(
        tuned.base, device=device, source=location, **{"name": store_name, **tuned.options, **options}
    )
    encoder.provenance = {
        **encoder.provenance,
        "tuned": f"{tuned.method}, from {tuned.base} {tuned.base_revision}, on {', '.join(tuned.corpora)}",
    }
    made: Encoder = encoder
    return made
