"""Every data set and protocol in the catalogues keeps the contract; an empty catalogue fails."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

from mien.data import synthetic
from mien.data.augment import NONE, Augment, crop_example
from mien.data.catalogue import DATASETS, OFFICIAL
from mien.data.formats import pack
from mien.errors import MissingData, UsageError
from mien.evaluation.protocols import PartsF
from mien.evaluation.scoring import PROTOCOLS, as_table, evaluate
from mien.models.faceptor import faceptor_tiny
from mien.tasks import AGE, TASKS
from mien.tasks.parsing import HELEN9_NAMES, Parsing
from mien.testing import check_dataset, check_protocol
from mien.types import View
from tests.conftest import PACK, needs_pack
from tests.support import layouts_people as people_sets

VIEW = View((64, 64), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_the_catalogues_are_complete():
    assert {"toy", "mtfl", "helen68", "celebamask", "celeba", "utkface", "ferplus"} <= set(DATASETS)
    assert set(OFFICIAL) == {
        "300w", "wflw", "cofw", "aflw19", "mtfl-official", "celebamask-hq", "lapa", "helen", "morph2",
        "utkface-official", "utkface-coral",
        "affectnet", "rafdb", "ferplus-official", "celeba-official", "lfwa", "ms1mv3", "lfw-official",
        "lfw.bin", "cfp_fp", "agedb_30",
        "calfw", "cplfw",
    }  # fmt: skip
    assert set(OFFICIAL) <= set(DATASETS)
    wanted = {
        "mtfl",
        "helen68",
        "celebamask",
        "celeba",
        "utkface-age",
        "utkface-gender",
        "ferplus-val",
        "ferplus-test",
        "lfw",
        "photos",
    }
    assert wanted <= set(PROTOCOLS)
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        check_protocol(protocol, data=False)


def test_the_toy_set():
    check_dataset(synthetic.toy())
    a, b = synthetic.toy(n=3)[1], synthetic.toy(n=3)[1]
    assert np.array_equal(a.image, b.image)
    assert set(a.labels) == {n for n in TASKS if n != "faces"}
    with pytest.raises(IndexError):
        synthetic.toy(n=3)[3]


@needs_pack
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in DATASETS if n != "toy" and n not in OFFICIAL])
def test_a_pack_set(name):
    check_dataset(DATASETS[name]("train"))


@needs_pack
@pytest.mark.slow
@pytest.mark.parametrize(("name", "split"), [(n, s) for n, o in OFFICIAL.items() for s in o.splits])
def test_an_official_set_that_is_here(name, split):
    try:
        dataset = DATASETS[name](split)
    except MissingData as e:
        pytest.skip(str(e))
    assert len(dataset) > 0
    sample = dataset[len(dataset) // 2]
    numbers_of_people = {"identity512"} & set(
        sample.labels
    )  # a number, or pairs: not what the catalogue's blank looks like
    if numbers_of_people:
        assert sample.points.shape == (5, 2)
    else:
        check_dataset(dataset)


@pytest.mark.parametrize(("name", "split"), [(n, s) for n, o in OFFICIAL.items() for s in o.splits])
def test_a_missing_official_set_names_what_it_expects(name, split, tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_DATA", str(tmp_path))
    root = tmp_path / OFFICIAL[name].folder
    reader = OFFICIAL[name].read
    told = f"expected {root}, laid out as {reader.__module__}.{reader.__name__} says; it is missing"
    with pytest.raises(MissingData, match=re.escape(told)):
        DATASETS[name](split)
    assert reader.__doc__
    root.mkdir()  # and of an empty folder the first file
    with pytest.raises(MissingData, match=rf"expected {re.escape(str(root))}/\S+; it is missing"):
        DATASETS[name](split)


@needs_pack
def test_helen_validation_set():
    check_dataset(pack.helen68("val"))


def test_splits_join_and_unknown_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_DATA", str(tmp_path))
    people_sets.celeba(tmp_path / "celeba-official")
    both = DATASETS["celeba-official"]("train+val")
    assert (len(both), both.name) == (2, "celeba/train+celeba/val")
    assert [both[i].name for i in range(2)] == ["000001.jpg", "000002.jpg"]
    with pytest.raises(IndexError, match="picture 2 of the 2"):
        both[2]
    with pytest.raises(UsageError, match="celeba-official has no split 'half'; there are: train, val, test"):
        DATASETS["celeba-official"]("train+half")


def test_a_points_table_in_the_folder_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_DATA", str(tmp_path))
    people_sets.rafdb(tmp_path / "rafdb")
    before = DATASETS["rafdb"]("test")[0].points
    people_sets.points_table(tmp_path / "rafdb" / "points5.parquet", ["test_0001_aligned.jpg"])
    np.testing.assert_array_equal(DATASETS["rafdb"]("test")[0].points, people_sets.FIVE)
    assert not np.array_equal(before, people_sets.FIVE)


def test_the_catalogue_imports_no_library_of_a_single_set():
    code = (
        "import sys, mien.evaluation.scoring; sys.exit(', '.join(m for m in ('scipy', 'h5py', 'torch') if m"
        " in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) in ((0, ""), (1, "")), done.stderr


def test_labels_follow_their_picture():
    """A drawn face's eye stays on white pixels through turning, scaling and mirroring."""
    for i in range(8):
        sample = synthetic.toy(n=8)[i]
        example = crop_example(
            sample,
            View((128, 128), "head", VIEW.mean, VIEW.std),
            Augment(photometric=0, blur=0, erase=0, noise=0, gray=0),
            np.random.default_rng(i),
        )
        mask, _ = example.labels["parsing"]
        points, _ = example.labels["landmarks"]
        for eye, name in ((slice(36, 42), "r_eye"), (slice(42, 48), "l_eye")):
            x, y = np.round(points[eye].mean(0) * 128 - 0.5).astype(int)
            if sample.labels["attributes"]["Eyeglasses"]:
                assert TASKS["parsing"].names[mask[y, x]] == "eyeglass"
            else:
                assert TASKS["parsing"].names[mask[y, x]] == name


