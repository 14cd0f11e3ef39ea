"""Clip ids as file names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mien.store.filenames import escape, unescape


@given(st.text(min_size=1, max_size=400))
def test_any_clip_id_becomes_a_safe_file_name_and_is_recovered(clip: str) -> None:
    name = escape(clip)
    assert not set(name) & set('/\\:*?"<>|\0\n')
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert len(name.encode()) <= 180
    assert unescape(name) in (clip, None)
    if len(clip.encode()) <= 40:
        assert unescape(name) == clip


@given(st.lists(st.text(alphabet="a/%~.é _\u4e2d", min_size=1, max_size=120), min_size=2, max_size=8, unique=True))
def test_different_ids_get_different_names(clips: list[str]) -> None:
    assert len({escape(clip) for clip in clips}) == len(clips)


def test_ordinary_ids_are_unchanged() -> None:
    for clip in ("1-30-1280x720", "video59_right", "Gespräch 3", "発話"):
        assert escape(clip) == clip
