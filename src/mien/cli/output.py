"""Where records go: a table on a terminal, JSON Lines, or a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mien.cli.streams import is_quiet, say
from mien.errors import UsageError


def table_lines(record: dict[str, Any]) -> Iterator[str]:
    """A photo's record as lines for people: one a face."""
    if "error" in record:
        yield f"{record['path']}: not read ({record['error']['code']})"
        return
    ms = sum(record["timing_ms"].values())
    faces = record["faces"]
    yield (
        f"{record['path']}: {record['width']}x{record['height']}, {len(faces)}"
        f" face{'' if len(faces) == 1 else 's'}, {ms:.0f} ms"
    )
    for number, face in enumerate(faces, 1):
        x1, y1, x2, y2 = face["box"]
        cells = [f"{number:>4}", f"{x2 - x1:4.0f}x{y2 - y1:<4.0f} at {x1:5.0f},{y1:<5.0f}"]
        if "roll" in face:
            cells.append(f"turned by {face['roll']:.0f} degrees")
        if "gender" in face:
            cells.append(f"{face['gender']['label']:<6} {face['gender']['probability']:4.0%}")
        if "age" in face:
            cells.append(
                f"{face['age']['years']:3.0f} years ({face['age']['low']:.0f}-{face['age']['high']:.0f})"
            )
        if "expression" in face:
            label = face["expression"]["label"]
            cells.append(f"{label:<9} {face['expression']['probabilities'][label]:4.0%}")
        if "pose" in face:
            cells.append("yaw {yaw:+4.0f} pitch {pitch:+4.0f} roll {roll:+4.0f}".format(**face["pose"]))
        if "attributes" in face:
            likely = [
                n
                for n, p in face["attributes"].items()
                if p >= 0.5 and n not in ("Male", "Young", "Attractive")
            ]
            cells.append(", ".join(sorted(likely, key=lambda n: -face["attributes"][n])[:4]))
        yield "  ".join(cells)


class Output:
    """Records into a file or a pipe, and lines for people on a terminal, or next to a file unless --quiet.

    Args:
        where: see `output.open_output`; None: lines on a terminal, JSON Lines into a pipe.
        asked: answers in the records, which are a table's columns; None where the records have no table form.
        lines: a record -> lines for people.
        model, resume: see `output.open_output`.
    """

    def __init__(
        self,
        where: str | None,
        asked: Sequence[str] | None = None,
        *,
        model: str = "",
        resume: bool = False,
        lines: Callable[[dict[str, Any]], Iterable[str]] = table_lines,
    ):
        from mien.io.writers import open_output, plain

        if (
            asked is None
            and where not in (None, "-")
            and not str(where).lower().endswith((".jsonl", ".json"))
        ):
            raise UsageError(f"--out takes FILE.jsonl, FILE.json or -, not {where!r}")
        beside = where not in (None, "-") and not is_quiet()
        self.lines = lines if beside or (where is None and sys.stdout.isatty()) else None
        self.writer = (
            None
            if where is None and self.lines and not resume
            else open_output(where, asked or (), model=model, resume=resume)
        )
        self._plain = plain

    def has(self, path: str) -> bool:
        """Whether the file had that photo before this run."""
        return self.writer is not None and self._plain(path) in self.writer.done

    def add(self, record: dict[str, Any]) -> None:
        """One photo."""
        if self.writer:
            self.writer.add(record)
        for line in self.lines(record) if self.lines else ():
            say(line)

    def close(self) -> None:
        """Finish the file."""
        if self.writer:
            self.writer.close()
