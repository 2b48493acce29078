"""Rows on disk: LanceDB tables, plain or sealed.

A plain table has one column per field and is searched by LanceDB, with an index beyond `INDEX_ROWS`. A sealed
table holds an opaque id and one AES-GCM ciphertext per row, so it is decrypted and searched in memory.
Several processes may read a table while one writes.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mien.errors import MienError, UsageError
from mien.io.storage import explaining, is_uri, lance_options
from mien.types import Floats

FORMAT = "mien-gallery-1"
TABLE = "faces"
INDEX_ROWS = 20_000  # fewer are searched faster than a photo is read, see docs/gallery.md
NPROBES = 512  # searched cells: all of them up to a million rows, so that the result is exact
CELL = 2_000  # rows per cell
_KEPT = timedelta(hours=1)  # how long readers may use an old version, unless something was erased
_TEXTS = ("id", "person", "name", "kind", "note", "until", "added")
FACE, CORRECTION = "face", "not"  # kinds of rows as stored
_log = logging.getLogger(__name__)


class ErasureFailed(MienError):
    """Erased data is still on the disk."""

    code = "not_erased"


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no plain equality
class Row:
    """One enrolled face, or one correction.

    Attributes:
        id: opaque and stable.
        person: the person's id, opaque and stable.
        name: the person's name.
        kind: `FACE`, or `CORRECTION`: "this is not that person".
        vector: (d,) float32 of length 1; (0,) if it was not requested.
        thumbnail: JPEG bytes, or empty.
        note: the consent note.
        until: last day of storage, "2027-01-31", or "" for none.
        added: UTC, ISO 8601.
    """

    id: str
    person: str
    name: str
    kind: str
    note: str
    until: str
    added: str
    vector: Floats = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)
    thumbnail: bytes = field(default=b"", repr=False)


def libraries() -> tuple[Any, Any]:
    """LanceDB and Arrow, imported only when a gallery is opened.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        import lancedb
        import pyarrow
    except ImportError as e:
        raise UsageError(
            f"galleries need an extra that is not installed ({e.name}); run: pip install 'mien[gallery]'"
        ) from e
    return lancedb, pyarrow


def _cipher(key: str | os.PathLike[str]) -> Any:
    """AES-256-GCM with the key from a file."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as e:
        raise UsageError(
            f"sealed galleries need an extra that is not installed ({e.name}); run: pip install"
            " 'mien[gallery]'"
        ) from e
    try:
        raw = bytes.fromhex(Path(key).read_text(encoding="ascii").strip())
    except OSError as e:
        raise UsageError(
            f"cannot read the key file {os.fspath(key)}: {e.strerror}; make one with: mien gallery key --out"
            " FILE"
        ) from e
    except ValueError as e:
        raise UsageError(
            f"{os.fspath(key)} is not a key file: it must hold 64 hexadecimal digits; make one with: mien"
            " gallery key --out FILE"
        ) from e
    if len(raw) != 32:
        raise UsageError(
            f"{os.fspath(key)} is not a key file: 32 bytes are needed, it holds {len(raw)}; make one with:"
            " mien gallery key --out FILE"
        )
    return AESGCM(raw)


def new_key(path: str | os.PathLike[str]) -> None:
    """Write a new random key to a file that only its owner may read.

    Raises:
        UsageError: the file exists. An overwritten key would make its gallery unreadable.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as e:
        raise UsageError(f"{os.fspath(path)} exists; a key is never overwritten, name another file") from e
    except OSError as e:
        raise UsageError(f"cannot write the key file {os.fspath(path)}: {e.strerror}") from e
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32) + "\n")


class Store(Protocol):
    """The table operations that a gallery needs."""

    about: dict[str, Any]

    def add(self, rows: Sequence[Row]) -> None: ...
    def rows(self, column: str = "", values: Iterable[str] = (), *, full: bool = True) -> list[Row]: ...
    def nearest(self, vector: Floats, k: int) -> list[tuple[Row, float]]: ...
    def replace(self, rows: Sequence[Row]) -> None: ...
    def remove(self, ids: Sequence[str]) -> None: ...
    def count(self) -> int: ...
    def stats(self) -> dict[str, Any]: ...


def folder_of(uri: str) -> Path | None:
    """The table's folder where the URI is a path of this machine's file system."""
    return None if is_uri(uri) else Path(uri) / f"{TABLE}.lance"


