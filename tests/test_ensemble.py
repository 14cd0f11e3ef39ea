"""Ensembles: the mean of known predictions, weights, missing values, rates, classes, folders, and fitted weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import mien
from mien import checkpoint, clock, ensemble, ensemble_folder
from mien.encoders import face_geometry
from mien.errors import ConfigError
from mien.evaluation.ensemble_weights import average_predictions, fit_weights, score
from mien.evaluation.predictions import ClipPrediction
from mien.inference import InferenceSettings, InputFeature, StreamPrediction
from mien.records import Stream
from tests.earlier_version import without_digests
from tests.tiny_checkpoint import save_tiny


@dataclass
class Fixed:
    """A model that predicts the value of its stream's first column as the probability of its first class."""

    labels: list[str]
    rate_hz: float = 10.0
    expression: bool = True
    valence_arousal: bool = True

    @property
    def features(self) -> dict[str, InputFeature]:
        return {"face": InputFeature("toy", 1)}

    @property
    def settings(self) -> InferenceSettings:
        return InferenceSettings(
            self.labels, self.features, 2.0, self.rate_hz, 1.0, False, 0.0, 1.0,
            expression=self.expression, valence_arousal=self.valence_arousal,
        )  # fmt: skip

    def predict_streams(
        self, streams: Mapping[str, Stream], start_s: float, stop_s: float, *, batch: int = 16
    ) -> StreamPrediction:
        times = clock.token_times(start_s, stop_s, self.rate_hz)
        share = np.full(len(times), np.nan)
        if "face" in streams:
            assert set(streams) == {"face"}
            values, valid = clock.resample(streams["face"], times, self.rate_hz)
            share = np.where(valid, values[:, 0], np.nan)
        rest = (1 - share) / (len(self.labels) - 1)
        probabilities = np.stack([share, *[rest] * (len(self.labels) - 1)], axis=1)
        return StreamPrediction(times, probabilities, np.stack([share, -share], axis=1))

    def embed_streams(self, streams: Mapping[str, Stream]) -> Stream:
        raise NotImplementedError


def constant(value: float, stop: float = 2.0, first: float = 0.0) -> Stream:
    times = np.arange(first + 0.05, stop, 0.1)
    return Stream(np.full((len(times), 1), value, np.float32), times, np.ones(len(times), bool))


def test_the_mean_of_two_known_predictions_and_its_weights() -> None:
    two = [Fixed(["a", "b"]), Fixed(["a", "b"])]
    streams = {"0.face": constant(0.2), "1.face": constant(0.6)}
    equal = ensemble.combine(two, ["x", "y"])
    assert list(equal.features) == ["0.face", "1.face"]
    times, probabilities, affect = equal.predict_streams(streams, 0.0, 2.0)
    assert len(times) == 20
    np.testing.assert_allclose(probabilities, [[0.4, 0.6]] * 20, atol=1e-6)
    np.testing.assert_allclose(affect, [[0.4, -0.4]] * 20, atol=1e-6)
    weighted = ensemble.combine(two, ["x", "y"], [3, 1])
    np.testing.assert_allclose(weighted.predict_streams(streams, 0.0, 2.0)[1][:, 0], 0.75 * 0.2 + 0.25 * 0.6, atol=1e-6)


def test_a_member_without_a_prediction_does_not_count() -> None:
    model = ensemble.combine([Fixed(["a", "b"]), Fixed(["a", "b"])], ["x", "y"], [0.9, 0.1])
    late = {"0.face": constant(0.2, first=1.0), "1.face": constant(0.6)}
    late_probabilities = model.predict_streams(late, 0.0, 2.0)[1][:, 0]
    np.testing.assert_allclose(late_probabilities[:9], 0.6, atol=1e-6)
    np.testing.assert_allclose(late_probabilities[10:], 0.9 * 0.2 + 0.1 * 0.6, atol=1e-6)
    np.testing.assert_allclose(model.predict_streams({"1.face": constant(0.6)}, 0, 2)[1][:, 0], 0.6, atol=1e-6)
    assert np.isnan(model.predict_streams({}, 0.0, 2.0)[1]).all()
    with pytest.raises(ValueError, match=r"no input 'face' in this ensemble"):
        model.predict_streams({"face": constant(0.5)}, 0.0, 2.0)


