"""Writers of records: JSON Lines, a JSON array, CSV and Parquet. CSV and Parquet have one row per face.

A killed run leaves its finished records. JSON Lines and CSV are flushed after each photo, and `resume` drops
an incomplete last photo. A Parquet file is readable only when its end is written, so records are collected in
FILE.parquet.part (JSON Lines), and FILE.parquet is written from them atomically when the run ends or is
interrupted; `resume` reads the collected ones.
"""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TextIO

from mien.errors import UsageError
from mien.io.storage import is_uri
from mien.tasks import Task, described
from mien.tasks.columns import Column, json_column, point_column, value_at

Record = Mapping[str, Any]
Head = Sequence[tuple[str, type]]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
ROWS_SUFFIXES = (".jsonl", ".csv", ".parquet")
ROW_GROUP = 512  # photos


PHOTO: tuple[tuple[str, type], ...] = (
    ("path", str),
    ("width", int),
    ("height", int),
    ("model", str),
    ("error", str),
    ("faces", int),
    ("face", int),
)


def columns(requested: Iterable[str], tasks: Iterable[Task[Any]] = ()) -> list[Column]:
    """The columns of a face for the requested tasks, by name (`Reader.requested`); docs/cli.md lists them.

    Args:
        requested: names.
        tasks: of the network. A task that neither these nor the catalogue have is one text column of JSON.
    """
    own = tuple(tasks)
    out = [Column(n, float, lambda face, i=i: face["box"][i]) for i, n in enumerate(("x1", "y1", "x2", "y2"))]  # type: ignore[misc]
    out += [Column("score", float, value_at("score")), point_column("points5", 5)]
    for name in requested:
        if name == "points5":  # the column of this name is the detector's
            out.append(point_column("points5_network", 5))
        else:
            known = described(name, own)
            out += [json_column(name)] if known is None else known.columns()
    return out


def rows(record: Record, of_face: Sequence[Column]) -> list[dict[str, Any]]:
    """A photo's record -> one row per face; without faces or with an error, one row with empty `face`."""
    model = record.get("model")
    head = {
        "path": plain(record["path"]),
        "width": record.get("width"),
        "height": record.get("height"),
        "model": f"{model['name']}:{model['sha256'][:12]}" if model else None,
        "error": record["error"]["code"] if "error" in record else None,
        "faces": len(record.get("faces", ())),
    }
    if not record.get("faces"):
        return [head | {"face": None} | {c.name: None for c in of_face}]
    return [
        head | {"face": i} | {c.name: c.get(face) for c in of_face}
        for i, face in enumerate(record["faces"], 1)
    ]


def plain(path: str | None) -> str | None:
    r"""A path as text for UTF-8 files: bytes that are not Unicode are escaped, as \udcff."""
    return path if path is None else path.encode("utf-8", "backslashreplace").decode()


def json_line(record: Record) -> str:
    """One line of JSON.

    A file name that is not Unicode is escaped, and parsing the line restores it.
    """
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(record, allow_nan=False)
    return text


# --- Writers


