"""A corpus through the command line: index, extract, train, evaluate, submit, validate, reproduce."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner, Result

from mien import config
from mien.cli.main import app
from mien.labels import ACTION_UNITS, COMPOUND_EXPRESSIONS, MIMICRY
from mien.store import FeatureStore
from mien.synthetic import affwild2_export
from tests.encoders.test_images import tiny as tiny_images
from tests.encoders.test_speech import tiny as tiny_speech

SMALL = ("model.dim=8", "model.heads=2", "model.layers=1", "train.epochs=2", "train.batch=4")


def mien(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def mien_ok(*words: object) -> str:
    result = mien(*words)
    assert result.exit_code == 0, f"mien {' '.join(map(str, words))}:\n{result.output}\n{result.exception!r}"
    return result.output


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of eight short recordings, two for validation, in the layout of Aff-Wild2, its index and features."""
    work = tmp_path_factory.mktemp("corpus")
    affwild2_export.write_corpus(work / "root", videos=8, seconds=0.6, seed=3)
    mien_ok("index", "aff-wild2", work / "root", "--out", work / "index.jsonl")
    encoders = ("--encoder", "face-geometry", "--encoder", "voice-prosody")
    mien_ok("extract", work / "index.jsonl", *encoders, "--store", work / "features", "--workers", 1)
    return work


@pytest.fixture(scope="module")
def run(work: Path) -> Path:
    stored = ("--index", work / "index.jsonl", "--store", work / "features")
    mien_ok("train", "synthetic", *SMALL, *stored, "--out", work / "run", "--device", "cpu")
    return work / "run"


def test_evaluate_scores_a_checkpoint_trained_on_stored_features(work: Path, run: Path) -> None:
    output = mien_ok("evaluate", run, work / "index.jsonl", "--store", work / "features", "--out", work / "report")
    assert "macro F1" in output
    record = json.loads((work / "report" / "evaluation.json").read_text())
    scores = {s["key"]: s["value"] for s in record["scores"]}
    assert 0 <= scores["macro_f1"] <= 1
    assert -1 <= scores["va_score"] <= 1
    rows = [r["mark"] for r in record["calibration"]["rows"]]
    assert rows == ["", "chosen", "optimistic"], "the row tuned on the scored clips is marked optimistic"
    frames = pl.read_parquet(work / "report" / "predictions.parquet")
    assert record["clips"] == 2
    assert len(frames) >= record["frames"]
    assert (run / "calibration.json").is_file(), "mien submit applies it"
    page = (work / "report" / "evaluation.html").read_text()
    assert "optimistic" in page
    assert "<script src" not in page, "self-contained"


def test_robustness_scores_the_fused_system_and_each_modality(work: Path, run: Path) -> None:
    options = ("--store", work / "features", "--robustness", "--no-calibrate", "--out", work / "robust")
    mien_ok("evaluate", run, work / "index.jsonl", *options)
    rows = pl.DataFrame(json.loads((work / "robust" / "evaluation.json").read_text())["robustness"])
    assert set(rows["model"]) == {"fused", "face alone", "voice alone"}
    assert {"face frames missing", "voice silent", "voice late"} <= set(rows["corruption"])


def test_footage_scores_corrupted_recordings(work: Path, run: Path) -> None:
    options = ("--store", work / "features", "--footage", "--no-calibrate", "--out", work / "footage")
    mien_ok("evaluate", run, work / "index.jsonl", *options)
    rows = pl.DataFrame(json.loads((work / "footage" / "evaluation.json").read_text())["robustness"])
    kinds = {"dark", "blurred", "covered from below", "sound in noise", "sound silent", "sound late"}
    assert set(rows["corruption"]) == kinds
    assert rows.filter(pl.col("corruption") == "dark").height == 7 * 3
    clean = rows.filter((pl.col("corruption") == "dark") & (pl.col("level") == 0) & (pl.col("model") == "fused"))
    stored = json.loads((work / "report" / "evaluation.json").read_text()) if (work / "report").exists() else None
    if stored:
        score = {s["key"]: s["value"] for s in stored["scores"]}["accuracy"]
        assert clean["accuracy"][0] == pytest.approx(score, abs=0.1), (
            "without corruption, it equals the score from the store"
        )


