"""Extraction of changed, unreadable and wrong input: repeated runs, the failure list, and refused options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mien.datasets.index import build_index
from mien.errors import ConfigError, MediaError, OutputError
from mien.extract import extract, failures
from mien.store import FeatureStore, ProvenanceError
from tests.extract.media_files import (
    COLOUR,
    LOUD,
    LOUDER,
    TOYS,
    SquareTracker,
    draw_squares,
    read_stream,
    write_affwild2_labels,
    write_clip,
    write_tones,
)


def test_a_second_run_encodes_only_what_is_missing_or_damaged(tmp_path: Path) -> None:
    media, store = write_tones(tmp_path / "m", {"a": 0.1, "b": 0.2, "c": 0.3}), tmp_path / "s"
    index = build_index("folder", media)
    assert extract(index, [LOUD], store, workers=0).made == 3
    again = extract(index, [LOUD], store, workers=0)
    assert (again.made, again.there) == (0, 3)
    write_tones(media, {"d": 0.4})
    os.truncate(FeatureStore(store).path("loud", "b"), 30)
    third = extract(build_index("folder", media), [LOUD, LOUDER], store, workers=0)
    assert (third.made, third.there) == (2 + 4, 2)
    assert not list(FeatureStore(store).verify())


def test_features_of_another_provenance_end_the_run_unless_replaced(tmp_path: Path) -> None:
    index, store = build_index("folder", write_tones(tmp_path / "m", {"a": 0.1})), tmp_path / "s"
    extract(index, [LOUD], store, workers=0)
    with pytest.raises(ProvenanceError, match=r"version: the file has '1', '2' is requested"):
        extract(index, [LOUD + "=2"], store, workers=0)
    assert extract(index, [LOUD + "=2"], store, workers=0, replace=True).made == 1
    assert FeatureStore(store).open("loud")["a"].provenance["version"] == "2"


def test_a_clip_that_changed_is_a_failure_until_it_is_indexed_again(tmp_path: Path) -> None:
    media, store = write_tones(tmp_path / "m", {"a": 0.1, "b": 0.2}), tmp_path / "s"
    index = build_index("folder", media)
    write_tones(media, {"a": 0.5}, seconds=2)
    report = extract(index, [LOUD], store, workers=0)
    assert (report.made, [f.clip for f in report.failures]) == (1, ["a"])
    assert "a.wav changed since it was indexed" in report.failures[0].what
    assert report.failures[0].follows == "Its features were not extracted."
    assert report.failures[0].remedy == "Run `mien index` again, then `mien extract`."
    assert [f.clip for f in failures.read(store)] == ["a"]
    again = extract(build_index("folder", media), [LOUD], store, workers=0)
    assert (again.made, again.there, failures.read(store)) == (1, 1, [])
    write_tones(media, {"b": 0.9})
    assert extract(build_index("folder", media), [LOUD], store, workers=0).made == 1
    np.testing.assert_allclose(read_stream(store, "loud", "b")[0], 0.9, atol=1e-3)


def test_crops_that_changed_are_a_failure(tmp_path: Path) -> None:
    write_clip(tmp_path / "r/batch1/a.mp4", [draw_squares()] * 3)
    folder = tmp_path / "r/cropped_aligned/a"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "00001.jpg"), np.zeros((112, 112, 3), np.uint8))
    index = write_affwild2_labels(tmp_path / "r", ["a"], 3)
    (folder / "00002.jpg").write_bytes((folder / "00001.jpg").read_bytes())
    report = extract(index, [COLOUR], tmp_path / "s", workers=0, faces="crops")
    assert f"{folder} changed since it was indexed" in report.failures[0].what


def test_a_missing_media_file_is_a_failure_and_other_clips_are_encoded(tmp_path: Path) -> None:
    media, store = write_tones(tmp_path / "m", {"a": 0.1, "b": 0.2, "c": 0.3}), tmp_path / "s"
    index = build_index("folder", media)
    raw = (media / "a.wav").read_bytes()
    (media / "a.wav").unlink()
    report = extract(index, [LOUD], store, workers=0)
    assert (report.made, report.failures[0].clip) == (2, "a")
    assert "was indexed and cannot be read now (No such file" in report.failures[0].what
    (media / "a.wav").write_bytes(raw)
    assert extract(index, [LOUD], store, workers=0).made == 1
    assert failures.read(store) == []


def test_an_encoder_error_fails_only_its_own_clip_of_a_batch(tmp_path: Path, squares: type[SquareTracker]) -> None:
    for clip, red in (("a", 100), ("b", 255), ("c", 120)):
        write_clip(tmp_path / f"m/{clip}.mp4", [draw_squares((40, (red, 0, 0)))] * 5)
    report = extract(build_index("folder", tmp_path / "m"), [COLOUR + "=picky"], tmp_path / "s", workers=0)
    assert [(f.clip, f.error, f.what) for f in report.failures] == [("b", "ValueError", "ValueError: too red")]
    assert sorted(FeatureStore(tmp_path / "s").open("colour")) == ["a", "c"]
    assert len(read_stream(tmp_path / "s", "colour", "c")[0]) == 5
    assert not list((tmp_path / "s").rglob("*.part*"))


def test_an_encoder_error_fails_one_of_two_clips_of_a_recording(tmp_path: Path, squares: type[SquareTracker]) -> None:
    pictures = [draw_squares((8, (255, 0, 0)), (80, (100, 0, 200)))] * 5
    write_clip(tmp_path / "r/batch1/two.mp4", pictures, sound=0.5)
    index = write_affwild2_labels(tmp_path / "r", ["two_left", "two_right"], 5)
    report = extract(index, [COLOUR + "=picky", LOUD], tmp_path / "s", workers=0)
    assert [(f.clip, f.what) for f in report.failures] == [("two_left", "ValueError: too red")]
    assert list(FeatureStore(tmp_path / "s").open("colour")) == ["two_right"]
    assert sorted(FeatureStore(tmp_path / "s").open("loud")) == ["two_left", "two_right"]


def test_a_nan_value_is_a_failure_and_is_not_stored(tmp_path: Path) -> None:
    index = build_index("folder", write_tones(tmp_path / "m", {"a": 0.1, "b": 0.95}))
    report = extract(index, [LOUD + "=nan"], tmp_path / "s", workers=0)
    assert [f.clip for f in report.failures] == ["b"]
    assert "row 0, column 0 is nan" in report.failures[0].what
    assert list(FeatureStore(tmp_path / "s").open("loud")) == ["a"]


def test_wrong_options_raise_before_anything_is_written(tmp_path: Path) -> None:
    index, store = build_index("folder", write_tones(tmp_path / "m", {"a": 0.1})), tmp_path / "s"
    cases: list[tuple[list[str], dict[str, Any], str]] = [
        (["voice-prosodi"], {}, "no encoder 'voice-prosodi'.*Did you mean 'voice-prosody'"),
        ([f"{TOYS}:None_"], {}, f"cannot be imported: module '{TOYS}' has no attribute 'None_'"),
        (
            [f"{TOYS}:Undeclared"],
            {},
            "does not declare modality, dim, rate_hz, receptive_field_s, licence, provenance",
        ),
        ([f"{TOYS}:WithoutMethod"], {}, "'without-method' encodes neither crops, segments, meshes nor sound"),
        ([LOUD, LOUD], {}, "encoder 'loud' is named twice\nNothing was extracted.\nName each encoder once"),
        ([LOUD], {"faces": "photos"}, "--faces 'photos' .*\nUse --faces video or --faces crops"),
        ([COLOUR], {"faces": "crops"}, "names no crops\nNothing was extracted.\nUse --faces video"),
        ([LOUD], {"workers": -1}, "--workers is -1, below 1\nNothing was extracted.\nUse --workers 1 or more"),
    ]
    for encoders, options, text in cases:
        with pytest.raises(ConfigError, match=f"(?s){text}"):
            extract(index, encoders, store, **{"workers": 0, **options})
    assert not any(p.is_file() for p in store.rglob("*"))


def test_a_store_that_cannot_be_created_is_an_output_error(tmp_path: Path) -> None:
    index = build_index("folder", write_tones(tmp_path / "m", {"a": 0.1}))
    (tmp_path / "s").write_text("a file")
    with pytest.raises(OutputError, match="name another --store"):
        extract(index, [LOUD], tmp_path / "s", workers=0)


def test_a_truncated_line_of_the_failure_list_is_skipped(tmp_path: Path) -> None:
    failure = failures.Failure.from_error("a", "e", "a.mp4", MediaError("what", remedy="do"))
    failures.append(tmp_path, failure)
    with open(tmp_path / failures.FILE, "a") as file:
        file.write('{"clip": "b", "enc')
    failures.remove(tmp_path, set())
    failures.append(tmp_path, failures.Failure.from_error("c", "e", "c.mp4", ValueError("x")))
    assert [f.clip for f in failures.read(tmp_path)] == ["a", "c"]
    assert str(failure) == "a (e): what; do"
