"""`mien.reproduce`, from videos to a valid submission: action units, mimicry intensity, and the recipe winner_2026.

Encoders are tiny networks with random weights; what is tested is that every step has what the next one reads.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mien import checkpoint, config
from mien.datasets.affwild2_layout import VIDEO_SUFFIXES
from mien.reproduce import reproduce
from mien.synthetic import affwild2_export
from tests.encoders import test_images, test_speech
from tests.test_every_recipe import mien, needs_faces, tiny_recipe

pytestmark = needs_faces
EMI_HEADER = "Filename,Admiration,Amusement,Determination,Empathic Pain,Excitement,Joy"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five recordings in the layout of Aff-Wild2."""
    folder = tmp_path_factory.mktemp("corpus") / "root"
    affwild2_export.write_corpus(folder, videos=5, seconds=0.6, seed=3)
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Encoder -> folder of its tiny network."""
    folder = tmp_path_factory.mktemp("networks")
    return {
        "beit-large": test_images.tiny("beit", folder / "beit"),
        "dinov2-large": test_images.tiny("dinov2", folder / "dinov2"),
        "wavlm-large": test_speech.tiny("wavlm-large", folder / "wavlm"),
        "wav2vec2-large": test_speech.tiny("wav2vec2-large", folder / "wav2vec2"),
    }


def reproduce_and_submit(
    recipe: config.Recipe, root: Path, sample: Path, work: Path, task: str, corpus: str | None = None
) -> dict[str, float]:
    """Reproduce a recipe, write its submission and check it; returns the metrics of the run."""
    out, submission = work / "out", work / f"submission{sample.suffix}"
    done = reproduce(recipe, root, out, corpus=corpus, task=task, workers=0, device="cpu", on_step=lambda line: None)
    assert done.failed == 0
    assert done.page.stat().st_size > 10_000
    stored = ("--index", out / "index.jsonl", "--store", out / "features", "--device", "cpu")
    for words in (("submit", done.run, "--sample", sample, *stored, "--out", submission),
                  ("validate", submission, "--sample", sample)):  # fmt: skip
        result = mien(*words)
        assert result.exit_code == 0, f"{words[0]}: {result.output}\n{result.exception!r}"
    assert len(submission.read_text().splitlines()) == len(sample.read_text().splitlines()) > 1
    metrics: dict[str, float] = json.loads((done.run / checkpoint.METRICS).read_text())
    return metrics


def test_action_units(root: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    weights = ("objective.action_units=1", "objective.expression=0", "objective.valence_arousal=0")
    recipe = tiny_recipe("safe_cross_attention", sources, *weights)
    metrics = reproduce_and_submit(recipe, root, root / "AU_sample.txt", tmp_path, "au")
    assert "val_au_f1" in metrics
    assert "val_macro_f1" not in metrics


def test_mimicry_intensity(root: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    """The same recordings in the layout of Hume-Vidmimic2, of which two are for training and two for validation."""
    videos = sorted(path for path in root.rglob("*") if path.suffix in VIDEO_SUFFIXES)
    corpus = tmp_path / "vidmimic2"
    corpus.mkdir()
    rows = [f"{number:05d},0.{number},0.5,0,0.{9 - number},1,0.25" for number in range(len(videos))]
    for number, path in enumerate(videos):
        shutil.copy(path, corpus / f"{number:05d}{path.suffix}")
    (corpus / "train_split.csv").write_text("\n".join((EMI_HEADER, *rows[:2])))
    (corpus / "valid_split.csv").write_text("\n".join((EMI_HEADER, *rows[2:4])))
    sample = corpus / "test_split.csv"
    sample.write_text("Filename\n00004\n")
    weights = ("objective.mimicry=1", "objective.expression=0", "objective.valence_arousal=0")
    recipe = tiny_recipe("safe_cross_attention", sources, *weights, "corpus.options={}")
    metrics = reproduce_and_submit(recipe, corpus, sample, tmp_path, "emi", "vidmimic2")
    assert "val_emi_pearson" in metrics
    values = (tmp_path / "submission.csv").read_text().splitlines()[1].split(",")[1:]
    assert all(0 <= float(value) <= 1 for value in values)


def test_winner_2026(root: Path, sources: dict[str, Path], tmp_path: Path) -> None:
    metrics = reproduce_and_submit(
        tiny_recipe("winner_2026", sources), root, root / "EXPR_sample.txt", tmp_path, "expr"
    )
    assert "val_macro_f1" in metrics
