"""The tasks. Each file defines one kind of task completely; this file lists them.

A new task is a file with a `Task` and one line in `TASKS` (or a `Derived` and one line in `DERIVED`).
"""

from __future__ import annotations

from mien.tasks.age import AGE
from mien.tasks.attributes import ATTRIBUTES, GENDER, UNITS8, UNITS12
from mien.tasks.base import Answer, Boxes, Derived, Embedding, Map, Metrics, Points, Shape, Task, Vector
from mien.tasks.catalogue import (
    ANSWER_ORDER,
    DEFAULT_TASKS,
    DERIVED,
    ON_REQUEST,
    TASKS,
    described,
    summaries,
    supported_tasks,
    task,
)
from mien.tasks.choice import EMOTION7, EXPRESSION, EXPRESSION7, POSE5
from mien.tasks.detection import FACES
from mien.tasks.eyes import EYES
from mien.tasks.gaze import GAZE
from mien.tasks.identity import IDENTITY, IDENTITY512
from mien.tasks.landmarks import AFLW19, COFW29, LANDMARKS, POINTS5, WFLW98
from mien.tasks.occlusion import OCCLUSION
from mien.tasks.parsing import HELEN9, LAPA11, PARSING
from mien.tasks.pose import EULER, POSE
from mien.tasks.quality import QUALITY

__all__ = [
    "AFLW19",
    "AGE",
    "ANSWER_ORDER",
    "ATTRIBUTES",
    "COFW29",
    "DEFAULT_TASKS",
    "DERIVED",
    "EMOTION7",
    "EULER",
    "EXPRESSION",
    "EXPRESSION7",
    "EYES",
    "FACES",
    "GAZE",
    "GENDER",
    "HELEN9",
    "IDENTITY",
    "IDENTITY512",
    "LANDMARKS",
    "LAPA11",
    "OCCLUSION",
    "ON_REQUEST",
    "PARSING",
    "POINTS5",
    "POSE",
    "POSE5",
    "QUALITY",
    "TASKS",
    "UNITS8",
    "UNITS12",
    "WFLW98",
    "Answer",
    "Boxes",
    "Derived",
    "Embedding",
    "Map",
    "Metrics",
    "Points",
    "Shape",
    "Task",
    "Vector",
    "described",
    "summaries",
    "supported_tasks",
    "task",
]
