"""The model card, docs/model-card.md, made again from the weights in the package: one command for any
network.

python -m bench.model_card.__main__ [--dry]      # needs mien[train] and MIEN_DATA with the data pack

In order: raw answers on the validation sets (kept in the cache folder), temperatures and cuts for saying
    nothing (written
into the provenance file beside the weights; --dry writes nothing but the page), protocol scores and the table
of false
matches where they are missing or were measured with other weights, then the page.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.model_card.data import MALE, NO_CROP, YOUNG, Answers, Fit, fit, gather, inside
from mien.evaluation.calibration import bootstrap, bootstrap_pairs
from mien.inference.onnx_model import OnnxModel
from mien.inference.provenance import Provenance, read, update_provenance
from mien.inference.weights_file import WEIGHTS
from mien.recognition.error_rates import TABLE, Rates
from mien.recognition.verification import CLUSTER_FMR, VERIFY_FMR
from mien.tasks import AGE
from mien.tasks.attributes import CELEBA40
from mien.tasks.base import softmax
from mien.tasks.choice import EXPRESSION8

PAGE = Path("docs/model-card.md")
RACES = ("White", "Black", "Asian", "Indian", "other")
BANDS = ((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 120))
WIDE = ((0, 17), (18, 39), (40, 64), (65, 120))
FEW = 10  # a group of fewer pictures gets its count and no number
Groups = Mapping[str, np.ndarray]

ABOUT = """## What it is for

Reading faces on pictures that somebody has the right to look at: aligning and cropping, sorting and searching one's own
photos, drawing, anonymising, measuring and teaching methods, and as a start for networks trained on better data. Every
answer is a guess from one picture, and has a probability or an interval that says so.

- *Age* and *gender* are what a picture looks like, not what a person is. Gender knows two words because its labels do.
- *Expression* is the look of a face at that moment, not what somebody feels.
- *Attributes* are CelebA's forty words, judged by a few annotators; `Attractive`, `Big_Nose`, `Chubby` and the like are taste.
- *Identity* is a similarity, not a proof.

## What it must not be used for

- **Decisions about people** (work, credit, insurance, schooling, policing, access to anything): it was not made for them, and
  the tables below show how differently it errs for different people.
- **Identifying people without their consent**, in public places, or from scraped pictures. An embedding is biometric data:
  in the EU it needs a ground in GDPR Art. 9, and `mien` gives it only when `--tasks` or `tasks=` names it.
- **Inferring emotions at work or in education in the EU**: prohibited by the AI Act, Art. 5(1)(f), but for medical and safety
  reasons. Elsewhere in the EU such a use counts as high-risk. Leave `expression` out, see below.
- **Sorting people by race, belief or orientation**: no head answers this, and none should be derived from the others. UTKFace's
  race labels are used on this page only, to measure.
- **Liveness, forgery or age checks** that keep somebody in or out: nothing here tells a photo from a person, and the age of a child
  is off by years.

This is no legal advice.
"""

OFF = """## How to switch tasks off

Only what is named is read, and identity only where it is named:

```python
import mien

reader = mien.load(tasks=["points5", "landmarks", "parsing", "pose"])  # nothing about who or what somebody is
print(reader.requested)
```

```sh
mien analyze examples/astronaut.jpg --tasks points5,landmarks,parsing,pose
```

