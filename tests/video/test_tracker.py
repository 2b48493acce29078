"""Tracks: stable numbers, steady points, means computed by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from mien.data import synthetic
from mien.errors import UsageError
from mien.tasks import POSE
from mien.tasks.age import Age
from mien.tasks.attributes import Attributes, Gender
from mien.tasks.choice import Choice
from mien.tasks.eyes import Eyes
from mien.tasks.identity import Identity
from mien.tasks.landmarks import Landmarks
from mien.tasks.pose import Pose
from mien.tasks.quality import Quality
from mien.types import Crop, Face
from mien.video.assignment import assign
from mien.video.averages import TrackAverages
from mien.video.blinks import Blinks
from mien.video.one_euro import OneEuro
from mien.video.tracker import Tracker

WHO = np.eye(4, dtype=np.float32)  # four people who do not resemble each other


def face(
    x: float, y: float, side: float = 40, *, who: int | None = None, score: float = 0.9, **answers
) -> Face:
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], np.float32)
    points = np.array(
        [(x - 9, y - 5), (x + 9, y - 5), (x, y + 3), (x - 7, y + 10), (x + 7, y + 10)], np.float32
    )
    if who is not None:
        answers["identity"] = Identity(WHO[who])
    return Face(box, score, points, answers)


def numbers(
    tracker: Tracker, faces: list[Face], frame: int, *, fps: float = 10, cut: bool = False
) -> list[int]:
    return [f.track for f in tracker.update(faces, frame, frame / fps, cut=cut)]


# --- Assignment


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 4), (2, 5), (5, 3)])
def test_assignment_is_the_cheapest(shape, rng):
    for _ in range(20):
        cost = rng.integers(0, 20, shape).astype(float)
        pairs = assign(cost)
        assert len(pairs) == min(shape)
        assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == min(shape)
        c = cost if shape[0] <= shape[1] else cost.T
        best = min(sum(c[i, j] for i, j in enumerate(p)) for p in permutations(range(c.shape[1]), len(c)))
        assert sum(cost[pair] for pair in pairs) == best


def test_what_may_not_be_paired_is_not_and_as_many_as_can_be_are():
    inf = np.inf
    assert assign([[1, inf], [0, 100]]) == [
        (0, 0),
        (1, 1),
    ]  # 1 -> 0 alone would be cheaper, but leaves 0 without
    assert assign([[inf, inf], [inf, 3]]) == [(1, 1)]
    assert assign([[inf]]) == []
    assert assign([[], []]) == []
    assert assign([]) == []


def test_the_cheapest_total_not_the_cheapest_first():
    assert assign([[0.0, 0.1], [0.1, 0.9]]) == [(0, 1), (1, 0)]  # greedy takes (0, 0) and pays 0.9


# --- The 1-Euro filter


def test_a_still_point_jitters_less(rng):
    seen = 100 + rng.normal(0, 1.0, (200, 5, 2))  # 1 px of noise on a face 100 px wide
    smooth = OneEuro()
    out = np.array([smooth(p, i / 25, 100) for i, p in enumerate(seen)])
    assert out[50:].std(0).mean() < 0.55 * seen[50:].std(0).mean()
    assert np.abs(out[50:].mean(0) - 100).max() < 0.4


def test_a_moving_point_is_followed(rng):
    places = 2.0 * 100 * np.arange(100) / 25  # two faces' widths a second
    smooth = OneEuro()
    out = np.array([smooth([[x, 0.0]], i / 25, 100)[0, 0] for i, x in enumerate(places)])
    lag = places - out
    assert 0 <= lag[50:].max() < 2.5  # of 8 px that it moves from frame to frame
    slow = OneEuro(beta=0.0)
    assert (
        max(places - np.array([slow([[x, 0.0]], i / 25, 100)[0, 0] for i, x in enumerate(places)])) > 15
    )  # a plain low-pass


def test_the_first_step_by_hand():
    smooth = OneEuro(cutoff=1.0, beta=2.0, speed_cutoff=1.0)
    assert smooth([[0.0, 0.0]], 0.0)[0].tolist() == [0.0, 0.0]
    turn = 2 * np.pi * 0.1
    speed = turn / (turn + 1) * (3.0 / 0.1)
    turn = 2 * np.pi * (1 + 2 * speed) * 0.1
    assert smooth([[3.0, 0.0]], 0.1)[0, 0] == pytest.approx(3 * turn / (turn + 1))


def test_a_far_face_is_smoothed_as_a_near_one(rng):
    noise = rng.normal(0, 1, (30, 3, 2))
    near, far = OneEuro(), OneEuro()
    for i, n in enumerate(noise):
        a, b = near(10 * n, i / 25, 1000), far(n, i / 25, 100)
    assert np.allclose(a, 10 * b)


# --- Who is who


def test_two_that_cross_keep_their_numbers():
    tracker = Tracker()
    for i in range(40):
        left, right = face(20 + 8 * i, 60), face(340 - 8 * i, 120)
        if i % 2:  # the order in which they are found says nothing
            assert numbers(tracker, [right, left], i) == [2, 1]
        else:
            assert numbers(tracker, [left, right], i) == [1, 2]


def test_crossing_faces_are_separated_by_their_motion():
    tracker = Tracker()
    for i in range(30):
        a, b = face(20 + 10 * i, 80), face(315 - 10 * i, 84)
        assert numbers(tracker, [a, b], i) == [1, 2], i


def test_one_missed_for_less_than_the_gap_goes_on_where_it_was_going():
    tracker = Tracker()
    for i in range(10):
        numbers(tracker, [face(50 + 10 * i, 80)], i)
    for i in range(10, 14):
        assert numbers(tracker, [], i) == []
    assert numbers(tracker, [face(190, 80)], 14) == [
        1
    ]  # 50 px on, more than its side: only the prediction reaches it
    assert tracker.summaries()[0].frames == 11


def test_without_identity_one_that_returns_after_the_gap_is_new():
    tracker = Tracker(gap=0.5)
    assert numbers(tracker, [face(50, 80)], 0) == [1]
    for i in range(1, 9):
        numbers(tracker, [], i)
    assert numbers(tracker, [face(50, 80)], 9) == [2]


def test_with_identity_one_that_returns_elsewhere_gets_its_number_back():
    tracker = Tracker(gap=0.5)
    assert numbers(tracker, [face(50, 80, who=0), face(200, 80, who=1)], 0) == [1, 2]
    for i in range(1, 20):
        assert numbers(tracker, [face(200, 80, who=1)], i) == [2]
    assert numbers(tracker, [face(200, 80, who=1), face(300, 30, who=0), face(90, 90, who=2)], 20) == [
        2,
        1,
        3,
    ]
    first = tracker.summaries()[0]
    assert (first.first, first.last, first.frames) == (0.0, 2.0, 2)
    assert first.duration == 2.0


def test_with_identity_another_person_in_the_same_place_is_another_track():
    tracker = Tracker()
    assert numbers(tracker, [face(50, 80, who=0)], 0) == [1]
    assert numbers(tracker, [face(50, 80, who=1)], 1) == [2]
    assert numbers(tracker, [face(50, 80, who=0)], 2) == [1]


def test_a_cut_ends_tracks_but_not_people():
    tracker = Tracker()
    assert numbers(tracker, [face(50, 80)], 0) == [1]
    assert numbers(tracker, [face(51, 80)], 1, cut=True) == [2]
    assert numbers(tracker, [face(52, 80)], 2) == [2]
    tracker = Tracker()
    assert numbers(tracker, [face(50, 80, who=0), face(150, 80, who=1)], 0) == [1, 2]
    assert numbers(tracker, [face(50, 80, who=1), face(150, 80, who=3)], 1, cut=True) == [2, 3]


def test_a_face_twice_as_large_is_not_the_same():
    tracker = Tracker()
    assert numbers(tracker, [face(80, 80, 30)], 0) == [1]
    assert numbers(tracker, [face(80, 80, 70)], 1) == [2]


def test_a_long_stride_does_not_end_tracks():
    tracker = Tracker(gap=0.5)
    for i in range(5):
        assert [f.track for f in tracker.update([face(80, 80)], 30 * i, 2.0 * i)] == [1]


def test_between_readings_faces_are_expected_where_they_go():
    tracker = Tracker()
    for i in range(6):
        numbers(tracker, [face(50 + 10 * i, 80), face(200, 80)], i)
    numbers(tracker, [face(110, 80)], 6)
    (there,) = tracker.expect(0.65)  # the one that was not seen last is not drawn
    assert there.track == 1
    assert (there.box[0] + there.box[2]) / 2 == pytest.approx(115, abs=0.5)
    assert there.points[2] == pytest.approx([115, 83], abs=2)
    assert not there.answers


def test_an_ended_track_keeps_no_pixels():
    tracker = Tracker(gap=0.25)
    crop = Crop(np.full((32, 32, 3), (250, 10, 10), np.uint8), np.eye(2, 3))
    tracker.update(
        [Face(np.array([0, 0, 9, 9], np.float32), 0.5, np.zeros((5, 2), np.float32), {}, crop)], 0, 0.0
    )
    assert tracker.live[0].best is crop
    for i in range(1, 4):
        assert tracker.live
        tracker.update([], i, 0.1 * i)
    assert not tracker.live
    assert isinstance(tracker.ended[0].best, bytes)
    assert tracker.summaries()[0].best == tracker.ended[0].best


def test_settings_out_of_range_are_refused():
    with pytest.raises(UsageError, match="gap must be 0 seconds or more"):
        Tracker(gap=-1)


# --- What is said of a track


def test_means_by_hand():
    means = TrackAverages()
    means.add(
        {
            "age": Age(20, 10, 30),
            "gender": Gender("male", 0.8),
            "expression": Choice("a", {"a": 0.9, "b": 0.1}, "s"),
            "attributes": Attributes({"Hat": 0.0}, "c"),
            "identity": Identity(np.array([1, 0], np.float32)),
        },
        1.0,
    )
    means.add(
        {
            "age": Age(40, 30, 50),
            "gender": Gender("female", 0.9),
            "expression": Choice("b", {"a": 0.1, "b": 0.9}, "s"),
            "attributes": Attributes({"Hat": 1.0}, "c"),
            "identity": Identity(np.array([0, 1], np.float32)),
        },
        3.0,
    )
    got = means.answers()
    assert (got["age"].years, got["age"].low, got["age"].high) == (35, 25, 45)
    assert got["gender"].label == "female"
    assert got["gender"].probability == pytest.approx((0.2 + 3 * 0.9) / 4)
    assert got["expression"].label == "b"
    assert got["expression"].probabilities == pytest.approx({"a": 0.3, "b": 0.7})
    assert got["attributes"]["Hat"] == 0.75
    assert got["identity"].embedding == pytest.approx(np.array([1, 3]) / np.sqrt(10))


def test_large_and_confident_faces_weigh_more():
    tracker = Tracker()
    tracker.update([face(80, 80, 40, score=0.5, age=Age(20, 10, 30))], 0, 0.0)
    (second,) = tracker.update([face(80, 80, 60, score=1.0, age=Age(60, 50, 70))], 1, 0.1)
    years = (0.5 * 40 * 20 + 60 * 60) / (0.5 * 40 + 60)
    assert second.so_far["age"].years == pytest.approx(years)
    record = tracker.summaries()[0].to_dict()
    assert record["age"]["years"] == round(years, 1)
    assert (record["best_frame"], record["best_score"], record["frames"], record["last_frame"]) == (
        1,
        1.0,
        2,
        1,
    )


def test_the_best_face_looks_ahead():
    tracker = Tracker()
    straight, aside = face(80, 80, 40, pose=Pose(0, 0, 0)), face(80, 80, 44, pose=Pose(-40, 0, 0))
    tracker.update([straight], 0, 0.0)
    tracker.update([aside], 1, 0.1)
    assert tracker.summaries()[0].best_frame == 0


def test_quality_weighs_and_open_eyes_make_the_best_frame():
    tracker = Tracker()
    poor, good = (Quality(q, q, q, q, q, q) for q in (0.1, 0.9))
    tracker.update([face(80, 80, 40, age=Age(20, 10, 30), quality=poor, eyes=Eyes(1, 1))], 0, 0.0)
    tracker.update([face(80, 80, 40, age=Age(60, 50, 70), quality=good, eyes=Eyes(0.1, 0.9))], 1, 0.1)
    tracker.update([face(80, 80, 40, age=Age(60, 50, 70), quality=good, eyes=Eyes(0.9, 0.9))], 2, 0.2)
    (found,) = tracker.summaries()
    assert found.answers["age"].years == pytest.approx((0.1 * 20 + 1.8 * 60) / 1.9)
    assert found.best_frame == 2 and found.blinks_per_minute is None
    assert "blinks_per_minute" not in found.to_dict()


def test_blinks_are_short_and_counted_per_minute():
    tracker = Tracker()
    for i in range(250):  # ten seconds
        closed = i % 50 in (10, 11, 12) or 200 <= i < 230  # five blinks, of which one is too long
        tracker.update([face(80, 80, 40, eyes=Eyes(*(2 * [0.1 if closed else 0.9])))], i, i / 25)
    (found,) = tracker.summaries()
    assert found.blinks_per_minute == pytest.approx(60 * 4 / 9.96)
    assert found.to_dict()["blinks_per_minute"] == 24.1


def test_blinks_need_enough_frames():
    few, short, hesitant = Blinks(), Blinks(), Blinks()
    for i in range(20):
        few.add(0.9, i / 4)
        short.add(0.9, i / 25)
    assert few.per_minute() is None and short.per_minute() is None and Blinks().per_minute() is None
    for i in range(100):
        hesitant.add((0.9, 0.5)[i % 2], i / 25)
    assert hesitant.count == 0 and hesitant.per_minute() == 0


def test_landmarks_are_smoothed_and_the_pose_follows_them(rng):
    still, tracker = synthetic.draw(rng)[1]["landmarks"], Tracker()
    seen, out, yaws, raw = [], [], [], []
    for i in range(60):
        noisy = (still + rng.normal(0, 0.7, still.shape)).astype(np.float32)
        answer = Landmarks(noisy, "ibug68")
        (got,) = tracker.update([face(80, 80, 100, landmarks=answer, pose=POSE.derive(answer))], i, i / 25)
        seen.append(noisy)
        out.append(got["landmarks"].points)
        raw.append(POSE.derive(answer).yaw)
        yaws.append(got["pose"].yaw)
    assert got["landmarks"].labels == "ibug68"
    assert np.std(out[20:], axis=0).mean() < 0.7 * np.std(seen[20:], axis=0).mean()
    assert np.std(yaws[20:]) < 0.7 * np.std(raw[20:])


def test_smoothing_can_be_left_out():
    tracker = Tracker(smooth=False)
    tracker.update([face(80, 80)], 0, 0.0)
    (got,) = tracker.update([face(83, 80)], 1, 0.1)
    assert np.array_equal(got.points, face(83, 80).points)


def test_a_tracked_face_is_a_face_with_a_number():
    (got,) = Tracker().update([face(80, 80, age=Age(20, 10, 30))], 0, 0.0)
    record = got.to_dict()
    assert list(record) == ["track", "box", "score", "points5", "age"]
    assert record["track"] == 1
    assert got["age"].years == 20
