"""Who is the same person: the similarity that is asked for, two faces against it, and an album's faces in
groups.

A similarity is a cosine, -1..1, and no probability. What it is worth depends on the network: see the numbers
in docs/cli.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mien.io.image import Source
from mien.recognition.verification import CLUSTER_FMR, MatchThreshold, embedding_of, match_threshold
from mien.types import Face, Floats, InferenceModel

if TYPE_CHECKING:
    from mien.inference.reader import Reader

Array = npt.NDArray[np.float64]
# Ours: where no false-match rates were measured, groups ask for this much more than the best threshold for
# pairs.
STRICTER = 0.1
# Ours, not measured: faces of children are alike, so a pair with one must be this much more similar to be
# grouped.
CHILD, CHILD_MARGIN = 13.0, 0.03


# --- Groups


def group(
    embeddings: npt.ArrayLike,
    cut: float,
    *,
    apart: Sequence[int] | None = None,
    margins: npt.ArrayLike | None = None,
) -> list[int]:
    """Faces in groups by average linkage: two groups join while their mean similarity is at least `cut`.

    A chain of lookalikes does not join two people as it would by nearest neighbors. Exact: parts between
    which no pair reaches the cut can never join, so each part is solved alone, and memory grows with the
    largest part only.

    Args:
        embeddings: (n, d), length 1.
        apart: a number a face; faces with the same number are never one person (those of one photo).
        margins: (n,) added to the cut of every pair that a face is in; the larger of the two counts.

    Returns:
        A group's number for each face, 0.. by size, ties by first appearance.
    """
    e = np.asarray(embeddings, np.float32)
    n = len(e)
    m = np.zeros(n, np.float32) if margins is None else np.asarray(margins, np.float32)
    photo = np.arange(n) if apart is None else np.asarray(apart)

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
                near |= (similarity(edge[start : start + 256], rest) >= cut).any(0)
            edge, rest = rest[near], rest[~near]
            part = np.concatenate([part, edge])
        part.sort()
        found += [[int(part[i]) for i in members] for members in _linked(similarity(part, part), cut)]
    found.sort(key=lambda members: (-len(members), members[0]))
    labels = [0] * n
    for number, members in enumerate(found):
        for i in members:
            labels[i] = number
    return labels


def _linked(s: Array, cut: float) -> list[list[int]]:
    """Average linkage on similarities (n, n), -inf where two may not merge and on the diagonal; changes s."""
    members = [[i] for i in range(len(s))]
    best, partner = s.max(1), s.argmax(1)
    while len(s) and best.max() >= cut:
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
        reader: from `mien.load(tasks=["identity", "age"])`; None loads one.
        fmr: accepted false match rate per comparison, 0..1.
        threshold: a similarity, in place of `fmr`.
        min_size: minimum width of a face in pixels.
        same_photo: whether two faces of one photo may be one person.

    Returns:
        The album: `persons` holds one number per row of `rows`, 0 for faces that match nobody else's.
    """
    from mien.inference.reader import load

    reader = reader or load(tasks=["identity", "age"])
    album = Album(album_threshold(reader.model, fmr=fmr, threshold=threshold), min_size, same_photo)
    for reading in reader.stream(photos):
        if reading.error is None:
            album.add(reading.path, reading)
    album.solve()
    return album


def album_threshold(
    model: InferenceModel, *, fmr: float | None = None, threshold: float | None = None
) -> MatchThreshold:
    """The similarity that joins two faces of an album: stricter than for one pair, because an album has many
    pairs.
    """
    cut = match_threshold(model, fmr=fmr, threshold=threshold, default_fmr=CLUSTER_FMR)
    if cut.fmr is None and threshold is None:
        return MatchThreshold(cut.similarity + STRICTER, None, f"{cut.source}; {STRICTER:g} stricter")
    return cut


@dataclass
class Album:
    """An album's faces and who they are.

    Attributes:
        cut: the similarity asked for.
        rows: one a face, see `add`.
        persons: after `solve`, a number a face: 1 .. by how often somebody was seen, 0 for faces that nobody
            else's joined.
    """

    cut: MatchThreshold
    smallest: float = 32.0
    same_photo: bool = False
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
        apart = None if self.same_photo else [r["photo"] for r in self.rows]
        margins = [CHILD_MARGIN if r["child"] else 0.0 for r in self.rows]
        labels = group(e, self.cut.similarity, apart=apart, margins=margins)
        counts = np.bincount(labels)
        self.persons = [label + 1 if counts[label] > 1 else 0 for label in labels]
        people = range(1, max(self.persons) + 1)
        means = np.array([e[np.array(self.persons) == p].mean(0) for p in people]).reshape(-1, e.shape[1])
        means /= np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
        for row, person, similar in zip(self.rows, self.persons, e @ means.T, strict=True):
            others = [float(s) for p, s in zip(people, similar, strict=True) if p != person]
            row["similarity"] = round(float(similar[person - 1]), 4) if person else None
            row["next"] = round(max(others), 4) if others else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; docs/cli.md describes them."""

        def shown(i: int) -> dict[str, Any]:
            return {k: self.rows[i][k] for k in ("path", "face", "box", "similarity", "next", "child")}

        by: dict[int, list[int]] = {}
        for i, person in enumerate(self.persons):
            by.setdefault(person, []).append(i)
        return {
            "schema": 1,
            "cut": self.cut.to_dict(),
            "photos": self.photos,
            "people": [{"person": p, "faces": [shown(i) for i in by[p]]} for p in sorted(by) if p],
            "alone": [shown(i) for i in by.get(0, [])],
            "too_small": self.small,
        }