def test_submission_of_the_checkpoint_is_valid(work: Path, run: Path) -> None:
    sample = work / "root" / "EXPR_sample.txt"
    out = work / "submission.txt"
    mien_ok(
        "submit", run, "--index", work / "index.jsonl", "--store", work / "features", "--sample", sample, "--out", out
    )
    mien_ok("validate", out, "--sample", sample)
    assert len(out.read_text().splitlines()) == len(sample.read_text().splitlines())


def test_train_with_index_but_without_store_starts_nothing(work: Path, tmp_path: Path) -> None:
    result = mien("train", "synthetic", "--index", work / "index.jsonl", "--out", tmp_path / "run")
    assert result.exit_code == 2
    assert "--store is missing" in result.output
    assert "Nothing was trained." in result.output
    assert "Give both --index and --store" in " ".join(result.output.split())
    assert not (tmp_path / "run").exists()


def test_evaluate_names_an_unlabelled_split_and_an_empty_store(work: Path, run: Path, tmp_path: Path) -> None:
    result = mien("evaluate", run, work / "index.jsonl", "--store", work / "features", "--split", "dev")
    assert result.exit_code != 0
    assert "no labelled clip in the split 'dev'" in result.output
    (tmp_path / "features").mkdir()
    result = mien("evaluate", run, work / "index.jsonl", "--store", tmp_path / "features")
    assert result.exit_code != 0
    assert "face-geometry" in result.output


def scores_of(output: str) -> list[str]:
    """Lines of `mien reproduce` without the progress of its steps, which depends on the speed of the machine."""
    return [line for line in output.splitlines() if not line.startswith(("extracting", "robustness", "predicting"))]


def test_reproduce_runs_every_step_and_resumes(work: Path, tmp_path: Path) -> None:
    corpus = ("--root", work / "root", "--corpus", "aff-wild2")
    words = ("reproduce", "synthetic", *SMALL, *corpus, "--out", tmp_path / "all")
    output = mien_ok(*words, "--device", "cpu", "--robustness")
    assert "macro F1" in output
    assert "differs  trained and scored on aff-wild2" in output
    record = json.loads((tmp_path / "all" / "report" / "evaluation.json").read_text())
    assert "model.dim: 8 in place of 80" in record["differs"]
    assert record["robustness"]
    assert (tmp_path / "all" / "run" / "calibration.json").is_file()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "all").rglob("*") if p.is_file()}
    assert scores_of(mien_ok(*words, "--device", "cpu", "--robustness")) == scores_of(output)
    changed = [p.name for p, mtime in before.items() if p.stat().st_mtime_ns != mtime]
    assert set(changed) <= {"metrics.json"}, "a second run has nothing to do"
    for part in (tmp_path / "all" / "run").rglob("*"):
        part.unlink()
    mien_ok(*words, "--device", "cpu", "--robustness")
    again = json.loads((tmp_path / "all" / "report" / "evaluation.json").read_text())
    assert again["scores"] == record["scores"], "a second training gives the same scores"


def test_reproduce_with_tiny_beit_and_wavlm(work: Path, tmp_path: Path, extraction_in_this_process: None) -> None:
    """The flagship with BEiT and WavLM of two layers each, over the corpus's crops and the sound."""
    beit, wavlm = tiny_images("beit", tmp_path / "beit"), tiny_speech("wavlm-large", tmp_path / "wavlm")
    sources = [
        f"features.face={{encoder: beit-large, dim: 32, options: {{source: {beit}}}}}",
        f"features.voice={{encoder: wavlm-large, dim: 32, options: {{source: {wavlm}, precision: float32}}}}",
    ]
    output = mien_ok(
        *("reproduce", "safe_cross_attention", *SMALL, *sources, "--device", "cpu"),
        *("--root", work / "root", "--out", tmp_path / "out"),
    )
    assert "CCC" not in output, "the recipe trains no valence and arousal"
    macro = next(line for line in output.splitlines() if line.startswith("macro F1"))
    assert macro.split()[-1] == ".503", "the published score is beside the measured one"
    report = (tmp_path / "out" / "report" / "evaluation.html").read_text()
    assert "both encoders are frozen; the paper does not state whether they are fine-tuned" in report
    clip = next((work / "root").rglob("*.mp4"))
    run = tmp_path / "moved"
    (tmp_path / "out" / "run").rename(run)
    for name, options in {"both": (), "voice": ("--no-face",), "face": ("--no-voice",)}.items():
        mien_ok("predict", clip, "--model", run, "--out", tmp_path / name, "--format", "parquet", *options)
        table = pl.read_parquet(next((tmp_path / name).rglob("timeline.parquet")))
        known = table.filter(pl.col("expression").is_not_null())
        assert len(known) > 0.5 * len(table), name
        sums = known.select(pl.sum_horizontal(pl.col("^p_.*$"))).to_series()
        assert (sums - 1).abs().max() < 1e-4
        assert table["valence"].null_count() == len(table), "the recipe trains no valence and arousal"
        assert set(table["evidence"]) <= {"none", *({"both": ("both", "face", "voice")}.get(name, (name,)))}


