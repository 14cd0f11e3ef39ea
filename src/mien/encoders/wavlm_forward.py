"""WavLM and wav2vec 2.0 forward, with the library's weights and numbers (to 1e-4) and less work.

What is done differently, and why:

* Attention of WavLM runs through `scaled_dot_product_attention`, its gated relative position bias as the
  mask; the library computes it eagerly and keeps every weight. The bias itself depends on the length alone
  and is kept between calls.
* Everything stays `(batch, time, dim)`: the library's attention of WavLM hands torch `(time, batch, dim)`,
  for which bfloat16 linears on a CPU copy their weights once for each time step.
* On a CPU the convolutions of the feature extractor are matrix products on `(time, channels)` rows. Layer
  norm then needs no transposition, and no im2col is written: with stride 2, two neighbouring rows are one row
  of a view.
* The weight norm of the positional convolution is resolved once.
* Layers above the one asked for are not run.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Frames of the feature extractor's output made at once on a CPU: what passes between its layers then stays
#: in the last-level cache (7 MB for 1 s with 512 channels).
_BLOCK = 50


class SpeechNetwork(nn.Module):
    """A `WavLMModel` or `Wav2Vec2Model` of transformers, taken apart.

    Args:
        model: the loaded network, in evaluation mode. It is not changed.
        layers: how many Transformer layers to run; None runs all.
    """

    def __init__(self, model: Any, layers: int | None = None) -> None:
        super().__init__()
        config = model.config
        self.dim: int = config.hidden_size
        self.kernels, self.strides = tuple(config.conv_kernel), tuple(config.conv_stride)
        self.layers = config.num_hidden_layers if layers is None else layers
        self._final = self.layers == config.num_hidden_layers
        self._stable: bool = config.do_stable_layer_norm
        self._grouped: bool = config.feat_extract_norm == "group"
        self._features = model.feature_extractor
        self._projection = model.feature_projection
        position = model.encoder.pos_conv_embed
        self._position, self._activation = position.conv, position.activation
        self.register_buffer("_position_weight", position.conv.weight.detach().clone(), persistent=False)
        self._norm = model.encoder.layer_norm
        self._stack = model.encoder.layers[: self.layers]
        self._bias = _PositionBias(self._stack[0].attention) if config.model_type == "wavlm" and self.layers else None
        self._rows: list[list[Tensor]] | None = None

    def frames(self, samples: int) -> int:
        """How many frames `samples` make: each convolution keeps (n − kernel) // stride + 1."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
        return samples

    def forward(self, samples: Tensor) -> list[Tensor]:
        """samples: `(batch, n)`, normalised as the checkpoint's feature extractor does. Returns `layers + 1`
        tensors `(batch, frames, dim)`, the `hidden_states` of the library (input of the first layer, output
        of each), and, where all layers are run, `last_hidden_state` after them."""
        hidden = self._projection(self._extract(samples))[0]
        hidden = hidden + self._positions(hidden)
        if not self._stable:
            hidden = self._norm(hidden)
        bias = self._bias(hidden) if self._bias is not None else None
        states = [hidden]
        for layer in self._stack:
            hidden = layer(hidden) if bias is None else self._layer(layer, hidden, bias)
            states.append(hidden)
        if self._final:
            states.append(self._norm(hidden) if self._stable else hidden)
        return states

    def _positions(self, hidden: Tensor) -> Tensor:
        """The convolutional position embedding; an even kernel makes one frame too many."""
        conv, time = self._position, hidden.shape[1]
        made = F.conv1d(
            hidden.transpose(1, 2),
            self.get_buffer("_position_weight"),
            conv.bias,
            padding=conv.padding,
            groups=conv.groups,
        )
        return self._activation(made[..., :time]).transpose(1, 2)

    def _layer(self, layer: Any, hidden: Tensor, bias: Tensor) -> Tensor:
        """One layer of WavLM, before-norm (large) or after-norm (base)."""
        assert self._bias is not None
        attended = self._bias.attend(layer.attention, layer.layer_norm(hidden) if self._stable else hidden, bias)
        hidden = hidden + attended
        if self._stable:
            return hidden + layer.feed_forward(layer.final_layer_norm(hidden))
        hidden = layer.layer_norm(hidden)
        return layer.final_layer_norm(hidden + layer.feed_forward(hidden))

    def _extract(self, samples: Tensor) -> Tensor:
        """`(batch, n)` -> `(batch, frames, channels)`."""
        if samples.device.type != "cpu":
            return self._features(samples).transpose(1, 2)
        frames = self.frames(samples.shape[1])
        if self._grouped:  # its first layer normalises over all of time, so time cannot be cut here
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
        if self._rows is None:
            self._rows = [_as_rows(layer.conv) for layer in self._features.conv_layers]
        rows = samples[:, None].contiguous()
        for layer, weights in zip(self._features.conv_layers, self._rows, strict=True):
            rows = _convolve_rows(rows, weights, layer.conv)
            norm = getattr(layer, "layer_norm", None)
            if isinstance(norm, nn.GroupNorm):  # one channel a group: normalises each channel over time
                rows = norm(rows.T[None])[0].T
            elif norm is not None:
                rows = norm(rows)
            rows = layer.activation(rows).contiguous()
        return rows


