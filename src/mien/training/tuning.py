"""Tune a pretrained encoder to expressions, end to end: from labelled faces or sound to a folder that is an encoder.

The classifier and the weights that `Adaptation` names are trained (`mien.training.tuning_network`). The loop, its
callbacks and the resumed runs are those of `mien.training`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from mien import checkpoint, config, recipe_yaml, saved_state
from mien.config import Recipe
from mien.encoders import adaptation, registry
from mien.encoders.images import ImageEncoder
from mien.encoders.pretrained import quiet_transformers
from mien.encoders.speech import SpeechEncoder
from mien.encoders.tuned import ABOUT, find_tuned
from mien.errors import ConfigError, OutputError
from mien.layers.system import System
from mien.memory import keep_freed_memory
from mien.scratch import temporary_path
from mien.training import resume as unfinished
from mien.training.callbacks import EpochCallback, KeepBest
from mien.training.fit import run_training
from mien.training.loop import reproducible
from mien.training.tuning_batches import TuningData
from mien.training.tuning_examples import ClassMaps, Examples
from mien.training.tuning_network import Adaptation, Objective, TunedNetwork, TuningOptions

#: Files of the base network that a tuned folder needs beside its weights.
_PROCESSOR = "preprocessor_config.json"
_HEAD = "head.safetensors"


def make_recipe(
    spec: str,
    corpora: Mapping[str, Path],
    labels: Sequence[str],
    maps: ClassMaps,
    changes: Mapping[str, Any],
    overrides: Sequence[str] = (),
) -> Recipe:
    """The complete description of a tuning run, as a recipe: `model` is an `Adaptation`, `objective` an `Objective`.

    Defaults of `train`: 10 epochs of batches of 32, learning rate 2e-4 for LoRA and 2e-5 for whole blocks, patience 3
    (our choice). changes: keys of `Adaptation`. overrides: `key=value`, as of a recipe.

    Raises ConfigError with every problem.
    """
    name, source, options = registry.parse_spec(spec)
    is_lora = bool(changes.get("lora"))
    raw: dict[str, Any] = {
        "paper": {"title": "tuned encoder", "arxiv": ""},
        "corpus": {
            "name": "+".join(corpora),
            "labels": list(labels),
            "options": {"data": {k: str(v) for k, v in corpora.items()}, "maps": {k: dict(v) for k, v in maps.items()}},
        },
        "features": {"input": {"encoder": name, "options": {**options, **({"source": source} if source else {})}}},
        "windows": {},
        "model": {"name": "tuned_encoder", **changes},
        "objective": {},
        "train": {"epochs": 10, "lr": 2e-4 if is_lora else 2e-5, "patience": 3, "warmup": 0.05},
        "vote": {},
    }  # fmt: skip
    problems = [problem for text in overrides if (problem := recipe_yaml.override(raw, text))]
    model = {k: v for k, v in raw["model"].items() if k != "name"}
    for record, values, section in (
        (Adaptation, model, "model"),
        (Objective, raw["objective"], "objective"),
        (TuningOptions, raw["corpus"]["options"], "corpus.options"),
    ):
        try:
            values.update(record(**values).model_dump())
        except ValidationError as error:
            problems += config.explain(error, record, section)
    raw["model"] = {"name": raw["model"]["name"], **model}
    recipe = config.read(raw, origin=f"mien tune {spec}", problems=problems)
    chosen = Adaptation(**recipe.model.options)
    if bool(chosen.lora) == bool(chosen.last_blocks):
        raise ConfigError(
            f"--lora is {chosen.lora} and --last-blocks is {chosen.last_blocks}; exactly one of them is above 0",
            follows="Nothing was trained.",
            remedy="Use --lora 16, or --last-blocks 4.",
        )
    return recipe


def create_base(spec: str, device: str) -> ImageEncoder | SpeechEncoder:
    """The encoder to tune, in float32.

    Raises ConfigError for a kind that cannot be tuned, or one that was tuned before; ArtefactError for its weights.
    """
    name, source, _ = registry.parse_spec(spec)
    if find_tuned(name, source) is not None:
        raise ConfigError(
            f"{spec} is tuned already",
            follows="Nothing was trained.",
            remedy="Tune its base encoder on all corpora together, with several --data.",
        )
    kind = registry.NETWORKS[name].kind if name in registry.NETWORKS else ""
    encoder: Any = registry.create(spec, device=device, precision="float32") if kind in ("image", "waveform") else None
    if not isinstance(encoder, ImageEncoder | SpeechEncoder):
        known = sorted(n for n, network in registry.NETWORKS.items() if network.kind in ("image", "waveform"))
        raise ConfigError(
            f"the encoder {name!r} cannot be tuned{config.nearest(name, known)}",
            follows="Nothing was trained.",
            remedy=f"Use one of {', '.join(known)}.",
        )
    return encoder


def tune(
    recipe: Recipe,
    encoder: ImageEncoder | SpeechEncoder,
    train: Examples,
    val: Examples | None,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: bool | None = None,
    on_epoch: EpochCallback | None = None,
) -> Path:
    """Tune an encoder by `make_recipe`'s recipe; returns `out`, the folder of the tuned encoder.

    The weights of the epoch with the highest validation macro F1 are kept, or the last epoch's without validation.

    Args:
        encoder: of `create_base`, on `device`; it computes with the tuned weights afterwards.
        resume: go on with the unfinished run in `out`; a finished one is returned as it is.
        progress, on_epoch: as in `mien.training.fit.fit`.

    Raises:
        ConfigError: an encoder without transformer blocks, or an unfinished run that was not asked for or does not fit.
        OutputError: the folder cannot be written.
    """
    if resume and is_tuned(out):
        return out
    keep_freed_memory()
    settings, objective = Adaptation(**recipe.model.options), Objective(**recipe.objective)
    base = {"base_revision": encoder.provenance["revision"]}
    recipe = config.changed(recipe, corpus={"options": {**recipe.corpus.options, **base}})
    with reproducible(recipe.train.threads):
        torch.manual_seed(recipe.train.seed)
        system = TunedNetwork(encoder, len(recipe.corpus.labels), settings, objective, lr=recipe.train.lr)
        system.prepare({}, {}, torch.from_numpy(train.targets.sum(axis=0)))
        data = TuningData(recipe, encoder, train, val)
        run = run_training(
            system,
            data,
            recipe,
            out,
            resume=resume,
            device=device,
            progress=progress,
            on_epoch=on_epoch,
            keep=KeepTuned,
        )
        run.close()
    return out


def is_tuned(out: Path) -> bool:
    """Whether `out` holds a tuned encoder of a completed run."""
    return not (out / unfinished.FILE).exists() and (out / ABOUT).exists()


class KeepTuned(KeepBest):
    """Saves the best weights as the folder of an encoder, instead of a checkpoint."""

    manifest = ABOUT

    def save(self, system: System[Any]) -> None:
        """Write the network with merged updates, its processor, the classifier and tuned.json."""
        assert isinstance(system, TunedNetwork)
        try:
            self._write(system)
        except OSError as error:
            raise OutputError(
                f"tuned encoder {self.out}: cannot be written: {error.strerror or error}",
                follows="An earlier encoder in it is unchanged.",
                remedy="Free some space, or give another folder, and resume the run.",
            ) from error

    def _write(self, system: TunedNetwork) -> None:
        encoder, recipe = system.encoder, self.recipe
        temporary = temporary_path(self.out / "weights")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            with quiet_transformers():
                system.network.save_pretrained(temporary, state_dict=adaptation.merged_state(system.network))
            shutil.copyfile(encoder.weights_folder / _PROCESSOR, temporary / _PROCESSOR)
            save_file({name: value.cpu() for name, value in system.head.state_dict().items()}, temporary / _HEAD)
            feature = recipe.features["input"]
            about = {
                "base": feature.encoder,
                "options": {k: v for k, v in feature.options.items() if k not in ("source", "name", "precision")},
                "modality": encoder.modality,
                "base_revision": recipe.corpus.options["base_revision"],
                "method": str(Adaptation(**recipe.model.options)),
                "corpora": list(recipe.corpus.options["data"]),
                "labels": list(recipe.corpus.labels),
            }
            files: dict[str, bytes | Path] = {path.name: path for path in temporary.iterdir()}
            files[checkpoint.RECIPE] = config.dump(recipe).encode()
            files[checkpoint.METRICS] = checkpoint.json_bytes(self.metrics())
            saved_state.save(self.out, ABOUT, about, files)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
