"""The command line: files, output and exit codes, in one process and as a subprocess."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import save_tiny
from typer.main import get_command
from typer.testing import CliRunner, Result

from mien import config
from mien.cli import console, doctor
from mien.cli.inputs import plan_jobs
from mien.cli.main import SECTIONS, app
from mien.config import Recipe
from mien.errors import MienError
from mien.media.video import frames, write_video
from mien.timeline.table import Timeline


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_tiny(tmp_path_factory.mktemp("model") / "tiny"))


def clip(path: Path, seconds: float = 0.6, *, sound: bool = True) -> Path:
    """A small grey video with a hum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n = int(seconds * 25)
    hum = (0.01 * np.sin(np.arange(int(seconds * 16_000)) / 50)).astype(np.float32)
    pictures = (np.full((48, 64, 3), 90, np.uint8) for _ in range(n))
    write_video(path, pictures, times=[i / 25 for i in range(n)], audio=hum if sound else None)
    return path


def mien(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def predict(model: str, out: Path, *words: object) -> Result:
    """`mien predict` from the voice alone, so that no network from outside is needed."""
    return mien("predict", *words, "--model", model, "--out", out, "--no-face", "--device", "cpu")


# --- predict: output files ---


def test_predict_writes_a_folder_for_each_input(model: str, tmp_path: Path) -> None:
    done = predict(model, tmp_path / "out", clip(tmp_path / "grüße.mp4"), clip(tmp_path / "b c.mp4"), "--report")
    assert done.exit_code == 0, done.output
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")) == [
        "b c",
        "b c/report.html",
        "b c/timeline.csv",
        "b c/timeline.json",
        "grüße",
        "grüße/report.html",
        "grüße/timeline.csv",
        "grüße/timeline.json",
        "index.html",
        "timelines.csv",
    ]
    assert len(Timeline.read(tmp_path / "out" / "grüße" / "timeline.csv")) == 15
    assert str(tmp_path / "out" / "b c" / "report.html") in done.stdout.replace("\n", "")


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_predict_writes_the_requested_format(model: str, tmp_path: Path, ending: str) -> None:
    assert predict(model, tmp_path, clip(tmp_path / "a.mp4"), "--format", ending).exit_code == 0
    assert len(Timeline.read(tmp_path / "a" / f"timeline.{ending}")) == 15


def test_predict_writes_an_overlay_and_a_report_without_the_recording(model: str, tmp_path: Path) -> None:
    done = predict(model, tmp_path / "out", clip(tmp_path / "a.mp4"), "--overlay", "--report", "--no-embed")
    assert done.exit_code == 0, done.output
    assert len(list(frames(tmp_path / "out" / "a" / "overlay.mp4"))) == 15
    assert 'class="media">' not in (tmp_path / "out" / "a" / "report.html").read_text()


def test_overlay_of_a_sound_file_is_skipped_with_a_note(model: str, tmp_path: Path) -> None:
    write_video(tmp_path / "s.mp4", [], times=[], audio=np.zeros(16_000, np.float32))
    done = predict(model, tmp_path / "out", tmp_path / "s.mp4", "--overlay")
    assert done.exit_code == 0
    assert "no overlay was written, because there are no pictures to draw on" in done.stdout
    assert not (tmp_path / "out" / "s" / "overlay.mp4").exists()


def test_folders_are_searched_recursively(model: str, tmp_path: Path) -> None:
    for name in ("f/one.mp4", "f/deep/er/two.MP4", "f/.hidden/three.mp4"):
        clip(tmp_path / name.replace(".MP4", ".mp4")).rename(tmp_path / name)
    (tmp_path / "f" / "notes.txt").write_text("no media")
    done = predict(model, tmp_path / "f" / "out", tmp_path / "f")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in (tmp_path / "f" / "out").iterdir() if p.is_dir()) == ["one", "two"]
    again = predict(model, tmp_path / "f" / "out", tmp_path / "f", "--overlay", "--json")
    assert len(json.loads(again.stdout)["results"]) == 2, "its own results are not media to predict"


