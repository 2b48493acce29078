"""What every task must keep, one function per promise."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mien import geometry
from mien.data import synthetic
from mien.tasks import Boxes, Derived, Embedding, Map, Points, Task
from mien.tasks.base import WeightedMean, configured
from mien.testing.examples import derived_from, ensure, example_labels, raw_outputs
from mien.types import Crop

SIZE = (64, 64)
FACES = 4  # drawn faces with a label each


@dataclass(frozen=True)
class TaskCase:
    """A task with labels.

    Attributes:
        task: of a face.
        labels: of the first drawn faces.
    """

    task: Task[Any]
    labels: Sequence[Any]

    @property
    def name(self) -> str:
        """Of the task."""
        return self.task.name

    def rng(self) -> np.random.Generator:
        """Always the same draws."""
        return np.random.default_rng(7)

    def answers(self, n: int) -> list[list[Any]]:
        """n random answers to the task; then n answers to each that derives from it."""
        crop = Crop(np.zeros((64, 64, 3), np.uint8), np.eye(2, 3))
        own = [self.task.read(raw, crop) for raw in raw_outputs(self.task, n, self.rng())]
        return [own, *([d.derive(a) for a in own] for d in derived_from(self.task))]

    def batch(self) -> tuple[Any, Any, Any]:
        """Raw outputs (4, ...) with gradients, targets and masks: three labeled faces, one without."""
        import torch

        rows = []
        for i in range(3):
            _, _, five = synthetic.draw(np.random.default_rng(i))
            affine = geometry.fit_similarity(five, geometry.TEMPLATES["head"] * SIZE)
            rows.append(self.task.encode_target(self.labels[i], affine, False, SIZE))
        rows.append(self.task.missing_target(SIZE))
        target, mask = (torch.from_numpy(np.stack([np.asarray(r[i]) for r in rows])) for i in (0, 1))
        return torch.from_numpy(raw_outputs(self.task, 4, self.rng())).requires_grad_(), target, mask


def case(task: Task[Any], labels: Sequence[Any] | None = None) -> TaskCase:
    """A task with labels for the checks.

    Raises:
        AssertionError: a task of photos; fewer than four labels, or none are given and none are known.
    """
    ensure(
        not isinstance(task.shape, Boxes),
        f"{task.name} finds faces in photos; only tasks of a face are checked",
    )
    given = example_labels(task, FACES) if labels is None else list(labels)
    ensure(len(given) >= FACES, f"{task.name}: {len(given)} labels; pass {FACES} or more")
    return TaskCase(task, given)


def check_missing_target(of: TaskCase) -> None:
    """A missing target is finite, unknown, and shaped as a label's target."""
    target, mask = of.task.encode_target(of.labels[0], np.eye(2, 3), False, SIZE)
    blank, unknown = of.task.missing_target(SIZE)
    for what, one, other in (("target", target, blank), ("mask", mask, unknown)):
        one, other = np.asarray(one), np.asarray(other)
        ensure(
            (one.shape, one.dtype) == (other.shape, other.dtype),
            f"{of.name}: the {what} of missing_target is {other.dtype}{other.shape} and that of encode_target"
            f" {one.dtype}{one.shape}; return the same shape and type",
        )
    ensure(not np.any(unknown), f"{of.name}: the mask of missing_target is True somewhere; return all False")
    ensure(
        np.isfinite(np.asarray(blank, np.float64)).all(),
        f"{of.name}: missing_target is not finite; return any number in its place",
    )


