"""The bench of all systems: what pictures say of a moment, what its table shows, and that its names are checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from experiments import compare_systems as bench
from mien.errors import ConfigError
from mien.evaluation.robustness import missing
from mien.records import FACE, Clip, ImageSet, Labels, Recording, Stream
from mien.synthetic.face_images import crops
from mien.synthetic.scenario import draw


def recording(valid: np.ndarray) -> Recording:
    times = np.arange(40) / 4
    labels = Labels(times, np.zeros(40, np.int64), np.full((40, 2), np.nan))
    return Recording(Clip("a", None, "who", labels=labels), {FACE: Stream(np.zeros((40, 3)), times, valid)})


def shown(at: np.ndarray) -> dict[str, tuple[ImageSet, np.ndarray]]:
    """Faces whose every pixel is the number of their class."""
    classes = np.arange(len(at)) % 8
    images = np.broadcast_to(classes[:, None, None, None], (len(at), 4, 4, 3)).astype(np.uint8)
    return {"a": (ImageSet(images, classes), at)}


def sees(pictures: torch.Tensor) -> torch.Tensor:
    return 50.0 * torch.eye(8)[pictures[:, 0, 0, 0].long()]


def test_a_moment_is_the_mean_of_the_faces_near_it() -> None:
    at = np.array([1.0, 1.4, 8.0])  # classes 0, 1, 2
    said = bench.moments(sees, shown(at))(recording(np.ones(40, bool))).probabilities
    times = np.arange(40) / 4
    alone, both, none = said[times == 0.5][0], said[times == 1.25][0], said[times == 5.0][0]
    np.testing.assert_allclose(alone, np.eye(8)[0], atol=1e-6)
    np.testing.assert_allclose(both, (np.eye(8)[0] + np.eye(8)[1]) / 2, atol=1e-6)
    assert np.isnan(none).all()


def test_faces_that_are_taken_away_are_away() -> None:
    at, rng = np.arange(40) / 4, np.random.default_rng(0)
    says = bench.moments(sees, shown(at))
    assert np.isfinite(says(recording(np.ones(40, bool))).probabilities).all()
    half = np.arange(40) < 20
    said = says(recording(half)).probabilities
    assert np.isfinite(said[:20]).all()
    assert np.isnan(said[23:]).all()
    gone = missing(FACE, 1.0)(recording(np.ones(40, bool)), rng)
    assert np.isnan(says(gone).probabilities).all()
    nobody = {"a": (ImageSet(np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, np.int64)), np.zeros(0))}
    assert np.isnan(bench.moments(sees, nobody)(recording(np.ones(40, bool))).probabilities).all()


def test_pictures_of_a_performance_are_those_of_its_recording() -> None:
    plan = draw("test", 3, seconds=2.0, seed=1, faults=False)
    faces, times = crops(plan, 4.0, 32)
    truth = plan.labels(times)
    assert faces.images.shape == (len(times), 32, 32, 3)
    assert len(times) > 5
    assert set(faces.subjects) == {plan.subject}
    np.testing.assert_array_equal(faces.labels, truth.expression)
    assert np.allclose(np.diff(times) * 4, np.round(np.diff(times) * 4))


def row(model: str, corruption: str, label: str, **scores: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("macro_f1", "low", "high", "va_score", "va_low", "va_high"))
    return {"model": model, "corruption": corruption, "label": label, **empty, **scores}


def test_expressions_and_affect_have_a_table_each() -> None:
    said = bench.table(
        [
            row("cnn_pdem", "face frames missing", "0", macro_f1=0.7, low=0.65, high=0.75, va_score=0.1),
            row("dynamic_threshold", "face frames missing", "90", macro_f1=0.2, low=0.1, high=0.3),
            row("va_reliability", "face frames missing", "100", va_score=0.47, va_low=0.43, va_high=0.51),
            row("va_voice", "voice silent", "0", va_score=0.46),
        ]
    )
    first, second = said.split("\n\n")
    assert first.splitlines()[2:] == [
        "| cnn_pdem | .700 ± .050 | – | – | – | – |",
        "| dynamic_threshold | – | .200 ± .100 | – | – | – |",
    ]
    assert second.startswith("| mean CCC | clean |")
    assert second.splitlines()[2:] == [
        "| va_reliability | – | – | .470 ± .040 | – | – |",
        "| va_voice | .460 | – | – | – | – |",
    ]
    assert bench.table([row("va_voice", "voice silent", "0", va_score=0.5)]).startswith("| mean CCC")


def test_a_system_nobody_knows_is_named_before_anything_is_rendered() -> None:
    with pytest.raises(ConfigError, match="no system here is called cnn_pden") as error:
        bench.run(names=["cnn_pden"])
    assert "dynamic_threshold; valence and arousal" in str(error.value.remedy)


def test_a_run_tells_each_system_of_a_chain_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench.Stage([], [], [])
    told: list[str] = []
    tables = pl.DataFrame(
        [
            {**row(m, "face frames missing", "0", va_score=v), "level": 0.0, "unit": "%", "clips": 1, "frames": 1,
             "accuracy": None}
            for m, v in (("va_face", 0.5), ("va_voice", 0.25))
        ]
    ).drop("va_low", "va_high")  # fmt: skip

    class Pool:
        def __init__(self, *args: object, **settings: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *args: object) -> None: ...
        def map(self, measure: object, jobs: list[Any]) -> list[pl.DataFrame]:
            assert jobs == [(bench.AFFECT, 0, None)]
            return [tables for _ in jobs]

    monkeypatch.setattr(bench, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(bench, "prior", lambda made: tables[:0])
    found = bench.run(seeds=1, names=[bench.AFFECT], tell=told.append, made=made)
    assert found["model"].to_list() == ["va_face", "va_voice"]
    assert told[1:] == ["va_face, seed 0: 0.500", "va_voice, seed 0: 0.250"]