def test_json_output_is_one_object(model: str, tmp_path: Path) -> None:
    done = predict(model, tmp_path / "o", clip(tmp_path / "a.mp4"), tmp_path / "gone.mp4", "--json")
    output = json.loads(done.stdout)
    assert done.exit_code == 1
    (result,) = output["results"]
    assert result["rows"] == 15
    assert result["timeline"] == str(tmp_path / "o" / "a" / "timeline.csv")
    assert result["subjects"][0]["evidence"]["none"] == 1
    assert result["seconds"]["total"] > 0
    assert "no speech was detected" in result["notes"]
    (failed,) = output["failed"]
    assert failed["media"] == str(tmp_path / "gone.mp4")
    assert "gone.mp4" in failed["what"]
    assert failed["remedy"]


def test_many_inputs_get_one_line_each(model: str, tmp_path: Path) -> None:
    for i in range(5):
        clip(tmp_path / "f" / f"c{i}.mp4", 0.2)
    done = predict(model, tmp_path / "o", tmp_path / "f")
    assert done.exit_code == 0
    assert [f"c{i}.mp4: 5 rows" in done.stdout for i in range(5)] == [True] * 5
    assert "Subject 0" not in done.stdout


# --- predict: errors ---


def test_failed_inputs_are_listed_and_the_others_finished(model: str, tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no film " * 40)
    good = clip(tmp_path / "good.mp4")
    done = predict(model, tmp_path / "o", tmp_path / "empty.mp4", good, tmp_path / "text.mp4")
    assert done.exit_code == 1
    assert (tmp_path / "o" / "good" / "timeline.csv").exists()
    assert sorted(p.name for p in (tmp_path / "o").iterdir() if p.is_dir()) == ["good"]
    assert "2 of 3 inputs failed" in done.stderr
    assert "empty.mp4" in done.stderr.split("inputs failed")[1]
    assert "Traceback" not in done.output


def test_a_folder_without_media_is_an_error(model: str, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    done = predict(model, tmp_path / "o", tmp_path / "bare")
    assert done.exit_code == 1
    assert "bare holds no media" in done.stderr
    assert not (tmp_path / "o").exists()


def test_unknown_model_exits_with_2(tmp_path: Path) -> None:
    done = predict("startr", tmp_path / "o", clip(tmp_path / "a.mp4"), clip(tmp_path / "b.mp4"))
    assert done.exit_code == 2
    assert done.stderr.count("startr") >= 1
    assert "starter" in done.stderr
    assert not list((tmp_path / "o").glob("*/*"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "Usage"),
        (["a.mp4", "--format", "xlsx"], "xlsx"),
        (["a.mp4", "--no-face", "--no-voice"], "nothing to predict from"),
        (["a.mp4", "--reprot"], "--report"),
    ],
)
def test_usage_errors_exit_with_2(words: list[str], expected: str) -> None:
    done = mien("predict", *words)
    assert done.exit_code == 2
    assert expected in done.output


def test_unwritable_output_folder_fails_before_prediction(model: str, tmp_path: Path) -> None:
    (tmp_path / "o").write_text("a file where the folder should be")
    done = predict(model, tmp_path / "o", clip(tmp_path / "a.mp4"))
    assert done.exit_code == 1
    assert "is a file" in done.stderr
    assert "rows" not in done.stdout


def test_unexpected_exception_fails_only_its_input(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.predict.predictor import ModelPredictor

    original = ModelPredictor.predict

    def fail_on_bad(self: ModelPredictor, path: Path, **options: Any) -> Timeline:
        if path.stem == "bad":
            raise ZeroDivisionError("a bug of ours")
        return original(self, path, **options)

    monkeypatch.setattr(ModelPredictor, "predict", fail_on_bad)
    done = predict(model, tmp_path / "o", clip(tmp_path / "bad.mp4"), clip(tmp_path / "good.mp4"))
    assert done.exit_code == 1
    assert "ZeroDivisionError: a bug of ours" in done.stderr
    assert "MIEN_DEBUG=1" in done.stderr
    assert (tmp_path / "o" / "good" / "timeline.csv").exists()


def test_missing_networks_name_the_download_command(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MIEN_HUB", ""), ("MIEN_CACHE", str(tmp_path / "none")), ("MIEN_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
    done = mien("predict", clip(tmp_path / "a.mp4"), "--model", model, "--out", tmp_path / "o")
    assert done.exit_code == 1
    for part in ("mien hub pull", "--no-face", "Apache-2.0", "kB"):
        assert part in done.stderr, part


def test_predict_says_what_it_downloads_before_it_does(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The download fails at once, because no pip can be run."""
    from mien import hub

    monkeypatch.setenv("MIEN_HUB", "")
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MIEN_OFFLINE", raising=False)
    monkeypatch.setattr(hub, "_pip", lambda artefact: ["false"])
    video = clip(tmp_path / "a.mp4")
    said = mien("predict", video, "--model", model, "--out", tmp_path / "o").stderr.replace("\n", " ")
    assert "downloading blazeface" in said
    assert "230 kB, Apache-2.0" in said
    assert "PyPI (the wheel mediapipe" in said
    monkeypatch.setenv("MIEN_OFFLINE", "1")
    offline = mien("predict", video, "--model", model, "--out", tmp_path / "o").stderr
    assert "downloading" not in offline
    assert "MIEN_OFFLINE forbids downloads" in offline.replace("\n", " ")


# --- result folders ---


def test_inputs_with_the_same_stem_get_distinct_folders(tmp_path: Path) -> None:
    media = [tmp_path / name for name in ("mon/clip.mp4", "tue/clip.mp4", "tue/clip.wav", "tue/other.mp4")]
    plan = plan_jobs(media, Path("out"))
    jobs = plan.jobs
    assert not plan.errors
    assert [j.folder.name for j in jobs] == ["mon-clip-mp4", "tue-clip-mp4", "tue-clip-wav", "other"]
    jobs = plan_jobs(media[:2], Path("out")).jobs
    assert [j.folder.name for j in jobs] == ["mon-clip", "tue-clip"]
    jobs = plan_jobs(media[1:3], Path("out")).jobs
    assert [j.folder.name for j in jobs] == ["clip-mp4", "clip-wav"]


def test_stems_that_differ_only_in_case_get_distinct_folders(tmp_path: Path) -> None:
    jobs = plan_jobs([tmp_path / "a/Clip.mp4", tmp_path / "b/clip.mp4", tmp_path / "a-Clip.mp4"], Path("out")).jobs
    names = [j.folder.name.casefold() for j in jobs]
    assert len(set(names)) == 3


def test_a_file_named_twice_is_one_job(tmp_path: Path) -> None:
    clip(tmp_path / "f" / "a.mp4", 0.2)
    jobs = plan_jobs([tmp_path / "f" / "a.mp4", tmp_path / "f"], Path("out")).jobs
    assert len(jobs) == 1


def test_renamed_result_folders_are_reported(model: str, tmp_path: Path) -> None:
    done = predict(model, tmp_path / "o", clip(tmp_path / "x" / "a.mp4", 0.2), clip(tmp_path / "y" / "a.mp4", 0.2))
    assert done.exit_code == 0
    assert "share a name" in done.stderr
    assert sorted(p.name for p in (tmp_path / "o").iterdir() if p.is_dir()) == ["x-a", "y-a"]


# --- the other commands ---


def test_help_has_examples_outputs_and_exit_codes() -> None:
    text = mien("predict", "--help").stdout
    for part in ("mien predict clip.mp4 --report", "OUT/<stem>/timeline.csv", "Exit code", "--no-embed"):
        assert part in text


def test_help_lists_every_command_on_one_line_and_each_help_has_an_example() -> None:
    overview = mien("--help").stdout
    commands = [name for names in SECTIONS.values() for name in names]
    assert sorted(commands) == sorted(get_command(app).commands), "SECTIONS lists every command once"  # type: ignore[attr-defined]
    positions = [overview.index(f"\n  {name} ") for name in commands]
    assert positions == sorted(positions)
    assert "..." not in "".join(line for line in overview.splitlines() if line.startswith("  ")), "no line is cut"
    for command in commands:
        done = mien(command, "--help")
        assert done.exit_code == 0
        assert command in ("store", "hub") or f"    mien {command}" in done.stdout


def test_mistyped_command_suggests_the_right_one() -> None:
    done = mien("perdict")
    assert done.exit_code == 2
    assert "predict" in done.output


def test_hub_lists_artefacts_with_size_and_licence() -> None:
    rows = json.loads(mien("hub", "list", "--json").stdout)
    by_name = {row["name"]: row for row in rows}
    assert by_name["blazeface"]["licence"] == "Apache-2.0"
    assert by_name["facemesh"]["size"] == 1_242_398
    listed = mien("hub", "list").stdout
    assert "openwakeword-melspectrogram " in listed, "no name is broken into lines"


def test_hub_list_knows_every_name_that_model_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIEN_HUB", str(tmp_path))
    rows = {row["name"]: row for row in json.loads(mien("hub", "list", "--json").stdout)}
    for name in ("starter", "hsemotion", "fer", "face-api"):
        assert name in rows, name
        assert name in mien("hub", "list").stdout
    assert rows["starter"]["place"] == "package"
    assert rows["fer"]["path"] is None
    assert "fer-mini-xception.onnx" in rows["fer"]["missing"]
    (tmp_path / "fer-mini-xception.onnx").touch()
    rows = {row["name"]: row for row in json.loads(mien("hub", "list", "--json").stdout)}
    assert rows["fer"]["path"] == str(tmp_path / "fer-mini-xception.onnx")


def test_hub_pull_says_what_to_do_for_models_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIEN_HUB", "")
    done = mien("hub", "pull", "fer")
    assert done.exit_code == 2
    assert "fer has no download" in done.stderr
    assert "fer-mini-xception.onnx" in done.stderr
    told = mien("hub", "pull", "starter").stderr.replace("\n", " ")
    assert "mien hub pull blazeface facemesh silero-vad smart-turn" in told


def test_hub_verify_reports_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "face_landmark.tflite").write_bytes(b"not the network")
    monkeypatch.setenv("MIEN_HUB", str(tmp_path))
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    done = mien("hub", "verify", "--json")
    assert done.exit_code == 1
    (row,) = [r for r in json.loads(done.stdout) if r["name"] == "facemesh"]
    assert "digest" in row["problem"]


def test_hub_pull_without_a_network_is_an_error_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MIEN_HUB", ""), ("MIEN_CACHE", str(tmp_path)), ("MIEN_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
    done = mien("hub", "pull", "yunet")
    assert done.exit_code == 1
    assert "MIEN_OFFLINE" in done.stderr
    assert "MIEN_HUB=FOLDER" in done.stderr
    assert mien("hub", "pull", "yunett").exit_code == 1


def test_doctor_reports_an_exception_as_a_failed_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[doctor.Check]:
        raise RuntimeError("no decoder here")

    broken.__name__ = "_check_decoder"
    monkeypatch.setattr(doctor, "_check_decoder", broken)
    done = mien("doctor", "--json")
    checks = {c["name"]: c for c in json.loads(done.stdout)}
    assert done.exit_code == 1
    assert checks["decoder"] == {"name": "decoder", "state": "bad", "detail": "RuntimeError: no decoder here"}
    assert "torch" in checks["versions"]["detail"]


def test_doctor_decodes_what_it_encodes() -> None:
    (check,) = doctor._check_decoder()
    assert check.state == "ok"
    assert "3 of 3 frames" in check.detail


def test_recipes_lists_published_results_and_differences() -> None:
    records = json.loads(mien("recipes", "--json").stdout)
    assert [r["name"] for r in records] == config.names()
    overview = mien("recipes").stdout
    assert all(r["name"] in overview for r in records)
    details = mien("recipes", "prompted_tcn").stdout
    assert "published  val macro f1 0.36, test macro f1 0.32" in details
    assert "differs    cross-attention is safe, so that windows without sound or without faces are predicted" in details
    unknown = mien("recipes", "prompted-tcn")
    assert unknown.exit_code == 2
    assert 'did you mean "prompted_tcn"?' in unknown.output


def test_train_with_an_unknown_recipe_names_it(tmp_path: Path) -> None:
    done = mien("train", "no-such-recipe")
    assert done.exit_code == 2
    assert "no-such-recipe" in done.stderr


def test_train_passes_recipe_and_recordings_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the arguments of `fit` are tested here; tests/training tests the training."""
    received: dict[str, object] = {}

    def prepare_training_data(recipe: Recipe, **_: object) -> SimpleNamespace:
        return SimpleNamespace(train=["a", "b"], val=["c"], augment={})

    def fit(recipe: Recipe, train: object, val: object, out: Path, resume: bool = False, **options: object) -> Path:
        received.update(epochs=recipe.train.epochs, train=train, val=val, out=out, resume=resume, **options)
        save_tiny(out)
        (out / "metrics.json").write_text('{"val_macro_f1": 0.5}')
        return out

    recordings = SimpleNamespace(prepare_training_data=prepare_training_data)
    monkeypatch.setitem(sys.modules, "mien.datasets.synthetic_recordings", recordings)
    monkeypatch.setitem(sys.modules, "mien.training.fit", SimpleNamespace(fit=fit))
    run = tmp_path / "run"
    done = mien("train", "synthetic", "train.epochs=3", "--out", run, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"run": str(run), "metrics": {"val_macro_f1": 0.5}}
    assert (received["epochs"], received["train"], received["val"]) == (3, ["a", "b"], ["c"])
    assert (received["out"], received["resume"], received["device"]) == (run, False, "cpu")
    again = mien("train", "synthetic", "--resume", run)
    assert received["resume"] is True
    assert f"--model {run}" in again.stdout.replace("\n", "")


def test_train_with_an_unknown_corpus_names_it(tmp_path: Path) -> None:
    done = mien("train", "safe_cross_attention", "corpus.name=unheard-of", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "unheard-of" in done.stderr
    assert not (tmp_path / "run").exists()


# --- errors and progress ---


def test_errors_print_what_follows_and_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error(MienError("the clip is [bold]broken[/bold]", follows="Nothing was written.", remedy="Fix it."))
    printed = capsys.readouterr().err
    assert [line.strip() for line in printed.splitlines()] == [
        "error  the clip is [bold]broken[/bold]",
        "Nothing was written.",
        "try  Fix it.",
    ]


def test_progress_without_a_terminal_prints_a_line_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("mien.cli.console.time.monotonic", lambda: now[0])
    with console.progress("a.mp4") as update:
        for second in range(100):
            now[0] = second / 2
            update(second, 100.0)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"a.mp4: {s} of 100 s" for s in (20, 40, 60, 80)]


# --- as a subprocess ---


def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mien", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"},
    )


def test_predict_as_a_subprocess(model: str, tmp_path: Path) -> None:
    clip(tmp_path / "übung.mp4")
    done = run("predict", "übung.mp4", "missing.mp4", "--model", model, "--no-face", "--report", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "mien-out" / "übung" / "report.html").stat().st_size > 20_000
    assert (tmp_path / "mien-out" / "übung" / "timeline.csv").read_text().startswith("time_s,frame,subject")
    assert "missing.mp4 does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b[" not in done.stdout + done.stderr


def test_help_imports_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from mien.cli.main import SECTIONS, app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'polars', 'av', 'cv2', 'onnxruntime', 'pydantic', 'jinja2', 'lightning'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert run("--version", cwd=tmp_path).stdout.startswith("mien ")
