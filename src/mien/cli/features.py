"""`mien features`: the frozen features of each face as a table, for other learners."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from mien.cli.command import READ, note
from mien.cli.common import INTERRUPTED, app, photos_of
from mien.cli.options import (
    MAX_PIXELS,
    NETWORK,
    Batch,
    MaxPixels,
    OnnxWeights,
    PhotosOrStdin,
    Score,
    Thorough,
    Threads,
)
from mien.cli.streams import progress
from mien.errors import UsageError

HEAD = (("path", str), ("face", int), ("model", str), ("level", int))


@app.command(rich_help_panel=READ)
def features(
    photos: PhotosOrStdin,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Write one row per face: FILE.parquet, .npz, .csv or .jsonl; - writes JSON Lines to stdout.",
        ),
    ],
    level: Annotated[
        int | None,
        typer.Option(
            "--level",
            min=1,
            metavar="STRIDE",
            help="Map of the encoder, by its stride in pixels: 2, 4, 8, 16 or 32 in the embedded network.",
            show_default="the last map",
            rich_help_panel=NETWORK,
        ),
    ] = None,
    score: Score = None,
    thorough: Thorough = False,
    max_pixels: MaxPixels = MAX_PIXELS,
    weights: OnnxWeights = None,
    batch: Batch = 8,
    threads: Threads = None,
) -> None:
    """Write the frozen features of each face as a table.

    A feature vector is the spatial mean of an encoder map: 320 numbers for the last map of the embedded
    network. Use them to train a classifier of your own.
    """
    from mien.inference.encoder_features import FeatureReader
    from mien.inference.weights_file import weights_id

    _check_name(out)
    reader = FeatureReader(
        weights,
        level=level,
        threads=threads,
        batch=batch,
        max_pixels=max_pixels,
        score=score,
        thorough=thorough,
    )
    found = photos_of(photos)
    output = _open(out, reader.model.dim)
    name = str(weights_id(reader.model))
    faces = failed = count = 0
    try:
        with progress(len(found)) as step:
            read = reader.stream(source for _, source in found)
            for (path, _), (reading, rows) in zip(found, read, strict=True):
                for record in _records(path, reading, rows, name, reader.model.level):
                    output.add(record)
                faces, failed, count = faces + len(rows), failed + (reading.error is not None), count + 1
                step()
    except KeyboardInterrupt:
        typer.echo(f"mien: interrupted; the faces of {count} of {len(found)} photos are saved", err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        output.close()
    about = f"{reader.model.dim} numbers per face, level {reader.model.level}"
    note(f"{faces} faces of {count - failed} photos; {about}")
    raise typer.Exit(1 if failed else 0)


def _records(path: str, reading: Any, rows: Any, model: str, level: int) -> Iterator[dict[str, Any]]:
    """One record per face of a photo; a photo that was not read has none."""
    from mien.io.writers import plain

    for number, (face, values) in enumerate(zip(reading, rows, strict=True), 1):
        yield {
            "path": plain(path),
            "face": number,
            "model": model,
            "level": level,
            "box": [round(float(v), 2) for v in face.box],
            "score": round(float(face.score), 4),
            "features": values.tolist(),
        }


class NpzArrays:
    """Records as one compressed NumPy file, which is written at the end: an array per field."""

    def __init__(self, path: Path, dim: int):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.dim, self.records = path, dim, list[dict[str, Any]]()

    def add(self, record: dict[str, Any]) -> None:
        """Keep a record; its numbers as float32."""
        import numpy as np

        self.records.append(record | {"features": np.asarray(record["features"], np.float32)})

    def close(self) -> None:
        """Write the file."""
        import numpy as np

        n = len(self.records)

        def column(name: str, kind: Any, *shape: int) -> Any:
            return np.asarray([r[name] for r in self.records], kind).reshape(n, *shape)

        with self.path.open("wb") as file:
            np.savez_compressed(
                file,
                path=column("path", np.str_),
                face=column("face", np.int32),
                model=column("model", np.str_),
                level=column("level", np.int32),
                box=column("box", np.float32, 4),
                score=column("score", np.float32),
                features=column("features", np.float32, self.dim),
            )


def _check_name(out: str) -> None:
    """Refuse an unknown format before any weights are loaded."""
    from mien.io.writers import rows_kind

    suffix = Path(out).suffix.lower()
    if out != "-" and suffix not in (".parquet", ".npz", ".csv", ".jsonl"):
        raise UsageError(f"--out takes FILE.parquet, FILE.npz, FILE.csv, FILE.jsonl or -, not {out!r}")
    if suffix != ".npz":
        rows_kind(out)


def _open(out: str, dim: int) -> Any:
    """A writer of one row per face."""
    from mien.io.writers import open_rows
    from mien.tasks.columns import Column, value_at

    if Path(out).suffix.lower() == ".npz":
        return NpzArrays(Path(out), dim)
    corners = [Column(n, float, lambda r, i=i: r["box"][i]) for i, n in enumerate(("x1", "y1", "x2", "y2"))]  # type: ignore[misc]
    values = Column("features", float, value_at("features"), tuple(map(str, range(dim))))
    return open_rows(out, HEAD, [*corners, Column("score", float, value_at("score")), values])
