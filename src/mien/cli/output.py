"""Where records go: a table on a terminal, JSON Lines, or a file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mien.cli.streams import is_quiet, say
from mien.errors import UsageError
from mien.types import REPORTED_ROLL

if TYPE_CHECKING:
    from mien.inference.reading import Reading
    from mien.tasks import Task


def table_lines(reading: Reading) -> Iterator[str]:
    """A photo as lines for people: one per face."""
    from mien.tasks import summaries

    if reading.error is not None or reading.photo is None:
        yield f"{reading.path}: not read ({reading.error.code if reading.error else 'photo'})"
        return
    ms = sum(reading.timing_ms.values())
    yield (
        f"{reading.path}: {reading.photo.width}x{reading.photo.height}, {len(reading)}"
        f" face{'' if len(reading) == 1 else 's'}, {ms:.0f} ms"
    )
    for number, face in enumerate(reading, 1):
        x1, y1, x2, y2 = (float(v) for v in face.box)
        cells = [f"{number:>4}", f"{x2 - x1:4.0f}x{y2 - y1:<4.0f} at {x1:5.0f},{y1:<5.0f}"]
        if abs(face.roll) > REPORTED_ROLL:
            cells.append(f"turned by {face.roll:.0f} degrees")
        yield "  ".join(cells + summaries(face.answers))


class Output:
    """Records into a file or a pipe, and lines for people on a terminal, or next to a file unless --quiet.

    Args:
        where: see `output.open_output`; None: lines on a terminal, JSON Lines into a pipe.
        requested: predictions in the records, the columns of a table; None for records without a table form.
        tasks, model, resume: see `output.open_output`.
    """

    def __init__(
        self,
        where: str | None,
        requested: Sequence[str] | None = None,
        *,
        tasks: Iterable[Task[Any]] = (),
        model: str = "",
        resume: bool = False,
    ):
        from mien.io.writers import open_output, plain

        if (
            requested is None
            and where not in (None, "-")
            and not str(where).lower().endswith((".jsonl", ".json"))
        ):
            raise UsageError(f"--out takes FILE.jsonl, FILE.json or -, not {where!r}")
        to_file = where not in (None, "-") and not is_quiet()
        self.lines = to_file or (where is None and sys.stdout.isatty())
        self.writer = (
            None
            if where is None and self.lines and not resume
            else open_output(where, requested or (), tasks=tasks, model=model, resume=resume)
        )
        self._plain = plain

    def has(self, path: str) -> bool:
        """Whether the file had that photo before this run."""
        return self.writer is not None and self._plain(path) in self.writer.done

    def add(self, record: dict[str, Any], lines: Iterable[str] = ()) -> None:
        """One photo: its record, and lines for people."""
        if self.writer:
            self.writer.add(record)
        for line in lines if self.lines else ():
            say(line)

    def close(self) -> None:
        """Finish the file."""
        if self.writer:
            self.writer.close()
