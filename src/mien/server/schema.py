"""What the OpenAPI page says beyond the routes: bodies, records and examples.

docs/schema.md is the same in words.
"""

from __future__ import annotations

from typing import Any

from mien.io.image import FORMATS

Json = dict[str, Any]


def ref(name: str) -> Json:
    """A component by name."""
    return {"$ref": f"#/components/schemas/{name}"}


def record(properties: Json, *, optional: tuple[str, ...] = (), more: bool = False, about: str = "") -> Json:
    """An object; all its properties are required but the optional ones."""
    out: Json = {
        "type": "object",
        "properties": properties,
        "required": [n for n in properties if n not in optional],
    }
    if not more:
        out["additionalProperties"] = False
    return out | ({"description": about} if about else {})


NUMBER, INTEGER, TEXT, TRUTH, PART = (
    {"type": "number"},
    {"type": "integer"},
    {"type": "string"},
    {"type": "boolean"},
    {"type": "number", "minimum": 0, "maximum": 1},
)
RATE = {"type": ["number", "null"]}
POINT = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
MODEL = record({"name": TEXT, "sha256": TEXT})

FACE = record(
    {
        "box": {
            "type": "array",
            "items": NUMBER,
            "minItems": 4,
            "maxItems": 4,
            "description": "x1, y1, x2, y2 in pixels of the upright photo",
        },
        "score": PART,
        "points5": {"type": "array", "items": POINT, "minItems": 5, "maxItems": 5},
        "roll": NUMBER
        | {"description": "degrees clockwise; only where the face is turned by more than 60 degrees"},
    },
    optional=("roll",),
    more=True,
    about=(
        "Largest first. Further members are the tasks' answers; those of this server's model are listed by"
        " /v1/models."
    ),
)
PHOTO = record(
    {
        "schema": INTEGER,
        "path": {"type": "null"},
        "width": INTEGER,
        "height": INTEGER,
        "model": MODEL,
        "timing_ms": {"type": "object", "additionalProperties": NUMBER},
        "faces": {"type": "array", "items": ref("Face")},
    },
    about="A picture that was read: the record of `mien analyze`.",
)
MATCH = record({"person": TEXT, "name": TEXT, "similarity": NUMBER, "fmr": RATE})
IDENTIFIED = PHOTO | {
    "properties": PHOTO["properties"]
    | {
        "faces": {
            "type": "array",
            "items": record(
                {
                    "box": FACE["properties"]["box"], "score": PART, "match": {"anyOf": [MATCH, {"type": "null"}]}, "margin": RATE,
                    "threshold": NUMBER, "candidates": {"type": "array", "items": MATCH},
                }
            ),
        }
    },
    "description": "A picture that was read, and who is in it; match null: unknown.",
}  # fmt: skip
PERSON = {
    "person": TEXT, "name": TEXT, "faces": {"type": "array", "items": TEXT}, "corrections": INTEGER, "note": TEXT,
    "until": {"type": ["string", "null"]}, "expired": TRUTH,
}  # fmt: skip
KEPT = record(
    {
        "id": TEXT,
        "added": TEXT | {"description": "UTC, ISO 8601"},
        "thumbnail": TEXT | {"description": "a JPEG, base64"},
        "embedding": {"type": "array", "items": NUMBER},
    },
    optional=("thumbnail", "embedding"),
)
FAILED = record(
    {"schema": INTEGER, "path": {"type": "null"}, "error": record({"code": TEXT, "message": TEXT})},
    about="A picture that was not.",
)
COMPONENTS: Json = {
    "Face": FACE,
    "Photo": PHOTO,
    "FailedPhoto": FAILED,
    "Analysis": record({"request_id": TEXT, "results": {"type": "array", "items": {"anyOf": [ref("Photo"), ref("FailedPhoto")]}}}),
    "Verification": record(
        {
            "request_id": TEXT,
            "similarity": {"type": "number", "minimum": -1, "maximum": 1, "description": "cosine, not a probability; three decimals"},
            "same": {"type": "boolean", "description": "similarity >= threshold; where one was sent, or measured for the weights"},
            "threshold": NUMBER,
            "false_match_rate": RATE | {"description": "of two strangers' faces, at the threshold; null where nobody measured it"},
            "false_non_match_rate": RATE | {"description": "of two pictures of one person"},
            "source": TEXT | {"description": "where the threshold is from"},
            "task": TEXT,
            "model": MODEL,
            "faces": {
                "type": "array",
                "items": record({"box": FACE["properties"]["box"], "score": PART, "found": INTEGER}),
                "minItems": 2, "maxItems": 2, "description": "the face compared of each picture, and how many there were",
            },
        },
        optional=("same", "threshold", "false_match_rate", "false_non_match_rate", "source"),
    ),
    "Models": record(
        {
            "request_id": TEXT,
            "models": {
                "type": "array",
                "items": record(
                    {
                        "name": TEXT, "sha256": TEXT,
                        "tasks": {"type": "array", "items": record({"name": TEXT, "sensitive": TRUTH, "default": TRUTH})},
                    }
                ),
            },
            "limits": {"type": "object", "additionalProperties": NUMBER},
        }
    ),
    "Identified": record({"request_id": TEXT, "results": {"type": "array", "items": {"anyOf": [IDENTIFIED, ref("FailedPhoto")]}}}),
    "Enrolled": record(
        {
            "request_id": TEXT,
            "added": {
                "type": "array",
                "items": record(
                    {"face": TEXT, "person": TEXT, "name": TEXT, "new": TRUTH, "alike": {"type": ["object", "null"]}},
                    about="new: false where the same picture was there already. alike: another person as near as a match.",
                ),
            },
        }
    ),
    "People": record(
        {
            "request_id": TEXT,
            "people": {
                "type": "array",
                "items": record(PERSON),
            },
        }
    ),
    "Changed": record({"request_id": TEXT, "person": record(PERSON)}),
    "Corrected": record({"request_id": TEXT, "correction": TEXT}),
    "Stats": record(
        {
            "request_id": TEXT, "people": INTEGER, "faces": INTEGER, "corrections": INTEGER, "expired": INTEGER, "sealed": TRUTH,
            "model": TEXT, "task": TEXT, "bytes": {"type": ["integer", "null"]}, "versions": INTEGER, "indexed": TRUTH,
            "threshold": NUMBER, "fmr": RATE,
            "stranger": RATE | {"description": "the chance of a false match for somebody who is not here, were faces independent"},
        }
    ),
    "Export": record(
        {
            "request_id": TEXT,
            "people": {
                "type": "array",
                "items": record(PERSON | {n: {"type": "array", "items": KEPT} for n in ("faces", "corrections")}),
            },
            "next": {"type": ["string", "null"], "description": "send it as after for the next part; null: that was the last"},
        }
    ),
    "Forgotten": record({"request_id": TEXT, "people": INTEGER, "faces": INTEGER, "corrections": INTEGER}),
    "Health": record({"status": TEXT}),
    "Error": record({"error": record({"code": TEXT, "message": TEXT, "details": {"type": "object"}}), "request_id": TEXT}),
}  # fmt: skip

