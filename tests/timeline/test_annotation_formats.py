"""Annotation formats: round trips, third-party parsers, names, empty timelines, and files of people."""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pympi
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from praatio import textgrid

from mien.errors import MediaError, OutputError
from mien.labels import EXPRESSIONS
from mien.timeline.columns import schema
from mien.timeline.formats import FORMATS
from mien.timeline.formats.annotations import EXPRESSION, from_timeline
from mien.timeline.subject_rows import subject_rows
from mien.timeline.table import Timeline

#: Formats that hold expressions.
WITH_EXPRESSIONS = sorted({*FORMATS} - {"rttm"})
SUFFIXES = {name: entry.suffix for name, entry in FORMATS.items()}
#: A name that breaks careless escaping: XML, quotation marks, commas, colons, other scripts.
ODD = ("A & B <\"so\", 'on'>", "très: heureux, oui", "悲しい|x", "Neutral")


def made(
    labels: list[list[int]], classes: tuple[str, ...] = EXPRESSIONS, *, rate: float = 25.0, speech: str = ""
) -> Timeline:
    """One subject for each list of class numbers, -1 for no estimate, at `rate` rows per second."""
    tables = []
    for subject, numbers in enumerate(labels):
        n, index = len(numbers), np.array(numbers)
        p = np.where(index[:, None] >= 0, np.eye(len(classes))[index] * 0.7 + 0.3 / len(classes), np.nan)
        values = np.stack([np.linspace(-0.8, 0.6, n), np.full(n, 0.25)], axis=1)
        values[index < 0] = np.nan
        who = np.array(list((speech if subject == 0 else "." * n).ljust(n, ".")))
        tables.append(
            subject_rows(
                subject, np.arange(n) / rate, probabilities=p, valence_arousal=values, voice=who == "o",
                speech=np.where(who == "o", "own", ""), classes=classes, frames=np.arange(n),
                face=np.ones(n, bool), boxes=np.ones((n, 4)),
            )
        )  # fmt: skip
    return Timeline(pl.concat(tables), classes=classes, media="a clip & more.mp4")


def expressions(timeline: Timeline) -> dict[int, list[str | None]]:
    return {s: timeline.rows_of(s)["expression"].to_list() for s in timeline.subjects}


TWO = made([[1] * 10 + [-1] * 5 + [4] * 10 + [0] * 5, [4] * 30])


@pytest.mark.parametrize("name", WITH_EXPRESSIONS)
def test_expressions_of_overlapping_people_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    path = TWO.write(tmp_path / f"t{SUFFIXES[name]}")
    assert expressions(Timeline.read(path)) == expressions(TWO)


@pytest.mark.parametrize("name", WITH_EXPRESSIONS)
@settings(max_examples=8)
@given(
    data=st.lists(st.integers(-1, 3), min_size=1, max_size=60), rate=st.sampled_from([10.0, 25.0, 30.0, 30000 / 1001])
)
def test_any_sequence_with_odd_names_survives_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: list[int], rate: float
) -> None:
    timeline = made([[*data, 3, 3]], ODD, rate=rate)
    path = timeline.write(tmp_path_factory.mktemp("f") / f"t{SUFFIXES[name]}")
    back = Timeline.read(path, classes=ODD, rate_hz=rate)
    assert expressions(back) == expressions(timeline)


@pytest.mark.parametrize("name", ["eaf", "textgrid"])
def test_valence_arousal_and_speech_survive_where_the_format_has_them(name: str, tmp_path: Path) -> None:
    timeline = made([[1] * 50, [2] * 50], speech="....oooooooooo..oooo")
    back = Timeline.read(timeline.write(tmp_path / f"t{SUFFIXES[name]}"))
    for kind in ("valence", "arousal"):
        want = timeline.rows_of(0)[kind].to_numpy()
        means = np.concatenate([np.full(25, want[:25].mean()), np.full(25, want[25:].mean())])
        assert np.allclose(back.rows_of(0)[kind].to_numpy(), means, atol=6e-4)
    assert back.rows_of(0)["speech"].to_list() == timeline.rows_of(0)["speech"].to_list()
    heard = ["other" if s else None for s in timeline.rows_of(0)["speech"]]
    assert back.rows_of(1)["speech"].to_list() == heard
    assert set(back.rows_of(0)["evidence"]) == {"voice", "none"}


