"""Every official protocol on a few pictures, answered by this file: the numbers are known by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mien import geometry
from mien.data.catalogue import DATASETS, OFFICIAL, Official
from mien.data.formats import landmarks
from mien.errors import MissingData, UsageError
from mien.evaluation.protocols import Protocol
from mien.evaluation.scoring import PROTOCOLS, Score, as_table, evaluate, full_picture_crop, run
from mien.tasks import TASKS, task
from mien.tasks.attributes import AttributesTask
from mien.tasks.base import Embedding, Map, Points, Vector
from mien.tasks.parsing import HELEN9_NAMES
from mien.types import Sample, View
from tests.support import layouts_people as people_sets
from tests.support import layouts_points as point_sets

VIEW = View((256, 256), "head", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
MINE = {
    n: p
    for n, p in PROTOCOLS.items()
    if isinstance(p.dataset, partial) and isinstance(p.dataset.func, Official)
}
OF = {
    kind: [n for n, p in MINE.items() if isinstance(TASKS[p.task].shape, kind)]
    for kind in (Points, Map, Vector, Embedding)
}
PERFECT = {"nme": 0, "mean_f1": 1, "overall_f": 1, "mae": 0, "accuracy": 100, "mean_accuracy": 100}


# --- Sets of a few pictures


def _wflw(root: Path) -> None:
    point_sets.wflw(root)
    path = root / "WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_test.txt"
    path.write_text(path.read_text().replace("0 0 0 0 0 0 1--Car", "0 0 1 1 1 0 1--Car"))


def _lapa(root: Path) -> None:
    """Its faces stand so that a crop of 256 is the picture, four times as large, from its first pixel on."""
    point_sets.lapa(root)
    for path in root.glob("LaPa/*/landmarks/*.txt"):
        rows = [line.split() for line in path.read_text().splitlines()]
        for index, place in zip(
            (104, 105, 54, 84, 90), (geometry.template_points(VIEW) - 1.5) / 4, strict=True
        ):
            rows[1 + index] = [str(v) for v in place]
        path.write_text("".join(" ".join(r) + "\n" for r in rows))


def _morph2(root: Path) -> None:
    """Fifteen, of which a fifth are the test."""
    names = [f"Album2/{i}.JPG" for i in range(15)]
    people_sets.put(
        root / "morph_2008_nonCommercial.csv",
        "photo,age\n" + "".join(f"{n},{20 + i}\n" for i, n in enumerate(names)),
    )
    people_sets.points_table(root / "points5.parquet", names)
    for i, n in enumerate(names):
        people_sets.put(root / n, people_sets.encoded(i % 4, (178, 218)))


def _utkface(root: Path) -> None:
    """Fifteen, of which a fifth are the test; CORAL's test has three of them."""
    stems = [f"{20 + i}_{i % 2}_0_2017{i:013}" for i in range(15)]
    people_sets.utkface(root, stems)
    people_sets.put(
        root / "utk_test.csv",
        ",file,age\n" + "".join(f"{i},{stems[i]}.jpg.chip.jpg,{i - 1}\n" for i in (1, 2, 14)),
    )


def _ferplus(root: Path) -> None:
    """Happiness, contempt and fear; and one picture of training."""
    votes = [np.eye(10, dtype=int)[i] * 10 for i in (1, 7, 6, 0)]
    usages = ("PrivateTest", "PrivateTest", "PrivateTest", "Training")
    people_sets.ferplus(
        root, [(u, f"fer{i}.png", v.tolist()) for i, (u, v) in enumerate(zip(usages, votes, strict=True))]
    )


def _verification(root: Path) -> None:
    """Four pairs, the first and third of one person each."""
    pictures = [people_sets.encoded(i) for i in (0, 0, 1, 2, 1, 1, 2, 3)]
    for name in ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"):
        people_sets.pickled(root / f"{name}.bin", (pictures, [True, False, True, False]))


