"""How every command behaves: -h, --quiet and --verbose, help in groups, log messages and errors on stderr."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from mien.cli.streams import QUIET, is_quiet, say
from mien.errors import MienError

COMMON = "Common options"
ARGUMENTS = "Arguments"
OPTIONS = "Options"
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
READ, SERVE, TRAIN, CHECK = "Read faces", "Serve", "Train and evaluate", "Check and measure"

Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", rich_help_panel=COMMON, help="Print only results, warnings and errors: no progress."
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        rich_help_panel=COMMON,
        help="Print more to stderr: time per stage, log messages, the traceback of an error.",
    ),
]
_log = logging.getLogger("mien")


def note(text: str) -> None:
    """A line on stderr about the progress; not with --quiet."""
    if not is_quiet():
        say(f"mien: {text}", err=True)


class _Stderr(logging.Handler):
    """Log messages of mien as lines on stderr, unless a root handler writes there, as in `mien serve`."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        if any(getattr(h, "stream", None) is sys.stderr for h in logging.getLogger().handlers):
            return
        say(f"mien: {record.getMessage()}", err=True)


@contextmanager
def logs_on_stderr(verbose: bool) -> Iterator[None]:
    """Within it, log messages of mien are lines on stderr: warnings, or everything if verbose."""
    handler, level = _Stderr(), _log.level
    _log.addHandler(handler)
    if verbose:
        _log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        _log.removeHandler(handler)
        _log.setLevel(level)


def _with_common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same command with --quiet and --verbose."""
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(*, quiet: bool, verbose: bool, **values: Any) -> Any:
        before = QUIET.set(quiet)
        try:
            with logs_on_stderr(verbose):
                return command(**values)
        except (MienError, OSError):
            if verbose:
                typer.echo(traceback.format_exc(), err=True, nl=False)
            raise
        finally:
            QUIET.reset(before)

    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    parameters = [
        p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in signature.parameters.values()
    ] + more
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _row(parameter: Any, context: Any) -> tuple[str, str] | None:
    """A parameter as (name, help), without the type of an argument and the limits of a number."""
    if (record := parameter.get_help_record(context)) is None:
        return None
    name, text = record
    if parameter.param_type_name == "argument":
        name = parameter.metavar or name
    text = re.sub(r"(; )?[\d.]*(<=|<)?x(<=|>=)[\d.]+(?=; required\]|\])", "", text)
    text = re.sub(r"\[default: \((.*)\)", r"[default: \1", text)
    return name, text.removesuffix("[]").rstrip()


def _sections(parameters: list[Any], context: Any) -> dict[str, list[tuple[str, str]]]:
    """Heading -> (option, help) of its parameters; the common options come last."""
    sections: dict[str, list[tuple[str, str]]] = {ARGUMENTS: [], OPTIONS: []}
    common: list[tuple[str, str]] = []
    for parameter in parameters:
        if (row := _row(parameter, context)) is None:
            continue
        default = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
        panel = COMMON if parameter.name == "help" else getattr(parameter, "rich_help_panel", None) or default
        (common if panel == COMMON else sections.setdefault(panel, [])).append(row)
    return {name: rows for name, rows in (sections | {COMMON: common}).items() if rows}


def write_sections(formatter: Any, sections: Mapping[str, list[tuple[str, str]]]) -> None:
    """Headings with their rows into a help text."""
    for name, rows in sections.items():
        with formatter.section(name):
            formatter.write_dl(rows)


class Command(TyperCommand):
    """A command whose help shows its options in groups (`rich_help_panel`), as plain text."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`[OPTIONS]` and the arguments."""
        arguments = [p for p in self.get_params(ctx) if p.param_type_name == "argument"]
        names = [(p.metavar or (p.name or "").upper(), p.required) for p in arguments]
        return ["[OPTIONS]", *(name if required else f"[{name}]" for name, required in names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The arguments, then the options by group."""
        write_sections(formatter, _sections(self.get_params(ctx), ctx))


class Group(TyperGroup):
    """A group of commands whose help shows them in groups too."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options, then the commands."""
        write_sections(formatter, _sections(self.get_params(ctx), ctx))
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Commands by group."""
        shown = [(name, command) for name, command in self.commands.items() if not command.hidden]
        limit = formatter.width - 6 - max((len(name) for name, _ in shown), default=0)
        sections: dict[str, list[tuple[str, str]]] = {
            name: [] for name in (READ, SERVE, TRAIN, CHECK, "Commands")
        }
        for name, command in shown:
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            sections.setdefault(panel, []).append((name, command.get_short_help_str(limit)))
        write_sections(formatter, {name: rows for name, rows in sections.items() if rows})


class App(typer.Typer):
    """A `typer.Typer` whose commands all have the common options and plain help in groups."""

    def __init__(self, **more: Any):
        super().__init__(
            cls=Group,
            context_settings=CONTEXT,
            no_args_is_help=True,
            pretty_exceptions_enable=False,
            rich_markup_mode=None,
            **more,
        )

    def command(  # type: ignore[override]
        self, name: str | None = None, *, context_settings: dict[str, Any] | None = None, **more: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Add a function as a command; see `typer.Typer.command`."""
        add = super().command(
            name, context_settings=CONTEXT | (context_settings or {}), **({"cls": Command} | more)
        )

        def added(command: Callable[..., Any]) -> Callable[..., Any]:
            add(_with_common_options(command))
            return command

        return added
