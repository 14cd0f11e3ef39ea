"""Tuning encoders: LoRA and the last blocks, on tiny networks with random weights."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import soundfile
import torch
from typer.testing import CliRunner

from mien import config, hub
from mien.checkpoint_encoder import create_encoder
from mien.cli.main import app
from mien.encode.create_encoders import create_encoders, source_of
from mien.encoders import adaptation
from mien.encoders.images import ImageEncoder
from mien.encoders.pretrained import WeightSource
from mien.errors import ConfigError
from mien.inference import EncoderInput
from mien.labels import EXPRESSIONS
from mien.synthetic.face_images import render_faces
from mien.training.resume import RunState
from mien.training.tuning import KeepTuned, create_base, make_recipe, tune
from mien.training.tuning_examples import ClassMap, Examples, load_faces, load_sounds
from mien.training.tuning_network import Adaptation, Objective, TunedNetwork
from tests.encoders import test_images, test_speech
from tests.killed import every_cut

needs_faces = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)
THREE = ["Neutral", "Anger", "Fear"]
FAST = ("train.epochs=3", "train.lr=3e-3", "train.threads=1", "train.batch=16", "train.patience=0", "model.dropout=0")


@pytest.fixture(scope="module")
def beit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return test_images.tiny("beit", tmp_path_factory.mktemp("networks") / "beit")


@pytest.fixture(scope="module")
def wavlm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return test_speech.tiny("wavlm-large", tmp_path_factory.mktemp("networks") / "wavlm")


def bars(count: int, seed: int) -> Examples:
    """Noise of 32 x 32 pixels with a bright bar, whose height is the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 120, (count, 32, 32, 3)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[8 * label : 8 * label + 12] += 100
    return Examples(list(images), np.eye(3, dtype=np.float32)[labels], ["rafdb"] * count)


