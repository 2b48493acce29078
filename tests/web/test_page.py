"""The page: what is served and under which policy, its HTML, and its engine's arithmetic against OpenCV's (in
node).
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import tarfile
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from mien import geometry
from mien.cli import app as cli
from mien.errors import BadWeights, MissingData
from mien.inference.detector import Detector, resized
from mien.io.image import load_photo
from mien.server.app import app
from mien.server.limits import Keys
from mien.server.run import running
from mien.tasks import ATTRIBUTES, HELEN9, LAPA11, PARSING, pose
from mien.tasks.attribute_rates import notable
from mien.tasks.detection import decode, weighted_nms
from mien.web import build
from mien.web.assets import WEB, about, parts

HTML = (WEB / "index.html").read_text(encoding="utf-8")
FILES = [p for p in sorted(WEB.rglob("*")) if p.suffix in (".html", ".css", ".js")]
VOID = {"meta", "link", "input", "img", "br", "path"}


@pytest.fixture(scope="module")
def http(reader):
    with (
        running(app(reader, keys=Keys([("ann", "a-key-of-24-characters-x")]))) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        yield client


def ask(http, **fields):
    files = [("image", ("x", Path("examples/astronaut.jpg").read_bytes()))]
    return http.post(
        "/v1/analyze", files=files, data=fields, headers={"authorization": "Bearer a-key-of-24-characters-x"}
    )


# --- What is served


@pytest.mark.parametrize("path", ["/", *(f"/{p}" for p in parts() if p != "index.html"), "/page/about.json"])
def test_files_come_without_a_key_and_under_a_strict_policy(http, path):
    reply = http.get(path)
    assert reply.status_code == 200
    policy = dict(rule.strip().split(" ", 1) for rule in reply.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == (
        "'none'",
        "'self'",
        "'self'",
    )
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    kinds = {
        "css": "text/css",
        "js": "text/javascript",
        "png": "image/png",
        "jpg": "image/jpeg",
        "json": "application/json",
        "/": "text/html",
    }
    assert reply.headers["content-type"].startswith(kinds[path.rpartition(".")[2]])
    again = http.get(path, headers={"if-none-match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert http.head(path).content == b""


def test_everything_else_still_wants_a_key(http):
    for path in ("/v1/models", "/openapi.json", "/page/../app.py", "/page/local/engine.js", "/page/none.js"):
        assert http.get(path).status_code == 401, path
    assert http.post("/").status_code == 401


def test_masks_come_on_request_and_are_those_of_the_reader(http, reader):
    face = reader("examples/astronaut.jpg")[0]
    (record,) = ask(http, masks="runs").json()["results"]
    mask = record["faces"][0]["parsing"].pop("mask")
    assert record["faces"][0] == face.to_dict()
    runs = mask["runs"]
    np.testing.assert_array_equal(
        np.repeat(runs[::2], runs[1::2]).reshape(mask["size"][::-1]), face["parsing"].mask
    )
    np.testing.assert_allclose(mask["from_photo"], face["parsing"].from_photo, atol=1e-9)
    assert all(a != b for a, b in zip(runs[::2], runs[2::2], strict=False))
    assert "mask" not in ask(http).json()["results"][0]["faces"][0]["parsing"]
    assert ask(http, masks="png").json()["error"]["code"] == "bad_field"


def test_about_names_every_class_and_attribute_once():
    known = about()
    for task in (PARSING, LAPA11, HELEN9):
        assert [c["name"] for c in known["sets"][task.labels]] == list(task.names)
        assert all(re.fullmatch("#[0-9a-f]{6}", c["color"]) for c in known["sets"][task.labels])
        off = {c["name"] for c in known["sets"][task.labels] if not c["head"]}
        assert off <= {"background", "neck", "necklace", "cloth"}
    assert Counter(n for group in known["groups"].values() for n in group) == Counter(ATTRIBUTES.names)
    assert set(known["opinions"]) <= set(ATTRIBUTES.names)


# --- The files themselves


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_nothing_refers_to_elsewhere(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?://|[\"'(]//\w|@import|wss?://", text)
    assert not re.search(
        r"\beval\(|new Function|innerHTML|document\.write", text
    )  # names from pictures and galleries are text, never HTML


class Page(HTMLParser):
    """Tags with their attributes; complains where they do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs) | {"in": list(self.open)}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, self.getpos()


