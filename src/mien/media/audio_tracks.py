"""Which sound of a file is used: the track with speech, and where its signal begins.

Encoders put a delay before the signal. Most containers state it and FFmpeg removes it; `untold_delay` is that of the
others.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from mien.errors import MediaError
from mien.media.container import decode_frames, open_container, select_audio
from mien.printable import printable

#: Seconds at the start of each track in which speech is looked for, and those more of it than the default track has
#: from which another one is used. Our choice: below, both tracks may be the same conversation.
PROBE_S, CLEARLY_MORE_S = 60.0, 1.0
_RATE = 16_000
#: Samples of delay by codec: that of FFmpeg's encoders and of LAME with the delay of MP3 decoders, the smallest in use.
_DELAYS = {"aac": 1024, "mp3": 1105, "mp3float": 1105, "mp2": 481, "mp2float": 481, "opus": 312, "ac3": 256}
#: Containers that state no delay. Only those of the second set have time stamps, which include it.
WITHOUT_TIMES = frozenset({"avi", "aac", "mp3", "ac3"})
_WITHOUT_DELAY = WITHOUT_TIMES | {"mpegts", "mpeg", "flv"}


def choose_track(path: Path, container: InputContainer, number: int | None) -> tuple[AudioStream | None, str]:
    """The sound track to use, None without any, and a note on the choice, empty where there is none.

    That is the default track, unless another one has more speech in its first minute.

    Args:
        container: the open file. number: the user's choice, from 1; None: none.

    Raises:
        MediaError: there is no such track.
    """
    tracks, default = container.streams.audio, select_audio(container)
    if number is not None:
        if not 1 <= number <= len(tracks):
            has = "1 sound track" if len(tracks) == 1 else f"{len(tracks)} sound tracks"
            raise MediaError(
                f"{printable(path)} has {has}, and no track {number}.",
                follows="Nothing was read from it.",
                remedy="Omit --audio-track." if len(tracks) == 1 else f"Use --audio-track 1 to {len(tracks)}.",
            )
        return tracks[number - 1], ""
    if default is None or len(tracks) == 1:
        return default, ""
    status = path.stat()
    heard_s = _speech_seconds(str(path), status.st_size, status.st_mtime_ns)
    at = next(i for i, track in enumerate(tracks) if track.index == default.index)
    best = int(np.argmax(heard_s))
    if heard_s[best] < heard_s[at] + CLEARLY_MORE_S:
        return default, f"it has {len(tracks)} sound tracks; track {at + 1} is used (--audio-track N uses another)"
    return tracks[best], (
        f"it has {len(tracks)} sound tracks; track {best + 1} is used, because it has {heard_s[best]:.1f} s of speech "
        f"in its first {PROBE_S:.0f} s and track {at + 1} has {heard_s[at]:.1f} s (--audio-track N uses another)"
    )


@lru_cache(maxsize=8)
def _speech_seconds(path: str, _size: int, _modified: int) -> tuple[float, ...]:
    """Seconds of speech at the start of each sound track; 0 for one that does not decode."""
    with open_container(Path(path)) as container:
        count = len(container.streams.audio)
    return tuple(_speech_in_track(Path(path), number) for number in range(count))


def _speech_in_track(path: Path, number: int) -> float:
    # Imported here: files with one sound track, and pictures, need no network.
    from mien.media.voice_activity import STEP_S, is_speech, speech_probability

    blocks: list[np.ndarray] = []
    with open_container(path) as container:
        stream = container.streams.audio[number]
        if stream.codec_context is None:
            return 0.0
        resampler, count = av.AudioResampler(format="fltp", rate=_RATE), 0
        for frame in decode_frames(container, stream, lambda fault: None):
            frame.pts = None
            for part in resampler.resample(frame):
                samples = part.to_ndarray()
                blocks.append(samples[np.argmax((samples**2).mean(axis=1))])
                count += samples.shape[1]
            if count >= PROBE_S * _RATE:
                break
    if not blocks:
        return 0.0
    probability = np.concatenate([p for _, p in speech_probability([(0.0, np.concatenate(blocks))])])
    return float(is_speech(probability).sum() * STEP_S)


def untold_delay(container: str, stream: AudioStream, packet: Packet[Any] | None) -> int:
    """Samples before the signal that neither container nor FFmpeg removes. packet: the stream's first one."""
    if container not in _WITHOUT_DELAY or packet is None or packet.has_sidedata("skip_samples"):
        return 0
    codec = stream.codec_context.name
    if codec in ("mp3", "mp3float") and _is_layer_two(bytes(packet)[:2]):
        codec = "mp2"
    return _DELAYS.get(codec, 0)


def _is_layer_two(head: bytes) -> bool:
    """Whether an MPEG audio header is that of layer II, which FFmpeg may open with the decoder of layer III."""
    return len(head) == 2 and head[0] == 0xFF and head[1] >> 1 & 3 == 2
