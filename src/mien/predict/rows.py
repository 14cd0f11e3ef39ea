"""Timeline rows from streams: run the network for each subject and record the evidence behind each row."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from mien import clock
from mien.encode.encode_media import EncodedMedia
from mien.errors import MediaError
from mien.inference import StreamModel, trained_outputs
from mien.predict.active_speaker import OTHER, attribute_speech
from mien.predict.presence import is_near, rows_from_tokens, supported_tokens
from mien.records import Stream
from mien.timeline.table import subject_rows

#: Rows per second of a recording without pictures.
SOUND_ROWS_HZ = 10


def timeline_rows(checkpoint: StreamModel, media: EncodedMedia) -> pl.DataFrame:
    """Table of a Timeline: the network's output for each subject, interpolated at the times of the rows.

    Rows of a subject without face and speech for longer than `presence.ABSENT_AFTER_S` have no estimate.

    Args:
        media: the recording, encoded by the encoders that the checkpoint reads. Without pictures there are 10 rows
            per second.

    The classes are those of the checkpoint, in its order.

    Raises:
        MediaError: there are neither pictures nor sound that the checkpoint uses.
    """
    faces, speech = media.faces, media.speech
    has_pictures = len(faces.times) > 0
    if speech is None and not has_pictures:
        raise MediaError(
            "the recording has no pictures, and the checkpoint uses the face only",
            follows="Nothing was predicted.",
            remedy="Use --model starter, which uses the voice as well.",
        )
    stop = _stop(faces.times, speech)
    times = faces.times if has_pictures else np.arange(max(1, int(np.ceil(stop * SOUND_ROWS_HZ)))) / SOUND_ROWS_HZ
    is_speech = speech_at(speech, times)
    openings = [faces.mouth_opening(n) for n in range(len(faces.subjects))] or [np.full(len(times), np.nan)]
    attributed = attribute_speech(openings, times, is_speech)
    tables, rate_hz = [], checkpoint.settings.rate_hz
    for number in range(max(1, len(faces.subjects))):
        track = faces.track(number) if faces.subjects else None
        streams = media.streams(number if track is not None else None)
        for modality in media.audio:
            streams[modality] = _mask_other_speech(streams[modality], times, attributed[number])
        token_times, probabilities, valence_arousal = trained_outputs(checkpoint, streams, 0.0, stop)
        face = track.valid if track is not None else np.zeros(len(times), bool)
        voice = is_speech & (attributed[number] != OTHER)
        evidence = face | voice
        if track is None:  # whole frames, as some systems read them, count where nobody is tracked
            evidence = evidence | _is_valid_at(faces.shared.values(), times)
        supported, seen = supported_tokens(streams.values(), token_times, rate_hz), is_near(evidence, times)
        tables.append(
            subject_rows(
                number,
                times,
                classes=checkpoint.labels,
                probabilities=rows_from_tokens(probabilities, token_times, supported, times, seen),
                valence_arousal=rows_from_tokens(valence_arousal, token_times, supported, times, seen),
                voice=voice,
                speech=attributed[number],
                face=face,
                boxes=track.boxes if track is not None else None,
                frames=np.arange(len(times)) if has_pictures else None,
            )
        )
    return pl.concat(tables)


def _is_valid_at(streams: Iterable[Stream], times: np.ndarray) -> np.ndarray:
    """`(time,)` bool: whether any of the streams is valid at the time, within one of its steps."""
    valid = np.zeros(len(times), bool)
    for stream in streams:
        valid |= speech_at(stream, times)
    return valid


def _stop(times: np.ndarray, speech: Stream | None) -> float:
    """End of the rows in seconds: that of the last frame, shown as long as the one before it; else of the sound."""
    if len(times):
        return float(times[-1] + clock.median_step(times))
    if speech is None or not len(speech.times):
        return 0.0
    return float(speech.times[-1] + clock.median_step(speech.times) / 2)


def speech_at(voice: Stream | None, times: np.ndarray) -> np.ndarray:
    """`(time,)` whether the voice sample nearest to each time is speech; False where it is over one sample away."""
    if voice is None or not len(voice.times):
        return np.zeros(len(times), bool)
    nearest = clock.nearest(voice.times, times)
    is_near = np.abs(voice.times[nearest] - times) <= clock.median_step(voice.times, 0.1)
    return np.asarray(voice.valid[nearest] & is_near)


def _mask_other_speech(voice: Stream, times: np.ndarray, speech: np.ndarray) -> Stream:
    """The voice stream with the speech of other subjects marked invalid. speech: `(time,)`, at `times`."""
    if not len(voice.times) or not len(times) or not (speech == OTHER).any():
        return voice
    is_own = speech[clock.nearest(times, voice.times)] != OTHER
    return Stream(voice.values, voice.times, voice.valid & is_own, voice.provenance)
