"""Tracks of one person joined by their mean embeddings, after a video is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.errors import UsageError
from mien.types import Array
from mien.video.tracker import Summary

SAME = 0.81  # cosine; 0.1 % of the pairs of strangers reach it on LFW's development set


def join_tracks(tracks: Sequence[Summary], *, same: float = SAME) -> dict[int, int]:
    """Track number -> person, from 1 in order of appearance; tracks without identity are left out.

    Tracks are taken from the longest to the shortest. Each goes to the person with the nearest mean
    embedding, if their cosine is `same` or more and no track of the person was detected at the same time.
    People who fit by the same rule are then joined.

    Args:
        tracks: summaries of one video.
        same: minimum cosine of a track and a person, -1..1.

    Raises:
        UsageError: `same` is out of range.
    """
    if not -1 <= same <= 1:
        raise UsageError(f"same is a cosine, -1..1, not {same}")
    people = list[_Person]()
    for track in sorted(tracks, key=lambda t: (-t.frames, t.track)):
        embedding = next((d for a in track.answers.values() if (d := a.direction()) is not None), None)
        if embedding is not None:
            people.append(_Person(track, np.asarray(embedding, np.float64)))
            _join(people, len(people) - 1, same)
    # a mean moves as tracks come to it, so that two people may fit later
    k = 0
    while k < len(people):
        k = 0 if _join(people, k, same) else k + 1
    people.sort(key=lambda p: min((t.first, t.track) for t in p.tracks))
    return {t.track: number for number, p in enumerate(people, 1) for t in p.tracks}


class _Person:
    """Tracks of one person, and the sum of their embeddings, weighted by the number of frames."""

    def __init__(self, track: Summary, embedding: Array):
        self.tracks, self.sum = [track], embedding * track.frames

    @property
    def mean(self) -> Array:
        return np.asarray(self.sum / max(float(np.linalg.norm(self.sum)), 1e-12))

    def apart(self, other: _Person) -> bool:
        """Whether no track of one was detected while one of the other was."""
        return all(a.last < b.first or b.last < a.first for a in self.tracks for b in other.tracks)


def _join(people: list[_Person], k: int, same: float) -> bool:
    """Join person k with the nearest other one it may be; whether there was one."""
    if len(people) < 2:
        return False
    likeness = np.stack([p.mean for p in people]) @ people[k].mean
    likeness[k] = -np.inf
    for i in np.argsort(-likeness):
        if likeness[i] < same:
            return False
        if people[i].apart(people[k]):
            people[i].tracks += people[k].tracks
            people[i].sum = people[i].sum + people[k].sum
            del people[k]
            return True
    return False
