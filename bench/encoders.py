"""BEiT-Large and WavLM-Large through mien beside a plain transformers loop, full size, random weights.

    python bench/encoders.py [--only BEiT-Large] [--crops 32] [--seconds 40] [--device auto] [--threads 2] [--json FILE]

The plain loop is what a user would write: the library's processor and model, one picture (one stretch of 20 s of
sound) at a time, float32. mien runs the same input from the same folder of weights, in float32 and in what else the
machine can do (int8 on a CPU, bfloat16 where it is faster). Rounds alternate, so that what else the machine does hits
all alike; the median round counts. The error is relative, against the plain loop (sound: one stretch, so that no chunk
border lies in it). Multiply-adds are counted by torch. Weights are random with the spread of the library's own
initialisation: speed is that of the published ones, the error of 8 bits need not be (`quantised.switch` checks it).
Prints a Markdown section for docs/BENCHMARKS.md.
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

#: Dense half-precision peak of GPUs that were to hand, operations a second (maker's data sheet).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
Encode = Callable[[], np.ndarray]


def beit(folder: Path) -> Path:
    """The shape of microsoft/beit-large-patch16-224-pt22k-ft22k."""
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


def wavlm(folder: Path) -> Path:
    """The shape of microsoft/wavlm-large."""
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
    processor, model = AutoImageProcessor.from_pretrained(folder, backend="pil"), BeitModel.from_pretrained(folder)
    model = model.eval().to(device)

    def encode() -> np.ndarray:
        with torch.inference_mode():
            rows = [model(**processor(crop, return_tensors="pt").to(device)).pooler_output for crop in crops]
        return torch.cat(rows).cpu().numpy()

    return encode


def plain_wavlm(folder: Path, sound: np.ndarray, device: str) -> Encode:
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
    encoder = registry.create(f"beit-large={folder},precision={precision}", device=device)
    return lambda: encoder.encode_crops(crops)


def sound_encoder(folder: Path, sound: np.ndarray, device: str, precision: str) -> Encode:
    encoder = registry.create(f"wavlm-large={folder},precision={precision}", device=device)
    return lambda: np.concatenate([s.values for s in encoder.encode_audio([(0.0, sound)])])


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    rows = min(len(ours), len(theirs))
    return float(np.linalg.norm(ours[:rows] - theirs[:rows]) / np.linalg.norm(theirs[:rows]))


def flops(encode: Encode) -> float:
    with FlopCounterMode(display=False) as counter:
        encode()
    return float(counter.get_total_flops())


def main() -> None:
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
    ways = [device, f"{device} float32", *([f"{device} int8"] if device == "cpu" else [])]
    if choose("auto", torch.device(device)) == torch.bfloat16:
        ways.append(f"{device} bfloat16")
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
            result[network] = compared(network, ways, folder, given, short, options.rounds, options.threads)
            report(network, result[network], amount, unit, device)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


PLAIN = "plain transformers loop, float32, batch 1"
#: network -> maker of its folder, the plain loop, mien's encoder
NETWORKS: dict[str, tuple[Callable[..., Any], Callable[..., Encode], Callable[..., Encode]]] = {
    "BEiT-Large": (beit, plain_beit, crop_encoder),
    "WavLM-Large": (wavlm, plain_wavlm, sound_encoder),
}


def serve(line: Any, network: str, way: str, folder: Path, given: np.ndarray, short: np.ndarray, threads: int) -> None:
    """A process of its own for each way: what one sets (threads, the heap) must not help or hinder another. Says
    what it makes of `short`, then the seconds of `given` each time it is asked."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    device, _, precision = way.partition(" ")
    _, plain, encoder = NETWORKS[network]

    def make(x: np.ndarray) -> Encode:
        return encoder(folder, x, device, precision) if precision else plain(folder, x, device)

    brief, encode = make(short)(), make(given)
    encode()  # warm; 8 bits check themselves here
    # The counter's hooks break the weight norm of the plain WavLM, so the work is counted on ours.
    line.send((brief, flops(encode) if precision == "float32" else 0.0))
    while line.recv():
        began = time.perf_counter()
        encode()
        line.send(time.perf_counter() - began)


def compared(
    network: str, ways: list[str], folder: Path, given: np.ndarray, short: np.ndarray, rounds: int, threads: int
) -> dict[str, dict[str, float]]:
    """Seconds (median round), error against the first way, multiply-adds twice."""
    context, lines = get_context("spawn"), {}
    for way in ways:
        ours, theirs = context.Pipe()
        context.Process(target=serve, args=(theirs, network, way, folder, given, short, threads), daemon=True).start()
        lines[way] = ours
    told = {way: line.recv() for way, line in lines.items()}
    first, work = told[ways[0]][0], max(flops for _, flops in told.values())
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, line in lines.items():
            line.send(True)
            times[way].append(line.recv())
    for line in lines.values():
        line.send(False)
    return {
        way: {"seconds": statistics.median(times[way]), "error": error(told[way][0], first), "flops": work}
        for way in ways
    }


def report(network: str, rows: dict[str, dict[str, float]], amount: float, unit: str, device: str) -> None:
    base = next(iter(rows.values()))["seconds"]
    card = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    peak = next((p for key, p in PEAKS.items() if key in card), None)
    print(f"\n{network} on {card}\n\n| | {unit} | × | relative error | T operations/s |\n|---|---|---|---|---|")
    for way, row in rows.items():
        rate = row["flops"] / row["seconds"]
        precision = way.partition(" ")[2]
        title = f"mien, {precision}" if precision else PLAIN
        share = f" ({rate / peak:.0%} of its 16-bit peak)" if peak and precision == "bfloat16" else ""
        print(
            f"| {title} | {amount / row['seconds']:.2f} | {base / row['seconds']:.2f} | {row['error']:.1e} "
            f"| {rate / 1e12:.3f}{share} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
