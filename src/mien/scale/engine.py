"""Run pieces of work in this process or in Ray Data actors, with one function, so that the results agree."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from mien import errors
from mien.errors import MienError, UsageError

ENGINES = ("local", "ray")
OBJECT_STORE = (
    512 * 2**20
)  # bytes of Ray's object store: pieces and results are small, pictures never pass through it
Item = Mapping[str, Any]  # a piece of work or its result: plain JSON values
_log = logging.getLogger(__name__)


def hint(missing: str | None) -> UsageError:
    """The error for a missing extra."""
    return UsageError(
        f"this needs an extra that is not installed ({missing}); run: pip install 'mien[scale]'"
    )


def libraries() -> tuple[Any, Any]:
    """Ray and Ray Data, imported only when a job needs them.

    Raises:
        UsageError: the extra is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # turns off Ray's usage reports
    try:
        import ray
        import ray.data
    except ImportError as e:
        raise hint(e.name) from e
    return ray, ray.data


def check(engine: str) -> None:
    """Check the engine's name before anything is listed or loaded.

    Raises:
        UsageError: another name, or Ray is not installed.
    """
    if engine not in ENGINES:
        raise UsageError(f"engine is local or ray, not {engine!r}")
    if engine == "ray":
        libraries()


def start() -> Any:
    """Ray: the one that runs in this process, the cluster of RAY_ADDRESS, or a new local one.

    Raises:
        UsageError: it does not start.
    """
    ray, data = libraries()
    # Ray's default is 15: next to a busy process such workers get hardly any processor time
    os.environ.setdefault("RAY_worker_niceness", "0")
    if not ray.is_initialized():
        quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
        if os.environ.get("RAY_ADDRESS"):
            _init(ray, **quiet)
        else:
            _init(ray, address="local", include_dashboard=False, object_store_memory=OBJECT_STORE, **quiet)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # Ray sets settings of its own that it calls deprecated
        context = data.DataContext.get_current()
    context.enable_progress_bars = False  # ours counts photos
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    return ray


def _init(ray: Any, **options: Any) -> None:
    """Start Ray, again if it fails: its processes wait only 30 s for each other. Or connect to a cluster."""
    cluster = os.environ.get("RAY_ADDRESS")
    for left in (0,) if cluster else (2, 1, 0):
        try:
            ray.init(**options)
            return
        except Exception as error:  # Ray raises bare exceptions here
            ray.shutdown()
            why = (str(error).strip() or type(error).__name__).split("\n")[0]
            if cluster:
                raise UsageError(
                    f"cannot connect to RAY_ADDRESS {cluster!r} ({why}); check the address and the cluster"
                ) from error
            if not left:
                raise UsageError(
                    f"Ray does not start ({why}); stop what keeps the cores busy, or use mien analyze"
                    " --workers N without --engine ray"
                ) from error
            say(f"Ray did not start ({why}); trying again")


