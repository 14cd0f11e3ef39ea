"""Semi-supervised training on images: it learns, resumes exactly, and its thresholds follow their formulas."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mien import checkpoint, config, models
from mien.checkpoint_encoder import create_encoder
from mien.data import image_augment
from mien.datasets import face_images
from mien.datasets.face_images import READERS
from mien.datasets.image_datasets import load_image_sets
from mien.encoders.protocol import Crop, CropEncoder
from mien.errors import ConfigError, CorpusError
from mien.models.dynamic_threshold import DynamicThreshold
from mien.records import ImageBatch, ImageSet
from mien.synthetic.face_images import CROP_DOWN, CROP_MARGIN
from mien.training.semi_supervised import fit_images
from tests.encoders import test_images

CLASSES, SIZE = ["Neutral", "Anger", "Disgust"], 16


def recipe(**model: Any) -> config.Recipe:
    raw = config.load("dynamic_threshold", check=models.problems).model_dump()
    raw["corpus"]["labels"] = CLASSES
    raw["model"] |= {"stem": 8, "widths": [8, 16], "depths": [1, 1], "ema": 0.9, "warmup_steps": 10, **model}
    raw["train"] |= {"lr": 5e-3, "batch": 6, "threads": 1}
    return config.read(raw, origin="test", check=models.problems)


def shapes(count: int, seed: int) -> ImageSet:
    """A bar, a square or a disc, anywhere, in any colour."""
    rng, images, labels = np.random.default_rng(seed), [], rng_labels(count, seed)
    for label in labels:
        image = np.full((SIZE, SIZE, 3), rng.integers(0, 60), np.uint8)
        colour = tuple(int(v) for v in rng.integers(120, 255, 3))
        x, y = (int(v) for v in rng.integers(5, 11, 2))
        if label == 0:
            cv2.rectangle(image, (x - 4, y - 1), (x + 4, y + 1), colour, -1)
        elif label == 1:
            cv2.rectangle(image, (x - 3, y - 3), (x + 3, y + 3), colour, 1)
        else:
            cv2.circle(image, (x, y), 4, colour, -1)
        images.append(image)
    return ImageSet(np.stack(images), labels)


def rng_labels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 1]).integers(0, 3, count)


class Interrupted(Exception):
    pass


@contextmanager
def interrupted(*, at_step: int) -> Iterator[None]:
    """Inside, training is interrupted after a step, as a signal would: in the middle of an epoch."""
    taken = DynamicThreshold.after_step

    def after_step(system: DynamicThreshold) -> None:
        taken(system)
        if int(system.steps) == at_step:
            raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DynamicThreshold, "after_step", after_step)
        yield


def test_an_interrupted_run_ends_bit_for_bit_as_an_uninterrupted_one(tmp_path: Path) -> None:
    labelled, rest, val = shapes(9, 0), shapes(60, 1), shapes(60, 2)
    steps: list[float] = []
    options: dict[str, Any] = {"steps": 56, "epoch_steps": 10}
    straight = fit_images(
        recipe(),
        labelled,
        rest,
        val,
        tmp_path / "a",
        **options,
        on_epoch=lambda _, report: steps.append(report["step"]),
    )
    assert steps == [10, 20, 30, 40, 50, 56]
    with interrupted(at_step=47), pytest.raises(Interrupted):
        fit_images(recipe(), labelled, rest, val, tmp_path / "b", **options)
    assert (tmp_path / "b" / "unfinished.safetensors").exists()
    resumed = fit_images(recipe(), labelled, rest, val, tmp_path / "b", **options, resume=True)
    one, two = (load_file(run / "weights.safetensors") for run in (straight, resumed))
    assert {"mean_confidence", "mean_probability", "steps"} <= set(one)
    assert all(torch.equal(one[k], two[k]) for k in one), "student, teacher and thresholds"
    histories = [checkpoint.load(run).metrics["history"] for run in (straight, resumed)]
    for row in (*histories[0], *histories[1]):
        row.pop("seconds")
    assert histories[0] == histories[1]
    assert not (tmp_path / "b" / "unfinished.safetensors").exists()
    assert checkpoint.load(straight).metrics["val_accuracy"] > 0.5


def test_an_unfinished_run_is_not_overwritten_nor_resumed_as_another(tmp_path: Path) -> None:
    out, options = tmp_path / "run", {"steps": 8, "epoch_steps": 4}
    with interrupted(at_step=5), pytest.raises(Interrupted):
        fit_images(recipe(), shapes(9, 0), None, None, out, **options)
    with pytest.raises(ConfigError, match=r"there is an unfinished run, 1 epochs \(4 steps\) done(.|\n)*Resume it"):
        fit_images(recipe(), shapes(9, 0), None, None, out, **options)
    with pytest.raises(ConfigError, match=r"1 problem\n  model\.ramp_steps: was 1000, now 5"):
        fit_images(recipe(ramp_steps=5), shapes(9, 0), None, None, out, **options, resume=True)
    with pytest.raises(ConfigError, match=r"there are 16 images now, the run began with 18"):
        fit_images(recipe(), shapes(8, 0), None, None, out, **options, resume=True)
    kept = (out / "unfinished.safetensors").read_bytes()
    (out / "unfinished.safetensors").write_bytes(kept[: len(kept) // 2])
    with pytest.raises(ConfigError, match="cannot be read as an unfinished run"):
        fit_images(recipe(), shapes(9, 0), None, None, out, **options, resume=True)
    (out / "unfinished.safetensors").write_bytes(kept)
    run = fit_images(recipe(), shapes(9, 0), None, None, out, **options, resume=True)
    done = (run / "weights.safetensors").read_bytes()
    assert fit_images(recipe(), shapes(9, 0), None, None, out, **options, resume=True) == run
    assert (run / "weights.safetensors").read_bytes() == done


def test_a_trained_extractor_is_a_face_encoder(tmp_path: Path) -> None:
    run = fit_images(recipe(), shapes(9, 0), None, None, tmp_path / "run", steps=2)
    encoder = create_encoder(str(run))
    assert isinstance(encoder, CropEncoder)
    vectors = encoder.encode_crops(shapes(3, 5).images)
    assert vectors.shape == (3, encoder.dim) == (3, 16)
    assert encoder.provenance["revision"]
    assert encoder.crop == Crop(SIZE)
    on_stage = config.changed(recipe(), corpus={"name": "synthetic"})
    run = fit_images(on_stage, shapes(9, 0), None, None, tmp_path / "stage", steps=2)
    assert create_encoder(str(run)).crop == Crop(SIZE, CROP_MARGIN, CROP_DOWN), "the crop of its training images"
    run = tmp_path / "run"
    model: Any = checkpoint.load(run).model.eval()
    pixels = torch.from_numpy(shapes(3, 5).images.transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        torch.testing.assert_close(model.teacher[1](torch.from_numpy(vectors)), model(pixels))


def system(**changes: Any) -> Any:
    torch.manual_seed(0)
    raw = recipe(**changes).model_dump()
    raw["features"]["face"]["dim"] = SIZE
    return models.build(config.read(raw, origin="test", check=models.problems))


def given(seed: int = 0) -> ImageBatch:
    a, b = shapes(6, seed), shapes(12, seed + 1)
    t = [torch.from_numpy(p.images.transpose(0, 3, 1, 2).copy()) for p in (a, b)]
    affect = torch.full((6, 2), torch.nan)
    return ImageBatch(t[0], torch.from_numpy(a.labels), (t[1], t[1]), t[1], torch.from_numpy(b.labels), affect)


def test_dynamic_thresholds_are_quantiles_of_the_recent_predictions_of_a_class() -> None:
    made = system(accepted=[0.5, 0.25], ramp_steps=10, memory=8)
    made.recent_class.copy_(torch.tensor([-1, 0, 0, 0, 1, 1, 1, 1]))
    made.recent_confidence.copy_(torch.tensor([0.0, 0.4, 0.8, 0.9, 0.1, 0.2, 0.3, 0.5]))
    made.mean_confidence.fill_(0.6)
    torch.testing.assert_close(made.thresholds(), torch.tensor([0.8, 0.25, 0.6]))  # no prediction of the third
    made.steps.fill_(1000)
    expected = [np.quantile([0.4, 0.8, 0.9], 0.75), np.quantile([0.1, 0.2, 0.3, 0.5], 0.75), 0.6]
    torch.testing.assert_close(made.thresholds(), torch.tensor(expected, dtype=torch.float32))


def test_the_memory_of_predictions_keeps_the_last_ones_in_order() -> None:
    made, batch = system(memory=20, map_dropout=0.0), given()
    for _ in range(2):
        with torch.no_grad():
            confidence, predicted = copy.deepcopy(made.teacher).train()(batch.weak[0]).softmax(1).max(1)
        kept = made.recent_confidence.clone(), made.recent_class.clone()
        made.objective(batch)
        new = len(confidence)
        torch.testing.assert_close(made.recent_confidence[-new:], confidence)
        assert torch.equal(made.recent_class[-new:], predicted)
        assert torch.equal(made.recent_confidence[:-new], kept[0][new:])
        assert torch.equal(made.recent_class[:-new], kept[1][new:])


def test_the_other_thresholds_follow_their_formulas() -> None:
    made, batch = system(threshold="freematch", momentum=0.5, map_dropout=0.0), given()
    with torch.no_grad():
        p = copy.deepcopy(made.teacher).train()(batch.weak[0]).softmax(1)
    made.objective(batch)
    third = torch.full((3,), 1 / 3)
    overall = 0.5 / 3 + 0.5 * p.max(1).values.mean()
    named = 0.5 * third + 0.5 * p.mean(0)
    torch.testing.assert_close(made.thresholds(), overall * named / named.max())
    assert torch.equal(system(threshold="fixed").thresholds(), torch.full((3,), 0.95))
    adaptive = system(threshold="adaptive")
    assert torch.equal(adaptive.thresholds(), torch.full((3,), 0.8)), "never below .8"
    adaptive.correct_confidence.fill_(1.0)
    adaptive.steps.fill_(10_000)
    torch.testing.assert_close(adaptive.thresholds(), torch.full((3,), 0.97))


def test_brightness_and_contrast_change_nothing() -> None:
    made = system().eval()
    images = torch.randint(60, 120, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(made(images), made(images + 90), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(made(images), made(images * 2), rtol=0.05, atol=0.05)
        assert torch.isfinite(made(torch.zeros_like(images))).all()


def test_warm_up_trains_on_labels_only_and_updates_thresholds() -> None:
    made, batch = system(warmup_steps=2), given()
    parts = []
    for _ in range(3):
        before = made.mean_confidence.clone()
        parts.append(set(made.objective(batch)[1]))
        assert not torch.equal(made.mean_confidence, before)
        made.after_step()
    assert [("unlabelled" in logs, "negative" in logs) for logs in parts] == [(False, False)] * 2 + [(True, True)]
    assert all("kept" in logs for logs in parts)


def test_teacher_batch_norm_uses_weak_views_only() -> None:
    made, batch = system(warmup_steps=0), given()
    made.train()
    again = copy.deepcopy(made.teacher)
    for _ in range(2):
        again(batch.weak[0])
    batch.strong = torch.zeros_like(batch.strong)
    made.objective(batch)
    made.after_step()
    kept = dict(made.teacher.named_buffers())
    assert any(k.endswith("running_mean") for k in kept)
    for name, buffer in again.named_buffers():
        torch.testing.assert_close(kept[name], buffer, msg=name)


def test_negative_learning_closed_form() -> None:
    made = system()
    student = torch.log(torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
    teacher = torch.tensor([[0.6, 0.39, 0.01], [0.01, 0.01, 0.98]])
    unsure = torch.tensor([True, False])
    assert float(made._negative(student, teacher, unsure)) == pytest.approx(-np.log(1 - 0.2), abs=1e-6)
    assert float(made._negative(student, teacher, ~torch.ones(2, dtype=torch.bool))) == 0.0


def test_teacher_is_the_moving_average_and_gets_no_gradient() -> None:
    made, batch = system(ema=0.9), given()
    made.train()
    loss, logs = made.objective(batch)
    loss.backward()
    assert all(p.grad is None for p in made.teacher.parameters())
    assert all(p.grad is not None for p in made.student.parameters())
    before = [p.clone() for p in made.teacher.parameters()]
    with torch.no_grad():
        for p in made.student.parameters():
            p += 1
    made.after_step()
    for mine, was in zip(made.teacher.parameters(), before, strict=True):
        torch.testing.assert_close(mine, was + (1 - 0.1) * 1, rtol=1e-4, atol=1e-4)
    assert 0 <= float(logs["kept"]) <= 1


@pytest.mark.parametrize("strength", ["weak", "strong"])
def test_views_are_reproducible_and_leave_the_images_unchanged(strength: str) -> None:
    images = shapes(8, 3).images
    kept, make = images.copy(), getattr(image_augment, strength)
    one, two = (make(images, np.random.default_rng(4)) for _ in range(2))
    assert np.array_equal(one, two)
    assert np.array_equal(images, kept)
    assert one.shape == images.shape
    assert one.dtype == np.uint8
    assert not np.array_equal(one, make(images, np.random.default_rng(5)))


@pytest.mark.parametrize("name", list(image_augment._OPERATIONS))
def test_an_operation_of_zero_strength_changes_nothing_and_of_full_strength_does(name: str) -> None:
    image = cv2.GaussianBlur(np.random.default_rng(2).integers(60, 190, (32, 32, 3), np.uint8), (0, 0), 1.5)
    change = image_augment._OPERATIONS[name]
    assert np.abs(change(image, 0.0).astype(int) - image).max() <= 1
    for strength in (-1.0, 1.0):
        made = change(image, strength)
        assert (made.shape, made.dtype) == (image.shape, image.dtype)
        assert not np.array_equal(made, image)


def test_stretch_keeps_centre_and_area() -> None:
    image = np.zeros((65, 65, 3), np.uint8)
    image[22:43, 22:43] = 255  # 21 x 21 about the middle
    made = image_augment._OPERATIONS["stretch"](image, 1.0)[..., 0].astype(float)
    made[(made < 128)] = 0  # the border is grey
    wide, high = made.max(axis=0) > 0, made.max(axis=1) > 0
    inside = [np.flatnonzero(side[12:53]) + 12 for side in (wide, high)]
    assert [round(float(side.mean())) for side in inside] == [32, 32]
    assert len(inside[0]) / len(inside[1]) == pytest.approx(np.exp(0.3), rel=0.1)
    assert len(inside[0]) * len(inside[1]) == pytest.approx(21 * 21, rel=0.1)


def test_without_stem_pool_maps_are_twice_as_wide_with_the_same_weights() -> None:
    with_pool, without = system(), system(stem_pool=False)
    without.load_state_dict(with_pool.state_dict())
    images = torch.zeros(1, 3, SIZE, SIZE)
    sides = [made.student[0].network.embedder(images).shape[-1] for made in (with_pool, without)]
    assert sides[1] == 2 * sides[0]


def write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def test_the_readers_of_three_layouts(tmp_path: Path) -> None:
    image = np.full((20, 10, 3), 200, np.uint8)
    write(tmp_path / "folders" / "train" / "anger" / "a.png", image)
    write(tmp_path / "folders" / "train" / "unlabelled" / "b.png", image)
    raf = tmp_path / "raf"
    write(raf / "Image" / "aligned" / "train_00001_aligned.jpg", image)
    write(raf / "Image" / "aligned" / "test_0001_aligned.jpg", image)
    (raf / "EmoLabel").mkdir()
    (raf / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg 6\ntest_0001.jpg 7\n")
    net = tmp_path / "net" / "val_set"
    write(net / "images" / "7.jpg", image)
    (net / "annotations").mkdir()
    np.save(net / "annotations" / "7_exp.npy", np.array("6").astype(int))
    np.save(net / "annotations" / "8_exp.npy", np.array(7))
    found = READERS["class-folders"](tmp_path / "folders", "train", CLASSES)
    assert [item.label for item in found] == [1, -1]
    loaded = face_images.load_images(found, 16)
    assert loaded.images.shape == (2, 16, 16, 3)
    assert loaded.images[0, :, 0].max() == 0, "the whole image, padded with black"
    assert loaded.images[0, 8, 8].min() > 190
    assert [item.label for item in READERS["rafdb"](raf, "train", CLASSES)] == [1]
    assert [item.label for item in READERS["rafdb"](raf, "val", CLASSES)] == [0]
    affectnet = READERS["affectnet"](tmp_path / "net", "val", CLASSES)
    assert [item.label for item in affectnet] == [1], "Contempt is left out"
    (tmp_path / "folders" / "train" / "angry").mkdir()
    with pytest.raises(CorpusError, match="is not named after a class; the classes are Neutral"):
        READERS["class-folders"](tmp_path / "folders", "train", CLASSES)
    (raf / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg happy\n")
    with pytest.raises(CorpusError, match=r"list_patition_label\.txt:1: .* is not NAME CLASS"):
        READERS["rafdb"](raf, "train", CLASSES)


def test_missing_or_wrong_image_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rafdb is read from a folder"):
        load_image_sets(recipe(), None)
    with pytest.raises(ConfigError, match="'raf' is not an image dataset; did you mean"):
        load_image_sets(config.changed(recipe(), corpus={"name": "raf"}), tmp_path)
    with pytest.raises(ConfigError, match=r"corpus\.options\.labeled: unknown key; did you mean"):
        load_image_sets(config.changed(recipe(), corpus={"options": {"labeled": 4}}), tmp_path)
    raw = recipe().model_dump()
    raw["features"]["face"]["dim"] = 32
    wide = config.read(raw, origin="t")
    with pytest.raises(ConfigError, match=r"features\.face\.dim is 32, the images are 16 pixels wide"):
        fit_images(wide, shapes(6, 0), None, None, tmp_path / "x", steps=1)


NETWORKS: dict[str, dict[str, Any]] = {
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
            "image_size": 16, "patch_size": 4},
    "efficientnet": {"image_size": 16, "kernel_sizes": [3, 5], "in_channels": [16, 16], "out_channels": [16, 24],
                     "strides": [1, 2], "depthwise_padding": [], "num_block_repeats": [1, 1], "expand_ratios": [1, 2],
                     "width_coefficient": 0.25, "hidden_dim": 320},
}  # fmt: skip


def static(network: str, **model: Any) -> config.Recipe:
    raw = config.load("cnn_pdem_static", check=models.problems).model_dump()
    raw["corpus"]["labels"] = CLASSES
    raw["model"] |= {
        "network": network,
        "source": None,
        "options": NETWORKS[network],
        "dim": 8,
        "dropout": 0.0,
        **model,
    }
    raw["train"] |= {"lr": 5e-3, "batch": 12, "threads": 1}
    return config.read(raw, origin="test", check=models.problems)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_static_network_gets_gradients_down_to_its_first_layer(network: str) -> None:
    raw = static(network).model_dump()
    raw["features"]["face"]["dim"] = SIZE
    torch.manual_seed(0)
    made: Any = models.build(config.read(raw, origin="t", check=models.problems)).train()
    assert made.embed(given().labelled).shape == (6, 8)
    loss, _ = made.objective(given())
    loss.backward()
    reached = [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in made.network.parameters()]
    assert reached[0] or reached[1]
    assert sum(reached) > 0.8 * len(reached)


@pytest.mark.parametrize("network", ["resnet", "vit"])
def test_the_static_stage_learns_both_tasks_and_is_an_encoder(network: str, tmp_path: Path) -> None:
    made = shapes(90, 0)
    affect = np.stack((made.labels / 2 - 0.5, np.full(90, np.nan)), 1)
    labelled = ImageSet(made.images, made.labels, (), affect)
    settings = static(network, unfreeze_steps=0)
    run = fit_images(settings, labelled, None, shapes(60, 2), tmp_path / "run", steps=80, ratio=0, epoch_steps=20)
    loaded = checkpoint.load(run)
    history = loaded.metrics["history"]
    assert history[-1]["expression"] < 0.7 * history[0]["expression"]
    assert history[-1]["valence_arousal"] < history[0]["valence_arousal"]
    assert create_encoder(str(run)).dim == 8


def test_layers_unfreeze_from_the_top_and_deeper_ones_learn_slower(tmp_path: Path) -> None:
    torch.manual_seed(0)
    raw = static("vit", unfreeze_steps=5, layer_decay=0.5).model_dump()
    raw["features"]["face"]["dim"] = SIZE
    made: Any = models.build(config.read(raw, origin="t", check=models.problems))
    depths = made.depths()
    assert len(depths) == 4, "heads, two layers, and the rest of the network"
    assert sum(p.numel() for d in depths for p in d) == sum(p.numel() for p in made.parameters())
    assert [g["scale"] for g in made.parameter_groups(0.0)] == [1.0, 0.5, 0.25, 0.125]
    states = []
    for steps in (5, 10, 20):
        run = fit_images(
            static("vit", unfreeze_steps=5, layer_decay=0.5),
            shapes(30, 0),
            None,
            None,
            tmp_path / str(steps),
            steps=steps,
            ratio=0,
        )
        states.append(load_file(run / "weights.safetensors"))
    torch.manual_seed(static("vit").train.seed)
    fresh = models.build(config.read(raw, origin="t", check=models.problems)).state_dict()
    moved = [{k.split("layer")[0] for k in s if k in fresh and not torch.equal(s[k], fresh[k])} for s in states]
    assert not any(k.startswith("network") for k in moved[0]), "five steps: heads alone"
    assert any(k.startswith("network") for k in moved[1])
    assert "network.embeddings" in " ".join(moved[2])


def test_a_run_from_pretrained_weights_loads_without_them(tmp_path: Path) -> None:
    """The folder is complete: the weights that training began with may be gone."""
    source = test_images.tiny("resnet", tmp_path / "resnet")
    for name, settings in (("cnn_static", static("resnet")), ("dynamic_threshold", recipe())):
        settings = config.changed(settings, model={"source": str(source)})
        images = ImageSet(np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8), np.arange(8) % 2)
        run = fit_images(settings, images, images, None, tmp_path / name, steps=1)
        assert checkpoint.load(run).recipe.model.options["source"] == str(source), "the recipe says what it began with"
    shutil.rmtree(source)
    for name in ("cnn_static", "dynamic_threshold"):
        assert checkpoint.load(tmp_path / name).model.embedding_dim
    with pytest.raises(ConfigError, match="There is no folder"):
        fit_images(settings, images, images, None, tmp_path / "again", steps=1)
