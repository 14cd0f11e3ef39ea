"""Speech states of Smart Turn: the whole network on each window, blocks, times, silence; and beside prosody."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from mien import hub
from mien.encode.create_encoders import create_encoders
from mien.encoders import registry, smart_turn, voice_speech
from mien.encoders.smart_turn import CELL, SmartTurn, SpeechStates, log_mel
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.encoders.voice_speech import PROSODY, STATES, VoiceSpeech
from mien.errors import ArtefactError
from mien.inference import InputFeature
from mien.media import voice_activity
from mien.media.audio import load
from mien.records import Stream

RATE = 16_000
WINDOW, STEP, MARGIN = 128_000, 76 * CELL, 12
pytestmark = pytest.mark.skipif(
    not hub.available("smart-turn"), reason="the network is not here: mien hub pull smart-turn"
)


@pytest.fixture(scope="module")
def speech(shared: Path) -> np.ndarray:
    """Ten utterances of EMO-DB, 20 s, with two seconds of silence among them."""
    parts = [load(path)[1] for path in sorted((shared / "emodb").glob("*.wav"))[:10]]
    return np.concatenate([*parts[:3], np.zeros(2 * RATE, np.float32), *parts[3:]])


@pytest.fixture(scope="module")
def whole_network() -> onnxruntime.InferenceSession:
    """The published network with the package onnx's own way to a further output; it computes all four layers."""
    model = onnx.load(str(hub.fetch("smart-turn")))
    model.graph.output.append(onnx.helper.make_tensor_value_info("add_268", onnx.TensorProto.FLOAT, None))
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def window_states(network: onnxruntime.InferenceSession, samples: np.ndarray) -> np.ndarray:
    """States of 8 s of samples, or fewer behind zeros, by transformers' feature extractor: `(cells, 384)`."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(chunk_length=8)
    level = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
    cells = -(-len(level) // CELL)
    window = np.zeros(WINDOW, np.float32)
    begin = WINDOW - cells * CELL
    window[begin : begin + len(level)] = level
    mel = extractor(window, sampling_rate=RATE, return_tensors="np").input_features
    (states,) = network.run(["add_268"], {"input_features": mel})
    return states[0].reshape(100, 4, 384).mean(axis=1)[-cells:]


def states_of(samples: np.ndarray, block: int = 10**9) -> np.ndarray:
    states = SpeechStates()
    parts = [states(samples[i : i + block]) for i in range(0, len(samples), block)]
    return np.concatenate([*parts, states.finish()])


def stream_of(encoder: SmartTurn | VoiceSpeech, samples: np.ndarray, block: int = RATE, start: float = 0) -> Stream:
    blocks = [(start + i / RATE, samples[i : i + block]) for i in range(0, len(samples), block)]
    (stream,) = encoder.encode_audio(blocks)
    return stream


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the steps of 8 bits, which small differences of the input can cross."""
    assert actual.shape == expected.shape
    np.testing.assert_allclose(np.abs(actual - expected).mean(), 0, atol=0.02 * np.abs(expected).mean())


def test_mel_bands_are_those_of_whisper(speech: np.ndarray) -> None:
    from transformers import WhisperFeatureExtractor

    sound = speech[:WINDOW]
    expected = WhisperFeatureExtractor(chunk_length=8)(sound, sampling_rate=RATE, return_tensors="np").input_features[0]
    np.testing.assert_allclose(log_mel(sound), expected, atol=2e-3)


def test_long_audio_takes_the_inner_part_of_overlapping_windows(
    speech: np.ndarray, whole_network: onnxruntime.InferenceSession
) -> None:
    speech = speech[: 245 * CELL - 300]
    states = states_of(speech)
    assert len(states) == 245
    first = window_states(whole_network, speech[:WINDOW])
    close(states[: 100 - MARGIN], first[: 100 - MARGIN])
    second = window_states(whole_network, speech[STEP : STEP + WINDOW])
    close(states[88:164], second[MARGIN : 100 - MARGIN])
    close(states[164:], window_states(whole_network, speech[145 * CELL :])[164 - 145 :])


@pytest.mark.parametrize("length", [1, 400, 8000, 50_001, 127_999])
def test_shorter_audio_stands_behind_zeros(
    speech: np.ndarray, whole_network: onnxruntime.InferenceSession, length: int
) -> None:
    sound = speech[4000 : 4000 + length]
    close(states_of(sound), window_states(whole_network, sound))


@pytest.mark.parametrize("block", [77, 1280, 50_000])
def test_the_result_does_not_depend_on_blocks(speech: np.ndarray, block: int) -> None:
    np.testing.assert_array_equal(states_of(speech, block), states_of(speech))