def open_store(uri: str, key: str | os.PathLike[str] | None, options: dict[str, str] | None) -> Store | None:
    """The table at a URI; None if there is none yet.

    Raises:
        UsageError: it is not a gallery, its key is missing or wrong, or a key was given for a plain gallery.
        StorageError: an object store cannot be reached, or refuses the credentials.
    """
    lancedb, _ = libraries()
    folder = folder_of(uri)
    if folder is not None and not folder.is_dir():
        return None
    # every read checks for a newer version first: another process may have erased a person
    with explaining(uri):
        db = lancedb.connect(
            uri, read_consistency_interval=timedelta(0), storage_options=lance_options(uri, options)
        )
        if folder is None and TABLE not in db.list_tables().tables:
            return None
        table = db.open_table(TABLE)
    about = json.loads((table.schema.metadata or {}).get(b"mien", b"{}"))
    if about.get("format") != FORMAT:
        raise UsageError(f"{uri} holds a LanceDB table that is not a {FORMAT}; name another folder")
    if not about["sealed"]:
        if key is not None:
            raise UsageError(
                f"the gallery {uri} was made without a key; open it without one, or start a new one in"
                " another folder"
            )
        return PlainStore(uri, db, table, about)
    if key is None:
        raise UsageError(
            f"the gallery {uri} is sealed; give the key file it was made with (key=, --key FILE)"
        )
    return SealedStore(uri, db, table, about, _cipher(key))


def new_store(
    uri: str, key: str | os.PathLike[str] | None, options: dict[str, str] | None, about: dict[str, Any]
) -> Store:
    """Create an empty table for the network that `about` describes: model, task, view, d."""
    lancedb, pa = libraries()
    about = {"format": FORMAT, "sealed": key is not None} | about
    cipher = None
    if key is None:
        columns = [pa.field(n, pa.string(), False) for n in _TEXTS]
        columns += [
            pa.field("vector", pa.list_(pa.float32(), about["d"]), False),
            pa.field("thumbnail", pa.binary(), False),
        ]
    else:
        cipher = _cipher(key)
        columns = [pa.field("id", pa.string(), False), pa.field("box", pa.binary(), False)]
        about["check"] = _seal(cipher, "check", b"mien").hex()
    schema = pa.schema(columns, metadata={b"mien": json.dumps(about).encode()})
    with explaining(uri):
        db = lancedb.connect(
            uri, read_consistency_interval=timedelta(0), storage_options=lance_options(uri, options)
        )
        table = db.create_table(TABLE, schema=schema)
    return PlainStore(uri, db, table, about) if cipher is None else SealedStore(uri, db, table, about, cipher)


def _seal(cipher: Any, name: str, data: bytes) -> bytes:
    nonce = secrets.token_bytes(12)
    return nonce + bytes(
        cipher.encrypt(nonce, data, name.encode())
    )  # the id is authenticated, so that ciphertexts cannot be swapped


class _Table:
    """The common part of both kinds of table."""

    def __init__(self, uri: str, db: Any, table: Any, about: dict[str, Any]):
        self.uri, self.db, self.table, self.about = uri, db, table, about

    def count(self) -> int:
        return int(self.table.count_rows())

    def remove(self, ids: Sequence[str]) -> None:
        """Remove rows so that no file contains them.

        A deleted LanceDB row stays in its file until compaction, and in every index over it. So the remaining
        rows are written again without an index, all older files are deleted, and the index is rebuilt.

        Raises:
            ErasureFailed: an older file or version is still there.
        """
        with explaining(self.uri):
            self._remove(ids)

    def _remove(self, ids: Sequence[str]) -> None:
        before = self._files()
        for part in _parts(list(ids)):
            self.table.delete(
                f"id IN ({_quoted(part)})"
            )  # ids reveal nothing about a person; they are in the log for a moment
        left = self.table.search().limit(None).to_batches(8192)
        self.table = self.db.create_table(TABLE, left, schema=self.table.schema, mode="overwrite")
        time.sleep(0.01)  # versions are distinguished by milliseconds
        self.table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)
        stale = sorted(str(p) for p in self._files() & before)
        if stale or len(self.table.list_versions()) != 1:
            raise ErasureFailed(
                f"an older version of {self.uri} is still there ({', '.join(stale)}); close its other writers"
                " and forget again"
            )
        self.tend()

    def _read(self, call: Callable[[], Any]) -> Any:
        """Read, and read again if another process has erased the version in the meantime."""
        try:
            return call()
        except (RuntimeError, OSError, ValueError) as e:
            _log.info("reading %s again: %s", self.uri, e)
            with explaining(self.uri):
                self.table.checkout_latest()
                return call()

    def _files(self) -> set[Path]:
        """Files of this table; none if it is not on a file system.

        The version hint is left out: it is a number that is overwritten.
        """
        folder = folder_of(self.uri)
        found = folder.rglob("*") if folder else ()
        return {p for p in found if p.is_file() and p.name != "latest_version_hint.json"}

    def tend(self) -> None:
        """Compact small files after every 32nd write."""
        if self.table.version % 32 == 0:
            self.table.optimize(cleanup_older_than=_KEPT)

    def stats(self) -> dict[str, Any]:
        files = self._files()
        return {
            "bytes": sum(p.stat().st_size for p in files) if files else None,
            "versions": len(self.table.list_versions()),
        }


