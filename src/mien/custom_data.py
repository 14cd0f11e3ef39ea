"""Your own data: recordings from arrays, and train, evaluate and predict on them.

    from mien import custom_data

    clips = [custom_data.recording(name, face=f, voice=v, label=label, subject=who) for name, f, v, label, who in table]
    run = custom_data.train(clips, "runs/mine")
    print(custom_data.evaluate(run, clips, "report"))
    print(custom_data.predict(run, clips[1]))

docs/CUSTOM_DATA.md has the whole of it, also for folders of videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from mien import checkpoint, config, models
from mien.datasets.index import dealt
from mien.errors import ConfigError
from mien.evaluation import predictions
from mien.evaluation.record import summarise
from mien.labels import EXPRESSIONS, UNLABELLED, column
from mien.records import Clip, Labels, Recording, Stream
from mien.training.fit import fit
from mien.views import evaluation as view

#: Rate of labels and of held vectors, a second, where nothing says better.
_HZ = 10.0


def recording(
    name: str,
    *,
    label: str | Sequence[str | None] | None = None,
    valence_arousal: Sequence[float] | np.ndarray | None = None,
    label_times: np.ndarray | None = None,
    classes: Sequence[str] | None = None,
    rate_hz: float | Mapping[str, float] = 25.0,
    seconds: float | None = None,
    subject: str = "",
    split: str = "",
    **modalities: np.ndarray | Stream | None,
) -> Recording:
    """A clip whose features you have: `recording("a", face=array, voice=array, label="bored", subject="p1")`.

    Args:
        name: of the clip.
        modalities: `face`, `voice` (these two names) -> features `(time, dim)`; a single vector `(dim,)` or `(1, dim)`
            is held over the whole clip; rows with NaN are missing; None or left out: the clip has none. A `Stream`
            brings its own times.
        rate_hz: rows a second, one number or one of each modality; row i is at `(i + .5) / rate_hz` seconds.
        seconds: length of the clip; by default that of its longest array, 1 s where all are single vectors.
        label: one class of the whole clip, or one (None: unlabelled) at each of `label_times` seconds, `(time,)`; by
            default those are evenly spread over the clip. valence_arousal: likewise, `(2,)` or `(time, 2)` in [-1, 1].
        classes: all class names in order; by default mien's eight. Give the same to all recordings.
        subject: who it is: splits keep a subject together. split: `train`, `val`, `test`, or nothing.

    Raises ConfigError for arrays of another shape, a label that is no class, values out of range.
    """
    classes = list(classes or EXPRESSIONS)
    given = {n: v for n, v in modalities.items() if v is not None}
    for unknown in [n for n in given if n not in ("face", "voice")]:
        raise ConfigError(f"recording {name!r}: {unknown!r} is no modality", remedy="name them face and voice")
    arrays = {n: v if isinstance(v, Stream) else _array(name, n, v) for n, v in given.items()}
    rates = {n: float(rate_hz[n] if isinstance(rate_hz, Mapping) else rate_hz) for n in arrays}
    if seconds is None:
        seconds = max((_length(v, rates[n]) for n, v in arrays.items()), default=0.0) or 1.0
    streams = {n: v if isinstance(v, Stream) else _stream(v, rates[n], seconds) for n, v in arrays.items()}
    labels = _labels(name, label, valence_arousal, label_times, classes, seconds)
    return Recording(Clip(name, None, subject, split, labels), streams)


def _array(name: str, modality: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    array = array[None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.shape[1] or array.dtype.kind not in "fiu":
        raise ConfigError(
            f"recording {name!r}: {modality} is an array of {array.dtype} with shape {np.shape(value)}",
            follows="nothing was made of it",
            remedy="give numbers (time, dim), or one vector (dim,)",
        )
    return array.astype(np.float32)


def _length(value: np.ndarray | Stream, rate_hz: float) -> float:
    if isinstance(value, Stream):
        return float(value.times[-1]) + 0.5 / rate_hz if len(value.times) else 0.0
    return len(value) / rate_hz if len(value) > 1 else 0.0


def _stream(values: np.ndarray, rate_hz: float, seconds: float) -> Stream:
    if len(values) == 1:
        rate_hz, values = _HZ, np.repeat(values, max(1, round(seconds * _HZ)), axis=0)
    times = (np.arange(len(values)) + 0.5) / rate_hz
    return Stream(values, times, np.isfinite(values).all(axis=1), {"network": "own"})


def _labels(
    name: str,
    label: str | Sequence[str | None] | None,
    affect: Sequence[float] | np.ndarray | None,
    times: np.ndarray | None,
    classes: list[str],
    seconds: float,
) -> Labels | None:
    if label is None and affect is None:
        return None
    said = None if label is None or isinstance(label, str) else list(label)
    points = None if affect is None else np.asarray(affect, float)
    if times is None:
        many = len(said) if said is not None else len(points) if points is not None and points.ndim == 2 else 0
        count = many or max(1, round(seconds * _HZ))
        times = (np.arange(count) + 0.5) * seconds / count
    n = len(times)
    words = said if said is not None else [label] * n
    for word in words:
        if word is not None and word not in classes:
            raise ConfigError(
                f"recording {name!r}: the label {word!r} is no class{config.nearest(str(word), classes)}",
                follows="nothing was made of it",
                remedy="give all class names with classes=[...]",
            )
    expression = np.array([UNLABELLED if w is None else classes.index(str(w)) for w in words])
    points = np.full((n, 2), np.nan) if points is None else np.broadcast_to(points, (n, 2)).copy()
    if (np.abs(points[np.isfinite(points)]) > 1).any():
        raise ConfigError(
            f"recording {name!r}: valence and arousal reach {np.nanmax(np.abs(points)):g}",
            remedy="they lie in [-1, 1]; scale them first",
        )
    try:
        return Labels(np.asarray(times, float), expression, points)
    except ValueError as error:
        raise ConfigError(f"recording {name!r}: {error}", remedy="one label for each of label_times") from None


def split(
    recordings: Sequence[Recording], shares: Mapping[str, float], *, by: str = "subject", seed: int = 0
) -> list[Recording]:
    """The recordings with new splits. shares: split -> share of the recordings; the rest is `train`. by: `subject`
    keeps a subject's recordings together (one without a subject stands alone); `clip`, which puts the same person on
    both sides, has to be asked for."""
    together = [(r.clip.subject if by == "subject" else "") or f"clip {i}" for i, r in enumerate(recordings)]
    where = dealt(together, shares, by=by, seed=seed)
    return [replace(r, clip=replace(r.clip, split=s)) for r, s in zip(recordings, where, strict=True)]


def train(
    recordings: Sequence[Recording],
    out: str | Path,
    overrides: Sequence[str] = (),
    *,
    recipe: str | Path = "custom_data",
    classes: Sequence[str] | None = None,
    val: float = 0.2,
    resume: bool = False,
    **options: Any,
) -> Path:
    """Trains on recordings; returns the checkpoint's folder.

    Args:
        recordings: those of split `train` are trained on, those of `val` choose the epoch; where none has a split, a
            share `val` is put aside by subject.
        overrides: `key=value`, as after `mien train`. recipe: a name of `mien recipes`, or a YAML file.
        classes: as `recording` had them. options: of `mien.training.fit.fit`.

    Raises ConfigError for recordings that do not fit the recipe, or no training recording with a label.
    """
    made = list(recordings)
    if not any(r.clip.split for r in made):
        made = split(made, {"val": val})
    settings = config.load(recipe, overrides, check=models.problems)
    widths: dict[str, int] = {n: s.dim for r in made for n, s in r.streams.items()}
    features = {n: {"encoder": "own", "dim": None} for n in ("face", "voice") if n in widths}
    raw = settings.model_dump() | {"features": features}
    raw["corpus"]["labels"] = list(classes or EXPRESSIONS)
    settings = config.read(raw, origin=str(recipe), check=models.problems)
    parts = {s: [r for r in made if r.clip.split == s and r.clip.labels is not None] for s in ("train", "val")}
    if not parts["train"]:
        raise ConfigError(
            f"none of {len(made)} recordings is labelled and of the split 'train'",
            follows="nothing was started",
            remedy="give recordings label=..., and split='train' or no split at all",
        )
    return fit(settings, parts["train"], parts["val"], Path(out), resume, **options)


def evaluate(
    run: str | Path | checkpoint.Checkpoint,
    recordings: Sequence[Recording],
    out: str | Path | None = None,
) -> dict[str, float]:
    """Scores by name, such as `macro F1`; with `out`, a page (evaluation.html) and all figures with intervals
    (evaluation.json) too. Recordings of split `val` or `test` are scored; all, where none has one."""
    trained = run if isinstance(run, checkpoint.Checkpoint) else checkpoint.load(run)
    labelled = [r for r in recordings if r.clip.labels is not None]
    held = [r for r in labelled if r.clip.split in ("val", "test")] or labelled
    if not held:
        raise ConfigError("no recording has a label", follows="there is nothing to score")
    said = [predictions.predict(trained.predict_streams, r) for r in held]
    record = summarise(said, name=trained.recipe.model.name, classes=trained.labels)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        view.page(Path(out) / "evaluation.html", record)
    return {row["name"]: row["value"] for row in record["scores"]}


def predict(run: str | Path | checkpoint.Checkpoint, one: Recording) -> pl.DataFrame:
    """What the checkpoint says of a recording: a row a token, `time_s, label, p_<class>..., valence, arousal`; null
    where there was no evidence."""
    trained = run if isinstance(run, checkpoint.Checkpoint) else checkpoint.load(run)
    stop = max((_length(s, _HZ) for s in one.streams.values()), default=1.0)
    times, p, affect = trained.predict_streams(one.streams, 0.0, stop)
    known = np.isfinite(p).all(axis=1)
    named = [trained.labels[i] if ok else None for i, ok in zip(np.nan_to_num(p).argmax(axis=1), known, strict=True)]
    columns = {column(name): p[:, i] for i, name in enumerate(trained.labels)}
    columns |= {"valence": affect[:, 0], "arousal": affect[:, 1]}
    return pl.DataFrame({"time_s": times, "label": named} | columns).with_columns(pl.col(list(columns)).fill_nan(None))
