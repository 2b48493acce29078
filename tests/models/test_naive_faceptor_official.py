"""Naive Faceptor's official file: keys and shapes as published, listed here by hand; where tensors land and
what they then compute.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mien.errors import BadWeights, UsageError
from mien.models.backbones.vit import VisionTransformer
from mien.models.naive_faceptor import NaiveFaceptor, naive_faceptor_tiny
from mien.models.naive_faceptor_official import BASE_TASKS, load_naive_faceptor, naive_faceptor_from_official
from mien.tasks import task
from mien.types import View
from tests.models.test_faceptor_official import FULL, SMALL, TO_CELEBAMASK, linear, norm, part, tower

H = "heads_module.heads"
SETS = {
    "age": {"age_morph2": 101}, "biattr": {"biattr_celeba": 40}, "affect": {"affect_affectnet": 7,
    "affect_rafdb": 7},
    "parsing": {"parsing_celebam": 19}, "align": {"align_300w": 68},
}  # fmt: skip
LATE, PYRAMID = (5, 7, 9, 11), (3, 5, 7, 11)


def batch_norm(key: str, n: int) -> dict[str, tuple[int, ...]]:
    return norm(key, n) | {
        f"{key}.running_mean": (n,),
        f"{key}.running_var": (n,),
        f"{key}.num_batches_tracked": (),
    }


def heads(width: int, flat: int, dense: int) -> dict[str, tuple[int, ...]]:
    """`flat` is a fourth of an attribute head's width, `dense` the width of a UPerHead."""
    shapes = (
        norm(f"{H}.recog.norm", width)
        | linear(f"{H}.recog.head.0", width, width, False)
        | batch_norm(f"{H}.recog.head.1", width)
    )
    shapes |= linear(f"{H}.recog.head.2", 512, width, False) | batch_norm(f"{H}.recog.head.3", 512)
    for kind in ("age", "biattr", "affect"):
        at, d = f"{H}.{kind}", 4 * flat
        shapes |= {f"{at}.conv.{i}.weight": (flat, width, 3, 3) for i in range(4)}
        shapes |= linear(f"{at}.channel_attention.mlp.1", d // 16, d) | linear(
            f"{at}.channel_attention.mlp.3", d, d // 16
        )
        shapes |= (
            batch_norm(f"{at}.norm", d) | linear(f"{at}.feature.0", d, d) | linear(f"{at}.feature.3", d, d)
        )
        for name, n in SETS[kind].items():
            shapes |= linear(f"{at}.fcs.{name}", n, d)
    for kind in ("parsing", "align"):
        at = f"{H}.{kind}"
        for up in ("fpns.0.0", "fpns.0.3", "fpns.1"):
            shapes |= {f"{at}.{up}.weight": (width, width, 2, 2), f"{at}.{up}.bias": (width,)}
        shapes |= batch_norm(f"{at}.fpns.0.1", width)
        convs = {f"psp_modules.{i}.1": (width, 1) for i in range(4)} | {"bottleneck": (width + 4 * dense, 3)}
        convs |= {f"lateral_convs.{i}": (width, 1) for i in range(3)} | {
            f"fpn_convs.{i}": (dense, 3) for i in range(3)
        }
        for name, (c, k) in (convs | {"fpn_bottleneck": (4 * dense, 3)}).items():
            shapes |= {f"{at}.head.{name}.conv.weight": (dense, c, k, k)} | batch_norm(
                f"{at}.head.{name}.bn", dense
            )
        n = sum(SETS[kind].values())
        shapes |= {f"{at}.head.conv_seg.weight": (n, dense, 1, 1), f"{at}.head.conv_seg.bias": (n,)}
    return shapes


