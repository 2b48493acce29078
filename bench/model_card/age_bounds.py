"""Age bounds: how well `Age.at_least` is calibrated, and how often the young are taken for older, by group.

Photos go through the network and its own detector; a face that the detector does not find is left out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.model_card.calibration import bootstrap, ece, reliability
from mien import geometry, settings
from mien.data.formats import wild
from mien.evaluation.scoring import face_at
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.tasks import AGE
from mien.tasks.age import BOUNDS
from mien.types import Crop, Floats

SETS: dict[str, Callable[[], Any]] = {
    "UTKFace val": lambda: wild.utkface("val"),
    "All-Age-Faces val": lambda: wild.aaf("val", landmarks=False),
}
SHOWN = (18, 25)  # bounds with error rates by group
BINS = 5  # of the calibration
FEW = 10
RACES = ("White", "Black", "Asian", "Indian", "other")


@dataclass
class Bounded:
    """One set.

    Attributes:
        name: of the set.
        given: number of its pictures.
        over: (n, 5) predicted probabilities of `BOUNDS`, of the faces that the detector found.
        years, male, race: (n,) labels; race is -1 where the set has none.
    """

    name: str
    given: int
    over: np.ndarray
    years: np.ndarray
    male: np.ndarray
    race: np.ndarray

    def rates(self, bound: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of one bound, and whether it is true."""
        return self.over[:, BOUNDS.index(bound)], self.years >= bound


def gather(model: OnnxModel) -> list[Bounded]:
    """Run detector and network on all sets, or read what they answered before."""
    return [_measured(model, name, opened()) for name, opened in SETS.items()]


def _measured(model: OnnxModel, name: str, dataset: Any) -> Bounded:
    raw, found = _answers(model, name, dataset)
    read = [
        list(task.read(r, Crop(np.zeros((1, 1, 3), np.uint8), np.eye(2, 3))).at_least.values())
        for task in (next((t for t in model.tasks if t.name == "age"), AGE),)
        for r in raw[found]
    ]
    facts = [f for f, there in zip(dataset.facts, found, strict=True) if there]
    years, male, race = (np.array([f.get(k, -1) for f in facts]) for k in ("age", "male", "race"))
    return Bounded(name, len(dataset), np.array(read).reshape(-1, len(BOUNDS)), years, male, race)


def _answers(model: OnnxModel, name: str, dataset: Any) -> tuple[Floats, np.ndarray]:
    """(n, 101) raw ages, and (n,) whether the detector found the face; kept in the cache folder."""
    slug = name.lower().replace(" ", "-")
    finder = OnnxModel(WEIGHTS / "detector.onnx", threads=1)
    path = settings.cache_root() / f"answers-{model.sha256[:12]}-{finder.sha256[:12]}-bounds-{slug}.npz"
    if not path.is_file():
        network = OnnxModel(model.path, threads=1, tasks=["age"])
        find = Detector(finder)
        raw, found = np.zeros((len(dataset), 101), np.float32), np.zeros(len(dataset), bool)
        for i in range(len(dataset)):
            sample = dataset[i]
            faces = find(sample.image)
            which = face_at(sample.points, [f.box for f in faces])
            if which is None:
                continue
            crop = geometry.align(sample.image, faces[which].points, network.view)
            raw[i], found[i] = network(network.view.tensor(crop.pixels[None]))["age"][0], True
        part = path.with_suffix(".part.npz")
        np.savez_compressed(part, raw=raw, found=found)
        os.replace(part, path)
    with np.load(path) as file:
        return file["raw"], file["found"]


def section(sets: Sequence[Bounded]) -> Iterator[str]:
    """The section of the page."""
    yield "## Age bounds\n"
    yield (
        "`at_least` gives the probability that a face looks at least 13, 16, 18, 21 or 25 years old."
        " **Do not use it alone to let somebody in or keep somebody out**: see the error rates. Faces found"
        f" by our detector. ECE: {BINS} bins, in brackets the largest gap of a bin with 30 or more faces, in"
        " points. False positive: younger, and the probability is at least 0.5 or 0.95.\n"
    )
    yield "| set | faces found | " + " | ".join(f"ECE, at least {b}" for b in BOUNDS) + " |"
    yield "|" + " --- |" * (2 + len(BOUNDS))
    for one in sets:
        cells = []
        for bound in BOUNDS:
            p, truth = one.rates(bound)
            gaps = [abs(b.confidence - b.accuracy) for b in reliability(p, truth, bins=BINS) if b.n >= 30]
            cells.append(f"{100 * ece(p, truth, bins=BINS):.1f} ({100 * max(gaps, default=0.0):.1f})")
        yield f"| {one.name} | {len(one.years):,} of {one.given:,} | " + " | ".join(cells) + " |"
    yield ""
    head = [f"over {b}, at {cut:g}, %" for b in SHOWN for cut in (0.5, 0.95)]
    yield "| set, group | younger than 18 / 25 | " + " | ".join(head) + " |"
    yield "|" + " --- |" * (2 + len(head))
    for one in sets:
        for name, group in groups(one).items():
            young = [group & (one.years < b) for b in SHOWN]
            if max(y.sum() for y in young) < FEW:
                continue
            cells = [
                _rate(one.rates(b)[0][y] >= cut)
                for b, y in zip(SHOWN, young, strict=True)
                for cut in (0.5, 0.95)
            ]
            count = " / ".join(f"{y.sum():,}" for y in young)
            yield f"| {one.name}, {name} | {count} | " + " | ".join(cells) + " |"
    yield ""


def groups(one: Bounded) -> dict[str, np.ndarray]:
    """The groups of a set, one label at a time."""
    found = {"all": np.ones(len(one.years), bool)}
    found |= {g: one.male == v for g, v in (("female", 0), ("male", 1))}
    return found | {r: one.race == i for i, r in enumerate(RACES) if (one.race == i).any()}


def _rate(wrong: np.ndarray) -> str:
    if len(wrong) < FEW:
        return "too few"
    mean, low, high = (100 * v for v in bootstrap(wrong))
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"
