"""Predictions of a challenge's clips from stored features: what stands between a trained run and a submission."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from mien import config
from mien.checkpoint import Checkpoint
from mien.datasets.index import Index
from mien.evaluation.calibration import Calibration
from mien.evaluation.predictions import ClipPrediction, predict
from mien.records import Clip, Recording
from mien.store import FeatureStore


def predict_clips(
    checkpoint: Checkpoint,
    index: Index,
    store: FeatureStore,
    clips: Iterable[str],
    *,
    calibration: Calibration | None = None,
    progress: Callable[[int], None] | None = None,
) -> Iterator[ClipPrediction]:
    """Predicts clips one by one, at every frame of their recordings; memory is that of one clip.

    A clip of which the store holds no stream at all is left out, so that writing a submission can name it; one that
    lacks some of the model's modalities is predicted from the others.

    Args:
        clips: ids to predict; each has to be in the index.
        calibration: applied in place of the recipe's own smoothing, which it was chosen without.
        progress: told how many clips are done.

    Raises:
        ConfigError: features made in more than one way. StoreError: nothing of an encoder, or a broken file.
        CorpusError: a clip that the index does not have, or that has no frames.
    """
    if calibration is not None:
        checkpoint = unsmoothed(checkpoint)
    shelves = {name: store.open(feature.encoder, check=False) for name, feature in checkpoint.recipe.features.items()}
    for done, clip in enumerate(clips, 1):
        entry = index[clip]
        streams = {name: shelf[clip].stream() for name, shelf in shelves.items() if clip in shelf}
        if streams and entry.times is not None:
            recording = Recording(Clip(clip, None, subject=entry.subject), streams)
            said = predict(checkpoint.predict_streams, recording, times=entry.times.seconds)
            yield calibration(said) if calibration else said
        if progress:
            progress(done)


def unsmoothed(checkpoint: Checkpoint) -> Checkpoint:
    """The same without the recipe's smoothing: what a calibration is fitted on, and then takes the place of."""
    if not checkpoint.recipe.vote.smooth_seconds:
        return checkpoint
    return replace(checkpoint, recipe=config.changed(checkpoint.recipe, vote={"smooth_seconds": 0.0}))
