"""Measured false-match and false-non-match rates by similarity, stored next to the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mien.errors import UsageError
from mien.inference.weights_file import WEIGHTS

TABLE = WEIGHTS / "identity_fmr.json"
WANTED = tuple(m * 10.0**e for e in (-4, -3, -2, -1) for m in (1, 2, 5))  # a table's rows: 1e-4 .. 0.5


@dataclass(frozen=True, slots=True)
class Rates:
    """A network's table of similarities and error rates per comparison of two faces.

    Attributes:
        model: sha256 of the weights it was measured with.
        task: the identity task.
        impostors: number of measured pairs of different people.
        genuine: number of measured pairs of the same person.
        rows: false-match rate ascending, each with its similarity ("threshold", inclusive), counts and FNMR.
        note: the pictures, their crops, and what the table does not cover.
    """

    model: str
    task: str
    impostors: int
    genuine: int
    rows: tuple[dict[str, float], ...]
    note: str = ""

    @staticmethod
    def of(model: str, path: Path = TABLE) -> Rates | None:
        """The table of a network by its sha256; None if the file was measured with another network."""
        d = json.loads(path.read_text(encoding="utf-8"))
        if d["model"] != model:
            return None
        return Rates(
            d["model"], d["task"], d["impostor_pairs"], d["genuine_pairs"], tuple(d["rows"]), d["note"]
        )

    def threshold(self, fmr: float) -> float:
        """The minimum similarity whose false-match rate is at most `fmr`, log-linear between rows.

        Raises:
            UsageError: the rate is outside the measured range.
        """
        rates = [r["fmr"] for r in self.rows]
        if not rates[0] <= fmr <= rates[-1]:
            raise UsageError(
                f"fmr must be {rates[0]:g} to {rates[-1]:g}, the range that was measured, not {fmr:g}; or"
                " give threshold="
            )
        return float(np.interp(np.log(fmr), np.log(rates), [r["threshold"] for r in self.rows]))

    def fmr(self, similarity: float) -> float:
        """The false-match rate at a similarity. Beyond the measured range, the rate of its end."""
        cuts = [r["threshold"] for r in reversed(self.rows)]
        return float(np.exp(np.interp(similarity, cuts, np.log([r["fmr"] for r in reversed(self.rows)]))))


def measure(
    impostors: np.ndarray, genuine: np.ndarray, wanted: tuple[float, ...] = WANTED
) -> list[dict[str, float]]:
    """Compute the rows of a table from the similarities of impostor pairs and genuine pairs.

    Each threshold is the smallest number with at most `fmr * len(impostors)` impostors at or above it,
    rounded up to six digits; "false_matches" and "false_non_matches" are counts at the threshold as written.
    """
    strangers, same, n = np.sort(impostors.astype(np.float64)), genuine.astype(np.float64), len(impostors)
    rows = []
    for fmr in wanted:
        allowed = int(fmr * n + 1e-9)
        threshold = float(np.floor(strangers[n - allowed - 1] * 1e6 + 1) / 1e6)
        missed = int((same < threshold).sum())
        rows.append(
            {
                "fmr": float(f"{fmr:.3g}"),
                "threshold": threshold,
                "false_matches": int((strangers >= threshold).sum()),
                "fnmr": round(missed / len(same), 4),
                "false_non_matches": missed,
            }
        )
    return rows


def written(
    model: str, task: str, impostors: np.ndarray, genuine: np.ndarray, facts: dict[str, Any]
) -> dict[str, Any]:
    """The JSON of a table; `facts` describe the measurement."""
    head = {"model": model, "task": task, "impostor_pairs": len(impostors), "genuine_pairs": len(genuine)}
    return head | facts | {"rows": measure(impostors, genuine)}
