"""Prediction with a checkpoint of random weights: rows, evidence, subjects, notes and errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import polars as pl
import pytest
from tiny_checkpoint import save_tiny

import mien
from mien import checkpoint, config, hub
from mien.encode import encode_media, video_pass
from mien.encoders import face_geometry as face_encoder
from mien.errors import ArtefactError, ConfigError, MediaError
from mien.inference import InferenceSettings, InputFeature
from mien.media.video import write_video
from mien.predict import Predictor, load
from mien.predict.predictor import ModelPredictor
from mien.predict.rows import speech_at
from mien.records import Face, Frame, Stream

needs_faces = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint of the flagship with random weights."""
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Predictor:
    return load(folder, device="cpu")


class ScriptedTracker:
    """Replaces FaceTracker: subject -> frames in which it is visible."""

    def __init__(self, script: dict[int, Sequence[int]]) -> None:
        self.script, self.seconds = script, {"detect": 0.0, "mesh": 0.0}

    def __call__(self, frame: Frame) -> list[Face]:
        rng = np.random.default_rng(frame.index)
        mesh = face_encoder.load_canonical_face()["vertices"] * 60 + [160, 90, 0] + rng.normal(0, 0.3, (468, 3))
        box = np.array([100.0, 30, 220, 150])
        return [Face(s, box + s, mesh, 0.99) for s, frames in self.script.items() if frame.index in frames]


def script_faces(monkeypatch: pytest.MonkeyPatch, script: dict[int, Sequence[int]]) -> None:
    monkeypatch.setattr(encode_media, "FaceTracker", lambda **_: ScriptedTracker(script))


def clip(path: Path, times: np.ndarray, *, sound_s: float = 0.0, size: tuple[int, int] = (180, 320)) -> Path:
    """Grey frames at given times, with a quiet hum without speech."""
    hum = (0.01 * np.sin(np.arange(int(sound_s * 16_000)) / 50)).astype(np.float32)
    pictures = (np.full((*size, 3), 90, np.uint8) for _ in times)
    write_video(path, pictures, times=list(times), audio=hum if sound_s else None)
    return path


def check_ranges(table: pl.DataFrame) -> None:
    """Check the ranges that hold for every timeline."""
    p = table.select(pl.col("^p_.*$")).to_numpy()
    known = ~table["expression"].is_null().to_numpy()
    assert np.allclose(p[known].sum(axis=1), 1, atol=1e-4)
    assert (p[known] >= 0).all()
    assert table["valence"].drop_nulls().is_between(-1, 1).all()
    assert table["arousal"].drop_nulls().is_between(-1, 1).all()
    assert table["confidence"].is_between(0, 1).all()
    assert ((table["confidence"] == 0).to_numpy() == ~known).all()
    for _, rows in table.group_by("subject"):
        assert rows["time_s"].is_sorted()


# --- rows ---


