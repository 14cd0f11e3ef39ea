"""Distributed training: two processes (gloo) that share batches train the weights of one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mien.data import WindowBatch, WindowDataset
from mien.errors import ConfigError
from mien.training.fit import fit
from tests.training import two_processes
from tests.training.two_processes import RECIPE, recordings


def test_two_processes_train_the_weights_of_one_process(tmp_path: Path) -> None:
    """Two processes take two batches of four a step, the one process a batch of eight."""
    script = [sys.executable, two_processes.__file__, str(tmp_path / "two"), "2", "4", "2"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as both:
        fit(RECIPE, recordings(1, 4), recordings(2, 2), tmp_path / "one", device="cpu", progress=False)
        said, _ = both.communicate(timeout=240)
    assert both.returncode == 0, said
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name, weights in one.items():
        if name.endswith("key_value.bias"):
            continue  # softmax ignores the keys' bias: its gradient is rounding error, amplified by Adam
        torch.testing.assert_close(two[name], weights, rtol=1e-3, atol=1e-4, msg=f"{name} differs")
    told = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")]
    assert told[0]["val_macro_f1"] == pytest.approx(told[1]["val_macro_f1"], abs=1e-6)
    assert not (tmp_path / "two" / "resume.safetensors").exists()


def test_parts_of_a_batch_add_up_to_it() -> None:
    data = WindowDataset(recordings(1, 4), RECIPE.windows.model_copy(update={"jitter": True, "hop_seconds": 1.0}))
    whole = data.__getitems__(WindowBatch(7, [0, 5, 9, 2, 3, 11]))
    parts = [data.__getitems__(WindowBatch(7, [0, 5, 9, 2, 3, 11], (rank, 2))) for rank in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.values["face"], whole.values["face"][rank::2])
        assert torch.equal(part.expression, whole.expression[rank::2])
    few = [data.__getitems__(WindowBatch(7, [4], (rank, 2))) for rank in range(2)]
    assert [len(part.expression) for part in few] == [1, 1], "a process without a window would keep the others waiting"


def test_more_processes_than_windows_in_a_batch_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.batch is 8 windows, and 9 processes share it"):
        fit(RECIPE, recordings(1, 4), [], tmp_path / "run", device="cpu", devices=9)
