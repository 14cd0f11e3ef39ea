"""One decoding pass feeds every encoder, and gives what extraction stores, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mien.checkpoint_encoder import create_encoder
from mien.datasets.index import build_index
from mien.encode.encode_media import EncodedMedia, encode_media
from mien.encoders.protocol import Encoder
from mien.errors import MediaError
from mien.extract import extract
from mien.faces.tracker import FaceTracker
from mien.media.audio import blocks
from mien.media.video import frames
from mien.records import Frame
from mien.synthetic.demo_clip import render_demo_clip
from tests.extract.media_files import COLOUR, LOUD, LOUDER, SCENE, SHAPE, read_stream

SPECS = {
    "face": COLOUR, "mesh": SHAPE, "geometry": "face-geometry", "voice": LOUD, "second voice": LOUDER,
    "prosody": "voice-prosody", "behaviour": SCENE,
}  # fmt: skip


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of one simulated person, with sound."""
    folder = tmp_path_factory.mktemp("clip")
    render_demo_clip(folder / "clip.mp4", seconds=2.0)
    return folder / "clip.mp4"


def encode(clip: Path, names: list[str], opened: list[str] | None = None) -> EncodedMedia:
    encoders: dict[str, Encoder] = {name: create_encoder(SPECS[name]) for name in names}

    def open_frames() -> Iterator[Frame]:
        if opened is not None:
            opened.append("frames")
        return frames(clip)

    def open_audio() -> Iterator[tuple[float, np.ndarray]]:
        if opened is not None:
            opened.append("audio")
        return blocks(clip)

    return encode_media(encoders, frames=open_frames, audio=open_audio)


def test_every_stream_equals_the_extracted_one(clip: Path, tmp_path: Path) -> None:
    opened: list[str] = []
    media = encode(clip, list(SPECS), opened)
    assert sorted(opened) == ["audio", "frames"], "each is decoded once, whatever the number of encoders"
    streams = media.streams(media.faces.most_visible())
    assert streams.keys() == SPECS.keys()
    extract(build_index("folder", clip.parent), list(SPECS.values()), tmp_path / "s", workers=0, dtype="float32")
    for name, spec in SPECS.items():
        values, times, valid = read_stream(tmp_path / "s", create_encoder(spec).name, "clip")
        stream = streams[name]
        assert len(times), name
        np.testing.assert_array_equal(stream.times, times, err_msg=name)
        np.testing.assert_array_equal(stream.valid, valid, err_msg=name)
        np.testing.assert_array_equal(stream.values[valid], values[valid], err_msg=name)


def test_speech_is_detected_whatever_the_voice_encoder(shared: Path) -> None:
    spoken = shared / "emodb" / "03a01Fa.wav"
    shares = []
    for name in ("prosody", "voice"):
        encoders: dict[str, Encoder] = {name: create_encoder(SPECS[name])}
        speech = encode_media(encoders, frames=None, audio=lambda: blocks(spoken)).speech
        assert speech is not None
        shares.append(speech.valid.mean())
    assert shares[0] == pytest.approx(shares[1], abs=0.1)
    assert shares[0] > 0.5


def test_without_face_encoders_no_face_is_looked_for(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaceTracker, "__init__", None)
    media = encode(clip, ["behaviour", "voice"])
    assert not media.faces.subjects
    assert media.faces.most_visible() is None
    assert media.streams(None).keys() == {"behaviour", "voice"}
    assert len(media.faces.times) == 60


def test_an_error_in_the_sound_ends_the_pictures(clip: Path) -> None:
    def broken() -> Iterator[tuple[float, np.ndarray]]:
        raise MediaError("no sound to be had")
        yield  # type: ignore[unreachable]

    seen: list[float] = []

    def endless() -> Iterator[Frame]:
        while True:
            yield from frames(clip)

    encoders: dict[str, Encoder] = {"voice": create_encoder(LOUD)}
    with pytest.raises(MediaError, match="no sound to be had"):
        encode_media(encoders, frames=endless, audio=broken, on_time=seen.append)


def test_nothing_to_read_gives_nothing() -> None:
    media = encode_media({"face": create_encoder(COLOUR)}, frames=lambda: iter(()), audio=None)
    assert not len(media.faces.times)
    assert media.streams(None) == {}
    assert media.speech is None
