"""Read millions of photos into Parquet parts, one reader per actor. Existing parts are kept."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mien.diagnostics.memory import resident
from mien.errors import PhotoError, UsageError
from mien.inference.reader import Reader
from mien.inference.reading import Reading
from mien.inference.weights_file import weights_id
from mien.io.storage import is_uri
from mien.io.writers import arrow_schema, columns, plain, rows
from mien.scale.engine import Progress, check, piece_sizes, run, worker_count
from mien.scale.places import Parts, arrow, fetch, find

PHOTOS = 512  # Ours: maximum photos of a part, which a killed worker repeats; a file of about a megabyte
GROUP = 8  # photos whose faces share forward passes, as in `Reader.stream`
AHEAD = 16  # photos that are fetched from an object store in advance
STAGES = ("decode", "detect", "align", "read")
_log = logging.getLogger(__name__)


def model_of(reader: Reader) -> str:
    """The network as in the rows: "name:first 12 of sha256"."""
    return str(weights_id(reader.model))


@dataclass
class Summary:
    """Counts and times of a job.

    Attributes:
        photos: photos read in this run.
        faces: faces found in this run.
        failed: photos of this run that could not be read.
        skipped: photos that the output had already.
        seconds: wall-clock time, including the workers' start.
        stages: worker seconds per stage; "fetch" is waiting for an object store.
        cpu: processor seconds of the workers.
        peak_mb: peak memory of the largest worker, in MB; with engine "local", of this process.
    """

    photos: int = 0
    faces: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    cpu: float = 0.0
    peak_mb: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def add(self, done: dict[str, Any]) -> None:
        """Add one part's result."""
        self.photos, self.faces, self.failed = (
            self.photos + done["photos"],
            self.faces + done["faces"],
            self.failed + done["failed"],
        )
        self.cpu, self.peak_mb = self.cpu + done["cpu"], max(self.peak_mb, done["peak_mb"])
        for stage, seconds in done["stages"].items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    def lines(self) -> Iterator[str]:
        """The summary as text."""
        yield (
            f"{self.photos:,} photos read now, {self.skipped:,} skipped; {self.faces:,} faces,"
            f" {self.failed:,} photos not read"
        )
        if self.photos:
            busy = sum(self.stages.values()) or 1.0
            shares = ", ".join(f"{stage} {seconds / busy:.0%}" for stage, seconds in self.stages.items())
            yield (
                f"{self.seconds:.1f} s, {self.photos / self.seconds:.1f} photos/s,"
                f" {self.cpu / self.photos:.3f} CPU s per photo"
            )
            yield f"workers' time: {shares}; the largest worker had {self.peak_mb:.0f} MB"


class Worker:
    """Worker: reads a part's photos and writes the part.

    Args:
        load: builds the reader.
        out: folder or URI of the parts.
    """

    def __init__(self, load: Callable[[], Reader], out: str):
        self.reader, self.parts = load(), Parts(out)
        self.columns = columns(self.reader.requested, self.reader.model.tasks)
        self.schema, self.stamp = arrow_schema(self.columns), model_of(self.reader)
        self.schema = self.schema.with_metadata({"mien.model": self.stamp})

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        began, used = time.perf_counter(), time.process_time()
        lines: list[dict[str, Any]] = []
        stages = dict.fromkeys(("fetch", *STAGES, "write"), 0.0)
        faces = failed = 0
        for reading in self._readings(item["paths"], item["base"], stages):
            lines += rows(reading.to_dict(), self.columns)
            faces, failed = faces + len(reading), failed + (reading.error is not None)
            for stage, ms in reading.timing_ms.items():
                stages[stage] += ms / 1e3
        start = time.perf_counter()
        self.parts.write(
            self.parts.name(self.stamp, *(str(plain(p)) for p in item["paths"])),
            arrow().Table.from_pylist(lines, self.schema),
        )
        stages["write"] = time.perf_counter() - start
        return {
            "photos": len(item["paths"]), "faces": faces, "failed": failed, "stages": stages,
            "pid": os.getpid(),
            "seconds": time.perf_counter() - began, "cpu": time.process_time() - used,
            "peak_mb": resident().get("peak", 0.0),
        }  # fmt: skip

    def _readings(self, paths: Sequence[str], base: str, stages: dict[str, float]) -> Iterator[Reading]:
        with ThreadPoolExecutor(GROUP) as pool:
            sources = _sources((p if is_uri(p) else os.path.join(base, p) for p in paths), pool)
            for first in range(0, len(paths), GROUP):
                start = time.perf_counter()
                some = [next(sources) for _ in paths[first : first + GROUP]]
                stages["fetch"] += time.perf_counter() - start
                read = iter(self.reader([s for s in some if not isinstance(s, PhotoError)]))
                for path, source in zip(paths[first : first + GROUP], some, strict=True):
                    reading = Reading(path, error=source) if isinstance(source, PhotoError) else next(read)
                    reading.path = path
                    yield reading


