"""The directories of a TIFF file: which pictures it holds, and which of them is the photo.

Camera RAW files are TIFF files whose first picture is a thumbnail. Pillow reads the first picture of a file,
and nothing of directories inside directories, so we look ourselves.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

_TAGS = {
    254: "kind", 255: "old_kind", 256: "width", 257: "height", 258: "bits", 259: "compression",
    262: "photometric", 273: "strips", 274: "orientation", 277: "samples", 279: "lengths", 330: "below",
    339: "sample_format", 513: "jpeg", 514: "jpeg_length", 50706: "dng",
}  # fmt: skip
_SIZES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # the field types of integers
_MAXIMUM = 64  # directories that are looked at, and values of one field
_SENSOR = (32803, 34892)  # photometric: color filter array, and linear RAW
# How cameras compress a sensor's values: Kodak, Sony, Nikon, packed, Samsung, Nikon, lossy DNG, Kodak, Pentax
_RAW_COMPRESSION = (262, 32767, 32769, 32770, 34713, 34892, 65000, 65535)
_JPEG = (6, 7)  # compression: old and new JPEG


@dataclass(frozen=True, slots=True)
class Directory:
    """One picture of a TIFF file.

    Attributes:
        offset: where the directory begins, in bytes.
        fields: name, see `_TAGS` -> integers; a missing or damaged field is absent.
    """

    offset: int
    fields: dict[str, tuple[int, ...]]

    def first(self, name: str, default: int = 0) -> int:
        """The field's first number."""
        return self.fields.get(name, (default,))[0]

    @property
    def width(self) -> int:
        """Pixels; 0 if the directory does not state them."""
        return self.first("width")

    @property
    def height(self) -> int:
        """Pixels; 0 if the directory does not state them."""
        return self.first("height")

    @property
    def side(self) -> int:
        """The longer side in pixels."""
        return max(self.width, self.height)

    @property
    def reduced(self) -> bool:
        """Whether the file marks this picture as a smaller version of another one."""
        return bool(self.first("kind") & 1) or self.first("old_kind") == 2

    @property
    def raw(self) -> bool:
        """Whether this contains sensor values instead of a picture."""
        return self.first("photometric", 1) in _SENSOR or self.first("compression", 1) in _RAW_COMPRESSION

    @property
    def sample_kind(self) -> str:
        """In words, such as "3 x 32-bit floating-point"."""
        form = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(
            self.first("sample_format", 1), "unusual"
        )
        return f"{self.first('samples', 1)} x {self.first('bits', 1)}-bit {form}"


def directories(data: bytes) -> list[Directory]:
    """The pictures of a file: those of the main chain first, then those inside other directories.

    Damaged directories are left out.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return []
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    chain, below = [_first_offset(data, order, big)], list[int]()
    found: dict[int, Directory] = {}
    for waiting in (chain, below):
        while waiting and len(found) < _MAXIMUM:
            offset = waiting.pop(0)
            if offset in found or not 0 < offset < len(data):
                continue
            try:
                directory, after = _directory(data, offset, order, big)
            except struct.error:
                continue
            found[offset] = directory
            if waiting is chain:
                chain.append(after)
            below += directory.fields.get("below", ())
    return list(found.values())


def _first_offset(data: bytes, order: str, big: bool) -> int:
    return int(struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0])


def _directory(data: bytes, offset: int, order: str, big: bool) -> tuple[Directory, int]:
    """A directory, and the offset of the next one."""
    counts, each, long = ("Q", 20, "Q") if big else ("H", 12, "I")
    (count,) = struct.unpack_from(order + counts, data, offset)
    start = offset + struct.calcsize(order + counts)
    fields = {}
    for at in range(start, min(start + count * each, len(data) - each + 1), each):
        tag, kind, n = struct.unpack_from(order + "HH" + long, data, at)
        if tag in _TAGS and kind in _SIZES and n:
            values = _values(data, at + 4 + struct.calcsize(long), kind, n, order, long)
            if values:
                fields[_TAGS[tag]] = values
    end = start + count * each
    after = struct.unpack_from(order + long, data, end)[0] if end + struct.calcsize(long) <= len(data) else 0
    return Directory(offset, fields), int(after)


def _values(data: bytes, at: int, kind: int, count: int, order: str, long: str) -> tuple[int, ...]:
    """A field's integers; none if they are outside the file."""
    letter, room = _SIZES[kind], struct.calcsize(long)
    if count * struct.calcsize(letter) > room:
        (at,) = struct.unpack_from(order + long, data, at)
    count = min(count, _MAXIMUM)
    try:
        return struct.unpack_from(f"{order}{count}{letter}", data, at)
    except (struct.error, OverflowError):
        return ()


def is_raw(data: bytes, found: list[Directory]) -> bool:
    """Whether a file with these directories is a camera's RAW file."""
    if data[8:12] == b"CR\2\0":  # Canon's CR2
        return True
    if not any(d.raw for d in found):
        return False
    first = found[0]
    return first.reduced or first.raw or "dng" in first.fields or "below" in first.fields


def main_picture(found: list[Directory]) -> Directory | None:
    """The main picture of a file without sensor values: the first, or the largest if that is a thumbnail."""
    if not found or not found[0].reduced:
        return found[0] if found else None
    full = [d for d in found if not d.reduced and d.side]
    return max(full, key=lambda d: d.width * d.height, default=found[0])


def starting_at(data: bytes, directory: Directory) -> bytes:
    """The file with this directory as its first."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", data, 2)[0] == 43
    at, offset = (
        (8, struct.pack(order + "Q", directory.offset))
        if big
        else (4, struct.pack(order + "I", directory.offset))
    )
    return data[:at] + offset + data[at + len(offset) :]


def jpeg_previews(data: bytes, found: list[Directory]) -> list[bytes]:
    """The JPEG files inside a RAW file, as cameras put them there for viewing."""
    previews = []
    for d in found:
        start, length = d.first("jpeg"), d.first("jpeg_length")
        if (
            not start
            and d.first("compression") in _JPEG
            and len(d.fields.get("strips", ())) == 1
            and not d.raw
        ):
            start, length = d.first("strips"), d.first("lengths")
        if start and length and data[start : start + 3] == b"\xff\xd8\xff":
            previews.append(data[start : start + length])
    return previews
