"""Names of written files: none is used twice, none is too long."""

import unicodedata

from mien.cli.common import STEM_BYTES, output_names


def test_a_numbered_name_is_no_other_photos_name() -> None:
    assert output_names(["a/x.jpg", "b/x.jpg", "x-2.jpg"]) == ["x", "x-3", "x-2"]
    assert output_names(["x-2.jpg", "a/x.jpg", "b/x.jpg", "c/x.jpg", "d/x-2.jpg"]) == [
        "x-2",
        "x",
        "x-3",
        "x-4",
        "x-2-2",
    ]


def test_case_and_unicode_form_do_not_make_a_name_new() -> None:
    composed = "Jos\u00e9"
    paths = ["a/X.jpg", "b/x.jpg", f"{composed}.jpg", f"{unicodedata.normalize('NFD', composed)}.jpg"]
    keys = {unicodedata.normalize("NFC", name).casefold() for name in output_names(paths)}
    assert len(keys) == len(paths)


def test_a_long_name_leaves_room_for_its_ending() -> None:
    long = ["n" * 251 + ".jpg", "n" * 250 + "m.jpg", "\u00fc" * 125 + ".jpg"]
    names = output_names(long)
    assert len(set(names)) == 3
    assert all(STEM_BYTES - 2 <= len(name.encode()) < STEM_BYTES + 10 for name in names)
