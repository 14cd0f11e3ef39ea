"""One class for each file, scores with closed forms, conditions, and pairs of faces and voices."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from mien.benchmark.corpora import LabelledFile, LabelledFiles
from mien.benchmark.pairs import score_pairs
from mien.benchmark.predict_files import CONDITIONS, JOINED, FilePredictions, file_probabilities, predict_files
from mien.benchmark.scores import NO_PREDICTION, predicted_classes, score
from mien.cli.main import app
from mien.errors import ConfigError, MediaError
from mien.labels import ANGER, EXPRESSIONS, HAPPINESS, NEUTRAL, SADNESS
from mien.media import audio, image
from mien.predict import ProgressCallback
from mien.predict.face_with_voice import pool
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline


def rows(
    subject: int, p: list[list[float]], face: list[bool], voice: list[bool], classes: tuple[str, ...] = EXPRESSIONS
) -> pl.DataFrame:
    n = len(p)
    return subject_rows(
        subject,
        np.arange(n) / 10,
        classes=classes,
        probabilities=np.array(p, float),
        valence_arousal=np.full((n, 2), np.nan),
        voice=np.array(voice),
        speech=np.array(["own" if v else None for v in voice], object),
        face=np.array(face),
        boxes=np.tile([0.0, 0, 1, 1], (n, 1)),
        frames=np.arange(n),
    )


def one_hot(index: int, p: float = 1.0) -> list[float]:
    return [p if i == index else (1 - p) / 7 for i in range(8)]


NAN = [float("nan")] * 8


def test_a_file_is_the_mean_over_the_person_most_seen() -> None:
    briefly = rows(0, [one_hot(ANGER), NAN, NAN], [True, False, False], [False] * 3)
    mostly = rows(1, [one_hot(HAPPINESS), one_hot(SADNESS), NAN], [True, True, False], [False] * 3)
    mean = file_probabilities(Timeline(pl.concat([briefly, mostly])))
    assert mean is not None
    np.testing.assert_allclose(mean[[HAPPINESS, SADNESS]], 0.5)
    assert mean[ANGER] == 0


def test_sound_alone_is_the_mean_over_speech() -> None:
    table = rows(0, [one_hot(ANGER), one_hot(HAPPINESS), NAN], [False] * 3, [True, False, False])
    mean = file_probabilities(Timeline(table))
    assert mean is not None
    assert mean[ANGER] == pytest.approx(1)
    silent = rows(0, [NAN, NAN], [False, False], [False, False])
    assert file_probabilities(Timeline(silent)) is None


def test_classes_that_the_model_lacks_have_probability_zero() -> None:
    table = rows(0, [[0.25, 0.75]], [True], [False], ("Happiness", "Neutral"))
    mean = file_probabilities(Timeline(table, classes=("Happiness", "Neutral")))
    assert mean is not None
    np.testing.assert_allclose(mean, [0.75, 0, 0, 0, 0.25, 0, 0, 0])


def corpus(labels: list[int], **people: list[str]) -> LabelledFiles:
    files = [
        LabelledFile(
            f"f{i}", Path(f"f{i}.wav"), label, "test",
            subject=people.get("subject", [""] * len(labels))[i], sex=people.get("sex", [""] * len(labels))[i],
        )
        for i, label in enumerate(labels)
    ]  # fmt: skip
    return LabelledFiles("toy", Path(), "test", tuple(files))


def predictions(*p: list[float]) -> FilePredictions:
    return FilePredictions(np.array(p, float), {})


def test_scores_have_their_closed_forms_and_count_missing_files_as_wrong() -> None:
    files = corpus([NEUTRAL, NEUTRAL, ANGER, ANGER], subject=["a", "a", "b", "c"], sex=["female"] * 2 + ["male"] * 2)
    found = score(files, predictions(one_hot(NEUTRAL), one_hot(SADNESS), one_hot(ANGER, 0.6), NAN), model="m")
    assert (found.files, found.subjects, found.without_prediction) == (4, 3, 1)
    assert found.f1 == {"Neutral": pytest.approx(2 / 3), "Anger": pytest.approx(2 / 3)}
    assert found.macro_f1.value == pytest.approx(2 / 3), "Sadness is no class of the corpus, but a wrong answer"
    assert found.accuracy.value == 0.5
    assert found.macro_f1.low <= found.macro_f1.value <= found.macro_f1.high
    # two files at confidence 1, one of them wrong; one at .6, right
    assert found.calibration_error == pytest.approx(2 / 3 * 0.5 + 1 / 3 * 0.4)
    assert [(g.group, g.files, g.macro_f1) for g in found.groups] == [
        ("female", 2, pytest.approx(2 / 3)),
        ("male", 2, pytest.approx(2 / 3)),
    ]


def test_intervals_resample_people_where_they_are_known() -> None:
    """All files of a person are equal: by person the interval is as wide as with one file each."""
    labels = [NEUTRAL, ANGER] * 20
    p = [one_hot(label if i < 20 else 1 - label) for i, label in enumerate(labels)]
    by_person = score(corpus(labels, subject=["a"] * 20 + ["b"] * 20), predictions(*p), model="m").accuracy
    by_file = score(corpus(labels), predictions(*p), model="m").accuracy
    assert (by_person.low, by_person.high) == (0, 1)
    assert 0.3 < by_file.low < 0.5 < by_file.high < 0.7


def test_the_record_is_json_without_nan() -> None:
    found = score(corpus([NEUTRAL]), predictions(NAN), model="m")
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["macro_f1"] == {"value": 0.0, "low": None, "high": None}
    assert record["calibration_error"] is None
    assert record["without_prediction"] == 1


def test_joining_uses_what_there_is() -> None:
    both = 0.6 * np.array(one_hot(ANGER)) + 0.4 * np.array(one_hot(NEUTRAL))
    face = np.array([both, NAN, one_hot(ANGER), NAN])
    voice = np.array([0.2 * np.array(one_hot(ANGER)) + 0.8 * np.array(one_hot(NEUTRAL)), one_hot(NEUTRAL), NAN, NAN])
    joined = pool(face, voice, 0.5)
    expected = np.array([0.6 * 0.2**0.5, 0.4 * 0.8**0.5])
    np.testing.assert_allclose(joined[0, [ANGER, NEUTRAL]], expected / expected.sum())
    assert joined[0, HAPPINESS] == 0, "a class that the face never predicts"
    np.testing.assert_allclose(pool(face, voice, 0.0)[0], both)
    joined = pool(face, voice, 0.1)
    assert predicted_classes(joined).tolist() == [ANGER, NEUTRAL, ANGER, NO_PREDICTION]


def test_pairs_share_classes_and_join_by_weight() -> None:
    faces = corpus([NEUTRAL, ANGER, HAPPINESS, SADNESS])
    face = predictions(one_hot(NEUTRAL), one_hot(HAPPINESS), one_hot(HAPPINESS), one_hot(SADNESS))
    voices = corpus([ANGER, ANGER, NEUTRAL, HAPPINESS])
    voice = predictions(one_hot(ANGER), one_hot(ANGER), one_hot(ANGER), one_hot(ANGER))
    found = score_pairs((faces, face), (voices, voice), model="m")
    assert found is not None
    assert (found.pairs, found.classes) == (3, ("Neutral", "Anger", "Happiness")), "no voice is sad"
    assert found.face == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert found.voice == pytest.approx((0 + 0.5 + 0) / 3), "each voice is predicted as Anger"
    assert found.by_weight[0.0] == pytest.approx(found.face)
    assert found.by_weight[1.0] == pytest.approx(found.face), "these faces exclude what the voices say"
    assert score_pairs((corpus([SADNESS]), predictions(NAN)), (voices, voice), model="m") is None


class ToyPredictor:
    """Predicts Happiness for bright images and Neutral for dark ones; refuses files called bad."""

    name, max_faces = "toy", 1
    classes: tuple[str, ...] = EXPRESSIONS

    def predict(
        self, path: str | Path, *, face: bool = True, voice: bool = True, progress: ProgressCallback | None = None
    ) -> Timeline:
        if Path(path).stem == "bad":
            raise MediaError(f"{path} is damaged")
        self.last = image.read(Path(path))
        p = one_hot(HAPPINESS if self.last.mean() > 127 else NEUTRAL)
        return Timeline(rows(0, [p[: len(self.classes)]], [True], [False], self.classes), classes=self.classes)


def test_files_are_predicted_by_the_predictor_and_errors_are_kept(tmp_path: Path) -> None:
    pixels = np.full((8, 8), 200, np.uint8)
    files = LabelledFiles(
        "toy", tmp_path, "all", (LabelledFile("a", pixels, 4), LabelledFile("bad", tmp_path / "bad.png", 0))
    )
    toy, calls = ToyPredictor(), []
    found = predict_files(toy, files, progress=lambda done, total: calls.append((done, total)))
    assert predicted_classes(found.probabilities).tolist() == [HAPPINESS, NO_PREDICTION]
    assert np.array_equal(toy.last, np.full((8, 8, 3), 200)), "pixels are predicted as an image of the same pixels"
    assert list(found.errors) == ["bad"]
    assert calls == [(1, 2), (2, 2)]
    toy.classes = ("Neutral", "Calm")
    with pytest.raises(ConfigError, match="toy predicts Calm; the corpora are labelled with"):
        predict_files(toy, files)


class ToyEar(ToyPredictor):
    """Predicts Anger for loud moments and Sadness for soft ones, from the voice alone."""

    def predict(
        self, path: str | Path, *, face: bool = True, voice: bool = True, progress: ProgressCallback | None = None
    ) -> Timeline:
        assert not face
        _, sound = audio.load(Path(path))
        level = np.abs(sound[: len(sound) // 1600 * 1600]).reshape(-1, 1600).mean(axis=1)
        p = [one_hot(ANGER if x > 0.2 else SADNESS) if x > 0.01 else NAN for x in level]
        return Timeline(rows(0, p, [False] * len(p), [bool(x > 0.01) for x in level]))


def test_joined_the_files_of_a_person_are_one_recording_and_each_has_its_part(tmp_path: Path) -> None:
    files = []
    for number, (person, level) in enumerate([("a", 0.5), ("b", 0.1), ("a", 0.1), ("a", 0.5), ("b", 0.0)]):
        samples = np.full(8000 + 1600 * number, round(level * 32767), "<i2")
        path = tmp_path / f"{number}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(samples.tobytes())
        files.append(LabelledFile(str(number), path, ANGER, subject=person))
    calls = []
    found = predict_files(
        ToyEar(), LabelledFiles("toy", tmp_path, "all", tuple(files)), condition=JOINED,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert predicted_classes(found.probabilities).tolist() == [ANGER, SADNESS, SADNESS, ANGER, NO_PREDICTION]
    assert calls == [(3, 5), (5, 5)]


def test_conditions_change_images_as_they_say() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    enlarged = CONDITIONS["enlarged"](pixels)
    assert enlarged.shape == (192, 160, 3)
    assert abs(enlarged.mean() - pixels.mean()) < 3
    covered = CONDITIONS["half covered"](pixels)
    assert np.array_equal(covered[:24], pixels[:24])
    assert (covered[24:] == 128).all()
    assert np.array_equal(CONDITIONS["mirrored"](CONDITIONS["mirrored"](pixels)), pixels)
    assert np.array_equal(CONDITIONS["mirrored"](pixels)[:, 0], pixels[:, -1])
    smooth = np.full((48, 48, 3), (200, 100, 50), np.uint8)
    assert np.abs(CONDITIONS["JPEG"](smooth).astype(int) - smooth).max() <= 4, "the colours keep their order"
    assert not np.array_equal(CONDITIONS["JPEG"](pixels), pixels)


def test_the_command_scores_real_voices_and_faces(
    tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_HUB", str(shared / "hub"))
    arguments = [
        "bench", "real", str(shared / "ferplus"), str(shared / "emodb"), "--sample", "4", "--model", "face-api",
        "--conditions", "--pair", str(shared / "ferplus"), str(shared / "emodb"), "--json", str(tmp_path / "real.json"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "ferplus val" in result.output
    assert "Macro F1 on changed images" in result.output
    record = json.loads((tmp_path / "real.json").read_text())
    assert [(r["corpus"], r["condition"]) for r in record["corpora"]] == [
        *(("ferplus", condition) for condition in ("", *CONDITIONS)),
        ("emodb", ""),
        ("emodb", JOINED),
    ]
    assert all(r["files"] == 4 for r in record["corpora"])
    assert record["pairs"][0]["model"] == "face-api"


def test_wrong_options_are_refused_before_any_work(tmp_path: Path) -> None:
    for arguments, text in (
        ([], "Usage"),
        (["--no-face", "--no-voice", "x"], "leave nothing to predict from"),
        (["--split", "dev", "x"], "none of train, val, test and all"),
        (["--sample", "3"], "name a corpus's folder"),
        ([str(tmp_path / "none"), "--model", "starter"], "does not exist; a corpus is a folder"),
        ([str(tmp_path), "--model", "startr"], "startr"),
    ):
        result = CliRunner().invoke(app, ["bench", "real", *arguments])
        assert result.exit_code != 0
        assert text in result.output
