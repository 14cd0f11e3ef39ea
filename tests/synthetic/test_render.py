"""Rendered recordings: the real detector finds the face, the sound is a voice, and the layout is the corpus's."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.datasets import affwild2
from mien.errors import OutputError
from mien.faces.tracker import FaceTracker
from mien.labels import EXPRESSIONS
from mien.media.audio import blocks
from mien.media.video import frames, probe
from mien.synthetic import affwild2_export
from mien.synthetic.demo_clip import demo_clip, demo_plan
from mien.synthetic.scenario import BLINDING, Impairment, draw


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.mp4"
    demo_clip(path, seconds=5.0)
    return path


def test_the_real_detector_finds_the_rendered_face(demo: Path) -> None:
    plan, reader = demo_plan(5.0), FaceTracker(max_faces=1)
    seen = [(frame.time_s, bool(reader(frame))) for frame in frames(demo)]
    times = np.array([t for t, _ in seen])
    found = np.array([f for _, f in seen])
    away = plan.within(BLINDING, times)
    # the face takes a moment to leave the picture and to come back
    near = plan.within(BLINDING, times - 0.25) | plan.within(BLINDING, times + 0.25)
    assert len(seen) == len(plan.times())
    assert found[~near].mean() >= 0.95
    assert found[away & plan.within(BLINDING, times - 0.25) & plan.within(BLINDING, times + 0.25)].mean() < 0.2


def test_the_sound_is_a_voice_where_speech_is_planted(demo: Path) -> None:
    plan = demo_plan(5.0)
    sound = np.concatenate([samples for _, samples in blocks(demo)])
    times = np.arange(len(sound)) / 16_000
    spoken = np.any([(times > a + 0.1) & (times < b - 0.1) for a, b in plan.speech], axis=0)
    muted = plan.within(("silent",), times)
    level = {
        name: 20 * np.log10(np.sqrt(np.mean(sound[where] ** 2)) + 1e-9)
        for name, where in (("speech", spoken & ~muted), ("muted", muted))
    }
    assert -35 < level["speech"] < -10
    assert level["speech"] - level["muted"] > 20
    assert np.abs(sound).max() < 1


def test_rates_and_sizes_are_those_of_the_plan(demo: Path) -> None:
    info = probe(demo)
    assert (info.width, info.height) == affwild2_export.SIZE
    gaps = np.diff([f.time_s for f in frames(demo)])
    np.testing.assert_allclose(gaps, 1001 / 30000, atol=1e-4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings: with all splits, and with one that shows two people."""
    root = tmp_path_factory.mktemp("synthetic") / "corpus"
    affwild2_export.write(root, videos=6, seconds=0.8, seed=3)
    return root


def truth(root: Path) -> list[dict]:
    return json.loads((root / "synthetic.json").read_text())


def test_the_layout_is_the_corpus(corpus: Path) -> None:
    plans = truth(corpus)
    assert {p.name for p in corpus.iterdir()} == {
        *("batch1", "batch2", "new_vids", "cropped_aligned", "cropped_aligned_new_50_vids"),
        *("EXPR_Recognition_Challenge", "VA_Estimation_Challenge", "synthetic.json"),
        *("EXPR_test_set.txt", "VA_test_set.txt", "EXPR_sample.txt", "VA_sample.txt"),
    }
    assert {p["split"] for p in plans} == {"train", "val", "test"}
    two = [p for p in plans if len(p["clips"]) == 2]
    assert [c.rsplit("_", 1)[1] for p in two for c in p["clips"]] == ["left", "right"]
    listed = (corpus / "EXPR_test_set.txt").read_text().split()
    assert listed == [c for p in plans if p["split"] == "test" for c in p["clips"]]
    for plan in plans:
        for clip in plan["clips"]:
            folder = "cropped_aligned_new_50_vids" if (corpus / "new_vids" / f"{plan['id']}.mp4").is_file() else None
            crops = sorted((corpus / (folder or "cropped_aligned") / clip).iterdir())
            assert crops, f"{clip} has no crop"
            assert all(len(c.stem) == 5 and c.suffix == ".jpg" for c in crops)
            assert cv2.imread(str(crops[0])).shape == (112, 112, 3)


def test_label_files_have_a_header_and_a_row_a_frame_give_or_take_two(corpus: Path) -> None:
    for plan in truth(corpus):
        if plan["split"] == "test":
            continue
        rate = plan["rate"].split("/")
        count = round(plan["seconds"] * int(rate[0]) / int(rate[1]))
        folder = {"train": "Train_Set", "val": "Validation_Set"}[plan["split"]]
        for clip in plan["clips"]:
            expr = (corpus / "EXPR_Recognition_Challenge" / folder / f"{clip}.txt").read_text().splitlines()
            va = (corpus / "VA_Estimation_Challenge" / folder / f"{clip}.txt").read_text().splitlines()
            assert expr[0] == ",".join(EXPRESSIONS)
            assert va[0] == "valence,arousal"
            assert len(expr) == len(va) == 1 + count + plan["extra_rows"]
            assert {int(line) for line in expr[1:]} <= {-1, *range(8)}
            values = np.array([[float(v) for v in line.split(",")] for line in va[1:]])
            assert ((np.abs(values) <= 1) | (values == -5)).all()


def test_what_is_written_is_read_back(corpus: Path) -> None:
    found = affwild2.read(corpus)
    planted = {clip: plan for plan in truth(corpus) for clip in plan["clips"]}
    assert {entry.id for entry in found.entries} == set(planted)
    assert not [p for p in found.problems if p.severity == "error"]
    excess = Counter(f"{plan['extra_rows'] * (plan['split'] != 'test'):+d}" for plan in planted.values())
    assert found.counts["label rows minus frames"] == excess, "a sample file has a row for each frame"
    for entry in found.entries:
        plan = planted[entry.id]
        assert set(entry.splits.values()) == {plan["split"]}
        assert entry.side == (entry.id.rsplit("_", 1)[1] if len(plan["clips"]) == 2 else "")
        if plan["split"] == "test":
            continue
        labels = affwild2.labels(corpus, entry, ["expr", "va"])
        assert labels is not None
        rows = (corpus / entry.labels["expr"]).read_text().split()[1:]
        assert labels.expression.tolist() == [int(v) for v in rows]
        numerator, denominator = map(int, plan["rate"].split("/"))
        count = min(len(labels.times), round(plan["seconds"] * numerator / denominator))
        np.testing.assert_allclose(labels.times[:count], np.arange(count) * denominator / numerator, atol=1e-3)


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="is not empty"):
        affwild2_export.write(tmp_path, videos=1, seconds=1.0)


def test_the_dark_hides_both_and_absence_one(tmp_path: Path) -> None:
    plan = draw("train", 5, seconds=3.0, seed=3, second=True)
    plan = replace(plan, faults=(Impairment("dark", 0.5, 1.0), Impairment("absent", 1.5, 2.0)), extra_rows=0)
    assert plan.second is not None
    for clip, person in (("one", plan), ("other", plan.second)):
        affwild2_export._annotate(tmp_path, clip, person, plan, 3)
    folder = tmp_path / "EXPR_Recognition_Challenge" / "Train_Set"
    one, other = (
        np.array([int(line) for line in (folder / f"{clip}.txt").read_text().split()[1:]]) == -1
        for clip in ("one", "other")
    )
    times = plan.times()
    np.testing.assert_array_equal(one, plan.within(("dark", "absent"), times))
    np.testing.assert_array_equal(other, plan.within(("dark",), times))
    assert one.sum() > other.sum() > 0
