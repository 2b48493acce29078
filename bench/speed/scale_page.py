"""The tables of docs/scale.md, docs/scale.svg and bench/results/full_size_trainings.csv, from
bench/results/scale.json.

Missing measurements are marked as such.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE, PICTURE = Path("docs/scale.md"), Path("docs/scale.svg")
TRAININGS = Path("bench/results/full_size_trainings.csv")
NONE = "not measured yet"
GPU = 100e12  # floating-point operations per second that one GPU sustains: an assumption, stated on the page
TRAINED = 3 * 2  # operations per multiply-add: forward, and backward, which costs twice as much
Known = dict[str, dict[str, dict[str, Any]]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; without rows, a line that says so."""
    lines = [head, ["---"] * len(head), *rows] if rows else []
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) or f"{NONE[0].upper()}{NONE[1:]}."


def _n(value: Any, form: str = ",.1f", unit: str = "") -> str:
    return NONE if value is None else f"{value:{form}}{unit}"


def _when(rows: Sequence[dict[str, Any]]) -> str:
    days, loads = sorted({r["date"] for r in rows}), [r["load"] for r in rows]
    return (
        f"\n\n{', '.join(days)}, {rows[0]['cores']} cores, load average up to {max(loads):g}." if rows else ""
    )


def reading(known: Known) -> str:
    """Photos."""
    rows = sorted(known.get("read", {}).values(), key=lambda r: (r["size"], r["workers"]))
    cells = [
        [f"{r['size']:,}", str(r["workers"]), _n(r["photos_per_s"]), _n(r["steady_photos_per_s"]),
         _n(r["cpu_s_per_photo"], ".3f"), _n(r["driver_peak_mb"], ",.0f"), _n(r["worker_peak_mb"], ",.0f")]
        for r in rows
    ]  # fmt: skip
    head = ["photos", "workers", "photos/s with start", "photos/s, steady", "CPU s per photo", "driver, MB",
            "worker, MB"]  # fmt: skip
    return table(head, cells) + _when(rows)


def training(known: Known) -> str:
    """Ranks."""
    rows = sorted(known.get("train", {}).values(), key=lambda r: r["ranks"])
    cells = [
        [
            str(r["ranks"]),
            _n(r["images_per_s"]) if r["images_per_s"] else f"failed: {r['failed']}".replace("|", "/"),
        ]
        for r in rows
    ]
    return table(["ranks, one thread each", "pictures/s"], cells) + _when(rows)


def people(known: Known) -> str:
    """Galleries."""
    rows = sorted(known.get("people", {}).values(), key=lambda r: r["size"])
    cells = [
        [f"{r['size']:,}", _n(r["faces_per_s"], ",.0f"), _n(1e3 * r["cpu_s_per_face"], ".3f"), _n(r["right"],
        ".4f"),
         _n(r["lancedb_faces_per_s"])]
        for r in rows
    ]  # fmt: skip
    head = [
        "people in the gallery",
        "faces/s, table",
        "CPU ms per face, table",
        "found",
        "faces/s, one by one",
    ]
    return table(head, cells) + _when(rows)


