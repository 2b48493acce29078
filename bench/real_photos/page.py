"""docs/real-photos.md, from the results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

COMMAND = "python -m bench.real_photos"


def cell(v: dict[str, Any], unit: str = "") -> str:
    """A number with its interval: `87.5 [86.5, 88.4]`."""
    return f"{v['value']:.1f}{unit} [{v['low']:.1f}, {v['high']:.1f}]"


def table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(r)} |" for r in rows)
    yield ""


def page(r: dict[str, Any], date: str) -> str:
    """The page as text."""
    return "\n".join(_lines(r, date)).rstrip() + "\n"


def _lines(r: dict[str, Any], date: str) -> Iterator[str]:
    face, detector = (r["networks"][k][:12] for k in ("face", "detector"))
    yield "# Answers on whole photos"
    yield ""
    yield "```bash"
    yield f"{COMMAND}      # measure and write this page; do not edit it by hand"
    yield "```"
    yield ""
    yield (
        f"Weights `{face}`, detector `{detector}`, {date}, seed 1. Every picture goes through our own detector; with several faces, the"
        " labels are those of the one nearest to the center, in units of its size. No training saw these pictures. Brackets: 95 %"
        " bootstrap intervals over pictures. Numbers cover the faces that were found."
    )
    yield ""
    yield "## Age and gender"
    yield ""
    f, u, a = r["fairface"], r["utkface"], r["aaf"]
    yield from table(
        ["set", "found, %", "gender, %", "age"],
        [
            [
                f"FairFace, {f['gender']['n']:,} of its training part",
                cell(f["found"]),
                cell(f["gender"]),
                f"class {cell(f['age class'])} %, within one {cell(f['age within one class'])} %",
            ],
            *(
                [
                    f"{name}, {v['gender']['n']:,}",
                    cell(v["found"]),
                    cell(v["gender"]),
                    f"MAE {v['age']['value']:.2f} [{v['age']['low']:.2f}, {v['age']['high']:.2f}] years",
                ]
                for name, v in (("UTKFace val, tight crops", u), ("All-Age-Faces val", a))
            ),
        ],
    )
    yield from table(
        ["FairFace, race as labeled", "n", "gender, %", "age class, %"],
        [
            [race, f"{v['n']:,}", cell(v), cell(f["age class by race"][race])]
            for race, v in f["gender by race"].items()
        ],
    )
    groups = list(u["age by group"])
    yield from table(
        ["age MAE, years", *groups],
        [
            [
                name,
                *(f"{v['age by group'][g]['value']:.1f}" if g in v["age by group"] else "" for g in groups),
            ]
            for name, v in (("UTKFace val", u), ("All-Age-Faces val", a))
        ],
    )
    yield (
        f"The 80 % interval holds the label of {cell(u['interval 80%'])} % (UTKFace) and {cell(a['interval 80%'])} % (All-Age-Faces) of the"
        f" faces; a 90 % interval would hold {cell(u['interval 90%'])} and {cell(a['interval 90%'])} %. On FairFace, the likeliest age"
        f" class has an expected calibration error of {f['expected calibration error of the likeliest class, %']:.1f} %."
    )
    yield ""
    yield "## Attributes, and answers that contradict each other"
    yield ""
    w, c = r["celeba_wild"], r["consistency"]
    yield (
        f"CelebA, {w['attributes']['n']} whole photos of 25 people that no training saw: {cell(w['attributes'])} % of 40 attributes right,"
        f" {cell(w['found'])} % found. Per 1,000 of {c['faces']:,} faces (CelebA, All-Age-Faces, FairFace):"
    )
    yield ""
    yield from table(["contradiction", "per 1,000"], [[k, f"{v:.1f}"] for k, v in c.items() if k != "faces"])
    yield "## Identity by group"
    yield ""
    m = r["false matches"]
    yield (
        f"Pairs of different people that match at the threshold of `mien verify` ({m['threshold']}: 1 % on LFW View 1), both in one group."
        " UTKFace has no names: a few of its pairs may be one person."
    )
    yield ""
    yield from table(
        ["set, group", "pairs", "false matches, %"],
        [
            [f"{s}, {g}", f"{v['pairs']:,}", f"{v['value']:.2f}"]
            for s in ("FairFace", "UTKFace")
            for g, v in m[s].items()
        ],
    )
    yield "## Stability"
    yield ""
    s = r["stability"]
    yield (
        f"{s['photos']} photos (100 of those CelebA people, 100 of photos val), {s['changes']} small changes each (shift up to 3 px, size"
        " ± 5 %, JPEG quality 60 to 95, brightness ± 10 %), detection included: ages spread with a standard deviation of"
        f" {s['standard deviation of age, years']:.2f} years (mean over photos), {s['gender flips, %']:.2f} % of the genders flip,"
        f" {s['faces not found again, %']:.2f} % of the faces are not found again."
    )
    yield ""
    if "london" in r:
        yield "## Studio portraits"
        yield ""
        d = r["london"]
        yield (
            f"Face Research Lab London Set (CC BY 4.0), test only, `{COMMAND} --london`: gender {cell(d['gender'])} % of"
            f" {d['gender']['n']}, age MAE {d['age']['value']:.2f} [{d['age']['low']:.2f}, {d['age']['high']:.2f}] years"
            f" ({d['age']['n']} with a known age), expression {cell(d['expression'])} % of {d['expression']['n']} (smiling:"
            f" {cell(d['expression, smiling'])} %)."
        )
        yield ""
