"""Image encoders against processor and network of transformers, on tiny networks of the same classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import transformers

from mien.encoders.images import FAMILIES, ImageEncoder
from mien.encoders.pretrained import WeightSource
from mien.encoders.protocol import CropEncoder
from mien.errors import ArtefactError, ConfigError

TRANSFORMER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL = {"image_size": 32, "patch_size": 8}
PROCESSOR = {"image_mean": [0.48, 0.45, 0.4], "image_std": [0.2, 0.3, 0.25]}
KINDS = [kind for kind in FAMILIES if kind != "clip_vision_model"]
SQUARE = {"height": 32, "width": 32}


def tiny(family: str, folder: Path) -> Path:
    """A two-layer network of the family's class with random weights, and its processor, as a checkpoint."""
    torch.manual_seed(1)
    made: dict[str, tuple[Any, Any]] = {
        "beit": (
            transformers.BeitModel(transformers.BeitConfig(**TRANSFORMER, **SMALL, use_relative_position_bias=True)),
            transformers.BeitImageProcessorPil(size=SQUARE, **PROCESSOR),
        ),
        "clip": (
            transformers.CLIPModel(
                transformers.CLIPConfig(
                    vision_config={**TRANSFORMER, **SMALL},
                    text_config={**TRANSFORMER, "vocab_size": 99},
                    projection_dim=24,
                )
            ),
            transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE),
        ),
        "dinov2": (
            transformers.Dinov2Model(
                transformers.Dinov2Config(
                    hidden_size=32,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    mlp_ratio=2,
                    image_size=42,
                    patch_size=14,
                )
            ),
            transformers.BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 28, "width": 28}),
        ),
        "vit": (
            transformers.ViTModel(transformers.ViTConfig(**TRANSFORMER, **SMALL)),
            transformers.ViTImageProcessorPil(size=SQUARE, **PROCESSOR),
        ),
        "resnet": (
            transformers.ResNetModel(transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
            transformers.ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=0.875),
        ),
        "efficientnet": (
            transformers.EfficientNetModel(
                transformers.EfficientNetConfig(
                    image_size=32,
                    kernel_sizes=[3, 5],
                    in_channels=[16, 16],
                    out_channels=[16, 24],
                    strides=[1, 2],
                    depthwise_padding=[],
                    num_block_repeats=[1, 1],
                    expand_ratios=[1, 2],
                    width_coefficient=0.25,
                    hidden_dim=320,
                )
            ),
            transformers.EfficientNetImageProcessorPil(size=SQUARE, include_top=True),
        ),
    }
    network, processor = made[family]
    _shake(network)
    network.train()
    with torch.no_grad():  # statistics of batch norm; without them the output would not depend on the picture
        for _ in range(20):
            if family in ("resnet", "efficientnet"):
                network(torch.randn(16, 3, 32, 32))
    network.eval()
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _shake(network: torch.nn.Module) -> None:
    """Fresh networks have zero biases and position tables, behind which mistakes could hide."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4:  # convolutions, which start so small that a signal dies in them
                torch.nn.init.kaiming_normal_(parameter)
            parameter += 0.05 * torch.randn_like(parameter)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):  # EfficientNet starts them near 0
                module.weight += 1


def reference(family: str, folder: Path, crops: list[np.ndarray]) -> torch.Tensor:
    """Outputs of transformers' processor and network, one picture at a time."""
    network = transformers.AutoModel.from_pretrained(folder).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    run = network.get_image_features if family == "clip" else network
    with torch.no_grad():
        outputs = [run(**processor(crop, return_tensors="pt")) for crop in crops]
    read = {"vit": lambda o: o.last_hidden_state[:, 0], "resnet": lambda o: o.pooler_output[..., 0, 0]}
    return torch.cat([read.get(family, lambda o: o.pooler_output)(o) for o in outputs])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("images")
    return {family: tiny(family, root / family) for family in KINDS}


def crops_of(size: int, count: int = 5) -> np.ndarray:
    rng = np.random.default_rng(3)
    small = rng.integers(0, 256, (count, 9, 9, 3), dtype=np.uint8)
    return np.stack([cv2.resize(s, (size, size), interpolation=cv2.INTER_CUBIC) for s in small])


