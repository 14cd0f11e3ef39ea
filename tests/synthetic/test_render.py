"""Rendered recordings: the detector finds the face, the sound contains speech, and the layout is that of Aff-Wild2."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from mien.datasets import affwild2
from mien.errors import OutputError
from mien.faces.tracker import FaceTracker
from mien.labels import EXPRESSIONS
from mien.media.audio import blocks
from mien.media.video import frames, probe
from mien.synthetic import affwild2_export, render
from mien.synthetic.action_units import unit_names
from mien.synthetic.demo_clip import demo_scenario, render_demo_clip
from mien.synthetic.puppet_mesh import load_puppet_mesh
from mien.synthetic.scenario import FACE_IMPAIRMENTS, Impairment, draw_scenario


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.mp4"
    render_demo_clip(path, seconds=5.0)
    return path


def test_the_detector_finds_the_rendered_face(demo: Path) -> None:
    scenario, tracker = demo_scenario(5.0), FaceTracker(max_faces=1)
    detections = [(frame.time_s, bool(tracker(frame))) for frame in frames(demo)]
    times = np.array([t for t, _ in detections])
    found = np.array([f for _, f in detections])
    # the face needs a moment to leave the picture and to come back
    absent = [scenario.is_impaired(FACE_IMPAIRMENTS, times + shift) for shift in (-0.25, 0.0, 0.25)]
    assert len(detections) == len(scenario.times())
    assert found[~(absent[0] | absent[2])].mean() >= 0.95
    assert found[absent[0] & absent[1] & absent[2]].mean() < 0.2


def test_the_sound_is_loud_during_speech_and_silent_while_muted(demo: Path) -> None:
    scenario = demo_scenario(5.0)
    sound = np.concatenate([samples for _, samples in blocks(demo)])
    times = np.arange(len(sound)) / 16_000
    spoken = np.any([(times > a + 0.1) & (times < b - 0.1) for a, b in scenario.speech], axis=0)
    muted = scenario.is_impaired(("silent",), times)
    level = {
        name: 20 * np.log10(np.sqrt(np.mean(sound[mask] ** 2)) + 1e-9)
        for name, mask in (("speech", spoken & ~muted), ("muted", muted))
    }
    assert -35 < level["speech"] < -10
    assert level["speech"] - level["muted"] > 20
    assert np.abs(sound).max() < 1


def test_frame_rate_and_size_are_those_of_the_scenario(demo: Path) -> None:
    info = probe(demo)
    assert (info.width, info.height) == affwild2_export.SIZE
    gaps = np.diff([f.time_s for f in frames(demo)])
    np.testing.assert_allclose(gaps, 1001 / 30000, atol=1e-4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings: all splits, and one recording of two people."""
    root = tmp_path_factory.mktemp("synthetic") / "corpus"
    affwild2_export.write_corpus(root, videos=6, seconds=0.8, seed=3)
    return root


def truth(root: Path) -> list[dict[str, Any]]:
    scenarios: list[dict[str, Any]] = json.loads((root / "synthetic.json").read_text())
    return scenarios


def test_the_layout_is_that_of_aff_wild2(corpus: Path) -> None:
    scenarios = truth(corpus)
    assert {p.name for p in corpus.iterdir()} == {
        *("batch1", "batch2", "new_vids", "cropped_aligned", "cropped_aligned_new_50_vids"),
        *("EXPR_Recognition_Challenge", "VA_Estimation_Challenge", "AU_Detection_Challenge", "synthetic.json"),
        *(f"{task}_{what}.txt" for task in ("EXPR", "VA", "AU") for what in ("test_set", "sample")),
    }
    assert {p["split"] for p in scenarios} == {"train", "val", "test"}
    two = [p for p in scenarios if len(p["clips"]) == 2]
    assert [c.rsplit("_", 1)[1] for p in two for c in p["clips"]] == ["left", "right"]
    listed = (corpus / "EXPR_test_set.txt").read_text().split()
    assert listed == [c for p in scenarios if p["split"] == "test" for c in p["clips"]]
    for scenario in scenarios:
        for clip in scenario["clips"]:
            new = (corpus / "new_vids" / f"{scenario['id']}.mp4").is_file()
            folder = "cropped_aligned_new_50_vids" if new else "cropped_aligned"
            crops = sorted((corpus / folder / clip).iterdir())
            assert crops, f"{clip} has no crop"
            assert all(len(c.stem) == 5 and c.suffix == ".jpg" for c in crops)
            assert cv2.imread(str(crops[0])).shape == (112, 112, 3)


