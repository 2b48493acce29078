"""Face morphs: blends of two training faces, labeled with a teacher's descriptor.

To learn a teacher's descriptors, a network needs many different faces, not names. The teacher labels a morph
as well as a photo, and there are as many morphs as pairs of faces. `python -m recipes.dlib_descriptors`
writes the table: the two faces, the weight of the second, and the descriptor. The pictures stay in their
sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from mien import geometry, settings
from mien.data.formats import pack
from mien.errors import MissingData
from mien.types import Pixels, Sample, View

SIDE, MARGIN = 128, 24  # pixels: a head's crop, and what is kept around it for moves of the picture
_HEAD = geometry.template_points(View((SIDE, SIDE), "head", (0.5,) * 3, (0.5,) * 3))
POINTS = _HEAD + MARGIN  # (5, 2), of every morph

# set -> how it is opened, for its training pictures; none of LFW's, which MTFL has many of
SETS: dict[str, Callable[[str], pack.PackDataset]] = {
    "celeba": pack.celeba,
    "utkface": pack.utkface,
    "mtfl": pack.mtfl,
    "celebamask": pack.celebamask,
    "helen68": pack.helen68,
    "afw68": pack.afw68,
}


def table() -> Path:
    """Path of the table of morphs, in the cache folder."""
    return settings.cache_root() / "blends.parquet"


class Faces:
    """The pictures of `SETS` by "set/name", all with the same alignment."""

    def __init__(self) -> None:
        self._sets = {name: open_set("train") for name, open_set in SETS.items()}
        self._rows = {
            f"{name}/{picture}": (name, i)
            for name, data in self._sets.items()
            for i, picture in enumerate(data.names)
            if not picture.startswith("lfw_")
        }
        self.names = list(self._rows)

    def __getitem__(self, name: str) -> Pixels:
        """(176, 176, 3): the head with its five points at `POINTS`; mirrored beyond the picture's edge."""
        of, i = self._rows[name]
        sample, side = self._sets[of][i], SIDE + 2 * MARGIN
        affine = geometry.fit_similarity(sample.points, POINTS)
        return cv2.warpAffine(
            sample.image, affine, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )  # type: ignore[return-value]

    def blend(self, first: str, second: str, weight: float) -> Pixels:
        """A morph: (1 - weight) of the first face and `weight` of the second, which may be ""."""
        a = self[first]
        return cv2.addWeighted(a, 1 - weight, self[second], weight, 0) if second else a  # type: ignore[return-value]


class FaceMorphs:
    """The morphs of the table, with centered descriptors as identity.

    Args:
        mean_fraction: see `pack.centered`.

    Raises:
        MissingData: there is no table; the message says how to make one.
    """

    def __init__(self, *, mean_fraction: float = 0.0) -> None:
        path = table()
        if not path.is_file():
            raise MissingData(f"expected {path}; make it with: python -m recipes.dlib_descriptors")
        rows = pq.read_table(path).to_pydict()
        self.name, self.faces = "face_morphs", Faces()
        self.rows = list(zip(rows["first"], rows["second"], rows["weight"], strict=True))
        values = pack.centered(np.asarray(rows["descriptor"], np.float32), mean_fraction)
        self.labels: list[Mapping[str, np.ndarray]] = [{"identity": v} for v in values]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int, /) -> Sample:
        return Sample(self.faces.blend(*self.rows[i]), dict(self.labels[i]), POINTS, str(i))
