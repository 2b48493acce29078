"""Check the installation: machine and versions, then the weights, then a synthetic face is read and timed.

The machine and the versions come before any heavy import, so that they are reported even if an import fails.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mien.inference.provenance import provenance_of, provenance_path
from mien.settings import cpu_quota, inference_threads

Verdict = Literal["ok", "note", "bad"]
NEEDED = ("numpy", "onnxruntime", "pillow", "opencv-python-headless", "typer")
# package -> the extra that brings it, and what it is for
EXTRAS = {
    "torch": "train: training, evaluation of checkpoints, export",
    "pyarrow": "parquet: --out FILE.parquet, and data packs",
    "pillow-heif": "heif: HEIC pictures",
    "av": "video: videos",
    "lancedb": "gallery: a gallery of people",
    "fastapi": "serve: the server",
}
FEATURES = (
    "sse4_2",
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "amx_int8",
    "neon",
    "asimd",
    "asimddp",
    "i8mm",
    "sve",
)
WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: "ok"; "note" for information; "bad" if mien will not work."""

    name: str
    verdict: Verdict
    text: str
    facts: dict[str, Any] = field(default_factory=dict)


def examine(*, threads: int | None = None, repeats: int = 5) -> Iterator[Check]:
    """Run all checks and yield each result as soon as it is known.

    Args:
        threads: inference threads of the last check; None for all cores.
        repeats: number of timed calls.
    """
    yield machine()
    yield cores()
    yield from packages()
    good = True
    for check in weights():
        good = good and check.verdict != "bad"
        yield check
    if good:
        yield from _guarded("imports", lambda: imports())
        yield from _guarded("self-test", lambda: self_test(threads, repeats))


def _guarded(name: str, check: Callable[[], list[Check]]) -> list[Check]:
    """Run a check; an exception becomes a "bad" result with the error's type and text."""
    try:
        return check()
    except Exception as e:  # noqa: BLE001
        return [Check(name, "bad", f"{type(e).__name__}: {e}")]


# --- Before anything is imported


def machine() -> Check:
    """System, processor and the instruction sets that speed up networks."""
    found = cpu_features()
    kind = platform.machine().lower()
    facts = {
        "system": platform.platform(),
        "machine": kind,
        "cpu": cpu_name(),
        "python": platform.python_version(),
        "features": found,
    }
    text = (
        f"{facts['cpu']}; Python {facts['python']} on {facts['system']};"
        f" {' '.join(found) or 'features unknown'}"
    )
    if kind in ("x86_64", "amd64") and found and "avx" not in found:
        return Check(
            "machine",
            "bad",
            text + "; without AVX, ONNX Runtime and OpenCV may stop with an illegal instruction",
            facts,
        )
    return Check("machine", "ok", text, facts)


def _cpuinfo() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    block = path.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    return {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in block.splitlines())}


def cpu_name() -> str:
    """The processor's name, or what the system reports in its place."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """The instruction sets of `FEATURES` that the processor has; none on systems other than Linux."""
    info = _cpuinfo()
    have = set(f"{info.get('flags', '')} {info.get('features', '')}".split())
    return [f for f in FEATURES if f in have]


def cores() -> Check:
    """Numbers of cores: present, usable, and the container's quota."""
    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    quota = cpu_quota()
    named = {
        k: os.environ[k]
        for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        if k in os.environ
    }
    facts = {"cores": there, "usable": usable, "quota": quota, "environment": named}
    text = (
        f"{there} cores, {usable} usable"
        + (f", quota {quota:g}" if quota else "")
        + "".join(f", {k}={v}" for k, v in named.items())
    )
    if quota and quota < usable:
        text += f"; the container's quota is below that; inference threads: {inference_threads()}"
        return Check("cores", "note", text, facts)
    return Check("cores", "ok", text, facts)


