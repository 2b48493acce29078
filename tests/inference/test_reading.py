"""A reading and its faces as Python objects: equality, slices, short texts, notebooks, drawing."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
from PIL import Image, ImageShow

import mien
from mien.errors import NotAPicture, UsageError
from mien.inference.reading import Reading
from mien.io.writers import columns, rows
from mien.tasks.age import Age
from mien.tasks.landmarks import Landmarks
from mien.video.tracker import Tracked

COLLAGE = "examples/collage.jpg"


@pytest.fixture(scope="module")
def collage(reader):
    return reader(COLLAGE)


def test_a_face_is_found_in_its_reading(collage):
    for place, face in enumerate(collage):
        assert face in collage
        assert collage.index(face) == place
        assert collage.count(face) == 1
    assert len(set(collage)) == len(collage)


def test_faces_detections_and_crops_are_equal_only_to_themselves(reader, collage):
    again = reader(COLLAGE)
    assert collage[0] == collage[0]
    assert collage[0] != again[0]
    assert again[0] not in collage
    for one, other in ((collage[0].crop, again[0].crop), _detections(collage, again)):
        assert one == one and one != other and hash(one) != hash(other)


def _detections(*readings):
    return [mien.Detection(r[0].box, r[0].score, r[0].points) for r in readings]


def test_every_answer_can_be_compared_and_hashed(reader, collage):
    identity = mien.load(tasks=["identity"], threads=1)("examples/astronaut.jpg")[0]["identity"]
    other = reader(COLLAGE)[0]
    for name, answer in {**collage[0].answers, "identity": identity}.items():
        assert isinstance(hash(answer), int), name
        assert answer == answer and isinstance(answer == other.answers.get(name), bool), name
    assert collage[0]["age"] == other["age"], "plain numbers are equal by value"
    assert collage[0]["expression"] == other["expression"]
    assert hash(collage[0]["expression"]) == hash(other["expression"])


def test_tracked_faces_are_equal_only_to_themselves():
    one, other = (
        Tracked(np.zeros(4, np.float32), 0.5, np.zeros((5, 2), np.float32), track=3) for _ in range(2)
    )
    assert one == one and one != other and len({one, other}) == 2
    assert repr(one) == "Tracked(track=3, box=[0, 0, 0, 0], score=0.50)"


def test_readings_are_equal_only_to_themselves_but_lists_by_content(reader, collage):
    gray = np.full((32, 32, 3), 128, np.uint8)
    first, second = reader([gray, gray])
    assert first == [] and first != second, "two photos without a face are two photos"
    assert [first, second].index(second) == 1
    assert len({first, second}) == 2
    assert collage == list(collage)


def test_a_slice_is_a_reading_of_the_same_photo(collage):
    largest = collage[:3]
    assert isinstance(largest, Reading)
    assert list(largest) == list(collage)[:3]
    assert (largest.path, largest.photo, largest.timing_ms) == (COLLAGE, collage.photo, collage.timing_ms)
    assert largest.to_dict()["faces"] == collage.to_dict()["faces"][:3]
    assert isinstance(collage.copy(), Reading) and list(collage.copy()) == list(collage)
    assert isinstance(collage[-1], mien.Face)


def test_texts_of_readings_and_faces_are_short(reader, collage):
    (face,) = reader("examples/astronaut.jpg")
    assert len(repr(face)) < 200
    assert f"age={face['age'].years:.0f}" in repr(face) and face["gender"].label in repr(face)
    assert "landmarks" in repr(face) and "\n" not in repr(face)
    assert len(repr(collage)) < 800
    assert repr(collage).startswith(
        f"<Reading '{COLLAGE}' {collage.photo.width}x{collage.photo.height}, 11 faces"
    )
    assert "and 8 more" in repr(collage)
    (bad,) = reader([b"no picture"])
    assert repr(bad) == "<Reading: not read (not_a_picture)>"


def test_notebooks_show_the_drawn_photo_and_a_table(reader, collage):
    with Image.open(io.BytesIO(collage._repr_png_())) as image:
        assert max(image.size) <= 800 and image.format == "PNG"
    page = collage._repr_html_()
    assert page.count("<tr>") == 12 and "data:image/png;base64," in page
    with Image.open(io.BytesIO(collage[0]._repr_png_())) as image:
        assert image.size == collage[0].crop.pixels.shape[1::-1]
    (bad,) = reader([b"<no picture>"])
    assert bad._repr_png_() is None
    assert "&lt;no" in bad._repr_html_() and "<no" not in bad._repr_html_()


def test_a_reading_draws_itself(collage):
    drawn = collage.draw()
    assert np.array_equal(drawn, mien.annotate(collage.photo.pixels, collage))
    assert not np.array_equal(drawn, collage.draw(overlay="none")), "options of annotate are passed on"


def test_a_reading_that_has_no_pixels_says_why_it_is_not_drawn(reader):
    (bad,) = reader([b"no picture"])
    with pytest.raises(NotAPicture, match="not a picture"):
        bad.draw()
    with pytest.raises(UsageError, match="dropped"):
        Reading("a.jpg").draw()


def test_show_opens_a_viewer_or_says_that_there_is_none(collage, monkeypatch):
    shown = []
    monkeypatch.setattr(ImageShow, "show", lambda image, title: shown.append((image.size, title)) or True)
    collage.show()
    assert shown == [((collage.photo.width, collage.photo.height), COLLAGE)]
    monkeypatch.setattr(ImageShow, "show", lambda image, title: False)
    with pytest.raises(UsageError, match="viewer"):
        collage.show()


def test_readings_are_copied(collage):
    for again in (copy.copy(collage), copy.deepcopy(collage)):
        assert isinstance(again, Reading) and len(again) == len(collage)
        assert again.to_dict() == collage.to_dict()
        assert np.array_equal(again.photo.pixels, collage.photo.pixels)


def test_five_points_are_the_detectors_for_any_tasks():
    """As docs/schema.md says; the network's have a field of their own."""
    found, read = np.zeros((5, 2), np.float32), np.full((5, 2), 3, np.float32)
    box, age = np.zeros(4, np.float32), Age(30.0, 25.0, 35.0)
    without = mien.Face(box, 0.9, found, {"age": age})
    asked = mien.Face(box, 0.9, found, {"age": age, "points5": Landmarks(read, "mtfl5")})
    assert without.to_dict()["points5"] == asked.to_dict()["points5"] == found.tolist()
    assert "points5_network" not in without.to_dict()
    assert asked.to_dict()["points5_network"] == read.tolist() == asked["points5"].points.tolist()
    assert list(asked.to_dict()) == ["box", "score", "points5", "age", "points5_network"]
    assert np.array_equal(asked.points, without.points)
    [line] = rows({"path": "a.jpg", "faces": [asked.to_dict()]}, columns(["points5", "age"]))
    assert (line["points5"], line["points5_network"]) == ([0.0] * 10, [3.0] * 10)
