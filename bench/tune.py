"""Time and memory of a training step that tunes an encoder of full width.

    python bench/tune.py [--threads 2] [--steps 3] [--batch 4]

BEiT-Large on faces of 224 pixels and WavLM-Large on windows of 4 s, with random weights, in float32: LoRA of rank 16 in
all blocks, and the last 4 blocks. Each case runs in its own process; the first step is left out, and the others' median
counts. CPU seconds are those of all threads: divided by the threads, the wall time on idle cores. Memory is the highest
resident set of the process. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from mien import memory
from mien.labels import EXPRESSIONS
from mien.training.tuning import create_base, make_recipe
from mien.training.tuning_batches import TuningData
from mien.training.tuning_examples import Examples
from mien.training.tuning_network import Adaptation, Objective, TunedNetwork

CASES = [
    (kind, how, count) for kind in ("beit-large", "wavlm-large") for how, count in (("lora", 16), ("last_blocks", 4))
]
WINDOW_S = 4.0


def write_network(kind: str, folder: Path) -> None:
    """Write a network of full width with random weights, and its processor."""
    if kind == "beit-large":
        network = transformers.BeitModel(
            transformers.BeitConfig(
                hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
                use_relative_position_bias=True, layer_scale_init_value=1e-5,
            )
        )  # fmt: skip
        processor = transformers.BeitImageProcessorPil(size={"height": 224, "width": 224}, do_center_crop=False)
    else:
        network = transformers.WavLMModel(
            transformers.WavLMConfig(
                hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096,
                feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=False,
            )
        )  # fmt: skip
        processor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)


def measure(kind: str, how: str, count: int, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Wall and CPU seconds of a step, trained weights, and the highest resident memory in MB."""
    torch.set_num_threads(options.threads)
    memory.keep_freed_memory()
    spec = f"{kind}={folder}"
    recipe = make_recipe(spec, {"folder": Path("x")}, EXPRESSIONS, {}, {how: count}, [f"train.batch={options.batch}"])
    encoder = create_base(spec, "cpu")
    system = TunedNetwork(encoder, 8, Adaptation(**recipe.model.options), Objective(), lr=recipe.train.lr)
    optimiser = torch.optim.AdamW(system.parameter_groups(0.01), lr=1e-4, fused=True)
    rng, total = np.random.default_rng(0), options.batch * (options.steps + 1)
    if kind == "beit-large":
        sources = list(rng.integers(0, 256, (total, 224, 224, 3), dtype=np.uint8))
    else:
        sources = list(rng.normal(0, 2000, (total, round(WINDOW_S * 16_000))).astype(np.int16))
    data = TuningData(
        recipe,
        encoder,
        Examples(sources, np.eye(8, dtype=np.float32)[rng.integers(0, 8, total)], ["folder"] * total),
        None,
    )
    system.train()
    times = []
    for batch in data.batches(0, (0, 1)):
        began, used = time.perf_counter(), time.process_time()
        loss, _ = system.objective(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        times.append((time.perf_counter() - began, time.process_time() - used))
    trained = sum(p.numel() for p in system.parameters() if p.requires_grad)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    wall, cpu = (statistics.median(column) for column in zip(*times[1:], strict=True))
    return {"wall": wall, "cpu": cpu, "trained": trained / 1e6, "mb": peak}


def main() -> None:
    """Measure every case in its own process and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        kind, how, count, folder = options.case
        print(json.dumps(measure(kind, how, int(count), Path(folder), options)))
        return
    print("| | trained weights, million | CPU s a step | wall s a step | resident MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as work:
        for kind, how, count in CASES:
            folder = Path(work) / kind
            if not folder.exists():
                write_network(kind, folder)
            words = [sys.executable, __file__, "--case", kind, how, str(count), str(folder)]
            words += [f"--{name}={getattr(options, name)}" for name in ("threads", "steps", "batch")]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            name = f"{kind}, {'LoRA, rank' if how == 'lora' else 'last'} {count}{'' if how == 'lora' else ' blocks'}"
            row = f"{found['trained']:.1f} | {found['cpu']:.1f} | {found['wall']:.1f} | {found['mb']:.0f}"
            print(f"| {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
