"""What every system over streams must do: learn, save, stand without anything, and never feel what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mien import checkpoint, config, models
from mien.evaluation.predictions import predict
from mien.records import Batch
from mien.training.fit import fit
from tests.models.systems import CLASSES, SMALL, batch, recipe, recordings

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("prompted_tcn", {}),
    *(("cnn_pdem", {"fusion": f}) for f in ("dirichlet", "forest", "elm", "attention", "mean")),
    ("cnn_pdem", {"face": "gru", "voice": "v1"}),
    ("transfer_ensemble", {}),
    ("transfer_ensemble", {"weights": "model"}),
]
EACH = pytest.mark.parametrize(("name", "options"), KINDS, ids=[f"{n} {' '.join(o.values())}" for n, o in KINDS])


def built(name: str, options: dict[str, Any], objective: dict[str, Any] | None = None) -> Any:
    torch.manual_seed(0)
    made: Any = models.build(recipe(name, objective, **options))
    made.prepare(
        {"face": torch.zeros(12), "voice": torch.zeros(16)},
        {"face": torch.ones(12), "voice": torch.ones(16)},
        torch.full((CLASSES,), 10.0),
    )
    return made


@EACH
def test_it_overfits_one_batch(name: str, options: dict[str, Any]) -> None:
    system, given = built(name, options, {"valence_arousal": 1.0}), batch()
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
    if hasattr(system, "fit_machines"):
        system.fit_machines([given])
    said = system(given.values, given.valid).logits.argmax(-1)
    assert (said == given.expression).float().mean() > 0.95


@EACH
def test_what_is_missing_is_never_felt(name: str, options: dict[str, Any]) -> None:
    system, given = built(name, options).eval(), batch()
    out = system(given.values, given.valid)
    assert torch.isfinite(out.logits).all()
    other = {n: torch.where(given.valid[n][..., None], v, 1e6) for n, v in given.values.items()}
    assert torch.equal(system(other, given.valid).logits, out.logits)


@EACH
def test_it_stands_without_sound_without_faces_and_alone(name: str, options: dict[str, Any]) -> None:
    system, given = built(name, options), batch(size=1)
    for kept in ("face", "voice"):
        out = system.eval()({kept: given.values[kept]}, {kept: given.valid[kept]})
        empty = {n: torch.zeros_like(v) if n != kept else v for n, v in given.valid.items()}
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


@pytest.mark.parametrize("name", SMALL)
def test_trained_saved_and_loaded_it_says_the_same(name: str, tmp_path: Path) -> None:
    train, val = recordings(10, 1), recordings(6, 2)
    run = fit(recipe(name), train, val, tmp_path / "run", device="cpu", progress=False)
    loaded, again = checkpoint.load(run), checkpoint.load(run)
    said = [predict(c.predict_streams, val[0]) for c in (loaded, again)]
    np.testing.assert_array_equal(said[0].probabilities, said[1].probabilities)
    hits = np.concatenate([predict(loaded.predict_streams, r).chosen == r.clip.labels.expression for r in val])
    assert hits.mean() > 0.7, "eight epochs on plain classes"
    if name != "prompted_tcn":
        assert bool(loaded.model.settled)
        assert "fusion_score" in loaded.metrics


@pytest.mark.parametrize("name", ["prompted_tcn", "cnn_pdem", "cnn_pdem_face", "cnn_pdem_voice", "transfer_ensemble"])
def test_the_shipped_recipe_builds_at_its_size(name: str) -> None:
    settings = config.load(name, check=models.problems)
    with torch.device("meta"):
        system = models.build(settings)
    assert sum(p.numel() for p in system.parameters()) > 1_000_000
    assert settings.paper.differs
