"""The pipeline with the embedded weights, on public-domain photos: places, colors, nothing lost."""

from __future__ import annotations

import copy
import gc
import json
import logging
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mien
from mien.errors import BadArray, BadWeights, NotFound, PhotoError, UnknownTask, UsageError
from mien.inference.reading import Reading
from mien.inference.weights_file import WEIGHTS

COLLAGE = "examples/collage.jpg"


def center(face) -> tuple[float, float]:
    x1, y1, x2, y2 = (float(v) for v in face.box)
    return (x1 + x2) / 2, (y1 + y2) / 2


def test_the_astronaut(reader, astronaut):
    (face,) = reader(astronaut)
    assert np.abs(np.subtract(center(face), (224, 115))).max() < 20
    assert face["gender"].confident(0.75) in ("female", None), (
        "it may abstain, but must not be confident and wrong"
    )
    assert face["expression"].label == "happiness"
    assert face[mien.ATTRIBUTES]["Smiling"] > 0.9
    assert face[mien.ATTRIBUTES]["Eyeglasses"] < 0.3
    assert 10 < face[mien.AGE].years < 60
    assert face["age"].low < face["age"].years < face["age"].high
    points = face["landmarks"].points
    assert points[36:42, 0].mean() < points[42:48, 0].mean()
    assert points[36:48, 1].mean() < points[30, 1] < points[48:68, 1].mean()
    assert abs(face["pose"].yaw) < 15
    mask = face["parsing"].mask_in(512, 512)
    names = face["parsing"].names
    assert names[mask[150, 222]] in ("u_lip", "l_lip", "mouth")
    assert names[mask[40, 224]] == "hair"


def test_grace_hopper_is_old_and_wears_a_hat(reader):
    (face,) = reader("examples/grace_hopper.jpg")
    assert face["age"].years > 35
    assert {"hat"} <= set(face["parsing"].fractions)


def test_every_face_of_the_collage_is_found_largest_first(reader):
    faces = reader(COLLAGE)
    assert len(faces) == 11
    areas = [(f.box[2] - f.box[0]) * (f.box[3] - f.box[1]) for f in faces]
    assert areas == sorted(areas, reverse=True)


def test_all_kinds_of_source_are_one_photo(reader, astronaut):
    with open(astronaut, "rb") as file:
        data = file.read()
    image = Image.open(BytesIO(data))
    sources = [astronaut, data, image, np.asarray(image.convert("RGB"))]
    boxes = [reader(s)[0].box for s in sources]
    for box in boxes[1:]:
        assert np.array_equal(box, boxes[0])


def test_swapped_channels_are_seen_in_the_answer(reader, astronaut):
    """The golden picture: a reader that swapped red and blue somewhere would not tell these two apart."""
    rgb = np.asarray(Image.open(astronaut).convert("RGB"))
    right, swapped = reader(rgb)[0].crop, reader(np.ascontiguousarray(rgb[..., ::-1]))[0].crop
    middle = right.pixels[60:90, 50:80].reshape(-1, 3).mean(0)
    assert middle[0] > middle[2] + 15  # skin is redder than it is blue
    other = swapped.pixels[60:90, 50:80].reshape(-1, 3).mean(0)
    assert other[2] > other[0] + 15


def test_an_array_that_looks_like_opencvs_is_pointed_out(reader, astronaut, caplog):
    rgb = np.asarray(Image.open(astronaut).convert("RGB"))
    with caplog.at_level(logging.WARNING, logger="mien"):
        reader(rgb)
        assert "BGR" not in caplog.text
        reader(np.ascontiguousarray(rgb[..., ::-1]))
    assert "pass a[..., ::-1]" in caplog.text


