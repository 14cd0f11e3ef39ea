"""Late fusions against closed forms, brute force, and the libraries that fit them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from mien.evaluation import metrics
from mien.layers.late_fusion import ForestFusion, WeightedFusion


def draws(rows: int, models: int = 2, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(rows, models, classes, generator=generator)
    return p / p.sum(-1, keepdim=True), torch.rand(rows, models, generator=generator) > 0.2


def test_weighted_mean_of_the_models_present() -> None:
    fusion = WeightedFusion(models=2, classes=2)
    fusion.weights.copy_(torch.tensor([[0.75, 0.5], [0.25, 0.5]]))
    p = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    both = fusion(p, torch.tensor([True, True]))
    a, b = 0.75 * 0.8 + 0.25 * 0.4, 0.5 * 0.2 + 0.5 * 0.6
    torch.testing.assert_close(both, torch.tensor([a, b]) / (a + b))
    torch.testing.assert_close(fusion(p, torch.tensor([True, False])), p[0])
    torch.testing.assert_close(fusion(p, torch.tensor([False, False])), torch.tensor([0.5, 0.5]))
    p[1] = torch.nan
    torch.testing.assert_close(fusion(p, torch.tensor([True, False])), p[0])


@given(st.integers(2, 8), st.floats(0.0, 1.0))
def test_entropy_limit_leaves_out_an_uncertain_voice(classes: int, sharp: float) -> None:
    peak = torch.full((classes,), (1 - sharp) / classes)
    peak[0] += sharp
    entropy = float(-(peak[peak > 0] * peak[peak > 0].log()).sum())
    face = torch.full((classes,), 1 / classes)
    for threshold in (entropy - 0.05, entropy + 0.05):
        fusion = WeightedFusion(models=2, classes=classes, entropy=max(0.0, threshold), filtered=[False, True])
        is_used = fusion.select_models(torch.stack((face, peak)), torch.ones(2, dtype=torch.bool))
        assert is_used.tolist() == [True, entropy <= max(0.0, threshold)]
    alone = fusion.select_models(torch.stack((face, peak)), torch.tensor([False, True]))
    assert alone.tolist() == [False, True], "an uncertain voice is used if nothing else is present"


def test_weight_search_finds_the_better_model_of_each_class() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 600)
    p = torch.full((600, 2, 3), 1 / 3)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), 3).float()
    wrong = one_hot[:, [1, 2, 0]]
    for model, knows in ((0, labels == 0), (1, labels != 0)):
        right = torch.from_numpy(knows)[:, None]
        p[:, model] = 0.4 / 3 + 0.6 * torch.where(right, one_hot, wrong)
    present = torch.ones(600, 2, dtype=torch.bool)

    even = score(WeightedFusion(models=2, classes=3)(p, present).numpy(), labels)
    scores = {}
    for weights_per in ("model", "class"):
        fusion = WeightedFusion(models=2, classes=3)
        scores[weights_per] = fusion.search(p, present, labels, score, weights_per=weights_per)
        assert scores[weights_per] == score(fusion(p, present).numpy(), labels), "the score is that of the weights"
        assert scores[weights_per] >= even
        torch.testing.assert_close(fusion.weights.sum(0), torch.ones(3))
    again = WeightedFusion(models=2, classes=3)
    assert again.search(p, present, labels, score) == scores["class"], "same seed, same weights"


def score(q: np.ndarray, y: np.ndarray) -> float:
    return metrics.macro_f1(y, q.argmax(1), classes=q.shape[1])


@given(st.integers(0, 1000), st.integers(3, 8))
def test_a_voice_over_the_limit_adds_zero_and_the_rest_is_not_renormalised(seed: int, classes: int) -> None:
    """The label is that of the published sum, in which the other weights stay as drawn; a row still sums to 1."""
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(classes, 0.5), size=(50, 3)).astype(np.float32)
    weights = rng.dirichlet(np.ones(3), size=classes).T.astype(np.float32)
    limit = 0.6 * np.log(classes)
    fusion = WeightedFusion(models=3, classes=classes, entropy=limit, filtered=[False, True, False])
    fusion.weights.copy_(torch.from_numpy(weights))
    voice = np.where((-(p[:, 1] * np.log(p[:, 1])).sum(1) > limit)[:, None], 0.0, p[:, 1])
    published = p[:, 0] * weights[0] + voice * weights[1] + p[:, 2] * weights[2]
    fused = fusion(torch.from_numpy(p), torch.ones(50, 3, dtype=torch.bool)).numpy()
    np.testing.assert_allclose(fused, published / published.sum(axis=1, keepdims=True), atol=1e-4)
    np.testing.assert_array_equal(fused.argmax(axis=1), published.argmax(axis=1))


def test_weights_per_class_decide_the_label_where_the_voice_is_left_out() -> None:
    """With weights per class, scaling up the rest would change the label: here from the second class to the first."""
    fusion = WeightedFusion(models=2, classes=2, entropy=0.5, filtered=[False, True])
    fusion.weights.copy_(torch.tensor([[0.2, 0.8], [0.8, 0.2]]))
    p = torch.tensor([[0.6, 0.4], [0.5, 0.5]])
    fused = fusion(p, torch.tensor([True, True]))
    torch.testing.assert_close(fused, torch.tensor([0.12, 0.32]) / 0.44)
    torch.testing.assert_close(fusion(p, torch.tensor([True, False])), p[0])
    torch.testing.assert_close(fusion(p, torch.tensor([False, True])), p[1])


@pytest.mark.filterwarnings("ignore:Some inputs do not have OOB scores")
def test_forest_equals_scikit_learns_on_the_probabilities_alone() -> None:
    p, present = draws(400)
    labels = (p[:, 0].argmax(-1) * present[:, 0]).numpy()
    fusion = ForestFusion(classes=3, trees=[7], depth=5)
    found = fusion.fit(p, present, labels, score, seed=3)
    rows = torch.where(present[..., None], p, 1 / 3).flatten(1).numpy()
    options = {"max_depth": 5, "class_weight": "balanced", "random_state": 3, "oob_score": True}
    forests = [RandomForestClassifier(7, criterion=c, **options).fit(rows, labels) for c in ("gini", "entropy")]
    scores = []
    for forest in forests:
        estimated = forest.oob_decision_function_.sum(1) > 0
        scores.append(score(forest.oob_decision_function_[estimated], labels[estimated]))
    assert found == max(scores)
    best = forests[int(np.argmax(scores))]
    np.testing.assert_allclose(fusion(p, present).numpy(), best.predict_proba(rows), atol=1e-5)
    torch.testing.assert_close(fusion(p[None], present[None])[0], fusion(p, present))
    p[~present] = torch.nan
    assert torch.isfinite(fusion(p, present)).all()


def test_number_of_trees_is_chosen_out_of_bag_and_fewer_trees_leave_no_trace() -> None:
    """A score that prefers certain votes takes the single tree, whose votes out of bag are those of a leaf."""
    p, present = draws(300)
    labels = p[:, 0].argmax(-1).numpy()

    def certainty(q: np.ndarray, y: np.ndarray) -> float:
        return float((q.max(axis=1) > 0.999).mean())

    fusion = ForestFusion(classes=3, trees=[1, 30], depth=4)
    fusion.fit(p, present, labels, certainty)
    assert fusion.trees_used == 1
    torch.testing.assert_close(fusion(p, present).sum(-1), torch.ones(300))
    fusion.fit(p, present, labels, score)
    assert fusion.trees_used == 30, "more trees are right more often"
    torch.testing.assert_close(ForestFusion(classes=3)(p, present), torch.full((300, 3), 1 / 3))
