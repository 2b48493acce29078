"""The orientation of files and Pillow images, from EXIF or else from XMP."""

from __future__ import annotations

import logging
import re
import struct

from PIL import Image

_TAG = 0x0112
# the prefixes that stand for the TIFF namespace, and the tag with one of them, as an attribute or an element
_PREFIX = re.compile(rb"""xmlns:([\w.-]+)\s*=\s*["']http://ns\.adobe\.com/tiff/1\.0/["']""")
_XMP = rb"""\b(?:%s):Orientation\s*(?:=\s*["']|>)\s*([1-8])\s*[<"']"""
_LETTERS = {1: "B", 3: "H", 4: "I"}  # field types that are seen: BYTE, SHORT, LONG
# The container of these formats says which way up a picture is, and their readers have applied it or put it
# into EXIF; an XMP packet is a left-over there.
_CONTAINERS = ("AVIF", "HEIF", "HEIC")

_DAMAGE = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error)  # what Pillow raises

_log = logging.getLogger(__name__)


def orientation_of(image: Image.Image, name: str) -> int:
    """The EXIF orientation of a picture, 1..8; 1 if there is none.

    The first of these that has the tag decides: the EXIF block; EXIF as ImageMagick writes it into a PNG's
    text; XMP; the EXIF tags that were set on a Pillow image. A value outside 1..8 counts as no tag.

    Args:
        image: open; its pixels need not be decoded.
        name: of the picture, for the log.
    """
    exif = image.info.get("exif") or _raw_profile(image, name)
    turn = _of_exif(exif, name) if isinstance(exif, bytes) else None
    if turn is None and image.format not in _CONTAINERS:
        turn = _of_xmp(image)
    if turn is None and not exif:
        try:
            turn = image.getexif().get(_TAG)
        except _DAMAGE as error:
            _log.warning("%s: its EXIF is damaged (%s); read as upright", name, error)
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _raw_profile(image: Image.Image, name: str) -> bytes:
    """The EXIF block in a PNG's text "Raw profile type exif" (or "APP1"), which has hexadecimal digits."""
    for key in ("Raw profile type exif", "Raw profile type APP1"):
        text = image.info.get(key)
        if isinstance(text, str):
            try:
                data = bytes.fromhex(
                    "".join(text.split("\n")[3:])
                )  # after an empty line, the name and the length
            except ValueError as error:
                _log.warning("%s: its text %r is damaged (%s); it is left out", name, key, error)
                continue
            if data.startswith((b"Exif\0\0", b"II", b"MM")):
                return data
    return b""


def _of_exif(exif: bytes, name: str) -> int | None:
    """An EXIF block -> its orientation; None where it says none, or is too damaged to tell.

    We read the one tag ourselves: Pillow's parser reads all of them, and gives up on any that is broken.
    """
    while exif.startswith(b"Exif\0\0"):  # some programs write it twice
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if not exif:
        return None
    try:
        if order is None:
            raise struct.error("no byte order")
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", exif, at)
            if tag == _TAG:
                (value,) = struct.unpack_from(order + _LETTERS.get(kind, "I"), exif, at + 8)
                return int(value) if 1 <= value <= 8 else None
    except struct.error as error:
        _log.warning("%s: its EXIF is damaged (%s); read as upright", name, error)
    return None


def _of_xmp(image: Image.Image) -> int | None:
    """The orientation in an XMP packet, whatever key and type Pillow gives it."""
    for key in ("xmp", "XML:com.adobe.xmp"):
        packet = image.info.get(key)
        for part in packet if isinstance(packet, tuple) else (packet,):
            text = part.encode("utf-8", "replace") if isinstance(part, str) else part
            if not isinstance(text, bytes):
                continue
            text = text.replace(b"\0", b"")  # without zeros: the packet may be UTF-16
            prefixes = {b"tiff", *_PREFIX.findall(text)}
            found = re.search(_XMP % b"|".join(re.escape(p) for p in sorted(prefixes)), text)
            if found:
                return int(found[1])
    return None
