"""`mien check`: one photo against a list of rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import READ
from mien.cli.common import app, path_or_model
from mien.cli.options import MAX_PIXELS, AsJson, MaxPixels, Score, Thorough, Threads, Weights
from mien.cli.streams import say
from mien.errors import UsageError

_SIGNS = {True: "pass", False: "FAIL", None: "  ? "}
NOT_CHECKED = 3


@app.command(rich_help_panel=READ)
def check(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="A photo; its largest face counts.")],
    rules: Annotated[
        str,
        typer.Option("--rules", metavar="NAME|FILE.toml", help="The rules: icao, or a file of your own."),
    ] = "icao",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE.jpg", help="Save the photo with the list of rules."),
    ] = None,
    as_json: AsJson = False,
    score: Score = None,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Check a photo against rules, such as those of a passport.

    Each rule has a value, a limit and a sentence. The rules are estimates: an authority decides.

    Exit codes: 0 all rules pass; 1 a rule fails; 2 wrong usage, or a photo that cannot be read; 3 no rule
    fails, and some could not be checked.
    """
    from mien.inference.reader import load
    from mien.selection.checking import check as checked
    from mien.selection.rules import Rules
    from mien.visualize.drawing import save_jpeg, save_png

    if out is not None and out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        raise UsageError(f"--out takes FILE.jpg or FILE.png, not {str(out)!r}")
    listed = Rules.load(rules)
    detection: dict[str, Any] = {"score": score, "thorough": thorough, "max_pixels": max_pixels}
    reader = load(path_or_model(weights, threads), threads=threads, **detection)
    found = checked(photo, listed, reader=reader)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        (save_png if out.suffix.lower() == ".png" else save_jpeg)(out, found.draw())
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False, indent=1))
    else:
        for r in found.results:
            value = "" if r.value is None else f" {r.value:.3g} ({r.rule.limit()})"
            say(f"{_SIGNS[r.passed]}  {r.rule.name}:{value} {r.text}")
    raise typer.Exit({True: 0, False: 1, None: NOT_CHECKED}[found.passed])
