"""Every recipe: its arguments, the full sizes built without memory, and two steps of the tiny ones on drawn
faces.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mien.data.augment import NONE
from mien.data.catalogue import DATASETS, OFFICIAL, SourceSpec, SyntheticIdentities, open_parts
from mien.data.mixture import collate
from mien.errors import MissingData, UsageError
from mien.evaluation.scoring import PROTOCOLS
from mien.export import onnx_import
from mien.export.onnx_export import release
from mien.geometry import TEMPLATES
from mien.models.backbones.resnet import ResNet50
from mien.models.faceptor import faceptor_tiny
from mien.models.mien import mien_tiny
from mien.tasks import TASKS, task
from mien.tasks.base import Embedding
from mien.training import checkpoint
from mien.training.loop import fit
from mien.training.recipe import Recipe
from mien.types import View
from tests.conftest import ROOT, needs_pack
from tests.support.layouts_people import encoded, put, which

SCRIPTS = (
    "__init__",
    "average_weights",
    "detector_labels",
    "dlib_descriptors",
    "face_state",
    "face_state_labels",
    "false_faces",
    "teacher_labels",
)
NAMES = sorted(p.stem for p in (ROOT / "recipes").glob("*.py") if p.stem not in SCRIPTS)
TINY = [n for n in NAMES if n.endswith("_tiny")]
NEED_PACK = ["detector"]  # it raises what the package ships, on the pack alone
SHIPPED = ["detector", "mien"]
FULL = [n for n in NAMES if n not in (*TINY, *SHIPPED)]
# arguments of a full size -> parameters of its model
SIZES: list[tuple[str, dict[str, Any], int]] = [
    ("faceptor", {}, 103_200_001),
    ("faceptor", {"full": True}, 103_335_681),
    ("faceptor", {"second": "expression7@rafdb"}, 104_185_601),
    ("naive_faceptor", {}, 178_911_058),
    # Q-Face without its twelve action units: a query, a weight and a bias each
    ("qface", {}, 93_644_192 - 12 * (2 * 256 + 1)),
    ("far_amtn", {}, 28_326_120),
    ("far_amtn", {"data": "lfwa", "dynamic": False}, 28_326_120),
    ("mgmtn", {"part": "masks"}, 43_682_896),
    ("mgmtn", {"part": "attributes"}, 43_682_896),
]


def module_of(name: str) -> ModuleType:
    return importlib.import_module(f"recipes.{name}")


def test_there_are_recipes():
    systems = {"qface", "naive_faceptor", "faceptor", "ifan", "far_amtn", "mgmtn"}
    assert set(TINY) == {f"{s}_tiny" for s in systems}
    assert set(FULL) == systems
    assert {n for n, *_ in SIZES} | {"ifan"} == set(FULL)  # ifan is built below


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_flags(name: str):
    """What the command line makes of them: keyword-only, with a default of a plain kind, and documented."""
    module = module_of(name)
    assert module.__doc__
    assert f"mien train recipes/{name}.py" in module.__doc__
    parameters = inspect.signature(module.recipe).parameters
    assert {"steps", "seed"} <= set(parameters)
    for p in parameters.values():
        assert p.kind is p.KEYWORD_ONLY, p
        assert type(p.default) in (int, float, str, bool), p
    if name not in NEED_PACK:
        assert parameters["synthetic"].default is False
    if name in FULL:
        assert (
            "Not run by us" in module.__doc__ and "Published" in module.__doc__
        ) or "No number of the paper" in module.__doc__


# --- Full sizes


def check(recipe: Recipe) -> None:
    """Every criterion is trained, every set labels its task, and every protocol is one that the model
    answers.
    """
    recipe.criteria_by_task()
    assert set(recipe.data) <= {*DATASETS, "bnu-lsved"}
    for mixture in recipe.mixtures:
        view = mixture.view or recipe.model.view
        assert view.size == tuple(mixture.size)
        for source, n in mixture.parts:
            assert n > 0
            example = source.example(0, np.random.default_rng(0))
            batch = collate([example], mixture.tasks, mixture.size)
            labeled = [name for name, mask in batch.mask.items() if mask.any()]
            assert len(labeled) == 1, (source.name, labeled)
            assert f"{source.only[0]}{'@' if source.at else ''}{source.at}" == labeled[0]


@pytest.mark.parametrize(("name", "arguments", "parameters"), SIZES)
def test_a_full_size_is_built_without_memory(name: str, arguments: dict[str, Any], parameters: int):
    with torch.device("meta"):
        recipe = module_of(name).recipe(synthetic=True, **arguments)
    assert sum(p.numel() for p in recipe.model.parameters()) == parameters
    assert recipe.steps >= 20_000 and recipe.protocols == ()
    check(recipe)


def test_faceptor_has_the_papers_batches_rates_and_weights():
    module = module_of("faceptor")
    for full, sizes, total in ((False, (464, 8), 1118.0), (True, (496, 24), 1222.0)):
        rows = module.FULL if full else module.BASE
        assert sum(alpha for _, alpha in rows) == pytest.approx(total)
        weights = module.weights_of(rows)
        assert weights["identity512@ms1mv3"] == pytest.approx(5 / total)
        assert weights["attributes@celeba"] == pytest.approx(2 * 40 / total)  # the paper sums over the 40
        assert weights["landmarks@300w"] == pytest.approx((250 if full else 1000) / total)
        with torch.device("meta"):
            recipe = module.recipe(synthetic=True, full=full)
        assert tuple(m.batch_size for m in recipe.mixtures) == sizes
        views = [m.view for m in recipe.mixtures]
        assert [(v.size, v.template, v.mean[0]) for v in views] == [
            ((112, 112), "arcface", 0.5),
            ((512, 512), "head", 0.48145466),
        ]
        assert recipe.loss_weighting({n: torch.tensor(0.0) for n in weights}) == weights
        assert [g["lr"] for g in recipe.optimizer.param_groups] == pytest.approx([5e-5, 5e-4, 5e-4])
        assert {g["weight_decay"] for g in recipe.optimizer.param_groups} == {0.05}
        assert (recipe.steps, recipe.seed, recipe.clip) == (50_000, 2048, 5.0)
        # warm-up to 2,000, then a cosine to nothing
        assert [round(recipe.schedule(s, 50_000), 6) for s in (0, 1999, 2000, 26_000, 50_000)] == [
            0.0005,
            1,
            1,
            0.5,
            0,
        ]


def test_faceptors_losses_are_the_papers():
    module = module_of("faceptor")
    for name in ("parsing@celebamask", "age@morph2"):
        before = {k: v for k, v in vars(TASKS[name.partition("@")[0]]).items() if k != "name"}
        module.criterion_of(task(name))
        assert {
            k: v for k, v in vars(TASKS[name.partition("@")[0]]).items() if k != "name"
        } == before  # the catalogue's are left alone
    # ages: at flat logits the expectation is 50, so that a label of 20 adds 30 years, where the task's own
    # loss adds 3
    raw, years, mask = torch.zeros(1, 101), torch.tensor([20.0]), torch.tensor([True])
    more = module.criterion_of(task("age@morph2"))(raw, years, mask) - task("age@morph2").criterion()(
        raw, years, mask
    )
    assert float(more) == pytest.approx(0.9 * 30, abs=1e-3)
    # parsing: at flat logits cross-entropy is ln 19 and nothing more
    pixels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    assert float(
        module.criterion_of(task("parsing@celebamask"))(torch.zeros(1, 19, 4, 4), pixels, mask)
    ) == pytest.approx(math.log(19))


def test_faceptor_reads_and_learns_ages_and_landmarks_by_sigmoids():
    module = module_of("faceptor")
    with torch.device("meta"):
        recipes = [
            module.recipe(synthetic=True, full=True),
            module.recipe(synthetic=True, second="age@morph2"),
        ]
    assert {t.name for t in recipes[0].model.tasks if t.header().get("decoding") == "sigmoid"} == {
        "age@morph2", "age@utkface", "landmarks@300w", "wflw98", "cofw29", "aflw19",
    }  # fmt: skip
    assert recipes[1].model.tasks[1].header()["decoding"] == "sigmoid"
    # a map of zeros expects the center, where the distance is none, and its BCE is ln 2; the KL of a softmax
    # map would be above 6
    criterion = module.criterion_of(task("landmarks@300w"))
    maps, center = torch.zeros(1, 68, 128, 128), torch.full((1, 68, 2), 0.5)
    assert float(criterion(maps, center, torch.tensor([True]))) == pytest.approx(math.log(2), abs=1e-5)


def test_naive_faceptors_kinds_weigh_a_sixth():
    module = module_of("faceptor")
    with torch.device("meta"):
        weights = module_of("naive_faceptor").recipe(synthetic=True).loss_weighting.weights
    sixth = 1 / 6
    assert weights == pytest.approx({
        "identity512@ms1mv3": sixth, "age@morph2": sixth, "attributes@celeba": 40 * sixth,
        "parsing@celebamask": sixth,
        "landmarks@300w": sixth, "expression7@affectnet": 0.1333, "expression7@rafdb": 0.0333,
    }, abs=5e-5)  # fmt: skip
    # beside Faceptor's, the attributes weigh 93 times as much and the landmarks 5.4 times less
    others = module.weights_of(module.BASE)
    assert weights["attributes@celeba"] / others["attributes@celeba"] == pytest.approx(93.2, abs=0.1)
    assert others["landmarks@300w"] / weights["landmarks@300w"] == pytest.approx(5.4, abs=0.05)


def test_a_second_stage_sums_the_attributes_and_warms_up_for_2000_steps():
    module = module_of("faceptor")
    with torch.device("meta"):
        recipe = module.recipe(synthetic=True, second="attributes@celeba", steps=20_000)
    assert recipe.loss_weighting.weights == {"attributes@celeba": 40.0}
    assert [recipe.schedule(s, 20_000) for s in (1999, 20_000)] == pytest.approx([1, 0])
    assert recipe.schedule(999, 20_000) == pytest.approx(0.5)
    assert [g["lr"] for g in recipe.optimizer.param_groups] == pytest.approx([5e-4])


def test_a_second_stage_trains_the_new_levels_alone():
    module = module_of("faceptor")
    with torch.device("meta"):
        recipe = module.recipe(synthetic=True, second="parsing@celebamask", steps=20_000)
    assert sum(p.numel() for p in recipe.model.parameters() if p.requires_grad) == 985_600
    (mixture,) = recipe.mixtures
    assert (mixture.batch_size, mixture.size) == (64, (512, 512))
    for bad in ({"second": "age"}, {"second": "identity512@ms1mv3"}):
        with pytest.raises(UsageError, match="a second stage is of one task"):
            module.recipe(synthetic=True, **bad)
    with pytest.raises(UsageError, match="--start RUN; tasks: age@morph2, attributes@celeba"):
        module.recipe(second="age@morph2")


def test_two_views_and_class_weights_learn_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Faceptor's recipe on a small network and small batches: both views, CosFace and every task take their
    steps.
    """
    module = module_of("faceptor")
    rows = tuple((replace(part, n=2), alpha) for part, alpha in module.FULL)
    monkeypatch.setattr(module, "FULL", rows)
    monkeypatch.setattr(module, "faceptor_base", faceptor_tiny)
    recipe = module.recipe(synthetic=True, full=True, size=64, small=48, steps=2)
    cosface = recipe.criteria["identity512@ms1mv3"]
    start = cosface.weight.detach().clone()
    assert start.shape == (8, 512)
    assert learned(recipe, tmp_path) > 10
    assert not torch.equal(cosface.weight, start)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert set(log[0]["losses"]) == {p.task for p, _ in rows} | {"norm"}
    assert all(v > 0 for v in log[0]["losses"].values())


