"""A gallery: people, several faces each, on disk. Who is this, who is in it, and forget them truly.

A gallery belongs to one network: similarities of two networks cannot be compared, so it remembers the
weights' sha256 and the view, and refuses others. It holds biometric data; see docs/gallery.md for what is
kept and what stays readable.
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
from mien.io.image import Source
from mien.recognition import records
from mien.recognition.error_rates import Rates
from mien.recognition.records import Added, Answer, Forgotten, Match, NoFace, Person, SeveralFaces
from mien.recognition.store import FACE, NOT, ErasureFailed, Row, Store, new_key, new_store, open_store
from mien.types import Face, Floats

if TYPE_CHECKING:
    from mien.inference.reader import Reader

__all__ = [
    "Added",
    "Answer",
    "ErasureFailed",
    "Forgotten",
    "Gallery",
    "Match",
    "NoFace",
    "Person",
    "SeveralFaces",
    "new_key",
]

SAME = 0.9999  # similarity from which two pictures are one picture
ALIKE = 0.5  # Ours: what counts as alike for a network whose false matches were not measured
_log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def _alone(method: Callable[Concatenate[Gallery, P], R]) -> Callable[Concatenate[Gallery, P], R]:
    """One thread writes at a time: each change reads first."""

    @functools.wraps(method)
    def locked(self: Gallery, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._writing:
            return method(self, *args, **kwargs)

    return locked


class Gallery:
    """People by their faces.

    Args:
        uri: a folder, or what LanceDB takes besides (s3://, gs://, az://). It is made by the first `add`.
        reader: `mien.load(tasks=["identity"])`; not needed to list, export, forget and the like.
        fmr: how often two strangers may match, per comparison; needs a table that was measured with this
            network.
        threshold: a similarity to use in its place.
        key: a key file (`new_key`), for a gallery that is sealed.
        thumbnails: keep a small picture of each enrolled face.
        options: LanceDB's storage options.

    Many galleries may read a place while one writes.

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
    ):
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
        self._threshold = threshold
        if threshold is None and self.rates is not None:
            self._threshold = self.rates.threshold(fmr)
        if self._store is not None:
            self._normalize_names()

    @_alone
    def _normalize_names(self) -> None:
        """Bring the names of a gallery of an older version into one Unicode form (NFC).

        People whose names differ in the form only become one person, as if they were enrolled today.
        Where the gallery cannot be written, it is read as it is: names are looked up in both forms.
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
                    _log.warning("the people %s are one now: both were called %r", ", ".join(people), clean)
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
                'the reader does not answer identity; build it with mien.load(tasks=["identity"])'
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
        for what, mine in pins.items():
            if (pinned := self._store.about[what]) != mine:
                was, now = (f"{v[:16]}..." if what == "model" else str(v) for v in (pinned, mine))
                raise UsageError(
                    f"the gallery {self.uri} was made with {what} {was}, and this reader has {now}: their"
                    " faces cannot be compared; load the same weights, or enrol the people again in a new"
                    " folder"
                )

    @property
    def store(self) -> Store:
        """The table.

        Raises:
            UsageError: nobody was enrolled yet, so that there is none.
        """
        if self._store is None:
            self._store = open_store(
                self.uri, self._key, self._options
            )  # another process may have begun it since
            if self._store is None:
                raise UsageError(
                    f"there is no gallery at {self.uri}; check the path, or begin one with: mien gallery add"
                )
            if self.reader is not None:
                self._check(self.reader)
        return self._store

    @property
    def threshold(self) -> float:
        """The similarity that makes a match, inclusive.

        Raises:
            UsageError: no table of false matches is known for this network, and no threshold was given.
        """
        if self._threshold is None:
            raise UsageError(
                "no false-match rates were measured for this network; give threshold= (bench/speed/gallery.py"
                " rates measures them)"
            )
        return self._threshold

    # --- Enrol

    @_alone
    def add(
        self,
        photos: Source | list[Source] | tuple[Source, ...],
        name: str,
        *,
        note: str | None = None,
        until: date | str | None = None,
        pick: Literal["refuse", "largest"] = "refuse",
    ) -> list[Added]:
        """Enrol the one face of each photo. A known name gets more faces, a new one a new person.

        Args:
            note: the consent note.
            until: the last day on which the person may be kept and found, UTC; both are the person's, and
                None leaves what is there.
            pick: what to do where a photo shows several faces: "refuse", or take the "largest".

        Raises:
            NoFace, SeveralFaces: of any photo; then none of this call is enrolled. PhotoError: as the
                reader's.
        """
        if pick not in ("refuse", "largest"):
            raise UsageError(f'pick takes "refuse" or "largest", not {pick!r}')
        name, last = records.clean_name(name), None if until is None else records.day_of(until)
        many = photos if isinstance(photos, (list, tuple)) else [photos]
        faces = [records.one_face(reading, pick) for reading in self._reader().stream(many)]
        if not faces:
            raise UsageError("no photo was given; name at least one")
        return self.enroll(faces, name, note=note, until=last)

    @_alone
    def enroll(
        self,
        faces: Sequence[Face],
        name: str,
        *,
        note: str | None = None,
        until: date | str | None = None,
    ) -> list[Added]:
        """As `add`, for faces that were read already, with the gallery's network.

        Args:
            faces: one per photo, with the answer of the gallery's task.
            name: whose faces these are.
            note: see `add`.
            until: see `add`.

        Raises:
            UsageError: no face was given, or see `add`.
            UnknownTask: a face without that answer; then none of this call is enrolled.
        """
        name, last = records.clean_name(name), None if until is None else records.day_of(until)
        reader = self._reader()
        if not faces:
            raise UsageError("no face was given; give at least one")
        sizes = [len(face[self.task].embedding) for face in faces]
        if self._store is None and open_store(self.uri, self._key, self._options) is None:
            pin = {
                "model": records.sha256_of(reader),
                "task": self.task,
                "view": reader.model.view.to_dict(),
                "d": sizes[0],
            }
            self._store = new_store(self.uri, self._key, self._options, pin)
        return self._enrol(name, faces, note, last)

    def _enrol(self, name: str, faces: Sequence[Face], note: str | None, until: str | None) -> list[Added]:
        known = self.store.rows("name", records.spellings(name))
        if len({r.person for r in known}) > 1:
            raise UsageError(
                f"{name!r} is the name of several people here ({records.ids_of(known)}); merge them, or"
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
            alike = None
            if self._threshold is not None:
                alike = next(
                    (
                        m
                        for m in self._people(vector, 2)
                        if m.person != base.person and m.similarity >= self._threshold
                    ),
                    None,
                )
            if alike:
                _log.warning(
                    "a face enrolled as %r is as near to %r as a match (%.3f)",
                    name,
                    alike.name,
                    alike.similarity,
                )
            if twin is None:
                picture = records.thumbnail(face.crop) if self.thumbnails and face.crop else b""
                twin = replace(
                    base, id=records.new_id("f"), added=records.now(), vector=vector, thumbnail=picture
                )
                new.append(twin)
                here.append(twin)
            out.append(Added(twin.id, base.person, name, twin in new, alike))
        if new:
            self.store.add(new)
        # who enrols a picture takes back that it is not that person
        self._drop(known, [f[self.task].embedding for f in faces], SAME)
        return out

    def _drop(self, rows: Iterable[Row], faces: Sequence[Floats], similarity: float) -> None:
        """Remove the corrections among the rows that one of these faces, now the person's, contradicts."""
        if wrong := [
            r.id for r in rows if r.kind == NOT and float((np.stack(faces) @ r.vector).max()) >= similarity
        ]:
            self.store.remove(wrong)

    # --- Ask

    def identify(self, photo: Source, *, top: int = 3) -> list[Answer]:
        """Who is in a photo: an answer a face, largest face first.

        Raises:
            PhotoError: the photo cannot be read. UsageError: see `Gallery`, `store` and `threshold`.
        """
        return self.answers(self._reader()(photo), top=top)

    def answers(self, reading: Iterable[Face], *, top: int = 3) -> list[Answer]:
        """As `identify`, for faces that were read already, with the gallery's network."""
        return [
            self.search(face[self.task or self.store.about["task"]].embedding, top=top, face=face)
            for face in reading
        ]

    def search(self, embedding: Floats, *, top: int = 3, face: Face | None = None) -> Answer:
        """The nearest people to an embedding (d,) of length 1; expired people are not among them."""
        if top < 1:
            raise UsageError(f"top must be 1 or more people, not {top}")
        people = self._people(np.asarray(embedding, np.float32), max(top, 2))
        margin = people[0].similarity - people[1].similarity if len(people) > 1 else None
        sure = bool(people) and people[0].similarity >= self.threshold
        return Answer(people[0] if sure else None, tuple(people[:top]), margin, self.threshold, face)

    def _people(self, vector: Floats, wanted: int) -> list[Match]:
        """The nearest people. A person's nearest row speaks: is that a correction, the person is left out."""
        if vector.shape != (self.store.about["d"],):
            raise UsageError(
                f"an embedding of this gallery has {self.store.about['d']} numbers, this one has shape"
                f" {vector.shape}"
            )
        k, day = max(16, 4 * wanted), records.today()
        while True:
            rows = self.store.near(vector, k)
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
        """Everybody, by name."""
        return records.people_of(self.store.rows(full=False))

    def who(self, person: str) -> Person:
        """One person, by name or id.

        Raises:
            UsageError: nobody of that name, or several.
        """
        return self._find(person, full=False)[0]

    def _find(self, who: str, *, full: bool = True) -> tuple[Person, list[Row]]:
        rows = self.store.rows("person", [who], full=full) or self.store.rows(
            "name", records.spellings(who), full=full
        )
        if not rows:
            raise UsageError(
                f"nobody here is called {who!r}; `mien gallery list` shows who is, names are compared letter"
                " by letter"
            )
        if len({r.person for r in rows}) > 1:
            raise UsageError(f"{who!r} is the name of several people ({records.ids_of(rows)}); give the id")
        return records.people_of(rows)[0], rows

    def _spelled(self, who: str) -> list[Row]:
        """All rows of a person by id, or of everybody whose name is this one in any Unicode form.

        Raises:
            UsageError: nobody of that name, or several people whose names are equal letter by letter.
        """
        if not self.store.rows("person", [who], full=False):
            clean = records.normalized(who.strip())
            rows = [r for r in self.store.rows(full=False) if records.normalized(r.name) == clean]
            if len({r.person for r in rows}) == len({r.name for r in rows}) > 1:
                return self.store.rows("person", {r.person for r in rows})
            if rows:
                return self._find(rows[0].name)[1]
        return self._find(who)[1]

    # --- Mend

    @_alone
    def correct(self, photo: Source, not_: str, *, pick: Literal["refuse", "largest"] = "refuse") -> str:
        """The face of this photo is not that person: it, and what is nearer to it than to the person, is no
        match from now on.

        Keeps the face's embedding (no picture) with the person. Enrol the same photo as that person to take
        it back. Returns the correction's id.
        """
        self._find(not_)  # before the photo is read
        [reading] = self._reader().stream([photo])
        return self.correct_face(records.one_face(reading, pick), not_)

    @_alone
    def correct_face(self, face: Face, not_: str) -> str:
        """As `correct`, for a face that was read already, with the gallery's network."""
        person, rows = self._find(not_)
        vector = np.asarray(face[self.task].embedding, np.float32)
        same = [r for r in rows if float(r.vector @ vector) >= SAME]
        if done := next((r for r in same if r.kind == NOT), None):
            return done.id
        if enrolled := [r.id for r in same if r.kind == FACE]:
            raise UsageError(
                f"this picture is enrolled as {person.name!r} (face {enrolled[0]}); split it off to another"
                " name instead"
            )
        row = replace(
            rows[0],
            id=records.new_id("c"),
            kind=NOT,
            added=records.now(),
            vector=vector,
            thumbnail=b"",
        )
        self.store.add([row])
        return row.id

    @_alone
    def edit(
        self, who: str, *, name: str | None = None, note: str | None = None, until: date | str | None = None
    ) -> None:
        """Another name, consent note or last day ("" for no end); None leaves what is there."""
        person, rows = self._find(who)
        changes: dict[str, Any] = {"note": note, "until": None if until is None else records.day_of(until)}
        if name is not None and (clean := records.clean_name(name)) != person.name:
            there = self.store.rows("name", records.spellings(clean), full=False)
            if any(r.person != person.id for r in there):
                raise UsageError(f"{clean!r} is here already; merge the two, or choose another name")
            changes["name"] = clean
        self.store.replace([replace(r, **{k: v for k, v in changes.items() if v is not None}) for r in rows])

    @_alone
    def merge(self, into: str, *others: str) -> str:
        """These are one person. `into` keeps id, name and note; the earliest last day of all counts. Returns
        the id.

        Corrections that a face of the merged person contradicts are dropped.
        """
        person, mine = self._find(into)
        rows = [r for o in others for r in self._find(o)[1] if r.person != person.id]
        if not rows:
            raise UsageError(f"merge needs somebody else than {into!r}; name two people")
        until = min((r.until for r in mine + rows if r.until), default="")
        merged = [
            replace(r, person=person.id, name=person.name, note=person.note, until=until) for r in mine + rows
        ]
        self.store.replace(merged)
        self._drop(merged, [r.vector for r in merged if r.kind == FACE], self._alike())
        return person.id

    @_alone
    def split(self, who: str, faces: Sequence[str], name: str) -> str:
        """Some faces of a person are somebody else: give them to a person of that name, new or known. Returns
        its id.

        The rest keeps id and name. A new person has the same last day, but no consent note: it was not
        theirs.
        """
        person, rows = self._find(who)
        if strange := [f for f in faces if f not in person.faces]:
            raise UsageError(f"{person.name!r} has no face {strange[0]!r}; it has: {', '.join(person.faces)}")
        if not faces or len(set(faces)) == len(person.faces):
            raise UsageError(
                f"split takes some of the {len(person.faces)} faces of {person.name!r}, not"
                f" {len(set(faces))}; edit renames"
            )
        name = records.clean_name(name)
        theirs = self.store.rows("name", records.spellings(name))
        if len({r.person for r in theirs}) > 1:
            raise UsageError(
                f"{name!r} is the name of several people here ({records.ids_of(theirs)}); rename one by"
                " its id"
            )
        there = theirs[0] if theirs else None
        if there and there.person == person.id:
            raise UsageError(f"these faces are {name!r} already; give another name")
        base = there or Row("", records.new_id("p"), name, FACE, "", rows[0].until, "")
        moved = [
            replace(r, person=base.person, name=base.name, note=base.note, until=base.until)
            for r in rows
            if r.id in faces
        ]
        self.store.replace(moved)
        self._drop(theirs, [r.vector for r in moved], SAME)
        return base.person

    # --- Erase and take away

    @_alone
    def forget(self, *who: str) -> Forgotten:
        """Erase people: vectors, thumbnails, names, notes, corrections, old versions and index files.

        Corrections kept with other people go too where they resemble a forgotten face: they may be pictures
        of it. What is left is written anew, so several people at once cost as much as one. A name is found in
        all its Unicode forms, also where they are several people.

        Raises:
            NotErased: an older file is still there. UsageError: see `who`; then nobody is forgotten.
        """
        rows = {r.id: r for w in who for r in self._spelled(w)}
        if not rows:
            raise UsageError("forget whom? name at least one person")
        faces = np.stack([r.vector for r in rows.values() if r.kind == FACE])
        for r in self.store.rows("kind", [NOT]):
            if r.id not in rows and float((faces @ r.vector).max()) >= self._alike():
                rows[r.id] = r
        people = {r.person for r in rows.values() if r.kind == FACE}
        self.store.remove(list(rows))
        kinds = [r.kind for r in rows.values()]
        return Forgotten(len(people), kinds.count(FACE), kinds.count(NOT))

    @_alone
    def prune(self) -> list[Person]:
        """Forget everybody whose last day is over; returns who that was."""
        over = [p for p in self.people() if p.expired]
        if over:
            self.forget(*(p.id for p in over))
        return over

    def export(
        self, folder: str | os.PathLike[str], *, who: str | None = None, embeddings: bool = False
    ) -> int:
        """Everything in open formats: `people.jsonl`, a line a person, and `thumbnails/<face>.jpg`. Not
        sealed.

        Args:
            who: this person only.
            embeddings: these too; a face can be rebuilt from them, so only when asked for.

        Returns:
            the number of people. The folder must be new or empty: else people who were forgotten might stay
            in it.
        """
        target = Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UsageError(f"{target} is not empty; export to a new folder")
        rows = self.store.rows() if who is None else self._find(who)[1]
        (target / "thumbnails").mkdir(parents=True, exist_ok=True)
        chosen = records.exported(rows, lambda r: records.file_of(r, target), embeddings)
        with (target / "people.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(person, ensure_ascii=False) + "\n" for person in chosen)
        return len(chosen)

    def details(self, people: Iterable[str], *, embeddings: bool = False) -> list[dict[str, Any]]:
        """As the lines of `export`, of some people by id; thumbnails in base64.

        Ids that are not here are left out.
        """
        return records.exported(self.store.rows("person", people), records.base64_of, embeddings)

    def stats(self) -> dict[str, Any]:
        """Counts, size on disk in bytes (None off the file system), what the gallery is pinned to, and the
        threshold.

        `stranger` is the chance of a false match for somebody who is not in here, at this size, if faces were
        independent.
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

    def _alike(self) -> float:
        """Loose on purpose: the similarity that one pair of strangers in a hundred reaches."""
        return self.rates.threshold(1e-2) if self.rates else ALIKE

    def _reader(self) -> Reader:
        if self.reader is None:
            raise UsageError('this needs a network: Gallery(uri, mien.load(tasks=["identity"]))')
        return self.reader
