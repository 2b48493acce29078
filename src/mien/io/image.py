"""Decode pictures: a path, bytes, a Pillow image or an array -> upright RGB uint8 pixels.

Pillow is the only decoder, and only for the formats in `FORMATS`; HEIC needs the extra `heif`. The first
bytes select the one Pillow reader that is called, so that no other Pillow plugin parses untrusted bytes.
Colors of an ICC profile are converted to sRGB. Transparent pictures are composed on white. Of animations and
multi-page files the first picture is read, unless the file marks it as a thumbnail of another one. Of a
camera's RAW file the full-size JPEG preview is read.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import struct
import weakref
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, features
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

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
from mien.io import tiff
from mien.io.color import to_rgb
from mien.io.orientation import orientation_of
from mien.types import Pixels

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8]

Color = Literal["rgb", "bgr"]

MAX_PIXELS = 64_000_000


class _Jpeg(JpegImageFile):
    """Pillow's reader, minus the EXIF parse for a dpi value that we never use: it warns on damaged EXIF."""

    def _read_dpi_from_exif(self) -> None:
        pass


FORMATS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "TIFF": TiffImageFile,
    "AVIF": AvifImageFile,
}
_ALLOWED = ", ".join(FORMATS)

# What Pillow's readers raise on damaged data; a fuzz test checks the list. UserWarning: Pillow only warns of
# damaged TIFF tags, unless the caller turns warnings into errors.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    ArithmeticError,
    NotImplementedError,
    UserWarning,
    RuntimeError,
    struct.error,
    zlib.error,
)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_SHOWN = 300  # characters of a path that a message repeats
# how our formats begin in base64
_BASE64_STARTS = (
    *("/9j/", "iVBORw0KGgo", "UklGR", "R0lGOD", "SUkq", "TU0A", "AAAA"),
    *("Qk0", "Qk1", "Qk2", "Qk3"),
)
_FULL = 0.8  # a RAW file's preview counts as full-size from this share of the sensor's longer side
_PACKETS = ((0, 188), (4, 192))  # of MPEG transport streams: first sync byte, size
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_HEAD = 256  # bytes that tell the format
_UNKNOWN_KIND = re.compile("unknown pixel mode|cannot handle|[Uu]nsupported|unknown compression", re.ASCII)
_RAW = (
    "{name} is {what}, which mien does not develop{why}; export it as JPEG or TIFF with your photo software"
)

_log = logging.getLogger(__name__)