def test_ifan_starts_from_the_means_of_its_labels():
    module = module_of("ifan")
    recipe = module.recipe(synthetic=True, means=1)
    check(recipe)
    assert [t.name for t in recipe.model.tasks] == ["helen9", "points5"]
    mean = recipe.model.get_buffer("mean_points5")
    np.testing.assert_allclose(
        mean.numpy(), TEMPLATES["head"], atol=0.02
    )  # crops are aligned by these points
    with torch.device("meta"):
        three = module.recipe(synthetic=True, means=0, emotion="anywhere")
    assert [(s.only or ("emotion7",))[0] for s, _ in three.mixtures[0].parts] == [
        "helen9",
        "points5",
        "emotion7",
    ]
    assert three.data == ["helen", "mtfl-official", "bnu-lsved"]


def test_lessons_are_read_from_a_folder_a_class(tmp_path: Path):
    for i, kind in enumerate(
        ("concentrated", "disgust", "distracted", "happy", "puzzled", "surprised", "tired")
    ):
        put(tmp_path / kind / "a.jpg", encoded(i % 4, (64, 64)))
        put(tmp_path / kind / "notes.txt", "no picture")
    data = module_of("ifan").lessons(tmp_path)
    assert [data[i].labels for i in range(len(data))] == [{"emotion7": i} for i in range(7)]
    assert [which(data[i].image) for i in range(4)] == [0, 1, 2, 3]
    (tmp_path / "tired").rename(tmp_path / "sleepy")
    with pytest.raises(MissingData, match=r"expected .*tired; it is missing"):
        module_of("ifan").lessons(tmp_path)


