"""What the comparison trains: the models, single-task networks, and one ablation per claimed idea."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STEPS = 2500  # optimizer steps of 20 pictures: of every system, and of every single-task network
FEWER = 400  # of every ablation, on both sides
SECOND = 160  # of the second stage of Layer-Attention
MASKS = 1000  # of the network of masks


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        name: of its folder.
        recipe: the file in `recipes`, without .py.
        settings: the recipe's arguments.
        start: a run whose weights it begins from.
        title: for people.
        note: what a reader must know of its budget.
        answers: False for a run that prepares another one: its answers are not trained, and not scored.
    """

    name: str
    recipe: str
    settings: dict[str, Any] = field(default_factory=dict)
    start: str = ""
    title: str = ""
    note: str = ""
    answers: bool = True


@dataclass(frozen=True)
class Ablation:
    """An idea with and without: the same budget on both sides, some seeds each.

    Attributes:
        idea: for people.
        paper: who claims it.
        sides: what each side is called -> its runs, one a seed.
        measures: protocol -> the number that is compared.
    """

    idea: str
    paper: str
    sides: dict[str, tuple[Run, ...]]
    measures: tuple[str, ...]


def _seeds(
    name: str, recipe: str, *, starts: str = "", seeds: tuple[int, ...] = (1, 2), **settings: Any
) -> tuple[Run, ...]:
    """One run per seed; `starts` names the runs to start from, without their seed."""
    given = {"steps": FEWER, **settings}
    return tuple(
        Run(f"{name}-{s}", recipe, {**given, "seed": s}, f"{starts}-{s}" if starts else "") for s in seeds
    )


_IFAN_STEPS = (
    "trunk from random weights, pretrained by {} more steps with one lap; learning rate 2e-3, and 50 divided"
    " by the number of inputs for a dense head"
)

SYSTEMS: tuple[Run, ...] = (
    Run("qface", "qface_tiny", {"steps": STEPS}, title="Q-Face"),
    Run("naive", "naive_faceptor_tiny", {"steps": STEPS}, title="Naive Faceptor"),
    Run("faceptor", "faceptor_tiny", {"steps": STEPS}, title="Faceptor"),
    Run("ifan-start", "ifan_tiny", {"steps": STEPS, "laps": 1}, title="iFAN, one lap"),
    Run("ifan", "ifan_tiny", {"steps": STEPS}, "ifan-start", "iFAN", _IFAN_STEPS.format(f"{STEPS:,}")),
    Run("far_amtn", "far_amtn_tiny", {"steps": STEPS}, title="FAR-AMTN"),
    Run(
        "mgmtn-masks",
        "mgmtn_tiny",
        {"part": "masks", "steps": MASKS},
        title="MGMTN, mask network",
        answers=False,
    ),
    Run(
        "mgmtn",
        "mgmtn_tiny",
        {"part": "attributes", "steps": STEPS},
        "mgmtn-masks",
        "MGMTN",
        f"{MASKS:,} more steps train its masks",
    ),
)

# task -> the protocol that measures it
MEASURE = {
    "expression": "ferplus-val", "age": "utkface-age", "attributes": "celeba", "points5": "mtfl",
    "landmarks": "helen68",
    "parsing": "celebamask", "identity": "lfw",
}  # fmt: skip
TASKS = tuple(MEASURE)
SINGLE: tuple[Run, ...] = tuple(
    Run(f"single-{t}", "naive_faceptor_tiny", {"steps": STEPS, "tasks": t}, title=f"single task: {t}")
    for t in TASKS
)

# single tasks and all tasks in the network with standard heads; FEWER steps, one run per seed
TOGETHER = _seeds("naive-short", "naive_faceptor_tiny")
SINGLE_TASK = {t: _seeds(f"alone-{t}", "naive_faceptor_tiny", tasks=t) for t in TASKS}

FEWER_SAMPLES = {"age": "utkface=1500", "expression": "ferplus=1500"}

