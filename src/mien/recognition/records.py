"""The records that a gallery returns, and the rules for names, days and thumbnails."""

from __future__ import annotations

import base64
import io
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from mien.errors import PhotoError, UsageError
from mien.inference.weights_file import weights_id
from mien.recognition.store import FACE, Row
from mien.types import Crop, Face, HasParts

if TYPE_CHECKING:
    from mien.inference.reader import Reader
    from mien.inference.reading import Reading
    from mien.tasks.quality import Quality

THUMBNAIL = 96  # pixels of the longer side


class NoFace(PhotoError):
    """A picture to enroll shows no face."""

    code = "no_face"


class SeveralFaces(PhotoError):
    """A picture to enroll shows several faces."""

    code = "several_faces"


class LowQuality(PhotoError):
    """A face to enroll has too low a quality."""

    code = "low_quality"


@dataclass(frozen=True, slots=True)
class Match:
    """A person and the similarity.

    Attributes:
        person: stable id.
        name: as enrolled.
        similarity: cosine of the face and the person's nearest face, -1..1. Not a probability.
        fmr: measured false-match rate at this similarity, per comparison, 0..1; similarities beyond the
            measured range get the rate of its end. None if nothing was measured for the network.
    """

    person: str
    name: str
    similarity: float
    fmr: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; similarities are rounded, since exact ones help to rebuild a face."""
        fmr = None if self.fmr is None else float(f"{self.fmr:.2g}")
        return {"person": self.person, "name": self.name, "similarity": round(self.similarity, 3), "fmr": fmr}


@dataclass(frozen=True, slots=True)
class Identification:
    """The result of identifying one face.

    Attributes:
        match: the best person; None if nobody reaches the threshold.
        candidates: the nearest people, best first, including those below the threshold.
        margin: similarity of the first minus that of the second; None with fewer than two people.
        threshold: minimum similarity of a match.
        face: the face; None for a search by embedding.
        cannot_tell: whether the quality of the face is below that of the gallery: there is no match then, and
            the candidates mean little.
    """

    match: Match | None
    candidates: tuple[Match, ...]
    margin: float | None
    threshold: float
    face: Face | None = field(default=None, repr=False)
    cannot_tell: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the embedding."""
        head: dict[str, Any] = {}
        if self.face is not None:
            head = {
                "box": [round(float(v), 2) for v in self.face.box],
                "score": round(float(self.face.score), 4),
            }
        margin = None if self.margin is None else round(self.margin, 3)
        match = None if self.match is None else self.match.to_dict()
        rest = {"threshold": round(self.threshold, 4), "candidates": [c.to_dict() for c in self.candidates]}
        unsure = {"cannot_tell": True} if self.cannot_tell else {}
        return head | {"match": match, "margin": margin} | unsure | rest


def quality_of(face: Face) -> Quality:
    """The quality of a face that was read.

    Raises:
        UsageError: the reader was not asked for it.
    """
    if "quality" not in face:
        raise UsageError(
            "min_quality needs the task quality; load the reader with tasks=['identity', 'quality'] and a"
            " network that has it, or leave min_quality out"
        )
    found: Quality = face["quality"]
    return found


def demand_quality(faces: Iterable[Face], minimum: float) -> None:
    """Check that faces are good enough to enroll.

    Raises:
        LowQuality: one is not; the message says what is wrong with it.
        UsageError: see `quality_of`.
    """
    for face in faces:
        quality = quality_of(face)
        if quality.score < minimum:
            raise LowQuality(
                f"the quality of a face is {quality.score:.2f}, below {minimum:g}; its weakest part is"
                f" {quality.weakest}. Enroll another photo, or lower min_quality"
            )


@dataclass(frozen=True, slots=True)
class Added:
    """An enrolled face.

    Attributes:
        face: its id.
        person: the person's id.
        name: the person's name.
        new: False if the same picture was enrolled already.
        possible_duplicate: another person whom this face matches too.
    """

    face: str
    person: str
    name: str
    new: bool
    possible_duplicate: Match | None


@dataclass(frozen=True, slots=True)
class Person:
    """One person of a gallery.

    Attributes:
        id: stable id.
        name: as enrolled, NFC.
        faces: ids of the enrolled faces.
        corrections: number of faces recorded as not this person.
        note: the consent note.
        until: last day of storage, "2027-01-31", or "" for none.
        expired: whether that day is over.
    """

    id: str
    name: str
    faces: tuple[str, ...]
    corrections: int
    note: str
    until: str
    expired: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        texts = {"note": self.note, "until": self.until or None, "expired": self.expired}
        return {
            "person": self.id,
            "name": self.name,
            "faces": list(self.faces),
            "corrections": self.corrections,
        } | texts


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Numbers of erased people, faces and corrections."""

    people: int
    faces: int
    corrections: int


def sha256_of(reader: Reader) -> str:
    """The sha256 of the reader's weights."""
    return weights_id(reader.model).sha256


def part_sha256_of(reader: Reader, task: str) -> str:
    """Identifies the part of the reader's network that computes one task; empty where that is not known."""
    model = reader.model
    return model.part_sha256(task) if isinstance(model, HasParts) else ""