`mien serve --tasks ...` offers no other answers to anyone ([server.md](server.md)). To say nothing where it is not sure, compare with the
cut above: `face["gender"].sure({gender})` and `face["expression"].sure({expression})` are the label or None.
`mien models --license commercial` refuses these weights, exit code 2.
"""


# --- Words and tables


def shown(values: Any, scale: float = 100.0, digits: int = 1) -> str:
    """Mean and 95 % interval, or that there are too few."""
    values = np.asarray(values, float)
    if len(values) < FEW:
        return "too few"
    mean, low, high = (scale * v for v in bootstrap(values))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


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
    """Race x gender x age, where somebody stands."""
    u = a.utk
    return {
        f"{r}, {g}, {band(*b)}": (u.race == i) & (u.male == v) & (u.years >= b[0]) & (u.years <= b[1])
        for i, r in enumerate(RACES)
        for g, v in (("female", 0), ("male", 1))
        for b in WIDE
    }


def age_and_gender(a: Answers, f: Fit) -> Iterator[str]:
    """Both tables of UTKFace."""
    u = a.utk
    years = softmax(u.raw["age"]) @ np.arange(101)
    off, right = years - u.years, (u.raw["attributes"][:, MALE] >= 0) == (u.male == 1)
    covered = inside(u.raw["age"], u.years, f.temperatures.get("age", 1.0))

    def line(name: str, g: np.ndarray) -> list[str]:
        return [
            name,
            f"{g.sum():,}",
            shown(abs(off[g]), 1, 2),
            shown(off[g], 1, 2),
            shown(covered[g]),
            shown(right[g]),
        ]

    head = ("group", "n", "age MAE, years", "bias, years", "inside the interval, %", "gender accuracy, %")
    yield "### Age and gender: UTKFace val\n"
    yield (
        "Bias: mean of answer minus label; above 0 it makes people older. Race, gender and age are the labels"
        " of the set.\n"
    )
    yield rows(head, [line(n, g) for n, g in people_groups(a).items()])
    yield f"\nRace, gender and age crossed (groups of fewer than {FEW} have no number):\n"
    yield rows(head, [line(n, g) for n, g in crossed(a).items() if g.any()])


def slices(a: Answers) -> Groups:
    """CelebA's groups."""
    y = a.attributes
    return {
        "all": np.ones(len(y), bool), "female": y[:, MALE] == 0, "male": y[:, MALE] == 1,
        "young": y[:, YOUNG] == 1, "not young": y[:, YOUNG] == 0,
    }  # fmt: skip


def attributes(a: Answers) -> Iterator[str]:
    """Accuracy of the forty, by group."""
    hits = (a.celeba["attributes"] >= 0) == (a.attributes == 1)
    groups = slices(a)
    yield "### Attributes: CelebA val\n"
    yield "Accuracy in % at 0.5. *Constant*: what answering the commoner of yes and no would get, over all.\n"
    body = [["**mean of 40**", "", *(shown(hits[g].mean(1)) for g in groups.values())]]
    for i, name in enumerate(CELEBA40):
        share = a.attributes[:, i].mean()
        body.append(
            [f"`{name}`", f"{100 * max(share, 1 - share):.1f}", *(shown(hits[g, i]) for g in groups.values())]
        )
    yield rows(("attribute", "constant", *(f"{n} ({g.sum():,})" for n, g in groups.items())), body)


def expression(a: Answers) -> Iterator[str]:
    """Recall and precision by class."""
    z, truth = a.fer["test"]
    guess = z.argmax(1)
    yield "### Expression: FER+ test\n"
    yield (
        "Recall: of the faces labelled so, the share that is answered so. Precision: of the answers, the"
        " share that is right. In %.\n"
    )
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
    body.append(
        ["**all**", f"{len(truth):,}", shown(guess == truth), "", f"mean recall of classes {100 * mean:.1f}"]
    )
    yield rows(("expression", "labelled", "recall", "answered", "precision"), body)


def identity(a: Answers, model: OnnxModel) -> Iterator[str]:
    """False matches and false non-matches at the shipped thresholds, over all and by group at one of them."""
    table = Rates.of(model.sha256)
    yield "### Identity\n"
    if table is None or "identity" not in a.celeba:
        yield "Not measured with these weights."
        return
    cuts = {
        f"`mien verify` ({VERIFY_FMR:g})": VERIFY_FMR,
        f"`mien cluster`, galleries ({CLUSTER_FMR:g})": CLUSTER_FMR,
    }
    yield f"Pairs of different people: {table.impostors:,}; of the same: {table.genuine:,}. {table.note}\n"
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
        f"\nBy group, at `mien verify`'s threshold, {at:.4f}, both faces in the group. Intervals are over"
        " pictures, not pairs."
    )
    yield (
        "UTKFace has no names: its pairs are *taken* for strangers, and the few that are not count as false"
        " matches. CelebA's"
    )
    yield "are photos of celebrities, of 89x109 pixels, none of whom was trained on.\n"
    yield rows(
        ("set, group", "strangers' pairs", "false matches, %", "same person's pairs", "false non-matches, %"),
        _pairs(a, at),
    )


