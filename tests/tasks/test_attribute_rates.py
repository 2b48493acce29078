"""Which attributes are named first."""

from __future__ import annotations

from mien.tasks.attribute_rates import RATES, notable
from mien.tasks.attributes import CELEBA40


def test_every_attribute_has_a_rate() -> None:
    assert set(RATES) == set(CELEBA40)
    assert all(0 < rate < 1 for rate in RATES.values())


def test_what_most_faces_have_comes_last() -> None:
    woman = {"No_Beard": 0.999, "Smiling": 0.8, "Eyeglasses": 0.9, "Wearing_Hat": 0.6, "Bald": 0.01}
    assert notable(woman) == ["Eyeglasses", "Wearing_Hat", "Smiling", "No_Beard"]
    assert notable(woman, 2) == ["Eyeglasses", "Wearing_Hat"]
    assert notable({"Bald": 0.1}) == []


def test_names_of_other_sets_count_as_rare() -> None:
    assert notable({"No_Beard": 0.99, "AU12": 0.7}) == ["AU12", "No_Beard"]
