"""What `mien predict --model` accepts here: shipped and trained checkpoints, and card networks. Reads no weights.

Everything comes from the files of a checkpoint (checkpoint.json, recipe.yaml, metrics.json, network.json, README.md)
and from cards, so that a list needs no torch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mien import config, ensemble_folder, hub, json_object, results, saved_state
from mien.encoders import cards, registry
from mien.errors import ConfigError
from mien.inference import EncoderInput, InputFeature
from mien.onnx_model import SHIPPED, shipped_folder
from mien.trained_model import PIXELS, encoder_inputs

#: Systems that predict valence and arousal only (`mien.models`); read here by name, because the classes need torch.
_VALENCE_AROUSAL_ONLY = ("va_streams", "va_directed_experts", "va_reliability")
_CHECKPOINT, _CARD, _ENSEMBLE = "checkpoint", "card network", "ensemble"


@dataclass(frozen=True, slots=True)
class ModelInput:
    """One input of a model. source: Hub id, card or folder, "" for an encoder without weights. missing: what to do to
    get it, "" if it is here."""

    modality: str
    encoder: str
    source: str
    licence: str
    missing: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One model that `mien predict --model NAME` accepts.

    classes: class names, empty if it predicts no expression. size: bytes on disk, None if it is not here. licence: ""
    if none is stated. figures: measured figures by name, from metrics.json. measured: results of recipes/measured.json
    for its recipe, a line each. onnx: it has an ONNX network. missing: what to do before it can be used, "" if nothing.
    paper, arxiv, system, corpus, mien: of a checkpoint. problem: why a folder cannot be read, "" otherwise.
    """

    name: str
    kind: str
    inputs: list[ModelInput]
    classes: list[str]
    valence_arousal: bool
    size: int | None
    licence: str
    onnx: bool
    missing: str
    figures: dict[str, float] = field(default_factory=dict)
    measured: list[str] = field(default_factory=list)
    paper: str = ""
    arxiv: str = ""
    system: str = ""
    corpus: str = ""
    mien: str = ""
    problem: str = ""


def list_models(folders: Iterable[str | Path] = ()) -> list[ModelInfo]:
    """Shipped checkpoints, the runs in ./runs and in `folders`, and the built-in card networks, in this order.

    A folder is a checkpoint or an ensemble, or holds some. One that cannot be read is listed with its `problem`.
    """
    names: list[str] = [name for name in SHIPPED if (shipped_folder(name) / "checkpoint.json").is_file()]
    for folder in ("runs", *folders):
        names += [str(path) for path in _models(Path(folder)) if str(path) not in names]
    models = []
    for name in names:
        try:
            models.append(describe(name))
        except ConfigError as error:
            kind = _ENSEMBLE if ensemble_folder.is_ensemble(name) else _CHECKPOINT
            models.append(ModelInfo(name, kind, [], [], False, None, "", False, "", problem=error.what))
    return models + [describe(name) for name in cards.names()]


def describe(name: str) -> ModelInfo:
    """One model: a shipped name, the folder of a checkpoint or an ensemble, a built-in card or the path of a card.

    Raises ConfigError if there is no such model, or its files cannot be read.
    """
    if name in cards.names():
        return _card_network(name, cards.read(cards.BUILT_IN / f"{name}.yaml"), hub.mirrors())
    path = Path(name)
    if path.suffix == ".onnx":
        path = next((p for s in (".yaml", ".yml", ".json") if (p := path.with_suffix(s)).is_file()), path)
    if path.is_file() and path.suffix in (".yaml", ".yml", ".json"):
        return _card_network(name, cards.read(path), [path.parent])
    folder = shipped_folder(name) if name in SHIPPED else path
    if (folder / "checkpoint.json").is_file():
        return _checkpoint(name, folder)
    if ensemble_folder.is_ensemble(folder):
        return _ensemble(name, folder)
    known = [*SHIPPED, *cards.names(), *map(str, _models(Path("runs")))]
    raise ConfigError(
        f"there is no model {name!r}{config.nearest(name, known)}",
        follows="Nothing was listed.",
        remedy="Run `mien models` for all names, or give the folder of a checkpoint or an ensemble.",
    )


def is_non_commercial(licence: str) -> bool:
    """Whether a licence's name says that it excludes commercial use, as CC-BY-NC-SA-4.0 does."""
    return "nc" in licence.lower().replace("_", "-").split("-") or "non-commercial" in licence.lower()


def is_model(folder: Path) -> bool:
    """Whether a folder is a checkpoint or an ensemble."""
    return (folder / "checkpoint.json").is_file() or ensemble_folder.is_ensemble(folder)


def _models(folder: Path) -> list[Path]:
    return [folder] if is_model(folder) else sorted(filter(is_model, folder.glob("*/")))


def _ensemble(name: str, folder: Path) -> ModelInfo:
    """An ensemble: what its members read and lack, the classes of the first member that has some."""
    stored = ensemble_folder.read(folder)
    members = [_checkpoint(str(path), path) for path in stored.members]
    licences = {member.licence for member in members}
    return ModelInfo(
        name=name,
        kind=_ENSEMBLE,
        inputs=[
            replace(i, modality=f"{own}/{i.modality}")
            for own, m in zip(stored.names, members, strict=True)
            for i in m.inputs
        ],
        classes=next((member.classes for member in members if member.classes), []),
        valence_arousal=any(member.valence_arousal for member in members),
        size=sum(member.size or 0 for member in members),
        licence=licences.pop() if len(licences) == 1 else "",
        onnx=all(member.onnx for member in members),
        missing="; ".join(dict.fromkeys(member.missing for member in members if member.missing)),
        figures={key: float(value) for key, value in stored.scores.items() if isinstance(value, int | float)},
    )


