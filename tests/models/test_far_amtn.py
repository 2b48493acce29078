"""FAR-AMTN against the facts of its record: counts, what is shared, who hears whom."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import mien.tasks
from mien.data import synthetic
from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.models import MODELS
from mien.models.backbones.resnet import Bottleneck, ResNet50
from mien.models.far_amtn import AttentionFusion, Wsgsa, far_amtn, far_amtn_tiny
from mien.tasks import ATTRIBUTES
from mien.tasks.attribute_groups import GROUPS
from mien.tasks.attributes import CELEBA40
from mien.training import checkpoint, loop
from mien.training.loss_weighting import Dynamic
from mien.training.recipe import Recipe, cosine

C = 64


def count(module: torch.nn.Module, ndim: int | None = None) -> int:
    return sum(p.numel() for p in module.parameters() if ndim is None or p.ndim == ndim)


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return far_amtn_tiny(size=64).eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


# --- group tables


@pytest.mark.parametrize("table", GROUPS)
def test_a_group_table_is_a_partition_of_the_forty(table):
    members = [name for group in GROUPS[table].values() for name in group]
    assert sorted(members) == sorted(CELEBA40)


def test_groups_have_the_published_sizes():
    sizes = {table: [len(m) for m in groups.values()] for table, groups in GROUPS.items()}
    assert sizes == {
        "mgmtn8": [4, 1, 8, 2, 2, 5, 10, 8],
        "mcnn9": [1, 2, 4, 5, 6, 13, 5, 2, 2],
        "swinface11": [1, 1, 1, 6, 10, 5, 2, 4, 6, 2, 2],
    }


def test_no_other_task_uses_the_groups():
    tasks = Path(mien.tasks.__file__).parent
    assert (tasks / "attribute_groups.py").is_file()
    users = [
        f.name
        for f in tasks.glob("*.py")
        if re.search(r"import.*\battribute_groups\b|tasks\.attribute_groups", f.read_text())
    ]
    assert users == []


# --- ResNet-50


def test_resnet50_has_the_published_size_and_keys():
    with torch.device("meta"):
        net = ResNet50()
    assert count(net) == 23_508_032
    assert count(net.layer4) == 14_964_736
    assert count(net) - count(net.layer4) == 8_543_296
    keys = set(net.state_dict())
    assert len(keys) == 318
    assert {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.downsample.0.weight",
        "layer3.5.bn3.num_batches_tracked",
        "layer4.2.conv2.weight",
    } < keys
    assert {k.split(".")[0] for k in keys} == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    assert net.layer2[0].conv2.stride == (2, 2)  # on the 3x3, as in the published weights
    assert net.layer2[0].conv1.stride == (1, 1)
    with torch.device("meta"):
        shapes = [tuple(m.shape) for m in net(torch.empty(2, 3, 96, 64))]
    assert shapes == [
        (2, c, 96 // s, 64 // s) for c, s in zip(ResNet50.channels, ResNet50.strides, strict=True)
    ]


# --- counts at full size


def test_the_system_has_the_calculated_size():
    with torch.device("meta"):
        plain, attention, concat = (far_amtn(fusion=f) for f in ("off", "attention", "concat"))
    assert count(plain.split.block, ndim=4) == 4_456_448
    assert count(plain.split.gates) == 8 * 526_464
    assert count(plain.classifiers) == 81_960
    assert count(plain) == 23_508_032 + 4_211_712 + 81_960 == 27_801_704
    assert count(attention) < 1.03 * count(plain)  # the exchange must not cost what sharing saves
    assert count(concat) < 1.05 * count(plain)
    with torch.device("meta"):
        theirs = {k: v.shape for k, v in ResNet50().layer4[2].state_dict().items()}
    assert {k: v.shape for k, v in plain.split.block.state_dict().items()} == theirs


def test_one_more_group_adds_a_gate_and_no_convolution():
    with torch.device("meta"):
        eight, nine = (far_amtn(groups=g, fusion="off") for g in ("mgmtn8", "mcnn9"))
    assert count(nine, ndim=4) == count(eight, ndim=4)
    assert count(nine.split) - count(eight.split) == 526_464 == 2 * 2048 * 128 + 2048 + 128
    assert count(nine) - count(eight) == 526_464  # the classifiers share 40 outputs among them


def test_sharing_saves():
    with torch.device("meta"):
        shared, split = (far_amtn_tiny(shared=s, fusion="off") for s in (True, False))
    block = count(shared.split.block)
    assert count(split.split) == 8 * block
    assert count(shared.split) == block + 8 * (2 * 320 * 20 + 20 + 320)


# --- WSGSA


def test_gates_are_between_zero_and_one_and_differ_by_group():
    torch.manual_seed(0)
    wsgsa = Wsgsa(C, 3)
    psi = wsgsa.psi(torch.randn(2, C, 5, 5)).detach()
    assert psi.shape == (2, 3, C)
    assert float(psi.min()) > 0 and float(psi.max()) < 1
    assert not torch.allclose(psi[:, 0], psi[:, 1])


def test_gates_of_one_give_the_plain_block_for_every_group():
    torch.manual_seed(0)
    wsgsa, plain = Wsgsa(C, 3).eval(), Bottleneck(C, C // 4, C).eval()
    plain.load_state_dict(wsgsa.block.state_dict())
    x = torch.randn(2, C, 5, 5)
    assert not torch.allclose(wsgsa(x)[:, 0], plain(x))
    for gate in wsgsa.gates:
        torch.nn.init.zeros_(gate[2].weight)
        torch.nn.init.constant_(gate[2].bias, 100.0)
    assert wsgsa(x).shape == (2, 3, C, 5, 5)
    for g in range(3):
        assert torch.equal(wsgsa(x)[:, g], plain(x))


@pytest.mark.parametrize("groups", GROUPS)
def test_the_shared_block_runs_once_whatever_the_groups(groups, images):
    model, runs = far_amtn_tiny(groups=groups, size=64).eval(), []
    for conv in (model.split.block.conv1, model.split.block.conv2, model.split.block.conv3):
        conv.register_forward_hook(lambda *_: runs.append(1))
    assert model(images)["attributes"].shape == (2, 40)
    assert len(runs) == 3


# --- CGFF


def test_attention_rows_sum_to_one_and_zero_w_is_silent():
    torch.manual_seed(0)
    fuse, v = AttentionFusion(C, d=8, rank=4), torch.randn(2, 5, C)
    a = fuse.attention(v)
    assert a.shape == (2, 5, 5)
    assert torch.allclose(a.sum(-1), torch.ones(2, 5))
    assert float(a.detach().std()) > 0
    assert torch.equal(fuse(v), v)  # as it starts
    torch.nn.init.normal_(fuse.w[1].weight)
    expected = v + a @ (v @ (fuse.w[1].weight @ fuse.w[0].weight).T)
    assert torch.allclose(fuse(v), expected, atol=1e-5)


@pytest.mark.parametrize(("fusion", "heard"), [("off", False), ("attention", True), ("concat", True)])
def test_groups_hear_each_other_through_fusion_only(fusion, heard, images):
    torch.manual_seed(0)
    model = far_amtn_tiny(
        size=64, fusion=fusion
    ).train()  # an untrained encoder answers nearly nothing in evaluation mode
    mouth = model.members["Mouth"]
    others = [i for i in range(40) if i not in mouth]

    def change() -> torch.Tensor:
        """How far the logits move when the mouth's gate does."""
        before = model(images)["attributes"]
        bias = model.split.gates[list(model.members).index("Mouth")][2].bias
        kept = bias.detach().clone()
        bias.data += 1
        after = model(images)["attributes"]
        bias.data.copy_(kept)
        return (after - before).detach().abs().amax(0)

    zero_loss = change()
    assert float(zero_loss[mouth].min()) > 0
    assert float(zero_loss[others].max()) == 0
    if fusion != "off":
        torch.nn.init.normal_(model.fusion.w[1].weight)
        assert (float(change()[others].min()) > 0) == heard


