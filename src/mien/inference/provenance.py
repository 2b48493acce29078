"""Where weights come from and what they may be used for: the JSON file beside them, read. Imports nothing
heavy.

A use is allowed only where the file says so (`"uses": ["research", ...]`): a file that is silent allows none.
Exports are for research until somebody who has the rights to every training picture, and to what the encoder
started from, adds another use.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mien.errors import BadWeights, UsageError

FOLDER = Path(__file__).parents[1] / "weights"
USES = ("research", "commercial")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What is known of a weights file.

    Attributes:
        path: of the weights.
        sha256, size: as promised; size in bytes.
        licence: for people.
        uses: of `USES`, what is allowed.
        sets: training set -> where it is from and its terms.
        builder: in `mien.models.catalogue.MODELS`.
        tasks: name -> label set.
        view: see `mien.types.View`.
        record: the whole file.
    """

    path: Path
    sha256: str
    size: int
    licence: str
    uses: tuple[str, ...]
    sets: dict[str, str]
    builder: str
    tasks: dict[str, str]
    view: dict[str, Any]
    record: dict[str, Any] = field(repr=False)

    def demand(self, use: str) -> None:
        """Pass quietly if these weights may be used so.

        Raises:
            UsageError: they may not, or their provenance does not say; or there is no such use.
        """
        if use not in USES:
            raise UsageError(f"a licence is asked for as {' or '.join(USES)}, not {use!r}")
        if use in self.uses:
            return
        if not self.uses:
            raise UsageError(
                f"{self.path.name} does not say what it may be used for, so not for {use} use; see its"
                " training sets"
            )
        sets = "; ".join(f"{k} ({v})" for k, v in self.sets.items()) or "sets it does not name"
        raise UsageError(
            f"{self.path.name} is not for {use} use: {self.licence}. Trained on: {sets}. "
            "Train weights on pictures that allow it (docs/adding.md), or leave out --license"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "file": self.path.name, "sha256": self.sha256, "bytes": self.size, "licence": self.licence,
            "uses": list(self.uses),
            "sets": self.sets, "builder": self.builder, "tasks": self.tasks, "view": self.view,
            "calibration": self.record.get("calibration", {}),
        }  # fmt: skip


def read(weights: str | os.PathLike[str]) -> Provenance:
    """The provenance of FILE.onnx, from FILE.json beside it.

    Raises:
        BadWeights: one of the two is not there, they are not of each other, or the second lacks what every
            export writes.
    """
    path = Path(weights)
    beside = path.with_suffix(".json")
    try:
        record = json.loads(beside.read_text(encoding="utf-8"))
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != record["sha256"]:
            raise BadWeights(
                f"{path} is not what {beside.name} tells of: sha256 is {found[:16]}..., promised"
                f" {record['sha256'][:16]}..."
            )
        header = record["header"]
        return Provenance(
            path,
            record["sha256"],
            record["bytes"],
            record.get("licence", "not said"),
            tuple(record.get("uses", ())),
            dict(record.get("sets", {})),
            header["builder"],
            {t["name"]: t["labels"] for t in header["tasks"]},
            header["view"],
            record,
        )
    except OSError as e:
        raise BadWeights(
            f"{path} with {beside.name} beside it cannot be read ({e.strerror}); export it with: mien export"
        ) from e
    except (ValueError, KeyError, TypeError) as e:
        raise BadWeights(
            f"{beside} is no provenance file ({type(e).__name__}: {e}); export the weights again"
        ) from e


def embedded(folder: Path = FOLDER) -> list[Provenance]:
    """The weights in the package, by name."""
    return [read(p) for p in sorted(folder.glob("*.onnx"))]
