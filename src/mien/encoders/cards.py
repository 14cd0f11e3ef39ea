"""Cards: YAML files that describe the inputs and outputs of ONNX face networks.

```yaml
name: my-net                  # name of the encoder in the feature store
file: my-net.onnx             # beside the card, or in a folder of MIEN_HUB
licence: MIT
size: 64                      # side of the square input in pixels
colour: grey                  # rgb, bgr or grey
layout: nchw                  # or nhwc
mean: [0.5]                   # the input is (pixel / 255 - mean) / std, per channel
std: [0.5]
margin: 0.25                  # border around the aligned face (mien.faces.align.align)
down: 0.0                     # downward shift of the crop, likewise
outputs: [scores, features]   # names of the outputs to use, side by side in this order; by default all of them
labels: [Anger, Sad, Calm]    # classes in columns 0, 1, 2 ... of the outputs, side by side
means: {Sad: Sadness, Calm: Neutral}    # the labels that mien names differently
own_classes: false            # true keeps the labels as they are, in place of mien's eight expressions
scores: logits                # or probabilities
valence: 3                    # columns of valence and arousal, if there are any
arousal: 4
same_person: 0.6              # of a face recognition network: two people's mean vectors nearer than this are one person
unit_length: false            # scale its vectors to length 1 first, as networks trained with an angular loss need
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from mien import downloads, hub
from mien.config import Section, explain, nearest
from mien.errors import ArtefactError, ConfigError
from mien.labels import EXPRESSIONS

_EXAMPLE = "The documentation of mien.encoders.cards shows an example."
BUILT_IN = Path(__file__).with_name("card_files")
Column = Annotated[int, Field(ge=0)]


class Card(Section):
    """Description of an ONNX face network; the module's docstring shows an example.

    artefact: name in `mien hub list`, instead of `file`.
    sha256: hash of the file, checked if given.
    exported_from: hash of the weights that `mien export` read, if it wrote the card.
    labels: without them, the network is an encoder only and predicts nothing.
    """

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
    down: float = 0.0
    outputs: list[str] = Field([])
    labels: list[str] = Field([])
    means: dict[str, str] = Field({})
    own_classes: bool = False
    exported_from: str = ""
    scores: Literal["logits", "probabilities"] = "logits"
    valence: Column | None = None
    arousal: Column | None = None
    same_person: Annotated[float, Field(gt=0)] | None = None
    unit_length: bool = False

    @property
    def channels(self) -> int:
        """Number of colour channels of the input."""
        return 1 if self.colour == "grey" else 3

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes that the network predicts: the labels if `own_classes`, else mien's eight expressions."""
        return tuple(self.labels) if self.own_classes else EXPRESSIONS

    @property
    def class_indices(self) -> list[int]:
        """Index in `class_names` of each label."""
        return [self.class_names.index(self.means.get(label, label)) for label in self.labels]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{key} has {len(values)} values; colour {self.colour} has {self.channels} channels")
        if bool(self.file) == bool(self.artefact):
            raise ValueError("give one of file and artefact")
        if 0 in self.std:
            raise ValueError("std must not be 0")
        if self.own_classes and self.means:
            raise ValueError("means maps labels to mien's expressions, which own_classes replaces; give one of them")
        for label in () if self.own_classes else self.labels:
            expression = self.means.get(label, label)
            if expression not in EXPRESSIONS:
                raise ValueError(
                    f"label {expression!r} is none of mien's expressions ({', '.join(EXPRESSIONS)})"
                    f"{nearest(expression, EXPRESSIONS)}; map it to one in `means`"
                )
        return self