class _PositionBias(nn.Module):
    """WavLM's relative position bias: made for a length once, gated in each layer by that layer's input."""

    def __init__(self, first: Any) -> None:
        super().__init__()
        self._first = first
        self._made: Tensor | None = None
        self._mask: Tensor | None = None

    def forward(self, hidden: Tensor) -> Tensor:
        """`(heads, time, time)`, of the lengths seen last: chunks of a recording are all of one length."""
        time = hidden.shape[1]
        if self._made is None or self._made.shape[-1] != time or self._made.device != hidden.device:
            self._made = self._first.compute_bias(time, time).contiguous()
        return self._made

    def attend(self, attention: Any, hidden: Tensor, bias: Tensor) -> Tensor:
        """hidden: `(batch, time, dim)`. The mask of a query's row is its gate times the bias (WavLM, section
        3.1); it is written into one buffer for all layers, because a fresh one costs more than filling it."""
        batch, time, _ = hidden.shape
        heads = attention.num_heads
        split = hidden.view(batch, time, heads, -1)
        gates = torch.sigmoid(attention.gru_rel_pos_linear(split).view(batch, time, heads, 2, 4).sum(-1))
        a, b = gates.transpose(1, 2).unbind(-1)  # each (batch, heads, time)
        gate = a * (b * attention.gru_rel_pos_const.view(1, heads, 1) - 1.0) + 2.0
        if self._mask is None or self._mask.shape != (batch, *bias.shape) or self._mask.dtype != hidden.dtype:
            self._mask = torch.empty((batch, *bias.shape), dtype=hidden.dtype, device=hidden.device)
        torch.mul(gate[..., None], bias, out=self._mask)
        q, k, v = (
            project(hidden).view(batch, time, heads, -1).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=self._mask, scale=attention.scaling)
        return attention.out_proj(mixed.transpose(1, 2).reshape(batch, time, -1))


def receptive_field(kernels: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int]:
    """Hop and width, in samples, of what one frame sees after a stack of convolutions without padding. The
    convolutions of these networks: 320 and 400."""
    hop, field = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        field += (kernel - 1) * hop
        hop *= stride
    return hop, field


def _as_rows(conv: nn.Conv1d) -> list[Tensor]:
    """The kernel cut into groups of `stride` taps, each as a matrix `(taps · channels, out)`."""
    stride = conv.stride[0]
    taps = conv.weight.permute(2, 1, 0)  # tap, channel, out
    return [taps[i : i + stride].flatten(0, 1).contiguous() for i in range(0, len(taps), stride)]


def _convolve_rows(rows: Tensor, weights: list[Tensor], conv: nn.Conv1d) -> Tensor:
    """Convolution over `(time, channels)` rows without copying them: `stride` neighbouring rows, seen as one,
    times each group of taps."""
    stride, kernel = conv.stride[0], conv.kernel_size[0]
    frames, channels = (len(rows) - kernel) // stride + 1, rows.shape[1]
    made: Tensor | None = None
    for i, weight in enumerate(weights):
        seen = rows.as_strided(
            (frames, len(weight)), (stride * channels, 1), rows.storage_offset() + i * stride * channels
        )
        if made is None:
            made = seen @ weight if conv.bias is None else torch.addmm(conv.bias, seen, weight)
        else:
            made.addmm_(seen, weight)
    assert made is not None
    return made