def check_masked_rows_change_nothing(of: TaskCase) -> None:
    """A row without a label has no gradient and does not change the loss; labeled rows have both."""
    import torch

    raw, target, mask = of.batch()
    loss = of.task.criterion()(raw, target, mask)
    ensure(loss.ndim == 0, f"{of.name}: the loss has shape {tuple(loss.shape)}; return a scalar")
    loss.backward()
    value = float(loss.detach())
    ensure(torch.isfinite(loss), f"{of.name}: the loss of random outputs is {value}; it must be finite")
    ensure(value > 0, f"{of.name}: the loss of random outputs is {value}; it must be above 0")
    ensure((raw.grad[3] == 0).all(), f"{of.name}: a row without a label has a gradient; leave it out")
    ensure((raw.grad[:3] != 0).any(), f"{of.name}: labeled rows have no gradient")
    few = float(of.task.criterion()(raw[:3], target[:3], mask[:3]).detach())
    ensure(
        math.isclose(few, value, rel_tol=1e-5),
        f"{of.name}: a row without a label changes the loss from {few} to {value}; average over labeled rows",
    )


def check_no_label_is_zero_loss(of: TaskCase) -> None:
    """Where no row has a label, loss and gradient are zero, not missing."""
    import torch

    raw, target, mask = of.batch()
    loss = of.task.criterion()(raw, target, torch.zeros_like(mask))
    ensure(
        float(loss.detach()) == 0,
        f"{of.name}: the loss is {float(loss.detach())} without labels; return zero",
    )
    ensure(
        loss.requires_grad,
        f"{of.name}: the loss has no gradient without labels; see mien.tasks.base.zero_loss",
    )
    loss.backward()
    ensure((raw.grad == 0).all(), f"{of.name}: outputs have a gradient where no row has a label")


def check_losses_of_parts_add_up(of: TaskCase) -> None:
    """Two parts of a batch, weighted by `loss_weight`, have the loss of the entire batch."""
    raw, target, mask = of.batch()
    # the Dice term of parsing is no mean over pixels
    plain: dict[str, Any] = {"dice_weight": 0.0} if of.task.has_setting("dice_weight") else {}
    task = replace(of.task, **plain)
    criterion = task.criterion()
    parts = [slice(0, 1), slice(1, 4)]
    weights = [task.loss_weight(target[p], mask[p]) for p in parts]
    losses = [float(criterion(raw[p], target[p], mask[p]).detach()) for p in parts]
    joined = sum(w * v for w, v in zip(weights, losses, strict=True)) / sum(weights)
    entire = float(criterion(raw, target, mask).detach())
    ensure(
        math.isclose(joined, entire, rel_tol=1e-4),
        f"{of.name}: the losses of two parts, weighted by loss_weight, give {joined} and the entire batch"
        f" {entire}; return from loss_weight what the criterion divides by",
    )


