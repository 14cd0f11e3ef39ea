"""Every system in ONNX Runtime: the same numbers as in torch for any windows, masks, lengths and modalities."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

import mien
from mien import checkpoint, config, models, onnx_export, onnx_graph, onnx_model
from mien.cli.main import app
from mien.encoders.exported import open_exported
from mien.encoders.onnx_face import OnnxFace
from mien.errors import ConfigError
from mien.evaluation import metrics
from mien.faces.align import similarity_transform
from mien.faces.crops import extract_crop
from mien.layers.ensemble import Ensemble
from mien.media.video import frames
from mien.records import Stream
from tests.encoders import test_images, test_speech
from tests.models import systems, test_va
from tests.tiny_checkpoint import save_tiny
from tests.training import test_semi_supervised

MEASURES = {
    "macro_f1": lambda y, p, classes: metrics.macro_f1(y, p, classes=classes),
    "accuracy": lambda y, p, classes: float((y == p).mean()),
}


def va_with_gated_voice() -> config.Recipe:
    raw = test_va.recipe("reliability").model_dump()
    raw["model"] |= {"prior": {"face": 0.7, "behaviour": 0.1, "voice": 0.2}, "latent_inputs": []}
    return config.read(raw, origin="t", check=models.problems)


def one_modality(name: str, kept: str, **model: Any) -> config.Recipe:
    raw = systems.recipe(name, **model).model_dump()
    raw["features"] = {kept: raw["features"][kept]}
    return config.read(raw, origin=name, check=models.problems)


def with_samples() -> config.Recipe:
    """`transfer_ensemble` whose CNN-LSTM reads samples, and with a FER network."""
    raw = systems.recipe("transfer_ensemble", frames_per_row=4, pools=[10, 2]).model_dump()
    raw["features"] |= {"waveform": {"encoder": "w", "dim": 32}, "fer": {"encoder": "e", "dim": 7}}
    return config.read(raw, origin="t", check=models.problems)


RECIPES: dict[str, config.Recipe] = {
    "safe_cross_attention": systems.recipe("safe_cross_attention"),
    "safe_cross_attention voice": one_modality("safe_cross_attention", "voice"),
    "prompted_tcn": systems.recipe("prompted_tcn", hold_seconds=0.6),
    "prompted_tcn face": one_modality("prompted_tcn", "face"),
    **{f"cnn_pdem {f}": systems.recipe("cnn_pdem", fusion=f) for f in ("dirichlet", "forest", "attention")},
    "cnn_pdem mean, recurrent": systems.recipe("cnn_pdem", fusion="mean", face="gru", voice="v1"),
    "cnn_pdem voice": one_modality("cnn_pdem", "voice", fusion="attention"),
    "transfer_ensemble": systems.recipe("transfer_ensemble"),
    "transfer_ensemble samples": with_samples(),
    **{f"va {kind}": test_va.recipe(kind) for kind in test_va.SMALL},
    "va gated voice": va_with_gated_voice(),
}


def build(recipe: config.Recipe) -> Any:
    """A system with random weights, as if trained: with statistics of its inputs, and a fitted fusion."""
    torch.manual_seed(0)
    system: Any = models.build(recipe)
    widths = {name: feature.dim or 0 for name, feature in recipe.features.items()}
    mean = {name: torch.randn(width) for name, width in widths.items()}
    deviation = {name: 0.5 + torch.rand(width) for name, width in widths.items()}
    system.prepare(mean, deviation, torch.arange(1.0, len(recipe.corpus.labels) + 1))
    if isinstance(system, Ensemble):
        given = systems.batch(24)
        given.values = {name: values for name, values in given.values.items() if name in widths}
        given.valid = {name: valid for name, valid in given.valid.items() if name in widths}
        system.fit_classical([given])
        system.fit_fusion([given], MEASURES)
        assert bool(system.fusion_is_fitted)
    return system.eval()


Pair = tuple[checkpoint.Checkpoint, onnx_model.OnnxModel]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Name in `RECIPES` -> the checkpoint in torch and as exported."""
    made: dict[str, Pair] = {}

    def export(name: str) -> Pair:
        if name not in made:
            folder = tmp_path_factory.mktemp("export")
            checkpoint.save(folder, build(RECIPES[name]), RECIPES[name])
            onnx_export.export(folder)
            found = onnx_model.load(folder, checkpoint.weights_digest(folder))
            assert found is not None
            made[name] = checkpoint.load(folder), found
        return made[name]

    return export