def _checkpoint(name: str, folder: Path) -> ModelInfo:
    state = saved_state.read(folder, "checkpoint.json")
    about, metrics, network = state.facts, _read_json(state, "metrics.json"), _read_json(state, "network.json")
    recipe = config.parse(state.read("recipe.yaml"), origin=str(folder / "recipe.yaml"))
    inputs, lacking = _inputs(folder, recipe)
    expression = recipe.model.name not in _VALENCE_AROUSAL_ONLY
    weights = state.path("weights.safetensors")
    missing = [*lacking, *(i.missing for i in inputs if i.missing)]
    if not weights.is_file():
        missing.insert(0, f"copy weights.safetensors into {folder}")
    return ModelInfo(
        name=name,
        kind=_CHECKPOINT,
        inputs=inputs,
        classes=list(about.get("labels", recipe.corpus.labels)) if expression else [],
        valence_arousal=not expression or recipe.objective.get("valence_arousal", 0) > 0,
        size=sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        licence="MIT" if name in SHIPPED else _card_licence(folder),
        # An ONNX network of other weights is not used (mien.onnx_model.load).
        onnx=(folder / "network.onnx").is_file() and network.get("weights") == about.get("sha256"),
        missing="; ".join(dict.fromkeys(missing)),
        figures=_figures(metrics),
        measured=results.for_recipe(name) if name in SHIPPED else [],
        paper=recipe.paper.title,
        arxiv=recipe.paper.arxiv,
        system=recipe.model.name,
        corpus=recipe.corpus.name,
        mien=str(about.get("versions", {}).get("mien", "")),
    )


def _figures(metrics: dict[str, Any]) -> dict[str, float]:
    """The validation figures of metrics.json, and tables of figures flattened to `TITLE: ROW`."""
    found = {}
    for key, value in metrics.items():
        if key.startswith("val_") and isinstance(value, int | float):
            found[key] = float(value)
        elif isinstance(value, dict):
            found |= {f"{key}: {row}": float(v) for row, v in value.items() if isinstance(v, int | float)}
    return found


def _inputs(folder: Path, recipe: config.Recipe) -> tuple[list[ModelInput], list[str]]:
    """What a checkpoint reads, with the inputs of its stages in place of theirs, and what its folder lacks."""
    direct = {n: InputFeature(f.encoder, f.dim or 0, f.options) for n, f in recipe.predicted_from.items()}
    try:
        features: Mapping[str, InputFeature] = encoder_inputs(folder, direct)
    except ConfigError as error:
        return [ModelInput(n, f.encoder, "", "", "") for n, f in direct.items()], [error.what]
    inputs = []
    for name, feature in features.items():
        own = feature.folder if isinstance(feature, EncoderInput) else None
        if own is not None or feature.encoder == PIXELS:
            source = "" if own is None else own.relative_to(folder).as_posix()
            inputs.append(ModelInput(name, feature.encoder, source, "", _missing_face_networks()))
        else:
            inputs.append(_input(name, feature.encoder, dict(feature.options)))
    return inputs, []


def _missing_face_networks() -> str:
    lacking = [a for a in ("blazeface", "facemesh") if not hub.available(a)]
    return f"mien hub pull {' '.join(lacking)}" if lacking else ""


def _input(modality: str, encoder: str, options: dict[str, Any]) -> ModelInput:
    if encoder in registry.ENCODERS:
        return ModelInput(modality, encoder, "", "MIT", _missing_face_networks() if "face" in encoder else "")
    published = registry.NETWORKS.get(encoder)
    given = options.get("source")
    source = str(given or (published.source if published else encoder))
    licence = published.licence if published and not given else "unknown"
    return ModelInput(modality, encoder, source, licence, _missing_source(published, source))


def _missing_source(published: registry.PretrainedNetwork | None, source: str) -> str:
    if Path(source).expanduser().exists() or any((m / source).exists() for m in hub.mirrors()):
        return ""
    if published is not None and published.kind == "onnx":
        return describe(source).missing if source in cards.names() else f"put {source} there"
    if ":" in source:
        return ""  # the user's own package.module:factory
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        return f"put the encoder at {source}"
    from huggingface_hub import try_to_load_from_cache

    return "" if isinstance(try_to_load_from_cache(source, "config.json"), str) else f"hf download {source}"


def _card_network(name: str, card: cards.Card, folders: list[Path]) -> ModelInfo:
    if card.artefact:
        state = next(s for s in hub.status() if s.artefact.name == card.artefact)
        path, missing = state.path, "" if state.path else f"mien hub pull {card.artefact}"
    else:
        path = next((p for folder in folders if (p := folder / card.file).is_file()), None)
        missing = "" if path else f"put {card.file} into a folder and set MIEN_HUB=FOLDER"
    return ModelInfo(
        name=name,
        kind=_CARD,
        inputs=[ModelInput("face", card.name, card.artefact or card.file, card.licence, missing)],
        classes=[card.means.get(label, label) for label in card.labels],
        valence_arousal=card.valence is not None and card.arousal is not None,
        size=path.stat().st_size if path else None,
        licence=card.licence,
        onnx=True,
        missing=missing,
    )


def _card_licence(folder: Path) -> str:
    """Licence in the front matter of README.md, as `mien hub push` writes it; "" if there is none."""
    try:
        head, text, *_ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[:2]
        content = yaml.safe_load(text) if not head.strip() else None
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return ""
    return str(content.get("license", "")) if isinstance(content, dict) else ""


def _read_json(state: saved_state.State, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint; empty if there is none. Raises ConfigError for a damaged one."""
    try:
        return json_object.parse(state.path(name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{state.folder / name}: cannot be read: {error}",
            follows="The checkpoint was not listed.",
            remedy=f"Copy the folder {os.fspath(state.folder)} again.",
        ) from error
