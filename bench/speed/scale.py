"""Measure work at scale into bench/results/scale.json, and write the tables of docs/scale.md from it.

python -m bench.speed.scale read [--sizes 1000 5000 20000] [--workers 1 2]  photos through Ray
python -m bench.speed.scale train [--ranks 1 2]  training pictures/s (needs mien[train])
python -m bench.speed.scale people [--sizes 1000 10000 100000 1000000]      a table of faces against a gallery
python -m bench.speed.scale papers  multiply-adds of the papers' networks (needs mien[train])
python -m bench.speed.scale page  write docs/scale.md and docs/scale.svg, measure nothing

Photos are the two public-domain portraits of examples/, turned, scaled and lit by chance, 640 x 480, one or
two faces each.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mien.diagnostics.memory import resident

OUT = Path("bench/results/scale.json")
# (name, builder, view's side, pictures a step, steps) of recipes/*.py: what a training is made of
PAPERS = (
    ("Faceptor, Base", "faceptor_base", ((112, 464), (512, 8)), 50_000),
    ("Faceptor, Full", "faceptor_base", ((112, 496), (512, 24)), 50_000),
    ("Naive Faceptor", "naive_faceptor_base", ((112, 464), (512, 8)), 50_000),
    ("Q-Face", "qface_base", ((224, 128),), 50_000),
    ("iFAN, three laps", "ifan", ((128, 24),), 40_000),
    ("FAR-AMTN", "far_amtn", ((224, 128),), 38_000),
    ("MGMTN, attributes", "mgmtn", ((227, 128),), 38_000),
)


def stored() -> dict[str, Any]:
    """All measurements so far."""
    return dict(json.loads(OUT.read_text(encoding="utf-8"))) if OUT.exists() else {}


def store(kind: str, key: str, value: dict[str, Any]) -> None:
    """Add one measurement, with its day and the machine's load."""
    results = stored()
    about = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    results.setdefault(kind, {})[key] = value | about
    OUT.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(kind, key, json.dumps(value), flush=True)


# --- Reading


