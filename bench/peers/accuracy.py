"""What each tool answers on labeled pictures: its own detector must find the face first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.peers.install import ROOT
from bench.peers.maps import answer
from bench.peers.roster import Peer
from bench.peers.wire import PeerFailed, Worker
from mien.evaluation.protocols import PROTOCOLS, Protocol
from mien.evaluation.scoring import face_at
from mien.tasks import TASKS, Metrics
from mien.types import Sample

SEED = 0


@dataclass(frozen=True, slots=True)
class Sitting:
    """A set that is shown once, and what is scored on it.

    Attributes:
        name: for the result.
        job: for tools that support it; the others only detect.
        protocols: names in `mien.evaluation.protocols.PROTOCOLS`; the first opens the set.
    """

    name: str
    job: str
    protocols: tuple[str, ...]


SITTINGS = (
    Sitting("mtfl", "points", ("mtfl",)),
    Sitting("helen68", "points", ("helen68",)),
    Sitting("utkface", "age_gender", ("utkface-age", "utkface-gender")),
    Sitting("ferplus", "expression", ("ferplus-test",)),
    Sitting("lfw", "embedding", ("lfw",)),
)


# protocol -> the number shown
SHOWN = {
    "mtfl": "nme", "helen68": "nme", "utkface-age": "mae", "utkface-gender": "accuracy:Male",
    "ferplus-test": "accuracy", "lfw": "accuracy",
}  # fmt: skip
MINIMUM = 20  # answered pictures, or pairs, below which there is no number


@dataclass(slots=True)
class Tally:
    """One tool on one set.

    Attributes:
        found: pictures in which it found the labeled face.
        predictions: protocol -> number of the picture -> (answer, label).
    """

    found: int = 0
    predictions: dict[str, dict[int, tuple[Any, Any]]] = field(default_factory=dict)

    def add(self, number: int, sample: Sample, faces: Sequence[Mapping[str, Any]]) -> None:
        """Keep what was answered of the labeled face.

        A face that was not found has no answer, and is counted as a miss.
        """
        face = the_face(faces, sample.points)
        if face is None:
            return
        self.found += 1
        for name, predictions in self.predictions.items():
            task = PROTOCOLS[name].task
            got = answer(task, face)
            if got is not None:
                predictions[number] = (got, sample.labels[task])


def the_face(faces: Sequence[Mapping[str, Any]], points: np.ndarray) -> Mapping[str, Any] | None:
    """Of the faces whose box holds the middle of the labeled five points, the one whose own middle is
    nearest; else None.
    """
    which = face_at(points, [f["box"] for f in faces])
    return None if which is None else faces[which]


def limited(dataset: Any, protocol: Protocol, limit: int | None) -> list[Sample]:
    """At most `limit` samples drawn with a fixed seed, in the set's order; of pairs, so many pairs, half of
    them the same person.
    """
    rng = np.random.default_rng(SEED)
    if protocol.task != "identity":
        n = len(dataset)
        picked = sorted(rng.permutation(n)[:limit].tolist())
        return [dataset[i] for i in picked]
    samples = [dataset[i] for i in range(len(dataset))]
    pairs = {number: same for s in samples for number, same in s.labels["identity"]}
    keep = set(pairs)
    if limit:
        sides = [np.array([p for p, same in sorted(pairs.items()) if same == side]) for side in (True, False)]
        keep = {int(p) for side in sides for p in rng.permutation(side)[: (limit + 1) // 2]}
    cut = [
        Sample(s.image, {"identity": [p for p in s.labels["identity"] if p[0] in keep]}, s.points, s.name)
        for s in samples
    ]
    return [s for s in cut if s.labels["identity"]]


def measure(
    peers: Sequence[Peer], limit: int | None, threads: int, root: Path = ROOT
) -> Iterator[dict[str, Any]]:
    """After each set, all so far: set -> {"pictures", "asked", "shown": {way of `WAYS`: see `rows_of`}}."""
    out: dict[str, Any] = {}
    with ExitStack() as stack:
        workers, failed = dict[str, Worker](), dict[str, str]()
        for p in peers:
            try:
                workers[p.name] = Worker(
                    p.name,
                    p.words(threads, root),
                    threads=threads,
                    log=root / "logs" / f"{p.name}-accuracy.log",
                )
            except PeerFailed as e:
                failed[p.name] = str(e)
                continue
            stack.enter_context(workers[p.name])
        for sitting in SITTINGS:
            out[sitting.name] = sit(sitting, peers, workers, failed, limit, root)
            yield out


def sit(
    sitting: Sitting,
    peers: Sequence[Peer],
    workers: Mapping[str, Worker],
    failed: dict[str, str],
    limit: int | None,
    root: Path,
    opened: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """One set before all tools, in each way of showing it. `failed` takes those that fail on the way."""
    protocol = PROTOCOLS[sitting.protocols[0]]
    samples = limited((opened or protocol.dataset)(), protocol, limit)
    shown = {}
    for way, change in WAYS.items():
        tallies = show(sitting, [change(s) for s in samples], peers, workers, failed, root)
        shown[way] = rows_of(sitting, tallies, failed)
        print(f"{sitting.name}, {way}: {len(samples)} pictures shown", flush=True)
    return {
        "pictures": len(samples),
        "asked": {n: _requested(n, samples) for n in sitting.protocols},
        "shown": shown,
    }


def show(
    sitting: Sitting,
    samples: Sequence[Sample],
    peers: Sequence[Peer],
    workers: Mapping[str, Worker],
    failed: dict[str, str],
    root: Path,
) -> dict[str, Tally]:
    """Picture by picture; the tools work side by side, for nothing is timed here."""
    able = {p.name: sitting.job in p.jobs for p in peers}
    tallies = {
        p.name: Tally(predictions={n: {} for n in sitting.protocols} if able[p.name] else {}) for p in peers
    }
    path = (root / "picture.npy").absolute()
    for i, sample in enumerate(samples):
        np.save(path, np.ascontiguousarray(sample.image))
        for step in ("send", "receive"):
            for name, worker in workers.items():
                if name in failed:
                    continue
                try:
                    if step == "send":
                        worker.send(path, sitting.job if able[name] else "detect")
                    else:
                        tallies[name].add(i, sample, worker.receive()["faces"])
                except PeerFailed as e:
                    failed[name] = f"at picture {i + 1} of {sitting.name}: {e}"
    return tallies


def rows_of(sitting: Sitting, tallies: Mapping[str, Tally], failed: Mapping[str, str]) -> dict[str, Any]:
    """Tool -> {"found", "scores": {protocol: see `compared`}} or {"reason"}."""
    rows: dict[str, Any] = {name: {"reason": failed[name]} for name in tallies if name in failed}
    rows |= {
        name: {"found": tally.found, "scores": {}} for name, tally in tallies.items() if name not in failed
    }
    for name in sitting.protocols:
        predictions = {
            p: tally.predictions[name]
            for p, tally in tallies.items()
            if name in tally.predictions and p not in failed
        }
        for p, scores in compared(name, predictions).items():
            rows[p]["scores"][name] = scores
    return rows


def framed(sample: Sample) -> Sample:
    """The picture enlarged to `SIDE` where it is smaller, in the middle of gray twice as wide and high;
    places moved along.

    Ours: most of these pictures are cut to the face, and detectors are made for photos in which a face has
    surroundings.
    """
    h, w = sample.image.shape[:2]
    scale = max(1.0, SIDE / min(h, w))
    big = (round(w * scale), round(h * scale))
    dx, dy = big[0] // 2, big[1] // 2
    image = np.full((big[1] + 2 * dy, big[0] + 2 * dx, 3), 128, np.uint8)
    image[dy : dy + big[1], dx : dx + big[0]] = cv2.resize(sample.image, big, interpolation=cv2.INTER_CUBIC)

    def moved(points: Any) -> np.ndarray:
        return (np.asarray(points, np.float64) + 0.5) * np.divide(big, (w, h)) - 0.5 + (dx, dy)

    labels = {k: moved(v) if k in ("points5", "landmarks") else v for k, v in sample.labels.items()}
    return Sample(image, labels, moved(sample.points), sample.name)


SIDE = 224
WAYS: dict[str, Callable[[Sample], Sample]] = {"stored": lambda s: s, "framed": framed}


def _requested(name: str, samples: Sequence[Sample]) -> int:
    """Pictures, or pairs."""
    if PROTOCOLS[name].task != "identity":
        return len(samples)
    return len({number for s in samples for number, _ in s.labels["identity"]})


Predictions = Mapping[int, tuple[Any, Any]]


def compared(name: str, predictions: Mapping[str, Predictions]) -> dict[str, dict[str, float]]:
    """Each tool's score on what it answered, and, as "common", on what all answered: whoever finds only easy
    faces errs less.
    """
    everywhere = set.intersection(*(set(t) for t in predictions.values())) if predictions else set()
    out = {}
    for p, own in predictions.items():
        scores = score(name, own)
        common = score(name, {i: own[i] for i in everywhere})
        out[p] = scores | {f"common_{k}": v for k, v in common.items()}
    return out


def score(name: str, predictions: Predictions) -> dict[str, float]:
    """{"answered", "value", "half"}: the protocol's number with half of its 95 % interval; the count alone
    below `MINIMUM`.
    """
    protocol = PROTOCOLS[name]
    metrics: Any = _collected(protocol, predictions.values())
    n = (
        len([1 for _, embeddings in metrics.seen.values() if len(embeddings) == 2])
        if protocol.task == "identity"
        else len(predictions)
    )
    if n < MINIMUM:
        return {"answered": n}
    value = float(metrics.compute()[SHOWN[name]])
    if SHOWN[name].startswith("accuracy"):
        return {"answered": n, "value": value, "half": 100 * half_of_share(value / 100 * n, n)}
    # the other numbers are means over pictures
    spread = float(
        np.std([_collected(protocol, [one]).compute()[SHOWN[name]] for one in predictions.values()])
    )
    return {"answered": n, "value": value, "half": 1.96 * spread / float(np.sqrt(n))}


def half_of_share(hits: float, n: int) -> float:
    """Half of the 95 % interval of hits / n, not zero where all or none hit (Agresti and Coull 1998)."""
    share = (hits + 2) / (n + 4)
    return float(1.96 * np.sqrt(share * (1 - share) / (n + 4)))


def _collected(protocol: Protocol, predictions: Iterable[tuple[Any, Any]]) -> Metrics:
    metrics = TASKS[protocol.task].metrics()
    for got, label in predictions:
        metrics.update(got, label)
    return metrics