def papers(known: Known) -> str:
    """Full-size trainings, from multiply-adds, as CSV."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    head = ("recipe", "parameters_m", "macs_per_picture_g", "pictures_m", "operations_1e18", "gpu_hours")
    rows.writerow(head)
    for name, r in known.get("papers", {}).items():
        work = TRAINED * r["steps"] * sum(v["macs"] * v["pictures"] for v in r["views"])
        views = "; ".join(f"{v['macs'] / 1e9:.1f} at {v['side']} px" for v in r["views"])
        seen = r["steps"] * sum(v["pictures"] for v in r["views"])
        rows.writerow(
            (
                name,
                f"{r['parameters'] / 1e6:.0f}",
                views,
                f"{seen / 1e6:.1f}",
                f"{work / 1e18:.1f}",
                f"{work / GPU / 3600:.1f}",
            )
        )
    return text.getvalue()


def plan(known: Known) -> str:
    """A million and a billion photos, from the largest measurement with the fewest workers."""
    rows = sorted(known.get("read", {}).values(), key=lambda r: (-r["size"], r["workers"]))
    if not rows:
        return table([], [])
    r = rows[0]
    faces, cells = r["faces"] / r["photos"], []
    for what, of in (
        ("CPU-hours", lambda n: f"{n * r['cpu_s_per_photo'] / 3600:,.0f}"),
        ("rows", lambda n: f"{n * faces:,.0f}"),
        ("Parquet written, GB", lambda n: f"{n * faces * r['bytes_per_face'] / 1e9:,.1f}"),
        ("photos read at 3 MB each, TB", lambda n: f"{n * 3e6 / 1e12:,.0f}"),
        ("network to read them in one day, Gbit/s", lambda n: f"{n * 3e6 * 8 / 86400 / 1e9:,.2f}"),
    ):
        cells.append([what, of(10**6), of(10**9)])
    cpu = f"{r['cpu_s_per_photo']:.3f} CPU s per photo"
    by = f"{r['workers']} worker{'s' * (r['workers'] > 1)}"
    made = f"From {r['size']:,} photos of {r['bytes_per_photo']:,.0f} bytes, {by}: {cpu}."
    small = (
        " **Too few photos: the start takes most of the time. Do not plan with these numbers.**"
        if r["size"] < 1000
        else ""
    )
    return f"{made}{small}\n\n" + table(["", "1 million photos", "1 billion photos"], cells)


def chart(title: str, left: int, lines: dict[str, list[tuple[float, float]]]) -> str:
    """Points joined by lines on 300 x 200, x by its rank, y from 0."""
    xs = sorted({x for points in lines.values() for x, _ in points})
    top = max([y for points in lines.values() for _, y in points], default=1) * 1.1 or 1
    at = {x: left + 50 + 220 * (i + 0.5) / max(len(xs), 1) for i, x in enumerate(xs)}
    out = [
        f'<text x="{left + 50}" y="18" font-weight="bold">{title}</text>',
        f'<path d="M{left + 50} 30V170H{left + 280}" fill="none" stroke="#888"/>',
    ]
    out += [f'<text x="{at[x]:.0f}" y="186" text-anchor="middle">{x:,.0f}</text>' for x in xs]
    out += [
        f'<text x="{left + 45}" y="{170 - 140 * f:.0f}" text-anchor="end">{top * f:,.3g}</text>'
        for f in (0, 0.5, 1)
    ]
    for (name, points), color in zip(
        lines.items(), ("#2563eb", "#c2410c", "#15803d", "#7e22ce"), strict=False
    ):
        dots = [(at[x], 170 - 140 * y / top) for x, y in sorted(points)]
        out.append(
            f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in dots)}" fill="none" stroke="{color}"'
            ' stroke-width="2"/>'
        )
        out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in dots]
        if dots:
            out.append(
                f'<text x="{dots[-1][0]:.0f}" y="{dots[-1][1] - 7:.0f}" fill="{color}"'
                f' text-anchor="middle">{name}</text>'
            )
    return "\n".join(out)


def picture(known: Known) -> str:
    """Two charts: photos per second by number, and faces per second by gallery."""
    speeds: dict[str, list[tuple[float, float]]] = {}
    for r in known.get("read", {}).values():
        speeds.setdefault(f"{r['workers']} worker{'s' * (r['workers'] > 1)}", []).append(
            (r["size"], r["photos_per_s"])
        )
    found = {"table": [(r["size"], r["faces_per_s"]) for r in known.get("people", {}).values()]}
    both = chart("photos/s by photos", 0, speeds) + "\n" + chart("faces/s by people", 320, found)
    head = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 200" font-family="sans-serif"'
        ' font-size="11" fill="#666">'
    )
    return f"{head}\n{both}\n</svg>\n"


def write(known: Known) -> None:
    """Write everything between the page's marks."""
    text = PAGE.read_text(encoding="utf-8")
    for name, made in (
        ("reading", reading),
        ("training", training),
        ("people", people),
        ("plan", plan),
    ):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"{PAGE} has no {begin} ... {end}"
        text = f"{before}{begin}\n\n{made(known)}\n\n{end}{after}"
    PAGE.write_text(text, encoding="utf-8")
    TRAININGS.write_text(papers(known), encoding="utf-8")
    PICTURE.write_text(picture(known), encoding="utf-8")
