"""Late fusions against closed forms, brute force, and the libraries that fit them."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from mien.evaluation import metrics
from mien.layers.late_fusion import ForestFusion, KernelELMFusion, WeightedFusion, statistics


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

    def score(q: np.ndarray, y: np.ndarray) -> float:
        return metrics.macro_f1(y, q.argmax(1), classes=3)

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


def test_forest_equals_scikit_learns() -> None:
    p, present = draws(400)
    rows = statistics(p[None], present[None])[0].numpy()
    labels = (p[:, 0].argmax(-1) * present[:, 0]).numpy()
    fusion = ForestFusion(models=2, classes=3, trees=7, depth=5)
    fusion.fit(rows, labels, seed=3)
    forest = RandomForestClassifier(7, max_depth=5, class_weight="balanced", random_state=3).fit(rows, labels)
    np.testing.assert_allclose(fusion(p[None], present[None])[0].numpy(), forest.predict_proba(rows), atol=1e-5)


def test_kernel_machine_fits_its_training_points() -> None:
    p, present = draws(300, seed=1)
    rows = statistics(p[None], present[None])[0].numpy()
    labels = p[:, 0].argmax(-1).numpy()
    fusion = KernelELMFusion(models=2, classes=3, support=200, c=100.0)
    fusion.fit(rows, labels)
    fused = fusion(p[None], present[None])[0]
    torch.testing.assert_close(fused.sum(-1), torch.ones(300))
    is_present = present[:, 0].numpy()
    assert (fused.argmax(-1).numpy() == labels)[is_present].mean() > 0.85
    x, y = fusion.support_rows, fusion.beta
    kernel = torch.exp(-torch.cdist(x, x).square() / fusion.kernel_width)
    targets = (kernel + torch.eye(len(x)) / 100.0) @ y
    assert torch.allclose(targets.abs(), torch.ones_like(targets), atol=1e-2), "(K + I/c) beta = ±1"


def test_statistics_do_not_read_missing_models() -> None:
    p, present = draws(12)
    p, present = p.view(2, 6, 2, 3), present.view(2, 6, 2)
    corrupted = torch.where(present[..., None], p, torch.nan)
    torch.testing.assert_close(statistics(corrupted, present), statistics(p, present))
