"""`mien train`, `mien evaluate`, `mien export`: from a recipe to weights and their numbers."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.common import app, network, torch_threads
from mien.errors import UsageError


def load_recipe(path: Path) -> Callable[..., Any]:
    """The function `recipe` of a Python file.

    Raises:
        UsageError: no such file, or no such function in it.
    """
    if not path.is_file():
        raise UsageError(f"no recipe {str(path)!r}; a recipe is a Python file with a function recipe(...) -> Recipe")
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
            raise UsageError(f"this recipe has no setting {flag}; it has: {', '.join('--' + n for n in known)}")
        kind = type(known[name])
        try:
            values[name] = text.lower() in ("1", "true", "yes") if kind is bool else kind(text)
        except ValueError as e:
            raise UsageError(f"{flag} takes a {kind.__name__}, not {text!r}") from e
    return values


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def train(
    context: typer.Context,
    recipe: Annotated[Path, typer.Argument(help="A Python file with recipe(...) -> Recipe; its arguments become flags.")],
    out: Annotated[Path, typer.Option(help="The run's folder.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run's last checkpoint.")] = False,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    rank_timeout: Annotated[
        float, typer.Option(min=1, help="Under torchrun: seconds after which a rank that does not answer is lost; more than a validation.")
    ] = 600,
) -> None:
    """Train a recipe (needs the extra: pip install 'mien[train]'), in several processes if torchrun starts them."""
    from mien.ranks import join
    from mien.train import fit

    torch_threads(threads)
    make = load_recipe(recipe)
    with join(rank_timeout) as ranks:
        fit(make(**recipe_arguments(make, context.args)), out, resume=resume, ranks=ranks)


@app.command()
def evaluate(
    weights: Annotated[
        str | None, typer.Argument(help="An .onnx, a .safetensors or a run's folder; the embedded network if not given.")
    ] = None,
    protocol: Annotated[
        list[str] | None, typer.Option(help="A protocol's name; repeat for more. All that the model answers if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Save the scores as JSON.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Write the scores into the provenance file beside the weights.")] = False,
    threads: Annotated[int | None, typer.Option(min=1)] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Answer by the mean of each face and its mirror image.")] = False,
    detect: Annotated[
        bool, typer.Option("--detect", help="Cut faces out by the embedded detector's points, not by the labelled ones.")
    ] = False,
) -> None:
    """Run named protocols on labelled data and print a table."""
    from mien.detect import Detector
    from mien.evaluate import PROTOCOLS, as_table, run
    from mien.mirror import Mirrored
    from mien.runtime import WEIGHTS, OnnxModel

    if record and (mirror or detect):
        raise UsageError(f"--record tells of one forward a face, placed by its labels; leave {'--mirror' if mirror else '--detect'} out")
    model = network(weights, threads)
    if record and not isinstance(model, OnnxModel):
        raise UsageError("--record needs an .onnx; export the run first")
    unknown = [p for p in protocol or () if p not in PROTOCOLS]
    if unknown:
        raise UsageError(f"no protocol {unknown[0]!r}; there are: {', '.join(PROTOCOLS)}")
    find = Detector(OnnxModel(WEIGHTS / "detector.onnx", threads=threads)) if detect else None
    scores = run(Mirrored(model) if mirror else model, protocol or None, find=find)
    typer.echo(as_table(scores))
    values = {s.protocol: {k: round(v, 5) for k, v in s.values.items()} for s in scores}
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps({"weights": getattr(model, "sha256", weights), "scores": values}, indent=1) + "\n", encoding="utf-8")
    if record:
        beside = model.path.with_suffix(".json")
        beside.write_text(
            json.dumps(json.loads(beside.read_text(encoding="utf-8")) | {"scores": values}, indent=1) + "\n", encoding="utf-8"
        )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A .safetensors, or a run's folder.")],
    out: Annotated[Path, typer.Argument(help="FILE.onnx to write; FILE.json beside it says where it comes from.")],
    note: Annotated[str, typer.Option(help="What the provenance should tell of how the weights were raised.")] = "",
) -> None:
    """Export trained weights to ONNX, check them against torch, and write their provenance."""
    from mien.export import release

    record = release(run / "model.safetensors" if run.is_dir() else run, out, note=note)
    typer.echo(json.dumps(record, indent=1))