def test_no_augmentation_is_the_plain_crop():
    from mien import geometry

    sample = synthetic.toy(n=1)[0]
    plain = crop_example(sample, VIEW, NONE, np.random.default_rng(0))
    assert np.array_equal(plain.pixels, geometry.align(sample.image, sample.points, VIEW).pixels)


def test_majority_protocol_by_hand():
    assert pack.majority([5, 1, 1, 1, 1, 1, 0, 0, 0, 0]) == 0  # single votes are dropped
    assert pack.majority([4, 4, 0, 0, 0, 0, 0, 0, 0, 0]) is None  # half is not more than half
    assert pack.majority([2, 6, 0, 0, 0, 0, 0, 0, 2, 0]) == 1
    assert pack.majority([3, 0, 0, 0, 0, 0, 0, 0, 7, 0]) is None  # unknown wins


@needs_pack
def test_counts_of_the_expression_protocol():
    assert len(pack.ferplus("val")) == 3199
    assert len(pack.ferplus("test")) == 3152


@needs_pack
def test_lfw_pairs_are_all_there():
    dataset = pack.lfw_pairs()
    seen = [pair for i in range(len(dataset)) for pair in dataset.labels[i]["identity"]]
    assert len(seen) == 2000
    assert sum(same for _, same in seen) == 1000


def test_a_missing_set_says_which_file_was_expected(tmp_path, monkeypatch):
    with pytest.raises(MissingData, match=r"expected .*celeba.*val\.parquet"):
        pack.PackDataset("celeba", "val", lambda r: {}, root=tmp_path)
    monkeypatch.setenv("MIEN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(MissingData, match="nowhere"):
        pack.helen68("val")


def test_a_network_of_two_views_is_evaluated_in_the_other():
    import torch

    from mien.models.torch_model import TorchModel

    class Net(torch.nn.Module):
        view, tasks = VIEW, (TASKS["age"],)

    small = View((64, 64), "arcface", (0.5,) * 3, (0.5,) * 3)
    assert TorchModel(Net()).view is VIEW and TorchModel(Net(), view=small).view is small


def test_the_overall_f_by_hand():
    f = PartsF(HELEN9_NAMES)
    truth = np.array([[2, 3, 5, 7], [1, 1, 8, 0]], np.uint8)  # brow, eye, lip, lip; skin, skin, hair, nothing
    guess = np.array(
        [[2, 2, 7, 1], [4, 1, 0, 0]], np.uint8
    )  # right, an eye for a brow, one mouth, skin; skin for a nose
    f.update(Parsing(guess, np.eye(2, 3), HELEN9_NAMES, "helen9", {}), truth)
    assert f.compute()["overall_f"] == pytest.approx(2 * 2 / (4 + 4))


def test_a_model_is_not_scored_on_what_it_does_not_answer():
    from mien.models.torch_model import TorchModel

    model = TorchModel(faceptor_tiny(tasks=(AGE,), size=64))
    with pytest.raises(UsageError, match=r"does not predict 'landmarks'.*tasks: age"):
        evaluate(model, PROTOCOLS["helen68"])


@needs_pack
def test_a_protocol_runs_on_torch_and_onnx(exported):
    from mien.inference.onnx_model import OnnxModel
    from mien.models.torch_model import TorchModel
    from tests.support.exported import network

    scores = [
        evaluate(m, PROTOCOLS["helen68"], limit=8)
        for m in (TorchModel(network()), OnnxModel(exported / "m.onnx", threads=1))
    ]
    assert scores[0].headline == pytest.approx(scores[1].headline, rel=1e-4)
    assert "| helen68 | Helen val | 8 |" in as_table(scores[:1])
    assert PACK.is_dir()
