"""The ONNX side, torch-free: a network at work, and its header."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from mien.errors import BadWeights, UnknownTask, UsageError
from mien.tasks import Task, task
from mien.types import Floats, View

FORMAT = "mien-1"
# The runtime's own errors share no base class.
_REFUSALS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(e for e in vars(ort_errors).values() if isinstance(e, type) and issubclass(e, Exception)),
)
WEIGHTS = Path(__file__).parent / "weights"


def read_weights(path: Path) -> tuple[bytes, str]:
    """The bytes of a weights file and their sha256, checked against the provenance file beside it, if there is one.

    Raises:
        BadWeights: missing, empty, or not the bytes that the provenance file promises.
    """
    try:
        data = path.read_bytes()
    except OSError as e:
        raise BadWeights(f"cannot read the weights {path}: {e.strerror}; install mien again, or name another file") from e
    if not data:
        raise BadWeights(f"the weights {path} are empty; copy or install them again")
    found = hashlib.sha256(data).hexdigest()
    beside = path.with_suffix(".json")
    if beside.is_file():
        promised = json.loads(beside.read_text(encoding="utf-8")).get("sha256")
        if promised != found:
            raise BadWeights(
                f"the weights {path} were truncated or altered: sha256 is {found[:16]}..., {beside.name} promises {str(promised)[:16]}...; "
                "install mien again, or copy the file again"
            )
    return data, found


class OnnxModel:
    """A network in ONNX Runtime, callable exactly like a model at work (`types.Answerer`).

    One object may be called from several threads; a forked process makes its own session.

    Args:
        path: an .onnx file that mien exported. threads: of one forward; None lets the runtime take all cores.
        providers: ONNX Runtime execution providers, in order of preference.

    Raises:
        BadWeights: unreadable, altered, or without a mien header. UsageError: a provider that is not here.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None, providers: Sequence[str] = ("CPUExecutionProvider",)):
        if threads is not None and threads < 1:
            raise UsageError(f"threads must be 1 or more, not {threads}")
        missing = [p for p in providers if p not in ort.get_available_providers()]
        if missing:
            raise UsageError(f"no {missing[0]} here; there are: {', '.join(ort.get_available_providers())}")
        self.path, self.threads, self.providers = Path(path), threads, list(providers)
        self._data, self.sha256 = read_weights(self.path)
        self._session = self._start()
        self._owner = os.getpid()
        self._parents: list[ort.InferenceSession] = []
        self.header = self._read_header()
        self.view = View.from_dict(self.header["view"])
        try:
            self.tasks: tuple[Task[Any], ...] = tuple(task(t["name"]) for t in self.header["tasks"])
        except UnknownTask as e:
            raise BadWeights(f"{self.path} answers what this version of mien does not know ({e}); install a newer one") from e

    @property
    def name(self) -> str:
        """The builder's name, from the header."""
        return str(self.header["builder"])

    def _start(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self.threads or 0
        options.inter_op_num_threads = 1
        try:
            return ort.InferenceSession(self._data, options, providers=self.providers)
        except _REFUSALS as e:
            raise BadWeights(f"{self.path} is no ONNX network that runs here: {e}") from e

    def _read_header(self) -> dict[str, Any]:
        text = self._session.get_modelmeta().custom_metadata_map.get("mien")
        header = json.loads(text) if text else {}
        if header.get("format") != FORMAT:
            raise BadWeights(f"{self.path} has no {FORMAT} header; export it with: mien export")
        return header

    def __call__(self, images: Floats) -> Mapping[str, Floats]:
        """(B, 3, H, W) float32, normalised by `view` -> task name -> raw answers (B, ...)."""
        if os.getpid() != self._owner:
            # A session does not survive a fork: its threads are gone. It is kept, for ending it would wait for them.
            self._parents.append(self._session)
            self._session, self._owner = self._start(), os.getpid()
        names = [o.name for o in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {"images": np.ascontiguousarray(images, np.float32)}), strict=True))
