"""The voice network: speaker normalisation and local statistics in closed form, masks, padding, classes left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mien.models.voice_expression import Config, LocalStatistics, Objective, SpeakerNorm, VoiceExpression
from mien.records import VOICE, Batch

WIDTH = 7


def network(**options: object) -> VoiceExpression:
    torch.manual_seed(0)
    return VoiceExpression(Config(inputs={VOICE: WIDTH}, dim=6, embedding=5, rate_hz=5.0, **options)).eval()


def windows(batch: int = 2, time: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    valid = torch.rand(batch, time, generator=generator) < 0.6
    return torch.randn(batch, time, WIDTH, generator=generator), valid


def test_speaker_norm_shrinks_mean_and_deviation() -> None:
    values, valid = windows()
    out = SpeakerNorm(10.0)(values, valid)
    for row in range(len(values)):
        spoken = values[row][valid[row]].numpy().astype(float)
        share = len(spoken) / (len(spoken) + 10)
        deviation = np.sqrt(share * spoken.var(axis=0) + (1 - share) + 0.01)
        expected = (values[row].numpy() - share * spoken.mean(axis=0)) / deviation
        np.testing.assert_allclose(out[row].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("seconds", "left"), [(0.0, 0.0), (1e9, 1.0)])
def test_the_prior_decides_between_the_speaker_and_the_training_set(seconds: float, left: float) -> None:
    values = torch.full((1, 20, WIDTH), 2.0)
    out = SpeakerNorm(seconds)(values, torch.ones(1, 20, dtype=torch.bool))
    torch.testing.assert_close(out, torch.full_like(out, 2.0 * left), atol=0.02, rtol=0)


def test_local_statistics_are_weighted_means_and_deviations_in_reach() -> None:
    values, valid = windows(1)
    torch.manual_seed(1)
    layer = LocalStatistics(dim=WIDTH, reach=3)
    with torch.inference_mode():
        out, weight = layer(values, valid)[0].numpy(), layer.score(values).sigmoid()[0, :, 0].numpy()
    x, mask = values[0].numpy().astype(float), valid[0].numpy()
    for token in range(len(x)):
        near = [i for i in range(max(0, token - 3), min(len(x), token + 4)) if mask[i]]
        near = near or list(np.flatnonzero(mask))
        mean = np.average(x[near], axis=0, weights=weight[near])
        variance = np.average((x[near] - mean) ** 2, axis=0, weights=weight[near])
        np.testing.assert_allclose(out[token, :WIDTH], mean, atol=1e-4)
        np.testing.assert_allclose(out[token, WIDTH:], np.sqrt(variance + 1e-4), atol=2e-3)
    assert layer.in_reach(valid)[0].tolist() == [
        bool(mask[max(0, token - 3) : token + 4].any()) for token in range(len(x))
    ]


def test_invalid_values_and_padding_change_nothing() -> None:
    model, (values, valid) = network(), windows()
    with torch.inference_mode():
        plain = model({VOICE: values}, {VOICE: valid})
        spoilt = model({VOICE: torch.where(valid[..., None], values, torch.nan)}, {VOICE: valid})
        longer = (torch.cat((values, values[:, :9]), dim=1), torch.nn.functional.pad(valid, (0, 9)))
        padded = model({VOICE: longer[0]}, {VOICE: longer[1]})
    assert torch.equal(plain.logits, spoilt.logits)
    torch.testing.assert_close(padded.logits[:, : valid.shape[1]], plain.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded.valence_arousal[:, : valid.shape[1]], plain.valence_arousal, atol=1e-5, rtol=1e-5)


def test_a_window_without_speech_is_finite_and_has_no_evidence() -> None:
    model, (values, valid) = network(), windows()
    valid[0] = False
    with torch.inference_mode():
        out = model({VOICE: values}, {VOICE: valid})
        _, known = model.embed({VOICE: values}, {VOICE: valid})
    assert torch.isfinite(out.logits).all()
    assert out.evidence.tolist() == [False, True]
    assert not known[0].any()


def test_the_embedding_holds_the_logits_and_is_known_near_speech() -> None:
    model, (values, valid) = network(), windows(1)
    valid[0, 15:] = False
    with torch.inference_mode():
        features, known = model.embed({VOICE: values}, {VOICE: valid})
        out = model({VOICE: values}, {VOICE: valid})
    assert features.shape == (1, 40, model.embedding_dim or 0) == (1, 40, 8 + 4 * 5)
    torch.testing.assert_close(features[..., :8], out.logits)
    last = int(torch.nonzero(valid[0])[-1])
    assert known[0, last + 6]  # 1.2 s at 5 tokens a second
    assert not known[0, last + 7 :].any()


def test_an_offset_of_the_whole_recording_matters_less_with_normalisation() -> None:
    shifts = {}
    for normalise in (True, False):
        model, (values, valid) = network(normalise=normalise, prior_seconds=0.5), windows(1, 200)
        with torch.inference_mode():
            shifted = model({VOICE: values + 0.5}, {VOICE: valid}).logits
            shifts[normalise] = float((shifted - model({VOICE: values}, {VOICE: valid}).logits).abs().mean())
    assert shifts[True] < 0.2 * shifts[False]


def test_ignored_columns_change_nothing() -> None:
    model, (values, valid) = network(ignored=[2, 6]), windows()
    other = values.clone()
    other[..., [2, 6]] = 5.0
    with torch.inference_mode():
        assert torch.equal(model({VOICE: values}, {VOICE: valid}).logits, model({VOICE: other}, {VOICE: valid}).logits)
    with pytest.raises(ValueError, match="ignored names column 7, but the input has 7 columns"):
        Config(inputs={VOICE: WIDTH}, ignored=[7])


def test_the_output_is_the_mean_of_the_heads_and_each_has_its_own_loss() -> None:
    model, (values, valid) = network(), windows()
    singles = []
    for head in model.heads:
        single = network(heads=1)
        single.load_state_dict({**single.state_dict(), **{f"heads.0.{k}": v for k, v in head.state_dict().items()}})
        single.pool.load_state_dict(model.pool.state_dict())
        singles.append(single)
    batch = Batch({VOICE: values}, {VOICE: valid}, torch.zeros(2, 40, dtype=torch.long), torch.rand(2, 40, 2))
    with torch.inference_mode():
        outputs = [single(batch.values, batch.valid) for single in singles]
        losses = [single.labelled_loss(batch, None)[0] for single in singles]
        out, loss = model(batch.values, batch.valid), model.labelled_loss(batch, None)[0]
    torch.testing.assert_close(out.logits, torch.stack([o.logits for o in outputs]).mean(dim=0))
    torch.testing.assert_close(out.valence_arousal, torch.stack([o.valence_arousal for o in outputs]).mean(dim=0))
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    assert not torch.equal(outputs[0].logits, outputs[1].logits)


def test_the_loss_equals_cross_entropy_over_the_possible_classes() -> None:
    model, (values, valid) = network(heads=1), windows()
    model.loss = Objective(smoothing=0.2, valence_arousal=0.0)
    expression = torch.randint(0, 6, valid.shape, generator=torch.Generator().manual_seed(2))
    possible = torch.ones(2, 8, dtype=torch.bool)
    possible[1, 6] = False
    loss, _ = model.labelled_loss(Batch({VOICE: values}, {VOICE: valid}, expression), possible)
    logits = model({VOICE: values}, {VOICE: valid}).logits
    expected, columns = 0.0, [0, 1, 2, 3, 4, 5, 7]
    for row, chosen in ((0, list(range(8))), (1, columns)):
        chosen_logits, labels = logits[row][valid[row]][:, chosen], expression[row][valid[row]]
        expected += torch.nn.functional.cross_entropy(chosen_logits, labels, label_smoothing=0.2, reduction="sum")
    torch.testing.assert_close(loss, expected / valid.sum(), atol=1e-5, rtol=1e-5)


def test_a_window_of_a_corpus_without_a_class_does_not_move_its_logit() -> None:
    model, (values, valid) = network(), windows()
    model.loss = Objective(smoothing=0.1, valence_arousal=0.0)
    possible = torch.ones(2, 8, dtype=torch.bool)
    possible[:, 6] = False
    loss, _ = model.labelled_loss(
        Batch({VOICE: values}, {VOICE: valid}, torch.zeros(2, 40, dtype=torch.long)), possible
    )
    loss.backward()
    for head in model.heads:
        gradient = head.expression.bias.grad
        assert gradient is not None
        assert gradient[6] == 0
        assert (gradient[:6] != 0).all()


def test_it_learns_a_class_relative_to_the_speaker() -> None:
    """A feature tells the class only against the speaker's own mean, which differs more than the classes do."""
    torch.manual_seed(0)
    model = VoiceExpression(
        Config(inputs={VOICE: 1}, classes=2, dim=8, embedding=4, rate_hz=5.0, prior_seconds=0.5, dropout=0.0,
               input_dropout=0.0, jitter=0.0),
        Objective(smoothing=0.0, valence_arousal=0.0),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)

    def draw(batch: int) -> Batch:
        label = (torch.arange(120) // 30 % 2).repeat(batch, 1)
        speaker = 3 * torch.randn(batch, 1, generator=generator)
        values = (speaker + label + 0.1 * torch.randn(batch, 120, generator=generator))[..., None]
        return Batch({VOICE: values}, {VOICE: torch.ones(batch, 120, dtype=torch.bool)}, label)

    model.prepare({VOICE: torch.zeros(1)}, {VOICE: torch.full((1,), 3.0)}, torch.ones(2))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(120):
        optimiser.zero_grad()
        model.objective(draw(8))[0].backward()
        optimiser.step()
    model.eval()
    test = draw(16)
    with torch.inference_mode():
        found = model(test.values, test.valid).logits.argmax(-1)
    assert test.expression is not None
    assert (found == test.expression).float().mean() > 0.85
