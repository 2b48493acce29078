"""Official Faceptor files: keys and shapes as published, listed here by hand; where each tensor lands; what
it then computes.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien.errors import BadWeights, UsageError
from mien.models.backbones.vit import VisionTransformer
from mien.models.faceptor import BASE_TASKS, Faceptor, PixelDecoder, PyramidPixelDecoder, faceptor_tiny
from mien.models.faceptor_official import FULL_TASKS, SETS, faceptor_from_official, load_faceptor
from mien.tasks import Embedding, task
from mien.tasks.parsing import CELEBAMASK19, ParsingTask
from mien.types import View

BASE = {
    "age_morph2": 101,
    "biattr_celeba": 40,
    "affect_affectnet": 7,
    "affect_rafdb": 7,
    "parsing_celebam": 19,
    "align_300w": 68,
}
MORE = {
    "age_utkface": 101,
    "affect_ferplus": 7,
    "parsing_lapa": 11,
    "align_cofw": 29,
    "align_wflw": 98,
    "align_aflw": 19,
}
NEW = 5  # levels of the second stage: blocks 1, 3, 5, 7, 9
FULL = {"width": 768, "patch": 16, "grid": 32, "pooled": 512, "dim": 256, "ffn": 2048}
SMALL = {"width": 16, "patch": 8, "grid": 4, "pooled": 6, "dim": 8, "ffn": 12}
HEADS = 2
DEC, READ, VIS = "heads_module.decoder", "heads_module.interpreters", "backbone_module.visual"
# FaRL's class number -> CelebAMask-HQ's
TO_CELEBAMASK = [0, 17, 1, 18, 8, 9, 6, 7, 4, 5, 2, 10, 12, 11, 13, 3, 14, 15, 16]


def linear(key: str, rows: int, columns: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": (rows, columns)} | ({f"{key}.bias": (rows,)} if bias else {})


def norm(key: str, n: int) -> dict[str, tuple[int, ...]]:
    return {f"{key}.weight": (n,), f"{key}.bias": (n,)}


def attention(key: str, n: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{key}.in_proj_weight": (3 * n, n),
        f"{key}.in_proj_bias": (3 * n,),
        **linear(f"{key}.out_proj", n, n),
    }


def tower(width: int, patch: int, grid: int, pooled: int) -> dict[str, tuple[int, ...]]:
    shapes = {
        f"{VIS}.conv1.weight": (width, 3, patch, patch),
        f"{VIS}.class_embedding": (width,),
        f"{VIS}.positional_embedding": (grid * grid + 1, width),
        f"{VIS}.proj": (width, pooled),
        **norm(f"{VIS}.ln_pre", width),
        **norm(f"{VIS}.ln_post", width),
    }
    for i in range(12):
        at = f"{VIS}.transformer.resblocks.{i}"
        shapes |= attention(f"{at}.attn", width) | norm(f"{at}.ln_1", width) | norm(f"{at}.ln_2", width)
        shapes |= linear(f"{at}.mlp.c_fc", 4 * width, width) | linear(f"{at}.mlp.c_proj", width, 4 * width)
    return shapes


def decoder(
    width: int, dim: int, ffn: int, queries: dict[str, int], second: bool
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, n in queries.items():
        shapes |= {f"{DEC}.query_feat.{name}.weight": (n, dim), f"{DEC}.query_embed.{name}.weight": (n, dim)}
    for prefix, n in (("", 1), ("new_", NEW if second else 0)):
        if n:
            shapes[f"{DEC}.{prefix}level_embed.weight"] = (n, dim)
        for i in range(n):
            shapes |= {
                f"{DEC}.{prefix}input_proj.{i}.weight": (dim, width, 1, 1),
                f"{DEC}.{prefix}input_proj.{i}.bias": (dim,),
            }
    shapes |= linear(f"{DEC}.adapt_pos2d.0", dim, dim) | linear(f"{DEC}.adapt_pos2d.2", dim, dim)
    for i in range(9):
        cross, own, feed = (
            f"{DEC}.transformer_{kind}_layers.{i}" for kind in ("cross_attention", "self_attention", "ffn")
        )
        shapes |= attention(f"{cross}.multihead_attn", dim) | norm(f"{cross}.norm", dim)
        shapes |= attention(f"{own}.self_attn", dim) | norm(f"{own}.norm", dim)
        shapes |= (
            linear(f"{feed}.linear1", ffn, dim)
            | linear(f"{feed}.linear2", dim, ffn)
            | norm(f"{feed}.norm", dim)
        )
    return shapes


def readouts(width: int, dim: int) -> dict[str, tuple[int, ...]]:
    feature, maps = f"{READ}.feature_v2", f"{READ}.map_v2"
    shapes = norm(f"{feature}.norm", width) | linear(f"{READ}.value.fc", 1, dim)
    shapes |= linear(f"{feature}.head.0", width, width, bias=False) | linear(
        f"{feature}.head.2", 512, width, bias=False
    )
    for i, n in ((1, width), (3, 512)):
        at = f"{feature}.head.{i}"
        shapes |= norm(at, n) | {
            f"{at}.running_mean": (n,),
            f"{at}.running_var": (n,),
            f"{at}.num_batches_tracked": (),
        }
    for i in (0, 3):
        shapes |= {f"{maps}.mask_map.{i}.weight": (dim, dim, 2, 2), f"{maps}.mask_map.{i}.bias": (dim,)}
    shapes |= norm(f"{maps}.mask_map.1", dim)
    for i in range(3):
        shapes |= linear(f"{maps}.mask_embed.layers.{i}", dim, dim)
    return shapes


def official(
    sizes: dict[str, int], queries: dict[str, int], second: bool = False, device: str = "cpu"
) -> dict[str, Tensor]:
    """A file's state dict: random values, the alias, and (in stage one) the identity loss's classifier."""
    torch.manual_seed(3)
    width, dim = sizes["width"], sizes["dim"]
    shapes = tower(width, sizes["patch"], sizes["grid"], sizes["pooled"])
    shapes |= decoder(width, dim, sizes["ffn"], queries, second) | readouts(width, dim)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.full((), 50_000 + len(state), dtype=torch.long, device=device)
        elif key.endswith("running_var"):
            state[key] = torch.rand(shape, device=device) + 0.5
        elif len(shape) > 1:
            state[key] = torch.randn(shape, device=device) * shape[1] ** -0.5
        elif key.endswith(
            "bias"
        ):  # small: nine layers of large ones would let the queries forget who they are
            state[key] = torch.randn(shape, device=device) * 0.1
        else:
            state[key] = torch.randn(shape, device=device) * 0.3 + 1
    for p in ("weight", "bias"):  # one parameter with two names, as in the official module
        state[f"{READ}.map_v2.mask_map.1.ln.{p}"] = state[f"{READ}.map_v2.mask_map.1.{p}"]
    if not second:
        state["losses_module.losses.recog_ms1mv3.classifier"] = torch.empty(93_431, 512, device="meta")
    return {f"module.{k}": v for k, v in state.items()}


def small(second: bool = False, tasks=BASE_TASKS) -> Faceptor:
    encoder = VisionTransformer(width=16, depth=12, heads=2, patch=8, grid=4, out=6)
    view = View((32, 32), "head", encoder.mean, encoder.std)
    levels = (11, 1, 3, 5, 7, 9) if second else (11,)
    return Faceptor(
        encoder, tasks, view, PixelDecoder(8), levels=levels, dim=8, heads=HEADS, layers=9, ffn=12, hidden=16
    ).eval()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- what the official tensors compute, from torch's own modules


def part(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        k.removeprefix(f"module.{prefix}."): v for k, v in state.items() if k.startswith(f"module.{prefix}.")
    }


def filled(module: nn.Module, state: dict[str, Tensor], prefix: str) -> nn.Module:
    module.load_state_dict(part(state, prefix))
    return module.eval()


def layer(state: dict[str, Tensor], i: int, x: Tensor, place: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Cross-attention, self-attention, feed-forward, each x = LN(x + part(x)); batch first."""
    dim = x.shape[-1]
    cross, own, feed = (
        f"{DEC}.transformer_{kind}_layers.{i}" for kind in ("cross_attention", "self_attention", "ffn")
    )

    def attend(at: str, *qkv: Tensor) -> Tensor:
        return filled(nn.MultiheadAttention(dim, HEADS, batch_first=True), state, at)(*qkv)[0]

    x = filled(nn.LayerNorm(dim), state, f"{cross}.norm")(
        x + attend(f"{cross}.multihead_attn", x + place, key, value)
    )
    x = filled(nn.LayerNorm(dim), state, f"{own}.norm")(
        x + attend(f"{own}.self_attn", x + place, x + place, x)
    )
    f = part(state, feed)
    hidden = F.relu(x @ f["linear1.weight"].T + f["linear1.bias"])
    return F.layer_norm(
        x + hidden @ f["linear2.weight"].T + f["linear2.bias"], (dim,), f["norm.weight"], f["norm.bias"]
    )


