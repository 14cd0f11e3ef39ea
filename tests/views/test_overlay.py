"""Overlay: boxes on the faces, labels inside the image, audio and times kept."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from views_support import FRAMES, HEIGHT, RATE, WIDTH, box_at

from mien.errors import MediaError, OutputError
from mien.labels import EXPRESSIONS
from mien.media.audio import load
from mien.media.video import frames, write_video
from mien.timeline.table import Timeline, subject_rows
from mien.views import overlay
from mien.views.overlay import Annotation, draw, frame_annotations
from mien.views.palette import EXPRESSION, NO_EXPRESSION, VALENCE_AROUSAL, rgb


@pytest.fixture(scope="module")
def drawn(timeline: Timeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return timeline.overlay(tmp_path_factory.mktemp("overlay") / "new" / "overlay.mp4")


def test_every_frame_keeps_its_time(drawn: Path) -> None:
    assert [f.time_s for f in frames(drawn)] == pytest.approx([i / RATE for i in range(FRAMES)], abs=1e-4)


def test_audio_is_kept(drawn: Path, recording: Path) -> None:
    start, written = load(drawn)
    _, original = load(recording)
    n = min(len(written), len(original)) - 4000
    assert abs(start) < 0.05
    assert len(written) == pytest.approx(len(original), abs=2100)
    assert np.corrcoef(np.abs(np.fft.rfft(written[2000:n])), np.abs(np.fft.rfft(original[2000:n])))[0, 1] > 0.95


def test_boxes_follow_the_faces_and_their_expression(drawn: Path) -> None:
    """The left edge of the box, sampled in the decoded video; chroma is subsampled, so colours are near, not equal."""
    images = {f.index: f.image for f in frames(drawn)}
    for index, subject, name in (
        (10, 0, "Neutral"),
        (40, 0, "Happiness"),
        (40, 1, "Sadness"),
        (90, 0, "Happiness"),
    ):
        x1, y1, _, y2 = np.rint(box_at(subject, index / RATE)).astype(int)
        edge = images[index][(y1 + y2) // 2, x1 - 1 : x1 + 2].astype(int)
        assert np.abs(edge - rgb(EXPRESSION[name])).sum(axis=1).min() < 120, (index, subject, edge)


def test_no_box_without_a_face(drawn: Path, recording: Path) -> None:
    before, after = (next(f.image for f in frames(p) if f.index == 55) for p in (recording, drawn))
    x1, y1, x2, y2 = np.rint(box_at(0, 55 / RATE)).astype(int)
    inside = (slice(y1 - 4, y2 + 4), slice(x1 - 4, x2 + 4))
    assert np.abs(before[inside].astype(int) - after[inside]).mean() < 6
    corner = (slice(HEIGHT - 20, HEIGHT), slice(0, 90))
    assert np.abs(before[corner].astype(int) - after[corner]).mean() > 30, (
        "the label of a subject without a face is in the corner"
    )


def test_variable_times_are_kept(tmp_path: Path) -> None:
    times = np.cumsum([0, 0.04, 0.1, 0.033, 0.25, 0.04])
    write_video(tmp_path / "v.mp4", (np.full((64, 96, 3), 40 * i, np.uint8) for i in range(6)), times=list(times))
    table = subject_rows(
        0,
        times,
        probabilities=np.full((6, 8), 0.125),
        valence_arousal=np.zeros((6, 2)),
        voice=np.zeros(6, bool),
        frames=np.arange(6),
    )
    out = Timeline(table, media=tmp_path / "v.mp4").overlay(tmp_path / "o.mp4")
    assert [f.time_s for f in frames(out)] == pytest.approx(times, abs=1e-4)


def test_an_image_becomes_a_png(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "s.png"), np.full((200, 300, 3), 200, np.uint8))
    table = subject_rows(
        0,
        np.zeros(1),
        probabilities=np.eye(8)[[1]],
        valence_arousal=np.zeros((1, 2)),
        voice=np.zeros(1, bool),
        face=np.ones(1, bool),
        boxes=np.array([[100.0, 60, 180, 160]]),
        frames=np.zeros(1, int),
    )
    out = Timeline(table, media=tmp_path / "s.png").overlay(tmp_path / "overlay.mp4")
    assert out == tmp_path / "overlay.png"
    assert tuple(cv2.imread(str(out))[110, 100][::-1]) == rgb(EXPRESSION["Anger"])


def test_audio_only_media_is_an_error(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", [], times=[], audio=np.zeros(8000, np.float32))
    table = subject_rows(
        0, np.zeros(1), probabilities=np.eye(8)[:1], valence_arousal=np.zeros((1, 2)), voice=np.ones(1, bool)
    )
    with pytest.raises(OutputError, match="no video frames to draw on") as caught:
        Timeline(table, media=tmp_path / "a.mp4").overlay(tmp_path / "o.mp4")
    assert (caught.value.follows, "--overlay" in caught.value.remedy) == ("No overlay was written.", True)
    assert not (tmp_path / "o.mp4").exists()


def test_a_missing_recording_is_named(timeline: Timeline, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"missing\.mp4"):
        Timeline(timeline.table, media=tmp_path / "missing.mp4").overlay(tmp_path / "o.mp4")


def test_annotations_are_the_rows_of_each_frame(timeline: Timeline) -> None:
    by_frame = list(frame_annotations(timeline.table))
    assert len(by_frame) == FRAMES
    assert [m.name for m in by_frame[0]] == ["0", "1"]
    assert by_frame[55][0].box is None
    assert by_frame[65][0].text == "0  no expression"
    assert by_frame[55][1].text == "1  Sadness 65%"
    assert np.allclose(by_frame[30][1].box, box_at(1, 30 / RATE), atol=1e-4)


def one_row(classes: list[str], **overrides: np.ndarray) -> pl.DataFrame:
    values = {
        "probabilities": np.eye(len(classes))[[1]],
        "valence_arousal": np.array([[0.5, -0.25]]),
        "voice": np.zeros(1, bool),
        "frames": np.zeros(1, int),
    }
    return subject_rows(0, np.zeros(1), classes=classes, **{**values, **overrides})


def test_labels_have_own_classes_with_distinct_colours() -> None:
    classes = [f"Müde {k}" for k in range(12)]
    texts, colours = set(), set()
    for k in range(12):
        table = one_row(classes, probabilities=np.eye(12)[[k]])
        ((annotation,),) = frame_annotations(table, classes)
        texts.add(annotation.text)
        colours.add(annotation.colour)
    assert texts == {f"{name} 100%" for name in classes}
    assert len(colours) == 12


def test_labels_of_valence_and_arousal_alone_name_no_expression() -> None:
    nothing = np.full((1, 8), np.nan)
    table = pl.concat(
        [
            one_row(list(EXPRESSIONS), probabilities=nothing),
            one_row(list(EXPRESSIONS), probabilities=nothing, valence_arousal=np.full((1, 2), np.nan)).with_columns(
                frame=pl.lit(1, pl.Int64)
            ),
        ]
    )
    (first,), (second,) = frame_annotations(table)
    assert (first.text, first.colour) == ("valence +0.50, arousal -0.25", VALENCE_AROUSAL)
    assert (second.text, second.colour) == ("no valence, no arousal", NO_EXPRESSION)


def test_letters_that_the_font_lacks_are_replaced() -> None:
    assert overlay._ascii("Überraschung, heiß, café") == "Uberraschung, heiss, cafe"
    assert overlay._ascii("嬉") == "?"
    classes = ["calm", "嬉しい", "悲 (sad)"]
    texts = []
    for row in np.eye(3):
        ((annotation,),) = frame_annotations(one_row(classes, probabilities=row[None]), classes)
        texts.append(annotation.text)
    assert texts == ["calm 100%", "class 2 100%", "悲 (sad) 100%"]


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    corners=st.lists(st.floats(-2000, 3000), min_size=4, max_size=4),
    text=st.text(max_size=30),
    colour=st.sampled_from([*EXPRESSION.values(), NO_EXPRESSION, VALENCE_AROUSAL]),
    evidence=st.sampled_from(["both", "face", "voice", "none"]),
)
def test_any_box_in_any_image_can_be_drawn(
    height: int, width: int, corners: list[float], text: str, colour: str, evidence: str
) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    annotated = [
        Annotation("", np.array(corners), text, colour, evidence),
        Annotation("1", None, text, colour, evidence),
    ]
    out = draw(image, annotated)
    assert out.shape == image.shape
    assert not image.any(), "draw must not change its input"


def test_the_video_has_codecs_that_browsers_play(drawn: Path) -> None:
    with av.open(str(drawn)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert container.streams.audio[0].codec_context.name == "aac"
        assert (container.streams.video[0].width, container.streams.video[0].height) == (WIDTH, HEIGHT)
