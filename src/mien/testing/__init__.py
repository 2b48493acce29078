"""The contract tests of tasks, data sets, protocols and models, for plug-ins to test themselves.

    from mien.testing import check_task
    from my_package import MY_TASK

    def test_my_task():
        check_task(MY_TASK)

Each function raises an `AssertionError` that says what is wrong. They need mien[train] and no test framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mien._lazy import attach

if TYPE_CHECKING:
    from mien.testing.datasets import check_dataset, check_protocol
    from mien.testing.models import check_model
    from mien.testing.tasks import check_task

__all__ = ["check_dataset", "check_model", "check_protocol", "check_task"]

__getattr__ = attach(
    __name__,
    {
        "check_dataset": "datasets",
        "check_model": "models",
        "check_protocol": "datasets",
        "check_task": "tasks",
    },
)
