"""The server over real connections: every status, concurrency, limits, keys, what is logged, and its own
description.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from typer.testing import CliRunner

from mien.cli import app as cli
from mien.errors import UnknownTask, UsageError
from mien.inference.reader import Reader
from mien.recognition.verification import match_threshold
from mien.server.app import app
from mien.server.client import Client, ServerError, mask_rows
from mien.server.limits import Buckets, Keys, Limits, is_loopback, read_keys, without_port
from mien.server.middleware import route_path
from mien.server.run import check_address, running

PHOTOS = ("examples/astronaut.jpg", "examples/grace_hopper.jpg", "examples/collage.jpg")
KEY = "a-key-of-24-characters-x"
OTHER = "another-key-24-characters"


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    data = BytesIO()
    Image.new("RGB", size, (90, 120, 150)).save(data, "PNG")
    return data.getvalue()


class Slow:
    """A detector that finds no face, and does not end before `go.set()`."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Semaphore(0), threading.Event()

    def __call__(self, pixels):
        self.begun.release()
        assert self.go.wait(20)
        return []


class Unmeasured:
    """The same network without the file that its numbers belong to."""

    def __init__(self, model):
        self.view, self.tasks, self.model = model.view, model.tasks, model

    def __call__(self, images):
        return self.model(images)


@contextmanager
def serving(reader, **settings):
    """(the app, an httpx client for it) on a free port."""
    made = app(reader, **settings)
    with running(made) as url, httpx.Client(base_url=url, timeout=20) as http:
        yield made, http


@pytest.fixture(scope="module")
def served(reader):
    with serving(reader) as both:
        yield both


@pytest.fixture
def http(served):
    return served[1]


@pytest.fixture
def slow(reader):
    detector = Slow()
    yield SimpleNamespace(detector=detector, reader=Reader(detector, reader.model))
    detector.go.set()


def images(*data: bytes):
    return [("image", ("x", d, "image/png")) for d in data]


def refusal(reply: httpx.Response, status: int, code: str) -> dict:
    """The envelope, after a look at its form."""
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text
    record = reply.json()
    assert set(record) == {"error", "request_id"}
    assert set(record["error"]) == {"code", "message", "details"}
    assert reply.headers["x-request-id"] == record["request_id"]
    assert reply.headers["cache-control"] == "no-store"
    if status in (429, 503):
        assert int(reply.headers["retry-after"]) >= 1
    return record["error"]