Windows = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def windows(loaded: checkpoint.Checkpoint) -> Iterator[Windows]:
    """Windows of several numbers, lengths and masks, NaN where invalid; then with each modality left out."""
    rng, tokens = np.random.default_rng(0), loaded.settings.tokens
    names = list(loaded.features)
    for count, length, share in ((1, tokens, 1.0), (5, tokens, 0.5), (2, tokens, 0.0), (3, tokens - 1, 0.4),
                                 (2, 3, 0.3), (1, 1, 1.0), (4, 2, 0.7)):  # fmt: skip
        for left_out in (None, *(names if len(names) > 1 else ())):
            kept = [name for name in names if name != left_out]
            valid = {name: rng.random((count, length)) < share for name in kept}
            values = {}
            for name in kept:
                drawn = rng.normal(size=(count, length, loaded.features[name].dim)) * 2
                values[name] = np.where(valid[name][..., None], drawn, np.nan).astype(np.float32)
            yield values, valid


def in_torch(system: Any, call: str, values: dict[str, np.ndarray], valid: dict[str, np.ndarray]) -> Any:
    with torch.inference_mode():
        return getattr(system, call)(
            {n: torch.from_numpy(v) for n, v in values.items()}, {n: torch.from_numpy(v) for n, v in valid.items()}
        )


@pytest.mark.parametrize("name", RECIPES)
def test_the_onnx_network_equals_the_torch_network(name: str, exports: Callable[[str], Pair]) -> None:
    loaded, exported = exports(name)
    assert exported.settings == loaded.settings
    seen = []
    for values, valid in windows(loaded):
        output = in_torch(loaded.model, "forward", values, valid)
        logits, valence_arousal = exported.network(values, valid)
        assert np.isfinite(logits).all()
        np.testing.assert_allclose(logits, output.logits.numpy(), atol=1e-4)
        np.testing.assert_allclose(valence_arousal, output.valence_arousal.numpy(), atol=1e-4)
        seen.append(np.concatenate((logits, valence_arousal), axis=-1).reshape(-1, logits.shape[-1] + 2))
    assert np.ptp(np.concatenate(seen), axis=0).max() > 1e-2, "all predictions are equal, so the test proves nothing"


@pytest.mark.parametrize("kind", ["face", "behaviour", "voice"])
@pytest.mark.parametrize("seconds", [1.5, 17.0])
def test_embeddings_equal_those_of_the_checkpoint(kind: str, seconds: float, exports: Callable[[str], Pair]) -> None:
    loaded, exported = exports(f"va {kind}")
    rng, times = np.random.default_rng(1), np.arange(0.1, seconds, 0.2)
    width = loaded.features[kind].dim
    stream = Stream(rng.normal(size=(len(times), width)).astype(np.float32), times, rng.random(len(times)) < 0.4)
    ours, theirs = exported.embed_streams({kind: stream}), loaded.embed_streams({kind: stream})
    assert ours.dim == loaded.model.embedding_dim == 18
    np.testing.assert_array_equal(ours.times, theirs.times)
    np.testing.assert_array_equal(ours.valid, theirs.valid)
    assert ours.valid.sum() > 0
    np.testing.assert_allclose(ours.values, theirs.values, atol=1e-4)


