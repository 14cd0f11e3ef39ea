"""`mien people` on recordings of rendered people, with other clothes, light and expression in each."""

from __future__ import annotations

import csv
import json
import shutil
import socket
import stat
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from mien.cli.main import app
from mien.media.video import frames, write_video
from mien.people import kept
from mien.people.descriptors import FaceGradients
from mien.people.faces import FaceReader
from mien.synthetic.demo_clip import render_expression
from mien.timeline.table import Timeline

#: Recording -> person and expression.
CLIPS = {"monday-a": (1, "rest"), "monday-b": (2, "smile"), "tuesday-a": (1, "smile"), "tuesday-b": (2, "rest")}


def mien(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def other_day(picture: np.ndarray) -> np.ndarray:
    """The picture with blue clothes, in brighter and warmer light."""
    out = picture.copy()
    out[230:] = out[230:, :, ::-1]
    return np.clip(out * np.array([1.25, 1.15, 1.0]) + 5, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the clips, predicted in two runs, with one of nobody. The recordings lie in `media` beside `out`."""
    folder = tmp_path_factory.mktemp("study")
    for name, (person, expression) in CLIPS.items():
        path = folder / "media" / f"{name}.mp4"
        render_expression(path, expression, person=person, seconds=1.0, rate=10)
        if name.startswith("tuesday"):
            pictures = [other_day(frame.image) for frame in frames(path)]
            write_video(path, pictures, times=[i / 10 for i in range(len(pictures))])
    grey = np.full((48, 64, 3), 90, np.uint8)
    write_video(folder / "media" / "nobody.mp4", [grey] * 5, times=[i / 10 for i in range(5)])
    for run in (["monday-a.mp4", "monday-b.mp4"], [""]):
        words = [folder / "media" / name for name in run]
        done = mien("predict", *words, "--out", folder / "out", "--no-voice", "--skip-done", "--report", "--no-embed")
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def study(predicted: Path, tmp_path: Path) -> Path:
    """A copy of the results, whose recordings stay where they are."""
    shutil.copytree(predicted / "out", tmp_path / "out")
    return tmp_path / "out"


def people_of(out: Path) -> dict[str, str]:
    """Recording -> person, as people.csv says."""
    with (out / "people.csv").open(encoding="utf-8", newline="") as file:
        return {row["recording"]: row["person"] for row in csv.DictReader(file)}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_same_person_has_the_same_name_in_all_recordings(study: Path) -> None:
    before = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    done = mien("people", study)
    assert done.exit_code == 0, done.output
    assert people_of(study) == {
        "monday-a": "person 1", "monday-b": "person 2", "tuesday-a": "person 1", "tuesday-b": "person 2"
    }  # fmt: skip
    assert "recordings of one session" in done.output
    assert "1 recording without a face" in done.output
    after = {path: path.read_bytes() for path in study.rglob("*") if path.is_file()}
    assert {path.name for path in set(after) - set(before)} == {"people.csv", "people.html"}, "no descriptors are left"
    assert all(after[path] == content for path, content in before.items())
    assert mode(study / "people.csv") == mode(study / "people.html") == 0o600
    page = (study / "people.html").read_text(encoding="utf-8")
    assert 'href="monday-a/report.html"' in page
    assert "http" not in page.replace("http-equiv", "")


def test_another_order_of_folders_and_runs_gives_the_same_people(study: Path) -> None:
    first, second = study.parent / "first", study.parent / "second"
    for name in CLIPS:
        shutil.move(study / name, (second if name.startswith("monday") else first) / name)
    results = []
    for folders in ((first, second), (second, first)):
        done = mien("people", *folders, "--out", study, "--json")
        assert done.exit_code == 0, done.output
        results.append(json.loads(done.stdout)["people"])
    assert results[0] == results[1]
    assert people_of(study) == {
        "first/tuesday-a": "person 1", "first/tuesday-b": "person 2",
        "second/monday-a": "person 1", "second/monday-b": "person 2",
    }  # fmt: skip
    refused = mien("people", first, second)
    assert refused.exit_code == 2
    assert "several folders of results need one for people.csv" in refused.output.replace("\n", " ").replace("│", "")


def test_names_of_the_user_win(study: Path) -> None:
    (study.parent / "names.csv").write_text("recording,subject,name\nmonday-a,0,Anna\ntuesday-b,0,Anna\n")
    assert mien("people", study, "--names", study.parent / "names.csv").exit_code == 0
    assert set(people_of(study).values()) == {"Anna"}
    wrong = study.parent / "wrong.csv"
    wrong.write_text("recording,subject,name\nmonday,0,Anna\n")
    refused = mien("people", study, "--names", wrong)
    assert refused.exit_code == 2
    assert "there is no recording 'monday'; is 'monday-" in refused.stderr


def test_kept_descriptors_are_private_and_stand_in_for_the_recordings(study: Path, predicted: Path) -> None:
    study.joinpath("monday-a").chmod(0o2777)  # a shared folder, in which reports can be read by others
    assert mien("people", study, "--keep-descriptors").exit_code == 0
    stored = sorted(study.glob(f"*/{kept.NAME}"))
    assert [path.parent.name for path in stored] == sorted(CLIPS)
    assert {mode(path) for path in stored} == {0o600}
    away = predicted / "away"
    shutil.move(predicted / "media", away)
    try:
        again = mien("people", study)
        assert again.exit_code == 0, again.output
        assert people_of(study)["tuesday-a"] == "person 1"
        assert "biometric data (GDPR Art. 9)" in again.output.replace("\n", " ")
        forgotten = mien("people", study, "--forget")
        assert forgotten.exit_code == 0
        assert not [*study.rglob(kept.NAME), *study.glob("people.*")]
        missing = mien("people", study)
        assert missing.exit_code == 1
        assert "is not there, and its faces have to be read again" in missing.stderr
        assert "--media FOLDER" in missing.stderr
        found = mien("people", study, "--media", away)
        assert found.exit_code == 0, found.output
    finally:
        shutil.move(away, predicted / "media")


def test_descriptors_of_an_earlier_timeline_or_descriptor_do_not_count(tmp_path: Path) -> None:
    timeline = tmp_path / "timeline.csv"
    timeline.write_text("one")
    vectors = {0: np.arange(6, dtype=np.float32).reshape(2, 3), 3: np.ones((1, 3), np.float32)}
    kept.write(tmp_path, timeline, "key", vectors)
    found = kept.read(tmp_path, timeline, "key")
    assert found is not None
    assert {subject: array.tolist() for subject, array in found.items()} == {s: v.tolist() for s, v in vectors.items()}
    assert kept.read(tmp_path, timeline, "other") is None
    timeline.write_text("two")
    assert kept.read(tmp_path, timeline, "key") is None
    (tmp_path / kept.NAME).write_bytes((tmp_path / kept.NAME).read_bytes()[:100])
    assert kept.read(tmp_path, timeline, "key") is None


def test_a_recording_that_changed_is_named_and_the_others_are_finished(study: Path, predicted: Path) -> None:
    media = predicted / "media" / "tuesday-b.mp4"
    content = media.read_bytes()
    media.write_bytes(content[:-1] + b"x")
    try:
        done = mien("people", study)
    finally:
        media.write_bytes(content)
    assert done.exit_code == 1
    assert "is no longer the recording that was predicted" in done.stderr.replace("\n", " ")
    assert sorted(people_of(study)) == ["monday-a", "monday-b", "tuesday-a"]


def test_what_a_killed_run_left_is_removed(study: Path) -> None:
    host = socket.gethostname()
    left = study / "monday-a" / f".descriptors.{host}.{2**22 + 1}-abcdef.0.part.npz"
    left.write_bytes(b"descriptors")
    assert mien("people", study).exit_code == 0
    assert not left.exists()


def test_predicting_again_removes_descriptors_of_the_replaced_results(study: Path, predicted: Path) -> None:
    assert mien("people", study, "--keep-descriptors").exit_code == 0
    media = predicted / "media" / "monday-a.mp4"
    assert mien("predict", media, "--out", study, "--no-voice", "--rate", "5").exit_code == 0
    assert not (study / "monday-a" / kept.NAME).exists()
    assert (study / "monday-b" / kept.NAME).exists()


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    empty = mien("people", tmp_path)
    assert empty.exit_code == 1
    assert "holds no results of mien predict" in empty.stderr
    assert "mien predict RECORDINGS --out OUT" in empty.stderr
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "timeline.json").write_text("{}")
    own = mien("people", tmp_path / "clip")
    assert own.exit_code == 1
    text = " ".join(own.stderr.split())
    assert "holds the results of one recording" in text
    assert f"mien people {tmp_path}" in text


def test_sound_alone_gives_no_empty_table(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "voice.wav", np.zeros(16000, np.float32), 16000)
    assert mien("predict", tmp_path / "voice.wav", "--out", tmp_path / "out").exit_code == 0
    done = mien("people", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "nobody was compared: no face could be read" in done.stdout
    assert "seen as" not in done.stdout


def test_a_recording_stored_upside_down_is_turned(predicted: Path, tmp_path: Path) -> None:
    table = Timeline.read(predicted / "out" / "monday-a" / "timeline.csv").table
    pictures = [frame.image for frame in frames(predicted / "media" / "monday-a.mp4")]
    turned = [np.ascontiguousarray(picture[::-1, ::-1]) for picture in pictures]
    write_video(tmp_path / "turned.mp4", turned, times=[i / 10 for i in range(len(turned))])
    height, width = pictures[0].shape[:2]
    boxes = table.with_columns(
        x1=width - table["x2"], y1=height - table["y2"], x2=width - table["x1"], y2=height - table["y1"]
    )
    reader = FaceReader(FaceGradients())
    upright = reader.read(predicted / "media" / "monday-a.mp4", table)
    found = reader.read(tmp_path / "turned.mp4", boxes)
    assert len(found[0]) == len(upright[0]) == 10
    assert np.linalg.norm(found[0].mean(axis=0) - upright[0].mean(axis=0)) < 0.2
    elsewhere = boxes.with_columns(x1=boxes["x1"] - 150, x2=boxes["x2"] - 150)
    assert reader.read(tmp_path / "turned.mp4", elsewhere) == {}, "a face beside the box is another one"