def test_reproduce_the_winner_of_2026_with_a_tuned_face_encoder(
    work: Path, tmp_path: Path, extraction_in_this_process: None
) -> None:
    """From faces to a tuned encoder, and from recordings to a valid submission, with networks of two layers."""
    dinov2, speech = tiny_images("dinov2", tmp_path / "dinov2"), tiny_speech("wav2vec2-large", tmp_path / "wav2vec2")
    rng = np.random.default_rng(0)
    for name in ("neutral", "anger"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(8):
            image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "faces" / name / f"{number}.png"), image)
    fast = ("train.epochs=1", "train.threads=1", "corpus.options.align=false")
    mien_ok(
        *("tune", f"dinov2-large={dinov2}", "--data", f"class-folders={tmp_path / 'faces'}", "--lora", 2, *fast),
        *("--out", tmp_path / "tuned", "--device", "cpu"),
    )
    sources = [
        f"features.face={{encoder: dinov2-large, options: {{source: {tmp_path / 'tuned'}, scales: [1.0, 1.3]}}}}",
        f"features.voice={{encoder: wav2vec2-large, options: {{source: {speech}, layer: -1, last: 2}}}}",
    ]
    words = ("reproduce", "winner_2026", "model.dim=8", "train.epochs=1", "train.batch=4", *sources, "--device", "cpu")
    output = mien_ok(*words, "--root", work / "root", "--out", tmp_path / "out")
    macro = next(line for line in output.splitlines() if line.startswith("macro F1"))
    assert macro.split()[-1] == ".537"
    provenance = json.loads((tmp_path / "out" / "run" / "inputs.json").read_text())["face"]["provenance"]
    assert provenance["tuned"].startswith("lora, rank 2")
    assert provenance["crop"].endswith("mean of scales 1 1.3")
    run, clip = tmp_path / "out" / "run", next((work / "root").rglob("*.mp4"))
    mien_ok("predict", clip, "--model", run, "--out", tmp_path / "seen", "--format", "parquet")
    table = pl.read_parquet(next((tmp_path / "seen").rglob("timeline.parquet")))
    assert table["expression"].is_not_null().any()


