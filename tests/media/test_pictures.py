"""Pictures as they are: shape of pixels, changing sizes, HDR, single pictures in unusual containers."""

from __future__ import annotations

import os
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from hypothesis import given
from hypothesis import strategies as st

from mien.errors import MediaError
from mien.media.frame_converter import square_pixel_size
from mien.media.tone_map import KNEE, WHITE, compress
from mien.media.video import frames, probe
from tests.media.makers import make_video


@pytest.fixture(scope="session")
def cases(shared: Path) -> Path:
    if not (shared / "cases").is_dir():
        pytest.skip(f"recordings that were read wrongly are not here: {shared} has no cases/")
    return shared / "cases"


def disc(size: tuple[int, int], stretch: float = 1.0) -> np.ndarray:
    """A white disc on grey, `(height, width, 3)`, drawn for pixels that are `stretch` times as wide as high."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    inside = ((x - width / 2) * stretch) ** 2 + (y - height / 2) ** 2 < (0.4 * min(height, width * stretch)) ** 2
    return np.repeat(np.where(inside, 255, 60).astype(np.uint8)[..., None], 3, axis=2)


def extent(image: np.ndarray) -> tuple[int, int]:
    """(width, height) of the white disc."""
    rows, columns = np.nonzero(image[..., 1] > 160)
    return int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1


# ---------------------------------------------------------------- shape of pixels


@pytest.mark.parametrize("aspect", [Fraction(16, 9), Fraction(64, 45), Fraction(8, 9)])
@pytest.mark.parametrize("extension", ["mp4", "mkv", "ts"])
def test_anamorphic_frames_become_square(tmp_path: Path, aspect: Fraction, extension: str) -> None:
    path = make_video(
        tmp_path / f"a.{extension}", count=3, size=(96, 96), picture=lambda i: disc((96, 96), float(aspect)),
        tags={"sample_aspect_ratio": aspect},
    )  # fmt: skip
    image, info = next(iter(frames(path))).image, probe(path)
    width, height = extent(image)
    assert abs(width - height) <= 2
    assert (info.width, info.height) == image.shape[1::-1] == square_pixel_size(96, 96, aspect)


@given(st.integers(1, 4096), st.integers(1, 4096), st.fractions(Fraction(1, 4), 4, max_denominator=99))
def test_square_pixels_keep_every_stored_pixel(width: int, height: int, aspect: Fraction) -> None:
    wide, high = square_pixel_size(width, height, aspect)
    assert wide >= width
    assert high >= height
    assert abs(wide - high * width * aspect / height) <= 1 + max(1, width * aspect / height)


def test_a_senseless_aspect_ratio_is_ignored() -> None:
    assert square_pixel_size(640, 360, Fraction(1, 1000)) == (640, 360)


@pytest.mark.parametrize("name", ["square.mp4", "sar_16_9.mp4", "dvd_pal169.mpg"])
def test_anamorphic_cases_have_the_shape_of_the_square_one(cases: Path, name: str) -> None:
    info, image = probe(cases / name), next(iter(frames(cases / name, max_side=640))).image
    assert info.width / info.height == pytest.approx(16 / 9, abs=1e-3)
    assert image.shape == (360, 640, 3)
    square = next(iter(frames(cases / "square.mp4"))).image
    assert np.abs(image.astype(float) - square).mean() < 12  # the same moment of the same clip


# ---------------------------------------------------------------- changing sizes


@pytest.mark.parametrize("second", [(64, 128), (256, 96), (48, 48)])
def test_frames_of_another_shape_keep_their_aspect(tmp_path: Path, second: tuple[int, int]) -> None:
    path = tmp_path / "joined.ts"
    parts = []
    for size in ((128, 96), second):
        part = make_video(tmp_path / "part.ts", count=6, size=size, picture=lambda i, size=size: disc(size))
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    notes: list[str] = []
    seen = [frame.image for frame in frames(path, notes=notes)]
    assert {image.shape for image in seen} == {(96, 128, 3)}
    assert len(seen) == 12
    for image in seen:
        width, height = extent(image)
        assert abs(width - height) <= 3
    scale = min(128 / second[0], 96 / second[1])
    assert extent(seen[-1])[1] == pytest.approx(0.8 * min(second) * scale, abs=3)
    assert any("6 frames of another size were fitted" in note for note in notes)


@pytest.mark.parametrize("name", ["res_portrait.ts", "reschange.ts"])
def test_size_changes_of_cases_are_letterboxed(cases: Path, name: str) -> None:
    notes: list[str] = []
    seen = [frame.image for frame in frames(cases / name, notes=notes)]
    assert any("61 frames of another size were fitted into the first frame's" in note for note in notes)
    bars = [bool((image[:, :4] == 0).all()) or bool((image[:4] == 0).all()) for image in seen]
    assert sum(bars) == 61


def test_an_aspect_ratio_that_changes_without_the_size_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "broadcast.ts"
    parts = []
    for aspect in (Fraction(1), Fraction(4, 3)):
        part = make_video(
            tmp_path / "part.ts", count=40, size=(96, 96), picture=lambda i, a=aspect: disc((96, 96), float(a)),
            tags={"sample_aspect_ratio": aspect},
        )  # fmt: skip
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    last = list(frames(path))[-1].image
    width, height = extent(last)
    assert last.shape == (96, 96, 3)
    assert abs(width - height) <= 3


# ---------------------------------------------------------------- HDR


def pq_code(nits: float) -> float:
    """ST 2084 inverse EOTF, by its formula."""
    y = (nits / 1e4) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * y) / (1 + 2392 / 128 * y)) ** (2523 / 32)


def hlg_code(scene: float) -> float:
    """BT.2100 HLG OETF, by its formula."""
    return (3 * scene) ** 0.5 if scene <= 1 / 12 else 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073


def srgb(linear: float) -> float:
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


def grey_video(path: Path, code: float, transfer: ColorTrc) -> Path:
    """A 10-bit video of one grey: `code` in [0, 1], limited range."""

    def planes(i: int) -> av.VideoFrame:
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        for plane, value in zip(frame.planes, (round(64 + 876 * code), 512, 512), strict=True):
            plane.update(np.full(plane.buffer_size // 2, value, np.uint16).tobytes())
        return frame

    return make_video(
        path, count=2, codec="libx265", pixel_format="yuv420p10le", planes=planes,
        tags={
            "color_trc": transfer, "colorspace": Colorspace.BT2020, "color_primaries": ColorPrimaries.BT2020,
            "color_range": ColorRange.MPEG,
        },
    )  # fmt: skip


@pytest.mark.parametrize("nits", [5.0, 50.0, 130.0, 400.0, 1000.0])
@pytest.mark.parametrize("transfer", [ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67])
def test_hdr_greys_follow_the_standards(tmp_path: Path, nits: float, transfer: ColorTrc) -> None:
    is_pq = transfer == ColorTrc.SMPTE2084
    code = pq_code(nits) if is_pq else hlg_code((nits / 1000) ** (1 / 1.2))
    notes: list[str] = []
    image = next(iter(frames(grey_video(tmp_path / "g.mp4", code, transfer), notes=notes))).image
    expected = srgb(float(compress(np.array(nits / WHITE))))
    assert image.reshape(-1, 3).mean(axis=0) == pytest.approx([expected] * 3, abs=2.5)


def test_hdr_is_noted(tmp_path: Path) -> None:
    notes: list[str] = []
    list(frames(grey_video(tmp_path / "g.mp4", 0.5, ColorTrc.SMPTE2084), notes=notes))
    assert any("HDR pictures (PQ) were tone-mapped" in note for note in notes)


@given(st.lists(st.floats(0, 49), min_size=2, max_size=9))
def test_compression_keeps_order_and_stays_below_white(light: list[float]) -> None:
    values = np.sort(np.array(light))
    mapped = compress(values)
    assert (np.diff(mapped) >= 0).all()
    assert (mapped <= 1).all()
    np.testing.assert_array_equal(mapped[values <= KNEE], values[values <= KNEE])


# ---------------------------------------------------------------- one picture, and animations


def face_like(i: int = 0) -> np.ndarray:
    """A smooth colour picture, `(48, 64, 3)`, that changes with `i`."""
    y, x = np.mgrid[:48, :64]
    return np.stack([3 * x + 20 * i, 4 * y + 10, 120 + x - y], axis=2).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("name", "codec", "pixel_format"), [
    ("one.mp4", "libx264", "yuv420p"), ("one.mkv", "libx264", "yuv420p"), ("one.ts", "libx264", "yuv420p"),
    ("one.avi", "mjpeg", "yuvj420p"), ("one.gif", "gif", "rgb8"), ("one.avif", "libsvtav1", "yuv420p"),
])  # fmt: skip
def test_one_frame_without_sound_is_an_image(tmp_path: Path, name: str, codec: str, pixel_format: str) -> None:
    try:
        path = make_video(
            tmp_path / name, count=1, codec=codec, pixel_format=pixel_format, picture=face_like, size=(64, 48)
        )
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"no encoder {codec}: {error}")
    info, seen = probe(path), list(frames(path))
    assert info.kind == "image"
    assert [frame.time_s for frame in seen] == [0.0]
    assert np.abs(seen[0].image.astype(float) - face_like()).mean() < 25


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="only Linux says how a thread is scheduled")
def test_encoding_av1_leaves_the_tests_at_their_priority(tmp_path: Path) -> None:
    try:
        make_video(tmp_path / "one.avif", count=1, codec="libsvtav1")
    except (av.error.FFmpegError, ValueError) as error:
        pytest.skip(f"no encoder libsvtav1: {error}")
    assert os.sched_getscheduler(0) != os.SCHED_FIFO


def test_two_frames_are_a_video(tmp_path: Path) -> None:
    assert probe(make_video(tmp_path / "two.mp4", count=2)).kind == "video"


@pytest.mark.parametrize("name", ["phone.heic", "a.avif", "g.gif"])
def test_single_picture_cases_are_images(cases: Path, name: str) -> None:
    info, seen = probe(cases / name), list(frames(cases / name))
    assert (info.kind, info.width, info.height, len(seen)) == ("image", 572, 562, 1)
    assert probe(cases / "one_frame.mp4").kind == "image"


def test_a_heic_of_tiles_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiles.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0\0\0\x15infe\x02\0\0\0\0\x31\0\0grid\0" + b"\0" * 99)
    with pytest.raises(MediaError, match=r"made of tiles.*\n.*\n.*JPEG"):
        probe(path)


def test_an_unsupported_depth_is_named(tmp_path: Path) -> None:
    path = tmp_path / "f.tif"
    cv2.imwrite(str(path), face_like().astype(np.float32) / 255)
    with pytest.raises(MediaError, match="floating-point numbers of 32 bits; mien reads pictures of 8 or 16 bits"):
        probe(path)


def test_the_float_case_is_named(cases: Path) -> None:
    with pytest.raises(MediaError, match="floating-point numbers of 32 bits"):
        probe(cases / "float32.tif")


@pytest.mark.parametrize("suffix", [".webp", ".png"])
def test_animations_are_videos(tmp_path: Path, suffix: str) -> None:
    path, animation = tmp_path / f"a{suffix}", cv2.Animation()
    animation.frames = [np.ascontiguousarray(face_like(i)[..., ::-1]) for i in range(4)]
    animation.durations = np.array([100, 200, 40, 100])
    cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_WEBP_QUALITY, 95])
    info, seen = probe(path), list(frames(path))
    assert (info.kind, info.width, info.height) == ("video", 64, 48)
    assert [frame.time_s for frame in seen] == pytest.approx([0, 0.1, 0.3, 0.34], abs=0.002)
    for i, frame in enumerate(seen):
        assert np.abs(frame.image.astype(float) - face_like(i)).mean() < 6


def test_the_animated_case_is_a_video(cases: Path) -> None:
    seen = list(frames(cases / "anim.webp", max_side=160))
    assert len(seen) > 1
    assert {frame.image.shape for frame in seen} == {(90, 160, 3)}
    assert all(a.time_s < b.time_s for a, b in pairwise(seen))