def until(condition) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def same(a, b, path: str = "") -> None:
    """Equal records, but for the times and the sixth decimal of an embedding."""
    if path.endswith(".timing_ms"):
        return
    if isinstance(a, dict):
        assert set(a) == set(b), path
        for key in a:
            same(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            same(x, y, f"{path}[{i}]" if "embedding" not in path else path)
    elif "embedding" in path:
        assert a == pytest.approx(b, abs=2e-6), path
    elif isinstance(a, float):
        assert a == pytest.approx(b, abs=0.0101), path  # one step of the last decimal shown
    else:
        assert a == b, path


# --- Answers


def test_records_are_those_of_the_library(http, reader):
    reply = http.post("/v1/analyze", files=images(*(Path(p).read_bytes() for p in PHOTOS)))
    assert reply.status_code == 200
    assert reply.headers["x-request-id"] == reply.json()["request_id"]
    for record, path in zip(reply.json()["results"], PHOTOS, strict=True):
        same(record, reader(Path(path).read_bytes()).to_dict())
    assert [len(r["faces"]) for r in reply.json()["results"]] == [1, 1, 11]
    assert "identity" not in reply.text


def test_fields_choose_tasks_scores_and_faces(http):
    data = Path(PHOTOS[2]).read_bytes()
    faces = http.post("/v1/analyze", files=images(data), data={"tasks": "age, pose", "faces": "2"}).json()[
        "results"
    ][0]["faces"]
    assert [set(f) for f in faces] == [{"box", "score", "points5", "age", "pose"}] * 2
    most = http.post("/v1/analyze", files=images(data), data={"tasks": ["age"]}).json()["results"][0]["faces"]
    cut = sorted(f["score"] for f in most)[5] + 1e-4
    sure = http.post("/v1/analyze", files=images(data), data={"tasks": "age", "score": str(cut)}).json()[
        "results"
    ][0]["faces"]
    assert 0 < len(sure) < len(most)
    assert all(f["score"] >= cut - 1e-4 for f in sure)


def test_a_thorough_search_finds_a_turned_face(http):
    data = BytesIO()
    with Image.open(PHOTOS[0]) as picture:
        small = picture.convert("RGB").resize((256, 256))
    both = Image.new("RGB", (512, 256))
    both.paste(small, (0, 0))
    both.paste(small.transpose(Image.Transpose.ROTATE_180), (256, 0))
    both.save(data, "PNG")
    client = Client(str(http.base_url))
    (plain,) = client.analyze(data.getvalue(), tasks=["age"])
    (thorough,) = client.analyze(data.getvalue(), tasks=["age"], thorough=True)
    turned = [
        [f for f in record["faces"] if 376 < (f["box"][0] + f["box"][2]) / 2 < 422 and f["box"][1] > 100]
        for record in (plain, thorough)
    ]
    assert (len(turned[0]), len(turned[1])) == (0, 1)
    n = len(thorough["faces"])
    body = {"image": base64.b64encode(data.getvalue()).decode(), "tasks": "age", "thorough": True}
    assert len(http.post("/v1/analyze", json=body).json()["results"][0]["faces"]) == n
    refusal(http.post("/v1/analyze", json=body | {"thorough": "yes"}), 400, "bad_field")


@pytest.mark.parametrize("field", [{"score": "0.5"}, {"thorough": "true"}])
def test_a_detector_without_thorough_search_is_reported(slow, field):
    with serving(slow.reader) as (_, http):
        error = refusal(http.post("/v1/analyze", files=images(png()), data=field), 400, "bad_field")
    assert next(iter(field)) in error["message"]


def test_identity_comes_only_when_named(http):
    (record,) = http.post(
        "/v1/analyze", files=images(Path(PHOTOS[0]).read_bytes()), data={"tasks": "identity"}
    ).json()["results"]
    assert len(record["faces"][0]["identity"]["embedding"]) == 128


def test_a_bad_picture_does_not_lose_the_others(http):
    results = http.post("/v1/analyze", files=images(b"no", png(), b"")).json()["results"]
    assert [r.get("error", {}).get("code") for r in results] == ["not_a_picture", None, "empty_file"]


def test_verify(http, reader):
    a, b = (Path(p).read_bytes() for p in PHOTOS[:2])
    record = http.post("/v1/verify", files=images(a, a), data={"threshold": "1.0"}).json()
    assert (record["similarity"], record["same"]) == (1.0, True)  # the threshold itself counts as the same
    other = http.post("/v1/verify", files=images(a, b), data={"threshold": "0.9"}).json()
    assert other["same"] is False
    assert (other["threshold"], other["source"]) == (0.9, "given")
    assert other["similarity"] == round(other["similarity"], 3) < 0.9
    assert [f["found"] for f in other["faces"]] == [1, 1]
    assert "embedding" not in json.dumps(other)
    # without a threshold: the one that was measured for these weights, as `mien verify` takes it
    usual = match_threshold(reader.model)
    measured = http.post("/v1/verify", files=images(a, b)).json()
    assert {k: measured[k] for k in usual.to_dict()} == usual.to_dict()
    assert measured["same"] is (measured["similarity"] >= usual.similarity)
    stricter = http.post("/v1/verify", files=images(a, b), data={"fmr": "0.001"}).json()
    assert stricter["false_match_rate"] == 0.001
    assert stricter["threshold"] > measured["threshold"]


def test_models_health_and_request_ids(http):
    record = http.get("/v1/models").json()
    tasks = {t["name"]: t for t in record["models"][0]["tasks"]}
    assert len(record["models"][0]["sha256"]) == 64
    assert tasks["identity"] == {"name": "identity", "sensitive": True, "default": False}
    assert tasks["pose"]["default"]
    assert record["limits"]["picture_bytes"] == 32 << 20
    assert record["limits"]["pixels"] > 8064 * 6048  # a phone's 48 megapixels
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    assert http.get("/healthz", headers={"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert (
        http.get("/healthz", headers={"x-request-id": "in\tjection"}).headers["x-request-id"] != "in\tjection"
    )


def test_32_clients_get_what_one_gets(served, reader):
    made, http = served
    data = [Path(p).read_bytes() for p in PHOTOS[:2]] + [png()]
    tasks = ["age", "pose", "landmarks", "expression", "identity"]
    expected = [Reader(reader.detector, reader.model, tasks=tasks)(d).to_dict() for d in data]
    client = Client(str(http.base_url), timeout=60)
    batcher = made.state.service.batcher
    forwards, calls = batcher.forwards, batcher.calls

    def ask(i: int) -> None:
        (record,) = client.analyze(data[i % 3], tasks=tasks)
        same(record, expected[i % 3])

    with ThreadPoolExecutor(32) as pool:
        assert len(list(pool.map(ask, range(48)))) == 48
    faces = sum(len(expected[i % 3]["faces"]) for i in range(48))
    assert batcher.calls - calls == faces == 32
    assert batcher.forwards - forwards < 32  # some shared a forward
    text = http.get("/metrics").text
    shared = {
        float(m[1]): float(m[2])
        for m in re.finditer(r'mien_batch_pictures_bucket\{le="([\d.]+)"\} ([\d.]+)', text)
    }
    assert shared[1.0] < batcher.forwards


def test_metrics_count(reader):
    with serving(reader) as (_, http):
        http.post("/v1/analyze", files=images(Path(PHOTOS[2]).read_bytes()))
        http.post("/v1/analyze", files=images(b"no"))
        http.get("/secret-path-of-someone")
        text = http.get("/metrics").text
    for line in (
        'mien_requests_total{code="200",route="/v1/analyze"} 1.0',
        'mien_requests_total{code="415",route="/v1/analyze"} 1.0',
        'mien_requests_total{code="404",route="other"} 1.0',
        'mien_request_seconds_count{route="/v1/analyze"} 2.0',
        "mien_faces_total 11.0",
        "mien_batch_faces_sum 11.0",
        "mien_batch_faces_count 1.0",
        "mien_queue_depth 0.0",
        'mien_pictures_total{outcome="read"} 1.0',
        'mien_pictures_total{outcome="not_a_picture"} 1.0',
    ):
        assert line in text.splitlines(), line
    assert "secret-path" not in text


# --- Refusals


@pytest.mark.parametrize(
    ("path", "files", "fields", "status", "code"),
    [
        ("analyze", [], {"tasks": "age"}, 415, "not_a_form"),
        ("analyze", [("image", (None, "http://example.org/a.jpg"))], {}, 400, "bad_field"),
        ("analyze", [("tasks", (None, "age"))], {}, 400, "no_image"),
        ("analyze", [("file", ("x", png()))], {}, 400, "unknown_field"),
        ("analyze", images(png()), {"url": "file:///etc/passwd"}, 400, "unknown_field"),
        ("analyze", images(png()), {"tasks": "agee"}, 400, "unknown_task"),
        ("analyze", images(png()), {"tasks": ","}, 400, "bad_field"),
        ("analyze", images(png()), {"score": "much"}, 400, "bad_field"),
        ("analyze", images(png()), {"score": "nan"}, 400, "bad_field"),
        ("analyze", images(png()), {"score": ["0.5", "0.6"]}, 400, "bad_field"),
        ("analyze", images(png()), {"faces": "0"}, 400, "bad_field"),
        ("analyze", images(b""), {}, 400, "empty_file"),
        ("analyze", images(b"no picture"), {}, 415, "not_a_picture"),
        ("analyze", images(png()[:60]), {}, 422, "truncated"),
        ("analyze", images(*[png()] * 17), {}, 413, "too_many_pictures"),
        ("verify", images(png()), {}, 400, "bad_field"),
        ("verify", images(png(), png()), {}, 422, "no_face"),
        ("verify", images(png(), png()), {"threshold": "2"}, 400, "bad_field"),
        ("verify", images(png(), png()), {"threshold": "0.5", "fmr": "0.01"}, 400, "bad_field"),
        ("verify", images(png(), png()), {"fmr": "1e-9"}, 400, "bad_field"),
        ("verify", images(png(), png()), {"tasks": "age"}, 400, "unknown_field"),
        ("verify", images(b"no", png()), {}, 415, "not_a_picture"),
    ],
)
def test_errors_are_reported(http, path, files, fields, status, code):
    refusal(http.post(f"/v1/{path}", files=files, data=fields), status, code)


def test_other_routes_methods_and_forms(http):
    refusal(http.get("/v1/nothing"), 404, "no_route")
    refusal(http.get("/v1/analyze"), 405, "wrong_method")
    kind = {"content-type": "multipart/form-data"}
    refusal(http.post("/v1/analyze", content=b"--x", headers=kind), 400, "bad_form")
    refusal(
        http.post(
            "/v1/analyze", content=b"junk", headers={"content-type": "multipart/form-data; boundary=x"}
        ),
        400,
        "bad_form",
    )
    refusal(
        http.post("/v1/analyze", files=images(png()), headers={"host": "evil.example:8000"}), 403, "bad_host"
    )
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
    ):  # a form that a page elsewhere sends here by a browser
        refusal(http.post("/v1/analyze", files=images(png()), headers={"origin": origin}), 403, "bad_origin")
    mine = str(http.base_url).rstrip("/")
    assert http.post("/v1/analyze", files=images(png()), headers={"origin": mine}).status_code == 200
    odd = b'--b\r\nContent-Disposition: form-data; name="tasks"\r\n\r\n\\ud800\r\n--b--\r\n'
    strange = {"content-type": "multipart/form-data; boundary=b; charset=unicode_escape"}
    refusal(
        http.post("/v1/analyze", content=odd, headers=strange), 400, "bad_field"
    )  # half a pair is not Unicode


def test_sizes(reader):
    limits = Limits(picture_bytes=3000, request_bytes=9000, pixels=2000, faces=3)
    with serving(reader, limits=limits) as (made, http):
        refusal(http.post("/v1/analyze", files=images(b"x" * 3001)), 413, "picture_too_large")
        refusal(http.post("/v1/analyze", files=images(b"x" * 9001)), 413, "request_too_large")
        body = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        chunked = iter([body] + [b"\r\n--b\r\n" + body[5:]] * 130)  # no content-length: counted as it comes
        kind = {"content-type": "multipart/form-data; boundary=b"}
        reply = http.post("/v1/analyze", content=chunked, headers=kind)
        assert reply.status_code == 413
        refusal(http.post("/v1/analyze", files=images(png((50, 41)))), 413, "too_large")
        assert http.post("/v1/analyze", files=images(png((50, 40)))).status_code == 200
        gate_is_empty(made)
    with serving(reader, limits=Limits(faces=3)) as (_, http):
        error = refusal(
            http.post("/v1/analyze", files=images(Path(PHOTOS[2]).read_bytes())), 422, "too_many_faces"
        )
        assert "11 faces, the limit is 3" in error["message"]
        few = http.post(
            "/v1/analyze", files=images(Path(PHOTOS[2]).read_bytes()), data={"faces": "3", "tasks": "age"}
        )
        assert len(few.json()["results"][0]["faces"]) == 3
    with serving(reader, limits=Limits(held_bytes=2000)) as (_, http):
        refusal(http.post("/v1/analyze", files=images(b"x" * 3000)), 503, "queue_full")


def gate_is_empty(made) -> None:
    uploads = made.state.service.uploads
    until(lambda: (uploads.open, uploads.held) == (0, 0))


def test_the_line_is_bounded(slow):
    with (
        serving(slow.reader, limits=Limits(queue=3), workers=1) as (made, http),
        ThreadPoolExecutor(3) as pool,
    ):
        line = made.state.service.line
        first = [pool.submit(http.post, "/v1/analyze", files=images(png())) for _ in range(2)]
        until(lambda: line.inside == 2)
        assert "mien_queue_depth 1.0" in http.get("/metrics").text
        refusal(http.post("/v1/analyze", files=images(png(), png())), 503, "queue_full")
        third = pool.submit(http.post, "/v1/analyze", files=images(png()))
        until(lambda: line.inside == 3)
        refusal(http.get("/readyz"), 503, "not_ready")
        refusal(http.post("/v1/analyze", files=images(png())), 503, "queue_full")
        assert http.get("/healthz").status_code == 200
        slow.detector.go.set()
        assert [f.result(10).status_code for f in [*first, third]] == [200, 200, 200]
        assert (line.inside, line.waiting) == (0, 0)


def test_time_is_bounded(slow):
    with (
        serving(slow.reader, limits=Limits(seconds=0.4), workers=1) as (made, http),
        ThreadPoolExecutor(2) as pool,
    ):
        begun = pool.submit(http.post, "/v1/analyze", files=images(png()))
        assert slow.detector.begun.acquire(timeout=5)
        waits = http.post("/v1/analyze", files=images(png()))
        refusal(begun.result(5), 504, "timeout")
        refusal(waits, 503, "queue_timeout")
        assert (
            made.state.service.line.inside == 1
        )  # the picture in hand keeps its place until its thread is free
        slow.detector.go.set()
        until(lambda: made.state.service.line.inside == 0)
        assert not slow.detector.begun.acquire(timeout=0.1)  # the one that waited was never begun
        assert http.post("/v1/analyze", files=images(png())).status_code == 200


def test_a_body_that_does_not_come_and_one_that_breaks_off(reader):
    head = (
        b"POST /v1/analyze HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: multipart/form-data;"
        b" boundary=b\r\ncontent-length: 5000\r\n\r\n--b"
    )
    with serving(reader, limits=Limits(seconds=0.3)) as (made, http):
        address = (http.base_url.host, http.base_url.port)
        with socket.create_connection(address, timeout=5) as lazy:
            lazy.sendall(head)
            assert lazy.recv(65536).startswith(b"HTTP/1.1 408")
        with socket.create_connection(address, timeout=5) as broken:
            broken.sendall(head)
        gate_is_empty(made)
        assert http.post("/v1/analyze", files=images(png())).status_code == 200


def _sent_whole(url: str, body: bytes, **headers: str) -> tuple[int, dict]:
    """By a client that sends all of a body before it reads the reply, as urllib does."""
    request = urllib.request.Request(url + "/v1/analyze", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as e:
        return e.code, json.load(e)


def test_a_refusal_reaches_clients_that_send_all_first(reader):
    form = {"Content-Type": "multipart/form-data; boundary=X"}
    start = b'--X\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    big = start + bytes(12 << 20) + b"\r\n--X--\r\n"
    limits = Limits(picture_bytes=1 << 20, request_bytes=8 << 20)
    with serving(reader, keys=Keys([("ann", KEY)]), limits=limits) as (made, http):
        url, ann = str(http.base_url).rstrip("/"), {"Authorization": f"Bearer {KEY}"}
        status, record = _sent_whole(url, big, **form, **ann)
        assert (status, record["error"]["code"]) == (413, "request_too_large")
        status, record = _sent_whole(url, big, **form, Authorization="Bearer wrong")
        assert (status, record["error"]["code"]) == (401, "no_key")
        status, record = _sent_whole(url, big[: 6 << 20] + b"\r\n--X--\r\n", **form, **ann)
        assert (status, record["error"]["code"]) == (413, "picture_too_large")
        status, record = _sent_whole(url + "/nothing", big[: 6 << 20], **form, **ann)
        assert (status, record["error"]["code"]) == (404, "no_route")
        gate_is_empty(made)
        until(lambda: made.state.service.uploads.dropping == 0)


def test_head_answers_where_get_does(http):
    for path in ("/healthz", "/readyz", "/v1/models", "/openapi.json", "/docs", "/"):
        reply = http.head(path)
        assert (reply.status_code, reply.content) == (200, b""), path
        assert int(reply.headers["content-length"]) > 0
    assert http.head("/v1/analyze").status_code == 405
    assert http.get("/healthz").json() == {"status": "ok"}  # the connection is whole after it


def test_pages_elsewhere_ask_only_where_they_were_named(reader, http):
    page, ask = (
        "https://photos.example",
        {"access-control-request-method": "POST", "access-control-request-headers": "authorization"},
    )
    off = http.options("/v1/analyze", headers={"origin": page} | ask)
    assert off.status_code == 403
    assert not any(name.startswith("access-control") for name in off.headers)
    for keys in (None, Keys([("ann", KEY)])):
        bearer = {} if keys is None else {"authorization": f"Bearer {KEY}"}
        with serving(reader, keys=keys, origins=[page]) as (_, named):
            allowed = named.options("/v1/analyze", headers={"origin": page} | ask)
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == page
            reply = named.post("/v1/analyze", files=images(png()), headers={"origin": page} | bearer)
            assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, page)
            error = named.post("/v1/analyze", files=images(b"no"), headers={"origin": page} | bearer)
            assert (error.status_code, error.headers["access-control-allow-origin"]) == (415, page)
            other = named.options("/v1/analyze", headers={"origin": "https://evil.example"} | ask)
            assert other.status_code == 400
            assert "access-control-allow-origin" not in other.headers
    for wrong in ("*", "photos.example", "https://photos.example/"):
        with pytest.raises(UsageError, match="origin"):
            app(reader, origins=[wrong])


def test_a_picture_alone_and_json_are_read_as_a_form_is(http, reader):
    photo, fields = Path(PHOTOS[0]).read_bytes(), {"tasks": "age,pose", "score": "0.5", "faces": "1"}
    (want,) = http.post("/v1/analyze", files=images(photo), data=fields).json()["results"]
    text = base64.b64encode(photo).decode()
    for kind in ("image/jpeg", "application/octet-stream"):
        (got,) = http.post(
            "/v1/analyze", content=photo, headers={"content-type": kind}, params=fields
        ).json()["results"]
        same(got, want)
    for body in (
        {"image": text, **fields},
        {"image": [text], "tasks": ["age", "pose"], "score": 0.5, "faces": 1},
        {"image": f"data:image/jpeg;base64,{text}", **fields},
    ):
        (got,) = http.post("/v1/analyze", json=body).json()["results"]
        same(got, want)
    assert http.post("/v1/verify", json={"image": [text, text], "threshold": 0.5}).json()["same"] is True
    raw = {"content-type": "image/png"}
    refusal(
        http.post("/v1/analyze", content=png(), headers=raw, params={"taks": "age"}), 400, "unknown_field"
    )
    refusal(http.post("/v1/analyze", content=b"no", headers=raw), 415, "not_a_picture")
    refusal(http.post("/v1/analyze", content=b"", headers=raw), 400, "empty_file")
    refusal(http.post("/v1/analyze", json={"tasks": "age"}), 400, "no_image")
    refusal(http.post("/v1/analyze", json=[text]), 400, "bad_json")
    refusal(http.post("/v1/analyze", json={"image": text, "score": True}), 400, "bad_field")
    refusal(http.post("/v1/analyze", json={"image": text, "scores": 1}), 400, "unknown_field")
    refusal(http.post("/v1/analyze", json={"image": [text] * 17}), 413, "too_many_pictures")
    for wrong in ("https://example.org/a.jpg", "/etc/passwd", "???", {"url": "x"}, 5):
        error = refusal(http.post("/v1/analyze", json={"image": wrong}), 400, "bad_field")
        assert error["details"] == {"field": "image"}
    with serving(reader, limits=Limits(picture_bytes=3000)) as (_, small):
        refusal(small.post("/v1/analyze", content=b"x" * 3001, headers=raw), 413, "picture_too_large")
        refusal(
            small.post("/v1/analyze", json={"image": base64.b64encode(b"x" * 3001).decode()}),
            413,
            "picture_too_large",
        )


def test_the_reference_loads_nothing_from_elsewhere(http, reader):
    reply = http.get("/docs")
    assert reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    for path in http.get("/openapi.json").json()["paths"]:
        assert path in reply.text
    for address in re.findall(r'(?:src|href)="([^"]+)"', reply.text):
        assert address.startswith("#") or http.get("/" + address).status_code == 200, address
    assert "<script" not in reply.text
    assert "://" not in re.sub(r"<pre>.*?</pre>", "", reply.text, flags=re.S)
    with serving(reader, keys=Keys([("ann", KEY)])) as (_, closed):
        assert closed.get("/docs").status_code == 200  # a browser has no key to send


HEAD = (
    b"POST /v1/analyze HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: multipart/form-data;"
    b" boundary=b\r\ncontent-length: 5000\r\n\r\n--b"
)


def test_readyz_reports_stalled_uploads_and_they_end_early(reader):
    with serving(reader, limits=Limits(queue=3, stall=1.0)) as (made, http):
        address = (http.base_url.host, http.base_url.port)
        stalled = [socket.create_connection(address, timeout=5) for _ in range(3)]
        for connection in stalled:
            connection.sendall(HEAD)
        until(lambda: made.state.service.uploads.open == 3)
        refusal(http.get("/readyz"), 503, "not_ready")
        refusal(http.post("/v1/analyze", files=images(png())), 503, "queue_full")
        assert http.get("/healthz").status_code == 200
        for connection in stalled:  # long before the 30 s of a request
            assert connection.recv(65536).startswith(b"HTTP/1.1 408")
            connection.close()
        gate_is_empty(made)
        assert http.get("/readyz").status_code == 200
        assert http.post("/v1/analyze", files=images(png())).status_code == 200


def test_readyz_tells_that_the_memory_for_bodies_is_full(reader):
    with serving(reader, limits=Limits(held_bytes=4000)) as (made, http):
        with socket.create_connection((http.base_url.host, http.base_url.port), timeout=5) as slow:
            slow.sendall(HEAD + b'\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n')
            time.sleep(0.1)
            slow.sendall(b"x" * (4000 - made.state.service.uploads.held))
            until(lambda: made.state.service.uploads.held == 4000)
            refusal(http.get("/readyz"), 503, "not_ready")
        gate_is_empty(made)
        assert http.get("/readyz").status_code == 200


def _mounted(made):
    outer = FastAPI()
    outer.mount("/faces", made)
    return outer


def _behind_a_proxy(made):
    """As uvicorn's --root-path: the proxy takes the prefix away, and the server puts it back."""

    async def outer(scope, receive, send):
        if scope["type"] == "http":
            scope = scope | {"root_path": "/faces", "path": "/faces" + scope["path"]}
        await made(scope, receive, send)

    return outer


@pytest.mark.parametrize(("wrap", "prefix"), [(_mounted, "/faces"), (_behind_a_proxy, "")])
def test_under_a_prefix_all_is_as_without(reader, wrap, prefix):
    made = app(reader, keys=Keys([("ann", KEY)]), limits=Limits(rate=1, burst=3))
    ann = {"authorization": f"Bearer {KEY}"}
    with running(wrap(made)) as url, httpx.Client(base_url=url + prefix, timeout=20) as http:
        for path in ("/", "/page/app.js", "/healthz", "/readyz"):
            assert http.get(path).status_code == 200, path
        for path in ("/v1/models", "/metrics", "/openapi.json", "/healthz/", "/faces/healthz"):
            refusal(http.get(path), 401, "no_key")
        assert [http.post("/v1/analyze", files=images(png()), headers=ann).status_code for _ in range(4)] == [
            200,
            200,
            200,
            429,
        ]
        refusal(
            http.get("/v1/anything-else", headers=ann), 429, "rate_limited"
        )  # a route that nobody listed counts too
        assert (
            http.get("/metrics", headers=ann).status_code
            == http.get("/openapi.json", headers=ann).status_code
            == 200
        )


def test_the_path_below_a_prefix():
    for path, prefix, below in (
        ("/healthz", "", "/healthz"),
        ("/a/healthz", "/a", "/healthz"),
        ("/a/healthz", "/a/", "/healthz"),
        ("/a", "/a", ""),
        ("/ab/healthz", "/a", "/ab/healthz"),
        ("/healthz", "/a", "/healthz"),
        ("/a/a/x", "/a", "/a/x"),
    ):
        assert route_path({"path": path, "root_path": prefix}) == below


def test_a_fault_is_one_reply_and_does_not_show_itself(reader, caplog):
    def broken(pixels):
        raise ZeroDivisionError("inner words")

    with serving(Reader(broken, reader.model)) as (_, http):
        reply = http.post("/v1/analyze", files=images(png()))
        refusal(reply, 500, "internal")
        assert "inner words" not in reply.text
        assert "inner words" in caplog.text
        assert reply.json()["request_id"] in caplog.text
        assert http.get("/healthz").status_code == 200
        refusal(
            http.post("/v1/analyze", files=images(png()), data={"score": "0.5"}), 400, "bad_field"
        )  # not a detector of ours


def test_what_is_not_offered_is_refused(reader):
    with serving(reader, offered=["age", "identity"]) as (_, http):
        photo = images(Path(PHOTOS[0]).read_bytes())
        assert refusal(
            http.post("/v1/analyze", files=photo, data={"tasks": "age,gender"}), 403, "task_not_offered"
        )
        (record,) = http.post("/v1/analyze", files=photo).json()["results"]
        assert set(record["faces"][0]) == {"box", "score", "points5", "age"}
    with serving(reader, offered=["age"]) as (_, http):
        refusal(http.post("/v1/verify", files=images(png(), png())), 403, "task_not_offered")
    with pytest.raises(UnknownTask, match="agee"):
        app(reader, offered=["agee"])
    with pytest.raises(UsageError, match="workers"):
        app(reader, workers=0)


def test_a_model_without_identity_cannot_verify(reader):
    model = SimpleNamespace(
        view=reader.model.view, tasks=[t for t in reader.model.tasks if t.name != "identity"]
    )
    with serving(Reader(reader.detector, model)) as (_, http):
        refusal(http.post("/v1/verify", files=images(png(), png())), 501, "not_answered")


def test_where_no_threshold_was_measured_none_is_made_up(reader):
    photo = Path(PHOTOS[0]).read_bytes()
    with serving(Reader(reader.detector, Unmeasured(reader.model))) as (_, http):
        record = http.post("/v1/verify", files=images(photo, photo)).json()
        assert record["similarity"] == 1.0
        assert not {"same", "threshold", "false_match_rate"} & set(record)
        assert (
            http.post("/v1/verify", files=images(photo, photo), data={"threshold": "0.5"}).json()["same"]
            is True
        )
        refusal(http.post("/v1/verify", files=images(photo, photo), data={"fmr": "0.01"}), 400, "bad_field")


# --- A gallery


def test_a_gallery_adds_identifies_lists_and_forgets(reader, tmp_path, caplog):
    pytest.importorskip("lancedb")
    from mien.recognition.gallery import Gallery

    ann, eve, crowd = (Path(p).read_bytes() for p in PHOTOS)
    with serving(reader, gallery=partial(Gallery, tmp_path / "people")) as (made, http):
        people = "/v1/gallery/people"
        assert http.get(people).json()["people"] == []
        refusal(http.post("/v1/gallery/identify", files=images(ann)), 400, "gallery")
        refusal(http.delete(f"{people}/p_nobody"), 404, "no_person")
        refusal(http.post(people, files=images(ann)), 400, "bad_field")
        refusal(http.post(people, files=images(ann), data={"name": "Ann", "pick": "some"}), 400, "bad_field")
        refusal(http.post(people, files=images(ann), data={"name": "Ann", "until": "soon"}), 400, "gallery")
        refusal(http.post(people, files=images(ann, png()), data={"name": "Ann"}), 422, "no_face")
        refusal(http.post(people, files=images(ann, crowd), data={"name": "Ann"}), 422, "several_faces")
        refusal(http.post(people, files=images(b"no"), data={"name": "Ann"}), 415, "not_a_picture")
        assert http.get(people).json()["people"] == []  # none of these enrolled anybody

        enrolled = http.post(people, files=images(ann), data={"name": "Ann", "note": "signed"})
        assert enrolled.status_code == 200, enrolled.text
        listed = http.get(people)
        (person,) = listed.json()["people"]
        assert (person["name"], person["note"], len(person["faces"])) == ("Ann", "signed", 1)
        assert person["person"] == enrolled.json()["added"][0]["person"]
        found = http.post("/v1/gallery/identify", files=images(ann, eve, png(), b"no"))
        one, other, none, bad = found.json()["results"]
        assert one["faces"][0]["match"]["name"] == "Ann"
        assert one["faces"][0]["match"]["similarity"] == pytest.approx(1, abs=0.002)
        assert other["faces"][0]["match"] is None
        assert none["faces"] == []
        assert bad["error"]["code"] == "not_a_picture"
        refusal(http.post("/v1/gallery/identify", files=images(ann), data={"top": "0"}), 400, "bad_field")

        page = made.openapi()
        assert {people, f"{people}/{{person}}", "/v1/gallery/identify"} < {
            p for p in page["paths"] if "gallery" in p
        }
        parts = page["components"]["schemas"]
        whole(page)
        client = Client(str(http.base_url))
        assert client.enroll("Eve", eve, until="2999-01-31")[0]["new"]
        assert client.identify(eve, top=1)[0]["faces"][0]["candidates"][0]["name"] == "Eve"
        assert client.forget(next(p["person"] for p in client.people() if p["name"] == "Eve"))["faces"] == 1
        gone = http.delete(f"{people}/{person['person']}")
        for name, reply in (
            ("Enrolled", enrolled),
            ("People", listed),
            ("Identified", found),
            ("Forgotten", gone),
        ):
            fits(reply.json(), parts[name], parts, name)
        assert {k: gone.json()[k] for k in ("people", "faces", "corrections")} == {
            "people": 1,
            "faces": 1,
            "corrections": 0,
        }
        assert http.get(people).json()["people"] == []
        refusal(http.delete(f"{people}/{person['person']}"), 404, "no_person")
        assert 'route="/v1/gallery/people/{person}"' in http.get("/metrics").text
    assert person["person"] not in caplog.text
    with pytest.raises(UsageError, match="does not offer it"):
        app(reader, offered=["age"], gallery=partial(Gallery, tmp_path / "people"))
    with serving(reader) as (_, http):
        refusal(http.get("/v1/gallery/people"), 404, "no_route")


# --- Keys and rates


def test_keys_are_needed_and_each_has_its_own_rate(reader):
    keys = Keys([("ann", KEY), ("bob", OTHER)])
    with serving(reader, keys=keys, limits=Limits(rate=60, burst=3)) as (_, http):
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": f"Basic {KEY}"},
            {"authorization": "Bearer " + KEY[:-1]},
        ):
            for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
                reply = http.get(path, headers=headers)
                refusal(reply, 401, "no_key")
                assert reply.headers["www-authenticate"] == "Bearer"
        assert http.get("/healthz").status_code == http.get("/readyz").status_code == 200
        ann, bob = ({"authorization": f"Bearer {k}"} for k in (KEY, OTHER))
        # with keys, any name the server is reached by will do
        assert (
            http.post(
                "/v1/analyze", files=images(png(), png()), headers=ann | {"host": "faces.example"}
            ).status_code
            == 200
        )
        assert refusal(
            http.post("/v1/analyze", files=images(png(), png()), headers=ann), 429, "rate_limited"
        )["details"]
        refusal(http.get("/v1/models", headers=ann), 429, "rate_limited")
        assert http.get("/v1/models", headers=bob).status_code == 200


