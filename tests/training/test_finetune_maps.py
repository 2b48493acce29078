"""New tasks of points and masks, on drawn faces: learned, written, and read through the contract."""

from __future__ import annotations

import csv
import json
import warnings

import numpy as np
import pytest
from PIL import Image

import mien
from mien.errors import UsageError
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import WEIGHTS
from mien.io.writers import open_output
from mien.training.finetune import dense, finetune, merge
from mien.training.finetune.graph import Graph
from mien.video.averages import TrackAverages
from mien.visualize.contact_sheet import ContactSheet
from mien.web.build import model_table
from tests.support import drawn_labels

COUNT = 20
STEPS = (30, 30)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("maps")


@pytest.fixture(scope="module")
def data(home, reader):
    return drawn_labels.annotated(home, reader, COUNT)


@pytest.fixture(scope="module")
def both(home, data):
    """(points, masks, one file with both, what was told of the points)."""
    coco, folder = data
    (folder / "images" / "0003.png").write_bytes(b"no picture")
    Image.new("L", (9, 9)).save(folder / "masks" / "0004.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_CACHE", str(home / "cache"))
        patch.setattr(dense, "STEPS", STEPS)
        lines = list[str]()
        points = finetune(coco, "marks", home / "marks.onnx", threads=1, log=lines.append)
        masks = finetune(folder, "areas", home / "areas.onnx", threads=1, log=lines.append)
    merge(points.path, masks.path, home / "both.onnx")
    return points, masks, home / "both.onnx", lines


def test_points_and_masks_are_learned_and_old_answers_stay(both):
    points, masks, path, _ = both
    assert points.score.name == "nme"
    assert points.score.value < 0.7 * points.record["baseline"]
    assert masks.score.name == "mean_f1"
    assert masks.score.value > masks.record["baseline"]
    assert "bit for bit" in points.record["old_answers"]
    images = np.random.default_rng(0).standard_normal((3, 3, 128, 128)).astype(np.float32)
    old, new = (OnnxModel(p, threads=1)(images) for p in (WEIGHTS / "mien.onnx", path))
    assert set(new) - set(old) == {"marks", "areas"}
    assert all(np.array_equal(raw, new[name]) for name, raw in old.items())


def test_the_header_is_all_that_a_reader_needs(both):
    entries = {t["name"]: t for t in Graph(both[2]).header["tasks"]}
    assert entries["marks"]["kind"] == "points"
    assert entries["marks"]["names"] == list(drawn_labels.POINTS)
    assert entries["marks"]["mirror"] == [1, 0, 2, 3]
    assert entries["areas"] == {
        "name": "areas", "labels": entries["areas"]["labels"], "kind": "masks",
        "names": list(drawn_labels.MASKS), "mirror": {}, "sensitive": False,
    }  # fmt: skip


def test_a_mask_or_picture_that_does_not_fit_is_told_and_left_out(both):
    _, masks, _, lines = both
    told = "\n".join(lines)
    assert "0003.png" in told
    assert "is 9 x 9 and its picture 160 x 160" in told
    assert masks.record["pictures"]["used"] == COUNT - 2


def test_the_report(both):
    for made, picture in ((both[0], "errors.png"), (both[1], "f1.png")):
        assert (made.report / picture).is_file()
        assert (made.report / "errors.html").is_file()
        card = (made.report / "report.md").read_text(encoding="utf-8")
        assert made.score.name in card
        assert "Calibration: none" in card


def test_everything_knows_points_and_masks_by_the_contract(both, data, tmp_path):
    reader = mien.load(both[2], threads=1)
    path = data[1] / "images" / "0000.png"
    reading = reader(str(path))
    face = reading[0]
    truth = next(a for a in json.loads(data[0].read_text("utf-8"))["annotations"] if a["image_id"] == 0)
    places = np.array(truth["keypoints"]).reshape(-1, 3)[:, :2] - 0.5
    assert np.linalg.norm(face["marks"].points - places, axis=1).mean() < 0.12 * (face.box[2] - face.box[0])
    record = face.to_dict()
    assert record["marks"]["names"] == list(drawn_labels.POINTS)
    assert set(record["areas"]["classes"]) <= set(drawn_labels.MASKS)
    for suffix in (".csv", ".parquet"):
        out = open_output(str(tmp_path / f"o{suffix}"), reader.requested, tasks=reader.model.tasks)
        out.add(reading.to_dict())
        out.close()
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert float(row["marks_1_x"]) == record["marks"]["points"][1][0]
    assert float(row["areas_skin"]) == record["areas"]["classes"]["skin"]
    import pyarrow.parquet as pq

    [flat] = pq.read_table(tmp_path / "o.parquet")["marks"].to_pylist()
    assert np.allclose(np.reshape(flat, (-1, 2)), record["marks"]["points"], atol=1e-3)
    pixels = reading.photo.pixels
    bare = mien.load(threads=1)(str(path))[0]
    drawn, plain = (mien.annotate(pixels, [f]) for f in (face, bare))
    x, y = np.round(face["marks"].points[2]).astype(int)
    assert (drawn[y, x] != plain[y, x]).any()
    inside = np.isin(face["areas"].photo_mask(160, 160), (1, 2))
    assert (drawn[inside] != plain[inside]).mean() > 0.3
    assert np.array_equal(
        mien.annotate(pixels, [face], overlay="none"), mien.annotate(pixels, [bare], overlay="none")
    )
    sheet = ContactSheet(tmp_path / "s.html")
    sheet.add(reading)
    sheet.close()
    text = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert '"areas"' in text
    assert '"marks"' not in text  # coordinates say nothing on a card
    page = {t["name"]: t for t in model_table(reader.model, reader.detector)["network"]["tasks"]}
    assert page["marks"]["kind"] == "points"
    assert page["marks"]["names"] == list(drawn_labels.POINTS)
    assert page["areas"]["kind"] == "map"
    means = TrackAverages()
    means.add(face.answers, 1.0)
    assert not {"marks", "areas"} & set(means.answers())  # places belong to their frame


