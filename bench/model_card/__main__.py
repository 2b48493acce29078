"""Write the model card, docs/model-card.md, for the weights in the package.

python -m bench.model_card [--dry]      # needs mien[train] and MIEN_DATA with the data pack

In order: raw outputs on the validation sets (kept in the cache folder), temperatures and confidence
thresholds (written into the provenance file next to the weights; --dry writes only the page), protocol scores
and the table of false matches if they are missing or belong to other weights, then the page.
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
RACES = ("White", "Black", "Asian", "Indian", "other")
BANDS = ((0, 2), (3, 9), (10, 19), (20, 29), (30, 39), (40, 49), (50, 59), (60, 69), (70, 120))
WIDE = ((0, 17), (18, 39), (40, 64), (65, 120))
FEW = 10  # a smaller group gets its count only
Groups = Mapping[str, np.ndarray]

ABOUT = """## Intended use

Photos that you may analyze: cropping, sorting and searching your own photos, drawing, anonymizing, research and teaching, and initial weights for
other networks. Every prediction is an estimate from one picture, with a probability or an interval.

- *Age* and *gender* describe how a face looks, not what a person is. Gender has two classes because its labels do.
- *Expression* is the appearance of a face at one moment, not a feeling. *Identity* is a similarity, not a proof.
- *Attributes* are CelebA's forty labels by a few annotators; `Attractive`, `Big_Nose`, `Chubby` and others are subjective.

## Prohibited uses

- **Decisions about people** (work, credit, insurance, education, policing, access): error rates differ between groups, see below.
- **Identifying people without their consent**, in public places, or from scraped pictures.
- **Inferring emotions at work or in education in the EU**, except for medical and safety reasons. Leave `expression` out.
- **Sorting people by race, belief or orientation**. No task predicts these. UTKFace's race labels only measure errors here.
- **Liveness, forgery or age checks** that control access: a photo of a photo looks like a person, and ages are off by years.

More: [privacy and law](privacy.md). This is not legal advice.
"""

OFF = """## Switch tasks off

Only requested tasks are computed; identity must be requested:

```python
import mien

reader = mien.load(tasks=["points5", "landmarks", "parsing", "pose"])  # nothing about the person
print(reader.requested)
```

```sh
mien analyze examples/astronaut.jpg --tasks points5,landmarks,parsing,pose
```

