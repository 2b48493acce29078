"""Group the faces of an album by person.

A similarity is a cosine, -1..1, not a probability. What it means depends on the network: docs/cli.md has the
measured numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.errors import UsageError
from mien.inference.weights_file import WEIGHTS, measured_sha256
from mien.io.image import Source
from mien.recognition.verification import CLUSTER_FMR, MatchThreshold, embedding_of, match_threshold
from mien.types import Face, Floats, InferenceModel

if TYPE_CHECKING:
    from mien.inference.reader import Reader

Array = npt.NDArray[np.float64]
# The default threshold of groups and the lowest similarity of a suggested merge, with the measurements they
# were chosen by; written by `python -m bench.clustering`.
TABLE = WEIGHTS / "clustering.json"
# Ours: without a measured value, merges are suggested down to this much below the threshold.
SUGGESTED_BELOW = 0.05
# Ours: without measured false-match rates, the threshold of groups is this much higher than the best one for
# pairs.
STRICTER = 0.1
# Ours, not measured: children look alike, so a pair that includes a child must be this much more similar.
CHILD, CHILD_MARGIN = 13.0, 0.03


# --- Groups


def group(
    embeddings: npt.ArrayLike,
    threshold: float,
    *,
    photos: Sequence[int] | None = None,
    margins: npt.ArrayLike | None = None,
) -> list[int]:
    """Group faces by average linkage: two groups join while their mean similarity is at least `threshold`.

    Unlike nearest neighbors, a chain of similar faces does not join two people. The result is exact:
    components that no pair above the threshold connects can never join, so each is solved separately, and
    memory grows with the largest component only.

    Args:
        embeddings: (n, d), length 1.
        photos: photo number of each face; two faces of one photo are never one person. None: no such rule.
        margins: (n,) added to the threshold of every pair of that face; the larger of the two counts.

    Returns:
        A group's number for each face, 0.. by size, ties by first appearance.
    """
    e = np.asarray(embeddings, np.float32)
    n = len(e)
    m = np.zeros(n, np.float32) if margins is None else np.asarray(margins, np.float32)
    photo = np.arange(n) if photos is None else np.asarray(photos)

    def similarity(rows: npt.NDArray[np.int64], others: npt.NDArray[np.int64]) -> Array:
        s = (e[rows] @ e[others].T - np.maximum(m[rows, None], m[None, others])).astype(np.float64)
        s[(photo[rows, None] == photo[None, others]) | (rows[:, None] == others[None])] = -np.inf
        return s

    found: list[list[int]] = []
    rest = np.arange(n)
    while rest.size:
        part, edge, rest = rest[:1], rest[:1], rest[1:]
        while edge.size and rest.size:
            near = np.zeros(rest.size, bool)
            for start in range(0, edge.size, 256):
                near |= (similarity(edge[start : start + 256], rest) >= threshold).any(0)
            edge, rest = rest[near], rest[~near]
            part = np.concatenate([part, edge])
        part.sort()
        found += [[int(part[i]) for i in members] for members in _linked(similarity(part, part), threshold)]
    found.sort(key=lambda members: (-len(members), members[0]))
    labels = [0] * n
    for number, members in enumerate(found):
        for i in members:
            labels[i] = number
    return labels


def _linked(s: Array, threshold: float) -> list[list[int]]:
    """Average linkage on similarities (n, n), -inf where two may not merge and on the diagonal; changes s."""
    members = [[i] for i in range(len(s))]
    best, partner = s.max(1), s.argmax(1)
    while len(s) and best.max() >= threshold:
        i = int(best.argmax())
        j = int(partner[i])
        share = len(members[i]) / (len(members[i]) + len(members[j]))
        mean = share * s[i] + (1 - share) * s[j]
        s[i], s[:, i] = mean, mean
        s[i, i] = s[j] = s[:, j] = -np.inf
        members[i], members[j] = members[i] + members[j], []
        stale = np.flatnonzero((partner == i) | (partner == j) | (s[:, i] > best))
        for k in {i, j, *stale.tolist()}:
            best[k], partner[k] = s[k].max(), s[k].argmax()
    return [sorted(m) for m in members if m]


def cluster_faces(
    photos: Iterable[Source],
    *,
    reader: Reader | None = None,
    fmr: float | None = None,
    threshold: float | None = None,
    min_size: float = 32.0,
    same_photo: bool = False,
) -> Album:
    """Group the faces of many photos by person.

    Args:
        photos: paths, bytes, Pillow images or RGB arrays. A photo that cannot be read is logged and left out.
        reader: from `mien.load(tasks=["identity", "age"], flip_tta=True)`; None loads one. Without `flip_tta`
            it takes less time, and the groups are less complete.
        fmr: accepted false match rate per comparison, 0..1.
        threshold: a similarity, in place of `fmr`. Without both: see `album_threshold`.
        min_size: minimum width of a face in pixels.
        same_photo: whether two faces of one photo may be one person.

    Returns:
        The album: `persons` holds one number per row of `rows`, 0 for a face without a group.
    """
    from mien.inference.reader import load

    reader = reader or load(tasks=["identity", "age"], flip_tta=True)
    chosen = album_threshold(reader.model, fmr=fmr, threshold=threshold)
    album = Album(chosen, min_size, same_photo, suggestion_threshold(reader.model, chosen.similarity))
    for reading in reader.stream(photos):
        if reading.error is None:
            album.add(reading.path, reading)
    album.solve()
    return album


def album_threshold(
    model: InferenceModel, *, fmr: float | None = None, threshold: float | None = None
) -> MatchThreshold:
    """The mean similarity at which two groups of faces are joined.

    Args:
        model: the network, `Reader.model`.
        fmr: accepted false match rate per comparison, 0..1.
        threshold: a similarity, in place of `fmr`. Without both: the threshold that was chosen with these
            weights by pair precision and F1 (`TABLE`); for other weights, the one of a false match rate of
            0.1 %; where no rates were measured, the best threshold for pairs plus `STRICTER`.
    """
    measured = _measured(model)
    if fmr is None and threshold is None and measured is not None:
        chosen = match_threshold(model, threshold=float(measured["threshold"]))
        return MatchThreshold(chosen.similarity, chosen.fmr, TABLE.name, chosen.fnmr)
    chosen = match_threshold(model, fmr=fmr, threshold=threshold, default_fmr=CLUSTER_FMR)
    if chosen.fmr is None and threshold is None:
        return MatchThreshold(chosen.similarity + STRICTER, None, f"{chosen.source}; {STRICTER:g} stricter")
    return chosen


def suggestion_threshold(model: InferenceModel, threshold: float) -> float:
    """The lowest similarity of two groups of an album with this threshold at which a merge is suggested."""
    measured = _measured(model)
    below = SUGGESTED_BELOW
    if measured is not None:
        below = float(measured["threshold"]) - float(measured["suggest"])
    return max(-1.0, threshold - below)


def _measured(model: InferenceModel) -> dict[str, Any] | None:
    """The content of `TABLE`; None where it was measured with other weights, or is not there."""
    if not TABLE.is_file():
        return None
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    sha256 = measured_sha256(model)
    return table if sha256 and table["model"] == sha256 else None


@dataclass(frozen=True, slots=True)
class Merge:
    """Two groups of an album that may be one person. A single face is a group of one.

    Attributes:
        similarity: mean cosine of their faces, -1..1.
        first, second: rows of the album in each, `first` the larger group; the row nearest to the mean of its
            group comes first.
    """

    similarity: float
    first: tuple[int, ...]
    second: tuple[int, ...]


@dataclass
class Album:
    """The faces of an album, grouped by person.

    Attributes:
        threshold: minimum mean similarity of two groups that are joined.
        suggest: lowest similarity of two groups at which `suggest_merges` names them; None for
            `SUGGESTED_BELOW` below the threshold.
        rows: one per face, see `add`.
        persons: after `solve`, one person number per face: 1, 2, ... by the number of faces; 0 for a face
            without a group.
    """

    threshold: MatchThreshold
    smallest: float = 32.0
    same_photo: bool = False
    suggest: float | None = None
    photos: int = 0
    small: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    persons: list[int] = field(default_factory=list)
    _embeddings: list[Floats] = field(default_factory=list, repr=False)

    def add(self, path: str | None, faces: Iterable[Face]) -> list[int | None]:
        """A photo's faces -> the place in `rows` of each; None for one narrower than `smallest` pixels, which
        is left out.
        """
        places: list[int | None] = []
        for number, face in enumerate(faces, 1):
            width = float(face.box[2] - face.box[0])
            if width < self.smallest:
                self.small += 1
                places.append(None)
                continue
            self._embeddings.append(embedding_of(face))
            box = [round(float(v), 2) for v in face.box]
            child = "age" in face and face["age"].years < CHILD
            self.rows.append({"path": path, "face": number, "box": box, "photo": self.photos, "child": child})
            places.append(len(self.rows) - 1)
        self.photos += 1
        return places

    def solve(self) -> None:
        """Fill `persons`, and each row's similarity to its own person's mean and to the next person's."""
        if not self.rows:
            return
        e = np.stack(self._embeddings)
        photos = None if self.same_photo else [r["photo"] for r in self.rows]
        margins = [CHILD_MARGIN if r["child"] else 0.0 for r in self.rows]
        labels = group(e, self.threshold.similarity, photos=photos, margins=margins)
        counts = np.bincount(labels)
        self.persons = [label + 1 if counts[label] > 1 else 0 for label in labels]
        people = range(1, max(self.persons) + 1)
        means = np.array([e[np.array(self.persons) == p].mean(0) for p in people]).reshape(-1, e.shape[1])
        means /= np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
        for row, person, similar in zip(self.rows, self.persons, e @ means.T, strict=True):
            others = [float(s) for p, s in zip(people, similar, strict=True) if p != person]
            row["similarity"] = round(float(similar[person - 1]), 4) if person else None
            row["next"] = round(max(others), 4) if others else None

    def suggest_merges(self, *, minimum: float | None = None, limit: int | None = 100) -> list[Merge]:
        """Pairs of groups that are similar, yet below the threshold, for a person to decide.

        Groups that share a photo are not suggested, unless the album was made with `same_photo`.

        Args:
            minimum: lowest mean similarity of two groups, -1..1; None for the album's `suggest`.
            limit: maximum number of pairs; None for all.

        Returns:
            The pairs, most similar first.

        Raises:
            UsageError: `minimum` or `limit` is out of range.
        """
        if minimum is None:
            minimum = self.threshold.similarity - SUGGESTED_BELOW if self.suggest is None else self.suggest
        if not -1 <= minimum <= 1:
            raise UsageError(f"minimum is a cosine, -1..1, not {minimum}")
        if limit is not None and limit < 1:
            raise UsageError(f"limit must be 1 pair or more, not {limit}")
        groups = self._groups()
        if len(groups) < 2:
            return []
        e = np.stack(self._embeddings)
        means = np.stack([e[list(g)].mean(0) for g in groups])
        photos = [{self.rows[i]["photo"] for i in g} for g in groups]
        found = list[tuple[float, int, int]]()
        for start in range(0, len(groups), 1024):
            similar = means[start : start + 1024] @ means.T
            for i, j in zip(*np.nonzero(similar >= minimum), strict=True):
                one, other = start + int(i), int(j)
                if one < other and (self.same_photo or not photos[one] & photos[other]):
                    found.append((float(similar[i, j]), one, other))
        found.sort(key=lambda f: (-f[0], f[1], f[2]))
        return [Merge(round(s, 4), groups[a], groups[b]) for s, a, b in found[:limit]]

    def _groups(self) -> list[tuple[int, ...]]:
        """Rows of each person and of each single face, in the order of `persons`, then of `rows`."""
        by: dict[int, list[int]] = {}
        for i, person in enumerate(self.persons):
            by.setdefault(person or -i - 1, []).append(i)
        people = [by[p] for p in sorted(p for p in by if p > 0)]
        for members in people:
            members.sort(key=lambda i: -self.rows[i]["similarity"])
        return [tuple(g) for g in people] + [(i,) for i, p in enumerate(self.persons) if p == 0]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; docs/cli.md describes them."""

        def shown(i: int) -> dict[str, Any]:
            return {k: self.rows[i][k] for k in ("path", "face", "box", "similarity", "next", "child")}

        def side(rows: tuple[int, ...]) -> dict[str, Any]:
            person = self.persons[rows[0]] or None
            return {"person": person, "faces": len(rows)} | {
                k: self.rows[rows[0]][k] for k in ("path", "face", "box")
            }

        by: dict[int, list[int]] = {}
        for i, person in enumerate(self.persons):
            by.setdefault(person, []).append(i)
        return {
            "schema": 1,
            "threshold": self.threshold.to_dict(),
            "photos": self.photos,
            "people": [{"person": p, "faces": [shown(i) for i in by[p]]} for p in sorted(by) if p],
            "single_faces": [shown(i) for i in by.get(0, [])],
            "merges": [
                {"similarity": m.similarity, "first": side(m.first), "second": side(m.second)}
                for m in self.suggest_merges()
            ],
            "too_small": self.small,
        }
