"""Timeline rows from streams: run the network for each subject and record the evidence behind each row."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import polars as pl

from mien import clock
from mien.encode.encode_media import EncodedMedia
from mien.encode.face_quality import UNCERTAIN_BELOW
from mien.encode.subject_features import VideoFaces
from mien.errors import MediaError
from mien.inference import StreamModel, scores_of, trained_outputs
from mien.memory import release_after_rows
from mien.predict.active_speaker import OTHER, SHARED, attribute_speech
from mien.predict.presence import is_near, rows_from_tokens, supported_tokens
from mien.records import Stream
from mien.timeline.subject_rows import subject_rows

#: Rows per second of a recording without pictures.
SOUND_ROWS_HZ = 10
#: Speech this many seconds before or after the pictures gets rows of its own. Our choice: nearer, a frame is a row.
BEYOND_S = 0.5


def timeline_rows(checkpoint: StreamModel, media: EncodedMedia, *, min_quality: float = 0.0) -> pl.DataFrame:
    """Table of a Timeline: the network's output for each subject, interpolated at the times of the rows.

    Rows of a subject without face and speech for longer than `presence.ABSENT_AFTER_S` have no estimate.

    Args:
        media: the recording, encoded by the encoders that the checkpoint reads. Without pictures there are 10 rows
            per second, and so there are where the sound goes on beyond them (`row_times`). Speech out there is that of
            the only person of the recording; with several, it is nobody's.
        min_quality: faces of a lower quality (`mien.encode.face_quality`) are not read, as if they were not visible.

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
    times, frames = row_times(faces.times, speech, media.sound_stop_s)
    stop = _stop(faces.times, times, media.sound_stop_s)
    is_speech = speech_at(speech, times)
    openings = [at_rows(faces.mouth_opening(n), frames, np.nan) for n in range(len(faces.subjects))]
    level = sound_level_at(media.level, times)
    attributed = attribute_speech(
        openings or [np.full(len(times), np.nan)], times, is_speech, level, seen_before=faces.seen_before
    )
    if has_pictures:
        attributed[:, is_speech & (frames < 0)] = OTHER if len(faces.subjects) > 1 else SHARED
    tables, rate_hz = [], checkpoint.settings.rate_hz
    release_after_rows(len(times))
    for number in range(max(1, len(faces.subjects))):
        track = faces.track(number) if faces.subjects else None
        streams = media.streams(number if track is not None else None)
        quality = _quality_columns(faces, number if track is not None else None, frames)
        readable = ~(quality["quality"] < min_quality)
        for modality in faces.names if track is not None else ():
            streams[modality] = _mask_unreadable(streams[modality], times, readable)
        for modality in media.audio:
            streams[modality] = _mask_other_speech(streams[modality], times, attributed[number])
        prediction = trained_outputs(checkpoint, streams, 0.0, stop)
        release_after_rows(len(times))
        token_times, probabilities, valence_arousal = prediction
        face = at_rows(track.valid, frames, False) if track is not None else np.zeros(len(times), bool)
        voice = is_speech & (attributed[number] != OTHER)
        evidence = (face & readable) | voice
        if track is None:  # whole frames, as some systems read them, count where nobody is tracked
            evidence = evidence | _is_valid_at(faces.shared.values(), times)
        supported, seen = supported_tokens(streams.values(), token_times, rate_hz), is_near(evidence, times)
        uncertain = is_uncertain(quality["quality"], face & readable, voice, times)
        tables.append(
            subject_rows(
                number,
                times,
                classes=checkpoint.labels,
                probabilities=rows_from_tokens(probabilities, token_times, supported, times, seen),
                valence_arousal=rows_from_tokens(valence_arousal, token_times, supported, times, seen),
                scores={
                    task: rows_from_tokens(values, token_times, supported, times, seen)
                    for task, values in scores_of(prediction).items()
                },
                voice=voice,
                speech=attributed[number],
                face=face,
                boxes=at_rows(track.boxes, frames, np.nan) if track is not None else None,
                frames=frames,
                quality=quality | {"speech_db": level_at(media.level, times, is_speech), "uncertain": uncertain},
            )
        )
        release_after_rows(len(times))
    return pl.concat(tables)


