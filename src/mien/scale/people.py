"""Identify a table of embeddings: exact search of each part in the entire gallery, by matrix products."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien.errors import UsageError
from mien.io.storage import explaining, is_uri, lance_options
from mien.recognition import records
from mien.recognition.gallery import Gallery
from mien.recognition.store import FACE, PlainStore
from mien.scale.engine import Progress, check, run
from mien.scale.places import Parts, arrow
from mien.types import Floats

BLOCK = 16 * 2**20  # similarities at a time, 64 MB
FACES = 65_536  # rows of a Lance table per piece of work


@dataclass(frozen=True, slots=True, eq=False)
class Index:
    """A gallery's rows as arrays, sorted by person, with corrections and without expired people.

    Attributes:
        vectors: (n, d) embeddings of length 1.
        first: (p,) index of each person's first row.
        correction: (n,) bool, whether a row is a correction.
        ids: ids of the p people.
        names: names of the p people.
    """

    vectors: Floats
    first: npt.NDArray[np.int64]
    correction: npt.NDArray[np.bool_]
    ids: tuple[str, ...]
    names: tuple[str, ...]

    @staticmethod
    def of(gallery: Gallery) -> Index:
        """The present content of a gallery."""
        store = gallery.store
        if isinstance(store, PlainStore):  # Row objects would take many times the memory of the arrays
            table = (
                store.table.search()
                .select(["person", "name", "kind", "until", "vector"])
                .limit(None)
                .to_arrow()
            )
            person, name, kind, until = (table[n].to_pylist() for n in ("person", "name", "kind", "until"))
            flat = (
                table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
                if len(table)
                else np.zeros(0)
            )
            vectors = flat.reshape(len(table), store.about["d"]).astype(np.float32, copy=False)
        else:
            rows = store.rows()
            person, name, kind, until = (
                [getattr(r, n) for r in rows] for n in ("person", "name", "kind", "until")
            )
            vectors = (
                np.stack([r.vector for r in rows]) if rows else np.zeros((0, store.about["d"]), np.float32)
            )
        day = records.today()
        kept = sorted(
            (i for i in range(len(person)) if not until[i] or until[i] >= day), key=lambda i: person[i]
        )
        first = [k for k, i in enumerate(kept) if k == 0 or person[kept[k - 1]] != person[i]]
        people = [kept[k] for k in first]
        return Index(
            vectors[kept],
            np.array(first, np.int64),
            np.array([kind[i] != FACE for i in kept], bool),
            tuple(person[i] for i in people),
            tuple(name[i] for i in people),
        )

    def nearest(self, faces: Floats, top: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """Find the nearest people of faces (m, d).

        Each person is represented by the nearest row; if that row is a correction, the person is excluded, as
        in `Gallery.search`.

        Returns:
            (m, top) numbers of people, -1 if there are no more, and (m, top) similarities, -inf for those.
        """
        m, p = len(faces), len(self.ids)
        best, near = np.full((m, top), -1, np.int64), np.full((m, top), -np.inf, np.float32)
        step = max(1, BLOCK // max(1, len(self.vectors)))
        for start in range(0, m if p else 0, step):
            s = faces[start : start + step] @ self.vectors.T
            mine = np.maximum.reduceat(np.where(self.correction, -np.inf, s), self.first, axis=1).astype(
                np.float32
            )
            if self.correction.any():
                against = np.maximum.reduceat(np.where(self.correction, s, -np.inf), self.first, axis=1)
                mine[np.round(against, 6) >= np.round(mine, 6)] = -np.inf
            take = min(top, p)
            few = (
                np.argpartition(-mine, take - 1, axis=1)[:, :take]
                if take < p
                else np.tile(np.arange(p), (len(mine), 1))
            )
            order = np.argsort(-np.take_along_axis(mine, few, 1), axis=1, kind="stable")
            few = np.take_along_axis(few, order, 1)
            sims = np.take_along_axis(mine, few, 1)
            best[start : start + step, :take], near[start : start + step, :take] = (
                np.where(np.isfinite(sims), few, -1),
                sims,
            )
        return best, near


def schema() -> Any:
    """The output's columns. `person` and `name` need the threshold; `candidate` is the nearest person."""
    pa = arrow()
    texts = [(n, pa.string()) for n in ("path", "person", "name", "candidate", "candidate_name")]
    numbers = [(n, pa.float32()) for n in ("similarity", "margin", "threshold")]
    return pa.schema([texts[0], ("face", pa.int32()), *texts[1:], *numbers])


