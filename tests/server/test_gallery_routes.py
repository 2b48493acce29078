"""The gallery's routes that mend, count, take away and prune, over real connections and by the client."""

from __future__ import annotations

import base64
import io
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mien.server.client import Client, ServerError
from mien.server.request_body import JSON_BYTES
from tests.server.test_app import PHOTOS, fits, images, png, refusal, serving, whole

pytest.importorskip("lancedb")
from mien.recognition import records
from mien.recognition.gallery import Gallery

PEOPLE = "/v1/gallery/people"
PATHS = {
    f"{PEOPLE}{end}"
    for end in ("", "/{person}", "/{person}/merge", "/{person}/split", "/{person}/corrections")
}
PATHS |= {f"/v1/gallery/{name}" for name in ("identify", "prune", "stats", "export")}


def mirrored(path: str) -> bytes:
    """Another picture of the same person."""
    out = io.BytesIO()
    with Image.open(path) as picture:
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def served(reader, tmp_path_factory):
    with serving(reader, gallery=partial(Gallery, tmp_path_factory.mktemp("served") / "people")) as both:
        yield both


@pytest.fixture
def client(served):
    """Of a gallery with nobody in it."""
    client = Client(str(served[1].base_url))
    for person in client.people():
        client.forget(person["person"])
    return client


def test_the_description_of_all_routes_is_complete(served):
    made, _ = served
    page = made.openapi()
    assert {p for p in page["paths"] if "gallery" in p} == PATHS
    assert {"Changed", "Corrected", "Stats", "Export", "People", "Forgotten"} <= whole(page)
    for path in PATHS:
        for operation in page["paths"][path].values():
            assert "422" not in operation["responses"] or "Error" in json.dumps(operation["responses"]["422"])
            for media in operation.get("requestBody", {}).get("content", {}).values():
                if "example" in media:
                    assert set(media["example"]) <= set(media["schema"]["properties"])


def test_before_anybody_was_enrolled(reader, tmp_path):
    with serving(reader, gallery=partial(Gallery, tmp_path / "none")) as (_, http):
        client = Client(str(http.base_url))
        assert client.prune() == client.people() == list(client.export()) == []
        refusal(http.get("/v1/gallery/stats"), 400, "gallery")
        assert str(tmp_path) not in http.get("/v1/gallery/stats").text
        refusal(http.post(f"{PEOPLE}/p_1/merge", json={"others": ["p_2"]}), 404, "no_person")
        assert not (tmp_path / "none").exists()


def test_correct_is_not_this_person_until_enrolled_again(client, served):
    http = served[1]
    ann = client.enroll("Ann", PHOTOS[0])[0]["person"]
    other = mirrored(PHOTOS[0])
    assert client.identify(other)[0]["faces"][0]["candidates"][0]["person"] == ann
    reply = http.post(f"{PEOPLE}/{ann}/corrections", files=images(other))
    parts = served[0].openapi()["components"]["schemas"]
    fits(reply.json(), parts["Corrected"], parts, "Corrected")
    assert client.correct(other, ann) == reply.json()["correction"]  # said twice, noted once
    assert client.identify(other)[0]["faces"][0]["candidates"] == []
    assert client.people()[0]["corrections"] == 1
    client.enroll("Ann", other)
    assert client.people()[0]["corrections"] == 0
    refusal(http.post(f"{PEOPLE}/p_none/corrections", files=images(other)), 404, "no_person")
    refusal(
        http.post(f"{PEOPLE}/Ann/corrections", files=images(other)), 404, "no_person"
    )  # by id, not by name
    refusal(http.post(f"{PEOPLE}/{ann}/corrections", files=images(other, other)), 400, "bad_field")
    refusal(
        http.post(f"{PEOPLE}/{ann}/corrections", files=images(other), data={"pick": "all"}), 400, "bad_field"
    )
    refusal(http.post(f"{PEOPLE}/{ann}/corrections", files=images(png())), 422, "no_face")
    refusal(
        http.post(f"{PEOPLE}/{ann}/corrections", files=images(Path(PHOTOS[2]).read_bytes())),
        422,
        "several_faces",
    )
    refusal(
        http.post(f"{PEOPLE}/{ann}/corrections", files=images(Path(PHOTOS[0]).read_bytes())), 400, "gallery"
    )  # it is enrolled


def test_a_picture_is_read_once(client, served):
    batcher = served[0].state.service.batcher
    before = batcher.calls
    ann = client.enroll("Ann", PHOTOS[0])[0]["person"]
    assert batcher.calls - before == 1
    client.correct(PHOTOS[1], ann)
    assert batcher.calls - before == 2


def test_merge_split_and_edit(client, served):
    http, parts = served[1], served[0].openapi()["components"]["schemas"]
    ann = client.enroll("Ann", PHOTOS[0], note="signed", until="2999-02-01")[0]["person"]
    eve = client.enroll("Eve", PHOTOS[1], until="2999-01-01")[0]
    merged = client.merge(ann, eve["person"])
    assert (merged["person"], merged["name"], merged["note"], merged["until"]) == (
        ann,
        "Ann",
        "signed",
        "2999-01-01",
    )
    assert eve["face"] in merged["faces"] and len(merged["faces"]) == 2
    assert [p["person"] for p in client.people()] == [ann]
    parted = client.split(ann, [eve["face"]], "Eve Moneypenny")
    assert (parted["name"], parted["faces"], parted["note"], parted["until"]) == (
        "Eve Moneypenny",
        [eve["face"]],
        "",
        "2999-01-01",
    )
    changed = client.edit(parted["person"], name="Eve", note="by letter", until="")
    assert (changed["name"], changed["note"], changed["until"]) == ("Eve", "by letter", None)
    fits(http.patch(f"{PEOPLE}/{ann}", json={"note": "again"}).json(), parts["Changed"], parts, "Changed")
    assert {p["name"]: p["note"] for p in client.people()} == {"Ann": "again", "Eve": "by letter"}
    with pytest.raises(ServerError) as caught:
        client.merge(ann, "p_none")
    assert (caught.value.status, caught.value.code) == (404, "no_person")
    with pytest.raises(ServerError, match="no face 'f_none'"):
        client.split(ann, ["f_none"], "Zoe")
    with pytest.raises(ServerError, match="is already used"):
        client.edit(ann, name="Eve")