_IMAGE = {
    "type": "array",
    "items": {"type": "string", "format": "binary"},
    "description": f"a file: {', '.join(FORMATS)}",
}
_PICK = {
    "type": "string",
    "enum": ["refuse", "largest"],
    "description": "where a picture shows several faces; refuse if not sent",
}
_FORM_SCORE = PART | {"description": "least score of a face"}
ANALYZE_FORM = record(
    {
        "image": _IMAGE | {"minItems": 1},
        "tasks": TEXT | {"description": "names between commas; identity comes only when named"},
        "score": _FORM_SCORE,
        "faces": {"type": "integer", "minimum": 1, "description": "read the largest so many"},
        "masks": {"type": "string", "enum": ["runs"], "description": "answer the parsing masks too"},
    },
    optional=("tasks", "score", "faces", "masks"),
)
VERIFY_FORM = record(
    {
        "image": _IMAGE | {"minItems": 2, "maxItems": 2},
        "threshold": {
            "type": "number",
            "minimum": -1,
            "maximum": 1,
            "description": "similarity from which they are the same",
        },
        "fmr": PART | {"description": "in its place: how often two strangers may be called the same"},
        "score": _FORM_SCORE,
    },
    optional=("threshold", "fmr", "score"),
)
IDENTIFY_FORM = record(
    {
        "image": _IMAGE | {"minItems": 1},
        "top": {"type": "integer", "minimum": 1, "maximum": 100, "description": "people named a face"},
    },
    optional=("top",),
)
ENROL_FORM = record(
    {
        "image": _IMAGE | {"minItems": 1},
        "name": TEXT,
        "note": TEXT | {"description": "consent note: who agreed to what, and when"},
        "until": TEXT | {"description": "last day of keeping, such as 2027-01-31 (UTC)"},
        "pick": _PICK,
    },
    optional=("note", "until", "pick"),
)
CORRECT_FORM = record({"image": _IMAGE | {"minItems": 1, "maxItems": 1}, "pick": _PICK}, optional=("pick",))
_IDS = {"type": "array", "items": TEXT, "minItems": 1}
EDIT_BODY = record(
    {"name": TEXT, "note": TEXT, "until": TEXT | {"description": "last day of keeping; empty: no end"}},
    optional=("name", "note", "until"),
) | {"minProperties": 1}
EDIT_EXAMPLE = {"name": "Ann", "until": "2999-01-31"}
MERGE_BODY = record({"others": _IDS | {"description": "ids of people who are the same person"}})
MERGE_EXAMPLE = {"others": ["p_2"]}
SPLIT_BODY = record(
    {
        "faces": _IDS | {"description": "ids of faces, some of the person's"},
        "name": TEXT | {"description": "whose they are"},
    }
)
SPLIT_EXAMPLE = {"faces": ["f_2"], "name": "Eve"}