def one_face(reading: Reading, pick: str) -> Face:
    """The face to enroll: the only one, or the largest if `pick` says so.

    Raises:
        NoFace: the photo shows none.
        SeveralFaces: it shows more than one, and `pick` is "refuse".
    """
    if reading.error is not None:
        raise reading.error
    where = reading.path or "the picture"
    if not reading:
        raise NoFace(
            f"no face was found in {where}; give one where the face is larger and turned to the camera"
        )
    if len(reading) > 1 and pick == "refuse":
        raise SeveralFaces(
            f'{where} shows {len(reading)} faces; crop it to one, or take the largest with pick="largest"'
            " (--pick largest)"
        )
    return reading[0]


def thumbnail(crop: Crop) -> bytes:
    """The crop as a small JPEG."""
    picture, buffer = Image.fromarray(crop.pixels), io.BytesIO()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def exported(rows: Sequence[Row], picture: Callable[[Row], str], embeddings: bool) -> list[dict[str, Any]]:
    """People as plain JSON values with all their stored data; `picture` gives the value for a thumbnail."""

    def plain(r: Row) -> dict[str, Any]:
        shown = {"thumbnail": picture(r)} if r.thumbnail else {}
        return (
            {"id": r.id, "added": r.added}
            | shown
            | ({"embedding": [float(v) for v in r.vector]} if embeddings else {})
        )

    both = {p.id: p.to_dict() | {"faces": [], "corrections": []} for p in people_of(rows)}
    for r in sorted(rows, key=lambda r: (r.added, r.id)):
        both[r.person]["faces" if r.kind == FACE else "corrections"].append(plain(r))
    return list(both.values())


def file_of(row: Row, folder: Path) -> str:
    """Write a thumbnail into an export's folder, and return its relative path."""
    name = f"thumbnails/{row.id}.jpg"
    (folder / name).write_bytes(row.thumbnail)
    return name


def base64_of(row: Row) -> str:
    """A thumbnail in base64."""
    return base64.b64encode(row.thumbnail).decode("ascii")


def people_of(rows: Iterable[Row]) -> list[Person]:
    """The people of a gallery's rows, in the order of enrollment."""
    by_person: dict[str, list[Row]] = {}
    for r in sorted(rows, key=lambda r: (r.added, r.id)):
        by_person.setdefault(r.person, []).append(r)
    now, people = today(), []
    for person, own in by_person.items():
        faces, r = tuple(r.id for r in own if r.kind == FACE), own[0]
        people.append(
            Person(
                person, r.name, faces, len(own) - len(faces), r.note, r.until, bool(r.until) and r.until < now
            )
        )
    return sorted(people, key=lambda p: (p.name.casefold(), p.id))


def ids_of(rows: Iterable[Row]) -> str:
    """The ids of the people in these rows, for a message."""
    return ", ".join(sorted({r.person for r in rows}))


_JOINERS = "\u200c\u200d"  # zero-width non-joiner and joiner


def clean_name(name: str) -> str:
    """A name as it is stored, see `normalized`.

    Raises:
        UsageError: it is empty, too long, or not printable.
    """
    clean = normalized(name)
    printable = clean.translate(dict.fromkeys(map(ord, _JOINERS))).isprintable()
    if not clean or len(clean) > 200 or not printable:
        shown = repr(name) if len(name) <= 60 else f"{name[:40]!r}... ({len(name)} characters)"
        raise UsageError(f"a name needs 1 to 200 printable characters, not {shown}")
    return clean


def normalized(name: str) -> str:
    """A name in the form in which it is stored: NFC, one plain space between words, nothing invisible.

    Invisible are marks of direction, byte order marks and the like, as they come along when text is pasted.
    The two joiners stay inside a name: Persian and Indic names are written with them.
    """
    seen = (c for c in name.strip() if c in _JOINERS or unicodedata.category(c) != "Cf")
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in seen)
    words = (word.strip(_JOINERS) for word in spaced.split(" "))
    return unicodedata.normalize("NFC", " ".join(word for word in words if word))


def spellings(name: str) -> list[str]:
    """The forms in which a gallery may hold a name: older galleries stored it as typed."""
    clean = name.strip()
    nfc, nfd = (unicodedata.normalize(form, clean) for form in ("NFC", "NFD"))
    return list(dict.fromkeys((normalized(name), nfc, nfd, clean)))


def day_of(until: date | str) -> str:
    """A day as text, "2027-01-31"; "" means no last day.

    Raises:
        UsageError: it is not a date, or it is over.
    """
    if until == "":
        return ""
    try:
        day = date.fromisoformat(until) if isinstance(until, str) else until
    except ValueError as e:
        raise UsageError(f"until takes a day such as 2027-01-31, not {until!r}") from e
    text = date(
        day.year, day.month, day.day
    ).isoformat()  # of a datetime its day; days are compared as text, so years have four digits
    if text < today():
        raise UsageError(f"until {text} is over; give a future day, or forget the person")
    return text


def today() -> str:
    """The date in UTC, YYYY-MM-DD."""
    return datetime.now(UTC).strftime("%Y-%m-%d")


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_id(kind: str) -> str:
    """A new random id that starts with its kind: "p", "f" or "c"."""
    return f"{kind}_{secrets.token_hex(8)}"