def packages() -> list[Check]:
    """Versions of the packages, without importing them."""
    have = {name: _version(name) for name in ("mien", *NEEDED, *EXTRAS)}
    missing = [n for n in NEEDED if have[n] is None and not (n.startswith("opencv") and _any_opencv())]
    text = ", ".join(f"{n} {have[n] or 'missing'}" for n in ("mien", *NEEDED))
    lacking = f"; install what is missing: pip install {' '.join(missing)}" if missing else ""
    needed = Check(
        "packages", "bad" if missing else "ok", text + lacking, {n: have[n] for n in ("mien", *NEEDED)}
    )
    here, not_here = (
        [n for n in EXTRAS if have[n]],
        [EXTRAS[n].partition(":")[0] for n in EXTRAS if not have[n]],
    )
    text = ", ".join(f"{n} {have[n]}" for n in here) or "none"
    text += f"; not installed: mien[{','.join(not_here)}]" if not_here else ""
    return [needed, Check("extras", "ok", text, {n: have[n] for n in EXTRAS})]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _any_opencv() -> bool:
    return any(
        _version(n) for n in ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
    )


def weights(folder: Path = WEIGHTS) -> list[Check]:
    """Compare each embedded file with the sha256 and the size in its provenance file."""
    out = []
    for name in ("detector.onnx", "mien.onnx"):
        path, sidecar = folder / name, provenance_path(folder / name)
        if not path.is_file() or not sidecar.is_file():
            out.append(
                Check(
                    name,
                    "bad",
                    f"{path if not path.is_file() else sidecar} is missing; install mien again",
                )
            )
            continue
        expected = provenance_of(path)
        data = path.read_bytes()
        found = hashlib.sha256(data).hexdigest()
        facts = {
            "sha256": found,
            "expected": expected.get("sha256"),
            "bytes": len(data),
            "license": expected.get("license"),
        }
        if found != expected.get("sha256"):
            out.append(
                Check(
                    name,
                    "bad",
                    f"sha256 is {found}, {sidecar.name} has {expected.get('sha256')}; install mien again",
                    facts,
                )
            )
        else:
            text = (
                f"{len(data) / 1e6:.1f} MB, sha256 {found[:16]}... as expected;"
                f" {expected.get('license', 'no license stated')}"
            )
            out.append(Check(name, "ok", text, facts))
    rates = folder / "identity_fmr.json"
    measured = json.loads(rates.read_text(encoding="utf-8")).get("model") if rates.is_file() else None
    facts = {"measured_with": measured}
    if measured is not None and measured == out[-1].facts.get("sha256"):
        out.append(
            Check(
                rates.name,
                "ok",
                "thresholds for verify and cluster by false-match rate, measured with these weights",
                facts,
            )
        )
    else:
        why = "measured with other weights" if measured else "missing"
        out.append(
            Check(
                rates.name, "note", f"{why}; verify and cluster take the best threshold on LFW instead", facts
            )
        )
    return out


# --- At work


def imports() -> list[Check]:
    """Import the packages and report their own version information."""
    began = time.perf_counter()
    cv2, ort = importlib.import_module("cv2"), importlib.import_module("onnxruntime")
    features = importlib.import_module("PIL.features")
    importlib.import_module("mien.inference.reader")
    ms = 1e3 * (time.perf_counter() - began)
    formats = {
        n: bool(features.check(k))
        for n, k in (("JPEG", "jpg"), ("WebP", "webp"), ("AVIF", "avif"), ("TIFF", "libtiff"))
    }
    formats["HEIC"] = _version("pillow-heif") is not None
    facts = {
        "providers": ort.get_available_providers(),
        "formats": formats,
        "opencv_threads": cv2.getNumThreads(),
        "import_ms": round(ms),
    }
    lacking = [n for n, there in formats.items() if not there]
    text = f"ONNX providers {', '.join(facts['providers'])}; imported in {ms:.0f} ms"
    return [
        Check(
            "runtime",
            "note" if lacking else "ok",
            text + (f"; cannot read {', '.join(lacking)}" if lacking else ""),
            facts,
        )
    ]