def tones(count: int, seed: int, classes: int = 3) -> Examples:
    """Half a second of tones of 300, 900 or 2700 Hz in noise, 16-bit."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    time = np.arange(8000) / 16_000
    sounds = [
        (3000 * np.sin(2 * np.pi * 300 * 3.0**label * time) + rng.normal(0, 200, 8000)).astype(np.int16)
        for label in labels
    ]
    return Examples(sounds, np.eye(classes, dtype=np.float32)[labels], ["emodb"] * count)


def run(
    spec: str, out: Path, how: dict[str, int], *overrides: str, val: Examples | None = None, **options: Any
) -> Path:
    is_sound = "wavlm" in spec
    make = tones if is_sound else bars
    recipe = make_recipe(spec, {"emodb" if is_sound else "rafdb": Path("x")}, THREE, {}, how, [*FAST, *overrides])
    return tune(recipe, create_base(spec, "cpu"), make(96, 0), val or make(32, 1), out, progress=False, **options)


def history(out: Path) -> list[dict[str, float]]:
    epochs: list[dict[str, float]] = json.loads((out / "metrics.json").read_text())["history"]
    return epochs


def exactly(spec: str) -> Any:
    return create_encoder(f"{spec},precision=float32")


def crops(count: int = 5) -> np.ndarray:
    return np.stack(bars(count, 9).sources)  # type: ignore[arg-type]


# --- what is trained ---


def test_lora_leaves_the_base_weights_and_begins_with_the_base_network(beit: Path) -> None:
    encoder = ImageEncoder("beit", WeightSource(str(beit)), precision="float32")
    expected, network = encoder.encode_crops(crops()), encoder.trainable_network()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adaptation.add_lora(network, "beit", rank=2, alpha=4.0)
    np.testing.assert_allclose(encoder.encode_crops(crops()), expected, atol=1e-5)
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    linear = sum(isinstance(m, torch.nn.Linear) for block in network.layers for m in block.modules())
    assert len(trained) >= 2 * 6 * 2, linear  # two blocks of six layers, A and B of each
    torch.nn.init.normal_(next(p for n, p in network.named_parameters() if "lora_B" in n))
    merged = adaptation.merged_state(network)
    assert merged.keys() == before.keys()
    changed = [name for name in before if not torch.equal(before[name], merged[name])]
    assert len(changed) == 1


def test_merged_update_is_alpha_by_rank_times_b_a(beit: Path) -> None:
    network = ImageEncoder("beit", WeightSource(str(beit)), precision="float32").trainable_network()
    adaptation.add_lora(network, "beit", rank=2, alpha=6.0)
    parameters = dict(network.named_parameters())
    b_name = next(name for name in parameters if "lora_B" in name)
    torch.nn.init.normal_(parameters[b_name])
    a, b = parameters[b_name.replace("lora_B", "lora_A")], parameters[b_name]
    layer = b_name.partition(".lora_B")[0]
    expected = parameters[f"{layer}.base_layer.weight"] + 6.0 / 2 * b @ a
    torch.testing.assert_close(adaptation.merged_state(network)[f"{layer}.weight"], expected)


def test_last_blocks_train_nothing_else(beit: Path) -> None:
    network = ImageEncoder("beit", WeightSource(str(beit))).trainable_network()
    adaptation.train_last_blocks(network, "beit", 1)
    path, blocks = adaptation.find_blocks(network, "beit")
    trained = {name for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {f"{path}.1.{name}" for name, _ in blocks[1].named_parameters()}
    with pytest.raises(ConfigError, match=r"beit has 2 blocks; 3 cannot be trained\nNothing was trained"):
        adaptation.train_last_blocks(network, "beit", 3)


def test_a_cnn_has_no_blocks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resnet50 has no transformer blocks"):
        run(f"resnet50={test_images.tiny('resnet', tmp_path / 'resnet')}", tmp_path / "out", {"lora": 2})


# --- training ---


@needs_faces
def test_lora_on_a_tiny_beit_lowers_the_validation_loss_on_faces(beit: Path, tmp_path: Path) -> None:
    train, val = (
        render_faces(split, people, seconds=4.0, hz=3.0, size=32) for split, people in (("train", 4), ("val", 2))
    )
    train_set, val_set = (
        Examples(list(s.images), np.eye(8, dtype=np.float32)[s.labels], ["synthetic"] * len(s)) for s in (train, val)
    )
    spec = f"beit-large={beit}"
    recipe = make_recipe(
        spec, {"synthetic": Path("x")}, EXPRESSIONS, {}, {"lora": 4}, [*FAST, "train.epochs=6", "model.head_lr=3e-3"]
    )
    out = tune(recipe, create_base(spec, "cpu"), train_set, val_set, tmp_path / "out", progress=False)
    losses = [epoch["val_loss"] for epoch in history(out)]
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("how", [{"lora": 4}, {"last_blocks": 1}], ids=["lora", "last blocks"])
@pytest.mark.parametrize("kind", ["beit", "wavlm"])
def test_tuned_encoder_is_a_spec_whose_values_and_provenance_differ(
    kind: str, how: dict[str, int], beit: Path, wavlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = f"beit-large={beit}" if kind == "beit" else f"wavlm-large={wavlm},layer=-1,last=2"
    weights = (beit if kind == "beit" else wavlm) / "model.safetensors"
    before = weights.read_bytes()
    out = run(base, tmp_path / "affect", how, "corpus.options.window_s=0.5")
    assert weights.read_bytes() == before
    assert history(out)[-1]["loss"] < history(out)[0]["loss"]
    monkeypatch.setitem(sys.modules, "peft", None)  # reading a tuned encoder needs no peft
    first, second = exactly(base), exactly(str(out))
    if kind == "beit":
        a, b = (encoder.encode_crops(crops()) for encoder in (first, second))
    else:
        sound = np.asarray(tones(1, 5).sources[0], np.float32) / 32767
        (a,), (b,) = ([s.values for s in encoder.encode_audio([(0.0, sound)])] for encoder in (first, second))
    assert np.abs(a - b).max() > 1e-3
    assert second.name == "affect"
    assert first.provenance["revision"] != second.provenance["revision"]
    assert first.provenance["layer"] == second.provenance["layer"]  # the options of the base spec stay
    assert second.provenance["tuned"].endswith(
        f"{first.provenance['revision']}, on {'rafdb' if kind == 'beit' else 'emodb'}"
    )
    modality = "face" if kind == "beit" else "voice"
    feature = EncoderInput("mine", second.dim, {"source": str(out)})  # as in a recipe
    assert source_of(feature) == ("pictures" if kind == "beit" else "sound")
    made = create_encoders({modality: feature})[modality]
    assert (made.name, made.provenance["revision"]) == ("mine", second.provenance["revision"])


def test_merged_encoder_equals_the_network_that_was_trained(beit: Path, tmp_path: Path) -> None:
    spec = f"beit-large={beit}"
    encoder = create_base(spec, "cpu")
    assert isinstance(encoder, ImageEncoder)
    recipe = make_recipe(spec, {"rafdb": Path("x")}, THREE, {}, {"lora": 4}, [*FAST, "train.epochs=1"])
    out = tune(recipe, encoder, bars(48, 0), None, tmp_path / "out", progress=False)
    encoder.network.eval()
    np.testing.assert_allclose(exactly(str(out)).encode_crops(crops()), encoder.encode_crops(crops()), atol=2e-5)


def test_an_interrupted_run_resumes_to_the_same_weights(beit: Path, tmp_path: Path) -> None:
    spec = f"beit-large={beit}"
    whole = run(spec, tmp_path / "whole", {"lora": 2})

    def stop(epoch: int, report: object) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "cut", {"lora": 2}, on_epoch=stop)
    saved = (tmp_path / "cut" / "unfinished.safetensors").stat().st_size
    assert saved < (beit / "model.safetensors").stat().st_size, "frozen weights are not saved for resuming"
    with pytest.raises(ConfigError, match="there is an unfinished run, 2 epochs"):
        run(spec, tmp_path / "cut", {"lora": 2})
    resumed = run(spec, tmp_path / "cut", {"lora": 2}, resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (resumed / "unfinished.safetensors").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_save_over_a_tuned_encoder_leaves_the_old_or_the_new_one(
    beit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    spec = f"beit-large={beit}"
    recipe = make_recipe(spec, {"rafdb": Path("x")}, THREE, {}, {"last_blocks": 1}, FAST)
    recipe = config.changed(recipe, corpus={"options": {**recipe.corpus.options, "base_revision": "r"}})
    system = TunedNetwork(create_base(spec, "cpu"), 3, Adaptation(last_blocks=1), Objective(), lr=1e-3)
    state = RunState(config.dump(recipe), 1, "training images", epochs=1, best_epoch=1, history=[{"val_loss": 1.0}])

    def save(folder: Path) -> None:
        KeepTuned(recipe, folder, state, 1).save(system)

    def answer(folder: Path) -> bytes:
        values: bytes = exactly(str(folder)).encode_crops(crops()).tobytes()
        return values

    folders = [tmp_path / "old" / "it", tmp_path / "new" / "it"]
    save(folders[0])
    with torch.no_grad():
        next(p for p in system.network.parameters() if p.requires_grad).add_(0.5)
    save(folders[1])
    old, new = (answer(folder) for folder in folders)
    cuts = every_cut(tmp_path / "cut", lambda place: shutil.copytree(folders[0], place), save)
    found = [answer(place) for place in cuts]
    assert set(found) == {old, new}
    assert found == sorted(found, key=[old, new].index), "once it is new it stays new"
    save(cuts[0])
    assert {p.name for p in cuts[0].iterdir()} == {p.name for p in folders[1].iterdir()}, "nothing is left over"


def test_the_best_epoch_is_kept_and_training_stops_early(beit: Path, tmp_path: Path) -> None:
    wrong = bars(32, 1)
    wrong = Examples(wrong.sources, np.roll(wrong.targets, 1, axis=1), wrong.corpora)  # learning makes it worse
    out = run(f"beit-large={beit}", tmp_path / "out", {"lora": 4}, "train.epochs=30", "train.patience=2", val=wrong)
    scores = [epoch["val_macro_f1"] for epoch in history(out)]
    metrics = json.loads((out / "metrics.json").read_text())
    assert len(scores) == metrics["best_epoch"] + 2 < 30
    assert metrics["val_macro_f1"] == max(scores)


def test_soft_labels_are_learnt_as_shares(beit: Path, tmp_path: Path) -> None:
    """With one image and shares .7 and .3 the loss approaches their entropy, which hard labels would pass below."""
    image, shares = crops(1)[0], np.array([0.7, 0.3, 0.0], np.float32)
    examples = Examples([image] * 16, np.tile(shares, (16, 1)), ["ferplus"] * 16)
    spec = f"beit-large={beit}"
    recipe = make_recipe(
        spec,
        {"ferplus": Path("x")},
        THREE,
        {},
        {"lora": 2},
        [*FAST, "train.epochs=20", "train.batch=4", "model.head_lr=3e-2", "corpus.options.augment=none"],
    )
    out = tune(recipe, create_base(spec, "cpu"), examples, examples, tmp_path / "out", progress=False)
    entropy = -(0.7 * np.log(0.7) + 0.3 * np.log(0.3))
    assert entropy - 1e-3 < history(out)[-1]["val_loss"] < entropy + 0.05


def test_settings_that_cannot_work_are_refused(beit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"rafdb": Path("x")}
    with pytest.raises(ConfigError, match="--lora is 4 and --last-blocks is 2; exactly one"):
        make_recipe("beit-large", data, THREE, {}, {"lora": 4, "last_blocks": 2})
    with pytest.raises(ConfigError, match=r'model\.head_rate: unknown key; did you mean "head_lr"\?'):
        make_recipe("beit-large", data, THREE, {}, {"lora": 4}, ["model.head_rate=1"])
    with pytest.raises(ConfigError, match="the encoder 'face-geometry' cannot be tuned"):
        create_base("face-geometry", "cpu")
    out = run(f"beit-large={beit}", tmp_path / "out", {"last_blocks": 1}, "train.epochs=1")
    with pytest.raises(ConfigError, match="is tuned already"):
        create_base(str(out), "cpu")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(
        ConfigError, match=r"LoRA needs the package peft.*\nNothing.*\nRun `pip install \"mien\[train\]\"`"
    ):
        run(f"beit-large={beit}", tmp_path / "other", {"lora": 2})


# --- corpora ---


def test_class_maps() -> None:
    joined = ClassMap.of("affectnet", ("Neutral", "Contempt", "Fear"), THREE, {"Contempt": "Anger", "Fear": None})
    soft = np.array([[0.5, 0.25, 0.25], [0, 0, 1.0], [0, 0, 0]], np.float32)
    found = joined.targets(np.array([0, 2, 1]), soft)
    np.testing.assert_allclose(found, [[2 / 3, 1 / 3, 0], [0, 0, 0], [0, 1, 0]], atol=1e-6)
    with pytest.raises(ConfigError, match=r'rafdb has no such class; did you mean "Happiness"\?'):
        ClassMap.of("rafdb", ("Happiness", "Fear"), THREE, {"Happines": "Anger"})
    with pytest.raises(ConfigError, match="the training has no such class"):
        ClassMap.of("rafdb", ("Happiness", "Fear"), THREE, {"Happiness": "Joy"})


def write_faces(root: Path, folders: dict[str, int]) -> Path:
    for label, (name, count) in enumerate(folders.items()):
        (root / name).mkdir(parents=True)
        for i, image in enumerate(bars(count, 10 + label).sources):
            assert isinstance(image, np.ndarray)
            cv2.imwrite(str(root / name / f"{i}.png"), image)
    return root


def test_faces_of_two_corpora_are_mixed_and_mapped(beit: Path, tmp_path: Path) -> None:
    folders = write_faces(tmp_path / "folders", {"neutral": 20, "cross": 20, "sleepy": 5})
    rafdb = tmp_path / "rafdb"
    (rafdb / "EmoLabel").mkdir(parents=True)
    (rafdb / "Image" / "aligned").mkdir(parents=True)
    lines = []
    for i, image in enumerate(bars(6, 3).sources):
        split = "train" if i < 4 else "test"
        assert isinstance(image, np.ndarray)
        cv2.imwrite(str(rafdb / "Image" / "aligned" / f"{split}_{i}_aligned.jpg"), image)
        lines.append(f"{split}_{i}.jpg {(2, 6)[i % 2]}")  # fear, anger
    (rafdb / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))
    train, val = load_faces(
        {"class-folders": folders, "rafdb": rafdb}, THREE,
        {"class-folders": {"cross": "Anger", "sleepy": None}, "rafdb": {"Fear": None}},
        create_base(f"beit-large={beit}", "cpu").crop, align=False,
    )  # fmt: skip
    assert val is not None
    assert (len(train), len(val)) == (36 + 2, 4 + 1)
    assert train.targets.sum(axis=0).tolist()[2] == 0
    assert [c for c in train.corpora if c == "rafdb"] == ["rafdb"] * 2
    assert np.asarray(val.targets)[-1].tolist() == [0, 1, 0]


def test_mien_tune_from_folders_to_an_encoder(beit: Path, tmp_path: Path) -> None:
    folders = write_faces(tmp_path / "folders", {"neutral": 30, "anger": 30})
    words = [
        "tune", f"beit-large={beit}", "--data", f"class-folders={folders}", "--lora", "2", "--labels", "Neutral,Anger",
        "--out", str(tmp_path / "out"), "--device", "cpu", "train.epochs=1", "train.threads=1",
        "corpus.options.align=false",
    ]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "54 examples to train on; 6 select the epoch" in done.output.replace("\n", "")
    assert f"mien extract INDEX --encoder {tmp_path / 'out'}" in done.output.replace("\n", "")
    assert create_encoder(str(tmp_path / "out")).dim == 32
    assert CliRunner().invoke(app, ["tune", "beit-large", "--lora", "2"]).exit_code == 2


def test_sounds_are_cut_into_labelled_windows_split_by_subject(tmp_path: Path) -> None:
    for speaker in ("03", "08", "09", "10", "11"):
        for letter in "WFT":
            noise = 0.1 * np.random.default_rng(3).standard_normal(24_000)
            soundfile.write(tmp_path / f"{speaker}a01{letter}a.wav", noise, 16_000)
    train, val = load_sounds({"emodb": tmp_path}, ["Anger", "Sadness"], {"emodb": {"Happiness": None}}, 1.0)
    assert val is not None
    lengths = {len(source) for source in [*train.sources, *val.sources]}  # type: ignore[arg-type]
    assert lengths == {16_000}
    assert len(val) % 4 == 0  # two windows of two clips of each speaker
    assert train.targets.sum(axis=0).tolist() == [len(train) / 2] * 2
