"""The comparison's runs fit their recipes, and its page says what the runs scored."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from bench.comparison.__main__ import ABLATED, KEPT, PAGE
from bench.comparison.guess import guess
from bench.comparison.page import (
    GUESS,
    ablation_numbers,
    claims,
    judged,
    page,
    single_tasks,
    spread,
    systems,
    verdict,
)
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
    every_run,
    protocols_of,
)
from bench.comparison.work import curve, multiply_adds, train_all
from mien.cli import load_recipe
from mien.data.augment import NONE
from mien.data.dataset import RandomSubset
from mien.data.pack_mixture import MADE_FOR, PROPORTIONS, allocate_batch, pack_mixture
from mien.errors import UsageError
from mien.models.ifan import ifan_tiny
from mien.tasks import ATTRIBUTES, DEFAULT_TASKS, POINTS5, task
from mien.tasks.base import sigmoid

RUNS = every_run()


def test_the_six_systems_and_a_network_a_task_are_there():
    assert {r.recipe for r in SYSTEMS} == {
        f"{n}_tiny" for n in ("qface", "naive_faceptor", "faceptor", "ifan", "far_amtn", "mgmtn")
    }
    assert {r.settings["tasks"] for r in SINGLE} == {t.name for t in DEFAULT_TASKS}
    assert {a.paper for a in ABLATIONS} == {"Q-Face", "Faceptor", "iFAN", "FAR-AMTN", "MGMTN"}


@pytest.mark.parametrize("run", RUNS.values(), ids=lambda r: r.name)
def test_a_run_fits_its_recipe(run):
    path = Path("recipes") / f"{run.recipe}.py"
    known = inspect.signature(load_recipe(path)).parameters
    assert set(run.settings) <= set(known)
    for name, value in run.settings.items():
        assert isinstance(value, type(known[name].default)), name
    assert not run.start or run.start in RUNS
    assert (
        not run.start
        or list(RUNS).index(run.start) < list(RUNS).index(run.name)
        or run.start.startswith("layers-first")
    )


@pytest.mark.parametrize("study", ABLATIONS, ids=lambda a: a.idea[:30])
def test_both_sides_of_an_ablation_cost_the_same(study):
    def steps(run: Run) -> int:
        before = RUNS[run.start].settings["steps"] if run.start.startswith("layers-first") else 0
        return run.settings["steps"] + before

    assert len({steps(r) for side in study.sides.values() for r in side}) == 1
    for side in study.sides.values():
        assert [r.settings["seed"] for r in side] == [1, 2]


def test_systems_take_the_same_steps():
    assert {r.settings["steps"] for r in (*SYSTEMS, *SINGLE) if r.name != "mgmtn-masks"} == {STEPS}
    assert FEWER < STEPS


def test_verdicts_by_hand():
    assert verdict([2.0, 2.1], [1.0, 1.9], less=False) == "yes"
    assert verdict([2.0, 2.1], [1.0, 1.9], less=True) == "no, worse"
    assert verdict([2.0, 1.5], [1.0, 1.9], less=False) == "no clear difference"
    assert spread([80.0, 81.0], "celeba") == "80.50 ± 0.50"
    assert spread([0.5, 0.52], "celebamask") == "0.510 ± 0.010"


def results(**values: float):
    return {n: {"scores": {"celeba": {"mean_accuracy": v, "n": 1030}}} for n, v in values.items()}


def test_claims_name_the_tasks_on_which_an_idea_helps():
    masks = next(a for a in ABLATIONS if a.paper == "MGMTN")
    ours, other = ([r.name for r in side] for side in masks.sides.values())
    assert claims({}) == "Not trained yet."
    scored = results(**dict(zip([*ours, *other], (88.2, 88.3, 88.0, 88.1), strict=True)))
    idea = f"- **MGMTN**, {masks.idea}. *masks* against *ones*:"
    assert claims(scored) == f"{idea} better on attributes."
    scored = results(**dict(zip([*ours, *other], (88.0, 88.3, 88.1, 88.2), strict=True)))
    assert claims(scored) == f"{idea} unclear on attributes."


def test_the_page_shows_what_was_scored_and_leaves_the_rest_blank(tmp_path):
    found: dict = results(qface=85.25)
    found |= {"far_amtn": {"scores": {"celeba": {"mean_accuracy": 86.5}}, "cost": {
        "parameters": 3_268_616, "multiply_adds": 99_000_000, "train_images_per_s": 88.2,
        "onnx_ms": 3.21}}}  # fmt: skip
    rows = systems(found).splitlines()
    assert len(rows) == 4  # the head, the rule, two systems
    assert "| Q-Face |  |  |  |  |  |  |  | 85.25 |" in rows[2]
    assert "| FAR-AMTN | 3.27 | 99 | 88 | 3.2 |" in rows[3]
    (tmp_path / "qface").mkdir()
    line = {"step": 500, "scores": {"celeba": 81.0, "ferplus-val": 40.0}}
    (tmp_path / "qface" / "log.jsonl").write_text('{"step": 50, "losses": {}}\n' + json.dumps(line) + "\n")
    found["qface"]["curve"] = curve("qface", tmp_path)
    assert found["qface"]["curve"] == [{"step": 500, "celeba": 81.0, "ferplus-val": 40.0}]
    assert "Not trained yet." in page(found)


def test_an_ablation_is_judged_seed_by_seed():
    idea = Ablation(
        "a",
        "P",
        {"on": (Run("a1", "r"), Run("a2", "r")), "off": (Run("b1", "r"), Run("b2", "r"))},
        ("celeba",),
    )
    scored = results(a1=85, a2=86, b1=83, b2=84)
    assert judged(scored, idea) == {"off": {"celeba": "yes"}}
    assert judged(results(a1=85, a2=86, b1=83), idea) == {}


def test_scores_of_ablations_are_written():
    masks = next(a for a in ABLATIONS if a.paper == "MGMTN")
    ours, other = ([r.name for r in side] for side in masks.sides.values())
    scored = results(**dict(zip([*ours, *other], (85, 86, 83, 84), strict=True)))
    idea = f'"{masks.idea}"'
    assert ablation_numbers(scored).splitlines() == [
        "paper,idea,side,metric,mean,half_range",
        f"MGMTN,{idea},masks,CelebA %,85.50,0.50",
        f"MGMTN,{idea},ones,CelebA %,83.50,0.50",
    ]


def test_the_committed_page_is_made_of_the_committed_result():
    found = json.loads(KEPT.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(found)
    assert ABLATED.read_text(encoding="utf-8") == ablation_numbers(found)


def test_a_task_alone_is_judged_against_all_together():
    assert {t: r[0].settings["tasks"] for t, r in SINGLE_TASK.items()} == {
        t.name: t.name for t in DEFAULT_TASKS
    }
    assert {r.settings["steps"] for runs in (TOGETHER, *SINGLE_TASK.values()) for r in runs} == {FEWER}
    both = results(
        **{"naive-short-1": 85, "naive-short-2": 86, "alone-attributes-1": 87, "alone-attributes-2": 88}
    )
    assert "| attributes | CelebA % | 85.50 ± 0.50 | 87.50 ± 0.50 | no, worse |" in single_tasks(both)


def test_only_tasks_of_the_page_are_requested():
    assert protocols_of("qface") == ()
    assert protocols_of("far-all-1") == ("celeba",)
    assert protocols_of("alone-points5-2") == (MEASURE["points5"],)
    assert set(MEASURE.values()) <= set(protocols_of("naive-short-1"))


def test_a_run_without_its_start_is_reported_and_not_trained(tmp_path):
    with pytest.raises(RuntimeError, match="ifan: it starts from ifan-start, which is not trained"):
        train_all(["ifan"], tmp_path, 1)


def test_multiply_adds_are_those_of_the_layers():
    import torch

    from mien.types import View

    class Small(torch.nn.Module):
        view = View((8, 8), "head", (0, 0, 0), (1, 1, 1))

        def __init__(self):
            super().__init__()
            self.conv, self.full = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Linear(4, 5)

        def forward(self, x):
            return self.full(self.conv(x).mean((2, 3)))

    assert multiply_adds(Small()) == 8 * 8 * 3 * 4 * 9 + 4 * 5


def test_shares_keep_their_proportions_and_room_for_all():
    every = allocate_batch(DEFAULT_TASKS, 20)
    assert every == PROPORTIONS
    assert allocate_batch([task("age")], 20) == {"utkface": 20}
    assert allocate_batch([task("landmarks")], 20) == {"helen68": 10, "afw68": 10}
    few = allocate_batch([task("expression"), task("attributes"), task("age")], 20)
    assert few == {"ferplus": 8, "utkface": 6, "celeba": 6}
    assert sum(allocate_batch(DEFAULT_TASKS, 8).values()) == 8
    assert set(allocate_batch(DEFAULT_TASKS, 8)) == set(PROPORTIONS)
    with pytest.raises(UsageError, match="no room for 7 sets"):
        allocate_batch(DEFAULT_TASKS, 6)
    with pytest.raises(UsageError, match="no set of the pack is made for 'euler'"):
        allocate_batch([task("euler")], 6)
    assert {t.name for t in DEFAULT_TASKS} == set(MADE_FOR)


def test_a_part_of_a_set_is_always_the_same_part():
    from mien.data import synthetic

    whole = synthetic.toy(n=20)
    some = RandomSubset(whole, 5)
    assert len(some) == 5
    assert [some[i].name for i in range(5)] == [RandomSubset(whole, 5)[i].name for i in range(5)]
    assert len({some[i].name for i in range(5)}) == 5
    assert [some[i].name for i in range(5)] != [whole[i].name for i in range(5)]


def test_the_guess_is_the_mean_of_the_labels_whatever_it_is_shown():
    model = guess(batches=2, synthetic=True)
    w, h = model.view.size
    answers = model(np.random.default_rng(0).normal(size=(3, 3, h, w)).astype(np.float32))
    assert all(np.array_equal(a[0], a[2]) for a in answers.values())
    net = ifan_tiny(tasks=[POINTS5, ATTRIBUTES])
    faces = pack_mixture(PROPORTIONS, net.view, net.tasks, seed=1, augment=NONE, synthetic=True)
    means = net.mean_answers(faces.batch(i) for i in range(2))
    np.testing.assert_allclose(answers["points5"][0], means["points5"], atol=1e-6)
    np.testing.assert_allclose(
        sigmoid(answers["attributes"][0]), means["attributes"].clip(1e-6, 1 - 1e-6), atol=1e-5
    )


def test_the_guess_has_a_row_of_its_own():
    results = {GUESS: {"scores": {"mtfl": {"nme": 10.149}}}}
    assert [
        line
        for line in systems(results).splitlines()
        if line.startswith("| constant prediction |  |  |  |  | 10.15 |")
    ]
    assert "constant" not in systems({})
