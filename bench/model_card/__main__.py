"""Write the model card, docs/model-card.md, for the weights in the package, and its long tables in
bench/results/model_card/.

python -m bench.model_card [--dry]      # needs mien[train] and MIEN_DATA with the data pack

In order: raw outputs on the validation sets (kept in the cache folder), temperatures and confidence
thresholds (written into the provenance file next to the weights; --dry writes only the page), protocol scores
and the table of false matches if they are missing or belong to other weights, then the tables and the page.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.model_card import age_bounds
from bench.model_card.calibration import bootstrap, bootstrap_pairs
from bench.model_card.data import MALE, NO_CROP, YOUNG, Answers, Fit, fit, gather, inside
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import Provenance, read, update_provenance
from mien.inference.weights_file import WEIGHTS
from mien.recognition.error_rates import TABLE, Rates
from mien.recognition.verification import CLUSTER_FMR as GALLERY_FMR
from mien.recognition.verification import VERIFY_FMR
from mien.tasks import AGE
from mien.tasks.attributes import CELEBA40
from mien.tasks.base import softmax
from mien.tasks.choice import EXPRESSION8

PAGE = Path("docs/model-card.md")
TABLES = Path("bench/results/model_card")
RACES = ("White", "Black", "Asian", "Indian", "other")
BANDS = ((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 120))
WIDE = ((0, 17), (18, 39), (40, 64), (65, 120))
MINIMUM_GROUP = 10  # a smaller group gets its count only
Groups = Mapping[str, np.ndarray]

ABOUT = Path(__file__).with_name("intended_use.txt")

OFF = Path(__file__).with_name("switch_off.txt")


# --- Words and tables


def shown(values: Any, scale: float = 100.0, digits: int = 1) -> str:
    """Mean and 95 % interval, or "too few"."""
    values = np.asarray(values, float)
    if len(values) < MINIMUM_GROUP:
        return "too few"
    mean, low, high = (scale * v for v in bootstrap(values))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def numbers(cell: str) -> list[str]:
    """Mean, low and high of a cell that `shown` wrote; three empty texts for "too few"."""
    found = re.findall(r"-?[0-9.]+", cell)
    return found if len(found) == 3 else ["", "", ""]


def with_interval(*names: str) -> list[str]:
    """Columns of a CSV file for the `numbers` of several cells."""
    return [f"{n}{end}" for n in names for end in ("", "_low", "_high")]


def rows(head: Sequence[str], body: Iterator[Sequence[Any]] | Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [list(map(str, head)), ["---"] * len(head), *(list(map(str, r)) for r in body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def band(low: int, high: int) -> str:
    """An age band's name."""
    return f"{low}-{high}" if high < 120 else f"{low}+"


# --- By group


def people_groups(a: Answers) -> Groups:
    """UTKFace's groups, one label at a time."""
    u = a.utk
    return {
        "all": np.ones(len(u.male), bool),
        **{f"race: {r}": u.race == i for i, r in enumerate(RACES)},
        **{f"gender: {g}": u.male == v for g, v in (("female", 0), ("male", 1))},
        **{f"age: {band(*b)}": (u.years >= b[0]) & (u.years <= b[1]) for b in BANDS},
    }


def crossed(a: Answers) -> Groups:
    """Race x gender x age."""
    u = a.utk
    return {
        f"{r}, {g}, {band(*b)}": (u.race == i) & (u.male == v) & (u.years >= b[0]) & (u.years <= b[1])
        for i, r in enumerate(RACES)
        for g, v in (("female", 0), ("male", 1))
        for b in WIDE
    }


def people_lines(a: Answers, f: Fit, groups: Groups) -> Iterator[list[str]]:
    """One line per group of UTKFace: name, n, age MAE, bias, interval coverage, gender accuracy."""
    u = a.utk
    years = softmax(u.raw["age"]) @ np.arange(101)
    off, right = years - u.years, (u.raw["attributes"][:, MALE] >= 0) == (u.male == 1)
    covered = inside(u.raw["age"], u.years, f.temperatures.get("age", 1.0))
    for name, g in groups.items():
        errors = shown(abs(off[g]), 1, 2), shown(off[g], 1, 2)
        yield [name, f"{g.sum():,}", *errors, shown(covered[g]), shown(right[g])]


