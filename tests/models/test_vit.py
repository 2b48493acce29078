"""The CLIP image tower: its size, its names, its positions, and how official weights get in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mien.errors import BadWeights, UsageError
from mien.models.backbones.vit import SelfAttention, VisionTransformer, load_clip, resize_positions


def small(**arguments) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        **({"width": 16, "depth": 3, "heads": 2, "patch": 8, "grid": 4, "out": 6} | arguments)
    ).eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_base_has_the_published_number_of_parameters():
    with torch.device("meta"):
        base = VisionTransformer()
    assert count(base) == 86_828_544
    assert {count(b) for b in base.transformer.resblocks} == {7_087_872}
    assert count(base.ln_post) + base.proj.numel() == 394_752
    assert base.channels == (768,) * 12
    assert base.strides == (16,) * 12


def test_names_and_shapes_are_the_official_ones():
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in VisionTransformer(grid=14).state_dict().items()}
    expected = {
        "conv1.weight": (768, 3, 16, 16), "class_embedding": (768,), "positional_embedding": (197, 768),
        "proj": (768, 512),
        **{f"{n}.{p}": (768,) for n in ("ln_pre", "ln_post") for p in ("weight", "bias")},
    }  # fmt: skip
    block = {
        "attn.in_proj_weight": (2304, 768), "attn.in_proj_bias": (2304,), "attn.out_proj.weight": (768, 768),
        "attn.out_proj.bias": (768,), "mlp.c_fc.weight": (3072, 768), "mlp.c_fc.bias": (3072,),
        "mlp.c_proj.weight": (768, 3072), "mlp.c_proj.bias": (768,),
        **{f"{n}.{p}": (768,) for n in ("ln_1", "ln_2") for p in ("weight", "bias")},
    }  # fmt: skip
    expected |= {f"transformer.resblocks.{i}.{k}": v for i in range(12) for k, v in block.items()}
    assert shapes == expected


def reference(m: VisionTransformer, images: torch.Tensor) -> list[torch.Tensor]:
    """The tower from torch's own attention, as the official code has it (7.1)."""
    cells = nn.functional.conv2d(images, m.conv1.weight, stride=m.patch)
    b, width, h, w = cells.shape
    tokens = torch.cat(
        [m.class_embedding.expand(b, 1, width), cells.reshape(b, width, -1).permute(0, 2, 1)], 1
    )
    x = m.ln_pre(tokens + m.positional_embedding)
    maps = []
    for block in m.transformer.resblocks:
        attention = nn.MultiheadAttention(width, block.attn.heads, batch_first=True).eval()
        attention.load_state_dict(block.attn.state_dict())
        y = block.ln_1(x)
        x = x + attention(y, y, y)[0]
        y = block.mlp.c_fc(block.ln_2(x))
        x = x + block.mlp.c_proj(y * torch.sigmoid(1.702 * y))
        maps.append(x[:, 1:].permute(0, 2, 1).reshape(b, width, h, w))
    return maps


