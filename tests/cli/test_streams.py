"""Streams of the command line: encodings, missing streams, the progress bar, warnings; missing packages."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mien.cli import entry, streams
from mien.cli.command import logs_on_stderr
from mien.errors import UsageError
from mien.io import writers

NAMES = ["plain", "é", "\U0001f642", "顔", "\udcff"]
PREPARED = "from mien.cli.streams import prepare_streams; prepare_streams(); "


def python(code: str, **options) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", PREPARED + code], check=False, **options)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "cp932"])
def test_any_name_can_be_printed_and_json_stays_json(encoding: str) -> None:
    env = os.environ | {"PYTHONIOENCODING": encoding}
    code = f"import json, typer; names = {NAMES!r}; "
    code += "[typer.echo(json.dumps({'path': n}, ensure_ascii=False)) for n in names];"
    code += "typer.echo(names[2], err=True)"
    encoding = "utf-8" if encoding == "ascii" else encoding  # which is no encoding of names
    done = python(code, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode(encoding).splitlines()
    assert [json.loads(line)["path"] for line in lines] == NAMES
    assert done.stderr.decode(encoding).strip() in (NAMES[2], "\\ud83d\\ude42")


@pytest.mark.skipif(os.name == "nt", reason="closes streams with the shell of Unix")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_process_without_streams_runs(closed: str, tmp_path: Path) -> None:
    """The next file that is opened must not get the number of a stream: what is printed would land in it."""
    file = tmp_path / "out"
    code = PREPARED + (
        f"import sys, typer, os; f = open({str(file)!r}, 'w'); typer.echo('x'); typer.echo('x', err=True);"
        " sys.stderr.isatty(); sys.stdout.isatty(); os.write(2, b'x'); f.write(str(f.fileno())); f.close()"
    )
    done = subprocess.run(
        f'"{sys.executable}" -c "$CODE" {closed}', shell=True, env=os.environ | {"CODE": code}, check=False
    )
    assert done.returncode == 0
    assert int(file.read_text()) > 2


def test_records_without_a_place_to_go_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, streams._Missing(io.BytesIO(), encoding="utf-8")):
        monkeypatch.setattr(sys, "stdout", stream)
        for where in (None, "-"):
            with pytest.raises(UsageError, match="stdout is closed; give --out FILE"):
                writers.open_output(where, [])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_progress_bar_shares_no_line_with_results(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(sys, "stderr", screen)
    with streams.progress(5) as step:
        for i in range(5):
            streams.say(f"result {i}", err=i == 3)
            step()
    rows = []
    for row in screen.getvalue().split("\n"):
        text = ""
        for part in row.split("\r"):  # as a terminal shows it
            text = part + text[len(part) :]
        rows.append(text.rstrip())
    assert rows == [*(f"result {i}" for i in range(5)), ""]
    assert "3/5  60%" in screen.getvalue()


def test_few_photos_and_pipes_have_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    for total, stream in ((4, Terminal()), (100, io.StringIO())):
        monkeypatch.setattr(sys, "stderr", stream)
        with streams.progress(total) as step:
            step()
        assert stream.getvalue() == ""


@pytest.mark.parametrize("configured", [False, True])
def test_messages_of_the_package_appear_once(
    configured: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a handler on stderr of its own, as of `mien serve`, a warning is written by that one alone."""
    handlers = [logging.StreamHandler(sys.stderr)] if configured else []
    monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
    with logs_on_stderr(verbose=False):
        logging.getLogger("mien.io.orientation").warning("%s: its EXIF is damaged", "'b.jpg'")
        logging.getLogger("mien.inference.reader").info("not shown")
    start = "" if configured else "mien: "
    assert capsys.readouterr().err == f"{start}'b.jpg': its EXIF is damaged\n"


@pytest.mark.parametrize(("package", "extra"), [("torch", "train"), ("av", "video"), ("ray.data", "scale")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(
    package: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    monkeypatch.setattr(entry, "app", fail)
    monkeypatch.setattr(entry, "prepare_streams", lambda: None)
    with pytest.raises(SystemExit) as caught:
        entry.main()
    assert caught.value.code == 2
    assert f"pip install 'mien[{extra}]'" in capsys.readouterr().err


def test_a_module_of_the_user_that_is_missing_stays_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'my_layers'", name="my_layers")

    monkeypatch.setattr(entry, "app", fail)
    monkeypatch.setattr(entry, "prepare_streams", lambda: None)
    with pytest.raises(ModuleNotFoundError):
        entry.main()


def test_extras_are_those_of_the_package() -> None:
    import tomllib

    extras = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    assert set(entry.EXTRAS.values()) <= set(extras)
