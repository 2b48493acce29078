"""docs/peers-benchmark.md, generated from bench/results/peers.json: no number is copied by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.peers.accuracy import SITTINGS, WAYS
from bench.peers.roster import ALL, BLANKS, JOBS, MARKS, PEERS, Peer
from bench.peers.speed import STAGES

PAGE = Path("docs/peers-benchmark.md")
BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"

# set -> its name where detectors are compared
FACES = {
    "mtfl": "MTFL test",
    "helen68": "Helen val",
    "utkface": "UTKFace val",
    "ferplus": "FER+ test",
    "lfw": "LFW View 1",
}
# protocol -> (what is measured, in which unit)
TITLES: dict[str, tuple[str, str]] = {
    "mtfl": ("5 points, MTFL test (AFLW), 150 px", "NME by eye distance, %, lower is better"),
    "helen68": ("68 points, Helen val, 224 px", "NME by outer eye corners, %, lower is better"),
    "utkface-age": ("Age, UTKFace val, 112 px tight crops", "MAE, years, lower is better"),
    "utkface-gender": ("Perceived gender, UTKFace val, 112 px tight crops", "accuracy, %"),
    "ferplus-test": ("Expression, FER+ test, majority labels, 48 px gray", "accuracy, %"),
    "lfw": ("Verification, LFW View 1 pairs, 160 px, 10 folds", "accuracy, %"),
}
NOTES = {
    "mtfl": "Other point sets are mapped to five: mean of six eyelid points, nose tip, mouth corners.",
    "helen68": (
        "The mesh is mapped by `bench/peers/maps.py`; part of its error is another definition of the jaw."
        " human truncates coordinates to integers. The stored labels are about one pixel to the right of"
        " where all tools see the points, and to the left on flipped pictures (60 training pictures)."
    ),
    "ferplus-test": "human and face-api have seven expressions, without contempt.",
    "lfw": (
        "Euclidean distance; the threshold is the best of the other nine folds. Pairs count if both faces"
        " were found."
    ),
}


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))


def fill(page: str, text: str) -> str:
    """The page with the text between its marks replaced.

    Raises:
        ValueError: a mark is missing.
    """
    if BEGIN not in page or END not in page:
        raise ValueError(f"the page has no {BEGIN} and {END}; put them back where the numbers belong")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}"


def section(found: Mapping[str, Any]) -> str:
    """What was measured: bench/results/peers.json as Markdown."""
    parts = ["### Machine\n", *stages(found)]
    if "speed" in found:
        parts += [
            "\n### Single tasks\n",
            *like_for_like(found["speed"]),
            "\n### All predictions\n",
            *whole(found["speed"]),
        ]
    if "accuracy" in found:
        parts += [
            "\n### Accuracy\n",
            *accuracy(found["accuracy"]),
            "\n### Detection\n",
            *faces_found(found["accuracy"]),
        ]
    return "\n".join([*parts, "\n### Not measured\n", *blanks(found)])


def stages(found: Mapping[str, Any]) -> Iterator[str]:
    """Machine, load, date and command of each part."""
    for stage, what in (("speed", "Speed"), ("accuracy", "Accuracy")):
        if stage not in found:
            yield f"- {what}: not measured yet."
            continue
        f, m = found[stage], found[stage]["machine"]
        load, cores = m.get("load") or [], m.get("cores", 1)
        busy = (
            ". **The machine was busy with other work**: compare only rows of this page"
            if load and load[0] > 0.5 * cores
            else ""
        )
        cut = f"; at most {f['limit']:,} pictures (or pairs) per set, fixed seed" if f.get("limit") else ""
        mine = f"; mien's network {f['network']}" if "network" in f else ""
        yield (
            f"- {what}: {f['date']}, {m.get('cpu') or 'processor unknown'}, {cores} cores, load before"
            f" {' '.join(map(str, load)) or 'unknown'}{busy if stage == 'speed' else ''}; {f['threads']}"
            f" threads per tool{cut}{mine}. `{f['command']}`"
        )


def _present(rows: Mapping[str, Any]) -> list[Peer]:
    return [p for p in PEERS if "reason" not in rows.get(p.name, {"reason": ""})]


def _times(cell: Mapping[str, float]) -> str:
    return (
        f"{cell['p50']:,.0f} / {cell['p95']:,.0f} ({cell['found']:.0f})"
        if cell["p50"] >= 10
        else (f"{cell['p50']:.1f} / {cell['p95']:.1f} ({cell['found']:.0f})")
    )


def like_for_like(speed: Mapping[str, Any]) -> Iterator[str]:
    """One table per job, with the tools that can do it."""
    rows = speed["peers"]
    yield f"Milliseconds, p50 / p95 of {speed['rounds']} rounds, and (faces found, median).\n"
    head = (
        "tool",
        *(f"{n} face{'s' * (n > 1)}, {STAGES[n][0]}x{STAGES[n][1]}" for n in STAGES),
        "CPU ms, 5 faces",
    )
    for job, said in JOBS.items():
        if job == ALL:
            continue
        body = [
            [
                p.title,
                *(_times(rows[p.name]["jobs"][job][str(n)]) for n in STAGES),
                f"{rows[p.name]['jobs'][job]['5']['cpu']:,.0f}",
            ]
            for p in _present(rows)
            if job in rows[p.name]["jobs"]
        ]
        yield f"\n**{said[0].upper() + said[1:]}**\n"
        yield table(head, body)


def whole(speed: Mapping[str, Any]) -> Iterator[str]:
    """One table: all predictions of each tool, with memory, start and size."""
    rows = speed["peers"]
    yield "The same for all predictions of a tool. Start: minimum of 3.\n"
    head = (
        "tool",
        "versions",
        "predictions",
        *(f"{n} face{'s' * (n > 1)}" for n in STAGES),
        "CPU ms, 5 faces",
        "memory, MB (peak)",
        "start, ms",
        "weights, MB",
    )
    body = []
    for p in _present(rows):
        row, memory = rows[p.name], rows[p.name].get("memory_mb") or {}
        body.append([
            p.title, ", ".join(f"{k} {v}" for k, v in row["versions"].items()), p.answers,
            *(_times(row["jobs"][ALL][str(n)]) for n in STAGES), f"{row['jobs'][ALL]['5']['cpu']:,.0f}",
            f"{memory['now']:.0f} ({memory['peak']:.0f})" if memory else "unknown",
            f"{row['start_ms']:,.0f}",
            f"{sum(row['weights'].values()) / 1e6:.1f}",
        ])  # fmt: skip
    yield table(head, body)


def accuracy(found: Mapping[str, Any]) -> Iterator[str]:
    """One table per protocol."""
    used = set[str]()
    yield (
        "*Stored*: the picture of the set. *Framed*: the same, enlarged to at least 224 px, inside a gray"
        " border that doubles its size. `±`: half of the 95 % interval. *Common*: the framed pictures with"
        " predictions of all tools in the table, because a tool that finds only easy faces has fewer"
        " errors.\n"
    )
    for sitting in SITTINGS:
        if sitting.name not in found["sets"]:
            continue
        for protocol in sitting.protocols:
            yield from one_protocol(protocol, found["sets"][sitting.name], used)
    yield ""
    yield from (f"{mark} {MARKS[mark]}  " for mark in MARKS if mark in used)


def one_protocol(protocol: str, result: Mapping[str, Any], used: set[str]) -> Iterator[str]:
    """Its table; the marks in it are added to `used`."""
    (title, unit), asked = TITLES[protocol], result["asked"][protocol]
    stored, framed = result["shown"]["stored"], result["shown"]["framed"]
    body, common = [], 0
    for p in _present(framed):
        if protocol not in framed[p.name]["scores"]:
            continue
        a, b, marks = (
            stored[p.name]["scores"][protocol],
            framed[p.name]["scores"][protocol],
            p.marks.get(protocol, ""),
        )
        used.update(marks)
        common = int(b.get("common_answered", 0))
        body.append([
            p.title, _share(a["answered"], asked), _value(a, "", marks), _share(b["answered"], asked),
            _value(b, "", marks),
            _value(b, "common_", marks),
        ])  # fmt: skip
    yield f"\n**{title}: {unit}**; {asked:,} {'pairs' if protocol == 'lfw' else 'pictures'}\n"
    yield table(
        (
            "tool",
            "stored: predicted, %",
            "stored",
            "framed: predicted, %",
            "framed",
            f"framed, common ({common:,})",
        ),
        body,
    )
    if protocol in NOTES:
        yield f"\n{NOTES[protocol]}"


def _share(n: int, of: int) -> str:
    return f"{100 * n / of:.1f}" if of else "0"


def _value(scores: Mapping[str, float], prefix: str, marks: str) -> str:
    if f"{prefix}value" not in scores:
        return "too few"
    return f"{scores[f'{prefix}value']:.2f} ± {scores[f'{prefix}half']:.2f}{' ' + marks if marks else ''}"


def faces_found(found: Mapping[str, Any]) -> Iterator[str]:
    """One table: the share of pictures whose labeled face each detector found."""
    yield (
        "Pictures in which a box contains the center of the labeled face, %; each tool's own detector and"
        " threshold. Most stored pictures are small and tightly cropped, unlike the photos that many"
        " detectors are made for.\n"
    )
    sets = [(s, found["sets"][s.name]) for s in SITTINGS if s.name in found["sets"]]
    head = ("tool", *(f"{FACES[s.name]} ({r['pictures']:,}), {way}" for s, r in sets for way in WAYS))
    body = []
    for p in PEERS:
        cells = [(r["shown"][way].get(p.name, {}), r["pictures"]) for _, r in sets for way in WAYS]
        if any("found" in cell for cell, _ in cells):
            body.append(
                [
                    p.title,
                    *(f"{100 * cell['found'] / n:.1f}" if "found" in cell else "failed" for cell, n in cells),
                ]
            )
    yield table(head, body)


def blanks(found: Mapping[str, Any]) -> Iterator[str]:
    """The tools that are not in the tables, with reasons."""
    reasons = dict[str, str]()
    for p in PEERS:
        told = [found.get("not_installed", {}).get(p.name)]
        told += [found.get("speed", {}).get("peers", {}).get(p.name, {}).get("reason")]
        told += [
            rows.get(p.name, {}).get("reason")
            for s in found.get("accuracy", {}).get("sets", {}).values()
            for rows in s["shown"].values()
        ]
        if said := next((t for t in told if t), None):
            reasons[p.title] = said
    yield table(
        ("tool", "reason"),
        [[name, why.replace("|", "/")] for name, why in (reasons | BLANKS).items()],
    )
