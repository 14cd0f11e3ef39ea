"""Vision-language encoder: Qwen3-VL over segments of video.

The pictures of a segment and a prompt form one chat message; the feature vector is the last hidden layer at the last
token of the prompt, before generation (Ryumina et al., arXiv 2603.13056). The pictures take the model's path for
images, because its path for video requires torchvision. The model therefore processes each picture by itself, not
pairs of pictures with time stamps, at twice the number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mien.encoders.pretrained import WeightSource, load_processor, load_tokenizer
from mien.encoders.pretrained_encoder import PretrainedEncoder
from mien.encoders.protocol import Segments
from mien.errors import ArtefactError, ConfigError

#: Our own words. The authors' prompt is in src_behavior_description of their repository SMIL-SPCRAS/CVPRW-26; a recipe
#: can set it (`options.prompt`).
PROMPT = (
    "These pictures show a few seconds of a person, in order. From the face, the gaze, the head and the body, how "
    "pleasant or unpleasant does the person feel, how calm or excited, and which emotion is shown?"
)
POOLS = ("last", "mean", "mean_std")


class VisionLanguageEncoder(PretrainedEncoder):
    """Qwen3-VL as a `SegmentEncoder`.

    Args:
        prompt: text after the pictures.
        pool: `last`: the last token; `mean`: mean over all tokens; `mean_std`: mean and standard deviation side by side
            (twice the dim).
        segments: how recordings are cut; the default is the published setting (4 s every 2 s, 4 pictures per second, at
            most 16).
        precision: `auto`, `float32`, `bfloat16` or `float16`. The 4B model takes 18 GB in float32.
        name, about, device, revision, allow_pickle: see `PretrainedEncoder`.

    Raises:
        ConfigError: unknown `pool` or `precision`.
        ArtefactError: see `PretrainedEncoder`; also if there is no tokenizer, image processor or chat template.
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
        if pool not in POOLS:
            raise ConfigError(
                f"{name}: pool is {pool!r}; it must be one of {', '.join(POOLS)}.",
                follows="No encoder was created.",
                remedy=f"Use pool={POOLS[0]}.",
            )
        super().__init__(
            name, about, ("qwen3_vl",), device=device, revision=revision, precision=precision, allow_pickle=allow_pickle
        )
        self._prompt, self._pool = prompt, pool
        self._network = self._load("Qwen3VLModel")
        self._tokenizer = load_tokenizer(self._weights)
        self._image_processor = load_processor(self._weights.folder, "AutoImageProcessor", backend="pil")
        if not self._tokenizer.chat_template:
            raise ArtefactError(
                f"{self._weights.folder} has no chat template, so the format of the model's input is unknown.",
                follows="No encoder was created.",
                remedy="Put the model's chat_template.jinja beside the weights.",
            )
        config = self._network.config
        self._patches_per_token: int = config.vision_config.spatial_merge_size**2
        self._image_token = self._tokenizer.convert_ids_to_tokens(config.image_token_id)
        self.dim = int(config.text_config.hidden_size) * (2 if pool == "mean_std" else 1)
        self.segments = cut = segments or Segments()
        self.rate_hz: float | None = 1 / cut.hop_s
        self.receptive_field_s = cut.length_s
        self.provenance = self._provenance(
            layer=f"last hidden layer, {pool}",
            preprocessing=f"pictures one by one; prompt: {prompt}",
            crop=f"{cut.length_s:g} s every {cut.hop_s:g} s, {cut.rate_hz:g} Hz, at most {cut.pictures} pictures of "
            f"{cut.max_side} px",
        )

    def encode_segments(self, segments: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
        """Encode segments -> `(len(segments), dim)` float32.

        Each segment is 1 or more pictures `(height, width, 3)` uint8 RGB, in temporal order. Segments run one by one: a
        segment is thousands of tokens, so a batch saves nothing, and padding would let rows influence each other.
        """
        if not segments:
            return np.zeros((0, self.dim), np.float32)
        return np.stack([self._encode(pictures) for pictures in segments])

    @torch.inference_mode()
    def _encode(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        inputs = self._inputs(pictures)
        self._network.rope_deltas = None  # state that the model keeps from its last call
        hidden: Tensor = self._network(**inputs, use_cache=False).last_hidden_state[0]
        return self._pooled(hidden.float()).cpu().numpy()

    def _pooled(self, hidden: Tensor) -> Tensor:
        if self._pool == "last":
            return hidden[-1]
        mean = hidden.mean(dim=0)
        return mean if self._pool == "mean" else torch.cat([mean, hidden.std(dim=0, correction=0)])

    def _inputs(self, pictures: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Inputs of the model, as the library's own processor prepares them.

        The chat template marks each picture by one token, which is repeated once per merged group of patches.
        """
        images = self._image_processor(list(pictures), return_tensors="pt", input_data_format="channels_last")
        content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": self._prompt}]
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        parts = text.split(self._image_token)
        if len(parts) != len(pictures) + 1:
            raise ArtefactError(
                f"The chat template of {self.name} has {len(parts) - 1} image placeholders for {len(pictures)} images.",
                follows="Nothing was encoded.",
                remedy="Use the chat template published with the model.",
            )
        counts = (images["image_grid_thw"].prod(dim=1) // self._patches_per_token).tolist()
        text = parts[0] + "".join(self._image_token * n + part for n, part in zip(counts, parts[1:], strict=True))
        tokens = self._tokenizer([text], return_tensors="pt", add_special_tokens=False)
        inputs = {
            "input_ids": tokens["input_ids"],
            "attention_mask": tokens["attention_mask"],
            "mm_token_type_ids": (tokens["input_ids"] == self._network.config.image_token_id).int(),
            "pixel_values": images["pixel_values"],
            "image_grid_thw": images["image_grid_thw"],
        }
        return {key: value.to(self.device) for key, value in inputs.items()}