def test_rttm_holds_the_speech_of_each_person(tmp_path: Path) -> None:
    timeline = made([[1] * 50, [2] * 50], speech="....oooooooooo..oooo")
    path = timeline.write(tmp_path / "t.rttm")
    lines = [line.split() for line in path.read_text().splitlines()]
    assert [(f[0], f[1], f[7], float(f[3]), float(f[4])) for f in lines] == [
        ("SPEAKER", "a_clip_&_more", "subject_0", 0.16, 0.4),
        ("SPEAKER", "a_clip_&_more", "subject_0", 0.64, 0.16),
    ]
    back = Timeline.read(path)
    assert back.rows_of(0)["speech"].to_list() == timeline.rows_of(0)["speech"].to_list()[: len(back)]
    assert back.table["expression"].null_count() == len(back)


def test_pympi_reads_our_elan_file(tmp_path: Path) -> None:
    path = made([[1] * 10 + [0] * 15, [3] * 25], (*ODD,)).write(tmp_path / "t.eaf")
    eaf = pympi.Eaf(str(path))
    assert set(eaf.get_tier_names()) == {
        f"{kind}@subject_{n}" for kind in ("expression", "valence", "arousal") for n in (0, 1)
    }
    assert eaf.get_annotation_data_for_tier("expression@subject_0") == [(0, 400, ODD[1]), (400, 1000, ODD[0])]
    assert eaf.get_annotation_data_for_tier("expression@subject_1") == [(0, 1000, "Neutral")]
    assert eaf.get_parameters_for_tier("expression@subject_1")["PARTICIPANT"] == "subject_1"
    (linked,) = eaf.get_linked_files()
    assert linked["MEDIA_URL"].endswith("/a%20clip%20%26%20more.mp4")


def test_we_read_an_elan_file_of_pympi(tmp_path: Path) -> None:
    eaf = pympi.Eaf()
    for tier, participant in (("Anna face", "Anna"), ("Ben", ""), ("Ben valence", "Ben")):
        eaf.add_tier(tier, part=participant or None)
    eaf.add_annotation("Anna face", 0, 400, "happiness")
    eaf.add_annotation("Anna face", 400, 800, "SADNESS")
    eaf.add_annotation("Ben", 200, 600, "bored")
    eaf.add_annotation("Ben valence", 0, 800, "-0.5")
    eaf.add_annotation("Ben", 700, 800, "")
    eaf.to_file(str(tmp_path / "p.eaf"))
    timeline = Timeline.read(tmp_path / "p.eaf", rate_hz=10)
    assert timeline.classes == ("Happiness", "Sadness", "bored")
    assert expressions(timeline) == {
        0: ["Happiness"] * 4 + ["Sadness"] * 4,
        1: [None] * 2 + ["bored"] * 4 + [None] * 2,
    }
    assert timeline.rows_of(1)["valence"].to_list() == [-0.5] * 8
    assert timeline.rows_of(0)["p_happiness"].to_list()[:5] == [1, 1, 1, 1, 0]
    assert timeline.notes == ("subject 0 is 'Anna' of the annotations", "subject 1 is 'Ben' of the annotations")
    only = Timeline.read(tmp_path / "p.eaf", rate_hz=10, tiers=["Ben"])
    assert only.subjects == [0]
    assert only.classes == ("bored",)


def test_elan_annotations_that_refer_to_others_share_their_time(tmp_path: Path) -> None:
    (tmp_path / "r.eaf").write_text(
        """<ANNOTATION_DOCUMENT><HEADER/><TIME_ORDER><TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="0"/>
        <TIME_SLOT TIME_SLOT_ID="b"/><TIME_SLOT TIME_SLOT_ID="c" TIME_VALUE="800"/></TIME_ORDER>
        <TIER TIER_ID="turn" PARTICIPANT="P"><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="x" TIME_SLOT_REF1="b"
        TIME_SLOT_REF2="c"><ANNOTATION_VALUE/></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
        <TIER TIER_ID="face" PARTICIPANT="P" PARENT_REF="turn"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="y"
        ANNOTATION_REF="x"><ANNOTATION_VALUE>Fear</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION><ANNOTATION>
        <REF_ANNOTATION ANNOTATION_ID="z" ANNOTATION_REF="x" PREVIOUS_ANNOTATION="y"><ANNOTATION_VALUE>Anger
        </ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER></ANNOTATION_DOCUMENT>"""
    )
    timeline = Timeline.read(tmp_path / "r.eaf", rate_hz=10)
    assert expressions(timeline) == {0: [None] * 4 + ["Fear"] * 2 + ["Anger"] * 2}


