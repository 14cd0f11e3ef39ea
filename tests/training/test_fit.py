"""Training: it learns, is reproducible, resumes bit for bit, and refuses wrong input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien import checkpoint, config, models
from mien.errors import ConfigError
from mien.evaluation import metrics
from mien.records import Clip, Labels, Recording, Stream
from mien.training import fit as fit_module
from mien.training import resume
from mien.training.fit import fit
from mien.training.loop import TrainingLoop

CLASSES = 3


def recordings(n: int, seed: int) -> list[Recording]:
    """Face and voice each show the class in noise; a class lasts two seconds."""
    codes = np.random.default_rng(99).normal(size=(2, CLASSES, 4)) * 2
    r = np.random.default_rng(seed)
    made = []
    for i in range(n):
        times = np.arange(0, 8, 0.1) + 0.05
        expression = np.repeat(r.integers(0, CLASSES, 4), 20)
        affect = np.stack((expression / 2 - 0.5, 0.5 - expression / 2), 1)
        streams = {}
        for k, name in enumerate(("face", "voice")):
            values = codes[k][expression] + r.normal(size=(80, 4))
            valid = np.ones(80, bool)
            valid[(gap := r.integers(0, 60)) : gap + 10] = False
            values[~valid] = np.nan
            streams[name] = Stream(values.astype(np.float32), times, valid)
        made.append(Recording(Clip(f"{seed}-{i}", None, labels=Labels(times, expression, affect)), streams))
    return made


def recipe(**train: Any) -> config.Recipe:
    return config.read(
        {
            "paper": {"title": "t", "arxiv": "1"},
            "corpus": {"name": "test", "labels": ["a", "b", "c"]},
            "features": {"face": {"encoder": "f"}, "voice": {"encoder": "v"}},
            "windows": {"seconds": 2.0, "hop_seconds": 1.0, "rate_hz": 10.0},
            "model": {
                "name": "safe_cross_attention",
                "dim": 16,
                "heads": 2,
                "layers": 1,
                "feedforward": 2.0,
                "modality_dropout": {"whole": {"face": 0.2, "voice": 0.2}, "bursts": {"face": 0.3}},
            },
            "train": {"epochs": 4, "batch": 8, "lr": 2e-2, "ema": 0.8, "threads": 1, "patience": 0, "balance": 0.5}
            | train,
            "vote": {"smooth_seconds": 0.0},
        },
        origin="test",
        check=models.problems,
    )


TRAIN, VAL = recordings(16, 0), recordings(3, 1)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / checkpoint.WEIGHTS).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(recipe(), TRAIN, VAL, tmp_path_factory.mktemp("runs") / "straight", device="cpu", progress=False)


def test_it_learns_to_predict_from_either_modality_and_from_both(run: Path) -> None:
    c = checkpoint.load(run)
    assert c.recipe.features["face"].dim == 4
    for names in (("face", "voice"), ("face",), ("voice",)):
        truth, said = [], []
        for r in VAL:
            _, p, va = c.predict_streams({n: r.streams[n] for n in names}, 0.0, 8.0)
            truth.append(r.clip.labels.expression)
            said.append(p.argmax(1))
            assert np.isfinite(va).all()
        assert metrics.macro_f1(truth, said, classes=CLASSES) > 0.8, names


def va_recipe() -> config.Recipe:
    """A stream that predicts valence and arousal alone."""
    raw = recipe(epochs=3).model_dump()
    raw |= {"features": {"face": {"encoder": "f"}}, "objective": {}}
    raw["model"] = {"name": "va_streams", "kind": "face", "dim": 16, "heads": 2, "layers": 1}
    raw["train"] |= {"balance": 0.0}
    return config.read(raw, origin="test", check=models.problems)


def test_a_system_is_selected_by_what_it_predicts(tmp_path: Path) -> None:
    """The clips have expression labels too, of which a system without expressions knows nothing."""
    out = fit(va_recipe(), TRAIN, VAL, tmp_path / "va", device="cpu", progress=False)
    told = json.loads((out / checkpoint.METRICS).read_text())
    measured = [h["val_ccc"] for h in told["history"]]
    assert len(set(measured)) == 3
    assert told["best_epoch"] == 1 + int(np.argmax(measured)) > 1
    assert "val_macro_f1" not in told


def test_validation_that_cannot_select_is_an_error(tmp_path: Path) -> None:
    unlabelled = []
    for r in VAL:
        labels = r.clip.labels
        assert labels is not None
        nothing = Labels(labels.times, labels.expression, np.full_like(labels.valence_arousal, np.nan))
        unlabelled.append(replace(r, clip=replace(r.clip, labels=nothing)))
    with pytest.raises(ConfigError, match=r"a label that the system predicts \(valence-arousal\)"):
        fit(va_recipe(), TRAIN, unlabelled, tmp_path / "va", device="cpu", progress=False)


def test_metrics_of_the_run_are_saved(run: Path) -> None:
    told = json.loads((run / checkpoint.METRICS).read_text())
    assert len(told["history"]) == 4
    assert told["best_epoch"] == 1 + int(np.argmax([h["val_macro_f1"] for h in told["history"]]))
    assert told["val_macro_f1"] == max(h["val_macro_f1"] for h in told["history"])
    assert told["history"][-1]["loss"] < 0.7 * told["history"][0]["loss"]
    assert {"expression", "unimodal", "valence_arousal", "val_ccc", "seconds"} <= set(told["history"][0])
    assert not (run / resume.FILE).exists()
    assert not list(run.glob("*.ckpt"))
    assert not list(run.glob("*.part*"))


class Stopped(Exception):
    pass


def stop_after(epochs: int, error: type[BaseException] = Stopped) -> Any:
    def after_epoch(epoch: int, report: Mapping[str, float]) -> None:
        if epoch == epochs:
            raise error

    return after_epoch


def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    with pytest.raises(Stopped):
        fit(recipe(), TRAIN, VAL, out, device="cpu", progress=False, on_epoch=stop_after(2))
    assert (out / resume.FILE).exists()
    torch.manual_seed(12345)  # nothing of the process may matter
    seen: list[int] = []
    fit(recipe(), TRAIN, VAL, out, True, device="cpu", progress=False, on_epoch=lambda e, r: seen.append(e))
    assert seen == [3, 4]
    assert digest(out) == digest(run)
    histories = [json.loads((f / checkpoint.METRICS).read_text())["history"] for f in (out, run)]
    for ours, theirs in zip(*histories, strict=True):
        assert {k: v for k, v in ours.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}


def test_a_plateau_reduces_the_rate_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    """A rate so small that no epoch is better than the first: it is halved after every second one."""
    slow = recipe(schedule="plateau", plateau_patience=0, plateau_factor=0.5, warmup=0.0, lr=1e-9, ema=0.0)
    rates: list[float] = []

    class Rates(TrainingLoop):
        def _train_epoch(self, epoch: int) -> dict[str, float]:
            report = super()._train_epoch(epoch)
            rates.append(self.optimiser.param_groups[0]["lr"])
            return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit_module, "TrainingLoop", Rates)
        straight = fit(slow, TRAIN, VAL, tmp_path / "straight", device="cpu", progress=False)
        with pytest.raises(Stopped):
            fit(slow, TRAIN, VAL, tmp_path / "cut", device="cpu", progress=False, on_epoch=stop_after(3))
        fit(slow, TRAIN, VAL, tmp_path / "cut", True, device="cpu", progress=False)
    assert rates == pytest.approx([1e-9, 1e-9, 5e-10, 2.5e-10] * 2)
    assert digest(tmp_path / "cut") == digest(straight)


def test_the_seed_decides_the_weights(run: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state(), torch.get_num_threads()
    assert digest(fit(recipe(), TRAIN, VAL, tmp_path / "a", device="cpu", progress=False)) == digest(run)
    assert digest(fit(recipe(seed=1), TRAIN, VAL, tmp_path / "b", device="cpu", progress=False)) != digest(run)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def test_ctrl_c_reaches_the_caller_and_keeps_finished_epochs(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(recipe(), TRAIN, VAL, tmp_path, device="cpu", progress=False, on_epoch=stop_after(1, KeyboardInterrupt))
    assert resume.read(tmp_path).state.epochs == 1


def test_an_unfinished_run_is_not_overwritten_nor_resumed_as_another(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        fit(recipe(), TRAIN, VAL, tmp_path, device="cpu", progress=False, on_epoch=stop_after(1))
    with pytest.raises(ConfigError, match=r"there is an unfinished run, 1 epochs \(14 steps\) done(.|\n)*Resume it"):
        fit(recipe(), TRAIN, VAL, tmp_path, device="cpu")
    with pytest.raises(ConfigError, match=r"1 problem\n  train.lr: was 0.02, now 0.03"):
        fit(recipe(lr=0.03), TRAIN, VAL, tmp_path, True, device="cpu")
    with pytest.raises(ConfigError, match=r"there are 105 training windows now, the run began with 112"):
        fit(recipe(), TRAIN[:-1], VAL, tmp_path, True, device="cpu")
    data = (tmp_path / resume.FILE).read_bytes()
    (tmp_path / resume.FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(ConfigError, match=r"cannot be read as an unfinished run"):
        fit(recipe(), TRAIN, VAL, tmp_path, True, device="cpu")


def test_resuming_a_finished_run_returns_it(run: Path) -> None:
    before = digest(run)
    assert fit(recipe(), TRAIN, VAL, run, True, device="cpu", on_epoch=stop_after(1)) == run
    assert digest(run) == before


def test_patience_stops_early_and_keeps_the_best(tmp_path: Path) -> None:
    seen: list[float] = []
    out = fit(
        recipe(epochs=30, patience=2),
        TRAIN,
        VAL,
        tmp_path,
        device="cpu",
        progress=False,
        on_epoch=lambda e, r: seen.append(r["val_macro_f1"]),
    )
    assert len(seen) < 30
    assert max(seen[:-2]) >= max(seen[-2:])
    assert checkpoint.load(out).metrics["best_epoch"] == 1 + int(np.argmax(seen))
    assert checkpoint.load(out).metrics["val_macro_f1"] == max(seen)


def test_without_validation_the_last_epoch_is_kept_and_tensorboard_is_written(tmp_path: Path) -> None:
    out = fit(recipe(epochs=2, logger="tensorboard"), TRAIN, [], tmp_path, device="cpu", progress=False)
    assert checkpoint.load(out).metrics["best_epoch"] == 2
    assert list(out.glob("tensorboard/events*"))


def test_augmented_and_low_precision_training_runs(tmp_path: Path) -> None:
    calls: list[int] = []

    def louder(values: torch.Tensor, valid: torch.Tensor, expression: torch.Tensor, generator: torch.Generator) -> Any:
        calls.append(len(values))
        return values * 1.1, valid

    out = fit(
        recipe(epochs=1, precision="bf16"),
        TRAIN,
        VAL,
        tmp_path,
        device="cpu",
        progress=False,
        augment={"voice": louder},
    )
    assert len(calls) == 14 + 1  # the batches, and one look for the statistics
    assert all(torch.isfinite(p).all() for p in checkpoint.load(out).model.parameters())


def test_recordings_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    mute = [Recording(r.clip, {"face": r.streams["face"]}) for r in TRAIN]
    with pytest.raises(
        ConfigError, match=r"features.voice: no training recording has a voice stream; they have \['face'\]"
    ):
        fit(recipe(), mute, VAL, tmp_path)
    wide = config.changed(recipe(), features={"face": {"encoder": "f", "dim": 9}})
    with pytest.raises(ConfigError, match=r"features.face.dim: 9, but the recordings have 4 values"):
        fit(wide, TRAIN, VAL, tmp_path)
    bare = [Recording(Clip(r.clip.id, None), r.streams) for r in TRAIN]
    with pytest.raises(ValueError, match="no training window has a label"):
        fit(recipe(), bare, VAL, tmp_path)
    assert not list(tmp_path.iterdir())
