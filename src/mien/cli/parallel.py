"""Photos read by several processes on this machine: the same records in the same order."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from mien.cli.output import table_lines
from mien.cli.streams import progress, say
from mien.errors import MienError

GROUP = 8  # photos whose faces share forward passes, as in `Reader.stream`
AHEAD = 3  # groups per process that are handed out before their records are needed
Job = list[tuple[str, Any, str]]  # (path as shown, what a reader takes, name of its files without an ending)


class _Process:
    """What one process keeps between groups."""

    reader: Any = None
    pictures: Any = None


def _start(make: Callable[[], Any], pictures: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, which ends the others
    logging.getLogger("mien").addHandler(logging.NullHandler())  # the main process prints errors
    _Process.reader = make()
    _Process.pictures = pictures(_Process.reader)


def _read(job: Job) -> list[tuple[dict[str, Any], list[str], str | None]]:
    """(record, lines for people, error message or None) of each photo; its pictures are written here."""
    out = []
    stream = _Process.reader.stream((source for _, source, _ in job), photos_a_time=GROUP)
    for (path, _, name), reading in zip(job, stream, strict=True):
        reading.path = path
        _Process.pictures.add(reading, name)
        error = None if reading.error is None else str(reading.error)
        out.append((reading.to_dict(), list(table_lines(reading)), error))
    return out


def records_of(
    photos: Sequence[tuple[str, Any]],
    names: dict[str, str],
    make: Callable[[], Any],
    pictures: Callable[[Any], Any],
    workers: int,
) -> Generator[tuple[dict[str, Any], Iterable[str]], None, None]:
    """Records of photos in order, with lines for people, read by `workers` processes; errors go to stderr.

    Args:
        photos: (path as shown, what a reader takes).
        names: path -> name of its files, without an ending.
        make: makes the reader in each process.
        pictures: reader -> what saves pictures.

    Raises:
        MienError: a process died.
    """
    jobs = deque(
        [(path, source, names[path]) for path, source in photos[i : i + GROUP]]
        for i in range(0, len(photos), GROUP)
    )
    context = multiprocessing.get_context(
        "spawn"
    )  # a fork would copy the threads' locks, but not the threads
    count = max(1, min(workers, len(jobs)))
    pool = ProcessPoolExecutor(count, context, initializer=_start, initargs=(make, pictures))
    waiting: deque[Future[list[tuple[dict[str, Any], list[str], str | None]]]] = deque()
    try:
        with progress(len(photos)) as step:
            while jobs or waiting:
                while jobs and len(waiting) < AHEAD * count:
                    waiting.append(pool.submit(_read, jobs.popleft()))
                for record, lines, error in waiting.popleft().result():
                    if error is not None:
                        say(f"mien: {error}", err=True)
                    yield record, lines
                    step()
    except BrokenProcessPool as e:
        raise MienError(
            f"one of {count} processes could not start or was ended by the system, often for lack of memory;"
            " use fewer --workers, and --resume to go on"
        ) from e
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
