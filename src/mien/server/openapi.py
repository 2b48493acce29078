"""The OpenAPI document: `schema` and `examples` added to FastAPI's own description of the routes."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from mien.server.examples import EXAMPLES
from mien.server.schema import REPLIES, Error, Form, Model

Json = dict[str, Any]
REF = "#/components/schemas/{model}"
REASONS: dict[int, str] = {
    400: "A field or a picture is wrong",
    401: "No key, or an unknown key",
    403: "Not offered here",
    404: "Nobody here has that id",
    408: "The body arrived too slowly",
    413: "Too many bytes, pixels, faces or pictures",
    415: "Not the kind of body that this route takes, or not a picture",
    422: "A picture that cannot be used",
    429: "Too many pictures per minute; see Retry-After",
    500: "An error of the server",
    501: "The model does not have this task",
    503: "Busy; see Retry-After",
    504: "Out of time",
}


def body(form: type[Form]) -> Json:
    """`openapi_extra` of a route that takes pictures: a form, the same in JSON, or one picture."""
    fields = form.model_json_schema()
    base64 = {"type": "string", "contentEncoding": "base64"}
    image = {
        "anyOf": [base64, {"type": "array", "items": base64}],
        "description": "Bytes of a picture in base64, or a list of that.",
    }
    raw = {
        "type": "string",
        "format": "binary",
        "description": "One picture; the fields are in the query.",
    }
    content = {
        "multipart/form-data": {"schema": fields},
        "application/json": {"schema": {**fields, "properties": fields["properties"] | {"image": image}}},
        "image/*": {"schema": raw},
    }
    return {"requestBody": {"required": True, "content": content}}


def json_body(model: type[Model]) -> Json:
    """`openapi_extra` of a route that takes JSON."""
    media = {"schema": model.model_json_schema(), "example": EXAMPLES[model.__name__]}
    return {"requestBody": {"required": True, "content": {"application/json": media}}}


def query(form: type[Form]) -> Json:
    """`openapi_extra` of a route whose fields are in the query."""
    schema = form.model_json_schema()
    parameters = []
    for name, field in schema["properties"].items():
        about = field.pop("description")
        needed = name in schema.get("required", ())
        parameters.append(
            {"name": name, "in": "query", "required": needed, "schema": field, "description": about}
        )
    return {"parameters": parameters}


def _content(model: type[Model]) -> Json:
    return {"application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}}


def errors(*codes: int) -> dict[int | str, Json]:
    """The errors that a route may give."""
    return {code: {"description": REASONS[code], "content": _content(Error)} for code in codes}


def replies(model: type[Model], *codes: int) -> dict[int | str, Json]:
    """`responses` of a route: its reply and its errors."""
    return {200: {"description": "The answer", "content": _content(model)}, **errors(*codes)}


def finish(document: Json, keys: bool) -> Json:
    """The components, the examples, and how a key is sent."""
    components = document.setdefault("components", {})
    components["schemas"] = models_json_schema([(m, "validation") for m in REPLIES], ref_template=REF)[1][
        "$defs"
    ]
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
