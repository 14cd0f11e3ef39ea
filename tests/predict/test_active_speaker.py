"""Whose voice it is: closed forms, and a talking face beside a still one."""

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
from mien.predict.active_speaker import attributed

TIMES = np.arange(150) / 30


def mouth(speed: float, seed: int = 0) -> np.ndarray:
    """An opening that changes by `speed` a second on average."""
    steps = np.random.default_rng(seed).choice([-1.0, 1.0], len(TIMES)) * speed / 30
    return np.cumsum(steps)


def test_the_moving_mouth_speaks() -> None:
    heard = (TIMES > 1) & (TIMES < 4)
    said = attributed([mouth(0.05), mouth(0.6), mouth(0.2, 1)], TIMES, heard)
    assert set(said[1][heard]) == {"own"}
    assert set(said[0][heard]) == set(said[2][heard]) == {"other"}
    assert (said[:, ~heard] == "").all()


@pytest.mark.parametrize("openings", [[mouth(0.1), mouth(0.02)], [mouth(0.5), mouth(0.4, 1)]], ids=["none", "two"])
def test_what_cannot_be_told_is_shared(openings: list[np.ndarray]) -> None:
    assert (attributed(openings, TIMES, np.ones(150, bool)) == "shared").all()


def test_turns_without_a_pause_are_told_apart() -> None:
    first, second = mouth(0.6), mouth(0.6, 1)
    first[75:], second[:75] = first[75], second[75]
    said = attributed([first, second], TIMES, np.ones(150, bool))
    assert (said[0][:60] == "own").all()
    assert (said[1][:60] == "other").all()
    assert (said[1][-60:] == "own").all()
    assert (said[0][-60:] == "other").all()


def test_who_is_hardly_seen_is_not_judged() -> None:
    gone = np.where(TIMES < 4.5, np.nan, mouth(5.0))
    assert set(attributed([gone, mouth(0.6)], TIMES, np.ones(150, bool))[1][:120]) == {"own"}
    assert (attributed([np.full(150, np.nan)], TIMES, np.ones(150, bool)) == "shared").all()


@given(
    st.lists(st.lists(st.one_of(st.floats(-2, 2), st.just(np.nan)), min_size=12, max_size=12), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_at_most_one_owns_speech_and_silence_is_nobodys(openings: list[list[float]], heard: list[bool]) -> None:
    speech = np.array(heard)
    said = attributed([np.array(o) for o in openings], np.arange(12) / 10, speech)
    own, other = (said == "own").sum(axis=0), (said == "other").sum(axis=0)
    assert (own <= 1).all()
    assert (other == np.where(own == 1, len(openings) - 1, 0)).all(), "others are so only beside an owner"
    assert ((said != "").all(axis=0) == speech).all()
    assert ((said == "").all(axis=0) == ~speech).all()


def test_a_talking_face_beside_a_photograph(tmp_path: Path, shared: Path) -> None:
    """The sound is of the one on the left; the one on the right is one frame, held."""
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
    middle = {int(s): float(timeline.of(s)["x1"].drop_nulls().mean()) for s in timeline.subjects}  # type: ignore[arg-type]
    assert len(middle) == 2
    talker, other = sorted(middle, key=lambda s: middle[s])
    assert timeline.of(talker)["speech"].drop_nulls().len() > 20
    assert set(timeline.of(talker)["speech"].drop_nulls()) == {"own"}
    assert set(timeline.of(other)["speech"].drop_nulls()) == {"other"}
    assert not timeline.of(other)["evidence"].is_in(["voice", "both"]).any()
    assert any("whose mouth moves" in note for note in timeline.notes)


def _mono(container: av.container.InputContainer) -> list[av.AudioFrame]:
    resampler = av.AudioResampler("flt", "mono", 16_000)
    return [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
