r"""Average the weights of two exported networks, one of which was trained on from the other.

    mien train recipes/detector.py --out runs/detector --steps 3600 --start src/mien/weights/detector.onnx
    mien train recipes/detector.py --out runs/second --steps 3450 --seed 2 \
        --start runs/detector/model.safetensors
    mien export runs/second --out out/second.onnx
    python -m recipes.average_weights src/mien/weights/detector.onnx out/second.onnx \
        --share 0.8 --widened --out out/detector.onnx

A network that is trained on with other data gains there and loses elsewhere; between the two sets of weights
there are networks that keep most of both (WiSE-FT, Wortsman et al. 2022). Batch norms are folded in an
exported network, so no statistics have to be recomputed. Needs mien[train].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mien.errors import UsageError
from mien.inference.provenance import provenance_of, write_provenance
from mien.models.widen import place_within


def average(first: Path, second: Path, share: float, out: Path, *, widened: bool = False) -> None:
    """Write (1 - share) x first + share x second, with the provenance of both.

    The second may have been widened from the first (`recipes.detector.grow`): what the first does not have
    counts as in the second, and as zero where old channels would read new ones.

    Args:
        first: FILE.onnx with its provenance file.
        second: the same network with other weights.
        share: of the second, 0..1.
        out: FILE.onnx to write.
        widened: average only the weights that the second has more of; the others are the second's.

    Raises:
        UsageError: the share is out of range, or the files do not hold the same network or a wider one.
    """
    import onnx
    from onnx import numpy_helper

    if not 0 <= share <= 1:
        raise UsageError(f"share must lie between 0 and 1, not {share}")
    model = onnx.load(str(second))
    other = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(first)).graph.initializer}
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    if shapes.keys() != other.keys() or not all(_fits(other[n].shape, s) for n, s in shapes.items()):
        raise UsageError(f"{first} and {second} do not hold the same network; export both from one recipe")
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32:
            old = value.astype(np.float64)
            if not widened or old.shape != other[tensor.name].shape:
                place_within(old, other[tensor.name])
            mixed = (1 - share) * old + share * value.astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(mixed.astype(np.float32), tensor.name))
    out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(out))
    a, b = provenance_of(first), provenance_of(second)
    facts = {k: v for k, v in b.items() if k not in ("file", "sha256", "bytes", "parity", "scores")}
    facts["sets"] = a["sets"] | b["sets"]
    facts["data"] = list(dict.fromkeys([*a["data"], *b["data"]]))
    facts["averaged"] = [
        {"sha256": p["sha256"], "share": s} for p, s in ((a, round(1 - share, 6)), (b, share))
    ]
    facts["note"] = " ".join(n for n in (a.get("note"), b.get("note")) if n)
    write_provenance(out, **facts)


def _fits(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) == len(large) and all(a <= b for a, b in zip(small, large, strict=True))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="weight of the second network, 0..1")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--widened", action="store_true", help="average only the widened layers")
    given = parser.parse_args()
    average(given.first, given.second, given.share, given.out, widened=given.widened)


if __name__ == "__main__":
    main()
