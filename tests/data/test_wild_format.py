"""The second data pack: cuts around faces, labels, and pictures that are set aside."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mien import geometry, settings
from mien.data import set_aside, synthetic
from mien.data.formats import wild
from mien.errors import MissingData
from mien.tasks.age import Age, AgeRange

needs_second_pack = pytest.mark.skipif("MIEN_DATA_MORE" not in os.environ, reason="needs MIEN_DATA_MORE")


def encoded(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


@pytest.fixture
def pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a drawn FairFace and a drawn All-Age-Faces stand, with points; one picture has none, one is set
    aside.
    """
    monkeypatch.setenv("MIEN_DATA_MORE", str(tmp_path))
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    aside = sorted(set_aside.names("fairface"))[0]
    drawn = [synthetic.draw(np.random.default_rng(i)) for i in range(4)]
    names = ["train/a.jpg", "train/b.jpg", "train/c.jpg", aside]
    facts = [
        {"age_bin": b, "male": i % 2 == 0, "race": "Black"}
        for i, b in enumerate(["0-2", "70+", "20-29", "30-39"])
    ]
    put(tmp_path, "fairface", names, drawn, facts, scores=[0.9, 0.65, 0.0, 0.9])
    points = [d[1]["landmarks"][list(wild.AAF49)].ravel().tolist() for d in drawn]
    put(
        tmp_path,
        "aaf",
        names,
        drawn,
        [{"age": 40 + i, "male": True, "points49": p} for i, p in enumerate(points)],
        scores=[0.9] * 4,
    )
    return tmp_path


def put(
    root: Path, folder: str, names: list[str], drawn: list, facts: list[dict], scores: list[float]
) -> None:
    (root / folder).mkdir(parents=True)
    (root / "cache" / "teacher_labels").mkdir(parents=True, exist_ok=True)
    rows = [{"name": n, "image": encoded(d[0]), **f} for n, d, f in zip(names, drawn, facts, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), root / folder / "train.parquet")
    found = [
        {"name": n, "points5": d[2].ravel().tolist(), "score": s}
        for n, d, s in zip(names, drawn, scores, strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(found), root / "cache" / "teacher_labels" / f"{folder}-train.parquet")


def test_a_cut_shows_what_a_head_crop_shows():
    rng = np.random.default_rng(3)
    pixels, _, points = synthetic.draw(rng)
    photo = cv2.resize(np.pad(pixels, ((100, 60), (40, 90), (0, 0))), None, fx=3, fy=3)
    points = (points + (40, 100) + 0.5) * 3 - 0.5
    cut, affine = wild.around_face(photo, points)
    assert max(cut.shape[:2]) <= 2 * wild.REACH * wild.HEAD + 4 < max(photo.shape[:2])
    view = wild._VIEW
    whole = geometry.align(photo, points, view).pixels
    of_cut = geometry.align(cut, geometry.move_points(points, affine), view).pixels
    assert np.abs(whole.astype(int) - of_cut).mean() < 4


def test_training_leaves_out_what_is_set_aside_and_unsure_points(pack):
    train, aside = wild.fairface("train"), wild.fairface("aside")
    assert train.names == ["train/a.jpg", "train/b.jpg"]
    assert len(aside) == 1 and aside.names[0] in set_aside.names("fairface")
    assert [d["age"] for d in train.labels] == [AgeRange(0, 2), AgeRange(70, 100)]
    assert train.labels[0]["attributes"] == {"Male": True}
    sample = train[1]
    assert sample.image.dtype == np.uint8 and sample.points.shape == (5, 2)


def test_49_points_move_with_the_cut(pack):
    sample = wild.aaf("train")[0]
    points = sample.labels["landmarks"]
    known = np.isfinite(points).all(1)
    assert known.sum() == 49 and not known[:17].any() and not known[[60, 64]].any()
    assert np.allclose(geometry.five_of_68(np.nan_to_num(points)), sample.points, atol=0.01)


def test_missing_points_and_folders_are_named(pack, monkeypatch):
    (pack / "cache" / "teacher_labels" / "aaf-train.parquet").unlink()
    with pytest.raises(
        MissingData, match=r"the five points of aaf/train; write it by: python -m recipes\.teacher_labels"
    ):
        wild.aaf("train")
    monkeypatch.delenv("MIEN_DATA_MORE")
    monkeypatch.chdir(pack)
    with pytest.raises(MissingData, match="set MIEN_DATA_MORE"):
        wild.aaf("train")
    Path("mien.toml").write_text('[data]\nmore = "nowhere"\n')
    with pytest.raises(MissingData, match="'nowhere' does not exist"):
        settings.data_more_root()


def test_age_classes_by_hand():
    metrics = wild.fairface_classes()
    for years, label in ((2.4, "0-2"), (2.6, "0-2"), (25.0, "3-9"), (99.0, "70+")):
        metrics.update(Age(years, years, years), wild.AGE_BINS[label])
    got = metrics.compute()
    assert (got["class_accuracy"], got["within_one"], got["n"]) == (50, 75, 4)


@needs_second_pack
@pytest.mark.slow
def test_the_parts_of_the_second_pack():
    if not (settings.cache_root() / "teacher_labels" / "fairface-train.parquet").is_file():
        pytest.skip("needs teacher labels in MIEN_CACHE, see recipes/teacher_labels.py")
    assert {len(wild.fairface("aside", race=r)) for r in wild.RACES} == {500}
    people = {f["identity"] for f in wild.celeba_wild("aside").facts}
    assert len(people) == 25 and not people & {f["identity"] for f in wild.celeba_wild("train").facts}


def test_identity_labels_are_the_teachers_principal_directions(pack: Path):
    with pytest.raises(MissingData, match=r"recipes\.teacher_labels identity"):
        wild.identity_descriptors(4)
    rng, folder = np.random.default_rng(0), pack / "cache" / "teacher_labels" / "identity"
    folder.mkdir()
    given = rng.normal(size=(30, 3)) @ rng.normal(size=(3, 8))  # three directions hold everything
    names = [f"train/{c}.jpg" for c in "ab"] + [f"x{i}" for i in range(28)]
    rows = [{"name": n, "descriptor": v.tolist()} for n, v in zip(names, given, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "fairface-train.parquet")
    found = wild.identity_descriptors(4)
    assert set(found) == {f"fairface/{n}" for n in names}
    got = np.array([found[f"fairface/{n}"] for n in names], np.float64)
    assert got.shape == (30, 4) and got.std() == pytest.approx(1, abs=1e-3)
    cosines = [(v / np.linalg.norm(v, axis=1, keepdims=True)) for v in (given, got)]
    assert np.allclose(cosines[0] @ cosines[0].T, cosines[1] @ cosines[1].T, atol=1e-4)
    labeled = wild.fairface("train", teacher=found)
    assert [np.array_equal(labeled[i].labels["identity"], got[i].astype(np.float32)) for i in (0, 1)] == [
        True
    ] * 2
    assert "identity" not in wild.aaf("train", teacher=found)[0].labels
