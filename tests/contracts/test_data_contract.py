"""Every data set and protocol in the catalogues keeps the contract; an empty catalogue fails."""

from __future__ import annotations

import numpy as np
import pytest

from mien.data import DATASETS, FaceSource, pack, toy
from mien.data.augment import NONE, Augment, crop_example
from mien.errors import MissingData, UsageError
from mien.evaluate import PROTOCOLS, as_table, evaluate
from mien.models.faceptor import faceptor_tiny
from mien.tasks import AGE, TASKS
from mien.types import View
from tests.conftest import PACK, needs_pack

VIEW = View((64, 64), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_the_catalogues_are_whole():
    assert {"toy", "mtfl", "helen68", "celebamask", "celeba", "utkface", "ferplus"} <= set(DATASETS)
    wanted = {"mtfl", "helen68", "celebamask", "celeba", "utkface-age", "utkface-gender", "ferplus-val", "ferplus-test", "lfw", "photos"}
    assert wanted <= set(PROTOCOLS)
    for protocol in PROTOCOLS.values():
        assert protocol.task in TASKS
        assert protocol.keys
        assert protocol.note


def check(dataset) -> None:
    assert len(dataset) > 0
    sample = dataset[len(dataset) // 2]
    assert sample.image.dtype == np.uint8
    assert sample.image.ndim == 3
    assert sample.image.shape[2] == 3
    assert sample.points.shape == (5, 2)
    assert np.isfinite(sample.points).all()
    assert sample.labels
    assert set(sample.labels) <= set(TASKS)
    example = FaceSource(dataset, VIEW, Augment()).example(0, np.random.default_rng(0))
    assert example.pixels.shape == (64, 64, 3)
    for name, (target, known) in example.labels.items():
        blank, unknown = TASKS[name].blank(VIEW.size)
        assert np.shape(target) == np.shape(blank), name
        assert np.shape(known) == np.shape(unknown), name


def test_the_toy_set():
    check(toy.toy())
    a, b = toy.toy(n=3)[1], toy.toy(n=3)[1]
    assert np.array_equal(a.image, b.image)
    assert set(a.labels) == {n for n in TASKS if n != "faces"}
    with pytest.raises(IndexError):
        toy.toy(n=3)[3]


@needs_pack
@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in DATASETS if n != "toy"])
def test_a_pack_set(name):
    check(DATASETS[name]("train"))


@needs_pack
def test_helen_validation_set():
    check(pack.helen68("val"))


def test_labels_follow_their_picture():
    """A drawn face's eye stays on white pixels through turning, scaling and mirroring."""
    for i in range(8):
        sample = toy.toy(n=8)[i]
        example = crop_example(
            sample,
            View((128, 128), "head", VIEW.mean, VIEW.std),
            Augment(light=0, blur=0, erase=0, noise=0, gray=0),
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

    sample = toy.toy(n=1)[0]
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
    with pytest.raises(MissingData, match="expected .*celeba.*val.parquet"):
        pack.PackDataset("celeba", "val", lambda r: {}, root=tmp_path)
    monkeypatch.setenv("MIEN_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(MissingData, match="nowhere"):
        pack.helen68("val")


def test_a_model_is_not_scored_on_what_it_does_not_answer():
    from mien.evaluate import TorchAnswerer

    model = TorchAnswerer(faceptor_tiny(tasks=(AGE,), size=64))
    with pytest.raises(UsageError, match="does not answer 'landmarks'.*answers: age"):
        evaluate(model, PROTOCOLS["helen68"])


@needs_pack
def test_a_protocol_runs_on_torch_and_onnx_alike(tmp_path):
    import torch

    from mien.evaluate import TorchAnswerer
    from mien.export import export
    from mien.runtime import OnnxModel
    from mien.tasks import LANDMARKS

    torch.manual_seed(0)
    model = faceptor_tiny(tasks=(LANDMARKS,), size=64).eval()
    export(model, tmp_path / "m.onnx")
    scores = [evaluate(m, PROTOCOLS["helen68"], limit=8) for m in (TorchAnswerer(model), OnnxModel(tmp_path / "m.onnx", threads=1))]
    assert scores[0].headline == pytest.approx(scores[1].headline, rel=1e-4)
    assert "| helen68 | Helen val | 8 |" in as_table(scores[:1])
    assert PACK.is_dir()