def drawn_face() -> tuple[Any, Any]:
    """A synthetic face: (320, 320, 3) uint8 RGB, and its five points (5, 2) in pixels.

    The package contains no photograph.
    """
    import cv2
    import numpy as np

    p = np.full((320, 320, 3), (120, 140, 160), np.uint8)

    def oval(center: tuple[int, int], radii: tuple[int, int], color: tuple[int, int, int]) -> None:
        cv2.ellipse(p, center, radii, 0, 0, 360, color, -1, cv2.LINE_AA)

    oval((160, 140), (88, 100), (62, 44, 34))  # hair
    oval((160, 262), (42, 50), (196, 150, 128))  # neck
    oval((160, 330), (130, 60), (50, 70, 130))  # cloth
    oval((160, 165), (68, 88), (224, 178, 152))  # skin
    points = np.array([[132.0, 148], [188, 148], [160, 182], [138, 212], [182, 212]])
    for x in (132, 188):
        cv2.ellipse(p, (x, 132), (17, 6), 0, 190, 350, (70, 48, 36), 4, cv2.LINE_AA)
        oval((x, 148), (14, 7), (246, 244, 240))
        oval((x, 148), (6, 6), (66, 46, 36))
    cv2.ellipse(p, (160, 178), (14, 8), 0, 20, 160, (176, 126, 104), 3, cv2.LINE_AA)
    oval((160, 212), (24, 8), (186, 84, 88))
    cv2.line(p, (138, 212), (182, 212), (120, 44, 52), 2, cv2.LINE_AA)
    return cv2.GaussianBlur(p, (0, 0), 1.6), points


def self_test(threads: int | None, repeats: int) -> list[Check]:
    """Detect a synthetic face, compare its points with the true ones, and time the stages."""
    import numpy as np

    from mien import geometry
    from mien.inference.reader import load

    began = time.perf_counter()
    reader = load(threads=threads)
    loaded = 1e3 * (time.perf_counter() - began)
    pixels, points = drawn_face()
    found = reader.detector(pixels)
    (answers,) = reader.read_crops([geometry.align(pixels, points, reader.model.view)])
    got = (
        answers["points5"].points
        if "points5" in answers
        else geometry.five_of_68(answers["landmarks"].points)
    )
    eyes = float(np.linalg.norm(points[1] - points[0]))
    off = float(np.linalg.norm(got - points, axis=1).mean()) / eyes
    facts = {
        "found": len(found),
        "score": round(found[0].score, 3) if found else None,
        "point_error": round(off, 4),
    }
    text = (
        f"a drawn face: {len(found)} found, its points {100 * off:.1f} % of the eyes' distance from where"
        " they were drawn"
    )
    verdict: Verdict = "bad" if off > 0.25 else "ok" if len(found) == 1 else "note"
    return [Check("self-test", verdict, text, facts), _times(reader, pixels, points, loaded, repeats)]


def _times(reader: Any, pixels: Any, points: Any, loaded: float, repeats: int) -> Check:
    from mien import geometry

    crop = geometry.align(pixels, points, reader.model.view)
    stages: dict[str, Callable[[], Any]] = {
        "detect": lambda: reader.detector(pixels),
        "align": lambda: geometry.align(pixels, points, reader.model.view),
        "read 1 face": lambda: reader.read_crops([crop]),
        "read 8 faces": lambda: reader.read_crops([crop] * 8),
    }
    facts = {"load": round(loaded, 1)}
    for name, run in stages.items():
        taken = []
        run()
        for _ in range(repeats):
            began = time.perf_counter()
            run()
            taken.append(1e3 * (time.perf_counter() - began))
        facts[name] = round(statistics.median(taken), 2)
    text = ", ".join(f"{name} {ms:.1f} ms" for name, ms in facts.items())
    return Check(
        "time", "ok", f"{text} (320x320, median of {repeats}, {reader.model.threads or 'all'} threads)", facts
    )