def official(sizes: dict[str, int], flat: int, dense: int, device: str = "cpu") -> dict[str, Tensor]:
    torch.manual_seed(4)
    state = {}
    shapes = tower(sizes["width"], sizes["patch"], sizes["grid"], sizes["pooled"]) | heads(
        sizes["width"], flat, dense
    )
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.full((), 50_000, dtype=torch.long, device=device)
        elif key.endswith("running_var"):
            state[key] = torch.rand(shape, device=device) + 0.5
        elif len(shape) > 1:
            state[key] = (
                torch.randn(shape, device=device)
                * (2 / (shape[1] * (shape[2] ** 2 if len(shape) == 4 else 1))) ** 0.5
            )
        else:
            state[key] = torch.randn(shape, device=device) * 0.2 + (1.0 if key.endswith("weight") else 0.1)
    state["losses_module.losses.recog_ms1mv3.classifier"] = torch.empty(93_431, 512, device="meta")
    return {f"module.{k}": v for k, v in state.items()}


def small(tasks=BASE_TASKS) -> NaiveFaceptor:
    encoder = VisionTransformer(width=16, depth=12, heads=2, patch=8, grid=4, out=6)
    return NaiveFaceptor(
        encoder,
        tasks,
        View((64, 64), "head", encoder.mean, encoder.std),
        attribute_width=8,
        dense_width=12,
        hidden=16,
    ).eval()


# --- what the official tensors compute, written from the published description with torch's functions


def normed(x: Tensor, p: dict[str, Tensor], key: str, eps: float) -> Tensor:
    return F.batch_norm(
        x, *(p[f"{key}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")), eps=eps
    )


def attribute(p: dict[str, Tensor], maps: list[Tensor], name: str) -> Tensor:
    x = torch.cat(
        [F.conv2d(maps[level], p[f"conv.{i}.weight"], padding=1) for i, level in enumerate(LATE)], 1
    )

    def mlp(v: Tensor) -> Tensor:
        v = F.relu(F.linear(v, p["channel_attention.mlp.1.weight"], p["channel_attention.mlp.1.bias"]))
        return F.linear(v, p["channel_attention.mlp.3.weight"], p["channel_attention.mlp.3.bias"])

    x = F.relu(x * torch.sigmoid(mlp(x.mean((2, 3))) + mlp(x.amax((2, 3))))[..., None, None]).amax((2, 3))
    x = normed(x, p, "norm", 2e-5)
    for i in (0, 3):
        x = F.relu(F.linear(x, p[f"feature.{i}.weight"], p[f"feature.{i}.bias"]))
    return F.linear(x, p[f"fcs.{name}.weight"], p[f"fcs.{name}.bias"])


def dense(p: dict[str, Tensor], maps: list[Tensor]) -> Tensor:
    def conv(x: Tensor, key: str, pad: int) -> Tensor:
        return F.relu(
            normed(F.conv2d(x, p[f"head.{key}.conv.weight"], padding=pad), p, f"head.{key}.bn", 1e-5)
        )

    def up(x: Tensor, key: str) -> Tensor:
        return F.conv_transpose2d(x, p[f"fpns.{key}.weight"], p[f"fpns.{key}.bias"], stride=2)

    def to(x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)

    a, b, c, d = (maps[i] for i in PYRAMID)
    a, b, d = up(F.gelu(normed(up(a, "0.0"), p, "fpns.0.1", 1e-5)), "0.3"), up(b, "1"), F.max_pool2d(d, 2)
    contexts = [
        to(conv(F.adaptive_avg_pool2d(d, n), f"psp_modules.{i}.1", 0), d) for i, n in enumerate((1, 2, 3, 6))
    ]
    levels = [conv(m, f"lateral_convs.{i}", 0) for i, m in enumerate((a, b, c))] + [
        conv(torch.cat([d, *contexts], 1), "bottleneck", 1)
    ]
    for i in (3, 2, 1):
        levels[i - 1] = levels[i - 1] + to(levels[i], levels[i - 1])
    levels = [conv(m, f"fpn_convs.{i}", 1) for i, m in enumerate(levels[:3])] + levels[3:]
    x = conv(torch.cat([to(m, levels[0]) for m in levels], 1), "fpn_bottleneck", 1)
    return F.conv2d(x, p["head.conv_seg.weight"], p["head.conv_seg.bias"])


