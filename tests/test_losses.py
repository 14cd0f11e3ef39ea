"""Losses: closed forms, golden values computed by hand or by numpy, and every mask."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mien import losses


def batch(seed: int, *, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, 7, 8, generator=g, dtype=torch.float64) * 3).to(dtype)
    return logits, torch.randint(-1, 8, (3, 7), generator=g), torch.rand(8, generator=g, dtype=torch.float64) + 0.1


@given(seed=st.integers(0, 10**6), smoothing=st.sampled_from([0.0, 0.1, 0.5]), weighted=st.booleans())
def test_cross_entropy_equals_torchs(seed: int, smoothing: float, weighted: bool) -> None:
    logits, labels, weights = batch(seed)
    weight = weights if weighted else None
    theirs = F.cross_entropy(
        logits.reshape(-1, 8), labels.reshape(-1), weight=weight, ignore_index=-1, label_smoothing=smoothing
    )
    ours = losses.cross_entropy(logits, labels, weights=weight, smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_focal_closed_form(gamma: float) -> None:
    """Two classes, probability p of the true one: (1 - p)^gamma * -log p."""
    for p in (0.01, 0.3, 0.5, 0.9, 0.999):
        logits = torch.tensor([[math.log(p), math.log1p(-p)]], dtype=torch.float64)
        loss = losses.focal(logits, torch.tensor([0]), gamma=gamma)
        assert float(loss) == pytest.approx((1 - p) ** gamma * -math.log(p), rel=1e-9)


def test_focal_computed_by_hand() -> None:
    """Worked by hand: uniform logits over 4 classes, (3/4)^2 ln 4 for each of two labels of three."""
    loss = losses.focal(torch.zeros(3, 4), torch.tensor([2, -1, 0]), gamma=2.0)
    assert float(loss) == pytest.approx(0.5625 * 1.3862943611198906, rel=1e-6)


def test_focal_with_class_weights_is_a_weighted_mean() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.5, 0.0]]), torch.tensor([0, 1])
    one, two = (losses.focal(logits[i : i + 1], labels[i : i + 1], gamma=2.0) for i in (0, 1))
    both = losses.focal(logits, labels, gamma=2.0, weights=torch.tensor([1.0, 3.0]))
    assert float(both) == pytest.approx((float(one) + 3 * float(two)) / 4, rel=1e-6)


@given(
    seed=st.integers(0, 10**6),
    gamma=st.sampled_from([0.0, 0.5, 2.0]),
    smoothing=st.sampled_from([0.0, 0.2]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_focal_does_not_read_unlabelled_positions_and_is_finite(
    seed: int, gamma: float, smoothing: float, dtype: torch.dtype, share: float
) -> None:
    logits, labels, _ = batch(seed, dtype=dtype)
    hidden = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) < share
    labels = labels.masked_fill(hidden, -1)
    spoiled = logits.masked_fill((labels == -1)[..., None], torch.nan)
    results = []
    for x in (logits, spoiled):
        x = x.clone().requires_grad_()
        loss = losses.focal(x, labels, gamma=gamma, smoothing=smoothing)
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(x.grad).all()
        assert not x.grad[labels == -1].any()
        results.append(loss.detach())
    assert torch.equal(*results)


def test_focal_is_finite_at_probability_one_and_zero() -> None:
    for gamma in (0.5, 1.0, 2.0):
        for sign in (1.0, -1.0):
            x = torch.tensor([[sign * 200.0, 0.0]], requires_grad=True)
            losses.focal(x, torch.tensor([0]), gamma=gamma).backward()
            assert torch.isfinite(x.grad).all()


def test_without_labels_the_loss_is_zero_with_a_gradient() -> None:
    x = torch.randn(2, 3, 8, requires_grad=True)
    loss = losses.focal(x, torch.full((2, 3), -1))
    loss.backward()
    assert loss.item() == 0.0
    assert not x.grad.any()
    empty = torch.zeros(0, 8, requires_grad=True)
    losses.focal(empty, torch.zeros(0, dtype=torch.long)).backward()
    assert empty.grad is not None


def test_class_weights_by_scheme() -> None:
    counts = torch.tensor([100.0, 25.0, 0.0])
    assert torch.allclose(losses.class_weights(counts, "none"), torch.tensor([1.0, 1.0, 0.0]))
    assert torch.allclose(losses.class_weights(counts, "balanced"), torch.tensor([0.4, 1.6, 0.0]))
    assert torch.allclose(losses.class_weights(counts, "sqrt"), torch.tensor([2 / 3, 4 / 3, 0.0]))
    effective = [(1 - 0.99) / (1 - 0.99**n) for n in (100, 25)]
    expected = torch.tensor([*(2 * e / sum(effective) for e in effective), 0.0])
    assert torch.allclose(losses.class_weights(counts, "effective", beta=0.99), expected)
    assert torch.isfinite(losses.class_weights(torch.zeros(3), "balanced")).all()
    with pytest.raises(ValueError, match="'rare': choose none, balanced, sqrt or effective"):
        losses.class_weights(counts, "rare")


def numpy_ccc(p: np.ndarray, t: np.ndarray) -> float:
    covariance = np.cov(p, t, bias=True)[0, 1]
    return 2 * covariance / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)


@given(seed=st.integers(0, 10**6), hidden=st.floats(0, 0.7))
def test_ccc_equals_numpys_over_the_pooled_entries(seed: int, hidden: float) -> None:
    r = np.random.default_rng(seed)
    p, t = r.normal(size=(4, 9, 2)), r.normal(size=(4, 9, 2)) + 0.3
    mask = r.random((4, 9)) >= hidden
    mask[0, :3] = True
    t[0, 5, 1] = np.nan
    expected = np.mean(
        [1 - numpy_ccc(p[mask & np.isfinite(t[..., k]), k], t[mask & np.isfinite(t[..., k]), k]) for k in (0, 1)]
    )
    loss = losses.ccc_loss(torch.tensor(p), torch.tensor(t), torch.tensor(mask))
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_ccc_closed_forms() -> None:
    x = torch.tensor([[-1.0], [0.0], [1.0]])
    assert float(losses.ccc_loss(x, x)) == pytest.approx(0.0, abs=1e-6)
    assert float(losses.ccc_loss(-x, x)) == pytest.approx(2.0, abs=1e-6)
    # shift by 1: 2 * 2/3 / (2/3 + 2/3 + 1) = 4/7
    assert float(losses.ccc_loss(x + 1, x)) == pytest.approx(3 / 7, abs=1e-6)
    # scale by 2: 2 * 4/3 / (8/3 + 2/3) = 4/5
    assert float(losses.ccc_loss(2 * x, x)) == pytest.approx(1 / 5, abs=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_ccc_of_constants_and_without_entries_is_finite(rows: int) -> None:
    for mask in (None, torch.zeros(rows, dtype=torch.bool)):
        p = torch.full((rows, 2), 0.25, requires_grad=True)
        loss = losses.ccc_loss(p, torch.full((rows, 2), 0.25), mask)
        loss.backward()
        assert loss.item() == (1.0 if rows and mask is None else 0.0)
        assert torch.isfinite(p.grad).all()
        assert not p.grad.any()


def test_ccc_does_not_read_masked_entries() -> None:
    p = torch.tensor([[0.1], [0.5], [torch.nan], [0.2]], requires_grad=True)
    t = torch.tensor([[0.2], [0.4], [0.1], [torch.nan]])
    loss = losses.ccc_loss(p, t, torch.tensor([True, True, False, True]))
    loss.backward()
    torch.testing.assert_close(loss, losses.ccc_loss(p[:2].detach(), t[:2]))
    assert torch.isfinite(p.grad).all()
    assert not p.grad[2:].any()


def test_ccc_loss_column_without_labels_does_not_count() -> None:
    g = torch.Generator().manual_seed(0)
    p, t = (torch.randn(9, 2, generator=g, dtype=torch.float64) for _ in range(2))
    t[:, 1] = torch.nan
    torch.testing.assert_close(losses.ccc_loss(p, t), losses.ccc_loss(p[:, :1], t[:, :1]), rtol=1e-12, atol=0)


def test_losses_work_in_low_precision() -> None:
    p, t = torch.rand(50, 2), torch.rand(50, 2)
    low = losses.ccc_loss(p.bfloat16(), t)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, losses.ccc_loss(p.bfloat16().float(), t))


def test_prompt_contrastive_closed_forms() -> None:
    from math import exp, log

    from mien.losses import prompt_contrastive

    prompts = torch.eye(3)
    values = torch.tensor([[2.0, 0, 0], [0, 5.0, 0]])  # lengths do not count
    right = prompt_contrastive(values, prompts, torch.tensor([0, 1]), scale=2.0)
    assert float(right) == pytest.approx(log(1 + exp(-2.0)), abs=1e-6)
    wrong = prompt_contrastive(values, prompts, torch.tensor([1, 0]), scale=2.0)
    assert float(wrong) == pytest.approx(2.0 + log(1 + exp(-2.0)), abs=1e-6)
    same = torch.tensor([[1.0, 0, 0], [1.0, 0, 0]])
    both = torch.tensor([0, 0])
    assert float(prompt_contrastive(same, prompts, both, scale=2.0)) == pytest.approx(log(2), abs=1e-6), (
        "the other sample is a negative"
    )
    without_negative = prompt_contrastive(same, prompts, both, scale=2.0, same_label_negative=False)
    assert float(without_negative) == pytest.approx(0.0, abs=1e-6)
    values.requires_grad_()
    none = prompt_contrastive(values, prompts, torch.tensor([-1, -1]), scale=2.0)
    none.backward()
    assert float(none.detach()) == 0.0
    assert (values.grad == 0).all()


@given(seed=st.integers(0, 10**6), gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0]), weighted=st.booleans())
def test_soft_focal_equals_focal_for_one_hot_labels(seed: int, gamma: float, weighted: bool) -> None:
    logits, labels, weights = batch(seed)
    weight = weights if weighted else None
    targets = F.one_hot(labels.clamp_min(0), 8).double() * (labels >= 0)[..., None]
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ours, theirs = (
        losses.soft_focal(a, targets, gamma=gamma, weights=weight),
        losses.focal(b, labels, gamma=gamma, weights=weight),
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    ours.backward(), theirs.backward()
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-8, atol=1e-10)


@given(seed=st.integers(0, 10**6))
def test_soft_focal_without_gamma_is_torchs_cross_entropy(seed: int) -> None:
    logits, _, _ = batch(seed)
    targets = torch.softmax(batch(seed + 1)[0], dim=-1)
    theirs = F.cross_entropy(logits.reshape(-1, 8), targets.reshape(-1, 8))
    torch.testing.assert_close(losses.soft_focal(logits, targets, gamma=0.0), theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_soft_focal_closed_form_and_gradient(gamma: float) -> None:
    """Two classes: q (1-p)^gamma (-log p) + (1-q) p^gamma (-log(1-p)); gradients agree with finite differences."""
    for p, q in ((0.3, 0.7), (0.9, 0.5), (0.01, 0.99)):
        logits = torch.tensor([[math.log(p), math.log1p(-p)]], dtype=torch.float64)
        expected = q * (1 - p) ** gamma * -math.log(p) + (1 - q) * p**gamma * -math.log1p(-p)
        target = torch.tensor([[q, 1 - q]], dtype=torch.float64)
        assert float(losses.soft_focal(logits, target, gamma=gamma)) == pytest.approx(expected, rel=1e-9)
    logits = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.softmax(logits.detach().flip(0) * 2, dim=-1)
    torch.autograd.gradcheck(lambda x: losses.soft_focal(x, target, gamma=gamma), logits)


def test_soft_focal_focuses_away_from_the_votes_themselves() -> None:
    """With gamma 2 the minimum over p for q = .8 lies below .8; with gamma 0 it is .8."""
    p = torch.linspace(0.01, 0.99, 981, dtype=torch.float64)
    logits, target = torch.stack([p.log(), (1 - p).log()], dim=-1), torch.tensor([[0.8, 0.2]], dtype=torch.float64)
    best = {
        gamma: float(p[int(np.argmin([float(losses.soft_focal(row[None], target, gamma=gamma)) for row in logits]))])
        for gamma in (0.0, 2.0)
    }
    assert best[0.0] == pytest.approx(0.8, abs=1e-3)
    assert 0.5 < best[2.0] < 0.78


def test_soft_focal_ignores_rows_without_a_label() -> None:
    logits = torch.tensor([[1.0, 2.0], [float("nan"), 3.0]], requires_grad=True)
    targets = torch.tensor([[0.5, 0.5], [0.0, 0.0]])
    loss = losses.soft_focal(logits, targets)
    torch.testing.assert_close(loss, losses.soft_focal(logits[:1], targets[:1]))
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad[1], torch.zeros(2))
    empty = losses.soft_focal(logits.detach().requires_grad_(), torch.zeros(2, 2))
    assert float(empty) == 0.0


def test_logit_adjustment_closed_forms() -> None:
    counts = torch.tensor([80.0, 15.0, 5.0])
    torch.testing.assert_close(losses.logit_adjustment(counts, 2.0), 2 * torch.tensor([0.8, 0.15, 0.05]).log())
    assert losses.logit_adjustment(counts, 0.0).tolist() == [0, 0, 0]
    absent = losses.logit_adjustment(torch.tensor([8.0, 0.0, 2.0]))  # counts as 8, 2, 2
    torch.testing.assert_close(absent, torch.tensor([8 / 12, 2 / 12, 2 / 12]).log())
    assert losses.logit_adjustment(torch.zeros(3)).tolist() == [0, 0, 0]


def test_logit_adjustment_learns_balanced_posteriors() -> None:
    """For one input whose labels have the shares of the priors, the adjusted minimum has equal logits: of the class
    posterior p(y|x) = n_y / n only p(x|y) = const is left. Without adjustment the logits are the log shares."""
    counts = torch.tensor([60.0, 30.0, 10.0])
    targets = (counts / counts.sum())[None].double()
    found = {}
    for tau in (0.0, 1.0):
        logits = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

        def closure(logits: torch.Tensor = logits, tau: float = tau) -> torch.Tensor:
            logits.grad = None
            loss = losses.soft_focal(logits + losses.logit_adjustment(counts, tau), targets, gamma=0.0)
            loss.backward()
            return loss

        optimiser.step(closure)
        found[tau] = torch.softmax(logits.detach(), dim=1)[0]
    torch.testing.assert_close(found[0.0], targets[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1.0], torch.full((3,), 1 / 3, dtype=torch.float64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["safe_cross_attention", "gated_fusion"])
def test_systems_add_the_adjustment_in_training_only(name: str) -> None:
    from mien import models
    from tests.models.systems import batch, recipe

    given, results = batch(missing=0.0), []
    statistics = {"face": torch.zeros(12), "voice": torch.zeros(16)}, {"face": torch.ones(12), "voice": torch.ones(16)}
    for tau in (0.0, 1.0):
        torch.manual_seed(0)
        objective = {"class_weights": "none", "gamma": 0.0, "logit_adjustment": tau, "valence_arousal": 0.0}
        system = models.build(recipe(name, objective)).eval()
        system.prepare(*statistics, torch.tensor([70.0, 20.0, 5.0, 5.0]))
        with torch.no_grad():
            results.append((system(given.values, given.valid).logits, system.objective(given)[1]["expression"]))
    (plain, loss), (adjusted, adjusted_loss) = results
    torch.testing.assert_close(plain, adjusted)
    offsets = torch.tensor([0.7, 0.2, 0.05, 0.05]).log()
    expected = F.cross_entropy((plain + offsets).flatten(0, 1), given.expression.flatten())
    torch.testing.assert_close(adjusted_loss, expected)
    assert not torch.isclose(loss, adjusted_loss)
