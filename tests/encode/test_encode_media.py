"""One decoding pass feeds every encoder, and gives what extraction stores, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mien.checkpoint_encoder import create_encoder
from mien.datasets.index import build_index
from mien.encode.encode_media import EncodedMedia, encode_media
from mien.encoders.protocol import Encoder
from mien.errors import ConfigError, MediaError
from mien.extract import extract
from mien.faces.tracker import FaceTracker
from mien.media.audio import blocks
from mien.media.video import frames
from mien.records import Frame, Stream
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


def test_an_encoder_under_two_names_is_run_once(clip: Path) -> None:
    colour, loud = create_encoder(COLOUR), create_encoder(LOUD)
    counts = {"crops": 0, "sound": 0}
    encode_crops, encode_audio = colour.encode_crops, loud.encode_audio

    def count_crops(crops: np.ndarray) -> np.ndarray:
        counts["crops"] += len(crops)
        values: np.ndarray = encode_crops(crops)
        return values

    def count_audio(audio: Iterator[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        counts["sound"] += 1
        return encode_audio(audio)

    colour.encode_crops, loud.encode_audio = count_crops, count_audio
    encoders: dict[str, Encoder] = {"face": colour, "a.face": colour, "voice": loud, "a.voice": loud}
    media = encode_media(encoders, frames=lambda: frames(clip), audio=lambda: blocks(clip))
    streams = media.streams(0)
    assert streams.keys() == encoders.keys()
    np.testing.assert_array_equal(streams["face"].values, streams["a.face"].values)
    assert streams["voice"] is streams["a.voice"]
    assert counts == {"crops": int(streams["face"].valid.sum()), "sound": 1}


def test_an_encoder_on_a_gpu_gives_the_same_streams(clip: Path) -> None:
    names = ["face", "behaviour"]
    expected = encode(clip, names).streams(0)
    encoders: dict[str, Encoder] = {name: create_encoder(SPECS[name]) for name in names}
    for encoder in encoders.values():
        encoder.device = SimpleNamespace(type="cuda")
    media = encode_media(encoders, frames=lambda: frames(clip), audio=None)
    for name, stream in media.streams(0).items():
        np.testing.assert_array_equal(stream.values, expected[name].values, err_msg=name)
        np.testing.assert_array_equal(stream.times, expected[name].times, err_msg=name)


def test_errors_of_one_encoder_leave_the_others(clip: Path) -> None:
    picky = create_encoder(COLOUR)
    picky.encode_crops = lambda crops: (_ for _ in ()).throw(ValueError("no crops today"))
    encoders: dict[str, Encoder] = {"face": picky, "mesh": create_encoder(SHAPE), "voice": create_encoder(LOUD)}
    with pytest.raises(ValueError, match="no crops today"):
        encode_media(encoders, frames=lambda: frames(clip), audio=lambda: blocks(clip))
    errors: dict[str, Exception] = {}
    media = encode_media(
        encoders, frames=lambda: frames(clip), audio=lambda: blocks(clip), sides=[""], on_error=errors.__setitem__
    )
    assert list(errors) == ["face"]
    assert media.faces.stream(0, "mesh").valid.any()
    assert len(media.audio["voice"].times)


def test_an_encoder_of_no_kind_is_refused_before_anything_is_opened() -> None:
    encoders: dict[str, Encoder] = {"face": create_encoder("tests.extract.toy_encoders:WithoutMethod")}
    with pytest.raises(ConfigError, match="'without-method' encodes neither crops, segments, meshes nor sound"):
        encode_media(encoders, frames=lambda: pytest.fail("opened"), audio=lambda: pytest.fail("opened"))
