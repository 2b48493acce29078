"""Measure the embedded networks on whole photos, detector included, and write docs/real-photos.md.

python -m bench.real_photos [--london] [--weights FILE.onnx] [--detector FILE.onnx] [--out FILE.json]

Every photo goes through our own detector. The labels of a photo with several faces are those of the face
nearest to the center, weighted by size. Sets: FairFace (1,000 and 3,500 pictures of its training part that no
training saw), UTKFace val (tight crops), All-Age-Faces val, 317 photos of 25 CelebA people that no training
saw, and the first pack's photos val. London's studio portraits are a test set: they are read only with
--london. Needs MIEN_DATA, MIEN_DATA_MORE and pyarrow; answers are kept in the cache folder by the hashes of
both networks.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from bench.model_card import calibration
from bench.real_photos.answers import Answers, Row, read_set
from bench.real_photos.page import page
from bench.real_photos.stability import stability
from mien import settings
from mien.data import set_aside
from mien.data.detection import decoded
from mien.data.formats.wild import AGE_BINS, RACES
from mien.inference.detector import Detector
from mien.inference.onnx_model import OnnxModel
from mien.inference.weights_file import WEIGHTS
from mien.recognition.verification import match_threshold
from mien.tasks.attributes import CELEBA40

PAGE = Path("docs/real-photos.md")
RESULTS = Path("bench/results/real_photos.json")
MALE, YOUNG = CELEBA40.index("Male"), CELEBA40.index("Young")
AGE_GROUPS = {"0-9": (0, 9), "10-19": (10, 19), "20-39": (20, 39), "40-59": (40, 59), "60+": (60, 200)}
SEED = 1


def rows_of(dataset: str) -> list[Row]:
    """The labeled photos of a set, as dictionaries of its table's columns."""
    root = settings.data_more_root()
    if dataset == "fairface":
        aside = sorted(set_aside.names("fairface"))
        train = pq.read_table(root / "fairface" / "train.parquet", filters=[("name", "in", aside)])
        return pq.read_table(root / "fairface" / "val.parquet").to_pylist() + train.to_pylist()
    if dataset == "celeba_wild":
        aside = sorted(set_aside.names("celeba_wild"))
        return pq.read_table(
            root / "celeba_wild" / "train.parquet", filters=[("name", "in", aside)]
        ).to_pylist()
    split = "test" if dataset == "london" else "val"
    return pq.read_table(root / dataset / f"{split}.parquet").to_pylist()


def averaged(values: Any, digits: int = 3) -> dict[str, float]:
    """Mean with a 95 % bootstrap interval over pictures, and their number."""
    mean, low, high = calibration.bootstrap(np.asarray(values, float), seed=SEED)
    rounded = {k: round(v, digits) for k, v in (("value", mean), ("low", low), ("high", high))}
    return {**rounded, "n": len(values)}


def percent(values: Any) -> dict[str, float]:
    """`averaged`, of 0/1 values in %."""
    return averaged(100 * np.asarray(values, float), 2)


def gender(a: Answers) -> dict[str, Any]:
    """Accuracy of gender, of the faces found."""
    return percent((a.attributes[:, MALE] > 0.5) == a.label("male"))


def fairface(a: Answers) -> dict[str, Any]:
    """Gender, age class and class within one, for all and by race, and the reliability of the classes."""
    low = np.array([r.low for r in AGE_BINS.values()])
    names, race = list(AGE_BINS), a.label("race")
    truth = np.array([names.index(v) for v in a.label("age_bin")])
    guess = np.searchsorted(low, np.floor(a.years + 0.5), side="right") - 1
    by_class = np.add.reduceat(a.age, low.astype(int), axis=1)
    sure, likely = by_class.max(1), by_class.argmax(1)
    right = (a.attributes[:, MALE] > 0.5) == a.label("male")
    return {
        "found": percent(a.found),
        "gender": percent(right),
        "gender by race": {r: percent(right[race == r]) for r in RACES},
        "age class": percent(guess == truth),
        "age within one class": percent(abs(guess - truth) <= 1),
        "age class by race": {r: percent((guess == truth)[race == r]) for r in RACES},
        "expected calibration error of the likeliest class, %": round(
            100 * calibration.ece(sure, likely == truth), 2
        ),
    }


def ages(a: Answers) -> dict[str, Any]:
    """Error in years, gender, and how often the 80 % and 90 % intervals hold the label."""
    truth = a.label("age").astype(float)
    out: dict[str, Any] = {
        "found": percent(a.found),
        "age": averaged(abs(a.years - truth)),
        "gender": gender(a),
    }
    for share in (0.8, 0.9):
        low, high = a.interval(share)
        out[f"interval {share:.0%}"] = percent((low - 0.5 <= truth) & (truth <= high + 0.5))
    out["age by group"] = {
        name: averaged(abs(a.years - truth)[chosen])
        for name, (first, last) in AGE_GROUPS.items()
        if (chosen := (truth >= first) & (truth <= last)).sum() >= 20
    }
    return out