def test_times_are_those_of_the_fastest_member_and_the_slow_one_is_interpolated() -> None:
    ramp = Stream(np.arange(40, dtype=np.float32)[:, None] / 40, np.arange(40) / 20 + 0.025, np.ones(40, bool))
    slow, fast = Fixed(["a", "b"], rate_hz=2.0), Fixed(["a", "b"], rate_hz=20.0)
    model = ensemble.combine([slow, fast], ["slow", "fast"])
    times, probabilities, _ = model.predict_streams({"0.face": ramp, "1.face": ramp}, 0.0, 2.0)
    assert len(times) == 40
    assert model.settings.rate_hz == 20
    # cells of the slow member are means of ten samples: (4.5, 14.5, 24.5, 34.5) / 40 at .25, .75, 1.25, 1.75 s
    interpolated = np.interp(times, [0.25, 0.75, 1.25, 1.75], np.array([4.5, 14.5, 24.5, 34.5]) / 40)
    np.testing.assert_allclose(probabilities[:, 0], (interpolated + np.arange(40) / 40) / 2, atol=1e-6)


def test_classes_in_another_order_are_reordered_and_other_classes_refused() -> None:
    model = ensemble.combine([Fixed(["a", "b"]), Fixed(["b", "a"])], ["x", "y"])
    assert model.labels == ["a", "b"]
    probabilities = model.predict_streams({"0.face": constant(0.2), "1.face": constant(0.6)}, 0.0, 2.0)[1]
    np.testing.assert_allclose(probabilities, [[0.3, 0.7]] * 20, atol=1e-6)
    with pytest.raises(ConfigError, match=r"y and x predict different classes: only y has c; only x has b") as caught:
        ensemble.combine([Fixed(["a", "b"]), Fixed(["a", "c"])], ["x", "y"])
    assert "Nothing was predicted" in caught.value.follows


def test_members_of_expressions_and_of_valence_arousal_complete_each_other() -> None:
    affect_only = Fixed(["other", "classes", "here"], expression=False)
    expression_only = Fixed(["a", "b"], valence_arousal=False)
    model = ensemble.combine([affect_only, expression_only], ["va", "expr"])
    assert (model.labels, model.settings.expression, model.settings.valence_arousal) == (["a", "b"], True, True)
    _, probabilities, affect = model.predict_streams({"0.face": constant(0.2), "1.face": constant(0.6)}, 0.0, 2.0)
    np.testing.assert_allclose(probabilities[:, 0], 0.6, atol=1e-6)
    np.testing.assert_allclose(affect[:, 0], 0.2, atol=1e-6)
    both_affect = ensemble.combine([affect_only, affect_only], ["v", "w"])
    assert not both_affect.settings.expression


@pytest.mark.parametrize("weights", [[1.0], [-1.0, 2.0], [0.0, 0.0], [float("nan"), 1.0]])
def test_unusable_weights_and_stages_are_refused(weights: list[float]) -> None:
    two = [Fixed(["a", "b"]), Fixed(["a", "b"])]
    with pytest.raises(ConfigError, match="weights"):
        ensemble.combine(two, ["x", "y"], weights)
    with pytest.raises(ConfigError, match="no features for a next stage"):
        ensemble.combine(two, ["x", "y"]).embed_streams({})
    with pytest.raises(ConfigError, match="is not a list of numbers"):
        ensemble.parse_weights("0.3;0.7")


def test_a_system_over_images_cannot_be_a_member() -> None:
    class Images(Fixed):
        model = SimpleNamespace(input_kind="images")

    with pytest.raises(ConfigError, match="y was trained on single images"):
        ensemble.combine([Fixed(["a", "b"]), Images(["a", "b"])], ["x", "y"])


# --- folders -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [save_tiny(folder / "a" / "run", seed=1), save_tiny(folder / "b" / "run", seed=2)]


@pytest.fixture
def folder(tmp_path: Path, runs: list[Path]) -> Path:
    return ensemble_folder.write(tmp_path / "both", runs, [3, 1], fitted_on="4 clips of val", scores={"macro_f1": 0.5})


