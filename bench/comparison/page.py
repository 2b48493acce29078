"""docs/comparison.md from what the runs left: written by code, so that no number in it is copied by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bench.comparison.runs import (
    ABLATIONS,
    FEWER,
    MEASURE,
    SINGLE,
    SINGLE_PROCESS,
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
    """What a run scored, or None where it does not answer or is not trained."""
    values = results.get(name, {}).get("scores", {}).get(protocol)
    return None if values is None else float(values[SHOWN[protocol][0]])


def shown(value: float | None, protocol: str) -> str:
    """A cell of a table."""
    return "" if value is None else f"{value:.3f}" if SHOWN[protocol][0] == "mean_f1" else f"{value:.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *rows))


def systems(results: Results) -> str:
    """A row a system: what it costs and what it scores."""
    cells: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("parameters, M", lambda c: f"{c['parameters'] / 1e6:.2f}"),
        ("multiply-adds a face, M", lambda c: f"{c['multiply_adds'] / 1e6:.0f}"),
        ("training, images/s", lambda c: f"{c['train_images_per_s']:.0f}"),
        ("ONNX, ms a face", lambda c: f"{c['onnx_ms']:.1f}"),
    ]
    rows = (
        [
            [
                "no look at the picture",
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
    """Whether the first side wins: "yes" and "no" need every seed of one side above every seed of the
    other."""
    a, b = ([-v for v in side] if less else list(side) for side in (ours, other))
    return VERDICTS[0] if min(a) > max(b) else VERDICTS[1] if max(a) < min(b) else VERDICTS[2]


def sides_of(results: Results, told: Ablation) -> dict[str, dict[str, list[float]]]:
    """What is scored of an idea: side -> protocol -> a number a seed.

    Only sides of which every seed is there.
    """
    done = {
        side: runs
        for side, runs in told.sides.items()
        if all(results.get(r.name, {}).get("scores") for r in runs)
    }
    return {
        side: {p: [v for r in runs if (v := number(results, r.name, p)) is not None] for p in told.measures}
        for side, runs in done.items()
    }


def judged(results: Results, told: Ablation) -> dict[str, dict[str, str]]:
    """The idea (its first side) against each other side: side -> protocol -> a verdict.

    Empty while it is not trained.
    """
    sides, first = sides_of(results, told), next(iter(told.sides))
    if first not in sides:
        return {}
    return {
        side: {p: verdict(sides[first][p], values[p], SHOWN[p][2]) for p in told.measures}
        for side, values in sides.items()
        if side != first
    }


def ablation(results: Results, told: Ablation) -> str:
    """A table of one idea: a row a side, and whether the idea helps."""
    verdicts = judged(results, told)
    if not verdicts:
        return f"### {told.paper}: {told.idea}\n\n{NOT_YET}"
    rows = [
        [side, *(spread(values[p], p) for p in told.measures)]
        for side, values in sides_of(results, told).items()
    ]
    rows += [[f"does it help, against {side}?", *said.values()] for side, said in verdicts.items()]
    return f"### {told.paper}: {told.idea}\n\n" + table(["", *(SHOWN[p][1] for p in told.measures)], rows)


def claims(results: Results) -> str:
    """Every idea at a glance: a row a comparison, and the tasks on which it helps, harms, or neither."""
    rows, task_of = [], {protocol: task for task, protocol in MEASURE.items()}
    for told in ABLATIONS:
        for side, said in judged(results, told).items():
            cells = [", ".join(task_of[p] for p, v in said.items() if v == word) for word in VERDICTS]
            rows.append([told.paper, f"{next(iter(told.sides))}, against {side}", *cells])
    return (
        table(["paper", "idea", "helps on", "is worse on", "not beyond the spread on"], rows)
        if rows
        else NOT_YET
    )


def alone(results: Results) -> str:
    """Every task learned with the others, and alone, in the network with standard heads: a row a task."""
    rows = []
    for task, runs in SINGLE_PROCESS.items():
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
    return table(["task", "measure", "with all tasks", "alone", "do the others help?"], rows)


def curves(results: Results, runs: Sequence[Run]) -> str:
    """Validation numbers along each run, on the first 300 pictures of each set."""
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

Written by `make compare` (`python -m bench.comparison`), from the trainings of the data pack described below; do not edit by hand.

Every system is the tiny one of its kind: the design of its paper on EfficientNet-Lite0 with ImageNet weights, whose stem and
first two stages stay frozen (iFAN has its own trunk, see below), at 112 × 112 pixels, cropped to the whole head. Every run
takes {steps:,} steps of {batch} pictures ({passes:,} picture-passes) with AdamW, the same learning rates (5e-4 in the encoder, 1e-3
outside it), a cosine after 150 steps, the same augmentation, weights averaged with a decay of 0.998, and seed 1. The sets of
a system's tasks share the batch in the same proportions for all (`src/mien/data/pack_mixture.py`): a system that answers fewer tasks sees more
pictures of each, and a network for one task spends the whole batch on it.

Numbers are from the exported network or from torch (same digits where both were tried), on crops aligned by each set's own
points (or a detector's, where it has none); small pictures, own splits, so nothing here compares with numbers on the full sets.
n: MTFL test 2,995, Helen val 100, CelebAMask val 80, CelebA val 1,030, UTKFace val 1,000, FER+ val 3,199 and test 3,152
(majority), LFW View 1 1,000 pairs. Test sets are reported only, with one exception: the learning rate of iFAN's dense heads was
chosen by training losses, with the errors of 300 pictures of MTFL's test in sight (log, entry 19). The embedded network is not in the
table: it saw more than nine times as many pictures. All runs were made before mirrored places learned to lean as their sets'
labels do (`Sample.lean`; log, entries 13 and 14). On the embedded network that and 1,500 more steps took MTFL from 6.90 to 6.03
and Helen from 4.03 to 3.79; on the systems of this page it was not measured.

## Systems

{systems}

{notes}

"No look at the picture" answers every face alike, with the mean of the labels of 2,000 training faces (`bench/comparison/guess.py`):
mean places, the commonest class of each pixel, mean years. A number no better than this comes from nothing learned.

Speeds: training, whole steps on two idle cores; ONNX Runtime, one face on one thread, median of 40.

## All tasks at once, or one alone

The network with standard heads (Naive Faceptor), {fewer:,} steps of {batch} on both sides: alone, a task spends the whole batch on its
own sets. Two seeds; mean ± half of the seeds' range; judged as below. The rows "alone" of the table above took {steps:,} steps.

{alone}

## Ideas, with and without

{fewer:,} steps of {batch} unless said, equal on both sides; two seeds; mean ± half of the seeds' range. "yes" and "no, worse" are said only
where every seed of one side beats every seed of the other: with two seeds that is a hint, not a proof.

Which claims hold at this scale:

{claims}

{ablations}

## Learning curves

Averaged weights, on the first 300 pictures of each validation set (LFW: pairs among them), every 500 steps.

{curves}
"""


def page(results: Results) -> str:
    """The whole page."""
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
        alone=alone(results),
        ablations="\n\n".join(ablation(results, a) for a in ABLATIONS),
        curves=curves(results, (*SYSTEMS, *SINGLE)),
        claims=claims(results),
    )