def test_far_amtn_takes_a_published_resnet(tmp_path: Path):
    """Also the block that WSGSA replaces; its weights come from the file's layer4.2."""
    torch.manual_seed(5)
    whole = ResNet50()
    torch.save(
        {**whole.state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)},
        tmp_path / "resnet50.pth",
    )
    model = module_of("far_amtn").recipe(synthetic=True, imagenet=str(tmp_path / "resnet50.pth")).model
    assert torch.equal(model.encoder.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)
    assert torch.equal(model.split.block.conv2.weight, whole.layer4[2].conv2.weight)


def test_far_amtn_weighs_groups_by_epochs():
    with torch.device("meta"):
        recipe = module_of("far_amtn").recipe(synthetic=True, batch=16)
    assert recipe.loss_weighting.window == 4  # 64 drawn faces


@pytest.mark.parametrize("name", ["far_amtn", "mgmtn"])
def test_attributes_are_of_two_sets(name: str):
    with pytest.raises(UsageError, match=r"'celeba'.*celeba-official"):
        module_of(name).recipe(data="celeba", synthetic=True)


def test_mgmtn_parts_fit_their_starts():
    with pytest.raises(UsageError, match="needs --start"):
        module_of("mgmtn").recipe()
    with torch.device("meta"):
        recipe = module_of("mgmtn").recipe(part="masks", synthetic=True)
    learning = {n.split(".")[0] for n, p in recipe.model.named_parameters() if p.requires_grad}
    assert learning == {"unet"}


