"""The bodies of the HTTP API as pydantic models: requests and replies.

The routes validate requests with these models, and the OpenAPI document is made from them. docs/schema.md
describes the records in words.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from mien.io.image import FORMATS

TEXT_CHARACTERS = 4096  # in one text, as in one field of a form
ABSENT: Any = None  # default of a field that may be left out but is never null


def _plain(schema: dict[str, Any]) -> None:
    """JSON Schema without titles. A field whose default is None may be left out, but is never null."""
    schema.pop("title", None)
    for name, field in schema.get("properties", {}).items():
        field.pop("title", None)
        if field.get("default", "") is None:
            del field["default"]
            kinds = [kind for kind in field.pop("anyOf", ()) if kind != {"type": "null"}]
            schema["properties"][name] = {**kinds[0], **field} if kinds else field


class Model(BaseModel):
    """A JSON object with these members and no others."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_plain)


# --- What a client sends


def _names(texts: object) -> object:
    """Names between commas, in one text or in several."""
    if not isinstance(texts, list):
        return texts
    found = tuple(dict.fromkeys(n.strip() for text in texts for n in text.split(",") if n.strip()))
    if not found:
        raise PydanticCustomError("no_names", "must hold names; leave it out for the default tasks")
    return found


def _truth(text: object) -> object:
    if text not in ("true", "false"):
        raise PydanticCustomError("no_truth", "must be true or false")
    return text == "true"


Names = Annotated[tuple[str, ...], BeforeValidator(_names), WithJsonSchema({"type": "string"})]
Truth = Annotated[bool, BeforeValidator(_truth), WithJsonSchema({"type": "boolean"})]
Text = Annotated[str, Field(max_length=TEXT_CHARACTERS)]
FilledText = Annotated[str, Field(min_length=1, max_length=TEXT_CHARACTERS)]
Score = Annotated[float, Field(gt=0, lt=1)]
Pick = Literal["refuse", "largest"]

IMAGE = f"a file: {', '.join(FORMATS)}"
PICK = "for a picture with several faces"


class Form(Model):
    """Fields of a form, of a query, or of JSON.

    Attributes:
        repeated: names of the fields that may come more than once.
    """

    repeated: ClassVar[frozenset[str]] = frozenset()


class PictureForm(Form):
    """A form with one or more pictures."""

    image: list[bytes] = Field(min_length=1, description=IMAGE)


class AnalyzeForm(PictureForm):
    """Fields of `/v1/analyze`."""

    repeated: ClassVar[frozenset[str]] = frozenset({"tasks"})

    tasks: Names | None = Field(None, description="names between commas; identity comes only when named")
    score: Score | None = Field(None, description="minimum detection score of a face")
    thorough: Truth = Field(
        False, description="search at every scale and for turned faces too; takes 3 to 100 times as long"
    )
    faces: Annotated[int, Field(ge=1)] | None = Field(
        None, description="maximum number of faces: the largest are read"
    )
    masks: Literal["runs"] | None = Field(None, description="include the parsing masks")


class VerifyForm(PictureForm):
    """Fields of `/v1/verify`."""

    image: list[bytes] = Field(min_length=2, max_length=2, description=IMAGE)
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = Field(
        None, description="minimum similarity of one person"
    )
    fmr: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="accepted false-match rate per comparison, instead of threshold"
    )
    score: Score | None = Field(None, description="minimum detection score of a face")


class IdentifyForm(PictureForm):
    """Fields of `/v1/gallery/identify`."""

    top: int = Field(3, ge=1, le=100, description="people named per face")


class EnrollForm(PictureForm):
    """Fields that enroll a person."""

    name: FilledText = Field(description="the person's name")
    note: Text | None = Field(None, description="consent note: who agreed to what, and when")
    until: Text | None = Field(None, description="last day of storage, such as 2027-01-31 (UTC)")
    pick: Pick = Field("refuse", description=PICK)


class CorrectForm(PictureForm):
    """Fields that correct a person."""

    image: list[bytes] = Field(min_length=1, max_length=1, description=IMAGE)
    pick: Pick = Field("refuse", description=PICK)


class ExportQuery(Form):
    """The wanted page of an export."""

    person: Text | None = Field(None, description="only this person, by id")
    after: Text | None = Field(None, description="`next` of the previous page")
    limit: int = Field(100, ge=1, le=1000, description="people per page")
    embeddings: Truth = Field(False, description="include embeddings; a face can be reconstructed from them")


def _something(schema: dict[str, Any]) -> None:
    _plain(schema)
    schema["minProperties"] = 1


class EditBody(Model):
    """Changes to a person."""

    model_config = ConfigDict(json_schema_extra=_something)

    name: Text = Field(ABSENT)
    note: Text = Field(ABSENT)
    until: Text = Field(ABSENT, description="last day of storage; empty: none")

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError("nothing", "there is nothing to change; send name, note or until")
        return self


class MergeBody(Model):
    """People to merge into a person."""

    others: list[Text] = Field(min_length=1, description="ids of people who are the same person")


class SplitBody(Model):
    """Faces to move to another person."""

    faces: list[Text] = Field(min_length=1, description="ids of faces, some of the person's")
    name: FilledText = Field(description="name of the person who gets them")


# --- Replies

Share = Annotated[float, Field(ge=0, le=1)]
Point = Annotated[list[float], Field(min_length=2, max_length=2)]
Box = Annotated[
    list[float],
    Field(min_length=4, max_length=4, description="x1, y1, x2, y2 in pixels of the upright photo"),
]


class Network(Model):
    """Name and SHA-256 of the weights."""

    name: str
    sha256: str


