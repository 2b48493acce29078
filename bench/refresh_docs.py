"""Rewrite the printed outputs of README.md and docs/, and the picture docs/faces.jpg, after new weights:
`make refresh-docs`.

An HTML comment directly above a `text` block says where the output comes from:

    <!-- output of: mien verify examples/astronaut.jpg examples/grace_hopper.jpg -->   what the command prints
                                                                                       on a terminal
    <!-- output of: the Python block above -->                                          what the page's Python
                                                                                        block prints

Python blocks of a page run in order in one scope. Commands run in a scratch folder that holds a copy of
`examples/`.
"""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "faces.jpg"
PYTHON = "the Python block above"
BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```$|^<!-- output of: (?P<command>.+?)"
    r" -->\n```(?P<language>\w+)\n(?P<shown>.*?)^```$",
    re.M | re.S,
)
TIMING = re.compile(r"\d+(?:\.\d+)?(?= ms\b)|(?<=\"timing_ms\": )\{[^}]*\}")


@dataclass(frozen=True)
class Printed:
    """One printed output of a page.

    Attributes:
        command: What makes it, as the comment above the block says.
        shown: The text of the block.
        start: Offset of that text in the page.
        end: Offset of its end.
        code: For a Python output, the code of all Python blocks up to it; the last one prints the output.
    """

    command: str
    shown: str
    start: int
    end: int
    code: tuple[str, ...] = ()


def pages(root: Path = ROOT) -> list[Path]:
    """README.md and the pages of docs/ that have at least one printed output."""
    return [
        p
        for p in (root / "README.md", *sorted((root / "docs").rglob("*.md")))
        if printed(p.read_text(encoding="utf-8"))
    ]


def printed(text: str) -> list[Printed]:
    """The printed outputs of a page, in order."""
    found: list[Printed] = []
    code: list[str] = []
    for match in BLOCK.finditer(text):
        if match["code"] is not None:
            code.append(match["code"])
            continue
        above = tuple(code) if match["command"] == PYTHON else ()
        if match["command"] == PYTHON and not code:
            raise ValueError(f"an output of {PYTHON!r} has no Python block above it")
        found.append(
            Printed(match["command"], match["shown"], match.start("shown"), match.end("shown"), above)
        )
    return found


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a copy of `examples/`, in which commands may write."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples", Path(folder) / "examples")
        yield Path(folder)


def on_a_terminal(command: str, folder: Path) -> str:
    """What a command prints on a terminal 400 columns wide, standard error included.

    Args:
        command: `mien ...`.
        folder: Working folder.

    Raises:
        ValueError: The command is not one of mien's.
    """
    program, *words = shlex.split(command)
    if program != "mien":
        raise ValueError(f"only outputs of mien and of {PYTHON!r} can be made again, not of {command!r}")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "src"),
        "COLUMNS": "400",
        "TERM": "dumb",
        "NO_COLOR": "1",
    }
    leader, follower = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "mien", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=follower,
            stderr=follower,
        )
    finally:
        os.close(follower)
    text = bytearray()
    try:
        # Linux reports the end of a pseudo-terminal as an input/output error.
        with contextlib.suppress(OSError):
            while part := os.read(leader, 65536):
                text += part
    finally:
        os.close(leader)
        process.wait()
    if process.returncode not in (0, 1):
        raise RuntimeError(f"{command!r} ended with exit code {process.returncode}: {text.decode()}")
    return text.decode("utf-8").replace("\r\n", "\n")


def of_python(code: tuple[str, ...]) -> str:
    """What the last of these blocks prints; they run in one scope."""
    scope: dict[str, object] = {}
    with contextlib.chdir(ROOT):
        for block in code:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, "documentation", "exec"), scope)
    return printed.getvalue()


def real(output: Printed) -> str:
    """Today's text of a printed output."""
    if output.code:
        return of_python(output.code)
    with scratch() as folder:
        return on_a_terminal(output.command, folder)


def refreshed(text: str) -> str:
    """A page with today's outputs. A block whose timings alone differ stays as it is."""
    for output in reversed(printed(text)):
        current = real(output).rstrip("\n") + "\n"
        if TIMING.sub("", current) != TIMING.sub("", output.shown):
            text = text[: output.start] + current + text[output.end :]
    return text


def draw() -> bytes:
    """The annotated collage, a JPEG."""
    with scratch() as folder:
        on_a_terminal("mien analyze examples --draw drawn", folder)
        (drawn,) = folder.glob("drawn/**/collage*.jpg")
        return drawn.read_bytes()


def main() -> None:
    """Rewrite every page and the picture."""
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = refreshed(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
        print(
            f"{page.relative_to(ROOT)}: {len(printed(after))}"
            f" outputs{'' if after == before else ', changed'}",
            file=sys.stderr,
        )
    PICTURE.write_bytes(draw())
    print(f"{PICTURE.relative_to(ROOT)}: written", file=sys.stderr)


if __name__ == "__main__":
    main()
