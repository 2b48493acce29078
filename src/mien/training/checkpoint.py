"""Weights on disk, torch side: safetensors with a JSON header. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mien.errors import BadWeights, UsageError
from mien.inference.weights_file import FORMAT
from mien.tasks.kinds import entry_of
from mien.types import FaceModel, LoadedModel


def header_of(model: FaceModel, **more: Any) -> dict[str, Any]:
    """The header of weights: builder, arguments, view, tasks, label sets, and the given fields."""
    name, arguments = model.builder
    tasks = [entry_of(t) for t in model.tasks]
    return {
        "format": FORMAT,
        "builder": name,
        "arguments": arguments,
        "view": model.view.to_dict(),
        "tasks": tasks,
        **more,
    }


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write atomically: a run that is killed while writing keeps its last complete file."""
    part = path.with_suffix(".part")
    save_file({k: v.contiguous() for k, v in tensors.items()}, part, {"mien": json.dumps(header)})
    os.replace(part, path)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as f:
            header = json.loads((f.metadata() or {}).get("mien", "{}"))
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118  (a safe_open is not a mapping)
    except (SafetensorError, OSError) as e:
        raise BadWeights(f"{path} is not a readable safetensors file ({e}); train or copy it again") from e
    if header.get("format") != FORMAT:
        raise BadWeights(f"{path} has no {FORMAT} header; it was not written by mien")
    return tensors, header


def save(path: Path, model: FaceModel, **more: Any) -> None:
    """Write a model's weights with their header."""
    _write(path, dict(model.state_dict()), header_of(model, **more))


def load(path: Path | str) -> LoadedModel:
    """Build the model named in a checkpoint's header and load its weights, in evaluation mode.

    Args:
        path: a .safetensors of a run. `mien.export.onnx_import.load` reads exported files too.

    Raises:
        BadWeights: unreadable, unknown builder, or tensors that do not fit; the message names the first one.
    """
    tensors, header = _read(Path(path))
    model = build(header, path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as e:
        raise BadWeights(f"{path} does not fit {header['builder']}: {e}") from e
    return model.eval()


def build(header: Mapping[str, Any], path: Path | str) -> LoadedModel:
    """The model that a header describes, with initial weights and the header as its attribute `header`.

    Args:
        header: of a weights file.
        path: of that file, for messages.

    Raises:
        BadWeights: the builder is not in `MODELS`.
    """
    from mien.models import MODELS
    from mien.tasks import task
    from mien.tasks.base import configured

    if header["builder"] not in MODELS:
        raise BadWeights(
            f"{path} holds the model {header['builder']!r}, which is not one of: {', '.join(MODELS)}"
        )
    arguments = dict(header["arguments"])
    if "tasks" in arguments:
        arguments["tasks"] = [task(n) for n in arguments["tasks"]]
    model = cast("LoadedModel", MODELS[header["builder"]](**arguments))  # with what is set below
    settings = {t["name"]: t for t in header.get("tasks", ())}
    try:
        model.tasks = tuple(configured(t, settings.get(t.name, {})) for t in model.tasks)
    except UsageError as e:
        raise BadWeights(f"the header of {path} is damaged: {e}; copy the file again") from e
    model.header = header
    return model


def save_run(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_weighting: Any,
    step: int,
    criteria: Mapping[str, Any] | None = None,
) -> None:
    """Write the complete state of a run, from which it resumes exactly.

    Args:
        path: of the file.
        model: in training.
        average: with averaged weights.
        optimizer: of the run.
        loss_weighting: of the run.
        step: number of steps done.
        criteria: by task; those that are modules have a state.
    """
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for name, criterion in (criteria or {}).items():
        if isinstance(criterion, nn.Module):
            tensors |= {f"criterion.{name}.{k}": v for k, v in criterion.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{k}": torch.as_tensor(v) for k, v in state.items()}
    tensors["rng"] = torch.get_rng_state()
    _write(path, tensors, {"format": FORMAT, "step": step, "balance": loss_weighting.state_dict()})


def load_run(
    path: Path,
    model: nn.Module,
    average: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_weighting: Any,
    criteria: Mapping[str, Any] | None = None,
) -> int:
    """Load the state that `save_run` wrote and return the step to resume from."""
    tensors, header = _read(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(part("model."))
    average.load_state_dict(part("average."))
    for name, criterion in (criteria or {}).items():
        if isinstance(criterion, nn.Module):
            criterion.load_state_dict(part(f"criterion.{name}."))
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in part("optimizer.").items():
        number, name = key.split(".", 1)
        states.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    loss_weighting.load_state_dict(header["balance"])
    torch.set_rng_state(tensors["rng"])
    return int(header["step"])
