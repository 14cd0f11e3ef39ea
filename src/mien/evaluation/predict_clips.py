"""Prediction of the clips of a challenge from stored features, for submissions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from mien import config
from mien.checkpoint import Checkpoint
from mien.datasets.index import Index
from mien.ensemble import EnsembleModel
from mien.evaluation.calibration import Calibration
from mien.evaluation.predictions import ClipPrediction, predict
from mien.inference import StreamModel
from mien.records import Clip, Recording
from mien.store import FeatureStore


def predict_clips(
    checkpoint: StreamModel,
    index: Index,
    store: FeatureStore,
    clips: Iterable[str],
    *,
    calibration: Calibration | None = None,
    verify: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ClipPrediction]:
    """Predicts clips one by one, at every frame of their recordings; holds one clip in memory.

    A clip without any stored stream is skipped, so that the submission writer can report it. A clip that lacks some of
    the model's modalities is predicted from the others.

    Args:
        clips: ids of clips of the index.
        checkpoint: a checkpoint or an ensemble; features that two members read are loaded once.
        calibration: replaces the smoothing of the recipe, or of the members' recipes.
        verify: compare the stored features with their hashes before they are read.
        progress: called with the number of finished clips.

    Raises:
        ConfigError: features of different provenance.
        StoreError: an encoder without features, or a broken or (with `verify`) damaged file.
        CorpusError: a clip that is not in the index, or that has no frames.
    """
    if calibration is not None:
        checkpoint = without_smoothing(checkpoint)
    encoders = {name: feature.encoder for name, feature in checkpoint.features.items()}
    features = {encoder: store.open(encoder, check=False) for encoder in dict.fromkeys(encoders.values())}
    for done, clip in enumerate(clips, 1):
        entry = index[clip]
        found = {encoder: clips_of[clip] for encoder, clips_of in features.items() if clip in clips_of}
        for reader in found.values() if verify else ():
            reader.verify()
        stored = {encoder: reader.stream() for encoder, reader in found.items()}
        streams = {name: stored[encoder] for name, encoder in encoders.items() if encoder in stored}
        if streams and entry.times is not None:
            recording = Recording(Clip(clip, None, subject=entry.subject), streams)
            prediction = predict(checkpoint.predict_streams, recording, times=entry.times.seconds)
            yield calibration(prediction) if calibration else prediction
        if progress:
            progress(done)


def without_smoothing(model: StreamModel) -> StreamModel:
    """The checkpoint or ensemble without the smoothing of its recipe, which a calibration replaces."""
    if isinstance(model, EnsembleModel):
        return replace(model, members=tuple(without_smoothing(member) for member in model.members))
    if not isinstance(model, Checkpoint) or not model.recipe.vote.smooth_seconds:
        return model
    return replace(model, recipe=config.changed(model.recipe, vote={"smooth_seconds": 0.0}))
