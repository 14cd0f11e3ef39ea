"""Extraction: stored streams equal what the encoders return."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile

from mien.datasets.index import build_index
from mien.datasets.stored_recordings import load_recordings
from mien.encoders import face_geometry
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.errors import ConfigError
from mien.extract import ExtractionProgress, extract
from mien.faces.tracker import FaceTracker
from mien.labels import EMODB_LETTERS
from mien.media.audio import blocks
from mien.media.video import frames
from mien.store import FeatureStore, ProvenanceError
from tests.extract import toy_encoders
from tests.extract.media_files import (
    COLOUR,
    LOUD,
    LOUDER,
    SCENE,
    SHAPE,
    SquareTracker,
    draw_squares,
    read_stream,
    write_affwild2_labels,
    write_clip,
    write_tones,
)


def test_one_pass_feeds_every_encoder(tmp_path: Path, squares: type[SquareTracker]) -> None:
    pictures = [draw_squares((40, (60 + 5 * i, 20, 0))) if i != 7 else draw_squares() for i in range(25)]
    write_clip(tmp_path / "m/a.mp4", pictures, sound=0.25)
    report = extract(
        build_index("folder", tmp_path / "m"),
        [COLOUR, SHAPE, LOUD, SCENE],
        tmp_path / "s",
        workers=0,
        dtype="float32",
    )
    assert (report.made, report.there, report.clips, report.failures) == (4, 0, 1, [])
    assert squares.count == 1
    decoded = list(frames(tmp_path / "m/a.mp4"))
    has_face = np.arange(25) != 7
    values, times, valid = read_stream(tmp_path / "s", "colour", "a")
    np.testing.assert_array_equal(times, [f.time_s for f in decoded])
    np.testing.assert_array_equal(valid, has_face)
    expected = np.stack([f.image[24:40, 48:64].reshape(-1, 3).mean(0) for f in decoded])
    np.testing.assert_allclose(values[has_face], expected[has_face], atol=1e-4)
    values, times, valid = read_stream(tmp_path / "s", "shape", "a")
    np.testing.assert_array_equal(valid, has_face)
    np.testing.assert_allclose(values[has_face], 0, atol=1.0)  # the square does not move, and the mean is subtracted
    values, times, _ = read_stream(tmp_path / "s", "loud", "a")
    np.testing.assert_allclose(times, (np.arange(25) + 0.5) / 10)
    np.testing.assert_allclose(values[3:-3, 0], 0.25, atol=0.01)
    values, times, _ = read_stream(tmp_path / "s", "scene", "a")
    # segments of 1 s every 0.5 s over 2.5 s, 4 pictures each
    np.testing.assert_allclose(times, [0.5, 1.0, 1.5, 1.95])
    assert values[:, 0].tolist() == [4, 4, 4, 4]


def test_a_batch_holds_crops_of_one_recording(tmp_path: Path, squares: type[SquareTracker]) -> None:
    for clip in "abc":
        write_clip(tmp_path / f"m/{clip}.mp4", [draw_squares((40, (100, 10 * ord(clip) % 97, 0)))] * 10)
    toy_encoders.BATCH_SIZES.clear()
    progress: list[ExtractionProgress] = []
    index = build_index("folder", tmp_path / "m")
    report = extract(index, [COLOUR], tmp_path / "s", workers=0, progress=progress.append)
    assert report.made == 3
    assert toy_encoders.BATCH_SIZES == [8, 2, 8, 2, 8, 2]
    for clip in "abc":
        values, _, valid = read_stream(tmp_path / "s", "colour", clip)
        assert valid.all()
        np.testing.assert_allclose(values[:, 1], 10 * ord(clip) % 97, atol=3)
    assert [p.clips for p in progress] == [1, 2, 3]
    assert progress[-1].media_s == pytest.approx(progress[-1].media_total_s) == pytest.approx(3.0, abs=0.01)


def test_long_clips_keep_all_rows_in_order(tmp_path: Path, squares: type[SquareTracker]) -> None:
    """The clip has more rows than any buffer holds, and frames without a face."""
    has_face = np.random.default_rng(0).random(1200) > 0.2
    pictures = [draw_squares((40, (60 + i % 190, i // 10, 0))) if s else draw_squares() for i, s in enumerate(has_face)]
    write_clip(tmp_path / "m/a.mp4", pictures, Fraction(30))
    extract(build_index("folder", tmp_path / "m"), [COLOUR, SHAPE], tmp_path / "s", workers=0)
    values, _, valid = read_stream(tmp_path / "s", "colour", "a")
    np.testing.assert_array_equal(valid, has_face)
    np.testing.assert_allclose(values[has_face, 0], (60 + np.arange(1200) % 190)[has_face], atol=6)
    np.testing.assert_array_equal(read_stream(tmp_path / "s", "shape", "a")[2], has_face)


def test_two_clips_of_one_recording_follow_their_side(tmp_path: Path, squares: type[SquareTracker]) -> None:
    """The right subject (blue) is alone in the last frames, in the left half."""
    left, right = (200, 0, 0), (100, 0, 200)
    pictures = [draw_squares((8, left), (80, right))] * 6 + [draw_squares((20, right))] * 4
    write_clip(tmp_path / "r/batch1/two.mp4", pictures, sound=0.5)
    index = write_affwild2_labels(tmp_path / "r", ["two_left", "two_right"], 10)
    report = extract(index, [COLOUR, LOUD], tmp_path / "s", workers=0)
    assert (report.made, squares.count) == (4, 1)
    values, _, valid = read_stream(tmp_path / "s", "colour", "two_left")
    assert valid.tolist() == [True] * 6 + [False] * 4
    np.testing.assert_allclose(values[:6, 0], 200, atol=4)
    values, _, valid = read_stream(tmp_path / "s", "colour", "two_right")
    assert valid.all()
    np.testing.assert_allclose(values[:, 0], 100, atol=4)
    np.testing.assert_array_equal(
        read_stream(tmp_path / "s", "loud", "two_left")[0], read_stream(tmp_path / "s", "loud", "two_right")[0]
    )


def test_crops_of_the_corpus_are_encoded_instead_of_video(tmp_path: Path) -> None:
    write_clip(tmp_path / "r/batch1/a.mp4", [draw_squares()] * 5)
    folder = tmp_path / "r/cropped_aligned/a"
    folder.mkdir(parents=True)
    for number in (1, 2, 4, 6):
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), np.full((112, 112, 3), (0, 0, 30 * number), np.uint8))
    (folder / "00004.jpg").write_bytes(b"broken")
    index = write_affwild2_labels(tmp_path / "r", ["a"], 6)
    report = extract(index, [COLOUR], tmp_path / "s", workers=0, faces="crops")
    assert report.failures == []
    values, times, valid = read_stream(tmp_path / "s", "colour", "a")
    assert valid.tolist() == [True, True, False, False, False, True]  # no crop, an unreadable one, no crop
    np.testing.assert_allclose(values[valid, 0], [30, 60, 180], atol=2)
    np.testing.assert_allclose(times, np.arange(6) / 10, atol=1e-6)  # the sixth lies beyond the five frames
    reader = FeatureStore(tmp_path / "s").open("colour")["a"]
    assert reader.provenance["faces"] == "crops"
    assert reader.notes == ["1 crops cannot be read, such as 00004.jpg"]
    with pytest.raises(ProvenanceError, match="faces: the file has 'crops', 'video' is requested"):
        extract(index, [COLOUR], tmp_path / "s", workers=0)
    with pytest.raises(ConfigError, match=r"'shape' needs whole frames .*\n.*\nUse --faces video"):
        extract(index, [SHAPE], tmp_path / "s", workers=0, faces="crops")


def test_a_stream_without_sound_or_pictures_is_stored_empty_and_not_repeated(tmp_path: Path) -> None:
    write_clip(tmp_path / "m/silent.mp4", [draw_squares()] * 3)
    write_tones(tmp_path / "m", {"blind": 0.5})
    index = build_index("folder", tmp_path / "m")
    assert extract(index, [LOUD, SCENE], tmp_path / "s", workers=0).made == 4
    silent, blind = (
        FeatureStore(tmp_path / "s").open("loud")["silent"],
        FeatureStore(tmp_path / "s").open("scene")["blind"],
    )
    assert (silent.rows, silent.dim, silent.notes) == (0, 1, ["no sound"])
    assert (blind.rows, blind.notes) == (0, ["no pictures"])
    assert extract(index, [LOUD, SCENE], tmp_path / "s", workers=0).made == 0


def test_two_voice_encoders_get_the_same_sound(tmp_path: Path) -> None:
    write_tones(tmp_path / "m", {"a": 0.5}, seconds=25)
    extract(build_index("folder", tmp_path / "m"), [LOUD, LOUDER], tmp_path / "s", workers=0)
    np.testing.assert_array_equal(
        read_stream(tmp_path / "s", "loud", "a")[0], read_stream(tmp_path / "s", "louder", "a")[0]
    )
    assert len(read_stream(tmp_path / "s", "louder", "a")[0]) == 250


def test_starter_encoders_store_what_they_return_on_a_real_clip(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "m").mkdir()
    clip = tmp_path / "m/bbaf2n.mpg"
    clip.write_bytes((shared / "clips/bbaf2n.mpg").read_bytes())
    index = build_index("folder", tmp_path / "m")
    report = extract(index, ["face-geometry", "voice-prosody"], tmp_path / "s", workers=0, dtype="float32")
    assert report.failures == []
    tracker, meshes, times = FaceTracker(), [], []
    for frame in frames(clip):
        faces = tracker(frame)
        meshes.append(faces[0].mesh if faces else np.full((468, 3), np.nan))
        times.append(frame.time_s)
    expected = face_geometry.encode(np.stack(meshes), np.array(times))
    values, stream_times, valid = read_stream(tmp_path / "s", "face-geometry", "bbaf2n")
    assert len(stream_times) == 75
    assert valid.mean() >= 0.95
    np.testing.assert_array_equal(valid, expected.valid)
    np.testing.assert_allclose(stream_times, expected.times)
    np.testing.assert_allclose(values, expected.values, atol=1e-5)
    expected_voice = ProsodyExtractor()(blocks(clip))
    values, stream_times, valid = read_stream(tmp_path / "s", "voice-prosody", "bbaf2n")
    np.testing.assert_array_equal(valid, expected_voice.valid)
    np.testing.assert_array_equal(values, expected_voice.values)
    stored = FeatureStore(tmp_path / "s").open("voice-prosody")["bbaf2n"]
    assert stored.provenance == dict(expected_voice.provenance)


def test_emodb_is_indexed_and_encoded(tmp_path: Path, shared: Path) -> None:
    names = sorted((shared / "emodb").glob("*.wav"))[::60]
    for path in names:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    index = build_index("emodb", tmp_path)
    assert [e.id for e in index.entries] == [p.stem for p in names]
    for clip in index.clips():
        assert clip.subject == clip.id[:2]
        assert clip.labels is not None
        assert set(clip.labels.expression) == {EMODB_LETTERS[clip.id[5]]}
        seconds = soundfile.info(tmp_path / f"{clip.id}.wav").duration
        assert clip.labels.times[-1] == pytest.approx(seconds, abs=0.06)
    report = extract(index, ["voice-prosody", "face-geometry"], tmp_path / "s", workers=0)
    assert (report.made, report.failures) == (2 * len(names), [])
    assert FeatureStore(tmp_path / "s").open("face-geometry")[names[0].stem].rows == 0
    assert FeatureStore(tmp_path / "s").open("voice-prosody")[names[0].stem].valid_rows > 10


def test_stored_features_are_loaded_as_recordings(tmp_path: Path) -> None:
    media, store = write_tones(tmp_path / "m", {"a": 0.1, "b": 0.2, "c": 0.3}), tmp_path / "s"
    write_clip(media / "silent.mp4", [draw_squares()] * 12)
    table = "media,split,expression\na.wav,train,Anger\nb.wav,train,Fear\nc.wav,val,Fear\nsilent.mp4,train,Fear\n"
    (media / "labels.csv").write_text(table)
    index = build_index("folder", media)
    encoders = {"voice": "loud", "behaviour": "scene"}
    extract(index, [LOUD, SCENE], store, workers=0)
    train = load_recordings(index, store, encoders, split="train")
    assert [(r.clip.id, sorted(r.streams)) for r in train] == [
        ("a", ["voice"]),
        ("b", ["voice"]),
        ("silent", ["behaviour"]),
    ]
    assert train[0].clip.labels is not None
    assert train[0].streams["voice"].values.dtype == np.float16
    loaded = load_recordings(index, store, encoders, split="val", mapped=False)[0].streams["voice"]
    assert loaded.values.dtype == np.float32
    np.testing.assert_allclose(loaded.values, 0.3, atol=1e-3)
    FeatureStore(store).path("loud", "b").unlink()
    with pytest.raises(
        ConfigError,
        match=r"1 of 4 clips have no loud features, such as 'b'\nNothing was started\.\nRun `mien extract INDEX",
    ):
        load_recordings(index, store, encoders)
    assert [r.clip.id for r in load_recordings(index, store, {"voice": "loud"}, partial=True)] == ["a", "c", "silent"]