def test_label_files_have_a_header_and_a_row_for_each_frame_plus_extra_rows(corpus: Path) -> None:
    for scenario in truth(corpus):
        if scenario["split"] == "test":
            continue
        rate = scenario["rate"].split("/")
        count = round(scenario["seconds"] * int(rate[0]) / int(rate[1]))
        folder = {"train": "Train_Set", "val": "Validation_Set"}[scenario["split"]]
        for clip in scenario["clips"]:
            expr = (corpus / "EXPR_Recognition_Challenge" / folder / f"{clip}.txt").read_text().splitlines()
            va = (corpus / "VA_Estimation_Challenge" / folder / f"{clip}.txt").read_text().splitlines()
            assert expr[0] == ",".join(EXPRESSIONS)
            assert va[0] == "valence,arousal"
            assert len(expr) == len(va) == 1 + count + scenario["extra_rows"]
            assert {int(line) for line in expr[1:]} <= {-1, *range(8)}
            values = np.array([[float(v) for v in line.split(",")] for line in va[1:]])
            assert ((np.abs(values) <= 1) | (values == -5)).all()
            au = (corpus / "AU_Detection_Challenge" / folder / f"{clip}.txt").read_text().splitlines()
            assert au[0] == "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
            assert len(au) == len(expr)
            assert {value for line in au[1:] for value in line.split(",")} <= {"0", "1", "-1"}


def test_the_aff_wild2_reader_reads_the_written_corpus(corpus: Path) -> None:
    index = affwild2.read(corpus)
    scenarios = {clip: scenario for scenario in truth(corpus) for clip in scenario["clips"]}
    assert {entry.id for entry in index.entries} == set(scenarios)
    assert not [p for p in index.problems if p.severity == "error"]
    excess = Counter(f"{scenario['extra_rows'] * (scenario['split'] != 'test'):+d}" for scenario in scenarios.values())
    assert index.counts["label rows minus frames"] == excess, "a sample file has a row for each frame"
    for entry in index.entries:
        scenario = scenarios[entry.id]
        assert set(entry.splits.values()) == {scenario["split"]}
        assert entry.side == (entry.id.rsplit("_", 1)[1] if len(scenario["clips"]) == 2 else "")
        if scenario["split"] == "test":
            continue
        labels = affwild2.labels(corpus, entry, ["expr", "va"])
        assert labels is not None
        rows = (corpus / entry.labels["expr"]).read_text().split()[1:]
        assert labels.expression.tolist() == [int(v) for v in rows]
        numerator, denominator = map(int, scenario["rate"].split("/"))
        count = min(len(labels.times), round(scenario["seconds"] * numerator / denominator))
        np.testing.assert_allclose(labels.times[:count], np.arange(count) * denominator / numerator, atol=1e-3)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="is not empty") as error:
        affwild2_export.write_corpus(tmp_path, videos=1, seconds=1.0)
    assert error.value.remedy == "Name a new folder, or empty this one."


def test_darkness_hides_both_people_and_absence_the_subject(tmp_path: Path) -> None:
    scenario = draw_scenario("train", 5, seconds=3.0, seed=3, second=True)
    impairments = (Impairment("dark", 0.5, 1.0), Impairment("absent", 1.5, 2.0))
    scenario = replace(scenario, impairments=impairments, extra_rows=0)
    assert scenario.second is not None
    for clip, person in (("subject", scenario), ("second", scenario.second)):
        actions = np.zeros((len(scenario.times()), len(unit_names())))
        affwild2_export._write_labels(tmp_path, clip, person, scenario, actions, 3)
        units = np.loadtxt(tmp_path / f"AU_Detection_Challenge/Train_Set/{clip}.txt", delimiter=",", skiprows=1)
        kinds = ("dark", "absent") if clip == "subject" else ("dark",)
        np.testing.assert_array_equal((units == -1).all(axis=1), scenario.is_impaired(kinds, scenario.times()))
    folder = tmp_path / "EXPR_Recognition_Challenge" / "Train_Set"
    subject, second = (
        np.array([int(line) for line in (folder / f"{clip}.txt").read_text().split()[1:]]) == -1
        for clip in ("subject", "second")
    )
    times = scenario.times()
    np.testing.assert_array_equal(subject, scenario.is_impaired(("dark", "absent"), times))
    np.testing.assert_array_equal(second, scenario.is_impaired(("dark",), times))
    assert subject.sum() > second.sum() > 0


def test_every_person_of_a_pair_has_a_place_that_reaches_the_lower_edge() -> None:
    scenario = draw_scenario("test", 1, seconds=1.0, seed=5, second=True)
    height = load_puppet_mesh().texture.shape[0]
    for seed in range(200):
        placement = render._draw_placement(replace(scenario, identity_seed=seed), 0.28, True)
        assert placement.corner[1] + placement.zoom * height >= render.SIZE[1] - 1e-6
