"""Scripts written for other packages get the shapes that those packages document; and bridges to DataFrames
and Detections.
"""

from __future__ import annotations

import base64
import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import mien
from mien.compat import deepface as DeepFace
from mien.compat import insightface
from mien.compat.deepface import faces
from mien.compat.insightface import FaceAnalysis
from mien.errors import PhotoError, UsageError
from mien.io.dataframe import to_dataframe, to_supervision
from mien.io.paths import find_photos

GRACE = "examples/grace_hopper.jpg"


@pytest.fixture(scope="module", autouse=True)
def _one_reader():
    """Readers with all answers and one thread, for all the calls of this module."""
    one = mien.load(threads=1, tasks=["age", "gender", "expression", "identity"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faces, "_made", lambda tasks: mien.Reader(one.detector, one.model, tasks=list(tasks)))
        yield


@pytest.fixture(scope="module")
def bgr(astronaut):
    return np.ascontiguousarray(np.asarray(Image.open(astronaut).convert("RGB"))[..., ::-1])


@pytest.fixture(scope="module")
def app():
    app = FaceAnalysis(name="buffalo_l", providers=["CPUExecutionProvider"], threads=1)
    app.prepare(ctx_id=0, det_size=(640, 640))
    return app


# DeepFace


def test_analyze(astronaut) -> None:
    (face,) = DeepFace.analyze(img_path=astronaut, actions=["age", "gender", "emotion"], silent=True)
    assert set(face) == {
        "region",
        "face_confidence",
        "age",
        "gender",
        "dominant_gender",
        "emotion",
        "dominant_emotion",
    }
    assert set(face["region"]) == {"x", "y", "w", "h", "left_eye", "right_eye"}
    assert face["region"]["left_eye"][0] > face["region"]["right_eye"][0]  # the person's own left
    assert all(isinstance(face["region"][k], int) for k in "xywh")
    assert isinstance(face["age"], int)
    assert set(face["emotion"]) == {"angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"}
    assert sum(face["emotion"].values()) == pytest.approx(100)
    assert sum(face["gender"].values()) == pytest.approx(100)
    ours = mien.load(threads=1)(astronaut)[0]["gender"]
    assert (face["dominant_gender"], face["dominant_emotion"]) == (
        {"female": "Woman", "male": "Man"}[ours.label],
        "happy",
    )
    assert face["gender"][face["dominant_gender"]] == pytest.approx(100 * ours.probability, abs=0.1)


def test_arrays_are_bgr_and_lists_give_lists(astronaut, bgr) -> None:
    by_path = DeepFace.analyze(astronaut, actions="age")
    both = DeepFace.analyze([astronaut, bgr], actions="age")
    assert both == [by_path, by_path]
    assert "emotion" not in by_path[0]


def test_base64_and_files(astronaut) -> None:
    with open(astronaut, "rb") as file:
        text = "data:image/jpeg;base64," + base64.b64encode(file.read()).decode()
        file.seek(0)
        assert DeepFace.represent(text) == DeepFace.represent(astronaut) == DeepFace.represent(file)
    with pytest.raises(UsageError, match="not valid base64"):
        DeepFace.represent("data:image/jpeg;base64,???")
    with pytest.raises(PhotoError, match="opens no socket") as error:
        DeepFace.represent("https://example.org/a.jpg")
    assert isinstance(error.value, ValueError)  # as DeepFace has it
    assert error.value.code == "not_found"


def test_no_face(tmp_path) -> None:
    black = np.zeros((64, 80, 3), np.uint8)
    with pytest.raises(ValueError, match="Face could not be detected"):
        DeepFace.represent(black)
    (face,) = DeepFace.represent(black, enforce_detection=False)
    assert len(face["embedding"]) == 128
    assert face["facial_area"] == {"x": 0, "y": 0, "w": 80, "h": 64, "left_eye": None, "right_eye": None}
    assert face["face_confidence"] == 0
    assert len(DeepFace.represent("examples/astronaut.jpg", detector_backend="skip")) == 1


def test_missing_features_are_reported(astronaut) -> None:
    with pytest.raises(UsageError, match="no race head"):
        DeepFace.analyze(astronaut, actions=["race"])
    with pytest.raises(UsageError, match="no action 'mood'"):
        DeepFace.analyze(astronaut, actions=["mood"])
    with pytest.raises(UsageError, match="liveness"):
        DeepFace.verify(astronaut, astronaut, anti_spoofing=True)
    with pytest.raises(UsageError, match="distance_metric"):
        DeepFace.verify(astronaut, astronaut, distance_metric="manhattan")


def test_verify(astronaut) -> None:
    same = DeepFace.verify(
        img1_path=astronaut, img2_path=astronaut, model_name="ArcFace", detector_backend="retinaface"
    )
    members = {
        "verified",
        "confidence",
        "distance",
        "threshold",
        "model",
        "detector_backend",
        "similarity_metric",
        "facial_areas",
        "time",
    }
    assert set(same) == members
    assert same["verified"] is True
    assert same["distance"] == pytest.approx(0, abs=1e-6)
    assert set(same["facial_areas"]) == {"img1", "img2"}
    other = DeepFace.verify(astronaut, GRACE)
    assert other["verified"] is False
    assert DeepFace.verify(astronaut, GRACE, threshold=1.9)["verified"] is True
    # all metrics decide alike, since embeddings have length 1
    cosine = 1 - other["distance"]
    for metric, distance in (("euclidean", np.sqrt(2 - 2 * cosine)), ("angular", np.arccos(cosine) / np.pi)):
        found = DeepFace.verify(astronaut, GRACE, distance_metric=metric)
        assert found["distance"] == pytest.approx(distance, abs=1e-5)
        assert found["verified"] is False


def test_represent_and_verify_by_embeddings(astronaut) -> None:
    (a,), (b,) = DeepFace.represent([astronaut, GRACE])
    assert np.linalg.norm(a["embedding"]) == pytest.approx(1, abs=1e-5)
    by_numbers = DeepFace.verify(a["embedding"], b["embedding"])["distance"]
    assert by_numbers == pytest.approx(DeepFace.verify(astronaut, GRACE)["distance"], abs=1e-5)
    assert len(DeepFace.represent("examples/collage.jpg", max_faces=2)) == 2


def test_race_is_left_out_with_a_warning(astronaut, caplog) -> None:
    (face,) = DeepFace.analyze(astronaut, actions=["age", "race"])
    assert "age" in face
    assert not [k for k in face if "race" in k]
    assert "no race head" in caplog.text


def test_batches_and_arrays_of_fractions(bgr) -> None:
    batch = np.stack([bgr, bgr])
    (one,) = DeepFace.represent(bgr)
    assert DeepFace.represent(batch) == [[one], [one]]
    assert [len(faces) for faces in DeepFace.extract_faces(batch)] == [1, 1]
    assert [len(faces) for faces in DeepFace.extract_faces([bgr, bgr])] == [1, 1]
    assert DeepFace.verify(batch, bgr)["verified"] is True
    assert DeepFace.represent((bgr / 255).astype(np.float32)) == [one]


def test_confidence_and_precomputed_embeddings(astronaut) -> None:
    (a,), (b,) = DeepFace.represent([astronaut, GRACE])
    same, other = DeepFace.verify(astronaut, astronaut), DeepFace.verify(astronaut, GRACE)
    assert 51 <= same["confidence"] <= 100
    assert 0 <= other["confidence"] <= 49
    for given in (a["embedding"], tuple(a["embedding"]), np.array(a["embedding"])):
        found = DeepFace.verify(given, a["embedding"])
        assert found["verified"] is True
        nowhere = {"x": None, "y": None, "w": None, "h": None, "left_eye": None, "right_eye": None}
        assert found["facial_areas"] == {"img1": nowhere, "img2": nowhere}
    assert DeepFace.verify(a["embedding"], b["embedding"])["verified"] is False
    assert DeepFace.verify(astronaut, a["embedding"])["distance"] == pytest.approx(0, abs=1e-6)


def test_find(tmp_path, astronaut) -> None:
    Image.open(astronaut).convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        tmp_path / "ü mirrored.png"
    )
    Image.open(GRACE).save(tmp_path / "grace.png")
    (near,) = DeepFace.find(astronaut, str(tmp_path), batched=True)
    assert [r["identity"] for r in near] == [str(tmp_path / "ü mirrored.png")]
    assert {"target_x", "target_w", "source_y", "source_h", "threshold", "distance"} <= set(near[0])
    assert near[0]["distance"] <= near[0]["threshold"]
    (both,) = DeepFace.find(astronaut, str(tmp_path), batched=True, threshold=2)
    assert len(both) == 2
    assert both[0]["distance"] < both[1]["distance"]
    assert len(find_photos(tmp_path)) == len(list(tmp_path.iterdir())) == 2  # no cache is left in the folder