@pytest.mark.parametrize(
    ("method", "end", "content", "status", "code"),
    [
        ("PATCH", "", b"{", 400, "bad_json"),
        ("PATCH", "", b"[]", 400, "bad_json"),
        ("PATCH", "", b"{}", 400, "bad_json"),
        ("PATCH", "", b"[" * 20_000, 400, "bad_json"),
        ("PATCH", "", b"\xff", 400, "bad_json"),
        ("PATCH", "", b'{"nam": "x"}', 400, "unknown_field"),
        ("PATCH", "", b'{"name": 3}', 400, "bad_field"),
        ("PATCH", "", b'{"note": "\\ud800"}', 400, "bad_field"),
        ("PATCH", "", b'{"\\ud800": "x"}', 400, "unknown_field"),
        ("PATCH", "", b'{"note": "%s"}' % (b"x" * 5000), 400, "bad_field"),
        ("PATCH", "", b'{"until": "soon"}', 400, "gallery"),
        ("PATCH", "", b'{"until": "0999-01-01"}', 400, "gallery"),
        ("PATCH", "", b" " * (JSON_BYTES + 1), 413, "request_too_large"),
        ("POST", "/merge", b"{}", 400, "bad_field"),
        ("POST", "/merge", b'{"others": "p_2"}', 400, "bad_field"),
        ("POST", "/merge", b'{"others": []}', 400, "bad_field"),
        ("POST", "/split", b'{"faces": ["f_1"]}', 400, "bad_field"),
        ("POST", "/split", b'{"name": "Eve"}', 400, "bad_field"),
        ("POST", "/split", b'{"faces": [1], "name": "x"}', 400, "bad_field"),
    ],
)
def test_a_body_that_is_not_as_it_must_be(client, served, method, end, content, status, code):
    http = served[1]
    ann = next((p["person"] for p in client.people()), None) or client.enroll("Ann", PHOTOS[0])[0]["person"]
    place = f"{PEOPLE}/{ann}{end}"
    refusal(
        http.request(method, place, content=content, headers={"content-type": "application/json"}),
        status,
        code,
    )
    refusal(http.request(method, place, content=content), 415, "not_json")


def test_prune_erases_whoever_is_past_the_last_day(client, monkeypatch):
    client.enroll("Ann", PHOTOS[0], until="2998-12-31")
    client.enroll("Eve", PHOTOS[1])
    assert client.prune() == []
    monkeypatch.setattr(records, "today", lambda: "2999-01-01")
    assert client.stats()["expired"] == 1
    (gone,) = client.prune()
    assert (gone["name"], gone["expired"]) == ("Ann", True)
    assert [p["name"] for p in client.people()] == ["Eve"]
    assert client.prune() == []


def test_stats_and_export(client, served, reader):
    http, parts = served[1], served[0].openapi()["components"]["schemas"]
    added = [
        client.enroll(name, photo)[0]
        for name, photo in (("Ann", PHOTOS[0]), ("Eve", PHOTOS[1]), ("Mia", mirrored(PHOTOS[1])))
    ]
    client.correct(mirrored(PHOTOS[0]), added[0]["person"])
    reply = http.get("/v1/gallery/stats")
    fits(reply.json(), parts["Stats"], parts, "Stats")
    numbers = client.stats()
    assert {k: numbers[k] for k in ("people", "faces", "corrections", "sealed")} == {
        "people": 3, "faces": 3, "corrections": 1, "sealed": False
    }  # fmt: skip
    assert numbers["model"] == reader.model.sha256

    reply = http.get("/v1/gallery/export")
    fits(reply.json(), parts["Export"], parts, "Export")
    assert "embedding" not in reply.text
    assert [p["name"] for p in sorted(reply.json()["people"], key=lambda p: p["name"])] == [
        "Ann",
        "Eve",
        "Mia",
    ]
    for limit in (1, 2, 3):
        assert list(client.export(limit=limit)) == reply.json()["people"]
    (ann,) = client.export(added[0]["person"], embeddings=True)
    (face,), (correction,) = ann["faces"], ann["corrections"]
    assert face["id"] == added[0]["face"] and correction["id"].startswith("c_")
    with Image.open(io.BytesIO(base64.b64decode(face["thumbnail"]))) as picture:
        assert (picture.format, max(picture.size)) == ("JPEG", 96)
    assert "thumbnail" not in correction
    assert float(np.linalg.norm(face["embedding"])) == pytest.approx(1, abs=1e-4)
    fits(
        http.get("/v1/gallery/export", params={"embeddings": "true", "limit": 1}).json(),
        parts["Export"],
        parts,
        "Export",
    )
    for query, status, code in (
        ("person=p_none", 404, "no_person"),
        ("limit=0", 400, "bad_field"),
        ("limit=1001", 400, "bad_field"),
        ("embeddings=1", 400, "bad_field"),
        ("embedings=true", 400, "unknown_field"),
        ("limit=1&limit=2", 400, "bad_field"),
    ):
        refusal(http.get(f"/v1/gallery/export?{query}"), status, code)
