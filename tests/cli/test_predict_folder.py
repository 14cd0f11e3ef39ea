"""A folder as one job: the combined table, the index page, skipped and replaced results, sections and rates."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import polars as pl
import pytest
from test_cli import clip, mien, model, predict  # noqa: F401 (model is a fixture)

from mien import checkpoint, config
from mien.cli import combined_table, provenance
from mien.cli.inputs import MediaJob, plan_jobs
from mien.timeline.table import Timeline


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two clips of 5 and 10 frames, a hidden folder, and a file that is no media."""
    clip(tmp_path / "in" / "a, b.mp4", 0.2)
    clip(tmp_path / "in" / "c.mp4", 0.4)
    clip(tmp_path / "in" / ".trash" / "d.mp4", 0.2)
    (tmp_path / "in" / "notes.txt").write_text("no media")
    return tmp_path / "in"


def rows_of_table(path: Path) -> pl.DataFrame:
    readers = {".csv": pl.read_csv, ".jsonl": pl.read_ndjson, ".parquet": pl.read_parquet}
    return readers[path.suffix](path)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_folder_has_one_table_with_the_file_of_each_row(model: str, folder: Path, ending: str) -> None:  # noqa: F811
    out = folder.parent / "out"
    assert predict(model, out, folder, "--format", ending).exit_code == 0
    table = rows_of_table(out / f"timelines.{ending}")
    assert table.columns[:2] == ["file", "time_s"]
    assert table["file"].to_list() == [str(folder / "a, b.mp4")] * 5 + [str(folder / "c.mp4")] * 10
    own = Timeline.read(out / "c" / f"timeline.{ending}").table
    assert table["time_s"].to_list()[5:] == own["time_s"].to_list()


def test_inputs_passed_over_are_counted_and_named(model: str, folder: Path) -> None:  # noqa: F811
    done = predict(model, folder.parent / "out", folder)
    assert "passed over 2 inputs:" in done.stderr
    assert "notes.txt (no suffix of media)" in done.stderr.replace("\n", "")
    assert ".trash (hidden)" in done.stderr.replace("\n", "")
    passed = json.loads(predict(model, folder.parent / "out", folder, "--json").stdout)["passed_over"]
    assert sorted(Path(item["path"]).name for item in passed) == [".trash", "notes.txt"]


def test_a_link_to_nothing_is_passed_over_by_name(folder: Path) -> None:
    (folder / "moved.mp4").symlink_to(folder / "gone.mp4")
    reasons = {item.path.name: item.reason for item in plan_jobs([folder], folder.parent / "out").passed}
    assert reasons["moved.mp4"] == "a link to a file that does not exist"


def test_results_inside_the_folder_are_not_media(model: str, folder: Path) -> None:  # noqa: F811
    assert predict(model, folder / "first", folder, "--overlay").exit_code == 0
    plan = plan_jobs([folder], folder / "second")
    assert [job.media.name for job in plan.jobs] == ["a, b.mp4", "c.mp4"]
    assert [p.path.name for p in plan.passed if p.reason == "results of mien"] == ["a, b", "c"]


def test_the_index_page_links_to_every_result(model: str, folder: Path) -> None:  # noqa: F811
    out = folder.parent / "out"
    (folder / "broken.mp4").write_bytes(b"no video")
    assert predict(model, out, folder, "--report").exit_code == 1
    page = (out / "index.html").read_text(encoding="utf-8")
    for text in ("a%2C%20b/report.html", "c/timeline.csv", "timelines.csv", "notes.txt", "broken.mp4"):
        assert text in page, text
    assert "2 recordings" in page
    assert "1 failed" in page


def test_the_index_page_counts_the_seconds_of_sections(model: str, folder: Path) -> None:  # noqa: F811
    """Predicted from 0.1 s on, clips of 0.2 and 0.4 s count as 0.1 and 0.3 s."""
    assert predict(model, folder.parent / "out", folder, "--start", "0.1").exit_code == 0
    page = (folder.parent / "out" / "index.html").read_text(encoding="utf-8")
    for text in ("0:00.1", "0:00.3", "0:00.4"):
        assert text in page, text
    assert "0:00.6" not in page


def test_recordings_of_one_name_are_told_apart_on_the_index_page(model: str, tmp_path: Path) -> None:  # noqa: F811
    paths = [tmp_path / "in" / day / "a.mp4" for day in ("monday", "tuesday")]
    for path in paths:
        path.parent.mkdir(parents=True)
        clip(path, 0.2)
    assert predict(model, tmp_path / "out", tmp_path / "in").exit_code == 0
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    for path in paths:
        assert f"<b>{path}</b>" in page


