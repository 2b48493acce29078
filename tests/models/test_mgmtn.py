"""MGMTN against the facts of its record: masks of points, masked features, fusion, and the two steps of
training.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mien import geometry
from mien.data import synthetic
from mien.data.augment import NONE
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture
from mien.errors import UsageError
from mien.models.mgmtn import (
    COLORS,
    MASKS,
    G2ff,
    MaskNet,
    Mgmtn,
    _fill,
    draw_masks,
    mask_loss,
    masks_of,
    mgmtn,
    mgmtn_tiny,
    pooled_groups,
    resize,
)
from mien.tasks import ATTRIBUTES, LANDMARKS, WFLW98
from mien.tasks.attribute_groups import GROUPS
from mien.tasks.attributes import CELEBA40
from mien.training import checkpoint, loop
from mien.types import View
from recipes.mgmtn_tiny import recipe

NAMES = ["Mouth", "Ear", "Lower Face", "Cheeks", "Nose", "Eyes", "Hair", "Object"]
SIDE = 112


def face(seed: int, degrees: float = 0.0, task=LANDMARKS) -> np.ndarray:
    """The points of a drawn face in a crop of the head."""
    _, labels, five = synthetic.draw(np.random.default_rng(seed))
    fit = geometry.fit_similarity(
        five, geometry.template_points(View((SIDE, SIDE), "head", (0.5,) * 3, (0.5,) * 3))
    )
    turn = geometry.about(((SIDE - 1) / 2, (SIDE - 1) / 2), degrees=degrees)
    return geometry.move_points(labels[task.name], geometry.compose(turn, fit))


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def tiny():
    torch.manual_seed(0)
    return mgmtn_tiny(size=64).eval()


@pytest.mark.parametrize("task", [LANDMARKS, WFLW98], ids=lambda t: t.labels)
@pytest.mark.parametrize("degrees", [-30, 0, 30])
def test_every_face_has_eight_masks_and_its_mirror_image_theirs(task, degrees):
    for seed in range(8):
        points = face(seed, degrees, task)
        masks = masks_of(points, (SIDE, SIDE))
        assert masks.shape == (8, SIDE, SIDE) and masks.dtype == np.uint8 and set(np.unique(masks)) == {0, 1}
        assert masks.sum((1, 2)).min() >= 50
        assert (masks_of(points, (SIDE, SIDE), widen=0.1).sum((1, 2)) > masks.sum((1, 2))).all()
        whole = masks[NAMES.index("Object")]
        assert 0.1 < whole.mean() < 0.6
        for name in ("Mouth", "Nose", "Eyes", "Cheeks", "Lower Face"):
            assert (masks[NAMES.index(name)] <= whole).all(), name
        mirrored = (points * (-1, 1) + (SIDE - 1, 0))[list(task.mirror)]
        assert np.array_equal(masks_of(mirrored, (SIDE, SIDE)), masks[:, :, ::-1])


def test_masks_lie_where_their_names_say():
    points = face(3)
    masks = dict(zip(NAMES, masks_of(points, (SIDE, SIDE)), strict=True))
    place = {k: np.argwhere(m).mean(0)[::-1] for k, m in masks.items()}

    def at(name: str, x: float, y: float) -> int:
        return int(masks[name][round(y), round(x)])

    for name, part in {
        "Mouth": points[48:],
        "Nose": points[27:36],
        "Eyes": np.r_[points[17:27], points[36:48]],
        "Object": points,
    }.items():
        assert all(at(name, x, y) for x, y in part), name
    assert place["Hair"][1] < points[17:27, 1].min() < place["Nose"][1] < place["Mouth"][1]
    assert at("Hair", points[27, 0], 0) == 1  # up to the crop's edge
    assert (
        at("Ear", points[1, 0] - 4, points[1, 1]) == at("Ear", points[15, 0] + 4, points[15, 1]) == 1
    )  # outside the contour
    assert (
        at("Ear", *points[30])
        == at("Hair", *points[30])
        == at("Lower Face", *points[29])
        == at("Cheeks", *points[30])
        == 0
    )
    assert at("Lower Face", *points[8]) == at("Lower Face", *points[57]) == 1
    for eye, corner, outer in ((slice(36, 42), 48, 3), (slice(42, 48), 54, 13)):
        cheek = (points[eye].mean(0) + points[corner] + points[outer]) / 3
        assert at("Cheeks", *cheek) == 1
        assert at("Cheeks", *points[eye].mean(0)) == 0


def test_masks_of_68_and_98_points_agree():
    for seed in range(4):
        a, b = (masks_of(face(seed, 0, t), (SIDE, SIDE)) for t in (LANDMARKS, WFLW98))
        overlap = (a & b).sum((1, 2)) / (a | b).sum((1, 2))
        assert overlap.min() > 0.75, dict(zip(NAMES, overlap, strict=True))


def test_a_filled_square_is_its_pixels():
    corners = np.array([(2, 1), (5, 1), (5, 3), (2, 3)], float)
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True
    assert np.array_equal(_fill(corners, (8, 6)), expected)
    assert np.array_equal(_fill(corners - 0.4, (8, 6)), np.pad(np.ones((2, 3), bool), ((1, 3), (2, 3))))


def test_points_that_are_no_face_are_refused():
    for wrong, why in (
        (np.zeros((5, 2)), "masks are made of"),
        (np.full((68, 2), np.nan), "finite"),
        (np.zeros((98, 2)), "no face"),
    ):
        with pytest.raises(UsageError, match=why):
            masks_of(wrong, (SIDE, SIDE))


@pytest.mark.parametrize(("height", "width", "stride"), [(64, 64, 2), (57, 43, 1), (57, 43, 2)])
def test_the_unet_answers_at_the_size_of_its_input(height, width, stride):
    torch.manual_seed(0)
    logits = MaskNet((4, 8, 8), stride=stride).eval()(torch.randn(2, 3, height, width))
    assert logits.shape == (2, 8, height, width)


def test_masks_are_between_zero_and_one(images):
    torch.manual_seed(0)
    soft, hard = mgmtn_tiny(size=64).eval(), mgmtn_tiny(size=64, hard=True).eval()
    hard.load_masks(soft)
    p = soft.group_masks(images).detach()
    assert p.shape == (2, 8, 64, 64) and 0 < float(p.min()) < float(p.max()) < 1
    assert torch.equal(hard.group_masks(images), (p >= 0.5).float())
    assert torch.equal(mgmtn_tiny(size=64, masks=False).group_masks(images), torch.ones(2, 8, 64, 64))


def test_the_tiny_unet_is_cheap():
    with torch.device("meta"):
        net, macs = mgmtn_tiny().unet.eval(), []
        for m in net.modules():
            if isinstance(m, torch.nn.Conv2d):
                m.register_forward_hook(
                    lambda conv, _, out: macs.append(out.numel() * conv.weight[0].numel())
                )
        net(torch.empty(1, 3, SIDE, SIDE))
    assert sum(macs) == 54_604_032


def test_the_loss_of_masks_by_hand():
    truth = torch.zeros(1, 1, 2, 2)
    truth[0, 0, 0] = 1
    flat = torch.zeros(1, 1, 2, 2)  # p = 1/2: BCE = ln 2, Dice = 1 - (2 * 1 + 1) / (2 + 2 + 1)
    assert float(mask_loss(flat, truth)) == pytest.approx(np.log(2) + 0.4, abs=1e-6)
    assert float(mask_loss(100 * (truth - 0.5), truth)) == pytest.approx(0, abs=1e-6)


def test_resizing_is_the_mean_over_areas():
    masks = torch.rand(2, 8, 12, 8)
    assert torch.allclose(resize(masks, (3, 4)), torch.nn.functional.avg_pool2d(masks, (4, 2)), atol=1e-6)
    line = torch.tensor([1.0, 0, 0, 0, 0]).view(1, 1, 1, 5)  # cells of 2.5 pixels
    assert torch.allclose(resize(line, (1, 2)), torch.tensor([0.4, 0.0]), atol=1e-6)
    assert torch.equal(resize(torch.zeros(1, 8, 227, 227), (29, 29)), torch.zeros(1, 8, 29, 29))


def group_features(maps: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Gr = resize(P) * F as the paper writes it: (B, C, h, w), (B, K, H, W) -> (B, K, C, h, w)."""
    return maps[:, None] * resize(masks, maps.shape[-2:])[:, :, None]


