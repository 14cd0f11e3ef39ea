"""Optional dependencies: which extra of the package brings which module, and the error where one is missing.

`pip install mien` brings what prediction, report and overlay need. Everything else is an extra, such as `mien[train]`.
"""

from __future__ import annotations

import importlib
import importlib.util

from mien.errors import ConfigError

_ENCODERS = ("torch", "transformers", "safetensors", "huggingface_hub")
#: Extra -> top-level modules that it brings beyond the base installation (checked against pyproject.toml by a test).
MODULES: dict[str, tuple[str, ...]] = {
    "encoders": _ENCODERS,
    "train": (*_ENCODERS, "lightning_fabric", "scipy", "sklearn", "soundfile", "peft", "tensorboard"),
    "synthetic": ("scipy", "skimage"),
    "export": (*_ENCODERS, "onnx", "onnxscript"),
    "ray": (*_ENCODERS, "soundfile", "ray", "pyarrow"),
    "serve": ("fastapi", "starlette", "uvicorn", "python_multipart", "h11", "websockets", "prometheus_client"),
    "live": ("pythonosc", "pylsl"),
}
#: Extra -> what it is for, as the end of a sentence.
USES = {
    "encoders": "run and download networks in torch",
    "train": "train, tune and evaluate",
    "synthetic": "render clips of simulated people, as `mien demo` does",
    "export": "export networks to ONNX",
    "ray": "extract features on several machines",
    "serve": "answer requests over HTTP",
    "live": "send results by OSC and LSL",
}


def install(extra: str) -> str:
    """The command that installs an extra."""
    return f'pip install "mien[{extra}]"'


def is_installed(module: str) -> bool:
    """Whether a top-level module can be found. Imports nothing."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: it is in sys.modules without a spec
        return False


def extra_of(module: str, preferred: str = "") -> str:
    """The extra that brings a module: `preferred` if it does, else the first of `MODULES` that does, else ""."""
    module = module.split(".")[0]
    order = [preferred, *MODULES] if preferred else [*MODULES]
    return next((extra for extra in order if module in MODULES.get(extra, ())), "")


def is_missing(error: ModuleNotFoundError) -> bool:
    """Whether an error means that a module of an extra is not installed."""
    name = (error.name or "").split(".")[0]
    return bool(extra_of(name)) and not is_installed(name)


def missing(
    module: str,
    purpose: str,
    *,
    preferred: str = "",
    follows: str = "Nothing was done.",
    instead: str = "",
    reason: str = "",
) -> ConfigError:
    """The error for a module that is not installed.

    Args:
        module: its name. purpose: what needs it: "--ray", "LoRA".
        preferred: extra to recommend where several bring the module.
        follows: the consequence. instead: what else the user can do, as a sentence.
        reason: why an installed module cannot be imported; empty if it is not installed.
    """
    extra = extra_of(module, preferred)
    command = install(extra) if extra else f"pip install {module}"
    return ConfigError(
        f"{purpose} needs the package {module}, which "
        + (f"cannot be imported: {reason}" if reason else "is not installed"),
        follows=follows,
        remedy=f"Run `{command}`." + (f" {instead}" if instead else ""),
    )


def require(
    module: str, purpose: str, *, preferred: str = "", follows: str = "Nothing was done.", instead: str = ""
) -> None:
    """Import a module of an extra; the arguments are those of `missing`.

    Raises ConfigError, with the command that installs it, if it cannot be imported.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        reason = str(error) if is_installed(module.split(".")[0]) else ""
        raise missing(module, purpose, preferred=preferred, follows=follows, instead=instead, reason=reason) from error
