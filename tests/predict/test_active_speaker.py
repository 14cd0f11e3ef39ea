"""Active-speaker detection on synthetic mouth motion, and on a talking face beside a still one."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mien
from mien.media.mp4_writer import write_video
from mien.media.video import frames
from mien.predict.active_speaker import attribute_speech
from mien.predict.presence import ABSENT_AFTER_S, is_near

TIMES = np.arange(150) / 30


def mouth(speed: float, seed: int = 0) -> np.ndarray:
    """A mouth opening that changes by `speed` face units per second."""
    steps = np.random.default_rng(seed).choice([-1.0, 1.0], len(TIMES)) * speed / 30
    return np.cumsum(steps)


def test_speech_belongs_to_the_moving_mouth() -> None:
    is_speech = (TIMES > 1) & (TIMES < 4)
    speech = attribute_speech([mouth(0.05), mouth(0.6), mouth(0.2, 1)], TIMES, is_speech)
    assert set(speech[1][is_speech]) == {"own"}
    assert set(speech[0][is_speech]) == set(speech[2][is_speech]) == {"other"}
    assert (speech[:, ~is_speech] == "").all()


@pytest.mark.parametrize("openings", [[mouth(0.1), mouth(0.02)], [mouth(0.5), mouth(0.4, 1)]], ids=["none", "two"])
def test_speech_is_shared_if_no_mouth_or_two_mouths_move(openings: list[np.ndarray]) -> None:
    assert (attribute_speech(openings, TIMES, np.ones(150, bool)) == "shared").all()


def syllables(seed: int, rate_hz: float = 4.0) -> np.ndarray:
    """`(time,)` in [0, 1]: openings of about `rate_hz` a second with random strength."""
    rng = np.random.default_rng(seed)
    strength = np.repeat(rng.uniform(0.2, 1, 40), int(30 / rate_hz))[: len(TIMES)]
    phase = rng.random() + np.cumsum(rng.uniform(0.6, 1.4, len(TIMES))) * rate_hz / 30
    return strength * (0.5 - 0.5 * np.cos(2 * np.pi * phase))


@pytest.mark.parametrize("seed", range(4))
def test_of_two_mouths_that_move_alike_the_one_that_follows_the_sound_speaks(seed: int) -> None:
    talks, chews = syllables(seed), syllables(seed + 100, 3.0)
    level = -50 + 35 * talks
    everything = np.ones(150, bool)
    without = attribute_speech([chews, talks], TIMES, everything)
    with_sound = attribute_speech([chews, talks], TIMES, everything, level)
    assert (without == "own").mean() < 0.2, "motion alone cannot tell"
    assert (with_sound[1] == "own").mean() >= 0.6
    assert (with_sound[0] == "own").sum() == 0


def test_sound_alone_makes_nobody_speak() -> None:
    still = 0.001 * syllables(0)
    speech = attribute_speech([still, np.zeros(150)], TIMES, np.ones(150, bool), -50 + 35 * syllables(0))
    assert (speech == "shared").all(), "a mouth that hardly moves does not talk, however well it fits"


def test_a_level_that_does_not_vary_changes_nothing() -> None:
    openings = [mouth(0.6), mouth(0.2, 1)]
    everything = np.ones(150, bool)
    flat = attribute_speech(openings, TIMES, everything, np.full(150, -20.0))
    assert (flat == attribute_speech(openings, TIMES, everything)).all()


def test_speakers_who_alternate_without_a_pause_are_separated() -> None:
    first, second = mouth(0.6), mouth(0.6, 1)
    first[75:], second[:75] = first[75], second[75]
    speech = attribute_speech([first, second], TIMES, np.ones(150, bool))
    assert (speech[0][:60] == "own").all()
    assert (speech[1][:60] == "other").all()
    assert (speech[1][-60:] == "own").all()
    assert (speech[0][-60:] == "other").all()


def test_a_face_that_is_rarely_visible_is_not_the_speaker() -> None:
    rarely_visible = np.where(TIMES < 4.5, np.nan, mouth(5.0))
    assert set(attribute_speech([rarely_visible, mouth(0.6)], TIMES, np.ones(150, bool))[1][:120]) == {"own"}
    assert (attribute_speech([np.full(150, np.nan)], TIMES, np.ones(150, bool)) == "shared").all()


def test_undecided_speech_is_shared_by_those_in_view_only() -> None:
    """A narrator speaks: the first subject is in view throughout, the second leaves after two seconds."""
    leaves = np.where(TIMES < 2, mouth(0.05), np.nan)
    speech = attribute_speech([mouth(0.05, 1), leaves], TIMES, np.ones(150, bool))
    assert (speech[0] == "shared").all()
    gone = TIMES > 2 + ABSENT_AFTER_S
    assert (speech[1][gone] == "other").all()
    assert (speech[1][TIMES < 2] == "shared").all()


def test_nobody_out_of_view_speaks() -> None:
    """The only subject appears after two seconds of speech, and leaves before the last second."""
    seen = np.where((TIMES > 2) & (TIMES < 4), mouth(0.05), np.nan)
    (speech,) = attribute_speech([seen], TIMES, np.ones(150, bool))
    assert set(speech[(TIMES < 1.5) | (TIMES > 4.5)]) == {"other"}


@given(
    st.lists(st.lists(st.one_of(st.floats(-2, 2), st.just(np.nan)), min_size=12, max_size=12), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_speech_has_at_most_one_owner_and_silence_has_none(
    openings: list[list[float]], speech_frames: list[bool]
) -> None:
    is_speech = np.array(speech_frames)
    speech = attribute_speech([np.array(o) for o in openings], np.arange(12) / 10, is_speech)
    own, other = (speech == "own").sum(axis=0), (speech == "other").sum(axis=0)
    assert (own <= 1).all()
    visible = np.array([is_near(np.isfinite(o), np.arange(12) / 10) for o in openings])
    given = np.where(own == 1, len(openings) - 1, (~visible).sum(axis=0) * (visible.any() & is_speech))
    assert (other == given).all(), "speech of others requires an owner, or somebody out of view"
    assert ((speech != "").all(axis=0) == is_speech).all()
    assert ((speech == "").all(axis=0) == ~is_speech).all()


def test_a_talking_face_beside_a_photograph(tmp_path: Path, shared: Path) -> None:
    """The left face speaks; the right face is a still image."""
    talking, still = shared / "clips" / "lbax4n.mpg", shared / "clips" / "pwij3p.mpg"
    left = list(frames(talking))
    right = next(iter(frames(still))).image
    with av.open(str(talking)) as container:
        sound = np.concatenate(
            [f.to_ndarray().reshape(-1) for f in _mono(container)] or [np.zeros(1, np.float32)]
        ).astype(np.float32)
    pair = (np.concatenate([f.image, cv2.resize(right, f.image.shape[1::-1])], axis=1) for f in left)
    path = tmp_path / "two.mp4"
    write_video(path, pair, times=[f.time_s for f in left], audio=sound)
    timeline = mien.load("starter").predict(path)
    left_edges = {s: timeline.rows_of(s)["x1"].drop_nulls().to_numpy().mean() for s in timeline.subjects}
    assert len(left_edges) == 2
    talker, other = sorted(left_edges, key=left_edges.__getitem__)
    assert timeline.rows_of(talker)["speech"].drop_nulls().len() > 20
    assert set(timeline.rows_of(talker)["speech"].drop_nulls()) == {"own"}
    assert set(timeline.rows_of(other)["speech"].drop_nulls()) == {"other"}
    assert not timeline.rows_of(other)["evidence"].is_in(["voice", "both"]).any()
    assert any("whose mouth moves" in note for note in timeline.notes)


def _mono(container: av.container.InputContainer) -> list[av.AudioFrame]:
    resampler = av.AudioResampler("flt", "mono", 16_000)
    return [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
