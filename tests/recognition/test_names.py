"""A name in two Unicode forms is one name."""

import unicodedata

from mien.recognition import records

COMPOSED = "Jos\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def test_a_name_is_kept_in_one_form() -> None:
    assert COMPOSED != DECOMPOSED
    assert records.clean_name(f" {DECOMPOSED} ") == records.clean_name(COMPOSED) == COMPOSED


def test_both_forms_are_looked_up() -> None:
    assert {COMPOSED, DECOMPOSED} <= set(records.spellings(DECOMPOSED)) & set(records.spellings(COMPOSED))