def test_reproduce_refuses_a_folder_of_another_recipe(work: Path, tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text(json.dumps({"recipe": "a: 1", "corpus": "c", "faces": "video"}))
    result = mien("reproduce", "synthetic", *SMALL, "--root", work / "root", "--corpus", "aff-wild2", "--out", tmp_path)
    assert result.exit_code == 2
    assert "was started with another recipe and another corpus; a: was 1, now None; " in " ".join(result.output.split())


def check_evaluation_without_expressions(folder: Path, output: str) -> None:
    """The clips have labels of expressions as well, but the system predicts none."""
    assert "mean CCC" in output
    assert "F1" not in output
    record = json.loads((folder / "evaluation.json").read_text())
    assert [s["key"] for s in record["scores"]] == ["ccc valence", "ccc arousal", "va_score"]
    assert (record["by_class"], record["confusion"], record["reliability"]) == ([], [], [])
    assert {row["macro_f1"] for row in record["robustness"]} == {None}
    assert all(-1 <= row["va_score"] <= 1 for row in record["robustness"])
    chosen = record["calibration"]["chosen"]
    assert (chosen["bias"], chosen["temperature"], chosen["expression"]["seconds"]) == ([], 1.0, 0.0)
    assert record["calibration"]["grid"] == []
    page = (folder / "evaluation.html").read_text()
    for words in ("macro F1", "Macro F1", "Confusion", "By class", "class bias", "nan"):
        assert words not in page.split("</style>")[1], words
    frames = pl.read_parquet(folder / "predictions.parquet")
    assert frames["truth"].null_count() < len(frames), "or this test shows nothing"
    assert frames["p_neutral"].null_count() == len(frames)
    assert frames["valence"].null_count() < len(frames)


def test_fusion_trains_on_derived_features_of_va_stages(work: Path, tmp_path: Path) -> None:
    stored = ("--index", work / "index.jsonl", "--store", work / "features", "--task", "va", "--device", "cpu")
    short = "windows={seconds: 2.0, hop_seconds: 1.0, rate_hz: 10.0}"
    small = ("model.dim=8", "model.heads=2", "train.epochs=1", "train.batch=4", "vote.hop_seconds=1.0")
    mien_ok("extract", work / "index.jsonl", "--encoder", "mouth-opening", "--store", work / "features", "--workers", 1)
    for name, encoder in (("face", "face-geometry"), ("voice", "voice-prosody")):
        feature = f"features.{name}={{encoder: {encoder}}}"
        mien_ok("train", f"va_{name}", feature, short, *small, *stored, "--out", tmp_path / f"va_{name}")
        output = mien_ok("derive", tmp_path / f"va_{name}", work / "index.jsonl", "--store", work / "features")
        assert f"called va_{name}" in output
    clip = next((work / "root").rglob("*.mp4"))
    mien_ok("predict", clip, "--model", tmp_path / "va_face", "--out", tmp_path / "seen", "--report", "--overlay")
    seen = pl.read_csv(next((tmp_path / "seen").rglob("timeline.csv")))
    assert seen["expression"].null_count() == len(seen), "a system of valence and arousal predicts no expression"
    assert seen["valence"].null_count() < len(seen)
    listed = mien_ok("store", "ls", work / "features")
    assert "va_face" in listed
    assert "va_voice" in listed
    recipe = tmp_path / "two.yaml"
    text = config.dump(config.load("va_reliability"))
    recipe.write_text(text.replace("  behaviour:\n    encoder: va_behaviour\n    dim: 258\n    options: {}\n", ""))
    widths = ("features.face.dim=10", "features.voice.dim=10", "model.prior={face: 0.8}")
    mien_ok("train", recipe, *widths, short, *small, *stored, "--out", tmp_path / "fused")
    options = ("--store", work / "features", "--robustness", "--out", tmp_path / "report")
    output = mien_ok("evaluate", tmp_path / "fused", work / "index.jsonl", *options)
    check_evaluation_without_expressions(tmp_path / "report", output)
    assert mien("derive", tmp_path / "fused", work / "index.jsonl", "--store", work / "features").exit_code == 2


def test_train_on_images_writes_an_encoder(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("neutral", "anger"):
            for i in range(6):
                image = rng.integers(0, 90, (24, 24, 3), dtype=np.uint8) + (120 if name == "anger" else 0)
                path = tmp_path / "faces" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), image.astype(np.uint8))
    small = (
        "model.stem=8",
        "model.widths=[8]",
        "model.depths=[1]",
        "train.epochs=1",
        "train.batch=4",
        "train.threads=1",
    )
    corpus = ("corpus.name=class-folders", "corpus.labels=[Neutral, Anger]", "corpus.options={labelled: 2, size: 24}")
    run = tmp_path / "run"
    output = mien_ok("train", "dynamic_threshold", *small, *corpus, "--root", tmp_path / "faces", "--out", run)
    assert "4 labelled images, 12 unlabelled, 12 to score" in output
    assert "val_accuracy" in output
    assert f"--encoder {run}" in output.replace("\n", "")


# -- action units, compound expressions, mimicry intensity ----------------------------------------------------

ONLY_SCORES = ("objective.expression=0", "objective.valence_arousal=0")