def test_group_features_are_zero_where_the_mask_is():
    torch.manual_seed(0)
    masks = torch.from_numpy(masks_of(face(2), (SIDE, SIDE)))[None].float()
    for c, side in ((5, 14), (6, 7), (7, 4)):  # three scales
        maps = torch.randn(1, c, side, side)
        cut, small = group_features(maps, masks), resize(masks, (side, side))
        assert cut.shape == (1, 8, c, side, side)
        for j in range(8):
            outside = (small[0, j] == 0).expand(c, -1, -1)
            assert outside.any() and not cut[0, j][outside].any()
            inside = (small[0, j] == 1).expand(c, -1, -1)
            assert torch.allclose(cut[0, j][inside], maps[0][inside], atol=1e-5)


@pytest.mark.parametrize("side", [14, 8, 5])
def test_pooling_needs_no_copies(side):
    torch.manual_seed(0)
    maps, masks = torch.randn(2, 6, side, side), torch.rand(2, 8, 57, 57)
    assert torch.allclose(pooled_groups(maps, masks), group_features(maps, masks).mean((3, 4)), atol=1e-6)
    area = resize(masks, (side, side)).sum((2, 3))[..., None]
    expected = group_features(maps, masks).sum((3, 4)) / area
    assert torch.allclose(pooled_groups(maps, masks, inside=True), expected, atol=1e-6)


