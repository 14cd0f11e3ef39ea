"""Nobody is named while nobody is there: rows without own face and speech, of rendered clips and of real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

import mien
from mien import hub
from mien.clock import row_durations
from mien.media.audio import blocks
from mien.media.mp4_writer import write_video
from mien.media.video import frames
from mien.predict.presence import ABSENT_AFTER_S, is_near, rows_from_tokens, supported_tokens
from mien.records import Stream
from mien.synthetic.demo_clip import demo_scenario
from mien.synthetic.render import render_video
from mien.synthetic.scenario import Impairment

needs_networks = pytest.mark.skipif(
    not all(hub.available(name) for name in hub.NEEDED),
    reason=f"networks are not here: mien hub pull {' '.join(hub.NEEDED)}",
)
#: Seconds that a rendered head takes to leave the picture and to come back.
LEAVING_S = 0.3


def estimates(table: pl.DataFrame) -> pl.DataFrame:
    return table.select("expression", pl.col("^p_.*$"), "valence", "arousal")


def is_null(table: pl.DataFrame) -> bool:
    columns = estimates(table)
    return all(column.null_count() == len(table) for column in columns) and bool((table["confidence"] == 0).all())


# --- rendered clips with known truth ---


@needs_networks
def test_nobody_is_named_in_rendered_absences(tmp_path: Path) -> None:
    """The head is out of the picture, and silent, at the start, in the middle and at the end."""
    absences = ((-2.0, 1.2), (3.0, 4.6), (6.0, 9.0))  # the first and the last reach beyond the clip of 7 s
    impairments = tuple(Impairment(kind, *span) for span in absences for kind in ("absent", "silent"))
    render_video(replace(demo_scenario(7.0), impairments=impairments), tmp_path / "clip.mp4")
    timeline = mien.load("starter").predict(tmp_path / "clip.mp4")
    table = timeline.table
    time, margin = pl.col("time_s"), LEAVING_S + ABSENT_AFTER_S
    gone = pl.any_horizontal(time.is_between(a + margin, b - margin) for a, b in absences)
    assert (table.filter(gone)["evidence"] == "none").all()
    assert len(table.filter(gone)) > 20
    assert is_null(table.filter(gone))
    there = time.is_between(1.2 + LEAVING_S, 3.0) | time.is_between(4.6 + LEAVING_S, 6.0)
    assert table.filter(there)["expression"].null_count() == 0
    assert sum(timeline.summaries()[0].shares.values()) == pytest.approx(1), "shares are of the time seen"


# --- real recordings ---


@needs_networks
def test_a_title_after_a_face_is_nobody(shared: Path) -> None:
    path = shared / "cases" / "face_then_title.mov"
    if not path.is_file():
        pytest.skip("the shared cases are absent")
    timeline = mien.load("starter").predict(path)
    table = timeline.table
    last_seen = float(table.filter(pl.col("x1").is_not_null())["time_s"].max())  # type: ignore[arg-type]
    after = table.filter(pl.col("time_s") > last_seen + ABSENT_AFTER_S)
    assert len(after) > 60
    assert is_null(after)
    assert table.filter(pl.col("x1").is_not_null())["expression"].null_count() == 0
    (summary,) = timeline.summaries()
    durations = row_durations(table["time_s"].to_numpy())
    share = durations[table["time_s"].to_numpy() > last_seen + ABSENT_AFTER_S].sum() / durations.sum()
    assert summary.unnamed == pytest.approx(share, abs=1e-6)
    held = table.filter(pl.col("x1").is_null() & pl.col("expression").is_not_null())
    assert held["confidence"].min() > 0.3, "a gap repeats what was read, not a uniform distribution"  # type: ignore[operator]


@needs_networks
def test_a_narrator_over_a_title_is_nobody(shared: Path, tmp_path: Path) -> None:
    """Three seconds of a silent face, then grey pictures over which somebody speaks."""
    path = shared / "clips" / "lbax4n.mpg"
    images = [frame.image for frame in frames(path)]
    voice = np.concatenate([samples for _, samples in blocks(path)])[: 3 * 16_000]
    grey = [np.full_like(images[0], 128)] * len(images)
    sound = np.concatenate([np.zeros(len(images) * 640, np.float32), voice])
    write_video(tmp_path / "n.mp4", images + grey, times=list(np.arange(2 * len(images)) / 25), audio=sound)
    table = mien.load("starter").predict(tmp_path / "n.mp4").table
    title = table[len(images) + 11 :]
    assert title["speech"].drop_nulls().len() > 20
    assert set(title["speech"].drop_nulls()) == {"other"}
    assert is_null(title)
    assert table[: len(images)]["expression"].null_count() == 0


@needs_networks
def test_pauses_of_a_voice_longer_than_the_stated_time_are_null(shared: Path, tmp_path: Path) -> None:
    samples, rate = soundfile.read(sorted((shared / "emodb").glob("*.wav"))[0], dtype="float32")
    sound = np.concatenate([samples, np.zeros(2 * rate, np.float32), samples])
    soundfile.write(tmp_path / "s.wav", sound, rate)
    table = mien.load("starter").predict(tmp_path / "s.wav").table
    silent_from = len(samples) / rate
    pause = table.filter(pl.col("time_s").is_between(silent_from + 0.6, silent_from + 1.4))
    assert len(pause) >= 7
    assert is_null(pause)
    assert table["expression"].drop_nulls().len() > 20


# --- parts ---


def test_the_reach_of_evidence_is_the_stated_time() -> None:
    times = np.arange(0, 3, 0.1)
    evidence = np.isclose(times, 1.0)
    near = is_near(evidence, times)
    assert times[near].tolist() == pytest.approx(np.arange(0.6, 1.45, 0.1).tolist())
    assert not is_near(np.zeros(30, bool), times).any()


def test_tokens_are_supported_where_an_input_is_valid() -> None:
    times = np.arange(0, 2, 0.04)
    face = Stream(np.ones((50, 3), np.float32), times, times < 0.5)
    voice = Stream(np.ones((50, 2), np.float32), times, times > 1.5)
    tokens = np.arange(20) / 10 + 0.05
    supported = supported_tokens([face, voice], tokens, 10.0)
    assert tokens[supported].tolist() == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45, 1.55, 1.65, 1.75, 1.85, 1.95])
    assert not supported_tokens([], tokens, 10.0).any()


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.lists(st.booleans(), min_size=30, max_size=30))
def test_rows_never_rest_on_tokens_without_support(evidence: Sequence[bool], support: Sequence[bool]) -> None:
    """Unsupported tokens hold 9, supported ones 1: no row ever takes anything of a 9, and no unseen row has a value."""
    tokens, times = np.arange(30) / 10 + 0.05, np.arange(len(evidence)) / 20
    supported, seen = np.array(support), is_near(np.array(evidence), times)
    rows = rows_from_tokens(np.where(supported, 1.0, 9.0)[:, None], tokens, supported, times, seen)
    assert set(rows[np.isfinite(rows)]) <= {1.0}
    assert np.isnan(rows[~seen]).all()
    if supported.all():
        assert (rows[seen] == 1).all()
