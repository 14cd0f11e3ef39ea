"""Words in the space of CLIP's pictures: prompts for systems that compare a face with what its label says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mien.encoders import pretrained
from mien.encoders.precision import choose, name_of
from mien.encoders.pretrained import WeightSource
from mien.errors import ConfigError


class PromptEncoder:
    """CLIP's text tower. Not for streams: `encode_prompts` is asked once, and its answer is kept.

    temperature: what CLIP multiplies cosine similarities with (about 100).

    Raises ArtefactError: see `pretrained`.
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
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        self.name, self.licence, self.device = name, about.licence, torch.device(device)
        checkpoint = pretrained.fetch(about, revision=revision, allow_pickle=allow_pickle)
        types, dtype = ("clip", "clip_text_model"), choose(precision, self.device)
        pretrained.check_type(checkpoint, types)
        config = CLIPTextConfig.from_pretrained(checkpoint.folder)
        # A whole CLIP says the width once for both towers; the text part alone would take its default.
        config.projection_dim = checkpoint.config.get("projection_dim", config.projection_dim)
        network = pretrained.load(checkpoint, CLIPTextModelWithProjection, types, dtype=dtype, config=config)
        self._network = network.to(self.device)
        self._tokenizer: Any = pretrained.tokenizer(checkpoint)
        self._most: int = config.max_position_embeddings
        self.dim = int(network.config.projection_dim)
        scale = pretrained.tensors(checkpoint, "logit_scale").get("")
        self.temperature = math.exp(float(scale)) if scale is not None else math.nan
        self.provenance: Mapping[str, str] = pretrained.provenance(
            about, checkpoint, layer="embedding", preprocessing="its tokenizer", crop="", precision=name_of(dtype)
        )

    @torch.inference_mode()
    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """`(len(prompts), dim)` float32, not normalised. Raises ConfigError for a prompt that CLIP would cut
        off (77 tokens in the published ones)."""
        tokens = self._tokenizer(list(prompts), padding=True, return_tensors="pt")
        lengths = tokens["attention_mask"].sum(dim=1)
        if (worst := int(lengths.max())) > self._most:
            raise ConfigError(
                f"The prompt {prompts[int(lengths.argmax())]!r} has {worst} tokens; {self.name} reads {self._most}.",
                remedy="Shorten it.",
            )
        return self._network(**tokens.to(self.device)).text_embeds.float().cpu().numpy()