def test_a_bucket_fills_up_again():
    now = [100.0]
    buckets = Buckets(rate=30, burst=4, clock=lambda: now[0])  # one in two seconds
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0]
    assert buckets.take("a") == 2
    assert buckets.take("b") == 0
    now[0] += 1
    assert buckets.take("a") == 1
    assert buckets.take("a", 3) == 5
    now[0] += 1
    assert buckets.take("a") == 0
    now[0] += 1000
    assert buckets.take("a", 9) == 0  # larger than the bucket: the rest is owed
    assert buckets.take("a") == 12  # 5 owed, 1 wanted


def test_the_file_of_keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# who\n\nann {KEY}\nbob\t{OTHER}\n")
    keys = read_keys(file)
    assert len(keys) == 2
    assert (keys.owner(KEY), keys.owner(OTHER), keys.owner(""), keys.owner("ä")) == ("ann", "bob", None, None)
    assert KEY not in repr(vars(keys))
    for text, said in [
        ("", "has no key"), (f"{KEY}\n", "line 1: 1 words"), ("ann short-key\n", "has 9 characters"),
        (f"ann {KEY}\nbob {KEY}\n", "also 'ann'"), (f"ann {KEY}\nann {OTHER}\n", "same name"),
    ]:  # fmt: skip
        file.write_text(text)
        with pytest.raises(UsageError, match=said) as caught:
            read_keys(file)
        assert KEY not in str(caught.value)
        assert "short-key" not in str(caught.value)
    with pytest.raises(UsageError, match="FileNotFoundError"):
        read_keys(tmp_path / "none")


