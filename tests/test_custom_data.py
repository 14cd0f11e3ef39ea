"""Training on own arrays: the Python blocks of docs/CUSTOM_DATA.md, and errors of `mien.custom_data`."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mien import checkpoint, config, custom_data
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


def constant_clips(count: int, seconds: float = 1.0, **options: Any) -> list[Any]:
    return [
        custom_data.recording(f"{i}", face=np.full(3, i), voice=np.ones(2), label="Anger", seconds=seconds, **options)
        for i in range(count)
    ]


def test_a_window_of_constant_clips_is_one_token() -> None:
    chosen = dict(c.split("=") for c in custom_data.defaults([*constant_clips(3), *constant_clips(2, seconds=2.5)]))
    assert {k: float(v) for k, v in chosen.items() if k.startswith("windows.") and k != "windows.jitter"} == {
        "windows.seconds": 2.5,
        "windows.hop_seconds": 2.5,
        "windows.rate_hz": 0.4,
    }
    changing = custom_data.recording("x", face=np.arange(50.0).reshape(25, 2), label="Anger")
    relabelled = custom_data.recording("y", face=np.ones(2), label=["Anger", "Fear"], seconds=1.0)
    for other in (changing, relabelled):
        assert not any(c.startswith("windows.") for c in custom_data.defaults([*constant_clips(3), other]))


def test_many_windows_make_larger_batches_and_fewer_epochs() -> None:
    few, many = (dict(c.split("=") for c in custom_data.defaults(constant_clips(n))) for n in (40, 3200))
    assert (few["train.batch"], few["train.epochs"]) == ("32", "30")
    assert (many["train.batch"], many["train.epochs"]) == ("100", "30")
    given = custom_data.defaults(constant_clips(3200), ["train.batch=8", "windows.seconds=2"])
    assert not any(c.startswith(("windows.", "train.batch")) for c in given)
    assert "train.epochs=12" in given, "400 steps an epoch"


def test_training_takes_the_defaults_unless_a_recipe_is_given(tmp_path: Path) -> None:
    clips = [replace(r, clip=replace(r.clip, split="train")) for r in constant_clips(4)]
    small = ["train.epochs=1", "model.dim=8", "model.heads=1", "model.layers=1"]
    run = checkpoint.load(custom_data.train(clips, tmp_path / "own", small, progress=False))
    assert run.recipe.windows.rate_hz == 1.0
    assert custom_data.predict(tmp_path / "own", clips[0])["time_s"].to_list() == [0.5]
    other = tmp_path / "other.yaml"
    other.write_text(config.dump(run.recipe).replace("rate_hz: 1.0", "rate_hz: 5.0"))
    run = checkpoint.load(custom_data.train(clips, tmp_path / "again", small, recipe=other, progress=False))
    assert run.recipe.windows.rate_hz == 5.0


def test_halves_of_digits_reach_a_logistic_regression_on_the_same_numbers(tmp_path: Path) -> None:
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(digits))
    images, digits = images[order].reshape(-1, 8, 8), digits[order]
    halves = {"face": images[:, :, :4].reshape(-1, 32), "voice": images[:, :, 4:].reshape(-1, 32)}
    names = [str(d) for d in range(10)]
    clips = [
        custom_data.recording(f"{i}", label=names[d], classes=names, split="train" if i < 400 else "test",
                              **{m: half[i] for m, half in halves.items()})
        for i, d in enumerate(digits)
    ]  # fmt: skip
    differences = []
    for seed in (1, 2):
        run = custom_data.train(
            clips[:400], tmp_path / f"{seed}", [f"train.seed={seed}", "train.threads=1"], classes=names, progress=False
        )
        model = checkpoint.load(run).model
        for kept in (("face", "voice"), ("face",), ("voice",)):
            values = {m: torch.tensor(halves[m][400:, None], dtype=torch.float32) for m in kept}
            with torch.no_grad():
                logits = model(values, {m: torch.ones(len(v), 1, dtype=torch.bool) for m, v in values.items()}).logits
            x = np.hstack([halves[m] for m in kept])
            peer = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(x[:400], digits[:400])
            ours, theirs = (
                f1_score(digits[400:], predicted, average="macro")
                for predicted in (logits[:, 0].argmax(-1).numpy(), peer.predict(x[400:]))
            )
            differences.append(ours - theirs)
    # over two seeds; a single difference of two scores on 1,400 clips has a standard error of about .01
    fused, face, voice = np.reshape(differences, (2, 3)).mean(axis=0)
    assert fused > 0
    assert min(face, voice) > -0.005
