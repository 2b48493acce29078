"""What is said to people who pass a wrong thing as a photo, or ask for a name that is not there."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import pytest
from PIL import Image

from mien.errors import BadArray, NotAPicture, NotFound, UnknownLabel, Unreadable, UsageError
from mien.io.image import load_photo
from mien.io.paths import find_photos
from mien.io.writers import open_output, open_rows
from mien.tasks.attributes import Attributes


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((120, 120), 50).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("form", ["plain", "data URL", "lines"])
def test_base64_text_is_called_that_and_not_repeated(kind: str, form: str) -> None:
    text = base64.b64encode(encoded(kind)).decode()
    if form == "data URL":
        text = f"data:image/{kind.lower()};base64,{text}"
    elif form == "lines":
        text = base64.encodebytes(encoded(kind)).decode()
    with pytest.raises(NotFound, match=f"{len(text)} characters.*base64.*b64decode") as caught:
        load_photo(text)
    assert len(str(caught.value)) < 300
    advised = re.search(r"base64\.b64decode\(.*\)$", str(caught.value))
    assert advised
    data = base64.b64decode(text.partition(",")[2] if form == "data URL" else text)
    assert load_photo(data).width == 120


def test_a_file_may_have_such_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = "iVBORw0KGgo" + "A" * 150
    Path(name).write_bytes(encoded("PNG"))
    assert load_photo(name).width == 120


def test_long_text_that_is_no_picture_is_not_repeated() -> None:
    with pytest.raises(Unreadable, match="5000 characters") as caught:
        load_photo("x" * 5000)
    assert len(str(caught.value)) < 300


def test_none_is_what_imread_gives() -> None:
    with pytest.raises(BadArray, match=r"None.*cv2.imread.*check the path"):
        load_photo(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "head",
    [
        b"\0\0\0\x18ftypisom\0\0\0\0isommp42",
        b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
        b"\x1a\x45\xdf\xa3\x01\0\0\0",
        b"RIFF\0\0\0\0AVI LIST",
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
        b"FLV\x01\x05",
        b"\0\0\x01\xba\x44",
        b"G" + bytes(187) + b"G",
        bytes(4) + b"G" + bytes(191) + b"G",
    ],
)
def test_a_video_is_sent_to_the_video_command(head: bytes) -> None:
    with pytest.raises(NotAPicture, match=r"is a video.*mien video"):
        load_photo(head + bytes(200))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html>\n<html><title>404</title>", "a web page"),
        (b"\xef\xbb\xbf<html>", "a web page"),
        (b'{"error": "not found"}', "a JSON text"),
    ],
)
def test_what_a_failed_download_left_is_called_that(data: bytes, what: str) -> None:
    with pytest.raises(NotAPicture, match=f"is {what} in place of the picture; download it again"):
        load_photo(data)


def test_an_attribute_that_is_not_there_names_those_that_are() -> None:
    answer = Attributes({"Eyeglasses": 0.9, "Smiling": 0.2}, "celeba40")
    assert answer["Smiling"] == 0.2
    with pytest.raises(UnknownLabel, match=r"no attribute 'Glasses'; did you mean 'Eyeglasses'\?.*Smiling"):
        answer["Glasses"]
    with pytest.raises(KeyError, match=r"no attribute 'Smilling'; did you mean 'Smiling'"):
        answer["Smilling"]
    with pytest.raises(KeyError, match="no attribute 'Beard'; there are: Eyeglasses, Smiling"):
        answer["Beard"]


def test_an_address_of_an_object_store_is_never_a_folder_of_this_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (
        lambda: open_output("s3://bucket/faces.parquet", ("age",)),
        lambda: open_rows("s3://bucket/faces.csv", (), ()),
    ):
        with pytest.raises(UsageError, match="--engine local or ray"):
            write()
    with pytest.raises(UsageError, match="--engine local"):
        find_photos(["s3://bucket/photos"])
    assert not list(tmp_path.iterdir())
