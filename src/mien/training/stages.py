"""Stages of a system: train the checkpoints that compute its inputs, and write their features into the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from mien import checkpoint, config, models, trained_model
from mien.checkpoint import Checkpoint
from mien.config import Recipe
from mien.datasets.image_datasets import ImageOptions, crop_framing
from mien.datasets.index import Index
from mien.datasets.stored_recordings import load_recordings
from mien.encode.corpus_faces import load_corpus_faces
from mien.encoders.registry import format_spec
from mien.errors import ConfigError
from mien.extract import ExtractionProgress, Failure, extract
from mien.records import Recording
from mien.store import FeatureStore, Reader, StoreError
from mien.training.fit import fit, is_finished
from mien.training.semi_supervised import fit_images, steps_of

#: Opens a progress bar; the context's value is called with the state of the extraction, unless it is None.
ExtractionProgressBar = Callable[[], AbstractContextManager[Callable[[ExtractionProgress], None] | None]]


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """How a chain of stages is trained.

    index, store: clips, and where features are. given: encoder name -> trained stage to use as it is. task: of the
    labels. faces, workers, device: as in `mien.extract.extract`. on_step: called with one line when a step starts.
    """

    index: Index
    store: Path
    given: Mapping[str, Path] = field(default_factory=dict)
    task: str | None = None
    faces: str = "video"
    workers: int = 1
    device: str = "auto"
    on_step: Callable[[str], None] = print
    progress: ExtractionProgressBar = nullcontext


def stage_recipes(recipe: Recipe) -> dict[str, Recipe]:
    """Encoder name -> recipe of each stage that the recipe's features need.

    Raises ConfigError for a recipe that cannot be read.
    """
    encoders = {feature.encoder for feature in recipe.features.values()}
    return {
        name: config.load(source, check=models.problems) for name, source in recipe.stages.items() if name in encoders
    }


def extract_features(recipe: Recipe, out: Path, settings: ChainSettings) -> tuple[list[Failure], dict[str, Path]]:
    """Compute every feature that a recipe reads, its stages trained first.

    Args:
        out: folder of the run; stages are trained in `out/stages/NAME`.

    Returns the streams that could not be computed, and encoder name -> folder of each stage.

    Raises:
        ConfigError: a stage cannot be trained on the corpus.
    """
    stages = stage_recipes(recipe)
    plain = [f for f in recipe.features.values() if f.encoder not in stages]
    failures: list[Failure] = []
    if plain:
        settings.on_step(f"extract: {', '.join(f.encoder for f in plain)} of {len(settings.index.entries)} clips")
        failures += _extract(settings, [format_spec(f.encoder, f.options) for f in plain])
    folders: dict[str, Path] = {}
    for name, stage in stages.items():
        folder = folders[name] = out / trained_model.STAGES / name
        if name in settings.given:
            settings.on_step(f"stage {name}: {settings.given[name]}")
            trained_model.copy_stage(settings.given[name], out, name)
        else:
            failures += _train_stage(name, stage, folder, settings)
        if trained_model.is_image_model(folder):
            settings.on_step(f"extract: {name} of {len(settings.index.entries)} clips")
            failures += _extract(settings, [str(folder)])
        else:
            settings.on_step(f"derive: {name} of {len(settings.index.entries)} clips")
            derive_features(folder, settings.index, settings.store, name, device=settings.device)
    return failures, folders


def _extract(settings: ChainSettings, specs: list[str]) -> list[Failure]:
    with settings.progress() as progress:
        return extract(
            settings.index, specs, settings.store, workers=settings.workers, faces=settings.faces,
            device=settings.device, progress=progress,
        ).failures  # fmt: skip


def _train_stage(name: str, recipe: Recipe, folder: Path, settings: ChainSettings) -> list[Failure]:
    """Train a stage on the corpus, unless its folder holds it; returns the streams that could not be computed."""
    if models.system_class(recipe).input_kind == "images":
        if not is_finished(folder):
            settings.on_step(f"stage {name}: {recipe.model.name} on the faces of the corpus")
            _train_on_faces(name, recipe, folder, settings)
        return []
    failures, stages = extract_features(recipe, folder, settings)
    if not is_finished(folder):
        train, val = (labelled(recipe, settings, split) for split in ("train", "val"))
        settings.on_step(f"stage {name}: {recipe.model.name} on {len(train)} clips; {len(val)} clips select the epoch")
        fit(recipe, train, val, folder, resume=True, device=settings.device, stages=stages)
    return failures


def labelled(recipe: Recipe, settings: ChainSettings, split: str) -> list[Recording]:
    """The labelled clips of a split with the features that a recipe reads."""
    encoders = {modality: feature.encoder for modality, feature in recipe.features.items()}
    expression, scores = models.predicts_expression(recipe), models.score_tasks(recipe)
    task = settings.task or settings.index.task_of(expression=expression, scores=scores)
    recordings = load_recordings(
        settings.index, settings.store, encoders, task=task, split=split, partial=True, scores=scores
    )
    return [recording for recording in recordings if recording.clip.labels]


def _train_on_faces(name: str, recipe: Recipe, folder: Path, settings: ChainSettings) -> None:
    index, options = settings.index, ImageOptions(**recipe.corpus.options)
    recipe = config.changed(recipe, corpus={"labels": list(index.classes)})
    margin, down = crop_framing(recipe)
    train, val = (
        load_corpus_faces(
            index, split, options.size, task=settings.task, faces=settings.faces, margin=margin, down=down
        )
        for split in ("train", "val")
    )
    if train is None or not (train.labels >= 0).any():
        raise ConfigError(
            f"stage {name}: no labelled face was found in the training clips",
            follows="Nothing was trained.",
            remedy=f"Give a trained stage: --stage {name}=FOLDER.",
        )
    scored = val if val is not None and (val.labels >= 0).any() else None
    if scored is not None:
        scored = scored.take(scored.labels >= 0)
    device = checkpoint.torch_device(settings.device)
    fit_images(recipe, train, train, scored, folder, steps=steps_of(recipe, train, train), resume=True, device=device)


def derive_features(
    run: Path,
    index: Index,
    store: Path,
    name: str,
    *,
    device: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Compute the features of a trained stage over streams, and write them into the store as those of encoder `name`.

    Clips whose features are stored with the same provenance are skipped. progress: called with the number of finished
    clips and of all clips. Returns the number of clips.

    Raises:
        ConfigError: the run has no features for a next stage.
    """
    trained: Checkpoint = checkpoint.load(run, checkpoint.torch_device(device))
    encoders = {modality: feature.encoder for modality, feature in trained.features.items()}
    recordings = load_recordings(index, store, encoders, labels=False, partial=True)
    weights = checkpoint.weights_digest(run)
    provenance = trained_model.stage_provenance(trained.recipe.model.name, weights, "embedding and predictions")
    features = FeatureStore(store)
    for number, recording in enumerate(recordings, 1):
        clip = recording.clip.id
        sources = [features.path(encoder, clip) for encoder in encoders.values()]
        if recording.streams and not _is_derived(features.path(name, clip), sources, provenance):
            stream = trained.embed_streams(recording.streams)
            with features.writer(name, recording.clip.id, dim=stream.dim, provenance=provenance) as writer:
                writer.append(stream.values, stream.times, stream.valid)
        progress(number, len(recordings))
    return len(recordings)


def _is_derived(path: Path, sources: Sequence[Path], provenance: Mapping[str, str]) -> bool:
    """Whether the features at `path` were computed by this stage after all of `sources` were written."""
    try:
        newest = max((source.stat().st_mtime_ns for source in sources if source.exists()), default=0)
        return path.stat().st_mtime_ns >= newest and Reader(path).provenance == dict(provenance)
    except (OSError, StoreError):
        return False