# --- the model


def test_each_logit_comes_from_its_groups_classifier(tiny, images):
    names = list(GROUPS["mgmtn8"])
    for g, members in enumerate(GROUPS["mgmtn8"].values()):
        classifier = tiny.classifiers[g]
        torch.nn.init.zeros_(classifier.weight)
        classifier.bias.data = torch.arange(len(members)) + 100.0 * g
    answer = tiny(images)["attributes"][0].detach()
    for i, name in enumerate(CELEBA40):
        group = next(g for g in names if name in GROUPS["mgmtn8"][g])
        assert float(answer[i]) == 100 * names.index(group) + GROUPS["mgmtn8"][group].index(name)


def test_a_loss_a_group_over_what_is_known(tiny, images):
    mask = torch.zeros(2, 40, dtype=torch.bool)
    some = [(0, "Smiling"), (1, "Smiling"), (1, "Big_Lips"), (0, "Bald")]
    for row, name in some:
        mask[row, CELEBA40.index(name)] = True
    target = torch.ones(2, 40)
    losses = tiny.learn(images, {"attributes": target}, {"attributes": mask}, {})
    assert list(losses) == [f"attributes:{g}" for g in GROUPS["mgmtn8"]]
    each = torch.nn.functional.softplus(-tiny(images)["attributes"])
    mouth = torch.stack([each[r, CELEBA40.index(n)] for r, n in some[:3]]).mean()
    assert torch.allclose(losses["attributes:Mouth"], mouth)
    assert torch.allclose(losses["attributes:Hair"], each[0, CELEBA40.index("Bald")])
    assert {n for n, v in losses.items() if float(v.detach()) != 0} == {"attributes:Mouth", "attributes:Hair"}


