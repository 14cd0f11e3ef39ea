"""Cards: what an ONNX face network expects and says, in a small YAML file beside it.

```yaml
name: my-net                  # what the store calls it
file: my-net.onnx             # beside the card, or in a folder that MIEN_HUB names
licence: MIT
size: 64                      # pixels, square
colour: grey                  # rgb, bgr or grey
layout: nchw                  # or nhwc
mean: [0.5]                   # the network sees (pixel / 255 - mean) / std, per channel
std: [0.5]
margin: 0.25                  # how much around the aligned face (mien.faces.align.align)
labels: [Anger, Sad, Calm]    # its classes, in its order: columns 0, 1, 2 ... of its outputs side by side
means: {Sad: Sadness, Calm: Neutral}    # which of mien's expressions each is, where the word differs
scores: logits                # or probabilities
valence: 3                    # columns, where it has them
arousal: 4
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from mien import hub
from mien.config import Section, explain, nearest
from mien.errors import ArtefactError, ConfigError
from mien.labels import EXPRESSIONS

BUILT_IN = Path(__file__).with_name("card_files")
Column = Annotated[int, Field(ge=0)]


class Card(Section):
    """See the module's example. `artefact`: its name in `mien hub list`, in the place of `file`. `sha256`: of
    the file, checked where given. Without `labels` the network is an encoder only, and predicts nothing."""

    name: str
    file: str = ""
    artefact: str = ""
    sha256: str = ""
    licence: str = "unknown"
    size: Annotated[int, Field(ge=8)]
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    layout: Literal["nchw", "nhwc"] = "nchw"
    mean: list[float] = Field([0.0])
    std: list[float] = Field([1.0])
    margin: float = 0.0
    labels: list[str] = Field([])
    means: dict[str, str] = Field({})
    scores: Literal["logits", "probabilities"] = "logits"
    valence: Column | None = None
    arousal: Column | None = None

    @property
    def channels(self) -> int:
        return 1 if self.colour == "grey" else 3

    @property
    def expressions(self) -> list[int]:
        """Of each label, its index in `EXPRESSIONS`."""
        return [EXPRESSIONS.index(self.means.get(label, label)) for label in self.labels]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{key} has {len(values)} values; colour {self.colour} has {self.channels} channels")
        if bool(self.file) == bool(self.artefact):
            raise ValueError("give one of file and artefact")
        if 0 in self.std:
            raise ValueError("std must not be 0")
        for label in self.labels:
            meant = self.means.get(label, label)
            if meant not in EXPRESSIONS:
                raise ValueError(
                    f"label {meant!r} is none of mien's expressions ({', '.join(EXPRESSIONS)})"
                    f"{nearest(meant, EXPRESSIONS)}; say in `means` which one it is"
                )
        return self


def read(path: Path) -> Card:
    """The card in a YAML or JSON file (JSON is YAML). Raises ConfigError, which names every fault."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is no readable card: {error}", follows="No encoder was made.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is no card: it holds no keys.", follows="No encoder was made.")
    try:
        return Card.model_validate(found)
    except ValidationError as error:
        problems = explain(error, Card, "card")
        raise ConfigError(
            f"{path}: {'1 problem' if len(problems) == 1 else f'{len(problems)} problems'}\n  " + "\n  ".join(problems),
            follows="No encoder was made.",
            remedy="Correct the lines named above; mien.encoders.cards shows an example.",
        ) from error


def find(source: str) -> tuple[Card, Path]:
    """A card and its network. source: the name of a built-in card, or the path of a card or of an ONNX file
    with a card of the same stem beside it.

    Raises:
        ConfigError: no such card, or a card with faults. ArtefactError: the network is not here.
    """
    built_in = BUILT_IN / f"{source}.yaml"
    if built_in.is_file() and "/" not in source:
        card = read(built_in)
        return card, _network(card, None)
    path = Path(source).expanduser()
    if path.suffix != ".onnx":
        if not path.is_file():
            raise ConfigError(
                f"There is no card {source}.",
                follows="No encoder was made.",
                remedy=f"Built in are {', '.join(names())}; else name a card (.yaml) or a network (.onnx).",
            )
        card = read(path)
        return card, _network(card, path.parent)
    beside = [p for suffix in (".yaml", ".yml", ".json") if (p := path.with_suffix(suffix)).is_file()]
    if not beside:
        raise ConfigError(
            f"{path} has no card beside it ({path.with_suffix('.yaml').name}).",
            follows="What the network expects is unknown; no encoder was made.",
            remedy="Write one; mien.encoders.cards shows how, with an example.",
        )
    card = read(beside[0])
    return card, _verified(card, path)


def names() -> list[str]:
    """The built-in cards."""
    return sorted(p.stem for p in BUILT_IN.glob("*.yaml"))


def _network(card: Card, folder: Path | None) -> Path:
    if card.artefact:
        return hub.fetch(card.artefact)
    folders = [folder] if folder else hub.mirrors()
    for place in folders:
        if (place / card.file).is_file():
            return _verified(card, place / card.file)
    where = f"beside its card in {folder}" if folder else "in any folder that MIEN_HUB names"
    raise ArtefactError(
        f"{card.file} ({card.name}, {card.licence}) is not {where}.",
        follows=f"{card.name} is not available.",
        remedy="Put it there." if folder else f"Put {card.file} into a folder and name it: MIEN_HUB=FOLDER.",
    )


def _verified(card: Card, path: Path) -> Path:
    if not path.is_file():
        raise ArtefactError(f"There is no file {path}.", follows="No encoder was made.")
    if card.sha256 and (found := hub.digest_of(path, "sha256")) != f"sha256:{card.sha256}":
        raise ArtefactError(
            f"{path} is not the network of card {card.name}: its digest is {found}, not sha256:{card.sha256}.",
            follows="It was not used.",
            remedy="Replace the file, or correct the card.",
        )
    return path
