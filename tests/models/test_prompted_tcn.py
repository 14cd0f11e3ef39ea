"""Prompted TCN: where the contrastive loss and LayerNorm sit, against the authors' public code."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from mien import models
from mien.losses import prompt_contrastive
from tests.models.systems import CLASSES, batch, recipe


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
