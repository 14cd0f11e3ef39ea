"""The systems over single images are saved completely: predictions before saving equal those after loading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mien import config, models
from tests.models.round_trip import save_and_load, train
from tests.training.test_semi_supervised import SIZE, given, recipe, static

RECIPES = {
    **{
        f"dynamic_threshold {kind}": recipe(threshold=kind, warmup_steps=2)
        for kind in ("dynamic", "fixed", "freematch", "adaptive")
    },
    **{f"cnn_static {network}": static(network, unfreeze_steps=0) for network in ("resnet", "vit", "efficientnet")},
}


@pytest.mark.parametrize("name", RECIPES)
def test_saved_and_loaded_it_predicts_the_same(name: str, tmp_path: Path) -> None:
    raw = RECIPES[name].model_dump()
    raw["features"]["face"]["dim"] = SIZE
    settings = config.read(raw, origin=name, check=models.problems)
    torch.manual_seed(0)
    system = models.build(settings)
    system.prepare({}, {}, torch.tensor([3.0, 2.0, 1.0]))
    batch = given()
    train(system, batch)
    loaded = save_and_load(system, settings, tmp_path).model
    with torch.inference_mode():
        assert torch.equal(loaded(batch.labelled), system(batch.labelled))
        assert torch.equal(loaded.embed(batch.labelled), system.embed(batch.labelled))
    buffers = dict(loaded.named_buffers())
    for key, buffer in system.named_buffers():
        assert torch.equal(buffers[key], buffer), key
