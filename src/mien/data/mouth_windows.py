"""Training windows in which the subject speaks: the cross-modal filter of the voice stream (arXiv 2603.13056)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mien.data.token_table import make_tokens
from mien.data.windows import WindowDataset
from mien.mouth_filter import cell_durations, detect_talking, is_trainable, opening_of
from mien.records import Recording


def speaking_windows(
    dataset: WindowDataset, recordings: Sequence[Recording], rate_hz: float, *, mouth: str, opening: float
) -> Tensor:
    """Whether the mouth is open and visible long enough in each window (`mien.mouth_filter.is_trainable`).

    Args:
        dataset: windows over `recordings`, in the same order. rate_hz: of its tokens.
        mouth: stream with the opening of the mouth. A recording without it is not filtered.
        opening: the mouth is open above this.

    Returns:
        `(window,)` bool.
    """
    parts = [_token_durations(recording, rate_hz, mouth, opening) for recording in recordings]
    sums = np.concatenate(([[0.0, 0.0]], np.cumsum(np.concatenate(parts), axis=0)))
    starts, stops = dataset.starts.numpy(), (dataset.starts + dataset.lengths).numpy()
    open_s, visible_s = (sums[stops] - sums[starts]).T
    return torch.from_numpy(is_trainable(open_s, visible_s, (stops - starts) / rate_hz))


def _token_durations(recording: Recording, rate_hz: float, mouth: str, opening: float) -> np.ndarray:
    """Seconds with the mouth open and with it visible in each token of a recording, `(token, 2)`."""
    times = make_tokens(recording, rate_hz, modalities=()).times
    if mouth not in recording.streams:
        return np.full((len(times), 2), 1 / rate_hz)
    values, sample_times = opening_of(recording.streams[mouth])
    edges = np.append(times - 0.5 / rate_hz, times[-1] + 0.5 / rate_hz)
    talking, visible = detect_talking(values, sample_times, opening), np.isfinite(values)
    return np.stack([cell_durations(mask, sample_times, edges) for mask in (talking, visible)], axis=1)
