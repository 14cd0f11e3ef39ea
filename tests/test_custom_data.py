"""Training on own arrays: the Python blocks of docs/CUSTOM_DATA.md, and errors of `mien.custom_data`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien import custom_data
from mien.errors import ConfigError

DOCS = Path(__file__).parents[1] / "docs" / "CUSTOM_DATA.md"


@pytest.fixture(scope="module")
def page_names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The variables of the page's Python blocks, run from top to bottom, and the HTML report as `page`."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("own"))
        for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S):
            exec(compile(block, str(DOCS), "exec"), names)
        names["page"] = Path("runs/mine-report/evaluation.html").read_text()
    return names


def test_the_docs_example_trains_to_a_high_score(page_names: dict[str, Any]) -> None:
    assert page_names["scores"]["macro F1"] > 0.9
    assert "confused" in page_names["page"]


def test_split_keeps_the_clips_of_a_person_together(page_names: dict[str, Any]) -> None:
    splits: dict[str, set[str]] = {}
    for clip in page_names["clips"]:
        splits.setdefault(clip.clip.subject, set()).add(clip.clip.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "val"} == set.union(*splits.values())
    by_clip = custom_data.split(page_names["clips"], {"val": 0.5}, by="clip")
    assert sum(c.clip.split == "val" for c in by_clip) == 15


def test_recording_accepts_single_vectors_gaps_and_no_modality() -> None:
    repeated = custom_data.recording("a", face=np.ones(4), voice=np.ones((1, 3)), label="Anger", seconds=2.0)
    assert {n: s.values.shape for n, s in repeated.streams.items()} == {"face": (20, 4), "voice": (20, 3)}
    assert repeated.clip.labels is not None
    assert (repeated.clip.labels.expression == 1).all()
    with_sequence = custom_data.recording(
        "b", face=np.ones((50, 4)), voice=np.ones(3), rate_hz={"face": 25.0, "voice": 1.0}
    )
    assert with_sequence.streams["voice"].times[-1] == pytest.approx(1.95), "the vector is repeated over the clip"
    assert custom_data.recording("c", face=None).streams == {}
    gap = np.ones((5, 2))
    gap[2] = np.nan
    assert custom_data.recording("d", voice=gap).streams["voice"].valid.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "angry"}, "the label 'angry' is not a class; did you mean \"Anger\""),
        ({"face": np.ones((2, 3, 4))}, r"face is an array of float64 with shape \(2, 3, 4\)"),
        ({"face": np.array(["a"])}, "face is an array of <U1"),
        ({"gaze": np.ones(3)}, "'gaze' is not a modality"),
        (
            {"valence_arousal": [2.0, 0.0]},
            r"valence and arousal reach 2, outside \[-1, 1\]\nThe recording was not created.\nScale them",
        ),
        ({"label": ["Anger"], "label_times": np.arange(3)}, "labels of 3 times need expression"),
    ],
)
def test_recording_names_invalid_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        custom_data.recording("a", **options)


def test_training_without_a_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of 2 recordings has a label and the split 'train'"):
        custom_data.train([custom_data.recording(n, face=np.ones((5, 2))) for n in "ab"], tmp_path)