def test_praatio_reads_our_textgrid(tmp_path: Path) -> None:
    path = made([[1] * 10 + [-1] * 5 + [0] * 10], ODD).write(tmp_path / "t.TextGrid")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    assert grid.tierNames == ("expression@subject_0", "valence@subject_0", "arousal@subject_0")
    tier = grid.getTier("expression@subject_0")
    assert [tuple(entry) for entry in tier.entries] == [(0, 0.4, ODD[1]), (0.6, 1.0, ODD[0])]
    assert tier.maxTimestamp == 1.0


@pytest.mark.parametrize("form", ["short_textgrid", "long_textgrid"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_we_read_a_textgrid_of_praatio(form: str, encoding: str, tmp_path: Path) -> None:
    grid = textgrid.Textgrid()
    grid.addTier(textgrid.IntervalTier("Zoë", [(0, 0.4, 'say "Joy"'), (0.5, 0.8, "Anger")], 0, 1))
    grid.addTier(textgrid.PointTier("blink", [(0.31, "b")], 0, 1))
    grid.save(str(tmp_path / "g.TextGrid"), form, includeBlankSpaces=True)
    text = (tmp_path / "g.TextGrid").read_text(encoding="utf-8")
    (tmp_path / "g.TextGrid").write_text(text, encoding=encoding)
    timeline = Timeline.read(tmp_path / "g.TextGrid", rate_hz=10)
    assert expressions(timeline) == {
        0: ['say "Joy"'] * 4 + [None] + ["Anger"] * 3 + [None] * 2,
        1: [None] * 3 + ["b"] + [None] * 6,
    }


def test_webvtt_of_a_timeline_is_escaped_and_names_the_person(tmp_path: Path) -> None:
    text = made([[0] * 25, [1] * 25], ODD).write(tmp_path / "t.vtt").read_text(encoding="utf-8")
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n<v subject_0>A &amp; B &lt;\"so\", 'on'&gt;\n")
    assert "<v subject_1>très: heureux, oui" in text


def test_webvtt_and_srt_of_people_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(
        "WEBVTT - title\n\nNOTE nothing\n\nSTYLE\n::cue{}\n\n1\n00:00.000 --> 00:00.400 align:start\n"
        "<v.loud Anna>Happiness\n<v Ben><i>Fear</i>\n\n01:00:00.000 --> 01:00:00.001\n"
    )
    both = Timeline.read(tmp_path / "a.vtt", rate_hz=10)
    assert expressions(both) == {0: ["Happiness"] * 4, 1: ["Fear"] * 4}
    (tmp_path / "a.srt").write_bytes(
        b"\xef\xbb\xbf1\r\n00:00:00,000 --> 00:00:00,300\r\nAnna: {\\an8}<b>Happiness</b>\r\n\r\n"
        b"2\r\n00:00:00,200 --> 00:00:00,400\r\nFear\r\n"
    )
    assert expressions(Timeline.read(tmp_path / "a.srt", rate_hz=10)) == {
        0: [None, None, "Fear", "Fear"],
        1: ["Happiness"] * 3 + [None],
    }


def test_a_timeline_without_expressions_has_cues_of_valence_and_arousal(tmp_path: Path) -> None:
    table = subject_rows(
        0, np.arange(50) / 25, probabilities=np.full((50, 8), np.nan), voice=np.zeros(50, bool),
        valence_arousal=np.tile([0.5, -0.25], (50, 1)),
    )  # fmt: skip
    for suffix in (".vtt", ".srt", ".eaf", ".TextGrid"):
        back = Timeline.read(Timeline(table).write(tmp_path / f"t{suffix}"))
        assert back.table["valence"].to_list() == [0.5] * 50, suffix
        assert back.table["arousal"].to_list() == [-0.25] * 50, suffix


def test_boris_events_are_pairs_of_rows_in_the_columns_of_boris(tmp_path: Path) -> None:
    path = TWO.write(tmp_path / "t.boris.csv")
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    assert {"Observation id", "Subject", "Behavior", "Behavior type", "Time", "Media file name"} <= set(rows[0])
    anger = [(r["Behavior type"], float(r["Time"]), r["Image index"]) for r in rows if r["Behavior"] == "Anger"]
    assert anger == [("START", 0.0, "0"), ("STOP", 0.4, "10")]
    path.rename(tmp_path / "renamed.csv")
    assert expressions(Timeline.read(tmp_path / "renamed.csv")) == expressions(TWO), "known by its columns"


def test_an_aggregated_table_and_an_old_export_of_boris_are_read(tmp_path: Path) -> None:
    (tmp_path / "agg.tsv").write_text(
        "Observation id\tSubject\tBehavior\tBehavior type\tStart (s)\tStop (s)\n"
        "o\tAnna\tFear\tSTATE\t0.0\t0.4\no\tAnna\tblink\tPOINT\t0.5\tNA\n"
    )
    (tmp_path / "old.tsv").write_text(
        "Observation id\to\n\nTime\tMedia file path\tTotal length\tFPS\tSubject\tBehavior\tBehavioral category\tComment"
        "\tStatus\n0.0\tc.mp4\t0.6\t25\tAnna\tFear\t\t\tSTART\n0.4\tc.mp4\t0.6\t25\tAnna\tFear\t\t\tSTOP\n"
        "0.5\tc.mp4\t0.6\t25\tAnna\tblink\t\t\tPOINT\n"
    )
    want = {0: ["Fear"] * 4 + [None, "blink"]}
    for name in ("agg.tsv", "old.tsv"):
        timeline = Timeline.read(tmp_path / name, rate_hz=10)
        assert expressions(timeline) == want, name


def test_a_boris_project_has_state_events_that_are_known(tmp_path: Path) -> None:
    project = json.loads(TWO.write(tmp_path / "t.boris").read_text(encoding="utf-8"))
    codes = {b["code"] for b in project["behaviors_conf"].values()}
    people = {s["name"] for s in project["subjects_conf"].values()}
    (observation,) = project["observations"].values()
    for time, person, code, modifier, comment in observation["events"]:
        assert code in codes
        assert person in people
        assert (modifier, comment) == ("", "")
        assert 0 <= time <= observation["media_info"]["length"]["a clip & more.mp4"]
    events = [(person, code) for _, person, code, *_ in observation["events"]]
    assert all(events.count(event) % 2 == 0 for event in events), "state events come in pairs"
    assert observation["media_info"]["fps"] == {"a clip & more.mp4": 25.0}


def test_label_studio_regions_are_predictions_in_seconds(tmp_path: Path) -> None:
    (task,) = json.loads(TWO.write(tmp_path / "t.labelstudio.json").read_text(encoding="utf-8"))
    first = task["predictions"][0]["result"][0]
    assert first["value"] == {"start": 0.0, "end": 0.4, "channel": 0, "labels": ["Anger"]}
    assert (first["from_name"], first["to_name"], first["type"]) == ("expression", "audio", "labels")
    assert first["meta"] == {"text": ["subject_0"]}
    assert len({r["id"] for r in task["predictions"][0]["result"]}) == len(task["predictions"][0]["result"])


def test_an_export_of_label_studio_prefers_what_people_corrected(tmp_path: Path) -> None:
    region = {"from_name": "face", "type": "labels", "value": {"start": 0, "end": 0.4, "labels": ["Fear"]}}
    frames = {"type": "timelinelabels", "value": {"ranges": [{"start": 2, "end": 4}], "timelinelabels": ["Anger"]}}
    task = {
        "data": {"video": "/v.mp4"},
        "annotations": [{"was_cancelled": True, "result": [frames]}, {"result": [region]}, {"result": []}],
        "predictions": [{"result": [frames]}],
    }
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task]))
    timeline = Timeline.read(path, rate_hz=10)
    assert expressions(timeline) == {0: ["Fear"] * 4}
    assert timeline.notes[0] == "of 2 annotations of the task, the first is read"
    path.write_text(json.dumps([{"data": {"fps": 10}, "annotations": [{"result": [frames]}]}]))
    assert expressions(Timeline.read(path, rate_hz=10)) == {0: [None] + ["Anger"] * 3}
    path.write_text(json.dumps([{"data": {}, "annotations": [{"result": [frames]}]}]))
    with pytest.raises(MediaError, match="fps"):
        Timeline.read(path)


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_an_empty_timeline_and_one_without_estimates_are_written(name: str, tmp_path: Path) -> None:
    empty = Timeline(pl.DataFrame(schema=schema(EXPRESSIONS)), classes=EXPRESSIONS)
    for number, timeline in enumerate((empty, made([[-1] * 10]))):
        path = timeline.write(tmp_path / f"t{number}{SUFFIXES[name]}")
        assert Timeline.read(path).table["expression"].drop_nulls().is_empty()
        if name == "eaf":
            assert pympi.Eaf(str(path)).get_tier_names() is not None
        if name == "textgrid":
            assert textgrid.openTextgrid(str(path), includeEmptyIntervals=True).maxTimestamp > 0