def age_and_gender(a: Answers, f: Fit) -> Iterator[str]:
    """The table of UTKFace."""
    yield "### Age and gender: UTKFace val\n"
    yield (
        "Bias: mean of prediction minus label. Race, gender and age are labels of the set. More groups, and"
        f" interval coverage: `{TABLES}/age_gender.csv`.\n"
    )
    head = ("group", "n", "age MAE, years", "bias, years", "gender accuracy, %")
    yield rows(head, [line[:4] + line[5:] for line in people_lines(a, f, people_groups(a))])


def age_and_gender_csv(a: Answers, f: Fit) -> Iterator[list[str]]:
    """All groups of UTKFace, crossed groups of `FEW` or more included."""
    yield ["group", "n", *with_interval("age_mae", "age_bias", "inside_interval_pct", "gender_accuracy_pct")]
    groups = {**people_groups(a), **{n: g for n, g in crossed(a).items() if g.sum() >= MINIMUM_GROUP}}
    for name, n, *cells in people_lines(a, f, groups):
        yield [name, n.replace(",", ""), *(v for c in cells for v in numbers(c))]


def slices(a: Answers) -> Groups:
    """CelebA's groups."""
    y = a.attributes
    return {
        "all": np.ones(len(y), bool), "female": y[:, MALE] == 0, "male": y[:, MALE] == 1,
        "young": y[:, YOUNG] == 1, "not young": y[:, YOUNG] == 0,
    }  # fmt: skip


def attribute_lines(a: Answers) -> Iterator[list[str]]:
    """The mean of the forty and each of them: name, accuracy of a constant, accuracy by group."""
    hits = (a.celeba["attributes"] >= 0) == (a.attributes == 1)
    groups = slices(a).values()
    yield ["mean of 40", "", *(shown(hits[g].mean(1)) for g in groups)]
    for i, name in enumerate(CELEBA40):
        share = a.attributes[:, i].mean()
        yield [name, f"{100 * max(share, 1 - share):.1f}", *(shown(hits[g, i]) for g in groups)]


def attributes(a: Answers) -> Iterator[str]:
    """Mean accuracy of the forty, by group."""
    yield "### Attributes: CelebA val\n"
    yield (f"Mean accuracy over the 40 attributes at 0.5, %. Each attribute: `{TABLES}/attributes.csv`.\n")
    _, _, *mean = next(attribute_lines(a))
    names = [f"{n} ({g.sum():,})" for n, g in slices(a).items()]
    yield rows(names, [mean])


def attributes_csv(a: Answers) -> Iterator[list[str]]:
    """Accuracy of each attribute by group, in %."""
    names = [n.replace(" ", "_") for n in slices(a)]
    yield ["attribute", "constant", *with_interval(*names)]
    for name, constant, *cells in attribute_lines(a):
        yield [name, constant, *(v for c in cells for v in numbers(c))]


def expression(a: Answers) -> Iterator[str]:
    """Recall and precision by class."""
    z, truth = a.fer["test"]
    guess = z.argmax(1)
    yield "### Expression: FER+ test\n"
    yield "Recall and precision in %.\n"
    body = [
        [
            n,
            f"{(truth == i).sum():,}",
            shown(guess[truth == i] == i),
            f"{(guess == i).sum():,}",
            shown(truth[guess == i] == i),
        ]
        for i, n in enumerate(EXPRESSION8)
    ]
    mean = np.mean([(guess[truth == i] == i).mean() for i in np.unique(truth)])
    body.append(["**all**", f"{len(truth):,}", shown(guess == truth), "", f"mean recall {100 * mean:.1f}"])
    yield rows(("expression", "labeled", "recall", "predicted", "precision"), body)


