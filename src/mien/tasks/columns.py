"""Columns of the flat record (CSV, Parquet, data frame): how an answer becomes cells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the flat form.

    Attributes:
        name: of the column; a list column is `name_part` for each of its parts in CSV.
        kind: str, int or float.
        get: a face's record -> the value, or the list of them; None where there is none.
        parts: names of a list column's numbers; empty for a single value.
    """

    name: str
    kind: type
    get: Callable[[Mapping[str, Any]], Any]
    parts: tuple[str, ...] = ()


def value_at(*path: str) -> Callable[[Mapping[str, Any]], Any]:
    """A face's record -> the value under these nested keys, or None."""

    def get(face: Mapping[str, Any]) -> Any:
        value: Any = face
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return get


def number_columns(name: str, keys: Iterable[str], *inside: str) -> list[Column]:
    """One column `name_key` of numbers per key of an answer's record, or of a mapping inside of it."""
    return [Column(f"{name}_{k}", float, value_at(name, *inside, k)) for k in keys]


def fraction_columns(name: str, keys: Iterable[str], inside: str) -> list[Column]:
    """As `number_columns`, of a mapping that leaves out zeros."""
    fractions = value_at(name, inside)

    def fraction(key: str) -> Callable[[Mapping[str, Any]], Any]:
        return lambda face: None if (found := fractions(face)) is None else found.get(key, 0.0)

    return [Column(f"{name}_{k}", float, fraction(k)) for k in keys]


def point_column(name: str, n: int, *inside: str) -> Column:
    """One list column of n points [[x, y], ...], flattened to x, y, x, y, ..."""
    get = value_at(name, *inside)

    def flat(face: Mapping[str, Any]) -> list[Any] | None:
        return None if (points := get(face)) is None else [v for point in points for v in point]

    return Column(name, float, flat, tuple(f"{i}_{axis}" for i in range(n) for axis in "xy"))


def json_column(name: str) -> Column:
    """One text column with an answer's record as JSON."""

    def text(face: Mapping[str, Any]) -> str | None:
        return json.dumps(face[name], ensure_ascii=False) if name in face else None

    return Column(name, str, text)