class Worker:
    """Worker: identifies the faces of one part of a table and writes the results as one part."""

    def __init__(
        self,
        vectors: Floats,
        first: Any,
        correction: Any,
        names: str,
        table: str,
        out: str,
        column: str,
        model: str,
        threshold: float,
    ):
        ids, called = json.loads(names)
        self.index = Index(vectors, first, correction, tuple(ids), tuple(called))
        self.table, self.parts, self.column, self.model, self.threshold = (
            table,
            Parts(out),
            column,
            model,
            threshold,
        )

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        found = _piece(self.table, item, ["path", "face", "model", self.column])
        found = found.filter(found[self.column].is_valid())
        for name in set(found["model"].to_pylist()):
            if not self.model.startswith(str(name).partition(":")[2] or "?"):
                raise UsageError(
                    f"{item['name']} was read by {name}, the gallery by {self.model[:12]}: their faces cannot"
                    " be compared"
                )
        d = self.index.vectors.shape[1]
        flat = (
            found[self.column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
            if len(found)
            else np.zeros(0, np.float32)
        )
        if len(flat) != d * len(found):
            raise UsageError(
                f"{self.column!r} of {item['name']} has not {d} numbers per face as the gallery has; name"
                " another column"
            )
        best, near = self.index.nearest(flat.reshape(-1, d), 2)
        lines = []
        for path, face, (one, _), (s, next_) in zip(
            found["path"].to_pylist(), found["face"].to_pylist(), best, near, strict=True
        ):
            person, name = (self.index.ids[one], self.index.names[one]) if one >= 0 else (None, None)
            match = one >= 0 and s >= self.threshold
            lines.append({
                "path": path, "face": face,
                "person": person if match else None, "name": name if match else None,
                "candidate": person, "candidate_name": name, "similarity": float(s) if one >= 0 else None,
                "margin": float(s - next_) if np.isfinite(next_) else None, "threshold": self.threshold,
            })  # fmt: skip
        self.parts.write(item["out"], arrow().Table.from_pylist(lines, schema()))
        return {
            "faces": len(lines),
            "matched": sum(x["person"] is not None for x in lines),
            "pid": os.getpid(),
        }


def _lance(uri: str) -> Any:
    """The Lance table at FOLDER/NAME.lance."""
    folder, _, name = uri.rstrip("/").rpartition("/")
    with explaining(uri):
        return _connect(folder).open_table(name.removesuffix(".lance"))


def _connect(folder: str) -> Any:
    """The Lance database of a folder or URI."""
    from mien.recognition.store import libraries

    return libraries()[0].connect(folder or ".", storage_options=lance_options(folder, None))


def _piece(table: str, item: dict[str, Any], columns: list[str]) -> Any:
    if table.rstrip("/").endswith(".lance"):
        return _lance(table).search().select(columns).offset(item["first"]).limit(FACES).to_arrow()
    return Parts(table).read(item["name"], columns)


def _pieces(table: str) -> list[dict[str, Any]]:
    if table.rstrip("/").endswith(".lance"):
        there = _lance(table)
        return [
            {"name": f"{table}@{there.version}+{i}", "first": i} for i in range(0, there.count_rows(), FACES)
        ]
    return [{"name": name} for name in Parts(table).names()]


def identify(
    gallery: Gallery,
    table: str,
    out: str,
    *,
    column: str = "identity",
    engine: str = "local",
    workers: int | None = None,
    threads: int = 1,
) -> dict[str, int]:
    """Identify the faces of a table: one row per face with the best person, if any, and the margin.

    The results are those of `Gallery.search`, over all faces and without an index. The gallery is read once,
    into memory that the actors of one machine share. Parts that `out` already has are skipped; after the
    gallery has changed, give another `out`.

    Args:
        table: output of `photos.analyze`, or FOLDER/NAME.lance with the same columns.
        column: name of the embeddings' column.

    Returns:
        {"faces", "matched", "skipped"}; skipped: number of parts that existed already.
    """
    check(engine)
    table, out = (u if is_uri(u) else str(Path(u).absolute()) for u in (table, out))
    pieces, parts = _pieces(table), Parts(out)
    if not pieces:
        raise UsageError(
            f"{table} holds no Parquet parts; make them with: mien analyze ... --tasks identity --engine ray"
            f" --out {table}"
        )
    index, threshold, there = Index.of(gallery), gallery.threshold, set(parts.names(sweep=True))
    items = [p | {"out": parts.name(table, p["name"], f"{threshold:.6f}")} for p in pieces]
    left = [i for i in items if i["out"] not in there]
    total = {"faces": 0, "matched": 0, "skipped": len(items) - len(left)}
    progress = Progress(len(left), "parts")
    args = (index.vectors, index.first, index.correction, json.dumps([index.ids, index.names]))
    more = (table, out, column, str(gallery.store.about["model"]), threshold)
    for result in run(left, Worker, (*args, *more), engine=engine, workers=workers, threads=threads):
        progress.add(1)
        total = total | {k: total[k] + result[k] for k in ("faces", "matched")}
    return total


def to_lance(table: str, lance: str) -> int:
    """Copy Parquet parts to a new Lance table FOLDER/NAME.lance, and return the number of rows.

    Rows of photos without a face are left out, since LanceDB refuses rows without vectors.
    """
    folder, _, name = lance.rstrip("/").rpartition("/")
    parts = Parts(table)
    names = parts.names()
    if not names:
        raise UsageError(f"{table} holds no Parquet parts; give the --out of mien analyze --engine")

    def batches() -> Iterable[Any]:
        for part in map(parts.read, names):
            yield from part.filter(part["face"].is_valid()).to_batches()

    with explaining(lance):
        made = _connect(folder).create_table(
            name.removesuffix(".lance"), batches(), schema=parts.read(names[0]).schema
        )
        return int(made.count_rows())
