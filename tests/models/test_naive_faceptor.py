"""Naive Faceptor: the published sizes, part by part; what data sets of one type share; answers, learning and
export.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import UsageError
from mien.export.onnx_export import difference, export
from mien.models.backbones.vit import VisionTransformer
from mien.models.naive_faceptor import (
    BASE_TASKS,
    AttributeHead,
    DenseHead,
    NaiveFaceptor,
    PlainPyramid,
    naive_faceptor_base,
    naive_faceptor_tiny,
    pool,
)
from mien.tasks import AGE, FACES, IDENTITY, LANDMARKS, PARSING
from mien.tasks.choice import ChoiceTask
from mien.tasks.parsing import ParsingTask
from mien.types import View


def size(module: nn.Module | None) -> int:
    assert module is not None
    return sum(p.numel() for p in module.parameters())


def expression(dataset: str, n: int = 7) -> ChoiceTask:
    return ChoiceTask(f"expression7@{dataset}", "expression7", tuple(f"e{i}" for i in range(n)))


def parsing(dataset: str, n: int) -> ParsingTask:
    return ParsingTask(f"parsing@{dataset}", f"set{n}", tuple(f"c{i}" for i in range(n)), {})


def base(*more) -> nn.Module:
    with torch.device("meta"):
        return naive_faceptor_base(tasks=[*BASE_TASKS, *more]) if more else naive_faceptor_base()


@pytest.fixture(scope="module")
def whole():
    return base()


@pytest.fixture(scope="module")
def twins():
    """A small model with two data sets of an attribute type and two of a dense type."""
    torch.manual_seed(0)
    return naive_faceptor_tiny(
        tasks=[expression("a"), parsing("a", 5), expression("b"), AGE, parsing("b", 3)], size=64
    ).eval()


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return naive_faceptor_tiny().eval()


def answers(model: nn.Module, n: int = 2, side: int = 64) -> dict[str, Tensor]:
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        return {k: v.clone() for k, v in model(images).items()}


def test_base_has_the_published_size(whole):
    assert size(whole) == 178_911_058


def test_each_part_has_its_size(whole):
    assert size(whole.encoder) == 86_828_544
    assert {k: size(v) for k, v in whole.identity.items()} == {"identity512": 987_136}
    assert list(whole.attribute) == ["age", "attributes", "expression7"]
    for head in whole.attribute.values():
        assert size(head) - size(head.last) == 4_098_592
    last = {name: size(fc) for head in whole.attribute.values() for name, fc in head.last.items()}
    assert last == {
        "age": 51_813,
        "attributes": 20_520,
        "expression7@affectnet": 3_591,
        "expression7@rafdb": 3_591,
    }
    assert {k: (size(h.pyramid), size(h.uper)) for k, h in whole.dense.items()} == dict.fromkeys(
        ["parsing", "landmarks"], (7_081_728, 32_256_000)
    )
    assert {k: size(h.last) for k, h in whole.dense.items()} == {"parsing": 9_747, "landmarks": 34_884}


def test_base_reads_the_published_blocks_and_answers_on_a_quarter_of_512(whole):
    assert (whole.attribute_levels, whole.dense_levels) == ((5, 7, 9, 11), (3, 5, 7, 11))
    shapes = {k: tuple(v.shape) for k, v in whole.eval()(torch.zeros(1, 3, 512, 512, device="meta")).items()}
    assert shapes == {
        "identity512": (1, 512), "age": (1, 101), "attributes": (1, 40), "expression7@affectnet": (1, 7),
        "expression7@rafdb": (1, 7),
        "parsing": (1, 19, 128, 128), "landmarks": (1, 68, 128, 128),
    }  # fmt: skip


def test_base_answers_at_112_too(whole):
    shapes = {k: tuple(v.shape) for k, v in whole.eval()(torch.zeros(2, 3, 112, 112, device="meta")).items()}
    assert (shapes["age"], shapes["identity512"], shapes["parsing"]) == ((2, 101), (2, 512), (2, 19, 28, 28))


def test_a_second_data_set_adds_513_parameters_per_answer(whole):
    assert size(base(expression("ferplus", 8))) - size(whole) == 513 * 8
    assert size(base(parsing("lapa", 11))) - size(whole) == 513 * 11


def test_a_builder_remembers_its_tasks():
    assert base().builder == ("naive_faceptor_base", {"tasks": [t.name for t in BASE_TASKS], "size": 512})
    assert base(parsing("lapa", 11)).builder[1]["tasks"][-2:] == ["landmarks", "parsing@lapa"]


def test_the_gate_sees_512_channels_and_is_between_0_and_1():
    torch.manual_seed(0)
    head = AttributeHead((768,) * 4, {"age": 101}, width=128)
    x = head.gathered([torch.randn(2, 768, 7, 7) for _ in range(4)])
    assert x.shape == (2, 512, 7, 7)
    gate = head.gate(x)
    assert gate.shape == (2, 512, 1, 1)
    assert 0 < gate.min() < gate.max() < 1
    mean, most = (
        head.gate.mlp(F.adaptive_avg_pool2d(x, 1).flatten(1)),
        head.gate.mlp(F.adaptive_max_pool2d(x, 1).flatten(1)),
    )
    assert torch.allclose(gate[..., 0, 0], torch.sigmoid(mean + most), atol=1e-6)


def test_the_attribute_head_is_gate_relu_maximum_norm_and_two_hidden_layers():
    torch.manual_seed(0)
    head = AttributeHead((6, 6), {"age": 3}, width=16).eval()
    nn.init.uniform_(head.norm.running_mean)
    maps = [torch.randn(2, 6, 5, 5) for _ in range(2)]
    x = torch.cat([F.conv2d(m, p.weight, padding=1) for m, p in zip(maps, head.project, strict=True)], 1)
    x = (head.gate(x) * x).clamp_min(0).flatten(2).max(2).values
    x = (x - head.norm.running_mean) / (head.norm.running_var + 2e-5).sqrt()
    a, b = (m for m in head.hidden if isinstance(m, nn.Linear))
    assert torch.allclose(head(maps)["age"], head.last["age"](b(a(x).relu()).relu()), atol=1e-5)
    assert [m.p for m in head.hidden if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_the_pyramid_of_512_pixels_has_sides_128_64_32_16():
    pyramid = PlainPyramid(8)
    assert [tuple(m.shape) for m in pyramid([torch.zeros(2, 8, 32, 32)] * 4)] == [
        (2, 8, s, s) for s in (128, 64, 32, 16)
    ]


@pytest.mark.parametrize("out", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("side", [(4, 4), (7, 5), (16, 16)])
def test_pooling_is_adaptive_average_pooling(out, side):
    x = torch.randn(2, 3, *side)
    assert torch.allclose(pool(x, out, out), F.adaptive_avg_pool2d(x, out), atol=1e-6)


def test_slices_of_the_last_convolution_are_disjoint_and_cover_it(twins):
    head = twins.dense["parsing"]
    assert list(twins.dense) == ["parsing"]
    before, owners = answers(twins), []
    for row in range(head.last.out_channels):
        with torch.no_grad():
            head.last.bias[row] += 1
        after = answers(twins)
        with torch.no_grad():
            head.last.bias[row] -= 1
        moved = {
            (k, c)
            for k in before
            for c in range(before[k].shape[1])
            if (after[k][:, c] - before[k][:, c]).abs().max() > 0.5
        }
        assert len(moved) == 1
        owners += moved
    assert owners == [*(("parsing@a", c) for c in range(5)), *(("parsing@b", c) for c in range(3))]


def test_data_sets_of_one_type_share_all_but_the_last_layer(twins):
    """Shown by gradients: what one data set's answer depends on, the other's does too, last layers apart."""
    assert list(twins.attribute) == ["expression7", "age"]
    images = torch.randn(2, 3, 64, 64)

    def reached(name: str) -> set[str]:
        twins.zero_grad()
        twins(images)[name].square().sum().backward()
        return {n for n, p in twins.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}

    a, b, age = reached("expression7@a"), reached("expression7@b"), reached("age")
    last = {f"attribute.expression7.last.expression7@{s}.{p}" for s in "ab" for p in ("weight", "bias")}
    assert a ^ b == last
    heads = {n for n in a & b if n.startswith("attribute.")}
    everything = {n for n, _ in twins.named_parameters() if n.startswith("attribute.expression7.")}
    assert heads == everything - last
    assert not any(n.startswith("attribute.expression7") for n in age)


def test_a_dense_head_is_no_wider_than_its_type():
    head = DenseHead((8,) * 4, {"parsing": 4}, plain=True, width=16, pools=(1, 2, 3, 6)).eval()
    assert head([torch.randn(1, 8, 7, 7)] * 4)["parsing"].shape == (1, 4, 28, 28)


def test_tiny_answers_in_the_contract_and_is_small(tiny):
    shapes = {k: tuple(v.shape) for k, v in answers(tiny, side=112).items()}
    assert shapes == {
        "landmarks": (2, 68, 28, 28), "points5": (2, 5, 28, 28), "parsing": (2, 19, 28, 28), "age": (2, 101),
        "expression": (2, 8),
        "attributes": (2, 40), "identity": (2, 128),
    }  # fmt: skip
    assert list(shapes) == [t.name for t in tiny.tasks]
    assert tiny.builder == ("naive_faceptor_tiny", {"tasks": list(shapes), "size": 112})
    assert size(tiny) < 7_000_000


def test_a_picture_answers_the_same_alone(tiny):
    images = torch.randn(3, 3, 112, 112)
    with torch.inference_mode():
        together, alone = tiny(images), tiny(images[1:2])
    for name in together:
        assert torch.allclose(together[name][1:2], alone[name], atol=1e-4), name


def test_a_requested_task_changes_only_its_own_head(tiny):
    tiny.zero_grad()
    tiny(torch.randn(1, 3, 112, 112))["points5"].square().mean().backward()
    parts = {
        ".".join(n.split(".")[:2])
        for n, p in tiny.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert {p for p in parts if not p.startswith("encoder.")} == {"dense.points5"}
    assert any(p.startswith("encoder.") for p in parts)


def test_a_few_steps_lower_the_loss():
    torch.manual_seed(0)
    model = naive_faceptor_tiny(tasks=[AGE, LANDMARKS], size=64)
    images = torch.randn(4, 3, 64, 64)
    targets = {"age": torch.tensor([5.0, 25.0, 45.0, 65.0]), "landmarks": torch.rand(4, 68, 2)}
    mask, criteria = torch.ones(4, dtype=torch.bool), {t.name: t.criterion() for t in model.tasks}
    optimizer, history = torch.optim.AdamW(model.parameters(), lr=1e-3), list[dict[str, float]]()
    for _ in range(12):
        raw = model(images)
        losses = {k: criteria[k](raw[k], targets[k], mask) for k in targets}
        history.append({k: float(v.detach()) for k, v in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    for name in targets:
        assert history[-1][name] < 0.9 * history[0][name], (name, history[0], history[-1])


def plain() -> NaiveFaceptor:
    """The base's structure, small: a ViT of one stride, with a grid of 7 that neither 2, 3 nor 6 divides."""
    encoder = VisionTransformer(width=32, depth=4, heads=2, grid=4)
    view, levels = View((112, 112), "head", encoder.mean, encoder.std), (0, 1, 2, 3)
    model = NaiveFaceptor(
        encoder,
        [PARSING, AGE],
        view,
        attribute_levels=levels,
        dense_levels=levels,
        attribute_width=16,
        dense_width=16,
        hidden=32,
    )
    model.builder = ("naive_faceptor_base", {})
    return model


def test_torch_and_onnx_agree_at_any_batch_size(tmp_path):
    """With maps of one stride; the tiny network is among those of tests/contracts."""
    torch.manual_seed(0)
    model = plain().eval()
    export(model, tmp_path / "m.onnx")
    for n in (1, 3):
        images = torch.randn(n, 3, 112, 112, generator=torch.Generator().manual_seed(n)).numpy()
        gaps = difference(model, tmp_path / "m.onnx", images)
        assert set(gaps) == {t.name for t in model.tasks}
        assert max(gaps.values()) <= 1e-4, gaps


def test_what_has_no_head_is_refused():
    with pytest.raises(UsageError, match="no head for: faces"):
        naive_faceptor_tiny(tasks=[AGE, FACES])
    with pytest.raises(UsageError, match=r"one shape of answer.*: parsing"):
        naive_faceptor_tiny(tasks=[PARSING, ChoiceTask("parsing@words", "words", ("a", "b")), IDENTITY])
