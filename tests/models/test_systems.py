"""Every expression system over streams: it learns, is saved completely, and ignores missing tokens and modalities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien import checkpoint, config, models
from mien.evaluation.predictions import predict
from mien.models.transfer_ensemble import HalvingAverage, PositiveMaximum
from mien.records import Batch
from mien.training.fit import fit
from tests.models.round_trip import assert_streams_round_trip, train
from tests.models.systems import CLASSES, SMALL, batch, recipe, recordings

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("prompted_tcn", {}),
    *(("cnn_pdem", {"fusion": f}) for f in ("dirichlet", "forest", "attention", "mean")),
    ("cnn_pdem", {"face": "gru", "voice": "v1"}),
    ("gated_fusion", {}),
    ("safe_cross_attention", {}),
    ("transfer_ensemble", {}),
    ("transfer_ensemble", {"weights_per": "model"}),
]
EACH = pytest.mark.parametrize(("name", "options"), KINDS, ids=[f"{n} {' '.join(o.values())}" for n, o in KINDS])


def build(name: str, options: dict[str, Any], objective: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    system: Any = models.build(recipe(name, objective, **options))
    system.prepare(
        {"face": torch.zeros(12), "voice": torch.zeros(16)},
        {"face": torch.ones(12), "voice": torch.ones(16)},
        torch.full((CLASSES,), 10.0),
    )
    return system


@EACH
def test_it_overfits_one_batch(name: str, options: dict[str, Any]) -> None:
    system, given = build(name, options, {"valence_arousal": 1.0}), batch()
    optimiser = torch.optim.AdamW(system.parameters(), lr=1e-2)
    first = None
    for _ in range(60):
        loss, logs = system.objective(given)
        first = first or float(loss.detach())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        assert all(torch.isfinite(v) for v in logs.values())
    assert float(loss.detach()) < 0.6 * first
    system.eval()
    system.fit_classical([given])
    predicted = system(given.values, given.valid).logits.argmax(-1)
    assert (predicted == given.expression).float().mean() > 0.95


@EACH
def test_values_at_missing_tokens_are_never_read(name: str, options: dict[str, Any]) -> None:
    system, given = build(name, options).eval(), batch()
    out = system(given.values, given.valid)
    assert torch.isfinite(out.logits).all()
    other = {n: torch.where(given.valid[n][..., None], v, 1e6) for n, v in given.values.items()}
    assert torch.equal(system(other, given.valid).logits, out.logits)


@EACH
def test_it_predicts_without_voice_without_face_and_without_both(name: str, options: dict[str, Any]) -> None:
    system, given = build(name, options), batch(size=1)
    for present in ("face", "voice"):
        out = system.eval()({present: given.values[present]}, {present: given.valid[present]})
        empty = {n: torch.zeros_like(v) if n != present else v for n, v in given.valid.items()}
        again = system(given.values, empty)
        assert torch.isfinite(out.logits).all()
        torch.testing.assert_close(out.logits, again.logits)
        assert out.evidence.all()
    nothing = {n: torch.zeros_like(v) for n, v in given.valid.items()}
    out = system(given.values, nothing)
    assert torch.isfinite(out.logits).all()
    assert not out.evidence.any()
    blank = Batch(
        given.values, nothing, torch.full_like(given.expression, -1), torch.full_like(given.valence_arousal, torch.nan)
    )
    loss, _ = system.eval().objective(blank)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in system.parameters())


@EACH
def test_saved_and_loaded_it_predicts_the_same(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings, windows = recipe(name, {"valence_arousal": 1.0}, **options), batch()
    system: Any = models.build(settings)
    system.prepare(
        {"face": torch.full((12,), 0.3), "voice": torch.full((16,), -0.2)},
        {"face": torch.full((12,), 2.0), "voice": torch.full((16,), 0.5)},
        torch.arange(1.0, CLASSES + 1),
    )
    if system.uses_prompts:
        system.set_prompts(torch.randn(system.prompts.shape))
    train(system, windows)
    loaded = assert_streams_round_trip(system, settings, dict(recordings(1, 3)[0].streams), 6.0, tmp_path)
    if system.uses_prompts:
        logits = [s.prompt_logits(windows.values, windows.valid) for s in (system, loaded.model)]
        assert torch.equal(*logits)
    if system.has_late_stage:
        assert bool(loaded.model.fusion_is_fitted)


@pytest.mark.parametrize("name", SMALL)
def test_training_fits_network_and_fusion(name: str, tmp_path: Path) -> None:
    training, val = recordings(10, 1), recordings(6, 2)
    run = fit(recipe(name), training, val, tmp_path / "run", device="cpu", progress=False)
    loaded = checkpoint.load(run)
    hits = np.concatenate([predict(loaded.predict_streams, r).predicted_class == r.clip.labels.expression for r in val])
    assert hits.mean() > 0.7, "eight epochs on plain classes"
    if loaded.model.has_late_stage:
        assert bool(loaded.model.fusion_is_fitted)
        assert "fusion_score" in loaded.metrics


@pytest.mark.parametrize("name", ["prompted_tcn", "cnn_pdem", "cnn_pdem_face", "cnn_pdem_voice", "transfer_ensemble"])
def test_the_shipped_recipe_builds_at_its_size(name: str) -> None:
    settings = config.load(name, check=models.problems)
    with torch.device("meta"):
        system = models.build(settings)
    assert sum(p.numel() for p in system.parameters()) > 1_000_000
    assert settings.paper.differs


@pytest.mark.parametrize("size", range(1, 12))
def test_pooling_that_exports_equals_that_of_torch(size: int) -> None:
    """Bit for bit, for even and odd sizes, down to one row."""
    torch.manual_seed(size)
    maps = torch.randn(2, 3, size, 12 - size) * 10
    assert torch.equal(HalvingAverage()(maps), torch.nn.AvgPool2d(2, ceil_mode=True)(maps))
    values = torch.randn(2, 3, 5 * size).relu()
    for step in (2, 10):
        assert torch.equal(PositiveMaximum(step)(values), torch.nn.MaxPool1d(step, ceil_mode=True)(values))
