"""What is written of photos: columns, types, and files that go on where a killed run stopped."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mien.cli import app
from mien.errors import UsageError
from mien.io.writers import columns, open_output, plain, rows
from mien.tasks import TASKS

ASKED = ("points5", "landmarks", "parsing", "age", "gender", "expression", "attributes", "pose", "identity")
MODEL = {"name": "net", "sha256": "ab" * 32}
NAME = "net:abababababab"


def face(x: float = 10.0) -> dict:
    five = [[x + i, 20.0 + i] for i in range(5)]
    return {
        "box": [x, 20.0, x + 30, 60.0],
        "score": 0.9,
        "points5": five,
        "age": {"years": 31.5, "low": 20.0, "high": 44.0, "coverage": 0.8},
        "gender": {"label": "female", "probability": 0.8},
        "identity": {"embedding": [0.5, -0.5] * 64},
    }


def photo(path: str, *faces: dict) -> dict:
    return {
        "schema": 1,
        "path": path,
        "width": 100,
        "height": 80,
        "model": MODEL,
        "timing_ms": {},
        "faces": list(faces),
    }


FAILED = {"schema": 1, "path": "bad.jpg", "error": {"code": "truncated", "message": "..."}}
THREE = ("points5", "age", "gender", "identity")


def write(where: Path, *records: dict, asked=THREE, resume: bool = False) -> None:
    output = open_output(str(where), asked, model=NAME, resume=resume)
    for record in records:
        output.add(record)
    output.close()


def read(path: Path) -> list[dict]:
    """Rows of a CSV or Parquet file, or records of JSON Lines."""
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def paths(path: Path) -> list[str]:
    return [r["path"] for r in read(path)]


# Columns


def test_columns_of_every_task_have_their_numbers() -> None:
    wide = {c.name: len(c.parts) for c in columns(ASKED)}
    assert list(wide)[:6] == ["x1", "y1", "x2", "y2", "score", "points5"]
    assert (wide["points5"], wide["landmarks"], wide["identity"]) == (10, 136, 128)
    assert {
        "age",
        "age_low",
        "age_high",
        "age_at_least_18",
        "gender",
        "gender_probability",
        "expression",
        "expression_contempt",
        "pose_yaw",
    } <= set(wide)
    assert sum(n.startswith("attributes_") for n in wide) == 40
    assert sum(n.startswith("parsing_") for n in wide) == 19
    for name in TASKS:
        if name not in ("points5", "faces"):
            assert any(c.name.startswith(name) for c in columns([name])), name


def test_the_columns_fit_what_a_reader_answers(reader, astronaut) -> None:
    reading = reader(astronaut)
    (row,) = rows(reading.to_dict(), columns(reader.requested))
    found = reading[0]
    assert row["age"] == round(found["age"].years, 1)
    assert row["expression"] == found["expression"].label
    assert row["expression_happiness"] == round(found["expression"].probabilities["happiness"], 4)
    assert row["attributes_Smiling"] == round(found["attributes"]["Smiling"], 4)
    assert row["pose_yaw"] == round(found["pose"].yaw, 1)
    assert row["landmarks"][2:4] == [round(float(v), 2) for v in found["landmarks"].points[1]]
    assert row["parsing_hair"] == round(found["parsing"].fractions["hair"], 4)
    assert row["parsing_necklace"] == 0.0
    assert row["model"].startswith("mien_tiny:")
    assert not [n for n, v in row.items() if v is None and n != "error"]


def test_an_answer_of_a_kind_nobody_knows_is_json_text() -> None:
    (row,) = rows(photo("a.jpg", face() | {"mood": {"x": [1, 2]}}), columns(["mood"]))
    assert row["mood"] == '{"x": [1, 2]}'


def test_one_row_a_face_and_one_for_a_photo_without(tmp_path) -> None:
    write(tmp_path / "f.csv", photo('a\n,".jpg', face(), face(50)), photo("none.jpg"), FAILED)
    found = read(tmp_path / "f.csv")
    assert [(r["path"], r["faces"], r["face"], r["error"]) for r in found] == [
        ("a\n,\".jpg", "2", "1", ""), ("a\n,\".jpg", "2", "2", ""), ("none.jpg", "0", "", ""), ("bad.jpg",
        "0", "", "truncated"),
    ]  # fmt: skip
    assert found[1]["x1"] == "50"
    assert (found[0]["points5_1_x"], found[0]["points5_1_y"]) == ("11.0", "21.0")
    assert found[0]["identity_127"] == "-0.5"
    assert found[2]["identity_127"] == found[2]["x1"] == ""
    assert found[0]["model"] == NAME


def test_parquet_has_types_and_fixed_size_lists(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(tmp_path / "f.parquet", photo("a.jpg", face(), face(50)), photo("none.jpg"), FAILED)
    table = pq.read_table(tmp_path / "f.parquet")
    assert table.schema.field("identity").type == pa.list_(pa.float32(), 128)
    assert table.schema.field("points5").type == pa.list_(pa.float32(), 10)
    assert table.schema.field("face").type == pa.int32()
    assert table.schema.field("age").type == pa.float32()
    assert table["gender"].to_pylist() == ["female", "female", None, None]
    assert table["x1"].to_pylist() == [10, 50, None, None]
    assert np.array(table["identity"][0].as_py()).shape == (128,)
    assert os.listdir(tmp_path) == ["f.parquet"]


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"pip install 'mien\[parquet\]'"):
        open_output(str(tmp_path / "f.parquet"), THREE)


def test_a_name_that_is_not_unicode_is_written_and_comes_back(tmp_path) -> None:
    name = os.fsdecode(b"\xff.jpg")
    for kind in ("jsonl", "csv", "parquet"):
        write(tmp_path / f"f.{kind}", photo(name, face()))
        assert plain(read(tmp_path / f"f.{kind}")[0]["path"]) == plain(name)
        again = open_output(str(tmp_path / f"f.{kind}"), THREE, model=NAME, resume=True)
        assert plain(name) in again.done
        again.close()
    assert read(tmp_path / "f.jsonl")[0]["path"] == name


# Going on


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_resume_adds_what_is_missing(kind, tmp_path) -> None:
    where = tmp_path / f"f.{kind}"
    write(where, photo("a.jpg", face()), FAILED)
    output = open_output(str(where), THREE, model=NAME, resume=True)
    assert output.done == {"a.jpg", "bad.jpg"}
    output.add(photo("c.jpg"))
    output.close()
    assert paths(where) == ["a.jpg", "bad.jpg", "c.jpg"]
    write(tmp_path / f"all.{kind}", photo("a.jpg", face()), FAILED, photo("c.jpg"))
    assert read(where) == read(tmp_path / f"all.{kind}")
    write(where, photo("new.jpg"))  # without resume it is a new file
    assert paths(where) == ["new.jpg"]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_file_cut_at_any_byte_goes_on(kind, tmp_path) -> None:
    whole = tmp_path / f"whole.{kind}"
    short = {k: v for k, v in face().items() if k != "identity"}
    records = [photo("a.jpg", short), photo("b\n.jpg", short, short), photo("c.jpg"), photo("d.jpg", short)]
    write(whole, *records, asked=("points5", "age"))
    data = whole.read_bytes()
    first = data.index(b"\n") + 1 if kind == "csv" else 0
    for cut in range(first, len(data), 11):
        part = tmp_path / f"part.{kind}"
        part.write_bytes(data[:cut])
        output = open_output(str(part), ("points5", "age"), model=NAME, resume=True)
        left = [r for r in records if r["path"] not in output.done]
        assert left
        for record in left:
            output.add(record)
        output.close()
        assert part.read_bytes() == data, cut


def test_a_killed_parquet_run_leaves_its_records_next_to_the_file(tmp_path) -> None:
    where = tmp_path / "f.parquet"
    write(where, photo("a.jpg", face()))
    output = open_output(str(where), THREE, model=NAME, resume=True)
    output.add(photo("b.jpg", face(), face(50)))
    output.file.close()  # and here it is killed
    assert paths(where) == ["a.jpg"]
    with (tmp_path / "f.parquet.part").open("a") as file:
        file.write('{"schema": 1, "pa')
    output = open_output(str(where), THREE, model=NAME, resume=True)
    assert output.done == {"a.jpg", "b.jpg"}
    output.close()
    assert paths(where) == ["a.jpg", "b.jpg", "b.jpg"]
    assert os.listdir(tmp_path) == ["f.parquet"]
    # killed after the file was written and before the waiting records were removed
    (tmp_path / "f.parquet.part").write_text(json.dumps(photo("b.jpg", face())) + "\n")
    write(where, photo("c.jpg"), resume=True)
    assert paths(where) == ["a.jpg", "b.jpg", "b.jpg", "c.jpg"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_another_network_does_not_go_on_with_a_file(kind, tmp_path) -> None:
    where = tmp_path / f"f.{kind}"
    write(where, photo("a.jpg", face()))
    before = where.read_bytes()
    with pytest.raises(UsageError, match=r"was written by net:abababababab.*other:1"):
        open_output(str(where), THREE, model="other:1", resume=True)
    if kind != "jsonl":
        with pytest.raises(UsageError, match="other columns"):
            open_output(str(where), ("points5", "age"), model=NAME, resume=True)
    assert where.read_bytes() == before


def test_a_csv_that_was_edited_is_not_cut_short(tmp_path) -> None:
    where = tmp_path / "f.csv"
    write(where, photo("a.jpg"), photo("b.jpg"), asked=())
    where.write_text(where.read_text().replace("a.jpg,", "a.jpg"))
    before = where.read_bytes()
    with pytest.raises(UsageError, match="line 3 of"):
        open_output(str(where), (), model=NAME, resume=True)
    assert where.read_bytes() == before


def test_what_cannot_go_on_says_so(tmp_path) -> None:
    with pytest.raises(UsageError, match="JSON array"):
        open_output(str(tmp_path / "f.json"), THREE, resume=True)
    with pytest.raises(UsageError, match="continues a file"):
        open_output("-", THREE, resume=True)
    with pytest.raises(UsageError, match=r"FILE\.csv, FILE\.parquet or -, not"):
        open_output(str(tmp_path / "f.xml"), THREE)
    (tmp_path / "f.jsonl").write_text("hello\n")
    with pytest.raises(UsageError, match="line 1 of"):
        open_output(str(tmp_path / "f.jsonl"), THREE, resume=True)


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    small = Image.open("examples/astronaut.jpg").convert("RGB").crop((130, 10, 320, 200)).resize((120, 120))
    for i in range(40):
        small.save(folder / f"{i:02d}.jpg")
    return folder


def started(album: Path, where: Path, sign: int) -> tuple[int, str]:
    """Run `analyze` in a process of its own, stop it by a signal once it has written something; exit code and
    stderr.
    """
    words = ["analyze", str(album), "--out", str(where), "--tasks", "age", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mien", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background jobs are born deaf to Ctrl-C
    )
    growing = where.with_name(where.name + ".part") if where.suffix == ".parquet" else where
    end = time.monotonic() + 300  # a busy machine starts a process slowly
    while not (growing.exists() and growing.read_bytes().count(b"\n") >= 3):
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(sign)
    error = process.communicate(timeout=60)[1]
    return process.returncode, error


@pytest.mark.heavy
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_killed_run_goes_on(kind, album, tmp_path) -> None:
    where = tmp_path / f"f.{kind}"
    assert started(album, where, signal.SIGKILL)[0] == -signal.SIGKILL
    assert where.exists() == (kind != "parquet")
    again = CliRunner().invoke(
        app, ["analyze", str(album), "--out", str(where), "--tasks", "age", "--threads", "1", "--resume"]
    )
    assert again.exit_code == 0, again.output
    assert "of 40 photos" in again.stderr
    assert [os.path.basename(p) for p in paths(where)] == [f"{i:02d}.jpg" for i in range(40)]


def test_ctrl_c_keeps_what_was_done_and_says_so(album, tmp_path) -> None:
    where = tmp_path / "f.jsonl"
    code, error = started(album, where, signal.SIGINT)
    assert code == 130
    assert "photos are saved; --resume continues" in error
    assert "Traceback" not in error
    assert 3 <= len(paths(where)) < 40
