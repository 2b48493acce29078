"""Speed on this machine: by stage, over entire pictures, and at start-up.

Times are wall-clock times and are valid on an idle machine only; processor seconds per picture are valid on a
busy one too. The report includes the machine, its load, the versions and the weights.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mien.diagnostics.doctor import cores, drawn_face, machine, packages
from mien.diagnostics.memory import resident
from mien.errors import PhotoError, UsageError
from mien.inference.reader import Reader, load
from mien.io.image import Source, load_photo
from mien.io.paths import find_photos
from mien.types import Pixels
from mien.visualize import drawing

STAGES = ("decode", "detect", "align", "read", "draw")
WARM_UP = 3


@dataclass(frozen=True, slots=True)
class Group:
    """Pictures that are timed together.

    Attributes:
        name: title in the report.
        photos: paths or bytes, at least one.
    """

    name: str
    photos: Sequence[Source]


def drawn_groups() -> list[Group]:
    """Two synthetic pictures as JPEG bytes: one face (640 x 480) and five faces (1000 x 667).

    The package contains no photograph.
    """
    return [
        Group("1 drawn face, 640x480", [_jpeg(_scene(640, 480, 1))]),
        Group("5 drawn faces, 1000x667", [_jpeg(_scene(1000, 667, 5))]),
    ]


def _scene(width: int, height: int, faces: int) -> Pixels:
    """Synthetic faces of 320 pixels in a grid."""
    face, _ = drawn_face()
    side, across = len(face), max(1, width // len(face))
    out = np.full((height, width, 3), (120, 140, 160), np.uint8)
    for i in range(faces):
        x, y = (i % across) * side, (i // across) * side
        out[y : y + side, x : x + side] = face
    return out


def _jpeg(pixels: Pixels) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def spread(ms: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    p50, p95 = np.percentile(np.asarray(ms), [50, 95])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}


def stages(reader: Reader, group: Group, runs: int) -> tuple[dict[str, dict[str, float]], float]:
    """Milliseconds per picture by stage, and the mean number of faces.

    The stage "read" is one forward pass of all faces and the decoding of its outputs. The pictures take
    turns, evenly over the group if it has more than `runs`. Warm-up calls are not counted.
    """
    ms: dict[str, list[float]] = {name: [] for name in (*STAGES, "all")}
    faces = 0
    for number, source in enumerate(_turns(group.photos, runs)):
        taken, found = _once(reader, source)
        if number >= WARM_UP:
            faces += found
            for name, value in taken.items():
                ms[name].append(value)
    return {name: spread(values) for name, values in ms.items()}, faces / runs


def _turns(photos: Sequence[Source], runs: int) -> Iterator[Source]:
    n = len(photos)
    yield from (photos[i % n] for i in range(WARM_UP))
    yield from (photos[i * n // runs] if n > runs else photos[i % n] for i in range(runs))


def _once(reader: Reader, source: Source) -> tuple[dict[str, float], int]:
    """Milliseconds per stage of one picture, and its number of faces."""
    reading = reader.read(source)
    assert reading.photo is not None
    taken = dict(reading.timing_ms)
    began = time.perf_counter()
    drawing.annotate(reading.photo.pixels, reading)
    taken["draw"] = 1e3 * (time.perf_counter() - began)
    taken["all"] = sum(taken[name] for name in STAGES[:-1])
    return taken, len(reading)


def throughput(reader: Reader, photos: Sequence[Source], minimum: int) -> dict[str, float]:
    """Speed of `Reader.stream` over entire pictures, repeated until there are at least `minimum`."""
    again = -(-minimum // len(photos))
    began, used, failed, faces = time.perf_counter(), time.process_time(), 0, 0
    for reading in reader.stream(p for _ in range(again) for p in photos):
        failed += reading.error is not None
        faces += len(reading)
    wall, cpu, n = time.perf_counter() - began, time.process_time() - used, again * len(photos)
    return {
        "pictures": n, "faces": faces, "failed": failed, "pictures_per_second": round(n / wall, 2),
        "faces_per_second": round(faces / wall, 2), "cpu_seconds_per_picture": round(cpu / n, 4),
    }  # fmt: skip


# --- Before the first picture, and around it

_IMPORTS = """
import json, time
t = [time.perf_counter()]
import mien
t.append(time.perf_counter())
import mien.inference.reader
t.append(time.perf_counter())
mien.load(threads={threads})
t.append(time.perf_counter())
print(json.dumps([round(1e3 * (b - a), 1) for a, b in zip(t, t[1:])]))
"""


def start_up(threads: int | None, repeats: int = 3) -> dict[str, float]:
    """Milliseconds of `import mien`, of importing the reader, and of loading the embedded weights.

    Each is the minimum over `repeats` new processes.
    """
    code = _IMPORTS.format(threads=threads)
    rows = [
        json.loads(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        )
        for _ in range(repeats)
    ]
    fastest = np.min(rows, axis=0).tolist()
    return dict(zip(("import_mien", "import_reader", "load_weights"), fastest, strict=True))


def surroundings() -> dict[str, Any]:
    """Machine, cores, load and versions."""
    load_now = [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else []
    return {
        **machine().facts, "cores": cores().facts["usable"], "environment": cores().facts["environment"],
        "load": load_now,
        "packages": packages()[0].facts, "implementation": platform.python_implementation(),
    }  # fmt: skip


def measure(
    inputs: Sequence[str] = (),
    *,
    threads: int | None = None,
    runs: int = 30,
    tasks: Sequence[str] | None = None,
    started: bool = True,
) -> dict[str, Any]:
    """Run the benchmark and return the report as plain JSON values; `table` formats it.

    Args:
        inputs: files, folders and glob patterns; the synthetic pictures if there are none.
        threads: inference threads; None for all cores.
        runs: timed pictures per stage.
        tasks: see `mien.load`.
        started: measure import times too, in separate processes.

    Raises:
        UsageError: runs below 1, or none of the pictures can be read. NotFound: a folder without pictures.
    """
    if runs < 1:
        raise UsageError(f"runs must be 1 or more, not {runs}")
    reader = load(threads=threads, tasks=tasks)
    groups = [_readable(find_photos(list(inputs)))] if inputs else drawn_groups()
    rows = []
    for group in groups:
        times, faces = stages(reader, group, runs)
        passed = throughput(reader, group.photos, runs)
        rows.append(
            {
                "name": group.name,
                "pictures": len(group.photos),
                "faces_per_picture": round(faces, 2),
                "ms": times,
                "stream": passed,
            }
        )
    found = {
        "threads": threads or "all",
        "runs": runs,
        "tasks": list(reader.requested),
        "groups": rows,
        "resident_mb": resident(),
    }
    networks = {"mien": reader.model, "detector": reader.detector.model}  # type: ignore[attr-defined]
    about = surroundings() | {
        "weights": {k: {"name": m.name, "sha256": m.sha256} for k, m in networks.items()}
    }
    return found | {"start_ms": start_up(threads) if started else {}, "machine": about}


def _readable(paths: Sequence[str]) -> Group:
    """The pictures that can be read, as one group."""
    good = list[Source]()
    for path in paths:
        try:
            load_photo(path)
        except PhotoError:
            continue
        good.append(path)
    if not good:
        raise UsageError(f"none of the {len(paths)} pictures can be read; mien analyze says why")
    lost = len(paths) - len(good)
    return Group(f"{len(good)} pictures" + (f" ({lost} could not be read)" if lost else ""), good)


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """The report as lines for people."""
    about = found["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in about["packages"].items() if v)
    yield (
        f"{about['cpu']}, {about['cores']} cores, load {' '.join(map(str, about['load'])) or 'unknown'};"
        f" Python {about['python']}"
    )
    yield f"{about['system']}; {versions}"
    yield (
        f"weights {about['weights']['mien']['name']} {about['weights']['mien']['sha256'][:12]}; threads"
        f" {found['threads']}"
    )
    yield f"tasks {', '.join(found['tasks'])}"
    for group in found["groups"]:
        yield ""
        yield f"{group['name']}: {group['faces_per_picture']:g} faces per picture, {found['runs']} runs"
        yield f"{'ms per picture':>14} {'p50':>9} {'p95':>9}"
        for name in (*STAGES, "all"):
            yield f"{name:>14} {group['ms'][name]['p50']:9.2f} {group['ms'][name]['p95']:9.2f}" + (
                "   without draw" if name == "all" else ""
            )
        s = group["stream"]
        yield (
            f"{s['pictures']} pictures in a stream: {s['pictures_per_second']:g} pictures/s,"
            f" {s['faces_per_second']:g} faces/s, {s['cpu_seconds_per_picture']:g} CPU seconds per"
            " picture"
        )
    yield ""
    if found["resident_mb"]:
        yield "resident " + ", ".join(f"{k} {v:.0f} MB" for k, v in found["resident_mb"].items())
    if found["start_ms"]:
        yield "start " + ", ".join(f"{k.replace('_', ' ')} {v:.0f} ms" for k, v in found["start_ms"].items())
