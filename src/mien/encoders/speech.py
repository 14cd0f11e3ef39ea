"""Speech networks over 16 kHz sound: WavLM, wav2vec 2.0, and PDEM with its arousal-dominance-valence head.

A value every 20 ms, at the time of the centre of the 25 ms that its frame sees through the convolutions; through
attention it depends on the chunk around it.

How far chunks agree with the recording in one piece: a recording no longer than one chunk is exact. Beyond that,
convolutions agree to 1e-5; the rest only as far as attention looks no further than the chunk, which no network
promises; random networks of these classes agree to 2 %. Where the checkpoint wants sound of mean 0 and variance
1, those are of the chunk (which is also what it was trained on: utterances, not films), and frames then differ
by under 1 % typically and 5 % at worst, in the quietest; networks with group norm (the base ones), which
normalise their first layer over all of time, by 2 % and 10 %. `tests/encoders/test_waveform.py` holds them to
these figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mien import memory
from mien.encoders import pretrained
from mien.encoders.audio_chunks import Chunk, Grid, cut
from mien.encoders.int8 import switch
from mien.encoders.precision import choose, name_of
from mien.encoders.pretrained import PretrainedWeights, WeightSource
from mien.encoders.wavlm_forward import SpeechNetwork
from mien.errors import ArtefactError, ConfigError
from mien.records import Stream

SAMPLE_RATE = 16_000
#: Read by `model_type` of config.json.
_CLASSES = {"wavlm": "WavLMModel", "wav2vec2": "Wav2Vec2Model"}
#: Only training uses it, and published checkpoints lack it.
_UNUSED = r"masked_spec_embed$"
#: Stay in float32 under int8: of WavLM-Large's error in 8 bits (1.8e-2, random weights) the layers' last product makes
#: 1.5e-2 and their wide one 1.0e-2, less where fewer layers follow; the four projections of attention make 5e-4.
_ROUNDED_BADLY = r"output_dense$|\.(\d|1[01])\.feed_forward\.intermediate_dense$"
#: What PDEM's head says, in its order, each about 0 to 1.
DIMENSIONS = ("arousal", "dominance", "valence")


class SpeechEncoder:
    """A pretrained speech network as an `AudioEncoder`.

    Args:
        name: what it is called in the store.
        about: where it comes from (hub id or folder), its size and licence.
        types: the `model_type`s it may be.
        layer: None for the network's last hidden state; else the index of a hidden layer (0: the input of the
            first, -1: the output of the last). last: the mean of that layer and the `last - 1` before it.
        head: give what the checkpoint's regression head says (`DIMENSIONS`) instead of hidden states: over the
            mean of the hidden states of `head_s` seconds around each frame. The head was trained on means over
            whole utterances of some seconds; a centred window is our choice, because it makes a timeline.
        chunk_s, context_s: seconds in one chunk, and how many of them at each end are only context. 20 and 1.5:
            the positional convolution sees 1.28 s to each side; longer chunks cost more in attention than they
            save in overlap (measured on a CPU: 0.51 ms a frame and layer at 20 s, 0.57 at 30, 0.50 at 15).
        precision: `auto`, `float32`, `bfloat16`, `float16`, or `int8` (see `quantised`; on a CPU).
        batch_size: chunks at once; None: 4 on a GPU, 1 on a CPU, where more gains nothing.

    Frames whose 25 ms are digital silence (a gap that was filled, a muted track) are not valid.

    Raises:
        ConfigError: an option that does not fit the network. ArtefactError: see `pretrained`.
    """

    modality = "voice"

    def __init__(
        self,
        name: str,
        about: WeightSource,
        *,
        types: tuple[str, ...] = ("wavlm", "wav2vec2"),
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
        self.name, self.licence, self.device = name, about.licence, torch.device(device)
        if self.device.type == "cpu":
            memory.keep_freed_memory()
        checkpoint = pretrained.fetch(about, revision=revision, allow_pickle=allow_pickle)
        pretrained.check_type(checkpoint, types)
        self._dtype, self._rounds = choose(precision, self.device, int8=True), precision == "int8"
        self._normalise = _normalises(checkpoint)
        model = _load(checkpoint, types, self._dtype).to(self.device)
        self._layers = _layers(name, model.config.num_hidden_layers, layer, last)
        self._network = SpeechNetwork(model, None if self._layers is None else self._layers.stop - 1)
        self._head = _Head(checkpoint, self._dtype, self.device) if head else None
        if head and layer is not None:
            raise ConfigError(f"{name}: its head reads the last hidden state; layer={layer} has no head.")
        self._grid = Grid.of(self._network.kernels, self._network.strides)
        self.rate_hz: float | None = SAMPLE_RATE / self._grid.hop
        context_s = max(context_s, head_s / 2) if head else context_s
        self._length, self._context = round(chunk_s * self.rate_hz), round(context_s * self.rate_hz)
        if self._length <= 2 * self._context:
            raise ConfigError(
                f"{name}: a chunk of {chunk_s:g} s is nothing but context, {context_s:g} s at each end.",
                remedy="Make chunk_s more than twice context_s.",
            )
        self._head_frames = round(head_s * self.rate_hz / 2)
        self.dim = len(DIMENSIONS) if self._head else self._network.dim
        self.receptive_field_s = self._grid.samples(self._length) / SAMPLE_RATE
        self.batch_size = batch_size or (4 if self.device.type == "cuda" else 1)
        what = "last hidden state" if layer is None else f"{layer}, mean of {last}"
        self.provenance: Mapping[str, str] = pretrained.provenance(
            about,
            checkpoint,
            layer=f"head over {head_s:g} s" if head else what,
            preprocessing="16 kHz mono" + (", each chunk to mean 0 and variance 1" if self._normalise else ""),
            crop=f"chunks of {chunk_s:g} s, context {context_s:g} s",
            precision="int8" if self._rounds else name_of(self._dtype),
        )

    def encode_audio(self, blocks: Iterable[tuple[float, np.ndarray]]) -> Iterator[Stream]:
        """blocks: `(start_s, (n,) float32)` at 16 kHz, consecutive. Yields pieces of one stream at 50 Hz, in
        order; none where there is less than 25 ms of sound."""
        starts: list[float] = []

        def samples() -> Iterator[np.ndarray]:
            for start, block in blocks:
                starts.append(start) if not starts else None
                yield np.asarray(block, np.float32)

        for batch in _batches(cut(samples(), self._grid, self._length, self._context), self.batch_size):
            for chunk, values in zip(batch, self._encode(batch), strict=True):
                yield self._piece(chunk, values, starts[0])

    @torch.inference_mode()
    def dimensions(self, samples: np.ndarray) -> np.ndarray:
        """`(n,)` float32 -> `(3,)` arousal, dominance, valence of an utterance, as the authors of PDEM compute
        them: the head over the mean of all hidden states. Needs `head=True`."""
        if self._head is None:
            raise ConfigError(f"{self.name} was made without its head.", remedy="Say head=True.")
        hidden = self._network(self._prepared(np.asarray(samples, np.float32)[None]))[-1]
        return self._head(hidden.mean(dim=1))[0].float().cpu().numpy()

    def _encode(self, batch: list[Chunk]) -> np.ndarray:
        if self._rounds:
            self._rounds = False
            return switch(self.name, self._network, lambda: self._values(batch), leave=_ROUNDED_BADLY)
        return self._values(batch)

    @torch.inference_mode()
    def _values(self, batch: list[Chunk]) -> np.ndarray:
        """`(batch, frames, dim)` float32 of chunks of one length."""
        states = self._network(self._prepared(np.stack([chunk.samples for chunk in batch])))
        if self._head is not None:
            values = self._head(_box_mean(states[-1], self._head_frames))
        elif self._layers is None:
            values = states[-1]
        else:
            values = torch.stack([states[i] for i in self._layers]).mean(dim=0)
        return values.float().cpu().numpy()

    def _prepared(self, samples: np.ndarray) -> Tensor:
        if self._normalise:
            mean = samples.mean(axis=1, keepdims=True)
            samples = (samples - mean) / np.sqrt(samples.var(axis=1, keepdims=True) + 1e-7)
        return torch.from_numpy(samples).to(self.device, self._dtype)

    def _piece(self, chunk: Chunk, values: np.ndarray, start_s: float) -> Stream:
        frames = np.arange(*chunk.keep)
        times = start_s + self._grid.centre(chunk.first + frames) / SAMPLE_RATE
        sound = np.concatenate([[0], np.cumsum(chunk.samples != 0)])
        begin = frames * self._grid.hop
        valid = sound[begin + self._grid.field] > sound[begin]
        return Stream(values[chunk.keep[0] : chunk.keep[1]], times, valid, self.provenance)


class _Head(torch.nn.Module):
    """PDEM's regression head: two linear layers with a tanh between them. `(..., dim)` -> `(..., 3)`."""

    def __init__(self, checkpoint: PretrainedWeights, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        weights = pretrained.tensors(checkpoint, "classifier.")
        wanted = {f"{layer}.{part}" for layer in ("dense", "out_proj") for part in ("weight", "bias")}
        if set(weights) != wanted or len(weights["out_proj.bias"]) != len(DIMENSIONS):
            raise ArtefactError(
                f"{checkpoint.folder} has no head of {len(DIMENSIONS)} dimensions ({', '.join(DIMENSIONS)}).",
                follows="No encoder was made.",
                remedy="Leave `head` out for its hidden states, or name a checkpoint of PDEM.",
            )
        self._weights = {key: value.to(device, dtype) for key, value in weights.items()}

    def forward(self, hidden: Tensor) -> Tensor:
        w = self._weights
        hidden = torch.tanh(torch.nn.functional.linear(hidden, w["dense.weight"], w["dense.bias"]))
        return torch.nn.functional.linear(hidden, w["out_proj.weight"], w["out_proj.bias"])


def _box_mean(hidden: Tensor, reach: int) -> Tensor:
    """`(batch, time, dim)`: mean over `reach` frames to each side, fewer at the ends."""
    time = hidden.shape[1]
    total = torch.nn.functional.pad(hidden.double().cumsum(dim=1), (0, 0, 1, 0))
    frame = torch.arange(time, device=hidden.device)
    low, high = (frame - reach).clamp(min=0), (frame + reach + 1).clamp(max=time)
    return ((total[:, high] - total[:, low]) / (high - low)[:, None]).to(hidden.dtype)


def _batches(chunks: Iterable[Chunk], size: int) -> Iterator[list[Chunk]]:
    """Up to `size` chunks of equal length at a time."""
    batch: list[Chunk] = []
    for chunk in chunks:
        if batch and (len(batch) == size or len(batch[0].samples) != len(chunk.samples)):
            yield batch
            batch = []
        batch.append(chunk)
    if batch:
        yield batch


def _layers(name: str, count: int, layer: int | None, last: int) -> range | None:
    """Indices of the hidden states to average; None for the last hidden state."""
    if layer is None:
        if last != 1:
            raise ConfigError(f"{name}: last={last} needs `layer`, the last of the layers to average.")
        return None
    index = layer + count + 1 if layer < 0 else layer
    if not 0 <= index <= count or not 1 <= last <= index + 1:
        raise ConfigError(f"{name}: layer={layer} with last={last} does not exist; it has hidden layers 0 to {count}.")
    return range(index - last + 1, index + 1)


def _load(checkpoint: PretrainedWeights, types: tuple[str, ...], dtype: torch.dtype) -> Any:
    import transformers

    kind = _CLASSES.get(str(checkpoint.config.get("model_type")), "WavLMModel")
    return pretrained.load(checkpoint, getattr(transformers, kind), types, dtype=dtype, may_miss=_UNUSED)


def _normalises(checkpoint: PretrainedWeights) -> bool:
    """Whether the checkpoint's feature extractor brings sound to mean 0 and variance 1."""
    from transformers import AutoFeatureExtractor

    try:
        extractor = AutoFeatureExtractor.from_pretrained(checkpoint.folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ArtefactError(
            f"{checkpoint.folder} has no readable preprocessor_config.json, so what the network expects is unknown.",
            follows="No encoder was made.",
            remedy="Save the feature extractor beside the weights (`save_pretrained`), or download all files.",
        ) from error
    if extractor.sampling_rate != SAMPLE_RATE:
        raise ArtefactError(
            f"{checkpoint.folder} wants sound at {extractor.sampling_rate} Hz; mien reads {SAMPLE_RATE} Hz.",
            follows="No encoder was made.",
        )
    return bool(extractor.do_normalize)