def _query(name: str, kind: Json, about: str) -> Json:
    return {"name": name, "in": "query", "required": False, "schema": kind, "description": about}


EXPORT_QUERY: Json = {
    "parameters": [
        _query("person", TEXT, "this one only, by id"),
        _query("after", TEXT, "the last part's next"),
        _query(
            "limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "people in a part"
        ),
        _query("embeddings", TRUTH | {"default": False}, "these too; a face can be rebuilt from them"),
    ]
}

_ID = "5b0f4c1e9d6a4e0f8b1d2c3a4f5e6d7c"
_MODEL = {"name": "mien_tiny", "sha256": "e23c6c83410c195d5ed669077406b7644c82bb09aa05e599f5abacf55bfffc1e"}
_BOX = [172.4, 52.1, 275.9, 178.6]
_ANN = {"person": "p_1", "name": "Ann", "similarity": 0.731, "fmr": 0.0011}
_PERSON = {
    "person": "p_1",
    "name": "Ann",
    "faces": ["f_1"],
    "corrections": 0,
    "note": "signed",
    "until": None,
    "expired": False,
}
_PHOTO = {
    "schema": 1, "path": None, "width": 512, "height": 512, "model": _MODEL,
    "timing_ms": {"decode": 2.2, "detect": 19.7, "align": 0.3, "read": 12.9},
}  # fmt: skip
EXAMPLES: Json = {
    "Analysis": {
        "request_id": _ID,
        "results": [
            _PHOTO
            | {
                "faces": [
                    {
                        "box": _BOX, "score": 0.9712,
                        "points5": [[202.1, 108.9], [245.6, 107.2], [224.4, 131.5], [207.3, 150.2], [243.1, 149.0]],
                        "age": {"years": 33.1, "low": 25.0, "high": 42.0, "coverage": 0.8},
                        "pose": {"yaw": 3.1, "pitch": -4.2, "roll": -1.5},
                    }
                ],
            },
            {"schema": 1, "path": None, "error": {"code": "empty_file", "message": "the 0 bytes given are empty"}},
        ],
    },
    "Verification": {
        "request_id": _ID, "similarity": 0.731, "same": True, "threshold": 0.4705, "false_match_rate": 0.01,
        "false_non_match_rate": 0.2, "source": "identity_fmr.json", "task": "identity", "model": _MODEL,
        "faces": [{"box": _BOX, "score": 0.9712, "found": 1}, {"box": _BOX, "score": 0.9631, "found": 2}],
    },
    "Models": {
        "request_id": _ID, "limits": {"pictures": 16, "pixels": 40000000, "seconds": 30},
        "models": [
            _MODEL
            | {"tasks": [{"name": n, "sensitive": n != "age", "default": n == "age"} for n in ("age", "identity")]}
        ],
    },
    "Identified": {
        "request_id": _ID,
        "results": [
            _PHOTO
            | {
                "faces": [
                    {"box": _BOX, "score": 0.9712, "match": _ANN, "margin": None, "threshold": 0.6, "candidates": [_ANN]},
                    {"box": [400.0, 90.5, 470.2, 181.0], "score": 0.91, "match": None, "margin": None, "threshold": 0.6, "candidates": []},
                ]
            }
        ],
    },
    "Enrolled": {"request_id": _ID, "added": [{"face": "f_1", "person": "p_1", "name": "Ann", "new": True, "alike": None}]},
    "People": {"request_id": _ID, "people": [_PERSON]},
    "Changed": {"request_id": _ID, "person": _PERSON},
    "Corrected": {"request_id": _ID, "correction": "c_1"},
    "Stats": {
        "request_id": _ID, "people": 2, "faces": 5, "corrections": 1, "expired": 0, "sealed": False, "model": _MODEL["sha256"],
        "task": "identity", "bytes": 24117, "versions": 6, "indexed": False, "threshold": 0.913, "fmr": 0.001, "stranger": 0.004990,
    },
    "Export": {
        "request_id": _ID, "next": None,
        "people": [_PERSON | {"faces": [{"id": "f_1", "added": "2026-11-24T10:00:00+00:00", "thumbnail": "/9j/"}], "corrections": []}],
    },
    "Forgotten": {"request_id": _ID, "people": 1, "faces": 3, "corrections": 0},
    "Health": {"status": "ok"},
    "Error": {"request_id": _ID, "error": {"code": "queue_full", "message": "64 requests are open, which is the limit", "details": {}}},
}  # fmt: skip

