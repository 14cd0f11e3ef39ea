"""Saves that are killed: at each file operation once. What is left is the state before or the one after, whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mien import checkpoint, config, ensemble_folder, models, onnx_model, saved_state, trained_model
from mien.checkpoint import Checkpoint
from mien.errors import ConfigError, OutputError
from mien.evaluation import saved_calibration
from mien.evaluation.calibration import Calibration
from mien.layers.system import System
from mien.records import Stream
from mien.training import resume
from mien.training.callbacks import KeepBest
from mien.training.ema import WeightAverage
from mien.training.fit import is_finished
from mien.training.resume import RunState
from tests.earlier_version import without_digests
from tests.killed import every_cut, killed_at

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process, unlike a power cut, loses nothing that was written."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def recipe(smoothing: float) -> config.Recipe:
    raw = {
        "paper": {"title": "t", "arxiv": "1"},
        "corpus": {"name": "none"},
        "features": {"voice": {"encoder": "v", "dim": 3}},
        "windows": {"seconds": 2.0, "hop_seconds": 1.0, "rate_hz": 10.0},
        "model": {"name": "safe_cross_attention", "dim": 4, "heads": 1, "layers": 1},
        "train": {"epochs": 3},
        "vote": {"hop_seconds": 1.0, "smooth_seconds": smoothing},
    }
    return config.read(raw, origin="test", check=models.problems)


def system(seed: int, smoothing: float = 0.0) -> tuple[System[object], config.Recipe]:
    torch.manual_seed(seed)
    made = recipe(smoothing)
    return models.build(made).eval(), made


OLD, NEW = system(1, 0.0), system(2, 0.7)
VOICE = Stream(np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32), np.arange(60) / 10, np.ones(60, bool))


def answer(loaded: Checkpoint) -> bytes:
    """Everything that a checkpoint says of a recording."""
    out = loaded.predict_streams({"voice": VOICE}, 0.0, 6.0)
    return b"".join(np.ascontiguousarray(part).tobytes() for part in out) + json.dumps(loaded.metrics).encode()


def save(folder: Path, what: tuple[System[object], config.Recipe], name: str) -> None:
    checkpoint.save(folder, *what, metrics={"name": name})


def save_old(folder: Path) -> None:
    save(folder, OLD, "old")


def save_new(folder: Path) -> None:
    save(folder, NEW, "new")


def save_before_digests(folder: Path) -> None:
    save_old(folder)
    without_digests(folder)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("answers")
    save_old(folder / "old")
    save_new(folder / "new")
    both = {name: answer(checkpoint.load(folder / name)) for name in ("old", "new")}
    assert both["old"] != both["new"]
    return both


@pytest.mark.parametrize("start", [save_old, save_before_digests], ids=["", "of an earlier version"])
def test_a_killed_save_over_a_checkpoint(
    tmp_path: Path, answers: dict[str, bytes], start: Callable[[Path], None]
) -> None:
    cuts = every_cut(tmp_path, start, save_new)
    found = [answer(checkpoint.load(folder)) for folder in cuts]
    assert set(found) == set(answers.values()), "every cut leaves one of the two, and both occur"
    assert found == sorted(found, key=[answers["old"], answers["new"]].index), "once it is new it stays new"
    assert len(cuts) >= 15, "writes, flushes, renames and moves of four files"
    for folder in cuts:
        save_new(folder)
        assert sorted(p.name for p in folder.iterdir()) == [
            "checkpoint.json", "metrics.json", "recipe.yaml", "weights.safetensors",
        ]  # fmt: skip
        assert answer(checkpoint.load(folder)) == answers["new"]


def test_a_killed_first_save_leaves_no_checkpoint_or_the_whole_one(tmp_path: Path, answers: dict[str, bytes]) -> None:
    for folder in every_cut(tmp_path, lambda folder: None, save_new):
        if (folder / checkpoint.ABOUT).exists():
            assert answer(checkpoint.load(folder)) == answers["new"]
            copy = folder.with_name(folder.name + "-copy")
            trained_model.copy_checkpoint(folder, copy)
            assert answer(checkpoint.load(copy)) == answers["new"], "a copy of what a killed save left is whole"
        elif folder.exists():
            with pytest.raises(ConfigError, match=r"missing"):
                checkpoint.load(folder)


def test_a_reader_beside_a_save_sees_one_state(
    tmp_path: Path, answers: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A save that ends while another process loads: between reading checkpoint.json and reading the weights."""
    save_old(tmp_path / "run")
    load, count = saved_state.State.read, 0

    def read(state: saved_state.State, name: str) -> bytes:
        nonlocal count
        count += 1
        if count == 2:
            save_new(tmp_path / "run")
        return load(state, name)

    monkeypatch.setattr(saved_state.State, "read", read)
    assert answer(checkpoint.load(tmp_path / "run")) == answers["new"]


