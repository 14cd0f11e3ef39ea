"""A training step of one Mamba layer at batch 8 × 300 × 256 (state 8, kernel 5), beside what a user would pick.

    python bench/state_space.py [--threads 2] [--rounds 5]

Forward, backward and AdamW of one layer; a Transformer layer (8 heads) of the same width; transformers' Mamba block on
its slow path (the only one on a CPU), which takes so long that it is timed once. Ratios are to mien's layer.
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


def step(layer: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[], None]:
    optimiser, tokens = torch.optim.AdamW(layer.parameters(), fused=True), torch.randn(8, 300, 256)

    def once() -> None:
        loss = forward(tokens).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    memory.keep_freed_memory()
    valid = torch.ones(8, 300, dtype=torch.bool)
    ours, transformer = MambaLayer(dim=256, state=8, kernel=5), TransformerLayer(dim=256, heads=8, feedforward=1024)
    theirs = MambaBlock(
        MambaConfig(hidden_size=256, state_size=8, conv_kernel=5, expand=2, num_hidden_layers=1), layer_idx=0
    )
    ways = {
        "mien, MambaLayer": (step(ours, lambda x: ours(x, valid)), options.rounds),
        "mien, TransformerLayer, 8 heads": (step(transformer, lambda x: transformer(x, valid)), options.rounds),
        "transformers, MambaBlock": (step(theirs, theirs), 1),
    }
    found = {}
    for name, (once, rounds) in ways.items():
        if rounds > 1:
            once()
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            once()
            times.append(time.perf_counter() - began)
        found[name] = statistics.median(times)
    base = found["mien, MambaLayer"]
    print("| one layer, a training step at 8 × 300 × 256 | seconds | × |\n|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {seconds:.3f} | {seconds / base:.1f} |")


if __name__ == "__main__":
    main()
