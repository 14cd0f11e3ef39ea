"""Transcripts: formats, matching of speakers and people, and the estimates of turns and words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mien.cli.main import app
from mien.errors import ConfigError, MediaError, OutputError
from mien.labels import EXPRESSIONS
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline
from mien.timeline.transcript import Span, match_speakers, read_transcript, utterances, write_utterances


def talk(speech: dict[int, str], *, face: bool = True) -> Timeline:
    """A timeline at 10 Hz; `speech` has a letter for each row: o own, s shared, x other, . none. Subject k shows class
    k in even seconds and class k + 4 in odd ones; valence is k / 10."""
    words = {"o": "own", "s": "shared", "x": "other", ".": ""}
    tables = []
    for subject, letters in speech.items():
        n = len(letters)
        label = subject + 4 * ((np.arange(n) // 10) % 2)
        values = np.stack([np.full(n, subject / 10), np.linspace(0, 1, n)], axis=1)
        heard = np.array([c in "os" for c in letters])
        tables.append(
            subject_rows(
                subject, np.arange(n) / 10, probabilities=np.eye(8)[label] * 0.92 + 0.01, valence_arousal=values,
                voice=heard, speech=np.array([words[c] for c in letters]), face=np.full(n, face),
            )
        )  # fmt: skip
    return Timeline(pl.concat(tables))


TALK = talk({0: "ooooooooooxxxxxxxxxx", 1: "xxxxxxxxxxoooooooooo"})
TURNS = [Span(0, 1, "hello", "B"), Span(1, 2, "well then", "A")]


def test_speakers_are_the_people_whose_mouths_move() -> None:
    assert match_speakers(TALK, TURNS) == {"B": 0, "A": 1}
    assert match_speakers(TALK, TURNS, {"B": 1}) == {"B": 1}, "who is left is not seen to speak A's turns"
    off_screen = [*TURNS, Span(0.0, 0.1, "narrator", "N")]
    assert "N" not in match_speakers(TALK, off_screen), "each person is one speaker"
    with pytest.raises(ConfigError, match="no speaker 'C' or no subject 0"):
        match_speakers(TALK, TURNS, {"C": 0})


def test_the_assignment_with_the_largest_sum_wins() -> None:
    timeline = talk({0: "oooooooooo" + "oooooooxxx", 1: "xxxxxxxxxx" + "xxxxxxxooo"})
    assert match_speakers(timeline, TURNS) == {"B": 0, "A": 1}, "subject 0 speaks most of both, but can be one only"


def test_a_turn_has_the_means_of_its_speaker() -> None:
    rows = utterances(TALK, TURNS, {"B": 0, "A": 1}).to_dicts()
    assert [(r["level"], r["subject"], r["text"]) for r in rows] == [("turn", 0, "hello"), ("turn", 1, "well then")]
    assert rows[0]["expression"] == EXPRESSIONS[0]
    assert rows[1]["expression"] == EXPRESSIONS[5]
    assert rows[0]["confidence"] == pytest.approx(0.93)
    assert (rows[0]["valence"], rows[1]["valence"]) == (0, pytest.approx(0.1))
    assert rows[0]["arousal"] == pytest.approx(np.linspace(0, 1, 20)[:10].mean(), abs=1e-4)
    assert (rows[0]["own_share"], rows[0]["face_share"]) == (1, 1)


def test_words_have_rows_of_their_own_and_numbers_get_times(tmp_path: Path) -> None:
    words = [
        {"word": "in", "start": 0.1, "end": 0.3},
        {"word": "1984"},
        {"word": "twice"},
        {"word": "it", "start": 0.7, "end": 0.8},
        {"word": "ends"},
    ]
    segment = {"start": 0.0, "end": 1.0, "text": " in 1984 twice it ends", "speaker": "B", "words": words}
    (tmp_path / "x.json").write_text(json.dumps({"segments": [segment], "language": "en"}))
    (turn,) = read_transcript(tmp_path / "x.json")
    assert [(w.text, round(w.start_s, 3), round(w.stop_s, 3)) for w in turn.words] == [
        ("in", 0.1, 0.3), ("1984", 0.3, 0.5), ("twice", 0.5, 0.7), ("it", 0.7, 0.8), ("ends", 0.8, 1.0),
    ]  # fmt: skip
    table = utterances(TALK, [turn], {"B": 0})
    assert table["level"].to_list() == ["turn"] + ["word"] * 5
    assert table["turn"].to_list() == [0] * 6
    assert table["expression"].null_count() == 0


def test_every_format_gives_the_same_turns(tmp_path: Path) -> None:
    (tmp_path / "t.srt").write_text(
        "1\n00:00:01,000 --> 00:00:02,000\nA: well\nthen\n\n2\n00:00:00,000 --> 00:00:01,000\nB: hello\n"
    )
    (tmp_path / "t.vtt").write_text(
        "WEBVTT\n\n00:00.000 --> 00:01.000\n<v B>hello\n\n00:01.000 --> 00:02.000\n<v A>well then\n"
    )
    (tmp_path / "t.rttm").write_text("SPEAKER c 1 0 1 <NA> <NA> B <NA>\nSPEAKER c 1 1 1 <NA> <NA> A <NA> <NA>\n")
    for suffix in ("srt", "vtt"):
        assert read_transcript(tmp_path / f"t.{suffix}") == TURNS, suffix
    assert [(s.start_s, s.stop_s, s.speaker) for s in read_transcript(tmp_path / "t.rttm")] == [
        (0, 1, "B"),
        (1, 2, "A"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{}", "no list of segments"),
        ("a.json", '{"segments": [{"text": "x"}]}', "segment 0 has no start and end"),
        ("a.json", '{"segments": [{"start": 0, "end": 1, "words": ["x"]}]}', "object has no attribute"),
        ("a.json", "{", "Expecting"),
        ("a.docx", "", "its suffix is none of"),
        ("a.srt", "words", "no line of times"),
    ],
)
def test_a_damaged_transcript_is_an_error_that_says_why(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MediaError, match=message):
        read_transcript(tmp_path / name)
    with pytest.raises(MediaError, match="there is no such file"):
        read_transcript(tmp_path / "gone.json")


def test_who_is_out_of_view_has_no_estimate() -> None:
    (row,) = utterances(TALK, [Span(0, 1, "once", "narrator")], {}).to_dicts()
    assert (row["subject"], row["expression"], row["valence"]) == (None, None, None)
    assert row["text"] == "once"


def test_turns_without_speakers_are_those_of_the_moving_mouth() -> None:
    silent = talk({0: "x" * 20, 1: "x" * 20})
    turns = [Span(0, 1, "hello"), Span(1, 2, "well")]
    assert utterances(TALK, turns, {})["subject"].to_list() == [0, 1]
    assert utterances(silent, turns, {})["subject"].to_list() == [None, None]


def test_sound_alone_has_one_subject_who_speaks_all() -> None:
    timeline = talk({0: "s" * 20}, face=False)
    assert utterances(timeline, TURNS, match_speakers(timeline, TURNS))["subject"].to_list() == [0, 0]


@given(st.floats(0, 1.9), st.floats(0.001, 0.05))
def test_a_word_shorter_than_a_row_has_the_nearest_one(start: float, length: float) -> None:
    (row,) = utterances(TALK, [Span(start, start + length, "uh", "B")], {"B": 0}).to_dicts()
    assert row["expression"] is not None
    assert row["own_share"] in (0, 1) or 0 < row["own_share"] < 1


def test_the_command_writes_a_table_and_says_who_is_who(tmp_path: Path) -> None:
    TALK.write(tmp_path / "timeline.parquet")
    segments = [{"start": s.start_s, "end": s.stop_s, "text": s.text, "speaker": s.speaker} for s in TURNS]
    segments.append({"start": 1.0, "end": 1.1, "text": "off", "speaker": "N"})
    (tmp_path / "t.json").write_text(json.dumps({"segments": segments}))

    def run(*words: object) -> object:
        return CliRunner().invoke(app, ["turns", *map(str, words)])

    done = run(tmp_path / "timeline.parquet", tmp_path / "t.json", "--out", tmp_path / "u.csv")
    assert done.exit_code == 0, done.output
    for line in ("B: subject 0", "A: subject 1", "N: nobody in view", "3 turns, 0 words", "1 turn of nobody in view"):
        assert line in done.stdout
    table = pl.read_csv(tmp_path / "u.csv")
    assert table["subject"].to_list() == [0, None, 1]
    assert run(tmp_path / "timeline.parquet", tmp_path / "t.json", "--speaker", "B").exit_code == 2
    with pytest.raises(OutputError, match=r"cannot be written as \.xlsx"):
        write_utterances(table, tmp_path / "u.xlsx")


def test_a_transcript_that_does_not_fit_is_noted(tmp_path: Path) -> None:
    p = np.tile(np.eye(8)[4], (50, 1))
    table = subject_rows(
        0, np.arange(50) / 10, probabilities=p, valence_arousal=np.zeros((50, 2)), voice=np.zeros(50, bool)
    )
    Timeline(table).write(tmp_path / "timeline.csv")
    Timeline(table.clear()).write(tmp_path / "empty.csv")
    segments = [{"start": start, "end": start + 1, "text": "hello"} for start in (1.0, 5.0, 100.0)]
    (tmp_path / "late.json").write_text(json.dumps({"segments": segments}))
    (tmp_path / "none.json").write_text(json.dumps({"segments": []}))

    def note(timeline: str, transcript: str) -> str:
        words = ["turns", *(str(tmp_path / name) for name in (timeline, transcript)), "--out", str(tmp_path / "u.csv")]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return " ".join(done.stdout.split())

    assert "note 2 turns after the end of the timeline at 5.0 s" in note("timeline.csv", "late.json")
    assert "note the transcript has no turns" in note("timeline.csv", "none.json")
    assert "note the timeline has no rows" in note("empty.csv", "late.json")


def test_missing_files_and_folders_are_called_so(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"gone\.json cannot be read as a transcript: there is no such file"):
        read_transcript(tmp_path / "gone.json")
    with pytest.raises(MediaError, match=r"it is a folder; name a file in it, such as .*timeline\.csv"):
        Timeline.read(tmp_path)
