"""The command line's streams: any encoding, missing ones, and one progress bar."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import typer

ESCAPE = "mien.escape"
QUIET: ContextVar[bool] = ContextVar("quiet", default=False)


def is_quiet() -> bool:
    """Whether the running command was given --quiet."""
    return QUIET.get()


class _Missing(io.TextIOWrapper):
    """Stands for a stream that the process was started without; what is written is dropped."""

    missing = True


def _escape(error: UnicodeError) -> tuple[str, int]:
    r"""A character that the stream's encoding does not have -> \u1f64, so that JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i] << 8 | units[i + 1]:04x}" for i in range(0, len(units), 2)), error.end


def prepare_streams() -> None:
    """Make stdout and stderr usable whatever their encoding is, and whether they are there or not.

    A service, pythonw or a program without a console has no streams; the system would give their numbers to
    the next files that are opened.
    """
    codecs.register_error(ESCAPE, _escape)
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None and name != "stdin":
            nowhere = open(os.devnull, "wb")  # noqa: SIM115 - open as long as the process
            setattr(sys, name, _Missing(nowhere, encoding="utf-8", errors=ESCAPE))
        elif stream is None:
            os.open(os.devnull, os.O_RDONLY)  # takes the number
        elif name != "stdin" and isinstance(stream, io.TextIOWrapper):
            # ASCII is what a system says that knows nothing of encodings
            encoding = "utf-8" if codecs.lookup(stream.encoding).name == "ascii" else stream.encoding
            stream.reconfigure(encoding=encoding, errors=ESCAPE)


class _Bar:
    """A progress bar on the last line of stderr."""

    active: _Bar | None = None

    def __init__(self, total: int):
        self.total, self.done, self.shown = total, 0, ""

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        self.draw()

    def draw(self) -> None:
        """Show how far it is, where that has changed."""
        share = min(1.0, self.done / max(self.total, 1))
        text = f"reading [{'#' * round(30 * share):<30}] {self.done}/{self.total} {share:4.0%}"
        if text != self.shown:
            sys.stderr.write("\r" + text)
            sys.stderr.flush()
            self.shown = text

    def clear(self) -> None:
        """An empty line, for text."""
        if self.shown:
            sys.stderr.write("\r" + " " * len(self.shown) + "\r")
            sys.stderr.flush()
            self.shown = ""


def say(text: str, *, err: bool = False) -> None:
    """A line on stdout or stderr, above the progress bar if there is one."""
    bar = _Bar.active
    if bar is not None:
        bar.clear()
    typer.echo(text, err=err)
    if bar is not None:
        sys.stdout.flush()
        bar.draw()


@contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr for more than a few photos on a terminal; none otherwise, or with --quiet."""
    if total <= 4 or is_quiet() or not sys.stderr.isatty():
        yield lambda: None
        return
    bar = _Bar.active = _Bar(total)
    try:
        bar.draw()
        yield bar.step
    finally:
        bar.clear()
        _Bar.active = None
