"""Write docs/comparison.md from the results of the runs, so that no number is copied by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.comparison.runs import (
    ABLATIONS,
    FEWER,
    MEASURE,
    SINGLE,
    SINGLE_TASK,
    STEPS,
    SYSTEMS,
    TOGETHER,
    Ablation,
    Run,
)
from bench.comparison.work import BATCH

# protocol -> (the number shown, what the column is called, whether less is better)
SHOWN: dict[str, tuple[str, str, bool]] = {
    "mtfl": ("nme", "MTFL test, 5 points, NME %", True),
    "helen68": ("nme", "Helen val, 68 points, NME %", True),
    "celebamask": ("mean_f1", "CelebAMask val, mean F1", False),
    "celeba": ("mean_accuracy", "CelebA val, 40 attributes, %", False),
    "utkface-age": ("mae", "UTKFace val, MAE years", True),
    "utkface-gender": ("accuracy:Male", "UTKFace val, gender %", False),
    "ferplus-val": ("accuracy", "FER+ val, %", False),
    "ferplus-test": ("accuracy", "FER+ test, %", False),
    "lfw": ("accuracy", "LFW View 1, %", False),
}
GUESS = "guess"  # among the results: what the mean of the labels scores
NOT_YET = "Not trained yet."
VERDICTS = ("yes", "no, worse", "not beyond the spread")
Results = Mapping[str, Mapping[str, Any]]  # run -> {"scores": ..., "cost": ..., "curve": ...}


def number(results: Results, name: str, protocol: str) -> float | None:
    """The score of a run, or None if it does not predict that or is not trained."""
    values = results.get(name, {}).get("scores", {}).get(protocol)
    return None if values is None else float(values[SHOWN[protocol][0]])


def shown(value: float | None, protocol: str) -> str:
    """A cell of a table."""
    return "" if value is None else f"{value:.3f}" if SHOWN[protocol][0] == "mean_f1" else f"{value:.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *rows))


def systems(results: Results) -> str:
    """One row per system: its cost and its scores."""
    cells: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("parameters, M", lambda c: f"{c['parameters'] / 1e6:.2f}"),
        ("multiply-adds per face, M", lambda c: f"{c['multiply_adds'] / 1e6:.0f}"),
        ("training, images/s", lambda c: f"{c['train_images_per_s']:.0f}"),
        ("ONNX, ms per face", lambda c: f"{c['onnx_ms']:.1f}"),
    ]
    rows = (
        [
            [
                "mean label",
                *[""] * len(cells),
                *(shown(number(results, GUESS, p), p) for p in SHOWN),
            ]
        ]
        if GUESS in results
        else []
    )
    for run in (*SYSTEMS, *SINGLE):
        if run.name not in results or not results[run.name].get("scores"):
            continue
        cost = results[run.name].get("cost")
        rows.append(
            [
                run.title,
                *(f(cost) if cost else "" for _, f in cells),
                *(shown(number(results, run.name, p), p) for p in SHOWN),
            ]
        )
    return table(["system", *(name for name, _ in cells), *(name for _, name, _ in SHOWN.values())], rows)


def spread(values: Sequence[float], protocol: str) -> str:
    """The mean of the seeds, and half of their range."""
    half = (max(values) - min(values)) / 2
    return (
        f"{shown(float(np.mean(values)), protocol)} ± {half:.3f}"
        if SHOWN[protocol][0] == "mean_f1"
        else (f"{np.mean(values):.2f} ± {half:.2f}")
    )


def verdict(ours: Sequence[float], other: Sequence[float], less: bool) -> str:
    """Whether the first side wins: "yes" and "no" need all seeds of one side above all seeds of the other."""
    a, b = ([-v for v in side] if less else list(side) for side in (ours, other))
    return VERDICTS[0] if min(a) > max(b) else VERDICTS[1] if max(a) < min(b) else VERDICTS[2]


def sides_of(results: Results, study: Ablation) -> dict[str, dict[str, list[float]]]:
    """The scores of an ablation: side -> protocol -> one number per seed; only for sides with all seeds."""
    done = {
        side: runs
        for side, runs in study.sides.items()
        if all(results.get(r.name, {}).get("scores") for r in runs)
    }
    return {
        side: {p: [v for r in runs if (v := number(results, r.name, p)) is not None] for p in study.measures}
        for side, runs in done.items()
    }


def judged(results: Results, study: Ablation) -> dict[str, dict[str, str]]:
    """The first side of an ablation against each other side: side -> protocol -> verdict; empty if not
    trained.
    """
    sides, first = sides_of(results, study), next(iter(study.sides))
    if first not in sides:
        return {}
    return {
        side: {p: verdict(sides[first][p], values[p], SHOWN[p][2]) for p in study.measures}
        for side, values in sides.items()
        if side != first
    }


def ablation(results: Results, study: Ablation) -> str:
    """A table of one ablation: one row per side, and whether the idea helps."""
    verdicts = judged(results, study)
    if not verdicts:
        return f"### {study.paper}: {study.idea}\n\n{NOT_YET}"
    rows = [
        [side, *(spread(values[p], p) for p in study.measures)]
        for side, values in sides_of(results, study).items()
    ]
    rows += [
        [f"does it help, against {side}?", *by_measure.values()] for side, by_measure in verdicts.items()
    ]
    return f"### {study.paper}: {study.idea}\n\n" + table(["", *(SHOWN[p][1] for p in study.measures)], rows)


def claims(results: Results) -> str:
    """Summary of all ablations: one row per comparison, with the tasks that become better, worse, or
    neither."""
    rows, task_of = [], {protocol: task for task, protocol in MEASURE.items()}
    for study in ABLATIONS:
        for side, by_measure in judged(results, study).items():
            cells = [", ".join(task_of[p] for p, v in by_measure.items() if v == word) for word in VERDICTS]
            rows.append([study.paper, f"{next(iter(study.sides))}, against {side}", *cells])
    return (
        table(["paper", "idea", "helps on", "is worse on", "not beyond the spread on"], rows)
        if rows
        else NOT_YET
    )


def single_tasks(results: Results) -> str:
    """Every task trained with the others and separately, in the network with standard heads: one row per
    task.
    """
    rows = []
    for task, runs in SINGLE_TASK.items():
        protocol = MEASURE[task]
        sides = [
            [v for r in side if (v := number(results, r.name, protocol)) is not None]
            for side in (TOGETHER, runs)
        ]
        cells = [spread(side, protocol) if side else "" for side in sides]
        judged = verdict(*sides, SHOWN[protocol][2]) if all(len(s) > 1 for s in sides) else ""
        if any(cells):
            rows.append([task, SHOWN[protocol][1], *cells, judged])
    if not any(row[3] for row in rows):
        return NOT_YET
    return table(["task", "measure", "with all tasks", "single task", "do the others help?"], rows)


def curves(results: Results, runs: Sequence[Run]) -> str:
    """Validation scores during each run, on the first 300 pictures of each set."""
    parts = []
    for run in runs:
        if points := results.get(run.name, {}).get("curve"):
            names = [n for n in points[0] if n != "step"]
            rows = [[f"{p['step']:,}", *(shown(p.get(n), n) for n in names)] for p in points]
            parts.append(
                f"**{run.title or run.name}**\n\n" + table(["step", *(SHOWN[n][1] for n in names)], rows)
            )
    return "\n\n".join(parts)


PAGE = """# Six systems, one trainer, one table

