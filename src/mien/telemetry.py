"""Usage reports of the libraries that mien imports, switched off before any of them is imported.

ONNX Runtime from 1.31 on otherwise writes a device id and a database of events into the user's cache folder, and sends
them to its maker.
"""

from __future__ import annotations

import os
import sys

#: Environment variable -> value that switches usage reports off.
OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "1",  # read by several libraries
}


def switch_off() -> None:
    """Set the variables of `OFF` that are not set, and stop an ONNX Runtime that was imported before."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
    runtime = sys.modules.get("onnxruntime")
    if runtime is not None and os.environ["ORT_DISABLE_TELEMETRY"] == OFF["ORT_DISABLE_TELEMETRY"]:
        runtime.disable_telemetry_events()
