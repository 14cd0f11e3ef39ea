"""Faster forward pass of WavLM and wav2vec 2.0, equal to that of transformers to 1e-4.

Differences from transformers:

* Attention of WavLM runs in `scaled_dot_product_attention`, with the gated relative position bias as its mask;
  transformers computes it step by step and keeps all attention weights. The bias depends only on the length and is
  kept between calls.
* Tensors stay `(batch, time, dim)`. Transformers passes `(time, batch, dim)` to WavLM's attention, for which bfloat16
  linear layers on a CPU copy their weights once per time step.
* On a CPU the convolutions of the feature extractor are matrix products on `(time, channels)` rows. Layer norm then
  needs no transposition, and no im2col is written: with stride 2, two neighbouring rows are one row of a view.
* The weight norm of the positional convolution is resolved once.
* Layers above the requested one are not run.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mien.encoders.audio_chunks import receptive_field

#: Output frames per block of the feature extractor on a CPU. The activations between its layers then fit the last-level
#: cache (7 MB for 1 s with 512 channels).
_BLOCK = 50


class SpeechNetwork(nn.Module):
    """Forward pass of a `WavLMModel` or `Wav2Vec2Model` of transformers, up to a given layer.

    Args:
        model: the loaded network, in evaluation mode. It is not changed.
        layers: number of Transformer layers to run; None runs all.
    """

    def __init__(self, model: Any, layers: int | None = None) -> None:
        super().__init__()
        config = model.config
        self.dim: int = config.hidden_size
        self.kernels, self.strides = tuple(config.conv_kernel), tuple(config.conv_stride)
        self.layers = config.num_hidden_layers if layers is None else layers
        self._runs_all = self.layers == config.num_hidden_layers
        self._pre_norm: bool = config.do_stable_layer_norm
        self._group_norm: bool = config.feat_extract_norm == "group"
        self._features = model.feature_extractor
        self._projection = model.feature_projection
        position = model.encoder.pos_conv_embed
        self._position, self._activation = position.conv, position.activation
        self.register_buffer("_position_weight", position.conv.weight.detach().clone(), persistent=False)
        self._norm = model.encoder.layer_norm
        self._stack = model.encoder.layers[: self.layers]
        has_bias = config.model_type == "wavlm" and self.layers > 0
        self._position_bias = _PositionBias(self._stack[0].attention) if has_bias else None
        self._kernel_rows: list[list[Tensor]] | None = None

    def frames(self, samples: int) -> int:
        """Number of frames of `samples` samples: each convolution keeps (n − kernel) // stride + 1."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples

    def forward(self, samples: Tensor) -> list[Tensor]:
        """Compute the hidden states.

        Args:
            samples: `(batch, n)` at 16 kHz, normalised as the checkpoint's feature extractor does.

        Returns:
            `layers + 1` tensors `(batch, frames, dim)`: the `hidden_states` of transformers (input of the first layer,
            then the output of each). If all layers run, `last_hidden_state` follows.
        """
        hidden = self._projection(self._extract(samples))[0]
        hidden = hidden + self._positions(hidden)
        if not self._pre_norm:
            hidden = self._norm(hidden)
        states = [hidden]
        bias = None if self._position_bias is None else self._position_bias(hidden)
        for layer in self._stack:
            if self._position_bias is None or bias is None:
                hidden = layer(hidden)
            else:
                hidden = self._wavlm_layer(self._position_bias, layer, hidden, bias)
            states.append(hidden)
        if self._runs_all:
            states.append(self._norm(hidden) if self._pre_norm else hidden)
        return states

    def _positions(self, hidden: Tensor) -> Tensor:
        """Convolutional position embedding. An even kernel gives one frame too many, which is cut off."""
        conv, time = self._position, hidden.shape[1]
        embedding: Tensor = F.conv1d(
            hidden.transpose(1, 2),
            self.get_buffer("_position_weight"),
            conv.bias,
            padding=conv.padding,
            groups=conv.groups,
        )
        embedding = self._activation(embedding[..., :time])
        return embedding.transpose(1, 2)

    def _wavlm_layer(self, position_bias: _PositionBias, layer: Any, hidden: Tensor, bias: Tensor) -> Tensor:
        """One layer of WavLM, pre-norm (large) or post-norm (base)."""
        if self._pre_norm:
            hidden = hidden + position_bias.attend(layer.attention, layer.layer_norm(hidden), bias)
            hidden = hidden + layer.feed_forward(layer.final_layer_norm(hidden))
        else:
            hidden = layer.layer_norm(hidden + position_bias.attend(layer.attention, hidden, bias))
            hidden = layer.final_layer_norm(hidden + layer.feed_forward(hidden))
        return hidden

    def _extract(self, samples: Tensor) -> Tensor:
        """`(batch, n)` -> `(batch, frames, channels)`."""
        if samples.device.type != "cpu" or torch.compiler.is_exporting():
            channels_first: Tensor = self._features(samples)
            return channels_first.transpose(1, 2)
        frames = self.frames(samples.shape[1])
        if self._group_norm:  # the first layer normalises over all of time, so time cannot be split into blocks
            return torch.stack([self._convolve(row) for row in samples])
        hop, field = receptive_field(self.kernels, self.strides)
        starts = range(0, frames, _BLOCK)
        return torch.stack(
            [
                torch.cat([self._convolve(row[s * hop : (min(s + _BLOCK, frames) - 1) * hop + field]) for s in starts])
                for row in samples
            ]
        )

    def _convolve(self, samples: Tensor) -> Tensor:
        """`(n,)` -> `(frames, channels)`."""
        if self._kernel_rows is None:
            self._kernel_rows = [_as_rows(layer.conv) for layer in self._features.conv_layers]
        rows = samples[:, None].contiguous()
        for layer, weights in zip(self._features.conv_layers, self._kernel_rows, strict=True):
            rows = _convolve_rows(rows, weights, layer.conv)
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):  # one channel a group: normalises each channel over time
                rows = norm(rows.T[None])[0].T
            elif norm is not None:
                rows = norm(rows)
            rows = layer.activation(rows).contiguous()
        return rows