class RecordWriter(ABC):
    """Writes records one by one; `close`, or the end of a `with`, finishes the file."""

    @abstractmethod
    def add(self, record: Record) -> None:
        """Write a record."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Writer(RecordWriter):
    """JSON Lines to an open file.

    Attributes:
        done: paths (as `plain` returns them) in the output before this run.
    """

    def __init__(self, file: TextIO):
        self.file, self.done = file, frozenset[str]()

    def add(self, record: Record) -> None:
        """One record; it is in the file when this returns."""
        self.file.write(json_line(record) + "\n")
        self.file.flush()

    def close(self) -> None:
        if self.file is not sys.stdout:
            self.file.close()


class JsonLines(Writer):
    """One record per line."""

    def __init__(self, path: Path, model: str = "", resume: bool = False):
        done = _complete_lines(path, model) if resume and path.exists() else set()
        super().__init__(path.open("a" if resume else "w", encoding="utf-8"))
        self.done = frozenset(done)


class JsonArray(Writer):
    """All records in one array."""

    count = 0

    def add(self, record: Record) -> None:
        self.file.write(("[\n" if self.count == 0 else ",\n") + json_line(record))
        self.file.flush()
        self.count += 1

    def close(self) -> None:
        self.file.write("\n]\n" if self.count else "[]\n")
        super().close()


class CsvRows(Writer):
    """One row per record, RFC 4180 quoting, UTF-8; an empty cell where there is no value.

    Args:
        file: open for writing, without newline translation.
        head: (name, type) of the first columns, which are members of a record.
        columns: the others.
        names: write a line of names first.
    """

    def __init__(self, file: TextIO, head: Head, columns: Sequence[Column], *, names: bool = True):
        super().__init__(file)
        self.head, self.columns = head, columns
        if names:
            self._write([csv_names(head, columns)])

    def _write(self, lines: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text).writerows(lines)
        self.file.write(text.getvalue())
        self.file.flush()

    def add(self, record: Record) -> None:
        self._write([self._cells(row) for row in self._rows(record)])

    def _rows(self, record: Record) -> list[dict[str, Any]]:
        return [row_of(record, self.head, self.columns)]

    def _cells(self, row: Record) -> list[Any]:
        out = [row[n] for n, _ in self.head]
        for c in self.columns:
            out += (row[c.name] or [None] * len(c.parts)) if c.parts else [row[c.name]]
        return out


class Csv(CsvRows):
    """One row per face of a photo, see `CsvRows`."""

    def __init__(self, path: Path, of_face: Sequence[Column], model: str = "", resume: bool = False):
        begun = resume and path.exists() and path.stat().st_size > 0
        done = _complete_rows(path, csv_names(PHOTO, of_face), model) if begun else None
        file = path.open("w" if done is None else "a", encoding="utf-8", newline="")
        super().__init__(file, PHOTO, of_face, names=done is None)
        self.done = frozenset(done or ())

    def _rows(self, record: Record) -> list[dict[str, Any]]:
        return rows(record, self.columns)


def csv_names(head: Head, columns: Sequence[Column]) -> list[str]:
    """The first line of a CSV file."""
    names = [n for n, _ in head]
    for c in columns:
        names += [f"{c.name}_{p}" for p in c.parts] or [c.name]
    return names


def row_of(record: Record, head: Head, columns: Sequence[Column]) -> dict[str, Any]:
    """A record in the flat form."""
    return {n: record[n] for n, _ in head} | {c.name: c.get(record) for c in columns}


class Parquet(Writer):
    """One row per face; list columns (points, embeddings) are fixed-size lists of float32.

    See the module's docstring.
    """

    def __init__(self, path: Path, of_face: Sequence[Column], model: str = "", resume: bool = False):
        self.path, self.of_face, self.part = path, of_face, path.with_name(path.name + ".part")
        try:
            self.schema = arrow_schema(of_face)
        except ImportError as e:
            raise UsageError("Parquet needs pyarrow: pip install 'mien[parquet]'") from e
        self.old = path if resume and path.exists() else None
        done = set[str]()
        if self.old:
            import pyarrow.parquet as pq

            table = pq.ParquetFile(self.old)
            if table.schema_arrow.names != self.schema.names:
                raise _other_columns(path)
            for group in range(table.num_row_groups):
                part = table.read_row_group(group, columns=["path", "model"])
                done |= {p for p in part["path"].to_pylist() if p}
                for name in set(part["model"].to_pylist()) - {None}:
                    _same_model(path, name, model)
        elif path.exists():
            path.unlink()  # an old file must not be mistaken for the result of this run
        waiting = _complete_lines(self.part, model) if resume and self.part.exists() else set[str]()
        super().__init__(self.part.open("a" if resume else "w", encoding="utf-8"))
        self.in_old, self.done = frozenset(done), frozenset(done | waiting)

    def close(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().close()
        unfinished = self.path.with_name(self.path.name + ".tmp.part")
        with pq.ParquetWriter(unfinished, self.schema, compression="zstd") as out:
            if self.old:
                before = pq.ParquetFile(self.old)
                for group in range(before.num_row_groups):
                    out.write_table(before.read_row_group(group).cast(self.schema))
            for records in _chunks(self._waiting(), ROW_GROUP):
                lines = [row for record in records for row in rows(record, self.of_face)]
                out.write_table(pa.Table.from_pylist(lines, schema=self.schema))
        os.replace(unfinished, self.path)
        self.part.unlink()

    def _waiting(self) -> Iterator[Record]:
        with self.part.open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                if plain(record["path"]) not in self.in_old:  # killed between the two last lines of `close`
                    yield record


class ParquetRows(RecordWriter):
    """One row per record, written in groups; the file can be read when it is closed.

    Args:
        path: FILE.parquet.
        head: (name, type) of the first columns, which are members of a record; numbers of 64 bits.
        columns: the others.
    """

    GROUP = 1024  # records per row group, and the maximum in memory

    def __init__(self, path: Path, head: Head, columns: Sequence[Column]):
        import pyarrow.parquet as pq

        self.head, self.columns, self.waiting = head, columns, list[dict[str, Any]]()
        self.parquet = pq.ParquetWriter(path, arrow_schema(columns, head, wide=True))

    def add(self, record: Record) -> None:
        self.waiting.append(row_of(record, self.head, self.columns))
        if len(self.waiting) >= self.GROUP:
            self._group()

    def _group(self) -> None:
        import pyarrow as pa

        if self.waiting:
            self.parquet.write_table(pa.Table.from_pylist(self.waiting, self.parquet.schema))
            self.waiting = []

    def close(self) -> None:
        self._group()
        self.parquet.close()


def arrow_schema(columns: Sequence[Column], head: Head = PHOTO, *, wide: bool = False) -> Any:
    """The Parquet file's pyarrow schema; wide: numbers of the head have 64 bits."""
    import pyarrow as pa

    of = {str: pa.string(), int: pa.int32(), float: pa.float32()}
    of_head = of | {int: pa.int64(), float: pa.float64()} if wide else of
    fields = [(n, of_head[kind]) for n, kind in head]
    fields += [(c.name, pa.list_(pa.float32(), len(c.parts)) if c.parts else of[c.kind]) for c in columns]
    return pa.schema(fields)


