"""Labels of eyes, gaze, occlusion and quality, and a head that is trained on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mien.tasks import EYES
from recipes import face_state, face_state_labels
from recipes.face_state import Faces, encoded, eye_label, gathered, of_faces, of_occluded, of_photos, train


def faces_file(**changes) -> dict[str, np.ndarray]:
    """Two faces: open eyes, and closed ones."""
    found = {
        "crop": np.zeros((2, 128, 128, 3), np.uint8), "set": np.array(["fairface", "fairface-aside"]),
        "eyes": np.array([[0.9, 0.8], [0.1, 0.2]]), "lids": np.array([[0.3, 0.3], [0.2, 0.4]]),
        "gaze": np.array([[5.0, -3.0], [0.0, 0.0]]), "gaze_gap": np.array([3.0, 3.0]),
        "yaw": np.array([0.0, 5.0]),
        "pitch": np.zeros(2), "glasses": np.zeros(2), "dark": np.full(2, 0.7),
    }  # fmt: skip
    return found | {k: np.array(v) for k, v in changes.items()}


def test_an_eye_has_a_label_where_both_sources_agree() -> None:
    assert eye_label(0.9, 0.3, 0, False) == 1
    assert eye_label(0.1, 0.2, 0, False) == 0
    assert eye_label(0.9, 0.1, 0, False) is None  # the lids touch
    assert eye_label(0.1, 0.4, 0, False) is None  # the lids are apart
    assert eye_label(0.5, 0.3, 0, False) is None  # the teacher does not know
    assert eye_label(0.9, 0.3, 50, False) is None and eye_label(0.9, 0.3, 0, True) is None


def test_real_faces_have_labels_on_the_subjects_side() -> None:
    made = of_faces(faces_file())
    assert made.aside.tolist() == [False, True]
    assert made.labels[0]["eyes"] == {"right": 1.0, "left": 1.0} and made.labels[0]["gaze"] == (5.0, -3.0)
    assert made.labels[1]["eyes"] == {"right": 0.0, "left": None} and "gaze" not in made.labels[1]
    sun = of_faces(faces_file(glasses=[0.9, 0.9], dark=[0.3, 0.5]))
    assert [x["occlusion"]["sunglasses"] for x in sun.labels] == [1.0, None]


def test_drawn_occluders_hide_the_labels_below_them() -> None:
    real = of_faces(faces_file())
    file = {
        "crop": np.zeros((3, 128, 128, 3), np.uint8), "source": np.array([0, 0, -1]),
        "aside": np.array([0, 0, 1]),
        "kind": np.array(["mask", "sunglasses", "mask"]),
        "shares": np.array([[0, 0, 0.8, 1], [1, 0.05, 0.1, 0], [0, 0, 0.7, 1]]),
    }  # fmt: skip
    mask, glasses, unknown = of_occluded(file, real).labels
    assert mask["eyes"] == {"right": 1.0, "left": 1.0} and "gaze" in mask
    assert mask["occlusion"]["mask"] == 1 and mask["occlusion"]["sunglasses"] == 0
    assert glasses["eyes"] == {"right": None, "left": 1.0} and "gaze" not in glasses
    assert glasses["occlusion"]["right_eye"] == 1 and glasses["occlusion"]["sunglasses"] == 1
    assert unknown["eyes"] == {"left": None, "right": None} and unknown["occlusion"]["mouth"] == 1
    of_occluded({**file, "source": np.array([-1, -1, -1])}, None)


def test_a_mask_that_is_worn_incorrectly_is_a_mask() -> None:
    labels = np.array(["with_mask", "without_mask", "mask_weared_incorrect"])
    file = {
        "crop": np.zeros((3, 128, 128, 3), np.uint8), "label": labels, "width": np.full(3, 30.0),
        "found": np.ones(3, bool), "name": np.array(["a", "a", "b"]), "aside": np.zeros(3, bool),
    }  # fmt: skip
    made = of_photos(file)
    assert [x["occlusion"]["mask"] for x in made.labels] == [1, 0, 1]
    assert made.group[0] == made.group[1] != made.group[2]


def test_without_labels_the_command_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    with pytest.raises(face_state.MissingData, match="face_state_labels"):
        gathered()


@pytest.mark.heavy
def test_a_head_learns_what_its_features_say(rng, monkeypatch) -> None:
    """The sign of one channel at the left eye decides; features have another scale than weights."""
    monkeypatch.setattr(face_state, "STEPS", 300)
    n = 400
    maps = [rng.standard_normal((n, c, s, s)).astype(np.float16) for c, s in ((40, 16), (112, 8), (320, 4))]
    truth = rng.random((n, 2)) < 0.5
    maps[0][:, 0, 6:10, 4:8] = np.where(truth[:, :1, None, None].reshape(n, 1, 1), 1, -1) * 1.0
    maps[0][:, 0, 6:10, 9:13] = np.where(truth[:, 1:, None, None].reshape(n, 1, 1), 1, -1) * 1.0
    maps = [30 * m for m in maps]
    labels = [{"eyes": {"right": float(a), "left": float(b)}} for a, b in truth]
    aside = np.arange(n) >= 300
    faces = Faces(np.zeros((n, 1)), labels, aside, np.arange(n), [{"from": "faces"}] * n)
    head = train(EYES, faces, maps, np.zeros(n, bool), 1)
    with torch.inference_mode():
        raw = head([torch.from_numpy(m.astype(np.float32)) for m in maps]).numpy()
    _, mask = encoded(EYES, faces, np.zeros(n, bool))
    found = face_state.report(EYES, faces, raw, mask)["faces"]
    assert found["n"] == 100 and found["balanced_accuracy"] > 95


def test_mirrored_crops_have_mirrored_targets() -> None:
    faces = Faces(np.zeros((2, 1)), [{"eyes": {"left": 1.0}}] * 2, np.zeros(2, bool), np.arange(2), [{}] * 2)
    target, mask = encoded(EYES, faces, np.array([False, True]))
    assert target.tolist() == [[0, 1], [1, 0]] and mask.tolist() == [[False, True], [True, False]]


def test_the_lowest_scores_are_chosen_and_random_others() -> None:
    scores = np.column_stack([np.linspace(0, 1, 50)] * 2)
    scores[10] = np.nan
    found = face_state_labels.chosen(scores, 5, 10, 0)
    assert set(range(5)) <= set(found) and len(set(found)) == 15 and 10 not in found