def test_masks_of_ones_leave_the_global_branch(images):
    maps = torch.randn(2, 6, 5, 5)
    assert torch.allclose(
        group_features(maps, torch.ones(2, 8, 57, 57)), maps[:, None].expand(-1, 8, -1, -1, -1), atol=1e-5
    )
    torch.manual_seed(0)
    full, none = mgmtn_tiny(size=64), mgmtn_tiny(size=64, masks=False)
    assert none.unet is None and not any(n.startswith("unet") for n in none.state_dict())
    none.load_state_dict({k: v for k, v in full.state_dict().items() if not k.startswith("unet.")})
    torch.nn.init.zeros_(full.unet.heads.weight)
    torch.nn.init.constant_(full.unet.heads.bias, 100.0)
    # in training mode, as an untrained encoder answers nearly nothing in evaluation mode
    assert torch.allclose(full.train()(images)["attributes"], none.train()(images)["attributes"], atol=1e-5)
    torch.nn.init.constant_(full.unet.heads.bias, -100.0)
    assert not torch.allclose(full(images)["attributes"], none(images)["attributes"], atol=1e-3)


def test_fusion_by_hand():
    torch.manual_seed(0)
    fuse, groups, whole = G2ff(4, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 4)
    out = fuse(groups, whole)
    for g in range(3):
        first, _, second, _ = fuse.gates[g]
        gate = torch.sigmoid(second(torch.relu(first(torch.cat([groups[:, g], whole], 1)))))
        assert torch.allclose(out[:, g], gate * whole + groups[:, g], atol=1e-6)


class Blocks(torch.nn.Module):
    """A trunk that sees nothing beyond a cell: what a real one's receptive field would blur."""

    channels, strides = (3, 3, 3, 3), (4, 8, 16, 32)

    def forward(self, images):
        return [torch.nn.functional.avg_pool2d(images, s) for s in self.strides]


def test_pixels_outside_a_mask_are_heard_through_the_global_branch_only(images):
    torch.manual_seed(0)
    view = View((64, 64), "head", (0.5,) * 3, (0.5,) * 3)
    model = Mgmtn(Blocks(), MaskNet((4, 8)), view, groups="mgmtn8", hidden=4, hard=False, inside=False)
    mask = torch.zeros(2, 8, 64, 64)
    mask[:, :, 32:, 32:] = 1  # for every group but
    mask[:, 0] = 0
    mask[:, 0, :32, :32] = 1  # the mouth
    model.group_masks = lambda _: mask
    moved = images.clone()
    moved[:, :, 40, 50] += 10  # outside the mouth's mask
    mouth = model.members["Mouth"]
    others = [i for i in range(40) if i not in mouth]

    def change() -> torch.Tensor:
        return (model(moved)["attributes"] - model(images)["attributes"]).detach().abs().amax(0)

    assert float(change()[mouth].min()) > 1e-5
    for gate in model.fusion.gates:  # shut the global branch
        torch.nn.init.zeros_(gate[2].weight)
        torch.nn.init.constant_(gate[2].bias, -1000.0)
    assert float(change()[mouth].max()) == 0
    assert float(change()[others].min()) > 1e-5


