"""Choose the default threshold of `mien cluster` by pair F1, and store it with the curve.

python -m bench.clustering [--weights FILE.onnx] [--out src/mien/weights/clustering.json]
                           [--page docs/cli.md]

Two albums, no person of which taught identity: the people of `celeba_wild` that are set aside (whole photos)
and `celeba/val` (89 x 109 pixels). In each photo the largest face that the embedded detector finds is read,
with its mirror image, as `mien cluster` does. Pairs of photos are counted: precision is the share of the
pairs within groups that show one person, recall the share of one person's pairs that are within a group.

Each linkage is cut at each threshold. The default is the average linkage's cut of the best mean F1 among
those from which on precision stays at 0.98 or more in both albums. Where no such cut has a mean recall of
0.25, only the whole photos decide: at 89 x 109 pixels the network cannot separate 540 people. Merges are
suggested from the lowest similarity of two groups at which at least half of the suggested pairs are one
person, in the album of whole photos. Needs MIEN_DATA, MIEN_DATA_MORE, pyarrow and scipy. Embeddings are kept
in the cache folder.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

import mien
from mien import settings
from mien.data import set_aside
from mien.recognition.clustering import CHILD, CHILD_MARGIN, TABLE, Album, group
from mien.recognition.verification import MatchThreshold

PRECISION = 0.98
USEFUL = 0.25  # minimum mean recall of a default that both albums decide on
HALF = 0.5  # minimum share of suggested merges that are right
LINKAGES = ("average", "complete", "single")
GRID = np.round(np.arange(0.6, 0.9501, 0.005), 4)
PRINTED = np.round(np.arange(0.7, 0.9201, 0.04), 4)
WILD, SMALL = "celeba_wild, set-aside people", "celeba/val"
BEGIN, END = "<!-- clustering: begin -->", "<!-- clustering: end -->"


@dataclass(frozen=True)
class Faces:
    """The faces of one album: embeddings (n, d), whose they are (n,), whether they look like children's."""

    embeddings: np.ndarray
    people: np.ndarray
    children: np.ndarray
    photos: int


