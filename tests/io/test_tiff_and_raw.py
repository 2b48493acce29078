"""TIFF files of several pictures, camera RAW files, orientation in EXIF and XMP, color profiles.

RAW files are built here: a TIFF directory with a thumbnail, and below it those of previews and a sensor.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from mien.errors import NotAPicture, TooLarge, Truncated
from mien.io import tiff
from mien.io.image import load_photo
from tests.io.test_image import alike, corners, encode, exif_of, same

SHORT, LONG = 3, 4
CFA = 32803


def entry(order: str, tag: int, kind: int, value: int) -> bytes:
    if kind == SHORT:
        return struct.pack(order + "HHIHH", tag, kind, 1, value, 0)
    return struct.pack(order + "HHII", tag, kind, 1, value)


def raw_file(
    thumbnail: tuple[int, int],
    sensor: tuple[int, int],
    previews: list[bytes],
    *,
    order: str = "<",
    orientation: int = 1,
    named_thumbnail: bool = True,
) -> bytes:
    """A TIFF as DNG and NEF are: an uncompressed thumbnail first, the previews and the sensor below it."""
    file = bytearray({"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 0))

    def put(data: bytes) -> int:
        at = len(file)
        file.extend(data + b"\0" * (len(data) % 2))
        return at

    def directory(fields: list[tuple[int, int, int]]) -> int:
        body = b"".join(entry(order, *f) for f in sorted(fields))
        return put(struct.pack(order + "H", len(fields)) + body + b"\0\0\0\0")

    below = []
    for jpeg in previews:
        at = put(jpeg)
        below.append(directory([(254, LONG, 1), (259, SHORT, 6), (513, LONG, at), (514, LONG, len(jpeg))]))
    values = put(bytes(sensor[0] * sensor[1] * 2))
    below.append(
        directory(
            [
                (254, LONG, 0), (256, LONG, sensor[0]), (257, LONG, sensor[1]), (258, SHORT, 16),
                (259, SHORT, 1),
                (262, SHORT, CFA), (273, LONG, values), (277, SHORT, 1), (278, LONG, sensor[1]),
                (279, LONG, sensor[0] * sensor[1] * 2),
            ]
        )
    )  # fmt: skip
    small = put(np.full((thumbnail[1], thumbnail[0], 3), 77, np.uint8).tobytes())
    bits, subs = put(struct.pack(order + "3H", 8, 8, 8)), put(struct.pack(f"{order}{len(below)}I", *below))
    fields = [
        (256, LONG, thumbnail[0]), (257, LONG, thumbnail[1]), (259, SHORT, 1), (262, SHORT, 2),
        (273, LONG, small),
        (274, SHORT, orientation), (277, SHORT, 3), (278, LONG, thumbnail[1]),
        (279, LONG, thumbnail[0] * thumbnail[1] * 3),
    ]  # fmt: skip
    if named_thumbnail:
        fields.append((254, LONG, 1))
    rows = [(f[0], entry(order, *f)) for f in fields]
    rows.append((258, struct.pack(order + "HHII", 258, SHORT, 3, bits)))
    one = struct.pack(order + "HHII", 330, LONG, len(below), below[0] if len(below) == 1 else subs)
    rows.append((330, one))
    body = b"".join(data for _, data in sorted(rows))
    main = put(struct.pack(order + "H", len(rows)) + body + b"\0\0\0\0")
    struct.pack_into(order + "I", file, 4, main)
    return bytes(file)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("named", [True, False])
def test_a_raw_file_is_read_as_its_full_size_preview(order: str, named: bool) -> None:
    jpegs = [encode(corners(w, h), "JPEG", quality=95, subsampling=0) for w, h in ((32, 16), (96, 64))]
    data = raw_file((16, 8), (100, 68), jpegs, order=order, named_thumbnail=named)
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (16, 8), "Pillow reads the thumbnail"
    alike(load_photo(data), corners(96, 64))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_raw_file_s_orientation_turns_its_preview(orientation: int) -> None:
    jpeg = encode(corners(96, 64), "JPEG", quality=95, subsampling=0)
    turned = load_photo(encode(corners(96, 64), "JPEG", quality=95, subsampling=0, exif=exif_of(orientation)))
    alike(load_photo(raw_file((16, 8), (96, 64), [jpeg], orientation=orientation)), turned.pixels)
    both = encode(corners(96, 64), "JPEG", quality=95, subsampling=0, exif=exif_of(orientation))
    alike(load_photo(raw_file((16, 8), (96, 64), [both], orientation=orientation)), turned.pixels)


def test_a_raw_file_without_a_large_preview_is_refused_by_name(tmp_path: Path) -> None:
    small = encode(corners(48, 32), "JPEG")
    path = tmp_path / "DSC_1.NEF"
    path.write_bytes(raw_file((16, 8), (96, 64), [small]))
    with pytest.raises(NotAPicture, match=r"DSC_1.NEF.*RAW.*only 48 x 32.*export it as JPEG"):
        load_photo(path)
    with pytest.raises(NotAPicture, match=r"RAW.*no JPEG preview"):
        load_photo(raw_file((16, 8), (96, 64), []))
    with pytest.raises(NotAPicture, match=r"RAW.*no JPEG preview"):
        load_photo(raw_file((16, 8), (96, 64), [b"\xff\xd8\xffdamaged"]))


def test_the_limit_and_damage_hold_for_previews() -> None:
    jpeg = encode(np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8), "JPEG", quality=95)
    with pytest.raises(TooLarge, match="96 x 64"):
        load_photo(raw_file((16, 8), (96, 64), [jpeg]), max_pixels=96 * 64 - 1)
    with pytest.raises(Truncated):
        load_photo(raw_file((16, 8), (96, 64), [jpeg[: len(jpeg) // 2]]))


@pytest.mark.parametrize(
    ("head", "brand"),
    [
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "Canon CR3"),
        (b"IIRO\x08\0\0\0", "Olympus ORF"),
        (b"IIU\0\x18\0\0\0", "Panasonic RW2"),
        (b"FUJIFILMCCD-RAW 0201", "Fujifilm RAF"),
        (b"II\x1a\0\0\0HEAPCCDR", "Canon CRW"),
    ],
)
def test_other_raw_files_are_refused_by_name(head: bytes, brand: str) -> None:
    with pytest.raises(NotAPicture, match=f"camera RAW file .{brand}.*export it as JPEG or TIFF"):
        load_photo(head + bytes(300))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_tiff_whose_first_picture_is_called_a_thumbnail(big: bool, orientation: int) -> None:
    """A chain of pictures, as scanners and image libraries write it; the orientation is with the first."""
    first = {254: 1, 274: orientation}
    with io.BytesIO() as buffer:
        with TiffImagePlugin.AppendingTiffWriter(buffer) as file:
            for size, info in (((12, 8), first), ((96, 64), {}), ((48, 32), {254: 1})):
                Image.fromarray(corners(*size)).save(file, "TIFF", tiffinfo=info, big_tiff=big)
                file.newFrame()
        data = buffer.getvalue()
    assert [(d.width, d.reduced) for d in tiff.directories(data)] == [(12, True), (96, False), (48, True)]
    same(load_photo(data), np.rot90(corners(96, 64), -1) if orientation == 6 else corners(96, 64))


def test_a_page_that_is_smaller_but_no_thumbnail_stays_the_photo() -> None:
    data = encode(corners(12, 8), "TIFF", save_all=True, append_images=[Image.fromarray(corners(96, 64))])
    same(load_photo(data), corners(12, 8))


def test_damaged_directories_end_in_an_answer_or_a_photo_error() -> None:
    from mien.errors import PhotoError

    data = raw_file((16, 8), (96, 64), [encode(corners(96, 64), "JPEG")])
    rng = np.random.default_rng(3)
    for _ in range(300):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            broken[place] = rng.integers(0, 256)
        broken[-200 + rng.integers(0, 200)] = rng.integers(0, 256)
        try:
            load_photo(bytes(broken))
        except PhotoError:
            continue
    loop = bytearray(
        b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry("<", 330, LONG, 8) + struct.pack("<I", 8)
    )
    assert len(tiff.directories(bytes(loop))) == 1


def float_tiff() -> bytes:
    """3 samples of 32-bit floating point, which Pillow does not read."""
    pixels = np.zeros((4, 4, 3), np.float32).tobytes()
    fields = [
        (256, 3, 4), (257, 3, 4), (259, 3, 1), (262, 3, 2), (273, 4, 8), (277, 3, 3), (278, 3, 4),
        (279, 4, 192),
    ]  # fmt: skip
    at = 8 + len(pixels)
    bits, form = at, at + 6
    rows = [(t, entry("<", t, k, v)) for t, k, v in fields]
    rows += [(258, struct.pack("<HHII", 258, 3, 3, bits)), (339, struct.pack("<HHII", 339, 3, 3, form))]
    body = struct.pack("<H", len(rows)) + b"".join(d for _, d in sorted(rows)) + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", at + 12) + pixels + struct.pack("<6H", 32, 32, 32, 3, 3, 3) + body


def test_a_kind_of_tiff_that_is_not_read_is_not_called_damaged() -> None:
    with pytest.raises(NotAPicture, match=r"3 x 32-bit floating-point.*convert it to 8 bits"):
        load_photo(float_tiff())
    packed = bytearray(encode(corners(), "TIFF"))
    at = packed.find(struct.pack("<HHIHH", 259, 3, 1, 1, 0))
    struct.pack_into("<H", packed, at + 8, 34712)  # JPEG 2000
    with pytest.raises(NotAPicture, match="compression 34712"):
        load_photo(bytes(packed))


# Orientation


def xmp_of(orientation: int, form: str) -> bytes:
    body = {
        "attribute": f'<rdf:Description tiff:Orientation="{orientation}"/>',
        "quotes": f"<rdf:Description tiff:Orientation='{orientation}'/>",
        "element": f"<tiff:Orientation>{orientation}</tiff:Orientation>",
    }[form]
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF>{body}</rdf:RDF></x:xmpmeta>'.encode()


def with_orientation(kind: str, where: str, orientation: int) -> bytes:
    """A picture with a turn in XMP, or in the text in which ImageMagick keeps EXIF in a PNG."""
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0}
    picture = Image.fromarray(corners(64, 32))
    if kind == "TIFF":
        return encode(picture, "TIFF", tiffinfo={700: xmp_of(orientation, where)})
    if kind != "PNG":
        return encode(picture, kind, xmp=xmp_of(orientation, where), **options)
    info = PngImagePlugin.PngInfo()
    if where == "raw profile":
        exif = b"Exif\0\0" + exif_of(orientation).tobytes().removeprefix(b"Exif\0\0")
        digits = exif.hex()
        lines = "\n".join(digits[i : i + 72] for i in range(0, len(digits), 72))
        info.add_text("Raw profile type exif", f"\nexif\n{len(exif):8d}\n{lines}\n", zip=True)
    else:
        info.add_itxt("XML:com.adobe.xmp", xmp_of(orientation, where).decode())
    return encode(picture, "PNG", pnginfo=info)


PLACES = [
    *((kind, form) for kind in ("JPEG", "PNG", "WEBP", "TIFF") for form in ("attribute", "element")),
    ("JPEG", "quotes"),
    ("PNG", "raw profile"),
]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "where"), PLACES)
def test_orientation_outside_of_the_exif_block(kind: str, where: str, orientation: int) -> None:
    expected = load_photo(encode(corners(64, 32), "PNG", exif=exif_of(orientation)))
    data = with_orientation(kind, where, orientation)
    alike(load_photo(data), expected.pixels)
    alike(load_photo(Image.open(io.BytesIO(data))), expected.pixels)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_exif_comes_before_xmp(kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {"quality": 95}
    data = encode(corners(64, 32), kind, exif=exif_of(3), xmp=xmp_of(6, "attribute"), **options)
    for source in (data, Image.open(io.BytesIO(data))):
        alike(load_photo(source), np.rot90(corners(64, 32), 2))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_exif_tag_without_a_meaning_leaves_the_word_to_xmp(kind: str) -> None:
    exif = exif_of(0)
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp_of(6, "attribute").decode())
        data = encode(corners(64, 32), kind, exif=exif, pnginfo=info)
    else:
        data = encode(corners(64, 32), kind, exif=exif, xmp=xmp_of(6, "attribute"), quality=95)
    for source in (data, Image.open(io.BytesIO(data))):
        alike(load_photo(source), np.rot90(corners(64, 32), 3))


@pytest.mark.parametrize("form", ["attribute", "element"])
def test_any_prefix_may_stand_for_the_namespace_of_xmp(form: str) -> None:
    packet = xmp_of(6, form).replace(b"tiff:Orientation", b"ns1.t:Orientation")
    declared = packet.replace(b"<rdf:RDF>", b'<rdf:RDF xmlns:ns1.t="http://ns.adobe.com/tiff/1.0/">')
    data = encode(corners(64, 32), "JPEG", xmp=declared, quality=95)
    alike(load_photo(data), np.rot90(corners(64, 32), 3))
    other = declared.replace(b"ns.adobe.com/tiff", b"example.org/else")
    alike(load_photo(encode(corners(64, 32), "JPEG", xmp=other, quality=95)), corners(64, 32))


@pytest.mark.parametrize("name", [b"eXIf", b"iTXt"])
def test_chunks_after_the_pixels_of_a_png_count(name: bytes) -> None:
    """Where ExifTool writes them."""
    exif = exif_of(6).tobytes().removeprefix(b"Exif\0\0")
    body = exif if name == b"eXIf" else b"XML:com.adobe.xmp\0\0\0\0\0" + xmp_of(6, "attribute")
    chunk = struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    data = encode(corners(64, 32), "PNG")
    end = data.rindex(b"IEND") - 4
    late = data[:end] + chunk + data[end:]
    for source in (late, Image.open(io.BytesIO(late))):
        alike(load_photo(source), np.rot90(corners(64, 32), 3))


def test_a_damaged_raw_profile_does_not_lose_the_picture(caplog: pytest.LogCaptureFixture) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", "\nexif\n 10\nzz")
    same(load_photo(encode(Image.fromarray(corners()), "PNG", pnginfo=info)), corners())
    assert "Raw profile type exif" in caplog.text


# Color profiles


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def profile_of(
    space: str, gamma: float = 2.2, columns: dict[str, tuple[float, float, float]] | None = None
) -> bytes:
    """A small ICC profile of a display ("RGB ") or of gray pictures ("GRAY")."""

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    tags = {b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"desc": b"desc\0\0\0\0\0\0\0\5test\0" + bytes(79)}
    if space == "GRAY":
        tags[b"kTRC"] = curve(gamma)
    for letter, values in (columns or {}).items():
        tags[letter.encode() + b"XYZ"], tags[letter.encode() + b"TRC"] = xyz(values), curve(gamma)
    head, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        head += name + struct.pack(">II", start + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    size = start + len(body)
    header = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02400000, b"mntr", space.encode(), b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + head + body


# Display P3, D50-adapted
P3 = {"r": (0.5151, 0.2412, -0.0011), "g": (0.2920, 0.6922, 0.0419), "b": (0.1571, 0.0666, 0.7841)}


def p3() -> bytes:
    return profile_of("RGB ", 2.2, P3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_colors_of_a_profile_become_srgb(kind: str) -> None:
    options: dict[str, Any] = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}.get(kind, {"quality": 100})
    picture = np.full((16, 16, 3), (200, 120, 90), np.uint8)
    data = encode(picture, kind, icc_profile=p3(), **options)
    expected = ImageCms.profileToProfile(
        Image.fromarray(picture), io.BytesIO(p3()), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    same(load_photo(data), np.asarray(expected), 3)
    assert load_photo(data).pixels[0, 0, 0] > 206, "the same numbers are a redder red in P3"
    same(load_photo(Image.open(io.BytesIO(data))), load_photo(data).pixels)


def test_gray_and_transparent_pictures_have_profiles_too() -> None:
    gray = np.full((8, 8), 100, np.uint8)
    darker = load_photo(encode(Image.fromarray(gray), "PNG", icc_profile=profile_of("GRAY", 3.0))).pixels
    assert (darker == darker[0, 0, 0]).all() and darker[0, 0, 0] < 80
    deep = Image.fromarray(gray.astype(np.uint16) * 257)
    same(load_photo(encode(deep, "PNG", icc_profile=profile_of("GRAY", 3.0))), darker)
    clear = np.dstack([np.full((8, 8, 3), (200, 120, 90), np.uint8), np.full((8, 8), 0, np.uint8)])
    same(load_photo(encode(clear, "PNG", icc_profile=p3())), np.full((8, 8, 3), 255, np.uint8), 1)


def test_srgb_by_any_name_changes_no_pixel() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    same(load_photo(encode(noise, "PNG", icc_profile=profile)), noise)


@pytest.mark.parametrize("icc", [b"junk", b"\0" * 200, p3()[:300], profile_of("GRAY")])
def test_damaged_or_wrong_profiles_are_reported_and_not_used(
    icc: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    same(load_photo(encode(corners(), "PNG", icc_profile=icc)), corners())
    assert "color profile" in caplog.text