def test_find_without_pandas_names_it(astronaut, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="batched=True"):
        DeepFace.find(astronaut, "examples")


def test_extract_faces(astronaut) -> None:
    (face,) = DeepFace.extract_faces(astronaut)
    assert face["face"].shape == (128, 128, 3)
    assert 0 <= face["face"].min() < face["face"].max() <= 1
    assert set(face) == {"face", "facial_area", "confidence"}
    (bgr,) = DeepFace.extract_faces(astronaut, color_face="bgr", normalize_face=False)
    assert np.array_equal(bgr["face"][..., ::-1], np.round(255 * face["face"]).astype(np.uint8))


def test_the_class_of_that_name_too() -> None:
    from mien.compat.deepface import DeepFace as Class

    assert (Class.analyze, Class.verify, Class.find) == (DeepFace.analyze, DeepFace.verify, DeepFace.find)


# InsightFace


def test_get(app, bgr, astronaut) -> None:
    (face,) = app.get(bgr)
    ours = mien.load(threads=1)(astronaut)[0]
    assert face.bbox.shape == (4,)
    assert np.allclose(face.bbox, ours.box, atol=0.01)
    assert np.allclose(face["kps"], ours.points, atol=0.01)
    assert face["bbox"] is face.bbox
    assert face.det_score == pytest.approx(ours.score, abs=1e-4)
    number, letter = {"female": (0, "F"), "male": (1, "M")}[ours["gender"].label]
    assert (face.gender, face.sex, face["gender"]) == (number, letter, number)
    assert face.age == round(ours["age"].years)
    assert face.pose == pytest.approx([ours["pose"].pitch, ours["pose"].yaw, ours["pose"].roll], abs=0.1)
    assert face.landmark_2d_68.shape == (68, 2)
    assert face.embedding.shape == face.normed_embedding.shape == (128,)
    assert face.embedding_norm == pytest.approx(1, abs=1e-5)


