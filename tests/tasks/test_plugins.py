"""Plug-ins: found by entry points when they are looked up or listed, and not before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mien.cli import app
from mien.data.catalogue import DATASETS
from mien.errors import MissingData, PluginError, UnknownTask
from mien.evaluation import scoring
from mien.evaluation.protocols import PROTOCOLS
from mien.models import MODELS
from mien.tasks import TASKS, described, task
from mien.tasks.plugins import GROUPS
from tests.support.plugins import install, install_documented


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of `sys.path` to install packages in; the catalogues forget them after the test."""
    kept = [(c, dict(c)) for c in (TASKS, DATASETS, PROTOCOLS, MODELS)]
    modules = set(sys.modules)
    folder = tmp_path / "site"
    folder.mkdir()
    yield folder
    for catalogue, before in kept:
        catalogue.clear()
        catalogue.update(before)
    for name in set(sys.modules) - modules:
        if name.partition(".")[0].startswith("plug"):
            del sys.modules[name]


@pytest.fixture
def found(site, monkeypatch):
    """Call it when all is installed."""
    return lambda: monkeypatch.syspath_prepend(str(site))


def run(site: Path, code: str, *words: str) -> str:
    """What a process prints that has the folder's packages."""
    paths = os.pathsep.join([str(site), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- The documented package

ASLEEP = """
import sys
import mien
from mien.tasks import TASKS, supported_tasks
from mien.data.catalogue import DATASETS
assert TASKS["age"].name in TASKS and "toy" in DATASETS and supported_tasks(["age"]) == ("age",)
reader = mien.load(tasks=["age"], threads=1)
reader("examples/astronaut.jpg").to_dict()
assert not [m for m in sys.modules if m.startswith("mien_hats")], "imported without being asked for"
import mien.tasks.plugins
assert mien.tasks.plugins._search.cache_info().misses == 0, "searched for without being asked for"
assert "hat" in TASKS
assert "mien_hats" not in sys.modules, "a name that is only compared needs no import"
assert TASKS["hat"].label_names == ("none", "hat")
assert "torch" not in sys.modules
"""


def test_a_plug_in_sleeps_until_its_name_is_looked_up(site):
    install_documented(site)
    run(site, ASLEEP)


AT_WORK = """
import csv, json, sys
from pathlib import Path
from typer.testing import CliRunner
import mien
from mien.cli import app
from mien.data import DATASETS
from mien.data.augment import Augment
from mien.data.dataset import FaceSource
from mien.data.mixture import Mixture
from mien.export import release
from mien.models import MODELS
from mien.training.loop import fit
from mien.training.recipe import Recipe, adamw, cosine

home = Path(sys.argv[1])
model = MODELS["hat_tiny"]()
source = FaceSource(DATASETS["drawn-hats"]("train"), model.view, Augment())
mixture = Mixture([(source, 4)], model.tasks, seed=1, size=model.view.size)
fit(
    Recipe(name="hats", model=model, mixture=mixture, optimizer=adamw(model, 1e-3), schedule=cosine(1),
           steps=2, protocols=("drawn-hats",), limit=8, every=2),
    home / "run",
)
release(home / "run" / "model.safetensors", home / "hats.onnx")
(face,) = mien.load(str(home / "hats.onnx"), threads=1)("examples/astronaut.jpg")
assert face["hat"].label in ("none", "hat")

def mien_(*words):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output + str(done.exception)
    return done.output

weights = ["--weights", str(home / "hats.onnx"), "--threads", "1"]
mien_("analyze", "examples/astronaut.jpg", "--out", str(home / "faces.csv"), *weights)
(row,) = csv.DictReader((home / "faces.csv").open())
assert row["hat"] == face["hat"].label, row
table = mien_("evaluate", "--protocol", "drawn-hats", "--out", str(home / "scores.json"), *weights)
assert "| drawn-hats | drawn test | 32 | accuracy " in table
assert 0 <= json.loads((home / "scores.json").read_text())["scores"]["drawn-hats"]["accuracy"] <= 100

listed = json.loads(mien_("tasks", "--json"))
origin = {"package": "mien-hats", "version": "1.2.0"}
for kind, name in (("tasks", "hat"), ("datasets", "drawn-hats"), ("protocols", "drawn-hats")):
    (row,) = [row for row in listed[kind] if row["name"] == name]
    assert origin.items() <= row.items(), row
assert "  hat                  2 numbers, labels hat2  [mien-hats 1.2.0]" in mien_("tasks", "--no-data")
(row,) = json.loads(mien_("models", "--json"))["plugins"]
assert row == {"name": "hat_tiny", "about": "A small network for hats.", **origin}
assert "  hat_tiny             A small network for hats.  [mien-hats 1.2.0]" in mien_("models")
"""


def test_a_plug_in_is_trained_evaluated_exported_analyzed_and_listed(site, tmp_path):
    install_documented(site)
    run(site, AT_WORK, str(tmp_path))


def test_a_plug_in_tests_itself(site):
    install_documented(site)
    code = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    assert "1 passed" in run(site, code, str(site / "tests" / "test_hats.py"), "--rootdir", str(site))


# --- Plug-ins that fail

GOOD = """
from mien.tasks.choice import ChoiceTask
GOOD = ChoiceTask("good", "good2", ("no", "yes"))
OTHER = ChoiceTask("other", "good2", ("no", "yes"))
AGE = ChoiceTask("age", "good2", ("no", "yes"))
POSE = ChoiceTask("pose", "good2", ("no", "yes"))
"""
FAILING = {  # name of the entry point -> (object, what is said of it)
    "absent": ("plug_absent:TASK", "ModuleNotFoundError: No module named 'plug_absent'"),
    "typo": ("plug_good:GOOOD", "AttributeError: .*GOOOD"),
    "crash": ("plug_crash:TASK", "ZeroDivisionError: division by zero"),
    "leaver": ("plug_leaver:TASK", "SystemExit: 3"),
    "number": ("plug_good:__doc__", "it is of type NoneType; name an instance of a subclass"),
    "renamed": ("plug_good:OTHER", "its name is 'other', not 'renamed'; use one name for both"),
    "age": ("plug_good:AGE", "mien has a task of that name; rename"),
    "pose": ("plug_good:POSE", "mien has a task of that name; rename"),
}


def install_failing(site: Path) -> None:
    names = {name: value for name, (value, _) in FAILING.items()} | {"good": "plug_good:GOOD"}
    files = {
        "plug_good.py": GOOD,
        "plug_crash.py": "1 / 0\n",
        "plug_leaver.py": "raise SystemExit(3)\n",
    }
    install(site, "plug-many", "0.1", {"mien.tasks": names}, files)


def test_failing_plug_ins_are_named_and_do_not_end_a_listing(site, found):
    install_failing(site)
    found()
    own = len(TASKS)
    done = CliRunner().invoke(app, ["tasks", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["tasks"]
    assert len(rows) == own + len(FAILING) + 1
    by = {row["name"]: row for row in rows if row["package"] == "plug-many"}
    assert by["good"]["labels"] == "good2"
    assert "error" not in by["good"]
    assert {name for name, row in by.items() if "error" in row} == set(FAILING)
    for name, (value, _) in FAILING.items():
        assert f"plug-many 0.1 (entry point {name} = {value} in mien.tasks)" in by[name]["error"]
        assert f"mien: {by[name]['error']}" in done.stderr
    assert [row["package"] for row in rows if row["name"] == "age"] == ["mien", "plug-many"]


@pytest.mark.parametrize("name", [n for n in FAILING if n not in ("age", "pose")])
def test_looking_up_a_failing_plug_in_says_why(name, site, found):
    install_failing(site)
    found()
    with pytest.raises(PluginError, match=rf"(?s)plug-many 0\.1 .*{FAILING[name][1]}"):
        task(name)
    assert task("good").name == "good"
    assert described("good") is TASKS["good"]


def test_names_of_mien_stay_mien_s(site, found):
    before = TASKS["age"]
    install_failing(site)
    found()
    assert TASKS["age"] is before
    assert "pose" not in TASKS
    with pytest.raises(UnknownTask, match="no task 'pose'"):
        task("pose")
    for name in ("age", "pose"):
        (entry,) = [e for e in TASKS.listing() if e.name == name and e.package == "plug-many"]
        assert FAILING[name][1] in str(entry.error)


def test_two_plug_ins_of_one_name_are_both_named(site, found):
    install_failing(site)
    install(site, "plug-second", "2.0", {"mien.tasks": {"good": "plug_good:GOOD"}}, {})
    found()
    with pytest.raises(PluginError, match=r"'good' is added twice, by .*; uninstall one of them") as error:
        task("good")
    assert "plug-many 0.1" in str(error.value)
    assert "plug-second 2.0" in str(error.value)
    assert len([e for e in TASKS.listing() if e.name == "good" and e.error is not None]) == 2


def test_every_group_refuses_what_does_not_belong_there(site, found):
    text = "PROTOCOL = SET = SYSTEM = 3\n"
    install(
        site,
        "plug-numbers",
        "1.0",
        {
            "mien.datasets": {"numbers": "plug_numbers:SET"},
            "mien.protocols": {"numbers": "plug_numbers:PROTOCOL"},
            "mien.systems": {"numbers": "plug_numbers:SYSTEM"},
        },
        {"plug_numbers.py": text},
    )
    found()
    catalogues = {"mien.datasets": DATASETS, "mien.protocols": PROTOCOLS, "mien.systems": MODELS}
    assert set(catalogues) | {"mien.tasks"} == set(GROUPS)
    for group, catalogue in catalogues.items():
        with pytest.raises(PluginError, match=f"is not a {GROUPS[group]} for mien: it is of type int"):
            catalogue["numbers"]
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0
    assert "  numbers              cannot be loaded  [plug-numbers 1.0]" in done.stdout
    assert "mien: the plug-in plug-numbers 1.0 (entry point numbers = plug_numbers:SYSTEM" in done.stderr


def test_a_failing_protocol_is_skipped_where_none_is_named(site, found, monkeypatch, capsys):
    install(site, "plug-broken", "1.0", {"mien.protocols": {"broken": "plug_absent:P"}}, {})
    found()

    class Nothing:
        tasks, view = (), None

    with pytest.raises(MissingData, match="no protocol was run"):
        scoring.run(Nothing())
    assert "skipped broken: the plug-in plug-broken 1.0" in capsys.readouterr().err


def test_an_unknown_name_is_a_key_error_and_get_has_a_default():
    with pytest.raises(KeyError, match="nowhere"):
        DATASETS["nowhere"]
    assert DATASETS.get("nowhere") is None
    assert MODELS.get("nowhere", 3) == 3
    assert 3 not in TASKS
