"""Weights between losses: fixed, by uncertainty, by how fast a loss falls."""

from __future__ import annotations

import json
import math

import pytest
import torch

from mien.training.loss_weighting import Dynamic, Fixed, Uncertainty


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {n: torch.tensor(v, requires_grad=True) for n, v in values.items()}


def run(loss_weighting, *steps: dict[str, float]) -> list[dict[str, float]]:
    return [loss_weighting(losses(**s)) for s in steps]


def test_fixed_weights_are_used_and_others_are_one():
    assert Fixed({"a": 3.0, "absent": 9.0})(losses(a=1.0, b=1.0)) == {"a": 3.0, "b": 1.0}


def test_normalized_weights_give_equal_losses_their_own_size():
    alpha = {
        "identity": 5.0,
        "age": 6.0,
        "binary": 2.0,
        "expression": 5.0,
        "parsing": 100.0,
        "landmarks": 1000.0,
    }
    weights = Fixed(alpha, normalize=True)(losses(**dict.fromkeys(alpha, 0.7)))
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["parsing"] == pytest.approx(100 / 1118)
    assert sum(w * 0.7 for w in weights.values()) == pytest.approx(0.7)


def test_uncertainty_starts_at_one_and_settles_at_one_over_the_loss():
    loss_weighting = Uncertainty(lr=0.1)
    steps = run(loss_weighting, *[{"large": 40.0, "small": 0.05}] * 400)
    assert steps[0] == {"large": 1.0, "small": 1.0}
    assert steps[-1]["large"] == pytest.approx(1 / 40, rel=1e-3)
    assert steps[-1]["small"] == pytest.approx(20, rel=1e-3)


def test_uncertainty_moves_a_step_at_most():
    loss_weighting = Uncertainty(lr=0.1)
    run(loss_weighting, {"a": 1e9})
    assert loss_weighting.log_var["a"] == pytest.approx(0.1)


def test_uncertainty_does_not_learn_from_an_absent_task():
    assert run(Uncertainty(lr=0.1), *[{"a": 0.0}] * 50)[-1] == {"a": 1.0}


def test_dynamic_is_even_for_two_windows_then_prefers_the_slowest():
    falling = [{"fast": 8.0, "even": 6.0, "slow": 5.0}] * 3 + [{"fast": 2.0, "even": 3.0, "slow": 4.5}] * 3
    *early, late = run(Dynamic(3, equalize_scale=False), *falling, {"fast": 1.0, "even": 1.0, "slow": 1.0})
    assert all(w == dict.fromkeys(("fast", "even", "slow"), 1.0) for w in early)
    e = {n: math.exp(r / 2) for n, r in {"fast": 0.25, "even": 0.5, "slow": 0.9}.items()}
    assert late == pytest.approx({n: 3 * v / sum(e.values()) for n, v in e.items()})
    assert sum(late.values()) == pytest.approx(3)
    assert max(late, key=late.__getitem__) == "slow"


def test_dynamic_averages_a_window():
    uneven = [
        {"a": 1.0, "b": 2.0},
        {"a": 3.0, "b": 2.0},
        {"a": 2.0, "b": 0.5},
        {"a": 0.0, "b": 1.5},
    ]  # zero: not labeled
    assert run(Dynamic(2, equalize_scale=False), *uneven, {"a": 1.0, "b": 1.0})[-1] == pytest.approx(
        {n: 2 * math.exp(r / 2) / (math.exp(0.5) + math.exp(0.25)) for n, r in {"a": 1.0, "b": 0.5}.items()}
    )


def test_dynamic_with_equal_ratios_is_all_ones_whatever_the_scales():
    steps = [{"a": 8.0, "b": 0.08}, {"a": 4.0, "b": 0.04}, {"a": 3.0, "b": 0.03}, {"a": 1.0, "b": 0.01}]
    assert run(Dynamic(1, equalize_scale=False), *steps)[-1] == pytest.approx({"a": 1.0, "b": 1.0})


def test_dynamic_equalizes_the_scale_of_losses_after_the_first_window():
    """Losses that differ a hundredfold and fall alike weigh so that both count the same, and their sum keeps
    its size.
    """
    steps = [{"a": 8.0, "b": 0.08}, {"a": 4.0, "b": 0.04}, {"a": 3.0, "b": 0.03}, {"a": 1.0, "b": 0.01}]
    first, *later = run(Dynamic(1), *steps)
    assert first == {"a": 1.0, "b": 1.0}
    for weights, values in zip(later, steps[1:], strict=True):
        parts = {n: weights[n] * values[n] for n in values}
        assert parts["a"] == pytest.approx(parts["b"])
        assert sum(parts.values()) == pytest.approx(sum(values.values()))


def test_a_loss_that_a_window_does_not_label_keeps_its_mean():
    loss_weighting = Dynamic(1)
    run(loss_weighting, {"a": 4.0, "b": 4.0}, {"a": 0.0, "b": 4.0})
    assert loss_weighting(losses(a=1.0, b=1.0)) == pytest.approx({"a": 1.0, "b": 1.0})
    run(Dynamic(1), *[{"a": 0.0}] * 4)  # never labeled: no division by nothing


@pytest.mark.parametrize("loss_weighting", [Fixed({"a": 2.0}), Uncertainty(), Dynamic(1)])
def test_weights_carry_no_gradient(loss_weighting):
    for weights in run(loss_weighting, *[{"a": 2.0, "b": 1.0}] * 3):
        assert {type(w) for w in weights.values()} == {float}


@pytest.mark.parametrize("make", [Uncertainty, lambda: Dynamic(3)])
@pytest.mark.parametrize("at", [1, 5, 6, 8])
def test_a_state_survives_json_and_goes_on_the_same(make, at):
    steps = [{"a": 5 / (i + 1) ** 0.3, "b": 3 / (i + 1)} for i in range(14)]
    whole = make()
    expected = run(whole, *steps)
    first, again = make(), make()
    run(first, *steps[:at])
    state = json.loads(json.dumps(first.state_dict()))
    again.load_state_dict(state)
    assert run(again, *steps[at:]) == expected[at:]
    assert again.state_dict() == whole.state_dict()
    assert expected[-1]["a"] != expected[-1]["b"]


def test_a_state_is_a_copy():
    loss_weighting = Dynamic(4)
    run(loss_weighting, {"a": 1.0})
    state = loss_weighting.state_dict()
    before = json.dumps(state)
    run(loss_weighting, {"a": 1.0})
    assert json.dumps(state) == before