def test_the_group_table_is_a_partition_in_this_order():
    assert list(MASKS) == NAMES
    assert [len(GROUPS["mgmtn8"][n]) for n in NAMES] == [4, 1, 8, 2, 2, 5, 10, 8]
    assert sorted(n for g in NAMES for n in GROUPS["mgmtn8"][g]) == sorted(CELEBA40)


def test_the_full_size_is_the_papers():
    with torch.device("meta"):
        model = mgmtn().eval()
        maps = model.encoder(torch.empty(2, 3, 227, 227))[1:]
        assert model(torch.empty(2, 3, 227, 227))["attributes"].shape == (2, 40)
        assert model.group_masks(torch.empty(2, 3, 227, 227)).shape == (2, 8, 227, 227)
    assert [tuple(m.shape[1:]) for m in maps] == [(512, 29, 29), (1024, 15, 15), (2048, 8, 8)]
    assert {gate[0].in_features for gate in model.fusion.gates} == {7168}
    assert sum(p.numel() for p in model.encoder.parameters()) == 25_434_240
    assert model.view.size == (227, 227) and model.view.mean == (0.485, 0.456, 0.406)
    assert sum(p.numel() for p in model.classifiers.parameters()) == 3584 * 40 + 40


@pytest.mark.parametrize("groups", ["mgmtn8", "swinface11"])
def test_each_logit_comes_from_its_groups_classifier(groups, images):
    model = mgmtn_tiny(size=64, groups=groups, masks=groups == "mgmtn8").eval()
    for g, classifier in enumerate(model.classifiers):
        torch.nn.init.zeros_(classifier.weight)
        classifier.bias.data = torch.arange(classifier.out_features) + 100.0 * g
    answer = dict(zip(CELEBA40, model(images)["attributes"][0].tolist(), strict=True))
    expected = {
        n: 100.0 * g + i for g, members in enumerate(GROUPS[groups].values()) for i, n in enumerate(members)
    }
    assert answer == expected


def test_wrong_choices_are_refused(images):
    with pytest.raises(UsageError, match="choose one of: mgmtn8"):
        mgmtn_tiny(groups="none9")
    with pytest.raises(UsageError, match="use 'swinface11' with masks=False"):
        mgmtn_tiny(groups="swinface11")
    with pytest.raises(UsageError, match="no U-Net to train"):
        mgmtn_tiny(masks=False).learn_masks()
    with pytest.raises(UsageError, match="build both with masks=True"):
        mgmtn_tiny().load_masks(mgmtn_tiny(masks=False))
    for wrong in ({}, {"masks": False, "start": "x.safetensors"}, {"part": "both"}):
        with pytest.raises(UsageError, match=r"--start|choose one of: masks"):
            recipe(**wrong)
    with pytest.raises(UsageError, match="'wflw98'; the batch has: attributes"):
        mgmtn_tiny(size=64).learn_masks().learn(images, {"attributes": images}, {}, {})


def test_a_checkpoint_names_its_choices(tmp_path, images):
    for i, options in enumerate(
        ({"hard": True, "hidden": 16}, {"masks": False, "groups": "mcnn9"}, {"inside": True})
    ):
        model = mgmtn_tiny(size=64, **options).eval()
        checkpoint.save(tmp_path / f"{i}.safetensors", model)
        again = checkpoint.load(tmp_path / f"{i}.safetensors")
        assert again.builder == model.builder and again.view == model.view and again.tasks == (ATTRIBUTES,)
        assert torch.equal(again(images)["attributes"], model(images)["attributes"])
        json.dumps(model.builder)


def batch_of(model: Mgmtn, *tasks):
    source = FaceSource(synthetic.toy(n=4, tasks=tuple(t.name for t in tasks)), model.view, NONE)
    return loop.to_tensors(Mixture([(source, 4)], tasks, seed=0, size=model.view.size).batch(0), model.view)


def test_each_step_asks_gradients_of_its_own_half(tiny):
    unet = {n for n, _ in tiny.named_parameters() if n.startswith("unet.")}
    rest = {n for n, _ in tiny.named_parameters()} - unet
    assert {n for n, p in tiny.named_parameters() if p.requires_grad} == rest  # as it begins
    images, targets, known = batch_of(tiny, LANDMARKS)
    assert list(tiny(images)) == ["attributes"]  # answers need no landmarks
    losses = tiny.learn_masks().train().learn(images, targets, known, {})
    assert list(losses) == ["masks"]
    losses["masks"].backward()
    assert {n for n, p in tiny.named_parameters() if p.requires_grad} == unet
    assert {n for n, p in tiny.named_parameters() if p.grad is not None} == unet
    tiny.learn_attributes()
    assert all(p.grad is None for p in tiny.parameters())  # else an optimizer would go on with them