class PlainStore(_Table):
    """One column per field, searched by LanceDB."""

    def add(self, rows: Sequence[Row]) -> None:
        with explaining(self.uri):
            self.table.add(self._arrow(rows))
            self.tend()

    def _arrow(self, rows: Sequence[Row]) -> Any:
        _, pa = libraries()
        vectors = np.stack([r.vector for r in rows]).astype(np.float32)
        columns = [pa.array([getattr(r, n) for r in rows], pa.string()) for n in _TEXTS]
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), self.about["d"]))
        columns.append(pa.array([r.thumbnail for r in rows], pa.binary()))
        return pa.table(columns, schema=self.table.schema)

    def rows(self, column: str = "", values: Iterable[str] = (), *, full: bool = True) -> list[Row]:
        """Rows whose column has one of the values, or all rows.

        Args:
            column: a column's name; "" for all rows.
            values: wanted values of that column.
            full: read vectors and thumbnails too.
        """
        names = [*_TEXTS, "vector", "thumbnail"] if full else list(_TEXTS)
        conditions = [f"{column} IN ({_quoted(part)})" for part in _parts(list(values))] if column else [""]
        found: list[Row] = []
        for condition in conditions:
            found += _from_arrow(self._read(functools.partial(self._select, names, condition)))
        return found

    def _select(self, names: list[str], condition: str) -> Any:
        search = self.table.search().select(names).limit(None)
        return (search.where(condition) if condition else search).to_arrow()

    def nearest(self, vector: Floats, k: int) -> list[tuple[Row, float]]:
        """The k nearest rows and their similarities, nearest first, without thumbnails."""

        def search() -> Any:
            found = (
                self.table.search(vector, vector_column_name="vector")
                .distance_type("cosine")
                .nprobes(NPROBES)
            )
            return found.select([*_TEXTS, "vector", "_distance"]).limit(k).to_arrow()

        rows = list(_from_arrow(self._read(search)))
        return ranked(rows, np.stack([r.vector for r in rows]) @ vector) if rows else []

    def replace(self, rows: Sequence[Row]) -> None:
        with explaining(self.uri):
            self.table.merge_insert("id").when_matched_update_all().execute(self._arrow(rows))
            self.tend()

    def tend(self) -> None:
        """Compact, and build the index if there are many rows, or many outside the index."""
        super().tend()
        rows = self.count()
        if rows < INDEX_ROWS:
            return
        indices = self.table.list_indices()
        if not indices:
            build_index(self.table, rows)
        elif self.table.index_stats(indices[0].name).num_unindexed_rows > INDEX_ROWS // 4:
            self.table.optimize(cleanup_older_than=_KEPT)

    def stats(self) -> dict[str, Any]:
        return super().stats() | {"indexed": bool(self.table.list_indices())}


