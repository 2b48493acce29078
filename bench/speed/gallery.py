"""Measure the gallery: false-match rates (the table next to the weights), and the time of a search.

python bench/speed/gallery.py rates [--weights FILE.onnx] [--out src/mien/weights/identity_fmr.json]
python bench/speed/gallery.py speed [--sizes 1000 100000 1000000] [--folder FOLDER] [--queries 200]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import mien
from mien import geometry
from mien.recognition import store
from mien.recognition.error_rates import TABLE, written

NOTE = (
    "LFW View 1 development pictures, 160 px centers of the deep-funneled ones; face found by the embedded"
    " detector, the one nearest to the center. Mostly adult men in news photos: children, siblings and people"
    " of the same sex, age and origin match more often. Pairs share pictures, so that they are not"
    " independent; rates under 1e-4 are not given."
)


def embeddings(reader: Any, data: Any) -> tuple[np.ndarray, int]:
    """Embeddings (n, d) of a data set's pictures, and the number of pictures without a detected face.

    Those are aligned by the set's own points.
    """
    task, found, lost = next(n for n in reader.requested if n.startswith("identity")), [], 0
    for sample in (data[i] for i in range(len(data))):
        middle = np.array(sample.image.shape[1::-1]) / 2
        faces = sorted(
            reader.detector(sample.image),
            key=lambda f: float(np.hypot(*((f.box[:2] + f.box[2:]) / 2 - middle))),
        )
        lost += not faces
        crop = geometry.align(sample.image, faces[0].points if faces else sample.points, reader.model.view)
        found.append(reader.read_crops([crop])[0][task].embedding)
    return np.stack(found), lost


def rates(weights: str | None, out: Path) -> None:
    """Measure and write the table."""
    import pyarrow.parquet as pq

    from mien import settings
    from mien.data.formats.pack import lfw_pairs

    reader, data = mien.load(weights, tasks=["identity"], threads=1), lfw_pairs()
    vectors, lost = embeddings(reader, data)
    people = np.array([n.split("/")[0] for n in data.names])
    row = {n: i for i, n in enumerate(data.names)}
    a, b = np.triu_indices(len(people), 1)
    impostors = (vectors @ vectors.T)[a, b][people[a] != people[b]]
    listed: dict[bool, list[float]] = {True: [], False: []}
    for pair in pq.read_table(settings.data_root() / "lfw_dev" / "pairs.parquet").to_pylist():
        listed[bool(pair["same"])].append(float(vectors[row[pair["a"]]] @ vectors[row[pair["b"]]]))
    table = written(reader.model.sha256, "identity", impostors, np.array(listed[True]), {
        "set": "LFW View 1, development test", "pictures": len(people), "people": len(set(people)),
        "no_face_found": lost,
        "genuine_mean": round(float(np.mean(listed[True])), 4),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": "python bench/speed/gallery.py rates", "note": NOTE,
    })  # fmt: skip
    strangers = np.array(listed[False])
    for r in table[
        "rows"
    ]:  # the 500 listed pairs of strangers are among the impostors too; separately, as a check
        r["listed_false_matches"] = int((strangers >= r["threshold"]).sum())
    table["listed_impostor_pairs"] = len(strangers)
    text = json.dumps(table, indent=1)
    out.write_text(text + "\n", encoding="utf-8")
    print(text)


def drawn(n: int, queries: int, similarity: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """n random directions (n, 128), and queries near the first of them at about this similarity."""
    rng = np.random.default_rng(seed)
    people = _unit(rng.standard_normal((n, 128), dtype=np.float32))
    aside = _unit(rng.standard_normal((queries, 128), dtype=np.float32))
    return people, _unit(similarity * people[:queries] + (1 - similarity**2) ** 0.5 * aside)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def rows_of(vectors: np.ndarray, schema: Any) -> Any:
    """A table of people with one face each, without thumbnails, written without Row objects."""
    import pyarrow as pa

    n = len(vectors)
    ids = [f"{i:016x}" for i in range(n)]
    columns = [
        pa.array([f"f_{i}" for i in ids]),
        pa.array([f"p_{i}" for i in ids]),
        pa.array([f"Person {i}" for i in ids]),
    ]
    columns += [pa.array([t] * n) for t in (store.FACE, "", "", "2026-01-01T00:00:00+00:00")]
    columns += [
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 128),
        pa.array([b""] * n, pa.binary()),
    ]
    return pa.table(columns, schema=schema)


def measured(table: store.PlainStore, people: np.ndarray, queries: np.ndarray) -> str:
    """p50 and p95 of a search for the 16 nearest faces in milliseconds, and recall@1 against numpy."""
    times, right = [], 0
    for q in queries[:5]:
        table.nearest(q, 16)
    for q in queries:
        start = time.perf_counter()
        found = table.nearest(q, 16)
        times.append(1e3 * (time.perf_counter() - start))
        right += bool(found) and found[0][0].id == f"f_{int(np.argmax(people @ q)):016x}"
    return (
        f"p50 {np.percentile(times, 50):7.1f} ms, p95 {np.percentile(times, 95):7.1f} ms, recall@1"
        f" {right / len(queries):.4f}"
    )


def speed(sizes: list[int], folder: Path, queries: int, similarity: float) -> None:
    """Exact and, from 100,000 on, indexed searches; then the cost of forgetting one of them all."""
    about = {"model": "synthetic", "task": "identity", "view": {}, "d": 128}
    store.INDEX_ROWS = 10**12  # the index is built here by hand, to be timed
    for n in sizes:
        place = folder / f"gallery-{n}"
        people, vectors = drawn(n, min(queries, n), similarity)
        table = store.new_store(str(place), None, None, about)
        assert isinstance(table, store.PlainStore)
        start = time.perf_counter()
        table.table.add(rows_of(people, table.table.schema))
        print(
            f"{n:>9,} rows written in {time.perf_counter() - start:.1f} s,"
            f" {table.stats()['bytes'] / 1e6:.1f} MB",
            flush=True,
        )
        print(f"{n:>9,} exact:   {measured(table, people, vectors[: max(10, 5_000_000 // n)])}", flush=True)
        if n >= 100_000:
            start = time.perf_counter()
            store.build_index(table.table, n)
            built = time.perf_counter() - start
            print(
                f"{n:>9,} index:   built in {built:.1f} s, {table.stats()['bytes'] / 1e6:.1f} MB in all",
                flush=True,
            )
            for probes in sorted({32, 128, 256, store.NPROBES}):
                store.NPROBES, kept = probes, store.NPROBES
                print(f"{n:>9,} {probes:>3} cells: {measured(table, people, vectors)}", flush=True)
                store.NPROBES = kept
        start = time.perf_counter()
        table.remove([f"f_{n - 1:016x}"])
        print(
            f"{n:>9,} forget:  {time.perf_counter() - start:.1f} s, without building the index again",
            flush=True,
        )
        shutil.rmtree(place)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("rates")
    verb.add_argument("--weights")
    verb.add_argument("--out", type=Path, default=TABLE)
    verb = verbs.add_parser("speed")
    verb.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    verb.add_argument("--folder", type=Path)
    verb.add_argument("--queries", type=int, default=200)
    verb.add_argument("--similarity", type=float, default=0.6, help="of a query and its own face")
    a = parser.parse_args()
    if a.verb == "rates":
        rates(a.weights, a.out)
    elif a.folder:
        speed(a.sizes, a.folder, a.queries, a.similarity)
    else:
        with tempfile.TemporaryDirectory() as folder:
            speed(a.sizes, Path(folder), a.queries, a.similarity)


if __name__ == "__main__":
    main()
