"""Provenance and permitted uses of weights: the JSON file next to them. Imports nothing heavy.

This is the only module that reads or writes that file.

A use is permitted only if the file lists it (`"uses": ["research", ...]`). An export is for research until
somebody who has the rights to every training picture, and to the encoder's initial weights, adds another use.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.errors import BadWeights, UsageError

WEIGHTS = Path(__file__).parents[1] / "weights"
USES = ("research", "commercial")


def provenance_path(path: Path) -> Path:
    """The provenance file of a weights file: FILE.json for FILE.onnx."""
    return path.with_suffix(".json")


def provenance_of(path: Path) -> dict[str, Any]:
    """The provenance file next to a weights file, FILE.json next to FILE.onnx; empty if there is none.

    Raises:
        BadWeights: it cannot be read, or is not a JSON object.
    """
    sidecar = provenance_path(path)
    if not sidecar.is_file():
        return {}
    found = json_object(bytes_of(sidecar), f"the provenance {sidecar}")
    # files of older versions spell the key "licence"
    return {"license" if k == "licence" else k: v for k, v in found.items()}


def write_provenance(path: Path, **facts: Any) -> dict[str, Any]:
    """Write the provenance file of a weights file, and return it.

    Args:
        path: of the weights.
        facts: training sets, license, scores ... as plain JSON values, written after the file's name, sha256
            and size in bytes.
    """
    data = path.read_bytes()
    record = {"file": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **facts}
    _write(path, record)
    return record


def update_provenance(path: Path, **facts: Any) -> None:
    """Replace facts in the provenance file of a weights file, or add them.

    Raises:
        BadWeights: there is none to update, or it cannot be read.
    """
    record = provenance_of(path)
    if not record:
        raise BadWeights(
            f"{path} has no {provenance_path(path).name} next to it; export it with: mien export"
        )
    _write(path, record | facts)


def remove_provenance(path: Path) -> None:
    """Delete the provenance file of a weights file that is about to be replaced, if there is one."""
    provenance_path(path).unlink(missing_ok=True)


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """Write atomically: a process that is killed while writing leaves the old file."""
    sidecar = provenance_path(path)
    part = sidecar.with_name(sidecar.name + ".part")
    part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, sidecar)


def bytes_of(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        BadWeights: it cannot be read.
    """
    try:
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as e:  # ValueError: a zero byte in the name
        why = getattr(e, "strerror", None) or e or "too large for the memory there is"
        raise BadWeights(
            f"cannot read the weights {str(path)!r}: {why}; install mien again, or name another file"
        ) from e


def json_object(text: bytes | str, whose: object) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        BadWeights: the text is not a JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise BadWeights(
            f"{whose} is damaged: it should hold JSON ({e}); install mien again, or copy the file again"
        ) from e
    if not isinstance(found, dict):
        raise BadWeights(
            f"{whose} is damaged: it should hold a JSON object, not {type(found).__name__}; install mien"
            " again"
        )
    return found


@dataclass(frozen=True, slots=True)
class Provenance:
    """Provenance of a weights file.

    Attributes:
        path: of the weights.
        sha256: of the weights.
        size: of the weights, in bytes.
        license: a sentence for people.
        uses: permitted uses, of `USES`.
        sets: training set -> its source and terms.
        builder: name in `mien.models.catalogue.MODELS`.
        tasks: name -> label set.
        view: see `mien.types.View`.
        record: the entire file.
    """

    path: Path
    sha256: str
    size: int
    license: str
    uses: tuple[str, ...]
    sets: dict[str, str]
    builder: str
    tasks: dict[str, str]
    view: dict[str, Any]
    record: dict[str, Any] = field(repr=False)

    def demand(self, use: str) -> None:
        """Check that a use is permitted.

        Raises:
            UsageError: it is not permitted, the provenance does not list it, or there is no such use.
        """
        if use not in USES:
            raise UsageError(f"a license is for {' or '.join(USES)} use, not {use!r}")
        if use in self.uses:
            return
        if not self.uses:
            raise UsageError(
                f"{self.path.name} does not say what it may be used for, so not for {use} use; see its"
                " training sets"
            )
        sets = "; ".join(f"{k} ({v})" for k, v in self.sets.items()) or "sets it does not name"
        raise UsageError(
            f"{self.path.name} is not for {use} use: {self.license}. Trained on: {sets}. "
            "Train weights on pictures that allow it (docs/adding.md), or leave out --license"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "file": self.path.name, "sha256": self.sha256, "bytes": self.size, "license": self.license,
            "uses": list(self.uses),
            "sets": self.sets, "builder": self.builder, "tasks": self.tasks, "view": self.view,
            "calibration": self.record.get("calibration", {}),
        }  # fmt: skip


def read(weights: str | os.PathLike[str]) -> Provenance:
    """The provenance of FILE.onnx, from FILE.json next to it.

    Raises:
        BadWeights: a file is missing, the two do not belong together, or a field that every export writes is
            missing.
    """
    path = Path(weights)
    sidecar = provenance_path(path)
    if not sidecar.is_file():
        raise BadWeights(f"{sidecar} cannot be read: there is no such file; export it with: mien export")
    record, found = provenance_of(path), hashlib.sha256(bytes_of(path)).hexdigest()
    if record.get("sha256") != found:
        raise BadWeights(
            f"{path} is not the file that {sidecar.name} describes: sha256 is {found[:16]}..., expected"
            f" {str(record.get('sha256'))[:16]}..."
        )
    try:
        header = record["header"]
        return Provenance(
            path,
            found,
            record["bytes"],
            record.get("license", "not stated"),
            tuple(record.get("uses", ())),
            dict(record.get("sets", {})),
            header["builder"],
            {t["name"]: t["labels"] for t in header["tasks"]},
            header["view"],
            record,
        )
    except (ValueError, KeyError, TypeError) as e:
        raise BadWeights(
            f"{sidecar} is not a provenance file ({type(e).__name__}: {e}); export the weights again"
        ) from e


def embedded(folder: Path = WEIGHTS) -> list[Provenance]:
    """The weights in the package, by name."""
    return [read(p) for p in sorted(folder.glob("*.onnx"))]