@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + STEP, WINDOW + STEP + 1, 2 * WINDOW])
def test_every_cell_has_a_state(speech: np.ndarray, length: int) -> None:
    assert len(states_of(speech[:length])) == -(-length // CELL)


def test_the_level_does_not_matter(speech: np.ndarray) -> None:
    close(states_of(4 * speech[:WINDOW]), states_of(speech[:WINDOW]))


def test_vectors_are_valid_where_someone_speaks(speech: np.ndarray) -> None:
    stream = stream_of(SmartTurn(), speech, start=2.5)
    np.testing.assert_allclose(stream.times, 2.5 + (640 + 1280 * np.arange(len(stream.times))) / RATE)
    expected = voice_activity.speech_stream([(2.5, speech)])
    at = np.abs(stream.times[:, None] - expected.times).argmin(axis=1)
    assert (stream.valid == expected.valid[at]).mean() > 0.95  # a centre between two steps may take either
    assert stream.valid.any()
    assert not stream.valid.all()
    assert not stream.values[~stream.valid].any()
    assert stream.values[stream.valid].any(axis=1).all()


@pytest.mark.parametrize("encoder", [SmartTurn, VoiceSpeech])
def test_silence_is_never_valid(encoder: type[SmartTurn | VoiceSpeech]) -> None:
    stream = stream_of(encoder(), np.zeros(3 * RATE, np.float32))
    assert len(stream.times) > 20
    assert not stream.valid.any()
    assert not stream.values.any()


@pytest.mark.parametrize("encoder", [SmartTurn, VoiceSpeech])
def test_no_audio_gives_no_piece(encoder: type[SmartTurn | VoiceSpeech]) -> None:
    assert list(encoder().encode_audio([])) == []


def test_memory_stays_bounded() -> None:
    states = SpeechStates()
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    for _ in range(20):
        states(noise)
    tracemalloc.start()
    for _ in range(40):
        states(noise)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000


def test_voice_speech_has_prosody_and_states(speech: np.ndarray) -> None:
    stream = stream_of(VoiceSpeech(), speech, start=1.0)
    prosody = ProsodyExtractor()([(1.0, speech)])
    count = len(stream.times)
    assert count == -(-len(prosody.times) // 2)
    np.testing.assert_allclose(stream.times[:-1], (prosody.times[:-1:2] + prosody.times[1::2])[: count - 1] / 2)
    for i in range(len(prosody.times) // 2):
        pair = prosody.valid[2 * i : 2 * i + 2]
        assert stream.valid[i] == pair.any()
        if pair.any():
            expected = prosody.values[2 * i : 2 * i + 2][pair].mean(axis=0)
            np.testing.assert_allclose(stream.values[i, PROSODY], expected, rtol=1e-5, atol=1e-6)
    expected = states_of(speech)[:count] * stream.valid[:, None]
    np.testing.assert_array_equal(stream.values[:, STATES], expected)
    assert stream.dim == VoiceSpeech.dim == voice_speech.DIM


@pytest.mark.parametrize("block", [999, 50_000])
def test_voice_speech_does_not_depend_on_blocks(speech: np.ndarray, block: int) -> None:
    encoder = VoiceSpeech()
    whole, cut = stream_of(encoder, speech, 10**9), stream_of(encoder, speech, block)
    np.testing.assert_array_equal(cut.values, whole.values)
    np.testing.assert_array_equal(cut.valid, whole.valid)


def test_voice_activity_runs_once(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = 0
    run = voice_activity.VoiceActivity.__call__

    def counting(self: voice_activity.VoiceActivity, samples: np.ndarray) -> np.ndarray:
        nonlocal heard
        heard += len(samples)
        return run(self, samples)

    monkeypatch.setattr(voice_activity.VoiceActivity, "__call__", counting)
    encoder = VoiceSpeech()
    heard = 0
    stream_of(encoder, speech)
    padding = -len(speech) % voice_activity.STEP
    assert heard == len(speech) + padding


@pytest.mark.parametrize("name", ["smart-turn", "voice-speech"])
def test_encoders_are_registered_and_need_no_torch(name: str) -> None:
    assert registry.reads_sound(name)
    assert registry.create(name).name == name
    assert create_encoders({"voice": InputFeature(name, 0)})["voice"].name == name
    code = (
        "import sys; from mien.encode.create_encoders import create_encoders, encoder_device, source_of\n"
        f"from mien.inference import InputFeature\nf = {{'voice': InputFeature({name!r}, 0)}}\n"
        "assert encoder_device(f, 'auto') == 'cpu' and source_of(f['voice']) == 'sound'\n"
        "create_encoders(f); assert not {'torch', 'pydantic', 'scipy', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_a_missing_network_is_reported_when_the_encoder_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_HUB", "")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    smart_turn._session.cache_clear()
    try:
        for encoder in (SmartTurn, VoiceSpeech):
            with pytest.raises(ArtefactError, match=r"smart-turn.* is missing"):
                encoder()
    finally:
        smart_turn._session.cache_clear()


def test_the_part_up_to_the_states_holds_no_weights_and_nodes_but_its_own() -> None:
    whole = hub.fetch(smart_turn.NETWORK).read_bytes()
    part = smart_turn._up_to(whole, "add_268")
    assert len(part) < 0.6 * len(whole), "two of the four layers and the classifier are left out"
    graph = onnx.load_model_from_string(part).graph
    read = {name for node in graph.node for name in node.input} | {"add_268"}
    assert {weight.name for weight in graph.initializer} <= read
    assert all(set(node.output) & read for node in graph.node)
    assert [output.name for output in graph.output] == ["add_268"]


def test_provenance_names_the_network() -> None:
    assert SmartTurn().provenance["network"] == hub.ARTEFACTS["smart-turn"].digest
    assert VoiceSpeech().provenance["states network"] == hub.ARTEFACTS["smart-turn"].digest