def _chunks(items: Iterator[Record], n: int) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == n:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def standard_output() -> TextIO:
    """Stdout, for records.

    Raises:
        UsageError: the process was started without one.
    """
    if sys.stdout is None or getattr(sys.stdout, "missing", False):
        raise UsageError("the records cannot be written: stdout is closed; give --out FILE")
    return sys.stdout


def open_output(
    where: str | None,
    requested: Sequence[str],
    *,
    tasks: Iterable[Task[Any]] = (),
    model: str = "",
    resume: bool = False,
) -> Writer:
    """The writer for a file's extension.

    Args:
        where: FILE.jsonl, FILE.json, FILE.csv or FILE.parquet; "-" or None: JSON Lines on stdout.
        requested: answers in the records, `Reader.requested`.
        tasks: of the network, see `columns`.
        model: "name:first 12 of sha256"; a resumed file of another model is refused.
        resume: keep the records of the file; `done` names the photos in it.

    Raises:
        UsageError: another extension, no pyarrow, or a file of other columns or another model.
    """
    if where in (None, "-"):
        if resume:
            raise UsageError("--resume continues a file; give --out FILE.jsonl, FILE.csv or FILE.parquet")
        return Writer(standard_output())
    _check_local(str(where))
    path = Path(where or "")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"--out takes FILE.jsonl, FILE.json, FILE.csv, FILE.parquet or -, not {where!r}")
    if suffix == ".json" and resume:
        raise UsageError("--resume cannot continue a JSON array; write FILE.jsonl, FILE.csv or FILE.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".json":
        return JsonArray(path.open("w", encoding="utf-8"))
    if suffix == ".jsonl":
        return JsonLines(path, model, resume)
    return (Csv if suffix == ".csv" else Parquet)(path, columns(requested, tasks), model, resume)


def rows_kind(where: str, option: str = "--out") -> str:
    """The format of a file of rows: ".jsonl", ".csv" or ".parquet"; "-" is JSON Lines on stdout.

    Raises:
        UsageError: another extension, or Parquet without pyarrow.
    """
    kind = ".jsonl" if where == "-" else Path(where).suffix.lower()
    if kind not in ROWS_SUFFIXES:
        raise UsageError(f"{option} takes FILE.jsonl, FILE.csv, FILE.parquet or -, not {where!r}")
    if kind == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise UsageError(
                f"Parquet needs pyarrow ({error}); install it with: pip install 'mien[parquet]'"
            ) from error
    return kind


def _check_local(where: str) -> None:
    """Refuse a URI, of which a path would make a folder on this machine.

    Raises:
        UsageError: it is one.
    """
    if is_uri(where):
        raise UsageError(
            f"{where!r} is not a file of this machine; mien analyze writes a table into an object store with"
            " --engine local or ray and --out FOLDER"
        )


def open_rows(where: str, head: Head, columns: Sequence[Column]) -> RecordWriter:
    """A writer for records other than photos, such as the faces or the tracks of a video.

    JSON Lines contain the records as they are; CSV and Parquet are flat. A stopped run leaves a readable
    file.

    Args:
        where: FILE.jsonl, FILE.csv, FILE.parquet, or "-": JSON Lines on stdout.
        head: (name, type) of the first columns, which are members of a record.
        columns: the others.

    Raises:
        UsageError: see `rows_kind`.
    """
    kind, path = rows_kind(where), Path(where)
    _check_local(where)
    if where == "-":
        return Writer(standard_output())
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == ".parquet":
        return ParquetRows(path, head, columns)
    file = path.open("w", encoding="utf-8", newline="")
    return CsvRows(file, head, columns) if kind == ".csv" else Writer(file)


# --- Resume


def _other_columns(path: Path) -> UsageError:
    return UsageError(
        f"{str(path)!r} has other columns than this run writes; use the same --tasks and weights, or another"
        " file"
    )


def _same_model(path: Path, found: str, model: str) -> None:
    if model and found != model:
        raise UsageError(
            f"{str(path)!r} was written by {found}, and this run has {model}; use the same weights,"
            " or another file"
        )


def _complete_lines(path: Path, model: str) -> set[str]:
    """Remove an incomplete last line from a JSON Lines file, and return the paths of the others."""
    done, good = set[str](), 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                record = json.loads(line)
                done.add(str(plain(record["path"])))
            except (ValueError, KeyError, TypeError) as e:
                raise UsageError(
                    f"line {number} of {str(path)!r} is not a record of mien; --resume cannot continue this"
                    " file"
                ) from e
            if record.get("model"):
                _same_model(path, f"{record['model']['name']}:{record['model']['sha256'][:12]}", model)
            good += len(line)
    os.truncate(path, good)
    return done


def _complete_rows(path: Path, names: list[str], model: str) -> set[str]:
    """Remove an incomplete last photo from a CSV file, and return the paths of the others."""
    done = set[str]()
    with path.open("rb") as raw:
        raw.seek(-1, os.SEEK_END)
        ended = raw.read() == b"\n"
    copy = path.with_name(path.name + ".part")
    with (
        path.open(encoding="utf-8", newline="", errors="replace") as file,
        copy.open("w", encoding="utf-8", newline="") as out,
    ):
        lines, write = csv.reader(file), csv.writer(out).writerow
        if next(lines, None) != names:
            copy.unlink()
            raise _other_columns(path)
        write(names)
        group: list[list[str]] = []
        for line in lines:
            if group and _complete(group, names):
                _keep(group, path, model, done, write)
                group = []
            group.append(line)
            if len(line) != len(names):
                break
        if next(lines, None) is not None:
            copy.unlink()
            raise UsageError(
                f"line {lines.line_num} of {str(path)!r} is not a row of this table; --resume cannot continue"
                " this file"
            )
        if group and ended and _complete(group, names):
            _keep(group, path, model, done, write)
    os.replace(copy, path)
    return done


def _complete(group: list[list[str]], names: list[str]) -> bool:
    return all(len(line) == len(names) for line in group) and len(group) == max(
        1, int(group[0][names.index("faces")])
    )


def _keep(
    group: list[list[str]], path: Path, model: str, done: set[str], write: Callable[[list[str]], Any]
) -> None:
    found = group[0][[n for n, _ in PHOTO].index("model")]
    if found:
        _same_model(path, found, model)
    done.add(group[0][0])
    for line in group:
        write(line)
