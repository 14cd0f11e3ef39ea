"""Train, evaluate and predict on your own arrays of features.

    from mien import custom_data

    clips = [custom_data.recording(name, face=f, voice=v, label=label, subject=s) for name, f, v, label, s in table]
    run = custom_data.train(clips, "runs/mine")
    print(custom_data.evaluate(run, clips, "report"))
    print(custom_data.predict(run, clips[1]))

docs/CUSTOM_DATA.md explains it in full, also for folders of videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mien import checkpoint, config, models
from mien.datasets.index import assign_splits
from mien.errors import ConfigError
from mien.evaluation import predictions
from mien.evaluation.record import summarise
from mien.inference import trained_outputs
from mien.labels import EXPRESSIONS, UNLABELLED, probability_column
from mien.records import Clip, Labels, Recording, Stream
from mien.training.data_defaults import HZ, RECIPE, defaults, stream_seconds
from mien.training.fit import fit
from mien.views import evaluation as view

__all__ = ["defaults", "evaluate", "predict", "recording", "split", "train"]


def recording(
    name: str,
    *,
    label: str | Sequence[str | None] | None = None,
    valence_arousal: Sequence[float] | Sequence[Sequence[float]] | np.ndarray | None = None,
    label_times: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    rate_hz: float | Mapping[str, float] = 25.0,
    seconds: float | None = None,
    subject: str = "",
    split: str = "",
    **modalities: np.ndarray | Stream | None,
) -> Recording:
    """Create a recording from feature arrays: `recording("a", face=array, voice=array, label="bored", subject="p1")`.

    Args:
        name: of the clip.
        label: one class for the whole clip, or one for each of `label_times` (None: unlabelled).
        valence_arousal: `(2,)` for the whole clip, or `(time, 2)` for `label_times`, in [-1, 1]; NaN: unlabelled.
        label_times: `(time,)` seconds; by default spread evenly over the clip.
        classes: all class names in order; by default `mien.labels.EXPRESSIONS`. Give the same to all recordings.
        rate_hz: rows per second, one number or one for each modality; row i is at `(i + .5) / rate_hz` seconds.
        seconds: length of the clip; by default that of its longest array, 1 s where all are single vectors.
        subject: the person; splits keep the clips of a person together.
        split: `train`, `val`, `test`, or empty.
        modalities: `face` and `voice`: features `(time, dim)`; rows with NaN are missing; a single vector `(dim,)` or
            `(1, dim)` is repeated over the clip; a `Stream` has its own times; None: the clip lacks the modality.

    Raises:
        ConfigError: an array has another shape, a label is not a class, or valence or arousal is out of range.
    """
    classes = list(classes or EXPRESSIONS)
    present = {n: v for n, v in modalities.items() if v is not None}
    for modality in present:
        if modality not in ("face", "voice"):
            raise _error(name, f"{modality!r} is not a modality", remedy="Name the modalities face and voice.")
    arrays = {n: v if isinstance(v, Stream) else _array(name, n, v) for n, v in present.items()}
    rates = {n: float(rate_hz[n] if isinstance(rate_hz, Mapping) else rate_hz) for n in arrays}
    if seconds is None:
        seconds = max((_length(v, rates[n]) for n, v in arrays.items()), default=0.0) or 1.0
    streams = {n: v if isinstance(v, Stream) else _stream(v, rates[n], seconds) for n, v in arrays.items()}
    labels = _labels(name, label, valence_arousal, label_times, classes, seconds)
    return Recording(Clip(name, None, subject, split, labels), streams)


def _error(recording: str, what: str, *, remedy: str) -> ConfigError:
    return ConfigError(f"recording {recording!r}: {what}", follows="The recording was not created.", remedy=remedy)


def _array(name: str, modality: str, value: np.ndarray) -> np.ndarray:
    array = np.asarray(value)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiu":
        raise _error(
            name,
            f"{modality} is an array of {array.dtype} with shape {np.shape(value)}",
            remedy="Give numbers of shape (time, dim), or one vector (dim,).",
        )
    return array.astype(np.float32)


def _length(value: np.ndarray | Stream, rate_hz: float) -> float:
    """Length in seconds; 0 for a single vector."""
    if isinstance(value, Stream):
        return stream_seconds(value, rate_hz)
    return len(value) / rate_hz if len(value) > 1 else 0.0


def _stream(values: np.ndarray, rate_hz: float, seconds: float) -> Stream:
    if len(values) == 1:
        rate_hz, values = HZ, np.repeat(values, max(1, round(seconds * HZ)), axis=0)
    times = (np.arange(len(values)) + 0.5) / rate_hz
    return Stream(values, times, np.isfinite(values).all(axis=1), {"network": "own"})


def _labels(
    name: str,
    label: str | Sequence[str | None] | None,
    valence_arousal: Sequence[float] | Sequence[Sequence[float]] | np.ndarray | None,
    times: np.ndarray | None,
    classes: Sequence[str],
    seconds: float,
) -> Labels | None:
    if label is None and valence_arousal is None:
        return None
    names = None if label is None or isinstance(label, str) else list(label)
    affect = None if valence_arousal is None else np.asarray(valence_arousal, float)
    if times is None:
        given = len(names) if names is not None else len(affect) if affect is not None and affect.ndim == 2 else 0
        count = given or max(1, round(seconds * HZ))
        times = (np.arange(count) + 0.5) * seconds / count
    n = len(times)
    if names is None:
        names = [label if isinstance(label, str) else None] * n
    for class_name in names:
        if class_name is not None and class_name not in classes:
            raise _error(
                name,
                f"the label {class_name!r} is not a class{config.nearest(str(class_name), classes)}",
                remedy="Give all class names as classes=[...].",
            )
    expression = np.array([UNLABELLED if c is None else classes.index(c) for c in names])
    affect = np.full((n, 2), np.nan) if affect is None else np.broadcast_to(affect, (n, 2)).copy()
    if (np.abs(affect[np.isfinite(affect)]) > 1).any():
        raise _error(
            name,
            f"valence and arousal reach {np.nanmax(np.abs(affect)):g}, outside [-1, 1]",
            remedy="Scale them to [-1, 1].",
        )
    try:
        return Labels(np.asarray(times, float), expression, affect)
    except ValueError as error:
        raise _error(name, str(error), remedy="Give one label for each of label_times.") from None


def split(
    recordings: Sequence[Recording], shares: Mapping[str, float], *, by: str = "subject", seed: int = 0
) -> list[Recording]:
    """The recordings with new splits, drawn at random.

    Args:
        shares: split -> share of the recordings; the rest becomes `train`.
        by: `subject` keeps the recordings of a person in one split (a recording without a subject counts as a person);
            `clip` draws each recording alone, so that one person may be in several splits.
        seed: of the draw.
    """
    groups = [(r.clip.subject if by == "subject" else "") or f"clip {i}" for i, r in enumerate(recordings)]
    splits = assign_splits(groups, shares, by=by, seed=seed)
    return [replace(r, clip=replace(r.clip, split=s)) for r, s in zip(recordings, splits, strict=True)]


def train(
    recordings: Sequence[Recording],
    out: str | Path,
    overrides: Sequence[str] = (),
    *,
    recipe: str | Path = RECIPE,
    classes: Sequence[str] | None = None,
    val: float = 0.2,
    resume: bool = False,
    **options: Any,
) -> Path:
    """Train a checkpoint on recordings; returns its folder, `out`.

    Args:
        recordings: those of the split `train` are trained on, those of `val` select the epoch.
        out: folder of the run.
        overrides: changes of the recipe as `key=value`, such as `train.epochs=20`.
        recipe: a name of `mien recipes`, or a YAML file. Some values of `custom_data` are chosen by the recordings, see
            `defaults`; another recipe stays as it is.
        classes: the class names given to `recording`.
        val: if no recording has a split, this share of the subjects becomes `val`.
        resume: continue an interrupted run in `out`.
        options: further arguments of `mien.training.fit.fit`.

    Raises:
        ConfigError: the recordings do not fit the recipe, or no training recording has a label.
    """
    if not any(r.clip.split for r in recordings):
        recordings = split(recordings, {"val": val})
    present = {name for r in recordings for name in r.streams}
    chosen = defaults(recordings, overrides) if recipe == RECIPE else []
    settings = config.load(recipe, [*chosen, *overrides], check=models.problems)
    raw = settings.model_dump()
    raw["features"] = {n: {"encoder": "own", "dim": None} for n in ("face", "voice") if n in present}
    raw["corpus"]["labels"] = list(classes or EXPRESSIONS)
    settings = config.read(raw, origin=str(recipe), check=models.problems)
    labelled = [r for r in recordings if r.clip.labels is not None]
    train_clips, val_clips = ([r for r in labelled if r.clip.split == s] for s in ("train", "val"))
    if not train_clips:
        raise ConfigError(
            f"none of {len(recordings)} recordings has a label and the split 'train'",
            follows="Nothing was trained.",
            remedy="Give recordings label=..., and split='train' or no split at all.",
        )
    return fit(settings, train_clips, val_clips, Path(out), resume, **options)


def evaluate(
    run: str | Path | checkpoint.Checkpoint,
    recordings: Sequence[Recording],
    out: str | Path | None = None,
) -> dict[str, float]:
    """Score a checkpoint; returns the scores by name, such as `macro F1`.

    Args:
        run: folder of a checkpoint, or a loaded one.
        recordings: those of the splits `val` and `test` are scored; all, if none has such a split.
        out: folder for a report (evaluation.html) and the scores with confidence intervals (evaluation.json).

    Raises:
        ConfigError: no recording has a label.
    """
    trained = _checkpoint(run)
    labelled = [r for r in recordings if r.clip.labels is not None]
    scored = [r for r in labelled if r.clip.split in ("val", "test")] or labelled
    if not scored:
        raise ConfigError(
            f"none of {len(recordings)} recordings has a label",
            follows="Nothing was scored.",
            remedy="Give recordings label=... or valence_arousal=....",
        )
    clips = [predictions.predict(partial(trained_outputs, trained), r) for r in scored]
    record = summarise(
        clips,
        name=trained.recipe.model.name,
        classes=trained.labels,
        expression=trained.settings.expression,
        valence_arousal=trained.settings.valence_arousal,
    )
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        view.write_page(Path(out) / "evaluation.html", record)
    return {row["name"]: row["value"] for row in record["scores"]}


def predict(run: str | Path | checkpoint.Checkpoint, recording: Recording) -> pl.DataFrame:
    """Predict a recording: a table with one row per token and the columns `time_s, label, p_<class>..., valence,
    arousal`; null where there is no evidence, and in all rows for what the checkpoint does not predict.

    Args:
        run: folder of a checkpoint, or a loaded one.
    """
    trained = _checkpoint(run)
    stop = max((stream_seconds(s) for s in recording.streams.values()), default=1.0)
    times, p, affect = trained_outputs(trained, recording.streams, 0.0, stop)
    known = np.isfinite(p).all(axis=1)
    labels = [trained.labels[i] if ok else None for i, ok in zip(np.nan_to_num(p).argmax(axis=1), known, strict=True)]
    columns = {probability_column(name): p[:, i] for i, name in enumerate(trained.labels)}
    columns |= {"valence": affect[:, 0], "arousal": affect[:, 1]}
    return pl.DataFrame({"time_s": times, "label": labels} | columns).with_columns(pl.col(list(columns)).fill_nan(None))


def _checkpoint(run: str | Path | checkpoint.Checkpoint) -> checkpoint.Checkpoint:
    return run if isinstance(run, checkpoint.Checkpoint) else checkpoint.load(run)
