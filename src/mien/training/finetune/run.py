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
from mien.inference.reader import Reader
from mien.inference.reading import Reading
from mien.inference.weights_file import measured_sha256
from mien.io.image import load_photo
from mien.tasks import Task
from mien.tasks.attributes import AttributesTask
from mien.tasks.choice import ChoiceTask
from mien.tasks.kinds import check_name, label_set
from mien.tasks.landmarks import LandmarkTask
from mien.tasks.number import NumberTask
from mien.tasks.parsing import ParsingTask
from mien.training.finetune import annotation_files, pictures, report, table
from mien.training.finetune.faces import FaceReader, Faces, crop_of
from mien.training.finetune.graph import Graph
from mien.training.finetune.learn import (
    Inputs,
    Learned,
    Lesson,
    calibration_words,
    inputs_of,
    learn,
)
from mien.training.finetune.report import Interval, higher_is_better
from mien.training.finetune.splits import Split, split
from mien.types import Array, Face, Floats
from mien.visualize.contact_sheet import ContactSheet

DEPTHS = ("head", "decoder", "all")
CHECKED = 8  # faces on which old and new file are compared
TOLERANCE = 0.05  # raw numbers: kept features have 16 bits, the graph has 32
STRATA = 5  # of a number
SYMMETRIC = 0.05  # sides of the crop by which the mirror image of a point may miss its partner

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
    """Teach a network a new task from labeled pictures; its old answers stay bit for bit as they are, unless
    `depth` says otherwise.

    A stopped run goes on where it was when it is started again: features and finished stages are kept.

    Args:
        data: a folder of class folders, a table or annotations, see `mien.training.finetune.table`.
        name: of the new task.
        out: FILE.onnx.
        kind: "choice", "attributes", "number", "points" or "masks"; None: it follows from the labels.
        columns: label columns of a table, or categories; none: all that have no other meaning.
        unit: of a number.
        weights: the network; None for the embedded one.
        depth: "head": the network stands still. "decoder" and "all": more of it learns, see
            `mien.training.finetune.deeper`, and old answers can change a little.
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
    labels = table.read(Path(data), kind=kind, columns=columns)
    log(f"kind: {labels.kind}, {labels.why}; {len(labels.rows)} labeled pictures")
    place = Path(folder) if folder is not None else out.with_name(out.stem + "-report")
    place.mkdir(parents=True, exist_ok=True)
    graph = Graph(base)
    if name in graph.tensors or name in {t["name"] for t in graph.header["tasks"]}:
        raise UsageError(
            f"{name!r} has a meaning in {base} already; choose another name, such as 'my_{name}'"
        )
    dense = labels.kind in annotation_files.KINDS
    inputs = inputs_of(graph)
    reader = _face_reader(graph, [] if dense else inputs, threads)
    given = len(labels.rows)
    with progress(given) as step:
        faces = reader.read(labels.rows, step)
    problems = [*labels.problems, *faces.problems]
    faces, labels = _usable(faces, labels, problems)
    parts = split(faces.rows, faces.kept, _strata(labels.kind, faces.rows), seed=seed)
    problems += parts.problems
    task, targets, mirror = _task(labels, name, unit, faces, parts.index("train"), problems)
    near = list[pictures.Near | None]()
    if dense or depth != "head":
        with progress(len(faces.rows)) as step:
            near = pictures.read_all(faces.rows, faces.kept, task, targets, reader.view, problems, step)
        parts.part = ["" if n is None else p for n, p in zip(near, parts.part, strict=True)]
    for text in problems:
        log(f"warning: {text}")
    train, val, test = (parts.index(n) for n in table.SPLITS)
    _check_parts(train, val, test)
    log(f"split: {len(train)} train, {len(val)} validation, {len(test)} test pictures")
    if threads:
        import torch

        torch.set_num_threads(threads)
    lesson = Lesson(base, graph, task, faces, targets, near, parts, place, depth, seed, threads, mirror, log)
    learned = learn(lesson, dense)
    task, graph = learned.task, learned.graph
    graph.header["frozen"] = {"sha256": graph.frozen_sha256()}
    if depth == "head":
        graph.header["frozen"]["weights"] = measured_sha256(graph)
    graph.save(out)
    record = _measure(learned, faces, parts)
    record |= {
        "name": name, "kind": labels.kind, "why": labels.why, "names": list(labels.names), "unit": unit,
        "file": out.name, "frozen": graph.header["frozen"]["sha256"], "seed": seed, "problems": problems,
        "depth": depth, "split_by": "person" if any(r.person for r in faces.rows) else "picture",
        "old_answers": _compare(base, out, learned, faces, train, reader, threads, exact=depth == "head"),
        "pictures": {"given": given, "used": len(train) + len(val) + len(test), "train": len(train),
            "val": len(val), "test": len(test), **{k: v for k, v in faces.counts.items() if k != "ok"}},
    }  # fmt: skip
    _provenance(base, out, record, graph)
    _write_report(learned, faces, targets, parts, place, record, reader)
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


def _check_settings(out: Path, base: Path, depth: str) -> None:
    if out.suffix != ".onnx":
        raise UsageError(f"--out takes FILE.onnx, not {str(out)!r}")
    if out.resolve() == base.resolve():
        raise UsageError(f"--out would replace the network {base} itself; name another file")
    if depth not in DEPTHS:
        raise UsageError(f"no depth {depth!r}; choose from: {', '.join(DEPTHS)}")


def _face_reader(graph: Graph, inputs: Inputs, threads: int | None) -> FaceReader:
    """The pipeline of `mien.load`, and the features that are kept of each face; none for points and masks."""
    finder = OnnxModel(WEIGHTS / "detector.onnx", threads=threads)
    network = graph.reading([t for t, _ in inputs], threads) if inputs else None
    model = OnnxModel(graph.path, threads=threads, tasks=[graph.header["tasks"][0]["name"]])
    stamp = f"{graph.frozen_sha256() if inputs else ''} {finder.sha256} {[t for t, _ in inputs]}"
    how = [h for _, h in inputs]
    reader = Reader(Detector(finder), model, tasks=())
    return FaceReader(reader, network, how, stamp=stamp, cache=settings.cache_root())


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
    if kind in annotation_files.KINDS:
        return [0] * len(rows)
    return [tuple(sorted(r.label.items())) if len(r.label) == 1 else 0 for r in rows]


def _check_parts(*parts: npt.NDArray[np.int64]) -> None:
    for name, part in zip(table.SPLITS, parts, strict=True):
        if len(part) < 2:
            raise UsageError(
                f"the {name} part has {len(part)} pictures of different people; at least 2 are needed, so add"
                " pictures, or change the columns 'split' and 'person'"
            )


def _task(
    labels: table.Labels,
    name: str,
    unit: str,
    faces: Faces,
    train: npt.NDArray[np.int64],
    problems: list[str],
) -> tuple[Task[Any], list[Any], bool]:
    """The task, the labels as it encodes them, and whether pictures may be mirrored."""
    rows = faces.rows
    if unit and labels.kind != "number":
        raise UsageError(f"--unit is of a number; this task is of the kind {labels.kind}")
    if labels.kind == "choice":
        names = labels.names
        mirror = _mirror(names)
        own = label_set(name, "choice", names)
        task: Task[Any] = ChoiceTask(name, own, names, mirror=mirror)
        return task, [names.index(r.label) for r in rows], True
    if labels.kind == "attributes":
        task = AttributesTask(name, label_set(name, "attributes", labels.names), labels.names)
        return task, [r.label for r in rows], True
    if labels.kind == "masks":
        order = _mirror(labels.names)
        pairs = {labels.names[i]: labels.names[j] for i, j in enumerate(order) if i < j}
        own = label_set(name, "masks", labels.names)
        return ParsingTask(name, own, labels.names, pairs), [r.label for r in rows], True
    if labels.kind == "points":
        return _points_task(labels, name, faces, train, problems)
    values = np.array([r.label for r in rows], np.float64)
    known = values[train]
    spread = float(known.std())
    if spread <= 0:
        raise UsageError("all training pictures have one number; add pictures with others")
    reach = 0.1 * float(known.max() - known.min())
    return (
        NumberTask(
            name,
            label_set(name, "number", unit),
            unit,
            center=float(np.median(known)),
            scale=spread,
            minimum=float(known.min()) - reach,
            maximum=float(known.max()) + reach,
        ),
        [float(v) for v in values],
        True,
    )


def _points_task(
    labels: table.Labels, name: str, faces: Faces, train: npt.NDArray[np.int64], problems: list[str]
) -> tuple[Task[Any], list[Any], bool]:
    """Points, and which of them change places in a mirror: by their names, or by where they are."""
    names = () if all(n.isdigit() for n in labels.names) else labels.names
    template = np.asarray(geometry.TEMPLATES["head"], np.float64)
    places = [
        geometry.move_points(faces.rows[i].label, geometry.fit_similarity(faces.kept[i].points, template))
        for i in train
    ]
    seen = np.stack(places)
    known = np.asarray(np.isfinite(seen).all(2))
    if not known.any(0).all():
        lacking = labels.names[int(np.argmin(known.any(0)))]
        raise UsageError(f"no training picture has the point {lacking!r}; mark it, or remove it everywhere")
    means = np.where(known[..., None], seen, 0).sum(0) / known.sum(0)[:, None]
    order, sure = mirror_of_points(names, means)
    if not sure:
        problems.append(
            "which points are left and right partners is not known: name them, such as left_brow and"
            " right_brow. Pictures are not mirrored in training; do not use --mirror with this task"
        )
    own = label_set(name, "points", labels.names)
    task = LandmarkTask(name, own, order, None, names=names)
    targets = [{"points": r.label, "box": k.box} for r, k in zip(faces.rows, faces.kept, strict=True)]
    return task, targets, sure


def mirror_of_points(names: Sequence[str], places: Array) -> tuple[tuple[int, ...], bool]:
    """For each point the one that it becomes in a mirror, and whether that is known.

    Args:
        names: "left" and "right" in them change places; empty for none.
        places: (n, 2) mean places in the aligned face, in sides of the crop.
    """
    if by_name := _mirror(names):
        return by_name, True
    flipped = places * (-1, 1) + (1, 0)
    distances = np.linalg.norm(flipped[:, None] - places[None], axis=-1)
    partner = distances.argmin(1)
    order = np.arange(len(places))
    good = np.array_equal(partner[partner], order) and distances[order, partner].max() <= SYMMETRIC
    return (tuple(int(i) for i in partner), True) if good else (tuple(range(len(places))), False)


def _mirror(names: Sequence[str]) -> tuple[int, ...]:
    """What classes become in a mirror: "left" and "right" change places; () where nothing does."""

    def other(name: str) -> str:
        words = {"left": "right", "Left": "Right", "l_": "r_"}
        words |= {b: a for a, b in words.items()}
        return re.sub("left|right|Left|Right|^[lr]_", lambda m: words[m[0]], name)

    order = [names.index(other(n)) if other(n) in names else i for i, n in enumerate(names)]
    return tuple(order) if order != list(range(len(names))) else ()


# --- After


def _measure(learned: Learned, faces: Faces, parts: Split) -> dict[str, Any]:
    """Scores of the parts and what to do next."""
    task, labels = learned.task, learned.labels
    train, val, test = (parts.index(n) for n in table.SPLITS)
    truth = [labels[i] for i in test]
    answers = learned.answers(test, learned.raw(test))
    name, values = report.errors_of(task, answers, truth)
    score = report.bootstrap(name, values, parts.group[test])
    known = [labels[i] for i in train]
    if learned.crops and isinstance(task, LandmarkTask | ParsingTask):
        guess = report.map_baseline(task, known, truth, learned.crops(train), learned.crops(test))
    else:
        guess = report.baseline(task, known, truth)
    means: dict[str, float | None] = {"train": None}
    for part, which in (("train", train), ("val", val)):
        if part == "val" or learned.crops is None:
            found = learned.answers(which, learned.raw(which))
            means[part] = float(report.errors_of(task, found, [labels[i] for i in which])[1].mean())
    matrix = report.confusion(task, answers, truth) if isinstance(task, ChoiceTask) else None
    by_person = any(r.person for r in faces.rows)
    assert means["val"] is not None
    facts = {k: v for k, v in learned.facts.items() if k not in ("layers", "module")}
    return {
        "test": score.to_dict(),
        "metrics": {k: round(float(v), 4) for k, v in report.metrics_of(task, answers, truth).items()},
        "train_score": None if means["train"] is None else round(means["train"], 4),
        "val_score": round(means["val"], 4),
        "baseline": round(guess, 4),
        "half": None if learned.half is None else [round(v, 4) for v in learned.half],
        "head": {**facts, "higher_is_better": higher_is_better(name)},
        "calibration": calibration_words(task),
        "confusion": None if matrix is None else matrix.tolist(),
        "next": report.advice(
            task, score, guess, learned.half, means["train"], means["val"], matrix, by_person
        ),
    }


def _compare(
    base: Path,
    out: Path,
    learned: Learned,
    faces: Faces,
    train: npt.NDArray[np.int64],
    reader: FaceReader,
    threads: int | None,
    *,
    exact: bool,
) -> str:
    """Check the written file on some faces: the new answer as trained, and old answers bit for bit.

    Args:
        exact: whether the old answers must not change; else the words say how far they moved.

    Raises:
        BadWeights: they differ.
    """
    which = train[:CHECKED]
    task = learned.task
    images = reader.view.tensor(
        np.stack([crop_of(faces.rows[i], faces.kept[i], reader.view).pixels for i in which])
    )
    before, after = OnnxModel(base, threads=threads), OnnxModel(out, threads=threads)
    old, new = before(images), after(images)
    gap = float(np.abs(new[task.name] - learned.raw(which)).max())
    if gap > TOLERANCE * max(1.0, float(np.abs(new[task.name]).max())):
        raise BadWeights(
            f"{out} answers {task.name!r} otherwise than was trained, by {gap:.2g}; do not use it"
        )
    if not exact:
        far = {n: 100 * float(np.abs(new[n] - r).mean()) / (float(r.std()) or 1.0) for n, r in old.items()}
        words = ", ".join(f"{n} {v:.2g}" for n, v in far.items())
        return f"mean change of raw numbers on {len(which)} faces, in percent of their spread: {words}"
    for name, raw in old.items():
        if not np.array_equal(raw, new[name]):
            raise BadWeights(
                f"{out} changes the old answer {name!r}; please report this, and do not use the file"
            )
    return f"bit for bit as before on {len(which)} faces: {', '.join(old)}"


def _provenance(base: Path, out: Path, record: dict[str, Any], graph: Graph) -> None:
    """The provenance file: what the frozen network says, and the new task."""
    before = provenance_of(base)
    facts = {k: v for k, v in before.items() if k not in ("file", "sha256", "bytes", "header", "parity")}
    keys = ("kind", "names", "unit", "pictures", "seed", "depth", "test", "baseline", "split_by")
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
    learned: Learned,
    faces: Faces,
    targets: Sequence[Any],
    parts: Split,
    place: Path,
    record: dict[str, Any],
    reader: FaceReader,
) -> None:
    """Pictures, contact sheet, report.json and report.md; the record gets their names."""
    test, task = parts.index("test"), learned.task
    raw = learned.raw(test)
    answers, truth = learned.answers(test, raw), [learned.labels[i] for i in test]
    picture = report.draw_errors(task, answers, truth, place)
    errors = report.errors_of(task, answers, truth)
    words = [report.words(task, targets[i]) for i in test]
    sheet = _error_sheet(
        task, raw, errors, words, [(faces.rows[i], faces.kept[i]) for i in test], place, reader
    )
    files = {"picture": picture, "errors": sheet}
    record["files"] = {k: v.name for k, v in files.items() if v is not None}
    report.write_json(place / "report.json", record)
    report.write_text(place / "report.md", report.card(record, picture, sheet))


def _error_sheet(
    task: Task[Any],
    raw: Floats,
    errors: tuple[str, Array],
    words: Sequence[str],
    shown: Sequence[tuple[table.Row, Any]],
    place: Path,
    reader: FaceReader,
) -> Path | None:
    """The worst errors of the test part as a contact sheet; None where there is none."""
    name, values = errors
    worst = np.argsort(values if higher_is_better(name) else -values, kind="stable")
    wrong = [int(i) for i in worst if values[i] < 100] if higher_is_better(name) else worst.tolist()
    path = place / "errors.html"
    if not wrong:
        path.unlink(missing_ok=True)
        return None
    sheet = ContactSheet(path, f"{task.name}: errors on the test pictures")
    for i in wrong[: report.ERRORS]:
        row, kept = shown[i]
        photo = load_photo(row.source)
        crop = geometry.align(photo.pixels, kept.points, reader.view)
        answer = task.read(raw[i], crop)
        label = f"{row.name} (label: {words[i]})" if words[i] else f"{row.name} ({name} {values[i]:.3g})"
        face = Face(kept.box.astype(np.float32), kept.score, kept.points.astype(np.float32),
            {task.name: answer}, crop)  # fmt: skip
        reading = Reading(label, photo)
        reading.append(face)
        sheet.add(reading)
        photo.release()
    sheet.close()
    return path
