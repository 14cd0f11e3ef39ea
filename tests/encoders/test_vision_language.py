"""Qwen3-VL over segments against processor and network of transformers, on a tiny model of the same class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers.pre_tokenizers import ByteLevel

from mien.encoders.pretrained import WeightSource
from mien.encoders.protocol import SegmentEncoder, Segments
from mien.encoders.vision_language import VisionLanguageEncoder
from mien.errors import ArtefactError, ConfigError

SPECIAL = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = "What is felt?"


class Processor(transformers.Qwen3VLProcessor):
    """The library's processor without the video part, whose class check needs torchvision."""

    def check_argument_for_proper_class(self, _name: str, argument: object) -> type:  # type: ignore[override]
        return type(argument)


def tiny(folder: Path) -> Path:
    """A tiny Qwen3-VL with random weights, its tokenizer and its processor, as a checkpoint."""
    letters = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    tokenizer = transformers.Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(letters)}, merges=[], additional_special_tokens=SPECIAL
    )
    tokenizer.chat_template = TEMPLATE
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in SPECIAL}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    config = transformers.Qwen3VLConfig(
        text_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "vocab_size": len(tokenizer),
            "rope_parameters": rope,
        },
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 64,
            "depth": 2,
            "num_heads": 4,
            "patch_size": 8,
            "out_hidden_size": 32,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    torch.manual_seed(0)
    network = transformers.Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 256, "longest_edge": 4096}
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("qwen"))


def pictures(count: int, height: int = 40, width: int = 60, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (count, height, width, 3), np.uint8))


def reference(folder: Path, segment: list[np.ndarray], prompt: str = PROMPT) -> np.ndarray:
    """`(tokens, dim)`: the last hidden layer of the whole network on what the library's processor makes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    processor = Processor(images, tokenizer, None, chat_template=TEMPLATE)
    content = [*({"type": "image"} for _ in segment), {"type": "text", "text": prompt}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    network = transformers.Qwen3VLForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = processor(text=[text], images=[segment], return_tensors="pt")
        return network(**inputs, output_hidden_states=True).hidden_states[-1][0].numpy()


def test_values_equal_those_of_transformers(folder: Path) -> None:
    encoder = VisionLanguageEncoder("qwen", WeightSource(str(folder)), prompt=PROMPT)
    assert isinstance(encoder, SegmentEncoder)
    segments = [pictures(3), pictures(1, 33, 47, seed=1), pictures(16, 64, 64, seed=2)]
    values = encoder.encode_segments(segments)
    assert values.shape == (3, encoder.dim) == (3, 32)
    assert values.dtype == np.float32
    for value, segment in zip(values, segments, strict=True):
        expected = reference(folder, segment)[-1]
        np.testing.assert_allclose(value, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(values[0] - values[1]).max() > 1e-2
    assert encoder.encode_segments([]).shape == (0, 32)


def test_pools_over_the_tokens(folder: Path) -> None:
    hidden = reference(folder, pictures(2))
    for pool, expected in (
        ("mean", hidden.mean(axis=0)),
        ("mean_std", np.concatenate([hidden.mean(axis=0), hidden.std(axis=0)])),
    ):
        encoder = VisionLanguageEncoder("qwen", WeightSource(str(folder)), prompt=PROMPT, pool=pool)
        assert encoder.dim == len(expected)
        np.testing.assert_allclose(encoder.encode_segments([pictures(2)])[0], expected, atol=1e-4)


def test_order_and_prompt_matter(folder: Path) -> None:
    encoder = VisionLanguageEncoder("qwen", WeightSource(str(folder)), prompt=PROMPT)
    segment = pictures(3)
    forward, backward = encoder.encode_segments([segment, segment[::-1]])
    assert np.abs(forward - backward).max() > 1e-3
    other = VisionLanguageEncoder("qwen", WeightSource(str(folder)), prompt="Something else?")
    assert np.abs(other.encode_segments([segment])[0] - forward).max() > 1e-3
    assert {k for k in other.provenance if other.provenance[k] != encoder.provenance[k]} == {"preprocessing"}


def test_declared_attributes(folder: Path) -> None:
    cut = Segments(length_s=3.0, hop_s=1.0, rate_hz=2.0, pictures=6)
    encoder = VisionLanguageEncoder("qwen", WeightSource(str(folder), licence="Apache-2.0"), segments=cut)
    assert (encoder.rate_hz, encoder.receptive_field_s, encoder.licence) == (1.0, 3.0, "Apache-2.0")
    assert "3 s every 1 s, 2 Hz, at most 6 pictures" in encoder.provenance["crop"]
    published = VisionLanguageEncoder("qwen", WeightSource(str(folder))).segments
    assert (published.length_s, published.hop_s, published.rate_hz, published.pictures) == (4.0, 2.0, 4.0, 16)


def test_invalid_options_and_incomplete_checkpoints_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pool is 'max'; it must be one of last, mean, mean_std"):
        VisionLanguageEncoder("qwen", WeightSource(str(folder)), pool="max")
    for path in folder.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ArtefactError, match="has no chat template"):
        VisionLanguageEncoder("qwen", WeightSource(str(tmp_path)))
    (tmp_path / "chat_template.jinja").write_text("no place for pictures")
    with pytest.raises(ArtefactError, match="has 0 image placeholders for 2 images"):
        VisionLanguageEncoder("qwen", WeightSource(str(tmp_path))).encode_segments([pictures(2)])
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ArtefactError, match=r"no readable preprocessor_config\.json"):
        VisionLanguageEncoder("qwen", WeightSource(str(tmp_path)))
