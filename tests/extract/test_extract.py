"""Extraction: what is stored is what the encoders said, once, whatever happens on the way."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.datasets.index import Index, index
from mien.datasets.stored_recordings import recordings
from mien.encode.audio_pass import Spool
from mien.encode.segments import Segmenter
from mien.encode.subject_selection import SubjectSelector
from mien.encoders import face_geometry
from mien.encoders.protocol import Crop, Segments
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.errors import ConfigError, MediaError, OutputError
from mien.extract import ExtractionProgress, extract, failures
from mien.faces.tracker import FaceTracker
from mien.labels import EMODB_LETTERS
from mien.media.audio import blocks
from mien.media.video import frames, write_video
from mien.records import Face, Frame
from mien.store import FeatureStore, ProvenanceError

TOYS = '''
"""Encoders whose answers can be worked out by hand. Their source says how they misbehave."""
import os, resource, signal, time
import numpy as np
from mien.encoders import face_geometry as face
from mien.encoders.protocol import Crop, Segments
from mien.encoders.voice_prosody import ProsodyExtractor
from mien.records import Stream

LOG = []

class Toy:
    rate_hz, receptive_field_s, licence = None, 0.0, "none"
    def __init__(self, source=None, *, device="cpu"):
        self.source = source
        self.provenance = {"network": self.name, "version": source if source in ("1", "2") else "1"}

class Colour(Toy):
    name, modality, dim, crop, batch_size = "colour", "face", 3, Crop(16), 8
    def encode_crops(self, crops):
        assert crops.dtype == np.uint8 and crops.shape[1:] == (16, 16, 3)
        LOG.append(len(crops))
        values = crops.reshape(len(crops), -1, 3).mean(1)
        if self.source == "picky" and (values[:, 0] > 200).any():
            raise ValueError("too red")
        return values

class Shape(Toy):
    name, modality, dim = "shape", "face", 2
    def measure(self, meshes):
        return meshes[:, 0, :2].astype(np.float32)
    def encode_measures(self, measures, times, valid):
        return Stream(measures - measures[valid].mean(0), times, valid)

class Loud(Toy):
    name, modality, dim, rate_hz = "loud", "voice", 1, 10.0
    def encode_audio(self, blocks):
        if self.source == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        for start, x in blocks:
            if self.source == "slow":
                time.sleep(0.15)
            if self.source == "deadly" and abs(x).max() > 0.9:
                os.kill(os.getpid(), signal.SIGKILL)
            n = len(x) // 1600
            values = np.sqrt((x[: n * 1600].reshape(n, 1600) ** 2).mean(1))[:, None]
            if self.source == "nan" and abs(x).max() > 0.9:
                values[0] = np.nan
            yield Stream(values, start + (np.arange(n) + 0.5) / 10, np.ones(n, bool))

class Louder(Loud):
    name = "louder"

class Scene(Toy):
    name, modality, dim, batch_size = "scene", "behaviour", 2, 3
    segments = Segments(length_s=1.0, hop_s=0.5, rate_hz=4.0, pictures=4, max_side=24)
    def encode_segments(self, segments):
        assert all(max(p.shape) <= 24 for s in segments for p in s)
        return np.array([[len(s), np.mean(s[0])] for s in segments], np.float32)

class Mute:
    name = "mute"
    def __init__(self, source=None, *, device="cpu"): pass

def nothing(source=None, *, device="cpu"):
    toy = Loud()
    toy.__class__ = type("Nothing", (Toy,), {"name": "nothing", "modality": "face", "dim": 1})
    return toy
'''
#: A process needs about a second of a free core to start, and much more on a machine that is busy.
STARTS_PROCESSES = pytest.mark.timeout(400)
COLOUR, SHAPE, LOUD, SCENE = "toys:Colour", "toys:Shape", "toys:Loud", "toys:Scene"


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module above, importable here and, through sys.path, in worker processes."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "toys.py").write_text(TOYS)
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("toys")
    del sys.modules["toys"]


class SquareReader:
    """Stands for FaceReader: a face is a square whose red is above 50; people are told apart by their
    blue."""

    made = 0

    def __init__(self, max_faces: int, threads: int) -> None:
        type(self).made += 1

    def __call__(self, frame: Frame) -> list[Face]:
        found = []
        count, labels, stats, _ = cv2.connectedComponentsWithStats((frame.image[..., 0] > 50).astype(np.uint8))
        for i in range(1, count):
            x, y, w, h, area = stats[i]
            if area < 60:
                continue
            blue = int(frame.image[labels == i][:, 2].mean() > 128)
            mesh = np.full((468, 3), [x + w / 2, y + h / 2, 0.0])
            found.append(Face(blue, np.array([x, y, x + w, y + h], float), mesh, 1.0))
        return found


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> type[SquareReader]:
    def cut(image: np.ndarray, mesh: np.ndarray, crop: Crop) -> np.ndarray:
        (x, y), size = mesh[0, :2].astype(int), crop.size
        return image[y - size // 2 : y + size // 2, x - size // 2 : x + size // 2].copy()

    monkeypatch.setattr("mien.encode.corpus_pass._reader", SquareReader)
    monkeypatch.setattr("mien.encode.corpus_pass._aligned", cut)
    SquareReader.made = 0
    return SquareReader


def paint(*people: tuple[int, tuple[int, int, int]]) -> np.ndarray:
    """A picture of 64×128 with a 32-pixel square at each x, in a colour."""
    image = np.zeros((64, 128, 3), np.uint8)
    for x, colour in people:
        image[16:48, x : x + 32] = colour
    return image


def film(path: Path, pictures: list[np.ndarray], rate: Fraction = Fraction(10), sound: float | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = None if sound is None else np.full(int(16000 * len(pictures) / rate), sound, np.float32)
    write_video(path, pictures, rate=rate, audio=tone, crf=4)


def tones(folder: Path, levels: dict[str, float], seconds: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, level in levels.items():
        soundfile.write(folder / f"{name}.wav", np.full(int(16000 * seconds), level), 16000, subtype="FLOAT")
    return folder


def rows(store: Path, encoder: str, clip: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stream = FeatureStore(store).open(encoder)[clip].stream()
    return stream.values, stream.times, stream.valid


# -- what is stored --------------------------------------------------------------------------------


def test_one_pass_feeds_every_encoder(tmp_path: Path, toys: ModuleType, squares: type[SquareReader]) -> None:
    pictures = [paint((40, (60 + 5 * i, 20, 0))) if i != 7 else paint() for i in range(25)]
    film(tmp_path / "m/a.mp4", pictures, sound=0.25)
    report = extract(
        index("folder", tmp_path / "m"),
        [COLOUR, SHAPE, LOUD, SCENE],
        tmp_path / "s",
        workers=0,
        dtype="float32",
    )
    assert (report.made, report.there, report.clips, report.failures) == (4, 0, 1, [])
    assert squares.made == 1
    decoded = list(frames(tmp_path / "m/a.mp4"))
    seen = np.arange(25) != 7
    values, times, valid = rows(tmp_path / "s", "colour", "a")
    np.testing.assert_array_equal(times, [f.time_s for f in decoded])
    np.testing.assert_array_equal(valid, seen)
    expected = np.stack([f.image[24:40, 48:64].reshape(-1, 3).mean(0) for f in decoded])
    np.testing.assert_allclose(values[seen], expected[seen], atol=1e-4)
    values, times, valid = rows(tmp_path / "s", "shape", "a")
    np.testing.assert_array_equal(valid, seen)
    np.testing.assert_allclose(values[seen], 0, atol=1.0)  # it never moves, and its own mean is taken off
    values, times, _ = rows(tmp_path / "s", "loud", "a")
    np.testing.assert_allclose(times, (np.arange(25) + 0.5) / 10)
    np.testing.assert_allclose(values[3:-3, 0], 0.25, atol=0.01)
    values, times, _ = rows(tmp_path / "s", "scene", "a")
    # segments of 1 s every 0.5 s over 2.5 s, 4 pictures each
    np.testing.assert_allclose(times, [0.5, 1.0, 1.5, 1.95])
    assert values[:, 0].tolist() == [4, 4, 4, 4]


def test_batches_are_filled_across_clips(tmp_path: Path, toys: ModuleType, squares: type[SquareReader]) -> None:
    for clip in "abc":
        film(tmp_path / f"m/{clip}.mp4", [paint((40, (100, 10 * ord(clip) % 97, 0)))] * 5)
    progress: list[ExtractionProgress] = []
    found = index("folder", tmp_path / "m")
    report = extract(found, [COLOUR], tmp_path / "s", workers=0, progress=progress.append)
    assert report.made == 3
    assert toys.LOG == [8, 7]
    for clip in "abc":
        values, _, valid = rows(tmp_path / "s", "colour", clip)
        assert valid.all()
        np.testing.assert_allclose(values[:, 1], 10 * ord(clip) % 97, atol=3)
    assert [p.clips for p in progress] == [1, 2, 3]
    assert progress[-1].media_s == pytest.approx(progress[-1].media_total_s) == pytest.approx(1.5, abs=0.01)


def test_long_clips_are_written_as_they_come(tmp_path: Path, toys: ModuleType, squares: type[SquareReader]) -> None:
    """More rows than any buffer holds, with gaps, in the right order."""
    seen = np.random.default_rng(0).random(1200) > 0.2
    pictures = [paint((40, (60 + i % 190, i // 10, 0))) if s else paint() for i, s in enumerate(seen)]
    film(tmp_path / "m/a.mp4", pictures, Fraction(30))
    extract(index("folder", tmp_path / "m"), [COLOUR, SHAPE], tmp_path / "s", workers=0)
    values, _, valid = rows(tmp_path / "s", "colour", "a")
    np.testing.assert_array_equal(valid, seen)
    np.testing.assert_allclose(values[seen, 0], (60 + np.arange(1200) % 190)[seen], atol=6)
    np.testing.assert_array_equal(rows(tmp_path / "s", "shape", "a")[2], seen)


def affwild(root: Path, clips: list[str], frames_: int) -> Index:
    folder = root / "EXPR/Train_Set"
    folder.mkdir(parents=True)
    header = "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other\n"
    for clip in clips:
        (folder / f"{clip}.txt").write_text(header + "0\n" * frames_)
    return index("aff-wild2", root)


def test_two_subjects_of_one_recording(tmp_path: Path, toys: ModuleType, squares: type[SquareReader]) -> None:
    """Left (no blue) and right (blue); the right one is alone for a while and then on the left half."""
    left, right = (200, 0, 0), (100, 0, 200)
    pictures = [paint((8, left), (80, right))] * 6 + [paint((20, right))] * 4
    film(tmp_path / "r/batch1/two.mp4", pictures, sound=0.5)
    found = affwild(tmp_path / "r", ["two_left", "two_right"], 10)
    report = extract(found, [COLOUR, LOUD], tmp_path / "s", workers=0)
    assert (report.made, squares.made) == (4, 1)
    values, _, valid = rows(tmp_path / "s", "colour", "two_left")
    assert valid.tolist() == [True] * 6 + [False] * 4
    np.testing.assert_allclose(values[:6, 0], 200, atol=4)
    values, _, valid = rows(tmp_path / "s", "colour", "two_right")
    assert valid.all()
    np.testing.assert_allclose(values[:, 0], 100, atol=4)
    np.testing.assert_array_equal(
        rows(tmp_path / "s", "loud", "two_left")[0], rows(tmp_path / "s", "loud", "two_right")[0]
    )


def test_ready_crops_instead_of_video(tmp_path: Path, toys: ModuleType) -> None:
    film(tmp_path / "r/batch1/a.mp4", [paint()] * 5)
    folder = tmp_path / "r/cropped_aligned/a"
    folder.mkdir(parents=True)
    for number in (1, 2, 4, 6):
        cv2.imwrite(str(folder / f"{number:05d}.jpg"), np.full((112, 112, 3), (0, 0, 30 * number), np.uint8))
    (folder / "00004.jpg").write_bytes(b"broken")
    found = affwild(tmp_path / "r", ["a"], 6)
    report = extract(found, [COLOUR], tmp_path / "s", workers=0, faces="crops")
    assert report.failures == []
    values, times, valid = rows(tmp_path / "s", "colour", "a")
    assert valid.tolist() == [True, True, False, False, False, True]  # no crop, an unreadable one, no crop
    np.testing.assert_allclose(values[valid, 0], [30, 60, 180], atol=2)
    np.testing.assert_allclose(times, np.arange(6) / 10, atol=1e-6)  # the sixth lies beyond the five frames
    reader = FeatureStore(tmp_path / "s").open("colour")["a"]
    assert reader.provenance["faces"] == "crops"
    assert reader.notes == ["1 crops cannot be read, such as 00004.jpg"]
    with pytest.raises(ProvenanceError, match="faces: the file has 'crops', asked for is 'video'"):
        extract(found, [COLOUR], tmp_path / "s", workers=0)
    with pytest.raises(ConfigError, match="shape reads a mesh from whole pictures, which crops are not"):
        extract(found, [SHAPE], tmp_path / "s", workers=0, faces="crops")


def test_crops_that_changed_are_a_failure(tmp_path: Path, toys: ModuleType) -> None:
    film(tmp_path / "r/batch1/a.mp4", [paint()] * 3)
    folder = tmp_path / "r/cropped_aligned/a"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "00001.jpg"), np.zeros((112, 112, 3), np.uint8))
    found = affwild(tmp_path / "r", ["a"], 3)
    (folder / "00002.jpg").write_bytes((folder / "00001.jpg").read_bytes())
    report = extract(found, [COLOUR], tmp_path / "s", workers=0, faces="crops")
    assert f"{folder} changed since it was indexed" in report.failures[0].what


def test_without_sound_or_pictures_a_stream_is_empty_and_not_tried_again(tmp_path: Path, toys: ModuleType) -> None:
    film(tmp_path / "m/silent.mp4", [paint()] * 3)
    tones(tmp_path / "m", {"blind": 0.5})
    found = index("folder", tmp_path / "m")
    assert extract(found, [LOUD, SCENE], tmp_path / "s", workers=0).made == 4
    silent, blind = (
        FeatureStore(tmp_path / "s").open("loud")["silent"],
        FeatureStore(tmp_path / "s").open("scene")["blind"],
    )
    assert (silent.rows, silent.dim, silent.notes) == (0, 1, ["no sound"])
    assert (blind.rows, blind.notes) == (0, ["no pictures"])
    assert extract(found, [LOUD, SCENE], tmp_path / "s", workers=0).made == 0


def test_two_voices_hear_the_same(tmp_path: Path, toys: ModuleType) -> None:
    tones(tmp_path / "m", {"a": 0.5}, seconds=25)
    extract(index("folder", tmp_path / "m"), [LOUD, "toys:Louder"], tmp_path / "s", workers=0)
    np.testing.assert_array_equal(rows(tmp_path / "s", "loud", "a")[0], rows(tmp_path / "s", "louder", "a")[0])
    assert len(rows(tmp_path / "s", "louder", "a")[0]) == 250


# -- the starter's encoders on real people


def test_the_starter_on_a_talking_face(tmp_path: Path, shared: Path) -> None:
    """What is stored is what the encoders say when they are called by hand."""
    (tmp_path / "m").mkdir()
    clip = tmp_path / "m/bbaf2n.mpg"
    clip.write_bytes((shared / "clips/bbaf2n.mpg").read_bytes())
    found = index("folder", tmp_path / "m")
    report = extract(found, ["face-geometry", "voice-prosody"], tmp_path / "s", workers=0, dtype="float32")
    assert report.failures == []
    reader, meshes, times = FaceTracker(), [], []
    for frame in frames(clip):
        faces = reader(frame)
        meshes.append(faces[0].mesh if faces else np.full((468, 3), np.nan))
        times.append(frame.time_s)
    by_hand = face_geometry.encode(np.stack(meshes), np.array(times))
    values, at, valid = rows(tmp_path / "s", "face-geometry", "bbaf2n")
    assert len(at) == 75
    assert valid.mean() >= 0.95
    np.testing.assert_array_equal(valid, by_hand.valid)
    np.testing.assert_allclose(at, by_hand.times)
    np.testing.assert_allclose(values, by_hand.values, atol=1e-5)
    heard = ProsodyExtractor()(blocks(clip))
    values, at, valid = rows(tmp_path / "s", "voice-prosody", "bbaf2n")
    np.testing.assert_array_equal(valid, heard.valid)
    np.testing.assert_array_equal(values, heard.values)
    stored = FeatureStore(tmp_path / "s").open("voice-prosody")["bbaf2n"]
    assert stored.provenance == dict(heard.provenance)


def test_emodb_is_indexed_and_heard(tmp_path: Path, shared: Path) -> None:
    names = sorted((shared / "emodb").glob("*.wav"))[::60]
    for path in names:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = index("emodb", tmp_path)
    assert [e.id for e in found.entries] == [p.stem for p in names]
    for clip in found.clips():
        assert clip.subject == clip.id[:2]
        assert clip.labels is not None
        assert set(clip.labels.expression) == {EMODB_LETTERS[clip.id[5]]}
        seconds = soundfile.info(tmp_path / f"{clip.id}.wav").duration
        assert clip.labels.times[-1] == pytest.approx(seconds, abs=0.06)
    report = extract(found, ["voice-prosody", "face-geometry"], tmp_path / "s", workers=0)
    assert (report.made, report.failures) == (2 * len(names), [])
    assert FeatureStore(tmp_path / "s").open("face-geometry")[names[0].stem].rows == 0
    assert FeatureStore(tmp_path / "s").open("voice-prosody")[names[0].stem].valid_rows > 10


# -- again -----------------------------------------------------------------------------------------


def test_again_makes_only_what_is_missing(tmp_path: Path, toys: ModuleType) -> None:
    media, store = tones(tmp_path / "m", {"a": 0.1, "b": 0.2, "c": 0.3}), tmp_path / "s"
    found = index("folder", media)
    assert extract(found, [LOUD], store, workers=0).made == 3
    again = extract(found, [LOUD], store, workers=0)
    assert (again.made, again.there) == (0, 3)
    tones(media, {"d": 0.4})
    os.truncate(FeatureStore(store).path("loud", "b"), 30)
    third = extract(index("folder", media), [LOUD, "toys:Louder"], store, workers=0)
    assert (third.made, third.there) == (2 + 4, 2)
    assert not list(FeatureStore(store).verify())


def test_features_of_another_kind_stop_the_run_and_name_the_key(tmp_path: Path, toys: ModuleType) -> None:
    found, store = index("folder", tones(tmp_path / "m", {"a": 0.1})), tmp_path / "s"
    extract(found, [LOUD], store, workers=0)
    with pytest.raises(ProvenanceError, match=r"version: the file has '1', asked for is '2'"):
        extract(found, [LOUD + "=2"], store, workers=0)
    assert extract(found, [LOUD + "=2"], store, workers=0, replace=True).made == 1
    assert (
        FeatureStore(store).open("loud").clips
        if False
        else FeatureStore(store).open("loud")["a"].provenance["version"] == "2"
    )


def test_a_clip_that_changed_is_a_failure_until_it_is_indexed_again(tmp_path: Path, toys: ModuleType) -> None:
    media, store = tones(tmp_path / "m", {"a": 0.1, "b": 0.2}), tmp_path / "s"
    found = index("folder", media)
    tones(media, {"a": 0.5}, seconds=2)
    report = extract(found, [LOUD], store, workers=0)
    assert (report.made, [f.clip for f in report.failures]) == (1, ["a"])
    assert "a.wav changed since it was indexed" in report.failures[0].what
    assert report.failures[0].remedy == "index the corpus again, then extract again"
    assert [f.clip for f in failures.read(store)] == ["a"]
    again = extract(index("folder", media), [LOUD], store, workers=0)
    assert (again.made, again.there, failures.read(store)) == (1, 1, [])
    tones(media, {"b": 0.9})
    assert extract(index("folder", media), [LOUD], store, workers=0).made == 1
    np.testing.assert_allclose(rows(store, "loud", "b")[0], 0.9, atol=1e-3)


def test_clips_that_are_gone_or_broken_are_listed_and_the_rest_goes_on(tmp_path: Path, toys: ModuleType) -> None:
    media, store = tones(tmp_path / "m", {"a": 0.1, "b": 0.2, "c": 0.3}), tmp_path / "s"
    found = index("folder", media)
    raw = (media / "a.wav").read_bytes()
    (media / "a.wav").unlink()
    report = extract(found, [LOUD], store, workers=0)
    assert (report.made, report.failures[0].clip) == (2, "a")
    assert "was indexed and is gone now (No such file" in report.failures[0].what
    (media / "a.wav").write_bytes(raw)
    assert extract(found, [LOUD], store, workers=0).made == 1
    assert failures.read(store) == []


def test_one_clips_fault_does_not_take_its_batch_along(
    tmp_path: Path, toys: ModuleType, squares: type[SquareReader]
) -> None:
    for clip, red in (("a", 100), ("b", 255), ("c", 120)):
        film(tmp_path / f"m/{clip}.mp4", [paint((40, (red, 0, 0)))] * 5)
    report = extract(index("folder", tmp_path / "m"), [COLOUR + "=picky"], tmp_path / "s", workers=0)
    assert [(f.clip, f.error, f.what) for f in report.failures] == [("b", "ValueError", "ValueError: too red")]
    assert sorted(FeatureStore(tmp_path / "s").open("colour")) == ["a", "c"]
    assert len(rows(tmp_path / "s", "colour", "c")[0]) == 5
    assert not list((tmp_path / "s").rglob("*.part"))


def test_a_value_that_is_no_number_is_a_failure_not_a_feature(tmp_path: Path, toys: ModuleType) -> None:
    found = index("folder", tones(tmp_path / "m", {"a": 0.1, "b": 0.95}))
    report = extract(found, [LOUD + "=nan"], tmp_path / "s", workers=0)
    assert [f.clip for f in report.failures] == ["b"]
    assert "row 0, column 0 is nan" in report.failures[0].what
    assert list(FeatureStore(tmp_path / "s").open("loud")) == ["a"]


def test_stored_features_come_back_as_recordings(tmp_path: Path, toys: ModuleType) -> None:
    media, store = tones(tmp_path / "m", {"a": 0.1, "b": 0.2, "c": 0.3}), tmp_path / "s"
    film(media / "silent.mp4", [paint()] * 12)
    table = "media,split,expression\na.wav,train,Anger\nb.wav,train,Fear\nc.wav,val,Fear\nsilent.mp4,train,Fear\n"
    (media / "labels.csv").write_text(table)
    found = index("folder", media)
    encoders = {"voice": "loud", "behaviour": "scene"}
    extract(found, [LOUD, SCENE], store, workers=0)
    train = recordings(found, store, encoders, split="train")
    assert [(r.clip.id, sorted(r.streams)) for r in train] == [
        ("a", ["voice"]),
        ("b", ["voice"]),
        ("silent", ["behaviour"]),
    ]
    assert train[0].clip.labels is not None
    assert train[0].streams["voice"].values.dtype == np.float16
    loaded = recordings(found, store, encoders, split="val", mapped=False)[0].streams["voice"]
    assert loaded.values.dtype == np.float32
    np.testing.assert_allclose(loaded.values, 0.3, atol=1e-3)
    FeatureStore(store).path("loud", "b").unlink()
    with pytest.raises(ConfigError, match=r"1 of 4 clips have no loud features, such as 'b'\n.*\nmien extract INDEX"):
        recordings(found, store, encoders)
    assert [r.clip.id for r in recordings(found, store, {"voice": "loud"}, partial=True)] == ["a", "c", "silent"]


# -- refusals --------------------------------------------------------------------------------------


def test_what_cannot_be_is_said_before_anything_is_done(tmp_path: Path, toys: ModuleType) -> None:
    found, store = index("folder", tones(tmp_path / "m", {"a": 0.1})), tmp_path / "s"
    for encoders, options, text in [
        (["voice-prosodi"], {}, "no encoder is called 'voice-prosodi'.*did you mean 'voice-prosody'"),
        (["toys:None_"], {}, "cannot be imported: module 'toys' has no attribute 'None_'"),
        (
            ["toys:Mute"],
            {},
            "does not declare modality, dim, rate_hz, receptive_field_s, licence, provenance",
        ),
        (["toys:nothing"], {}, "'nothing' encodes neither crops, segments, meshes nor sound"),
        ([LOUD, LOUD], {}, "encoder 'loud' is named twice"),
        ([LOUD], {"faces": "photos"}, "faces 'photos'\n--faces video or --faces crops"),
        ([COLOUR], {"faces": "crops"}, "names no crops"),
        ([LOUD], {"workers": -1}, "-1 workers"),
    ]:
        with pytest.raises(ConfigError, match=f"(?s){text}"):
            extract(found, encoders, store, **{"workers": 0, **options})  # type: ignore[arg-type]
    assert not any(p.is_file() for p in store.rglob("*"))


def test_a_store_that_cannot_be_made_is_an_output_error(tmp_path: Path, toys: ModuleType) -> None:
    found = index("folder", tones(tmp_path / "m", {"a": 0.1}))
    (tmp_path / "s").write_text("a file")
    with pytest.raises(OutputError, match="name another --store"):
        extract(found, [LOUD], tmp_path / "s", workers=0)


# -- processes -------------------------------------------------------------------------------------


def snapshot(store: Path) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(store.rglob("*.safetensors"))}


@STARTS_PROCESSES
def test_two_processes_make_the_same_files_as_none(tmp_path: Path, toys: ModuleType) -> None:
    media = tones(tmp_path / "m", {f"c{i}": i / 10 for i in range(6)})
    film(tmp_path / "m/v.mp4", [paint((8 * i, (200, 0, 0))) for i in range(12)], sound=0.3)
    found = index("folder", media)
    extract(found, [LOUD, SCENE], tmp_path / "one", workers=0)
    report = extract(found, [LOUD, SCENE], tmp_path / "two", workers=2)
    assert (report.made, report.failures) == (14, [])
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two")


@STARTS_PROCESSES
def test_a_clip_that_kills_its_process_is_put_aside_and_the_rest_goes_on(tmp_path: Path, toys: ModuleType) -> None:
    found = index("folder", tones(tmp_path / "m", {"a": 0.1, "bad": 0.95, "c": 0.2, "d": 0.3}))
    report = extract(found, [LOUD + "=deadly"], tmp_path / "s", workers=1)
    assert [(f.clip, f.error) for f in report.failures] == [("bad", "WorkerError")]
    assert "a worker process ended (signal 9)" in report.failures[0].what
    assert list(FeatureStore(tmp_path / "s").open("loud")) == ["a", "c", "d"]
    assert not list((tmp_path / "s").rglob("*.part"))


@STARTS_PROCESSES
def test_a_full_disk_ends_the_run_and_leaves_whole_files_only(tmp_path: Path, toys: ModuleType) -> None:
    media = tones(tmp_path / "m", {"a": 0.1, "b": 0.2}, seconds=200)
    with pytest.raises(OutputError, match="File too large\nnothing of it was kept\nfree space there"):
        extract(index("folder", media), [LOUD + "=full"], tmp_path / "s", workers=1)
    assert not any(p.is_file() for p in (tmp_path / "s").rglob("*"))


@STARTS_PROCESSES
def test_an_encoder_that_fails_in_its_process_says_why(tmp_path: Path, toys: ModuleType) -> None:
    found = index("folder", tones(tmp_path / "m", {"a": 0.1}))
    with pytest.raises(ConfigError, match="no encoder is called 'x'"):
        extract(found, ["x"], tmp_path / "s", workers=1)


RUN = """
import sys
from pathlib import Path
from mien.datasets.index import Index
from mien.extract import extract
sys.path.insert(0, sys.argv[3])
if __name__ == "__main__":
    extract(Index.load(Path(sys.argv[1])), ["toys:Loud=slow"], sys.argv[2], workers=2)