def test_qface_asks_for_what_there_are_sets_for():
    with torch.device("meta"):
        recipe = module_of("qface").recipe(tasks="age", synthetic=True)
    assert [t.name for t in recipe.model.tasks] == ["age"] and recipe.mixtures[0].batch_size == 32
    with pytest.raises(UsageError, match="no set here teaches 'units12'"):
        module_of("qface").recipe(tasks="age,units12", synthetic=True)


@pytest.mark.parametrize("name", ["faceptor", "naive_faceptor", "qface", "ifan", "far_amtn"])
def test_without_its_sets_a_full_size_says_what_it_expects(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MIEN_DATA", str(tmp_path))
    with (
        torch.device("meta"),
        pytest.raises(MissingData, match=rf"expected {tmp_path}/\S+, laid out as mien\.data\."),
    ):
        module_of(name).recipe()


def test_parts_name_sets_splits_and_protocols_that_exist():
    rows = [p for p, _ in module_of("faceptor").FULL] + list(module_of("qface").PARTS)
    assert len(rows) == 16
    for part in rows:
        assert set(part.split.split("+")) <= set(OFFICIAL[part.dataset].splits), part
        assert part.task.partition("@")[0] in TASKS
    scored = [*module_of("faceptor").SCORED, *module_of("qface").SCORED.values()]
    assert set(scored) <= set(PROTOCOLS)
    full = {p.task for p, _ in module_of("faceptor").FULL}
    assert all(PROTOCOLS[n].answer(full) for n in module_of("faceptor").SCORED)


def test_drawn_parts():
    view = View((64, 64), "arcface", (0.5,) * 3, (0.5,) * 3)
    parts = [
        SourceSpec("ms1mv3", "train", "identity512@ms1mv3", 3, NONE),
        SourceSpec("utkface-official", "train", "age@utkface", 2, NONE),
    ]
    (people, n), (ages, m) = open_parts(parts, view, synthetic=True)
    assert (
        (n, m) == (3, 2) and isinstance(people.dataset, SyntheticIdentities) and people.dataset.classes == 8
    )
    rng = np.random.default_rng(0)
    assert [int(people.example(i, rng).labels["identity512@ms1mv3"][0]) for i in (0, 7, 8)] == [0, 7, 0]
    assert set(ages.example(0, rng).labels) == {"age@utkface"}
    assert isinstance(TASKS["identity512"].shape, Embedding)


# --- Tiny ones


def small(name: str, **more: Any) -> Recipe:
    mask = inspect.signature(module_of(name).recipe).parameters
    arguments = {"steps": 2, "size": 64, "batch": 8, "imagenet": False, "synthetic": True, **more}
    return module_of(name).recipe(**{k: v for k, v in arguments.items() if k in mask or k in more})


def learned(recipe: Recipe, out: Path) -> int:
    """Two steps; how many of its weights moved."""
    before = {n: p.detach().clone() for n, p in recipe.model.named_parameters()}
    fit(recipe, out, report=1)
    moved = [n for n, p in recipe.model.named_parameters() if not torch.equal(p, before[n])]
    assert all(torch.isfinite(p).all() for p in recipe.model.parameters())
    frozen = [n for n, p in recipe.model.named_parameters() if not p.requires_grad]
    assert not set(frozen) & set(moved)
    return len(moved)


@pytest.mark.parametrize("name", [n for n in TINY if n != "mgmtn_tiny"])
def test_a_tiny_one_takes_two_steps(name: str, tmp_path: Path):
    recipe = small(name)
    assert recipe.protocols == ()
    assert learned(recipe, tmp_path / "run") > 10
    loaded = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert [t.name for t in loaded.tasks] == [t.name for t in recipe.model.tasks]


def test_tiny_mgmtn_takes_its_two_parts(tmp_path: Path):
    assert learned(small("mgmtn_tiny", part="masks"), tmp_path / "masks") > 10
    recipe = small("mgmtn_tiny", start=str(tmp_path / "masks" / "model.safetensors"))
    theirs = checkpoint.load(tmp_path / "masks" / "model.safetensors").unet.state_dict()
    assert learned(recipe, tmp_path / "attributes") > 10
    assert isinstance(recipe.model.unet, nn.Module)
    assert all(torch.equal(v, theirs[k]) for k, v in recipe.model.unet.state_dict().items())


def test_tiny_faceptor_takes_its_second_stage(tmp_path: Path):
    first = small("faceptor_tiny", levels="2", tasks="age")
    checkpoint.save(tmp_path / "first.safetensors", first.model)
    recipe = small(
        "faceptor_tiny", levels="2,3", tasks="age", start=str(tmp_path / "first.safetensors"), frozen=0
    )
    assert {n.split(".")[1] for n, p in recipe.model.named_parameters() if p.requires_grad} == {
        "project",
        "level",
    }
    # these weights learn as fast as the decoder's did in the first stage
    (rate,), rates = ({g["lr"] for g in r.optimizer.param_groups} for r in (recipe, first))
    assert rates == {5e-4, 1e-3} and rate == 1e-3


# --- What the package ships


def test_the_face_network_takes_two_steps_from_another_systems_encoder(tmp_path: Path):
    """`--encoder` takes the encoder and nothing else; without it, and without drawn faces, ImageNet's."""
    torch.manual_seed(7)
    other = faceptor_tiny(tasks=(task("age"),), size=64)
    checkpoint.save(tmp_path / "other.safetensors", other)
    recipe = module_of("mien").recipe(
        synthetic=True, size=64, steps=2, encoder=str(tmp_path / "other.safetensors")
    )
    assert all(
        torch.equal(v, other.encoder.state_dict()[k]) for k, v in recipe.model.encoder.state_dict().items()
    )
    assert learned(recipe, tmp_path / "run") > 10
    again = module_of("mien").recipe(synthetic=True, start=str(tmp_path / "run" / "model.safetensors"))
    assert again.model.view.size == (64, 64)


def test_masks_of_the_face_network_learn_when_all_else_stands_still(tmp_path: Path):
    torch.manual_seed(8)
    checkpoint.save(
        tmp_path / "first.safetensors",
        mien_tiny(tasks=(task("age"), task("points5"), task("parsing")), size=64),
    )
    module, start = module_of("mien"), str(tmp_path / "first.safetensors")
    recipe = module.recipe(synthetic=True, part="masks", start=start, steps=2)
    assert set(recipe.data) == {
        *module.TRAIN,
        "imagenet",
        "descriptors",
    }, "the sets of what stands still are named too"
    before = {k: v.clone() for k, v in recipe.model.state_dict().items()}
    learned(recipe, tmp_path / "run")
    moved = {k for k, v in recipe.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith(("dense.finer.", "dense.branch.maps.")) for k in moved)
    again = module.recipe(synthetic=True, part="masks", start=str(tmp_path / "run" / "model.safetensors"))
    assert torch.equal(
        again.model.dense.finer.out.weight,
        checkpoint.load(tmp_path / "run" / "model.safetensors").dense.finer.out.weight,
    )
    with pytest.raises(UsageError, match="masks needs a trained network"):
        module.recipe(synthetic=True, part="masks")
    checkpoint.save(tmp_path / "other.safetensors", faceptor_tiny(tasks=(task("age"),), size=64))
    with pytest.raises(UsageError, match="holds a Faceptor; the part masks adds to a Mien"):
        module.recipe(synthetic=True, part="masks", start=str(tmp_path / "other.safetensors"))


def test_identity_of_the_face_network_gets_stages_of_its_own_when_all_else_stands_still(tmp_path: Path):
    torch.manual_seed(9)
    first = mien_tiny(tasks=(task("age"), task("parsing"), task("identity")), size=64, finer=8)
    checkpoint.save(tmp_path / "first.safetensors", first)
    module, start = module_of("mien"), str(tmp_path / "first.safetensors")
    recipe = module.recipe(synthetic=True, part="identity", start=start, steps=2)
    assert set(recipe.data) == {
        *module.TRAIN,
        "imagenet",
        "descriptors",
    }, "blends are of the other sets' pictures"
    batch = recipe.mixtures[0].batch(0)
    assert batch.mask["identity"].all() and not batch.mask["age"].any() and not batch.mask["parsing"].any()
    before = {k: v.clone() for k, v in recipe.model.state_dict().items()}
    assert all(torch.equal(v, before[k]) for k, v in first.state_dict().items() if not k.startswith("who."))
    learned(recipe, tmp_path / "run")
    moved = {k for k, v in recipe.model.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith(("own.", "who.")) for k in moved)
    again = module.recipe(synthetic=True, part="identity", start=str(tmp_path / "run" / "model.safetensors"))
    theirs = checkpoint.load(tmp_path / "run" / "model.safetensors").state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in again.model.state_dict().items())


