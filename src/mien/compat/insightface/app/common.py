"""`insightface.app.common`: a face whose items are its attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

# Their names of predictions that mien does not give: None, as with those of their packs that lack a model.
ABSENT = frozenset(("landmark_3d_68", "landmark_2d_106", "mask", "liveness", "quality"))
_OPTIONAL = frozenset(("age", "gender", "pose", "embedding", "landmark_2d_68"))


class Face(dict[str, Any]):
    """One face: `face.bbox` and `face["bbox"]` are the same.

    `bbox` (4,) xyxy, `kps` (5, 2), `det_score`; and where requested: `age` whole years, `gender` 1 male 0
    female, `sex` "M" or "F", `pose` (pitch, yaw, roll) in degrees with mien's signs, `landmark_2d_68` (68,
    2), `embedding` (128,). `mien`: the face as mien has it.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name in ABSENT or name in _OPTIONAL:
            return None
        raise AttributeError(f"a face has no {name!r}; it has: {', '.join(self)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    @property
    def sex(self) -> str | None:
        """The letter "M" or "F"."""
        return None if self.gender is None else "M" if self.gender == 1 else "F"

    @property
    def embedding_norm(self) -> float | None:
        """1: mien's embeddings have length 1."""
        return None if self.embedding is None else float(np.linalg.norm(self.embedding))

    @property
    def normed_embedding(self) -> npt.NDArray[Any] | None:
        """The same as `embedding`."""
        return self.embedding  # type: ignore[no-any-return]
