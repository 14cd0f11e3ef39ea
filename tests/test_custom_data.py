"""Your own arrays: what docs/CUSTOM_DATA.md shows runs, and what does not fit is said."""

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
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page's Python leaves behind, run from top to bottom."""
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("own"))
        for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S):
            exec(compile(block, str(DOCS), "exec"), names)
        names["page"] = Path("runs/mine-report/evaluation.html").read_text()
    return names


def test_the_page_runs_and_learns(told: dict[str, Any]) -> None:
    assert told["scores"]["macro F1"] > 0.9
    assert "confused" in told["page"]


def test_a_split_keeps_people_together(told: dict[str, Any]) -> None:
    sides: dict[str, set[str]] = {}
    for clip in told["clips"]:
        sides.setdefault(clip.clip.subject, set()).add(clip.clip.split)
    assert all(len(found) == 1 for found in sides.values())
    assert {"train", "val"} == set.union(*sides.values())
    apart = custom_data.split(told["clips"], {"val": 0.5}, by="clip")
    assert sum(c.clip.split == "val" for c in apart) == 15


def test_single_vectors_and_no_modality_at_all() -> None:
    held = custom_data.recording("a", face=np.ones(4), voice=np.ones((1, 3)), label="Anger", seconds=2.0)
    assert {n: s.values.shape for n, s in held.streams.items()} == {"face": (20, 4), "voice": (20, 3)}
    assert held.clip.labels is not None
    assert (held.clip.labels.expression == 1).all()
    beside = custom_data.recording("b", face=np.ones((50, 4)), voice=np.ones(3), rate_hz={"face": 25.0, "voice": 1.0})
    assert beside.streams["voice"].times[-1] == pytest.approx(1.95), "held as long as the clip"
    assert custom_data.recording("c", face=None).streams == {}
    gap = np.ones((5, 2))
    gap[2] = np.nan
    assert custom_data.recording("d", voice=gap).streams["voice"].valid.tolist() == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "angry"}, "the label 'angry' is no class; did you mean \"Anger\""),
        ({"face": np.ones((2, 3, 4))}, r"face is an array of float64 with shape \(2, 3, 4\)"),
        ({"face": np.array(["a"])}, "face is an array of <U1"),
        ({"gaze": np.ones(3)}, "'gaze' is no modality"),
        ({"valence_arousal": [2.0, 0.0]}, "valence and arousal reach 2"),
        ({"label": ["Anger"], "label_times": np.arange(3)}, "labels of 3 times need expression"),
    ],
)
def test_what_does_not_fit_is_said(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        custom_data.recording("a", **options)


def test_training_without_a_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none of 2 recordings is labelled and of the split 'train'"):
        custom_data.train([custom_data.recording(n, face=np.ones((5, 2))) for n in "ab"], tmp_path)
