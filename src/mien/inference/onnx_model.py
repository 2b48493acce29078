"""A network in ONNX Runtime, and its header. Without torch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from mien.errors import BadWeights, UnknownTask, UsageError
from mien.geometry import TEMPLATES
from mien.inference import onnx_prune
from mien.inference.provenance import json_object
from mien.inference.providers import CPU, Provider, available, name_of, warn_if_lost
from mien.inference.weights_file import FORMAT, calibrated, read_weights, temperatures_of
from mien.settings import cpu_quota, inference_threads
from mien.tasks import DERIVED, Boxes, Map, Points, Shape, Task, Vector
from mien.tasks.base import configured
from mien.tasks.kinds import task_of
from mien.types import Floats, View

if os.environ.get("ORT_DISABLE_TELEMETRY") != "0":
    ort.disable_telemetry_events()  # where it was imported before mien, which sets that variable
MAX_SIDE = 4096  # pixels of a crop; no network of ours sees a thousand
HUGE = 1e6  # no head of ours answers by a logit, an offset or a fraction near it
# The runtime's own errors share no base class.
_REFUSALS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    MemoryError,
    *(e for e in vars(ort_errors).values() if isinstance(e, type) and issubclass(e, Exception)),
)


def _view(given: Any) -> View:
    """A header's view; KeyError, TypeError or ValueError, saying what, where it is none that can be worked
    with.
    """
    view = View.from_dict(given)
    if len(view.size) != 2 or not all(type(n) is int and 0 < n <= MAX_SIDE for n in view.size):
        raise ValueError(f"view size {view.size} is not two whole numbers from 1 to {MAX_SIDE}")
    if view.template not in ("photo", *TEMPLATES):
        raise ValueError(f"no template {view.template!r}")
    if (
        not len(view.mean) == len(view.std) == 3
        or not all(map(math.isfinite, view.mean + view.std))
        or min(view.std) <= 0
    ):
        raise ValueError(
            f"mean {view.mean} and std {view.std} are not three numbers each, the latter above 0"
        )
    return view


def _tasks(given: Any) -> tuple[Task[Any], ...]:
    """A header's tasks; errors as in `_view`, and UnknownTask."""
    tasks = tuple(configured(task_of(t), t) for t in given)
    for own, t in zip(tasks, given, strict=True):
        if t["labels"] != own.labels:
            raise ValueError(f"{own.name} with labels {t['labels']!r}, where this version has {own.labels!r}")
    if not tasks or len({t.name for t in tasks}) < len(tasks):
        raise ValueError(f"tasks {[t.name for t in tasks]}: at least one is needed, each once")
    return tasks


