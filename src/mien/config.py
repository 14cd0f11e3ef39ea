"""Recipes: one complete YAML file for each training run, read into strict typed records.

The top-level keys are the fields of `Recipe`. The sections `model` and `objective` are typed by the file in
`mien.models` that `model.name` names (`mien.models.build`); here they are a name and options. All problems of a file
are reported at once. A missing key has the default below; shipped recipes write every key out.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from mien import recipe_yaml
from mien.errors import ConfigError
from mien.labels import EXPRESSIONS, check_class_names

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
DropoutRate = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of the records of a recipe: unknown keys and wrong types are errors, values are frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Paper(Section):
    """The publication that a recipe follows.

    reported: published numbers, nothing else. differs: differences from the publication, and choices where it is
    silent, one line each.
    """

    title: str
    arxiv: str
    reported: dict[str, float] = {}
    differs: list[str] = []


class Corpus(Section):
    """The corpus. labels: class names in the order of the logits, each with its own column in a Timeline (see
    `mien.labels.check_class_names`). options: read by the corpus's own file."""

    name: str
    labels: Annotated[list[str], Field(min_length=2), AfterValidator(check_class_names)] = list(EXPRESSIONS)
    options: dict[str, Any] = {}


class Feature(Section):
    """One modality's encoder and its options. dim: width of its features; null takes it from the training
    recordings."""

    encoder: str
    dim: Count | None = None
    options: dict[str, Any] = {}


class Windows(Section):
    """Windows of tokens.

    seconds: window length. hop_seconds: step between training windows, at most `seconds`. rate_hz: tokens a second.
    jitter: shift training windows by a random part of the hop, anew in each epoch.
    """

    seconds: Positive = 4.0
    hop_seconds: Positive = 2.0
    rate_hz: Positive = 10.0
    jitter: bool = True

    @model_validator(mode="after")
    def _covers(self) -> Windows:
        if self.hop_seconds > self.seconds:
            raise ValueError(f"hop_seconds {self.hop_seconds} is longer than the window ({self.seconds} s)")
        return self


class Model(BaseModel):
    """The system. name: a file in mien/models, without `.py`. All other keys are fields of that file's `Config`."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys beside `name`."""
        return dict(self.model_extra or {})


class Train(Section):
    """Optimisation.

    batch: windows in a batch. accumulate: batches in a step, whose gradients are averaged; a contrastive loss compares
    the windows of one batch. lr, weight_decay: AdamW. warmup: share of all steps in which the rate rises from 0.
    schedule: `cosine` falls to `lr_end * lr` at the last step; `constant` stays; `plateau` multiplies the rate by
    `plateau_factor` each time that the validation score has not improved for more than `plateau_patience` epochs, and
    stays without validation. clip: largest gradient norm, 0 for
    none. ema: decay of the averaged weights (EMA), which are validated and kept; 0 for none. patience: epochs without a
    better validation macro F1 before stopping, 0 for never. balance: 0 draws windows uniformly, 1 so that
    every class is as likely. precision: `32` or `bf16` (mixed). threads: CPU threads; the same number is
    needed for the same weights. workers: loader processes, 0 for none (best for features in memory).
    logger: where the report of each epoch is logged, see `mien.training.loggers`; `none` for log lines only.
    """

    seed: Annotated[int, Field(ge=0)] = 3407
    epochs: Count = 50
    batch: Count = 32
    accumulate: Count = 1
    lr: Positive = 1e-4
    lr_end: Share = 0.0
    weight_decay: NotNegative = 0.01
    warmup: Share = 0.02
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    plateau_patience: Annotated[int, Field(ge=0)] = 5
    plateau_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    clip: NotNegative = 1.0
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    patience: Annotated[int, Field(ge=0)] = 5
    balance: Share = 0.0
    precision: Literal["32", "bf16"] = "32"
    threads: Count = 2
    workers: Annotated[int, Field(ge=0)] = 0
    logger: Literal["none", "csv", "tensorboard", "wandb", "mlflow"] = "none"

    @model_validator(mode="before")
    @classmethod
    def _from_tensorboard(cls, raw: Any) -> Any:
        """Recipes of earlier checkpoints say `tensorboard: true` or `false` instead of the logger."""
        if isinstance(raw, dict) and isinstance(raw.get("tensorboard"), bool) and "logger" not in raw:
            rest = {key: value for key, value in raw.items() if key != "tensorboard"}
            return rest | {"logger": "tensorboard" if raw["tensorboard"] else "none"}
        return raw


