"""Speech embedding of openWakeWord: the raw networks on each window, blocks, times, silence and short audio."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from mien import hub
from mien.encode.create_encoders import create_encoders
from mien.encoders import registry, voice_embedding
from mien.encoders.voice_embedding import SpeechEmbedding, VoiceEmbedding, window_centres
from mien.errors import ArtefactError
from mien.inference import InputFeature
from mien.media import voice_activity
from mien.media.audio import load
from mien.records import Stream

RATE = 16_000
needs_networks = pytest.mark.skipif(
    not (hub.available("openwakeword-melspectrogram") and hub.available("openwakeword-embedding")),
    reason="the networks are not here: mien hub pull openwakeword-melspectrogram openwakeword-embedding",
)
pytestmark = needs_networks


@pytest.fixture(scope="module")
def speech(shared: Path) -> np.ndarray:
    """Two utterances of EMO-DB with a second of silence between them."""
    first, second = (load(shared / "emodb" / name)[1] for name in ("03a01Fa.wav", "08a01Na.wav"))
    return np.concatenate([first, np.zeros(RATE, np.float32), second])


def embed_window(samples: np.ndarray) -> np.ndarray:
    """Both networks on the samples of one window, as the networks' authors document them: `(96,)`."""
    mel, embedding = (
        onnxruntime.InferenceSession(str(hub.fetch(f"openwakeword-{name}")), providers=["CPUExecutionProvider"])
        for name in ("melspectrogram", "embedding")
    )
    frames = mel.run(None, {"input": (samples * 32767).astype(np.float32)[None]})[0].squeeze() / 10 + 2
    assert frames.shape == (76, 32)
    return embedding.run(None, {"input_1": frames[None, :, :, None]})[0].reshape(96)


def stream_of(encoder: VoiceEmbedding, samples: np.ndarray, block: int = RATE, start: float = 0) -> Stream:
    blocks = [(start + i / RATE, samples[i : i + block]) for i in range(0, len(samples), block)]
    (stream,) = encoder.encode_audio(blocks)
    return stream


def test_each_vector_is_that_of_both_networks_on_its_window(speech: np.ndarray) -> None:
    embedding = SpeechEmbedding()
    vectors = np.concatenate([embedding(speech), embedding.finish()])
    assert len(vectors) == (len(speech) - 12512) // 1280 + 1
    for i in (0, 1, 13, 24, 25, 30, len(vectors) - 1):
        expected = embed_window(speech[1280 * i : 1280 * i + 12512])
        np.testing.assert_allclose(vectors[i], expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("block", [1, 77, 1280, 16_000, 10**9])
def test_the_result_does_not_depend_on_blocks(speech: np.ndarray, block: int) -> None:
    sound = speech[:20_000] if block == 1 else speech
    whole = SpeechEmbedding()
    expected = np.concatenate([whole(sound), whole.finish()])
    cut = SpeechEmbedding()
    parts = [cut(sound[i : i + block]) for i in range(0, len(sound), block)]
    np.testing.assert_array_equal(np.concatenate([*parts, cut.finish()]), expected)


def test_times_are_the_centres_of_the_windows(speech: np.ndarray) -> None:
    stream = stream_of(VoiceEmbedding(), speech, start=2.5)
    np.testing.assert_allclose(stream.times, 2.5 + (6256 + 1280 * np.arange(len(stream.times))) / RATE)
    assert stream.values.shape == (len(stream.times), 96)
    np.testing.assert_allclose(np.diff(window_centres(9)), 0.08)


def test_vectors_are_valid_where_someone_speaks(speech: np.ndarray) -> None:
    stream = stream_of(VoiceEmbedding(), speech)
    expected = voice_activity.speech_stream([(0.0, speech)])
    at = np.abs(stream.times[:, None] - expected.times).argmin(axis=1)
    assert (stream.valid == expected.valid[at]).mean() > 0.95  # a centre between two steps may take either
    assert stream.valid.any()
    assert not stream.valid.all()
    assert not stream.values[~stream.valid].any()
    assert stream.values[stream.valid].any(axis=1).all()


def test_silence_is_never_valid() -> None:
    stream = stream_of(VoiceEmbedding(), np.zeros(3 * RATE, np.float32))
    assert len(stream.times) > 20
    assert not stream.valid.any()
    assert not stream.values.any()


@pytest.mark.parametrize("length", [1, 400, 1632, 8000, 12511, 12512, 12513])
def test_audio_shorter_than_a_window_is_padded_with_zeros(speech: np.ndarray, length: int) -> None:
    embedding, sound = SpeechEmbedding(), speech[4000 : 4000 + length]
    vectors = np.concatenate([embedding(sound), embedding.finish()])
    assert vectors.shape == (1, 96)
    expected = embed_window(np.pad(sound, (0, max(0, 12512 - length)))[:12512])
    np.testing.assert_allclose(vectors[0], expected, atol=1e-3 * np.abs(expected).max())
    assert len(stream_of(VoiceEmbedding(), sound).times) == 1


def test_no_audio_gives_no_piece() -> None:
    assert list(VoiceEmbedding().encode_audio([])) == []
    assert len(SpeechEmbedding().finish()) == 0


def test_memory_stays_bounded() -> None:
    embedding = SpeechEmbedding()
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    for _ in range(4):
        embedding(noise)
    tracemalloc.start()
    for _ in range(12):
        embedding(noise)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000


def test_the_encoder_is_registered_and_needs_no_torch() -> None:
    name = "voice-embedding"
    assert registry.reads_sound(name)
    assert registry.create(name).name == name
    assert create_encoders({"voice": InputFeature(name, 0)})["voice"].name == name
    code = (
        "import sys; from mien.encode.create_encoders import create_encoders, encoder_device, source_of\n"
        f"from mien.inference import InputFeature\nf = {{'voice': InputFeature({name!r}, 0)}}\n"
        "assert encoder_device(f, 'auto') == 'cpu' and source_of(f['voice']) == 'sound'\n"
        "create_encoders(f); assert not {'torch', 'pydantic', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_a_missing_network_is_reported_when_the_encoder_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_HUB", "")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    voice_embedding._sessions.cache_clear()
    try:
        with pytest.raises(ArtefactError, match=r"openwakeword-melspectrogram.* is missing"):
            VoiceEmbedding()
    finally:
        voice_embedding._sessions.cache_clear()


def test_provenance_names_the_networks() -> None:
    assert VoiceEmbedding().provenance["network"] == hub.ARTEFACTS["openwakeword-embedding"].digest