def _fits(shape: Shape, given: tuple[int, ...], found: tuple[int, ...]) -> bool:
    """Whether raw answers (B, ...) on images (B, 3, H, W) have the shape that a task reads."""
    if found[:1] != given[:1]:
        return False
    if isinstance(shape, Boxes):
        return found[1:] == (sum((given[2] // s) * (given[3] // s) for s in shape.strides), 15)
    if isinstance(shape, Points):
        return found[1:2] == (shape.n,) and (len(found) == 4 or found[2:] == (2,)) and 0 not in found
    if isinstance(shape, Map):
        return found[1:2] == (shape.n,) and len(found) == 4 and 0 not in found
    return found[1:] == (shape.n if isinstance(shape, Vector) else shape.d,)


class OnnxModel:
    """A network in ONNX Runtime, an `InferenceModel`.

    One object may be called from several threads; a forked or spawned process makes its own session.

    Its tasks read at the temperatures in the provenance file next to the weights
    (docs/model-card.md), if it has any.

    Args:
        path: an .onnx file that mien exported.
        threads: inference threads; None for all cores, or the container's quota.
        providers: ONNX Runtime execution providers, in order of preference: names, or (name, options). One
            that is not installed is left out with a warning; the CPU is always the last.
        tasks: names of the tasks to compute, or a function that says so of a name; None for all. Derived
            names count for the task that they derive from, unknown ones are ignored. The rest of the network
            is pruned away, but the tasks are still listed in `known_tasks`. Where no name fits, all are
            computed.

    Attributes:
        tasks: the tasks that this object computes.
        known_tasks: all tasks of the file.
        providers: names of the execution providers that run the network.

    Raises:
        BadWeights: unreadable, altered, or without a mien header.
        UsageError: ONNX Runtime does not know a provider.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int | None = None,
        providers: Sequence[Provider] = (CPU,),
        tasks: Sequence[str] | Callable[[str], bool] | None = None,
    ):
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be 1 or more, not {threads}")
        self._requested = available(providers)
        self.path, self.threads = Path(path), threads
        self._data, self.sha256 = read_weights(self.path)
        kept = self._prune(tasks)
        self._session: ort.InferenceSession | None = self._start()
        self.providers = [p for p in self._session.get_providers() if p in map(name_of, self._requested)]
        warn_if_lost(self._requested, self.providers)
        self._owner = os.getpid()
        self._parents: list[ort.InferenceSession] = []
        self.header = self._read_header()
        try:
            self.view, own = _view(self.header["view"]), _tasks(self.header["tasks"])
            self.header["builder"]
        except UnknownTask as e:
            raise BadWeights(
                f"{self.path} has outputs that this version of mien does not know ({e}); install a newer one"
            ) from e
        except (LookupError, TypeError, ValueError, ArithmeticError) as e:
            raise BadWeights(
                f"the header of {self.path} is damaged ({type(e).__name__}: {e}); copy the file again"
            ) from e
        temperatures = temperatures_of(self.path)
        self.known_tasks: tuple[Task[Any], ...] = tuple(calibrated(t, temperatures) for t in own)
        self.tasks = tuple(t for t in self.known_tasks if t.name in kept) or self.known_tasks
        self._names = self._check_ends()

    @property
    def name(self) -> str:
        """The builder's name, from the header."""
        return str(self.header["builder"])

    def part_sha256(self, task: str) -> str:
        """Identifies what computes one task, see `onnx_prune.part_sha256`.

        Files that differ in other tasks share it.
        """
        return onnx_prune.part_sha256(self._data, [task])

    def _start(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads or (
            inference_threads() if cpu_quota() else 0
        )  # 0: the runtime counts the cores
        options.inter_op_num_threads = 1
        # Threads wait awake during a call only: faster on idle cores, and hardly slower next to a busy
        # process, the other network's threads included (bench/speed/threads.py).
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # Photos have any number of faces. A plan of memory for each number is kept: it saves no time, and 200
        # photos held 163 MB for 114.
        options.enable_mem_pattern = False
        # Weights may point to other files (ONNX external data), which no sha256 covers. There is no such
        # folder, so that none is read.
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", f"{self.path}/none"
        )
        try:
            return ort.InferenceSession(self._data, options, providers=self._requested)
        except _REFUSALS as e:
            raise BadWeights(f"{self.path} is not an ONNX network that runs here: {e}") from e

    def _prune(self, tasks: Sequence[str] | Callable[[str], bool] | None) -> frozenset[str]:
        """Reduce the bytes to what these tasks need; their outputs, empty where nothing was pruned.

        Bytes whose graph cannot be followed stay as they are: ONNX Runtime refuses them with its own message.
        """
        if tasks is None:
            return frozenset()
        if callable(tasks):
            wanted = tasks
        else:
            wanted = {DERIVED[n].source if n in DERIVED else n for n in tasks}.__contains__
        try:
            every = onnx_prune.outputs(self._data)
            kept = frozenset(filter(wanted, every))
            if not 0 < len(kept) < len(every):
                return frozenset()
            self._data = onnx_prune.prune(self._data, kept)
        except ValueError:
            return frozenset()
        return kept

    def _read_header(self) -> dict[str, Any]:
        assert self._session is not None
        try:
            text = self._session.get_modelmeta().custom_metadata_map.get("mien")
        except UnicodeDecodeError as e:
            raise BadWeights(
                f"the header of {self.path} is damaged: it is not UTF-8 ({e.reason}); copy the file again"
            ) from e
        header = json_object(text, f"the header of {self.path}") if text else {}
        if header.get("format") != FORMAT:
            raise BadWeights(f"{self.path} has no {FORMAT} header; export it with: mien export")
        return header

    def __getstate__(self) -> dict[str, Any]:
        """For a worker that is spawned: everything but the session.

        The worker starts its own from the same bytes.
        """
        return {k: v for k, v in vars(self).items() if k not in ("_session", "_parents")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._parents, self._owner, self._session = [], os.getpid(), self._start()

    def _check_ends(self) -> list[str]:
        """Check the network's inputs and outputs against its header, and return the outputs' names."""
        assert self._session is not None
        into, out = (
            [i.name for i in self._session.get_inputs()],
            [o.name for o in self._session.get_outputs()],
        )
        absent = [t.name for t in self.tasks if t.name not in out]
        if into != ["images"] or absent:
            problem = f"its header promises {absent[0]!r}" if absent else "mien gives it 'images'"
            raise BadWeights(
                f"{self.path} has the inputs {into} and the outputs {out}, but {problem}; export"
                " it with: mien export"
            )
        return out

    def __call__(self, images: Floats) -> Mapping[str, Floats]:
        """(B, 3, H, W) float32, normalized by `view` -> task name -> raw answers (B, ...)."""
        if self._session is None or os.getpid() != self._owner:
            # A session does not survive a fork: its threads are gone. It is kept, for ending it would wait
            # for them.
            self._parents += [self._session] if self._session is not None else []
            self._session, self._owner = self._start(), os.getpid()
        try:
            given = np.ascontiguousarray(images, np.float32)
            raw = dict(zip(self._names, self._session.run(self._names, {"images": given}), strict=True))
        except _REFUSALS as e:
            raise BadWeights(f"{self.path} cannot work on images {np.shape(images)}: {e}") from e
        for t in self.tasks:
            self._check(t, raw[t.name], given.shape)
        return raw

    def _check(self, of: Task[Any], raw: Any, given: tuple[int, ...]) -> None:
        """Check a raw output's shape and values, so that a damaged network is reported here."""
        good = isinstance(raw, np.ndarray) and raw.dtype == np.float32 and _fits(of.shape, given, raw.shape)
        if not good:
            what = f"{raw.dtype}{raw.shape}" if isinstance(raw, np.ndarray) else type(raw).__name__
            raise BadWeights(f"{self.path} answers {of.name!r} by {what} for images {given}; export it again")
        # NaN is neither: both comparisons are false
        if raw.size and not (raw.min() >= -HUGE and raw.max() <= HUGE):
            raise BadWeights(
                f"{self.path} predicts {of.name!r} as NaN or too large (beyond {HUGE:.0e}); export it again"
            )
