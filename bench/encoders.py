"""Speed and error of BEiT-Large and WavLM-Large in mien beside a plain transformers loop, random weights.

    python bench/encoders.py [--only BEiT-Large] [--crops 32] [--seconds 40] [--device auto] [--threads 2] [--json FILE]

The plain loop is what a user would write: the library's processor and model, one image (one piece of 20 s of sound) at
a time, float32. mien encodes the same input from the same folder of weights, in float32 and in the other precisions of
the machine (int8 on a CPU, bfloat16 where it is faster). Rounds alternate, so that other load on the machine affects
all of them equally; the median round counts. The error is relative to the plain loop (sound: within one piece, so that
it contains no chunk border). torch counts the multiply-adds. The weights are random with the spread of the library's
initialisation: the speed is that of published weights, the error of int8 need not be (`int8` checks it). Prints
Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoFeatureExtractor,
    AutoImageProcessor,
    BeitConfig,
    BeitImageProcessorPil,
    BeitModel,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
)

from mien.encoders import registry
from mien.encoders.precision import choose
from mien.encoders.protocol import AudioEncoder, CropEncoder

#: Dense half-precision peak in operations per second, from the manufacturer's data sheets.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
Encode = Callable[[], np.ndarray]


def save_beit(folder: Path) -> Path:
    """Save a random model with the configuration of microsoft/beit-large-patch16-224-pt22k-ft22k."""
    config = BeitConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        use_relative_position_bias=True,
        use_absolute_position_embeddings=False,
        use_mask_token=False,
        layer_scale_init_value=0.1,
    )
    BeitModel(config).save_pretrained(folder)
    BeitImageProcessorPil(size={"height": 224, "width": 224}, do_center_crop=False).save_pretrained(folder)
    return folder


def save_wavlm(folder: Path) -> Path:
    """Save a random model with the configuration of microsoft/wavlm-large."""
    config = WavLMConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        intermediate_size=4096,
        num_buckets=320,
        max_bucket_distance=800,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    WavLMModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder


def plain_beit(folder: Path, crops: np.ndarray, device: str) -> Encode:
    """Plain loop over crops `(n, 224, 224, 3)`."""
    processor, model = AutoImageProcessor.from_pretrained(folder, backend="pil"), BeitModel.from_pretrained(folder)
    model = model.eval().to(device)

    def encode() -> np.ndarray:
        with torch.inference_mode():
            rows = [model(**processor(crop, return_tensors="pt").to(device)).pooler_output for crop in crops]
        return torch.cat(rows).cpu().numpy()

    return encode


def plain_wavlm(folder: Path, sound: np.ndarray, device: str) -> Encode:
    """The baseline: encode sound `(n,)` at 16 kHz in consecutive pieces of 20 s, with transformers and a plain loop."""
    processor, model = AutoFeatureExtractor.from_pretrained(folder), WavLMModel.from_pretrained(folder)
    model = model.eval().to(device)
    pieces = np.split(sound, range(320_000, len(sound), 320_000))

    def encode() -> np.ndarray:
        with torch.inference_mode():
            rows = [
                model(**processor(piece, sampling_rate=16_000, return_tensors="pt").to(device)).last_hidden_state[0]
                for piece in pieces
            ]
        return torch.cat(rows).cpu().numpy()

    return encode


def crop_encoder(folder: Path, crops: np.ndarray, device: str, precision: str) -> Encode:
    """mien's encoder on the same crops."""
    encoder = registry.create(f"beit-large={folder},precision={precision}", device=device)
    assert isinstance(encoder, CropEncoder)
    return lambda: encoder.encode_crops(crops)


def sound_encoder(folder: Path, sound: np.ndarray, device: str, precision: str) -> Encode:
    """mien's encoder on the same sound."""
    encoder = registry.create(f"wavlm-large={folder},precision={precision}", device=device)
    assert isinstance(encoder, AudioEncoder)
    return lambda: np.concatenate([s.values for s in encoder.encode_audio([(0.0, sound)])])


def relative_error(values: np.ndarray, reference: np.ndarray) -> float:
    """Norm of the difference over the norm of the reference, over the common rows."""
    rows = min(len(values), len(reference))
    return float(np.linalg.norm(values[:rows] - reference[:rows]) / np.linalg.norm(reference[:rows]))


def count_flops(encode: Encode) -> float:
    """Multiply-adds of one call, twice."""
    with FlopCounterMode(display=False) as counter:
        encode()
    return float(counter.get_total_flops())