"""


@STARTS_PROCESSES
@pytest.mark.parametrize("whole_group", [True, False], ids=["everything", "only the parent"])
def test_kill_minus_nine_loses_only_what_was_in_hand(tmp_path: Path, toys: ModuleType, whole_group: bool) -> None:
    media, store = tones(tmp_path / "m", {f"c{i:02d}": i / 100 for i in range(24)}), tmp_path / "s"
    found = index("folder", media)
    found.save(tmp_path / "i.jsonl")
    (tmp_path / "run.py").write_text(RUN)
    args = [sys.executable, tmp_path / "run.py", tmp_path / "i.jsonl", store, tmp_path / "code"]
    process = subprocess.Popen(args, start_new_session=True)
    folder = store / "loud"
    deadline = time.monotonic() + 300
    while len(list(folder.glob("*.safetensors"))) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    while not whole_group and list_group(process.pid):  # the workers notice that nobody listens
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = snapshot(store)
    assert 3 <= len(kept) < 24
    assert not list(FeatureStore(store).verify())
    report = extract(found, [LOUD], store, workers=0)
    assert (report.there, report.made) == (len(kept), 24 - len(kept))
    assert {k: v for k, v in snapshot(store).items() if k in kept} == kept
    assert not list(FeatureStore(store).verify())
    assert not list(store.rglob("*.part"))


def list_group(group: int) -> list[int]:
    """Live processes of a process group (nothing where there is no /proc to ask)."""
    found: list[int] = []
    if not Path("/proc").is_dir():
        return found
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@STARTS_PROCESSES
def test_ray_makes_the_same_files(tmp_path: Path, toys: ModuleType) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'mien[ray]'")
    media = tones(tmp_path / "m", {f"c{i}": i / 10 for i in range(6)} | {"bad": 0.95})
    found = index("folder", media)
    extract(found, [LOUD + "=nan"], tmp_path / "one", workers=0)
    report = extract(found, [LOUD + "=nan"], tmp_path / "ray", workers=2, ray="auto")
    assert report.made == 6
    assert [f.clip for f in report.failures] == ["bad"]
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "ray")


# -- parts -----------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.floats(0.01, 0.7), min_size=1, max_size=60),
    length=st.floats(0.5, 4),
    hop=st.floats(0.25, 1),
    pictures=st.integers(1, 16),
)
def test_segments_cover_the_recording(steps: list[float], length: float, hop: float, pictures: int) -> None:
    times = np.cumsum([0.0, *steps])
    how = Segments(length, hop * length, 4.0, pictures, 8)
    segmenter = Segmenter(how)
    found = []
    for i, time_s in enumerate(times):
        found += segmenter.push(Frame(i, time_s, np.full((1, 1, 3), i, np.uint8)))
    found += segmenter.end()
    centres = [centre for centre, _ in found]
    assert found
    assert all(b > a for a, b in pairwise(centres))
    for centre, shown in found:
        assert 1 <= len(shown) <= pictures
        at = [times[int(image[0, 0, 0])] for image in shown]
        assert all(abs(t - centre) <= length / 2 + 1e-6 for t in at)
        assert at == sorted(set(at))
    if pictures == 16:  # nothing is thinned out: each picture on the clock is shown
        taken = {int(image[0, 0, 0]) for _, shown in found for image in shown}
        clock = [i for i, t in enumerate(times) if i == 0 or int(t * 4 + 1e-6) > int(times[i - 1] * 4 + 1e-6)]
        if hop * 4 * length <= 16 and length * 4 <= 15:
            assert taken == set(clock)


def test_every_reader_of_a_spool_hears_all_and_meets_its_fault() -> None:
    def source() -> Iterator[tuple[float, np.ndarray]]:
        for i in range(3):
            yield float(i), np.full(4, i, np.float32)
        raise MediaError("cut")

    with Spool(source(), keep=True) as sound:
        first = iter(sound)
        next(first)
        second = iter(sound)
        heard = [(start_s, samples.tolist()) for start_s, samples in islice(second, 3)]
        assert heard == [(float(i), [i] * 4) for i in range(3)]
        with pytest.raises(MediaError):
            next(second)
        assert next(first)[0] == 1.0
        with pytest.raises(MediaError):
            list(sound)


def test_a_passer_by_does_not_take_the_clip_over() -> None:
    def face(subject: int, x: float, size: float) -> Face:
        return Face(subject, np.array([x, 0, x + size, size]), np.zeros((468, 3)), 1.0)

    picker = SubjectSelector()
    for _ in range(10):
        assert picker([face(0, 10, 20)], 100)[""].subject == 0
    assert picker([face(0, 10, 20), face(1, 50, 40)], 100)[""].subject == 0  # nearer, but only just come
    assert picker([face(1, 50, 40)], 100)[""].subject == 1
    assert picker([], 100) == {}


def test_a_torn_line_of_the_failure_list_is_passed_over(tmp_path: Path) -> None:
    one = failures.Failure.of("a", "e", "a.mp4", MediaError("what", remedy="do"))
    failures.add(tmp_path, one)
    with open(tmp_path / failures.FILE, "a") as file:
        file.write('{"clip": "b", "enc')
    failures.forget(tmp_path, set())
    failures.add(tmp_path, failures.Failure.of("c", "e", "c.mp4", ValueError("x")))
    assert [f.clip for f in failures.read(tmp_path)] == ["a", "c"]
    assert str(one) == "a (e): what; do"
