"""What a fine-tuning found out: scores with intervals, a picture of the errors, and what to do next."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from mien.tasks import Task
from mien.tasks.attributes import AttributesTask
from mien.tasks.choice import ChoiceTask
from mien.tasks.landmarks import LandmarkTask
from mien.tasks.number import NumberTask
from mien.tasks.parsing import ParsingTask
from mien.types import Array, Crop, Floats

RESAMPLES = 1000  # of the bootstrap
LEVEL = 0.95
ERRORS = 60  # on the contact sheet
CROP = Crop(np.zeros((2, 2, 3), np.uint8), np.eye(2, 3))
INK, SOFT, LINE, BLUE, RED = (25, 30, 40), (120, 125, 135), (215, 218, 224), (40, 110, 200), (205, 60, 50)


@dataclass(frozen=True)
class Interval:
    """A score with its bootstrap interval.

    Attributes:
        name: of the metric.
        value: on all pictures of the part.
        low, high: ends of the interval that `LEVEL` of the resamples lie in.
        n: pictures.
        groups: people and single pictures that were resampled as a whole.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    groups: int

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g} ({self.low:.3g} to {self.high:.3g}; {self.n} pictures)"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "metric": self.name, "value": round(self.value, 4), "low": round(self.low, 4),
            "high": round(self.high, 4), "level": LEVEL, "n": self.n, "groups": self.groups,
        }  # fmt: skip


def answers_of(task: Task[Any], raw: Floats, crops: Sequence[Crop] | None = None) -> list[Any]:
    """Answers from raw numbers; of points and masks in the photos that the crops are of."""
    if crops is None:
        return [task.read(r, CROP) for r in raw]
    return [task.read(r, c) for r, c in zip(raw, crops, strict=True)]


def higher_is_better(headline: str) -> bool:
    """Whether a larger headline metric is the better one; errors are not."""
    return headline not in ("mae", "nme")


def errors_of(task: Task[Any], answers: Sequence[Any], labels: Sequence[Any]) -> tuple[str, Array]:
    """(the headline metric, what each picture adds to it): its mean over pictures is the score.

    For masks the mean over pictures of the mean F1, in which a class that a picture lacks does not count.
    """
    if isinstance(task, ChoiceTask):
        hits = [100.0 * (a.label == task.names[y]) for a, y in zip(answers, labels, strict=True)]
        return "accuracy", np.array(hits, np.float64)
    if isinstance(task, AttributesTask):
        shares = [
            100.0 * np.mean([(a[n] >= 0.5) == (v >= 0.5) for n, v in y.items()])
            for a, y in zip(answers, labels, strict=True)
        ]
        return "accuracy", np.array(shares, np.float64)
    if isinstance(task, NumberTask):
        return "mae", np.array(
            [abs(a.estimate - y) for a, y in zip(answers, labels, strict=True)], np.float64
        )
    values = list[float]()
    for answer, label in zip(answers, labels, strict=True):
        metrics = task.metrics()
        metrics.update(answer, label)
        values.append(metrics.compute()[metrics.headline])
    return task.metrics().headline, np.array(values, np.float64)


