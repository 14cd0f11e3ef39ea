"""What a checkpoint records of its inputs: provenance of the training features, and the stages that computed them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mien import trained_model
from mien.config import Recipe
from mien.errors import ConfigError, OutputError
from mien.records import Recording

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedInputs:
    """Inputs of a training run.

    encoders: modality -> encoder. provenance: modality -> that of the training features. stages: encoder -> folder of
    the checkpoint that computed its features.
    """

    encoders: Mapping[str, str]
    provenance: Mapping[str, Mapping[str, str]]
    stages: Mapping[str, Path]

    @classmethod
    def of(
        cls, recipe: Recipe, recordings: Sequence[Recording], out: Path, stages: Mapping[str, Path]
    ) -> TrainedInputs:
        """Collect the inputs of a run, before it starts. A stage that is not found is logged as a warning.

        Args:
            out: folder of the run. stages: encoder -> folder, where the caller knows it.

        Raises:
            ConfigError: a folder of `stages` holds other weights than those that computed the features, or names an
                encoder that the recipe does not read.
        """
        encoders = {modality: feature.encoder for modality, feature in recipe.features.items()}
        provenance: dict[str, Mapping[str, str]] = {}
        for recording in recordings:
            for modality, stream in recording.streams.items():
                provenance.setdefault(modality, stream.provenance)
        _check_names(stages, encoders)
        found: dict[str, Path] = {}
        for modality, name in encoders.items():
            features = provenance.get(modality, {})
            if not trained_model.is_stage(features):
                continue
            folder = trained_model.find_stage(features, _places(name, out, stages))
            if folder is not None:
                found[name] = folder
            elif name in stages:
                raise ConfigError(
                    f"--stage {name}={stages[name]}: its weights did not compute the stored {name} features "
                    f"(those have the sha256 {features['revision'][:16]}...)",
                    follows="Nothing was trained.",
                    remedy="Name the checkpoint that computed them, or compute the features again.",
                )
            else:
                log.warning(
                    "the checkpoint that computed the %s features was not found; mien predict will need it: "
                    "give --stage %s=FOLDER",
                    name,
                    name,
                )
        return cls(encoders, provenance, found)

    def files(self) -> dict[str, bytes]:
        """inputs.json, as a file of the checkpoint."""
        return {trained_model.INPUTS: trained_model.inputs_file(self.encoders, self.provenance)}

    def copy_stages(self, out: Path) -> None:
        """Copy the stages into a checkpoint folder. Raises OutputError."""
        try:
            for name, folder in self.stages.items():
                trained_model.copy_stage(folder, out, name)
        except OSError as error:
            raise OutputError(
                f"checkpoint {out}: its stages cannot be written: {error.strerror or error}",
                follows="The checkpoint is incomplete.",
                remedy="Free some space and resume the run.",
            ) from error


def _places(name: str, out: Path, stages: Mapping[str, Path]) -> Iterator[Path]:
    """Folders in which the checkpoint of a stage may be."""
    if name in stages:
        yield stages[name]
        return
    yield from (out / trained_model.STAGES / name, out.parent / name, out.parent / trained_model.STAGES / name)
    yield Path("runs") / name


def _check_names(stages: Mapping[str, Path], encoders: Mapping[str, str]) -> None:
    if unknown := sorted(set(stages) - set(encoders.values())):
        raise ConfigError(
            f"--stage {unknown[0]}: the recipe reads no encoder of that name; it reads {', '.join(encoders.values())}",
            follows="Nothing was started.",
            remedy="Write --stage NAME=FOLDER with the name under `features`.",
        )