def test_rows_have_the_times_of_the_frames(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = np.cumsum([0, 0.04, 0.1, 0.033, 0.25, 0.04, *[0.05] * 20])
    script_faces(monkeypatch, {0: range(100)})
    table = predictor.predict(clip(tmp_path / "v.mp4", times)).table
    assert table["time_s"].to_list() == pytest.approx(times, abs=1e-4)
    assert table["frame"].to_list() == list(range(len(times)))
    assert (table["evidence"] == "face").all()
    check_ranges(table)


def test_every_subject_has_a_row_in_every_frame(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_faces(monkeypatch, {7: range(50), 3: range(20, 45)})
    timeline = predictor.predict(clip(tmp_path / "v.mp4", np.arange(60) / 25))
    assert timeline.table.group_by("subject").len().sort("subject").rows() == [(0, 60), (1, 60)]
    first, second = timeline.rows_of(0), timeline.rows_of(1)
    assert (~first["x1"].is_null()).to_numpy().nonzero()[0].tolist() == list(range(50))
    assert (~second["x1"].is_null()).to_numpy().nonzero()[0].tolist() == list(range(20, 45))
    assert first["x1"][0] == pytest.approx(107), "renumbered in the order of appearance"


def test_rows_far_from_any_evidence_are_null(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_faces(monkeypatch, {0: range(25)})
    table = predictor.predict(clip(tmp_path / "v.mp4", np.arange(250) / 25)).table
    assert table["expression"][:25].null_count() == 0
    assert (table["evidence"][25:] == "none").all()
    assert table["expression"][-100:].null_count() == 100, "windows of 2 s cannot reach 4 s"
    check_ranges(table)


def test_briefly_visible_faces_are_left_out_with_a_note(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_faces(monkeypatch, {0: range(50), 1: range(10, 18)})
    timeline = predictor.predict(clip(tmp_path / "v.mp4", np.arange(50) / 25))
    assert timeline.subjects == [0]
    assert "1 face was left out, visible for less than 0.5 s at a time" in timeline.notes


def test_repeated_brief_detections_are_not_a_subject(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight detections of three frames are 0.8 s in total, but each is too brief."""
    brief = [frame for start in range(0, 150, 20) for frame in range(start, start + 3)]
    script_faces(monkeypatch, {0: range(3, 150), 1: brief, 2: [*range(20, 30), *range(33, 37)]})
    timeline = predictor.predict(clip(tmp_path / "v.mp4", np.arange(150) / 25))
    assert timeline.subjects == [0, 1], "a face (number 2) may be lost for three frames"
    assert timeline.rows_of(1)["x1"].drop_nulls().len() == 14


def test_without_a_face_there_is_one_subject_without_boxes(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_faces(monkeypatch, {})
    timeline = predictor.predict(clip(tmp_path / "v.mp4", np.arange(30) / 25, sound_s=1.2))
    assert timeline.subjects == [0]
    assert len(timeline) == 30
    assert timeline.table["x1"].null_count() == timeline.table["expression"].null_count() == 30
    assert (timeline.table["evidence"] == "none").all()
    assert {"no face was detected", "no speech was detected"} <= set(timeline.notes)


def test_boxes_are_in_pixels_of_the_original(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mien.predict.predictor, "MAX_SIDE", 320)
    script_faces(monkeypatch, {0: range(30)})
    path = clip(tmp_path / "v.mp4", np.arange(20) / 25, size=(360, 640))
    box = predictor.predict(path).table.select("x1", "y1", "x2", "y2").row(0)
    assert box == pytest.approx((200, 60, 440, 300), abs=0.5)


def test_sound_has_ten_rows_a_second(predictor: Predictor, shared: Path) -> None:
    path = sorted((shared / "emodb").glob("*.wav"))[0]
    timeline = predictor.predict(path)
    times = timeline.table["time_s"].to_numpy()
    assert np.allclose(np.diff(times), 0.1)
    assert times[0] == 0
    assert timeline.table["frame"].null_count() == timeline.table["x1"].null_count() == len(timeline)
    assert set(timeline.table["evidence"]) <= {"voice", "none"}
    assert (timeline.table["evidence"] == "voice").mean() > 0.6
    check_ranges(timeline.table)


@needs_faces
def test_a_picture_has_one_row(predictor: Predictor, tmp_path: Path) -> None:
    from skimage.data import astronaut

    cv2.imwrite(str(tmp_path / "astronaut.png"), astronaut()[..., ::-1])
    timeline = predictor.predict(tmp_path / "astronaut.png")
    (row,) = timeline.table.rows(named=True)
    assert (row["time_s"], row["frame"], row["subject"], row["evidence"]) == (0, 0, 0, "face")
    assert 150 < (row["x1"] + row["x2"]) / 2 < 290
    assert 50 < (row["y1"] + row["y2"]) / 2 < 180
    check_ranges(timeline.table)


# --- real recordings ---


@needs_faces
@pytest.mark.parametrize("name", ["bbaf2n", "swiz3n"])
def test_a_talking_face_has_face_and_voice_evidence(predictor: Predictor, shared: Path, name: str) -> None:
    timeline = predictor.predict(shared / "clips" / f"{name}.mpg")
    table = timeline.table
    assert timeline.subjects == [0]
    assert len(table) == 75
    assert table["evidence"].is_in(["both", "face"]).mean() >= 0.95
    assert table["evidence"].is_in(["both", "voice"]).mean() > 0.3
    check_ranges(table)
    assert timeline.info["media"]["width"] == 360
    assert {"decode", "detect", "mesh", "track", "voice", "encode", "fuse", "total"} <= set(timeline.info["seconds"])


@needs_faces
def test_a_cartoon_has_no_face_evidence(predictor: Predictor, shared: Path) -> None:
    timeline = predictor.predict(shared / "clips" / "no_face.mp4")
    assert len(timeline) == 95
    assert timeline.subjects == [0]
    assert timeline.table["x1"].null_count() == 95
    assert set(timeline.table["evidence"]) <= {"voice", "none"}
    check_ranges(timeline.table)


@needs_faces
def test_voice_and_face_can_each_be_excluded(predictor: Predictor, shared: Path) -> None:
    path = shared / "clips" / "bbaf2n.mpg"
    face_only, voice_only = predictor.predict(path, voice=False), predictor.predict(path, face=False)
    assert set(face_only.table["evidence"]) <= {"face", "none"}
    assert set(voice_only.table["evidence"]) <= {"voice", "none"}
    assert voice_only.table["x1"].null_count() == len(voice_only) == len(face_only) == 75
    assert face_only.table["time_s"].equals(voice_only.table["time_s"])


@needs_faces
def test_prediction_is_deterministic(predictor: Predictor, shared: Path) -> None:
    path = shared / "clips" / "lbax4n.mpg"
    assert predictor.predict(path).table.equals(predictor.predict(path).table)


# --- errors ---


def test_excluding_all_modalities_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    silent = clip(tmp_path / "silent.mp4", np.arange(10) / 25)
    with pytest.raises(ValueError, match="leave nothing"):
        predictor.predict(silent, face=False, voice=False)
    with pytest.raises(MediaError, match="has pictures only, which --no-face excludes") as caught:
        predictor.predict(silent, face=False)
    assert (caught.value.follows, caught.value.remedy) == ("Nothing was predicted.", "Omit --no-face.")
    write_video(tmp_path / "sound.mp4", [], times=[], audio=np.zeros(8000, np.float32))
    with pytest.raises(MediaError, match="has sound only, which --no-voice excludes"):
        predictor.predict(tmp_path / "sound.mp4", voice=False)


def test_errors_name_unreadable_media(predictor: Predictor, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.mp4"):
        predictor.predict(tmp_path / "gone.mp4")
    (tmp_path / "text.mp4").write_text("dear diary " * 50)
    with pytest.raises(MediaError, match=r"text\.mp4"):
        predictor.predict(tmp_path / "text.mp4")


def test_missing_networks_suggest_no_face(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_HUB", "")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    path = clip(tmp_path / "v.mp4", np.arange(30) / 25, sound_s=1.2)
    with pytest.raises(ArtefactError, match="mien hub pull") as caught:
        predictor.predict(path)
    assert "--no-face" in str(caught.value)
    assert len(predictor.predict(path, face=False)) == 30


def test_load_returns_a_predictor_of_the_checkpoint(predictor: Predictor) -> None:
    assert isinstance(predictor, ModelPredictor)
    assert isinstance(predictor, Predictor)
    assert (predictor.name, predictor.max_faces) == ("tiny", 4)


def test_an_unknown_model_is_refused_by_load(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="starterr"):
        load("starterr")


def test_a_damaged_model_is_refused_by_the_first_prediction(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "damaged")
    weights = tmp_path / "damaged" / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\1\2\3")
    script_faces(monkeypatch, {0: range(10)})
    with pytest.raises(ConfigError, match="sha256 differs"):
        load(tmp_path / "damaged").predict(clip(tmp_path / "v.mp4", np.arange(10) / 25))


def test_an_unknown_encoder_is_refused_before_decoding(
    folder: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load(folder)
    features = {name: f.model_dump() for name, f in loaded.recipe.features.items()}
    features["face"]["encoder"] = "beit"
    loaded.recipe = config.changed(loaded.recipe, features=features)
    monkeypatch.setattr("mien.media.video.frames", None)  # refused before anything is decoded
    with pytest.raises(ConfigError, match="There is no encoder 'beit'"):
        ModelPredictor(loaded).predict(clip(tmp_path / "v.mp4", np.arange(10) / 25))


def test_a_checkpoint_of_another_feature_width_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = checkpoint.load(folder)
    features = {name: f.model_dump() for name, f in loaded.recipe.features.items()}
    features["voice"]["dim"] = 7
    loaded.recipe = config.changed(loaded.recipe, features=features)
    script_faces(monkeypatch, {0: range(10)})
    with pytest.raises(ConfigError, match="trained on 7 voice features"):
        ModelPredictor(loaded).predict(clip(tmp_path / "v.mp4", np.arange(10) / 25, sound_s=0.4))


class FaceOnlyModel:
    """A checkpoint that uses the face alone."""

    labels = mien.labels.EXPRESSIONS
    features: ClassVar = {"face": InputFeature(face_encoder.NAME, face_encoder.DIM)}
    settings = InferenceSettings(list(labels), features, 1.0, 10.0, 1.0, False, 0.0, 1.0)

    def predict_streams(
        self, streams: dict[str, Stream], start_s: float, stop_s: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert set(streams) == {"face"}
        return np.array([0.5]), np.full((1, 8), 0.125), np.zeros((1, 2))


def test_a_face_only_checkpoint_has_no_voice_evidence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_faces(monkeypatch, {0: range(10, 40)})
    table = (
        ModelPredictor(FaceOnlyModel(), name="face-only")
        .predict(clip(tmp_path / "v.mp4", np.arange(40) / 25, sound_s=1.6))
        .table
    )
    assert set(table["evidence"]) == {"face", "none"}


def test_a_face_only_checkpoint_refuses_sound(folder: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "sound.mp4", [], times=[], audio=np.zeros(8000, np.float32))
    with pytest.raises(
        MediaError, match=r"has sound only, and the model 'face-only' reads faces only\nNothing was predicted"
    ):
        ModelPredictor(FaceOnlyModel(), name="face-only").predict(tmp_path / "sound.mp4")


def test_an_unusable_device_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_faces(monkeypatch, {0: range(10)})
    with pytest.raises(ConfigError, match=r"'abacus' cannot be used: .*\nNothing was predicted.\nUse --device cpu"):
        load(folder, device="abacus").predict(clip(tmp_path / "v.mp4", np.arange(10) / 25))


# --- parts ---


def test_prefetch_keeps_the_order_and_its_depth() -> None:
    produced: list[int] = []

    def items() -> Iterator[int]:
        for i in range(50):
            produced.append(i)
            yield i

    prefetch = video_pass.Prefetch(items(), lambda _: 3)
    consumed: list[int] = []
    for item in prefetch:
        time.sleep(0.002)
        consumed.append(item)
        assert len(produced) - len(consumed) <= 3 + 2, "one is in production and one waits for the queue"
    assert consumed == list(range(50))


def test_prefetch_raises_errors_in_their_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise MediaError("the third is broken")

    prefetch = iter(video_pass.Prefetch(items(), lambda _: 8))
    assert [next(prefetch), next(prefetch)] == [1, 2]
    with pytest.raises(MediaError, match="third is broken"):
        next(prefetch)


def test_prefetch_ends_its_thread_when_closed_early() -> None:
    def forever() -> Iterator[int]:
        while True:
            yield 0

    prefetch = video_pass.Prefetch(forever(), lambda _: 2)
    next(iter(prefetch))
    prefetch.close()
    assert not any(t.name == "mien-ahead" and t.is_alive() for t in threading.enumerate())


def test_prefetch_depth_is_smaller_for_large_frames() -> None:
    def room(*shape: int) -> int:
        return video_pass._prefetch_depth(Frame(0, 0.0, np.broadcast_to(np.uint8(0), shape)))

    assert room(360, 640, 3) == 8
    assert room(1080, 1920, 3) == 5
    assert room(4320, 7680, 3) == 1


def test_speech_is_that_of_the_nearest_voice_sample() -> None:
    stream = Stream(np.zeros((4, 1)), np.array([0.0, 0.1, 0.2, 0.3]), np.array([True, False, False, True]))
    times = np.array([0.0, 0.04, 0.06, 0.26, 0.35, 0.45])
    assert speech_at(stream, times).tolist() == [True, True, False, True, True, False]
    assert not speech_at(None, times).any()


class OwnClassesModel(FaceOnlyModel):
    """A face-only checkpoint with classes of its own, and fixed probabilities."""

    labels: ClassVar = ["Müde", "wach", "sehr wach"]
    settings = InferenceSettings(labels, FaceOnlyModel.features, 1.0, 10.0, 1.0, False, 0.0, 1.0)

    def predict_streams(
        self, streams: dict[str, Stream], start_s: float, stop_s: float
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.array([0.5]), np.array([[0.2, 0.1, 0.7]]), np.zeros((1, 2))


def test_a_timeline_has_the_classes_of_its_checkpoint_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_faces(monkeypatch, {0: range(40)})
    timeline = ModelPredictor(OwnClassesModel()).predict(clip(tmp_path / "v.mp4", np.arange(40) / 25))
    assert timeline.classes == ("Müde", "wach", "sehr wach")
    columns = [name for name in timeline.table.columns if name.startswith("p_")]
    assert columns == ["p_müde", "p_wach", "p_sehr_wach"]
    assert timeline.table.select(columns).unique().row(0) == pytest.approx((0.2, 0.1, 0.7))
    assert timeline.table["expression"].unique().to_list() == ["sehr wach"]
    for ending in ("csv", "jsonl", "parquet"):
        back = mien.Timeline.read(timeline.write(tmp_path / f"t.{ending}"), classes=timeline.classes)
        assert (back.classes, back.table.columns) == (timeline.classes, timeline.table.columns)


class SameColumnModel(OwnClassesModel):
    labels: ClassVar = ["Happy", "sad", "happy"]


def test_classes_with_the_same_column_are_refused_before_anything_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = "'Happy' and 'happy' share the column p_happy"
    with pytest.raises(ConfigError, match=message):
        ModelPredictor(SameColumnModel())
    script_faces(monkeypatch, {0: range(40)})
    late = ModelPredictor(SameColumnModel, features=SameColumnModel.features)
    with pytest.raises(ConfigError, match=message):
        late.predict(clip(tmp_path / "v.mp4", np.arange(40) / 25))


def test_progress_is_reported_with_the_duration(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_faces(monkeypatch, {})
    calls: list[tuple[float, float | None]] = []
    predictor.predict(
        clip(tmp_path / "v.mp4", np.arange(50) / 25), progress=lambda done, total: calls.append((done, total))
    )
    assert calls
    assert all(0 <= done <= 2 for done, _ in calls)
    assert calls[0][1] == pytest.approx(2, abs=0.1)


# --- public names ---


def test_public_names_are_importable() -> None:
    assert mien.load is load
    assert mien.Predictor is Predictor
    assert mien.Timeline.__name__ == "Timeline"
    assert mien.__version__.count(".") >= 2
    assert callable(mien.predict)
    assert isinstance(mien.recipes(), list)
    assert set(mien.__all__) <= set(dir(mien))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = mien.nonsense


def test_predict_in_one_call(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script_faces(monkeypatch, {0: range(10)})
    timeline = mien.predict(clip(tmp_path / "v.mp4", np.arange(10) / 25), model=folder, voice=False)
    assert len(timeline) == 10
    assert timeline.info["model"] == "tiny"


def test_an_error_in_the_sound_stops_the_pictures(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def broken(*_: object, **__: object) -> None:
        has_failed.set()
        raise MediaError("the sound is broken at 3 s")

    script_faces(monkeypatch, {0: range(10_000)})
    monkeypatch.setattr("mien.media.audio.blocks", broken)
    reported: list[float] = []
    has_failed = threading.Event()

    def slowly(done_s: float, _: float | None) -> None:
        reported.append(done_s)
        has_failed.wait(60)
        time.sleep(0.01)

    with pytest.raises(MediaError, match="the sound is broken"):
        predictor.predict(clip(tmp_path / "v.mp4", np.arange(500) / 25, sound_s=20), progress=slowly)
    assert max(reported, default=0) < 19, "the remaining pictures are not decoded"


def test_progress_is_reported_for_sound_alone(predictor: Predictor, tmp_path: Path) -> None:
    write_video(tmp_path / "s.mp4", [], times=[], audio=np.zeros(16_000 * 25, np.float32))
    reported: list[float] = []
    timeline = predictor.predict(tmp_path / "s.mp4", progress=lambda done, _: reported.append(done))
    assert reported
    assert len(timeline) == 250


def test_a_device_that_is_not_here_is_refused_by_load(folder: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="the device 'cuda' cannot be used"):
        load(folder, device="cuda")
