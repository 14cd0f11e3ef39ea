"""Speech encoders: WavLM, wav2vec 2.0, and PDEM with its arousal-dominance-valence head, over 16 kHz audio.

One feature vector every 20 ms, at the centre of the 25 ms that its frame covers in the convolutions. Through attention
it depends on the chunk around it.

Agreement of chunked encoding with encoding a recording at once:

* A recording of at most one chunk is exact.
* The convolutions agree to 1e-5. Beyond them, chunks agree only as far as attention reaches no further than the chunk;
  random networks of these classes agree to 2 %.
* Checkpoints whose input has mean 0 and variance 1 are normalised per chunk (as in their training on utterances).
  Frames then differ by less than 1 % typically and 5 % at most, in the quietest frames.
* Base networks with group norm normalise their first layer over all of time: 2 % typically and 10 % at most.

`tests/encoders/test_speech.py` checks these figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien.encoders.audio_chunks import SAMPLE_RATE, Chunking, FrameGrid, encode_in_chunks, normalise
from mien.encoders.pretrained import PretrainedWeights, WeightSource, load_processor, load_tensors
from mien.encoders.pretrained_encoder import PretrainedEncoder, select_layers
from mien.encoders.wavlm_forward import SpeechNetwork
from mien.errors import ArtefactError, ConfigError
from mien.records import Stream

#: Class of transformers by `model_type` of config.json.
_CLASSES = {"wavlm": "WavLMModel", "wav2vec2": "Wav2Vec2Model"}
#: Used in training only; published checkpoints lack it.
_TRAINING_ONLY = r"masked_spec_embed$"
#: Layers that stay in float32 under int8. Of WavLM-Large's int8 error (1.8e-2, random weights) the second layer of the
#: feed-forward blocks causes 1.5e-2 and the first 1.0e-2 (less where fewer layers follow), the four projections of
#: attention 5e-4.
_FLOAT32_LAYERS = r"output_dense$|\.(\d|1[01])\.feed_forward\.intermediate_dense$"
#: Outputs of PDEM's head, in order, each about 0 to 1.
DIMENSIONS = ("arousal", "dominance", "valence")


class SpeechEncoder(PretrainedEncoder):
    """Pretrained speech network as an `AudioEncoder`.

    Frames whose 25 ms are digital silence (a filled gap, a muted track) are not valid.

    Args:
        layer: index of a hidden layer (0: the input of the first, -1: the output of the last); None for the last hidden
            state.
        last: average that layer and the `last - 1` before it.
        head: return the outputs of the checkpoint's regression head (`DIMENSIONS`) instead of hidden states, computed
            from the mean of the hidden states of `head_s` seconds around each frame. The head was trained on means of
            whole utterances of some seconds; a centred window is our choice, because it gives a timeline.
        chunk_s, context_s: length of a chunk, and how much of it at each end is context only, in seconds. Default 20
            and 1.5: the positional convolution covers 1.28 s to each side; longer chunks cost more in attention than
            they save in overlap (measured on a CPU: 0.51 ms per frame and layer at 20 s, 0.57 at 30, 0.50 at 15).
        precision: `auto`, `float32`, `bfloat16`, `float16`, or `int8` on a CPU.
        batch_size: chunks per call of the network; None takes 4 on a GPU and 1 on a CPU, where more gains nothing.
        name, about, types, device, revision, allow_pickle: see `PretrainedEncoder`.

    Raises:
        ConfigError: an option that does not fit the network.
        ArtefactError: see `PretrainedEncoder`; also if the checkpoint has no head, no feature extractor, or another
            sample rate.
    """

    modality = "voice"

    def __init__(
        self,
        name: str,
        about: WeightSource,
        *,
        types: tuple[str, ...] = tuple(_CLASSES),
        device: str | torch.device = "cpu",
        revision: str | None = None,
        layer: int | None = None,
        last: int = 1,
        head: bool = False,
        head_s: float = 4.0,
        chunk_s: float = 20.0,
        context_s: float = 1.5,
        precision: str = "auto",
        batch_size: int | None = None,
        allow_pickle: bool = False,
    ) -> None:
        super().__init__(
            name,
            about,
            types,
            device=device,
            revision=revision,
            precision=precision,
            allow_pickle=allow_pickle,
            int8=True,
        )
        reads_normalised = _reads_normalised(self._weights)
        model = self._load_model()
        self._layers = select_layers(name, model.config.num_hidden_layers, layer, last)
        self._network = SpeechNetwork(model, None if self._layers is None else self._layers.stop - 1)
        if head and layer is not None:
            raise ConfigError(
                f"{name}: its head reads the last hidden state; layer={layer} has no head.",
                follows="No encoder was created.",
                remedy="Omit `layer`, or omit `head`.",
            )
        self._head = _Head(self._weights, self._dtype, self.device) if head else None
        grid = FrameGrid.from_convolutions(self._network.kernels, self._network.strides)
        self.rate_hz: float | None = SAMPLE_RATE / grid.hop
        context_s = max(context_s, head_s / 2) if head else context_s
        length, context = round(chunk_s * self.rate_hz), round(context_s * self.rate_hz)
        if length <= 2 * context:
            raise ConfigError(
                f"{name}: a chunk of {chunk_s:g} s consists of context only, {context_s:g} s at each end.",
                follows="No encoder was created.",
                remedy="Make chunk_s more than twice context_s.",
            )
        self._head_frames = round(head_s * self.rate_hz / 2)
        self.dim = len(DIMENSIONS) if head else self._network.dim
        self.receptive_field_s = grid.samples(length) / SAMPLE_RATE
        self.batch_size = batch_size or (4 if self.device.type == "cuda" else 1)
        self.chunking = Chunking(grid, length, context, reads_normalised, self.batch_size)
        hidden = "last hidden state" if layer is None else f"{layer}, mean of {last}"
        self.provenance = self._provenance(
            layer=f"head over {head_s:g} s" if head else hidden,
            preprocessing="16 kHz mono" + (", each chunk to mean 0 and variance 1" if reads_normalised else ""),
            crop=f"chunks of {chunk_s:g} s, context {context_s:g} s",
        )

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """Encode the audio of one recording in chunks.

        Args:
            blocks: `(start in seconds, (n,) float32 samples)` at 16 kHz, consecutive.

        Yields:
            Pieces of one stream at 50 Hz, in order; none for less than 25 ms of audio.
        """
        yield from encode_in_chunks(blocks, self.chunking, self._encode, self.provenance)

    def _load_model(self) -> Any:
        return self._load(_CLASSES[self._weights.config["model_type"]], optional=_TRAINING_ONLY)

    def trainable_network(self) -> Any:
        """The network as transformers loads it, whose parameters `embed` reads from now on; for training and saving it.

        It is loaded again, because encoding keeps only the layers that it runs.
        """
        layers = self._network.layers
        del self._network
        model = self._load_model()
        model.freeze_feature_encoder()
        self._network = SpeechNetwork(model, layers)
        return model

    @torch.inference_mode()
    def dimensions(self, samples: np.ndarray) -> np.ndarray:
        """Arousal, dominance and valence of one utterance, as PDEM's authors compute them: `(n,)` float32 -> `(3,)`.

        The head reads the mean of all hidden states. Raises ConfigError if the encoder was created without its head.
        """
        if self._head is None:
            raise ConfigError(
                f"{self.name} was created without its head.",
                follows="Nothing was encoded.",
                remedy="Create it with head=True.",
            )
        row = np.asarray(samples, np.float32)[None]
        row = normalise(row) if self.chunking.normalise else row
        hidden = self._network(torch.from_numpy(row).to(self.device, self._dtype))[-1]
        dimensions: Tensor = self._head(hidden.mean(dim=1))[0]
        return dimensions.float().cpu().numpy()

    @torch.inference_mode()
    def _encode(self, samples: np.ndarray) -> np.ndarray:
        """`(batch, n)`, normalised if `chunking.normalise` -> `(batch, frames, dim)` float32."""
        inputs = torch.from_numpy(samples).to(self.device, self._dtype)
        return self._run(lambda: self.embed(inputs).float().cpu().numpy(), exclude=_FLOAT32_LAYERS)

    def embed(self, samples: Tensor) -> Tensor:
        """Samples `(batch, n)`, normalised if `chunking.normalise`, in the network's number format -> `(batch, frames,
        dim)`."""
        states: list[Tensor] = self._network(samples)
        if self._head is not None:
            return self._head.forward(_box_mean(states[-1], self._head_frames))
        if self._layers is None:
            return states[-1]
        return torch.stack([states[i] for i in self._layers]).mean(dim=0)


class _Head(torch.nn.Module):
    """Regression head of PDEM: two linear layers with a tanh between them, `(..., dim)` -> `(..., 3)`."""

    def __init__(self, weights: PretrainedWeights, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        tensors = load_tensors(weights, "classifier.")
        expected = {f"{layer}.{part}" for layer in ("dense", "out_proj") for part in ("weight", "bias")}
        if set(tensors) != expected or len(tensors["out_proj.bias"]) != len(DIMENSIONS):
            raise ArtefactError(
                f"{weights.folder} has no head of {len(DIMENSIONS)} dimensions ({', '.join(DIMENSIONS)}).",
                follows="No encoder was created.",
                remedy="Omit `head` for its hidden states, or name a checkpoint of PDEM.",
            )
        self._tensors = {key: value.to(device, dtype) for key, value in tensors.items()}

    def forward(self, hidden: Tensor) -> Tensor:
        w = self._tensors
        hidden = torch.tanh(torch.nn.functional.linear(hidden, w["dense.weight"], w["dense.bias"]))
        return torch.nn.functional.linear(hidden, w["out_proj.weight"], w["out_proj.bias"])


def _box_mean(hidden: Tensor, reach: int) -> Tensor:
    """Mean over `reach` frames to each side, fewer at the ends: `(batch, time, dim)` -> the same shape."""
    time = hidden.shape[1]
    total = torch.nn.functional.pad(hidden.double().cumsum(dim=1), (0, 0, 1, 0))
    frame = torch.arange(time, device=hidden.device)
    low, high = (frame - reach).clamp(min=0), (frame + reach + 1).clamp(max=time)
    return ((total[:, high] - total[:, low]) / (high - low)[:, None]).to(hidden.dtype)


def _reads_normalised(weights: PretrainedWeights) -> bool:
    """Whether the checkpoint's feature extractor scales audio to mean 0 and variance 1."""
    extractor: Any = load_processor(weights.folder, "AutoFeatureExtractor")
    if extractor.sampling_rate != SAMPLE_RATE:
        raise ArtefactError(
            f"{weights.folder} requires audio at {extractor.sampling_rate} Hz; mien provides {SAMPLE_RATE} Hz.",
            follows="No encoder was created.",
            remedy=f"Use a network trained on audio at {SAMPLE_RATE} Hz.",
        )
    return bool(extractor.do_normalize)
