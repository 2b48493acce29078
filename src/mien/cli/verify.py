"""`mien verify`: do two photos show the same person?"""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from mien.cli.common import Fmr, Threads, Threshold, Weights, _identity_reader, app
from mien.errors import UsageError


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
    from mien.recognition.verification import cut_for, identity_of

    reader = _identity_reader(weights, threads)
    cut = cut_for(reader.model, fmr=fmr, threshold=threshold)
    faces = []
    for path in (first, second):
        reading = reader(path)
        if not reading:
            raise UsageError(f"no face was found in {path!r}; try a larger or a clearer photo")
        faces.append((path, len(reading), reading[0]))
    similarity = float(identity_of(faces[0][2]) @ identity_of(faces[1][2]))
    same = similarity >= cut.similarity
    record = {"schema": 1, "same": same, "similarity": round(similarity, 4), **cut.to_dict()}
    record["faces"] = [{"path": p, "faces": n, "box": [round(float(v), 2) for v in f.box]} for p, n, f in faces]
    if sys.stdout.isatty():
        rate = "how often it errs was not measured"
        if cut.fmr is not None and cut.fnmr is not None:
            rate = f"{cut.fmr:.2g} of strangers' pairs reach it, and {cut.fnmr:.0%} of one person's do not"
        typer.echo(f"{'same person' if same else 'not the same person'}: similarity {similarity:.3f}, asked for {cut.similarity:.3f}")
        typer.echo(f"the threshold is from {cut.source}; {rate}")
        for path, n, _ in faces:
            if n > 1:
                typer.echo(f"{path} shows {n} faces; the largest was taken")
    else:
        typer.echo(json.dumps(record, ensure_ascii=False))
    raise typer.Exit(0 if same else 1)