def test_a_folder_is_complete_and_predicts_the_weighted_mean_of_its_members(
    folder: Path, runs: list[Path], tmp_path: Path
) -> None:
    moved = Path(shutil.move(folder, tmp_path / "moved"))
    stored = ensemble_folder.read(moved)
    assert [p.relative_to(moved).as_posix() for p in stored.members] == ["members/run", "members/run-2"]
    assert (stored.weights, stored.fitted_on, stored.scores) == ([0.75, 0.25], "4 clips of val", {"macro_f1": 0.5})
    model = ensemble_folder.load(moved, checkpoint.load)
    rng = np.random.default_rng(0)
    face = Stream(rng.normal(size=(60, face_geometry.DIM)).astype(np.float32), np.arange(60) / 30, np.ones(60, bool))
    ours = model.predict_streams({"0.face": face, "1.face": face}, 0.0, 2.0)
    first, second = (checkpoint.load(run).predict_streams({"face": face}, 0.0, 2.0) for run in runs)
    np.testing.assert_allclose(ours[1], 0.75 * first[1] + 0.25 * second[1], atol=1e-6)
    np.testing.assert_allclose(ours[2], 0.75 * first[2] + 0.25 * second[2], atol=1e-6)


def test_a_folder_is_listed_and_served_as_a_model(folder: Path, runs: list[Path], tmp_path: Path) -> None:
    from mien import model_listing

    found, member = model_listing.describe(str(folder)), model_listing.describe(str(runs[0]))
    assert (found.kind, found.classes, found.figures) == ("ensemble", member.classes, {"macro_f1": 0.5})
    assert found.valence_arousal == member.valence_arousal
    assert [i.modality for i in found.inputs][: len(member.inputs)] == [
        f"{ensemble_folder.read(folder).names[0]}/{i.modality}" for i in member.inputs
    ]
    assert str(folder) in [model.name for model in model_listing.list_models([tmp_path])]
    (folder / ensemble_folder.ABOUT).write_text("{}")
    assert [m.problem != "" for m in model_listing.list_models([tmp_path]) if m.name == str(folder)] == [True]


def test_an_ensemble_can_be_served(folder: Path, tmp_path: Path) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    from mien.serve.app import create_app
    from mien.serve.service import Service
    from mien.serve.settings import Settings

    service = Service(Settings(tmp_path / "server", models=(str(folder),)))
    with testclient.TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        (model,) = client.get("/v1/models").json()["models"]
    assert model["kind"] == "ensemble"
    assert list(model["colours"]) == model["classes"] != []


def _damage(folder: Path, **changes: object) -> None:
    about = json.loads((folder / ensemble_folder.ABOUT).read_text())
    (folder / ensemble_folder.ABOUT).write_text(json.dumps(about | changes))


def test_damaged_folders_are_refused(folder: Path, runs: list[Path], tmp_path: Path) -> None:
    without_digests(folder, ensemble_folder.ABOUT)
    whole = (folder / ensemble_folder.ABOUT).read_text()
    _damage(folder, format="mien-ensemble-9")
    with pytest.raises(ConfigError, match=r"format 'mien-ensemble-9', this mien reads"):
        mien.load(folder)
    _damage(folder, format=ensemble_folder.FORMAT, members=[{"folder": "../x", "weight": 1, "weights_sha256": ""}])
    with pytest.raises(ConfigError, match="outside the folder"):
        mien.load(folder)
    (folder / ensemble_folder.ABOUT).write_text(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match=r"ensemble.json: cannot be read"):
        mien.load(folder)
    (folder / ensemble_folder.ABOUT).write_text(whole)
    for name in ("weights.safetensors", "checkpoint.json"):
        shutil.copyfile(runs[1] / name, folder / "members" / "run" / name)
    with pytest.raises(ConfigError, match=r"another checkpoint than ensemble\.json describes"):
        mien.load(folder)
    (folder / "members" / "run" / "recipe.yaml").unlink()
    with pytest.raises(ConfigError, match=r"recipe.yaml missing"):
        mien.load(folder)
    shutil.rmtree(folder / "members" / "run")
    with pytest.raises(ConfigError, match="no such folder"):
        mien.load(folder)
    with pytest.raises(ConfigError, match=r"member .*: weights\.safetensors"):
        ensemble_folder.write(tmp_path / "new", [runs[0], tmp_path])
    assert not (tmp_path / "new").exists()