@pytest.mark.parametrize("task", [LANDMARKS, WFLW98], ids=lambda t: t.labels)
def test_masks_are_learned_from_known_rows(task, tiny):
    tiny.learn_masks()
    images, targets, _ = batch_of(tiny, task)
    points = targets[task.name]
    known = torch.ones(points.shape[:2], dtype=torch.bool)
    known[1], known[2, 5] = False, False  # a picture without points, and one that lacks a point
    truth = torch.from_numpy(
        np.stack([masks_of(p * 64 - 0.5, (64, 64)) for p in points[[0, 3]].numpy()])
    ).float()
    expected = mask_loss(tiny.unet(images)[[0, 3]], truth)
    assert torch.allclose(tiny.learn(images, targets, {task.name: known}, {})["masks"], expected, atol=1e-5)
    assert torch.allclose(
        tiny.learn(images, targets, {task.name: known.all(1)}, {})["masks"], expected, atol=1e-5
    )
    none = tiny.learn(images, targets, {task.name: torch.zeros_like(known)}, {})["masks"]
    none.backward()
    assert float(none.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in tiny.unet.parameters())


def test_the_unet_can_learn_a_face():
    torch.manual_seed(0)
    model = mgmtn_tiny(size=64).learn_masks()
    images, targets, known = batch_of(model, WFLW98)
    optimizer = torch.optim.AdamW(model.unet.parameters(), lr=1e-2)
    loop.training_mode(model)
    values = []
    for _ in range(40):
        loss = model.learn(images, targets, known, {})["masks"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < 0.9 < 1.3 < values[0]  # the best that is the same everywhere is about 1.2


def test_both_parts_of_the_recipe(tmp_path):
    """The U-Net learns in the first and is bit-equal after the second, statistics and averages too."""
    small = {"size": 64, "steps": 2, "batch": 4, "imagenet": False, "synthetic": True}
    masks = recipe(part="masks", **small)
    assert recipe(masks=False, **small).data == ("celeba",)  # the ablation needs no first part
    before = {k: v.clone() for k, v in masks.model.state_dict().items()}
    loop.fit(masks, tmp_path / "masks")
    learned = masks.model.state_dict()
    moved = {k for k, v in learned.items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith("unet.") for k in moved)  # the encoder's batch norms stood still
    assert any(k.endswith("running_mean") for k in moved)

    start = checkpoint.load(tmp_path / "masks" / "model.safetensors").unet.state_dict()
    attributes = recipe(start=str(tmp_path / "masks" / "model.safetensors"), **small)
    assert attributes.data == ("celeba", "helen68", "afw68")
    before = {k: v.clone() for k, v in attributes.model.state_dict().items()}
    averaged = loop.fit(attributes, tmp_path / "attributes")
    for name, value in start.items():
        assert torch.equal(attributes.model.unet.state_dict()[name], value), name
        assert torch.equal(averaged.unet.state_dict()[name], value), name
    moved = {
        k.split(".")[0] for k, v in attributes.model.state_dict().items() if not torch.equal(v, before[k])
    }
    assert moved == {"encoder", "fusion", "classifiers"}
    row = json.loads((tmp_path / "attributes" / "log.jsonl").read_text().splitlines()[-1])
    assert set(row["losses"]) == {"attributes", "norm"}


def test_drawn_masks_are_tinted_inside_only():
    pixels = np.full((SIDE, SIDE, 3), 100, np.uint8)
    masks = masks_of(face(0), (SIDE, SIDE))
    out = draw_masks(pixels, masks)
    assert out.shape == (2 * SIDE, 4 * SIDE, 3) and out.dtype == np.uint8
    tile = out[SIDE : 2 * SIDE, :SIDE]  # the fifth, Nose
    below = np.arange(SIDE)[:, None] > 20  # the name stands above
    nose = masks[4].astype(bool)
    assert (tile[~nose & below] == 100).all()
    expected = np.rint(0.4 * 100 + 0.6 * np.array(COLORS[4]))
    assert (tile[nose & below] == expected).all()
    assert (out[:20, :SIDE] != 100).any()
