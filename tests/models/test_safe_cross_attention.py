"""Safe cross-attention: the five invariants on the whole system, its objective, and that it learns."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mien.models.safe_cross_attention import Config, ModalityDropoutConfig, Objective, SafeCrossAttention
from mien.records import Batch, Output

DIMS = {"face": 5, "voice": 3}
NO_DROPOUT = ModalityDropoutConfig(whole={}, bursts={})


def system(dtype: torch.dtype = torch.float32, **options: object) -> SafeCrossAttention:
    torch.manual_seed(0)
    chosen = {
        "dim": 8,
        "heads": 2,
        "layers": 1,
        "cross_layers": 2,
        "feedforward": 2.0,
        "dropout": 0.0,
        "modality_dropout": NO_DROPOUT,
    } | options
    model = SafeCrossAttention(Config.model_validate({"inputs": DIMS} | chosen))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)  # biases too: they must not leak where nothing is known
    return model.to(dtype)


def outputs(out: Output) -> list[Tensor]:
    return [out.logits, out.valence_arousal]


@st.composite
def cases(
    draw: st.DrawFn, dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    batch, time = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    dtype = draw(st.sampled_from(dtypes))
    g = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    shares = [draw(st.sampled_from([0.0, 0.4, 1.0])) for _ in range(2 * batch)]
    values = {n: torch.randn(batch, time, d, generator=g).to(dtype) for n, d in DIMS.items()}
    valid = {
        n: torch.rand(batch, time, generator=g) < torch.tensor(shares[i * batch : (i + 1) * batch])[:, None]
        for i, n in enumerate(DIMS)
    }
    return values, valid


def spoil(values: dict[str, Tensor], valid: dict[str, Tensor], bad: float) -> dict[str, Tensor]:
    return {n: v.masked_fill(~valid[n][..., None], bad) for n, v in values.items()}


@settings(max_examples=50)
@given(case=cases(), bad=st.sampled_from([math.nan, math.inf, 1e30]))
def test_1_and_3_finite_and_independent_of_missing_values(
    case: tuple[dict[str, Tensor], dict[str, Tensor]], bad: float
) -> None:
    values, valid = case
    model = system(values["face"].dtype)
    seen = []
    for given_values in (values, spoil(values, valid, bad)):
        inputs = {n: v.clone().requires_grad_() for n, v in given_values.items()}
        out = model(inputs, valid)
        weights = torch.linspace(-1, 1, out.logits.numel()).view(out.logits.shape).to(out.logits.dtype)
        total = (out.logits * weights).sum() + out.valence_arousal.sum()
        grads = torch.autograd.grad(total, [*inputs.values(), *model.parameters()], allow_unused=True)
        kept = [g for g in grads if g is not None]
        assert all(torch.isfinite(t).all() for t in (*outputs(out), out.weights, *kept))
        for (name, _), grad in zip(inputs.items(), grads, strict=False):
            assert not grad[~valid[name]].any()
        seen.append([*outputs(out), out.weights, *kept])
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@settings(max_examples=25)
@given(case=cases((torch.float64,)), padding=st.integers(1, 4))
def test_4_a_padded_batch_equals_its_rows_alone(
    case: tuple[dict[str, Tensor], dict[str, Tensor]], padding: int
) -> None:
    values, valid = case
    model = system(torch.float64)
    padded = {n: torch.cat((v, v.new_full((len(v), padding, v.shape[2]), math.nan)), 1) for n, v in values.items()}
    masks = {n: torch.cat((m, m.new_zeros(len(m), padding)), 1) for n, m in valid.items()}
    together = model(padded, masks)
    for row in range(len(values["face"])):
        alone = model({n: v[[row]] for n, v in values.items()}, {n: m[[row]] for n, m in valid.items()})
        time = valid["face"].shape[1]
        for a, b in zip(outputs(together), outputs(alone), strict=True):
            torch.testing.assert_close(a[[row], :time], b, rtol=1e-11, atol=1e-11)
        assert together.evidence[row] == alone.evidence[0]


@pytest.mark.parametrize("absent", ["face", "voice"])
@settings(max_examples=30)
@given(case=cases())
def test_5_without_one_modality_the_other_predicts_alone(
    absent: str, case: tuple[dict[str, Tensor], dict[str, Tensor]]
) -> None:
    values, valid = case
    model = system(values["face"].dtype)
    there = "voice" if absent == "face" else "face"
    alone = model({there: values[there]}, {there: valid[there]})
    ways = (
        model(values, {**valid, absent: torch.zeros_like(valid[absent])}),
        model({**values, absent: torch.full_like(values[absent], math.nan)}, {**valid, absent: valid[absent] & False}),
        model({**values, absent: None}, {**valid, absent: None}),
        model({there: values[there], absent: values[absent]}, {there: valid[there]}),
    )
    for out in ways:
        assert all(torch.equal(a, b) for a, b in zip(outputs(alone), outputs(out), strict=True))
        assert torch.equal(out.evidence, valid[there].any(1))


def test_5_holds_for_single_rows_of_a_mixed_batch() -> None:
    model = system(torch.float64)
    g = torch.Generator().manual_seed(0)
    values = {n: torch.randn(4, 6, d, generator=g, dtype=torch.float64) for n, d in DIMS.items()}
    valid = {"face": torch.tensor([True, False, True, False])[:, None].expand(4, 6), "voice": torch.ones(4, 6) > 0}
    mixed = model(values, valid)
    alone = model({"voice": values["voice"]}, {"voice": valid["voice"]})
    torch.testing.assert_close(mixed.logits[1::2], alone.logits[1::2], rtol=1e-12, atol=1e-12)
    assert (mixed.logits[::2] - alone.logits[::2]).abs().min() > 1e-6
    voice = mixed.modalities.index("voice")
    assert torch.equal(mixed.weights[1::2, :, voice], torch.ones(2, 6, dtype=torch.float64))


def test_without_both_modalities_the_output_is_finite_and_has_no_evidence() -> None:
    model = system()
    values = {n: torch.full((2, 4, d), math.nan) for n, d in DIMS.items()}
    none = {n: torch.zeros(2, 4, dtype=torch.bool) for n in DIMS}
    out = model(values, none)
    assert all(torch.isfinite(t).all() for t in outputs(out))
    assert not out.evidence.any()
    assert not out.weights.any()
    loss, _logs = model.objective(Batch(values, none, torch.zeros(2, 4, dtype=torch.long), torch.zeros(2, 4, 2)))
    loss.backward()
    assert loss.item() == 0.0
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_no_modality_and_unknown_ones_are_refused() -> None:
    model = system()
    with pytest.raises(ValueError, match=r"no modality given.*\['face', 'voice'\]"):
        model({"face": None}, {})
    with pytest.raises(ValueError, match=r"\['sound'\] are not inputs of this model; it has \['face', 'voice'\]"):
        model({"sound": torch.zeros(1, 1, 3)}, {"sound": torch.ones(1, 1) > 0})


def test_naive_attention_lets_an_absent_modality_change_the_output() -> None:
    values = {n: torch.randn(2, 4, d) for n, d in DIMS.items()}
    valid = {"face": torch.zeros(2, 4) > 0, "voice": torch.ones(2, 4) > 0}
    alone = ({"voice": values["voice"]}, {"voice": valid["voice"]})
    naive, safe = system(attention="naive"), system()
    assert not torch.allclose(naive(values, valid).logits, naive(*alone).logits)
    assert torch.equal(safe(values, valid).logits, safe(*alone).logits)
    spoiled = spoil(values, valid, math.nan)
    assert torch.isfinite(naive(spoiled, valid).logits).all()  # an ordinary implementation fills with zeros


def batch_of(seed: int = 0, size: int = 12, time: int = 6) -> Batch:
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 8, (size, 1), generator=g).expand(size, time).clone()
    codes = {n: torch.randn(8, d, generator=g) for n, d in DIMS.items()}
    values = {n: codes[n][labels] + 0.1 * torch.randn(size, time, d, generator=g) for n, d in DIMS.items()}
    labels[:, -1] = -1
    valid = {n: torch.rand(size, time, generator=g) < 0.9 for n in DIMS}
    affect = torch.stack((labels / 8.0, -labels / 8.0), -1).masked_fill((labels < 0)[..., None], math.nan)
    return Batch(values, valid, labels, affect)


def test_it_learns_one_batch_by_heart() -> None:
    batch = batch_of()
    torch.manual_seed(0)
    model = SafeCrossAttention(Config(inputs=DIMS, dim=16, heads=2, layers=1, dropout=0.0, modality_dropout=NO_DROPOUT))
    optimiser = torch.optim.Adam(model.parameters(), 2e-2)
    for _ in range(70):
        loss, logs = model.objective(batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert logs["loss"].item() < 0.05
    known = batch.expression >= 0
    for values, valid in ((batch.values, batch.valid), *(({n: batch.values[n]}, {n: batch.valid[n]}) for n in DIMS)):
        out = model(values, valid)
        assert torch.equal(out.logits.argmax(-1)[known], batch.expression[known])
    assert set(logs) == {"loss", "expression", "unimodal", "valence_arousal"}


@pytest.mark.parametrize("loss", ["focal", "cross_entropy"])
def test_the_objective_is_the_weighted_sum_of_its_terms(loss: str) -> None:
    objective = Objective(loss=loss, valence_arousal=0.25, unimodal=0.5, class_weights="none")
    torch.manual_seed(0)
    model = SafeCrossAttention(
        Config(inputs=DIMS, dim=8, heads=2, layers=1, modality_dropout=NO_DROPOUT), objective
    ).eval()
    total, logs = model.objective(batch_of())
    expected = logs["expression"] + 0.25 * logs["valence_arousal"] + 0.5 * logs["unimodal"]
    torch.testing.assert_close(total.detach(), expected)
    out = model(batch_of().values, batch_of().valid)
    plain = torch.nn.functional.cross_entropy(
        out.logits.flatten(0, 1), batch_of().expression.flatten(), ignore_index=-1
    )
    if loss == "cross_entropy":
        torch.testing.assert_close(logs["expression"], plain.detach())
    else:
        assert logs["expression"] < plain


def test_unlabelled_batches_have_zero_loss_and_gradient() -> None:
    model = system()
    batch = batch_of()
    for expression, affect in ((None, None), (torch.full((12, 6), -1), torch.full((12, 6, 2), math.nan))):
        loss, _ = model.objective(Batch(batch.values, batch.valid, expression, affect))
        model.zero_grad()
        loss.backward()
        assert loss.item() == 0.0
        assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)


def test_statistics_normalise_the_inputs_and_are_saved_with_the_weights() -> None:
    model, other = system(), system()
    mean = {n: torch.arange(d) + 1.0 for n, d in DIMS.items()}
    deviation = {n: torch.full((d,), 2.0) for n, d in DIMS.items()}
    values = {n: torch.randn(2, 4, d) for n, d in DIMS.items()}
    valid = {n: torch.ones(2, 4) > 0 for n in DIMS}
    before = model(values, valid).logits
    model.prepare(mean, deviation, torch.ones(8))
    shifted = {n: v * 2 + mean[n] for n, v in values.items()}
    torch.testing.assert_close(model(shifted, valid).logits, before, rtol=1e-4, atol=1e-5)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(shifted, valid).logits, model(shifted, valid).logits)
    told = model.normalisation()
    assert torch.equal(told["face"][0], mean["face"])
    assert torch.equal(told["voice"][1], deviation["voice"])


def test_outliers_are_clamped() -> None:
    model = system(clamp=3.0)
    values = {n: torch.zeros(1, 2, d) for n, d in DIMS.items()}
    valid = {n: torch.ones(1, 2) > 0 for n in DIMS}
    values["face"][0, 0, 0] = 3.0
    first = model(values, valid).logits
    values["face"][0, 0, 0] = 1e9
    assert torch.equal(model(values, valid).logits, first)


def test_modality_dropout_only_in_training() -> None:
    model = system(modality_dropout=ModalityDropoutConfig(whole={"face": 1.0}, bursts={}), dropout=0.0)
    batch = batch_of()
    everything = model.train().objective(batch)[1]["expression"]
    voice_only = Batch({"voice": batch.values["voice"]}, {"voice": batch.valid["voice"]}, batch.expression)
    torch.testing.assert_close(everything, model.objective(voice_only)[1]["expression"])
    assert not torch.allclose(model.eval().objective(batch)[1]["expression"], everything)


def test_noise_affects_its_share_of_samples_and_only_in_training() -> None:
    model = system(modality_dropout=ModalityDropoutConfig(whole={}, noise={"voice": 0.5}, noise_level=2.0))
    with torch.no_grad():
        model.norm_of("voice").deviation.copy_(torch.tensor([1.0, 10.0, 0.0]))
    values = {"face": torch.zeros(400, 5, 5), "voice": torch.zeros(400, 5, 3)}
    torch.manual_seed(0)
    noisy = model.train()._add_noise(values)
    assert torch.equal(noisy["face"], values["face"])
    struck = noisy["voice"].abs().amax(dim=(1, 2)) > 0
    assert 0.4 < struck.float().mean() < 0.6
    spread = noisy["voice"][struck].std(dim=(0, 1))
    assert spread[2] == 0
    assert 8 < spread[1] / spread[0] < 12
    assert 0.9 < spread[0] < 1.4, "levels even up to 2: root mean square 2 / sqrt(3)"
    assert torch.equal(model.eval()._add_noise(values)["voice"], values["voice"])


def test_a_system_of_one_modality() -> None:
    torch.manual_seed(0)
    model = SafeCrossAttention(Config(inputs={"voice": 3}, dim=8, heads=2, layers=1))
    out = model({"voice": torch.randn(2, 4, 3)}, {"voice": torch.ones(2, 4) > 0})
    assert out.logits.shape == (2, 4, 8)
    assert out.weights.shape == (2, 4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "heads": 4}, "dim 10 is not divisible by heads 4"),
        ({"modality_dropout": {"whole": {"face": 0.7, "voice": 0.7}}}, "must sum to <= 1"),
        ({"modality_dropout": {"bursts": {"sound": 0.1}}}, "modality_dropout names 'sound', which is no modality"),
        ({"modality_dropout": {"burst_seconds": [2.0, 1.0]}}, r"must be \[shortest, longest\]"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.model_validate({"inputs": DIMS} | options)


def test_number_of_parameters_at_the_papers_size() -> None:
    """1024-d encoders, as the recipe has it: the number of parameters."""
    model = SafeCrossAttention(Config(inputs={"face": 1024, "voice": 1024}))
    assert 25e6 < sum(p.numel() for p in model.parameters()) < 35e6


def test_training_leaves_absent_samples_out_of_a_branch_without_changing_loss_or_gradients() -> None:
    model = system(torch.float64)
    generator = torch.Generator().manual_seed(3)
    values = {n: torch.randn(6, 4, d, generator=generator, dtype=torch.float64) for n, d in DIMS.items()}
    valid = {n: torch.ones(6, 4, dtype=torch.bool) for n in DIMS}
    valid["face"][[0, 2, 5]] = False
    valid["voice"][3] = False
    batch = Batch(values, valid, torch.randint(0, 8, (6, 4), generator=generator), None)
    rows: list[int] = []
    for branch in model.branch.values():
        branch.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))

    def loss_and_gradients(training: bool) -> list[Tensor]:
        model.train(training)
        model.zero_grad()
        loss, _ = model.objective(batch)
        loss.backward()
        return [loss.detach(), *(torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters())]

    left_out, all_rows = loss_and_gradients(training=True), loss_and_gradients(training=False)
    assert rows == [3, 5, 6, 6]
    for a, b in zip(left_out, all_rows, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
