"""A gallery: enrolled people, several faces each, on disk. It identifies, lists and erases them.

A gallery belongs to one network, since similarities of two networks cannot be compared. It stores the
weights' sha256, that of the part that computes identity, and the view, and refuses other networks. A file
with a fine-tuned task has the same identity part and is accepted. It holds biometric data; docs/gallery.md
lists what is stored and what stays readable.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar

import numpy as np

from mien.errors import StorageError, UsageError
from mien.inference.weights_file import measured_sha256
from mien.io.image import Source
from mien.recognition import records
from mien.recognition.error_rates import Rates
from mien.recognition.records import (
    Added,
    Forgotten,
    Identification,
    LowQuality,
    Match,
    NoFace,
    Person,
    SeveralFaces,
)
from mien.recognition.store import (
    CORRECTION,
    FACE,
    ErasureFailed,
    Row,
    Store,
    new_key,
    new_store,
    open_store,
)
from mien.types import Face, Floats

if TYPE_CHECKING:
    from mien.inference.reader import Reader

__all__ = [
    "Added",
    "ErasureFailed",
    "Forgotten",
    "Gallery",
    "Identification",
    "LowQuality",
    "Match",
    "NoFace",
    "Person",
    "SeveralFaces",
    "new_key",
]

SAME = 0.9999  # minimum similarity of two embeddings of the same picture
RESEMBLES = 0.5  # Ours: minimum similarity of similar faces, for a network without measured false-match rates
_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def _exclusive(method: Callable[Concatenate[Gallery, P], R]) -> Callable[Concatenate[Gallery, P], R]:
    """Let one thread write at a time, since each change reads first."""

    @functools.wraps(method)
    def locked(self: Gallery, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._writing:
            return method(self, *args, **kwargs)

    return locked


class Gallery:
    """A table of enrolled people and their faces.

    Several processes may read a gallery while one writes.

    Args:
        uri: a folder, or another URI that LanceDB supports (s3://, gs://, az://). The first `add` creates it.
        reader: `mien.load(tasks=["identity"])`. Listing, exporting and forgetting people work without it.
        fmr: accepted false-match rate per comparison, 0..1. Needs rates that were measured with this network.
        threshold: a minimum similarity, -1..1, instead of `fmr`.
        key: the key file (`new_key`) of a sealed gallery.
        thumbnails: store a small picture of each enrolled face.
        options: LanceDB's storage options.
        min_quality: refuse to enroll faces of a lower quality, 0..1, and do not identify them; needs a reader
            of the task quality. None: no such limit.

    Raises:
        UsageError: another network's gallery, a missing or wrong key, a missing extra, a reader without
            identity.
    """

    def __init__(
        self,
        uri: str | os.PathLike[str],
        reader: Reader | None = None,
        *,
        fmr: float = 1e-3,
        threshold: float | None = None,
        key: str | os.PathLike[str] | None = None,
        thumbnails: bool = True,
        options: dict[str, str] | None = None,
        min_quality: float | None = None,
    ):
        if min_quality is not None and not 0 <= min_quality <= 1:
            raise UsageError(f"min_quality lies between 0 and 1, not {min_quality}")
        self.min_quality = min_quality
        self.uri, self.reader, self.thumbnails, self._key, self._options = (
            os.fspath(uri),
            reader,
            thumbnails,
            key,
            options,
        )
        self._writing = threading.RLock()
        self._store = open_store(self.uri, key, options)
        self.task = next((n for n in reader.requested if n.startswith("identity")), "") if reader else ""
        if reader is not None:
            self._check(reader)
        model = self._store.about["model"] if self._store else records.sha256_of(reader) if reader else ""
        self.rates = Rates.of(model)
        if self.rates is None and reader is not None:
            self.rates = Rates.of(measured_sha256(reader.model))
        self._threshold = threshold
        if threshold is None and self.rates is not None:
            self._threshold = self.rates.threshold(fmr)
        if self._store is not None:
            self._normalize_names()

    @_exclusive
    def _normalize_names(self) -> None:
        """Convert the names in a gallery of an older version to one Unicode form (NFC).

        People whose names differ only in that form become one person. A gallery that cannot be written is
        read as it is, and names are looked up in both forms.
        """
        spelled: dict[str, set[str]] = {}
        first: dict[str, str] = {}  # person -> when the first face was added
        for row in self.store.rows(full=False):
            spelled.setdefault(records.normalized(row.name), set()).add(row.name)
            first[row.person] = min(first.get(row.person, row.added), row.added)
        old = {clean: names for clean, names in spelled.items() if names != {clean}}
        if not old:
            return
        try:
            for clean, names in old.items():
                ids = {r.person for r in self.store.rows("name", names, full=False)}
                people = sorted(ids, key=lambda p: (first[p], p))
                if len(people) > 1:
                    self.merge(*people)
                    _log.warning("the people %s were merged: both were called %r", ", ".join(people), clean)
                self.store.replace([replace(r, name=clean) for r in self.store.rows("person", people[:1])])
        except (StorageError, RuntimeError, OSError, ValueError) as error:  # what LanceDB raises
            _log.warning(
                "the names of %s stay in two Unicode forms: it cannot be written (%s)", self.uri, error
            )
            return
        _log.info("%d names of %s were brought into one Unicode form", len(old), self.uri)

    def _check(self, reader: Reader) -> None:
        if not self.task:
            raise UsageError(
                'the reader does not predict identity; build it with mien.load(tasks=["identity"])'
            )
        if not records.sha256_of(reader):
            raise UsageError(
                "a gallery is pinned to a weights file; give the reader an .onnx (make one with: mien export)"
            )
        if self._store is None:
            return
        pins: dict[str, Any] = {
            "model": records.sha256_of(reader),
            "task": self.task,
            "view": reader.model.view.to_dict(),
        }
        for what, value in pins.items():
            pinned = self._store.about[what]
            if pinned != value and not (what == "model" and self._same(reader)):
                was, now = (f"{v[:16]}..." if what == "model" else str(v) for v in (pinned, value))
                raise UsageError(
                    f"the gallery {self.uri} was made with {what} {was}, and this reader has {now}: their"
                    " faces cannot be compared; load the same weights, or enroll the people again in a new"
                    " folder"
                )

    def _same(self, reader: Reader) -> bool:
        """Whether another file computes identity by the same nodes and weights as the gallery's.

        Galleries of older versions stored no hash of that part: for them, a fine-tuned file says which file
        its frozen network came from.
        """
        assert self._store is not None
        about = self._store.about
        if about.get("part"):
            return bool(about["part"] == records.part_sha256_of(reader, about["task"]))
        return bool(about["model"] == measured_sha256(reader.model))

    @property
    def store(self) -> Store:
        """The table.

        Raises:
            UsageError: nobody was enrolled yet, so there is no table.
        """
        if self._store is None:
            self._store = open_store(
                self.uri, self._key, self._options
            )  # another process may have created it since
            if self._store is None:
                raise UsageError(
                    f"there is no gallery at {self.uri}; check the path, or create one with: mien gallery add"
                )
            if self.reader is not None:
                self._check(self.reader)
        return self._store

    @property
    def threshold(self) -> float:
        """The minimum similarity of a match, -1..1.

        Raises:
            UsageError: this network has no measured false-match rates, and no threshold was given.
        """
        if self._threshold is None:
            raise UsageError(
                "no false-match rates were measured for this network; give threshold= (bench/speed/gallery.py"
                " rates measures them)"
            )
        return self._threshold

    # --- Enroll

    @_exclusive
    def add(
        self,
        photos: Source | list[Source] | tuple[Source, ...],
        name: str,
        *,
        note: str | None = None,
        until: date | str | None = None,
        pick: Literal["refuse", "largest"] = "refuse",
    ) -> list[Added]:
        """Enroll the one face of each photo: for a known name, more faces of that person.

        Args:
            note: the person's consent note. None keeps the present one.
            until: the last day, UTC, on which the person is stored and found. None keeps the present one.
            pick: what to do with a photo of several faces: "refuse" it, or enroll the "largest" face.

        Raises:
            NoFace: a photo shows no face. No photo of this call is enrolled.
            SeveralFaces: a photo shows several faces. No photo of this call is enrolled.
            PhotoError: a photo cannot be read.
        """
        if pick not in ("refuse", "largest"):
            raise UsageError(f'pick takes "refuse" or "largest", not {pick!r}')
        name, last = records.clean_name(name), None if until is None else records.day_of(until)
        many = photos if isinstance(photos, (list, tuple)) else [photos]
        faces = [records.one_face(reading, pick) for reading in self._reader().stream(many)]
        if not faces:
            raise UsageError("no photo was given; name at least one")
        return self.enroll(faces, name, note=note, until=last)

    @_exclusive
    def enroll(
        self,
        faces: Sequence[Face],
        name: str,
        *,
        note: str | None = None,
        until: date | str | None = None,
    ) -> list[Added]:
        """As `add`, for faces that the gallery's network has read.

        Args:
            faces: one per photo, with the gallery's identity task among their answers.
            name: the person's name.
            note: see `add`.
            until: see `add`.

        Raises:
            UsageError: no face was given, or see `add`.
            UnknownTask: a face lacks that task. No face of this call is enrolled.
            LowQuality: a face has less than `min_quality`. No face of this call is enrolled.
        """
        name, last = records.clean_name(name), None if until is None else records.day_of(until)
        reader = self._reader()
        if not faces:
            raise UsageError("no face was given; give at least one")
        if self.min_quality is not None:
            records.demand_quality(faces, self.min_quality)
        sizes = [len(face[self.task].embedding) for face in faces]
        if self._store is None and open_store(self.uri, self._key, self._options) is None:
            pin = {
                "model": records.sha256_of(reader),
                "part": records.part_sha256_of(reader, self.task),
                "task": self.task,
                "view": reader.model.view.to_dict(),
                "d": sizes[0],
            }
            self._store = new_store(self.uri, self._key, self._options, pin)
        return self._enroll(name, faces, note, last)

    def _enroll(self, name: str, faces: Sequence[Face], note: str | None, until: str | None) -> list[Added]:
        known = self.store.rows("name", records.spellings(name))
        if len({r.person for r in known}) > 1:
            raise UsageError(
                f"{name!r} is the name of several people ({records.ids_of(known)}); merge them, or"
                " rename one by its id"
            )
        if known and (note is not None or until is not None):
            self.edit(known[0].person, note=note, until=until)
        base = known[0] if known else Row(records.new_id("f"), records.new_id("p"), name, FACE, "", "", "")
        base = replace(
            base,
            note=base.note if note is None else note,
            until=base.until if until is None else until,
            kind=FACE,
        )
        here, new, out = [r for r in known if r.kind == FACE], list[Row](), list[Added]()
        for face in faces:
            vector = face[self.task].embedding.astype(np.float32)
            twin = next((r for r in here if float(r.vector @ vector) >= SAME), None)
            duplicate = None
            if self._threshold is not None:
                duplicate = next(
                    (
                        m
                        for m in self._people(vector, 2)
                        if m.person != base.person and m.similarity >= self._threshold
                    ),
                    None,
                )
            if duplicate:
                _log.warning(
                    "a face enrolled as %r also matches %r (similarity %.3f)",
                    name,
                    duplicate.name,
                    duplicate.similarity,
                )
            if twin is None:
                picture = records.thumbnail(face.crop) if self.thumbnails and face.crop else b""
                twin = replace(
                    base, id=records.new_id("f"), added=records.now(), vector=vector, thumbnail=picture
                )
                new.append(twin)
                here.append(twin)
            out.append(Added(twin.id, base.person, name, twin in new, duplicate))
        if new:
            self.store.add(new)
        # enrolling a picture revokes an earlier correction with the same picture
        self._drop(known, [f[self.task].embedding for f in faces], SAME)
        return out

    def _drop(self, rows: Iterable[Row], faces: Sequence[Floats], similarity: float) -> None:
        """Remove corrections among the rows that one of these newly enrolled faces contradicts."""
        if wrong := [
            r.id
            for r in rows
            if r.kind == CORRECTION and float((np.stack(faces) @ r.vector).max()) >= similarity
        ]:
            self.store.remove(wrong)

    # --- Identify

    def identify(self, photo: Source, *, top: int = 3) -> list[Identification]:
        """Identify the faces of a photo, largest face first.

        Raises:
            PhotoError: the photo cannot be read.
            UsageError: see `Gallery`, `store` and `threshold`.
        """
        return self.answers(self._reader()(photo), top=top)

    def answers(self, reading: Iterable[Face], *, top: int = 3) -> list[Identification]:
        """As `identify`, for faces that the gallery's network has read."""
        return [
            self.search(face[self.task or self.store.about["task"]].embedding, top=top, face=face)
            for face in reading
        ]

    def search(self, embedding: Floats, *, top: int = 3, face: Face | None = None) -> Identification:
        """Find the nearest people to an embedding (d,) of length 1. Expired people are left out."""
        if top < 1:
            raise UsageError(f"top must be 1 or more people, not {top}")
        people = self._people(np.asarray(embedding, np.float32), max(top, 2))
        margin = people[0].similarity - people[1].similarity if len(people) > 1 else None
        poor = (
            face is not None
            and self.min_quality is not None
            and records.quality_of(face).score < self.min_quality
        )
        found = bool(people) and people[0].similarity >= self.threshold and not poor
        match = people[0] if found else None
        return Identification(match, tuple(people[:top]), margin, self.threshold, face, poor)

    def _people(self, vector: Floats, wanted: int) -> list[Match]:
        """The nearest people.

        Each person is represented by the nearest row; if that row is a correction, the person is excluded.
        """
        if vector.shape != (self.store.about["d"],):
            raise UsageError(
                f"an embedding of this gallery has {self.store.about['d']} numbers, this one has shape"
                f" {vector.shape}"
            )
        k, day = max(16, 4 * wanted), records.today()
        while True:
            rows = self.store.nearest(vector, k)
            first: dict[str, tuple[Row, float]] = {}
            for row, similarity in rows:
                if not row.until or row.until >= day:
                    first.setdefault(row.person, (row, similarity))
            found = [(r, s) for r, s in first.values() if r.kind == FACE]
            if len(found) >= wanted or len(rows) < k:
                return [
                    Match(r.person, r.name, s, self.rates.fmr(s) if self.rates else None)
                    for r, s in found[:wanted]
                ]
            k *= 4

    def people(self) -> list[Person]:
        """All people, sorted by name."""
        return records.people_of(self.store.rows(full=False))

    def person(self, person: str) -> Person:
        """One person, by name or id.

        Raises:
            UsageError: no person has that name or id, or several people have that name.
        """
        return self._find(person, full=False)[0]

    def _find(self, person: str, *, full: bool = True) -> tuple[Person, list[Row]]:
        rows = self.store.rows("person", [person], full=full) or self.store.rows(
            "name", records.spellings(person), full=full
        )
        if not rows:
            raise UsageError(
                f"no person is called {person!r}; `mien gallery list` shows the names, which must be given"
                " exactly"
            )
        if len({r.person for r in rows}) > 1:
            raise UsageError(
                f"{person!r} is the name of several people ({records.ids_of(rows)}); give the id"
            )
        return records.people_of(rows)[0], rows

    def _spelled(self, person: str) -> list[Row]:
        """All rows of a person by id, or of all people with this name in any Unicode form.

        Raises:
            UsageError: no person has that name, or several people have exactly the same name.
        """
        if not self.store.rows("person", [person], full=False):
            clean = records.normalized(person)
            rows = [r for r in self.store.rows(full=False) if records.normalized(r.name) == clean]
            if len({r.person for r in rows}) == len({r.name for r in rows}) > 1:
                return self.store.rows("person", {r.person for r in rows})
            if rows:
                return self._find(rows[0].name)[1]
        return self._find(person)[1]

    # --- Correct

    @_exclusive
    def correct(self, photo: Source, not_: str, *, pick: Literal["refuse", "largest"] = "refuse") -> str:
        """Record that the face of this photo is not that person.

        Faces that are nearer to this face than to the person's own faces no longer match. The embedding is
        stored with the person, without a picture. Enrolling the same photo as that person revokes this.

        Args:
            not_: name or id of the wrongly matched person.
            pick: see `add`.

        Returns:
            the correction's id.
        """
        self._find(not_)  # before the photo is read
        [reading] = self._reader().stream([photo])
        return self.correct_face(records.one_face(reading, pick), not_)

    @_exclusive
    def correct_face(self, face: Face, not_: str) -> str:
        """As `correct`, for a face that the gallery's network has read."""
        person, rows = self._find(not_)
        vector = np.asarray(face[self.task].embedding, np.float32)
        same = [r for r in rows if float(r.vector @ vector) >= SAME]
        if done := next((r for r in same if r.kind == CORRECTION), None):
            return done.id
        if enrolled := [r.id for r in same if r.kind == FACE]:
            raise UsageError(
                f"this picture is enrolled as {person.name!r} (face {enrolled[0]}); split it off to another"
                " name instead"
            )
        row = replace(
            rows[0],
            id=records.new_id("c"),
            kind=CORRECTION,
            added=records.now(),
            vector=vector,
            thumbnail=b"",
        )
        self.store.add([row])
        return row.id

    @_exclusive
    def edit(
        self,
        person: str,
        *,
        name: str | None = None,
        note: str | None = None,
        until: date | str | None = None,
    ) -> None:
        """Change a person's name, consent note or last day ("" for none). None keeps the present value."""
        found, rows = self._find(person)
        changes: dict[str, Any] = {"note": note, "until": None if until is None else records.day_of(until)}
        if name is not None and (clean := records.clean_name(name)) != found.name:
            there = self.store.rows("name", records.spellings(clean), full=False)
            if any(r.person != found.id for r in there):
                raise UsageError(
                    f"the name {clean!r} is already used; merge the two people, or choose another name"
                )
            changes["name"] = clean
        self.store.replace([replace(r, **{k: v for k, v in changes.items() if v is not None}) for r in rows])

    @_exclusive
    def merge(self, into: str, *others: str) -> str:
        """Merge several entries that are one person.

        `into` keeps its id, name and note, with the earliest last day of all. Corrections that a face of the
        merged person contradicts are removed.

        Returns:
            the person's id.
        """
        person, rows_of_person = self._find(into)
        rows = [r for o in others for r in self._find(o)[1] if r.person != person.id]
        if not rows:
            raise UsageError(f"merge needs two different people, not {into!r} twice")
        until = min((r.until for r in rows_of_person + rows if r.until), default="")
        merged = [
            replace(r, person=person.id, name=person.name, note=person.note, until=until)
            for r in rows_of_person + rows
        ]
        self.store.replace(merged)
        self._drop(merged, [r.vector for r in merged if r.kind == FACE], self._resembles())
        return person.id

    @_exclusive
    def split(self, person: str, faces: Sequence[str], name: str) -> str:
        """Move some faces of a person to the person of another name, new or known.

        The other faces keep id and name. A new person gets the same last day, but no consent note, since the
        note was given by somebody else.

        Args:
            person: name or id.
            faces: ids of the faces to move.
            name: of the person who gets them.

        Returns:
            the id of the person who gets them.
        """
        source, rows = self._find(person)
        if unknown := [f for f in faces if f not in source.faces]:
            raise UsageError(f"{source.name!r} has no face {unknown[0]!r}; it has: {', '.join(source.faces)}")
        if not faces or len(set(faces)) == len(source.faces):
            raise UsageError(
                f"split takes some of the {len(source.faces)} faces of {source.name!r}, not"
                f" {len(set(faces))}; edit renames"
            )
        name = records.clean_name(name)
        target = self.store.rows("name", records.spellings(name))
        if len({r.person for r in target}) > 1:
            raise UsageError(
                f"{name!r} is the name of several people ({records.ids_of(target)}); rename one by its id"
            )
        there = target[0] if target else None
        if there and there.person == source.id:
            raise UsageError(f"these faces are {name!r} already; give another name")
        base = there or Row("", records.new_id("p"), name, FACE, "", rows[0].until, "")
        moved = [
            replace(r, person=base.person, name=base.name, note=base.note, until=base.until)
            for r in rows
            if r.id in faces
        ]
        self.store.replace(moved)
        self._drop(target, [r.vector for r in moved], SAME)
        return base.person

    # --- Erase and export

    @_exclusive
    def forget(self, *people: str) -> Forgotten:
        """Erase people: embeddings, thumbnails, names, notes, corrections, old versions and index files.

        Corrections of other people that resemble an erased face are erased too, since they may show the same
        person. The rest of the table is written again, so erasing several people costs as much as one. A name
        is found in all its Unicode forms, even if they belong to several people.

        Args:
            people: names or ids.

        Raises:
            ErasureFailed: an older file is still there.
            UsageError: see `person`. Nobody is erased.
        """
        rows = {r.id: r for p in people for r in self._spelled(p)}
        if not rows:
            raise UsageError("forget needs at least one person; give a name or an id")
        faces = np.stack([r.vector for r in rows.values() if r.kind == FACE])
        for r in self.store.rows("kind", [CORRECTION]):
            if r.id not in rows and float((faces @ r.vector).max()) >= self._resembles():
                rows[r.id] = r
        erased = {r.person for r in rows.values() if r.kind == FACE}
        self.store.remove(list(rows))
        kinds = [r.kind for r in rows.values()]
        return Forgotten(len(erased), kinds.count(FACE), kinds.count(CORRECTION))

    @_exclusive
    def prune(self) -> list[Person]:
        """Erase all people whose last day is over, and return them."""
        over = [p for p in self.people() if p.expired]
        if over:
            self.forget(*(p.id for p in over))
        return over

    def export(
        self, folder: str | os.PathLike[str], *, person: str | None = None, embeddings: bool = False
    ) -> int:
        """Write all data in open formats, unsealed.

        The files are `people.jsonl`, one line per person, and `thumbnails/<face>.jpg`.

        Args:
            folder: a new or empty folder, so that no erased people remain in it.
            person: only this person.
            embeddings: write these too. A face can be reconstructed from an embedding.

        Returns:
            the number of people.

        Raises:
            UsageError: the folder is not empty, or see `person`.
        """
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target} is not empty; export to a new folder")
        rows = self.store.rows() if person is None else self._find(person)[1]
        (target / "thumbnails").mkdir(parents=True, exist_ok=True)
        chosen = records.exported(rows, lambda r: records.file_of(r, target), embeddings)
        with (target / "people.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(one, ensure_ascii=False) + "\n" for one in chosen)
        return len(chosen)

    def details(self, people: Iterable[str], *, embeddings: bool = False) -> list[dict[str, Any]]:
        """The lines of `export` for people by id, with thumbnails in base64. Unknown ids are left out."""
        return records.exported(self.store.rows("person", people), records.base64_of, embeddings)

    def stats(self) -> dict[str, Any]:
        """Counts, size on disk in bytes (None outside a file system), network and threshold.

        `stranger` is the probability of a false match for a person who is not enrolled, at this size, if
        faces were independent.
        """
        everybody, about = self.people(), self.store.about
        faces = sum(len(p.faces) for p in everybody)
        counts = {
            "people": len(everybody),
            "faces": faces,
            "corrections": sum(p.corrections for p in everybody),
        }
        rate = (
            round(self.rates.fmr(self._threshold), 6) if self.rates and self._threshold is not None else None
        )
        chance = None if rate is None else round(1 - (1 - rate) ** faces, 6)
        kept = {
            "expired": sum(p.expired for p in everybody),
            "sealed": about["sealed"],
            "model": about["model"],
            "task": about["task"],
        }
        return (
            counts
            | kept
            | self.store.stats()
            | {
                "threshold": self._threshold,
                "fmr": rate,
                "stranger": chance,
            }
        )

    def _resembles(self) -> float:
        """A loose threshold: the similarity at a false-match rate of 1 %."""
        return self.rates.threshold(1e-2) if self.rates else RESEMBLES

    def _reader(self) -> Reader:
        if self.reader is None:
            raise UsageError('this needs a network: Gallery(uri, mien.load(tasks=["identity"]))')
        return self.reader
