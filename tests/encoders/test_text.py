"""CLIP prompts against tokenizer and text tower of transformers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from mien.encoders.images import ImageEncoder
from mien.encoders.pretrained import WeightSource
from mien.encoders.text import PromptEncoder
from mien.errors import ArtefactError, ConfigError

PROMPTS = ["a face expressing anger", "a face expressing neutral", "joy"]


def tiny(folder: Path) -> Path:
    """A tiny CLIP, both towers, with a tokenizer that knows single letters, as a checkpoint."""
    letters = sorted(ByteLevel.alphabet())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    tower = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    text = {"vocab_size": len(words), "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    config = transformers.CLIPConfig(
        text_config={**tower, **text, "max_position_embeddings": 30},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    torch.manual_seed(0)
    network = transformers.CLIPModel(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        network.logit_scale.fill_(math.log(50.0))
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    square = {"height": 32, "width": 32}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=square).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("clip"))


def test_values_equal_those_of_transformers(folder: Path) -> None:
    encoder = PromptEncoder("clip-text", WeightSource(str(folder), licence="MIT"))
    network = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():  # one by one: padding must not matter
        expected = torch.cat(
            [network.get_text_features(**tokenizer(p, return_tensors="pt")).pooler_output for p in PROMPTS]
        )
    values = encoder.encode_prompts(PROMPTS)
    assert values.shape == (3, encoder.dim) == (3, 24)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert np.abs(values[0] - values[1]).max() > 1e-2
    assert encoder.temperature == pytest.approx(50.0, rel=1e-5)
    assert (encoder.modality, encoder.licence) == ("text", "MIT")


def test_text_and_images_have_equal_dim(folder: Path) -> None:
    assert PromptEncoder("t", WeightSource(str(folder))).dim == ImageEncoder("i", WeightSource(str(folder))).dim


def test_a_prompt_that_is_too_long_is_refused(folder: Path) -> None:
    long = "x" * 40
    with pytest.raises(ConfigError, match=rf"The prompt '{long}' has 42 tokens; clip-text reads 30"):
        PromptEncoder("clip-text", WeightSource(str(folder))).encode_prompts(["joy", long])


def test_a_missing_tokenizer_or_another_architecture_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ArtefactError, match="has no readable tokenizer"):
        PromptEncoder("clip-text", WeightSource(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "beit"}')
    with pytest.raises(ArtefactError, match="another architecture: model_type is 'beit', expected 'clip'"):
        PromptEncoder("clip-text", WeightSource(str(tmp_path)))
