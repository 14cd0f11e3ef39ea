"""Zero-shot prompts, with a two-layer CLIP text encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from mien import checkpoint, config, models
from mien.errors import ConfigError
from mien.evaluation.predictions import predict
from mien.training.fit import fit
from mien.zero_shot import read_prompts, with_prompts
from tests.encoders import test_text
from tests.models.systems import recipe, recordings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    source = test_text.tiny(folder)
    width = transformers.CLIPConfig.from_pretrained(source).projection_dim
    objective = {"text": "clip-text-b32", "text_options": {"source": str(source)}, "logit_scale": 20.0}
    settings = recipe("prompted_tcn", objective, text_dim=width)
    return fit(settings, recordings(10, 1), [], folder / "run", device="cpu", progress=False)


def test_training_prompts_are_embedded_by_clip_and_saved_with_the_weights(run: Path) -> None:
    loaded = checkpoint.load(run)
    prompts = loaded.model.prompts
    assert prompts.shape[0] == 4
    named = {name: f"A face expressing {name.lower()}" for name in loaded.labels}
    again = with_prompts(checkpoint.load(run), named)
    torch.testing.assert_close(again.model.system.prompts, prompts)


def test_other_labels_are_predicted_without_training(run: Path) -> None:
    trained = checkpoint.load(run)
    other = with_prompts(
        checkpoint.load(run), {"calm": "a calm face", "upset": "an upset face", "bored": "a bored face"}
    )
    assert other.labels == ["calm", "upset", "bored"]
    recording = recordings(2, 5)[0]
    prediction = predict(other.predict_streams, recording)
    assert prediction.probabilities.shape == (30, 3)
    np.testing.assert_allclose(prediction.probabilities.sum(1), 1.0, atol=1e-6)
    assert predict(trained.predict_streams, recording).probabilities.shape == (30, 4)
    voice_only = {"voice": recording.streams["voice"]}
    _, p, _ = other.predict_streams(voice_only, 0.0, 6.0)
    np.testing.assert_allclose(p[np.isfinite(p)], 1 / 3, atol=1e-6)


def test_read_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# labels\n\nCalm\nUpset: somebody who is upset\n")
    assert read_prompts(path, "a {label} face") == {"Calm": "a calm face", "Upset": "somebody who is upset"}
    path.write_text("Calm\nCalm: again\n")
    with pytest.raises(ConfigError, match=r"prompts\.txt:2: the label 'Calm' is given twice"):
        read_prompts(path, "{label}")
    path.write_text("Calm\n")
    with pytest.raises(ConfigError, match="names 1 labels"):
        read_prompts(path, "{label}")


def test_systems_without_a_text_encoder_are_an_error(run: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, message in (
        ("cnn_pdem", "cnn_pdem does not support prompts"),
        ("prompted_tcn", "trained without a text encoder"),
    ):
        settings = models.complete(recipe(name))
        folder = checkpoint.save(tmp_path / name, models.build(settings), settings)
        with pytest.raises(ConfigError, match=message) as caught:
            with_prompts(checkpoint.load(folder), {"a": "a", "b": "b"})
        assert caught.value.follows == "Nothing was computed."
        assert "prompted_tcn" in caught.value.remedy or "objective.text=clip-text-b32" in caught.value.remedy
    assert config.load("prompted_tcn").objective["text"] == "clip-text-b32"
