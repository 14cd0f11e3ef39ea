"""Open an ONNX file in ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mien.errors import ArtefactError


def open_session(
    network: Path | bytes, *, device: str = "cpu", threads: int | None = None, keep_memory: bool = True
) -> Any:
    """The `onnxruntime.InferenceSession` of a network.

    Args:
        network: its file, or the content of one.
        device: `cpu`, or `cuda` if onnxruntime was built for it.
        threads: number of CPU threads; None takes OMP_NUM_THREADS, or all cores.
        keep_memory: ONNX Runtime keeps the working memory of a call for the next one, and grows it by doubling. That
            saves a few per cent of the time of a large network. Without it, memory is free between calls.

    Raises:
        ArtefactError: onnxruntime cannot read the network.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads if threads is not None else int(os.environ.get("OMP_NUM_THREADS", "0"))
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = options.enable_mem_pattern = keep_memory
    # Threads that wait in a loop take the processor from the threads that decode.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    preferred = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
    available = onnxruntime.get_available_providers()
    providers = [p for p in [*preferred, "CPUExecutionProvider"] if p in available]
    source = network if isinstance(network, bytes) else str(network)
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # the errors of onnxruntime have no other common class
        named = "" if isinstance(network, bytes) else f" {network}"
        raise ArtefactError(
            f"onnxruntime cannot read the network{named}: {str(error).splitlines()[0]}",
            follows="The network was not opened.",
            remedy="The file may be truncated. Download it again.",
        ) from error
