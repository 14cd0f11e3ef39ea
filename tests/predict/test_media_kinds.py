"""Prediction of recordings that are no plain video: sound beyond the pictures, channels, upside down, one picture."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import polars as pl
import pytest
from tiny_checkpoint import save_tiny

from mien import hub
from mien.errors import MediaError
from mien.faces.upside_down import is_upside_down, turn
from mien.media.audio import load as load_sound
from mien.media.video import frames, probe, sample_pictures, write_video
from mien.predict import Predictor, load
from mien.predict.rows import SOUND_ROWS_HZ, row_times
from mien.records import Stream

needs_faces = pytest.mark.skipif(
    not (hub.available("blazeface") and hub.available("facemesh")),
    reason="the face networks are not here: mien hub pull blazeface facemesh",
)


@pytest.fixture(scope="session")
def cases(shared: Path) -> Path:
    if not (shared / "cases").is_dir():
        pytest.skip(f"recordings that were read wrongly are not here: {shared} has no cases/")
    return shared / "cases"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    """A small checkpoint of the flagship with random weights."""
    return load(save_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def starter() -> Predictor:
    return load("starter", device="cpu")


def speech(stop_s: float, spoken: tuple[float, float]) -> Stream:
    times = np.arange(0.05, stop_s, 0.1)
    valid = (times >= spoken[0]) & (times <= spoken[1])
    return Stream(np.zeros((len(times), 1), np.float32), times, valid, {})


# ---------------------------------------------------------------- rows beyond the pictures

FRAMES = np.arange(50) / 25 + 1.0  # pictures from 1 to 3 s


def test_without_speech_beyond_the_pictures_there_is_a_row_for_each_frame() -> None:
    times, numbers = row_times(FRAMES, speech(11, (1.0, 3.4)), 11.0)
    np.testing.assert_array_equal(times, FRAMES)
    np.testing.assert_array_equal(numbers, np.arange(50))


def test_speech_after_the_pictures_gets_rows_at_ten_a_second() -> None:
    times, numbers = row_times(FRAMES, speech(11, (5, 6)), 11.0)
    np.testing.assert_array_equal(numbers, [*range(50), *[-1] * 80])
    np.testing.assert_allclose(times[50:], 3.0 + np.arange(80) / SOUND_ROWS_HZ)


def test_speech_before_the_pictures_gets_rows_too() -> None:
    times, numbers = row_times(FRAMES, speech(3, (0.1, 0.4)), 3.0)
    np.testing.assert_array_equal(numbers, [*[-1] * 10, *range(50)])
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize(("stop_s", "rows"), [(11.0, 110), (11.02, 111), (0.01, 1), (0.0, 1)])
def test_sound_alone_has_a_row_for_each_tenth_of_a_second_that_it_lasts(stop_s: float, rows: int) -> None:
    times, numbers = row_times(np.zeros(0), speech(stop_s + 0.1, (0, 99)), stop_s)
    assert len(times) == rows
    assert (numbers == -1).all()


@needs_faces
def test_sound_that_goes_on_is_read(cases: Path, starter: Predictor, tmp_path: Path) -> None:
    timeline = starter.predict(cases / "video3s_audio11s.mp4")
    beyond = timeline.table.filter(pl.col("frame").is_null())
    assert len(timeline) == 155
    assert len(beyond) == 80
    assert beyond["time_s"].min() >= 3.0
    assert set(beyond["evidence"]) == {"voice", "none"}
    assert any("pictures from 0.0 to 3.0 s and speech beyond them: 80 rows" in note for note in timeline.notes)
    drawn = list(frames(timeline.overlay(tmp_path / "overlay.mp4")))
    assert len(drawn) == 75
    assert timeline.report(tmp_path / "report.html", embed=False).exists()


# ---------------------------------------------------------------- tracks and channels


@needs_faces
@pytest.mark.parametrize(
    ("name", "rows", "note"),
    [
        ("cover_noflag.m4a", 110, "counts as cover art"),
        ("antiphase.wav", 110, "channels of its sound cancel"),
        ("two_audio_first_silent.mkv", 75, "track 2 is used"),
        ("wallclock_audio.mkv", 75, "both were taken to start together"),
    ],
)
def test_speech_of_cases_is_heard(cases: Path, starter: Predictor, name: str, rows: int, note: str) -> None:
    timeline = starter.predict(cases / name)
    assert len(timeline) == rows
    assert set(timeline.table["evidence"]) & {"voice", "both"}
    assert any(note in text for text in timeline.notes)
    assert not any("no speech" in text for text in timeline.notes)


@needs_faces
def test_the_silent_track_can_be_chosen(cases: Path, starter: Predictor) -> None:
    timeline = starter.predict(cases / "two_audio_first_silent.mkv", audio_track=1)
    assert any("no speech was detected" in note for note in timeline.notes)


def test_each_channel_is_a_subject(cases: Path, predictor: Predictor, tmp_path: Path) -> None:
    """A call with one speaker on each channel: speech in turns gives each subject its own evidence."""
    voice = load_sound(cases / "antiphase.wav")[1][: 16_000 * 4]
    silence = np.zeros_like(voice)
    path = tmp_path / "call.wav"
    samples = np.stack([np.concatenate([voice, silence]), np.concatenate([silence, voice])])
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=16_000, layout="stereo")
        frame = av.AudioFrame.from_ndarray((samples.T.reshape(1, -1) * 3e4).astype(np.int16), "s16", "stereo")
        frame.sample_rate = 16_000
        output.mux([*stream.encode(frame), *stream.encode(None)])
    timeline = predictor.predict(path, split_channels=True)
    heard = {subject: timeline.rows_of(subject).filter(pl.col("evidence") == "voice")["time_s"] for subject in (0, 1)}
    assert timeline.subjects == [0, 1]
    assert len(timeline) == 160
    assert heard[0].max() < 4.3 < heard[0].max() + 2
    assert heard[1].min() >= 4
    assert len(heard[0]) == pytest.approx(len(heard[1]), abs=4)
    assert any("each of the 2 channels of the sound is a subject" in note for note in timeline.notes)


def test_channels_are_not_split_beside_pictures(predictor: Predictor, cases: Path) -> None:
    with pytest.raises(MediaError, match=r"split channels are for sound alone[\s\S]*--no-face"):
        predictor.predict(cases / "video3s_audio11s.mp4", split_channels=True)


# ---------------------------------------------------------------- upside down


@needs_faces
def test_upside_down_pictures_are_recognised(cases: Path) -> None:
    upright = [frame.image for frame in frames(cases / "square.mp4")][::20]
    assert not is_upside_down(upright)
    assert is_upside_down(map(turn, upright))
    assert not is_upside_down([turn(upright[0]), upright[1]])  # somebody upright: the others may hang
    assert not is_upside_down([np.full((90, 160, 3), 90, np.uint8)] * 3)


@needs_faces
def test_an_upside_down_recording_is_read_like_the_upright_one(cases: Path, starter: Predictor, tmp_path: Path) -> None:
    """The boxes are those of the file as it is shown."""
    upright = [frame.image for frame in frames(cases / "square.mp4")][:40]
    turned = tmp_path / "turned.mp4"
    write_video(turned, map(turn, upright), rate=30, crf=16)
    write_video(tmp_path / "upright.mp4", upright, rate=30, crf=16)
    a, b = starter.predict(tmp_path / "upright.mp4"), starter.predict(turned)
    assert any("upside down" in note for note in b.notes)
    assert not any("upside down" in note for note in a.notes)
    assert (a.table["expression"] == b.table["expression"]).mean() >= 0.95
    boxes = [t.table.select("x1", "y1", "x2", "y2").to_numpy() for t in (a, b)]
    assert np.abs(np.tile(upright[0].shape[1::-1], 2) - boxes[1][:, [2, 3, 0, 1]] - boxes[0]).max() < 4


@needs_faces
def test_a_picture_upside_down_is_turned_and_described_once(starter: Predictor, tmp_path: Path) -> None:
    from skimage.data import astronaut

    picture = astronaut()
    cv2.imwrite(str(tmp_path / "a.png"), picture[..., ::-1])
    cv2.imwrite(str(tmp_path / "b.png"), turn(picture)[..., ::-1])
    (a, b) = (starter.predict(tmp_path / name) for name in ("a.png", "b.png"))
    assert [note for note in b.notes if "upside down" in note] == [note for note in b.notes if note not in a.notes]
    assert b.table["expression"].to_list() == a.table["expression"].to_list()
    (box, turned), height = [t.table.select("x1", "y1", "x2", "y2").row(0) for t in (a, b)], picture.shape[0]
    assert np.abs(height - np.array(turned)[[2, 3, 0, 1]] - box).max() < 4


@needs_faces
def test_the_upside_down_case_is_turned(cases: Path, starter: Predictor) -> None:
    timeline = starter.predict(cases / "upsidedown_nometa.mp4")
    assert any("upside down" in note for note in timeline.notes)
    assert (timeline.table["expression"] != "Surprise").all()


def test_sampled_pictures_are_spread_over_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "grey.mp4"
    write_video(path, (np.full((48, 64, 3), i, np.uint8) for i in range(200)), rate=20)
    levels = [float(image.mean()) for image in sample_pictures(path, 4)]
    assert len(levels) == 4
    for level, asked in zip(levels, (0, 50, 100, 150), strict=True):
        assert asked - 50 <= level <= asked + 1  # the key frame before, and there is one in 50 frames
    assert len(set(levels)) == 4
    cv2.imwrite(str(tmp_path / "a.png"), np.full((48, 64, 3), 7, np.uint8))
    assert len(list(sample_pictures(tmp_path / "a.png", 4))) == 1


# ---------------------------------------------------------------- one picture, very short clips


@needs_faces
@pytest.mark.parametrize("name", ["phone.heic", "a.avif", "g.gif"])
def test_a_picture_is_read_alike_in_every_container(cases: Path, starter: Predictor, tmp_path: Path, name: str) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), next(iter(frames(cases / name))).image[..., ::-1])
    a, b = starter.predict(cases / name), starter.predict(tmp_path / "a.jpg")
    assert len(a) == len(b) == 1
    assert a.table["expression"].to_list() == b.table["expression"].to_list() == ["Happiness"]
    assert a.table["confidence"][0] == pytest.approx(b.table["confidence"][0], abs=0.05)


@needs_faces
@pytest.mark.parametrize(("name", "rows"), [("one_frame.mp4", 1), ("micro_0.4s.mp4", 12)])
def test_very_short_clips_have_faces(cases: Path, starter: Predictor, name: str, rows: int) -> None:
    timeline = starter.predict(cases / name)
    assert len(timeline) == rows
    assert set(timeline.table["evidence"]) == {"face"}


@needs_faces
def test_the_shape_of_pixels_does_not_change_the_labels(cases: Path, starter: Predictor, tmp_path: Path) -> None:
    timelines = [starter.predict(cases / name) for name in ("square.mp4", "sar_16_9.mp4", "dvd_pal169.mpg")]
    for timeline in timelines[1:]:
        assert (timeline.table["expression"] == timelines[0].table["expression"]).mean() >= 0.98
    drawn = probe(timelines[1].overlay(tmp_path / "overlay.mp4"))
    assert (drawn.width, drawn.height) == (640, 360)


# ---------------------------------------------------------------- containers

CONTAINERS = {
    "mp4": ("libx264", "aac"), "mkv": ("libx264", "aac"), "mov": ("libx264", "aac"), "ts": ("libx264", "aac"),
    "avi": ("libx264", "libmp3lame"), "webm": ("libvpx-vp9", "libopus"),
}  # fmt: skip


def convert(source: Path, path: Path, codecs: tuple[str, str]) -> Path:
    """Encode the first 1.6 seconds of a recording anew, at high quality."""
    with av.open(str(source)) as media, av.open(str(path), "w") as output:
        pictures, sound = media.streams.video[0], media.streams.audio[0]
        options = {"crf": "14", "preset": "veryfast"} if codecs[0] == "libx264" else {
            "crf": "12", "b": "0", "cpu-used": "8", "deadline": "realtime"
        }  # fmt: skip
        video = output.add_stream(codecs[0], rate=25, options=options)
        video.width, video.height, video.pix_fmt = pictures.width, pictures.height, "yuv420p"
        audio = output.add_stream(codecs[1], rate=48_000, layout="mono", bit_rate=160_000)
        resampler = av.AudioResampler(format=audio.codec_context.format, layout="mono", rate=48_000, frame_size=0)
        count = {"video": 0, "audio": 0}
        for frame in media.decode(pictures, sound):
            if isinstance(frame, av.VideoFrame) and count["video"] < 40:
                frame = frame.reformat(format="yuv420p")
                frame.pts, frame.time_base, frame.pict_type = count["video"], 1 / video.codec_context.rate, 0
                count["video"] += 1
                output.mux(video.encode(frame))
            elif isinstance(frame, av.AudioFrame) and count["audio"] < 76_800:
                frame.pts = None
                for part in resampler.resample(frame):
                    part.pts = count["audio"]
                    count["audio"] += part.samples
                    output.mux(audio.encode(part))
        output.mux([*video.encode(None), *audio.encode(None)])
    return path


@needs_faces
def test_every_container_of_a_recording_gives_the_same_labels(shared: Path, starter: Predictor, tmp_path: Path) -> None:
    source = shared / "clips" / "lwbsza.mpg"
    made = {name: convert(source, tmp_path / f"a.{name}", codecs) for name, codecs in CONTAINERS.items()}
    labels = {name: starter.predict(path).table["expression"].to_list() for name, path in made.items()}
    assert {len(values) for values in labels.values()} == {40}
    for name, values in labels.items():
        assert np.mean(np.array(values) == np.array(labels["mp4"])) >= 0.99, name
