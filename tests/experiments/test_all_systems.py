"""System comparison: predictions from images, tables, and a check of the names of systems."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from experiments import compare_systems, system_tables
from mien.data import WindowDataset
from mien.errors import ConfigError
from mien.evaluation.robustness import drop_samples
from mien.records import FACE, Clip, ImageSet, Labels, Recording, Stream
from mien.synthetic.face_images import crop_faces
from mien.synthetic.scenario import draw_scenario


def recording(valid: np.ndarray) -> Recording:
    times = np.arange(40) / 4
    labels = Labels(times, np.zeros(40, np.int64), np.full((40, 2), np.nan))
    return Recording(Clip("a", None, "who", labels=labels), {FACE: Stream(np.zeros((40, 3)), times, valid)})


def faces_at(times: np.ndarray) -> dict[str, tuple[ImageSet, np.ndarray]]:
    """Faces at given times whose pixels all have the number of their class."""
    classes = np.arange(len(times)) % 8
    images = np.broadcast_to(classes[:, None, None, None], (len(times), 4, 4, 3)).astype(np.uint8)
    return {"a": (ImageSet(images, classes), times)}


def classify(images: torch.Tensor) -> torch.Tensor:
    """Logits of the class that the pixels encode."""
    return 50.0 * torch.eye(8)[images[:, 0, 0, 0].long()]


def test_a_prediction_is_the_mean_over_the_faces_near_the_moment() -> None:
    at = np.array([1.0, 1.4, 8.0])  # classes 0, 1, 2
    predicted = compare_systems.image_predictor(classify, faces_at(at))(recording(np.ones(40, bool))).probabilities
    times = np.arange(40) / 4
    alone, both, none = predicted[times == 0.5][0], predicted[times == 1.25][0], predicted[times == 5.0][0]
    np.testing.assert_allclose(alone, np.eye(8)[0], atol=1e-6)
    np.testing.assert_allclose(both, (np.eye(8)[0] + np.eye(8)[1]) / 2, atol=1e-6)
    assert np.isnan(none).all()


def test_faces_are_ignored_where_the_face_stream_is_invalid() -> None:
    at, rng = np.arange(40) / 4, np.random.default_rng(0)
    predict = compare_systems.image_predictor(classify, faces_at(at))
    assert np.isfinite(predict(recording(np.ones(40, bool))).probabilities).all()
    half = np.arange(40) < 20
    predicted = predict(recording(half)).probabilities
    assert np.isfinite(predicted[:20]).all()
    assert np.isnan(predicted[23:]).all()
    without_face = drop_samples(FACE, 1.0)(recording(np.ones(40, bool)), rng)
    assert np.isnan(predict(without_face).probabilities).all()
    no_faces = {"a": (ImageSet(np.zeros((0, 4, 4, 3), np.uint8), np.zeros(0, np.int64)), np.zeros(0))}
    assert np.isnan(
        compare_systems.image_predictor(classify, no_faces)(recording(np.ones(40, bool))).probabilities
    ).all()


def test_cropped_faces_have_the_labels_of_their_scenario() -> None:
    scenario = draw_scenario("test", 3, seconds=2.0, seed=1, impairments=False)
    faces, times = crop_faces(scenario, 4.0, 32)
    truth = scenario.labels(times)
    assert faces.images.shape == (len(times), 32, 32, 3)
    assert len(times) > 5
    assert set(faces.subjects) == {scenario.subject}
    np.testing.assert_array_equal(faces.labels, truth.expression)
    assert np.allclose(np.diff(times) * 4, np.round(np.diff(times) * 4))


def row(model: str, corruption: str, label: str, **scores: Any) -> dict[str, Any]:
    empty = dict.fromkeys(("macro_f1", "low", "high", "va_score", "va_low", "va_high"))
    return {"model": model, "corruption": corruption, "label": label, **empty, **scores}


def test_macro_f1_and_ccc_have_separate_tables() -> None:
    tables = system_tables.table(
        [
            row("cnn_pdem", "face frames missing", "0", macro_f1=0.7, low=0.65, high=0.75, va_score=0.1),
            row("dynamic_threshold", "face frames missing", "90", macro_f1=0.2, low=0.1, high=0.3),
            row("va_reliability", "face frames missing", "100", va_score=0.47, va_low=0.43, va_high=0.51),
            row("va_voice", "voice silent", "0", va_score=0.46),
        ]
    )
    first, second = tables.split("\n\n")
    assert first.splitlines()[2:] == [
        "| cnn_pdem | .700 ± .050 | – | – | – | – |",
        "| dynamic_threshold | – | .200 ± .100 | – | – | – |",
    ]
    assert second.startswith("| mean CCC | clean |")
    assert second.splitlines()[2:] == [
        "| va_reliability | – | – | .470 ± .040 | – | – |",
        "| va_voice | .460 | – | – | – | – |",
    ]
    assert system_tables.table([row("va_voice", "voice silent", "0", va_score=0.5)]).startswith("| mean CCC")


def test_an_unknown_system_is_refused_before_anything_is_simulated() -> None:
    with pytest.raises(ConfigError, match="no system here is called cnn_pden") as error:
        compare_systems.run(names=["cnn_pden"])
    assert "dynamic_threshold; valence and arousal" in str(error.value.remedy)


def test_a_run_reports_each_system_of_the_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    data = compare_systems.ComparisonData([], [], [])
    lines: list[str] = []
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
            assert jobs == [(compare_systems.VA_CHAIN, 0, None)]
            return [tables for _ in jobs]

    monkeypatch.setattr(compare_systems, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(compare_systems, "score_class_prior", lambda data: tables[:0])
    result = compare_systems.run(seeds=1, names=[compare_systems.VA_CHAIN], log=lines.append, data=data)
    assert result["model"].to_list() == ["va_face", "va_voice"]
    assert lines[1:] == ["va_face, seed 0: 0.500", "va_voice, seed 0: 0.250"]


def test_every_system_gets_the_same_augmented_recordings_and_steps() -> None:
    clean = [recording(np.ones(40, bool))]
    rng, whole = np.random.default_rng(0), np.ones(40, bool)
    for modality in (FACE, "voice"):
        clean[0].streams[modality] = Stream(rng.normal(size=(40, 3)), np.arange(40) / 4, whole)
    augmented = compare_systems.augment(clean * 20)
    assert len(augmented) == 60
    assert len({r.clip.id for r in augmented[20:]}) == 2
    for first, modality in ((20, FACE), (21, "voice")):
        changed = augmented[first::2]
        other = "voice" if modality == FACE else FACE
        assert all(np.array_equal(r.streams[other].values, clean[0].streams[other].values) for r in changed)
        hidden = [1 - np.mean(r.streams[modality].valid) for r in changed]
        noisy = [not np.array_equal(r.streams[modality].values, clean[0].streams[modality].values) for r in changed]
        assert all(h > 0.3 or n for h, n in zip(hidden, noisy, strict=True))
        assert 0 < sum(h > 0.3 for h in hidden) < len(hidden), "some are hidden, some are noisy"
    recipes = [
        compare_systems.make_recipe(compare_systems.SYSTEMS[name], 0) for name in ("safe_cross_attention", "cnn_pdem")
    ]
    for recipe in recipes:
        windows = len(WindowDataset(augmented, recipe.windows, modalities=list(recipe.inputs), labelled=True))
        per_epoch = -(-windows // compare_systems.BATCH)
        epochs = compare_systems.with_steps(recipe, augmented, steps=100).train.epochs
        assert 100 <= epochs * per_epoch < 100 + per_epoch


def test_intervals_hold_for_other_seeds_and_other_people() -> None:
    def scores(macro_f1: float) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "corruption": ["a"], "level": [0.0], "label": ["0"], "unit": ["%"], "model": ["m"], "clips": [4],
                "frames": [9], "macro_f1": [macro_f1], "low": [macro_f1 - 0.03], "high": [macro_f1 + 0.05],
            }
        )  # fmt: skip

    merged = system_tables.with_people([scores(0.5), scores(0.6)]).to_dicts()[0]
    seeds = 12.7062 * 0.0707107 / 2**0.5  # t(.975, 1) times the standard error
    half = (seeds**2 + 0.04**2) ** 0.5
    assert (merged["low"], merged["high"]) == pytest.approx((0.55 - half, 0.55 + half), rel=1e-4)
