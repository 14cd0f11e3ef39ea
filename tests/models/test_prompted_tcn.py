"""Prompted TCN against the authors' public code: contrastive loss, LayerNorm, class weights and validation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score

from mien import checkpoint, config, models
from mien.losses import prompt_contrastive
from mien.models.prompted_tcn import PromptedTCN
from mien.records import Recording
from mien.training.fit import fit
from tests.models.systems import CLASSES, batch, recipe, recordings


def build(**model: Any) -> Any:
    torch.manual_seed(0)
    system: Any = models.build(recipe("prompted_tcn", {"logit_scale": 5.0}, **model))
    system.prepare(
        {"face": torch.zeros(12), "voice": torch.zeros(16)},
        {"face": torch.ones(12), "voice": torch.ones(16)},
        torch.full((CLASSES,), 10.0),
    )
    return system.eval()


def test_the_contrastive_loss_compares_the_fused_face_with_the_prompts() -> None:
    """The face features after cross-attention, their residual and norm, averaged over the window, then projected."""
    system, given = build(), batch(missing=0.0)
    face, voice = (system.input_norm[n](given.values[n], given.valid[n]) for n in ("face", "voice"))
    face, voice = system.tcn(system.embedding(face, given.valid["face"])), system.adapter(voice)
    fused = system.norm["face"](face + system.cross["face"](face, voice, given.valid["voice"]))
    projected = system.to_text(fused.mean(dim=1))
    cosines = F.normalize(projected, dim=1) @ F.normalize(system.prompts, dim=1).T
    torch.testing.assert_close(system.similarity(given.values, given.valid), cosines)
    expected = prompt_contrastive(projected, system.prompts, given.expression[:, -1], scale=5.0)
    loss, logs = system.objective(given)
    torch.testing.assert_close(logs["contrastive"], expected.detach())
    torch.testing.assert_close(loss, logs["expression"] + 0.1 * expected)


def test_the_contrastive_loss_trains_the_cross_attention_to_the_voice() -> None:
    system, given = build(), batch()
    system.similarity(given.values, given.valid).sum().backward()
    assert system.adapter[0].weight.grad.abs().sum() > 0
    assert system.cross["face"].query.weight.grad.abs().sum() > 0


def test_the_first_layer_of_the_classifier_is_normalised() -> None:
    """Ten times its weights and biases change nothing, because LayerNorm follows it."""
    system, given = build(), batch()
    before = system(given.values, given.valid).logits
    with torch.no_grad():
        for parameter in system.trunk[0].parameters():
            parameter.mul_(10)
    torch.testing.assert_close(system(given.values, given.valid).logits, before, rtol=1e-3, atol=1e-4)


def test_class_weights_and_validation_count_each_window_once_by_its_last_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the authors' code: windows at the hop of training, each with the label of its last token."""
    settings = config.changed(recipe("prompted_tcn"), train={"epochs": 2, "balance": 0.0})
    weights: list[torch.Tensor] = []
    prepare = PromptedTCN.prepare

    def spy(self: PromptedTCN, *given: Any) -> None:
        prepare(self, *given)
        weights.append(self.class_weight.clone())

    monkeypatch.setattr(PromptedTCN, "prepare", spy)
    train, val = recordings(9, 0), recordings(5, 1)
    run = fit(settings, train, val, tmp_path / "run", device="cpu", progress=False)

    def windows(clips: list[Recording]) -> list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], int]]:
        """Windows of 2 s every second at 5 Hz: values, valid, label of the last token."""
        found = []
        for clip in clips:
            assert clip.clip.labels is not None
            for part in (slice(start, start + 10) for start in range(0, 21, 5)):
                values = {n: torch.from_numpy(s.values[part])[None] for n, s in clip.streams.items()}
                valid = {n: torch.from_numpy(s.valid[part])[None] for n, s in clip.streams.items()}
                found.append((values, valid, int(clip.clip.labels.expression[part][-1])))
        return found

    counts = np.bincount([label for *_, label in windows(train)], minlength=CLASSES)
    assert (counts > 0).all()
    expected = 1 / counts
    np.testing.assert_allclose(weights[0].numpy(), expected / expected.mean(), rtol=1e-5)
    network = checkpoint.load(run).model.eval()
    with torch.no_grad():
        predicted = [int(network(values, valid).logits[0, -1].argmax()) for values, valid, _ in windows(val)]
    truth = [label for *_, label in windows(val)]
    score = json.loads((run / checkpoint.METRICS).read_text())["val_macro_f1"]
    assert score == pytest.approx(f1_score(truth, predicted, average="macro", labels=sorted(set(truth))), abs=1e-6)
