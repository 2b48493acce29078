"""What a DeepFace script passes besides paths, and the errors and results that it expects."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mien
from mien.compat import deepface as DeepFace
from mien.compat.deepface import faces, recognition
from mien.errors import PhotoError, UsageError

GRACE = "examples/grace_hopper.jpg"
BLACK = np.zeros((64, 80, 3))


@pytest.fixture(scope="module", autouse=True)
def _one_reader():
    """Readers with all predictions and one thread, for all the calls of this module."""
    one = mien.load(threads=1, tasks=["age", "gender", "expression", "identity"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faces, "_made", lambda tasks: mien.Reader(one.detector, one.model, tasks=list(tasks)))
        yield


@pytest.fixture(scope="module")
def bgr(astronaut):
    return np.ascontiguousarray(np.asarray(Image.open(astronaut).convert("RGB"))[..., ::-1])


# The order of the parameters as DeepFace documents it: calls by position keep their meaning.
SIGNATURES = {
    "verify": "img1_path img2_path model_name detector_backend distance_metric enforce_detection align"
    " expand_percentage normalization silent threshold anti_spoofing",
    "analyze": "img_path actions enforce_detection detector_backend align expand_percentage silent"
    " anti_spoofing",
    "find": "img_path db_path model_name distance_metric enforce_detection detector_backend align"
    " similarity_search k expand_percentage threshold normalization silent refresh_database anti_spoofing"
    " batched credentials",
    "represent": "img_path model_name enforce_detection detector_backend align expand_percentage"
    " normalization anti_spoofing max_faces l2_normalize minmax_normalize return_face cryptosystem",
    "extract_faces": "img_path detector_backend enforce_detection align expand_percentage grayscale"
    " color_face normalize_face anti_spoofing",
    "build_model": "model_name task",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_parameters_have_the_documented_names_and_order(name) -> None:
    assert list(inspect.signature(getattr(DeepFace, name)).parameters) == SIGNATURES[name].split()


def test_the_readme_runs(astronaut, tmp_path) -> None:
    """The calls of the published README, as they are written there, on photos that are here."""
    for name in ("img1.jpg", "img2.jpg", "img4.jpg", "img.jpg"):
        (tmp_path / name).write_bytes(Path(astronaut).read_bytes())
    db = tmp_path / "my_db"
    (db / "Alice").mkdir(parents=True)
    (db / "Alice" / "Alice1.jpg").write_bytes(Path(astronaut).read_bytes())
    (db / "Bob1.jpg").write_bytes(Path(GRACE).read_bytes())
    img = str(tmp_path / "img.jpg")
    result = DeepFace.verify(img1_path=img, img2_path=str(tmp_path / "img2.jpg"))
    assert result["verified"] is True
    objs = DeepFace.analyze(img_path=img, actions=["age", "gender", "race", "emotion"])
    assert {"age", "gender", "dominant_gender", "emotion", "dominant_emotion"} <= set(objs[0])
    assert len(DeepFace.represent(img_path=img, model_name="Facenet")[0]["embedding"]) == 128
    for backend in ("opencv", "retinaface", "yolov8n"):
        obj = DeepFace.verify(img1_path=img, img2_path=img, detector_backend=backend, align=True)
        assert (obj["detector_backend"], obj["model"]) == (backend, "mien")
        assert DeepFace.analyze(img_path=img, detector_backend=backend, align=True)
        assert DeepFace.extract_faces(img_path=img, detector_backend=backend, align=True)
    for metric in ("cosine", "euclidean", "euclidean_l2", "angular"):
        assert DeepFace.verify(img1_path=img, img2_path=img, distance_metric=metric)["verified"] is True
        (rows,) = DeepFace.find(img_path=img, db_path=str(db), distance_metric=metric, batched=True)
        assert [Path(r["identity"]).name for r in rows] == ["Alice1.jpg"]


def test_find_gives_data_frames(astronaut, tmp_path) -> None:
    pandas = pytest.importorskip("pandas")
    (tmp_path / "a.jpg").write_bytes(Path(astronaut).read_bytes())
    (table,) = DeepFace.find(astronaut, tmp_path, silent=True)
    assert isinstance(table, pandas.DataFrame)
    assert list(table["identity"]) == [str(tmp_path / "a.jpg")]
    assert 51 <= table["confidence"].iloc[0] <= 100


@pytest.mark.parametrize(
    "call",
    [
        lambda: DeepFace.stream(db_path="database"),
        lambda: DeepFace.register(img="img1.jpg"),
        lambda: DeepFace.search(img="target.jpg", search_method="ann"),
        lambda: DeepFace.build_index(model_name="Facenet"),
        lambda: DeepFace.detectFace("img1.jpg"),
        lambda: DeepFace.DeepFace.stream("database"),
    ],
)
def test_functions_that_are_absent_say_what_to_use(call) -> None:
    with pytest.raises(UsageError, match=r"; use |: use ") as error:
        call()
    named = ("mien.Gallery", "mien.read_video", "extract_faces")
    assert any(name in str(error.value) for name in named)
    for name in named[:2]:
        if name in str(error.value):
            assert hasattr(mien, name.removeprefix("mien."))


def test_build_model_loads_ahead() -> None:
    assert DeepFace.build_model("Facenet").requested == ("identity",)
    assert DeepFace.build_model("Age", task="facial_attribute").requested == ("age",)
    assert DeepFace.build_model("retinaface", task="face_detector").requested == ()
    for name, task in (("Race", "facial_attribute"), ("Fasnet", "spoofing")):
        with pytest.raises(UsageError, match=f"no model '{name}' for the task '{task}'"):
            DeepFace.build_model(name, task)


def test_kinds_of_pictures(astronaut, bgr) -> None:
    (same,) = DeepFace.represent(bgr)
    fractions = bgr / 255
    assert DeepFace.represent(fractions) == DeepFace.represent(fractions.astype(np.float32)) == [same]
    assert DeepFace.represent(bgr.astype(np.float64)) == DeepFace.represent(bgr.astype(np.int64)) == [same]
    assert DeepFace.represent(np.dstack([bgr, np.full(bgr.shape[:2], 255, np.uint8)])) == [same]
    assert DeepFace.represent(Path(astronaut)) == DeepFace.represent(Path(astronaut).read_bytes())
    gray = bgr[..., 1]
    assert len(DeepFace.analyze(gray)) == len(DeepFace.analyze(gray / 255)) == 1
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(bgr).permute(2, 0, 1)
    assert DeepFace.represent(tensor) == DeepFace.represent(tensor / 255) == [same]
    assert DeepFace.represent(torch.stack([tensor, tensor])) == [[same], [same]]


@pytest.mark.parametrize(
    "wrong", [np.full((64, 64, 3), -1.0), np.full((64, 64, 3), np.nan), np.zeros((0, 4, 3))]
)
def test_arrays_that_are_no_pictures_are_value_errors(wrong) -> None:
    with pytest.raises(ValueError, match="a photo must be"):
        DeepFace.represent(wrong)


def test_batches_give_lists_of_lists(bgr) -> None:
    for batch in (np.stack([bgr, bgr]), [bgr, bgr], np.stack([bgr, bgr]) / 255):
        for function in (DeepFace.represent, DeepFace.extract_faces, DeepFace.analyze):
            assert [len(found) for found in function(batch)] == [1, 1]
        assert DeepFace.verify(batch, bgr)["verified"] is True
    gray = DeepFace.extract_faces([bgr], color_face="gray", normalize_face=False)[0][0]["face"]
    assert (gray.ndim, gray.dtype) == (2, np.uint8)
    assert len(DeepFace.represent([bgr], max_faces=0)[0]) == 0
    with pytest.raises(UsageError, match="color_face is rgb, bgr or gray, not 'hsv'"):
        DeepFace.extract_faces(bgr, color_face="hsv")


def test_an_extracted_face_embeds_as_its_photo_does(astronaut) -> None:
    (whole,) = DeepFace.represent(astronaut)
    (face,) = DeepFace.extract_faces(astronaut, color_face="bgr")
    (again,) = DeepFace.represent(face["face"], detector_backend="skip")
    assert again["embedding"] == pytest.approx(whole["embedding"], abs=1e-6)


def test_the_picture_itself_where_no_face_is_enforced() -> None:
    (face,) = DeepFace.extract_faces(BLACK, enforce_detection=False)
    assert face["face"].shape == BLACK.shape
    assert face["confidence"] == 0
    for call in (DeepFace.represent, DeepFace.extract_faces, DeepFace.analyze):
        with pytest.raises(ValueError, match="Face could not be detected"):
            call(BLACK)


def test_options_of_represent(astronaut) -> None:
    (plain,) = DeepFace.represent(astronaut)
    (mapped,) = DeepFace.represent(astronaut, minmax_normalize=True, l2_normalize=True)
    assert np.allclose(mapped["embedding"], (1 + np.array(plain["embedding"])) / 2)
    (shown,) = DeepFace.represent(astronaut, return_face=True)
    (face,) = DeepFace.extract_faces(astronaut, color_face="bgr")
    assert np.array_equal(shown["face"], face["face"])
    with pytest.raises(UsageError, match=r"cryptosystem\.encrypt"):
        DeepFace.represent(astronaut, cryptosystem=object())


def test_what_was_asked_for_is_repeated(astronaut) -> None:
    found = DeepFace.verify(astronaut, astronaut, model_name="ArcFace", detector_backend="mtcnn", silent=True)
    assert (found["model"], found["detector_backend"]) == ("ArcFace", "mtcnn")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["a", "b"], "When passing img1_path as a list, ensure that all its items are of type float"),
        ([[0.1, 0.2], [0.3, 0.4]], "items are of type float, .* a list of lists: pass embeddings one by one"),
        ([[0.5] * 128], "items are of type float"),
        ([], "items are of type float, .* an empty list"),
        ([0.5, None], "items are of type float"),
        (
            [1, 2, 3],
            "embeddings of Facenet should have 128 dimensions, but 1-th image has 3 dimensions input",
        ),
        (np.zeros(4096), "embeddings of Facenet should have 128 dimensions, but 1-th image has 4096"),
        ([0.0] * 128, "not finite, or only 0"),
        ([float("nan")] * 128, "not finite, or only 0"),
    ],
)
def test_lists_that_are_no_embedding(wrong, message, astronaut) -> None:
    with pytest.raises(ValueError, match=message):
        DeepFace.verify(wrong, astronaut, model_name="Facenet")
    with pytest.raises(ValueError, match=message.replace("img1", "img2").replace("1-th", "2-th")):
        DeepFace.verify(astronaut, wrong, model_name="Facenet")


def test_find_options(astronaut, tmp_path) -> None:
    (tmp_path / "a.jpg").write_bytes(Path(astronaut).read_bytes())
    (tmp_path / "b.jpg").write_bytes(Path(GRACE).read_bytes())
    (near,) = DeepFace.find(astronaut, tmp_path, batched=True)
    assert [Path(r["identity"]).name for r in near] == ["a.jpg"]
    assert tuple(sorted(near[0])) == tuple(sorted(recognition._COLUMNS))
    (all_,) = DeepFace.find(astronaut, tmp_path, batched=True, similarity_search=True)
    assert [Path(r["identity"]).name for r in all_] == ["a.jpg", "b.jpg"]
    assert len({r["hash"] for r in all_}) == 2
    (first,) = DeepFace.find(astronaut, tmp_path, batched=True, similarity_search=True, k=1)
    assert first == all_[:1]
    with pytest.raises(ValueError, match="'no_such_folder' is not a folder"):
        DeepFace.find(astronaut, "no_such_folder", batched=True)


def test_pictures_that_cannot_be_read_are_value_errors_with_mien_code(tmp_path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    for given, code in (
        ("absent.jpg", "not_found"),
        (tmp_path / "text.jpg", "not_a_picture"),
        (b"", "empty_file"),
    ):
        with pytest.raises(ValueError, match=r".") as error:
            DeepFace.represent(given)
        assert error.value.code == code
        assert isinstance(error.value.__cause__, PhotoError)
