"""The contact sheet: one file, nothing asked of a server, nothing in it that a file name could smuggle in."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import numpy as np
import pytest
from PIL import Image

from mien import geometry
from mien.errors import NotFound, UsageError
from mien.inference.reading import Reading
from mien.types import Crop, Face
from mien.visualize.contact_sheet import ContactSheet, short_names, thumb

SCRIPT, STYLE = (
    files("mien.visualize").joinpath(f"contact_sheet.{kind}").read_text("utf-8") for kind in ("js", "css")
)


class Page(HTMLParser):
    """Tags with their attributes, and the text of scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = dict(attrs).get("id") or tag

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        self.inside[self._open] = self.inside.get(self._open, "") + data


@pytest.fixture
def page(reader, astronaut, tmp_path):
    sheet = ContactSheet(tmp_path / "deep" / "s.html", "Album <1>")
    reading = reader(astronaut)
    reading.path = 'x</script><img src=x onerror="alert(1)">.jpg'
    sheet.add(reading, [3])
    sheet.add(Reading("bad\n.jpg", error=NotFound("no")))
    sheet.close()
    return Page((tmp_path / "deep" / "s.html").read_text(encoding="utf-8"))


def test_the_data_are_the_answers_with_a_thumbnail(page, reader, astronaut) -> None:
    data = json.loads(page.inside["data"])
    assert data["photos"] == 1
    assert data["errors"] == [{"path": "bad\n.jpg", "code": "not_found"}]
    (card,) = data["faces"]
    own = reader(astronaut)[0].to_dict()
    assert card["age"] == own["age"]
    assert card["attributes"] == own["attributes"]
    assert (card["person"], card["face"], card["faces"]) == (3, 1, 1)
    assert not {"landmarks", "points5", "identity"} & set(card)
    with Image.open(io.BytesIO(base64.b64decode(card["thumb"]))) as image:
        assert (image.format, image.size) == ("JPEG", (112, 112))


def test_a_file_name_stays_text(page) -> None:
    assert (
        json.loads(page.inside["data"])["faces"][0]["path"] == 'x</script><img src=x onerror="alert(1)">.jpg'
    )
    assert [t for t, _ in page.tags].count("script") == 2
    assert "img" not in [t for t, _ in page.tags]
    assert page.inside["title"].strip() == "Album <1>"
    assert "innerHTML" not in SCRIPT


def test_no_request_is_sent_to_a_server(page) -> None:
    for tag, attributes in page.tags:
        assert not {"src", "href", "action", "srcset"} & set(attributes), tag
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|WebSocket|import\(|url\(", SCRIPT + STYLE)
    (policy,) = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for text in (SCRIPT, STYLE):
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    assert page.inside["script"] == SCRIPT
    assert page.inside["style"] == STYLE


def test_every_control_of_the_script_is_on_the_page(page) -> None:
    ids = {a["id"] for _, a in page.tags if "id" in a}
    used = set(re.findall(r'at\("(\w+)"\)', SCRIPT)) | set(re.findall(r'offer\("(\w+)"', SCRIPT))
    assert len(used) > 10
    assert used <= ids
    assert "prefers-color-scheme: dark" in STYLE


def test_only_html_and_only_faces_of_a_reader(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"FILE\.html"):
        ContactSheet(tmp_path / "s.pdf")
    with pytest.raises(UsageError, match="no crop"):
        thumb(Face([0, 0, 1, 1], 0.5, []))  # type: ignore[arg-type]


def test_an_empty_sheet_is_a_page_too(tmp_path) -> None:
    ContactSheet(tmp_path / "s.html").close()
    assert json.loads(Page((tmp_path / "s.html").read_text()).inside["data"]) == {
        "photos": 0,
        "faces": [],
        "errors": [],
    }
    assert [p.name for p in tmp_path.iterdir()] == ["s.html"]


def test_names_are_unique_and_as_short_as_the_shared_folder_allows() -> None:
    assert short_names(["album/a/x.jpg", "album/b/x.jpg"]) == ("album", ["a/x.jpg", "b/x.jpg"])
    assert short_names(["x.jpg", "x.jpg"]) == ("", ["x.jpg", "x.jpg"])  # two faces of one photo
    assert short_names(["/p/x.jpg", "/p/q/x.jpg"]) == ("/p", ["x.jpg", "q/x.jpg"])
    assert short_names(["C:\\p\\x.jpg", "C:\\p\\y.jpg"]) == ("C:/p", ["x.jpg", "y.jpg"])
    assert short_names([]) == ("", [])


def test_cards_have_unique_names_and_informative_attributes(reader, astronaut, tmp_path) -> None:
    sheet = ContactSheet(tmp_path / "s.html")
    for path in ("album/a/x.jpg", "album/b/x.jpg"):
        reading = reader(astronaut)
        reading.path = path
        sheet.add(reading)
    sheet.close()
    page = Page((tmp_path / "s.html").read_text(encoding="utf-8"))
    cards = json.loads(page.inside["data"])["faces"]
    assert [c["name"] for c in cards] == ["a/x.jpg", "b/x.jpg"]
    assert page.inside["title"].strip() == "Faces in album"
    assert cards[0]["attributes"]["No_Beard"] > 0.9
    assert cards[0]["notable"]
    assert "No_Beard" not in cards[0]["notable"][:3]


def corner_face(value: int) -> tuple[Face, tuple[int, int]]:
    """A crop of which one half lies outside a photo of one color."""
    affine = np.array([[1.0, 0, 64], [0, 1.0, 0]])
    pixels = geometry.warp(np.full((128, 128, 3), value, np.uint8), affine, (128, 128))
    crop = Crop(pixels, affine)
    return Face(np.zeros(4, np.float32), 1.0, np.zeros((5, 2), np.float32), {}, crop), (128, 128)


def test_a_thumbnail_shows_no_black_outside_of_the_photo() -> None:
    face, size = corner_face(180)
    for given, darkest in ((size, 170), (None, 0)):
        with Image.open(io.BytesIO(base64.b64decode(thumb(face, given)))) as image:
            shown = np.asarray(image).astype(int)
        assert abs(int(shown.min()) - darkest) <= 12
    assert np.ptp(shown[:, 60:]) <= 12  # the photo itself is as it was


def test_the_detail_opens_at_its_top() -> None:
    """What gets the focus is scrolled into view, so it must not be the button at the end."""
    assert "title.autofocus = true" in SCRIPT
    assert SCRIPT.index("box.showModal(); box.scrollTop = 0") > SCRIPT.index("title.autofocus")