def test_a_mirrored_photo_gives_mirrored_answers(reader, astronaut):
    image = Image.open(astronaut).convert("RGB")
    face, mirrored = reader(image)[0], reader(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[0]
    order = list(mien.LANDMARKS.mirror)
    back = (np.array([511, 0]) - mirrored["landmarks"].points * (1, -1))[order]
    eyes = np.linalg.norm(face["landmarks"].points[36] - face["landmarks"].points[45])
    assert np.linalg.norm(back - face["landmarks"].points, axis=1).mean() < 0.08 * eyes
    assert mirrored["pose"].roll == pytest.approx(-face["pose"].roll, abs=4)
    assert mirrored["age"].years == pytest.approx(face["age"].years, abs=12)


def test_a_thorough_search_finds_a_turned_face_and_its_record_says_so(reader, astronaut):
    turned = Image.open(astronaut).convert("RGB").transpose(Image.Transpose.ROTATE_270)  # 90 clockwise
    (face,) = reader.read(turned, tasks=["age"], thorough=True)
    (same,) = mien.Reader(reader.detector, reader.model, tasks=["age"], thorough=True)(turned)
    assert face.roll == pytest.approx(90, abs=10)
    assert face.to_dict() == same.to_dict()
    assert face.to_dict()["roll"] == round(face.roll, 1)
    assert "roll" not in reader.read(astronaut, tasks=[])[0].to_dict()
    upside_down = Image.open(astronaut).convert("RGB").transpose(Image.Transpose.ROTATE_180)
    (default,), (thorough,) = (reader.read(upside_down, tasks=[], thorough=t) for t in (False, True))
    assert default.score < thorough.score - 0.1


def test_a_detector_without_a_thorough_search_is_refused(reader, astronaut):
    with pytest.raises(UsageError, match="the detector function takes no thorough"):
        mien.Reader(lambda pixels: [], reader.model, thorough=True)
    other = mien.Reader(lambda pixels: [], reader.model, tasks=[])
    assert other(astronaut) == []
    for argument in ({"thorough": True}, {"score": 0.5}):
        with pytest.raises(UsageError, match=f"takes no {next(iter(argument))}"):
            other.read(astronaut, **argument)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_applied_and_faces_stay_where_they_are_seen(reader, astronaut, orientation):
    upright = Image.open(astronaut).convert("RGB")
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif, data = Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    stored.save(data, "JPEG", quality=95, exif=exif)
    (face,) = reader(data.getvalue())
    assert np.abs(np.subtract(center(face), center(reader(upright)[0]))).max() < 4


def test_a_batch_answers_as_single_photos_do(reader, astronaut):
    photos = [astronaut, COLLAGE, "examples/grace_hopper.jpg"]
    together = reader(photos)
    for path, faces in zip(photos, together, strict=True):
        alone = reader(path)
        assert len(alone) == len(faces)
        for a, b in zip(alone, faces, strict=True):
            assert np.array_equal(a.box, b.box)
            assert np.allclose(a["landmarks"].points, b["landmarks"].points, atol=0.05)
            assert a["age"].years == pytest.approx(b["age"].years, abs=0.01)


def test_threads_share_a_reader_bit_for_bit(reader, astronaut):
    def answer(path):
        return [f.to_dict() for f in reader(path)]

    paths = [astronaut, "examples/grace_hopper.jpg"] * 4
    serial = [answer(p) for p in paths]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, paths)) == serial


def test_a_bad_photo_does_not_lose_the_others(reader, astronaut, tmp_path, caplog):
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    with caplog.at_level(logging.WARNING, logger="mien"):
        one, bad, missing, two = reader([astronaut, str(tmp_path / "bad.jpg"), "no/such.jpg", astronaut])
    assert len(one) == len(two) == 1
    assert list(bad) == []
    assert bad.error.code == "not_a_picture"
    assert missing.error.code == "not_found"
    assert missing.to_dict()["error"]["code"] == "not_found"
    assert "no/such.jpg" in caplog.text


def test_a_bad_photo_does_not_keep_the_others_in_memory(reader, astronaut):
    """Its error came with frames, and they with all that was read beside it: megabytes a photo until the
    collector came by.
    """
    good = Path(astronaut).read_bytes()
    gc.collect()
    gc.disable()
    try:
        readings = reader([good, good[:-9000]])
        assert "truncated" in str(readings[1].error)
        beside = weakref.ref(readings[0])
        del readings
        assert beside() is None
    finally:
        gc.enable()


def test_one_bad_photo_raises(reader):
    with pytest.raises(NotFound, match=r"no/such\.jpg"):
        reader("no/such.jpg")
    with pytest.raises(BadArray, match=r"a \* 255"):
        reader(np.zeros((64, 64, 3), np.float32))
    with pytest.raises(PhotoError):
        reader(b"")


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 300, 3), (300, 1, 3), (40, 40, 3)])
def test_tiny_and_thin_photos_have_no_faces(reader, shape):
    assert list(reader(np.zeros(shape, np.uint8))) == []


def test_a_black_photo_has_no_face_and_is_no_error(reader):
    reading = reader(np.zeros((300, 200, 3), np.uint8))
    assert isinstance(reading, Reading)
    assert reading.to_dict()["faces"] == []