class Face(Model):
    """A face; the largest comes first. Other members are the tasks' answers, see /v1/models."""

    model_config = ConfigDict(extra="allow")

    box: Box
    score: Share
    points5: list[Point] = Field(min_length=5, max_length=5, description="of the detector")
    points5_network: list[Point] = Field(
        ABSENT, min_length=5, max_length=5, description="of the task points5, if it was requested"
    )
    roll: float = Field(
        ABSENT, description="degrees clockwise; only if the face is rotated by more than 60 degrees"
    )


class PhotoRecord(Model):
    """Common members of all records of a picture that was read."""

    schema_: int = Field(alias="schema")
    path: None
    width: int
    height: int
    model: Network
    timing_ms: dict[str, float]


class Photo(PhotoRecord):
    """A picture that was read: the record of `mien analyze`."""

    faces: list[Face]


class ErrorInfo(Model):
    """A stable code, and a message for people."""

    code: str
    message: str


class FailedPhoto(Model):
    """A picture that could not be read."""

    schema_: int = Field(alias="schema")
    path: None
    error: ErrorInfo


class Analysis(Model):
    """The records of the pictures, in the order of the request."""

    request_id: str
    results: list[Photo | FailedPhoto]


class ComparedFace(Model):
    """The compared face of a picture, and the number of faces."""

    box: Box
    score: Share
    found: int


class Verification(Model):
    """The similarity of two faces, and the decision if there is a threshold (sent, or measured)."""

    request_id: str
    similarity: float = Field(ge=-1, le=1, description="cosine, not a probability; three decimals")
    same: bool = Field(ABSENT, description="similarity >= threshold; only with one that was sent or measured")
    threshold: float = Field(ABSENT)
    # may be left out, and may be null: no default that `_plain` would see
    false_match_rate: float | None = Field(
        default_factory=lambda: None,
        description="false-match rate at the threshold; null if it was not measured",
    )
    false_non_match_rate: float | None = Field(
        default_factory=lambda: None, description="false-non-match rate at the threshold"
    )
    source: str = Field(ABSENT, description="source of the threshold")
    task: str
    model: Network
    faces: list[ComparedFace] = Field(min_length=2, max_length=2)


class OfferedTask(Model):
    """An offered task."""

    name: str
    sensitive: bool
    default: bool


class OfferedNetwork(Network):
    """Weights and their offered tasks."""

    tasks: list[OfferedTask]


class Models(Model):
    """The offered networks and the limits."""

    request_id: str
    models: list[OfferedNetwork]
    limits: dict[str, float]


class Match(Model):
    """A person and the similarity."""

    person: str
    name: str
    similarity: float
    fmr: float | None


class IdentifiedFace(Model):
    """An identified face; match null: unknown."""

    box: Box
    score: Share
    match: Match | None
    margin: float | None
    threshold: float
    candidates: list[Match]


class IdentifiedPhoto(PhotoRecord):
    """A picture that was read, with identified faces."""

    faces: list[IdentifiedFace]


class Identified(Model):
    """The identified pictures, in the order of the request."""

    request_id: str
    results: list[IdentifiedPhoto | FailedPhoto]


class EnrolledFace(Model):
    """new: false if the same picture was enrolled already. possible_duplicate: another matching person."""

    face: str
    person: str
    name: str
    new: bool
    possible_duplicate: dict[str, Any] | None


class Enrolled(Model):
    """The faces enrolled, in the order of the pictures."""

    request_id: str
    added: list[EnrolledFace]


class PersonInfo(Model):
    """Common members of all records of a person."""

    person: str
    name: str
    note: str
    until: str | None
    expired: bool


class Person(PersonInfo):
    """A person, with the ids of the faces and the number of corrections."""

    faces: list[str]
    corrections: int


class People(Model):
    """Several people."""

    request_id: str
    people: list[Person]


class Changed(Model):
    """The person after the change."""

    request_id: str
    person: Person


class Corrected(Model):
    """The id of the correction."""

    request_id: str
    correction: str


class Stats(Model):
    """Counts, sizes and error rates of the gallery."""

    request_id: str
    people: int
    faces: int
    corrections: int
    expired: int
    sealed: bool
    model: str
    task: str
    bytes: int | None
    versions: int
    indexed: bool
    threshold: float
    fmr: float | None
    stranger: float | None = Field(
        description="probability of a false match for a person not enrolled, if faces were independent"
    )


class KeptFace(Model):
    """A stored face or correction."""

    id: str
    added: str = Field(description="UTC, ISO 8601")
    thumbnail: str = Field(ABSENT, description="a JPEG, base64")
    embedding: list[float] = Field(ABSENT)


class ExportedPerson(PersonInfo):
    """A person with all stored data."""

    faces: list[KeptFace]
    corrections: list[KeptFace]


class Export(Model):
    """A page of the gallery."""

    request_id: str
    people: list[ExportedPerson]
    next: str | None = Field(description="send it as `after` for the next page; null on the last page")


class Forgotten(Model):
    """Numbers of erased faces and corrections."""

    request_id: str
    people: int
    faces: int
    corrections: int


class Health(Model):
    """Whether the server is alive, or ready."""

    status: str


class ErrorDetails(ErrorInfo):
    """A stable code, a message for people, and the values behind it."""

    details: dict[str, Any]


class Error(Model):
    """A request that was refused, or that failed."""

    error: ErrorDetails
    request_id: str


REPLIES: tuple[type[Model], ...] = (
    Analysis,
    Verification,
    Models,
    Identified,
    Enrolled,
    People,
    Changed,
    Corrected,
    Stats,
    Export,
    Forgotten,
    Health,
    Error,
)
