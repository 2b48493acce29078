"""The page as a folder of files, with the networks next to it, that answers in the browser.

`mien web` writes it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from mien.errors import BadWeights, MissingData, UsageError
from mien.geometry import TEMPLATES
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.reading import SCHEMA
from mien.recognition.verification import match_threshold
from mien.tasks import supported_tasks
from mien.web.assets import POLICY, WEB, about, parts

ORT = "1.30.0"
# Of onnxruntime-web (MIT), the two files that the page loads: its name in the package -> sha256.
ORT_FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
MODE = '<meta name="mien-mode" content="server">'
# A static server sends no policy, so the page brings one; WebAssembly has to be allowed by name.
LOCAL_MODE = (
    '<meta name="mien-mode" content="browser">\n<meta http-equiv="content-security-policy" content="'
    + POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'").replace(
        "base-uri", "frame-src 'none'; base-uri"
    )
    + '">'
)


def model_table(model: OnnxModel, finder: Detector) -> dict[str, Any]:
    """model.json: all that the page's engine has to know next to the two networks. Plain JSON values.

    Raises:
        BadWeights: the network sees whole photos, which is a detector's view.
    """
    if model.view.template not in TEMPLATES:
        raise BadWeights(
            f"{model.path} has the view {model.view.template!r}; the page aligns faces to:"
            f" {', '.join(TEMPLATES)}"
        )
    assert isinstance(finder.model, OnnxModel)
    tasks: list[dict[str, Any]] = []
    for t in model.tasks:
        decoder = t.decoder()
        if decoder is not None:
            tasks.append({"name": t.name, "labels": t.labels, **decoder})
    order = [n for n in supported_tasks(t["name"] for t in tasks) if n != "points5"]
    view = model.view.to_dict() | {"points": TEMPLATES[model.view.template].tolist()}
    names = ("threshold", "overlap", "base", "thumbnail", "tiles", "max_upscale", "candidate")
    passes = {n: getattr(finder, n) for n in names}
    try:
        threshold: dict[str, Any] | None = match_threshold(model).to_dict()
    except UsageError:  # nobody measured one for these weights; the page says so
        threshold = None
    return {
        "schema": SCHEMA,
        "network": {
            "file": "network.onnx",
            "sha256": model.sha256,
            "name": model.name,
            "view": view,
            "tasks": tasks,
            "order": order,
        },
        "detector": {
            "file": "detector.onnx",
            "sha256": finder.model.sha256,
            "view": finder.model.view.to_dict(),
            **passes,
        },
        "threshold": threshold,
    }


def fetch_ort(folder: Path) -> Path:
    """The package from the npm registry, through npm, into a folder.

    Raises:
        MissingData: there is no npm, or it could not fetch.
    """
    fix = f"give it by --ort (npm pack onnxruntime-web@{ORT} makes the .tgz)"
    npm = shutil.which("npm")
    if npm is None:
        raise MissingData(f"onnxruntime-web {ORT} comes by npm, which is not installed; {fix}")
    done = subprocess.run(
        [npm, "pack", "--ignore-scripts", "--silent", f"onnxruntime-web@{ORT}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = folder / f"onnxruntime-web-{ORT}.tgz"
    if done.returncode or not found.is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise MissingData(f"npm could not fetch onnxruntime-web {ORT} ({last}); {fix}")
    return found


def ort_files(source: Path) -> dict[str, bytes]:
    """The runtime's two files from a .tgz of npm's, or from a folder (the package, its dist, or `ort` of an
    earlier page).

    Raises:
        MissingData: one is not there. BadWeights: one is not the file that this version of mien was tested
            with.
    """
    out = {}
    for name, promised in ORT_FILES.items():
        data = _from_tar(source, name) if source.is_file() else _from_folder(source, name)
        found = hashlib.sha256(data).hexdigest()
        if found != promised:
            raise BadWeights(
                f"{name} of {source} has sha256 {found[:16]}..., not {promised[:16]}...; take onnxruntime-web"
                f" {ORT}"
            )
        out[name] = data
    return out


def _from_tar(source: Path, name: str) -> bytes:
    try:
        with tarfile.open(source) as tar:
            member = tar.extractfile(f"package/dist/{name}")
            assert member is not None
            return member.read()
    except (tarfile.TarError, KeyError, AssertionError, EOFError) as e:
        raise MissingData(
            f"{source} is not a package of onnxruntime-web: no dist/{name} in it ({e}); npm pack makes one"
        ) from e


def _from_folder(source: Path, name: str) -> bytes:
    for place in (source / name, source / "dist" / name, source / "package" / "dist" / name):
        if place.is_file():
            return place.read_bytes()
    raise MissingData(
        f"{name} is not in {source}; --ort names onnxruntime-web's .tgz, or a folder of its files"
    )


def write(out: Path, table: dict[str, Any], runtime: dict[str, bytes], networks: dict[str, Path]) -> None:
    """index.html, page/, ort/, weights/.

    Raises:
        UsageError: the folder cannot be written.
    """
    files = {name: path.read_bytes() for name, path in parts().items()}
    files |= {f"page/local/{p.name}": p.read_bytes() for p in (WEB / "local").glob("*.js")}
    page = files["index.html"].decode()
    if page.count(MODE) != 1:
        raise UsageError(
            f"{WEB / 'index.html'} was altered: it does not name its mode once; install mien again"
        )
    files["index.html"] = page.replace(MODE, LOCAL_MODE).encode()
    files["page/about.json"] = json.dumps(about()).encode()
    files["weights/model.json"] = json.dumps(table, indent=1).encode()
    files |= {f"ort/{name}": data for name, data in runtime.items()}
    files |= {f"weights/{name}": path.read_bytes() for name, path in networks.items()}
    try:
        for name, data in files.items():
            place = out / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
    except OSError as e:
        raise UsageError(f"cannot write {out} ({e.strerror}); name another folder by --out") from e