@pytest.mark.parametrize("options", [{}, {"fusion": "concat"}, {"fusion": "off"}, {"shared": False}])
def test_nothing_known_leaves_zero_not_missing_gradients(options, images):
    model = far_amtn_tiny(size=64, **options).train()
    mask = torch.zeros(2, 40, dtype=torch.bool)
    losses = model.learn(images, {"attributes": torch.zeros(2, 40)}, {"attributes": mask}, {})
    assert [float(v.detach()) for v in losses.values()] == [0.0] * 8
    sum(losses.values()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and not p.grad.any(), name


@pytest.mark.parametrize("wrong", [{"groups": "none9"}, {"fusion": "sum"}])
def test_an_unknown_choice_is_refused(wrong):
    with pytest.raises(UsageError, match="choose one of"):
        far_amtn_tiny(**wrong)


def test_a_checkpoint_names_its_choices(tmp_path, monkeypatch, images):
    monkeypatch.setitem(MODELS, "far_amtn_tiny", far_amtn_tiny)
    model = far_amtn_tiny(groups="swinface11", size=64, fusion="concat", shared=False).eval()
    checkpoint.save(tmp_path / "m.safetensors", model)
    again = checkpoint.load(tmp_path / "m.safetensors")
    assert again.builder == model.builder and again.view == model.view
    assert torch.equal(again(images)["attributes"], model(images)["attributes"])


def recipe(steps: int = 3) -> Recipe:
    torch.manual_seed(0)
    model = far_amtn_tiny(size=64)
    source = FaceSource(synthetic.toy(n=6, tasks=("attributes",)), model.view, Augment())
    mixture = Mixture([(source, 4)], model.tasks, seed=0, size=model.view.size)
    return Recipe(
        "far",
        model,
        mixture,
        torch.optim.AdamW(model.parameters(), lr=1e-3),
        cosine(1),
        steps,
        loss_weighting=Dynamic(1),
        data=("toy",),
    )


def test_the_trainer_balances_groups_and_resumes(tmp_path):
    whole = recipe()
    before = {n: p.detach().clone() for n, p in whole.model.named_parameters()}
    loop.fit(whole, tmp_path / "whole", report=1)
    row = json.loads((tmp_path / "whole" / "log.jsonl").read_text().splitlines()[0])
    assert set(row["losses"]) == {f"attributes:{g}" for g in GROUPS["mgmtn8"]} | {"norm"}
    assert row["losses"]["attributes:Object"] > 0  # drawn faces say who is male
    assert any(not torch.equal(before[n], p) for n, p in whole.model.split.named_parameters(prefix="split"))
    loop.fit(recipe(), tmp_path / "parts", stop_after=2, report=1)
    parts = recipe()
    loop.fit(parts, tmp_path / "parts", resume=True, report=1)
    assert parts.loss_weighting.state_dict() == whole.loss_weighting.state_dict()
    assert parts.loss_weighting.step == 3
    for (name, a), (_, b) in zip(
        whole.model.state_dict().items(), parts.model.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


def test_the_model_answers_attributes_only(tiny):
    assert tiny.tasks == (ATTRIBUTES,)
    json.dumps(tiny.builder)
