"""What the model card is made of: raw answers on the validation sets, and temperatures and cuts fitted on
them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench.model_card import calibration
from bench.model_card.calibration import Answered
from mien import geometry, settings
from mien.data.formats import pack
from mien.errors import UsageError
from mien.inference.onnx_model import OnnxModel
from mien.tasks import AGE
from mien.tasks.attributes import CELEBA40
from mien.tasks.base import sigmoid, softmax
from mien.types import Crop, Floats

MALE, YOUNG = CELEBA40.index("Male"), CELEBA40.index("Young")
SETS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "utkface-val": (lambda: pack.utkface("val"), ("age", "attributes", "identity")),
    "celeba-val": (lambda: pack.celeba("val"), ("attributes", "identity")),
    "ferplus-val": (lambda: pack.ferplus("val"), ("expression",)),
    "ferplus-test": (lambda: pack.ferplus("test"), ("expression",)),
}
NO_CROP = Crop(np.zeros((1, 1, 3), np.uint8), np.eye(2, 3))


# --- Answers


def answers(
    model: OnnxModel, name: str, dataset: Any, names_kept: tuple[str, ...], batch: int = 32
) -> dict[str, Floats]:
    """Raw answers on a set's pictures, in its order; kept in the cache folder by the weights' sha256."""
    names = {k: next((t.name for t in model.tasks if t.name in (k, f"{k}512")), None) for k in names_kept}
    if lacks := [k for k, n in names.items() if n is None and k != "identity"]:
        raise UsageError(
            "the card is of networks that answer age, attributes and expression; this one lacks"
            f" {', '.join(lacks)}"
        )
    path = settings.cache_root() / f"answers-{model.sha256[:12]}-{name}.npz"
    if not path.is_file():
        rows = []
        for start in range(0, len(dataset), batch):
            samples = [dataset[i] for i in range(start, min(start + batch, len(dataset)))]
            pixels = np.stack([geometry.align(s.image, s.points, model.view).pixels for s in samples])
            raw = model(model.view.tensor(pixels))
            rows.append({k: raw[n] for k, n in names.items() if n is not None})
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, **{k: np.concatenate([r[k] for r in rows]) for k in rows[0]})  # type: ignore[arg-type]
        os.replace(part, path)
    with np.load(path) as file:
        return {k: file[k] for k in file.files}


@dataclass
class People:
    """UTKFace val: raw answers, and the labels, (n,) each."""

    raw: dict[str, Floats]
    male: np.ndarray
    years: np.ndarray
    race: np.ndarray


@dataclass
class Answers:
    """All that the page is made of.

    Attributes:
        celeba: raw answers on CelebA val.
        attributes: (n, 40) 0/1.
        persons: (n,).
        fer: split of FER+ -> logits, truth.
    """

    utk: People
    celeba: dict[str, Floats]
    attributes: np.ndarray
    persons: np.ndarray
    fer: dict[str, tuple[Floats, np.ndarray]]


def gather(model: OnnxModel) -> Answers:
    """Run the network, or read what it answered before."""
    raw, data = {}, {}
    for name, (opened, names_kept) in SETS.items():
        data[name] = opened()
        raw[name] = answers(model, name, data[name], names_kept)
        print(f"{name}: {len(data[name])} pictures", flush=True)
    root = settings.data_root()
    utk = pq.read_table(root / "utkface" / "val.parquet", columns=["name", "age", "male", "race"]).to_pydict()
    celeba = pq.read_table(
        root / "celeba" / "val.parquet", columns=["name", "identity", "attributes"]
    ).to_pydict()
    assert utk["name"] == data["utkface-val"].names
    assert celeba["name"] == data["celeba-val"].names
    people = People(
        raw["utkface-val"], np.array(utk["male"], int), np.array(utk["age"], float), np.array(utk["race"])
    )
    fer = {
        s: (
            raw[f"ferplus-{s}"]["expression"],
            np.array([d["expression"] for d in data[f"ferplus-{s}"].labels]),
        )
        for s in ("val", "test")
    }
    return Answers(
        people, raw["celeba-val"], np.array(celeba["attributes"], int), np.array(celeba["identity"]), fer
    )


# --- Calibration


@dataclass
class Fit:
    """Temperatures and cuts, and what the page says of them.

    Attributes:
        temperatures: task -> number, only where it helps pictures that it was not fitted on.
        abstain: answer -> minimum probability.
        rows: of the calibration table.
        tables: answer -> coverage and accuracy by cut, and on which pictures.
        covered: (n,) whether the age interval holds the truth, as trained and as it will be read.
    """

    temperatures: dict[str, float] = field(default_factory=dict)
    abstain: dict[str, float] = field(default_factory=dict)
    rows: list[str] = field(default_factory=list)
    tables: dict[str, tuple[list[Answered], str]] = field(default_factory=dict)
    covered: tuple[np.ndarray, np.ndarray] = field(default_factory=lambda: (np.zeros(0), np.zeros(0)))

    def decide(self, task: str, found: float, before: tuple[float, float], after: tuple[float, float]) -> str:
        """Keep a temperature where both ECE and loss fall; what the table says of it."""
        if after[0] < before[0] and after[1] < before[1]:
            self.temperatures[task] = round(found, 4)
            return "yes"
        return "no: it does not help"

    def add(
        self,
        name: str,
        where: str,
        n: int,
        before: tuple[float, float],
        after: tuple[float, float],
        found: float,
        names_kept: str,
    ) -> None:
        """A row; before and after are (ECE, loss)."""
        self.rows.append(
            f"| {name} | {where} | {n:,} | {100 * before[0]:.2f} | {100 * after[0]:.2f} | {before[1]:.4f} |"
            f" {after[1]:.4f} | {found:.3f} | {names_kept} |"
        )


def fit(a: Answers) -> Fit:
    """Temperatures on validation pictures; "after" is on pictures that the temperature has not seen."""
    out = Fit()
    _fit_expression(a, out)
    _fit_attributes(a, out)
    _fit_age(a.utk, out)
    _fit_cuts(a, out)
    return out


def _fit_expression(a: Answers, out: Fit) -> None:
    (z, y), (shown, truth) = a.fer["val"], a.fer["test"]
    found = calibration.choice_temperature(z, y)
    each = calibration.held_out(len(z), 5, lambda rows: calibration.choice_temperature(z[rows], y[rows]))[
        :, None
    ]

    def quality(z: Floats, y: np.ndarray, t: Any) -> tuple[float, float]:
        return calibration.ece(*top(softmax(z / t), y)), calibration.choice_loss(z / t, y, 1)

    names_kept = out.decide("expression", found, quality(z, y, 1), quality(z, y, each))
    out.add(
        "expression", "FER+ val, 5 folds", len(y), quality(z, y, 1), quality(z, y, each), found, names_kept
    )
    out.add(
        "expression",
        "FER+ test, fitted on val",
        len(truth),
        quality(shown, truth, 1),
        quality(shown, truth, found),
        found,
        names_kept,
    )


def _fit_attributes(a: Answers, out: Fit) -> None:
    z, y = a.celeba["attributes"], a.attributes
    found = calibration.binary_temperature(z, y)
    each = calibration.held_out(len(z), 5, lambda rows: calibration.binary_temperature(z[rows], y[rows]))[
        :, None
    ]

    def quality(t: Any) -> tuple[float, float]:
        return calibration.ece(sigmoid(z / t), y), calibration.binary_loss(z / t, y, 1)

    names_kept = out.decide("attributes", found, quality(1), quality(each))
    out.add("attributes, all 40", "CelebA val, 5 folds", y.size, quality(1), quality(each), found, names_kept)
    male, truth = a.utk.raw["attributes"][:, MALE], a.utk.male

    def other(t: float) -> tuple[float, float]:
        return calibration.ece(*confidence_and_truth(sigmoid(male / t), truth)), calibration.binary_loss(
            male, truth, t
        )

    out.add(
        "gender",
        "UTKFace val, fitted with the attributes",
        len(truth),
        other(1),
        other(found),
        found,
        names_kept,
    )


def _fit_age(utk: People, out: Fit) -> None:
    """Only where the interval holds less than it promises, by more than chance (two standard errors).

    One that holds more is left alone: these pictures are like those of the training, and others are harder.
    """
    raw, n = utk.raw["age"], len(utk.years)
    goal = AGE.read(raw[0], NO_CROP).coverage
    plain = covered = inside(raw, utk.years, 1.0)

    def find(rows: np.ndarray) -> float:
        return calibration.reaching(
            lambda t: float(inside(raw[rows], utk.years[rows], t).mean()), goal, low=0.5, high=20.0
        )

    if goal - plain.mean() > 2 * np.sqrt(goal * (1 - goal) / n):
        out.temperatures["age"] = round(find(np.arange(n)), 4)
        each = calibration.held_out(n, 5, find)
        covered = np.concatenate(
            [inside(raw[i : i + 1], utk.years[i : i + 1], float(each[i])) for i in range(n)]
        )
    out.covered = plain, covered


def _fit_cuts(a: Answers, out: Fit) -> None:
    """Cuts that halve the share of errors, on validation pictures."""
    male = confidence_and_truth(
        sigmoid(a.utk.raw["attributes"][:, MALE] / out.temperatures.get("attributes", 1.0)), a.utk.male
    )
    face = {s: top(softmax(z / out.temperatures.get("expression", 1.0)), y) for s, (z, y) in a.fer.items()}
    for name, chosen, shown, where in (
        ("gender", male, male, "UTKFace val, where the threshold was chosen"),
        ("expression", face["val"], face["test"], "FER+ test; the threshold was chosen on val"),
    ):
        cut = calibration.recommended(calibration.abstaining(*chosen), chosen[1])
        if cut is not None:
            out.abstain[name] = cut
        out.tables[name] = calibration.abstaining(*shown), where


def inside(raw: Floats, years: np.ndarray, temperature: float) -> np.ndarray:
    """(n,) whether the interval, read at a temperature, holds the label (a year is a year long)."""
    task = replace(AGE, temperature=temperature)
    read = [task.read(r, NO_CROP) for r in raw]
    return np.array([a.low - 0.5 <= y <= a.high + 0.5 for a, y in zip(read, years, strict=True)])


def top(p: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, k) -> probability of the likeliest, and whether it is right."""
    return p.max(1), p.argmax(1) == truth


def confidence_and_truth(p: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) of "yes" -> probability of the answer given, and whether it is right."""
    return np.maximum(p, 1 - p), (p >= 0.5) == (truth == 1)