@pytest.mark.parametrize("size", [None, 50], ids=["its own size", "resized"])
@pytest.mark.parametrize("family", KINDS)
def test_values_equal_those_of_transformers(family: str, size: int | None, folders: dict[str, Path]) -> None:
    encoder = ImageEncoder(family, WeightSource(str(folders[family])), batch_size=3)
    assert isinstance(encoder, CropEncoder)
    crops = crops_of(size or encoder.crop.size)
    values = encoder.encode_crops(crops)
    expected = reference(family, folders[family], list(crops)).numpy()
    assert values.dtype == np.float32
    assert values.shape == expected.shape == (5, encoder.dim)
    np.testing.assert_allclose(values, expected, atol=1e-4 * np.abs(expected).max())
    assert np.ptp(values, axis=0).max() > 1e-3, "all pictures give equal outputs, so the test proves nothing"


def test_crop_size_includes_the_central_crop(folders: dict[str, Path]) -> None:
    encoder = ImageEncoder("resnet", WeightSource(str(folders["resnet"])))
    assert encoder.crop.size == 32  # 28 / 0.875: resized to 32, then the middle 28


@pytest.mark.parametrize("family", ["beit", "clip", "dinov2", "vit"])
def test_hidden_layers_and_their_mean(family: str, folders: dict[str, Path]) -> None:
    folder, crops = folders[family], crops_of(32)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    network = getattr(network, "vision_model", network)
    pixels = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")(list(crops), return_tensors="pt")
    with torch.no_grad():
        hidden = network(**pixels, output_hidden_states=True).hidden_states
    assert len(hidden) == 3

    def encoded(**options: int) -> np.ndarray:
        return ImageEncoder(family, WeightSource(str(folder)), **options).encode_crops(crops)

    def mean(*chosen: int) -> np.ndarray:
        return torch.stack([hidden[i][:, 1:].mean(1) for i in chosen]).mean(0).numpy()

    np.testing.assert_allclose(encoded(layer=1), mean(1), atol=1e-5)
    np.testing.assert_allclose(encoded(layer=-1, last=2), mean(1, 2), atol=1e-5)
    np.testing.assert_allclose(encoded(layer=-2, last=2), mean(0, 1), atol=1e-5)


def test_a_row_does_not_depend_on_its_neighbours(folders: dict[str, Path]) -> None:
    encoder = ImageEncoder("beit", WeightSource(str(folders["beit"])))
    crops = crops_of(32, 4)
    together = encoder.encode_crops(crops)
    alone = np.concatenate([encoder.encode_crops(crops[i : i + 1]) for i in (3, 2, 1, 0)])[::-1]
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_an_empty_batch(folders: dict[str, Path]) -> None:
    encoder = ImageEncoder("vit", WeightSource(str(folders["vit"])))
    assert encoder.encode_crops(np.zeros((0, 32, 32, 3), np.uint8)).shape == (0, 32)


def test_bfloat16_is_close_and_in_provenance(folders: dict[str, Path]) -> None:
    single = ImageEncoder("beit", WeightSource(str(folders["beit"])), precision="float32")
    half = ImageEncoder("beit", WeightSource(str(folders["beit"])), precision="bfloat16")
    crops = crops_of(32)
    a, b = single.encode_crops(crops), half.encode_crops(crops)
    assert 0 < np.linalg.norm(a - b) < 0.03 * np.linalg.norm(a)
    differing = {k for k in single.provenance if single.provenance[k] != half.provenance[k]}
    assert differing == {"precision"}


