"""Smoothing, class bias and temperature, chosen by cross-validation inside the training clips.

Usual practice tunes these on the very clips that are then scored; what comes out is a number no other clip will see
again. Here the scored clips take no part: `fit` sees training clips only, and `compare` prints the usual practice
beside it, by name of what it is, optimistic.

What the training clips' predictions are worth depends on who made them: a network that was trained on a clip is surer
about it than about any other. Give predictions of networks that did not see the clip (one network a fold, or clips
held back from training) where there are any.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.optimize import minimize_scalar

from mien import clock
from mien.errors import ConfigError
from mien.evaluation import bootstrap
from mien.evaluation.predictions import ClipPrediction, with_values
from mien.labels import EXPRESSIONS, UNLABELLED

#: Radii of the moving mean that are tried, in seconds. PAPERS §0: a public model's best was 50 frames, 1.7 s at 30 a
#: second, of 0 to 500.
RADII_S = (0.0, 0.1, 0.25, 0.5, 1.0, 1.7, 3.0, 5.0, 10.0, 17.0)
#: Shares of the training clips' log frequencies that are taken off: 0 leaves the network's own prior, 1 is the
#: balanced one (logit adjustment, Menon et al. 2021), which macro F1 leans to.
STRENGTHS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
FOLDS = 5
#: Frames that candidates are compared on at most: neighbours say nearly the same, so every k-th does. Our choice.
MOST_FRAMES = 400_000
_TEMPERATURES = (0.05, 20.0)
FILE = "calibration.json"
#: radii in seconds, strengths
_Candidates = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """How to correct predictions. radius_s, affect_radius_s: of the moving mean over probabilities, and over valence
    and arousal, in seconds (the box is twice as wide). bias: `(classes,)` offsets of log probabilities, () for none.
    temperature: divides them, after the bias: it changes how sure a prediction is and never which class it names.
    strength: which share of the log frequencies `bias` takes off."""

    radius_s: float = 0.0
    bias: tuple[float, ...] = ()
    temperature: float = 1.0
    affect_radius_s: float = 0.0
    strength: float = 0.0

    def __call__(self, prediction: ClipPrediction) -> ClipPrediction:
        """The same clip, corrected. Frames without evidence stay so, and lend nothing to their neighbours."""
        smoothed = clock.smooth(prediction.probabilities, prediction.times, 2 * self.radius_s)
        affect = clock.smooth(prediction.valence_arousal, prediction.times, 2 * self.affect_radius_s)
        logits = (_log(smoothed) + (np.array(self.bias) if self.bias else 0.0)) / self.temperature
        return with_values(prediction, _softmax(logits), affect)

    def save(self, path: Path) -> None:
        """As JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Raises ConfigError where the file is no calibration."""
        try:
            raw: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
            return cls(**{**raw, "bias": tuple(map(float, raw["bias"]))})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{path} is not a calibration ({type(error).__name__}: {error})",
                remedy="`mien evaluate RUN` writes one",
            ) from None


@dataclass(frozen=True)
class Fitted:
    """What `fit` found. calibration: fitted on all clips given. table: `radius_s, strength, macro_f1`, the score of
    each candidate on held-out folds. affect_table: `radius_s, va_score`. held_out: macro F1 of clips whose fold took
    no part in choosing anything; before: without correction. Scores are NaN where nothing is labelled."""

    calibration: Calibration
    table: pl.DataFrame
    affect_table: pl.DataFrame
    held_out: float
    before: float
    folds: int


def fit(
    clips: Sequence[ClipPrediction],
    *,
    classes: int = len(EXPRESSIONS),
    folds: int = FOLDS,
    radii_s: Sequence[float] = RADII_S,
    strengths: Sequence[float] = STRENGTHS,
    seed: int = 0,
) -> Fitted:
    """Chooses a calibration by cross-validation over groups of clips (subjects).

    Each candidate (radius, strength) is scored on each fold with the class frequencies of the others; the one with
    the best macro F1, pooled over held-out folds, is taken, ties going to the smaller change. Frequencies and
    temperature then come from all clips. Valence and arousal have a radius only, chosen by the mean CCC.

    Raises ValueError if fewer than two groups are labelled.
    """
    fold_of, count = _folds(clips, folds, seed)
    found = _cross_validated(_Frames(clips, classes), _candidates(radii_s, strengths), fold_of, count)
    table = _affect_table(clips, radii_s)
    chosen = replace(found.calibration, affect_radius_s=_affect_radius(table))
    return replace(found, calibration=chosen, affect_table=table)


class _Frames:
    """Labelled frames of all clips end to end, thinned. truth, clip: `(frame,)`; counts: `(clip, classes)`."""

    def __init__(self, clips: Sequence[ClipPrediction], classes: int) -> None:
        self.clips, self.classes = clips, classes
        labelled = sum(int((c.expression != UNLABELLED).sum()) for c in clips)
        step = max(1, -(-labelled // MOST_FRAMES))
        self.kept = [np.flatnonzero(c.expression != UNLABELLED)[::step] for c in clips]
        truth = [c.expression[k] for c, k in zip(clips, self.kept, strict=True)]
        self.truth = np.concatenate(truth)
        self.clip = np.repeat(np.arange(len(clips)), [len(k) for k in self.kept])
        self.counts = np.stack([np.bincount(t, minlength=classes) for t in truth])

    def logs(self, radius_s: float) -> np.ndarray:
        """`(frame, classes)` smoothed log probabilities, every frame answered."""
        smooth = Calibration(radius_s)
        return _log(np.concatenate([smooth(c).answered[k] for c, k in zip(self.clips, self.kept, strict=True)]))

    def bias(self, strength: float, clips: np.ndarray) -> np.ndarray:
        """`(classes,)` offsets from the class frequencies of some clips, `(clip,)` bool; a class that none of them
        has is left alone."""
        counts = self.counts[clips].sum(axis=0)
        frequency = np.log(np.maximum(counts, 1) / max(1, counts.sum()))
        some = counts > 0
        return np.where(some, -strength * (frequency - frequency[some].mean()), 0.0)

    def confusions(self, logs: np.ndarray, fold_of: np.ndarray, folds: int) -> np.ndarray:
        """`(fold, classes, classes)` of the likeliest classes by `logs` `(frame, classes)`."""
        said = logs.argmax(axis=1)
        place = (fold_of[self.clip] * self.classes + self.truth) * self.classes + said
        return np.bincount(place, minlength=folds * self.classes**2).reshape(folds, self.classes, self.classes)


def _candidates(radii_s: Sequence[float], strengths: Sequence[float]) -> _Candidates:
    return tuple(map(float, radii_s)), tuple(map(float, strengths))


def _grid(data: _Frames, candidates: _Candidates, fold_of: np.ndarray, folds: int, *, left_out: bool) -> np.ndarray:
    """`(fold f, radius, strength, fold g, classes, classes)`: fold g's confusion with the frequencies of all clips
    but those of fold f (left_out), or of all."""
    radii, strengths = candidates
    out = np.zeros((folds, len(radii), len(strengths), folds, data.classes, data.classes), np.int64)
    for r, radius in enumerate(radii):
        logs = data.logs(radius)
        for f in range(folds):
            for s, strength in enumerate(strengths):
                bias = data.bias(strength, (fold_of != f) | (not left_out))
                out[f, r, s] = data.confusions(logs + bias, fold_of, folds)
    return out


def _cross_validated(data: _Frames, candidates: _Candidates, fold_of: np.ndarray, folds: int) -> Fitted:
    grid = _grid(data, candidates, fold_of, folds, left_out=True)
    held_out = grid[np.arange(folds), :, :, np.arange(folds)]
    scores = bootstrap.f1_of(held_out.sum(axis=0)).mean(-1)
    # Each fold scored with the candidate that the other folds would have chosen.
    nested = np.zeros((data.classes, data.classes), np.int64)
    for f in range(folds):
        others = bootstrap.f1_of(grid[f].sum(axis=2) - held_out[f]).mean(-1)
        nested += held_out[f][np.unravel_index(others.argmax(), others.shape)]
    radii, strengths = candidates
    before = data.confusions(data.logs(0.0), fold_of, folds).sum(axis=0)
    table = {
        "radius_s": np.repeat(radii, len(strengths)),
        "strength": np.tile(strengths, len(radii)),
        "macro_f1": scores.ravel(),
    }
    return Fitted(
        _settled(data, candidates, scores),
        pl.DataFrame(table),
        pl.DataFrame(),
        float(bootstrap.f1_of(nested).mean()),
        float(bootstrap.f1_of(before).mean()),
        folds,
    )


def _settled(data: _Frames, candidates: _Candidates, scores: np.ndarray) -> Calibration:
    """The candidate with the highest of scores `(radius, strength)`, its numbers from all clips. Of equals the first:
    they stand in the order of how much they change."""
    r, s = np.unravel_index(scores.argmax(), scores.shape)
    radius, strength = candidates[0][r], candidates[1][s]
    bias = data.bias(strength, np.ones(len(data.clips), bool))
    logits = data.logs(radius) + bias
    low, high = np.log(_TEMPERATURES)
    # The temperature of least negative log likelihood (Guo et al. 2017).
    found = minimize_scalar(
        lambda t: negative_log_likelihood(_softmax(logits / np.exp(t)), data.truth),
        bounds=(low, high),
        method="bounded",
    )
    return Calibration(radius, tuple(bias.tolist()), float(np.exp(found.x)), strength=strength)


def _affect_table(clips: Sequence[ClipPrediction], radii_s: Sequence[float]) -> pl.DataFrame:
    scores = []
    for radius in radii_s:
        smooth = Calibration(affect_radius_s=radius)
        sums = bootstrap.affect_moments([smooth(c) for c in clips]).sum(axis=0)
        scores.append(float(bootstrap.affect_scores(sums)["va_score"]))
    return pl.DataFrame({"radius_s": list(map(float, radii_s)), "va_score": scores})


def _affect_radius(table: pl.DataFrame) -> float:
    scores = table["va_score"].to_numpy()
    return float(table["radius_s"][int(np.nanargmax(scores))]) if np.isfinite(scores).any() else 0.0


def _folds(clips: Sequence[ClipPrediction], folds: int, seed: int) -> tuple[np.ndarray, int]:
    """`(clip,)` the fold of each, groups kept whole and folds about equal in labelled frames."""
    sizes: dict[str, int] = {}
    for c in clips:
        sizes[c.group or c.id] = sizes.get(c.group or c.id, 0) + int((c.expression != UNLABELLED).sum())
    names = sorted(name for name, size in sizes.items() if size)
    if len(names) < 2:
        raise ValueError(
            f"cross-validation needs at least two subjects with expression labels, got {len(names)}; nothing was "
            "chosen: give more training clips, or leave predictions as they are"
        )
    count = min(folds, len(names))
    np.random.default_rng(seed).shuffle(names)
    filled, fold_of = np.zeros(count), dict.fromkeys(sizes, 0)
    for name in sorted(names, key=lambda n: -sizes[n]):
        fold_of[name] = int(filled.argmin())
        filled[fold_of[name]] += sizes[name]
    return np.array([fold_of[c.group or c.id] for c in clips]), count


def _log(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probabilities, LEAST))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class Comparison:
    """Scored clips: as predicted, corrected by what the training clips say, and by what they say themselves, which
    is the usual practice and optimistic. Each score name -> Interval, see `bootstrap.expression`. calibration_error,
    reliability: of the corrected predictions, calibration_error also of those as they were."""

    fitted: Fitted
    as_predicted: Mapping[str, bootstrap.Interval]
    honest: Mapping[str, bootstrap.Interval]
    optimistic: Mapping[str, bootstrap.Interval]
    tuned_on_scored: Calibration
    calibration_error: Mapping[str, Mapping[str, float]]
    reliability: pl.DataFrame


def compare(
    train: Sequence[ClipPrediction],
    scored: Sequence[ClipPrediction],
    *,
    classes: Sequence[str] = EXPRESSIONS,
    draws: int = bootstrap.DRAWS,
    seed: int = 0,
    **options: Any,
) -> Comparison:
    """Fits on `train`, scores on `scored`, and prints the usual practice beside it. options: as of `fit`.

    Raises ValueError if a clip is in both, or as `fit`.
    """
    if both := {c.id for c in train} & {c.id for c in scored}:
        raise ValueError(f"{len(both)} clips are in the training and in the scored set, such as {min(both)!r}")
    fitted = fit(train, classes=len(classes), seed=seed, **options)
    grid = {name: options[name] for name in ("radii_s", "strengths") if name in options}
    tuned = _tuned_on(scored, len(classes), **grid)

    def scores(calibration: Calibration | None) -> dict[str, bootstrap.Interval]:
        clips = [calibration(c) for c in scored] if calibration else scored
        return {
            **bootstrap.expression(clips, classes=classes, draws=draws, seed=seed),
            **bootstrap.affect(clips, draws=draws, seed=seed),
        }

    corrected = [fitted.calibration(c) for c in scored]
    sure = {"as predicted": calibration_error(scored), "corrected": calibration_error(corrected)}
    return Comparison(
        fitted, scores(None), scores(fitted.calibration), scores(tuned), tuned, sure, reliability(corrected)
    )


def _tuned_on(
    scored: Sequence[ClipPrediction],
    classes: int,
    radii_s: Sequence[float] = RADII_S,
    strengths: Sequence[float] = STRENGTHS,
) -> Calibration:
    """The usual practice: the candidate that does best on the very clips that are scored."""
    data, candidates = _Frames(scored, classes), _candidates(radii_s, strengths)
    grid = _grid(data, candidates, np.zeros(len(scored), int), 1, left_out=False)
    chosen = _settled(data, candidates, bootstrap.f1_of(grid[0, :, :, 0]).mean(-1))
    return replace(chosen, affect_radius_s=_affect_radius(_affect_table(scored, radii_s)))


#: Probabilities below this count as this: a single frame that was called impossible must not decide everything.
LEAST = 1e-6
BINS = 10


def negative_log_likelihood(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean of -log p(true class) over frames, in nats. probabilities `(frame, classes)`, truth `(frame,)`."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(truth)), truth], LEAST)).mean())


def reliability(clips: Sequence[ClipPrediction], bins: int = BINS) -> pl.DataFrame:
    """How often predictions of a given confidence are right: `confidence, accuracy, share` (of frames) in bins of
    equal width, empty ones left out. Frames without evidence claim nothing and are left out."""
    probabilities, truth = _labelled(clips)
    confidence, right = probabilities.max(axis=1, initial=0.0), probabilities.argmax(axis=1) == truth
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    n = np.bincount(place, minlength=bins)
    some = n > 0
    mean, accuracy = (np.bincount(place, weights=w, minlength=bins)[some] / n[some] for w in (confidence, right))
    return pl.DataFrame({"confidence": mean, "accuracy": accuracy, "share": n[some] / max(1, n.sum())})


def calibration_error(clips: Sequence[ClipPrediction], bins: int = BINS) -> dict[str, float]:
    """`nll`, negative log likelihood in nats, and `ece`, expected calibration error (Naeini et al. 2015): the mean
    distance between confidence and accuracy over the bins of `reliability`. NaN where nothing is labelled."""
    probabilities, truth = _labelled(clips)
    if not len(truth):
        return {"nll": float("nan"), "ece": float("nan")}
    table = reliability(clips, bins)
    gap = float(((table["confidence"] - table["accuracy"]).abs() * table["share"]).sum())
    return {"nll": negative_log_likelihood(probabilities, truth), "ece": gap}


def _labelled(clips: Sequence[ClipPrediction]) -> tuple[np.ndarray, np.ndarray]:
    kept = [(c.expression != UNLABELLED) & np.isfinite(c.probabilities).all(axis=1) for c in clips]
    if not any(k.any() for k in kept):
        return np.zeros((0, 1)), np.zeros(0, np.int64)
    probabilities = np.concatenate([c.probabilities[k] for c, k in zip(clips, kept, strict=True)])
    return probabilities, np.concatenate([c.expression[k] for c, k in zip(clips, kept, strict=True)])