def _pairs(a: Answers, at: float) -> Iterator[list[str]]:
    u, people = a.utk, people_groups(a)
    ages = {
        "age: 0-12": u.years <= 12,
        "age: 13-59": (u.years > 12) & (u.years < 60),
        "age: 60+": u.years >= 60,
    }
    wanted = {n: g for n, g in people.items() if not n.startswith("age")} | ages
    for name, raw, who, groups in (
        ("UTKFace", u.raw["identity"], np.arange(len(u.years)), wanted),
        ("CelebA", a.celeba["identity"], a.persons, slices(a)),
    ):
        unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        match, once = unit @ unit.T >= at, np.triu(np.ones((len(unit), len(unit)), bool), 1)
        same = who[:, None] == who[None, :]
        for label, g in groups.items():
            both = np.ix_(g, g)
            cells = [f"{name}, {label}"]
            for pairs, hits in (((once & ~same)[both], match[both]), ((once & same)[both], ~match[both])):
                few = pairs.sum() < 10 * FEW
                mean, low, high = (0.0, 0.0, 0.0) if few else (100 * v for v in bootstrap_pairs(hits, pairs))
                cells += [f"{pairs.sum():,}", "too few" if few else f"{mean:.2f} [{low:.2f}, {high:.2f}]"]
            yield cells if same[once].any() else [*cells[:3], "none known", ""]


# --- Calibration, failures