def check_answers_are_json(of: TaskCase) -> None:
    """Records of answers are plain JSON values."""
    turned = geometry.about((32, 32), degrees=10, scale=0.4, shift=(5, 5))
    answer = of.task.read(raw_outputs(of.task, 1, of.rng())[0], Crop(np.zeros((64, 64, 3), np.uint8), turned))
    for one in (answer, *(d.derive(answer) for d in derived_from(of.task))):
        record = one.to_dict()
        try:
            again = json.loads(json.dumps(record, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"{of.name}: to_dict() is not plain JSON: {error}") from error
        ensure(again == record, f"{of.name}: to_dict() comes back from JSON as {again!r}, not {record!r}")


def check_columns_hold_the_record(of: TaskCase) -> None:
    """Columns of tables have the task's name, and take their values from the record."""
    every: list[Task[Any] | Derived[Any]] = [of.task, *derived_from(of.task)]
    for described, answers in zip(every, of.answers(1), strict=True):
        name, (answer,) = described.name, answers
        ensure(
            isinstance(answer, described.answer),
            f"{name}: read() gives {type(answer).__name__}, `answer` says {described.answer.__name__}",
        )
        columns = described.columns()
        names = [c.name for c in columns]
        ensure(columns, f"{name}: no columns; leave out the method to get one column of JSON")
        ensure(len(set(names)) == len(names), f"{name}: two columns have one name: {names}")
        for c in columns:
            ensure(
                c.name == name or c.name.startswith(f"{name}_"),
                f"{name}: the column {c.name!r} must be named {name!r}, or begin with '{name}_'",
            )
            cell = c.get({name: answer.to_dict()})
            if c.parts:
                good = len(cell) == len(c.parts) and all(isinstance(v, float) for v in cell)
                ensure(good, f"{name}: the column {c.name!r} must give {len(c.parts)} floats")
            else:
                ensure(
                    isinstance(cell, c.kind),
                    f"{name}: the column {c.name!r} gives {cell!r}, which is not of type {c.kind.__name__}",
                )
            ensure(
                c.get({}) is None, f"{name}: the column {c.name!r} must be None for a face without the answer"
            )


def check_words_are_short(of: TaskCase) -> None:
    """Summaries and tags are short and of one line; values are numbers, words or arrays of them."""
    for (answer,) in of.answers(1):
        ensure("\n" not in answer.summary() + answer.tag(), f"{of.name}: summary() or tag() has a line break")
        ensure(len(answer.summary()) < 100, f"{of.name}: summary() has 100 or more characters")
        ensure(len(answer.tag()) < 20, f"{of.name}: tag() has 20 or more characters")
        ensure(
            answer.value() is None or np.array(answer.value()).dtype.kind in "fU",
            f"{of.name}: value() is {answer.value()!r}; return a float, a word, an array of them, or None",
        )


def check_means_of_answers(of: TaskCase) -> None:
    """The mean over frames is weighted and of the answers' class; answers without a mean raise."""
    weights = (1.0, 2.0, 5.0)
    for group in of.answers(len(weights)):
        if not group[0].averaged:
            try:
                group[0].mean_terms()
            except TypeError as error:
                ensure("no mean" in str(error), f"{of.name}: mean_terms() raises {error}; inherit it")
            else:
                raise AssertionError(
                    f"{of.name}: answers have mean_terms(), and `averaged` is False; set it True"
                )
            continue
        mean: WeightedMean[Any] = WeightedMean()
        for answer, weight in zip(group, weights, strict=True):
            mean.add(answer, weight)
        found = mean.answer()
        ensure(
            type(found) is type(group[0]),
            f"{of.name}: from_mean() gives {type(found).__name__}, not {type(group[0]).__name__}",
        )
        expected = np.average([a.mean_terms() for a in group], axis=0, weights=weights)
        if isinstance(of.task.shape, Embedding):
            expected /= np.linalg.norm(expected)
        ensure(
            np.allclose(found.mean_terms(), expected, atol=1e-6),
            f"{of.name}: from_mean(terms) has mean_terms() {found.mean_terms()}, not {expected}",
        )


def check_metrics_have_their_headline(of: TaskCase) -> None:
    """Metrics compute finite numbers, one of which is the headline."""
    crop = Crop(np.zeros((160, 160, 3), np.uint8), np.eye(2, 3))
    metrics, rng = of.task.metrics(), of.rng()
    pairs = isinstance(of.task.shape, Embedding)  # labeled by pairs: (number, whether it is one person)
    for i in range(22 if pairs else FACES):
        label = [(i // 2, i % 4 < 2)] if pairs else of.labels[i]
        metrics.update(of.task.read(raw_outputs(of.task, 1, rng)[0], crop), label)
    values = metrics.compute()
    ensure(
        metrics.headline in values,
        f"{of.name}: the headline {metrics.headline!r} is not among the numbers: {', '.join(values)}",
    )
    for key, value in values.items():
        ensure(np.isfinite(value), f"{of.name}: the metric {key!r} of random answers is {value}")
    ensure("n" in values, f"{of.name}: compute() has no 'n', the number of answers")


def check_reading_needs_no_torch(of: TaskCase) -> None:
    """Reading and scoring answers works without torch."""
    with _without_torch(of.name):
        of.answers(1)
        check_metrics_have_their_headline(of)


@contextmanager
def _without_torch(name: str) -> Iterator[None]:
    """Within it, an import of torch fails."""
    kept = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "torch"}
    blocked: dict[str, Any] = dict.fromkeys((*kept, "torch"))
    sys.modules.update(blocked)
    try:
        yield
    except ImportError as error:
        raise AssertionError(
            f"{name}: reading answers imports torch; import it in criterion() only"
        ) from error
    finally:
        for n in blocked:
            del sys.modules[n]
        sys.modules.update(kept)


def check_horizontal_flip(of: TaskCase) -> None:
    """What a perfect network says of the mirrored picture, undone, is what it says of the picture."""
    task, raw = of.task, raw_outputs(of.task, 2, np.random.default_rng(1))
    picture, _, _ = synthetic.draw(np.random.default_rng(0))
    h, w = picture.shape[:2]
    plain, known = task.encode_target(of.labels[0], np.eye(2, 3), False, (w, h))
    seen, _ = task.encode_target(of.labels[0], np.array([[-1.0, 0, w - 1], [0, 1, 0]]), True, (w, h))
    wrong = f"{of.name}: undo_hflip() does not undo what encode_target(mirrored=True) does"
    ensure(
        np.array_equal(task.undo_hflip(task.undo_hflip(raw)), raw), f"{of.name}: undo_hflip() twice changes"
    )
    if isinstance(task.shape, Map):
        mask = np.asarray(plain) < task.shape.n
        scores = np.eye(256, dtype=np.float32)[seen][..., : task.shape.n].transpose(2, 0, 1)
        back = task.undo_hflip(scores[None])[0]
        ensure(mask.mean() > 0.5, f"{of.name}: most of the example mask is unlabeled")
        ensure(np.array_equal(back.argmax(0)[mask], np.asarray(plain)[mask]), wrong)
    elif isinstance(task.shape, Points) or np.shape(plain) == raw.shape[1:]:
        back = task.undo_hflip(np.asarray(seen)[None])[0]
        there = np.asarray(known) if np.ndim(known) else slice(None)
        ensure(np.allclose(back[there], np.asarray(plain)[there], atol=1e-5), wrong)
    elif not np.ndim(plain) and raw.shape[1:] == (1,):
        ensure(
            np.allclose(task.undo_hflip(np.asarray(seen, np.float32).reshape(1, 1)), plain, atol=1e-5), wrong
        )


def check_header(of: TaskCase) -> None:
    """What the weights' header says of a task is JSON, and gives the task's settings again."""
    header = of.task.header()
    ensure(json.loads(json.dumps(header)) == header, f"{of.name}: header() is not plain JSON: {header!r}")
    ensure(
        (header.get("name"), header.get("labels")) == (of.task.name, of.task.labels),
        f"{of.name}: header() must name the task and its label set, not {header!r}",
    )
    ensure(configured(of.task, header) == of.task, f"{of.name}: the settings of header() make another task")


CHECKS = (
    check_missing_target,
    check_masked_rows_change_nothing,
    check_no_label_is_zero_loss,
    check_losses_of_parts_add_up,
    check_answers_are_json,
    check_columns_hold_the_record,
    check_words_are_short,
    check_means_of_answers,
    check_metrics_have_their_headline,
    check_reading_needs_no_torch,
    check_horizontal_flip,
    check_header,
)


def check_task(task: Task[Any], *, labels: Sequence[Any] | None = None) -> None:
    """Check that a task keeps the contract: targets, loss, answers, columns, means, metrics, mirroring.

    Args:
        task: of a face, not of a photo.
        labels: four or more, as a data set gives them, in pixels of pictures of 160 x 160; None: labels that
            suit the task's shape.

    Raises:
        AssertionError: it does not; the message says what is wrong, and the fix.
    """
    of = case(task, labels)
    for check in CHECKS:
        check(of)