WRITERS: dict[str, Callable[[Path], Any]] = {
    "300w": point_sets.ibug300w, "wflw": _wflw, "cofw": point_sets.cofw, "aflw19": point_sets.aflw19,
    "mtfl-official": point_sets.mtfl,
    "celebamask-hq": point_sets.celebamask_hq, "lapa": _lapa, "helen": point_sets.helen, "morph2": _morph2,
    "utkface-official": _utkface,
    "affectnet": lambda root: people_sets.affectnet(root, (0, 1, 7)), "rafdb": people_sets.rafdb,
    "ferplus-official": _ferplus,
    "celeba-official": people_sets.celeba, "lfwa": lambda root: people_sets.lfwa(root, hdf5=False),
    "lfw-official": people_sets.lfw, "verification": _verification, "ms1mv3": people_sets.ms1mv3,
}  # fmt: skip
NEEDS = {"cofw": "h5py", "aflw19": "scipy", "lfwa": "scipy"}


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the data folder one that holds the sets that it is called with, and nothing else."""
    monkeypatch.setenv("MIEN_DATA", str(tmp_path))
    assert landmarks.aflw19.__kwdefaults__ is not None
    monkeypatch.setitem(landmarks.aflw19.__kwdefaults__, "train_faces", 2)  # the set is of four faces

    def write(folder: str) -> None:
        if folder in NEEDS:
            pytest.importorskip(NEEDS[folder])
        WRITERS[folder](tmp_path / folder)

    return write


def folder_of(p: Protocol) -> str:
    assert isinstance(p.dataset, partial)
    return p.dataset.func.folder


# --- Answers


def raw_of(p: Protocol, label: Any, sample: Sample, view: View) -> np.ndarray:
    """What a network would say that is right: a label as a raw answer."""
    name = p.task
    t: Any = TASKS[name]
    if p.tanh:  # a picture of the labels, warped as the photo is
        affine = geometry.tanh_align(sample.image, sample.points, view.size, p.tanh).from_photo
        return np.stack(
            [
                geometry.tanh_crop((label == k).astype(np.uint8) * 20, affine, view.size, p.tanh)
                for k in range(t.shape.n)
            ]
        )
    crop = (
        full_picture_crop(sample.image, view)
        if p.full_picture
        else geometry.align(sample.image, sample.points, view)
    )
    target, _ = t.encode_target(label, crop.from_photo, False, view.size)
    if isinstance(t.shape, Points):
        return target
    if isinstance(t.shape, Map):
        return 20.0 * (target == np.arange(t.shape.n)[:, None, None]).astype(np.float32)
    if isinstance(t, AttributesTask):
        return 40 * target - 20
    if name == "age":
        return 80.0 * (np.arange(101) == target.mean())
    return 20 * target


class Fake:
    """An Answerer that gives out a list of raw answers in order, under one name; with `mirrored` every second
    call is from there.
    """

    def __init__(self, name: str, raw: list[Any], *, mirrored: list[Any] | None = None, view: View = VIEW):
        self.view, self.tasks, self.name, self.seen = view, (task(name),), name, list[np.ndarray]()
        self.lists, self.at = [raw] if mirrored is None else [raw, mirrored], [0, 0]

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        which = len(self.seen) % len(self.lists)
        self.seen.append(images)
        start = self.at[which]
        self.at[which] += len(images)
        return {self.name: np.stack(self.lists[which][start : start + len(images)]).astype(np.float32)}


def fake(p: Protocol, dataset: Any, change: Callable[[Any, Sample], Any] | None = None) -> Fake:
    """Answers each picture rightly but for the last, whose label is changed first."""
    view = View((512, 512), *dataclasses.astuple(VIEW)[1:]) if p.task in ("helen9", "parsing") else VIEW
    raw = []
    for i in range(len(dataset)):
        label = dataset[i].labels[p.task]
        if change and i == len(dataset) - 1:
            label = change(label, dataset[i])
        raw.append(raw_of(p, label, dataset[i], view))
    return Fake(p.task_names[0], raw, view=view)


def test_the_official_protocols_are_these():
    assert set(MINE) == {
        "300w-common", "300w-challenge", "300w-full", "wflw", *(f"wflw-{s}" for s in landmarks.WFLW_SUBSETS),
        "cofw", "aflw19",
        "aflw19-frontal", "mtfl-official", "celebamask-hq", "lapa", "lapa-tanh", "helen", "morph2",
        "utkface-official",
        "utkface-coral", "affectnet-7", "affectnet-8",
        "rafdb", "ferplus-official", "ferplus-official-7", "celeba-official", "lfwa", "lfw.bin", "cfp_fp",
        "agedb_30", "calfw", "cplfw",
        "lfw-official",
    }  # fmt: skip
    assert {n for n, p in PROTOCOLS.items() if p.flip_tta} == set(OF[Embedding])


@pytest.mark.parametrize("name", [n for n in MINE if n not in OF[Embedding]])
def test_right_answers_are_without_error(name: str, build: Callable[[str], None]):
    p = MINE[name]
    build(folder_of(p))
    dataset = p.dataset()
    score = evaluate(fake(p, dataset), p, batch=2)
    assert score.headline == pytest.approx(PERFECT[p.keys[0]], abs=1e-3)  # answers are float32
    assert score.values["n"] == len(dataset) >= 1
    assert set(p.keys) <= set(score.values)


@pytest.mark.parametrize("name", OF[Points])
def test_a_table_of_landmarks_says_that_true_points_remove_the_roll(name: str):
    score = {"nme": 3.0, "n": 1}
    assert "true points, which removes roll" in as_table([Score(name, score, 3.0, ("nme",))])
    assert "true points" not in as_table([Score(name, score | {"found": 99.0}, 3.0, ("nme", "found"))])


# --- One answer of several is wrong

# pictures, and the two points whose distance is the unit; None: the diagonal of the box
LANDMARKS = {
    "300w-common": (2, (36, 45)), "300w-challenge": (1, (36, 45)), "300w-full": (3, (36, 45)), "wflw": (3,
    (60, 72)),
    **{f"wflw-{s}": (1, (60, 72)) for s in landmarks.WFLW_SUBSETS}, "cofw": (1, (8, 9)), "aflw19": (2, None),
    "aflw19-frontal": (1, None),
    "mtfl-official": (1, (0, 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", OF[Points])
def test_points_that_are_five_pixels_off(name: str, build: Callable[[str], None]):
    p, (n, eyes) = MINE[name], LANDMARKS[name]
    build(folder_of(p))
    dataset = p.dataset()
    assert len(dataset) == n
    label = dataset[n - 1].labels[p.task]

    def off(label: Any, sample: Sample) -> np.ndarray:
        return (label["points"] if eyes is None else label) + np.array([3.0, 4.0])

    score = evaluate(fake(p, dataset, off), p)
    if eyes is None:
        x1, y1, x2, y2 = label["box"]
        unit = float(np.hypot(x2 - x1, y2 - y1))
        assert score.values["nme_box"] == pytest.approx(
            100 * 5 / np.sqrt((x2 - x1) * (y2 - y1)) / n, rel=1e-4
        )
        assert score.values["boxed"] == 100
    else:
        unit = float(np.hypot(*(label[eyes[0]] - label[eyes[1]])))
        assert score.values["fr@0.1"] == pytest.approx(100 / n if 5 / unit > 0.1 else 0)
    assert score.headline == pytest.approx(100 * 5 / unit / n, rel=1e-4)


def test_lapa_is_scored_at_the_pictures_own_size(build: Callable[[str], None]):
    """The answer is one column of the picture, four of the crop, too far right."""
    build("lapa")
    p = MINE["lapa"]
    dataset = p.dataset()
    truth = dataset[0].labels["lapa11"]
    shifted = np.zeros_like(truth)
    shifted[:, 1:] = truth[:, :-1]
    score = evaluate(fake(p, dataset, lambda label, sample: shifted), p)
    # rows of face 10 to 39: its 24 columns overlap in 23; the mouth, 12 pixels of row 30, in 11; hair, 64
    # columns of 10 rows, in 63 of 63
    assert score.values["f1:hair"] == pytest.approx(2 * 63 / (64 + 63))
    assert score.values["f1:inner_mouth"] == pytest.approx(11 / 12)
    rows_without_mouth, row_of_mouth = (
        29 * 23,
        (25 - 21) + (43 - 37),
    )  # face in both: columns 21..24 and 38..43 of row 30
    hits = rows_without_mouth + row_of_mouth
    assert score.values["f1:face"] == pytest.approx(2 * hits / (2 * (30 * 24 - 12)))
    assert score.headline == pytest.approx(
        np.mean([score.values[f"f1:{n}"] for n in ("face", "inner_mouth", "hair")])
    )


def test_celebamask_of_which_a_class_is_not_seen(build: Callable[[str], None]):
    build("celebamask-hq")
    p = MINE["celebamask-hq"]
    dataset = p.dataset()
    truth = dataset[0].labels["parsing"]
    present = set(np.unique(truth)) - {0}
    nose = TASKS["parsing"].names.index("nose")  # type: ignore[attr-defined]
    assert nose in present
    score = evaluate(
        fake(p, dataset, lambda label, sample: np.where(label == nose, 0, label).astype(np.uint8)), p
    )
    assert score.headline == pytest.approx((len(present) - 1) / len(present))


def test_helen_counts_brows_eyes_nose_and_mouth_together(build: Callable[[str], None]):
    build("helen")
    p = MINE["helen"]
    dataset = p.dataset()
    truth = dataset[0].labels["helen9"]
    nose, lip, mouth = (HELEN9_NAMES.index(n) for n in ("nose", "upper_lip", "inner_mouth"))
    parts = int(np.isin(truth, [HELEN9_NAMES.index(n) for n in HELEN9_NAMES[2:8]]).sum())
    unseen = int((truth == nose).sum())

    def wrong(label: Any, sample: Sample) -> np.ndarray:
        """The nose is taken for skin, which is a miss, and the upper lip for the mouth, which is one part
        with it.
        """
        return np.where(label == nose, 1, np.where(label == lip, mouth, label)).astype(np.uint8)

    score = evaluate(fake(p, dataset, wrong), p)
    assert unseen == 70  # the block of 10 x 7, of which the eyes take nothing
    assert score.headline == pytest.approx(2 * (parts - unseen) / (2 * parts - unseen))
    assert score.values["f1:upper_lip"] == 0 and score.values["f1:nose"] == 0


@pytest.mark.parametrize("name", ["morph2", "utkface-official", "utkface-coral"])
def test_one_age_of_three_is_seven_years_off(name: str, build: Callable[[str], None]):
    p = MINE[name]
    build(folder_of(p))
    score = evaluate(fake(p, p.dataset(), lambda years, sample: years + 7), p)
    assert score.values["n"] == 3
    assert score.headline == pytest.approx(7 / 3) and score.values["cs5"] == pytest.approx(200 / 3)


CHOICES = {"affectnet-7": 2, "affectnet-8": 3, "rafdb": 1, "ferplus-official": 3, "ferplus-official-7": 2}


@pytest.mark.parametrize(("name", "n"), CHOICES.items())
def test_one_expression_is_wrong(name: str, n: int, build: Callable[[str], None]):
    p = MINE[name]
    build(folder_of(p))
    score = evaluate(fake(p, p.dataset(), lambda kind, sample: (kind + 1) % 7), p)
    assert (score.values["n"], score.headline) == (n, pytest.approx(100 * (n - 1) / n))


@pytest.mark.parametrize("name", ["celeba-official", "lfwa"])
def test_ten_attributes_of_forty_are_wrong(name: str, build: Callable[[str], None]):
    p = MINE[name]
    build(folder_of(p))

    def flipped(label: dict[str, Any], sample: Sample) -> dict[str, Any]:
        return {k: 1 - int(v) if i < 10 else v for i, (k, v) in enumerate(label.items())}

    assert evaluate(fake(p, p.dataset(), flipped), p).headline == pytest.approx(75)


# --- Verification

E = np.eye(512, dtype=np.float32)


@pytest.mark.parametrize("name", [n for n in OF[Embedding] if n != "lfw-official"])
def test_pairs_need_the_mirror_image_here(name: str, build: Callable[[str], None]):
    """Pictures alone say the contrary of the truth; what the mirror images say is ten times as long and
    right.
    """
    build("verification")
    p = MINE[name]
    straight = [E[0], E[1], E[0], E[0], E[0], E[1], E[0], E[0]]  # same: orthogonal, different: equal
    mirrored = [10 * E[i] for i in (2, 2, 3, 4, 5, 5, 6, 7)]
    score = evaluate(Fake("identity512@ms1mv3", straight, mirrored=mirrored), p, batch=3)
    assert (score.values["n"], score.headline) == (4, 100)
    # similarities: same (0 + 100) / 101, different (1 + 0) / 101; the threshold is in the middle
    assert score.values["threshold"] == pytest.approx(0.5, abs=1e-6)
    # alone: both folds see a same pair at 0 and another at 1; of the two equally bad cuts the upper is taken,
    # all are "different"
    assert evaluate(Fake("identity512", straight), dataclasses.replace(p, flip_tta=False)).headline == 50


def test_folds_of_lfw_are_those_of_its_list(build: Callable[[str], None]):
    build("lfw-official")
    p = MINE["lfw-official"]
    dataset = p.dataset()
    who = ["Abel" in dataset.names[i] for i in range(3)]
    assert who == [True, True, False]
    right = [E[0] if w else E[1] for w in who]
    assert evaluate(Fake("identity512", right, mirrored=right), p).headline == 100
    # Abel's second picture looks like Aaron. Fold 2 (similarities 0 same, 1 other) cuts at 2: of fold 1 the
    # other pair is right. Fold 1 (0 same, 0 other) cuts at 1: of fold 2 (0 same, 1 other) none is.
    wrong = [right[0], E[1], right[2]]
    score = evaluate(Fake("identity512", wrong, mirrored=wrong), p)
    assert (score.headline, score.values["threshold"], score.values["n"]) == (25, 1.5, 4)


def test_the_second_look_is_at_the_mirror_image(build: Callable[[str], None], rng: np.random.Generator):
    noisy = rng.integers(0, 256, (256, 256, 3)).astype(np.uint8)

    class Noise:
        name = "noise"

        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> Sample:
            return Sample(
                np.roll(noisy, i, 0),
                {"identity512": [(i // 2, i < 2), (2 + i // 2, i < 2)]},
                geometry.template_points(VIEW),
            )

    model = Fake("identity512", [E[0]] * 4, mirrored=[E[0]] * 4)
    evaluate(model, MINE["lfw.bin"], dataset=Noise())
    straight, mirrored = model.seen
    assert not np.array_equal(straight, mirrored)
    assert np.array_equal(straight[..., ::-1], mirrored)


# --- Which answer, which data


class Has:
    """A model that has these answers: to "a@set" always years 50, to another age 60."""

    view = VIEW

    def __init__(self, *names: str):
        self.tasks = tuple(task(n) for n in names)

    def __call__(self, images: np.ndarray) -> dict[str, np.ndarray]:
        years = {t.name: 50 if "@" in t.name else 60 for t in self.tasks}
        return {
            n: np.tile(80.0 * (np.arange(101) == y), (len(images), 1)).astype(np.float32)
            for n, y in years.items()
        }


def test_the_answer_for_the_set_is_preferred_to_the_plain_one(build: Callable[[str], None]):
    build("morph2")
    p = MINE["morph2"]
    mean = np.mean([p.dataset()[i].labels["age"] for i in range(3)])
    for names, years in (
        (("age", "age@morph2"), 50),
        (("age@morph2",), 50),
        (("age",), 60),
        (("age@utkface", "age"), 60),
    ):
        assert evaluate(Has(*names), p).headline == pytest.approx(years - mean), names
    with pytest.raises(
        UsageError,
        match="does not predict 'age' or 'age@morph2', which morph2 scores; its tasks: age@utkface",
    ):
        evaluate(Has("age@utkface"), p)


def test_without_names_all_possible_protocols_run_and_the_others_are_reported(
    build: Callable[[str], None], tmp_path: Path, capsys: Any
):
    build("morph2")
    scores = run(Has("age@morph2", "age"))
    assert [s.protocol for s in scores] == ["morph2"]
    told = capsys.readouterr().err
    assert (
        f"mien: skipped utkface-age: expected {tmp_path / 'utkface' / 'val.parquet'}; it is missing" in told
    )
    assert (
        f"mien: skipped utkface-official: expected {tmp_path / 'utkface-official'}, laid out as"
        " mien.data.formats.attributes.utkface says" in told
    )
    assert "does not predict them: " in told and "wflw (wflw98)" in told and "morph2" not in told
    with pytest.raises(MissingData, match=r"utkface-official.*it is missing"):
        run(Has("age"), ["utkface-official"])
    with pytest.raises(MissingData, match="no protocol was run"):
        run(Has("wflw98"))
    # damage is no absence: it is not passed over
    (tmp_path / "utkface-official" / "UTKFace").mkdir(parents=True)
    (tmp_path / "morph2" / "morph_2008_nonCommercial.csv").write_text("photo,age\na.jpg,young\n")
    with pytest.raises(UsageError, match="'young' is not a number"):
        run(Has("age"))


def test_a_missing_data_folder_is_reported_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("MIEN_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingData, match="no data folder is set"):
        run(Has("age"))


def test_a_split_without_pictures_has_no_number(build: Callable[[str], None], tmp_path: Path):
    point_sets.wflw(tmp_path / "wflw")
    with pytest.raises(
        MissingData, match="wflw/test_makeup holds no pictures, so that wflw-makeup has no number"
    ):
        evaluate(Fake("wflw98", []), MINE["wflw-makeup"])


def test_the_sets_without_a_protocol_open_too(build: Callable[[str], None]):
    build("ms1mv3")
    assert len(DATASETS["ms1mv3"]("train")) == 3
    assert {o.folder for o in OFFICIAL.values()} == set(WRITERS)


def test_the_page_of_data_names_every_set_and_protocol():
    page = Path("docs/data.md").read_text(encoding="utf-8")
    assert [n for n in OFFICIAL if f"`{n}`" not in page] == []
    assert [n for n in PROTOCOLS if f"`{n}`" not in page] == []
