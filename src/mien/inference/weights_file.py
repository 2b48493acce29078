"""The weights file format: ONNX bytes, which fit the provenance file next to them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from mien.errors import BadWeights
from mien.inference.provenance import WEIGHTS as WEIGHTS  # where the package's own weights are
from mien.inference.provenance import bytes_of, provenance_of, provenance_path
from mien.tasks import Task
from mien.types import HasName, HasSha256

FORMAT = "mien-1"


class WeightsId(NamedTuple):
    """Which weights a model has.

    Attributes:
        name: of the network, for people.
        sha256: of its file; empty where it is not of a file.
    """

    name: str
    sha256: str

    def __str__(self) -> str:
        """As in tables: `name:first 12 of sha256`."""
        return f"{self.name}:{self.sha256[:12]}"


def weights_id(model: object) -> WeightsId:
    """Which weights a model has; the name of its class where it has no name."""
    name = model.name if isinstance(model, HasName) else type(model).__name__
    return WeightsId(name, model.sha256 if isinstance(model, HasSha256) else "")


def measured_sha256(model: object) -> str:
    """The sha256 of the weights whose measurements hold for a model; empty where it is not of a file.

    A fine-tuned file answers the old tasks bit for bit as the file that it was made from.
    """
    header = getattr(model, "header", {})
    frozen = header.get("frozen") if isinstance(header, Mapping) else None
    origin = frozen.get("weights") if isinstance(frozen, Mapping) else None
    return origin if isinstance(origin, str) else weights_id(model).sha256


def read_weights(path: Path) -> tuple[bytes, str]:
    """The bytes of a weights file and their sha256, checked against the provenance file next to it, if there
    is one.

    Raises:
        BadWeights: missing, empty, or not the bytes that the provenance file promises.
    """
    data = bytes_of(path)
    if not data:
        raise BadWeights(f"the weights {path} are empty; copy or install them again")
    found = hashlib.sha256(data).hexdigest()
    if provenance_path(path).is_file():
        promised = provenance_of(path).get("sha256")
        if promised != found:
            raise BadWeights(
                f"the weights {path} were truncated or altered: sha256 is {found[:16]}..., {path.stem}.json"
                f" promises {str(promised)[:16]}...; install mien again, or copy the file again"
            )
    return data, found


def calibrated(task: Task[Any], temperatures: Mapping[str, float]) -> Task[Any]:
    """The task, reading at the temperature that the weights bring for it; the task itself where they bring
    none.

    Raises:
        BadWeights: a temperature that is not a number above 0, or of a task that has none.
    """
    if task.name not in temperatures:
        return task
    value = temperatures[task.name]
    if (
        not task.has_setting("temperature")
        or not isinstance(value, (int, float))
        or not 0 < value < float("inf")
    ):
        raise BadWeights(
            f"{task.name} cannot be read at temperature {value!r}; fix `calibration` in the weights'"
            " provenance file"
        )
    return replace(task, temperature=float(value))  # type: ignore[call-arg]


def temperatures_of(path: Path) -> dict[str, float]:
    """What the provenance file says under calibration, temperatures: task -> temperature."""
    found: Any = provenance_of(path)
    for key in ("calibration", "temperatures"):
        found = found.get(key, {})
        if not isinstance(found, dict):
            raise BadWeights(
                f"`{key}` in {provenance_path(path)} is not a JSON object; fix it, or copy the file again"
            )
    temperatures: dict[str, float] = found
    return temperatures
