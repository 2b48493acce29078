"""Tracks joined to people."""

from __future__ import annotations

import numpy as np
import pytest

from mien.errors import UsageError
from mien.tasks.identity import Identity
from mien.video.people import join_tracks
from mien.video.tracker import Summary


def track(number: int, first: float, last: float, embedding: np.ndarray | None, frames: int = 10) -> Summary:
    answers = {}
    if embedding is not None:
        unit = embedding / np.linalg.norm(embedding)
        answers["identity"] = Identity(unit.astype(np.float32))
    return Summary(number, first, last, int(10 * first), int(10 * last), frames, answers, 0, 0.9)


def test_many_tracks_of_two_people_become_two(rng) -> None:
    who = np.eye(2, 128)
    tracks = [track(i + 1, i, i + 0.5, who[i % 2] + rng.normal(0, 0.03, 128)) for i in range(60)]
    people = join_tracks(tracks)
    assert people == {i + 1: i % 2 + 1 for i in range(60)}


def test_two_that_are_seen_at_once_are_two_people() -> None:
    one = np.ones(8)
    tracks = [track(1, 0, 5, one), track(2, 3, 8, one), track(3, 9, 12, one, frames=3)]
    people = join_tracks(tracks)
    assert people[1] != people[2]
    assert len(set(people.values())) == 2


def at(degrees: float) -> np.ndarray:
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0.0])


def test_a_brief_unusual_view_goes_to_the_person_it_clearly_is() -> None:
    """Cosines: .72 to the first person, .46 or less to the second."""
    people = [track(1, 0, 10, at(0), frames=100), track(2, 11, 20, at(100), frames=90)]
    brief = track(3, 21, 22, at(-44), frames=5)
    assert join_tracks([*people, brief]) == {1: 1, 2: 2, 3: 1}
    assert join_tracks([*people, brief], likely=1)[3] == 3
    assert join_tracks([*people, brief], likely=0.75)[3] == 3
    long = track(3, 21, 30, at(-44), frames=50)
    assert join_tracks([*people, long])[3] == 3, "as much a person as the first"
    at_once = track(3, 5, 6, at(-44), frames=5)
    assert join_tracks([*people, at_once])[3] != join_tracks([*people, at_once])[1]
    between = [track(1, 0, 10, at(0), frames=100), track(2, 11, 20, at(88), frames=90)]
    assert join_tracks([*between, track(3, 21, 22, at(44), frames=5)])[3] == 3, "as near to both"
    with pytest.raises(UsageError, match="likely is a cosine"):
        join_tracks(people, likely=2)


def test_strangers_stay_apart_and_tracks_without_identity_are_left_out() -> None:
    tracks = [track(1, 0, 1, np.eye(3)[0]), track(2, 2, 3, np.eye(3)[1]), track(3, 4, 5, None)]
    assert join_tracks(tracks) == {1: 1, 2: 2}
    near = [track(1, 0, 1, np.array([1.0, 0])), track(2, 2, 3, np.array([0.6, 0.8]))]
    assert len(set(join_tracks(near).values())) == 2
    assert len(set(join_tracks(near, same=0.59).values())) == 1
    with pytest.raises(UsageError, match="same is a cosine"):
        join_tracks(near, same=1.5)