def test_a_converted_model_answers_as_the_official_tensors_do():
    state = official(SMALL, 8, 12)
    model = load_naive_faceptor(small(), {"step": 50_000, "state_dict": state, "optimizer": {}})
    with torch.no_grad():
        images = torch.randn(2, 3, 64, 64)
        answers, maps = model(images), model.encoder(images)
        theirs = {
            "age@morph2": attribute(part(state, f"{H}.age"), maps, "age_morph2"),
            "attributes@celeba": attribute(part(state, f"{H}.biattr"), maps, "biattr_celeba"),
            "expression7@affectnet": attribute(part(state, f"{H}.affect"), maps, "affect_affectnet"),
            "expression7@rafdb": attribute(part(state, f"{H}.affect"), maps, "affect_rafdb"),
            "parsing@celebamask": dense(part(state, f"{H}.parsing"), maps),
            "landmarks@300w": dense(part(state, f"{H}.align"), maps),
        }
        p = part(state, f"{H}.recog")
        tokens = F.layer_norm(maps[11].flatten(2).transpose(1, 2), (16,), p["norm.weight"], p["norm.bias"])
        x = normed(F.linear(tokens.mean(1), p["head.0.weight"]), p, "head.1", 2e-5)
        theirs["identity512@ms1mv3"] = normed(F.linear(x, p["head.2.weight"]), p, "head.3", 2e-5)
    answers["parsing@celebamask"] = answers["parsing@celebamask"][:, TO_CELEBAMASK]
    assert theirs.keys() == answers.keys()
    for name, expected in theirs.items():
        assert expected.std() > 0.05  # or equality would say little
        torch.testing.assert_close(answers[name], expected, atol=1e-4, rtol=1e-4)


def test_the_published_size_is_loaded_completely_and_decoded_as_trained():
    state = official(FULL, 128, 512, device="meta")
    kept = {
        k: v
        for k, v in state.items()
        if not any(s in k for s in ("losses_module", "running_", "num_batches"))
    }
    assert sum(v.numel() for v in kept.values()) == 178_911_058
    with torch.device("meta"):
        model = naive_faceptor_from_official(state)
    assert sum(p.numel() for p in model.parameters()) == 178_911_058
    assert not model.training
    assert {t.name for t in model.tasks if t.header().get("decoding") == "sigmoid"} == {
        "age@morph2",
        "landmarks@300w",
    }


def test_what_does_not_fit_is_named():
    state, model = official(SMALL, 8, 12), small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gone = f"module.{H}.parsing.head.psp_modules.2.1.bn.bias"
    with pytest.raises(
        BadWeights, match=r"1 missing: heads_module\.heads\.parsing\.head\.psp_modules\.2\.1\.bn\.bias"
    ):
        load_naive_faceptor(model, {k: v for k, v in state.items() if k != gone})
    with pytest.raises(BadWeights, match=r"1 unknown: heads_module\.heads\.pose\.norm\.weight"):
        load_naive_faceptor(model, state | {f"module.{H}.pose.norm.weight": torch.zeros(2)})
    with pytest.raises(BadWeights, match=r"conv_seg\.weight \(18, 12, 1, 1\) for \(19, 12, 1, 1\)"):
        load_naive_faceptor(
            model, state | {f"module.{H}.parsing.head.conv_seg.weight": torch.zeros(18, 12, 1, 1)}
        )
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with pytest.raises(UsageError, match="no official data set is known for: age@x"):
        load_naive_faceptor(small((task("age@x"),)), state)
    with pytest.raises(UsageError, match="naive_faceptor_base"):
        load_naive_faceptor(naive_faceptor_tiny(tasks=(task("age"),), size=64), state)