ABLATIONS: tuple[Ablation, ...] = (
    Ablation(
        "fusion of four levels, or the last level alone",
        "Q-Face",
        {
            "four levels": _seeds("qface-four", "qface_tiny"),
            "last level": _seeds("qface-last", "qface_tiny", taps="3"),
        },
        ("celeba", "utkface-age", "ferplus-val"),
    ),
    Ablation(
        "queries, or one standard head per task",
        "Faceptor",
        {"queries": _seeds("faceptor-short", "faceptor_tiny"), "heads": TOGETHER},
        ("mtfl", "helen68", "celebamask", "celeba", "utkface-age", "ferplus-val", "lfw"),
    ),
    Ablation(
        f"Layer-Attention: a second stage of {SECOND} steps ({SECOND // 4} warm-up) with the other levels, or"
        f" {SECOND} more steps of the first",
        "Faceptor",
        {
            "second stage": _seeds(
                "layers-on", "faceptor_tiny", starts="layers-first", steps=SECOND, levels="2,3,1,0"
            ),
            "first stage only": _seeds("layers-off", "faceptor_tiny", steps=FEWER + SECOND, levels="2"),
        },
        ("mtfl", "helen68", "celebamask", "celeba", "utkface-age", "ferplus-val", "lfw"),
    ),
    *(
        Ablation(
            f"auxiliary learning: {task} from 1,500 pictures, with the other tasks (15 or 16 of 20 pictures)"
            " or alone",
            "Faceptor",
            {
                "with other tasks": _seeds(f"aux-{task}-on", "faceptor_tiny", max_samples=max_samples_text),
                "alone": _seeds(f"aux-{task}-off", "faceptor_tiny", max_samples=max_samples_text, tasks=task),
            },
            (protocol,),
        )
        for task, max_samples_text, protocol in (
            ("age", FEWER_SAMPLES["age"], "utkface-age"),
            ("expression", FEWER_SAMPLES["expression"], "ferplus-val"),
        )
    ),
    Ablation(
        "three laps of feedback, or one, from the same start",
        "iFAN",
        {
            "three laps": tuple(
                Run(f"laps-3-{s}", "ifan_tiny", {"steps": FEWER, "seed": s, "laps": 3}, "ifan-start")
                for s in (1, 2)
            ),
            "one lap": tuple(
                Run(f"laps-1-{s}", "ifan_tiny", {"steps": FEWER, "seed": s, "laps": 1}, "ifan-start")
                for s in (1, 2)
            ),
        },
        ("mtfl", "celebamask", "ferplus-val"),
    ),
    Ablation(
        "batch norms per data set, or shared; one lap, 600 steps from random weights",
        "iFAN",
        {
            "own norms": _seeds("norms-own", "ifan_tiny", laps=1, steps=600),
            "shared norms": _seeds("norms-shared", "ifan_tiny", laps=1, norms="shared", steps=600),
        },
        ("mtfl", "celebamask", "ferplus-val"),
    ),
    Ablation(
        "group attention (WSGSA), fusion of groups (CGFF) and dynamic weights (DWS), each removed",
        "FAR-AMTN",
        {
            "all three": _seeds("far-all", "far_amtn_tiny"),
            "no gates": _seeds("far-ungated", "far_amtn_tiny", gates=False),
            "one block per group": _seeds("far-copies", "far_amtn_tiny", shared=False),
            "no fusion": _seeds("far-unfused", "far_amtn_tiny", fusion="off"),
            "equal weights": _seeds("far-equal", "far_amtn_tiny", dynamic=False),
        },
        ("celeba",),
    ),
    Ablation(
        f"masks of the groups (trained by {MASKS:,} more steps), or masks of ones",
        "MGMTN",
        {
            "masks": tuple(
                Run(
                    f"masks-on-{s}",
                    "mgmtn_tiny",
                    {"part": "attributes", "steps": FEWER, "seed": s},
                    "mgmtn-masks",
                )
                for s in (1, 2)
            ),
            "ones": _seeds("masks-off", "mgmtn_tiny", part="attributes", masks=False),
        },
        ("celeba",),
    ),
)

# first stages, from which second stages start
_FIRST = _seeds("layers-first", "faceptor_tiny", levels="2")


def every_run() -> dict[str, Run]:
    """All runs by name; runs that others start from come first."""
    tried = (side for a in ABLATIONS for side in a.sides.values())
    runs = [*SYSTEMS, *SINGLE, *_FIRST, *(r for side in (*tried, *SINGLE_TASK.values()) for r in side)]
    return {r.name: r for r in runs}


def protocols_of(name: str) -> tuple[str, ...]:
    """The protocols that the page shows for a run; empty for all of its tasks."""
    if name in {r.name for r in (*SYSTEMS, *SINGLE)}:
        return ()
    names = {
        p
        for a in ABLATIONS
        for side in a.sides.values()
        if name in {r.name for r in side}
        for p in a.measures
    }
    names |= {MEASURE[t] for t, runs in SINGLE_TASK.items() if name in {r.name for r in runs}}
    return tuple(sorted(names))