`mien serve --tasks ...` offers no other tasks ([server](server.md)). At the thresholds above, `face["gender"].confident({gender})` and
`face["expression"].confident({expression})` return the label or None. `mien models --license commercial` refuses these weights with exit code 2.
"""


# --- Words and tables


def shown(values: Any, scale: float = 100.0, digits: int = 1) -> str:
    """Mean and 95 % interval, or "too few"."""
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
    """Race x gender x age."""
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
    yield ("Bias: mean of prediction minus label. Race, gender and age are labels of the set.\n")
    yield rows(head, [line(n, g) for n, g in people_groups(a).items()])
    yield f"\nRace, gender and age combined, groups of {FEW} or more:\n"
    yield rows(head, [line(n, g) for n, g in crossed(a).items() if g.sum() >= FEW])


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
    yield "Accuracy in % at 0.5. *Constant*: always predict the more frequent value.\n"
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
        " development pictures, found by our detector: mostly adult men in news photos. Children, siblings and"
        " people of similar sex, age and origin match more often.\n"
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
        f"\nBy group, at the threshold of `mien verify` ({at:.4f}), both faces in the group. Intervals are over"
        " pictures, not pairs."
    )
    yield (
        "UTKFace has no names: its pairs count as strangers, so a few false matches may be correct. CelebA's"
        " photos have 89x109 pixels; none of these people was used in training.\n"
    )
    yield rows(
        (
            "set, group",
            "pairs of strangers",
            "false matches, %",
            "pairs of one person",
            "false non-matches, %",
        ),
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
            yield cells if same[once].any() else [*cells[:3], "none", ""]


# --- Calibration, failures


def calibration(f: Fit) -> Iterator[str]:
    """Tables of calibration and of thresholds."""
    yield "## Calibration\n"
    yield (
        "Expected calibration error (ECE): mean difference between confidence and accuracy in 15 bins of equal"
        " width. A temperature divides the logits of a task. It is fitted on validation pictures and kept only"
        " if ECE and negative log-likelihood both improve on other pictures.\n"
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
        "Predictions below a probability are left out. *Recommended*: the lowest threshold that halves the"
        " error rate.\n"
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
        yield rows(("minimum probability", "predictions", "of all, %", "correct, %"), cells) + "\n"


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
    weak = [f"{n} ({100 * v:.0f} %)" for n, v in recall.items() if v < 0.5]
    yield f"- Expressions with a recall below 50 %: {', '.join(weak) or 'none'}."
    hits, share = (a.celeba["attributes"] >= 0) == (a.attributes == 1), a.attributes.mean(0)
    idle = [f"`{n}`" for i, n in enumerate(CELEBA40) if hits[:, i].mean() <= max(share[i], 1 - share[i])]
    yield f"- Attributes no better than a constant: {', '.join(idle) or 'none'}."
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
    yield f"- Age error significantly above average: {', '.join(old) or 'no group'}."
    yield f"- Gender accuracy significantly below average: {', '.join(sex) or 'no group'}."
    table = Rates.of(model.sha256)
    if table is not None and "identity" in a.celeba:
        told = (
            (line[0], float(line[2].split()[0]))
            for line in _pairs(a, table.threshold(VERIFY_FMR))
            if line[2] != "too few"
        )
        alike = [f"{name} ({v:.1f} %)" for name, v in told if v > 200 * VERIFY_FMR]
        yield (
            f"- Strangers match at more than twice the stated rate ({100 * VERIFY_FMR:g} %):"
            f" {', '.join(alike) or 'no group'}."
        )
    yield (
        "\nExpected, but not measured: errors on profiles, on faces behind hands or masks, on faces of a few"
        " pixels, at night and in infrared. Drawn and sculpted faces get predictions, too. The pictures of the"
        " sets are small, mostly of adults, mostly from the web before 2018, and labeled by few people."
    )


# --- The page


def page(model: OnnxModel, known: Provenance, a: Answers, f: Fit) -> str:
    """All of it."""
    scores = known.record["scores"]
    sets = rows(("set", "content and terms"), sorted(known.sets.items()))
    numbers = rows(("protocol", "n", "numbers"), [_score(n, v) for n, v in scores.items()])
    parts = [
        f"# Model card: {known.builder}\n",
        "```console\n$ mien models                     # weights, licenses, training sets, tasks\n"
        "$ python -m bench.model_card      # measure and write this page; do not edit it by hand\n```\n",
        f"`src/mien/weights/{known.path.name}`: {known.size / 1e6:.1f} MB, sha256 `{known.sha256}`, "
        f"crop {model.view.size[0]}x{model.view.size[1]}. Tasks: {', '.join(known.tasks)}. Gender and pose follow from these.\n",
        ABOUT,
        "## Training data\n",
        f"License of the weights: **{known.licence}**. Permitted uses: {', '.join(known.uses) or 'none is stated'}.\n\n{sets}\n",
        f"Training steps: `src/mien/weights/{known.path.with_suffix('.json').name}`, field `note`. How to repeat them: "
        "[the embedded network](default-model.md#reproduce-the-training).\n",
        "## Numbers\n",
        "Faces are aligned by labeled points. The pictures are small: do not compare with papers that used full-size pictures. With our detector: "
        f"[the embedded network](default-model.md#accuracy). Speed: [benchmark](benchmark.md).\n\n{numbers}\n",
        "## By group\n",
        "Brackets: 95 % bootstrap intervals (1,000 resamples). They cover chance, not the selection of pictures. If all predictions of a group "
        "are correct, or all wrong, the interval has no width: look at n.\n",
        *age_and_gender(a, f), "", *attributes(a), "", *expression(a), "", *identity(a, model), "",
        *calibration(f), *failures(a, model, scores), "",
        OFF.format(gender=f.abstain.get("gender", 0.9), expression=f.abstain.get("expression", 0.9)),
    ]  # fmt: skip
    return "\n".join(parts)


def _score(name: str, values: Mapping[str, float]) -> list[str]:
    main = [f"{k} {v:.4g}" for k, v in values.items() if ":" not in k and k != "n"]
    return [name, f"{int(values['n']):,}", ", ".join(main)]


def write(path: Path, text: str) -> None:
    """Write a file atomically."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    os.replace(part, path)


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
    write(PAGE, page(model, read(model.path), a, f))
    print(f"{PAGE}: temperatures {f.temperatures}, cuts {f.abstain}")


if __name__ == "__main__":
    main()