_WRONG: dict[int, str] = {
    400: "A field or a picture is not as it must be",
    401: "No key, or one that is not known",
    403: "Not offered here",
    404: "Nobody here has that id",
    408: "The body came too slowly",
    413: "Too many bytes, pixels, faces or pictures",
    415: "Not the kind of body that this route takes, or not a picture",
    422: "A picture that cannot be used",
    429: "Too many pictures a minute; see Retry-After",
    500: "A fault of the server",
    501: "The model does not answer this",
    503: "Busy; see Retry-After",
    504: "Out of time",
}


def body(form: Json) -> Json:
    """`openapi_extra` of a route that takes pictures: a form, JSON with the same fields, or a picture alone."""
    base64 = {"type": "string", "contentEncoding": "base64"}
    image = {
        "anyOf": [base64, {"type": "array", "items": base64}],
        "description": "Bytes of a picture in base64, or a list of that.",
    }
    plain = {**form, "properties": form["properties"] | {"image": image}}
    raw = {
        "schema": {
            "type": "string",
            "format": "binary",
            "description": "One picture; the fields stand in the query.",
        }
    }
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": plain}, "image/*": raw}
    return {"requestBody": {"required": True, "content": content}}


def json_body(form: Json, example: Json) -> Json:
    """`openapi_extra` of a route that takes JSON."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": form, "example": example}},
        }
    }


def _content(name: str) -> Json:
    return {"application/json": {"schema": ref(name)}}


def errors(*codes: int) -> dict[int | str, Json]:
    """The errors that a route may give."""
    return {code: {"description": _WRONG[code], "content": _content("Error")} for code in codes}


def replies(name: str, *codes: int) -> dict[int | str, Json]:
    """`responses` of a route: its answer, and the errors it may give."""
    return {200: {"description": "The answer", "content": _content(name)}, **errors(*codes)}


def finish(document: Json, keys: bool) -> Json:
    """The components, the examples, and how a key is sent."""
    components = document.setdefault("components", {})
    components["schemas"] = COMPONENTS
    components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            # FastAPI's own errors, which no route of ours gives: each reads its fields by itself
            operation["responses"] = {
                c: r for c, r in operation["responses"].items() if "HTTPValidationError" not in str(r)
            }
            for reply in operation["responses"].values():
                for media in reply.get("content", {}).values():
                    # here and not in `replies`: FastAPI takes the nulls out of an example
                    if name := media.get("schema", {}).get("$ref", "").rpartition("/")[2]:
                        media["example"] = EXAMPLES[name]
            if keys and path not in ("/healthz", "/readyz"):
                operation["security"] = [{"bearer": []}]
    return document
