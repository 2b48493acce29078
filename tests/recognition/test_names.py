"""A name in two Unicode forms is one name."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from mien.errors import UsageError
from mien.recognition import records
from mien.recognition.gallery import Gallery
from mien.recognition.store import CORRECTION, FACE, Row, new_key, new_store

COMPOSED = "Jos\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def test_a_name_is_kept_in_one_form() -> None:
    assert COMPOSED != DECOMPOSED
    assert records.clean_name(f" {DECOMPOSED} ") == records.clean_name(COMPOSED) == COMPOSED


@pytest.mark.parametrize(
    "typed",
    [
        "Anne Marie",
        "Anne\u00a0Marie",
        "  Anne \u2009 Marie\u3000",
        "\ufeffAnne Marie",
        "\u200eAnne Marie\u200f",
        "An\u00adne Ma\u200brie",
        "\u2068Anne\u2069 Marie",
        "Anne\u200c \u200dMarie",
    ],
)
def test_spaces_and_invisible_characters_do_not_make_a_name_new(typed: str) -> None:
    assert records.clean_name(typed) == "Anne Marie"
    assert "Anne Marie" in records.spellings(typed)


@pytest.mark.parametrize(
    "name",
    [
        "\u0646\u0631\u06af\u0633\u200c\u062e\u0627\u062a\u0648\u0646",
        "\u0915\u094d\u200d\u0937",
        "O'Neil-Lopez",
        "\u674e\u96f7",
    ],
)
def test_names_of_all_scripts_stay_as_they_are(name: str) -> None:
    assert records.clean_name(name) == name


@pytest.mark.parametrize("name", ["", " ", "\u200b", "\u200c\u200d", "a\nb", "a\0b", "\ud800", "x" * 201])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError, match="1 to 200 printable characters") as caught:
        records.clean_name(name)
    assert len(str(caught.value)) < 130


def test_both_forms_are_looked_up() -> None:
    assert {COMPOSED, DECOMPOSED} <= set(records.spellings(DECOMPOSED)) & set(records.spellings(COMPOSED))


# Galleries of older versions, which kept names as they were typed

ZOE = "Zoe\u0308 and \u00c9lodie"  # half and half: neither NFC nor NFD


def old_gallery(place: Path, key: Path | None = None) -> None:
    """Four people, two of whom are one in two spellings, and a correction."""
    pin = {"model": "of-tests", "task": "identity", "view": {}, "d": 4}
    store = new_store(str(place), key, None, pin)
    rows = [
        ("f_1", "p_a", DECOMPOSED, FACE, "agreed", "2099-01-01", "2026-01-02T00:00:00+00:00", 0),
        ("f_2", "p_b", COMPOSED, FACE, "", "2098-01-01", "2026-01-01T00:00:00+00:00", 1),
        ("f_3", "p_c", ZOE, FACE, "", "", "2026-01-03T00:00:00+00:00", 2),
        ("c_4", "p_c", ZOE, CORRECTION, "", "", "2026-01-04T00:00:00+00:00", 3),
        ("f_5", "p_d", "Ann", FACE, "", "", "2026-01-05T00:00:00+00:00", 3),
    ]
    store.add([Row(*texts, vector=np.eye(4, dtype=np.float32)[axis]) for *texts, axis in rows])


@pytest.fixture(params=[False, True], ids=["plain", "sealed"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path | None]:
    pytest.importorskip("lancedb")
    key = None
    if request.param:
        key = tmp_path / "key"
        new_key(key)
    old_gallery(tmp_path / "people", key)
    return tmp_path / "people", key


def test_an_old_gallery_is_brought_into_one_form_when_it_is_opened(place) -> None:
    gallery = Gallery(place[0], key=place[1])
    names = {p.name: p for p in gallery.people()}
    assert set(names) == {"Ann", COMPOSED, unicodedata.normalize("NFC", ZOE)}
    assert (names[COMPOSED].id, set(names[COMPOSED].faces)) == ("p_b", {"f_1", "f_2"}), (
        "the older person stays"
    )
    assert names[COMPOSED].until == "2098-01-01", "the earliest last day counts"
    assert names[unicodedata.normalize("NFC", ZOE)].corrections == 1
    for spelling in (COMPOSED, DECOMPOSED):
        assert gallery.person(spelling).id == "p_b"
    version = gallery.store.table.version  # type: ignore[attr-defined]
    assert Gallery(place[0], key=place[1]).store.table.version == version, (
        "the second time nothing is written"
    )  # type: ignore[attr-defined]


def test_forget_finds_all_spellings_where_the_gallery_was_not_converted(place, monkeypatch) -> None:
    monkeypatch.setattr(Gallery, "_normalize_names", lambda self: None)
    gallery = Gallery(place[0], key=place[1])
    assert len(gallery.people()) == 4
    done = gallery.forget(COMPOSED)
    assert (done.people, done.faces) == (2, 2)
    gallery.forget(unicodedata.normalize("NFD", ZOE))
    assert [p.name for p in gallery.people()] == ["Ann"]


def test_a_gallery_that_cannot_be_written_is_still_read(place, monkeypatch, caplog) -> None:
    def refuse(self, *args) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr("mien.recognition.store.PlainStore.replace", refuse)
    monkeypatch.setattr("mien.recognition.store.SealedStore.replace", refuse)
    gallery = Gallery(place[0], key=place[1])
    assert "read-only file system" in caplog.text
    assert len(gallery.people()) == 4


def test_a_person_cannot_be_renamed_to_another_spelling_of_somebody_s_name(place) -> None:
    gallery = Gallery(place[0], key=place[1])
    with pytest.raises(UsageError, match="is already used"):
        gallery.edit("Ann", name=DECOMPOSED)