def test_a_recording_keeps_its_folder_when_another_of_its_name_comes(model: str, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    for day in ("monday", "tuesday"):
        (tmp_path / "in" / day).mkdir(parents=True)
        clip(tmp_path / "in" / day / "a.mp4", 0.2 if day == "monday" else 0.4)
        assert predict(model, out, tmp_path / "in" / day / "a.mp4").exit_code == 0
    again = predict(model, out, tmp_path / "in", "--skip-done")
    assert again.exit_code == 0
    assert "2 inputs skipped" in again.stdout
    assert sorted(path.parent.name for path in out.glob("*/timeline.csv")) == ["a", "a-2"]
    files = pl.read_csv(out / "timelines.csv")["file"].value_counts().sort("file")["count"].to_list()
    assert files == [5, 10], "no recording is in the table twice"


def test_provenance_states_model_weights_media_options_and_notes(model: str, tmp_path: Path) -> None:  # noqa: F811
    video = clip(tmp_path / "a.mp4")
    assert predict(model, tmp_path / "out", video).exit_code == 0
    record = json.loads((tmp_path / "out" / "a" / "timeline.json").read_text(encoding="utf-8"))
    assert record["weights"] == provenance.weights_of([model])
    assert [*record["weights"]] == [Path(model).name]
    assert record["media"]["digest"] == provenance.digest_of(video)
    assert record["media"]["kind"] == "video"
    assert record["options"]["face"] is False
    assert record["rows"] == 15
    assert "no speech was detected" in record["notes"]
    assert record["files"] == {"timeline": "timeline.csv"}


def test_the_digest_of_a_checkpoint_changes_with_its_recipe(model: str, tmp_path: Path) -> None:  # noqa: F811
    trained = checkpoint.load(model)
    digests = set()
    for smooth in (0.0, 1.0, 0.0):
        recipe = config.changed(trained.recipe, vote={"smooth_seconds": smooth})
        digests |= {*provenance.weights_of([str(checkpoint.save(tmp_path / "m", trained.model, recipe))]).values()}
    assert len(digests) == 2


def test_finished_inputs_are_skipped(model: str, folder: Path) -> None:  # noqa: F811
    out = folder.parent / "out"
    assert predict(model, out, folder).exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/timeline.csv")}
    clip(folder / "e.mp4", 0.2)
    clip(folder / "c.mp4", 0.6)  # another recording of the same name has to be predicted again
    again = json.loads(predict(model, out, folder, "--skip-done", "--json").stdout)
    assert [Path(r["media"]).name for r in again["skipped"]] == ["a, b.mp4"]
    assert [Path(r["media"]).name for r in again["results"]] == ["c.mp4", "e.mp4"]
    assert (out / "a, b" / "timeline.csv").stat().st_mtime_ns == before[out / "a, b" / "timeline.csv"]
    assert rows_of_table(out / "timelines.csv").height == 5 + 15 + 5


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_damaged_results_are_left_out_and_made_again(model: str, folder: Path, ending: str) -> None:  # noqa: F811
    """A byte in a page of a Parquet file can end polars' process, and half a row would be joined to the next one."""
    out = folder.parent / "out"
    assert predict(model, out, folder, "--format", ending).exit_code == 0
    damaged, table = out / "a, b" / f"timeline.{ending}", out / f"timelines.{ending}"
    data = bytearray(damaged.read_bytes())
    data[13] ^= 1
    damaged.write_bytes(data if ending == "parquet" else data[:-20])
    timelines = [("damaged", damaged), ("whole", out / "c" / damaged.name)]
    assert combined_table.write(table, timelines) == ["damaged"]
    assert rows_of_table(table)["file"].to_list() == ["whole"] * 10
    assert combined_table.write(folder / damaged.name, timelines[:1]) == ["damaged"]
    assert not (folder / damaged.name).exists()
    again = json.loads(predict(model, out, folder, "--format", ending, "--skip-done", "--json").stdout)
    assert [Path(r["media"]).name for r in again["results"]] == ["a, b.mp4"]
    assert rows_of_table(table).height == 15


@pytest.mark.parametrize("change", [["--end", "0.1"], ["--report"], ["--format", "jsonl"]])
def test_results_of_other_options_are_not_skipped(model: str, tmp_path: Path, change: list[str]) -> None:  # noqa: F811
    video = clip(tmp_path / "a.mp4", 0.2)
    assert predict(model, tmp_path / "out", video).exit_code == 0
    again = json.loads(predict(model, tmp_path / "out", video, "--skip-done", "--json", *change).stdout)
    assert not again["skipped"]


def test_an_unfinished_run_is_not_done(model: str, tmp_path: Path) -> None:  # noqa: F811
    video = clip(tmp_path / "a.mp4", 0.2)
    assert predict(model, tmp_path / "out", video).exit_code == 0
    (tmp_path / "out" / "a" / "timeline.csv").unlink()
    again = json.loads(predict(model, tmp_path / "out", video, "--skip-done", "--json").stdout)
    assert len(again["results"]) == 1


def test_another_recording_of_the_same_name_keeps_both_results(model: str, tmp_path: Path) -> None:  # noqa: F811
    first, second = clip(tmp_path / "x" / "a.mp4", 0.2), clip(tmp_path / "y" / "a.mp4", 0.4)
    assert predict(model, tmp_path / "out", first).exit_code == 0
    done = predict(model, tmp_path / "out", second)
    assert "share a name" in done.stderr
    assert len(Timeline.read(tmp_path / "out" / "a" / "timeline.csv")) == 5
    assert len(Timeline.read(tmp_path / "out" / "a-2" / "timeline.csv")) == 10
    assert predict(model, tmp_path / "out", second).exit_code == 0
    assert not (tmp_path / "out" / "a-3").exists(), "the same recording keeps its folder"


def test_replaced_results_are_reported_and_leave_nothing_stale(model: str, tmp_path: Path) -> None:  # noqa: F811
    video = clip(tmp_path / "a.mp4", 0.4)
    assert predict(model, tmp_path / "out", video, "--report", "--no-embed").exit_code == 0
    same = json.loads(predict(model, tmp_path / "out", video, "--json").stdout)
    assert not [n for n in same["results"][0]["notes"] if "replaced" in n]
    assert (tmp_path / "out" / "a" / "report.html").is_file(), "it still fits the timeline"
    assert json.loads((tmp_path / "out" / "a" / "timeline.json").read_text())["files"]["report"] == "report.html"
    other = json.loads(predict(model, tmp_path / "out", video, "--end", "0.2", "--json").stdout)
    (note,) = [n for n in other["results"][0]["notes"] if "replaced" in n]
    assert "end=None" in note
    assert "report.html removed" in note
    assert not (tmp_path / "out" / "a" / "report.html").exists(), "it would show other rows than the timeline"


def test_a_recording_named_twice_is_predicted_once(tmp_path: Path) -> None:
    video = clip(tmp_path / "a.mp4", 0.2)
    plan = plan_jobs([video, video], tmp_path / "out")
    assert len(plan.jobs) == 1
    assert [p.reason for p in plan.passed] == ["named twice"]


def test_folders_of_unknown_content_are_kept_as_they_are(tmp_path: Path) -> None:
    job = MediaJob(clip(tmp_path / "a.mp4", 0.2), tmp_path / "out" / "a")
    assert provenance.choose_folders([job]) == [job]


def test_a_section_keeps_times_and_frame_numbers(model: str, tmp_path: Path) -> None:  # noqa: F811
    video = clip(tmp_path / "a.mp4", 0.8)
    assert predict(model, tmp_path / "out", video, "--start", "0.2", "--end", "0.4").exit_code == 0
    table = Timeline.read(tmp_path / "out" / "a" / "timeline.csv").table
    assert table["frame"].to_list() == [5, 6, 7, 8, 9]
    assert table["time_s"].to_list() == pytest.approx([0.2, 0.24, 0.28, 0.32, 0.36])


def test_a_section_outside_the_recording_is_an_error(model: str, tmp_path: Path) -> None:  # noqa: F811
    done = predict(model, tmp_path / "out", clip(tmp_path / "a.mp4", 0.4), "--start", "9")
    assert done.exit_code == 1
    assert "a.mp4 has no frame at 9 s or later" in done.stderr
    assert "--start" in done.stderr
    assert predict(model, tmp_path / "out", tmp_path / "a.mp4", "--start", "2", "--end", "1").exit_code == 2


def test_a_rate_thins_the_file(model: str, tmp_path: Path) -> None:  # noqa: F811
    video = clip(tmp_path / "a.mp4", 0.8)
    done = predict(model, tmp_path / "out", video, "--rate", "5")
    assert done.exit_code == 0
    assert "20 rows" in done.stdout, "of the summary"
    assert "timeline.csv  (4 rows)" in done.stdout.replace("\n", "")
    with (tmp_path / "out" / "a" / "timeline.csv").open() as file:
        assert [float(row["time_s"]) for row in csv.DictReader(file)] == [0.0, 0.2, 0.4, 0.6]
