"""`finetune` and `merge`: from labeled pictures to one weights file with a new task."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mien import geometry, settings
from mien.errors import BadWeights, UsageError
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import WEIGHTS, provenance_of, write_provenance
from mien.inference.reading import Reading
from mien.io.image import load_photo
from mien.tasks import Task
from mien.tasks.attributes import AttributesTask
from mien.tasks.choice import ChoiceTask
from mien.tasks.kinds import check_name, entry_of, label_set
from mien.tasks.number import COVERAGE, NumberTask
from mien.training.finetune import report, table
from mien.training.finetune.faces import FaceReader, Faces, crop_of
from mien.training.finetune.graph import Graph
from mien.training.finetune.heads import Head, Trainer, higher_is_better, score_of, targets_of
from mien.training.finetune.report import Interval
from mien.training.finetune.splits import Split, split
from mien.types import Face, Floats
from mien.visualize.contact_sheet import ContactSheet

DEPTHS = ("head", "decoder", "all")
POOLED = 2  # the last maps of the encoder, whose means are features
CHECKED = 8  # faces on which old and new file are compared
TOLERANCE = 0.05  # raw numbers: kept features have 16 bits, the graph has 32
STRATA = 5  # of a number

Log = Callable[[str], None]
Progress = Callable[[int], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True)
class Finetuned:
    """What `finetune` made.

    Attributes:
        path: the weights file.
        report: folder with report.json, report.md and pictures.
        task: the new task.
        score: on the test part.
        record: report.json.
    """

    path: Path
    report: Path
    task: Task[Any]
    score: Interval
    record: dict[str, Any]


def finetune(
    data: str | Path,
    name: str,
    out: str | Path,
    *,
    kind: str | None = None,
    columns: Sequence[str] = (),
    unit: str = "",
    weights: str | Path | None = None,
    depth: str = "head",
    folder: str | Path | None = None,
    seed: int = 0,
    threads: int | None = None,
    log: Log = lambda text: None,
    progress: Progress = lambda total: nullcontext(lambda: None),
) -> Finetuned:
    """Teach a network a new task from labeled pictures; its old answers stay bit for bit as they are.

    A stopped run goes on where it was when it is started again: features and finished stages are kept.

    Args:
        data: a folder of class folders, or a .csv or .parquet table, see `mien.training.finetune.table`.
        name: of the new task.
        out: FILE.onnx.
        kind: "choice", "attributes" or "number"; None: it follows from the labels.
        columns: label columns of a table; none: all that have no other meaning.
        unit: of a number.
        weights: the network; None for the embedded one.
        depth: "head": the network stands still.
        folder: of the report; None: OUT without its suffix, and `-report`.
        seed: of the split, the batches and the initial weights.
        threads: of inference and training; None for all cores.
        log: called with lines about the progress.
        progress: number of pictures -> a context that gives what is called after each.

    Raises:
        UsageError: names, labels or settings that do not fit; the message says the fix.
        BadWeights: no network that a head can be added to.
    """
    out, base = Path(out), Path(weights) if weights is not None else WEIGHTS / "mien.onnx"
    check_name(name)
    _check_settings(out, base, depth)
    labels = _labels(Path(data), kind, columns)
    log(f"kind: {labels.kind}, {labels.why}; {len(labels.rows)} labeled pictures")
    place = Path(folder) if folder is not None else out.with_name(out.stem + "-report")
    place.mkdir(parents=True, exist_ok=True)
    graph = Graph(base)
    if name in graph.tensors or name in {t["name"] for t in graph.header["tasks"]}:
        raise UsageError(
            f"{name!r} has a meaning in {base} already; choose another name, such as 'my_{name}'"
        )
    inputs = _inputs(graph)
    reader = _face_reader(graph, inputs, threads)
    given = len(labels.rows)
    with progress(given) as step:
        faces = reader.read(labels.rows, step)
    problems = [*labels.problems, *faces.problems]
    faces, labels = _usable(faces, labels, problems)
    parts = split(faces.rows, faces.kept, _strata(labels.kind, faces.rows), seed=seed)
    problems += parts.problems
    for text in problems:
        log(f"warning: {text}")
    train, val, test = (parts.index(n) for n in table.SPLITS)
    _check_parts(train, val, test)
    log(f"split: {len(train)} train, {len(val)} validation, {len(test)} test pictures")
    task, targets = _task(labels, name, unit, faces.rows, train)
    if threads:
        import torch

        torch.set_num_threads(threads)
    trainer = Trainer(task, faces.features, targets, seed=seed, folder=place / "stages")
    head = trainer.best(train, val, log)
    task = calibrated(task, head(faces.features[val, 0]), [targets[i] for i in val])
    half = _half(trainer, head, train, val, parts.group, seed)
    graph.append_vector_head(entry_of(task), inputs, head.layers)
    graph.header["frozen"] = {"sha256": graph.frozen_sha256(), "weights": _origin(graph)}
    graph.save(out)
    record = _measure(task, head, faces, targets, parts, half)
    record |= {
        "name": name, "kind": labels.kind, "why": labels.why, "names": list(labels.names), "unit": unit,
        "file": out.name, "frozen": graph.header["frozen"]["sha256"], "seed": seed, "problems": problems,
        "split_by": "person" if any(r.person for r in faces.rows) else "picture",
        "old_answers": _compare(base, out, task, faces, head, reader, threads),
        "pictures": {"given": given, "used": len(train) + len(val) + len(test), "train": len(train),
            "val": len(val), "test": len(test), **{k: v for k, v in faces.counts.items() if k != "ok"}},
    }  # fmt: skip
    _provenance(base, out, record, graph)
    _write_report(task, head, faces, targets, parts, place, record, reader)
    log(f"wrote {out} and {place / 'report.md'}")
    score = report.Interval(
        record["test"]["metric"],
        *(record["test"][k] for k in ("value", "low", "high", "n", "groups")),
    )
    return Finetuned(out, place, task, score, record)


def merge(first: str | Path, second: str | Path, out: str | Path) -> list[str]:
    """One file with the fine-tuned tasks of two, which share their frozen network; all its new tasks.

    Raises:
        UsageError: they do not share it, or both have a task of one name. BadWeights: an unreadable file.
    """
    first, second, out = Path(first), Path(second), Path(out)
    if out.suffix != ".onnx":
        raise UsageError(f"--out takes FILE.onnx, not {str(out)!r}")
    graph, other = Graph(first), Graph(second)
    graph.take_heads(other)
    one, two = provenance_of(first), provenance_of(second)
    graph.save(out)
    OnnxModel(out, threads=1)  # reads what it was written
    facts = {k: v for k, v in one.items() if k not in ("file", "sha256", "bytes", "header")}
    facts |= {
        "uses": [u for u in one.get("uses", []) if u in two.get("uses", [])],
        "sets": one.get("sets", {}) | two.get("sets", {}),
        "finetuned": one.get("finetuned", {}) | two.get("finetuned", {}),
        "header": graph.header,
    }
    write_provenance(out, **facts)
    return graph.heads()


# --- Before


def _labels(data: Path, kind: str | None, columns: Sequence[str]) -> table.Labels:
    labels = table.read(data, kind=kind, columns=columns)
    if labels.kind in ("points", "masks"):
        raise UsageError(
            f"{labels.kind} cannot be fine-tuned yet: this version learns choice, attributes and number."
            " Train"
            " a network with its own head instead, see docs/adding.md"
        )
    return labels


def _check_settings(out: Path, base: Path, depth: str) -> None:
    if out.suffix != ".onnx":
        raise UsageError(f"--out takes FILE.onnx, not {str(out)!r}")
    if out.resolve() == base.resolve():
        raise UsageError(f"--out would replace the network {base} itself; name another file")
    if depth not in DEPTHS:
        raise UsageError(f"no depth {depth!r}; choose from: {', '.join(DEPTHS)}")
    if depth != "head":
        raise UsageError(
            f"depth {depth!r} is not there yet: this version trains the head and leaves the network as it is."
            " Leave --depth out, or train a whole network with: mien train RECIPE"
        )


def _inputs(graph: Graph) -> list[tuple[str, str]]:
    found = graph.features()
    return [(v, "vector") for v in found.vectors] + [(m, "mean") for m in found.maps[:POOLED]]


def _face_reader(graph: Graph, inputs: Sequence[tuple[str, str]], threads: int | None) -> FaceReader:
    finder = OnnxModel(WEIGHTS / "detector.onnx", threads=threads)
    network = graph.reading([t for t, _ in inputs], threads)
    view = OnnxModel(graph.path, threads=threads, tasks=[graph.header["tasks"][0]["name"]]).view
    stamp = f"{graph.frozen_sha256()} {finder.sha256} {[t for t, _ in inputs]}"
    how = [h for _, h in inputs]
    cache = settings.cache_root()
    return FaceReader(Detector(finder), network, how, view, stamp=stamp, cache=cache)


def _usable(faces: Faces, labels: table.Labels, problems: list[str]) -> tuple[Faces, table.Labels]:
    """What is left once pictures without a face are gone: classes with too few are left out too."""
    if not faces.rows:
        raise UsageError(
            "none of the pictures shows one face that can be read; check a few with: mien analyze PICTURE"
        )
    if labels.kind != "choice":
        return faces, labels
    left = replace(labels, rows=faces.rows, problems=[])
    table.keep_classes(left, Counter(r.label for r in faces.rows))
    problems += left.problems
    keep = [i for i, r in enumerate(faces.rows) if r.label in left.names]
    faces = replace(
        faces,
        rows=[faces.rows[i] for i in keep],
        kept=[faces.kept[i] for i in keep],
        features=faces.features[keep],
    )
    return faces, replace(left, problems=labels.problems)


def _strata(kind: str, rows: Sequence[table.Row]) -> list[Any]:
    """What each part should have its share of: classes, fifths of a number, or answers."""
    if kind == "choice":
        return [r.label for r in rows]
    if kind == "number":
        values = np.array([r.label for r in rows], np.float64)
        edges = np.quantile(values, np.arange(1, STRATA) / STRATA)
        return list(np.searchsorted(edges, values))
    return [tuple(sorted(r.label.items())) if len(r.label) == 1 else 0 for r in rows]


def _check_parts(*parts: npt.NDArray[np.int64]) -> None:
    for name, part in zip(table.SPLITS, parts, strict=True):
        if len(part) < 2:
            raise UsageError(
                f"the {name} part has {len(part)} pictures of different people; at least 2 are needed, so add"
                " pictures, or change the columns 'split' and 'person'"
            )


def _task(
    labels: table.Labels, name: str, unit: str, rows: Sequence[table.Row], train: npt.NDArray[np.int64]
) -> tuple[Task[Any], list[Any]]:
    """The task, and the labels as it encodes them."""
    if unit and labels.kind != "number":
        raise UsageError(f"--unit is of a number; this task is of the kind {labels.kind}")
    if labels.kind == "choice":
        names = labels.names
        mirror = _mirror(names)
        own = label_set(name, "choice", names)
        task: Task[Any] = ChoiceTask(name, own, names, mirror=mirror)
        return task, [names.index(r.label) for r in rows]
    if labels.kind == "attributes":
        return AttributesTask(name, label_set(name, "attributes", labels.names), labels.names), [
            r.label for r in rows
        ]
    values = np.array([r.label for r in rows], np.float64)
    known = values[train]
    spread = float(known.std())
    if spread <= 0:
        raise UsageError("all training pictures have one number; add pictures with others")
    reach = 0.1 * float(known.max() - known.min())
    return NumberTask(
        name,
        label_set(name, "number", unit),
        unit,
        center=float(np.median(known)),
        scale=spread,
        minimum=float(known.min()) - reach,
        maximum=float(known.max()) + reach,
    ), [float(v) for v in values]


def _mirror(names: Sequence[str]) -> tuple[int, ...]:
    """What classes become in a mirror: "left" and "right" change places; () where nothing does."""

    def other(name: str) -> str:
        words = {"left": "right", "right": "left", "Left": "Right", "Right": "Left"}
        return re.sub("left|right|Left|Right", lambda m: words[m[0]], name)

    order = [names.index(other(n)) if other(n) in names else i for i, n in enumerate(names)]
    return tuple(order) if order != list(range(len(names))) else ()


# --- After


def calibrated(task: Task[Any], raw: Floats, labels: Sequence[Any]) -> Task[Any]:
    """The task, reading at the temperature or interval that fits the validation part."""
    if isinstance(task, NumberTask):
        answers = [task.read(r, report.CROP) for r in raw]
        error = np.array([abs(a.estimate - y) for a, y in zip(answers, labels, strict=True)])
        spread = task.scale * np.exp(np.clip(raw[:, 1], -5, 5))
        n = len(error)
        level = min(1.0, np.ceil((n + 1) * COVERAGE) / n)
        return replace(task, interval=max(float(np.quantile(error / spread, level)), 1e-3))
    if isinstance(task, ChoiceTask | AttributesTask):
        import torch

        target, mask = (torch.from_numpy(part) for part in targets_of(task, labels, mirror=False))
        criterion, scores = task.criterion(), torch.from_numpy(np.asarray(raw, np.float32))
        grid = np.exp(np.linspace(np.log(0.25), np.log(4), 121))
        losses = [float(criterion(scores / float(t), target, mask)) for t in grid]
        return replace(task, temperature=round(float(grid[int(np.argmin(losses))]), 4))
    return task


def _half(
    trainer: Trainer,
    head: Head,
    train: npt.NDArray[np.int64],
    val: npt.NDArray[np.int64],
    group: npt.NDArray[np.int64],
    seed: int,
) -> tuple[float, float] | None:
    """Validation scores with half of the training people and with all; None for a handful of pictures."""
    if len(train) < 20:
        return None
    groups = np.random.default_rng([seed, 1]).permutation(np.unique(group[train]))
    some = train[np.isin(group[train], groups[: len(groups) // 2])]
    if isinstance(trainer.task, ChoiceTask) and len({trainer.labels[i] for i in some}) < 2:
        return None
    return trainer.again(head, some, val).score, head.score


def _measure(
    task: Task[Any],
    head: Head,
    faces: Faces,
    targets: Sequence[Any],
    parts: Split,
    half: tuple[float, float] | None,
) -> dict[str, Any]:
    train, val, test = (parts.index(n) for n in table.SPLITS)
    raw = {n: head(faces.features[i, 0]) for n, i in zip(table.SPLITS, (train, val, test), strict=True)}
    truth = {n: [targets[k] for k in i] for n, i in zip(table.SPLITS, (train, val, test), strict=True)}
    name, values = report.errors_of(task, raw["test"], truth["test"])
    score = report.bootstrap(name, values, parts.group[test])
    guess = report.baseline(task, truth["train"], truth["test"])
    means = [float(report.errors_of(task, raw[n], truth[n])[1].mean()) for n in ("train", "val")]
    matrix = report.confusion(task, raw["test"], truth["test"]) if isinstance(task, ChoiceTask) else None
    by_person = any(r.person for r in faces.rows)
    return {
        "test": score.to_dict(),
        "metrics": {k: round(float(v), 4) for k, v in score_of(task, raw["test"], truth["test"]).items()},
        "train_score": round(means[0], 4),
        "val_score": round(means[1], 4),
        "baseline": round(guess, 4),
        "half": None if half is None else [round(v, 4) for v in half],
        "head": {"hidden": head.hidden, "l2": head.l2, "higher_is_better": higher_is_better(name)},
        "calibration": _calibration_words(task),
        "confusion": None if matrix is None else matrix.tolist(),
        "next": report.advice(task, score, guess, half, means[0], means[1], matrix, by_person),
    }


def _calibration_words(task: Task[Any]) -> str:
    if isinstance(task, NumberTask):
        return (
            f"intervals of {task.interval:.3g} predicted spreads each way, for {COVERAGE:.0%} of the truths"
        )
    return f"temperature {getattr(task, 'temperature', 1.0):g}, from the validation part"


def _compare(
    base: Path, out: Path, task: Task[Any], faces: Faces, head: Head, reader: FaceReader, threads: int | None
) -> str:
    """Check the written file on some faces: old answers bit for bit, the new one as trained.

    Raises:
        BadWeights: they differ.
    """
    which = list(range(min(CHECKED, len(faces.rows))))
    images = reader.view.tensor(
        np.stack([crop_of(faces.rows[i], faces.kept[i], reader.view).pixels for i in which])
    )
    before, after = OnnxModel(base, threads=threads), OnnxModel(out, threads=threads)
    old, new = before(images), after(images)
    for name, raw in old.items():
        if not np.array_equal(raw, new[name]):
            raise BadWeights(
                f"{out} changes the old answer {name!r}; please report this, and do not use the file"
            )
    gap = float(np.abs(new[task.name] - head(faces.features[which, 0])).max())
    if gap > TOLERANCE * max(1.0, float(np.abs(new[task.name]).max())):
        raise BadWeights(
            f"{out} answers {task.name!r} otherwise than was trained, by {gap:.2g}; do not use it"
        )
    return f"bit for bit as before on {len(which)} faces: {', '.join(old)}"


def _origin(graph: Graph) -> str:
    """The sha256 of the weights file that the frozen network came from."""
    before = graph.header.get("frozen")
    return str(before["weights"]) if isinstance(before, dict) and "weights" in before else graph.sha256


def _provenance(base: Path, out: Path, record: dict[str, Any], graph: Graph) -> None:
    """The provenance file: what the frozen network says, and the new task."""
    before = provenance_of(base)
    facts = {k: v for k, v in before.items() if k not in ("file", "sha256", "bytes", "header", "parity")}
    keys = ("kind", "names", "unit", "pictures", "seed", "test", "baseline", "split_by")
    facts |= {
        "license": before.get("license", "not stated"),
        "uses": before.get("uses", []),
        "sets": before.get("sets", {})
        | {record["name"]: "labeled pictures of whoever fine-tuned this file: terms not stated"},
        "finetuned": before.get("finetuned", {}) | {record["name"]: {k: record[k] for k in keys}},
        "header": graph.header,
    }
    write_provenance(out, **facts)


def _write_report(
    task: Task[Any],
    head: Head,
    faces: Faces,
    targets: Sequence[Any],
    parts: Split,
    place: Path,
    record: dict[str, Any],
    reader: FaceReader,
) -> None:
    """Pictures, contact sheet, report.json and report.md; the record gets their names."""
    test = parts.index("test")
    raw, truth = head(faces.features[test, 0]), [targets[i] for i in test]
    picture = report.draw_errors(task, raw, truth, place)
    sheet = _error_sheet(task, raw, truth, [(faces.rows[i], faces.kept[i]) for i in test], place, reader)
    files = {"picture": picture, "errors": sheet}
    record["files"] = {k: v.name for k, v in files.items() if v is not None}
    report.write_json(place / "report.json", record)
    report.write_text(place / "report.md", report.card(record, picture, sheet))


def _error_sheet(
    task: Task[Any],
    raw: Floats,
    truth: Sequence[Any],
    pictures: Sequence[tuple[table.Row, Any]],
    place: Path,
    reader: FaceReader,
) -> Path | None:
    """The worst errors of the test part as a contact sheet; None where there is none."""
    name, values = report.errors_of(task, raw, truth)
    worst = np.argsort(values if higher_is_better(name) else -values, kind="stable")
    wrong = [int(i) for i in worst if values[i] < 100] if higher_is_better(name) else worst.tolist()
    path = place / "errors.html"
    if not wrong:
        path.unlink(missing_ok=True)
        return None
    sheet = ContactSheet(path, f"{task.name}: errors on the test pictures")
    for i in wrong[: report.ERRORS]:
        row, kept = pictures[i]
        photo = load_photo(row.source)
        crop = geometry.align(photo.pixels, kept.points, reader.view)
        answer = task.read(raw[i], crop)
        label = f"{row.name} (label: {report.words(task, truth[i])})"
        face = Face(kept.box.astype(np.float32), kept.score, kept.points.astype(np.float32),
            {task.name: answer}, crop)  # fmt: skip
        reading = Reading(label, photo)
        reading.append(face)
        sheet.add(reading)
        photo.release()
    sheet.close()
    return path