def test_off_loopback_a_key_is_needed_to_start(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.4", "faces.example", "localhost.example"):
        with pytest.raises(UsageError, match="--api-keys FILE"):
            check_address(host, None)
        check_address(host, Keys([("ann", KEY)]))
    for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"):
        check_address(host, None)
    assert not is_loopback("")
    assert [without_port(h) for h in ("a:1", "a", "[::1]:8", "[::1]")] == ["a", "a", "[::1]", "[::1]"]
    done = CliRunner().invoke(cli, ["serve", "--host", "0.0.0.0"])
    assert isinstance(done.exception, UsageError)


def test_limits_are_checked():
    with pytest.raises(UsageError, match="faces must be above 0, not 0"):
        Limits(faces=0)
    with pytest.raises(UsageError, match="rate"):
        Limits(rate=0)


def test_no_picture_key_or_embedding_in_the_log(reader, caplog):
    caplog.set_level(logging.DEBUG)
    photo, secret = Path(PHOTOS[0]).read_bytes(), b"my-diary-of-1987"
    with serving(reader, keys=Keys([("ann", KEY)])) as (_, http):
        ann = {"authorization": f"Bearer {KEY}"}
        reply = http.post("/v1/analyze", files=images(photo), data={"tasks": "identity"}, headers=ann)
        http.post(
            "/v1/analyze?token=query-secret", files=[("image", ("name-of-person.jpg", secret))], headers=ann
        )
        http.post("/v1/analyze", files=images(secret, photo), headers=ann)
        http.get("/v1/models", headers={"authorization": f"Bearer {OTHER}"})
    ours = "\n".join(
        r.getMessage() + (r.exc_text or "")
        for r in caplog.records
        if not r.name.startswith(("httpx", "httpcore"))
    )
    assert "key=ann" in ours
    assert ours.count("/v1/analyze 200") == 2
    embedding = reply.json()["results"][0]["faces"][0]["identity"]["embedding"]
    for text in (
        KEY,
        OTHER,
        secret.decode()[:6],
        "query-secret",
        "name-of-person",
        str(embedding[0]),
        "JFIF",
    ):
        assert text not in ours, text


def test_pictures_never_touch_the_disk(http, monkeypatch):
    import tempfile

    def refuse(*args, **kwargs):
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    large = png()[:-1] + b"\0" * (3 << 20)
    assert http.post("/v1/analyze", files=images(large, png())).status_code == 200


# --- Stopping, the client, the command


def test_stopping_lets_what_is_under_way_end(slow):
    made = app(slow.reader)
    with ThreadPoolExecutor(2) as pool:
        with running(made) as url:
            client = Client(url)
            answer = pool.submit(client.analyze, png())
            assert slow.detector.begun.acquire(timeout=5)
            pool.submit(lambda: (time.sleep(0.3), slow.detector.go.set()))
        assert answer.result(5)[0]["faces"] == []
        with pytest.raises(ConnectionRefusedError):
            client.ready()


def test_the_client(reader):
    with serving(reader, keys=Keys([("ann", KEY)])) as (_, http):
        client = Client(str(http.base_url), key=KEY)
        (record,) = client.analyze(PHOTOS[0], tasks=["age"], score=0.5, faces=1)
        assert set(record["faces"][0]) == {"box", "score", "points5", "age"}
        (record,) = client.analyze(PHOTOS[0], tasks=["parsing"], masks=True)
        np.testing.assert_array_equal(
            mask_rows(record["faces"][0]["parsing"]["mask"]), reader(PHOTOS[0])[0]["parsing"].mask
        )
        assert "mask" not in client.analyze(PHOTOS[0], tasks=["parsing"])[0]["faces"][0]["parsing"]
        assert client.verify(PHOTOS[0], Path(PHOTOS[0]), threshold=0.5).same is True
        assert client.verify(PHOTOS[0], PHOTOS[1]).same is False
        assert client.verify(PHOTOS[0], PHOTOS[1], fmr=0.001).record["false_match_rate"] == 0.001
        assert client.models()["models"][0]["name"] == reader.model.name
        assert client.ready() is True
        with pytest.raises(ServerError) as caught:
            client.analyze(b"no")
        assert (caught.value.status, caught.value.code, caught.value.details) == (
            415,
            "not_a_picture",
            {"image": 1},
        )
        with pytest.raises(ServerError, match="Bearer KEY"):
            Client(str(http.base_url)).models()
    with pytest.raises(UsageError, match="ftp"):
        Client("ftp://x")


def test_the_client_retries_when_the_server_asks_for_it(reader):
    with serving(reader, limits=Limits(rate=600, burst=1)) as (_, http):
        patient = Client(str(http.base_url), retries=2)
        assert patient.models() and patient.models()
        with pytest.raises(ServerError) as caught:  # the bucket of one was just emptied
            Client(str(http.base_url)).models()
        assert (caught.value.status, caught.value.retry_after) == (429, 1.0)


def test_without_the_extra_the_mend_is_named():
    code = (
        "import sys; sys.modules['fastapi'] = None; sys.argv = ['mien', 'serve']; from mien.cli import main;"
        " main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'mien[serve]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_serves_and_ends_at_sigterm():
    words = [sys.executable, "-m", "mien", "serve", "--port", "0", "--workers", "1"]
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as process:
        try:
            assert process.stderr is not None
            line = ""
            while "listening on http://127.0.0.1" not in line:
                line = process.stderr.readline()
                assert line
            client = Client(re.search(r"http://\S+/", line)[0].rstrip("/"))
            assert len(client.analyze(PHOTOS[0], tasks=["age"])[0]["faces"]) == 1
            process.send_signal(signal.SIGTERM)
            assert "POST /v1/analyze 200" in process.stderr.read()
            assert process.wait(10) in (0, -signal.SIGTERM)
        finally:
            process.kill()


# --- Its own description


def fits(value, schema: dict, components: dict, path: str = "$") -> None:
    """The part of JSON Schema that the description uses; a keyword that is not known here fails the test."""
    if "$ref" in schema:
        return fits(value, components[schema["$ref"].removeprefix("#/components/schemas/")], components, path)
    if "anyOf" in schema:  # a thing or null; a record or an error record
        kinds = [s for s in schema["anyOf"] if (s.get("type") == "null") is (value is None)]
        return fits(value, kinds[len(kinds) > 1 and "error" in value], components, path)
    known = {
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "minItems",
        "maxItems",
        "minimum",
        "maximum",
        "description",
    }
    assert set(schema) <= known, path
    types = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
        "null": type(None),
    }
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    assert any(isinstance(value, types[k]) for k in kinds), path
    if "object" in kinds and value is not None:
        assert set(schema.get("required", ())) <= set(value), path
        for key, inner in value.items():
            rest = schema.get("additionalProperties", True)
            assert key in schema.get("properties", {}) or rest is not False, f"{path}.{key}"
            inside = schema.get("properties", {}).get(key, rest if isinstance(rest, dict) else None)
            if inside is not None:
                fits(inner, inside, components, f"{path}.{key}")
    elif schema["type"] == "array":
        assert schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", np.inf), path
        for i, inner in enumerate(value):
            fits(inner, schema["items"], components, f"{path}[{i}]")
    elif schema["type"] in ("number", "integer"):
        assert schema.get("minimum", -np.inf) <= value <= schema.get("maximum", np.inf), path


def whole(page: dict) -> set[str]:
    """Every reference leads somewhere, every route is described, every example is what its schema says; the
    schemas seen.
    """
    parts, seen = page["components"]["schemas"], set()
    for target in re.findall(r'"\$ref": ?"([^"]+)"', json.dumps(page)):
        assert target.removeprefix("#/components/schemas/") in parts
    for path, methods in page["paths"].items():
        for operation in methods.values():
            assert operation["description"]
            for media in (
                m
                for r in operation["responses"].values()
                for n, m in r.get("content", {}).items()
                if n == "application/json"
            ):
                fits(media["example"], media["schema"], parts, path)
                seen.add(media["schema"]["$ref"].rpartition("/")[2])
    return seen


def test_the_description_is_complete_and_true(http):
    page = http.get("/openapi.json").json()
    assert page["openapi"].startswith("3.1")
    parts = page["components"]["schemas"]
    routes = {f"{method} {path}" for path, methods in page["paths"].items() for method in methods}
    posts = {"post /v1/analyze", "post /v1/verify"}
    assert routes == posts | {"get /v1/models", "get /healthz", "get /readyz", "get /metrics"}
    assert whole(page) == {"Analysis", "Verification", "Models", "Health", "Error"}
    form = page["paths"]["/v1/analyze"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]) == {"image", "tasks", "score", "thorough", "faces", "masks"}
    photo = Path(PHOTOS[0]).read_bytes()
    for name, reply in (
        ("Analysis", http.post("/v1/analyze", files=images(photo, b"no"))),
        ("Verification", http.post("/v1/verify", files=images(photo, photo), data={"threshold": "0.5"})),
        ("Models", http.get("/v1/models")),
        ("Health", http.get("/readyz")),
        ("Error", http.post("/v1/analyze", files=images(b""))),
    ):
        fits(reply.json(), parts[name], parts, name)