def albums() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Name and rows of each album."""
    aside = sorted(set_aside.names("celeba_wild"))
    wild = settings.data_more_root() / "celeba_wild" / "train.parquet"
    columns = ["name", "image", "identity"]
    yield WILD, pq.read_table(wild, columns=columns, filters=[("name", "in", aside)]).to_pylist()
    yield SMALL, pq.read_table(settings.data_root() / "celeba" / "val.parquet", columns=columns).to_pylist()


def read(reader: mien.Reader, name: str, rows: list[dict[str, Any]]) -> Faces:
    """The largest face of each photo, from the cache where this network has read the album before."""
    stamp = f"{reader.model.sha256[:12]}-{reader.detector.model.sha256[:12]}-{len(rows)}"  # type: ignore[attr-defined]
    cached = settings.cache_root() / f"clustering-{name.partition(',')[0].replace('/', '-')}-{stamp}.npz"
    if not cached.is_file():
        found = []
        for row in rows:
            faces = reader.read(Image.open(io.BytesIO(row["image"])).convert("RGB"))
            if len(faces):
                found.append(
                    (faces[0]["identity"].embedding, str(row["identity"]), faces[0]["age"].years < CHILD)
                )
        vectors, people, children = zip(*found, strict=True)
        np.savez(cached, embeddings=np.stack(vectors), people=np.array(people), children=np.array(children))
    data = np.load(cached)
    return Faces(data["embeddings"], data["people"], data["children"], len(rows))


def _pairs(counts: np.ndarray) -> int:
    return int((counts * (counts - 1) // 2).sum())


def measured(labels: np.ndarray, people: np.ndarray) -> dict[str, Any]:
    """Pair precision, recall and F1, and the groups with more than one face and the single faces."""
    _, group_of = np.unique(labels, return_inverse=True)
    _, person_of = np.unique(people, return_inverse=True)
    table = np.zeros((group_of.max() + 1, person_of.max() + 1), np.int64)
    np.add.at(table, (group_of, person_of), 1)
    right, joined, same = _pairs(table), _pairs(table.sum(1)), _pairs(table.sum(0))
    sizes = table.sum(1)
    precision, recall = right / joined if joined else 1.0, right / same
    return {
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(2 * precision * recall / max(precision + recall, 1e-12), 4),
        "groups": int((sizes > 1).sum()),
        "single": int((sizes == 1).sum()),
    }


def curve(method: str, faces: Faces) -> list[dict[str, Any]]:
    """Of one linkage: a row per threshold."""
    e = faces.embeddings.astype(np.float64)
    distance = 1 - e @ e.T
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance.clip(0), checks=False), method)
    return [measured(fcluster(tree, 1 - threshold, "distance"), faces.people) for threshold in GRID]


def choose(curves: dict[str, list[dict[str, Any]]]) -> tuple[int, str]:
    """Place in GRID of the default, and the rule by which it was chosen."""

    def precise(names: tuple[str, ...]) -> list[int]:
        low = [k for k in range(len(GRID)) if any(curves[n][k]["precision"] < PRECISION for n in names)]
        return list(range(max(low, default=-1) + 1, len(GRID)))

    def mean(k: int, what: str, names: tuple[str, ...]) -> float:
        return float(np.mean([curves[n][k][what] for n in names]))

    both = tuple(curves)
    for names, minimum in ((both, USEFUL), ((WILD,), 0.0)):
        fit = [k for k in precise(names) if mean(k, "recall", names) >= minimum]
        if fit:
            best = max(fit, key=lambda k: mean(k, "f1", names))
            rule = f"best pair F1 with precision >= {PRECISION:g} on {' and '.join(names)}"
            if names != both:
                rule += f"; no threshold has that precision on {SMALL} too with a mean recall of {USEFUL:g}"
            return best, rule
    raise SystemExit(f"no threshold up to {GRID[-1]:g} has precision {PRECISION:g} on {WILD}")


def grouped(faces: Faces, threshold: float) -> Album:
    """The album as `mien cluster` groups it."""
    album = Album(MatchThreshold(threshold, None, "given"))
    album.rows = [
        {"path": str(i), "face": 1, "box": [], "photo": i, "child": bool(c)}
        for i, c in enumerate(faces.children)
    ]
    album._embeddings = list(faces.embeddings)
    album.solve()
    return album


def suggestions(faces: Faces, threshold: float) -> list[tuple[float, bool]]:
    """Similarity of each pair of groups from 0.6 on, best first, and whether both are mostly one person."""
    album = grouped(faces, threshold)
    people = np.array(faces.people)

    def person(rows: tuple[int, ...]) -> str:
        names, counts = np.unique(people[list(rows)], return_counts=True)
        return str(names[counts.argmax()])

    found = album.suggest_merges(minimum=float(GRID[0]), limit=None)
    return [(s.similarity, person(s.first) == person(s.second)) for s in found]


def suggest_from(faces: Faces, threshold: float) -> tuple[float, int, int]:
    """The lowest similarity with at least half of the suggestions right; how many, and how many are right."""
    found = suggestions(faces, threshold)
    right = np.cumsum([r for _, r in found])
    share = right / np.arange(1, len(found) + 1)
    good = np.flatnonzero(share >= HALF)
    if not len(good):
        return threshold, 0, 0
    last = int(good[-1])
    return float(np.floor(found[last][0] * 200) / 200), last + 1, int(right[last])


def lines(result: dict[str, Any]) -> Iterator[str]:
    """The page's table."""
    names = list(result["sets"])
    yield (
        f"The default threshold is **{result['threshold']:g}**: {result['rule']}. All numbers count pairs of"
        " photos."
    )
    yield ""
    heads = [f"{what}, {name.partition(',')[0]}" for name in names for what in ("precision", "recall", "F1")]
    yield f"| threshold | {' | '.join(heads)} |"
    yield "|---" * (1 + len(heads)) + "|"
    for row in result["curve"]:
        chosen = row["threshold"] == result["threshold"]
        if row["threshold"] in PRINTED or chosen:
            numbers = [f"{row[n][k]:.3f}" for n in names for k in ("precision", "recall", "f1")]
            threshold = f"**{row['threshold']:.3f}**" if chosen else f"{row['threshold']:.3f}"
            yield f"| {threshold} | {' | '.join(numbers)} |"
    yield ""
    for name, at in result["at_threshold"].items():
        about = result["sets"][name]
        yield (
            f"- {name} ({about['photos']:,} photos, {about['people']} people): {at['groups']} groups and"
            f" {at['single']} single faces."
        )
    s = result["suggested"]
    yield (
        f"- Merges are suggested from a similarity of {result['suggest']:g}: {s['pairs']} pairs of groups of"
        f" {names[0]}; {s['right']} of them are one person."
    )
    yield ""
    yield (
        f"{result['date']}; set aside with seed {result['set_aside_seed']}; the largest face that the"
        f" embedded detector finds. Command: `{result['command']}`."
    )


