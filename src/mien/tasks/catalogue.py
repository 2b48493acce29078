"""All tasks by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from mien.errors import UnknownTask
from mien.tasks.age import AGE
from mien.tasks.attributes import ATTRIBUTES, GENDER, UNITS8, UNITS12
from mien.tasks.base import Answer, Derived, Task
from mien.tasks.choice import EMOTION7, EXPRESSION, EXPRESSION7, POSE5
from mien.tasks.detection import FACES
from mien.tasks.eyes import EYES
from mien.tasks.gaze import GAZE
from mien.tasks.identity import IDENTITY, IDENTITY512
from mien.tasks.landmarks import AFLW19, COFW29, LANDMARKS, POINTS5, WFLW98
from mien.tasks.occlusion import OCCLUSION
from mien.tasks.parsing import HELEN9, LAPA11, PARSING
from mien.tasks.plugins import Catalogue, check_name
from mien.tasks.pose import EULER, POSE
from mien.tasks.quality import QUALITY

_ALL: tuple[Task[Any], ...] = (
    LANDMARKS,
    POINTS5,
    WFLW98,
    COFW29,
    AFLW19,
    PARSING,
    LAPA11,
    HELEN9,
    AGE,
    EXPRESSION,
    EXPRESSION7,
    EMOTION7,
    POSE5,
    EULER,
    ATTRIBUTES,
    UNITS12,
    UNITS8,
    EYES,
    GAZE,
    OCCLUSION,
    QUALITY,
    IDENTITY,
    IDENTITY512,
    FACES,
)


# The tasks of a system that supports every kind of task, by default.
DEFAULT_TASKS = (LANDMARKS, POINTS5, PARSING, AGE, EXPRESSION, ATTRIBUTES, IDENTITY)


DERIVED: dict[str, Derived[Any]] = {d.name: d for d in (GENDER, POSE)}


def _check(name: str, value: Any) -> str:
    """What is wrong with a plug-in's task; empty where nothing is."""
    if not isinstance(value, Task):
        return f"it is of type {type(value).__name__}; name an instance of a subclass of mien.tasks.Task"
    if not name.isidentifier():
        return f"the name {name!r} is not an identifier; use letters, digits and _"
    return check_name(name, value)


TASKS: Catalogue[Task[Any]] = Catalogue(
    "mien.tasks", {t.name: t for t in _ALL}, _check, reserved=frozenset(DERIVED)
)


# The order of predictions. Identity is biometric data and must be requested by name.
ANSWER_ORDER = (
    "points5",
    "landmarks",
    "wflw98",
    "cofw29",
    "aflw19",
    "parsing",
    "lapa11",
    "helen9",
    "age",
    "gender",
    "expression",
    "expression7",
    "emotion7",
    "attributes",
    "units12",
    "units8",
    "pose",
    "euler",
    "pose5",
    "eyes",
    "gaze",
    "occlusion",
    "quality",
    "identity",
    "identity512",
)


# The order of the words about a face in one line of text; other answers follow in their own order.
SUMMARY_ORDER = (
    "gender", "age", "expression", "pose", "eyes", "gaze", "occlusion", "quality", "attributes",
)  # fmt: skip


ON_REQUEST = frozenset({"identity", "identity512"})


def task(name: str) -> Task[Any]:
    """The task of that name, or of "name@set": the same question as one data set answers it.

    Two sets may label one question by different hands (ages of MORPH II and of UTKFace); a model that is
    with the tasks "age@morph2" and "age@utkface" has queries or a head for each.

    Raises:
        UnknownTask: naming the ones there are.
    """
    base, at, _ = name.partition("@")
    if base not in TASKS:
        raise UnknownTask(f"no task {base!r}; there are: {', '.join(TASKS)}")
    if not at:
        return TASKS[base]
    return replace(TASKS[base], name=name)


def described(name: str, tasks: Iterable[Task[Any]] = ()) -> Task[Any] | Derived[Any] | None:
    """The task or derived answer of that name, or of "name@set"; None where there is none.

    Args:
        name: of an answer.
        tasks: of the network that gives it, which may have tasks that the catalogue does not have.
    """
    base = name.partition("@")[0]
    if base not in TASKS and (own := next((t for t in tasks if t.name == name), None)):
        return own
    if base in DERIVED:
        return replace(DERIVED[base], name=name)
    return task(name) if base in TASKS else None


def summaries(answers: Mapping[str, Answer]) -> list[str]:
    """What the answers about one face say in a few words each, those that people read first coming first."""
    order = [n for n in SUMMARY_ORDER if n in answers]
    words = (answers[n].summary() for n in (*order, *(n for n in answers if n not in order)))
    return [w for w in words if w]


def supported_tasks(tasks: Iterable[str]) -> tuple[str, ...]:
    """What a model with these tasks can answer, derived answers included, in answer order."""
    own = set(tasks)
    own |= {d.name for d in DERIVED.values() if d.source in own}
    return tuple(n for n in ANSWER_ORDER if n in own) + tuple(sorted(own - set(ANSWER_ORDER)))
