"""Time of a training step of one Mamba layer beside a Transformer layer and transformers' Mamba block.

    python bench/state_space.py [--threads 2] [--rounds 5]

Forward, backward and AdamW of one layer at batch 8 × 300 × 256 (state 8, kernel 5); the Transformer layer has 8 heads.
transformers' Mamba block runs its slow path, the only one on a CPU, and is timed once. Ratios are to mien's layer.
Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaBlock

from mien import memory
from mien.layers.state_space import MambaLayer
from mien.layers.temporal import TransformerLayer


def make_step(layer: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    """Make a function that does one training step on random tokens."""
    optimiser, tokens = torch.optim.AdamW(layer.parameters(), fused=True), torch.randn(8, 300, 256)

    def step() -> None:
        loss = forward(tokens).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def main() -> None:
    """Time all layers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    memory.keep_freed_memory()
    valid = torch.ones(8, 300, dtype=torch.bool)
    mamba_layer, transformer = (
        MambaLayer(dim=256, state=8, kernel=5),
        TransformerLayer(dim=256, heads=8, feedforward=1024),
    )
    mamba_block = MambaBlock(
        MambaConfig(hidden_size=256, state_size=8, conv_kernel=5, expand=2, num_hidden_layers=1), layer_idx=0
    )
    candidates = {
        "mien, MambaLayer": (make_step(mamba_layer, lambda x: mamba_layer(x, valid)), options.rounds),
        "mien, TransformerLayer, 8 heads": (make_step(transformer, lambda x: transformer(x, valid)), options.rounds),
        "transformers, MambaBlock": (make_step(mamba_block, mamba_block), 1),
    }
    medians = {}
    for name, (step, rounds) in candidates.items():
        if rounds > 1:
            step()
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            step()
            times.append(time.perf_counter() - began)
        medians[name] = statistics.median(times)
    base = medians["mien, MambaLayer"]
    print("| one layer, a training step at 8 × 300 × 256 | seconds | × |\n|---|---|---|")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.3f} | {seconds / base:.1f} |")


if __name__ == "__main__":
    main()
