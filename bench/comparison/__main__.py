"""Train every system and every ablation on the data pack, score them, and write docs/comparison.md and
bench/results/ablations.csv.

python -m bench.comparison               # everything: about ten hours on two cores; resumes where it stopped
python -m bench.comparison train faceptor far_amtn
python -m bench.comparison cost                # parameters, speeds: needs an idle machine
python -m bench.comparison page
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.comparison.guess import score_guess
from bench.comparison.page import GUESS, ablation_numbers, page
from bench.comparison.runs import SINGLE, SYSTEMS, every_run, protocols_of
from bench.comparison.work import cost, curve, score, train_all

KEPT = Path("bench/results/comparison.json")  # every number
ABLATED = Path("bench/results/ablations.csv")
PAGE = Path("docs/comparison.md")


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.comparison", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("all", "train", "score", "cost", "page"), default="all")
    parser.add_argument("names", nargs="*", help="runs; all if none is named")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"))
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    names = arguments.names or list(every_run())
    if unknown := [n for n in names if n not in every_run()]:
        parser.error(f"no run {unknown[0]!r}; there are: {', '.join(every_run())}")
    if arguments.what in ("all", "train"):
        train_all(names, arguments.out, arguments.workers)
    shown = {r.name for r in (*SYSTEMS, *SINGLE) if r.answers}
    trained = [
        n for n in every_run() if (n in shown or protocols_of(n)) and (arguments.out / n / "done").exists()
    ]
    results = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}
    if arguments.what in ("all", "score"):
        if GUESS not in results:
            results[GUESS] = {"scores": score_guess()}
        for name in trained:
            results.setdefault(name, {})["scores"] = score(name, arguments.out)
            if name in shown:
                results[name]["curve"] = curve(name, arguments.out)
    if arguments.what in ("all", "cost"):
        for name in trained:
            if name in shown:
                results.setdefault(name, {})["cost"] = cost(name, arguments.out)
    KEPT.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ABLATED.write_text(ablation_numbers(results), encoding="utf-8")
    PAGE.write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
