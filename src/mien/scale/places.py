"""Paths and URIs: their file systems, photos, and Parquet parts that are complete or absent."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
import secrets
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from mien.errors import EmptyFile, NotFound, PhotoError, StorageError, TooLarge, Unreadable, UsageError
from mien.io.paths import EXTENSIONS, find_photos
from mien.io.storage import explained, explaining, is_uri
from mien.io.writers import plain
from mien.scale.engine import hint

MAX_BYTES = (
    512 * 2**20
)  # Ours: of one photo in an object store; the pixel limit applies only once its bytes are read
OBJECT_STORES = ("s3", "gcs", "abfs")  # writes are atomic there, and renaming is copying
PART = "part-"
_MAGIC = re.compile(r"[*?\[]")
_OPTION = (
    r"(?:region|scheme|endpoint_override|anonymous|retry_limit_seconds|project_id|account|access_key)=[^?&]*"
)
_OPTIONS = re.compile(rf"\?{_OPTION}(?:&{_OPTION})*$")  # of Arrow: "?region=eu-central-1"


def arrow() -> Any:
    """pyarrow with the modules used here.

    Raises:
        UsageError: the extra is not installed.
    """
    try:
        import pyarrow
        import pyarrow.fs
        import pyarrow.parquet
    except ImportError as e:
        raise hint(e.name) from e
    return pyarrow


def place(uri: str) -> tuple[Any, str]:
    """A path or URI -> Arrow's file system and the path in it; fsspec provides other file systems.

    The path of a URI is taken as it is written, as the tools of object stores do: "%20" and "#" are
    characters of a name. Only file:// URIs are percent-encoded. Options of Arrow may follow:
    "?region=eu-central-1".

    Raises:
        UsageError: the scheme is unknown.
        StorageError: the store cannot be reached or refuses the credentials.
    """
    pa = arrow()
    if not is_uri(uri):
        return pa.fs.LocalFileSystem(), os.path.abspath(uri)
    if uri.startswith("file://"):
        system, path = pa.fs.FileSystem.from_uri(uri)
        return system, path
    name, options = split_options(uri)
    scheme, _, rest = name.partition("://")
    top, _, below = rest.partition("/")
    system, root = _file_system(f"{scheme}://{top}", options)
    return system, f"{root.rstrip('/')}/{below}".rstrip("/") if below else root


def split_options(uri: str) -> tuple[str, str]:
    """A URI without Arrow's options, and these with their question mark, or nothing."""
    found = _OPTIONS.search(uri)
    return (uri[: found.start()], found[0]) if found else (uri, "")


@functools.lru_cache(maxsize=64)
def _file_system(top: str, options: str) -> tuple[Any, str]:
    """The file system of a bucket or host, and its path in it: one for all photos, with its connections."""
    pa = arrow()
    try:
        system, root = pa.fs.FileSystem.from_uri(top + options)
        return system, root
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as e:
        try:
            import fsspec

            system, root = fsspec.core.url_to_fs(top)
        except (ImportError, ValueError) as e2:
            raise UsageError(
                f"cannot open {top!r} ({e2 or e}); use a path, s3://, gs://, abfs://, or install fsspec's"
                " file system for it"
            ) from e
        return pa.fs.PyFileSystem(pa.fs.FSSpecHandler(system)), root
    except OSError as e:
        raise explained(top, e) from e


# --- Photos


def find(inputs: Iterable[str]) -> list[str]:
    """Paths and URIs of photos, each once.

    Paths are searched as by `io.paths.find_photos`; URIs may be folders or glob patterns too.

    Raises:
        NotFound: a folder or pattern matches no pictures.
        UsageError: the scheme is unknown.
    """
    found: dict[str, str] = {}
    for item in inputs:
        for path in _find_uri(item) if is_uri(item) else find_photos([item]):
            found.setdefault(path if is_uri(path) else os.path.abspath(path), path)
    return list(found.values())


def _find_uri(uri: str) -> list[str]:
    pa = arrow()
    name, options = split_options(uri)
    magic = _MAGIC.search(name)
    if magic and _exists(name, options):
        return [uri]
    top = name[: name.rindex("/", 0, magic.start())] if magic else name.rstrip("/")
    with explaining(uri):
        system, base = place(top + options)
        there = system.get_file_info(base)
        if not magic and there.type == pa.fs.FileType.File:
            return [uri]
        listed = system.get_file_info(pa.fs.FileSelector(base, recursive=True, allow_not_found=True))
    below = [i.path[len(base.rstrip("/")) :].lstrip("/") for i in listed if i.type == pa.fs.FileType.File]
    fits = re.compile(glob_pattern(name[len(top) + 1 :])).fullmatch if magic else lambda name: True
    names = sorted(n for n in below if fits(n) and is_photo(n))
    if not names:
        if there.type == pa.fs.FileType.NotFound:
            raise NotFound(f"there is no {top!r}; check the bucket and the path")
        raise NotFound(f"{uri!r} holds no pictures ({' '.join(sorted(EXTENSIONS))}); check it")
    return [f"{top}/{quote(n) if top.startswith('file://') else n}{options}" for n in names]


