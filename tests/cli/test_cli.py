"""The command line as people and scripts use it."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from mien.cli import app, load_recipe, main, output_names, recipe_arguments, table_lines
from mien.errors import Truncated, UsageError
from mien.inference.reader import Reading

DOCUMENTED = [
    line
    for block in re.findall(
        r"^```bash\n(.*?)^```", Path("docs/cli.md").read_text(encoding="utf-8"), re.M | re.S
    )
    for line in block.splitlines()
    if line.startswith("mien ")
]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mien", *words], capture_output=True, text=True, check=False)


def invoke(*words: str):
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def album(tmp_path):
    folder = tmp_path / "album"
    (folder / "in ner").mkdir(parents=True)
    shutil.copy("examples/astronaut.jpg", folder / "a.jpg")
    shutil.copy("examples/grace_hopper.jpg", folder / "in ner" / "ü\nb.jpg")
    return folder


def test_a_folder_gives_one_line_per_photo(album, tmp_path):
    out = tmp_path / "deep" / "faces.jsonl"
    done = invoke(
        "analyze",
        str(album),
        "--out",
        str(out),
        "--draw",
        str(tmp_path / "drawn"),
        "--masks",
        str(tmp_path / "masks"),
        "--threads",
        "1",
    )
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [len(r["faces"]) for r in rows] == [1, 1]
    assert rows[1]["path"].endswith("ü\nb.jpg")
    assert len(list((tmp_path / "drawn").glob("*.jpg"))) == 2
    mask = Image.open(tmp_path / "masks" / "a-1.png")
    assert mask.mode == "P"
    assert mask.size == (512, 512)
    assert set(np.unique(np.asarray(mask))) <= {*range(19), 255}
    assert "years" in done.output


def test_json_is_one_array(album, tmp_path):
    out = tmp_path / "faces.json"
    assert invoke("analyze", str(album), "--out", str(out), "--tasks", "age", "--threads", "1").exit_code == 0
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert len(rows) == 2
    assert set(rows[0]["faces"][0]) == {"box", "score", "points5", "age"}


def test_piped_output_is_json_lines_and_errors_go_to_stderr(album):
    (album / "bad.png").write_bytes(b"nope")
    done = run("analyze", str(album), "missing.jpg", "--threads", "1")
    assert done.returncode == 1
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    errors = {os.path.basename(r["path"]): r["error"]["code"] for r in rows if "error" in r}
    assert errors == {"bad.png": "not_a_picture", "missing.jpg": "not_found"}
    assert sum("faces" in r for r in rows) == 2
    assert sum(line.startswith("mien: ") for line in done.stderr.splitlines()) == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("analyze",), "Missing argument"),
        (("analyze", "examples", "--out", "x.xml"), "FILE.jsonl, FILE.json, FILE.csv, FILE.parquet or -"),
        (("analyze", "examples", "--tasks", "agee"), "does not predict 'agee'"),
        (("analyze", "examples", "--batch", "0"), "batch"),
        (("analyze", "examples", "--masks", "m", "--tasks", "age"), "parsing"),
        (("analyze", "examples", "--weights", "no.onnx"), "no.onnx"),
        (("analyze", "examples", "--attention", "never"), "gives answers only"),
        (("analyze", "examples", "--label", "Eyeglasses"), "--attention FOLDER"),
        (("analyze", "https://example.org/a.jpg"), "is a URL, and mien opens no socket"),
        (("analyze", "-", "examples"), "cannot be combined"),
        (("analyze", "examples", "--crops", "c", "--crops-as", "gif"), "'gif' is not one of"),
        (("analyze", "examples", "--resume"), "--out FILE.jsonl"),
        (
            ("analyze", "examples", "--sheet", "s.html", "--resume", "--out", "f.csv"),
            "--sheet needs every face",
        ),
        (("evaluate", "--protocol", "nope"), "no protocol 'nope'"),
        pytest.param(("train", "no.py", "--out", "x"), "no recipe 'no.py'", marks=pytest.mark.heavy),
        (("nonsense",), "No such command"),
    ],
)
def test_wrong_usage_is_exit_code_two(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mien", *words])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_pictures_is_wrong_usage(tmp_path):
    done = run("analyze", str(tmp_path))
    assert done.returncode == 2
    assert "holds no pictures" in done.stderr


def test_names_of_outputs_do_not_collide():
    assert output_names(["a/x.jpg", "b/x.png", "y.jpg"]) == ["x", "x-2", "y"]


def test_the_table_of_a_failed_photo():
    assert list(table_lines(Reading("p.jpg", error=Truncated("...")))) == ["p.jpg: not read (truncated)"]


def test_recipe_arguments_become_flags(tmp_path):
    path = tmp_path / "r.py"
    path.write_text(
        "def recipe(*, steps: int = 5, lr: float = 0.1, deep: bool = False):\n    return steps, lr, deep\n"
    )
    make = load_recipe(path)
    assert make(**recipe_arguments(make, ["--steps=7", "--deep", "yes"])) == (7, 0.1, True)
    for words, said in (
        (["--stops", "7"], "no option --stops"),
        (["--steps", "many"], "takes a value of type int"),
        (["--deep", "maybe"], "takes yes or no, not 'maybe'"),
        (["--steps"], "--name value"),
    ):
        with pytest.raises(UsageError, match=said):
            recipe_arguments(make, words)
    path.write_text("x = 1\n")
    with pytest.raises(UsageError, match="no function recipe"):
        load_recipe(path)


def test_a_picture_on_stdin_and_another_name_for_analyze(astronaut):
    done = CliRunner().invoke(
        app, ["predict", "-", "--tasks", "age", "--threads", "1"], input=Path(astronaut).read_bytes()
    )
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["path"] == "-"
    assert len(record["faces"]) == 1
    assert "\n  predict " not in invoke("--help").output
    empty = CliRunner().invoke(app, ["analyze", "-"], input=b"")
    assert empty.exit_code == 1
    assert json.loads(empty.stdout)["error"]["code"] == "empty_file"


def test_crops_and_a_sheet(album, tmp_path):
    (album / "bad.png").write_bytes(b"nope")
    words = [
        "--crops",
        str(tmp_path / "crops"),
        "--crops-as",
        "jpg",
        "--sheet",
        str(tmp_path / "s.html"),
        "--tasks",
        "age",
    ]
    assert invoke("analyze", str(album), *words, "--threads", "1", "--out", "-").exit_code == 1
    assert sorted(p.name for p in (tmp_path / "crops").iterdir()) == ["a-1.jpg", "ü_b-1.jpg"]
    with Image.open(tmp_path / "crops" / "a-1.jpg") as crop:
        assert (crop.format, crop.size) == ("JPEG", (128, 128))
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert page.count('"thumb"') == 2
    assert '"code": "not_a_picture"' in page


def test_drawings_have_styles_and_overlays(album, tmp_path):
    pictures = {}
    for name, words in {
        "plain": (),
        "box": ("--draw-style", "box"),
        "parsing": ("--overlay", "parsing"),
        "none": ("--overlay", "none"),
    }.items():
        done = invoke(
            "analyze", str(album / "a.jpg"), "--draw", str(tmp_path / name), "--threads", "1", *words
        )
        assert done.exit_code == 0, done.output
        pictures[name] = (tmp_path / name / "a.jpg").read_bytes()
    assert len(set(pictures.values())) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--overlay", "none"), "--overlay changes what --draw draws; give --draw too"),
        (("--draw-style", "box"), "--draw-style changes what --draw draws; give --draw too"),
        (
            ("--draw", "x", "--overlay", "parsing", "--tasks", "age"),
            "--overlay parsing needs the parsing task",
        ),
    ],
)
def test_wrong_drawing_options_are_refused_before_any_photo_is_read(words, says):
    done = invoke("analyze", "examples/astronaut.jpg", "--threads", "1", *words)
    assert isinstance(done.exception, UsageError)
    assert says in str(done.exception)
    assert not Path("x").exists()


@pytest.mark.parametrize("words", [("--draw-style", "neon"), ("--overlay", "mesh")])
def test_unknown_styles_are_refused_with_the_known_ones(words):
    done = invoke("analyze", "examples/astronaut.jpg", "--draw", "x", *words)
    assert done.exit_code == 2
    assert words[1] in done.output and ("corners" in done.output or "landmarks" in done.output)


def test_resume_reads_only_what_is_missing(album, tmp_path):
    words = ["analyze", str(album), "--tasks", "age", "--threads", "1", "--out", str(tmp_path / "f.csv")]
    assert invoke(*words).exit_code == 0
    shutil.copy(album / "a.jpg", album / "z.jpg")
    again = invoke(*words, "--resume", "--draw", str(tmp_path / "drawn"))
    assert "has 2 of 3 photos; 1 are left" in again.stderr
    assert [p.name for p in (tmp_path / "drawn").iterdir()] == ["z.jpg"]
    assert (tmp_path / "f.csv").read_text(encoding="utf-8").count(",mien_tiny:") == 3


def test_a_resumed_file_keeps_its_names(album, tmp_path):
    """Two photos of one name are numbered as in the whole run, also when the first is skipped."""
    shutil.copy(album / "a.jpg", album / "in ner" / "a.jpg")
    out = tmp_path / "f.jsonl"
    words = ["analyze", str(album), "--tasks", "age", "--threads", "1", "--out", str(out)]
    assert invoke(*words).exit_code == 0
    out.write_text(out.read_text(encoding="utf-8").splitlines(keepends=True)[0], encoding="utf-8")
    assert invoke(*words, "--resume", "--crops", str(tmp_path / "crops")).exit_code == 0
    assert sorted(p.name for p in (tmp_path / "crops").iterdir()) == ["a-2-1.png", "ü_b-1.png"]


def test_the_manual_shows_each_command():
    assert {shlex.split(line, comments=True)[1] for line in DOCUMENTED} == {
        "analyze",
        "verify",
        "cluster",
        "anonymize",
        "doctor",
        "best",
        "check",
    }


@pytest.mark.parametrize("line", DOCUMENTED)
def test_commands_of_the_manual_run(line, tmp_path):
    expected = 1 if "exit code 1" in line else 0
    words = shlex.split(line, comments=True)[1:]
    given = Path(words.pop()).read_bytes() if "<" in words else None
    words = [str(tmp_path / w.removeprefix("out/")) if w.startswith("out/") else w for w in words if w != "<"]
    done = CliRunner().invoke(app, words + ([] if "--threads" in words else ["--threads", "1"]), input=given)
    assert done.exit_code == expected, done.output + str(done.exception)