def test_a_system_without_an_embedding_says_so(exports: Callable[[str], Pair]) -> None:
    _, exported = exports("safe_cross_attention")
    with pytest.raises(ConfigError, match=r"has no features for a next stage"):
        exported.embed_streams({})


def test_an_unfitted_fusion_is_the_mean(tmp_path: Path) -> None:
    recipe = systems.recipe("cnn_pdem", fusion="forest")
    torch.manual_seed(0)
    checkpoint.save(tmp_path, models.build(recipe), recipe)
    onnx_export.export(tmp_path)
    loaded = checkpoint.load(tmp_path)
    exported = onnx_model.load(tmp_path, checkpoint.weights_digest(tmp_path))
    assert exported is not None
    values, valid = next(windows(loaded))
    members = in_torch(loaded.model, "member_outputs", values, valid)
    mean = torch.stack([m.probabilities for m in members.values()]).mean(dim=0)
    np.testing.assert_allclose(np.exp(exported.network(values, valid)[0]), mean.numpy(), atol=1e-5)


def test_naive_attention_is_refused(tmp_path: Path) -> None:
    """It has no branch for a modality that is left out; ONNX would run the branch on zeros, and predict otherwise."""
    recipe = systems.recipe("safe_cross_attention", attention="naive")
    checkpoint.save(tmp_path, build(recipe), recipe)
    with pytest.raises(ConfigError, match=r"safe_cross_attention: its ONNX network differs from the torch network"):
        onnx_export.export(tmp_path)


def test_a_network_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tiny(tmp_path / "run")
    monkeypatch.setattr(onnx_graph, "TOLERANCE", 0.0)
    with pytest.raises(ConfigError, match=r"its ONNX network differs from the torch network by \d.\de-0\d; 0 is allo"):
        onnx_export.export(folder)
    assert not (folder / onnx_model.NETWORK).exists()


# ---- systems over face images ----


def save_image_run(folder: Path, name: str, labels: list[str] | None = None) -> Path:
    made = {"dynamic_threshold": test_semi_supervised.recipe, "cnn_static": test_semi_supervised.static}
    kind, _, network = name.partition(" ")
    raw = made[kind](*([network] if network else [])).model_dump()
    raw["features"]["face"]["dim"] = test_semi_supervised.SIZE
    raw["corpus"]["labels"] = labels or raw["corpus"]["labels"]
    recipe = config.read(raw, origin=name, check=models.problems)
    torch.manual_seed(0)
    system: Any = models.build(recipe)
    test_images._shake(system)
    with torch.no_grad():  # statistics of batch norm, without which an output hardly depends on the picture
        for part in (system.teacher,) if kind == "dynamic_threshold" else (system.network,):
            for _ in range(20):
                part.train()(torch.randn(16, 3, 16, 16) * (64 if kind == "dynamic_threshold" else 1))
    return checkpoint.save(folder, system, recipe)


ImageRun = Callable[[str], tuple[Any, Path]]


@pytest.fixture(scope="module")
def image_run(tmp_path_factory: pytest.TempPathFactory) -> ImageRun:
    """Name -> the system of a saved run, and its exported network in the folder `faces`, which stays as it is."""
    made: dict[str, tuple[Any, Path]] = {}

    def export(name: str) -> tuple[Any, Path]:
        if name not in made:
            folder = save_image_run(tmp_path_factory.mktemp("images") / "faces", name)
            made[name] = checkpoint.load(folder).model, onnx_export.export(folder)
        return made[name]

    return export


#: Eyes, nose tip and corners of the mouth of the man in single_face.mp4 at 0 s, in pixels, read off the picture.
POINTS = [[260, 170], [331, 167], [298, 209], [274, 251], [329, 248]]


