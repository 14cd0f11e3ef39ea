"""Cross-modal filter: use the voice only while the subject's mouth is open (arXiv 2603.13056 and its authors' code).

It selects training windows of the voice (`data/mouth_windows.py`) and masks the voice in fusions, in training and
prediction alike (`mask_streams`). The functions take the openness of the mouth as a time series in seconds.

The duration thresholds are published. The openness above which a mouth counts as open is not (the public code reads
files of flags): that is a setting of the recipe, `mouth_filter.opening`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mien.clock import median_step
from mien.records import Stream

#: Openings of at most this length are not speech; closures of at most this length do not end speech (seconds,
#: published).
MAX_NOISE_S, MAX_GAP_S = 0.20, 0.15
#: A training window needs at least this share of time with the mouth open, and with the mouth visible.
MIN_OPEN_SHARE, MIN_VISIBLE_SHARE = 0.25, 0.80
#: Fusion needs at least this time with the mouth open in a window, in seconds.
MIN_OPEN_S = 1.0


def detect_talking(opening: np.ndarray, times: np.ndarray, threshold: float) -> np.ndarray:
    """Detect when the mouth is open as in speech.

    Gaps of at most `MAX_GAP_S` are filled first, then runs of at most `MAX_NOISE_S` are dropped. A run lasts from its
    first sample to the sample after its last. An invisible mouth is not open, and no gap is filled across one.

    Args:
        opening: `(time,)` openness of the mouth in any unit, NaN where it is not visible.
        times: `(time,)` seconds, increasing.
        threshold: openness above which the mouth is open.

    Returns:
        `(time,)` bool.
    """
    is_open: np.ndarray = np.nan_to_num(opening, nan=-np.inf) > threshold
    visible = np.isfinite(opening)
    edges = np.append(times, times[-1] + median_step(times)) if len(times) else times
    for start, stop in _runs(~is_open):
        inside = start > 0 and stop < len(times)
        if inside and visible[start:stop].all() and edges[stop] - edges[start] <= MAX_GAP_S + 1e-9:
            is_open[start:stop] = True
    for start, stop in _runs(is_open):
        if edges[stop] - edges[start] <= MAX_NOISE_S + 1e-9:
            is_open[start:stop] = False
    return is_open


def window_durations(
    is_open: np.ndarray, visible: np.ndarray, times: np.ndarray, start_s: float, stop_s: float
) -> tuple[float, float]:
    """Seconds with the mouth open, and seconds with it visible, in [start_s, stop_s).

    Each sample lasts until the next one.

    is_open, visible: `(time,)` bool. times: `(time,)` seconds, increasing.
    """
    edges = np.array([start_s, stop_s])
    return float(cell_durations(is_open, times, edges)[0]), float(cell_durations(visible, times, edges)[0])


def cell_durations(mask: np.ndarray, times: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Seconds for which `mask` is true between successive edges. Each sample lasts until the next one.

    mask: `(time,)` bool. times: `(time,)` seconds, increasing. edges: `(cell + 1,)` seconds, increasing.

    Returns `(cell,)` float64.
    """
    if not len(times):
        return np.zeros(len(edges) - 1)
    sample_edges = np.append(times, times[-1] + median_step(times))
    total = np.concatenate(([0.0], np.cumsum(mask * np.diff(sample_edges))))
    durations: np.ndarray = np.diff(np.interp(edges, sample_edges, total))
    return durations


def is_trainable(open_s: np.ndarray | float, visible_s: np.ndarray | float, window_s: np.ndarray | float) -> np.ndarray:
    """Whether windows of the voice qualify for training: open for a quarter of it, visible for four fifths."""
    is_open = np.asarray(open_s) >= MIN_OPEN_SHARE * np.asarray(window_s) - 1e-9
    qualifies: np.ndarray = is_open & (np.asarray(visible_s) >= MIN_VISIBLE_SHARE * np.asarray(window_s) - 1e-9)
    return qualifies


@dataclass(frozen=True, slots=True)
class VoiceMask:
    """The filter in prediction.

    voice: stream to mask. mouth: stream with the opening of the mouth, one value, which the network does not read.
    opening: the mouth is open above this. keep_unseen: whether the voice counts where the mouth is hidden.
    """

    voice: str
    mouth: str
    opening: float
    keep_unseen: bool = False


def mask_streams(streams: Mapping[str, Stream], mask: VoiceMask | None) -> dict[str, Stream]:
    """The streams that the network reads: without the opening of the mouth, and with the voice masked by it.

    A recording without the stream of the mouth (sound alone) keeps its voice.
    """
    if mask is None:
        return dict(streams)
    kept = {name: stream for name, stream in streams.items() if name != mask.mouth}
    if mask.mouth in streams and mask.voice in kept:
        opening, times = opening_of(streams[mask.mouth])
        kept[mask.voice] = mask_voice(kept[mask.voice], opening, times, mask.opening, keep_unseen=mask.keep_unseen)
    return kept


def opening_of(mouth: Stream) -> tuple[np.ndarray, np.ndarray]:
    """Openness of the mouth `(time,)`, NaN where it is not visible, and times `(time,)` of a stream of one value.

    Raises ValueError for a stream of more values.
    """
    if mouth.dim != 1:
        raise ValueError(
            f"the stream of the mouth has {mouth.dim} values a sample; the filter needs one, its opening: use the "
            "encoder mouth-opening"
        )
    values = np.asarray(mouth.values, float)[:, 0]
    return np.where(np.asarray(mouth.valid), values, np.nan), np.asarray(mouth.times, float)


def mask_voice(
    voice: Stream,
    opening: np.ndarray,
    times: np.ndarray,
    threshold: float,
    window_s: float = 4.0,
    *,
    keep_unseen: bool = False,
) -> Stream:
    """Mask the voice for fusion: valid only inside windows in which the subject speaks visibly.

    Windows of `window_s` seconds overlap by half; the last one ends with the recording. One qualifies if the mouth is
    open for `MIN_OPEN_S` and visible for four fifths of it. `opening`, `times` and `threshold` are those of
    `detect_talking`. keep_unseen: windows in which the mouth is visible for less qualify too.
    """
    talking, visible = detect_talking(opening, times, threshold), np.isfinite(opening)
    qualified = np.zeros(len(voice.times), bool)
    stop = max((float(t[-1]) + median_step(t) / 2 for t in (times, voice.times) if len(t)), default=0.0)
    for start in np.arange(0.0, max(stop, 1e-9), window_s / 2):
        length = min(window_s, stop - start)
        open_s, visible_s = window_durations(talking, visible, times, start, start + length)
        is_visible = visible_s >= MIN_VISIBLE_SHARE * length - 1e-9
        if (is_visible and open_s >= MIN_OPEN_S - 1e-9) or (keep_unseen and not is_visible):
            qualified |= (voice.times >= start) & (voice.times < start + length + 1e-9)
    return replace(voice, valid=np.asarray(voice.valid) & qualified)


def _runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Runs of true values as [start, stop) pairs."""
    change = np.flatnonzero(np.diff(np.concatenate(([False], mask, [False])).astype(np.int8)))
    return list(zip(change[::2].tolist(), change[1::2].tolist(), strict=True))