def test_load_takes_several_runs_and_names_what_cannot_be_a_member(folder: Path, runs: list[Path]) -> None:
    predictor = mien.load(runs, weights=[1, 3])
    model = predictor.model  # type: ignore[attr-defined]
    assert model.weights == (0.25, 0.75)
    assert mien.load(folder).model.weights == (0.75, 0.25)  # type: ignore[attr-defined]
    assert mien.load([runs[0]]).name == mien.load(runs[0]).name
    for wrong, message in (
        ("hsemotion", "it predicts single faces, frame by frame"),
        ("nowhere", "no such folder"),
        (folder, "an ensemble itself"),
    ):
        with pytest.raises(ConfigError, match=message):
            mien.load([runs[0], wrong])
    with pytest.raises(ConfigError, match="weights were given for a single model"):
        mien.load(runs[0], weights=[1.0])
    with pytest.raises(ConfigError, match="1 weights for 2 members"):
        mien.load(runs, weights=[1.0])


# --- fitted weights ------------------------------------------------------------------------------------------


def clips(seed: int, noise: float, gaps: bool = False) -> list[ClipPrediction]:
    """Three clips of 60 frames: the truth is the same for every seed, the predictions are the truth and noise."""
    made = []
    for number in range(3):
        truth = np.random.default_rng(number).integers(0, 8, 60)
        affect = np.random.default_rng(10 + number).uniform(-1, 1, (60, 2))
        rng = np.random.default_rng(100 * seed + number)
        probabilities = np.eye(8)[truth] + rng.exponential(noise, (60, 8))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        predicted = np.clip(affect + rng.normal(0, noise, (60, 2)), -1, 1)
        if gaps:
            probabilities[:20], predicted[:20] = np.nan, np.nan
        made.append(ClipPrediction(f"c{number}", np.arange(60) / 30, probabilities, predicted, truth, affect))
    return made


@pytest.mark.parametrize("measure", ["macro_f1", "va_score"])
def test_fitted_weights_prefer_the_better_member_and_are_never_worse_than_equal(measure: str) -> None:
    good, bad = clips(1, 0.35), clips(2, 2.0, gaps=True)
    fitted = fit_weights({"good": good, "bad": bad}, measure=measure, draws=200)  # type: ignore[arg-type]
    assert fitted.weights[0] > 0.5
    assert sum(fitted.weights) == pytest.approx(1)
    assert fitted.score > fitted.equal_score
    assert fitted.score == pytest.approx(score(average_predictions([good, bad], fitted.weights), fitted.measure))
    assert fitted.equal_score == pytest.approx(score(average_predictions([good, bad]), fitted.measure))
    assert fitted == fit_weights({"good": good, "bad": bad}, measure=measure, draws=200)  # type: ignore[arg-type]
    noise = {f"{i}": clips(10 + i, 2.0) for i in range(4)}
    flattered = fit_weights(noise, measure=measure, draws=200)  # type: ignore[arg-type]
    assert flattered.held_out < flattered.score, "weights chosen on the scored clips look better than they are"
    assert fitted.held_out == pytest.approx(fitted.score, abs=0.05), "one member is clearly better for every subject"
    same = fit_weights({"one": good, "two": good}, measure=measure, draws=50)  # type: ignore[arg-type]
    assert same.weights == [0.5, 0.5], "equal weights stay where nothing is better"


def test_average_of_tables_matches_clips_by_id() -> None:
    first, second = clips(1, 0.3), clips(2, 0.3)
    averaged = average_predictions([first[:2], second], [1, 3])
    assert [c.id for c in averaged] == ["c0", "c1", "c2"]
    expected = 0.25 * first[0].probabilities + 0.75 * second[0].probabilities
    np.testing.assert_allclose(averaged[0].probabilities, expected)
    np.testing.assert_allclose(averaged[2].valence_arousal, second[2].valence_arousal)