def build_index(table: Any, rows: int) -> None:
    """Build an IVF index, cached in memory. Similarities in the searched cells are exact."""
    from lancedb.index import IvfFlat

    config = IvfFlat(
        distance_type="cosine", num_partitions=max(1, rows // CELL), max_iterations=10, sample_rate=64
    )
    table.create_index("vector", config=config)


class SealedStore(_Table):
    """One id and one ciphertext per row, decrypted into memory after each change and searched exactly."""

    def __init__(self, uri: str, db: Any, table: Any, about: dict[str, Any], cipher: Any):
        super().__init__(uri, db, table, about)
        self._box = cipher
        self._cache = self._cached(-1, {})
        self._open("check", bytes.fromhex(about["check"]))

    def _open(self, name: str, box: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return bytes(self._box.decrypt(box[:12], box[12:], name.encode()))
        except InvalidTag as e:
            raise UsageError(
                f"the key does not open {self.uri} (row {name}); give the key file it was made with"
            ) from e

    def _arrow(self, rows: Sequence[Row]) -> Any:
        _, pa = libraries()
        boxes = []
        for r in rows:
            texts = json.dumps([getattr(r, n) for n in _TEXTS]).encode()
            head = len(texts).to_bytes(4, "little")
            boxes.append(
                _seal(self._box, r.id, head + texts + r.vector.astype("<f4").tobytes() + r.thumbnail)
            )
        return pa.table(
            [pa.array([r.id for r in rows]), pa.array(boxes, pa.binary())], schema=self.table.schema
        )

    def _cached(self, version: int, rows: dict[str, Row]) -> tuple[int, dict[str, Row], Floats]:
        vectors = [r.vector for r in rows.values()]
        return version, rows, np.stack(vectors) if vectors else np.zeros((0, self.about["d"]), np.float32)

    def _opened(self) -> tuple[int, dict[str, Row], Floats]:
        """The version in memory, its rows and their vectors (n, d), in one tuple for thread safety."""
        if self._cache[0] != (version := int(self.table.version)):
            data = self._read(lambda: self.table.search().limit(None).to_arrow())
            rows = (
                self._row(i, b) for i, b in zip(data["id"].to_pylist(), data["box"].to_pylist(), strict=True)
            )
            self._cache = self._cached(version, {r.id: r for r in rows})
        return self._cache

    def _row(self, name: str, box: bytes) -> Row:
        data, wide = self._open(name, box), 4 * self.about["d"]
        end = 4 + int.from_bytes(data[:4], "little")
        vector = np.frombuffer(data[end : end + wide], "<f4").astype(np.float32)
        return Row(
            **dict(zip(_TEXTS, json.loads(data[4:end]), strict=True)),
            vector=vector,
            thumbnail=data[end + wide :],
        )

    def add(self, rows: Sequence[Row]) -> None:
        opened = self._opened()[1] | {r.id: r for r in rows}
        with explaining(self.uri):
            self.table.add(self._arrow(rows))
            self.tend()
        self._cache = self._cached(
            int(self.table.version), opened
        )  # one process writes, so there was no other change in between

    def rows(self, column: str = "", values: Iterable[str] = (), *, full: bool = True) -> list[Row]:
        wanted = set(values)
        return [r for r in self._opened()[1].values() if not column or getattr(r, column) in wanted]

    def nearest(self, vector: Floats, k: int) -> list[tuple[Row, float]]:
        _, rows, vectors = self._opened()
        similarity, listed = vectors @ vector, list(rows.values())
        best = np.argsort(-similarity, kind="stable")[:k]
        return ranked([listed[i] for i in best], similarity[best])

    def replace(self, rows: Sequence[Row]) -> None:
        with explaining(self.uri):
            self.table.merge_insert("id").when_matched_update_all().execute(self._arrow(rows))
            self.tend()

    def stats(self) -> dict[str, Any]:
        return super().stats() | {"indexed": False}


def ranked(rows: Sequence[Row], similarity: Any) -> list[tuple[Row, float]]:
    """Nearest first; if a correction and a face are equally near, the correction comes first."""
    pairs = [(r, float(s)) for r, s in zip(rows, similarity, strict=True)]
    return sorted(pairs, key=lambda p: (-round(p[1], 6), p[0].kind != CORRECTION, p[0].id))


def _from_arrow(data: Any) -> Iterator[Row]:
    columns = [data[n].to_pylist() for n in _TEXTS]
    have = data.column_names
    vectors: Any = [np.zeros(0, np.float32)] * len(data)
    if "vector" in have and len(data):
        vectors = (
            data["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(data), -1)
        )
    thumbnails = data["thumbnail"].to_pylist() if "thumbnail" in have else [b""] * len(data)
    for *texts, vector, thumbnail in zip(*columns, vectors, thumbnails, strict=True):
        yield Row(**dict(zip(_TEXTS, texts, strict=True)), vector=vector, thumbnail=thumbnail)


def _parts(values: list[str], size: int = 500) -> Iterator[list[str]]:
    return (values[i : i + size] for i in range(0, len(values), size))


def _quoted(values: Sequence[str]) -> str:
    return ", ".join("'" + v.replace("'", "''") + "'" for v in values)