def main() -> None:
    """Compare both networks and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crops", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--only", choices=("BEiT-Large", "WavLM-Large"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = options.device if options.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    variants = [device, f"{device} float32", *([f"{device} int8"] if device == "cpu" else [])]
    if choose("auto", torch.device(device)) == torch.bfloat16:
        variants.append(f"{device} bfloat16")
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (options.crops, 224, 224, 3), np.uint8)
    sound = (rng.standard_normal(round(options.seconds * 16_000)) * 0.1).astype(np.float32)
    result = {}
    with tempfile.TemporaryDirectory() as name:
        for network, (make, _, _) in NETWORKS.items():
            if options.only not in (None, network):
                continue
            folder = make(Path(name) / network)
            given, short = (crops, crops[:4]) if network == "BEiT-Large" else (sound, sound[: 16_000 * 19])
            unit, amount = ("crops/s", len(crops)) if given is crops else ("s of sound/s", options.seconds)
            result[network] = compare(network, variants, folder, given, short, options.rounds, options.threads)
            report(network, result[network], amount, unit, device)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


PLAIN = "plain transformers loop, float32, batch 1"
#: Network -> function that saves it, plain loop, mien's encoder.
NETWORKS: dict[str, tuple[Callable[..., Any], Callable[..., Encode], Callable[..., Encode]]] = {
    "BEiT-Large": (save_beit, plain_beit, crop_encoder),
    "WavLM-Large": (save_wavlm, plain_wavlm, sound_encoder),
}


def serve(
    line: Connection, network: str, variant: str, folder: Path, given: np.ndarray, short: np.ndarray, threads: int
) -> None:
    """Serve one variant in a process of its own, so that its settings (threads, memory) do not affect another.

    Sends the values of `short` and the operation count, then the seconds of `given` each time it receives True.
    """
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    device, _, precision = variant.partition(" ")
    _, plain, encoder = NETWORKS[network]

    def make(x: np.ndarray) -> Encode:
        return encoder(folder, x, device, precision) if precision else plain(folder, x, device)

    values, encode = make(short)(), make(given)
    encode()  # warm-up; int8 also checks itself here
    # The counter's hooks break the weight norm of the plain WavLM, so the operations are counted on mien's encoder.
    line.send((values, count_flops(encode) if precision == "float32" else 0.0))
    while line.recv():
        began = time.perf_counter()
        encode()
        line.send(time.perf_counter() - began)


def compare(
    network: str, variants: list[str], folder: Path, given: np.ndarray, short: np.ndarray, rounds: int, threads: int
) -> dict[str, dict[str, float]]:
    """Median seconds, relative error against the first variant, and operations of each variant."""
    context, lines = get_context("spawn"), {}
    for variant in variants:
        parent, child = context.Pipe()
        context.Process(
            target=serve, args=(child, network, variant, folder, given, short, threads), daemon=True
        ).start()
        lines[variant] = parent
    results = {variant: line.recv() for variant, line in lines.items()}
    reference, operations = results[variants[0]][0], max(flops for _, flops in results.values())
    errors = {variant: relative_error(values, reference) for variant, (values, _) in results.items()}
    times: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(rounds):
        for variant, line in lines.items():
            line.send(True)
            times[variant].append(line.recv())
    for line in lines.values():
        line.send(False)
    return {
        variant: {"seconds": statistics.median(times[variant]), "error": errors[variant], "flops": operations}
        for variant in variants
    }


def report(network: str, rows: dict[str, dict[str, float]], amount: float, unit: str, device: str) -> None:
    """Print the speed of each way to run one network, relative to the first."""
    base = next(iter(rows.values()))["seconds"]
    card = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    peak = next((p for key, p in PEAKS.items() if key in card), None)
    print(f"\n{network} on {card}\n\n| | {unit} | × | relative error | T operations/s |\n|---|---|---|---|---|")
    for variant, row in rows.items():
        rate = row["flops"] / row["seconds"]
        precision = variant.partition(" ")[2]
        title = f"mien, {precision}" if precision else PLAIN
        share = f" ({rate / peak:.0%} of its 16-bit peak)" if peak and precision == "bfloat16" else ""
        print(
            f"| {title} | {amount / row['seconds']:.2f} | {base / row['seconds']:.2f} | {row['error']:.1e} "
            f"| {rate / 1e12:.3f}{share} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
