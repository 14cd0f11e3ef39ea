"""Choose the number format of a network on this machine: 16 bits only where they are faster than float32."""

from __future__ import annotations

import functools
import time

import torch

from mien.errors import ConfigError

#: Number formats by name; `auto` measures.
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PRECISIONS = ("auto", *_DTYPES)

#: `auto` takes bfloat16 only if it is this much faster than float32, because it costs accuracy (a relative error of
#: about 5e-3 of a feature). Processors without matrix units for it are 5 to 10 times slower, those with them 2 to 8
#: times faster. On a busy machine the measurement can still fall on the wrong side; a fixed precision cannot.
_MIN_SPEEDUP = 1.3


def choose(precision: str, device: torch.device, *, int8: bool = False) -> torch.dtype:
    """Number format to run a network in.

    Args:
        precision: one of `PRECISIONS`. `auto` measures both formats once per process.
        device: device of the network.
        int8: also accept `int8`, which starts in float32 (`mien.encoders.int8`). `auto` never chooses it.

    Raises:
        ConfigError: an unknown precision, or `int8` on a device other than a CPU.
    """
    known = (*PRECISIONS, "int8") if int8 else PRECISIONS
    if precision not in known:
        raise ConfigError(
            f"precision is {precision!r}; it must be one of {', '.join(known)}.",
            follows="No encoder was created.",
            remedy="Use precision=auto.",
        )
    if precision == "int8":
        if device.type != "cpu":
            raise ConfigError(
                f"precision is 'int8', which runs on a CPU; the device is {device}.",
                follows="No encoder was created.",
                remedy="Use precision=auto: 16 bits are faster there.",
            )
        return torch.float32
    if precision != "auto":
        return _DTYPES[precision]
    return torch.bfloat16 if _half_is_faster(device.type, torch.get_num_threads()) else torch.float32


def name_of(dtype: torch.dtype) -> str:
    """Name of a number format in provenance, e.g. `float32`."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def _half_is_faster(device: str, threads: int) -> bool:
    """Time one linear layer of the size that these networks have: 20 ms with bfloat16 units, 300 ms without.

    The number of threads is part of the cache's key, because the result may depend on it.
    """
    x, weight = torch.randn(256, 1024, device=device), torch.randn(1024, 1024, device=device)
    with torch.inference_mode():
        single = _seconds(x, weight)
        half = _seconds(x.bfloat16(), weight.bfloat16())
    return half * _MIN_SPEEDUP < single


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    times = []
    for _ in range(4):  # the first run warms up; the minimum of the others is the least disturbed
        started = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        if x.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])