def identity(a: Answers, model: OnnxModel) -> Iterator[str]:
    """False matches and false non-matches at the shipped thresholds, over all and by group at one of them."""
    table = Rates.of(model.sha256)
    yield "### Identity\n"
    if table is None or "identity" not in a.celeba:
        yield "Not measured with these weights."
        return
    cuts = {
        f"`mien verify` ({VERIFY_FMR:g})": VERIFY_FMR,
        f"galleries ({GALLERY_FMR:g})": GALLERY_FMR,
    }
    yield (
        f"Pairs of different people: {table.impostors:,}; of the same: {table.genuine:,}. LFW View 1,"
        " development pictures: mostly adult men. Children, siblings and people of similar sex, age and"
        " origin match more often.\n"
    )
    cut = {n: table.threshold(fmr) for n, fmr in cuts.items()}
    fnmr = {r["fmr"]: r["fnmr"] for r in table.rows}
    yield rows(
        ("threshold of", "cosine", "false matches, %", "false non-matches, %"),
        [
            (n, f"{cut[n]:.4f}", f"{100 * v:g}", f"{100 * fnmr[v]:.1f}" if v in fnmr else "")
            for n, v in cuts.items()
        ],
    )
    at = table.threshold(VERIFY_FMR)
    yield (
        f"\nBy group, at the threshold of `mien verify` ({at:.4f}), both faces in the group."
        " Intervals are over"
        " pictures, not pairs."
    )
    yield (
        "UTKFace has no names: all its pairs count as strangers. CelebA's photos have 89x109 pixels; none of"
        " these people was used in training.\n"
    )
    strangers = ("set, group", "pairs of strangers", "false matches, %")
    lines = list(_pairs(a, at))
    yield rows(strangers, [line for line in lines if len(line) == 3])
    yield ""
    yield rows(
        (*strangers, "pairs of one person", "false non-matches, %"),
        [line for line in lines if len(line) == 5],
    )


def _pairs(a: Answers, at: float) -> Iterator[list[str]]:
    u, people = a.utk, people_groups(a)
    ages = {
        "age: 0-12": u.years <= 12,
        "age: 13-59": (u.years > 12) & (u.years < 60),
        "age: 60+": u.years >= 60,
    }
    selected = {n: g for n, g in people.items() if not n.startswith("age")} | ages
    for name, raw, identities, groups in (
        ("UTKFace", u.raw["identity"], np.arange(len(u.years)), selected),
        ("CelebA", a.celeba["identity"], a.persons, slices(a)),
    ):
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        match, once = unit @ unit.T >= at, np.triu(np.ones((len(unit), len(unit)), bool), 1)
        same = identities[:, None] == identities[None, :]
        for label, g in groups.items():
            both = np.ix_(g, g)
            cells = [f"{name}, {label}"]
            for pairs, hits in (((once & ~same)[both], match[both]), ((once & same)[both], ~match[both])):
                few = pairs.sum() < 10 * MINIMUM_GROUP
                mean, low, high = (0.0, 0.0, 0.0) if few else (100 * v for v in bootstrap_pairs(hits, pairs))
                cells += [f"{pairs.sum():,}", "too few" if few else f"{mean:.2f} [{low:.2f}, {high:.2f}]"]
            yield cells if same[once].any() else cells[:3]


# --- Calibration, failures


def calibration(f: Fit) -> Iterator[str]:
    """Tables of calibration and of thresholds."""
    yield "## Calibration\n"
    yield (
        "Expected calibration error (ECE): mean difference between confidence and accuracy in 15"
        " bins. A temperature divides the logits of a task. It is kept only if ECE and negative"
        " log-likelihood both improve on other pictures.\n"
    )
    head = (
        "task",
        "measured on",
        "n",
        "ECE, % before",
        "after",
        "loss before",
        "after",
        "temperature",
        "kept",
    )
    yield rows(head, [[c.strip() for c in r.strip("| ").split("|")] for r in f.rows])
    plain, covered = f.covered
    found = f.temperatures.get("age")
    stays = "so it is not changed"
    fixed = (
        f"and {shown(covered)} % at temperature {found}, fitted without the measured fold; the years do not"
        " change"
    )
    promise = 100 * AGE.read(np.zeros(101, np.float32), NO_CROP).coverage
    end = fixed if found else stays
    yield (
        f"\nAge: the interval is made for {promise:g} %; as trained it contains {shown(plain)} % of UTKFace"
        f" val, {end}.\n"
    )
    yield "## Confidence thresholds\n"
    yield (
        "Predictions with a lower probability are left out. *Recommended*: the lowest threshold that halves"
        f" the error rate. Other thresholds: `{TABLES}/confidence_thresholds.csv`.\n"
    )
    body = []
    for name, (table, where) in f.tables.items():
        best = f.abstain.get(name)
        if best is None:
            body.append([name, where, "none halves the errors", "", "", f"{100 * table[0].accuracy:.1f}"])
            continue
        row = min(table, key=lambda r: abs(r.cut - best))
        correct = f"{100 * row.accuracy:.1f}", f"{100 * table[0].accuracy:.1f}"
        body.append([name, where, f"**{best}**", f"{100 * row.share:.1f}", *correct])
    first = min(table[0].cut for table, _ in f.tables.values())
    head = ("task", "measured on", "recommended", "of all, %", "correct, %", f"correct at {first:g}, %")
    yield rows(head, body) + "\n"