def stored(result: dict[str, Any]) -> str:
    """JSON with one line per row of the curve."""
    head = json.dumps({k: v for k, v in result.items() if k != "curve"}, indent=1)
    rows = ",\n  ".join(json.dumps(row) for row in result["curve"])
    return f'{head[:-2]},\n "curve": [\n  {rows}\n ]\n}}\n'


def result_of(model: str, faces: dict[str, Faces]) -> dict[str, Any]:
    """Curves, the choice, and what it does to both albums."""
    curves = {m: {name: curve(m, f) for name, f in faces.items()} for m in LINKAGES}
    place, rule = choose(curves["average"])
    others = {m: choose(curves[m])[0] for m in LINKAGES if m != "average"}
    threshold = float(GRID[place])
    suggest, count, right = suggest_from(faces[WILD], threshold)

    def row(method: str, k: int) -> dict[str, Any]:
        return {"threshold": float(GRID[k])} | {name: curves[method][name][k] for name in faces}

    return {
        "model": model,
        "task": "identity",
        "linkage": "average",
        "flip_tta": True,
        "threshold": threshold,
        "suggest": suggest,
        "rule": rule,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": "python -m bench.clustering",
        "sets": {
            name: {"photos": f.photos, "faces": len(f.people), "people": len(set(f.people.tolist()))}
            for name, f in faces.items()
        },
        "set_aside_seed": 1,
        "at_threshold": {
            name: measured(
                np.array(group(f.embeddings, threshold, margins=np.where(f.children, CHILD_MARGIN, 0))),
                f.people,
            )
            for name, f in faces.items()
        },
        "suggested": {"pairs": count, "right": right},
        "other_linkages": {m: row(m, k) for m, k in others.items()},
        "curve": [row("average", k) for k in range(len(GRID))],
    }


def main() -> None:
    """Measure, choose, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", help="FILE.onnx; without it the embedded network.")
    parser.add_argument("--out", type=Path, default=TABLE, help="FILE.json for the choice and the curve.")
    parser.add_argument("--page", type=Path, help="Page whose table is written anew.")
    args = parser.parse_args()
    reader = mien.load(args.weights, tasks=["identity", "age"], threads=1, flip_tta=True)
    faces = {name: read(reader, name, rows) for name, rows in albums()}
    result = result_of(reader.model.sha256, faces)  # type: ignore[attr-defined]
    args.out.write_text(stored(result), encoding="utf-8")
    text = "\n".join(lines(result))
    print(text)
    if args.page:
        page = args.page.read_text(encoding="utf-8")
        head, _, rest = page.partition(BEGIN)
        _, _, tail = rest.partition(END)
        args.page.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
