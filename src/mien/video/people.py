"""Tracks of one person joined by their mean embeddings, after a video is read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mien.errors import UsageError
from mien.types import Array
from mien.video.tracker import Summary

SAME = 0.81  # cosine; 0.1 % of the pairs of strangers reach it on LFW's development set
# Ours: a person seen for at most SHARE of another one's frames is that one, seen from an unusual side, if
# their cosine is LIKELY or more (5 % of the pairs of strangers on LFW) and MARGIN above the next person's.
LIKELY, MARGIN, SHARE = 0.68, 0.03, 0.2


def join_tracks(tracks: Sequence[Summary], *, same: float = SAME, likely: float = LIKELY) -> dict[int, int]:
    """Track number -> person, from 1 in order of appearance; tracks without identity are left out.

    Tracks are taken from the longest to the shortest. Each goes to the person with the nearest mean
    embedding, if their cosine is `same` or more and no track of the person was detected at the same time.
    People who fit by the same rule are then joined. Last, a person who is seen briefly goes to a much longer
    seen one at a lower cosine (`likely`), if that one is clearly the nearest.

    Args:
        tracks: summaries of one video.
        same: minimum cosine of a track and a person, -1..1.
        likely: minimum cosine of a person who is seen briefly and one who is seen long, -1..1; 1 leaves
            out this step.

    Raises:
        UsageError: `same` or `likely` is out of range.
    """
    for name, value in (("same", same), ("likely", likely)):
        if not -1 <= value <= 1:
            raise UsageError(f"{name} is a cosine, -1..1, not {value}")
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
    while _attach(people, likely):
        pass
    people.sort(key=lambda p: min((t.first, t.track) for t in p.tracks))
    return {t.track: number for number, p in enumerate(people, 1) for t in p.tracks}


class _Person:
    """Tracks of one person, and the sum of their embeddings, weighted by the number of frames."""

    def __init__(self, track: Summary, embedding: Array):
        self.tracks, self.sum = [track], embedding * track.frames

    @property
    def frames(self) -> int:
        return sum(t.frames for t in self.tracks)

    @property
    def mean(self) -> Array:
        return np.asarray(self.sum / max(float(np.linalg.norm(self.sum)), 1e-12))

    def take(self, other: _Person) -> None:
        """Take over the other one's tracks."""
        self.tracks += other.tracks
        self.sum = self.sum + other.sum

    def is_distinct(self, other: _Person) -> bool:
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
        if people[i].is_distinct(people[k]):
            people[i].take(people.pop(k))
            return True
    return False


def _attach(people: list[_Person], likely: float) -> bool:
    """Give the person who is seen the shortest time to the one that it clearly is; whether there was one."""
    if len(people) < 2 or likely >= 1:
        return False
    means = np.stack([p.mean for p in people])
    for k in sorted(range(len(people)), key=lambda k: people[k].frames):
        person, likeness = people[k], means @ means[k]
        likeness[k] = -np.inf
        possible = [i for i in np.argsort(-likeness) if i != k and people[i].is_distinct(person)]
        if not possible or likeness[possible[0]] < likely:
            continue
        best = possible[0]
        next_best = np.delete(likeness, best).max(initial=-1.0)
        if likeness[best] - next_best >= MARGIN and person.frames <= SHARE * people[best].frames:
            people[best].take(person)
            del people[k]
            return True
    return False