def test_the_server_answers_points_and_masks(both, data):
    pytest.importorskip("fastapi")
    with warnings.catch_warnings():  # a newer Starlette asks for another HTTP client
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.filterwarnings("ignore", message="Using `httpx` with `starlette.testclient`")
        from fastapi.testclient import TestClient

    from mien.server.app import app as serve

    picture = (data[1] / "images" / "0000.png").read_bytes()
    with TestClient(serve(mien.load(both[2], threads=1)), base_url="http://127.0.0.1") as client:
        told = {t["name"] for t in client.get("/v1/models").json()["models"][0]["tasks"]}
        assert {"marks", "areas"} <= told
        asked = {"tasks": "marks,areas", "masks": "runs"}
        answer = client.post("/v1/analyze", files={"image": ("a.png", picture, "image/png")}, data=asked)
        assert answer.status_code == 200, answer.text
        [face] = answer.json()["results"][0]["faces"]
        assert len(face["marks"]["points"]) == 4
        assert face["areas"]["mask"]["size"] == [256, 256]  # of a grid of half the crop, doubled


def test_masks_go_to_files(both, data, tmp_path):
    from typer.testing import CliRunner

    from mien.cli import app

    words = ["analyze", "--weights", both[2], data[1] / "images" / "0000.png", "--tasks", "areas,marks",
        "--masks", tmp_path / "m", "--out", tmp_path / "o.jsonl", "--threads", "1"]  # fmt: skip
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0, done.output + str(done.exception)
    [mask] = (tmp_path / "m").iterdir()
    assert mask.name.endswith("-areas.png")
    with Image.open(mask) as found:
        assert found.size == (160, 160)


def test_a_stopped_training_goes_on(home, data, tmp_path, monkeypatch, both):
    monkeypatch.setenv("MIEN_CACHE", str(home / "cache"))
    monkeypatch.setattr(dense, "STEPS", STEPS)
    real, rounds = dense.fit, list[int]()

    def fit(*args, **more):
        rounds.append(1)
        if len(rounds) == 3:
            raise KeyboardInterrupt
        return real(*args, **more)

    monkeypatch.setattr(dense, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        finetune(data[0], "marks", tmp_path / "marks.onnx", threads=1)
    made = finetune(data[0], "marks", tmp_path / "marks.onnx", threads=1)
    assert len(rounds) == dense.ROUNDS + 1
    assert made.record["test"] == both[0].record["test"]


@pytest.mark.slow
@pytest.mark.parametrize("depth", ["decoder", "all"])
def test_more_of_the_network_learns_and_the_old_tasks_stay_near(home, reader, monkeypatch, depth):
    monkeypatch.setenv("MIEN_CACHE", str(home / "cache"))
    monkeypatch.setattr(dense, "STEPS", (10, 10))
    pictures = drawn_labels.class_folders(home / "pictures", reader, 30)
    made = finetune(pictures, "masked", home / f"{depth}.onnx", depth=depth, threads=1)
    images = np.random.default_rng(0).standard_normal((2, 3, 128, 128)).astype(np.float32)
    old, new = (OnnxModel(p, threads=1)(images) for p in (WEIGHTS / "mien.onnx", made.path))
    assert not np.array_equal(old["age"], new["age"])
    if depth == "decoder":
        assert np.allclose(old["identity"], new["identity"], atol=1e-3)
        assert np.allclose(old["landmarks"], new["landmarks"], atol=1e-2)
    assert "mean change of raw numbers" in made.record["old_answers"]
    assert made.record["head"]["depth"] == depth
    assert "weights" not in Graph(made.path).header["frozen"]
    assert made.score.value > 60
    with pytest.raises(UsageError, match="whose head would no longer fit"):
        finetune(pictures, "again", home / "again.onnx", weights=made.path, depth=depth, threads=1)
