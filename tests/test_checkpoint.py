"""Checkpoints: they explain themselves, refuse what is not theirs, and predict from streams."""

from __future__ import annotations

import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from mien import checkpoint, clock, config, models, soft_vote
from mien.encoders import pretrained
from mien.encoders.pretrained import WeightSource
from mien.errors import ConfigError, OutputError
from mien.records import Stream
from tests.earlier_version import without_digests
from tests.encoders import test_images
from tests.tiny_checkpoint import save_tiny


def recipe(**sections: dict[str, object]) -> config.Recipe:
    raw = {
        "paper": {"title": "t", "arxiv": "1"},
        "corpus": {"name": "synthetic"},
        "features": {"face": {"encoder": "f", "dim": 5}, "voice": {"encoder": "v", "dim": 3}},
        "windows": {"seconds": 2.0, "hop_seconds": 1.0, "rate_hz": 10.0},
        "model": {"name": "safe_cross_attention", "dim": 8, "heads": 2, "layers": 1},
        "train": {},
        "vote": {"hop_seconds": 0.5, "smooth_seconds": 0.0},
    }
    for name, values in sections.items():
        raw[name] = {**raw[name], **values}
    return config.read(raw, origin="test", check=models.problems)


def made(**sections: dict[str, object]) -> checkpoint.Checkpoint:
    torch.manual_seed(0)
    r = recipe(**sections)
    model = models.build(r)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return checkpoint.Checkpoint(model.eval(), r, r.corpus.labels)


def streams(seconds: float = 7.3, *, face: slice = slice(None), voice: slice = slice(None)) -> dict[str, Stream]:
    r = np.random.default_rng(0)
    out = {}
    for name, dim, rate, kept in (("face", 5, 30, face), ("voice", 3, 50, voice)):
        times = np.arange(0, seconds, 1 / rate)
        valid = np.zeros(len(times), bool)
        valid[kept] = True
        out[name] = Stream(r.normal(size=(len(times), dim)).astype(np.float32), times, valid)
    return out


def test_what_is_saved_predicts_the_same(tmp_path: Path) -> None:
    c = made()
    folder = checkpoint.save(tmp_path / "run", c.model, c.recipe, metrics={"val_macro_f1": 0.5})
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoint.json",
        "metrics.json",
        "recipe.yaml",
        "weights.safetensors",
    ]
    again = checkpoint.load(folder)
    for a, b in zip(c.predict_streams(streams(), 0.0, 7.3), again.predict_streams(streams(), 0.0, 7.3), strict=True):
        assert np.array_equal(a, b)
    assert again.metrics == {"val_macro_f1": 0.5}
    assert again.labels == c.recipe.corpus.labels
    assert set(again.versions) == {"mien", "torch", "numpy", "python"}
    assert again.recipe == models.complete(c.recipe)
    assert set(again.normalisation) == {"face", "voice"}
    assert not again.model.training


def test_half_precision_is_half_the_size_and_nearly_the_same(tmp_path: Path) -> None:
    c = made(model={"dim": 32})
    c.model.norm_of("face").mean.fill_(70000.0)  # no float16 could hold it
    full, half = (checkpoint.save(tmp_path / str(h), c.model, c.recipe, half=h) for h in (False, True))
    sizes = [(f / checkpoint.WEIGHTS).stat().st_size for f in (full, half)]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = checkpoint.load(half)
    assert all(p.dtype == torch.float32 for p in loaded.model.parameters())
    assert loaded.normalisation["face"][0][0].item() == 70000.0
    s = {"voice": streams()["voice"]}
    a, b = c.predict_streams(s, 0, 7.3)[1], loaded.predict_streams(s, 0, 7.3)[1]
    assert np.abs(a - b).max() < 5e-3


def test_predicting_is_windows_votes_and_smoothing() -> None:
    """Against the same steps written out one window at a time."""
    apart = {"expression": 0.7, "arousal": 1.3}
    for settings in (
        {}, {"triangular": True, "temperature": 2.0, "smooth_seconds": 0.7}, {"smooth_seconds": apart}
    ):  # fmt: skip
        c = made(vote=settings)
        s = streams(face=slice(0, 100))
        times, p, va = c.predict_streams(s, 0.0, 7.3, batch=3)
        assert np.allclose(times, clock.token_times(0.0, 7.3, 10.0))
        tokens = {n: clock.resample(x, times, 10.0) for n, x in s.items()}
        said = []
        for w in soft_vote.windows(len(times), 20, 5):
            values = {n: torch.from_numpy(v[w.start : w.stop])[None] for n, (v, _) in tokens.items()}
            valid = {n: torch.from_numpy(m[w.start : w.stop])[None] for n, (_, m) in tokens.items()}
            with torch.no_grad():
                out = c.model(values, valid)
            soft = (out.logits[0] / c.recipe.vote.temperature).softmax(-1)
            said.append((w, torch.cat((soft, out.valence_arousal[0]), -1).numpy()))
        expected = soft_vote.vote(said, len(times), triangular=c.recipe.vote.triangular)
        widths = c.recipe.vote.smooth_seconds
        if isinstance(widths, dict):
            widths = [0.7] * p.shape[1] + [0.0, 1.3]
        expected = soft_vote.smooth(expected, times, widths)
        np.testing.assert_allclose(np.concatenate((p, va), 1), expected, atol=1e-6)
        assert np.allclose(p.sum(1), 1)


