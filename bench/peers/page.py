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
# protocol -> (head of its column, what is measured)
TITLES: dict[str, tuple[str, str]] = {
    "mtfl": (
        "5 points",
        "MTFL test (AFLW), 150 px. NME by eye distance, %; lower is better. Other point sets are mapped to"
        " five: mean of six eyelid points, nose tip, mouth corners",
    ),
    "helen68": (
        "68 points",
        "Helen val, 224 px. NME by outer eye corners, %; lower is better. `bench/peers/maps.py` maps the"
        " mesh; part of its error is another definition of the jaw. human truncates coordinates to integers",
    ),
    "utkface-age": ("age", "UTKFace val, 112 px tight crops. MAE, years; lower is better"),
    "utkface-gender": ("gender", "the same pictures. Accuracy of the perceived gender, %"),
    "ferplus-test": (
        "expression",
        "FER+ test, majority labels, 48 px gray. Accuracy, %. human and face-api have seven expressions,"
        " without contempt",
    ),
    "lfw": (
        "verification",
        "LFW View 1, 160 px. Accuracy, %, of ten folds; the threshold is the best of the other nine."
        " Euclidean distance. A pair counts if both faces were found",
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
            *speed_lines(found["speed"]),
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
        network = f"; mien's network {f['network']}" if "network" in f else ""
        yield (
            f"- {what}: {f['date']}, {m.get('cpu') or 'processor unknown'}, {cores} cores, load before"
            f" {' '.join(map(str, load)) or 'unknown'}{busy if stage == 'speed' else ''}; {f['threads']}"
            f" threads per tool{cut}{network}. `{f['command']}`"
        )


def _present(rows: Mapping[str, Any]) -> list[Peer]:
    return [p for p in PEERS if "reason" not in rows.get(p.name, {"reason": ""})]


def _times(cell: Mapping[str, float]) -> str:
    digits = 0 if cell["p50"] >= 10 else 1
    return f"{cell['p50']:,.{digits}f} / {cell['p95']:,.{digits}f} ({cell['found']:.0f})"


def like_for_like(speed: Mapping[str, Any]) -> Iterator[str]:
    """One table: the time of each tool for each job on the picture with five faces."""
    rows, shown = speed["peers"], [job for job in JOBS if job != ALL]
    w, h = STAGES[5][:2]
    yield (
        f"Five faces, {w}x{h}: milliseconds, p50 of {speed['rounds']} rounds, and (faces found, median). An"
        " empty cell: the tool does not predict this.\n"
    )

    def cell(jobs: Mapping[str, Any], job: str) -> str:
        return f"{_ms(jobs[job]['5']['p50'])} ({jobs[job]['5']['found']:.0f})" if job in jobs else ""

    yield table(
        ("tool", *(JOBS[job] for job in shown)),
        [[p.title, *(cell(rows[p.name]["jobs"], job) for job in shown)] for p in _present(rows)],
    )


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def speed_lines(speed: Mapping[str, Any]) -> Iterator[str]:
    """What each tool predicts in its common use, and one table: time, memory, start and size."""
    rows = speed["peers"]
    for p in _present(rows):
        versions = ", ".join(f"{k} {v}" for k, v in rows[p.name]["versions"].items())
        yield f"- **{p.title}** ({versions}): {p.answers}."
    yield (
        "\nMilliseconds, p50 / p95, and (faces found, median). CPU ms: five faces, all threads. Start:"
        " minimum of 3.\n"
    )
    head = (
        "tool",
        *(f"{n} face{'s' * (n > 1)}, {STAGES[n][0]}x{STAGES[n][1]}" for n in STAGES),
        "CPU ms",
        "memory, MB (peak)",
        "start, ms",
        "weights, MB",
    )
    body = []
    for p in _present(rows):
        row, memory = rows[p.name], rows[p.name].get("memory_mb") or {}
        body.append([
            p.title, *(_times(row["jobs"][ALL][str(n)]) for n in STAGES),
            f"{row['jobs'][ALL]['5']['cpu']:,.0f}",
            f"{memory['now']:.0f} ({memory['peak']:.0f})" if memory else "unknown",
            f"{row['start_ms']:,.0f}",
            f"{sum(row['weights'].values()) / 1e6:.1f}",
        ])  # fmt: skip
    yield table(head, body)


def accuracy(found: Mapping[str, Any]) -> Iterator[str]:
    """What each protocol measures, and two tables with one column per protocol."""
    results = {p: found["sets"][s.name] for s in SITTINGS if s.name in found["sets"] for p in s.protocols}
    yield (
        "Each picture is *framed*: enlarged to at least 224 px, inside a gray border that doubles its size."
        " Results on stored pictures: `bench/results/peers.json`.\n"
    )
    for protocol, result in results.items():
        n = result["asked"][protocol]
        title, what = TITLES[protocol]
        yield f"- *{title}*: {what}. {n:,} {'pairs' if protocol == 'lfw' else 'pictures'}."
    yield (
        "\nValue ± half of its 95 % interval, and in parentheses the percentage of pictures with a"
        " prediction:\n"
    )
    yield scores(results, "")
    common = ", ".join(f"{TITLES[p][0]} {_common(r, p):,}" for p, r in results.items())
    yield (
        "\nA tool that finds only easy faces has fewer errors. This table covers the pictures with"
        f" predictions of all tools in the column ({common}):\n"
    )
    yield scores(results, "common_")
    yield ""
    used = "".join(
        p.marks.get(protocol, "")
        for protocol, r in results.items()
        for p in _present(r["shown"]["framed"])
        if protocol in r["shown"]["framed"][p.name]["scores"]
    )
    yield from (f"{mark} {MARKS[mark]}  " for mark in MARKS if mark in used)


def _common(result: Mapping[str, Any], protocol: str) -> int:
    rows = result["shown"]["framed"].values()
    counts = [r["scores"][protocol] for r in rows if protocol in r.get("scores", {})]
    return max((int(c.get("common_answered", 0)) for c in counts), default=0)


def scores(results: Mapping[str, Mapping[str, Any]], prefix: str) -> str:
    """One row per tool with a score, one column per protocol.

    Args:
        results: protocol -> its set.
        prefix: "common_" for the common pictures only.
    """
    body = []
    for p in PEERS:
        cells = []
        for protocol, result in results.items():
            found = result["shown"]["framed"].get(p.name, {}).get("scores", {}).get(protocol)
            if found is None:
                cells.append("")
                continue
            share = "" if prefix else f" ({_share(found['answered'], result['asked'][protocol])})"
            cells.append(_value(found, prefix, p.marks.get(protocol, "")) + share)
        if any(cells):
            body.append([p.title, *cells])
    return table(("tool", *(TITLES[p][0] for p in results)), body)


def _share(n: int, of: int) -> str:
    return f"{100 * n / of:.1f}" if of else "0"


def _value(scores: Mapping[str, float], prefix: str, marks: str) -> str:
    if f"{prefix}value" not in scores:
        return "too few"
    return f"{scores[f'{prefix}value']:.2f} ± {scores[f'{prefix}half']:.2f}{' ' + marks if marks else ''}"


def faces_found(found: Mapping[str, Any]) -> Iterator[str]:
    """One table: the share of pictures whose labeled face each detector found."""
    sets = [(s, found["sets"][s.name]) for s in SITTINGS if s.name in found["sets"]]
    counts = ", ".join(f"{FACES[s.name]} {r['pictures']:,}" for s, r in sets)
    yield (
        "Pictures in which a box contains the center of the labeled face, %, as stored / framed. Pictures:"
        f" {counts}.\n"
    )
    body = []
    for p in PEERS:
        cells = [[(r["shown"][way].get(p.name, {}), r["pictures"]) for way in WAYS] for _, r in sets]
        if any("found" in row for ways in cells for row, _ in ways):
            body.append([p.title, *(" / ".join(_found(row, n) for row, n in ways) for ways in cells)])
    yield table(("tool", *(FACES[s.name] for s, _ in sets)), body)


def _found(row: Mapping[str, Any], n: int) -> str:
    return f"{100 * row['found'] / n:.1f}" if "found" in row else "failed"


def blanks(found: Mapping[str, Any]) -> Iterator[str]:
    """The tools that are not in the tables, with reasons."""
    reasons = dict[str, str]()
    for p in PEERS:
        candidates = [found.get("not_installed", {}).get(p.name)]
        candidates += [found.get("speed", {}).get("peers", {}).get(p.name, {}).get("reason")]
        candidates += [
            rows.get(p.name, {}).get("reason")
            for s in found.get("accuracy", {}).get("sets", {}).values()
            for rows in s["shown"].values()
        ]
        if reason := next((t for t in candidates if t), None):
            reasons[p.title] = reason
    by_reason: dict[str, list[str]] = {}
    for name, why in (reasons | BLANKS).items():
        by_reason.setdefault(why, []).append(name)
    yield from (f"- {', '.join(names)}: {why}." for why, names in by_reason.items())
