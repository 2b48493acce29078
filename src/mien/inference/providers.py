"""Where networks run: ONNX Runtime's execution providers, and short names of devices for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime as ort

from mien.errors import UsageError

Provider = str | tuple[str, Mapping[str, Any]]  # a name, or a name and the provider's options

CPU = "CPUExecutionProvider"
DEVICES = {
    "cpu": CPU,
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
}
_NUMBERED = ("cuda", "directml")  # devices of which a machine may have several
# The packages that bring the providers; ONNX Runtime for macOS has Core ML.
_PACKAGES = {
    "cuda": "install onnxruntime-gpu in place of onnxruntime",
    "directml": "install onnxruntime-directml in place of onnxruntime, on Windows",
    "coreml": "use a Mac",
}
_log = logging.getLogger(__name__)


def name_of(provider: Provider) -> str:
    """The provider's name, without its options."""
    return provider if isinstance(provider, str) else str(provider[0])


def available(providers: Sequence[Provider]) -> list[Provider]:
    """Those providers that are available, in order, and the CPU last, as ONNX Runtime falls through its list.

    A provider that this installation lacks is left out with a warning.

    Raises:
        UsageError: a name that ONNX Runtime does not know.
    """
    if isinstance(providers, str):
        raise UsageError(f"providers must be a list of names, not a string: providers=[{providers!r}]")
    here = ort.get_available_providers()
    names = [name_of(p) for p in providers]
    if unknown := [n for n in names if n not in here and n not in ort.get_all_providers()]:
        raise UsageError(f"no {unknown[0]} here; there are: {', '.join(here)}")
    kept = [p for p in providers if name_of(p) in here]
    if CPU not in names:
        kept.append(CPU)
    if absent := [n for n in names if n not in here]:
        _log.warning("no %s here; %s is used", ", ".join(absent), name_of(kept[0]))
    return kept


def providers_of(device: str) -> list[Provider]:
    """The providers of a device: its own, and the CPU for operators that it lacks.

    Args:
        device: "cpu", "cuda", "coreml" or "directml"; "cuda:1" is the second of its kind.

    Raises:
        UsageError: another name, or a device that this installation of ONNX Runtime cannot use.
    """
    kind, colon, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind not in DEVICES or (colon and (kind not in _NUMBERED or not number.isdecimal())):
        raise UsageError(f"device is {', '.join(DEVICES)}, or one by number such as cuda:1; not {device!r}")
    name, here = DEVICES[kind], ort.get_available_providers()
    if name not in here:
        raise UsageError(
            f"device {device!r} needs {name}, and ONNX Runtime here has {', '.join(here)}:"
            f" {_PACKAGES[kind]}, or pass device='cpu'"
        )
    if name == CPU:
        return [CPU]
    return [(name, {"device_id": int(number)}) if colon else name, CPU]


def warn_if_lost(wanted: Sequence[Provider], running: Sequence[str]) -> None:
    """Warn where the preferred provider is installed but could not start, and the next one runs in its place.

    Args:
        wanted: as `available` gives them.
        running: what the session reports.
    """
    if (first := name_of(wanted[0])) not in running:
        _log.warning(
            "%s could not start (see ONNX Runtime's message above); %s is used", first, ", ".join(running)
        )
