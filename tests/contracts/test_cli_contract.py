"""All commands of the command line keep one convention: names, help and defaults of options."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from mien.cli import app
from mien.cli.options import MAX_PIXELS, TASK_NAMES
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.io import image
from mien.recognition import clustering
from mien.recognition.verification import VERIFY_FMR
from mien.tasks import FACES, ON_REQUEST, supported_tasks

COMMON = {"--help", "--quiet", "--verbose"}
WRITES_NO_FILE = {
    "verify", "serve", "doctor", "bench", "models", "tasks",
    "gallery add", "gallery correct", "gallery list", "gallery merge", "gallery split", "gallery edit",
    "gallery forget", "gallery prune", "gallery stats",
}  # fmt: skip
# Options whose text says more than the shared one, since the command does more with them.
SPECIAL = {
    "--out",
    "--crops",
    "--sheet",
    "--draw",
    "--tasks",
    "--score",
    "--weights",
    "--engine",
    "--workers",
}
SPECIAL |= {"--key", "--gallery", "--fmr", "--stride"}  # of videos in anonymize
SPECIAL |= {"--note", "--until", "--batch", "--threads", "--name", "--resume"}
# Other programs' names of ideas that have one name here.
SYNONYMS = {
    "--out": {
        "--output",
        "--output-dir",
        "--dest",
        "--outdir",
        "--to-file",
        "--folder",
        "--folders",
        "--save",
    },
    "--weights": {"--model", "--network", "--checkpoint", "--ckpt"},
    "--score": {"--min-score", "--confidence", "--conf", "--det-thresh"},
    "--threads": {"--num-threads", "--jobs", "--cpus"},
    "--max-pixels": {"--max-size", "--pixels", "--pixel-limit"},
    "--runs": {"--repeats", "--repeat", "--iterations", "--rounds"},
    "--batch": {"--batch-size", "--max-batch"},
    "--flip-tta": {"--mirror", "--flip", "--tta", "--augment"},
    "--crops": {"--faces", "--aligned"},
    "--draw": {"--annotate", "--video", "--drawn"},
    "--fmr": {"--far", "--false-match-rate"},
    "--tasks": {"--answers", "--heads"},
}
DIALECT = re.compile(
    r"\b(answers?|asked|surer?|raised?|beside|told|enrol|licence|colour|labelled|forwards?(?! pass)|"
    r"least|most|mirror image|a face a|a row a|a group a|film|sheet of|cut out|lean|whole)\b"
)


def walk(command: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    """Name as typed -> command, hidden aliases left out."""
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    return {
        name: one
        for word, sub in command.commands.items()
        if not sub.hidden
        for name, one in walk(sub, (*path, word)).items()
    }


COMMANDS = walk(typer.main.get_command(app))
OPTIONS: dict[str, dict[str, Any]] = {
    name: {
        o: p for p in command.params if p.param_type_name == "option" for o in p.opts if o.startswith("--")
    }
    for name, command in COMMANDS.items()
}
READS_PHOTOS = {
    name
    for name, command in COMMANDS.items()
    if any((p.metavar or "").startswith("PHOTO") for p in command.params)
    and name not in ("bench", "quantize")
}


def help_of(name: str) -> str:
    done = CliRunner().invoke(app, [*name.split(), "-h"])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_walk_finds_the_commands() -> None:
    assert len(COMMANDS) >= 25
    assert {"analyze", "train", "gallery add"} <= set(COMMANDS)
    assert {"analyze", "anonymize", "cluster", "verify", "gallery add", "gallery identify"} <= READS_PHOTOS


@pytest.mark.parametrize("name", ["", "gallery", *COMMANDS])
def test_h_shows_help_in_plain_words(name: str) -> None:
    text = help_of(name)
    assert "Usage: " in text and "-h, --help" in text
    if name in COMMANDS:
        assert "-q, --quiet" in text and "-v, --verbose" in text
    assert not re.search(r"[{}]|<list|x>=|`|default: \(", text)
    assert not (found := DIALECT.findall(text)), found
    for line in re.findall(r"^  \w[\w-]* {2,}\S.*$", text, re.M):
        assert not line.endswith("..."), f"its first line is too long for a list: {line}"


@pytest.mark.parametrize("name", COMMANDS)
def test_what_writes_files_takes_o_and_out(name: str) -> None:
    options = OPTIONS[name]
    if name in WRITES_NO_FILE:
        assert "--out" not in options
    else:
        assert "-o" in options["--out"].opts


@pytest.mark.parametrize("name", sorted(READS_PHOTOS))
def test_what_detects_faces_takes_the_options_of_detection(name: str) -> None:
    assert {"--score", "--thorough", "--max-pixels", "--weights", "--threads"} <= set(OPTIONS[name])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_sentence_and_shows_its_default(name: str) -> None:
    context = typer.Context(COMMANDS[name], info_name=name)
    for option, parameter in OPTIONS[name].items():
        record = parameter.get_help_record(context)
        assert parameter.help.endswith("."), option
        assert parameter.help[0].isupper() or parameter.help.startswith("onnxruntime"), option
        if parameter.default not in (None, False, "") and not parameter.required:
            assert "[default: " in record[1], option


def test_one_name_has_one_meaning() -> None:
    texts: dict[str, set[str]] = defaultdict(set)
    for options in OPTIONS.values():
        for option, parameter in options.items():
            texts[option].add(parameter.help)
    differing = {option for option, found in texts.items() if len(found) > 1}
    assert differing == SPECIAL, "state the exception, or remove it"


def test_one_meaning_has_one_name() -> None:
    names: dict[str, set[str]] = defaultdict(set)
    used = set[str]()
    for options in OPTIONS.values():
        used |= set(options)
        for option, parameter in options.items():
            names[parameter.help].add(option)
    twice = {text: found for text, found in names.items() if len(found) > 1}
    # A server's gallery has its own keys beside those of its clients; a flag has its opposite.
    assert {frozenset(v) for v in twice.values()} <= {frozenset(("--key", "--gallery-key"))}
    for one, others in SYNONYMS.items():
        assert one in used
        assert not used & others, f"use {one}"


def test_tasks_are_listed_as_the_embedded_network_has_them() -> None:
    names = supported_tasks(t.name for t in OnnxModel(WEIGHTS / "mien.onnx", threads=1).tasks)
    assert ", ".join(names) == TASK_NAMES
    assert [n for n in names if n in ON_REQUEST] == ["identity"]  # "all but identity"
    for name, options in OPTIONS.items():
        if "--tasks" in options:
            assert TASK_NAMES in options["--tasks"].help, name


def test_defaults_that_are_written_out_are_true() -> None:
    assert MAX_PIXELS == image.MAX_PIXELS
    for name, options in OPTIONS.items():
        if "--score" in options and name != "anonymize":
            assert options["--score"].show_default == str(FACES.threshold), name
    assert OPTIONS["verify"]["--fmr"].show_default == str(VERIFY_FMR)
    table = json.loads(clustering.TABLE.read_text(encoding="utf-8"))
    sha256 = json.loads((WEIGHTS / "mien.json").read_text(encoding="utf-8"))["sha256"]
    assert table["model"] == sha256, "choose it again: python -m bench.clustering --page docs/cli.md"
    assert OPTIONS["cluster"]["--fmr"].show_default == "a measured threshold"