def make_photos(folder: Path, count: int, seed: int = 0) -> None:
    """JPEGs of a gray 640 x 480 with one or two heads."""
    import cv2

    from mien.io.image import load_photo

    one, two = (
        load_photo("examples/astronaut.jpg").pixels[20:270, 100:350],
        load_photo("examples/grace_hopper.jpg").pixels[:360, 80:440],
    )
    rng = np.random.default_rng(seed)
    for i in range(count):
        out = rng.integers(60, 180, (1, 1, 3)).repeat(480, 0).repeat(640, 1).astype(np.uint8)
        for k in range(1 + i % 2):
            side = int(rng.integers(120, 300))
            head = cv2.resize((one, two)[(i // 2 + k) % 2], (side, side), interpolation=cv2.INTER_AREA)
            turn = cv2.getRotationMatrix2D((side / 2, side / 2), float(rng.uniform(-15, 15)), 1.0)
            head = cv2.warpAffine(head, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
            head = np.clip(head * rng.uniform(0.7, 1.2), 0, 255).astype(np.uint8)
            y, x = int(rng.integers(0, 480 - side)), k * 320 + int(rng.integers(0, 320 - side + 1))
            out[y : y + side, x : x + side] = head
        below = folder / f"{i // 1000:03d}"
        below.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(below / f"{i:06d}.jpg"), out[..., ::-1])


def one(folder: str, out: str, engine: str, workers: int, photos: int) -> dict[str, Any]:
    """One job, in a separate process to measure its peak memory."""
    import mien
    from mien.scale import photos as job

    load = functools.partial(
        mien.load, tasks=["landmarks", "age", "gender", "expression", "identity"], threads=1
    )
    ends: list[tuple[float, int]] = []
    done = job.analyze(
        [folder],
        out,
        load,
        engine=engine,
        workers=workers,
        photos=photos,
        on_part=lambda r: ends.append((time.perf_counter(), r["photos"])),
    )
    # a worker's first part may finish before another worker has loaded its reader, so it is left out
    steady = (
        sum(n for _, n in ends[workers:]) / (ends[-1][0] - ends[workers - 1][0])
        if len(ends) > workers
        else None
    )
    return {
        "photos": done.photos, "faces": done.faces, "seconds": done.seconds,
        "photos_per_s": done.photos / done.seconds,
        "steady_photos_per_s": steady, "cpu_s_per_photo": done.cpu / done.photos,
        "worker_peak_mb": done.peak_mb,
        "driver_peak_mb": resident()["peak"],
        "bytes_per_face": sum(p.stat().st_size for p in Path(out).glob("*.parquet")) / max(done.faces, 1),
        "stages": done.stages,
    }  # fmt: skip


def read(sizes: list[int], workers: list[int], folder: Path) -> None:
    """Every size with every number of workers."""
    for n in sizes:
        place = folder / f"photos-{n}"
        make_photos(place, n)
        size = sum(p.stat().st_size for p in place.rglob("*.jpg")) / n
        for w in workers:
            part = min(512, max(4, n // 12))
            words = [
                "one",
                str(place),
                "--to",
                str(folder / f"out-{n}-{w}"),
                "--workers",
                str(w),
                "--photos",
                str(part),
            ]
            output = subprocess.run(
                [sys.executable, "-m", "bench.speed.scale", *words],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            ).stdout
            store(
                "read",
                f"{n} x {w}",
                json.loads(output.splitlines()[-1])
                | {
                    "size": n,
                    "workers": w,
                    "bytes_per_photo": size,
                    "part": part,
                },
            )


# --- Training, people, papers


def train(ranks: list[int], steps: int) -> None:
    """Pictures per second of faceptor_tiny on synthetic faces; a failure is stored with its last line."""
    for n in ranks:
        with tempfile.TemporaryDirectory() as run:
            words = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--nproc-per-node",
                str(n),
                "-m",
                "mien",
                "train",
            ]
            words += [
                "recipes/faceptor_tiny.py",
                "--synthetic",
                "True",
                "--steps",
                str(steps),
                "--out",
                run,
                "--threads",
                "1",
            ]
            done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            log = Path(run) / "log.jsonl"
            rows = (
                [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
                if log.exists()
                else []
            )
            speeds = [r["images_per_s"] for r in rows if "images_per_s" in r]
        if done.returncode or not speeds:
            last = [line for line in done.stdout.splitlines() if line.strip()][-1:]
            store(
                "train",
                str(n),
                {"ranks": n, "images_per_s": None, "failed": (last or ["said nothing"])[0][:200]},
            )
        else:
            store("train", str(n), {"ranks": n, "images_per_s": speeds[-1], "steps": steps, "threads": 1})


def named(sizes: list[int], faces: int = 4096) -> None:
    """Faces per second against galleries of random people: in one product, and one by one by LanceDB."""
    from bench.speed.gallery import drawn, rows_of
    from mien.recognition import store
    from mien.scale.people import Index

    for n in sizes:
        people, queries = drawn(n, min(faces, n), 0.6)
        none = np.zeros(n, bool)
        index = Index(people, np.arange(n), none, tuple(map(str, range(n))), tuple(map(str, range(n))))
        start, used = time.perf_counter(), time.process_time()
        best, _ = index.nearest(queries, 2)
        spent, cpu = time.perf_counter() - start, time.process_time() - used
        found: dict[str, Any] = {
            "size": n,
            "faces": len(queries),
            "faces_per_s": len(queries) / spent,
            "cpu_s_per_face": cpu / len(queries),
        }
        found["right"] = float(
            (best[:, 0] == np.arange(len(queries))).mean()
        )  # the i-th face was drawn next to the i-th person
        with tempfile.TemporaryDirectory() as folder:
            table = store.new_store(
                folder, None, None, {"model": "synthetic", "task": "identity", "view": {}, "d": 128}
            )
            assert isinstance(table, store.PlainStore)
            table.table.add(rows_of(people, table.table.schema))
            if n >= store.INDEX_ROWS:
                store.build_index(table.table, n)
            sample = queries[:100]
            table.nearest(sample[0], 16)
            start = time.perf_counter()
            for q in sample:
                table.nearest(q, 16)
            found["lancedb_faces_per_s"] = len(sample) / (time.perf_counter() - start)
        found["peak_mb"] = resident()["peak"]
        store("people", str(n), found)


def papers() -> None:
    """Multiply-adds per picture and forward pass of the networks in recipes/; shapes only, no memory."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mien.models import MODELS
    from mien.models.faceptor_official import FULL_TASKS

    for name, builder, views, steps in PAPERS:
        views = []
        for side, pictures in views:
            with torch.device("meta"):
                more = {"tasks": FULL_TASKS} if name.endswith("Full") else {}
                model = MODELS[builder](**more).eval().requires_grad_(False)
                with FlopCounterMode(display=False) as counter:
                    model(torch.zeros(1, 3, side, side))
            views.append({"side": side, "pictures": pictures, "macs": counter.get_total_flops() // 2})
        store(
            "papers",
            name,
            {"steps": steps, "views": views, "parameters": sum(p.numel() for p in model.parameters())},
        )


def main() -> None:
    """Run one of them, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, sizes in (("read", [1_000, 5_000, 20_000]), ("people", [1_000, 10_000, 100_000, 1_000_000])):
        verbs.add_parser(verb).add_argument("--sizes", type=int, nargs="+", default=sizes)
    verbs.choices["read"].add_argument("--workers", type=int, nargs="+", default=[1, 2])
    verbs.choices["read"].add_argument(
        "--folder", type=Path, help="for photos and parts; a temporary one if not given"
    )
    verb = verbs.add_parser("train")
    verb.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    verb.add_argument("--steps", type=int, default=40)
    verbs.add_parser("papers")
    verbs.add_parser("page")
    verb = verbs.add_parser("one")
    verb.add_argument("folder")
    verb.add_argument("--to", required=True)
    verb.add_argument("--engine", default="ray")
    verb.add_argument("--workers", type=int, default=1)
    verb.add_argument("--photos", type=int, default=512)
    a = parser.parse_args()
    if a.verb == "one":
        print(json.dumps(one(a.folder, a.to, a.engine, a.workers, a.photos)))
        return
    if a.verb == "read":
        with tempfile.TemporaryDirectory() as folder:
            read(a.sizes, a.workers, a.folder or Path(folder))
    elif a.verb == "train":
        train(a.ranks, a.steps)
    elif a.verb == "people":
        named(a.sizes)
    elif a.verb == "papers":
        papers()
    from bench.speed.scale_page import write

    write(stored())


if __name__ == "__main__":
    main()