class _PositionBias(nn.Module):
    """Relative position bias of WavLM: computed once per length, gated in each layer by that layer's input."""

    def __init__(self, first: Any) -> None:
        super().__init__()
        self._first = first
        self._cached: Tensor | None = None
        self._mask: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """`(heads, time, time)`. Cached for the last length: the chunks of a recording have equal length."""
        time = hidden.shape[1]
        if torch.compiler.is_exporting():  # without the cache: there the length is a symbol
            computed: Tensor = self._first.compute_bias(time, time)
            return computed
        bias = self._cached
        if bias is None or bias.shape[-1] != time or bias.device != hidden.device:
            bias = self._first.compute_bias(time, time).contiguous()
            self._cached = None if bias.requires_grad else bias  # in training the table of biases changes
        return bias

    def attend(self, attention: Any, hidden: Tensor, bias: Tensor) -> Tensor:
        """Self-attention of one layer: `(batch, time, dim)` -> the same shape.

        The mask row of a query is its gate times the bias (WavLM, arXiv 2110.13900, section 3.1). All layers share one
        mask buffer, because allocating a new one costs more than filling it.
        """
        batch, time, _ = hidden.shape
        heads = attention.num_heads
        split = hidden.view(batch, time, heads, -1)
        gates = torch.sigmoid(attention.gru_rel_pos_linear(split).view(batch, time, heads, 2, 4).sum(-1))
        a, b = gates.transpose(1, 2).unbind(-1)  # each (batch, heads, time)
        gate = a * (b * attention.gru_rel_pos_const.view(1, heads, 1) - 1.0) + 2.0
        mask = self._fill_mask(gate, bias)
        q, k, v = (
            project(hidden).view(batch, time, heads, -1).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=attention.scaling)
        output: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(batch, time, -1))
        return output

    def _fill_mask(self, gate: Tensor, bias: Tensor) -> Tensor:
        """Gates `(batch, heads, time)` times the bias, in the buffer that all layers share."""
        if torch.compiler.is_exporting() or gate.requires_grad or bias.requires_grad:
            return gate[..., None] * bias
        shape = (len(gate), *bias.shape)
        if self._mask is None or self._mask.shape != shape or self._mask.dtype != gate.dtype:
            self._mask = torch.empty(shape, dtype=gate.dtype, device=gate.device)
        torch.mul(gate[..., None], bias, out=self._mask)
        return self._mask


def _as_rows(conv: nn.Conv1d) -> list[Tensor]:
    """Split the kernel into groups of `stride` taps, each a matrix `(taps · channels, out)`."""
    stride = conv.stride[0]
    taps = conv.weight.permute(2, 1, 0)  # tap, channel, out
    return [taps[i : i + stride].flatten(0, 1).contiguous() for i in range(0, len(taps), stride)]


def _convolve_rows(rows: Tensor, weights: list[Tensor], conv: nn.Conv1d) -> Tensor:
    """Convolution over `(time, channels)` rows without copying them.

    A view joins `stride` neighbouring rows into one, which is multiplied by each group of taps.
    """
    stride, kernel = conv.stride[0], conv.kernel_size[0]
    frames, channels = (len(rows) - kernel) // stride + 1, rows.shape[1]
    output: Tensor | None = None
    for i, weight in enumerate(weights):
        joined = rows.as_strided(
            (frames, len(weight)), (stride * channels, 1), rows.storage_offset() + i * stride * channels
        )
        if output is None:
            output = joined @ weight if conv.bias is None else torch.addmm(conv.bias, joined, weight)
        else:
            output.addmm_(joined, weight)
    assert output is not None
    return output