class Photo:
    """One decoded picture.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, upright (EXIF applied), C-contiguous, not shared with the source. After
            `release` they are read again on access.
        path: the file it came from, as the caller wrote it; None for bytes, images and arrays.
        width, height: of the upright photo in pixels.
    """

    __slots__ = ("_pixels", "_seen", "_source", "_stamp", "height", "path", "width")
    path: str | None
    width: int
    height: int
    _pixels: Pixels | None
    _seen: weakref.ref[Any] | None
    _source: str | bytes | None
    _stamp: tuple[int, int] | None

    def __init__(
        self,
        pixels: Pixels,
        path: str | None = None,
        *,
        source: str | bytes | None = None,
        stamp: tuple[int, int] | None = None,
    ):
        """Pixels of a picture.

        Args:
            pixels: (H, W, 3) uint8 RGB, upright.
            path: see the class.
            source: where the pixels can be read again, an absolute path or a file's bytes; None: nowhere.
            stamp: of the source's file when it was read, see `_stamp_of`.
        """
        values = {
            "path": path,
            "width": int(pixels.shape[1]),
            "height": int(pixels.shape[0]),
            "_pixels": pixels,
            "_seen": None,
            "_source": source,
            "_stamp": stamp,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a photo is not changed; {name!r} cannot be set")

    def __repr__(self) -> str:
        return f"Photo({self.path!r}, {self.width}x{self.height})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _photo_again, (self._pixels, self.path, self.width, self.height, self._source, self._stamp)

    @property
    def pixels(self) -> Pixels:
        """(H, W, 3) uint8 RGB.

        Raises:
            PhotoError: after `release`, where the file is gone, was changed, or cannot be read.
        """
        if self._pixels is not None:
            return self._pixels
        seen: Pixels | None = self._seen() if self._seen is not None else None
        if seen is None:
            seen = self._read_again()
            object.__setattr__(self, "_seen", weakref.ref(seen))  # one copy for all who hold it
        return seen

    def release(self) -> None:
        """Forget the pixels if they can be read again from the source: a photo of a list costs no memory.

        Pixels of arrays, of Pillow images and of open files are kept: nobody else has them.
        """
        if self._source is not None and self._pixels is not None:
            object.__setattr__(self, "_seen", weakref.ref(self._pixels))
            object.__setattr__(self, "_pixels", None)

    def _read_again(self) -> Pixels:
        assert self._source is not None
        name = "the bytes given" if self.path is None else repr(self.path)
        if isinstance(self._source, str) and _stamp_of(self._source) != self._stamp:
            raise Unreadable(
                f"{name} was changed or removed since it was read, and the pixels were not kept; use"
                " reading.photo.pixels before that, or read the photo alone: reader(path)"
            )
        data = _read(self._source) if isinstance(self._source, str) else self._source
        return _decode(data, name, self.width * self.height)


def _photo_again(
    pixels: Pixels | None,
    path: str | None,
    width: int,
    height: int,
    source: str | bytes | None,
    stamp: tuple[int, int] | None,
) -> Photo:
    """A photo as it was copied, with or without its pixels."""
    empty = np.broadcast_to(np.zeros(1, np.uint8), (height, width, 3))
    photo = Photo(empty if pixels is None else pixels, path, source=source, stamp=stamp)
    if pixels is None:
        object.__setattr__(photo, "_pixels", None)
    return photo


def _stamp_of(path: str) -> tuple[int, int] | None:
    """A file's time of change in nanoseconds and its size; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name with a zero byte
        return None
    return status.st_mtime_ns, status.st_size


def load_photo(source: Source, *, max_pixels: int = MAX_PIXELS, color: Color = "rgb") -> Photo:
    """Read one picture.

    Args:
        source: a path; the bytes of a file (JPEG, PNG, WebP, BMP, GIF, TIFF, AVIF; HEIC with the extra
            `heif`); a Pillow image, whose EXIF orientation is applied; a uint8 array (H, W, 3), gray (H, W)
            or with alpha (H, W, 4); a file opened in binary mode; or a torch tensor, uint8 or 0..1, channels
            first or last.
        max_pixels: maximum number of pixels; a header with more is refused before decoding.
        color: the channel order of an array: "rgb", or "bgr" as in OpenCV. Files and images define their
            own.

    Raises:
        NotFound: no such file, or a URL.
        Unreadable: no permission, or a folder or device instead of a file.
        EmptyFile: no bytes.
        NotAPicture: not one of the formats.
        Truncated: cut short or damaged.
        TooLarge: more than max_pixels, or than memory holds.
        BadArray: an array, or another object, that is not an RGB picture.
        UsageError: another color.
    """
    if color not in ("rgb", "bgr"):
        raise UsageError(f'color is "rgb" or "bgr", not {color!r}')
    try:
        return _photo(source, max_pixels, color)
    except (MemoryError, *_BOMB) as error:
        name = (
            repr(os.fspath(source))
            if isinstance(source, (str, os.PathLike))
            else f"the {_kind(source)} given"
        )
        raise TooLarge(
            f"{name} needs more memory than there is, or than Pillow takes ({error}); make it smaller"
        ) from error


def _photo(source: Source, max_pixels: int, color: Color) -> Photo:
    if not isinstance(source, (str, np.ndarray)) and hasattr(source, "detach") and hasattr(source, "numpy"):
        source = _of_tensor(source)
    elif hasattr(source, "read"):
        source = source.read()
        if not isinstance(source, (bytes, bytearray, memoryview)):
            raise BadArray(f"the file given returns {_kind(source)}, not bytes; open it in binary mode")
    if isinstance(source, np.ndarray):
        source = _three_channels(source)
        check_pixels(source)
        _check_size(source.shape[1], source.shape[0], max_pixels, "the array")
        source = source if color == "rgb" else source[..., ::-1]
        return Photo(np.array(source, np.uint8, order="C", copy=True, subok=False))
    if isinstance(source, Image.Image):
        return _from_image(source, max_pixels)
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        return Photo(_decode(data, f"the {len(data)} bytes given", max_pixels), source=data)
    if isinstance(source, (str, os.PathLike)) and isinstance(path := os.fspath(source), str):
        stamp = _stamp_of(path)
        pixels = _decode(_read(path), _shown(path), max_pixels)
        return Photo(pixels, path, source=os.path.abspath(path), stamp=stamp)
    wanted = "a photo is a path, bytes, a Pillow image or an RGB uint8 array (H, W, 3)"
    if source is None:
        raise BadArray(
            f"{wanted}; got None, which is what cv2.imread gives for a file that it cannot read: check the"
            " path, or pass the path itself"
        )
    raise BadArray(f"{wanted}; got {_kind(source)}: np.asarray may make it an array")


def _of_tensor(tensor: Any) -> npt.NDArray[Any]:
    """A torch tensor (3, H, W), as torchvision has it, or (H, W, 3); numbers 0..1 or uint8."""
    array = np.asarray(tensor.detach().cpu().numpy())
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f" and array.size and array.min() >= 0 and array.max() <= 1:
        array = np.round(255 * array).astype(np.uint8)
    return array


def _three_channels(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A gray array as three equal channels, one with alpha on white; others as they are."""
    if array.dtype != np.uint8 or not array.size:
        return array
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.ndim == 3 and array.shape[2] == 4 and array.shape[0] != 3:
        alpha = array[..., 3:].astype(np.uint16)
        return ((array[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return array


def url_refusal(path: str) -> str:
    """The error message for a URL; "" for a path."""
    if not _URL.match(path) or os.path.lexists(path):
        return ""
    if path.startswith(("s3://", "gs://", "abfs://")):
        return (
            f"{path!r} is in an object store; mien analyze reads it with --engine local (or ray) and --out"
            " FOLDER, everything else needs a copy on this machine"
        )
    return (
        f"{path!r} is a URL, and mien opens no socket; download it first, or pipe it: curl -sL URL | mien"
        " analyze -"
    )


def check_pixels(array: object, what: str = "a photo") -> None:
    """Check that `array` is RGB uint8 (H, W, 3) with H, W > 0.

    Raises:
        BadArray: it is not; the message names the fix.
    """
    if not isinstance(array, np.ndarray):
        raise BadArray(
            f"{what} must be a numpy array (H, W, 3) uint8 RGB; got {_kind(array)}: use np.asarray"
        )
    shape, fix = array.shape, ""
    if array.ndim == 2:
        fix = "a gray picture: use np.stack([a, a, a], axis=-1)"
    elif array.ndim == 4:
        fix = "a batch: pass its photos one by one"
    elif array.ndim != 3:
        fix = "give it two sides and three channels"
    elif shape[2] == 3:
        fix = "" if array.size else "it has no pixels; check the crop that made it"
    elif shape[0] == 3:
        fix = "channels come last: use a.transpose(1, 2, 0)"
    elif shape[2] == 4:
        fix = "drop the alpha channel: use a[..., :3]"
    elif shape[2] == 1:
        fix = "a gray picture: use np.repeat(a, 3, axis=2)"
    else:
        fix = "three channels are needed: red, green, blue"
    if fix:
        raise BadArray(f"{what} must be (H, W, 3); got shape {shape}: {fix}")
    if array.dtype == np.uint8:
        return
    if array.dtype.kind == "f" and np.isfinite(array).all():
        fix = (
            "for values 0..1 use (a * 255).round().astype(np.uint8), for 0..255 a.clip(0,"
            " 255).astype(np.uint8)"
        )
    elif array.dtype.kind == "f":
        fix = "it has values that are infinite or not a number (NaN); check what computed it"
    elif array.dtype.kind not in "biuO":
        fix = "its values are no whole numbers; check what made it"
    elif array.dtype.kind == "u" and array.dtype.itemsize == 2:
        fix = "for values 0..65535 use (a // 257).astype(np.uint8), for 0..255 a.astype(np.uint8)"
    elif array.dtype.kind == "b":
        fix = "use a.astype(np.uint8) * 255"
    else:
        fix = "for values 0..255 use a.astype(np.uint8)"
    raise BadArray(f"{what} must be uint8 with values 0..255; got {array.dtype}: {fix}")


def _shown(path: str) -> str:
    """A path for messages: quoted, and only the beginning of a very long one."""
    return repr(path) if len(path) <= _SHOWN else f"{path[:60]!r}... ({len(path)} characters)"


def _base64_refusal(text: str) -> str:
    """The error message for a picture as base64 text; "" for a path."""
    head, comma, rest = text[:200].partition(",")
    is_data_url = text[:5].lower() == "data:" and bool(comma) and ";base64" in head.lower()
    start = (rest if is_data_url else text[:200]).strip()[:64]
    if not is_data_url and (len(text) < 100 or not text.startswith(_BASE64_STARTS)):
        return ""
    if not is_data_url and not re.fullmatch(r"[A-Za-z0-9+/=_\s-]+", start):
        return ""
    if os.path.lexists(text[:4096]):
        return ""
    decode = "base64.b64decode(text.partition(',')[2])" if is_data_url else "base64.b64decode(text)"
    return (
        f"the text {text[:24]!r}... ({len(text)} characters) is a picture in base64 and no path; decode it"
        f" and pass the bytes: {decode}"
    )


# Reading a file


def _read(path: str) -> bytes:
    """The file's bytes, if its first bytes are those of a picture (a video of 5 GB is not read)."""
    name = _shown(path)
    if refusal := _base64_refusal(path):
        raise NotFound(refusal)
    if not path or "\0" in path:
        raise NotFound(f"{name} names no file; give the path of a picture")
    if refusal := url_refusal(path):
        raise NotFound(refusal)
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            if not os.access(path, os.R_OK | os.X_OK):
                raise Unreadable(f"the folder {name} may not be listed; change its permissions")
            raise Unreadable(f"{name} is a folder, not a picture; find_photos lists the pictures in a folder")
        if not stat.S_ISREG(mode):  # a pipe could block for ever, a device never end
            raise Unreadable(f"{name} is not a regular file; read it yourself and pass the bytes")
        with Path(path).open("rb") as file:
            _format_of(file.read(_HEAD), name)
            file.seek(0)
            return file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        if os.path.islink(path):
            raise NotFound(f"{name} is a link to a file that is not there; check the link") from error
        raise NotFound(f"there is no file {name}; check the path") from error
    except PermissionError as error:
        raise Unreadable(f"{name} may not be read; change its permissions") from error
    except OSError as error:
        raise Unreadable(
            f"{name} cannot be read ({error.strerror or error}); check the path and the disk"
        ) from error


def _format_of(head: bytes, name: str) -> str:
    """The first bytes of a file -> a key of FORMATS or "HEIC"; EmptyFile or NotAPicture otherwise."""
    if not head:
        raise EmptyFile(f"{name} is empty (0 bytes); save or download it again")
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    # "BM" alone may start any text; the size of the header that follows is one of a few
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return "BMP"
    if head[4:8] == b"ftyp":
        # major brand, then the compatible ones: mif1 is a container for either
        brands = {head[8:12]} | {
            head[i : i + 4] for i in range(16, min(len(head), int.from_bytes(head[:4], "big")), 4)
        }
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        if brands & {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}:
            return "HEIC"
    if brand := _raw_brand(head):
        raise NotAPicture(_RAW.format(name=name, what=f"a camera RAW file ({brand})", why=""))
    if _is_video(head):
        raise NotAPicture(f"{name} is a video; read it with: mien video FILE, or mien.read_video")
    if other := _foreign(head):
        raise NotAPicture(f"{name} is {other}, which mien does not read; convert it to JPEG or PNG")
    if instead := _instead_of_a_file(head):
        raise NotAPicture(f"{name} is {instead} in place of the picture; download it again")
    raise NotAPicture(f"{name} is not a picture that mien reads ({_ALLOWED}); it starts with {head[:8]!r}")


def _raw_brand(head: bytes) -> str:
    """The name of a camera's RAW format that is not a TIFF file, or ""."""
    starts = {
        "Olympus ORF": (b"IIRO", b"IIRS", b"MMOR"),
        "Panasonic RW2": (b"IIU\0",),
        "Fujifilm RAF": (b"FUJIFILMCCD-RAW",),
        "Sigma X3F": (b"FOVb",),
        "Canon CRW": (b"II\x1a\0\0\0HEAPCCDR",),
        "Minolta MRW": (b"\0MRM",),
    }
    if head[4:12] == b"ftypcrx ":
        return "Canon CR3"
    return next((name for name, first in starts.items() if head.startswith(first)), "")


def _is_video(head: bytes) -> bool:
    if head[4:8] == b"ftyp":  # MP4 and QuickTime
        return head[8:12] not in (b"M4A ", b"M4B ", b"jxl ", b"jp2 ", b"jpx ")
    if head[4:8] in (b"moov", b"mdat", b"wide") or (head[:4] == b"RIFF" and head[8:12] == b"AVI "):
        return True
    # Matroska and WebM, ASF, Flash, Ogg, MPEG program stream
    starts = (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"FLV\1", b"OggS", b"\0\0\1\xba")
    # MPEG transport stream: packets of 188 bytes, or of 192 from camcorders and Blu-ray discs
    packets = any(head[at : at + 1] == head[at + size : at + size + 1] == b"G" for at, size in _PACKETS)
    return head.startswith(starts) or packets


def _foreign(head: bytes) -> str:
    """A name for formats that people often have and we do not read, or ""."""
    if head[4:8] == b"ftyp":
        return "a sound file" if head[8:11] in (b"M4A", b"M4B") else "a JPEG XL or JPEG 2000 picture"
    if head.startswith((b"\0\0\0\x0cJXL ", b"\xff\x0a")):
        return "a JPEG XL picture"
    if head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        return "a JPEG 2000 picture"
    if head.startswith(b"8BPS"):
        return "a Photoshop picture"
    text = head.lstrip().lower()
    if text.startswith(b"%pdf"):
        return "a PDF"
    return "an SVG or XML file" if text.startswith((b"<svg", b"<?xml")) else ""


def _instead_of_a_file(head: bytes) -> str:
    """What a download left in place of a picture, or ""."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    starts = {
        "a web page": (b"<!doctype html", b"<html"),
        "a Git LFS pointer": (b"version https://git-lfs",),
        "a JSON text": (b'{"', b"{\n", b"{\r\n"),
    }
    return next((name for name, first in starts.items() if text.startswith(first)), "")


# Decoding


def _decode(data: bytes, name: str, max_pixels: int) -> Pixels:
    """The bytes of a file -> (H, W, 3) uint8 RGB, upright."""
    kind, turn = _format_of(data[:_HEAD], name), 1
    if kind == "TIFF":
        kind, data, turn = _photo_of_tiff(data, name)
    image = _opened(data, kind, name)
    pixels = _loaded(image, name, kind, max_pixels)
    if kind not in ("TIFF", "HEIC"):  # turned while loading: there the turn belongs to the picture itself
        own = orientation_of(image, name)
        turn = own if own != 1 else turn
    return _upright(pixels, turn)


def _opened(data: bytes, kind: str, name: str) -> ImageFile.ImageFile:
    """A file's header, read by its format's own reader."""
    # The reader itself and not Image.open: that would check its own global pixel limit, by a warning.
    reader = _reader(kind, name)
    try:
        return reader(io.BytesIO(data))
    except _DAMAGE as error:
        raise _damaged(name, kind, error, data) from error


def _photo_of_tiff(data: bytes, name: str) -> tuple[str, bytes, int]:
    """A TIFF file -> (format, bytes, orientation to apply) of the photo in it.

    Raises:
        NotAPicture: a RAW file without a preview of full size.
    """
    found = tiff.directories(data)
    if tiff.is_raw(data, found):
        return "JPEG", _preview(data, found, name), found[0].first("orientation", 1) if found else 1
    photo = tiff.main_picture(found)
    if photo is None or photo is found[0]:
        return "TIFF", data, 1
    turn = 1 if "orientation" in photo.fields else found[0].first("orientation", 1)
    return "TIFF", tiff.starting_at(data, photo), turn


def _preview(data: bytes, found: list[tiff.Directory], name: str) -> bytes:
    """The full-size JPEG inside a RAW file."""
    sensor, best, size = max((d.side for d in found if d.raw), default=0), b"", (0, 0)
    for jpeg in tiff.jpeg_previews(data, found):
        try:
            width, height = _Jpeg(io.BytesIO(jpeg)).size
        except _DAMAGE as error:
            _log.debug("%s: a preview is damaged (%s)", name, error)
            continue
        if width * height > size[0] * size[1]:
            best, size = jpeg, (width, height)
    sensor = sensor or max((d.side for d in found), default=0)
    if best and max(size) >= _FULL * sensor:
        return best
    largest = (
        f"its largest preview has only {size[0]} x {size[1]} pixels" if best else "it holds no JPEG preview"
    )
    raise NotAPicture(_RAW.format(name=name, what="a camera RAW file", why=f"; {largest}"))


def _reader(kind: str, name: str) -> type[ImageFile.ImageFile]:
    """A format's own reader; NotAPicture, naming what to install, where there is none."""
    if kind == "AVIF" and not features.check("avif"):
        raise NotAPicture(
            f"{name} is an AVIF picture, and this Pillow was built without AVIF; install Pillow's own wheel"
        )
    if kind in FORMATS:
        return FORMATS[kind]
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise NotAPicture(
            f"{name} is a HEIC picture; to read these: pip install 'mien[heif]', or convert it to JPEG"
        ) from error
    return HeifImageFile


def _loaded(image: Image.Image, name: str, kind: str, max_pixels: int) -> Pixels:
    """Decode an image that is open; (H, W, 3) uint8 RGB, not yet turned."""
    _check_size(image.width, image.height, max_pixels, name)
    try:
        image.load()
        return to_rgb(image, name)
    except _DAMAGE as error:
        raise _damaged(name, kind, error) from error


def _damaged(name: str, kind: str, error: BaseException, data: bytes = b"") -> PhotoError:
    """What an error of Pillow's readers means: a kind of picture that they do not know, or damage."""
    why = str(error) or type(error).__name__
    if kind == "TIFF" and isinstance(error, (KeyError, SyntaxError)) and (found := tiff.directories(data)):
        first = found[0]
        return NotAPicture(
            f"{name} is a TIFF of a kind that mien does not read ({first.sample_kind} samples, compression"
            f" {first.first('compression', 1)}); convert it to 8 bits per channel, or to PNG"
        )
    if _UNKNOWN_KIND.search(why):
        return NotAPicture(
            f"{name} is a {kind} of a kind that mien does not read ({why}); convert it to JPEG or PNG"
        )
    return Truncated(
        f"{name} starts as {kind} but ends too early or is damaged ({why}); save or download it again"
    )


def _from_image(image: Image.Image, max_pixels: int) -> Photo:
    name = f"the Pillow image ({image.width} x {image.height}, mode {image.mode})"
    if image.width < 1 or image.height < 1:
        raise BadArray(f"{name} has no pixels; check the crop that made it")
    pixels = _loaded(image, name, image.format or "a picture", max_pixels)
    return Photo(_upright(pixels, orientation_of(image, name)))


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width * height > max_pixels:
        raise TooLarge(
            f"{name} has {width} x {height} = {width * height} pixels, the limit is {max_pixels}; "
            "make it smaller, or raise max_pixels if you trust it"
        )


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation 1..8 (anything else counts as 1); contiguous."""
    turned = {
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: p.swapaxes(0, 1)[:, ::-1],
        7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
        8: lambda p: p.swapaxes(0, 1)[::-1],
    }.get(orientation, lambda p: p)(pixels)
    return np.ascontiguousarray(turned)


def _kind(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}".removeprefix("builtins.")