def test_no_evidence_is_nan_and_evidence_is_not() -> None:
    c = made()
    s = streams(20.0, face=slice(0, 60), voice=slice(0, 100))  # both end at 2 s
    times, p, va = c.predict_streams(s, 0.0, 20.0)
    assert np.isfinite(p[times < 3.5]).all()
    assert np.isnan(p[times > 4.0]).all()
    assert np.isnan(va[times > 4.0]).all()
    for nothing in ({}, streams(3.0, face=slice(0, 0), voice=slice(0, 0))):
        times, p, va = c.predict_streams(nothing, 0.0, 3.0)
        assert p.shape == (30, 8)
        assert va.shape == (30, 2)
        assert np.isnan(p).all()


@pytest.mark.parametrize("only", ["face", "voice"])
def test_one_stream_alone_is_the_other_left_out(only: str) -> None:
    c = made()
    s = streams()
    absent = "voice" if only == "face" else "face"
    empty = Stream(s[absent].values, s[absent].times, np.zeros(len(s[absent].times), bool))
    alone, beside = c.predict_streams({only: s[only]}, 0, 7.3), c.predict_streams({**s, absent: empty}, 0, 7.3)
    for a, b in zip(alone, beside, strict=True):
        assert np.array_equal(a, b)


def test_a_recording_shorter_than_a_window_and_one_still_image() -> None:
    c = made()
    for seconds in (0.03, 0.5, 2.0):
        s = streams(seconds)
        times, p, _ = c.predict_streams(s, 0.0, seconds)
        assert len(times) == max(1, round(np.ceil(seconds * 10)))
        assert np.isfinite(p).all()


def test_streams_that_do_not_fit_are_refused() -> None:
    c = made()
    with pytest.raises(ValueError, match=r"no input 'behaviour' in this checkpoint; it reads \['face', 'voice'\]"):
        c.predict_streams({"behaviour": streams()["face"]}, 0, 1)
    with pytest.raises(ValueError, match=r"the face stream has 3 values .* trained on 5 from the encoder 'f'"):
        c.predict_streams({"face": streams()["voice"]}, 0, 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    c = made()
    return checkpoint.save(tmp_path / "run", c.model, c.recipe)


def test_pickles_are_refused_unopened(tmp_path: Path, folder: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    trap = folder / "model.pt"
    trap.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ConfigError, match=r"model.pt: a pickle, which may run any code(.|\n)*was not opened"):
        checkpoint.load(trap)
    (folder / checkpoint.WEIGHTS).unlink()
    with pytest.raises(ConfigError, match=r"safetensors.torch.save_file"):
        checkpoint.load(folder)
    assert not (tmp_path / "sprung").exists()


def test_a_missing_folder_or_file_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ConfigError, match="model 'startr': no such checkpoint; did you mean \"starter\""):
        checkpoint.load("startr")
    with pytest.raises(ConfigError, match="a file, not a checkpoint folder"):
        checkpoint.load(folder / "recipe.yaml")
    (folder / checkpoint.METRICS).unlink()
    with pytest.raises(ConfigError, match=r"metrics.json missing"):
        checkpoint.load(folder)


def test_a_shipped_name_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHIPPED", ("grand",))
    with pytest.raises(ConfigError, match=r"'grand' is not in this installation(.|\n)*run `make grand`"):
        checkpoint.load("grand")


def test_damage_and_mixtures_are_noticed(folder: Path) -> None:
    weights = folder / checkpoint.WEIGHTS
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ConfigError, match=r"weights.safetensors is not the file that checkpoint.json describes"):
        checkpoint.load(folder)
    without_digests(folder, format=1)
    with pytest.raises(ConfigError, match=r"format 1, this mien reads format 2"):
        checkpoint.load(folder)
    (folder / checkpoint.ABOUT).write_text("{")
    with pytest.raises(ConfigError, match=r"checkpoint.json: cannot be read"):
        checkpoint.load(folder)


def test_another_architecture_is_named_tensor_by_tensor(folder: Path) -> None:
    without_digests(folder)
    text = (folder / checkpoint.RECIPE).read_text()
    (folder / checkpoint.RECIPE).write_text(text.replace("layers: 1", "layers: 2"))
    with pytest.raises(ConfigError, match=r"missing branch.face.layers.1(.|\n)*and \d+ more(.|\n)*Put back the recipe"):
        checkpoint.load(folder)
    (folder / checkpoint.RECIPE).write_text(text.replace("  dim: 8", "  dim: 16"))
    with pytest.raises(ConfigError, match=r"branch.face.missing is \(8,\), the recipe needs \(16,\)"):
        checkpoint.load(folder)


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    c = made()
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match=r"taken: cannot be written"):
        checkpoint.save(tmp_path / "taken", c.model, c.recipe)


def test_a_checkpoint_loads_in_float32_while_an_encoder_is_built_in_16_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers changes torch's default number format meanwhile, which is global."""
    folder = save_tiny(tmp_path / "run")
    weights = pretrained.fetch(WeightSource(str(test_images.tiny("beit", tmp_path / "beit"))))
    building = threading.Event()
    original = transformers.BeitModel.from_pretrained

    def slow(*arguments: Any, **options: Any) -> Any:
        torch.set_default_dtype(torch.bfloat16)
        building.set()
        time.sleep(0.5)
        torch.set_default_dtype(torch.float32)
        return original(*arguments, **options)

    monkeypatch.setattr(transformers.BeitModel, "from_pretrained", slow)
    with ThreadPoolExecutor(1) as pool:
        encoder = pool.submit(pretrained.load_network, weights, "BeitModel", ("beit",), dtype=torch.bfloat16)
        assert building.wait(60)
        model = checkpoint.load(folder).model
        assert {p.dtype for p in encoder.result().parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