def test_a_reader_does_not_disturb_a_save_that_goes_on(tmp_path: Path, answers: dict[str, bytes]) -> None:
    """Another process settles the folder after the files were staged and before checkpoint.json is replaced."""
    save_old(tmp_path / "run")
    write = saved_state.write_bytes

    def write_and_settle(path: Path, data: bytes, *, sync: bool = False) -> None:
        if path.name == checkpoint.ABOUT:
            saved_state.settle(tmp_path / "run", checkpoint.ABOUT)
            assert answer(checkpoint.load(tmp_path / "run")) == answers["old"]
        write(path, data, sync=sync)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_state, "write_bytes", write_and_settle)
        save_new(tmp_path / "run")
    assert answer(checkpoint.load(tmp_path / "run")) == answers["new"]


def test_a_save_that_fails_leaves_the_earlier_checkpoint_alone(tmp_path: Path, answers: dict[str, bytes]) -> None:
    save_old(tmp_path / "run")
    names = sorted(p.name for p in (tmp_path / "run").iterdir())

    def fail(source: Path, target: Path) -> None:
        if Path(target).name == checkpoint.ABOUT:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    replace = os.replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OutputError, match=r"An earlier checkpoint in it is unchanged"):
            save_new(tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == names
    assert answer(checkpoint.load(tmp_path / "run")) == answers["old"]


# Every file that changes an answer is under the digest.


@pytest.mark.parametrize("name", ["weights.safetensors", "recipe.yaml", "inputs.json", "network.json"])
def test_a_changed_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    files = {"inputs.json": b"{}", onnx_model.ABOUT: b"{}", onnx_model.NETWORK: b"network"}
    run = checkpoint.save(tmp_path / "run", *OLD, files=files)
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{name} is not the file that checkpoint.json describes"):
        saved_state.read(run, checkpoint.ABOUT).read(name)
    if name in (checkpoint.WEIGHTS, checkpoint.RECIPE):
        with pytest.raises(ConfigError, match=rf"{name} is not the file"):
            checkpoint.load(run)
    if name == "inputs.json":
        with pytest.raises(ConfigError, match=rf"{name} is not the file"):
            trained_model.read_inputs(run)


def test_each_changed_byte_of_checkpoint_json_is_refused_or_changes_nothing(
    tmp_path: Path, answers: dict[str, bytes]
) -> None:
    save_old(tmp_path)
    whole = (tmp_path / checkpoint.ABOUT).read_bytes()
    refused = 0
    for place in range(0, len(whole), 7):
        (tmp_path / checkpoint.ABOUT).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            facts = saved_state.read(tmp_path, checkpoint.ABOUT).facts
        except ConfigError:
            refused += 1
        else:
            assert facts == json.loads(whole)
    assert refused > 0.7 * len(whole) / 7, "all but white space"


def test_a_state_names_no_file_outside_its_folder(tmp_path: Path) -> None:
    facts = {"files": {"../secret": "0" * 64}}
    (tmp_path / "m.json").write_text(json.dumps(facts | {"digest": saved_state.digest_of(facts)}))
    with pytest.raises(ConfigError, match="it names a file outside its folder"):
        saved_state.read(tmp_path, "m.json")


def test_the_shipped_checkpoint_loads_as_it_is() -> None:
    folder = onnx_model.shipped_folder("starter")
    before = {p: hashlib.sha256(p.read_bytes()).digest() for p in folder.rglob("*") if p.is_file()}
    assert checkpoint.load("starter").labels
    assert trained_model.load("starter").stages
    assert {p: hashlib.sha256(p.read_bytes()).digest() for p in folder.rglob("*") if p.is_file()} == before


# What is added to a checkpoint: calibrations, stages, ensembles.


def fitted(temperature: float) -> Calibration:
    return Calibration(temperature=temperature)


def test_a_killed_calibration(tmp_path: Path, answers: dict[str, bytes]) -> None:
    def start(folder: Path) -> None:
        save_old(folder)
        saved_calibration.save(fitted(2.0), folder, "these clips")

    found = []
    for folder in every_cut(tmp_path, start, lambda f: saved_calibration.save(fitted(3.0), f, "those clips")):
        loaded = saved_calibration.load(folder)
        assert loaded is not None
        found.append((loaded.temperature, loaded.fitted_on))
        assert answer(checkpoint.load(folder)) == answers["old"]
    assert set(found) == {(2.0, "these clips"), (3.0, "those clips")}


def test_a_changed_or_missing_calibration_is_refused(tmp_path: Path) -> None:
    save_old(tmp_path)
    assert saved_calibration.load(tmp_path) is None
    saved_calibration.save(fitted(2.0), tmp_path, "clips")
    path = tmp_path / "calibration.json"
    path.write_text(path.read_text().replace("2.0", "2.5"))
    with pytest.raises(ConfigError, match=r"calibration.json is not the file that checkpoint.json describes"):
        saved_calibration.load(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"calibration.json is missing, and checkpoint.json names it"):
        saved_calibration.load(tmp_path)
    save_new(tmp_path)
    assert saved_calibration.load(tmp_path) is None, "new weights have no calibration"


def test_a_killed_copy_of_a_stage(tmp_path: Path, answers: dict[str, bytes]) -> None:
    save_new(tmp_path / "source")
    for start in (save_old, lambda folder: None):
        place = tmp_path / ("over" if start is save_old else "first")
        for folder in every_cut(place, start, lambda f: trained_model.copy_checkpoint(tmp_path / "source", f)):
            if start is save_old or folder.exists():
                assert answer(checkpoint.load(folder)) in answers.values()
            trained_model.copy_checkpoint(tmp_path / "source", folder)
            assert answer(checkpoint.load(folder)) == answers["new"]


def test_a_killed_ensemble(tmp_path: Path) -> None:
    """Over an ensemble whose members have the same names and other weights."""
    for kind, save_it in (("old", save_old), ("new", save_new)):
        for name in ("a", "b"):
            save_it(tmp_path / kind / name)

    def write(folder: Path, kind: str) -> None:
        shares = [0.25, 0.75] if kind == "old" else [0.5, 0.5]
        ensemble_folder.write(folder, [tmp_path / kind / "a", tmp_path / kind / "b"], shares)

    def load(folder: Path) -> tuple[str, ...]:
        stored = ensemble_folder.read(folder)
        return (str(stored.weights), *(checkpoint.load(path).metrics["name"] for path in stored.members))

    expected = [("[0.25, 0.75]", "old", "old"), ("[0.5, 0.5]", "new", "new")]
    cuts = every_cut(tmp_path / "cut", lambda f: write(f, "old"), lambda f: write(f, "new"))
    found = [load(folder) for folder in cuts]
    assert set(found) == set(expected)
    assert found == sorted(found, key=expected.index)
    write(cuts[len(cuts) // 2], "new")
    assert load(cuts[len(cuts) // 2]) == expected[1]
    assert len(list((cuts[len(cuts) // 2] / "members").glob("[!.]*"))) == 2, "earlier members are removed"


# A training run: its checkpoint, its saved state, and its end.


class Run:
    """The saves of a training run of three epochs without its computing: weights are those of seed 10 + epoch."""

    def __init__(self, out: Path) -> None:
        self.out, self.recipe = out, recipe(0.0)
        self.now = RunState(config.dump(self.recipe), 10, "training windows")

    def __call__(self) -> None:
        saved = resume.find(self.out, self.now, resume=True)
        state = saved.state if saved else self.now
        best = KeepBest(self.recipe, self.out, state, 3, files={"inputs.json": b'{"of": "this run"}'})
        if saved is None:
            resume.begin(self.out, state)
        while state.epochs < 3:
            model = system(10 + state.epochs)[0]
            state.epochs += 1
            report = {"val_macro_f1": [0.3, 0.2, 0.4][state.epochs - 1]}
            state.history.append(report)
            optimiser = torch.optim.AdamW(model.parameters())
            best.on_epoch_end(model, optimiser, WeightAverage(model, 0.0), report)
        best.close(seconds=1.0)


def test_a_killed_training_run_can_be_resumed_from_every_point(tmp_path: Path, answers: dict[str, bytes]) -> None:
    Run(tmp_path / "whole")()
    expected = answer(checkpoint.load(tmp_path / "whole"))
    assert is_finished(tmp_path / "whole")
    loaded = set()
    for number, folder in enumerate(every_cut(tmp_path / "cut", save_old, lambda f: Run(f)())):
        state = checkpoint.load(folder)
        loaded.add(str(state.metrics.get("best_epoch")))
        facts = saved_state.read(folder, checkpoint.ABOUT)
        is_old = answer(state) == answers["old"]
        assert is_old != ("inputs.json" in facts.files), "inputs.json is of the run of the weights"
        if not (folder / resume.FILE).exists():
            assert is_old or answer(state) == expected, "without an unfinished run: before the begin, or after the end"
        if number % 3 == 1:  # the next run is killed too
            killed_at(number // 2 + 3, Run(folder))
            checkpoint.load(folder)
        Run(folder)()
        assert answer(checkpoint.load(folder)) == expected
        assert is_finished(folder)
        shutil.rmtree(folder)
    assert loaded == {"None", "1", "3"}, "the checkpoint before, and those of both epochs that were the best"


def test_a_run_that_was_stopped_in_its_first_epoch_begins_again(tmp_path: Path) -> None:
    now = RunState("recipe", 10, "windows")
    resume.begin(tmp_path, now)
    assert not is_finished(tmp_path)
    assert resume.find(tmp_path, RunState("another recipe", 12, "windows"), resume=False) is None