def _exists(name: str, options: str) -> bool:
    """Whether there is a file of this name as it is written, with question marks, stars and brackets."""
    with explaining(name):
        system, path = place(quote(name, safe="/:") if name.startswith("file://") else name + options)
        return bool(system.get_file_info(path).type == arrow().fs.FileType.File)


def is_photo(name: str) -> bool:
    """Whether a path has a picture's extension and is not hidden (no part starts with a dot)."""
    return any(name.lower().endswith(e) for e in EXTENSIONS) and not any(
        p.startswith(".") for p in name.split("/")
    )


def glob_pattern(glob: str) -> str:
    """A glob pattern as a regular expression: * and ? stay within a folder, ** crosses folders."""
    out = re.escape(glob)
    out = (
        out.replace(r"\*\*/", "(?:.+/)?")
        .replace(r"\*\*", ".*")
        .replace(r"\*", "[^/]*")
        .replace(r"\?", "[^/]")
    )
    return re.sub(r"\\\[(!?)(.+?)\\\]", lambda m: f"[{'^' if m[1] else ''}{m[2]}]", out)


def fetch(uri: str) -> bytes | PhotoError:
    """The bytes of one photo in an object store, or the error."""
    try:
        system, path = place(uri)
        with system.open_input_file(path) as file:
            if (size := file.size()) > MAX_BYTES:
                return TooLarge(f"{uri!r} has {size:,} bytes, more than {MAX_BYTES:,}; make it smaller")
            return bytes(file.read()) or EmptyFile(f"{uri!r} is empty; copy it again")
    except FileNotFoundError:
        return NotFound(f"there is no {uri!r}; check it")
    except (OSError, StorageError) as e:  # becomes the photo's error row
        return Unreadable(str(e if isinstance(e, StorageError) else explained(uri, e)))


# --- Parts


class Parts:
    """A folder of Parquet files, each the complete result of one piece of work.

    A part is named by a hash of its key and written atomically: uploaded in one request (object stores), or
    written under another name and renamed (disks). So a killed job leaves no partial file, and a repeated
    piece exists once. Only one job at a time may write a folder.
    """

    def __init__(self, uri: str):
        self.uri = uri
        self.system, self.path = place(uri)

    def name(self, *key: str) -> str:
        """The file name for a key."""
        return f"{PART}{hashlib.sha256(chr(0).join(key).encode()).hexdigest()[:24]}.parquet"

    def write(self, name: str, table: Any) -> None:
        """Write a part; an existing one is replaced."""
        pa, buffer = arrow(), io.BytesIO()
        pa.parquet.write_table(table, buffer, compression="zstd")
        target = f"{self.path}/{name}"
        with explaining(self.uri):
            if self.system.type_name in OBJECT_STORES:
                self._put(target, buffer)
                return
            self.system.create_dir(self.path, recursive=True)
            part = f"{self.path}/.{name}.{secrets.token_hex(4)}.tmp"
            self._put(part, buffer)
            self.system.move(part, target)

    def _put(self, path: str, buffer: io.BytesIO) -> None:
        with self.system.open_output_stream(path) as out:
            out.write(buffer.getbuffer())

    def names(self, *, sweep: bool = False) -> list[str]:
        """Names of the existing parts; sweep: remove partial files of killed writers."""
        pa = arrow()
        with explaining(self.uri):
            listed = self.system.get_file_info(pa.fs.FileSelector(self.path, allow_not_found=True))
            for info in listed if sweep else ():
                if info.base_name.startswith(f".{PART}") and info.base_name.endswith(".tmp"):
                    self.system.delete_file(info.path)
        return sorted(
            i.base_name
            for i in listed
            if i.base_name.endswith(".parquet") and not i.base_name.startswith((".", "_"))
        )

    def read(self, name: str, columns: list[str] | None = None) -> Any:
        """One part as an Arrow table."""
        with explaining(self.uri):
            return arrow().parquet.read_table(f"{self.path}/{name}", columns=columns, filesystem=self.system)

    def done(self, check: Callable[[str, Any], None]) -> set[str]:
        """Photo paths in all parts.

        Args:
            check: called with each part's name and Arrow schema; raises if the job cannot continue with it.
        """

        def paths(name: str) -> list[str]:
            with explaining(self.uri), self.system.open_input_file(f"{self.path}/{name}") as raw:
                file = arrow().parquet.ParquetFile(raw)
                check(f"{self.uri}/{name}", file.schema_arrow)
                return list(file.read(columns=["path"])["path"].to_pylist())

        with ThreadPoolExecutor(16) as pool:
            return {str(plain(p)) for some in pool.map(paths, self.names(sweep=True)) for p in some}