def thresholds_csv(f: Fit) -> Iterator[list[str]]:
    """Share and accuracy of the predictions at each threshold."""
    yield ["task", "minimum_probability", "predictions", "of_all_pct", "correct_pct"]
    for name, (table, _) in f.tables.items():
        for r in table:
            correct = f"{100 * r.accuracy:.1f}" if r.n else ""
            yield [name, f"{r.cut:.2f}", str(r.n), f"{100 * r.share:.1f}", correct]


def failures(a: Answers, model: OnnxModel, scores: Mapping[str, Any]) -> Iterator[str]:
    """Failures, selected from the numbers by rules, so that another network gets its own list."""
    yield "## Known failures\n"
    yield "Selected from the tables by rules:\n"
    z, truth = a.fer["test"]
    recall = {
        n: float((z.argmax(1)[truth == i] == i).mean())
        for i, n in enumerate(EXPRESSION8)
        if (truth == i).any()
    }
    weak = [n for n, v in recall.items() if v < 0.5]
    yield f"- Expressions with a recall below 50 %: {', '.join(weak) or 'none'}."
    hits, share = (a.celeba["attributes"] >= 0) == (a.attributes == 1), a.attributes.mean(0)
    idle = [f"`{n}`" for i, n in enumerate(CELEBA40) if hits[:, i].mean() <= max(share[i], 1 - share[i])]
    yield f"- Attributes no better than a constant: {', '.join(idle) or 'none'}."
    hard = [f"`{n}` ({100 * v:.0f} %)" for n, v in zip(CELEBA40, hits.mean(0), strict=True) if v < 0.8]
    yield f"- Attributes with an accuracy below 80 %: {', '.join(hard) or 'none'}."
    classes = [
        f"{k[3:]} ({v:.2f})"
        for k, v in scores.get("celebamask", {}).items()
        if k.startswith("f1:") and v < 0.5
    ]
    yield f"- Parsing classes with an F1 below 0.5: {', '.join(classes) or 'none'}."
    u = a.utk
    off, right = (
        abs(softmax(u.raw["age"]) @ np.arange(101) - u.years),
        (u.raw["attributes"][:, MALE] >= 0) == (u.male == 1),
    )
    groups = {n: g for n, g in people_groups(a).items() if g.sum() >= MINIMUM_GROUP}
    old = [n for n, g in groups.items() if bootstrap(off[g])[1] > off.mean()]
    sex = [n for n, g in groups.items() if bootstrap(right[g])[2] < right.mean()]
    yield f"- Age error significantly above average: {', '.join(old) or 'no group'}."
    yield f"- Gender accuracy significantly below average: {', '.join(sex) or 'no group'}."
    table = Rates.of(model.sha256)
    if table is not None and "identity" in a.celeba:
        rates = (
            (line[0], float(line[2].split()[0]))
            for line in _pairs(a, table.threshold(VERIFY_FMR))
            if line[2] != "too few"
        )
        similar = [name for name, v in rates if v > 200 * VERIFY_FMR]
        yield (
            f"- Strangers match at more than twice the stated rate ({100 * VERIFY_FMR:g} %):"
            f" {'; '.join(similar) or 'no group'}."
        )
    yield (
        "\nExpected, but not measured: errors on profiles, covered and tiny faces, at night and in infrared."
        " Drawn and sculpted faces get predictions, too. The pictures of the sets are mostly of adults and"
        " from the web before 2018."
    )


# --- The page