def test_provenance_differs_where_the_encoder_does(folders: dict[str, Path], tmp_path: Path) -> None:
    about = WeightSource(str(folders["beit"]), licence="Apache-2.0")
    encoder = ImageEncoder("beit-large", about)
    assert (encoder.name, encoder.modality, encoder.rate_hz, encoder.licence) == (
        "beit-large",
        "face",
        None,
        "Apache-2.0",
    )
    assert set(encoder.provenance) >= {"network", "revision", "layer", "preprocessing", "crop", "version"}
    assert all(isinstance(v, str) for v in encoder.provenance.values())

    def keys(other: ImageEncoder) -> set[str]:
        return {k for k in encoder.provenance if encoder.provenance[k] != other.provenance[k]}

    assert keys(ImageEncoder("beit-large", about, layer=1)) == {"layer"}
    assert keys(ImageEncoder("beit-large", about, margin=0.25)) == {"crop"}
    other = tiny("beit", tmp_path / "other")
    weights = other / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # one bit of one weight
    weights.write_bytes(data)
    assert keys(ImageEncoder("beit-large", WeightSource(str(other)))) == {"network", "revision"}
    settings = folders["beit"].parent / "processor"
    for path in folders["beit"].iterdir():
        settings.mkdir(exist_ok=True)
        (settings / path.name).write_bytes(path.read_bytes())
    changed = json.loads((settings / "preprocessor_config.json").read_text()) | {"image_mean": [0.0, 0.0, 0.0]}
    (settings / "preprocessor_config.json").write_text(json.dumps(changed))
    assert keys(ImageEncoder("beit-large", WeightSource(str(settings)))) == {"network", "preprocessing"}


def test_invalid_layers_and_precision_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="it has hidden layers 0 to 2"):
        ImageEncoder("beit-large", WeightSource(str(folders["beit"])), layer=7)
    with pytest.raises(ConfigError, match="layer=1 with last=3 does not exist"):
        ImageEncoder("beit-large", WeightSource(str(folders["beit"])), layer=1, last=3)
    with pytest.raises(ConfigError, match="no hidden layers of tokens"):
        ImageEncoder("resnet50", WeightSource(str(folders["resnet"])), layer=1)
    with pytest.raises(ConfigError, match="last=4 needs `layer`"):
        ImageEncoder("beit-large", WeightSource(str(folders["beit"])), last=4)
    with pytest.raises(ConfigError, match="precision is 'half'; it must be one of auto, float32"):
        ImageEncoder("beit-large", WeightSource(str(folders["beit"])), precision="half")


@pytest.mark.parametrize("kind", ["beit", "clip"])
def test_int8_is_close_to_float32_and_in_provenance(kind: str, folders: dict[str, Path]) -> None:
    about, crops = WeightSource(str(folders[kind])), crops_of(32, 5)
    exact, rounded = (ImageEncoder("net", about, precision=p) for p in ("float32", "int8"))
    expected, found = exact.encode_crops(crops), rounded.encode_crops(crops)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 0 < error <= 1e-2
    np.testing.assert_array_equal(rounded.encode_crops(crops), found)  # the second batch goes the same way
    assert (rounded.provenance["precision"], exact.provenance["precision"]) == ("int8", "float32")


def test_int8_is_refused_where_impossible_or_inaccurate(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="resnet50 cannot run in 8 bits here: it has no linear layers over tokens"):
        ImageEncoder("resnet50", WeightSource(str(folders["resnet"])), precision="int8").encode_crops(crops_of(32, 2))
    monkeypatch.setattr("mien.encoders.int8.TOLERANCE", 1e-9)
    with pytest.raises(ConfigError, match=r"beit-large in 8 bits differs from float32 by 0\.\d%"):
        ImageEncoder("beit-large", WeightSource(str(folders["beit"])), precision="int8").encode_crops(crops_of(32, 2))
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    with pytest.raises(ConfigError, match="this processor has no int8 products"):
        ImageEncoder("beit-large", WeightSource(str(folders["beit"])), precision="int8").encode_crops(crops_of(32, 2))


def test_a_checkpoint_without_processor_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folders["vit"] / name).read_bytes())
    with pytest.raises(ArtefactError, match=r"no readable preprocessor_config\.json"):
        ImageEncoder("vit-b16", WeightSource(str(tmp_path)))


def test_vision_tower_of_clip_equals_complete_clip(folders: dict[str, Path], tmp_path: Path) -> None:
    config = transformers.CLIPVisionConfig.from_pretrained(folders["clip"])
    config.projection_dim = 24
    transformers.CLIPVisionModelWithProjection.from_pretrained(folders["clip"], config=config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_bytes((folders["clip"] / "preprocessor_config.json").read_bytes())
    crops = crops_of(32)
    whole, part = (ImageEncoder("clip", WeightSource(str(f))).encode_crops(crops) for f in (folders["clip"], tmp_path))
    np.testing.assert_array_equal(whole, part)