def test_action_units_are_trained_scored_and_submitted(work: Path, tmp_path: Path) -> None:
    """The labels are the strengths that deform the rendered faces."""
    index, stored, run = work / "index.jsonl", ("--store", work / "features"), tmp_path / "run"
    options = ("objective.action_units=1", *ONLY_SCORES, "--task", "au", "--device", "cpu")
    mien_ok("train", "synthetic", *SMALL, *options, "--index", index, *stored, "--out", run)
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 <= metrics["val_au_f1"] <= 1
    assert "val_macro_f1" not in metrics
    assert "mean F1 of action units" in mien_ok("evaluate", run, index, *stored, "--out", tmp_path / "report")
    record = json.loads((tmp_path / "report" / "evaluation.json").read_text())
    assert [s["key"] for s in record["scores"]] == ["au_f1"]
    assert [row["name"] for row in record["by_column"]] == list(ACTION_UNITS)
    assert "Action units" in (tmp_path / "report" / "evaluation.html").read_text()
    frames = pl.read_parquet(tmp_path / "report" / "predictions.parquet")
    assert frames["au AU12"].is_between(0, 1).all()
    assert set(frames["truth au AU12"].drop_nulls()) <= {0.0, 1.0}
    sample, out = work / "root" / "AU_sample.txt", tmp_path / "au.txt"
    assert "no fault found" in mien_ok("submit", run, "--sample", sample, "--out", out, "--index", index, *stored)
    lines = out.read_text().splitlines()
    assert lines[0] == "image_location,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26"
    assert len(lines) == len(sample.read_text().splitlines())
    compounds = compound_sample(work, tmp_path)
    result = mien("submit", run, "--sample", compounds, "--out", tmp_path / "ce.txt", "--index", index, *stored)
    assert result.exit_code == 2
    assert "does not predict compound expressions" in result.output


def compound_sample(work: Path, tmp_path: Path) -> Path:
    """A sample file of compound expressions with the frames of the expression sample."""
    header = ",".join(("image_location", *(name.replace(" ", "_") for name in COMPOUND_EXPRESSIONS)))
    rows = (work / "root" / "EXPR_sample.txt").read_text().splitlines()[1:]
    path = tmp_path / "ce_sample.txt"
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def test_compound_expressions_follow_from_a_system_of_expressions(work: Path, run: Path, tmp_path: Path) -> None:
    index, stored = work / "index.jsonl", ("--store", work / "features")
    sample, out = compound_sample(work, tmp_path), tmp_path / "ce.txt"
    result = mien("submit", run, "--sample", sample, "--out", out, "--index", index, *stored, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert {int(line.split(",")[1]) for line in out.read_text().splitlines()[1:]} <= set(range(7))
    result = mien("evaluate", run, index, *stored, "--task", "au", "--out", tmp_path / "report")
    assert result.exit_code == 2
    assert "does not predict action units" in result.output
    assert "objective.action_units=1 --task au" in " ".join(result.output.split())
    result = mien("train", "synthetic", *SMALL, "--index", index, *stored, "--task", "au", "--out", tmp_path / "x")
    assert result.exit_code == 2
    assert "Add objective.action_units=1" in " ".join(result.output.split())


def test_mimicry_intensity_is_trained_scored_and_submitted(work: Path, tmp_path: Path) -> None:
    root, rng, header = tmp_path / "vidmimic2", np.random.default_rng(0), ",".join(("Filename", *MIMICRY))
    tables = {f"{split}_split.csv": [header] for split in ("train", "valid", "test")}
    features, copies = FeatureStore(work / "features"), FeatureStore(tmp_path / "features")
    (root / "videos").mkdir(parents=True)
    for number, split in enumerate(("train", "train", "valid", "valid", "test")):
        video = sorted((work / "root").rglob("*.mp4"))[number]
        name = f"{number:05d}"
        (root / "videos" / f"{name}.mp4").write_bytes(video.read_bytes())
        tables[f"{split}_split.csv"].append(",".join((name, *(f"{value:.3f}" for value in rng.random(6)))))
        for encoder in ("face-geometry", "voice-prosody"):
            stream = features.open(encoder)[video.stem].stream()
            copies.write(encoder, name, stream, provenance=stream.provenance)
    for name, lines in tables.items():
        (root / name).write_text("\n".join(lines) + "\n")
    index, run = tmp_path / "index.jsonl", tmp_path / "run"
    mien_ok("index", "vidmimic2", root, "--out", index)
    stored = ("--index", index, "--store", copies.root)
    options = ("objective.mimicry=1", *ONLY_SCORES, "--device", "cpu")
    mien_ok("train", "synthetic", *SMALL, *options, *stored, "--out", run)
    report = mien_ok("evaluate", run, index, *stored[2:], "--out", tmp_path / "report")
    assert "mean Pearson correlation" in report
    sample, out = root / "test_split.csv", tmp_path / "emi.csv"
    assert "no fault found" in mien_ok("submit", run, "--sample", sample, "--out", out, *stored)
    first, row = out.read_text().splitlines()
    assert (first, row.split(",")[0]) == (header, "00004")
    assert all(0 <= float(value) <= 1 for value in row.split(",")[1:])
