"""The description of the routes as one page, without scripts and without files of other servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

Json = dict[str, Any]
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'"
)


def page(document: Json) -> str:
    """An OpenAPI document -> HTML. Addresses in it are relative, so that it works under a URL prefix."""
    operations = [(m.upper(), p, o) for p, methods in document["paths"].items() for m, o in methods.items()]
    contents = "".join(
        f'<li><a href="#{_anchor(m, p)}"><code>{m} {escape(p)}</code></a></li>' for m, p, _ in operations
    )
    parts = document["components"]["schemas"]
    body = "".join(part for m, p, o in operations for part in _operation(m, p, o, parts))
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport"'
        ' content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{title}: the API</title>'
        '<link rel="icon" href="page/icon.png" type="image/png"><link rel="stylesheet"'
        ' href="page/style.css"></head>'
        "<body"
        f' class="reference"><header><h1>{title}</h1><p>{escape(document["info"].get("description", ""))} '
        'For programs: <a href="openapi.json">openapi.json</a>.</p></header>'
        f"<main><section><h2>Routes</h2><ul>{contents}</ul></section>{body}</main></body></html>\n"
    )


def _anchor(method: str, path: str) -> str:
    return escape(f"{method}-{path}".lower().replace("/", "-").replace("{", "").replace("}", ""), quote=True)


def _operation(method: str, path: str, operation: Json, parts: Json) -> Iterator[str]:
    yield (
        f'<section id="{_anchor(method, path)}"><h2><code>{method}'
        f" {escape(path)}</code></h2><p>{escape(operation['description'])}</p>"
    )
    if operation.get("security"):
        yield "<p>Needs a key: <code>Authorization: Bearer KEY</code></p>"
    fields = [
        (f"{p['name']} (in the {p['in']})", p.get("schema", {}), p.get("required", False))
        for p in operation.get("parameters", ())
    ]
    content = operation.get("requestBody", {}).get("content", {})
    if content:
        yield f"<p>Body: {', '.join(f'<code>{escape(kind)}</code>' for kind in content)}</p>"
        form = _resolved(next(iter(content.values()))["schema"], parts)
        fields += [
            (name, schema, name in form.get("required", ()))
            for name, schema in form.get("properties", {}).items()
        ]
    if fields:
        yield "<table><thead><tr><th>field</th><th>kind</th><th>meaning</th></tr></thead><tbody>"
        for name, schema, needed in fields:
            mark = "" if needed else " (optional)"
            about = escape(str(schema.get("description", "")))
            first = f"<td><code>{escape(name)}</code>{mark}</td>"
            yield f"<tr>{first}<td>{escape(_kind(schema))}</td><td>{about}</td></tr>"
        yield "</tbody></table>"
    for status, reply in operation["responses"].items():
        example = next((m["example"] for m in reply.get("content", {}).values() if "example" in m), None)
        summary = f"<code>{escape(str(status))}</code> {escape(reply.get('description', ''))}"
        if example is None:
            yield f"<p>{summary}</p>"
        else:
            shown = escape(json.dumps(example, indent=1, ensure_ascii=False))
            yield f"<details><summary>{summary}</summary><pre>{shown}</pre></details>"
    yield "</section>"


def _resolved(schema: Json, parts: Json) -> Json:
    return parts[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _kind(schema: Json) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kind = schema.get("type", "text")
    return (
        f"list of {_kind(schema['items'])}"
        if kind == "array" and "items" in schema
        else str(schema.get("format", kind))
    )
