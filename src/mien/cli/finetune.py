"""`mien finetune`: a new task from labeled pictures; `mien merge`: several new tasks in one file."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import TRAIN, note
from mien.cli.common import app, names_of
from mien.cli.options import NETWORK, AsJson, OnnxWeights, Threads
from mien.cli.streams import progress
from mien.errors import UsageError


class Kind(StrEnum):
    """Kinds of tasks that labeled pictures can teach."""

    choice = "choice"
    attributes = "attributes"
    number = "number"
    points = "points"
    masks = "masks"


class Depth(StrEnum):
    """How much of the network learns."""

    head = "head"
    decoder = "decoder"
    all = "all"


@app.command(rich_help_panel=TRAIN)
def finetune(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder with one folder of pictures per class, a .csv or .parquet table with a column path"
            " and label columns, or points or masks: COCO .json, CVAT .xml, a folder with images and masks.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name of the new task, such as hair.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.onnx", help="The network with the new task.")
    ],
    kind: Annotated[
        Kind | None,
        typer.Option(
            "--kind",
            help="Kind of the task: one of k, yes/no attributes, a number, points or masks.",
            show_default="what the labels look like",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="NAMES",
            help="Label columns of a table, or categories of annotations, comma-separated.",
            show_default="all that are not path, image, name, person, split or points5",
        ),
    ] = None,
    unit: Annotated[
        str, typer.Option("--unit", metavar="TEXT", help="Unit of a number, such as cm.", show_default=False)
    ] = "",
    report_folder: Annotated[
        Path | None,
        typer.Option(
            "--report-folder", metavar="FOLDER", help="Where the report goes.", show_default="FILE-report"
        ),
    ] = None,
    depth: Annotated[
        Depth,
        typer.Option(
            "--depth",
            help="What learns; head leaves the network as it is, the others change old predictions a little.",
            rich_help_panel=NETWORK,
        ),
    ] = Depth.head,
    weights: OnnxWeights = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, metavar="N", help="Seed of the split and of the training.")
    ] = 0,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Teach the network a new task from your own labeled pictures.

    The network itself stays as it is: a new head reads its features, and the old predictions do not change by
    a bit. With --depth decoder or all, more of it learns, and the old tasks are protected by its own
    predictions on your pictures. Run the same command again to continue a stopped run. Needs the extra: pip
    install 'mien[train]'.
    """
    from mien.training.finetune import finetune as run

    made = run(
        data,
        name,
        out,
        kind=None if kind is None else kind.value,
        columns=names_of(columns) or (),
        unit=unit,
        weights=weights,
        depth=depth.value,
        folder=report_folder,
        seed=seed,
        threads=threads,
        log=note,
        progress=progress,
    )
    if as_json:
        typer.echo(json.dumps(made.record, indent=1, ensure_ascii=False))
        return
    for line in _lines(made):
        typer.echo(line)


def _lines(made: Any) -> list[str]:
    record = made.record
    counts = record["pictures"]
    return [
        f"{record['name']}: {record['kind']}{' of ' + ', '.join(record['names']) if record['names'] else ''}",
        f"pictures: {counts['used']} of {counts['given']} ({counts['train']} train, {counts['val']}"
        " validation,"
        f" {counts['test']} test)",
        f"test: {made.score}; one answer for every picture: {record['baseline']:.3g}",
        f"old answers: {record['old_answers']}",
        *(f"next: {text}" for text in record["next"]),
        f"report: {made.report / 'report.md'}",
        f"use it: mien analyze --weights {made.path} PHOTOS",
    ]


@app.command(rich_help_panel=TRAIN)
def merge(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES...", help="Two .onnx files or more, fine-tuned on one network."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.onnx", help="The network with all new tasks.")
    ],
) -> None:
    """Join fine-tuned tasks of several files in one network.

    The files must share their frozen network, which is checked by its hash. Needs the extra: pip install
    'mien[train]'.
    """
    from mien.training.finetune import merge as join

    if len(files) < 2:
        raise UsageError(f"merge takes two files or more, not {len(files)}")
    if out.resolve() in {f.resolve() for f in files}:
        raise UsageError(f"--out would replace {out} itself; name another file")
    names = join(files[0], files[1], out)
    for more in files[2:]:
        names = join(out, more, out)
    typer.echo(f"{out}: {', '.join(names)}")
