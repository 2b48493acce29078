"""`mien train`: from a recipe to weights."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import TRAIN, Command, is_quiet, write_sections
from mien.cli.common import app, torch_threads
from mien.errors import UsageError

RECIPE_OPTIONS = "Recipe options"
FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def load_recipe(path: Path) -> Callable[..., Any]:
    """The function `recipe` of a Python file.

    Raises:
        UsageError: no such file, no such function in it, or it needs a package that is not installed.
    """
    if not path.is_file():
        raise UsageError(
            f"no recipe {str(path)!r}; a recipe is a Python file with a function recipe(...) -> Recipe"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as e:
        raise UsageError(f"{path} cannot be imported ({e}); training needs: pip install 'mien[train]'") from e
    if not hasattr(module, "recipe"):
        raise UsageError(f"{path} has no function recipe(...) -> Recipe")
    return module.recipe  # type: ignore[no-any-return]


def _kind(parameter: inspect.Parameter) -> type:
    """The type of a recipe's option: that of its default."""
    return str if parameter.default in (None, inspect.Parameter.empty) else type(parameter.default)


def recipe_arguments(make: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    """`--steps 100 --size=128` -> keyword arguments of a recipe, converted to the types of its defaults.

    Raises:
        UsageError: an option that the recipe does not have, or a value that does not convert.
    """
    known = inspect.signature(make).parameters
    values: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        flag, equals, text = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in known:
            raise UsageError(
                f"this recipe has no option {flag}; it has:"
                f" {', '.join('--' + n.replace('_', '-') for n in known)}"
            )
        value = text if equals else next(rest, None)
        if value is None:
            raise UsageError(f"{flag} needs a value: recipe options are given as --name value")
        kind = _kind(known[name])
        try:
            values[name] = FLAGS[value.lower()] if kind is bool else kind(value)
        except (KeyError, ValueError) as e:
            takes = "yes or no" if kind is bool else f"a value of type {kind.__name__}"
            raise UsageError(f"{flag} takes {takes}, not {value!r}") from e
    return values


def option_texts(make: Callable[..., Any]) -> dict[str, str]:
    """A recipe's option -> its text in the Args section of the docstring."""
    names = "|".join(inspect.signature(make).parameters)
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", inspect.getdoc(make) or "", re.M | re.S)
    if section is None or not names:
        return {}
    text = " ".join(section[1].split())
    parts = re.split(rf"(?:^|(?<=[.;] ))((?:{names})(?:, (?:{names}))*): ", text)
    return {
        name: about.strip().rstrip(";")
        for several, about in zip(parts[1::2], parts[2::2], strict=True)
        for name in several.split(", ")
    }


def option_rows(make: Callable[..., Any]) -> list[tuple[str, str]]:
    """A recipe's options as rows of a help text: the option with its kind of value, and text with default."""
    kinds = {bool: "yes|no", int: "N", float: "X", str: "TEXT"}
    texts, rows = option_texts(make), []
    for name, parameter in inspect.signature(make).parameters.items():
        kind, default = _kind(parameter), parameter.default
        if default is inspect.Parameter.empty:
            shown = "  [required]"
        elif kind is bool:
            shown = f"  [default: {'yes' if default else 'no'}]"
        else:
            shown = "" if default in ("", None) else f"  [default: {default}]"
        flag = f"--{name.replace('_', '-')} {kinds.get(kind, kind.__name__.upper())}"
        text = texts.get(name, "")
        rows.append((flag, (text[:1].upper() + text[1:] + shown).strip()))
    return rows


class TrainCommand(Command):
    """`mien train`; with a recipe, its help lists the options of the recipe too."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """As any command; --help needs the words before they are parsed."""
        ctx.meta["mien.words"] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The options of the command, then those of the recipe."""
        super().format_options(ctx, formatter)
        recipes = [w for w in ctx.meta.get("mien.words", ()) if w.endswith(".py") and not w.startswith("-")]
        if recipes:
            rows = option_rows(load_recipe(Path(recipes[0])))
            write_sections(formatter, {f"{RECIPE_OPTIONS} of {recipes[0]}": rows})


@app.command(
    cls=TrainCommand,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    rich_help_panel=TRAIN,
)
def train(
    context: typer.Context,
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="A Python file with a function recipe(...) -> Recipe, such as recipes/mien.py.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="Folder of the training run.")],
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue from the last checkpoint in --out, exactly as if the run had not stopped.",
        ),
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, metavar="N", help="Threads of torch.", show_default="all cores"),
    ] = None,
    rank_timeout: Annotated[
        float,
        typer.Option(
            "--rank-timeout",
            min=1,
            metavar="SECONDS",
            help="With torchrun: time without a response after which a process is lost. It must exceed the"
            " time of a validation.",
        ),
    ] = 600,
) -> None:
    """Train a network from a recipe.

    The keyword arguments of the recipe are options of this command: mien train RECIPE --help lists them.
    Start it with torchrun for several processes. Needs the extra: pip install 'mien[train]'.
    """
    from mien.training.distributed import join
    from mien.training.loop import fit

    torch_threads(threads)
    make = load_recipe(recipe)
    with join(rank_timeout) as ranks:
        fit(
            make(**recipe_arguments(make, context.args)),
            out,
            resume=resume,
            ranks=ranks,
            progress=not is_quiet(),
        )
