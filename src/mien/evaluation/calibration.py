"""Smoothing, class bias and temperature of a trained system's predictions, applied after the network.

`mien.evaluation.calibration_fit` chooses them on clips that the network was not trained on.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from mien import json_object, soft_vote
from mien.atomic import write_bytes
from mien.errors import ConfigError
from mien.evaluation.calibration_metrics import log_probabilities
from mien.evaluation.predictions import ClipPrediction

FILE_NAME = "calibration.json"
FORMAT = "mien-calibration-2"


@dataclass(frozen=True, slots=True)
class Smoothing:
    """Smoothing over time, see `mien.soft_vote.smooth`. seconds: width of the window in total; 0 for none."""

    kernel: soft_vote.Kernel = "mean"
    seconds: float = 0.0

    def __call__(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Smooth `(time, k)` values at `times` in seconds; NaN stays NaN."""
        return soft_vote.smooth(values, times, self.seconds, kernel=self.kernel)

    def __str__(self) -> str:
        return f"{soft_vote.KERNELS[self.kernel]} of {self.seconds:g} s" if self.seconds else "no smoothing"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Correction of predictions: smoothing of each output, class bias, temperature.

    Attributes:
        expression: smoothing of the probabilities of expressions.
        valence, arousal: smoothing of each.
        bias: `(classes,)` offsets of log probabilities, () for none.
        temperature: divides the biased log probabilities. It changes confidence, never the predicted class.
        strength: share of the log class frequencies that `bias` subtracts.
        fitted_on: the clips of the fit, in words.
        model: sha256 of the weights that predicted them.
    """

    expression: Smoothing = Smoothing()
    valence: Smoothing = Smoothing()
    arousal: Smoothing = Smoothing()
    bias: tuple[float, ...] = ()
    temperature: float = 1.0
    strength: float = 0.0
    fitted_on: str = ""
    model: str = ""

    def __call__(self, prediction: ClipPrediction) -> ClipPrediction:
        """Correct a prediction that was not smoothed. Frames without evidence stay NaN and affect no other frame."""
        smoothed = self.expression(prediction.probabilities, prediction.times)
        affect = [
            smoothing(prediction.valence_arousal[:, [i]], prediction.times)
            for i, smoothing in enumerate((self.valence, self.arousal))
        ]
        logits = (log_probabilities(smoothed) + (np.array(self.bias) if self.bias else 0.0)) / self.temperature
        return replace(prediction, probabilities=softmax(logits), valence_arousal=np.concatenate(affect, axis=1))

    def save(self, path: Path) -> None:
        """Write the calibration as JSON, atomically. Raises OSError."""
        write_bytes(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of calibration.json."""
        return (json.dumps({"format": FORMAT} | asdict(self), indent=2) + "\n").encode()

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file of `save`.

        Raises ConfigError for any other file, and for one of the first format, which was fitted on training clips.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise _no_calibration(path, error) from None
        return cls.parse(data, path)

    @classmethod
    def parse(cls, data: bytes, path: Path) -> Calibration:
        """The calibration in the content of a file of `save`. path: for errors, which are those of `load`."""
        remedy = "Write one with `mien evaluate CHECKPOINT`."
        try:
            raw = json_object.parse(data)
            if "format" not in raw and "radius_s" in raw:
                raise ConfigError(
                    f"{path} was fitted on training clips, by an earlier version",
                    follows="It was not applied: a network is more certain of clips that it was trained on.",
                    remedy=remedy,
                )
            if raw.pop("format") != FORMAT:
                raise ValueError("another format")
            smoothings = {name: Smoothing(**raw.pop(name)) for name in ("expression", "valence", "arousal")}
            calibration = cls(**{**raw, **smoothings, "bias": tuple(map(float, raw["bias"]))})
            calibration._check()
            return calibration
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _no_calibration(path, error) from None

    def _check(self) -> None:
        """Raise ValueError for values that no fit gives."""
        for smoothing in (self.expression, self.valence, self.arousal):
            if smoothing.kernel not in soft_vote.KERNELS or not 0 <= smoothing.seconds < 1e6:
                raise ValueError(f"{smoothing.kernel!r} of {smoothing.seconds!r} s is no smoothing")
        if not (0 < self.temperature < 1e6 and np.isfinite(self.bias).all() and np.isfinite(self.strength)):
            raise ValueError("temperature, bias or strength is not a finite number, or the temperature not positive")


def _no_calibration(path: Path, error: Exception) -> ConfigError:
    return ConfigError(
        f"{path} is not a calibration ({type(error).__name__}: {error})",
        follows="No calibration was applied.",
        remedy="Write one with `mien evaluate CHECKPOINT`.",
    )


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities `(frame, classes)` of logits."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