def test_a_still_lasts_a_second(tmp_path: Path) -> None:
    (item,) = [i for i in from_timeline(made([[4]])).items if i.kind == EXPRESSION]
    assert (item.start_s, item.stop_s, item.label) == (0, 1, "Happiness")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.eaf", "<html/>", "its root element is html"),
        ("a.eaf", "no xml", "it is not XML"),
        ("a.TextGrid", "hello", "does not begin with"),
        ("a.TextGrid", 'File type = "ooTextFile"\nObject class = "TextGrid"\n0 1 <exists>', "ends early"),
        ("a.vtt", "hello", "does not begin with WEBVTT"),
        ("a.srt", "hello", "no line of times"),
        ("a.rttm", "SPEAKER a 1 x 1 <NA> <NA> A <NA>", "no times"),
        ("a.rttm", "hello there", "does not begin with a type"),
        ("a.boris", "{}", "not a project of BORIS"),
        ("a.boris.csv", "a,b\n1,2\n", "no line with the columns"),
        ("a.boris.csv", "Subject,Behavior,Behavior type,Time\nA,Fear,START,1\n", "'Fear' of A .* has no end"),
        ("a.boris.csv", "Subject,Behavior,Behavior type,Time\nA,Fear,STOP,1\n", "ends at 1 s without a start"),
        ("a.json", "{}", "not an export of Label Studio"),
        ("timeline.json", '{"format": "mien-timeline-1"}', "give the timeline beside it"),
        ("a.json", "[", "Expecting value"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:00,000\nFear\n", "ends before it starts"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_an_error_that_says_why(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MediaError, match=message):
        Timeline.read(tmp_path / name)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["observations", "annotations", "result", "value", "events", "data"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("name", sorted(FORMATS))
@settings(max_examples=25)
@given(text=st.text(max_size=60), content=JSON)
def test_any_text_is_read_or_is_an_error_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, name: str, text: str, content: object
) -> None:
    path = tmp_path_factory.mktemp("f") / f"t{SUFFIXES[name]}"
    for body in (text, "WEBVTT\n" + text, json.dumps(content), json.dumps([{"annotations": [content]}])):
        path.write_text(body, encoding="utf-8", errors="replace")
        with contextlib.suppress(MediaError):
            Timeline.read(path)


def test_a_transcript_is_not_mistaken_for_classes(tmp_path: Path) -> None:
    cues = [f"{i}\n00:00:{i % 60:02d},000 --> 00:00:{i % 60:02d},500\nsentence number {i}\n" for i in range(1, 90)]
    (tmp_path / "talk.srt").write_text("\n".join(cues))
    with pytest.raises(MediaError, match=r"89 labels that are no class.*mien turns"):
        Timeline.read(tmp_path / "talk.srt")


def test_values_outside_the_range_and_unknown_tiers_are_errors(tmp_path: Path) -> None:
    eaf = pympi.Eaf()
    eaf.add_tier("valence@Anna")
    eaf.add_annotation("valence@Anna", 0, 500, "7")
    eaf.to_file(str(tmp_path / "v.eaf"))
    with pytest.raises(MediaError, match="valence of Anna at 0 s is '7'; it must be a number from -1 to 1"):
        Timeline.read(tmp_path / "v.eaf")
    with pytest.raises(MediaError, match="no tier or person 'Ben'; it has Anna, valence@Anna"):
        Timeline.read(tmp_path / "v.eaf", tiers=["Ben"])
    with pytest.raises(MediaError, match="none of the classes Joy"):
        Timeline.read(TWO.write(tmp_path / "t.eaf"), classes=["Joy"])


def test_a_suffix_of_no_format_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.csv, \.parquet, \.jsonl, \.eaf, \.TextGrid") as error:
        TWO.write(tmp_path / "t.xlsx")
    assert "Nothing was written" in str(error.value)
    assert not list(tmp_path.iterdir())
