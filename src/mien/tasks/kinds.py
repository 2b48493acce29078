"""Tasks that a weights file defines: their kind and its parameters stand in the file's header, and no code.

A reader needs nothing else: an entry such as `{"name": "hair", "labels": "hair3-1f00c9a2", "kind": "choice",
"names": ["curly", "straight", "wavy"], "temperature": 1.2}` is a whole task.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mien.errors import UnknownTask, UsageError
from mien.tasks.attributes import AttributesTask
from mien.tasks.base import Task
from mien.tasks.catalogue import DERIVED, TASKS, task
from mien.tasks.choice import ChoiceTask
from mien.tasks.landmarks import LandmarkTask
from mien.tasks.number import NumberTask
from mien.tasks.parsing import ParsingTask

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
MAX_NAMES = 1000  # classes, attributes or points of one task
MAX_NAME = 100  # characters of a class's name
# Members of a record and columns of a table that are no task.
RESERVED = frozenset(
    (
        "path",
        "width",
        "height",
        "model",
        "error",
        "faces",
        "face",
        "box",
        "score",
        "points5",
        "roll",
        "schema",
    )
    + ("timing_ms", "name", "thumb", "person", "notable", "track", "frame", "time", "x1", "y1", "x2", "y2")
)


def check_name(name: str) -> None:
    """Whether a new task may have that name.

    Raises:
        UsageError: it is not a name, or it has a meaning already.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name for a task: use at most 40 lower-case letters, digits"
            " and _, a letter first"
        )
    if name in TASKS or name in DERIVED or name in RESERVED:
        raise UsageError(f"{name!r} has a meaning already; choose another name, such as 'my_{name}'")


def label_set(name: str, *parameters: Any) -> str:
    """An id of a label set: the task's name and a digest of what its numbers stand for."""
    text = json.dumps(parameters, ensure_ascii=False)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def entry_of(of: Task[Any]) -> dict[str, Any]:
    """What a header says of a task: as `Task.header`, and kind and parameters where the catalogue has no such
    task.

    Raises:
        UsageError: the task is of no kind that a file can define.
    """
    if of.name.partition("@")[0] in TASKS:
        return of.header()
    for kind, (build, names) in KINDS.items():
        if type(of) is build:
            parameters = {n: _plain(value) for n in names if (value := getattr(of, n)) or n != "names"}
            return {**of.header(), "kind": kind, **parameters}
    raise UsageError(f"{of.name} is of no kind that a weights file can define; there are: {', '.join(KINDS)}")


def task_of(entry: Mapping[str, Any]) -> Task[Any]:
    """The task of a header's entry: by its kind where it has one, else the catalogue's of that name.

    Raises:
        UnknownTask: an unknown kind, or no kind and no such task in the catalogue.
        UsageError, KeyError, TypeError, ValueError:
            the parameters are not those of the kind.
    """
    if "kind" not in entry:
        return task(str(entry["name"]))
    name, labels, kind = entry["name"], entry["labels"], entry["kind"]
    if not isinstance(name, str) or not isinstance(labels, str):
        raise TypeError(f"name {name!r} and labels {labels!r} must be texts")
    check_name(name)
    if kind not in KINDS:
        raise UnknownTask(f"{name!r} is of the kind {str(kind)[:40]!r}; there are: {', '.join(KINDS)}")
    build, parameters = KINDS[kind]
    given = {p: _CHECKS[p](entry[p]) for p in parameters if p in entry}
    made: Task[Any] = build(name, labels, **given)
    _check_fits(made)
    return made


def _check_fits(made: Task[Any]) -> None:
    """Whether parameters fit each other."""
    if isinstance(made, ChoiceTask) and len(made.names) < 2:
        raise ValueError(f"{made.name} has one class; a choice has two or more")
    if isinstance(made, ChoiceTask) and made.mirror and sorted(made.mirror) != list(range(len(made.names))):
        raise ValueError(f"{made.name} has a mirror that is not an order of its {len(made.names)} classes")
    if isinstance(made, LandmarkTask) and sorted(made.mirror) != list(range(len(made.mirror))):
        raise ValueError(f"{made.name} has a mirror that is not an order of its {len(made.mirror)} points")
    if isinstance(made, LandmarkTask) and made.names and len(made.names) != len(made.mirror):
        raise ValueError(f"{made.name} has {len(made.names)} names for {len(made.mirror)} points")
    if isinstance(made, LandmarkTask) and made.eyes and max(made.eyes) >= len(made.mirror):
        raise ValueError(f"{made.name} measures by points {made.eyes}, and has {len(made.mirror)}")
    if isinstance(made, ParsingTask) and (
        len(made.names) < 2 or not {*made.mirror, *made.mirror.values()} <= set(made.names)
    ):
        raise ValueError(f"{made.name} has fewer than two classes, or mirrors one that it does not have")
    if isinstance(made, NumberTask) and not (
        made.scale > 0 and made.interval > 0 and made.minimum < made.maximum
    ):
        raise ValueError(f"{made.name} has a scale or an interval that is not above 0, or an empty range")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


def _names(value: Any) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= MAX_NAMES
        or not all(isinstance(n, str) and 0 < len(n) <= MAX_NAME and n.isprintable() for n in value)
        or len(set(value)) < len(value)
    ):
        raise ValueError(f"names must be 1 to {MAX_NAMES} different printable texts, not {str(value)[:80]}")
    return tuple(value)


def _indices(value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or len(value) > MAX_NAMES
        or not all(type(n) is int and 0 <= n < MAX_NAMES for n in value)
    ):
        raise ValueError(f"{str(value)[:80]} is not a list of whole numbers from 0 on")
    return tuple(value)


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _temperature(value: Any) -> float:
    if (t := _number(value)) <= 0:
        raise ValueError(f"the temperature {value!r} is not above 0")
    return t


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME or not (value == "" or value.isprintable()):
        raise ValueError(f"{str(value)[:80]!r} is not a printable text of at most {MAX_NAME} characters")
    return value


def _pairs(value: Any) -> Any:
    """A mirror: of points or classes by number, or of classes by name."""
    if isinstance(value, dict):
        return dict(zip(_names(list(value)), _names(list(value.values())), strict=True)) if value else {}
    return _indices(value)


def _two(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    first, second = _indices(value)
    return first, second


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "names": _names,
    "display": lambda v: _names(v) if v else (),
    "mirror": _pairs,
    "eyes": _two,
    "temperature": _temperature,
    "sensitive": _flag,
    "unit": _text,
    **dict.fromkeys(("center", "scale", "minimum", "maximum", "interval"), _number),
}
# Kind in a header -> its class, and the parameters that travel.
KINDS: dict[str, tuple[type[Task[Any]], Sequence[str]]] = {
    "choice": (ChoiceTask, ("names", "display", "mirror", "temperature", "sensitive")),
    "attributes": (AttributesTask, ("names", "temperature", "sensitive")),
    "number": (NumberTask, ("unit", "center", "scale", "minimum", "maximum", "interval", "sensitive")),
    "points": (LandmarkTask, ("mirror", "eyes", "names", "sensitive")),
    "masks": (ParsingTask, ("names", "mirror", "sensitive")),
}