def test_what_a_face_has_not(app, bgr) -> None:
    (face,) = app.get(bgr)
    assert face.landmark_3d_68 is None
    with pytest.raises(AttributeError, match="no 'bbx'; it has: bbox, kps"):
        face.bbx  # noqa: B018
    face.label = "Eileen"
    assert face["label"] == "Eileen"


def test_modules_choose_and_many_faces_are_cut(astronaut) -> None:
    app = insightface.app.FaceAnalysis(allowed_modules=["detection"], threads=1)
    app.prepare(ctx_id=-1, det_thresh=0.7)
    picture = np.asarray(Image.open("examples/collage.jpg").convert("RGB"))[..., ::-1]
    faces = app.get(picture, max_num=3)
    assert len(faces) == 3
    areas = [(f.bbox[2] - f.bbox[0]) * (f.bbox[3] - f.bbox[1]) for f in faces]
    assert areas == sorted(areas, reverse=True)
    assert faces[0].embedding is None
    assert faces[0].age is None
    assert faces[0].sex is None
    assert min(f.det_score for f in app.get(picture)) >= 0.7
    with pytest.raises(UsageError, match="no module 'liveness'"):
        FaceAnalysis(allowed_modules=["liveness"])


def test_draw_on(app, bgr) -> None:
    before = bgr.copy()
    drawn = app.draw_on(bgr, app.get(bgr))
    assert drawn.shape == bgr.shape
    assert np.array_equal(bgr, before)
    assert (drawn != bgr).any(axis=2).mean() > 0.005


# Bridges


def stub(monkeypatch, name: str, **members) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_to_supervision(reader, monkeypatch) -> None:
    class Detections:
        def __init__(self, xyxy, confidence, data):
            self.xyxy, self.confidence, self.data = xyxy, confidence, data

        @classmethod
        def empty(cls):
            return "empty"

    stub(monkeypatch, "supervision", Detections=Detections)
    found = to_supervision(reader("examples/collage.jpg"))
    assert (found.xyxy.shape, found.xyxy.dtype, found.confidence.shape) == ((11, 4), np.float32, (11,))
    shapes = {k: v.shape for k, v in found.data.items()}
    assert shapes["points5"] == (11, 5, 2)
    assert shapes["landmarks"] == (11, 68, 2)
    assert shapes["pose"] == (11, 3)
    assert shapes["age"] == shapes["gender"] == shapes["expression"] == (11,)
    assert "identity" not in shapes
    assert to_supervision(reader(np.zeros((64, 64, 3), np.uint8))) == "empty"
    same = reader("examples/collage.jpg").to_supervision()
    np.testing.assert_array_equal(same.xyxy, found.xyxy)
    assert same.data.keys() == found.data.keys()


def test_bridges_without_the_other_side_name_it(reader, astronaut, monkeypatch) -> None:
    reading = reader(astronaut)
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UsageError, match="pip install pandas"):
        to_dataframe(reading)
    with pytest.raises(UsageError, match="pip install supervision"):
        to_supervision(reading)
    with pytest.raises(UsageError, match="pip install pandas"):
        reading.to_dataframe()
    with pytest.raises(UsageError, match="pip install supervision"):
        reading.to_supervision()


def test_to_dataframe_gives_rows_and_columns(reader, astronaut, monkeypatch) -> None:
    """With a stand-in that keeps what it is given; the real one is tested below where it is installed."""

    class Frame(list):
        def astype(self, kinds):
            return self

    stub(monkeypatch, "pandas", DataFrame=Frame)
    table = to_dataframe([reader(astronaut), reader(np.zeros((64, 64, 3), np.uint8))])
    assert [(r["path"], r["face"]) for r in table] == [(astronaut, 1), (None, None)]
    assert table[0]["expression"] == "happiness"
    assert len(table[0]["landmarks"]) == 136
    assert table[0].keys() == table[1].keys()
    (row,) = reader(astronaut).to_dataframe()
    assert {k: v for k, v in row.items() if not k.startswith("ms_")} == {
        k: v for k, v in table[0].items() if not k.startswith("ms_")
    }


def test_a_real_dataframe(reader, astronaut) -> None:
    pandas = pytest.importorskip("pandas")
    table = to_dataframe(reader(astronaut))
    assert isinstance(table, pandas.DataFrame)
    assert table.loc[0, "faces"] == 1