def real_crops(shared: Path, size: int) -> np.ndarray:
    target = np.array([[0.34, 0.46], [0.66, 0.46], [0.5, 0.64], [0.37, 0.82], [0.63, 0.82]]) * size
    transform = similarity_transform(target, np.array(POINTS, float))
    pictures = [frame.image for frame, _ in zip(frames(shared / "clips" / "single_face.mp4"), range(8), strict=False)]
    return np.stack([extract_crop(picture, transform, size) for picture in pictures])


@pytest.mark.parametrize(
    "name", ["dynamic_threshold", "cnn_static resnet", "cnn_static vit", "cnn_static efficientnet"]
)
def test_an_image_system_becomes_a_face_network(name: str, image_run: ImageRun, shared: Path) -> None:
    system, network = image_run(name)
    crops = real_crops(shared, 16)
    face = OnnxFace(str(network), batch_size=3)
    with torch.inference_mode():
        images = torch.from_numpy(crops.transpose(0, 3, 1, 2).copy())
        logits, vector = system(images), system.embed(images)
    values = face.encode_crops(crops)
    np.testing.assert_allclose(values[:, :3], logits.numpy(), atol=1e-4)
    probabilities, affect = face.interpret(values)
    np.testing.assert_allclose(probabilities[:, :3], logits.softmax(dim=1).numpy(), atol=1e-4)
    if name == "dynamic_threshold":
        assert np.isnan(affect).all()
    else:
        with torch.inference_mode():
            np.testing.assert_allclose(affect, system.valence_arousal(vector).tanh().numpy(), atol=1e-4)
    outputs = (3 if name == "dynamic_threshold" else 5) + vector.shape[1]
    assert (face.name, face.crop.size, face.dim) == ("faces", 16, outputs)
    np.testing.assert_allclose(values[:, -vector.shape[1] :], vector.numpy(), atol=1e-4)
    assert np.ptp(values, axis=0).max() > 1e-3


def test_an_exported_image_system_predicts_a_recording(image_run: ImageRun, shared: Path) -> None:
    _, network = image_run("cnn_static resnet")
    table = mien.load(network).predict(shared / "clips" / "single_face.mp4").table
    rows = table.filter(table["evidence"] == "face")
    assert len(rows) > 20
    for column in ("p_neutral", "valence", "arousal"):
        assert rows[column].is_finite().all()
    np.testing.assert_allclose(sum(rows[f"p_{c}"].to_numpy() for c in ("neutral", "anger", "disgust")), 1, atol=1e-4)


def test_the_card_keeps_the_framing_of_the_training_images(image_run: ImageRun, tmp_path: Path) -> None:
    from mien.datasets.image_datasets import crop_framing

    _, exported = image_run("dynamic_threshold")
    shutil.copytree(exported.parent, tmp_path, dirs_exist_ok=True)
    network = tmp_path / exported.name
    face = OnnxFace(str(network))
    margin, down = crop_framing(checkpoint.load(tmp_path).recipe)
    assert (face.crop.margin, face.crop.down) == (margin, down)
    card = yaml.safe_load((tmp_path / onnx_export.CARD).read_text())
    card["down"] = 0.25
    (tmp_path / onnx_export.CARD).write_text(yaml.safe_dump(card))
    assert OnnxFace(str(network)).crop.down == 0.25
    assert OnnxFace(str(network)).provenance["crop"].endswith(", down 0.25")


def test_own_classes_stay_or_are_mapped_in_the_card(tmp_path: Path, shared: Path) -> None:
    """The card of a run with own classes keeps them; `means` maps them to mien's instead."""
    network = onnx_export.export(save_image_run(tmp_path, "dynamic_threshold", ["Neutral", "Anger", "Bored"]))
    timeline = mien.load(network).predict(shared / "clips" / "single_face.mp4")
    assert timeline.classes == ("Neutral", "Anger", "Bored")
    assert not any("starter" in note for note in timeline.notes), "its voice knows other classes"
    card = tmp_path / onnx_export.CARD
    text = card.read_text().replace("own_classes: true", "own_classes: false")
    card.write_text(text)
    with pytest.raises(ConfigError, match=r"label 'Bored' is none of mien's expressions.*map it to one in `means`"):
        OnnxFace(str(network))
    card.write_text(text + "means: {Bored: Other}\n")
    assert OnnxFace(str(network)).card.class_indices == [0, 1, 7]