def test_a_close_up_that_overflows_the_photo_is_found(reader, astronaut):
    rgb = np.asarray(Image.open(astronaut).convert("RGB"))
    assert len(reader(np.ascontiguousarray(rgb[60:175, 175:275]))) >= 1


def test_the_record_has_the_public_schema(reader, astronaut):
    record = json.loads(json.dumps(reader(astronaut).to_dict(), allow_nan=False))
    assert list(record) == ["schema", "path", "width", "height", "model", "timing_ms", "faces"]
    assert record["schema"] == 1
    assert record["path"] == astronaut
    assert (record["width"], record["height"]) == (512, 512)
    assert len(record["model"]["sha256"]) == 64
    assert {"decode", "detect", "align", "read"} <= set(record["timing_ms"])
    face = record["faces"][0]
    assert list(face) == [
        "box",
        "score",
        "points5",
        "points5_network",
        "landmarks",
        "parsing",
        "age",
        "gender",
        "expression",
        "attributes",
        "pose",
    ]
    assert len(face["box"]) == 4
    assert np.shape(face["points5"]) == (5, 2)
    assert face["landmarks"]["set"] == "ibug68"
    assert np.shape(face["landmarks"]["points"]) == (68, 2)
    assert face["parsing"]["set"] == "celebamask19"
    assert sum(face["parsing"]["classes"].values()) == pytest.approx(1, abs=0.01)
    assert len(face["attributes"]) == 40
    assert sum(face["expression"]["probabilities"].values()) == pytest.approx(1, abs=0.01)


def test_tasks_choose_and_identity_comes_only_when_named(astronaut):
    reader = mien.load(tasks=["identity", "pose"], threads=1)
    (face,) = reader(astronaut)
    assert set(face) == {"identity", "pose"}
    assert np.linalg.norm(face["identity"].embedding) == pytest.approx(1, abs=1e-5)
    with pytest.raises(UnknownTask, match="it has: pose, identity"):
        face["agee"]
    with pytest.raises(KeyError):
        face[mien.AGE]
    with pytest.raises(UnknownTask, match=r"does not predict 'agee'; its tasks: .*age"):
        mien.load(tasks=["agee"])


def test_one_person_is_more_like_herself_than_like_another():
    reader = mien.load(tasks=["identity"], threads=1)
    a, h = (np.asarray(Image.open(f"examples/{n}.jpg").convert("RGB")) for n in ("astronaut", "grace_hopper"))
    one, same, other = (reader(p)[0]["identity"] for p in (a, np.ascontiguousarray(a[:, ::-1] // 2 + 40), h))
    assert one.similarity(same) > one.similarity(other) + 0.2


def test_wrong_settings_are_refused(reader):
    with pytest.raises(UsageError, match="batch must be 1"):
        mien.load(batch=0)


def test_reading_opens_no_socket(astronaut, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    assert len(mien.load(threads=1)(astronaut)) == 1


def test_answering_imports_no_torch_and_mien_is_quick_to_import(astronaut):
    code = (
        "import sys, time; t = time.perf_counter(); import mien; print(time.perf_counter() -"
        f" t)\nmien.load(threads=1)({astronaut!r})\nassert not {{'torch', 'pyarrow', 'onnx',"
        " 'mien.training.loop', 'mien.data'} & set(sys.modules), 'learning was imported'"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )
    assert float(out.stdout.split()[0]) < 1.0


def _years(path: str) -> float:
    return _PARENT(path)[0]["age"].years


_PARENT = None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_worker_makes_its_own_session(astronaut):
    global _PARENT  # a forked child sees the parent's reader, session and all
    _PARENT = mien.load(threads=2)
    expected = _years(astronaut)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_years, (astronaut,)).get(timeout=60) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("promise", ["{", "[]", "null", '{"sha256": 1}', '{"calibration": 3}'])
def test_weights_with_a_damaged_provenance_file_are_refused_by_name(promise, tmp_path):
    shutil.copy(WEIGHTS / "detector.onnx", tmp_path / "w.onnx")
    (tmp_path / "w.json").write_text(promise)
    with pytest.raises(BadWeights, match=r"w\.json"):
        mien.load(detector=tmp_path / "w.onnx")


def test_a_reader_may_be_copied_as_a_spawned_worker_gets_it(reader, astronaut):
    other = copy.copy(reader)
    other.model = copy.copy(reader.model)
    assert other.model._session is not reader.model._session
    assert other(astronaut)[0].to_dict() == reader(astronaut)[0].to_dict()