Written by `make compare` (`python -m bench.comparison`) from trainings on the data pack; do not edit by hand.

Every system is the tiny version of its paper: the paper's design on EfficientNet-Lite0 with ImageNet weights, whose stem and
first two stages stay frozen (iFAN has its own trunk, see below), at 112 × 112 pixels, cropped to the entire head. Every run
takes {steps:,} steps of {batch} pictures ({passes:,} pictures in total) with AdamW, the same learning rates (5e-4 in the encoder, 1e-3
outside it), a cosine schedule after 150 steps, the same augmentation, weights averaged with a decay of 0.998, and seed 1. The sets of
a system's tasks share the batch in the same proportions (`src/mien/data/pack_mixture.py`): a system with fewer tasks sees more
pictures of each, and a network for one task uses the entire batch for it.

Scores are from the exported network or from torch (both give the same digits), on crops aligned by each set's own
points (or a detector's, if it has none). Pictures are small and splits are our own, so scores do not compare with published ones.
n: MTFL test 2,995, Helen val 100, CelebAMask val 80, CelebA val 1,030, UTKFace val 1,000, FER+ val 3,199 and test 3,152
(majority), LFW View 1 1,000 pairs. Test sets are reported only, with one exception: the learning rate of iFAN's dense heads was
chosen by training losses, while the errors of 300 pictures of MTFL's test set were visible (log, entry 19). The embedded network is
not in the table: it saw more than nine times as many pictures. All runs predate the correction of the landmarks' horizontal offset
in flipped pictures (`Sample.label_offset_x`; log, entries 13 and 14). On the embedded network, this correction and 1,500 more steps
improved MTFL from 6.90 to 6.03 and Helen from 4.03 to 3.79; it was not measured on the systems of this page.

## Systems

{systems}

{notes}

"Mean label" predicts the mean label of 2,000 training faces for every face (`bench/comparison/guess.py`): mean points, the most
frequent class of each pixel, mean age. A system that scores no better has learned nothing.

Speeds: training, complete steps on two idle cores; ONNX Runtime, one face on one thread, median of 40.

## All tasks together, or a single task

The network with standard heads (Naive Faceptor), {fewer:,} steps of {batch} on both sides: a single task uses the entire batch for its
own sets. Two seeds; mean ± half of the seeds' range; verdicts as below. The single-task rows of the table above took {steps:,} steps.

{single_tasks}

## Ablations

{fewer:,} steps of {batch} unless stated otherwise, equal on both sides; two seeds; mean ± half of the seeds' range. The verdicts "yes" and
"no, worse" require that every seed of one side is better than every seed of the other. With two seeds this is a hint, not a proof.

Which claims hold at this scale:

{claims}

{ablations}

## Learning curves

Averaged weights, on the first 300 pictures of each validation set (LFW: pairs among them), every 500 steps.

{curves}
"""


def page(results: Results) -> str:
    """The complete page."""
    notes = "\n".join(
        f"- {r.title}: {r.note}." for r in SYSTEMS if r.note and results.get(r.name, {}).get("scores")
    )
    return PAGE.format(
        steps=STEPS,
        fewer=FEWER,
        batch=BATCH,
        passes=STEPS * BATCH,
        systems=systems(results),
        notes=notes,
        single_tasks=single_tasks(results),
        ablations="\n\n".join(ablation(results, a) for a in ABLATIONS),
        curves=curves(results, (*SYSTEMS, *SINGLE)),
        claims=claims(results),
    )