def _sources(paths: Iterable[str], pool: ThreadPoolExecutor) -> Iterator[str | bytes | PhotoError]:
    """The reader's input for each path: the path itself, or the bytes of a URI, fetched in advance."""
    waiting: deque[str | Future[bytes | PhotoError]] = deque()
    rest = iter(paths)
    while True:
        while len(waiting) < AHEAD and (path := next(rest, None)) is not None:
            waiting.append(pool.submit(fetch, path) if is_uri(path) else path)
        if not waiting:
            return
        source = waiting.popleft()
        yield source if isinstance(source, str) else source.result()


def analyze(
    inputs: Iterable[str],
    out: str,
    load: Callable[[], Reader],
    *,
    engine: str = "local",
    workers: int | None = None,
    threads: int = 1,
    photos: int = PHOTOS,
    on_part: Callable[[dict[str, Any]], None] | None = None,
) -> Summary:
    """Read all photos that the output does not have, with the rows of `mien analyze --out FILE.parquet`.

    Args:
        inputs: photos, folders, glob patterns or URIs. A cluster's workers must see the same paths.
        out: a folder or URI, for `Parts`.
        load: builds a reader. It runs in each worker, and once here for the columns.
        engine: see `engine.run`.
        workers: see `engine.run`.
        threads: see `engine.run`.
        photos: photos per part.
        on_part: called with each part's result.

    Raises:
        UsageError: the output is of another network or other tasks; see also `engine.run`, `places.find`.
        NotFound: there are no photos.
    """
    check(engine)
    if photos < 1:
        raise UsageError(f"a part has 1 or more photos, not {photos}")
    out = out if is_uri(out) else os.path.abspath(out)  # an actor may have another working folder
    found, parts, reader = find(inputs), Parts(out), load()
    schema = arrow_schema(columns(reader.requested, reader.model.tasks))
    model = model_of(reader)
    del reader  # the workers have their own

    def goes_on(name: str, there: Any) -> None:
        if (was := (there.metadata or {}).get(b"mien.model", b"").decode()) != model:
            raise UsageError(
                f"{name!r} was written by {was or 'something else'}, this run has {model}; use the same"
                " weights, or another --out"
            )
        if not there.equals(schema):
            raise UsageError(
                f"{name!r} has other columns than this run writes; use the same --tasks, or another --out"
            )

    done = parts.done(goes_on)
    left = [p for p in found if plain(p) not in done]
    summary, began = Summary(skipped=len(found) - len(left)), time.perf_counter()
    progress = Progress(len(left))
    if summary.skipped:
        _log.info("%s has %d of %d photos; %d are left", out, summary.skipped, len(found), len(left))
    count = worker_count(engine, workers, threads) if left else 1
    # and the rows have the paths as they were written
    items, first = list[dict[str, Any]](), 0
    for size in piece_sizes(len(left), count, photos):
        items.append({"paths": left[first : first + size], "base": os.getcwd()})
        first += size
    for result in run(items, Worker, (load, out), engine=engine, workers=count, threads=threads):
        summary.add(result)
        progress.add(result["photos"], result["failed"])
        if on_part:
            on_part(result)
    summary.seconds = time.perf_counter() - began
    return summary
