"""The server against its own description: requests that schemathesis makes up for each route, to the app in
this process.

MIEN_EXAMPLES is how many a route gets (40), half of them as the description wants them and half not.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from mien.recognition.gallery import Gallery
from mien.server.app import app
from mien.server.gallery_routes import begun
from mien.server.limits import Keys, Limits
from tests.server.test_app import KEY, PHOTOS, png

schemathesis = pytest.importorskip("schemathesis")
conforms = pytest.importorskip("schemathesis.specs.openapi.checks")
pytest.importorskip("lancedb")

EXAMPLES = int(os.environ.get("MIEN_EXAMPLES", "40"))
CHECKS = [
    schemathesis.checks.not_a_server_error, conforms.status_code_conformance,
    conforms.content_type_conformance,
    conforms.response_schema_conformance,
]  # fmt: skip
AS_DESCRIBED, OTHERWISE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
AUTHORIZED = {"authorization": f"Bearer {KEY}"}
PERSON = "/v1/gallery/people/{person}"
ROUTES = (
    "POST /v1/analyze",
    "POST /v1/verify",
    "GET /v1/models",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "POST /v1/gallery/identify",
    "POST /v1/gallery/people",
    "GET /v1/gallery/people",
    "POST /v1/gallery/prune",
    "GET /v1/gallery/stats",
    "GET /v1/gallery/export",
    f"PATCH {PERSON}",
    f"POST {PERSON}/merge",
    f"POST {PERSON}/split",
    f"POST {PERSON}/corrections",
    f"DELETE {PERSON}",
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def served(reader, tmp_path_factory):
    """The description as schemathesis reads it, the gallery behind it, and how often each status was seen."""
    galleries: list[Gallery] = []

    def gallery(made_for):
        galleries.append(Gallery(tmp_path_factory.mktemp("openapi") / "people", made_for))
        return galleries[0]

    limits = Limits(
        pixels=400_000, faces=20, seconds=120
    )  # few pixels, so that a picture costs little; a busy machine is no fault
    made = app(reader, keys=Keys([("ann", KEY)]), limits=limits, gallery=gallery)

    async def kept(scope, receive, send):
        """Each request of schemathesis would start the app and stop it for good."""
        if scope["type"] != "lifespan":
            return await made(scope, receive, send)
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    pictures = [png(), Path(PHOTOS[0]).read_bytes(), Path(PHOTOS[1]).read_bytes(), png()[:50], b""]
    # random bytes are hardly ever a picture
    schemathesis.openapi.format("binary", st.one_of(st.sampled_from(pictures), st.binary(max_size=64)))
    yield SimpleNamespace(
        schema=schemathesis.openapi.from_asgi("/openapi.json", kept, headers=AUTHORIZED), gallery=galleries[0]
    )
    made.state.service.close()


def test_no_route_is_left_out(served):
    found = {f"{o.ok().method.upper()} {o.ok().path}" for o in served.schema.get_all_operations()}
    assert found == set(ROUTES)


def good(gallery: Gallery, route: str) -> tuple[str, dict | None]:
    """Somebody who is here, and a body that this route takes; made-up ones are hardly ever both."""
    if not begun(gallery) or [len(p.faces) for p in gallery.people() if p.name in ("Ann", "Eve")] != [2, 1]:
        if begun(gallery) and (here := gallery.people()):
            gallery.forget(*(p.id for p in here))
        gallery.add([PHOTOS[0], np.asarray(Image.open(PHOTOS[0]))[:, ::-1]], "Ann")
        gallery.add(PHOTOS[1], "Eve")
    ann, eve = gallery.person("Ann"), gallery.person("Eve")
    photo, other = (Path(p).read_bytes() for p in PHOTOS[:2])
    bodies: dict[str, dict] = {
        "POST /v1/analyze": {"image": [photo]}, "POST /v1/verify": {"image": [photo, other]},
        f"POST {PERSON}/corrections": {"image": [other]},
        "POST /v1/gallery/identify": {"image": [photo]}, "POST /v1/gallery/people": {"image": [photo],
        "name": "Ann"},
        f"PATCH {PERSON}": {"note": "signed"}, f"POST {PERSON}/merge": {"others": [eve.id]},
        f"POST {PERSON}/split": {"faces": [ann.faces[0]], "name": "Zoe"},
    }  # fmt: skip
    return ann.id, bodies.get(route)


@pytest.mark.parametrize("mode", [AS_DESCRIBED, OTHERWISE], ids=["as described", "otherwise"])
@pytest.mark.parametrize("route", ROUTES)
def test_replies_are_as_described(served, route, mode):
    if mode == OTHERWISE and route in ("GET /healthz", "GET /readyz"):
        pytest.skip("takes nothing, so that nothing can be wrong")
    method, path = route.split()
    operation, seen = served.schema[path][method], Counter()

    @settings(
        max_examples=max(EXAMPLES // 2, 1),
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(data=st.data())
    def ask(data):
        person, body = good(served.gallery, route)
        given = (
            {"path_parameters": {"person": person}} if "{person}" in path and data.draw(st.booleans()) else {}
        )
        if mode == AS_DESCRIBED and body is not None and data.draw(st.booleans()):
            given["body"] = body
        case = data.draw(operation.as_strategy(generation_mode=mode, **given))
        seen[case.call_and_validate(headers=AUTHORIZED, checks=CHECKS).status_code] += 1

    ask()
    print(route, mode.value, dict(sorted(seen.items())))
    assert sum(seen.values()) >= min(EXAMPLES // 2, 1)
    assert mode == OTHERWISE or seen[200]  # else nothing but refusals was looked at
