"""Training on folds: no subject on both sides, every clip held out once, the ensemble, and resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_fit import digest, recipe, recordings

from mien import config, ensemble_folder, models
from mien.errors import ConfigError
from mien.evaluation import predictions
from mien.records import Recording
from mien.training.folds import Fold, fit_folds, split_folds


@pytest.mark.parametrize(("clips", "subjects", "folds", "seed"), [(40, 13, 5, 0), (30, 6, 6, 1), (9, 2, 2, 2)])
def test_every_clip_is_held_out_once_and_no_subject_is_on_both_sides(
    clips: int, subjects: int, folds: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    groups = [f"s{g}" for g in [*range(subjects), *rng.integers(0, subjects, clips - subjects)]]
    classes = rng.integers(-1, 4, clips).tolist()
    parts = split_folds(groups, classes, folds, seed=seed)
    assert sorted(i for part in parts for i in part.held_out) == list(range(clips))
    for part in parts:
        assert sorted([*part.train, *part.select, *part.held_out]) == list(range(clips))
        sides = [{groups[i] for i in side} for side in (part.train, part.select, part.held_out)]
        assert all(sides[a].isdisjoint(sides[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
        assert part.train
        assert part.held_out
        assert bool(part.select) == (len(sides[0] | sides[1]) > 1)
    assert parts == split_folds(groups, classes, folds, seed=seed)


def test_folds_are_balanced_in_clips_and_classes_and_follow_the_seed() -> None:
    groups = [str(i) for i in range(60)]
    classes = [0] * 40 + [1] * 20
    parts = split_folds(groups, classes, 5, seed=0)
    assert [len(p.held_out) for p in parts] == [12] * 5
    assert [sum(classes[i] for i in p.held_out) for p in parts] == [4] * 5
    assert split_folds(groups, classes, 5, seed=1) != parts


def test_too_few_subjects_are_refused() -> None:
    with pytest.raises(ConfigError, match="--folds 3: the clips are of 2 subjects") as caught:
        split_folds(["a", "a", "b", "b"], [0, 1, 0, 1], 3)
    assert caught.value.remedy == "Use --folds 2 to 2."
    with pytest.raises(ConfigError, match="at least 2 are needed"):
        split_folds(["a", "b"], [0, 1], 1)


def people(count: int) -> list[Recording]:
    """Two recordings for each subject."""
    return [
        Recording(replace(r.clip, subject=f"person{i // 2}"), r.streams) for i, r in enumerate(recordings(2 * count, 7))
    ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("folds") / "out"
    fit_folds(recipe(epochs=2), people(6), out, 3, device="cpu")
    return out


def test_the_report_holds_every_clip_predicted_by_the_fold_that_did_not_see_it(trained: Path) -> None:
    from mien import checkpoint

    clips = people(6)
    table, classes = predictions.load(trained / "report" / "predictions.parquet")
    assert classes == ["a", "b", "c"]
    assert [p.id for p in table] == [r.clip.id for r in clips]
    division = json.loads((trained / "folds.json").read_text())["clips"]
    for recording, stored in zip(clips, table, strict=True):
        entry = division[recording.clip.id]
        assert entry["fold"] not in entry["selects"]
        model = checkpoint.load(trained / f"fold-{entry['fold']}")
        expected = predictions.predict(model.predict_streams, recording).probabilities
        np.testing.assert_allclose(stored.probabilities, expected, atol=1e-6)
    record = json.loads((trained / "report" / "evaluation.json").read_text())
    assert (record["clips"], record["groups"], record["split"]) == (12, 6, "out-of-fold")
    assert (trained / "report" / "evaluation.html").is_file()
    folder = ensemble_folder.read(trained)
    assert folder.names == ["fold-1", "fold-2", "fold-3"]
    assert not (trained / "members").exists(), "the folds are referred to, not copied"
    assert folder.scores["out-of-fold macro_f1"] == pytest.approx(record["scores"][0]["value"])


def test_an_interrupted_training_resumes_with_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mien.training import folds as module

    original, calls = module.fit, []

    def interrupted(*arguments: object, **options: object) -> Path:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(arguments[3])
        return original(*arguments, **options)  # type: ignore[arg-type]

    out = tmp_path / "out"
    monkeypatch.setattr(module, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_folds(recipe(epochs=2), people(6), out, 3, device="cpu")
    monkeypatch.undo()
    first = (out / "fold-1" / "weights.safetensors").stat().st_mtime_ns
    with pytest.raises(ConfigError, match="holds the folds of a training"):
        fit_folds(recipe(epochs=2), people(6), out, 3, device="cpu")
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        fit_folds(recipe(epochs=3), people(6), out, 3, device="cpu", resume=True)
    with pytest.raises(ConfigError, match="divided in another way"):
        fit_folds(recipe(epochs=2), people(5), out, 3, device="cpu", resume=True)
    fit_folds(recipe(epochs=2), people(6), out, 3, device="cpu", resume=True)
    assert (out / "fold-1" / "weights.safetensors").stat().st_mtime_ns == first, "a finished fold is kept"
    assert [digest(out / f"fold-{k}") for k in (1, 2, 3)] == [digest(trained / f"fold-{k}") for k in (1, 2, 3)]


def test_two_subjects_leave_none_to_choose_the_epoch() -> None:
    assert split_folds(["a", "b"], [0, 1], 2) == [
        Fold([1 - held_out[0]], [], held_out) for held_out in (p.held_out for p in split_folds(["a", "b"], [0, 1], 2))
    ]


def test_a_valence_arousal_recipe_is_scored_by_ccc_alone(tmp_path: Path) -> None:
    raw = recipe().model_dump()
    raw["features"] = {"voice": raw["features"]["voice"]}
    raw["model"] = {"name": "va_streams", "kind": "voice", "dim": 16, "pooling_dim": 4, "heads": 2}
    raw["objective"] = {}
    clips = [
        Recording(replace(r.clip, subject=f"person{i}"), {"voice": r.streams["voice"]})
        for i, r in enumerate(recordings(4, 7))
    ]
    record = fit_folds(config.read(raw, origin="test", check=models.problems), clips, tmp_path / "out", 2, device="cpu")
    assert {score["key"] for score in record["scores"]} == {"ccc valence", "ccc arousal", "va_score"}