class Vote(Section):
    """Soft vote over overlapping windows, and smoothing.

    hop_seconds: step between windows in prediction, at most the window's length. triangular: weight the middle of a
    window more than its ends. trailing: each window predicts only its last `hop_seconds`, so that no prediction depends
    on what is later; the first windows begin before the start (`mien.inference.predict_streams`). smooth_seconds: width
    of the smoothing, 0 for none; or a mapping with a width each for `expression`, `valence` and `arousal` (none where
    left out). kernel: mean, hamming, gaussian or median, see `mien.soft_vote.smooth`. temperature: divides the logits
    before the softmax; 1 changes nothing.
    """

    hop_seconds: Positive = 1.0
    triangular: bool = False
    trailing: bool = False
    smooth_seconds: NotNegative | dict[Literal["expression", "valence", "arousal"], NotNegative] = 0.5
    kernel: Literal["mean", "hamming", "gaussian", "median"] = "mean"
    temperature: Positive = 1.0

    @model_validator(mode="before")
    @classmethod
    def _from_hamming(cls, raw: Any) -> Any:
        """Recipes of earlier checkpoints say `hamming: true` or `false` instead of the kernel."""
        if isinstance(raw, dict) and "hamming" in raw and "kernel" not in raw:
            rest = {key: value for key, value in raw.items() if key != "hamming"}
            return rest | {"kernel": "hamming" if raw["hamming"] else "mean"}
        return raw


class MouthFilter(Section):
    """Cross-modal filter: use the voice where the mouth of the subject is open (`mien.mouth_filter`).

    voice: feature that is filtered. mouth: feature of one value, the opening of the mouth (encoder `mouth-opening`),
    which the network does not read. opening: the mouth is open above this, in interocular distances.

    use: `windows` leaves out training windows in which the mouth is open for less than a quarter of the time or visible
    for less than four fifths. `mask` masks the voice, in training and prediction, except in 4-s windows in which the
    mouth is open for a second and visible for four fifths. `none` filters nothing. unseen: with `mask`, what happens to
    the voice while the mouth is hidden for more than a fifth of such a window: `mask` or `keep`. A recording without
    the feature `mouth` is not filtered.
    """

    voice: str = "voice"
    mouth: str = "mouth"
    opening: Positive = 0.04
    use: Literal["windows", "mask", "none"] = "mask"
    unseen: Literal["mask", "keep"] = "mask"


class Recipe(Section):
    """A training run, complete.

    stages: encoder name -> recipe of the system that computes its features, trained first (a name of `mien recipes`, or
    a YAML file). mouth_filter: null for none.
    """

    paper: Paper
    corpus: Corpus
    stages: dict[str, str] = {}
    features: Annotated[dict[str, Feature], Field(min_length=1)]
    mouth_filter: MouthFilter | None = None
    windows: Windows
    model: Model
    objective: dict[str, Any] = {}
    train: Train
    vote: Vote

    @property
    def inputs(self) -> dict[str, Feature]:
        """The features that the network reads: all but the opening of the mouth, which only the filter reads."""
        return {n: f for n, f in self.features.items() if self.mouth_filter is None or n != self.mouth_filter.mouth}

    @property
    def predicted_from(self) -> dict[str, Feature]:
        """The features that prediction needs: `inputs`, and the opening of the mouth if it masks the voice."""
        masks = self.mouth_filter is not None and self.mouth_filter.use == "mask"
        return self.features if masks else self.inputs

    @model_validator(mode="after")
    def _filter_has_its_features(self) -> Recipe:
        if self.mouth_filter is not None:
            voice, mouth = self.mouth_filter.voice, self.mouth_filter.mouth
            if lacking := sorted({voice, mouth} - set(self.features)):
                raise ValueError(f"mouth_filter names {lacking}, which are not under features: {sorted(self.features)}")
            if voice == mouth:
                raise ValueError(f"mouth_filter filters {voice!r} by itself")
        return self

    @model_validator(mode="after")
    def _vote_covers(self) -> Recipe:
        if self.vote.hop_seconds > self.windows.seconds:
            raise ValueError(
                f"vote.hop_seconds {self.vote.hop_seconds} is longer than windows.seconds {self.windows.seconds}"
            )
        return self


#: Raw sections -> further problems, a line each. `mien.models.problems` checks `model` and `objective`.
Check = Callable[[Mapping[str, Any]], list[str]]


def mouth_feature(raw: Mapping[str, Any]) -> str | None:
    """The feature of a raw recipe that only its `mouth_filter` reads, the opening of the mouth; None without one."""
    mouth_filter = raw.get("mouth_filter")
    if not isinstance(mouth_filter, Mapping):
        return None
    return str(mouth_filter.get("mouth", MouthFilter.model_fields["mouth"].default))


def names() -> list[str]:
    """Names of the recipes shipped with mien."""
    folder = resources.files("mien") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load(source: str | Path, overrides: Iterable[str] = (), check: Check | None = None) -> Recipe:
    """Load a recipe from a YAML file, or a shipped one by name.

    Args:
        overrides: changes of the form `key.path=value`, such as `train.lr=1e-4`.
        check: finds further problems in the raw sections.

    Raises ConfigError with the file and every problem: invalid YAML, a key given twice, unknown keys (with the
    nearest known one), missing keys, wrong types and ranges, and what `check` finds.
    """
    path, data = _read(source)
    return parse(data, origin=str(path), overrides=overrides, check=check)