def test_faces_in_the_wild_start_from_the_answers_of_a_released_network(tmp_path: Path):
    torch.manual_seed(10)
    tasks = (
        task("landmarks"),
        task("points5"),
        task("parsing"),
        task("age"),
        task("expression"),
        task("attributes"),
        task("identity"),
    )
    first = mien_tiny(tasks=tasks, size=64, finer=8, own=16)
    with torch.no_grad():  # the exporter leaves out a norm that changes nothing
        for p in first.parameters():
            p.add_(0.01 * torch.randn_like(p))
    checkpoint.save(tmp_path / "first.safetensors", first)
    start = str(tmp_path / "first.onnx")
    release(tmp_path / "first.safetensors", tmp_path / "first.onnx")
    module = module_of("mien")
    recipe = module.recipe(synthetic=True, part="wild", start=start, steps=2)
    assert {*module.WILD} - {*recipe.data} == {"utkface-full", "aaf-faces"}
    assert {"utkface", "aaf", "yunet"} <= set(recipe.data)
    images = torch.randn(4, 3, 64, 64)
    old, names = onnx_import.load(start), [n for n, _ in recipe.model.named_parameters()]
    with torch.no_grad():
        for name, answer in old(images).items():
            assert torch.allclose(recipe.model.eval()(images)[name], answer, atol=1e-3), name
    assert not any("reference" in n for n in names), "the other network is not a part of the weights"
    before = {k: v.clone() for k, v in recipe.model.state_dict().items()}
    learned(recipe, tmp_path / "run")
    moved = {k for k, v in recipe.model.state_dict().items() if not torch.equal(v, before[k])}
    still = ("encoder.stem.", "encoder.stages.0.", "encoder.stages.1.")
    assert not [k for k in moved if k.startswith(still) or k.endswith(("running_mean", "running_var"))]
    for begin in ("encoder.stages.2.", "encoder.stages.6.", "own.identity.last.", "dense.", "values."):
        assert any(k.startswith(begin) for k in moved), begin
    losses = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["losses"]
    assert losses["identity"] < 0.5, "it starts at the released network's embeddings"
    further = {"start": str(tmp_path / "run" / "model.safetensors"), "steps": 2}
    with pytest.raises(UsageError, match=r"name its \.onnx by reference="):
        module.recipe(synthetic=True, part="wild", **further)
    with pytest.raises(UsageError, match="can share 1, 2, 3, 5, 7 stages of the encoder, not 4"):
        module.recipe(synthetic=True, part="wild", start=start, frozen=4)
    identity = module.recipe(synthetic=True, part="identity-wild", **further)
    learning = {n for n, p in identity.model.named_parameters() if p.requires_grad}
    assert learning and all(n.startswith(("own.", "who.")) for n in learning)
    learned(identity, tmp_path / "identity")


@needs_pack
@pytest.mark.slow
@pytest.mark.parametrize("name", NEED_PACK)
def test_what_the_package_ships_is_built_from_the_pack(name: str):
    recipe = module_of(name).recipe(steps=2)
    recipe.criteria_by_task()
    assert recipe.mixtures[0].batch(0).images.shape[0] == recipe.mixtures[0].batch_size
