"""Speech encoders against feature extractor and network of transformers, on tiny networks of the same classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
import transformers

from mien.encoders.audio_chunks import receptive_field
from mien.encoders.pretrained import WeightSource
from mien.encoders.protocol import AudioEncoder
from mien.encoders.speech import SpeechEncoder
from mien.encoders.wavlm_forward import SpeechNetwork
from mien.errors import ArtefactError, ConfigError

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embedding_groups": 4,
    "vocab_size": 12,
}
LAYER_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
#: As in the published networks: large ones use layer norm, base ones group norm.
KINDS = {
    "wavlm-large": ("WavLM", {**LAYER_NORM, "conv_bias": False}),
    "wavlm-base": ("WavLM", {"feat_extract_norm": "group", "conv_bias": False}),
    "wav2vec2-large": ("Wav2Vec2", {**LAYER_NORM, "conv_bias": True}),
    "wav2vec2-base": ("Wav2Vec2", {"feat_extract_norm": "group", "conv_bias": False}),
}


def tiny(kind: str, folder: Path) -> Path:
    """A two-layer network with random weights and its feature extractor, as a checkpoint."""
    family, options = KINDS[kind]
    torch.manual_seed(2)
    config = getattr(transformers, f"{family}Config")(**TINY, **options)
    network = getattr(transformers, f"{family}Model")(config).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # a fresh network has zero biases, which would hide mistakes
            parameter += 0.05 * torch.randn_like(parameter)
    network.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("waveform")
    return {kind: tiny(kind, root / kind) for kind in KINDS}


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise whose loudness changes, over a tone: nothing in it is stationary."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * 16_000)) / 16_000
    loudness = 0.1 + np.abs(np.sin(3 * time)) * 0.3
    made = loudness * rng.standard_normal(len(time)) + 0.2 * np.sin(2 * np.pi * (150 + 20 * np.sin(time)) * time)
    return made.astype(np.float32)


def blocks(samples: np.ndarray, start_s: float = 0.0, size: int = 7_001) -> Iterator[tuple[float, np.ndarray]]:
    for i in range(0, len(samples), size):
        yield start_s + i / 16_000, samples[i : i + size]


def reference(folder: Path, samples: np.ndarray) -> Any:
    network = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    with torch.no_grad():
        return network(**extractor(samples, sampling_rate=16_000, return_tensors="pt"), output_hidden_states=True)


def encoded(encoder: SpeechEncoder, samples: np.ndarray, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    pieces = list(encoder.encode_audio(blocks(samples, **options)))
    return np.concatenate([p.values for p in pieces]), np.concatenate([p.times for p in pieces])


@pytest.mark.parametrize("kind", KINDS)
def test_values_equal_those_of_transformers(kind: str, folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder(kind, WeightSource(str(folders[kind])))
    assert isinstance(encoder, AudioEncoder)
    samples = sound(2.3)
    values, _ = encoded(encoder, samples)
    expected = reference(folders[kind], samples).last_hidden_state[0].numpy()
    assert values.shape == expected.shape == (114, encoder.dim)
    np.testing.assert_allclose(values, expected, atol=1e-4 * np.abs(expected).max())
    assert expected.std(axis=0).min() > 1e-2, "nothing changes over time, so the test proves nothing"


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_layers_and_their_mean(kind: str, folders: dict[str, Path]) -> None:
    samples = sound(1.0)
    hidden = [h[0].numpy() for h in reference(folders[kind], samples).hidden_states]
    assert len(hidden) == 3
    for options, expected in (
        ({"layer": 0}, hidden[0]),
        ({"layer": 1}, hidden[1]),
        ({"layer": -1}, hidden[2]),
        ({"layer": -1, "last": 2}, (hidden[1] + hidden[2]) / 2),
        ({"layer": -2, "last": 2}, (hidden[0] + hidden[1]) / 2),
    ):
        values, _ = encoded(SpeechEncoder(kind, WeightSource(str(folders[kind])), **options), samples)
        np.testing.assert_allclose(values, expected, atol=1e-4 * np.abs(expected).max(), err_msg=str(options))


def test_layers_above_the_requested_one_are_not_run(folders: dict[str, Path]) -> None:
    network = transformers.AutoModel.from_pretrained(folders["wavlm-large"]).eval()
    network.encoder.layers[1] = None  # would fail if it were called
    with torch.inference_mode():
        assert len(SpeechNetwork(network, 1)(torch.randn(1, 8_000))) == 2


def test_sdpa_equals_eager_attention_at_chunk_length(folders: dict[str, Path]) -> None:
    """20 s: relative positions beyond the last bucket occur."""
    samples = sound(20.0)
    values, _ = encoded(SpeechEncoder("w", WeightSource(str(folders["wavlm-large"]))), samples)
    expected = reference(folders["wavlm-large"], samples).last_hidden_state[0].numpy()
    np.testing.assert_allclose(values, expected, atol=1e-4 * np.abs(expected).max())


def test_weights_with_old_names_are_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """Published checkpoints call the weight norm's parts weight_g and weight_v."""
    from safetensors.torch import load_file, save_file

    source = folders["wavlm-large"]
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(source / "model.safetensors")
    old = {
        k.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): v
        for k, v in weights.items()
        if "masked_spec_embed" not in k  # only training needs it, and published checkpoints lack it
    }
    assert set(old) != set(weights)
    save_file(old, tmp_path / "model.safetensors", metadata={"format": "pt"})
    samples = sound(0.5)
    np.testing.assert_array_equal(
        encoded(SpeechEncoder("w", WeightSource(str(tmp_path))), samples)[0],
        encoded(SpeechEncoder("w", WeightSource(str(source))), samples)[0],
    )


