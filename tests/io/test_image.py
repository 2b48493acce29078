"""The door for pictures: what comes in comes out upright and RGB, or as a PhotoError that says how to mend
it.
"""

from __future__ import annotations

import io
import os
import struct
import sys
import threading
import time
import zlib
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, features

from mien.errors import (
    BadArray,
    EmptyFile,
    NotAPicture,
    NotFound,
    PhotoError,
    TooLarge,
    Truncated,
    Unreadable,
    UsageError,
)
from mien.io.image import Photo, load_photo
from mien.io.paths import EXTENSIONS, find_photos

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def corners(width: int = 24, height: int = 16) -> np.ndarray:
    """A picture that no turn or flip leaves alike: four quarters, four colors.

    Quarters are whole JPEG blocks.
    """
    out = np.zeros((height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    out[:h, :w], out[:h, w:], out[h:, :w], out[h:, w:] = (250, 5, 5), (5, 250, 5), (5, 5, 250), (250, 250, 5)
    return out


def encode(picture: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    exif[0x0112] = orientation
    exif[0x0131] = "software"
    return exif


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def huge_png(width: int, height: int, bits: int = 8) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def same(photo: Photo, expected: np.ndarray, tolerance: int = 0) -> None:
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    assert photo.pixels.shape == expected.shape
    assert (photo.height, photo.width) == expected.shape[:2]
    assert np.abs(photo.pixels.astype(int) - expected).max() <= tolerance


# Formats and modes

LOSSLESS = [
    ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}),
    ("TIFF", {"compression": "tiff_deflate"}), ("WEBP", {"lossless": True}), ("GIF", {}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
def test_lossless_formats(kind: str, options: dict[str, Any]) -> None:
    same(load_photo(encode(corners(), kind, **options)), corners())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_jpeg(options: dict[str, Any]) -> None:
    photo = load_photo(encode(corners(32, 32), "JPEG", quality=95, **options))
    assert photo.pixels.shape == (32, 32, 3)
    # away from the quarters' edges, where thinned-out colors run into each other
    assert np.abs(photo.pixels[4::8, 4::8].astype(int) - corners(32, 32)[4::8, 4::8]).max() <= 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("color", [(255, 0, 0), (0, 255, 0), (0, 0, 255)])
def test_red_stays_red(kind: str, color: tuple[int, int, int], tmp_path: Path) -> None:
    plain = np.full((16, 16, 3), color, np.uint8)
    path = tmp_path / "x"
    path.write_bytes(encode(plain, kind))
    same(load_photo(path), plain, 3)


def test_every_kind_of_source(tmp_path: Path) -> None:
    data = encode(corners(), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (
        path,
        str(path),
        data,
        bytearray(data),
        memoryview(data),
        Image.fromarray(corners()),
        corners(),
    ):
        same(load_photo(source), corners())
    assert load_photo(path).path == str(path) == load_photo(str(path)).path
    assert load_photo(data).path is None
    assert load_photo(corners()).path is None
    with Image.open(path) as lazy:
        same(load_photo(lazy), corners())


def test_a_pillow_image_is_not_changed() -> None:
    image = Image.open(io.BytesIO(encode(corners(), "PNG", exif=exif_of(6))))
    load_photo(image)
    assert image.size == (24, 16)
    assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "I", "F", "I;16", "RGBX"]
)
def test_white_stays_white_and_black_black_in_every_mode(mode: str) -> None:
    both = np.zeros((8, 8, 3), np.uint8)
    both[:, 4:] = 255
    if mode == "I;16":
        image = Image.fromarray(both[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(both).convert(mode)
    same(load_photo(image), both, 1)


def test_gray() -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    same(load_photo(encode(Image.fromarray(gray), "PNG")), np.stack([gray] * 3, axis=-1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_gray_is_scaled_and_not_clipped(kind: str) -> None:
    gray = np.array([[0, 128, 129, 257, 1000, 32768, 65278, 65535]], np.uint16)
    expected = np.round(gray / 257).astype(np.uint8)
    same(load_photo(encode(Image.fromarray(gray), kind)), np.stack([expected] * 3, axis=-1))
    assert expected[0, -1] == 255
    assert expected[0, 3] == 1


def test_16_bit_big_endian_tiff() -> None:
    gray = np.array([[0, 257, 25700, 65535]], np.uint16)
    image = Image.frombytes("I;16B", (4, 1), gray.astype(">u2").tobytes())
    expected = np.array([[0, 1, 100, 255]], np.uint8)
    same(load_photo(image), np.stack([expected] * 3, axis=-1))
    same(load_photo(encode(image, "TIFF")), np.stack([expected] * 3, axis=-1))


def test_16_bit_colour_png() -> None:
    row = b"\0" + struct.pack(">6H", 65535, 0, 25700, 0, 65535, 257)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    same(load_photo(data), np.array([[(255, 0, 100), (0, 255, 1)]], np.uint8), 1)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # 0..1
        ([0.0, 100.0, 200.0], [0, 100, 200]),  # 0..255
        ([0.0, 25700.0, 65535.0], [0, 100, 255]),  # 0..65535
        ([-1.0, 0.0, 1.0], [0, 128, 255]),  # stretched
        ([-3e38, 0.0, 3e38], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([-7.0, -7.0, -7.0], [0, 0, 0]),
    ],
)
def test_float_tiff(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    same(load_photo(encode(image, "TIFF")), np.stack([np.array([expected])] * 3, axis=-1), 1)


def test_32_bit_integers() -> None:
    for values, expected in (
        ([0, 1, 255], [0, 1, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([-10, 0, 10], [0, 128, 255]),
    ):
        image = Image.fromarray(np.array([values], np.int32))
        same(load_photo(encode(image, "TIFF")), np.stack([np.array([expected])] * 3, axis=-1), 1)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk(kind: str) -> None:
    image = Image.fromarray(corners(32, 32)).convert("CMYK")
    same(load_photo(encode(image, kind)), corners(32, 32), 12)


def test_transparency_goes_onto_white() -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[:2, :, 3] = 255
    pixels[3, :, 3] = 127
    expected = np.array([(200, 0, 0), (200, 0, 0), (255, 255, 255), (228, 128, 128)], np.uint8)
    expected = np.repeat(expected[:, None], 4, axis=1)
    same(load_photo(encode(pixels, "PNG")), expected, 1)
    same(load_photo(encode(pixels, "WEBP", lossless=True, exact=True)), expected, 1)
    same(load_photo(encode(pixels, "TIFF")), expected, 1)
    same(load_photo(Image.fromarray(pixels).convert("RGBa")), expected, 2)


def test_gray_with_alpha() -> None:
    image = Image.fromarray(np.array([[[10, 255], [10, 0]]], np.uint8), "LA")
    same(load_photo(encode(image, "PNG")), np.array([[[10] * 3, [255] * 3]], np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_palette_with_transparency(kind: str, transparency: int | bytes) -> None:
    if kind == "GIF" and isinstance(transparency, bytes):
        transparency = 1
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).copy()
    image.putpalette([255, 0, 0, 0, 0, 255])
    data = encode(image, kind, transparency=transparency)
    red, white = (255, 0, 0), (255, 255, 255)
    same(load_photo(data), np.array([[red, white], [white, red]], np.uint8))


def test_one_transparent_colour_in_an_rgb_png() -> None:
    data = encode(corners(), "PNG", transparency=(5, 250, 5))
    expected = corners()
    expected[(expected == (5, 250, 5)).all(axis=2)] = 255
    same(load_photo(data), expected)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_picture_of_many(kind: str) -> None:
    others = [Image.fromarray(np.full((16, 24, 3), v, np.uint8)) for v in (0, 99, 255)]
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(corners()), kind, save_all=True, append_images=others, **options)
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 4
    same(load_photo(data), corners())


def test_an_icc_profile_is_left_alone() -> None:
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same(load_photo(encode(corners(), "PNG", icc_profile=profile)), corners())


def test_lab_says_so() -> None:
    with pytest.raises(NotAPicture, match=r"CIELAB.*convert it to RGB"):
        load_photo(encode(Image.new("LAB", (8, 8)), "TIFF"))


# EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation(kind: str, orientation: int) -> None:
    options: dict[str, Any] = (
        {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    )
    plain = corners(64, 32) if kind == "JPEG" else corners()
    data = encode(plain, kind, exif=exif_of(orientation), **options)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    photo = load_photo(data)
    same(photo, expected)
    # and by hand: where the red quarter, the top left one of the scene as stored, must go
    red = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (0, -1), 7: (-1, -1), 8: (-1, 0)}[
        orientation
    ]
    assert np.abs(photo.pixels[red].astype(int) - plain[0, 0]).max() <= 12
    assert (photo.width > photo.height) == (orientation < 5)
    same(load_photo(Image.open(io.BytesIO(data))), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_long_values(order: str) -> None:
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    for entry in (
        struct.pack(order + "HHIHH", 0x112, 3, 1, 6, 0),
        struct.pack(order + "HHII", 0x112, 4, 1, 6),
    ):
        exif = start + struct.pack(order + "H", 1) + entry + b"\0\0\0\0"
        same(load_photo(encode(corners(), "PNG", exif=exif)), np.rot90(corners(), -1))


def test_an_edited_pillow_image_is_turned() -> None:
    image = Image.fromarray(corners())
    image.getexif()[0x0112] = 8
    same(load_photo(image), np.rot90(corners()))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientations_that_do_not_exist_count_as_upright(value: int) -> None:
    same(load_photo(encode(corners(), "PNG", exif=exif_of(value))), corners())


@pytest.mark.parametrize("cut", [1, 4, 7, 9, 13, 20, 30])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_broken_exif_does_not_lose_the_picture(kind: str, cut: int) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 95}
    exif = b"Exif\0\0" + exif_of(6).tobytes().removeprefix(b"Exif\0\0")[:cut]
    photo = load_photo(encode(corners(32, 16), kind, exif=exif, **options))
    assert photo.pixels.shape == (16, 32, 3)


@pytest.mark.parametrize(
    "junk", [b"Exif\0\0XX", b"junk", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"]
)
def test_junk_exif_is_logged(junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    same(load_photo(encode(corners(), "PNG", exif=junk)), corners())
    assert "EXIF is damaged" in caplog.text
    assert "upright" in caplog.text


@pytest.mark.parametrize(("kind", "size"), [(1, "B3x"), (3, "H2x"), (4, "I")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_of_the_orientation_tag(order: str, kind: int, size: str) -> None:
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IHHHI", 8, 1, 0x112, kind, 1)
    block = head + struct.pack(order + size, 6) + bytes(4)
    for exif in (block, b"Exif\0\0" + block, b"Exif\0\0Exif\0\0" + block):
        same(load_photo(encode(corners(), "PNG", exif=exif)), np.rot90(corners(), 3))


# Arrays


@pytest.mark.parametrize(
    ("array", "mend"),
    [
        (np.zeros((4, 5), np.float32), "np.stack([a, a, a], axis=-1)"),
        (np.zeros((4, 5, 1), np.float32), "np.repeat(a, 3, axis=2)"),
        (np.zeros((4, 5, 4), np.float32), "a[..., :3]"),
        (np.zeros((3, 40, 50), np.uint8), "a.transpose(1, 2, 0)"),
        (np.zeros((4, 5, 7), np.uint8), "red, green, blue"),
        (np.zeros((2, 4, 5, 3), np.uint8), "one by one"),
        (np.zeros((5,), np.uint8), "two sides and three channels"),
        (np.zeros((0, 5, 3), np.uint8), "no pixels"),
        (np.zeros((5, 0, 3), np.uint8), "no pixels"),
        (np.zeros((4, 5, 3), np.float32), "(a * 255).round().astype(np.uint8)"),
        (np.zeros((4, 5, 3), np.float64), "a.clip(0, 255).astype(np.uint8)"),
        (np.full((4, 5, 3), np.nan, np.float32), "not a number (NaN)"),
        (np.full((4, 5, 3), np.inf), "infinite"),
        (np.zeros((4, 5, 3), np.complex64), "no whole numbers"),
        (np.zeros((4, 5, 3), "M8[s]"), "no whole numbers"),
        (np.zeros((4, 5, 3), np.uint16), "(a // 257).astype(np.uint8)"),
        (np.zeros((4, 5, 3), ">u2"), "(a // 257).astype(np.uint8)"),
        (np.zeros((4, 5, 3), bool), "a.astype(np.uint8) * 255"),
        (np.zeros((4, 5, 3), np.int64), "a.astype(np.uint8)"),
        (np.zeros((4, 5, 3), object), "a.astype(np.uint8)"),
    ],
)
def test_bad_arrays_name_the_fix(array: np.ndarray, mend: str) -> None:
    with pytest.raises(BadArray) as caught:
        load_photo(array)
    text = str(caught.value)
    assert mend in text
    assert str(array.shape) in text or str(array.dtype) in text


def test_the_fixes_work() -> None:
    """What the messages advise, done."""
    rgb = corners()
    gray = rgb[..., 0]
    for a in (
        np.stack([gray, gray, gray], axis=-1),
        np.repeat(gray[..., None], 3, axis=2),
        np.dstack([rgb, gray])[..., :3],
        rgb.transpose(2, 0, 1).transpose(1, 2, 0),
        (rgb / 255 * 255).round().astype(np.uint8),
    ):
        load_photo(a)


def test_any_strides_and_no_shared_memory() -> None:
    big = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    for view in (big, big[::-1], big[:, ::-1], big[..., ::-1], big[2:9:2, 3:25:3], np.asfortranarray(big)):
        photo = load_photo(view)
        same(photo, view)
        assert not np.shares_memory(photo.pixels, view)
    big.flags.writeable = False
    assert load_photo(big).pixels.flags.writeable


@pytest.mark.parametrize("thing", [None, 3, [[1, 2, 3]], object()])
def test_other_things(thing: Any) -> None:
    with pytest.raises(BadArray, match="a photo is a path, bytes, a Pillow image or an RGB uint8 array"):
        load_photo(thing)


def test_arrays_that_are_gray_or_have_alpha() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    for gray in (rgb[..., 0], rgb[..., :1]):
        same(load_photo(gray), np.repeat(rgb[..., :1], 3, axis=2))
    solid, clear = np.full((6, 8, 1), 255, np.uint8), np.zeros((6, 8, 1), np.uint8)
    same(load_photo(np.concatenate([rgb, solid], 2)), rgb)
    same(load_photo(np.concatenate([rgb, solid], 2), color="bgr"), rgb[..., ::-1])
    same(load_photo(np.concatenate([rgb, clear], 2)), np.full_like(rgb, 255))


def test_open_files(tmp_path: Path) -> None:
    data = encode(Image.fromarray(corners()), "PNG")
    same(load_photo(io.BytesIO(data)), corners())
    (tmp_path / "a.png").write_bytes(data)
    with (tmp_path / "a.png").open("rb") as file:
        same(load_photo(file), corners())
    with pytest.raises(EmptyFile):
        load_photo(io.BytesIO(b""))
    with pytest.raises(BadArray, match="binary mode"):
        load_photo(io.StringIO("a.png"))


@pytest.mark.heavy
def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    rgb = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    last = torch.from_numpy(rgb)
    for tensor in (last, last.permute(2, 0, 1), last.permute(2, 0, 1) / 255, (last / 255).requires_grad_()):
        same(load_photo(tensor), rgb)
    same(load_photo(last[..., 0][None]), np.repeat(rgb[..., :1], 3, axis=2))
    with pytest.raises(BadArray, match="one by one"):
        load_photo(last[None])


def test_a_pillow_image_without_pixels() -> None:
    with pytest.raises(BadArray, match="no pixels"):
        load_photo(Image.new("RGB", (0, 5)))


def test_photo_is_frozen() -> None:
    photo = load_photo(corners())
    with pytest.raises(AttributeError):
        photo.path = "x"  # type: ignore[misc]
    assert "pixels" not in repr(photo)


# Bad files


@pytest.mark.parametrize(
    "name", ["nothing.jpg", "no/such/folder.jpg", "", "nul\0byte.jpg", "real.jpg/below.jpg"]
)
def test_not_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("real.jpg").write_bytes(encode(corners(), "JPEG"))
    with pytest.raises(NotFound) as caught:
        load_photo(name)
    assert repr(name) in str(caught.value)


def test_a_name_that_is_too_long() -> None:
    with pytest.raises(Unreadable, match="name too long"):
        load_photo("x" * 5000)


def test_a_folder_in_a_files_place(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"is a folder.*find_photos"):
        load_photo(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(Unreadable, match="pass the bytes"):
        load_photo(tmp_path / "pipe.jpg")


@pytest.mark.skipif(ROOT, reason="root may read anything")
def test_permission_denied(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(corners(), "PNG"))
    path.chmod(0)
    with pytest.raises(Unreadable, match="permissions"):
        load_photo(path)


def test_permission_denied_as_the_system_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(corners(), "PNG"))

    def refuse(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(Unreadable, match="permissions"):
        load_photo(path)


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").symlink_to("gone.jpg")
    with pytest.raises(NotFound, match=r"a\.jpg' is a link to a file that is not there"):
        load_photo(tmp_path / "a.jpg")


def test_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    with pytest.raises(Unreadable, match="cannot be read"):
        load_photo(tmp_path / "loop.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(NotFound):
        load_photo(tmp_path / "broken.jpg")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "e.jpg").write_bytes(b"")
    for source in (tmp_path / "e.jpg", b""):
        with pytest.raises(EmptyFile, match=r"0 bytes.*again"):
            load_photo(source)


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"hello world", "JPEG, PNG, WebP, BMP, GIF, TIFF"),
        (b"BM is how this text begins, and it is no picture", "it starts with b'BM is ho'"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "a video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"%PDF-1.7", "a PDF"),
        (b"  <svg xmlns='x'/>", "an SVG"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "is not a picture that mien reads"),
        (b"P6 1 1 255 abc", "is not a picture that mien reads"),
        (b"\xff\xd8", "is not a picture"),
    ],
)
def test_not_a_picture(data: bytes, hint: str, tmp_path: Path) -> None:
    with pytest.raises(NotAPicture, match=hint):
        load_photo(data)
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(NotAPicture, match=r"x\.jpg"):
        load_photo(tmp_path / "x.jpg")


# Newer containers, colors of arrays, URLs


def alike(photo: Photo, expected: np.ndarray) -> None:
    """Up to colors that bleed at the edges; a picture that is turned wrongly is off by more than 60 in the
    mean.
    """
    assert photo.pixels.shape == expected.shape
    assert np.abs(photo.pixels.astype(int) - expected).mean() < 10


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf", "AVIF"),
    ],
)
def test_container_brands_tell_heic_from_avif(head: bytes, kind: str) -> None:
    pytest.importorskip("pillow_heif")
    with pytest.raises(Truncated, match=f"starts as {kind}"):
        load_photo(head)


def test_avif_is_read_and_turned() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow writes no AVIF")
    alike(load_photo(encode(corners(64, 48), "AVIF", quality=95)), corners(64, 48))
    turned = load_photo(encode(corners(64, 48), "AVIF", quality=95, exif=exif_of(6)))
    alike(turned, np.rot90(corners(64, 48), -1))


def heic_of(picture: np.ndarray, orientation: int) -> bytes:
    heif, buffer = pytest.importorskip("pillow_heif"), io.BytesIO()
    heif.from_pillow(Image.fromarray(picture)).save(buffer, quality=95, exif=exif_of(orientation).tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_is_read_and_turned_once(orientation: int) -> None:
    jpeg = load_photo(encode(corners(64, 48), "JPEG", quality=95, subsampling=0, exif=exif_of(orientation)))
    alike(load_photo(heic_of(corners(64, 48), orientation)), jpeg.pixels)


def test_heic_is_refused_by_size_and_when_damaged() -> None:
    data = heic_of(corners(64, 48), 1)
    with pytest.raises(TooLarge, match="64 x 48"):
        load_photo(data, max_pixels=64 * 48 - 1)
    with pytest.raises(Truncated, match="HEIC"):
        load_photo(data[: len(data) // 2])


def test_heic_without_the_extra_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(NotAPicture, match=r"pip install 'mien\[heif\]'"):
        load_photo(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def test_color_says_the_order_of_an_array_s_channels_and_of_nothing_else() -> None:
    rgb = corners()
    same(load_photo(rgb[..., ::-1], color="bgr"), rgb)
    same(load_photo(encode(rgb, "PNG"), color="bgr"), rgb)
    with pytest.raises(UsageError, match="not 'gbr'"):
        load_photo(rgb, color="gbr")  # type: ignore[arg-type]


def test_urls_are_refused_with_the_fix() -> None:
    for url, fix in (
        ("https://example.org/a.jpg", r"opens no socket.*curl"),
        ("file:///a.jpg", r"opens no socket.*curl"),
        ("s3://bucket/a.jpg", "in an object store; mien analyze reads it with --engine local"),
    ):
        with pytest.raises(NotFound, match=fix):
            load_photo(url)
        with pytest.raises(UsageError, match=fix):
            find_photos([url])


def test_a_folder_named_like_a_url_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("http:").mkdir()
    Path("http:/a.png").write_bytes(encode(corners(), "PNG"))
    assert find_photos(["http://a.png"]) == ["http://a.png"]
    same(load_photo("http://a.png"), corners())


def noise(side: int = 64) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)


@pytest.mark.parametrize("part", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_truncated(kind: str, part: float) -> None:
    data = encode(noise(), kind)
    with pytest.raises(Truncated, match=r"ends too early or is damaged.*again") as caught:
        load_photo(data[: max(20, int(len(data) * part))])
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_cut_anywhere(kind: str) -> None:
    data = encode(noise(16), kind)
    for end in range(0, len(data), 7):
        try:
            load_photo(data[:end])
        except (EmptyFile, NotAPicture, Truncated):
            continue
        assert end > len(data) - 20  # only the end mark is missing, no pixel


def test_damaged_in_the_middle() -> None:
    data = bytearray(encode(noise(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(Truncated):
        load_photo(bytes(data))


def test_too_large_is_decided_by_the_header_alone() -> None:
    start = time.perf_counter()
    with pytest.raises(
        TooLarge, match=r"20000 x 20000 = 400000000 pixels, the limit is 64000000.*raise max_pixels"
    ):
        load_photo(huge_png(20000, 20000))
    assert time.perf_counter() - start < 1
    with pytest.raises(TooLarge):  # between Pillow's warning and its error
        load_photo(huge_png(10000, 10000))


def test_a_raised_limit_meets_the_missing_data() -> None:
    start = time.perf_counter()
    with pytest.raises(Truncated):
        load_photo(huge_png(20000, 20000, bits=1), max_pixels=500_000_000)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_limit_holds_for_every_format(kind: str) -> None:
    data = encode(corners(), kind)
    load_photo(data, max_pixels=24 * 16)
    with pytest.raises(TooLarge, match="24 x 16"):
        load_photo(data, max_pixels=24 * 16 - 1)


def test_the_limit_holds_for_images_and_arrays() -> None:
    for source in (corners(), Image.fromarray(corners())):
        load_photo(source, max_pixels=384)
        with pytest.raises(TooLarge):
            load_photo(source, max_pixels=383)


@pytest.mark.parametrize("step", ["_read", "_reader", "to_rgb", "_upright"])
def test_a_photo_that_memory_cannot_hold_is_too_large(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step that asks for memory in turn gets none."""

    def none(*args: Any) -> Any:
        raise MemoryError

    (tmp_path / "a.png").write_bytes(encode(corners(), "PNG"))
    monkeypatch.setattr("mien.io.image." + step, none)
    with pytest.raises(TooLarge, match=r"a\.png' needs more memory than there is"):
        load_photo(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "I;16", "F"])
def test_a_picture_of_many_strips_is_converted_as_in_one(mode: str) -> None:
    """Pictures are converted about a million pixels at a time."""
    rows = np.linspace(0, 255, 900).astype(np.uint8)
    gray = np.repeat(rows[:, None], 2000, 1)
    alpha = np.flip(gray, 0)
    if mode in ("I;16", "F"):
        source = Image.fromarray(gray.astype(np.uint16) * 257 if mode == "I;16" else gray.astype(np.float32))
        assert source.mode == mode
        expected = gray
    elif mode == "RGB":
        source, expected = Image.fromarray(gray).convert("RGB"), gray
    else:
        source = Image.merge("LA", (Image.fromarray(gray), Image.fromarray(alpha))).convert(mode)
        a = alpha / 255.0
        expected = gray * a + 255 * (1 - a)
    same(load_photo(source), np.repeat(expected[..., None], 3, 2), tolerance=1)


def test_pillow_s_limit_is_left_as_it_is() -> None:
    before = Image.MAX_IMAGE_PIXELS
    load_photo(encode(corners(), "PNG"))
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    "name",
    [
        "ünïcödé 顔.png",
        "a space.png",
        "new\nline.png",
        "quo'te\".png",
        "-dash.png",
        "[1].png",
        "no_extension",
    ],
)
def test_odd_names(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(encode(corners(), "PNG"))
    same(load_photo(path), corners())
    assert find_photos([path]) == [str(path)]
    path.write_bytes(b"broken")
    with pytest.raises(NotAPicture) as caught:
        load_photo(path)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.png")
    try:
        Path(path).write_bytes(encode(corners(), "PNG"))
    except OSError:
        pytest.skip("this file system wants unicode")
    same(load_photo(path), corners())
    assert find_photos([tmp_path]) == [path]
    Path(path).write_bytes(b"broken")
    with pytest.raises(NotAPicture) as caught:
        load_photo(path)
    str(caught.value).encode()


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "really_png.jpg").write_bytes(encode(corners(), "PNG"))
    same(load_photo(tmp_path / "really_png.jpg"), corners())


def test_many_threads() -> None:
    sources = [encode(noise(), kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "TIFF")] + [
        huge_png(20000, 20000)
    ]
    wrong: list[str] = []

    def work() -> None:
        for data in sources * 3:
            try:
                load_photo(data)
            except TooLarge:
                if data is not sources[-1]:
                    wrong.append("too large")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Nothing but a Photo or a PhotoError

SEEDS = [
    encode(corners(), "PNG", exif=exif_of(6)),
    encode(corners(32, 16), "JPEG", exif=exif_of(5), quality=80),
]
SEEDS += [
    encode(corners(), kind)
    for kind in ("GIF", "WEBP", "BMP", "TIFF", *(["AVIF"] if features.check("avif") else []))
]
SEEDS += [heic_of(corners(32, 16), 6)] if util.find_spec("pillow_heif") else []


def photo_or_error(data: bytes) -> None:
    try:
        photo = load_photo(data, max_pixels=1_000_000)
    except PhotoError:
        return
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.ndim == 3
    assert photo.pixels.shape[2] == 3


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", *(seed[:16] for seed in SEEDS)]))
def test_random_bytes(data: bytes, head: bytes) -> None:
    photo_or_error(head + data)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    st.floats(0.02, 1),
    st.binary(max_size=8),
)
def test_mutated_pictures(seed: bytes, changes: list[tuple[float, int]], end: float, more: bytes) -> None:
    data = bytearray(seed)
    for place, value in changes:
        data[min(int(place * len(data)), len(data) - 1)] = value
    photo_or_error(bytes(data[: int(end * len(data))]) + more)


# Finding files


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "b.jpg",
        "a.PNG",
        "c.txt",
        "sub/d.jpeg",
        "sub/deep/e.webp",
        "sub/f.md",
        ".hidden/x.jpg",
        "._b.jpg",
    ):
        path = tmp_path / "album" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_as_they_are(album: Path) -> None:
    assert find_photos(["album/c.txt", Path("missing.jpg"), "album/b.jpg"]) == [
        "album/c.txt", "missing.jpg", "album/b.jpg",
    ]  # fmt: skip
    assert find_photos([]) == []
    assert find_photos("album/b.jpg") == find_photos(Path("album/b.jpg")) == ["album/b.jpg"]


def test_a_folder_is_searched_sorted_without_hidden_files(album: Path) -> None:
    expected = ["album/a.PNG", "album/b.jpg", "album/sub/d.jpeg", "album/sub/deep/e.webp"]
    assert find_photos(["album"]) == expected
    assert find_photos([album / "album"]) == [str(album / name) for name in expected]
    assert find_photos(["album/.hidden"]) == ["album/.hidden/x.jpg"]


def test_every_extension(tmp_path: Path) -> None:
    for i, extension in enumerate(sorted(EXTENSIONS)):
        (tmp_path / f"{i}{extension.upper() if i % 2 else extension}").write_bytes(b"x")
    assert len(find_photos([tmp_path])) == len(EXTENSIONS)


def test_once_each_in_the_given_order(album: Path) -> None:
    assert find_photos(["album/b.jpg", "album", "./album/b.jpg", album / "album/a.PNG"]) == [
        "album/b.jpg", "album/a.PNG", "album/sub/d.jpeg", "album/sub/deep/e.webp",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("album/*.jpg", ["album/b.jpg"]),
        ("album/?.*", ["album/a.PNG", "album/b.jpg"]),
        ("album/[ab].*", ["album/a.PNG", "album/b.jpg"]),
        ("album/*.txt", ["album/c.txt"]),
        ("*/sub/*", ["album/sub/d.jpeg", "album/sub/deep/e.webp"]),
        ("album/**/*.webp", ["album/sub/deep/e.webp"]),
        ("**/d*.jpeg", ["album/sub/d.jpeg"]),
        ("**/deep/*.webp", ["album/sub/deep/e.webp"]),
        ("album/**", ["album/a.PNG", "album/b.jpg", "album/sub/d.jpeg", "album/sub/deep/e.webp"]),
        ("alb*", ["album/a.PNG", "album/b.jpg", "album/sub/d.jpeg", "album/sub/deep/e.webp"]),
        ("album/.h*/*.jpg", ["album/.hidden/x.jpg"]),
    ],
)
def test_globs(pattern: str, expected: list[str], album: Path) -> None:
    assert find_photos([pattern]) == expected
    assert find_photos([os.path.join(album, pattern)]) == [str(album / name) for name in expected]


def test_a_literal_path_wins_over_a_glob(album: Path) -> None:
    Path("album/[b].jpg").write_bytes(b"x")
    assert find_photos(["album/[b].jpg"]) == ["album/[b].jpg"]
    Path("trip [2020]").mkdir()
    Path("trip [2020]/x.jpg").write_bytes(b"x")
    assert find_photos(["trip [2020]"]) == find_photos(["trip [2020]/*.jpg"]) == ["trip [2020]/x.jpg"]


@pytest.mark.parametrize(
    "item", ["empty", "album/sub/f*", "nothing/*.jpg", "album/*.nef", "**/*.bmp", "album/b.jpg/*"]
)
def test_no_pictures(item: str, album: Path) -> None:
    with pytest.raises(NotFound, match=r"no pictures") as caught:
        find_photos([item])
    assert repr(item) in str(caught.value)


def test_links_that_go_round(album: Path) -> None:
    for name in ("album/loop", "album/sub/up", "album/sub/deep/top"):
        os.symlink(album / "album", name)
    os.symlink("itself", "album/itself")
    os.symlink("gone.jpg", "album/z.jpg")
    found = find_photos(["album"])
    assert found == ["album/a.PNG", "album/b.jpg", "album/sub/d.jpeg", "album/sub/deep/e.webp", "album/z.jpg"]
    assert find_photos(["album/**/*.webp"]) == ["album/sub/deep/e.webp"]
    assert find_photos(["**/e.webp"]) == ["album/sub/deep/e.webp"]


def test_a_linked_folder_is_followed(album: Path) -> None:
    os.symlink(album / "album/sub/deep", "empty/link")
    assert find_photos(["empty"]) == ["empty/link/e.webp"]


def test_a_folder_that_may_not_be_listed_becomes_a_record(
    album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, access = os.listdir, os.access

    def refuse(path: str) -> list[str]:
        if path.endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("sub") and access(path, mode))
    assert find_photos(["album"]) == ["album/a.PNG", "album/b.jpg", "album/sub"]
    assert find_photos(["album/sub/*.jpg"]) == ["album/sub"]
    assert find_photos(["album/**/*.jpg"]) == ["album/b.jpg", "album/sub"]
    with pytest.raises(Unreadable, match="may not be listed"):
        load_photo("album/sub")
