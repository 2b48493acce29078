"""`mien train`, `mien evaluate`, `mien export`: from a recipe to weights and their numbers."""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.common import app, torch_threads
from mien.errors import UsageError


def load_recipe(path: Path) -> Callable[..., Any]:
    """The function `recipe` of a Python file.

    Raises:
        UsageError: no such file, or no such function in it.
    """
    if not path.is_file():
        raise UsageError(
            f"no recipe {str(path)!r}; a recipe is a Python file with a function recipe(...) -> Recipe"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "recipe"):
        raise UsageError(f"{path} has no function recipe(...) -> Recipe")
    return module.recipe  # type: ignore[no-any-return]


def recipe_arguments(make: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    """`--steps 100 --size 128` -> keyword arguments of a recipe, converted to its defaults' types.

    Raises:
        UsageError: a flag that the recipe does not have, or a value that does not convert.
    """
    known = {p.name: p.default for p in inspect.signature(make).parameters.values()}
    values: dict[str, Any] = {}
    if len(words) % 2:
        raise UsageError(f"recipe settings come as --name value; got: {' '.join(words)}")
    for flag, text in zip(words[::2], words[1::2], strict=True):
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in known:
            raise UsageError(
                f"this recipe has no setting {flag}; it has: {', '.join('--' + n for n in known)}"
            )
        kind = type(known[name])
        try:
            values[name] = text.lower() in ("1", "true", "yes") if kind is bool else kind(text)
        except ValueError as e:
            raise UsageError(f"{flag} takes a {kind.__name__}, not {text!r}") from e
    return values


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    recipe: Annotated[
        Path, typer.Argument(help="A Python file with recipe(...) -> Recipe; its arguments become flags.")
    ],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    rank_timeout: Annotated[
        float,
        typer.Option(
            min=1,
            help=(
                "Under torchrun: seconds after which a rank that does not answer is lost; more than a"
                " validation."
            ),
        ),
    ] = 600,
) -> None:
    """Train a recipe (needs the extra: pip install 'mien[train]'), in several processes if torchrun starts
    them.
    """
    from mien.training.distributed import join
    from mien.training.loop import fit

    torch_threads(threads)
    make = load_recipe(recipe)
    with join(rank_timeout) as ranks:
        fit(make(**recipe_arguments(make, context.args)), out, resume=resume, ranks=ranks)