def parse(data: bytes, *, origin: str, overrides: Iterable[str] = (), check: Check | None = None) -> Recipe:
    """The recipe in the content of a YAML file. origin: its name. The others, and errors, as in `load`."""
    raw = recipe_yaml.parse(data, origin, Recipe.model_fields)
    problems = [p for override in overrides if (p := recipe_yaml.override(raw, override))]
    return read(raw, origin=origin, check=check, problems=problems)


def read(
    raw: Mapping[str, Any], *, origin: str, check: Check | None = None, problems: list[str] | None = None
) -> Recipe:
    """The recipe of a parsed mapping. Raises ConfigError with every problem, `problems` included."""
    found = list(problems or [])
    recipe = None
    try:
        recipe = Recipe.model_validate(dict(raw))
    except ValidationError as error:
        found += explain(error, Recipe)
    if check is not None:
        found += check(raw)
    if found or recipe is None:
        raise refusal(origin, found)
    return recipe


def refusal(origin: str, problems: list[str]) -> ConfigError:
    """The error for a recipe with problems, one a line."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return ConfigError(
        f"{origin}: {count}\n" + "\n".join(f"  {p}" for p in problems),
        follows="Nothing was started.",
        remedy="Correct the lines named above; `mien recipes` lists complete examples.",
    )


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every key written out; `load` reads it back equal."""
    return yaml.dump(recipe.model_dump(), Dumper=recipe_yaml.Dumper, sort_keys=False, allow_unicode=True, width=110)


def changed(recipe: Recipe, **sections: Mapping[str, Any]) -> Recipe:
    """A validated copy with keys of sections replaced: `changed(recipe, train={"seed": 1})`. Raises ConfigError."""
    raw = recipe.model_dump()
    for name, values in sections.items():
        raw[name] = {**raw[name], **values}
    return read(raw, origin="changed recipe")


def flat(recipe: Recipe | Mapping[str, Any]) -> dict[str, Any]:
    """Every value by its dotted key, without the section `paper`. recipe: a recipe, or the mapping of its YAML."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                yield from walk(value, f"{path}.{key}" if path else str(key))
        else:
            yield path, node

    raw = recipe if isinstance(recipe, Mapping) else recipe.model_dump()
    return dict(walk({k: v for k, v in raw.items() if k != "paper"}, ""))


def differences(was: str, now: str) -> list[str]:
    """The keys in which two recipes differ, a line each. was, now: resolved recipes as YAML."""
    a, b = (flat(yaml.safe_load(text)) for text in (was, now))
    return [f"{k}: was {a.get(k)!r}, now {b.get(k)!r}" for k in sorted({*a, *b}) if a.get(k) != b.get(k)]


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, or the known names if none is similar, or nothing if there are none."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return f"; known: {', '.join(known)}" if known else ""


def explain(error: ValidationError, record: type[BaseModel], prefix: str = "") -> list[str]:
    """Each problem of a validation error on one line: the path of the key, the problem, and the value."""
    lines = []
    for item in error.errors(include_url=False):
        path = [*([prefix] if prefix else []), *(str(part) for part in item["loc"])]
        where = ".".join(path) or "recipe"
        if item["type"] == "extra_forbidden":
            known = _fields_at(record, item["loc"][:-1])
            lines.append(f"{where}: unknown key{nearest(str(item['loc'][-1]), known)}")
        elif item["type"] == "missing":
            lines.append(f"{where}: missing")
        else:
            message = item["msg"].removeprefix("Value error, ")
            seen = "" if item["type"] == "value_error" else f", got {item['input']!r}"
            lines.append(f"{where}: {message[0].lower()}{message[1:]}{seen}")
    return lines


def _fields_at(record: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    for part in loc:
        field = record.model_fields.get(str(part))
        if field is None:
            continue  # a key of a dict: its records lie one level down
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type)]
        record = next((a for a in inner if issubclass(a, BaseModel)), record)
    return list(record.model_fields)


def locate(source: str | Path) -> Path:
    """The file of a path or of a shipped recipe's name; it need not exist."""
    if str(source) in names():
        return Path(str(resources.files("mien") / "recipes" / f"{source}.yaml"))
    return Path(source)


def _read(source: str | Path) -> tuple[Path, bytes]:
    path = locate(source)
    try:
        return path, path.read_bytes()
    except FileNotFoundError:
        hint = nearest(str(source), names())
        raise ConfigError(
            f"recipe {str(source)!r}: no such file, and no recipe of that name{hint}",
            follows="Nothing was started.",
            remedy="Give the path of a YAML file, or one of the names that `mien recipes` lists.",
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read as a recipe: {error}",
            follows="Nothing was started.",
            remedy="Check the permissions of the file.",
        ) from error
