"""Late fusion: single modalities stay as they are, missing ones change nothing, and fusion is Bayes' rule at first."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mien.models.late_fusion import Config, LateFusion, Objective
from mien.records import Batch

CLASSES = 4


def model(seconds: dict[str, float] | None = None, **options: float) -> LateFusion:
    fusion = LateFusion(
        Config(inputs={"face": 6, "voice": CLASSES}, classes=CLASSES, rate_hz=10.0, seconds=seconds or {}, **options)
    )
    return fusion.eval()


def streams(seed: int = 0, time: int = 7) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    values = {
        "face": torch.randn(2, time, 6, generator=generator),
        "voice": torch.randn(2, time, 4, generator=generator),
    }
    valid = {name: torch.rand(2, time, generator=generator) < 0.7 for name in values}
    return values, valid


def test_one_modality_alone_gives_its_own_calibrated_probabilities() -> None:
    fusion, (values, _) = model(), streams()
    with torch.no_grad():
        fusion.log_temperature.copy_(torch.tensor([math.log(2.0), 0.0]))
        fusion.weight.fill_(3.0)
    valid = {"face": torch.ones(2, 7, dtype=torch.bool), "voice": torch.zeros(2, 7, dtype=torch.bool)}
    out = fusion(values, valid)
    torch.testing.assert_close(out.logits.softmax(-1), (values["face"][..., :CLASSES] / 2).softmax(-1))
    torch.testing.assert_close(fusion({"face": values["face"]}, {"face": valid["face"]}).logits, out.logits)


def test_an_untrained_fusion_is_bayes_rule() -> None:
    fusion, (values, _) = model(), streams()
    valid = {name: torch.ones(2, 7, dtype=torch.bool) for name in values}
    p, q = (values[name][..., :CLASSES].softmax(-1) for name in ("face", "voice"))
    expected = p * q  # the voice has equal class frequencies
    found = fusion(values, valid).logits.softmax(-1)
    torch.testing.assert_close(found, expected / expected.sum(-1, keepdim=True))


@given(
    seed=st.integers(0, 50), reach=st.sampled_from([0.0, 0.3, 0.7]), junk=st.sampled_from([1e30, math.nan, math.inf])
)
@settings(max_examples=25)
def test_values_at_missing_tokens_change_nothing(seed: int, reach: float, junk: float) -> None:
    fusion, (values, valid) = model({"face": reach, "voice": reach}), streams(seed)
    damaged = {name: value.masked_fill(~valid[name][..., None], junk) for name, value in values.items()}
    clean, found = fusion(values, valid), fusion(damaged, valid)
    assert torch.equal(clean.logits, found.logits)
    assert torch.isfinite(found.logits).all()
    assert torch.equal(clean.valence_arousal, found.valence_arousal)


def test_padding_with_missing_tokens_changes_nothing() -> None:
    fusion, (values, valid) = model({"face": 0.5}), streams()
    longer = {name: torch.cat((value, torch.full_like(value, 9.0)), dim=1) for name, value in values.items()}
    masks = {name: torch.cat((mask, torch.zeros_like(mask)), dim=1) for name, mask in valid.items()}
    torch.testing.assert_close(fusion(longer, masks).logits[:, :7], fusion(values, valid).logits)


def test_smoothing_is_the_mean_of_the_valid_neighbours() -> None:
    fusion = model({"face": 0.3})  # three tokens
    logs = torch.randn(1, 5, CLASSES, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    face = torch.cat((logs, torch.zeros(1, 5, 2)), dim=-1)
    valid = torch.tensor([[True, True, False, True, True]])
    found = fusion({"face": face}, {"face": valid}).logits.softmax(-1)
    expected = torch.stack([logs[0, [0, 1]].mean(0), logs[0, [0, 1]].mean(0), logs[0, [3, 4]].mean(0)])
    torch.testing.assert_close(found[0, [0, 1, 4]], expected.softmax(-1))


def test_training_learns_which_modality_to_trust_and_calibrates() -> None:
    """The face tells the classes 0 and 1 apart, the voice 2 and 3, and the face is overconfident."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (400, 1), generator=generator).expand(-1, 4)
    logits = torch.nn.functional.one_hot(labels, CLASSES).float()
    face = 8 * logits + 6 * torch.randn(logits.shape, generator=generator)
    face[..., 2] = face[..., 3] = torch.maximum(face[..., 2], face[..., 3])
    voice = 2 * logits + torch.randn(logits.shape, generator=generator)
    voice[..., 0] = voice[..., 1] = torch.maximum(voice[..., 0], voice[..., 1])
    values = {"face": torch.cat((face, torch.zeros(400, 4, 2)), dim=-1), "voice": voice}
    valid = {name: torch.ones(400, 4, dtype=torch.bool) for name in values}
    affect = torch.stack((labels / 3.0, 1 - labels / 3.0), dim=-1)
    fusion = LateFusion(Config(inputs={"face": 6, "voice": CLASSES}, classes=CLASSES), Objective())
    optimiser = torch.optim.Adam(fusion.parameters(), 0.05)
    first = None
    for _ in range(150):
        loss, _ = fusion.objective(Batch(values, valid, labels, affect))
        first = float(loss.detach()) if first is None else first
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.6 * (first or 0)
    assert fusion.log_temperature[0] > fusion.log_temperature[1], "the overconfident face is softened"
    predicted = fusion(values, valid).logits.argmax(-1)
    alone = fusion({"face": values["face"]}, {"face": valid["face"]}).logits.argmax(-1)
    assert (predicted == labels).float().mean() > (alone == labels).float().mean() + 0.1
    found = fusion(values, valid).valence_arousal.detach()
    assert torch.corrcoef(torch.stack((found[..., 0].flatten(), affect[..., 0].flatten())))[0, 1] > 0.8


def test_no_label_and_no_modality_give_a_finite_loss() -> None:
    fusion, (values, valid) = model().train(), streams()
    nothing = {name: torch.zeros_like(mask) for name, mask in valid.items()}
    labels = torch.full((2, 7), -1)
    loss, _ = fusion.objective(Batch(values, nothing, labels, torch.full((2, 7, 2), math.nan)))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.0)
    for parameter in fusion.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
