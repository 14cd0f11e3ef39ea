"""A checkpoint scored on an indexed corpus whose features are stored: record, page and predictions in one folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from mien.checkpoint import Checkpoint
from mien.datasets.index import Index
from mien.datasets.stored_recordings import recordings
from mien.errors import ConfigError
from mien.evaluation import calibration, predictions
from mien.evaluation.corrupted_media import footage_curves
from mien.evaluation.predict_clips import unsmoothed
from mien.evaluation.predictions import ClipPrediction, predict
from mien.evaluation.record import summarise
from mien.evaluation.robustness import curve, stream_conditions, streams_model
from mien.records import FACE, VOICE, Recording
from mien.views import evaluation as view

#: `(title, unit=...)` -> a context whose value is told how much of how much is done.
Bars = Callable[..., AbstractContextManager[Callable[[int, int], None]]]
PAGE, RECORD, FRAMES = "evaluation.html", "evaluation.json", "predictions.parquet"


@contextmanager
def no_bar(title: str, *, unit: str = "") -> Iterator[Callable[[int, int], None]]:
    """Shows nothing."""
    yield lambda done, total: None


def evaluate(
    trained: Checkpoint,
    corpus: Index,
    store: Path,
    out: Path,
    *,
    name: str,
    folder: Path | None = None,
    split: str = "val",
    task: str | None = None,
    calibrate: bool = True,
    robustness: bool = False,
    footage: bool = False,
    beside: Mapping[str, Checkpoint] | None = None,
    differs: Sequence[str] = (),
    bars: Bars = no_bar,
) -> dict[str, Any]:
    """Writes `evaluation.html`, `evaluation.json` and `predictions.parquet` into `out`; returns the record.

    Args:
        name: of the system. folder: where to keep the calibration, if anywhere.
        calibrate: choose smoothing, class bias and temperature by cross-validation inside the training clips.
        robustness: also score under damage to stored features, beside each modality alone and the systems of `beside`.
        footage: also damage the recordings themselves (dark, blurred, covered; noise, silence, late sound), which
            decodes and encodes every clip again for every condition.
        differs: what is not as in the publication.

    Raises ConfigError where there is nothing to score, or the store lacks clips.
    """
    encoders = {modality: feature.encoder for modality, feature in trained.recipe.features.items()}

    def clips(part: str) -> list[Recording]:
        found = recordings(corpus, store, encoders, task=task, split=part)
        return [r for r in found if r.clip.labels is not None]

    scored = clips(split)
    if not scored:
        raise ConfigError(
            f"{corpus.root} has no labelled clip in the split {split!r}",
            follows="there is nothing to score",
            remedy="name another with --split; `mien index` prints what a corpus has",
        )
    said = _said(trained, scored, f"predicting {split}", bars)
    comparison = None
    train = clips("train") if calibrate and split != "train" else []
    if len({r.clip.subject or r.clip.id for r in train}) > 1:
        plain = unsmoothed(trained)
        inside, outside = (
            _said(plain, rows, f"predicting {part}", bars) for rows, part in ((train, "train"), (scored, split))
        )
        comparison = calibration.compare(inside, outside, classes=trained.labels)
        if folder is not None:
            comparison.fitted.calibration.save(folder / calibration.FILE)
    curves = None
    if robustness or footage:
        alone = {f"{m} alone": streams_model(trained.predict_streams, m) for m in (FACE, VOICE) if m in encoders}
        others = {title: streams_model(other.predict_streams) for title, other in (beside or {}).items()}
        systems = {"fused": streams_model(trained.predict_streams)} | (alone if len(alone) > 1 else {}) | others
        found = []
        if robustness:
            with bars("robustness", unit="conditions") as bar:
                found.append(curve(stream_conditions(), scored, systems, classes=trained.labels, progress=bar))
        if footage:
            with bars("robustness of footage", unit="conditions") as bar:
                found.append(footage_curves(trained, [r.clip for r in scored], systems, progress=bar))
        curves = pl.concat(found)
    record = summarise(
        said,
        name=name,
        classes=trained.labels,
        split=split,
        comparison=comparison,
        curves=curves,
        reported=trained.recipe.paper.reported,
        differs=differs,
    )
    out.mkdir(parents=True, exist_ok=True)
    view.page(out / PAGE, record)
    predictions.save(out / FRAMES, said, trained.labels)
    return record


def _said(trained: Checkpoint, scored: Sequence[Recording], title: str, bars: Bars) -> list[ClipPrediction]:
    with bars(title, unit="clips") as bar:
        found = []
        for number, recording in enumerate(scored, 1):
            found.append(predict(trained.predict_streams, recording))
            bar(number, len(scored))
    return found