@pytest.fixture(scope="module")
def page():
    parser = Page()
    parser.feed(HTML)
    assert parser.open == []
    return parser.tags


def test_html_is_sound(page):
    assert HTML.startswith("<!doctype html>")
    assert [t for t, _ in page if t in ("html", "title", "h1", "main")] == ["html", "title", "h1", "main"]
    assert dict(page)["html"]["lang"] == "en"
    ids = [a["id"] for _, a in page if "id" in a]
    assert len(ids) == len(set(ids))
    named = {a["for"] for t, a in page if t == "label" and "for" in a}
    assert named <= set(ids)
    for tag, a in page:
        assert not any(n.startswith("on") or n == "style" for n in a), a  # the policy forbids both
        if tag == "input":
            assert a["id"] in named or "label" in a["in"] or "aria-label" in a, a
        if tag == "button":
            assert "type" in a, a
        if tag == "canvas":
            assert "aria-label" in a, a
    roles = {a.get("role") for _, a in page}
    assert {"status", "alert"} <= roles


def test_scripts_look_for_elements_that_are_there(page):
    ids = {a["id"] for _, a in page if "id" in a}
    asked = {
        n
        for p in FILES
        if p.suffix == ".js"
        for n in re.findall(r'\bget\("([\w-]+)"\)', p.read_text(encoding="utf-8"))
    }
    assert len(asked) > 20
    assert asked <= ids


# --- The engine's arithmetic