def bootstrap(name: str, values: Array, group: npt.NDArray[np.int64], seed: int = 0) -> Interval:
    """The mean with its interval; people and duplicates are drawn as a whole."""
    _, at = np.unique(group, return_inverse=True)
    sums, counts = np.bincount(at, values), np.bincount(at).astype(np.float64)
    draws = np.random.default_rng(seed).integers(len(sums), size=(RESAMPLES, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(name, float(values.mean()), float(low), float(high), len(values), len(sums))


def metrics_of(task: Task[Any], answers: Sequence[Any], labels: Sequence[Any]) -> dict[str, float]:
    """All metrics of the task."""
    metrics = task.metrics()
    for answer, label in zip(answers, labels, strict=True):
        metrics.update(answer, label)
    return metrics.compute()


def baseline(task: Task[Any], train: Sequence[Any], test: Sequence[Any]) -> float:
    """The headline metric of one answer for every picture: the commonest class, or the median."""
    if isinstance(task, ChoiceTask):
        commonest = np.bincount(np.asarray(train), minlength=len(task.names)).argmax()
        return 100 * float((np.asarray(test) == commonest).mean())
    if isinstance(task, AttributesTask):
        shares = {n: np.mean([y[n] for y in train if n in y]) >= 0.5 for n in task.names}
        return 100 * float(np.mean([np.mean([shares[n] == (v >= 0.5) for n, v in y.items()]) for y in test]))
    return float(np.abs(np.asarray(test, np.float64) - np.median(np.asarray(train, np.float64))).mean())


def map_baseline(
    task: Task[Any],
    train: Sequence[Any],
    test: Sequence[Any],
    train_crops: Sequence[Crop],
    crops: Sequence[Crop],
) -> float:
    """The headline metric of the mean training label, in the crop, as the answer for every picture."""
    h, w = train_crops[0].pixels.shape[:2]
    pairs = [
        task.encode_target(y, c.from_photo, False, (w, h)) for y, c in zip(train, train_crops, strict=True)
    ]
    if isinstance(task, LandmarkTask):
        known = np.stack([m for _, m in pairs])[..., None]
        places = np.stack([t for t, _ in pairs])
        mean = np.where(known, places, 0).sum(0) / np.maximum(known.sum(0), 1)
    else:
        classes = np.arange(len(task.label_names))[:, None, None]
        mean = np.mean([(np.asarray(t)[None] == classes).astype(np.float32) for t, _ in pairs], 0)
    mean = np.asarray(mean, np.float32)
    return float(errors_of(task, [task.read(mean, c) for c in crops], test)[1].mean())


def confusion(task: ChoiceTask, answers: Sequence[Any], labels: Sequence[int]) -> npt.NDArray[np.int64]:
    """(k, k): rows are labels, columns are answers."""
    k = len(task.names)
    guess = [task.names.index(a.label) for a in answers]
    return np.bincount(np.asarray(labels) * k + guess, minlength=k * k).reshape(k, k)


# --- What to do next


def advice(
    task: Task[Any],
    score: Interval,
    guess: float,
    halves: tuple[float, float] | None,
    train_score: float | None,
    val_score: float,
    matrix: npt.NDArray[np.int64] | None,
    by_person: bool,
) -> list[str]:
    """What one would do next, the most useful first.

    Args:
        score: on the test part.
        guess: of one answer for every picture.
        halves: validation scores with half of the training pictures and with all.
        train_score, val_score: of the same head; None where the former was not measured.
        matrix: see `confusion`.
        by_person: whether people were told apart.
    """
    lower = not higher_is_better(score.name)
    out = list[str]()
    if (score.high >= guess) if lower else (score.low <= guess):
        out.append(
            f"The head is not clearly better than one answer for every picture ({score.name} {guess:.3g})."
            " Check the labels on the contact sheet; if they are right, the crop may not show what they are"
            " about, or there are too few pictures."
        )
    width = score.high - score.low
    if score.name == "accuracy" and width > 10:
        out.append(
            f"The interval is {width:.0f} points wide, because the test part has {score.n} pictures. Four"
            " times"
            " as many pictures make it half as wide."
        )
    if halves is not None:
        half, every = halves
        gain = (half - every) if lower else (every - half)
        if gain > (0.03 * every if lower else 1.0):
            out.append(
                "More pictures will help: with half of the training pictures the validation score is"
                f" {half:.3g},"
                f" with all {every:.3g}."
            )
        else:
            out.append(
                "More pictures like these will help little: with half of the training pictures the"
                " validation"
                f" score is {half:.3g}, with all {every:.3g}. Look at the errors first."
            )
    if matrix is not None and isinstance(task, ChoiceTask):
        recall = np.diag(matrix) / np.maximum(matrix.sum(1), 1)
        worst = int(np.argmin(np.where(matrix.sum(1) > 0, recall, 2)))
        others = matrix[worst].copy()
        others[worst] = -1
        other = int(others.argmax())
        if recall[worst] < 0.9 and matrix[worst, other] > 0:
            out.append(
                f"The weakest class is {task.names[worst]!r}: {recall[worst]:.0%} of its"
                f" {int(matrix[worst].sum())} test pictures are right, and most errors are read as"
                f" {task.names[other]!r}. Add pictures of both, or join them if people confuse them too."
            )
    gap = 0.0 if train_score is None else train_score - val_score
    gap = -gap if lower else gap
    if train_score is not None and gap > (0.5 * max(train_score, 1e-9) if lower else 15):
        out.append(
            f"The head knows its training pictures by heart ({train_score:.3g} there, {val_score:.3g} on the"
            " validation part): more varied pictures help more than a larger head."
        )
    if not by_person:
        out.append(
            "If some people are in several pictures, add a column 'person': otherwise the score is better"
            " than"
            " it will be for new people."
        )
    out.append("Measure on pictures from where the task will be used before anybody relies on it.")
    return out


# --- Pictures


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def confusion_picture(matrix: npt.NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Rows are labels, columns are answers; each row is colored by its shares."""
    k = len(names)
    cell = int(np.clip(720 / k, 26, 90))
    font, small = _font(int(np.clip(cell / 4, 11, 16))), _font(13)
    left, top = 150, 120
    image = Image.new("RGB", (left + k * cell + 20, top + k * cell + 40), "white")
    draw = ImageDraw.Draw(image)
    draw.text((left, 8), "answer", SOFT, small)
    draw.text((8, top - 20), "label", SOFT, small)
    for i, name in enumerate(names):
        draw.text((8, top + i * cell + cell // 2 - 8), _short(name, 18), INK, small)
        tag = Image.new("RGB", (100, 18), "white")
        ImageDraw.Draw(tag).text((0, 0), _short(name, 14), INK, small)
        turned = tag.rotate(60, expand=True, fillcolor="white")
        image.paste(turned, (left + i * cell + cell // 4, top - turned.height))
    for i in range(k):
        total = max(int(matrix[i].sum()), 1)
        for j in range(k):
            share = float(matrix[i, j]) / total
            good = BLUE if i == j else RED
            color = tuple(round(255 + (c - 255) * share) for c in good)
            box = (left + j * cell, top + i * cell, left + (j + 1) * cell - 2, top + (i + 1) * cell - 2)
            draw.rectangle(box, fill=color, outline=LINE)
            if matrix[i, j]:
                text = str(int(matrix[i, j]))
                at = (
                    box[0] + (cell - draw.textlength(text, font)) / 2,
                    box[1] + cell / 2 - font.size / 2 - 2,
                )
                draw.text(at, text, "white" if share > 0.5 else INK, font)
    image.save(path)


def error_picture(truth: Array, guess: Array, unit: str, path: Path) -> None:
    """Left: prediction against label. Right: the share of pictures with at most so large an error."""
    size, pad = 420, 60
    image = Image.new("RGB", (2 * (size + pad) + 40, size + 2 * pad), "white")
    draw, font = ImageDraw.Draw(image), _font(13)
    low, high = float(min(truth.min(), guess.min())), float(max(truth.max(), guess.max()))
    high = high if high > low else low + 1

    def place(v: float) -> float:
        return (v - low) / (high - low) * size

    draw.rectangle((pad, pad, pad + size, pad + size), outline=LINE)
    draw.line((pad, pad + size, pad + size, pad), fill=LINE)
    for t, g in zip(truth, guess, strict=True):
        x, y = pad + place(t), pad + size - place(g)
        draw.ellipse((x - 2.5, y - 2.5, x + 2.5, y + 2.5), fill=BLUE)
    name = f" ({unit})" if unit else ""
    draw.text((pad, pad - 22), f"prediction{name} over label{name}", INK, font)
    draw.text((pad, pad + size + 6), f"{low:.4g}", SOFT, font)
    draw.text((pad + size - 40, pad + size + 6), f"{high:.4g}", SOFT, font)
    _draw_curve(draw, guess - truth, name, (2 * pad + size + 20, pad), size, font)
    image.save(path)


def rates_picture(
    rows: Sequence[tuple[str, float, int]], path: Path, what: str = "accuracy, percent"
) -> None:
    """A bar for each (name, percent, pictures)."""
    height, left, width = 24, 190, 420
    image = Image.new("RGB", (left + width + 130, height * len(rows) + 50), "white")
    draw, font = ImageDraw.Draw(image), _font(13)
    draw.text((left, 10), what, SOFT, font)
    for i, (name, value, n) in enumerate(rows):
        y = 36 + i * height
        draw.text((8, y), _short(name, 24), INK, font)
        draw.rectangle((left, y + 2, left + width, y + height - 6), fill=(240, 242, 245))
        draw.rectangle((left, y + 2, left + width * value / 100, y + height - 6), fill=BLUE)
        draw.text((left + width + 8, y), f"{value:.1f} of {n}", INK, font)
    image.save(path)


def curve_picture(errors: Array, unit: str, path: Path) -> None:
    """The share of pictures with at most so large an error."""
    size, pad = 420, 60
    image = Image.new("RGB", (size + 2 * pad, size + 2 * pad), "white")
    draw, font = ImageDraw.Draw(image), _font(13)
    _draw_curve(draw, errors, unit, (pad, pad), size, font)
    image.save(path)


def _draw_curve(draw: Any, errors: Array, unit: str, corner: tuple[int, int], size: int, font: Any) -> None:
    left, top = corner
    error = np.sort(np.abs(errors))
    maximum = float(error.max()) or 1.0
    draw.rectangle((left, top, left + size, top + size), outline=LINE)
    shares = np.arange(1, len(error) + 1) / len(error)
    line = [(left, top + size)]
    line += [(left + e / maximum * size, top + size - s * size) for e, s in zip(error, shares, strict=True)]
    draw.line([(float(x), float(y)) for x, y in line], fill=BLUE, width=2)
    draw.text((left, top - 22), f"share of pictures with at most this error{unit}", INK, font)
    draw.text((left, top + size + 6), "0", SOFT, font)
    draw.text((left + size - 40, top + size + 6), f"{maximum:.4g}", SOFT, font)


def draw_errors(task: Task[Any], answers: Sequence[Any], labels: Sequence[Any], folder: Path) -> Path | None:
    """The picture of a kind's errors; None for a kind that has none."""
    if isinstance(task, ChoiceTask):
        path = folder / "confusion.png"
        confusion_picture(confusion(task, answers, labels), task.names, path)
        return path
    if isinstance(task, LandmarkTask):
        path = folder / "errors.png"
        curve_picture(errors_of(task, answers, labels)[1], " (percent of the face)", path)
        return path
    if isinstance(task, ParsingTask):
        path = folder / "f1.png"
        found = metrics_of(task, answers, labels)
        bars = [(n, 100 * found[f"f1:{n}"], len(labels)) for n in task.names if f"f1:{n}" in found]
        rates_picture(bars, path, "F1, percent")
        return path
    if isinstance(task, NumberTask):
        path = folder / "errors.png"
        error_picture(
            np.asarray(labels, np.float64), np.array([a.estimate for a in answers]), task.unit, path
        )
        return path
    if isinstance(task, AttributesTask):
        path = folder / "accuracy.png"
        rows = list[tuple[str, float, int]]()
        for name in task.names:
            hits = [
                (a[name] >= 0.5) == (y[name] >= 0.5)
                for a, y in zip(answers, labels, strict=True)
                if name in y
            ]
            rows.append((name, 100 * float(np.mean(hits)) if hits else 0.0, len(hits)))
        rates_picture(rows, path)
        return path
    return None


def words(task: Task[Any], label: Any) -> str:
    """A label for people."""
    if isinstance(task, ChoiceTask):
        return task.names[int(label)]
    if isinstance(task, AttributesTask):
        return ", ".join(n for n, v in label.items() if v >= 0.5) or "none"
    return f"{label:g} {getattr(task, 'unit', '')}".strip() if isinstance(label, int | float) else ""


# --- Files


def write_text(path: Path, text: str) -> None:
    """All or nothing."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    """Plain JSON values."""
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def card(record: Mapping[str, Any], picture: Path | None, sheet: Path | None) -> str:
    """The model card of the new task as Markdown."""
    score, counts = record["test"], record["pictures"]
    lines = [
        f"# {record['name']}: a fine-tuned task",
        "",
        f"- Kind: {record['kind']} ({record['why']})",
        *([f"- Names: {', '.join(record['names'])}"] if record["names"] else []),
        *([f"- Unit: {record['unit']}"] if record.get("unit") else []),
        f"- Weights: `{record['file']}`, on the frozen network `{record['frozen'][:12]}`",
        f"- Pictures: {counts['used']} used of {counts['given']} ({counts['train']} train, {counts['val']}"
        f" validation, {counts['test']} test), split by {record['split_by']}, seed {record['seed']}",
        f"- Test score: {score['metric']} {score['value']:.4g} ({score['level']:.0%} interval"
        f" {score['low']:.4g}"
        f" to {score['high']:.4g}); one answer for every picture: {record['baseline']:.4g}",
        *[f"- {k}: {v:.4g}" for k, v in record["metrics"].items() if k != score["metric"] and k != "n"],
        f"- Calibration: {record['calibration']}",
        f"- Old answers: {record['old_answers']}",
        "",
        *([f"![errors]({picture.name})", ""] if picture else []),
        *([f"[Contact sheet of the errors]({sheet.name})", ""] if sheet else []),
    ]
    if record["problems"]:
        lines += ["## What was left out", "", *(f"- {p}" for p in record["problems"]), ""]
    lines += ["## What to do next", "", *(f"{i}. {a}" for i, a in enumerate(record["next"], 1)), ""]
    lines += [
        "## Limits",
        "",
        "The score holds for pictures like the test pictures, which come from the same source as those"
        " that the"
        " head was trained on. Error rates by group of people were not measured.",
        "",
    ]
    return "\n".join(lines)