def worker_count(engine: str, workers: int | None, threads: int) -> int:
    """Number of workers of a job: as given, else one per `threads` cores of the cluster; 1 for "local".

    Raises:
        UsageError: more workers than the cluster has cores for.
    """
    if engine == "local":
        return 1
    cores = int(start().cluster_resources().get("CPU", 1))
    wanted = workers or max(1, cores // threads)
    if wanted * threads > cores:
        raise UsageError(
            f"{wanted} workers of {threads} threads need {wanted * threads} cores, Ray has {cores}; take"
            " fewer --workers"
        )
    return wanted


def piece_sizes(total: int, workers: int, largest: int, smallest: int = 8) -> list[int]:
    """Sizes of the pieces of `total` photos, so that all workers stay busy until the end.

    The first piece of each worker is small, so that progress shows within seconds. Later ones are a fixed
    share of the rest (guided self-scheduling, Polychronopoulos and Kuck 1987), at most `largest`.
    """
    sizes, left = list[int](), total
    while left:
        size = smallest if len(sizes) < workers else max(smallest, -(-left // (2 * workers)))
        sizes.append(min(size, largest, left))
        left -= sizes[-1]
    return sizes


class Adapter:
    """A worker inside a Ray Data actor. Rows are JSON, since Arrow would infer types for each block."""

    def __init__(self, make: Callable[..., Any], args: Sequence[Any]):
        ray, _ = libraries()
        self.work: Callable[[Any], Item]
        try:
            self.work = make(*(ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in args))
        except MienError as e:  # Ray would restart an actor that fails at its start without end
            failed = e

            def refuse(item: Any) -> Item:
                raise failed

            self.work = refuse

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"result": np.array([self._done(json.loads(item)) for item in batch["item"]], object)}

    def _done(self, item: Any) -> str:
        try:
            return json.dumps({"done": self.work(item)})
        except MienError as e:  # `run` raises it again, without Ray's wrappers
            return json.dumps({"error": [type(e).__name__, str(e)]})


def run(
    items: Sequence[Item],
    make: Callable[..., Callable[[Any], Item]],
    args: Sequence[Any],
    *,
    engine: str = "local",
    workers: int | None = None,
    threads: int = 1,
) -> Iterator[dict[str, Any]]:
    """Yield the results of pieces of work as they are finished, in no particular order.

    If a worker dies, another one repeats its piece, without a limit (Ray Data's rule). So a worker must write
    the same output when it processes a piece twice. Ray provides back-pressure: a fixed number of actors, few
    pieces in flight per actor, and only results are sent back.

    Args:
        engine: "local" or "ray".
        make: builds a worker from `args`, once per actor. A worker takes a piece and returns its result.
        args: arguments of `make`. The actors of one machine share arrays in them.
        items: pieces of work, plain JSON values.
        workers: number of actors; None for one per core of the cluster.
        threads: cores that an actor reserves.

    Raises:
        MienError: a worker's error.
        UsageError: no such engine, Ray is missing, or more workers than the cluster has cores for.
    """
    check(engine)
    if not items:
        return
    if engine == "local":
        work = make(*args)
        for item in items:
            yield dict(work(json.loads(json.dumps(item))))  # the same values as through Ray
        return
    wanted, ray = min(worker_count(engine, workers, threads), len(items)), start()
    say(
        f"{len(items):,} piece{'' if len(items) == 1 else 's'} of work for {wanted}"
        f" worker{'' if wanted == 1 else 's'} with {threads} thread{'' if threads == 1 else 's'} each;"
        " Ray starts them now"
    )
    _, data = libraries()
    shared = [ray.put(a) if isinstance(a, np.ndarray) else a for a in args]
    rows = [{"item": json.dumps(item)} for item in items]
    done = data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Adapter,
        fn_constructor_args=(make, shared),
        batch_size=1,
        num_cpus=threads,
        compute=data.ActorPoolStrategy(size=wanted),
    )
    with waiting_lines():
        results = iter(done.iter_rows())
        row = next(results, None)
    while row is not None:
        result = json.loads(row["result"])
        if "error" in result:
            name, message = result["error"]
            raise getattr(errors, name, MienError)(message)
        yield result["done"]
        row = next(results, None)
    _log.info("Ray's account of the job:\n%s", done.stats())


def say(line: str) -> None:
    """Print a line to stderr."""
    print(f"mien: {line}", file=sys.stderr, flush=True)


@contextmanager
def waiting_lines(every: float = 30.0) -> Iterator[None]:
    """Print a line to stderr every `every` seconds while no result has arrived."""
    done, began = threading.Event(), time.monotonic()

    def watch() -> None:
        while not done.wait(every):
            say(
                f"no piece is done after {time.monotonic() - began:.0f} s: the workers are starting, or other"
                " processes use the cores"
            )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Progress:
    """Progress on stderr: finished photos, photos per second and remaining time.

    Args:
        total: number of photos.
        what: word for the counted things.
        every: seconds between two lines.
    """

    def __init__(self, total: int, what: str = "photos", every: float = 5.0):
        self.total, self.what, self.every, self.done, self.failed = total, what, every, 0, 0
        self.began = time.monotonic()
        self.last = self.began - every  # the first result is a line

    @property
    def rate(self) -> float:
        """Photos per second since the beginning, including the workers' start."""
        return self.done / max(time.monotonic() - self.began, 1e-9)

    def add(self, done: int, failed: int = 0) -> None:
        """Count finished photos, and those of them that could not be read."""
        self.done, self.failed, now = self.done + done, self.failed + failed, time.monotonic()
        if now - self.last >= self.every or self.done >= self.total:
            self.last = now
            say(str(self))

    def __str__(self) -> str:
        left = int((self.total - self.done) / max(self.rate, 1e-9))
        bad = f" ({self.failed:,} not read)" if self.failed else ""
        time_left = (
            f", {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left" if self.done < self.total else ""
        )
        return f"{self.done:,} of {self.total:,} {self.what}{bad}, {self.rate:.1f} {self.what}/s{time_left}"