def test_maps_equal_a_tower_of_torchs_own_attention():
    m, images = small(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours, theirs = m(images), reference(m, images)
    assert [tuple(x.shape) for x in ours] == [(2, 16, 4, 4)] * 3
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_attention_names_are_those_of_torch():
    assert SelfAttention(8, 2).state_dict().keys() == nn.MultiheadAttention(8, 2).state_dict().keys()


@pytest.mark.parametrize(("side", "grid"), [((16, 16), (2, 2)), ((48, 32), (6, 4)), ((64, 64), (8, 8))])
def test_other_sizes_give_other_grids(side, grid):
    assert [tuple(x.shape[-2:]) for x in small()(torch.zeros(1, 3, *side))] == [grid] * 3


def test_positions_are_the_identity_at_their_own_grid_and_cls_is_never_interpolated():
    stored = torch.randn(1 + 32 * 32, 5)
    assert torch.equal(resize_positions(stored, (32, 32)), stored)
    for grid in ((7, 7), (14, 14), (40, 20)):
        resized = resize_positions(stored, grid)
        assert resized.shape == (1 + grid[0] * grid[1], 5)
        assert torch.equal(resized[0], stored[0])
    changed = stored.clone()
    changed[0] += 100
    assert torch.equal(resize_positions(changed, (7, 7))[1:], resize_positions(stored, (7, 7))[1:])


def test_positions_keep_rows_and_columns_apart():
    rows = torch.arange(4.0)[:, None].expand(4, 4).reshape(16, 1)
    out = resize_positions(torch.cat([torch.zeros(1, 1), rows]), (8, 4))[1:].reshape(8, 4)
    assert torch.allclose(out, out[:, :1].expand(8, 4), atol=1e-5)
    assert (out[1:, 0] > out[:-1, 0]).all()


def test_a_side_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(UsageError, match="multiples"):
        small()(torch.zeros(1, 3, 32, 36))
    with pytest.raises(UsageError, match="heads"):
        VisionTransformer(width=10, heads=3)


def test_drop_path_grows_linearly_and_acts_in_training_only():
    m, images = small(drop_path=0.6), torch.randn(4, 3, 32, 32)
    assert [b.drop for b in m.transformer.resblocks] == pytest.approx([0, 0.3, 0.6])
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(m(images), small()(images), strict=True))
        m.train()
        assert torch.equal(m(images)[0], m(images)[0])
        assert not torch.equal(m(images)[2], m(images)[2])
    block, x = m.transformer.resblocks[2], torch.ones(20_000, 1, 1)
    kept = block.path(x)
    assert kept.unique().tolist() == pytest.approx([0, 2.5])
    assert float(kept.mean()) == pytest.approx(1, abs=0.05)


def test_every_learnable_parameter_gets_a_gradient():
    m = small()
    m(torch.randn(1, 3, 32, 32))[-1].square().sum().backward()
    assert [n for n, p in m.named_parameters() if p.requires_grad and p.grad is None] == []
    assert {n for n, p in m.named_parameters() if not p.requires_grad} == {
        "ln_post.weight",
        "ln_post.bias",
        "proj",
    }


EXTRA = {
    "transformer.resblocks.0.ln_1.weight": torch.zeros(8),
    "positional_embedding": torch.zeros(77, 8),
    "logit_scale": torch.ones(()),
}


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("prefix", ["", "visual.", "module.backbone_module.visual."])
def test_official_files_load_as_they_are(prefix, wrap):
    torch.manual_seed(1)
    source = VisionTransformer(width=16, depth=3, heads=2, patch=8, grid=4, out=6)
    file = {f"{prefix}{k}": v for k, v in source.state_dict().items()}
    file |= {"mim_head.weight": torch.zeros(3)} | (EXTRA if prefix else {})
    loaded = load_clip(small(), {"state_dict": file, "epoch": 16} if wrap else file)
    for k, v in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[k], v), k


def test_half_precision_and_another_grid_are_converted():
    source = VisionTransformer(width=16, depth=3, heads=2, patch=8, grid=7, out=6).half()
    loaded = load_clip(small(), {f"visual.{k}": v for k, v in source.state_dict().items()})
    positions = loaded.positional_embedding
    assert positions.dtype == torch.float32
    assert torch.equal(
        positions.detach(), resize_positions(source.positional_embedding.detach().float(), (4, 4))
    )


def test_missing_tensors_and_wrong_shapes_are_named_and_nothing_is_half_loaded():
    m = small()
    before = {k: v.clone() for k, v in m.state_dict().items()}
    good = {f"visual.{k}": torch.randn_like(v) for k, v in before.items()}
    with pytest.raises(BadWeights, match=r"transformer\.resblocks\.2\.mlp\.c_fc\.bias"):
        load_clip(m, {k: v for k, v in good.items() if k != "visual.transformer.resblocks.2.mlp.c_fc.bias"})
    with pytest.raises(BadWeights, match=r"conv1\.weight \(16, 3, 4, 4\) for \(16, 3, 8, 8\)"):
        load_clip(m, good | {"visual.conv1.weight": torch.zeros(16, 3, 4, 4)})
    with pytest.raises(BadWeights, match=r"positional_embedding \(16, 16\)"):
        load_clip(m, good | {"visual.positional_embedding": torch.zeros(16, 16)})
    with pytest.raises(BadWeights, match="missing"):
        load_clip(m, {})
    assert all(torch.equal(before[k], v) for k, v in m.state_dict().items())