def test_receptive_field_by_experiment(folders: dict[str, Path]) -> None:
    """Which samples the first and the third frame of the convolutions depend on, found by gradient."""
    assert receptive_field(KERNELS, STRIDES) == (320, 400)
    network = transformers.AutoModel.from_pretrained(folders["wavlm-large"]).eval()
    samples = torch.randn(1, 3_000, requires_grad=True)
    features = network.feature_extractor(samples)[0]  # (channels, frames)
    for frame, (begin, stop) in {0: (0, 400), 2: (640, 1_040)}.items():
        (gradient,) = torch.autograd.grad(features[:, frame].pow(2).sum(), samples, retain_graph=True)
        touched = gradient[0].nonzero().flatten()
        assert (touched[0], touched[-1] + 1) == (begin, stop)


def test_times_are_the_centres_of_the_frames(folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder("w", WeightSource(str(folders["wavlm-large"])), chunk_s=2.0, context_s=0.5)
    _, times = encoded(encoder, sound(5.0), start_s=0.75)
    np.testing.assert_allclose(times, 0.75 + (320 * np.arange(249) + 199.5) / 16_000, atol=1e-9)
    assert encoder.rate_hz == 50
    assert encoder.receptive_field_s == pytest.approx(2.005)


def differences(folder: Path, layer: int | None) -> np.ndarray:
    """Relative error of each frame, in chunks of 8 s against in one piece."""
    samples, about = sound(24.0), WeightSource(str(folder))
    whole, times = encoded(SpeechEncoder("w", about, layer=layer, chunk_s=60.0), samples)
    chunked, same = encoded(SpeechEncoder("w", about, layer=layer, chunk_s=8.0), samples)
    np.testing.assert_allclose(times, same, atol=1e-9)
    return np.linalg.norm(whole - chunked, axis=1) / np.linalg.norm(whole, axis=1)


@pytest.mark.parametrize("kind", ["wavlm-large", "wav2vec2-large"])
def test_chunks_agree_with_the_recording_at_once(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """Stated tolerances without normalisation: exact up to the input of the first layer; attention over 24 s differs
    from attention over 8 s."""
    for path in folders[kind].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(tmp_path)
    assert differences(tmp_path, layer=0).max() < 1e-5
    assert differences(tmp_path, layer=None).max() < 2e-2


@pytest.mark.parametrize(("kind", "typical", "worst"), [("wavlm-large", 0.01, 0.05), ("wavlm-base", 0.02, 0.1)])
def test_normalised_chunks_agree_within_tolerance(
    kind: str, typical: float, worst: float, folders: dict[str, Path]
) -> None:
    """With the published normalisation: mean and variance are those of a chunk, not of the whole."""
    error = differences(folders[kind], layer=None)
    assert np.median(error) < typical
    assert error.max() < worst


def test_batched_chunks_equal_single_chunks(folders: dict[str, Path]) -> None:
    about, samples = WeightSource(str(folders["wavlm-large"])), sound(9.0)
    alone, _ = encoded(SpeechEncoder("w", about, chunk_s=2.0, context_s=0.5), samples)
    batched, _ = encoded(SpeechEncoder("w", about, chunk_s=2.0, context_s=0.5, batch_size=3), samples)
    np.testing.assert_allclose(alone, batched, atol=1e-5)


def test_block_size_makes_no_difference(folders: dict[str, Path]) -> None:
    encoder, samples = (
        SpeechEncoder("w", WeightSource(str(folders["wavlm-large"])), chunk_s=2.0, context_s=0.5),
        sound(6.0),
    )
    a, _ = encoded(encoder, samples, size=100_000)
    b, _ = encoded(encoder, samples, size=777)
    np.testing.assert_array_equal(a, b)


def test_silence_is_invalid_and_short_audio_gives_nothing(folders: dict[str, Path]) -> None:
    encoder = SpeechEncoder("w", WeightSource(str(folders["wavlm-large"])))
    samples = sound(2.0)
    samples[8_000:16_000] = 0
    (stream,) = encoder.encode_audio(blocks(samples))
    starts = 320 * np.arange(len(stream.times))
    np.testing.assert_array_equal(stream.valid, ~((starts >= 8_000) & (starts + 400 <= 16_000)))
    assert 0 < (~stream.valid).sum() < len(stream.valid)
    assert np.isfinite(stream.values).all()
    assert list(encoder.encode_audio(blocks(samples[:399]))) == []
    assert list(encoder.encode_audio([])) == []
    (one,) = encoder.encode_audio(blocks(samples[:400]))
    assert one.values.shape == (1, 32)


def test_real_speech_equals_transformers(folders: dict[str, Path], shared: Path) -> None:
    samples, rate = soundfile.read(shared / "emodb" / "03a01Fa.wav", dtype="float32")
    samples = soxr.resample(samples, rate, 16_000)
    values, times = encoded(SpeechEncoder("w", WeightSource(str(folders["wavlm-base"]))), samples)
    expected = reference(folders["wavlm-base"], samples).last_hidden_state[0].numpy()
    np.testing.assert_allclose(values, expected, atol=1e-4 * np.abs(expected).max())
    assert times[-1] < len(samples) / 16_000


# ---- PDEM ----


class EmotionNetwork(transformers.Wav2Vec2PreTrainedModel):
    """PDEM as its authors describe it, independent of mien's code."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.wav2vec2 = transformers.Wav2Vec2Model(config)
        self.classifier = torch.nn.Module()
        self.classifier.dense = torch.nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier.out_proj = torch.nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(self, input_values: torch.Tensor) -> torch.Tensor:
        pooled = self.wav2vec2(input_values)[0].mean(dim=1)
        return self.classifier.out_proj(torch.tanh(self.classifier.dense(pooled)))


@pytest.fixture(scope="module")
def pdem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pdem")
    torch.manual_seed(4)
    config = transformers.Wav2Vec2Config(**TINY, **LAYER_NORM, conv_bias=True, num_labels=3)
    network = EmotionNetwork(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    network.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder


def test_pdem_equals_the_authors_network(pdem: Path) -> None:
    samples = sound(3.0)
    network = EmotionNetwork.from_pretrained(pdem).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(pdem)
    with torch.no_grad():
        expected = network(extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values)[0].numpy()
    encoder = SpeechEncoder("pdem", WeightSource(str(pdem)), types=("wav2vec2",), head=True)
    np.testing.assert_allclose(encoder.dimensions(samples), expected, atol=1e-4)
    assert np.ptp(expected) > 1e-2


def test_pdem_over_time_uses_a_centred_window(pdem: Path) -> None:
    samples, about = sound(6.0), WeightSource(str(pdem))
    encoder = SpeechEncoder("pdem", about, head=True, head_s=2.0)
    values, times = encoded(encoder, samples)
    hidden, _ = encoded(SpeechEncoder("pdem", about), samples)
    assert values.shape == (len(times), 3) == (299, encoder.dim)
    head = EmotionNetwork.from_pretrained(pdem).eval().classifier
    for frame in (0, 20, 150, 298):
        window = torch.from_numpy(hidden[max(0, frame - 50) : frame + 51]).mean(dim=0)
        with torch.no_grad():
            expected = head.out_proj(torch.tanh(head.dense(window)))
        np.testing.assert_allclose(values[frame], expected, atol=1e-4)


def test_head_options_that_do_not_fit_are_refused(pdem: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(ArtefactError, match="has no head of 3 dimensions \\(arousal, dominance, valence\\)"):
        SpeechEncoder("pdem", WeightSource(str(folders["wav2vec2-base"])), head=True)
    with pytest.raises(ConfigError, match="was created without its head"):
        SpeechEncoder("pdem", WeightSource(str(pdem))).dimensions(sound(1.0))
    with pytest.raises(ConfigError, match="layer=1 has no head"):
        SpeechEncoder("pdem", WeightSource(str(pdem)), head=True, layer=1)


def test_invalid_layers_and_chunks_are_refused(folders: dict[str, Path]) -> None:
    about = WeightSource(str(folders["wavlm-large"]))
    with pytest.raises(ConfigError, match="layer=9 with last=1 does not exist; it has hidden layers 0 to 2"):
        SpeechEncoder("w", about, layer=9)
    with pytest.raises(ConfigError, match="last=4 needs `layer`"):
        SpeechEncoder("w", about, last=4)
    with pytest.raises(ConfigError, match=r"a chunk of 3 s consists of context only, 1\.5 s at each end"):
        SpeechEncoder("w", about, chunk_s=3.0)


def test_provenance_and_half_precision(folders: dict[str, Path]) -> None:
    about = WeightSource(str(folders["wavlm-large"]), licence="CC-BY-SA-3.0")
    single = SpeechEncoder("w", about, precision="float32")
    half = SpeechEncoder("w", about, precision="bfloat16")
    assert single.licence == "CC-BY-SA-3.0"
    assert set(single.provenance) >= {"network", "revision", "layer", "preprocessing", "crop", "version"}

    def keys(other: SpeechEncoder) -> set[str]:
        return {k for k in single.provenance if single.provenance[k] != other.provenance[k]}

    assert keys(half) == {"precision"}
    assert keys(SpeechEncoder("w", about, layer=1)) == {"layer"}
    assert keys(SpeechEncoder("w", about, chunk_s=10.0)) == {"crop"}
    samples = sound(1.0)
    a, b = encoded(single, samples)[0], encoded(half, samples)[0]
    assert 0 < np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a)


@pytest.mark.parametrize("kind", ["wavlm-large", "wav2vec2-large"])
def test_int8_is_close_to_float32(kind: str, folders: dict[str, Path]) -> None:
    exact, rounded = (SpeechEncoder(kind, WeightSource(str(folders[kind])), precision=p) for p in ("float32", "int8"))
    given = [(0.0, sound(3.0))]
    (expected,), (found,) = list(exact.encode_audio(given)), list(rounded.encode_audio(given))
    error = np.linalg.norm(found.values - expected.values) / np.linalg.norm(expected.values)
    assert 0 < error <= 1e-2
    np.testing.assert_array_equal(next(iter(rounded.encode_audio(given))).values, found.values)
    assert rounded.provenance["precision"] == "int8"


def test_another_sample_rate_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for path in folders["wavlm-base"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=8_000).save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match="requires audio at 8000 Hz; mien provides 16000 Hz"):
        SpeechEncoder("w", WeightSource(str(tmp_path)))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ArtefactError, match=r"no readable preprocessor_config\.json"):
        SpeechEncoder("w", WeightSource(str(tmp_path)))
