"""What a person does over some seconds, as a vision-language model sees it: Qwen3-VL over segments of pictures.

The pictures of a segment and a prompt go in as one message of a chat; a value is the last hidden layer at the last
token, where the model is about to answer (Ryumina et al., arXiv 2603.13056; PAPERS 4). The pictures go through
the path for images, because the one for video needs torchvision: the model then sees each picture by itself, not
pairs of them with time stamps, at twice the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.encoders import pretrained
from mien.encoders.precision import choose, name_of
from mien.encoders.pretrained import PretrainedWeights, WeightSource
from mien.encoders.protocol import Segments
from mien.errors import ArtefactError, ConfigError

#: Ours, because the paper's is not public: the recipe may say another.
PROMPT = (
    "These pictures show a few seconds of a person, in order. From the face, the gaze, the head and the body, how "
    "pleasant or unpleasant does the person feel, how calm or excited, and which emotion is shown?"
)
POOLS = ("last", "mean", "mean_std")


class VisionLanguageEncoder:
    """Qwen3-VL as a `SegmentEncoder`.

    Args:
        name: what it is called in the store.
        about: where it comes from (hub id or folder), its size and licence.
        prompt: what it is asked.
        pool: `last`: the last token; `mean`: over all tokens; `mean_std`: mean and standard deviation side by
            side (twice the dim).
        segments: how recordings are cut; published: 4 s every 2 s, 4 pictures a second, at most 16.
        precision: `auto`, `float32`, `bfloat16` or `float16`. In float32 the 4B model takes 18 GB.

    Raises:
        ConfigError: another word for pool or precision. ArtefactError: see `pretrained`.
    """

    modality = "behaviour"
    batch_size = 8

    def __init__(
        self,
        name: str,
        about: WeightSource,
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        prompt: str = PROMPT,
        pool: str = "last",
        segments: Segments | None = None,
        precision: str = "auto",
        allow_pickle: bool = False,
    ) -> None:
        from transformers import Qwen3VLModel

        if pool not in POOLS:
            raise ConfigError(f"{name}: pool is {pool!r}; it must be one of {', '.join(POOLS)}.")
        self.name, self.licence, self.device = name, about.licence, torch.device(device)
        self._prompt, self._pool = prompt, pool
        self.segments = segments or Segments()
        checkpoint = pretrained.fetch(about, revision=revision, allow_pickle=allow_pickle)
        dtype = choose(precision, self.device)
        network = pretrained.load(checkpoint, Qwen3VLModel, ("qwen3_vl",), dtype=dtype)
        self._network = network.to(self.device)
        self._tokenizer, self._images = _readers(checkpoint)
        self._merged: int = network.config.vision_config.spatial_merge_size**2
        self._picture = self._tokenizer.convert_ids_to_tokens(network.config.image_token_id)
        self.dim = int(network.config.text_config.hidden_size) * (2 if pool == "mean_std" else 1)
        cut = self.segments
        self.rate_hz: float | None = 1 / cut.hop_s
        self.receptive_field_s = cut.length_s
        self.provenance: Mapping[str, str] = pretrained.provenance(
            about,
            checkpoint,
            layer=f"last hidden layer, {pool}",
            preprocessing=f"pictures one by one; prompt: {prompt}",
            crop=f"{cut.length_s:g} s every {cut.hop_s:g} s, {cut.rate_hz:g} Hz, at most {cut.pictures} pictures of "
            f"{cut.max_side} px",
            precision=name_of(dtype),
        )

    def encode_segments(self, segments: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Each segment: 1 or more pictures `(height, width, 3)` uint8 RGB, in order. Returns `(len(segments),
        dim)` float32. One by one: a segment is thousands of tokens, more beside it save nothing, and padding
        would let neighbours in."""
        if not segments:
            return np.zeros((0, self.dim), np.float32)
        return np.stack([self._encode(pictures) for pictures in segments])

    @torch.inference_mode()
    def _encode(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        inputs = self._inputs(pictures)
        self._network.rope_deltas = None  # what the last segment left behind
        hidden = self._network(**inputs, use_cache=False).last_hidden_state[0]
        return self._pooled(hidden.float()).cpu().numpy()

    def _pooled(self, hidden: Tensor) -> Tensor:
        if self._pool == "last":
            return hidden[-1]
        mean = hidden.mean(dim=0)
        return mean if self._pool == "mean" else torch.cat([mean, hidden.std(dim=0, correction=0)])

    def _inputs(self, pictures: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """What the library's processor makes of the message: its chat template, each picture's place held by as
        many tokens as it has patches, merged by 2 x 2."""
        seen = self._images(list(pictures), return_tensors="pt", input_data_format="channels_last")
        content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": self._prompt}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        parts = text.split(self._picture)
        if len(parts) != len(pictures) + 1:
            raise ArtefactError(
                f"The chat template of {self.name} holds {len(parts) - 1} places for {len(pictures)} pictures.",
                follows="Nothing was encoded.",
                remedy="Use the chat template published with the model.",
            )
        counts = (seen["image_grid_thw"].prod(dim=1) // self._merged).tolist()
        text = parts[0] + "".join(self._picture * count + part for count, part in zip(counts, parts[1:], strict=True))
        tokens = self._tokenizer([text], return_tensors="pt", add_special_tokens=False)
        inputs = {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "mm_token_type_ids": (tokens["input_ids"] == self._network.config.image_token_id).int(),
            "pixel_values": seen["pixel_values"],
            "image_grid_thw": seen["image_grid_thw"],
        }
        return {key: value.to(self.device) for key, value in inputs.items()}


def _readers(checkpoint: PretrainedWeights) -> tuple[Any, Any]:
    """Tokenizer and image processor. Not `AutoProcessor`: it wants a video processor, and that torchvision."""
    from transformers import AutoImageProcessor

    tokenizer = pretrained.tokenizer(checkpoint)
    try:
        images: Any = AutoImageProcessor.from_pretrained(checkpoint.folder, backend="pil", local_files_only=True)
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{checkpoint.folder} has no readable preprocessor_config.json, so what the model expects is unknown.",
            follows="No encoder was made.",
            remedy="Save the image processor beside the weights (`save_pretrained`), or download all files.",
        ) from error
    if not tokenizer.chat_template:
        raise ArtefactError(
            f"{checkpoint.folder} has no chat template, so how the model is spoken to is unknown.",
            follows="No encoder was made.",
            remedy="Put the model's chat_template.jinja beside the weights.",
        )
    return tokenizer, images