def page(
    model: OnnxModel, known: Provenance, a: Answers, f: Fit, bounds: Sequence[age_bounds.Bounded]
) -> str:
    """All of it."""
    scores = known.record["scores"]
    sets = "\n".join(f"- {name}: {terms}" for name, terms in sorted(known.sets.items()))
    numbers = "\n".join(_score(n, v) for n, v in scores.items())
    parts = [
        f"# Model card: {known.builder}\n",
        "```console\n$ mien models                     # weights, licenses, training sets, tasks\n"
        "$ python -m bench.model_card      # measure and write this page; do not edit it by hand\n```\n",
        f"`src/mien/weights/{known.path.name}`: {known.size / 1e6:.1f} MB, sha256 `{known.sha256}`, "
        f"crop {model.view.size[0]}x{model.view.size[1]}. Tasks: {', '.join(known.tasks)}."
        " Gender and pose follow from these.\n",
        ABOUT.read_text(encoding="utf-8"),
        "## Training data\n",
        f"License of the weights: **{known.license}**. Permitted uses:"
        f" {', '.join(known.uses) or 'none is stated'}.\n\n{sets}\n",
        f"Training steps: `src/mien/weights/{known.path.with_suffix('.json').name}`, field"
        " `note`. How to repeat"
        " them: [the embedded network](default-model.md#reproduce-the-training).\n",
        "## Numbers\n",
        "Faces are aligned by labeled points. The pictures are small: do not compare with papers. With our"
        " detector: [the embedded network](default-model.md#accuracy). Speed:"
        f" [benchmark](benchmark.md).\n\n{numbers}\n",
        "## By group\n",
        "Brackets: 95 % bootstrap intervals. They cover chance, not the selection of pictures.\n",
        *age_and_gender(a, f), "", *attributes(a), "", *expression(a), "", *identity(a, model), "",
        *age_bounds.section(bounds), *calibration(f), *failures(a, model, scores), "",
        OFF.read_text(encoding="utf-8").format(
            gender=f.abstain.get("gender", 0.9), expression=f.abstain.get("expression", 0.9)
        ),
    ]  # fmt: skip
    return "\n".join(parts)


def _score(name: str, values: Mapping[str, float]) -> str:
    main = [f"{k} {v:.4g}" for k, v in values.items() if ":" not in k and k != "n"]
    return f"- `{name}` ({int(values['n']):,}): {', '.join(main)}"


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    os.replace(part, path)


def write_tables(a: Answers, f: Fit) -> None:
    """Write the long tables as CSV."""
    TABLES.mkdir(parents=True, exist_ok=True)
    for name, lines in (
        ("age_gender", age_and_gender_csv(a, f)),
        ("attributes", attributes_csv(a)),
        ("confidence_thresholds", thresholds_csv(f)),
    ):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        write(TABLES / f"{name}.csv", text.getvalue())


def record(model: OnnxModel, f: Fit) -> None:
    """Write temperatures and abstention thresholds to the provenance file."""
    sets = "temperatures: FER+ val, CelebA val, UTKFace val; cuts: FER+ val, UTKFace val"
    calibration = {
        "temperatures": f.temperatures,
        "abstain": f.abstain,
        "fitted_on": sets,
        "command": "python -m bench.model_card.__main__",
    }
    update_provenance(model.path, calibration=calibration)


def main() -> None:
    """Fit, record, measure what is missing, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dry", action="store_true", help="leave the provenance and the table of false matches as they are"
    )
    dry = parser.parse_args().dry
    model = OnnxModel(WEIGHTS / "mien.onnx", threads=1)
    a = gather(model)
    f = fit(a)
    if not dry:
        record(model, f)
        if not read(model.path).record.get("scores"):
            subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "mien",
                    "evaluate",
                    "--weights",
                    str(model.path),
                    "--record",
                    "--threads",
                    "1",
                ],
                check=True,
            )
        if not TABLE.is_file() or Rates.of(model.sha256) is None:
            subprocess.run([sys.executable, "bench/speed/gallery.py", "rates"], check=True)
    write_tables(a, f)
    bounds = age_bounds.gather(OnnxModel(model.path, threads=1))  # with the temperatures that were written
    write(PAGE, page(model, read(model.path), a, f, bounds))
    print(f"{PAGE}: temperatures {f.temperatures}, cuts {f.abstain}")


if __name__ == "__main__":
    main()