def london(a: Answers) -> dict[str, Any]:
    """Gender, age and expression of studio portraits."""
    known = np.array([v is not None for v in a.label("age")])
    smiling = a.label("expression") == "smiling"
    stated = np.isin(a.label("expression"), ["smiling", "neutral"])
    wanted = np.where(smiling, "happiness", "neutral")
    truth = a.label("age")[known].astype(float)
    return {
        "found": percent(a.found),
        "gender": gender(a),
        "age": averaged(abs(a.years[known] - truth)),
        "expression": percent((a.expressions == wanted)[stated]),
        "expression, smiling": percent((a.expressions == wanted)[smiling]),
    }


def false_matches(a: Answers, groups: dict[str, np.ndarray], at: float) -> dict[str, Any]:
    """Pairs of strangers above the threshold, % of all pairs within each group."""
    e = a.identity / np.linalg.norm(a.identity, axis=1, keepdims=True)
    out = {}
    for name, chosen in groups.items():
        s = e[chosen] @ e[chosen].T
        pairs = s[np.triu_indices(len(s), 1)]
        out[name] = {"value": round(100 * float((pairs >= at).mean()), 2), "pairs": len(pairs)}
    return out


def consistency(sets: list[Answers]) -> dict[str, Any]:
    """Answers that contradict each other, per 1,000 faces."""
    p = np.concatenate([a.attributes for a in sets])
    yes = {n: p[:, i] > 0.5 for i, n in enumerate(CELEBA40)}
    happy = np.concatenate([(a.expressions == "happiness") & (a.sureness > 0.7) for a in sets])
    hat, age = np.concatenate([a.hat for a in sets]), np.concatenate([a.years for a in sets])
    beard = yes["Goatee"] | yes["Mustache"] | yes["Sideburns"] | yes["5_o_Clock_Shadow"]
    counts = {
        "No_Beard with Goatee, Mustache, Sideburns or 5_o_Clock_Shadow": yes["No_Beard"] & beard,
        "happiness above .7 without Smiling": happy & ~yes["Smiling"],
        "Wearing_Hat without hat in the parsing, or the reverse": yes["Wearing_Hat"] != hat,
        "Young at 50 years and more": yes["Young"] & (age >= 50),
        "not Young below 30 years": ~yes["Young"] & (age < 30),
    }
    return {"faces": len(p), **{k: round(1000 * float(v.mean()), 1) for k, v in counts.items()}}


def measure(face: OnnxModel, detector: Detector, with_london: bool) -> dict[str, Any]:
    """All numbers of the page."""
    read = {
        name: read_set(name, rows_of(name), face, detector)
        for name in ("fairface", "utkface", "aaf", "celeba_wild")
    }
    wild = read["celeba_wild"]
    labels = np.array([list(v) for v in wild.label("attributes")], bool)
    at = match_threshold(face, fmr=0.01).similarity
    truth = read["utkface"].label("age").astype(float)
    out = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "networks": {"face": face.sha256, "detector": detector.model.sha256},  # type: ignore[attr-defined]
        "fairface": fairface(read["fairface"]),
        "utkface": ages(read["utkface"]),
        "aaf": ages(read["aaf"]),
        "celeba_wild": {
            "found": percent(wild.found),
            "attributes": percent(((wild.attributes > 0.5) == labels).mean(1)),
        },
        "false matches": {
            "threshold": round(at, 4),
            "FairFace": false_matches(
                read["fairface"], {r: read["fairface"].label("race") == r for r in RACES}, at
            ),
            "UTKFace": false_matches(
                read["utkface"], {n: (truth >= a) & (truth <= b) for n, (a, b) in AGE_GROUPS.items()}, at
            ),
        },
        "consistency": consistency([wild, read["aaf"], read["fairface"]]),
        "stability": stability(face, detector, photos(), seed=SEED),
    }
    if with_london:
        out["london"] = london(read_set("london", rows_of("london"), face, detector))
    return out


def photos() -> list[np.ndarray]:
    """100 set-aside CelebA photos and 100 of photos val, the first by name."""
    wild = sorted(rows_of("celeba_wild"), key=lambda r: r["name"])[:100]
    table = pq.read_table(settings.data_root() / "photos" / "val.parquet", columns=["name", "image"])
    return [
        decoded(r, Path("photos")) for r in (*wild, *sorted(table.to_pylist(), key=lambda r: r["name"])[:100])
    ]


def main() -> None:
    """Measure, and write the results and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", default=str(WEIGHTS / "mien.onnx"))
    parser.add_argument("--detector", default=str(WEIGHTS / "detector.onnx"))
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument("--london", action="store_true", help="also read the test set of studio portraits")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    face = OnnxModel(args.weights, threads=1)
    results = measure(face, Detector(OnnxModel(args.detector, threads=1)), args.london)
    out = args.out or RESULTS
    text = json.dumps(results, indent=1)
    out.write_text(text + "\n", encoding="utf-8")
    print(text)
    if out == RESULTS:
        PAGE.write_text(page(results, results["date"]), encoding="utf-8")


if __name__ == "__main__":
    main()