# ---- encoders, stages and the command ----


def run_with_encoders(folder: Path, **sources: Path) -> Path:
    """A checkpoint of the flagship that reads a tiny BEiT and a tiny wav2vec 2.0."""
    raw = systems.recipe("safe_cross_attention").model_dump()
    raw["features"] = {
        "face": {"encoder": "beit-large", "dim": 32, "options": {"source": str(sources["face"]), "layer": 1}},
        "voice": {"encoder": "wav2vec2-base", "dim": 32, "options": {"source": str(sources["voice"]), "chunk_s": 6.0}},
    }
    recipe = config.read(raw, origin="t", check=models.problems)
    return checkpoint.save(folder, models.build(recipe), recipe)


def test_the_command_exports_encoders_and_stages(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    face, voice = test_images.tiny("beit", tmp_path / "beit"), test_speech.tiny("wav2vec2-base", tmp_path / "speech")
    run = run_with_encoders(tmp_path / "run", face=face, voice=voice)
    save_image_run(run / "stages" / "first", "dynamic_threshold")
    save_image_run(run / "stages" / "first" / "stages" / "below", "dynamic_threshold")
    (run / "stages" / "notes").mkdir()
    capfd.readouterr()
    result = CliRunner().invoke(app, ["export", str(run), "--encoders"])
    assert result.exit_code == 0, result.output
    written = ["encoders/beit-large/network.onnx", "encoders/wav2vec2-base/network.onnx", "network.onnx",
               "stages/first/network.onnx", "stages/first/stages/below/network.onnx"]  # fmt: skip
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == [str(run / path) for path in written]
    assert all((run / path).is_file() for path in written)
    assert (run / "stages" / "first" / onnx_export.CARD).is_file()
    assert open_exported(run / "encoders" / "beit-large").name == "beit-large"
    assert result.stderr == ""
    assert capfd.readouterr() == ("", ""), "the exporter of torch wrote past the command"


def test_what_cannot_be_exported_is_named(tmp_path: Path) -> None:
    raw = systems.recipe("safe_cross_attention").model_dump()
    raw["features"]["face"]["encoder"] = "qwen3-vl-4b"
    raw["features"]["voice"]["encoder"] = "va_voice"
    recipe = config.read(raw, origin="t", check=models.problems)
    run = checkpoint.save(tmp_path, models.build(recipe), recipe)
    result = CliRunner().invoke(app, ["export", str(run), "--encoders", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "va_voice still needs torch: only encoders with a name in mien's registry are exported" in result.stderr
    assert "qwen3-vl-4b still needs torch: encoders of the kind behaviour are not exported" in result.stderr
    assert not (tmp_path / "out" / "encoders").exists()
    assert (tmp_path / "out" / "network.onnx").is_file()


def test_one_encoder_with_two_sets_of_options_is_refused(tmp_path: Path) -> None:
    raw = systems.recipe("safe_cross_attention").model_dump()
    for name, layer in (("face", 1), ("voice", 2)):
        raw["features"][name] |= {"encoder": "beit-large", "options": {"layer": layer}}
    recipe = config.read(raw, origin="t", check=models.problems)
    run = checkpoint.save(tmp_path, models.build(recipe), recipe)
    with pytest.raises(ConfigError, match=r"two inputs read the encoder beit-large with different options"):
        onnx_export.export_run(run, encoders=True)
    assert not (run / "network.onnx").exists()


def test_8_bits_without_encoders_are_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["export", str(tmp_path), "--int8"])
    assert result.exit_code == 2
    assert "add --encoders" in result.output
