"""Headers of still pictures: size and orientation before decoding, limits, and colours as other programs show them."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.errors import MediaError
from mien.media import image
from mien.media.image_header import HeaderError, read_header
from mien.media.probe import probe
from mien.media.video import frames

Image = pytest.importorskip("PIL.Image", reason="Pillow, the independent reader, is not here")
ImageOps = pytest.importorskip("PIL.ImageOps")

FORMATS = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp", "BMP": ".bmp"}


def picture(size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """A smooth colour picture without symmetry, `(height, width, 3)`."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x + 20, 4 * y + 10, 120 + x - y], axis=2).clip(0, 255).astype(np.uint8)


def save(path: Path, kind: str, pixels: object = None, **options: object) -> Path:
    made = pixels if pixels is not None else Image.fromarray(picture())
    made.save(path, kind, **options)
    return path


def shown_by_pillow(path: Path) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_all_orientations_are_upright_and_have_the_size_of_the_header(
    tmp_path: Path, kind: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = save(tmp_path / f"o{FORMATS[kind]}", kind, exif=exif if kind == "TIFF" else exif.tobytes())
    expected = shown_by_pillow(path)
    (frame,), info = list(frames(path)), probe(path)
    assert (info.width, info.height) == expected.shape[1::-1] == frame.image.shape[1::-1]
    assert np.abs(frame.image.astype(int) - expected).mean() < 1.5


def with_alpha(mode: str) -> object:
    made = Image.fromarray(picture()).convert(mode)
    made.putalpha(200)
    return made


@pytest.mark.parametrize(("name", "make"), [
    ("cmyk.jpg", lambda: Image.fromarray(picture()).convert("CMYK")),
    ("cmyk.tif", lambda: Image.fromarray(picture()).convert("CMYK")),
    ("palette.png", lambda: Image.fromarray(picture()).convert("P")),
    ("palette.bmp", lambda: Image.fromarray(picture()).convert("P")),
    ("palette.tif", lambda: Image.fromarray(picture()).convert("P")),
    ("bilevel.png", lambda: Image.fromarray(picture()).convert("1")),
    ("bilevel.tif", lambda: Image.fromarray(picture()).convert("1")),
    ("grey.jpg", lambda: Image.fromarray(picture()).convert("L")),
    ("grey_alpha.png", lambda: with_alpha("LA")),
    ("colour_alpha.png", lambda: with_alpha("RGBA")),
    ("colour_alpha.webp", lambda: with_alpha("RGBA")),
])  # fmt: skip
def test_colours_are_those_of_an_independent_reader(tmp_path: Path, name: str, make: object) -> None:
    path = tmp_path / name
    make().save(path)
    seen = next(iter(frames(path))).image
    assert seen.shape == (48, 64, 3)
    assert np.abs(seen.astype(int) - shown_by_pillow(path)).mean() < 2


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_keep_their_upper_half(tmp_path: Path, suffix: str, channels: int) -> None:
    deep = picture()[..., :channels].astype(np.uint16) * 257
    path = tmp_path / f"d{suffix}"
    cv2.imwrite(str(path), deep[..., ::-1] if channels == 3 else deep)
    np.testing.assert_array_equal(next(iter(frames(path))).image, np.broadcast_to(deep // 257, (48, 64, 3)))


# ---------------------------------------------------------------- limits


def with_size(kind: str, width: int, height: int) -> bytes:
    """A small picture whose header states another size."""
    memory = io.BytesIO()
    Image.fromarray(picture()).save(memory, kind)
    data = bytearray(memory.getvalue())
    if kind == "PNG":
        struct.pack_into(">II", data, 16, width, height)
    elif kind == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    elif kind == "BMP":
        struct.pack_into("<ii", data, 18, width, -height)
    elif kind == "WEBP":
        struct.pack_into("<HH", data, data.index(b"\x9d\x01\x2a") + 3, width & 0x3FFF, height & 0x3FFF)
    else:
        (directory,) = struct.unpack_from("<I", data, 4)
        (count,) = struct.unpack_from("<H", data, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            (tag,) = struct.unpack_from("<H", data, entry)
            if tag in (256, 257):
                struct.pack_into("<HII", data, entry + 2, 4, 1, width if tag == 256 else height)
    return bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(16_000, 16_000), (12_000, 10_000)])
def test_too_many_pixels_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, size: tuple[int, int]
) -> None:
    path = tmp_path / f"bomb{FORMATS[kind]}"
    path.write_bytes(with_size(kind, *size))
    monkeypatch.setattr(cv2, "imdecode", lambda *args: pytest.fail("it was decoded"))
    for read in (probe, frames, image.read):
        with pytest.raises(MediaError, match=rf"{size[0]}×{size[1]} pixels; mien reads images of up to 110,000,000"):
            read(path)


def test_a_long_side_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    path.write_bytes(with_size("PNG", 40_000, 2))
    with pytest.raises(MediaError, match="32,768 a side"):
        probe(path)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(0, 48), (64, 0)])
