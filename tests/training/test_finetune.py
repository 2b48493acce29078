"""A new task on the frozen network, on drawn faces: file, report, use, resume and merge."""

from __future__ import annotations

import csv
import json

import numpy as np
import onnx
import pytest
from PIL import Image

import mien
from mien.errors import BadWeights, UsageError
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import WEIGHTS, provenance_of, read
from mien.io.writers import open_output
from mien.tasks import summaries
from mien.training.finetune import finetune, merge
from mien.training.finetune.graph import Graph
from mien.training.finetune.learn import calibrated
from mien.video.averages import TrackAverages
from mien.visualize.contact_sheet import ContactSheet
from mien.web.build import model_table
from tests.support import drawn_labels

COUNT = 40


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("finetune")


@pytest.fixture(scope="module")
def pictures(home, reader):
    return drawn_labels.class_folders(home / "pictures", reader, COUNT)


@pytest.fixture(autouse=True)
def _cache(home, monkeypatch):
    monkeypatch.setenv("MIEN_CACHE", str(home / "cache"))


@pytest.fixture(scope="module")
def choice(home, pictures, astronaut):
    """The task by class folders, with what does not fit among them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_CACHE", str(home / "cache"))
        folder = home / "odd"
        for kind in drawn_labels.CLASSES:
            (folder / kind).mkdir(parents=True)
            for path in sorted((pictures / kind).iterdir()):
                (folder / kind / path.name).write_bytes(path.read_bytes())
        (folder / "worn" / "broken.jpg").write_bytes(b"no picture")
        Image.new("RGB", (80, 80)).save(folder / "worn" / "empty.png")
        with Image.open(astronaut) as photo:
            face = np.asarray(photo.convert("RGB"))
        Image.fromarray(np.hstack([face, face])).save(folder / "worn" / "two.png")
        lines = list[str]()
        made = finetune(folder, "masked", home / "masked.onnx", threads=1, log=lines.append)
        return made, lines


@pytest.fixture(scope="module")
def number(home, pictures):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_CACHE", str(home / "cache"))
        rng = np.random.default_rng(0)
        cover = {"cover": lambda kind, i: round(10 + 30 * kind + float(rng.normal(0, 2)), 2)}
        data = drawn_labels.table(home, pictures, cover, "cover.csv")
        return finetune(data, "cover", home / "cover.onnx", unit="%", seed=1, threads=1)


def test_the_new_task_is_learned_and_the_old_answers_stay(choice):
    made, _ = choice
    assert made.score.value > 80 > made.record["baseline"]
    assert made.score.low <= made.score.value <= made.score.high
    images = np.random.default_rng(0).standard_normal((3, 3, 128, 128)).astype(np.float32)
    before, after = OnnxModel(WEIGHTS / "mien.onnx", threads=1), OnnxModel(made.path, threads=1)
    old, new = before(images), after(images)
    assert set(new) - set(old) == {"masked"}
    for name, raw in old.items():
        assert np.array_equal(raw, new[name]), name


def test_what_does_not_fit_is_told_and_the_rest_goes_on(choice):
    made, lines = choice
    told = "\n".join(lines)
    for text in ("broken.jpg", "empty.png", "two.png", "kind: choice"):
        assert text in told
    assert made.record["pictures"]["given"] == COUNT + 3
    assert made.record["pictures"]["used"] <= COUNT
    assert {k: made.record["pictures"][k] for k in ("unreadable", "no_face", "several")} == {
        "unreadable": 1, "no_face": 1, "several": 1,
    }  # fmt: skip


def test_the_report(choice):
    made, _ = choice
    record = json.loads((made.report / "report.json").read_text(encoding="utf-8"))
    assert record["test"]["value"] == round(made.score.value, 4)
    assert np.sum(record["confusion"]) == record["pictures"]["test"]
    card = (made.report / "report.md").read_text(encoding="utf-8")
    assert "What to do next" in card
    assert "broken.jpg" in card
    with Image.open(made.report / "confusion.png") as drawn:
        assert drawn.size[0] > 200
    if record["test"]["value"] < 100:
        assert "label:" in (made.report / "errors.html").read_text(encoding="utf-8")


def test_everything_knows_the_task_from_the_file(choice, pictures, tmp_path):
    made, _ = choice
    reader = mien.load(made.path, threads=1)
    assert "masked" in reader.requested
    path = next((pictures / "worn").iterdir())
    reading = reader(str(path))
    answer = reading[0]["masked"]
    assert set(answer.probabilities) == set(drawn_labels.CLASSES)
    assert any(answer.label in text for text in summaries(reading[0].answers))
    for suffix in (".csv", ".parquet"):
        out = open_output(str(tmp_path / f"o{suffix}"), reader.requested, tasks=reader.model.tasks)
        out.add(reading.to_dict())
        out.close()
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["masked"] == answer.label
    assert float(row["masked_worn"]) == round(answer.probabilities["worn"], 4)
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "o.parquet")["masked"].to_pylist() == [answer.label]
    means = TrackAverages()
    means.add(reading[0].answers, 1.0)
    assert means.answers()["masked"].label == answer.label
    sheet = ContactSheet(tmp_path / "s.html")
    sheet.add(reading)
    sheet.close()
    assert '"masked"' in (tmp_path / "s.html").read_text(encoding="utf-8")
    drawn, plain = (
        mien.annotate(reading.photo.pixels, [f]) for f in (reading[0], mien.load(threads=1)(str(path))[0])
    )
    assert drawn.shape == plain.shape
    page = {t["name"]: t for t in model_table(reader.model, reader.detector)["network"]["tasks"]}
    assert page["masked"]["kind"] == "choice"
    assert "masked" in read(made.path).record["finetuned"]


def test_only_the_new_task_can_be_computed(choice):
    made, _ = choice
    model = OnnxModel(made.path, threads=1, tasks=["masked"])
    assert [t.name for t in model.tasks] == ["masked"]
    assert "age" in [t.name for t in model.known_tasks]


def test_provenance_names_the_frozen_network_and_the_task(choice):
    made, _ = choice
    about, before = read(made.path), read(WEIGHTS / "mien.onnx")
    assert about.uses == before.uses
    assert set(about.sets) == {*before.sets, "masked"}
    assert about.record["finetuned"]["masked"]["kind"] == "choice"
    assert about.record["header"]["frozen"]["weights"] == before.sha256
    assert Graph(made.path).frozen_sha256() == Graph(WEIGHTS / "mien.onnx").frozen_sha256()
    assert Graph(made.path).heads() == ["masked"]


def test_a_second_run_reads_no_picture_and_gives_the_same(choice, home, monkeypatch):
    made, _ = choice
    monkeypatch.setattr("mien.training.finetune.faces.FaceReader._picture", None)
    monkeypatch.setattr("mien.training.finetune.heads.Trainer._fit", None)
    again = finetune(home / "odd", "masked", home / "again.onnx", folder=made.report, threads=1)
    assert again.record["test"] == made.record["test"]
    assert again.path.read_bytes() == made.path.read_bytes()


def test_a_damaged_file_of_the_cache_is_read_again(tmp_path):
    from mien.training.finetune.faces import Kept, Store

    store = Store(tmp_path)
    store.add("a", Kept("no_face"))
    store.flush()
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 half of a file")
    again = Store(tmp_path)
    assert list(again.known) == ["a"]
    assert not (tmp_path / "half.npz").exists()


def test_a_stopped_run_goes_on(pictures, tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    from mien.training.finetune.faces import FaceReader

    real, calls = FaceReader._picture, list[str]()

    def picture(self, row):
        calls.append(row.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(self, row)

    monkeypatch.setattr(FaceReader, "_picture", picture)
    with pytest.raises(KeyboardInterrupt):
        finetune(pictures, "masked", tmp_path / "m.onnx", threads=1)
    finetune(pictures, "masked", tmp_path / "m.onnx", threads=1)
    assert len(calls) == COUNT + 1
    assert calls.count(calls[0]) == 1


def test_a_number_has_unit_interval_and_error_curve(number, pictures):
    assert number.record["kind"] == "number"
    assert number.score.name == "mae"
    assert number.score.value < 0.6 * number.record["baseline"]
    assert (number.report / "errors.png").is_file()
    reader = mien.load(number.path, threads=1, tasks=["cover"])
    worn, bare = (
        [reader(str(path))[0]["cover"] for path in sorted((pictures / kind).iterdir())[:6]]
        for kind in ("worn", "none")
    )
    assert all(a.unit == "%" and a.low <= a.estimate <= a.high for a in (*worn, *bare))
    assert np.mean([a.estimate for a in worn]) > np.mean([a.estimate for a in bare]) + 10


def test_attributes_may_be_unknown(home, pictures):
    columns = {
        "masked": lambda kind, i: kind if i % 5 else "",
        "bare": lambda kind, i: 1 - kind,
        "person": lambda kind, i: f"p{i // 2}",
    }
    data = drawn_labels.table(home, pictures, columns, "things.csv")
    made = finetune(data, "things", home / "things.onnx", threads=1)
    assert made.record["kind"] == "attributes"
    assert made.record["split_by"] == "person"
    assert made.score.value > 80
    assert (made.report / "accuracy.png").is_file()
    answer = mien.load(made.path, threads=1, tasks=["things"])(str(next((pictures / "worn").iterdir())))[0]
    assert answer["things"]["masked"] > 0.5 > answer["things"]["bare"]


def test_files_of_one_network_merge(choice, number, home):
    made, _ = choice
    assert merge(made.path, number.path, home / "both.onnx") == ["masked", "cover"]
    images = np.random.default_rng(1).standard_normal((2, 3, 128, 128)).astype(np.float32)
    both, one, two = (OnnxModel(p, threads=1)(images) for p in (home / "both.onnx", made.path, number.path))
    for name, raw in (one | two).items():
        assert np.array_equal(raw, both[name]), name
    about = read(home / "both.onnx")
    assert set(about.record["finetuned"]) == {"masked", "cover"}
    with pytest.raises(UsageError, match="both have a task 'masked'"):
        merge(home / "both.onnx", made.path, home / "more.onnx")


def test_files_of_other_networks_do_not_merge(choice, home):
    made, _ = choice
    other = Graph(made.path)
    weight = other.proto.graph.initializer[0]
    weight.CopyFrom(type(weight).FromString(weight.SerializeToString()))
    weight.raw_data = bytes(len(weight.raw_data))
    other.save(home / "other.onnx")
    with pytest.raises(UsageError, match="do not share one frozen network"):
        merge(made.path, home / "other.onnx", home / "wrong.onnx")
    with pytest.raises(UsageError, match="no fine-tuned task"):
        merge(made.path, WEIGHTS / "mien.onnx", home / "wrong.onnx")


def test_a_second_task_goes_onto_a_fine_tuned_file(choice, home, pictures):
    made, _ = choice
    more = finetune(pictures, "covered", home / "more.onnx", weights=made.path, threads=1)
    assert Graph(more.path).heads() == ["masked", "covered"]
    assert "masked" in more.record["old_answers"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "age"}, "'my_age'"),
        ({"name": "mean"}, "has a meaning in"),
        ({"out": "x.txt"}, "FILE.onnx"),
        ({"depth": "deep"}, "no depth 'deep'; choose from: head, decoder, all"),
        ({"kind": "number"}, "give a .csv or .parquet table"),
        ({"unit": "cm"}, "--unit is of a number"),
    ],
)
def test_settings_that_do_not_fit(pictures, tmp_path, settings, message):
    given = {"name": "masked", "out": str(tmp_path / "m.onnx")} | settings
    with pytest.raises(UsageError) as e:
        finetune(pictures, given.pop("name"), given.pop("out"), threads=1, **given)
    assert message in str(e.value)


def test_wrong_weights_are_named(pictures, tmp_path):
    with pytest.raises(mien.BadWeights, match="no encoder that a new head can read"):
        finetune(pictures, "masked", tmp_path / "m.onnx", weights=WEIGHTS / "detector.onnx", threads=1)
    (tmp_path / "no.onnx").write_bytes(b"no network")
    with pytest.raises(mien.BadWeights, match=r"no\.onnx"):
        finetune(pictures, "masked", tmp_path / "m.onnx", weights=tmp_path / "no.onnx", threads=1)


def test_temperature_makes_confidence_honest():
    from mien.tasks.choice import ChoiceTask

    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=4000)
    raw = np.zeros((4000, 2), np.float32)
    wrong = rng.random(4000) < 0.2
    raw[np.arange(4000), np.where(wrong, 1 - truth, truth)] = 4.0
    task = calibrated(ChoiceTask("a", "a", ("x", "y")), raw, truth.tolist())
    assert task.temperature == pytest.approx(4.0 / np.log(4), rel=0.05)


def test_the_license_is_that_of_the_frozen_network(choice):
    facts, base = (provenance_of(p) for p in (choice[0].path, WEIGHTS / "mien.onnx"))
    assert facts["license"] == base["license"]
    assert facts["uses"] == base["uses"]
    assert "licence" not in facts


def test_an_8_bit_network_is_refused(tmp_path):
    graph = Graph(WEIGHTS / "mien.onnx")
    graph.proto.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["images", "s"], ["q"]))
    with pytest.raises(BadWeights, match="not an 8-bit file"):
        graph.features()


# --- One gallery for files with one identity part


def _altered(path, out, prefix):
    """The file with one weight of that part changed, under the header of the first."""
    graph = Graph(path)
    weight = next(i for i in graph.proto.graph.initializer if i.name.startswith(prefix) and i.raw_data)
    values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
    weight.raw_data = values.tobytes()
    graph.save(out)
    return out


def test_a_gallery_takes_the_fine_tuned_file_and_no_other_network(choice, home, astronaut):
    pytest.importorskip("lancedb")
    from mien.recognition.gallery import Gallery

    made, _ = choice
    base = mien.load(threads=1, tasks=["identity"])
    Gallery(home / "people", base).add(str(astronaut), "Ann")
    tuned = Gallery(home / "people", mien.load(made.path, threads=1, tasks=["identity"]))
    [answer] = tuned.identify(str(astronaut))
    assert answer.match is not None
    assert answer.match.name == "Ann"
    assert tuned.rates is not None
    assert Gallery(home / "people", mien.load(made.path, threads=1, tasks=["identity"], flip_tta=True)).rates
    other = _altered(made.path, home / "other-identity.onnx", "model.who.")
    with pytest.raises(UsageError, match="was made with model"):
        Gallery(home / "people", mien.load(other, threads=1, tasks=["identity"]))
    aside = _altered(made.path, home / "other-age.onnx", "model.values.")
    assert Gallery(home / "people", mien.load(aside, threads=1, tasks=["identity"]))


def test_a_gallery_of_an_older_version_goes_by_the_origin(choice, home, monkeypatch, astronaut):
    pytest.importorskip("lancedb")
    from mien.recognition import records
    from mien.recognition.gallery import Gallery

    monkeypatch.setattr(records, "part_sha256_of", lambda reader, task: "")
    Gallery(home / "older", mien.load(threads=1, tasks=["identity"])).add(str(astronaut), "Ann")
    monkeypatch.undo()
    monkeypatch.setenv("MIEN_CACHE", str(home / "cache"))
    assert Gallery(home / "older", mien.load(choice[0].path, threads=1, tasks=["identity"])).rates
    foreign = Graph(choice[0].path)
    del foreign.header["frozen"]
    foreign.save(home / "foreign.onnx")
    with pytest.raises(UsageError, match="was made with model"):
        Gallery(home / "older", mien.load(home / "foreign.onnx", threads=1, tasks=["identity"]))
