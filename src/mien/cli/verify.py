"""`mien verify`: do two photos show the same person?"""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from mien.cli.common import Fmr, Threads, Threshold, Weights, _identity_reader, app


@app.command()
def verify(
    first: Annotated[str, typer.Argument(help="A photo; its largest face counts.")],
    second: Annotated[str, typer.Argument(help="Another photo.")],
    fmr: Fmr = None,
    threshold: Threshold = None,
    threads: Threads = None,
    weights: Weights = None,
) -> None:
    """Do two photos show the same person? A sentence on a terminal, JSON into a pipe.

    Exit codes: 0 the same person, 1 not, 2 wrong usage, or a photo that cannot be read or shows no face.
    """
    from mien.recognition.verification import verify as compare

    found = compare(first, second, reader=_identity_reader(weights, threads), fmr=fmr, threshold=threshold)
    same, similarity, cut = found.same, found.similarity, found.threshold
    faces = list(zip((first, second), found.counts, found.faces, strict=True))
    record = {"schema": 1, "same": same, "similarity": round(similarity, 4), **cut.to_dict()}
    record["faces"] = [
        {"path": p, "faces": n, "box": [round(float(v), 2) for v in f.box]} for p, n, f in faces
    ]
    if sys.stdout.isatty():
        rate = "how often it errs was not measured"
        if cut.fmr is not None and cut.fnmr is not None:
            rate = f"{cut.fmr:.2g} of strangers' pairs reach it, and {cut.fnmr:.0%} of one person's do not"
        typer.echo(
            f"{'same person' if same else 'not the same person'}: similarity {similarity:.3f}, asked for"
            f" {cut.similarity:.3f}"
        )
        typer.echo(f"the threshold is from {cut.source}; {rate}")
        for path, n, _ in faces:
            if n > 1:
                typer.echo(f"{path} shows {n} faces; the largest was taken")
    else:
        typer.echo(json.dumps(record, ensure_ascii=False))
    raise typer.Exit(0 if same else 1)
