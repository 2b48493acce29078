"""Q-Face, fact by fact: fusion, label queries, readable cross-attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.data import synthetic
from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import collate
from mien.errors import UsageError
from mien.models.backbones.vit import VisionTransformer
from mien.models.decoders import Attention
from mien.models.qface import BASE_TASKS, FUSIONS, Fusion, QFace, qface_base, qface_tiny, to_grid
from mien.tasks import AGE, ATTRIBUTES, EULER, EXPRESSION, EXPRESSION7, LANDMARKS, UNITS8, UNITS12, task
from mien.tasks.choice import ChoiceTask
from mien.training.loop import losses_of, to_tensors
from mien.types import View

POSE3 = ChoiceTask(
    "pose3", "test", ("yaw", "pitch", "roll")
)  # only its name and its three numbers matter here


def small(tasks=(EXPRESSION, POSE3), **arguments) -> QFace:
    torch.manual_seed(0)
    encoder = VisionTransformer(width=16, depth=6, heads=2, patch=8, grid=4, out=4)
    given = {
        "taps": (1, 3, 5),
        "stride": 8,
        "width": 12,
        "dim": 16,
        "heads": 4,
        "layers": 2,
        "ffn": 32,
    } | arguments
    return QFace(encoder, tasks, View((32, 32), "head", encoder.mean, encoder.std), **given).eval()


def images(n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("fusion", "tokens"), [("concat", 196), ("sum", 196), ("gated", 196), ("tokens", 784)]
)
def test_base_answers_all_tasks_from_one_encoder_run(fusion, tokens):
    """Facts 1 and 2; on meta only shapes are computed."""
    with torch.device("meta"):
        model = qface_base(tasks=(EXPRESSION7, UNITS12, UNITS8, ATTRIBUTES, AGE, EULER), fusion=fusion)
        x, runs = torch.zeros(2, 3, 224, 224), []
        model.encoder.register_forward_hook(lambda *_: runs.append(1))
        answers = model(x)
        assert len(runs) == 1
        key, value = model.memory(x)
        weights = model.attention(x)
    assert key.shape == value.shape == (2, tokens, 256)
    sizes = {"expression7": 7, "units12": 12, "units8": 8, "attributes": 40, "age": 101, "euler": 3}
    assert {k: tuple(v.shape) for k, v in answers.items()} == {k: (2, n) for k, n in sizes.items()}
    assert {k: tuple(v.shape) for k, v in weights.items()} == {k: (2, n, 8, tokens) for k, n in sizes.items()}
    assert model.taps == (2, 5, 8, 11)


def test_base_can_be_built_again_from_its_name_and_arguments():
    with torch.device("meta"):
        model = qface_base(size=112)
        again = qface_base(**model.builder[1] | {"tasks": [task(n) for n in model.builder[1]["tasks"]]})
    assert model.tasks == again.tasks == BASE_TASKS
    assert sum(p.numel() for p in model.parameters()) == 93_644_192
    assert model.view == again.view
    assert model.state_dict().keys() == again.state_dict().keys()
    assert model.grid(torch.zeros(1, 3, 112, 112)) == (7, 7)


@pytest.mark.parametrize("kind", FUSIONS)
def test_the_memory_depends_on_every_stage(kind):
    """Fact 3."""
    torch.manual_seed(0)
    fusion = Fusion((6, 8, 10), width=12, dim=16, kind=kind)
    maps = [torch.randn(2, c, s, s) for c, s in ((6, 8), (8, 4), (10, 2))]
    before = fusion(maps, (4, 4))
    assert before.shape == (2, 48 if kind == "tokens" else 16, 16)
    for i in range(3):
        after = fusion([m + torch.randn_like(m) if i == j else m for j, m in enumerate(maps)], (4, 4))
        changed = (after - before).abs().amax((0, 2)) > 1e-4
        if kind == "tokens":
            assert torch.equal(changed, torch.arange(48) // 16 == i)
        else:
            assert changed.all()


def test_the_memory_reads_the_tapped_maps_and_no_others():
    """Fact 3, in the whole model."""
    model = small()
    maps = [m.detach().requires_grad_() for m in model.encoder(images())]
    model.encoder.forward = lambda _: maps
    model.memory(images())[1].square().sum().backward()
    assert [i for i, m in enumerate(maps) if m.grad is not None and m.grad.abs().max() > 0] == [1, 3, 5]


def test_a_gate_of_one_is_a_sum_and_a_gate_of_zero_shuts_a_stage():
    torch.manual_seed(0)
    gated, plain = (Fusion((4, 4), width=6, dim=8, kind=k) for k in ("gated", "sum"))
    gated.load_state_dict(plain.state_dict() | {"gate": torch.ones(2)})
    a, b, c = torch.randn(3, 1, 4, 3, 3).unbind(0)
    assert torch.equal(gated([a, b], (3, 3)), plain([a, b], (3, 3)))
    gated.gate.data[1] = 0
    assert torch.equal(gated([a, b], (3, 3)), gated([a, c], (3, 3)))
    with pytest.raises(UsageError, match="gated"):
        Fusion((4,), width=6, dim=8, kind="product")


@pytest.mark.parametrize("self_attention", [False, True])
@pytest.mark.parametrize("positions", [False, True])
def test_other_tasks_change_no_bit(self_attention, positions):
    """Fact 4, and it is not for want of parameters: the alone model has the very same ones."""
    together = small((EXPRESSION, ATTRIBUTES, POSE3), self_attention=self_attention, positions=positions)
    alone = small((ATTRIBUTES,), self_attention=self_attention, positions=positions)
    state = together.state_dict()
    alone.load_state_dict({k: state[k] for k in alone.state_dict()})
    with torch.no_grad():
        for name, answer in alone(images()).items():
            assert torch.equal(together(images())[name], answer)
        together.labels["pose3"].query.data.add_(1)
        together.labels["expression"].query.data.add_(1)
        assert torch.equal(together(images())["attributes"], alone(images())["attributes"])


@pytest.mark.parametrize("pre_norm", [False, True])
def test_queries_of_one_task_see_each_other_only_with_self_attention(pre_norm):
    for self_attention in (False, True):
        model = small(self_attention=self_attention, pre_norm=pre_norm)
        with torch.no_grad():
            before = model(images())["pose3"]
            model.labels["pose3"].query[0] += 1
            after = model(images())["pose3"]
        assert not torch.equal(before[:, 0], after[:, 0])
        assert torch.equal(before[:, 1:], after[:, 1:]) != self_attention


def test_attention_weights_are_a_distribution_over_tokens():
    """Fact 5; and they are not all the same, so that they say something."""
    for fusion, n in (("concat", 16), ("tokens", 48)):
        weights = small(fusion=fusion).attention(images())
        assert {k: tuple(v.shape) for k, v in weights.items()} == {
            "expression": (2, 8, 4, n),
            "pose3": (2, 3, 4, n),
        }
        for w in weights.values():
            assert (w >= 0).all()
            assert torch.allclose(w.sum(-1), torch.ones(()), atol=1e-5)
            assert w.std(-1).min() > 0


def test_the_attention_that_is_shown_is_that_of_the_shared_module():
    cross = small().layers[0].cross
    query, key, value = torch.randn(2, 3, 16), torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    answer, weights = cross.read(query, *cross.remember(key, value))
    assert torch.allclose(answer, Attention.forward(cross, query, key, value), atol=1e-5)
    shown = cross.out((weights @ cross.split(cross.v(value))).transpose(1, 2).flatten(2))
    assert torch.allclose(answer, shown, atol=1e-6)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_permuting_queries_permutes_logits_and_permuting_tokens_changes_nothing(pre_norm):
    """Fact 6."""
    model, order = (
        small(positions=True, pre_norm=pre_norm),
        torch.randperm(8, generator=torch.Generator().manual_seed(2)),
    )
    with torch.no_grad():
        key, value = model.memory(images())
        before = model.decode(key, value)[0]["expression"]
        shuffled = torch.randperm(16, generator=torch.Generator().manual_seed(3))
        assert torch.allclose(
            model.decode(key[:, shuffled], value[:, shuffled])[0]["expression"], before, atol=1e-5
        )
        assert not torch.allclose(model.decode(key, value[:, shuffled])[0]["expression"], before, atol=1e-3)
        for p in model.labels["expression"].parameters():
            p.copy_(p[order])
        after = model.decode(key, value)[0]["expression"]
    assert torch.allclose(after, before[:, order], atol=1e-5)
    assert not torch.allclose(after, before, atol=1e-3)


def test_labels_of_one_task_leave_zero_not_missing_gradients_to_the_others():
    """Fact 7, through the package's own batches and losses."""
    torch.manual_seed(0)
    model = qface_tiny(size=64)
    source = FaceSource(synthetic.toy(n=2, tasks=("age",)), model.view, Augment())
    batch = collate(
        [source.example(i, np.random.default_rng(i)) for i in range(2)], model.tasks, model.view.size
    )
    x, targets, mask = to_tensors(batch, model.view)
    losses = losses_of(model.train(), {t.name: t.criterion() for t in model.tasks}, x, targets, mask)
    assert {k for k, v in losses.items() if float(v.detach()) != 0} == {"age"}
    sum(losses.values()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    for name in ("expression", "attributes"):
        assert all(not p.grad.any() for p in model.labels[name].parameters()), name
    assert model.labels["age"].query.grad.abs().max() > 0


@pytest.mark.parametrize("fusion", FUSIONS)
def test_tiny_answers_its_tasks_in_order_and_comes_back_from_its_builder(fusion):
    model = qface_tiny(fusion=fusion).eval()
    x = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        answers, weights = model(x), model.attention(x)
    assert {k: tuple(v.shape) for k, v in answers.items()} == {
        "expression": (2, 8),
        "attributes": (2, 40),
        "age": (2, 101),
    }
    assert list(answers) == [t.name for t in model.tasks] == model.builder[1]["tasks"]
    assert weights["age"].shape == (2, 101, 4, 49 * (4 if fusion == "tokens" else 1))
    again = qface_tiny(**model.builder[1] | {"tasks": model.tasks})
    assert again.view == model.view
    again.load_state_dict(model.state_dict())


def test_maps_are_averaged_down_and_interpolated_up():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert torch.equal(to_grid(x, (2, 2))[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    assert to_grid(x, (4, 4)) is x
    up = to_grid(x, (7, 7))
    assert up.shape[-2:] == (7, 7)
    assert torch.allclose(up.mT, to_grid(x.mT, (7, 7)))
    assert float(up[0, 0, 3, 3]) == pytest.approx(7.5)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="landmarks"):
        small((LANDMARKS, AGE))
    with pytest.raises(UsageError, match="multiples"):
        qface_tiny()(torch.zeros(1, 3, 100, 112))
