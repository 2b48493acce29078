"""Install the others, measure all, write bench/results/peers.json and the page.

    python -m bench.peers [--rounds 30] [--limit N] [--threads 2] [--date 2026-11-24] \\
        [--peers mien human] [--only install speed accuracy page]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.peers import accuracy, speed
from bench.peers.install import ROOT, Environment, InstallFailed, install
from bench.peers.page import PAGE, fill, section
from bench.peers.roster import PEERS, Peer, chosen
from mien.diagnostics.benchmark import surroundings
from mien.inference.provenance import WEIGHTS, provenance_of

FOUND = Path("bench/results/peers.json")
STEPS = ("install", "speed", "accuracy", "page")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--rounds", type=int, default=30, help="of every tool, job and picture")
    p.add_argument("--limit", type=int, help="pictures (pairs, for verification) a set; all when not given")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    p.add_argument(
        "--peers",
        nargs="+",
        metavar="NAME",
        help=f"these alone, also in the result: {', '.join(q.name for q in PEERS)}",
    )
    p.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS))
    return p


def installed(peers: Sequence[Peer], found: dict[str, Any], install: Any = install) -> list[Peer]:
    """Those whose environment is there now; of the others, the reason goes into `found`."""
    failed, done = dict[Environment, str](), list[Peer]()
    reasons = found.setdefault("not_installed", {})
    for p in peers:
        reasons.pop(p.name, None)
        if p.environment not in failed:
            try:
                install(p.environment)
                done.append(p)
                continue
            except InstallFailed as e:
                failed[p.environment] = str(e)
        reasons[p.name] = f"not installed: {failed[p.environment]}"
        print(f"{p.name}: {reasons[p.name]}", file=sys.stderr)
    return done


def main(words: Sequence[str] | None = None) -> None:
    """The steps in turn; what was measured before and is not measured now stays."""
    given = parser().parse_args(words)
    command = " ".join(["python -m bench.peers", *(sys.argv[1:] if words is None else words)])
    found: dict[str, Any] = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.is_file() else {}
    peers = installed(chosen(given.peers), found)

    def facts() -> dict[str, Any]:
        network = provenance_of(WEIGHTS / "mien.onnx")["sha256"][:12]
        return {
            "date": given.date,
            "machine": surroundings(),
            "command": command,
            "threads": given.threads,
            "network": network,
        }

    def keep(stage: str, result: dict[str, Any]) -> None:
        found[stage] = result
        FOUND.write_text(json.dumps(rounded(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    if "speed" in given.only:
        before = facts()  # the load without us
        keep(
            "speed",
            before
            | {"rounds": given.rounds, "peers": speed.measure(peers, given.rounds, given.threads, ROOT)},
        )
    if "accuracy" in given.only:
        before = facts()
        for sets in accuracy.measure(
            peers, given.limit, given.threads, ROOT
        ):  # an hour or more: what is done is kept
            keep("accuracy", before | {"limit": given.limit, "sets": sets})
    if "page" in given.only:
        # from the numbers that are kept, so that the page can be made again from them
        PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), section(rounded(found))), encoding="utf-8")
        print(f"wrote {PAGE}")


def rounded(value: Any) -> Any:
    """Numbers to four places, all the way down."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
