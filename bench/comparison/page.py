"""docs/comparison.md, generated from the results of the runs: no number is copied by hand."""

from __future__ import annotations

import csv
import io
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
)
from bench.comparison.work import BATCH

# protocol -> (the number shown, what the column is called, whether less is better)
SHOWN: dict[str, tuple[str, str, bool]] = {
    "mtfl": ("nme", "MTFL NME %", True),
    "helen68": ("nme", "Helen NME %", True),
    "celebamask": ("mean_f1", "CelebAMask F1", False),
    "celeba": ("mean_accuracy", "CelebA %", False),
    "utkface-age": ("mae", "UTKFace MAE", True),
    "utkface-gender": ("accuracy:Male", "UTKFace gender %", False),
    "ferplus-val": ("accuracy", "FER+ val %", False),
    "ferplus-test": ("accuracy", "FER+ test %", False),
    "lfw": ("accuracy", "LFW %", False),
}
GUESS = "guess"  # among the results: what the mean of the labels scores
NOT_YET = "Not trained yet."
VERDICTS = ("yes", "no, worse", "no clear difference")
Results = Mapping[str, Mapping[str, Any]]  # run -> {"scores": ..., "cost": ..., "curve": ...}


def number(results: Results, name: str, protocol: str) -> float | None:
    """The score of a run, or None if it does not predict the task or is not trained."""
    values = results.get(name, {}).get("scores", {}).get(protocol)
    return None if values is None else float(values[SHOWN[protocol][0]])


def shown(value: float | None, protocol: str) -> str:
    """A cell of a table."""
    return "" if value is None else f"{value:.3f}" if SHOWN[protocol][0] == "mean_f1" else f"{value:.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(r)} |" for r in (head, ["---"] * len(head), *rows))


def systems(results: Results) -> str:
    """One row per model: costs and scores."""
    cells: list[tuple[str, Callable[[Mapping[str, Any]], str]]] = [
        ("parameters, M", lambda c: f"{c['parameters'] / 1e6:.2f}"),
        ("MACs per face, M", lambda c: f"{c['multiply_adds'] / 1e6:.0f}"),
        ("training images/s", lambda c: f"{c['train_images_per_s']:.0f}"),
        ("ONNX ms per face", lambda c: f"{c['onnx_ms']:.1f}"),
    ]
    rows = (
        [
            [
                "constant prediction",
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
    return table(["model", *(name for name, _ in cells), *(name for _, name, _ in SHOWN.values())], rows)


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
    """The scores of an idea: side -> protocol -> one number per seed.

    Only sides with all seeds.
    """
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


def ablation_numbers(results: Results) -> str:
    """CSV with the scores of each side of each ablation: mean of the seeds, and half of their range."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("paper", "idea", "side", "metric", "mean", "half_range"))
    for study in ABLATIONS:
        if not judged(results, study):
            continue
        for side, values in sides_of(results, study).items():
            for protocol in study.measures:
                mean, half = spread(values[protocol], protocol).split(" ± ")
                rows.writerow((study.paper, study.idea, side, SHOWN[protocol][1], mean, half))
    return text.getvalue()


def claims(results: Results) -> str:
    """The verdicts: one line per idea, with the tasks on which it helps, harms, or neither."""
    lines, task_of = [], {protocol: task for task, protocol in MEASURE.items()}
    for study in ABLATIONS:
        findings = []
        for side, verdicts in judged(results, study).items():
            words = [
                f"{words} {', '.join(task_of[p] for p, v in verdicts.items() if v == word)}"
                for word, words in zip(VERDICTS, ("better on", "worse on", "unclear on"), strict=True)
                if word in verdicts.values()
            ]
            findings.append(f"*{next(iter(study.sides))}* against *{side}*: {'; '.join(words)}.")
        if findings:
            lines.append(f"- **{study.paper}**, {study.idea}. {' '.join(findings)}")
    return "\n".join(lines) or NOT_YET


def single_tasks(results: Results) -> str:
    """Each task trained with the others, and alone, in the network with standard heads: one row per task."""
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
    return table(["task", "metric", "with all tasks", "alone", "do the others help?"], rows)


PAGE = """# Comparison of the six models

```console
$ make compare                          # train everything and write this page: takes hours, resumes where it stopped
$ python -m bench.comparison page       # write this page again from the kept results; do not edit it by hand
```

Numbers and learning curves: `bench/results/comparison.json`.

- **Models**: the tiny version of each design on EfficientNet-Lite0 with ImageNet weights, partly frozen. iFAN has its own trunk. Pictures have 112 x
  112 pixels and show the whole head.
- **Training**: {steps:,} steps of {batch} pictures, AdamW, learning rate 5e-4 in the encoder and 1e-3 elsewhere, cosine decay after 150 warm-up
  steps, weights averaged with decay 0.998, seed 1. A model with fewer tasks sees more pictures of each.
- **Evaluation**: small pictures, own splits, labeled points. Do not compare with numbers on the full sets. Sets and metrics:
  [protocols](data.md#protocols).
- **Test sets** are reported only, with one exception: the errors of 300 MTFL test pictures were visible when the learning rate of iFAN's dense heads
  was chosen (`dev/LOG.md`, entry 19).
- **Not included**: the embedded network, which saw more pictures.

## Models

{systems}

{notes}
- Constant prediction: the mean of the labels of 2,000 training faces; per pixel, the most common class.
- Training speed: entire steps on two idle cores. ONNX Runtime: one face, one thread, median of 40.

## All tasks or one task

Naive Faceptor, {fewer:,} steps of {batch} on both sides, two seeds: mean ± half of the range. A single task gets the entire batch.

{single_tasks}

## Ablations

{fewer:,} steps of {batch} unless noted, two seeds. *Better*, *worse*: all seeds of the first side beat all seeds of the second, or the reverse: a
hint, not a proof. Scores: `bench/results/ablations.csv`.

{claims}
"""


def page(results: Results) -> str:
    """The entire page."""
    notes = "\n".join(
        f"- {r.title}: {r.note}." for r in SYSTEMS if r.note and results.get(r.name, {}).get("scores")
    )
    return PAGE.format(
        steps=STEPS,
        fewer=FEWER,
        batch=BATCH,
        systems=systems(results),
        notes=notes,
        single_tasks=single_tasks(results),
        claims=claims(results),
    )