CHECK = """
import fs from "node:fs";
const [folder, web] = process.argv.slice(2);
const names = ["pixels", "geometry", "detect", "read"];
const [pixels, geometry, detect, read] = await Promise.all(names.map((n) => import(`${web}/local/${n}.js`)));
const job = JSON.parse(fs.readFileSync(`${folder}/job.json`));
const data = new Uint8ClampedArray(fs.readFileSync(`${folder}/photo`));
const photo = { data, width: job.width, height: job.height };
const keep = (name, picture) => fs.writeFileSync(`${folder}/${name}`, picture.data);
job.scales.forEach((scale, i) => keep(`scale${i}`, pixels.resized(photo, scale)));
const { crop, fromPhoto } = geometry.align(photo, job.points, job.view);
keep("crop", crop);
const rows = detect.decode(Float32Array.from(job.raw), job.canvas, 0.5);
const plans = job.sizes.map(([w, h]) => detect.plan(w, h, job.passes));
const tilePasses = job.sizes.flatMap(
  ([w, h]) => job.candidates.map((boxes) => detect.tilePasses(w, h, boxes, job.passes)));
const [pose, found] = [job.faces.map(geometry.poseFrom68), detect.weightedNms(rows, 0.4)];
const runs = read.runs([3, 3, 0, 3]);
const outside = job.outside.map(([affine, [w, h]]) => {
  const found = read.outsidePhoto(affine, photo, w, h);
  return found && Array.from(found);
});
console.log(JSON.stringify({ fromPhoto, pose, found, plans, tilePasses, runs, outside }));
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory, reader):
    """What JavaScript made of the astronaut and of made-up numbers."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    folder, rng = tmp_path_factory.mktemp("js"), np.random.default_rng(3)
    photo = load_photo("examples/astronaut.jpg").pixels[40:340, 100:380]
    face = reader.detector(photo)[0]
    marks = reader(photo)[0]["landmarks"].points
    turned = [
        geometry.move_points(marks, geometry.about((50, 80), degrees=d, scale=s)).tolist()
        for d, s in ((0, 1), (35, 2), (-70, 0.3))
    ]
    raw = rng.normal(0, 1, (84, 15)).astype(np.float32)
    passes = {n: getattr(reader.detector, n) for n in ("base", "thumbnail", "tiles", "max_upscale")}
    sizes = [(512, 512), (3, 900), (1000, 667), (4032, 3024), (1281, 40)]
    corners = rng.uniform(0, 4000, (300, 2))
    boxes = np.hstack([corners, corners + rng.uniform(5, 300, (300, 2))]).tolist()
    job = {
        "width": 280, "height": 300, "scales": [1.25, 2.0, 0.5, 0.25, 0.37, 0.64],
        "points": face.points.tolist(),
        "raw": raw.reshape(-1).tolist(), "canvas": [64, 64],
        "passes": passes, "sizes": sizes, "faces": turned,
        "outside": [
            (geometry.about((140, 150), degrees=d, shift=s).tolist(), (70, 50))
            for d, s in ((0, (0, 0)), (20, (30, 10)), (-75, (-250, -280)))
        ],
        "candidates": [[], boxes[:3], boxes[:60], boxes],
        "view": {"size": [64, 48], "points": geometry.TEMPLATES["arcface"].tolist()},
    }  # fmt: skip
    (folder / "photo").write_bytes(np.ascontiguousarray(photo).tobytes())
    (folder / "job.json").write_text(json.dumps(job))
    (folder / "check.mjs").write_text(CHECK)
    (folder / "package.json").write_text("{}")
    web = folder / "web"  # node takes a .js for a module only where a package.json says so
    shutil.copytree(WEB, web, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (web / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(
        [node, str(folder / "check.mjs"), str(folder), str(web)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout), job, photo, raw


def near(folder, name, pixels):
    """The same bytes, but for a level here and there (the two round sums of floats in another order)."""
    found = np.frombuffer((folder / name).read_bytes(), np.uint8).reshape(pixels.shape)
    off = np.abs(found.astype(int) - pixels)
    assert off.max() <= 1
    assert (off > 0).mean() < 0.002


def test_pixels_move_as_opencv_moves_them(checked):
    folder, out, job, photo, _ = checked
    for i, scale in enumerate(job["scales"]):
        near(folder, f"scale{i}", resized(photo, scale))
    places = geometry.TEMPLATES["arcface"] * (64, 48) - 0.5
    affine = geometry.fit_similarity(job["points"], places)
    np.testing.assert_allclose(out["fromPhoto"], affine, atol=1e-9)
    assert geometry.scale_of(affine) < 0.5  # so that the halving is in it
    near(folder, "crop", geometry.warp(photo, affine, (64, 48)))


def test_poses_are_pythons(checked):
    _, out, job, _, _ = checked
    for found, points in zip(out["pose"], job["faces"], strict=True):
        np.testing.assert_allclose(found, pose.pose_from_68(points), atol=0.01)


def test_faces_are_decoded_and_merged_as_in_python(checked):
    _, out, _job, _, raw = checked
    want = weighted_nms(*decode(raw, (64, 64), 0.5), 0.4)
    assert len(out["found"]) == len(want) > 5
    for a, b in zip(out["found"], want, strict=True):
        np.testing.assert_allclose(a["box"], b.box, rtol=1e-6)
        np.testing.assert_allclose(a["points"], b.points, rtol=1e-6)
        assert a["score"] == pytest.approx(b.score)
    assert out["runs"] == [3, 2, 0, 1, 3, 1]


def test_pixels_outside_the_photo_are_those_of_python(checked):
    _, out, job, _, _ = checked
    photo = (job["width"], job["height"])
    want = [geometry.outside_photo(affine, photo, size) for affine, size in job["outside"]]
    assert want[0] is None
    assert out["outside"][0] is None
    for found, expected in zip(out["outside"][1:], want[1:], strict=True):
        assert expected is not None
        assert found == expected.ravel().astype(int).tolist()


def test_passes_are_those_of_the_detector(checked, reader):
    _, out, job, _, _ = checked
    find = reader.detector
    want = [list(find.plan(w, h)) for w, h in job["sizes"]]
    want += [
        find.tile_passes(w, h, np.array(b).reshape(-1, 4)) for w, h in job["sizes"] for b in job["candidates"]
    ]
    assert {len(passes) for passes in want[len(job["sizes"]) :]} > {0, 2, 4}  # none, some and all of a photo
    for passes, expected in zip(out["plans"] + out["tilePasses"], want, strict=True):
        assert [(p["scale"], p["window"], p["canvas"], p["corner"]) for p in passes] == [
            (s.scale, list(s.window), list(s.canvas), list(s.corner)) for s in expected
        ]


# --- mien web


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A folder that stands for onnxruntime-web, with its hashes taken for the right ones."""
    folder = tmp_path / "ort" / "dist"
    folder.mkdir(parents=True)
    for name in build.ORT_FILES:
        (folder / name).write_bytes(name.encode())
    monkeypatch.setattr(
        build, "ORT_FILES", {n: hashlib.sha256(n.encode()).hexdigest() for n in build.ORT_FILES}
    )
    return folder.parent


def test_web_writes_a_folder_that_stands_alone(tmp_path, runtime):
    out = tmp_path / "site"
    done = CliRunner().invoke(cli, ["web", "--out", str(out), "--ort", str(runtime)])
    assert done.exit_code == 0, done.output + str(done.exception)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert '<meta name="mien-mode" content="browser">' in page
    assert "'wasm-unsafe-eval'" in page and "'unsafe-eval'" not in page and "connect-src 'self'" in page
    for name in re.findall(r'(?:src|href)="([^"#]+)"', page):
        assert (out / name).is_file(), name
    scripts = [p for p in out.rglob("*.js") if p.parent.name != "ort"]
    for script in scripts:
        for name in re.findall(
            r'(?:from|import\(|URL\()\s*"(\.[^"]+\.\w+)"', script.read_text(encoding="utf-8")
        ):
            assert (script.parent / name).exists(), (script, name)
    table = json.loads((out / "weights/model.json").read_text(encoding="utf-8"))
    for part in (table["network"], table["detector"]):
        assert hashlib.sha256((out / "weights" / part["file"]).read_bytes()).hexdigest() == part["sha256"]
    assert (
        table["detector"]["threshold"]
        == Detector(build.OnnxModel("src/mien/weights/detector.onnx")).threshold
    )
    assert [t["kind"] for t in table["network"]["tasks"]] == [
        "points",
        "points",
        "map",
        "age",
        "choice",
        "attributes",
        "identity",
    ]


def test_another_runtime_is_refused(tmp_path, runtime):
    (runtime / "dist" / "ort-wasm-simd-threaded.wasm").write_bytes(b"altered")
    with pytest.raises(BadWeights, match="sha256"):
        build.ort_files(runtime)
    with pytest.raises(MissingData, match="not in"):
        build.ort_files(tmp_path)


def test_a_tgz_of_npm_is_taken_and_another_file_is_not(tmp_path, runtime):
    packed = tmp_path / "ort.tgz"
    with tarfile.open(packed, "w:gz") as tar:
        for name in build.ORT_FILES:
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    assert build.ort_files(packed) == {n: n.encode() for n in build.ORT_FILES}
    packed.write_bytes(b"no tar")
    with pytest.raises(MissingData, match="npm pack"):
        build.ort_files(packed)


def test_without_npm_the_error_names_the_fix(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(MissingData, match="--ort"):
        build.fetch_ort(tmp_path)


def test_a_face_is_selected_by_click_or_keyboard_alone():
    """What is enrolled must not change when the pointer or the focus passes over a face; a button's click is
    also Enter and Space.
    """
    script = (WEB / "app.js").read_text(encoding="utf-8")
    assert set(re.findall(r'addEventListener\("(\w+)", \(\) => choose\(', script)) == {"click"}
    assert 'id="enroll-face"' in (WEB / "index.html").read_text(encoding="utf-8")
    assert "drawThumbnail(canvas, now.bitmap, now.record, now.record.faces[now.face])" in (
        WEB / "people.js"
    ).read_text(encoding="utf-8")


def test_pictures_that_come_early_are_kept():
    script = (WEB / "app.js").read_text(encoding="utf-8")
    assert "kept = offer ? null : files;" in script
    assert "if (kept) read(kept);" in script.partition("// --- Pictures")[0]  # at the end of the start


def test_nobody_is_compared_or_enrolled_while_the_camera_runs():
    script = (WEB / "app.js").read_text(encoding="utf-8")
    assert "if (!shown?.record || chosen < 0 || shown.live) return null;" in script


def test_the_example_is_one_of_the_repository_in_the_public_domain():
    assert parts()["page/example.jpg"].read_bytes() == Path("examples/astronaut.jpg").read_bytes()


def test_informative_attributes_come_first_as_in_python(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    values = np.random.default_rng(4).uniform(size=(30, 40)).round(3)
    faces = [dict(zip(ATTRIBUTES.names, v.tolist(), strict=True)) for v in values]
    for name in ("answers.js", "draw.js"):
        shutil.copy(WEB / name, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "job.json").write_text(json.dumps({"faces": faces, "rates": about()["rates"]}))
    (tmp_path / "check.js").write_text(
        'import fs from "node:fs";\nimport { notable } from "./answers.js";\n'
        'const { faces, rates } = JSON.parse(fs.readFileSync("job.json"));\n'
        "console.log(JSON.stringify(faces.map((face) => notable(face, rates))));\n"
    )
    done = subprocess.run([node, "check.js"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [notable(face) for face in faces]
