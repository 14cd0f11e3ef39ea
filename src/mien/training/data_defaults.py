"""Values of the recipe `custom_data` that are chosen by the recordings: windows, regularisation, batch and epochs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import numpy as np

from mien import config, models
from mien.config import Recipe
from mien.records import Recording, Stream

log = logging.getLogger("mien")
#: Rate in Hz of labels and of single vectors repeated over a clip. Our choice.
HZ = 10.0
#: Name of the shipped recipe, some values of which are chosen by the recordings (`defaults`).
RECIPE = "custom_data"


def stream_seconds(stream: Stream, rate_hz: float = HZ) -> float:
    """Length of a stream whose samples lie in the middle of intervals of `1 / rate_hz` seconds; 0 without samples."""
    return float(stream.times[-1]) + 0.5 / rate_hz if len(stream.times) else 0.0


def suited(recipe: Recipe, name: str, recordings: Sequence[Recording], overrides: Sequence[str]) -> Recipe:
    """The recipe with `defaults` of the recordings, logged, if `name` is that of the shipped recipe.

    Args:
        recipe: the recipe `name`, loaded with `overrides`.
    """
    if name != RECIPE or not (chosen := defaults(recordings, overrides)):
        return recipe
    log.info("chosen by the clips, where no key=value sets it: %s", " ".join(chosen))
    raw = config.load(RECIPE, [*chosen, *overrides], check=models.problems).model_dump()
    return config.changed(
        recipe, **{section: raw[section] for section in ("windows", "model", "objective", "train", "vote")}
    )


def defaults(recordings: Sequence[Recording], overrides: Sequence[str] = ()) -> list[str]:
    """Values of the recipe `custom_data` that suit the recordings, as `key=value`.

    * Constant clips (single vectors, one label): a window is one token as long as the longest clip, because the ten
      tokens a second of the recipe would be copies of it. Classes are not balanced, inputs get no noise, training does
      not stop early, and the loss of each modality alone has full weight: the recipe's values cost .01 to .03 macro
      F1 there (docs/CUSTOM_DATA.md, "Compared with a logistic regression").
    * Batch and epochs: 32 windows a batch, and more for more than a thousand windows, up to 128. 30 epochs, fewer where
      the run would exceed 1,000 steps, at least 12. Our choice: a step with 128 short windows takes hardly longer than
      one with 32.

    Args:
        overrides: changes of the recipe. Keys that they set are left out, and all windows if they set any.
    """
    settings = config.load(RECIPE, overrides, check=models.problems)
    given = {override.partition("=")[0].strip() for override in overrides}
    chosen: dict[str, float | str] = {}
    seconds, hop = settings.windows.seconds, settings.windows.hop_seconds
    if all(_is_constant(r) for r in recordings):
        if not any(key.startswith("windows") for key in given):
            seconds = hop = math.ceil(1000 * max((_seconds(r) for r in recordings), default=0.0)) / 1000 or 1.0
            chosen |= {"windows.seconds": seconds, "windows.hop_seconds": seconds, "windows.rate_hz": 1 / seconds}
            chosen |= {"windows.jitter": "false", "vote.hop_seconds": seconds}
        chosen |= {"train.balance": 0.0, "train.patience": 0}
        if settings.model.name == "safe_cross_attention":
            chosen |= {"objective.class_weights": "none", "objective.unimodal": 1.0}
            chosen |= {"model.modality_dropout.noise": "{}"}
    trained = [r for r in recordings if r.clip.labels is not None and r.clip.split in ("", "train")]
    count = sum(1 + max(0, math.ceil((_seconds(r) - seconds) / hop)) for r in trained)
    batch = min(128, max(settings.train.batch, count // 32))
    steps = -(-count // (settings.train.batch if "train.batch" in given else batch)) or 1
    chosen |= {"train.batch": batch, "train.epochs": min(settings.train.epochs, max(12, 1000 // steps))}
    return [
        f"{key}={value}" for key, value in chosen.items() if not any(key == g or key.startswith(f"{g}.") for g in given)
    ]


def _seconds(recording: Recording) -> float:
    return max((stream_seconds(s) for s in recording.streams.values()), default=0.0)


def _is_constant(recording: Recording) -> bool:
    """Whether neither the valid features nor the labels change within the clip."""
    parts = [np.asarray(s.values)[np.asarray(s.valid, bool)] for s in recording.streams.values()]
    if (labels := recording.clip.labels) is not None:
        parts += [labels.expression, np.nan_to_num(labels.valence_arousal, nan=2.0)]
    return all(bool((part == part[:1]).all()) for part in parts)
