"""Which number format a network runs in on this machine: 16 bits only where that is faster."""

from __future__ import annotations

import functools
import time

import torch

from mien.errors import ConfigError

PRECISIONS = ("auto", "float32", "bfloat16", "float16")

#: bfloat16 must be this much faster than float32 to be taken, because it costs accuracy (a relative error of
#: about 5e-3 of a feature). Processors without matrix units for it are 5 to 10 times slower, those with them
#: 2 to 8 times faster: nothing real lies near the line.
_WORTH = 1.3


def choose(precision: str, device: torch.device, *, int8: bool = False) -> torch.dtype:
    """The dtype to run in. precision: one of `PRECISIONS`; `auto` measures once per process. int8: that word is known,
    too; it begins in float32 (`quantised.switch`), and `auto` never chooses it.

    Raises ConfigError for another word.
    """
    known = (*PRECISIONS, "int8") if int8 else PRECISIONS
    if precision not in known:
        raise ConfigError(
            f"precision is {precision!r}; it must be one of {', '.join(known)}.",
            follows="No encoder was made.",
        )
    if precision == "int8":
        if device.type != "cpu":
            raise ConfigError(
                f"precision is 'int8', which runs on a CPU; the device is {device}.",
                follows="No encoder was made.",
                remedy="Use precision=auto: 16 bits are faster there.",
            )
        return torch.float32
    if precision != "auto":
        return getattr(torch, precision)
    return torch.bfloat16 if _half_is_faster(device.type, torch.get_num_threads()) else torch.float32


def name_of(dtype: torch.dtype) -> str:
    """`float32`, as provenance says it."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def _half_is_faster(device: str, threads: int) -> bool:
    """Measured with one linear layer of the size these networks have; 20 ms where bfloat16 has units, 300 ms
    where it has none. (The result may change with the number of threads, hence the key.)"""
    x, weight = torch.randn(256, 1024, device=device), torch.randn(1024, 1024, device=device)
    with torch.inference_mode():
        single = _seconds(x, weight)
        half = _seconds(x.bfloat16(), weight.bfloat16())
    return half * _WORTH < single


def _seconds(x: torch.Tensor, weight: torch.Tensor) -> float:
    times = []
    for _ in range(4):  # the first one warms up; the least of the rest is the least disturbed
        started = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        if x.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])