def test_a_size_of_nothing_is_damage(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    path = tmp_path / f"none{FORMATS[kind]}"
    path.write_bytes(with_size(kind, *size))
    with pytest.raises(MediaError, match="does not decode"):
        probe(path)


@pytest.mark.parametrize("declared", [2**31 - 1, 100_000])
def test_a_png_chunk_beyond_the_end_is_damage_before_decoding(
    tmp_path: Path, declared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV allocates the length that a chunk states."""
    data = bytearray(cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes())
    data[33:37] = struct.pack(">I", declared)
    (tmp_path / "a.png").write_bytes(data)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(MediaError, match=r"a\.png does not decode"):
        image.read(tmp_path / "a.png")


def test_probing_decodes_nothing_and_reading_decodes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "p.png", "PNG")
    calls = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: (calls.append(args), decode(*args))[1])
    assert probe(path).width == 64
    assert not calls
    assert len(list(frames(path))) == 1
    assert len(calls) == 1


@settings(deadline=None)
@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"RIFF", b"II*\0", b"MM\0*"]), st.binary())
def test_any_header_gives_a_size_or_a_header_error(signature: bytes, rest: bytes) -> None:
    try:
        header = read_header(signature + rest)
    except HeaderError:
        return
    assert header.width > 0
    assert header.height > 0


@settings(deadline=None)
@given(st.sampled_from(sorted(FORMATS)), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6))
def test_a_damaged_header_gives_a_size_or_a_header_error(kind: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(with_size(kind, 64, 48))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        header = read_header(bytes(data))
    except HeaderError:
        return
    assert header.width > 0
    assert header.height > 0


def test_animations_are_decoded_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, animation = tmp_path / "a.webp", cv2.Animation()
    animation.frames = [np.full((48, 64, 3), 20 * i, np.uint8) for i in range(10)]
    animation.durations = np.arange(10) * 10 + 40
    cv2.imwriteanimation(str(path), animation, [cv2.IMWRITE_WEBP_QUALITY, 100])
    whole = [(frame.time_s, int(frame.image.mean().round())) for frame in frames(path)]
    monkeypatch.setattr(image, "_CHUNK_PIXELS", 3 * 64 * 48)
    parts = [(frame.time_s, int(frame.image.mean().round())) for frame in frames(path)]
    assert parts == whole
    assert [value for _, value in whole] == pytest.approx([20 * i for i in range(10)], abs=2)
    assert [time_s for time_s, _ in whole] == pytest.approx(np.cumsum([0, *(np.arange(9) * 10 + 40)]) / 1000)


def test_an_animation_of_too_many_pixels_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.webp"
    canvas = (4095).to_bytes(3, "little") * 2
    frame = b"ANMF" + struct.pack("<I", 16) + bytes(16)
    path.write_bytes(b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas + frame * 20)
    with pytest.raises(MediaError, match=r"about 20 frames of 4096×4096 pixels; mien reads animations of up to 134"):
        probe(path)
