"""`mien verify`: verify two photos."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from mien.cli.command import READ
from mien.cli.common import _identity_reader, app
from mien.cli.options import MAX_PIXELS, MaxPixels, Score, Thorough, Threads, Threshold, VerifyFmr, Weights


@app.command(rich_help_panel=READ)
def verify(
    first: Annotated[str, typer.Argument(metavar="PHOTO", help="A photo; its largest face counts.")],
    second: Annotated[str, typer.Argument(metavar="OTHER", help="Another photo.")],
    fmr: VerifyFmr = None,
    threshold: Threshold = None,
    score: Score = None,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: Weights = None,
    threads: Threads = None,
) -> None:
    """Verify whether two photos show the same person.

    On a terminal it prints a sentence, into a pipe JSON.

    Exit codes: 0 same person; 1 different people; 2 wrong usage, or a photo that cannot be read or has no
    face.
    """
    from mien.recognition.verification import verify as compare

    reader = _identity_reader(weights, threads, score=score, thorough=thorough, max_pixels=max_pixels)
    found = compare(first, second, reader=reader, fmr=fmr, threshold=threshold)
    same, similarity, chosen = found.same, found.similarity, found.threshold
    faces = list(zip((first, second), found.counts, found.faces, strict=True))
    record = {"schema": 1, "same": same, "similarity": round(similarity, 4), **chosen.to_dict()}
    record["faces"] = [
        {"path": p, "faces": n, "box": [round(float(v), 2) for v in f.box]} for p, n, f in faces
    ]
    if sys.stdout.isatty():
        rates = "its error rates were not measured"
        if chosen.fmr is not None and chosen.fnmr is not None:
            rates = f"false match rate {chosen.fmr:.2g}, false non-match rate {chosen.fnmr:.0%}"
        typer.echo(
            f"{'same person' if same else 'not the same person'}: similarity {similarity:.3f}, threshold"
            f" {chosen.similarity:.3f}"
        )
        typer.echo(f"threshold from {chosen.source}: {rates}")
        for path, n, _ in faces:
            if n > 1:
                typer.echo(f"{path} shows {n} faces; the largest was taken")
    else:
        typer.echo(json.dumps(record, ensure_ascii=False))
    raise typer.Exit(0 if same else 1)