def row_times(frame_times: np.ndarray, speech: Stream | None, sound_stop_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Times of the rows, `(row,)` seconds, and the frame of each, `(row,)` int, -1 where there is no picture.

    There is one row for each frame. Without pictures there are `SOUND_ROWS_HZ` rows per second, and so there are before
    and after the pictures, where somebody speaks more than `BEYOND_S` away from them.

    Args:
        frame_times: `(frame,)` seconds. speech: valid where somebody speaks. sound_stop_s: end of the sound in seconds.
    """
    if not len(frame_times):
        count = max(1, int(np.ceil(round(sound_stop_s * SOUND_ROWS_HZ, 6))))
        return np.arange(count) / SOUND_ROWS_HZ, np.full(count, -1)
    first, last = float(frame_times[0]), float(frame_times[-1] + clock.median_step(frame_times))
    before = after = np.zeros(0)
    if speech is not None:
        spoken = speech.times[speech.valid]
        if (spoken < first - BEYOND_S).any():
            before = np.arange(int(np.ceil(round(first * SOUND_ROWS_HZ, 6)))) / SOUND_ROWS_HZ
        if (spoken > last + BEYOND_S).any():
            after = last + np.arange(int(np.ceil(round((sound_stop_s - last) * SOUND_ROWS_HZ, 6)))) / SOUND_ROWS_HZ
    frames = [np.full(len(before), -1), np.arange(len(frame_times)), np.full(len(after), -1)]
    return np.concatenate([before, frame_times, after]), np.concatenate(frames)


def at_rows(values: np.ndarray, frames: np.ndarray, missing: float | bool) -> np.ndarray:
    """Values of frames `(frame, ...)` at the rows, `missing` where a row has no frame."""
    if (frames >= 0).all():
        return values
    rows = np.full((len(frames), *values.shape[1:]), missing, values.dtype)
    rows[frames >= 0] = values
    return rows


def _stop(frame_times: np.ndarray, times: np.ndarray, sound_stop_s: float) -> float:
    """End of the rows in seconds: that of the last frame, shown as long as the one before it; that of the sound where
    the last row has no frame."""
    if len(frame_times) and times[-1] == frame_times[-1]:
        return float(frame_times[-1] + clock.median_step(frame_times))
    return sound_stop_s


#: Columns of a Timeline that tell how well a face was read.
FACE_COLUMNS = ("face_score", "yaw", "pitch", "roll", "visible", "sharpness", "quality")


def _quality_columns(faces: VideoFaces, number: int | None, frames: np.ndarray) -> dict[str, np.ndarray]:
    """The columns FACE_COLUMNS of a subject, NaN without a face. number: index of the subject, None for nobody. frames:
    of the rows, see `row_times`."""
    if number is None:
        return {name: np.full(len(frames), np.nan) for name in FACE_COLUMNS}
    measures = faces.quality(number)
    return {name: at_rows(measures[name], frames, np.nan) for name in FACE_COLUMNS}


def is_uncertain(quality: np.ndarray, face: np.ndarray, voice: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`(row,)` bool: the estimate rests on a face that can hardly be read. A row of the voice alone does not; a row in
    a gap of the evidence is as uncertain as the nearest row with a face or speech.

    Args:
        quality: `(row,)`, NaN where unknown. face, voice: `(row,)` bool, the evidence. times: `(row,)` seconds.
    """
    uncertain = face & (quality < UNCERTAIN_BELOW)
    evidence = np.flatnonzero(face | voice)
    if not len(evidence):
        return uncertain
    nearest: np.ndarray = uncertain[evidence[clock.nearest(times[evidence], times)]]
    return nearest


def sound_level_at(level: Stream | None, times: np.ndarray) -> np.ndarray | None:
    """`(row,)` level of the sound in dB, interpolated between its values; None without sound."""
    if level is None or not len(level.times):
        return None
    levels: np.ndarray = np.interp(times, level.times, level.values[:, 0])
    return levels


def level_at(level: Stream | None, times: np.ndarray, is_speech: np.ndarray) -> np.ndarray:
    """`(row,)` level of the sound in dB at the rows with speech, NaN elsewhere."""
    if level is None or not len(level.times):
        return np.full(len(times), np.nan)
    return np.where(is_speech, level.values[clock.nearest(level.times, times), 0], np.nan)


def _mask_unreadable(face: Stream, times: np.ndarray, readable: np.ndarray) -> Stream:
    """The face stream with the frames that cannot be read marked invalid. readable: `(time,)`, at `times`."""
    if readable.all() or not len(face.times):
        return face
    is_readable = readable[clock.nearest(times, face.times)]
    return Stream(face.values, face.times, face.valid & is_readable, face.provenance)


def _is_valid_at(streams: Iterable[Stream], times: np.ndarray) -> np.ndarray:
    """`(time,)` bool: whether any of the streams is valid at the time, within one of its steps."""
    valid = np.zeros(len(times), bool)
    for stream in streams:
        valid |= speech_at(stream, times)
    return valid


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
