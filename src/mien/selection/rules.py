"""Rules of a photo as data: a TOML file, of mien or of the user."""

from __future__ import annotations

import math
import os
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mien.errors import UsageError
from mien.selection.measures import Measure, measure

OWN = ("icao",)  # rules in this package
_KEYS = frozenset(("name", "measure", "minimum", "maximum", "good", "bad"))


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: a measure and its limits.

    Attributes:
        name: of the rule.
        measure: a name in `mien.selection.measures.MEASURES`.
        minimum, maximum: limits; None where there is none.
        good, bad: sentences for people.
    """

    name: str
    measure: str
    minimum: float | None
    maximum: float | None
    good: str
    bad: str

    @property
    def measured(self) -> Measure:
        """What is measured."""
        return measure(self.measure)

    def limit(self) -> str:
        """The limits in words, such as `at least 90 pixels`."""
        unit = f" {self.measured.unit}" if self.measured.unit else ""
        if self.minimum is not None and self.maximum is not None:
            same = self.minimum == self.maximum
            span = f"{self.minimum:g}" if same else f"{self.minimum:g} to {self.maximum:g}"
            return span + unit
        return (
            f"at least {self.minimum:g}{unit}"
            if self.minimum is not None
            else f"at most {self.maximum:g}{unit}"
        )

    def passes(self, value: float) -> bool:
        """Whether a value keeps the limits; NaN does not."""
        low = self.minimum is None or value >= self.minimum
        high = self.maximum is None or value <= self.maximum
        return low and high and not math.isnan(value)


@dataclass(frozen=True, slots=True)
class Rules:
    """A list of rules.

    Attributes:
        name: of the list.
        about: what it is for, one line.
        rules: in the order of the report.
    """

    name: str
    about: str
    rules: tuple[Rule, ...]

    def tasks(self) -> tuple[str, ...]:
        """The answers that the rules need."""
        return tuple(dict.fromkeys(t for rule in self.rules for t in rule.measured.tasks))

    @staticmethod
    def load(source: str | os.PathLike[str]) -> Rules:
        """Rules by name ("icao"), or of a TOML file.

        Raises:
            UsageError: no such rules, or a file that holds none; the message says where.
        """
        text = os.fspath(source)
        if text in OWN:
            return Rules.of(
                files("mien.selection").joinpath(f"{text}.toml").read_text(encoding="utf-8"), text
            )
        path = Path(text)
        if path.suffix.lower() != ".toml" or not path.is_file():
            raise UsageError(f"no rules {text!r}; use one of {', '.join(OWN)}, or an existing FILE.toml")
        return Rules.of(path.read_text(encoding="utf-8"), path.stem)

    @staticmethod
    def of(text: str, name: str) -> Rules:
        """Rules of the text of a TOML file.

        Raises:
            UsageError: it is no TOML, or a rule is not complete.
        """
        try:
            given = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"the rules {name!r} are no valid TOML: {error}") from error
        listed = given.get("rule")
        if not isinstance(listed, list) or not listed:
            raise UsageError(f"the rules {name!r} have no [[rule]]; write one or more")
        rules = tuple(_rule(one, name, number) for number, one in enumerate(listed, 1))
        if len({r.name for r in rules}) < len(rules):
            raise UsageError(f"two of the rules {name!r} have one name; rename one")
        return Rules(str(given.get("name", name)), str(given.get("about", "")), rules)


def _rule(given: Any, of: str, number: int) -> Rule:
    where = f"rule {number} of {of!r}"
    if not isinstance(given, dict) or not isinstance(given.get("measure"), str):
        raise UsageError(f'{where} has no measure; add one, such as: measure = "eye_distance"')
    if unknown := set(given) - _KEYS:
        raise UsageError(
            f"{where} has the unknown key {sorted(unknown)[0]!r}; there are: {', '.join(sorted(_KEYS))}"
        )
    measure(given["measure"])
    limits = {k: given.get(k) for k in ("minimum", "maximum")}
    for key, value in limits.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise UsageError(f"{where}: {key} is {value!r}; write a number")
    if limits["minimum"] is None and limits["maximum"] is None:
        raise UsageError(f"{where} has no limit; add minimum, maximum or both")
    name = str(given.get("name", given["measure"]))
    good, bad = (
        str(given.get("good", f"{name} is within its limits.")),
        str(given.get("bad", f"{name} is not.")),
    )
    low, high = (None if v is None else float(v) for v in limits.values())
    return Rule(name, given["measure"], low, high, good, bad)
