"""Text encoder: prompts in the embedding space of CLIP, for systems that compare faces with descriptions of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from mien.encoders.pretrained import WeightSource, load_clip_config, load_tensors, load_tokenizer
from mien.encoders.pretrained_encoder import PretrainedEncoder
from mien.errors import ConfigError


class PromptEncoder(PretrainedEncoder):
    """Text tower of CLIP. It encodes a fixed list of prompts, not a stream of a recording.

    temperature: factor of CLIP's cosine similarities (about 100); NaN if the checkpoint has none.

    Args:
        name, about, device, revision, precision, allow_pickle: see `PretrainedEncoder`.

    Raises:
        ConfigError, ArtefactError: see `PretrainedEncoder`. ArtefactError also if there is no tokenizer.
    """

    modality = "text"
    rate_hz: float | None = None
    receptive_field_s = 0.0

    def __init__(
        self,
        name: str,
        about: WeightSource,
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        precision: str = "float32",
        allow_pickle: bool = False,
    ) -> None:
        types = ("clip", "clip_text_model")
        super().__init__(
            name, about, types, device=device, revision=revision, precision=precision, allow_pickle=allow_pickle
        )
        config = load_clip_config(self._weights, "CLIPTextConfig")
        self._network = self._load("CLIPTextModelWithProjection", config=config)
        self._tokenizer = load_tokenizer(self._weights)
        self._max_tokens: int = config.max_position_embeddings
        self.dim = int(self._network.config.projection_dim)
        scale = load_tensors(self._weights, "logit_scale").get("")
        self.temperature = math.exp(float(scale)) if scale is not None else math.nan
        self.provenance = self._provenance(layer="embedding", preprocessing="its tokenizer", crop="")

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Encode prompts -> `(len(prompts), dim)` float32, not normalised.

        Raises ConfigError for a prompt longer than CLIP reads (77 tokens in the published checkpoints).
        """
        tokens = self._tokenizer(list(prompts), padding=True, return_tensors="pt")
        lengths = tokens["attention_mask"].sum(dim=1)
        if (longest := int(lengths.max())) > self._max_tokens:
            raise ConfigError(
                f"The prompt {prompts[int(lengths.argmax())]!r} has {longest} tokens; "
                f"{self.name} reads {self._max_tokens}.",
                follows="Nothing was encoded.",
                remedy="Shorten the prompt.",
            )
        embeddings: torch.Tensor = self._network(**tokens.to(self.device)).text_embeds
        return embeddings.float().cpu().numpy()