def read(path: Path) -> Card:
    """Read a card from a YAML or JSON file (JSON is YAML).

    Raises:
        ConfigError: the file cannot be read, or it is not a valid card; the text lists every problem.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not a readable card: {error}", follows="No encoder was created.", remedy=_EXAMPLE
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} is not a card: it holds no keys.", follows="No encoder was created.", remedy=_EXAMPLE
        )
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        problems = explain(error, Card, "card")
        raise ConfigError(
            f"{path}: {'1 problem' if len(problems) == 1 else f'{len(problems)} problems'}\n  " + "\n  ".join(problems),
            follows="No encoder was created.",
            remedy="Correct these keys. The documentation of mien.encoders.cards shows an example.",
        ) from error


def find(source: str) -> tuple[Card, Path]:
    """Find a card and the file of its network.

    Args:
        source: name of a built-in card, path of a card, or path of an ONNX file with a card of the same stem beside it.

    Raises:
        ConfigError: there is no such card, or it is not valid.
        ArtefactError: the network is missing, or its hash differs from the card's.
    """
    built_in = BUILT_IN / f"{source}.yaml"
    if built_in.is_file() and "/" not in source:
        card = read(built_in)
        return card, _find_network(card, None)
    path = Path(source).expanduser()
    if path.suffix != ".onnx":
        if not path.is_file():
            raise ConfigError(
                f"There is no card {source}.",
                follows="No encoder was created.",
                remedy=f"Built in are {', '.join(names())}. Otherwise name a card (.yaml) or a network (.onnx).",
            )
        card = read(path)
        return card, _find_network(card, path.parent)
    beside = [p for suffix in (".yaml", ".yml", ".json") if (p := path.with_suffix(suffix)).is_file()]
    if not beside:
        raise ConfigError(
            f"{path} has no card beside it ({path.with_suffix('.yaml').name}).",
            follows="Its inputs and outputs are unknown. No encoder was created.",
            remedy="Write one. The documentation of mien.encoders.cards shows an example.",
        )
    card = read(beside[0])
    return card, _verify(card, path)


def interpret(card: Card, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Convert a network's outputs to mien's classes, valence and arousal.

    Args:
        values: `(batch, dim)`, the outputs side by side.

    Returns:
        Probabilities `(batch, classes)` in the order of `Card.class_names`, 0 for classes that the network lacks;
        valence and arousal `(batch, 2)` in [-1, 1], NaN if the network has none.

    Raises:
        ConfigError: the card has no labels.
    """
    if not card.labels:
        raise ConfigError(
            f"{card.name} predicts nothing: its card has no labels.",
            follows="Nothing was predicted.",
            remedy="Use it as an encoder, or add labels to the card.",
        )
    scores = values[:, : len(card.labels)].astype(np.float64)
    if card.scores == "logits":
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    of_label = scores / scores.sum(axis=1, keepdims=True)
    probabilities = np.zeros((len(values), len(card.class_names)), np.float32)
    for label, expression in enumerate(card.class_indices):
        probabilities[:, expression] += of_label[:, label]
    valence_arousal = np.full((len(values), 2), np.nan, np.float32)
    for i, column in enumerate((card.valence, card.arousal)):
        if column is not None:
            valence_arousal[:, i] = values[:, column].clip(-1, 1)
    return probabilities, valence_arousal


def names() -> list[str]:
    """Names of the built-in cards, sorted."""
    return sorted(p.stem for p in BUILT_IN.glob("*.yaml"))


def _find_network(card: Card, folder: Path | None) -> Path:
    """File of a card's network: an artefact, or in the card's folder, or in a folder of MIEN_HUB."""
    if card.artefact:
        return hub.fetch(card.artefact)
    folders = [folder] if folder else hub.mirrors()
    for candidate in folders:
        if (candidate / card.file).is_file():
            return _verify(card, candidate / card.file)
    where = f"beside its card in {folder}" if folder else "in any folder of MIEN_HUB"
    raise ArtefactError(
        f"{card.file} ({card.name}, {card.licence}) is not {where}.",
        follows=f"{card.name} is not available.",
        remedy=f"Put {card.file} into {folder}."
        if folder
        else f"Put {card.file} into a folder and set MIEN_HUB=FOLDER.",
    )


def _verify(card: Card, path: Path) -> Path:
    """Return `path` if it exists and has the card's hash."""
    if not path.is_file():
        raise ArtefactError(f"There is no file {path}.", follows="No encoder was created.", remedy="Check the path.")
    if card.sha256 and (digest := downloads.digest_of(path, "sha256")) != f"sha256:{card.sha256}":
        raise ArtefactError(
            f"{path} is not the network of card {card.name}: its digest is {digest}, not sha256:{card.sha256}.",
            follows="It was not used.",
            remedy="Replace the file, or correct the card.",
        )
    return path