def calibration(f: Fit) -> Iterator[str]:
    """Tables of sureness."""
    yield "## How far its probabilities can be trusted\n"
    yield (
        "Expected calibration error (ECE): how far, on average, a stated probability is from the share that"
        " comes true, in 15 bins"
    )
    yield (
        'of equal width; of the label that is given, and for attributes of "yes". A temperature divides a'
        " task's logits. It is fitted"
    )
    yield (
        "on validation pictures and kept only where ECE and loss (negative log-likelihood) both get better on"
        " other pictures.\n"
    )
    head = (
        "answer",
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
    stays = "which is no less than that beyond chance, so that it stays"
    mended = (
        f"and {shown(covered)} % at temperature {found}, fitted without the fold that is measured; the years"
        " do not change"
    )
    promise = 100 * AGE.read(np.zeros(101, np.float32), NO_CROP).coverage
    end = mended if found else stays
    yield (
        f"\nAge: the interval promises {promise:g} %; as trained it holds {shown(plain)} % of UTKFace val,"
        f" {end}.\n"
    )
    yield "## When to say nothing\n"
    yield (
        "Answers below a probability are not given. *Recommended* is the least cut that halves the share of"
        " errors.\n"
    )
    for name, (table, where) in f.tables.items():
        best = f.abstain.get(name)
        yield (
            f"{name.capitalize()}, {where}; recommended:"
            f" **{best if best is not None else 'none halves the errors'}**\n"
        )
        cells = [
            (f"{r.cut:.2f}", f"{r.n:,}", f"{100 * r.share:.1f}", f"{100 * r.accuracy:.1f}" if r.n else "")
            for r in table
        ]
        yield rows(("least probability", "answered", "of all, %", "right, %"), cells) + "\n"


def failures(a: Answers, model: OnnxModel, scores: Mapping[str, Any]) -> Iterator[str]:
    """What the numbers say is bad, found by rules, so that another network gets its own list."""
    yield "## Known failures\n"
    yield "Found in the tables by rule:\n"
    z, truth = a.fer["test"]
    recall = {
        n: float((z.argmax(1)[truth == i] == i).mean())
        for i, n in enumerate(EXPRESSION8)
        if (truth == i).any()
    }
    weak = [f"{n} ({100 * v:.0f} %)" for n, v in recall.items() if v < 0.5]
    yield f"- Expressions found less than half of the time: {', '.join(weak) or 'none'}."
    hits, share = (a.celeba["attributes"] >= 0) == (a.attributes == 1), a.attributes.mean(0)
    idle = [f"`{n}`" for i, n in enumerate(CELEBA40) if hits[:, i].mean() <= max(share[i], 1 - share[i])]
    yield f"- Attributes answered no better than by always saying the same: {', '.join(idle) or 'none'}."
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
    groups = {n: g for n, g in people_groups(a).items() if g.sum() >= FEW}
    old = [f"{n} ({off[g].mean():.1f} years)" for n, g in groups.items() if bootstrap(off[g])[1] > off.mean()]
    sex = [
        f"{n} ({100 * right[g].mean():.0f} %)"
        for n, g in groups.items()
        if bootstrap(right[g])[2] < right.mean()
    ]
    yield f"- Age errs more than on average, beyond chance: {', '.join(old) or 'no group'}."
    yield f"- Gender is right less often than on average, beyond chance: {', '.join(sex) or 'no group'}."
    table = Rates.of(model.sha256)
    if table is not None and "identity" in a.celeba:
        told = (
            (line[0], float(line[2].split()[0]))
            for line in _pairs(a, table.threshold(VERIFY_FMR))
            if line[2] != "too few"
        )
        alike = [f"{name} ({v:.1f} %)" for name, v in told if v > 200 * VERIFY_FMR]
        yield (
            f"- Strangers match more than twice as often as promised ({100 * VERIFY_FMR:g} %):"
            f" {', '.join(alike) or 'no group'}."
        )
    yield (
        "\nTo be expected, and not measured: errors on profiles, on faces behind hands and masks, and of a"
        " few pixels. Drawn and"
    )
    yield (
        "sculpted faces get answers like any other. The sets' pictures are small, mostly of adults, mostly"
        " from the web of before 2018,"
    )
    yield "and labelled by few hands. Nothing was measured at night or in infrared."


# --- The page


def page(model: OnnxModel, known: Provenance, a: Answers, f: Fit) -> str:
    """All of it."""
    scores = known.record["scores"]
    sets = rows(("set", "what it is, and its terms"), sorted(known.sets.items()))
    numbers = rows(("protocol", "n", "numbers"), [_score(n, v) for n, v in scores.items()])
    parts = [
        f"# Model card: {known.builder}\n",
        f"Made by `python -m bench.model_card.__main__` from `src/mien/weights/{known.path.name}`: {known.size / 1e6:.1f} MB, sha256 `{known.sha256}`, "
        f"crop {model.view.size[0]}x{model.view.size[1]}. It answers {', '.join(known.tasks)}; gender and pose follow from these.\n",
        ABOUT,
        "## What it was trained on\n",
        f"Licence of the weights: **{known.licence}**. Uses allowed: {', '.join(known.uses) or 'none is stated'}.\n\n{sets}\n",
        f"How: {known.record.get('note') or 'see its recipe'}\n",
        "## Numbers\n",
        "Faces are cropped by the sets' points, not by our detector, and pictures are small: do not set these beside papers that used "
        f"full-size pictures. [benchmark.md](benchmark.md) has the speed.\n\n{numbers}\n",
        "## By group\n",
        "Brackets: 95 % intervals by 1,000 seeded resamples of the group's pictures. They say what chance does, not what the choice of "
        "pictures does; a group whose answers are all right, or all wrong, has an interval without width, so look at n.\n",
        *age_and_gender(a, f), "", *attributes(a), "", *expression(a), "", *identity(a, model), "",
        *calibration(f), *failures(a, model, scores), "",
        OFF.format(gender=f.abstain.get("gender", 0.9), expression=f.abstain.get("expression", 0.9)),
    ]  # fmt: skip
    return "\n".join(parts)


def _score(name: str, values: Mapping[str, float]) -> list[str]:
    main = [f"{k} {v:.4g}" for k, v in values.items() if ":" not in k and k != "n"]
    return [name, f"{int(values['n']):,}", ", ".join(main)]


def write(path: Path, text: str) -> None:
    """All or nothing."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    os.replace(part, path)


def record(model: OnnxModel, f: Fit) -> None:
    """Temperatures and cuts into the provenance file, for every later reading."""
    sets = "temperatures: FER+ val, CelebA val, UTKFace val; cuts: FER+ val, UTKFace val"
    calibration = {
        "temperatures": f.temperatures,
        "abstain": f.abstain,
        "fitted_on": sets,
        "command": "python -m bench.model_card.__main__",
    }
    update_provenance(model.path, calibration=calibration)


def main() -> None:
    """Fit, record, measure what is missing, write the page."""
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
                [sys.executable, "-m", "mien", "evaluate", str(model.path), "--record", "--threads", "1"],
                check=True,
            )
        if not TABLE.is_file() or Rates.of(model.sha256) is None:
            subprocess.run([sys.executable, "bench/speed/gallery.py", "rates"], check=True)
    write(PAGE, page(model, read(model.path), a, f))
    print(f"{PAGE}: temperatures {f.temperatures}, cuts {f.abstain}")


if __name__ == "__main__":
    main()