def sinusoid(side: int, dim: int) -> Tensor:
    """(side * side, dim): cell centers, T = 10000, half of the numbers for y, then half for x; sin and cos in
    turn.
    """

    def numbers(i: int) -> list[float]:
        angle = (i + 0.5) / side * 2 * math.pi
        return [
            (math.cos if k % 2 else math.sin)(angle / 10000 ** (2 * (k // 2) / (dim // 2)))
            for k in range(dim // 2)
        ]

    return torch.tensor([numbers(y) + numbers(x) for y in range(side) for x in range(side)])


def read_out(state: dict[str, Tensor], maps: list[Tensor], name: str) -> Tensor:
    """One data set's raw answer, alone: (B, Q), (B, Q, 4s, 4s) in official order, or the embedding."""
    d, dim = part(state, DEC), state[f"module.{DEC}.level_embed.weight"].shape[1]
    if name.startswith("recog"):
        width = maps[-1].shape[1]
        head = nn.Sequential(
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, 512, bias=False),
            nn.BatchNorm1d(512, eps=2e-5),
        )
        tokens = filled(nn.LayerNorm(width), state, f"{READ}.feature_v2.norm")(
            maps[-1].flatten(2).transpose(1, 2)
        )
        return filled(head, state, f"{READ}.feature_v2.head")(tokens.mean(1))
    used = [("", 0, 11)] + [
        ("new_", i, level) for i, level in enumerate((1, 3, 5, 7, 9)) if "new_level_embed.weight" in d
    ]
    grids = [
        F.conv2d(maps[level], d[f"{p}input_proj.{i}.weight"], d[f"{p}input_proj.{i}.bias"])
        for p, i, level in used
    ]
    value = torch.cat([g.flatten(2).transpose(1, 2) for g in grids], 1)
    mlp = filled(
        nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim)), state, f"{DEC}.adapt_pos2d"
    )
    place = mlp(sinusoid(maps[0].shape[-1], dim))
    key = value + torch.cat([place + d[f"{p}level_embed.weight"][i] for p, i, _ in used])
    x = d[f"query_feat.{name}.weight"].expand(len(value), -1, -1)
    for i in range(9):
        x = layer(state, i, x, d[f"query_embed.{name}.weight"], key, value)
    if not name.startswith(("parsing", "align")):
        return filled(nn.Linear(dim, 1), state, f"{READ}.value.fc")(x).flatten(1)
    m = part(state, f"{READ}.map_v2")
    pixels = F.conv_transpose2d(grids[0], m["mask_map.0.weight"], m["mask_map.0.bias"], stride=2)
    pixels = F.layer_norm(
        pixels.permute(0, 2, 3, 1), (dim,), m["mask_map.1.weight"], m["mask_map.1.bias"], 1e-6
    )
    pixels = F.conv_transpose2d(
        F.gelu(pixels.permute(0, 3, 1, 2)), m["mask_map.3.weight"], m["mask_map.3.bias"], stride=2
    )
    for i in range(3):
        x = x @ m[f"mask_embed.layers.{i}.weight"].T + m[f"mask_embed.layers.{i}.bias"]
        x = F.relu(x) if i < 2 else x
    return torch.einsum("bqc,bchw->bqhw", x, pixels)


@pytest.mark.parametrize("second", [False, True])
def test_a_converted_model_answers_as_the_official_tensors_do(second):
    state = official(SMALL, BASE, second)
    model = load_faceptor(small(second), {"step": 50_000, "state_dict": state, "optimizer": {}})
    with torch.no_grad():
        images = torch.randn(2, 3, 32, 32)
        answers, maps = model(images), model.encoder(images)
        for t in BASE_TASKS:
            theirs, ours = read_out(state, maps, SETS[t.name]), answers[t.name]
            if t.name == "parsing@celebamask":
                ours = ours[:, TO_CELEBAMASK]
            assert ours.std(1).mean() > 0.005  # or equality would say little
            assert torch.allclose(ours, theirs, atol=2e-5), (t.name, float((ours - theirs).abs().max()))


def test_a_decoder_layer_equals_torchs_attention_on_the_official_tensors():
    state = official(SMALL, BASE)
    model = load_faceptor(small(), state)
    x, place, key, value = (
        torch.randn(2, 7, 8),
        torch.randn(7, 8),
        torch.randn(2, 16, 8),
        torch.randn(2, 16, 8),
    )
    with torch.no_grad():
        for i in (0, 8):
            ours, theirs = (
                model.decoder.layers[i](x, place, key, value, None),
                layer(state, i, x, place, key, value),
            )
            assert torch.allclose(ours, theirs, atol=1e-5)
        assert not torch.allclose(ours, layer(state, 7, x, place, key, value), atol=1e-2)


# --- where the tensors land


@pytest.mark.parametrize("second", [False, True])
def test_every_tensor_lands_where_it_belongs(second):
    state = official(SMALL, BASE, second)
    ours = load_faceptor(small(second), state).state_dict()
    get = {k.removeprefix("module."): v for k, v in state.items()}.__getitem__
    expected = {f"encoder.{k}": v for k, v in part(state, VIS).items()}
    names = [SETS[t.name] for t in BASE_TASKS[:-1]]
    assert names == list(BASE)
    celebamask = torch.empty(19, dtype=torch.long)
    celebamask[TO_CELEBAMASK] = torch.arange(19)  # our class -> FaRL's number
    for kind in ("query_feat", "query_embed"):
        tables = [get(f"{DEC}.{kind}.{n}.weight") for n in names]
        expected[kind] = torch.cat(
            [x[celebamask] if n == "parsing_celebam" else x for n, x in zip(names, tables, strict=True)]
        )
    for i in range(6 if second else 1):
        at, row = (f"{DEC}.new_", i - 1) if i else (f"{DEC}.", 0)
        expected[f"decoder.level.{i}"] = get(f"{at}level_embed.weight")[row]
        expected |= {f"decoder.project.{i}.{p}": get(f"{at}input_proj.{row}.{p}") for p in ("weight", "bias")}
    for i in range(9):
        for part_, kind, inner in (
            ("cross", "cross_attention", "multihead_attn"),
            ("self_", "self_attention", "self_attn"),
        ):
            at = f"{DEC}.transformer_{kind}_layers.{i}.{inner}"
            for p in ("weight", "bias"):
                q, k, v = get(f"{at}.in_proj_{p}").reshape(3, 8, *([8] if p == "weight" else []))
                mine = {"q": q, "k": k, "v": v, "out": get(f"{at}.out_proj.{p}")}
                expected |= {f"decoder.layers.{i}.{part_}.{x}.{p}": y for x, y in mine.items()}
        at = f"{DEC}.transformer_ffn_layers.{i}"
        for n, kind in enumerate(("cross_attention", "self_attention", "ffn")):
            for p in ("weight", "bias"):
                expected[f"decoder.layers.{i}.norms.{n}.{p}"] = get(
                    f"{DEC}.transformer_{kind}_layers.{i}.norm.{p}"
                )
        for x, y in (("0", "linear1"), ("2", "linear2")):
            expected |= {f"decoder.layers.{i}.ffn.{x}.{p}": get(f"{at}.{y}.{p}") for p in ("weight", "bias")}
    expected |= {f"decoder.adapt.{k}": v for k, v in part(state, f"{DEC}.adapt_pos2d").items()}
    expected |= {f"value.{k}": v for k, v in part(state, f"{READ}.value.fc").items()}
    expected |= {f"feature.identity512@ms1mv3.{k}": v for k, v in part(state, f"{READ}.feature_v2").items()}
    for mine, theirs in (
        ("pixel.up1", "mask_map.0"),
        ("pixel.norm", "mask_map.1"),
        ("pixel.up2", "mask_map.3"),
    ):
        expected |= {f"{mine}.{p}": get(f"{READ}.map_v2.{theirs}.{p}") for p in ("weight", "bias")}
    for i in range(3):
        expected |= {
            f"map_query.{2 * i}.{p}": get(f"{READ}.map_v2.mask_embed.layers.{i}.{p}")
            for p in ("weight", "bias")
        }
    assert ours.keys() == expected.keys()
    assert [k for k, v in expected.items() if not torch.equal(ours[k], v)] == []
    assert ours["feature.identity512@ms1mv3.head.1.num_batches_tracked"] > 50_000


def test_parsing_queries_follow_the_class_names():
    """CelebAMask's nose is number 10 in FaRL's order and 2 in the official one; a task in FaRL's own order
    keeps it.
    """
    state = official(SMALL, BASE)
    table = state[f"module.{DEC}.query_feat.parsing_celebam.weight"]
    model = load_faceptor(small(), state)
    start = 101 + 40 + 7 + 7
    assert torch.equal(model.query_feat[start + CELEBAMASK19.index("nose")], table[10])
    assert torch.equal(model.query_feat[start + CELEBAMASK19.index("cloth")], table[3])
    assert torch.equal(model.query_feat[start + CELEBAMASK19.index("l_lip")], table[12])
    farl = ParsingTask("parsing@farl", "farl19", tuple(CELEBAMASK19[i] for i in TO_CELEBAMASK), {})
    tasks = [farl if t.name.startswith("parsing") else t for t in BASE_TASKS]
    model = load_faceptor(small(tasks=tasks), state, sets=SETS | {"parsing@farl": "parsing_celebam"})
    assert torch.equal(model.query_feat[start : start + 19], table)
    other = ParsingTask("parsing@other", "other19", tuple("abcdefghijklmnopqrs"), {})
    tasks = [other if t.name.startswith("parsing") else t for t in BASE_TASKS]
    with pytest.raises(UsageError, match="other classes than parsing_celebam"):
        load_faceptor(small(tasks=tasks), state, sets=SETS | {"parsing@other": "parsing_celebam"})


# --- full size, shapes only


def test_the_published_sizes_are_loaded_completely():
    base = official(FULL, BASE, device="meta")
    kept = {k: v for k, v in base.items() if "losses_module" not in k and ".1.ln." not in k}
    assert (
        sum(v.numel() for k, v in kept.items() if "running_" not in k and "num_batches" not in k)
        == 103_200_001
    )
    with torch.device("meta"):
        model = faceptor_from_official(base)
        assert (count(model), model.levels, model.builder[0]) == (103_200_001, (11,), "faceptor_base")
        model = faceptor_from_official(official(FULL, BASE | MORE, device="meta"), tasks=FULL_TASKS)
        assert (count(model), model.levels) == (103_335_681, (11,))
        model = faceptor_from_official(
            official(FULL, BASE | MORE, True, device="meta"), tasks=FULL_TASKS, size=112
        )
        assert (count(model), model.levels, model.view.size) == (104_321_281, (11, 1, 3, 5, 7, 9), (112, 112))
    assert not model.training
    read = {t.name: t.header() for t in model.tasks}
    assert {n for n, h in read.items() if h.get("decoding") == "sigmoid"} == {
        "age@morph2", "age@utkface", "landmarks@300w", "cofw29", "wflw98", "aflw19",
    }  # fmt: skip
    assert {n: h["year_offset"] for n, h in read.items() if "year_offset" in h} == {"age@utkface": 21}
    queries = {SETS[t.name]: t.shape.n for t in FULL_TASKS if not isinstance(t.shape, Embedding)}
    assert queries == BASE | MORE


# --- what is refused, and what may be left out


def test_missing_unknown_and_misshapen_tensors_are_named_and_nothing_is_half_loaded():
    good, model = official(SMALL, BASE), small()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    gone = f"module.{DEC}.transformer_self_attention_layers.4.self_attn.in_proj_bias"
    with pytest.raises(
        BadWeights,
        match=(
            r"1 missing: heads_module\.decoder\.transformer_self_attention_layers\.4\.self_attn\.in_proj_bias"
        ),
    ):
        load_faceptor(model, {k: v for k, v in good.items() if k != gone})
    with pytest.raises(BadWeights, match=r"1 unknown: heads_module\.extra\.weight"):
        load_faceptor(model, good | {"module.heads_module.extra.weight": torch.zeros(2)})
    with pytest.raises(BadWeights, match=r"1 unknown: losses_module\.losses\.age_morph2\.weight"):
        load_faceptor(model, good | {"module.losses_module.losses.age_morph2.weight": torch.zeros(2)})
    query = f"module.{DEC}.query_embed.age_morph2.weight"
    with pytest.raises(BadWeights, match=r"query_embed\.age_morph2\.weight \(100, 8\) for \(101, 8\)"):
        load_faceptor(model, good | {query: torch.zeros(100, 8)})
    fused = f"module.{DEC}.transformer_cross_attention_layers.0.multihead_attn.in_proj_weight"
    with pytest.raises(BadWeights, match=r"in_proj_weight \(16, 8\) for \(24, 8\)"):
        load_faceptor(model, good | {fused: torch.zeros(16, 8)})
    with pytest.raises(BadWeights, match=r"positional_embedding \(197, 16\) for \(17, 16\)"):
        load_faceptor(model, good | {f"module.{VIS}.positional_embedding": torch.zeros(197, 16)})
    with pytest.raises(BadWeights, match=r"\d+ missing: .*, \.\.\."):
        load_faceptor(model, {})
    with pytest.raises(BadWeights, match=r"tensors only.*step"):
        load_faceptor(model, good | {"step": 3})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_stages_are_not_mixed_up():
    with pytest.raises(BadWeights, match=r"11 missing: heads_module\.decoder\.new_level_embed\.weight"):
        load_faceptor(small(second=True), official(SMALL, BASE))
    with pytest.raises(BadWeights, match=r"11 unknown: heads_module\.decoder\.new_level_embed\.weight"):
        load_faceptor(small(), official(SMALL, BASE, second=True))


def test_the_norms_second_name_may_be_absent_but_not_differ():
    state = official(SMALL, BASE)
    alias = f"module.{READ}.map_v2.mask_map.1.ln.bias"
    load_faceptor(small(), {k: v for k, v in state.items() if ".1.ln." not in k})
    load_faceptor(small(), state | {alias: state[alias].clone()})
    with pytest.raises(BadWeights, match="second name"):
        load_faceptor(small(), state | {alias: state[alias] + 1})


def test_data_sets_are_left_out_only_when_named():
    state, images = official(SMALL, BASE), torch.randn(1, 3, 32, 32)
    some = [t for t in BASE_TASKS if t.name not in ("age@morph2", "identity512@ms1mv3")]
    with pytest.raises(BadWeights, match=r"unknown: heads_module\.decoder\.query_feat\.age_morph2\.weight"):
        load_faceptor(small(tasks=some), state)
    model = load_faceptor(small(tasks=some), state, leave=("age_morph2", "recog_ms1mv3"))
    whole = load_faceptor(small(), state)
    with torch.no_grad():
        a, b = model(images), whole(images)
    assert all(torch.allclose(a[t.name], b[t.name], atol=1e-5) for t in some)
    with pytest.raises(UsageError, match="no age_utkface"):
        load_faceptor(whole, state, leave=("age_utkface",))


def test_models_and_tasks_without_an_official_layout_are_refused():
    state = official(SMALL, BASE)
    with pytest.raises(UsageError, match="faceptor_base"):
        load_faceptor(faceptor_tiny(tasks=(task("age"),), size=64), state)
    model = small()
    model.pixel = PyramidPixelDecoder((8,), dim=8, out=8)
    with pytest.raises(UsageError, match="plain pixel decoder"):
        load_faceptor(model, state)
    with pytest.raises(UsageError, match="no official data set is known for: expression"):
        load_faceptor(small(tasks=[*BASE_TASKS, task("expression")]), state)
    with pytest.raises(UsageError, match="share the official data set age_morph2"):
        load_faceptor(
            small(tasks=[task("age@a"), task("age@b")]),
            state,
            sets={"age@a": "age_morph2", "age@b": "age_morph2"},
        )
