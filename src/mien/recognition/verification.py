"""Similarity thresholds by false match rate, and the embedding of a face."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mien.errors import UsageError
from mien.inference.provenance import provenance_of
from mien.inference.weights_file import measured_sha256
from mien.io.image import Source
from mien.types import Face, Floats, HasPath, InferenceModel

if TYPE_CHECKING:
    from mien.inference.reader import Reader

VERIFY_FMR, CLUSTER_FMR = 1e-2, 1e-3


@dataclass(frozen=True, slots=True)
class MatchThreshold:
    """An operating point of verification: the minimum similarity of two faces of one person.

    Attributes:
        similarity: cosine, -1..1, inclusive.
        fmr: measured false-match rate, 0..1; None if unknown.
        source: where the numbers come from.
        fnmr: measured false-non-match rate, 0..1; None if unknown.
    """

    similarity: float
    fmr: float | None
    source: str
    fnmr: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """{"threshold", "false_match_rate", "false_non_match_rate", "source"}."""
        fmr, fnmr = (None if v is None else float(f"{v:.3g}") for v in (self.fmr, self.fnmr))
        return {
            "threshold": round(self.similarity, 4),
            "false_match_rate": fmr,
            "false_non_match_rate": fnmr,
            "source": self.source,
        }


def match_threshold(
    model: InferenceModel,
    *,
    fmr: float | None = None,
    threshold: float | None = None,
    default_fmr: float = VERIFY_FMR,
) -> MatchThreshold:
    """The operating point for a network.

    Args:
        model: the network, `Reader.model`.
        threshold: a similarity, used as it is.
        fmr: wanted false-match rate per comparison; needs rates that were measured with this network
            (weights/identity_fmr.json). Without `fmr` and `threshold`: `default_fmr`, or, without measured
            rates, the best threshold on LFW in the weights' provenance.
        default_fmr: see `fmr`.

    Raises:
        UsageError: both were given, a number is out of range, or nothing was measured for these weights.
    """
    from mien.recognition.error_rates import TABLE, Rates

    if fmr is not None and threshold is not None:
        raise UsageError("a threshold and a false-match rate set the same thing; give one of them")
    sha256 = measured_sha256(model)
    rates = Rates.of(sha256) if TABLE.is_file() and sha256 else None
    if threshold is not None:
        if not -1 <= threshold <= 1:
            raise UsageError(f"a threshold is a cosine, -1..1, not {threshold}")
        return (
            MatchThreshold(threshold, rates.fmr(threshold), "given", _missed(rates, threshold))
            if rates
            else MatchThreshold(threshold, None, "given")
        )
    if rates:
        wanted = default_fmr if fmr is None else fmr
        similarity = rates.threshold(wanted)
        return MatchThreshold(similarity, wanted, TABLE.name, _missed(rates, similarity))
    if fmr is not None:
        raise UsageError(
            f"no false-match rates were measured for these weights, so there is no threshold for {fmr:g};"
            " give a threshold"
        )
    scores = provenance_of(model.path).get("scores", {}) if isinstance(model, HasPath) else {}
    if "lfw" not in scores:
        raise UsageError(
            "no threshold was measured for these weights; give one: the minimum similarity of two faces of"
            " one person"
        )
    return MatchThreshold(
        float(scores["lfw"]["threshold"]), None, f"LFW, accuracy {scores['lfw']['accuracy']:.1f} %"
    )


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of `verify`.

    Attributes:
        same: whether the similarity reaches the threshold.
        similarity: cosine of the two embeddings, -1..1.
        threshold: the operating point, see `MatchThreshold`.
        faces: the compared face of each photo.
        counts: number of faces found in each photo.
    """

    same: bool
    similarity: float
    threshold: MatchThreshold
    faces: tuple[Face, Face]
    counts: tuple[int, int]


def verify(
    first: Source,
    second: Source,
    *,
    reader: Reader | None = None,
    fmr: float | None = None,
    threshold: float | None = None,
) -> Verification:
    """Compare the largest faces of two photos: do they show the same person?

    Args:
        first, second: paths, bytes, Pillow images or RGB arrays.
        reader: from `mien.load(tasks=["identity"])`. None loads one, which takes a quarter of a second; in a
            loop, pass your own.
        fmr: accepted false-match rate per comparison, 0..1.
        threshold: minimum similarity, -1..1, instead of `fmr`.

    Raises:
        PhotoError: a photo cannot be read.
        UsageError: a photo shows no face, or these weights have no measured threshold.
    """
    from mien.inference.reader import load

    reader = reader or load(tasks=["identity"])
    chosen = match_threshold(reader.model, fmr=fmr, threshold=threshold)
    readings = []
    for photo in (first, second):
        reading = reader(photo)
        if not reading:
            named = repr(reading.path) if reading.path else "a photo"
            raise UsageError(f"no face was found in {named}; try a larger or a clearer photo")
        readings.append(reading)
    faces = (readings[0][0], readings[1][0])
    similarity = float(embedding_of(faces[0]) @ embedding_of(faces[1]))
    return Verification(
        similarity >= chosen.similarity, similarity, chosen, faces, (len(readings[0]), len(readings[1]))
    )


def _missed(rates: Any, similarity: float) -> float:
    """The false-non-match rate at a similarity, interpolated linearly between the rows of the table."""
    rows = sorted(rates.rows, key=lambda r: r["threshold"])
    return float(np.interp(similarity, [r["threshold"] for r in rows], [r["fnmr"] for r in rows]))


def embedding_of(face: Face) -> Floats:
    """A face's embedding (d,), whichever identity task it comes from.

    Raises:
        UsageError: the face has none.
    """
    name = next((n for n in face if n.partition("@")[0].startswith("identity")), None)
    if name is None:
        raise UsageError("this face has no embedding; identity must be requested by name: tasks=['identity']")
    return face[name].embedding  # type: ignore[no-any-return]
